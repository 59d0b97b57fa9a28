//! Adding up the records of any number of frames, entity by entity.

use std::sync::Arc;

use crate::core::{Core, frame_of};
use crate::frames::Owner;
use crate::histogram::BUCKETS;
use crate::layout::{FRAME_HEADER, FRAME_TABLE, FRAME_WORDS, MAX_SCHEMAS, RECORD_HEADER, entity_of, index};
use crate::schema::{Cell, Schema};
use crate::sync::{Ordering, fence};

/// The directory at one moment.
pub(crate) struct Directory {
    pub(crate) entities: Vec<Option<crate::directory::EntityState>>,
    pub(crate) schemas: Vec<Option<Arc<Schema>>>,
}

/// Buckets of a histogram that one worker or folded set holds, and what proves that they are still its.
pub(crate) struct Page {
    /// The cell that says where it is, counted from the record's first cell.
    pub(crate) cell: usize,
    at: usize,
    record: usize,
    reference: u64,
    frame_word: u64,
}

/// What was found of an entity.
pub(crate) struct Sum {
    pub(crate) cells: Vec<u64>,
    pub(crate) pages: Vec<Page>,
}

/// What was found of each entity of a directory.
pub(crate) struct Sums(pub(crate) Vec<Option<Sum>>);

/// Whose records are read.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// A folded set: everything that is not a gauge.
    Set,
    /// A process: entities that it has, gauges if it lives.
    Process { slot: usize, gauges: bool },
}

impl Core {
    pub(crate) fn directory(&self) -> Directory {
        Directory {
            entities: (0..self.entity_count()).map(|number| self.entity(number)).collect(),
            schemas: (0..MAX_SCHEMAS).map(|number| self.schema(number).map(Arc::new)).collect(),
        }
    }

    /// Adds the records of all frames whose owner is asked for.
    pub(crate) fn sum(&self, directory: &Directory, source: impl Fn(Owner) -> Option<Source>) -> Sums {
        let mut sums = Sums(Vec::new());
        sums.0.resize_with(directory.entities.len(), || None);
        let mut cells = Vec::new();
        for frame in self.usable_frames() {
            if let Some(source) = self.frame_owner(frame).and_then(&source) {
                self.sum_frame(directory, frame, source, &mut sums, &mut cells);
            }
        }
        sums
    }

    fn sum_frame(
        &self,
        directory: &Directory,
        frame: usize,
        source: Source,
        sums: &mut Sums,
        cells: &mut Vec<u64>,
    ) {
        let end = frame * FRAME_WORDS + crate::arena::used(self, frame);
        let frame_word = self.frame_word(frame);
        let mut record = frame * FRAME_WORDS + FRAME_HEADER;
        while record + RECORD_HEADER < end {
            let size = index(self.load(record + 1));
            // Records have cells and lie within their frame; anything else is no record of ours.
            if size == 0 || size > end - record - RECORD_HEADER {
                return;
            }
            let start = record + RECORD_HEADER;
            if let Some((number, schema, reference)) = self.identify(directory, record, size, source) {
                cells.clear();
                cells.extend(self.range(start, size).iter().map(|cell| cell.load(Ordering::Relaxed)));
                fence(Ordering::Acquire);
                if self.peek(record) == reference {
                    let sum =
                        sums.0[number].get_or_insert_with(|| Sum { cells: vec![0; size], pages: Vec::new() });
                    let page = Page { cell: 0, at: 0, record, reference, frame_word };
                    sum.add(self, schema, source, cells, &page);
                }
            }
            record = start + size;
        }
    }

    /// Number and schema of the entity that a record counts, if it is to be counted.
    fn identify<'a>(
        &self,
        directory: &'a Directory,
        record: usize,
        size: usize,
        source: Source,
    ) -> Option<(usize, &'a Schema, u64)> {
        let reference = self.load(record);
        let (number, generation) = entity_of(reference)?;
        let entity = directory.entities.get(number)?.as_ref()?;
        let schema = directory.schemas.get(entity.schema)?.as_deref()?;
        let owned = match source {
            Source::Set => true,
            Source::Process { slot, .. } => entity.owners >> slot & 1 == 1,
        };
        (owned && entity.generation == generation && schema.cells.len() == size)
            .then_some((number, schema, reference))
    }

    /// Adds the buckets of a page; nothing if its record has been given to another entity.
    pub(crate) fn add_page(&self, page: &Page, buckets: &mut [u64; BUCKETS], add: impl Fn(u64, u64) -> u64) {
        let mut copy = [0; BUCKETS];
        for (copy, bucket) in copy.iter_mut().zip(self.range(page.at, BUCKETS)) {
            *copy = bucket.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        if self.peek(page.record) == page.reference {
            for (sum, n) in buckets.iter_mut().zip(copy) {
                *sum = add(*sum, n);
            }
        }
    }
}

impl Sum {
    fn add(&mut self, core: &Core, schema: &Schema, source: Source, cells: &[u64], page: &Page) {
        let with_gauges = matches!(source, Source::Process { gauges: true, .. });
        for (position, (kind, cell)) in schema.cells.iter().zip(cells).enumerate() {
            match kind {
                Cell::Sum => self.cells[position] = self.cells[position].wrapping_add(*cell),
                Cell::Gauge if with_gauges => self.cells[position] = self.cells[position].wrapping_add(*cell),
                // Only a page in a frame of the same owner is one, and only that is sure to have memory behind it.
                Cell::Page
                    if *cell != 0
                        && index(*cell) % FRAME_WORDS <= FRAME_WORDS - BUCKETS
                        && frame_of(*cell) < core.frames
                        && core.peek(FRAME_TABLE + frame_of(*cell)) == page.frame_word =>
                {
                    self.pages.push(Page { cell: position, at: index(*cell), ..*page });
                }
                Cell::Gauge | Cell::Page => {}
            }
        }
    }
}
