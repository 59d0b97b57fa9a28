//! An origin: one connection, requests one after the other.

use ouro::base::random::Random;
use ouro::ring::sim::{self, EndId, Read};

use super::wire::{self, Body, Framing, Head};
use super::{Bad, Break, HANG_US, Plan, Shared, hostile, request_key, response_key};
use crate::content;
use crate::scenario::{Peer, violation};

/// What it does.
#[derive(Debug)]
enum State {
    /// Waits for a head.
    Head,
    /// Reads the body of this request, of which so many bytes have come.
    Request(usize, Body, usize),
    /// Answers at this time.
    Answer(usize, u64),
    /// Streams both ways: so many bytes have come.
    Tunnel(usize, usize),
    /// Reads until the end, after the last response.
    Linger,
    /// Waits for the end: what it has sent was no response.
    Refused,
    Done,
}

/// See the module.
pub struct Origin {
    book: Shared,
    me: u32,
    end: EndId,
    random: Random,
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The response to an early answered request has gone.
    answered_early: bool,
    /// Break off, or end, when `output` is empty.
    then: Option<Then>,
    eof: bool,
    reads_at: u64,
    pace_us: usize,
    max_read: usize,
    /// It pauses when so many bytes more are written, for so long.
    pause: Option<(usize, u64)>,
    writes_at: u64,
    /// An idle connection is ended after so many requests.
    hangs_up_after: u32,
    served: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Break(Break),
    Shutdown,
    /// See [`State::Refused`].
    Refused,
}

impl Origin {
    pub fn new(book: Shared, me: u32, end: EndId, mut random: Random) -> Self {
        Self {
            book,
            me,
            end,
            state: State::Head,
            input: Vec::new(),
            output: Vec::new(),
            answered_early: false,
            then: None,
            pause: None,
            writes_at: 0,
            eof: false,
            reads_at: 0,
            pace_us: [0, 0, 300, 20_000][random.below(4)],
            max_read: [16, 500, 100_000][random.below(3)],
            hangs_up_after: if random.below(8) == 0 { 1 + random.below(3) as u32 } else { u32::MAX },
            served: 0,
            random,
        }
    }

    fn plan(&self, id: usize) -> Plan {
        self.book.borrow().plans[id].clone()
    }

    fn read(&mut self, now: u64) {
        while !self.eof && self.reads_at <= now {
            let max = 1 + self.random.below(self.max_read);
            match sim::with(|world| world.peer_read(self.end, max)) {
                Read::Nothing => return,
                Read::Data(bytes) => self.input.extend(bytes),
                Read::Eof => self.eof = true,
                Read::Reset => return self.finish(),
            }
            if self.pace_us > 0 && self.random.below(3) == 0 {
                let pause = 1 + self.random.below(self.pace_us) as u64;
                self.reads_at = now + pause;
                sim::with(|world| world.wake(self.me, pause));
            }
        }
    }

    fn finish(&mut self) {
        self.state = State::Done;
        sim::with(|world| world.peer_close(self.end));
    }

    fn flush(&mut self) {
        let now = sim::with(|world| world.now());
        while !self.output.is_empty() {
            if self.writes_at > now {
                return;
            }
            let mut len = (1 + self.random.below(3_000)).min(self.output.len());
            if let Some((left, pause)) = self.pause {
                if left == 0 {
                    self.pause = None;
                    self.writes_at = now + pause;
                    return sim::with(|world| world.wake(self.me, pause));
                }
                len = len.min(left);
            }
            match sim::with(|world| world.peer_write(self.end, &self.output[..len])) {
                Ok(0) => return,
                Ok(written) => {
                    self.output.drain(..written);
                    self.pause = self.pause.map(|(left, pause)| (left - written, pause));
                }
                Err(_) => return self.finish(),
            }
        }
        match self.then.take() {
            None => {}
            Some(Then::Break(Break::Reset)) => {
                sim::with(|world| world.peer_reset(self.end));
                self.state = State::Done;
            }
            Some(Then::Break(Break::Chunk) | Then::Refused) => self.state = State::Refused,
            Some(Then::Break(Break::Fin) | Then::Shutdown) => {
                sim::with(|world| world.peer_shutdown(self.end));
                // The other direction of a tunnel goes on.
                if !matches!(self.state, State::Tunnel(..)) {
                    self.state = State::Linger;
                }
            }
        }
    }

    fn begin(&mut self, head: &Head) -> Result<(), String> {
        let mut words = head.line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let id: usize = path
            .strip_prefix("/r/")
            .and_then(|id| id.parse().ok())
            .filter(|id| *id < self.book.borrow().plans.len())
            .ok_or_else(|| format!("{:?} asks for nothing that was asked for", head.line))?;
        let plan = self.plan(id);
        if (method, words.next()) != (plan.method, Some("HTTP/1.1")) || head.get("host") != Some("sim") {
            return Err(format!("request {id} came as {head:?}"));
        }
        let padding = head.get("x-padding").map_or(0, str::len);
        if padding != plan.padding {
            return Err(format!("request {id}: padding of {padding} bytes instead of {}", plan.padding));
        }
        self.book.borrow_mut().fates[id].heads += 1;
        sim::with(|world| {
            world.note(|| format!("origin {} gets the head of request {id} on {:?}", self.me, self.end))
        });
        let body = Body::of(head, Body::Done)?;
        if plan.expects && !plan.early {
            self.output.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if plan.ignores_us > 0 {
            self.reads_at = sim::with(|world| {
                world.wake(self.me, plan.ignores_us);
                world.now() + plan.ignores_us
            });
        }
        self.answered_early = plan.early;
        if plan.early {
            self.answer(id);
        }
        self.state = State::Request(id, body, 0);
        Ok(())
    }

    fn run(&mut self, now: u64) -> Result<bool, String> {
        match &mut self.state {
            State::Head => {
                let Some(head) = wire::take_head(&mut self.input)? else {
                    if self.eof {
                        self.finish();
                    } else if self.served >= self.hangs_up_after && self.input.is_empty() {
                        self.book.borrow_mut().unannounced.insert(self.end.conn);
                        self.then = Some(Then::Shutdown);
                        self.state = State::Linger;
                    }
                    return Ok(false);
                };
                self.begin(&head)?;
            }
            State::Request(id, body, received) => {
                let mut data = Vec::new();
                body.take(&mut self.input, &mut data)?;
                let bad = self.book.borrow().plans[*id].bad;
                let good = if let Some(Bad::Chunk(_, good)) = bad {
                    good.saturating_sub(*received)
                } else {
                    data.len()
                };
                let known = &data[..good.min(data.len())];
                if let Some(at) = content::difference(request_key(*id), *received, known) {
                    return Err(format!("request {id}: the byte at {at} of its body is wrong"));
                }
                *received += data.len();
                let (id, received, done) = (*id, *received, *body == Body::Done);
                let plan = self.plan(id);
                if (received > plan.request_len && plan.bad.is_none())
                    || (done && received != plan.request_len)
                {
                    return Err(format!("request {id}: {received} bytes of body, not {}", plan.request_len));
                }
                if !done {
                    if self.eof {
                        // Whoever has to has noticed.
                        self.finish();
                    }
                    return Ok(false);
                }
                let fate = &mut self.book.borrow_mut().fates[id];
                fate.whole += 1;
                if plan.delay_us > 0 {
                    sim::with(|world| world.wake(self.me, plan.delay_us));
                }
                self.state =
                    if self.answered_early { State::Head } else { State::Answer(id, now + plan.delay_us) };
                if self.answered_early {
                    self.served += 1;
                }
            }
            State::Answer(id, at) => {
                if *at > now {
                    return Ok(false);
                }
                let id = *id;
                self.served += 1;
                self.state = State::Head;
                self.answer(id);
            }
            State::Tunnel(id, received) => {
                let key = request_key(*id);
                if let Some(at) = content::difference(key, *received, &self.input) {
                    return Err(format!("tunnel {id}: the byte at {at} from the client is wrong"));
                }
                *received += self.input.len();
                self.input.clear();
                let (id, received) = (*id, *received);
                let (up, _) = self.plan(id).tunnel.unwrap_or_default();
                if self.eof {
                    let is_lost = sim::with(|world| {
                        // Its answer may have come too late.
                        world.lost_us(self.end, 0, now) >= HANG_US
                            || world.jumped(0, now).is_some()
                            || world.is_cut_off(self.end)
                            || world.was_cut(self.end)
                    });
                    let abandoned = is_lost || self.book.borrow().fates[id].abandoned;
                    if received != up && !abandoned {
                        return Err(format!("tunnel {id}: ended after {received} of {up} bytes"));
                    }
                    if self.output.is_empty() {
                        self.finish();
                    }
                }
                return Ok(false);
            }
            State::Linger => {
                self.input.clear();
                if self.eof {
                    self.finish();
                }
                return Ok(false);
            }
            State::Refused => {
                if !self.input.is_empty() {
                    return Err("a connection is used again on which no response came".into());
                }
                if self.eof {
                    self.finish();
                }
                return Ok(false);
            }
            State::Done => return Ok(false),
        }
        Ok(true)
    }

    /// Queues the response that is planned.
    fn answer(&mut self, id: usize) {
        let plan = self.plan(id);
        // What is still to be written of the response before goes first.
        self.pause = plan.pause.map(|(at, pause)| (self.output.len() + at, pause));
        if let Some(n) = plan.garbage {
            self.output.extend(hostile::RESPONSES[n].1);
            // An early answer comes before the rest of the request.
            let is_over = plan.early || self.random.below(2) == 0;
            self.then = Some(if is_over { Then::Shutdown } else { Then::Refused });
            return;
        }
        for _ in 0..plan.interim {
            let hint = "h".repeat(plan.hint);
            let head = format!("HTTP/1.1 103 Early Hints\r\nx-id: {id}\r\nlink: {hint}\r\n\r\n");
            self.output.extend(head.bytes());
        }
        if let Some((_, down)) = plan.tunnel {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nx-id: {id}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            );
            self.output.extend(head.bytes());
            self.output.extend(content::piece(response_key(id), 0, down));
            self.then = Some(Then::Shutdown);
            self.state = State::Tunnel(id, 0);
            return;
        }
        let mut head = format!("HTTP/1.1 {} Planned\r\nx-id: {id}\r\n", plan.status);
        let is_bodiless = matches!(plan.status, 204 | 304);
        match plan.response {
            Framing::Length => head += &format!("content-length: {}\r\n", plan.response_len),
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
            Framing::None if !is_bodiless => head += "content-length: 77\r\n",
            Framing::UntilClose | Framing::None => {}
        }
        if plan.closes {
            head += "connection: close\r\n";
        }
        let head = head + "\r\n";
        let body = content::piece(response_key(id), 0, plan.response_len);
        let random = &mut self.random;
        let framed = wire::frame(plan.response, &body, || 1 + random.below(2_000));
        let start = self.output.len();
        self.output.extend(head.bytes());
        self.output.extend(&framed);
        if let Some((_, Break::Chunk)) = plan.breaks {
            // The last chunk, and the trailers if there are any, are missing.
            let end = b"0\r\n".len() + if plan.response_len.is_multiple_of(5) { 14 } else { 0 } + 2;
            self.output.truncate(self.output.len() - end);
            self.output.extend(hostile::CHUNKS[self.random.below(hostile::CHUNKS.len())].1);
            self.then = Some(if plan.early { Then::Shutdown } else { Then::Refused });
        } else if let Some((at, how)) = plan.breaks {
            // Not behind the last byte: that would be whole.
            let whole = self.output.len() - start;
            self.output.truncate(start + at.min(whole - 1));
            self.then = Some(Then::Break(how));
        } else if plan.closes || plan.response == Framing::UntilClose {
            self.then = Some(Then::Shutdown);
        }
    }
}

impl Peer for Origin {
    fn turn(&mut self) {
        if matches!(self.state, State::Done) {
            return;
        }
        let now = sim::with(|world| world.now());
        self.read(now);
        loop {
            if self.then.is_some() && !matches!(self.state, State::Tunnel(..)) {
                // Nothing is read any more before the last words are out.
                break;
            }
            match self.run(now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    violation(format!("origin {}: {error}", self.me));
                    return self.finish();
                }
            }
        }
        if !matches!(self.state, State::Done) {
            self.flush();
        }
        if matches!(self.state, State::Linger | State::Refused) && self.eof {
            self.finish();
        }
        if matches!(self.state, State::Tunnel(..))
            && self.eof
            && self.output.is_empty()
            && self.then.is_none()
        {
            self.finish();
        }
    }

    fn is_done(&self) -> bool {
        // An idle connection is the proxy's to end.
        matches!(self.state, State::Done) || (matches!(self.state, State::Head) && self.output.is_empty())
    }

    fn describe(&self) -> String {
        let (state, then) = (&self.state, &self.then);
        format!(
            "origin {:?} {state:?} {then:?}: {} to write, {} read and not used, eof {}",
            self.end,
            self.output.len(),
            self.input.len(),
            self.eof
        )
    }
}
