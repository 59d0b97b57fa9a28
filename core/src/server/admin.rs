//! The admin interface, bound to what it shows and to whoever carries out what it asks for.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use ouro_shm::Snapshot;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Surroundings;
use super::counting::Counting;
use crate::config::model::{Address, Protocol};
use crate::control::admin::{
    self, AdminListener, AdminState, BoundListener, Command, ProcessInfo, QUEUED_COMMANDS, Stage, Status,
};
use crate::upstream::Endpoints;

/// Endpoints of one cluster: address and weight.
type Members = Vec<(String, u32)>;

/// The endpoints of each cluster as they are now; written by whoever resolves names, read by the admin interface.
#[derive(Clone, Default)]
pub(super) struct EndpointBook(Arc<RwLock<Vec<Members>>>);

impl EndpointBook {
    /// The endpoints of the cluster at this position are these.
    pub(super) fn write(&self, cluster: usize, endpoints: &Endpoints) {
        let mut book = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if book.len() <= cluster {
            book.resize(cluster + 1, Vec::new());
        }
        book[cluster] = endpoints.iter().map(|e| (e.address.to_string(), e.weight)).collect();
    }

    fn read(&self, cluster: usize) -> Members {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        book.get(cluster).cloned().unwrap_or_default()
    }
}

/// What the process is asked to do, and what it says of itself.
pub(super) struct Desk {
    /// Commands of the admin interface.
    pub(super) commands: mpsc::Receiver<Command>,
    /// What the process does now.
    pub(super) status: Arc<Status>,
    sender: mpsc::Sender<Command>,
}

impl Desk {
    pub(super) fn new() -> Self {
        let (sender, commands) = mpsc::channel(QUEUED_COMMANDS);
        Self { commands, status: Arc::default(), sender }
    }
}

/// The interface that serves.
pub(super) struct Admin {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Admin {
    /// Serves on `listener` until [`stop`](Self::stop).
    pub(super) fn start(listener: AdminListener, state: AdminState) -> Self {
        if !listener.is_local() {
            tracing::warn!(
                address = %listener.address(),
                "the admin interface can be reached from other machines: whoever does can stop this process"
            );
        }
        tracing::info!(address = %listener.address(), "admin interface");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(async move {
            let ended = async {
                let _ = stopped.await;
            };
            if let Err(error) = admin::serve(listener, Arc::new(state), ended).await {
                tracing::error!(%error, "the admin interface has failed");
            }
        });
        Self { stop, task }
    }

    /// Accepts nothing more, and waits a moment for what is in progress.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Everything that the interface shows.
pub(super) fn state(
    desk: &Desk,
    surroundings: &Surroundings<'_>,
    addresses: &[Address],
    counting: &Counting,
    book: &EndpointBook,
) -> AdminState {
    let Surroundings { model, options, .. } = surroundings;
    let segment = counting.segment().clone();
    let book = book.clone();
    let listeners = model.listeners.iter().zip(addresses).map(|(listener, address)| BoundListener {
        name: listener.name.clone(),
        address: address.clone(),
        protocol: match listener.protocol {
            Protocol::Http(_) => "http",
            Protocol::Tcp(_) => "tcp",
        },
        workers: options.workers,
    });
    AdminState {
        snapshot: Box::new(move || -> Snapshot { super::counting::read(&segment) }),
        endpoints: Box::new(move |cluster| book.read(cluster)),
        model: Arc::clone(model),
        listeners: listeners.collect(),
        process: process(surroundings, counting),
        status: Arc::clone(&desk.status),
        names: model.admin.as_ref().map(|admin| admin.names.clone()).unwrap_or_default(),
        commands: desk.sender.clone(),
    }
}

fn process(surroundings: &Surroundings<'_>, counting: &Counting) -> ProcessInfo {
    let Surroundings { options, capabilities, base_id, .. } = surroundings;
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_deref().map_or(serde_json::Value::Null, |path: &Path| json!(path.display().to_string()))
    };
    ProcessInfo {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        epoch: counting.epoch(),
        workers: options.workers,
        started: (Instant::now(), SystemTime::now()),
        command_line: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        options: vec![
            ("base_id", json!(base_id)),
            ("restart_epoch", json!(counting.epoch())),
            ("config_path", path(&options.config_path)),
            ("concurrency", json!(options.workers)),
            ("worker_cpus", json!(options.worker_cpus)),
            ("log_path", path(&options.log_path)),
            ("admin_address_path", path(&options.admin_address_path)),
            ("base_id_path", path(&options.base_id_path)),
        ],
        engine: "io_uring",
        kernel: capabilities.kernel.clone(),
        capabilities: vec![
            ("recv_limit", capabilities.recv_limit),
            ("registered_files", capabilities.registered_files),
            ("recvsend_bundle", capabilities.recvsend_bundle),
            ("no_iowait", capabilities.no_iowait),
        ],
    }
}

/// Says to everybody what the process does now.
pub(super) fn set_stage(desk: &Desk, counting: &Counting, stage: Stage) {
    desk.status.set_stage(stage);
    counting.set_state(match stage {
        Stage::Initialising => ouro_shm::ProcessState::Starting,
        Stage::Live => ouro_shm::ProcessState::Serving,
        Stage::Draining => ouro_shm::ProcessState::Draining,
    });
}
