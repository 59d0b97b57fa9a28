//! The roles of a restart, on wires instead of sockets: what they decide is that of the real process.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use ouro::ring::sim;
use ouro::server::roles::{Ears, News, Other, RESTART, Step};
use ouro_restart::child::{self, ConnectFailure};
use ouro_restart::message::{Hello, ListenSocket, Message};
use ouro_restart::parent::{self, Part, PeerId};
use ouro_restart::{Connection, Frame, listen_sockets_reply, state_reply, totals_reply};

use crate::instance::Instance;
use crate::process::{Todo, address};
use crate::scenario::note;
use crate::wires::{Life, Load, Packet, Side, Wires};

/// The ends of wires that a process has.
#[derive(Default)]
pub struct Ends {
    /// To the process before, of a question whether somebody serves, and of processes after.
    pub up: Option<usize>,
    pub probe: Option<usize>,
    pub peers: BTreeSet<usize>,
    /// The process before, which has hung up.
    dying: Option<Life>,
    /// What came with the frame that is being handled.
    fds: Vec<Option<OwnedFd>>,
    channel: Option<Box<Connection>>,
    /// The process after has been replaced itself, or is gone while somebody else serves.
    pub is_superseded: bool,
}

/// What a process hears.
struct Hearing<'a> {
    n: usize,
    ends: &'a mut Ends,
    wires: &'a mut Wires,
    /// It has a descriptor of the restart socket.
    holds: bool,
    now: u64,
}

impl Ears for Hearing<'_> {
    fn above(&mut self) -> Option<News> {
        let packet = self.wires.receive(self.ends.up?, Side::Child, self.now)?;
        Some(self.ends.news(packet))
    }

    fn answer(&mut self) -> Option<bool> {
        let packet = self.wires.receive(self.ends.probe?, Side::Child, self.now)?;
        Some(matches!(packet, Packet::Frame(..)))
    }

    fn before_has_ended(&mut self) -> bool {
        self.ends.dying.take_if(|life| life.has_ended()).is_some()
    }

    fn accept(&mut self) -> Option<PeerId> {
        let wire = self.holds.then(|| self.wires.accept(self.n, self.now))??;
        self.ends.peers.insert(wire);
        Some(wire as PeerId)
    }

    fn below(&mut self) -> Option<(PeerId, News)> {
        let Self { ends, wires, now, .. } = self;
        let heard = |wire: &usize| Some((*wire, wires.receive(*wire, Side::Parent, *now)?));
        let (wire, packet) = ends.peers.iter().find_map(heard)?;
        if let Packet::Frame(Frame { message: Message::Superseded(message), .. }, _) = &packet {
            ends.is_superseded = message.superseded;
        }
        Some((wire as PeerId, ends.news(packet)))
    }
}

impl Ends {
    fn news(&mut self, packet: Packet) -> News {
        match packet {
            Packet::Frame(frame, load) => {
                match load {
                    Load::Nothing => {}
                    Load::Sockets(fds) => self.fds = fds,
                    Load::Channel(channel) => self.channel = Some(channel),
                }
                News::Frame(frame, self.fds.len())
            }
            Packet::HangUp => News::Broken { why: "hung up".into(), is_nonsense: false },
        }
    }
}

impl Instance {
    /// Does one of the things that the roles of a process wait for.
    pub fn hear(&mut self, n: usize, now: u64) -> bool {
        let Self { processes, wires, .. } = self;
        let process = &mut processes[n];
        let mut ears = Hearing { n, ends: &mut process.ends, wires, holds: process.holds, now };
        let heard = process.roles.hear(now / 1000, &mut ears);
        let Some(steps) = heard.or_else(|| process.roles.timer(now / 1000)) else { return false };
        self.carry_out(n, steps);
        let ends = &mut self.processes[n].ends;
        ends.fds.clear();
        ends.channel = None;
        true
    }

    /// When the roles of a process have something to do.
    pub fn heard_at(&self, n: usize) -> u64 {
        let Self { processes, wires, .. } = self;
        let process = &processes[n];
        let ends = &process.ends;
        let above = ends.up.iter().chain(&ends.probe);
        let above = above.filter_map(|wire| wires.readable_at(*wire, Side::Child));
        let below = ends.peers.iter().filter_map(|wire| wires.readable_at(*wire, Side::Parent));
        let waiting = wires.waiting_at().filter(|_| process.roles.serves() && process.holds);
        let timer = process.roles.deadline().map(|ms| ms * 1000);
        let has_ended = process.roles.awaits_end() && ends.dying.as_ref().is_some_and(Life::has_ended);
        let dying = has_ended.then_some(0);
        above.chain(below).chain(waiting).chain(timer).chain(dying).min().unwrap_or(u64::MAX)
    }

    /// Tells the role of the child what has happened, and does what it wants.
    pub fn up(&mut self, n: usize, event: child::Event) {
        let now = sim::with(|world| world.now());
        let steps = self.processes[n].roles.up(now / 1000, event);
        self.carry_out(n, steps);
    }

    /// Tells the role of the parent what has happened, and does what it wants.
    pub fn down(&mut self, n: usize, event: parent::Event) {
        let now = sim::with(|world| world.now());
        let steps = self.processes[n].roles.down(now / 1000, event);
        self.carry_out(n, steps);
    }

    /// Does what the roles of a process want.
    pub fn carry_out(&mut self, n: usize, steps: Vec<Step>) {
        let now = sim::with(|world| world.now());
        for step in steps {
            self.step(n, step, now);
        }
    }

    fn step(&mut self, n: usize, step: Step, now: u64) {
        let process = &mut self.processes[n];
        match step {
            Step::Connect => {
                let event = if self.somebody_holds() {
                    self.processes[n].ends.up = Some(self.connect(n, now));
                    child::Event::Connected
                } else {
                    child::Event::ConnectFailed { failure: ConnectFailure::Nobody, why: "no file".into() }
                };
                self.up(n, event);
            }
            Step::SendAbove(frame) => {
                if let Some(wire) = process.ends.up {
                    process.has_dismissed |= matches!(frame.message, Message::TerminateParent(_));
                    self.say(n, wire, Side::Child, frame, Load::Nothing);
                }
            }
            Step::CloseAbove { may_accept } => {
                if let Some(wire) = process.ends.up.take() {
                    let other = self.wires.life_of_other(wire, Side::Child);
                    process.roles.estrange(now / 1000, other, may_accept);
                    self.wires.close(wire, Side::Child, now);
                }
            }
            Step::LoseAbove { why } => {
                if let Some(wire) = process.ends.up.take() {
                    let other = self.wires.life_of_other(wire, Side::Child);
                    process.ends.dying = other.clone();
                    let steps = process.roles.lost_above(now / 1000, other, why);
                    self.carry_out(n, steps);
                }
            }
            Step::AdoptSockets(sockets) => {
                process.before = process.ends.up.and_then(|wire| self.wires.other(wire, Side::Child));
                for (described, fd) in sockets.into_iter().zip(std::mem::take(&mut process.ends.fds)) {
                    process.holds |= described.purpose == RESTART;
                    process.inherited.extend(fd);
                }
            }
            Step::AdoptState(_) | Step::CarryTotals(_) | Step::TakeTotals(_) => {}
            Step::Prepare { epoch, cold } => {
                let is_held = self.somebody_holds();
                let process = &mut self.processes[n];
                if !process.holds || cold {
                    if is_held {
                        let why = "another process with this base id is running".into();
                        return self.up(n, child::Event::Failed { why });
                    }
                    process.holds = true;
                    process.roles.has_bound();
                    self.wires.claim(&process.life);
                }
                process.todo.push_back(Todo::Prepare { epoch });
            }
            Step::Ask(hello) => self.ask(n, hello, now),
            Step::ForgetQuestion => {
                if let Some(wire) = process.ends.probe.take() {
                    self.wires.close(wire, Side::Child, now);
                }
            }
            Step::TakeOver { epoch } => {
                self.wires.claim(&process.life);
                process.todo.push_back(Todo::TakeOver);
                note(|| format!("process {n} serves as epoch {epoch}"));
                self.on_take_over(n);
            }
            Step::Unbind => process.holds = false,
            Step::Fail { why } => {
                process.todo.push_back(Todo::Fail);
                self.on_failure(n, &why);
            }
            Step::TakeChannel { .. } => {
                process.todo.extend(process.ends.channel.take().map(Todo::TakeParcels));
            }
            Step::SendBelow { peer, frame } => {
                if process.ends.peers.contains(&(peer as usize)) {
                    self.say(n, peer as usize, Side::Parent, frame, Load::Nothing);
                }
            }
            Step::SendPart { peer, request_id, part, cursor } => {
                self.send_part(n, peer as usize, request_id, part, cursor);
            }
            Step::CloseBelow { peer, is_stranger } => {
                let wire = peer as usize;
                if process.ends.peers.remove(&wire) {
                    if is_stranger {
                        let other = self.wires.life_of_other(wire, Side::Parent);
                        process.roles.estrange(now / 1000, other, true);
                    }
                    self.wires.close(wire, Side::Parent, now);
                }
            }
            Step::LoseBelow { peer, why } => {
                process.ends.peers.remove(&(peer as usize));
                let other = self.wires.life_of_other(peer as usize, Side::Parent);
                let steps = process.roles.lost_below(now / 1000, peer, other, why);
                self.carry_out(n, steps);
            }
            Step::Restart { .. } => unreachable!("operators start processes themselves"),
            Step::StopAccepting { .. } => {
                process.todo.push_back(Todo::StopAccepting);
                self.on_commit(n);
            }
            Step::ClaimBack => self.wires.claim(&process.life),
            Step::ResumeAccepting => {
                process.todo.push_back(Todo::Resume);
                sim::with(|world| world.count("parent took the service back"));
            }
            Step::BeginDrain { drain, live } => process.todo.push_back(Todo::BeginDrain { drain, live }),
            Step::Exit { cut, .. } => {
                process.leaves = true;
                process.todo.push_back(Todo::Exit { cut });
            }
            Step::AttemptFailed { .. } => process.todo.push_back(Todo::AttemptFailed),
            Step::CloseListeners => {
                process.holds = false;
                process.ends.is_superseded = true;
                process.offered.clear();
                process.todo.push_back(Todo::CloseListeners);
            }
            Step::Log(_, text) => note(|| format!("process {n}: {text}")),
        }
    }

    fn connect(&mut self, n: usize, now: u64) -> usize {
        self.wires.connect(n, &self.processes[n].life, now, &mut self.random)
    }

    fn ask(&mut self, n: usize, hello: Hello, now: u64) {
        if self.somebody_holds() {
            let wire = self.connect(n, now);
            self.processes[n].ends.probe = Some(wire);
            self.say(n, wire, Side::Child, Frame::new(1, hello), Load::Nothing);
        } else {
            let steps = self.processes[n].roles.nobody_serves(now / 1000);
            self.carry_out(n, steps);
        }
    }

    fn send_part(&mut self, n: usize, wire: usize, request_id: u32, part: Part, cursor: u64) {
        let process = &mut self.processes[n];
        let mut load = Load::Nothing;
        let message: Message = match part {
            Part::ListenSockets => {
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

    /// Whether somebody has a descriptor of the restart socket.
    pub fn somebody_holds(&self) -> bool {
        self.living().any(|(_, process)| process.holds)
    }

    /// Whether somebody serves, or may yet.
    pub fn somebody_serves(&self) -> bool {
        self.living().any(|(_, process)| process.roles.serves() || process.roles.parent().is_none())
    }
}
