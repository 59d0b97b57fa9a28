//! Keep-alive and the pool of upstream connections, with the races that a pool brings.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::origin::ok;
use crate::support::*;

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

/// What must not be repeated does not go to a connection that was idle for long, which may be about to close.
#[test]
fn a_post_survives_an_origin_that_closes_idle_connections() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send(ok("x"));
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("unsafe_reuse_within = \"1ms\"").http());
    let mut client = proxy.connect();
    for round in 0..300 {
        assert_eq!(client.poll(Duration::from_millis(5)), Err(Failure::TimedOut), "round {round}");
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
