//! Processes in pid namespaces of their own, as containers have them; whether they can be made depends on who runs this.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::instance::{Process, READY};
use crate::site::{Site, let_go};
use crate::support::stats::expect;
use crate::support::{Client, eventually, free_address};

/// Starts a process in a namespace of its own, or says that it cannot be done.
macro_rules! apart_or_skip {
    ($instance:expr, $epoch:expr) => {
        match $instance.spawn_apart($epoch, "") {
            Some(process) => process,
            None => {
                println!("skipped: no pid namespaces for this user");
                return;
            }
        }
    };
}

/// The process behind the program that waits for it outside of its namespace.
#[track_caller]
fn inner(outer: &Process) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", outer.pid());
    let mut pid = None;
    eventually("it has a child", || {
        let children = std::fs::read_to_string(&children).unwrap_or_default();
        pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        pid.is_some()
    });
    Pid::from_raw(pid.unwrap())
}

#[test]
fn the_first_process_of_a_container_obeys_term_and_refuses_to_restart() {
    let site = Site::new();
    let Site { instance, .. } = &site;
    let process = apart_or_skip!(instance, "0");
    process.wait_log("ready pid=1 ");
    let pid = inner(&process);
    kill(pid, Signal::SIGHUP).unwrap();
    process.wait_log("this is process 1 of its container");
    site.ask(1);
    kill(pid, Signal::SIGTERM).unwrap();
    process.expect_exit(0, "stopped");
    assert!(instance.sockets().is_empty());
}

/// Each would take the other for dead if they shared a segment.
#[test]
fn processes_that_cannot_see_each_other_count_right() {
    let site = Site::new();
    let Site { instance, .. } = &site;
    let parent = instance.start("0");
    site.ask(1);
    let idle = site.idle();
    let child = apart_or_skip!(instance, "auto");
    child.wait_log(READY);
    site.ask(1);
    let_go(idle, &parent);
    let counted = |requests| {
        expect(
            instance.base_id(),
            &[
                ("http.web.downstream_rq_total", requests),
                ("listener.web.downstream_cx_total", requests - 1),
                ("listener.web.downstream_cx_destroy", requests - 1),
            ],
        );
    };
    counted(4);
    // From one container to the next, and out of it.
    let next = apart_or_skip!(instance, "auto");
    next.wait_log(READY);
    child.expect_exit(0, "has been replaced");
    site.ask(1);
    let last = instance.start("auto");
    next.expect_exit(0, "has been replaced");
    site.ask(1);
    counted(6);
    last.stop();
}

/// They would count in each other's cells if they shared a segment.
#[test]
fn a_second_instance_with_the_same_base_id_is_refused_though_it_cannot_see_the_first() {
    let site = Site::new();
    let Site { instance, .. } = &site;
    let elsewhere = format!("--socket-path {}", instance.path("elsewhere").display());
    let first = instance.start("0");
    site.ask(1);
    let Some(second) = instance.spawn_apart("0", &elsewhere) else {
        println!("skipped: no pid namespaces for this user");
        return;
    };
    second.expect_exit(1, "a process that cannot be seen from here");
    site.ask(1);
    expect(instance.base_id(), &[("http.web.downstream_rq_total", 2)]);
    first.kill();
    let second = apart_or_skip!(instance, "0");
    second.wait_log(READY);
    instance.spawn("auto", &elsewhere).expect_exit(1, "a process that cannot be seen from here");
    site.ask(1);
    expect(instance.base_id(), &[("http.web.downstream_rq_total", 3)]);
}

#[test]
fn a_process_with_a_dev_shm_of_its_own_goes_on_counting() {
    let (site, admin) = (Site::new(), free_address());
    let Site { instance, .. } = &site;
    site.configure(&format!("[admin]\naddress = \"{admin}\"\n"));
    let parent = instance.start("0");
    site.ask(1);
    let idle = site.idle();
    let Some(child) = instance.spawn_with_own_shm("size=64m", "auto", "") else {
        println!("skipped: no mount namespaces for this user");
        return;
    };
    child.wait_log(READY);
    site.ask(1);
    let_go(idle, &parent);
    eventually("all is counted", || {
        let mut client = Client::connect(admin);
        client.send("GET /stats?filter=http.web.downstream_rq_total HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.response().text().trim() == "http.web.downstream_rq_total: 4"
    });
    // And back, where there still is the segment of the first.
    let next = instance.start("auto");
    child.expect_exit(0, "has been replaced");
    site.ask(1);
    expect(instance.base_id(), &[("http.web.downstream_rq_total", 5)]);
    next.stop();
}

#[test]
fn a_process_in_another_container_may_be_killed() {
    let site = Site::new();
    let Site { instance, .. } = &site;
    let parent = instance.start("0");
    let mut idle = site.idle();
    let child = apart_or_skip!(instance, "auto");
    child.wait_log(READY);
    child.kill();
    parent.wait_log("this process serves again");
    site.expect_served();
    assert_eq!(idle.get("/again").text(), "/again");
    drop(idle);
    let next = apart_or_skip!(instance, "auto");
    next.wait_log(READY);
    parent.expect_exit(0, "has been replaced");
    kill(inner(&next), Signal::SIGTERM).unwrap();
    next.expect_exit(0, "stopped");
}
