//! Relayed bytes: both sides send streams of known content, end them one way or another, and compare what comes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use ouro::base::random::Random;
use ouro::ring::sim::{self, EndId, Read};

use crate::content::{self, KEY_BYTES};
use crate::scenario::{Peer, Scenario, connected, violation};
use crate::states;

const LISTENER: &str = "127.0.0.1:7000";

/// What is known of a stream: who sends it says so, who gets it compares.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// Bytes sent so far.
    sent: usize,
    /// Ended in order.
    fin: bool,
    /// Broken off by its sender.
    reset: bool,
    /// Bytes that have come, and the end of it.
    received: usize,
    eof: bool,
    /// Key of the stream that its receiver sends.
    partner: Option<u64>,
}

/// Endpoints of the cluster: a connection fails when all of them cannot be connected to.
const ENDPOINTS: usize = 2;

/// All streams of a run.
type Streams = BTreeMap<u64, Stream>;

type Book = Rc<RefCell<Streams>>;

/// Streams both ways through a TCP listener.
pub struct TcpScenario {
    book: Book,
    random: Random,
}

impl TcpScenario {
    pub fn new(seed: u64) -> Self {
        Self { book: Book::default(), random: Random::new(seed) }
    }
}

impl Scenario for TcpScenario {
    fn config(&self) -> String {
        format!(
            "[[listeners]]\nname = \"tcp\"\naddress = \"{LISTENER}\"\nprotocol = \"tcp\"\ncluster = \"db\"\n\
             [[clusters]]\nname = \"db\"\nendpoints = [\"10.0.0.1:1\", \"10.0.0.2:1\"]\n"
        )
    }

    fn clients(&mut self, first: u32, random: &mut Random) -> Vec<Box<dyn Peer>> {
        let count = 1 + random.below(10) as u32;
        let client = |n| {
            let seed = random.next_u64();
            Box::new(TcpPeer::new(Rc::clone(&self.book), first + n, None, Random::new(seed))) as Box<dyn Peer>
        };
        (0..count).map(client).collect()
    }

    fn accepted(&mut self, number: u32, _: SocketAddr, end: EndId) -> Box<dyn Peer> {
        let random = Random::new(self.random.next_u64());
        Box::new(TcpPeer::new(Rc::clone(&self.book), number, Some(end), random))
    }

    fn aims(&self) -> &'static [&'static str] {
        states::TCP_AIMS
    }

    fn check(&mut self) -> Vec<String> {
        let book = self.book.borrow();
        let mut wrong = Vec::new();
        for (key, stream) in book.iter() {
            let partner = stream.partner.and_then(|partner| book.get(&partner));
            let disturbed = stream.reset || partner.is_none_or(|partner| partner.reset);
            if !disturbed && (stream.received != stream.sent || stream.fin != stream.eof) {
                wrong.push(format!("stream {key:x} did not arrive whole: {stream:?}"));
            }
        }
        wrong
    }
}

/// How a peer ends its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Fin,
    Reset,
}

struct TcpPeer {
    book: Book,
    me: u32,
    is_client: bool,
    end: Option<EndId>,
    random: Random,
    key: u64,
    total: usize,
    sent: usize,
    ending: Ending,
    has_ended: bool,
    /// It ends its stream only when the other one has ended: that one must arrive.
    waits_for_end: bool,
    starts_at: u64,
    /// The key of the stream that comes, as far as it has come.
    head: Vec<u8>,
    received: usize,
    eof: bool,
    done: bool,
    /// It does not read before.
    reads_at: u64,
    /// It reads nothing for so long in the beginning: both may have sent everything by then.
    ignores_us: u64,
    writes_at: u64,
    /// It sends nothing in that time either.
    is_mute: bool,
    pace_us: usize,
    max_read: usize,
}

impl TcpPeer {
    fn new(book: Book, me: u32, end: Option<EndId>, mut random: Random) -> Self {
        let key = random.next_u64() | 1;
        let total =
            KEY_BYTES + [random.below(40), random.below(3_000), random.below(60_000)][random.below(3)];
        let resets = if random.below(4) == 0 { 2 } else { 12 };
        let ending = if random.below(resets) == 0 { Ending::Reset } else { Ending::Fin };
        book.borrow_mut().insert(key, Stream::default());
        let starts_at = if end.is_none() { random.below(40_000) as u64 } else { 0 };
        Self {
            book,
            me,
            is_client: end.is_none(),
            end,
            key,
            total,
            sent: 0,
            ending,
            has_ended: false,
            waits_for_end: end.is_some() && random.below(3) == 0,
            starts_at,
            head: Vec::new(),
            received: 0,
            eof: false,
            done: false,
            reads_at: 0,
            ignores_us: if random.below(4) == 0 { 20_000 + random.below(200_000) as u64 } else { 0 },
            writes_at: 0,
            is_mute: end.is_none() && random.below(6) == 0,
            pace_us: [0, 0, 300, 20_000][random.below(4)],
            max_read: [16, 500, 100_000][random.below(3)],
            random,
        }
    }

    fn pause(&mut self, now: u64) -> u64 {
        if self.pace_us == 0 || self.random.below(3) > 0 {
            return now;
        }
        let pause = 1 + self.random.below(self.pace_us) as u64;
        sim::with(|world| world.wake(self.me, pause));
        now + pause
    }

    fn write(&mut self, end: EndId, now: u64) {
        while self.sent < self.total && self.writes_at <= now {
            let len = (1 + self.random.below(4_000)).min(self.total - self.sent);
            let bytes = content::piece(self.key, self.sent, len);
            let Ok(written) = sim::with(|world| world.peer_write(end, &bytes)) else {
                self.broken(end);
                return;
            };
            self.sent += written;
            self.with_own(|own| own.sent += written);
            if written < len {
                break;
            }
            self.writes_at = self.pause(now);
        }
        if self.sent == self.total && !self.has_ended && (self.eof || !self.waits_for_end) {
            self.has_ended = true;
            match self.ending {
                Ending::Fin => {
                    self.with_own(|own| own.fin = true);
                    sim::with(|world| world.peer_shutdown(end));
                }
                Ending::Reset => {
                    self.with_own(|own| own.reset = true);
                    sim::with(|world| world.peer_reset(end));
                    self.done = true;
                }
            }
        }
    }

    fn with_own(&self, act: impl FnOnce(&mut Stream)) {
        if let Some(own) = self.book.borrow_mut().get_mut(&self.key) {
            act(own);
        }
    }

    fn read(&mut self, end: EndId, now: u64) {
        while !self.done && !self.eof && self.reads_at <= now {
            let max = 1 + self.random.below(self.max_read);
            match sim::with(|world| world.peer_read(end, max)) {
                Read::Nothing => return,
                Read::Data(bytes) => self.take(&bytes),
                Read::Eof => {
                    if sim::with(|world| world.was_cut(end)) {
                        return self.broken(end);
                    }
                    self.eof = true;
                    self.take_eof();
                }
                Read::Reset => return self.broken(end),
            }
            self.reads_at = self.pause(now);
        }
    }

    fn incoming(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.head.get(..KEY_BYTES)?.try_into().ok()?))
    }

    fn take(&mut self, bytes: &[u8]) {
        let missing = KEY_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        let from = self.received;
        self.received += bytes.len();
        let Some(key) = self.incoming() else { return };
        let mut book = self.book.borrow_mut();
        let Some(stream) = book.get_mut(&key) else {
            return violation(format!("peer {} gets a stream that nobody sends: {key:x}", self.me));
        };
        if *stream.partner.get_or_insert(self.key) != self.key {
            violation(format!("stream {key:x} comes to two peers"));
        }
        stream.received = self.received;
        if self.received > stream.sent {
            violation(format!("stream {key:x}: {} bytes came, {} were sent", self.received, stream.sent));
        }
        if let Some(at) = content::difference(key, from, bytes) {
            violation(format!("stream {key:x}: the byte at {at} is not the one that was sent there"));
        }
    }

    fn take_eof(&self) {
        let Some(key) = self.incoming() else {
            // A client that is gone before the origin has answered the connect leaves nothing to pass on.
            // So does a connect that the process before has given up when it handed its client over.
            if self.is_client {
                violation(format!("client {} gets an end without a beginning", self.me));
            }
            return self.with_own(|own| own.reset = true);
        };
        let mut book = self.book.borrow_mut();
        let Some(stream) = book.get_mut(&key) else { return };
        stream.eof = true;
        if !stream.fin {
            violation(format!("stream {key:x} seems to end at {}, but was not ended", self.received));
        }
    }

    /// The connection is reset, which only the other side can have caused.
    fn broken(&mut self, end: EndId) {
        self.done = true;
        // A process that is killed takes its connections with it, and no others.
        let cut = sim::with(|world| {
            let cut = world.was_cut(end);
            // Where another process has taken it after all, this is no end in order either.
            if cut {
                world.peer_reset(end);
            } else {
                world.peer_close(end);
            }
            cut
        });
        let mut book = self.book.borrow_mut();
        let partner = self.incoming();
        let caused = match partner {
            _ if cut => true,
            Some(key) => book.get(&key).is_some_and(|stream| stream.reset),
            // Who it was cannot be told.
            None => !self.is_client || book.values().any(|stream| stream.reset),
        };
        if !caused {
            let explained = sim::with(|world| {
                let is_unconnected = self.is_client && world.failed_connects(end) >= ENDPOINTS;
                let is_lost = world.is_cut_off(end) || world.jumped(self.starts_at, world.now()).is_some();
                is_unconnected || world.missed_sockets(end) > 0 || is_lost
            });
            if !explained {
                let received = self.received;
                violation(format!("stream {partner:x?} is reset at {received}, and nobody has reset it"));
            }
        }
        // What this side has sent did not need to arrive.
        if let Some(own) = book.get_mut(&self.key) {
            own.reset = true;
        }
    }
}

impl Peer for TcpPeer {
    fn turn(&mut self) {
        if self.done {
            return;
        }
        let now = sim::with(|world| world.now());
        let to = LISTENER.parse().unwrap();
        let Some(end) = connected(self.me, &mut self.end, self.starts_at, to) else { return };
        let ignores_us = std::mem::take(&mut self.ignores_us);
        if ignores_us > 0 {
            self.reads_at = now + ignores_us;
            self.writes_at = if self.is_mute { self.reads_at } else { now };
            sim::with(|world| world.wake(self.me, ignores_us));
        }
        self.write(end, now);
        if !self.done {
            self.read(end, now);
        }
        if self.eof && !self.done {
            self.write(end, now);
        }
        if self.has_ended && self.eof && !self.done {
            self.done = true;
            sim::with(|world| world.peer_close(end));
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!(
            "{:?} key {:x}: sent {} of {} ({:?}), received {}{}, stream in {:?}",
            self.end,
            self.key,
            self.sent,
            self.total,
            self.ending,
            self.received,
            if self.eof { " and the end" } else { "" },
            self.incoming().and_then(|key| self.book.borrow().get(&key).cloned()),
        )
    }
}
