//! One end of a connection, and a strict little HTTP/1 parser for what comes out of it.
//!
//! The parser is meant to be stricter than the proxy: what it refuses, the proxy should not have sent.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{DEADLINE, lock};

/// Bytes recorded per connection; what comes after is only counted.
const RECORD_BYTES: usize = 1024 * 1024;

/// Bytes of a body that are kept in a [`Message`].
const MAX_BODY: usize = 256 * 1024 * 1024;

/// A connected stream socket, TCP or Unix.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn new(fd: impl Into<OwnedFd>) -> Self {
        let socket = Self(fd.into());
        // Fails on Unix sockets, which do not delay anything.
        let _ = nix::sys::socket::setsockopt(&socket.0, sockopt::TcpNoDelay, &true);
        socket.set_timeouts(DEADLINE);
        socket
    }

    fn set_timeouts(&self, time: Duration) {
        let time = TimeVal::microseconds(time.as_micros().max(1) as i64);
        nix::sys::socket::setsockopt(&self.0, sockopt::ReceiveTimeout, &time).unwrap();
        nix::sys::socket::setsockopt(&self.0, sockopt::SendTimeout, &time).unwrap();
    }

    /// Makes the next close a reset.
    pub(crate) fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.0, sockopt::Linger, &linger).unwrap();
    }

    /// Makes the kernel hold back little, so that back-pressure is felt soon. Much less, and a window smaller than
    /// two segments of the loopback interface would make what follows slow.
    pub(crate) fn shrink_receive_buffer(&self) {
        nix::sys::socket::setsockopt(&self.0, sockopt::RcvBuf, &(256 * 1024)).unwrap();
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        // Fails where the peer has reset the connection, which is as good.
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), how);
    }

    /// Whether bytes have arrived that nobody has read.
    pub(crate) fn has_unread_bytes(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(nix::sys::socket::recv(self.0.as_raw_fd(), &mut [0], flags), Ok(1..))
    }

    fn recv(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, Failure> {
        loop {
            match nix::sys::socket::recv(self.0.as_raw_fd(), buffer, flags) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::from(errno)),
            }
        }
    }

    /// Sends everything.
    pub(crate) fn send_all(&self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let count = self.send(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Failure> {
        loop {
            match nix::sys::socket::send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::from(errno)),
            }
        }
    }
}

/// Why something could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The peer ended its side, or we cannot send any more.
    Eof,
    /// The peer reset the connection.
    Reset,
    /// Nothing came, or could be sent, in time.
    TimedOut,
    /// What came is not HTTP/1 as it should be.
    Malformed(String),
    /// Another error of the socket.
    Socket(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ECONNRESET => Self::Reset,
            Errno::EPIPE => Self::Eof,
            Errno::EAGAIN => Self::TimedOut,
            other => Self::Socket(other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => write!(f, "the peer closed the connection"),
            Self::Reset => write!(f, "the peer reset the connection"),
            Self::TimedOut => write!(f, "nothing happened in time"),
            Self::Malformed(why) => write!(f, "malformed: {why}"),
            Self::Socket(errno) => write!(f, "socket error: {errno}"),
        }
    }
}

/// How the length of a body was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// `Content-Length`.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

/// A request or a response.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Request or status line without its end.
    pub(crate) start_line: String,
    /// Names and values in order, names as received.
    pub(crate) fields: Vec<(String, String)>,
    /// How the body was framed.
    pub(crate) framing: Framing,
    /// The body, unless it was read on its own.
    pub(crate) body: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Message {
    /// Status code of a response.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        let code = self.start_line.split(' ').nth(1).unwrap_or_default();
        code.parse().unwrap_or_else(|_| panic!("not a status line: {:?}", self.start_line))
    }

    /// Method of a request.
    pub(crate) fn method(&self) -> &str {
        self.start_line.split(' ').next().unwrap_or_default()
    }

    /// Target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start_line.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let of_name = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that must not occur twice.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} occurs {} times in {self:?}", values.len());
        values.first().copied()
    }

    /// The value of a field that must be there once.
    #[track_caller]
    pub(crate) fn expect_value(&self, name: &str) -> &str {
        self.value(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn assert_absent(&self, name: &str) {
        assert!(self.values(name).is_empty(), "{name} should not be in {self:?}");
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether `Connection` says that this is the last message.
    pub(crate) fn says_close(&self) -> bool {
        self.has_connection_option("close")
    }

    /// Whether `Connection` has this option.
    pub(crate) fn has_connection_option(&self, option: &str) -> bool {
        let values = self.values("connection");
        values.iter().any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(option)))
    }
}

/// What was received on a connection, for whoever wants to look at it afterwards.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The first [`RECORD_BYTES`] bytes.
    pub(crate) bytes: Vec<u8>,
    /// All of them.
    pub(crate) count: u64,
}

/// One end of a connection with a buffer in front of it.
pub(crate) struct Wire {
    socket: Arc<Socket>,
    pending: Vec<u8>,
    start: usize,
    record: Arc<Mutex<Record>>,
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket: Arc::new(socket), pending: Vec::new(), start: 0, record: Arc::default() }
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(crate) fn record(&self) -> &Arc<Mutex<Record>> {
        &self.record
    }

    /// Everything received so far, for messages of failures.
    pub(crate) fn received_text(&self) -> String {
        let record = lock(&self.record);
        let shown = &record.bytes[..record.bytes.len().min(2000)];
        format!("received so far ({} bytes): \"{}\"", record.count, shown.escape_ascii())
    }

    /// Sends everything.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.socket.send_all(bytes)
    }

    /// Sends until the peer takes nothing for `quiet`; returns how much it took.
    pub(crate) fn send_until_stalled(
        &self,
        quiet: Duration,
        mut next: impl FnMut(u64) -> Vec<u8>,
    ) -> Result<u64, Failure> {
        self.socket.set_timeouts(quiet);
        let mut total = 0;
        let result = loop {
            match self.socket.send(&next(total)) {
                Ok(count) => total += count as u64,
                Err(Failure::TimedOut) => break Ok(total),
                Err(other) => break Err(other),
            }
        };
        self.socket.set_timeouts(DEADLINE);
        result
    }

    /// Reads what is there, at least a byte; `Eof` if there will not be any.
    pub(crate) fn read_some(&mut self) -> Result<&[u8], Failure> {
        if self.start == self.pending.len() {
            self.fill()?;
        }
        let from = std::mem::replace(&mut self.start, self.pending.len());
        Ok(&self.pending[from..])
    }

    /// Reads one more byte or more within `time`; `TimedOut` if nothing comes.
    pub(crate) fn read_some_within(&mut self, time: Duration) -> Result<&[u8], Failure> {
        self.socket.set_timeouts(time);
        if self.start == self.pending.len() {
            let filled = self.fill();
            self.socket.set_timeouts(DEADLINE);
            filled?;
        } else {
            self.socket.set_timeouts(DEADLINE);
        }
        self.read_some()
    }

    /// Reads exactly `count` bytes.
    pub(crate) fn read_exact(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            if self.start == self.pending.len() {
                self.fill()?;
            }
            let take = (count - bytes.len()).min(self.pending.len() - self.start);
            bytes.extend_from_slice(&self.pending[self.start..self.start + take]);
            self.start += take;
        }
        Ok(bytes)
    }

    /// Reads to the end of what the peer sends.
    pub(crate) fn read_to_end(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        loop {
            match self.read_some() {
                Ok(bytes) => sink(bytes),
                Err(Failure::Eof) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    /// Reads a request head. `None` if the peer ends the connection before the first byte of one.
    pub(crate) fn read_request_head(&mut self) -> Result<Option<Message>, Failure> {
        let Some((start_line, fields)) = self.read_head()? else { return Ok(None) };
        let parts: Vec<&str> = start_line.split(' ').collect();
        let good = parts.len() == 3
            && parts[0].bytes().all(is_token_byte)
            && !parts[0].is_empty()
            && !parts[1].is_empty()
            && parts[1].bytes().all(|byte| byte.is_ascii_graphic())
            && matches!(parts[2], "HTTP/1.1" | "HTTP/1.0");
        if !good {
            return Err(Failure::Malformed(format!("request line {start_line:?}")));
        }
        let framing = framing_of(&fields)?.unwrap_or(Framing::None);
        if parts[2] == "HTTP/1.1" && fields.iter().filter(|(name, _)| is(name, "host")).count() != 1 {
            return Err(Failure::Malformed(format!("not exactly one Host in {fields:?}")));
        }
        Ok(Some(Message { start_line, fields, framing, body: Vec::new(), trailers: Vec::new() }))
    }

    /// Reads a response head; `method` is that of the request. `None` as for requests.
    pub(crate) fn read_response_head(&mut self, method: &str) -> Result<Option<Message>, Failure> {
        let Some((start_line, fields)) = self.read_head()? else { return Ok(None) };
        let mut parts = start_line.splitn(3, ' ');
        let version = parts.next().unwrap_or_default();
        let status = parts.next().unwrap_or_default();
        let good = matches!(version, "HTTP/1.1" | "HTTP/1.0")
            && parts.next().is_some()
            && status.len() == 3
            && status.bytes().all(|byte| byte.is_ascii_digit());
        if !good {
            return Err(Failure::Malformed(format!("status line {start_line:?}")));
        }
        let declared = framing_of(&fields)?;
        let bodiless = method == "HEAD" || status.starts_with('1') || status == "204" || status == "304";
        let framing = if bodiless { Framing::None } else { declared.unwrap_or(Framing::UntilClose) };
        if declared.is_some() && (status.starts_with('1') || status == "204") {
            return Err(Failure::Malformed(format!("a {status} response with framing fields {fields:?}")));
        }
        Ok(Some(Message { start_line, fields, framing, body: Vec::new(), trailers: Vec::new() }))
    }

    /// Reads the body that belongs to a head into `sink`; returns the trailers.
    pub(crate) fn read_body(
        &mut self,
        framing: Framing,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Vec<(String, String)>, Failure> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.read_length(length, sink)?,
            Framing::UntilClose => self.read_to_end(sink)?,
            Framing::Chunked => return self.read_chunks(sink),
        }
        Ok(Vec::new())
    }

    /// Reads the body that belongs to a head into the message.
    pub(crate) fn read_body_into(&mut self, message: &mut Message) -> Result<(), Failure> {
        let mut body = Vec::new();
        let trailers = self.read_body(message.framing, &mut |bytes| {
            assert!(body.len() < MAX_BODY, "a body is longer than {MAX_BODY} bytes");
            body.extend_from_slice(bytes);
        });
        message.body = body;
        message.trailers = trailers?;
        Ok(())
    }

    fn read_length(&mut self, length: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        let mut left = length;
        while left > 0 {
            if self.start == self.pending.len() {
                self.fill()?;
            }
            let there = self.pending.len() - self.start;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            sink(&self.pending[self.start..self.start + take]);
            self.start += take;
            left -= take as u64;
        }
        Ok(())
    }

    fn read_chunks(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<Vec<(String, String)>, Failure> {
        loop {
            let line = self.read_line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size_is_hex =
                (1..=16).contains(&size.len()) && size.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !size_is_hex {
                return Err(Failure::Malformed(format!("chunk size line {line:?}")));
            }
            let size = u64::from_str_radix(size, 16).unwrap();
            if size == 0 {
                break;
            }
            self.read_length(size, sink)?;
            if !self.read_line()?.is_empty() {
                return Err(Failure::Malformed("no CRLF behind a chunk".to_owned()));
            }
        }
        let mut lines = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return parse_fields(&lines);
            }
            lines.push(line);
        }
    }

    /// Reads a start line and fields.
    #[allow(clippy::type_complexity)] // a pair of what a head consists of
    fn read_head(&mut self) -> Result<Option<(String, Vec<(String, String)>)>, Failure> {
        if self.start == self.pending.len() {
            match self.fill() {
                Ok(()) => {}
                Err(Failure::Eof) => return Ok(None),
                Err(other) => return Err(other),
            }
        }
        let start_line = self.read_line()?;
        let mut lines = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(Some((start_line, parse_fields(&lines)?)));
            }
            lines.push(line);
        }
    }

    /// Reads a line that ends with CRLF and has no other CR, LF or control character but TAB in it. Bytes above 127
    /// become the characters of the same number.
    fn read_line(&mut self) -> Result<String, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut looked_at = self.start;
        loop {
            if let Some(at) = self.pending[looked_at..].iter().position(|&byte| byte == b'\n') {
                let line = &self.pending[self.start..looked_at + at];
                let Some(line) = line.strip_suffix(b"\r") else {
                    return Err(Failure::Malformed(format!("a bare LF behind \"{}\"", line.escape_ascii())));
                };
                if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
                    return Err(Failure::Malformed(format!(
                        "control characters in \"{}\"",
                        line.escape_ascii()
                    )));
                }
                let text = line.iter().map(|&byte| char::from(byte)).collect();
                self.start = looked_at + at + 1;
                return Ok(text);
            }
            let offset = self.pending.len() - self.start;
            if Instant::now() > deadline {
                return Err(Failure::TimedOut);
            }
            self.fill()?;
            looked_at = self.start + offset;
        }
    }

    /// Receives more. Receiving and recording are one step for whoever holds the record's lock.
    fn fill(&mut self) -> Result<(), Failure> {
        if self.socket.recv(&mut [0], MsgFlags::MSG_PEEK)? == 0 {
            return Err(Failure::Eof);
        }
        if self.start > 0 {
            self.pending.drain(..self.start);
            self.start = 0;
        }
        let mut buffer = [0; 64 * 1024];
        let mut record = lock(&self.record);
        let count = self.socket.recv(&mut buffer, MsgFlags::empty())?;
        if count == 0 {
            return Err(Failure::Eof);
        }
        let room = RECORD_BYTES.saturating_sub(record.bytes.len());
        record.bytes.extend_from_slice(&buffer[..count.min(room)]);
        record.count += count as u64;
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}

fn is(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn parse_fields(lines: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let parse = |line: &String| {
        let (name, value) = line.split_once(':')?;
        let good = !name.is_empty() && name.bytes().all(is_token_byte);
        good.then(|| (name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
    };
    let fields = lines.iter().map(|line| {
        parse(line).ok_or_else(|| Failure::Malformed(format!("field line {line:?}"))) //
    });
    fields.collect()
}

/// Framing that the fields declare, if any.
fn framing_of(fields: &[(String, String)]) -> Result<Option<Framing>, Failure> {
    let of = |wanted: &'static str| fields.iter().filter(move |(name, _)| is(name, wanted)).map(|(_, v)| v);
    let lengths: Vec<_> = of("content-length").collect();
    let codings: Vec<_> = of("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(|length| Some(Framing::Length(length))).map_err(|_| {
                Failure::Malformed(format!("content-length {length:?}")) //
            })
        }
        ([], [coding]) if is(coding, "chunked") => Ok(Some(Framing::Chunked)),
        _ => Err(Failure::Malformed(format!("framing fields {fields:?}"))),
    }
}
