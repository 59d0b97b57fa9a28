//! Three generations, of which some are killed or stopped.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::instance::{Instance, Process};
use crate::load::Echo;
use crate::support::{Client, Config, eventually, free_address};

struct Scene {
    instance: Instance,
    web: SocketAddr,
    origin: Echo,
}

impl Scene {
    fn new(options: &str) -> Self {
        let origin = Echo::http();
        let web = free_address();
        let scene = Self { instance: Instance::new("").options(options), web, origin };
        scene.configure("");
        scene
    }

    fn configure(&self, extra: &str) {
        let config = Config::to([self.origin.addr()]).listener(&format!("address = \"{}\"", self.web));
        self.instance.configure(&config.extra(extra).http());
    }

    /// Starts the next process, and a client that keeps it.
    #[track_caller]
    fn next(&self) -> (Process, Client) {
        let process = self.instance.start("auto");
        let mut idle = Client::connect(self.web);
        assert_eq!(idle.get("/first").text(), "/first");
        (process, idle)
    }

    #[track_caller]
    fn expect_served(&self) {
        for _ in 0..10 {
            assert_eq!(Client::connect(self.web).get("/x").text(), "/x");
        }
    }
}

const OPTIONS: &str = "--concurrency 1 --drain-strategy immediate";

#[test]
fn each_gets_the_service_back_from_the_one_after_it() {
    let scene = Scene::new(OPTIONS);
    let (first, mut first_idle) = scene.next();
    let (second, _second_idle) = scene.next();
    let (third, _third_idle) = scene.next();
    first.wait_log("has been replaced by restart epoch 2");
    third.kill();
    second.wait_log("this process serves again");
    first.wait_log("serves again, because the next one failed");
    scene.expect_served();
    second.kill();
    first.wait_log("this process serves again");
    scene.expect_served();
    assert_eq!(first_idle.get("/again").text(), "/again");
    assert!(scene.instance.live() == [first.pid()]);
    // The first is a parent like any other.
    let last = scene.instance.start("1");
    scene.expect_served();
    assert_eq!(first_idle.get("/last").text(), "/last");
    drop(first_idle);
    first.expect_exit(0, "has been replaced");
    last.stop();
    assert!(scene.instance.sockets().is_empty());
}

#[test]
fn the_one_in_the_middle_may_be_killed() {
    let scene = Scene::new(OPTIONS);
    let (first, first_idle) = scene.next();
    let (second, second_idle) = scene.next();
    let (third, mut third_idle) = scene.next();
    second.kill();
    first.wait_log("itself replaced, has ended");
    third.wait_log("the old process has ended");
    drop(second_idle);
    scene.expect_served();
    assert_eq!(third_idle.get("/again").text(), "/again");
    drop(first_idle);
    first.expect_exit(0, "has been replaced");
    let last = scene.instance.start("3");
    scene.expect_served();
    assert_eq!(third_idle.get("/last").text(), "/last");
    drop(third_idle);
    third.expect_exit(0, "has been replaced");
    last.stop();
}

#[test]
fn a_child_in_the_chain_dies_before_its_commit() {
    let scene = Scene::new(OPTIONS);
    let (first, mut first_idle) = scene.next();
    let (second, _second_idle) = scene.next();
    let mut third = crate::fake::Peer::child(&scene.instance);
    third.request(ouro_restart::message::Hello { epoch: Some(2), ..crate::fake::hello(&scene.instance) });
    third.expect("HelloReply");
    // Now the one that it takes over from, and the attempt with it.
    second.kill();
    first.wait_log("this process serves again");
    scene.expect_served();
    drop(third);
    let last = scene.instance.start("auto");
    assert_eq!(first_idle.get("/last").text(), "/last");
    drop(first_idle);
    first.expect_exit(0, "has been replaced");
    last.stop();
}

#[test]
fn stopping_the_newest_reaches_an_old_process_that_nobody_speaks_to() {
    for killed in [false, true] {
        let scene = Scene::new(OPTIONS);
        let (first, mut first_idle) = scene.next();
        let (second, mut second_idle) = scene.next();
        let (third, mut third_idle) = scene.next();
        if killed {
            second.kill();
        } else {
            assert!(second_idle.get("/last").says_close());
            second_idle.expect_eof();
            drop(second_idle);
            second.expect_exit(0, "has been replaced");
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
        let scene = Scene::new("--drain-strategy immediate");
        let only_childs = free_address();
        let unix = scene.instance.path("unix");
        let listener = |name: &str, address: &str| {
            format!(
                "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"http\"\n\
                 [[listeners.routes]]\ncluster = \"origin\"\n"
            )
        };
        let given = listener("unix", &format!("unix:{}", unix.display()));
        scene.configure(&given);
        let parent = scene.instance.spawn("0", &format!("--concurrency {before}"));
        parent.wait_log(crate::instance::READY);
        let mut idle = Client::connect(scene.web);
        assert_eq!(idle.get("/first").text(), "/first");
        scene.configure(&format!("{given}{}", listener("new", &only_childs.to_string())));
        let child = scene.instance.spawn("auto", &format!("--concurrency {after}"));
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
            scene.expect_served();
            assert_eq!(Client::connect_unix(&unix).get("/u").text(), "/u");
        }
        assert_eq!(idle.get("/again").text(), "/again");
        drop(idle);
        let next = scene.instance.start("auto");
        assert_eq!(Client::connect(only_childs).get("/new").text(), "/new");
        assert_eq!(Client::connect_unix(&unix).get("/u").text(), "/u");
        parent.expect_exit(0, "has been replaced");
        next.stop();
    }
}
