//! `ouro restart`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::instance::{Instance, ended, saying, send};
use crate::support::proxy::Builder;
use crate::support::{BaseId, TempDir};

#[test]
fn it_says_who_serves_now() {
    let instance = Instance::start();
    let old = instance.serving(0);
    let (stdout, stderr) = ended(&instance.restart(&[]).output().unwrap(), 0);
    let new = instance.serving(1);
    assert!(stdout.contains(&format!("process {new} serves (restart epoch 1)")), "{stdout}");
    assert!(stdout.contains(&format!("process {old} lets its connections end")), "{stdout}");
    assert_eq!(stderr, "");
    assert_eq!(instance.answer(), "one");
}

#[test]
fn json_has_it_as_fields() {
    let instance = Instance::start();
    let old = instance.serving(0);
    let (stdout, _) = ended(&instance.restart(&["--format", "json"]).output().unwrap(), 0);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["succeeded"], true);
    assert_eq!(report["base_id"], instance.base_id().0);
    assert_eq!((&report["old_pid"], &report["epoch"]), (&old.into(), &1.into()));
    assert_eq!(report["new_pid"], instance.serving(1));
    assert!(report["took_ms"].as_u64().unwrap() < 10_000 && report["why"].is_null(), "{report}");

    std::fs::write(instance.config(), "nonsense").unwrap();
    let (stdout, _) = ended(&instance.restart(&["--format", "json"]).output().unwrap(), 1);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["succeeded"], false);
    assert!(report["why"].as_str().unwrap().contains("ouro.toml:1:"), "{report}");
    assert!(report["epoch"].is_null() && report["new_pid"].is_null(), "{report}");
}

#[test]
fn new_arguments_replace_the_old_ones() {
    let instance = Instance::start();
    instance.serving(0);
    let other = instance.path("other.toml");
    std::fs::write(&other, saying("other")).unwrap();
    let other = other.to_str().unwrap();
    // Neither the base id nor the socket has to be said again, and neither can be changed.
    ended(
        &instance.restart(&["--", "-c", other, "--base-id", "1", "--concurrency", "2"]).output().unwrap(),
        0,
    );
    assert_eq!(instance.answer(), "other");
    // They stay for the next one.
    ended(&instance.restart(&[]).output().unwrap(), 0);
    let pid = instance.serving(2);
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.contains("other.toml") && line.contains("--concurrency\0"), "{line:?}");
    assert_eq!(line.matches("--socket-path").count(), 1, "{line:?}");
}

#[test]
fn what_is_wrong_with_new_arguments_is_said() {
    let instance = Instance::start();
    let pid = instance.serving(0);
    let broken = instance.path("broken.toml");
    std::fs::write(&broken, "[[listeners]]\nnme = 1\n").unwrap();
    for (arguments, expected) in [
        (vec!["--", "-c", broken.to_str().unwrap()], "broken.toml:2:1:"),
        (vec!["--", "-c", "/nowhere.toml"], "/nowhere.toml"),
        (vec!["--", "-c", broken.to_str().unwrap(), "--nonsense"], "unexpected argument '--nonsense'"),
        (vec!["--", "--nonsense"], "exit code 2"),
        (vec!["--", "--disable-hot-restart"], "cannot take over"),
    ] {
        let (stdout, stderr) = ended(&instance.restart(&arguments).output().unwrap(), 1);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(stderr.contains(&format!("says process {pid}")), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "");
        assert_eq!(instance.answer(), "one");
    }
    ended(&instance.restart(&[]).output().unwrap(), 0);
}

#[test]
fn of_two_at_once_one_is_told() {
    let instance = Instance::start();
    let pid = instance.serving(0);
    // The first is held up by a pipe from which it reads its configuration.
    let pipe = instance.path("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let first = instance.restart(&["--", "-c", pipe.to_str().unwrap()]).spawn().unwrap();
    // Opening it for writing waits for the reader.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let (_, stderr) = ended(&instance.restart(&[]).output().unwrap(), 1);
    assert!(stderr.contains("a successor is on its way already"), "{stderr}");
    writer.write_all(b"nonsense").unwrap();
    drop(writer);
    let (_, stderr) = ended(&first.wait_with_output().unwrap(), 1);
    assert!(stderr.contains("pipe.toml:1:"), "{stderr}");
    assert_eq!(instance.serving(0), pid);
    ended(&instance.restart(&[]).output().unwrap(), 0);
}

#[test]
fn an_operator_need_not_wait() {
    let instance = Instance::start();
    instance.serving(0);
    let pipe = instance.path("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let arguments = ["--timeout", "200ms", "--", "-c", pipe.to_str().unwrap()];
    let (_, stderr) = ended(&instance.restart(&arguments).output().unwrap(), 1);
    assert!(stderr.contains("has reported nothing within 200ms"), "{stderr}");
    assert_eq!(instance.answer(), "one");
}

#[test]
fn stopping_the_instance_ends_the_attempt_with_a_reason() {
    let instance = Instance::start();
    let pid = instance.serving(0);
    let pipe = instance.path("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let waiting = instance.restart(&["--", "-c", pipe.to_str().unwrap()]).spawn().unwrap();
    let _writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    send(pid, Signal::SIGTERM);
    let (_, stderr) = ended(&waiting.wait_with_output().unwrap(), 1);
    assert!(stderr.contains("is stopped"), "{stderr}");
    instance.expect_exit(0);
}

#[test]
fn nobody_there_is_said_with_what_to_do() {
    let (dir, base_id) = (TempDir::new(), BaseId::new());
    let restart = |format| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ouro"));
        command.args(["restart", "--base-id", &base_id.0.to_string(), "--format", format, "--socket-path"]);
        command.arg(format!("{}/", dir.path().display())).stdin(Stdio::null()).output().unwrap()
    };
    let (stdout, stderr) = ended(&restart("text"), 1);
    assert_eq!(stdout, "");
    assert!(stderr.contains(&format!("no instance with base id {} answers at", base_id.0)), "{stderr}");
    assert!(stderr.contains(&format!("ouro --base-id {} -c FILE", base_id.0)), "{stderr}");
    let (stdout, stderr) = ended(&restart("json"), 1);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(report["succeeded"] == false && report["old_pid"].is_null(), "{report}");
    assert_eq!(stderr, "");
}

#[test]
fn an_instance_without_hot_restarts_cannot_be_asked() {
    let instance = Instance::start_with(Builder::new(saying("one")), &["--disable-hot-restart"]);
    let (_, stderr) = ended(&instance.restart(&[]).output().unwrap(), 1);
    assert!(stderr.contains("--disable-hot-restart has to be stopped and started"), "{stderr}");
    assert_eq!(instance.answer(), "one");
}
