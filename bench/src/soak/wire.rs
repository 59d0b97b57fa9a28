//! A connection with HTTP/1 on it, for both ends: reads heads and bodies, writes pieces, keeps a pace.
//!
//! Written apart from the proxy's own codec, so that a mistake in that is seen here.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Bytes received at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Longest head or line.
const MAX_HEAD: usize = 16 * 1024;

/// Header fields at most.
const MAX_FIELDS: usize = 32;

/// A connection and what was received too early.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The head of a request or response.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// Method or status.
    pub(super) what: String,
    /// Path of a request.
    pub(super) path: String,
    /// Its body.
    pub(super) framing: Framing,
    /// The connection ends behind it.
    pub(super) close: bool,
}

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    /// Bytes until the end of the body, or of the chunk.
    left: u64,
    ended: bool,
    first: bool,
}

impl Wire {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    /// Sends bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a piece of a body.
    pub(super) async fn write_piece(&mut self, framing: Framing, bytes: &[u8]) -> io::Result<()> {
        if framing != Framing::Chunked {
            return self.write(bytes).await;
        }
        let mut piece = format!("{:x}\r\n", bytes.len()).into_bytes();
        piece.extend_from_slice(bytes);
        piece.extend_from_slice(b"\r\n");
        self.write(&piece).await
    }

    /// Sends the end of a body.
    pub(super) async fn write_end(&mut self, framing: Framing) -> io::Result<()> {
        if framing == Framing::Chunked { self.write(b"0\r\n\r\n").await } else { Ok(()) }
    }

    /// Whether the other side has closed and nothing is left to read; does not wait.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.try_read(&mut byte) {
            Ok(0) => self.at == self.buffer.len(),
            // Whoever reads next finds it where it does not belong.
            Ok(_) => {
                self.buffer.extend_from_slice(&byte);
                false
            }
            Err(_) => false,
        }
    }

    /// Reads a head; none when the connection ends before its first byte.
    pub(super) async fn head(&mut self, request: bool) -> io::Result<Option<Head>> {
        let Some(bytes) = self.until(b"\r\n\r\n").await? else { return Ok(None) };
        parse(&bytes, request).map(Some).ok_or_else(|| {
            let shown = bytes[..bytes.len().min(200)].escape_ascii();
            io::Error::new(io::ErrorKind::InvalidData, format!("not a head: {shown}"))
        })
    }

    /// The next bytes of a body, at most `most`; none at its end.
    pub(super) async fn body(&mut self, body: &mut Body, most: usize) -> io::Result<Option<&[u8]>> {
        if body.left == 0 && !body.ended {
            match body.framing {
                Framing::Length(_) => body.ended = true,
                Framing::Chunked => {
                    if !body.first && self.line().await? != b"\r\n" {
                        return Err(invalid("no end of line behind a chunk"));
                    }
                    body.first = false;
                    let line = self.line().await?;
                    body.left = chunk_size(&line).ok_or_else(|| invalid("not the size of a chunk"))?;
                    if body.left == 0 {
                        body.ended = true;
                        if self.line().await? != b"\r\n" {
                            return Err(invalid("trailers that nobody sent"));
                        }
                    }
                }
            }
        }
        if body.ended {
            return Ok(None);
        }
        if self.at == self.buffer.len() && self.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = usize::try_from(body.left).unwrap_or(usize::MAX);
        let count = (self.buffer.len() - self.at).min(most).min(left);
        let from = self.at;
        self.at += count;
        body.left -= count as u64;
        Ok(Some(&self.buffer[from..from + count]))
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        self.until(b"\r\n").await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            let held = &self.buffer[self.at..];
            if let Some(found) = memchr::memmem::find(held, end) {
                let bytes = held[..found + end.len()].to_vec();
                self.at += bytes.len();
                return Ok(Some(bytes));
            }
            if held.len() > MAX_HEAD {
                return Err(invalid("a head or a line does not end"));
            }
            let nothing = held.is_empty();
            if self.fill().await? == 0 {
                return if nothing { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Receives more behind what there is.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + BUFFER_BYTES, 0);
        let result = self.stream.read(&mut self.buffer[before..]).await;
        self.buffer.truncate(before + *result.as_ref().unwrap_or(&0));
        result
    }
}

impl Body {
    pub(super) const fn new(framing: Framing) -> Self {
        let left = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
        };
        Self { framing, left, ended: false, first: true }
    }
}

/// Keeps a speed.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes in a second; 0 is without limit.
    speed: u64,
    next: Instant,
}

impl Pace {
    pub(super) fn new(speed: u64) -> Self {
        Self { speed, next: Instant::now() }
    }

    /// Waits until these bytes are due.
    pub(super) async fn wait(&mut self, bytes: usize) {
        // Without a limit nothing has to be waited for.
        if let Some(micros) = (bytes as u64).saturating_mul(1_000_000).checked_div(self.speed) {
            // What was missed is not made up for: a burst would hide how long something stood still.
            self.next = self.next.max(Instant::now()) + Duration::from_micros(micros);
            sleep_until(self.next).await;
        }
    }
}

fn parse(bytes: &[u8], request: bool) -> Option<Head> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let (what, path) = if request {
        let mut head = httparse::Request::new(&mut fields);
        let complete = head.parse(bytes).ok()?.is_complete();
        let parts = (head.method?.to_owned(), head.path?.to_owned());
        complete.then_some(parts)?
    } else {
        let mut head = httparse::Response::new(&mut fields);
        let complete = head.parse(bytes).ok()?.is_complete();
        complete.then_some((head.code?.to_string(), String::new()))?
    };
    let text = |field: &httparse::Header<'_>| String::from_utf8_lossy(field.value).to_ascii_lowercase();
    let find = |name: &str| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(text);
    let framing = match (find("transfer-encoding"), find("content-length")) {
        (Some(coding), None) if coding == "chunked" => Framing::Chunked,
        (None, Some(length)) => Framing::Length(length.parse().ok()?),
        (None, None) if request => Framing::Length(0),
        _ => return None,
    };
    Some(Head { what, path, framing, close: find("connection").is_some_and(|value| value == "close") })
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?, 16).ok()
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_how_their_body_ends() {
        let head = parse(b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n", true).unwrap();
        assert_eq!(
            (head.what.as_str(), head.path.as_str(), head.framing),
            ("POST", "/x", Framing::Length(5))
        );
        let head =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n", false);
        let head = head.unwrap();
        assert!(head.framing == Framing::Chunked && head.close && head.what == "200");
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n", false).is_none());
        assert_eq!((chunk_size(b"1f\r\n"), chunk_size(b"x\r\n")), (Some(31), None));
    }
}
