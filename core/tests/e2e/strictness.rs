//! Requests that are ambiguous or malformed are refused and the connection is closed; the origin sees nothing of them,
//! nor of what follows them.

use crate::support::*;

/// What a smuggler hopes to get through.
const FOLLOWING: &str = "GET /smuggled HTTP/1.1\r\nHost: test.example\r\n\r\n";

/// Sends each case, with a good request right behind it, in one piece and then byte by byte.
#[track_caller]
fn refused_with(statuses: &[u16], table: &[(&str, &[u8])]) {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let pieces = table.iter().map(|&(name, bytes)| (name.to_owned(), (bytes, false)));
    let bytewise = table.iter().map(|&(name, bytes)| (format!("{name}, byte by byte"), (bytes, true)));
    cases(pieces.chain(bytewise), |(bytes, bytewise)| {
        let mut client = proxy.connect();
        send_with_following(&client, bytes, bytewise);
        expect_refusal(&mut client, statuses);
        origin.assert_untouched();
    });
    assert_eq!(proxy.connect().get("/good").text(), "/good", "a good request is forwarded");
    assert_eq!(origin.only_request().target(), "/good");
}

#[track_caller]
fn refused(table: &[(&str, &[u8])]) {
    refused_with(&[400], table);
}

fn send_with_following(client: &Client, bytes: &[u8], bytewise: bool) {
    let all = [bytes, FOLLOWING.as_bytes()].concat();
    // The proxy may have seen enough before the end.
    if bytewise {
        for byte in &all {
            if client.try_send([*byte]).is_err() {
                break;
            }
        }
    } else {
        drop(client.try_send(&all));
    }
}

#[track_caller]
fn expect_refusal(client: &mut Client, statuses: &[u16]) {
    let response = client.response();
    assert!(statuses.contains(&response.status()), "one of {statuses:?} expected, not {response:?}");
    assert!(response.says_close(), "no `connection: close` in {response:?}");
    assert!(response.text().trim().len() > 3, "the body does not say what went wrong: {response:?}");
    client.expect_eof();
}

/// Sends each chunked body, which is wrong somewhere, with a good request right behind it. The origin may see the head
/// and what was right of the body, but never a whole message, never the request behind it.
#[track_caller]
fn body_refused_with(statuses: &[u16], table: &[(&str, Vec<u8>)]) {
    const HEAD: &str = "POST /upload HTTP/1.1\r\nHost: test.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let pieces = table.iter().map(|(name, body)| ((*name).to_owned(), (body, false)));
    let short = table.iter().filter(|(_, body)| body.len() < 1000);
    let bytewise = short.map(|(name, body)| (format!("{name}, byte by byte"), (body, true)));
    cases(pieces.chain(bytewise), |(body, bytewise)| {
        let mut client = proxy.connect();
        send_with_following(&client, &[HEAD.as_bytes(), body].concat(), bytewise);
        expect_refusal(&mut client, statuses);
        origin.assert_never_saw("smuggled");
        assert!(
            origin.requests().is_empty(),
            "the origin took it for a whole request: {:?}",
            origin.requests()
        );
    });
    let mut client = proxy.connect();
    client.send([HEAD, "5;a=b\r\nhello\r\n0\r\n\r\n"].concat());
    assert_eq!(client.response().text(), "/upload", "a good request is forwarded");
    assert_eq!(origin.only_request().text(), "hello");
}

#[track_caller]
fn body_refused(table: &[(&str, &[u8])]) {
    let table: Vec<_> = table.iter().map(|&(name, body)| (name, body.to_vec())).collect();
    body_refused_with(&[400], &table);
}

#[test]
fn content_length_with_transfer_encoding() {
    refused(&[
        (
            "length first",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "coding first",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ),
        (
            "length 0",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "other case",
            b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 5\r\ntransfer-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n",
        ),
        (
            "in a GET",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
    ]);
}

#[test]
fn differing_content_lengths() {
    refused(&[
        ("two fields", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        ("a list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello"),
        (
            "a field and a list",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5, 6\r\n\r\nhello",
        ),
        (
            "far apart",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\nX: y\r\nContent-Length: 0\r\n\r\nhello",
        ),
    ]);
}

#[test]
fn malformed_content_lengths() {
    refused(&[
        ("letters", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n"),
        ("nothing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        ("a space only", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
        ("plus sign", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
        ("minus sign", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello"),
        ("minus zero", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n"),
        ("hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello"),
        ("fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello"),
        ("exponent", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5e0\r\n\r\nhello"),
        ("separators", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhello"),
        ("two numbers", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello"),
        ("a comma behind", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nhello"),
        ("a comma before", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ,5\r\n\r\nhello"),
        ("2^64", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nhello"),
        ("2^64 + 5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
        (
            "very many digits",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999999999\r\n\r\n",
        ),
        ("non-ASCII digits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa5\r\n\r\nhello"),
        (
            "a good and a bad one",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: x\r\n\r\nhello",
        ),
        (
            "a good and an empty one",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length:\r\n\r\nhello",
        ),
    ]);
}

/// RFC 9110 section 8.6 leaves the choice: refuse, or forward a single one.
#[test]
fn equal_content_lengths_are_refused_or_become_one() {
    let table = [
        (
            "two fields",
            "POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        ),
        ("a list", "POST /list HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ];
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    cases(table, |bytes| {
        let mut client = proxy.connect();
        client.send(bytes);
        let response = client.response();
        if response.status() == 200 {
            let request = origin.requests().pop().unwrap();
            assert_eq!((request.text().as_str(), request.framing), ("hello", Framing::Length(5)));
        } else {
            assert_eq!(response.status(), 400);
            client.expect_eof();
            origin.assert_untouched();
        }
    });
}

#[test]
fn transfer_codings_without_chunked_last() {
    refused(&[
        ("chunked first", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        (
            "chunked in the first field",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        ),
        ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        (
            "chunked in two fields",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("no coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
        ("a control character", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ("in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ]);
}

#[test]
fn transfer_codings_that_are_unknown() {
    refused_with(
        &[400, 501],
        &[
            (
                "gzip, chunked",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            ),
            ("gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
            (
            "another coding with a length",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello",
        ),
        ("identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
            ("a word before", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x chunked\r\n\r\n0\r\n\r\n"),
            ("a longer word", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            ("a shorter word", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunke\r\n\r\n0\r\n\r\n"),
            ("a parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
            ("quotes", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        ],
    );
}

#[test]
fn bad_chunk_sizes() {
    body_refused(&[
        ("nothing", b"\r\nhello\r\n0\r\n\r\n"),
        ("letters", b"xyz\r\nhello\r\n0\r\n\r\n"),
        ("plus sign", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("minus sign", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("a space before", b" 5\r\nhello\r\n0\r\n\r\n"),
        ("two numbers", b"5 5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
        ("a comma", b"5,\r\nhello\r\n0\r\n\r\n"),
        ("2^64", b"10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("2^64 + 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a NUL", b"5\0\r\nhello\r\n0\r\n\r\n"),
        ("the second one", b"5\r\nhello\r\nz\r\nhello\r\n0\r\n\r\n"),
        ("a bad last one", b"5\r\nhello\r\n0x\r\n\r\n"),
        ("a semicolon only", b";\r\nhello\r\n0\r\n\r\n"),
    ]);
}

#[test]
fn bad_ends_of_chunks() {
    body_refused(&[
        ("data longer than told", b"5\r\nhelloworld\r\n0\r\n\r\n"),
        ("data shorter than told", b"5\r\nhell\r\n0\r\n\r\n"),
        ("bare LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
        ("bare CR behind the size", b"5\rhello\r\n0\r\n\r\n"),
        ("bare LF behind the data", b"5\r\nhello\n0\r\n\r\n"),
        ("bare CR behind the data", b"5\r\nhello\r0\r\n\r\n"),
        ("bare LF behind the last size", b"5\r\nhello\r\n0\n\r\n"),
        ("bare LF as the last line", b"5\r\nhello\r\n0\r\n\n"),
        ("CR CR LF", b"5\r\r\nhello\r\n0\r\n\r\n"),
    ]);
}

#[test]
fn chunk_extensions_out_of_bounds() {
    let long = [b"5;a=", "x".repeat(20_000).as_bytes(), b"\r\nhello\r\n0\r\n\r\n"].concat();
    let endless = [b"5;a=", "x".repeat(60_000).as_bytes()].concat();
    let zeros = ["0".repeat(20_000).as_bytes(), b"5\r\nhello\r\n0\r\n\r\n"].concat();
    let many = ["1;ext=".to_owned() + &"x".repeat(150) + "\r\na\r\n"].concat().repeat(400) + "0\r\n\r\n";
    body_refused_with(
        &[400, 413],
        &[
            ("one long extension", long),
            ("an extension without end", endless),
            ("leading zeros without end", zeros),
            ("many extensions on many chunks", many.into_bytes()),
        ],
    );
}

#[test]
fn malformed_chunk_extensions() {
    body_refused(&[
        ("a bare CR", b"5;a=b\rc\r\nhello\r\n0\r\n\r\n"),
        ("a bare LF", b"5;a=b\nc\r\nhello\r\n0\r\n\r\n"),
        ("a NUL", b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
        ("a delete", b"5;a=\x7f\r\nhello\r\n0\r\n\r\n"),
    ]);
}

#[test]
fn malformed_trailers() {
    body_refused(&[
        ("no colon", b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n"),
        ("a space before the colon", b"5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
        ("a continued line", b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
        ("a line that continues nothing", b"5\r\nhello\r\n0\r\n X: y\r\n\r\n"),
        ("a bare LF", b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n"),
        ("a bare CR", b"5\r\nhello\r\n0\r\nX: y\rz\r\n\r\n"),
        ("a NUL", b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n"),
        ("an empty name", b"5\r\nhello\r\n0\r\n: y\r\n\r\n"),
    ]);
}

#[test]
fn trailers_without_end() {
    let one_long = format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("5\r\nhello\r\n0\r\n{}\r\n", "X: y\r\n".repeat(20_000));
    body_refused_with(&[400, 413, 431], &[("one long", one_long.into_bytes()), ("many", many.into_bytes())]);
}

/// Trailers must not become part of what framing, routing or authentication looks at. RFC 9110 section 6.5.1.
#[test]
fn trailers_that_belong_into_the_head_are_dropped_or_refused() {
    let table =
        ["Content-Length: 50", "Transfer-Encoding: chunked", "Host: other.example", "Connection: close"];
    cases(table.map(|trailer| (trailer, trailer)), |trailer| {
        let origin = Origin::echoing_targets();
        let proxy = Proxy::to([origin.addr()]);
        let mut client = proxy.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"
        ));
        let response = client.response();
        assert!(matches!(response.status(), 200 | 400), "{response:?}");
        for request in origin.requests() {
            assert_eq!(request.trailers, [], "the origin saw it");
        }
    });
}

#[test]
fn bare_line_feeds_and_carriage_returns() {
    refused(&[
        ("LF behind the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("LF behind a field", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
        ("LF behind the last field", b"GET / HTTP/1.1\r\nHost: a\n\r\n"),
        ("LF as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n"),
        (
            "LF in a field that hides another",
            b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\nhello",
        ),
        ("CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"),
        ("CR behind a field", b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
        (
            "CR in a value that hides a field",
            b"POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\nhello",
        ),
        ("CR in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\r: y\r\n\r\n"),
        ("CR behind the request line", b"GET / HTTP/1.1\rHost: a\r\n\r\n"),
        ("CR in the target", b"GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("LF in the target", b"GET /\nx HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("CR CR LF behind the request line", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
        ("CR before the request", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn continued_lines() {
    refused(&[
        ("by a space", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        ("by a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
        ("by an empty one", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n \r\n\r\n"),
        ("an empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n y\r\n\r\n"),
        ("in Content-Length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\nhello"),
        (
            "in Transfer-Encoding",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("in Host", b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
        ("the first line", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("the first line, with a tab", b"GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn white_space_around_names() {
    refused(&[
        ("a space before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
        ("a tab before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n"),
        ("in Host", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("in Content-Length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello"),
        (
            "in Transfer-Encoding",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
        ("inside a name", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n"),
    ]);
}

#[test]
fn names_that_are_no_tokens() {
    refused(&[
        ("empty", b"GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
        ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
        ("a parenthesis", b"GET / HTTP/1.1\r\nHost: a\r\nX(: y\r\n\r\n"),
        ("a quote", b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": y\r\n\r\n"),
        ("a slash", b"GET / HTTP/1.1\r\nHost: a\r\nX/Y: z\r\n\r\n"),
        ("a bracket", b"GET / HTTP/1.1\r\nHost: a\r\nX[0]: z\r\n\r\n"),
        ("a NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
        ("a high byte", b"GET / HTTP/1.1\r\nHost: a\r\nX\xff: y\r\n\r\n"),
        ("a delete", b"GET / HTTP/1.1\r\nHost: a\r\nX\x7f: y\r\n\r\n"),
        ("a NUL that hides a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\0: 5\r\n\r\nhello"),
    ]);
}

#[test]
fn control_characters() {
    refused(&[
        ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("SOH in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n"),
        ("BEL at the end of a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x07\r\n\r\n"),
        ("VT in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n"),
        ("FF before a value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\x0ca\r\n\r\n"),
        ("ESC in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31m\r\n\r\n"),
        ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n"),
        ("NUL in Host", b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n"),
        ("NUL in the method", b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("TLS instead of HTTP", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n"),
    ]);
}

#[test]
fn missing_or_several_hosts() {
    refused(&[
        ("none", b"GET / HTTP/1.1\r\n\r\n"),
        ("none, other fields", b"GET / HTTP/1.1\r\nX: y\r\n\r\n"),
        ("two", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("two equal ones", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("two, one empty", b"GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n"),
        ("two of different case", b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n"),
        ("two in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("none with an absolute target", b"GET http://a/ HTTP/1.1\r\n\r\n"),
        ("two with an absolute target", b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn hosts_that_are_none() {
    refused(&[
        ("empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("a list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("a space inside", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("a URL", b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n"),
        ("a user", b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n"),
        ("a query", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
        ("a fragment", b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n"),
        ("a backslash", b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
        ("letters for a port", b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n"),
        ("a port out of range", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
        ("two ports", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
        ("a port only", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
        ("an unclosed bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        ("a high byte", b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n"),
        ("angle brackets", b"GET / HTTP/1.1\r\nHost: <a>\r\n\r\n"),
    ]);
}

#[test]
fn bad_targets() {
    refused(&[
        ("no slash", b"GET x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("empty", b"GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a query only", b"GET ?a=b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an asterisk with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an asterisk and more", b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a space inside", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a tab inside", b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a NUL inside", b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a DEL inside", b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a high byte inside", b"GET /a\xffb HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a scheme only", b"GET http: HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no authority", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("one slash", b"GET http:/a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a user", b"GET http://user:secret@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an absolute target with a bad port", b"GET http://a:x/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an absolute target with a fragment", b"GET http://a/x#y HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an authority with GET", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn bad_request_lines() {
    refused(&[
        ("no version", b"GET /\r\nHost: a\r\n\r\n"),
        ("HTTP/0.9", b"GET /\r\n\r\n"),
        ("a word", b"nonsense\r\nHost: a\r\n\r\n"),
        ("two spaces behind the method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two spaces behind the target", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a tab behind the method", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a tab behind the target", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a space before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a space behind the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("a fourth word", b"GET / HTTP/1.1 x\r\nHost: a\r\n\r\n"),
        ("a lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("no minor version", b"GET / HTTP/1\r\nHost: a\r\n\r\n"),
        ("letters in the version", b"GET / HTTP/1.x\r\nHost: a\r\n\r\n"),
        ("too many digits", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
        ("a comma in the version", b"GET / HTTP/1,1\r\nHost: a\r\n\r\n"),
        ("another protocol", b"GET / ICAP/1.0\r\nHost: a\r\n\r\n"),
        ("a method that is no token", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a method with a high byte", b"GET\xff / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no method", b"/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn unknown_versions() {
    refused_with(
        &[505],
        &[
            ("2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
            ("3.0", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
            ("0.9", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
        ],
    );
}

#[test]
fn the_preface_of_http_2() {
    refused_with(&[400, 505], &[("preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]);
}

#[test]
fn http_1_0_is_refused_where_it_is_not_accepted() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::start(Config::to([origin.addr()]).listener("accept_http_10 = false").http());
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status(), 426);
    assert!(!response.text().is_empty());
    client.expect_eof();
    // RFC 9110 section 7.8: `Upgrade` goes with the connection option.
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.value("upgrade")), (426, Some("HTTP/1.1")));
    assert_eq!(response.value("connection"), Some("keep-alive, upgrade"));
    origin.assert_untouched();
}

/// A body that no origin asked for must not be taken for the next request.
#[test]
fn a_body_is_never_taken_for_a_request() {
    let origin = Origin::echoing_targets();
    let routes = "
        [[listeners.routes]]
        path = \"/fixed\"
        respond = { status = 200, body = \"fixed\" }
        [[listeners.routes]]
        path = \"/moved\"
        redirect = { status = 302, path = \"/elsewhere\" }
        [[listeners.routes]]
        path_prefix = \"/forwarded\"
        cluster = \"origin\"
        [[listeners.routes]]
        path = \"/smuggled\"
        cluster = \"origin\"";
    let proxy = Proxy::start(Config::to([origin.addr()]).routes(routes).http());
    let table = [("fixed", 200), ("moved", 302), ("forwarded", 200), ("nowhere", 404)];
    let framings = [
        format!("Content-Length: {}\r\n\r\n{FOLLOWING}", FOLLOWING.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{FOLLOWING}\r\n0\r\n\r\n", FOLLOWING.len()),
    ];
    cases(table.map(|case| (case.0, case)), |(path, status)| {
        for framing in &framings {
            let mut client = proxy.connect();
            client.send(format!("POST /{path} HTTP/1.1\r\nHost: a\r\n{framing}"));
            let response = client.response();
            assert_eq!(response.status(), status);
            if response.says_close() {
                client.expect_eof();
            } else {
                assert_eq!(client.get("/forwarded/second").text(), "/forwarded/second");
            }
        }
    });
    assert!(
        origin.requests().iter().all(|request| request.target() != "/smuggled"),
        "{:?}",
        origin.requests()
    );
}

/// What looks odd and is right all the same arrives.
#[test]
fn unusual_requests_that_are_right_pass() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let table: [(&str, &[u8], &str); 16] = [
        ("an empty line before", b"\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n", "/1"),
        ("lower-case names", b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n", "/2"),
        ("no space behind the colon", b"GET /3 HTTP/1.1\r\nHost:a\r\n\r\n", "/3"),
        ("tabs and spaces around the value", b"GET /4 HTTP/1.1\r\nHost: \t a \t \r\n\r\n", "/4"),
        ("an empty value", b"GET /5 HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", "/5"),
        ("a high byte in a value", b"GET /6 HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n", "/6"),
        ("a tab in a value", b"GET /7 HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n", "/7"),
        ("all characters of a token", b"GET /8 HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09aZ: x\r\n\r\n", "/8"),
        ("an unknown method", b"M-SEARCH /9 HTTP/1.1\r\nHost: a\r\n\r\n", "/9"),
        ("a coding in capitals", b"POST /10 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", "/10"),
        (
            "sizes in hexadecimal",
            b"POST /11 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00A\r\n0123456789\r\n0\r\n\r\n",
            "/11",
        ),
        (
            "extensions",
            b"POST /12 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b;c=\"d e\";f\r\nx\r\n0;g\r\n\r\n",
            "/12",
        ),
        ("an IPv6 host", b"GET /13 HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "/13"),
        ("a long query", b"GET /14?a=b&c=%00%2f;d=/?e HTTP/1.1\r\nHost: a\r\n\r\n", "/14?a=b&c=%00%2f;d=/?e"),
        ("several slashes", b"GET //15//x/../y HTTP/1.1\r\nHost: a\r\n\r\n", "//15//x/../y"),
        ("a length with a GET", b"GET /16 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "/16"),
    ];
    cases(table.map(|(name, bytes, target)| (name, (bytes, target))), |(bytes, target)| {
        let mut client = proxy.connect();
        client.send(bytes);
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (200, target));
        assert_eq!(client.get("/again").text(), "/again", "the connection goes on");
    });
}

#[test]
fn options_with_an_asterisk_pass() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "*");
}

#[test]
fn connect_is_refused() {
    refused_with(&[501], &[("authority", b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")]);
}
