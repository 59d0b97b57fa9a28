//! Three generations, of which some are killed or stopped.

use nix::sys::signal::Signal;

use crate::instance::Process;
use crate::site::{Site, let_go};
use crate::support::{Client, eventually, free_address};

/// Starts the next process, and a client that keeps it.
#[track_caller]
fn next(site: &Site) -> (Process, Client) {
    (site.instance.start("auto"), site.idle())
}

#[test]
fn each_gets_the_service_back_from_the_one_after_it() {
    let site = Site::new();
    let (first, mut first_idle) = next(&site);
    let (second, _second_idle) = next(&site);
    let (third, _third_idle) = next(&site);
    first.wait_log("has been replaced by restart epoch 2");
    third.kill();
    second.wait_log("this process serves again");
    first.wait_log("serves again, because the next one failed");
    site.expect_served();
    second.kill();
    first.wait_log("this process serves again");
    site.expect_served();
    assert_eq!(first_idle.get("/again").text(), "/again");
    assert!(site.instance.live() == [first.pid()]);
    // The first is a parent like any other.
    let last = site.instance.start("1");
    site.expect_served();
    assert_eq!(first_idle.get("/last").text(), "/last");
    drop(first_idle);
    first.expect_exit(0, "has been replaced");
    last.stop();
    assert!(site.instance.sockets().is_empty());
}

#[test]
fn the_one_in_the_middle_may_be_killed() {
    let site = Site::new();
    let (first, first_idle) = next(&site);
    let (second, second_idle) = next(&site);
    let (third, mut third_idle) = next(&site);
    second.kill();
    first.wait_log("itself replaced, has ended");
    third.wait_log("the old process has ended");
    drop(second_idle);
    site.expect_served();
    assert_eq!(third_idle.get("/again").text(), "/again");
    drop(first_idle);
    first.expect_exit(0, "has been replaced");
    let last = site.instance.start("3");
    site.expect_served();
    assert_eq!(third_idle.get("/last").text(), "/last");
    drop(third_idle);
    third.expect_exit(0, "has been replaced");
    last.stop();
}

#[test]
fn a_child_in_the_chain_dies_before_its_commit() {
    let site = Site::new();
    let (first, mut first_idle) = next(&site);
    let (second, _second_idle) = next(&site);
    let mut third = crate::fake::Peer::child(&site.instance);
    third.request(ouro_restart::message::Hello { epoch: Some(2), ..crate::fake::hello(&site.instance) });
    third.expect("HelloReply");
    // Now the one that it takes over from, and the attempt with it.
    second.kill();
    first.wait_log("this process serves again");
    site.expect_served();
    drop(third);
    let last = site.instance.start("auto");
    assert_eq!(first_idle.get("/last").text(), "/last");
    drop(first_idle);
    first.expect_exit(0, "has been replaced");
    last.stop();
}

#[test]
fn stopping_the_newest_reaches_an_old_process_that_nobody_speaks_to() {
    for killed in [false, true] {
        let site = Site::new();
        let (first, mut first_idle) = next(&site);
        let (second, second_idle) = next(&site);
        let (third, mut third_idle) = next(&site);
        if killed {
            second.kill();
        } else {
            let_go(second_idle, &second);
        }
        first.wait_log("itself replaced, has ended");
        third.signal(Signal::SIGTERM);
        third_idle.expect_eof();
        drop(third_idle);
        third.expect_exit(0, "stopped");
        first_idle.expect_eof();
        drop(first_idle);
        first.expect_exit(0, "stopped");
    }
}

#[test]
fn what_a_parent_has_given_works_again_when_the_child_is_killed() {
    for (before, after) in [(1, 3), (3, 1), (2, 2)] {
        let site = Site::with("--drain-strategy immediate");
        let only_childs = free_address();
        let unix = site.instance.path("unix");
        let listener = |name: &str, address: &str| {
            format!(
                "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"http\"\n\
                 [[listeners.routes]]\ncluster = \"origin\"\n"
            )
        };
        let given = listener("unix", &format!("unix:{}", unix.display()));
        site.configure(&given);
        let parent = site.instance.spawn("0", &format!("--concurrency {before}"));
        parent.wait_log(crate::instance::READY);
        let mut idle = Client::connect(site.web);
        assert_eq!(idle.get("/first").text(), "/first");
        site.configure(&format!("{given}{}", listener("new", &only_childs.to_string())));
        let child = site.instance.spawn("auto", &format!("--concurrency {after}"));
        child.wait_log(crate::instance::READY);
        assert_eq!(Client::connect(only_childs).get("/new").text(), "/new");
        child.kill();
        parent.wait_log("this process serves again");
        // The kernel closes what only the child had a moment later, and with it what that had in its queues.
        eventually("only the child's listener refuses", || {
            std::net::TcpStream::connect(only_childs)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        for _ in 0..10 {
            site.expect_served();
            assert_eq!(Client::connect_unix(&unix).get("/u").text(), "/u");
        }
        assert_eq!(idle.get("/again").text(), "/again");
        drop(idle);
        let next = site.instance.start("auto");
        assert_eq!(Client::connect(only_childs).get("/new").text(), "/new");
        assert_eq!(Client::connect_unix(&unix).get("/u").text(), "/u");
        parent.expect_exit(0, "has been replaced");
        next.stop();
    }
}
