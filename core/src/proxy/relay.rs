//! One direction of a byte relay: received chunks are the chunks that are sent.

use crate::base::limits;
use crate::ring::{Socket, Status};

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
    pub(super) fn pump(&mut self, from: &Socket, to: &Socket) {
        let mut room = limits::SEND_HIGH_WATER_BYTES.saturating_sub(to.status().unsent);
        loop {
            if room == 0 {
                #[allow(clippy::cast_possible_truncation)] // a small constant
                to.wake_when_unsent_below(Some((limits::SEND_HIGH_WATER_BYTES / 2) as u32));
                return;
            }
            let Some(chunk) = from.receive() else { break };
            room = room.saturating_sub(chunk.len());
            self.bytes += chunk.len() as u64;
            to.send(chunk);
        }
        if !self.ended && from.status().is_eof() {
            self.ended = true;
            to.shutdown_write();
        }
        if self.ended {
            // Asked for each time: the socket may have come from another process since.
            to.wake_when_unsent_below(Some(0));
        }
    }
}

/// Has a connection on which nothing moved for too long end with RST where it still has bytes to send: a peer that does not
/// get them must not take what it got for all.
pub(super) fn cut_off_unsent(socket: &Socket) {
    if socket.status().unsent > 0 {
        socket.reset_at_close();
    }
}

/// Moves what has come in both directions.
pub(super) fn pump_both(
    down: &Socket,
    up: &Socket,
    upward: &mut Direction,
    downward: &mut Direction,
) -> Outcome {
    upward.pump(down, up);
    downward.pump(up, down);
    let (d, u) = (down.status(), up.status());
    let failed = |s: &Status| s.is_reset() || s.send_error != 0;
    let undelivered = |to: &Socket, status: &Status| {
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
