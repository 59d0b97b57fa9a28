//! Totals that were counted in another segment, and go on here.

use std::collections::HashMap;

use crate::histogram::BUCKETS;
use crate::layout::{LINE, PAGE_WORDS, index};
use crate::metric::Kind;
use crate::snapshot::{Entity, HistogramValue, Value};
use crate::stripe::{Stripe, StripeInner};
use crate::sync::Ordering;

/// Where a process keeps what another one has counted in a segment of its own. To a reader it is like anything else that
/// this process counts, and it is folded with that.
#[derive(Debug)]
pub struct Totals {
    stripe: Stripe,
    /// Cells by entity.
    records: HashMap<u64, usize>,
}

impl Totals {
    /// A number that no worker has.
    pub(crate) const WORKER: u32 = u16::MAX as u32 - 1;
    /// Another one, for what nobody else will ever say again.
    pub(crate) const INHERITANCE: u32 = u16::MAX as u32 - 2;

    pub(crate) fn new(stripe: Stripe) -> Self {
        Self { stripe, records: HashMap::new() }
    }

    /// Counters and histograms are what is said here, instead of what was said before; what is not mentioned stays, gauges
    /// are passed over. For the control path, like registering.
    pub fn set(&mut self, entities: &[Entity]) {
        let Some(stripe) = self.stripe.inner() else { return };
        for entity in entities {
            let info = &*entity.scope;
            if entity.labels.len() != info.labels.len() || entity.values.len() != info.metrics.len() {
                continue;
            }
            let labels: Vec<&str> = entity.labels.iter().map(String::as_str).collect();
            let reference = stripe.register_info(info, &labels);
            let known = self.records.get(&reference).copied();
            if reference == 0 {
                continue;
            }
            let Some(start) = known.or_else(|| stripe.record(reference, info.cells())) else {
                stripe.overflow(&info.name);
                continue;
            };
            self.records.insert(reference, start);
            let mut cell = start;
            for (metric, value) in info.metrics.iter().zip(&entity.values) {
                match (metric.kind, value) {
                    (Kind::Counter, Value::Counter(n)) => stripe.core().store(cell, *n),
                    (Kind::Histogram, Value::Histogram(value)) => set_histogram(stripe, cell, value),
                    _ => {}
                }
                cell += metric.kind.cells();
            }
        }
    }
}

fn set_histogram(stripe: &StripeInner, cell: usize, value: &HistogramValue) {
    let core = stripe.core();
    core.store(cell, value.count);
    core.store(cell + 1, value.sum);
    let mut page = core.load(cell + 2);
    if page == 0 && !value.buckets.is_empty() {
        page = stripe.page();
        core.store(cell + 2, page);
    }
    // No page, or no room for one.
    let Some([touched, buckets @ ..]) = core.words().get(index(page)..index(page).wrapping_add(PAGE_WORDS))
    else {
        return;
    };
    if page == 0 {
        return;
    }
    let mut lines = touched.load(Ordering::Relaxed);
    for (bucket, n) in &value.buckets {
        let bucket = usize::from(*bucket).min(BUCKETS - 1);
        lines |= 1 << (bucket / LINE);
        if let Some(cell) = buckets.get(bucket) {
            cell.store(*n, Ordering::Relaxed);
        }
    }
    touched.store(lines, Ordering::Relaxed);
}
