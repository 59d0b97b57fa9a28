//! Lists and blobs that are longer than a frame, cut into pieces by the parent and put together by the child.
//!
//! The child asks for each piece with a cursor, so nothing piles up in the socket: at no time are more descriptors on
//! their way than one frame carries. A cursor means something to the parent only.

use std::ops::Range;

use crate::limits::{BLOB_BYTES_MAX, BLOBS_MAX, CHUNK_BYTES_MAX, FRAME_FDS_MAX};
use crate::message::{Chunk, ListenSocket, ListenSocketsReply, StateReply, TotalsReply};

/// Bytes that a protobuf field needs beside its content at most: the tag and the length.
const FIELD_BYTES: usize = 8;

/// Bits of a cursor that are the offset within a blob.
const OFFSET_BITS: u32 = 32;

/// A named piece of state whose meaning is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Name; the child passes over names that it does not know.
    pub name: String,
    /// Content.
    pub bytes: Vec<u8>,
}

/// The reply to a request for listening sockets with this cursor, and which of `sockets` are in it: the frame gets
/// their descriptors in this order. Asked for something that is not there, it is empty.
#[must_use]
pub fn listen_sockets_reply(sockets: &[ListenSocket], cursor: u64) -> (ListenSocketsReply, Range<usize>) {
    let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(sockets.len());
    let mut bytes = 0;
    let mut end = start;
    for socket in sockets.iter().skip(start).take(FRAME_FDS_MAX) {
        bytes += prost::Message::encoded_len(socket) + FIELD_BYTES;
        // One is always taken, or it would never go on; `Connection` refuses it if it is longer than a frame.
        if bytes > CHUNK_BYTES_MAX && end > start {
            break;
        }
        end += 1;
    }
    let taken = sockets.get(start..end).unwrap_or_default().to_vec();
    let more = end < sockets.len();
    (ListenSocketsReply { sockets: taken, more, next: as_cursor(end) }, start..end)
}

/// The reply to a request for state with this cursor.
#[must_use]
pub fn state_reply(blobs: &[Blob], cursor: u64) -> StateReply {
    let (chunks, more, next) = chunks(blobs, cursor);
    StateReply { chunks, more, next }
}

/// The reply to a request for totals with this cursor.
#[must_use]
pub fn totals_reply(blobs: &[Blob], cursor: u64) -> TotalsReply {
    let (chunks, more, next) = chunks(blobs, cursor);
    TotalsReply { chunks, more, next }
}

fn chunks(blobs: &[Blob], cursor: u64) -> (Vec<Chunk>, bool, u64) {
    let mut index = usize::try_from(cursor >> OFFSET_BITS).unwrap_or(usize::MAX);
    let mut offset = usize::try_from(cursor & ((1 << OFFSET_BITS) - 1)).unwrap_or(usize::MAX);
    let mut chunks = Vec::new();
    let mut room = CHUNK_BYTES_MAX;
    while let Some(blob) = blobs.get(index) {
        let overhead = blob.name.len() + 4 * FIELD_BYTES;
        if !chunks.is_empty() && room <= overhead {
            break;
        }
        let rest = blob.bytes.get(offset..).unwrap_or_default();
        // At least one byte, or a long name would keep it from ever going on.
        let take = rest.len().min(room.saturating_sub(overhead).max(1));
        room = room.saturating_sub(overhead + take);
        chunks.push(Chunk {
            name: blob.name.clone(),
            offset: as_cursor(offset),
            length: as_cursor(blob.bytes.len()),
            bytes: rest.get(..take).unwrap_or_default().to_vec(),
        });
        if take < rest.len() {
            offset += take;
            break;
        }
        index += 1;
        offset = 0;
    }
    (chunks, index < blobs.len(), as_cursor(index) << OFFSET_BITS | as_cursor(offset))
}

/// Puts the pieces of blobs together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    blobs: Vec<Blob>,
    /// What is still to come of the last blob, if it is not complete.
    missing: u64,
    bytes: usize,
}

impl Assembler {
    /// Takes pieces; an error says what is wrong with them.
    pub(crate) fn add(&mut self, chunks: Vec<Chunk>) -> Result<(), String> {
        for chunk in chunks {
            let length = as_cursor(chunk.bytes.len());
            self.bytes += chunk.bytes.len() + chunk.name.len();
            if self.bytes > BLOB_BYTES_MAX {
                return Err(format!("more than {BLOB_BYTES_MAX} bytes"));
            }
            if self.missing == 0 {
                if chunk.offset != 0 || length > chunk.length {
                    return Err(format!("a piece of {:?} is out of place", chunk.name));
                }
                if self.blobs.len() == BLOBS_MAX {
                    return Err(format!("more than {BLOBS_MAX} blobs"));
                }
                self.missing = chunk.length - length;
                self.blobs.push(Blob { name: chunk.name, bytes: chunk.bytes });
            } else {
                let Some(blob) = self.blobs.last_mut() else { return Err("no blob".to_owned()) };
                let here = as_cursor(blob.bytes.len());
                if chunk.name != blob.name || chunk.offset != here || length > self.missing || length == 0 {
                    return Err(format!("a piece of {:?} is out of place", chunk.name));
                }
                self.missing -= length;
                blob.bytes.extend_from_slice(&chunk.bytes);
            }
        }
        Ok(())
    }

    /// The blobs, once nothing more comes; an error if one is not complete.
    pub(crate) fn finish(self) -> Result<Vec<Blob>, String> {
        match (self.missing, self.blobs.last()) {
            (1.., Some(blob)) => Err(format!("the end of {:?} is missing", blob.name)),
            _ => Ok(self.blobs),
        }
    }
}

fn as_cursor(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::frame::Frame;

    fn through_the_wire(blobs: &[Blob]) -> (Vec<Blob>, usize) {
        let mut assembler = Assembler::default();
        let mut cursor = 0;
        for frames in 1.. {
            let reply = state_reply(blobs, cursor);
            assert!(Frame::new(0, reply.clone()).encode().is_ok());
            assembler.add(reply.chunks).unwrap();
            if !reply.more {
                return (assembler.finish().unwrap(), frames);
            }
            assert!(reply.next > cursor);
            cursor = reply.next;
        }
        unreachable!()
    }

    fn blob(name: &str, length: usize) -> Blob {
        let bytes = (0..length).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        Blob { name: name.to_owned(), bytes }
    }

    #[test]
    fn blobs_of_all_sizes_arrive_whole() {
        assert_eq!(through_the_wire(&[]), (vec![], 1));
        let lengths = [0, 1, 0, 47_000, 2_000, 200_000, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 0];
        let blobs: Vec<Blob> = lengths.iter().map(|length| blob("some", *length)).collect();
        let (arrived, frames) = through_the_wire(&blobs);
        assert!(arrived == blobs);
        assert!((7..12).contains(&frames), "{frames}");
        let many: Vec<Blob> =
            (0..BLOBS_MAX).map(|number| blob(&format!("blob {number}"), number % 50)).collect();
        assert!(through_the_wire(&many).0 == many);
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let chunk = |offset, length, bytes: &[u8]| Chunk {
            name: "a".to_owned(),
            offset,
            length,
            bytes: bytes.to_vec(),
        };
        for pieces in [
            vec![chunk(1, 2, b"b")],
            vec![chunk(0, 1, b"bb")],
            vec![chunk(0, 3, b"b"), chunk(2, 3, b"b")],
            vec![chunk(0, 3, b"b"), chunk(1, 3, b"bbb")],
            vec![chunk(0, 3, b"b"), chunk(1, 3, b"")],
        ] {
            assert!(Assembler::default().add(pieces.clone()).is_err(), "{pieces:?}");
        }
        let mut cut_off = Assembler::default();
        cut_off.add(vec![chunk(0, 3, b"b")]).unwrap();
        assert!(cut_off.finish().is_err());
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let chunk = |name: usize| Chunk {
            name: name.to_string(),
            offset: 0,
            length: 1 << 20,
            bytes: vec![0; 1 << 20],
        };
        let mut assembler = Assembler::default();
        assert!((0..64).any(|name| assembler.add(vec![chunk(name)]).is_err()));
        let empty = |name: usize| Chunk { name: name.to_string(), ..Chunk::default() };
        assert!(Assembler::default().add((0..=BLOBS_MAX).map(empty).collect()).is_err());
    }

    #[test]
    fn a_cursor_from_outside_is_harmless() {
        let blobs = [blob("a", 10)];
        for cursor in [5, 11, 1 << 32, u64::MAX, u64::from(u32::MAX)] {
            let reply = state_reply(&blobs, cursor);
            assert!(reply.chunks.len() <= 1);
            let (reply, range) = listen_sockets_reply(&[ListenSocket::default()], cursor);
            assert!(reply.sockets.is_empty() && range.is_empty() && !reply.more);
        }
    }

    #[test]
    fn a_thousand_listeners_of_four_workers_go_in_batches() {
        let socket = |number: u32| ListenSocket {
            purpose: "listener".to_owned(),
            protocol: "unix".to_owned(),
            address: format!("/run/{}/{number}", "x".repeat(90)),
            worker: number % 4,
            ..ListenSocket::default()
        };
        let sockets: Vec<ListenSocket> = (0..4000).map(socket).collect();
        let mut taken = Vec::new();
        let mut cursor = 0;
        loop {
            let (reply, range) = listen_sockets_reply(&sockets, cursor);
            assert_eq!(range.start, taken.len());
            assert_eq!(range.len(), reply.sockets.len());
            assert!(range.len() <= FRAME_FDS_MAX && Frame::new(0, reply.clone()).encode().is_ok());
            taken.extend(reply.sockets);
            cursor = reply.next;
            if !reply.more {
                break;
            }
        }
        assert_eq!(taken, sockets);
    }
}
