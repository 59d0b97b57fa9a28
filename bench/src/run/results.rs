//! What a run has found, as it is written down.

use serde::Serialize;

use crate::machine::Machine;

/// Everything of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    /// When it began, seconds since 1970.
    pub(crate) started_unix_s: u64,
    /// The command line.
    pub(crate) command: String,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// CPU of the proxies, and CPU of load and origin.
    pub(crate) cpus: [usize; 2],
    /// Who answered.
    pub(crate) origin: &'static str,
    /// Rounds of each scenario.
    pub(crate) rounds: u32,
    /// Length of one measurement, seconds.
    pub(crate) seconds: f64,
    /// Who was measured.
    pub(crate) subjects: Vec<SubjectInfo>,
    /// What was measured.
    pub(crate) scenarios: Vec<ScenarioResult>,
}

/// Who was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SubjectInfo {
    /// Name.
    pub(crate) name: String,
    /// What it says of itself; none if it is not here.
    pub(crate) version: Option<String>,
    /// Why it was not measured.
    pub(crate) skipped: Option<String>,
}

/// A scenario, all subjects.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ScenarioResult {
    /// Name.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) title: &'static str,
    /// What `value` of a subject is: microseconds of CPU per request, or bytes per connection.
    pub(crate) unit: &'static str,
    /// One for each subject, in the order of the report.
    pub(crate) subjects: Vec<SubjectResult>,
    /// What a reader should know before believing the numbers.
    pub(crate) notes: Vec<String>,
}

/// A subject in a scenario.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SubjectResult {
    /// Name.
    pub(crate) name: String,
    /// Why there are no numbers.
    pub(crate) skipped: Option<String>,
    /// Median over the rounds.
    pub(crate) value: Option<f64>,
    /// Smallest and largest round.
    pub(crate) spread: Option<[f64; 2]>,
    /// The value of Ouro divided by this one: below 1 where Ouro needs less.
    pub(crate) ouro_ratio: Option<f64>,
    /// Failed exchanges of all rounds, warm-up included.
    pub(crate) errors: u64,
    /// Medians of the other numbers.
    pub(crate) median: Option<Round>,
    /// The rounds one by one.
    pub(crate) rounds: Vec<Round>,
}

/// One measurement.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Round {
    /// CPU of the proxy for one request, microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Resident memory for one idle connection, bytes.
    pub(crate) bytes_per_connection: Option<f64>,
    /// Requests in a second.
    pub(crate) requests_per_s: f64,
    /// Latencies, microseconds.
    pub(crate) p50_us: Option<f64>,
    /// 99 of 100 were faster.
    pub(crate) p99_us: Option<f64>,
    /// 999 of 1000 were faster.
    pub(crate) p999_us: Option<f64>,
    /// Resident memory under load, bytes.
    pub(crate) rss_bytes: Option<f64>,
    /// Share of the time that the proxy was on a CPU.
    pub(crate) proxy_cpu: Option<f64>,
    /// Share of the proxy's CPU time that it spent in the kernel.
    pub(crate) kernel_share: Option<f64>,
    /// Share of the time that it was ready and waited for one.
    pub(crate) proxy_waited: Option<f64>,
    /// CPUs that the host of a virtual machine took away meanwhile, as a share of one.
    pub(crate) stolen: Option<f64>,
    /// Time for a fixed piece of work before the round, milliseconds.
    pub(crate) yardstick_ms: f64,
    /// Failed exchanges.
    pub(crate) errors: u64,
    /// Some of them in words.
    pub(crate) examples: Vec<String>,
    /// Connections that the proxy closed though they were to be kept.
    pub(crate) closed: u64,
}

impl Round {
    /// The number that the scenario is about.
    pub(crate) fn value(&self) -> Option<f64> {
        self.bytes_per_connection.or(self.cpu_us)
    }

    fn median(rounds: &[Self]) -> Self {
        let of = |number: fn(&Self) -> Option<f64>| median(rounds.iter().filter_map(number).collect());
        Self {
            cpu_us: of(|round| round.cpu_us),
            bytes_per_connection: of(|round| round.bytes_per_connection),
            requests_per_s: of(|round| Some(round.requests_per_s)).unwrap_or_default(),
            p50_us: of(|round| round.p50_us),
            p99_us: of(|round| round.p99_us),
            p999_us: of(|round| round.p999_us),
            rss_bytes: of(|round| round.rss_bytes),
            proxy_cpu: of(|round| round.proxy_cpu),
            kernel_share: of(|round| round.kernel_share),
            proxy_waited: of(|round| round.proxy_waited),
            stolen: of(|round| round.stolen),
            yardstick_ms: of(|round| Some(round.yardstick_ms)).unwrap_or_default(),
            errors: rounds.iter().map(|round| round.errors).sum(),
            examples: rounds.iter().flat_map(|round| round.examples.clone()).collect(),
            closed: rounds.iter().map(|round| round.closed).sum(),
        }
    }
}

impl SubjectResult {
    /// Medians and spread of the rounds that there are.
    pub(crate) fn summarise(&mut self) {
        if self.rounds.is_empty() {
            return;
        }
        let median = Round::median(&self.rounds);
        self.value = median.value();
        self.errors = median.errors;
        let values = || self.rounds.iter().filter_map(Round::value);
        self.spread =
            self.value.map(|value| [values().fold(value, f64::min), values().fold(value, f64::max)]);
        self.median = Some(median);
    }
}

impl ScenarioResult {
    /// Summarises every subject and compares them with `base`.
    pub(crate) fn summarise(&mut self, base: &str) {
        self.subjects.iter_mut().for_each(SubjectResult::summarise);
        let base =
            self.subjects.iter().find(|subject| subject.name == base).and_then(|subject| subject.value);
        for subject in &mut self.subjects {
            subject.ouro_ratio =
                base.zip(subject.value.filter(|value| *value > 0.0)).map(|(one, two)| one / two);
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Results with two subjects, of which one was not there.
    pub(crate) fn sample() -> Results {
        let round = |cpu_us: f64| Round { cpu_us: Some(cpu_us), p50_us: Some(700.0), ..Round::default() };
        let subject = |name: &str, rounds: &[f64]| SubjectResult {
            name: name.into(),
            rounds: rounds.iter().map(|cpu_us| round(*cpu_us)).collect(),
            skipped: rounds.is_empty().then(|| "it's <not> & installed".into()),
            ..SubjectResult::default()
        };
        let mut scenario = ScenarioResult {
            name: "small",
            title: "small responses",
            unit: "CPU us/request",
            subjects: vec![
                subject("ouro", &[3.0, 2.0, 9.0]),
                subject("nginx", &[4.0, 8.0]),
                subject("caddy", &[]),
            ],
            notes: vec!["a note".into()],
        };
        scenario.summarise("ouro");
        Results {
            started_unix_s: 0,
            command: "ouro-bench run".into(),
            machine: Machine::describe(),
            cpus: [0, 1],
            origin: "built-in",
            rounds: 3,
            seconds: 1.0,
            subjects: vec![],
            scenarios: vec![scenario],
        }
    }

    #[test]
    fn medians_spreads_and_ratios() {
        let results = sample();
        let [ouro, nginx, caddy] = &results.scenarios[0].subjects[..] else { panic!() };
        assert_eq!((ouro.value, ouro.spread, ouro.ouro_ratio), (Some(3.0), Some([2.0, 9.0]), Some(1.0)));
        assert_eq!((nginx.value, nginx.ouro_ratio), (Some(6.0), Some(0.5)));
        assert_eq!((caddy.value, caddy.ouro_ratio), (None, None));
    }
}
