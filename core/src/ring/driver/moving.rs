//! Sockets on their way to another process, or from one.

use super::super::socket::{Kind, SocketState, cancel_entry};
use super::Driver;
use crate::base::mutation::{Mutation, is_on};
use crate::base::slots::SlotId;

impl Driver {
    /// Stops what is in flight on a socket, and puts nothing in flight until [`thaw`](Self::thaw).
    pub(in crate::ring) fn freeze(&mut self, id: SlotId) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        slot.frozen = true;
        if slot.sending {
            self.push(&cancel_entry(Kind::Send, id));
        }
        self.stop_recv(id);
    }

    /// Takes [`freeze`](Self::freeze) back.
    pub(in crate::ring) fn thaw(&mut self, id: SlotId) {
        if let Some(slot) = self.sockets.get_mut(id) {
            slot.frozen = false;
            self.touch(id);
        }
    }

    /// Fills a fresh socket with what another process had received and not used, and not yet sent. Nothing is put in
    /// flight until [`thaw`](Self::thaw): the other process may have it yet.
    pub(in crate::ring) fn restore(&mut self, id: SlotId, state: &SocketState) {
        let size = self.pool.buffer_size();
        let Some(slot) = self.sockets.get_mut(id) else { return };
        // In pieces as they would have been received, so that what is used up is not kept for the sake of the rest.
        for (queue, bytes) in [(&mut slot.input, &state.input), (&mut slot.output, &state.output)] {
            for chunk in bytes.chunks(size).filter_map(|piece| self.pool.copy(piece)) {
                self.links.push_back(queue, chunk);
            }
        }
        if is_on(Mutation::ByteDoubledAfterHandover)
            && let Some(first) = state.output.get(..1).and_then(|first| self.pool.copy(first))
        {
            self.links.push_front(&mut slot.output, first);
        }
        slot.restored = true;
        slot.eof = state.eof;
        slot.shutdown = state.shutdown && !is_on(Mutation::HalfCloseForgotten);
        slot.activity = self.now.saturating_sub(state.idle_ms);
        slot.frozen = true;
    }
}
