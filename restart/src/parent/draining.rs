//! From the commit on: the parent drains, watches over the child, and takes the service back or ends.

use super::events::{Action, PeerId};
use super::{Draining, Parent, Peer, Phase};
use crate::identity::Level;
use crate::limits::{LATE_MS, LOST_SEGMENTS_MAX};
use crate::message::{
    DrainListeners, DrainListenersReply, HandoverDone, ParentProgress, Ping, Refusal, Terminated,
};

impl Parent {
    pub(super) fn commit(
        &mut self,
        now: u64,
        id: PeerId,
        request_id: u32,
        (epoch, pid, parcels): (u32, u32, bool),
        drain: DrainListeners,
    ) {
        self.log(Level::Info, format!("restart epoch {epoch} serves from here on"));
        self.phase = Phase::Draining(Draining {
            child: id,
            peer: Some(id),
            epoch,
            pid,
            live: drain.live && parcels,
            unacknowledged: Some((request_id, now.saturating_add(self.deadlines.stop_accepting_ms))),
            shutdown_at: now.saturating_add(drain.parent_shutdown_ms),
            ping_at: now.saturating_add(self.deadlines.ping_ms),
            drain,
            awaits_answer: false,
            missed: 0,
            superseded: false,
            connections: 0,
            done_until: None,
            checking: None,
        });
        self.out.push(Action::StopAccepting { pid });
        let others: Vec<_> = self.peers.iter().filter(|peer| peer.id != id).map(Peer::open_request).collect();
        for (other, request_id) in others {
            self.refuse(other, request_id, Refusal::Moved, "another process serves now");
        }
    }

    pub(super) fn on_accept_stopped(&mut self, now: u64) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        let Some((request_id, _)) = draining.unacknowledged.take() else { return };
        let (connections, drain) = (draining.connections, draining.drain.clone());
        // The child may have served without the acknowledgement, been replaced itself, and ended.
        let (child, peer, live) = (draining.child, draining.peer, draining.live && draining.peer.is_some());
        if let Some(peer) = peer {
            let unheard_ms = self.unheard_until.saturating_sub(now);
            self.send(peer, request_id, DrainListenersReply { connections, unheard_ms });
        }
        self.out.push(Action::BeginDrain { peer: child, drain, live });
    }

    pub(super) fn on_connections_left(&mut self, connections: u64) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        draining.connections = connections;
        if let (Some(peer), None, None) = (draining.peer, draining.unacknowledged, draining.done_until) {
            self.send(peer, 0, ParentProgress { connections });
        }
    }

    pub(super) fn on_drained(&mut self, now: u64, moved: u64) {
        if let Phase::Draining(draining) = &mut self.phase {
            draining.connections = 0;
            self.finish(now, moved);
        }
    }

    /// Nothing more happens here: lets the child have the last word, if there is one.
    fn finish(&mut self, now: u64, moved: u64) {
        self.on_accept_stopped(now);
        let Phase::Draining(draining) = &mut self.phase else { return };
        if draining.done_until.is_some() {
            return;
        }
        let cut = draining.connections;
        match draining.peer {
            Some(peer) => {
                draining.done_until = Some(now.saturating_add(self.deadlines.goodbye_ms));
                self.send(peer, 0, HandoverDone { moved, cut });
            }
            // It may have to serve again.
            None if draining.checking.is_some() => draining.done_until = Some(now),
            None => self.end("it has nothing left to do", cut),
        }
    }

    /// While this process drains it wakes up every so often ([`Self::wakes_at`]). If it did not for as long as others wait
    /// for an answer, there may be some who asked whether it serves, and went on without one.
    pub(super) fn mind_the_time(&mut self, now: u64) {
        let idle_ms = now.saturating_sub(std::mem::replace(&mut self.handled_at, now));
        if self.may_serve_again() {
            self.is_late |= idle_ms.saturating_add(LATE_MS) >= self.deadlines.check_ms;
        }
    }

    /// Often enough that a wake-up which comes late by half of what others wait is not taken for a process that hung:
    /// then the end of its child would cost the time of a question.
    pub(super) fn wakes_at(&self) -> Option<u64> {
        let every = self.deadlines.check_ms / 2;
        self.may_serve_again().then(|| self.handled_at.saturating_add(every))
    }

    fn may_serve_again(&self) -> bool {
        matches!(self.phase, Phase::Draining(Draining { peer: Some(_), superseded: false, .. }))
    }

    /// The child is gone, and somebody else may have its place. Who had begun to ask before this process could hear of that
    /// goes on while this one still waits, and answers.
    pub(super) fn check_service(&mut self, now: u64, why: String) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        draining.checking = Some((now.saturating_add(2 * self.deadlines.check_ms), why));
        let text = "the new process has ended while this one got no CPU; asking whether another one serves";
        self.log(Level::Warn, text.to_owned());
        self.out.push(Action::CheckService);
    }

    pub(super) fn on_somebody_serves(&mut self, serves: bool) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        match draining.checking.take() {
            None => {}
            Some(_) if serves => self.stand_back("another process serves in place of the new one"),
            Some((_, why)) => self.take_back(&why),
        }
    }

    /// This process will not serve again.
    pub(super) fn stand_back(&mut self, why: &str) {
        self.log(Level::Info, why.to_owned());
        self.out.push(Action::CloseListeners);
        if matches!(&self.phase, Phase::Draining(draining) if draining.done_until.is_some()) {
            self.end("it has nothing left to do", 0);
        }
    }

    pub(super) fn take_back(&mut self, why: &str) {
        let Phase::Draining(draining) = &self.phase else { return };
        let (epoch, pid) = (draining.epoch, draining.pid);
        let segment_id = draining.drain.segment_id;
        if segment_id != 0 && segment_id != self.identity.segment_id {
            if self.lost_segments.len() >= LOST_SEGMENTS_MAX {
                self.lost_segments.remove(0);
            }
            self.lost_segments.push(segment_id);
        }
        self.log(Level::Warn, format!("{why}; this process serves again instead of restart epoch {epoch}"));
        self.phase = Phase::Serving;
        self.out.push(Action::ResumeAccepting);
        self.out.push(Action::AttemptFailed { epoch, pid, why: why.to_owned() });
    }

    pub(super) fn drain_timer(&mut self, now: u64) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        if draining.unacknowledged.is_some_and(|(_, until)| until <= now) {
            self.log(Level::Warn, "the workers do not stop accepting; going on without them".to_owned());
            self.on_accept_stopped(now);
        }
        let Phase::Draining(draining) = &mut self.phase else { return };
        if let Some((until, _)) = draining.checking {
            if until <= now {
                self.on_somebody_serves(false);
            }
            return;
        }
        if let Some(peer) = draining.peer
            && !draining.superseded
            && draining.ping_at <= now
        {
            if draining.awaits_answer {
                draining.missed += 1;
            }
            if draining.missed >= self.deadlines.pings_missed_max {
                self.fault(now, peer, 0, Refusal::Deadline, "it does not answer any more");
                return;
            }
            // A process that was stopped itself sees a late timer, not many: it asks once more and waits again.
            draining.awaits_answer = true;
            draining.ping_at = now.saturating_add(self.deadlines.ping_ms);
            self.send(peer, 0, Ping {});
        }
        let Phase::Draining(draining) = &mut self.phase else { return };
        let silent = draining.missed > 0 && !draining.superseded;
        match draining.done_until {
            // While it is not clear whether the child is alive, this process had better stay.
            Some(until) if until <= now && silent => {
                draining.done_until = Some(draining.ping_at);
            }
            Some(until) if until <= now => {
                let cut = draining.connections;
                self.end("the new process has not answered its farewell", cut);
            }
            None if draining.shutdown_at <= now => {
                let left = draining.connections;
                self.log(Level::Info, format!("the time for draining is up, {left} connections are left"));
                self.finish(now, 0);
            }
            _ => {}
        }
    }

    pub(super) fn end(&mut self, why: &str, cut: u64) {
        if let Phase::Draining(Draining { peer: Some(peer), .. }) = self.phase {
            self.send(peer, 0, Terminated { cut });
            self.out.push(Action::Close { peer });
        }
        self.phase = Phase::Ended;
        self.out.push(Action::Exit { why: format!("this process ends: {why}"), cut });
    }
}
