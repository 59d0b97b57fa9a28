//! `ouro restart`: asks the process that serves to start its successor, and says how it went.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ouro_restart::child::ConnectFailure;
use ouro_restart::message::{Message, RestartReport, RestartRequest};
use ouro_restart::transport::is_trusted;
use ouro_restart::{Address, Connection, Frame};
use serde_json::{Value, json};

use super::stats::print;
use crate::server::restart_address;

const EXAMPLES: &str = "\
Examples:
  ouro restart                             the instance with base id 0, as it was started
  ouro restart --base-id 7 --format json
  ouro restart -- -c new.toml -l debug     with other arguments

The process that serves starts the new one, as its user and with its environment. If the new one
fails, nothing has changed. Exit codes: 0 a new process serves, 1 none does, 2 wrong usage.";

/// Shortest and longest `--timeout`.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// Number of our only request.
const REQUEST_ID: u32 = 1;

/// Replace the process of a running instance by a new one.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RestartArgs {
    /// Which instance: the base id that it was started with.
    #[arg(long, value_name = "N", default_value_t = 0)]
    base_id: u32,

    /// Its restart socket, if it was started with this option.
    #[arg(long, value_name = "PATH|@NAME")]
    socket_path: Option<OsString>,

    /// How long to wait for the outcome.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
    timeout: Duration,

    /// How to show it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Arguments of the new process instead of those of the old one.
    #[arg(last = true, value_name = "NEW ARGUMENTS")]
    arguments: Option<Vec<String>>,
}

/// How the outcome is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A sentence.
    Text,
    /// An object on one line, on standard output whatever the outcome.
    Json,
}

/// Runs the subcommand; returns the exit code.
#[must_use]
pub fn run(args: &RestartArgs) -> u8 {
    let outcome = ask(args);
    let code = if matches!(&outcome, Ok(report) if report.succeeded) { super::DONE } else { super::FAILED };
    let printed = match args.format {
        Format::Json => print(&format!("{}\n", to_json(args.base_id, &outcome))),
        Format::Text => match to_text(args.base_id, &outcome) {
            Ok(text) => print(&text),
            Err(text) => {
                eprintln!("ouro: {text}");
                Ok(true)
            }
        },
    };
    match printed {
        Ok(_) => code,
        Err(error) => super::fail(&format!("cannot write: {error}")),
    }
}

/// Asks for a restart and waits for the report.
///
/// # Errors
/// Why there is no report, in words.
fn ask(args: &RestartArgs) -> Result<RestartReport, String> {
    let address = restart_address(args.socket_path.as_deref(), args.base_id)?;
    // Root may well operate a service that runs as another user. Nothing is entrusted to it but the request.
    let is_root = nix::unistd::geteuid().is_root();
    let mut connection = Connection::connect_checked(&address, |uid| is_root || is_trusted(uid))
        .map_err(|failed| not_connected(args.base_id, &address, failed))?;
    let request = RestartRequest {
        replaces_arguments: args.arguments.is_some(),
        arguments: args.arguments.clone().unwrap_or_default(),
    };
    let who = connection.peer_pid().map_or_else(|| "the process".to_owned(), |pid| format!("process {pid}"));
    connection
        .send(&Frame::new(REQUEST_ID, request), &[])
        .map_err(|error| format!("{who} at {address} cannot be asked: {error}"))?;
    let deadline = Instant::now() + args.timeout;
    loop {
        let received = connection.receive().map_err(|error| {
            format!("{who} at {address} has given no report: {error}; its log may say more")
        })?;
        match received.map(|received| received.frame.message) {
            Some(Message::RestartReport(report)) => return Ok(report),
            Some(Message::NotUnderstood(_)) => {
                return Err(format!(
                    "{who} at {address} is of a version that cannot do this: send it SIGHUP"
                ));
            }
            // Nothing else is for us.
            Some(_) => {}
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let patience = humantime::format_duration(args.timeout);
                    return Err(format!(
                        "{who} has reported nothing within {patience}; the restart may still go on, its log says more"
                    ));
                }
                let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
                connection.wait(left_ms).map_err(|error| format!("cannot wait for {who}: {error}"))?;
            }
        }
    }
}

fn not_connected(base_id: u32, address: &Address, (failure, why): (ConnectFailure, String)) -> String {
    match failure {
        ConnectFailure::Nobody => format!(
            "no instance with base id {base_id} answers at {address}\n\
             If one is running: say --base-id and --socket-path as it was started, and be its user. One that runs with \
             --disable-hot-restart has to be stopped and started.\n\
             If none is running, start one: ouro --base-id {base_id} -c FILE"
        ),
        ConnectFailure::Busy => {
            format!("the instance with base id {base_id} is too busy to answer: {why}; try again")
        }
        ConnectFailure::Refused => {
            format!("the instance with base id {base_id} cannot be asked: {why}; be its user, or root")
        }
    }
}

/// What to print; the error is for standard error.
fn to_text(base_id: u32, outcome: &Result<RestartReport, String>) -> Result<String, String> {
    match outcome {
        Ok(report) if report.succeeded => {
            let RestartReport { epoch, pid, took_ms, parent_pid, .. } = report;
            Ok(format!(
                "base id {base_id}: process {pid} serves (restart epoch {epoch}), {took_ms} ms after the request; \
                 process {parent_pid} lets its connections end\n"
            ))
        }
        Ok(report) => Err(format!(
            "no restart of base id {base_id}, says process {}: {}",
            report.parent_pid, report.why
        )),
        Err(why) => Err(why.clone()),
    }
}

/// The same fields whatever has happened; `null` for what there is not.
fn to_json(base_id: u32, outcome: &Result<RestartReport, String>) -> Value {
    let number = |number: u32| Some(number).filter(|number| *number > 0);
    let report = outcome.as_ref().ok();
    let succeeded = report.is_some_and(|report| report.succeeded);
    json!({
        "base_id": base_id,
        "succeeded": succeeded,
        "old_pid": report.and_then(|report| number(report.parent_pid)),
        "new_pid": report.and_then(|report| number(report.pid)),
        "epoch": report.filter(|_| succeeded).map(|report| report.epoch),
        "took_ms": report.map(|report| report.took_ms),
        "why": match outcome {
            Ok(report) if report.succeeded => None,
            Ok(report) => Some(&report.why),
            Err(why) => Some(why),
        },
    })
}

fn timeout(text: &str) -> Result<Duration, String> {
    let (min, max) = TIMEOUTS;
    let timeout = humantime::parse_duration(text).ok().filter(|timeout| (min..=max).contains(timeout));
    timeout.ok_or_else(|| {
        let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
        format!("expected a time from {min} to {max}, such as 60s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_has_the_same_fields_each_time() {
        let report = RestartReport {
            succeeded: true,
            epoch: 3,
            pid: 12,
            took_ms: 48,
            parent_pid: 9,
            ..Default::default()
        };
        assert_eq!(
            to_json(7, &Ok(report)).to_string(),
            r#"{"base_id":7,"succeeded":true,"old_pid":9,"new_pid":12,"epoch":3,"took_ms":48,"why":null}"#
        );
        let refusal = RestartReport { parent_pid: 9, why: "no".into(), ..Default::default() };
        assert_eq!(
            to_json(7, &Ok(refusal)).to_string(),
            r#"{"base_id":7,"succeeded":false,"old_pid":9,"new_pid":null,"epoch":null,"took_ms":0,"why":"no"}"#
        );
        assert_eq!(
            to_json(7, &Err("nobody".into())).to_string(),
            r#"{"base_id":7,"succeeded":false,"old_pid":null,"new_pid":null,"epoch":null,"took_ms":null,"why":"nobody"}"#
        );
    }

    #[test]
    fn timeouts_have_bounds() {
        assert_eq!(timeout("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["0s", "2h", "60", "soon"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }
}
