//! Measurements of the Ouro proxy and its peers.

mod content;
mod cpu;
mod load;
mod machine;
mod micro;
mod origin;
mod peers;
mod process;
mod relay;
mod report;
mod restart;
mod run;
mod soak;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Longest measurement of `cpu`, seconds.
const MAX_SECONDS: u64 = 24 * 3600;

const EXAMPLES: &str = "\
Examples:
  ouro-bench run --out bench/results     everything, into a folder
  ouro-bench run --quick                 a smoke test
  ouro-bench run --scenario small,close --subjects ouro,nginx --rounds 5
  ouro-bench restart --restarts 10 --every 5
  ouro-bench soak --restarts 20 --every 1s
  ouro-bench pause --pairs 5000
  ouro-bench micro
  ouro-bench cpu --pid 4711 --seconds 10

Exit codes: 0 done, 1 failed at run time or errors in what was measured, 2 wrong usage.";

/// Benchmarks of the Ouro proxy against its peers.
#[derive(Debug, Parser)]
#[command(name = "ouro-bench", version, about, after_help = EXAMPLES, max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all subjects side by side.
    Run(Box<run::Options>),
    /// Compare proxies: restart each under load and tell what its clients noticed.
    Restart(Box<restart::Options>),
    /// Prove on Ouro alone that restarts break nothing: many clients, many restarts, every byte compared.
    Soak(Box<soak::Options>),
    /// Measure how long connections stand still while thousands of them move to a new process.
    Pause(Box<soak::PauseOptions>),
    /// Measure small parts of the proxy.
    Micro(micro::Options),
    /// Measure how much CPU time all threads of a process use.
    Cpu {
        /// The process.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        pid: u32,
        /// For so long.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        seconds: u64,
    },
    /// One of the parts, so many times.
    #[command(hide = true)]
    MicroCase { name: String, times: u64 },
    /// Become another program, pinned and in a session of its own.
    #[command(hide = true)]
    Exec {
        #[arg(long, value_delimiter = ',')]
        cpus: Vec<usize>,
        #[arg(long)]
        parent: u32,
        #[arg(long)]
        began: Option<std::path::PathBuf>,
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
    /// The built-in origin.
    #[command(hide = true)]
    Origin {
        #[arg(long)]
        http: u16,
        #[arg(long)]
        echo: u16,
        #[arg(long)]
        wrong: Option<origin::Wrong>,
    },
    /// The floor: a bare relay of bytes.
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        listen: u16,
        #[arg(long)]
        to: u16,
    },
}

fn main() -> ExitCode {
    match dispatch(Args::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ouro-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether what was measured is sound.
fn dispatch(command: Command) -> Result<bool, String> {
    match command {
        Command::Run(options) => {
            machine::prepare()?;
            run::run(&options)
        }
        Command::Restart(options) => {
            machine::prepare()?;
            restart::run(&options)
        }
        Command::Soak(options) => {
            machine::prepare()?;
            soak::run(&options)
        }
        Command::Pause(options) => {
            machine::prepare()?;
            soak::run_pause(&options)
        }
        Command::Micro(options) => {
            machine::prepare()?;
            micro::run(&options).map(|()| true)
        }
        Command::MicroCase { name, times } => micro::run_case(&name, times).map(|()| true),
        Command::Cpu { pid, seconds } => {
            println!("{}", cpu::measure(pid, Duration::from_secs(seconds))?);
            Ok(true)
        }
        Command::Exec { cpus, parent, began, argv } => {
            Err(process::exec(&cpus, parent, began.as_deref(), &argv))
        }
        Command::Origin { http, echo, wrong } => origin::serve(http, echo, wrong).map(|()| true),
        Command::Relay { listen, to } => relay::serve(listen, to).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("ouro-bench").chain(line.split_whitespace()))
    }

    #[test]
    fn the_declaration_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_are_read_in_any_order() {
        for line in ["cpu --pid 12 --seconds 3", "cpu --seconds 3 --pid 12"] {
            assert!(matches!(parse(line).unwrap().command, Command::Cpu { pid: 12, seconds: 3 }));
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
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
            "run --rounds 0",
            "run --seconds 0",
            "run --subjects apache",
            "run --scenario small,nope",
            "micro nope",
            "restart --restarts 0",
            "soak --bytes 1GB",
            "soak --workers 0",
            "pause --every x",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
