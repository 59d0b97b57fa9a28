//! What comes to the roles from outside, and what they want done there.

use ouro_restart::message::{DrainListeners, Hello, ListenSocket, RestartRequest};
use ouro_restart::parent::{Part, PeerId};
use ouro_restart::{Blob, Frame, Level};

/// Another process.
pub trait Other {
    /// Whether it has ended.
    fn has_ended(&self) -> bool;
}

/// What has come on a connection.
#[derive(Debug)]
pub enum News {
    /// A frame, with so many descriptors, which are kept until the steps are done.
    Frame(Frame, usize),
    /// Nothing more will.
    Broken {
        /// In words.
        why: String,
        /// What came is no frame. The connection is still there to say so.
        is_nonsense: bool,
    },
}

/// Where a process hears of the others. Each call gives one thing that has come; none of them waits.
pub trait Ears {
    /// What has come from the process before.
    fn above(&mut self) -> Option<News>;
    /// Whether the question that [`Step::Ask`] put has been answered; false: it never will be.
    fn answer(&mut self) -> Option<bool>;
    /// Whether the process before, whose connection is lost, has ended; this is said once.
    fn before_has_ended(&mut self) -> bool;
    /// Accepts a connection at the restart socket.
    fn accept(&mut self) -> Option<PeerId>;
    /// What has come on one of the connections that were accepted.
    fn below(&mut self) -> Option<(PeerId, News)>;
}

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// Connect to the restart socket, then tell [`Roles::up`](super::Roles::up) what came of it.
    Connect,
    /// To the process before.
    SendAbove(Frame),
    /// Close the connection to the process before, then [`Roles::estrange`](super::Roles::estrange).
    CloseAbove {
        /// That process may still accept.
        may_accept: bool,
    },
    /// The connection to the process before is of no use any more: let go of it, then [`Roles::lost_above`](super::Roles::lost_above).
    LoseAbove {
        /// In words.
        why: String,
    },
    /// Take the descriptors of the frame, one for each of these.
    AdoptSockets(Vec<ListenSocket>),
    /// What operators have changed, as the process before says.
    AdoptState(Vec<Blob>),
    /// What the process before has counted so far in a segment of its own.
    CarryTotals(Vec<Blob>),
    /// What it has counted there in the end.
    TakeTotals(Vec<Blob>),
    /// Bind what was not inherited, the restart socket too (then [`Roles::has_bound`](super::Roles::has_bound)), and start workers; then
    /// [`Event::WorkersAccepting`](ouro_restart::child::Event::WorkersAccepting) or [`Event::Failed`](ouro_restart::child::Event::Failed).
    Prepare {
        /// Of this process.
        epoch: u32,
        /// There was nobody to inherit from.
        cold: bool,
    },
    /// Ask at the restart socket whether somebody serves, with this; then listen for the answer, or say that there is
    /// nobody ([`Event::SomebodyServes`](ouro_restart::child::Event::SomebodyServes)).
    Ask(Hello),
    /// No answer is of interest any more.
    ForgetQuestion,
    /// Claim the restart socket, and serve.
    TakeOver {
        /// Of this process.
        epoch: u32,
    },
    /// Take the restart socket away: nobody is to find it.
    Unbind,
    /// This process cannot become what it was started for, and ends.
    Fail {
        /// In words.
        why: String,
    },
    /// The descriptor of the frame is a channel on which connections of a worker of the process before come.
    TakeChannel {
        /// Its number.
        worker: u32,
    },
    /// To a process after.
    SendBelow {
        /// On this connection.
        peer: PeerId,
        /// What.
        frame: Frame,
    },
    /// Send a piece of something.
    SendPart {
        /// On this connection.
        peer: PeerId,
        /// Of the request.
        request_id: u32,
        /// Of what.
        part: Part,
        /// Which piece. At 0, totals are counted anew.
        cursor: u64,
    },
    /// Close a connection.
    CloseBelow {
        /// Which.
        peer: PeerId,
        /// The process has listening sockets: [`Roles::estrange`](super::Roles::estrange), as one that may accept.
        is_stranger: bool,
    },
    /// A connection is of no use any more: let go of it, then [`Roles::lost_below`](super::Roles::lost_below).
    LoseBelow {
        /// Which.
        peer: PeerId,
        /// In words.
        why: String,
    },
    /// It is no process of the instance that has sent this, but an operator, to whom the connection belongs from here on.
    Restart {
        /// On this connection.
        peer: PeerId,
        /// Of the request.
        request_id: u32,
        /// What is wanted.
        request: RestartRequest,
    },
    /// Accept nothing more, keep the sockets; then [`Event::AcceptStopped`](ouro_restart::parent::Event::AcceptStopped).
    StopAccepting {
        /// The process that serves from here on.
        pid: u32,
    },
    /// The restart socket is this process's again.
    ClaimBack,
    /// Serve again.
    ResumeAccepting,
    /// End connections in this way, or move them to the process at this connection; then [`Event::Drained`](ouro_restart::parent::Event::Drained).
    BeginDrain {
        /// How.
        drain: DrainListeners,
        /// Where to.
        live: Option<PeerId>,
    },
    /// This process will not serve again: close all listening sockets, the restart socket too.
    CloseListeners,
    /// A process has failed to take over; this one serves.
    AttemptFailed {
        /// Which.
        pid: u32,
        /// In words.
        why: String,
    },
    /// End.
    Exit {
        /// In words.
        why: String,
        /// Connections that are cut.
        cut: u64,
    },
    /// Write to the log.
    Log(Level, String),
}
