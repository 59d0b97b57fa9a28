//! The clock, the events to come, and what is decided by chance.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use super::fds::{Eyes, Key, Token, pair};
use super::net::{Conn, End, EndId, Holder};
use super::operations::RingState;
use super::record::Record;
use crate::base::clock::Micros;
use crate::base::random::Random;

/// How long the network stands still when a session is in a state that a handover waits for.
const STILL_US: Micros = 60_000;
/// Lines of the trace that are kept.
const TRACE_LINES: usize = 400;

/// How often things go another way than usual. Chances are out of 1024.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A send takes a part of what it could.
    pub short_send: u32,
    /// A receive brings a part of what it could.
    pub short_recv: u32,
    /// A multishot recv ends without need.
    pub end_multishot: u32,
    /// The completion of EOF brings a buffer.
    pub eof_with_buffer: u32,
    /// An operation takes up to `late_us` longer.
    pub late: u32,
    /// See `late`.
    pub late_us: usize,
    /// A cancellation takes up to `late_us` to find its operation.
    pub late_cancel: u32,
    /// A ring with something to do gets no CPU for up to `stall_us`.
    pub stall: u32,
    /// See `stall`.
    pub stall_us: usize,
    /// Only some of the completions are seen at once.
    pub few_completions: u32,
    /// Entries of the submission queue.
    pub submissions: usize,
    /// A connect is refused.
    pub refuse: u32,
    /// A connect is never answered.
    pub silent: u32,
    /// Nor is any to this address.
    pub black_hole: Option<std::net::IpAddr>,
    /// An accept fails for want of descriptors.
    pub accept: u32,
    /// A copy of a descriptor cannot be had.
    pub copy: u32,
    /// There is no descriptor for a socket to connect with.
    pub socket: u32,
    /// The task of a session is dropped where it waits, and another one goes on with the session.
    pub drop_task: u32,
    /// A piece of data is split on its way.
    pub split: u32,
    /// Least latency, and what it varies by, microseconds.
    pub latency: (u64, usize),
    /// Least capacity of a pipe, and what it varies by, bytes.
    pub buffer: (usize, usize),
}

/// How often sessions have waited in a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Await {
    /// Altogether.
    pub waited: u64,
    /// The task was dropped there, and another one of the same process went on.
    pub dropped: u64,
    /// The next process went on.
    pub moved: u64,
}

/// What whoever runs the simulation has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The code under test has connected to this address; the end is the peer's.
    Connected(SocketAddr, EndId),
    /// A peer has something to look at.
    Wake(u32),
    /// Something of no interest has happened.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Deliver(u32, u8),
    Connected(u32),
    Refused(u32),
    Recv(u32, u32),
    Send(u32, u32),
    Cancel(u32, u32),
    Accept(u32),
    /// Who was told of connections in the queue of this listener accepts them: ring and operation.
    AcceptBy(u32, u32, u32),
    /// A connection arrives in the queue of a listener.
    Incoming(u32, u32),
    Wake(u32),
}

pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) fd: Option<(OwnedFd, Key)>,
    pub(super) queue: VecDeque<u32>,
    /// Accepts in flight: ring and operation.
    pub(super) accepts: Vec<(u32, u32)>,
    /// Until then the ring of a process that was killed may be told of connections.
    pub(super) haunted_until: Micros,
}

/// See the module.
pub struct World {
    pub(super) now: Micros,
    base: Instant,
    events: BinaryHeap<Reverse<(Micros, u32, u64, Event)>>,
    sequence: u64,
    /// Decides everything.
    pub random: Random,
    /// How often what goes wrong.
    pub faults: Faults,
    pub(super) rings: Vec<RingState>,
    pub(super) conns: Vec<Conn>,
    pub(super) listeners: Vec<Listener>,
    pub(super) inodes: HashMap<Key, Socket>,
    pub(super) eyes: Eyes,
    pub(super) next_op: u32,
    counts: BTreeMap<&'static str, u64>,
    awaits: BTreeMap<String, Await>,
    /// Whoever runs the simulation waits for a session in one of these states.
    /// In a process with this ring.
    aim: Option<(&'static [&'static str], usize)>,
    aim_is_hit: bool,
    /// Until then neither do bytes move nor connections come to be.
    still_until: Micros,
    /// The ring whose turn it is.
    turn: usize,
    pub(super) record: Record,
    violations: Vec<String>,
    trace: VecDeque<String>,
    is_traced: bool,
    prints: bool,
    /// Peers that are about to be woken.
    woken: Vec<bool>,
    /// Connections that a killed process has taken with it.
    pub(super) cut: BTreeSet<u32>,
    /// A process is being killed.
    pub(super) kills: bool,
    /// Connections that are about to come into the queue of a listener.
    pub(super) coming: usize,
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    End(EndId),
    Listener(u32),
}

impl World {
    /// A world in which nothing has happened.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn new(seed: u64, faults: Faults) -> io::Result<Self> {
        Ok(Self {
            now: 0,
            base: Instant::now(),
            events: BinaryHeap::new(),
            sequence: 0,
            random: Random::new(seed),
            faults,
            rings: Vec::new(),
            conns: Vec::new(),
            listeners: Vec::new(),
            inodes: HashMap::new(),
            eyes: Eyes::new()?,
            next_op: 0,
            counts: BTreeMap::new(),
            awaits: BTreeMap::new(),
            aim: None,
            aim_is_hit: false,
            still_until: 0,
            turn: 0,
            record: Record::default(),
            violations: Vec::new(),
            trace: VecDeque::new(),
            is_traced: false,
            prints: false,
            woken: Vec::new(),
            cut: BTreeSet::new(),
            kills: false,
            coming: 0,
        })
    }

    /// Keeps what happens, and prints it if wanted.
    pub const fn set_traced(&mut self, prints: bool) {
        (self.is_traced, self.prints) = (true, prints);
    }

    /// Writes something into the trace.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if !self.is_traced {
            return;
        }
        let line = format!("{:>10.3} ms  {}", self.now as f64 / 1000.0, text());
        if self.prints {
            println!("{line}");
        }
        if self.trace.len() >= TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().map(String::as_str)
    }

    /// Counts that something was exercised.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// What was exercised, and how often.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// A session waits in this state. Says whether its task is to be dropped there.
    pub fn count_await(&mut self, state: String) -> bool {
        let is_hit = self.aim.is_some_and(|(aims, ring)| ring == self.turn && aims.contains(&&*state));
        if is_hit && !std::mem::replace(&mut self.aim_is_hit, true) {
            // So that it is still there when it moves.
            self.still_until = self.now + STILL_US;
            self.note(|| format!("a session waits in {state:?}: the network stands still"));
        }
        let counts = self.awaits.entry(state).or_default();
        counts.waited += 1;
        // The first few more often: some states are rare.
        let often = if counts.waited < 4 && self.faults.drop_task > 0 { 256 } else { 0 };
        let drops = self.random.below(1024) < self.faults.drop_task.max(often) as usize;
        counts.dropped += u64::from(drops);
        drops
    }

    /// A session that waited in this state goes on in another process.
    pub fn count_move(&mut self, state: String) {
        self.awaits.entry(state).or_default().moved += 1;
    }

    /// The states in which sessions have waited.
    #[must_use]
    pub const fn awaits(&self) -> &BTreeMap<String, Await> {
        &self.awaits
    }

    /// Looks out for a session that waits in one of these states, and in the process with this ring, from now on.
    pub const fn set_aim(&mut self, aim: Option<(&'static [&'static str], usize)>) {
        (self.aim, self.aim_is_hit) = (aim, false);
    }

    /// The process with this ring has its turn.
    pub const fn set_turn(&mut self, ring: usize) {
        self.turn = ring;
    }

    /// Whether one has waited there since.
    #[must_use]
    pub const fn aim_is_hit(&self) -> bool {
        self.aim_is_hit
    }

    /// Something must not be so.
    pub fn violation(&mut self, text: String) {
        self.note(|| format!("VIOLATION: {text}"));
        self.violations.push(text);
    }

    /// What must not be so.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// The virtual time, microseconds since the beginning.
    #[must_use]
    pub const fn now(&self) -> Micros {
        self.now
    }

    pub(super) fn instant(&self) -> Instant {
        self.base + std::time::Duration::from_micros(self.now)
    }

    /// A chance out of 1024.
    pub fn chance(&mut self, chance: u32) -> bool {
        chance > 0 && self.random.below(1024) < chance as usize
    }

    pub(super) fn latency(&mut self) -> Micros {
        let (least, varies) = self.faults.latency;
        least + self.random.below(varies + 1) as u64
    }

    /// Sets what happens at a time. Events of the same time come in an order of chance.
    pub(super) fn at(&mut self, at: Micros, event: Event) {
        let order = self.random.next_u64() as u32;
        self.sequence += 1;
        self.events.push(Reverse((at.max(self.now), order, self.sequence, event)));
    }

    /// Has a peer looked at after a while; at once for 0.
    pub fn wake(&mut self, peer: u32, after_us: Micros) {
        if after_us > 0 {
            self.at(self.now + after_us, Event::Wake(peer));
            return;
        }
        if self.woken.len() <= peer as usize {
            self.woken.resize(peer as usize + 1, false);
        }
        if !std::mem::replace(&mut self.woken[peer as usize], true) {
            self.at(self.now, Event::Wake(peer));
        }
    }

    /// When the next event is due.
    #[must_use]
    pub fn next_event(&self) -> Option<Micros> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets the next event happen if one is due.
    pub fn happen(&mut self) -> Option<Happening> {
        if self.next_event()? > self.now {
            return None;
        }
        let Reverse((_, _, _, event)) = self.events.pop()?;
        if self.now < self.still_until && !matches!(event, Event::Cancel(..) | Event::Wake(_)) {
            self.at(self.still_until, event);
            return Some(Happening::Nothing);
        }
        match event {
            Event::Deliver(conn, side) => self.deliver(EndId { conn, side }),
            Event::Connected(conn) => return Some(self.on_connected(conn)),
            Event::Refused(conn) => self.on_refused(conn),
            Event::Recv(ring, op) => self.run_recv((ring, op)),
            Event::Send(ring, op) => self.run_send((ring, op)),
            Event::Cancel(ring, op) => self.run_cancel((ring, op)),
            Event::Accept(listener) => self.run_accept(listener),
            Event::AcceptBy(listener, ring, op) => self.run_accept_by(listener, (ring, op)),
            Event::Incoming(listener, conn) => self.on_incoming(listener, conn),
            Event::Wake(peer) => {
                if let Some(woken) = self.woken.get_mut(peer as usize) {
                    *woken = false;
                }
                return Some(Happening::Wake(peer));
            }
        }
        Some(Happening::Nothing)
    }

    /// Moves the clock.
    pub fn advance_to(&mut self, at: Micros) {
        self.now = self.now.max(at);
    }

    /// Number of rings that there have been.
    #[must_use]
    pub const fn rings(&self) -> usize {
        self.rings.len()
    }

    /// Whether a ring has completions to take or its wait is over.
    #[must_use]
    pub fn is_due(&self, ring: usize) -> bool {
        let state = &self.rings[ring];
        state.stalled_until <= self.now
            && (state.completions.len() >= state.waits_for || state.wake_at <= self.now)
    }

    /// When a ring is to be looked at next, if nothing happens.
    #[must_use]
    pub fn due_at(&self, ring: usize) -> Micros {
        let state = &self.rings[ring];
        let at = if state.completions.len() < state.waits_for { state.wake_at } else { 0 };
        at.max(state.stalled_until)
    }

    /// A ring gets no CPU until then.
    pub fn stall(&mut self, ring: usize, until: Micros) {
        self.count("fault: stall of a process");
        self.note_stall(until);
        self.rings[ring].stalled_until = until;
    }

    /// Whether a ring gets no CPU at this moment.
    #[must_use]
    pub fn is_stalled(&self, ring: usize) -> bool {
        self.rings[ring].stalled_until > self.now
    }

    /// Notices what was closed and what has become readable.
    pub fn look(&mut self) {
        for token in self.eyes.look() {
            match token {
                Token::End(conn, side) => self.close(EndId { conn, side }),
                Token::Listener(listener) => self.on_listener_closed(listener),
                Token::Watch(ring, op) => self.on_readable((ring, op)),
            }
        }
    }

    /// Notices what was closed because a process was killed. To be called when all of it is gone.
    pub fn look_after_kill(&mut self) {
        self.kills = true;
        self.look();
        self.kills = false;
    }

    /// Whether a process that was killed had this connection, or whether somebody has cut it off who may.
    #[must_use]
    pub fn was_cut(&self, end: EndId) -> bool {
        self.cut.contains(&end.conn)
    }

    /// Whether a connection waits to be accepted, or will soon.
    #[must_use]
    pub fn is_anybody_coming(&self) -> bool {
        self.coming > 0 || self.listeners.iter().any(|listener| !listener.queue.is_empty())
    }

    /// A listening socket of the code under test.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<OwnedFd> {
        let number = self.listeners.len() as u32;
        let (ours, theirs) = pair()?;
        self.eyes.await_end(&ours, Token::Listener(number))?;
        let key = super::fds::key_of(theirs.as_raw_fd()).unwrap_or_default();
        self.inodes.insert(key, Socket::Listener(number));
        self.listeners.push(Listener {
            address,
            fd: Some((ours, key)),
            queue: VecDeque::new(),
            accepts: Vec::new(),
            haunted_until: 0,
        });
        Ok(theirs)
    }

    /// Whether a listening socket of the code under test has this address.
    #[must_use]
    pub fn is_listening(&self, address: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| listener.address == address && listener.fd.is_some())
    }

    /// Connections of the code under test that are open.
    #[must_use]
    pub fn open_ends(&self) -> usize {
        let is_open = |end: &&End| end.holder == Holder::App && !end.closed;
        self.conns.iter().flat_map(|conn| &conn.ends).filter(is_open).count()
    }

    /// What a ring has in flight.
    #[must_use]
    pub fn in_flight(&self, ring: usize) -> Vec<String> {
        self.rings[ring].operations.values().map(|flying| format!("{:?}", flying.kind)).collect()
    }

    pub(super) fn socket_of(&self, fd: i32) -> Option<Socket> {
        self.inodes.get(&super::fds::key_of(fd)?).copied()
    }

    pub(super) fn end_of(&self, fd: i32) -> Option<EndId> {
        match self.socket_of(fd)? {
            Socket::End(end) => Some(end),
            Socket::Listener(_) => None,
        }
    }
}
