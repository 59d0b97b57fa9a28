//! Who counts in a segment and cannot be seen from here: a process in another pid namespace with the same `/dev/shm`.
//!
//! By its table of processes it would be taken for dead, and its counters for nobody's. Each process holds a shared lock on
//! the object of its segment, which the kernel drops with its holder, and which knows no namespaces.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// Where Linux shows shared-memory objects.
const FOLDER: &str = "/dev/shm";

/// Tries to get the lock: whoever looks whether somebody holds it has it for a moment.
const TRIES: usize = 10;

/// This process is there, as long as this is.
#[derive(Debug)]
pub(super) struct Presence {
    _locked: File,
}

impl Presence {
    /// Says that this process counts in the segment of this base id. `None` where that cannot be said.
    pub(super) fn show(base_id: u32) -> Option<Self> {
        let file = open(base_id)?;
        for _ in 0..TRIES {
            match file.try_lock_shared() {
                Ok(()) => return Some(Self { _locked: file }),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Err(TryLockError::Error(_)) => return None,
            }
        }
        None
    }
}

/// Whether a process counts in the segment of this base id, be it seen or not.
pub(super) fn is_anybody_there(base_id: u32) -> bool {
    // The lock goes with the file.
    open(base_id).is_some_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn open(base_id: u32) -> Option<File> {
    let path = PathBuf::from(format!("{FOLDER}{}", ouro_shm::segment_name(base_id)));
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()
}
