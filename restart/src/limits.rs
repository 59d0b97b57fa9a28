//! Every bound of the restart protocol: sizes as constants, deadlines as values that tests can shorten.

/// Bytes of a frame's body at most.
pub const FRAME_BODY_BYTES_MAX: usize = 64 * 1024;

/// Descriptors that one frame carries at most. The kernel takes 253 (`SCM_MAX_FD`).
pub const FRAME_FDS_MAX: usize = 200;

/// Bytes of a blob's or a parcel's content that one frame carries at most; the rest of the body is for names.
pub const CHUNK_BYTES_MAX: usize = 48 * 1024;

/// Bytes of the text in a refusal or an abort at most; what is longer is cut.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Listening sockets that a child takes from its parent at most.
pub const LISTEN_SOCKETS_MAX: usize = 65_536;

/// Bytes of state, and of totals, that a child takes from its parent at most.
pub const BLOB_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Blobs in the state, and in the totals, at most.
pub const BLOBS_MAX: usize = 4096;

/// Connections to the restart socket that a process keeps open at a time; further ones are closed at once.
pub const PEERS_MAX: usize = 16;

/// Children that wait for their turn at most; further ones are told that the parent is busy.
pub const WAITING_MAX: usize = 4;

/// Segments of children that failed after the commit, of which a parent tells the next child. Only the one that still has
/// the name of the instance is of any use to it.
pub const LOST_SEGMENTS_MAX: usize = 8;

/// By how much the time that somebody waits and the time that a process got no CPU may differ when measured at both ends,
/// milliseconds.
pub const LATE_MS: u64 = 20;

/// How far beyond the next epoch a child may be to wait its turn behind one that is taking over, as happens when a script
/// counts epochs up faster than processes start.
pub const EPOCHS_AHEAD_MAX: u32 = 4;

/// Frames that a peer may send although they make no sense (unknown, or at the wrong time) before it is disconnected.
pub const STRAY_FRAMES_MAX: u32 = 64;

/// Frames that may wait in a connection for a peer that does not read; then the peer is disconnected.
pub const OUT_FRAMES_MAX: usize = 1024;

/// Bytes that may wait in a connection for a peer that does not read; then the peer is disconnected.
pub const OUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Connections that wait in the restart socket's queue for being accepted.
pub const LISTEN_BACKLOG: i32 = 64;

/// How long each step may take, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// Child: until somebody answers at the restart socket, if an epoch other than 0 was asked for.
    pub connect_ms: u64,
    /// Child: between two attempts to connect.
    pub connect_retry_ms: u64,
    /// Parent: from accepting a connection to its Hello, and how long a probe may stay afterwards.
    pub hello_ms: u64,
    /// Parent: how long a child waits for its turn while another one is being served.
    pub turn_ms: u64,
    /// Child: until HelloReply has come; longer than `turn_ms`, so that the parent is the one to say no.
    pub hello_reply_ms: u64,
    /// Both: between two frames while listen sockets, state and totals are handed over.
    pub step_ms: u64,
    /// Child: from having all it needs to its workers accepting connections.
    pub prepare_ms: u64,
    /// Parent: the same, longer, so that the child is the one to say why.
    pub parent_prepare_ms: u64,
    /// Parent: from Hello to DrainListeners, however lively the child is in between.
    pub attempt_ms: u64,
    /// Parent: from DrainListeners until its workers have stopped accepting; then it acknowledges all the same.
    pub stop_accepting_ms: u64,
    /// Child: from DrainListeners to the reply; then it takes over without one if nobody else serves. Longer than a
    /// parent's parent needs to take the service back.
    pub commit_ms: u64,
    /// Child: until somebody has answered whether he serves, after the parent has hung up or hangs; then nobody does. A
    /// parent that asks waits twice as long.
    pub check_ms: u64,
    /// Parent, after the commit: between two Pings.
    pub ping_ms: u64,
    /// Parent, after the commit: Pings in a row without any answer until it takes the service back.
    pub pings_missed_max: u32,
    /// Both: from HandoverDone to the end of the parent.
    pub goodbye_ms: u64,
    /// Child: how much longer than the parent's own deadline it waits before it tells the parent to end.
    pub terminate_grace_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect_ms: 2_000,
            connect_retry_ms: 50,
            hello_ms: 5_000,
            turn_ms: 30_000,
            hello_reply_ms: 35_000,
            step_ms: 10_000,
            prepare_ms: 60_000,
            parent_prepare_ms: 65_000,
            attempt_ms: 120_000,
            stop_accepting_ms: 5_000,
            commit_ms: 10_000,
            check_ms: 1_000,
            ping_ms: 1_000,
            pings_missed_max: 5,
            goodbye_ms: 5_000,
            terminate_grace_ms: 1_000,
        }
    }
}
