//! The new process fails while it takes connections: what it has not taken goes on in the old one.

use std::net::TcpStream;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use ouro_restart::message::{
    CAPABILITY_PARCELS, ChildReady, DrainListeners, ListenSockets, Message, ParcelReply, RefusedParcel, State,
};
use ouro_restart::transport::Received;
use ouro_restart::{Connection, Frame};

use crate::chain::{Chain, End, Origin};
use crate::fake::{Peer, hello};
use crate::support::stats::{expect, expect_nothing_active};
use crate::support::{Config, Failure, QUIET, SilentPort, eventually};

pub(crate) fn pairs(chain: &Chain, origin: &Origin, count: usize) -> Vec<(End, End)> {
    (0..count).map(|_| chain.pair(origin)).collect()
}

pub(crate) fn work(pairs: &mut [(End, End)]) {
    for (client, far) in pairs.iter_mut() {
        client.send("up");
        far.expect("up");
        far.send("down");
        client.expect("down");
    }
}

/// A child that commits, and the channel of the only worker.
#[track_caller]
pub(crate) fn committed(chain: &Chain) -> (Peer, Connection) {
    let mut peer = Peer::child(&chain.instance);
    let mut hello = hello(&chain.instance);
    hello.capabilities.push(CAPABILITY_PARCELS.into());
    peer.request(hello);
    peer.expect("HelloReply");
    peer.request(ListenSockets { cursor: 0 });
    peer.expect("ListenSocketsReply");
    peer.request(State { cursor: 0 });
    peer.expect("StateReply");
    peer.send(0, ChildReady { workers: 1 });
    peer.request(DrainListeners {
        drain_ms: 0,
        parent_shutdown_ms: 60_000,
        live: true,
        ..DrainListeners::default()
    });
    let mut channel = None;
    let mut committed = false;
    while channel.is_none() || !committed {
        let Received { frame, fds } = peer.next().unwrap();
        match frame.message {
            Message::ParcelChannel(_) => {
                channel = Some(Connection::adopt(fds.into_iter().next().unwrap()).unwrap());
            }
            Message::DrainListenersReply(_) => committed = true,
            _ => {}
        }
    }
    (peer, channel.unwrap())
}

/// The next parcel in one piece.
#[track_caller]
pub(crate) fn parcel(channel: &mut Connection) -> (u64, Vec<OwnedFd>) {
    let mut found = None;
    eventually("a parcel comes", || {
        let _ = channel.wait(100);
        if let Some(Received { frame, fds }) = channel.receive().unwrap()
            && let Message::ConnectionParcel(parcel) = frame.message
        {
            assert!(!parcel.more);
            found = Some((parcel.id, fds));
        }
        found.is_some()
    });
    found.unwrap()
}

#[track_caller]
pub(crate) fn chain(count: usize) -> (Chain, Origin, Vec<(End, End)>) {
    let origin = Origin::new();
    let chain = Chain::tcp(Config::to([origin.addr()]));
    let pairs = pairs(&chain, &origin, count);
    (chain, origin, pairs)
}

/// The process has everything, and hands it over to the next one that is all right.
#[track_caller]
fn recovers(mut chain: Chain, origin: &Origin, mut all: Vec<(End, End)>) {
    chain.newest.wait_log("serves again");
    work(&mut all);
    let total = all.len() as u64;
    all.extend(pairs(&chain, origin, 1));
    chain.restart();
    work(&mut all);
    drop(all);
    expect_nothing_active(chain.instance.base_id());
    let total = total + 1;
    expect(
        chain.instance.base_id(),
        &[
            ("tcp.web.downstream_cx_total", total),
            ("tcp.web.downstream_cx_destroy", total),
            ("cluster.origin.upstream_cx_total", total),
            ("cluster.origin.upstream_cx_destroy", total),
            ("cluster.origin.upstream_cx_active", 0),
        ],
    );
}

#[test]
fn a_child_that_dies_before_it_answers_has_taken_nothing() {
    for read in [0, 1, 20] {
        let (chain, origin, all) = chain(60);
        let (peer, mut channel) = committed(&chain);
        let taken: Vec<_> = (0..read).map(|_| parcel(&mut channel)).collect();
        drop((channel, taken, peer));
        recovers(chain, &origin, all);
    }
}

#[test]
fn a_parcel_that_is_refused_stays_and_works() {
    let (chain, origin, mut all) = chain(50);
    let (peer, mut channel) = committed(&chain);
    for _ in 0..50 {
        let (id, _) = parcel(&mut channel);
        let refused = vec![RefusedParcel { id, reason: "a matter of taste".into(), code: 0 }];
        channel.send(&Frame::new(0, ParcelReply { accepted: Vec::new(), refused }), &[]).unwrap();
    }
    chain.newest.wait_log_times("a matter of taste", 50);
    work(&mut all);
    drop((peer, channel));
    chain.newest.wait_log("serves again");
    all.extend(pairs(&chain, &origin, 1));
    let mut chain = chain;
    let old = chain.restart_keeping_old("");
    old.expect_exit(0, "stopped");
    work(&mut all);
}

/// An answer counts even if parcels that nobody has read are left behind it.
#[test]
fn what_was_taken_by_a_child_that_dies_is_not_driven_by_two() {
    for round in 0..5 {
        let (chain, _origin, mut all) = chain(60);
        let (peer, mut channel) = committed(&chain);
        let taken: Vec<_> = (0..3).map(|_| parcel(&mut channel)).collect();
        let accepted = taken.iter().map(|(id, _)| *id).collect();
        // The parent must find the answer and the end at the same time.
        chain.newest.signal(Signal::SIGSTOP);
        channel.send(&Frame::new(0, ParcelReply { accepted, refused: Vec::new() }), &[]).unwrap();
        drop(channel);
        chain.newest.signal(Signal::SIGCONT);
        drop(peer);
        chain.newest.wait_log("serves again");
        // It has let go of three, and only of those.
        drop(taken);
        let mut gone = 0;
        all.retain_mut(|(client, far)| {
            client.send("up");
            let lives = far.wire.read_exact(2).is_ok();
            if !lives {
                gone += 1;
                return false;
            }
            far.send("down");
            client.expect("down");
            true
        });
        assert_eq!((gone, all.len()), (3, 57), "round {round}");
    }
}

/// Dies after so many, in batches of any size: those are lost and no others, and the rest goes on.
#[test]
fn a_child_that_dies_in_the_middle_has_just_what_it_has_answered_for() {
    for (count, batch) in [(1, 1), (20, 7), (32, 32), (33, 1), (47, 16), (60, 5)] {
        let (chain, origin, mut all) = chain(60);
        let (peer, mut channel) = committed(&chain);
        let mut taken = Vec::new();
        while taken.len() < count {
            let some: Vec<_> = (0..batch.min(count - taken.len())).map(|_| parcel(&mut channel)).collect();
            let accepted = some.iter().map(|(id, _)| *id).collect();
            channel.send(&Frame::new(0, ParcelReply { accepted, refused: Vec::new() }), &[]).unwrap();
            taken.extend(some);
        }
        // The parent knows: it has let go of them.
        expect(chain.instance.base_id(), &[("server.handover.cx_moved", count as u64)]);
        let clients: Vec<_> = taken
            .iter()
            .map(|(_, fds)| TcpStream::from(fds[0].try_clone().unwrap()).peer_addr().unwrap())
            .collect();
        drop((channel, peer, taken));
        chain.newest.wait_log("serves again");
        let (mut lost, mut kept): (Vec<_>, Vec<_>) =
            all.drain(..).partition(|(client, _)| clients.contains(&client.local()));
        assert_eq!((lost.len(), kept.len()), (count, 60 - count));
        for (client, far) in &mut lost {
            client.expect_gone();
            far.expect_gone();
        }
        work(&mut kept);
        kept.extend(pairs(&chain, &origin, 1));
        expect(
            chain.instance.base_id(),
            &[
                ("server.handover.cx_stayed", 60 - count as u64),
                ("server.handover.cx_stayed_not_answered", 60 - count as u64),
                ("tcp.web.downstream_cx_active", 61 - count as u64),
                ("cluster.origin.upstream_cx_active", 61 - count as u64),
            ],
        );
        let mut chain = chain;
        chain.restart();
        work(&mut kept);
    }
}

#[test]
fn a_child_that_is_killed_right_after_the_commit() {
    killed_after_commit(false);
}

#[test]
fn a_client_right_after_a_child_was_killed() {
    killed_after_commit(true);
}

fn killed_after_commit(probes: bool) {
    for _ in 0..5 {
        let (mut chain, origin, mut all) = chain(100);
        let next = chain.instance.spawn("auto", "");
        chain.newest.wait_log("another process serves from here on");
        next.kill();
        let survives = {
            let log = chain.newest.log();
            !log.contains("has been replaced") && chain.newest.is_running()
        };
        if !survives {
            continue;
        }
        chain.newest.wait_log("serves again");
        // What it had taken is lost, and seen as lost: nothing is wrong or hangs.
        let before = all.len();
        all.retain_mut(|(client, far)| {
            let sent = client.wire.send(b"up");
            let lives = sent.is_ok() && far.wire.read_exact(2).is_ok();
            if lives {
                far.send("down");
                client.expect("down");
            }
            lives
        });
        println!("{} of {before} are left", all.len());
        if !probes {
            continue;
        }
        // The kernel takes the dead process's ring down a moment later: until then that may still accept a connection,
        // which is then reset. Such a client comes again.
        let mut probe = chain.client();
        let probed = probe.wire.send(b"a").and_then(|()| probe.wire.read_some_within(QUIET).map(<[u8]>::len));
        if probed == Err(Failure::TimedOut) {
            let mut far = origin.accept();
            far.expect("a");
            far.send("b");
            probe.expect("b");
            all.push((probe, far));
        } else {
            println!("lost with the dead process: {probed:?}");
            drop(probe);
        }
        all.extend(pairs(&chain, &origin, 1));
        chain.restart();
        work(&mut all);
        drop(all);
        expect_nothing_active(chain.instance.base_id());
    }
}

#[test]
fn a_child_that_stops_and_is_killed_later() {
    let (mut chain, origin, mut all) = chain(200);
    let next = chain.instance.spawn("auto", "");
    chain.newest.wait_log("another process serves from here on");
    next.signal(Signal::SIGSTOP);
    if !chain.newest.is_running() || chain.newest.log().contains("has been replaced") {
        return;
    }
    std::thread::park_timeout(std::time::Duration::from_secs(7));
    // Whoever has them, none may be lost or wrong so far: they only wait.
    next.kill();
    chain.newest.wait_log("serves again");
    all.retain_mut(|(client, far)| {
        let lives = client.wire.send(b"up").is_ok() && far.wire.read_exact(2).is_ok();
        if lives {
            far.send("down");
            client.expect("down");
        }
        lives
    });
    println!("{} of 200 are left", all.len());
    all.extend(pairs(&chain, &origin, 1));
    chain.restart();
    work(&mut all);
    drop(all);
    expect_nothing_active(chain.instance.base_id());
}

/// The old process gives a silent child up, and does not wait for its end to go on.
#[test]
fn a_child_that_goes_silent_holds_nobody_up_and_drives_nothing_when_it_wakes() {
    let (chain, origin, mut all) = chain(60);
    // Takes the channel, reads a few parcels, then says nothing: all the time it is there.
    let (peer, mut channel) = committed(&chain);
    let taken: Vec<_> = (0..3).map(|_| parcel(&mut channel)).collect();
    chain.newest.wait_log("serves again");
    all.extend(pairs(&chain, &origin, 1));
    work(&mut all);
    let accepted = taken.iter().map(|(id, _)| *id).collect();
    let late = channel.send(&Frame::new(0, ParcelReply { accepted, refused: Vec::new() }), &[]);
    assert!(late.is_err(), "an answer that comes too late is not heard");
    work(&mut all);
    drop((peer, channel, taken));
    recovers(chain, &origin, all);
}

/// The child has a connection whose origin is being connected, says nothing until it is given up, and lets the time for
/// connecting pass. The endpoint has not failed: nobody has asked it meanwhile.
#[track_caller]
fn connects_after_a_silent_child(start: fn(Config) -> Chain) {
    let silent = SilentPort::new();
    let config = Config::to([silent.addr()]).cluster("connect_timeout = \"4s\"\nconnect_attempts = 1");
    let chain = start(config);
    let mut client = chain.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    expect(chain.instance.base_id(), &[("cluster.origin.upstream_cx_total", 1)]);
    let (peer, mut channel) = committed(&chain);
    let taken = parcel(&mut channel);
    let origin = Origin::on(silent.into_listener());
    chain.newest.wait_log("serves again");
    let mut far = origin.accept();
    far.expect("GET / HTTP/1.1\r\n");
    far.send("HTTP/1.1 204 No Content\r\n\r\n");
    client.expect("HTTP/1.1 204 ");
    drop((peer, channel, taken));
    expect(chain.instance.base_id(), &[("cluster.origin.upstream_cx_connect_timeout", 0)]);
}

#[test]
fn a_relay_that_is_connecting_does_not_pay_for_a_silent_child() {
    connects_after_a_silent_child(Chain::tcp);
}

#[test]
fn an_exchange_that_is_connecting_does_not_pay_for_a_silent_child() {
    connects_after_a_silent_child(Chain::http);
}
