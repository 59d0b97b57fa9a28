//! The admin interface: an HTTP server on the control thread that shows everything and changes little.
//!
//! It knows nothing of workers. What it shows it reads through the closures of [`AdminState`]; what it is told to do it
//! passes on as a [`Command`] to whoever runs the process. Binding ([`AdminListener`]) is separate from serving
//! ([`serve`]), so that the socket can come from, and go to, another process.
//!
//! What changes state takes POST only. [`guard`] keeps web pages in the operator's browser from reaching it.

mod clusters;
mod commands;
mod config_dump;
mod guard;
mod info;
mod paths;
mod serve;
mod socket;
mod stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

use ouro_shm::Snapshot;
use tokio::sync::{mpsc, oneshot};

use crate::config::model::{Address, ClusterIndex, Model};

pub use self::paths::router;
pub use self::serve::serve;
pub use self::socket::AdminListener;

/// Commands that may wait to be carried out; more are refused with 503.
pub const QUEUED_COMMANDS: usize = 16;

/// Reads the statistics of all processes of the instance. Called on a thread that may block, because thousands of
/// clusters take a while.
pub type ReadSnapshot = Box<dyn Fn() -> Snapshot + Send + Sync>;

/// Tells the endpoints of a cluster as they are now, names resolved, with their weights.
pub type ReadEndpoints = Box<dyn Fn(ClusterIndex) -> Vec<(String, u32)> + Send + Sync>;

/// What the admin interface shows and whom it tells.
pub struct AdminState {
    /// See [`ReadSnapshot`].
    pub snapshot: ReadSnapshot,
    /// See [`ReadEndpoints`].
    pub endpoints: ReadEndpoints,
    /// The configuration that runs.
    pub model: Arc<Model>,
    /// Listeners with the addresses that they got.
    pub listeners: Vec<BoundListener>,
    /// This process.
    pub process: ProcessInfo,
    /// What this process is doing now.
    pub status: Arc<Status>,
    /// Names beside `localhost` and IP addresses by which clients may call this interface, lower case, without port.
    pub names: Vec<String>,
    /// Who carries out commands; bounded by [`QUEUED_COMMANDS`].
    pub commands: mpsc::Sender<Command>,
}

/// A listener that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundListener {
    /// Its name.
    pub name: String,
    /// The address with the port that it got.
    pub address: Address,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// Workers that accept on it.
    pub workers: usize,
}

/// What does not change while a process lives.
#[derive(Debug, Clone)]
pub struct ProcessInfo {
    /// Version of the program.
    pub version: &'static str,
    /// Process id.
    pub pid: u32,
    /// Restart epoch.
    pub epoch: u32,
    /// Worker threads.
    pub workers: usize,
    /// When it started, by both clocks.
    pub started: (Instant, SystemTime),
    /// The command line, program first.
    pub command_line: Vec<String>,
    /// Options as they are in effect, defaults filled in, under the names of the command line with `_` for `-`.
    pub options: Vec<(&'static str, serde_json::Value)>,
    /// What moves bytes, `io_uring`.
    pub engine: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// Features of the kernel, and whether this one has them.
    pub capabilities: Vec<(&'static str, bool)>,
}

/// What the process is told to do.
#[derive(Debug)]
pub enum Command {
    /// Stop accepting. `graceful` lets connections finish in their own time and tells clients to go elsewhere.
    DrainListeners {
        /// Whether to wait for what is in flight.
        graceful: bool,
        /// Answered when draining has begun.
        done: Done,
    },
    /// `/ready` answers 503 from now on; the admin interface has seen to that already.
    HealthcheckFail,
    /// Takes [`Command::HealthcheckFail`] back; the admin interface has done so already.
    HealthcheckOk,
    /// Log so much; `None` for nothing.
    SetLogLevel {
        /// The new level.
        level: Option<tracing::Level>,
        /// Answered when it is in effect.
        done: Done,
    },
    /// Set counters and histograms to zero.
    ResetCounters {
        /// Answered when they are.
        done: Done,
    },
    /// End the process in good order.
    Quit,
}

/// Where to say that a command is done, or why it cannot be.
pub type Done = oneshot::Sender<Result<(), String>>;

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// It does not serve yet.
    Initialising = 0,
    /// It serves.
    Live = 1,
    /// It serves what it has and takes nothing more.
    Draining = 2,
}

impl Stage {
    /// Its name in Envoy's terms.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initialising => "INITIALIZING",
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
        }
    }
}

/// What the process is doing now, shared between those who know and those who show it.
#[derive(Debug, Default)]
pub struct Status {
    stage: AtomicU8,
    healthcheck_failed: AtomicBool,
}

impl Status {
    /// What the process is doing; [`Stage::Initialising`] at first.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Initialising,
            1 => Stage::Live,
            _ => Stage::Draining,
        }
    }

    /// Says what the process is doing now.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Whether the operator has asked for failing health checks.
    #[must_use]
    pub fn is_healthcheck_failed(&self) -> bool {
        self.healthcheck_failed.load(Ordering::Relaxed)
    }

    /// Makes health checks fail, or stops that.
    pub fn set_healthcheck_failed(&self, failed: bool) {
        self.healthcheck_failed.store(failed, Ordering::Relaxed);
    }

    /// What is said to the outside: who fails health checks on request is draining, as with Envoy.
    #[must_use]
    pub fn shown(&self) -> Stage {
        match self.stage() {
            Stage::Live if self.is_healthcheck_failed() => Stage::Draining,
            stage => stage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_healthcheck_shows_as_draining_only_while_live() {
        let status = Status::default();
        status.set_healthcheck_failed(true);
        assert_eq!(status.shown(), Stage::Initialising);
        status.set_stage(Stage::Live);
        assert_eq!((status.stage(), status.shown()), (Stage::Live, Stage::Draining));
        status.set_healthcheck_failed(false);
        assert_eq!(status.shown(), Stage::Live);
    }
}
