//! Processes that do not share a segment: what was counted goes over the restart socket, once.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use ouro_restart::Frame;
use ouro_restart::message::{
    DrainListenersReply, HandoverDone, ListenSocket, ListenSocketsReply, Message, StateReply, Terminated,
    Totals, TotalsReply,
};

use crate::fake::{FakeParent, Peer, hello};
use crate::instance::{Instance, Process, READY};
use crate::load::Echo;
use crate::support::stats::{Stats, expect, expect_nothing_active};
use crate::support::{Client, Config, eventually, free_address};

/// Where the header of a segment has the version of its layout.
const LAYOUT_VERSION_AT: u64 = 8;

struct Scene {
    instance: Instance,
    web: std::net::SocketAddr,
    origin: Echo,
}

impl Scene {
    fn new() -> Self {
        let origin = Echo::http();
        let web = free_address();
        let config = Config::to([origin.addr()]).listener(&format!("address = \"{web}\"")).http();
        Self { instance: Instance::new(&config), web, origin }
    }

    fn segment(&self) -> PathBuf {
        PathBuf::from(format!("/dev/shm/ouro_{}", self.instance.base_id().0))
    }

    /// The segment looks like one of another version of the program: nobody who comes can use it.
    fn age(&self) {
        let file = std::fs::OpenOptions::new().write(true).open(self.segment()).unwrap();
        file.write_all_at(&999_u64.to_le_bytes(), LAYOUT_VERSION_AT).unwrap();
    }

    fn ask(&self, times: u64) {
        for _ in 0..times {
            assert_eq!(Client::connect(self.web).get("/x").text(), "/x");
        }
    }

    /// So many requests on so many connections, of all generations together, and nothing that is left.
    #[track_caller]
    fn expect_counted(&self, connections: u64, requests: u64) {
        assert_eq!(self.origin.requests(), requests);
        expect(
            self.instance.base_id(),
            &[
                ("listener.web.downstream_cx_total", connections),
                ("listener.web.downstream_cx_destroy", connections),
                ("http.web.downstream_rq_total", requests),
                ("http.web.downstream_rq_2xx", requests),
                ("cluster.origin.upstream_rq_200", requests),
                ("cluster.origin.upstream_cx_total", self.origin.connections()),
            ],
        );
        let stats = Stats::of(self.instance.base_id());
        assert_eq!(stats.count("http.web.downstream_rq_time"), requests);
        expect_nothing_active(self.instance.base_id());
        let left = std::fs::read_dir("/dev/shm").unwrap().flatten();
        let ours = format!("ouro_{}.", self.instance.base_id().0);
        let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert!(left.iter().all(|name| !name.starts_with(&ours)), "{left:?}");
    }
}

#[test]
fn a_segment_of_another_layout_is_followed_by_one_that_goes_on() {
    let scene = Scene::new();
    let mut process = scene.instance.start("0");
    let (mut connections, mut requests) = (0, 0);
    for _ in 0..3 {
        scene.ask(5);
        let mut idle = Client::connect(scene.web);
        idle.get("/x");
        scene.age();
        let next = scene.instance.start("auto");
        next.wait_log("its counters are in another segment");
        // Nothing goes backwards, and what the old process still counts comes in the end.
        assert!(
            Stats::of(scene.instance.base_id()).get("http.web.downstream_rq_total") >= requests + 6,
            "what was counted before the restart is not there"
        );
        scene.ask(2);
        idle.get("/last");
        idle.expect_eof();
        drop(idle);
        process.expect_exit(0, "has been replaced");
        connections += 8;
        requests += 9;
        scene.expect_counted(connections, requests);
        process = next;
    }
    // The next one finds a segment that it knows.
    let next = scene.instance.start("auto");
    process.expect_exit(0, "has been replaced");
    scene.ask(1);
    scene.expect_counted(connections + 1, requests + 1);
    assert_eq!(Stats::of(scene.instance.base_id()).0.generations, 5);
    next.stop();
}

#[test]
fn a_child_that_fails_leaves_the_segment_as_it_was() {
    let scene = Scene::new();
    let parent = scene.instance.start("0");
    scene.ask(3);
    scene.age();
    let before = std::fs::metadata(scene.segment()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let extra = format!(
        "[[listeners]]\nname = \"extra\"\naddress = \"{}\"\nprotocol = \"tcp\"\ncluster = \"origin\"\n",
        taken.local_addr().unwrap()
    );
    let config =
        Config::to([scene.origin.addr()]).listener(&format!("address = \"{}\"", scene.web)).extra(&extra);
    scene.instance.configure(&config.http());
    scene.instance.spawn("auto", "").expect_exit(1, "another process has it");
    let after = std::fs::metadata(scene.segment()).unwrap();
    assert_eq!((before.ino(), before.nlink()), (after.ino(), after.nlink()));
    scene.ask(1);
    drop(taken);
    let next = scene.instance.start("auto");
    parent.expect_exit(0, "has been replaced");
    scene.ask(1);
    scene.expect_counted(5, 5);
    next.stop();
}

#[test]
fn what_the_parent_has_counted_survives_a_child_that_is_killed() {
    let scene = Scene::new();
    let parent = scene.instance.start("0");
    scene.ask(3);
    scene.age();
    // Keeps the parent.
    let mut idle = Client::connect(scene.web);
    idle.get("/x");
    let child = scene.instance.start("auto");
    child.kill();
    parent.wait_log("serves again");
    scene.ask(2);
    let next = scene.instance.start("auto");
    idle.get("/last");
    idle.expect_eof();
    drop(idle);
    parent.expect_exit(0, "has been replaced");
    scene.ask(1);
    scene.expect_counted(7, 8);
    next.stop();
}

#[test]
fn what_killed_children_have_counted_in_segments_of_their_own_survives_too() {
    let scene = Scene::new();
    let parent = scene.instance.start("0");
    scene.ask(3);
    scene.age();
    // Keeps the parent.
    let mut idle = Client::connect(scene.web);
    idle.get("/x");
    let mut counted = 3_u64;
    for _ in 0..2 {
        let child = scene.instance.start("auto");
        scene.ask(4);
        counted += 4;
        // What it had not counted yet would be missing for another reason.
        expect(scene.instance.base_id(), &[("listener.web.downstream_cx_destroy", counted)]);
        child.kill();
        parent.wait_log_times("this process serves again", counted as usize / 5);
        scene.ask(1);
        counted += 1;
    }
    let next = scene.instance.start("auto");
    scene.ask(1);
    idle.get("/last");
    idle.expect_eof();
    drop(idle);
    parent.expect_exit(0, "has been replaced");
    scene.expect_counted(counted + 2, counted + 3);
    next.stop();
}

#[test]
fn a_process_in_the_middle_waits_for_the_last_totals_of_the_one_before() {
    for ages in [[true, false], [false, true], [true, true]] {
        let scene = Scene::new();
        let oldest = scene.instance.start("0");
        let mut idle = Client::connect(scene.web);
        idle.get("/x");
        if ages[0] {
            scene.age();
        }
        let middle = scene.instance.start("auto");
        scene.ask(1);
        if ages[1] {
            scene.age();
        }
        let newest = scene.instance.start("auto");
        scene.ask(1);
        std::thread::park_timeout(crate::support::QUIET);
        assert!(middle.is_running(), "{ages:?}: it has not waited");
        idle.get("/last");
        idle.expect_eof();
        drop(idle);
        oldest.expect_exit(0, "has been replaced");
        middle.expect_exit(0, "has been replaced");
        scene.expect_counted(3, 4);
        newest.stop();
    }
}

/// The newest process cannot be seen in the segment of the oldest one, to which nobody speaks any more.
#[test]
fn an_old_process_that_nobody_speaks_to_goes_on_and_is_counted() {
    for options in ["", "--skip-hot-restart-parent-stats"] {
        let scene = Scene::new();
        let oldest = scene.instance.start("0");
        let mut idle = Client::connect(scene.web);
        idle.get("/x");
        let middle = scene.instance.start("auto");
        let third = scene.instance.start("auto");
        middle.expect_exit(0, "has been replaced");
        oldest.wait_log("itself replaced, has ended");
        scene.ask(1);
        scene.age();
        let newest = scene.instance.spawn("auto", options);
        newest.wait_log(READY);
        if !options.is_empty() {
            third.expect_exit(0, "has been replaced");
        }
        // Longer than it takes to see that the instance has been stopped.
        std::thread::park_timeout(crate::support::QUIET * 3);
        assert_eq!(idle.get("/last").text(), "/last", "{options}");
        idle.expect_eof();
        drop(idle);
        oldest.expect_exit(0, "has been replaced");
        if options.is_empty() {
            third.expect_exit(0, "has been replaced");
            scene.expect_counted(2, 3);
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
    let restart = ListenSocket { purpose: "restart".into(), ..ListenSocket::default() };
    let reply = ListenSocketsReply { sockets: vec![restart], more: false, next: 1 };
    peer.connection.send(&Frame::new(id, reply), &[parent.listener().as_fd()]).unwrap();
}

/// A child takes over from a parent of another layout that is played by the test; these are its totals.
#[track_caller]
fn take_over_from_fake(scene: &Scene, first: &[TotalsReply], last: &[TotalsReply], options: &str) -> Process {
    let parent = FakeParent::new(&scene.instance);
    let child = scene.instance.spawn("auto", options);
    let mut peer = parent.accept();
    let wants_totals = options.is_empty();
    let answer = |peer: &mut Peer, name: &str, message: Message| {
        let id = peer.expect(name).frame.request_id;
        peer.send(id, message);
    };
    let mut reply = FakeParent::reply(&scene.instance);
    (reply.layout_version, reply.segment_id) = (999, 4711);
    answer(&mut peer, "Hello", reply.into());
    hand_over_sockets(&parent, &mut peer);
    answer(&mut peer, "State", StateReply::default().into());
    for reply in first.iter().filter(|_| wants_totals) {
        answer(&mut peer, "Totals", reply.clone().into());
    }
    peer.expect("ChildReady");
    answer(&mut peer, "DrainListeners", DrainListenersReply { connections: 0 }.into());
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
    let counted = Scene::new();
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
        let scene = Scene::new();
        let child = take_over_from_fake(&scene, &first, &last, options);
        expect(
            scene.instance.base_id(),
            &[("listener.web.downstream_cx_total", expected), ("http.web.downstream_rq_2xx", expected)],
        );
        scene.ask(1);
        expect(scene.instance.base_id(), &[("listener.web.downstream_cx_destroy", expected + 1)]);
        child.stop();
    }
}

/// A child of the test's own parent, which has got everything up to the totals.
#[track_caller]
fn asks_for_totals(scene: &Scene) -> (FakeParent, Peer, Process) {
    let parent = FakeParent::new(&scene.instance);
    let child = scene.instance.spawn("auto", "");
    let mut peer = parent.accept();
    let mut reply = FakeParent::reply(&scene.instance);
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
    let scene = Scene::new();
    let (_parent, mut peer, child) = asks_for_totals(&scene);
    peer.expect("Totals");
    child.expect_exit(1, "does not hand over its Totals");
    assert!(!scene.segment().exists());
}

#[test]
fn thousands_of_counters_go_over_in_pieces() {
    let scene = Scene::new();
    let clusters: String = (0..1_500)
        .map(|n| format!("[[clusters]]\nname = \"cluster-{n}\"\nendpoints = [\"127.0.0.1:1\"]\n"))
        .collect();
    let config = Config::to([scene.origin.addr()]).listener(&format!("address = \"{}\"", scene.web));
    scene.instance.configure(&config.extra(&clusters).http());
    let parent = scene.instance.start("0");
    scene.ask(3);
    let mut peer = Peer::child(&scene.instance);
    peer.request(hello(&scene.instance));
    peer.expect("HelloReply");
    let pieces = totals_of(&mut peer).len();
    assert!(pieces > 5, "{pieces} pieces");
    drop(peer);
    parent.wait_log("failed before it took over");
    scene.age();
    let next = scene.instance.start("auto");
    parent.expect_exit(0, "has been replaced");
    scene.ask(1);
    scene.expect_counted(4, 4);
    next.stop();
}

#[test]
fn totals_that_are_broken_end_the_attempt_and_nothing_else() {
    let scene = Scene::new();
    let (_parent, mut peer, child) = asks_for_totals(&scene);
    let id = peer.expect("Totals").frame.request_id;
    let broken = ouro_restart::Blob { name: "scope/1".into(), bytes: vec![0xff; 100] };
    peer.send(id, ouro_restart::totals_reply(&[broken], 0));
    child.expect_exit(1, "the totals of the process before are broken");
    eventually("nothing is left", || !scene.segment().exists());
}
