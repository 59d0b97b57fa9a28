//! TCP listeners: bytes and ends are passed on as they come.

use std::time::Instant;

use crate::support::pattern::BIG;
use crate::support::*;

/// Sends back whatever comes.
fn echo(conn: &mut Conn) {
    while let Ok(bytes) = conn.read_some() {
        if conn.try_send(bytes).is_err() {
            return;
        }
    }
}

#[track_caller]
fn proxy_to(origin: &Origin) -> Proxy {
    Proxy::start(Config::to([origin.addr()]).tcp())
}

#[test]
fn bytes_are_relayed_both_ways() {
    let origin = Origin::start(|conn| {
        conn.expect(b"\0\x01hello\r\n\xff");
        conn.send(b"\xfe and\r\n\r\n back");
        conn.expect("again");
        conn.send("and again");
        conn.expect_eof();
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    client.send(b"\0\x01hello\r\n\xff");
    client.expect(b"\xfe and\r\n\r\n back");
    client.send_bytewise("again");
    client.expect("and again");
    drop(client);
    origin.wait_idle();
}

#[test]
fn the_origin_may_speak_first() {
    let origin = Origin::start(|conn| {
        conn.send("220 mail.example\r\n");
        conn.expect("HELO\r\n");
        conn.send("250 ok\r\n");
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    client.expect("220 mail.example\r\n");
    client.send("HELO\r\n");
    client.expect("250 ok\r\n");
    client.expect_eof();
}

#[test]
fn the_client_may_end_its_side_first() {
    let origin = Origin::start(|conn| {
        conn.expect("question");
        conn.expect_eof();
        conn.send("answer");
        conn.send_bytewise(", byte by byte");
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    client.send("question");
    client.finish_sending();
    client.expect("answer, byte by byte");
    client.expect_eof();
    origin.wait_idle();
}

#[test]
fn the_origin_may_end_its_side_first() {
    let origin = Origin::start(|conn| {
        conn.send("all I have to say");
        conn.finish_sending();
        conn.expect("well then");
        conn.expect("goodbye");
        conn.expect_eof();
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    client.expect("all I have to say");
    client.expect_eof();
    client.send("well then");
    client.send("goodbye");
    client.finish_sending();
    origin.wait_idle();
}

#[test]
fn an_end_without_a_byte_is_passed_on() {
    let origin = Origin::start(|conn| {
        conn.expect_eof();
        conn.send("answer to nothing");
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    client.finish_sending();
    client.expect("answer to nothing");
    client.expect_eof();
    origin.wait_idle();
}

#[test]
fn a_reset_of_the_client_becomes_a_reset_of_the_origin() {
    let origin = Origin::start(|conn| {
        conn.expect("hello");
        conn.send("hello");
        assert_eq!(conn.read_some(), Err(Failure::Reset));
    });
    let proxy = proxy_to(&origin);
    for _ in 0..20 {
        let mut client = proxy.connect();
        client.send("hello");
        client.expect("hello");
        client.reset();
    }
    origin.wait_connections(20);
    origin.wait_idle();
}

#[test]
fn a_reset_of_the_origin_becomes_a_reset_of_the_client() {
    let origin = Origin::start(|conn| {
        conn.expect("hello");
        conn.reset_on_close();
    });
    let proxy = proxy_to(&origin);
    for _ in 0..20 {
        let mut client = proxy.connect();
        client.send("hello");
        client.expect_reset();
    }
}

/// A reset must not be mistaken for an end while the other side is half closed.
#[test]
fn a_reset_is_passed_on_after_a_half_close() {
    let origin = Origin::start(|conn| {
        conn.expect("hello");
        conn.expect_eof();
        conn.reset_on_close();
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    client.send("hello");
    client.finish_sending();
    client.expect_reset();
}

#[test]
fn idle_connections_time_out() {
    let origin = Origin::start(|conn| {
        conn.expect("hello");
        conn.send("hello");
        conn.expect_gone();
    });
    let config = Config::to([origin.addr()]).listener("idle_timeout = \"400ms\"");
    let proxy = Proxy::start(config.tcp());
    let mut client = proxy.connect();
    client.send("hello");
    client.expect("hello");
    let start = Instant::now();
    client.expect_gone();
    let took = start.elapsed().as_millis();
    assert!((380..10_000).contains(&took), "it took {took} ms");
    origin.wait_idle();
}

/// Traffic in one direction keeps the connection alive in both.
#[test]
fn traffic_in_either_direction_keeps_a_connection() {
    let origin = Origin::start(|conn| {
        for _ in 0..10 {
            conn.expect("x");
        }
        conn.send("done");
    });
    let config = Config::to([origin.addr()]).listener("idle_timeout = \"600ms\"");
    let proxy = Proxy::start(config.tcp());
    let mut client = proxy.connect();
    for _ in 0..10 {
        client.send("x");
        let quiet = client.poll(std::time::Duration::from_millis(150));
        assert!(matches!(quiet, Err(Failure::TimedOut)) || quiet == Ok(b"done".to_vec()), "{quiet:?}");
        if quiet.is_ok() {
            return;
        }
    }
    client.expect("done");
}

#[test]
fn a_connection_that_cannot_be_made_is_closed() {
    let refusing = RefusingPort::new();
    let proxy = Proxy::start(Config::to([refusing.addr()]).tcp());
    // The reset may be there before the client has looked whether it is connected.
    if let Some(mut client) = Client::connect_unless_reset(proxy.addr("web")) {
        client.expect_gone();
    }
    if let Some(mut client) = Client::connect_unless_reset(proxy.addr("web")) {
        let _ = client.try_send("bytes that go nowhere");
        client.expect_gone();
    }
}

#[test]
fn connecting_times_out() {
    let silent = SilentPort::new();
    let config = Config::to([silent.addr()]).cluster("connect_timeout = \"400ms\"\nconnect_attempts = 1");
    let proxy = Proxy::start(config.tcp());
    let start = Instant::now();
    let mut client = proxy.connect();
    client.expect_gone();
    let took = start.elapsed().as_millis();
    assert!((380..10_000).contains(&took), "it took {took} ms");
}

#[test]
fn a_failure_to_connect_moves_on_to_the_next_endpoint() {
    let refusing = RefusingPort::new();
    let origin = Origin::start(echo);
    let config = Config::to([refusing.addr(), origin.addr()]).cluster("connect_attempts = 2");
    let proxy = Proxy::start(config.tcp());
    for _ in 0..6 {
        let mut client = proxy.connect();
        client.send("hello");
        client.expect("hello");
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_origin() {
    let stalled = Gate::default();
    let origin = {
        let stalled = stalled.clone();
        Origin::start(move |conn| {
            let mut offset = conn.send_until_stalled(|offset| pattern::piece(offset, BIG));
            assert!(offset < BIG, "nothing pushed back");
            stalled.open();
            while offset < BIG {
                let piece = pattern::piece(offset, BIG);
                conn.send(&piece);
                offset += piece.len() as u64;
            }
        })
    };
    let proxy = proxy_to(&origin);
    let before = proxy.resident_kib();
    let mut client = Client::connect_slow_reader(proxy.addr("web"));
    stalled.wait();
    let now = proxy.resident_kib();
    assert!(now < before + 24 * 1024, "the proxy grew from {before} to {now} KiB");
    let mut checker = pattern::Checker::default();
    client.drain_to_end(&mut |bytes| checker.take(bytes));
    assert_eq!(checker.count(), BIG);
    origin.wait_idle();
}

#[test]
fn an_origin_that_does_not_read_stops_the_client() {
    let go_on = Gate::default();
    let origin = {
        let go_on = go_on.clone();
        Origin::start(move |conn| {
            conn.shrink_receive_buffer();
            go_on.wait();
            let mut checker = pattern::Checker::default();
            conn.read_to_end(&mut |bytes| checker.take(bytes)).unwrap();
            conn.send(checker.count().to_string());
        })
    };
    let proxy = proxy_to(&origin);
    let before = proxy.resident_kib();
    let mut client = proxy.connect();
    let mut offset = client.send_until_stalled(|offset| pattern::piece(offset, BIG));
    assert!(offset < BIG, "nothing pushed back");
    let now = proxy.resident_kib();
    assert!(now < before + 24 * 1024, "the proxy grew from {before} to {now} KiB");
    go_on.open();
    while offset < BIG {
        let piece = pattern::piece(offset, BIG);
        client.send(&piece);
        offset += piece.len() as u64;
    }
    client.finish_sending();
    client.expect(BIG.to_string());
    client.expect_eof();
}

/// Both directions full at once: neither may wait for the other.
#[test]
fn both_directions_at_once() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let origin = Origin::start(|conn| {
        let mut sent = 0;
        let mut checker = pattern::Checker::default();
        let body = pattern::bytes(LENGTH);
        while sent < LENGTH || checker.count() < LENGTH as u64 {
            if sent < LENGTH {
                let piece = &body[sent..(sent + 65_536).min(LENGTH)];
                conn.send(piece);
                sent += piece.len();
            }
            if checker.count() < LENGTH as u64 {
                checker.take(&conn.read_some().unwrap());
            }
        }
        conn.expect_eof();
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.connect();
    std::thread::scope(|scope| {
        let sender = client.sender();
        scope.spawn(move || {
            sender.send(&pattern::bytes(LENGTH));
            sender.finish_sending();
        });
        let mut checker = pattern::Checker::default();
        client.drain_to_end(&mut |bytes| checker.take(bytes));
        assert_eq!(checker.count(), LENGTH as u64);
    });
    origin.wait_idle();
}

#[test]
fn a_thousand_short_connections() {
    let origin = Origin::start(echo);
    let proxy = proxy::Builder::new(Config::to([origin.addr()]).tcp()).concurrency(2).start();
    let before = proxy.open_files();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let proxy = &proxy;
            scope.spawn(move || {
                for round in 0..125 {
                    let text = format!("{thread}-{round}");
                    let mut client = proxy.connect();
                    client.send(&text);
                    client.finish_sending();
                    client.expect(&text);
                    client.expect_eof();
                }
            });
        }
    });
    assert_eq!(origin.connections(), 1000);
    eventually("all descriptors are closed", || proxy.open_files() <= before);
}

#[test]
fn connections_are_limited() {
    let origin = Origin::start(echo);
    let proxy = Proxy::start(Config::to([origin.addr()]).listener("max_connections = 1").tcp());
    let mut first = proxy.connect();
    first.send("1");
    first.expect("1");
    let mut second = proxy.connect();
    second.send("2");
    second.expect_quiet();
    drop(first);
    second.expect("2");
}

#[test]
fn unix_sockets_on_both_sides() {
    let dir = TempDir::new();
    let path = dir.path().join("origin.sock");
    let _origin = Origin::start_unix(&path, echo);
    let config =
        Config::to([format!("unix:{}", path.display())]).listener("address = \"unix:{dir}/web.sock\"");
    let proxy = Proxy::start(config.tcp());
    let mut client = Client::connect_unix(&proxy.path("web.sock"));
    client.send("through files");
    client.finish_sending();
    client.expect("through files");
    client.expect_eof();
}
