//! Connections: two ends, and a pipe each way with latency and a bounded buffer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::fds::Key;
use super::world::{Event, World};
use crate::base::clock::Micros;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndId {
    /// Number of the connection.
    pub conn: u32,
    /// 0: who has connected; 1: who has accepted.
    pub side: u8,
}

impl EndId {
    pub(super) const fn other(self) -> Self {
        Self { conn: self.conn, side: 1 - self.side }
    }
}

/// Who has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody yet: it waits in the queue of a listener.
    Nobody,
    /// The code under test.
    App,
    /// A simulated peer.
    Peer(u32),
}

/// An operation in flight: ring and number.
pub(super) type OpId = (u32, u32);

pub(super) struct Conn {
    pub(super) ends: [End; 2],
    /// What each end has written.
    pub(super) pipes: [Pipe; 2],
    pub(super) established: bool,
}

pub(super) struct End {
    pub(super) holder: Holder,
    pub(super) address: SocketAddr,
    /// The world's end of the pair, and what the other end is found by.
    pub(super) fd: Option<(OwnedFd, Key)>,
    pub(super) closed: bool,
    pub(super) reset_at_close: bool,
    /// RST has come: nothing goes any more.
    pub(super) broken: bool,
    /// The errno of that, until somebody was told.
    pub(super) error: i32,
    pub(super) recv: Option<OpId>,
    pub(super) send: Option<OpId>,
    pub(super) connect: Option<OpId>,
}

impl End {
    pub(super) fn new(holder: Holder, address: SocketAddr) -> Self {
        Self {
            holder,
            address,
            fd: None,
            closed: false,
            reset_at_close: false,
            broken: false,
            error: 0,
            recv: None,
            send: None,
            connect: None,
        }
    }
}

#[derive(Default)]
pub(super) struct Pipe {
    /// On the way, with the time of arrival.
    pub(super) flight: VecDeque<(Micros, Vec<u8>)>,
    /// Arrived and not read.
    pub(super) ready: VecDeque<u8>,
    /// Bytes of both.
    pub(super) used: usize,
    pub(super) capacity: usize,
    /// FIN follows the last byte.
    pub(super) ended: bool,
    pub(super) fin_at: Option<Micros>,
    /// FIN has arrived.
    pub(super) fin: bool,
    pub(super) rst_at: Option<Micros>,
    /// When FIN and RST were sent.
    pub(super) fin_sent: Option<Micros>,
    pub(super) rst_sent: Option<Micros>,
    pub(super) last_arrival: Micros,
}

/// What a reader finds.
pub(super) enum Found {
    Data,
    Eof,
    Error(i32),
    Nothing,
}

impl World {
    pub(super) fn conn(&mut self, id: EndId) -> &mut Conn {
        &mut self.conns[id.conn as usize]
    }

    pub(super) fn end(&mut self, id: EndId) -> &mut End {
        &mut self.conns[id.conn as usize].ends[usize::from(id.side)]
    }

    /// The pipe that this end writes to.
    pub(super) fn out(&mut self, id: EndId) -> &mut Pipe {
        &mut self.conns[id.conn as usize].pipes[usize::from(id.side)]
    }

    /// A connection that is not established yet.
    pub(super) fn new_conn(&mut self, from: End, to: End) -> u32 {
        let mut pipe = || {
            let capacity = self.faults.buffer.0 + self.random.below(self.faults.buffer.1);
            Pipe { capacity, ..Pipe::default() }
        };
        let pipes = [pipe(), pipe()];
        self.conns.push(Conn { ends: [from, to], pipes, established: false });
        self.conns.len() as u32 - 1
    }

    /// Writes as much as there is room for.
    pub(super) fn write(&mut self, id: EndId, bytes: &[u8]) -> Result<usize, i32> {
        let end = self.end(id);
        if end.broken {
            return Err(match std::mem::take(&mut end.error) {
                0 => libc::EPIPE,
                error => error,
            });
        }
        let pipe = self.out(id);
        if pipe.ended {
            return Err(libc::EPIPE);
        }
        let len = bytes.len().min(pipe.capacity.saturating_sub(pipe.used));
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let split = self.random.below(1024) < self.faults.split as usize && rest.len() > 1;
            let piece = if split { 1 + self.random.below(rest.len() - 1) } else { rest.len() };
            let at = self.arrival(id);
            let pipe = self.out(id);
            pipe.flight.push_back((at, rest[..piece].to_vec()));
            pipe.used += piece;
            self.at(at, Event::Deliver(id.conn, id.side));
            rest = &rest[piece..];
        }
        Ok(len)
    }

    /// Room that a writer has.
    pub(super) fn room(&mut self, id: EndId) -> usize {
        let pipe = self.out(id);
        pipe.capacity.saturating_sub(pipe.used)
    }

    /// When something that is sent now arrives: nothing overtakes.
    fn arrival(&mut self, id: EndId) -> Micros {
        let latency = self.latency();
        let now = self.now;
        let pipe = self.out(id);
        pipe.last_arrival = pipe.last_arrival.max(now + latency);
        pipe.last_arrival
    }

    /// What there is to read.
    pub(super) fn find(&mut self, id: EndId) -> Found {
        let pipe = self.out(id.other());
        if !pipe.ready.is_empty() {
            return Found::Data;
        }
        let fin = pipe.fin;
        let end = self.end(id);
        if fin {
            Found::Eof
        } else if end.broken {
            match std::mem::take(&mut end.error) {
                // Somebody was told already: Linux says EOF from then on.
                0 => Found::Eof,
                error => Found::Error(error),
            }
        } else {
            Found::Nothing
        }
    }

    /// Takes what has arrived.
    pub(super) fn read(&mut self, id: EndId, max: usize) -> Vec<u8> {
        let pipe = self.out(id.other());
        let len = pipe.ready.len().min(max);
        let bytes = pipe.ready.drain(..len).collect();
        pipe.used -= len;
        self.kick_writer(id.other());
        bytes
    }

    /// Sends FIN behind what was written.
    pub(super) fn shut_down(&mut self, id: EndId) {
        if self.out(id).ended || self.end(id).broken {
            return;
        }
        let (at, now) = (self.arrival(id), self.now);
        let pipe = self.out(id);
        pipe.ended = true;
        (pipe.fin_at, pipe.fin_sent) = (Some(at), Some(now));
        self.at(at, Event::Deliver(id.conn, id.side));
    }

    /// The last descriptor is closed, or the peer has hung up.
    pub(super) fn close(&mut self, id: EndId) {
        let end = self.end(id);
        if std::mem::replace(&mut end.closed, true) {
            return;
        }
        if self.kills {
            self.cut.insert(id.conn);
        }
        let end = self.end(id);
        let (reset, broken, fd) = (end.reset_at_close, end.broken, end.fd.take());
        if let Some((_, key)) = fd {
            self.inodes.remove(&key);
        }
        let end = self.end(id);
        let in_flight = end.recv.or(end.send).or(end.connect);
        if let Some((ring, op)) = in_flight.filter(|(ring, _)| self.rings[*ring as usize].alive) {
            self.violation(format!("{id:?} was closed with operation {op} of ring {ring} in flight"));
        }
        self.note(|| format!("{id:?} closed{}", if reset { " with reset" } else { "" }));
        if !self.conn(id).established || broken {
            return;
        }
        let unread = !self.out(id.other()).ready.is_empty();
        if reset || unread {
            self.send_reset(id);
        } else {
            self.shut_down(id);
        }
    }

    /// Sends RST. What is on the way may arrive before it, or not.
    pub(super) fn send_reset(&mut self, id: EndId) {
        self.count("rst");
        let flights = self.out(id).flight.len();
        let keep = self.random.below(flights + 1);
        let pipe = self.out(id);
        for (_, lost) in pipe.flight.drain(keep..) {
            pipe.used -= lost.len();
        }
        if keep < flights {
            // FIN was behind what is lost.
            pipe.fin_at = None;
        }
        pipe.ended = true;
        let (at, now) = (self.arrival(id), self.now);
        let pipe = self.out(id);
        (pipe.rst_at, pipe.rst_sent) = (Some(at), Some(now));
        let end = self.end(id);
        end.broken = true;
        self.at(at, Event::Deliver(id.conn, id.side));
    }

    /// Something of what `id` has sent arrives.
    pub(super) fn deliver(&mut self, id: EndId) {
        let now = self.now;
        let reader = id.other();
        let closed = self.end(reader).closed;
        let pipe = self.out(id);
        let mut arrived = false;
        while pipe.flight.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bytes)) = pipe.flight.pop_front() else { break };
            if closed {
                pipe.used -= bytes.len();
            } else {
                pipe.ready.extend(&bytes);
            }
            arrived = true;
        }
        if pipe.flight.is_empty() && pipe.fin_at.is_some_and(|at| at <= now) {
            pipe.fin = true;
        }
        let reset = pipe.rst_at.is_some_and(|at| at <= now);
        if reset && pipe.flight.is_empty() {
            pipe.rst_at = None;
            let has_fin = pipe.fin;
            let end = self.end(reader);
            if !end.broken {
                end.broken = true;
                end.error = if has_fin { libc::EPIPE } else { libc::ECONNRESET };
            }
            let pipe = self.out(reader);
            for (_, lost) in pipe.flight.drain(..) {
                pipe.used -= lost.len();
            }
            (pipe.fin_at, pipe.ended) = (None, true);
            self.note(|| format!("reset arrives at {reader:?}"));
        } else if closed && arrived && !self.end(reader).broken {
            // Nobody is there to read it.
            self.send_reset(reader);
        }
        if closed {
            return;
        }
        self.kick_reader(reader);
        self.kick_writer(reader);
    }

    /// There may be something to read.
    pub(super) fn kick_reader(&mut self, id: EndId) {
        let end = self.end(id);
        match (end.holder, end.recv) {
            (Holder::Peer(peer), _) => self.wake(peer, 0),
            (Holder::App, Some(op)) => self.schedule(op, Event::Recv),
            _ => {}
        }
    }

    /// There may be room to write.
    pub(super) fn kick_writer(&mut self, id: EndId) {
        let end = self.end(id);
        match (end.holder, end.send) {
            (Holder::Peer(peer), _) => self.wake(peer, 0),
            (Holder::App, Some(op)) => self.schedule(op, Event::Send),
            _ => {}
        }
    }
}
