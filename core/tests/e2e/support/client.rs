//! A client that sends exact bytes.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::Shutdown;

use super::wire::{Socket, Wire};
use super::{DEADLINE, Failure, Message, QUIET};

/// One connection.
pub(crate) struct Client {
    wire: Wire,
}

impl Client {
    /// Bytes received so far, as they came.
    pub(crate) fn received_bytes(&self) -> u64 {
        super::lock(self.wire.record()).count
    }

    /// Connects; `None` if the connection was reset at once.
    #[track_caller]
    pub(crate) fn connect_unless_reset(address: SocketAddr) -> Option<Self> {
        match TcpStream::connect_timeout(&address, DEADLINE) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("cannot connect to {address}: {error}"),
            Ok(stream) => Some(Self { wire: Wire::new(Socket::new(stream)) }),
        }
    }

    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Self { wire: Wire::new(Socket::new(stream)) }
    }

    #[track_caller]
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path)
            .unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display()));
        Self { wire: Wire::new(Socket::new(stream)) }
    }

    /// A connection that pushes back after few bytes.
    #[track_caller]
    pub(crate) fn connect_slow_reader(address: SocketAddr) -> Self {
        let client = Self::connect(address);
        client.wire.socket().shrink_receive_buffer();
        client
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

    /// Sends a request without anything unusual and reads the final response.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Message {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test.example\r\n\r\n"));
        self.response()
    }

    /// Reads the next response, be it interim or final, to a request that was not HEAD.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// Reads the next response to a request of this method.
    #[track_caller]
    pub(crate) fn response_to(&mut self, method: &str) -> Message {
        let mut head = self.response_head(method);
        if let Err(failure) = self.wire.read_body_into(&mut head) {
            panic!("the body of {head:?} is not complete: {failure}; {}", self.wire.received_text());
        }
        head
    }

    /// Reads the head of the next response only.
    #[track_caller]
    pub(crate) fn response_head(&mut self, method: &str) -> Message {
        match self.wire.read_response_head(method) {
            Ok(Some(head)) => head,
            Ok(None) => panic!("end of the connection instead of a response; {}", self.wire.received_text()),
            Err(failure) => panic!("no response: {failure}; {}", self.wire.received_text()),
        }
    }

    /// Reads the rest of a message whose head has been read.
    pub(crate) fn read_body(&mut self, head: &mut Message) -> Result<(), Failure> {
        self.wire.read_body_into(head)
    }

    /// Reads the rest of a message whose head has been read into `sink`.
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

    /// Reads everything up to the end of the connection.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        if let Err(failure) = self.wire.read_to_end(&mut |bytes| all.extend_from_slice(bytes)) {
            panic!("no clean end of the connection: {failure}; {}", self.wire.received_text());
        }
        all
    }

    /// Reads to the end of the connection into `sink`.
    #[track_caller]
    pub(crate) fn drain_to_end(&mut self, sink: &mut dyn FnMut(&[u8])) {
        if let Err(failure) = self.wire.read_to_end(sink) {
            panic!("no clean end of the connection: {failure}");
        }
    }

    /// Expects that the peer ends its side without another byte and without a reset.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        match self.wire.read_some().map(<[u8]>::to_vec) {
            Err(Failure::Eof) => {}
            Err(failure) => {
                panic!("the end of the connection expected: {failure}; {}", self.wire.received_text());
            }
            Ok(bytes) => {
                let more = bytes.escape_ascii();
                panic!("the end of the connection expected, not \"{more}\"; {}", self.wire.received_text());
            }
        }
    }

    /// Expects a reset, after any number of bytes.
    #[track_caller]
    pub(crate) fn expect_reset(&mut self) {
        match self.wire.read_to_end(&mut |_| {}) {
            Err(Failure::Reset) => {}
            Err(failure) => panic!("a reset expected: {failure}; {}", self.wire.received_text()),
            Ok(()) => panic!("a reset expected, not a clean end; {}", self.wire.received_text()),
        }
    }

    /// Expects that the connection is gone, one way or the other, without another byte.
    #[track_caller]
    pub(crate) fn expect_gone(&mut self) {
        match self.wire.read_some().map(<[u8]>::to_vec) {
            Err(Failure::Eof | Failure::Reset) => {}
            Err(failure) => panic!("the end of the connection expected: {failure}"),
            Ok(bytes) => panic!("the end of the connection expected, not \"{}\"", bytes.escape_ascii()),
        }
    }

    /// Shows that nothing arrives and nothing ends for a while.
    #[track_caller]
    pub(crate) fn expect_quiet(&mut self) {
        match self.poll(QUIET) {
            Err(Failure::TimedOut) => {}
            Ok(bytes) => panic!("nothing expected, not \"{}\"", bytes.escape_ascii()),
            Err(failure) => panic!("nothing expected: {failure}"),
        }
    }

    /// What arrives within `time`.
    pub(crate) fn poll(&mut self, time: Duration) -> Result<Vec<u8>, Failure> {
        self.wire.read_some_within(time).map(<[u8]>::to_vec)
    }

    /// Ends our side.
    pub(crate) fn finish_sending(&self) {
        self.wire.socket().shutdown(Shutdown::Write);
    }

    /// The sending side, for a thread of its own.
    pub(crate) fn sender(&self) -> Sender {
        Sender { socket: Arc::clone(self.wire.socket()) }
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.wire.socket().reset_on_close();
    }
}

/// The sending side of a [`Client`].
pub(crate) struct Sender {
    socket: Arc<Socket>,
}

impl Sender {
    #[track_caller]
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.socket.send_all(bytes).unwrap_or_else(|failure| panic!("cannot send: {failure}"));
    }

    pub(crate) fn finish_sending(&self) {
        self.socket.shutdown(Shutdown::Write);
    }
}
