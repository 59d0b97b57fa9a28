//! Bodies: framing, order, memory, back-pressure, and ends that come too soon.

use std::sync::{Arc, Mutex};

use crate::support::origin::ok;
use crate::support::pattern::BIG;
use crate::support::*;

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

/// However the bytes of both sides are cut into pieces, and however small the receive buffers are, the messages are the
/// same.
#[test]
fn messages_do_not_depend_on_how_they_are_cut() {
    let seeds = Arc::new(Mutex::new(Cuts(1)));
    let origin = {
        let seeds = Arc::clone(&seeds);
        Origin::start(move |conn| {
            while let Some(request) = conn.next_request() {
                let response = if request.framing == Framing::Chunked {
                    chunked(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
                        &request.body,
                        1 + request.body.len() / 3,
                    )
                } else {
                    ok(&request.text())
                };
                for piece in lock(&seeds).cut(&response) {
                    conn.send(piece);
                }
            }
        })
    };
    let config = Config::to([origin.addr()]).server("buffer_size = \"4KiB\"");
    let proxy = Proxy::start(config.http());
    for round in 0..60 {
        let mut client = proxy.connect();
        let bodies: Vec<String> = (0..6).map(|n| "0123456789abcdef".repeat(round * 7 + n * n * 40)).collect();
        let mut stream = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            if number % 2 == 0 {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.extend_from_slice(head.as_bytes());
                stream.extend_from_slice(body.as_bytes());
            } else {
                let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
                stream.extend(chunked(head, body.as_bytes(), 1 + body.len() / 5));
            }
        }
        let pieces: Vec<Vec<u8>> = lock(&seeds).cut(&stream).into_iter().map(<[u8]>::to_vec).collect();
        for piece in pieces {
            client.send(piece);
        }
        for (number, body) in bodies.iter().enumerate() {
            let response = client.response();
            assert!(response.text() == *body, "round {round}, response {number} came back changed");
        }
    }
}

/// A message with a chunked body.
fn chunked(head: &str, body: &[u8], chunk: usize) -> Vec<u8> {
    let mut all = format!("{head}\r\n").into_bytes();
    for piece in body.chunks(chunk) {
        all.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        all.extend_from_slice(piece);
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

/// Cuts bytes at places that look random and are the same in every run.
struct Cuts(u64);

impl Cuts {
    fn cut<'b>(&mut self, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few bytes as often as many.
            let length =
                1 + ((self.0 >> 33) as usize % (1 << ((self.0 >> 60) as usize))).min(bytes.len() - 1);
            let (piece, rest) = bytes.split_at(length);
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// What the process may grow by while a big body passes, however big it is.
const GROWTH_KIB: u64 = 24 * 1024;

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
        let piece = pattern::piece(offset, BIG);
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
                let piece = pattern::piece(offset, BIG);
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
            let sent = conn.send_until_stalled(|offset| pattern::piece(offset, BIG));
            assert!(sent < BIG, "nothing pushed back");
            stalled.open();
            let mut offset = sent;
            while offset < BIG {
                let piece = pattern::piece(offset, BIG);
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
    let sent = client.send_until_stalled(|offset| pattern::piece(offset, BIG));
    assert!(sent < BIG, "nothing pushed back");
    assert_memory(&proxy, before);
    go_on.open();
    let mut offset = sent;
    while offset < BIG {
        let piece = pattern::piece(offset, BIG);
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
                    let piece = pattern::piece(offset, BIG);
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
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nup\r\n");
    let mut response = client.response_head("POST");
    client.expect("5\r\nfirst\r\n");
    client.send("5\r\nwards\r\n0\r\n\r\n");
    client.read_body(&mut response).unwrap();
    assert_eq!(response.text(), "upwards");
    // When the response began, nobody knew whether the upload would end before it.
    if response.says_close() {
        client.expect_eof();
    }
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

/// A small body is waited for, so that it goes out with its head; but not for long.
#[test]
fn the_head_of_a_small_response_does_not_wait_for_a_late_body() {
    let seen = Gate::default();
    let gate = seen.clone();
    let origin = Origin::start(move |conn| {
        for _ in 0..2 {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            gate.wait();
            conn.send("-whole");
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut response = client.response_head("GET");
        client.expect("half");
        seen.open();
        client.expect("-whole");
        response.body.clear();
    }
}
