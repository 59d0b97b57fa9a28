//! Options of `soak` and `pause`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::tally::Kind;

/// Clients of a kind at most: their descriptors would not suffice for more.
const MAX_CLIENTS: i64 = 100_000;

/// Restarts at most.
const MAX_RESTARTS: i64 = 10_000;

/// Longest times, seconds.
const MAX_SECONDS: i64 = 3600;

const EXAMPLES: &str = "\
Examples:
  ouro-bench soak                                             300 restarts, 100 ms apart
  ouro-bench soak --restarts 20 --every 1s --workers 2,1 --configs
  ouro-bench soak --restarts 10 --bytes 16MiB                 in a few seconds
  ouro-bench soak --handover drain --echo 0 --websocket 0 --uploads 0 --downloads 0 --http-every 0s --short 40

Exit codes: 0 nothing to complain of, 1 something was not as it must be, 2 wrong usage.";

const PAUSE_EXAMPLES: &str = "\
Examples:
  ouro-bench pause                                            10 000 connections: 5000 relayed pairs
  ouro-bench pause --http 20                                  with HTTP load beside
  ouro-bench pause --pairs 500 --restarts 3                   in a few seconds

Exit codes: 0 nothing to complain of, 1 something was not as it must be, 2 wrong usage.";

/// Options of `ouro-bench soak`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(super) restarts: Restarts,
    /// TCP connections with bytes in both directions.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number(), help_heading = CLIENTS)]
    echo: u32,
    /// Time between two pieces on each, on average.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = time, help_heading = CLIENTS)]
    echo_every: Duration,
    /// WebSocket connections.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = number(), help_heading = CLIENTS)]
    websocket: u32,
    /// Time between two groups of messages on each, on average.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = time, help_heading = CLIENTS)]
    websocket_every: Duration,
    /// HTTP clients that keep their connection.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(), help_heading = CLIENTS)]
    http: u32,
    /// Their pause between two requests, on average; 0s for a tight loop.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = time, help_heading = CLIENTS)]
    http_every: Duration,
    /// HTTP clients with a connection for each request.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number(), help_heading = CLIENTS)]
    short: u32,
    /// Their pause between two requests, on average.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = time, help_heading = CLIENTS)]
    short_every: Duration,
    /// Uploads at the same time.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number(), help_heading = CLIENTS)]
    uploads: u32,
    /// Downloads at the same time.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number(), help_heading = CLIENTS)]
    downloads: u32,
    /// Length of each.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size, help_heading = CLIENTS)]
    bytes: u64,
    /// Bytes in a second of each, until the last restart.
    #[arg(long, value_name = "SIZE", default_value = "2MiB", value_parser = size, help_heading = CLIENTS)]
    speed: u64,
    /// Break off the transfers at the end instead of running them to their checksum as fast as they go.
    #[arg(long, help_heading = CLIENTS)]
    no_finish: bool,
}

/// Options of `ouro-bench pause`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = PAUSE_EXAMPLES, args_override_self = true)]
#[command(mut_arg("restarts", |arg| arg.default_value("5")), mut_arg("every", |arg| arg.default_value("3s")))]
pub(crate) struct PauseOptions {
    #[command(flatten)]
    pub(super) restarts: Restarts,
    /// Connections through the TCP listener, two for the proxy each.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = number(), help_heading = CLIENTS)]
    pairs: u32,
    /// Each sends a byte so often.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time, help_heading = CLIENTS)]
    pair_every: Duration,
    /// HTTP clients beside, in a tight loop.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number(), help_heading = CLIENTS)]
    http: u32,
    /// Of the round trips during a move, 99 % must be shorter.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = time)]
    pub(super) p99: Duration,
    /// And all must be shorter than this.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = time)]
    pub(super) worst: Duration,
}

/// Heading of the help.
const CLIENTS: &str = "Clients";

/// What is the same for both.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Restarts {
    /// Restarts.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(0..=MAX_RESTARTS))]
    pub(super) restarts: u32,
    /// From the end of one (the old process is gone; in a drain: the new one serves) to the begin of the next.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = time)]
    pub(super) every: Duration,
    /// Count that from the moment when the new process serves, even if the old one still lives.
    #[arg(long)]
    pub(super) overlap: bool,
    /// What becomes of connections: they move to the new process, or end in the old one.
    #[arg(long, value_enum, default_value_t = HandoverMode::Live)]
    pub(super) handover: HandoverMode,
    /// Workers of each generation, taken in turns.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "2", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) workers: Vec<u16>,
    /// Two configurations in turns: clusters get other names, a route comes and goes.
    #[arg(long)]
    pub(super) configs: bool,
    /// With drain: seconds over which old processes send their clients away.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=MAX_SECONDS.cast_unsigned()))]
    pub(super) drain_time: u64,
    /// Seconds after which an old process ends, whatever is left.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS.cast_unsigned()))]
    pub(super) old_lives: u64,
    /// Time for long transfers to end after the last restart.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
    pub(super) finish_within: Duration,
    /// Sizes, pauses and content of another run again [default: a new one].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How much Ouro logs.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub(super) log_level: String,
    /// Keep what the processes logged in this folder.
    #[arg(long, value_name = "DIR")]
    pub(super) logs: Option<PathBuf>,
    /// Program of the proxy [default: `ouro` beside this program].
    #[arg(long, value_name = "PATH")]
    pub(super) ouro: Option<PathBuf>,
    /// Write the outcome as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write it into this folder as JSON and as Markdown: soak.json and soak.md, or pause.json and pause.md.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// What becomes of connections in a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HandoverMode {
    /// They move.
    Live,
    /// They end in the old process.
    Drain,
}

/// Who there is, and how fast.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) echo: u32,
    pub(super) websocket: u32,
    pub(super) http: u32,
    pub(super) short: u32,
    pub(super) uploads: u32,
    pub(super) downloads: u32,
    pub(super) pairs: u32,
    pub(super) echo_every: Duration,
    pub(super) websocket_every: Duration,
    pub(super) http_every: Duration,
    pub(super) short_every: Duration,
    pub(super) pair_every: Duration,
    /// Length of a transfer, and how fast it is in a second.
    pub(super) bytes: u64,
    pub(super) speed: u64,
    /// Transfers run to their end.
    pub(super) finish: bool,
}

impl Clients {
    /// How many there are of a kind.
    pub(super) fn number(&self, kind: Kind) -> u64 {
        u64::from(match kind {
            Kind::Echo => self.echo,
            Kind::Websocket => self.websocket,
            Kind::Http => self.http,
            Kind::Short => self.short,
            Kind::Upload => self.uploads,
            Kind::Download => self.downloads,
            Kind::Pair => self.pairs,
        })
    }
}

impl Restarts {
    /// The seed, a new one unless it was given.
    pub(super) fn seed(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
        self.seed.unwrap_or_else(now)
    }
}

impl Options {
    /// The clients.
    ///
    /// # Errors
    /// When transfers would have no byte or not move.
    pub(super) fn clients(&self) -> Result<Clients, String> {
        if self.uploads + self.downloads > 0 && (self.bytes == 0 || self.speed == 0) {
            return Err("--bytes and --speed must not be 0".into());
        }
        Ok(Clients {
            echo: self.echo,
            websocket: self.websocket,
            http: self.http,
            short: self.short,
            uploads: self.uploads,
            downloads: self.downloads,
            pairs: 0,
            echo_every: self.echo_every,
            websocket_every: self.websocket_every,
            http_every: self.http_every,
            short_every: self.short_every,
            pair_every: Duration::ZERO,
            bytes: self.bytes,
            speed: self.speed,
            finish: !self.no_finish,
        })
    }
}

impl PauseOptions {
    /// The clients.
    pub(super) const fn clients(&self) -> Clients {
        Clients {
            echo: 0,
            websocket: 0,
            http: self.http,
            short: 0,
            uploads: 0,
            downloads: 0,
            pairs: self.pairs,
            echo_every: Duration::ZERO,
            websocket_every: Duration::ZERO,
            http_every: Duration::ZERO,
            short_every: Duration::ZERO,
            pair_every: self.pair_every,
            bytes: 0,
            speed: 0,
            finish: true,
        }
    }
}

fn number() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=MAX_CLIENTS)
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let most = Duration::from_secs(MAX_SECONDS.unsigned_abs());
    if time > most { Err(format!("at most {} s", most.as_secs())) } else { Ok(time) }
}

/// Reads "64KiB", "1GiB" or a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0), ("", 0)];
    let read = units.into_iter().find_map(|(unit, shift)| {
        let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
        number.checked_shl(shift).filter(|size| size >> shift == number)
    });
    read.ok_or_else(|| "expected a size such as 64KiB, 16MiB or 1GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("12"), Ok(12));
        for wrong in ["", "GiB", "1GB", "-1", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("100ms"), Ok(Duration::from_millis(100)));
        assert!(time("2h").is_err() && time("x").is_err());
    }
}
