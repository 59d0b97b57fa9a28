//! One core: a ring, its listeners, and the sessions of what they accept.
//!
//! A worker shares nothing with the others but the counts of open connections. It knows nothing of signals or of how
//! listeners came to be; the server hands it everything and talks to it through a mailbox.

mod accept;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ouro_shm::{Block, Stripe};

use crate::base::clock::NEVER;
use crate::config::model::{ClusterIndex, Model, Protocol};
use crate::proxy::{Context, Deliver, Gate, HttpService, LogBuffer, TcpService};
use crate::ring::{Capabilities, Ring, TaskId, mailbox};
use crate::route::RouteTable;
use crate::stats::{Entities, WorkerScope};
use crate::upstream::{Endpoints, Upstreams};

use self::accept::{Acceptance, Service};

/// How often a worker closes expired pooled connections and hands over access-log lines.
const HOUSEKEEPING_MS: u64 = 500;

/// What the server tells a worker.
#[derive(Debug)]
pub enum Message {
    /// The endpoints of a cluster have been resolved anew.
    Endpoints(ClusterIndex, Endpoints),
    /// Accept nothing more, and go on with what there is. `graceful`: clients are told, with the next response on each
    /// connection, to come back elsewhere.
    StopAccepting {
        /// See above.
        graceful: bool,
    },
    /// Accept nothing more, end every connection as soon as it decently can, then stop.
    Drain,
    /// Stop now.
    Stop,
}

/// Connections of the whole process and of each listener; shared by all workers, touched once per connection.
#[derive(Debug)]
pub struct Connections {
    process: Arc<AtomicUsize>,
    listeners: Vec<Arc<AtomicUsize>>,
}

impl Connections {
    /// Nothing is open yet.
    #[must_use]
    pub fn new(listeners: usize) -> Self {
        Self { process: Arc::default(), listeners: (0..listeners).map(|_| Arc::default()).collect() }
    }
}

/// Everything that a worker starts with.
pub struct Worker {
    /// The configuration.
    pub model: Arc<Model>,
    /// A listening socket for each listener of the configuration, in its order.
    pub sockets: Vec<OwnedFd>,
    /// The endpoints of each cluster, as far as they are known.
    pub endpoints: Vec<Endpoints>,
    /// Position among the workers of the process.
    pub index: usize,
    /// What the counters are filed under.
    pub entities: Arc<Entities>,
    /// Where this worker counts.
    pub stripe: Stripe,
    /// Messages from the server.
    pub mailbox: mailbox::Unbound<Message>,
    /// Counts shared with the other workers.
    pub connections: Arc<Connections>,
    /// What the kernel can do.
    pub capabilities: Capabilities,
    /// Where access-log lines go.
    pub deliver_log: Deliver,
    /// Seed for choices that need no secrecy.
    pub seed: u64,
}

impl Worker {
    /// Serves until told to stop. `ready` is called once everything is set up.
    ///
    /// # Errors
    /// When the ring cannot be set up or fails.
    pub fn run(self, ready: impl FnOnce() + 'static) -> io::Result<()> {
        let server = &self.model.server;
        let ring = Ring::new(server.buffer_size, server.buffer_memory, &self.capabilities)?;
        let stripe = Rc::new(self.stripe);
        let entities = &self.entities;
        let counts_members = self.index == 0;
        let upstreams = Upstreams::new(
            &self.model.clusters,
            &self.endpoints,
            &entities.clusters,
            &stripe,
            counts_members,
        );
        let counted = entities.workers.get(self.index).map_or_else(Block::detached, |id| stripe.block(*id));
        let log = LogBuffer::new(self.deliver_log);
        let shared = Rc::new(Shared {
            context: Rc::new(Context::new(ring.clone(), upstreams, self.seed, log)),
            open: Rc::default(),
            root: Cell::new(TaskId::NONE),
            blocked: RefCell::default(),
            accepting: Cell::new(0),
            closed: Cell::new(false),
            stats: counted.clone(),
        });
        let listeners: Vec<_> = self
            .model
            .listeners
            .iter()
            .zip(self.sockets)
            .zip(&self.connections.listeners)
            .zip(&entities.listeners)
            .map(|(((listener, socket), count), entities)| {
                let service = match &listener.protocol {
                    Protocol::Http(http) => Service::Http(Rc::new(HttpService {
                        listener: Arc::clone(listener),
                        routes: RouteTable::new(&http.routes),
                        stats: entities.http.map_or_else(Block::detached, |id| stripe.block(id)),
                    })),
                    Protocol::Tcp(_) => Service::Tcp(Rc::new(TcpService {
                        listener: Arc::clone(listener),
                        stats: entities.tcp.map_or_else(Block::detached, |id| stripe.block(id)),
                    })),
                };
                let gate = Gate {
                    listener: (Arc::clone(count), listener.max_connections),
                    process: (Arc::clone(&self.connections.process), server.max_connections),
                    open: Rc::clone(&shared.open),
                    stats: stripe.block(entities.listener),
                    worker: counted.clone(),
                    ring: ring.clone(),
                };
                Acceptance {
                    shared: Rc::clone(&shared),
                    listener: Arc::clone(listener),
                    socket: Some(socket),
                    service,
                    gate: Rc::new(gate),
                }
            })
            .collect();
        let mailbox = self.mailbox;
        let result = ring.run(serve(Rc::clone(&shared), listeners, mailbox, ready));
        shared.context.log.borrow_mut().flush();
        publish(&counted, &ring);
        tracing::debug!(stats = ?ring.stats(), "the ring has ended");
        result
    }
}

/// What the tasks of one worker share beside the sessions' context.
struct Shared {
    context: Rc<Context>,
    /// Connections of this worker.
    open: Rc<Cell<usize>>,
    root: Cell<TaskId>,
    /// Accept loops that wait for a connection to end.
    blocked: RefCell<Vec<TaskId>>,
    /// Accept loops that still run.
    accepting: Cell<usize>,
    /// Nothing more is accepted.
    closed: Cell<bool>,
    stats: Block<WorkerScope>,
}

impl Shared {
    /// Has `task` woken when a connection of this worker ends.
    fn wait_for_an_end(&self, task: TaskId) {
        let mut blocked = self.blocked.borrow_mut();
        if !blocked.contains(&task) {
            blocked.push(task);
        }
    }

    /// A connection has ended: whoever waits for that may look again.
    fn connection_ended(&self) {
        for task in self.blocked.borrow_mut().drain(..) {
            self.context.ring.wake(task);
        }
        if self.context.draining.get() && self.open.get() == 0 {
            self.context.ring.wake(self.root.get());
        }
    }
}

/// The root task: starts everything, obeys the mailbox, ends when there is nothing left to do.
async fn serve(
    shared: Rc<Shared>,
    listeners: Vec<Acceptance>,
    mailbox: mailbox::Unbound<Message>,
    ready: impl FnOnce(),
) {
    let ring = shared.context.ring.clone();
    shared.root.set(ring.current_task());
    let mailbox = mailbox.bind(&ring, ring.current_task());
    ring.spawn(keep_house(Rc::clone(&shared)));
    shared.accepting.set(listeners.len());
    for listener in listeners {
        ring.spawn(listener.run());
    }
    ready();
    loop {
        while let Some(message) = mailbox.take() {
            match message {
                Message::Endpoints(cluster, endpoints) => {
                    shared.context.upstreams.cluster(cluster).change_endpoints(&endpoints);
                }
                Message::StopAccepting { graceful } => {
                    shared.closed.set(true);
                    shared.context.farewell.set(graceful);
                    ring.wake_all();
                }
                Message::Drain => {
                    shared.closed.set(true);
                    shared.context.draining.set(true);
                    ring.wake_all();
                }
                Message::Stop => return,
            }
        }
        if shared.context.draining.get() && shared.accepting.get() == 0 && shared.open.get() == 0 {
            return;
        }
        ring.wait(NEVER).await;
    }
}

/// Closes pooled connections that expired or to which something happened, and hands over access-log lines.
async fn keep_house(shared: Rc<Shared>) {
    let context = &shared.context;
    context.ring.adopt_orphans();
    let mut next = 0;
    loop {
        let mut stirred = false;
        while context.ring.next_orphan().is_some() {
            stirred = true;
        }
        let now = context.ring.now();
        if stirred || now >= next {
            context.upstreams.sweep(now);
            let mut log = context.log.borrow_mut();
            log.flush();
            if log.dropped > 0 {
                tracing::warn!(
                    lines = std::mem::take(&mut log.dropped),
                    "access-log lines lost: the writer is too slow"
                );
            }
            drop(log);
            publish(&shared.stats, &context.ring);
            next = now + HOUSEKEEPING_MS;
        }
        context.ring.wait(next).await;
    }
}

/// Publishes what the ring counts by itself.
fn publish(stats: &Block<WorkerScope>, ring: &Ring) {
    let ring = ring.stats();
    stats.publish(WorkerScope::ENTERS, ring.enters);
    stats.publish(WorkerScope::SUBMISSIONS, ring.submissions);
    stats.publish(WorkerScope::COMPLETIONS, ring.completions);
    stats.publish(WorkerScope::ENOBUFS, ring.no_buffers);
    stats.publish(WorkerScope::CQ_OVERFLOW, ring.completion_overflows);
    stats.publish(WorkerScope::STALLED_CUT_OFF, ring.cut_off);
    stats.set(WorkerScope::BUFFERS, ring.buffers as u64);
    stats.set(WorkerScope::BUFFERS_IN_USE, ring.buffers_in_use as u64);
    stats.set(WorkerScope::SOCKETS, ring.sockets as u64);
}
