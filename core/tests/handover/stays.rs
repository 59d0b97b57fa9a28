//! What moves, what stays and why is counted, and told in the log.

use std::process::Command;

use ouro_restart::message::{ParcelReply, REFUSED_KIND, REFUSED_SIZE, RefusedParcel};
use ouro_restart::transport::TransportError;
use ouro_restart::{Connection, Frame};

use crate::chain::{Chain, End, Origin};
use crate::failures::{chain, committed, pairs, parcel, work};
use crate::support::pattern::{self, Checker};
use crate::support::stats::{expect, expect_nothing_active};
use crate::support::{Config, QUIET, Stats, eventually, free_address};

#[test]
fn what_moves_is_counted_on_both_sides() {
    let (mut chain, _origin, mut all) = chain(40);
    for restarts in 1..3 {
        chain.restart();
        work(&mut all);
        expect(
            chain.instance.base_id(),
            &[
                ("server.handover.cx_moved", 40 * restarts),
                ("server.handover.cx_taken", 40 * restarts),
                ("server.handover.cx_refused", 0),
                ("server.handover.cx_stayed", 0),
            ],
        );
    }
}

#[test]
fn idle_connections_to_origins_are_counted_when_they_move() {
    let origin = Origin::new();
    let mut chain = Chain::http(Config::to([origin.addr()]));
    let mut client = chain.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut far = origin.accept();
    far.head();
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.head();
    client.expect("ok");
    chain.restart();
    expect(
        chain.instance.base_id(),
        &[
            ("server.handover.cx_moved", 1),
            ("server.handover.upstream_idle_moved", 1),
            ("server.handover.upstream_idle_taken", 1),
            ("server.handover.upstream_idle_closed", 0),
        ],
    );
}

/// An old process without a client ends only when its idle connections have gone.
#[test]
fn the_old_process_waits_until_its_idle_connections_have_moved() {
    let origin = Origin::new();
    let mut chain = Chain::http(Config::to([origin.addr()]));
    let mut clients: Vec<_> = (0..100).map(|_| chain.client()).collect();
    for client in &clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let mut far: Vec<_> = clients.iter().map(|_| origin.accept()).collect();
    for far in &mut far {
        far.head();
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
    for client in &mut clients {
        client.head();
        client.expect("ok");
    }
    drop(clients);
    expect_nothing_active(chain.instance.base_id());
    for restarts in 1..=5 {
        chain.restart();
        expect(
            chain.instance.base_id(),
            &[
                ("server.handover.upstream_idle_moved", 100 * restarts),
                ("server.handover.upstream_idle_taken", 100 * restarts),
                ("server.handover.upstream_idle_closed", 0),
            ],
        );
    }
}

#[test]
fn what_is_refused_is_counted_by_its_reason() {
    let (chain, _origin, mut all) = chain(9);
    let (_peer, mut channel) = committed(&chain);
    for number in 0..9 {
        let (id, _) = parcel(&mut channel);
        let code = [0, REFUSED_KIND, REFUSED_SIZE][number % 3];
        let refused = vec![RefusedParcel { id, reason: format!("reason {code}"), code }];
        channel.send(&Frame::new(0, ParcelReply { accepted: Vec::new(), refused }), &[]).unwrap();
    }
    expect(
        chain.instance.base_id(),
        &[
            ("server.handover.cx_stayed", 9),
            ("server.handover.cx_stayed_refused", 3),
            ("server.handover.cx_stayed_unknown_kind", 3),
            ("server.handover.cx_stayed_too_large", 3),
            ("server.handover.cx_moved", 0),
        ],
    );
    chain.newest.wait_log_times("a connection stays here", 9);
    // Which, and why.
    for (client, _) in &all {
        chain.newest.wait_log(&format!("client=\"{}\"", client.local()));
    }
    work(&mut all);
}

/// The other process need not wait for anything more.
#[test]
fn the_channel_is_closed_when_all_that_is_left_stays() {
    let (chain, _origin, mut all) = chain(3);
    let (_peer, mut channel) = committed(&chain);
    let ids = [(); 3].map(|()| parcel(&mut channel).0);
    let refuse = |channel: &mut Connection, ids: &[u64]| {
        let refused = |id: &u64| RefusedParcel { id: *id, reason: "no".into(), code: 0 };
        let reply = ParcelReply { accepted: Vec::new(), refused: ids.iter().map(refused).collect() };
        channel.send(&Frame::new(0, reply), &[]).unwrap();
    };
    refuse(&mut channel, &ids[..2]);
    expect(chain.instance.base_id(), &[("server.handover.cx_stayed", 2)]);
    assert!(channel.receive().unwrap().is_none());
    refuse(&mut channel, &ids[2..]);
    eventually("the channel is closed", || {
        let _ = channel.wait(100);
        matches!(channel.receive(), Err(TransportError::Gone))
    });
    work(&mut all);
}

#[test]
fn what_is_not_answered_is_counted() {
    let (chain, _origin, mut all) = chain(60);
    let (peer, mut channel) = committed(&chain);
    let (first, _fds) = parcel(&mut channel);
    let accepted = vec![first];
    channel.send(&Frame::new(0, ParcelReply { accepted, refused: Vec::new() }), &[]).unwrap();
    expect(chain.instance.base_id(), &[("server.handover.cx_moved", 1)]);
    drop((channel, peer));
    chain.newest.wait_log("serves again");
    // Those that had been sent, and those whose turn had not come.
    expect(
        chain.instance.base_id(),
        &[("server.handover.cx_stayed", 59), ("server.handover.cx_stayed_not_answered", 59)],
    );
    drop(_fds);
    all.retain_mut(|(client, far)| client.wire.send(b"up").is_ok() && far.wire.read_exact(2).is_ok());
    assert_eq!(all.len(), 59);
}

#[test]
fn a_listener_that_is_no_more_is_counted_as_the_reason() {
    let (mut chain, origin, mut all) = chain(5);
    chain.instance.configure(&format!(
        "[[listeners]]\nname = \"other\"\naddress = \"{}\"\nprotocol = \"tcp\"\ncluster = \"origin\"\n\
         [[clusters]]\nname = \"origin\"\nendpoints = [\"{}\"]\n",
        free_address(),
        origin.addr()
    ));
    let old = chain.restart_keeping_old("");
    old.wait_log_times("there is no listener web any more", 5);
    expect(
        chain.instance.base_id(),
        &[
            ("server.handover.cx_stayed", 5),
            ("server.handover.cx_stayed_no_listener", 5),
            ("server.handover.cx_refused", 5),
            ("server.handover.cx_moved", 0),
        ],
    );
    work(&mut all);
    drop(all);
    old.expect_exit(0, "stopped");
}

/// The child takes as many as it has descriptors for; the others stay and work, and the log and a counter say why.
#[test]
fn a_full_table_of_descriptors_leaves_the_rest_where_it_is() {
    const COUNT: u64 = 100;
    let (mut chain, origin, mut all) = chain(COUNT as usize);
    // While the parent stands still the child gets so far that all it opens later is what it takes.
    chain.newest.freeze();
    let next = chain.instance.spawn("auto", "");
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", next.pid())).unwrap_or_default();
    let is_raised = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        let mut words = line.split_whitespace().skip(3);
        words.next().is_some_and(|soft| Some(soft) == words.next())
    };
    eventually("the child has raised its limit", || is_raised(&limits()));
    let limit = format!("--nofile={0}:{0}", 100);
    let set = Command::new("prlimit").args(["--pid", &next.pid().to_string(), &limit]).status();
    assert!(set.unwrap().success());
    chain.newest.thaw();
    next.wait_log("ready pid=");
    let old = std::mem::replace(&mut chain.newest, next);
    old.wait_log("there is no descriptor left for it");
    eventually("each has moved or stays", || {
        let stats = Stats::of(chain.instance.base_id());
        stats.get("server.handover.cx_moved") + stats.get("server.handover.cx_stayed") == COUNT
    });
    let stats = Stats::of(chain.instance.base_id());
    let stayed = stats.get("server.handover.cx_stayed_no_descriptor");
    println!("{stayed} of {COUNT} have stayed");
    assert!((50..COUNT).contains(&stayed), "{stayed}");
    assert_eq!(stats.get("server.handover.cx_stayed"), stayed);
    assert_eq!(stats.get("server.handover.cx_refused"), stayed);
    work(&mut all);
    drop(all);
    old.expect_exit(0, "stopped");
    expect_nothing_active(chain.instance.base_id());
    work(&mut pairs(&chain, &origin, 1));
}

/// More than a channel keeps for a process that does not read as fast.
#[test]
fn a_connection_with_megabytes_on_their_way_moves() {
    let origin = Origin::new();
    let mut chain = Chain::tcp(
        Config::to([origin.addr()]).server("buffer_size = \"256KiB\"\nbuffer_memory = \"256MiB\""),
    );
    let (mut client, mut far) = pairs(&chain, &origin, 1).remove(0);
    let (mut up, mut down) = (0, 0);
    const RESTARTS: u64 = 5;
    for _ in 0..RESTARTS {
        stuff_more(&client, &mut up);
        stuff_more(&far, &mut down);
        chain.restart();
    }
    expect(chain.instance.base_id(), &[("server.handover.cx_moved", RESTARTS)]);
    far.expect_pattern(&mut Checker::default(), up);
    client.expect_pattern(&mut Checker::default(), down);
    work(&mut [(client, far)]);
}

/// What waits in a connection whose peers do not read does not grow with each restart.
#[test]
fn what_a_connection_holds_is_bounded_over_many_restarts() {
    let (mut chain, _origin, mut all) = chain(1);
    let (client, mut far) = all.remove(0);
    far.shrink();
    let mut sent = 0;
    stuff_more(&client, &mut sent);
    chain.restart();
    let first = sent;
    for _ in 0..6 {
        stuff_more(&client, &mut sent);
        chain.restart();
    }
    println!("{first} bytes at first, {} bytes more later", sent - first);
    assert!(sent - first < 1024 * 1024);
    far.expect_pattern(&mut Checker::default(), sent);
    work(&mut [(client, far)]);
}

/// Goes on sending the pattern until all buffers on the way are full.
#[track_caller]
fn stuff_more(end: &End, sent: &mut u64) {
    let next = |offset| pattern::piece(*sent + offset, u64::MAX);
    let more = end.wire.send_until_stalled(QUIET, next).unwrap();
    *sent += more;
}
