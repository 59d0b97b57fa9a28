//! The two fields that say where a body ends. RFC 9112 section 6.

use super::{
    bytes::{is_token, list},
    error::HeadError,
};

/// Reads `Content-Length`: decimal digits and nothing else. RFC 9110 section 8.6.
///
/// Lists ("5, 5") are refused although the RFC lets a recipient fold equal ones: a peer that sends them is either
/// broken or probing.
pub(super) fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() {
        return Err(HeadError::BadContentLength);
    }
    let mut length = 0u64;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(HeadError::BadContentLength);
        }
        length = length
            .checked_mul(10)
            .and_then(|length| length.checked_add(u64::from(digit)))
            .ok_or(HeadError::BadContentLength)?;
    }
    Ok(length)
}

/// Checks that `Transfer-Encoding` is `chunked`, and says what is wrong where it is not.
pub(super) fn transfer_encoding(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(refused_coding(value)) }
}

#[cold]
fn refused_coding(value: &[u8]) -> HeadError {
    if !list(value).all(is_token) {
        return HeadError::BadTransferEncoding;
    }
    let chunked = list(value).filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
    let last = list(value).last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    match (chunked, last) {
        (0, _) | (1, true) => HeadError::UnknownTransferCoding,
        _ => HeadError::ChunkedNotLast,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_digits_only() {
        for (text, length) in
            [("0", 0), ("5", 5), ("0000000000000000000000000000042", 42), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(content_length(text.as_bytes()), Ok(length), "{text}");
        }
        for text in [
            "",
            "+5",
            "-5",
            " 5",
            "5 ",
            "5 5",
            "5,5",
            "5, 5",
            "0x5",
            "5a",
            "5.0",
            "1e3",
            "18446744073709551616",
            "99999999999999999999",
            "184467440737095516150",
            "\u{663}",
            "5;",
            "\"5\"",
        ] {
            assert_eq!(content_length(text.as_bytes()), Err(HeadError::BadContentLength), "{text:?}");
        }
    }

    #[test]
    fn only_chunked_is_a_known_coding() {
        for text in ["chunked", "Chunked", "CHUNKED"] {
            assert_eq!(transfer_encoding(text.as_bytes()), Ok(()), "{text}");
        }
        for (text, error) in [
            ("", HeadError::BadTransferEncoding),
            (",", HeadError::BadTransferEncoding),
            ("chunked,", HeadError::BadTransferEncoding),
            (",chunked", HeadError::BadTransferEncoding),
            ("chunked;q=1", HeadError::BadTransferEncoding),
            ("\"chunked\"", HeadError::BadTransferEncoding),
            ("chunked chunked", HeadError::BadTransferEncoding),
            ("chunked, chunked", HeadError::ChunkedNotLast),
            ("chunked, gzip", HeadError::ChunkedNotLast),
            ("chunked, identity", HeadError::ChunkedNotLast),
            ("chunked, gzip, chunked", HeadError::ChunkedNotLast),
            ("gzip, chunked", HeadError::UnknownTransferCoding),
            ("gzip", HeadError::UnknownTransferCoding),
            ("identity", HeadError::UnknownTransferCoding),
            ("xchunked", HeadError::UnknownTransferCoding),
            ("chunkedx", HeadError::UnknownTransferCoding),
        ] {
            assert_eq!(transfer_encoding(text.as_bytes()), Err(error), "{text:?}");
        }
    }
}
