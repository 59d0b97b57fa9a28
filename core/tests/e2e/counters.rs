//! What is counted equals what clients and origins have seen, to the unit.

use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::support::origin::ok;
use crate::support::proxy::Builder;
use crate::support::stats::{expect, expect_nothing_active};
use crate::support::*;

/// Sends `count` requests on one connection; says how many bytes went and came.
fn traffic(proxy: &Proxy, count: usize) -> (u64, u64) {
    let mut client = proxy.connect();
    let (mut sent, mut received) = (0, 0);
    for n in 0..count {
        let request = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(&request);
        let response = client.response();
        assert_eq!(response.status(), 200);
        sent += request.len() as u64;
    }
    received += client.received_bytes();
    (sent, received)
}

#[test]
fn requests_connections_and_bytes_are_counted_exactly() {
    for workers in [1, 2] {
        let origin = Origin::echoing_targets();
        let proxy = Builder::new(Config::to([origin.addr()]).http()).concurrency(workers).start();
        let (mut sent, mut received) = (0, 0);
        for _ in 0..8 {
            let (s, r) = traffic(&proxy, 25);
            sent += s;
            received += r;
        }
        let to_origin = origin.all_received().len() as u64;
        let connections = origin.connections() as u64;
        let endpoint = format!("cluster.origin.endpoint.{}", origin.addr());
        let of_endpoint = |metric: &str| format!("{endpoint}.{metric}");
        expect(
            proxy.base_id(),
            &[
                ("listener.web.downstream_cx_total", 8),
                ("listener.web.downstream_cx_destroy", 8),
                ("http.web.downstream_cx_total", 8),
                ("http.web.downstream_cx_destroy_remote", 8),
                ("http.web.downstream_rq_total", 200),
                ("http.web.downstream_rq_completed", 200),
                ("http.web.downstream_rq_2xx", 200),
                ("http.web.downstream_rq_4xx", 0),
                ("http.web.rq_total", 200),
                ("http.web.downstream_cx_rx_bytes_total", sent),
                ("http.web.downstream_cx_tx_bytes_total", received),
                ("cluster.origin.upstream_rq_total", 200),
                ("cluster.origin.upstream_rq_completed", 200),
                ("cluster.origin.upstream_rq_200", 200),
                ("cluster.origin.upstream_cx_total", connections),
                ("cluster.origin.upstream_rq_pool_hit", 200 - connections),
                ("cluster.origin.upstream_cx_tx_bytes_total", to_origin),
                ("cluster.origin.membership_total", 1),
                (&of_endpoint("rq_total"), 200),
                (&of_endpoint("rq_success"), 200),
                (&of_endpoint("cx_total"), connections),
            ],
        );
        let stats = proxy.stats();
        assert_eq!(stats.count("http.web.downstream_rq_time"), 200);
        assert_eq!(stats.count("cluster.origin.upstream_rq_time"), 200);
        assert_eq!(stats.count("cluster.origin.upstream_cx_connect_ms"), connections);
        assert_eq!(stats.count("listener.web.downstream_cx_length_ms"), 8);
        // What is left are pooled connections.
        expect(
            proxy.base_id(),
            &[
                ("listener.web.downstream_cx_active", 0),
                ("http.web.downstream_cx_active", 0),
                ("http.web.downstream_rq_active", 0),
                ("cluster.origin.upstream_rq_active", 0),
                ("cluster.origin.upstream_cx_active", connections),
            ],
        );
        proxy.signal(Signal::SIGTERM);
        proxy.expect_exit(0);
        expect_nothing_active(proxy.base_id());
        expect(proxy.base_id(), &[("http.web.downstream_rq_total", 200)]);
    }
}

#[test]
fn totals_go_on_after_a_kill_and_gauges_vanish() {
    let origin = Origin::echoing_targets();
    let config = Config::to([origin.addr()]).http();
    let first = Builder::new(&*config).start();
    let base_id = Arc::clone(first.base_id());
    traffic(&first, 30);
    let mut open = first.connect();
    assert_eq!(open.get("/").status(), 200);
    expect(&base_id, &[("http.web.downstream_rq_total", 31), ("listener.web.downstream_cx_active", 1)]);
    first.kill();
    expect_nothing_active(&base_id);
    expect(&base_id, &[("http.web.downstream_rq_total", 31), ("http.web.downstream_rq_2xx", 31)]);
    for generation in 1..=3 {
        let next = Builder::new(&*config).base_id(&base_id).start();
        traffic(&next, 10);
        expect(
            &base_id,
            &[
                ("http.web.downstream_rq_total", 31 + 10 * generation),
                ("cluster.origin.upstream_rq_200", 31 + 10 * generation),
                ("listener.web.downstream_cx_active", 0),
            ],
        );
        assert_eq!(next.stats().count("http.web.downstream_rq_time"), 31 + 10 * generation);
        next.kill();
    }
}

#[test]
fn refused_requests_are_counted_by_kind() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::start(Config::to([origin.addr()]).listener("limits.head_size = \"4KiB\"").http());
    for (request, kind) in [
        ("GET / HTTP/1.1\r\n\r\n", "host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "framing"),
        ("GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", "field"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request_line"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "unsupported"),
        ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", "tls_on_plain_port"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "body"),
    ] {
        let mut client = proxy.connect();
        client.send(request);
        assert!(client.response().status() >= 400);
        expect(proxy.base_id(), &[(&format!("http.web.protocol_error.{kind}"), 1)]);
    }
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(5000)));
    assert_eq!(client.response().status(), 431);
    expect(
        proxy.base_id(),
        &[
            ("http.web.protocol_error.head_too_large", 1),
            ("http.web.downstream_cx_protocol_error", 9),
            ("http.web.downstream_rq_total", 9),
            ("http.web.downstream_rq_4xx", 8),
            ("http.web.downstream_rq_5xx", 1),
            ("http.web.downstream_rq_active", 0),
        ],
    );
}

#[test]
fn what_goes_wrong_upstream_is_counted() {
    // Nobody listens on this one.
    let refusing = RefusingPort::new();
    let proxy = Proxy::to([refusing.addr()]);
    assert_eq!(proxy.connect().get("/").status(), 502);
    expect(
        proxy.base_id(),
        &[
            ("cluster.origin.upstream_cx_connect_fail", 1),
            ("cluster.origin.upstream_rq_pending_total", 1),
            ("cluster.origin.upstream_rq_pending_failure_eject", 1),
            ("cluster.origin.upstream_rq_total", 0),
            ("cluster.origin.upstream_rq_502", 1),
            ("http.web.downstream_rq_5xx", 1),
        ],
    );
    expect_nothing_active(proxy.base_id());

    let silent = Origin::silent();
    let proxy = Proxy::start(Config::to([silent.addr()]).cluster("response_timeout = \"100ms\"").http());
    assert_eq!(proxy.connect().get("/").status(), 504);
    expect(
        proxy.base_id(),
        &[
            ("cluster.origin.upstream_rq_total", 1),
            ("cluster.origin.upstream_rq_timeout", 1),
            ("cluster.origin.upstream_rq_504", 1),
            ("cluster.origin.upstream_rq_active", 0),
            ("cluster.origin.upstream_cx_destroy_local_with_active_rq", 1),
        ],
    );
    expect_nothing_active(proxy.base_id());

    let broken = Origin::start(|conn| {
        conn.request();
        conn.send("nonsense\r\n\r\n");
    });
    let proxy = Proxy::to([broken.addr()]);
    assert_eq!(proxy.connect().get("/").status(), 502);
    expect(
        proxy.base_id(),
        &[
            ("cluster.origin.upstream_cx_protocol_error", 1),
            ("cluster.origin.upstream_rq_rx_reset", 1),
            ("cluster.origin.upstream_rq_502", 1),
        ],
    );
    expect_nothing_active(proxy.base_id());
}

#[test]
fn a_repeated_request_is_counted_twice_upstream_and_once_downstream() {
    let origin = Origin::start(|conn| {
        conn.request();
        conn.send(ok("first"));
        // The second request on this connection gets no answer.
        let _ = conn.try_request();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").text(), "first");
    assert_eq!(client.get("/").text(), "first");
    expect(
        proxy.base_id(),
        &[
            ("http.web.downstream_rq_total", 2),
            ("cluster.origin.upstream_rq_total", 3),
            ("cluster.origin.upstream_rq_retry", 1),
            ("cluster.origin.upstream_rq_retry_success", 1),
            ("cluster.origin.upstream_rq_completed", 2),
        ],
    );
}

#[test]
fn clients_that_go_away_are_counted() {
    let origin = Origin::silent();
    let proxy = Proxy::to([origin.addr()]);
    let client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_requests(1);
    client.reset();
    expect(
        proxy.base_id(),
        &[
            ("http.web.downstream_rq_rx_reset", 1),
            ("http.web.downstream_cx_destroy_remote_active_rq", 1),
            ("cluster.origin.upstream_rq_tx_reset", 1),
        ],
    );
    expect_nothing_active(proxy.base_id());
}

#[test]
fn relayed_bytes_are_counted() {
    let origin = Origin::start(|conn| {
        let mut got = 0;
        let _ = conn.read_to_end(&mut |bytes| got += bytes.len());
        conn.send(vec![b'x'; 2 * got]);
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).tcp());
    let mut client = proxy.connect();
    client.send(vec![b'y'; 300_000]);
    client.finish_sending();
    assert_eq!(client.read_to_end().len(), 600_000);
    expect(
        proxy.base_id(),
        &[
            ("tcp.web.downstream_cx_total", 1),
            ("tcp.web.downstream_cx_rx_bytes_total", 300_000),
            ("tcp.web.downstream_cx_tx_bytes_total", 600_000),
            ("cluster.origin.upstream_cx_rx_bytes_total", 600_000),
            ("cluster.origin.upstream_cx_tx_bytes_total", 300_000),
            ("tcp.web.downstream_cx_destroy", 1),
        ],
    );
    expect_nothing_active(proxy.base_id());
}

#[test]
fn tunnels_are_counted() {
    let origin = Origin::start(|conn| {
        conn.request_head();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        conn.expect("ping");
        conn.send("pong");
        conn.expect_eof();
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response_head("GET").status(), 101);
    client.send("ping");
    client.expect("pong");
    expect(
        proxy.base_id(),
        &[("http.web.downstream_cx_upgrades_total", 1), ("http.web.downstream_cx_upgrades_active", 1)],
    );
    drop(client);
    expect(
        proxy.base_id(),
        &[("http.web.downstream_rq_1xx", 1), ("http.web.downstream_cx_upgrades_active", 0)],
    );
    expect_nothing_active(proxy.base_id());
}

#[test]
fn the_segment_is_ours_alone() {
    use std::os::unix::fs::MetadataExt;
    let origin = Origin::silent();
    let proxy = Proxy::to([origin.addr()]);
    let metadata = std::fs::metadata(format!("/dev/shm/ouro_{}", proxy.base_id().0)).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    // Address space is not memory.
    assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks", metadata.blocks());
}
