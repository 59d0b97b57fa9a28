//! The process: from the command line to running workers, and down again.

mod admin;
mod counting;
pub mod course;
mod link;
mod listen;
mod notify;
mod peers;
mod process;
pub mod roles;
mod running;
mod sockets;
mod state;
mod successor;
mod totals;
mod workers;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use self::counting::Instance;
use self::link::{Link, LinkOptions};
use self::process::{Process, Signals};
use self::successor::CommandLine;
use crate::config::model::Model;
use crate::config::{self, ConfigErrors};
use crate::control::access_log::{self, Job};
use crate::control::demo;
use crate::control::logging::{self, LogFile};
use crate::ring::{self, Capabilities};

/// Done.
const DONE: u8 = 0;
/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const WRONG: u8 = 2;

/// How long the end of the process waits for access-log lines to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// How to run; what the command line says, in terms that need no command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Configuration file; `None` for the demo.
    pub config_path: Option<PathBuf>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// CPU of each worker; empty to pin none.
    pub worker_cpus: Vec<usize>,
    /// Which instance this process belongs to.
    pub instance: Instance,
    /// File to write the base id to.
    pub base_id_path: Option<PathBuf>,
    /// File to write the address of the admin interface to.
    pub admin_address_path: Option<PathBuf>,
    /// How restarts are done.
    pub restart: RestartOptions,
    /// How much to log; `None` for nothing.
    pub log_level: Option<tracing::Level>,
    /// File to log to; `None` for standard error.
    pub log_path: Option<PathBuf>,
}

/// How restarts are done.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // as many switches as the command line has
pub struct RestartOptions {
    /// Epoch of this process; `None` for the one after that of whoever serves.
    pub epoch: Option<u32>,
    /// No hot restarts at all.
    pub disabled: bool,
    /// Start cold if an epoch above 0 finds nobody who serves.
    pub cold_without_parent: bool,
    /// Take totals from a process whose segment has another layout.
    pub parent_stats: bool,
    /// How long the process before spreads sending its clients away, seconds.
    pub drain_time_s: u64,
    /// How it does that.
    pub drain_strategy: DrainStrategy,
    /// How long after the restart it ends at the latest, seconds.
    pub parent_shutdown_time_s: u64,
    /// What becomes of the connections of the process before.
    pub handover: Handover,
    /// Where the restart socket is: a path, or `@name` for the abstract namespace; `None` for the private directory.
    pub socket_path: Option<OsString>,
    /// Permission bits of the restart socket.
    pub socket_mode: u32,
}

/// What becomes of the connections of a process that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// They move to the next process.
    Live,
    /// They end in the process that has them.
    Drain,
}

/// How clients are sent away by a process that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStrategy {
    /// More and more of them over the drain time.
    Gradual,
    /// Each with its next response.
    Immediate,
}

/// Checks a configuration and says everything that is wrong with it.
#[must_use]
pub fn validate(config_path: Option<&Path>) -> ExitCode {
    ExitCode::from(check(config_path))
}

/// Serves until told to stop.
#[must_use]
pub fn serve(options: &Options) -> ExitCode {
    ExitCode::from(start(options))
}

fn check(config_path: Option<&Path>) -> u8 {
    let Some(path) = config_path else {
        eprintln!("ouro: --mode validate needs a configuration: -c FILE");
        return WRONG;
    };
    match config::load(path) {
        Ok(model) => {
            for warning in &model.warnings {
                eprintln!("warning: {warning}");
            }
            println!("{}: configuration OK", path.display());
            DONE
        }
        Err(errors) => refuse(&errors),
    }
}

fn refuse(errors: &ConfigErrors) -> u8 {
    eprintln!("{errors}");
    WRONG
}

fn start(options: &Options) -> u8 {
    let log_file = match logging::start(options.log_level, options.log_path.as_deref()) {
        Ok(log_file) => log_file,
        Err(error) => {
            eprintln!("ouro: cannot log to {:?}: {error}", options.log_path);
            return FAILED;
        }
    };
    let mut demo_listener = None;
    let model = match &options.config_path {
        Some(path) => match config::load(path) {
            Ok(model) => model,
            Err(errors) => return refuse(&errors),
        },
        None => match demo::bind() {
            Ok((listener, address)) => {
                demo_listener = Some(listener);
                config::quick_start(address)
            }
            Err(error) => return fail(&format!("the demo upstream cannot be started: {error}")),
        },
    };
    for warning in &model.warnings {
        tracing::warn!("{warning}");
    }
    let capabilities = match ring::probe() {
        Ok(capabilities) => capabilities,
        Err(error) => return fail(&error.to_string()),
    };
    raise_descriptor_limit();
    if let Err(error) = access_log::check(&model) {
        return fail(&error);
    }
    let workers = options.workers;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = capabilities.kernel,
        engine = "io_uring",
        workers,
        "starting"
    );
    let place = match counting::find(options, &model) {
        Ok(place) => place,
        Err(error) => return fail(&format!("the counters cannot be kept: {error}")),
    };
    let base_id = place.base_id;
    if let Some(path) = &options.base_id_path
        && let Err(error) = std::fs::write(path, format!("{base_id}\n"))
    {
        return fail(&format!("the base id cannot be written to {}: {error}", path.display()));
    }
    let model = Arc::new(model);
    let (jobs, queue) = access_log::channel();
    let surroundings = Surroundings {
        options,
        model: &model,
        capabilities: &capabilities,
        jobs: &jobs,
        place: &place,
        base_id,
    };
    let command_line = CommandLine::of_this_process();
    let code = tokio_uring::start(run(&surroundings, &log_file, command_line, demo_listener, queue));
    if options.instance == Instance::Dynamic
        && let Some(segment) = &place.own
        && !segment.live_processes().iter().any(|p| p.pid != std::process::id())
    {
        // Nobody will find it again.
        let _ = ouro_shm::Segment::unlink(base_id);
    }
    code
}

fn fail(reason: &str) -> u8 {
    tracing::error!("{reason}");
    if !logging::is_on_stderr() {
        // The log may be a file that nobody looks at while starting by hand.
        eprintln!("ouro: {reason}");
    }
    FAILED
}

/// A proxy needs two descriptors per connection; the soft limit is often 1024 while the hard one is generous.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, %error, "the limit on open files could not be raised");
    }
}

/// What does not change while the process lives.
struct Surroundings<'a> {
    options: &'a Options,
    model: &'a Arc<Model>,
    capabilities: &'a Capabilities,
    /// To the writer of access logs.
    jobs: &'a tokio::sync::mpsc::Sender<Job>,
    place: &'a counting::Place,
    base_id: u32,
}

/// The control thread: everything that is not traffic.
async fn run(
    surroundings: &Surroundings<'_>,
    log_file: &LogFile,
    command_line: CommandLine,
    demo_listener: Option<std::net::TcpListener>,
    queue: tokio::sync::mpsc::Receiver<Job>,
) -> u8 {
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("signals cannot be received: {error}")),
    };
    if let Some(listener) = demo_listener {
        tokio::task::spawn_local(demo::serve(listener));
    }
    tokio::task::spawn_local(access_log::write(queue));
    let link = match link_options(surroundings.options, surroundings.base_id) {
        Ok(options) => options.map(Link::new),
        Err(error) => return fail(&error),
    };
    let code = Process::new(surroundings, log_file, command_line, signals, link).run().await;
    let (done, flushed) = tokio::sync::oneshot::channel();
    if surroundings.jobs.send(Job::Flush(done)).await.is_ok() {
        let _ = tokio::time::timeout(LOG_PATIENCE, flushed).await;
    }
    tracing::info!("stopped");
    code
}

/// How this process finds the others of its instance; `None` where there are no hot restarts.
fn link_options(options: &Options, base_id: u32) -> Result<Option<LinkOptions>, String> {
    let restart = &options.restart;
    if restart.disabled {
        return Ok(None);
    }
    let address = restart_address(restart.socket_path.as_deref(), base_id)?;
    let mut identity =
        ouro_restart::Identity::new(env!("CARGO_PKG_VERSION"), ouro_shm::LAYOUT_VERSION, base_id);
    identity.capabilities.push(ouro_restart::message::CAPABILITY_PARCELS.into());
    Ok(Some(LinkOptions {
        address,
        mode: restart.socket_mode,
        identity,
        child: ouro_restart::child::Options {
            epoch: restart.epoch,
            cold_without_parent: restart.cold_without_parent,
            totals: restart.parent_stats,
            live: restart.handover == Handover::Live,
            drain_ms: process::drain_ms(restart.drain_strategy, restart.drain_time_s),
            parent_shutdown_ms: restart.parent_shutdown_time_s.saturating_mul(1000),
        },
    }))
}

/// Where the processes of an instance meet: as `--socket-path` says, or in a private directory, which is created.
///
/// # Errors
/// Why the directory cannot be used, in words.
pub fn restart_address(socket_path: Option<&OsStr>, base_id: u32) -> Result<ouro_restart::Address, String> {
    if let Some(path) = socket_path {
        return Ok(ouro_restart::Address::from_option(path, base_id));
    }
    let directory = ouro_restart::address::socket_directory_of_this_process();
    ouro_restart::address::prepare_directory(&directory, nix::unistd::geteuid().as_raw())
        .map_err(|error| format!("no place for the restart socket: {error}"))?;
    Ok(ouro_restart::Address::in_directory(&directory, base_id))
}

/// The version that must agree for a hot restart: that of the protocol and that of the segment.
#[must_use]
pub fn hot_restart_version() -> String {
    ouro_restart::Identity::new(env!("CARGO_PKG_VERSION"), ouro_shm::LAYOUT_VERSION, 0).hot_restart_version
}

/// A point in time; a year counts as never.
fn after(ms: u64) -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_millis(ms).min(Duration::from_secs(365 * 24 * 3600))
}
