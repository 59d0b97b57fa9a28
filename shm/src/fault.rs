//! Places where a test may end the process, as a signal might, and where the model changes threads.

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

/// To loom, every point conflicts with every other, so that it tries them in every order: it would not see that a load
/// in one thread conflicts with a store in another that loads the same word before it stores.
#[cfg(all(test, loom))]
pub(crate) fn point() {
    loom::lazy_static! {
        static ref ORDER: loom::sync::atomic::AtomicUsize = loom::sync::atomic::AtomicUsize::new(0);
    }
    ORDER.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
}

#[cfg(not(test))]
pub(crate) fn point() {}
