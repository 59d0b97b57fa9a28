//! Places where a test may end the process, as a signal might.

#[cfg(all(test, not(loom)))]
mod armed {
    use std::sync::atomic::{AtomicI64, Ordering};

    /// Points to pass until the end; below zero: never.
    static LEFT: AtomicI64 = AtomicI64::new(-1);

    /// Ends the process at the `n`-th point from here, counted from 0.
    pub(crate) fn arm(n: i64) {
        LEFT.store(n, Ordering::Relaxed);
    }

    /// Points that were not passed yet; negative once unarmed.
    pub(crate) fn left() -> i64 {
        LEFT.load(Ordering::Relaxed)
    }

    pub(crate) fn point() {
        if LEFT.load(Ordering::Relaxed) >= 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
            // Nothing is unwound and nothing flushed.
            std::process::abort();
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) use armed::{arm, left, point};

#[cfg(any(not(test), loom))]
pub(crate) fn point() {}
