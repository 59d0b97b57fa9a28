//! `docs/counters.md` is what the tables of the code say.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use ouro::stats::{TABLES, Table};
use ouro_shm::{Kind, Unit};

const BEGIN: &str = "<!-- counters: generated from core/src/stats, do not edit -->\n";
const END: &str = "<!-- end of counters -->\n";

fn page_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/counters.md")
}

#[test]
fn the_page_is_what_the_tables_say() {
    let page = fs::read_to_string(page_path()).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark where the tables begin");
    let (_, after) = rest.split_once(END).expect("the mark where the tables end");
    let expected = format!("{before}{BEGIN}{}\n{END}{after}", reference());
    if page == expected {
        return;
    }
    if std::env::var_os("OURO_UPDATE_DOCS").is_some() {
        fs::write(page_path(), expected).unwrap();
        return;
    }
    panic!(
        "docs/counters.md is not up to date.\n\
         To bring it up to date: OURO_UPDATE_DOCS=1 cargo test -p ouro --test counters_docs"
    );
}

fn reference() -> String {
    let mut out = String::new();
    for table in TABLES {
        section(&mut out, table);
    }
    out
}

fn section(out: &mut String, table: &Table) {
    let mut prefix = table.text.to_owned();
    for label in table.labels {
        prefix = prefix.replacen("{}", &format!("<{label}>"), 1);
    }
    write!(out, "\n### `{prefix}.`\n\n").unwrap();
    out.push_str("| name | kind | unit | what it counts |\n|---|---|---|---|\n");
    for metric in table.metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = match metric.unit {
            Unit::Count => "",
            Unit::Bytes => "bytes",
            Unit::Microseconds => "ms",
            Unit::Seconds => "s",
        };
        writeln!(out, "| `{}` | {kind} | {unit} | {} |", metric.name, metric.help).unwrap();
    }
}
