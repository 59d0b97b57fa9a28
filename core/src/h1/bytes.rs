//! Byte classes of RFC 9110 section 5.6 and offsets within a head.

use crate::base::{http::Span, limits};

// Spans are 32 bits wide.
const _: () = assert!(limits::MAX_HEAD_BYTES <= u32::MAX as usize);

/// `tchar`: what names, methods and options are made of. RFC 9110 section 5.6.2.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// A non-empty run of `tchar`.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

/// `field-vchar`, SP and HTAB: no other control character, DEL included, is part of a value. RFC 9110 section 5.5.
pub(super) const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `OWS` is made of these.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `text` without the optional white space around it.
pub(super) const fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

/// Elements of a comma-separated list, white space around each left out, empty ones included.
/// RFC 9110 section 5.6.1.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// An offset within a head, which [`limits::MAX_HEAD_BYTES`] keeps far below 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "heads are at most MAX_HEAD_BYTES long, asserted above")]
pub(super) const fn offset(position: usize) -> u32 {
    debug_assert!(position <= limits::MAX_HEAD_BYTES);
    position as u32
}

/// Where `part`, which must be a piece of `whole`, begins in it.
pub(super) fn position(whole: &[u8], part: &[u8]) -> usize {
    let position = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    debug_assert!(position <= whole.len());
    position
}

/// The span of `part`, which must be a piece of `whole`.
pub(super) fn span(whole: &[u8], part: &[u8]) -> Span {
    let start = position(whole, part);
    Span { start: offset(start), end: offset(start + part.len()) }
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_bytes_are_those_of_the_rfc() {
        let delimiters = b"\"(),/:;<=>?@[\\]{}";
        for byte in 0..=255u8 {
            let expected = byte.is_ascii_graphic() && !delimiters.contains(&byte);
            assert_eq!(is_token_byte(byte), expected, "{byte:#x}");
        }
        assert!(is_token(b"keep-alive"));
        assert!(!is_token(b""));
        assert!(!is_token(b"keep alive"));
    }

    #[test]
    fn value_bytes_leave_out_control_characters() {
        for byte in 0..=255u8 {
            let expected = byte == b'\t' || !byte.is_ascii_control();
            assert_eq!(is_value_byte(byte), expected, "{byte:#x}");
        }
    }

    #[test]
    fn lists_are_split_and_trimmed() {
        let elements: Vec<&[u8]> = list(b" a ,\tb,, c\t").collect();
        assert_eq!(elements, [&b"a"[..], b"b", b"", b"c"]);
        assert_eq!(list(b"").collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn spans_are_relative_to_the_whole() {
        let whole = b"abcdef";
        assert_eq!(span(whole, &whole[2..5]), Span { start: 2, end: 5 });
        assert_eq!(span(whole, &whole[6..]), Span { start: 6, end: 6 });
    }
}
