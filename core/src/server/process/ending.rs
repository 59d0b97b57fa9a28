//! How the process lets go of its connections, once it has been replaced or told to stop.

use ouro_restart::message::DrainListeners;
use ouro_restart::parent::PeerId;
use tokio::time::Instant;

use super::{ANSWERED_LOOK, AROUND_LOOK, DRAIN_REPORT, LAST_WORDS_MS, Process};
use crate::server::link::Link;
use crate::server::{DONE, after, notify};
use crate::worker::Message;

impl Process<'_> {
    /// Connections move to the next process, or end in their own time.
    pub(super) fn begin_drain(&mut self, drain: DrainListeners, live: Option<PeerId>) {
        let (Some(running), Some(link)) = (&self.running, &mut self.link) else { return };
        self.at_commit = running.workers.connections() as u64;
        if !drain.released.is_empty() {
            link.withdraw(&drain.released);
            self.releasing = self.alive;
        }
        running.release(drain.released);
        let mut moving = live.is_some();
        for worker in 0..running.workers.len() {
            let number = u32::try_from(worker).unwrap_or(u32::MAX);
            match live.and_then(|peer| link.open_channel(peer, number)) {
                Some(channel) => {
                    running.workers.tell_one(worker, Message::HandOver(Box::new(channel)));
                    self.releasing += 1;
                }
                None => moving = false,
            }
        }
        if moving {
            self.farewell_ms = Some(drain.drain_ms);
        } else {
            running.workers.tell(|| Message::Farewell(Some(drain.drain_ms)));
        }
        self.draining = Some(Instant::now());
        self.shutdown_at = Some(after(drain.parent_shutdown_ms));
        self.look();
    }

    /// Whether the process that serves has been stopped, if it could not say so to this one.
    pub(super) fn instance_has_ended(&mut self) -> bool {
        if !self.is_orphaned || self.stopping || self.looked_around.elapsed() < AROUND_LOOK {
            return false;
        }
        self.looked_around = Instant::now();
        let seems_so = self.running.as_ref().is_some_and(|running| running.counting.instance_has_ended());
        // Who serves may count elsewhere.
        let is_answered = seems_so && self.link.as_ref().is_some_and(Link::is_answered);
        if is_answered {
            self.looked_around += ANSWERED_LOOK;
        }
        seems_so && !is_answered
    }

    /// Looks how many connections are left.
    pub(super) fn look(&mut self) {
        let left = self.connections();
        let (Some(link), Some(reported)) = (&mut self.link, &mut self.draining) else { return };
        if left == 0 && self.releasing == 0 && (self.failing || !link.must_stay()) {
            self.draining = None;
            if self.failing {
                return self.end_soon(LAST_WORDS_MS);
            }
            link.drained(self.at_commit);
        } else if reported.elapsed() >= DRAIN_REPORT {
            *reported = Instant::now();
            link.connections_left(left);
            // What has not moved in this time stays, and only then may its clients be told to close.
            if let Some(over_ms) = self.farewell_ms.take() {
                // Whoever reads the line may rely on it.
                self.tell(|| Message::Farewell(Some(over_ms)));
                tracing::info!(connections = left, "connections stay: they end in their own time");
            }
        }
    }

    /// Stops: what is in flight first, at once the second time. The exit code where nothing runs yet.
    pub(super) fn stop(&mut self) -> Option<u8> {
        if self.stopping {
            tracing::info!("stopping at once");
            self.tell(|| Message::Stop);
            return None;
        }
        self.stopping = true;
        notify::stopping();
        if let Some(successor) = self.successor.take() {
            // It would find nobody any more, and start cold.
            successor.stop();
            successor
                .report(self.epoch.saturating_add(1), Err("the process that was to be replaced is stopped"));
        }
        if let Some(link) = &mut self.link {
            link.stopping();
        }
        if self.running.is_none() {
            tracing::info!("stopped before anything was begun");
            return Some(DONE);
        }
        let timeout_ms = self.surroundings.model.server.shutdown_timeout_ms;
        tracing::info!(timeout_ms, "finishing what is in flight");
        self.end_soon(timeout_ms);
        None
    }

    /// Ends connections decently, and cuts off what is left after this time.
    pub(super) fn end_soon(&mut self, timeout_ms: u64) {
        if let Some(link) = &mut self.link {
            // Queues are emptied by the workers, and the sockets closed by whoever has them last.
            link.offer(Vec::new());
        }
        if let Some(running) = &self.running {
            running.set_draining();
        }
        self.tell(|| Message::Drain);
        self.deadline = Some(after(timeout_ms));
    }
}
