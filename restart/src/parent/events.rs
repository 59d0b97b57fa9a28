//! What happens to the parent, and what it wants done.

use crate::frame::Frame;
use crate::identity::Level;
use crate::message::{DrainListeners, ParcelReply};

/// Number that the caller gives to a connection; never used again for another one.
pub type PeerId = u64;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted at the restart socket, and its peer may be there.
    PeerConnected {
        /// Its number.
        peer: PeerId,
    },
    /// A frame came.
    Frame {
        /// On which connection.
        peer: PeerId,
        /// The frame.
        frame: Frame,
        /// How many descriptors came along. No message to a parent has any: the caller closes them.
        fds: usize,
    },
    /// The peer has hung up, or the connection was closed here because of what the peer sent.
    PeerGone {
        /// Which connection.
        peer: PeerId,
        /// Why, for the log.
        why: String,
    },
    /// The deadline has come.
    Timer,
    /// All workers have stopped accepting, and own what was accepted until then.
    AcceptStopped,
    /// How many connections are left, while draining. The child is told each time: not for every single connection.
    ConnectionsLeft(u64),
    /// No connection is left.
    Drained {
        /// How many have moved to the child.
        moved: u64,
    },
    /// The answer to [`Action::CheckService`]: somebody serves. False only if that is certain; else the deadline decides.
    SomebodyServes(bool),
    /// This process is being stopped.
    Stopping,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this frame, without descriptors.
    Send {
        /// On which connection.
        peer: PeerId,
        /// What.
        frame: Frame,
    },
    /// Answer a request for a piece of something that the machine does not have: see [`crate::parts`].
    SendPart {
        /// On which connection.
        peer: PeerId,
        /// The id that the reply gets.
        request_id: u32,
        /// Of what.
        part: Part,
        /// Which piece. At 0, state and totals are taken anew; what follows are pieces of the same.
        cursor: u64,
    },
    /// Send what is queued as far as the peer takes it now, and close.
    Close {
        /// Which connection.
        peer: PeerId,
    },
    /// The commit: workers, admin interface and restart socket stop accepting, and keep their descriptors. First of all
    /// this process tells its own parent ([`crate::child::Event::Superseded`]); when all have stopped, and what they had
    /// accepted is theirs, [`Event::AcceptStopped`].
    StopAccepting {
        /// Process id of the child as it sees itself; 0 if unknown.
        pid: u32,
    },
    /// Undo [`Action::StopAccepting`] and [`Action::BeginDrain`]: this process serves again, and tells its own parent.
    ResumeAccepting,
    /// Find out whether somebody serves, then [`Event::SomebodyServes`]: true if a probe ([`crate::message::Hello`] with
    /// `probe`) on a new connection to the restart socket is answered with a HelloReply, false if nobody listens there.
    CheckService,
    /// Close or move connections; [`Event::Drained`] when none is left.
    BeginDrain {
        /// The connection to the child; if it is `live`, it is open.
        peer: PeerId,
        /// How, and how long.
        drain: DrainListeners,
        /// Whether connections move: both sides can and the child wants it.
        live: bool,
    },
    /// This process will not serve again: close all listening sockets, the restart socket included. Whoever has to start
    /// cold would find them in use.
    CloseListeners,
    /// A child that was taking over, or had taken over, has failed; this process serves. For whoever reports how a
    /// restart went: the counterpart is [`Action::StopAccepting`]. It is in the log as well.
    AttemptFailed {
        /// The epoch of the child.
        epoch: u32,
        /// Process id of the child as it sees itself; 0 if unknown.
        pid: u32,
        /// Why.
        why: String,
    },
    /// The child has answered parcels.
    ParcelsAnswered(ParcelReply),
    /// End this process; connections that are left are cut. Nothing happens any more.
    Exit {
        /// Why, for the log.
        why: String,
        /// Connections that are cut, as far as known.
        cut: u64,
    },
    /// Write to the log.
    Log(Level, String),
}

/// What a child asks for in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// [`crate::listen_sockets_reply`], with the descriptors.
    ListenSockets,
    /// [`crate::state_reply`].
    State,
    /// [`crate::totals_reply`].
    Totals,
}
