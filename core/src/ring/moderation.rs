//! When to wait for several events instead of one.
//!
//! A worker that is faster than those who talk to it handles each message as it comes: a turn of the loop and an enter of
//! the kernel for each. Where messages are dense it is cheaper to let a few of them come together, as network cards do
//! that moderate their interrupts. What is to be sent has been handed to the kernel before the wait begins, so a wait keeps
//! nobody from working who has not just sent something himself.
//!
//! The wait is bounded three times:
//!
//! * It is never longer than `server.moderation_us`.
//! * It is a small part of the time that passes between two messages of the same connection, as it was in the last few
//!   milliseconds. A few connections that wait for their responses before they ask again are so not slowed down: between
//!   two messages of theirs there is little time.
//! * It ends as soon as enough has come.
//!
//! Where messages are sparse there is no wait at all, and neither where they are large: then it is the bytes that cost.

use crate::base::clock::Micros;
use crate::base::limits;

/// How long a turn waits, and what the messages of the present window say for the next.
pub(super) struct Moderation {
    most_us: Micros,
    wait_us: Micros,
    /// Number of the present window; none is 0.
    window: u8,
    began: Micros,
    messages: u64,
    bytes: u64,
    /// Connections from which these messages came.
    sources: u64,
    /// Something came in the last turn.
    is_busy: bool,
}

impl Moderation {
    /// Waits so long at most, microseconds; 0: never.
    pub(super) fn new(most_us: u32, now: Micros) -> Self {
        Self {
            most_us: most_us.into(),
            wait_us: 0,
            window: 1,
            began: now,
            messages: 0,
            bytes: 0,
            sources: 0,
            is_busy: false,
        }
    }

    /// How long the coming turn waits for several events, microseconds; 0: it waits for one.
    #[inline]
    pub(super) const fn wait_us(&self) -> Micros {
        // After a turn in vain, the next event is waited for as if it were the last for long.
        if self.is_busy { self.wait_us } else { 0 }
    }

    /// A turn begins.
    #[inline]
    pub(super) const fn begin_turn(&mut self) {
        self.is_busy = false;
    }

    /// `bytes` have come on a socket, or its end, or the socket itself; `seen_in` is the window in which something last came
    /// on it.
    #[inline]
    pub(super) fn received(&mut self, bytes: usize, seen_in: &mut u8) {
        self.is_busy = true;
        self.messages += 1;
        self.bytes += bytes as u64;
        self.sources += u64::from(*seen_in != self.window);
        *seen_in = self.window;
    }

    /// A turn is over, and there are so many sockets.
    #[inline]
    pub(super) fn end_turn(&mut self, now: Micros, sockets: usize) {
        if now.saturating_sub(self.began) >= limits::MODERATION_WINDOW_US {
            self.end_window(now, sockets);
        }
    }

    fn end_window(&mut self, now: Micros, sockets: usize) {
        self.wait_us = self.decide(now - self.began, sockets as u64);
        self.window = self.window.checked_add(1).unwrap_or(1);
        self.began = now;
        (self.messages, self.bytes, self.sources) = (0, 0, 0);
    }

    fn decide(&self, elapsed: Micros, sockets: u64) -> Micros {
        if self.messages == 0 || self.bytes / self.messages > limits::MODERATION_MESSAGE_BYTES {
            return 0;
        }
        // Connections that have ended meanwhile do not count: one client after the other is one client.
        let interval = elapsed * self.sources.min(sockets) / self.messages;
        let wait = (interval / limits::MODERATION_SHARE).min(self.most_us);
        let expected = self.messages * wait / elapsed;
        expected.checked_sub(limits::MODERATION_EXPECTED).map_or(0, |_| wait)
    }
}

#[cfg(all(test, not(feature = "sim")))]
mod tests {
    use super::*;

    const MOST: u32 = 50;

    /// How long is waited after a window in which each of so many connections sent a message so often, microseconds.
    fn wait(connections: usize, interval_us: u64, bytes: usize, sockets: usize) -> Micros {
        let mut moderation = Moderation::new(MOST, 0);
        let mut seen = vec![0; connections];
        for now in 1..=limits::MODERATION_WINDOW_US {
            moderation.begin_turn();
            for (index, seen) in seen.iter_mut().enumerate() {
                if (now + index as u64).is_multiple_of(interval_us) {
                    moderation.received(bytes, seen);
                }
            }
            moderation.end_turn(now, sockets);
        }
        moderation.is_busy = true;
        moderation.wait_us()
    }

    #[test]
    fn many_connections_with_small_messages_are_waited_for() {
        assert_eq!(wait(128, 1_000, 100, 128), u64::from(MOST));
        assert_eq!(wait(128, 500, 100, 128), 500 / limits::MODERATION_SHARE, "a part of what passes anyway");
    }

    #[test]
    fn few_connections_are_not_slowed_down() {
        assert_eq!(wait(2, 25, 100, 2), 0, "one client that waits for each response");
        assert_eq!(wait(16, 100, 100, 16), 0);
        assert_eq!(wait(500, 4_000, 100, 2), 0, "one connection after the other");
    }

    #[test]
    fn neither_sparse_nor_large_messages_are_waited_for() {
        assert_eq!(wait(128, 5_000, 100, 128), 0, "one in 39 us");
        assert_eq!(wait(128, 1_000, 16_384, 128), 0);
        assert_eq!(wait(128, 1_000, 100, 0), 0);
    }

    #[test]
    fn a_turn_in_vain_and_silence_end_it() {
        let mut moderation = Moderation::new(MOST, 0);
        let mut seen = [0; 128];
        moderation.begin_turn();
        for _ in 0..5 {
            seen.iter_mut().for_each(|seen| moderation.received(100, seen));
        }
        moderation.end_turn(limits::MODERATION_WINDOW_US, seen.len());
        assert_eq!(moderation.wait_us(), u64::from(MOST));
        moderation.begin_turn();
        assert_eq!(moderation.wait_us(), 0, "nothing came");
        moderation.received(100, &mut seen[0]);
        assert_eq!(moderation.wait_us(), u64::from(MOST));
        moderation.end_turn(100 * limits::MODERATION_WINDOW_US, seen.len());
        assert_eq!(moderation.wait_us(), 0, "a message in half a second");
    }

    #[test]
    fn it_can_be_switched_off() {
        let mut moderation = Moderation::new(0, 0);
        moderation.messages = 1_000;
        moderation.sources = 128;
        assert_eq!(moderation.decide(limits::MODERATION_WINDOW_US, 128), 0);
    }
}
