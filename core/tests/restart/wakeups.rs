//! Connections that the kernel tells the wrong process about.
//!
//! The kernel wakes one of those who accept from a queue. The ring of a process that was killed is taken apart by a thread
//! of the kernel some milliseconds later, and until then it can be the one. [`Eater`] does what such a ring does, only
//! every time.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::fake::{FakeParent, Peer, Step, listen_as_proxy};
use crate::instance::{Process, READY};
use crate::site::Site;
use crate::support::{Client, Failure, QUIET};

/// Is woken for each connection that comes, before anybody who begins to accept after it, and accepts nothing.
struct Eater {
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Eater {
    /// Leaves the listening socket to a process as a parent does that ends in good order, and keeps a copy: nobody looks
    /// after one that has said that it does not accept any more, and the processes that come later do not even know it.
    #[track_caller]
    fn forgotten(site: &Site) -> (Self, Process) {
        let eater = Self::of(listen_as_proxy(site.web));
        let heir = FakeParent::bequeath(&site.instance, &eater.listener);
        (eater, heir)
    }

    /// Takes the listening socket from a process that serves, as a child that hangs then. It is known to this process.
    #[track_caller]
    fn stranger(site: &Site) -> Self {
        let mut child = Peer::child(&site.instance);
        let sockets = child.go_to(&site.instance, Step::ListenSockets);
        let mut listeners = sockets.into_iter().flat_map(|(_, received)| received.fds).map(TcpListener::from);
        let is_web = |listener: &TcpListener| listener.local_addr().is_ok_and(|address| address == site.web);
        Self::of(listeners.find(is_web).unwrap())
    }

    fn of(listener: TcpListener) -> Self {
        Self { listener, stop: Arc::default(), thread: None }
    }

    /// Begins to be woken.
    fn eat(&mut self) {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(&self.listener, EpollEvent::new(flags, 0)).unwrap();
        let stop = Arc::clone(&self.stop);
        self.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let _ = epoll.wait(&mut [EpollEvent::empty()], 100_u16);
            }
        }));
    }
}

impl Drop for Eater {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

struct Scene {
    site: Site,
    newest: Process,
    eater: Eater,
}

impl Scene {
    fn new() -> Self {
        let site = Site::new();
        let (eater, newest) = Eater::forgotten(&site);
        Self { site, newest, eater }
    }

    /// The process that serves has never heard of the eater.
    #[track_caller]
    fn second() -> Self {
        let mut scene = Self::new();
        scene.replace();
        scene
    }

    /// A client that has asked, and of whom the process that serves does not hear.
    #[track_caller]
    fn unheard(&self) -> Client {
        // It looks into the queues when it takes over, and as long as the one before ends.
        for _ in 0..20 {
            let mut client = Client::connect(self.site.web);
            client.send("GET /unheard HTTP/1.1\r\nHost: a\r\n\r\n");
            if client.poll(QUIET) == Err(Failure::TimedOut) {
                return client;
            }
        }
        panic!("the eater does not eat, or the process looks for connections");
    }

    #[track_caller]
    fn replace(&mut self) {
        let next = self.site.instance.start("auto");
        let old = std::mem::replace(&mut self.newest, next);
        old.expect_exit(0, "stopped");
    }
}

#[test]
fn when_a_child_was_killed_after_the_commit() {
    let mut scene = Scene::second();
    let mut idle = scene.site.idle();
    scene.eater.eat();
    let child = scene.site.instance.spawn("auto", "");
    scene.newest.wait_log("another process serves from here on");
    child.kill();
    scene.newest.wait_log("serves again");
    scene.site.expect_served();
    assert_eq!(idle.get("/last").text(), "/last");
}

/// The next process has not seen the death, but has to live with what is left of the dead one.
#[test]
fn when_another_child_takes_over_after_one_was_killed() {
    let mut scene = Scene::second();
    // Keeps the parent: without a connection it would be gone before the child is killed.
    let idle = scene.site.idle();
    scene.eater.eat();
    let child = scene.site.instance.spawn("auto", "");
    scene.newest.wait_log("another process serves from here on");
    child.kill();
    scene.newest.wait_log("serves again");
    drop(idle);
    for _ in 0..2 {
        scene.replace();
        scene.site.expect_served();
    }
}

#[test]
fn when_a_child_was_killed_before_the_commit() {
    let mut scene = Scene::second();
    scene.eater.eat();
    // Accepts behind the eater, and does not know it.
    scene.replace();
    let mut unheard = scene.unheard();
    let (child, _held) = scene.site.held_child(&scene.newest);
    child.kill();
    scene.newest.wait_log("failed before it took over");
    assert_eq!(unheard.response().text(), "/unheard");
    scene.site.expect_served();
}

/// The one that hangs is known to the first process only. Those that come later are told, and each tells the next.
#[test]
fn when_one_hangs_that_an_earlier_process_knew() {
    let site = Site::new();
    let newest = site.instance.start("0");
    let eater = Eater::stranger(&site);
    let mut scene = Scene { site, newest, eater };
    scene.newest.wait_log("failed before it took over");
    scene.eater.eat();
    for _ in 0..2 {
        scene.replace();
        scene.site.expect_served_soon();
    }
}

/// The same with a process that has taken over, hangs, and is killed when nobody knows it any more.
#[test]
fn when_a_child_that_was_given_up_is_killed_after_the_next_restarts() {
    let site = Site::new();
    let mut newest = site.instance.start("0");
    // Keeps the parent, as long as the child has not served.
    let idle = site.idle();
    let child = site.instance.spawn("auto", "");
    newest.wait_log("another process serves from here on");
    child.freeze();
    newest.wait_log("it does not answer any more; this process serves again");
    drop(idle);
    for _ in 0..2 {
        let next = site.instance.start("auto");
        std::mem::replace(&mut newest, next).expect_exit(0, "stopped");
        site.expect_served_soon();
    }
    child.kill();
    site.expect_served_soon();
}

#[test]
fn when_a_parent_was_killed_before_the_commit() {
    let mut scene = Scene::new();
    scene.eater.eat();
    let (child, held) = scene.site.held_child(&scene.newest);
    scene.newest.kill();
    drop(held);
    let begun = Instant::now();
    child.wait_log("is dead; going on");
    child.wait_log(READY);
    // Nobody has to be asked whether somebody serves: the only one who could has ended.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    scene.site.expect_served();
}

#[test]
fn when_a_child_that_was_given_up_is_killed_later() {
    let mut scene = Scene::second();
    let mut idle = scene.site.idle();
    scene.eater.eat();
    let child = scene.site.instance.spawn("auto", "");
    scene.newest.wait_log("another process serves from here on");
    child.freeze();
    scene.newest.wait_log("it does not answer any more; this process serves again");
    scene.site.expect_served();
    child.kill();
    std::thread::park_timeout(QUIET);
    scene.site.expect_served();
    assert_eq!(idle.get("/last").text(), "/last");
}

#[test]
fn a_parent_that_hangs_at_the_commit_and_is_killed_later_takes_nobody_with_it() {
    let mut scene = Scene::new();
    scene.eater.eat();
    let (child, held) = scene.site.held_child(&scene.newest);
    scene.newest.freeze();
    drop(held);
    child.wait_log("this one serves without");
    child.wait_log(READY);
    scene.site.expect_served();
    scene.newest.kill();
    child.wait_log("the old process has ended");
    scene.site.expect_served();
    let next = scene.site.instance.start("auto");
    child.expect_exit(0, "stopped");
    next.stop();
}
