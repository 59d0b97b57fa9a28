//! Messages from other threads to a worker: a bounded queue and an eventfd that wakes the worker's ring.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Ring, TaskId};
use crate::base::limits;
use crate::base::slots::SlotId;

struct Shared<T> {
    queue: ArrayQueue<T>,
    event: EventFd,
    /// The event has been signalled and the worker has not looked since.
    signalled: AtomicBool,
}

/// The sending side; clone it to any thread.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Sender<T> {
    /// Queues a message and wakes the worker.
    ///
    /// # Errors
    /// Hands the message back when [`limits::MAILBOX_MESSAGES`] are waiting.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.0.queue.push(message)?;
        if !self.0.signalled.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is about to overflow, and then the worker is woken anyway.
            let _ = self.0.event.write(1);
        }
        Ok(())
    }
}

/// A mailbox before its worker has started.
pub struct Unbound<T>(Arc<Shared<T>>);

/// Makes a mailbox; the receiving side is bound to a ring in the worker's thread.
///
/// # Errors
/// When no eventfd can be had.
pub fn mailbox<T>() -> std::io::Result<(Sender<T>, Unbound<T>)> {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(limits::MAILBOX_MESSAGES),
        event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        signalled: AtomicBool::new(false),
    });
    Ok((Sender(Arc::clone(&shared)), Unbound(shared)))
}

impl<T> Unbound<T> {
    /// Receives on `ring`, on behalf of `task`.
    #[must_use]
    pub fn bind(self, ring: &Ring, task: TaskId) -> Mailbox<T> {
        let watch = ring.shared.driver.borrow_mut().watch(self.0.event.as_fd().as_raw_fd(), task);
        Mailbox { shared: self.0, ring: ring.clone(), watch }
    }
}

/// The receiving side.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
    ring: Ring,
    watch: SlotId,
}

impl<T> Mailbox<T> {
    /// The next message. The task of this mailbox is woken when one arrives after `None`.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        if let Some(message) = self.shared.queue.pop() {
            return Some(message);
        }
        // Nothing there: take the signal back, then look once more, for a sender may have come in between.
        if self.shared.signalled.swap(false, Ordering::AcqRel) {
            let _ = self.shared.event.read();
            return self.shared.queue.pop();
        }
        None
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        self.ring.shared.driver.borrow_mut().remove_watch(self.watch);
    }
}
