//! HTTP/1.1 and 1.0 as they should be spoken, on both sides.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::origin::ok;
use crate::support::*;

/// A proxy in front of one origin, with further keys for the listener.
#[track_caller]
fn proxy_with(origin: &Origin, listener: &str) -> Proxy {
    Proxy::start(Config::to([origin.addr()]).listener(listener).http())
}

#[test]
fn keep_alive_on_both_sides() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for round in 0..20 {
        let target = format!("/{round}");
        let response = client.get(&target);
        assert_eq!((response.status(), response.text()), (200, target));
        assert!(!response.says_close(), "{response:?}");
    }
    assert_eq!(origin.connections(), 1, "one upstream connection serves them all");
}

#[test]
fn upstream_connections_are_shared_by_clients() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    for round in 0..20 {
        let target = format!("/{round}");
        assert_eq!(proxy.connect().get(&target).text(), target);
    }
    assert_eq!(origin.connections(), 1, "a pooled connection is used again");
}

#[test]
fn a_client_that_says_close_gets_it_and_the_upstream_connection_stays() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    for _ in 0..3 {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status(), 200);
        assert!(response.says_close(), "{response:?}");
        client.expect_eof();
    }
    assert_eq!(origin.connections(), 1);
    assert!(origin.requests().iter().all(|request| !request.says_close()), "{:?}", origin.requests());
}

#[test]
fn an_origin_that_says_close_gets_it_and_the_client_connection_stays() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
        conn.expect_eof();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!(response.text(), "hi");
        assert!(!response.says_close(), "{response:?}");
    }
    origin.wait_idle();
    assert_eq!(origin.connections(), 3);
}

#[test]
fn requests_per_upstream_connection_are_limited() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("requests_per_connection = 2").http());
    let mut client = proxy.connect();
    for _ in 0..6 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn idle_upstream_connections_are_closed_in_time() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send(ok("x"));
        conn.expect_eof();
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("idle_timeout = \"200ms\"").http());
    let mut client = proxy.connect();
    assert_eq!(client.get("/").text(), "x");
    origin.wait_idle();
    assert_eq!(client.get("/").text(), "x");
}

#[test]
fn idle_upstream_connections_are_limited_in_number() {
    let all_there = Gate::default();
    let origin = {
        let all_there = all_there.clone();
        Origin::start(move |conn| {
            while conn.next_request().is_some() {
                all_there.wait();
                conn.send(ok("x"));
            }
        })
    };
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("max_idle_connections = 1").http());
    let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    for client in &clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    origin.wait_requests(4);
    all_there.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "x");
    }
    eventually("three of four upstream connections are closed", || origin.running() == 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    let requests: String = (0..100).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    for n in 0..100 {
        assert_eq!(client.response().text(), format!("/{n}"));
    }
}

#[test]
fn pipelined_requests_of_all_framings_are_kept_apart() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            if request.method() == "HEAD" {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
            } else {
                conn.send(ok(&format!("{} {} {}", request.method(), request.target(), request.text())));
            }
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let all = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
               GET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
               POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
               HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n\
               \r\nPUT /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\
               GET /6 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for bytewise in [false, true] {
        let mut client = proxy.connect();
        if bytewise {
            client.send_bytewise(all);
        } else {
            client.send(all);
        }
        assert_eq!(client.response().text(), "POST /1 hello");
        assert_eq!(client.response().text(), "GET /2 ");
        assert_eq!(client.response().text(), "POST /3 abc");
        assert_eq!(client.response_to("HEAD").value("content-length"), Some("7"));
        assert_eq!(client.response().text(), "PUT /5 ");
        assert_eq!(client.response().text(), "GET /6 ");
        client.expect_eof();
    }
}

#[test]
fn the_next_request_waits_for_the_response_to_the_one_before() {
    let first_seen = Gate::default();
    let answer_first = Gate::default();
    let origin = {
        let (first_seen, answer_first) = (first_seen.clone(), answer_first.clone());
        Origin::start(move |conn| {
            while let Some(request) = conn.next_request() {
                if request.target() == "/1" {
                    first_seen.open();
                    answer_first.wait();
                }
                conn.send(ok(request.target()));
            }
        })
    };
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    first_seen.wait();
    client.expect_quiet();
    answer_first.open();
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
}

#[test]
fn a_client_that_ends_its_side_still_gets_its_responses() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
    client.expect_eof();
}

#[test]
fn bodies_with_a_length_both_ways() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            assert_eq!(request.framing, Framing::Length(request.body.len() as u64));
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
            conn.send(&request.body);
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for length in [0, 1, 2, 1023, 1024, 1025, 4096, 16_383, 16_384, 16_385, 65_536, 1_000_003] {
        let body = pattern::bytes(length);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&body);
        let response = client.response();
        assert_eq!(response.framing, Framing::Length(length as u64));
        assert!(response.body == body, "the body of {length} bytes came back changed");
    }
}

#[test]
fn chunked_bodies_with_trailers_both_ways() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            assert_eq!(request.framing, Framing::Chunked);
            assert_eq!(request.trailers, [("X-Up".to_owned(), "1".to_owned())]);
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n");
            for piece in request.body.chunks(10_000) {
                conn.send(format!("{:x}\r\n", piece.len()));
                conn.send(piece);
                conn.send("\r\n");
            }
            conn.send("0\r\nX-Down: 2\r\nX-More: 3\r\n\r\n");
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for (length, chunk) in [(0, 1), (1, 1), (1000, 1), (1000, 999), (200_000, 4096), (1_000_003, 100_000)] {
        let body = pattern::bytes(length);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Up\r\n");
        client.send("Transfer-Encoding: chunked\r\n\r\n");
        let mut coded = Vec::new();
        for piece in body.chunks(chunk) {
            coded.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
            coded.extend_from_slice(piece);
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(b"0\r\nX-Up: 1\r\n\r\n");
        client.send(coded);
        let response = client.response();
        assert!(response.body == body, "{length} bytes in chunks of {chunk} came back changed");
        let trailers = [("X-Down".to_owned(), "2".to_owned()), ("X-More".to_owned(), "3".to_owned())];
        assert_eq!(response.trailers, trailers);
    }
}

#[test]
fn byte_by_byte_on_both_sides() {
    let origin = Origin::start(|conn| {
        let request = conn.request();
        assert_eq!((request.text().as_str(), request.trailers.len()), ("hello world", 1));
        conn.send_bytewise("HTTP/1.1 200 Fine\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send_bytewise("5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 2\r\n\r\n");
        conn.request();
        conn.send_bytewise("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nlength");
        conn.request();
        conn.send_bytewise("HTTP/1.1 200 OK\r\n\r\nto the end");
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send_bytewise("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send_bytewise("5\r\nhello\r\n06;a=b\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.value("x-one")), ("hello!", Some("1")));
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "2".to_owned())]);
    client.send_bytewise("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "length");
    client.send_bytewise("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "to the end");
}

const BIG: u64 = 64 * 1024 * 1024;

/// What the process may grow by while a big body passes, however big it is.
const GROWTH_KIB: u64 = 24 * 1024;

fn piece_of_pattern(offset: u64) -> Vec<u8> {
    let mut piece = vec![0; (BIG - offset).min(256 * 1024) as usize];
    pattern::fill(&mut piece, offset);
    piece
}

#[test]
fn a_big_body_up() {
    let origin = Origin::start(|conn| {
        let head = conn.request_head();
        assert_eq!(head.framing, Framing::Length(BIG));
        let mut checker = pattern::Checker::default();
        conn.drain_body(&head, &mut |bytes| checker.take(bytes));
        conn.send(ok(&checker.count().to_string()));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    let before = proxy.resident_kib();
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n"));
    let mut offset = 0;
    while offset < BIG {
        let piece = piece_of_pattern(offset);
        client.send(&piece);
        offset += piece.len() as u64;
    }
    assert_eq!(client.response().text(), BIG.to_string());
    assert_memory(&proxy, before);
}

#[test]
fn a_big_body_down() {
    for chunked in [false, true] {
        let origin = Origin::start(move |conn| {
            conn.request();
            let framing =
                if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {BIG}") };
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let mut offset = 0;
            while offset < BIG {
                let piece = piece_of_pattern(offset);
                if chunked {
                    conn.send(format!("{:x}\r\n", piece.len()));
                }
                conn.send(&piece);
                if chunked {
                    conn.send("\r\n");
                }
                offset += piece.len() as u64;
            }
            if chunked {
                conn.send("0\r\n\r\n");
            }
            conn.request();
            conn.send(ok("next"));
        });
        let proxy = Proxy::to([origin.addr()]);
        let mut client = proxy.connect();
        let before = proxy.resident_kib();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.response_head("GET");
        let mut checker = pattern::Checker::default();
        client.drain_body(&head, &mut |bytes| checker.take(bytes));
        assert_eq!(checker.count(), BIG);
        assert_memory(&proxy, before);
        assert_eq!(client.get("/").text(), "next");
    }
}

#[track_caller]
fn assert_memory(proxy: &Proxy, before: u64) {
    let now = proxy.resident_kib();
    assert!(now < before + GROWTH_KIB, "the proxy grew from {before} to {now} KiB");
}

#[test]
fn a_client_that_does_not_read_stops_the_origin_in_constant_memory() {
    let stalled = Gate::default();
    let origin = {
        let stalled = stalled.clone();
        Origin::start(move |conn| {
            conn.request();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n"));
            let sent = conn.send_until_stalled(piece_of_pattern);
            assert!(sent < BIG, "nothing pushed back");
            stalled.open();
            let mut offset = sent;
            while offset < BIG {
                let piece = piece_of_pattern(offset);
                conn.send(&piece);
                offset += piece.len() as u64;
            }
        })
    };
    let proxy = Proxy::to([origin.addr()]);
    let mut client = Client::connect_slow_reader(proxy.addr("web"));
    let before = proxy.resident_kib();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.response_head("GET");
    stalled.wait();
    assert_memory(&proxy, before);
    let mut checker = pattern::Checker::default();
    client.drain_body(&head, &mut |bytes| checker.take(bytes));
    assert_eq!(checker.count(), BIG);
    origin.wait_idle();
}

#[test]
fn an_origin_that_does_not_read_stops_the_client_in_constant_memory() {
    let go_on = Gate::default();
    let origin = {
        let go_on = go_on.clone();
        Origin::start(move |conn| {
            conn.shrink_receive_buffer();
            let head = conn.request_head();
            go_on.wait();
            let mut checker = pattern::Checker::default();
            conn.drain_body(&head, &mut |bytes| checker.take(bytes));
            conn.send(ok(&checker.count().to_string()));
        })
    };
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    let before = proxy.resident_kib();
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n"));
    let sent = client.send_until_stalled(piece_of_pattern);
    assert!(sent < BIG, "nothing pushed back");
    assert_memory(&proxy, before);
    go_on.open();
    let mut offset = sent;
    while offset < BIG {
        let piece = piece_of_pattern(offset);
        client.send(&piece);
        offset += piece.len() as u64;
    }
    assert_eq!(client.response().text(), BIG.to_string());
}

/// Slow readers must not take the buffers that others need.
#[test]
fn many_stalled_clients_do_not_stop_others() {
    let origin = Origin::start(|conn| {
        while let Ok(Some(request)) = conn.try_request() {
            if request.target() == "/big" {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
                if conn.try_send(head).is_err() {
                    return;
                }
                let mut offset = 0;
                while offset < BIG {
                    let piece = piece_of_pattern(offset);
                    // The client goes away in the middle, or does not read for longer than we wait.
                    if conn.try_send(&piece).is_err() {
                        return;
                    }
                    offset += piece.len() as u64;
                }
            } else {
                conn.send(ok("small"));
            }
        }
    });
    let config = Config::to([origin.addr()]).server("buffer_memory = \"2MiB\"\nbuffer_size = \"16KiB\"");
    let proxy = Proxy::start(config.http());
    let stalled: Vec<_> = (0..48)
        .map(|_| {
            let mut client = Client::connect_slow_reader(proxy.addr("web"));
            client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
            client.response_head("GET");
            client
        })
        .collect();
    let mut client = proxy.connect();
    for _ in 0..50 {
        assert_eq!(client.get("/small").text(), "small");
        assert_eq!(proxy.connect().get("/small").text(), "small");
    }
    drop(stalled);
}

#[test]
fn head_has_a_length_and_no_body() {
    let origin = Origin::start(|conn| {
        assert_eq!(conn.request().method(), "HEAD");
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
        assert_eq!(conn.request().method(), "HEAD");
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.request();
        conn.send(ok("next"));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").value("content-length"), Some("1234"));
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response_to("HEAD");
    assert_eq!((response.status(), response.value("content-length")), (200, None));
    assert_eq!(client.get("/").text(), "next");
}

#[test]
fn statuses_without_a_body() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n");
        conn.request();
        conn.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n");
        conn.request();
        conn.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n");
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        conn.request();
        conn.send(ok("next"));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    let response = client.get("/");
    assert_eq!((response.status(), response.value("x-a")), (204, Some("1")));
    let response = client.get("/");
    assert_eq!((response.status(), response.value("etag")), (304, Some("\"x\"")));
    assert!(matches!(response.value("content-length"), None | Some("99")), "{response:?}");
    let response = client.get("/");
    assert_eq!((response.status(), response.value("content-length")), (304, None));
    let response = client.get("/");
    assert_eq!((response.status(), response.framing), (200, Framing::Length(0)));
    assert_eq!(client.get("/").text(), "next");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn status_and_reason_pass_unchanged() {
    let lines = ["200 OK", "200 All is well", "200 ", "299 Custom", "404 Not Found", "503 Go Away", "599 x"];
    cases(lines.map(|line| (line, line)), |line| {
        let origin = Origin::replying(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nhi"));
        let response = Proxy::to([origin.addr()]).connect().get("/");
        assert_eq!((response.start_line, response.body), (format!("HTTP/1.1 {line}"), b"hi".to_vec()));
    });
}

#[test]
fn interim_responses_pass() {
    let origin = Origin::start(|conn| {
        while conn.next_request().is_some() {
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n");
            conn.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: 2\r\n\r\n");
            conn.send(ok("done"));
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        let first = client.get("/");
        assert_eq!((first.status(), first.value("link")), (103, Some("</a>; rel=preload")));
        assert_eq!(client.response().status(), 102);
        assert_eq!(client.response().value("x"), Some("2"));
        assert_eq!(client.response().text(), "done");
    }
}

#[test]
fn interim_responses_come_at_once() {
    let finish = Gate::default();
    let origin = {
        let finish = finish.clone();
        Origin::start(move |conn| {
            conn.request();
            conn.send("HTTP/1.1 103 Early Hints\r\n\r\n");
            finish.wait();
            conn.send(ok("done"));
        })
    };
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 103);
    finish.open();
    assert_eq!(client.response().text(), "done");
}

#[test]
fn interim_responses_are_kept_from_http_1_0() {
    let origin =
        Origin::replying("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let proxy = proxy_with(&origin, "accept_http_10 = true");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "hi"));
    client.expect_eof();
}

#[test]
fn a_100_of_the_origin_lets_the_body_come() {
    let origin = Origin::start(|conn| {
        while let Ok(mut head) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| conn.request_head()))
        {
            assert!(head.expect_value("expect").eq_ignore_ascii_case("100-continue"));
            conn.send("HTTP/1.1 100 Continue\r\n\r\n");
            conn.read_body(&mut head).unwrap();
            conn.send(ok(&head.text()));
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for (framing, body) in
        [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
    {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"));
        assert_eq!(client.response().status(), 100);
        client.send(body);
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
    }
}

#[test]
fn a_client_need_not_wait_for_the_100() {
    let origin = Origin::start(|conn| {
        let mut head = conn.request_head();
        conn.read_body(&mut head).unwrap();
        conn.send("HTTP/1.1 100 Continue\r\n\r\n");
        conn.send(ok(&head.text()));
        conn.request();
        conn.send(ok("next"));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let mut response = client.response();
    if response.status() == 100 {
        response = client.response();
    }
    assert_eq!(response.text(), "hello");
    assert_eq!(client.get("/").text(), "next");
}

#[test]
fn an_early_answer_to_an_expectation_passes_without_a_100() {
    let table =
        [("417", "417 Expectation Failed"), ("413", "413 Content Too Large"), ("401", "401 Unauthorized")];
    cases(table, |line| {
        let origin = Origin::start(move |conn| {
            conn.request_head();
            conn.send(format!("HTTP/1.1 {line}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"));
            conn.expect_gone();
        });
        let proxy = Proxy::to([origin.addr()]);
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n");
        let response = client.response();
        assert_eq!(
            (response.start_line.as_str(), response.text().as_str()),
            (&*format!("HTTP/1.1 {line}"), "no\n")
        );
        assert!(
            response.says_close(),
            "the body that did not come makes this the last exchange: {response:?}"
        );
        client.expect_eof();
        drop(client);
        origin.wait_idle();
    });
}

#[test]
fn an_unknown_expectation_is_refused() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: the-unexpected\r\nContent-Length: 5\r\n\r\nhello");
    let response = client.response();
    assert_eq!(response.status(), 417);
    assert!(!response.text().is_empty());
    origin.assert_untouched();
}

#[test]
fn an_early_response_to_an_unfinished_upload_passes() {
    let origin = Origin::start(|conn| {
        conn.request_head();
        conn.expect("beginning");
        conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno way");
        conn.expect_gone();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\nbeginning");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (403, "no way"));
    drop(client);
    origin.wait_idle();
}

/// The client is still sending when the origin has answered and gone.
#[test]
fn an_early_response_survives_a_client_that_goes_on_sending() {
    let origin = Origin::start(|conn| {
        conn.request_head();
        conn.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 6\r\n\r\nno way");
        conn.finish_sending();
        conn.expect_gone();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    for _ in 0..8 {
        if client.try_send([0; 64 * 1024]).is_err() {
            break;
        }
    }
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (413, "no way"));
}

#[test]
fn an_early_response_may_last_while_the_upload_goes_on() {
    let origin = Origin::start(|conn| {
        let mut head = conn.request_head();
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        conn.read_body(&mut head).unwrap();
        conn.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", head.body.len(), head.text()));
        conn.request();
        conn.send(ok("next"));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nup\r\n");
    let mut response = client.response_head("POST");
    client.expect("5\r\nfirst\r\n");
    client.send("5\r\nwards\r\n0\r\n\r\n");
    client.read_body(&mut response).unwrap();
    assert_eq!(response.text(), "upwards");
    assert_eq!(client.get("/").text(), "next");
}

#[test]
fn http_1_0_clients_are_closed_after_the_response() {
    let origin = Origin::echoing_targets();
    let proxy = proxy_with(&origin, "accept_http_10 = true");
    let mut client = proxy.connect();
    client.send("GET /old HTTP/1.0\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "/old"));
    client.expect_eof();
    assert_eq!(origin.only_request().start_line, "GET /old HTTP/1.1");
}

#[test]
fn http_1_0_clients_may_keep_the_connection() {
    let origin = Origin::echoing_targets();
    let proxy = proxy_with(&origin, "accept_http_10 = true");
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send("GET /old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!((response.text().as_str(), response.framing), ("/old", Framing::Length(4)));
        assert!(response.has_connection_option("keep-alive"), "{response:?}");
    }
    client.send("GET /last HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "/last");
    client.expect_eof();
}

#[test]
fn http_1_0_clients_need_no_host() {
    let origin = Origin::echoing_targets();
    let proxy = proxy_with(&origin, "accept_http_10 = true");
    let mut client = proxy.connect();
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let response = client.response();
    // The origin side speaks HTTP/1.1, where a Host is obligatory; what it says is up to the proxy.
    assert_eq!((response.status(), response.text().as_str()), (200, "/old"));
    client.expect_eof();
}

#[test]
fn http_1_0_clients_get_no_chunks() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n",
    );
    let proxy = proxy_with(&origin, "accept_http_10 = true");
    for connection in ["", "Connection: keep-alive\r\n"] {
        let mut client = proxy.connect();
        client.send(format!("GET / HTTP/1.0\r\nHost: a\r\n{connection}\r\n"));
        let response = client.response();
        assert_eq!((response.text().as_str(), response.framing), ("hello world", Framing::UntilClose));
        response.assert_absent("transfer-encoding");
    }
    assert_eq!(origin.connections(), 1, "the upstream connection is not affected");
}

#[test]
fn http_1_0_origins_are_served_in_their_way() {
    let origin = Origin::start(|conn| {
        conn.request();
        match conn.index() {
            0 => conn.send("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst"),
            1 => conn.send("HTTP/1.0 200 OK\r\n\r\nsecond"),
            _ => {
                conn.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nthird");
                conn.request();
                conn.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 6\r\n\r\nfourth");
            }
        }
        if conn.index() == 0 {
            conn.expect_eof();
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for body in ["first", "second", "third", "fourth"] {
        let response = client.get("/");
        assert_eq!((response.start_line.as_str(), response.text().as_str()), ("HTTP/1.1 200 OK", body));
        assert!(!response.says_close(), "{response:?}");
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_response_until_close_becomes_chunked() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n");
        conn.send(pattern::bytes(100_000));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.framing, response.value("x-a")), (Framing::Chunked, Some("b")));
        assert!(response.body == pattern::bytes(100_000), "the body came back changed");
    }
}

#[test]
fn a_response_until_close_ends_an_http_1_0_connection() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\n\r\n");
        conn.send(pattern::bytes(100_000));
    });
    let proxy = proxy_with(&origin, "accept_http_10 = true");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!(response.framing, Framing::UntilClose);
    assert!(response.body == pattern::bytes(100_000), "the body came back changed");
}

/// An end by reset is no end of a body: the client must be able to tell.
#[test]
fn a_reset_of_the_origin_is_not_taken_for_the_end_of_a_body() {
    let client_has_seen_some = Gate::default();
    let origin = {
        let client_has_seen_some = client_has_seen_some.clone();
        Origin::start(move |conn| {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\n\r\nhalf");
            client_has_seen_some.wait();
            conn.reset_on_close();
        })
    };
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = client.response_head("GET");
    assert_eq!(response.framing, Framing::Chunked);
    client.expect("4\r\nhalf\r\n");
    client_has_seen_some.open();
    let failure = client.read_body(&mut response).unwrap_err();
    assert!(matches!(failure, Failure::Eof | Failure::Reset), "{failure}");
}

#[test]
fn an_upload_that_breaks_off_does_not_look_whole_to_the_origin() {
    let origin = Origin::start(|conn| {
        let mut head = conn.request_head();
        let failure = conn.read_body(&mut head).unwrap_err();
        assert!(matches!(failure, Failure::Eof | Failure::Reset), "{failure}");
    });
    let proxy = Proxy::to([origin.addr()]);
    let heads = ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"];
    for (number, head) in heads.iter().enumerate() {
        let client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}"));
        origin.wait_connections(number + 1);
        drop(client);
        origin.wait_idle();
    }
}

#[test]
fn a_client_that_leaves_frees_the_upstream_connection() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        conn.expect_gone();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head("GET");
    client.expect("5\r\nhello\r\n");
    client.reset();
    origin.wait_idle();
}

#[test]
fn absolute_targets_win_over_host() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let table = [
        ("GET http://real.example/x?y=z HTTP/1.1\r\nHost: other.example", "/x?y=z", "real.example"),
        ("GET http://real.example:8080/x HTTP/1.1\r\nHost: real.example:8080", "/x", "real.example:8080"),
        ("GET http://real.example HTTP/1.1\r\nHost: real.example", "/", "real.example"),
        ("GET HTTP://real.example/x HTTP/1.1\r\nHost: real.example", "/x", "real.example"),
        ("OPTIONS http://real.example HTTP/1.1\r\nHost: real.example", "*", "real.example"),
    ];
    cases(table.map(|case| (case.0, case)), |(head, target, host)| {
        let mut client = proxy.connect();
        client.send(format!("{head}\r\n\r\n"));
        assert_eq!(client.response().text(), target);
        assert_eq!(origin.requests().pop().unwrap().value("host"), Some(host));
    });
}

#[test]
fn hop_by_hop_fields_of_requests_are_removed() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Named, keep-alive ,x-other\r\nX-NAMED: 1\r\nKeep-Alive: 5\r\n\
         Connection: X-Third\r\nX-Other: 2\r\nX-Third: 3\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Stays: yes\r\nX-Named-Not: stays\r\n\r\n",
    );
    assert_eq!(client.response().status(), 200);
    let request = origin.only_request();
    for name in
        ["x-named", "keep-alive", "x-other", "x-third", "proxy-connection", "te", "upgrade", "http2-settings"]
    {
        request.assert_absent(name);
    }
    assert_eq!((request.value("x-stays"), request.value("x-named-not")), (Some("yes"), Some("stays")));
    assert!(!request.has_connection_option("x-named"), "{request:?}");
}

#[test]
fn hop_by_hop_fields_of_responses_are_removed() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nConnection: X-Named, keep-alive\r\nx-named: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Stays: yes\r\nContent-Length: 2\r\n\r\nhi",
    );
    let proxy = Proxy::to([origin.addr()]);
    let response = proxy.connect().get("/");
    assert_eq!(response.text(), "hi");
    for name in ["x-named", "keep-alive", "proxy-connection", "upgrade"] {
        response.assert_absent(name);
    }
    assert_eq!(response.value("x-stays"), Some("yes"));
}

/// A client must not be able to take fields away that the proxy, or the origin behind it, relies on.
#[test]
fn connection_cannot_name_what_the_proxy_needs() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            conn.send(ok(&request.text()));
        }
    });
    let forwarding = "forwarding = { x_forwarded_for = \"replace\", x_forwarded_proto = \"replace\", x_request_id = \"keep\" }";
    let proxy = proxy_with(&origin, forwarding);
    let mut client = proxy.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\
         Connection: host, content-length, x-forwarded-for, x-forwarded-proto, x-request-id\r\n\r\nhello",
    );
    let response = client.response();
    if response.status() == 400 {
        origin.assert_untouched();
        return;
    }
    assert_eq!(response.text(), "hello");
    let request = origin.only_request();
    assert_eq!(request.value("host"), Some("a.example"));
    assert_eq!(request.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.value("x-forwarded-proto"), Some("http"));
    assert!(!request.expect_value("x-request-id").is_empty());
}

#[test]
fn fields_keep_their_order_and_number() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-One: 1\r\nSet-Cookie: b=2\r\nVary: x\r\nset-cookie: c=3\r\n\
         Content-Length: 2\r\n\r\nhi",
    );
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nX-B: 2\r\nX-A: 3\r\nCookie: x=y; z\r\nX-C:\r\n\r\n");
    let response = client.response();
    assert_eq!(response.values("set-cookie"), ["a=1", "b=2", "c=3"]);
    let request = origin.only_request();
    let of_test =
        |(name, _): &&(String, String)| name.to_ascii_lowercase().starts_with("x-") && name.len() == 3;
    let seen: Vec<_> = request.fields.iter().filter(of_test).map(|(_, value)| value.as_str()).collect();
    assert_eq!(seen, ["1", "2", "3", ""]);
    assert_eq!(request.value("cookie"), Some("x=y; z"));
}

#[test]
fn high_bytes_in_values_pass_unchanged() {
    let origin =
        Origin::replying(b"HTTP/1.1 200 OK\r\nX-B: \xc3\xa9\xff\r\nContent-Length: 0\r\n\r\n".to_vec());
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: \xc3\xa9\xff\r\n\r\n");
    assert_eq!(client.response().value("x-b"), Some("\u{c3}\u{a9}\u{ff}"));
    assert_eq!(origin.only_request().value("x-a"), Some("\u{c3}\u{a9}\u{ff}"));
}

/// Sends one request with these fields through a listener with these forwarding switches; returns what the origin saw
/// and what the client got.
#[track_caller]
fn forwarded(switches: &str, fields: &str) -> (Message, Message) {
    let origin = Origin::replying("HTTP/1.1 200 OK\r\nVia: 1.1 before\r\nContent-Length: 0\r\n\r\n");
    let proxy = proxy_with(&origin, &format!("forwarding = {{ {switches} }}"));
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let response = client.response();
    (origin.only_request(), response)
}

/// All values of a field as the one list that they are.
fn list(message: &Message, name: &str) -> String {
    message.values(name).join(", ")
}

#[test]
fn x_forwarded_for_is_appended_replaced_or_left_alone() {
    let table = [
        ("append", "", "127.0.0.1"),
        ("append", "X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4, 127.0.0.1"),
        ("append", "x-forwarded-for: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n", "1.2.3.4, 5.6.7.8, 127.0.0.1"),
        ("replace", "", "127.0.0.1"),
        ("replace", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n", "127.0.0.1"),
        ("off", "", ""),
        ("off", "X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4"),
    ];
    cases(table.map(|case| (format!("{case:?}"), case)), |(switch, fields, expected)| {
        let (request, _) = forwarded(&format!("x_forwarded_for = \"{switch}\""), fields);
        assert_eq!(list(&request, "x-forwarded-for"), expected);
    });
}

#[test]
fn x_forwarded_proto_is_replaced_kept_or_left_alone() {
    let table = [
        ("replace", "", "http"),
        ("replace", "X-Forwarded-Proto: https\r\n", "http"),
        ("keep", "", "http"),
        ("keep", "X-Forwarded-Proto: https\r\n", "https"),
        ("off", "", ""),
        ("off", "X-Forwarded-Proto: https\r\n", "https"),
    ];
    cases(table.map(|case| (format!("{case:?}"), case)), |(switch, fields, expected)| {
        let (request, _) = forwarded(&format!("x_forwarded_proto = \"{switch}\""), fields);
        assert_eq!(list(&request, "x-forwarded-proto"), expected);
    });
}

#[test]
fn x_request_id_is_kept_replaced_or_left_alone() {
    let id = |switch: &str, fields: &str| {
        let (request, _) = forwarded(&format!("x_request_id = \"{switch}\""), fields);
        request.value("x-request-id").map(str::to_owned)
    };
    assert_eq!(id("keep", "X-Request-Id: mine\r\n").as_deref(), Some("mine"));
    assert!(id("keep", "").is_some_and(|id| id.len() >= 16));
    assert!(id("replace", "X-Request-Id: mine\r\n").is_some_and(|id| id.len() >= 16 && id != "mine"));
    assert_eq!(id("off", "X-Request-Id: mine\r\n").as_deref(), Some("mine"));
    assert_eq!(id("off", ""), None);
}

#[test]
fn request_ids_differ() {
    let origin = Origin::replying(ok("x"));
    let proxy = proxy_with(&origin, "forwarding = { x_request_id = \"replace\" }");
    let mut client = proxy.connect();
    for _ in 0..100 {
        client.get("/");
    }
    let mut ids: Vec<_> =
        origin.requests().iter().map(|request| request.expect_value("x-request-id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[test]
fn via_is_appended_or_left_alone() {
    let (request, response) = forwarded("via = \"ouro\"", "");
    assert_eq!(list(&request, "via"), "1.1 ouro");
    assert_eq!(list(&response, "via"), "1.1 before, 1.1 ouro");
    let (request, _) = forwarded("via = \"ouro\"", "Via: 1.0 fred, 1.1 p.example\r\n");
    assert_eq!(list(&request, "via"), "1.0 fred, 1.1 p.example, 1.1 ouro");
    let (request, response) = forwarded("via = \"off\"", "Via: 1.0 fred\r\n");
    assert_eq!((list(&request, "via").as_str(), list(&response, "via").as_str()), ("1.0 fred", "1.1 before"));
}

#[test]
fn request_fields_are_edited() {
    let origin = Origin::echoing_targets();
    let config = Config::to([origin.addr()])
        .listener("request_headers = { set = { x-a = \"listener\" }, add = { x-b = \"listener\" }, remove = [\"x-c\"] }")
        .routes(
            "[[listeners.routes]]
             cluster = \"origin\"
             request_headers = { set = { x-d = \"route\" }, add = { x-b = \"route\" }, remove = [\"x-e\"] }",
        );
    let proxy = Proxy::start(config.http());
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\nX-B: client\r\nX-C: client\r\nX-E: client\r\n\
         X-F: client\r\n\r\n",
    );
    assert_eq!(client.response().status(), 200);
    let request = origin.only_request();
    assert_eq!(request.values("x-a"), ["listener"]);
    assert_eq!(request.values("x-b"), ["client", "listener", "route"]);
    request.assert_absent("x-c");
    assert_eq!(request.values("x-d"), ["route"]);
    request.assert_absent("x-e");
    assert_eq!(request.values("x-f"), ["client"]);
}

#[test]
fn response_fields_are_edited() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nX-A: origin\r\nX-B: origin\r\nContent-Length: 2\r\n\r\nhi",
    );
    let config = Config::to([origin.addr()])
        .listener("response_headers = { set = { x-a = \"listener\" }, add = { x-b = \"listener\" } }")
        .routes(
            "[[listeners.routes]]
             cluster = \"origin\"
             response_headers = { set = { x-a = \"route\" }, add = { x-b = \"route\" }, remove = [\"server\"] }",
        );
    let proxy = Proxy::start(config.http());
    let response = proxy.connect().get("/");
    assert_eq!(response.values("x-a"), ["listener"], "the listener's edits come last");
    assert_eq!(response.values("x-b"), ["origin", "route", "listener"]);
    response.assert_absent("server");
    assert_eq!(response.text(), "hi");
}

/// The race that every proxy with a pool has: the origin closes an idle connection while a request is on its way.
#[test]
fn a_get_survives_an_origin_that_closes_idle_connections() {
    let origin = Origin::start(|conn| {
        conn.request();
        // Keep-alive by its words, closed by its deeds.
        conn.send(ok("x"));
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for round in 0..500 {
        let response = client.get("/");
        assert_eq!(response.status(), 200, "round {round}: {response:?}");
    }
    assert_eq!(origin.requests().len(), 500);
}

/// The same at its worst: the origin has the request already when it resets the connection.
#[test]
fn a_get_survives_a_reset_of_a_used_connection() {
    for bodyless in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let origin = resets_second_requests();
        let proxy = Proxy::to([origin.addr()]);
        let mut client = proxy.connect();
        for round in 0..100 {
            client.send(format!("{bodyless} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = client.response_to(bodyless);
            assert_eq!(response.status(), 200, "{bodyless}, round {round}: {response:?}");
        }
        assert_eq!(origin.connections(), 100);
    }
}

/// Answers the first request of each connection and resets it at the second.
fn resets_second_requests() -> Origin {
    Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        if conn.next_request().is_some() {
            conn.reset_on_close();
        }
    })
}

/// What the origin may have acted upon is not sent again.
#[test]
fn a_post_is_not_repeated_once_the_origin_may_have_seen_it() {
    let origin = resets_second_requests();
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("unsafe_reuse_within = \"60s\"").http());
    for request in [
        "POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST /pay HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "PATCH /pay HTTP/1.1\r\nHost: a\r\n\r\n",
        "FROBNICATE /pay HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let before = origin.requests().len();
        let mut client = proxy.connect();
        assert_eq!(client.get("/first").status(), 200);
        client.send(request);
        let response = client.response();
        assert_eq!(response.status(), 502, "{response:?}");
        assert!(!response.text().is_empty());
        let since = origin.requests()[before..].iter().filter(|request| request.target() == "/pay").count();
        assert_eq!(since, 1, "{request:?} must reach the origin once");
    }
}

/// With no reuse for what must not be repeated, even such requests never meet a connection that is about to close.
#[test]
fn a_post_survives_an_origin_that_closes_idle_connections() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send(ok("x"));
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("unsafe_reuse_within = \"0s\"").http());
    let mut client = proxy.connect();
    for round in 0..300 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        let response = client.response();
        assert_eq!(response.status(), 200, "round {round}: {response:?}");
    }
    assert_eq!(origin.requests().len(), 300, "none is repeated");
}

#[test]
fn a_request_is_repeated_once_only() {
    let seen = Arc::new(AtomicUsize::new(0));
    let origin = {
        let seen = Arc::clone(&seen);
        Origin::start(move |conn| {
            let first = conn.request();
            if first.target() == "/first" {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                if conn.next_request().is_none() {
                    return;
                }
            }
            seen.fetch_add(1, Ordering::SeqCst);
            conn.reset_on_close();
        })
    };
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    assert_eq!(client.get("/first").status(), 200);
    let response = client.get("/second");
    assert_eq!(response.status(), 502, "{response:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[test]
fn a_request_is_not_repeated_after_a_byte_of_the_response() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        if conn.next_request().is_some() {
            conn.send("H");
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.get("/").status(), 502);
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn many_clients_at_once_get_their_own_responses() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            conn.send(ok(&format!("{} {}", request.target(), request.text())));
        }
    });
    let proxy = proxy::Builder::new(Config::to([origin.addr()]).http()).concurrency(2).start();
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (proxy, failures) = (&proxy, &failures);
            scope.spawn(move || {
                let mut client = proxy.connect();
                for round in 0..100 {
                    let body = format!("{thread}-{round}");
                    let length = body.len();
                    client.send(format!(
                        "PUT /{body} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
                    ));
                    let response = client.response();
                    if response.text() != format!("/{body} {body}") {
                        lock(failures).push(response);
                    }
                }
            });
        }
    });
    assert!(lock(&failures).is_empty(), "{failures:?}");
}
