//! Looks at every byte that comes back.

use memchr::memmem;

use super::tally::Failure;

/// Longest response head that is waited for, bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Bytes of what was unexpected that an error shows.
const SHOWN: usize = 60;

/// What one exchange has to bring back, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Check {
    rule: Option<HeadRule>,
    /// The beginning of a head that has not ended yet.
    head: Vec<u8>,
    /// Bytes of the body that were as expected.
    seen: usize,
    close: bool,
}

/// What the head of a response must say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadRule {
    /// Its status.
    pub(crate) status: u16,
    /// Its `content-length`; with none, there must be none.
    pub(crate) length: Option<usize>,
}

/// How far an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More has to come.
    More,
    /// All is there.
    Done {
        /// The response said that the connection ends.
        close: bool,
    },
}

/// What is wrong, and the detail.
pub(crate) type Wrong = (Failure, String);

impl Check {
    /// Begins an exchange: a head if there is a rule for it, then the expected bytes.
    pub(crate) fn begin(&mut self, rule: Option<HeadRule>) {
        self.rule = rule;
        self.head.clear();
        self.seen = 0;
        self.close = false;
    }

    /// Whether nothing of the response has come yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.seen == 0 && self.head.is_empty()
    }

    /// Takes what came. `expected` is the whole body.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], expected: &[u8]) -> Result<Progress, Wrong> {
        if let Some(rule) = self.rule {
            let Some(length) = self.read_head(bytes, rule)? else { return Ok(Progress::More) };
            self.rule = None;
            bytes = &bytes[length..];
        }
        let rest = &expected[self.seen..];
        if bytes.len() > rest.len() {
            let text = format!("{} bytes: {}", bytes.len() - rest.len(), shown(&bytes[rest.len()..]));
            return Err((Failure::Extra, text));
        }
        if bytes != &rest[..bytes.len()] {
            let at = bytes.iter().zip(rest).take_while(|(one, other)| one == other).count();
            let text = format!("at byte {}: {}", self.seen + at, shown(&bytes[at..]));
            return Err((Failure::Content, text));
        }
        self.seen += bytes.len();
        if self.seen == expected.len() {
            Ok(Progress::Done { close: self.close })
        } else {
            Ok(Progress::More)
        }
    }

    /// Reads the head, which may have begun with earlier bytes. Returns how many of these bytes belong to it.
    fn read_head(&mut self, bytes: &[u8], rule: HeadRule) -> Result<Option<usize>, Wrong> {
        const END: &[u8] = b"\r\n\r\n";
        if self.head.is_empty()
            && let Some(end) = memmem::find(bytes, END)
        {
            self.close = check_head(&bytes[..end + 2], rule)?;
            return Ok(Some(end + END.len()));
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(END.len() - 1);
        let Some(end) = memmem::find(&self.head[from..], END) else {
            let too_long = self.head.len() > MAX_HEAD;
            return if too_long { Err((Failure::Head, "does not end".into())) } else { Ok(None) };
        };
        let end = from + end;
        self.close = check_head(&self.head[..end + 2], rule)?;
        Ok(Some(end + END.len() - before))
    }
}

/// Checks a head whose lines all end with CR LF, the empty one left out. Returns whether the connection ends.
fn check_head(head: &[u8], rule: HeadRule) -> Result<bool, Wrong> {
    let bad = |text: &str, line: &[u8]| (Failure::Head, format!("{text}: {}", shown(line)));
    let mut lines = Lines { rest: head };
    let line = lines.next().unwrap_or_default();
    let Some(rest) = line.strip_prefix(b"HTTP/1.1 ") else { return Err(bad("status line", line)) };
    let (code, reason) = rest.split_at_checked(3).ok_or_else(|| bad("status line", line))?;
    let status = code
        .iter()
        .try_fold(0, |status, digit| digit.is_ascii_digit().then(|| status * 10 + u16::from(digit - b'0')));
    if !matches!(reason.first(), None | Some(b' ')) || !reason.iter().all(|byte| is_text(*byte)) {
        return Err(bad("status line", line));
    }
    if status != Some(rule.status) {
        return Err((Failure::Status, shown(line)));
    }
    let (mut length, mut close) = (None, false);
    for line in lines {
        let Some(colon) = memchr::memchr(b':', line) else { return Err(bad("no colon", line)) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty()
            || !name.iter().all(|byte| is_name(*byte))
            || !value.iter().all(|byte| is_text(*byte))
        {
            return Err(bad("header field", line));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
            if length.is_some() || number.is_none() {
                return Err(bad("length", line));
            }
            length = number;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(bad("unexpected framing", line));
        } else if name.eq_ignore_ascii_case(b"connection") {
            close |= value.eq_ignore_ascii_case(b"close");
        }
    }
    if length != rule.length && !(rule.length.is_none() && length == Some(0)) {
        return Err((Failure::Length, format!("{length:?} instead of {:?}", rule.length)));
    }
    Ok(close)
}

/// Lines that end with CR LF.
struct Lines<'h> {
    rest: &'h [u8],
}

impl<'h> Iterator for Lines<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        // A bare CR or LF stays in its line, where no byte may be one.
        let end = memchr::memchr(b'\r', self.rest)?;
        if self.rest.get(end + 1) != Some(&b'\n') {
            return Some(std::mem::take(&mut self.rest));
        }
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..).unwrap_or_default();
        Some(line)
    }
}

const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'+')
}

const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn shown(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(SHOWN)];
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: HeadRule = HeadRule { status: 200, length: Some(4) };

    fn feed_split(message: &[u8], split: usize) -> Result<Progress, Failure> {
        let mut check = Check::default();
        check.begin(Some(RULE));
        let (one, two) = message.split_at(split);
        let first = check.feed(one, b"body").map_err(|(failure, _)| failure)?;
        if two.is_empty() { Ok(first) } else { check.feed(two, b"body").map_err(|(failure, _)| failure) }
    }

    #[test]
    fn a_response_may_come_in_any_two_pieces() {
        let message = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nDate: now\r\n\r\nbody";
        for split in 0..message.len() {
            assert_eq!(feed_split(message, split), Ok(Progress::Done { close: false }), "{split}");
        }
        assert_eq!(feed_split(&message[..message.len() - 1], 3), Ok(Progress::More));
    }

    #[test]
    fn the_end_of_the_connection_is_noticed() {
        let message = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nConnection: Close\r\n\r\nbody";
        assert_eq!(feed_split(message, 0), Ok(Progress::Done { close: true }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (message, failure) in [
            ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nbody", Failure::Status),
            ("HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody", Failure::Head),
            ("HTTP/1.1 2000 OK\r\ncontent-length: 4\r\n\r\nbody", Failure::Head),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbody!", Failure::Length),
            ("HTTP/1.1 200 OK\r\n\r\nbody", Failure::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nbody", Failure::Head),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Failure::Head),
            ("HTTP/1.1 200 OK\r\ncontent-length : 4\r\n\r\nbody", Failure::Head),
            ("HTTP/1.1 200 OK\r\nx: a\nb\r\ncontent-length: 4\r\n\r\nbody", Failure::Head),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbods", Failure::Content),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody!", Failure::Extra),
        ] {
            assert_eq!(feed_split(message.as_bytes(), 0), Err(failure), "{message}");
        }
    }

    #[test]
    fn plain_bytes_are_compared_to_the_last() {
        let mut check = Check::default();
        check.begin(None);
        assert!(check.is_untouched());
        assert_eq!(check.feed(b"bo", b"body").unwrap(), Progress::More);
        assert!(!check.is_untouched());
        assert_eq!(check.feed(b"dx", b"body").unwrap_err(), (Failure::Content, "at byte 3: x".into()));
    }
}
