//! `ouro-bench run`: all subjects side by side.

mod forwarding;
mod lane;
mod measure;
pub(crate) mod origins;
pub(crate) mod results;
pub(crate) mod scenario;
mod turns;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use self::measure::{Bench, Variant};
use self::origins::Origins;
use self::results::{Results, ScenarioResult, SubjectInfo, SubjectResult};
use self::scenario::{Exchange, Kind, Scenario};
use crate::machine::{self, Cores, INTERRUPTION, Machine};
use crate::origin::Wrong;
use crate::peers::{self, Found, Shape, Subject};
use crate::report;

/// A round is in a slow phase of the machine if its yardstick took so many times the best.
const SLOW: f64 = 1.3;

/// A round is in one too if the host took more than this share of a CPU.
const STOLEN: f64 = 0.02;

/// A proxy that waits for its CPU more than this share of the time is disturbed by others.
const DISTURBED: f64 = 0.05;

/// Most rounds and most seconds for one measurement.
const MAX_ROUNDS: u32 = 100;
const MAX_SECONDS: f64 = 600.0;

/// Options of `ouro-bench run`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// A smoke test: some scenarios, one short round; fails on errors, never on speed.
    #[arg(long)]
    quick: bool,
    /// Scenarios [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", value_parser = scenario::named)]
    scenario: Vec<Scenario>,
    /// Subjects [default: all that are on this machine].
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    subjects: Vec<Subject>,
    /// Rounds, in which the subjects take turns [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ROUNDS)))]
    rounds: Option<u32>,
    /// Length of one measurement, seconds [default: 2, or less where there are so many subjects that it would take too long].
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// Program of the proxy [default: `ouro` beside this program].
    #[arg(long, value_name = "PATH")]
    ouro: Option<PathBuf>,
    /// Program of another build of the proxy, which takes part as the subject `before`.
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// Do not use nginx as the origin even if it is here.
    #[arg(long)]
    own_origin: bool,
    /// Make every seventh answer of the built-in origin wrong, to see that this is noticed.
    #[arg(long, value_name = "HOW")]
    wrong: Option<Wrong>,
    /// Write the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write plots into this folder.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write all of these into this folder: results.json, results.md and the plots.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.05..=MAX_SECONDS).contains(number));
    number.ok_or_else(|| format!("expected a number from 0.05 to {MAX_SECONDS}"))
}

/// Runs and reports. Returns whether Ouro and the floors made no errors.
///
/// # Errors
/// When nothing can be measured at all, results cannot be written, or this process was asked to end.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let scenarios = options.scenarios();
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    let (machine, cores) = (Machine::describe(), Cores::find());
    machine::pin(&[cores.load]).map_err(|error| format!("cannot pin to CPU {}: {error}", cores.load))?;
    let folder = tempfile::Builder::new().prefix("ouro-bench-").tempdir();
    let folder = folder.map_err(|error| format!("temporary folder: {error}"))?;
    let (found, infos) = options.find_subjects();
    for info in &infos {
        let text = info.version.as_ref().or(info.skipped.as_ref());
        println!("{:8} {}", info.name, text.map_or("", String::as_str));
    }
    let count = |scenario: &Scenario| variants(scenario, &found).len() * rounds as usize;
    let measurements: usize = scenarios.iter().map(count).sum();
    let seconds = options.seconds.unwrap_or_else(|| turns::seconds(measurements, options.quick));
    let origins = Origins::start(
        folder.path(),
        cores.load,
        !options.own_origin && options.wrong.is_none(),
        options.wrong,
    )?;
    println!("{}", machine.line());
    if let Some(about) = machine.about_tcp() {
        println!("note: {about}");
    }
    println!(
        "{measurements} measurements in {rounds} rounds of {seconds} s, about {}; proxy on CPU {}, load and origin ({}) on CPU {}",
        turns::about(measurements, seconds),
        cores.proxy,
        origins.describe(),
        cores.load
    );
    if cores.shared() {
        println!("note: there is one CPU only, so proxy and load disturb each other");
    }
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut results = Results {
        started_unix_s: started.map_or(0, |time| time.as_secs()),
        command: report::command(),
        machine,
        cpus: [cores.proxy, cores.load],
        origin: origins.describe(),
        rounds,
        seconds,
        subjects: infos,
        scenarios: Vec::new(),
    };
    let time = Duration::from_secs_f64(seconds);
    let bench = Bench { origins: &origins, cores: &cores, folder: folder.path(), time };
    let start = Instant::now();
    let unfit = check_forwarding(&bench, &scenarios, &found, &mut results.subjects)?;
    for (number, scenario) in scenarios.iter().enumerate() {
        let place = format!("[{}/{} {:.0} s]", number + 1, scenarios.len(), start.elapsed().as_secs_f64());
        let result = run_scenario(&bench, scenario, &found, &unfit, rounds, &place)?;
        println!("\n{}", report::table::scenario(&result));
        results.scenarios.push(result);
        // After each scenario, so that an interrupted run leaves what it has.
        options.write(&results)?;
    }
    eprintln!("done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(own_are_sound(&results))
}

impl Options {
    fn scenarios(&self) -> Vec<Scenario> {
        let all: Vec<Scenario> = if self.scenario.is_empty() {
            scenario::ALL.iter().filter(|scenario| scenario.quick || !self.quick).copied().collect()
        } else {
            self.scenario.clone()
        };
        all.into_iter().map(|scenario| if self.quick { scenario.shortened() } else { scenario }).collect()
    }

    fn find_subjects(&self) -> (Vec<Found>, Vec<SubjectInfo>) {
        let mut wanted = self.subjects.clone();
        if wanted.is_empty() {
            wanted.extend(Subject::ALL.into_iter().filter(|subject| *subject != Subject::Before));
        }
        wanted.extend(self.before.is_some().then_some(Subject::Before));
        wanted.sort_unstable();
        wanted.dedup();
        let (mut found, mut infos) = (Vec::new(), Vec::new());
        for subject in wanted {
            let name = subject.to_string();
            let build = if subject == Subject::Before { &self.before } else { &self.ouro };
            match peers::find(subject, build.as_deref()) {
                Ok(one) => {
                    let version = Some(one.version.clone());
                    infos.push(SubjectInfo { name, version, skipped: None, adds: Vec::new() });
                    found.push(one);
                }
                Err(why) => {
                    infos.push(SubjectInfo { name, version: None, skipped: Some(why), adds: Vec::new() });
                }
            }
        }
        (found, infos)
    }

    fn write(&self, results: &Results) -> Result<(), String> {
        let out = |name: &str| self.out.as_ref().map(|folder| folder.join(name));
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        for path in self.json.iter().cloned().chain(out("results.json")) {
            report::write_json(&path, results)?;
        }
        for path in self.markdown.iter().cloned().chain(out("results.md")) {
            report::write(&path, &report::markdown::page(results))?;
        }
        for folder in self.svg.iter().chain(&self.out) {
            report::svg::write_all(results, folder)?;
        }
        Ok(())
    }
}

/// Who must not be measured in a shape, and why.
type Unfit = (Subject, Shape, String);

/// Lets every subject show what it sends to the origin, in every shape that there is something to measure of.
fn check_forwarding(
    bench: &Bench<'_>,
    scenarios: &[Scenario],
    found: &[Found],
    infos: &mut [SubjectInfo],
) -> Result<Vec<Unfit>, String> {
    let mut unfit = Vec::new();
    for shape in [Shape::Http, Shape::Routes] {
        if !scenarios.iter().any(|scenario| scenario.shape() == shape) {
            continue;
        }
        for one in found {
            machine::check_interrupt()?;
            match bench.check_forwarding(one, shape) {
                Ok(added) => {
                    for info in infos.iter_mut().filter(|info| info.name == one.subject.name()) {
                        let new: Vec<String> =
                            added.iter().filter(|text| !info.adds.contains(text)).cloned().collect();
                        new.iter().for_each(|text| println!("{:8} adds {text}", info.name));
                        info.adds.extend(new);
                    }
                }
                Err(why) if why == INTERRUPTION => return Err(why),
                Err(why) => unfit.push((one.subject, shape, why)),
            }
        }
    }
    Ok(unfit)
}

fn run_scenario(
    bench: &Bench<'_>,
    scenario: &Scenario,
    found: &[Found],
    unfit: &[Unfit],
    rounds: u32,
    place: &str,
) -> Result<ScenarioResult, String> {
    let variants = variants(scenario, found);
    let mut result = ScenarioResult {
        name: scenario.name,
        title: scenario.title,
        unit: unit(scenario),
        subjects: variants
            .iter()
            .map(|variant| {
                let is_about = |one: &&Unfit| one.0 == variant.found.subject && one.1 == scenario.shape();
                let skipped = unfit.iter().find(is_about).map(|one| one.2.clone());
                SubjectResult { name: variant.name.clone(), skipped, ..SubjectResult::default() }
            })
            .collect(),
        notes: Vec::new(),
    };
    turns::take(&mut result, rounds, |who, round| {
        eprint!("{place} {}, round {round} of {rounds}, {} … ", scenario.name, unit(scenario));
        let taking_part: Vec<&Variant> = who.iter().map(|index| &variants[*index]).collect();
        let rounds = bench.measure(scenario, &taking_part);
        for (variant, round) in taking_part.iter().zip(&rounds) {
            let value = round.as_ref().map_or_else(
                |_| "skipped".into(),
                |round| round.value().map_or_else(|| "-".into(), |value| format!("{value:.2}")),
            );
            eprint!(" {} {value}", variant.name);
        }
        eprintln!();
        rounds
    })?;
    let base = if scenario.kind == Kind::Workers { "ouro x1" } else { Subject::Ouro.name() };
    result.summarise(base);
    result.notes = notes(&result);
    result.notes.extend(no_floor(scenario, found));
    Ok(result)
}

const fn unit(scenario: &Scenario) -> &'static str {
    if matches!(scenario.kind, Kind::Idle { .. }) { "B/connection" } else { "CPU us/request" }
}

/// Who takes part, and with how many workers.
fn variants(scenario: &Scenario, found: &[Found]) -> Vec<Variant> {
    let one = |found: &Found| Variant { name: found.subject.to_string(), found: found.clone(), workers: 1 };
    match scenario.kind {
        Kind::Load { .. } => found.iter().map(one).collect(),
        // A relay has no idle connections that served something, but it shows what a connection costs the runtime.
        Kind::Idle { .. } => {
            found.iter().filter(|found| !matches!(found.subject, Subject::Direct)).map(one).collect()
        }
        Kind::Workers => found
            .iter()
            .filter(|found| found.subject == Subject::Ouro)
            .flat_map(|found| [1, 2].map(|workers| (found, workers)))
            .map(|(found, workers)| Variant {
                name: format!("{} x{workers}", found.subject),
                found: found.clone(),
                workers,
            })
            .collect(),
    }
}

/// What a reader should know.
fn notes(result: &ScenarioResult) -> Vec<String> {
    let (mut notes, mut slow, mut disturbed) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = || result.subjects.iter().flat_map(|subject| &subject.rounds);
    let best = rounds().map(|round| round.yardstick_ms).fold(f64::INFINITY, f64::min);
    for subject in &result.subjects {
        if let Some(why) = &subject.skipped {
            notes.push(format!("{}: {}", subject.name, why.trim().replace('\n', " | ")));
        }
        if let Some(round) = subject.left_out_after {
            notes.push(format!(
                "{}: too many errors in round {round}, so it was left out of the rounds after that",
                subject.name
            ));
        }
        for round in &subject.rounds {
            let place = format!("{}, round {}", subject.name, round.number);
            for example in &round.examples {
                notes.push(format!("{place}: {example}"));
            }
            if round.closed > 0 {
                notes.push(format!("{place}: closed {} connections that were to be kept", round.closed));
            }
            // All of a round meet the same machine.
            let text = format!("round {} ({:.1})", round.number, round.yardstick_ms / best);
            if round.yardstick_ms > SLOW * best && !slow.contains(&text) {
                slow.push(text);
            }
            if let Some(share) = round.stolen.filter(|share| *share > STOLEN) {
                slow.push(format!("{place} ({:.0} % of a CPU taken by the host)", share * 100.0));
            }
            // The second of two workers shares its CPU with the load.
            let waited =
                round.proxy_waited.filter(|waited| *waited > DISTURBED && !subject.name.ends_with(" x2"));
            disturbed.extend(waited.map(|waited| format!("{place} ({:.0} %)", waited * 100.0)));
        }
    }
    if !slow.is_empty() {
        notes.push(format!("slow phase of the machine (yardstick / best round): {}", slow.join("; ")));
    }
    if !disturbed.is_empty() {
        notes.push(format!(
            "disturbed by others (share of the time waiting for the CPU): {}",
            disturbed.join("; ")
        ));
    }
    notes
}

/// Why the relay is no floor where it is none.
fn no_floor(scenario: &Scenario, found: &[Found]) -> Option<String> {
    let why = match scenario.kind {
        Kind::Load { exchange: Exchange::Close, .. } => {
            "opens two connections for each request, because it cannot keep one to the origin as the proxies do"
        }
        Kind::Idle { .. } => {
            "has a connection to the origin for each of its clients', and the proxies share a few among all of them"
        }
        _ => return None,
    };
    let has_relay = found.iter().any(|found| found.subject == Subject::Relay);
    has_relay.then(|| format!("relay: no floor here: it {why}"))
}

/// Whether what is ours was measured and made no errors.
fn own_are_sound(results: &Results) -> bool {
    let own =
        |name: &str| Subject::ALL.iter().any(|subject| subject.is_own() && name.starts_with(subject.name()));
    let mut sound = true;
    for info in results.subjects.iter().filter(|info| own(&info.name)) {
        if let Some(why) = &info.skipped {
            eprintln!("{}: {why}", info.name);
            sound = false;
        }
    }
    for scenario in &results.scenarios {
        for subject in scenario.subjects.iter().filter(|subject| own(&subject.name)) {
            if subject.errors > 0 || subject.skipped.is_some() {
                eprintln!("{}, {}: {} errors", scenario.name, subject.name, subject.errors);
                sound = false;
            }
        }
    }
    sound
}
