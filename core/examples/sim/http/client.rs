//! A client: its requests in order, on one connection after the other.

use std::collections::VecDeque;
use std::ops::Range;

use ouro::base::limits;
use ouro::base::random::Random;
use ouro::ring::sim::{self, EndId, Read};

use super::wire::{self, Body, Framing, Head};
use super::{Bad, Break, HANG_US, LISTENER, Plan, Shared, hostile, request_key, response_key};
use crate::content;
use crate::scenario::{Peer, connected, violation};

/// Endpoints of the cluster: a request fails when all of them cannot be connected to.
const ENDPOINTS: usize = 2;
/// How long the proxy reads on behind its FIN, less what rounding may take in each of the handovers that there can be.
const LINGER_US: u64 = (limits::LINGER_MS - 20) * 1000;
/// How long it waits for 100 before it sends the body all the same.
const CONTINUE_US: u64 = 500_000;

/// What it reads.
#[derive(Debug)]
enum State {
    Head,
    Body { status: u16, body: Body, received: usize, own: bool },
    Tunnel(usize),
}

/// See the module.
pub struct Client {
    book: Shared,
    me: u32,
    random: Random,
    /// Requests that are not answered: those that were sent on this connection first.
    open: VecDeque<usize>,
    /// How many of them were sent.
    sent: usize,
    depth: usize,
    end: Option<EndId>,
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The body that waits for 100, until this time.
    awaiting: Option<(Vec<u8>, u64)>,
    /// Nothing more is sent on this connection.
    last: bool,
    /// The proxy has said that it will end this connection.
    announced: bool,
    /// It may end without that, because an origin has answered early.
    is_early: bool,
    shut: bool,
    eof: bool,
    starts_at: u64,
    reads_at: u64,
    writes_at: u64,
    pace_us: usize,
    max_read: usize,
    /// It hangs up with RST at this time.
    gives_up_at: u64,
    done: bool,
    connected_at: u64,
    /// Failed connects, and sockets that could not be had, that have explained an answer on this connection.
    explained: (usize, u32),
}

impl Client {
    pub fn new(book: Shared, me: u32, ids: Range<usize>, mut random: Random, rough: bool) -> Self {
        Self {
            book,
            me,
            open: ids.collect(),
            sent: 0,
            depth: [1, 1, 2, 8][random.below(4)],
            end: None,
            state: State::Head,
            input: Vec::new(),
            output: Vec::new(),
            awaiting: None,
            last: false,
            announced: false,
            is_early: false,
            shut: false,
            eof: false,
            starts_at: random.below(40_000) as u64,
            reads_at: 0,
            writes_at: 0,
            pace_us: [0, 0, 300, 20_000][random.below(4)],
            max_read: [16, 500, 100_000][random.below(3)],
            gives_up_at: if rough && random.below(6) == 0 { random.below(300_000) as u64 } else { u64::MAX },
            done: false,
            connected_at: 0,
            explained: (0, 0),
            random,
        }
    }

    fn plan(&self, id: usize) -> Plan {
        self.book.borrow().plans[id].clone()
    }

    fn connect(&mut self) {
        connected(self.me, &mut self.end, 0, LISTENER.parse().unwrap());
        (self.connected_at, self.explained) = (sim::with(|world| world.now()), (0, 0));
        (self.sent, self.state, self.last, self.shut, self.eof) = (0, State::Head, false, false, false);
        (self.announced, self.is_early) = (false, false);
        (self.awaiting, self.input, self.output) = (None, Vec::new(), Vec::new());
    }

    /// Queues the next requests.
    fn ask(&mut self, now: u64) {
        if let Some((_, until)) = &self.awaiting
            && *until <= now
            && let Some((body, _)) = self.awaiting.take()
        {
            self.output.extend(body);
        }
        while self.sent < self.depth && self.awaiting.is_none() && !self.last {
            let Some(id) = self.open.get(self.sent).copied() else { return };
            let plan = self.plan(id);
            self.sent += 1;
            sim::with(|world| {
                world.note(|| format!("client {} asks {id} on {:?}: {plan:?}", self.me, self.end))
            });
            // Whatever follows such a request waits for its answer.
            self.last = plan.asks_close || plan.http_10 || plan.tunnel.is_some() || plan.bad.is_some();
            if let Some(Bad::Head(n)) = plan.bad {
                self.output.extend(hostile::HEADS[n].1);
                self.follow();
                continue;
            }
            let version = if plan.http_10 { "1.0" } else { "1.1" };
            let path = if plan.unrouted { "/none" } else { "/r" };
            let mut head = format!("{} {path}/{id} HTTP/{version}\r\nhost: sim\r\n", plan.method);
            match plan.request {
                Framing::Length => head += &format!("content-length: {}\r\n", plan.request_len),
                Framing::Chunked => head += "transfer-encoding: chunked\r\n",
                Framing::None | Framing::UntilClose => {}
            }
            if plan.padding > 0 {
                head += &format!("x-padding: {}\r\n", "p".repeat(plan.padding));
            }
            if plan.expects {
                head += "expect: 100-continue\r\n";
            }
            if plan.tunnel.is_some() {
                head += "connection: upgrade\r\nupgrade: websocket\r\n";
            } else if plan.asks_close {
                head += "connection: close\r\n";
            }
            self.output.extend(head.bytes());
            self.output.extend(b"\r\n");
            let body = content::piece(request_key(id), 0, plan.request_len);
            let random = &mut self.random;
            let mut framed = wire::frame(plan.request, &body, || 1 + random.below(2_000));
            if let Some(Bad::Chunk(n, good)) = plan.bad {
                if good > 0 {
                    framed = format!("{good:x}\r\n").into_bytes();
                    framed.extend(content::piece(request_key(id), 0, good));
                    framed.extend(b"\r\n");
                } else {
                    framed.clear();
                }
                framed.extend(hostile::CHUNKS[n].1);
            }
            if plan.expects {
                self.awaiting = Some((framed, now + CONTINUE_US));
                sim::with(|world| world.wake(self.me, CONTINUE_US));
            } else {
                self.output.extend(framed);
                if plan.junk && plan.tunnel.is_none() {
                    self.output.extend(hostile::JUNK);
                } else if plan.bad.is_some() {
                    self.follow();
                }
            }
            if plan.tunnel.is_none() {
                self.ignore(plan.client_ignores_us);
            }
        }
    }

    /// What follows that breaks the protocol.
    fn follow(&mut self) {
        for _ in 0..self.random.below(3) {
            self.output.extend(hostile::JUNK);
        }
    }

    fn write(&mut self, end: EndId, now: u64) {
        while !self.output.is_empty() && self.writes_at <= now {
            let len = (1 + self.random.below(3_000)).min(self.output.len());
            match sim::with(|world| world.peer_write(end, &self.output[..len])) {
                Ok(0) => return,
                Ok(written) => drop(self.output.drain(..written)),
                // What has come is read all the same.
                Err(_) => self.output.clear(),
            }
            self.writes_at = self.pause(now);
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

    /// It reads nothing for a while.
    fn ignore(&mut self, us: u64) {
        if us > 0 {
            let until = sim::with(|world| {
                world.wake(self.me, us);
                world.now() + us
            });
            self.reads_at = self.reads_at.max(until);
        }
    }

    fn read(&mut self, end: EndId, now: u64) {
        while self.end.is_some() && !self.done && self.reads_at <= now {
            let max = 1 + self.random.below(self.max_read);
            match sim::with(|world| world.peer_read(end, max)) {
                Read::Nothing => return,
                Read::Data(bytes) => {
                    self.input.extend(bytes);
                    if let Err(error) = self.understand() {
                        violation(format!("client {}: {error}", self.me));
                        self.done = true;
                    }
                    self.ask(now);
                }
                Read::Eof => return self.ended(end, false),
                Read::Reset => return self.ended(end, true),
            }
            self.reads_at = self.reads_at.max(self.pause(now));
        }
    }

    fn understand(&mut self) -> Result<(), String> {
        loop {
            match &mut self.state {
                State::Head => {
                    let Some(head) = wire::take_head(&mut self.input)? else { return Ok(()) };
                    self.take_head(&head)?;
                }
                State::Body { body, received, own, .. } => {
                    let mut data = Vec::new();
                    body.take(&mut self.input, &mut data)?;
                    let Some(id) = self.open.front().copied() else { return Err("nobody asked".into()) };
                    // Behind what is planned may be a part of a bad chunk.
                    let (breaks, planned) = {
                        let plan = &self.book.borrow().plans[id];
                        (plan.breaks, plan.response_len)
                    };
                    let is_bad = matches!(breaks, Some((_, Break::Chunk)));
                    let good = if is_bad { planned.saturating_sub(*received) } else { data.len() };
                    let known = &data[..good.min(data.len())];
                    if !*own && let Some(at) = content::difference(response_key(id), *received, known) {
                        return Err(format!("response {id}: the byte at {at} is wrong"));
                    }
                    *received += data.len();
                    if *body != Body::Done {
                        return Ok(());
                    }
                    self.complete()?;
                }
                State::Tunnel(received) => {
                    let Some(id) = self.open.front().copied() else { return Err("nobody asked".into()) };
                    if let Some(at) = content::difference(response_key(id), *received, &self.input) {
                        return Err(format!("tunnel {id}: the byte at {at} from the origin is wrong"));
                    }
                    *received += self.input.len();
                    self.input.clear();
                    return Ok(());
                }
            }
        }
    }

    fn take_head(&mut self, head: &Head) -> Result<(), String> {
        let status = head.line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let status = status.ok_or_else(|| format!("{:?} is no status line", head.line))?;
        let id = self.open.front().copied().filter(|_| self.sent > 0);
        // A client that says nothing for too long is told so.
        let id = id.ok_or_else(|| format!("{:?} answers to nothing", head.line))?;
        let plan = self.plan(id);
        let from_origin = head.get("x-id").is_some();
        if from_origin && head.get("x-id") != Some(&id.to_string()) {
            return Err(format!("{head:?} instead of the response to request {id}"));
        }
        match status {
            100 => {
                if let Some((body, _)) = self.awaiting.take() {
                    self.output.extend(body);
                }
                return Ok(());
            }
            101 => {
                let (up, _) = plan.tunnel.ok_or("101 without having been asked")?;
                self.ignore(plan.client_ignores_us);
                self.output.extend(content::piece(request_key(id), 0, up));
                self.state = State::Tunnel(0);
                return Ok(());
            }
            102..200 => return Ok(()),
            _ => {}
        }
        self.judge(id, &plan, status, from_origin)?;
        if plan.bad.is_some() && !head.has("connection", "close") {
            return Err(format!("request {id} was refused, and the connection is to go on: {plan:?}"));
        }
        if head.has("connection", "close") {
            (self.announced, self.last) = (true, true);
            self.awaiting = None;
        }
        // Whose head has not come in time has not been understood, so that nobody knows that it was a HEAD. Behind such an
        // answer comes nothing: a client that takes the body for something else has no use for it.
        let is_understood = from_origin || status != 408;
        let bodiless = (plan.method == "HEAD" && is_understood) || matches!(status, 204 | 304);
        if !is_understood && !head.has("connection", "close") {
            return Err(format!(
                "the head of request {id} did not come in time, and the connection is to go on"
            ));
        }
        let body = if bodiless { Body::Done } else { Body::of(head, Body::UntilClose)? };
        if body == Body::UntilClose && !plan.http_10 {
            return Err(format!("response {id} has no length, and the client speaks HTTP/1.1"));
        }
        self.state = State::Body { status, body, received: 0, own: !from_origin };
        if body == Body::Done {
            self.complete()?;
        }
        Ok(())
    }

    /// Whether this status is what the request must get.
    fn judge(&mut self, id: usize, plan: &Plan, status: u16, from_origin: bool) -> Result<(), String> {
        if from_origin {
            let wanted = plan.status == status && plan.garbage.is_none() && plan.bad.is_none();
            let wanted = wanted && plan.tunnel.is_none() && !plan.unrouted;
            return if wanted { Ok(()) } else { Err(format!("response {id} has status {status}: {plan:?}")) };
        }
        let planned = match plan.bad {
            Some(Bad::Head(n)) => status == hostile::HEADS[n].2,
            Some(Bad::Chunk(..)) => status == 400,
            None if plan.unrouted => status == 404,
            None => status == 502 && (plan.garbage.is_some() || plan.breaks.is_some()),
        };
        if planned || self.is_explained(status) {
            return Ok(());
        }
        Err(format!("request {id} got {status} from the proxy: {plan:?}"))
    }

    /// Whether a fault that has met this connection explains such an answer of the proxy.
    fn is_explained(&mut self, status: u16) -> bool {
        let Some(end) = self.end else { return false };
        let (failed, missed) = sim::with(|world| (world.failed_connects(end), world.missed_sockets(end)));
        if matches!(status, 502 | 504) && failed >= self.explained.0 + ENDPOINTS {
            self.explained.0 += ENDPOINTS;
            return true;
        }
        if status == 503 && missed > self.explained.1 {
            self.explained.1 += 1;
            return true;
        }
        // The origin may have hung up just when the request was sent.
        let served_by = sim::with(|world| world.served_by(end));
        let is_stale = served_by.iter().any(|conn| self.book.borrow().unannounced.contains(conn));
        // Its time was up when a process got the CPU again.
        let lost_us = sim::with(|world| world.lost_us(end, self.connected_at, world.now()));
        let has_hung = lost_us >= HANG_US;
        let is_late = matches!(status, 408 | 504) && has_hung;
        // The time of one connect was up then, and the other one failed.
        if status == 502 && has_hung && failed > self.explained.0 {
            self.explained.0 += 1;
            return true;
        }
        (status == 502 && is_stale) || is_late || self.is_lost(end)
    }

    /// Whether whatever happens to this connection is nobody's fault: it was cut off for want of buffers, or the clock has
    /// jumped.
    fn is_lost(&self, end: EndId) -> bool {
        sim::with(|world| world.is_cut_off(end) || world.jumped(self.connected_at, world.now()).is_some())
    }

    /// A response is whole.
    fn complete(&mut self) -> Result<(), String> {
        let State::Body { status, received, own, .. } = std::mem::replace(&mut self.state, State::Head)
        else {
            return Ok(());
        };
        let Some(id) = self.open.pop_front() else { return Err("nobody asked".into()) };
        self.sent -= 1;
        let plan = self.plan(id);
        sim::with(|world| world.note(|| format!("client {} has response {id}: {status}", self.me)));
        if !own && received != plan.response_len {
            return Err(format!("response {id} has {received} bytes of body: {plan:?}"));
        }
        if !own && plan.breaks.is_some() {
            return Err(format!("response {id} was broken off, and looks whole: {plan:?}"));
        }
        self.book.borrow_mut().fates[id].answered = Some(status);
        // An origin that answers before it has the whole request may leave the proxy no choice but to hang up.
        self.last |= plan.early;
        self.is_early |= plan.early;
        Ok(())
    }

    /// The connection is over.
    fn ended(&mut self, end: EndId, reset: bool) {
        if sim::with(|world| world.was_cut(end)) {
            // A process that is killed takes its connections with it, and no others.
            let mut book = self.book.borrow_mut();
            self.open.drain(..self.sent).for_each(|id| book.fates[id].abandoned = true);
            drop(book);
            return self.leave(end);
        }
        if !reset && let State::Body { body: body @ Body::UntilClose, .. } = &mut self.state {
            *body = Body::Done;
            if let Err(error) = self.complete() {
                violation(format!("client {}: {error}", self.me));
            }
        }
        if let (State::Tunnel(received), Some(id)) = (&self.state, self.open.front().copied()) {
            let (_, down) = self.plan(id).tunnel.unwrap_or_default();
            if !reset && *received == down && !self.shut {
                // The origin has ended its direction; ours goes on.
                self.eof = true;
                return;
            }
            self.open.pop_front();
            self.book.borrow_mut().fates[id].answered = Some(101);
            if (*received != down || reset) && !self.is_lost(end) {
                violation(format!("tunnel {id} ended after {received} of {down} bytes, reset: {reset}"));
            }
            return self.leave(end);
        }
        // A request whose answer has begun is lost; others that were sent may be sent again after an announced end.
        let begun = !matches!(self.state, State::Head) || !self.input.is_empty();
        let expected = self.announced || self.is_early;
        if expected && !self.announced {
            // Whether the others were served cannot be known here.
            let mut book = self.book.borrow_mut();
            self.open.iter().take(self.sent).for_each(|id| book.fates[*id].is_repeated = true);
        }
        let lost = self.open.front().copied().filter(|_| self.sent > 0 && (begun || !expected));
        if let Some(id) = lost {
            self.open.pop_front();
            let plan = self.plan(id);
            let mut book = self.book.borrow_mut();
            book.fates[id].abandoned = true;
            // A response that only the end delimits can be cut off by a reset alone, which may take along what is before it.
            let cut = |id: &usize| book.plans[*id].http_10 && book.plans[*id].breaks.is_some();
            let is_cut = reset && self.open.iter().take(self.sent).any(cut);
            // What the proxy does not read any more may be answered with a reset, which takes along the response.
            let is_junk = |id: &usize| book.plans[*id].junk;
            let is_cut = is_cut || (reset && (plan.junk || self.open.iter().take(self.sent).any(is_junk)));
            drop(book);
            // So long it is read on at least, so that the client has its last words; then they may be lost.
            let has_lingered = sim::with(|world| world.lingered_us(end)) >= Some(LINGER_US);
            // The time of an idle connection was up when the process got the CPU again, and the request on its way, or not
            // yet read, so that the close resets.
            let stood_still_us = sim::with(|world| world.stood_still_us(self.connected_at, world.now()));
            let was_idle = !begun && stood_still_us >= HANG_US;
            let is_excused = is_cut || was_idle || (reset && has_lingered) || self.is_lost(end);
            if is_excused && reset {
                // It has taken along what had come back for the others.
                let mut book = self.book.borrow_mut();
                self.open.iter().take(self.sent - 1).for_each(|id| book.fates[*id].is_repeated = true);
            }
            if plan.breaks.is_none() && !is_excused {
                let state = &self.state;
                violation(format!(
                    "the connection ended within request {id}, reset: {reset}, {state:?}: {plan:?}"
                ));
            }
        }
        self.leave(end);
    }

    fn leave(&mut self, end: EndId) {
        sim::with(|world| world.peer_close(end));
        self.end = None;
        self.state = State::Head;
        self.done = self.open.is_empty();
        if !self.done {
            sim::with(|world| world.wake(self.me, 1));
        }
    }

    fn give_up(&mut self, end: EndId) {
        let mut book = self.book.borrow_mut();
        for id in self.open.drain(..) {
            book.fates[id].abandoned = true;
        }
        drop(book);
        sim::with(|world| world.peer_reset(end));
        self.done = true;
    }
}

impl Peer for Client {
    fn turn(&mut self) {
        if self.done {
            return;
        }
        let now = sim::with(|world| world.now());
        if self.starts_at > now {
            return sim::with(|world| world.wake(self.me, self.starts_at - now));
        }
        if self.end.is_none() {
            self.connect();
        }
        let Some(end) = self.end else { return };
        if self.gives_up_at <= now {
            return self.give_up(end);
        }
        self.ask(now);
        self.write(end, now);
        self.read(end, now);
        let Some(end) = self.end.filter(|_| !self.done) else { return };
        self.write(end, now);
        let waits = self.open.front().is_some_and(|id| self.book.borrow().plans[*id].tunnel_waits);
        let tunnel_is_sent =
            matches!(self.state, State::Tunnel(_)) && self.output.is_empty() && (self.eof || !waits);
        if (tunnel_is_sent || (self.open.is_empty() && !self.last)) && !self.shut {
            self.shut = true;
            sim::with(|world| world.peer_shutdown(end));
            if self.eof {
                self.ended(end, false);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        let plan = self.open.front().map(|id| self.plan(*id));
        format!(
            "client {:?}, {:?}: open {:?}, {} sent, {} to write, {} read and not used, last {}, shut {}, {plan:?}",
            self.end,
            self.state,
            self.open,
            self.sent,
            self.output.len(),
            self.input.len(),
            self.last,
            self.shut
        )
    }
}
