//! Errors with positions, collected instead of thrown.

use std::cell::RefCell;
use std::fmt;

/// Errors shown at most; a file of another kind would yield thousands.
const MAX_ERRORS: usize = 100;

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Debug)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    left_out: usize,
}

/// One error. Displays as `file:line:column: path: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// File as it was named.
    pub file: String,
    /// Line and column, both from 1, columns in characters; `None` if the error is about the file as a whole.
    pub position: Option<(usize, usize)>,
    /// Path of the key, such as `listeners[0].routes[1].path_prefix`; empty for syntax errors.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
}

impl ConfigErrors {
    /// An error that has no position.
    pub(super) fn about_file(file_name: &str, message: String) -> Self {
        let error = ConfigError { file: file_name.to_owned(), position: None, path: String::new(), message };
        Self { errors: vec![error], left_out: 0 }
    }

    /// The errors in the order of the file, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more errors", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Where the stages put their errors. Shared between all sections that are being read, hence the cell.
#[derive(Debug, Default)]
pub(super) struct Report {
    found: RefCell<Vec<Found>>,
}

#[derive(Debug)]
struct Found {
    at: usize,
    path: String,
    message: String,
}

impl Report {
    /// Notes an error at a byte offset.
    pub(super) fn push(&self, at: usize, path: String, message: String) {
        self.found.borrow_mut().push(Found { at, path, message });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Turns offsets into lines and columns.
    pub(super) fn into_errors(self, text: &str, file_name: &str) -> ConfigErrors {
        let mut found = self.found.into_inner();
        found.sort_by_key(|error| error.at);
        let left_out = found.len().saturating_sub(MAX_ERRORS);
        found.truncate(MAX_ERRORS);
        let mut lines = Lines { text, start: 0, number: 1 };
        let errors = found
            .into_iter()
            .map(|error| ConfigError {
                file: file_name.to_owned(),
                position: Some(lines.position(error.at)),
                path: error.path,
                message: error.message,
            })
            .collect();
        ConfigErrors { errors, left_out }
    }
}

/// Finds positions in one pass over the text: they are asked for in ascending order.
struct Lines<'t> {
    text: &'t str,
    start: usize,
    number: usize,
}

impl Lines<'_> {
    fn position(&mut self, at: usize) -> (usize, usize) {
        let at = self.text.floor_char_boundary(at);
        while let Some(length) = self.text[self.start..at].find('\n') {
            self.start += length + 1;
            self.number += 1;
        }
        (self.number, self.text[self.start..at].chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_and_positions_count_characters() {
        let report = Report::default();
        let text = "first\nsecond \u{e9}\u{e9}x\n";
        report.push(text.find('x').unwrap(), "b".to_owned(), "later".to_owned());
        report.push(0, String::new(), "earlier".to_owned());
        report.push(9999, "c".to_owned(), "behind the end".to_owned());
        assert_eq!(
            report.into_errors(text, "f.toml").to_string(),
            "f.toml:1:1: earlier\nf.toml:2:10: b: later\nf.toml:3:1: c: behind the end"
        );
    }

    #[test]
    fn a_flood_of_errors_is_cut() {
        let report = Report::default();
        for _ in 0..MAX_ERRORS + 7 {
            report.push(0, String::new(), "again".to_owned());
        }
        let errors = report.into_errors("", "f.toml");
        assert_eq!(errors.iter().count(), MAX_ERRORS);
        assert!(errors.to_string().ends_with("and 7 more errors"));
    }
}
