//! The pieces of work that are counted: small parts of the proxy that every request passes through.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use ouro::base::clock::NEVER;
use ouro::base::http::{BodyLength, Fields, Method};
use ouro::base::random::Random;
use ouro::config::model::Forwarding;
use ouro::config::model::Protocol;
use ouro::h1::{BodyDecoder, Decoded, HeadLimits, Parsed, parse_request, parse_response, write_chunk_header};
use ouro::proxy::bench_api;
use ouro::ring::{Ring, probe};
use ouro::route::{RouteQuery, RouteTable};
use ouro_shm::Block;

use crate::content;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 32 * 1024, headers: 100 };

/// What a browser sends.
const REQUEST: &[u8] = b"GET /articles/2026/a-proxy-that-renews-itself?page=2 HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789\r\n\
    Upgrade-Insecure-Requests: 1\r\n\r\n";

/// What a server answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nContent-Length: 5120\r\nConnection: keep-alive\r\nVary: Accept-Encoding\r\n\
    Cache-Control: max-age=600\r\nETag: \"64a1-1400\"\r\n\r\n";

/// Chunks of the chunked body, and bytes of each.
const CHUNKS: usize = 16;
const CHUNK_BYTES: usize = 4096;

/// Receive buffers of the ring.
const BUFFER_BYTES: usize = 4096;
const BUFFER_MEMORY: usize = 1024 * 1024;

ouro_shm::scope! {
    /// Something to count.
    Counted "bench" "bench.{}" ["name"] {
        Counter REQUESTS "requests" Count "Requests.";
        Gauge ACTIVE "active" Count "Requests in progress.";
    }
}

/// Does something so many times.
pub(super) type Work = Box<dyn FnMut(u64) -> Result<(), String>>;

/// A piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    /// Name.
    pub(super) name: &'static str,
    /// What is done once.
    pub(super) title: &'static str,
    /// Makes ready what it needs.
    pub(super) prepare: fn() -> Result<Work, String>,
    /// Repetitions under an instruction counter; none where it cannot run there.
    pub(super) counted: Option<u64>,
}

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case {
        name: "request-head",
        title: "parse a request head of 9 fields",
        prepare: request_head,
        counted: Some(2000),
    },
    Case {
        name: "response-head",
        title: "parse a response head of 8 fields",
        prepare: response_head,
        counted: Some(2000),
    },
    Case {
        name: "request-rewrite",
        title: "write that request for the origin",
        prepare: request_rewrite,
        counted: Some(2000),
    },
    Case {
        name: "response-rewrite",
        title: "write that response for the client",
        prepare: response_rewrite,
        counted: Some(2000),
    },
    Case {
        name: "chunk-headers",
        title: "write 16 chunk headers",
        prepare: chunk_headers,
        counted: Some(2000),
    },
    Case { name: "chunked", title: "decode 16 chunks of 4 KiB", prepare: chunked, counted: Some(1000) },
    Case {
        name: "route-10",
        title: "find the route among 10 hosts",
        prepare: || route(10),
        counted: Some(2000),
    },
    Case {
        name: "route-1000",
        title: "find the route among 1000 hosts",
        prepare: || route(1000),
        counted: Some(2000),
    },
    Case {
        name: "route-100000",
        title: "find the route among 100 000 hosts",
        prepare: || route(100_000),
        counted: Some(2000),
    },
    Case { name: "counter", title: "count one", prepare: counter, counted: Some(10_000) },
    // Valgrind does not know io_uring.
    Case {
        name: "ring-round-trip",
        title: "100 bytes there and back on one ring",
        prepare: ring,
        counted: None,
    },
];

fn request_head() -> Result<Work, String> {
    let mut fields = Fields::new();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            match parse_request(black_box(REQUEST), LIMITS, &mut fields) {
                Ok(Parsed::Complete { head, .. }) => drop(black_box(head)),
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    }))
}

fn response_head() -> Result<Work, String> {
    let mut fields = Fields::new();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            match parse_response(black_box(RESPONSE), Method::Get, LIMITS, &mut fields) {
                Ok(Parsed::Complete { head, .. }) => drop(black_box(head)),
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    }))
}

/// What a listener does to heads if its configuration says nothing of it.
fn forwarding() -> Result<Forwarding, String> {
    let text = "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:1\"\n\
                [[listeners.routes]]\nrespond = { status = 204 }\n";
    let model = ouro::config::parse(text, "bench").map_err(|error| error.to_string())?;
    let Protocol::Http(http) = &model.listeners[0].protocol else { return Err("not HTTP".into()) };
    Ok(http.forwarding.clone())
}

fn request_rewrite() -> Result<Work, String> {
    let (forwarding, mut random, mut fields) = (forwarding()?, Random::new(1), Fields::new());
    let head = match parse_request(REQUEST, LIMITS, &mut fields) {
        Ok(Parsed::Complete { head, .. }) => head,
        other => return Err(format!("{other:?}")),
    };
    let (path, mut out) = (head.path.of(REQUEST).to_vec(), Vec::new());
    Ok(Box::new(move |times| {
        for _ in 0..times {
            out.clear();
            let received = (&head, black_box(REQUEST), &fields[..]);
            bench_api::forward_request(&mut out, received, &path, &forwarding, &mut random);
            black_box(&out);
        }
        if out.ends_with(b"\r\n\r\n") { Ok(()) } else { Err("not a head".into()) }
    }))
}

fn response_rewrite() -> Result<Work, String> {
    let (forwarding, mut fields) = (forwarding()?, Fields::new());
    let head = match parse_response(RESPONSE, Method::Get, LIMITS, &mut fields) {
        Ok(Parsed::Complete { head, .. }) => head,
        other => return Err(format!("{other:?}")),
    };
    let mut out = Vec::new();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            out.clear();
            let received = (&head, black_box(RESPONSE), &fields[..]);
            bench_api::forward_response(&mut out, received, head.body, &forwarding);
            black_box(&out);
        }
        if out.ends_with(b"\r\n\r\n") { Ok(()) } else { Err("not a head".into()) }
    }))
}

#[allow(clippy::unnecessary_wraps)] // as the others do
fn chunk_headers() -> Result<Work, String> {
    let mut out = Vec::new();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            out.clear();
            for _ in 0..CHUNKS {
                write_chunk_header(&mut out, black_box(CHUNK_BYTES));
            }
            black_box(&out);
        }
        Ok(())
    }))
}

fn chunked() -> Result<Work, String> {
    let data = content::body(CHUNK_BYTES);
    let mut body = Vec::new();
    for _ in 0..CHUNKS {
        write_chunk_header(&mut body, data.len());
        body.extend_from_slice(&data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let mut decoder = BodyDecoder::new(BodyLength::Chunked);
            let (mut rest, mut bytes) = (black_box(&body[..]), 0);
            loop {
                match decoder.decode(rest) {
                    Ok(Decoded::Data { skip, len }) => {
                        bytes += len;
                        rest = &rest[skip + len..];
                    }
                    Ok(Decoded::End { .. }) => break,
                    other => return Err(format!("{other:?}")),
                }
            }
            if bytes != CHUNKS * CHUNK_BYTES {
                return Err(format!("{bytes} bytes"));
            }
        }
        Ok(())
    }))
}

fn route(hosts: usize) -> Result<Work, String> {
    let mut text = String::from("[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:1\"\n");
    for number in 0..hosts {
        let host = content::host(number);
        text.push_str(&format!("[[listeners.routes]]\nhosts = [\"{host}\"]\nrespond = {{ status = 204 }}\n"));
    }
    let model = ouro::config::parse(&text, "bench").map_err(|error| error.to_string())?;
    let listener = Arc::clone(&model.listeners[0]);
    let Protocol::Http(http) = &listener.protocol else { return Err("not HTTP".into()) };
    let table = RouteTable::new(&http.routes);
    // A step without a common divisor visits all, far from each other.
    const STEP: usize = 7919;
    let names: Vec<String> = (0..hosts).map(|n| content::host(n * STEP % hosts)).collect();
    let mut next = 0;
    Ok(Box::new(move |times| {
        let Protocol::Http(http) = &listener.protocol else { return Err("not HTTP".into()) };
        for _ in 0..times {
            let host = &names[next];
            next = (next + 1) % names.len();
            let query = RouteQuery {
                host: black_box(host).as_bytes(),
                path: b"/",
                method: b"GET",
                fields: &[],
                head: &[],
            };
            if table.position(&http.routes, &query).is_none() {
                return Err(format!("no route for {host}"));
            }
        }
        Ok(())
    }))
}

#[allow(clippy::unnecessary_wraps)] // as the others do
fn counter() -> Result<Work, String> {
    let block = Block::<Counted>::detached();
    Ok(Box::new(move |times| {
        for _ in 0..times {
            black_box(&block).inc(Counted::REQUESTS);
        }
        Ok(())
    }))
}

fn ring() -> Result<Work, String> {
    let capabilities = probe().map_err(|error| error.to_string())?;
    // Setting a ring up takes some hundred microseconds, which many repetitions hide.
    Ok(Box::new(move |times| {
        let text = |error: std::io::Error| error.to_string();
        let ring = Ring::new(BUFFER_BYTES, BUFFER_MEMORY, 0, &capabilities).map_err(text)?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
        let near = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
        let (far, _) = listener.accept().map_err(text)?;
        near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).map_err(text)?;
        ring.spawn(echo(ring.clone(), far));
        ring.run(ping(ring.clone(), near, times)).map_err(text)
    }))
}

async fn ping(ring: Ring, stream: TcpStream, times: u64) {
    let socket = ring.adopt(stream.into());
    socket.attach(ring.current_task());
    for _ in 0..times {
        let mut buffer = ring.write_buf();
        buffer.bytes.resize(content::SMALL, b'x');
        socket.send(buffer.freeze());
        let mut missing = content::SMALL;
        while missing > 0 {
            match socket.receive() {
                Some(chunk) => missing -= chunk.len(),
                None if socket.status().eof || socket.status().recv_error != 0 => return,
                None => ring.wait(NEVER).await,
            }
        }
    }
}

async fn echo(ring: Ring, stream: TcpStream) {
    let socket = ring.adopt(stream.into());
    socket.attach(ring.current_task());
    while !socket.status().eof && socket.status().recv_error == 0 {
        while let Some(chunk) = socket.receive() {
            socket.send(chunk);
        }
        ring.wait(NEVER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_its_work() {
        for case in ALL.iter().filter(|case| case.name != "route-100000") {
            let mut work = (case.prepare)().unwrap();
            work(3).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        }
    }
}
