//! The process's place in the shared segment: where everything that it counts is filed.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ouro_restart::child::ConnectFailure;
use ouro_restart::{Blob, Connection};
use ouro_shm::{
    Apart, Block, Joining, Membership, Process, ProcessState, ReadOptions, Segment, SegmentError,
    SegmentOptions, Snapshot, Stripe, Totals,
};

use super::Options;
use super::totals::{self, Carried};
use crate::config::model::{Address, Cluster, Model};
use crate::stats::render::server;
use crate::stats::{ClusterScope, Entities, ServerScope};
use crate::upstream::{Endpoints, KnownEndpoint, Resolved};
use crate::worker;

/// How the instance is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// By this base id.
    BaseId(u32),
    /// By a base id that is free; which one is said in the log and in `--base-id-path`.
    Dynamic,
}

/// The number under which the control thread counts; workers have those from 0 up.
const CONTROL: u32 = u32::MAX;

/// How often a process looks for others that are gone.
const FOLD_PERIOD: Duration = Duration::from_secs(5);

/// How long a process that serves may take to be gone once its restart socket is, and how often that is looked for.
const DEATH_PATIENCE_MS: u64 = 1_000;
const DEATH_RETRY: Duration = Duration::from_millis(10);

/// See the module.
pub(super) struct Counting {
    membership: Membership,
    entities: Arc<Entities>,
    epoch: u32,
    /// Where the control thread counts.
    stripe: Stripe,
    server: Block<ServerScope>,
    started: Instant,
    /// What was counted in the segment of the process before, if that is another one.
    totals: RefCell<Totals>,
    /// The segment of a process that was killed, and what it had counted there itself.
    inheritance: Option<(Segment, RefCell<Totals>)>,
    /// The segment has not got its name yet.
    apart: Cell<Option<Apart>>,
}

impl Counting {
    /// Joins the instance and files the parts of the configuration in its segment.
    pub(super) fn start(
        Opened { segment, apart, carried, lost, .. }: Opened,
        options: &Options,
        model: &Model,
        epoch: u32,
    ) -> Result<Self, SegmentError> {
        #[allow(clippy::cast_possible_truncation)] // 1024 at most
        let workers = options.workers as u32;
        segment.show_presence();
        let membership = segment.join(&Joining { epoch, workers, version: env!("CARGO_PKG_VERSION") })?;
        let entities = worker::entities(&membership, model, options.workers);
        let stripe = membership.stripe(CONTROL);
        let server = stripe.block(membership.register(&[]));
        server.add(ServerScope::CONFIG_WARNINGS, model.warnings.len() as u64);
        let mut totals = membership.totals();
        totals.set(&carried.entities);
        let counting = Self {
            entities: Arc::new(entities),
            epoch,
            stripe,
            server,
            started: Instant::now(),
            totals: RefCell::new(totals),
            inheritance: lost.map(|lost| (lost, RefCell::new(membership.inheritance()))),
            apart: Cell::new(apart),
            membership,
        };
        counting.inherit();
        counting.report();
        Ok(counting)
    }

    /// The process serves now: its segment is that of the instance. Counts how long it took to get here.
    pub(super) fn count_start(&self) {
        if let Some(Err(error)) = self.apart.take().map(Apart::establish) {
            tracing::error!(%error, "the counters cannot be read from outside: their segment gets no name");
        }
        #[allow(clippy::cast_possible_truncation)] // 2^64 microseconds are enough
        self.server.record(ServerScope::INITIALIZATION_TIME, self.started.elapsed().as_micros() as u64);
    }

    /// What the process before has counted in its own segment, all of it: these replace those that it started with.
    pub(super) fn take_totals(&self, blobs: &[Blob]) {
        match totals::read(blobs) {
            Ok(carried) => self.totals.borrow_mut().set(&carried.entities),
            Err(error) => tracing::warn!(%error, "the last totals of the process before are broken"),
        }
        self.inherit();
        self.report();
    }

    /// Takes over what nobody else will: a process that was killed is read once, one that had only been given up has
    /// counted on.
    fn inherit(&self) {
        if let Some((lost, inheritance)) = &self.inheritance {
            inheritance.borrow_mut().set(&lost.counted_here());
        }
    }

    /// Where the control thread counts about a cluster.
    pub(super) fn cluster(&self, index: usize) -> Block<ClusterScope> {
        self.entities.clusters.get(index).map_or_else(Block::detached, |id| self.stripe.block(*id))
    }

    /// What the parts of the configuration are filed under.
    pub(super) fn entities(&self) -> &Arc<Entities> {
        &self.entities
    }

    /// Where a worker counts.
    pub(super) fn stripe(&self, worker: usize) -> Stripe {
        #[allow(clippy::cast_possible_truncation)] // 1024 at most
        self.membership.stripe(worker as u32)
    }

    /// The endpoints of a cluster, each with what its counters are filed under.
    pub(super) fn endpoints(&self, cluster: &Cluster, resolved: &Resolved) -> Endpoints {
        let file = |(address, weight): &(Address, u32)| KnownEndpoint {
            entity: self.membership.register(&[&cluster.name, &address.to_string()]),
            address: address.clone(),
            weight: *weight,
        };
        let endpoints = resolved.iter().map(file).collect();
        self.report();
        endpoints
    }

    /// Counters of endpoints that `after` has no more are given up.
    pub(super) fn forget(&self, before: &Endpoints, after: &Endpoints) {
        for gone in before.iter().filter(|old| after.iter().all(|new| new.address != old.address)) {
            self.membership.retire(gone.entity);
        }
    }

    /// What the process does, for whoever looks from outside.
    pub(super) fn set_state(&self, state: ProcessState) {
        self.membership.set_state(state);
    }

    /// The segment.
    pub(super) fn segment(&self) -> &Segment {
        self.membership.segment()
    }

    /// Whether the instance has been stopped: nobody serves or begins to, and the newest of the other processes has ended
    /// in good order.
    pub(super) fn instance_has_ended(&self) -> bool {
        use ProcessState::{Draining, Gone, Serving, Starting};
        let mut others = self.segment().processes();
        others.retain(|process| process.pid != std::process::id());
        let serves = |process: &Process| process.alive && matches!(process.state, Starting | Serving);
        let ended_well = |process: &Process| !process.alive && matches!(process.state, Draining | Gone);
        !others.iter().any(serves) && others.last().is_some_and(ended_well)
    }

    /// The restart epoch of this process.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Passes on what the segment has to say: that it is full, for example.
    fn report(&self) {
        for report in self.membership.take_reports() {
            tracing::warn!("{report}");
        }
    }
}

/// Where a process will count, as far as that is clear before it has met the process before.
pub(super) struct Place {
    pub(super) base_id: u32,
    /// A segment that is this process's own from the beginning.
    pub(super) own: Option<Segment>,
    size: u64,
}

/// Which process comes before this one.
pub(super) enum Before {
    /// None.
    Nobody,
    /// One that counts in the segment that has the name of the instance.
    Sharing,
    /// One that counts elsewhere.
    Elsewhere {
        /// What it has counted.
        carried: Vec<Blob>,
        /// Where a process has counted that took over from it and failed.
        lost: Option<Segment>,
    },
}

/// A segment to count in.
pub(super) struct Opened {
    segment: Segment,
    apart: Option<Apart>,
    carried: Carried,
    lost: Option<Segment>,
    /// A process has ended without a word, perhaps a moment ago.
    pub(super) after_a_death: bool,
}

/// Finds out where this process will count.
pub(super) fn find(options: &Options, model: &Model) -> Result<Place, SegmentError> {
    let size = model.server.stats_memory;
    let (base_id, own) = match options.instance {
        Instance::BaseId(base_id) if options.restart.disabled => (base_id, Some(Segment::private(size))),
        Instance::Dynamic if options.restart.disabled => (0, Some(Segment::private(size))),
        Instance::BaseId(base_id) => (base_id, None),
        Instance::Dynamic => {
            let socket_path = options.restart.socket_path.as_deref();
            let (segment, base_id) = Segment::create_dynamic(size, |base_id| is_free(socket_path, base_id))?;
            (base_id, Some(segment))
        }
    };
    Ok(Place { base_id, own, size })
}

/// Whether nobody answers at the restart socket of this base id. The processes of an instance may be dead and its socket
/// not yet closed, or there may be one that has not joined the segment.
fn is_free(socket_path: Option<&OsStr>, base_id: u32) -> bool {
    // What is wrong with the directory is said when the socket is bound.
    let Ok(address) = super::restart_address(socket_path, base_id) else { return true };
    matches!(Connection::connect(&address), Err((ConnectFailure::Nobody, _)))
        && !Segment::peek(base_id)
            .is_ok_and(|found| found.is_some_and(|segment| segment.is_anybody_present()))
}

/// Waits until nobody serves in this segment, who would have to be taken over from. A process that was killed a moment ago
/// does, as long as it is there.
///
/// # Errors
/// Who serves, in words.
async fn nobody_serves(segment: &Segment, base_id: u32) -> Result<(), String> {
    let until = super::after(DEATH_PATIENCE_MS);
    loop {
        let processes = segment.live_processes();
        let Some(other) = processes.iter().find(|process| process.state == ProcessState::Serving) else {
            return Ok(());
        };
        if tokio::time::Instant::now() >= until {
            return Err(format!(
                "process {} serves with base id {base_id} already, but does not answer at the restart socket of this one: \
                 is its --socket-path or its $XDG_RUNTIME_DIR another one? A second instance needs another --base-id",
                other.pid
            ));
        }
        tokio::time::sleep(DEATH_RETRY).await;
    }
}

/// Waits until nobody counts in this segment who cannot be seen from here, and whose counters would be taken for those of
/// the dead.
///
/// # Errors
/// That somebody does, in words.
async fn nobody_is_hidden(segment: &Segment, base_id: u32) -> Result<(), String> {
    let until = super::after(DEATH_PATIENCE_MS);
    while segment.live_processes().is_empty() && segment.is_anybody_present() {
        if tokio::time::Instant::now() >= until {
            return Err(format!(
                "a process that cannot be seen from here, in another container perhaps, counts with base id {base_id} in the \
                 same /dev/shm, and does not answer at the restart socket of this one: a second instance needs another --base-id"
            ));
        }
        tokio::time::sleep(DEATH_RETRY).await;
    }
    Ok(())
}

/// Opens the segment of the instance. Another one than that of the process before is made beside it: should this process
/// not come to serve, nothing has happened.
pub(super) async fn open(place: &Place, before: Before) -> Result<Opened, String> {
    let unkept = |error: SegmentError| format!("the counters cannot be kept: {error}");
    let base_id = place.base_id;
    let options = SegmentOptions { base_id, size: place.size };
    let opened = |segment: Segment| {
        let died = |process: &Process| !process.alive && process.state != ProcessState::Gone;
        let after_a_death = segment.processes().iter().any(died);
        Opened { segment, apart: None, carried: Carried::default(), lost: None, after_a_death }
    };
    match (before, &place.own) {
        (_, Some(own)) => Ok(opened(own.clone())),
        (Before::Elsewhere { carried, lost }, None) => {
            let carried = totals::read(&carried)
                .map_err(|error| format!("the totals of the process before are broken: {error}"))?;
            let (segment, apart) =
                Segment::create_apart(&options, carried.generations, carried.first_started_ms)
                    .map_err(unkept)?;
            Ok(Opened { segment, apart: Some(apart), carried, lost, after_a_death: false })
        }
        (before, None) => {
            let (segment, events) = Segment::open(&options).map_err(unkept)?;
            for event in events {
                tracing::warn!("{event}");
            }
            if matches!(before, Before::Nobody) {
                nobody_serves(&segment, base_id).await?;
                nobody_is_hidden(&segment, base_id).await?;
            }
            Ok(opened(segment))
        }
    }
}

/// Everything that is counted, all processes of the instance together.
pub(super) fn read(segment: &Segment) -> Snapshot {
    // Which connections are an older process's can only be told share by share.
    let shares_of = server::SHARES.iter().map(|scope| String::from(*scope)).collect();
    segment.snapshot(&ReadOptions { shares_of })
}

/// Takes over, again and again, what processes have counted that are gone.
pub(super) async fn keep_folding(segment: Segment) {
    loop {
        tokio::time::sleep(FOLD_PERIOD).await;
        let segment = segment.clone();
        // It may wait for another process that folds.
        match tokio::task::spawn_blocking(move || segment.fold()).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(processes)) => {
                tracing::info!(processes, "counters of processes that are gone were taken over")
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "counters of processes that are gone were not taken over")
            }
        }
    }
}
