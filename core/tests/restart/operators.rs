//! `ouro restart` while somebody else tries to take over: the report is about the successor that was asked for.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::fake::{Peer, Step};
use crate::instance::{Instance, Process};
use crate::support::{Client, Config, RefusingPort, eventually, free_address};

struct Scene {
    instance: Instance,
    process: Process,
    /// Waits for a report. The successor is held up by a pipe from which its configuration comes.
    operator: Child,
    pipe: PathBuf,
    config: String,
    _origin: RefusingPort,
}

impl Scene {
    fn new() -> Self {
        let origin = RefusingPort::new();
        let config = Config::to([origin.addr()]).listener("address = \"127.0.0.1:0\"").http();
        let instance = Instance::new(&config);
        let process = instance.start("0");
        let pipe = instance.path("pipe.toml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let operator = Command::new(env!("CARGO_BIN_EXE_ouro"))
            .args(["restart", "--base-id", &instance.base_id().0.to_string(), "--socket-path"])
            .arg(instance.path("r"))
            .args(["--", "-c", pipe.to_str().unwrap(), "--concurrency", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { instance, process, operator, pipe, config, _origin: origin }
    }

    /// Lets whoever reads the configuration go on.
    fn feed(&self) {
        // Opening it for writing waits for the reader.
        let mut writer = std::fs::OpenOptions::new().write(true).open(&self.pipe).unwrap();
        writer.write_all(self.config.as_bytes()).unwrap();
    }

    /// What the operator is told.
    #[track_caller]
    fn told(self) -> (bool, String) {
        let output = self.operator.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    }
}

/// A machine that was taken out of a load balancer for a restart must not come back by the restart.
#[test]
fn what_an_operator_has_changed_stays_as_it_is() {
    let (origin, admin) = (RefusingPort::new(), free_address());
    let config = Config::to([origin.addr()]).listener("address = \"127.0.0.1:0\"");
    let instance = Instance::new(&config.extra(&format!("[admin]\naddress = \"{admin}\"\n")).http());
    let ask = |method: &str, path: &str| {
        let mut client = Client::connect(admin);
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
        client.response()
    };
    let restart = |process: &mut Process| {
        let next = instance.start("auto");
        process.expect_exit(0, "has been replaced");
        *process = next;
    };
    let mut process = instance.start("0");
    restart(&mut process);
    assert_eq!(ask("GET", "/ready").status(), 200);
    assert_eq!(ask("POST", "/healthcheck/fail").status(), 200);
    assert_eq!(ask("POST", "/logging?level=debug").status(), 200);
    for _ in 0..2 {
        restart(&mut process);
        assert_eq!(ask("GET", "/ready").status(), 503);
        assert!(ask("GET", "/logging").text().contains("debug"));
    }
    assert_eq!(ask("POST", "/healthcheck/ok").status(), 200);
    restart(&mut process);
    assert_eq!(ask("GET", "/ready").status(), 200);
    // Another level on the command line is the later word.
    let next = instance.spawn("auto", "-l warning");
    process.expect_exit(0, "has been replaced");
    eventually("it answers", || ask("GET", "/logging").text().contains("warning"));
    drop(next);
}

#[test]
fn a_child_that_somebody_else_has_started_fails() {
    let mut scene = Scene::new();
    let mut child = Peer::child(&scene.instance);
    child.go_to(&scene.instance, Step::State);
    drop(child);
    scene.process.wait_log("failed before it took over");
    // Once for the check, once for the successor.
    scene.feed();
    scene.process.wait_log("a successor is started");
    assert!(scene.operator.try_wait().unwrap().is_none(), "the operator is told about somebody else's child");
    scene.feed();
    let (succeeded, text) = scene.told();
    assert!(succeeded && text.contains("serves (restart epoch 1)"), "{text}");
}

#[test]
fn a_child_that_somebody_else_has_started_takes_over_first() {
    let scene = Scene::new();
    let mut child = Peer::child(&scene.instance);
    child.go_to(&scene.instance, Step::Hello);
    // It has the operator's request by then.
    // It waits as long as somebody may write to the pipe.
    let mut writer = None;
    eventually("the pipe has a reader", || {
        let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_NONBLOCK;
        writer = nix::fcntl::open(&scene.pipe, flags, nix::sys::stat::Mode::empty()).ok();
        writer.is_some()
    });
    drop(child);
    let mut child = Peer::child(&scene.instance);
    child.go_to(&scene.instance, Step::Committed);
    let pid = std::process::id();
    let (succeeded, text) = scene.told();
    drop(writer);
    assert!(!succeeded && text.contains(&format!("process {pid}, which was not started for this")), "{text}");
}
