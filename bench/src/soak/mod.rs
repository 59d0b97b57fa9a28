//! `ouro-bench soak` and `ouro-bench pause`: Ouro alone, restarted again and again under clients that compare every byte.
//!
//! Clients and origin are two threads of this process, each with an event loop of its own. The first thread starts the
//! processes of Ouro and watches them.

mod clients;
mod counters;
mod generations;
mod options;
mod origin;
mod outcome;
mod pattern;
mod pause;
mod tally;
mod wire;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::counters::Compared;
use self::generations::{Generations, Setup};
use self::options::{Clients, HandoverMode, Restarts};
pub(crate) use self::options::{Options, PauseOptions};
use self::origin::Listeners;
use self::outcome::{Memory, Outcome};
use self::tally::{Kind, Shared};
use crate::machine::{self, Machine};
use crate::peers::{self, Setting, Shape, Subject, Values};
use crate::report;

/// How long all clients may take until each had its first success.
const BEGIN_PATIENCE: Duration = Duration::from_secs(60);

/// Before the first restart, with all clients there; and after the last.
const SETTLE: Duration = Duration::from_secs(1);

/// How long clients may take for their last exchange when it is not long.
const FINISH_PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at whether this run is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Descriptors of this process beside those of connections.
const OTHER_DESCRIPTORS: u64 = 100;

/// Runs `soak`. Returns whether everything was as it must be.
///
/// # Errors
/// When nothing can be shown at all, results cannot be written, or this process was asked to end.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let outcome = soak(&options.restarts, options.clients()?)?;
    finish(&options.restarts, "soak", &outcome)
}

/// Runs `pause`. Returns whether everything was as it must be.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_pause(options: &PauseOptions) -> Result<bool, String> {
    let mut outcome = soak(&options.restarts, options.clients())?;
    outcome.judge_pauses(options.p99, options.worst);
    finish(&options.restarts, "pause", &outcome)
}

fn finish(options: &Restarts, name: &str, outcome: &Outcome) -> Result<bool, String> {
    println!("{}", outcome.text());
    let out = |suffix: &str| options.out.as_ref().map(|folder| folder.join(format!("{name}.{suffix}")));
    for path in options.json.iter().cloned().chain(out("json")) {
        report::write_json(&path, outcome)?;
    }
    if let Some(path) = out("md") {
        report::write(&path, &outcome.page(name))?;
    }
    Ok(outcome.problems.is_empty())
}

fn soak(options: &Restarts, clients: Clients) -> Result<Outcome, String> {
    let seed = options.seed();
    // At once, so that a run that is broken off can be repeated.
    println!("seed {seed}");
    check_descriptors(&clients)?;
    let found = peers::find(Subject::Ouro, options.ouro.as_deref())?;
    let folder = tempfile::Builder::new().prefix("ouro-bench-").tempdir();
    let folder = folder.map_err(|error| format!("temporary folder: {error}"))?;
    let ports = [machine::free_port()?, machine::free_port()?];
    let (listeners, origins) = listen()?;
    let base_id = generations::base_id();
    let variants: &[&str] = if options.configs { &["a", "b"] } else { &["a"] };
    let mut configs = Vec::new();
    for variant in variants {
        configs.push(configure(folder.path(), variant, ports, origins)?);
    }
    let mut generations = Generations::start(Setup {
        program: found.program,
        folder: folder.path().to_owned(),
        base_id,
        configs,
        workers: options.workers.clone(),
        cpus: machine::allowed_cpus(),
        handover: options.handover,
        drain_time_s: options.drain_time,
        old_lives_s: options.old_lives,
        log_level: options.log_level.clone(),
    })?;
    let shared = Arc::new(Shared::new(clients, seed, ports[0], ports[1]));
    let mut threads = Threads::start(&shared, listeners)?;
    begin(&shared, &mut generations)?;
    let before = Memory::of(generations.weigh());
    let stopped = restart_all(options, &mut generations, &shared);
    if machine::check_interrupt().is_err() {
        return Err(machine::INTERRUPTION.into());
    }
    let mut problems: Vec<String> = stopped.err().into_iter().collect();
    let healthy = problems.is_empty();
    let after = Memory::of(generations.weigh());
    let mut compared = Vec::new();
    if healthy {
        eprintln!("clients finish …");
        problems.extend(threads.finish(&shared, &mut generations, options.finish_within)?);
        compared = counters::compare(base_id, &shared, !options.configs)?;
        problems.extend(look_for_leftovers(options, &mut generations, base_id)?);
    }
    shared.abort();
    let most_alive = generations.most_alive();
    let restarts = generations.restarts().to_vec();
    if healthy {
        problems.extend(generations.finish()?);
    }
    let (lines, log) = generations.log_lines();
    if let Some(logs) = &options.logs {
        generations.keep_logs(logs)?;
    }
    let mut outcome = Outcome {
        command: report::command(),
        machine: Machine::describe(),
        ouro: found.version,
        seed,
        live: options.handover == HandoverMode::Live,
        restarts,
        most_alive,
        before,
        after,
        kinds: outcome::groups(&shared),
        origin_wrong: outcome::origin_wrong(&shared),
        counters: compared,
        log_lines: lines,
        log,
        windows: pause::windows(&generations, &shared),
        problems,
    };
    outcome.judge();
    Ok(outcome)
}

/// Waits until every client is in the middle of its work and nothing has failed.
fn begin(shared: &Shared, generations: &mut Generations) -> Result<(), String> {
    let end = Instant::now() + BEGIN_PATIENCE;
    while !shared.unready().is_empty() {
        generations.pass(LOOK_EVERY)?;
        if Instant::now() > end {
            return Err(format!(
                "after {} s not ready: {}",
                BEGIN_PATIENCE.as_secs(),
                shared.unready().join(", ")
            ));
        }
    }
    generations.pass(SETTLE)?;
    let failed: Vec<String> = Kind::ALL.iter().flat_map(|kind| shared.counts(*kind).examples).collect();
    if failed.is_empty() {
        eprintln!("all clients are there");
        return Ok(());
    }
    Err(format!("failures before any restart: {}", failed.join("; ")))
}

fn restart_all(options: &Restarts, generations: &mut Generations, shared: &Shared) -> Result<(), String> {
    /// Between two lines that show how far it is.
    const SHOW_EVERY: Duration = Duration::from_secs(5);
    let mut next_show = Instant::now() + SHOW_EVERY;
    for number in 1..=options.restarts {
        generations.restart(options.overlap)?;
        generations.pass(options.every)?;
        if Instant::now() >= next_show {
            let failures = shared.sum(|_| true, tally::Counts::failures);
            eprintln!("restart {number} of {}, {failures} failures", options.restarts);
            next_show = Instant::now() + SHOW_EVERY;
        }
    }
    generations.pass(SETTLE)
}

/// One process, one segment and one restart socket must be left.
fn look_for_leftovers(
    options: &Restarts,
    generations: &mut Generations,
    base_id: u32,
) -> Result<Vec<String>, String> {
    // Old ones that drain have a time for that.
    let end = Instant::now() + Duration::from_secs(options.old_lives + 3);
    while generations.alive() > 1 && Instant::now() < end {
        generations.pass(LOOK_EVERY)?;
    }
    let (alive, segments, sockets) =
        (generations.alive(), generations::segments(base_id), generations.sockets());
    let mut problems = Vec::new();
    if alive != 1 {
        problems.push(format!("{alive} processes are alive at the end"));
    }
    if segments != 1 {
        problems.push(format!("{segments} segments in shared memory at the end"));
    }
    if sockets.len() != 1 {
        problems.push(format!("restart sockets at the end: {}", sockets.join(", ")));
    }
    Ok(problems)
}

/// Writes one of the configurations.
fn configure(folder: &Path, variant: &str, ports: [u16; 2], origins: [u16; 3]) -> Result<PathBuf, String> {
    /// What only the second one has.
    const MORE: &str = "\n[[listeners.routes]]\npath_prefix = \"/maintenance/\"\n\
        respond = { status = 503, body = \"later\\n\" }\n";
    let folder = crate::run::origins::subfolder(folder, variant)?;
    let setting =
        Setting { shape: Shape::Http, origin_port: origins[1], workers: 1, cpus: &[], folder: &folder };
    let values = Values::new(&setting, ports[0])
        .with("TCP_PORT", ports[1])
        .with("ECHO_PORT", origins[0])
        .with("WEBSOCKET_PORT", origins[2])
        .with("VARIANT", variant)
        .with("MORE", if variant == "a" { "" } else { MORE });
    values.write("ouro-soak.toml", &folder)
}

fn listen() -> Result<(Listeners, [u16; 3]), String> {
    let text = |error: std::io::Error| format!("origin: {error}");
    let one = || -> Result<(TcpListener, u16), String> {
        let listener = crate::origin::listen(0).map_err(text)?;
        let port = listener.local_addr().map_err(text)?.port();
        Ok((listener, port))
    };
    let ((echo, a), (http, b), (websocket, c)) = (one()?, one()?, one()?);
    Ok((Listeners { echo, http, websocket }, [a, b, c]))
}

/// Each connection has its client and its end at the origin in this process, and two ends in the proxy.
fn check_descriptors(clients: &Clients) -> Result<(), String> {
    let connections: u64 = Kind::ALL.iter().map(|kind| clients.number(*kind)).sum();
    // Pooled connections to the origin outlive the exchange they were made for.
    let needed = connections * 2 + OTHER_DESCRIPTORS;
    let limit = machine::open_files();
    if limit >= needed {
        return Ok(());
    }
    Err(format!(
        "{connections} connections need {needed} open files in this process and in the proxy, and the hard limit is \
         {limit}: raise it (`ulimit -Hn {needed}` as root, LimitNOFILE= of a service), or ask for fewer clients"
    ))
}

/// The threads of clients and origin; dropping stops them.
struct Threads {
    shared: Arc<Shared>,
    clients: Option<JoinHandle<Result<(), String>>>,
    origin: Option<JoinHandle<Result<(), String>>>,
}

impl Threads {
    fn start(shared: &Arc<Shared>, listeners: Listeners) -> Result<Self, String> {
        let spawn = |name: &str, work: Box<dyn FnOnce() -> Result<(), String> + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(work);
            thread.map(Some).map_err(|error| format!("thread: {error}"))
        };
        let mut threads = Self { shared: Arc::clone(shared), clients: None, origin: None };
        let own = Arc::clone(shared);
        threads.origin = spawn(
            "origin",
            Box::new(move || {
                block_on(&own, async {
                    origin::serve(Arc::clone(&own), listeners)
                        .await
                        .map_err(|error| format!("origin: {error}"))
                })
            }),
        )?;
        let own = Arc::clone(shared);
        threads.clients = spawn(
            "clients",
            Box::new(move || {
                block_on(&own, async {
                    clients::run(Arc::clone(&own)).await;
                    Ok(())
                })
            }),
        )?;
        Ok(threads)
    }

    /// Lets the clients finish. Returns what went wrong with that.
    fn finish(
        &mut self,
        shared: &Shared,
        generations: &mut Generations,
        within: Duration,
    ) -> Result<Vec<String>, String> {
        shared.end();
        let long = shared.clients.finish && shared.clients.uploads + shared.clients.downloads > 0;
        let patience = FINISH_PATIENCE + if long { within } else { Duration::ZERO };
        let end = Instant::now() + patience;
        while self.clients.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if let Err(why) = generations.pass(LOOK_EVERY) {
                machine::check_interrupt()?;
                return Ok(vec![why]);
            }
            if Instant::now() > end {
                return Ok(vec![format!("the clients have not finished after {} s", patience.as_secs())]);
            }
        }
        Ok(join(&mut self.clients).err().into_iter().collect())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.abort();
        // They have nothing more to say.
        let _ = join(&mut self.clients);
        let _ = join(&mut self.origin);
    }
}

fn join(thread: &mut Option<JoinHandle<Result<(), String>>>) -> Result<(), String> {
    thread
        .take()
        .map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err("a thread has panicked".into())))
}

/// Runs until it is done or the run is broken off.
fn block_on(shared: &Shared, work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| format!("event loop: {error}"))?;
    runtime.block_on(async {
        let aborted = async {
            while !shared.is_aborted() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            result = work => result,
            () = aborted => Ok(()),
        }
    })
}
