//! SIGHUP.

use nix::sys::signal::Signal;

use crate::instance::{Instance, lives, saying, send};
use crate::support::proxy::Builder;
use crate::support::{Client, Exit, eventually};

#[test]
fn each_sighup_brings_a_new_process_that_serves() {
    let instance = Instance::start();
    let mut pids = vec![instance.serving(0)];
    for epoch in 1..=3 {
        std::fs::write(instance.config(), saying(&format!("answer {epoch}"))).unwrap();
        let old = pids[epoch as usize - 1];
        send(old, Signal::SIGHUP);
        let new = instance.serving(epoch);
        assert!(!pids.contains(&new));
        eventually("the old process is gone", || !lives(old));
        assert_eq!(instance.answer(), format!("answer {epoch}"));
        pids.push(new);
    }
}

#[test]
fn a_broken_configuration_changes_nothing_and_is_said() {
    let instance = Instance::start();
    let pid = instance.serving(0);
    std::fs::write(instance.config(), "[[listeners]]\nnme = \"web\"\n").unwrap();
    send(pid, Signal::SIGHUP);
    instance.says("this process serves on");
    // The file, the line and the key.
    instance.says("ouro.toml:2:1:");
    assert_eq!(instance.answer(), "one");
    assert!(lives(pid));
    std::fs::write(instance.config(), saying("two")).unwrap();
    send(pid, Signal::SIGHUP);
    instance.serving(1);
    assert_eq!(instance.answer(), "two");
}

#[test]
fn a_successor_that_cannot_bind_changes_nothing() {
    let instance = Instance::start();
    let pid = instance.serving(0);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let more =
        format!("[[listeners]]\nname = \"more\"\naddress = \"{address}\"\nroutes = [{{ respond = {{}} }}]\n");
    std::fs::write(instance.config(), format!("{}\n{more}", saying("two"))).unwrap();
    send(pid, Signal::SIGHUP);
    instance.wait_log("the reason, from the old process", |line| {
        line.contains("this process serves on") && line.contains("cannot listen on")
    });
    assert_eq!(instance.answer(), "one");
    drop(taken);
    send(pid, Signal::SIGHUP);
    instance.serving(1);
    assert_eq!(instance.answer(), "two");
}

#[test]
fn a_keep_alive_connection_moves_to_the_new_process() {
    let instance = Instance::start();
    let old = instance.serving(0);
    let mut client = Client::connect(instance.addr("web"));
    assert!(!client.get("/").says_close());
    send(old, Signal::SIGHUP);
    instance.serving(1);
    assert!(!client.get("/").says_close());
    eventually("the old process is gone", || !lives(old));
    assert!(!client.get("/").says_close());
}

#[test]
fn without_hot_restarts_sighup_does_nothing_but_say_so() {
    let instance = Instance::start_with(Builder::new(saying("one")), &["--disable-hot-restart"]);
    let pid = instance.serving(0);
    send(pid, Signal::SIGHUP);
    instance.says("hot restarts are switched off");
    assert_eq!(instance.answer(), "one");
    assert!(lives(pid));
}

#[test]
fn stopping_while_a_successor_is_on_its_way_stops_both() {
    let instance = Instance::start();
    let pid = instance.serving(0);
    // A pipe that nobody writes to holds up whoever reads it.
    std::fs::remove_file(instance.config()).unwrap();
    nix::unistd::mkfifo(&instance.config(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    send(pid, Signal::SIGHUP);
    // It is on its way as soon as a second one is refused.
    send(pid, Signal::SIGHUP);
    eventually("the second is refused", || {
        let refused = instance.log_lines().iter().any(|line| line.contains("on its way already"));
        if !refused {
            send(pid, Signal::SIGHUP);
        }
        refused
    });
    send(pid, Signal::SIGTERM);
    // Waits for the ends of the pipes, which the successor would hold as well.
    instance.expect_exit(0);
}

#[test]
fn an_epoch_above_0_wants_somebody_to_take_over_from() {
    let exit = Exit::of(&["--restart-epoch", "3", "--socket-path", "@ouro-test-nobody"]);
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.stderr.contains("restart epoch 3 was asked for, but nobody answers"), "{}", exit.stderr);
    let arguments = ["--restart-epoch", "3", "--skip-hot-restart-on-no-parent"];
    let instance = Instance::start_with(Builder::new(saying("one")), &arguments);
    instance.serving(3);
    assert_eq!(instance.answer(), "one");
}
