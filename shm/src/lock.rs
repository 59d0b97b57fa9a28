//! The lock of a segment: an open-file-description lock on its object, which the kernel drops with its holder.

use std::fs::{self, File};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::SegmentError;

/// Longest wait for the lock. Holders need milliseconds, so one that is stopped in the middle is not waited out.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(1);

/// Tries to say that somebody is there.
const PRESENCE_TRIES: usize = 10;

/// Locks out the other threads of this process: the object's lock is one of the whole process.
#[cfg_attr(all(test, loom), allow(dead_code))]
pub(crate) fn local(mutex: &Mutex<()>) -> Result<MutexGuard<'_, ()>, SegmentError> {
    let mut guard = None;
    wait(|| {
        guard = match mutex.try_lock() {
            Ok(guard) => Some(guard),
            // It guards nothing that a panic could leave half done: what is in the segment is made for that.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        Ok(guard.is_some())
    })?;
    guard.ok_or(SegmentError::Busy)
}

/// Locks out the other processes.
pub(crate) fn of_object(file: &File) -> Result<(), SegmentError> {
    wait(|| match fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES | nix::Error::EINTR) => Ok(false),
        Err(error) => Err(SegmentError::io("cannot lock the shared-memory segment", error)),
    })
}

/// Gives the object's lock back.
pub(crate) fn release(file: &File) {
    // Nothing can be done about a failure, and none is known: the range is the one that was locked.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK)));
}

/// Takes a shared lock that says that somebody is there. It is another kind of lock than those above, and goes with the
/// descriptor.
pub(crate) fn show_presence(file: &File) {
    for _ in 0..PRESENCE_TRIES {
        // Whoever looks whether somebody holds it has it for a moment.
        match file.try_lock_shared() {
            Err(fs::TryLockError::WouldBlock) => std::thread::yield_now(),
            // Without the lock, who cannot be seen is not noticed.
            Ok(()) | Err(fs::TryLockError::Error(_)) => return,
        }
    }
}

/// Whether somebody has said so who is not the holder of this descriptor.
pub(crate) fn is_anybody_present(file: &File) -> bool {
    match file.try_lock() {
        Ok(()) => {
            let _ = file.unlock();
            false
        }
        Err(error) => matches!(error, fs::TryLockError::WouldBlock),
    }
}

/// A lock of this kind on the whole object.
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Asks until the answer is yes, for [`LOCK_WAIT`] at most.
pub(crate) fn wait(mut done: impl FnMut() -> Result<bool, SegmentError>) -> Result<(), SegmentError> {
    let start = Instant::now();
    loop {
        if done()? {
            return Ok(());
        }
        if start.elapsed() >= LOCK_WAIT {
            return Err(SegmentError::Busy);
        }
        std::thread::sleep(POLL);
    }
}
