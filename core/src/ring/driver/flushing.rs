//! From slot state to submissions, before each enter.

use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::super::socket::{Kind, Recv, SendVectors, Slot, cancel_entry};
use super::Driver;
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::base::slots::SlotId;

impl Driver {
    #[inline]
    pub(super) fn push(&mut self, entry: &Entry) {
        self.stats.submissions += 1;
        if let Err(error) = self.kernel.push(entry) {
            // The ring itself is broken: the worker ends with this error at its next turn.
            self.fatal = Some(error);
        }
    }

    pub(super) fn flush(&mut self) {
        loop {
            self.return_buffers();
            let quota = self.quota();
            // Flushing touches no socket again, so the list is as it is until all of it is done.
            let count = self.dirty.len();
            for index in 0..count {
                let Some(&id) = self.dirty.get(index) else { break };
                self.flush_socket(id, quota);
            }
            debug_assert_eq!(self.dirty.len(), count);
            self.dirty.clear();
            // Closing a socket can free buffers, for which others may be parked.
            if !self.pool.has_returned() {
                break;
            }
        }
        while let Some(id) = self.dirty_listeners.pop() {
            self.arm_listener(id);
        }
    }

    #[inline]
    fn flush_socket(&mut self, id: SlotId, quota: u32) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        slot.dirty = false;
        if slot.closing {
            self.flush_closing(id);
            return;
        }
        let slot = if slot.recv == Recv::Idle {
            self.flush_recv(id, quota);
            let Some(slot) = self.sockets.get_mut(id) else { return };
            slot
        } else {
            slot
        };
        if slot.wants_send() {
            slot.sending = true;
            slot.sends = slot.sends.saturating_add(1);
            let sends_much =
                usize::from(slot.sends) >= limits::SENDS_BEFORE_REGISTERED && !slot.is_registered;
            self.in_flight += 1;
            if let Some(chunk) = self.links.only(slot.output) {
                #[allow(clippy::cast_possible_truncation)] // chunks are far smaller than 4 GiB
                let len = chunk.len() as u32;
                let (fd, named_by) = slot.target();
                let entry = opcode::Send::new(fd, chunk.as_ptr(), len)
                    .flags(slot.send_flags())
                    .build()
                    .flags(named_by)
                    .user_data(Kind::Send.user_data(id));
                self.push(&entry);
            } else {
                self.push_vectored(id);
            }
            if sends_much {
                self.register_file(id);
            }
        } else {
            slot.half_close();
        }
    }

    /// Sends several chunks at once.
    #[inline(never)]
    fn push_vectored(&mut self, id: SlotId) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        let index = self.free_vectors.pop().unwrap_or_else(|| {
            self.vectors.push(SendVectors::new());
            #[allow(clippy::cast_possible_truncation)] // memory ends long before 2^32 sends
            {
                (self.vectors.len() - 1) as u32
            }
        });
        slot.vectors = Some(index);
        let entry = self.vectors[index as usize].entry(slot, id, &self.links);
        self.push(&entry);
    }

    #[cold]
    fn flush_closing(&mut self, id: SlotId) {
        let is_joined = self.sockets.get(id).is_some_and(Slot::is_joined);
        if is_joined || is_on(Mutation::ClosedBeforeJoined) {
            self.finish_close(id);
        }
    }

    /// Puts a recv in flight if there is to be one.
    #[inline(never)]
    fn flush_recv(&mut self, id: SlotId, quota: u32) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        let holds = slot.holds(self.pool.buffer_size());
        if slot.wants_recv(holds, quota) {
            slot.recv = Recv::Armed;
            slot.throttled = false;
            // Without a limit a single pass of the kernel may fill 32 buffers before the quota is looked at.
            let bytes = (quota - holds) as usize * self.pool.buffer_size();
            let limit = u32::try_from(bytes).ok().filter(|_| self.recv_limit);
            let entry = slot.recv_entry(id, limit);
            self.in_flight += 1;
            self.push(&entry);
        }
    }

    fn arm_listener(&mut self, id: SlotId) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        if listener.paused && listener.armed && !listener.closing {
            self.push(&cancel_entry(Kind::Accept, id));
        } else if !listener.paused && !listener.armed && !listener.closing {
            listener.armed = true;
            let entry = opcode::AcceptMulti::new(types::Fd(listener.fd.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build()
                .user_data(Kind::Accept.user_data(id));
            self.in_flight += 1;
            self.push(&entry);
        }
    }
}
