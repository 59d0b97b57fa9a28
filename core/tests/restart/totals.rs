//! Processes that do not share a segment: what was counted goes over the restart socket, once.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use ouro_restart::message::{
    DrainListenersReply, HandoverDone, Message, StateReply, Terminated, Totals, TotalsReply,
};

use crate::fake::{FakeParent, Peer, hello};
use crate::instance::{Process, READY};
use crate::site::{Site, let_go, listener};
use crate::support::eventually;
use crate::support::stats::{Stats, expect, expect_nothing_active};

/// Where the header of a segment has the version of its layout.
const LAYOUT_VERSION_AT: u64 = 8;

fn segment(site: &Site) -> PathBuf {
    PathBuf::from(format!("/dev/shm/ouro_{}", site.instance.base_id().0))
}

/// The segment looks like one of another version of the program: nobody who comes can use it.
fn age(site: &Site) {
    let file = std::fs::OpenOptions::new().write(true).open(segment(site)).unwrap();
    file.write_all_at(&999_u64.to_le_bytes(), LAYOUT_VERSION_AT).unwrap();
}

/// So many requests on so many connections, of all generations together, and nothing that is left.
#[track_caller]
fn expect_counted(site: &Site, connections: u64, requests: u64) {
    assert_eq!(site.origin.requests(), requests);
    expect(
        site.instance.base_id(),
        &[
            ("listener.web.downstream_cx_total", connections),
            ("listener.web.downstream_cx_destroy", connections),
            ("http.web.downstream_rq_total", requests),
            ("http.web.downstream_rq_2xx", requests),
            ("cluster.origin.upstream_rq_200", requests),
            ("cluster.origin.upstream_cx_total", site.origin.connections()),
        ],
    );
    let stats = Stats::of(site.instance.base_id());
    assert_eq!(stats.count("http.web.downstream_rq_time"), requests);
    expect_nothing_active(site.instance.base_id());
    let left = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let ours = format!("ouro_{}.", site.instance.base_id().0);
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.starts_with(&ours)), "{left:?}");
}

#[test]
fn a_segment_of_another_layout_is_followed_by_one_that_goes_on() {
    let site = Site::new();
    let mut process = site.instance.start("0");
    let (mut connections, mut requests) = (0, 0);
    for _ in 0..3 {
        site.ask(5);
        let idle = site.idle();
        age(&site);
        let next = site.instance.start("auto");
        next.wait_log("its counters are in another segment");
        // Nothing goes backwards, and what the old process still counts comes in the end.
        assert!(
            Stats::of(site.instance.base_id()).get("http.web.downstream_rq_total") >= requests + 6,
            "what was counted before the restart is not there"
        );
        site.ask(2);
        let_go(idle, &process);
        connections += 8;
        requests += 9;
        expect_counted(&site, connections, requests);
        process = next;
    }
    // The next one finds a segment that it knows.
    let next = site.instance.start("auto");
    process.expect_exit(0, "has been replaced");
    site.ask(1);
    expect_counted(&site, connections + 1, requests + 1);
    assert_eq!(Stats::of(site.instance.base_id()).0.generations, 5);
    next.stop();
}

#[test]
fn a_child_that_fails_leaves_the_segment_as_it_was() {
    let site = Site::new();
    let parent = site.instance.start("0");
    site.ask(3);
    age(&site);
    let before = std::fs::metadata(segment(&site)).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    site.configure(&listener("extra", taken.local_addr().unwrap()));
    site.instance.spawn("auto", "").expect_exit(1, "another process has it");
    let after = std::fs::metadata(segment(&site)).unwrap();
    assert_eq!((before.ino(), before.nlink()), (after.ino(), after.nlink()));
    site.ask(1);
    drop(taken);
    let next = site.instance.start("auto");
    parent.expect_exit(0, "has been replaced");
    site.ask(1);
    expect_counted(&site, 5, 5);
    next.stop();
}

#[test]
fn what_the_parent_has_counted_survives_a_child_that_is_killed() {
    let site = Site::new();
    let parent = site.instance.start("0");
    site.ask(3);
    age(&site);
    // Keeps the parent.
    let idle = site.idle();
    let child = site.instance.start("auto");
    child.kill();
    parent.wait_log("serves again");
    site.ask(2);
    let next = site.instance.start("auto");
    let_go(idle, &parent);
    site.ask(1);
    expect_counted(&site, 7, 8);
    next.stop();
}

#[test]
fn what_killed_children_have_counted_in_segments_of_their_own_survives_too() {
    let site = Site::new();
    let parent = site.instance.start("0");
    site.ask(3);
    age(&site);
    // Keeps the parent.
    let idle = site.idle();
    let mut counted = 3_u64;
    for _ in 0..2 {
        let child = site.instance.start("auto");
        site.ask(4);
        counted += 4;
        // What it had not counted yet would be missing for another reason.
        expect(site.instance.base_id(), &[("listener.web.downstream_cx_destroy", counted)]);
        child.kill();
        parent.wait_log_times("this process serves again", counted as usize / 5);
        site.ask(1);
        counted += 1;
    }
    let next = site.instance.start("auto");
    site.ask(1);
    let_go(idle, &parent);
    expect_counted(&site, counted + 2, counted + 3);
    next.stop();
}

#[test]
fn a_process_in_the_middle_waits_for_the_last_totals_of_the_one_before() {
    for ages in [[true, false], [false, true], [true, true]] {
        let site = Site::new();
        let oldest = site.instance.start("0");
        let idle = site.idle();
        if ages[0] {
            age(&site);
        }
        let middle = site.instance.start("auto");
        site.ask(1);
        if ages[1] {
            age(&site);
        }
        let newest = site.instance.start("auto");
        site.ask(1);
        std::thread::park_timeout(crate::support::QUIET);
        assert!(middle.is_running(), "{ages:?}: it has not waited");
        let_go(idle, &oldest);
        middle.expect_exit(0, "has been replaced");
        expect_counted(&site, 3, 4);
        newest.stop();
    }
}

/// The newest process cannot be seen in the segment of the oldest one, to which nobody speaks any more.
#[test]
fn an_old_process_that_nobody_speaks_to_goes_on_and_is_counted() {
    for options in ["", "--skip-hot-restart-parent-stats"] {
        let site = Site::new();
        let oldest = site.instance.start("0");
        let idle = site.idle();
        let middle = site.instance.start("auto");
        let third = site.instance.start("auto");
        middle.expect_exit(0, "has been replaced");
        oldest.wait_log("itself replaced, has ended");
        site.ask(1);
        age(&site);
        let newest = site.instance.spawn("auto", options);
        newest.wait_log(READY);
        if !options.is_empty() {
            third.expect_exit(0, "has been replaced");
        }
        // Longer than it takes to see that the instance has been stopped.
        std::thread::park_timeout(crate::support::QUIET * 3);
        let_go(idle, &oldest);
        if options.is_empty() {
            third.expect_exit(0, "has been replaced");
            expect_counted(&site, 2, 3);
        }
        newest.stop();
    }
}

/// Everything that a process has counted, asked for piece by piece.
#[track_caller]
fn totals_of(peer: &mut Peer) -> Vec<TotalsReply> {
    let mut replies = Vec::new();
    let mut cursor = 0;
    loop {
        peer.request(Totals { cursor });
        let Message::TotalsReply(reply) = peer.expect("TotalsReply").frame.message else { unreachable!() };
        let (more, next) = (reply.more, reply.next);
        replies.push(reply);
        if !more {
            return replies;
        }
        cursor = next;
    }
}

/// Answers a request for listening sockets: there is the restart socket, and nothing else.
#[track_caller]
fn hand_over_sockets(parent: &FakeParent, peer: &mut Peer) {
    let id = peer.expect("ListenSockets").frame.request_id;
    parent.hand_over(peer, id, Vec::new());
}

/// A child takes over from a parent of another layout that is played by the test; these are its totals.
#[track_caller]
fn take_over_from_fake(site: &Site, first: &[TotalsReply], last: &[TotalsReply], options: &str) -> Process {
    let parent = FakeParent::new(&site.instance);
    let child = site.instance.spawn("auto", options);
    let mut peer = parent.accept();
    let wants_totals = options.is_empty();
    let answer = |peer: &mut Peer, name: &str, message: Message| {
        let id = peer.expect(name).frame.request_id;
        peer.send(id, message);
    };
    let mut reply = FakeParent::reply(&site.instance);
    (reply.layout_version, reply.segment_id) = (999, 4711);
    answer(&mut peer, "Hello", reply.into());
    hand_over_sockets(&parent, &mut peer);
    answer(&mut peer, "State", StateReply::default().into());
    for reply in first.iter().filter(|_| wants_totals) {
        answer(&mut peer, "Totals", reply.clone().into());
    }
    peer.expect("ChildReady");
    answer(&mut peer, "DrainListeners", DrainListenersReply::default().into());
    answer(&mut peer, "State", StateReply::default().into());
    child.wait_log(READY);
    peer.send(0, HandoverDone { moved: 0, cut: 0 });
    for reply in last.iter().filter(|_| wants_totals) {
        answer(&mut peer, "Totals", reply.clone().into());
    }
    peer.expect("TerminateParent");
    peer.send(0, Terminated { cut: 0 });
    drop(parent);
    child
}

#[test]
fn totals_are_read_from_a_process_of_another_layout() {
    let counted = Site::new();
    let process = counted.instance.start("0");
    counted.ask(3);
    expect(counted.instance.base_id(), &[("listener.web.downstream_cx_destroy", 3)]);
    let mut peer = Peer::child(&counted.instance);
    peer.request(ouro_restart::message::Hello { layout_version: 999, ..hello(&counted.instance) });
    peer.expect("HelloReply");
    let first = totals_of(&mut peer);
    counted.ask(2);
    expect(counted.instance.base_id(), &[("listener.web.downstream_cx_destroy", 5)]);
    let last = totals_of(&mut peer);
    drop(peer);
    process.stop();

    for (options, expected) in [("", 5), ("--skip-hot-restart-parent-stats", 0)] {
        let site = Site::new();
        let child = take_over_from_fake(&site, &first, &last, options);
        expect(
            site.instance.base_id(),
            &[("listener.web.downstream_cx_total", expected), ("http.web.downstream_rq_2xx", expected)],
        );
        site.ask(1);
        expect(site.instance.base_id(), &[("listener.web.downstream_cx_destroy", expected + 1)]);
        child.stop();
    }
}

/// A child of the test's own parent, which has got everything up to the totals.
#[track_caller]
fn asks_for_totals(site: &Site) -> (FakeParent, Peer, Process) {
    let parent = FakeParent::new(&site.instance);
    let child = site.instance.spawn("auto", "");
    let mut peer = parent.accept();
    let mut reply = FakeParent::reply(&site.instance);
    reply.segment_id = 4711;
    let id = peer.expect("Hello").frame.request_id;
    peer.send(id, reply);
    hand_over_sockets(&parent, &mut peer);
    let id = peer.expect("State").frame.request_id;
    peer.send(id, StateReply::default());
    (parent, peer, child)
}

#[test]
fn totals_that_do_not_come_are_not_waited_for() {
    let site = Site::new();
    let (_parent, mut peer, child) = asks_for_totals(&site);
    peer.expect("Totals");
    child.expect_exit(1, "does not hand over its Totals");
    assert!(!segment(&site).exists());
}

#[test]
fn thousands_of_counters_go_over_in_pieces() {
    let site = Site::new();
    let clusters: String = (0..1_500)
        .map(|n| format!("[[clusters]]\nname = \"cluster-{n}\"\nendpoints = [\"127.0.0.1:1\"]\n"))
        .collect();
    site.configure(&clusters);
    let parent = site.instance.start("0");
    site.ask(3);
    let mut peer = Peer::child(&site.instance);
    peer.request(hello(&site.instance));
    peer.expect("HelloReply");
    let pieces = totals_of(&mut peer).len();
    assert!(pieces > 5, "{pieces} pieces");
    drop(peer);
    parent.wait_log("failed before it took over");
    age(&site);
    let next = site.instance.start("auto");
    parent.expect_exit(0, "has been replaced");
    site.ask(1);
    expect_counted(&site, 4, 4);
    next.stop();
}

#[test]
fn totals_that_are_broken_end_the_attempt_and_nothing_else() {
    let site = Site::new();
    let (_parent, mut peer, child) = asks_for_totals(&site);
    let id = peer.expect("Totals").frame.request_id;
    let broken = ouro_restart::Blob { name: "scope/1".into(), bytes: vec![0xff; 100] };
    peer.send(id, ouro_restart::totals_reply(&[broken], 0));
    child.expect_exit(1, "the totals of the process before are broken");
    eventually("nothing is left", || !segment(&site).exists());
}
