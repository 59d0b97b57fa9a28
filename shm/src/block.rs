//! The cells of one entity in one worker's stripe.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use crate::histogram;
use crate::layout::index;
use crate::metric::{CounterId, GaugeId, HistogramId, Scope};
use crate::stripe::{StripeInner, cells_of};
use crate::sync::{AtomicU64, Ordering};

/// Position of a histogram's sum, and of where its buckets are, behind its count.
const SUM: u16 = 1;
const PAGE: u16 = 2;

/// The cells that one worker counts an entity of the scope `S` in. It is the only writer of these cells, so counting is
/// a plain load, add and store. Cloning gives another handle for the same cells, in the same thread.
///
/// With the feature `no-counting` nothing is counted, which is for measuring what counting costs.
pub struct Block<S: Scope> {
    /// As many as the scope has; in the memory that `home` keeps.
    cells: NonNull<AtomicU64>,
    home: Rc<Home<S>>,
}

struct Home<S: Scope> {
    memory: HomeMemory,
    retired: Cell<bool>,
    _scope: PhantomData<fn() -> S>,
}

enum HomeMemory {
    Detached { _cells: Box<[AtomicU64]> },
    Stripe { stripe: Arc<StripeInner>, start: usize, reference: u64 },
}

impl<S: Scope> Clone for Block<S> {
    #[inline]
    fn clone(&self) -> Self {
        Self { cells: self.cells, home: Rc::clone(&self.home) }
    }
}

impl<S: Scope> Block<S> {
    /// Cells that no reader sees: what is counted when the segment has no room, and in tests of other things.
    #[must_use]
    pub fn detached() -> Self {
        // One more, so that a scope without metrics has an address too.
        let cells: Box<[AtomicU64]> = (0..=cells_of::<S>()).map(|_| AtomicU64::new(0)).collect();
        let start = NonNull::from(&cells[0]);
        Self::new(start, HomeMemory::Detached { _cells: cells })
    }

    pub(crate) fn in_stripe(stripe: &Arc<StripeInner>, start: usize, reference: u64) -> Self {
        // The arena has checked it; the slice says so once more, because the proof below rests on it.
        let Some(cells) = stripe.core().words().get(start..start + cells_of::<S>()) else {
            return Self::detached();
        };
        let Some(first) = cells.first() else { return Self::detached() };
        Self::new(NonNull::from(first), HomeMemory::Stripe { stripe: Arc::clone(stripe), start, reference })
    }

    fn new(cells: NonNull<AtomicU64>, memory: HomeMemory) -> Self {
        let home = Home { memory, retired: Cell::new(false), _scope: PhantomData };
        Self { cells, home: Rc::new(home) }
    }

    /// Clones of the same block.
    #[cfg(test)]
    pub(crate) fn home_count(&self) -> usize {
        Rc::strong_count(&self.home)
    }

    pub(crate) fn retire(self) {
        self.home.retired.set(true);
    }

    #[inline(always)]
    fn cell(&self, n: u16) -> &AtomicU64 {
        // SAFETY: `cells` points to `cells_of::<S>()` words, checked when the block was made. `n` is below that: it comes
        // from an identifier of this scope, which only `at` makes, for a metric that the table has (or it is one of the
        // two behind the first cell of a histogram, which has three). The words live as long as `home`, which keeps the
        // box, or the stripe and with it the mapping; `self` keeps `home`.
        unsafe { self.cells.add(usize::from(n)).as_ref() }
    }

    #[inline(always)]
    fn change(&self, n: u16, change: impl Fn(u64) -> u64) {
        if cfg!(feature = "no-counting") {
            return;
        }
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
        if cfg!(feature = "no-counting") {
            return;
        }
        self.change(id.0, |count| count.wrapping_add(1));
        self.change(id.0 + SUM, |sum| sum.wrapping_add(value));
        let HomeMemory::Stripe { stripe, .. } = &self.home.memory else { return };
        let mut page = self.cell(id.0 + PAGE).load(Ordering::Relaxed);
        if page == 0 {
            page = self.make_page(stripe, id);
        }
        // The cell is in shared memory, so it is not trusted to point into it.
        if let Some(bucket) = stripe.core().words().get(index(page).wrapping_add(histogram::bucket(value))) {
            bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    #[cold]
    fn make_page(&self, stripe: &StripeInner, id: HistogramId<S>) -> u64 {
        let page = stripe.page();
        self.cell(id.0 + PAGE).store(page, Ordering::Release);
        page
    }
}

impl<S: Scope> Drop for Home<S> {
    fn drop(&mut self) {
        if let (true, HomeMemory::Stripe { stripe, start, reference }) = (self.retired.get(), &self.memory) {
            stripe.give_back::<S>(*start, *reference);
        }
    }
}

impl<S: Scope> std::fmt::Debug for Block<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("scope", &S::NAME).finish_non_exhaustive()
    }
}
