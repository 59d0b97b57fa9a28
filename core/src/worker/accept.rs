//! Accepting on one listener: connections become sessions, as many as the limits allow.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::{Accepts, Shared};
use crate::base::clock::{Millis, NEVER};
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::config::model::Listener;
use crate::proxy::http1::Http1;
use crate::proxy::tcp::Tcp;
use crate::proxy::{Gate, HttpService, Permit, TcpService};
use crate::ring::Acceptor;
use crate::stats::ListenerScope;

/// What a listener speaks.
#[derive(Clone)]
pub(super) enum Service {
    Http(Rc<HttpService>),
    Tcp(Rc<TcpService>),
}

/// One listener of one worker.
pub(super) struct Acceptance {
    pub(super) shared: Rc<Shared>,
    pub(super) listener: Arc<Listener>,
    /// Taken when accepting begins.
    pub(super) socket: Option<OwnedFd>,
    pub(super) service: Service,
    pub(super) gate: Rc<Gate>,
}

impl Acceptance {
    /// Accepts until the worker drains.
    pub(super) async fn run(mut self) {
        let ring = self.shared.context.ring.clone();
        let Some(socket) = self.socket.take() else { return };
        let acceptor = ring.listen(socket, ring.current_task());
        let mut paused_at: Option<Millis> = None;
        let mut warned_at: Option<Millis> = None;
        // An accepted connection that waits for a permit.
        let mut waiting: Option<OwnedFd> = None;
        // The limit that it waits for.
        let mut full = None;
        let mut looks = self.shared.looks.get();
        let address = acceptor.local_address();
        self.shared.bound.borrow_mut().push(address.clone());
        // Accepting is stopped for the time being, and the server knows.
        let mut is_paused = false;
        // What was in the kernel's queue when accepting stopped, and whether it has been taken.
        let mut late = VecDeque::new();
        let mut has_looked = false;
        loop {
            let accepts = self.shared.accepts.get();
            if accepts == Accepts::Nothing || self.is_released(&address) {
                break;
            }
            if accepts == Accepts::All {
                has_looked = false;
                if std::mem::take(&mut is_paused) {
                    self.shared.paused.set(self.shared.paused.get() - 1);
                }
            }
            if looks != self.shared.looks.get() {
                looks = self.shared.looks.get();
                late.extend(acceptor.drain_queue());
            }
            if waiting.is_none() {
                match late.pop_front().map(Ok).or_else(|| acceptor.take()) {
                    Some(Ok(fd)) => waiting = Some(fd),
                    Some(Err(errno)) => {
                        let now = ring.now();
                        if warned_at.is_none_or(|at| at + limits::ACCEPT_WARNING_MS <= now) {
                            let error = std::io::Error::from_raw_os_error(errno);
                            tracing::warn!(listener = self.listener.name, %error, "accepting pauses");
                            warned_at = Some(now);
                        }
                        self.gate.stats.inc(ListenerScope::ACCEPT_FAILED);
                        paused_at = Some(now);
                    }
                    None => {}
                }
            }
            if let Some(fd) = waiting.take() {
                match self.gate.admit() {
                    Ok(permit) => {
                        full = None;
                        self.start(fd, permit);
                        continue;
                    }
                    Err(limit) => {
                        waiting = Some(fd);
                        if full != Some(limit) {
                            full = Some(limit);
                            self.gate.count_full(limit);
                        }
                    }
                }
            }
            if accepts == Accepts::Paused {
                // The sockets are another process's now. What the ring has accepted is ours, down to the last completion.
                acceptor.pause();
                if !has_looked && acceptor.is_idle() {
                    // The kernel wakes one of those who accept from a queue. If that was the accept that has just been
                    // cancelled, nobody else knows of the connection.
                    has_looked = true;
                    late.extend(acceptor.drain_queue());
                    continue;
                }
                if !is_paused && has_looked {
                    is_paused = true;
                    self.shared.paused.set(self.shared.paused.get() + 1);
                    self.shared.accepting_stopped();
                }
                let until = if waiting.is_some() { ring.now() + limits::ACCEPT_PAUSE_MS } else { NEVER };
                self.shared.wait_for_an_end(ring.current_task());
                ring.wait(until).await;
            } else if waiting.is_some() || paused_at.is_some() {
                // At a limit: the rest waits in the kernel's queue. A connection of this worker that ends wakes this
                // task; one of another worker does not, hence the deadline.
                acceptor.pause();
                self.shared.wait_for_an_end(ring.current_task());
                ring.wait(ring.now() + limits::ACCEPT_PAUSE_MS).await;
                if paused_at.is_some_and(|at| at + limits::ACCEPT_PAUSE_MS <= ring.now())
                    && !is_on(Mutation::PausedForEver)
                {
                    paused_at = None;
                }
                if waiting.is_none() && paused_at.is_none() {
                    acceptor.resume();
                }
            } else {
                acceptor.resume();
                ring.wait(NEVER).await;
            }
        }
        let is_ours = !self.shared.queues_are_anothers.get() || self.is_released(&address);
        late.extend(waiting);
        self.finish(&acceptor, late, is_ours).await;
        drop(acceptor);
        {
            let mut bound = self.shared.bound.borrow_mut();
            let own = bound.iter().position(|other| *other == address);
            own.map(|own| bound.swap_remove(own));
        }
        self.shared.released_one();
        if is_paused {
            self.shared.paused.set(self.shared.paused.get() - 1);
        }
        self.shared.accepting.set(self.shared.accepting.get() - 1);
        self.shared.accepting_stopped();
        ring.wake(self.shared.root.get());
    }

    /// Whether this listener is given up.
    fn is_released(&self, address: &str) -> bool {
        self.shared.released.borrow().as_ref().is_some_and(|released| released.contains(address))
    }

    /// Serves what the ring had accepted when accepting ended, and what the kernel had if the queue is ours: another
    /// process that accepts from it would miss what is taken here.
    async fn finish(&self, acceptor: &Acceptor, mut rest: VecDeque<OwnedFd>, queue_is_ours: bool) {
        let ring = &self.shared.context.ring;
        acceptor.pause();
        while !acceptor.is_idle() {
            ring.wait(NEVER).await;
        }
        while let Some(accepted) = acceptor.take() {
            rest.extend(accepted.ok());
        }
        if queue_is_ours {
            rest.extend(acceptor.drain_queue());
        }
        for fd in rest {
            match self.gate.admit() {
                Ok(permit) => self.start(fd, permit),
                Err(_) => {
                    tracing::warn!(listener = self.listener.name, "connection limit reached while stopping")
                }
            }
        }
    }

    fn start(&self, fd: OwnedFd, permit: Permit) {
        let context = Rc::clone(&self.shared.context);
        let down = context.ring.adopt(fd);
        match &self.service {
            Service::Http(service) => {
                self.shared.spawn(Http1::new(Rc::clone(&context), Rc::clone(service), down, permit));
            }
            Service::Tcp(service) => {
                self.shared.spawn(Tcp::new(Rc::clone(&context), Rc::clone(service), down, permit));
            }
        }
    }
}
