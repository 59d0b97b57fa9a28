//! The reference of the configuration, printed from the schema: `docs/configuration.md` holds a copy, and a test
//! keeps the two the same.

use std::fmt::Write;

use super::schema::{Default, HEADER_EDITS, Key, Kind, MAX_INTEGER, MAX_SIZE, ROOT, Section};
use super::values::size_text;

/// Every table and key as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut sections: Vec<&'static Section> = Vec::new();
    collect(&ROOT, &mut sections);
    // Listeners and routes share these: they come last, as a page of their own would.
    sections.sort_by_key(|section| std::ptr::eq(*section, &HEADER_EDITS));
    let mut out = String::new();
    for section in sections {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "### {}\n\n{}\n", title(section), section.help);
        out.push_str("| Key | Value | Default | Meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let (value, default) = (value(&key.kind), default(key));
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                key.name,
                cell(&value),
                cell(&default),
                cell(key.help)
            );
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Sections in the order in which a reader meets them; header edits, which occur four times, once.
fn collect(section: &'static Section, sections: &mut Vec<&'static Section>) {
    if sections.iter().any(|other| std::ptr::eq(*other, section)) {
        return;
    }
    sections.push(section);
    for key in section.keys {
        if let Some(inner) = inner(&key.kind) {
            collect(inner, sections);
        }
    }
}

fn inner(kind: &Kind) -> Option<&'static Section> {
    match kind {
        Kind::Table(section) | Kind::Tables(section) | Kind::TextsOrTables { section, .. } => Some(section),
        _ => None,
    }
}

/// Headers of the file are code, other titles are text.
fn title(section: &Section) -> String {
    let code = section.title.starts_with('[');
    if code { format!("`{}`", section.title) } else { section.title.to_owned() }
}

fn value(kind: &Kind) -> String {
    let or_off = |off: &bool| if *off { " or `\"off\"`" } else { "" };
    match kind {
        Kind::Text { name, .. } => (*name).to_owned(),
        Kind::Duration { off } => format!("duration{}", or_off(off)),
        Kind::Size { off, min: 1, max: MAX_SIZE } => format!("size{}", or_off(off)),
        Kind::Size { off, min, max: MAX_SIZE } => format!("size from {}{}", size_text(*min), or_off(off)),
        Kind::Size { off, min, max } => {
            format!("size, {} to {}{}", size_text(*min), size_text(*max), or_off(off))
        }
        Kind::Integer { off, min, max: MAX_INTEGER } => format!("integer from {min}{}", or_off(off)),
        Kind::Integer { off, min, max } => format!("integer, {min} to {max}{}", or_off(off)),
        Kind::Boolean => "`true` or `false`".to_owned(),
        Kind::Choice(choices) => {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("`\"{choice}\"`")).collect();
            quoted.join(", ")
        }
        Kind::Texts { name, .. } => format!("list of {name}"),
        Kind::Map => "table of strings".to_owned(),
        Kind::Table(_) => "table".to_owned(),
        Kind::Tables(_) => "list of tables".to_owned(),
        Kind::TextsOrTables { name, .. } => format!("list of {name} or tables"),
    }
}

fn default(key: &Key) -> String {
    match (&key.default, &key.kind) {
        (Default::Required, _) => "required".to_owned(),
        (Default::Absent(""), _) => "—".to_owned(),
        (Default::Absent(meaning), _) => (*meaning).to_owned(),
        (Default::Value(text), Kind::Texts { .. }) => format!("`[\"{text}\"]`"),
        (Default::Value(text), Kind::Boolean) => format!("`{text}`"),
        (Default::Value(text), Kind::Integer { .. }) if *text != "off" => format!("`{text}`"),
        (Default::Value(text), _) => format!("`\"{text}\"`"),
    }
}

/// Text that does not end a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_there_once_with_its_keys() {
        let text = reference();
        for title in
            ["`[server]`", "`[[listeners.routes]]`", "`[[clusters.endpoints]]`", "request_headers, response"]
        {
            assert_eq!(text.matches(&format!("\n### {title}")).count(), 1, "{title}");
        }
        assert!(text.contains("| `buffer_size` | size, 4KiB to 256KiB | `\"64KiB\"` |"));
        assert!(text.contains("| `backlog` | integer, 1 to 65535 | `4096` |"));
        assert!(text.contains("| `requests_per_connection` | integer from 1 or `\"off\"` | `\"off\"` |"));
    }
}
