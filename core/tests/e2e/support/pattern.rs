//! Long bodies whose every byte tells its place, so that a lost, doubled or swapped byte is found where it is.

/// The byte at `offset` of the endless pattern.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Fills `piece` with the pattern from `offset` on.
pub(crate) fn fill(piece: &mut [u8], offset: u64) {
    for (index, byte) in piece.iter_mut().enumerate() {
        *byte = byte_at(offset + index as u64);
    }
}

/// The length of bodies that are big: far more than all buffers on their way together.
pub(crate) const BIG: u64 = 64 * 1024 * 1024;

/// A piece of the first `total` bytes of the pattern, from `offset` on.
pub(crate) fn piece(offset: u64, total: u64) -> Vec<u8> {
    let mut piece = vec![0; (total - offset).min(256 * 1024) as usize];
    fill(&mut piece, offset);
    piece
}

/// The first `length` bytes of the pattern.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut all = vec![0; length];
    fill(&mut all, 0);
    all
}

/// Compares what arrives, piece by piece, with the pattern.
#[derive(Default)]
pub(crate) struct Checker {
    offset: u64,
}

impl Checker {
    /// Takes the next piece.
    #[track_caller]
    pub(crate) fn take(&mut self, piece: &[u8]) {
        for (index, byte) in piece.iter().enumerate() {
            let at = self.offset + index as u64;
            assert!(*byte == byte_at(at), "the byte at offset {at} is {byte:#04x}, not {:#04x}", byte_at(at));
        }
        self.offset += piece.len() as u64;
    }

    /// Bytes seen so far.
    pub(crate) fn count(&self) -> u64 {
        self.offset
    }
}
