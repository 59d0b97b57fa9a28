//! Time-outs: peers that provoke each of them, and the window in which it must fire, neither early nor late.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use ouro::base::random::Random;
use ouro::ring::sim::{self, EndId, Faults, Read};

use crate::http::wire;
use crate::scenario::{Peer, Scenario, connected, violation};

/// No connect to this address is ever answered.
const BLACK_HOLE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
/// Endpoints there, tried one after the other.
const ATTEMPTS: u64 = 2;
/// Timers count whole milliseconds, and begin anew with what was left in each handover.
const RESOLUTION_US: u64 = 1_000;
/// How often pools are looked at.
const HOUSEKEEPING_US: u64 = 500_000;
/// Turns that a process needs to notice what is due, and to act.
const TURNS_US: u64 = 1_000;
/// Operations that may be late, one behind the other, between the beginning of a wait and what a peer sees of its end.
const LATE_OPERATIONS: u64 = 6;
/// Bytes of a body of which a part is sent only.
const BODY: usize = 100;
const PART: usize = 40;

/// Which time-out is provoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A client that connects and says nothing.
    Silent,
    /// A part of a head.
    Head,
    /// No second request.
    Idle,
    /// Nobody answers the connect; the same for bytes.
    Connect,
    TcpConnect,
    /// No response.
    Response,
    /// A part of the body of a request, and of a response.
    Upload,
    Download,
    /// No response, and a limit for the whole request.
    Request,
    /// Nothing more in a tunnel, and in a relay.
    Tunnel,
    TcpIdle,
    /// No request for a connection in a pool.
    Pool,
}

const KINDS: &[Kind] = &[
    Kind::Silent,
    Kind::Head,
    Kind::Idle,
    Kind::Connect,
    Kind::TcpConnect,
    Kind::Response,
    Kind::Upload,
    Kind::Download,
    Kind::Request,
    Kind::Tunnel,
    Kind::TcpIdle,
    Kind::Pool,
];

/// One wait: when it begins at the earliest and at the latest, as far as that is known, and whether it has ended.
#[derive(Clone, Debug)]
struct Wait {
    kind: Kind,
    timeout_us: u64,
    from: Option<u64>,
    until: Option<u64>,
    /// The client's end.
    end: Option<EndId>,
    is_over: bool,
}

type Book = Rc<RefCell<Vec<Wait>>>;

/// See the module.
pub struct TimeoutScenario {
    book: Book,
    /// The time-out of each kind, milliseconds.
    timeouts: Vec<u64>,
}

impl TimeoutScenario {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let timeouts = KINDS.iter().map(|_| [200, 1_000, 5_000][random.below(3)]).collect();
        Self { book: Book::default(), timeouts }
    }
}

fn listener_of(kind: Kind) -> SocketAddr {
    let position = KINDS.iter().position(|one| *one == kind).unwrap() as u16;
    SocketAddr::from(([127, 0, 0, 1], 9000 + position))
}

impl Scenario for TimeoutScenario {
    fn config(&self) -> String {
        let mut text = String::new();
        for (n, (kind, ms)) in KINDS.iter().zip(&self.timeouts).enumerate() {
            let time =
                |own: &[Kind]| if own.contains(kind) { format!("\"{ms}ms\"") } else { "\"1h\"".into() };
            text += &format!("[[listeners]]\nname = \"l{n}\"\naddress = \"{}\"\n", listener_of(*kind));
            if matches!(kind, Kind::TcpConnect | Kind::TcpIdle) {
                text += &format!(
                    "protocol = \"tcp\"\ncluster = \"c{n}\"\nidle_timeout = {}\n",
                    time(&[Kind::TcpIdle])
                );
            } else {
                text += &format!(
                    "[listeners.timeouts]\nrequest_head = {}\nidle = {}\nstream_idle = {}\nrequest = {}\n\
                     tunnel_idle = {}\n[[listeners.routes]]\ncluster = \"c{n}\"\n",
                    time(&[Kind::Silent, Kind::Head]),
                    time(&[Kind::Idle]),
                    time(&[Kind::Upload, Kind::Download]),
                    time(&[Kind::Request]),
                    time(&[Kind::Tunnel]),
                );
            }
            let endpoints = match kind {
                Kind::Connect | Kind::TcpConnect => format!("\"{BLACK_HOLE}:1\", \"{BLACK_HOLE}:2\""),
                _ => format!("\"10.1.{n}.1:1\""),
            };
            text += &format!(
                "[[clusters]]\nname = \"c{n}\"\nendpoints = [{endpoints}]\nconnect_timeout = {}\nresponse_timeout = {}\n\
                 idle_timeout = {}\nmax_idle_connections = {}\n",
                time(&[Kind::Connect, Kind::TcpConnect]),
                time(&[Kind::Response]),
                time(&[Kind::Pool]),
                u32::from(*kind == Kind::Pool),
            );
        }
        text
    }

    fn clients(&mut self, first: u32, random: &mut Random) -> Vec<Box<dyn Peer>> {
        let count = 1 + random.below(8) as u32;
        let client = |n: u32| {
            let mut chosen = random.below(KINDS.len());
            if self.book.borrow().iter().any(|wait| wait.kind == Kind::Pool && wait.kind == KINDS[chosen]) {
                // Another request would take the connection that is waited for.
                chosen = 0;
            }
            let timeout_us = self.timeouts[chosen] * 1_000;
            let wait =
                Wait { kind: KINDS[chosen], timeout_us, from: None, until: None, end: None, is_over: false };
            self.book.borrow_mut().push(wait);
            let starts_at = random.below(300_000) as u64;
            Box::new(Client::new(Rc::clone(&self.book), first + n, n as usize, starts_at)) as Box<dyn Peer>
        };
        (0..count).map(client).collect()
    }

    fn accepted(&mut self, number: u32, to: SocketAddr, end: EndId) -> Box<dyn Peer> {
        let IpAddr::V4(address) = to.ip() else { unreachable!("endpoints have addresses of IPv4") };
        let kind = KINDS[usize::from(address.octets()[2])];
        Box::new(Origin {
            book: Rc::clone(&self.book),
            me: number,
            end,
            kind,
            wait: None,
            input: Vec::new(),
            output: Vec::new(),
            done: false,
        })
    }

    fn aims(&self) -> &'static [&'static str] {
        &[]
    }

    fn adjust(&self, faults: &mut Faults) {
        // Each of these would be an answer of its own.
        (faults.refuse, faults.silent, faults.socket) = (0, 0, 0);
        faults.black_hole = Some(BLACK_HOLE);
    }

    fn check(&mut self) -> Vec<String> {
        let book = self.book.borrow();
        book.iter().filter(|wait| !wait.is_over).map(|wait| format!("it never fired: {wait:?}")).collect()
    }
}

/// Looks whether a time-out that a peer sees now has fired in time.
fn judge(wait: &mut Wait) {
    wait.is_over = true;
    sim::with(|world| {
        world.count("time-out provoked");
        let (now, end) = (world.now(), wait.end.unwrap());
        let begin = world.accepted_at(end);
        if matches!(wait.kind, Kind::Silent | Kind::TcpConnect) {
            (wait.from, wait.until) = (begin, begin);
        }
        let (Some(from), Some(until)) = (wait.from, wait.until) else {
            let is_moved_pool = wait.kind == Kind::Pool && world.counts().contains_key("handover");
            // What the network takes comes on top: the origin is connected after that.
            let has_hung = world.lost_us(end, 0, now) + slack_us(&world.faults) >= wait.timeout_us;
            if has_hung || world.jumped(0, now).is_some() || world.may_have_drained(end) || is_moved_pool {
                return; // something else was first
            }
            return world.violation(format!("it fired before it had begun: {wait:?}"));
        };
        let until = until.max(begin.unwrap_or(0));
        let attempts = if matches!(wait.kind, Kind::Connect | Kind::TcpConnect) { ATTEMPTS } else { 1 };
        let time = attempts * wait.timeout_us;
        let handovers = world.counts().get("handover").copied().unwrap_or(0);
        let rounding = RESOLUTION_US * (attempts + handovers);
        // A pool may end its connections for other reasons when it is moved, and a process that ends its own.
        let may_be_early = (wait.kind == Kind::Pool && handovers > 0) || world.may_have_drained(end);
        // A process that stands still has read its clock before: it takes a wait from another one for longer than it was.
        let lost = world.lost_us(end, from, now);
        // So does one that begins a wait then.
        let stood_still = world.stood_still_us(from.saturating_sub(TURNS_US), from);
        let behind = stood_still + if handovers > 0 { lost } else { 0 };
        if now + rounding + behind < from + time && !may_be_early {
            let by = from + time - now;
            world.violation(format!("it fired {by} us early: {wait:?}"));
        }
        // Each process looks at its pools at times of its own.
        let housekeeping = if wait.kind == Kind::Pool { HOUSEKEEPING_US * (1 + handovers) } else { 0 };
        // A wait that was about to begin when the clock jumped has begun behind that.
        let due = until.max(world.jumped(from, now).unwrap_or(0)) + time;
        let latest = due + rounding + slack_us(&world.faults) + lost + housekeeping + TURNS_US;
        if now > latest {
            world.violation(format!("it fired {} us after {latest}, late: {wait:?}", now - latest));
        }
    });
}

/// What the network and late completions may take of a wait.
const fn slack_us(faults: &Faults) -> u64 {
    2 * (faults.latency.0 + faults.latency.1 as u64) + LATE_OPERATIONS * faults.late_us as u64
}

struct Client {
    book: Book,
    me: u32,
    n: usize,
    kind: Kind,
    starts_at: u64,
    end: Option<EndId>,
    output: Vec<u8>,
    input: Vec<u8>,
    done: bool,
}

impl Client {
    fn new(book: Book, me: u32, n: usize, starts_at: u64) -> Self {
        let kind = book.borrow()[n].kind;
        let head =
            |method, rest: &str| format!("{method} /t/{n} HTTP/1.1\r\nhost: sim\r\n{rest}").into_bytes();
        let output = match kind {
            Kind::Silent => Vec::new(),
            Kind::Head => head("GET", "x-incomp"),
            Kind::Upload => {
                let mut out = head("POST", &format!("content-length: {BODY}\r\n\r\n"));
                out.extend([b'u'; PART]);
                out
            }
            Kind::Tunnel => head("GET", "connection: upgrade\r\nupgrade: websocket\r\n\r\n"),
            Kind::TcpConnect | Kind::TcpIdle => (n as u32).to_le_bytes().to_vec(),
            Kind::Connect | Kind::Response | Kind::Request => head("GET", "connection: close\r\n\r\n"),
            _ => head("GET", "\r\n"),
        };
        Self { book, me, n, kind, starts_at, end: None, output, input: Vec::new(), done: false }
    }

    fn write(&mut self, end: EndId, now: u64) {
        if self.output.is_empty() {
            return;
        }
        let Ok(written) = sim::with(|world| world.peer_write(end, &self.output)) else { return };
        self.output.drain(..written);
        let wait = &mut self.book.borrow_mut()[self.n];
        match self.kind {
            // The first byte is what counts.
            Kind::Head if written > 0 => {
                wait.from.get_or_insert(now);
                wait.until.get_or_insert(now);
            }
            Kind::Connect | Kind::Request if self.output.is_empty() => {
                (wait.from, wait.until) = (Some(now), Some(now));
            }
            Kind::Response | Kind::Upload if self.output.is_empty() => wait.from = Some(now),
            _ => {}
        }
    }

    fn read(&mut self, end: EndId, now: u64) {
        loop {
            match sim::with(|world| world.peer_read(end, 1_000)) {
                Read::Nothing => return,
                Read::Data(bytes) => {
                    let wait = &mut self.book.borrow_mut()[self.n];
                    let is_answer = matches!(
                        self.kind,
                        Kind::Head | Kind::Connect | Kind::Response | Kind::Upload | Kind::Request
                    );
                    if is_answer && self.input.is_empty() {
                        judge(wait);
                    }
                    if matches!(
                        self.kind,
                        Kind::Idle | Kind::Pool | Kind::Download | Kind::Tunnel | Kind::TcpIdle
                    ) {
                        wait.until = Some(now);
                    }
                    self.input.extend(bytes);
                }
                Read::Eof => return self.ended(end, false),
                Read::Reset => return self.ended(end, true),
            }
            if self.kind == Kind::Pool && self.input.ends_with(b"hello") {
                // What is waited for now is the origin's to see.
                sim::with(|world| world.peer_close(end));
                self.done = true;
                return;
            }
        }
    }

    fn ended(&mut self, end: EndId, reset: bool) {
        self.done = true;
        let text = String::from_utf8_lossy(&self.input).into_owned();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("");
        let is_right = match self.kind {
            Kind::Silent => text.is_empty() && !reset,
            Kind::TcpConnect => text.is_empty() && reset,
            Kind::Head | Kind::Upload => status == "408",
            Kind::Connect | Kind::Response | Kind::Request => status == "504",
            Kind::Idle => status == "200" && text.ends_with("hello") && !reset,
            Kind::Download => status == "200" && text.ends_with('d') && !text.ends_with(&"d".repeat(BODY)),
            Kind::Tunnel => status == "101" && text.ends_with("tunnel") && !reset,
            Kind::TcpIdle => text == "hello" && !reset,
            Kind::Pool => false,
        };
        // When the clock jumps other waits than the planned one may be over; a process that ends, or is killed, takes
        // its connections with it.
        let timeout_us = self.book.borrow()[self.n].timeout_us;
        let is_excused = sim::with(|world| {
            let now = world.now();
            let lost_us = world.lost_us(end, self.starts_at, now);
            let has_hung = lost_us > 0 && lost_us + slack_us(&world.faults) >= timeout_us;
            let has_jumped = world.jumped(self.starts_at, now).is_some();
            has_hung || has_jumped || world.may_have_drained(end) || world.was_cut(end)
        });
        if sim::with(|world| world.was_cut(end)) {
            self.book.borrow_mut()[self.n].is_over = true;
        }
        if !is_right && !is_excused {
            let kind = self.kind;
            violation(format!("client {}: {kind:?} ended with {text:?}, reset: {reset}", self.me));
        }
        let wait = &mut self.book.borrow_mut()[self.n];
        if !wait.is_over {
            judge(wait);
        }
        sim::with(|world| world.peer_close(end));
    }
}

impl Peer for Client {
    fn turn(&mut self) {
        if self.done {
            return;
        }
        let now = sim::with(|world| world.now());
        let to = listener_of(self.kind);
        let Some(end) = connected(self.me, &mut self.end, self.starts_at, to) else { return };
        self.book.borrow_mut()[self.n].end = Some(end);
        self.write(end, now);
        self.read(end, now);
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!("{:?} on {:?}: {:?}", self.kind, self.end, self.book.borrow()[self.n])
    }
}

struct Origin {
    book: Book,
    me: u32,
    end: EndId,
    kind: Kind,
    /// Whose request has come.
    wait: Option<usize>,
    input: Vec<u8>,
    output: Vec<u8>,
    done: bool,
}

impl Origin {
    /// A request has come, or the first bytes of a relay.
    fn begin(&mut self) -> Result<(), String> {
        let known = self.book.borrow().len();
        let n = if self.kind == Kind::TcpIdle {
            let Some(bytes) = self.input.get(..4) else { return Ok(()) };
            u32::from_le_bytes(bytes.try_into().unwrap()) as usize
        } else {
            let Some(head) = wire::take_head(&mut self.input)? else { return Ok(()) };
            let path = head.line.split(' ').nth(1).and_then(|path| path.strip_prefix("/t/"));
            path.and_then(|n| n.parse().ok()).ok_or("a request of nobody")?
        };
        if n >= known {
            return Err(format!("a request of {n}"));
        }
        self.wait = Some(n);
        let answer: String = match self.kind {
            Kind::Idle | Kind::Pool => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".into(),
            Kind::Download => {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n{}", "d".repeat(PART))
            }
            Kind::Tunnel => {
                "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\ntunnel".into()
            }
            Kind::TcpIdle => "hello".into(),
            _ => String::new(),
        };
        self.output.extend(answer.bytes());
        Ok(())
    }

    fn write(&mut self, now: u64) {
        if self.output.is_empty() {
            return;
        }
        let Ok(written) = sim::with(|world| world.peer_write(self.end, &self.output)) else { return };
        self.output.drain(..written);
        if let Some(n) = self.wait {
            // The last byte is what counts.
            self.book.borrow_mut()[n].from = Some(now);
        }
    }
}

impl Peer for Origin {
    fn turn(&mut self) {
        let now = sim::with(|world| world.now());
        while !self.done {
            match sim::with(|world| world.peer_read(self.end, 1_000)) {
                Read::Nothing => break,
                Read::Data(bytes) => {
                    self.input.extend(bytes);
                    if self.wait.is_none()
                        && let Err(error) = self.begin()
                    {
                        violation(format!("origin {}: {error}", self.me));
                    }
                    if let (Some(n), Kind::Response | Kind::Upload) = (self.wait, self.kind) {
                        self.book.borrow_mut()[n].until = Some(now);
                    }
                }
                Read::Eof | Read::Reset => {
                    self.done = true;
                    let is_cut = sim::with(|world| world.was_cut(self.end));
                    if let (Some(n), Kind::Pool, true) = (self.wait, self.kind, is_cut) {
                        self.book.borrow_mut()[n].is_over = true;
                    } else if let (Some(n), Kind::Pool) = (self.wait, self.kind) {
                        judge(&mut self.book.borrow_mut()[n]);
                    }
                    return sim::with(|world| world.peer_close(self.end));
                }
            }
        }
        self.write(now);
    }

    fn is_done(&self) -> bool {
        // A connection in a pool is what is waited for.
        self.done || self.kind != Kind::Pool
    }

    fn describe(&self) -> String {
        format!("{:?} on {:?}", self.kind, self.end)
    }
}
