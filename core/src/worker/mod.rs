//! One core: a ring, its listeners, and the sessions of what they accept.
//!
//! A worker shares nothing with the others but the counts of open connections. It knows nothing of signals or of how
//! listeners came to be; the server hands it everything and talks to it through a mailbox.

mod accept;
mod handover;
#[cfg(feature = "sim")]
mod probe;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ouro_shm::{Block, Membership, Stripe};

use crate::base::clock::{Millis, NEVER};
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::config::model::{ClusterIndex, Model, Protocol};
use crate::proxy::{Context, Deliver, Farewell, Gate, HttpService, LogBuffer, Session, TcpService};
use crate::ring::{Capabilities, Ring, RingStats, Run, TaskId, mailbox};
use crate::route::RouteTable;
use crate::stats::{Entities, HandoverScope, ListenerEntities, WorkerScope};
use crate::upstream::{Endpoints, Upstreams};

use self::accept::{Acceptance, Service};
use self::handover::{Door, Mover, drive, send_parcels, take_parcels};

/// How often a worker closes expired pooled connections and hands over access-log lines.
const HOUSEKEEPING_MS: u64 = 500;

/// What the server tells a worker.
pub enum Message {
    /// The endpoints of a cluster have been resolved anew.
    Endpoints(ClusterIndex, Endpoints),
    /// Accept nothing for the time being: another process does. The listening sockets stay open; what was accepted is
    /// served. [`Report::Paused`] says when accepting has stopped.
    Pause,
    /// Accept again.
    Resume,
    /// Hand connections to the next process on this channel, as far as they can go. [`Report::PoolsMoved`] says when the
    /// idle ones to origins are gone.
    HandOver(Box<ouro_restart::Connection>),
    /// Take connections from the process before on this channel.
    TakeParcels(Box<ouro_restart::Connection>, Arrival),
    /// Accept what waits in the queues now. The kernel wakes one of those who accept from a queue; a process that has
    /// accepted from the same ones, and is gone, may have been that one.
    Look,
    /// Serve what waits in the queues of these listeners, by the addresses that they are bound to, and close them.
    /// [`Report::Released`] says when that is done.
    Release(Arc<HashSet<String>>),
    /// Tell clients with the next responses on their connections to come back elsewhere: all of them at once, or with a
    /// chance that grows to certainty over this time; `None`: no more.
    Farewell(Option<Millis>),
    /// Accept nothing more, and go on with what there is.
    StopAccepting,
    /// Accept nothing more, end every connection as soon as it decently can, then stop.
    Drain,
    /// Stop now.
    Stop,
}

/// What a worker tells the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It accepts connections.
    Ready,
    /// It accepts nothing any more, after [`Message::Pause`].
    Paused,
    /// The queues of all listeners of a [`Message::Release`] are empty, and these are closed.
    Released,
    /// No idle connection to an origin is left, after [`Message::HandOver`].
    PoolsMoved,
}

/// Connections of the whole process and of each listener; shared by all workers, touched once per connection.
#[derive(Debug)]
pub struct Connections {
    process: Arc<AtomicUsize>,
    listeners: Vec<Arc<AtomicUsize>>,
    /// Channels on which connections come from the process before.
    arrivals: Arc<AtomicUsize>,
    /// Such channels may yet come.
    expected: AtomicBool,
}

/// A channel on which connections come from the process before, as long as they do.
#[derive(Debug)]
pub struct Arrival(Arc<AtomicUsize>);

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Nothing is open yet.
    #[must_use]
    pub fn new(listeners: usize) -> Self {
        Self {
            process: Arc::default(),
            listeners: (0..listeners).map(|_| Arc::default()).collect(),
            arrivals: Arc::default(),
            expected: AtomicBool::new(false),
        }
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.process.load(Ordering::Relaxed)
    }

    /// A channel has come on which connections will.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        Arrival(Arc::clone(&self.arrivals))
    }

    /// Whether such channels may yet come.
    pub fn expect_arrivals(&self, expected: bool) {
        self.expected.store(expected, Ordering::Relaxed);
    }

    /// Whether connections of the process before still come, or may yet.
    #[must_use]
    pub fn are_arriving(&self) -> bool {
        self.expected.load(Ordering::Relaxed) || self.arrivals.load(Ordering::Relaxed) > 0
    }
}

/// Files the parts of the configuration in the segment, as workers count them.
#[must_use]
pub fn entities(membership: &Membership, model: &Model, workers: usize) -> Entities {
    let listeners = model.listeners.iter().map(|listener| {
        let is_http = matches!(listener.protocol, Protocol::Http(_));
        let labels: &[&str] = &[&listener.name];
        ListenerEntities {
            listener: membership.register(labels),
            http: is_http.then(|| membership.register(labels)),
            tcp: (!is_http).then(|| membership.register(labels)),
        }
    });
    Entities {
        listeners: listeners.collect(),
        clusters: model.clusters.iter().map(|cluster| membership.register(&[&cluster.name])).collect(),
        workers: (0..workers).map(|n| membership.register(&[&n.to_string()])).collect(),
        handover: Some(membership.register(&[])),
    }
}

/// Everything that a worker starts with.
pub struct Worker {
    /// The configuration.
    pub model: Arc<Model>,
    /// The listening sockets of each listener of the configuration, in its order.
    pub sockets: Vec<Vec<OwnedFd>>,
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
    /// Serves until told to stop. `report` is called on this thread.
    ///
    /// # Errors
    /// When the ring cannot be set up or fails.
    pub fn run(self, report: impl Fn(Report) + 'static) -> io::Result<()> {
        let mut running = self.begin(report)?;
        while running.turn() {}
        running.end()
    }

    /// The same turn by turn, for whoever drives several workers in one thread.
    ///
    /// # Errors
    /// When the ring cannot be set up.
    pub fn begin(self, report: impl Fn(Report) + 'static) -> io::Result<Running> {
        let server = &self.model.server;
        let ring =
            Ring::new(server.buffer_size, server.buffer_memory, server.moderation_us, &self.capabilities)?;
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
            accepts: Cell::new(Accepts::All),
            paused: Cell::new(0),
            looks: Cell::new(0),
            queues_are_anothers: Cell::new(false),
            bound: RefCell::default(),
            released: RefCell::default(),
            report: Box::new(report),
            mover: RefCell::default(),
            connections: Arc::clone(&self.connections),
            doors: RefCell::default(),
            stats: counted.clone(),
            handovers: entities.handover.map_or_else(Block::detached, |id| stripe.block(id)),
        });
        let listeners: Vec<_> = self
            .model
            .listeners
            .iter()
            .zip(self.sockets)
            .zip(&self.connections.listeners)
            .zip(&entities.listeners)
            .flat_map(|(((listener, sockets), count), entities)| {
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
                let gate = Rc::new(gate);
                shared.doors.borrow_mut().push(Door {
                    listener: listener.name.clone(),
                    service: service.clone(),
                    gate: Rc::clone(&gate),
                });
                let shared = &shared;
                sockets.into_iter().map(move |socket| Acceptance {
                    shared: Rc::clone(shared),
                    listener: Arc::clone(listener),
                    socket: Some(socket),
                    service: service.clone(),
                    gate: Rc::clone(&gate),
                })
            })
            .collect();
        let mailbox = self.mailbox;
        let run = ring.begin(serve(Rc::clone(&shared), listeners, mailbox));
        Ok(Running { run, ring, shared, counted })
    }
}

/// A worker between two turns of its loop.
pub struct Running {
    run: Run,
    ring: Ring,
    shared: Rc<Shared>,
    counted: Block<WorkerScope>,
}

impl Running {
    /// One turn. False: it has ended.
    pub fn turn(&mut self) -> bool {
        self.run.turn()
    }

    /// Whether there is something to do without anything happening before.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.run.is_busy()
    }

    /// What the ring has seen.
    #[must_use]
    pub fn ring_stats(&self) -> RingStats {
        self.ring.stats()
    }

    /// Kills the process: nothing of its code runs any more, and the kernel closes what it had.
    #[cfg(feature = "sim")]
    pub fn kill(self) {
        let Self { run, ring, shared, counted } = self;
        run.kill();
        drop((shared, counted, ring));
    }

    /// Its connections are cut off from here on: what their peers see is nobody's fault.
    #[cfg(feature = "sim")]
    pub fn give_up(&self) {
        self.run.give_up();
    }

    /// Leaves the last counts behind.
    ///
    /// # Errors
    /// When the ring has failed.
    pub fn end(self) -> io::Result<()> {
        self.shared.context.log.borrow_mut().flush();
        publish(&self.counted, &self.ring);
        tracing::debug!(stats = ?self.ring.stats(), "the ring has ended");
        self.run.into_result()
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
    /// What the accept loops are to do.
    accepts: Cell<Accepts>,
    /// Accept loops that have stopped for the time being.
    paused: Cell<usize>,
    /// How often the accept loops were told to look into the queues themselves.
    looks: Cell<u64>,
    /// Another process accepts from the same sockets: what waits in their queues is its.
    queues_are_anothers: Cell<bool>,
    /// Addresses that accept loops, those that still run, are bound to.
    bound: RefCell<Vec<String>>,
    /// Addresses of listeners that are given up.
    released: RefCell<Option<Arc<HashSet<String>>>>,
    report: Box<dyn Fn(Report)>,
    /// Hands sessions to the next process.
    mover: RefCell<Option<Rc<Mover>>>,
    /// Shared with the other workers.
    connections: Arc<Connections>,
    /// For connections that come from the process before.
    doors: RefCell<Vec<Door>>,
    stats: Block<WorkerScope>,
    /// Connections that move are counted here.
    handovers: Block<HandoverScope>,
}

/// What accept loops are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepts {
    /// Accept.
    All,
    /// Accept nothing for the time being.
    Paused,
    /// Come to an end.
    Nothing,
}

impl Shared {
    /// An accept loop has stopped for the time being, or has ended: the last one to do so tells the server.
    fn accepting_stopped(&self) {
        if self.accepts.get() == Accepts::Paused && self.paused.get() >= self.accepting.get() {
            (self.report)(Report::Paused);
        }
    }

    /// An accept loop has ended, or some are to: the last one whose listener is given up tells the server.
    fn released_one(&self) {
        let mut released = self.released.borrow_mut();
        let remains = |set: &Arc<HashSet<String>>| self.bound.borrow().iter().any(|at| set.contains(at));
        if released.as_ref().is_some_and(|set| !remains(set)) {
            *released = None;
            drop(released);
            (self.report)(Report::Released);
        }
    }

    /// Has `task` woken when a connection of this worker ends.
    fn wait_for_an_end(&self, task: TaskId) {
        let mut blocked = self.blocked.borrow_mut();
        if !blocked.contains(&task) {
            blocked.push(task);
        }
    }

    /// What hands sessions to the next process, if there is one.
    #[inline]
    fn mover(&self) -> Option<Rc<Mover>> {
        self.mover.borrow().as_ref().map(Rc::clone)
    }

    /// Drives a session in a task of its own.
    fn spawn(self: &Rc<Self>, mut session: impl Session + 'static) {
        let shared = Rc::clone(self);
        // The session stays where the task has it from the first: a copy would double what an idle connection costs.
        let task = async move {
            #[cfg(feature = "sim")]
            if !probe::drive(&mut session, &shared).await {
                return shared.spawn(session);
            }
            #[cfg(not(feature = "sim"))]
            drive(&mut session, &shared).await;
            drop(session);
            shared.connection_ended();
        };
        debug_assert!(
            size_of_val(&task) <= limits::TASK_BYTES,
            "a task has grown to {} bytes",
            size_of_val(&task)
        );
        self.context.ring.spawn(task);
    }

    /// A connection has ended: whoever waits for that may look again.
    fn connection_ended(&self) {
        for task in self.blocked.borrow_mut().drain(..) {
            self.context.ring.wake(task);
        }
        if let Some(mover) = &*self.mover.borrow() {
            mover.look(&self.context.ring);
        }
        if self.context.draining.get() && self.open.get() == 0 {
            self.context.ring.wake(self.root.get());
        }
    }
}

/// The root task: starts everything, obeys the mailbox, ends when there is nothing left to do.
async fn serve(shared: Rc<Shared>, listeners: Vec<Acceptance>, mailbox: mailbox::Unbound<Message>) {
    let ring = shared.context.ring.clone();
    shared.root.set(ring.current_task());
    let mailbox = mailbox.bind(&ring, ring.current_task());
    ring.spawn(keep_house(Rc::clone(&shared)));
    shared.accepting.set(listeners.len());
    for listener in listeners {
        ring.spawn(listener.run());
    }
    (shared.report)(Report::Ready);
    loop {
        while let Some(message) = mailbox.take() {
            match message {
                Message::Endpoints(cluster, endpoints) => {
                    shared.context.upstreams.cluster(cluster).change_endpoints(&endpoints);
                }
                Message::Pause => {
                    shared.accepts.set(Accepts::Paused);
                    shared.queues_are_anothers.set(true);
                    ring.wake_all();
                    shared.accepting_stopped();
                }
                Message::Resume => {
                    if let Some(mover) = shared.mover.borrow_mut().take() {
                        mover.give_up(&ring);
                    }
                    if !is_on(Mutation::ResumeForgotten) {
                        shared.accepts.set(Accepts::All);
                    }
                    shared.queues_are_anothers.set(false);
                    ring.wake_all();
                }
                Message::Look => {
                    shared.looks.set(shared.looks.get() + 1);
                    ring.wake_all();
                }
                Message::Release(addresses) => {
                    *shared.released.borrow_mut() = Some(addresses);
                    ring.wake_all();
                    shared.released_one();
                }
                Message::HandOver(channel) => {
                    let mover = Mover::new(shared.handovers.clone());
                    *shared.mover.borrow_mut() = Some(Rc::clone(&mover));
                    ring.spawn(send_parcels(Rc::clone(&shared), mover, *channel));
                }
                Message::TakeParcels(channel, arrival) => {
                    ring.spawn(take_parcels(Rc::clone(&shared), *channel, arrival));
                }
                Message::Farewell(over) => shared.context.farewell.set(match over {
                    None => Farewell::None,
                    Some(0) => Farewell::AtOnce,
                    Some(over_ms) => Farewell::Gradually { since: ring.now(), over_ms },
                }),
                Message::StopAccepting => {
                    shared.accepts.set(Accepts::Nothing);
                    ring.wake_all();
                }
                Message::Drain => {
                    shared.accepts.set(Accepts::Nothing);
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
                shared.stats.add(WorkerScope::ACCESS_LOG_LOST, log.dropped);
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
    stats.publish(WorkerScope::MODERATED, ring.moderated);
    stats.publish(WorkerScope::SUBMISSIONS, ring.submissions);
    stats.publish(WorkerScope::COMPLETIONS, ring.completions);
    stats.publish(WorkerScope::ENOBUFS, ring.no_buffers);
    stats.publish(WorkerScope::CQ_OVERFLOW, ring.completion_overflows);
    stats.publish(WorkerScope::STALLED_CUT_OFF, ring.cut_off);
    stats.set(WorkerScope::BUFFERS, ring.buffers as u64);
    stats.set(WorkerScope::BUFFERS_IN_USE, ring.buffers_in_use as u64);
    stats.set(WorkerScope::SOCKETS, ring.sockets as u64);
}
