//! Receive buffers under pressure: how many a socket may hold, when more are published, who goes on when some come
//! back, and who is cut off when none does.

use super::super::socket::{Kind, Recv, Slot, cancel_entry};
use super::Driver;
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};

impl Driver {
    /// Buffers that one socket may hold at this moment.
    pub(super) fn quota(&self) -> u32 {
        if self.in_use * 2 > self.pool.count() {
            limits::SOCKET_BUFFER_QUOTA_RARE
        } else if self.in_use * 4 > self.pool.count() {
            limits::SOCKET_BUFFER_QUOTA_SCARCE
        } else {
            limits::SOCKET_BUFFER_QUOTA
        }
    }

    /// Publishes the buffers whose last chunk is gone, and more where they run short; whoever waited goes on.
    pub(super) fn return_buffers(&mut self) {
        let mut any = false;
        while let Some((buffer, owner)) = self.pool.take_returned() {
            if is_on(Mutation::BufferNotReturned) && buffer % 8 == 7 {
                continue;
            }
            self.kernel.offer(buffer, &self.pool);
            any = true;
            self.in_use -= 1;
            if let Some(slot) = self.sockets.get_mut(owner) {
                slot.held -= 1;
                if slot.recv == Recv::Idle {
                    self.touch(owner);
                }
            }
        }
        if any {
            self.kernel.publish();
        }
        if self.in_use * 2 > self.published {
            self.grow(self.published);
        }
        if self.parked.is_empty() || is_on(Mutation::WaiterForgotten) {
            return;
        }
        // By what is free, not by what has just come back: whoever was let go on then may not have used it.
        let (mut free, quota) = (self.published - self.in_use, self.quota());
        while free > 0 {
            let Some(id) = self.parked.pop_front() else { break };
            if let Some(slot) = self.sockets.get_mut(id) {
                slot.parked = false;
                free -= usize::from(slot.wants_recv(slot.holds(self.pool.buffer_size()), quota));
                self.touch(id);
            }
        }
    }

    /// Publishes up to `more` buffers that were spare.
    pub(super) fn grow(&mut self, more: usize) {
        let more = more.min(self.pool.count() - self.published);
        for id in self.published..self.published + more {
            #[allow(clippy::cast_possible_truncation)] // Pool::new bounds the count to 32768
            self.kernel.offer(id as u16, &self.pool);
        }
        self.published += more;
        self.kernel.publish();
    }

    /// Somebody waits for a buffer and there is none: the socket that has kept the most of them for a while, because its
    /// peer does not read (or its session does not), fails. Everybody else goes on.
    pub(super) fn cut_off_stalled(&mut self) {
        if self.in_use < self.pool.count() {
            return;
        }
        let stalled_since = self.now.saturating_sub(limits::STALLED_MS);
        let kept = |slot: &Slot| slot.input.bytes() + slot.output.bytes();
        let candidates = self.sockets.ids().filter_map(|id| {
            let slot = self.sockets.get(id)?;
            (slot.activity <= stalled_since && !slot.closing && kept(slot) > 0).then_some((kept(slot), id))
        });
        let Some((_, id)) = candidates.max_by_key(|(kept, _)| *kept) else { return };
        let Some(slot) = self.sockets.get_mut(id) else { return };
        self.stats.cut_off += 1;
        #[cfg(feature = "sim")]
        crate::ring::sim::with(|world| world.note_cut_off(slot.fd));
        slot.recv_error = libc::ENOBUFS;
        slot.send_error = libc::ENOBUFS;
        self.links.clear(&mut slot.input);
        let (task, sending) = (slot.task, slot.sending);
        if !sending {
            self.links.clear(&mut slot.output);
        }
        self.stop_recv(id);
        if sending {
            // What is in flight returns its buffers when it completes.
            self.push(&cancel_entry(Kind::Send, id));
        }
        self.wake(id, task);
    }
}
