//! HTTP/1 on the wire: heads and bodies in, verdicts and spans out. RFC 9112, read strictly.
//!
//! A proxy stands between two parsers that it does not know. Whatever the two could read differently is refused
//! here instead of repaired, because every request-smuggling attack lives on such a difference: a bare LF, a second
//! `Content-Length`, white space before a colon, a transfer coding after `chunked`.
//!
//! Nothing here knows of sockets, time or configuration, nothing allocates per message (one exception: a trailer
//! section), and nothing that a peer sends can panic.
//!
//! | module | job |
//! |---|---|
//! | [`parse_request`], [`parse_response`] | one head, complete or not yet |
//! | [`BodyDecoder`] | where the data of a message body lies, and where the body ends |
//! | `scan` | one pass over a head: its first line, and where its fields lie |
//! | `encode` | chunk headers, status lines and numbers, written without allocation |
//! | `diagnose` | cold: names the rule that a refused head has broken |

mod authority;
mod body;
mod bytes;
mod connection;
#[cfg(test)]
mod corpus;
mod diagnose;
mod encode;
mod error;
mod fields;
mod framing;
mod request;
mod response;
mod scan;
mod target;
mod trailer;

pub use body::{BodyDecoder, Decoded, DecoderState};
pub use encode::{reason_phrase, write_chunk_header, write_hex, write_status_line, write_u64};
pub use error::{BodyError, HeadError, RequestError, ResponseError};
pub use request::parse_request;
pub use response::parse_response;

use crate::base::limits;

/// Configured bounds of a head; `base::limits` caps both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes from the first one received to the end of the empty line that ends the head.
    pub head_bytes: usize,
    /// Header fields.
    pub headers: usize,
}

impl HeadLimits {
    /// The part of `buf` in which a head has to end.
    fn window(self, buf: &[u8]) -> &[u8] {
        let limit = self.head_bytes.min(limits::MAX_HEAD_BYTES);
        buf.get(..limit).unwrap_or(buf)
    }

    /// Whether a head that has not ended within `buf` can no longer end within the limit.
    fn reached(self, buf: &[u8]) -> bool {
        buf.len() >= self.head_bytes.min(limits::MAX_HEAD_BYTES)
    }

    fn fields(self) -> usize {
        self.headers.min(limits::MAX_HEADERS)
    }
}

/// What a look at the received bytes has shown.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<T> {
    /// The head is complete.
    Complete {
        /// The head; its spans are offsets into the bytes that were given to the parser.
        head: T,
        /// Bytes that belong to the head, skipped empty lines before it and the empty line behind it included.
        len: usize,
    },
    /// Nothing is wrong so far and more bytes are needed; parse again when they have come.
    Partial,
}
