//! A body on its way from one side to the other: decoded, and framed anew for the receiver.
//!
//! Data is not copied: the received chunk is the chunk that is sent. Only small pieces are copied behind the framing
//! (or the head) that goes before them, because that is cheaper than one more vector.

use crate::base::clock::{Millis, NEVER};
use crate::base::http::BodyLength;
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::h1::{self, BodyDecoder, BodyError, Decoded};
use crate::ring::{Chunk, Ring, Socket, WriteBuf};

/// How a body is framed for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As it is: its length is known, or the end of the connection ends it.
    Identity,
    /// In chunks.
    Chunked,
    /// Nobody wants it.
    Discard,
}

/// Why a body did not arrive whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// Its framing is broken.
    Bad(BodyError),
    /// It is longer than allowed.
    TooLarge,
    /// The sender is gone.
    Gone,
}

/// A body in transit.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) decoder: BodyDecoder,
    pub(super) framing: Framing,
    /// Its last byte has been passed on.
    pub(super) done: bool,
    /// Bytes of data so far.
    pub(super) bytes: u64,
    pub(super) limit: u64,
    /// The head is held back for the body.
    pub(super) gathers: bool,
    /// Until when at most.
    pub(super) gathers_until: Millis,
    pub(super) held: Option<WriteBuf>,
}

impl Body {
    pub(super) fn new(length: BodyLength, framing: Framing, limit: u64) -> Self {
        let decoder = BodyDecoder::new(length);
        let done = decoder.is_done();
        Self { decoder, framing, done, bytes: 0, limit, gathers: false, gathers_until: 0, held: None }
    }

    /// No body at all.
    pub(super) fn none() -> Self {
        Self::new(BodyLength::None, Framing::Identity, u64::MAX)
    }

    /// The head of a response waits for a body that is so small that both go out as one piece: many an origin sends them
    /// apart, and each send costs more than everything that we do ourselves for a request. (The head of a request does
    /// not wait: an origin may answer to it alone.) A body that does not follow at once is not worth it.
    pub(super) fn wait_for_body(mut self, now: Millis) -> Self {
        self.gathers_until = now + limits::GATHER_MS;
        self.gathers = self.framing == Framing::Identity
            && self
                .decoder
                .remaining_known()
                .is_some_and(|length| length <= limits::INLINE_BODY_BYTES as u64);
        self
    }

    /// When the head that is held back goes out in any case, if one is.
    pub(super) fn holds_until(&self) -> Millis {
        if self.held.is_some() { self.gathers_until } else { NEVER }
    }

    /// Whether the rest of a small body is worth waiting for.
    fn is_worth_waiting(&self, from: &Socket, now: Millis, first_bytes: usize) -> bool {
        let left = self.decoder.remaining_known().unwrap_or(0);
        if !self.gathers || left <= first_bytes as u64 {
            return false;
        }
        let status = from.status();
        (now < self.gathers_until || is_on(Mutation::HeadHeldBack))
            && !self.done
            && !status.eof
            && status.recv_error == 0
            && left > (first_bytes + status.unread) as u64
    }

    /// Passes on what has come, as long as the receiver has room. What `lead` holds goes first. `first` has been taken
    /// from the sender already. What is held back goes where there is no `lead`.
    pub(super) fn pump(
        &mut self,
        ring: &Ring,
        from: &Socket,
        to: Option<&Socket>,
        lead: Option<WriteBuf>,
        first: Option<Chunk>,
    ) -> Result<(), BodyFault> {
        let lead = lead.or_else(|| self.held.take());
        let first_bytes = first.as_ref().map_or(0, Chunk::len);
        if lead.is_some() && self.is_worth_waiting(from, ring.now(), first_bytes) {
            self.held = lead;
            put_back(from, first);
            return Ok(());
        }
        let mut out = Outgoing { ring, to, pending: lead };
        let result = self.pump_into(from, first, &mut out);
        out.flush();
        result
    }

    fn pump_into(
        &mut self,
        from: &Socket,
        mut first: Option<Chunk>,
        out: &mut Outgoing<'_>,
    ) -> Result<(), BodyFault> {
        if self.done {
            put_back(from, first);
            return Ok(());
        }
        // What nobody gets needs no room, and nobody would wake us when there is some again.
        let mut room = match out.to {
            Some(_) => limits::SEND_HIGH_WATER_BYTES.saturating_sub(out.unsent()),
            None => usize::MAX,
        };
        while !self.done {
            if room == 0 {
                put_back(from, first);
                out.wake_when_drained();
                return Ok(());
            }
            let Some(chunk) = first.take().or_else(|| from.receive()) else {
                let status = from.status();
                if status.recv_error != 0 {
                    return Err(BodyFault::Gone);
                }
                if status.eof {
                    self.decoder.on_eof().map_err(|_| BodyFault::Gone)?;
                    self.finish(out);
                }
                return Ok(());
            };
            room = room.saturating_sub(chunk.len());
            self.decode(from, chunk, out)?;
        }
        Ok(())
    }

    fn decode(&mut self, from: &Socket, mut chunk: Chunk, out: &mut Outgoing<'_>) -> Result<(), BodyFault> {
        while !chunk.is_empty() && !self.done {
            match self.decoder.decode(chunk.as_slice()).map_err(BodyFault::Bad)? {
                Decoded::Data { skip, len } => {
                    chunk.advance(skip);
                    self.bytes += len as u64;
                    if self.bytes.saturating_add(self.decoder.announced()) > self.limit {
                        return Err(BodyFault::TooLarge); // a chunk that will be too long need not come first
                    }
                    match self.framing {
                        Framing::Identity => out.data(&mut chunk, len, false),
                        Framing::Chunked => out.chunk(&mut chunk, len),
                        Framing::Discard => chunk.advance(len),
                    }
                }
                Decoded::NeedMore { .. } => {
                    let coming = self.bytes.saturating_add(self.decoder.announced());
                    return if coming > self.limit { Err(BodyFault::TooLarge) } else { Ok(()) };
                }
                Decoded::End { skip } => chunk.advance(skip),
            }
            if self.decoder.is_done() {
                self.finish(out);
            }
        }
        from.unread(chunk);
        Ok(())
    }

    fn finish(&mut self, out: &mut Outgoing<'_>) {
        self.done = true;
        if self.framing == Framing::Chunked {
            let buf = out.buf();
            buf.extend_from_slice(b"0\r\n");
            if let Some(trailers) = self.decoder.take_trailers() {
                buf.extend_from_slice(&trailers);
            }
            buf.extend_from_slice(b"\r\n");
        }
    }
}

/// Gives back what was taken from a sender and not used.
fn put_back(from: &Socket, chunk: Option<Chunk>) {
    if let Some(chunk) = chunk {
        from.unread(chunk);
    }
}

/// Where the body goes: framing and small pieces are gathered, large pieces go by reference.
struct Outgoing<'a> {
    ring: &'a Ring,
    to: Option<&'a Socket>,
    pending: Option<WriteBuf>,
}

impl Outgoing<'_> {
    fn unsent(&self) -> usize {
        self.to.map_or(0, |to| to.status().unsent)
    }

    fn wake_when_drained(&self) {
        if let Some(to) = self.to {
            #[allow(clippy::cast_possible_truncation)] // a small constant
            to.wake_when_unsent_below(Some((limits::SEND_HIGH_WATER_BYTES / 2) as u32));
        }
    }

    #[inline]
    fn buf(&mut self) -> &mut Vec<u8> {
        let ring = self.ring;
        &mut self.pending.get_or_insert_with(|| ring.write_buf()).bytes
    }

    /// Queues the first `len` bytes of a chunk; `gather` makes a buffer for small pieces where there is none yet.
    #[inline]
    fn data(&mut self, chunk: &mut Chunk, len: usize, gather: bool) {
        if len <= limits::INLINE_BODY_BYTES && (gather || self.pending.is_some()) {
            let buf = self.buf();
            buf.extend_from_slice(&chunk.as_slice()[..len]);
            chunk.advance(len);
            if buf.len() > 8 * limits::INLINE_BODY_BYTES {
                self.flush();
            }
            return;
        }
        self.flush();
        let data = chunk.split_to(len);
        if let Some(to) = self.to {
            to.send(data);
        }
    }

    /// Queues the first `len` bytes of a chunk as one of a chunked body.
    fn chunk(&mut self, chunk: &mut Chunk, len: usize) {
        h1::write_chunk_header(self.buf(), len);
        self.data(chunk, len, true);
        self.buf().extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) {
        if let (Some(buf), Some(to)) = (self.pending.take(), self.to) {
            to.send(buf.freeze());
        }
    }
}
