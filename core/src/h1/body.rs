//! Message bodies: where the data lies in the received bytes, and where the body ends. RFC 9112 sections 6 and 7.

use super::{bytes::is_value_byte, error::BodyError, fields::check_line, trailer};
use crate::base::{http::BodyLength, limits};

/// Reads the framing of one message body.
///
/// It keeps everything it knows between two calls in plain fields, so the input may be split anywhere and the
/// decoder may be stored or moved at any moment. Data is never copied: the caller is told which of its bytes it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyDecoder {
    state: State,
    /// Hex digits of the current chunk size, so far.
    digits: u8,
    /// Bytes of the current chunk-size line, so far.
    line_bytes: u16,
    /// Bytes of chunk extensions in the whole body, so far.
    extension_bytes: u16,
    /// Bytes received of the trailer section, those of dropped lines included.
    trailer_bytes: u16,
    /// Where the unfinished line begins in `trailer`.
    trailer_line: u16,
    /// Data left of a body of known length or of the current chunk; a chunk size while it is being read.
    remaining: u64,
    /// Trailer lines that may be passed on, and the unfinished one.
    trailer: Vec<u8>,
}

/// Everything that a [`BodyDecoder`] knows, as plain numbers: what one process tells the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderState {
    /// What the next byte belongs to; these numbers are never used for anything else.
    pub state: u8,
    /// Hex digits of the current chunk size, so far.
    pub digits: u8,
    /// Bytes of the current chunk-size line, so far.
    pub line_bytes: u16,
    /// Bytes of chunk extensions in the whole body, so far.
    pub extension_bytes: u16,
    /// Bytes received of the trailer section.
    pub trailer_bytes: u16,
    /// Where the unfinished line begins in `trailer`.
    pub trailer_line: u16,
    /// Data left, or a chunk size while it is being read.
    pub remaining: u64,
    /// Trailer lines that may be passed on, and the unfinished one.
    pub trailer: Vec<u8>,
}

/// What the decoder has found at the beginning of the unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// `skip` bytes of framing, then `len` bytes of data, never 0. Both are done with.
    Data {
        /// Bytes of framing before the data.
        skip: usize,
        /// Bytes of data.
        len: usize,
    },
    /// More input is needed; `skip` bytes of framing, which is all there was, are done with.
    NeedMore {
        /// Bytes of framing.
        skip: usize,
    },
    /// The body has ended. The last `skip` bytes of framing belong to it, what follows does not.
    End {
        /// Bytes of framing.
        skip: usize,
    },
}

/// What the next byte belongs to. The numbers are told to other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Data of a body of known length.
    Known,
    /// Data until the connection ends.
    UntilClose,
    /// A chunk size.
    ChunkSize,
    /// Chunk extensions.
    ChunkExtension,
    /// The LF behind a chunk size.
    ChunkSizeLf,
    /// Data of a chunk.
    ChunkData,
    /// The CR behind the data.
    ChunkDataCr,
    /// The LF behind the data.
    ChunkDataLf,
    /// A trailer line, or the CR of the empty line that ends the body.
    Trailer,
    /// The last LF of the body.
    EndLf,
    /// The body has ended.
    Done,
}

impl BodyDecoder {
    /// A decoder at the beginning of a body.
    #[must_use]
    pub const fn new(length: BodyLength) -> Self {
        let (state, remaining) = match length {
            BodyLength::None | BodyLength::Known(0) => (State::Done, 0),
            BodyLength::Known(length) => (State::Known, length),
            BodyLength::Chunked => (State::ChunkSize, 0),
            BodyLength::UntilClose => (State::UntilClose, 0),
        };
        Self {
            state,
            digits: 0,
            line_bytes: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_line: 0,
            remaining,
            trailer: Vec::new(),
        }
    }

    /// Everything that it knows.
    #[must_use]
    pub fn state(&self) -> DecoderState {
        DecoderState {
            state: self.state as u8,
            digits: self.digits,
            line_bytes: self.line_bytes,
            extension_bytes: self.extension_bytes,
            trailer_bytes: self.trailer_bytes,
            trailer_line: self.trailer_line,
            remaining: self.remaining,
            trailer: self.trailer.clone(),
        }
    }

    /// A decoder that goes on where another one was; `None` if that makes no sense.
    #[must_use]
    pub fn from_state(state: DecoderState) -> Option<Self> {
        const STATES: [State; 11] = [
            State::Known,
            State::UntilClose,
            State::ChunkSize,
            State::ChunkExtension,
            State::ChunkSizeLf,
            State::ChunkData,
            State::ChunkDataCr,
            State::ChunkDataLf,
            State::Trailer,
            State::EndLf,
            State::Done,
        ];
        let known = *STATES.get(usize::from(state.state))?;
        // Trailers that were taken have left nothing that a line could begin in.
        let line_fits = known == State::Done || usize::from(state.trailer_line) <= state.trailer.len();
        if known as u8 != state.state || !line_fits {
            return None;
        }
        Some(Self {
            state: known,
            digits: state.digits,
            line_bytes: state.line_bytes,
            extension_bytes: state.extension_bytes,
            trailer_bytes: state.trailer_bytes,
            trailer_line: state.trailer_line,
            remaining: state.remaining,
            trailer: state.trailer,
        })
    }

    /// Looks at the unread bytes. It never looks beyond the end of the body, and is done with the bytes that it
    /// counts; the caller comes back with those that follow them.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut skip = 0;
        loop {
            let rest = input.get(skip..).unwrap_or_default();
            match self.state {
                State::Done => return Ok(Decoded::End { skip }),
                _ if rest.is_empty() => return Ok(Decoded::NeedMore { skip }),
                State::UntilClose => return Ok(Decoded::Data { skip, len: rest.len() }),
                State::Known | State::ChunkData => {
                    return Ok(Decoded::Data { skip, len: self.take_data(rest) });
                }
                State::Trailer => skip += self.read_trailer(rest)?,
                _ => skip += self.read_framing(rest)?,
            }
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The connection has ended: the regular end of a body without length, too early for any other.
    pub fn on_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Bytes of data that are still to come, where that is known.
    #[must_use]
    pub const fn remaining_known(&self) -> Option<u64> {
        match self.state {
            State::Known => Some(self.remaining),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Bytes of data that are certain to come, unless the body breaks off: the rest of a body of known length, or of the
    /// chunk that has begun.
    #[must_use]
    pub const fn announced(&self) -> u64 {
        match self.state {
            State::Known | State::ChunkData => self.remaining,
            _ => 0,
        }
    }

    /// Takes the trailer fields after the end of the body: lines of `Name: value`, each ended with CR LF, without
    /// those that must not be merged into a head. RFC 9110 section 6.5.1.
    pub fn take_trailers(&mut self) -> Option<Vec<u8>> {
        let complete = self.is_done() && !self.trailer.is_empty();
        complete.then(|| {
            self.trailer_line = 0;
            std::mem::take(&mut self.trailer)
        })
    }

    fn take_data(&mut self, input: &[u8]) -> usize {
        let len = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        self.remaining -= len as u64;
        if self.remaining == 0 {
            self.state = if self.state == State::Known { State::Done } else { State::ChunkDataCr };
        }
        len
    }

    /// Reads framing up to where data or the trailer begins, and returns how many bytes that was.
    /// RFC 9112 section 7.1.
    fn read_framing(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        for (index, &byte) in input.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::ChunkSize, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    // 16 digits are 64 bits, so that nothing can be shifted out.
                    if self.digits == 16 {
                        return Err(BodyError::BadChunkSize);
                    }
                    self.digits += 1;
                    self.remaining = self.remaining << 4 | u64::from(hex_digit(byte));
                    State::ChunkSize
                }
                (State::ChunkSize, b'\r') if self.digits > 0 => State::ChunkSizeLf,
                (State::ChunkSize, b';') if self.digits > 0 => {
                    self.count_extension()?;
                    State::ChunkExtension
                }
                (State::ChunkSize, b'\n') if self.digits > 0 => return Err(BodyError::BadLineEnd),
                (State::ChunkSize, _) => return Err(BodyError::BadChunkSize),
                (State::ChunkExtension, b'\r') => State::ChunkSizeLf,
                (State::ChunkExtension, b'\n') => return Err(BodyError::BadLineEnd),
                (State::ChunkExtension, _) if is_value_byte(byte) => {
                    self.count_extension()?;
                    State::ChunkExtension
                }
                (State::ChunkExtension, _) => return Err(BodyError::BadChunkExtension),
                (State::ChunkSizeLf, b'\n') => {
                    self.digits = 0;
                    self.line_bytes = 0;
                    self.state = if self.remaining == 0 { State::Trailer } else { State::ChunkData };
                    return Ok(index + 1);
                }
                (State::EndLf, b'\n') => {
                    self.state = State::Done;
                    return Ok(index + 1);
                }
                (State::ChunkDataCr, b'\r') => State::ChunkDataLf,
                (State::ChunkDataLf, b'\n') => State::ChunkSize,
                _ => return Err(BodyError::BadLineEnd),
            };
        }
        Ok(input.len())
    }

    /// Counts a byte of chunk extensions, which are skipped: they are for the next hop only.
    /// RFC 9112 section 7.1.1 asks for a bound.
    fn count_extension(&mut self) -> Result<(), BodyError> {
        self.line_bytes += 1;
        self.extension_bytes += 1;
        if usize::from(self.line_bytes) + usize::from(self.digits) > limits::CHUNK_LINE_BYTES {
            return Err(BodyError::ChunkLineTooLong);
        }
        if usize::from(self.extension_bytes) > limits::CHUNK_EXTENSIONS_BYTES {
            return Err(BodyError::TooManyChunkExtensions);
        }
        Ok(())
    }

    /// Reads one line of the trailer section, or what there is of it. RFC 9112 section 7.1.2.
    fn read_trailer(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        // Not kept with the lines, so that the usual end of a body needs no memory, however it is split.
        if usize::from(self.trailer_line) == self.trailer.len() && input.first() == Some(&b'\r') {
            self.state = State::EndLf;
            return Ok(1);
        }
        let line_end = memchr::memchr(b'\n', input).map(|lf| lf + 1);
        let piece = line_end.and_then(|end| input.get(..end)).unwrap_or(input);
        self.trailer_bytes = u16::try_from(piece.len())
            .ok()
            .and_then(|len| self.trailer_bytes.checked_add(len))
            .filter(|bytes| usize::from(*bytes) <= limits::TRAILER_BYTES)
            .ok_or(BodyError::TrailerTooLarge)?;
        self.trailer.extend_from_slice(piece);
        if line_end.is_some() {
            self.end_trailer_line()?;
        }
        Ok(piece.len())
    }

    fn end_trailer_line(&mut self) -> Result<(), BodyError> {
        let start = usize::from(self.trailer_line);
        let line = self.trailer.get(start..).unwrap_or_default();
        let Some(line) = line.strip_suffix(b"\r\n") else { return Err(BodyError::BadLineEnd) };
        let name_len = check_line(line).map_err(BodyError::BadTrailer)?;
        if line.get(..name_len).is_none_or(trailer::is_forbidden) {
            self.trailer.truncate(start);
        }
        self.trailer_line = u16::try_from(self.trailer.len()).map_err(|_| BodyError::TrailerTooLarge)?;
        Ok(())
    }
}

// Both are counted in 16 bits.
const _: () = assert!(limits::TRAILER_BYTES < u16::MAX as usize);
const _: () = assert!(limits::CHUNK_EXTENSIONS_BYTES < u16::MAX as usize);
const _: () = assert!(limits::CHUNK_LINE_BYTES <= limits::CHUNK_EXTENSIONS_BYTES);
// Every connection has up to two of these.
const _: () = assert!(size_of::<BodyDecoder>() <= 64);

const fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests;
