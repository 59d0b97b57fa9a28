//! How the process lets go of its connections, once it has been replaced or told to stop.

use ouro_restart::message::DrainListeners;
use ouro_restart::parent::PeerId;
use tokio::time::Instant;

use super::{ANSWERED_LOOK, AROUND_LOOK, Process};
use crate::server::course::{Dependents, LAST_WORDS_MS, Left};
use crate::server::link::Link;
use crate::server::{DONE, after, notify};
use crate::worker::Message;

impl Process<'_> {
    /// Connections move to the next process, or end in their own time.
    pub(super) fn begin_drain(&mut self, drain: DrainListeners, live: Option<PeerId>) {
        let now = self.now();
        let (Some(running), Some(link)) = (&self.running, &mut self.link) else { return };
        let connections = running.workers.connections() as u64;
        // Workers look at this when they have handed over what they have.
        running.workers.expect_arrivals(link.expects_channels());
        let releases = !drain.released.is_empty();
        link.withdraw(&drain.released);
        running.release(drain.released);
        let mut channels = 0;
        for worker in 0..running.workers.len() {
            let number = u32::try_from(worker).unwrap_or(u32::MAX);
            if let Some(channel) = live.and_then(|peer| link.open_channel(peer, number)) {
                running.workers.tell_one(worker, Message::HandOver(Box::new(channel)));
                channels += 1;
            }
        }
        let times = (drain.drain_ms, drain.parent_shutdown_ms);
        if let Some(over_ms) = self.course.begin_drain(now, connections, times, releases, channels) {
            running.workers.tell(|| Message::Farewell(Some(over_ms)));
            tracing::info!(connections, over_ms, "connections are asked to end");
        }
        self.look();
    }

    /// Whether the process that serves has been stopped, if it could not say so to this one.
    pub(super) fn instance_has_ended(&mut self) -> bool {
        if !self.is_orphaned || self.course.is_stopping() || self.looked_around.elapsed() < AROUND_LOOK {
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
        let (now, left) = (self.now(), self.connections());
        let Some(link) = &mut self.link else { return };
        let arriving = self.running.as_ref().is_some_and(|running| {
            running.workers.expect_arrivals(link.expects_channels());
            running.workers.are_arriving()
        });
        match self.course.look(now, left, Dependents { must_stay: link.must_stay(), arriving }) {
            Left::Nothing => {}
            Left::Drained(moved) => link.drained(moved),
            Left::Failed => self.end_soon(LAST_WORDS_MS),
            Left::Report(over_ms) => {
                link.connections_left(left);
                if let Some(over_ms) = over_ms {
                    // Whoever reads the line may rely on it.
                    self.tell(|| Message::Farewell(Some(over_ms)));
                    tracing::info!(connections = left, "connections stay: they end in their own time");
                }
            }
        }
    }

    /// Stops: what is in flight first, at once the second time. The exit code where nothing runs yet.
    pub(super) fn stop(&mut self) -> Option<u8> {
        if !self.course.stop() {
            tracing::info!("stopping at once");
            self.tell(|| Message::Stop);
            return None;
        }
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
