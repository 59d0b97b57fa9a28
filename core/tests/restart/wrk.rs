//! `wrk`, where it is installed, as further load: a client that somebody else has written.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::DEADLINE;

/// Connections that it keeps busy.
const CONNECTIONS: u32 = 16;

/// Longer than any test; it is told when to end.
const SECONDS: u32 = 3600;

/// A `wrk` that runs.
pub(crate) struct Wrk {
    child: Child,
}

/// What it has seen.
#[derive(Debug)]
pub(crate) struct Report {
    /// Requests that were answered.
    pub(crate) requests: u64,
    /// The longest that one of them took, as it says it.
    pub(crate) slowest: String,
    /// Lines about what has failed.
    pub(crate) failures: Vec<String>,
}

impl Wrk {
    /// Starts it; `None` where it is not installed, which is said.
    pub(crate) fn start(address: SocketAddr) -> Option<Self> {
        let mut command = Command::new("wrk");
        command
            .args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{SECONDS}s")])
            .args(["--timeout", &format!("{}s", DEADLINE.as_secs())])
            .arg(format!("http://{address}/wrk"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Self { child }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("LEFT OUT: wrk is not installed, so it is no part of the load");
                None
            }
            Err(error) => panic!("cannot start {command:?}: {error}"),
        }
    }

    /// Ends it.
    #[track_caller]
    pub(crate) fn end(mut self) -> Report {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
        self.child.wait().unwrap();
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
        let requests =
            requests.unwrap_or_else(|| panic!("wrk does not say how many requests it made:\n{text}"));
        // Mean, deviation, maximum.
        let latency = text.lines().find_map(|line| line.trim().strip_prefix("Latency"));
        let slowest = latency.and_then(|line| line.split_whitespace().nth(2)).unwrap_or("?").to_owned();
        // It says these only if there were any.
        let failed = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
        Report {
            requests: requests.0.parse().unwrap(),
            slowest,
            failures: text.lines().filter(failed).map(Into::into).collect(),
        }
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        // After `end` there is none.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
