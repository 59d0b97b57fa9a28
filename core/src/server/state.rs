//! What operators have changed while the process runs, on its way to the next one.
//!
//! What the command line or the configuration says differently now wins over it.

use ouro_restart::Blob;
use prost::Message as _;
use tracing::Level;

/// Name of the blob.
const RUNTIME: &str = "runtime/1";

/// How a level that logs nothing is written.
const OFF: &str = "off";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Runtime {
    /// Health checks are answered with an error on request.
    pub(super) healthcheck_failed: bool,
    /// How much is logged by the command line, and how much since somebody has changed that.
    started_level: Option<Level>,
    changed_level: Option<Option<Level>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(bool, tag = "1")]
    healthcheck_failed: bool,
    #[prost(string, tag = "2")]
    started_level: String,
    /// Empty if nobody has changed it.
    #[prost(string, tag = "3")]
    changed_level: String,
}

impl Runtime {
    /// Nothing has been changed yet.
    pub(super) const fn new(started_level: Option<Level>) -> Self {
        Self { healthcheck_failed: false, started_level, changed_level: None }
    }

    /// Somebody wants so much logged.
    pub(super) fn set_level(&mut self, level: Option<Level>) {
        self.changed_level = Some(level);
    }

    /// The level to log at instead of that of the command line.
    pub(super) const fn level(&self) -> Option<Option<Level>> {
        self.changed_level
    }

    /// What the next process is told.
    pub(super) fn blobs(&self) -> Vec<Blob> {
        let piece = Piece {
            healthcheck_failed: self.healthcheck_failed,
            started_level: name(self.started_level),
            changed_level: self.changed_level.map(name).unwrap_or_default(),
        };
        vec![Blob { name: RUNTIME.into(), bytes: piece.encode_to_vec() }]
    }

    /// Goes on from what the process before says; what is not known is passed over.
    ///
    /// # Errors
    /// What is broken, in words.
    pub(super) fn adopt(&mut self, blobs: &[Blob]) -> Result<(), String> {
        for blob in blobs.iter().filter(|blob| blob.name == RUNTIME) {
            let piece = Piece::decode(&*blob.bytes)
                .map_err(|error| format!("what was changed in the process before is broken: {error}"))?;
            self.healthcheck_failed = piece.healthcheck_failed;
            // Whoever starts with another level wants that one.
            if piece.started_level == name(self.started_level) {
                self.changed_level = level(&piece.changed_level);
            }
        }
        Ok(())
    }
}

fn name(level: Option<Level>) -> String {
    level.map_or_else(|| OFF.to_owned(), |level| level.as_str().to_ascii_lowercase())
}

fn level(name: &str) -> Option<Option<Level>> {
    if name == OFF { Some(None) } else { name.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_go_over_and_the_command_line_wins() {
        let mut old = Runtime::new(Some(Level::INFO));
        let mut same = Runtime::new(Some(Level::INFO));
        same.adopt(&old.blobs()).unwrap();
        assert_eq!(same, old);
        for changed in [Some(Level::DEBUG), None] {
            old.set_level(changed);
            old.healthcheck_failed = true;
            same.adopt(&old.blobs()).unwrap();
            assert_eq!((same, same.level()), (old, Some(changed)));
            let mut other = Runtime::new(Some(Level::WARN));
            other.adopt(&old.blobs()).unwrap();
            assert_eq!((other.healthcheck_failed, other.level()), (true, None));
        }
        old.healthcheck_failed = false;
        same.adopt(&old.blobs()).unwrap();
        assert!(!same.healthcheck_failed);
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_broken_is_an_error() {
        let mut runtime = Runtime::new(None);
        let blob = |name: &str, bytes: &[u8]| [Blob { name: name.into(), bytes: bytes.to_vec() }];
        runtime.adopt(&blob("weather/1", b"\xff\xff")).unwrap();
        assert_eq!(runtime, Runtime::new(None));
        let piece = Piece { changed_level: "shrill".into(), started_level: OFF.into(), ..Piece::default() };
        runtime.adopt(&blob(RUNTIME, &piece.encode_to_vec())).unwrap();
        assert_eq!(runtime.level(), None);
        assert!(runtime.adopt(&blob(RUNTIME, b"\xff\xff\xff")).is_err());
    }
}
