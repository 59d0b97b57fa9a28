//! The process: from the command line to running workers, and down again.

mod admin;
mod counting;
mod listen;
mod workers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::admin::{Admin, Desk, EndpointBook};
use self::counting::Counting;
pub use self::counting::Instance;
use self::listen::{Shown, UnixPaths};
use self::workers::{Event, Workers};
use crate::config::model::{Address, Model};
use crate::config::{self, ConfigErrors};
use crate::control::access_log::{self, Job};
use crate::control::admin::{AdminListener, Command, Stage};
use crate::control::logging::{self, LogFile};
use crate::control::{demo, resolve};
use crate::ring::{self, Capabilities};
use crate::stats::ClusterScope;
use crate::upstream::{Endpoints, Resolved};
use crate::worker::Message;

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
    /// How much to log; `None` for nothing.
    pub log_level: Option<tracing::Level>,
    /// File to log to; `None` for standard error.
    pub log_path: Option<PathBuf>,
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
    let counting = match Counting::start(options, &model) {
        Ok(counting) => counting,
        Err(error) => return fail(&format!("the counters cannot be kept: {error}")),
    };
    if let Some(path) = &options.base_id_path
        && let Err(error) = std::fs::write(path, format!("{}\n", counting.base_id()))
    {
        return fail(&format!("the base id cannot be written to {}: {error}", path.display()));
    }
    tokio_uring::start(run(
        Arc::new(model),
        options,
        log_file,
        demo_listener,
        capabilities,
        Rc::new(counting),
    ))
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

/// The control thread: everything that is not traffic.
async fn run(
    model: Arc<Model>,
    options: &Options,
    log_file: LogFile,
    demo_listener: Option<std::net::TcpListener>,
    capabilities: Capabilities,
    counting: Rc<Counting>,
) -> u8 {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("signals cannot be received: {error}")),
    };
    if let Some(listener) = demo_listener {
        tokio::task::spawn_local(demo::serve(listener));
    }
    let (jobs, queue) = access_log::channel();
    tokio::task::spawn_local(access_log::write(queue));

    let mut sockets = Vec::new();
    let mut unix_paths = UnixPaths::default();
    let mut addresses = Vec::new();
    for listener in &model.listeners {
        match listen::bind(listener, options.workers) {
            Ok(bound) => {
                unix_paths.add(&bound.address);
                sockets.push(bound.sockets);
                addresses.push(bound.address);
            }
            Err(error) => return fail(&error.to_string()),
        }
    }
    // All at once: a resolver that does not answer costs its time-out only once.
    let lookups: Vec<_> = model
        .clusters
        .iter()
        .map(|cluster| {
            let cluster = Arc::clone(cluster);
            tokio::task::spawn_local(async move {
                let mut known = resolve::Known::new();
                (resolve::resolve(&cluster, &mut known).await.0, known)
            })
        })
        .collect();
    let (mut resolved, mut known) = (Vec::new(), Vec::new());
    for lookup in lookups {
        let Ok((addresses, names)) = lookup.await else { return fail("resolving names failed") };
        resolved.push(addresses);
        known.push(names);
    }
    let admin_listener = match model.admin.as_ref().map(|admin| bind_admin(&admin.address, options)) {
        None => None,
        Some(Ok(listener)) => {
            unix_paths.add(listener.address());
            Some(listener)
        }
        Some(Err(error)) => return fail(&error),
    };
    let endpoints: Vec<_> = model
        .clusters
        .iter()
        .zip(&resolved)
        .map(|(cluster, found)| counting.endpoints(cluster, found))
        .collect();
    let start = workers::Start {
        model: &model,
        sockets,
        endpoints: &endpoints,
        counting: &counting,
        cpus: &options.worker_cpus,
        capabilities: &capabilities,
    };
    let workers = match Workers::start(start, options.workers, &jobs) {
        Ok(workers) => workers,
        Err(error) => return fail(&format!("a worker cannot be started: {error}")),
    };
    let (workers, mut events) = workers;
    for _ in 0..options.workers {
        match events.recv().await {
            Some(Event::Ready) => {}
            Some(Event::Ended(Err(error))) => return fail(&error),
            Some(Event::Ended(Ok(()))) | None => return fail("a worker ended while starting"),
        }
    }
    for (listener, address) in model.listeners.iter().zip(&addresses) {
        tracing::info!(listener = listener.name, address = %Shown(address), "listening");
    }
    let mut desk = Desk::new();
    let book = EndpointBook::default();
    for (cluster, endpoints) in endpoints.iter().enumerate() {
        book.write(cluster, endpoints);
    }
    let admin = admin_listener.map(|listener| {
        let state = admin::state(&desk, &model, options, &addresses, &counting, &book, &capabilities);
        Admin::start(listener, state)
    });
    admin::set_stage(&desk, &counting, Stage::Live);
    counting.count_start();
    tracing::info!(pid = std::process::id(), base_id = counting.base_id(), "ready");

    let workers = Arc::new(workers);
    for (index, cluster) in
        model.clusters.iter().enumerate().filter(|(_, cluster)| resolve::has_names(cluster))
    {
        tokio::task::spawn_local(keep_resolving(
            Arc::clone(&workers),
            Arc::clone(cluster),
            index,
            (Rc::clone(&counting), book.clone()),
            (resolved[index].clone(), endpoints[index].clone()),
            std::mem::take(&mut known[index]),
        ));
    }
    tokio::task::spawn_local(counting::keep_folding(counting.segment().clone()));
    let mut supervisor = Supervisor {
        workers: &workers,
        desk: &mut desk,
        counting: &counting,
        jobs: &jobs,
        log_file: &log_file,
        shutdown_timeout_ms: model.server.shutdown_timeout_ms,
    };
    let code = supervisor.run(&mut events, &mut signals).await;
    if let Some(admin) = admin {
        admin.stop().await;
    }
    let (done, flushed) = tokio::sync::oneshot::channel();
    if jobs.send(Job::Flush(done)).await.is_ok() {
        let _ = tokio::time::timeout(LOG_PATIENCE, flushed).await;
    }
    tracing::info!("stopped");
    code
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}

/// Binds the admin interface, and says where it is to whoever asked.
fn bind_admin(address: &Address, options: &Options) -> Result<AdminListener, String> {
    let listener = AdminListener::bind(address)
        .map_err(|error| format!("admin interface: cannot listen on {}: {error}", Shown(address)))?;
    if let Some(path) = &options.admin_address_path {
        std::fs::write(path, format!("{}\n", Shown(listener.address()))).map_err(|error| {
            format!("the address of the admin interface cannot be written to {}: {error}", path.display())
        })?;
    }
    Ok(listener)
}

/// Waits for the end: of the process by a signal or a command, or of a worker by a fault.
struct Supervisor<'a> {
    workers: &'a Workers,
    desk: &'a mut Desk,
    counting: &'a Counting,
    jobs: &'a tokio::sync::mpsc::Sender<Job>,
    log_file: &'a LogFile,
    shutdown_timeout_ms: u64,
}

impl Supervisor<'_> {
    async fn run(&mut self, events: &mut tokio::sync::mpsc::Receiver<Event>, signals: &mut Signals) -> u8 {
        let mut running = self.workers.len();
        let mut code = DONE;
        let mut stopping = false;
        let deadline = tokio::time::sleep(Duration::MAX);
        tokio::pin!(deadline);
        while running > 0 {
            let mut stop = false;
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Ended(Ok(()))) => running -= 1,
                    Some(Event::Ended(Err(error))) => {
                        running -= 1;
                        code = fail(&error);
                        self.workers.tell(|| Message::Stop);
                    }
                    Some(Event::Ready) => {}
                    None => return fail("all workers are gone"),
                },
                () = stop_asked(&mut signals.terminate, &mut signals.interrupt) => stop = true,
                () = &mut deadline, if stopping => {
                    tracing::warn!("what is still in flight is cut off");
                    self.workers.tell(|| Message::Stop);
                    deadline.as_mut().reset(after(u64::MAX));
                }
                _ = signals.reopen.recv() => {
                    if let Err(error) = self.log_file.reopen() {
                        tracing::error!(%error, "the log file was not reopened");
                    }
                    let _ = self.jobs.send(Job::Reopen).await;
                }
                Some(command) = self.desk.commands.recv() => stop = self.obey(command),
            }
            if stop && stopping {
                tracing::info!("stopping at once");
                self.workers.tell(|| Message::Stop);
            } else if stop {
                stopping = true;
                tracing::info!(timeout_ms = self.shutdown_timeout_ms, "finishing what is in flight");
                admin::set_stage(self.desk, self.counting, Stage::Draining);
                self.workers.tell(|| Message::Drain);
                deadline.as_mut().reset(after(self.shutdown_timeout_ms));
            }
        }
        code
    }

    /// Carries out what the admin interface asks for. Says whether the process is to stop.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::DrainListeners { graceful, done } => {
                self.workers.tell(|| Message::StopAccepting { graceful });
                admin::set_stage(self.desk, self.counting, Stage::Draining);
                let _ = done.send(Ok(()));
            }
            // The interface has changed what it answers; nothing else depends on it.
            Command::HealthcheckFail | Command::HealthcheckOk => {}
            Command::SetLogLevel { level, done } => {
                let _ = done.send(self.log_file.set_level(level));
            }
            Command::ResetCounters { done } => {
                let segment = self.counting.segment().clone();
                tokio::task::spawn_blocking(move || {
                    let _ = done.send(segment.reset_counters().map_err(|error| error.to_string()));
                });
            }
            Command::Quit => return true,
        }
        false
    }
}

async fn stop_asked(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A point in time; a year counts as never.
fn after(ms: u64) -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_millis(ms).min(Duration::from_secs(365 * 24 * 3600))
}

async fn keep_resolving(
    workers: Arc<Workers>,
    cluster: Arc<config::model::Cluster>,
    index: usize,
    (counting, book): (Rc<Counting>, EndpointBook),
    (mut current, mut endpoints): (Resolved, Endpoints),
    mut known: resolve::Known,
) {
    let stats = counting.cluster(index);
    loop {
        tokio::time::sleep_until(after(cluster.resolve_period_ms)).await;
        stats.inc(ClusterScope::UPDATE_ATTEMPT);
        let (resolved, failed) = resolve::resolve(&cluster, &mut known).await;
        stats.inc(if failed { ClusterScope::UPDATE_FAILURE } else { ClusterScope::UPDATE_SUCCESS });
        if resolved != current {
            tracing::info!(cluster = cluster.name, endpoints = resolved.len(), "endpoints have changed");
            let counted = counting.endpoints(&cluster, &resolved);
            workers.tell(|| Message::Endpoints(index, counted.clone()));
            counting.forget(&endpoints, &counted);
            book.write(index, &counted);
            (current, endpoints) = (resolved, counted);
        }
    }
}
