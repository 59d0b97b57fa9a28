//! What parent and child say to each other.
//!
//! Bodies are protobuf, so fields and messages can be added: a field that the receiver does not know is skipped, a kind
//! that it does not know is answered with [`NotUnderstood`]. Numbers of kinds and tags of fields are never used again
//! for something else. `docs/life-of-a-restart.md` says who sends what when.

use crate::limits::TEXT_BYTES_MAX;

/// A connection that takes part in a live handover names this capability in its [`Hello`] or [`HelloReply`].
pub const CAPABILITY_PARCELS: &str = "parcels";

/// Child to parent, the first message: who is there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// Version of the program, for the logs.
    #[prost(string, tag = "1")]
    pub program_version: String,
    /// Lowest version of the protocol that the child speaks.
    #[prost(uint32, tag = "2")]
    pub protocol_min: u32,
    /// Highest version of the protocol that the child speaks.
    #[prost(uint32, tag = "3")]
    pub protocol_max: u32,
    /// Layout of the shared segment that the child uses.
    #[prost(uint32, tag = "4")]
    pub layout_version: u32,
    /// What `--hot-restart-version` prints, for the logs.
    #[prost(string, tag = "5")]
    pub hot_restart_version: String,
    /// Epoch of the child. Left out: the one that follows the parent's.
    #[prost(uint32, optional, tag = "6")]
    pub epoch: Option<u32>,
    /// Process id of the child as it sees itself; 0 if unknown.
    #[prost(uint32, tag = "7")]
    pub pid: u32,
    /// What the child can do beyond the protocol version.
    #[prost(string, repeated, tag = "8")]
    pub capabilities: Vec<String>,
    /// Base id that the child was started with.
    #[prost(uint32, tag = "9")]
    pub base_id: u32,
    /// True: only asks who is there; no restart follows.
    #[prost(bool, tag = "10")]
    pub probe: bool,
}

/// Parent to child: the answer to [`Hello`], as soon as it is the child's turn.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HelloReply {
    /// Version of the program, for the logs.
    #[prost(string, tag = "1")]
    pub program_version: String,
    /// Lowest version of the protocol that the parent speaks.
    #[prost(uint32, tag = "2")]
    pub protocol_min: u32,
    /// Highest version of the protocol that the parent speaks.
    #[prost(uint32, tag = "3")]
    pub protocol_max: u32,
    /// The version that both use from here on: the highest that both speak. 0 to a probe without a common one.
    #[prost(uint32, tag = "4")]
    pub protocol: u32,
    /// Layout of the shared segment that the parent uses.
    #[prost(uint32, tag = "5")]
    pub layout_version: u32,
    /// What `--hot-restart-version` prints, for the logs and for comparing.
    #[prost(string, tag = "6")]
    pub hot_restart_version: String,
    /// Epoch of the parent.
    #[prost(uint32, tag = "7")]
    pub epoch: u32,
    /// Epoch that the child gets.
    #[prost(uint32, tag = "8")]
    pub child_epoch: u32,
    /// Process id of the parent as it sees itself; 0 if unknown.
    #[prost(uint32, tag = "9")]
    pub pid: u32,
    /// What the parent can do beyond the protocol version.
    #[prost(string, repeated, tag = "10")]
    pub capabilities: Vec<String>,
    /// Base id of the instance.
    #[prost(uint32, tag = "11")]
    pub base_id: u32,
    /// Whether a restart is going on; only said to a probe.
    #[prost(bool, tag = "12")]
    pub busy: bool,
    /// Whether the parent's own parent still lives: that one would serve again if the parent died now.
    #[prost(bool, tag = "13")]
    pub elder: bool,
    /// Random number of the parent's shared segment; 0 if it says none.
    #[prost(uint64, tag = "14")]
    pub segment_id: u64,
    /// Random numbers of the segments of children that had taken over from this process and failed, the last of them: what
    /// they have counted there themselves is nowhere else.
    #[prost(uint64, repeated, tag = "15")]
    pub lost_segments: Vec<u64>,
}

/// Child to parent: asks for the next listening sockets.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListenSockets {
    /// 0, then what the last reply said.
    #[prost(uint64, tag = "1")]
    pub cursor: u64,
}

/// One listening socket; its descriptor goes along with the frame.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ListenSocket {
    /// What it is for, in words of the program: a listener, the admin interface, the restart socket itself.
    #[prost(string, tag = "1")]
    pub purpose: String,
    /// `tcp`, `unix`, `udp` …
    #[prost(string, tag = "2")]
    pub protocol: String,
    /// `stream`, `datagram`, `seqpacket`.
    #[prost(string, tag = "3")]
    pub socket_type: String,
    /// The address as it was configured, port 0 included.
    #[prost(string, tag = "4")]
    pub address: String,
    /// The address that it is bound to.
    #[prost(string, tag = "5")]
    pub bound_address: String,
    /// Which worker of the parent accepts from it.
    #[prost(uint32, tag = "6")]
    pub worker: u32,
    /// Name of the listener that it belongs to.
    #[prost(string, tag = "7")]
    pub name: String,
}

/// Parent to child: listening sockets with one descriptor each, in the order of the list.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListenSocketsReply {
    /// As many as the frame has descriptors.
    #[prost(message, repeated, tag = "1")]
    pub sockets: Vec<ListenSocket>,
    /// Whether there are further ones.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Where the next request goes on.
    #[prost(uint64, tag = "3")]
    pub next: u64,
}

/// Child to parent: asks for the next piece of the state.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct State {
    /// 0, then what the last reply said.
    #[prost(uint64, tag = "1")]
    pub cursor: u64,
}

/// A piece of a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Chunk {
    /// Name of the blob.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where in the blob the piece begins.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Length of the whole blob.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// The piece.
    #[prost(bytes = "vec", tag = "4")]
    pub bytes: Vec<u8>,
}

/// Parent to child: pieces of the state.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StateReply {
    /// Pieces in order; a blob is complete before the next one begins.
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<Chunk>,
    /// Whether there is more.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Where the next request goes on.
    #[prost(uint64, tag = "3")]
    pub next: u64,
}

/// Child to parent: asks for the next piece of the counters' totals, because its segment has another layout.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Totals {
    /// 0, then what the last reply said.
    #[prost(uint64, tag = "1")]
    pub cursor: u64,
}

/// Parent to child: pieces of the totals as they were when cursor 0 was asked for. They replace all earlier ones.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TotalsReply {
    /// Pieces in order; a blob is complete before the next one begins.
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<Chunk>,
    /// Whether there is more.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Where the next request goes on.
    #[prost(uint64, tag = "3")]
    pub next: u64,
}

/// Child to parent: my workers accept connections.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChildReady {
    /// Workers of the child, for the logs.
    #[prost(uint32, tag = "1")]
    pub workers: u32,
}

/// Child to parent, the commit: stop accepting; from here on the service is mine.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DrainListeners {
    /// How long the parent spreads the closing of its connections, in milliseconds.
    #[prost(uint64, tag = "1")]
    pub drain_ms: u64,
    /// How long after the commit the parent ends at the latest, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub parent_shutdown_ms: u64,
    /// Whether connections are to be moved, as far as both can.
    #[prost(bool, tag = "3")]
    pub live: bool,
    /// Bound addresses of listening sockets that the child has no use for: the parent serves what waits in their queues,
    /// and closes them. A child that says nothing here keeps all.
    #[prost(string, repeated, tag = "4")]
    pub released: Vec<String>,
    /// Random number of the segment that the child counts in; 0 if it says none.
    #[prost(uint64, tag = "5")]
    pub segment_id: u64,
}

/// Parent to child: nothing is accepted here any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DrainListenersReply {
    /// Connections that the parent still has.
    #[prost(uint64, tag = "1")]
    pub connections: u64,
    /// For so long the kernel may tell somebody of connections who does not hear of them, a process that hangs or has died:
    /// the child looks into the queues itself, milliseconds.
    #[prost(uint64, tag = "2")]
    pub unheard_ms: u64,
}

/// Parent to child: one connection, or a part of one; its descriptors go along with the frame. Only if both have
/// [`CAPABILITY_PARCELS`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectionParcel {
    /// Number of the parcel, by which it is answered.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What kind of connection it is, in words of the program.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// Worker of the parent that it comes from.
    #[prost(uint32, tag = "3")]
    pub worker: u32,
    /// The session, or the next piece of it.
    #[prost(bytes = "vec", tag = "4")]
    pub bytes: Vec<u8>,
    /// Whether another frame with the same id goes on with it.
    #[prost(bool, tag = "5")]
    pub more: bool,
}

/// Child to parent: what became of parcels.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ParcelReply {
    /// Taken: the parent forgets these connections.
    #[prost(uint64, repeated, tag = "1")]
    pub accepted: Vec<u64>,
    /// Not taken: the parent goes on with these connections.
    #[prost(message, repeated, tag = "2")]
    pub refused: Vec<RefusedParcel>,
}

/// A parcel that the child did not take.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RefusedParcel {
    /// Number of the parcel.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Why, for the log.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Why, to be counted: [`REFUSED_KIND`] and so on; 0 for everything else.
    #[prost(uint32, tag = "3")]
    pub code: u32,
}

/// The child does not know the kind of a parcel.
pub const REFUSED_KIND: u32 = 1;

/// The child has no place for a parcel: no listener of that name, or one that speaks something else.
pub const REFUSED_PLACE: u32 = 2;

/// The child has no room in its table of descriptors for those of a parcel.
pub const REFUSED_DESCRIPTORS: u32 = 3;

/// A parcel is larger than the child takes.
pub const REFUSED_SIZE: u32 = 4;

/// Parent to child: I have no connection any more, or my time is up. Take the last totals and let me go.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HandoverDone {
    /// Connections that moved to the child.
    #[prost(uint64, tag = "1")]
    pub moved: u64,
    /// Connections that are cut because the time is up.
    #[prost(uint64, tag = "2")]
    pub cut: u64,
}

/// Child to parent: end now.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TerminateParent {}

/// Parent to child, the last message: I end now, on purpose.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Terminated {
    /// Connections that are cut.
    #[prost(uint64, tag = "1")]
    pub cut: u64,
}

/// Parent to child, for the logs: how far the drain is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ParentProgress {
    /// Connections that the parent still has.
    #[prost(uint64, tag = "1")]
    pub connections: u64,
}

/// Either way: the restart is over. From the child: I fail, and why. From the parent: I keep the service, or have
/// taken it back; drain and end.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Abort {
    /// Why, for the log.
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// Either way: a request is refused, and with it this attempt.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Error {
    /// A [`Refusal`] as a number.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Why, in words.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// A reason of a newer version, or none at all.
    Other = 0,
    /// No version of the protocol that both speak.
    Protocol = 1,
    /// The epoch is not the one that follows the parent's.
    Epoch = 2,
    /// Another instance answers at this address.
    BaseId = 3,
    /// Another restart is going on, and did not end in time.
    Busy = 4,
    /// The service has moved to another process: connect again.
    Moved = 5,
    /// The message makes no sense at this point.
    OutOfOrder = 6,
    /// The parent is being stopped.
    Stopping = 7,
    /// A step took too long.
    Deadline = 8,
}

impl Error {
    /// An error with a text that is cut to the limit.
    #[must_use]
    pub fn new(refusal: Refusal, text: impl Into<String>) -> Self {
        Self { code: refusal as u32, text: bounded(text) }
    }

    /// Why, as far as this version knows the reason.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self.code {
            1 => Refusal::Protocol,
            2 => Refusal::Epoch,
            3 => Refusal::BaseId,
            4 => Refusal::Busy,
            5 => Refusal::Moved,
            6 => Refusal::OutOfOrder,
            7 => Refusal::Stopping,
            8 => Refusal::Deadline,
            _ => Refusal::Other,
        }
    }
}

impl Abort {
    /// An abort with a reason that is cut to the limit.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: bounded(reason) }
    }
}

/// Either way: this kind of message is unknown here. Nothing else happens.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NotUnderstood {
    /// The kind.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
}

/// Parent to child after the commit: are you alive?
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Ping {}

/// Child to parent: I am.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pong {}

/// Child to parent, long after the commit: the child has itself been replaced, or has taken that back. A parent whose
/// child has been replaced does not accept again when the child ends.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Superseded {
    /// True: another process serves now. False: the child serves again.
    #[prost(bool, tag = "1")]
    pub superseded: bool,
    /// Epoch of that other process.
    #[prost(uint32, tag = "2")]
    pub by_epoch: u32,
}

/// Defines [`Message`] from the list of kinds.
macro_rules! messages {
    ($($number:literal $name:ident,)*) => {
        /// Any message, with the number of its kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Message {
            $(
                #[doc = concat!("Kind ", stringify!($number), ".")]
                $name($name),
            )*
            /// A kind that this version does not know.
            Unknown(u16),
        }

        impl Message {
            /// The number of the kind.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $number,)*
                    Self::Unknown(kind) => *kind,
                }
            }

            /// The name of the kind, for logs.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                    Self::Unknown(_) => "a message of an unknown kind",
                }
            }

            /// Length of the encoded body in bytes.
            pub(crate) fn body_len(&self) -> usize {
                match self {
                    $(Self::$name(body) => prost::Message::encoded_len(body),)*
                    Self::Unknown(_) => 0,
                }
            }

            /// Appends the body.
            pub(crate) fn write_body(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name(body) => prost::Message::encode_raw(body, out),)*
                    Self::Unknown(_) => {}
                }
            }

            /// Reads the body of a message of this kind. A body of an unknown kind is not looked at.
            pub(crate) fn read_body(kind: u16, body: &[u8]) -> Result<Self, prost::DecodeError> {
                match kind {
                    $($number => <$name as prost::Message>::decode(body).map(Self::$name),)*
                    _ => Ok(Self::Unknown(kind)),
                }
            }
        }

        $(
            impl From<$name> for Message {
                fn from(body: $name) -> Self {
                    Self::$name(body)
                }
            }
        )*
    };
}

messages! {
    1 Hello,
    2 HelloReply,
    3 ListenSockets,
    4 ListenSocketsReply,
    5 State,
    6 StateReply,
    7 Totals,
    8 TotalsReply,
    9 ChildReady,
    10 DrainListeners,
    11 DrainListenersReply,
    12 ConnectionParcel,
    13 ParcelReply,
    14 HandoverDone,
    15 TerminateParent,
    16 Terminated,
    17 ParentProgress,
    18 Abort,
    19 Error,
    20 NotUnderstood,
    21 Ping,
    22 Pong,
    23 Superseded,
    24 RestartRequest,
    25 RestartReport,
    26 ParcelChannel,
}

/// Parent to child: a connection of its own, whose descriptor goes along, on which a worker of the parent sends its
/// [`ConnectionParcel`]s and gets [`ParcelReply`]s. The roles know nothing of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ParcelChannel {
    /// Worker of the parent.
    #[prost(uint32, tag = "1")]
    pub worker: u32,
}

/// Operator to a serving process: start your successor. The process answers it itself; the roles know nothing of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RestartRequest {
    /// Arguments of the successor instead of those that the process was started with.
    #[prost(string, repeated, tag = "1")]
    pub arguments: Vec<String>,
    /// Whether `arguments` are meant; otherwise the successor gets the process's own.
    #[prost(bool, tag = "2")]
    pub replaces_arguments: bool,
}

/// Serving process to operator: how the restart went.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RestartReport {
    /// The successor serves.
    #[prost(bool, tag = "1")]
    pub succeeded: bool,
    /// Epoch of the successor.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// Process id of the successor; 0 if there was none.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Why it failed.
    #[prost(string, tag = "4")]
    pub why: String,
    /// From the request to the commit, or to the failure, in milliseconds.
    #[prost(uint64, tag = "5")]
    pub took_ms: u64,
    /// Process id of the process that answers.
    #[prost(uint32, tag = "6")]
    pub parent_pid: u32,
}

/// The text, cut at a character so that it fits into a message and a log line.
fn bounded(text: impl Into<String>) -> String {
    let mut text = text.into();
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_any_length_fits_and_stays_text() {
        let text = "ä".repeat(TEXT_BYTES_MAX);
        assert_eq!(Abort::new(text.clone()).reason.len(), TEXT_BYTES_MAX);
        let text = format!("a{text}");
        assert_eq!(Error::new(Refusal::Busy, text).text.len(), TEXT_BYTES_MAX - 1);
    }

    #[test]
    fn a_refusal_survives_the_wire_and_a_new_one_is_some_other() {
        for code in 0..=8 {
            let error = Error { code, text: String::new() };
            assert_eq!(error.refusal() as u32, code);
        }
        assert_eq!(Error { code: 99, text: String::new() }.refusal(), Refusal::Other);
    }
}
