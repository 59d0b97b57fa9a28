//! `ouro top`: an instance on a live screen.

mod model;
mod screen;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::model::{Frame, Tracker};
use self::view::{Flow, View};
use super::reader::Reader;
use super::signals::Signals;

/// Shortest and longest interval between two readings.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// How long a signal may wait until it is looked for.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(250);

/// Scopes whose shares tell what each worker does.
const SHARES: &[&str] = &["worker", "listener", "http"];

const KEYS: &str = "\
Keys: q quit, Tab or 1-3 change the table, arrows scroll, s sort, p pause, ? help.

Works while the proxy is stopped or dead. Needs a terminal; `ouro stats --watch` needs none.";

/// Watch an instance on a live screen.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = KEYS)]
pub struct TopArgs {
    /// Which instance: the base id that it was started with.
    #[arg(long, value_name = "N", default_value_t = 0)]
    base_id: u32,

    /// How often to read, from 100ms to 1m.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

/// Runs the subcommand; returns the exit code.
#[must_use]
pub fn run(args: &TopArgs) -> u8 {
    if !io::stdout().is_terminal() {
        return super::fail("top needs a terminal; try: ouro stats --watch");
    }
    let reader = Reader::new(args.base_id, SHARES);
    // Before the screen is taken, so that the message stays to be read.
    let mut source = match Source::new(reader) {
        Ok(source) => source,
        Err(error) => return super::fail(&error),
    };
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return super::fail(&format!("cannot wait for signals: {error}")),
    };
    // A panic restores the terminal too: the hook that this installs comes before the message.
    let result = ratatui::try_init().and_then(|mut terminal| {
        watch(&mut source, args.interval, &signals, |frame, view| {
            terminal.draw(|area| screen::draw(area, frame, view)).map(|_| ())
        })
    });
    let restored = ratatui::try_restore();
    match result.and(restored) {
        Ok(()) => super::DONE,
        Err(error) => super::fail(&format!("the terminal failed: {error}")),
    }
}

/// Reads, draws and obeys keys until told to stop.
fn watch(
    source: &mut Source,
    interval: Duration,
    signals: &Signals,
    mut draw: impl FnMut(&Frame, &mut View) -> io::Result<()>,
) -> io::Result<()> {
    let mut view = View::new(source.reader.base_id(), interval);
    let mut next_read = Instant::now() + interval;
    draw(&source.frame, &mut view)?;
    while !signals.has_come() {
        let now = Instant::now();
        let mut is_stale = false;
        if now >= next_read && !view.is_paused {
            source.read();
            next_read = now + interval;
            is_stale = true;
        }
        let wait = next_read.saturating_duration_since(now).min(SIGNAL_PATIENCE);
        if event::poll(if is_stale { Duration::ZERO } else { wait.max(Duration::from_millis(1)) })? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if view.press(key) == Flow::Quit {
                        return Ok(());
                    }
                    is_stale = true;
                }
                Event::Resize(..) => is_stale = true,
                _ => {}
            }
        }
        if is_stale {
            draw(&source.frame, &mut view)?;
        }
    }
    Ok(())
}

/// Where frames come from.
struct Source {
    reader: Reader,
    tracker: Tracker,
    frame: Frame,
    started: Instant,
}

impl Source {
    /// # Errors
    /// A message for the user if there is nothing to read at all.
    fn new(reader: Reader) -> Result<Self, String> {
        let mut tracker = Tracker::default();
        let frame = tracker.observe(Duration::ZERO, reader.read()?);
        Ok(Self { reader, tracker, frame, started: Instant::now() })
    }

    /// Makes the next frame. What cannot be read leaves the last one and the reason.
    fn read(&mut self) {
        match self.reader.read() {
            Ok(snapshot) => self.frame = self.tracker.observe(self.started.elapsed(), snapshot),
            Err(error) => self.frame.problem = Some(error),
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let (min, max) = INTERVALS;
    let interval = humantime::parse_duration(text).ok().filter(|interval| (min..=max).contains(interval));
    interval.ok_or_else(|| {
        format!(
            "expected a time from {} to {}",
            humantime::format_duration(min),
            humantime::format_duration(max)
        )
    })
}
