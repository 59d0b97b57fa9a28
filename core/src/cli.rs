//! The command line. Names and meanings of the options are Envoy's.

mod rates;
mod reader;
pub mod restart;
mod signals;
pub mod stats;
pub mod top;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use self::restart::RestartArgs;
use self::stats::StatsArgs;
use self::top::TopArgs;
use crate::server::{DrainStrategy, Handover, Instance, Options, RestartOptions};

/// Done.
const DONE: u8 = 0;
/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const WRONG: u8 = 2;

/// Workers at most: more than any machine has cores, few enough that a mistyped number does no harm.
const MAX_WORKERS: usize = 1024;

const EXAMPLES: &str = "\
Examples:
  ouro                                   a demo on http://127.0.0.1:8080
  ouro -c ouro.toml                      serve
  ouro -c ouro.toml --mode validate      show every error of a configuration and exit
  ouro restart                           replace the process with base id 0 by a new one
  ouro stats --used-only                 what the instance with base id 0 has counted
  ouro top                               the same as a live screen

Signals: TERM stops, HUP restarts, USR1 opens log files again.
Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration.";

/// Headings of the help.
const SERVING: &str = "Serving";
const RESTARTING: &str = "Instance and restart";
const LOGGING: &str = "Logging";

/// A reverse proxy whose process can be replaced while it serves.
#[derive(Debug, Clone, Parser)]
#[command(name = "ouro", version, about, long_about = None, after_help = EXAMPLES, max_term_width = 110)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do with an instance that is there already; without it, this process becomes one.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Configuration (TOML); without it, a built-in demo runs.
    #[arg(short = 'c', long, value_name = "FILE", help_heading = SERVING)]
    pub config_path: Option<PathBuf>,

    /// "validate" checks the configuration and exits: with 0, or with 2 and every error.
    #[arg(long, value_enum, value_name = "serve|validate", default_value_t = Mode::Serve, hide_possible_values = true)]
    #[arg(help_heading = SERVING)]
    pub mode: Mode,

    /// Worker threads [default: one per CPU that this process may run on].
    #[arg(long, value_name = "N", value_parser = workers, help_heading = SERVING)]
    pub concurrency: Option<NonZeroUsize>,

    /// Pin each worker to a CPU of its own even if there are fewer workers than CPUs.
    #[arg(long, help_heading = SERVING)]
    pub cpuset_threads: bool,

    /// File to write the address of the admin interface to, once it listens.
    #[arg(long, value_name = "FILE", help_heading = SERVING)]
    pub admin_address_path: Option<PathBuf>,

    /// Number that tells instances on one machine apart.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "use_dynamic_base_id")]
    #[arg(help_heading = RESTARTING)]
    pub base_id: u32,

    /// Take a base id that nobody uses.
    #[arg(long, help_heading = RESTARTING)]
    pub use_dynamic_base_id: bool,

    /// File to write the base id to.
    #[arg(long, value_name = "FILE", help_heading = RESTARTING)]
    pub base_id_path: Option<PathBuf>,

    /// 0: nobody serves yet. N: take over from the process with N - 1. auto: take over from whoever serves, if anybody.
    #[arg(long, value_name = "N|auto", default_value = "0", value_parser = epoch, conflicts_with = "use_dynamic_base_id")]
    #[arg(help_heading = RESTARTING)]
    pub restart_epoch: Epoch,

    /// How the old process sends its clients away: more and more of them, or each with its next response.
    #[arg(long, value_enum, value_name = "gradual|immediate", default_value_t = Strategy::Gradual)]
    #[arg(hide_possible_values = true, help_heading = RESTARTING)]
    pub drain_strategy: Strategy,

    /// Seconds over which "gradual" does that.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = RESTARTING)]
    pub drain_time_s: u64,

    /// Seconds after which the old process ends, whatever is left.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, help_heading = RESTARTING)]
    pub parent_shutdown_time_s: u64,

    /// What becomes of the connections of the old process: they move to this one, or end where they are.
    #[arg(long, value_enum, value_name = "live|drain", default_value_t = HandoverMode::Live)]
    #[arg(hide_possible_values = true, help_heading = RESTARTING)]
    pub handover: HandoverMode,

    /// Where old and new process meet; @NAME is abstract [default: in a private directory].
    #[arg(long, value_name = "PATH|@NAME", help_heading = RESTARTING)]
    pub socket_path: Option<OsString>,

    /// Permissions of that socket, octal.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = octal_mode, help_heading = RESTARTING)]
    pub socket_mode: u32,

    /// Start cold if an epoch above 0 finds nobody.
    #[arg(long, help_heading = RESTARTING)]
    pub skip_hot_restart_on_no_parent: bool,

    /// Do not take totals from a process whose shared memory has another layout.
    #[arg(long, help_heading = RESTARTING)]
    pub skip_hot_restart_parent_stats: bool,

    /// No hot restarts: nothing is shared with other processes, counters included.
    #[arg(long, help_heading = RESTARTING)]
    pub disable_hot_restart: bool,

    /// Print which versions restart into each other with shared counters, and exit.
    #[arg(long, help_heading = RESTARTING)]
    pub hot_restart_version: bool,

    /// How much to log: trace, debug, info, warn, error or off.
    #[arg(short = 'l', long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Info)]
    #[arg(hide_possible_values = true, help_heading = LOGGING)]
    pub log_level: LogLevel,

    /// File to log to [default: standard error].
    #[arg(long, value_name = "FILE", help_heading = LOGGING)]
    pub log_path: Option<PathBuf>,
}

/// What acts on an instance from outside.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Show the statistics of a running, stopped or dead instance.
    Stats(StatsArgs),
    /// Replace the process of a running instance by a new one.
    Restart(RestartArgs),
    /// Watch an instance on a live screen.
    Top(TopArgs),
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Serve traffic.
    Serve,
    /// Check the configuration, then exit: with 0 if it is right, with 2 and every error if it is not.
    Validate,
}

/// Restart epoch; `None` is `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub Option<u32>);

/// What becomes of connections in a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HandoverMode {
    /// They move to the new process.
    Live,
    /// They end in the old one, which drains.
    Drain,
}

/// How clients are sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// More and more of them over the drain time.
    Gradual,
    /// Each with its next response.
    Immediate,
}

/// How much is logged; each level includes those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What may become a problem.
    #[value(alias = "warning")]
    Warn,
    /// What has failed.
    #[value(alias = "critical")]
    Error,
    /// Nothing.
    Off,
}

/// The command line of this process. Wrong usage and `--help` end it, with exit codes 2 and 0.
#[must_use]
pub fn parse() -> Args {
    Args::parse()
}

/// Runs a subcommand.
#[must_use]
pub fn run(command: &Command) -> ExitCode {
    ExitCode::from(match command {
        Command::Stats(args) => stats::run(args),
        Command::Restart(args) => restart::run(args),
        Command::Top(args) => top::run(args),
    })
}

impl Args {
    /// Number of workers to start.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.concurrency.map_or_else(default_workers, NonZeroUsize::get)
    }

    /// The CPU that each worker is pinned to. Empty unless there is exactly one for each (or, with `--cpuset-threads`,
    /// at least one): two workers on one CPU would wait for each other while the scheduler could have found them a
    /// better place.
    #[must_use]
    pub fn worker_cpus(&self) -> Vec<usize> {
        let mut cpus = allowed_cpus();
        let workers = self.workers();
        // Two instances that have a part of the machine each must not both take its first CPUs.
        if cpus.len() < workers || (cpus.len() > workers && !self.cpuset_threads) {
            return Vec::new();
        }
        cpus.truncate(workers);
        cpus
    }
}

impl From<Args> for Options {
    fn from(args: Args) -> Self {
        Self {
            workers: args.workers(),
            worker_cpus: args.worker_cpus(),
            instance: if args.use_dynamic_base_id {
                Instance::Dynamic
            } else {
                Instance::BaseId(args.base_id)
            },
            restart: RestartOptions {
                epoch: args.restart_epoch.0,
                disabled: args.disable_hot_restart,
                cold_without_parent: args.skip_hot_restart_on_no_parent,
                parent_stats: !args.skip_hot_restart_parent_stats,
                drain_time_s: args.drain_time_s,
                drain_strategy: match args.drain_strategy {
                    Strategy::Gradual => DrainStrategy::Gradual,
                    Strategy::Immediate => DrainStrategy::Immediate,
                },
                parent_shutdown_time_s: args.parent_shutdown_time_s,
                handover: match args.handover {
                    HandoverMode::Live => Handover::Live,
                    HandoverMode::Drain => Handover::Drain,
                },
                socket_path: args.socket_path,
                socket_mode: args.socket_mode,
            },
            base_id_path: args.base_id_path,
            admin_address_path: args.admin_address_path,
            log_level: args.log_level.to_tracing(),
            config_path: args.config_path,
            log_path: args.log_path,
        }
    }
}

impl LogLevel {
    /// The level as `tracing` has it; `None` for [`LogLevel::Off`].
    #[must_use]
    pub const fn to_tracing(self) -> Option<tracing::Level> {
        match self {
            Self::Trace => Some(tracing::Level::TRACE),
            Self::Debug => Some(tracing::Level::DEBUG),
            Self::Info => Some(tracing::Level::INFO),
            Self::Warn => Some(tracing::Level::WARN),
            Self::Error => Some(tracing::Level::ERROR),
            Self::Off => None,
        }
    }
}

/// Says why a subcommand has failed.
fn fail(error: &str) -> u8 {
    eprintln!("ouro: {error}");
    FAILED
}

fn default_workers() -> usize {
    // Looks at the affinity and at the CPU quota of the control group.
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_WORKERS)
}

/// The CPUs that the affinity of this process allows, in ascending order; empty if the kernel does not tell.
fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn workers(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse::<NonZeroUsize>().ok().filter(|number| number.get() <= MAX_WORKERS);
    number.ok_or_else(|| format!("expected a number from 1 to {MAX_WORKERS}"))
}

fn epoch(text: &str) -> Result<Epoch, String> {
    if text == "auto" {
        return Ok(Epoch(None));
    }
    text.parse().map(|epoch| Epoch(Some(epoch))).map_err(|_| "expected a number or \"auto\"".into())
}

fn octal_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected permission bits such as 600".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("ouro").chain(line.split_whitespace()))
    }

    #[test]
    fn the_declaration_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_have_their_defaults() {
        let args = parse("").unwrap();
        assert_eq!(args.config_path, None);
        assert_eq!((args.mode, args.log_level), (Mode::Serve, LogLevel::Info));
        assert!(args.workers() >= 1);
    }

    #[test]
    fn options_are_read() {
        let line = "-c o.toml --concurrency 3 --cpuset-threads --mode validate -l warning --log-path o.log";
        let args = parse(line).unwrap();
        assert_eq!(args.config_path, Some(PathBuf::from("o.toml")));
        assert_eq!(args.workers(), 3);
        assert_eq!((args.mode, args.log_level), (Mode::Validate, LogLevel::Warn));
        assert_eq!(args.log_path, Some(PathBuf::from("o.log")));
        assert_eq!(args.log_level.to_tracing(), Some(tracing::Level::WARN));
    }

    #[test]
    fn subcommands_are_read() {
        let Some(Command::Stats(_)) = parse("stats --base-id 7 --watch --filter ^a").unwrap().command else {
            panic!("not stats")
        };
        let Some(Command::Top(_)) = parse("top --base-id 7 --interval 500ms").unwrap().command else {
            panic!("not top")
        };
        let Some(Command::Restart(_)) = parse("restart --timeout 5s -- -c o.toml -l debug").unwrap().command
        else {
            panic!("not restart")
        };
        for line in [
            "restart -c o.toml",
            "stats --filter (",
            "stats --watch 0",
            "stats --format xml",
            "-c o.toml stats",
            "top --interval 0s",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn each_pinned_worker_has_a_cpu_of_its_own() {
        let cpus = parse("--cpuset-threads --concurrency 1").unwrap().worker_cpus();
        assert_eq!(cpus, allowed_cpus()[..1]);
        assert!(parse("--cpuset-threads --concurrency 1024").unwrap().worker_cpus().is_empty());
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in ["--concurrency 0", "--concurrency 1025", "--mode run", "--nonsense", "stray", "-l loud"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("--help").unwrap_err().exit_code(), 0);
        assert_eq!(parse("--version").unwrap_err().exit_code(), 0);
    }
}
