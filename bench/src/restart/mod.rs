//! `ouro-bench restart`: what clients notice while a proxy is restarted under them.

mod driver;
mod outcome;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::driver::{Driver, Ports, Way};
use self::outcome::{Group, Outcome, Outcomes};
use crate::content;
use crate::load::{Load, Plan, Throttle, Work};
use crate::machine::{self, Cores, INTERRUPTION, Machine};
use crate::peers::{self, local};
use crate::report;
use crate::run::origins::{Origins, subfolder};
use crate::run::scenario::OriginKind;

/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Before the first restart: all clients are there, and must be content.
const SETTLE: Duration = Duration::from_secs(1);

/// Most restarts of one proxy, and longest times, seconds.
const MAX_RESTARTS: u32 = 1000;
const MAX_SECONDS: u64 = 3600;

/// Options of `ouro-bench restart`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Who is restarted, and how [default: all that are on this machine].
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    subjects: Vec<Way>,
    /// Restarts of each.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RESTARTS)))]
    restarts: u32,
    /// Time between two restarts, and after the last, seconds.
    #[arg(long, value_name = "S", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    every: u64,
    /// Time that a peer's old process is given for what it still has, seconds.
    #[arg(long, value_name = "S", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    old_lives: u64,
    /// Clients of each kind.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Program of the proxy [default: `ouro` beside this program].
    #[arg(long, value_name = "PATH")]
    ouro: Option<PathBuf>,
    /// Write the outcome as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write both into this folder: restart.json and restart.md.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Restarts and reports. Returns whether Ouro, if it can restart, did so unnoticed.
///
/// # Errors
/// When nothing can be measured at all, results cannot be written, or this process was asked to end.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let machine = Machine::describe();
    let cores = Cores::find();
    machine::pin(&[cores.load]).map_err(|error| format!("cannot pin to CPU {}: {error}", cores.load))?;
    let folder = tempfile::Builder::new().prefix("ouro-bench-").tempdir();
    let folder = folder.map_err(|error| format!("temporary folder: {error}"))?;
    let origins = Origins::start(folder.path(), cores.load, false, None)?;
    let ways = if options.subjects.is_empty() { Way::ALL.to_vec() } else { options.subjects.clone() };
    let mut outcomes = Outcomes {
        command: report::command(),
        machine,
        restarts: options.restarts,
        every_s: options.every,
        old_lives_s: options.old_lives,
        outcomes: Vec::new(),
    };
    for way in ways {
        eprintln!("{} …", way.name());
        let outcome = match restart(options, way, &origins, &cores, folder.path()) {
            Err(why) if why == INTERRUPTION => return Err(why),
            Err(why) => Outcome { name: way.name(), skipped: Some(why), ..Outcome::default() },
            Ok(outcome) => outcome,
        };
        println!("{}", outcome.text());
        outcomes.outcomes.push(outcome);
        options.write(&outcomes)?;
    }
    println!("{}", outcomes.summary().text());
    let own = outcomes.outcomes.iter().find(|outcome| outcome.name == Way::Ouro.name());
    Ok(own.is_none_or(|own| own.skipped.is_some() || own.is_unnoticed()))
}

impl Options {
    fn write(&self, outcomes: &Outcomes) -> Result<(), String> {
        let out = |name: &str| self.out.as_ref().map(|folder| folder.join(name));
        for path in self.json.iter().cloned().chain(out("restart.json")) {
            report::write_json(&path, outcomes)?;
        }
        for path in self.markdown.iter().cloned().chain(out("restart.md")) {
            report::write(&path, &outcomes.page())?;
        }
        Ok(())
    }

    /// Clients of every kind.
    fn plans(&self, ports: Ports) -> Vec<Plan> {
        // Slow enough that some are always in the middle when a restart comes: 160 ms for 1 MiB.
        let slow = Throttle { bytes: content::MEDIUM, every: Duration::from_millis(10) };
        let pause = Duration::from_millis(10);
        let clients = usize::from(self.clients);
        let (http, tcp) = (local(ports.http), local(ports.tcp));
        let plan = |name, address, work| Plan { pause, ..Plan::new(name, address, clients, work) };
        let few = |plan: Plan| Plan { throttle: Some(slow), connections: clients.div_ceil(4), ..plan };
        vec![
            plan("tcp", tcp, Work::Echo { bytes: 1000 }),
            plan("websocket", http, Work::WebSocket { bytes: 1000 }),
            plan("keep-alive", http, Work::get(content::SMALL)),
            plan("short", http, Work::get_close()),
            few(plan("upload", http, Work::upload(content::LARGE))),
            few(plan("download", http, Work::get(content::LARGE))),
        ]
    }
}

fn restart(
    options: &Options,
    way: Way,
    origins: &Origins,
    cores: &Cores,
    folder: &Path,
) -> Result<Outcome, String> {
    let found = peers::find(way.subject(), options.ouro.as_deref())?;
    let ports = Ports {
        http: machine::free_port()?,
        tcp: machine::free_port()?,
        origin: origins.port(OriginKind::Own),
        echo: origins.port(OriginKind::Echo),
    };
    let folder = subfolder(folder, way.name())?;
    let old_lives = Duration::from_secs(options.old_lives);
    let mut driver = Driver::start(way, &found, &folder, ports, cores.proxy, old_lives)?;
    let processes_before = driver.pids().len();
    let mut load = Load::new(options.plans(ports))?;
    load.run_until_served(SETTLE * 5)?;
    load.run(SETTLE)?;
    let failed: u64 = load.tallies().iter().map(|tally| tally.errors()).sum();
    if failed > 0 {
        let examples: Vec<_> = load.tallies().iter().flat_map(|tally| tally.examples()).cloned().collect();
        return Err(format!("{failed} failures before any restart: {}", examples.join("; ")));
    }
    load.clear();
    let (mut restarts, mut ignored) = (0, 0);
    for _ in 0..options.restarts {
        if driver.restart()? {
            restarts += 1
        } else {
            ignored += 1
        }
        let end = Instant::now() + Duration::from_secs(options.every);
        while Instant::now() < end {
            load.run(LOOK_EVERY)?;
            driver.tick()?;
        }
    }
    let processes_after = driver.pids().len();
    let lived = driver.lived().to_vec();
    load.finish()?;
    let groups =
        load.plans().iter().zip(load.tallies()).map(|(plan, tally)| Group::new(plan, tally)).collect();
    Ok(Outcome {
        name: way.name(),
        version: Some(found.version),
        skipped: None,
        restarts,
        ignored,
        processes_before,
        processes_after,
        old_lived_s: lived,
        groups,
    })
}
