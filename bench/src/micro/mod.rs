//! `ouro-bench micro`: what small parts of the proxy cost, in instructions where valgrind can count them, and in time.
//!
//! Instructions are the same on every run and on a busy machine, so a change of a few per cent is a real one. A case runs
//! under callgrind twice, with two numbers of repetitions; the difference is free of what preparing it takes.

mod cases;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::cases::{ALL, Case};
use crate::machine::{self, Machine};
use crate::peers;
use crate::report;
use crate::report::table::Table;

/// Batches of which the fastest counts.
const BATCHES: usize = 7;

/// How long a batch is at least, so that reading the clock does not count.
const BATCH: Duration = Duration::from_millis(20);

/// Most repetitions in a batch.
const MAX_REPETITIONS: u64 = 1 << 30;

/// Options of `ouro-bench micro`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Cases [default: all].
    #[arg(value_name = "NAME", value_parser = named)]
    cases: Vec<&'static Case>,
    /// Do not count instructions even if valgrind is here.
    #[arg(long)]
    time_only: bool,
    /// Write the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Results {
    command: String,
    machine: Machine,
    /// Whether the compiler optimised: other numbers say nothing.
    optimised: bool,
    cases: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    title: &'static str,
    instructions: Option<f64>,
    nanoseconds: f64,
}

/// Measures and reports.
///
/// # Errors
/// When a case does not do its work, or this process was asked to end.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let all: Vec<&Case> = ALL.iter().collect();
    let chosen = if options.cases.is_empty() { &all } else { &options.cases };
    let valgrind = peers::which("valgrind").filter(|_| !options.time_only);
    if valgrind.is_none() && !options.time_only {
        println!(
            "note: without valgrind there are times only, and they depend on what else the machine does"
        );
    }
    let mut results = Results {
        command: report::command(),
        machine: Machine::describe(),
        optimised: !cfg!(debug_assertions),
        cases: Vec::new(),
    };
    if !results.optimised {
        println!("note: this is not a release build");
    }
    let mut table = Table::new(&["case", "instructions", "ns"]);
    for case in chosen {
        machine::check_interrupt()?;
        eprintln!("{} …", case.name);
        let nanoseconds = time(case)?;
        let instructions = match (&valgrind, case.counted) {
            (Some(valgrind), Some(times)) => Some(count(valgrind, case, times)?),
            _ => None,
        };
        let counted = instructions.map_or_else(|| "-".into(), |count| format!("{count:.0}"));
        table.rows.push(vec![case.title.into(), counted, format!("{nanoseconds:.1}")]);
        let (name, title) = (case.name, case.title);
        results.cases.push(Measured { name, title, instructions, nanoseconds });
    }
    println!("{}", table.text());
    options.json.as_ref().map_or(Ok(()), |path| report::write_json(path, &results))
}

/// Runs one case: what happens under the instruction counter.
///
/// # Errors
/// When there is no such case, or it does not do its work.
pub(crate) fn run_case(name: &str, times: u64) -> Result<(), String> {
    (named(name)?.prepare)()?(times)
}

fn named(name: &str) -> Result<&'static Case, String> {
    ALL.iter().find(|case| case.name == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|case| case.name).collect();
        format!("there is no case {name:?}; there are {}", names.join(", "))
    })
}

/// Time of one repetition, nanoseconds: the fastest batch.
#[allow(clippy::cast_precision_loss)] // times and counts are small
fn time(case: &Case) -> Result<f64, String> {
    let mut work = (case.prepare)()?;
    let mut batch = |times: u64| {
        machine::check_interrupt()?;
        let start = Instant::now();
        work(times).map(|()| start.elapsed())
    };
    let mut times = 1;
    while batch(times)? < BATCH && times < MAX_REPETITIONS {
        times *= 2;
    }
    let mut best = Duration::MAX;
    for _ in 0..BATCHES {
        best = best.min(batch(times)?);
    }
    Ok(best.as_nanos() as f64 / times as f64)
}

/// Instructions of one repetition.
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn count(valgrind: &Path, case: &Case, times: u64) -> Result<f64, String> {
    let few = collect(valgrind, case, times)?;
    let many = collect(valgrind, case, times * 2)?;
    Ok((many.saturating_sub(few)) as f64 / times as f64)
}

/// Instructions of a whole run.
fn collect(valgrind: &Path, case: &Case, times: u64) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .args(["micro-case", case.name, &times.to_string()])
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("{}: {error}", valgrind.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = collected(&text).filter(|_| output.status.success());
    count.ok_or_else(|| format!("{} under valgrind: {}", case.name, text.trim()))
}

/// Reads the line `==123== Collected : 456`.
fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_callgrind_prints() {
        let text = "==1== Events    : Ir\n==1== Collected : 2271345\n==1== \n";
        assert_eq!(collected(text), Some(2_271_345));
        assert_eq!(collected("Collected : many"), None);
    }
}
