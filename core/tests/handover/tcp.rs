//! TCP relays, whatever they are doing.

use std::time::Instant;

use crate::chain::{Chain, End, Origin, TwoSeconds, once_and_often};
use crate::support::pattern::{self, Checker};
use crate::support::stats::{expect, expect_nothing_active};
use crate::support::{Config, SilentPort, Stats};

/// A relay that has carried a byte each way.
#[track_caller]
fn relay(config: impl Fn(Config) -> Config) -> (Chain, Origin, End, End) {
    let origin = Origin::new();
    let chain = Chain::tcp(config(Config::to([origin.addr()])));
    let (client, far) = chain.pair(&origin);
    (chain, origin, client, far)
}

fn as_it_is(config: Config) -> Config {
    config
}

/// Both directions work, and end one after the other.
#[track_caller]
fn goes_on(mut client: End, mut far: End) {
    client.send("up");
    far.expect("up");
    far.send("down");
    client.expect("down");
    client.finish();
    far.expect_eof();
    far.send("last words");
    far.finish();
    client.expect("last words");
    client.expect_eof();
}

#[test]
fn an_idle_relay_moves() {
    once_and_often(|times| {
        let (mut chain, origin, client, far) = relay(as_it_is);
        chain.restarts(times);
        origin.assert_nobody();
        goes_on(client, far);
        expect_nothing_active(chain.instance.base_id());
    });
}

#[test]
fn half_closed_relays_move() {
    once_and_often(|times| {
        let (mut chain, origin, client, mut far) = relay(as_it_is);
        let (mut other_client, other_far) = chain.pair(&origin);
        client.finish();
        far.expect_eof();
        other_far.finish();
        other_client.expect_eof();
        for round in 0..times {
            chain.restart();
            far.send(format!("answer {round}"));
            other_client.send(format!("question {round}"));
        }
        let (mut client, mut other_far) = (client, other_far);
        for round in 0..times {
            client.expect(format!("answer {round}"));
            other_far.expect(format!("question {round}"));
        }
        far.finish();
        client.expect_eof();
        other_client.finish();
        other_far.expect_eof();
        expect_nothing_active(chain.instance.base_id());
    });
}

#[test]
fn ends_around_the_restart_arrive() {
    for round in 0..4 {
        let (mut chain, _origin, mut client, mut far) = relay(as_it_is);
        // The end may be in the kernel, in the old process or still to come for the new one.
        client.send("bye");
        client.finish();
        if round % 2 == 0 {
            far.send("bye, too");
            far.finish();
        }
        chain.restart();
        far.expect("bye");
        far.expect_eof();
        if round % 2 == 1 {
            far.send("bye, too");
            far.finish();
        }
        client.expect("bye, too");
        client.expect_eof();
        expect_nothing_active(chain.instance.base_id());
    }
}

#[test]
fn a_client_that_does_not_read_gets_every_byte() {
    once_and_often(|times| {
        let (mut chain, _origin, mut client, far) = relay(as_it_is);
        client.shrink();
        let sent = far.stuff();
        far.finish();
        chain.restarts(times);
        client.send("still there");
        let mut far = far;
        far.expect("still there");
        client.expect_pattern(&mut Checker::default(), sent);
        client.expect_eof();
        client.finish();
        far.expect_eof();
        expect_nothing_active(chain.instance.base_id());
        expect(chain.instance.base_id(), &[("tcp.web.downstream_cx_tx_bytes_total", sent + 1)]);
    });
}

#[test]
fn an_origin_that_does_not_read_gets_every_byte() {
    once_and_often(|times| {
        let (mut chain, _origin, client, mut far) = relay(as_it_is);
        far.shrink();
        let sent = client.stuff();
        chain.restarts(times);
        let mut checker = Checker::default();
        far.expect_pattern(&mut checker, sent);
        goes_on(client, far);
        expect_nothing_active(chain.instance.base_id());
        expect(
            chain.instance.base_id(),
            &[
                ("tcp.web.downstream_cx_rx_bytes_total", sent + 3),
                ("cluster.origin.upstream_cx_tx_bytes_total", sent + 3),
            ],
        );
    });
}

#[test]
fn both_directions_full_move_at_once() {
    once_and_often(|times| {
        let (mut chain, _origin, mut client, mut far) = relay(as_it_is);
        let (up, down) = (client.stuff(), far.stuff());
        let (mut at_client, mut at_far) = (Checker::default(), Checker::default());
        for _ in 0..times {
            chain.restart();
            // A little of it leaves between two restarts.
            client.expect_pattern(&mut at_client, down / 10);
            far.expect_pattern(&mut at_far, up / 10);
        }
        let (down, up) = (down - at_client.count(), up - at_far.count());
        client.expect_pattern(&mut at_client, down);
        far.expect_pattern(&mut at_far, up);
        goes_on(client, far);
    });
}

#[test]
fn streams_in_full_flow_move() {
    const TOTAL: u64 = 24 * 1024 * 1024;
    let (mut chain, _origin, mut client, mut far) = relay(as_it_is);
    let pump = |end: &End| {
        let socket = std::sync::Arc::clone(end.wire.socket());
        std::thread::spawn(move || {
            let mut sent = 0;
            while sent < TOTAL {
                let piece = pattern::piece(sent, TOTAL);
                socket.send_all(&piece).unwrap();
                sent += piece.len() as u64;
            }
            socket.shutdown(nix::sys::socket::Shutdown::Write);
        })
    };
    let senders = [pump(&client), pump(&far)];
    let reader = |mut end: End| {
        std::thread::spawn(move || {
            let mut checker = Checker::default();
            while let Ok(bytes) = end.wire.read_some() {
                checker.take(bytes);
                // Slow enough to last.
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
            (end, checker.count())
        })
    };
    (client, far) = {
        let readers = [reader(client), reader(far)];
        chain.restarts(6);
        let mut ends = readers.map(|reader| reader.join().unwrap()).into_iter();
        let ((client, down), (far, up)) = (ends.next().unwrap(), ends.next().unwrap());
        assert_eq!((down, up), (TOTAL, TOTAL));
        (client, far)
    };
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    client.expect_eof();
    far.expect_eof();
    expect_nothing_active(chain.instance.base_id());
    let total = TOTAL + 1;
    expect(
        chain.instance.base_id(),
        &[
            ("tcp.web.downstream_cx_rx_bytes_total", total),
            ("tcp.web.downstream_cx_tx_bytes_total", total),
            ("cluster.origin.upstream_cx_rx_bytes_total", total),
            ("cluster.origin.upstream_cx_tx_bytes_total", total),
        ],
    );
}

#[test]
fn bytes_sent_around_the_restart_keep_their_order() {
    let (mut chain, _origin, mut client, mut far) = relay(as_it_is);
    for round in 0..4 {
        let next = chain.instance.spawn("auto", "");
        let mut count = 0_u32;
        // One after the other, as fast as they go, until the old process is gone.
        while chain.newest.is_running() {
            client.send(format!("<{round}.{count}>"));
            far.expect(format!("<{round}.{count}>"));
            far.send(format!("[{round}.{count}]"));
            client.expect(format!("[{round}.{count}]"));
            count += 1;
        }
        next.wait_log("ready pid=");
        chain.newest = next;
    }
    goes_on(client, far);
}

#[test]
fn resets_right_before_the_restart_arrive() {
    for by_client in [true, false] {
        let (mut chain, _origin, mut client, mut far) = relay(as_it_is);
        let next = chain.instance.spawn("auto", "");
        if by_client {
            client.reset();
            far.expect_reset();
        } else {
            far.reset();
            client.expect_reset();
        }
        next.wait_log("ready pid=");
        chain.newest.expect_exit(0, "stopped");
        chain.newest = next;
        expect_nothing_active(chain.instance.base_id());
        expect(chain.instance.base_id(), &[("tcp.web.downstream_cx_destroy", 1)]);
    }
}

#[test]
fn resets_while_the_relay_moves_arrive() {
    for round in 0..6 {
        let (mut chain, _origin, mut client, mut far) = relay(as_it_is);
        let next = chain.instance.spawn("auto", "");
        chain.newest.wait_log("serves from here on");
        if round % 2 == 0 {
            client.reset();
            far.expect_reset();
        } else {
            far.reset();
            client.expect_reset();
        }
        next.wait_log("ready pid=");
        chain.newest.expect_exit(0, "stopped");
        chain.newest = next;
        expect_nothing_active(chain.instance.base_id());
        expect(
            chain.instance.base_id(),
            &[("tcp.web.downstream_cx_destroy", 1), ("tcp.web.downstream_cx_reset", 1)],
        );
    }
}

#[test]
fn a_relay_that_is_connecting_goes_on_to_another_endpoint() {
    let (silent, origin) = (SilentPort::new(), Origin::new());
    let config = Config::to([silent.addr(), origin.addr()])
        .cluster("connect_timeout = \"1500ms\"\nconnect_attempts = 4");
    let mut chain = Chain::tcp(config);
    // Of some clients, one at least begins at the silent endpoint.
    let mut clients: Vec<End> = (0..6).map(|_| chain.client()).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(format!("hello {number}"));
    }
    chain.restart();
    for _ in 0..6 {
        let mut far = origin.accept();
        far.expect("hello ");
        let number = far.wire.read_exact(1).unwrap();
        far.send(&number);
        let client = &mut clients[usize::from(number[0] - b'0')];
        client.expect(&number);
    }
    drop(clients);
    expect_nothing_active(chain.instance.base_id());
    expect(
        chain.instance.base_id(),
        &[("tcp.web.downstream_cx_total", 6), ("tcp.web.downstream_cx_destroy", 6)],
    );
}

#[test]
fn the_time_out_of_connecting_fires_in_the_new_process() {
    let silent = SilentPort::new();
    let config = Config::to([silent.addr()]).cluster("connect_timeout = \"1s\"\nconnect_attempts = 1");
    let mut chain = Chain::tcp(config);
    let begun = Instant::now();
    let mut client = chain.client();
    client.send("hello");
    chain.restart();
    client.expect_reset();
    println!("given up after {:?}", begun.elapsed());
    expect_nothing_active(chain.instance.base_id());
    expect(
        chain.instance.base_id(),
        &[("tcp.web.downstream_cx_no_route", 1), ("cluster.origin.upstream_cx_active", 0)],
    );
}

/// Neither does the time for connecting begin anew, nor is an endpoint tried again.
#[test]
fn attempts_to_connect_go_on_where_they_were() {
    let silent = [SilentPort::new(), SilentPort::new()];
    let config = Config::to(silent.iter().map(SilentPort::addr))
        .cluster("connect_timeout = \"1s\"\nconnect_attempts = 2");
    let mut chain = Chain::tcp(config);
    let time_out = TwoSeconds::begin();
    let mut client = chain.client();
    client.send("hello");
    // All through both attempts.
    time_out.restart_for(1700, &mut chain);
    client.expect_reset();
    time_out.expect_over();
    expect_nothing_active(chain.instance.base_id());
    expect(
        chain.instance.base_id(),
        &[
            ("tcp.web.downstream_cx_no_route", 1),
            ("cluster.origin.upstream_cx_connect_timeout", 2),
            ("cluster.origin.upstream_cx_connect_attempts_exceeded", 1),
            ("cluster.origin.upstream_cx_active", 0),
        ],
    );
}

#[test]
fn the_idle_time_out_goes_on_where_it_was() {
    let (mut chain, _origin, mut client, mut far) = relay(|config| config.listener("idle_timeout = \"2s\""));
    let time_out = TwoSeconds::begin();
    time_out.restart_for(1000, &mut chain);
    client.expect_gone();
    far.expect_gone();
    time_out.expect_over();
    expect(chain.instance.base_id(), &[("tcp.web.idle_timeout", 1)]);
}

#[test]
fn totals_and_gauges_are_right_while_connections_move() {
    const COUNT: u64 = 40;
    let origin = Origin::new();
    let mut chain = Chain::tcp(Config::to([origin.addr()]));
    let pairs: Vec<_> = (0..COUNT).map(|_| chain.pair(&origin)).collect();
    let check = |chain: &Chain| {
        let stats = Stats::of(chain.instance.base_id());
        for name in [
            "tcp.web.downstream_cx_active",
            "tcp.web.downstream_cx_total",
            "cluster.origin.upstream_cx_active",
            "cluster.origin.upstream_cx_total",
            "listener.web.downstream_cx_active",
        ] {
            assert_eq!(stats.get(name), COUNT, "{name}");
        }
        assert_eq!(stats.get("tcp.web.downstream_cx_destroy"), 0);
        assert_eq!(stats.get("cluster.origin.upstream_cx_destroy"), 0);
    };
    for _ in 0..5 {
        chain.restart();
        check(&chain);
    }
    for (client, far) in pairs {
        goes_on(client, far);
    }
    expect_nothing_active(chain.instance.base_id());
    let id = chain.instance.base_id();
    expect(
        id,
        &[
            ("tcp.web.downstream_cx_total", COUNT),
            ("tcp.web.downstream_cx_destroy", COUNT),
            ("listener.web.downstream_cx_total", COUNT),
            ("listener.web.downstream_cx_destroy", COUNT),
            ("cluster.origin.upstream_cx_total", COUNT),
            ("cluster.origin.upstream_cx_destroy", COUNT),
            ("cluster.origin.upstream_cx_active", 0),
            ("tcp.web.downstream_cx_rx_bytes_total", 3 * COUNT),
            ("tcp.web.downstream_cx_tx_bytes_total", 15 * COUNT),
            ("cluster.origin.upstream_cx_rx_bytes_total", 15 * COUNT),
            ("cluster.origin.upstream_cx_tx_bytes_total", 3 * COUNT),
        ],
    );
    assert_eq!(Stats::of(id).count("tcp.web.downstream_cx_length_ms"), COUNT);
    assert_eq!(Stats::of(id).count("cluster.origin.upstream_cx_length_ms"), COUNT);
    assert_eq!(Stats::of(id).count("cluster.origin.upstream_cx_connect_ms"), COUNT);
}

#[test]
fn half_closed_and_full_relays_move() {
    once_and_often(|times| {
        let (mut chain, origin, mut client, mut far) = relay(as_it_is);
        let (mut other_client, mut other_far) = chain.pair(&origin);
        client.finish();
        far.expect_eof();
        other_far.finish();
        other_client.expect_eof();
        let (down, up) = (far.stuff(), other_client.stuff());
        chain.restarts(times);
        far.finish();
        other_client.finish();
        client.expect_pattern(&mut Checker::default(), down);
        client.expect_eof();
        other_far.expect_pattern(&mut Checker::default(), up);
        other_far.expect_eof();
        expect_nothing_active(chain.instance.base_id());
    });
}
