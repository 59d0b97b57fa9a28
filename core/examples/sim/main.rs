//! The simulator: whole proxies on virtual time, with faults. See docs/simulator.md.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a simulation that cannot begin ends with a panic
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // small numbers
#![allow(missing_docs, unreachable_pub)] // not a library

mod content;
mod http;
mod simulation;
mod tcp;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;

use self::simulation::{Scenario, Simulation, Summary};

/// Lines of the trace that a failure shows.
const TRACE_SHOWN: usize = 30;

#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds to run.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Threads.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on after a failure, up to so many.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

type Make = fn(u64) -> Box<dyn Scenario>;

const SCENARIOS: &[(&str, Make)] = &[
    ("tcp", |seed| Box::new(tcp::TcpScenario::new(seed))),
    ("http", |seed| Box::new(http::HttpScenario::new(seed))),
];

/// Runs one seed; a panic is a failure like any other.
fn run(seed: u64, (name, make): (&str, Make), traced: Option<bool>) -> Summary {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name.len() as u64;
    let result = catch_unwind(AssertUnwindSafe(|| Simulation::new(mixed, make(mixed ^ 0x55), traced).run()));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let trace = ouro::ring::sim::uninstall().map(|world| world.trace().map(String::from).collect());
        Summary {
            violations: vec![format!("panic: {}", text.unwrap_or_default())],
            counts: Vec::new(),
            trace: trace.unwrap_or_default(),
            virtual_ms: 0,
            turns: 0,
        }
    })
}

fn main() {
    let arguments = Arguments::parse();
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, _)| arguments.scenario.as_ref().is_none_or(|wanted| wanted == name))
        .copied()
        .collect();
    if chosen.is_empty() {
        eprintln!("no such scenario; there are: {:?}", SCENARIOS.map_names());
        std::process::exit(2);
    }
    if !arguments.trace {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let begin = Instant::now();
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed.saturating_add(arguments.seeds);
    let failed = Mutex::new(Vec::new());
    let totals = Mutex::new(std::collections::BTreeMap::<String, u64>::new());
    let threads = arguments.threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, usize::from).min(arguments.seeds as usize)
    });
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // A table of descriptors of its own: their numbers must not depend on other threads.
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.lock().unwrap().len() >= arguments.failures {
                        return;
                    }
                    let scenario = chosen[(seed % chosen.len() as u64) as usize];
                    let summary = run(seed, scenario, arguments.trace.then_some(true));
                    let mut totals = totals.lock().unwrap();
                    *totals.entry("runs".into()).or_default() += 1;
                    *totals.entry("virtual ms".into()).or_default() += summary.virtual_ms;
                    *totals.entry("turns".into()).or_default() += summary.turns;
                    for (what, count) in &summary.counts {
                        *totals.entry(what.clone()).or_default() += count;
                    }
                    if !summary.violations.is_empty() {
                        failed.lock().unwrap().push((seed, scenario, summary.violations));
                    }
                }
            });
        }
    });
    for (what, count) in totals.into_inner().unwrap() {
        println!("{count:>12}  {what}");
    }
    let failed = failed.into_inner().unwrap();
    for (seed, scenario, violations) in &failed {
        let again = run(*seed, *scenario, Some(false));
        println!("\nseed {seed} ({}) fails:", scenario.0);
        let lines: Vec<_> = again.trace.iter().filter(|line| !is_detail(line)).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TRACE_SHOWN)) {
            println!("  {line}");
        }
        for violation in &again.violations {
            println!("  => {violation}");
        }
        if again.violations.is_empty() {
            println!("  => not when it is run again: the simulation is not deterministic: {violations:?}");
        }
        println!("  again: cargo sim --seed {seed} --scenario {} --trace", scenario.0);
    }
    println!("{} seeds in {:.1} s", arguments.seeds, begin.elapsed().as_secs_f64());
    std::process::exit(i32::from(!failed.is_empty()));
}

/// Whether a line is about single operations.
fn is_detail(line: &str) -> bool {
    [" submits ", " completes "].iter().any(|word| line.contains(word))
}

/// Names of scenarios.
trait MapNames {
    fn map_names(&self) -> Vec<&str>;
}

impl MapNames for [(&str, Make)] {
    fn map_names(&self) -> Vec<&str> {
        self.iter().map(|(name, _)| *name).collect()
    }
}
