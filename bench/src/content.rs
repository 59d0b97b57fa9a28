//! What is transferred: bytes that look random, so that nothing that was lost, doubled or moved goes unseen.

use std::sync::Arc;

/// Bytes of a small response body and of a small echo.
pub(crate) const SMALL: usize = 100;

/// Bytes of a medium body.
pub(crate) const MEDIUM: usize = 64 * 1024;

/// Bytes of a large body.
pub(crate) const LARGE: usize = 1024 * 1024;

/// Host names in the scenario with many routes.
pub(crate) const HOSTS: usize = 1000;

/// Where the built-in origin answers with the request head as it came.
pub(crate) const HEAD_PATH: &str = "/head";

/// The host name of everything that does not ask for many.
pub(crate) const HOST: &str = "bench.example.com";

/// The body of this length: letters and digits, the same every time.
pub(crate) fn body(length: usize) -> Arc<[u8]> {
    let mut bytes = Vec::with_capacity(length);
    fill(&mut bytes, length, 1);
    bytes.into()
}

/// Appends `length` letters and digits that depend on `seed`.
pub(crate) fn fill(bytes: &mut Vec<u8>, length: usize, seed: u64) {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let end = bytes.len() + length;
    while bytes.len() < end {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for byte in state.to_le_bytes().into_iter().take(end - bytes.len()) {
            bytes.push(LETTERS[usize::from(byte & 31)]);
        }
    }
}

/// The host name with this number.
pub(crate) fn host(number: usize) -> String {
    format!("shop-{number}.example.com")
}

/// Key of our WebSocket handshakes, the example of RFC 6455: nobody is to be kept out, so it may be known.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a server answers to [`WEBSOCKET_KEY`].
pub(crate) const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_every_time_and_differs_everywhere() {
        let large = body(LARGE);
        assert_eq!(large.len(), LARGE);
        assert_eq!(large[..SMALL], body(SMALL)[..]);
        assert!(large.iter().all(u8::is_ascii_alphanumeric));
        assert!(large.chunks(MEDIUM).skip(1).all(|piece| piece != &large[..MEDIUM]));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        fill(&mut one, 8, 2);
        fill(&mut two, 8, 3);
        assert_ne!(one, two);
    }
}
