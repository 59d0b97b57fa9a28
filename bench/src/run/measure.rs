//! One round: subjects, fresh, under one load.

use std::path::Path;
use std::time::{Duration, Instant};

use super::forwarding;
use super::lane::{Lane, SLICES};
use super::origins::{Origins, subfolder};
use super::results::Round;
use super::scenario::{Exchange, Kind, OriginKind, Scenario};
use super::turns;
use crate::content;
use crate::load::{Load, Plan};
use crate::machine::{self, Cores};
use crate::peers::{Found, Running, Setting, Shape, Subject};
use crate::process::{POLL, rss};

/// Requests that are in their connection's first exchange at the same time, in the idle scenario.
const IDLE_AT_ONCE: usize = 16;

/// How long opening all idle connections may take, and how long without one more that is served.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);
const IDLE_STUCK: Duration = Duration::from_secs(15);

/// How long memory has to stay the same to be believed, and how long that is waited for.
const SETTLED: Duration = Duration::from_millis(200);
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);

/// Files that this process needs beside its connections.
const SPARE_FILES: usize = 200;

/// Where and how long.
#[derive(Debug)]
pub(crate) struct Bench<'b> {
    /// Who answers.
    pub(crate) origins: &'b Origins,
    /// Which CPUs.
    pub(crate) cores: &'b Cores,
    /// Temporary files.
    pub(crate) folder: &'b Path,
    /// For how long each subject is measured in a round.
    pub(crate) time: Duration,
}

/// Who is measured, with how many workers.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// Name in the report.
    pub(crate) name: String,
    /// Whose program.
    pub(crate) found: Found,
    /// Worker threads or processes.
    pub(crate) workers: usize,
}

impl Bench<'_> {
    /// Measures these subjects in one round.
    ///
    /// # Errors
    /// For each subject: why it cannot be measured in this scenario.
    pub(crate) fn measure(&self, scenario: &Scenario, variants: &[&Variant]) -> Vec<Result<Round, String>> {
        let yardstick_ms = machine::yardstick_ms(self.cores.proxy, self.cores.load);
        let rounds = match scenario.kind {
            Kind::Load { shape, origin, exchange, connections } => {
                self.load(variants, shape, origin, exchange, connections)
            }
            Kind::Workers => {
                self.load(variants, Shape::Http, OriginKind::Files, Exchange::Get(content::SMALL), 64)
            }
            Kind::Idle { connections } => {
                variants.iter().map(|variant| self.idle(variant, connections)).collect()
            }
        };
        rounds.into_iter().map(|round| round.map(|round| Round { yardstick_ms, ..round })).collect()
    }

    /// Starts a subject and checks what it sends to the origin. Returns what it adds beside what it must; nothing of one that
    /// knows no HTTP.
    ///
    /// # Errors
    /// Why it must not be measured in this shape.
    pub(crate) fn check_forwarding(&self, found: &Found, shape: Shape) -> Result<Vec<String>, String> {
        let (exchange, host) = match shape {
            Shape::Tcp => return Ok(Vec::new()),
            Shape::Http => (Exchange::Get(content::SMALL), content::HOST.to_owned()),
            Shape::Routes => (Exchange::Hosts, content::host(0)),
        };
        if matches!(found.subject, Subject::Direct | Subject::Relay) {
            return Ok(Vec::new());
        }
        let variant = Variant { name: found.subject.to_string(), found: found.clone(), workers: 1 };
        let running = self.start(&variant, shape, OriginKind::Own, exchange)?;
        forwarding::check(running.address, &host)
    }

    fn start(
        &self,
        variant: &Variant,
        shape: Shape,
        origin: OriginKind,
        exchange: Exchange,
    ) -> Result<Running, String> {
        let folder = tempfile::Builder::new().prefix(variant.found.subject.name()).tempdir_in(self.folder);
        // Removed with everything else at the end: a reader of an error may want to look into it until then.
        let folder = folder.map_err(|error| format!("temporary folder: {error}"))?.keep();
        let cpus = [self.cores.proxy, self.cores.load];
        // A relay of bytes does not care what they mean.
        let shape = if variant.found.subject == Subject::Relay { Shape::Tcp } else { shape };
        let setting = Setting {
            shape,
            origin_port: self.origins.port(origin),
            workers: variant.workers,
            cpus: &cpus[..variant.workers.min(cpus.len())],
            folder: &subfolder(&folder, "run")?,
        };
        variant.found.start(&setting, &exchange.work())
    }

    /// All are started; then they are loaded in turns, a slice each, in an order that changes.
    fn load(
        &self,
        variants: &[&Variant],
        shape: Shape,
        origin: OriginKind,
        exchange: Exchange,
        connections: usize,
    ) -> Vec<Result<Round, String>> {
        let begin = |variant: &&Variant| {
            let running = self.start(variant, shape, origin, exchange)?;
            let plan = Plan::new("load", running.address, connections, exchange.work());
            Lane::begin(running, plan, self.time)
        };
        let mut lanes: Vec<Result<Lane, String>> = variants.iter().map(begin).collect();
        for slice in 0..SLICES {
            for index in turns::order(lanes.len(), slice + 1, SLICES) {
                let lane = &mut lanes[index];
                if let Ok(fit) = lane
                    && let Err(why) = fit.slice(self.time / SLICES)
                {
                    *lane = Err(why);
                }
            }
        }
        lanes.into_iter().map(|lane| lane.and_then(Lane::end)).collect()
    }

    fn idle(&self, variant: &Variant, connections: usize) -> Result<Round, String> {
        let files = usize::try_from(machine::open_files()).unwrap_or(usize::MAX);
        let connections = connections.min(files.saturating_sub(SPARE_FILES));
        let exchange = Exchange::Get(content::SMALL);
        let mut running = self.start(variant, Shape::Http, OriginKind::Files, exchange)?;
        let Some(process) = &mut running.process else { return Err("there is no proxy".into()) };
        let plan = |count: usize| Plan {
            pause: IDLE_PATIENCE * 60,
            first_at_once: IDLE_AT_ONCE,
            ..Plan::new("idle", running.address, count, exchange.work())
        };
        // What the first connections bring into memory is not what each further one costs.
        let mut first = Load::new(vec![Plan { pause: Duration::ZERO, ..plan(IDLE_AT_ONCE) }])?;
        first.run(self.time.min(Duration::from_millis(500)))?;
        first.finish()?;
        let before = settled_rss(&process.pids())?;
        let start = Instant::now();
        let mut load = Load::new(vec![plan(connections)])?;
        load.run_until_served_or_stuck(IDLE_PATIENCE, IDLE_STUCK)?;
        let elapsed = start.elapsed().as_secs_f64();
        let after = settled_rss(&process.pids())?;
        // A connection that was closed meanwhile is noticed now.
        load.run(SETTLED)?;
        let tally = load.tallies()[0].clone();
        let lost = connections - load.open().min(connections);
        let mut examples = tally.examples().to_vec();
        if lost > 0 {
            examples.push(format!("{lost} of {connections} connections are not open at the end"));
        }
        Ok(Round {
            bytes_per_connection: Some((float(after) - float(before)) / float(connections as u64)),
            done: tally.done,
            requests_per_s: float(tally.done) / elapsed,
            rss_bytes: Some(float(after)),
            errors: tally.errors() + lost as u64,
            examples,
            closed: tally.told_to_close + tally.closed_idle,
            ..Round::default()
        })
    }
}

/// Memory once it does not change any more, bytes.
fn settled_rss(pids: &[i32]) -> Result<u64, String> {
    let end = Instant::now() + SETTLE_PATIENCE;
    let mut last = (rss(pids), Instant::now());
    while Instant::now() < end && last.1.elapsed() < SETTLED {
        machine::check_interrupt()?;
        std::thread::sleep(POLL);
        let now = rss(pids);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(last.0)
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
const fn float(number: u64) -> f64 {
    number as f64
}
