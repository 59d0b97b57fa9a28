//! What the sessions of one worker share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ouro_shm::Block;

use super::access_log::LogBuffer;
use super::http1::Exchange;
use crate::base::clock::{Micros, Millis};
use crate::base::http::Fields;
use crate::base::random::Random;
use crate::config::model::{HttpListener, Listener, Protocol, TcpListener};
use crate::ring::Ring;
use crate::route::RouteTable;
use crate::stats::{HttpScope, ListenerScope, TcpScope, WorkerScope};
use crate::upstream::Upstreams;

/// How clients are sent away while another process takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// They stay.
    None,
    /// Each with its next response.
    AtOnce,
    /// With a chance that grows from nothing to certainty over this time, so that they do not all come back at once.
    Gradually {
        /// When it began, on the worker's clock.
        since: Millis,
        /// How long it takes.
        over_ms: Millis,
    },
}

/// Worker-wide state; one per worker, never shared with another.
pub struct Context {
    /// The worker's ring.
    pub ring: Ring,
    /// The worker's view of the clusters.
    pub upstreams: Upstreams,
    /// For choices that need no secrecy.
    pub random: RefCell<Random>,
    /// The worker is on its way out: connections end as soon as they decently can.
    pub draining: Cell<bool>,
    /// Whether clients are told with their next response to come back elsewhere; nothing is closed before that.
    pub farewell: Cell<Farewell>,
    /// Access-log lines on their way to the writer.
    pub log: RefCell<LogBuffer>,
    /// Scratch table for the head that is being looked at.
    pub(super) fields: RefCell<Fields>,
    /// Exchanges to use again, so that a request allocates none.
    #[allow(clippy::vec_box)] // moved in and out as boxes: that is what is saved
    pub(super) spare: RefCell<Vec<Box<Exchange>>>,
    date: RefCell<Date>,
}

#[derive(Default)]
struct Date {
    second: u64,
    text: String,
}

impl Context {
    /// The context of a worker.
    #[must_use]
    pub fn new(ring: Ring, upstreams: Upstreams, seed: u64, log: LogBuffer) -> Self {
        Self {
            ring,
            upstreams,
            random: RefCell::new(Random::new(seed)),
            draining: Cell::new(false),
            farewell: Cell::new(Farewell::None),
            log: RefCell::new(log),
            fields: RefCell::default(),
            spare: RefCell::default(),
            date: RefCell::default(),
        }
    }

    /// Whether every connection ends with its next response.
    pub(super) fn ends_connections(&self) -> bool {
        self.draining.get() || self.farewell.get() == Farewell::AtOnce
    }

    /// Whether connections end that could have gone on.
    pub(super) fn is_leaving(&self) -> bool {
        self.draining.get() || self.farewell.get() != Farewell::None
    }

    /// Whether a response that begins now is the last on its connection. To be asked once for each response: while
    /// clients are sent away gradually, it is a matter of chance.
    pub(super) fn says_farewell(&self) -> bool {
        if self.ends_connections() {
            return true;
        }
        let Farewell::Gradually { since, over_ms } = self.farewell.get() else { return false };
        let chance = usize::try_from(self.ring.now().saturating_sub(since)).unwrap_or(usize::MAX);
        let certainty = usize::try_from(over_ms).unwrap_or(usize::MAX);
        chance >= certainty || self.random.borrow_mut().below(certainty) < chance
    }

    /// Appends the time as an HTTP date (RFC 9110 section 5.6.7), formatted once a second.
    pub(super) fn write_date(&self, out: &mut Vec<u8>) {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut date = self.date.borrow_mut();
        if date.second != since_epoch.as_secs() || date.text.is_empty() {
            date.second = since_epoch.as_secs();
            date.text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + since_epoch);
        }
        out.extend_from_slice(date.text.as_bytes());
    }
}

/// A listener that speaks HTTP, with what was derived from its configuration.
pub struct HttpService {
    /// The whole listener.
    pub listener: Arc<Listener>,
    /// Routes, indexed.
    pub routes: RouteTable,
    /// Its counters.
    pub stats: Block<HttpScope>,
}

impl HttpService {
    /// The HTTP part of the configuration.
    ///
    /// # Panics
    /// If the listener speaks something else; [`super::http1::Http1`] is made for HTTP listeners only.
    #[must_use]
    pub fn http(&self) -> &HttpListener {
        match &self.listener.protocol {
            Protocol::Http(http) => http,
            Protocol::Tcp(_) => unreachable!("an HTTP session on a TCP listener"),
        }
    }
}

/// A listener that relays bytes.
pub struct TcpService {
    /// The whole listener.
    pub listener: Arc<Listener>,
    /// Its counters.
    pub stats: Block<TcpScope>,
}

impl TcpService {
    /// The TCP part of the configuration.
    ///
    /// # Panics
    /// If the listener speaks something else.
    #[must_use]
    pub fn tcp(&self) -> &TcpListener {
        match &self.listener.protocol {
            Protocol::Tcp(tcp) => tcp,
            Protocol::Http(_) => unreachable!("a TCP session on an HTTP listener"),
        }
    }
}

/// Lets connections of one listener in, as many as the limits of listener and process allow, and counts them.
pub struct Gate {
    /// Connections of the listener, all workers together, and how many there may be.
    pub listener: (Arc<AtomicUsize>, usize),
    /// Connections of the process, and how many there may be.
    pub process: (Arc<AtomicUsize>, usize),
    /// Connections of this worker.
    pub open: Rc<Cell<usize>>,
    /// Counters of the listener.
    pub stats: Block<ListenerScope>,
    /// Counters of the worker.
    pub worker: Block<WorkerScope>,
    /// The worker's clock.
    pub ring: Ring,
}

/// Which limit keeps a connection waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of the listener.
    Listener,
    /// That of the process.
    Process,
}

impl Gate {
    /// Lets a connection in unless one of the limits is reached.
    ///
    /// The two numbers are shared by all workers: one locked instruction each per connection, none per request.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn admit(self: &Rc<Self>) -> Result<Permit, Full> {
        if self.listener.0.fetch_add(1, Ordering::Relaxed) >= self.listener.1 {
            self.listener.0.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Listener);
        }
        if self.process.0.fetch_add(1, Ordering::Relaxed) >= self.process.1 {
            self.process.0.fetch_sub(1, Ordering::Relaxed);
            self.listener.0.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Process);
        }
        self.open.set(self.open.get() + 1);
        self.stats.inc(ListenerScope::CX_TOTAL);
        self.stats.raise(ListenerScope::CX_ACTIVE, 1);
        self.worker.raise(WorkerScope::CX_ACTIVE, 1);
        Ok(Permit { gate: Rc::clone(self), since: self.ring.now_us(), moved: false })
    }

    /// Lets a connection in that comes from another process, where it was counted when it began. Limits do not matter: it
    /// is there already.
    pub fn admit_moved(self: &Rc<Self>, open_us: Micros) -> Permit {
        self.listener.0.fetch_add(1, Ordering::Relaxed);
        self.process.0.fetch_add(1, Ordering::Relaxed);
        self.open.set(self.open.get() + 1);
        self.stats.raise(ListenerScope::CX_ACTIVE, 1);
        self.worker.raise(WorkerScope::CX_ACTIVE, 1);
        Permit { gate: Rc::clone(self), since: self.ring.now_us().saturating_sub(open_us), moved: false }
    }

    /// Counts that accepting pauses because of a limit.
    pub fn count_full(&self, full: Full) {
        self.stats.inc(match full {
            Full::Listener => ListenerScope::CX_OVERFLOW,
            Full::Process => ListenerScope::GLOBAL_CX_OVERFLOW,
        });
    }
}

/// The right to have one connection open, given back when dropped.
pub struct Permit {
    gate: Rc<Gate>,
    since: Micros,
    moved: bool,
}

impl Permit {
    /// How long the connection has been open.
    #[must_use]
    pub fn age(&self) -> Micros {
        self.gate.ring.now_us() - self.since
    }

    /// The connection goes on in another process: its end is not counted here.
    pub fn set_moved(&mut self) {
        self.moved = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let gate = &self.gate;
        gate.listener.0.fetch_sub(1, Ordering::Relaxed);
        gate.process.0.fetch_sub(1, Ordering::Relaxed);
        gate.open.set(gate.open.get() - 1);
        gate.stats.lower(ListenerScope::CX_ACTIVE, 1);
        if !self.moved {
            gate.stats.inc(ListenerScope::CX_DESTROY);
            gate.stats.record(ListenerScope::CX_LENGTH, self.age());
        }
        gate.worker.lower(WorkerScope::CX_ACTIVE, 1);
    }
}
