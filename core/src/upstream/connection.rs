//! A connection to an endpoint: the socket, and what is counted about it.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use ouro_shm::{Block, Stripe};

use crate::base::clock::Micros;
use crate::base::mutation::{Mutation, is_on};
use crate::ring::{Link, Ring, Socket};
use crate::stats::{ClusterScope, EndpointScope};

/// What is counted about an endpoint; shared by the endpoint and its connections, which may outlive it.
pub(super) struct EndpointStats {
    pub(super) cluster: Block<ClusterScope>,
    own: Block<EndpointScope>,
    stripe: Rc<Stripe>,
    /// The endpoint is no longer of its cluster: the cells are free when the last connection has ended.
    pub(super) is_removed: Cell<bool>,
}

impl EndpointStats {
    pub(super) fn new(
        cluster: Block<ClusterScope>,
        own: Block<EndpointScope>,
        stripe: Rc<Stripe>,
    ) -> Rc<Self> {
        Rc::new(Self { cluster, own, stripe, is_removed: Cell::new(false) })
    }

    /// A request is sent.
    pub(super) fn begin_request(&self) {
        self.cluster.inc(ClusterScope::RQ_TOTAL);
        self.cluster.raise(ClusterScope::RQ_ACTIVE, 1);
        self.own.inc(EndpointScope::RQ_TOTAL);
        self.own.raise(EndpointScope::RQ_ACTIVE, 1);
    }

    /// A request that another process has sent goes on here.
    pub(super) fn adopt_request(&self) {
        self.cluster.raise(ClusterScope::RQ_ACTIVE, 1);
        self.own.raise(EndpointScope::RQ_ACTIVE, 1);
    }

    /// A request that was sent goes on in another process.
    pub(super) fn release_request(&self) {
        self.cluster.lower(ClusterScope::RQ_ACTIVE, 1);
        self.own.lower(EndpointScope::RQ_ACTIVE, 1);
    }

    /// A request that was sent is over.
    pub(super) fn end_request(&self, outcome: RequestOutcome) {
        self.cluster.lower(ClusterScope::RQ_ACTIVE, 1);
        self.own.lower(EndpointScope::RQ_ACTIVE, 1);
        match outcome {
            RequestOutcome::Response(status) if status < 500 => self.own.inc(EndpointScope::RQ_SUCCESS),
            RequestOutcome::Response(_) => self.own.inc(EndpointScope::RQ_ERROR),
            RequestOutcome::TimedOut => {
                self.own.inc(EndpointScope::RQ_ERROR);
                self.own.inc(EndpointScope::RQ_TIMEOUT);
                self.cluster.inc(ClusterScope::RQ_TIMEOUT);
            }
            RequestOutcome::BrokenByOrigin => {
                self.own.inc(EndpointScope::RQ_ERROR);
                self.cluster.inc(ClusterScope::RQ_RX_RESET);
            }
            RequestOutcome::BrokenOff => self.cluster.inc(ClusterScope::RQ_TX_RESET),
        }
    }
}

impl Drop for EndpointStats {
    fn drop(&mut self) {
        if self.is_removed.get() {
            self.stripe.retire(self.own.clone());
        }
    }
}

/// How a request ended that was sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// With a whole response of this status.
    Response(u16),
    /// The origin did not answer in time.
    TimedOut,
    /// The origin closed the connection or broke the protocol.
    BrokenByOrigin,
    /// The proxy gave it up, mostly because the client did.
    BrokenOff,
}

/// A connection to an endpoint; dropping it closes it. Counted from its beginning to its end.
pub struct Connection {
    socket: Socket,
    ring: Ring,
    stats: Rc<EndpointStats>,
    opened: Micros,
    established: Cell<bool>,
    /// A request is in progress on it.
    busy: Cell<bool>,
    /// It goes on in another process.
    moved: Cell<bool>,
}

impl Connection {
    pub(super) fn new(socket: Socket, ring: &Ring, stats: Rc<EndpointStats>, http: bool) -> Self {
        let (cluster, own) = (&stats.cluster, &stats.own);
        cluster.inc(ClusterScope::CX_TOTAL);
        if http {
            cluster.inc(ClusterScope::CX_HTTP1_TOTAL);
        }
        cluster.raise(ClusterScope::CX_ACTIVE, 1);
        own.inc(EndpointScope::CX_TOTAL);
        own.raise(EndpointScope::CX_ACTIVE, 1);
        let opened = ring.now_us();
        let (established, busy) = (Cell::new(false), Cell::new(false));
        Self { socket, ring: ring.clone(), stats, opened, established, busy, moved: Cell::new(false) }
    }

    /// A connection that comes from another process, where it was counted when it began.
    pub(super) fn restored(socket: Socket, ring: &Ring, stats: Rc<EndpointStats>, open_us: Micros) -> Self {
        stats.cluster.raise(ClusterScope::CX_ACTIVE, 1);
        stats.own.raise(EndpointScope::CX_ACTIVE, 1);
        Self {
            socket,
            ring: ring.clone(),
            stats,
            opened: ring.now_us().saturating_sub(open_us),
            established: Cell::new(true),
            busy: Cell::new(false),
            moved: Cell::new(false),
        }
    }

    /// It goes on in another process: its end is not counted here.
    pub fn set_moved(&self) {
        self.moved.set(true);
    }

    /// How long it has been open.
    #[must_use]
    pub fn age(&self) -> Micros {
        self.ring.now_us() - self.opened
    }

    /// It is established: counts how long that took.
    pub fn count_established(&self) {
        if !self.established.replace(true) {
            self.cluster().record(ClusterScope::CX_CONNECT_TIME, self.ring.now_us() - self.opened);
        }
    }

    /// It could not be established, because it took too long or for another reason.
    pub fn count_failure(&self, timed_out: bool) {
        self.cluster().inc(ClusterScope::CX_CONNECT_FAIL);
        if timed_out {
            self.cluster().inc(ClusterScope::CX_CONNECT_TIMEOUT);
        }
        self.stats.own.inc(EndpointScope::CX_CONNECT_FAIL);
    }

    /// A request begins or ends on it.
    pub fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
    }

    /// Counts the bytes that have come and gone since the last time.
    pub fn count_traffic(&self) {
        let traffic = self.socket.take_traffic();
        self.cluster().add(ClusterScope::CX_RX_BYTES, traffic.received);
        self.cluster().add(ClusterScope::CX_TX_BYTES, traffic.sent);
    }

    /// Closes with RST.
    pub fn reset(self) {
        self.socket.reset_at_close();
    }

    fn cluster(&self) -> &Block<ClusterScope> {
        &self.stats.cluster
    }
}

impl Deref for Connection {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count_traffic();
        let (cluster, status) = (self.cluster(), self.socket.status());
        if self.moved.get() {
            cluster.lower(ClusterScope::CX_ACTIVE, 1);
            self.stats.own.lower(EndpointScope::CX_ACTIVE, 1);
            return;
        }
        if !self.busy.get() && is_on(Mutation::IdleEndUncounted) {
            return;
        }
        // What was queued and is thrown away now has not been sent after all.
        cluster.add(ClusterScope::CX_TX_BYTES, (status.unsent as u64).wrapping_neg());
        cluster.lower(ClusterScope::CX_ACTIVE, 1);
        cluster.inc(ClusterScope::CX_DESTROY);
        self.stats.own.lower(EndpointScope::CX_ACTIVE, 1);
        let remote = status.eof || status.recv_error != 0 || matches!(status.link, Link::Failed(_));
        cluster.inc(if remote { ClusterScope::CX_DESTROY_REMOTE } else { ClusterScope::CX_DESTROY_LOCAL });
        if self.busy.get() {
            cluster.inc(ClusterScope::CX_DESTROY_WITH_ACTIVE_RQ);
            cluster.inc(if remote {
                ClusterScope::CX_DESTROY_REMOTE_WITH_ACTIVE_RQ
            } else {
                ClusterScope::CX_DESTROY_LOCAL_WITH_ACTIVE_RQ
            });
        }
        if self.established.get() {
            cluster.record(ClusterScope::CX_LENGTH, self.ring.now_us() - self.opened);
        }
    }
}
