//! What the sessions of one worker share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::access_log::LogBuffer;
use super::http1::Exchange;
use crate::base::http::Fields;
use crate::base::random::Random;
use crate::config::model::{HttpListener, Listener, Protocol, TcpListener};
use crate::ring::Ring;
use crate::route::RouteTable;
use crate::upstream::Upstreams;

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
            log: RefCell::new(log),
            fields: RefCell::default(),
            spare: RefCell::default(),
            date: RefCell::default(),
        }
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

/// The right to have one connection open, counted per listener and for the process; given back when dropped.
pub struct Permit {
    listener: Arc<AtomicUsize>,
    process: Arc<AtomicUsize>,
    worker: Rc<Cell<usize>>,
}

impl Permit {
    /// Takes a permit unless one of the limits is reached.
    ///
    /// The counters are shared by all workers: one locked instruction each per connection, none per request.
    #[must_use]
    pub fn take(
        listener: (&Arc<AtomicUsize>, usize),
        process: (&Arc<AtomicUsize>, usize),
        worker: &Rc<Cell<usize>>,
    ) -> Option<Self> {
        if listener.0.fetch_add(1, Ordering::Relaxed) >= listener.1 {
            listener.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if process.0.fetch_add(1, Ordering::Relaxed) >= process.1 {
            process.0.fetch_sub(1, Ordering::Relaxed);
            listener.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        worker.set(worker.get() + 1);
        Some(Self {
            listener: Arc::clone(listener.0),
            process: Arc::clone(process.0),
            worker: Rc::clone(worker),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.listener.fetch_sub(1, Ordering::Relaxed);
        self.process.fetch_sub(1, Ordering::Relaxed);
        self.worker.set(self.worker.get() - 1);
    }
}
