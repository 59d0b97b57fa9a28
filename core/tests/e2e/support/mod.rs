//! The harness: a proxy process, scripted origins and raw clients, all on real sockets of the loopback interface.
//!
//! Nothing here sleeps to let something happen. Every wait is for an event and has [`DEADLINE`]; what is missing when
//! it passes is said together with everything that did arrive. Where a test must show that something does *not*
//! happen, it looks for it during [`QUIET`].

pub(crate) mod cases;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod origin;
pub(crate) mod pattern;
pub(crate) mod proxy;
pub(crate) mod stats;
pub(crate) mod wire;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};

pub(crate) use cases::cases;
pub(crate) use client::Client;
pub(crate) use config::Config;
pub(crate) use origin::{Conn, Origin};
pub(crate) use proxy::{BaseId, Exit, Proxy};
pub(crate) use stats::Stats;
pub(crate) use wire::{Failure, Framing, Message};

/// How long anything may take that has to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How long a test looks for something that must not happen.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// A one-way latch between a test and the threads of its origin.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// Lets everybody pass, now and later.
    pub(crate) fn open(&self) {
        *lock(&self.state.0) = true;
        self.state.1.notify_all();
    }

    /// Waits until the gate is open.
    #[track_caller]
    pub(crate) fn wait(&self) {
        assert!(self.opens_within(DEADLINE), "the gate was not opened within {DEADLINE:?}");
    }

    /// Whether the gate is open, or opens within `time`.
    pub(crate) fn opens_within(&self, time: Duration) -> bool {
        let open = lock(&self.state.0);
        *self.state.1.wait_timeout_while(open, time, |open| !*open).unwrap().0
    }
}

/// Locks whatever has happened to the mutex: a failed assertion must not hide behind a poisoned lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again until `condition` holds: for what has no event to wait for, such as the content of a file.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what}: not so within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A directory of its own for a test, removed with everything in it on drop.
pub(crate) struct TempDir {
    path: PathBuf,
}

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ouro-e2e-{}-{number}", std::process::id()));
        std::fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A leftover directory is a nuisance, not a failure.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// An address that refuses connections as long as the guard lives: the port is bound and nobody listens.
pub(crate) struct RefusingPort {
    address: SocketAddr,
    _socket: OwnedFd,
}

impl RefusingPort {
    pub(crate) fn new() -> Self {
        let socket = bound_socket();
        Self { address: local_address(&socket), _socket: socket }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }
}

/// An address where connecting neither succeeds nor fails: the accept queue is full and stays so.
pub(crate) struct SilentPort {
    address: SocketAddr,
    listener: OwnedFd,
    fillers: Vec<OwnedFd>,
}

impl SilentPort {
    pub(crate) fn new() -> Self {
        let listener = bound_socket();
        nix::sys::socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = local_address(&listener);
        // The queue takes a connection or two in spite of its length of 0. Attempts beyond that stay in SYN-SENT; it
        // is full as soon as one does.
        let mut fillers = Vec::new();
        for _ in 0..16 {
            let filler = std::net::TcpStream::connect_timeout(&address, QUIET);
            match filler {
                Ok(stream) => fillers.push(OwnedFd::from(stream)),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    return Self { address, listener, fillers };
                }
                Err(error) => panic!("cannot fill the accept queue of {address}: {error}"),
            }
        }
        panic!("the accept queue of {address} does not fill up");
    }

    /// Makes room: whoever tries to connect succeeds when the kernel tries the next time, a second after the first.
    #[allow(dead_code)] // not every program of tests needs it
    pub(crate) fn into_listener(self) -> TcpListener {
        let listener = TcpListener::from(self.listener);
        for _ in self.fillers {
            drop(listener.accept().unwrap());
        }
        listener
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }
}

/// A free address, for tests that must know it beforehand: on a loopback address that nobody else uses, because a port of
/// 127.0.0.1 that is free now may be that of an outgoing connection when it is to be bound.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() << 8 | (NEXT.fetch_add(1, Ordering::Relaxed) & 0xff);
    let [_, a, b, c] = number.to_be_bytes();
    // Neither 127.0.0.0/16, where everybody else is, nor the broadcast addresses at the ends.
    let host = std::net::Ipv4Addr::new(127, a % 254 + 1, b, c);
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

fn bound_socket() -> OwnedFd {
    let socket =
        nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .unwrap();
    let any_port = SockaddrIn::new(127, 0, 0, 1, 0);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &any_port).unwrap();
    socket
}

fn local_address(socket: &OwnedFd) -> SocketAddr {
    let name: SockaddrIn = nix::sys::socket::getsockname(std::os::fd::AsRawFd::as_raw_fd(socket)).unwrap();
    SocketAddr::from((name.ip(), name.port()))
}
