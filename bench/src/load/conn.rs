//! One client: its connection, and the exchange that it is in.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::check::{Check, HeadRule, Progress, Wrong};
use super::tally::Failure;
use super::{Plan, Work};
use crate::content;

/// Longest payload of a WebSocket frame with a 16-bit length.
const MAX_FRAME: usize = 65_535;

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has no connection, and wants none yet.
    Off,
    /// The connection is being established.
    Connecting,
    /// Between two exchanges.
    Idle,
    /// In an exchange.
    Busy,
    /// The response is complete and the connection has to end now.
    Ending,
}

/// What a step of a client has led to.
#[derive(Debug)]
pub(super) enum Step {
    /// It waits for the other side.
    Wait,
    /// It may go on at the next turn of its throttle.
    Throttled,
    /// The exchange is done; the connection is kept or not.
    Done {
        /// The connection can be used again.
        keep: bool,
        /// The other side said that it will close.
        told: bool,
    },
    /// The other side closed between two exchanges.
    ClosedIdle,
    /// The exchange or the connection has failed.
    Failed(Wrong),
}

/// A client.
#[derive(Debug)]
pub(super) struct Conn {
    /// Which plan it belongs to.
    pub(super) plan: usize,
    pub(super) state: State,
    socket: Option<Socket>,
    number: u64,
    sequence: u64,
    /// A WebSocket connection has shaken hands.
    upgraded: bool,
    out: Arc<[u8]>,
    sent: usize,
    expected: Arc<[u8]>,
    check: Check,
    /// When the exchange began on this connection.
    pub(super) started: Instant,
    /// When the client began to wish for it, failed attempts included.
    pub(super) wanted: Instant,
    /// When something is to be done even if nothing happens.
    pub(super) due: Option<Instant>,
    /// Its first exchange is over.
    pub(super) served: bool,
}

impl Conn {
    pub(super) fn new(plan: usize, number: u64, now: Instant) -> Self {
        Self {
            plan,
            state: State::Off,
            socket: None,
            number,
            sequence: number,
            upgraded: false,
            out: Arc::from([]),
            sent: 0,
            expected: Arc::from([]),
            check: Check::default(),
            started: now,
            wanted: now,
            due: None,
            served: false,
        }
    }

    /// Begins to connect.
    pub(super) fn connect(&mut self, address: SocketAddr) -> io::Result<BorrowedFd<'_>> {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.state = State::Connecting;
        self.upgraded = false;
        let socket: &Socket = self.socket.insert(socket);
        Ok(socket.as_fd())
    }

    /// Gives the connection up. With unread bytes in it, the other side sees a reset.
    pub(super) fn close(&mut self) {
        self.socket = None;
        self.state = State::Off;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Looks whether the connection stands.
    pub(super) fn connected(&mut self) -> Result<bool, Wrong> {
        let Some(socket) = &self.socket else { return Ok(false) };
        match socket.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(failure_of(&error)),
        }
        if socket.peer_addr().is_err() {
            return Ok(false);
        }
        self.state = State::Idle;
        Ok(true)
    }

    /// Begins an exchange; [`Conn::advance`] moves it.
    pub(super) fn begin(&mut self, plan: &Plan, now: Instant) {
        self.started = now;
        self.state = State::Busy;
        self.sent = 0;
        let mut rule = None;
        match &plan.work {
            Work::Http { requests, response, .. } => {
                let turn = usize::try_from(self.sequence).unwrap_or(0) % requests.len();
                self.out = Arc::clone(&requests[turn]);
                self.expected = Arc::clone(response);
                rule = Some(HeadRule { status: 200, length: Some(response.len()) });
            }
            Work::Echo { bytes } => {
                self.out = self.message(*bytes);
                self.expected = Arc::clone(&self.out);
            }
            Work::WebSocket { .. } if !self.upgraded => {
                self.out = handshake().into();
                self.expected = Arc::from([]);
                rule = Some(HeadRule { status: 101, length: None });
            }
            Work::WebSocket { bytes } => {
                let message = self.message((*bytes).min(MAX_FRAME));
                self.out = frame(&message, Some([0x17, 0x2a, 0x03, 0xf1])).into();
                self.expected = frame(&message, None).into();
            }
        }
        self.sequence += 1;
        self.check.begin(rule);
    }

    /// Sends what can be sent.
    pub(super) fn send(&mut self, plan: &Plan) -> Step {
        let Some(mut socket) = self.socket.as_ref() else { return Step::Wait };
        let mut budget = plan.throttle.map_or(usize::MAX, |throttle| throttle.bytes);
        while self.sent < self.out.len() && self.state == State::Busy {
            if budget == 0 {
                return Step::Throttled;
            }
            let end = self.out.len().min(self.sent.saturating_add(budget));
            match socket.write(&self.out[self.sent..end]) {
                Ok(count) => {
                    self.sent += count;
                    budget -= count.min(budget);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The response, if there is one, tells more than a broken pipe.
                Err(_) => break,
            }
        }
        Step::Wait
    }

    /// Takes what has come, to the last byte if `ended`: then no further notice would come.
    pub(super) fn receive(&mut self, plan: &Plan, scratch: &mut [u8], ended: bool) -> Step {
        let throttled = plan.throttle.map(|throttle| throttle.bytes);
        let room = throttled.map_or(scratch.len(), |bytes| bytes.min(scratch.len()));
        loop {
            let Some(mut socket) = self.socket.as_ref() else { return Step::Wait };
            let count = match socket.read(&mut scratch[..room]) {
                Ok(0) => return self.ended(plan),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if self.state == State::Idle => {
                    return if is_http(plan) { Step::ClosedIdle } else { Step::Failed(failure_of(&error)) };
                }
                Err(error) => return Step::Failed(self.describe(&failure_of(&error))),
            };
            if self.state != State::Busy {
                let text = scratch[..count.min(60)].escape_ascii().to_string();
                return Step::Failed((Failure::Extra, text));
            }
            match self.check.feed(&scratch[..count], &self.expected) {
                Err(wrong) => return Step::Failed(wrong),
                Ok(Progress::More) => {}
                Ok(Progress::Done { close }) => match self.complete(plan, close) {
                    Step::Wait => {}
                    step => return step,
                },
            }
            if throttled.is_some() && count == room {
                return Step::Throttled;
            }
            // A short read has emptied the socket; an end would be told by an event of its own.
            if count < room && !ended && self.state == State::Busy {
                return Step::Wait;
            }
        }
    }

    fn complete(&mut self, plan: &Plan, close: bool) -> Step {
        if self.sent < self.out.len() {
            return Step::Failed((Failure::Other, "the response came before the end of the request".into()));
        }
        match &plan.work {
            Work::Http { close: true, .. } => {
                self.state = State::Ending;
                Step::Wait
            }
            Work::WebSocket { .. } if !self.upgraded => {
                self.upgraded = true;
                self.state = State::Idle;
                Step::Done { keep: true, told: false }
            }
            _ => {
                self.state = State::Idle;
                Step::Done { keep: !close, told: close }
            }
        }
    }

    fn ended(&self, plan: &Plan) -> Step {
        match self.state {
            State::Ending => Step::Done { keep: false, told: false },
            State::Idle if is_http(plan) => Step::ClosedIdle,
            _ => Step::Failed(self.describe(&(Failure::Closed, String::new()))),
        }
    }

    fn describe(&self, wrong: &Wrong) -> Wrong {
        let place = match self.state {
            State::Busy if self.check.is_untouched() && self.sent == self.out.len() => "before the response",
            State::Busy if self.check.is_untouched() => "during the request",
            State::Busy => "during the response",
            State::Ending => "behind the response",
            _ => "between two exchanges",
        };
        let detail = if wrong.1.is_empty() { place.into() } else { format!("{place}, {}", wrong.1) };
        (wrong.0, detail)
    }

    /// Content that no other message has.
    fn message(&self, bytes: usize) -> Arc<[u8]> {
        let mut message = Vec::with_capacity(bytes);
        content::fill(&mut message, bytes, self.number << 32 | self.sequence);
        message.into()
    }
}

fn is_http(plan: &Plan) -> bool {
    matches!(plan.work, Work::Http { .. })
}

/// What an error of the socket means.
pub(crate) fn failure_of(error: &io::Error) -> Wrong {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => (Failure::Refused, String::new()),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => (Failure::Reset, String::new()),
        io::ErrorKind::TimedOut => (Failure::TimedOut, error.to_string()),
        _ => (Failure::Other, error.to_string()),
    }
}

fn handshake() -> Vec<u8> {
    format!(
        "GET /websocket HTTP/1.1\r\nHost: bench.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
        content::WEBSOCKET_KEY
    )
    .into_bytes()
}

/// A binary message in one frame, masked as clients must. RFC 6455 section 5.2.
pub(crate) fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x82];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(masked | length),
        _ => {
            frame.push(masked | 126);
            frame.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    match mask {
        Some(mask) => {
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
        None => frame.extend(payload),
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_standard() {
        // RFC 6455 section 5.7, with the opcode of binary instead of text.
        assert_eq!(frame(b"Hello", None), b"\x82\x05Hello");
        let masked = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(frame(b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])), masked);
        assert_eq!(frame(&[0; 256], None)[..4], *b"\x82\x7e\x01\x00");
    }
}
