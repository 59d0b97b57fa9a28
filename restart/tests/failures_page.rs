//! `docs/restart-failures.md` names a test for each failure: they are there.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all functions behind `#[test]` below a directory.
fn tests_below(directory: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for behind in text.split("#[test]").skip(1) {
                let name = behind.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
                names.extend(name.map(|(name, _)| name.to_owned()));
            }
        }
    }
}

#[test]
fn each_test_that_is_named_exists() {
    let mut tests = HashSet::new();
    for directory in ["core/tests", "core/src", "restart/tests", "restart/src"] {
        tests_below(&root().join(directory), &mut tests);
    }
    let page = fs::read_to_string(root().join("docs/restart-failures.md")).unwrap();
    // The last column of each table.
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let named: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches('|').rsplit('|').next())
        .flat_map(|tests| tests.split('`').skip(1).step_by(2))
        .collect();
    assert!(named.len() > 80, "{} names were found", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "there are no tests {missing:?}");
}

#[test]
fn every_row_has_a_test_or_says_that_there_is_nothing_yet() {
    let page = fs::read_to_string(root().join("docs/restart-failures.md")).unwrap();
    for row in page.lines().filter(|line| line.starts_with("| ") && line.ends_with("| |")) {
        assert!(row.contains(" yet") || row.contains("this page"), "{row}");
    }
}
