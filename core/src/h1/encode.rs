//! Small pieces of HTTP/1 text, appended to a buffer without allocation of their own.

use crate::base::http::Version;

/// Writes the line before the data of a chunk. RFC 9112 section 7.1. The last chunk is `0` and has no data.
pub fn write_chunk_header(out: &mut Vec<u8>, len: usize) {
    write_hex(out, len as u64);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal. Most are short: three digits at a time, and no loop for those that have no more.
pub fn write_u64(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(decimal(value));
    } else if value < 100 {
        out.extend_from_slice(&[decimal(value / 10), decimal(value)]);
    } else {
        if value >= 1000 {
            write_u64(out, value / 1000);
        }
        out.extend_from_slice(&[decimal(value / 100), decimal(value / 10), decimal(value)]);
    }
}

/// Writes a number in lower-case hexadecimal.
pub fn write_hex(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 16];
    let mut start = digits.len();
    for place in digits.iter_mut().rev() {
        *place = *b"0123456789abcdef".get(usize::try_from(value % 16).unwrap_or(0)).unwrap_or(&b'0');
        start -= 1;
        value /= 16;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// Writes a status line. RFC 9112 section 4. The space before the reason is there even where the reason is empty.
pub fn write_status_line(out: &mut Vec<u8>, version: Version, status: u16, reason: &[u8]) {
    out.extend_from_slice(match version {
        Version::Http10 => b"HTTP/1.0 ",
        Version::Http11 => b"HTTP/1.1 ",
    });
    write_u64(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Reason phrase of a status code, as registered with IANA; empty for one that is not.
#[must_use]
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// The last decimal digit of a number.
#[inline]
#[allow(clippy::cast_possible_truncation)] // below 10
const fn decimal(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for value in
            [0, 1, 9, 10, 15, 16, 99, 100, 255, 256, 999, 1000, 1001, 65_535, 1 << 32, u64::MAX - 1, u64::MAX]
        {
            let (mut decimal, mut hex) = (Vec::new(), Vec::new());
            write_u64(&mut decimal, value);
            write_hex(&mut hex, value);
            assert_eq!(decimal, value.to_string().as_bytes());
            assert_eq!(hex, format!("{value:x}").as_bytes());
        }
    }

    #[test]
    fn chunk_headers_are_appended() {
        let mut out = b"x".to_vec();
        write_chunk_header(&mut out, 26);
        write_chunk_header(&mut out, 0);
        assert_eq!(out, b"x1a\r\n0\r\n");
    }

    #[test]
    fn status_lines_keep_the_space_before_an_empty_reason() {
        let mut out = Vec::new();
        write_status_line(&mut out, Version::Http11, 200, reason_phrase(200).as_bytes());
        write_status_line(&mut out, Version::Http10, 599, reason_phrase(599).as_bytes());
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nHTTP/1.0 599 \r\n");
    }
}
