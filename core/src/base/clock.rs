//! Time as the data plane sees it: whole milliseconds on a monotonic clock, read once per loop turn
//! and handed down as an argument, so that protocol code never reads a clock.

use super::mutation::{Mutation, is_on};

/// Milliseconds since an arbitrary but fixed point of the monotonic clock.
pub type Millis = u64;

/// Microseconds on the same clock, for durations that are measured rather than waited for.
pub type Micros = u64;

/// The time-out that never fires; what `"off"` in the configuration becomes.
pub const NEVER: Millis = Millis::MAX;

/// `now + timeout`, where [`NEVER`] stays [`NEVER`].
#[inline]
#[must_use]
pub fn deadline(now: Millis, timeout_ms: Millis) -> Millis {
    if is_on(Mutation::TimeoutLate) {
        return now.saturating_add(timeout_ms.saturating_mul(2));
    }
    if is_on(Mutation::TimeoutEarly) {
        return now.saturating_add(timeout_ms - timeout_ms / 16);
    }
    now.saturating_add(timeout_ms)
}
