//! Connections to the restart socket: frames in order, with a delay, until one of the two ends hangs up.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ouro::base::random::Random;
use ouro::server::roles::Other;
use ouro_restart::{Connection, Frame};

/// How long a frame takes to be seen at most, microseconds: the other process has to be woken.
const DELAY_US: usize = 300;

/// What others can know of a process: whether it is over.
#[derive(Clone, Debug, Default)]
pub struct Life(Rc<Cell<bool>>);

impl Life {
    pub fn end(&self) {
        self.0.set(true);
    }
}

impl Other for Life {
    fn has_ended(&self) -> bool {
        self.0.get()
    }
}

/// What travels with a frame.
pub enum Load {
    Nothing,
    /// Listening sockets; none for the restart socket.
    Sockets(Vec<Option<OwnedFd>>),
    Channel(Box<Connection>),
}

/// What comes along a wire.
pub enum Packet {
    Frame(Frame, Load),
    HangUp,
}

/// The end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Child,
    Parent,
}

/// One direction.
#[derive(Default)]
struct Lane {
    packets: VecDeque<(u64, Packet)>,
    last: u64,
    /// Nothing more is written: the writer has closed.
    ended: bool,
}

struct Wire {
    child: (usize, Life),
    parent: Option<usize>,
    /// Who the child sees at the other end: not who has accepted, but who owned the socket when it connected.
    owner: Option<Life>,
    /// To the parent, and to the child.
    lanes: [Lane; 2],
}

/// All of them.
#[derive(Default)]
pub struct Wires {
    all: Vec<Wire>,
    /// Who has begun last to listen at the restart socket.
    owner: Option<Life>,
    /// Those that wait in the queue of the restart socket.
    backlog: VecDeque<(u64, usize)>,
}

impl Wires {
    /// A process begins to listen at the restart socket.
    pub fn claim(&mut self, life: &Life) {
        self.owner = Some(life.clone());
    }

    /// A process connects to the restart socket.
    pub fn connect(&mut self, child: usize, life: &Life, now: u64, random: &mut Random) -> usize {
        let (child, owner) = ((child, life.clone()), self.owner.clone());
        self.all.push(Wire { child, parent: None, owner, lanes: Default::default() });
        let wire = self.all.len() - 1;
        self.backlog.push_back((now + random.below(DELAY_US) as u64, wire));
        wire
    }

    /// When somebody waits at the restart socket.
    pub fn waiting_at(&self) -> Option<u64> {
        self.backlog.front().map(|(at, _)| *at)
    }

    /// A process accepts who waits first.
    pub fn accept(&mut self, parent: usize, now: u64) -> Option<usize> {
        let (_, wire) = self.backlog.pop_front_if(|(at, _)| *at <= now)?;
        self.all[wire].parent = Some(parent);
        Some(wire)
    }

    /// The last descriptor of the restart socket is closed.
    pub fn turn_away(&mut self, now: u64) {
        for (_, wire) in std::mem::take(&mut self.backlog) {
            self.lane(wire, Side::Parent).write(now, Packet::HangUp);
        }
    }

    /// The process at the other end of the one of this side.
    pub fn other(&self, wire: usize, side: Side) -> Option<usize> {
        match side {
            Side::Child => self.all[wire].parent,
            Side::Parent => Some(self.all[wire].child.0),
        }
    }

    /// The process that this side sees at the other end.
    pub fn life_of_other(&self, wire: usize, side: Side) -> Option<Life> {
        match side {
            Side::Child => self.all[wire].owner.clone(),
            Side::Parent => Some(self.all[wire].child.1.clone()),
        }
    }

    /// The lane that this side writes to.
    fn lane(&mut self, wire: usize, side: Side) -> &mut Lane {
        &mut self.all[wire].lanes[usize::from(side == Side::Parent)]
    }

    /// What is sent is what can be read. What is sent to somebody who has hung up is lost.
    pub fn send(&mut self, wire: usize, side: Side, frame: Frame, load: Load, now: u64, random: &mut Random) {
        let read = frame.encode().map(|bytes| Frame::decode(&bytes));
        assert!(matches!(read, Ok(Ok(read)) if read == frame), "a frame that cannot be read: {frame:?}");
        let at = now + random.below(DELAY_US) as u64;
        self.lane(wire, side).write(at, Packet::Frame(frame, load));
    }

    /// This side hangs up. What the other one has sent is lost.
    pub fn close(&mut self, wire: usize, side: Side, now: u64) {
        self.lane(wire, side).write(now, Packet::HangUp);
        let other = if side == Side::Child { Side::Parent } else { Side::Child };
        let lane = self.lane(wire, other);
        lane.ended = true;
        lane.packets.clear();
        self.backlog.retain(|(_, waiting)| *waiting != wire || side == Side::Parent);
    }

    /// When there is something to read for this side.
    pub fn readable_at(&self, wire: usize, side: Side) -> Option<u64> {
        let lane = &self.all[wire].lanes[usize::from(side == Side::Child)];
        lane.packets.front().map(|(at, _)| *at)
    }

    /// Reads what has come for this side.
    pub fn receive(&mut self, wire: usize, side: Side, now: u64) -> Option<Packet> {
        let lane = &mut self.all[wire].lanes[usize::from(side == Side::Child)];
        lane.packets.pop_front_if(|(at, _)| *at <= now).map(|(_, packet)| packet)
    }
}

impl Lane {
    fn write(&mut self, at: u64, packet: Packet) {
        if self.ended {
            return;
        }
        self.ended = matches!(packet, Packet::HangUp);
        self.last = self.last.max(at);
        self.packets.push_back((self.last, packet));
    }
}
