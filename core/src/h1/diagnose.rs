//! Names the rule that a refused head has broken, and looks for rules that an incomplete head breaks already.
//!
//! `httparse` says only roughly what it stumbled over. The text here is read a second time, line by line, which is
//! too slow for every head and just right for one whose sender is about to be told what is wrong.

use super::{
    bytes::{is_space, is_token_byte},
    error::{HeadError, RequestError, ResponseError},
    fields::check_line,
    request::MAX_METHOD_BYTES,
};

/// Why `httparse` has refused `head`, a request without the empty lines before it.
#[cold]
pub(super) fn request(head: &[u8], error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields.into(),
        httparse::Error::HeaderName | httparse::Error::HeaderValue => field_section(head).into(),
        // A CR without LF, either behind the version or where the head should end.
        httparse::Error::NewLine => request_line(head).unwrap_or_else(|| field_section(head).into()),
        httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {
            request_line(head).unwrap_or(RequestError::BadRequestLine)
        }
    }
}

/// Why `httparse` has refused `head`, a response.
#[cold]
pub(super) fn response(head: &[u8], error: httparse::Error) -> ResponseError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields.into(),
        httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {
            field_section(head).into()
        }
        httparse::Error::Version => match head {
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] => ResponseError::UnsupportedVersion,
            _ => ResponseError::BadStatusLine,
        },
        httparse::Error::Status if line_of(head).text.get(9..12).is_some_and(|code| !is_digits(code)) => {
            ResponseError::BadStatus
        }
        httparse::Error::Token | httparse::Error::Status => ResponseError::BadStatusLine,
    }
}

/// Whether a line of an incomplete head ends with LF alone, which no further byte can repair.
#[cold]
pub(super) fn has_bare_lf(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head)
        .any(|lf| lf.checked_sub(1).and_then(|before| head.get(before)) != Some(&b'\r'))
}

/// What is wrong with the request line, if anything is.
fn request_line(head: &[u8]) -> Option<RequestError> {
    // A ClientHello: handshake record, major version 3.
    if let [0x16] | [0x16, 0x03, ..] = head {
        return Some(RequestError::TlsHandshake);
    }
    let Line { text, complete, .. } = line_of(head);
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
    let target = target.strip_suffix(b"\r").filter(|_| version.is_none()).unwrap_or(target);
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
