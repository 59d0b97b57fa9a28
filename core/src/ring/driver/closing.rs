//! The end of a socket, and of a ring.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::super::schedule::TaskId;
use super::super::socket::{Kind, Link, cancel_entry};
use super::super::sys;
use super::Driver;
use crate::base::slots::SlotId;

/// The descriptor of a socket whose own is closed, or will be by what is queued.
const CLOSED: RawFd = -1;

impl Driver {
    /// Closes a socket: what is unread or unsent is dropped, what is in flight is stopped and joined.
    pub(in crate::ring) fn close(&mut self, id: SlotId) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        if slot.closing {
            return;
        }
        slot.half_close();
        slot.closing = true;
        slot.task = TaskId::NONE;
        self.links.clear(&mut slot.input);
        let (sending, link) = (slot.sending, slot.link);
        self.stop_recv(id);
        if sending {
            self.push(&cancel_entry(Kind::Send, id));
        }
        if link == Link::Connecting {
            self.push(&cancel_entry(Kind::Connect, id));
        }
        if !sending && link != Link::Connecting {
            // A recv holds the file until its last completion, which the cancellation in front of this brings: the kernel
            // closes the socket then, without another turn of ours.
            self.close_descriptor(id);
        }
        self.touch(id);
    }

    /// Has the descriptor of a closing socket closed, unless that is under way.
    fn close_descriptor(&mut self, id: SlotId) {
        self.forget_file(id);
        let Some(slot) = self.sockets.get_mut(id) else { return };
        if slot.fd == CLOSED {
            return;
        }
        if slot.reset {
            sys::reset_at_close(slot.fd);
        }
        let entry = slot.close_entry(id);
        slot.fd = CLOSED;
        self.push(&entry);
    }

    /// Nothing is in flight any more: the slot is free for another socket.
    pub(super) fn finish_close(&mut self, id: SlotId) {
        self.close_descriptor(id);
        if let Some(mut slot) = self.sockets.remove(id) {
            self.links.clear(&mut slot.output);
        }
    }

    /// Stops everything. [`finish_turn`](Self::finish_turn) must follow, until there is no more to do.
    pub(in crate::ring) fn stop(&mut self) {
        for id in self.sockets.ids().collect::<Vec<_>>() {
            self.close(id);
        }
        for id in self.listeners.ids().collect::<Vec<_>>() {
            self.close_listener(id);
        }
        for id in self.watches.ids().collect::<Vec<_>>() {
            self.remove_watch(id);
        }
        self.flush();
        // The kernel has its part from here on, however long it takes until this process goes on. An error comes again.
        let _ = self.kernel.enter(Some(Duration::ZERO));
    }

    /// The process is killed: the kernel closes what it had.
    #[cfg(feature = "sim")]
    pub(in crate::ring) fn kill(&mut self) {
        self.kernel.kill();
        for id in self.sockets.ids().collect::<Vec<_>>() {
            if let Some(slot) = self.sockets.get_mut(id).filter(|slot| slot.fd != CLOSED) {
                crate::ring::sim::lose(std::mem::replace(&mut slot.fd, CLOSED));
            }
        }
    }

    /// What breaks from here on is nobody's fault.
    #[cfg(feature = "sim")]
    pub(in crate::ring) fn give_up(&self) {
        let fds = self.sockets.ids().filter_map(|id| self.sockets.get(id)).map(|slot| slot.fd);
        crate::ring::sim::excuse(fds.filter(|fd| *fd != CLOSED));
    }

    /// Waits, until `end` at most, for the kernel to let go of memory. Says whether there is more to let go of.
    ///
    /// # Errors
    /// When the kernel does not do so in time.
    pub(in crate::ring) fn finish_turn(&mut self, end: Instant) -> io::Result<bool> {
        self.flush();
        if self.in_flight == 0 {
            self.kernel.enter(Some(Duration::ZERO))?;
            return Ok(false);
        }
        let left = end.saturating_duration_since(sys::now());
        let before = self.in_flight;
        self.kernel.enter(Some(left))?;
        self.reap();
        // If it was this process that hung, the kernel has done its part.
        if left.is_zero() && self.in_flight == before {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(true)
    }
}
