//! The simulator: whole proxies on virtual time, with faults. See docs/simulator.md.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a simulation that cannot begin ends with a panic
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // small numbers
#![allow(missing_docs, unreachable_pub)] // not a library

mod content;
mod http;
mod instance;
mod process;
mod report;
mod roles;
mod scenario;
mod simulation;
mod states;
mod tcp;
mod timeouts;
mod wires;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use nix::sched::{CloneFlags, unshare};
use ouro::base::mutation::{self, Mutation};

use self::report::{Failure, Totals};
use self::scenario::Scenario;
use self::simulation::{Simulation, Summary};

/// Seeds that once found something, with their scenarios.
const REGRESSIONS: &str = include_str!("seeds.txt");

/// Seeds within which a deliberate bug must be noticed.
const MUTATION_SEEDS: u64 = 2000;

/// Simulates proxies under faults; every seed is another run, and the same one each time.
#[derive(Parser)]
#[command(name = "cargo sim")]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Only this scenario; without, they take turns.
    #[arg(long)]
    scenario: Option<String>,
    /// Print everything that happens (with one seed).
    #[arg(long)]
    trace: bool,
    /// Threads; one per CPU without.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on until there are so many failures.
    #[arg(long, default_value_t = 1)]
    failures: usize,
    /// Say in which states sessions were dropped and driven again, and in which never.
    #[arg(long)]
    coverage: bool,
    /// Run the seeds that have found something before, too.
    #[arg(long)]
    regressions: bool,
    /// Look whether each of the deliberate bugs is noticed.
    #[arg(long)]
    mutations: bool,
    /// Run with this deliberate bug.
    #[arg(long)]
    mutation: Option<String>,
}

type Make = fn(u64) -> Box<dyn Scenario>;

/// A scenario: its name, and how it begins.
type Kind = (&'static str, Make);

const SCENARIOS: &[Kind] = &[
    ("tcp", |seed| Box::new(tcp::TcpScenario::new(seed))),
    ("http", |seed| Box::new(http::HttpScenario::new(seed, false))),
    ("hostile", |seed| Box::new(http::HttpScenario::new(seed, true))),
    ("timeouts", |seed| Box::new(timeouts::TimeoutScenario::new(seed))),
];

/// Runs one seed; a panic is a failure like any other.
fn run(seed: u64, (name, make): Kind, traced: Option<bool>) -> Summary {
    let open = open_descriptors();
    let mut summary = run_world(seed, (name, make), traced);
    let left = open_descriptors() - open;
    if left != 0 && summary.violations.is_empty() {
        summary.violations.push(format!("{left} descriptors are left behind"));
    }
    summary
}

/// Descriptors of this thread's table.
fn open_descriptors() -> i64 {
    std::fs::read_dir("/proc/thread-self/fd").map_or(0, |all| all.count() as i64)
}

fn run_world(seed: u64, (name, make): Kind, traced: Option<bool>) -> Summary {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name.len() as u64;
    let result = catch_unwind(AssertUnwindSafe(|| Simulation::new(mixed, make(mixed ^ 0x55), traced).run()));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let trace = ouro::ring::sim::uninstall().map(|world| world.trace().map(String::from).collect());
        Summary {
            violations: vec![format!("panic: {}", text.unwrap_or_default())],
            trace: trace.unwrap_or_default(),
            ..Summary::default()
        }
    })
}

/// Runs seeds on several threads until there are enough failures. The failures come in the order of their seeds.
fn run_all(runs: &[(u64, Kind)], threads: usize, enough: usize, trace: bool) -> (Totals, Vec<Failure>) {
    let (next, totals, failures) =
        (AtomicU64::new(0), Mutex::new(Totals::default()), Mutex::new(Vec::<Failure>::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, runs.len().max(1)) {
            scope.spawn(|| {
                // A table of descriptors of its own: their numbers must not depend on other threads.
                unshare(CloneFlags::CLONE_FILES).unwrap();
                while failures.lock().unwrap().len() < enough {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some((seed, kind)) = runs.get(n as usize) else { return };
                    let summary = run(*seed, *kind, trace.then_some(true));
                    totals.lock().unwrap().add(&summary);
                    if !summary.violations.is_empty() {
                        let failure =
                            Failure { seed: *seed, scenario: kind.0, violations: summary.violations };
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort_by_key(|failure| failure.seed);
    (totals.into_inner().unwrap(), failures)
}

/// Looks which seed notices each deliberate bug. Says whether all are noticed.
fn check_mutations(kinds: &[Kind], threads: usize) -> bool {
    let mut all = true;
    for mutation in mutation::ALL {
        mutation::set(Some(*mutation));
        let runs: Vec<_> = (1..=MUTATION_SEEDS).map(|seed| (seed, kind_of(seed, kinds))).collect();
        let (_, failures) = run_all(&runs, threads, 1, false);
        match failures.first() {
            Some(failure) => {
                let first = failure.violations[0].lines().next().unwrap_or_default();
                let first: String = first.chars().take(90).collect();
                println!("{mutation:<26?} {:>5} {:<5} {first}", failure.seed, failure.scenario);
            }
            None => {
                all = false;
                println!("{mutation:<26?} is not noticed within {MUTATION_SEEDS} seeds");
            }
        }
    }
    mutation::set(None);
    all
}

/// Scenarios take turns. That with the most states has every second one.
fn kind_of(seed: u64, kinds: &[Kind]) -> Kind {
    let most = kinds.iter().find(|(name, _)| *name == "http").filter(|_| seed % 2 == 1);
    *most.unwrap_or_else(|| &kinds[(seed / 2 % kinds.len() as u64) as usize])
}

/// The seeds of [`REGRESSIONS`].
fn regressions() -> impl Iterator<Item = (u64, Kind)> {
    REGRESSIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut words = line.split_whitespace();
        let (name, seed) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let kind = SCENARIOS.iter().find(|(known, _)| *known == name).expect("a scenario of seeds.txt");
        (seed.parse().expect("a seed of seeds.txt"), *kind)
    })
}

fn named(name: &str) -> Option<Mutation> {
    mutation::ALL.iter().find(|mutation| format!("{mutation:?}").eq_ignore_ascii_case(name)).copied()
}

fn main() {
    let arguments = Arguments::parse();
    let wanted = |(name, _): &&Kind| arguments.scenario.as_ref().is_none_or(|wanted| wanted == name);
    let kinds: Vec<Kind> = SCENARIOS.iter().filter(wanted).copied().collect();
    let mutation = arguments.mutation.as_deref().map(|name| named(name).ok_or(name));
    if kinds.is_empty() || matches!(mutation, Some(Err(_))) {
        let names: Vec<_> = SCENARIOS.iter().map(|(name, _)| name).collect();
        eprintln!("there is no such scenario or mutation; there are {names:?} and {:?}", mutation::ALL);
        std::process::exit(2);
    }
    if !arguments.trace {
        // Panics are reported as failures are.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cpus);
    if arguments.mutations {
        std::process::exit(i32::from(!check_mutations(&kinds, threads)));
    }
    mutation::set(mutation.and_then(Result::ok));
    let begin = Instant::now();
    let mut runs: Vec<_> = if arguments.regressions { regressions().collect() } else { Vec::new() };
    let end = arguments.seed.saturating_add(arguments.seeds);
    runs.extend((arguments.seed..end).map(|seed| (seed, kind_of(seed, &kinds))));
    let (totals, failures) = run_all(&runs, threads, arguments.failures, arguments.trace);
    totals.print(arguments.coverage);
    for failure in &failures {
        let kind = SCENARIOS.iter().find(|(name, _)| *name == failure.scenario).unwrap();
        failure.print(&run(failure.seed, *kind, Some(false)));
    }
    println!("{} runs in {:.1} s, {} failed", runs.len(), begin.elapsed().as_secs_f64(), failures.len());
    std::process::exit(i32::from(!failures.is_empty()));
}
