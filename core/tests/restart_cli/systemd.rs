//! What a service manager is told (`sd_notify(3)`), with a socket in the place of systemd's.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::signal::Signal;

use crate::instance::{Instance, ended, saying, send};
use crate::support::proxy::Builder;
use crate::support::{Client, DEADLINE};

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// One with a file; what `NOTIFY_SOCKET` says is its path.
    fn at(path: &str) -> Self {
        Self::new(UnixDatagram::bind(path).unwrap())
    }

    fn new(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    /// The next message, as lines.
    #[track_caller]
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a message to the service manager");
        String::from_utf8(buffer[..length].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    /// Expects that this process says that it serves; its status.
    #[track_caller]
    fn expect_ready(&self, pid: u32) -> String {
        let message = self.next();
        assert!(message.contains(&"READY=1".to_owned()), "{message:?}");
        assert!(message.contains(&format!("MAINPID={pid}")), "{message:?}, not {pid}");
        status(&message)
    }

    /// Expects the beginning of a restart.
    #[track_caller]
    fn expect_reloading(&self) {
        let message = self.next();
        assert!(message.contains(&"RELOADING=1".to_owned()), "{message:?}");
        let time = message.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(status(&message), "a successor is starting");
    }
}

#[track_caller]
fn status(message: &[String]) -> String {
    message.iter().find_map(|line| line.strip_prefix("STATUS=")).expect("a status").to_owned()
}

/// An instance and its service manager.
fn managed() -> (Instance, Manager) {
    managed_with(&[])
}

fn managed_with(arguments: &[&str]) -> (Instance, Manager) {
    let builder = Builder::new(saying("one"));
    let path = format!("{}/notify", builder.dir().display());
    let manager = Manager::at(&path);
    (Instance::start_with(builder.env("NOTIFY_SOCKET", path), arguments), manager)
}

#[test]
fn a_restart_is_announced_and_ends_with_another_main_process() {
    let (instance, manager) = managed();
    let old = instance.serving(0);
    assert_eq!(manager.expect_ready(old), "restart epoch 0 serves");
    send(old, Signal::SIGHUP);
    manager.expect_reloading();
    let new = instance.serving(1);
    assert_eq!(manager.expect_ready(new), "restart epoch 1 serves");
    ended(&instance.restart(&[]).output().unwrap(), 0);
    manager.expect_reloading();
    let newest = instance.serving(2);
    assert_eq!(manager.expect_ready(newest), "restart epoch 2 serves");
    send(newest, Signal::SIGTERM);
    assert!(manager.next().contains(&"STOPPING=1".to_owned()));
    // All generations: the pipes end with the last of them.
    instance.wait_exit();
}

#[test]
fn a_failed_restart_ends_with_the_old_main_process() {
    let (instance, manager) = managed();
    let pid = instance.serving(0);
    manager.expect_ready(pid);
    std::fs::write(instance.config(), "nonsense").unwrap();
    for _ in 0..2 {
        send(pid, Signal::SIGHUP);
        manager.expect_reloading();
        assert!(manager.expect_ready(pid).starts_with("serves on"));
    }
    // Refused before anything is started.
    let (_, stderr) = ended(&instance.restart(&["--", "--disable-hot-restart"]).output().unwrap(), 1);
    assert!(stderr.contains("cannot take over"), "{stderr}");
    manager.expect_reloading();
    assert!(manager.expect_ready(pid).starts_with("serves on"));
}

#[test]
fn a_successor_that_dies_gives_the_service_back() {
    let (instance, manager) = managed_with(&["--handover", "drain"]);
    let old = instance.serving(0);
    manager.expect_ready(old);
    // This connection keeps the old process: half a request is not sent away.
    let client = Client::connect(instance.addr("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    // A first restart would not wait for a connection that has sent nothing yet, so make sure that it is accepted.
    instance.answer();
    send(old, Signal::SIGHUP);
    manager.expect_reloading();
    let new = instance.serving(1);
    manager.expect_ready(new);
    instance.says("another process serves from here on");
    send(new, Signal::SIGKILL);
    assert!(manager.expect_ready(old).starts_with("serves again"));
    assert_eq!(instance.answer(), "one");
    drop(client);
}

#[test]
fn the_socket_may_be_in_the_abstract_namespace() {
    let name = format!("ouro-test-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = Manager::new(UnixDatagram::bind_addr(&address).unwrap());
    let builder = Builder::new(saying("one")).env("NOTIFY_SOCKET", format!("@{name}"));
    let instance = Instance::start_with(builder, &[]);
    let old = instance.serving(0);
    manager.expect_ready(old);
    send(old, Signal::SIGHUP);
    manager.expect_reloading();
    manager.expect_ready(instance.serving(1));
}

#[test]
fn a_manager_that_is_gone_is_no_reason_to_fail() {
    let builder = Builder::new(saying("one")).env("NOTIFY_SOCKET", "/nowhere/notify");
    let instance = Instance::start_with(builder, &[]);
    send(instance.serving(0), Signal::SIGHUP);
    instance.serving(1);
    assert_eq!(instance.answer(), "one");
}
