//! `hot-restarter.py` with small scripts in the place of the proxy.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stand-in: says that it is there, and then what becomes of it. `$1` and further arguments are commands by signal.
const SERVER: &str = r#"
trap 'echo "$RESTART_EPOCH usr1"' USR1
trap 'echo "$RESTART_EPOCH term"; exit 0' TERM
trap 'echo "$RESTART_EPOCH gone"; exit 0' USR2
echo "$RESTART_EPOCH $$ up"
while :; do sleep 0.02; done
"#;

struct Restarter {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    script: PathBuf,
}

impl Restarter {
    /// Runs this shell script; `None` if there is no Python.
    fn start(name: &str, script: &str) -> Option<Self> {
        Self::start_with(name, script, &["--grace", "10"])
    }

    fn start_with(name: &str, script: &str, options: &[&str]) -> Option<Self> {
        let file = std::env::temp_dir().join(format!("ouro-restarter-{}-{name}.sh", std::process::id()));
        std::fs::write(&file, script).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("hot-restarter.py");
        let process = Command::new("python3")
            .arg(program)
            .args(options)
            .args(["sh".as_ref(), file.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut process) = process else {
            println!("skipped: python3 is missing");
            return None;
        };
        let (sender, lines) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Some(Self { process, lines, seen: Vec::new(), script: file })
    }

    /// Waits for a line with this text, now or earlier, and takes it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(index) = self.seen.iter().position(|line| line.contains(text)) {
                return self.seen.remove(index);
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no line with {text:?}, but {:?}", self.seen),
            }
        }
    }

    /// The process of an epoch, once it is up.
    #[track_caller]
    fn up(&mut self, epoch: u32) -> Pid {
        let line = loop {
            let line = self.expect(" up");
            if line.starts_with(&format!("{epoch} ")) {
                break line;
            }
        };
        Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        assert_eq!(self.process.wait().unwrap().code(), Some(code), "{:?}", self.seen);
    }
}

impl Drop for Restarter {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // Its children get the signal from it, unless it hangs.
            self.signal(Signal::TERM);
            let _ = self.process.wait();
        }
        let _ = std::fs::remove_file(&self.script);
    }
}

fn tell(pid: Pid, signal: Signal) {
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn hup_starts_a_successor_and_the_old_one_may_go() {
    let Some(mut restarter) = Restarter::start("hup", SERVER) else { return };
    let mut old = restarter.up(0);
    for epoch in 1..=3 {
        restarter.signal(Signal::HUP);
        let new = restarter.up(epoch);
        tell(old, Signal::USR2);
        restarter.expect(&format!(
            "epoch {} (process {}) ended with status 0",
            epoch - 1,
            old.as_raw_nonzero()
        ));
        old = new;
    }
    assert!(!restarter.seen.iter().any(|line| line.contains("goes on")), "{:?}", restarter.seen);
    restarter.signal(Signal::TERM);
    restarter.expect("3 term");
    restarter.ends_with(0);
}

#[test]
fn a_failing_successor_harms_nobody_and_the_next_gets_its_epoch() {
    let script = format!("[ ! -e \"$0.broken\" ] || [ \"$RESTART_EPOCH\" = 0 ] || exit 7\n{SERVER}");
    let Some(mut restarter) = Restarter::start("failing", &script) else { return };
    restarter.up(0);
    let broken = restarter.script.with_extension("sh.broken");
    std::fs::write(&broken, "").unwrap();
    for _ in 0..2 {
        restarter.signal(Signal::HUP);
        let failed = restarter.expect("ended with status 7");
        assert!(failed.contains("epoch 1 "), "{failed}");
        let kept = restarter.expect("goes on in its place");
        assert!(kept.contains("epoch 0 "), "{kept}");
    }
    std::fs::remove_file(&broken).unwrap();
    restarter.signal(Signal::HUP);
    restarter.up(1);
    // The old one still lives; the new one dies after all.
    restarter.signal(Signal::HUP);
    let newest = restarter.up(2);
    tell(newest, Signal::KILL);
    restarter.expect("was ended by signal 9");
    restarter.expect("goes on in its place");
    restarter.signal(Signal::HUP);
    restarter.up(2);
    restarter.signal(Signal::INT);
    for epoch in 0..=2 {
        restarter.expect(&format!("{epoch} term"));
    }
    restarter.ends_with(0);
}

#[test]
fn it_ends_with_the_status_of_the_last_one() {
    let Some(mut restarter) = Restarter::start("status", "exit 3") else { return };
    restarter.expect("no process is left, ending with status 3");
    restarter.ends_with(3);
    let Some(mut restarter) = Restarter::start("signal", SERVER) else { return };
    let only = restarter.up(0);
    tell(only, Signal::KILL);
    restarter.ends_with(128 + 9);
}

#[test]
fn a_script_that_cannot_be_run_is_named() {
    let Some(mut restarter) = Restarter::start_with("missing", "", &["/nowhere/start.sh"]) else { return };
    restarter.expect("/nowhere/start.sh cannot be run");
    restarter.ends_with(127);
}

#[test]
fn usr1_reaches_all_and_restarts_nothing() {
    let Some(mut restarter) = Restarter::start("usr1", SERVER) else { return };
    restarter.up(0);
    restarter.signal(Signal::HUP);
    restarter.up(1);
    restarter.signal(Signal::USR1);
    restarter.expect("0 usr1");
    restarter.expect("1 usr1");
    restarter.signal(Signal::TERM);
    restarter.ends_with(0);
}

#[test]
fn quick_hups_never_use_an_epoch_twice_among_the_living() {
    let Some(mut restarter) = Restarter::start("quick", SERVER) else { return };
    restarter.up(0);
    for _ in 0..10 {
        restarter.signal(Signal::HUP);
        std::thread::yield_now();
    }
    // Signals that wait are one; at least one restart comes after the last of them.
    restarter.up(1);
    restarter.signal(Signal::TERM);
    restarter.expect("all processes have ended");
    restarter.ends_with(0);
    let mut epochs: Vec<String> = restarter
        .seen
        .iter()
        .filter(|line| line.ends_with(" started"))
        .map(|line| line.replace(" (", " "))
        .collect();
    epochs.iter_mut().for_each(|line| *line = line.split(' ').nth(2).unwrap().to_owned());
    let count = epochs.len();
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), count, "{:?}", restarter.seen);
}

#[test]
fn a_script_that_ignores_the_epoch_harms_nobody() {
    // As a second process with epoch 0 does: it finds that another one runs, and gives up.
    let script =
        format!("mkdir \"$0.lock\" 2>/dev/null || {{ echo 'another one is running'; exit 1; }}\n{SERVER}");
    let Some(mut restarter) = Restarter::start("ignores", &script) else { return };
    let first = restarter.up(0);
    restarter.signal(Signal::HUP);
    restarter.expect("another one is running");
    restarter.expect("goes on in its place");
    rustix::process::test_kill_process(first).unwrap();
    restarter.signal(Signal::TERM);
    restarter.ends_with(0);
    std::fs::remove_dir(restarter.script.with_extension("sh.lock")).unwrap();
}

#[test]
fn who_does_not_want_to_end_is_killed_after_the_grace_period() {
    let script = "trap 'echo no' TERM\necho \"$RESTART_EPOCH $$ up\"\nwhile :; do sleep 0.02; done";
    let Some(mut restarter) = Restarter::start_with("stubborn", script, &["--grace", "0.3"]) else { return };
    restarter.up(0);
    restarter.signal(Signal::TERM);
    restarter.expect("has not ended within 0.3 s: killing it");
    restarter.ends_with(1);
}

#[test]
fn signals_are_as_usual_for_the_script() {
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; echo done";
    let Some(mut restarter) = Restarter::start("mask", script) else { return };
    restarter.expect("done");
    let blocked = restarter.expect("SigBlk");
    assert!(blocked.ends_with("0000000000000000"), "{blocked}");
    // SIGPIPE is number 13.
    let ignored = restarter.expect("SigIgn");
    let mask = u64::from_str_radix(ignored.rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(mask & (1 << 12), 0, "{ignored}");
}

#[test]
fn help_and_wrong_usage() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("hot-restarter.py");
    let run = |arguments: &[&str]| Command::new("python3").arg(&program).args(arguments).output();
    let Ok(help) = run(&["--help"]) else {
        println!("skipped: python3 is missing");
        return;
    };
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("RESTART_EPOCH") && text.contains("--grace"), "{text}");
    assert_eq!(run(&[]).unwrap().status.code(), Some(2));
    assert_eq!(run(&["--grace", "soon", "x"]).unwrap().status.code(), Some(2));
}
