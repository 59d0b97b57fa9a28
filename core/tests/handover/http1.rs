//! HTTP/1 connections at every point of an exchange.

use std::time::Instant;

use crate::chain::{Chain, End, Origin, TwoSeconds, once_and_often};
use crate::support::pattern::{self, Checker};
use crate::support::stats::{expect, expect_nothing_active};
use crate::support::{Config, SilentPort, Stats, cases, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn web() -> (Chain, Origin) {
    web_with(|config| config)
}

fn web_with(change: impl Fn(Config) -> Config) -> (Chain, Origin) {
    let origin = Origin::new();
    let chain = Chain::http(change(Config::to([origin.addr()])));
    (chain, origin)
}

/// A request and its response on this connection, which nobody has said is to end.
#[track_caller]
fn served(client: &mut End, origin: &Origin) {
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut far = origin.accept();
    assert!(far.head().starts_with("GET /next HTTP/1.1\r\n"));
    far.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("close"), "{head}");
    client.expect("ok");
}

/// The client reads a response with this body of a given length.
#[track_caller]
fn answered(client: &mut End, body: &str) {
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.to_lowercase().contains("close"), "{head}");
    assert!(head.to_lowercase().contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    client.expect(body);
}

/// Nothing is left, and so many requests and connections have been served.
#[track_caller]
fn all_counted(chain: &Chain, requests: u64, connections: u64) {
    let id = chain.instance.base_id();
    expect_nothing_active(id);
    expect(
        id,
        &[
            ("http.web.downstream_cx_total", connections),
            ("http.web.downstream_cx_destroy", connections),
            ("listener.web.downstream_cx_total", connections),
            ("listener.web.downstream_cx_destroy", connections),
            ("http.web.downstream_rq_total", requests),
            ("http.web.downstream_rq_completed", requests),
            ("http.web.downstream_rq_2xx", requests),
            ("cluster.origin.upstream_rq_total", requests),
            ("cluster.origin.upstream_rq_completed", requests),
            ("cluster.origin.upstream_rq_active", 0),
        ],
    );
    assert_eq!(Stats::of(id).count("http.web.downstream_rq_time"), requests);
    assert_eq!(Stats::of(id).count("cluster.origin.upstream_rq_time"), requests);
}

#[test]
fn an_idle_connection_moves() {
    once_and_often(|times| {
        let (mut chain, origin) = web();
        let (mut used, mut fresh) = (chain.client(), chain.client());
        served(&mut used, &origin);
        chain.restarts(times);
        served(&mut used, &origin);
        served(&mut fresh, &origin);
        drop((used, fresh));
        all_counted(&chain, 3, 2);
    });
}

#[test]
fn a_head_that_is_cut_anywhere_moves() {
    let head = "GET /cut HTTP/1.1\r\nHost: a.example\r\nX-Long: value\r\n\r\n";
    // On a busy machine the default would be over before all are cut.
    let (mut chain, origin) = web_with(|config| config.listener("timeouts = { request_head = \"5m\" }"));
    let mut clients: Vec<_> = (0..head.len()).step_by(3).map(|at| (at, chain.client())).collect();
    for (at, client) in &clients {
        client.send_taken(&head[..*at]);
    }
    chain.restart();
    for (at, client) in &clients {
        // Another byte between two restarts.
        client.send_taken(&head[*at..=*at]);
    }
    chain.restarts(2);
    let count = clients.len() as u64;
    for (at, client) in &mut clients {
        client.send(&head[*at + 1..]);
        println!("cut at {at}");
        let mut far = origin.accept();
        let seen = far.head();
        assert!(seen.starts_with("GET /cut HTTP/1.1\r\n") && seen.contains(": value\r\n"), "{at}: {seen}");
        far.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        answered(client, "ok");
    }
    drop(clients);
    all_counted(&chain, count, count);
}

#[test]
fn a_head_byte_by_byte_around_the_restart() {
    let (mut chain, origin) = web();
    let mut client = chain.client();
    let mut head = "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned();
    client.send(&head);
    let next = chain.instance.spawn("auto", "");
    while chain.newest.is_running() {
        client.send("x");
        head.push('x');
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    next.wait_log("ready pid=");
    chain.newest = next;
    client.send("\r\n\r\n");
    let mut far = origin.accept();
    let seen = far.head();
    let xs = "x".repeat(head.matches('x').count());
    assert!(seen.to_lowercase().contains(&format!("\r\nx: {xs}\r\n")), "{} x: {seen}", xs.len());
    far.send(OK);
    answered(&mut client, "ok");
}

#[test]
fn an_upload_of_known_length_moves() {
    once_and_often(|times| {
        let total = 4 * 1024 * 1024;
        let (mut chain, origin) = web();
        let mut client = chain.client();
        client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n"));
        let body = pattern::bytes(total);
        let mut far = {
            client.send(&body[..100_000]);
            origin.accept()
        };
        far.head();
        let (mut checker, mut sent, step) = (Checker::default(), 100_000, (total - 100_000) / (times + 1));
        far.expect_pattern(&mut checker, 50_000);
        for _ in 0..times {
            chain.restart();
            let count = sent as u64 - checker.count();
            far.expect_pattern(&mut checker, count);
            let socket = std::sync::Arc::clone(client.wire.socket());
            let piece = body[sent..sent + step].to_vec();
            let sender = std::thread::spawn(move || socket.send_all(&piece).unwrap());
            far.expect_pattern(&mut checker, step as u64 / 2);
            sent += step;
            sender.join().unwrap();
        }
        let socket = std::sync::Arc::clone(client.wire.socket());
        let piece = body[sent..].to_vec();
        let sender = std::thread::spawn(move || socket.send_all(&piece).unwrap());
        let count = total as u64 - checker.count();
        far.expect_pattern(&mut checker, count);
        sender.join().unwrap();
        far.send(OK);
        answered(&mut client, "ok");
        drop(client);
        all_counted(&chain, 1, 1);
    });
}

#[test]
fn a_chunked_upload_with_trailers_moves_cut_anywhere() {
    let head = "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "5\r\nhello\r\n1A;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-Sum: 42\r\n\r\n";
    let (mut chain, origin) = web();
    let mut uploads = Vec::new();
    for at in (1..body.len()).step_by(2) {
        let client = chain.client();
        client.send(head);
        client.send_taken(&body[..at]);
        let mut far = origin.accept();
        far.head();
        uploads.push((at, client, far));
    }
    chain.restarts(2);
    let count = uploads.len() as u64;
    for (at, client, far) in &mut uploads {
        client.send(&body[*at..]);
        let mut seen = Vec::new();
        let trailers = far
            .wire
            .read_body(crate::support::Framing::Chunked, &mut |bytes| seen.extend_from_slice(bytes))
            .unwrap_or_else(|failure| panic!("cut at {at}: {failure}; {}", far.wire.received_text()));
        assert_eq!(String::from_utf8_lossy(&seen), "helloabcdefghijklmnopqrstuvwxyz", "cut at {at}");
        println!("{trailers:?}");
        far.send(OK);
        answered(client, "ok");
    }
    drop(uploads);
    all_counted(&chain, count, count);
}

#[test]
fn waiting_for_the_response_moves() {
    once_and_often(|times| {
        let (mut chain, origin) = web();
        let mut client = chain.client();
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut far = origin.accept();
        far.head();
        chain.restarts(times);
        far.expect_quiet();
        far.send(OK);
        answered(&mut client, "ok");
        // The connection upstream is pooled in the new process.
        client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(far.head().starts_with("GET /again "));
        far.send(OK);
        answered(&mut client, "ok");
        drop(client);
        all_counted(&chain, 2, 1);
        expect(chain.instance.base_id(), &[("cluster.origin.upstream_cx_total", 1)]);
    });
}

#[test]
fn responses_cut_anywhere_move() {
    let plain = "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello";
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\n\r\n";
    let interim =
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let (mut chain, origin) = web();
    let mut open = Vec::new();
    for (response, step) in [(plain, 3), (chunked, 3), (interim, 5)] {
        for at in (0..=response.len() - 1).step_by(step) {
            let client = chain.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut far = origin.accept();
            far.head();
            far.send_taken(&response[..at]);
            open.push((response, at, client, far));
        }
    }
    chain.restarts(2);
    let count = open.len() as u64;
    for (response, at, client, far) in &mut open {
        far.send(&response[*at..]);
        let mut head = client.wire.read_response_head("GET").unwrap().unwrap();
        if head.status() == 103 {
            head = client.wire.read_response_head("GET").unwrap().unwrap();
        }
        client
            .wire
            .read_body_into(&mut head)
            .unwrap_or_else(|failure| panic!("{response:?} cut at {at}: {failure}"));
        assert_eq!(head.text(), "hello", "{response:?} cut at {at}: {head:?}");
    }
    drop(open);
    all_counted(&chain, count, count);
}

#[test]
fn a_response_until_close_moves() {
    for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (mut chain, origin) = web();
        let mut client = chain.client();
        client.send(request);
        let mut far = origin.accept();
        far.head();
        far.send("HTTP/1.1 200 OK\r\n\r\nfirst, ");
        let mut head = client.wire.read_response_head("GET").unwrap().unwrap();
        chain.restart();
        far.send("second, ");
        chain.restart();
        far.send("third");
        drop(far);
        client.wire.read_body_into(&mut head).unwrap();
        assert_eq!(head.text(), "first, second, third");
        drop(client);
        all_counted(&chain, 1, 1);
    }
}

#[test]
fn a_response_until_close_that_is_cut_off_is_seen_as_that() {
    let (mut chain, origin) = web();
    let mut client = chain.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let mut far = origin.accept();
    far.head();
    far.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(200_000)));
    client.head();
    chain.restart();
    drop(far);
    client.expect_gone();
    expect_nothing_active(chain.instance.base_id());
    expect(chain.instance.base_id(), &[("http.web.downstream_rq_tx_reset", 1)]);
}

#[test]
fn a_large_download_to_a_slow_client_moves() {
    for chunked in [false, true] {
        let (mut chain, origin) = web();
        let mut client = chain.client();
        client.shrink();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut far = origin.accept();
        far.head();
        let total = 12 * 1024 * 1024_u64;
        let socket = std::sync::Arc::clone(far.wire.socket());
        let sender = std::thread::spawn(move || {
            if chunked {
                socket.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            } else {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n");
                socket.send_all(head.as_bytes()).unwrap();
            }
            let mut sent = 0;
            while sent < total {
                let mut piece = pattern::piece(sent, total);
                // Odd sizes, so that chunks begin and end anywhere.
                piece.truncate(30_011);
                sent += piece.len() as u64;
                if chunked {
                    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                    chunk.extend(piece);
                    chunk.extend(b"\r\n");
                    piece = chunk;
                }
                socket.send_all(&piece).unwrap();
            }
            if chunked {
                socket.send_all(b"0\r\n\r\n").unwrap();
            }
        });
        chain.restart();
        let head = client.wire.read_response_head("GET").unwrap().unwrap();
        let mut checker = Checker::default();
        let mut restarts = 0;
        let mut seen = 0_u64;
        client
            .wire
            .read_body(head.framing, &mut |bytes| {
                checker.take(bytes);
                seen += bytes.len() as u64;
                if seen / (total / 4) > restarts && restarts < 3 {
                    restarts += 1;
                    chain.restart();
                }
            })
            .unwrap();
        assert_eq!(checker.count(), total);
        sender.join().unwrap();
        // What was pipelined behind it.
        assert!(far.head().starts_with("GET /second "));
        far.send(OK);
        answered(&mut client, "ok");
        drop(client);
        all_counted(&chain, 2, 1);
    }
}

#[test]
fn pipelined_requests_move() {
    let (mut chain, origin) = web();
    let mut client = chain.client();
    for number in 0..20 {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    let mut far = origin.accept();
    for number in 0..20 {
        assert!(far.head().starts_with(&format!("GET /{number} ")));
        if number % 4 == 0 {
            chain.restart();
        }
        far.send(OK);
        if number % 4 == 2 {
            chain.restart();
        }
    }
    (0..20).for_each(|_| answered(&mut client, "ok"));
    drop(client);
    all_counted(&chain, 20, 1);
}

#[test]
fn an_expectation_moves() {
    once_and_often(|times| {
        let (mut chain, origin) = web();
        let mut client = chain.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let mut far = origin.accept();
        let head = far.head();
        chain.restarts(times);
        if head.to_lowercase().contains("100-continue") {
            far.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
        assert!(client.head().starts_with("HTTP/1.1 100 "));
        chain.restarts(times);
        client.send("hel");
        chain.restarts(times);
        client.send("lo");
        far.expect("hello");
        chain.restarts(times);
        far.send(OK);
        answered(&mut client, "ok");
        drop(client);
        all_counted(&chain, 1, 1);
    });
}

#[test]
fn between_interim_and_final_response() {
    once_and_often(|times| {
        let (mut chain, origin) = web();
        let mut client = chain.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut far = origin.accept();
        far.head();
        for _ in 0..3 {
            far.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            assert!(client.head().starts_with("HTTP/1.1 103 "));
            chain.restarts(times);
        }
        far.send(OK);
        answered(&mut client, "ok");
        drop(client);
        all_counted(&chain, 1, 1);
    });
}

#[test]
fn a_response_to_head_moves() {
    let (mut chain, origin) = web();
    let mut client = chain.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut far = origin.accept();
    far.head();
    far.send_taken("HTTP/1.1 200 OK\r\nContent-Le");
    chain.restart();
    far.send("ngth: 1000\r\n\r\n");
    let head = client.head();
    assert!(head.to_lowercase().contains("content-length: 1000"), "{head}");
    client.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(far.head().starts_with("GET /after "));
    far.send(OK);
    answered(&mut client, "ok");
}

#[test]
fn lingering_moves() {
    let (mut chain, _origin) = web();
    let mut client = chain.client();
    client.send("NONSENSE\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 400 "));
    let begun = Instant::now();
    chain.restart();
    client.send("more nonsense");
    chain.restart();
    client.finish();
    client.wire.read_to_end(&mut |_| {}).unwrap();
    assert!(begun.elapsed().as_secs() < 5);
    expect_nothing_active(chain.instance.base_id());
    expect(chain.instance.base_id(), &[("http.web.downstream_cx_destroy", 1)]);
}

#[test]
fn a_reply_before_the_end_of_the_request_moves() {
    let (mut chain, origin) = web();
    let mut client = chain.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhello");
    let mut far = origin.accept();
    far.head();
    far.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 200005\r\n\r\n{}", "x".repeat(200_000)));
    client.head();
    client.expect("x".repeat(200_000));
    chain.restart();
    far.send("again");
    client.expect("again");
    chain.restart();
    drop(client);
    expect_nothing_active(chain.instance.base_id());
}

#[test]
fn log_lines_and_header_edits_survive() {
    let (mut chain, origin) = web_with(|config| {
        config
            .listener("access_log = { path = \"{dir}/access.log\", format = \"json\" }")
            .routes("[[listeners.routes]]\ncluster = \"origin\"\nresponse_headers = { set = { x-a = \"route\" }, add = { x-b = \"1\" }, remove = [\"server\"] }\nrequest_headers = { set = { x-q = \"set\" } }\n")
    });
    let mut client = chain.client();
    client.send("POST /some/path HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nReferer: ref\r\nContent-Length: 5\r\n\r\nhel");
    let mut far = origin.accept();
    assert!(far.head().contains("x-q: set\r\n"));
    chain.restarts(2);
    client.send("lo");
    far.expect("hello");
    chain.restart();
    far.send(
        "HTTP/1.1 203 Fine\r\nServer: x\r\nX-A: origin\r\nContent-Length: 200002\r\n\r\n".to_owned()
            + &"ab".repeat(100_000),
    );
    let head = client.head().to_lowercase();
    assert!(
        head.contains("x-a: route\r\n") && head.contains("x-b: 1\r\n") && !head.contains("server: x"),
        "{head}"
    );
    chain.restart();
    client.expect("ab".repeat(100_000));
    far.send("cd");
    client.expect("cd");
    let path = chain.instance.path("access.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("a line", || read().ends_with('\n'));
    let line = read().replace("\": ", "\":");
    assert_eq!(line.lines().count(), 1, "{line}");
    for part in [
        "\"method\":\"POST\"",
        "\"path\":\"/some/path\"",
        "\"host\":\"a.example\"",
        "\"status\":203",
        "\"request_bytes\":5",
        "\"response_bytes\":200002",
        "\"client\":\"127.0.0.1",
        "\"user_agent\":\"test\"",
        &format!("\"upstream\":\"{}\"", origin.addr()),
    ] {
        assert!(line.contains(part), "{part} expected in {line}");
    }
}

#[test]
fn time_outs_go_on_where_they_were() {
    let table = [
        ("response", "", "response_timeout = \"2s\"", true),
        ("head", "timeouts = { request_head = \"2s\" }", "", false),
        ("idle", "timeouts = { idle = \"2s\" }", "", false),
    ];
    cases(table.map(|row| (row.0, row)), |(what, listener, cluster, in_exchange)| {
        let (mut chain, origin) = web_with(|config| config.listener(listener).cluster(cluster));
        let mut client = chain.client();
        if what == "idle" {
            served(&mut client, &origin);
        }
        let time_out = TwoSeconds::begin();
        if what != "idle" {
            client.send_taken(if in_exchange { "GET / HTTP/1.1\r\nHost: a\r\n\r\n" } else { "GET / HT" });
        }
        let far = in_exchange.then(|| origin.accept());
        time_out.restart_for(1000, &mut chain);
        if in_exchange {
            assert!(client.head().starts_with("HTTP/1.1 504 "));
        } else {
            client.expect_gone();
        }
        time_out.expect_over();
        drop((client, far));
    });
}

#[test]
fn attempts_to_connect_go_on_where_they_were() {
    let silent = [SilentPort::new(), SilentPort::new()];
    let config = Config::to(silent.iter().map(SilentPort::addr))
        .cluster("connect_timeout = \"1s\"\nconnect_attempts = 2");
    let mut chain = Chain::http(config);
    let mut client = chain.client();
    let time_out = TwoSeconds::begin();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    time_out.restart_for(1700, &mut chain);
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    time_out.expect_over();
    drop(client);
    expect_nothing_active(chain.instance.base_id());
    expect(
        chain.instance.base_id(),
        &[
            ("http.web.downstream_rq_5xx", 1),
            ("cluster.origin.upstream_rq_pending_total", 2),
            ("cluster.origin.upstream_rq_pending_active", 0),
            ("cluster.origin.upstream_cx_connect_timeout", 2),
            ("cluster.origin.upstream_cx_active", 0),
        ],
    );
}

/// An exchange that waits for its connection gets it, even if the new configuration has neither endpoint nor cluster.
#[test]
fn an_exchange_that_is_connecting_goes_on_to_an_endpoint_that_is_no_more() {
    let (silent, other) = (SilentPort::new(), Origin::new());
    let config = Config::to([silent.addr()]).cluster("connect_timeout = \"5s\"");
    let mut chain = Chain::http(config);
    let mut client = chain.client();
    client.send_taken("GET /old HTTP/1.1\r\nHost: a\r\n\r\n");
    let address = format!("address = \"{}\"", chain.address);
    let text = Config::to([other.addr()]).listener(&address).http().replace("\"origin\"", "\"another\"");
    chain.instance.configure(&text);
    chain.restarts(2);
    let mut far = Origin::on(silent.into_listener()).accept();
    assert!(far.head().starts_with("GET /old HTTP/1.1\r\n"));
    far.send(OK);
    answered(&mut client, "ok");
    served(&mut client, &other);
}

#[test]
fn a_tunnel_moves() {
    once_and_often(|times| {
        let (mut chain, origin) = web_with(|config| config.listener("upgrades = [\"websocket\"]"));
        let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        let mut client = chain.client();
        client.send(upgrade);
        let mut far = origin.accept();
        far.head();
        // Once before the answer, then as a tunnel.
        chain.restarts(times);
        far.send(format!("{switch}early"));
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        client.expect("early");
        for _ in 0..times {
            far.send("down");
            client.send("up");
            chain.restart();
            client.expect("down");
            far.expect("up");
        }
        client.finish();
        far.expect_eof();
        chain.restarts(times);
        let sent = far.stuff();
        chain.restarts(times);
        far.finish();
        client.expect_pattern(&mut Checker::default(), sent);
        client.expect_eof();
        expect_nothing_active(chain.instance.base_id());
        expect(
            chain.instance.base_id(),
            &[("http.web.downstream_cx_upgrades_total", 1), ("http.web.downstream_cx_destroy", 1)],
        );
    });
}
