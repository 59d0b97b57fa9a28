//! One pass over a head: its first line, and where its fields lie. RFC 9112 sections 2 to 5.
//!
//! What is not exactly right ends the pass. What was wrong is found out by [`super::diagnose`], which reads again and has
//! time. Eight bytes are looked at together, as one number: the subtractions and masks below leave the high bit of a byte
//! set where it is one to stop at. Subtracting may set it too in bytes behind the first such one, never before it, and
//! only the first counts.

use super::bytes::{self, is_token_byte, is_value_byte};
use crate::base::http::{Field, FieldKind, Fields, Span, Version};

/// Why there is no whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing is wrong with what is there, and the rest is not there.
    Partial,
    /// The first line is wrong, whatever follows.
    FirstLine,
    /// A field line is wrong, whatever follows, or the line that ends the head.
    FieldLine,
    /// There are more fields than allowed.
    TooManyFields,
}

/// `METHOD target HTTP/1.x`
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLine {
    /// A token.
    pub(super) method: Span,
    /// Not empty; printable ASCII without spaces.
    pub(super) target: Span,
    pub(super) version: Version,
    /// Behind the line.
    pub(super) end: usize,
}

/// `HTTP/1.x 200 reason`
#[derive(Clone, Copy, Debug)]
pub(super) struct StatusLine {
    pub(super) version: Version,
    /// Three digits.
    pub(super) status: u16,
    /// May be empty.
    pub(super) reason: Span,
    /// Behind the line.
    pub(super) end: usize,
}

/// Reads the request line that begins at `start`.
pub(super) fn request_line(head: &[u8], start: usize) -> Result<RequestLine, Stop> {
    let method_end = end_of_token(head, start);
    match head.get(method_end) {
        Some(b' ') if method_end > start => {}
        None => return Err(Stop::Partial),
        Some(_) => return Err(Stop::FirstLine),
    }
    let target_start = method_end + 1;
    let target_end = end_of_target(head, target_start);
    match head.get(target_end) {
        Some(b' ') if target_end > target_start => {}
        None => return Err(Stop::Partial),
        Some(_) => return Err(Stop::FirstLine),
    }
    let rest = head.get(target_end + 1..).unwrap_or_default();
    let version = match rest.first_chunk() {
        Some(b"HTTP/1.1\r\n") => Version::Http11,
        Some(b"HTTP/1.0\r\n") => Version::Http10,
        _ => return Err(unfinished(rest, &[b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"])),
    };
    Ok(RequestLine {
        method: span(start, method_end),
        target: span(target_start, target_end),
        version,
        end: target_end + 1 + b"HTTP/1.1\r\n".len(),
    })
}

/// Reads the status line. The space before an empty reason may be missing.
pub(super) fn status_line(head: &[u8]) -> Result<StatusLine, Stop> {
    let version = match head.first_chunk() {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(unfinished(head, &[b"HTTP/1.1 ", b"HTTP/1.0 "])),
    };
    let digits_at = b"HTTP/1.1 ".len();
    let digits = head.get(digits_at..).unwrap_or_default();
    let Some(digits) = digits.first_chunk::<3>().filter(|digits| digits.iter().all(u8::is_ascii_digit))
    else {
        let is_partial = digits.len() < 3 && digits.iter().all(u8::is_ascii_digit);
        return Err(if is_partial { Stop::Partial } else { Stop::FirstLine });
    };
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let digits_end = digits_at + digits.len();
    let reason_start = if head.get(digits_end) == Some(&b' ') { digits_end + 1 } else { digits_end };
    let reason_end = if reason_start > digits_end { end_of_value(head, reason_start) } else { digits_end };
    let end = end_of_line(head, reason_end, Stop::FirstLine)?;
    Ok(StatusLine { version, status, reason: span(reason_start, reason_end), end })
}

/// Reads field lines from `start` to the empty line that ends the head, and returns where that ends. At most `most`
/// fields are put into `fields`.
pub(super) fn field_section(
    head: &[u8],
    start: usize,
    most: usize,
    fields: &mut Fields,
) -> Result<usize, Stop> {
    let mut at = start;
    loop {
        let name_end = end_of_token(head, at);
        if head.get(name_end) != Some(&b':') || name_end == at {
            return end_of_section(head, at, name_end);
        }
        let text_end = end_of_value(head, name_end + 1);
        let end = end_of_line(head, text_end, Stop::FieldLine)?;
        let value = bytes::span(head, bytes::trim(head.get(name_end + 1..text_end).unwrap_or_default()));
        if fields.len() >= most {
            return Err(Stop::TooManyFields);
        }
        let name = head.get(at..name_end).unwrap_or_default();
        let Ok(name_len) = u16::try_from(name.len()) else { return Err(Stop::FieldLine) };
        fields.push(Field {
            start: bytes::offset(at),
            name_len,
            kind: FieldKind::of(name),
            named_by_connection: false,
            value_start: value.start,
            value_end: value.end,
        });
        at = end;
    }
}

/// What it means that no name with a colon begins at `at`, but only a name, possibly empty, that ends at `name_end`.
fn end_of_section(head: &[u8], at: usize, name_end: usize) -> Result<usize, Stop> {
    if name_end > at {
        return Err(if name_end == head.len() { Stop::Partial } else { Stop::FieldLine });
    }
    end_of_line(head, at, Stop::FieldLine)
}

/// Where the line ends whose CR LF has to be at `at`. If something else is there it is `wrong`.
#[inline]
fn end_of_line(head: &[u8], at: usize, wrong: Stop) -> Result<usize, Stop> {
    match (head.get(at), head.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(at + 2),
        (None | Some(b'\r'), None) => Err(Stop::Partial),
        _ => Err(wrong),
    }
}

/// What to say of a first line of which only `text` is there, or which goes on with something other than one of these.
#[cold]
fn unfinished(text: &[u8], expected: &[&[u8]]) -> Stop {
    let may_become =
        expected.iter().any(|expected| expected.len() > text.len() && expected.starts_with(text));
    if may_become { Stop::Partial } else { Stop::FirstLine }
}

const fn span(start: usize, end: usize) -> Span {
    Span { start: bytes::offset(start), end: bytes::offset(end) }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = each(0x80);

/// Eight times this byte.
const fn each(byte: u8) -> u64 {
    ONES * byte as u64
}

/// Bytes that are zero.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// Bytes below `limit`, which is at most 0x80.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(each(limit)) & !word & HIGH
}

/// Bytes that are neither a letter nor a hyphen. Exact for each byte.
const fn no_letters(word: u64) -> u64 {
    // Added to seven bits, nothing is carried into the next byte.
    let low = (word | each(0x20)) & each(0x7f);
    let letters = (low + each(0x80 - b'a')) & !(low + each(0x7f - b'z'));
    let differs = (word ^ each(b'-')) & each(0x7f);
    let hyphens = !(differs + each(0x7f));
    (!(letters | hyphens) | word) & HIGH
}

/// Where the token ends that begins at `at`: the first byte that cannot be part of one, or the end of what is there.
fn end_of_token(text: &[u8], at: usize) -> usize {
    end_of_run(text, at, no_letters, is_token_byte)
}

/// Where what is made of field value bytes ends, that begins at `at`.
fn end_of_value(text: &[u8], at: usize) -> usize {
    end_of_run(text, at, |word| below(word, b' ') | zeros(word ^ each(0x7f)), is_value_byte)
}

/// Where what is made of printable ASCII other than the space ends, that begins at `at`.
fn end_of_target(text: &[u8], at: usize) -> usize {
    let others = |word| below(word, b'!') | zeros(word ^ each(0x7f)) | (word & HIGH);
    end_of_run(text, at, others, |byte| byte.is_ascii_graphic())
}

/// The first place from `at` on where `belongs` does not hold. `others` finds bytes that may be such ones among eight.
#[inline]
fn end_of_run(
    text: &[u8],
    mut at: usize,
    others: impl Fn(u64) -> u64,
    belongs: impl Fn(u8) -> bool,
) -> usize {
    while let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        let others = others(u64::from_le_bytes(*word));
        if others == 0 {
            at += 8;
            continue;
        }
        at += others.trailing_zeros() as usize / 8;
        if !text.get(at).copied().is_some_and(&belongs) {
            return at;
        }
        at += 1;
    }
    while text.get(at).copied().is_some_and(&belongs) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests;
