//! `hot-restarter.py` with the real program.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::instance::{lives, saying, send};
use crate::support::{BaseId, Client, DEADLINE, Failure, TempDir, eventually, free_address};

/// Clients that ask again and again on connections that are kept alive.
const CLIENTS: usize = 4;

/// The wrapper, with everything that it has started, in a process group of its own.
struct Wrapper {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Wrapper {
    /// `None` without Python.
    fn start(script: &Path) -> Option<Self> {
        let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../restart/hot-restarter.py");
        let mut command = Command::new("python3");
        command.arg(wrapper).args(["sh".as_ref(), script.as_os_str()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("cannot start {command:?}: {error}"),
        };
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Colours would be in the way of looking for words.
            stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Some(Self { process, lines, seen: Vec::new() })
    }

    /// Waits for a line with all of these texts.
    #[track_caller]
    fn expect(&mut self, texts: &[&str]) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(DEADLINE) else {
                panic!("no line with {texts:?}:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if texts.iter().all(|text| line.contains(text)) {
                return line;
            }
        }
    }

    /// Waits until a process serves; its number.
    #[track_caller]
    fn serving(&mut self, epoch: u32) -> u32 {
        let line = self.expect(&["ready pid=", &format!("epoch={epoch}")]);
        line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        // The group is there as long as its first process has not been waited for, or any other one lives.
        let group = Pid::from_raw(self.process.id().cast_signed());
        if let Ok(None) = self.process.try_wait() {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.process.wait();
        }
    }
}

#[test]
fn it_restarts_under_load_and_stops_everything() {
    let (dir, base_id, address) = (TempDir::new(), BaseId::new(), free_address());
    let config = dir.path().join("ouro.toml");
    std::fs::write(&config, saying("one").replace("127.0.0.1:0", &address.to_string())).unwrap();
    let script = dir.path().join("start.sh");
    let line = format!(
        "exec {} -c {} --base-id {} --socket-path {}/ --drain-strategy immediate --restart-epoch \"$RESTART_EPOCH\"\n",
        env!("CARGO_BIN_EXE_ouro"),
        config.display(),
        base_id.0,
        dir.path().display()
    );
    std::fs::write(&script, line).unwrap();
    let Some(mut wrapper) = Wrapper::start(&script) else {
        println!("skipped: python3 is missing");
        return;
    };
    let mut pids = vec![wrapper.serving(0)];
    // A successor that the wrapper does not know of would outlive it, or be killed with the container.
    send(pids[0], Signal::SIGHUP);
    wrapper.expect(&["was started by a restart script"]);
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask(address, &stop, &answered))).collect();
        for epoch in 1..=3 {
            let before = answered.load(Ordering::Relaxed);
            eventually("requests are answered", || answered.load(Ordering::Relaxed) >= before + 50);
            send(wrapper.process.id(), Signal::SIGHUP);
            let old = pids[epoch as usize - 1];
            pids.push(wrapper.serving(epoch));
            wrapper.expect(&[&format!("(process {old}) ended with status 0")]);
        }
        let before = answered.load(Ordering::Relaxed);
        eventually("requests are answered", || answered.load(Ordering::Relaxed) >= before + 50);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    send(wrapper.process.id(), Signal::SIGTERM);
    wrapper.expect(&["all processes have ended"]);
    assert_eq!(wrapper.process.wait().unwrap().code(), Some(0));
    assert!(!pids.into_iter().any(lives), "a process is left");
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "something is left: {left:?}");
}

/// Asks until told to stop. Each request is answered; connections end only after a response that says so, or, between
/// two requests, without a byte.
fn ask(address: std::net::SocketAddr, stop: &AtomicBool, answered: &AtomicU64) {
    let mut client = Client::connect(address);
    while !stop.load(Ordering::Relaxed) {
        // An idle connection may be ended by the proxy; that has to be seen before a request is sent.
        if let Err(Failure::Eof) = client.poll(std::time::Duration::from_millis(1)) {
            client = Client::connect(address);
        }
        let response = client.get("/");
        assert_eq!((response.status(), response.text().as_str()), (200, "one"));
        answered.fetch_add(1, Ordering::Relaxed);
        if response.says_close() {
            client.expect_eof();
            client = Client::connect(address);
        }
    }
}
