//! Origins that do exactly what a test tells them, and remember every byte.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use nix::sys::socket::Shutdown;

use super::cases::panic_text;
use super::wire::{Record, Socket, Wire};
use super::{DEADLINE, Failure, Message, QUIET, lock};

/// A listening socket with a thread for each connection, which runs the test's script.
pub(crate) struct Origin {
    address: Option<SocketAddr>,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    closing: AtomicBool,
}

#[derive(Default)]
struct State {
    connections: Vec<Connection>,
    /// Requests that were read to their end, in that order, over all connections.
    requests: Vec<Message>,
    /// What went wrong in scripts.
    panics: Vec<String>,
    /// Local addresses of connections that only show how far the acceptor has come.
    fences: Vec<SocketAddr>,
}

struct Connection {
    /// Held by the script, whose end closes it.
    socket: Weak<Socket>,
    record: Arc<Mutex<Record>>,
    running: bool,
}

impl Origin {
    /// Runs `script` for each connection.
    pub(crate) fn start(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script)
    }

    /// The same at a given address.
    pub(crate) fn start_at(address: SocketAddr, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
        let address = listener.local_addr().unwrap();
        Self::run(Listener::Tcp(listener), Some(address), script)
    }

    /// The same on a Unix socket.
    pub(crate) fn start_unix(path: &Path, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::run(Listener::Unix(UnixListener::bind(path).unwrap()), None, script)
    }

    /// Answers every request on every connection with these bytes.
    pub(crate) fn replying(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |conn| {
            while conn.next_request().is_some() {
                conn.send(&response);
            }
        })
    }

    /// Answers every request with 200 and its target as the body; ends a connection on which anything is wrong.
    pub(crate) fn echoing_targets() -> Self {
        Self::start(|conn| {
            while let Ok(Some(request)) = conn.try_request() {
                if conn.try_send(ok(request.target())).is_err() {
                    break;
                }
            }
        })
    }

    /// Reads requests and never answers.
    pub(crate) fn silent() -> Self {
        Self::start(|conn| while let Ok(Some(_)) = conn.try_request() {})
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// Connections whose script has not ended.
    pub(crate) fn running(&self) -> usize {
        self.state().connections.iter().filter(|connection| connection.running).count()
    }

    /// Requests read to their end so far.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.state().requests.clone()
    }

    /// The only request read so far.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Message {
        let requests = self.requests();
        assert!(requests.len() == 1, "one request expected, not {requests:?}");
        requests.into_iter().next().unwrap()
    }

    /// Every byte that a connection has received.
    pub(crate) fn received(&self, connection: usize) -> Vec<u8> {
        let record = Arc::clone(&self.state().connections[connection].record);
        let record = lock(&record);
        record.bytes.clone()
    }

    /// Every byte that arrived on any connection.
    pub(crate) fn all_received(&self) -> Vec<u8> {
        (0..self.connections()).flat_map(|index| self.received(index)).collect()
    }

    /// Waits until so many requests have been read.
    #[track_caller]
    pub(crate) fn wait_requests(&self, count: usize) -> Vec<Message> {
        self.wait("requests", |state| state.requests.len() >= count);
        self.requests()
    }

    /// Waits until so many connections have been accepted.
    #[track_caller]
    pub(crate) fn wait_connections(&self, count: usize) {
        self.wait("connections", |state| state.connections.len() >= count);
    }

    /// Waits until the scripts of all connections have ended.
    #[track_caller]
    pub(crate) fn wait_idle(&self) {
        self.wait("ended scripts", |state| state.connections.iter().all(|connection| !connection.running));
    }

    /// Proves that not a byte has arrived on any connection: neither read by a script nor waiting in the kernel.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        self.catch_up();
        for (index, connection) in self.state().connections.iter().enumerate() {
            let record = lock(&connection.record);
            let seen = record.bytes.escape_ascii();
            assert!(record.count == 0, "connection {index} of the origin received \"{seen}\"");
            let unread = connection.socket.upgrade().is_some_and(|socket| socket.has_unread_bytes());
            assert!(!unread, "connection {index} of the origin has received bytes");
        }
    }

    /// Proves that none of what has arrived contains `bytes`, once all connections have ended.
    #[track_caller]
    pub(crate) fn assert_never_saw(&self, bytes: &str) {
        self.catch_up();
        self.wait_idle();
        let all = self.all_received();
        let found = all.windows(bytes.len()).any(|window| window == bytes.as_bytes());
        assert!(!found, "{bytes:?} reached the origin: \"{}\"", all.escape_ascii());
    }

    /// Waits until every connection made so far has been accepted.
    #[track_caller]
    fn catch_up(&self) {
        let (fence, address) = {
            // The acceptor asks under this lock whether a connection is a fence.
            let mut state = self.state();
            let fence = TcpStream::connect_timeout(&self.addr(), DEADLINE).unwrap();
            let address = fence.local_addr().unwrap();
            state.fences.push(address);
            (fence, address)
        };
        self.wait("end of the accept queue", |state| !state.fences.contains(&address));
        drop(fence);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let state = self.state();
        let wait = self.shared.changed.wait_timeout_while(state, DEADLINE, |state| !condition(state));
        let (state, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        let running = state.connections.iter().filter(|connection| connection.running).count();
        assert!(
            !timeout.timed_out(),
            "the origin waited {DEADLINE:?} in vain for {what}: {} connections ({running} running), requests {:?}",
            state.connections.len(),
            state.requests
        );
    }

    fn run(
        listener: Listener,
        address: Option<SocketAddr>,
        script: impl Fn(&mut Conn) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared::default());
        let script: Arc<dyn Fn(&mut Conn) + Send + Sync> = Arc::new(script);
        let acceptor = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            std::thread::spawn(move || accept_all(&listener, &shared, &script))
        };
        Self { address, listener, shared, acceptor: Some(acceptor) }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let panics = std::mem::take(&mut self.state().panics);
        self.shared.closing.store(true, Ordering::SeqCst);
        self.listener.shut_down();
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for connection in &self.state().connections {
            if let Some(socket) = connection.socket.upgrade() {
                socket.shutdown(Shutdown::Both);
            }
        }
        if !panics.is_empty() {
            let text = format!("the origin's script failed: {}", panics.join("\n"));
            if std::thread::panicking() {
                eprintln!("{text}");
            } else {
                panic!("{text}");
            }
        }
    }
}

/// A listening socket of either kind.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The next connection, and where it comes from. An error once the listener is shut down.
    fn accept(&self) -> std::io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, peer)| (Socket::new(stream), Some(peer))),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| (Socket::new(stream), None)),
        }
    }

    fn shut_down(&self) {
        let fd = match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        };
        let _ = nix::sys::socket::shutdown(fd, Shutdown::Both);
    }
}

fn accept_all(listener: &Listener, shared: &Arc<Shared>, script: &Arc<dyn Fn(&mut Conn) + Send + Sync>) {
    while let Ok((socket, peer)) = listener.accept() {
        let mut state = lock(&shared.state);
        if let Some(peer) = peer
            && state.fences.contains(&peer)
        {
            state.fences.retain(|fence| *fence != peer);
            shared.changed.notify_all();
            continue;
        }
        let wire = Wire::new(socket);
        let index = state.connections.len();
        state.connections.push(Connection {
            socket: Arc::downgrade(wire.socket()),
            record: Arc::clone(wire.record()),
            running: true,
        });
        shared.changed.notify_all();
        let conn = Conn { wire, index, shared: Arc::clone(shared) };
        let script = Arc::clone(script);
        std::thread::spawn(move || run_script(conn, script.as_ref()));
    }
}

fn run_script(mut conn: Conn, script: &dyn Fn(&mut Conn)) {
    let result = catch_unwind(AssertUnwindSafe(|| script(&mut conn)));
    let (index, shared) = (conn.index, Arc::clone(&conn.shared));
    // Closes the connection: whoever sees that the script has ended can rely on that.
    drop(conn);
    let mut state = lock(&shared.state);
    if let Err(panic) = result
        && !shared.closing.load(Ordering::SeqCst)
    {
        state.panics.push(format!("connection {index}: {}", panic_text(panic.as_ref())));
    }
    state.connections[index].running = false;
    shared.changed.notify_all();
}

/// One connection of an origin. It is closed when the script ends.
pub(crate) struct Conn {
    wire: Wire,
    index: usize,
    shared: Arc<Shared>,
}

impl Conn {
    /// How many connections the origin accepted before this one.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Reads a whole request, which must come.
    #[track_caller]
    pub(crate) fn request(&mut self) -> Message {
        self.next_request().expect("a request, not the end of the connection")
    }

    /// Reads a whole request; `None` if the proxy ends the connection, or keeps it idle for long.
    #[track_caller]
    pub(crate) fn next_request(&mut self) -> Option<Message> {
        match self.try_request() {
            Ok(request) => request,
            Err(failure) => panic!("no request: {failure}; {}", self.wire.received_text()),
        }
    }

    /// Reads a whole request.
    pub(crate) fn try_request(&mut self) -> Result<Option<Message>, Failure> {
        let before = lock(self.wire.record()).count;
        let head = self.wire.read_request_head();
        let mut request = match head {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            // An idle connection that the proxy keeps, or has thrown away.
            Err(Failure::TimedOut | Failure::Reset) if lock(self.wire.record()).count == before => {
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        self.wire.read_body_into(&mut request)?;
        lock(&self.shared.state).requests.push(request.clone());
        self.shared.changed.notify_all();
        Ok(Some(request))
    }

    /// Reads the head of a request only.
    #[track_caller]
    pub(crate) fn request_head(&mut self) -> Message {
        match self.wire.read_request_head() {
            Ok(Some(head)) => head,
            Ok(None) => panic!("a request expected, not the end of the connection"),
            Err(failure) => panic!("no request: {failure}; {}", self.wire.received_text()),
        }
    }

    /// Reads the rest of a request whose head has been read.
    pub(crate) fn read_body(&mut self, head: &mut Message) -> Result<(), Failure> {
        self.wire.read_body_into(head)
    }

    /// Reads the rest of a request whose head has been read into `sink`.
    #[track_caller]
    pub(crate) fn drain_body(&mut self, head: &Message, sink: &mut dyn FnMut(&[u8])) {
        if let Err(failure) = self.wire.read_body(head.framing, sink) {
            panic!("the body of {head:?} is not complete: {failure}");
        }
    }

    #[track_caller]
    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        match self.wire.read_exact(count) {
            Ok(bytes) => bytes,
            Err(failure) => panic!("{count} bytes expected: {failure}; {}", self.wire.received_text()),
        }
    }

    /// Expects exactly these bytes.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let got = self.read_exact(bytes.as_ref().len());
        assert_eq!(got.escape_ascii().to_string(), bytes.as_ref().escape_ascii().to_string());
    }

    /// Reads what comes, at least a byte.
    pub(crate) fn read_some(&mut self) -> Result<Vec<u8>, Failure> {
        self.wire.read_some().map(<[u8]>::to_vec)
    }

    /// Reads to the end of the connection into `sink`.
    pub(crate) fn read_to_end(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        self.wire.read_to_end(sink)
    }

    /// Expects that the proxy ends its side without another byte and without a reset.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        match self.read_some() {
            Err(Failure::Eof) => {}
            Err(failure) => panic!("the end of the connection expected: {failure}"),
            Ok(bytes) => panic!("the end of the connection expected, not \"{}\"", bytes.escape_ascii()),
        }
    }

    /// Expects that the proxy closes or resets the connection, whatever it sends before.
    #[track_caller]
    pub(crate) fn expect_gone(&mut self) {
        match self.wire.read_to_end(&mut |_| {}) {
            Ok(()) | Err(Failure::Reset) => {}
            Err(failure) => panic!("the end of the connection expected: {failure}"),
        }
    }

    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        if let Err(failure) = self.try_send(bytes) {
            panic!("cannot send: {failure}; {}", self.wire.received_text());
        }
    }

    /// Sends what the proxy may not want any more.
    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.wire.send(bytes.as_ref())
    }

    /// Sends each byte on its own.
    #[track_caller]
    pub(crate) fn send_bytewise(&self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]);
        }
    }

    /// Sends until nothing more is taken for a while; returns how much was.
    #[track_caller]
    pub(crate) fn send_until_stalled(&self, next: impl FnMut(u64) -> Vec<u8>) -> u64 {
        self.wire.send_until_stalled(QUIET, next).unwrap_or_else(|failure| panic!("cannot send: {failure}"))
    }

    /// Ends our side.
    pub(crate) fn finish_sending(&self) {
        self.wire.socket().shutdown(Shutdown::Write);
    }

    /// Makes the end of the script reset the connection instead of closing it.
    pub(crate) fn reset_on_close(&self) {
        self.wire.socket().reset_on_close();
    }

    /// Pushes back after few bytes.
    pub(crate) fn shrink_receive_buffer(&self) {
        self.wire.socket().shrink_receive_buffer();
    }
}

/// A plain 200 with this body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
