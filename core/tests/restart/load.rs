//! Strict clients under whose eyes processes are replaced, and an origin that counts what it gets.
//!
//! A response that says `Connection: close` leads to a new connection. Anything else that ends a connection is a failure:
//! refused, reset, an end instead of a response, a truncated or a wrong body.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::wire::{Socket, Wire};
use crate::support::{DEADLINE, eventually, lock, pattern};

/// Failures that are written down at most; more of them tell nothing new.
const FAILURES_MAX: usize = 50;

/// Clients that share a rate, at most this many: each waits for its turn, and a turn takes a connection and a request.
const PACED_CLIENTS: usize = 64;

/// Bytes of the bodies that are sent up and down.
const BODY_BYTES: usize = 200_000;

/// What clients have counted and seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// HTTP requests that were answered in full.
    pub(crate) requests: AtomicU64,
    /// HTTP connections that were made.
    pub(crate) connections: AtomicU64,
    /// Round trips on TCP connections.
    pub(crate) echoes: AtomicU64,
    /// Connections that were made one after the other at a rate, of those above.
    paced: AtomicU64,
    failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Seen {
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}

/// Clients that run until told to stop.
pub(crate) struct Load {
    pub(crate) seen: Arc<Seen>,
    started: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self { seen: Arc::default(), started: Instant::now(), threads: Vec::new() }
    }

    /// Clients that send requests on one connection as long as it is not said to be closed.
    pub(crate) fn keep_alive(self, clients: usize, address: SocketAddr) -> Self {
        self.run("keep-alive", clients, move |seen| {
            let mut client = HttpClient::connect(address, seen)?;
            while seen.goes_on() {
                let last = client.get("", seen)?;
                if last {
                    return client.expect_eof();
                }
            }
            Ok(())
        })
    }

    /// Clients that send one request per connection.
    pub(crate) fn short(self, clients: usize, address: SocketAddr) -> Self {
        self.run("short", clients, move |seen| short(address, seen))
    }

    /// So many connections a second, with one request each. Where the machine cannot do that they come as fast as it can,
    /// without catching up later; [`Load::rate`] says how many there were.
    pub(crate) fn rate_of(self, per_second: u32, address: SocketAddr) -> Self {
        let (period, begun) = (Duration::from_secs(1) / per_second, self.started);
        // When the next one is due, in microseconds since the beginning.
        let due = AtomicU64::new(0);
        self.run("paced", PACED_CLIENTS, move |seen| {
            let now = u64::try_from(begun.elapsed().as_micros()).unwrap();
            let step = u64::try_from(period.as_micros()).unwrap();
            let later = |at: u64| Some(at.max(now.saturating_sub(step)) + step);
            let at = due.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later).unwrap();
            std::thread::sleep(Duration::from_micros(at.saturating_sub(now)));
            seen.paced.fetch_add(1, Ordering::SeqCst);
            short(address, seen)
        })
    }

    /// How many connections a second there were of those that come at a rate.
    pub(crate) fn rate(&self) -> u64 {
        let paced = u128::from(self.seen.paced.load(Ordering::SeqCst));
        u64::try_from(paced * 1000 / self.started.elapsed().as_millis().max(1)).unwrap()
    }

    /// Clients that send long bodies and get them back.
    pub(crate) fn bodies(self, clients: usize, address: SocketAddr) -> Self {
        let body = Arc::new(pattern::bytes(BODY_BYTES));
        self.run("body", clients, move |seen| {
            let mut client = HttpClient::connect(address, seen)?;
            while seen.goes_on() {
                let last = client.post(&body, seen)?;
                if last {
                    return client.expect_eof();
                }
            }
            Ok(())
        })
    }

    /// Connections through a TCP listener that live as long as the load.
    pub(crate) fn tcp(self, clients: usize, address: SocketAddr) -> Self {
        self.run("tcp", clients, move |seen| {
            let mut wire = connect(address)?;
            let message = pattern::bytes(3_000);
            while seen.goes_on() {
                wire.send(&message).map_err(|failure| format!("sending: {failure}"))?;
                let echo = wire.read_exact(message.len()).map_err(|failure| format!("echo: {failure}"))?;
                if echo != message {
                    return Err("the echo is not what was sent".into());
                }
                seen.echoes.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })
    }

    fn run(
        mut self,
        what: &'static str,
        clients: usize,
        once: impl Fn(&Seen) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let once = Arc::new(once);
        for number in 0..clients {
            let (seen, started, once) = (Arc::clone(&self.seen), self.started, Arc::clone(&once));
            self.threads.push(std::thread::spawn(move || {
                while seen.goes_on() {
                    if let Err(failure) = once(&seen) {
                        let mut failures = lock(&seen.failures);
                        if failures.len() < FAILURES_MAX {
                            let at = started.elapsed();
                            failures.push(format!("{at:?} {what} client {number}: {failure}"));
                        }
                        // A client that fails at once must not spin.
                        drop(failures);
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                }
            }));
        }
        self
    }

    /// Failures so far.
    pub(crate) fn failures(&self) -> Vec<String> {
        lock(&self.seen.failures).clone()
    }

    /// Waits until so many more requests have been answered.
    #[track_caller]
    pub(crate) fn flow(&self, requests: u64) {
        let before = self.seen.requests();
        eventually("requests are answered", || self.seen.requests() >= before + requests);
    }

    /// Ends all clients after their present request; the failures.
    pub(crate) fn end(&mut self) -> Vec<String> {
        self.seen.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.failures()
    }

    /// Ends all clients, of whom none may have seen a failure.
    #[track_caller]
    pub(crate) fn end_well(mut self) -> Arc<Seen> {
        let failures = self.end();
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        Arc::clone(&self.seen)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let failures = self.end();
        if std::thread::panicking() {
            eprintln!("--- failures of clients\n{}\n---", failures.join("\n"));
        }
    }
}

/// One request on a connection of its own.
fn short(address: SocketAddr, seen: &Seen) -> Result<(), String> {
    let mut client = HttpClient::connect(address, seen)?;
    if !client.get("Connection: close\r\n", seen)? {
        return Err("no Connection: close although it was asked for".into());
    }
    client.expect_eof()
}

/// A connection of an HTTP client.
pub(crate) struct HttpClient {
    wire: Wire,
    number: u64,
}

impl HttpClient {
    pub(crate) fn connect(address: SocketAddr, seen: &Seen) -> Result<Self, String> {
        let wire = connect(address)?;
        seen.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Self { wire, number: 0 })
    }

    /// A request with further fields; whether the response says that it is the last one.
    pub(crate) fn get(&mut self, fields: &str, seen: &Seen) -> Result<bool, String> {
        self.number += 1;
        let target = format!("/{}", self.number);
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        self.wire.send(request.as_bytes()).map_err(|failure| format!("request {target}: {failure}"))?;
        self.response(&target, target.as_bytes(), seen)
    }

    fn post(&mut self, body: &[u8], seen: &Seen) -> Result<bool, String> {
        self.number += 1;
        let target = format!("/up/{}", self.number);
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let sent = self.wire.send(head.as_bytes()).and_then(|()| self.wire.send(body));
        sent.map_err(|failure| format!("request {target}: {failure}"))?;
        self.response(&target, body, seen)
    }

    fn response(&mut self, target: &str, expected: &[u8], seen: &Seen) -> Result<bool, String> {
        let head = self.wire.read_response_head("GET");
        let mut head = match head {
            Ok(Some(head)) => head,
            Ok(None) => return Err(format!("{target}: the end of the connection instead of a response")),
            Err(failure) => return Err(format!("{target}: no response: {failure}")),
        };
        self.wire.read_body_into(&mut head).map_err(|failure| format!("{target}: body: {failure}"))?;
        if head.status() != 200 {
            return Err(format!("{target}: {}: {}", head.start_line, head.text()));
        }
        if head.body != expected {
            return Err(format!("{target}: a wrong body of {} bytes", head.body.len()));
        }
        seen.requests.fetch_add(1, Ordering::SeqCst);
        Ok(head.says_close())
    }

    pub(crate) fn expect_eof(&mut self) -> Result<(), String> {
        match self.wire.read_some().map(<[u8]>::len) {
            Err(crate::support::Failure::Eof) => Ok(()),
            other => Err(format!("the end of the connection expected, not {other:?}")),
        }
    }
}

fn connect(address: SocketAddr) -> Result<Wire, String> {
    let stream =
        TcpStream::connect_timeout(&address, DEADLINE).map_err(|error| format!("connect: {error}"))?;
    Ok(Wire::new(Socket::new(stream)))
}

/// An origin that answers a GET with its target and anything else with its own body; counts.
pub(crate) struct Echo {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
}

impl Echo {
    /// An HTTP origin.
    pub(crate) fn http() -> Self {
        Self::start(|wire, counts| {
            while let Ok(Some(mut head)) = wire.read_request_head() {
                if wire.read_body_into(&mut head).is_err() {
                    return;
                }
                counts.requests.fetch_add(1, Ordering::SeqCst);
                let body = if head.body.is_empty() { head.target().as_bytes() } else { &head.body };
                let mut response =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
                response.extend_from_slice(body);
                if wire.send(&response).is_err() {
                    return;
                }
            }
        })
    }

    /// A TCP origin.
    pub(crate) fn tcp() -> Self {
        Self::start(|wire, _| {
            while let Ok(bytes) = wire.read_some().map(<[u8]>::to_vec) {
                if wire.send(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    fn start(serve: impl Fn(&mut Wire, &Counts) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let (counted, serve) = (Arc::clone(&counts), Arc::new(serve));
        // Ends with the test program; nobody has to wait for it.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                let (counted, serve) = (Arc::clone(&counted), Arc::clone(&serve));
                std::thread::spawn(move || serve(&mut Wire::new(Socket::new(stream)), &counted));
            }
        });
        Self { address, counts }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }
}
