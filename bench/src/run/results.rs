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
    /// Fields that it adds to messages beside `x-forwarded-for` and `x-forwarded-proto`, which all add.
    pub(crate) adds: Vec<String>,
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
    /// The round with so many errors that it was left out of the rounds after it.
    pub(crate) left_out_after: Option<u32>,
    /// Median over the rounds.
    pub(crate) value: Option<f64>,
    /// Smallest and largest round.
    pub(crate) spread: Option<[f64; 2]>,
    /// Median over the rounds of [`Round::ouro_ratio`]: below 1 where Ouro needs less.
    pub(crate) ouro_ratio: Option<f64>,
    /// Smallest and largest of these.
    pub(crate) ouro_ratio_spread: Option<[f64; 2]>,
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
    /// Which round, from 1; 0 in a median.
    pub(crate) number: u32,
    /// Ouro's value in this round divided by this one: the median over the slices where there are any.
    pub(crate) ouro_ratio: Option<f64>,
    /// CPU of the proxy for one request, microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// The same slice by slice, in the order in which they were measured.
    pub(crate) slices_us: Vec<f64>,
    /// Resident memory for one idle connection, bytes.
    pub(crate) bytes_per_connection: Option<f64>,
    /// Exchanges that ended as they should; all rounds together in a median.
    pub(crate) done: u64,
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

    /// What `self` needs divided by what `other` needs, both measured in the same round.
    ///
    /// Slices that belong together are compared first: they were a fraction of a second apart.
    fn ratio_to(&self, other: &Self) -> Option<f64> {
        let ratio = |(own, other): (f64, f64)| Some(own / other).filter(|ratio| ratio.is_finite());
        let slices = self.slices_us.iter().copied().zip(other.slices_us.iter().copied());
        median(slices.filter_map(ratio).collect()).or_else(|| ratio((self.value()?, other.value()?)))
    }

    fn median(rounds: &[Self]) -> Self {
        let of = |number: fn(&Self) -> Option<f64>| median(rounds.iter().filter_map(number).collect());
        Self {
            number: 0,
            ouro_ratio: of(|round| round.ouro_ratio),
            cpu_us: of(|round| round.cpu_us),
            slices_us: Vec::new(),
            done: rounds.iter().map(|round| round.done).sum(),
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
    /// Medians and spreads of the rounds that there are.
    fn summarise(&mut self) {
        if self.rounds.is_empty() {
            return;
        }
        let median = Round::median(&self.rounds);
        self.value = median.value();
        self.errors = median.errors;
        self.spread = spread(self.rounds.iter().filter_map(Round::value));
        self.ouro_ratio = median.ouro_ratio;
        self.ouro_ratio_spread = spread(self.rounds.iter().filter_map(|round| round.ouro_ratio));
        self.median = Some(median);
    }

    fn round(&self, number: u32) -> Option<&Round> {
        self.rounds.iter().find(|round| round.number == number)
    }
}

impl ScenarioResult {
    /// Compares every subject with `base`, round by round, and summarises.
    ///
    /// The two of a pair were measured in the same round, so a phase in which the machine is slower falls out of their
    /// ratio; it would not fall out of the ratio of two medians, which may come from different rounds.
    pub(crate) fn summarise(&mut self, base: &str) {
        let base = self.subjects.iter().find(|subject| subject.name == base).cloned();
        for subject in &mut self.subjects {
            for round in &mut subject.rounds {
                let base = base.as_ref().and_then(|base| base.round(round.number));
                round.ouro_ratio = base.and_then(|base| base.ratio_to(round));
            }
            subject.summarise();
        }
    }
}

fn spread(values: impl Iterator<Item = f64> + Clone) -> Option<[f64; 2]> {
    let least = values.clone().reduce(f64::min)?;
    Some([least, values.reduce(f64::max)?])
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

    fn round(number: u32, cpu_us: f64) -> Round {
        Round { number, cpu_us: Some(cpu_us), p50_us: Some(700.0), ..Round::default() }
    }

    /// Results with two subjects, of which one was not there.
    pub(crate) fn sample() -> Results {
        let subject = |name: &str, rounds: &[f64]| SubjectResult {
            name: name.into(),
            rounds: rounds.iter().zip(1..).map(|(cpu_us, number)| round(number, *cpu_us)).collect(),
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
        // 3/4 and 2/8: of its two rounds, not of the median of Ouro's three.
        assert_eq!((nginx.value, nginx.ouro_ratio), (Some(6.0), Some(0.5)));
        assert_eq!(nginx.ouro_ratio_spread, Some([0.25, 0.75]));
        assert_eq!((caddy.value, caddy.ouro_ratio, caddy.ouro_ratio_spread), (None, None, None));
    }

    #[test]
    fn slices_that_belong_together_are_compared() {
        let mut scenario = sample().scenarios.remove(0);
        // The machine changes its speed between the slices, and one slice of Ouro was disturbed.
        let sliced = |slices: &[f64]| Round { slices_us: slices.to_vec(), ..round(1, 5.0) };
        scenario.subjects[0].rounds = vec![sliced(&[8.0, 16.0, 90.0, 4.0, f64::NAN])];
        scenario.subjects[1].rounds = vec![sliced(&[10.0, 20.0, 10.0, 5.0, 10.0])];
        scenario.summarise("ouro");
        let ratio = scenario.subjects[1].ouro_ratio.unwrap();
        // Of 0.8, 0.8, 9 and 0.8; the values of the round would say 1.
        assert!((ratio - 0.8).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn a_slow_phase_of_the_machine_falls_out_of_the_ratio() {
        let mut scenario = sample().scenarios.remove(0);
        // Ouro always needs 0.8 of the other, but each round finds another machine, and one round of Ouro is missing.
        scenario.subjects[0].rounds = vec![round(1, 8.0), round(3, 16.0), round(4, 24.0)];
        scenario.subjects[1].rounds = vec![round(1, 10.0), round(2, 90.0), round(3, 20.0), round(4, 30.0)];
        scenario.summarise("ouro");
        let other = &scenario.subjects[1];
        assert_eq!(other.rounds[1].ouro_ratio, None);
        assert!((other.ouro_ratio.unwrap() - 0.8).abs() < 1e-9, "{:?}", other.ouro_ratio);
        let [least, most] = other.ouro_ratio_spread.unwrap();
        assert!((least - 0.8).abs() < 1e-9 && (most - 0.8).abs() < 1e-9);
        assert_eq!(other.value, Some(25.0), "the ratio of the medians would be 0.64");
    }
}
