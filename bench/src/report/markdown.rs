//! Results as a page.

use std::time::{Duration, SystemTime};

use super::table::{Table, table};
use crate::run::results::Results;

/// The whole page.
pub(crate) fn page(results: &Results) -> String {
    let mut text = String::from("# Results\n\n");
    text.push_str(&format!("- Command: `{}`\n", results.command));
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(results.started_unix_s);
    text.push_str(&format!("- Time: {}\n", humantime::format_rfc3339_seconds(begin)));
    text.push_str(&format!("- Machine: {}\n", results.machine.line()));
    if let Some(about) = results.machine.about_tcp() {
        text.push_str(&format!("- {about}\n"));
    }
    let [proxy, load] = results.cpus;
    text.push_str(&format!("- CPUs: proxy {proxy}, load and origin {load}\n- Origin: {}\n", results.origin));
    let (rounds, seconds) = (results.rounds, results.seconds);
    text.push_str(&format!(
        "- {rounds} interleaved rounds of {seconds} s, median; `ouro/this` is the median of the rounds' ratios, with the \
         smallest and the largest\n"
    ));
    for subject in &results.subjects {
        let about = match (&subject.version, &subject.skipped) {
            (Some(version), _) => version.clone(),
            (None, why) => format!("not measured ({})", why.as_deref().unwrap_or("unknown")),
        };
        let adds = subject.adds.iter().map(|what| format!("; adds {what}")).collect::<String>();
        text.push_str(&format!("- {}: {}{}\n", subject.name, one_line(&about), one_line(&adds)));
    }
    for scenario in &results.scenarios {
        text.push_str(&format!("\n## {}\n\n{}.\n\n", scenario.name, capital(scenario.title)));
        text.push_str(&rows(&table(scenario)));
        for (number, note) in scenario.notes.iter().enumerate() {
            let gap = if number == 0 { "\n" } else { "" };
            text.push_str(&format!("{gap}- {}\n", one_line(note)));
        }
    }
    text
}

/// A table of Markdown.
pub(crate) fn rows(table: &Table) -> String {
    let mut text = format!("| {} |\n|---|", table.head.join(" | "));
    text.push_str(&"---:|".repeat(table.head.len().saturating_sub(1)));
    text.push('\n');
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(|cell| one_line(cell)).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', " ").replace('|', "\\|")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::tests::sample;

    #[test]
    fn every_row_has_as_many_cells_as_the_head() {
        let text = page(&sample());
        let cells: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(cells.len(), 5, "{text}");
        assert!(cells.iter().all(|count| *count == cells[0]), "{text}");
        assert!(text.contains("\n## small\n\nSmall responses.\n"), "{text}");
    }
}
