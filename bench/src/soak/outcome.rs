//! What a soak has shown, and what of it is not as it must be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Compared;
use super::generations::Restart;
use super::pause::Window;
use super::tally::{Counts, Kind, Shared, lock};
use crate::machine::Machine;
use crate::report::markdown;
use crate::report::table::Table;

/// With live handover the old process ends in this time.
const OLD_MAY_LIVE_MS: f64 = 1000.0;

/// And there are never more processes.
const MOST_ALIVE: usize = 2;

/// Memory and descriptors may grow by this share and so much: pools and tables are not filled in the same way twice.
const GROWTH: f64 = 1.25;
const MORE_BYTES: f64 = 32.0 * 1024.0 * 1024.0;
const MORE_DESCRIPTORS: f64 = 64.0;

/// What a process takes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    pub(super) rss_bytes: u64,
    pub(super) descriptors: usize,
}

impl Memory {
    pub(super) const fn of((rss_bytes, descriptors): (u64, usize)) -> Self {
        Self { rss_bytes, descriptors }
    }

    fn text(self) -> String {
        format!("{} MiB and {} descriptors", self.rss_bytes >> 20, self.descriptors)
    }
}

/// A kind of client with what it has seen.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Group {
    kind: Kind,
    clients: u64,
    #[serde(flatten)]
    counts: Counts,
}

/// Everything of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) command: String,
    pub(super) machine: Machine,
    /// What the proxy says of its version.
    pub(super) ouro: String,
    pub(super) seed: u64,
    /// Connections move.
    pub(super) live: bool,
    pub(super) restarts: Vec<Restart>,
    pub(super) most_alive: usize,
    /// Before the first restart, and after the last.
    pub(super) before: Memory,
    pub(super) after: Memory,
    pub(super) kinds: Vec<Group>,
    /// What the origin found wrong.
    pub(super) origin_wrong: Vec<String>,
    pub(super) counters: Vec<Compared>,
    /// Lines that the processes logged as warnings or errors, and the first of them.
    pub(super) log_lines: usize,
    pub(super) log: Vec<String>,
    /// Round trips, if there were any that were timed.
    pub(super) windows: Vec<Window>,
    /// What is not as it must be; empty is good.
    pub(super) problems: Vec<String>,
}

/// The kinds of clients that there were.
pub(super) fn groups(shared: &Shared) -> Vec<Group> {
    let group =
        |kind: Kind| Group { kind, clients: shared.clients.number(kind), counts: shared.counts(kind) };
    Kind::ALL.into_iter().map(group).filter(|group| group.clients > 0).collect()
}

/// What the origin found wrong.
pub(super) fn origin_wrong(shared: &Shared) -> Vec<String> {
    let number = shared.origin.wrong.load(Ordering::Relaxed);
    let mut texts = lock(&shared.origin.examples).clone();
    if number > texts.len() as u64 {
        texts.push(format!("… {number} in all"));
    }
    texts
}

impl Outcome {
    /// Adds what is not as it must be.
    pub(super) fn judge(&mut self) {
        let mut problems = Vec::new();
        for Group { kind, counts, .. } in &self.kinds {
            let noticed = [
                (counts.broken, "connections broken", true),
                (counts.refused, "refused", true),
                (counts.reset, "reset", true),
                (counts.wrong, "wrong bytes", true),
                (counts.failed, "failed", true),
                (counts.reconnected, "reconnected", self.live),
                (counts.told_to_close, "told to close", self.live),
                (counts.closed_idle, "closed idle", self.live),
            ];
            for (number, what, _) in noticed.into_iter().filter(|(number, _, counts)| *counts && *number > 0)
            {
                problems.push(format!("{}: {number} {what}", kind.name()));
            }
        }
        problems.extend(self.origin_wrong.iter().map(|text| format!("origin: {text}")));
        for Compared { name, ouro, counted } in self.counters.iter().filter(|one| one.ouro != one.counted) {
            problems.push(format!("{name}: Ouro says {ouro}, clients and origin {counted}"));
        }
        if self.live {
            let longest = self.exits().into_iter().fold(0.0, f64::max);
            if longest > OLD_MAY_LIVE_MS {
                problems.push(format!("an old process lived {longest:.0} ms after the commit"));
            }
            let unended = self.restarts.iter().filter(|restart| restart.commit_to_exit_ms.is_none()).count();
            if unended > 0 {
                problems.push(format!("{unended} old processes had not ended"));
            }
            if self.most_alive > MOST_ALIVE {
                problems.push(format!("{} processes were alive at once", self.most_alive));
            }
        }
        if grown(self.before.rss_bytes, self.after.rss_bytes, MORE_BYTES)
            || grown(self.before.descriptors as u64, self.after.descriptors as u64, MORE_DESCRIPTORS)
        {
            problems.push(format!("grown from {} to {}", self.before.text(), self.after.text()));
        }
        self.problems.extend(problems);
    }

    /// Adds pauses that are too long.
    pub(super) fn judge_pauses(&mut self, p99: Duration, worst: Duration) {
        let Some(window) = self.windows.last() else { return };
        for (what, found, most) in [("99 %", window.p99_ms, p99), ("worst", window.worst_ms, worst)] {
            let most = most.as_secs_f64() * 1e3;
            if found > most {
                let text = format!("round trips during a move: {what} {found:.1} ms, more than {most:.0} ms");
                self.problems.push(text);
            }
        }
    }

    /// For the terminal.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\nseed {}, {}\n\n", self.ouro, self.seed, self.machine.line());
        text.push_str(&self.clients().text());
        for group in self.kinds.iter().filter(|group| !group.counts.examples.is_empty()) {
            text.push_str(&format!("  {}: {}\n", group.kind.name(), group.counts.examples.join("; ")));
        }
        text.push_str(&format!("\n{} restarts\n{}", self.restarts.len(), self.times().text()));
        text.push_str(&format!("  processes alive at once, at most: {}\n", self.most_alive));
        text.push_str(&format!("  before the first restart {}", self.before.text()));
        text.push_str(&format!(", after the last {}\n", self.after.text()));
        if !self.windows.is_empty() {
            text.push_str(&format!("\nround trips\n{}", self.round_trips().text()));
        }
        if !self.counters.is_empty() {
            text.push_str(&format!("\ncounters\n{}", self.compared().text()));
        }
        if self.log_lines > 0 {
            let lines = self.log.join("\n  ");
            text.push_str(&format!("\n{} warnings and errors of Ouro\n  {lines}\n", self.log_lines));
        }
        if self.problems.is_empty() {
            text.push_str("\nnothing to complain of\n");
        } else {
            text.push_str(&format!("\nNOT AS IT MUST BE\n  {}\n", self.problems.join("\n  ")));
        }
        text
    }

    /// As a page; `name` is the command's.
    pub(super) fn page(&self, name: &str) -> String {
        let title = if name == "pause" { "Pause while connections move" } else { "Soak" };
        let result = if self.problems.is_empty() { "nothing to complain of" } else { "not as it must be" };
        let mut text = format!(
            "# {title}\n\n- Command: `{}`\n- Machine: {}\n- {}, seed {}\n- Result: **{result}**\n",
            self.command,
            self.machine.line(),
            self.ouro,
            self.seed
        );
        text.push_str(&list(&self.problems));
        text.push_str(&format!("\n## Clients\n\n{}", markdown::rows(&self.clients())));
        for group in self.kinds.iter().filter(|group| !group.counts.examples.is_empty()) {
            let examples = group.counts.examples.join("; ");
            text.push_str(&format!("\n{}\n", list(&[format!("{}: {examples}", group.kind.name())]).trim()));
        }
        let (restarts, most) = (self.restarts.len(), self.most_alive);
        text.push_str(&format!(
            "\n## Restarts\n\n{restarts} restarts, at most {most} processes alive at once. "
        ));
        text.push_str(&format!("Before the first restart {}", self.before.text()));
        text.push_str(&format!(", after the last {}.\n\n", self.after.text()));
        text.push_str(&markdown::rows(&self.times()));
        if !self.windows.is_empty() {
            text.push_str(&format!("\n## Round trips\n\n{}", markdown::rows(&self.round_trips())));
        }
        if !self.counters.is_empty() {
            text.push_str(&format!("\n## Counters\n\n{}", markdown::rows(&self.compared())));
        }
        if self.log_lines > 0 {
            text.push_str(&format!("\n## Warnings and errors of Ouro ({})\n\n", self.log_lines));
            text.push_str(&list(&self.log));
        }
        text
    }

    fn clients(&self) -> Table {
        let mut table = Table::new(&[
            "clients",
            "number",
            "done",
            "MiB up",
            "MiB down",
            "broken",
            "reconnected",
            "refused",
            "reset",
            "wrong bytes",
            "failed",
            "told to close",
            "closed idle",
            "worst wait ms",
        ]);
        for Group { kind, clients, counts } in &self.kinds {
            let worst = counts.worst_wait_ms;
            let numbers = [
                *clients,
                counts.done,
                counts.sent >> 20,
                counts.received >> 20,
                counts.broken,
                counts.reconnected,
                counts.refused,
                counts.reset,
                counts.wrong,
                counts.failed,
                counts.told_to_close,
                counts.closed_idle,
            ];
            let mut row = vec![kind.name().to_owned()];
            row.extend(numbers.map(|number| number.to_string()));
            row.push(if worst > 0.0 { format!("{worst:.0}") } else { "-".into() });
            table.rows.push(row);
        }
        table
    }

    fn times(&self) -> Table {
        let mut table = Table::new(&["ms", "median", "p99", "longest"]);
        let commits = self.restarts.iter().map(|restart| restart.exec_to_commit_ms).collect();
        for (name, mut times) in [("exec to commit", commits), ("commit to end of the old one", self.exits())]
        {
            times.sort_by(f64::total_cmp);
            let at = |share: usize| {
                let place = (times.len() * share).div_ceil(100).saturating_sub(1);
                times.get(place).map_or_else(|| "-".into(), |time| format!("{time:.1}"))
            };
            table.rows.push(vec![name.into(), at(50), at(99), at(100)]);
        }
        table
    }

    fn exits(&self) -> Vec<f64> {
        self.restarts.iter().filter_map(|restart| restart.commit_to_exit_ms).collect()
    }

    fn round_trips(&self) -> Table {
        let mut table = Table::new(&["under way", "number", "p50 ms", "p99 ms", "worst ms"]);
        for window in &self.windows {
            let mut row = vec![window.name.to_owned(), window.round_trips.to_string()];
            row.extend([window.p50_ms, window.p99_ms, window.worst_ms].map(|time| format!("{time:.2}")));
            table.rows.push(row);
        }
        table
    }

    fn compared(&self) -> Table {
        let mut table = Table::new(&["counter", "Ouro", "clients, origin", ""]);
        for Compared { name, ouro, counted } in &self.counters {
            let mark = if ouro == counted { "" } else { "differs" };
            table.rows.push(vec![(*name).into(), ouro.to_string(), counted.to_string(), mark.into()]);
        }
        table
    }
}

/// Items of a list in Markdown.
fn list(items: &[String]) -> String {
    items.iter().map(|item| format!("- {}\n", item.trim().replace('\n', " "))).collect()
}

#[allow(clippy::cast_precision_loss)] // memory and descriptors are far below 2^52
fn grown(before: u64, after: u64, more: f64) -> bool {
    after as f64 > before as f64 * GROWTH + more
}
