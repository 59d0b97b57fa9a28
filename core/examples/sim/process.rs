//! A process of the code under test: its worker, its roles in restarts, and what the server does between them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use ouro::config::model::{Address, Endpoint, EndpointTarget, Listener};
use ouro::ring::sim;
use ouro::ring::{Capabilities, mailbox};
use ouro::server::course::{Course, Dependents, LAST_WORDS_MS, Left, Paused};
use ouro::server::roles::Roles;
use ouro::upstream::KnownEndpoint;
use ouro::worker::{self, Connections, Message, Report, Running, Worker};
use ouro_restart::message::{DrainListeners, ParcelChannel};
use ouro_restart::parent::PeerId;
use ouro_restart::{Connection, Frame, Identity, child, parent};
use ouro_shm::{Joining, Membership};

use crate::instance::Instance;
use crate::roles::Ends;
use crate::scenario::note;
use crate::wires::{Life, Load, Side};

/// How often a process that drains looks how many connections are left.
const DRAIN_LOOK_US: u64 = 10_000;
/// How long an address may be in use before that is an error, and how often it is tried.
const BIND_PATIENCE_US: u64 = 15_000_000;
const BIND_RETRY_US: u64 = 10_000;

/// What the roles want from the process as a whole.
pub enum Todo {
    Prepare { epoch: u32 },
    TakeOver,
    StopAccepting,
    Resume,
    CloseListeners,
    BeginDrain { drain: DrainListeners, live: Option<PeerId> },
    TakeParcels(Box<Connection>),
    AttemptFailed,
    Exit { cut: u64 },
    Fail,
}

/// The worker and what the server has for it.
pub struct WorkerSide {
    pub ring: usize,
    pub running: Option<Running>,
    mailbox: mailbox::Sender<Message>,
    pub reports: Rc<RefCell<VecDeque<Report>>>,
    pub connections: Arc<Connections>,
    pub membership: Membership,
}

/// Preparing to serve.
#[derive(Clone, Copy)]
pub enum Preparing {
    /// An address is in use: the epoch, when to try again and until when.
    Binding(u32, u64, u64),
    /// The worker starts.
    Starting,
}

pub struct Process {
    pub worker: Option<WorkerSide>,
    pub roles: Roles<Life>,
    pub course: Course,
    pub ends: Ends,
    /// It has a descriptor of the restart socket.
    pub holds: bool,
    pub inherited: Vec<OwnedFd>,
    pub offered: Vec<OwnedFd>,
    pub todo: VecDeque<Todo>,
    pub preparing: Option<Preparing>,
    pub look_at: Option<u64>,
    pub deadline: Option<u64>,
    /// Until when it waits for a session that is in a rare state, with handing over.
    pub aims_until: Option<u64>,
    pub is_orphaned: bool,
    /// The process whose listening sockets it has got.
    pub before: Option<usize>,
    /// Its worker has been told to accept, and not to stop.
    pub accepts: bool,
    pub has_accepted: bool,
    /// It is on its way out, by the word of its successor.
    pub leaves: bool,
    /// It has told the process before to end.
    pub has_dismissed: bool,
    pub stalled_until: u64,
    /// It hung for so long that others who asked whether somebody serves had no answer, or did not hear what became of them;
    /// or it has taken over from such a one while others were left whom nobody had told.
    pub has_hung: bool,
    pub gone: bool,
    /// The same for others.
    pub life: Life,
}

impl Process {
    pub fn new(identity: Identity, options: child::Options) -> Self {
        Self {
            worker: None,
            roles: Roles::new(identity, options),
            course: Course::default(),
            ends: Ends::default(),
            holds: false,
            inherited: Vec::new(),
            offered: Vec::new(),
            todo: VecDeque::new(),
            preparing: None,
            look_at: None,
            deadline: None,
            aims_until: None,
            is_orphaned: false,
            before: None,
            accepts: false,
            has_accepted: false,
            leaves: false,
            has_dismissed: false,
            stalled_until: 0,
            has_hung: false,
            gone: false,
            life: Life::default(),
        }
    }

    pub fn running(&self) -> Option<&Running> {
        self.worker.as_ref()?.running.as_ref()
    }

    pub fn open(&self) -> u64 {
        self.worker.as_ref().map_or(0, |worker| worker.connections.open() as u64)
    }

    fn expect_arrivals(&self) {
        if let Some(worker) = &self.worker {
            worker.connections.expect_arrivals(self.roles.expects_channels());
        }
    }

    /// Connections of the process before still come, or may yet.
    fn are_arriving(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.connections.are_arriving())
    }

    /// Has its listening sockets, and nothing that speaks against going on to serve.
    pub fn could_serve(&self, now: u64) -> bool {
        let has_sockets = !self.offered.is_empty() || !self.inherited.is_empty();
        let is_free = !self.ends() && !self.is_orphaned && self.stalled_until <= now;
        !self.gone && has_sockets && self.holds && is_free
    }

    /// It is on its way out.
    pub fn ends(&self) -> bool {
        self.course.is_failing() || self.course.is_stopping() || self.leaves
    }

    pub fn tell(&self, message: Message) {
        if let Some(worker) = &self.worker {
            let _ = worker.mailbox.send(message);
        }
    }

    fn end_soon(&mut self, now: u64, timeout_ms: u64) {
        self.offered.clear();
        self.accepts = false;
        self.tell(Message::Drain);
        self.deadline = Some(now + timeout_ms * 1000);
    }

    /// When there is something to do but for frames and timers of the roles.
    pub fn due_at(&self, now: u64) -> u64 {
        let reports = self.worker.as_ref().is_some_and(|worker| !worker.reports.borrow().is_empty());
        let waits =
            self.aims_until.filter(|_| self.todo.len() == 1 && !sim::with(|world| world.aim_is_hit()));
        if reports || (!self.todo.is_empty() && waits.is_none()) {
            return now;
        }
        let queue_look = self.course.queue_look().map(|ms| ms * 1000);
        let looks = [self.look_at, queue_look, self.deadline, waits];
        looks.into_iter().flatten().min().unwrap_or(u64::MAX)
    }
}

impl Instance {
    /// Does one of the things that the process has to do, apart from what its roles wait for.
    pub fn work(&mut self, n: usize, now: u64) -> bool {
        if let Some(Preparing::Binding(epoch, at, until)) = self.processes[n].preparing {
            if at <= now {
                self.prepare(n, epoch, until);
            }
            return at <= now;
        }
        // The real process does at once what the roles want: it waits no longer once they want something else as well.
        let todo = &self.processes[n].todo;
        let begins = matches!(todo.front(), Some(Todo::BeginDrain { live: Some(_), .. }));
        let waits = begins && self.waits_for_aim(n, now);
        if self.processes[n].preparing.is_none()
            && !waits
            && let Some(todo) = self.processes[n].todo.pop_front()
        {
            self.act(n, todo, now);
            return true;
        }
        let worker = self.processes[n].worker.as_ref();
        if let Some(report) = worker.and_then(|worker| worker.reports.borrow_mut().pop_front()) {
            self.on_report(n, report, now);
            return true;
        }
        let process = &mut self.processes[n];
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if is_due(process.deadline) {
            process.deadline = None;
            sim::with(|world| {
                world.count("connections cut off when the time was up");
                world.note(|| format!("process {n} cuts off what is left"));
            });
            if let Some(running) = process.running() {
                running.give_up();
            }
            process.tell(Message::Stop);
        } else if is_due(process.look_at) {
            process.look_at = Some(now + DRAIN_LOOK_US);
            if process.is_orphaned && !process.course.is_stopping() && !self.somebody_serves() {
                self.stop(n);
            }
            self.look(n, now);
        } else if is_due(process.course.queue_look().map(|ms| ms * 1000)) {
            process.course.looks_into_queues();
            process.tell(Message::Look);
        } else {
            return false;
        }
        true
    }

    /// While another process may be told of connections instead of this one, they are found by looking.
    pub fn mind_the_queues(&mut self, n: usize, now: u64) {
        if self.processes[n].running().is_some() && self.processes[n].preparing.is_none() {
            let unheard = self.processes[n].roles.may_be_unheard(now / 1000);
            self.processes[n].course.mind_the_queues(now / 1000, unheard);
        }
    }

    fn act(&mut self, n: usize, todo: Todo, now: u64) {
        let timeout_ms = self.model.server.shutdown_timeout_ms;
        let process = &mut self.processes[n];
        match todo {
            Todo::Prepare { epoch } => self.prepare(n, epoch, now + BIND_PATIENCE_US),
            Todo::TakeOver => process.tell(Message::Look),
            Todo::StopAccepting => {
                process.course.stop_accepting();
                process.accepts = false;
                process.tell(Message::Pause);
            }
            Todo::Resume => {
                process.course.resume();
                process.look_at = None;
                process.accepts = true;
                process.tell(Message::Farewell(None));
                process.tell(Message::Resume);
            }
            Todo::CloseListeners => {
                process.is_orphaned = true;
                process.tell(Message::StopAccepting);
            }
            Todo::BeginDrain { drain, live } => {
                sim::with(|world| world.count(if live.is_some() { "handover" } else { "drain" }));
                let channel = live.and_then(|peer| self.open_channel(n, peer, now));
                let process = &mut self.processes[n];
                let times = (drain.drain_ms, drain.parent_shutdown_ms);
                let (open, channels) = (process.open(), usize::from(channel.is_some()));
                process.expect_arrivals();
                let over_ms = process.course.begin_drain(now / 1000, open, times, false, channels);
                if let Some(channel) = channel {
                    process.tell(Message::HandOver(channel));
                }
                if let Some(over_ms) = over_ms {
                    process.tell(Message::Farewell(Some(over_ms)));
                }
                process.look_at = Some(now + DRAIN_LOOK_US);
                self.look(n, now);
            }
            Todo::TakeParcels(channel) => {
                if let Some(worker) = &process.worker {
                    process.tell(Message::TakeParcels(channel, worker.connections.arrival()));
                }
            }
            Todo::AttemptFailed => {
                if !process.course.has_stood_back() {
                    process.tell(Message::Look);
                }
            }
            Todo::Exit { cut } => {
                let exit = process.course.exit(now / 1000, cut, timeout_ms);
                process.look_at = None;
                if exit.stops_elder {
                    self.up(n, child::Event::Stopping);
                }
                self.processes[n].end_soon(now, exit.timeout_ms);
            }
            Todo::Fail => {
                if process.running().is_none() {
                    return self.bury(n, now, false);
                }
                process.accepts = false;
                process.course.fail();
                process.tell(Message::Pause);
                process.tell(Message::Farewell(Some(0)));
                process.deadline = Some(now + timeout_ms * 1000);
            }
        }
    }

    fn on_report(&mut self, n: usize, report: Report, now: u64) {
        let process = &mut self.processes[n];
        match report {
            Report::Ready => {
                process.course.begin(1);
                process.preparing = None;
                (process.accepts, process.has_accepted) = (true, true);
                self.up(n, child::Event::WorkersAccepting { workers: 1, released: Vec::new() });
            }
            Report::Paused => match process.course.paused(now / 1000) {
                Paused::Nothing => {}
                Paused::All => {
                    let left = process.open();
                    self.down(n, parent::Event::ConnectionsLeft(left));
                    self.down(n, parent::Event::AcceptStopped);
                }
                Paused::Failed => {
                    process.look_at = Some(now + DRAIN_LOOK_US);
                    self.look(n, now);
                }
            },
            Report::Released | Report::PoolsMoved => {
                process.course.released();
                self.look(n, now);
            }
        }
    }

    /// Looks how many connections are left.
    fn look(&mut self, n: usize, now: u64) {
        let process = &mut self.processes[n];
        let left = process.open();
        process.expect_arrivals();
        let others =
            Dependents { must_stay: process.roles.must_stay(|| false), arriving: process.are_arriving() };
        match process.course.look(now / 1000, left, others) {
            Left::Nothing => {}
            Left::Drained(moved) => self.down(n, parent::Event::Drained { moved }),
            Left::Failed => process.end_soon(now, LAST_WORDS_MS),
            Left::Report(over_ms) => {
                self.down(n, parent::Event::ConnectionsLeft(left));
                if let Some(over_ms) = over_ms {
                    self.processes[n].tell(Message::Farewell(Some(over_ms)));
                }
            }
        }
        let process = &mut self.processes[n];
        process.look_at = process.look_at.filter(|_| process.course.is_draining());
    }

    /// An operator stops the process.
    pub fn stop(&mut self, n: usize) {
        let now = sim::with(|world| world.now());
        note(|| format!("process {n} is stopped"));
        self.processes[n].course.stop();
        self.processes[n].offered.clear();
        let steps = self.processes[n].roles.stopping(now / 1000);
        self.carry_out(n, steps);
        let timeout_ms = self.model.server.shutdown_timeout_ms;
        self.processes[n].end_soon(now, timeout_ms);
    }

    fn open_channel(&mut self, n: usize, peer: PeerId, now: u64) -> Option<Box<Connection>> {
        let wire = peer as usize;
        if !self.processes[n].ends.peers.contains(&wire) {
            return None;
        }
        let (ours, theirs) = Connection::pair().ok()?;
        let frame = Frame::new(0, ParcelChannel { worker: 0 });
        let load = Load::Channel(Box::new(theirs));
        self.wires.send(wire, Side::Parent, frame, load, now, &mut self.random);
        Some(Box::new(ours))
    }

    /// Binds what is not inherited and starts the worker.
    fn prepare(&mut self, n: usize, epoch: u32, until: u64) {
        let mut sockets = std::mem::take(&mut self.processes[n].inherited);
        if sockets.is_empty() {
            let now = sim::with(|world| world.now());
            let addresses: Vec<_> = self.model.listeners.iter().map(address).collect();
            if addresses.iter().any(|address| sim::with(|world| world.is_listening(*address))) {
                if now >= until {
                    return self.up(n, child::Event::Failed { why: "an address is in use".into() });
                }
                self.processes[n].preparing = Some(Preparing::Binding(epoch, now + BIND_RETRY_US, until));
                return;
            }
            sockets = addresses.iter().map(|at| sim::with(|world| world.listen(*at)).unwrap()).collect();
        }
        self.processes[n].worker = Some(self.start_worker(epoch, &sockets));
        self.processes[n].offered = sockets;
        self.processes[n].preparing = Some(Preparing::Starting);
    }

    fn start_worker(&mut self, epoch: u32, sockets: &[OwnedFd]) -> WorkerSide {
        let model = &self.model;
        let version = env!("CARGO_PKG_VERSION");
        let membership = self.segment.join(&Joining { epoch, workers: 1, version }).unwrap();
        let entities = worker::entities(&membership, model, 1);
        let endpoints = model.clusters.iter().map(|cluster| {
            let endpoint = |endpoint: &Endpoint| {
                let EndpointTarget::Address(address) = &endpoint.target else {
                    unreachable!("scenarios have addresses, not names")
                };
                let address = address.clone();
                let entity = membership.register(&[&cluster.name, &address.to_string()]);
                KnownEndpoint { address, weight: endpoint.weight, entity }
            };
            cluster.endpoints.iter().map(endpoint).collect()
        });
        let (sender, mailbox) = mailbox::mailbox().unwrap();
        let connections = Arc::new(Connections::new(model.listeners.len()));
        let worker = Worker {
            model: Arc::clone(model),
            sockets: sockets.iter().map(|fd| vec![fd.try_clone().unwrap()]).collect(),
            endpoints: endpoints.collect(),
            index: 0,
            entities: Arc::new(entities),
            stripe: membership.stripe(0),
            mailbox,
            connections: Arc::clone(&connections),
            capabilities: Capabilities {
                kernel: "simulated".into(),
                recvsend_bundle: false,
                no_iowait: false,
                recv_limit: self.random.below(2) == 0,
                registered_files: self.random.below(4) > 0,
            },
            deliver_log: Box::new(|_, _| Ok(())),
            seed: self.random.next_u64(),
        };
        let reports: Rc<RefCell<VecDeque<Report>>> = Rc::default();
        let heard = Rc::clone(&reports);
        let ring = sim::with(|world| world.rings());
        let running = worker.begin(move |report| heard.borrow_mut().push_back(report)).unwrap();
        let running = Some(running);
        WorkerSide { ring, running, mailbox: sender, reports, connections, membership }
    }
}

/// Where a listener of a scenario listens.
pub fn address(listener: &Arc<Listener>) -> std::net::SocketAddr {
    match listener.address {
        Address::Ip(address) => address,
        Address::Unix(_) => unreachable!("scenarios listen on IP addresses"),
    }
}
