//! Readiness of foreign descriptors for the control thread, whose runtime is tokio's.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Tells when `fd` is readable or writable. Works on a copy of the descriptor, so whoever uses it drops both together.
///
/// # Errors
/// When there are too many open files, or the runtime cannot watch this kind of file.
pub fn readiness(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = fd.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open, and stays the same descriptor, until it is dropped; the `AsyncFd` owns it.
    unsafe { AsyncFd::register(copy) }.map_err(Into::into)
}
