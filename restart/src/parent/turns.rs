//! Whose turn it is: Hello, the queue, and the next attempt after one that has failed.

use super::events::PeerId;
use super::{Attempt, Parent, PeerState, Phase};
use crate::identity::Level;
use crate::limits::{EPOCHS_AHEAD_MAX, WAITING_MAX};
use crate::message::{Hello, HelloReply, Refusal};

impl Parent {
    pub(super) fn on_hello(&mut self, now: u64, id: PeerId, request_id: u32, hello: Hello) {
        if hello.base_id != self.identity.base_id {
            let text = format!("this is base id {}, not {}", self.identity.base_id, hello.base_id);
            self.refuse(id, request_id, Refusal::BaseId, &text);
            return;
        }
        if hello.probe {
            self.answer_hello(id, request_id, &hello);
            return;
        }
        if self.identity.common_protocol(hello.protocol_min, hello.protocol_max).is_none() {
            let text = format!(
                "version {} speaks versions {} to {} of the restart protocol, version {} speaks {} to {}",
                self.identity.program_version,
                self.identity.protocol_min,
                self.identity.protocol_max,
                hello.program_version,
                hello.protocol_min,
                hello.protocol_max
            );
            self.refuse(id, request_id, Refusal::Protocol, &text);
            return;
        }
        let Some(expected) = self.epoch.checked_add(1) else {
            self.refuse(id, request_id, Refusal::Epoch, "no epoch follows this one");
            return;
        };
        let wanted = hello.epoch.unwrap_or(expected);
        if let Phase::Attempt(_) = self.phase
            && (expected..=expected.saturating_add(EPOCHS_AHEAD_MAX)).contains(&wanted)
        {
            self.let_wait(now, id, request_id, hello);
        } else if wanted == expected {
            self.begin_attempt(now, id, request_id, &hello, expected);
        } else {
            self.refuse_epoch(id, request_id, wanted);
        }
    }

    fn refuse_epoch(&mut self, id: PeerId, request_id: u32, wanted: u32) {
        let (ours, next) = (self.epoch, self.epoch.saturating_add(1));
        let text = format!("the running process has restart epoch {ours}, so {next} is next, not {wanted}");
        self.refuse(id, request_id, Refusal::Epoch, &text);
    }

    fn let_wait(&mut self, now: u64, id: PeerId, request_id: u32, hello: Hello) {
        let waiting =
            self.peers.iter().filter(|peer| matches!(peer.state, PeerState::Waiting { .. })).count();
        if waiting >= WAITING_MAX {
            let text = format!("a restart is going on and {waiting} more are waiting");
            self.refuse(id, request_id, Refusal::Busy, &text);
            return;
        }
        self.log(Level::Info, format!("process {} waits: another restart is going on", hello.pid));
        let until = now.saturating_add(self.deadlines.turn_ms);
        self.set_state(id, PeerState::Waiting { until, request_id, hello });
    }

    fn begin_attempt(&mut self, now: u64, id: PeerId, request_id: u32, hello: &Hello, epoch: u32) {
        self.log(
            Level::Info,
            format!(
                "process {} (version {}) takes over as restart epoch {epoch}",
                hello.pid, hello.program_version
            ),
        );
        self.set_state(id, PeerState::Child);
        self.phase = Phase::Attempt(Attempt {
            peer: id,
            epoch,
            pid: hello.pid,
            parcels: self.identity.shares(crate::message::CAPABILITY_PARCELS, &hello.capabilities),
            until: now.saturating_add(self.deadlines.attempt_ms),
            step_until: now.saturating_add(self.deadlines.step_ms),
            has_sockets: false,
            has_state: false,
            ready: false,
        });
        self.answer_hello(id, request_id, hello);
    }

    fn answer_hello(&mut self, id: PeerId, request_id: u32, hello: &Hello) {
        let protocol = self.identity.common_protocol(hello.protocol_min, hello.protocol_max);
        let identity = &self.identity;
        let reply = HelloReply {
            program_version: identity.program_version.clone(),
            protocol_min: identity.protocol_min,
            protocol_max: identity.protocol_max,
            protocol: protocol.unwrap_or(0),
            layout_version: identity.layout_version,
            hot_restart_version: identity.hot_restart_version.clone(),
            epoch: self.epoch,
            child_epoch: self.epoch.saturating_add(1),
            pid: identity.pid,
            capabilities: identity.capabilities.clone(),
            base_id: identity.base_id,
            busy: hello.probe && matches!(self.phase, Phase::Attempt(_)),
            elder: self.elder,
            segment_id: identity.segment_id,
            lost_segments: self.lost_segments.clone(),
        };
        self.send(id, request_id, reply);
    }

    /// The attempt is over without a commit: the next in the queue gets its turn.
    pub(super) fn next_attempt(&mut self, now: u64) {
        self.phase = Phase::Serving;
        let Some(epoch) = self.epoch.checked_add(1) else { return };
        while matches!(self.phase, Phase::Serving) {
            let next = self.peers.iter().find_map(|peer| match &peer.state {
                PeerState::Waiting { request_id, hello, .. } => Some((peer.id, *request_id, hello.clone())),
                _ => None,
            });
            match next {
                None => return,
                Some((id, request_id, hello)) => match hello.epoch {
                    // It came for the place behind the one that has just failed.
                    Some(wanted) if wanted != epoch => self.refuse_epoch(id, request_id, wanted),
                    _ => self.begin_attempt(now, id, request_id, &hello, epoch),
                },
            }
        }
    }
}
