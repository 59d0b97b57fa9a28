//! Long uploads and downloads, one after the other on a connection.
//!
//! Of two clients, one keeps the pace itself and the other leaves that to the origin: so bytes pile up on either side of
//! the proxy. Every other body is in chunks.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::super::pattern;
use super::super::tally::Kind;
use super::super::wire::{Body, Framing, Pace, Wire};
use super::{Client, End, PATIENCE, patiently, within};
use crate::load::{Failure, Wrong};

/// Bytes that are sent or taken at once.
const PIECE: usize = 32 * 1024;

/// Pieces after which a client counts as ready: it is in the middle.
const READY_AFTER: u64 = 4 * PIECE as u64;

/// Bytes that the buffers of kernel and proxy hold, at most.
const ON_THE_WAY: u64 = 64 * 1024 * 1024;

/// A response of the origin to an upload, or a checksum, at most.
const MAX_ANSWER: usize = 100;

impl Client {
    pub(super) async fn uploads(&mut self, stream: TcpStream) -> Result<End, Wrong> {
        let (mut wire, mut ready) = (Wire::new(stream), false);
        let mut turn = self.number / 2;
        while !self.shared.is_ending() {
            if wire.is_closed() {
                self.shared.count(self.kind).closed_idle += 1;
                return Ok(End::Closed);
            }
            let Some(sum) = self.send_body(&mut wire, turn, &mut ready).await? else {
                return Ok(End::Over);
            };
            let expected = format!("{} {sum:08x}\n", self.shared.clients.bytes);
            if self.short_answer(&mut wire, &expected).await? {
                return Ok(End::Closed);
            }
            self.shared.count(Kind::Upload).done += 1;
            turn += 1;
        }
        Ok(End::Over)
    }

    /// Sends an upload; returns its checksum, or nothing if the run is over before.
    async fn send_body(
        &mut self,
        wire: &mut Wire,
        turn: u64,
        ready: &mut bool,
    ) -> Result<Option<u32>, Wrong> {
        let (own, origins) = self.speeds();
        let length = self.shared.clients.bytes;
        let id = self.turn_stream(turn);
        let framing = if id % 2 == 1 { Framing::Chunked } else { Framing::Length(length) };
        let field = match framing {
            Framing::Length(length) => format!("Content-Length: {length}"),
            Framing::Chunked => "Transfer-Encoding: chunked".into(),
        };
        let head =
            format!("POST /upload/{id}/{origins} HTTP/1.1\r\nHost: bench.example.com\r\n{field}\r\n\r\n");
        self.shared.count(self.kind).begun += 1;
        patiently("sending the head of an upload", wire.write(head.as_bytes())).await?;
        let (mut position, mut sum) = (0, crc32fast::Hasher::new());
        let mut pace = Pace::new(own);
        let mut buffer = vec![0; PIECE];
        while position < length {
            let most = usize::try_from(length - position).unwrap_or(usize::MAX).min(PIECE);
            let piece = &mut buffer[..1 + self.random.below(most)];
            pattern::fill(id, position, piece);
            sum.update(piece);
            if self.shared.is_ending() {
                if !self.shared.clients.finish {
                    return Ok(None);
                }
            } else {
                pace.wait(piece.len()).await;
            }
            let sent = patiently("sending an upload", wire.write_piece(framing, piece)).await;
            sent.map_err(|(failure, text)| (failure, format!("{text}, at byte {position}")))?;
            position += piece.len() as u64;
            self.shared.count(self.kind).sent += piece.len() as u64;
            if position >= READY_AFTER.min(length) {
                self.ready(ready);
            }
        }
        patiently("ending an upload", wire.write_end(framing)).await?;
        Ok(Some(sum.finalize()))
    }

    pub(super) async fn downloads(&mut self, stream: TcpStream) -> Result<End, Wrong> {
        let (mut wire, mut ready) = (Wire::new(stream), false);
        let mut turn = self.number / 2;
        while !self.shared.is_ending() {
            if wire.is_closed() {
                self.shared.count(self.kind).closed_idle += 1;
                return Ok(End::Closed);
            }
            let id = self.turn_stream(turn);
            let Some((sum, close)) = self.receive_body(&mut wire, id, &mut ready).await? else {
                return Ok(End::Over);
            };
            self.shared.count(Kind::Download).done += 1;
            if close {
                self.shared.count(Kind::Download).told_to_close += 1;
                return Ok(End::Closed);
            }
            let request = format!("GET /sum/{id} HTTP/1.1\r\nHost: bench.example.com\r\n\r\n");
            self.shared.count(self.kind).begun += 1;
            patiently("asking for a checksum", wire.write(request.as_bytes())).await?;
            if self.short_answer(&mut wire, &format!("{sum:08x}\n")).await? {
                return Ok(End::Closed);
            }
            turn += 1;
        }
        Ok(End::Over)
    }

    /// Receives a download; returns its checksum and whether the connection ends, or nothing if the run is over before.
    async fn receive_body(
        &mut self,
        wire: &mut Wire,
        id: u64,
        ready: &mut bool,
    ) -> Result<Option<(u32, bool)>, Wrong> {
        let (own, origins) = self.speeds();
        let length = self.shared.clients.bytes;
        let request =
            format!("GET /download/{id}/{length}/{origins} HTTP/1.1\r\nHost: bench.example.com\r\n\r\n");
        self.shared.count(self.kind).begun += 1;
        patiently("asking for a download", wire.write(request.as_bytes())).await?;
        let head = patiently("the head of a download", wire.head(false)).await?;
        let head = head.ok_or_else(|| (Failure::Closed, "before a download".to_owned()))?;
        if head.what != "200" {
            return Err((Failure::Status, format!("{} for a download", head.what)));
        }
        if matches!(head.framing, Framing::Length(other) if other != length) {
            return Err((Failure::Length, format!("a download with {:?}", head.framing)));
        }
        self.shared.count(self.kind).answered += 1;
        let (mut position, mut sum) = (0, crc32fast::Hasher::new());
        let (mut pace, mut body) = (Pace::new(own), Body::new(head.framing));
        let mut last = Instant::now();
        loop {
            let most = 1 + self.random.below(PIECE);
            let piece = patiently("receiving a download", wire.body(&mut body, most)).await;
            let piece = piece.map_err(|(failure, text)| {
                let ms = last.elapsed().as_millis();
                (failure, format!("{text}, at byte {position}, {ms} ms after the one before"))
            })?;
            last = Instant::now();
            let Some(piece) = piece else { break };
            if let Some(at) = pattern::differs(id, position, piece) {
                return Err((Failure::Content, format!("byte {at} of a download")));
            }
            sum.update(piece);
            let count = piece.len();
            position += count as u64;
            self.shared.count(self.kind).received += count as u64;
            if position >= READY_AFTER.min(length) {
                self.ready(ready);
            }
            if !self.shared.is_ending() {
                pace.wait(count).await;
            } else if !self.shared.clients.finish {
                return Ok(None);
            }
        }
        if position != length {
            return Err((Failure::Length, format!("a download of {position} bytes instead of {length}")));
        }
        Ok(Some((sum.finalize(), head.close)))
    }

    /// Reads a short response that must be this. Returns whether the connection ends.
    async fn short_answer(&self, wire: &mut Wire, expected: &str) -> Result<bool, Wrong> {
        // An origin that reads slowly has still to take all that lies in buffers on the way.
        let speed = self.shared.clients.speed.max(1);
        let patience =
            PATIENCE + Duration::from_secs(self.shared.clients.bytes.min(ON_THE_WAY).div_ceil(speed));
        let head = within(patience, "the answer to a transfer", wire.head(false)).await?;
        let head = head.ok_or_else(|| (Failure::Closed, "before the answer to a transfer".to_owned()))?;
        let (mut body, mut text) = (Body::new(head.framing), Vec::new());
        while let Some(piece) =
            patiently("the answer to a transfer", wire.body(&mut body, MAX_ANSWER)).await?
        {
            text.extend_from_slice(piece);
            if text.len() > MAX_ANSWER {
                return Err((Failure::Length, "an answer that does not end".into()));
            }
        }
        if head.what != "200" {
            let text = format!("{} for a transfer: {}", head.what, text.escape_ascii());
            return Err((Failure::Status, text));
        }
        if text != expected.as_bytes() {
            let text = format!("{} instead of {}", text.escape_ascii(), expected.escape_default());
            return Err((Failure::Content, text));
        }
        let mut counts = self.shared.count(self.kind);
        counts.answered += 1;
        counts.told_to_close += u64::from(head.close);
        Ok(head.close)
    }

    /// Speeds of this client and of the origin; one of them is without limit.
    fn speeds(&self) -> (u64, u64) {
        let speed = self.shared.clients.speed;
        if self.number.is_multiple_of(2) { (speed, 0) } else { (0, speed) }
    }

    /// Every other one is odd, whoever keeps the pace.
    fn turn_stream(&self, turn: u64) -> u64 {
        self.stream(turn)
    }
}
