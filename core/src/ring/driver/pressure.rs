//! Receive buffers under pressure: how many a socket may hold, how many are published, who goes on when some come back,
//! and who is cut off when none does.

use super::super::socket::{Kind, Recv, Slot, cancel_entry};
use super::{Driver, touch};
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};

impl Driver {
    /// Buffers that one socket may hold at this moment.
    #[inline]
    pub(super) fn quota(&self) -> u32 {
        if self.in_use * 4 > self.pool.count() { self.scarce_quota() } else { limits::SOCKET_BUFFER_QUOTA }
    }

    #[cold]
    fn scarce_quota(&self) -> u32 {
        if self.in_use * 2 > self.pool.count() {
            limits::SOCKET_BUFFER_QUOTA_RARE
        } else {
            limits::SOCKET_BUFFER_QUOTA_SCARCE
        }
    }

    /// Buffers that the kernel has, as far as its completions have told.
    pub(super) fn at_hand(&self) -> usize {
        self.circulating - self.in_use - self.idle.len()
    }

    /// Takes back the buffers whose last chunk is gone and gives the kernel what it should have; whoever waited goes on.
    pub(super) fn return_buffers(&mut self) {
        while self.in_use > 0
            && let Some((buffer, owner)) = self.pool.take_returned()
        {
            if is_on(Mutation::BufferNotReturned) && buffer % 8 == 7 {
                continue;
            }
            self.idle.push(buffer);
            self.in_use -= 1;
            if let Some(slot) = self.sockets.get_mut(owner) {
                slot.held -= 1;
                if slot.recv == Recv::Idle {
                    touch(slot, owner, &mut self.dirty);
                }
            }
        }
        self.offer_buffers();
        if self.parked.is_empty() || is_on(Mutation::WaiterForgotten) {
            return;
        }
        // By what is free, not by what has just come back: whoever was let go on then may not have used it.
        let (mut free, quota) = (self.at_hand(), self.quota());
        while free > 0 {
            let Some(id) = self.parked.pop_front() else { break };
            if let Some(slot) = self.sockets.get_mut(id) {
                slot.parked = false;
                free -= usize::from(slot.wants_recv(slot.holds(self.pool.buffer_size()), quota));
                self.touch(id);
            }
        }
    }

    /// Publishes as many buffers as the kernel should have at hand: first those that came back last, then spare ones.
    pub(super) fn offer_buffers(&mut self) {
        let missing = self.supply.size().saturating_sub(self.at_hand());
        for _ in 0..missing {
            let id = match self.idle.pop() {
                Some(id) => id,
                None if self.circulating < self.pool.count() => {
                    self.circulating += 1;
                    #[allow(clippy::cast_possible_truncation)] // Pool::new bounds the count to 32768
                    {
                        (self.circulating - 1) as u16
                    }
                }
                None => break,
            };
            self.kernel.offer(id, &self.pool);
        }
        if missing > 0 {
            self.kernel.publish();
        }
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
