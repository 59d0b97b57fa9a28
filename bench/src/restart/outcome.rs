//! What the clients of a restarted proxy noticed, as it is written down.

use serde::Serialize;

use crate::load::{Failure, Plan, Tally};
use crate::machine::Machine;
use crate::report::markdown;
use crate::report::table::Table;

/// Everything of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcomes {
    /// The command line.
    pub(super) command: String,
    /// Where it ran.
    pub(super) machine: Machine,
    /// Restarts of each.
    pub(super) restarts: u32,
    /// Time between two, seconds.
    pub(super) every_s: u64,
    /// Time that old processes of peers were given, seconds.
    pub(super) old_lives_s: u64,
    /// One for each way to restart.
    pub(super) outcomes: Vec<Outcome>,
}

/// One way to restart.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Outcome {
    /// Name.
    pub(super) name: &'static str,
    /// What the program says of itself.
    pub(super) version: Option<String>,
    /// Why it was not measured.
    pub(super) skipped: Option<String>,
    /// Restarts that began.
    pub(super) restarts: u32,
    /// Restarts that the proxy did not begin when told to.
    pub(super) ignored: u32,
    /// Processes before the first restart.
    pub(super) processes_before: usize,
    /// Processes at the end, when clients were still there.
    pub(super) processes_after: usize,
    /// How long each replaced process that ended lived on, seconds.
    pub(super) old_lived_s: Vec<f64>,
    /// What each kind of client noticed.
    pub(super) groups: Vec<Group>,
}

/// One kind of client.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Group {
    /// Name.
    name: &'static str,
    /// How many there were.
    clients: usize,
    /// Exchanges that ended as they should.
    done: u64,
    /// Connections refused.
    refused: u64,
    /// Connections reset.
    reset: u64,
    /// Exchanges that failed in another way.
    failed: u64,
    /// Responses that announced the end of a connection that was meant to be kept.
    told_to_close: u64,
    /// Connections closed between two requests without a word.
    closed_idle: u64,
    /// Long-lived connections that ended.
    broken: u64,
    /// The longest time until an exchange was done, failed attempts included, milliseconds.
    worst_wait_ms: f64,
    /// Some failures in words.
    examples: Vec<String>,
}

impl Group {
    /// What a group of clients noticed.
    pub(super) fn new(plan: &Plan, tally: &Tally) -> Self {
        let told_apart = tally.failed(Failure::Refused) + tally.failed(Failure::Reset);
        Self {
            name: plan.name,
            clients: plan.connections,
            done: tally.done,
            refused: tally.failed(Failure::Refused),
            reset: tally.failed(Failure::Reset),
            failed: tally.errors() - told_apart,
            told_to_close: tally.told_to_close,
            closed_idle: tally.closed_idle,
            broken: tally.broken,
            worst_wait_ms: tally.worst_wait.as_secs_f64() * 1e3,
            examples: tally.examples().to_vec(),
        }
    }

    const fn noticed(&self) -> u64 {
        self.refused + self.reset + self.failed + self.told_to_close + self.closed_idle + self.broken
    }
}

impl Outcome {
    /// Whether no client had anything to notice, and nobody was left over.
    pub(super) fn is_unnoticed(&self) -> bool {
        self.groups.iter().all(|group| group.noticed() == 0) && self.processes_after <= self.processes_before
    }

    /// For the terminal.
    pub(super) fn text(&self) -> String {
        if let Some(why) = &self.skipped {
            return format!("{}: skipped, {}\n", self.name, why.trim());
        }
        format!("{}: {}\n{}{}", self.name, self.about(), self.table().text(), self.notes("  note: "))
    }

    fn about(&self) -> String {
        let mut text = format!("{} restarts", self.restarts);
        if self.ignored > 0 {
            text.push_str(&format!(", {} more ignored", self.ignored));
        }
        text.push_str(&format!(
            "; processes: {} before, {} at the end",
            self.processes_before, self.processes_after
        ));
        if !self.old_lived_s.is_empty() {
            let times: Vec<_> = self.old_lived_s.iter().map(|time| format!("{time:.1}")).collect();
            text.push_str(&format!("; old ones lived {} s", times.join(", ")));
        }
        text
    }

    fn notes(&self, prefix: &str) -> String {
        let note = |group: &Group| match group.examples.is_empty() {
            true => String::new(),
            false => format!("{prefix}{}: {}\n", group.name, group.examples.join("; ")),
        };
        self.groups.iter().map(note).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "clients",
            "number",
            "done",
            "refused",
            "reset",
            "failed",
            "told to close",
            "closed idle",
            "broken",
            "worst wait ms",
        ]);
        for group in &self.groups {
            table.rows.push(vec![
                group.name.into(),
                group.clients.to_string(),
                group.done.to_string(),
                group.refused.to_string(),
                group.reset.to_string(),
                group.failed.to_string(),
                group.told_to_close.to_string(),
                group.closed_idle.to_string(),
                group.broken.to_string(),
                format!("{:.0}", group.worst_wait_ms),
            ]);
        }
        table
    }
}

impl Outcomes {
    /// All of them side by side.
    pub(super) fn summary(&self) -> Table {
        let mut table = Table::new(&[
            "subject",
            "restarts",
            "refused",
            "reset",
            "failed",
            "told to close",
            "closed idle",
            "broken",
            "worst wait ms",
            "left over",
            "old lived s",
        ]);
        for outcome in &self.outcomes {
            let mut row = vec![outcome.name.to_owned()];
            if outcome.skipped.is_some() {
                row.push("skipped".into());
            } else {
                let sum =
                    |count: fn(&Group) -> u64| outcome.groups.iter().map(count).sum::<u64>().to_string();
                let waits = outcome.groups.iter().map(|group| group.worst_wait_ms);
                let longest = outcome
                    .old_lived_s
                    .iter()
                    .copied()
                    .fold(None, |most: Option<f64>, time| Some(most.map_or(time, |most| most.max(time))));
                row.extend([
                    outcome.restarts.to_string(),
                    sum(|group| group.refused),
                    sum(|group| group.reset),
                    sum(|group| group.failed),
                    sum(|group| group.told_to_close),
                    sum(|group| group.closed_idle),
                    sum(|group| group.broken),
                    format!("{:.0}", waits.fold(0.0, f64::max)),
                    outcome.processes_after.saturating_sub(outcome.processes_before).to_string(),
                    longest.map_or_else(|| "-".into(), |time| format!("{time:.1}")),
                ]);
            }
            row.resize(table.head.len(), String::new());
            table.rows.push(row);
        }
        table
    }

    /// As a page.
    pub(super) fn page(&self) -> String {
        let mut text = format!("# Restarts under load\n\n- Command: `{}`\n", self.command);
        text.push_str(&format!("- Machine: {}\n", self.machine.line()));
        text.push_str(&format!(
            "- {} restarts of each, one every {} s; old processes of peers were given {} s\n\n",
            self.restarts, self.every_s, self.old_lives_s
        ));
        text.push_str(&markdown::rows(&self.summary()));
        for outcome in &self.outcomes {
            text.push_str(&format!("\n## {}\n\n", outcome.name));
            match &outcome.skipped {
                Some(why) => text.push_str(&format!("Skipped: {}.\n", why.trim())),
                None => {
                    text.push_str(&format!(
                        "{}. {}.\n\n",
                        outcome.version.as_deref().unwrap_or("?"),
                        outcome.about()
                    ));
                    text.push_str(&markdown::rows(&outcome.table()));
                    let notes = outcome.notes("- ");
                    if !notes.is_empty() {
                        text.push_str(&format!("\n{notes}"));
                    }
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Work;

    #[test]
    fn what_is_noticed_is_shown() {
        let plan = Plan::new("tcp", crate::peers::local(1), 20, Work::Echo { bytes: 1 });
        let mut tally = Tally::default();
        tally.done = 5;
        let quiet = Outcome { name: "ouro", groups: vec![Group::new(&plan, &tally)], ..Outcome::default() };
        assert!(quiet.is_unnoticed());
        tally.fail(Failure::Reset, "between two exchanges");
        tally.fail(Failure::Closed, "");
        tally.broken = 1;
        let loud = Outcome {
            name: "nginx-hup",
            old_lived_s: vec![1.0, 4.04],
            processes_after: 2,
            processes_before: 1,
            groups: vec![Group::new(&plan, &tally)],
            ..Outcome::default()
        };
        assert!(!loud.is_unnoticed());
        let skipped = Outcome { name: "sozu", skipped: Some("not here".into()), ..Outcome::default() };
        let outcomes = Outcomes {
            command: "c".into(),
            machine: Machine::describe(),
            restarts: 1,
            every_s: 1,
            old_lives_s: 1,
            outcomes: vec![quiet, loud, skipped],
        };
        let rows = outcomes.summary().rows;
        assert_eq!(rows[1][2..], ["0", "1", "1", "0", "0", "1", "0", "1", "4.0"]);
        let page = outcomes.page();
        assert!(
            page.contains("Skipped: not here.") && page.contains("reset: between two exchanges"),
            "{page}"
        );
    }
}
