//! A subject under load for a whole round, measured in slices in which the subjects take turns.
//!
//! On a shared machine the speed of a CPU changes within seconds, so two measurements of two seconds one after the other
//! often meet two machines. All subjects of a round are there at once, then, with their connections open, and are
//! loaded for a fraction of a second each, in turns: what is compared is as close together as it can be.

use std::time::{Duration, Instant};

use super::results::Round;
use crate::load::{Latencies, Load, Plan};
use crate::machine;
use crate::peers::Running;
use crate::process::{Usage, Used, rss};

/// Slices of a round.
pub(super) const SLICES: u32 = 10;

/// At the beginning of a slice so much of it is not counted, as a share: caches and schedulers get used to the change.
pub(super) const SETTLE: f64 = 0.1;

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    running: Running,
    load: Load,
    used: Used,
    elapsed_s: f64,
    stolen_s: f64,
    done: u64,
    closed: u64,
    latencies: Latencies,
    rss_bytes: u64,
    slices: Vec<f64>,
}

impl Lane {
    /// Loads a subject until all connections have served something, and for a quarter of `time` more.
    ///
    /// # Errors
    /// When this process was asked to end.
    pub(super) fn begin(running: Running, plan: Plan, time: Duration) -> Result<Self, String> {
        let mut load = Load::new(vec![plan])?;
        // Long enough for every connection and pool to be there.
        load.run_until_served(time.max(Duration::from_secs(1)))?;
        load.run(time / 4)?;
        load.pause()?;
        Ok(Self {
            running,
            load,
            used: Used::default(),
            elapsed_s: 0.0,
            stolen_s: 0.0,
            done: 0,
            closed: 0,
            latencies: Latencies::default(),
            rss_bytes: 0,
            slices: Vec::new(),
        })
    }

    /// Loads and measures it for so long.
    ///
    /// # Errors
    /// When this process was asked to end.
    pub(super) fn slice(&mut self, time: Duration) -> Result<(), String> {
        self.load.resume();
        self.load.run(time.mul_f64(SETTLE))?;
        self.load.clear();
        let pids = self.pids();
        let stolen = machine::stolen_s();
        let before = Usage::of(&pids);
        let start = Instant::now();
        self.load.run(time)?;
        let pids = self.pids();
        let used = Usage::of(&pids).since(&before);
        self.elapsed_s += start.elapsed().as_secs_f64();
        self.stolen_s += machine::stolen_s() - stolen;
        let tally = &self.load.tallies()[0];
        // A slice without an answer has no cost for one.
        self.slices.push(cpu_us(&used, tally.done).unwrap_or(f64::NAN));
        self.done += tally.done;
        self.closed += tally.told_to_close + tally.closed_idle;
        self.latencies.add(&tally.latencies);
        self.used.add(&used);
        self.rss_bytes = rss(&pids);
        self.load.pause()
    }

    /// Ends the load and the subject.
    ///
    /// # Errors
    /// Why there is no result.
    pub(super) fn end(mut self) -> Result<Round, String> {
        self.load.finish()?;
        if let Some(why) = self.running.process.as_mut().and_then(|process| process.ended()) {
            return Err(format!("under load: {why}"));
        }
        let tally = &self.load.tallies()[0];
        if self.done == 0 {
            return Err(format!("no request was served: {}", tally.examples().join("; ")));
        }
        let is_proxy = self.running.process.is_some();
        let share = |ns: u64| is_proxy.then(|| float(ns) / 1e9 / self.elapsed_s);
        let ticks = self.used.user_ticks + self.used.kernel_ticks;
        Ok(Round {
            cpu_us: cpu_us(&self.used, self.done).filter(|_| is_proxy),
            slices_us: if is_proxy { self.slices } else { Vec::new() },
            done: self.done,
            requests_per_s: float(self.done) / self.elapsed_s,
            p50_us: self.latencies.quantile_us(0.5),
            p99_us: self.latencies.quantile_us(0.99),
            p999_us: self.latencies.quantile_us(0.999),
            rss_bytes: is_proxy.then(|| float(self.rss_bytes)),
            proxy_cpu: share(self.used.cpu_ns),
            kernel_share: (ticks > 0).then(|| float(self.used.kernel_ticks) / float(ticks)),
            proxy_waited: share(self.used.waited_ns),
            stolen: Some(self.stolen_s / self.elapsed_s),
            errors: tally.errors(),
            examples: tally.examples().to_vec(),
            closed: self.closed,
            ..Round::default()
        })
    }

    fn pids(&mut self) -> Vec<i32> {
        self.running.process.as_mut().map(|process| process.pids()).unwrap_or_default()
    }
}

/// CPU for one request, microseconds.
fn cpu_us(used: &Used, done: u64) -> Option<f64> {
    (done > 0).then(|| float(used.cpu_ns) / 1e3 / float(done))
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
const fn float(number: u64) -> f64 {
    number as f64
}
