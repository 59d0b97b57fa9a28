//! Upgrades: a connection that changes its protocol becomes a tunnel.

use std::time::Duration;

use crate::support::origin::ok;
use crate::support::*;

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A proxy that lets WebSocket through.
#[track_caller]
fn proxy_with(origin: &Origin, listener: &str) -> Proxy {
    let config = Config::to([origin.addr()]).listener("upgrades = [\"websocket\"]").listener(listener);
    Proxy::start(config.http())
}

/// Reads an upgrade request and checks what makes it one.
#[track_caller]
fn expect_upgrade(conn: &mut Conn) {
    let request = conn.request();
    assert_eq!(request.value("upgrade"), Some("websocket"));
    assert!(request.has_connection_option("upgrade"), "{request:?}");
    assert_eq!(request.value("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
}

#[track_caller]
fn expect_switch(client: &mut Client) {
    let response = client.response();
    assert_eq!(response.status(), 101, "{response:?}");
    assert_eq!(response.value("upgrade"), Some("websocket"));
    assert!(response.has_connection_option("upgrade"), "{response:?}");
    assert_eq!(response.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

#[test]
fn a_tunnel_carries_bytes_both_ways() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        conn.expect("ping \0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        conn.send("pong");
        conn.expect("more");
        conn.send("of it");
        conn.expect_eof();
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.send("ping \0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    client.expect("pong");
    client.send("more");
    client.expect("of it");
    client.finish_sending();
    client.expect_eof();
    origin.wait_idle();
}

#[test]
fn bytes_right_behind_the_heads_arrive() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send([SWITCH, "server first"].concat());
        conn.expect("client first");
        conn.send("end");
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send([REQUEST, "client first"].concat());
    expect_switch(&mut client);
    client.expect("server first");
    client.expect("end");
    client.expect_eof();
    origin.wait_idle();
}

#[test]
fn the_client_may_end_its_side_first() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        conn.expect("last words");
        conn.expect_eof();
        conn.send("and still an answer");
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.send("last words");
    client.finish_sending();
    client.expect("and still an answer");
    client.expect_eof();
    origin.wait_idle();
}

#[test]
fn the_origin_may_end_its_side_first() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send([SWITCH, "last words"].concat());
        conn.finish_sending();
        conn.expect("and still an answer");
        conn.expect_eof();
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.expect("last words");
    client.expect_eof();
    client.send("and still an answer");
    client.finish_sending();
    origin.wait_idle();
}

#[test]
fn a_tunnel_carries_much_and_pushes_back() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        let mut checker = pattern::Checker::default();
        conn.read_to_end(&mut |bytes| checker.take(bytes)).unwrap();
        assert_eq!(checker.count(), LENGTH as u64);
        conn.send(pattern::bytes(LENGTH));
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.send(pattern::bytes(LENGTH));
    client.finish_sending();
    let mut checker = pattern::Checker::default();
    client.drain_to_end(&mut |bytes| checker.take(bytes));
    assert_eq!(checker.count(), LENGTH as u64);
    origin.wait_idle();
}

#[test]
fn resets_of_either_side_end_the_tunnel() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        conn.expect("r");
        conn.reset_on_close();
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.send("r");
    client.expect_gone();
    drop((proxy, origin));

    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        conn.expect("x");
        conn.send("y");
        conn.expect_gone();
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.send("x");
    client.expect("y");
    client.reset();
    origin.wait_idle();
}

#[test]
fn a_tunnel_without_traffic_is_closed() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        conn.expect_gone();
    });
    let proxy = proxy_with(&origin, "timeouts = { tunnel_idle = \"300ms\" }");
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    client.expect_gone();
    origin.wait_idle();
}

/// Time-outs of HTTP do not hold for what is not HTTP any more.
#[test]
fn a_tunnel_outlives_the_time_outs_of_http() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(SWITCH);
        conn.expect("still here");
        conn.send("me too");
    });
    let timeouts = "timeouts = { request = \"300ms\", idle = \"300ms\", stream_idle = \"300ms\", \
                    request_head = \"300ms\", tunnel_idle = \"60s\" }";
    let proxy = proxy_with(&origin, timeouts);
    let mut client = proxy.connect();
    client.send(REQUEST);
    expect_switch(&mut client);
    assert_eq!(client.poll(Duration::from_millis(900)), Err(Failure::TimedOut));
    client.send("still here");
    client.expect("me too");
    client.expect_eof();
}

#[test]
fn an_origin_may_refuse_to_switch() {
    for refusal in ["200 OK", "400 Bad Request", "426 Upgrade Required"] {
        let origin = Origin::start(move |conn| {
            expect_upgrade(conn);
            conn.send(format!("HTTP/1.1 {refusal}\r\nContent-Length: 2\r\n\r\nno"));
            assert_eq!(conn.request().target(), "/next");
            conn.send(ok("next"));
        });
        let proxy = proxy_with(&origin, "");
        let mut client = proxy.connect();
        client.send(REQUEST);
        let response = client.response();
        assert_eq!((response.start_line, response.body), (format!("HTTP/1.1 {refusal}"), b"no".to_vec()));
        assert_eq!(client.get("/next").text(), "next", "the connection goes on as HTTP");
    }
}

#[test]
fn upgrades_that_are_not_allowed_are_not_passed_on() {
    let table = [
        ("none is", "upgrades = []", REQUEST.to_owned()),
        ("another is", "upgrades = [\"other\"]", REQUEST.to_owned()),
        ("h2c never is", "upgrades = [\"websocket\"]", REQUEST.replace("websocket", "h2c")),
        (
            "not without Connection",
            "upgrades = [\"websocket\"]",
            REQUEST.replace("keep-alive, Upgrade", "keep-alive"),
        ),
        ("not in HTTP/1.0", "upgrades = [\"websocket\"]", REQUEST.replace("HTTP/1.1", "HTTP/1.0")),
    ];
    cases(table.map(|(name, upgrades, request)| (name, (upgrades, request))), |(upgrades, request)| {
        let origin = Origin::start(|conn| {
            let request = conn.request();
            request.assert_absent("upgrade");
            assert!(!request.has_connection_option("upgrade"), "{request:?}");
            conn.send(ok("plain"));
        });
        let proxy = Proxy::start(Config::to([origin.addr()]).listener(upgrades).http());
        let mut client = proxy.connect();
        client.send(request);
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (200, "plain"));
        origin.wait_idle();
    });
}

#[test]
fn other_protocols_can_be_allowed() {
    let origin = Origin::start(|conn| {
        let request = conn.request();
        assert_eq!(request.value("upgrade"), Some("Special"));
        conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: Special\r\nConnection: upgrade\r\n\r\nhi");
        conn.expect("ho");
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).listener("upgrades = [\"special\"]").http());
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: Special\r\n\r\n");
    assert_eq!(client.response().status(), 101);
    client.expect("hi");
    client.send("ho");
    client.expect_eof();
    origin.wait_idle();
}

/// A switch to something that was not asked for is no switch.
#[test]
fn a_switch_to_another_protocol_is_refused() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n");
        conn.expect_gone();
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    assert_eq!(client.response().status(), 502);
    origin.wait_idle();
}

/// Interim responses may come before the switch.
#[test]
fn a_switch_after_an_interim_response() {
    let origin = Origin::start(|conn| {
        expect_upgrade(conn);
        conn.send(["HTTP/1.1 103 Early Hints\r\n\r\n", SWITCH, "hi"].concat());
        conn.expect_eof();
    });
    let proxy = proxy_with(&origin, "");
    let mut client = proxy.connect();
    client.send(REQUEST);
    assert_eq!(client.response().status(), 103);
    expect_switch(&mut client);
    client.expect("hi");
    client.finish_sending();
    client.expect_eof();
    origin.wait_idle();
}
