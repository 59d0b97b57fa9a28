//! Reading a segment: every value, summed over everybody who counted, without a lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::core::{Core, now_ms};
use crate::frames::{Owner, active_set};
use crate::layout::{FRAME_BYTES, header, included, lower};
use crate::metric::Kind;
use crate::ownership::unowned;
use crate::processes::Slot;
use crate::schema::Schema;
use crate::snapshot::{Entity, HistogramValue, ScopeInfo, Share, Snapshot, Value};
use crate::sums::{Buckets, Directory, Source, Sum, Sums};
use crate::sync::{Ordering, fence};
use crate::totals::Totals;

/// Reads that a fold may spoil before the lock is taken to get one.
const TRIES: usize = 8;

/// What a reader wants.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Names of scopes of which it wants the share of each worker of each live process, too.
    pub shares_of: Vec<String>,
}

impl Core {
    pub(crate) fn snapshot(&self, options: &ReadOptions) -> Snapshot {
        self.snapshot_of(options, |_| true)
    }

    pub(crate) fn counted_here(&self) -> Vec<Entity> {
        self.snapshot_of(&ReadOptions::default(), |worker| u32::from(worker) != Totals::WORKER).entities
    }

    /// A snapshot of what these workers have counted.
    fn snapshot_of(&self, options: &ReadOptions, wanted: impl Fn(u16) -> bool) -> Snapshot {
        for _ in 0..TRIES {
            if let Some(snapshot) = self.try_snapshot(options, &wanted) {
                return snapshot;
            }
        }
        // Folds one after the other: wait for the last. Should its holder be stuck, nothing changes meanwhile.
        let _lock = self.lock();
        self.try_snapshot(options, &wanted).unwrap_or_default()
    }

    /// `None` if the root was switched meanwhile.
    fn try_snapshot(&self, options: &ReadOptions, wanted: impl Fn(u16) -> bool) -> Option<Snapshot> {
        let root = self.root();
        crate::fault::point();
        let slots = self.slots();
        let counted = |slot: usize, incarnation: u32| {
            let found = slots.iter().find(|s| s.number == slot && s.incarnation == incarnation)?;
            (self.load(included(root, slot)) != u64::from(incarnation)).then_some(found)
        };
        let directory = self.directory();
        let sums = self.sum(&directory, |owner| match owner {
            Owner::Process { slot, worker, incarnation } => {
                let slot = counted(usize::from(slot), incarnation).filter(|_| wanted(worker))?;
                Some(Source::Process { slot: slot.number, gauges: slot.process.alive })
            }
            set => (set == active_set(root)).then_some(Source::Set),
        });
        let mut reader = Reader {
            core: self,
            directory: &directory,
            names: HashMap::new(),
            buckets: RefCell::new(Buckets::new()),
        };
        let hidden = unowned(self, &directory, &slots).dropped;
        let entities = reader.entities(&sums, true, |number, _| hidden.binary_search(&number).is_err());
        let shares = if options.shares_of.is_empty() { Vec::new() } else { reader.shares(&slots, options) };
        crate::fault::point();
        fence(Ordering::Acquire);
        if self.peek(header::ROOT) != root {
            return None;
        }
        Some(Snapshot {
            processes: slots.into_iter().map(|slot| slot.process).collect(),
            entities,
            shares,
            first_started_ms: self.load(header::FIRST_STARTED_MS),
            read_at_ms: now_ms(),
            hot_restart_version: lower(self.load(header::HOT_RESTART_VERSION)),
            layout_version: lower(self.load(header::LAYOUT_VERSION)),
            memory: (self.frames_held() * FRAME_BYTES, self.words().len() as u64 * 8),
            overflows: self.load(header::OVERFLOWS),
            generations: self.load(header::GENERATIONS),
        })
    }
}

struct Reader<'a> {
    core: &'a Core,
    directory: &'a Directory,
    /// What all schemas of a scope have together, by its name.
    names: HashMap<String, Arc<ScopeInfo>>,
    buckets: RefCell<Buckets>,
}

impl Reader<'_> {
    /// Entities with their values, in order. Those without a record are listed with zeroes if `all` is set.
    fn entities(
        &mut self,
        sums: &Sums,
        all: bool,
        wanted: impl Fn(usize, &ScopeInfo) -> bool,
    ) -> Vec<Entity> {
        self.merge_schemas();
        let mut found: Vec<Entity> = Vec::with_capacity(self.directory.entities.len());
        for (number, entity) in self.directory.entities.iter().enumerate() {
            let Some(entity) = entity else { continue };
            let Some(Some(schema)) = self.directory.schemas.get(entity.schema) else { continue };
            let sum = sums.0.get(number).and_then(Option::as_ref);
            if (sum.is_none() && !all) || !wanted(number, &schema.info) {
                continue;
            }
            let Some(labels) = self.core.labels(number, entity.generation) else { continue };
            let Some(scope) = self.names.get(&schema.info.name) else { continue };
            let own = self.values(schema, sum);
            let values = if *scope == schema.info { own } else { rearrange(scope, &schema.info, own) };
            found.push(Entity { scope: Arc::clone(scope), labels, values });
        }
        found.sort_by(|a, b| (&a.scope.name, &a.labels).cmp(&(&b.scope.name, &b.labels)));
        // The same thing under two schemas: an old and a new program count it.
        found.dedup_by(|second, first| {
            let same = first.scope.name == second.scope.name && first.labels == second.labels;
            if same {
                for (value, other) in first.values.iter_mut().zip(&second.values) {
                    merge(value, other);
                }
            }
            same
        });
        found
    }

    /// For each name of a scope, the newest schema and what older ones have beside it.
    fn merge_schemas(&mut self) {
        if !self.names.is_empty() {
            return;
        }
        let mut schemas: Vec<_> = self.directory.schemas.iter().flatten().collect();
        schemas.sort_by_key(|schema| std::cmp::Reverse(schema.age));
        for schema in schemas {
            let Some(newest) = self.names.get_mut(&schema.info.name) else {
                self.names.insert(schema.info.name.clone(), Arc::clone(&schema.info));
                continue;
            };
            let missing: Vec<_> = schema
                .info
                .metrics
                .iter()
                .filter(|metric| newest.metrics.iter().all(|known| known.name != metric.name))
                .cloned()
                .collect();
            if !missing.is_empty() {
                Arc::make_mut(newest).metrics.extend(missing);
            }
        }
    }

    fn values(&self, schema: &Schema, sum: Option<&Sum>) -> Vec<Value> {
        let mut position = 0;
        let mut next = || {
            position += 1;
            sum.and_then(|sum| sum.cells.get(position - 1)).copied().unwrap_or(0)
        };
        let mut values = Vec::with_capacity(schema.info.metrics.len());
        let mut cell = 0;
        for metric in &schema.info.metrics {
            values.push(match metric.kind {
                Kind::Counter => Value::Counter(next()),
                Kind::Gauge => Value::Gauge(next()),
                Kind::Histogram => {
                    let (count, total, _) = (next(), next(), next());
                    let buckets = sum.map_or_else(Vec::new, |sum| self.buckets(sum, cell + 2));
                    Value::Histogram(HistogramValue { count, sum: total, buckets })
                }
            });
            cell += if metric.kind == Kind::Histogram { 3 } else { 1 };
        }
        values
    }

    fn buckets(&self, sum: &Sum, cell: usize) -> Vec<(u16, u64)> {
        let mut found = Vec::new();
        let buckets = &mut *self.buckets.borrow_mut();
        for page in sum.pages.iter().filter(|page| page.cell == cell) {
            self.core.add_page(page, buckets);
        }
        buckets.take(|bucket, n| found.extend(u16::try_from(bucket).map(|bucket| (bucket, n))));
        found
    }

    /// What each worker of each live process counted in some scopes.
    fn shares(&mut self, slots: &[Slot], options: &ReadOptions) -> Vec<Share> {
        let mut workers: Vec<(u8, u32, u16)> = Vec::new();
        for frame in self.core.usable_frames() {
            if let Some(Owner::Process { slot, worker, incarnation }) = self.core.frame_owner(frame) {
                workers.push((slot, incarnation, worker));
            }
        }
        workers.sort_unstable_by_key(|(slot, incarnation, worker)| (*incarnation, *slot, *worker));
        workers.dedup();
        let mut shares = Vec::new();
        for (slot, incarnation, worker) in workers {
            let is_it = |s: &&Slot| s.number == usize::from(slot) && s.incarnation == incarnation;
            let Some(found) = slots.iter().find(is_it).filter(|s| s.process.alive) else { continue };
            let sums = self.core.sum(self.directory, |owner| {
                (owner == Owner::Process { slot, worker, incarnation })
                    .then_some(Source::Process { slot: found.number, gauges: true })
            });
            let entities = self.entities(&sums, false, |_, scope| options.shares_of.contains(&scope.name));
            shares.push(Share { pid: found.process.pid, worker: u32::from(worker), entities });
        }
        shares
    }
}

/// Values in the order of another schema of the same scope; what is missing, or of another kind, is zero.
fn rearrange(to: &ScopeInfo, from: &ScopeInfo, values: Vec<Value>) -> Vec<Value> {
    let mut by_name: HashMap<&str, Value> =
        from.metrics.iter().map(|metric| metric.name.as_str()).zip(values).collect();
    to.metrics
        .iter()
        .map(|metric| {
            let zero = match metric.kind {
                Kind::Counter => Value::Counter(0),
                Kind::Gauge => Value::Gauge(0),
                Kind::Histogram => Value::Histogram(HistogramValue::default()),
            };
            match by_name.remove(metric.name.as_str()) {
                Some(value) if std::mem::discriminant(&value) == std::mem::discriminant(&zero) => value,
                _ => zero,
            }
        })
        .collect()
}

/// Adds one value to another of the same metric.
fn merge(value: &mut Value, other: &Value) {
    match (value, other) {
        (Value::Counter(value), Value::Counter(other)) | (Value::Gauge(value), Value::Gauge(other)) => {
            *value = value.wrapping_add(*other);
        }
        (Value::Histogram(value), Value::Histogram(other)) => {
            value.count = value.count.wrapping_add(other.count);
            value.sum = value.sum.wrapping_add(other.sum);
            let mut buckets: std::collections::BTreeMap<u16, u64> = value.buckets.drain(..).collect();
            for (bucket, n) in &other.buckets {
                let sum = buckets.entry(*bucket).or_default();
                *sum = sum.wrapping_add(*n);
            }
            value.buckets = buckets.into_iter().filter(|(_, n)| *n != 0).collect();
        }
        _ => {}
    }
}
