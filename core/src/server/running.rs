//! What a process has once it is prepared to serve: sockets, workers, counters, the admin interface.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use ouro_restart::message::ListenSocket;

use super::admin::{self, Admin, Desk, EndpointBook};
use super::counting::{self, Counting, Opened};
use super::listen::{self, Bound, Passed, STREAM, UnixPaths};
use super::workers::{self, Event, Workers};
use super::{Options, Surroundings, after};
use crate::config::model::{Address, Cluster, Listener};
use crate::control::admin::{AdminListener, Stage};
use crate::control::resolve;
use crate::stats::ClusterScope;
use crate::upstream::{Endpoints, Resolved};
use crate::worker::Message;

/// Purpose of the socket of the admin interface.
const ADMIN: &str = "admin";

/// How long an address may be in use before that is an error, and how often it is tried. After a death it may be in use
/// as long as the kernel has not taken the ring of the dead process apart: on a busy machine that has taken 1.5 s.
const BIND_PATIENCE_MS: u64 = 1_000;
const BIND_PATIENCE_AFTER_A_DEATH_MS: u64 = 15_000;
const BIND_RETRY_MS: u64 = 10;

/// See the module.
pub(super) struct Running {
    pub(super) workers: Arc<Workers>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) counting: Rc<Counting>,
    pub(super) desk: Desk,
    unix_paths: UnixPaths,
    book: EndpointBook,
    addresses: Vec<Address>,
    admin: Option<Admin>,
    /// Kept for whoever serves the interface next: a successor, or this process again.
    admin_listener: Option<AdminListener>,
    /// Name resolution and the like, which end with the process.
    tasks: Vec<JoinHandle<()>>,
    /// Takes over what dead processes have counted.
    folding: JoinHandle<()>,
}

/// What comes of preparing.
pub(super) struct Prepared {
    pub(super) running: Running,
    /// Every listening socket once more, for the next process.
    pub(super) offered: Vec<Passed>,
    /// Bound addresses of inherited sockets that are of no use here.
    pub(super) released: Vec<String>,
}

impl Running {
    /// Binds what is not inherited, resolves names, starts the workers and waits until they accept.
    ///
    /// # Errors
    /// What cannot be done, in words.
    pub(super) async fn prepare(
        surroundings: &Surroundings<'_>,
        opened: Opened,
        epoch: u32,
        mut inherited: Vec<Passed>,
    ) -> Result<Prepared, String> {
        let Surroundings { options, model, capabilities, jobs, .. } = surroundings;
        let patience_ms =
            if opened.after_a_death { BIND_PATIENCE_AFTER_A_DEATH_MS } else { BIND_PATIENCE_MS };
        let counting = Counting::start(opened, options, model, epoch)
            .map_err(|error| format!("the counters cannot be kept: {error}"))?;
        let counting = Rc::new(counting);
        let mut unix_paths = UnixPaths::default();
        let (mut sockets, mut addresses, mut offered) = (Vec::new(), Vec::new(), Vec::new());
        for listener in &model.listeners {
            let bound = bind(listener, options.workers, &mut inherited, patience_ms).await?;
            unix_paths.add(&bound.address, bound.is_inherited);
            sockets.push(bound.sockets);
            addresses.push(bound.address);
            offered.extend(bound.copies);
        }
        let admin_listener = match &model.admin {
            None => None,
            Some(admin) => {
                let (listener, is_inherited) = bind_admin(&admin.address, options, &mut inherited)?;
                unix_paths.add(listener.address(), is_inherited);
                offered.push(pass_admin(&listener, &admin.address)?);
                Some(listener)
            }
        };
        let mut released: Vec<String> =
            inherited.iter().map(|passed| passed.described.bound_address.clone()).collect();
        released.sort_unstable();
        released.dedup();

        let (resolved, mut known) = resolve_all(&model.clusters).await?;
        let endpoints: Vec<_> = model
            .clusters
            .iter()
            .zip(&resolved)
            .map(|(cluster, found)| counting.endpoints(cluster, found))
            .collect();
        let start = workers::Start {
            model,
            sockets,
            endpoints: &endpoints,
            counting: &counting,
            cpus: &options.worker_cpus,
            capabilities,
        };
        let (workers, mut events) = Workers::start(start, options.workers, jobs)
            .map_err(|error| format!("a worker cannot be started: {error}"))?;
        for _ in 0..options.workers {
            match events.recv().await {
                Some(Event::Ready | Event::Paused | Event::Released) => {}
                Some(Event::Ended(Err(error))) => return Err(error),
                Some(Event::Ended(Ok(()))) | None => return Err("a worker ended while starting".into()),
            }
        }
        for (listener, address) in model.listeners.iter().zip(&addresses) {
            tracing::info!(listener = listener.name, %address, "listening");
        }
        let book = EndpointBook::default();
        for (cluster, endpoints) in endpoints.iter().enumerate() {
            book.write(cluster, endpoints);
        }
        let workers = Arc::new(workers);
        let mut tasks = Vec::new();
        for (index, cluster) in
            model.clusters.iter().enumerate().filter(|(_, cluster)| resolve::has_names(cluster))
        {
            let watch = Watch {
                workers: Arc::clone(&workers),
                cluster: Arc::clone(cluster),
                index,
                counting: Rc::clone(&counting),
                book: book.clone(),
                resolved: resolved[index].clone(),
                endpoints: endpoints[index].clone(),
                known: std::mem::take(&mut known[index]),
            };
            tasks.push(tokio::task::spawn_local(watch.run()));
        }
        let folding = tokio::task::spawn_local(counting::keep_folding(counting.segment().clone()));
        let desk = Desk::new();
        let running = Self {
            workers,
            events,
            counting,
            desk,
            unix_paths,
            book,
            addresses,
            admin: None,
            admin_listener,
            tasks,
            folding,
        };
        Ok(Prepared { running, offered, released })
    }

    /// This process serves now.
    pub(super) fn serve(&mut self, surroundings: &Surroundings<'_>) {
        self.unix_paths.set_serving(true);
        self.start_admin(surroundings);
        admin::set_stage(&self.desk, &self.counting, Stage::Live);
    }

    /// Another process serves now. Sockets stay open, so that this one can take the service back.
    pub(super) fn stand_back(&mut self) {
        self.unix_paths.set_serving(false);
        admin::set_stage(&self.desk, &self.counting, Stage::Draining);
        if let Some(admin) = self.admin.take() {
            // An answer in progress, perhaps to whoever asked for this, is completed.
            tokio::task::spawn_local(admin.stop());
        }
        self.workers.tell(|| Message::Pause);
    }

    /// This process serves again, because the other one has failed.
    pub(super) fn resume(&mut self, surroundings: &Surroundings<'_>) {
        self.workers.tell(|| Message::Farewell(None));
        self.workers.tell(|| Message::Resume);
        self.serve(surroundings);
    }

    /// This process will not serve again. Whoever has to start cold would find its sockets in use.
    pub(super) fn close_listeners(&mut self) {
        self.admin_listener = None;
        self.workers.tell(|| Message::StopAccepting);
        // Who has ended is to be seen as long as this process lives: see `Counting::instance_has_ended`.
        self.folding.abort();
    }

    /// These addresses are nobody's any more.
    pub(super) fn release(&self, addresses: Vec<String>) {
        if !addresses.is_empty() {
            tracing::info!(?addresses, "listeners that the new process does not have are closed");
            let addresses: Arc<HashSet<String>> = Arc::new(addresses.into_iter().collect());
            self.workers.tell(|| Message::Release(Arc::clone(&addresses)));
        }
    }

    /// Nothing more is accepted, by no process.
    pub(super) fn set_draining(&self) {
        admin::set_stage(&self.desk, &self.counting, Stage::Draining);
    }

    /// The end: the admin interface gets a moment to finish.
    pub(super) async fn end(self) {
        for task in self.tasks.into_iter().chain([self.folding]) {
            task.abort();
        }
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
    }

    fn start_admin(&mut self, surroundings: &Surroundings<'_>) {
        let Some(listener) = &self.admin_listener else { return };
        match listener.try_clone() {
            Ok(listener) => {
                let state =
                    admin::state(&self.desk, surroundings, &self.addresses, &self.counting, &self.book);
                self.admin = Some(Admin::start(listener, state));
            }
            Err(error) => tracing::error!(%error, "the admin interface cannot be served"),
        }
    }
}

/// Binds a listener. An address may be in use for a moment although its process is gone: the kernel takes a ring apart,
/// and closes what it had, after the process has ended.
async fn bind(
    listener: &Listener,
    workers: usize,
    inherited: &mut Vec<Passed>,
    patience_ms: u64,
) -> Result<Bound, String> {
    let until = after(patience_ms);
    loop {
        match listen::bind(listener, workers, inherited) {
            Ok(bound) => return Ok(bound),
            Err(error) if error.is_in_use() && Instant::now() < until => {
                tokio::time::sleep_until(after(BIND_RETRY_MS)).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Binds the admin interface or takes it over, and says where it is to whoever asked.
fn bind_admin(
    address: &Address,
    options: &Options,
    inherited: &mut Vec<Passed>,
) -> Result<(AdminListener, bool), String> {
    let own = inherited.iter().position(|passed| {
        passed.described.purpose == ADMIN && passed.described.address == address.to_string()
    });
    let taken = own.and_then(|n| AdminListener::try_from(inherited.swap_remove(n).fd).ok());
    // What is left of this purpose is bound elsewhere, and goes with the process before.
    inherited.retain(|passed| passed.described.purpose != ADMIN);
    let is_inherited = taken.is_some();
    let listener = match taken {
        Some(listener) => listener,
        None => AdminListener::bind(address)
            .map_err(|error| format!("admin interface: cannot listen on {address}: {error}"))?,
    };
    if let Some(path) = &options.admin_address_path {
        std::fs::write(path, format!("{}\n", listener.address())).map_err(|error| {
            format!("the address of the admin interface cannot be written to {}: {error}", path.display())
        })?;
    }
    Ok((listener, is_inherited))
}

fn pass_admin(listener: &AdminListener, configured: &Address) -> Result<Passed, String> {
    let copy = listener.try_clone().map_err(|error| format!("admin interface: {error}"))?;
    let described = ListenSocket {
        purpose: ADMIN.into(),
        protocol: if matches!(configured, Address::Ip(_)) { "tcp" } else { "unix" }.into(),
        socket_type: STREAM.into(),
        address: configured.to_string(),
        bound_address: listener.address().to_string(),
        ..ListenSocket::default()
    };
    Ok(Passed { described, fd: copy.into() })
}

/// All names at once: a resolver that does not answer costs its time-out only once.
async fn resolve_all(clusters: &[Arc<Cluster>]) -> Result<(Vec<Resolved>, Vec<resolve::Known>), String> {
    let lookups: Vec<_> = clusters
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
        let (addresses, names) = lookup.await.map_err(|_| String::from("resolving names failed"))?;
        resolved.push(addresses);
        known.push(names);
    }
    Ok((resolved, known))
}

/// Keeps the endpoints of a cluster with names up to date.
struct Watch {
    workers: Arc<Workers>,
    cluster: Arc<Cluster>,
    index: usize,
    counting: Rc<Counting>,
    book: EndpointBook,
    resolved: Resolved,
    endpoints: Endpoints,
    known: resolve::Known,
}

impl Watch {
    async fn run(mut self) {
        let stats = self.counting.cluster(self.index);
        loop {
            tokio::time::sleep_until(after(self.cluster.resolve_period_ms)).await;
            stats.inc(ClusterScope::UPDATE_ATTEMPT);
            let (resolved, failed) = resolve::resolve(&self.cluster, &mut self.known).await;
            stats.inc(if failed { ClusterScope::UPDATE_FAILURE } else { ClusterScope::UPDATE_SUCCESS });
            if resolved == self.resolved {
                continue;
            }
            tracing::info!(cluster = self.cluster.name, endpoints = resolved.len(), "endpoints have changed");
            let counted = self.counting.endpoints(&self.cluster, &resolved);
            self.workers.tell(|| Message::Endpoints(self.index, counted.clone()));
            self.counting.forget(&self.endpoints, &counted);
            self.book.write(self.index, &counted);
            (self.resolved, self.endpoints) = (resolved, counted);
        }
    }
}
