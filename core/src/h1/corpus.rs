//! Heads as attackers and broken peers send them, and the laws that every head must keep. Tests only.

use super::{
    HeadError, HeadLimits, Parsed, RequestError, ResponseError, bytes, parse_request, parse_response,
};
use crate::base::http::{Fields, Method};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 16_384, headers: 64 };

/// Known ways to make two parsers see different messages. Each must be refused.
const SMUGGLING: &[(&str, &[u8], HeadError)] = &[
    ("CL.TE", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
     HeadError::LengthWithTransferEncoding),
    ("TE.CL", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n",
     HeadError::LengthWithTransferEncoding),
    ("CL.CL", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nContent-Length: 7\r\n\r\n12345\r\na",
     HeadError::RepeatedContentLength),
    ("TE.TE, obscured value", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
     HeadError::UnknownTransferCoding),
    ("TE.TE, second field", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
     HeadError::RepeatedTransferEncoding),
    ("TE.TE, second field of another case", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n",
     HeadError::RepeatedTransferEncoding),
    ("space before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
     HeadError::SpaceBeforeColon),
    ("tab before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
     HeadError::SpaceBeforeColon),
    ("space before the name", b"POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n",
     HeadError::FoldedField),
    ("space before the first name", b"POST / HTTP/1.1\r\n Host: a\r\n\r\n", HeadError::FoldedField),
    ("folded value", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", HeadError::FoldedField),
    ("folded with a tab", b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tContent-Length: 5\r\n\r\n", HeadError::FoldedField),
    ("vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n", HeadError::BadFieldValue),
    ("form feed", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0cchunked\r\n\r\n", HeadError::BadFieldValue),
    ("NUL in a value", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\0\r\n\r\n", HeadError::BadFieldValue),
    ("NUL in a name", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\0: 5\r\n\r\n", HeadError::BadFieldName),
    ("DEL in a value", b"POST / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", HeadError::BadFieldValue),
    ("bare LF hides a field", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\n", HeadError::BareLf),
    ("bare CR hides a field", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\n", HeadError::BareCr),
    ("bare LF ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\nGET /x HTTP/1.1\r\nHost: b\r\n\r\n", HeadError::BareLf),
    ("bare CR ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\rGET /x HTTP/1.1\r\n\r\n", HeadError::BareCr),
    ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", HeadError::BareCr),
    ("LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", HeadError::BareLf),
    ("LF only", b"GET / HTTP/1.1\nHost: a\n\n", HeadError::BareLf),
    ("LF after an empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\nY: z\r\n\r\n", HeadError::BareLf),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nGET /x HTTP/1.1\r\n\r\n", HeadError::MissingColon),
    ("no name", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", HeadError::EmptyFieldName),
    ("quoted name", b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": y\r\n\r\n", HeadError::BadFieldName),
    ("name that is not ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nContent-L\xc3\xa9ngth: 5\r\n\r\n", HeadError::BadFieldName),
    ("signed length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", HeadError::BadContentLength),
    ("hexadecimal length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", HeadError::BadContentLength),
    ("length with a space", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\n", HeadError::BadContentLength),
    ("length list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\n", HeadError::BadContentLength),
    ("length over 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n",
     HeadError::BadContentLength),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", HeadError::ChunkedNotLast),
    ("chunked and identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
     HeadError::ChunkedNotLast),
    ("empty coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", HeadError::BadTransferEncoding),
    ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
     HeadError::TransferEncodingInHttp10),
    ("Connection drops Host", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", HeadError::ConnectionNamesEssential),
    ("Connection drops the length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close, Content-Length\r\n\r\n",
     HeadError::ConnectionNamesEssential),
];

/// Requests that must stay acceptable, each ended by its last byte.
const ORDINARY: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"PROPFIND https://[::1]:8443/dav/?a=b HTTP/1.1\r\nHost: x\r\nDepth:1\r\nEmpty:\r\nSpaces:   \t \r\n\r\n",
    b"POST /a%20b?c={d}|e HTTP/1.1\r\nhost: example.com:8080\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nX: \xff\xfe obs\ttext \r\nConnection: keep-alive, x\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
];

/// Responses that must stay acceptable.
const ORDINARY_RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/1.0 302 \r\nLocation: /\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 503 \xc3\xa9\xff\r\nTransfer-Encoding: chunked\r\nEmpty:\r\n\r\n",
];

fn request(text: &[u8]) -> Result<Option<(String, usize)>, RequestError> {
    let mut fields = Fields::new();
    Ok(match parse_request(text, LIMITS, &mut fields)? {
        Parsed::Complete { head, len } => Some((format!("{head:?} {fields:?}"), len)),
        Parsed::Partial => None,
    })
}

fn response(text: &[u8]) -> Result<Option<(String, usize)>, ResponseError> {
    let mut fields = Fields::new();
    Ok(match parse_response(text, Method::Get, LIMITS, &mut fields)? {
        Parsed::Complete { head, len } => Some((format!("{head:?} {fields:?}"), len)),
        Parsed::Partial => None,
    })
}

#[test]
fn smuggling_is_refused() {
    for (name, text, error) in SMUGGLING {
        assert_eq!(request(text), Err(RequestError::Head(*error)), "{name}");
        for end in 0..text.len() {
            // Early or late, but never accepted.
            assert!(!matches!(request(&text[..end]), Ok(Some(_))), "{name}, {end} bytes");
        }
    }
}

#[test]
fn responses_obey_the_same_rules_for_fields() {
    for (name, text, error) in SMUGGLING {
        // The same fields below a status line, which leaves out the rules for requests.
        let Some(fields) = text.split(|byte| *byte == b'\n').next().map(|line| &text[line.len() + 1..])
        else {
            continue;
        };
        let status_line: &[u8] = if text.windows(10).any(|part| part == b"HTTP/1.0\r\n") {
            b"HTTP/1.0 200 OK\r\n"
        } else if text.windows(9).any(|part| part == b"HTTP/1.1\n") {
            b"HTTP/1.1 200 OK\n"
        } else {
            b"HTTP/1.1 200 OK\r\n"
        };
        assert_eq!(response(&[status_line, fields].concat()), Err(ResponseError::Head(*error)), "{name}");
    }
}

#[test]
fn every_split_gives_the_same_head() {
    for text in ORDINARY {
        let whole = request(text).unwrap();
        assert_eq!(whole.as_ref().map(|(_, len)| *len), Some(text.len()), "{}", text.escape_ascii());
        for end in 0..text.len() {
            assert_eq!(request(&text[..end]), Ok(None), "{} of {}", end, text.escape_ascii());
        }
        for follow in [&b"x"[..], b"\r\n", b"\n", b"\0", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"] {
            assert_eq!(request(&[text, follow].concat()).unwrap(), whole);
        }
    }
    for text in ORDINARY_RESPONSES {
        let whole = response(text).unwrap();
        assert_eq!(whole.as_ref().map(|(_, len)| *len), Some(text.len()), "{}", text.escape_ascii());
        for end in 0..text.len() {
            assert_eq!(response(&text[..end]), Ok(None), "{} of {}", end, text.escape_ascii());
        }
        assert_eq!(response(&[text, &b"\n\0body"[..]].concat()).unwrap(), whole);
    }
}

/// Whatever byte is changed, nothing panics, and no prefix is refused of a text that is accepted as a whole.
#[test]
fn one_wrong_byte_is_judged_the_same_early_and_late() {
    for text in ORDINARY {
        for position in 0..text.len() {
            for byte in [0, b'\t', b'\n', b'\r', b' ', b'#', b',', b'/', b':', b'@', b'X', 0x7f, 0x80, 0xff] {
                let mut changed = text.to_vec();
                changed[position] = byte;
                let accepted = matches!(request(&changed), Ok(Some(_)));
                for end in position..changed.len() {
                    let early = request(&changed[..end]);
                    assert!(!accepted || early.is_ok(), "{} at {end}", changed.escape_ascii());
                }
            }
        }
    }
}

/// Names, values and targets are looked at by eight bytes; their classes must not depend on the place.
#[test]
fn byte_classes_hold_at_every_place() {
    for place in 0..70 {
        for byte in 0..=255u8 {
            let mut text = [b'a'; 71];
            text[place] = byte;
            let value = [&b"GET / HTTP/1.1\r\nHost: a\r\nX: z"[..], &text, b"z\r\n\r\n"].concat();
            assert_eq!(request(&value).is_ok(), bytes::is_value_byte(byte), "value {byte:#x} at {place}");
            let name = [&b"GET / HTTP/1.1\r\nHost: a\r\nz"[..], &text, b": z\r\n\r\n"].concat();
            // A colon ends the name, and what follows is a value.
            let expected = bytes::is_token_byte(byte) || byte == b':';
            assert_eq!(request(&name).is_ok(), expected, "name {byte:#x} at {place}");
            let target = [&b"GET /"[..], &text, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let expected = byte.is_ascii_graphic() && byte != b'#';
            assert_eq!(request(&target).is_ok(), expected, "target {byte:#x} at {place}");
            let reason = [&b"HTTP/1.1 200 z"[..], &text, b"\r\n\r\n"].concat();
            assert_eq!(response(&reason).is_ok(), bytes::is_value_byte(byte), "reason {byte:#x} at {place}");
        }
    }
}
