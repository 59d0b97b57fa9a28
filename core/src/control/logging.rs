//! The process log: `tracing` to standard error or to a file that can be reopened.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// The log, for those who change it while it runs.
#[derive(Clone)]
pub struct LogFile {
    opened: Option<Arc<Opened>>,
    level: reload::Handle<LevelFilter, Registry>,
}

struct Opened {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    /// Opens the file again under its name.
    ///
    /// # Errors
    /// When that fails; the old file is written on then.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(opened) = &self.opened {
            let file = open(&opened.path)?;
            *opened.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        }
        Ok(())
    }

    /// Logs so much from now on; `None` for nothing.
    ///
    /// # Errors
    /// When the log is gone, which it is not while the process lives.
    pub fn set_level(&self, level: Option<tracing::Level>) -> Result<(), String> {
        let filter = level.map_or(LevelFilter::OFF, LevelFilter::from_level);
        self.level.reload(filter).map_err(|error| error.to_string())
    }
}

/// Set when events go to standard error.
static ON_STDERR: AtomicBool = AtomicBool::new(false);

/// Whether events of level `ERROR` are seen on standard error.
#[must_use]
pub fn is_on_stderr() -> bool {
    ON_STDERR.load(Ordering::Relaxed)
}

/// Starts logging at `level` (`None`: nothing) to `path`, or to standard error.
///
/// # Errors
/// When the file cannot be opened.
pub fn start(level: Option<tracing::Level>, path: Option<&Path>) -> io::Result<LogFile> {
    let filter = level.map_or(LevelFilter::OFF, LevelFilter::from_level);
    let opened = match path {
        None => None,
        Some(path) => Some(Arc::new(Opened { path: path.into(), file: Mutex::new(open(path)?) })),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_target(false);
    let done = match &opened {
        None => {
            let layer = layer.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
            registry.with(layer).try_init()
        }
        Some(opened) => {
            registry.with(layer.with_ansi(false).with_writer(Writer(Arc::clone(opened)))).try_init()
        }
    };
    done.map_err(io::Error::other)?;
    ON_STDERR.store(level.is_some() && path.is_none(), Ordering::Relaxed);
    Ok(LogFile { opened, level: handle })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

struct Writer(Arc<Opened>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Arc::clone(&self.0))
    }
}

/// Writes one event.
struct Line(Arc<Opened>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
