//! HTTP at random: short exchanges of all shapes, with restarts at some moments. What both peers see is what they see in
//! a run without restarts, byte for byte.
//!
//! All there is to an exchange follows from its number, which is its path: so the origin knows what to answer, and a run
//! can be repeated.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::Shutdown;

use crate::chain::Chain;
use crate::seeded::{Dice, seed_and_runs};
use crate::support::stats::expect_nothing_active;
use crate::support::wire::{Socket, Wire};
use crate::support::{Config, DEADLINE, Failure, Framing, Message, Stats, eventually, lock, pattern};

/// Requests on one connection at most.
const REQUESTS: u64 = 6;

/// Restarts in one run at most.
const RESTARTS: usize = 4;

/// What an exchange looks like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    number: u64,
    method: &'static str,
    http_10: bool,
    expects: bool,
    upgrades: bool,
    /// The client does not wait for the response before this one.
    pipelined: bool,
    client_closes: bool,
    request: Coding,
    request_bytes: u64,
    status: u16,
    interim: u64,
    origin_closes: bool,
    response: Coding,
    response_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    None,
    Length,
    Chunked,
    UntilClose,
}

impl Shape {
    fn new(number: u64, last: bool) -> Self {
        let mut dice = Dice::new(number);
        let mut one_in = |n| dice.below(n) == 0;
        let upgrades = last && one_in(4);
        let http_10 = last && !upgrades && one_in(6);
        let client_closes = last && one_in(2);
        let (origin_closes, pipelined, trailing) = (one_in(5), one_in(2), one_in(3));
        let method = match dice.below(8) {
            _ if upgrades || http_10 => "GET",
            0 => "HEAD",
            1..4 => "GET",
            4 => "PUT",
            _ => "POST",
        };
        let request = match method {
            "PUT" | "POST" if trailing => Coding::Chunked,
            "PUT" | "POST" => Coding::Length,
            _ => Coding::None,
        };
        let status =
            if upgrades { 101 } else { [200, 200, 200, 200, 204, 304, 404, 500][dice.below(8) as usize] };
        let response = match dice.below(5) {
            _ if method == "HEAD" || matches!(status, 101 | 204 | 304) => Coding::None,
            0 | 1 => Coding::Chunked,
            2 => Coding::UntilClose,
            _ => Coding::Length,
        };
        let mut size = || {
            let limit = [1, 2, 60, 2100, 5000, 70_000, 300_000][dice.below(7) as usize];
            dice.below(limit)
        };
        let (request_bytes, response_bytes) = (size(), size());
        Self {
            number,
            method,
            http_10,
            expects: request == Coding::Length && request_bytes > 0 && dice.below(4) == 0,
            upgrades,
            pipelined,
            client_closes,
            request,
            request_bytes: if request == Coding::None { 0 } else { request_bytes },
            status,
            interim: if http_10 { 0 } else { dice.below(12).saturating_sub(9) },
            origin_closes: origin_closes || response == Coding::UntilClose,
            response,
            response_bytes: if response == Coding::None { 0 } else { response_bytes },
        }
    }

    /// As the origin reads it from the path.
    fn of_target(target: &str) -> Self {
        let (number, last) = target.trim_start_matches('/').split_once('/').unwrap();
        Self::new(number.parse().unwrap(), last == "last")
    }

    fn request_head(&self, last: bool) -> String {
        let place = if last { "last" } else { "then" };
        let version = if self.http_10 { "1.0" } else { "1.1" };
        let mut head = format!("{} /{}/{place} HTTP/{version}\r\nHost: a\r\n", self.method, self.number);
        head += &format!("X-Filler: {}\r\n", "f".repeat((self.number % 700) as usize));
        head += &coding_field(self.request, self.request_bytes);
        if self.expects {
            head += "Expect: 100-continue\r\n";
        }
        if self.upgrades {
            head += "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        } else if self.client_closes && !self.http_10 {
            head += "Connection: close\r\n";
        }
        head + "\r\n"
    }

    fn response_head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Said So\r\nX-Number: {}\r\n", self.status, self.number);
        if self.upgrades {
            return head + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        }
        head += &coding_field(self.response, self.response_bytes);
        if self.origin_closes {
            head += "Connection: close\r\n";
        }
        head + "\r\n"
    }

    /// Bytes that each side says in the tunnel.
    fn tunnel_bytes(&self) -> (u64, u64) {
        let mut dice = Dice::new(self.number ^ 0xffff);
        (dice.below(200_000), dice.below(200_000))
    }
}

fn coding_field(coding: Coding, bytes: u64) -> String {
    match coding {
        Coding::None | Coding::UntilClose => String::new(),
        Coding::Length => format!("Content-Length: {bytes}\r\n"),
        Coding::Chunked => "Transfer-Encoding: chunked\r\n".into(),
    }
}

/// A body of the pattern, coded.
fn body(coding: Coding, bytes: u64, dice: &mut Dice) -> Vec<u8> {
    let plain = pattern::bytes(bytes as usize);
    if coding != Coding::Chunked {
        return plain;
    }
    let mut coded = Vec::new();
    let mut rest = &plain[..];
    while !rest.is_empty() {
        let limit = [1, 10, 3000, 40_000][dice.below(4) as usize];
        let (chunk, behind) = rest.split_at((1 + dice.below(limit) as usize).min(rest.len()));
        coded
            .extend(format!("{:X}{}\r\n", chunk.len(), if dice.below(8) == 0 { ";x=y" } else { "" }).bytes());
        coded.extend_from_slice(chunk);
        coded.extend(b"\r\n");
        rest = behind;
    }
    coded.extend(if bytes.is_multiple_of(2) { &b"0\r\n\r\n"[..] } else { b"0\r\nX-Sum: 1\r\n\r\n" });
    coded
}

/// Sends in pieces of odd sizes with pauses here and there.
fn send(socket: &Socket, mut bytes: &[u8], dice: &mut Dice) -> Result<(), Failure> {
    while !bytes.is_empty() {
        let limit = [3, 50, 2000, 90_000, 90_000, 90_000][dice.below(6) as usize];
        let (piece, rest) = bytes.split_at((1 + dice.below(limit) as usize).min(bytes.len()));
        socket.send_all(piece)?;
        bytes = rest;
        pause(dice, 4, 6000);
    }
    Ok(())
}

/// Waits, one time in some: a new process takes a while to start, and connections must not be over by then.
fn pause(dice: &mut Dice, one_in: u64, micros: u64) {
    if dice.below(one_in) == 0 {
        std::thread::park_timeout(Duration::from_micros(dice.below(micros)));
    }
}

/// What a peer has seen of a message. The proxy makes a number of its own for each request.
fn seen(message: &Message) -> String {
    let mut fields = message.fields.clone();
    fields.retain(|(name, _)| !name.eq_ignore_ascii_case("x-request-id"));
    let is_pattern = message.body == pattern::bytes(message.body.len());
    format!(
        "{} {fields:?} {:?} {} bytes{} {:?}",
        message.start_line,
        message.framing,
        message.body.len(),
        if is_pattern { "" } else { ", wrong ones" },
        message.trailers
    )
}

/// What was seen, by who has seen it and of which exchange.
type Transcript = BTreeMap<(u64, &'static str), String>;

#[derive(Default)]
struct Notes {
    seen: Mutex<Transcript>,
    /// Tunnels whose end the origin has not noted yet.
    tunnels: AtomicUsize,
}

type Seen = Arc<Notes>;

fn note(all: &Seen, number: u64, who: &'static str, what: &str) {
    let mut all = lock(&all.seen);
    let text = all.entry((number, who)).or_default();
    text.push_str(what);
    text.push('\n');
}

/// Sends so many bytes of the pattern and ends its side, while it reads to the end; what came.
fn relay(mut wire: Wire, bytes: u64, mut dice: Dice) -> String {
    let socket = Arc::clone(wire.socket());
    let mut pauses = dice.clone();
    let sender = std::thread::spawn(move || {
        let sent = send(&socket, &pattern::bytes(bytes as usize), &mut dice);
        socket.shutdown(Shutdown::Write);
        sent
    });
    let mut came = Vec::new();
    let end = wire.read_to_end(&mut |piece| {
        came.extend_from_slice(piece);
        pause(&mut pauses, 4, 3000);
    });
    let sent = sender.join().unwrap();
    format!("{} bytes, right: {}, {end:?}, {sent:?}", came.len(), came == pattern::bytes(came.len()))
}

/// Answers as the paths say, each connection in a thread of its own.
fn serve(listener: TcpListener, all: &Seen) {
    let all = Arc::clone(all);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let all = Arc::clone(&all);
            std::thread::spawn(move || {
                let mut wire = Wire::new(Socket::new(stream));
                while let Ok(Some(request)) = wire.read_request_head() {
                    let shape = Shape::of_target(request.target());
                    match answer(wire, request, shape, &all) {
                        Ok(Some(next)) => wire = next,
                        Ok(None) => return,
                        Err(failure) => {
                            return note(&all, shape.number, "origin", &format!("failed: {failure}"));
                        }
                    }
                }
            });
        }
    });
}

/// The connection, if it goes on.
fn answer(mut wire: Wire, mut request: Message, shape: Shape, all: &Seen) -> Result<Option<Wire>, Failure> {
    let mut dice = Dice::new(shape.number ^ 0xaaaa);
    let socket = Arc::clone(wire.socket());
    if dice.below(3) == 0 {
        socket.shrink_receive_buffer();
    }
    if request.value("expect").is_some() {
        send(&socket, b"HTTP/1.1 100 Continue\r\n\r\n", &mut dice)?;
    }
    wire.read_body_into(&mut request)?;
    note(all, shape.number, "origin", &seen(&request));
    pause(&mut dice, 2, 15_000);
    for _ in 0..shape.interim {
        send(&socket, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", &mut dice)?;
    }
    let mut response = shape.response_head().into_bytes();
    if shape.upgrades {
        let (_, down) = shape.tunnel_bytes();
        all.tunnels.fetch_add(1, Ordering::SeqCst);
        let sent = send(&socket, &response, &mut dice);
        note(all, shape.number, "origin", &relay(wire, down, dice));
        all.tunnels.fetch_sub(1, Ordering::SeqCst);
        return sent.map(|()| None);
    }
    response.extend(body(shape.response, shape.response_bytes, &mut dice));
    send(&socket, &response, &mut dice)?;
    Ok((!shape.origin_closes).then_some(wire))
}

/// What the reading half of a client tells the writing one.
enum Event {
    Continue,
    Answered,
}

/// A client with its requests, which writes and reads at the same time.
fn client(address: SocketAddr, shapes: Vec<Shape>, all: &Seen) -> [JoinHandle<()>; 2] {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    let wire = Wire::new(Socket::new(stream));
    let mut dice = Dice::new(shapes[0].number ^ 0x5555);
    if dice.below(3) == 0 {
        wire.socket().shrink_receive_buffer();
    }
    let socket = Arc::clone(wire.socket());
    let (events, told) = channel();
    let (all, to_send) = (Arc::clone(all), shapes.clone());
    let writer = std::thread::spawn(move || write(&socket, &to_send, &told, dice));
    let reader = std::thread::spawn(move || {
        let number = shapes[0].number;
        if let Err(failure) = read(wire, &shapes, &events, &all) {
            note(&all, number, "client", &format!("failed: {failure}"));
        }
    });
    [writer, reader]
}

fn write(socket: &Socket, shapes: &[Shape], told: &Receiver<Event>, mut dice: Dice) {
    let (mut answered, mut continued) = (0, 0);
    for (at, shape) in shapes.iter().enumerate() {
        let is_last = at + 1 == shapes.len();
        // Whether enough was heard; false if the reader has come to its end.
        let mut hear = |answers: usize, continues: usize| {
            while answered < answers || continued < continues {
                match told.recv() {
                    Ok(Event::Answered) => answered += 1,
                    Ok(Event::Continue) => continued += 1,
                    Err(_) => return false,
                }
            }
            true
        };
        // The bytes of a tunnel do not go before the answer, which the reader sees to.
        let expected = shapes[..at].iter().filter(|before| before.expects).count();
        if !shape.pipelined && !hear(at, expected) {
            return;
        }
        let head = shape.request_head(is_last);
        if send(socket, head.as_bytes(), &mut dice).is_err() {
            return;
        }
        if shape.expects && !hear(0, expected + 1) {
            return;
        }
        let bytes = body(shape.request, shape.request_bytes, &mut dice);
        if send(socket, &bytes, &mut dice).is_err() {
            return;
        }
    }
}

fn read(mut wire: Wire, shapes: &[Shape], events: &Sender<Event>, all: &Seen) -> Result<(), Failure> {
    for shape in shapes {
        let mut dice = Dice::new(shape.number ^ 0x3333);
        let mut response = loop {
            let head = wire.read_response_head(shape.method)?.ok_or(Failure::Eof)?;
            note(all, shape.number, "client", &seen(&head));
            match head.status() {
                100 => drop(events.send(Event::Continue)),
                103 => {}
                _ => break head,
            }
        };
        if shape.upgrades {
            let (up, _) = shape.tunnel_bytes();
            note(all, shape.number, "client", &relay(wire, up, dice));
            return Ok(());
        }
        let mut bytes = Vec::new();
        let is_slow = dice.below(2) == 0;
        let until_close = response.framing == Framing::UntilClose;
        response.trailers = wire.read_body(response.framing, &mut |piece| {
            bytes.extend_from_slice(piece);
            if is_slow {
                pause(&mut dice, 3, 3000);
            }
        })?;
        response.body = bytes;
        note(all, shape.number, "client", &seen(&response));
        let _ = events.send(Event::Answered);
        if (response.says_close() || until_close) && !shape.client_closes && !shape.http_10 {
            note(all, shape.number, "client", "told to close");
        }
    }
    if shapes.last().is_some_and(|last| last.client_closes || last.http_10) {
        let end = wire.read_some().map(<[u8]>::to_vec);
        note(all, shapes[0].number, "client", &format!("then {end:?}"));
    }
    Ok(())
}

/// Some clients at once, and restarts meanwhile; what they and the origin have seen.
fn run_once(chain: &mut Chain, seed: u64, restarts: usize, all: &Seen) -> Transcript {
    let mut dice = Dice::new(seed);
    let mut threads = Vec::new();
    let mut number = seed * 1000;
    for _ in 0..1 + dice.below(6) {
        let count = 1 + dice.below(REQUESTS);
        let shapes = (1..=count).map(|n| Shape::new(number + n, n == count)).collect();
        number += count;
        threads.extend(client(chain.address, shapes, all));
    }
    for _ in 0..restarts {
        std::thread::park_timeout(Duration::from_micros(dice.below(3000)));
        chain.restart();
        if threads.iter().all(JoinHandle::is_finished) {
            break;
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    // The origin notes the end of a tunnel a moment after the client has seen it.
    eventually("the tunnels end", || all.tunnels.load(Ordering::SeqCst) == 0);
    expect_nothing_active(chain.instance.base_id());
    std::mem::take(&mut *lock(&all.seen))
}

#[test]
fn peers_see_what_they_would_see_without_a_handover() {
    let (first, runs) = seed_and_runs(80);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::to([listener.local_addr().unwrap()]).listener("upgrades = [\"websocket\"]");
    let mut chain = Chain::http(config);
    let all = Seen::default();
    serve(listener, &all);
    for seed in first..first + runs {
        println!("OURO_SEED={seed}");
        let expected = run_once(&mut chain, seed, 0, &all);
        let came = run_once(&mut chain, seed, RESTARTS, &all);
        for (key, text) in &expected {
            assert!(
                !text.contains("failed") && !text.contains("wrong"),
                "{key:?} without a restart:\n{text}"
            );
            let with = came.get(key).map_or("nothing", String::as_str);
            assert_eq!(text, with, "{key:?} of seed {seed}: {:?}", Shape::new(key.0, false));
        }
        assert_eq!(expected.len(), came.len());
    }
    let moved = Stats::of(chain.instance.base_id()).get("server.handover.cx_moved");
    println!("{moved} connections have moved");
    assert!(moved > runs, "the restarts hit too little: {moved} connections have moved");
}
