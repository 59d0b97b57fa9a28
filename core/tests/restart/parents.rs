//! Parents that die, hang or talk nonsense at every step, played by the test towards a real child.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ouro_restart::message::{
    Abort, CAPABILITY_PARCELS, ConnectionParcel, DrainListenersReply, Error, HelloReply, ListenSocket,
    ListenSocketsReply, Message, ParcelChannel, Refusal, StateReply,
};
use ouro_restart::{Connection, Frame};

use crate::fake::{FakeParent, Peer, listen_as_proxy};
use crate::instance::{Instance, Process, READY};
use crate::load::{Echo, HttpClient, Seen};
use crate::support::{Client, Config, eventually, free_address};

/// What the child asks for, in this order.
const STEPS: [&str; 5] = ["Hello", "ListenSockets", "State", "DrainListeners", "State"];

struct Scene {
    instance: Instance,
    listener: std::net::TcpListener,
    web: std::net::SocketAddr,
    _origin: Echo,
}

impl Scene {
    fn new() -> Self {
        let origin = Echo::http();
        let listener = listen_as_proxy("127.0.0.1:0".parse().unwrap());
        let web = listener.local_addr().unwrap();
        let config = Config::to([origin.addr()]).listener(&format!("address = \"{web}\"")).http();
        Self { instance: Instance::new(&config), listener, web, _origin: origin }
    }

    /// Starts a child, which comes to a parent that the test plays.
    #[track_caller]
    fn meet(&self, epoch: &str) -> (FakeParent, Process, Peer) {
        let parent = FakeParent::new(&self.instance);
        let child = self.instance.spawn(epoch, "");
        let peer = parent.accept();
        (parent, child, peer)
    }

    /// Answers what the child asks for, `steps` times.
    #[track_caller]
    fn serve(&self, parent: &FakeParent, peer: &mut Peer, steps: usize) {
        for step in STEPS.into_iter().take(steps) {
            self.answer(parent, peer, step);
        }
    }

    #[track_caller]
    fn answer(&self, parent: &FakeParent, peer: &mut Peer, step: &str) {
        if step == "DrainListeners" {
            peer.expect("ChildReady");
        }
        let id = peer.expect(step).frame.request_id;
        match step {
            "Hello" => peer.send(id, FakeParent::reply(&self.instance)),
            "ListenSockets" => {
                parent.hand_over(peer, id, vec![(self.described(), self.listener.as_fd())]);
            }
            "State" => peer.send(id, StateReply::default()),
            _ => peer.send(id, DrainListenersReply::default()),
        }
    }

    /// The listening socket as a parent describes it.
    fn described(&self) -> ListenSocket {
        FakeParent::described(self.web)
    }

    fn expect_served(&self) {
        assert_eq!(Client::connect(self.web).get("/x").text(), "/x");
    }

    /// The parent ends, with all that it has. The child serves, and can be replaced.
    #[track_caller]
    fn expect_survived(self, parent: FakeParent, peer: Peer, child: &Process) {
        // A child that has no sockets yet binds them anew.
        let scene = self.without_listener();
        drop((parent, peer));
        child.wait_log(READY);
        scene.expect_served();
        let next = scene.instance.start("auto");
        child.expect_exit(0, "has been replaced");
        scene.expect_served();
        next.stop();
    }

    /// The same without the test's own listening socket, at a free port.
    fn without_listener(self) -> Self {
        let Self { instance, listener, web, _origin } = self;
        drop(listener);
        let unused = std::net::TcpListener::bind(free_address()).unwrap();
        Self { instance, listener: unused, web, _origin }
    }
}

#[test]
fn a_parent_may_say_at_every_step_that_it_goes_on() {
    for steps in 0..=STEPS.len() {
        let scene = Scene::new();
        let (parent, child, mut peer) = scene.meet("auto");
        scene.serve(&parent, &mut peer, steps);
        if steps == STEPS.len() {
            child.wait_log(READY);
        }
        peer.send(0, Abort::new("it has changed its mind"));
        child.expect_exit(1, "it has changed its mind");
    }
}

#[test]
fn a_parent_may_die_at_every_step() {
    for steps in 0..=STEPS.len() {
        let scene = Scene::new();
        let (parent, child, mut peer) = scene.meet("auto");
        scene.serve(&parent, &mut peer, steps);
        scene.expect_survived(parent, peer, &child);
    }
}

#[test]
fn nonsense_from_a_parent_ends_the_attempt_and_nothing_else() {
    // Without an answer to Hello it would simply ask again.
    for steps in 1..=3 {
        let scene = Scene::new();
        let (parent, child, mut peer) = scene.meet("auto");
        scene.serve(&parent, &mut peer, steps);
        peer.send_raw(b"OUR\x01\x05\0\0\0\x02\0\0\0\x02");
        // Somebody still serves: this one.
        let mut probe = parent.accept_after(&child);
        if let Some(probe) = &mut probe {
            let id = probe.expect("Hello").frame.request_id;
            probe.send(id, FakeParent::reply(&scene.instance));
        }
        child.expect_exit(1, "ERROR");
    }
}

#[test]
fn a_parent_that_does_not_fit_is_named() {
    type Change = fn(&mut HelloReply);
    let cases: [(&str, &str, Change); 4] = [
        ("auto", "version 9 of the restart protocol", |reply| reply.protocol = 9),
        ("auto", "base id", |reply| reply.base_id += 1),
        ("3", "offers 5; asked for was 3", |_| {}),
        ("auto", "offers 9; asked for was auto", |reply| reply.child_epoch = 9),
    ];
    for (epoch, text, change) in cases {
        let scene = Scene::new();
        let (_parent, child, mut peer) = scene.meet(epoch);
        let id = peer.expect("Hello").frame.request_id;
        let mut reply = FakeParent::reply(&scene.instance);
        change(&mut reply);
        peer.send(id, reply);
        child.expect_exit(1, text);
        let Some(Message::Abort(abort)) = peer.expect_gone() else { panic!("the parent is not told") };
        assert!(abort.reason.contains(text), "{}", abort.reason);
    }
}

/// Connections of a process that are on their way go through the next one, although that has been replaced already. Whatever
/// stays in the first does not keep it.
#[test]
fn what_still_comes_from_the_process_before_is_waited_for() {
    let scene = Scene::new();
    let parent = FakeParent::new(&scene.instance);
    let child = scene.instance.spawn("auto", "--handover live");
    let mut peer = parent.accept();
    let id = peer.expect("Hello").frame.request_id;
    let mut reply = FakeParent::reply(&scene.instance);
    reply.capabilities.push(CAPABILITY_PARCELS.into());
    peer.send(id, reply);
    STEPS[1..].iter().for_each(|step| scene.answer(&parent, &mut peer, step));
    child.wait_log(READY);
    let next = scene.instance.spawn("auto", "--handover live --log-level debug");
    peer.expect("Superseded");
    // It says so as long as it waits.
    next.wait_log("the old process has 0 connections");
    let (mut ours, theirs) = Connection::pair().unwrap();
    peer.connection.send(&Frame::new(0, ParcelChannel { worker: 0 }), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    // It is there to say that it does not know this one.
    let parcel = ConnectionParcel { id: 1, kind: "other".into(), ..ConnectionParcel::default() };
    ours.send(&Frame::new(0, parcel), &[]).unwrap();
    let mut refused = 0;
    eventually("the parcel is answered", || {
        let _ = ours.wait(100);
        if let Some(received) = ours.receive().unwrap()
            && let Message::ParcelReply(reply) = received.frame.message
        {
            refused = reply.refused.len();
        }
        refused == 1
    });
    assert!(!child.log().contains("has been replaced and ends"), "{}", child.log());
    let closed = Instant::now();
    drop(ours);
    child.expect_exit(0, "has been replaced and ends");
    assert!(closed.elapsed() < Duration::from_secs(5), "it waits for what does not come");
    next.stop();
}

/// Of the same protocol, with everything else that a later version may bring.
#[test]
fn a_parent_of_a_later_version_is_taken_over() {
    let scene = Scene::new();
    let (parent, child, mut peer) = scene.meet("auto");
    let id = peer.expect("Hello").frame.request_id;
    peer.send(
        id,
        HelloReply {
            program_version: "9.0.0".into(),
            protocol_max: 9,
            hot_restart_version: "9.999".into(),
            capabilities: vec!["telepathy".into()],
            ..FakeParent::reply(&scene.instance)
        },
    );
    scene.answer(&parent, &mut peer, "ListenSockets");
    // A kind of message that this version does not know is answered, and changes nothing.
    peer.send_raw(b"OUR\x01\xfe\xff\0\0\x07\0\0\0\0\0\0\0");
    scene.answer(&parent, &mut peer, "State");
    peer.expect("NotUnderstood");
    for step in ["DrainListeners", "State"] {
        scene.answer(&parent, &mut peer, step);
    }
    child.wait_log(READY);
    scene.expect_survived(parent, peer, &child);
}

#[test]
fn a_refusal_is_repeated_in_its_own_words() {
    let scene = Scene::new();
    let parent = FakeParent::new(&scene.instance);
    for refusal in [Refusal::Protocol, Refusal::Epoch, Refusal::Busy, Refusal::Stopping] {
        let child = scene.instance.spawn("auto", "");
        let mut peer = parent.accept();
        let id = peer.expect("Hello").frame.request_id;
        peer.send(id, Error::new(refusal, "not on a Sunday"));
        child.expect_exit(1, "not on a Sunday");
    }
}

#[test]
fn sockets_that_do_not_come_are_missed() {
    let scene = Scene::new();
    let (parent, child, mut peer) = scene.meet("auto");
    scene.answer(&parent, &mut peer, "Hello");
    let id = peer.expect("ListenSockets").frame.request_id;
    let sockets = vec![ListenSocket::default(); 3];
    peer.send(id, ListenSocketsReply { sockets, more: false, next: 3 });
    child.expect_exit(1, "3 listening sockets were announced, but 0 descriptors came");
}

/// Two sockets of different kinds with one address, the wrong one first.
#[test]
fn a_socket_is_known_by_its_kind_and_not_by_its_address_alone() {
    let scene = Scene::new();
    let (parent, child, mut peer) = scene.meet("auto");
    scene.answer(&parent, &mut peer, "Hello");
    let datagrams = std::net::UdpSocket::bind(scene.web).unwrap();
    let udp = ListenSocket { protocol: "udp".into(), socket_type: "datagram".into(), ..scene.described() };
    let other_purpose = ListenSocket { purpose: "weather".into(), ..scene.described() };
    let wrong = [(udp, datagrams.as_fd()), (other_purpose, datagrams.as_fd())];
    let right = (scene.described(), scene.listener.as_fd());
    let id = peer.expect("ListenSockets").frame.request_id;
    parent.hand_over(&mut peer, id, wrong.into_iter().chain([right]).collect());
    for step in ["State", "DrainListeners", "State"] {
        scene.answer(&parent, &mut peer, step);
    }
    child.wait_log(READY);
    scene.expect_survived(parent, peer, &child);
}

#[test]
fn a_socket_that_is_not_what_it_is_said_to_be_ends_the_attempt() {
    let scene = Scene::new();
    let (parent, child, mut peer) = scene.meet("auto");
    scene.answer(&parent, &mut peer, "Hello");
    let datagrams = std::net::UdpSocket::bind(scene.web).unwrap();
    let id = peer.expect("ListenSockets").frame.request_id;
    parent.hand_over(&mut peer, id, vec![(scene.described(), datagrams.as_fd())]);
    scene.answer(&parent, &mut peer, "State");
    child.expect_exit(1, &format!("cannot listen on {}", scene.web));
    let Some(Message::Abort(abort)) = peer.expect_gone() else { panic!("the parent is not told") };
    assert!(abort.reason.contains("cannot listen on"), "{}", abort.reason);
}

#[test]
fn without_a_parent_it_is_the_options_that_decide() {
    let scene = Scene::new().without_listener();
    let begun = Instant::now();
    scene.instance.spawn("3", "").expect_exit(1, "nobody answers to take over from");
    assert!(begun.elapsed().as_secs() < 5);
    let cold = scene.instance.spawn("3", "--skip-hot-restart-on-no-parent");
    cold.wait_log("epoch=3");
    cold.stop();
    let cold = scene.instance.start("auto");
    cold.wait_log("epoch=0");
    cold.stop();
}

#[test]
fn a_socket_file_that_a_killed_process_left_is_no_obstacle() {
    let scene = Scene::new().without_listener();
    let mut process = scene.instance.start("0");
    for epoch in ["0", "auto"] {
        let seen = Seen::default();
        let _open = HttpClient::connect(scene.web, &seen).unwrap();
        process.kill();
        assert_eq!(scene.instance.sockets().len(), 1);
        process = scene.instance.start(epoch);
        scene.expect_served();
        assert_eq!(scene.instance.sockets().len(), 1);
    }
    process.stop();
    assert!(scene.instance.sockets().is_empty());
}

impl FakeParent {
    /// The connection that comes next; `None` where the child ends without asking again.
    fn accept_after(&self, child: &Process) -> Option<Peer> {
        let mut found = None;
        eventually("the child asks again or ends", || {
            found = self.listener().accept().unwrap();
            found.is_some() || !child.is_running()
        });
        found.map(Peer::of)
    }
}

#[test]
fn a_parent_that_hangs_does_not_hold_a_child_for_ever() {
    // Ten seconds each, hence at the same time.
    std::thread::scope(|scope| {
        for (steps, text) in [
            (1, "does not hand over its ListenSockets"),
            (2, "does not hand over its State"),
            (3, "the old process does not acknowledge; this one serves without"),
            (4, "the old process does not hand over its last state"),
        ] {
            scope.spawn(move || {
                let scene = Scene::new();
                let (parent, child, mut peer) = scene.meet("auto");
                scene.serve(&parent, &mut peer, steps);
                if steps < 3 {
                    child.expect_exit(1, text);
                } else {
                    child.wait_log(text);
                    child.wait_log(READY);
                    scene.expect_served();
                    scene.expect_survived(parent, peer, &child);
                }
            });
        }
    });
}
