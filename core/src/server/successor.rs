//! A process that starts its own successor: on SIGHUP, or because an operator asks for it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use ouro_restart::message::RestartReport;
use tokio::process::{Child, Command};

use super::Options;
use super::link::Operator;
use crate::config;

/// Options that say what a process is among those of its instance: the successor gets its own.
const REPLACED: &[&str] = &["--restart-epoch", "--base-id"];

/// The same without a value.
const DROPPED: &[&str] = &["--use-dynamic-base-id"];

/// A successor that is on its way.
pub(super) struct Successor {
    process: Child,
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

    /// The command that starts a successor.
    fn successor(&self, arguments: Option<&[String]>, base_id: u32) -> Command {
        let mut command = Command::new(&self.program);
        match arguments {
            None => command.args(without_identity(&self.arguments)),
            Some(arguments) => {
                let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
                command.args(without_identity(&arguments))
            }
        };
        command.arg("--base-id").arg(base_id.to_string()).args(["--restart-epoch", "auto"]);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).kill_on_drop(false);
        command
    }
}

fn without_identity(arguments: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::with_capacity(arguments.len());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        if DROPPED.contains(&&*text) {
            continue;
        }
        if REPLACED.contains(&name) {
            if name == text {
                rest.next();
            }
            continue;
        }
        kept.push(argument.clone());
    }
    kept
}

impl Successor {
    /// Starts a successor with the arguments of this process or with others, unless the configuration is wrong.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn start(
        command_line: &CommandLine,
        options: &Options,
        base_id: u32,
        arguments: Option<&[String]>,
    ) -> Result<Self, String> {
        if let (None, Some(path)) = (arguments, &options.config_path)
            && let Err(errors) = config::load(path)
        {
            return Err(format!("the configuration is wrong, nothing is changed:\n{errors}"));
        }
        let process = command_line
            .successor(arguments, base_id)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", command_line.program.display()))?;
        let pid = process.id().unwrap_or(0);
        tracing::info!(pid, "a successor is started");
        Ok(Self { process, pid, begun: Instant::now(), operators: Vec::new() })
    }

    /// This operator wants to know how it goes.
    pub(super) fn tell(&mut self, operator: Option<Operator>) {
        self.operators.extend(operator);
    }

    /// Its end; to be awaited together with other things.
    pub(super) async fn ended(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("its end could not be awaited: {error}"),
        }
    }

    /// It serves, or it has failed for this reason. Tells whoever has asked.
    pub(super) fn report(self, epoch: u32, outcome: Result<(), &str>) {
        for operator in self.operators {
            operator.report(RestartReport {
                succeeded: outcome.is_ok(),
                epoch,
                pid: self.pid,
                why: outcome.err().unwrap_or_default().into(),
                took_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                parent_pid: std::process::id(),
            });
        }
    }
}

/// Tells an operator that there will be no restart.
pub(super) fn refuse(operator: Option<Operator>, why: &str) {
    if let Some(operator) = operator {
        let report =
            RestartReport { why: why.into(), parent_pid: std::process::id(), ..RestartReport::default() };
        operator.report(report);
    }
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

    #[test]
    fn a_successor_gets_everything_but_the_identity() {
        let arguments: Vec<OsString> =
            ["-c", "a=b.toml", "--restart-epoch", "3", "--base-id=7", "--use-dynamic-base-id", "-l", "debug"]
                .map(OsString::from)
                .to_vec();
        assert_eq!(without_identity(&arguments), ["-c", "a=b.toml", "-l", "debug"]);
        let arguments = ["--restart-epoch=auto", "--base-id", "7"].map(OsString::from);
        assert!(without_identity(&arguments).is_empty());
    }
}
