//! The harness on itself: clients directly against origins, without a proxy in between.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::origin::ok;
use crate::support::*;

#[test]
fn a_client_and_an_origin_understand_each_other() {
    let origin = Origin::start(|conn| {
        let request = conn.request();
        assert_eq!((request.method(), request.target()), ("POST", "/a?b"));
        assert_eq!(request.framing, Framing::Chunked);
        assert_eq!(request.text(), "hello world");
        assert_eq!(request.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
        conn.send_bytewise("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\n\r\nto the end");
    });
    let mut client = Client::connect(origin.addr());
    client.send_bytewise("POST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_bytewise("5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n");
    assert_eq!(client.response().status(), 103);
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "abc"));
    assert_eq!(client.get("/").text(), "to the end");
    client.expect_eof();
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn untouched_origins_are_told_from_touched_ones() {
    let origin = Origin::silent();
    origin.assert_untouched();
    let client = Client::connect(origin.addr());
    origin.assert_untouched();
    client.send("x");
    let seen = catch_unwind(AssertUnwindSafe(|| origin.assert_untouched()));
    assert!(seen.is_err(), "the byte was not noticed");
}

#[test]
fn a_failed_script_fails_the_test() {
    let failed = catch_unwind(|| {
        let origin = Origin::start(|conn| conn.expect("abc"));
        let client = Client::connect(origin.addr());
        client.send("abd");
        origin.wait_connections(1);
        origin.wait_idle();
    });
    assert!(cases::panic_text(failed.unwrap_err().as_ref()).contains("abd"));
}

#[test]
fn resets_and_ends_are_told_apart() {
    let origin = Origin::start(|conn| {
        conn.expect("r");
        conn.reset_on_close();
    });
    let mut client = Client::connect(origin.addr());
    client.send("r");
    client.expect_reset();
    drop(origin);

    let origin = Origin::start(|conn| assert_eq!(conn.read_some(), Err(Failure::Reset)));
    let client = Client::connect(origin.addr());
    origin.wait_connections(1);
    client.reset();
    origin.wait_idle();
    drop(origin);

    let origin = Origin::start(|conn| {
        conn.expect_eof();
        conn.send("bye");
    });
    let mut client = Client::connect(origin.addr());
    client.finish_sending();
    client.expect("bye");
    client.expect_eof();
}

#[test]
fn the_parser_refuses_what_is_not_exact() {
    let table = [
        ("a bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        ("a bare CR", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"),
        ("both framings", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"),
        ("a bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n"),
        ("a chunk without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n"),
        ("a 204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
    ];
    cases(table, |bytes| {
        let origin = Origin::start(move |conn| conn.send(bytes));
        let read = catch_unwind(AssertUnwindSafe(|| Client::connect(origin.addr()).response()));
        let said = cases::panic_text(read.unwrap_err().as_ref());
        assert!(said.contains("malformed"), "{said}");
    });
}

#[test]
fn ports_refuse_or_stay_silent_as_told() {
    let refusing = RefusingPort::new();
    let error = std::net::TcpStream::connect(refusing.addr()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let silent = SilentPort::new();
    let error = std::net::TcpStream::connect_timeout(&silent.addr(), QUIET).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn patterns_find_a_wrong_byte() {
    let mut bytes = pattern::bytes(1000);
    let mut checker = pattern::Checker::default();
    checker.take(&bytes[..400]);
    checker.take(&bytes[400..]);
    assert_eq!(checker.count(), 1000);
    bytes.swap(500, 501);
    let failed = catch_unwind(|| pattern::Checker::default().take(&bytes)).unwrap_err();
    assert!(cases::panic_text(failed.as_ref()).contains("offset 500"));
}

#[test]
fn a_gate_lets_pass_once_open() {
    let gate = Gate::default();
    assert!(!gate.opens_within(std::time::Duration::ZERO));
    gate.open();
    gate.wait();
    let origin = Origin::replying(ok("x"));
    assert_eq!(Client::connect(origin.addr()).get("/").text(), "x");
}
