//! The origin that needs nothing else installed: bodies of any length, uploads that are checked, WebSocket and TCP echo.
//!
//! It runs as a process of its own (`ouro-bench origin`), so that its time and memory are nobody else's. It trusts that
//! requests are well-formed, because the proxies in front of it are, but checks each byte of an upload. To prove that
//! the load notices wrong answers, it can be told to give some.

mod http;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use self::http::Http;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Bytes received at once.
const SCRATCH_BYTES: usize = 128 * 1024;

/// Events taken at once.
const EVENTS: usize = 256;

/// The HTTP listener and the echo listener have these tokens; connections have greater ones.
const HTTP: u64 = 0;
const ECHO: u64 = 1;

/// How answers are made wrong, every [`WRONG_EVERY`]th of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wrong {
    /// Status 500.
    Status,
    /// A body that is one byte shorter, and says so.
    Length,
    /// One byte of the body is another.
    Content,
    /// The connection ends in the middle of the body.
    Closed,
}

/// Of so many answers one is wrong, when they are to be.
const WRONG_EVERY: u64 = 7;

/// Serves until it is killed.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn serve(http: u16, echo: u16, wrong: Option<Wrong>) -> Result<(), String> {
    Origin::new(http, echo, wrong).and_then(|mut origin| origin.run()).map_err(|error| error.to_string())
}

struct Origin {
    epoll: Epoll,
    http: TcpListener,
    echo: TcpListener,
    conns: HashMap<u64, Conn>,
    next: u64,
    scratch: Vec<u8>,
    pages: http::Pages,
}

struct Conn {
    socket: Socket,
    /// None for a plain echo.
    http: Option<Http>,
    out: Output,
}

/// What is still to be sent. While there is anything, nothing is received.
#[derive(Default)]
pub(super) struct Output {
    /// Heads and echoes, sent first.
    bytes: Vec<u8>,
    sent: usize,
    body: Option<(Arc<[u8]>, usize)>,
    /// Close once all is sent.
    pub(super) close: bool,
}

impl Output {
    /// Queues bytes that are copied.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Queues a body behind them; there is one at a time.
    pub(super) fn push_body(&mut self, body: Arc<[u8]>) {
        self.body = Some((body, 0));
    }

    /// Whether something is queued.
    pub(super) const fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && self.body.is_none()
    }

    fn flush(&mut self, mut socket: &Socket) -> io::Result<()> {
        /// A body up to this length goes out together with its head.
        const COPIED: usize = 4096;
        if let Some((body, 0)) = &self.body
            && body.len() <= COPIED
        {
            self.bytes.extend_from_slice(body);
            self.body = None;
        }
        while self.sent < self.bytes.len() {
            self.sent += socket.write(&self.bytes[self.sent..])?;
        }
        self.bytes.clear();
        self.sent = 0;
        if let Some((body, sent)) = &mut self.body {
            while *sent < body.len() {
                *sent += socket.write(&body[*sent..])?;
            }
            self.body = None;
        }
        Ok(())
    }
}

impl Origin {
    fn new(http: u16, echo: u16, wrong: Option<Wrong>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (http, echo) = (listen(http)?, listen(echo)?);
        epoll.add(&http, EpollEvent::new(EpollFlags::EPOLLIN, HTTP))?;
        epoll.add(&echo, EpollEvent::new(EpollFlags::EPOLLIN, ECHO))?;
        Ok(Self {
            epoll,
            http,
            echo,
            conns: HashMap::new(),
            next: ECHO + 1,
            scratch: vec![0; SCRATCH_BYTES],
            pages: http::Pages::new(wrong),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    token @ (HTTP | ECHO) => self.accept(token),
                    token => {
                        if !self.advance(token) {
                            self.conns.remove(&token);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self, token: u64) {
        let listener = if token == HTTP { &self.http } else { &self.echo };
        while let Ok((stream, _)) = listener.accept() {
            let socket = Socket::from(stream);
            let flags =
                EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            let ready = socket.set_nonblocking(true).and_then(|()| socket.set_tcp_nodelay(true));
            let added = self.epoll.add(socket.as_fd(), EpollEvent::new(flags, self.next));
            if ready.is_ok() && added.is_ok() {
                let http = (token == HTTP).then(Http::default);
                self.conns.insert(self.next, Conn { socket, http, out: Output::default() });
                self.next += 1;
            }
        }
    }

    /// Does what can be done; false when the connection is over.
    fn advance(&mut self, token: u64) -> bool {
        let Some(conn) = self.conns.get_mut(&token) else { return true };
        loop {
            if !conn.out.is_empty() {
                match conn.out.flush(&conn.socket) {
                    Ok(()) => {}
                    Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                }
            }
            if conn.out.close {
                return false;
            }
            // Requests that came together are answered one after the other.
            if let Some(http) = &mut conn.http
                && http.go_on(&self.pages, &mut conn.out)
            {
                continue;
            }
            let bytes = match (&conn.socket).read(&mut self.scratch) {
                Ok(0) => return false,
                Ok(count) => &self.scratch[..count],
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            match &mut conn.http {
                Some(http) => http.take(bytes, &self.pages, &mut conn.out),
                None => conn.out.push(bytes),
            }
        }
    }
}

/// A listener for thousands of connections; port 0 takes a free one.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], port))))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
