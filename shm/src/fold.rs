//! Folding: what dead processes counted goes into a set that no process owns.
//!
//! There are two such sets, and the lowest bit of the root word says which one counts. A fold builds the other one from
//! scratch, with a list of the processes that are in it, and then switches by one store. Whoever folds may die anywhere:
//! before the switch nothing has happened, after it the list says who is in, and the rest is tidying up, which can be
//! done any number of times.

use crate::arena::Arena;
use crate::core::Locked;
use crate::error::SegmentError;
use crate::frames::{Owner, active_set};
use crate::histogram::BUCKETS;
use crate::layout::{MAX_SCHEMAS, RECORD_PAGE, SLOTS, entity_reference, header, included};
use crate::ownership::{Unowned, inherit, unowned};
use crate::processes::Slot;
use crate::schema::Cell;
use crate::sums::{Directory, Source, Sum, Sums};
use crate::sync::{Ordering, fence};

/// How a new set differs from what it is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    /// The sum.
    Sum,
    /// The sum, without the buckets of histograms, for which there is no room.
    WithoutBuckets,
    /// What must be added so that all sums are 0.
    Negative,
}

impl Locked<'_> {
    /// Folds all dead processes and gives up entities that nobody has. Returns how many processes were folded.
    pub(crate) fn fold(&self) -> Result<usize, SegmentError> {
        let slots = self.slots();
        let root = self.root();
        let is_included = |slot: &Slot| self.load(included(root, slot.number)) == u64::from(slot.incarnation);
        let dead: Vec<&Slot> = slots.iter().filter(|slot| !slot.process.alive).collect();
        let fresh: Vec<&Slot> = dead.iter().copied().filter(|slot| !is_included(slot)).collect();
        let directory = self.directory();
        let unowned = unowned(self, &directory, &slots);
        if !fresh.is_empty() || !unowned.moved.is_empty() {
            let source = |owner| match owner {
                Owner::Process { slot, incarnation, .. } => fresh
                    .iter()
                    .any(|dead| dead.number == usize::from(slot) && dead.incarnation == incarnation)
                    .then_some(Source::Process { slot: usize::from(slot), gauges: false }),
                set => (set == active_set(root)).then_some(Source::Set),
            };
            let mut sums = self.sum(&directory, source);
            inherit(&directory, &unowned, &mut sums);
            self.switch(root, &directory, &sums, &fresh, &[Build::Sum, Build::WithoutBuckets])?;
        }
        self.tidy(&dead, &directory, &unowned);
        Ok(fresh.len())
    }

    /// Makes all counters and histograms 0, without writing to anything that a process counts in.
    pub(crate) fn reset(&self) -> Result<(), SegmentError> {
        self.fold()?;
        let slots = self.slots();
        let directory = self.directory();
        let sums = self.sum(&directory, |owner| match owner {
            Owner::Process { slot, incarnation, .. } => slots
                .iter()
                .any(|live| live.number == usize::from(slot) && live.incarnation == incarnation)
                .then_some(Source::Process { slot: usize::from(slot), gauges: false }),
            _ => None,
        });
        self.switch(self.root(), &directory, &sums, &[], &[Build::Negative])?;
        self.tidy(&[], &directory, &Unowned::default());
        Ok(())
    }

    /// Builds the set that does not count, in the first way for which there is room, and lets it count.
    fn switch(
        &self,
        root: u64,
        directory: &Directory,
        sums: &Sums,
        dead: &[&Slot],
        ways: &[Build],
    ) -> Result<(), SegmentError> {
        let next = active_set(root.wrapping_add(1));
        let built = ways.iter().any(|build| {
            self.free_frames(|owner| owner == next);
            self.build(next, directory, sums, *build).is_some()
        });
        if !built {
            self.free_frames(|owner| owner == next);
            self.add(header::OVERFLOWS, 1);
            return Err(SegmentError::Full { what: "the counters of a process that is gone" });
        }
        for slot in 0..SLOTS {
            let incarnation = dead
                .iter()
                .find(|dead| dead.number == slot)
                .map_or_else(|| self.load(included(root, slot)), |dead| u64::from(dead.incarnation));
            self.store(included(root.wrapping_add(1), slot), incarnation);
            crate::fault::point();
        }
        self.store(header::ROOT, root.wrapping_add(1));
        // Who sees a frame of the old set, or of the dead, in another use also sees the new root.
        fence(Ordering::Release);
        crate::fault::point();
        Ok(())
    }

    fn build(&self, set: Owner, directory: &Directory, sums: &Sums, build: Build) -> Option<()> {
        let mut arena = Arena::new(set);
        for (number, sum) in sums.0.iter().enumerate() {
            let (Some(sum), Some(entity)) = (sum, &directory.entities[number]) else { continue };
            let Some(schema) = &directory.schemas[entity.schema] else { continue };
            let reference = entity_reference(number, entity.generation);
            let start = arena.allocate(self, reference, sum.cells.len())?;
            crate::fault::point();
            for (position, kind) in schema.cells.iter().enumerate() {
                let value = match kind {
                    Cell::Sum if build == Build::Negative => sum.cells[position].wrapping_neg(),
                    Cell::Sum => sum.cells[position],
                    Cell::Page if build != Build::WithoutBuckets => {
                        self.build_page(&mut arena, sum, position, build)?
                    }
                    Cell::Gauge | Cell::Page => 0,
                };
                if value != 0 {
                    self.store(start + position, value);
                }
            }
            crate::fault::point();
        }
        Some(())
    }

    /// Makes the buckets of one histogram and returns where they are; 0 if there are none.
    fn build_page(&self, arena: &mut Arena, sum: &Sum, position: usize, build: Build) -> Option<u64> {
        let mut buckets = [0; BUCKETS];
        let mut any = false;
        for page in sum.pages.iter().filter(|page| page.cell == position) {
            any = true;
            self.add_page(page, &mut buckets, u64::wrapping_add);
        }
        if !any {
            return Some(0);
        }
        let start = arena.allocate(self, RECORD_PAGE, BUCKETS)?;
        for (bucket, n) in buckets.iter().enumerate().filter(|(_, n)| **n != 0) {
            self.store(start + bucket, if build == Build::Negative { n.wrapping_neg() } else { *n });
        }
        Some(start as u64)
    }

    /// Frees what the root does not lead to any more. Finds the same work again if it is cut short.
    fn tidy(&self, dead: &[&Slot], directory: &Directory, unowned: &Unowned) {
        let active = active_set(self.root());
        let slots = self.slots();
        let lives = |number: u8, incarnation: u32| {
            slots.iter().any(|slot| {
                slot.number == usize::from(number)
                    && slot.incarnation == incarnation
                    && !dead.iter().any(|dead| dead.number == slot.number)
            })
        };
        self.free_frames(|owner| match owner {
            Owner::Process { slot, incarnation, .. } => !lives(slot, incarnation),
            Owner::Set(_) => owner != active,
            _ => false,
        });
        for slot in dead {
            for (number, entity) in directory.entities.iter().enumerate() {
                if let Some(entity) = entity {
                    self.disown(number, entity.generation, slot.number);
                }
            }
            crate::fault::point();
            self.leave(slot.number);
            crate::fault::point();
        }
        for number in unowned.numbers() {
            if let Some(entity) = &directory.entities[number] {
                self.drop_entity(number, entity.generation);
            }
        }
        let mut used = [false; MAX_SCHEMAS];
        for number in 0..self.entity_count() {
            if let Some(entity) = self.entity(number) {
                used[entity.schema] = true;
            }
        }
        self.collect_schemas(&used);
        self.collect_entity_frames();
    }
}
