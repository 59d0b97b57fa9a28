//! All processes of a proxy: whose turn it is, restarts, crashes and stalls, and what must hold all along.

use std::collections::VecDeque;
use std::sync::Arc;

use ouro::base::random::Random;
use ouro::config::model::Model;
use ouro::ring::sim::{self, World};
use ouro::worker::Running;
use ouro_restart::message::CAPABILITY_PARCELS;
use ouro_restart::{Identity, child};
use ouro_shm::{Membership, Segment};

use crate::process::{Preparing, Process};
use crate::scenario::{note, violation};
use crate::wires::{Side, Wires};

/// Virtual time for which nobody may accept although a process has the CPU that has served: a successor that hangs is
/// given up after 6 s, and an elder asked for 1 s.
const NOBODY_ACCEPTS_US: u64 = 9_000_000;
/// Virtual time for which two processes may accept at the restart socket: one of them has not read yet that it is given up.
const TWO_SERVE_US: u64 = 1_000_000;
/// How long a process that asks whether somebody serves waits for an answer.
const IS_ASKED_US: u64 = 1_000_000;
/// Virtual time for which a handover waits for the state that it is aimed at.
const AIM_US: u64 = 300_000;
/// How long a process that hangs does so.
const STALLS_US: [usize; 4] = [500_000, 5_000_000, 20_000_000, 150_000_000];
/// Steps of a restart after which a process crashes or hangs.
const STEPS: [usize; 4] = [12, 60, 150, 600];

/// What befalls a process in a restart.
#[derive(Clone, Copy, Debug)]
struct Blow {
    /// The process that is to be replaced, or the one that is to replace it.
    parent: bool,
    /// It hangs so long; none: it is killed.
    stall_us: Option<u64>,
    /// Steps of the two until then.
    after: u32,
}

/// A restart that is going on.
struct Attempt {
    child: usize,
    parent: usize,
    blow: Option<Blow>,
}

/// How the processes of a run are started.
struct Manner {
    live: bool,
    drain_ms: u64,
    /// Restarts begin before the one before is over.
    overlapping: bool,
    /// How often something befalls a process in a restart, out of 8.
    blows: usize,
}

/// See the module.
pub struct Instance {
    pub model: Arc<Model>,
    pub segment: Segment,
    pub processes: Vec<Process>,
    pub wires: Wires,
    pub random: Random,
    /// States of sessions that restarts wait for.
    aims: &'static [&'static str],
    /// The process whose sessions are looked at for that.
    aimed_at: Option<usize>,
    /// Virtual time for which processes hung.
    pub stalled_us: u64,
    /// Of processes that have ended in good order.
    memberships: Vec<Membership>,
    manner: Manner,
    restarts: VecDeque<u64>,
    attempt: Option<Attempt>,
    /// Something has befallen a process, or restarts overlap: one may fail.
    is_rough: bool,
    nobody_accepts: Option<u64>,
    two_serve: Option<u64>,
}

/// Who a process is.
pub fn identity(n: usize) -> Identity {
    let pid = n as u32 + 1;
    let capabilities = vec![CAPABILITY_PARCELS.into()];
    Identity { pid, capabilities, segment_id: 1, ..Identity::new("simulated", 1, 0) }
}

impl Instance {
    pub fn new(model: Model, mut random: Random, aims: &'static [&'static str]) -> Self {
        let manner = Manner {
            live: random.below(8) > 0,
            drain_ms: [0, 3_000, 600_000][random.below(3)],
            overlapping: random.below(8) == 0,
            blows: [0, 0, 2, 6][random.below(4)],
        };
        let mut restarts: VecDeque<u64> = VecDeque::new();
        for _ in 0..[0, 1, 1, 2, 3, 16][random.below(6)] {
            let after = [2_000, 50_000, 2_000_000][random.below(3)];
            // Those that wait for something begin early.
            let after = if aims.is_empty() { after } else { 400_000 };
            restarts.push_back(1 + random.below(after) as u64);
        }
        let mut this = Self {
            model: Arc::new(model),
            segment: Segment::private(1 << 20),
            processes: Vec::new(),
            wires: Wires::default(),
            random,
            aims,
            aimed_at: None,
            stalled_us: 0,
            memberships: Vec::new(),
            is_rough: manner.overlapping,
            manner,
            restarts,
            attempt: None,
            nobody_accepts: None,
            two_serve: None,
        };
        this.start(Some(0));
        this.schedule_restart();
        this
    }

    /// Starts a process.
    fn start(&mut self, epoch: Option<u32>) {
        let options = child::Options {
            epoch,
            cold_without_parent: false,
            totals: true,
            live: self.manner.live,
            drain_ms: self.manner.drain_ms,
            parent_shutdown_ms: 900_000,
        };
        let n = self.processes.len();
        note(|| format!("process {n} starts"));
        self.processes.push(Process::new(identity(n), options));
        self.up(n, child::Event::Start);
    }

    /// The next restart begins some time from now.
    fn schedule_restart(&mut self) {
        let now = sim::with(|world| world.now());
        if let Some(at) = self.restarts.front_mut() {
            *at += now;
        }
    }

    /// The processes that have not ended.
    pub fn living(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.processes.iter().enumerate().filter(|(_, process)| !process.gone)
    }

    /// The process that serves, or those that do and know nothing of each other, if there are no others, there is no restart,
    /// and nobody is about to be accepted.
    pub fn last(&self) -> Option<Vec<usize>> {
        let living: Vec<usize> = self.living().map(|(n, _)| n).collect();
        let is_over = living.len() == 1 || self.are_strangers(&living);
        let is_quiet = living.iter().all(|n| self.is_quiet(*n));
        (is_over && is_quiet && sim::with(|world| !world.is_anybody_coming())).then_some(living)
    }

    /// The process that serves, if it is the only one and there is no restart.
    pub fn alone(&self) -> Option<usize> {
        let mut living = self.living();
        let (n, _) = living.next()?;
        (living.next().is_none() && self.is_quiet(n)).then_some(n)
    }

    /// Whether this process serves, and has nothing else to do.
    fn is_quiet(&self, n: usize) -> bool {
        let now = sim::with(|world| world.now());
        let process = &self.processes[n];
        process.roles.serves() && process.stalled_until <= now && process.due_at(now) > now
    }

    /// Begins a restart if it is time for one.
    pub fn begin_restart(&mut self) {
        let now = sim::with(|world| world.now());
        let aims = !self.aims.is_empty() && !self.restarts.is_empty();
        if aims && let Some(n) = self.alone() {
            self.take_aim(n);
        }
        let is_hit = sim::with(|world| world.aim_is_hit());
        if self.restarts.front().is_none_or(|at| *at > now && !is_hit) {
            return;
        }
        let serving = self.living().find(|(_, process)| process.roles.serves()).map(|(n, _)| n);
        let Some(parent) = serving.filter(|_| self.manner.overlapping || self.alone().is_some()) else {
            return;
        };
        self.restarts.pop_front();
        let blow = (self.random.below(8) < self.manner.blows).then(|| Blow {
            parent: self.random.below(2) == 0,
            stall_us: (self.random.below(2) == 0).then(|| {
                let most = STALLS_US[self.random.below(STALLS_US.len())];
                1 + self.random.below(most) as u64
            }),
            after: {
                let most = STEPS[self.random.below(STEPS.len())];
                self.random.below(most) as u32
            },
        });
        let epoch = self.processes[parent].roles.epoch() + 1;
        let wanted = (self.random.below(2) == 0 && !self.manner.overlapping).then_some(epoch);
        let child = self.processes.len();
        note(|| format!("a restart begins: {blow:?}"));
        self.attempt = Some(Attempt { child, parent, blow });
        self.start(wanted);
        self.schedule_restart();
    }

    /// When the next restart is due, if there may be one now.
    pub fn restart_at(&self) -> Option<u64> {
        let serves = self.living().any(|(_, process)| process.roles.serves());
        let may = (serves && self.manner.overlapping) || self.alone().is_some();
        self.restarts.front().copied().filter(|_| may)
    }

    /// Lets one of the processes that have something to do go on.
    pub fn turn(&mut self) -> bool {
        let now = sim::with(|world| world.now());
        self.watch(now);
        let count = self.processes.len();
        for n in 0..count {
            if !self.processes[n].gone && self.processes[n].stalled_until <= now {
                self.mind_the_queues(n, now);
            }
        }
        // Both threads of each process: the server's and the worker's.
        let due: Vec<(usize, bool)> = (0..count)
            .filter(|n| !self.processes[*n].gone && self.processes[*n].stalled_until <= now)
            .flat_map(|n| {
                let control = self.control_at(n, now) <= now;
                let worker = self.worker_is_due(n);
                [(n, false)].into_iter().filter(move |_| control).chain(worker.then_some((n, true)))
            })
            .collect();
        if due.is_empty() {
            return false;
        }
        let (n, is_worker) = due[self.random.below(due.len())];
        let after = now + sim::with(|world| world.random.below(6)) as u64;
        sim::with(|world| world.advance_to(after));
        let has_done = if is_worker {
            self.worker_turn(n);
            true
        } else {
            let waits = self.processes[n].preparing.is_some();
            (!waits && self.hear(n, now)) || self.work(n, now)
        };
        if has_done {
            self.count_step(n);
        }
        true
    }

    fn control_at(&self, n: usize, now: u64) -> u64 {
        let process = &self.processes[n];
        match process.preparing {
            Some(Preparing::Binding(_, at, _)) => at,
            Some(Preparing::Starting) => {
                let reports =
                    process.worker.as_ref().is_some_and(|worker| !worker.reports.borrow().is_empty());
                if reports { now } else { u64::MAX }
            }
            None => process.due_at(now).min(self.heard_at(n)),
        }
    }

    fn worker_is_due(&self, n: usize) -> bool {
        let Some(worker) = &self.processes[n].worker else { return false };
        let Some(running) = &worker.running else { return false };
        let busy = running.is_busy();
        sim::with(|world| world.is_due(worker.ring) || (busy && !world.is_stalled(worker.ring)))
    }

    /// When one of the processes has something to do next.
    pub fn next_time(&self) -> Option<u64> {
        let now = sim::with(|world| world.now());
        let of = |(n, process): (usize, &Process)| {
            let ring = process.worker.as_ref().filter(|worker| worker.running.is_some());
            let ring = ring.map_or(u64::MAX, |worker| {
                sim::with(|world| match worker.running.as_ref().is_some_and(Running::is_busy) {
                    true => world.due_at(worker.ring).min(now + 1_000_000),
                    false => world.due_at(worker.ring),
                })
            });
            ring.min(self.control_at(n, now)).max(process.stalled_until)
        };
        self.living().map(of).min()
    }

    fn worker_turn(&mut self, n: usize) {
        let process = &mut self.processes[n];
        let Some(worker) = &mut process.worker else { return };
        let ring = worker.ring;
        let stalled = sim::with(|world| {
            let stalls = world.chance(world.faults.stall);
            if stalls {
                let until = world.now() + 1 + world.random.below(world.faults.stall_us + 1) as u64;
                world.stall(ring, until);
            }
            stalls
        });
        let Some(running) = worker.running.as_mut().filter(|_| !stalled) else { return };
        sim::with(|world| world.set_turn(ring));
        if running.turn() {
            return;
        }
        let stats = running.ring_stats();
        sim::with(|world| {
            world.note(|| format!("process {n} with ring {ring} has ended"));
            let left = world.in_flight(ring);
            if stats.buffers_in_use > 0 || stats.sockets > 0 || !left.is_empty() {
                world.violation(format!("left behind: {stats:?}, in flight: {left:?}"));
            }
        });
        if let Some(running) = worker.running.take()
            && let Err(error) = running.end()
        {
            violation(format!("a worker failed: {error}"));
        }
        process.course.worker_ended();
        let now = sim::with(|world| world.now());
        self.bury(n, now, false);
    }

    /// The clock has jumped: what was looked at is looked at anew.
    pub const fn on_jump(&mut self) {
        (self.nobody_accepts, self.two_serve) = (None, None);
    }

    /// Chooses states of the sessions of this process that the next handover is aimed at.
    fn take_aim(&mut self, n: usize) {
        let Some(ring) = self.processes[n].worker.as_ref().map(|worker| worker.ring) else { return };
        if self.aims.is_empty() || self.aimed_at == Some(n) {
            return;
        }
        // The rare ones come first, and are aimed at more often; one of some will do.
        let most = [1, 1 + self.random.below(self.aims.len())][self.random.below(2)];
        let first = self.random.below(most);
        let count = [4, 12][self.random.below(2)];
        let aim = &self.aims[first..(first + count).min(self.aims.len())];
        note(|| format!("connections move when a session is in one of these states: {aim:?}"));
        self.aimed_at = Some(n);
        sim::with(|world| world.set_aim(Some((aim, ring))));
    }

    /// Whether this process waits for a state of its sessions before it begins to hand them over.
    pub fn waits_for_aim(&mut self, n: usize, now: u64) -> bool {
        if self.aims.is_empty() || self.processes[n].worker.is_none() {
            return false;
        }
        self.take_aim(n);
        let until = self.processes[n].aims_until.unwrap_or(now + AIM_US);
        let is_hit = sim::with(|world| world.aim_is_hit());
        if until > now && !is_hit && self.processes[n].todo.len() == 1 {
            self.processes[n].aims_until = Some(until);
            return true;
        }
        if is_hit {
            sim::with(|world| world.count("handover as aimed"));
        }
        self.processes[n].aims_until = None;
        self.aimed_at = None;
        sim::with(|world| world.set_aim(None));
        false
    }

    /// The process is over: what it has is closed.
    pub fn bury(&mut self, n: usize, now: u64, is_killed: bool) {
        note(|| format!("process {n} is gone"));
        let process = &mut self.processes[n];
        process.gone = true;
        process.life.end();
        (process.accepts, process.holds) = (false, false);
        process.preparing = None;
        // What a process that has ended by itself leaves in its gauges is a mistake; those of a dead one vanish.
        self.memberships.extend(process.worker.take().map(|worker| worker.membership).filter(|_| !is_killed));
        let process = &mut self.processes[n];
        process.inherited.clear();
        process.offered.clear();
        process.todo.clear();
        let wires = process.ends.up.take().into_iter().chain(process.ends.probe.take());
        for wire in wires.collect::<Vec<_>>() {
            self.wires.close(wire, Side::Child, now);
        }
        for wire in std::mem::take(&mut self.processes[n].ends.peers) {
            self.wires.close(wire, Side::Parent, now);
        }
        if !self.somebody_holds() {
            self.wires.turn_away(now);
        }
    }

    /// The process is killed: nothing of its code runs any more, and the kernel closes what it had.
    fn kill(&mut self, n: usize, now: u64) {
        sim::with(|world| {
            world.count("fault: crash of a process");
            world.look();
        });
        if let Some(running) = self.processes[n].worker.as_mut().and_then(|worker| worker.running.take()) {
            running.kill();
        }
        sim::with(World::look_after_kill);
        self.bury(n, now, true);
        sim::with(World::look_after_kill);
    }

    /// One of the two processes of a restart has done something.
    fn count_step(&mut self, n: usize) {
        let Some(attempt) = &mut self.attempt else { return };
        let (child, parent) = (attempt.child, attempt.parent);
        let Some(blow) = attempt.blow.as_mut().filter(|_| n == child || n == parent) else { return };
        if blow.after > 0 {
            blow.after -= 1;
            return;
        }
        let blow = *blow;
        let now = sim::with(|world| world.now());
        let victim = if blow.parent { parent } else { child };
        if self.processes[victim].gone {
            attempt.blow = None;
            return;
        }
        if let Some(us) = blow.stall_us {
            attempt.blow = None;
            self.is_rough = true;
            self.stall(victim, now + us);
        } else {
            // There must be somebody left. Who is told to end does not come back.
            let heir = if blow.parent { child } else { parent };
            let is_heir = self.processes[heir].could_serve(now) && !self.processes[victim].has_dismissed;
            if is_heir {
                if let Some(attempt) = &mut self.attempt {
                    attempt.blow = None;
                }
                self.is_rough = true;
                note(|| format!("process {victim} is killed"));
                self.kill(victim, now);
            }
        }
    }

    /// The process gets no CPU for a while.
    fn stall(&mut self, n: usize, until: u64) {
        note(|| format!("process {n} hangs until {} ms", until / 1000));
        let now = sim::with(|world| world.now());
        self.stalled_us += until - now;
        let process = &mut self.processes[n];
        process.has_hung |= until - now >= IS_ASKED_US;
        process.stalled_until = until;
        sim::with(|world| world.count("fault: a process hangs in a restart"));
        if let Some(worker) = self.processes[n].worker.as_ref().filter(|worker| worker.running.is_some()) {
            let ring = worker.ring;
            sim::with(|world| world.stall(ring, until));
        }
    }

    /// A process has committed to its child.
    pub fn on_commit(&mut self, n: usize) {
        sim::with(|world| world.count("commit of a restart"));
        if self.living().any(|(other, process)| other != n && process.roles.serves()) {
            note(|| format!("process {n} commits while another one serves"));
        }
    }

    /// A process has taken over. If the one before it hung, others may serve who have nothing to do with either of them: nobody
    /// has told them, and nobody will.
    pub fn on_take_over(&mut self, n: usize) {
        let Some(before) = self.processes[n].before.filter(|before| self.processes[*before].has_hung) else {
            return;
        };
        let line: Vec<usize> = std::iter::successors(Some(n), |n| self.processes[*n].before).collect();
        let is_other = |(m, process): (usize, &Process)| {
            process.roles.parent().is_some() && !process.ends() && !line.contains(&m)
        };
        if self.living().any(is_other) {
            note(|| format!("process {n} has the place of process {before}, which hung, and others serve"));
            self.processes[n].has_hung = true;
        }
    }

    /// A process cannot become what it was started for, or was given up.
    pub fn on_failure(&mut self, n: usize, why: &str) {
        note(|| format!("process {n} fails: {why}"));
        sim::with(|world| world.count("process that failed to take over"));
        if !self.is_rough {
            violation(format!("process {n} fails without a reason: {why}"));
        }
    }

    /// What must hold all along.
    fn watch(&mut self, now: u64) {
        let has_cpu = |process: &&Process| process.stalled_until <= now;
        let living: Vec<&Process> = self.living().map(|(_, process)| process).collect();
        let is_meant_to = living.iter().copied().filter(has_cpu).any(|process| {
            // Who was replaced twice drains, and does not come back; nor does who has heard that somebody else serves.
            process.has_accepted && !(process.ends() || process.ends.is_superseded)
        });
        let accepts = living.iter().copied().filter(has_cpu).any(|process| process.accepts);
        let serving: Vec<usize> = self
            .living()
            .filter(|(_, process)| has_cpu(process) && process.roles.serves())
            .map(|(n, _)| n)
            .collect();
        let tell_each_other = !self.are_strangers(&serving);
        if living.is_empty() {
            return;
        }
        let lasts = |since: &mut Option<u64>, holds: bool, limit: u64| {
            if !holds {
                *since = None;
            }
            holds && now - *since.get_or_insert(now) > limit
        };
        if lasts(&mut self.nobody_accepts, is_meant_to && !accepts, NOBODY_ACCEPTS_US) {
            violation("nobody accepts connections".into());
        }
        if lasts(&mut self.two_serve, serving.len() > 1 && tell_each_other, TWO_SERVE_US) {
            violation("two processes serve".into());
        }
    }

    /// Whether these processes know nothing of each other because one of them hung when it was asked whether somebody serves:
    /// two that serve are better than none.
    fn are_strangers(&self, serving: &[usize]) -> bool {
        let is_linked = |n: &usize| {
            let peers = self.processes[*n].ends.peers.iter();
            peers
                .filter_map(|wire| self.wires.other(*wire, Side::Parent))
                .any(|child| serving.contains(&child))
        };
        serving.iter().any(|n| self.processes[*n].has_hung) && !serving.iter().any(is_linked)
    }

    /// For the report of a failure.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (n, process) in self.living() {
            let stats = process.running().map(Running::ring_stats);
            text += &format!(
                "\n  process {n}: {} connections, serves {}, accepts {}, hangs until {}, {:?}, {:?}, {stats:?}",
                process.open(),
                process.roles.serves(),
                process.accepts,
                process.stalled_until,
                process.roles,
                process.course,
            );
        }
        text
    }
}
