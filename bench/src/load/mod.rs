//! The load: connections that ask, wait, and check every byte of what comes back.
//!
//! One thread with epoll, because the generator must cost less than what it measures. Each connection has one exchange
//! at a time (a closed loop): latencies are those of a client that waits for its answer, not of one that arrives at a
//! fixed rate.

mod check;
mod conn;
mod engine;
mod latency;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::content::{self, HOST};

pub(crate) use self::check::{Check, HeadRule, Progress, Wrong};
pub(crate) use self::conn::{failure_of, frame};
pub(crate) use self::engine::Load;
pub(crate) use self::latency::Latencies;
pub(crate) use self::tally::{Failure, Tally};

/// A group of clients that all do the same.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What they are called in tables.
    pub(crate) name: &'static str,
    /// Where they connect to.
    pub(crate) address: SocketAddr,
    /// How many there are.
    pub(crate) connections: usize,
    /// What each of them does, again and again.
    pub(crate) work: Work,
    /// From the end of one exchange to the beginning of the next.
    pub(crate) pause: Duration,
    /// Bounds the speed of one connection.
    pub(crate) throttle: Option<Throttle>,
    /// Clients that are in their first exchange at the same time.
    pub(crate) first_at_once: usize,
}

/// So many bytes in so much time, in each direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throttle {
    /// Bytes at a time.
    pub(crate) bytes: usize,
    /// Time between two times.
    pub(crate) every: Duration,
}

/// One exchange.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// An HTTP request and its response.
    Http {
        /// Requests, taken in turns.
        requests: Vec<Arc<[u8]>>,
        /// The body that must come back, to the byte.
        response: Arc<[u8]>,
        /// Each request on a connection of its own.
        close: bool,
    },
    /// Bytes that must come back.
    Echo {
        /// How many.
        bytes: usize,
    },
    /// A WebSocket message that must come back.
    WebSocket {
        /// Payload.
        bytes: usize,
    },
}

impl Plan {
    /// Clients without pauses.
    pub(crate) const fn new(name: &'static str, address: SocketAddr, connections: usize, work: Work) -> Self {
        Self {
            name,
            address,
            connections,
            work,
            pause: Duration::ZERO,
            throttle: None,
            first_at_once: usize::MAX,
        }
    }
}

impl Work {
    /// GET requests for the body of a length.
    pub(crate) fn get(length: usize) -> Self {
        let head = format!("GET /{length} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        Self::Http { requests: vec![head.into_bytes().into()], response: content::body(length), close: false }
    }

    /// GET requests for the small body, each on a connection of its own.
    pub(crate) fn get_close() -> Self {
        let length = content::SMALL;
        let head = format!("GET /{length} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        Self::Http { requests: vec![head.into_bytes().into()], response: content::body(length), close: true }
    }

    /// GET requests for the small body from many hosts.
    pub(crate) fn get_hosts() -> Self {
        // A large step visits the hosts in an order that is not that of any configuration.
        const STEP: usize = 617;
        let length = content::SMALL;
        let request = |n: usize| {
            let host = content::host(n * STEP % content::HOSTS);
            format!("GET /{length} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes().into()
        };
        Self::Http {
            requests: (0..content::HOSTS).map(request).collect(),
            response: content::body(length),
            close: false,
        }
    }

    /// Uploads of the body of a length; the origin checks it.
    pub(crate) fn upload(length: usize) -> Self {
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let request = [head.as_bytes(), &content::body(length)].concat();
        let response = format!("received {length}\n").into_bytes().into();
        Self::Http { requests: vec![request.into()], response, close: false }
    }
}
