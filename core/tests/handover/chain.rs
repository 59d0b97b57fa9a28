//! An instance whose processes follow each other, and peers of its connections that are driven step by step.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::socket::Shutdown;

use crate::instance::{Instance, Process};
use crate::support::pattern::{self, Checker};
use crate::support::wire::{Socket, Wire};
use crate::support::{Config, DEADLINE, Failure, QUIET, eventually, free_address};

/// How long the old process may live after the commit.
const EXIT_LIMIT: Duration = Duration::from_secs(1);

/// Options of instances that have no other.
pub(crate) const OPTIONS: &str = "--concurrency 1 --drain-time-s 60 --parent-shutdown-time-s 60";

/// An instance and its newest process.
pub(crate) struct Chain {
    pub(crate) instance: Instance,
    pub(crate) newest: Process,
    pub(crate) address: SocketAddr,
}

impl Chain {
    /// Starts an instance whose listener `web` is at an address of its own.
    #[track_caller]
    pub(crate) fn http(config: Config) -> Self {
        Self::start(&config, OPTIONS, Config::http)
    }

    /// The same with a TCP listener.
    #[track_caller]
    pub(crate) fn tcp(config: Config) -> Self {
        Self::start(&config, OPTIONS, Config::tcp)
    }

    #[track_caller]
    pub(crate) fn start(config: &Config, options: &str, text: impl Fn(&Config) -> String) -> Self {
        let address = free_address();
        let text = text(&config.clone().listener(&format!("address = \"{address}\"")));
        let instance = Instance::new(&text).options(&moving(options));
        let newest = instance.start("0");
        Self { instance, newest, address }
    }

    /// Replaces the process by a new one, which must have all connections within a second.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let old = self.restart_keeping_old("");
        let committed = Instant::now();
        old.expect_exit(0, "stopped");
        assert!(committed.elapsed() < EXIT_LIMIT, "the old process went on for {:?}", committed.elapsed());
        assert!(!old.log().contains("stays here"), "not everything was taken:\n{}", old.log());
        assert_eq!(self.instance.live(), [self.newest.pid()]);
    }

    #[track_caller]
    pub(crate) fn restarts(&mut self, count: usize) {
        (0..count).for_each(|_| self.restart());
    }

    /// Starts a successor and waits until it serves; the process before, which may go on.
    #[track_caller]
    pub(crate) fn restart_keeping_old(&mut self, options: &str) -> Process {
        let next = self.instance.spawn("auto", options);
        next.wait_log("ready pid=");
        std::mem::replace(&mut self.newest, next)
    }

    /// A relay that has carried a byte each way.
    #[track_caller]
    pub(crate) fn pair(&self, origin: &Origin) -> (End, End) {
        let mut client = self.client();
        client.send("a");
        let mut far = origin.accept();
        far.expect("a");
        far.send("b");
        client.expect("b");
        (client, far)
    }

    #[track_caller]
    pub(crate) fn client(&self) -> End {
        End::new(TcpStream::connect_timeout(&self.address, DEADLINE).unwrap())
    }
}

/// A time-out of two seconds, in the course of which processes follow each other.
pub(crate) struct TwoSeconds(Instant);

impl TwoSeconds {
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Replaces processes until so many milliseconds have passed, once at least.
    #[track_caller]
    pub(crate) fn restart_for(&self, ms: u128, chain: &mut Chain) {
        chain.restart();
        while self.0.elapsed().as_millis() < ms {
            chain.restart();
        }
        assert!(self.0.elapsed().as_millis() < 2000, "this machine is too slow for this test");
    }

    /// It has fired just now: it has not begun anew in any of the processes.
    #[track_caller]
    pub(crate) fn expect_over(&self) {
        let after = self.0.elapsed().as_millis();
        assert!((1900..2700).contains(&after), "after {after} ms");
    }
}

/// An origin whose connections are driven by the test itself.
pub(crate) struct Origin(TcpListener);

impl Origin {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// One that listens already.
    pub(crate) fn on(listener: TcpListener) -> Self {
        Self(listener)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    #[track_caller]
    pub(crate) fn accept(&self) -> End {
        let mut accepted = None;
        self.0.set_nonblocking(true).unwrap();
        eventually("the proxy connects", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        End::new(stream)
    }

    /// Whether nobody has connected (again).
    pub(crate) fn assert_nobody(&self) {
        self.0.set_nonblocking(true).unwrap();
        assert!(self.0.accept().is_err(), "the proxy has connected once more");
    }
}

/// A peer of a connection.
pub(crate) struct End {
    pub(crate) wire: Wire,
    local: SocketAddr,
    remote: SocketAddr,
}

impl End {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        Self { wire: Wire::new(Socket::new(stream)), local, remote }
    }

    /// Its own address.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes.as_ref()).unwrap_or_else(|failure| panic!("cannot send: {failure}"));
    }

    /// Sends, and returns when the proxy has taken it out of its socket.
    #[track_caller]
    pub(crate) fn send_taken(&self, bytes: impl AsRef<[u8]>) {
        self.send(bytes);
        self.wait_taken();
    }

    /// Waits until the proxy has taken everything out of the kernel.
    #[track_caller]
    pub(crate) fn wait_taken(&self) {
        eventually("the proxy reads", || {
            queues(self.local, self.remote).is_none_or(|(unsent, _)| unsent == 0)
                && queues(self.remote, self.local).is_none_or(|(_, unread)| unread == 0)
        });
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        match self.wire.read_exact(bytes.as_ref().len()) {
            Ok(got) => {
                assert_eq!(got.escape_ascii().to_string(), bytes.as_ref().escape_ascii().to_string());
            }
            Err(failure) => panic!(
                "\"{}\" expected: {failure}; {}",
                bytes.as_ref().escape_ascii(),
                self.wire.received_text()
            ),
        }
    }

    /// Reads up to and with the end of a head; the head.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.wire.read_exact(1) {
                Ok(byte) => head.extend(byte),
                Err(failure) => panic!("no head: {failure}; {}", self.wire.received_text()),
            }
        }
        String::from_utf8(head).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        match self.wire.read_some().map(<[u8]>::to_vec) {
            Err(Failure::Eof) => {}
            other => panic!("the end expected, not {other:?}; {}", self.wire.received_text()),
        }
    }

    #[track_caller]
    pub(crate) fn expect_reset(&mut self) {
        match self.wire.read_to_end(&mut |_| {}) {
            Err(Failure::Reset) => {}
            other => panic!("a reset expected, not {other:?}; {}", self.wire.received_text()),
        }
    }

    #[track_caller]
    pub(crate) fn expect_gone(&mut self) {
        match self.wire.read_to_end(&mut |_| {}) {
            Err(Failure::Reset) | Ok(()) => {}
            Err(other) => panic!("the end expected, not {other}; {}", self.wire.received_text()),
        }
    }

    #[track_caller]
    pub(crate) fn expect_quiet(&mut self) {
        match self.wire.read_some_within(QUIET).map(<[u8]>::to_vec) {
            Err(Failure::TimedOut) => {}
            other => panic!("nothing expected, not {other:?}; {}", self.wire.received_text()),
        }
    }

    pub(crate) fn finish(&self) {
        self.wire.socket().shutdown(Shutdown::Write);
    }

    pub(crate) fn reset(self) {
        self.wire.socket().reset_on_close();
    }

    pub(crate) fn shrink(&self) {
        self.wire.socket().shrink_receive_buffer();
    }

    /// Sends the pattern until all buffers on the way are full; how much went.
    #[track_caller]
    pub(crate) fn stuff(&self) -> u64 {
        self.wire.send_until_stalled(QUIET, |offset| pattern::piece(offset, u64::MAX)).unwrap()
    }

    /// Reads so many bytes of the pattern.
    #[track_caller]
    pub(crate) fn expect_pattern(&mut self, checker: &mut Checker, count: u64) {
        let mut left = count;
        while left > 0 {
            let piece = self.wire.read_exact(left.min(64 * 1024) as usize);
            let piece = piece.unwrap_or_else(|failure| {
                panic!("{left} of {count} bytes of the pattern missing: {failure}")
            });
            checker.take(&piece);
            left -= piece.len() as u64;
        }
    }
}

/// Bytes that the socket between these addresses has not sent (or had acknowledged), and those that nobody has read.
fn queues(local: SocketAddr, remote: SocketAddr) -> Option<(u64, u64)> {
    let hex = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
        format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
    };
    let wanted = format!(" {} {} ", hex(local), hex(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&wanted))?;
    let (unsent, unread) = line.split_whitespace().nth(4)?.split_once(':')?;
    Some((u64::from_str_radix(unsent, 16).ok()?, u64::from_str_radix(unread, 16).ok()?))
}

/// Runs a check with one restart, and with five in a row.
#[track_caller]
pub(crate) fn once_and_often(check: impl Fn(usize)) {
    check(1);
    check(5);
}

/// These options, and that connections move unless they say otherwise.
pub(crate) fn moving(options: &str) -> String {
    if options.contains("--handover") { options.to_owned() } else { format!("{options} --handover live") }
}
