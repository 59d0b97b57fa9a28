use super::*;
use crate::base::http::{FieldKind, Scheme};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 65_536, headers: 100 };

/// Parses a request that must be complete, with the fields that it has.
fn accept(text: &[u8]) -> (RequestHead, Fields, usize) {
    let mut fields = Vec::new();
    match parse_request(text, LIMITS, &mut fields) {
        Ok(Parsed::Complete { head, len }) => (head, fields, len),
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn refuse(text: &[u8]) -> RequestError {
    match parse_request(text, LIMITS, &mut Vec::new()) {
        Err(error) => error,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn with_lines(lines: &str) -> Vec<u8> {
    format!("POST /p HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n").into_bytes()
}

#[test]
fn spans_point_at_the_received_bytes() {
    let text = b"\r\nPURGE http://example.com:81/a?b HTTP/1.1\r\nHost: \tother.example \r\nX:\r\nY:  v w\t\r\n\r\nBODY";
    let (head, fields, len) = accept(text);
    assert_eq!(len, text.len() - 4);
    assert_eq!(head.method, Method::Other);
    assert_eq!(head.method_text.of(text), b"PURGE");
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.path.of(text), b"/a?b");
    assert_eq!(head.authority.of(text), b"example.com:81");
    assert_eq!(head.target_scheme, Some(Scheme::Http));
    assert_eq!(head.body, BodyLength::None);
    assert!(head.keep_alive && !head.expect_continue && head.upgrade.is_none());
    let pairs: Vec<_> = fields.iter().map(|field| (field.name(text), field.value(text))).collect();
    assert_eq!(pairs, [(&b"Host"[..], &b"other.example"[..]), (b"X", b""), (b"Y", b"v w")]);
    assert_eq!(fields[0].kind, FieldKind::Host);
    // A line begins where the CR LF of the one before has ended.
    assert!(text[..fields[1].start as usize].ends_with(b"other.example \r\n"));
}

#[test]
fn the_table_is_cleared_every_time() {
    let mut fields = Vec::new();
    for text in [&b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"[..], b"GET / HTTP/1.0\r\n\r\n", b"GET /"] {
        let _ = parse_request(text, LIMITS, &mut fields);
    }
    assert!(fields.is_empty());
}

#[test]
fn the_authority_comes_from_an_absolute_target_or_from_host() {
    for (text, authority) in [
        (&b"GET / HTTP/1.1\r\nHost: a:80\r\n\r\n"[..], &b"a:80"[..]),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", b"b"),
        (b"GET http://b/ HTTP/1.0\r\n\r\n", b"b"),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", b"a"),
        (b"GET / HTTP/1.0\r\n\r\n", b""),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"a"),
    ] {
        assert_eq!(accept(text).0.authority.of(text), authority, "{}", text.escape_ascii());
    }
}

#[test]
fn host_must_be_there_once_and_be_valid() {
    for (text, error) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], RequestError::MissingHost),
        (b"GET http://a/ HTTP/1.1\r\n\r\n", RequestError::MissingHost),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", RequestError::RepeatedHost),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", RequestError::RepeatedHost),
        (b"GET / HTTP/1.1\r\nHost:\r\nHost:\r\n\r\n", RequestError::RepeatedHost),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", RequestError::RepeatedHost),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", RequestError::RepeatedHost),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", RequestError::BadHost),
        (b"GET / HTTP/1.0\r\nHost: \r\n\r\n", RequestError::BadHost),
        (b"GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", RequestError::BadHost),
        (b"GET http://a/ HTTP/1.1\r\nHost: a@b\r\n\r\n", RequestError::BadHost),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", RequestError::BadHost),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", RequestError::BadHost),
        (b"GET / HTTP/1.1\r\nHost: http://a/\r\n\r\n", RequestError::BadHost),
        (b"GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n", RequestError::BadHost),
    ] {
        assert_eq!(refuse(text), error, "{}", text.escape_ascii());
    }
}

#[test]
fn request_lines_are_read_strictly() {
    for (text, error) in [
        (&b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"[..], RequestError::BadRequestLine),
        (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET / HTTP/11\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET \r\nHost: a\r\n\r\n", RequestError::BadRequestLine),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadMethod),
        (b"GET\r\n", RequestError::BadRequestLine),
        (b"GET\r", RequestError::BadRequestLine),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadMethod),
        (b"G\xc3\xa9T / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadMethod),
        (b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadMethod),
        (b"{\"json\": true}", RequestError::BadMethod),
        (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadTarget),
        (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadTarget),
        (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadTarget),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadTarget),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::BadTarget),
        (b"GET /\r\n", RequestError::MissingVersion),
        (b"GET /\r\n\r\n", RequestError::MissingVersion),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", RequestError::UnsupportedVersion),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", RequestError::UnsupportedVersion),
        (b"GET / HTTP/1.9\r\nHost: a\r\n\r\n", RequestError::UnsupportedVersion),
        (b"GET / HTTP/2\r\nHost: a\r\n\r\n", RequestError::UnsupportedVersion),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", RequestError::UnsupportedVersion),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", RequestError::UnsupportedVersion),
        (b"GET / HTTP/3", RequestError::UnsupportedVersion),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::Connect),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", RequestError::TlsHandshake),
        (b"\x16", RequestError::TlsHandshake),
        (b"\x16\x04", RequestError::BadMethod),
        (b"SSH-2.0-OpenSSH_9.6\r\n", RequestError::BadRequestLine),
    ] {
        assert_eq!(refuse(text), error, "{}", text.escape_ascii());
    }
}

#[test]
fn methods_have_at_most_32_bytes() {
    let text = |len: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(len)).into_bytes();
    assert_eq!(accept(&text(32)).0.method, Method::Other);
    assert_eq!(refuse(&text(33)), RequestError::MethodTooLong);
    assert_eq!(refuse(&[b'M'; 33]), RequestError::MethodTooLong, "early");
    assert_eq!(refuse(&[&[b'M'; 33][..], b"("].concat()), RequestError::BadMethod);
    // Names are case-sensitive.
    assert_eq!(accept(b"get / HTTP/1.1\r\nHost: a\r\n\r\n").0.method, Method::Other);
}

#[test]
fn some_empty_lines_come_before_a_request() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in 0..=limits::LEADING_EMPTY_LINES {
        let text = [b"\r\n".repeat(lines).as_slice(), request].concat();
        assert_eq!(accept(&text).2, text.len());
    }
    let text = [b"\r\n".repeat(limits::LEADING_EMPTY_LINES + 1).as_slice(), request].concat();
    assert_eq!(refuse(&text), RequestError::TooManyEmptyLines);
    assert_eq!(refuse(b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::BareLf.into());
    assert_eq!(refuse(b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::BareCr.into());
    assert_eq!(refuse(b"\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::BareCr.into());
}

#[test]
fn framing_is_unambiguous_or_refused() {
    for (lines, body) in [
        ("", BodyLength::None),
        ("Content-Length: 0\r\n", BodyLength::Known(0)),
        ("content-length:  42 \r\n", BodyLength::Known(42)),
        ("Content-Length: 18446744073709551615\r\n", BodyLength::Known(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
        ("transfer-encoding:\tCHUNKED\t\r\n", BodyLength::Chunked),
    ] {
        assert_eq!(accept(&with_lines(lines)).0.body, body, "{lines:?}");
    }
    for (lines, error) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", HeadError::RepeatedContentLength),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", HeadError::RepeatedContentLength),
        ("Content-Length: 5\r\nContent-Length: x\r\n", HeadError::BadContentLength),
        ("Content-Length: 5, 5\r\n", HeadError::BadContentLength),
        ("Content-Length:\r\n", HeadError::BadContentLength),
        ("Content-Length: -1\r\n", HeadError::BadContentLength),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HeadError::LengthWithTransferEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", HeadError::LengthWithTransferEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", HeadError::LengthWithTransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadError::RepeatedTransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", HeadError::RepeatedTransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", HeadError::UnknownTransferCoding),
        ("Transfer-Encoding: chunked, gzip\r\n", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: \x0bchunked\r\n", HeadError::BadFieldValue),
        (
            "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
            HeadError::ConnectionNamesEssential,
        ),
    ] {
        assert_eq!(refuse(&with_lines(lines)), error.into(), "{lines:?}");
    }
    let text = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refuse(text), HeadError::TransferEncodingInHttp10.into());
    let text = b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(refuse(text), RequestError::TraceWithBody);
    let text = b"TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refuse(text), RequestError::TraceWithBody);
    let text = b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(accept(text).0.body, BodyLength::Known(0));
}

#[test]
fn upgrade_needs_the_option_and_no_body() {
    for (text, upgrade) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"[..], true),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: x, Upgrade\r\n\r\n", true),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n", true),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\n", false),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n\r\n", false),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false),
    ] {
        let value = accept(text).0.upgrade.map(|span| span.of(text));
        assert_eq!(value, upgrade.then_some(&b"websocket"[..]), "{}", text.escape_ascii());
    }
}

#[test]
fn expectations_are_100_continue_or_refused() {
    for (text, expected) in [
        (&b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"[..], true),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", false),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", false),
        (b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", false),
        (b"PUT / HTTP/1.0\r\nExpect: miracle\r\nContent-Length: 1\r\n\r\n", false),
    ] {
        assert_eq!(accept(text).0.expect_continue, expected, "{}", text.escape_ascii());
    }
    for value in ["", "miracle", "100-continue, miracle", "100-continue\r\nExpect: miracle"] {
        let text = with_lines(&format!("Expect: {value}\r\n"));
        assert_eq!(refuse(&text), RequestError::UnknownExpectation, "{value:?}");
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let text = with_lines("A: b\r\n");
    let line = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let parse = |head_bytes, headers, buf: &[u8]| {
        parse_request(buf, HeadLimits { head_bytes, headers }, &mut Vec::new())
            .map(|parsed| matches!(parsed, Parsed::Complete { .. }))
    };
    let more = [text.as_slice(), b"pipelined"].concat();
    assert_eq!(parse(text.len(), 2, &text), Ok(true));
    assert_eq!(parse(text.len(), 2, &more), Ok(true), "what follows a head does not count");
    assert_eq!(parse(text.len() - 1, 2, &text), Err(HeadError::TooLarge.into()));
    assert_eq!(parse(text.len() - 1, 2, &more), Err(HeadError::TooLarge.into()));
    assert_eq!(parse(text.len() - 1, 2, &text[..text.len() - 2]), Ok(false));
    assert_eq!(parse(text.len() - 1, 2, &text[..text.len() - 1]), Err(HeadError::TooLarge.into()));
    assert_eq!(parse(line, 2, &text), Err(HeadError::TooLarge.into()));
    assert_eq!(parse(line - 1, 2, &text), Err(RequestError::TargetTooLong));
    assert_eq!(parse(line - 1, 2, &text[..line - 1]), Err(RequestError::TargetTooLong));
    assert_eq!(parse(0, 2, b""), Err(RequestError::TargetTooLong));
    assert_eq!(parse(text.len(), 1, &text), Err(HeadError::TooManyFields.into()));
    assert_eq!(parse(text.len(), 0, &text), Err(HeadError::TooManyFields.into()));
    // The bounds that no configuration lifts.
    let fields = with_lines(&"A: b\r\n".repeat(limits::MAX_HEADERS));
    assert_eq!(parse(usize::MAX, usize::MAX, &fields), Err(HeadError::TooManyFields.into()));
    let large = with_lines(&format!("A: {}\r\n", "b".repeat(limits::MAX_HEAD_BYTES)));
    assert_eq!(parse(usize::MAX, usize::MAX, &large), Err(HeadError::TooLarge.into()));
    let name = with_lines(&format!("{}: b\r\n", "a".repeat(65_536)));
    assert_eq!(parse(usize::MAX, usize::MAX, &name), Err(HeadError::FieldNameTooLong.into()));
}

#[test]
fn what_no_byte_can_repair_is_refused_early() {
    for (text, error) in [
        (&b"GET / HTTP/1.1\n"[..], HeadError::BareLf.into()),
        (b"GET / HTTP/1.1\r\nA: b\n", HeadError::BareLf.into()),
        (b"GET / HTTP/1.1\r\nA: b\rc", HeadError::BareCr.into()),
        (b"GET / HTTP/1.1\r\nA \0", HeadError::SpaceBeforeColon.into()),
        (b"GET / HTTP/1.1\r\nA: \0", HeadError::BadFieldValue.into()),
        (b"GET / HTTP/1.1\r\n ", HeadError::FoldedField.into()),
        (b"GET / HTTP/2", RequestError::UnsupportedVersion),
        (b"GET /\r", RequestError::MissingVersion),
        (b"\r\n\r\n\r\n", RequestError::TooManyEmptyLines),
    ] {
        assert_eq!(refuse(text), error, "{}", text.escape_ascii());
    }
}

#[test]
fn every_error_has_its_status_and_a_reason() {
    for (error, status) in [
        (RequestError::Head(HeadError::TooLarge), 431),
        (RequestError::Head(HeadError::TooManyFields), 431),
        (RequestError::Head(HeadError::UnknownTransferCoding), 501),
        (RequestError::Head(HeadError::ChunkedNotLast), 400),
        (RequestError::TargetTooLong, 414),
        (RequestError::UnknownExpectation, 417),
        (RequestError::Connect, 501),
        (RequestError::UnsupportedVersion, 505),
        (RequestError::MissingHost, 400),
        (RequestError::TlsHandshake, 400),
    ] {
        assert_eq!(error.status(), status, "{error:?}");
        assert!(error.reason().ends_with('.'), "{error:?}");
    }
}
