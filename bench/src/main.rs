//! Measurements of the Ouro proxy and its peers.

mod cpu;

use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
Usage: ouro-bench cpu --pid PID --seconds N

Measures for N seconds how much CPU time all threads of a process use, and prints it.

Exit codes: 0 done, 1 failed at run time, 2 wrong usage.";

/// Longest measurement, seconds.
const MAX_SECONDS: u64 = 24 * 3600;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Cpu { pid: u32, seconds: u64 },
}

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match parse(&args) {
        Err(error) => {
            eprintln!("ouro-bench: {error}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(Command::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Command::Cpu { pid, seconds }) => match cpu::measure(pid, Duration::from_secs(seconds)) {
            Ok(report) => {
                println!("{report}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("ouro-bench: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn parse(args: &[String]) -> Result<Command, String> {
    let Some((command, options)) = args.split_first() else { return Err("no command given".into()) };
    match command.as_str() {
        "-h" | "--help" | "help" => return Ok(Command::Help),
        "cpu" => {}
        other => return Err(format!("there is no command {other:?}")),
    }
    let (mut pid, mut seconds) = (None, None);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        if matches!(option.as_str(), "-h" | "--help") {
            return Ok(Command::Help);
        }
        let place = match option.as_str() {
            "--pid" => &mut pid,
            "--seconds" => &mut seconds,
            other => return Err(format!("there is no option {other:?}")),
        };
        let text = rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = text.parse::<u64>().ok().filter(|number| *number > 0);
        *place = Some(number.ok_or_else(|| format!("{option}: expected a number from 1, found {text:?}"))?);
    }
    let pid = pid.ok_or("--pid is missing")?;
    let seconds = seconds.ok_or("--seconds is missing")?;
    if seconds > MAX_SECONDS {
        return Err(format!("--seconds: expected at most {MAX_SECONDS}"));
    }
    let pid = u32::try_from(pid).map_err(|_| format!("--pid: {pid} is no process id"))?;
    Ok(Command::Cpu { pid, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, String> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_in_any_order() {
        let expected = Ok(Command::Cpu { pid: 12, seconds: 3 });
        assert_eq!(parse_line("cpu --pid 12 --seconds 3"), expected);
        assert_eq!(parse_line("cpu --seconds 3 --pid 12"), expected);
        assert_eq!(parse_line("cpu --help"), Ok(Command::Help));
    }

    #[test]
    fn wrong_usage_is_told() {
        for line in [
            "",
            "gpu",
            "cpu",
            "cpu --pid 12",
            "cpu --seconds 3",
            "cpu --pid 12 --seconds",
            "cpu --pid x --seconds 3",
            "cpu --pid 12 --seconds 0",
            "cpu --pid 12 --seconds 86401",
            "cpu --pid 4294967296 --seconds 3",
            "cpu --pid 12 --seconds 3 --loud",
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
