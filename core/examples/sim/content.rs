//! Bytes that tell where they belong: each is a function of its stream and of its position in it.

/// Bytes of a stream before which nothing can be checked: its key.
pub const KEY_BYTES: usize = 8;

/// The byte at a position of the stream with this key. A stream begins with its key.
pub fn byte(key: u64, position: usize) -> u8 {
    if position < KEY_BYTES {
        return key.to_le_bytes()[position];
    }
    let word = (key ^ (position as u64 / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ (word >> 29)).to_be_bytes()[position % 8] ^ (position >> 3) as u8
}

/// A piece of a stream.
pub fn piece(key: u64, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|position| byte(key, position)).collect()
}

/// Where a piece differs from what belongs there.
pub fn difference(key: u64, from: usize, bytes: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|n| bytes[*n] != byte(key, from + n)).map(|n| from + n)
}
