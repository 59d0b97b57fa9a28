//! Sockets on their way to another process, or from one.

use super::super::socket::{Kind, SocketState, cancel_entry};
use super::Driver;
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
        let (input, output) = (self.pool.copy(&state.input), self.pool.copy(&state.output));
        let Some(slot) = self.sockets.get_mut(id) else { return };
        if let Some(chunk) = input {
            self.links.push_back(&mut slot.input, chunk);
        }
        if let Some(chunk) = output {
            self.links.push_back(&mut slot.output, chunk);
        }
        slot.eof = state.eof;
        slot.shutdown = state.shutdown;
        slot.activity = self.now.saturating_sub(state.idle_ms);
        slot.frozen = true;
    }
}
