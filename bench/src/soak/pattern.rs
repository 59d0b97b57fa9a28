//! Content that depends on its position: a byte that was lost, doubled or moved does not fit any more.

/// Bytes that are compared at a time.
const PIECE: usize = 4096;

/// Fills `bytes` with what stands at `position` of a stream.
pub(super) fn fill(stream: u64, position: u64, bytes: &mut [u8]) {
    let (mut index, skip) = (position / 8, position % 8);
    let skip = usize::try_from(skip).unwrap_or_default();
    let (first, rest) = bytes.split_at_mut(if skip == 0 { 0 } else { bytes.len().min(8 - skip) });
    if !first.is_empty() {
        first.copy_from_slice(&word(stream, index)[skip..skip + first.len()]);
        index += 1;
    }
    for piece in rest.chunks_mut(8) {
        piece.copy_from_slice(&word(stream, index)[..piece.len()]);
        index += 1;
    }
}

/// Compares bytes with what stands at `position` of a stream. Returns the first position that differs.
pub(super) fn differs(stream: u64, position: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = [0; PIECE];
    let mut at = position;
    for piece in bytes.chunks(PIECE) {
        let expected = &mut expected[..piece.len()];
        fill(stream, at, expected);
        if piece != expected {
            let same = piece.iter().zip(expected).take_while(|(one, other)| one == other).count();
            return Some(at + same as u64);
        }
        at += piece.len() as u64;
    }
    None
}

/// The bytes of a stream.
pub(super) fn bytes(stream: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill(stream, 0, &mut bytes);
    bytes
}

/// Eight bytes of a stream: the finaliser of splitmix64.
const fn word(stream: u64, index: u64) -> [u8; 8] {
    let mut x = stream.wrapping_mul(0xd134_2543_de82_ef95) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_from_any_position() {
        let whole = bytes(7, 10_000);
        for (from, length) in [(0, 1), (1, 1), (3, 5), (3, 6), (7, 4000), (8, 16), (4095, 5000)] {
            let mut part = vec![0; length];
            fill(7, from as u64, &mut part);
            assert_eq!(part, whole[from..from + length], "{from}");
            assert_eq!(differs(7, from as u64, &part), None);
        }
    }

    #[test]
    fn what_is_lost_doubled_or_from_elsewhere_is_found() {
        let whole = bytes(7, 10_000);
        let lost = [&whole[..5000], &whole[5001..]].concat();
        assert!(differs(7, 0, &lost).is_some_and(|at| (5000..5003).contains(&at)));
        let doubled = [&whole[..5001], &whole[5000..]].concat();
        assert!(differs(7, 0, &doubled).is_some_and(|at| (5001..5004).contains(&at)));
        assert!(differs(8, 0, &whole).is_some_and(|at| at < 3));
    }
}
