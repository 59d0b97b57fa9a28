//! HTTP/1: clients with pipelined requests, origins that answer as the plan of each request says.

mod client;
mod hostile;
mod origin;
pub mod wire;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;

use ouro::base::random::Random;
use ouro::ring::sim::EndId;

use self::client::Client;
use self::origin::Origin;
use self::wire::Framing;
use crate::scenario::{Peer, Scenario};
use crate::states;

pub const LISTENER: &str = "127.0.0.1:8000";
/// How long processes hang before time-outs of their connections may pass.
pub const HANG_US: u64 = 1_000_000;

/// How an origin breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// With a chunk that is none, in a chunked body.
    Chunk,
    Fin,
    Reset,
}

/// What is to happen to a request.
#[derive(Clone, Debug)]
pub struct Plan {
    pub method: &'static str,
    /// Nothing is routed there: the proxy answers itself.
    pub unrouted: bool,
    pub http_10: bool,
    /// The client asks for the end of the connection.
    pub asks_close: bool,
    pub request: Framing,
    pub request_len: usize,
    pub expects: bool,
    /// Bytes of header fields without meaning.
    pub padding: usize,
    pub status: u16,
    pub interim: u32,
    pub response: Framing,
    pub response_len: usize,
    pub delay_us: u64,
    /// The origin answers before it has read the body.
    pub early: bool,
    /// The origin ends the connection with its response.
    pub closes: bool,
    /// The origin breaks off after so many bytes of its response.
    pub breaks: Option<(usize, Break)>,
    /// The origin sends this instead of a response: one of the malformed ones.
    pub garbage: Option<usize>,
    /// The client sends something else than this request.
    pub bad: Option<Bad>,
    /// Within the response, behind so many bytes of it, the origin pauses for so long.
    pub pause: Option<(usize, u64)>,
    /// Once it has the head, the origin reads nothing for so long.
    pub ignores_us: u64,
    /// The same for the client once it has sent the request, or is in the tunnel.
    pub client_ignores_us: u64,
    /// Bytes of a field in each informational response.
    pub hint: usize,
    /// The client sends another request behind this one, which it has said to be the last.
    pub junk: bool,
    /// The connection becomes a tunnel, in which each side sends so many bytes.
    pub tunnel: Option<(usize, usize)>,
    /// In which the client ends its direction only when the origin has ended the other one.
    pub tunnel_waits: bool,
}

/// How a client breaks the protocol. The numbers are positions in the lists of `hostile.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    Head(usize),
    /// Behind a chunk of so many bytes.
    Chunk(usize, usize),
}

/// What has happened to a request.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// Times that its head, and all of it, came to an origin.
    pub heads: u32,
    pub whole: u32,
    /// Its client has given it up.
    pub abandoned: bool,
    pub answered: Option<u16>,
    /// Its client may have sent it twice.
    pub is_repeated: bool,
}

/// All requests of a run.
#[derive(Default)]
pub struct Book {
    pub plans: Vec<Plan>,
    pub fates: Vec<Fate>,
    /// Connections that an origin has ended while idle.
    pub unannounced: BTreeSet<u32>,
}

pub type Shared = Rc<RefCell<Book>>;

/// Keys of the streams of a request.
pub fn request_key(id: usize) -> u64 {
    (id as u64 * 4 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub fn response_key(id: usize) -> u64 {
    (id as u64 * 4 + 2).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Requests and responses of all kinds.
pub struct HttpScenario {
    book: Shared,
    /// Clients and origins that break the protocol.
    hostile: bool,
    random: Random,
}

impl HttpScenario {
    pub fn new(seed: u64, hostile: bool) -> Self {
        Self { book: Shared::default(), hostile, random: Random::new(seed) }
    }
}

fn plan(random: &mut Random, rough: bool, hostile: bool) -> Plan {
    let method = ["GET", "GET", "HEAD", "POST", "PUT", "DELETE"][random.below(6)];
    let size = |random: &mut Random| {
        let most = [1, 40, 700, 5_000, 40_000][random.below(5)];
        random.below(most)
    };
    let http_10 = random.below(12) == 0;
    let has_body = matches!(method, "POST" | "PUT");
    let request = match (has_body, http_10) {
        (false, _) => Framing::None,
        (true, true) => Framing::Length,
        (true, false) => [Framing::Length, Framing::Chunked][random.below(2)],
    };
    let status = [200, 200, 200, 201, 204, 304, 404, 500][random.below(8)];
    let bodiless = matches!(status, 204 | 304) || method == "HEAD";
    let response = match bodiless {
        true => Framing::None,
        false => [Framing::Length, Framing::Length, Framing::Chunked, Framing::UntilClose][random.below(4)],
    };
    let response_len = if bodiless { 0 } else { size(random) };
    let breaks = (rough && !bodiless && random.below(6) == 0).then(|| {
        let how =
            if response == Framing::UntilClose || random.below(2) == 0 { Break::Reset } else { Break::Fin };
        // Often without a byte: it may be taken for a connection that was closed while idle.
        (if random.below(4) == 0 { 0 } else { random.below(response_len + 60) }, how)
    });
    // The upload is still going on when the origin resets: whoever is told of that, it is not an end.
    let (response, breaks, early) = if rough && has_body && !bodiless && random.below(6) == 0 {
        (Framing::UntilClose, Some((random.below(response_len + 60), Break::Reset)), true)
    } else {
        (response, breaks, has_body && random.below(6) == 0)
    };
    let tunnel =
        (!http_10 && method == "GET" && random.below(8) == 0).then(|| (8 + size(random), 8 + size(random)));
    let mut plan = Plan {
        method,
        unrouted: random.below(12) == 0,
        http_10,
        asks_close: random.below(12) == 0,
        request,
        request_len: if has_body { size(random) } else { 0 },
        expects: has_body && !http_10 && random.below(6) == 0,
        padding: [0, 0, 100, 3_000][random.below(4)],
        status,
        interim: if random.below(8) == 0 { 1 + random.below(3) as u32 } else { 0 },
        response,
        response_len,
        delay_us: [0, 0, 2_000, 300_000][random.below(4)],
        early,
        closes: random.below(10) == 0,
        breaks,
        garbage: (rough && random.below(24) == 0).then_some(0),
        bad: None,
        pause: (random.below(5) == 0).then(|| {
            let most = [20, 60, 2_000][random.below(3)];
            (random.below(most), 1 + random.below(200_000) as u64)
        }),
        ignores_us: if random.below(6) == 0 { random.below(300_000) as u64 } else { 0 },
        client_ignores_us: if random.below(8) == 0 { random.below(200_000) as u64 } else { 0 },
        hint: [0, 0, 200, 1_500][random.below(4)],
        junk: false,
        tunnel,
        tunnel_waits: random.below(2) == 0,
    };
    if let Some(tunnel) = &mut plan.tunnel {
        match random.below(6) {
            0 | 1 => plan.pause = Some((100 + random.below(100), 1 + random.below(300_000) as u64)),
            2..5 => {
                // Both ends send more than fits into the pipe to the other one, which reads nothing of it yet.
                let most = [1_500, 6_000, 20_000][random.below(3)];
                *tunnel = (200 + random.below(most), 200 + random.below(most));
                plan.tunnel_waits = false;
                plan.ignores_us = 20_000 + random.below(200_000) as u64;
                plan.client_ignores_us = 20_000 + random.below(200_000) as u64;
                match random.below(4) {
                    0 => plan.ignores_us = 0,
                    1 => plan.client_ignores_us = 0,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    if plan.breaks.is_some() && random.below(2) == 0 {
        // There is something that the client has not got yet.
        plan.client_ignores_us = 20_000 + random.below(200_000) as u64;
    }
    if has_body && random.below(5) == 0 {
        // The response goes on, or does not come to its body, while the origin leaves the request lying.
        plan.early = true;
        plan.request_len = 500 + random.below(9_000);
        plan.ignores_us = 20_000 + random.below(300_000) as u64;
        plan.interim = random.below(4) as u32;
        if random.below(2) == 0 {
            plan.client_ignores_us = 20_000 + random.below(200_000) as u64;
        }
        let most = [40, 200, 2_000][random.below(3)];
        plan.pause = Some((random.below(most), 1 + random.below(300_000) as u64));
    }
    if hostile && random.below(3) == 0 {
        // Nothing else is special about it.
        plan = Plan {
            method: "POST",
            unrouted: false,
            http_10: false,
            asks_close: false,
            request: Framing::Chunked,
            expects: false,
            breaks: None,
            garbage: None,
            early: false,
            interim: 0,
            tunnel: None,
            bad: Some(match random.below(3) {
                0 => Bad::Chunk(random.below(hostile::CHUNKS.len()), random.below(3_000)),
                _ => Bad::Head(random.below(hostile::HEADS.len())),
            }),
            ..plan
        };
    } else if hostile && random.below(4) == 0 {
        plan.tunnel = None;
        plan.early = false;
        match random.below(4) {
            0 if plan.response != Framing::None => {
                (plan.response, plan.breaks) = (Framing::Chunked, Some((0, Break::Chunk)));
            }
            _ => (plan.garbage, plan.breaks) = (Some(random.below(hostile::RESPONSES.len())), None),
        }
    }
    plan.junk = (plan.asks_close || plan.http_10) && random.below(4) == 0;
    plan
}

impl Scenario for HttpScenario {
    fn config(&self) -> String {
        format!(
            "[[listeners]]\nname = \"web\"\naddress = \"{LISTENER}\"\n[[listeners.routes]]\npath_prefix = \"/r/\"\n\
             cluster = \"app\"\n[listeners.limits]\nbody_size = \"1MiB\"\n\
             [[clusters]]\nname = \"app\"\nendpoints = [\"10.0.0.1:1\", \"10.0.0.2:1\"]\n"
        )
    }

    fn clients(&mut self, first: u32, random: &mut Random) -> Vec<Box<dyn Peer>> {
        let rough = random.below(2) == 0;
        let count = 1 + random.below(8) as u32;
        let mut clients: Vec<Box<dyn Peer>> = Vec::new();
        for n in 0..count {
            let most = [3, 12][random.below(2)];
            let requests = 1 + random.below(most);
            let mut book = self.book.borrow_mut();
            let ids = book.plans.len()..book.plans.len() + requests;
            for _ in ids.clone() {
                book.plans.push(plan(random, rough, self.hostile));
                book.fates.push(Fate::default());
            }
            drop(book);
            let seed = random.next_u64();
            let client = Client::new(Rc::clone(&self.book), first + n, ids, Random::new(seed), rough);
            clients.push(Box::new(client));
        }
        clients
    }

    fn accepted(&mut self, number: u32, _: SocketAddr, end: EndId) -> Box<dyn Peer> {
        let random = Random::new(self.random.next_u64());
        Box::new(Origin::new(Rc::clone(&self.book), number, end, random))
    }

    fn aims(&self) -> &'static [&'static str] {
        states::HTTP_AIMS
    }

    fn check(&mut self) -> Vec<String> {
        let book = self.book.borrow();
        let mut wrong = Vec::new();
        for (id, (plan, fate)) in book.plans.iter().zip(&book.fates).enumerate() {
            let idempotent = plan.method != "POST";
            let is_passed_on = match plan.bad {
                Some(Bad::Head(_)) => fate.heads > 0,
                Some(Bad::Chunk(..)) => fate.whole > 0,
                None => false,
            };
            if is_passed_on {
                wrong.push(format!("request {id} should not have come to an origin: {plan:?} {fate:?}"));
            }
            if fate.whole > 1 && !(idempotent || fate.is_repeated) {
                wrong.push(format!("request {id} came {} times to an origin: {plan:?}", fate.whole));
            }
            if fate.answered.is_none() && !fate.abandoned {
                wrong.push(format!("request {id} was never answered: {plan:?} {fate:?}"));
            }
        }
        wrong
    }
}
