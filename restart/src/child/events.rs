//! What happens to the child, and what it wants done.

use crate::frame::Frame;
use crate::identity::Level;
use crate::message::{ConnectionParcel, ListenSocket, ParcelReply};
use crate::parts::Blob;

/// How this process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `--restart-epoch`; `None` is `auto`. 0 starts cold without looking for a parent.
    pub epoch: Option<u32>,
    /// `--skip-hot-restart-on-no-parent`: starts cold if nobody answers. With epoch `auto` it always does.
    pub cold_without_parent: bool,
    /// `--skip-hot-restart-parent-stats` not given: takes totals from a parent with another layout.
    pub totals: bool,
    /// `--handover live`.
    pub live: bool,
    /// `--drain-time-s` in milliseconds; 0 is the immediate strategy.
    pub drain_ms: u64,
    /// `--parent-shutdown-time-s` in milliseconds.
    pub parent_shutdown_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process starts; the first event.
    Start,
    /// [`Action::Connect`] succeeded.
    Connected,
    /// [`Action::Connect`] did not succeed.
    ConnectFailed {
        /// What was found.
        failure: ConnectFailure,
        /// In words.
        why: String,
    },
    /// A frame came.
    Frame {
        /// The frame.
        frame: Frame,
        /// How many descriptors came along. The caller holds them until the actions are done, then closes what none of
        /// them took.
        fds: usize,
    },
    /// The parent has hung up, or the connection was closed here because of what it sent.
    ParentGone {
        /// Why, for the log.
        why: String,
    },
    /// The answer to [`Action::CheckService`]: somebody serves. False only if that is certain; else the deadline decides.
    SomebodyServes(bool),
    /// The deadline has come.
    Timer,
    /// All workers accept connections, after [`Action::Prepare`].
    WorkersAccepting {
        /// How many.
        workers: u32,
        /// Bound addresses of listening sockets that were inherited and are not used.
        released: Vec<String>,
    },
    /// This process cannot go on, at whatever step.
    Failed {
        /// Why.
        why: String,
    },
    /// This process, which serves, has committed to a child of its own (its epoch), or serves again (`None`).
    Superseded(Option<u32>),
    /// What became of parcels.
    ParcelsTaken(ParcelReply),
    /// This process has been stopped on purpose and is about to end. A parent that still drains ends with it.
    Stopping,
}

/// Why nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// There is no socket, or nobody listens at it.
    Nobody,
    /// Its queue is full.
    Busy,
    /// Somebody is there, but not for us; or we may not ask.
    Refused,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect to the restart socket; [`Event::Connected`] or [`Event::ConnectFailed`] says what came of it.
    Connect,
    /// Send this frame, without descriptors.
    Send(Frame),
    /// Send what is queued as far as the parent takes it now, and close the connection.
    Close,
    /// Take the descriptors of the frame that was just handed in, one for each of these.
    AdoptListenSockets(Vec<ListenSocket>),
    /// The state of the parent.
    AdoptState {
        /// All of it.
        blobs: Vec<Blob>,
        /// False: as it was before the commit. True: as the parent left it; it replaces what came before.
        last: bool,
    },
    /// Totals of the parent's counters; they replace those that came before.
    AdoptTotals {
        /// All of them.
        blobs: Vec<Blob>,
        /// Whether these are the last.
        last: bool,
    },
    /// Configure, bind what was not inherited, start the workers; then [`Event::WorkersAccepting`].
    Prepare {
        /// The epoch of this process.
        epoch: u32,
        /// Nobody served when this process came: nothing is inherited.
        cold: bool,
    },
    /// Find out whether somebody serves, then [`Event::SomebodyServes`]. True if a probe ([`crate::message::Hello`] with
    /// `probe`) on a new connection to the restart socket is answered with a HelloReply. False if nobody listens there;
    /// also, without asking, if there is no elder and [`crate::Connection::peer_has_ended`] says so of the parent.
    CheckService {
        /// Whether a process before the parent may have taken the service back.
        elder: bool,
    },
    /// This process serves from here on: it owns the admin interface and the restart socket.
    TakeOver {
        /// The epoch of this process.
        epoch: u32,
    },
    /// Take this parcel with the descriptors of the frame, or a further piece of it; then [`Event::ParcelsTaken`].
    TakeParcel {
        /// The parcel.
        parcel: ConnectionParcel,
        /// How many descriptors came along.
        fds: usize,
    },
    /// The parent has ended.
    ParentEnded,
    /// This process has failed: report why on standard error and in the log, drain what it accepted, end with 1.
    Fail {
        /// Why.
        why: String,
    },
    /// Write to the log.
    Log(Level, String),
}
