//! Names the rule that a refused head has broken.
//!
//! The pass over a head says only roughly where it came to a stop. The text here is read a second time, line by line, which
//! is too slow for every head and just right for one whose sender is about to be told what is wrong.

use super::{
    bytes::{is_space, is_token_byte},
    error::{HeadError, RequestError, ResponseError},
    fields::check_line,
    request::MAX_METHOD_BYTES,
    scan::Stop,
};

/// Why the pass over `head`, a request without the empty lines before it, came to a stop.
#[cold]
pub(super) fn request(head: &[u8], stop: Stop) -> RequestError {
    match stop {
        Stop::TooManyFields => HeadError::TooManyFields.into(),
        Stop::FirstLine => request_line(head).unwrap_or_else(|| field_section(head).into()),
        Stop::FieldLine | Stop::Partial => field_section(head).into(),
    }
}

/// Why the pass over `head`, a response, came to a stop.
#[cold]
pub(super) fn response(head: &[u8], stop: Stop) -> ResponseError {
    match stop {
        Stop::TooManyFields => HeadError::TooManyFields.into(),
        Stop::FirstLine => status_line(head),
        Stop::FieldLine | Stop::Partial => field_section(head).into(),
    }
}

/// What is wrong with the status line.
fn status_line(head: &[u8]) -> ResponseError {
    let line = line_of(head);
    match (line.text.get(..9), line.text.get(9..12)) {
        (Some(b"HTTP/1.0 " | b"HTTP/1.1 "), Some(code)) if !is_digits(code) => ResponseError::BadStatus,
        (Some(b"HTTP/1.0 " | b"HTTP/1.1 "), Some(_)) if line.bare_lf => HeadError::BareLf.into(),
        (Some(b"HTTP/1.0 " | b"HTTP/1.1 "), _) => ResponseError::BadStatusLine,
        _ if matches!(head, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..]) => {
            ResponseError::UnsupportedVersion
        }
        _ => ResponseError::BadStatusLine,
    }
}

/// What is wrong with the request line, if anything is.
fn request_line(head: &[u8]) -> Option<RequestError> {
    // A ClientHello: handshake record, major version 3.
    if let [0x16] | [0x16, 0x03, ..] = head {
        return Some(RequestError::TlsHandshake);
    }
    let Line { mut text, mut complete, .. } = line_of(head);
    if let Some(line) = text.strip_suffix(b"\r").filter(|_| !complete) {
        (text, complete) = (line, true);
    }
    let mut parts = text.splitn(3, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    if method.len() > MAX_METHOD_BYTES && method.iter().all(|byte| is_token_byte(*byte)) {
        return Some(RequestError::MethodTooLong);
    }
    if method.iter().any(|byte| !is_token_byte(*byte)) {
        return Some(RequestError::BadMethod);
    }
    let target = parts.next().unwrap_or_default();
    let version = parts.next();
    if method.is_empty() || (target.is_empty() && (complete || version.is_some())) {
        return Some(RequestError::BadRequestLine);
    }
    if target.iter().any(|byte| !byte.is_ascii_graphic()) {
        return Some(RequestError::BadTarget);
    }
    match version {
        None => Some(RequestError::MissingVersion),
        Some([b'H', b'T', b'T', b'P', b'/', b'0' | b'2'..=b'9', ..]) => {
            Some(RequestError::UnsupportedVersion)
        }
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9', ..]) => {
            Some(RequestError::UnsupportedVersion)
        }
        Some(b"HTTP/1.0" | b"HTTP/1.1") => None,
        Some(_) => Some(RequestError::BadRequestLine),
    }
}

/// What is wrong with the fields of a head whose first line is well-formed.
fn field_section(head: &[u8]) -> HeadError {
    let mut line = line_of(head);
    loop {
        if line.bare_lf {
            return HeadError::BareLf;
        }
        if !line.complete {
            break;
        }
        line = line_of(line.rest);
        if line.text.is_empty() && line.complete {
            if line.bare_lf {
                return HeadError::BareLf;
            }
            break;
        }
        let checked = if line.complete { check_line(line.text).map(drop) } else { check_start(line.text) };
        if let Err(error) = checked {
            return error;
        }
    }
    HeadError::BareCr
}

/// What is wrong with a field line of which only the beginning has come.
fn check_start(line: &[u8]) -> Result<(), HeadError> {
    if line.contains(&b':') || line.first().is_some_and(|first| is_space(*first)) {
        return check_line(line).map(drop);
    }
    match line.iter().find(|byte| !is_token_byte(**byte)) {
        None => Ok(()),
        Some(b' ' | b'\t') => Err(HeadError::SpaceBeforeColon),
        Some(b'\r') if line.ends_with(b"\r") => Err(HeadError::MissingColon),
        Some(b'\r') => Err(HeadError::BareCr),
        Some(_) => Err(HeadError::BadFieldName),
    }
}

/// The first line of some text.
struct Line<'b> {
    /// The line without its end.
    text: &'b [u8],
    /// What follows its end.
    rest: &'b [u8],
    /// Its end has been received.
    complete: bool,
    /// It ends with LF alone.
    bare_lf: bool,
}

fn line_of(text: &[u8]) -> Line<'_> {
    let Some((line, rest)) = memchr::memchr(b'\n', text).and_then(|lf| text.split_at_checked(lf)) else {
        return Line { text, rest: b"", complete: false, bare_lf: false };
    };
    let rest = rest.get(1..).unwrap_or_default();
    match line.strip_suffix(b"\r") {
        Some(line) => Line { text: line, rest, complete: true, bare_lf: false },
        None => Line { text: line, rest, complete: true, bare_lf: true },
    }
}

fn is_digits(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit)
}
