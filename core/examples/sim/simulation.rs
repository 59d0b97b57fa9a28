//! One simulated run: processes, peers, and the clock.

use ouro::base::random::Random;
use ouro::ring::sim::{self, Await, Faults, Happening, World};
use ouro::worker::Running;
use ouro_shm::ReadOptions;

use crate::instance::Instance;
use crate::scenario::{Peer, Scenario, note};

/// Virtual time after which whoever is not done is said to starve.
const LIMIT_US: u64 = 900_000_000;
/// Turns after which the code under test is said to spin.
const TURNS: u64 = 3_000_000;
/// Virtual time in which a process must end once it is told to drain and its peers are gone.
const END_US: u64 = 60_000_000;

/// How a run went.
#[derive(Default)]
pub struct Summary {
    pub violations: Vec<String>,
    pub counts: Vec<(String, u64)>,
    /// States in which sessions have waited.
    pub awaits: Vec<(String, Await)>,
    pub trace: Vec<String>,
    pub virtual_ms: u64,
    pub turns: u64,
}

pub struct Simulation {
    instance: Instance,
    peers: Vec<Box<dyn Peer>>,
    scenario: Box<dyn Scenario>,
    random: Random,
    turns: u64,
    draining_since: Option<u64>,
    /// When the clock is to jump, and by how much.
    jump: Option<(u64, u64)>,
    /// By how much it has.
    jumped: u64,
}

impl Simulation {
    /// Installs a world for this run.
    pub fn new(seed: u64, mut scenario: Box<dyn Scenario>, traced: Option<bool>) -> Self {
        let mut random = Random::new(seed);
        let mut faults = faults(&mut random);
        scenario.adjust(&mut faults);
        let mut world = World::new(random.next_u64(), faults).unwrap();
        if let Some(prints) = traced {
            world.set_traced(prints);
            let text = format!("{:?}", world.faults);
            world.note(|| text);
        }
        let mut model = ouro::config::parse(&scenario.config(), "simulation").unwrap();
        model.server.buffer_size = 256 << random.below(5);
        model.server.buffer_memory = model.server.buffer_size * (8 << random.below(5));
        // By the seed alone: what is drawn for a run stays as it was before there was this.
        model.server.moderation_us = [0, 0, 50, 400][usize::try_from(seed / 8 % 4).unwrap_or_default()];
        sim::install(world);
        let peers = scenario.clients(0, &mut random);
        let jump = (random.below(8) == 0).then(|| {
            let at = [1_000, 100_000, 2_000_000][random.below(3)];
            let by = [2_000_000, 20_000_000, 1_800_000_000][random.below(3)];
            (random.below(at) as u64, 1 + random.below(by) as u64)
        });
        let aims = if random.below(2) == 0 { scenario.aims() } else { &[] };
        let instance = Instance::new(model, Random::new(random.next_u64()), aims);
        Self { instance, peers, scenario, random, turns: 0, draining_since: None, jump, jumped: 0 }
    }

    /// Runs until everything is over, and says how it went.
    pub fn run(mut self) -> Summary {
        let ended = self.run_all();
        let mut violations: Vec<String> = ended.err().into_iter().collect();
        if violations.is_empty() {
            violations.extend(self.check());
        }
        let turns = self.turns;
        drop(self);
        let world = sim::uninstall().unwrap();
        violations.extend(world.violations().iter().cloned());
        Summary {
            violations,
            awaits: world.awaits().iter().map(|(state, counts)| (state.clone(), *counts)).collect(),
            counts: world.counts().iter().map(|(what, count)| (what.to_string(), *count)).collect(),
            trace: world.trace().map(String::from).collect(),
            virtual_ms: world.now() / 1000,
            turns,
        }
    }

    fn run_all(&mut self) -> Result<(), String> {
        let mut has_begun = false;
        let mut has_acted = true;
        loop {
            self.turns += 1;
            if self.turns > TURNS {
                return Err(format!("it spins: {}", self.describe_starved()));
            }
            // Descriptors are closed and become readable by what processes do.
            if std::mem::replace(&mut has_acted, true) {
                sim::with(World::look);
            }
            if let Some(violation) = sim::with(|world| world.violations().first().cloned()) {
                return Err(violation);
            }
            self.jump(has_begun);
            let done = self.peers_are_done();
            if self.draining_since.is_none() && !done {
                self.instance.begin_restart();
            }
            if !has_begun && self.instance.alone().is_some() {
                // Somebody listens: clients may come.
                has_begun = true;
                for n in 0..self.peers.len() {
                    sim::with(|world| world.wake(n as u32, 0));
                }
            }
            let event_first = self.random.below(2) == 0;
            if event_first && self.happen() {
                has_acted = false;
                continue;
            }
            if self.instance.turn() || self.happen() {
                continue;
            }
            if self.instance.living().next().is_none() {
                return match self.draining_since {
                    Some(_) => Ok(()),
                    None => Err("no process is left".into()),
                };
            }
            let now = sim::with(|world| world.now());
            if self.draining_since.is_none()
                && has_begun
                && done
                && let Some(last) = self.instance.last()
            {
                self.draining_since = Some(now);
                last.into_iter().for_each(|n| self.instance.stop(n));
                continue;
            }
            let limit = LIMIT_US + self.jumped + self.instance.stalled_us;
            let starved = now > limit
                || self.draining_since.is_some_and(|since| now > since + END_US + self.instance.stalled_us);
            match self.next_time() {
                Some(at) if !starved => {
                    if at / 10_000_000 > now / 10_000_000 {
                        for (n, process) in self.instance.living() {
                            let stats = process.running().map(Running::ring_stats);
                            note(|| format!("time passes: {n} {stats:?}"));
                        }
                    }
                    sim::with(|world| world.advance_to(at));
                }
                _ => return Err(self.describe_starved()),
            }
        }
    }

    /// Lets the clock jump if it is to, while no restart is going on: its deadlines would pass, too.
    fn jump(&mut self, has_begun: bool) {
        let Some((at, by)) = self.jump.filter(|_| has_begun && self.draining_since.is_none()) else { return };
        if sim::with(|world| world.now()) >= at && self.instance.alone().is_some() {
            (self.jump, self.jumped) = (None, by);
            sim::with(|world| world.jump(by));
            self.instance.on_jump();
        }
    }

    fn peers_are_done(&self) -> bool {
        self.peers.iter().all(|peer| peer.is_done())
    }

    fn describe_starved(&self) -> String {
        let mut text = String::from("somebody waits for ever");
        for (n, peer) in self.peers.iter().enumerate().filter(|(_, peer)| !peer.is_done()) {
            text += &format!("\n  peer {n}: {}", peer.describe());
        }
        text + &self.instance.describe()
    }

    /// Lets one event happen.
    fn happen(&mut self) -> bool {
        match sim::with(World::happen) {
            None => return false,
            Some(Happening::Nothing) => {}
            Some(Happening::Wake(peer)) => {
                if let Some(peer) = self.peers.get_mut(peer as usize) {
                    peer.turn();
                }
            }
            Some(Happening::Connected(to, end)) => {
                let number = self.peers.len() as u32;
                sim::with(|world| world.peer_take(end, number));
                self.peers.push(self.scenario.accepted(number, to, end));
            }
        }
        true
    }

    fn next_time(&self) -> Option<u64> {
        let restart = match self.draining_since {
            None if !self.peers_are_done() => self.instance.restart_at(),
            _ => None,
        };
        let event = sim::with(|world| world.next_event());
        let times = [self.instance.next_time(), event, restart];
        times.into_iter().flatten().min().filter(|at| *at < u64::MAX)
    }

    /// What must hold when everything is over.
    fn check(&mut self) -> Vec<String> {
        let mut wrong = self.scenario.check();
        sim::with(World::look);
        let open = sim::with(|world| world.open_ends());
        if open > 0 {
            wrong.push(format!("{open} connections were never closed"));
        }
        let snapshot = self.instance.segment.snapshot(&ReadOptions::default());
        for entity in &snapshot.entities {
            for metric in entity.scope.metrics.iter() {
                let is_active = metric.name.ends_with("_active") || metric.name.ends_with("_buffered");
                if is_active && entity.number(&metric.name) != 0 {
                    wrong.push(format!(
                        "{} {:?}: {} is {} at the end",
                        entity.scope.name,
                        entity.labels,
                        metric.name,
                        entity.number(&metric.name) as i64
                    ));
                }
            }
        }
        wrong
    }
}

/// Which things go wrong in a run, and how often: most runs have a few kinds of faults, some none, some all.
fn faults(random: &mut Random) -> Faults {
    let calm = random.below(8) == 0;
    let mut chance = |often: u32| {
        if calm || random.below(2) == 0 { 0 } else { [often / 16, often / 4, often][random.below(3)] }
    };
    let mut faults = Faults {
        short_send: chance(512),
        short_recv: chance(512),
        end_multishot: chance(256),
        eof_with_buffer: chance(512),
        late: chance(512),
        late_cancel: chance(512),
        stall: chance(64),
        few_completions: chance(512),
        refuse: chance(64),
        silent: chance(32),
        accept: chance(64),
        copy: chance(128),
        split: chance(512),
        socket: chance(64),
        ..Faults::default()
    };
    faults.drop_task = [0, 16, 128, 512][random.below(4)];
    faults.late_us = [50, 1_000, 30_000][random.below(3)];
    faults.stall_us = [100, 5_000, 200_000][random.below(3)];
    faults.submissions = [1, 3, 16, 1024][random.below(4)];
    faults.latency = ([1, 20, 500, 20_000][random.below(4)], [0, 50, 5_000][random.below(3)]);
    faults.buffer = [(64, 1000), (1024, 4096), (8192, 65536)][random.below(3)];
    faults
}
