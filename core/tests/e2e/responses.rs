//! The origin's responses are checked as strictly as the client's requests: what is ambiguous or malformed becomes a
//! 502, and the connection it came on is never used again.

use crate::support::origin::ok;
use crate::support::*;

/// Answers the first request with `bytes` and all later ones, on other connections, properly.
fn origin_with(bytes: Vec<u8>, bytewise: bool) -> Origin {
    Origin::start(move |conn| {
        if conn.index() == 0 {
            conn.request();
            // The proxy may give up before the end.
            if bytewise {
                for byte in &bytes {
                    if conn.try_send([*byte]).is_err() {
                        return;
                    }
                }
            } else {
                let _ = conn.try_send(&bytes);
            }
            // What is incomplete shall be seen to end; what is bad must be noticed before.
            if bytes.ends_with(b"\r\n\r\n") || bytes.ends_with(b"smuggled") {
                conn.expect_gone();
            }
            return;
        }
        while let Some(request) = conn.next_request() {
            conn.send(ok(request.target()));
        }
    })
}

/// Each of these responses, in one piece and byte by byte, becomes a 502 and spoils nothing that follows.
#[track_caller]
fn becomes_502(table: &[(&str, Vec<u8>)]) {
    let pieces = table.iter().map(|(name, bytes)| ((*name).to_owned(), (bytes, false)));
    let short = table.iter().filter(|(_, bytes)| bytes.len() < 1000);
    let bytewise = short.map(|(name, bytes)| (format!("{name}, byte by byte"), (bytes, true)));
    cases(pieces.chain(bytewise), |(bytes, bytewise)| {
        let origin = origin_with(bytes.clone(), bytewise);
        let proxy = Proxy::to([origin.addr()]);
        let mut client = proxy.connect();
        let response = client.get("/bad");
        assert_eq!(response.status(), 502, "{response:?}");
        assert!(response.text().trim().len() > 3, "the body does not say what went wrong: {response:?}");
        if response.says_close() {
            client.expect_eof();
            client = proxy.connect();
        }
        assert_eq!(client.get("/good").text(), "/good");
        let bad = origin.requests().iter().filter(|request| request.target() == "/bad").count();
        assert_eq!(bad, 1, "a response, however bad, is no reason to ask again");
    });
}

#[track_caller]
fn heads_become_502(table: &[(&str, &[u8])]) {
    let table: Vec<_> = table.iter().map(|&(name, bytes)| (name, bytes.to_vec())).collect();
    becomes_502(&table);
}

#[test]
fn both_framings() {
    heads_become_502(&[
        (
            "length first",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "coding first",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ),
    ]);
}

#[test]
fn bad_content_lengths() {
    heads_become_502(&[
        ("two fields", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        ("a list", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n"),
        ("letters", b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n"),
        ("nothing", b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n"),
        ("plus sign", b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n"),
        ("minus sign", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
        ("hexadecimal", b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n"),
        ("2^64", b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n"),
        ("two numbers", b"HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\n"),
    ]);
}

#[test]
fn bad_transfer_codings() {
    heads_become_502(&[
        ("chunked not last", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("chunked twice", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        (
            "chunked in two fields",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("unknown", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("nothing", b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
        ("in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ]);
}

#[test]
fn bad_status_lines() {
    heads_become_502(&[
        ("no HTTP", b"hello\r\n\r\n"),
        ("a mail server", b"220 mail.example ESMTP ready\r\n\r\n"),
        ("HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a lower-case version", b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("another protocol", b"ICY 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no version", b"200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no status", b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
        ("letters", b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
        ("two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status below 100", b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status above 599", b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a sign", b"HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("two spaces", b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a space before", b" HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a NUL in the reason", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n"),
        ("a CR in the reason", b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n"),
    ]);
}

#[test]
fn bad_fields() {
    heads_become_502(&[
        ("a bare LF", b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\n\r\n"),
        ("LF behind the status line", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        ("LF everywhere", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        ("a bare CR", b"HTTP/1.1 200 OK\r\nX: y\rz\r\nContent-Length: 0\r\n\r\n"),
        ("a continued line", b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n"),
        ("a space before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"),
        ("an empty name", b"HTTP/1.1 200 OK\r\n: y\r\nContent-Length: 0\r\n\r\n"),
        ("no colon", b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n"),
        ("a NUL in a value", b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n"),
        ("a control character in a value", b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n"),
        ("a high byte in a name", b"HTTP/1.1 200 OK\r\nX\xff: y\r\nContent-Length: 0\r\n\r\n"),
    ]);
}

#[test]
fn heads_that_end_too_soon() {
    heads_become_502(&[
        ("nothing at all", b""),
        ("one byte", b"H"),
        ("half a status line", b"HTTP/1.1 20"),
        ("no empty line", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
        ("an interim response only", b"HTTP/1.1 100 Continue\r\nX: y\r\n"),
    ]);
}

#[test]
fn heads_that_are_too_big() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(600_000));
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(600_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(1000));
    let endless_line = "H".repeat(600_000);
    becomes_502(&[
        ("a long field", long.into_bytes()),
        ("a field without end", endless.into_bytes()),
        ("many fields", many.into_bytes()),
        ("a status line without end", endless_line.into_bytes()),
    ]);
}

#[test]
fn interim_responses_that_never_end() {
    let origin = Origin::start(|conn| {
        conn.request();
        let _ = conn.try_send("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000));
        conn.expect_gone();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    let mut response = client.get("/");
    let mut passed = 0;
    while response.status() == 103 {
        passed += 1;
        response = client.response();
    }
    assert_eq!(response.status(), 502);
    assert!(passed < 100, "{passed} were passed on");
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for() {
    heads_become_502(&[
        (
            "websocket",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("without a name", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ]);
}

#[test]
fn connections_that_are_reset_before_a_response() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.reset_on_close();
    });
    let proxy = Proxy::to([origin.addr()]);
    let response = proxy.connect().get("/");
    assert_eq!(response.status(), 502);
    assert!(!response.text().is_empty());
}

/// What has been passed on cannot be taken back, but the client can tell that it is not whole.
#[test]
fn bodies_that_break_off_do_not_look_whole() {
    let table = [
        ("short of its length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf"),
        (
            "no end of the trailers",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX: y\r\n",
        ),
        (
            "a bad chunk size",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nz\r\nx\r\n0\r\n\r\n",
        ),
        (
            "a negative chunk size",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n-1\r\n\r\n",
        ),
        (
            "a chunk too long",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfway\r\n0\r\n\r\n",
        ),
        ("a bare LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\n\n"),
    ];
    cases(table.map(|case| (case.0, case.1)), |bytes| {
        let origin = Origin::start(move |conn| {
            let request = conn.request();
            if request.target() == "/good" {
                conn.send(ok("good"));
            } else {
                conn.send(bytes);
            }
        });
        let proxy = Proxy::to([origin.addr()]);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut response = client.response_head("GET");
        // A proxy that has seen the whole of it at once may know better in time.
        if response.status() == 200 {
            assert!(!matches!(response.framing, Framing::UntilClose), "{response:?}");
            let failure = client.read_body(&mut response).expect_err("the body must not look whole");
            assert!(matches!(failure, Failure::Eof | Failure::Reset), "{failure}");
        } else {
            assert_eq!(response.status(), 502);
        }
        assert_eq!(proxy.connect().get("/good").text(), "good");
    });
}

/// What the origin sends behind the end of a response belongs to nobody, least of all to the next client.
#[test]
fn bytes_behind_a_response_reach_nobody() {
    let extra = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    let table = [
        ("behind a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()),
        (
            "behind chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".to_owned(),
        ),
        ("behind a 204", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("behind a 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n".to_owned()),
    ];
    cases(table, |response| {
        for at_once in [true, false] {
            let response = response.clone();
            let origin = Origin::start(move |conn| {
                if conn.index() == 0 {
                    conn.request();
                    if at_once {
                        conn.send([response.as_str(), extra].concat());
                    } else {
                        conn.send(&response);
                        conn.send(extra);
                    }
                    conn.expect_gone();
                    return;
                }
                while let Some(request) = conn.next_request() {
                    conn.send(ok(request.target()));
                }
            });
            let proxy = Proxy::to([origin.addr()]);
            let mut client = proxy.connect();
            assert!(matches!(client.get("/first").status(), 200 | 204 | 304));
            if at_once {
                assert_eq!(client.get("/second").text(), "/second");
            } else {
                // The second request may go out before the excess comes in: then nobody can tell it from a response
                // by its time of arrival, and it is the origin's word that it is one.
                let text = client.get("/second").text();
                assert!(text == "/second" || text == "smuggled", "{text}");
            }
        }
    });
}

/// A body where none is allowed is not a response to the next request either.
#[test]
fn a_body_in_a_response_to_head_reaches_nobody() {
    let origin = Origin::start(|conn| {
        let request = conn.request();
        if request.method() == "HEAD" {
            conn.send(
                "HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            );
            conn.expect_gone();
        } else {
            conn.send(ok("right"));
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").value("content-length"), Some("38"));
    assert_eq!(client.get("/").text(), "right");
}

/// A response that comes without a request must not wait for the next one.
#[test]
fn responses_to_nothing_reach_nobody() {
    let origin = Origin::start(|conn| {
        if conn.index() == 0 {
            conn.request();
            conn.send(ok("first"));
            // The proxy must not keep a connection on which bytes come that it did not ask for.
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled");
            conn.expect_gone();
            return;
        }
        conn.request();
        conn.send(ok("second"));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").text(), "first");
    origin.wait_idle();
    assert_eq!(client.get("/").text(), "second");
}

/// What looks odd and is right all the same passes.
#[test]
fn unusual_responses_that_are_right_pass() {
    let table: [(&str, &[u8], &str); 7] = [
        ("no reason", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", "hi"),
        ("high bytes in the reason", b"HTTP/1.1 200 d\xe9j\xe0\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        ("lower-case names", b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nhi", "hi"),
        (
            "a coding in capitals",
            b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "hi",
        ),
        ("a tab in a value", b"HTTP/1.1 200 OK\r\nX: a\tb\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        (
            "extensions",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n002;a=\"b c\"\r\nhi\r\n0;d\r\n\r\n",
            "hi",
        ),
        ("an unknown status", b"HTTP/1.1 299 Strange\r\nContent-Length: 2\r\n\r\nhi", "hi"),
    ];
    cases(table.map(|case| (case.0, case)), |(_, bytes, body)| {
        for bytewise in [false, true] {
            let origin = Origin::start(move |conn| {
                while conn.next_request().is_some() {
                    if bytewise {
                        conn.send_bytewise(bytes);
                    } else {
                        conn.send(bytes);
                    }
                }
            });
            let proxy = Proxy::to([origin.addr()]);
            let mut client = proxy.connect();
            assert_eq!(client.get("/").text(), body);
            assert_eq!(client.get("/").text(), body);
            assert_eq!(origin.connections(), 1);
        }
    });
}
