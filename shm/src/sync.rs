//! Atomics and locks: those of `std`, or loom's when the model is checked.

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering, fence},
};

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering, fence},
};

/// Locks a mutex of `std`. What a panicking holder left is a value as good as any: nothing is guarded but memory of
/// our own that is always complete.
#[allow(unused_qualifications)] // loom's is another one
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
