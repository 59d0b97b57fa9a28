//! The worker threads: started, told things, joined.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ouro_restart::Connection;
use tokio::sync::mpsc;

use super::counting::Counting;
use crate::config::model::Model;
use crate::control::access_log::Job;
use crate::ring::Capabilities;
use crate::ring::mailbox::{self, Sender};
use crate::upstream::Endpoints;
use crate::worker::{Connections, Message, Report, Worker};

/// What a worker reports.
#[derive(Debug)]
pub(super) enum Event {
    /// It accepts connections.
    Ready,
    /// It accepts nothing any more for the time being.
    Paused,
    /// The listeners that were given up are closed, their queues empty; or the idle connections have moved.
    Released,
    /// It has ended, regularly or for a reason.
    Ended(Result<(), String>),
}

/// Events of a worker that may wait for the server.
const EVENTS_PER_WORKER: usize = 8;

/// What workers start with.
pub(super) struct Start<'a> {
    pub(super) model: &'a Arc<Model>,
    /// Per listener, the sockets of each worker.
    pub(super) sockets: Vec<Vec<Vec<OwnedFd>>>,
    pub(super) endpoints: &'a [Endpoints],
    pub(super) counting: &'a Counting,
    /// The CPU of each worker; empty to pin none.
    pub(super) cpus: &'a [usize],
    pub(super) capabilities: &'a Capabilities,
}

/// All workers of the process.
pub(super) struct Workers {
    mailboxes: Vec<Sender<Message>>,
    connections: Arc<Connections>,
    _threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub(super) fn start(
        start: Start<'_>,
        count: usize,
        jobs: &mpsc::Sender<Job>,
    ) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let Start { model, sockets, endpoints, counting, cpus, capabilities } = start;
        let connections = Arc::new(Connections::new(model.listeners.len()));
        // A few for each worker: being ready, pauses, and the end.
        let (events, receiver) = mpsc::channel(EVENTS_PER_WORKER * count);
        let mut mailboxes = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        let mut sockets: Vec<_> = sockets.into_iter().map(Vec::into_iter).collect();
        for index in 0..count {
            let (sender, mailbox) = mailbox::mailbox()?;
            let jobs = jobs.clone();
            let worker = Worker {
                model: Arc::clone(model),
                sockets: sockets.iter_mut().filter_map(Iterator::next).collect(),
                endpoints: endpoints.to_vec(),
                index,
                entities: Arc::clone(counting.entities()),
                stripe: counting.stripe(index),
                mailbox,
                capabilities: capabilities.clone(),
                connections: Arc::clone(&connections),
                deliver_log: Box::new(move |target, piece| {
                    jobs.try_send(Job::Write(target.clone(), piece)).map_err(|error| {
                        match error.into_inner() {
                            Job::Write(_, piece) => piece,
                            Job::Reopen | Job::Flush(_) => Vec::new(),
                        }
                    })
                }),
                seed: seed()?,
            };
            let events = events.clone();
            let cpu = cpus.get(index).copied();
            threads.push(
                std::thread::Builder::new()
                    .name(format!("worker-{index}"))
                    .spawn(move || run(index, worker, cpu, &events))?,
            );
            mailboxes.push(sender);
        }
        Ok((Self { mailboxes, connections, _threads: threads }, receiver))
    }

    pub(super) fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// Downstream connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.connections.open()
    }

    /// Whether channels may yet come on which connections of the process before will.
    pub(super) fn expect_arrivals(&self, expected: bool) {
        self.connections.expect_arrivals(expected);
    }

    /// Whether connections of the process before still come, or may yet.
    pub(super) fn are_arriving(&self) -> bool {
        self.connections.are_arriving()
    }

    /// Has one of the workers take connections of the process before on this channel.
    pub(super) fn take_parcels(&self, worker: usize, channel: Box<Connection>) {
        self.tell_one(worker, Message::TakeParcels(channel, self.connections.arrival()));
    }

    /// Sends one of the workers a message; numbers beyond the last go round.
    pub(super) fn tell_one(&self, worker: usize, message: Message) {
        let worker = worker % self.mailboxes.len().max(1);
        if let Some(Err(_)) = self.mailboxes.get(worker).map(|mailbox| mailbox.send(message)) {
            tracing::error!(worker, "a worker does not take its messages");
        }
    }

    /// Sends each worker a message. A full mailbox means that the worker hangs, which a message does not mend.
    pub(super) fn tell(&self, message: impl Fn() -> Message) {
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            if mailbox.send(message()).is_err() {
                tracing::error!(worker, "a worker does not take its messages");
            }
        }
    }
}

fn run(index: usize, worker: Worker, cpu: Option<usize>, events: &mpsc::Sender<Event>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        if set.set(cpu).is_err() || sched_setaffinity(Pid::from_raw(0), &set).is_err() {
            tracing::warn!(worker = index, cpu, "the worker could not be pinned to its CPU");
        }
    }
    let ready = events.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        worker.run(move |report| {
            let event = match report {
                Report::Ready => Event::Ready,
                Report::Paused => Event::Paused,
                Report::Released | Report::PoolsMoved => Event::Released,
            };
            let _ = ready.try_send(event);
        })
    }));
    let ended = match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("worker {index} failed: {error}")),
        Err(_) => Err(format!("worker {index} panicked, which is a bug")),
    };
    let _ = events.try_send(Event::Ended(ended));
}

fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut file = std::fs::File::open("/dev/urandom")?;
    io::Read::read_exact(&mut file, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
