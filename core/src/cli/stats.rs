//! `ouro stats`: the statistics of an instance, read from its segment without asking any process.

mod watch;

use std::io::{self, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use regex::Regex;

use super::reader::Reader;
use crate::stats::render::{Options, json, prometheus, server, text};

const EXAMPLES: &str = "\
Examples:
  ouro stats --filter '^cluster\\.api\\.' --used-only
  ouro stats --format prometheus
  ouro stats --watch 5 --filter rq_total

Works while the proxy is stopped or dead. Exit codes: 0 done, 1 no readable segment, 2 wrong usage.";

/// Longest interval of `--watch`, seconds.
const MAX_INTERVAL_S: f64 = 3600.0;
/// Shortest interval of `--watch`, seconds.
const MIN_INTERVAL_S: f64 = 0.1;

/// Show the statistics of a running, stopped or dead instance.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatsArgs {
    /// Which instance: the base id that it was started with.
    #[arg(long, value_name = "N", default_value_t = 0)]
    base_id: u32,

    /// How to show them.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Only statistics whose name in plain text matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,

    /// Leave out counters that are 0 and histograms without values.
    #[arg(long)]
    used_only: bool,

    /// Print what changes, every so many seconds, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    watch: Option<Duration>,
}

/// How statistics are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As Envoy's `/stats`: a line for each.
    Text,
    /// As Envoy's `/stats?format=json`.
    Json,
    /// Prometheus exposition.
    Prometheus,
}

/// Runs the subcommand; returns the exit code.
#[must_use]
pub fn run(args: &StatsArgs) -> u8 {
    if args.watch.is_some() && args.format != Format::Text {
        eprintln!("ouro: --watch prints text only");
        return super::WRONG;
    }
    let reader = Reader::new(args.base_id, server::SHARES);
    let options = Options { filter: args.filter.clone(), used_only: args.used_only };
    if let Some(interval) = args.watch {
        return watch::run(&reader, &options, interval);
    }
    let mut snapshot = match reader.read() {
        Ok(snapshot) => snapshot,
        Err(error) => return super::fail(&error),
    };
    if !snapshot.is_alive() {
        eprintln!("ouro: {}: these are the last values", reader.nobody());
    }
    server::add(&mut snapshot);
    let output = match args.format {
        Format::Text => text::render(&snapshot, &options),
        Format::Json => json::envoy(&snapshot, &options) + "\n",
        Format::Prometheus => prometheus::render(&snapshot, &options),
    };
    match print(&output) {
        Ok(_) => super::DONE,
        Err(error) => super::fail(&format!("cannot write: {error}")),
    }
}

/// Prints; `false` if nobody reads it any more, which is no error.
pub(super) fn print(text: &str) -> io::Result<bool> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    number
        .filter(|number| (MIN_INTERVAL_S..=MAX_INTERVAL_S).contains(number))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("expected seconds from {MIN_INTERVAL_S} to {MAX_INTERVAL_S}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_may_ignore_case() {
        assert!("(?i)^CLUSTER".parse::<Regex>().unwrap().is_match("cluster.api.upstream_rq_total"));
    }

    #[test]
    fn intervals_are_seconds_within_bounds() {
        assert_eq!(interval("1"), Ok(Duration::from_secs(1)));
        assert_eq!(interval("2.5"), Ok(Duration::from_millis(2500)));
        assert_eq!(interval("10s"), Ok(Duration::from_secs(10)));
        for wrong in ["0", "-1", "nan", "inf", "3601", "1m", ""] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
