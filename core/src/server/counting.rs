//! The process's place in the shared segment: where everything that it counts is filed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ouro_shm::{
    Block, Joining, Membership, ProcessState, ReadOptions, Segment, SegmentError, SegmentOptions, Snapshot,
    Stripe,
};

use super::Options;
use crate::config::model::{Address, Cluster, Model, Protocol};
use crate::stats::render::server;
use crate::stats::{ClusterScope, Entities, ListenerEntities, ServerScope};
use crate::upstream::{Endpoints, KnownEndpoint, Resolved};

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

/// See the module.
pub(super) struct Counting {
    membership: Membership,
    entities: Arc<Entities>,
    epoch: u32,
    /// Where the control thread counts.
    stripe: Stripe,
    server: Block<ServerScope>,
    started: Instant,
}

impl Counting {
    /// Joins the instance and files the parts of the configuration in its segment.
    pub(super) fn start(
        segment: &Segment,
        options: &Options,
        model: &Model,
        epoch: u32,
    ) -> Result<Self, SegmentError> {
        #[allow(clippy::cast_possible_truncation)] // 1024 at most
        let workers = options.workers as u32;
        let membership = segment.join(&Joining { epoch, workers, version: env!("CARGO_PKG_VERSION") })?;
        let entities = Entities {
            listeners: model
                .listeners
                .iter()
                .map(|listener| {
                    let is_http = matches!(listener.protocol, Protocol::Http(_));
                    let labels: &[&str] = &[&listener.name];
                    ListenerEntities {
                        listener: membership.register(labels),
                        http: is_http.then(|| membership.register(labels)),
                        tcp: (!is_http).then(|| membership.register(labels)),
                    }
                })
                .collect(),
            clusters: model.clusters.iter().map(|cluster| membership.register(&[&cluster.name])).collect(),
            workers: (0..options.workers).map(|n| membership.register(&[&n.to_string()])).collect(),
            handover: Some(membership.register(&[])),
        };
        let stripe = membership.stripe(CONTROL);
        let server = stripe.block(membership.register(&[]));
        server.add(ServerScope::CONFIG_WARNINGS, model.warnings.len() as u64);
        let entities = Arc::new(entities);
        let counting = Self { membership, entities, epoch, stripe, server, started: Instant::now() };
        counting.report();
        Ok(counting)
    }

    /// The process serves now; counts how long it took to get here.
    pub(super) fn count_start(&self) {
        #[allow(clippy::cast_possible_truncation)] // 2^64 microseconds are enough
        self.server.record(ServerScope::INITIALIZATION_TIME, self.started.elapsed().as_micros() as u64);
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

/// Opens the segment of the instance; says, too, what its base id is.
pub(super) fn open(options: &Options, model: &Model) -> Result<(Segment, u32), SegmentError> {
    let size = model.server.stats_memory;
    match options.instance {
        _ if options.restart.disabled => {
            let base_id = if let Instance::BaseId(base_id) = options.instance { base_id } else { 0 };
            Ok((Segment::private(size), base_id))
        }
        Instance::BaseId(base_id) => {
            let (segment, events) = Segment::open(&SegmentOptions { base_id, size })?;
            for event in events {
                tracing::warn!("{event}");
            }
            Ok((segment, base_id))
        }
        Instance::Dynamic => Segment::create_dynamic(size),
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
