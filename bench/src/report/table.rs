//! Tables: rows of cells, as plain text.

use crate::run::results::{ScenarioResult, SubjectResult};

/// A table whose first column is text and whose others are numbers.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Titles of the columns.
    pub(crate) head: Vec<String>,
    /// As many cells each as there are titles.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Aligned columns.
    pub(crate) fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                let cell =
                    if column == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
                text.push_str(&cell);
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

/// A scenario with its title, its table and its notes.
pub(crate) fn scenario(result: &ScenarioResult) -> String {
    let mut text = format!("{}: {}\n{}", result.name, result.title, table(result).text());
    for note in &result.notes {
        text.push_str("  note: ");
        text.push_str(note);
        text.push('\n');
    }
    text
}

/// The numbers of a scenario.
pub(crate) fn table(result: &ScenarioResult) -> Table {
    let idle = result
        .subjects
        .iter()
        .any(|subject| subject.median.as_ref().is_some_and(|median| median.bytes_per_connection.is_some()));
    let mut head = vec!["subject", result.unit, "min..max", "ouro/this"];
    if idle {
        head.extend(["RSS MiB", "errors"]);
    } else {
        head.extend(["requests/s", "p50 us", "p99 us", "p99.9 us", "RSS MiB", "CPU", "kernel", "errors"]);
    }
    let mut table = Table::new(&head);
    for subject in &result.subjects {
        let mut row = vec![subject.name.clone()];
        row.extend(cells(subject, idle));
        row.resize(head.len(), String::new());
        table.rows.push(row);
    }
    table
}

fn cells(subject: &SubjectResult, idle: bool) -> Vec<String> {
    let Some(median) = &subject.median else {
        return vec![if subject.skipped.is_some() { "skipped".into() } else { "-".into() }];
    };
    let digits = if idle { 0 } else { 2 };
    let mib = median.rss_bytes.map(|bytes| bytes / f64::from(1 << 20));
    let mut cells = vec![
        number(subject.value, digits),
        subject
            .spread
            .map_or_else(|| "-".into(), |[least, most]| format!("{least:.digits$}..{most:.digits$}")),
        ratio(subject),
    ];
    if idle {
        cells.push(number(mib, 1));
    } else {
        cells.push(format!("{:.0}", median.requests_per_s));
        cells.extend([median.p50_us, median.p99_us, median.p999_us].map(|us| number(us, 0)));
        cells.push(number(mib, 1));
        cells.extend([median.proxy_cpu, median.kernel_share].map(percent));
    }
    cells.push(subject.errors.to_string());
    cells
}

/// The median and, where rounds differ in it, the smallest and the largest.
fn ratio(subject: &SubjectResult) -> String {
    let median = number(subject.ouro_ratio, 2);
    let spread = subject.ouro_ratio_spread.map(|ends| ends.map(|end| number(Some(end), 2)));
    match spread {
        Some([least, most]) if least != most => format!("{median} ({least}..{most})"),
        _ => median,
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::tests::sample;

    #[test]
    fn columns_are_aligned_and_gaps_are_shown() {
        let text = scenario(&sample().scenarios[0]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  subject  CPU us/request"), "{text}");
        assert!(lines[2].contains("3.00") && lines[2].contains("2.00..9.00") && lines[2].contains("1.00"));
        assert!(lines[3].contains("0.50 (0.25..0.75)"), "{text}");
        assert!(lines[4].trim_end().ends_with("skipped"), "{text}");
        assert_eq!(lines[5], "  note: a note");
        let end = |line: &str, cell: &str| line.find(cell).map(|at| at + cell.len());
        assert_eq!(end(lines[1], "CPU us/request"), end(lines[2], "3.00"), "{text}");
    }
}
