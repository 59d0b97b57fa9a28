//! How many receive buffers the kernel has at hand.
//!
//! The kernel fills buffers in the order in which it was given them. With all of them at hand it would go through all
//! of their memory before it comes back to the first, and each message would go through memory that no cache has any
//! more: for large bodies that costs a third of the CPU time. So it gets few, those that were used last first. Few is
//! what a turn can receive and send again while it stays in a core's cache; for small messages that are many buffers,
//! and running out of them would only cost, so their number is doubled then.

use crate::base::limits;

/// The number of buffers at hand, and what the turn that is going on has made of them.
pub(super) struct Supply {
    size: usize,
    buffers: usize,
    bytes: usize,
    ran_out: bool,
    /// Turns in a row that have used few.
    sparse: u32,
}

impl Supply {
    pub(super) const fn new() -> Self {
        Self { size: limits::INITIAL_RECEIVE_BUFFERS, buffers: 0, bytes: 0, ran_out: false, sparse: 0 }
    }

    /// Buffers that the kernel should have.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// A buffer has come back with `len` bytes.
    #[inline]
    pub(super) fn received(&mut self, len: usize) {
        self.buffers += 1;
        self.bytes += len;
    }

    /// A recv found no buffer.
    pub(super) fn ran_out(&mut self) {
        self.ran_out = true;
    }

    /// A turn is over: the next one gets more or less of them.
    pub(super) fn end_turn(&mut self) {
        let (buffers, bytes) = (std::mem::take(&mut self.buffers), std::mem::take(&mut self.bytes));
        let ran_out = std::mem::take(&mut self.ran_out);
        if bytes > limits::TURN_RECEIVE_BYTES {
            let fitting = limits::TURN_RECEIVE_BYTES * buffers / bytes;
            self.size = fitting.clamp(limits::MIN_SUPPLY_BUFFERS, self.size);
        } else if ran_out && bytes <= limits::TURN_RECEIVE_BYTES / 2 {
            self.size = (self.size * 2).min(limits::MAX_RECEIVE_BUFFERS);
        }
        let is_sparse = buffers < self.size / 8 && self.size > limits::INITIAL_RECEIVE_BUFFERS;
        self.sparse = if is_sparse { self.sparse + 1 } else { 0 };
        if self.sparse == limits::SPARSE_TURNS {
            self.sparse = 0;
            self.size = (self.size / 2).max(limits::INITIAL_RECEIVE_BUFFERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(supply: &mut Supply, buffers: usize, len: usize, ran_out: bool) -> usize {
        for _ in 0..buffers {
            supply.received(len);
        }
        if ran_out {
            supply.ran_out();
        }
        supply.end_turn();
        supply.size()
    }

    #[test]
    fn bulk_gets_what_stays_in_the_cache() {
        let mut supply = Supply::new();
        let (start, large) = (supply.size(), limits::TURN_RECEIVE_BYTES / 16);
        assert_eq!(turn(&mut supply, start, large, true), 16);
        assert_eq!(turn(&mut supply, 16, large, true), 16, "running out is what it is for");
        assert_eq!(
            turn(&mut supply, 4, limits::TURN_RECEIVE_BYTES, false),
            limits::MIN_SUPPLY_BUFFERS,
            "a socket can still have what it may hold"
        );
    }

    #[test]
    fn small_messages_get_as_many_as_a_turn_takes() {
        let mut supply = Supply::new();
        let start = supply.size();
        assert_eq!(turn(&mut supply, start, 100, false), start, "nobody went without");
        assert_eq!(turn(&mut supply, start, 100, true), 2 * start);
        assert_eq!(turn(&mut supply, 2 * start, 100, true), 4 * start);
        for _ in 0..100 {
            turn(&mut supply, limits::MAX_RECEIVE_BUFFERS, 0, true);
        }
        assert_eq!(supply.size(), limits::MAX_RECEIVE_BUFFERS);
    }

    #[test]
    fn after_a_burst_it_shrinks_slowly_and_not_below_the_start() {
        let mut supply = Supply::new();
        let start = supply.size();
        turn(&mut supply, start, 1, true);
        for _ in 1..limits::SPARSE_TURNS {
            assert_eq!(turn(&mut supply, 1, 1, false), 2 * start);
        }
        assert_eq!(turn(&mut supply, 1, 1, false), start);
        for _ in 0..2 * limits::SPARSE_TURNS {
            assert_eq!(turn(&mut supply, 1, 1, false), start);
        }
    }
}
