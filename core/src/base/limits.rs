//! Every bound that is not configurable, in one place, with the relations between them checked at compile time.

/// A bound as it is, and as the simulator has it: small, so that it is reached.
const fn pick(real: usize, simulated: usize) -> usize {
    if cfg!(feature = "sim") { simulated } else { real }
}

/// Entries of a worker's submission queue. A full queue is submitted early, so this bounds batches, not load.
pub const SUBMISSION_ENTRIES: u32 = 1024;

/// Entries of a worker's completion queue. Multishot operations make this the scarce side.
pub const COMPLETION_ENTRIES: u32 = 8192;

/// Largest number of buffers a kernel buffer ring can hold.
pub const MAX_RECEIVE_BUFFERS: usize = 32_768;

/// Receive buffers that the kernel has at hand at first; more follow as the load asks for them, up to the configured
/// memory.
pub const INITIAL_RECEIVE_BUFFERS: usize = pick(64, 8);

/// The fewest that it has at hand, however large the messages are.
pub const MIN_SUPPLY_BUFFERS: usize = pick(8, 2);

/// Bytes that a turn of the ring receives at most if they come in large pieces: what is received is sent in the same turn,
/// so it should still be in the second-level cache, which has 512 KiB and more.
pub const TURN_RECEIVE_BYTES: usize = pick(512 * 1024, 8 * 1024);

/// Turns in a row that use less than an eighth of the buffers at hand, after which those become fewer.
pub const SPARSE_TURNS: u32 = 1024;

/// Receive buffers that one socket may hold while there are plenty; over it, its recv is disarmed.
pub const SOCKET_BUFFER_QUOTA: u32 = 8;

/// The same while more than a quarter of the buffers are in use.
pub const SOCKET_BUFFER_QUOTA_SCARCE: u32 = 2;

/// The same while more than half of the buffers are in use.
pub const SOCKET_BUFFER_QUOTA_RARE: u32 = 1;

/// Sockets of a worker that can be registered with its ring at a time; all others are named by their descriptors.
pub const REGISTERED_FILES: usize = pick(4096, 4);

/// A socket is registered after so many sends.
pub const SENDS_BEFORE_REGISTERED: usize = pick(16, 2);

/// When all buffers are held and some socket waits for one, whoever has kept the most for at least so long without
/// moving a byte is cut off.
pub const STALLED_MS: u64 = 1_000;

/// How often that is looked at.
pub const STALLED_CHECK_MS: u64 = 100;

/// For so long what comes is looked at, to know how long to wait for several messages at a time, microseconds.
pub const MODERATION_WINDOW_US: u64 = pick(5_000, 500) as u64;

/// The part of the time between two messages of a connection that such a wait takes at most: one of so many.
pub const MODERATION_SHARE: u64 = pick(16, 1) as u64;

/// Messages that are to be expected in such a wait, or it is not worth it.
pub const MODERATION_EXPECTED: u64 = pick(3, 0) as u64;

/// Events that end it.
pub const MODERATION_EVENTS: u64 = pick(16, 4) as u64;

/// Larger messages are not waited for: their bytes cost, not their number.
pub const MODERATION_MESSAGE_BYTES: u64 = 4096;

/// A received piece up to this size is copied behind an unread one that has room, so that a peer that sends a
/// byte at a time cannot make us hold a whole buffer for each.
pub const COALESCE_BYTES: usize = pick(4096, 128);

/// Pieces that one vectored send covers.
pub const SEND_VECTORS: usize = pick(16, 3);

/// Capacity that a recycled head buffer keeps, bytes.
pub const HEAD_BUFFER_BYTES: usize = 4096;

/// Recycled head buffers kept per worker.
pub const SPARE_HEAD_BUFFERS: usize = pick(512, 4);

/// A piece of a body up to this size is copied behind the head it follows: cheaper than a second vector.
pub const INLINE_BODY_BYTES: usize = pick(2048, 512);

/// How long the head of a response waits for a small body that did not come with it, milliseconds.
pub const GATHER_MS: u64 = 2;

/// How long a connection that ends because the process does may take for its first request, milliseconds since it was
/// accepted: whoever has just connected is about to ask.
pub const FIRST_REQUEST_MS: u64 = 1_000;

/// What the task of a connection takes at most, its session included, bytes; a connection that waits costs little else.
pub const TASK_BYTES: usize = 384;

/// Tasks run between two looks at the completion queue.
pub const TASKS_PER_TURN: usize = pick(1024, 4);

/// Bytes queued on a socket and not yet sent, above which whoever produces them waits.
pub const SEND_HIGH_WATER_BYTES: usize = pick(256 * 1024, 8 * 1024);

/// How long a connection that we closed first is read on, so that the peer gets our last words instead of a reset.
pub const LINGER_MS: u64 = 5_000;

/// Bytes thrown away at most while lingering.
pub const LINGER_BYTES: usize = 1024 * 1024;

/// How long accepting pauses when descriptors or memory have run out.
pub const ACCEPT_PAUSE_MS: u64 = 100;

/// How often that is said in the log at most.
pub const ACCEPT_WARNING_MS: u64 = 10_000;

/// Longest text of a chunk-size line with its extensions, bytes. RFC 9112 section 7.1.1 asks for a bound.
pub const CHUNK_LINE_BYTES: usize = 256;

/// Extensions in one whole chunked body, bytes: many small chunks must not carry endless extensions.
pub const CHUNK_EXTENSIONS_BYTES: usize = 16 * 1024;

/// Trailer section of a chunked body, bytes.
pub const TRAILER_BYTES: usize = 8 * 1024;

/// Empty lines skipped before a request line. RFC 9112 section 2.2.
pub const LEADING_EMPTY_LINES: usize = 2;

/// Header fields in a head at most, whatever the configuration says.
pub const MAX_HEADERS: usize = 256;

/// Bytes in a head at most, whatever the configuration says.
pub const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Messages that wait for a worker; more are handed back to the sender.
pub const MAILBOX_MESSAGES: usize = 1024;

/// Access-log bytes of one worker that wait for the writer; more are dropped and counted.
pub const ACCESS_LOG_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Informational responses (1xx) passed on for one request.
pub const INFORMATIONAL_RESPONSES: u32 = 16;

const _: () = assert!(COMPLETION_ENTRIES >= 4 * SUBMISSION_ENTRIES);
const _: () = assert!(INITIAL_RECEIVE_BUFFERS <= MAX_RECEIVE_BUFFERS);
const _: () = assert!(SOCKET_BUFFER_QUOTA_RARE < SOCKET_BUFFER_QUOTA_SCARCE);
const _: () = assert!(SOCKET_BUFFER_QUOTA_SCARCE < SOCKET_BUFFER_QUOTA);
/// Connections that a worker has sent to the next process and that were not answered for.
pub const UNANSWERED_PARCELS: usize = pick(32, 3);

/// Connections that a worker begins to send to the next process in a millisecond: both processes want the same CPUs, and those
/// who are served meanwhile, here or there, should not notice.
pub const MOVES_PER_MS: usize = pick(16, 3);

/// Bytes of one connection on its way to another process at most; what it can hold is far below.
pub const PARCEL_BYTES: usize = 8 * 1024 * 1024;

/// Pause before more is sent to a process that does not read fast enough.
pub const PARCEL_RETRY_MS: u64 = 1;

/// How often a worker that has handed over all that it has looks whether something still comes from the process before.
pub const ARRIVALS_LOOK_MS: u64 = 50;

const _: () = assert!(INLINE_BODY_BYTES <= HEAD_BUFFER_BYTES);
