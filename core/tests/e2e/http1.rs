//! HTTP/1.1 and 1.0 as they should be spoken, on both sides.

use crate::support::origin::ok;
use crate::support::*;

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
fn heads_larger_than_a_receive_buffer() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            let filler = request.expect_value("x-filler");
            conn.send(format!("HTTP/1.1 200 OK\r\nX-Filler: {filler}\r\nContent-Length: 2\r\n\r\nhi"));
        }
    });
    let config = Config::to([origin.addr()]).server("buffer_size = \"4KiB\"");
    let proxy = Proxy::start(config.http());
    let mut client = proxy.connect();
    // Around the ends of one, two and several buffers.
    let lengths = (3950..4110).chain(8050..8200).step_by(3).chain([12_000, 20_000, 30_000]);
    for length in lengths {
        let filler = "y".repeat(length);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Filler: {filler}\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (200, "hi"), "{length}");
        assert!(response.expect_value("x-filler") == filler, "the field of {length} bytes came back changed");
    }
}

#[test]
fn errors_for_head_have_no_body() {
    let refusing = RefusingPort::new();
    let routes = "
        [[listeners.routes]]
        path_prefix = \"/down\"
        cluster = \"origin\"
        [[listeners.routes]]
        path = \"/up\"
        respond = { status = 200, body = \"up\" }";
    let proxy = Proxy::start(Config::to([refusing.addr()]).routes(routes).http());
    for (target, statuses) in [("/down", [502, 503]), ("/nowhere", [404, 404])] {
        let mut client = proxy.connect();
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response_to("HEAD");
        assert!(statuses.contains(&response.status()), "{response:?}");
        if !response.says_close() {
            assert_eq!(client.get("/up").text(), "up");
        } else {
            client.expect_eof();
        }
    }
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
    let proxy = Proxy::with_listener(&origin, "accept_http_10 = true");
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
fn http_1_0_clients_are_closed_after_the_response() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::with_listener(&origin, "accept_http_10 = true");
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
    let proxy = Proxy::with_listener(&origin, "accept_http_10 = true");
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
    let proxy = Proxy::with_listener(&origin, "accept_http_10 = true");
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
    let proxy = Proxy::with_listener(&origin, "accept_http_10 = true");
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
fn a_response_until_close_ends_an_http_1_0_connection() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\n\r\n");
        conn.send(pattern::bytes(100_000));
    });
    let proxy = Proxy::with_listener(&origin, "accept_http_10 = true");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!(response.framing, Framing::UntilClose);
    assert!(response.body == pattern::bytes(100_000), "the body came back changed");
}

/// A close with unread bytes resets, and so does one on which bytes arrive later; either may take the response along.
#[test]
fn what_a_client_says_behind_its_last_request_is_thrown_away() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nsomething");
    assert_eq!(client.response().text(), "/last");
    client.expect_eof();
    for _ in 0..3 {
        client.send("more");
    }
    client.expect_eof();
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
