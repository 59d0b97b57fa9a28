//! Limits and time-outs: what is over them is refused with the right status, and nothing else suffers.

use std::time::{Duration, Instant};

use crate::support::origin::ok;
use crate::support::*;

/// Reads the refusal and the end of the connection.
#[track_caller]
fn expect_refusal(client: &mut Client, status: u16) {
    let response = client.response();
    assert_eq!(response.status(), status, "{response:?}");
    assert!(response.text().trim().len() > 3, "the body does not say what went wrong: {response:?}");
    assert!(response.says_close(), "no `connection: close` in {response:?}");
    client.expect_eof();
}

/// A request whose head has exactly this size.
fn head_of(size: usize) -> String {
    let frame = "GET /fits HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    format!("GET /fits HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(size - frame.len()))
}

#[test]
fn heads_are_limited_in_size() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { head_size = \"2KiB\" }");
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(5000));
    let table = [("one byte over", head_of(2049)), ("without end", endless), ("many fields", many)];
    cases(table, |request| {
        let mut client = proxy.connect();
        let _ = client.try_send(request);
        expect_refusal(&mut client, 431);
        origin.assert_untouched();
    });
    let mut client = proxy.connect();
    client.send(head_of(2048));
    assert_eq!(client.response().text(), "/fits", "a head of just the size passes");
    client.send(head_of(2048).repeat(3));
    for _ in 0..3 {
        assert_eq!(client.response().text(), "/fits", "pipelined heads count on their own");
    }
}

#[test]
fn heads_are_limited_by_default() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    let _ = client.try_send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(1024 * 1024)));
    expect_refusal(&mut client, 431);
    let mut client = proxy.connect();
    let _ = client.try_send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(1024 * 1024)));
    expect_refusal(&mut client, 414);
    origin.assert_untouched();
    let mut client = proxy.connect();
    client.send(head_of(8000));
    assert_eq!(client.response().text(), "/fits");
}

#[test]
fn targets_are_limited_in_size() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { head_size = \"2KiB\" }");
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(3000));
    let endless = format!("GET /{}", "y".repeat(100_000));
    cases([("too long", long), ("without end", endless)], |request| {
        let mut client = proxy.connect();
        let _ = client.try_send(request);
        expect_refusal(&mut client, 414);
        origin.assert_untouched();
    });
}

#[test]
fn methods_are_limited_in_size() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { head_size = \"2KiB\" }");
    let mut client = proxy.connect();
    let _ = client.try_send("G".repeat(100_000));
    let response = client.response();
    assert!(matches!(response.status(), 400 | 414 | 431 | 501), "{response:?}");
    client.expect_eof();
    origin.assert_untouched();
}

#[test]
fn fields_are_limited_in_number() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { headers = 10 }");
    let request = |fields: usize| {
        let more: String = (1..fields).map(|n| format!("X-{n}: y\r\n")).collect();
        format!("GET /fits HTTP/1.1\r\nHost: a\r\n{more}\r\n")
    };
    let mut client = proxy.connect();
    let _ = client.try_send(request(11));
    expect_refusal(&mut client, 431);
    origin.assert_untouched();
    let mut client = proxy.connect();
    client.send(request(10));
    assert_eq!(client.response().text(), "/fits");
}

#[test]
fn bodies_with_a_length_are_limited() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { body_size = \"1KiB\" }");
    let table = [
        (
            "with a body",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n{}", "x".repeat(1025)),
        ),
        ("head only", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n".to_owned()),
        ("huge", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n".to_owned()),
        (
            "with an expectation",
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n".to_owned(),
        ),
    ];
    cases(table, |request| {
        let mut client = proxy.connect();
        let _ = client.try_send(request);
        let response = client.response();
        assert_eq!(response.status(), 413, "{response:?}");
        assert!(response.text().trim().len() > 3, "the body does not say what went wrong: {response:?}");
        // A body that is small enough may be read and thrown away.
        if response.says_close() {
            client.expect_eof();
        }
        origin.assert_untouched();
    });
    let mut client = proxy.connect();
    client
        .send(format!("POST /fits HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024)));
    assert_eq!(client.response().text(), "/fits");
}

#[test]
fn chunked_bodies_are_limited() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { body_size = \"1KiB\" }");
    let head = "POST /fits HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    let table = [
        ("one chunk", format!("{head}{}0\r\n\r\n", chunk(1025))),
        ("several chunks", format!("{head}{}{}0\r\n\r\n", chunk(1000), chunk(25))),
        ("without end", format!("{head}{}", chunk(100).repeat(1000))),
        ("a huge chunk", format!("{head}ffffffffffffffff\r\n{}", "x".repeat(2000))),
    ];
    cases(table, |request| {
        let mut client = proxy.connect();
        let _ = client.try_send(request);
        expect_refusal(&mut client, 413);
        assert!(
            origin.requests().is_empty(),
            "the origin took it for a whole request: {:?}",
            origin.requests()
        );
    });
    let mut client = proxy.connect();
    client.send(format!("{head}{}{}0\r\n\r\n", chunk(1000), chunk(24)));
    assert_eq!(client.response().text(), "/fits");
}

#[test]
fn connections_of_a_listener_are_limited() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "max_connections = 2");
    let mut first = proxy.connect();
    let mut second = proxy.connect();
    assert_eq!(first.get("/1").text(), "/1");
    assert_eq!(second.get("/2").text(), "/2");
    let mut third = proxy.connect();
    third.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    third.expect_quiet();
    assert_eq!(first.get("/1").text(), "/1", "those inside are not affected");
    drop(second);
    assert_eq!(third.response().text(), "/3", "the next one is served as soon as one leaves");
    // And the place is taken again.
    let mut fourth = proxy.connect();
    fourth.send("GET /4 HTTP/1.1\r\nHost: a\r\n\r\n");
    fourth.expect_quiet();
    drop(first);
    assert_eq!(fourth.response().text(), "/4");
}

#[test]
fn connections_in_total_are_limited() {
    let origin = Origin::echoing_targets();
    let other = "
        [[listeners]]
        name = \"other\"
        address = \"127.0.0.1:0\"
        protocol = \"http\"
        [[listeners.routes]]
        cluster = \"origin\"";
    let config = Config::to([origin.addr()]).server("max_connections = 2").extra(other);
    let proxy = Proxy::start(config.http());
    let mut first = proxy.connect();
    let mut second = Client::connect(proxy.addr("other"));
    assert_eq!(first.get("/1").text(), "/1");
    assert_eq!(second.get("/2").text(), "/2");
    for listener in ["web", "other"] {
        let mut third = Client::connect(proxy.addr(listener));
        third.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
        third.expect_quiet();
        drop(second);
        assert_eq!(third.response().text(), "/3", "the next one is served as soon as one leaves");
        second = third;
    }
}

#[test]
fn requests_per_connection_are_limited() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "limits = { requests_per_connection = 2 }");
    let mut client = proxy.connect();
    let requests: String = (1..=3).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    let response = client.response();
    assert_eq!((response.text().as_str(), response.says_close()), ("/1", false));
    let response = client.response();
    assert_eq!((response.text().as_str(), response.says_close()), ("/2", true));
    client.expect_eof();
    assert_eq!(origin.requests().len(), 2, "the third is not served");
}

/// Short, and long enough for a loaded machine to tell it from at once.
const SHORT: Duration = Duration::from_millis(400);

#[track_caller]
fn assert_took(start: Instant, at_least: Duration) {
    let took = start.elapsed();
    assert!(took + Duration::from_millis(20) >= at_least, "it took {took:?} only, not {at_least:?}");
    assert!(took < DEADLINE, "it took {took:?}");
}

#[test]
fn slow_request_heads_time_out() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "timeouts = { request_head = \"400ms\", idle = \"60s\" }");
    let start = Instant::now();
    let mut client = proxy.connect();
    // A byte now and then, as a slow-loris does: it must not keep the connection alive.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let response = loop {
        assert!(start.elapsed() < DEADLINE, "the connection is still open");
        match client.poll(Duration::from_millis(20)) {
            Err(Failure::TimedOut) => drop(client.try_send("y")),
            Ok(bytes) => break String::from_utf8(bytes).unwrap(),
            Err(failure) => panic!("a response expected: {failure}"),
        }
    };
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    assert!(response.to_ascii_lowercase().contains("connection: close"), "{response}");
    assert_took(start, SHORT);
    client.read_to_end();
    origin.assert_untouched();
}

#[test]
fn the_head_of_a_second_request_times_out_too() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "timeouts = { request_head = \"400ms\", idle = \"60s\" }");
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    client.send("GET /second HTTP/1.1\r\n");
    expect_refusal(&mut client, 408);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn connections_without_a_request_time_out() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "timeouts = { request_head = \"400ms\", idle = \"60s\" }");
    let start = Instant::now();
    let mut client = proxy.connect();
    // Whether such a client is told is up to the proxy.
    let said = String::from_utf8(client.read_to_end()).unwrap();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said}");
    assert_took(start, SHORT);
    origin.assert_untouched();
}

#[test]
fn idle_connections_time_out() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "timeouts = { idle = \"400ms\", request_head = \"60s\" }");
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/").status(), 200);
        client.poll(Duration::from_millis(100)).unwrap_err();
    }
    assert_eq!(client.get("/").status(), 200, "the time starts anew with each request");
    let start = Instant::now();
    client.expect_eof();
    assert_took(start, SHORT);
}

#[test]
fn requests_time_out() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.expect_gone();
    });
    let proxy = Proxy::with_listener(&origin, "timeouts = { request = \"400ms\" }");
    let mut client = proxy.connect();
    let start = Instant::now();
    let response = client.get("/");
    assert_eq!(response.status(), 504);
    assert!(!response.text().is_empty());
    assert_took(start, SHORT);
    // The origin is told that nobody waits any more.
    origin.wait_idle();
}

#[test]
fn a_route_has_its_own_time_out() {
    let origin = Origin::silent();
    let routes = "
        [[listeners.routes]]
        cluster = \"origin\"
        timeout = \"400ms\"";
    let config = Config::to([origin.addr()]).listener("timeouts = { request = \"60s\" }").routes(routes);
    let proxy = Proxy::start(config.http());
    let start = Instant::now();
    assert_eq!(proxy.connect().get("/").status(), 504);
    assert_took(start, SHORT);
}

/// The head has gone out: all that is left is to break off, visibly.
#[test]
fn responses_that_take_too_long_break_off() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        conn.expect_gone();
    });
    let proxy = Proxy::with_listener(&origin, "timeouts = { request = \"400ms\" }");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = client.response_head("GET");
    assert_eq!(response.status(), 200);
    let failure = client.read_body(&mut response).expect_err("the body must not look whole");
    assert!(matches!(failure, Failure::Eof | Failure::Reset), "{failure}");
    origin.wait_idle();
}

#[test]
fn uploads_that_stand_still_time_out() {
    let origin = Origin::start(|conn| {
        conn.request_head();
        conn.expect("half");
        conn.expect_gone();
    });
    let proxy = Proxy::with_listener(&origin, "timeouts = { stream_idle = \"400ms\", request = \"60s\" }");
    let mut client = proxy.connect();
    let start = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    expect_refusal(&mut client, 408);
    assert_took(start, SHORT);
    origin.wait_idle();
}

#[test]
fn uploads_that_nobody_reads_time_out() {
    let done = Gate::default();
    let origin = {
        let done = done.clone();
        Origin::start(move |conn| {
            conn.shrink_receive_buffer();
            conn.request_head();
            done.wait();
        })
    };
    let proxy = Proxy::with_listener(&origin, "timeouts = { stream_idle = \"2s\", request = \"60s\" }");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    client.send_until_stalled(|_| vec![0; 65_536]);
    let response = client.response();
    assert_eq!(response.status(), 504, "it is the origin that does not go on: {response:?}");
    done.open();
}

/// An answer is not lost because it comes after a long time of silence.
#[test]
fn refusals_arrive_after_a_silence() {
    let origin = Origin::silent();
    let listener = "timeouts = { stream_idle = \"200ms\", request = \"60s\" }";
    let config = Config::to([origin.addr()]).listener(listener).cluster("response_timeout = \"600ms\"");
    let proxy = Proxy::start(config.http());
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status(), 504, "{response:?}");
}

#[test]
fn downloads_that_nobody_reads_time_out() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while conn.try_send([0; 65_536]).is_ok() {}
    });
    let proxy = Proxy::with_listener(&origin, "timeouts = { stream_idle = \"400ms\", request = \"60s\" }");
    let mut client = Client::connect_slow_reader(proxy.addr("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head("GET");
    // Without a read of the client: the origin notices that the proxy has given up.
    origin.wait_idle();
}

#[test]
fn origins_that_say_nothing_time_out() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.expect_gone();
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("response_timeout = \"400ms\"").http());
    let mut client = proxy.connect();
    let start = Instant::now();
    let response = client.get("/");
    assert_eq!(response.status(), 504);
    assert!(!response.text().is_empty());
    assert_took(start, SHORT);
    origin.wait_idle();
    assert_eq!(origin.requests().len(), 1, "it is not asked again");
}

/// The time for a response starts when the request has ended: a slow upload is not the origin's fault.
#[test]
fn a_slow_upload_does_not_use_up_the_time_of_the_origin() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::start(Config::to([origin.addr()]).cluster("response_timeout = \"400ms\"").http());
    let mut client = proxy.connect();
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..8 {
        client.poll(Duration::from_millis(100)).unwrap_err();
        client.send("x");
    }
    assert_eq!(client.response().text(), "/slow");
}

#[test]
fn connecting_times_out() {
    let silent = SilentPort::new();
    let config = Config::to([silent.addr()]).cluster("connect_timeout = \"400ms\"\nconnect_attempts = 1");
    let proxy = Proxy::start(config.http());
    let mut client = proxy.connect();
    let start = Instant::now();
    let response = client.get("/");
    assert_eq!(response.status(), 504);
    assert!(!response.text().is_empty());
    assert_took(start, SHORT);
}

#[test]
fn a_connect_time_out_moves_on_to_the_next_endpoint() {
    let silent = SilentPort::new();
    let origin = Origin::echoing_targets();
    let config = Config::to([silent.addr(), origin.addr()])
        .cluster("connect_timeout = \"300ms\"\nconnect_attempts = 2");
    let proxy = Proxy::start(config.http());
    for _ in 0..3 {
        assert_eq!(proxy.connect().get("/x").text(), "/x");
    }
}

/// Accepting pauses, instead of spinning, when descriptors run out, and goes on when some are free again.
#[test]
fn descriptors_may_run_out() {
    const CLIENTS: usize = 120;
    let routes = "
        [[listeners.routes]]
        respond = { status = 200, body = \"here\" }";
    let config = Config::default().routes(routes).http();
    let proxy = proxy::Builder::new(config).open_files(80).start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    // The first ones are inside; the last one cannot be.
    assert_eq!(clients[0].response().text(), "here");
    let before = proxy.cpu_ticks();
    let window = Duration::from_secs(1);
    let last = clients.last_mut().unwrap().poll(window);
    assert_eq!(last, Err(Failure::TimedOut), "there are fewer descriptors than clients");
    let used = proxy.cpu_ticks() - before;
    assert!(used < 30, "{used} ticks of 10 ms were used within {window:?} of doing nothing");
    // Everybody is served in the end, each when another leaves.
    drop(clients.remove(0));
    for mut client in clients {
        assert_eq!(client.response().text(), "here");
    }
    assert_eq!(proxy.connect().get("/").text(), "here");
}

/// No descriptor for the upstream side is an error of that request, and of no other.
#[test]
fn descriptors_may_run_out_for_the_upstream_side() {
    let hold = Gate::default();
    let origin = {
        let hold = hold.clone();
        Origin::start(move |conn| {
            while let Ok(Some(_)) = conn.try_request() {
                if !hold.opens_within(DEADLINE) || conn.try_send(ok("here")).is_err() {
                    return;
                }
            }
        })
    };
    let proxy = proxy::Builder::new(Config::to([origin.addr()]).http()).open_files(80).start();
    // All clients find room, and some of their requests, also if the program has inherited a few descriptors.
    let mut clients: Vec<_> = (0..40).map(|_| proxy.connect()).collect();
    for client in &clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    origin.wait_requests(1);
    hold.open();
    let mut statuses = Vec::new();
    for mut client in clients.drain(..) {
        statuses.push(client.response().status());
    }
    assert!(statuses.iter().all(|status| matches!(status, 200 | 502 | 503)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.iter().any(|status| *status != 200), "{statuses:?}");
    eventually("requests are served again", || proxy.connect().get("/").status() == 200);
}

/// A client that sends request upon request and reads no reply must not make the proxy hold them all.
#[test]
fn replies_that_nobody_reads_push_back() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const BATCH: u64 = 1000;
    const BATCHES: u64 = 400;
    let routes =
        format!("[[listeners.routes]]\nrespond = {{ status = 200, body = \"{}\" }}", "x".repeat(2000));
    let proxy = Proxy::start(Config::default().routes(&routes).http());
    let before = proxy.resident_kib();
    let mut client = proxy.connect();
    let batch = REQUEST.repeat(BATCH as usize);
    let total = batch.len() as u64 * BATCHES;
    let sent = client.send_until_stalled(|offset| {
        assert!(offset < total, "nothing pushed back");
        batch[(offset % batch.len() as u64) as usize..].to_vec()
    });
    assert!(sent > 0);
    let now = proxy.resident_kib();
    assert!(now < before + 24 * 1024, "the proxy grew from {before} to {now} KiB");
    // Whoever reads after all gets them whole.
    for _ in 0..2000 {
        assert_eq!(client.response().body.len(), 2000);
    }
}
