//! A process's place in a segment.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::directory::Index;
use crate::layout::{entity_of, header};
use crate::metric::Scope;
use crate::segment::Segment;
use crate::snapshot::{ProcessState, ScopeInfo};
use crate::stripe::Stripe;
use crate::sync::lock;
use crate::totals::Totals;

/// Reports that are kept until somebody takes them.
const MAX_REPORTS: usize = 16;

/// This process in a segment. Cloning gives another handle; when the last one, and the last stripe and block made from
/// them, is dropped, the process is gone from the segment's point of view.
#[derive(Clone)]
pub struct Membership {
    joined: Arc<Joined>,
}

pub(crate) struct Joined {
    pub(crate) segment: Segment,
    pub(crate) slot: usize,
    pub(crate) incarnation: u32,
    index: Mutex<Index>,
    has_reported: AtomicBool,
    reports: Mutex<Vec<String>>,
}

/// Names an entity of the scope `S` in this segment.
pub struct EntityId<S> {
    /// As in a record; 0 if it found no room.
    pub(crate) reference: u64,
    _scope: PhantomData<fn() -> S>,
}

impl<S> EntityId<S> {
    /// An entity that nobody reads: its blocks are detached.
    #[must_use]
    pub const fn detached() -> Self {
        Self { reference: 0, _scope: PhantomData }
    }
}

impl<S> Clone for EntityId<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for EntityId<S> {}

impl<S> PartialEq for EntityId<S> {
    fn eq(&self, other: &Self) -> bool {
        self.reference == other.reference
    }
}

impl<S> Eq for EntityId<S> {}

impl<S: Scope> std::fmt::Debug for EntityId<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?})", S::NAME, entity_of(self.reference))
    }
}

impl Membership {
    pub(crate) fn new(segment: Segment, slot: usize, incarnation: u32) -> Self {
        let joined = Joined {
            segment,
            slot,
            incarnation,
            index: Mutex::default(),
            has_reported: AtomicBool::new(false),
            reports: Mutex::default(),
        };
        Self { joined: Arc::new(joined) }
    }

    /// The segment that it is in.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.joined.segment
    }

    /// Says what this process does.
    pub fn set_state(&self, state: ProcessState) {
        self.joined.segment.core.set_state(self.joined.slot, self.joined.incarnation, state);
    }

    /// Says how many worker threads it has.
    pub fn set_workers(&self, workers: u32) {
        self.joined.segment.core.set_workers(self.joined.slot, workers);
    }

    /// Says which restart epoch it has.
    pub fn set_epoch(&self, epoch: u32) {
        self.joined.segment.core.set_epoch(self.joined.slot, epoch);
    }

    /// Finds or adds the entity with these labels, and notes that this process has it. For the control path: it takes
    /// the segment's lock, for up to a second if another process holds it.
    ///
    /// When there is no room or the lock cannot be had, the blocks of the entity are detached, which is counted and
    /// reported once.
    #[must_use]
    pub fn register<S: Scope>(&self, labels: &[&str]) -> EntityId<S> {
        debug_assert_eq!(labels.len(), S::LABELS.len(), "labels of {}", S::NAME);
        let joined = &self.joined;
        let mut index = lock(&joined.index);
        let reference = match joined.segment.core.lock() {
            Ok(locked) => {
                locked.register::<S>(&mut index, labels, joined.slot).ok_or_else(|| "no room".to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        drop(index);
        let reference = reference.unwrap_or_else(|why| {
            joined.overflow(&format!("{} {labels:?}: {why}", S::NAME));
            0
        });
        EntityId { reference, _scope: PhantomData }
    }

    /// Says that this process has an entity no more: what it counted of it is read no longer. If no other process has
    /// it either, it is gone.
    pub fn retire<S: Scope>(&self, entity: EntityId<S>) {
        let joined = &self.joined;
        let Some((number, generation)) = entity_of(entity.reference) else { return };
        let core = &joined.segment.core;
        if !core.has(number, generation, joined.slot) {
            return;
        }
        let mut index = lock(&joined.index);
        // Without the lock it is left for the next fold.
        let locked = core.lock();
        core.disown(number, generation, joined.slot);
        if let Ok(locked) = locked
            && core.entity(number).is_some_and(|entity| entity.owners == 0)
        {
            locked.forget(&mut index, number, generation);
        }
    }

    /// The cells of one worker. Each worker has one stripe and uses it from one thread.
    #[must_use]
    pub fn stripe(&self, worker: u32) -> Stripe {
        Stripe::new(Arc::clone(&self.joined), worker)
    }

    /// Room for totals that were counted elsewhere, by a process that may say them once more.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::new(self.stripe(Totals::WORKER))
    }

    /// Room for what was counted in a segment that nobody goes on with. It counts as this process's own: see
    /// [`Segment::counted_here`].
    #[must_use]
    pub fn inheritance(&self) -> Totals {
        Totals::new(self.stripe(Totals::INHERITANCE))
    }

    /// What has to be said in the log, once.
    #[must_use]
    pub fn take_reports(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.joined.reports))
    }
}

impl Joined {
    /// [`Membership::register`] for a scope that is only known by what is said of it; 0 if there is no room.
    pub(crate) fn register_info(&self, info: &ScopeInfo, labels: &[&str]) -> u64 {
        let mut index = lock(&self.index);
        let reference = match self.segment.core.lock() {
            Ok(locked) => {
                locked.register_info(&mut index, info, labels, self.slot).ok_or_else(|| "no room".to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        drop(index);
        reference.unwrap_or_else(|why| {
            self.overflow(&format!("{} {labels:?}: {why}", info.name));
            0
        })
    }

    /// Counts something that found no room; the first time, says so.
    pub(crate) fn overflow(&self, what: &str) {
        self.segment.core.add(header::OVERFLOWS, 1);
        if !self.has_reported.swap(true, Ordering::Relaxed) {
            let mut reports = lock(&self.reports);
            if reports.len() < MAX_REPORTS {
                reports.push(format!(
                    "not everything can be counted, because the shared-memory segment has no room for it \
                     (first: {what}); this is said once, and counted"
                ));
            }
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.segment.core.set_state(self.slot, self.incarnation, ProcessState::Gone);
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("slot", &self.joined.slot)
            .field("incarnation", &self.joined.incarnation)
            .finish_non_exhaustive()
    }
}
