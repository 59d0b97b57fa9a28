//! What a simulation says at its end.

use std::collections::BTreeMap;

use ouro::ring::sim::Await;

use crate::simulation::Summary;
use crate::states;

/// Lines of the trace that a failure shows.
const TRACE_SHOWN: usize = 30;

/// Everything that was exercised.
#[derive(Default)]
pub struct Totals {
    counts: BTreeMap<String, u64>,
    awaits: BTreeMap<String, Await>,
}

impl Totals {
    pub fn add(&mut self, summary: &Summary) {
        let Summary { counts, awaits, virtual_ms, turns, .. } = summary;
        let own = [("runs", 1), ("virtual seconds", virtual_ms / 1000), ("turns", *turns)];
        let own = own.iter().map(|(what, count)| (String::from(*what), *count));
        for (what, count) in own.chain(counts.iter().cloned()) {
            *self.counts.entry(what).or_default() += count;
        }
        for (state, one) in awaits {
            let known = self.awaits.entry(state.clone()).or_default();
            known.waited += one.waited;
            known.dropped += one.dropped;
            known.moved += one.moved;
        }
    }

    pub fn print(&self, coverage: bool) {
        for (what, count) in &self.counts {
            println!("{count:>12}  {what}");
        }
        let sum = |of: fn(&Await) -> u64| self.awaits.values().map(of).sum::<u64>();
        println!("{:>12}  awaits of sessions", sum(|one| one.waited));
        println!(
            "{:>12}  sessions dropped there and driven again in the same process",
            sum(|one| one.dropped)
        );
        println!("{:>12}  sessions dropped there and driven again in the next process", sum(|one| one.moved));
        let missing = |of: fn(&Await) -> u64| {
            let known = states::all().filter(|state| states::never_waits(state).is_none());
            known.filter(|state| self.awaits.get(*state).map_or(0, of) == 0).count()
        };
        println!(
            "{:>12}  states of sessions, of which {} were never dropped in the same process, {} never on the way to the next",
            states::all().count(),
            missing(|one| one.dropped),
            missing(|one| one.moved),
        );
        if coverage {
            println!("\n      awaits     dropped       moved  state");
            let others =
                self.awaits.keys().map(String::as_str).filter(|state| !states::all().any(|s| s == *state));
            for state in states::all().chain(others) {
                let Await { waited, dropped, moved } = self.awaits.get(state).copied().unwrap_or_default();
                let mark = match (states::never_waits(state), dropped == 0, moved == 0) {
                    (Some(why), ..) => format!("  (nobody waits there: {why})"),
                    (None, false, true) => "  NEVER MOVED".into(),
                    (None, true, true) => "  NEVER DROPPED".into(),
                    (None, true, false) => "  NEVER DROPPED IN THE SAME PROCESS".into(),
                    (None, false, false) => String::new(),
                };
                println!("{waited:>12}{dropped:>12}{moved:>12}  {state}{mark}");
            }
        }
    }
}

/// A seed that has found something.
pub struct Failure {
    pub seed: u64,
    pub scenario: &'static str,
    pub violations: Vec<String>,
}

impl Failure {
    /// Prints it, with the end of the trace of a second run.
    pub fn print(&self, again: &Summary) {
        println!("\nseed {} ({}) fails:", self.seed, self.scenario);
        let lines: Vec<_> = again.trace.iter().filter(|line| !is_detail(line)).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TRACE_SHOWN)) {
            println!("  {line}");
        }
        for violation in &self.violations {
            println!("  => {violation}");
        }
        if again.violations != self.violations {
            println!("  => when it is run again: {:?}", again.violations);
        }
        println!("  again: cargo sim --seed {} --scenario {} --trace", self.seed, self.scenario);
    }
}

/// Whether a line is about single operations.
fn is_detail(line: &str) -> bool {
    [" submits ", " completes "].iter().any(|word| line.contains(word))
}
