//! Short HTTP exchanges, on one connection or on one each.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::super::pattern;
use super::super::tally::Kind;
use super::{Client, End, patiently};
use crate::load::{Check, Failure, HeadRule, Progress, Wrong};

/// Most bytes of a body, and of one in [`LARGE_EVERY`].
const BODY: usize = 2000;
const LARGE_BODY: usize = 60_000;
const LARGE_EVERY: u64 = 16;

/// Every so many requests one has a body.
const UPLOAD_EVERY: u64 = 4;

/// Bytes received at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// A request and what must come back.
struct Exchange {
    request: Vec<u8>,
    expected: Vec<u8>,
}

impl Client {
    pub(super) async fn keep_alive(&mut self, mut stream: TcpStream) -> Result<End, Wrong> {
        let mut ready = false;
        while !self.shared.is_ending() {
            let every = self.shared.clients.http_every;
            if !every.is_zero() {
                let pause = self.about(every);
                sleep(pause).await;
            }
            match stream.try_read(&mut [0]) {
                Ok(0) => {
                    self.shared.count(Kind::Http).closed_idle += 1;
                    return Ok(End::Closed);
                }
                Ok(_) => return Err((Failure::Extra, "bytes between two responses".into())),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(super::describe("between two requests", &error)),
            }
            let close = self.exchange(&mut stream, false).await?;
            self.ready(&mut ready);
            if close {
                self.shared.count(Kind::Http).told_to_close += 1;
                return Ok(End::Closed);
            }
        }
        Ok(End::Over)
    }

    pub(super) async fn short(&mut self, mut stream: TcpStream) -> Result<End, Wrong> {
        self.exchange(&mut stream, true).await?;
        let rest = patiently("behind the response", stream.read(&mut [0])).await?;
        if rest != 0 {
            return Err((Failure::Extra, "a byte behind the response".into()));
        }
        drop(stream);
        // Of these clients, each first success is one; who was ready stays so.
        self.ready(&mut false);
        let pause = self.about(self.shared.clients.short_every);
        sleep(pause).await;
        Ok(End::Closed)
    }

    /// One request and its response. Returns whether the connection ends.
    async fn exchange(&mut self, stream: &mut TcpStream, close: bool) -> Result<bool, Wrong> {
        let Exchange { request, expected } = self.next_exchange(close);
        let begun = Instant::now();
        {
            let mut counts = self.shared.count(self.kind);
            counts.begun += 1;
            counts.sent += request.len() as u64;
        }
        // The response, if there is one, tells more than a broken pipe.
        let written = patiently("sending a request", stream.write_all(&request)).await;
        let mut check = Check::default();
        check.begin(Some(HeadRule { status: 200, length: Some(expected.len()) }));
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let place = if check.is_untouched() { "before the response" } else { "in the response" };
            let count = patiently(place, stream.read(&mut buffer)).await?;
            if count == 0 {
                written?;
                return Err((Failure::Closed, place.into()));
            }
            self.shared.count(self.kind).received += count as u64;
            if let Progress::Done { close } = check.feed(&buffer[..count], &expected)? {
                let mut counts = self.shared.count(self.kind);
                counts.done += 1;
                counts.answered += 1;
                counts.worst_wait_ms = counts.worst_wait_ms.max(begun.elapsed().as_secs_f64() * 1e3);
                return Ok(close);
            }
        }
    }

    fn next_exchange(&mut self, close: bool) -> Exchange {
        let turn = self.random.next_u64();
        let id = self.stream(turn);
        let most = if turn % LARGE_EVERY == 1 { LARGE_BODY } else { BODY };
        let body = pattern::bytes(id, 1 + self.random.below(most));
        let close = if close { "Connection: close\r\n" } else { "" };
        let length = body.len();
        if turn.is_multiple_of(UPLOAD_EVERY) {
            let head = format!(
                "POST /upload/{id}/0 HTTP/1.1\r\nHost: bench.example.com\r\n{close}Content-Length: {length}\r\n\r\n"
            );
            let sum = crc32fast::hash(&body);
            let expected = format!("{length} {sum:08x}\n").into_bytes();
            Exchange { request: [head.as_bytes(), &body].concat(), expected }
        } else {
            let head = format!("GET /bytes/{id}/{length} HTTP/1.1\r\nHost: bench.example.com\r\n{close}\r\n");
            Exchange { request: head.into_bytes(), expected: body }
        }
    }
}
