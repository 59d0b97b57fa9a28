//! Processes, connections and a clock in memory: does what the machines of parent and child say, and nothing else.

use std::collections::VecDeque;

use ouro_restart::child::{self, Child, ConnectFailure};
use ouro_restart::frame::Frame;
use ouro_restart::message::{Hello, ListenSocket, Message};
use ouro_restart::parent::{self, Parent, Part};
use ouro_restart::{Blob, Deadlines, Identity, listen_sockets_reply, state_reply, totals_reply};

/// Listening sockets that each process has: more than one frame takes.
pub(crate) const SOCKETS: usize = 450;

pub(crate) struct Process {
    pub(crate) identity: Identity,
    pub(crate) up: Child,
    pub(crate) down: Option<Parent>,
    /// Connection to its own parent.
    link: Option<usize>,
    pub(crate) alive: bool,
    pub(crate) frozen: bool,
    pub(crate) accepts: bool,
    /// Accepts at the restart socket.
    owns: bool,
    /// Has a descriptor of the restart socket.
    holds: bool,
    drains: bool,
    pub(crate) sockets: usize,
    pub(crate) epoch: Option<u32>,
    pub(crate) cold: bool,
    pub(crate) failed: Option<String>,
    pub(crate) exited: bool,
    pub(crate) states: Vec<bool>,
    pub(crate) totals: Vec<bool>,
    local: VecDeque<Local>,
}

enum Local {
    Up(child::Event),
    Down(parent::Event),
}

struct Wire {
    child: usize,
    parent: Option<usize>,
    up: VecDeque<Frame>,
    down: VecDeque<(Frame, usize)>,
    child_open: bool,
    parent_open: bool,
    /// Only asks who serves.
    probe: bool,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) processes: Vec<Process>,
    wires: Vec<Wire>,
    backlog: VecDeque<usize>,
    /// 0: whatever is first goes first.
    pub(crate) seed: u64,
    /// Every frame that was sent, by name.
    pub(crate) said: Vec<String>,
    /// Whether draining ends at once.
    pub(crate) drain_ends: bool,
    /// Whether workers begin to accept at once.
    pub(crate) workers_start: bool,
    pub(crate) deadlines: Deadlines,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Accept(usize),
    FrameUp(usize),
    FrameDown(usize),
    ChildGone(usize),
    ParentGone(usize),
    Local(usize),
}

pub(crate) fn identity() -> Identity {
    Identity { pid: 1, ..Identity::new("1.0", 1, 5) }
}

pub(crate) fn options(epoch: Option<u32>) -> child::Options {
    child::Options {
        epoch,
        cold_without_parent: false,
        totals: true,
        live: false,
        drain_ms: 600_000,
        parent_shutdown_ms: 900_000,
    }
}

impl World {
    /// One process that has started cold and serves.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            now: 1000,
            processes: Vec::new(),
            wires: Vec::new(),
            backlog: VecDeque::new(),
            seed: 0,
            said: Vec::new(),
            drain_ends: true,
            workers_start: true,
            deadlines: Deadlines::default(),
        };
        world.start(Some(0));
        world.settle();
        assert!(world.processes[0].accepts);
        world
    }

    pub(crate) fn start(&mut self, epoch: Option<u32>) -> usize {
        self.start_as(identity(), options(epoch))
    }

    pub(crate) fn start_as(&mut self, identity: Identity, options: child::Options) -> usize {
        let number = self.processes.len();
        self.processes.push(Process {
            up: Child::new(identity.clone(), options, self.deadlines.clone()),
            identity,
            down: None,
            link: None,
            alive: true,
            frozen: false,
            accepts: false,
            owns: false,
            holds: false,
            drains: false,
            sockets: 0,
            epoch: None,
            cold: false,
            failed: None,
            exited: false,
            states: Vec::new(),
            totals: Vec::new(),
            local: VecDeque::from([Local::Up(child::Event::Start)]),
        });
        number
    }

    /// A bare connection, for a child that the test plays itself.
    pub(crate) fn connect_raw(&mut self) -> usize {
        let wire = self.new_wire(usize::MAX);
        self.backlog.push_back(wire);
        wire
    }

    pub(crate) fn raw_send(&mut self, wire: usize, frame: Frame) {
        self.wires[wire].up.push_back(frame);
    }

    pub(crate) fn raw_receive(&mut self, wire: usize) -> Option<Message> {
        self.wires[wire].down.pop_front().map(|(frame, _)| frame.message)
    }

    pub(crate) fn raw_is_open(&self, wire: usize) -> bool {
        self.wires[wire].parent_open
    }

    fn new_wire(&mut self, child: usize) -> usize {
        let (up, down) = (VecDeque::new(), VecDeque::new());
        self.wires.push(Wire {
            child,
            parent: None,
            up,
            down,
            child_open: true,
            parent_open: true,
            probe: false,
        });
        self.wires.len() - 1
    }

    pub(crate) fn kill(&mut self, number: usize) {
        self.processes[number].alive = false;
        self.processes[number].accepts = false;
        for wire in &mut self.wires {
            if wire.child == number {
                wire.child_open = false;
            }
            if wire.parent == Some(number) {
                wire.parent_open = false;
            }
        }
        if !self.processes.iter().any(|process| process.alive && process.holds) {
            for wire in self.backlog.drain(..) {
                self.wires[wire].parent_open = false;
            }
        }
    }

    pub(crate) fn serving(&self) -> Vec<usize> {
        let serves = |process: &Process| process.alive && process.accepts;
        (0..self.processes.len()).filter(|number| serves(&self.processes[*number])).collect()
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|number| self.processes[*number].alive).collect()
    }

    fn runs(&self, number: usize) -> bool {
        self.processes.get(number).is_some_and(|process| process.alive && !process.frozen)
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, process) in self.processes.iter().enumerate().filter(|(number, _)| self.runs(*number)) {
            if !process.local.is_empty() {
                steps.push(Step::Local(number));
            }
            if process.owns && !self.backlog.is_empty() {
                steps.push(Step::Accept(number));
            }
        }
        for (number, wire) in self.wires.iter().enumerate() {
            if wire.parent_open && wire.parent.is_some_and(|parent| self.runs(parent)) {
                // What its own parent said comes first: that may be an Abort.
                let parent = wire.parent;
                let of_parent = |up: &Wire| Some(up.child) == parent && up.child_open && !up.down.is_empty();
                if self.wires.iter().any(of_parent) {
                    self.steps_down(&mut steps, number, wire);
                    continue;
                }
                if !wire.up.is_empty() {
                    steps.push(Step::FrameUp(number));
                } else if !wire.child_open {
                    steps.push(Step::ChildGone(number));
                }
            }
            self.steps_down(&mut steps, number, wire);
        }
        steps
    }

    fn steps_down(&self, steps: &mut Vec<Step>, number: usize, wire: &Wire) {
        if wire.child_open && self.runs(wire.child) {
            if !wire.down.is_empty() {
                steps.push(Step::FrameDown(number));
            } else if !wire.parent_open {
                steps.push(Step::ParentGone(number));
            }
        }
    }

    /// Does one thing that can be done now; false if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let steps = self.steps();
        if steps.is_empty() {
            return false;
        }
        let choice = if self.seed == 0 { 0 } else { self.random(steps.len()) };
        match steps[choice] {
            Step::Accept(number) => {
                let wire = self.backlog.pop_front().unwrap();
                self.wires[wire].parent = Some(number);
                self.down(number, parent::Event::PeerConnected { peer: wire as u64 });
            }
            Step::FrameUp(wire) => {
                let frame = self.wires[wire].up.pop_front().unwrap();
                let number = self.wires[wire].parent.unwrap();
                self.down(number, parent::Event::Frame { peer: wire as u64, frame, fds: 0 });
            }
            Step::FrameDown(wire) => {
                let (frame, fds) = self.wires[wire].down.pop_front().unwrap();
                if self.wires[wire].probe {
                    self.wires[wire].child_open = false;
                    let asker = self.wires[wire].child;
                    match frame.message {
                        Message::HelloReply(_) if self.processes[asker].down.is_some() => {
                            self.down(asker, parent::Event::SomebodyServes(true));
                        }
                        Message::HelloReply(_) => self.up(asker, child::Event::SomebodyServes(true)),
                        _ => {}
                    }
                    return true;
                }
                self.up(self.wires[wire].child, child::Event::Frame { frame, fds });
            }
            Step::ChildGone(wire) => {
                self.wires[wire].parent_open = false;
                let number = self.wires[wire].parent.unwrap();
                self.down(number, parent::Event::PeerGone { peer: wire as u64, why: "hung up".to_owned() });
            }
            Step::ParentGone(wire) => {
                self.wires[wire].child_open = false;
                if self.wires[wire].probe {
                    return true;
                }
                self.processes[self.wires[wire].child].link = None;
                self.up(self.wires[wire].child, child::Event::ParentGone { why: "hung up".to_owned() });
            }
            Step::Local(number) => match self.processes[number].local.pop_front().unwrap() {
                Local::Up(event) => self.up(number, event),
                Local::Down(event) => self.down(number, event),
            },
        }
        true
    }

    pub(crate) fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 20) as usize % below
    }

    /// Until nothing can be done without waiting.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", &self.said[self.said.len() - 20..]);
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let of = |process: &Process| {
            let down = process.down.as_ref().and_then(Parent::deadline);
            [process.up.deadline(), down].into_iter().flatten().min()
        };
        (0..self.processes.len())
            .filter(|number| self.runs(*number))
            .filter_map(|number| of(&self.processes[number]))
            .min()
    }

    /// Lets time pass, a deadline after the other, until `until` or until nobody waits for anything.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        self.settle();
        while let Some(deadline) = self.next_deadline().filter(|deadline| *deadline <= until) {
            assert!(deadline >= self.now || self.timer_is_due(), "a deadline in the past that does nothing");
            self.now = self.now.max(deadline);
            self.fire();
            self.settle();
        }
        self.now = until;
    }

    fn timer_is_due(&self) -> bool {
        self.next_deadline().is_some_and(|deadline| deadline <= self.now)
    }

    pub(crate) fn fire(&mut self) {
        for number in 0..self.processes.len() {
            if !self.runs(number) {
                continue;
            }
            if self.processes[number].up.deadline().is_some_and(|at| at <= self.now) {
                self.up(number, child::Event::Timer);
            }
            if self.processes[number]
                .down
                .as_ref()
                .and_then(Parent::deadline)
                .is_some_and(|at| at <= self.now)
            {
                self.down(number, parent::Event::Timer);
            }
        }
    }

    pub(crate) fn up(&mut self, number: usize, event: child::Event) {
        if let child::Event::WorkersAccepting { .. } = event {
            self.processes[number].accepts = true;
        }
        for action in self.processes[number].up.handle(self.now, event) {
            self.do_up(number, action);
        }
    }

    pub(crate) fn down(&mut self, number: usize, event: parent::Event) {
        let Some(machine) = self.processes[number].down.as_mut() else { return };
        for action in machine.handle(self.now, event) {
            self.do_down(number, action);
        }
    }

    fn do_up(&mut self, number: usize, action: child::Action) {
        match action {
            child::Action::Connect => {
                let listens = self.processes.iter().any(|process| process.alive && process.holds);
                let event = if listens {
                    let wire = self.new_wire(number);
                    self.backlog.push_back(wire);
                    self.processes[number].link = Some(wire);
                    child::Event::Connected
                } else {
                    let failure = ConnectFailure::Nobody;
                    child::Event::ConnectFailed { failure, why: "no such file".to_owned() }
                };
                self.up(number, event);
            }
            child::Action::Send(frame) => {
                self.said.push(format!("{number}> {}", frame.message.name()));
                let wire = &mut self.wires[self.processes[number].link.unwrap()];
                wire.up.push_back(through_the_wire(frame));
            }
            child::Action::Close => {
                let wire = self.processes[number].link.take().unwrap();
                self.wires[wire].child_open = false;
            }
            child::Action::AdoptListenSockets(sockets) => {
                self.processes[number].sockets += sockets.len();
                self.processes[number].holds = true;
            }
            child::Action::AdoptState { blobs, last } => {
                assert_eq!(blobs, blobs_of("state"));
                self.processes[number].states.push(last);
            }
            child::Action::AdoptTotals { blobs, last } => {
                assert_eq!(blobs, blobs_of("totals"));
                self.processes[number].totals.push(last);
            }
            child::Action::Prepare { epoch, cold } => {
                self.processes[number].epoch = Some(epoch);
                self.processes[number].cold = cold;
                // What binding the restart socket says.
                let in_use = self.processes.iter().any(|process| process.alive && process.holds);
                if !self.processes[number].holds && in_use {
                    self.up(number, child::Event::Failed { why: "another process is running".to_owned() });
                    return;
                }
                self.processes[number].holds = true;
                if self.workers_start {
                    self.workers_accept(number);
                }
            }
            child::Action::CheckService { elder } => {
                let wire = self.wires.iter().rfind(|wire| wire.child == number && !wire.probe).unwrap();
                let ended = wire.parent.is_none_or(|parent| !self.processes[parent].alive);
                let listens = self.processes.iter().any(|process| process.alive && process.holds);
                if (!elder && ended) || !listens {
                    self.processes[number].local.push_back(Local::Up(child::Event::SomebodyServes(false)));
                    return;
                }
                self.ask(number);
            }
            child::Action::TakeOver { epoch } => {
                assert_eq!(self.processes[number].epoch, Some(epoch));
                assert!(self.processes[number].accepts, "the workers accept before");
                let identity = self.processes[number].identity.clone();
                let mut machine = Parent::new(identity, epoch, self.deadlines.clone());
                machine.set_elder(!self.processes[number].cold);
                self.processes[number].down = Some(machine);
                self.processes[number].owns = true;
                self.processes[number].holds = true;
            }
            child::Action::ParentEnded => {
                if let Some(machine) = &mut self.processes[number].down {
                    machine.set_elder(false);
                }
            }
            child::Action::TakeParcel { .. } | child::Action::Log(..) => {}
            child::Action::Fail { why } => {
                self.processes[number].failed = Some(why);
                self.kill(number);
            }
        }
    }

    fn ask(&mut self, number: usize) {
        let wire = self.new_wire(number);
        self.wires[wire].probe = true;
        let hello = Hello { base_id: 5, probe: true, ..Hello::default() };
        self.wires[wire].up.push_back(Frame::new(1, hello));
        self.backlog.push_back(wire);
    }

    pub(crate) fn workers_accept(&mut self, number: usize) {
        self.processes[number]
            .local
            .push_back(Local::Up(child::Event::WorkersAccepting { workers: 2, released: Vec::new() }));
    }

    fn do_down(&mut self, number: usize, action: parent::Action) {
        match action {
            parent::Action::Send { peer, frame } => {
                self.said.push(format!("{number}< {}", frame.message.name()));
                self.wires[peer as usize].down.push_back((through_the_wire(frame), 0));
            }
            parent::Action::SendPart { peer, request_id, part, cursor } => {
                let (message, fds): (Message, usize) = match part {
                    Part::ListenSockets => {
                        let sockets: Vec<ListenSocket> =
                            (0..SOCKETS).map(|_| ListenSocket::default()).collect();
                        let (reply, range) = listen_sockets_reply(&sockets, cursor);
                        (reply.into(), range.len())
                    }
                    Part::State => (state_reply(&blobs_of("state"), cursor).into(), 0),
                    Part::Totals => (totals_reply(&blobs_of("totals"), cursor).into(), 0),
                };
                self.said.push(format!("{number}< {}", message.name()));
                let frame = through_the_wire(Frame::new(request_id, message));
                self.wires[peer as usize].down.push_back((frame, fds));
            }
            parent::Action::Close { peer } => self.wires[peer as usize].parent_open = false,
            parent::Action::StopAccepting { .. } => {
                let process = &mut self.processes[number];
                process.accepts = false;
                process.owns = false;
                process.local.push_back(Local::Down(parent::Event::AcceptStopped));
                let epoch = process.epoch.unwrap() + 1;
                self.up(number, child::Event::Superseded(Some(epoch)));
            }
            parent::Action::ResumeAccepting => {
                let process = &mut self.processes[number];
                process.accepts = true;
                process.owns = true;
                process.drains = false;
                self.up(number, child::Event::Superseded(None));
            }
            // This process holds the restart socket itself.
            parent::Action::CheckService => self.ask(number),
            parent::Action::BeginDrain { .. } => {
                self.processes[number].drains = true;
                if self.drain_ends {
                    self.processes[number].local.push_back(Local::Down(parent::Event::Drained { moved: 0 }));
                }
            }
            parent::Action::Exit { .. } => {
                self.processes[number].exited = true;
                self.kill(number);
            }
            parent::Action::AttemptFailed { .. }
            | parent::Action::CloseListeners
            | parent::Action::ParcelsAnswered(_)
            | parent::Action::Log(..) => {}
        }
    }
}

fn blobs_of(what: &str) -> Vec<Blob> {
    vec![
        Blob { name: format!("{what} a"), bytes: vec![7; 100_000] },
        Blob { name: format!("{what} b"), bytes: Vec::new() },
    ]
}

/// What is sent is what can be read.
fn through_the_wire(frame: Frame) -> Frame {
    let read = Frame::decode(&frame.encode().unwrap()).unwrap();
    assert_eq!(read, frame);
    read
}
