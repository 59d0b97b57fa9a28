//! What can go wrong with a segment as a whole.

use std::io;

/// Why a segment cannot be had or changed.
#[derive(Debug)]
pub enum SegmentError {
    /// There is no segment with this base id.
    NotFound {
        /// The base id.
        base_id: u32,
    },
    /// The segment belongs to another user.
    Foreign {
        /// The base id.
        base_id: u32,
        /// The user that owns it.
        uid: u32,
    },
    /// What is there is no segment that this program understands.
    Unusable {
        /// What is wrong.
        why: String,
    },
    /// Another process has held the segment's lock for longer than a second.
    Busy,
    /// There is no room: in the segment, in its process table, or in `/dev/shm`.
    Full {
        /// What there is no room for.
        what: &'static str,
    },
    /// The operating system refused.
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
}

impl SegmentError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}

impl std::fmt::Display for SegmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound { base_id } => {
                write!(f, "there is no shared-memory segment with base id {base_id}")
            }
            Self::Foreign { base_id, uid } => write!(
                f,
                "the shared-memory segment with base id {base_id} belongs to the user with uid {uid}; \
                 use another base id"
            ),
            Self::Unusable { why } => write!(f, "the shared-memory segment is not usable: {why}"),
            Self::Busy => {
                f.write_str("another process has held the lock of the shared-memory segment for a second")
            }
            Self::Full { what } => write!(f, "the shared memory has no room for {what}"),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for SegmentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
