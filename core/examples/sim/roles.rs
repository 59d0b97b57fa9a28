//! The roles of a restart, driven as `server/link.rs` drives them, on wires instead of sockets.

use ouro::ring::sim;
use ouro_restart::child::{self, ConnectFailure};
use ouro_restart::message::{Hello, ListenSocket, Message};
use ouro_restart::parent::{self, Parent, Part};
use ouro_restart::{Deadlines, Frame, listen_sockets_reply, state_reply, totals_reply};

use crate::instance::{Instance, identity};
use crate::process::{Todo, address};
use crate::wires::{Load, Packet, Side};

/// Purpose of the restart socket itself.
const RESTART: &str = "restart";

/// How long connections are looked for after a process has died that accepted from the same queues.
const AFTER_A_DEATH_US: u64 = 15_000_000;

impl Instance {
    /// Does one of the things that the roles of a process wait for: frames before timers, the process before first.
    pub fn hear(&mut self, n: usize, now: u64) -> bool {
        let process = &self.processes[n];
        if let Some(wire) = process.up
            && let Some(packet) = self.wires.receive(wire, Side::Child, now)
        {
            self.on_packet_from_above(n, wire, packet);
            return true;
        }
        if let Some(wire) = process.probe
            && let Some(packet) = self.wires.receive(wire, Side::Child, now)
        {
            self.processes[n].probe = None;
            self.wires.close(wire, Side::Child, now);
            if let Packet::Frame(..) = packet {
                self.up(n, child::Event::SomebodyServes(true));
            }
            return true;
        }
        if process.dying.is_some_and(|dying| self.processes[dying].gone) {
            let process = &mut self.processes[n];
            process.dying = None;
            if let Some(wire) = process.probe.take() {
                self.wires.close(wire, Side::Child, now);
            }
            self.up(n, child::Event::SomebodyServes(false));
            return true;
        }
        if process.serves
            && process.holds
            && let Some(wire) = self.wires.accept(n, now)
        {
            self.processes[n].peers.insert(wire);
            self.down(n, parent::Event::PeerConnected { peer: wire as u64 });
            return true;
        }
        for wire in process.peers.iter().copied().collect::<Vec<_>>() {
            let peer = wire as u64;
            match self.wires.receive(wire, Side::Parent, now) {
                None => continue,
                Some(Packet::Frame(frame, _)) => {
                    if let Message::Superseded(message) = &frame.message {
                        self.processes[n].is_superseded = message.superseded;
                    }
                    self.down(n, parent::Event::Frame { peer, frame, fds: 0 });
                }
                Some(Packet::HangUp) => {
                    self.processes[n].peers.remove(&wire);
                    if self.processes[n].sharing.remove(&wire) {
                        self.estrange(n, self.wires.other(wire, Side::Parent), true);
                    }
                    self.down(n, parent::Event::PeerGone { peer, why: "hung up".into() });
                }
            }
            return true;
        }
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now / 1000);
        if is_due(self.processes[n].child.deadline()) {
            self.up(n, child::Event::Timer);
        } else if is_due(self.processes[n].parent.as_ref().and_then(Parent::deadline)) {
            self.down(n, parent::Event::Timer);
        } else {
            return false;
        }
        true
    }

    /// When the roles of a process have something to do.
    pub fn heard_at(&self, n: usize) -> u64 {
        let process = &self.processes[n];
        let above = process.up.iter().chain(&process.probe);
        let above = above.filter_map(|wire| self.wires.readable_at(*wire, Side::Child));
        let below = process.peers.iter().filter_map(|wire| self.wires.readable_at(*wire, Side::Parent));
        let waiting = self.wires.waiting_at().filter(|_| process.serves && process.holds);
        let parent = process.parent.as_ref().and_then(Parent::deadline);
        let timers = process.child.deadline().into_iter().chain(parent).map(|ms| ms * 1000);
        let dying = process.dying.filter(|dying| self.processes[*dying].gone).map(|_| 0);
        above.chain(below).chain(waiting).chain(timers).chain(dying).min().unwrap_or(u64::MAX)
    }

    fn on_packet_from_above(&mut self, n: usize, wire: usize, packet: Packet) {
        match packet {
            Packet::Frame(_, Load::Channel(channel)) => {
                self.processes[n].todo.push_back(Todo::TakeParcels(channel));
            }
            Packet::Frame(frame, load) => {
                let fds = if let Load::Sockets(fds) = load { fds } else { Vec::new() };
                self.processes[n].fds = fds;
                let fds = self.processes[n].fds.len();
                self.up(n, child::Event::Frame { frame, fds });
                self.processes[n].fds.clear();
            }
            Packet::HangUp => {
                let other = self.wires.other(wire, Side::Child);
                let process = &mut self.processes[n];
                (process.up, process.dying) = (None, other);
                self.estrange(n, other, true);
                self.up(n, child::Event::ParentGone { why: "hung up".into() });
            }
        }
    }

    /// Tells the role of the child what has happened, and does what it wants.
    pub fn up(&mut self, n: usize, event: child::Event) {
        let now = sim::with(|world| world.now());
        for action in self.processes[n].child.handle(now / 1000, event) {
            self.do_up(n, action, now);
        }
    }

    fn do_up(&mut self, n: usize, action: child::Action, now: u64) {
        let process = &mut self.processes[n];
        match action {
            child::Action::Connect => {
                let event = if self.somebody_holds() {
                    self.processes[n].up = Some(self.wires.connect(n, now, &mut self.random));
                    child::Event::Connected
                } else {
                    child::Event::ConnectFailed { failure: ConnectFailure::Nobody, why: "no file".into() }
                };
                self.up(n, event);
            }
            child::Action::Send(frame) => {
                if let Some(wire) = process.up {
                    process.has_dismissed |= matches!(frame.message, Message::TerminateParent(_));
                    self.say(n, wire, Side::Child, frame, Load::Nothing);
                }
            }
            child::Action::Close => {
                let may_accept = process.child.is_without_answer();
                if let Some(wire) = process.up.take() {
                    let other = self.wires.other(wire, Side::Child);
                    self.wires.close(wire, Side::Child, now);
                    self.estrange(n, other, may_accept);
                }
            }
            child::Action::AdoptListenSockets(sockets) => {
                process.before = process.up.and_then(|wire| self.wires.other(wire, Side::Child));
                for (described, fd) in sockets.into_iter().zip(std::mem::take(&mut process.fds)) {
                    process.holds |= described.purpose == RESTART;
                    process.inherited.extend(fd);
                }
            }
            child::Action::AdoptState { .. }
            | child::Action::AdoptTotals { .. }
            | child::Action::TakeParcel { .. } => {}
            child::Action::Prepare { epoch, cold } => {
                let is_held = self.somebody_holds();
                let process = &mut self.processes[n];
                if !process.holds || cold {
                    if is_held {
                        let why = "another process with this base id is running".into();
                        return self.up(n, child::Event::Failed { why });
                    }
                    (process.holds, process.has_bound) = (true, true);
                }
                process.epoch = epoch;
                process.todo.push_back(Todo::Prepare { epoch });
            }
            child::Action::CheckService { elder } => {
                if elder {
                    process.dying = None;
                }
                if self.somebody_holds() {
                    let wire = self.wires.connect(n, now, &mut self.random);
                    self.processes[n].probe = Some(wire);
                    let hello = Hello { probe: true, ..identity(n).hello() };
                    self.say(n, wire, Side::Child, Frame::new(1, hello), Load::Nothing);
                } else {
                    self.up(n, child::Event::SomebodyServes(false));
                }
            }
            child::Action::TakeOver { epoch } => {
                let mut machine = Parent::new(identity(n), epoch, Deadlines::default());
                machine.set_elder(process.up.is_some());
                process.parent = Some(machine);
                (process.epoch, process.serves) = (epoch, true);
                process.todo.push_back(Todo::TakeOver);
                sim::with(|world| world.note(|| format!("process {n} serves as epoch {epoch}")));
                self.on_take_over(n);
            }
            child::Action::ParentEnded => {
                if let Some(parent) = &mut process.parent {
                    parent.set_elder(false);
                }
            }
            child::Action::Fail { why } => {
                self.on_failure(n, &why);
                self.down(n, parent::Event::Stopping);
                let process = &mut self.processes[n];
                if process.has_bound && !process.serves {
                    process.holds = false;
                }
                process.serves = false;
                process.todo.push_back(Todo::Fail);
            }
            child::Action::Log(_, text) => sim::with(|world| world.note(|| format!("process {n}: {text}"))),
        }
    }

    /// Tells the role of the parent what has happened, and does what it wants.
    pub fn down(&mut self, n: usize, event: parent::Event) {
        let now = sim::with(|world| world.now());
        let Some(parent) = &mut self.processes[n].parent else { return };
        for action in parent.handle(now / 1000, event) {
            self.do_down(n, action, now);
        }
    }

    fn do_down(&mut self, n: usize, action: parent::Action, now: u64) {
        let process = &mut self.processes[n];
        match action {
            parent::Action::Send { peer, frame } => {
                if process.peers.contains(&(peer as usize)) {
                    self.say(n, peer as usize, Side::Parent, frame, Load::Nothing);
                }
            }
            parent::Action::SendPart { peer, request_id, part, cursor } => {
                self.send_part(n, peer as usize, request_id, part, cursor);
            }
            parent::Action::Close { peer } => {
                let wire = peer as usize;
                if process.peers.remove(&wire) {
                    let shares = process.sharing.remove(&wire);
                    self.wires.close(wire, Side::Parent, now);
                    if shares {
                        self.estrange(n, self.wires.other(wire, Side::Parent), true);
                    }
                }
            }
            parent::Action::StopAccepting { .. } => {
                let until = self.unheard_until(n, now);
                let process = &mut self.processes[n];
                if let Some(parent) = &mut process.parent {
                    parent.set_unheard_until(until);
                }
                process.serves = false;
                let epoch = process.epoch + 1;
                process.todo.push_back(Todo::StopAccepting);
                self.up(n, child::Event::Superseded(Some(epoch)));
                self.on_commit(n);
            }
            parent::Action::ResumeAccepting => {
                process.serves = true;
                process.todo.push_back(Todo::Resume);
                self.up(n, child::Event::Superseded(None));
                sim::with(|world| world.count("parent took the service back"));
            }
            parent::Action::BeginDrain { drain, live, peer } => {
                process.todo.push_back(Todo::BeginDrain { drain, live: live.then_some(peer) });
            }
            parent::Action::Exit { cut, .. } => {
                process.leaves = true;
                process.todo.push_back(Todo::Exit { cut });
            }
            parent::Action::AttemptFailed { .. } => process.todo.push_back(Todo::AttemptFailed),
            parent::Action::CloseListeners => {
                process.holds = false;
                process.offered.clear();
                process.todo.push_back(Todo::CloseListeners);
            }
            parent::Action::ParcelsAnswered(_) => {}
            parent::Action::Log(_, text) => sim::with(|world| world.note(|| format!("process {n}: {text}"))),
        }
    }

    fn send_part(&mut self, n: usize, wire: usize, request_id: u32, part: Part, cursor: u64) {
        let process = &mut self.processes[n];
        let mut load = Load::Nothing;
        let message: Message = match part {
            Part::ListenSockets => {
                process.sharing.insert(wire);
                let restart = ListenSocket { purpose: RESTART.into(), ..ListenSocket::default() };
                let own = process.holds.then_some((restart, None)).into_iter();
                let others = self.model.listeners.iter().zip(&process.offered).map(|(listener, fd)| {
                    let address = address(listener).to_string();
                    let purpose = "listener".into();
                    let described = ListenSocket { purpose, address, ..ListenSocket::default() };
                    (described, Some(fd))
                });
                let (described, fds): (Vec<_>, Vec<_>) = own.chain(others).unzip();
                let (reply, range) = listen_sockets_reply(&described, cursor);
                let fds = fds[range].iter().map(|fd| fd.map(|fd| fd.try_clone().unwrap()));
                load = Load::Sockets(fds.collect());
                reply.into()
            }
            Part::State => state_reply(&[], cursor).into(),
            Part::Totals => totals_reply(&[], cursor).into(),
        };
        self.say(n, wire, Side::Parent, Frame::new(request_id, message), load);
    }

    fn say(&mut self, n: usize, wire: usize, side: Side, frame: Frame, load: Load) {
        let now = sim::with(|world| {
            world.note(|| format!("process {n} says {} on wire {wire}", frame.message.name()));
            world.now()
        });
        self.wires.send(wire, side, frame, load, now, &mut self.random);
    }

    /// A process has the listening sockets of this one, and from here on nobody will hear from it.
    fn estrange(&mut self, n: usize, other: Option<usize>, may_accept: bool) {
        if let Some(other) = other {
            self.processes[n].strangers.push((other, may_accept));
        }
    }

    /// Whether the kernel may tell another process of connections, and not this one.
    pub fn may_be_unheard(&mut self, n: usize, now: u64) -> bool {
        let mut died = false;
        let mut strangers = std::mem::take(&mut self.processes[n].strangers);
        strangers.retain(|(other, may_accept)| {
            let gone = self.processes[*other].gone;
            died |= gone && *may_accept;
            !gone
        });
        let process = &mut self.processes[n];
        if died {
            process.dead_until = Some((now + AFTER_A_DEATH_US) / 1000 * 1000);
        }
        process.strangers = strangers;
        let of_the_dead = process.dead_until.is_some_and(|until| now / 1000 < until / 1000);
        let is_told = process.child.unheard_until() * 1000 > now;
        of_the_dead || is_told || !process.strangers.is_empty() || process.child.is_without_answer()
    }

    /// Until when the ring of a dead process may hear of connections, milliseconds.
    fn unheard_until(&mut self, n: usize, now: u64) -> u64 {
        self.may_be_unheard(n, now);
        let process = &self.processes[n];
        (process.dead_until.unwrap_or(0) / 1000).max(process.child.unheard_until())
    }

    /// Whether somebody has a descriptor of the restart socket.
    pub fn somebody_holds(&self) -> bool {
        self.processes.iter().any(|process| process.holds && !process.gone)
    }

    /// Whether somebody serves, or may yet.
    pub fn somebody_serves(&self) -> bool {
        self.processes.iter().any(|process| !process.gone && (process.serves || process.parent.is_none()))
    }
}
