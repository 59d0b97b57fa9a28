//! The cells of one entity in one worker's stripe.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram;
use crate::metric::{CounterId, GaugeId, HistogramId, Scope};

/// The cells that one worker counts an entity of the scope `S` in. It is the only writer of these cells, so counting is
/// a plain load, add and store. Cloning gives another handle for the same cells, in the same thread.
pub struct Block<S: Scope> {
    cells: std::rc::Rc<[AtomicU64]>,
    _scope: PhantomData<S>,
}

impl<S: Scope> Clone for Block<S> {
    fn clone(&self) -> Self {
        Self { cells: std::rc::Rc::clone(&self.cells), _scope: PhantomData }
    }
}

impl<S: Scope> Block<S> {
    /// Cells that no reader sees: what is counted when the segment has no room, and in tests of other things.
    #[must_use]
    pub fn detached() -> Self {
        Self {
            cells: (0..S::CELLS + histogram::BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            _scope: PhantomData,
        }
    }

    fn cell(&self, n: u16) -> &AtomicU64 {
        &self.cells[usize::from(n)]
    }

    fn change(&self, n: u16, change: impl Fn(u64) -> u64) {
        let cell = self.cell(n);
        cell.store(change(cell.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// Counts one.
    #[inline]
    pub fn inc(&self, id: CounterId<S>) {
        self.add(id, 1);
    }

    /// Counts `n`.
    #[inline]
    pub fn add(&self, id: CounterId<S>, n: u64) {
        self.change(id.0, |value| value.wrapping_add(n));
    }

    /// Raises a gauge. The sum over all workers is what counts: one worker may raise it and another lower it.
    #[inline]
    pub fn raise(&self, id: GaugeId<S>, n: u64) {
        self.change(id.0, |value| value.wrapping_add(n));
    }

    /// Lowers a gauge.
    #[inline]
    pub fn lower(&self, id: GaugeId<S>, n: u64) {
        self.change(id.0, |value| value.wrapping_sub(n));
    }

    /// Sets this worker's share of a gauge.
    #[inline]
    pub fn set(&self, id: GaugeId<S>, value: u64) {
        self.change(id.0, |_| value);
    }

    /// Sets this worker's share of a counter that is kept elsewhere and published here; must never decrease.
    #[inline]
    pub fn publish(&self, id: CounterId<S>, value: u64) {
        self.change(id.0, |_| value);
    }

    /// Adds a value to a distribution.
    #[inline]
    pub fn record(&self, id: HistogramId<S>, value: u64) {
        self.change(id.0, |count| count.wrapping_add(1));
        self.change(id.0 + 1, |sum| sum.wrapping_add(value));
    }
}

impl<S: Scope> std::fmt::Debug for Block<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("scope", &S::NAME).finish_non_exhaustive()
    }
}
