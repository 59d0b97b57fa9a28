//! What a simulation says at its end.

use std::collections::BTreeMap;

use crate::simulation::Summary;

/// Lines of the trace that a failure shows.
const TRACE_SHOWN: usize = 30;

/// Everything that was exercised.
#[derive(Default)]
pub struct Totals {
    counts: BTreeMap<String, u64>,
    awaits: BTreeMap<String, (u64, u64)>,
}

impl Totals {
    pub fn add(&mut self, summary: &Summary) {
        let Summary { counts, awaits, virtual_ms, turns, .. } = summary;
        let own = [("runs", 1), ("virtual seconds", virtual_ms / 1000), ("turns", *turns)];
        let own = own.iter().map(|(what, count)| (String::from(*what), *count));
        for (what, count) in own.chain(counts.iter().cloned()) {
            *self.counts.entry(what).or_default() += count;
        }
        for (state, (waited, dropped)) in awaits {
            let known = self.awaits.entry(state.clone()).or_default();
            *known = (known.0 + waited, known.1 + dropped);
        }
    }

    pub fn print(&self, coverage: bool) {
        for (what, count) in &self.counts {
            println!("{count:>12}  {what}");
        }
        let (waited, dropped) = self.awaits.values().fold((0, 0), |(w, d), (one, two)| (w + one, d + two));
        println!("{waited:>12}  awaits of sessions");
        println!("{dropped:>12}  sessions dropped at an await and driven again elsewhere");
        let never: Vec<_> = self.awaits.iter().filter(|(_, (_, dropped))| *dropped == 0).collect();
        println!(
            "{:>12}  states of sessions, of which {} were never dropped",
            self.awaits.len(),
            never.len()
        );
        if coverage {
            println!("\n      awaits     dropped  state");
            for (state, (waited, dropped)) in &self.awaits {
                let mark = if *dropped == 0 { "  NEVER DROPPED" } else { "" };
                println!("{waited:>12}{dropped:>12}  {state}{mark}");
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
