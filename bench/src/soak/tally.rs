//! What clients count, by kind, and what everybody in a run shares.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Clients;
use crate::load::{Failure, Wrong};
use crate::machine;

/// Failures of a kind whose text is kept.
const EXAMPLES: usize = 8;

/// Round trips that are kept, 12 bytes each.
const MAX_ROUND_TRIPS: usize = 8_000_000;

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// TCP, bytes in both directions all the time.
    Echo,
    /// WebSocket messages.
    Websocket,
    /// HTTP requests on a connection that is kept.
    Http,
    /// A connection for each HTTP request.
    Short,
    /// Long uploads.
    Upload,
    /// Long downloads.
    Download,
    /// TCP, a byte there and back now and then, timed.
    Pair,
}

impl Kind {
    pub(super) const ALL: [Self; 7] =
        [Self::Echo, Self::Websocket, Self::Http, Self::Short, Self::Upload, Self::Download, Self::Pair];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Websocket => "websocket",
            Self::Http => "http",
            Self::Short => "short",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Pair => "pair",
        }
    }

    /// Clients whose connection is meant to live as long as they do.
    pub(super) const fn is_long_lived(self) -> bool {
        !matches!(self, Self::Short)
    }

    /// Clients of the TCP listener.
    pub(super) const fn is_tcp(self) -> bool {
        matches!(self, Self::Echo | Self::Pair)
    }
}

/// What the clients of a kind have seen.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Counts {
    /// Clients that had their first success.
    pub(super) ready: u64,
    /// Connections established.
    pub(super) connects: u64,
    /// Exchanges begun: requests, messages.
    pub(super) begun: u64,
    /// Exchanges that ended as they should.
    pub(super) done: u64,
    /// Requests that got the head of a response that was as expected.
    pub(super) answered: u64,
    /// Bytes that the kernel took from the client.
    pub(super) sent: u64,
    /// Bytes received.
    pub(super) received: u64,
    /// Connections made because the one before had ended.
    pub(super) reconnected: u64,
    /// Connections that ended although nobody wanted it.
    pub(super) broken: u64,
    /// Connection attempts refused.
    pub(super) refused: u64,
    /// Connections reset.
    pub(super) reset: u64,
    /// Bytes, lengths or checksums that were not as expected.
    pub(super) wrong: u64,
    /// Other failures.
    pub(super) failed: u64,
    /// Responses that announced the end of the connection.
    pub(super) told_to_close: u64,
    /// Connections closed between two requests without a word.
    pub(super) closed_idle: u64,
    /// The longest time until an exchange was done, milliseconds; not of uploads and downloads.
    pub(super) worst_wait_ms: f64,
    /// Some failures in words.
    pub(super) examples: Vec<String>,
}

impl Counts {
    /// Counts a failure.
    pub(super) fn fail(&mut self, (failure, detail): &Wrong) {
        let count = match failure {
            Failure::Refused => &mut self.refused,
            Failure::Reset => &mut self.reset,
            Failure::Content | Failure::Length | Failure::Extra | Failure::Head => &mut self.wrong,
            _ => &mut self.failed,
        };
        *count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{}: {detail}", failure.name()));
        }
    }

    /// Everything that must not happen to a client, whatever the proxy does.
    pub(super) const fn failures(&self) -> u64 {
        self.broken + self.refused + self.reset + self.wrong + self.failed
    }
}

/// A byte there and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundTrip {
    /// When it was sent.
    pub(super) sent: Instant,
    /// How long it took.
    pub(super) took: Duration,
}

/// What the threads of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Who there is, and how fast.
    pub(super) clients: Clients,
    /// Repeats what is random.
    pub(super) seed: u64,
    /// Ports of the proxy.
    pub(super) http: u16,
    /// See `http`.
    pub(super) tcp: u16,
    counts: [Mutex<Counts>; Kind::ALL.len()],
    round_trips: Mutex<Vec<RoundTrip>>,
    /// Clients finish what they have begun, as fast as they can.
    ending: AtomicBool,
    /// Clients and origin stop where they are.
    aborted: AtomicBool,
    /// What the origin has seen.
    pub(super) origin: Origin,
}

/// What the origin has seen.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// HTTP requests, WebSocket handshakes included.
    pub(super) requests: AtomicU64,
    /// Uploads, requests or messages that were not as they should be.
    pub(super) wrong: AtomicU64,
    /// Why.
    pub(super) examples: Mutex<Vec<String>>,
    /// Checksums of downloads, by stream.
    pub(super) sums: Mutex<HashMap<u64, u32>>,
}

impl Shared {
    pub(super) fn new(clients: Clients, seed: u64, http: u16, tcp: u16) -> Self {
        Self {
            clients,
            seed,
            http,
            tcp,
            counts: Default::default(),
            round_trips: Mutex::default(),
            ending: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            origin: Origin::default(),
        }
    }

    /// The counts of a kind, to change them.
    pub(super) fn count(&self, kind: Kind) -> MutexGuard<'_, Counts> {
        lock(&self.counts[kind as usize])
    }

    /// The counts of a kind as they are.
    pub(super) fn counts(&self, kind: Kind) -> Counts {
        self.count(kind).clone()
    }

    /// The sum over all kinds that `which` chooses.
    pub(super) fn sum(&self, which: impl Fn(Kind) -> bool, of: impl Fn(&Counts) -> u64) -> u64 {
        Kind::ALL.into_iter().filter(|kind| which(*kind)).map(|kind| of(&self.count(kind))).sum()
    }

    /// Kinds that are not yet all ready.
    pub(super) fn unready(&self) -> Vec<String> {
        let missing = |kind: Kind| self.clients.number(kind).saturating_sub(self.count(kind).ready);
        let kinds = Kind::ALL.into_iter().filter(|kind| missing(*kind) > 0);
        kinds.map(|kind| format!("{} {}", missing(kind), kind.name())).collect()
    }

    /// Keeps a round trip.
    pub(super) fn keep(&self, trip: RoundTrip) {
        let mut trips = lock(&self.round_trips);
        if trips.len() < MAX_ROUND_TRIPS {
            trips.push(trip);
        }
    }

    /// All round trips.
    pub(super) fn round_trips(&self) -> Vec<RoundTrip> {
        lock(&self.round_trips).clone()
    }

    /// Tells the clients to finish.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether clients are to finish.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Tells all to stop.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// Whether all are to stop.
    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed) || machine::check_interrupt().is_err()
    }
}

impl Origin {
    /// Counts something wrong.
    pub(super) fn complain(&self, text: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        let mut examples = lock(&self.examples);
        if examples.len() < EXAMPLES {
            examples.push(text);
        }
    }
}

/// Takes a lock; what a thread that panicked has left is good enough to be reported.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted() {
        let mut counts = Counts::default();
        for failure in [Failure::Refused, Failure::Reset, Failure::Content, Failure::TimedOut] {
            counts.fail(&(failure, "x".into()));
        }
        assert_eq!((counts.refused, counts.reset, counts.wrong, counts.failed), (1, 1, 1, 1));
        assert_eq!(counts.failures(), 4);
        assert_eq!(counts.examples[2], "wrong content: x");
    }
}
