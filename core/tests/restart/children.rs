//! Children that die, hang or talk nonsense at every step, played by the test towards a real parent.

use std::os::fd::{AsFd, AsRawFd};

use ouro_restart::message::{Abort, Message, TerminateParent};

use crate::fake::{Peer, Step, hello};
use crate::load::{HttpClient, Seen};
use crate::site::{Loaded, Site};
use crate::support::TempDir;

#[test]
fn a_child_may_die_at_every_step_before_the_commit() {
    let scene = Loaded::new();
    for step in Step::BEFORE_COMMIT {
        let mut child = Peer::child(&scene.site.instance);
        child.go_to(&scene.site.instance, step);
        scene.load.flow(10);
        drop(child);
        scene.load.flow(10);
    }
    scene.parent.wait_log_times("failed before it took over", Step::BEFORE_COMMIT.len() - 1);
    scene.end_well();
}

#[test]
fn a_child_may_die_after_the_commit() {
    let scene = Loaded::new();
    for (n, step) in Step::AFTER_COMMIT.into_iter().enumerate() {
        let mut child = Peer::child(&scene.site.instance);
        child.go_to(&scene.site.instance, step);
        drop(child);
        scene.parent.wait_log_times("this process serves again", n + 1);
        scene.load.flow(10);
    }
    scene.end_well();
}

#[test]
fn a_child_may_say_at_every_step_that_it_fails() {
    let scene = Loaded::new();
    for step in Step::BEFORE_COMMIT.into_iter().chain(Step::AFTER_COMMIT) {
        let mut child = Peer::child(&scene.site.instance);
        child.go_to(&scene.site.instance, step);
        child.send(0, Abort::new(format!("the moon is full after {step:?}")));
        child.expect_gone();
        if step != Step::Connected {
            scene.parent.wait_log(&format!("the moon is full after {step:?}"));
        }
        scene.load.flow(10);
    }
    scene.end_well();
}

#[test]
fn nonsense_at_every_step_does_no_harm() {
    let scene = Loaded::new();
    let mut long = b"OUR\x01\x05\0\0\0\x01\0\0\0\xff\xff\x01\0".to_vec();
    long.resize(70_000, 7);
    let cases: [(&str, &[u8]); 5] = [
        ("garbage", b"GET / HTTP/1.1\r\n\r\n"),
        ("half a frame", b"OUR\x01\x05\0\0\0\x02\0\0\0\x02"),
        ("a frame without its body", b"OUR\x01\x05\0\0\0\x02\0\0\0\x02\0\0\0"),
        ("another header version", b"OUR\x09\x05\0\0\0\x02\0\0\0\0\0\0\0"),
        ("a frame that is too long", &long),
    ];
    for step in Step::BEFORE_COMMIT.into_iter().chain(Step::AFTER_COMMIT) {
        for (what, bytes) in cases {
            let mut child = Peer::child(&scene.site.instance);
            child.go_to(&scene.site.instance, step);
            child.send_raw(bytes);
            child.expect_gone();
            assert!(scene.parent.is_running(), "{what} after {step:?}");
        }
        scene.load.flow(5);
    }
    scene.end_well();
}

#[test]
fn descriptors_and_unknown_messages_do_no_harm() {
    let scene = Loaded::new();
    scene.load.flow(50);
    let (before, _) = scene.parent.size();
    for step in Step::BEFORE_COMMIT.into_iter().chain(Step::AFTER_COMMIT) {
        let mut child = Peer::child(&scene.site.instance);
        child.go_to(&scene.site.instance, step);
        // A kind that a later version may have is answered, and the restart goes on.
        child.send_raw(b"OUR\x01\xfe\xff\0\0\x07\0\0\0\0\0\0\0");
        child.expect("NotUnderstood");
        // Descriptors that nobody has asked for, as many as the kernel takes.
        let pipe = nix::unistd::pipe().unwrap();
        let fds = vec![pipe.0.as_raw_fd(); 253];
        let bytes = ouro_restart::Frame::new(9, ouro_restart::message::Ping {}).encode().unwrap();
        nix::sys::socket::sendmsg::<()>(
            child.connection.as_fd().as_raw_fd(),
            &[std::io::IoSlice::new(&bytes)],
            &[nix::sys::socket::ControlMessage::ScmRights(&fds)],
            nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .unwrap();
        child.expect_gone();
        scene.load.flow(5);
    }
    let (after, _) = scene.parent.size();
    assert!(after < before + 30, "{before} descriptors became {after}");
    scene.end_well();
}

#[test]
fn a_child_that_floods_is_dropped() {
    let scene = Loaded::new();
    let mut child = Peer::child(&scene.site.instance);
    child.go_to(&scene.site.instance, Step::Hello);
    let (_, before_kib) = scene.parent.size();
    let frame = b"OUR\x01\xfe\xff\0\0\x07\0\0\0\0\0\0\0";
    let fd = child.connection.as_fd().as_raw_fd();
    let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
    // Reads nothing; sooner or later there is nobody at the other end.
    for _ in 0..100_000 {
        match nix::sys::socket::send(fd, frame, flags) {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => std::thread::yield_now(),
            Err(_) => break,
        }
    }
    child.expect_gone();
    let (_, after_kib) = scene.parent.size();
    assert!(after_kib < before_kib + 16 * 1024, "{before_kib} KiB became {after_kib} KiB");
    scene.end_well();
}

#[test]
fn a_child_that_does_not_fit_is_told_why() {
    let scene = Loaded::new();
    let refused = |change: &dyn Fn(&mut ouro_restart::message::Hello)| {
        let mut child = Peer::child(&scene.site.instance);
        let mut hello = hello(&scene.site.instance);
        change(&mut hello);
        child.request(hello);
        let Some(Message::Error(error)) = child.expect_gone() else { panic!("no error") };
        error.text
    };
    assert!(refused(&|hello| hello.base_id += 1).contains("base id"));
    assert!(refused(&|hello| hello.epoch = Some(7)).contains("1 is next, not 7"));
    let text = refused(&|hello| (hello.protocol_min, hello.protocol_max) = (8, 9));
    assert!(text.contains("speaks 8 to 9"), "{text}");
    scene.end_well();
}

/// Of the same protocol, with everything else that a later version may bring.
#[test]
fn a_child_of_a_later_version_takes_over() {
    let scene = Loaded::new();
    let mut child = Peer::child(&scene.site.instance);
    child.request(ouro_restart::message::Hello {
        program_version: "9.0.0".into(),
        protocol_max: 9,
        layout_version: 999,
        hot_restart_version: "9.999".into(),
        capabilities: vec!["telepathy".into()],
        ..hello(&scene.site.instance)
    });
    let Message::HelloReply(reply) = child.expect("HelloReply").frame.message else { unreachable!() };
    assert_eq!((reply.protocol, reply.child_epoch), (1, 1));
    child.go_on_to(Step::LastState);
    drop(child);
    scene.parent.wait_log("this process serves again");
    scene.end_well();
}

#[test]
fn what_waits_in_the_queue_is_the_childs_when_the_parent_ends() {
    let Site { instance, web, origin: _origin } = Site::new();
    let parent = instance.start("0");
    let mut child = Peer::child(&instance);
    let sockets = child.go_to(&instance, Step::Committed);
    // Nobody accepts them: this child does nothing.
    let seen = Seen::default();
    let waiting: Vec<_> = (0..5).map(|_| HttpClient::connect(web, &seen).unwrap()).collect();
    child.expect("HandoverDone");
    child.request(TerminateParent {});
    child.expect_gone();
    parent.expect_exit(0, "has been replaced");
    let listener = sockets
        .into_iter()
        .flat_map(|(_, received)| received.fds)
        .map(std::net::TcpListener::from)
        .find(|listener| listener.local_addr().is_ok_and(|address| address == web))
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    for _ in &waiting {
        listener.accept().expect("a connection that waits");
    }
}

#[test]
fn another_process_of_the_same_base_id_is_seen() {
    let scene = Loaded::new();
    let second = scene.site.instance.spawn("0", "");
    second.expect_exit(1, "another process with this base id is running");
    scene.end_well();
}

#[test]
fn a_restart_socket_is_no_place_for_files() {
    let scene = Loaded::new();
    // Another socket path, the same base id: an instance that nobody will find from the first.
    let dir = TempDir::new();
    std::fs::write(dir.path().join(format!("x-{}.sock", scene.site.instance.base_id().0)), "precious")
        .unwrap();
    let path = dir.path().join("x");
    let second = scene.site.instance.spawn("0", &format!("--socket-path {}", path.display()));
    second.expect_exit(1, "there is a file that is no socket");
    let kept = dir.path().join(format!("x-{}.sock", scene.site.instance.base_id().0));
    assert_eq!(std::fs::read(kept).unwrap(), b"precious");
    scene.end_well();
}
