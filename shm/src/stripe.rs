//! The cells of one worker of one process.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use crate::arena::Arena;
use crate::block::Block;
use crate::core::Core;
use crate::frames::Owner;
use crate::layout::{PAGE_WORDS, RECORD_HEADER, RECORD_PAGE, entity_of, index};
use crate::member::{EntityId, Joined};
use crate::metric::{Kind, Scope, cells_before};
use crate::snapshot::ScopeInfo;
use crate::sync::{Ordering, fence, lock};

/// Retired records that are looked at to find one that can be used again.
const LOOKS: usize = 8;

/// Where one worker counts. It can be moved to the worker's thread, but not be shared.
pub struct Stripe {
    inner: Option<Arc<StripeInner>>,
    _not_shared: PhantomData<Cell<()>>,
}

pub(crate) struct StripeInner {
    joined: Arc<Joined>,
    space: Mutex<Space>,
}

/// The stripe's part of the segment. The mutex around it is only ever taken by the thread that counts.
struct Space {
    arena: Arena,
    /// Records without a block by their entity: a new block of the same entity goes on counting there.
    retired: HashMap<u64, Retired>,
    /// Entities of retired records by their number of cells, the longest retired first.
    by_size: HashMap<usize, VecDeque<u64>>,
    /// Buckets of no histogram.
    pages: Vec<usize>,
}

struct Retired {
    start: usize,
    pages: Vec<usize>,
}

/// Cells of a scope.
pub(crate) const fn cells_of<S: Scope>() -> usize {
    cells_before(S::METRICS, S::METRICS.len())
}

impl Stripe {
    pub(crate) fn new(joined: Arc<Joined>, worker: u32) -> Self {
        let owner = Owner::Process {
            slot: u8::try_from(joined.slot).unwrap_or(u8::MAX),
            worker: u16::try_from(worker).unwrap_or(u16::MAX),
            incarnation: joined.incarnation,
        };
        let space = Space {
            arena: Arena::new(owner),
            retired: HashMap::new(),
            by_size: HashMap::new(),
            pages: Vec::new(),
        };
        let inner = StripeInner { joined, space: Mutex::new(space) };
        Self { inner: Some(Arc::new(inner)), _not_shared: PhantomData }
    }

    /// A stripe that nobody reads: all its blocks are detached.
    #[must_use]
    pub const fn detached() -> Self {
        Self { inner: None, _not_shared: PhantomData }
    }

    /// Cells to count an entity in; detached ones when there is no room, which is counted and reported once.
    #[must_use]
    pub fn block<S: Scope>(&self, entity: EntityId<S>) -> Block<S> {
        let Some(inner) = &self.inner else { return Block::detached() };
        if entity.reference == 0 {
            return Block::detached();
        }
        let cells = cells_of::<S>();
        match inner.record(entity.reference, cells) {
            Some(start) => Block::in_stripe(inner, start, entity.reference),
            None => {
                inner.joined.overflow(&format!("{entity:?}"));
                Block::detached()
            }
        }
    }

    pub(crate) fn inner(&self) -> Option<&StripeInner> {
        self.inner.as_deref()
    }

    /// Gives cells back: once the last clone of the block is gone and this process has the entity no more, they are used
    /// for others. What was counted in them stays until then.
    pub fn retire<S: Scope>(&self, block: Block<S>) {
        block.retire();
    }
}

impl StripeInner {
    pub(crate) fn core(&self) -> &Core {
        &self.joined.segment.core
    }

    pub(crate) fn register_info(&self, info: &ScopeInfo, labels: &[&str]) -> u64 {
        self.joined.register_info(info, labels)
    }

    /// Counts something that found no room.
    pub(crate) fn overflow(&self, what: &str) {
        self.joined.overflow(what);
    }

    /// Finds cells for an entity: those that it had, those of one that is gone, or new ones.
    pub(crate) fn record(&self, reference: u64, cells: usize) -> Option<usize> {
        let core = self.core();
        let mut space = lock(&self.space);
        if let Some(retired) = space.retired.remove(&reference) {
            return Some(retired.start);
        }
        if let Some(retired) = space.reusable(core, self.joined.slot, cells) {
            let record = retired.start - RECORD_HEADER;
            core.store(record, 0);
            // A reader that sees a cell of what follows also sees that the record has changed.
            fence(Ordering::Release);
            for cell in core.range(retired.start, cells) {
                cell.store(0, Ordering::Relaxed);
            }
            space.pages.extend(retired.pages);
            core.store(record, reference);
            return Some(retired.start);
        }
        space.arena.allocate(core, reference, cells)
    }

    /// Remembers a record that has no block any more.
    pub(crate) fn give_back<S: Scope>(&self, start: usize, reference: u64) {
        let core = self.core();
        let mut space = lock(&self.space);
        let pages = (0..S::METRICS.len())
            .filter(|position| S::METRICS[*position].kind == Kind::Histogram)
            .map(|position| index(core.peek(start + cells_before(S::METRICS, position) + 2)))
            .filter(|page| *page != 0 && *page < core.words().len())
            .collect();
        if space.retired.insert(reference, Retired { start, pages }).is_none() {
            space.by_size.entry(cells_of::<S>()).or_default().push_back(reference);
        }
    }

    /// Makes the buckets of a histogram, and returns where they are; `u64::MAX` when there is no room.
    pub(crate) fn page(&self) -> u64 {
        let core = self.core();
        let mut space = lock(&self.space);
        if let Some(page) = space.pages.pop() {
            // Its old record has changed, and a reader that sees these zeroes sees that.
            fence(Ordering::Release);
            for bucket in core.range(page, PAGE_WORDS) {
                bucket.store(0, Ordering::Relaxed);
            }
            return page as u64;
        }
        let page = space.arena.allocate(core, RECORD_PAGE, PAGE_WORDS);
        drop(space);
        page.map_or_else(
            || {
                self.joined.overflow("the buckets of a histogram");
                u64::MAX
            },
            |page| page as u64,
        )
    }
}

impl Space {
    /// A retired record of this size whose entity this process has no more.
    fn reusable(&mut self, core: &Core, slot: usize, cells: usize) -> Option<Retired> {
        let waiting = self.by_size.get_mut(&cells)?;
        for _ in 0..LOOKS.min(waiting.len()) {
            let reference = waiting.pop_front()?;
            // Taken up again meanwhile, it is not in the map.
            if !self.retired.contains_key(&reference) {
                continue;
            }
            let had =
                entity_of(reference).is_some_and(|(number, generation)| core.has(number, generation, slot));
            if !had {
                return self.retired.remove(&reference);
            }
            waiting.push_back(reference);
        }
        None
    }
}

impl std::fmt::Debug for Stripe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stripe").field("detached", &self.inner.is_none()).finish()
    }
}
