//! Two sockets at once, for relays: all that is asked of them and done with them in a turn takes one look-up.

use super::driver::{Driver, touch, touch_restored};
use super::queue::{Links, Queue};
use super::socket::Slot;
use super::{Socket, Status, Traffic};
use crate::base::clock::Millis;
use crate::base::slots::SlotId;

/// What two sockets have in common; see [`Socket::with`].
pub struct Between<'a> {
    links: &'a mut Links,
    dirty: &'a mut Vec<SlotId>,
    now: Millis,
}

/// One of two sockets; see [`Socket::with`].
pub struct Half<'a> {
    slot: &'a mut Slot,
    id: SlotId,
}

impl Socket {
    /// Works on this socket and on another one of the same ring at once. `None` if they are one and the same.
    #[inline]
    pub fn with<R>(
        &self,
        other: &Self,
        work: impl FnOnce(&mut Between<'_>, &mut Half<'_>, &mut Half<'_>) -> R,
    ) -> Option<R> {
        let mut driver = self.ring.shared.driver.borrow_mut();
        let Driver { sockets, links, dirty, now, .. } = &mut *driver;
        let (first, second) = sockets.pair_mut(self.id, other.id)?;
        let mut between = Between { links, dirty, now: *now };
        let mut first = Half { slot: first, id: self.id };
        let mut second = Half { slot: second, id: other.id };
        Some(work(&mut between, &mut first, &mut second))
    }
}

impl Between<'_> {
    /// The time of this turn of the loop.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Passes on the chunks that have come, until they are `room` bytes or more, and says how many bytes they were. On a
    /// failed socket they are dropped, as by [`Socket::send`].
    #[inline(always)]
    pub fn pass_on(&mut self, from: &mut Half<'_>, to: &mut Half<'_>, room: usize) -> usize {
        if from.slot.input.is_empty() {
            return 0;
        }
        if to.slot.send_error != 0 {
            return self.throw_away(from, room);
        }
        let bytes = self.links.pass_on(&mut from.slot.input, &mut to.slot.output, room);
        if bytes > 0 {
            self.taken(from);
            #[allow(clippy::cast_possible_truncation)]
            // quotas bound what a socket has received far below 4 GiB
            {
                to.slot.queued = to.slot.queued.saturating_add(bytes as u32);
            }
            touch(to.slot, to.id, self.dirty);
        }
        bytes
    }

    #[cold]
    fn throw_away(&mut self, from: &mut Half<'_>, room: usize) -> usize {
        let mut nowhere = Queue::default();
        let bytes = self.links.pass_on(&mut from.slot.input, &mut nowhere, room);
        if bytes > 0 {
            self.taken(from);
        }
        self.links.clear(&mut nowhere);
        bytes
    }

    /// Something was taken out of the input.
    #[inline]
    fn taken(&mut self, from: &mut Half<'_>) {
        if from.slot.restored {
            touch_restored(from.slot, from.id, self.dirty);
        }
    }

    /// See [`Socket::shutdown_write`].
    pub fn shutdown_write(&mut self, half: &mut Half<'_>) {
        if !half.slot.has_ended {
            half.slot.shutdown = true;
            touch(half.slot, half.id, self.dirty);
        }
    }
}

impl Half<'_> {
    /// See [`Socket::status`].
    #[inline]
    #[must_use]
    pub fn status(&self) -> Status {
        self.slot.status()
    }

    /// See [`Socket::take_traffic`].
    #[inline]
    #[must_use]
    pub fn take_traffic(&mut self) -> Traffic {
        self.slot.take_traffic()
    }

    /// See [`Socket::wake_when_unsent_below`].
    #[inline]
    pub fn wake_when_unsent_below(&mut self, bytes: Option<u32>) {
        self.slot.wake_below = bytes;
    }
}
