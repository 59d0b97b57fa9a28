//! The program as users run it, in its smallest form: no peers, short rounds.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a program may take for what is asked of it here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The proxy, in the same profile as this test. `cargo test -p ouro-bench` alone does not build it.
fn ouro() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_ouro-bench")).with_file_name("ouro");
        if !path.exists() {
            let release = path.parent().is_some_and(|folder| folder.ends_with("release"));
            let mut command = Command::new(env!("CARGO"));
            command.args(["build", "-p", "ouro", "--bin", "ouro"]).args(release.then_some("--release"));
            assert!(command.status().unwrap().success(), "cannot build the proxy");
        }
        path
    })
}

fn bench(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ouro-bench"));
    command.args(line.split_whitespace()).arg("--ouro").arg(ouro()).env("TMPDIR", folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[track_caller]
fn text(output: &Output) -> String {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{errors}", output.status)
}

#[test]
fn the_proxy_and_the_floors_are_measured_without_errors() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let line = "run --scenario small,upload-64k,routes,close,tcp-small --subjects direct,relay,ouro --rounds 1 \
                --seconds 0.1 --own-origin";
    let output = bench(folder.path(), line).arg("--out").arg(out.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let results = read(&out.path().join("results.json"));
    let scenarios = results["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 5);
    // What it makes by default beside the two fields is switched off, because nobody else makes it.
    assert_eq!(results["subjects"][2]["adds"].as_array().unwrap().len(), 0, "{:#}", results["subjects"]);
    for scenario in scenarios {
        let subjects = scenario["subjects"].as_array().unwrap();
        assert_eq!(subjects.len(), 3);
        for subject in subjects {
            let place = format!("{} {}", scenario["name"], subject["name"]);
            assert_eq!(subject["skipped"], Value::Null, "{place}");
            assert_eq!(subject["errors"], 0, "{place}");
            let round = &subject["rounds"][0];
            assert!(round["requests_per_s"].as_f64().unwrap() > 1.0, "{place}");
            assert!(round["p999_us"].as_f64().unwrap() >= round["p50_us"].as_f64().unwrap(), "{place}");
            // Without a proxy there is no CPU of one.
            let cpu_us = subject["value"].as_f64();
            assert_eq!(cpu_us.is_some_and(|value| value > 0.0), subject["name"] != "direct", "{place}");
        }
    }
    let page = std::fs::read_to_string(out.path().join("results.md")).unwrap();
    assert!(page.contains("\n## small\n") && page.contains("| ouro |"), "{page}");
    let plot = std::fs::read_to_string(out.path().join("small.svg")).unwrap();
    assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"), "{plot}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "temporary files are left");
}

#[test]
fn idle_connections_are_weighed() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("idle.json");
    let line = "run --scenario idle --subjects ouro --rounds 1 --seconds 0.1 --own-origin";
    let output = bench(folder.path(), line).arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let subject = &read(&json)["scenarios"][0]["subjects"][0];
    let bytes = subject["value"].as_f64().unwrap();
    assert!((50.0..20_000.0).contains(&bytes), "{subject:#}");
}

#[test]
fn wrong_answers_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    for (wrong, word) in [
        ("status", "wrong status"),
        ("length", "wrong length"),
        ("content", "wrong content"),
        ("closed", "closed early"),
    ] {
        let json = folder.path().join(format!("{wrong}.json"));
        let line =
            format!("run --scenario small --subjects direct,relay --rounds 1 --seconds 0.05 --wrong {wrong}");
        let output = bench(folder.path(), &line).arg("--json").arg(&json).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let results = read(&json);
        for subject in results["scenarios"][0]["subjects"].as_array().unwrap() {
            assert!(subject["errors"].as_u64().unwrap() > 0, "{wrong}: {subject:#}");
            let example = subject["rounds"][0]["examples"][0].as_str().unwrap();
            assert!(example.starts_with(word), "{wrong}: {example}");
        }
    }
}

#[test]
fn a_short_soak_has_nothing_to_complain_of() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("soak.json");
    let line = "soak --restarts 3 --workers 1,2 --configs --echo 20 --websocket 5 --http 5 --short 2 --uploads 2 \
                --downloads 2 --bytes 1MiB --speed 256KiB";
    let out = tempfile::tempdir().unwrap();
    let output =
        bench(folder.path(), line).arg("--json").arg(&json).arg("--out").arg(out.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let outcome = read(&json);
    assert_eq!(outcome, read(&out.path().join("soak.json")));
    let page = std::fs::read_to_string(out.path().join("soak.md")).unwrap();
    assert!(page.starts_with("# Soak\n") && page.contains("**nothing to complain of**"), "{page}");
    assert!(page.contains("\n## Restarts\n\n3 restarts, at most 2 processes"), "{page}");
    // Neither the folder nor the program with its path.
    assert!(!page.contains("/tmp") && !page.contains("/target"), "{page}");
    assert_eq!(outcome["problems"].as_array().unwrap().len(), 0);
    assert_eq!(outcome["restarts"].as_array().unwrap().len(), 3);
    for kind in outcome["kinds"].as_array().unwrap() {
        assert!(kind["done"].as_u64().unwrap() > 0, "{kind:#}");
    }
    std::fs::remove_file(json).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "temporary files are left");
}

#[test]
fn round_trips_are_timed_during_a_move() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("pause.json");
    // A busy machine makes pauses of its own: what is looked at is that there is a number.
    let line = "pause --pairs 50 --pair-every 20ms --restarts 2 --every 700ms --p99 10s --worst 10s";
    let out = tempfile::tempdir().unwrap();
    let output =
        bench(folder.path(), line).arg("--json").arg(&json).arg("--out").arg(out.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let windows = read(&json)["windows"].clone();
    assert!(out.path().join("pause.json").is_file());
    let page = std::fs::read_to_string(out.path().join("pause.md")).unwrap();
    assert!(page.contains("| commit to end of the old one | "), "{page}");
    assert_eq!(windows.as_array().unwrap().len(), 3);
    assert!(windows[0]["round_trips"].as_u64().unwrap() > 0, "{windows:#}");
}

#[test]
fn an_interruption_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let line = "run --scenario small --subjects relay --rounds 1 --seconds 60 --own-origin";
    let mut child = bench(folder.path(), line).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let end = Instant::now() + PATIENCE;
    // The origin and the relay.
    let children = loop {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let children: Vec<String> = text.split_whitespace().map(String::from).collect();
        if children.len() >= 2 {
            break children;
        }
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "it does not begin");
        std::thread::yield_now();
    };
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    for process in children {
        assert!(!Path::new("/proc").join(&process).exists(), "process {process} is left");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "temporary files are left");
}

#[test]
fn a_killed_run_takes_its_processes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let line = "run --scenario small --subjects relay --rounds 1 --seconds 60 --own-origin";
    let mut child = bench(folder.path(), line).spawn().unwrap();
    let path = format!("/proc/{pid}/task/{pid}/children", pid = child.id());
    let end = Instant::now() + PATIENCE;
    let children = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let children: Vec<String> = text.split_whitespace().map(String::from).collect();
        // Only what has become the program it is to be is bound to its parent.
        let is_ready = |pid: &String| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !command.is_empty() && !command.contains("\0exec\0")
        };
        if children.len() >= 2 && children.iter().all(is_ready) {
            break children;
        }
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "it does not begin");
        std::thread::yield_now();
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let alive = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie waits for the reaper of this machine, which is not ours to hurry.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while children.iter().any(alive) {
        assert!(Instant::now() < end, "processes are left: {children:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_missing_proxy_is_told_with_the_remedy() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ouro-bench"));
    command.args([
        "run",
        "--subjects",
        "ouro",
        "--scenario",
        "small",
        "--ouro",
        "/nonexistent/ouro",
        "--own-origin",
    ]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cargo build --release -p ouro"), "{}", text(&output));
}
