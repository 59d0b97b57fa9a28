//! One simulated run: processes, peers, and the clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use ouro::base::random::Random;
use ouro::config::model::{Address, EndpointTarget, Model};
use ouro::ring::sim::{self, Await, EndId, Faults, Happening, World};
use ouro::ring::{Capabilities, mailbox};
use ouro::upstream::KnownEndpoint;
use ouro::worker::{self, Connections, Message, Report, Running, Worker};
use ouro_shm::{Joining, Membership, ReadOptions, Segment};

/// Virtual time after which whoever is not done is said to starve.
const LIMIT_US: u64 = 900_000_000;
/// Turns after which the code under test is said to spin.
const TURNS: u64 = 3_000_000;
/// Virtual time in which a process must end once it is told to drain and its peers are gone.
const END_US: u64 = 60_000_000;

/// Virtual time for which a restart waits for the state that it is aimed at.
const AIM_US: u64 = 1_000_000;
/// Turns that processes have for themselves once a session is in that state, so that it is still there.
const FOCUS_TURNS: u32 = 200;

/// A simulated client or origin.
pub trait Peer {
    /// Does what can be done now.
    fn turn(&mut self);
    /// Nothing more is to come from it.
    fn is_done(&self) -> bool;
    /// For the report of a failure.
    fn describe(&self) -> String;
}

/// What a run is about.
pub trait Scenario {
    /// The configuration of the proxy.
    fn config(&self) -> String;
    /// The clients, whose numbers begin at `first`.
    fn clients(&mut self, first: u32, random: &mut Random) -> Vec<Box<dyn Peer>>;
    /// The proxy has connected to an origin.
    fn accepted(&mut self, number: u32, to: SocketAddr, end: EndId) -> Box<dyn Peer>;
    /// States of sessions that a restart may be aimed at.
    fn aims(&self) -> &'static [&'static str];
    /// Looks whether everything is as it should be once all peers are done.
    fn check(&mut self) -> Vec<String>;
    /// What goes wrong in this scenario otherwise than usual.
    fn adjust(&self, _: &mut Faults) {}
    /// Whether the clock may jump.
    fn may_jump(&self) -> bool {
        true
    }
}

/// How a run went.
#[derive(Default)]
pub struct Summary {
    pub violations: Vec<String>,
    pub counts: Vec<(String, u64)>,
    /// States in which sessions have waited.
    pub awaits: Vec<(String, Await)>,
    pub trace: Vec<String>,
    pub virtual_ms: u64,
    pub turns: u64,
}

/// A process of the code under test: one worker and what the server has for it.
struct Process {
    ring: usize,
    running: Option<Running>,
    mailbox: mailbox::Sender<Message>,
    reports: Rc<RefCell<VecDeque<Report>>>,
    connections: Arc<Connections>,
    _membership: Membership,
}

/// Where a restart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// None is going on.
    Quiet,
    /// The new process starts.
    Starting,
    /// It accepts; the old one is told to pause at this time.
    Ready(u64),
    Pausing,
    /// The old one is paused; connections begin to move at this time.
    Paused(u64),
    Moving,
    /// The old process is told to stop.
    Leaving,
}

pub struct Simulation {
    model: Arc<Model>,
    segment: Segment,
    processes: Vec<Process>,
    peers: Vec<Box<dyn Peer>>,
    scenario: Box<dyn Scenario>,
    listeners: Vec<OwnedFd>,
    restarts: VecDeque<u64>,
    stage: Stage,
    random: Random,
    turns: u64,
    epoch: u32,
    draining_since: Option<u64>,
    /// Restarts wait until a session is in a state that this seed has chosen.
    aims: bool,
    /// A session is there: for so many turns only processes have theirs.
    focus: u32,
    /// When the clock is to jump, and by how much.
    jump: Option<(u64, u64)>,
    /// By how much it has.
    jumped: u64,
}

impl Simulation {
    /// Installs a world for this run.
    pub fn new(seed: u64, mut scenario: Box<dyn Scenario>, traced: Option<bool>) -> Self {
        let mut random = Random::new(seed);
        let mut faults = faults(&mut random);
        scenario.adjust(&mut faults);
        let mut world = World::new(random.next_u64(), faults).unwrap();
        if let Some(prints) = traced {
            world.set_traced(prints);
            let text = format!("{:?}", world.faults);
            world.note(|| text);
        }
        let mut model = ouro::config::parse(&scenario.config(), "simulation").unwrap();
        model.server.buffer_size = 256 << random.below(5);
        model.server.buffer_memory = model.server.buffer_size * (8 << random.below(5));
        let address = |listener: &Arc<ouro::config::model::Listener>| match listener.address {
            Address::Ip(address) => address,
            Address::Unix(_) => unreachable!("scenarios listen on IP addresses"),
        };
        let listeners = model.listeners.iter().map(|l| world.listen(address(l)).unwrap()).collect();
        sim::install(world);
        let peers = scenario.clients(0, &mut random);
        for n in 0..peers.len() {
            sim::with(|world| world.wake(n as u32, 0));
        }
        let mut restarts: VecDeque<u64> = VecDeque::new();
        for _ in 0..[0, 1, 1, 2, 3, 16][random.below(6)] {
            let after = [2_000, 50_000, 2_000_000][random.below(3)];
            restarts.push_back(1 + random.below(after) as u64);
        }
        let mut this = Self {
            model: Arc::new(model),
            segment: Segment::private(1 << 20),
            processes: Vec::new(),
            peers,
            scenario,
            listeners,
            restarts,
            stage: Stage::Quiet,
            random,
            turns: 0,
            epoch: 0,
            draining_since: None,
            aims: false,
            focus: 0,
            jump: None,
            jumped: 0,
        };
        if this.scenario.may_jump() && this.random.below(8) == 0 {
            let at = [1_000, 100_000, 2_000_000][this.random.below(3)];
            let by = [2_000_000, 20_000_000, 1_800_000_000][this.random.below(3)];
            this.jump = Some((this.random.below(at) as u64, 1 + this.random.below(by) as u64));
        }
        this.aims = this.random.below(2) == 0;
        if this.aims {
            // They begin early: what they wait for takes its time.
            this.restarts.iter_mut().for_each(|at| *at = 1 + *at % 100_000);
        }
        this.start_process();
        this.schedule_restart();
        this
    }

    fn start_process(&mut self) {
        let model = &self.model;
        let version = env!("CARGO_PKG_VERSION");
        let membership = self.segment.join(&Joining { epoch: self.epoch, workers: 1, version }).unwrap();
        self.epoch += 1;
        let entities = worker::entities(&membership, model, 1);
        let endpoints = model.clusters.iter().map(|cluster| {
            let endpoint = |endpoint: &ouro::config::model::Endpoint| {
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
            sockets: self.listeners.iter().map(|fd| vec![fd.try_clone().unwrap()]).collect(),
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
            },
            deliver_log: Box::new(|_, _| Ok(())),
            seed: self.random.next_u64(),
        };
        let reports: Rc<RefCell<VecDeque<Report>>> = Rc::default();
        let heard = Rc::clone(&reports);
        let ring = sim::with(|world| world.rings());
        let running = worker.begin(move |report| heard.borrow_mut().push_back(report)).unwrap();
        self.processes.push(Process {
            ring,
            running: Some(running),
            mailbox: sender,
            reports,
            connections,
            _membership: membership,
        });
    }

    /// The next restart begins some time from now.
    fn schedule_restart(&mut self) {
        let now = sim::with(|world| world.now());
        if let Some(at) = self.restarts.front_mut() {
            *at += now;
        }
    }

    /// Runs until everything is over, and says how it went.
    pub fn run(mut self) -> Summary {
        let ended = self.run_all();
        let mut violations: Vec<String> = ended.err().into_iter().collect();
        if violations.is_empty() {
            violations.extend(self.check());
        }
        let turns = self.turns;
        drop(self);
        let world = sim::uninstall().unwrap();
        violations.extend(world.violations().iter().cloned());
        Summary {
            violations,
            awaits: world.awaits().iter().map(|(state, counts)| (state.clone(), *counts)).collect(),
            counts: world.counts().iter().map(|(what, count)| (what.to_string(), *count)).collect(),
            trace: world.trace().map(String::from).collect(),
            virtual_ms: world.now() / 1000,
            turns,
        }
    }

    fn run_all(&mut self) -> Result<(), String> {
        loop {
            self.turns += 1;
            if self.turns > TURNS {
                return Err(format!("it spins: {}", self.describe_starved()));
            }
            sim::with(World::look);
            if let Some(violation) = sim::with(|world| world.violations().first().cloned()) {
                return Err(violation);
            }
            self.jump();
            self.restart();
            self.focus = self.focus.saturating_sub(1);
            let event_first = self.focus == 0 && self.random.below(2) == 0;
            if event_first && self.happen() {
                continue;
            }
            if self.turn_of_a_process() || self.happen() {
                continue;
            }
            if self.processes.iter().all(|process| process.running.is_none()) {
                return Ok(());
            }
            let now = sim::with(|world| world.now());
            if self.draining_since.is_none() && self.stage == Stage::Quiet && self.peers_are_done() {
                self.draining_since = Some(now);
                let last = self.processes.last().unwrap();
                let _ = last.mailbox.send(Message::Drain);
                continue;
            }
            let starved = now > LIMIT_US + self.jumped || self.draining_since.is_some_and(|since| now > since + END_US);
            let next = self.next_time();
            match next {
                Some(at) if !starved => {
                    if at / 10_000_000 > now / 10_000_000 {
                        for process in &self.processes {
                            let stats = process.running.as_ref().map(Running::ring_stats);
                            sim::with(|world| world.note(|| format!("time passes: {stats:?}")));
                        }
                    }
                    sim::with(|world| world.advance_to(at));
                }
                _ => return Err(self.describe_starved()),
            }
        }
    }

    fn peers_are_done(&self) -> bool {
        self.peers.iter().all(|peer| peer.is_done())
    }

    fn describe_starved(&self) -> String {
        let mut text = format!("somebody waits for ever (restart: {:?})", self.stage);
        for (n, peer) in self.peers.iter().enumerate().filter(|(_, peer)| !peer.is_done()) {
            text += &format!("\n  peer {n}: {}", peer.describe());
        }
        for (n, process) in self.processes.iter().enumerate().filter(|(_, p)| p.running.is_some()) {
            let stats = process.running.as_ref().unwrap().ring_stats();
            text += &format!("\n  process {n}: {} connections, {stats:?}", process.connections.open());
        }
        text
    }

    /// Lets one event happen.
    fn happen(&mut self) -> bool {
        match sim::with(World::happen) {
            None => return false,
            Some(Happening::Nothing) => {}
            Some(Happening::Wake(peer)) => {
                if let Some(peer) = self.peers.get_mut(peer as usize) {
                    peer.turn();
                }
            }
            Some(Happening::Connected(to, end)) => {
                let number = self.peers.len() as u32;
                sim::with(|world| world.peer_take(end, number));
                self.peers.push(self.scenario.accepted(number, to, end));
            }
        }
        true
    }

    /// Lets one of the processes that have something to do go on.
    fn turn_of_a_process(&mut self) -> bool {
        let due = |process: &&mut Process| {
            let busy = process.running.as_ref().is_some_and(Running::is_busy);
            process.running.is_some()
                && sim::with(|world| world.is_due(process.ring) || (busy && !world.is_stalled(process.ring)))
        };
        let count = self.processes.iter_mut().filter(due).count();
        if count == 0 {
            return false;
        }
        let chosen = self.random.below(count);
        let Some(process) = self.processes.iter_mut().filter(due).nth(chosen) else { return false };
        let ring = process.ring;
        let stalled = sim::with(|world| {
            let stalls = world.chance(world.faults.stall);
            if stalls {
                let until = world.now() + 1 + world.random.below(world.faults.stall_us + 1) as u64;
                world.stall(ring, until);
            }
            let after = world.now() + world.random.below(6) as u64;
            world.advance_to(after);
            stalls
        });
        if stalled {
            return true;
        }
        let Some(running) = &mut process.running else { return false };
        sim::with(|world| world.set_turn(ring));
        if !running.turn() {
            let stats = running.ring_stats();
            sim::with(|world| {
                world.note(|| format!("process with ring {ring} has ended"));
                let left = world.in_flight(ring);
                if stats.buffers_in_use > 0 || stats.sockets > 0 || !left.is_empty() {
                    world.violation(format!("left behind: {stats:?}, in flight: {left:?}"));
                }
            });
            if let Some(running) = process.running.take()
                && let Err(error) = running.end()
            {
                sim::with(|world| world.violation(format!("a worker failed: {error}")));
            }
        }
        true
    }

    fn next_time(&self) -> Option<u64> {
        let rings = self.processes.iter().filter(|process| process.running.is_some()).map(|process| {
            sim::with(|world| match process.running.as_ref().is_some_and(Running::is_busy) {
                true => world.due_at(process.ring).min(world.now() + 1_000_000),
                false => world.due_at(process.ring),
            })
        });
        let event = sim::with(|world| world.next_event());
        let restart = match self.stage {
            Stage::Quiet if self.draining_since.is_none() && !self.peers_are_done() => {
                self.restarts.front().copied()
            }
            Stage::Ready(at) | Stage::Paused(at) => Some(at),
            _ => None,
        };
        rings.chain(event).chain(restart).min().filter(|at| *at < u64::MAX)
    }

    /// What the servers of the old and the new process agree upon.
    fn restart(&mut self) {
        let now = sim::with(|world| world.now());
        let count = self.processes.len();
        match self.stage {
            Stage::Quiet => {
                if self.restarts.front().is_some_and(|at| *at <= now) && self.draining_since.is_none() {
                    self.restarts.pop_front();
                    self.note("a new process starts");
                    self.start_process();
                    self.stage = Stage::Starting;
                }
            }
            Stage::Starting => {
                if self.heard(count - 1, Report::Ready) {
                    // Either the old process goes on until then, or it is paused already.
                    let at_once = self.random.below(2) == 0;
                    let patience = self.random.below(5_000) as u64;
                    let patience = if at_once && self.take_aim(count - 2) { AIM_US } else { patience };
                    self.stage = Stage::Ready(now + patience);
                }
            }
            Stage::Ready(at) if at <= now || sim::with(|world| world.aim_is_hit()) => {
                self.note("the old process is to pause");
                self.look_at_aim();
                let _ = self.processes[count - 2].mailbox.send(Message::Pause);
                self.stage = Stage::Pausing;
            }
            Stage::Pausing => {
                if self.heard(count - 2, Report::Paused) {
                    let pause = if self.focus > 0 { 0 } else { self.random.below(3_000) as u64 };
                    let pause = if self.take_aim(count - 2) { AIM_US } else { pause };
                    self.stage = Stage::Paused(now + pause);
                }
            }
            Stage::Paused(at) if at <= now || sim::with(|world| world.aim_is_hit()) => {
                self.note("connections are to move");
                self.look_at_aim();
                sim::with(|world| world.count("handover"));
                let (from, to) = ouro_restart::Connection::pair().unwrap();
                let _ = self.processes[count - 2].mailbox.send(Message::HandOver(Box::new(from)));
                let _ = self.processes[count - 1].mailbox.send(Message::TakeParcels(Box::new(to)));
                self.stage = Stage::Moving;
            }
            Stage::Moving => {
                if self.processes[count - 2].connections.open() == 0 {
                    self.note("the old process is to stop");
                    let _ = self.processes[count - 2].mailbox.send(Message::Stop);
                    self.stage = Stage::Leaving;
                }
            }
            Stage::Leaving => {
                if self.processes[count - 2].running.is_none() {
                    self.stage = Stage::Quiet;
                    self.schedule_restart();
                }
            }
            Stage::Ready(_) | Stage::Paused(_) => {}
        }
    }

    /// Lets the clock jump if it is to.
    fn jump(&mut self) {
        let Some((at, by)) = self.jump else { return };
        let now = sim::with(|world| world.now());
        // A process that ends has two seconds for that, and nobody else is concerned.
        if now >= at && self.stage != Stage::Leaving && self.draining_since.is_none() {
            self.jump = None;
            self.jumped = by;
            sim::with(|world| world.jump(by));
        }
    }

    /// Has the next step of a restart wait until a session of this process is in a certain state.
    fn take_aim(&mut self, process: usize) -> bool {
        let aim = if self.focus == 0 { self.aim() } else { None };
        let ring = self.processes[process].ring;
        sim::with(|world| world.set_aim(aim.map(|aim| (aim, ring))));
        aim.is_some()
    }

    /// That step is taken.
    fn look_at_aim(&mut self) {
        if sim::with(|world| world.aim_is_hit()) {
            sim::with(|world| world.count("restart as aimed"));
            self.focus = FOCUS_TURNS;
        }
        sim::with(|world| world.set_aim(None));
    }

    /// The state that the next step of a restart waits for.
    fn aim(&mut self) -> Option<&'static [&'static str]> {
        let aims = self.scenario.aims();
        if !self.aims || aims.is_empty() || self.peers_are_done() {
            return None;
        }
        // The rare ones come first, and are aimed at more often; one of three will do.
        let most = 1 + self.random.below(aims.len());
        let first = self.random.below(most);
        let aim = &aims[first..(first + 3).min(aims.len())];
        self.note(&format!("connections move when a session is in one of these states: {aim:?}"));
        Some(aim)
    }

    fn note(&self, text: &str) {
        sim::with(|world| world.note(|| text.into()));
    }

    fn heard(&self, process: usize, report: Report) -> bool {
        let mut reports = self.processes[process].reports.borrow_mut();
        let found = reports.iter().position(|heard| *heard == report);
        found.map(|n| reports.remove(n)).is_some()
    }

    /// What must hold when everything is over.
    fn check(&mut self) -> Vec<String> {
        let mut wrong = self.scenario.check();
        sim::with(World::look);
        let open = sim::with(|world| world.open_ends());
        if open > 0 {
            wrong.push(format!("{open} connections were never closed"));
        }
        let snapshot = self.segment.snapshot(&ReadOptions::default());
        for entity in &snapshot.entities {
            for metric in entity.scope.metrics.iter() {
                let is_active = metric.name.ends_with("_active") || metric.name.ends_with("_buffered");
                if is_active && entity.number(&metric.name) != 0 {
                    wrong.push(format!(
                        "{} {:?}: {} is {} at the end",
                        entity.scope.name,
                        entity.labels,
                        metric.name,
                        entity.number(&metric.name) as i64
                    ));
                }
            }
        }
        wrong
    }
}

/// Which things go wrong in a run, and how often: most runs have a few kinds of faults, some none, some all.
fn faults(random: &mut Random) -> Faults {
    let calm = random.below(8) == 0;
    let mut chance = |often: u32| {
        if calm || random.below(2) == 0 { 0 } else { [often / 16, often / 4, often][random.below(3)] }
    };
    let mut faults = Faults {
        short_send: chance(512),
        short_recv: chance(512),
        end_multishot: chance(256),
        eof_with_buffer: chance(512),
        late: chance(512),
        late_cancel: chance(512),
        stall: chance(64),
        few_completions: chance(512),
        refuse: chance(64),
        silent: chance(32),
        accept: chance(64),
        copy: chance(128),
        split: chance(512),
        socket: chance(64),
        drop_task: 0,
        ..Faults::default()
    };
    faults.drop_task = [0, 16, 128, 512][random.below(4)];
    faults.late_us = [50, 1_000, 30_000][random.below(3)];
    faults.stall_us = [100, 5_000, 200_000][random.below(3)];
    faults.submissions = [1, 3, 16, 1024][random.below(4)];
    faults.latency = ([1, 20, 500, 20_000][random.below(4)], [0, 50, 5_000][random.below(3)]);
    faults.buffer = [(64, 1000), (1024, 4096), (8192, 65536)][random.below(3)];
    faults
}
