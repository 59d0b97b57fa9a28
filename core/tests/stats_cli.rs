//! `ouro stats` and `ouro top` against real segments, with real processes that are stopped and killed.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use ouro_shm::{Block, Joining, Membership, ProcessState, Segment, SegmentOptions};

ouro_shm::scope! {
    /// A listener.
    Listener "listener" "listener.{}" ["listener"] {
        Counter CX_TOTAL "downstream_cx_total" Count "Connections accepted.";
        Gauge CX_ACTIVE "downstream_cx_active" Count "Connections open.";
    }
}

ouro_shm::scope! {
    /// A listener that speaks HTTP.
    Http "http" "http.{}" ["listener"] {
        Counter RQ_TOTAL "downstream_rq_total" Count "Requests.";
        Counter RQ_5XX "downstream_rq_5xx" Count "Responses with a 5xx status.";
        Histogram RQ_TIME "downstream_rq_time" Microseconds "Time of requests.";
    }
}

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Tells a copy of this program to play a proxy, and with which base id.
const PLAY: &str = "OURO_TEST_PLAY_BASE_ID";

/// A base id of its own, whose segment is removed in the end.
struct Instance(u32);

impl Instance {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Process ids have 22 bits at most.
        Self((1 << 31) + std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn ouro(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ouro"));
        command.args(&args[..1]).args(["--base-id", &self.0.to_string()]).args(&args[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.ouro(args).output().unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = Segment::unlink(self.0);
    }
}

/// A process that counts.
struct Counting {
    membership: Membership,
    listener: Block<Listener>,
    http: Block<Http>,
}

impl Counting {
    fn join(base_id: u32) -> Self {
        let (segment, _) = Segment::open(&SegmentOptions { base_id, ..SegmentOptions::default() }).unwrap();
        let membership = segment.join(&Joining { epoch: 4, workers: 2, version: "1.2.3" }).unwrap();
        membership.set_state(ProcessState::Serving);
        let stripe = membership.stripe(0);
        let listener = stripe.block(membership.register::<Listener>(&["web"]));
        let http = stripe.block(membership.register::<Http>(&["web"]));
        listener.add(Listener::CX_TOTAL, 42);
        listener.raise(Listener::CX_ACTIVE, 5);
        http.add(Http::RQ_TOTAL, 1000);
        http.record(Http::RQ_TIME, 100);
        Self { membership, listener, http }
    }
}

/// Not a test: what a copy of this program does to play a proxy.
#[test]
#[ignore = "is started by other tests"]
fn play() {
    let Ok(base_id) = std::env::var(PLAY) else { return };
    let _counting = Counting::join(base_id.parse().unwrap());
    eprintln!("counting");
    // Until the test kills it or is gone itself.
    let _ = std::io::stdin().read(&mut [0]);
}

/// Starts a process that counts and waits until it has.
fn start(instance: &Instance) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "play"])
        .env(PLAY, instance.0.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("counting")), "the process did not start");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill(pid(child), signal).unwrap();
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, stderr: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    if stderr.is_empty() {
        assert_eq!(said, "");
    } else {
        assert!(said.starts_with("ouro: ") && said.contains(stderr), "{said}");
    }
}

/// Waits for the end of a process and returns its exit code; none if it had to be killed.
#[track_caller]
fn wait(child: &mut Child) -> Option<i32> {
    let (done, ended) = channel::<()>();
    let pid = pid(child);
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            kill(pid, Signal::SIGKILL).unwrap();
        }
    });
    let status = child.wait().unwrap();
    drop(done);
    watchdog.join().unwrap();
    status.code()
}

#[test]
fn every_format() {
    let instance = Instance::new();
    let counting = Counting::join(instance.0);
    let text = instance.run(&["stats"]);
    assert_ends(&text, 0, "");
    for line in [
        "listener.web.downstream_cx_total: 42\n",
        "listener.web.downstream_cx_active: 5\n",
        "server.live: 1\n",
        "server.hot_restart_epoch: 4\n",
        "server.concurrency: 2\n",
        "server.total_connections: 5\n",
        "http.web.downstream_rq_time: P0(0.102) ",
    ] {
        assert!(stdout(&text).contains(line), "{line}{}", stdout(&text));
    }
    let json = instance.run(&["stats", "--format", "json"]);
    assert_ends(&json, 0, "");
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let total = serde_json::json!({"name": "http.web.downstream_rq_total", "value": 1000});
    assert!(value["stats"].as_array().unwrap().contains(&total));
    let prometheus = instance.run(&["stats", "--format", "prometheus"]);
    assert_ends(&prometheus, 0, "");
    assert!(stdout(&prometheus).contains("ouro_http_downstream_rq_total{listener=\"web\"} 1000\n"));
    drop(counting);
}

#[test]
fn some_of_it() {
    let instance = Instance::new();
    let _counting = Counting::join(instance.0);
    let some = instance.run(&["stats", "--filter", "^http\\..*_rq_(total|5xx)$", "--used-only"]);
    assert_ends(&some, 0, "");
    assert_eq!(stdout(&some), "http.web.downstream_rq_total: 1000\n");
}

#[test]
fn a_stopped_process_can_be_read_and_a_killed_one_too() {
    let instance = Instance::new();
    let mut child = start(&instance);
    signal(&child, Signal::SIGSTOP);
    assert!(matches!(waitpid(pid(&child), Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..))));
    let stopped = instance.run(&["stats"]);
    assert_ends(&stopped, 0, "");
    assert!(stdout(&stopped).contains("listener.web.downstream_cx_active: 5\n"));
    child.kill().unwrap();
    child.wait().unwrap();
    let dead = instance.run(&["stats"]);
    assert_ends(&dead, 0, "is alive: these are the last values");
    for line in [
        "listener.web.downstream_cx_total: 42\n",
        "listener.web.downstream_cx_active: 0\n",
        "server.live: 0\n",
        "server.processes: 0\n",
    ] {
        assert!(stdout(&dead).contains(line), "{line}{}", stdout(&dead));
    }
    assert!(!stdout(&dead).contains("server.state"));
}

#[test]
fn no_segment_and_one_that_is_none() {
    let instance = Instance::new();
    for args in [&["stats"][..], &["stats", "--watch"]] {
        let output = instance.run(args);
        assert_ends(&output, 1, &format!("there is no instance with base id {}", instance.0));
        assert_eq!(stdout(&output), "");
    }
    std::fs::write(format!("/dev/shm{}", ouro_shm::segment_name(instance.0)), [0; 8192]).unwrap();
    let output = instance.run(&["stats"]);
    assert_ends(&output, 1, "shared");
    assert_eq!(stdout(&output), "");
}

#[test]
fn wrong_usage() {
    let instance = Instance::new();
    for args in
        [&["stats", "--watch", "--format", "json"][..], &["stats", "--watch=0"], &["stats", "--filter", "("]]
    {
        assert_eq!(instance.run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn watching_shows_what_changes_until_interrupted() {
    let instance = Instance::new();
    let counting = Counting::join(instance.0);
    let mut child = instance.ouro(&["stats", "--watch", "0.1"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first head says that it watches.
    assert!(lines.next().unwrap().unwrap().starts_with("# "));
    counting.http.add(Http::RQ_TOTAL, 500);
    counting.listener.lower(Listener::CX_ACTIVE, 2);
    let mut changes: Vec<_> =
        lines.by_ref().map_while(Result::ok).filter(|line| !line.starts_with('#')).take(3).collect();
    changes.sort();
    assert!(changes[0].starts_with("http.web.downstream_rq_total: 1500 (+500, "), "{changes:?}");
    assert_eq!(changes[1], "listener.web.downstream_cx_active: 3 (-2)");
    assert_eq!(changes[2], "server.total_connections: 3 (-2)");
    counting.membership.set_state(ProcessState::Draining);
    let change = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("server.live"));
    assert_eq!(change.as_deref(), Some("server.live: 0 (-1)"));
    drop(counting);
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(", nobody is alive")));
    signal(&child, Signal::SIGINT);
    assert_eq!(wait(&mut child), Some(0));
}

#[test]
fn watching_ends_when_nobody_reads() {
    let instance = Instance::new();
    let _counting = Counting::join(instance.0);
    // An hour: it must not wait for the next line to notice.
    let mut child = instance.ouro(&["stats", "--watch", "3600"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let instance = Instance::new();
    let _counting = Counting::join(instance.0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = instance.ouro(&["stats"]).stdout(writer).output().unwrap();
    assert_ends(&output, 0, "");
}

#[test]
fn top_needs_a_terminal() {
    let instance = Instance::new();
    assert_ends(&instance.run(&["top"]), 1, "ouro stats --watch");
}

/// A terminal with something running in it.
struct Screen {
    keyboard: File,
    /// Keeps the terminal open, and knows its modes.
    terminal: OwnedFd,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Screen {
    fn start(command: &mut Command) -> (Self, Child) {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let ours = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        command.stdin(ours(&pty.slave)).stdout(ours(&pty.slave));
        let child = command.spawn().unwrap();
        let mut master = File::from(pty.master);
        let keyboard = master.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = master.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        (Self { keyboard, terminal: pty.slave, output, seen: String::new() }, child)
    }

    /// Waits for a text. Words only: between them the program may move the cursor instead of printing a space.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.output.recv_timeout(DEADLINE) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} does not come:\n{:?}", self.seen),
            }
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }
}

const ENTER_SCREEN: &str = "\u{1b}[?1049h";
const LEAVE_SCREEN: &str = "\u{1b}[?1049l";

#[test]
fn top_shows_the_instance_and_leaves_the_terminal_as_it_was() {
    type End = fn(&mut Screen, &Child);
    let ends: [End; 4] = [
        |screen, _| screen.press(b"q"),
        |screen, _| screen.press(b"\x1b"),
        |screen, _| screen.press(b"\x03"),
        |_, child| signal(child, Signal::SIGTERM),
    ];
    let instance = Instance::new();
    let counting = Counting::join(instance.0);
    for end in ends {
        let (mut screen, mut child) = Screen::start(&mut instance.ouro(&["top", "--interval", "100ms"]));
        screen.expect(ENTER_SCREEN);
        screen.expect("1.2.3");
        let raw = tcgetattr(&screen.terminal).unwrap();
        counting.http.add(Http::RQ_TOTAL, 10);
        screen.press(b"3");
        screen.expect("noBuf/s");
        screen.press(b"\t?");
        screen.expect("Ctrl-C");
        screen.press(b"?");
        end(&mut screen, &child);
        assert_eq!(wait(&mut child), Some(0));
        screen.expect(LEAVE_SCREEN);
        let cooked = tcgetattr(&screen.terminal).unwrap();
        assert!(!raw.local_flags.contains(nix::sys::termios::LocalFlags::ICANON));
        assert!(cooked.local_flags.contains(nix::sys::termios::LocalFlags::ICANON));
    }
}

#[test]
fn top_says_when_nobody_is_alive_and_when_there_is_nothing() {
    let instance = Instance::new();
    let (_screen, mut child) = Screen::start(&mut instance.ouro(&["top"]));
    assert_eq!(wait(&mut child), Some(1));
    let counting = Counting::join(instance.0);
    let (mut screen, mut child) = Screen::start(&mut instance.ouro(&["top", "--interval", "100ms"]));
    screen.expect("serving");
    drop(counting);
    screen.expect("Nobody");
    Segment::unlink(instance.0).unwrap();
    screen.expect("values");
    screen.press(b"q");
    assert_eq!(wait(&mut child), Some(0));
}
