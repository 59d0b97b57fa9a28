//! `Connection`: what the sender says about this connection. RFC 9110 section 7.6.1.

use super::{bytes, error::HeadError};
use crate::base::http::{Field, FieldKind, Version, is_text};

/// Options in all `Connection` fields of one head. Each one is looked for among all fields, so it bounds the work
/// that a head can make.
const MAX_OPTIONS: usize = 32;

/// The connection options that the proxy itself understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Options {
    /// Whether the connection persists. RFC 9112 section 9.3.
    pub(super) const fn persists(self, version: Version) -> bool {
        match version {
            _ if self.close => false,
            Version::Http11 => true,
            Version::Http10 => self.keep_alive,
        }
    }

    /// Notes an option, and says whether it is one of these.
    #[inline]
    fn take(&mut self, option: &[u8]) -> bool {
        if is_text(option, b"keep-alive") {
            self.keep_alive = true;
        } else if is_text(option, b"close") {
            self.close = true;
        } else if is_text(option, b"upgrade") {
            self.upgrade = true;
        } else {
            return false;
        }
        true
    }
}

/// Reads every `Connection` field and marks the fields that they name.
pub(super) fn options(head: &[u8], fields: &mut [Field]) -> Result<Options, HeadError> {
    let mut options = Options::default();
    let mut seen = 0;
    for index in 0..fields.len() {
        let Some(field) = fields.get(index).filter(|field| field.kind == FieldKind::Connection) else {
            continue;
        };
        // Mostly there is one option, and it is one of these.
        if seen < MAX_OPTIONS && options.take(field.value(head)) {
            seen += 1;
            continue;
        }
        for option in bytes::list(field.value(head)) {
            // Empty elements mean nothing (RFC 9110 section 5.6.1) but are counted, too.
            seen += 1;
            if seen > MAX_OPTIONS {
                return Err(HeadError::TooManyConnectionOptions);
            }
            if !options.take(option) && !option.is_empty() {
                mark(head, fields, option)?;
            }
        }
    }
    Ok(options)
}

/// Marks the fields called `option`.
fn mark(head: &[u8], fields: &mut [Field], option: &[u8]) -> Result<(), HeadError> {
    if !bytes::is_token(option) {
        return Err(HeadError::BadConnection);
    }
    match FieldKind::of(option) {
        FieldKind::Host | FieldKind::ContentLength | FieldKind::TransferEncoding => {
            return Err(HeadError::ConnectionNamesEssential);
        }
        _ => {}
    }
    for field in fields.iter_mut().filter(|field| usize::from(field.name_len) == option.len()) {
        if field.name(head).eq_ignore_ascii_case(option) {
            field.named_by_connection = true;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadLimits, Parsed, RequestError, parse_request};

    /// Options of a request with these field lines, and the names that they mark.
    fn read(lines: &str) -> Result<(Options, Vec<String>), RequestError> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let mut fields = Vec::new();
        let limits = HeadLimits { head_bytes: 65_536, headers: 256 };
        let parsed = parse_request(head.as_bytes(), limits, &mut fields)?;
        assert!(matches!(parsed, Parsed::Complete { .. }));
        let marked = fields
            .iter()
            .filter(|field| field.named_by_connection)
            .map(|field| String::from_utf8_lossy(field.name(head.as_bytes())).into_owned())
            .collect();
        fields.iter_mut().for_each(|field| field.named_by_connection = false);
        Ok((options(head.as_bytes(), &mut fields)?, marked))
    }

    #[test]
    fn known_options_are_read_whatever_their_case() {
        let none = Options::default();
        for (lines, expected) in [
            ("", none),
            ("Connection:\r\n", none),
            ("Connection: ,, ,\r\n", none),
            ("Connection: close\r\n", Options { close: true, ..none }),
            ("CONNECTION: CLOSE\r\n", Options { close: true, ..none }),
            ("Connection: keep-alive\r\n", Options { keep_alive: true, ..none }),
            ("Connection: Upgrade\r\n", Options { upgrade: true, ..none }),
            ("Connection: keep-alive, Upgrade\r\n", Options { keep_alive: true, upgrade: true, ..none }),
            ("Connection:keep-alive\t,close\r\n", Options { keep_alive: true, close: true, ..none }),
            ("Connection: x\r\nConnection: close\r\n", Options { close: true, ..none }),
            ("Connection: closed\r\n", none),
        ] {
            assert_eq!(read(lines).map(|(options, _)| options), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn other_options_mark_the_fields_they_name() {
        for (lines, expected) in [
            ("Connection: x-a\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\n", &["X-A", "x-a"][..]),
            ("X-A: 1\r\nX-B: 2\r\nConnection: X-B, x-A\r\n", &["X-A", "X-B"]),
            ("X-A: 1\r\nConnection: x-aa, x-, x\r\n", &[]),
            ("Connection: close\r\nClose: 1\r\n", &[]),
            ("Connection: TE\r\nTE: trailers\r\n", &["TE"]),
        ] {
            assert_eq!(
                read(lines).map(|(_, marked)| marked),
                Ok(expected.iter().map(|n| (*n).into()).collect())
            );
        }
    }

    #[test]
    fn options_that_change_the_message_are_refused() {
        for option in ["host", "Content-Length", "TRANSFER-ENCODING", "close, Host", "x, ,transfer-encoding"]
        {
            let error = read(&format!("Connection: {option}\r\n")).unwrap_err();
            assert_eq!(error, RequestError::Head(HeadError::ConnectionNamesEssential), "{option}");
        }
        for option in ["a b", "close;x", "\"close\"", "a=b", "(close)"] {
            let error = read(&format!("Connection: {option}\r\n")).unwrap_err();
            assert_eq!(error, RequestError::Head(HeadError::BadConnection), "{option}");
        }
    }

    #[test]
    fn the_number_of_options_is_bounded_over_all_fields() {
        let options = |count: usize| format!("Connection: {}\r\n", vec!["x"; count].join(","));
        assert!(read(&options(MAX_OPTIONS)).is_ok());
        assert!(read(&options(20)).is_ok());
        for lines in
            [options(MAX_OPTIONS + 1), options(20).repeat(2), "Connection: ,,,,,,,,,,,,,,,,\r\n".repeat(2)]
        {
            assert_eq!(read(&lines).unwrap_err(), RequestError::Head(HeadError::TooManyConnectionOptions));
        }
    }

    #[test]
    fn persistence_follows_version_and_options() {
        let none = Options::default();
        for (options, http10, http11) in [
            (none, false, true),
            (Options { keep_alive: true, ..none }, true, true),
            (Options { close: true, ..none }, false, false),
            (Options { close: true, keep_alive: true, ..none }, false, false),
            (Options { upgrade: true, ..none }, false, true),
        ] {
            assert_eq!(options.persists(Version::Http10), http10, "{options:?}");
            assert_eq!(options.persists(Version::Http11), http11, "{options:?}");
        }
    }
}
