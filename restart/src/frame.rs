//! A message as one datagram: sixteen bytes of header, then the body.
//!
//! | bytes | |
//! |---|---|
//! | 0..3 | `OUR` |
//! | 3 | version of this header, 1 |
//! | 4..6 | kind |
//! | 6..8 | 0, reserved |
//! | 8..12 | request id: a reply has that of its request, what is neither has 0 |
//! | 12..16 | length of the body |
//!
//! Numbers are little-endian. The datagram ends where the body ends.

use std::fmt;

use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::message::Message;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 16;

/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + FRAME_BODY_BYTES_MAX;

const MAGIC: [u8; 3] = *b"OUR";
const HEADER_VERSION: u8 = 1;

/// A message and the request that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// A reply has the id of its request; what is neither request nor reply has 0.
    pub request_id: u32,
    /// The message.
    pub message: Message,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// It does not begin like one.
    NotOurs,
    /// The header is of a version that is not known here.
    HeaderVersion(u8),
    /// Bytes are missing, or there are too many.
    Length {
        /// What the header says, or the shortest possible.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// The body is longer than a frame may have.
    TooLong(usize),
    /// The body is no message of its kind.
    Body(u16, String),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => write!(f, "this is no message of the restart protocol"),
            Self::HeaderVersion(version) => write!(f, "the frame header is of version {version}"),
            Self::Length { expected, found } => {
                write!(f, "a frame of {expected} bytes is announced, but there are {found}")
            }
            Self::TooLong(length) => {
                write!(f, "a body of {length} bytes is over the limit of {FRAME_BODY_BYTES_MAX}")
            }
            Self::Body(kind, error) => write!(f, "the body of a message of kind {kind} is broken: {error}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Frame {
    /// A frame.
    #[must_use]
    pub fn new(request_id: u32, message: impl Into<Message>) -> Self {
        Self { request_id, message: message.into() }
    }

    /// The bytes of the datagram.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] if the body is over the limit.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let length = self.message.body_len();
        let too_long = FrameError::TooLong(length);
        if length > FRAME_BODY_BYTES_MAX {
            return Err(too_long);
        }
        let Ok(announced) = u32::try_from(length) else { return Err(too_long) };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(HEADER_VERSION);
        bytes.extend_from_slice(&self.message.kind().to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&self.request_id.to_le_bytes());
        bytes.extend_from_slice(&announced.to_le_bytes());
        self.message.write_body(&mut bytes);
        Ok(bytes)
    }

    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// If it is no frame, or the body is no message of its kind. An unknown kind is no error.
    pub fn decode(datagram: &[u8]) -> Result<Self, FrameError> {
        let Some((header, body)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Length { expected: HEADER_BYTES, found: datagram.len() });
        };
        let [m0, m1, m2, version, k0, k1, _, _, r0, r1, r2, r3, l0, l1, l2, l3] = *header;
        if [m0, m1, m2] != MAGIC {
            return Err(FrameError::NotOurs);
        }
        if version != HEADER_VERSION {
            return Err(FrameError::HeaderVersion(version));
        }
        let announced = u32::from_le_bytes([l0, l1, l2, l3]);
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        if announced > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLong(announced));
        }
        if announced != body.len() {
            return Err(FrameError::Length { expected: HEADER_BYTES + announced, found: datagram.len() });
        }
        let kind = u16::from_le_bytes([k0, k1]);
        let message =
            Message::read_body(kind, body).map_err(|error| FrameError::Body(kind, error.to_string()))?;
        Ok(Self { request_id: u32::from_le_bytes([r0, r1, r2, r3]), message })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::message::{Abort, Hello, State, StateReply};

    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let frame = Frame::new(0x0403_0201, State { cursor: 5 });
        let bytes = frame.encode().unwrap();
        assert_eq!(bytes, *b"OUR\x01\x05\0\0\0\x01\x02\x03\x04\x02\0\0\0\x08\x05");
        assert_eq!(Frame::decode(&bytes).unwrap(), frame);
    }

    #[test]
    fn every_kind_is_in_the_documentation() {
        let page = include_str!("../../docs/life-of-a-restart.md");
        for kind in 1_u16.. {
            let mut bytes = Frame::new(0, Message::Unknown(kind)).encode().unwrap();
            bytes[4..6].copy_from_slice(&kind.to_le_bytes());
            let message = Frame::decode(&bytes).unwrap().message;
            if let Message::Unknown(_) = message {
                assert_eq!(kind, 27);
                break;
            }
            assert!(page.contains(&format!("\n| {kind} | {} |", message.name())), "{message:?}");
        }
    }

    #[test]
    fn an_unknown_kind_is_read_and_its_body_is_not() {
        let bytes = *b"OUR\x01\xff\xff\0\0\0\0\0\0\x02\0\0\0\xff\xff";
        assert_eq!(Frame::decode(&bytes).unwrap().message, Message::Unknown(0xffff));
    }

    #[test]
    fn an_unknown_field_is_skipped() {
        // Field 100 with the number 1, as a newer version might have it.
        let mut bytes = Frame::new(1, State { cursor: 5 }).encode().unwrap();
        bytes.extend_from_slice(&[0xa0, 0x06, 0x01]);
        bytes[12] += 3;
        assert_eq!(Frame::decode(&bytes).unwrap(), Frame::new(1, State { cursor: 5 }));
    }

    #[test]
    fn half_frames_and_frames_with_something_behind_are_refused() {
        let hello = Hello { program_version: "1.2.3".to_owned(), epoch: Some(7), ..Hello::default() };
        let bytes = Frame::new(1, hello).encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(Frame::decode(&longer), Err(FrameError::Length { .. })));
    }

    #[test]
    fn the_limit_on_the_body_holds_both_ways() {
        let chunks =
            vec![crate::message::Chunk { bytes: vec![0; FRAME_BODY_BYTES_MAX], ..Default::default() }];
        let frame = Frame::new(0, StateReply { chunks, more: false, next: 0 });
        assert!(matches!(frame.encode(), Err(FrameError::TooLong(_))));
        let mut bytes = Frame::new(0, Abort::new("x")).encode().unwrap();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Frame::decode(&bytes), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        for round in 0..20_000_u32 {
            let body_len = usize::from(next() % 64);
            let mut bytes: Vec<u8> = (0..HEADER_BYTES + body_len).map(|_| next()).collect();
            // Most rounds get a right header, so that the garbage reaches the bodies of all kinds.
            if round % 8 != 0 {
                bytes[..4].copy_from_slice(b"OUR\x01");
                bytes[4..6].copy_from_slice(&u16::from(next() % 26).to_le_bytes());
                bytes[12..16].copy_from_slice(&u32::try_from(body_len).unwrap().to_le_bytes());
            }
            if let Ok(frame) = Frame::decode(&bytes) {
                // What was understood can be said again.
                let again = frame.encode().unwrap();
                assert_eq!(Frame::decode(&again).unwrap(), frame);
            }
        }
    }
}
