//! Response heads. RFC 9112 section 4.

use super::{
    HeadLimits, Parsed, diagnose,
    error::{HeadError, ResponseError},
    fields::Facts,
    scan::{self, StatusLine, Stop},
};
use crate::base::http::{BodyLength, Fields, Method, ResponseHead};

/// Looks for a response head at the beginning of `buf`, which may hold less than the head or more.
///
/// `request_method` is the method of the request that the response is for; it decides whether there is a body.
/// `fields` is cleared, and holds the fields of the head when it is complete. A status line without the space before
/// an empty reason is accepted: many servers leave it out, and nothing hangs on it.
pub fn parse_response(
    buf: &[u8],
    request_method: Method,
    limits: HeadLimits,
    fields: &mut Fields,
) -> Result<Parsed<ResponseHead>, ResponseError> {
    fields.clear();
    let window = limits.window(buf);
    // Empty lines are skipped before requests only.
    let found = scan::status_line(window).and_then(|line| {
        let len = scan::field_section(window, line.end, limits.fields(), fields)?;
        Ok((line, len))
    });
    let (line, len) = match found {
        Ok(found) => found,
        Err(Stop::Partial) if limits.reached(buf) => return Err(HeadError::TooLarge.into()),
        Err(Stop::Partial) => return Ok(Parsed::Partial),
        Err(stop) => return Err(diagnose::response(window, stop)),
    };
    let StatusLine { version, status, reason, .. } = line;
    if !(100..=599).contains(&status) {
        return Err(ResponseError::BadStatus);
    }
    let head = window.get(..len).unwrap_or(window);
    let facts = Facts::of(head, version, fields)?;
    let body = body(request_method, status, &facts)?;
    // A 204 that announces a body may be followed by one all the same; its bytes must not become a response.
    let stray_body = status == 204 && facts.content_length.is_some_and(|length| length > 0);
    Ok(Parsed::Complete {
        head: ResponseHead {
            status,
            reason,
            version,
            body,
            keep_alive: facts.options.persists(version) && body != BodyLength::UntilClose && !stray_body,
            upgrade: facts.upgrade,
            declared_length: facts.content_length.filter(|_| request_method == Method::Head || status == 304),
        },
        len,
    })
}

/// RFC 9112 section 6.3, the rules for responses.
fn body(request_method: Method, status: u16, facts: &Facts) -> Result<BodyLength, ResponseError> {
    let bodiless = matches!(status, 100..=199 | 204);
    if bodiless && facts.chunked {
        return Err(ResponseError::BodyNotAllowed);
    }
    // Another response follows a 1xx on the same connection, so closing is no way out as it is for a 204.
    if status < 200 && facts.content_length.is_some_and(|length| length > 0) {
        return Err(ResponseError::BodyNotAllowed);
    }
    Ok(match facts.content_length {
        _ if bodiless || status == 304 || request_method == Method::Head => BodyLength::None,
        _ if facts.chunked => BodyLength::Chunked,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::http::Version;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 65_536, headers: 100 };

    fn accept(text: &[u8], method: Method) -> (ResponseHead, usize) {
        match parse_response(text, method, LIMITS, &mut Vec::new()) {
            Ok(Parsed::Complete { head, len }) => (head, len),
            other => panic!("{}: {other:?}", text.escape_ascii()),
        }
    }

    fn refuse(text: &[u8]) -> ResponseError {
        match parse_response(text, Method::Get, LIMITS, &mut Vec::new()) {
            Err(error) => error,
            other => panic!("{}: {other:?}", text.escape_ascii()),
        }
    }

    #[test]
    fn status_lines_are_read() {
        for (text, status, reason, version) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], 200, &b"OK"[..], Version::Http11),
            (b"HTTP/1.0 404 Not Found\r\n\r\n", 404, b"Not Found", Version::Http10),
            (b"HTTP/1.1 200 \r\n\r\n", 200, b"", Version::Http11),
            (b"HTTP/1.1 200\r\n\r\n", 200, b"", Version::Http11),
            (b"HTTP/1.1 200\r\nA: b\r\n\r\n", 200, b"", Version::Http11),
            (b"HTTP/1.1 599 \xc3\xa9\t x\r\n\r\n", 599, b"\xc3\xa9\t x", Version::Http11),
            (b"HTTP/1.1 100 Continue\r\n\r\n", 100, b"Continue", Version::Http11),
        ] {
            let (head, len) = accept(text, Method::Get);
            assert_eq!(
                (head.status, head.reason.of(text), head.version, len),
                (status, reason, version, text.len())
            );
        }
        for (text, error) in [
            (&b"HTTP/1.1 099 x\r\n\r\n"[..], ResponseError::BadStatus),
            (b"HTTP/1.1 600 x\r\n\r\n", ResponseError::BadStatus),
            (b"HTTP/1.1 999 x\r\n\r\n", ResponseError::BadStatus),
            (b"HTTP/1.1 20x OK\r\n\r\n", ResponseError::BadStatus),
            (b"HTTP/1.1 20 OK\r\n\r\n", ResponseError::BadStatus),
            (b"HTTP/1.1 +20 OK\r\n\r\n", ResponseError::BadStatus),
            (b"HTTP/1.1  200 OK\r\n\r\n", ResponseError::BadStatus),
            (b"HTTP/1.1 2000 OK\r\n\r\n", ResponseError::BadStatusLine),
            (b"HTTP/1.1 200\tOK\r\n\r\n", ResponseError::BadStatusLine),
            (b"HTTP/1.1 200 O\0K\r\n\r\n", ResponseError::BadStatusLine),
            (b"HTTP/1.1 200 O\rK\r\n\r\n", ResponseError::BadStatusLine),
            (b"HTTP/1.1 200 O\x7fK\r\n\r\n", ResponseError::BadStatusLine),
            (b"HTTP/1.1\r\n\r\n", ResponseError::UnsupportedVersion),
            (b"HTTP/2 200\r\n\r\n", ResponseError::UnsupportedVersion),
            (b"HTTP/1.2 200 OK\r\n\r\n", ResponseError::UnsupportedVersion),
            (b"ICY 200 OK\r\n\r\n", ResponseError::BadStatusLine),
            (b"http/1.1 200 OK\r\n\r\n", ResponseError::BadStatusLine),
            (b"\r\nHTTP/1.1 200 OK\r\n\r\n", ResponseError::BadStatusLine),
            (b"\nHTTP/1.1 200 OK\r\n\r\n", ResponseError::BadStatusLine),
            (b" HTTP/1.1 200 OK\r\n\r\n", ResponseError::BadStatusLine),
            (b"\x15\x03\x01\x00\x02\x02\x16", ResponseError::BadStatusLine),
        ] {
            assert_eq!(refuse(text), error, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn the_body_follows_method_status_and_fields() {
        use BodyLength::{Chunked, Known, None as Nothing, UntilClose};
        for (status, lines, method, body, declared) in [
            (200, "Content-Length: 5\r\n", Method::Get, Known(5), None),
            (200, "Content-Length: 0\r\n", Method::Get, Known(0), None),
            (200, "Transfer-Encoding: chunked\r\n", Method::Get, Chunked, None),
            (200, "", Method::Get, UntilClose, None),
            (200, "Content-Length: 5\r\n", Method::Head, Nothing, Some(5)),
            (200, "Transfer-Encoding: chunked\r\n", Method::Head, Nothing, None),
            (200, "", Method::Head, Nothing, None),
            (304, "Content-Length: 5\r\n", Method::Get, Nothing, Some(5)),
            (304, "Transfer-Encoding: chunked\r\n", Method::Get, Nothing, None),
            (304, "", Method::Get, Nothing, None),
            (204, "", Method::Get, Nothing, None),
            (204, "Content-Length: 0\r\n", Method::Get, Nothing, None),
            (204, "Content-Length: 5\r\n", Method::Get, Nothing, None),
            (204, "Content-Length: 5\r\n", Method::Head, Nothing, Some(5)),
            (205, "", Method::Get, UntilClose, None),
            (205, "Content-Length: 0\r\n", Method::Get, Known(0), None),
            (100, "", Method::Get, Nothing, None),
            (103, "Link: </a>\r\n", Method::Get, Nothing, None),
            (101, "", Method::Get, Nothing, None),
            (100, "Content-Length: 0\r\n", Method::Get, Nothing, None),
            (500, "", Method::Post, UntilClose, None),
        ] {
            let text = format!("HTTP/1.1 {status} x\r\n{lines}\r\n");
            let (head, _) = accept(text.as_bytes(), method);
            assert_eq!((head.body, head.declared_length), (body, declared), "{text:?} {method:?}");
            let stray = status == 204 && lines.ends_with("5\r\n");
            assert_eq!(head.keep_alive, body != UntilClose && !stray, "{text:?}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused_whatever_the_method() {
        for (text, error) in [
            (
                "HTTP/1.1 200 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::LengthWithTransferEncoding.into(),
            ),
            (
                "HTTP/1.1 200 x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                HeadError::RepeatedContentLength.into(),
            ),
            ("HTTP/1.1 200 x\r\nContent-Length: 5, 5\r\n\r\n", HeadError::BadContentLength.into()),
            ("HTTP/1.1 200 x\r\nTransfer-Encoding: gzip\r\n\r\n", HeadError::UnknownTransferCoding.into()),
            (
                "HTTP/1.1 200 x\r\nTransfer-Encoding: identity\r\n\r\n",
                HeadError::UnknownTransferCoding.into(),
            ),
            ("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", HeadError::ChunkedNotLast.into()),
            (
                "HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::TransferEncodingInHttp10.into(),
            ),
            ("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseError::BodyNotAllowed),
            ("HTTP/1.1 100 x\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseError::BodyNotAllowed),
            ("HTTP/1.1 101 x\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseError::BodyNotAllowed),
            ("HTTP/1.1 101 x\r\nContent-Length: 5\r\n\r\n", ResponseError::BodyNotAllowed),
        ] {
            for method in [Method::Get, Method::Head] {
                let parsed = parse_response(text.as_bytes(), method, LIMITS, &mut Vec::new());
                assert_eq!(parsed.map(drop), Err(error), "{text:?}");
            }
        }
    }

    #[test]
    fn persistence_and_upgrade_follow_connection() {
        for (text, keep_alive, upgrade) in [
            (&b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n"[..], true, false),
            (b"HTTP/1.1 200 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false, false),
            (b"HTTP/1.0 200 x\r\nContent-Length: 0\r\n\r\n", false, false),
            (b"HTTP/1.0 200 x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true, false),
            (b"HTTP/1.1 200 x\r\nConnection: keep-alive\r\n\r\n", false, false),
            (b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true, true),
            (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", true, false),
            (b"HTTP/1.0 101 x\r\nConnection: Upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n", true, false),
        ] {
            let (head, _) = accept(text, Method::Get);
            let expected = (keep_alive, upgrade.then_some(&b"websocket"[..]));
            assert_eq!(
                (head.keep_alive, head.upgrade.map(|span| span.of(text))),
                expected,
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn a_head_has_to_end_within_the_limits() {
        let text = b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n";
        let parse = |head_bytes, headers, buf: &[u8]| {
            parse_response(buf, Method::Get, HeadLimits { head_bytes, headers }, &mut Vec::new())
                .map(|parsed| matches!(parsed, Parsed::Complete { .. }))
        };
        assert_eq!(parse(text.len(), 2, text), Ok(true));
        assert_eq!(parse(text.len() - 1, 2, text), Err(HeadError::TooLarge.into()));
        assert_eq!(parse(text.len() - 1, 2, &text[..text.len() - 2]), Ok(false));
        assert_eq!(parse(8, 2, &text[..8]), Err(HeadError::TooLarge.into()));
        assert_eq!(parse(text.len(), 1, text), Err(HeadError::TooManyFields.into()));
    }
}
