//! A process that starts its own successor: on SIGHUP, or because an operator asks for it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ouro_restart::message::RestartReport;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::peers::Operator;

/// Options that say what a process is among those of its instance: the successor gets its own.
const IDENTITY: &[&str] = &["--restart-epoch", "--base-id", "--socket-path"];

/// The same without a value.
const IDENTITY_SWITCHES: &[&str] = &["--use-dynamic-base-id"];

/// How long the configuration may take to be checked.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// From its start until a successor has taken over or failed. Longer than the deadlines of the restart itself, which end
/// most attempts far sooner: this is for a process that hangs before it has said a word.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// Bytes that are said about a failure at most.
const WHY_BYTES_MAX: usize = 8 * 1024;

/// A successor that is on its way.
pub(super) struct Successor {
    launch: Launch,
    /// Until it is known whether the configuration is right.
    check: Option<JoinHandle<Result<(), String>>>,
    process: Option<Child>,
    pid: u32,
    begun: Instant,
    operators: Vec<Operator>,
}

/// The program and its arguments as they were when the process started: the file may be another one by now, which is
/// what upgrades are made of, and the directory as well.
#[derive(Debug, Clone)]
pub(super) struct CommandLine {
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
}

impl CommandLine {
    /// That of this process.
    pub(super) fn of_this_process() -> Self {
        let mut arguments = std::env::args_os();
        let program = PathBuf::from(arguments.next().unwrap_or_default());
        let directory = std::env::current_dir().ok();
        // A name without a slash was looked up in PATH, a relative one from this directory.
        let program = if program.components().count() > 1 {
            directory.as_ref().map_or_else(|| program.clone(), |directory| directory.join(&program))
        } else {
            std::env::current_exe().unwrap_or(program)
        };
        Self { program, arguments: arguments.collect(), directory }
    }
}

/// How a successor is started.
#[derive(Debug)]
pub(super) struct Launch {
    /// Without those that say what it is among the processes of its instance.
    command_line: CommandLine,
    base_id: u32,
    socket_path: Option<OsString>,
}

impl Launch {
    /// That of a process like this one, or of one with other arguments.
    ///
    /// # Errors
    /// The arguments are such that it could not take over.
    pub(super) fn new(
        command_line: &CommandLine,
        arguments: Option<Vec<String>>,
        base_id: u32,
        socket_path: Option<&OsStr>,
    ) -> Result<Self, String> {
        let mut command_line = command_line.clone();
        if let Some(arguments) = arguments {
            if arguments.iter().any(|argument| argument == "--disable-hot-restart") {
                return Err("with --disable-hot-restart a process cannot take over from another one".into());
            }
            command_line.arguments = arguments.into_iter().map(OsString::from).collect();
        }
        command_line.arguments = without(&command_line.arguments, IDENTITY, IDENTITY_SWITCHES);
        Ok(Self { command_line, base_id, socket_path: socket_path.map(OsStr::to_owned) })
    }

    /// Starts the successor.
    fn successor(&self) -> Result<Child, String> {
        let mut command = self.command(&self.command_line.arguments);
        command.arg("--base-id").arg(self.base_id.to_string());
        if let Some(path) = &self.socket_path {
            command.arg("--socket-path").arg(path);
        }
        command.args(["--restart-epoch", "auto"]).kill_on_drop(false);
        self.spawn(&mut command)
    }

    /// Starts the check of the arguments and of the configuration that they name; `None` if they name none. The program
    /// that is to serve does that itself: an upgrade may know more keys than the process that runs.
    fn check(&self) -> Result<Option<Child>, String> {
        let arguments = &self.command_line.arguments;
        if !arguments.iter().any(|argument| names_configuration(&argument.to_string_lossy())) {
            return Ok(None);
        }
        let mut command = self.command(&without(arguments, &["--mode"], &[]));
        command.args(["--mode", "validate"]).kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        self.spawn(&mut command).map(Some)
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.command_line.program);
        command.args(arguments).stdin(Stdio::null());
        if let Some(directory) = &self.command_line.directory {
            command.current_dir(directory);
        }
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, String> {
        let program = &self.command_line.program;
        command.spawn().map_err(|error| format!("{} cannot be started: {error}", program.display()))
    }
}

/// Arguments without these options and their values, and without these switches.
fn without(arguments: &[OsString], options: &[&str], switches: &[&str]) -> Vec<OsString> {
    let mut kept = Vec::with_capacity(arguments.len());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        if switches.contains(&&*text) {
            continue;
        }
        if options.contains(&name) {
            if name == text {
                rest.next();
            }
            continue;
        }
        kept.push(argument.clone());
    }
    kept
}

fn names_configuration(argument: &str) -> bool {
    let is_short = argument.starts_with("-c");
    is_short || argument == "--config-path" || argument.starts_with("--config-path=")
}

/// Waits for what a check says.
async fn checked(mut checker: Child) -> Result<(), String> {
    let mut said = Vec::new();
    let read_and_wait = async {
        if let Some(errors) = checker.stderr.take() {
            // What is longer than that is cut; the checker may find nobody who reads the rest.
            errors.take(WHY_BYTES_MAX as u64).read_to_end(&mut said).await?;
        }
        checker.wait().await
    };
    let status = match timeout(CHECK_PATIENCE, read_and_wait).await {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(format!("the configuration cannot be checked: {error}")),
        Err(_) => {
            return Err(format!(
                "checking the configuration took longer than {} s",
                CHECK_PATIENCE.as_secs()
            ));
        }
    };
    let said = String::from_utf8_lossy(&said);
    Err(match status.code() {
        Some(2) => format!(
            "the configuration or the command line is wrong, nothing is changed:\n{}",
            said.trim_end()
        ),
        _ => format!("the configuration cannot be checked ({status}):\n{}", said.trim_end()),
    })
}

impl Successor {
    /// Begins to start a successor, whose configuration is checked first.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn start(launch: Launch) -> Result<Self, String> {
        let check = launch.check()?.map(|checker| tokio::task::spawn_local(checked(checker)));
        let is_checked = check.is_none();
        let begun = Instant::now();
        let mut successor = Self { launch, check, process: None, pid: 0, begun, operators: Vec::new() };
        if is_checked {
            successor.start_process()?;
        }
        Ok(successor)
    }

    /// This operator wants to know how it goes.
    pub(super) fn tell(&mut self, operator: Option<Operator>) {
        self.operators.extend(operator);
    }

    /// Why there will be none; to be awaited together with other things, again and again.
    pub(super) async fn failed(&mut self) -> String {
        if let Some(check) = &mut self.check {
            let outcome = check.await.map_err(|_| "the check of the configuration was broken off".to_owned());
            self.check = None;
            if let Err(why) = outcome.and_then(|result| result).and_then(|()| self.start_process()) {
                return why;
            }
        }
        let Some(process) = &mut self.process else { return std::future::pending().await };
        match timeout_at(self.begun + START_PATIENCE, process.wait()).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => format!("its end could not be awaited: {error}"),
            Err(_) => {
                // That it is gone already is fine too.
                let _ = process.start_kill();
                format!("it has not taken over within {} s and is killed", START_PATIENCE.as_secs())
            }
        }
    }

    /// Whether it is the process with this id.
    pub(super) fn is(&self, pid: u32) -> bool {
        self.pid != 0 && self.pid == pid
    }

    /// Nobody needs it any more.
    pub(super) fn stop(&self) {
        if let Some(check) = &self.check {
            check.abort();
        }
        let pid = self.process.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            // It has not been waited for, so the number is its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// It serves, or it has failed for this reason. Tells whoever has asked.
    pub(super) fn report(self, epoch: u32, outcome: Result<(), &str>) {
        for operator in self.operators {
            operator.report(RestartReport {
                succeeded: outcome.is_ok(),
                epoch,
                pid: self.pid,
                why: bounded(outcome.err().unwrap_or_default()).into(),
                took_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                parent_pid: std::process::id(),
            });
        }
    }

    fn start_process(&mut self) -> Result<(), String> {
        let process = self.launch.successor()?;
        self.pid = process.id().unwrap_or(0);
        self.process = Some(process);
        tracing::info!(pid = self.pid, "a successor is started");
        Ok(())
    }
}

/// Tells an operator that there will be no restart.
pub(super) fn refuse(operator: Option<Operator>, why: &str) {
    if let Some(operator) = operator {
        let report = RestartReport {
            why: bounded(why).into(),
            parent_pid: std::process::id(),
            ..RestartReport::default()
        };
        operator.report(report);
    }
}

/// The text, cut so that it fits into a message.
fn bounded(text: &str) -> &str {
    text.get(..text.floor_char_boundary(WHY_BYTES_MAX)).unwrap_or_default()
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(2) => "its command line or its configuration is wrong (exit code 2); it says more itself".into(),
        Some(code) => format!("it has ended with exit code {code}; it says more itself"),
        None => format!("it was killed: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(own: &[&str], others: Option<&[&str]>) -> Result<Launch, String> {
        let command_line = CommandLine {
            program: "ouro".into(),
            arguments: own.iter().map(OsString::from).collect(),
            directory: None,
        };
        let others = others.map(|others| others.iter().map(ToString::to_string).collect());
        Launch::new(&command_line, others, 7, Some(OsStr::new("@x")))
    }

    #[test]
    fn a_successor_gets_everything_but_the_identity() {
        let own =
            ["-c", "a=b.toml", "--restart-epoch", "3", "--base-id=7", "--use-dynamic-base-id", "-l", "debug"];
        assert_eq!(launch(&own, None).unwrap().command_line.arguments, ["-c", "a=b.toml", "-l", "debug"]);
        let own = ["--restart-epoch=auto", "--base-id", "7", "--socket-path", "/x"];
        assert!(launch(&own, None).unwrap().command_line.arguments.is_empty());
        let other = ["-c", "c.toml", "--base-id", "8"];
        assert_eq!(launch(&own, Some(&other)).unwrap().command_line.arguments, ["-c", "c.toml"]);
    }

    #[test]
    fn a_successor_that_could_not_take_over_is_not_started() {
        assert!(launch(&[], Some(&["-c", "c.toml", "--disable-hot-restart"])).is_err());
    }

    #[test]
    fn only_arguments_that_name_a_configuration_are_checked() {
        for argument in ["-c", "-cx.toml", "--config-path", "--config-path=x.toml"] {
            assert!(names_configuration(argument), "{argument}");
        }
        for argument in ["--concurrency", "--cpuset-threads", "c"] {
            assert!(!names_configuration(argument), "{argument}");
        }
    }
}
