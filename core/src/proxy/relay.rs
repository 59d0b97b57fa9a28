//! One direction of a byte relay: received chunks are the chunks that are sent.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::ring::{Between, Half, Socket, Status, Traffic};

/// One direction, from one socket to another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Direction {
    /// FIN was passed on.
    pub(super) ended: bool,
    /// Bytes moved so far.
    pub(super) bytes: u64,
}

/// What became of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Open,
    /// Both directions have ended and everything was delivered.
    Finished,
    /// One side was reset.
    Reset,
}

impl Direction {
    /// Moves what has come. `to` tells the task when it has room again.
    #[inline(always)]
    fn pump(&mut self, between: &mut Between<'_>, from: &mut Half<'_>, to: &mut Half<'_>) {
        let room = limits::SEND_HIGH_WATER_BYTES.saturating_sub(to.status().unsent);
        let status = from.status();
        if status.unread == 0 && !status.eof && !self.ended && room > 0 {
            return; // as it is with one of both directions each time
        }
        let moved = between.pass_on(from, to, room);
        self.bytes += moved as u64;
        if moved >= room {
            #[allow(clippy::cast_possible_truncation)] // a small constant
            to.wake_when_unsent_below(Some((limits::SEND_HIGH_WATER_BYTES / 2) as u32));
        } else if self.ended || from.status().is_eof() {
            self.pass_on_end(between, to);
        }
    }

    #[cold]
    fn pass_on_end(&mut self, between: &mut Between<'_>, to: &mut Half<'_>) {
        if !self.ended {
            self.ended = true;
            between.shutdown_write(to);
        }
        // Asked for each time: the socket may have come from another process since.
        to.wake_when_unsent_below(Some(0));
    }
}

/// Has a connection on which nothing moved for too long end with RST where it still has bytes to send: a peer that does not
/// get them must not take what it got for all.
pub(super) fn cut_off_unsent(socket: &Socket) {
    if socket.status().unsent > 0 {
        socket.reset_at_close();
    }
}

/// Two sockets after [`relay`] has moved what had come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relayed {
    /// What became of it.
    pub(super) outcome: Outcome,
    /// What the first of them has moved since it was last asked.
    pub(super) down: Traffic,
    /// When a byte last came or went on one of them.
    pub(super) activity: Millis,
    /// The time of this turn.
    pub(super) now: Millis,
}

/// Moves what has come in both directions.
pub(super) fn pump_both(
    down: &Socket,
    up: &Socket,
    upward: &mut Direction,
    downward: &mut Direction,
) -> Outcome {
    down.with(up, |between, down, up| move_both(between, down, up, upward, downward))
        .unwrap_or(Outcome::Reset)
}

/// The same, and takes the traffic of the first socket.
#[inline]
pub(super) fn relay(
    down: &Socket,
    up: &Socket,
    upward: &mut Direction,
    downward: &mut Direction,
) -> Option<Relayed> {
    down.with(up, |between, down, up| {
        let outcome = move_both(between, down, up, upward, downward);
        let activity = down.status().activity.max(up.status().activity);
        Relayed { outcome, down: down.take_traffic(), activity, now: between.now() }
    })
}

#[inline(always)]
fn move_both(
    between: &mut Between<'_>,
    down: &mut Half<'_>,
    up: &mut Half<'_>,
    upward: &mut Direction,
    downward: &mut Direction,
) -> Outcome {
    upward.pump(between, down, up);
    downward.pump(between, up, down);
    let (d, u) = (down.status(), up.status());
    let failed = |s: &Status| s.is_reset() || s.send_error != 0;
    let undelivered = |to: &mut Half<'_>, status: &Status| {
        to.wake_when_unsent_below(Some(0));
        status.unsent > 0
    };
    // A reset is passed on behind what came before it.
    let waits = match (failed(&d), failed(&u)) {
        (false, false) => None,
        (true, true) => Some(false),
        (true, false) => Some(undelivered(up, &u)),
        (false, true) => Some(undelivered(down, &d)),
    };
    if let Some(waits) = waits {
        if waits { Outcome::Open } else { Outcome::Reset }
    } else if upward.ended && downward.ended && d.unsent == 0 && u.unsent == 0 {
        Outcome::Finished
    } else {
        Outcome::Open
    }
}
