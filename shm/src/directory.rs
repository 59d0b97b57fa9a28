//! The directory: which entities there are, and who has them.

use std::any::TypeId;
use std::collections::HashMap;

use crate::core::{Core, Locked};
use crate::frames::Owner;
use crate::layout::{
    ENTITIES_PER_FRAME, ENTITY_FRAMES, ENTITY_HEADER, ENTITY_WORDS, FRAME_WORDS, LABEL_BYTES, MAX_ENTITIES,
    MAX_ENTITY_FRAMES, MAX_SCHEMAS, checksum, entity_reference, header, index, lower, upper, word,
};
use crate::metric::Scope;
use crate::snapshot::ScopeInfo;
use crate::sync::{Ordering, fence};

/// Words of an entity: generation and whether it is in use; a bit for each process that has it; number of the schema
/// and of the labels; hash. Then the labels.
const STATE: usize = 0;
const OWNERS: usize = 1;
const SHAPE: usize = 2;
const HASH: usize = 3;

const IN_USE: u32 = 1;

/// An entity without its labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntityState {
    pub(crate) generation: u32,
    /// A bit for each slot of a process that has it.
    pub(crate) owners: u64,
    pub(crate) schema: usize,
}

/// What a process remembers of the directory so that registering need not search it.
#[derive(Default)]
pub(crate) struct Index {
    version: Option<u64>,
    by_hash: HashMap<u64, usize>,
    free: Vec<usize>,
    schemas: HashMap<TypeId, (usize, u64)>,
}

/// Bytes as words, the last one filled up with zeroes.
pub(crate) fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

/// The words of an entity's labels. Labels that are too long are cut and end with a hash of the whole.
fn label_words(labels: &[&str]) -> Option<Vec<u64>> {
    let room = LABEL_BYTES.checked_sub(2 * labels.len())?;
    let fits = labels.iter().map(|label| label.len()).sum::<usize>() <= room;
    let budget = if fits { room } else { room / labels.len().max(1) };
    let mut bytes = Vec::with_capacity(LABEL_BYTES);
    for label in labels {
        let label = if label.len() <= budget { (*label).to_owned() } else { cut(label, budget)? };
        bytes.extend(u16::try_from(label.len()).ok()?.to_le_bytes());
        bytes.extend(label.bytes());
    }
    bytes.resize(LABEL_BYTES, 0);
    Some(words_of(&bytes).collect())
}

/// The beginning of a label and a hash of all of it, `budget` bytes at most; `None` if not even the hash fits.
fn cut(label: &str, budget: usize) -> Option<String> {
    let hash = lower(checksum(words_of(label.as_bytes())));
    let mut length = budget.checked_sub(9)?;
    while !label.is_char_boundary(length) {
        length -= 1;
    }
    Some(format!("{}~{hash:08x}", &label[..length]))
}

impl Core {
    /// Where a word of an entity is; `None` if the entity has no place.
    fn entity_at(&self, number: usize, field: usize) -> Option<usize> {
        if number >= MAX_ENTITIES {
            return None;
        }
        let reference = self.load(ENTITY_FRAMES + number / ENTITIES_PER_FRAME);
        let frame = index(reference);
        let ours = reference != 0 && self.frame_owner(frame) == Some(Owner::Entities);
        ours.then(|| frame * FRAME_WORDS + number % ENTITIES_PER_FRAME * ENTITY_WORDS + field)
    }

    /// Number of places for entities that were ever used.
    pub(crate) fn entity_count(&self) -> usize {
        index(self.load(header::ENTITIES)).min(MAX_ENTITIES)
    }

    /// An entity that is in use.
    pub(crate) fn entity(&self, number: usize) -> Option<EntityState> {
        let at = self.entity_at(number, 0)?;
        let state = self.load(at + STATE);
        let schema = index(u64::from(upper(self.load(at + SHAPE))));
        (lower(state) == IN_USE && schema < MAX_SCHEMAS).then(|| EntityState {
            generation: upper(state),
            owners: self.load(at + OWNERS),
            schema,
        })
    }

    /// The labels of an entity of this generation. `None` if they are broken, or if it is gone now.
    pub(crate) fn labels(&self, number: usize, generation: u32) -> Option<Vec<String>> {
        let at = self.entity_at(number, 0)?;
        let count = index(u64::from(lower(self.load(at + SHAPE))));
        let bytes: Vec<u8> = self
            .range(at + ENTITY_HEADER, LABEL_BYTES / 8)
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        fence(Ordering::Acquire);
        if self.peek(at + STATE) != word(generation, IN_USE) || count > LABEL_BYTES / 2 {
            return None;
        }
        let mut rest = bytes.as_slice();
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            let (length, behind) = rest.split_first_chunk()?;
            let (label, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            labels.push(String::from_utf8(label.to_vec()).ok()?);
            rest = behind;
        }
        Some(labels)
    }

    /// Whether a process has this very entity.
    pub(crate) fn has(&self, number: usize, generation: u32, slot: usize) -> bool {
        self.entity(number)
            .is_some_and(|entity| entity.generation == generation && entity.owners >> slot & 1 == 1)
    }

    /// Says that a process has an entity no more. Needs no lock: the bit is its own.
    pub(crate) fn disown(&self, number: usize, generation: u32, slot: usize) {
        if !self.has(number, generation, slot) {
            return;
        }
        if let Some(word) = self.entity_at(number, OWNERS).and_then(|at| self.words().get(at)) {
            word.fetch_and(!(1 << slot), Ordering::AcqRel);
        }
    }

    /// Whether every reference of the directory leads where it should.
    pub(crate) fn has_sane_directory(&self) -> bool {
        let frame_is = |frame: u64, owner| self.frame_owner(index(frame)) == Some(owner);
        let frames = (0..MAX_ENTITY_FRAMES).map(|n| self.load(ENTITY_FRAMES + n));
        let schemas = (0..MAX_SCHEMAS).map(|n| self.schema_reference(n));
        self.load(header::ENTITIES) <= MAX_ENTITIES as u64
            && frames.filter(|frame| *frame != 0).all(|frame| frame_is(frame, Owner::Entities))
            && schemas
                .filter(|schema| *schema != 0)
                .all(|schema| frame_is(u64::from(lower(schema)), Owner::Schema))
    }
}

impl Locked<'_> {
    /// Finds or adds an entity and notes that the process in this slot has it. `None` when there is no room.
    pub(crate) fn register<S: Scope>(&self, known: &mut Index, labels: &[&str], slot: usize) -> Option<u64> {
        let schema = self.schema_of::<S>(known)?;
        self.register_as(schema, known, labels, slot)
    }

    /// The same for an entity of a scope that is only known by what is said of it.
    pub(crate) fn register_info(
        &self,
        known: &mut Index,
        info: &ScopeInfo,
        labels: &[&str],
        slot: usize,
    ) -> Option<u64> {
        let schema = self.schema_number(&crate::schema::encode(info))?;
        self.register_as(schema, known, labels, slot)
    }

    fn register_as(&self, schema: usize, known: &mut Index, labels: &[&str], slot: usize) -> Option<u64> {
        let words = label_words(labels)?;
        let shape = word(u32::try_from(schema).ok()?, u32::try_from(labels.len()).ok()?);
        let hash = checksum(words.iter().copied().chain([shape]));
        self.refresh(known);
        if let Some(number) = known.by_hash.get(&hash).copied()
            && let Some(entity) = self.entity(number)
            && let Some(at) = self.entity_at(number, 0)
            && self.load(at + SHAPE) == shape
            && self
                .range(at + ENTITY_HEADER, words.len())
                .iter()
                .map(|w| w.load(Ordering::Relaxed))
                .eq(words.iter().copied())
        {
            self.words().get(at + OWNERS)?.fetch_or(1 << slot, Ordering::AcqRel);
            return Some(entity_reference(number, entity.generation));
        }
        let number = match known.free.pop() {
            Some(number) => number,
            None => self.new_place()?,
        };
        let at = self.entity_at(number, 0)?;
        let generation = upper(self.load(at + STATE)).wrapping_add(1);
        self.changes(known);
        // A reader of the entity that was here before sees that it is gone before it sees any of what follows.
        self.store(at + STATE, word(generation, 0));
        fence(Ordering::Release);
        for (offset, value) in words.iter().enumerate() {
            self.store(at + ENTITY_HEADER + offset, *value);
        }
        self.store(at + SHAPE, shape);
        self.store(at + HASH, hash);
        self.store(at + OWNERS, 1 << slot);
        crate::fault::point();
        self.store(at + STATE, word(generation, IN_USE));
        known.by_hash.insert(hash, number);
        Some(entity_reference(number, generation))
    }

    fn schema_of<S: Scope>(&self, known: &mut Index) -> Option<usize> {
        if let Some((number, reference)) = known.schemas.get(&TypeId::of::<S>())
            && self.schema_reference(*number) == *reference
        {
            return Some(*number);
        }
        let number = self.schema_number(&crate::schema::encode(&ScopeInfo::of::<S>()))?;
        known.schemas.insert(TypeId::of::<S>(), (number, self.schema_reference(number)));
        Some(number)
    }

    /// A place that was never used; in a new frame if need be.
    fn new_place(&self) -> Option<usize> {
        let number = self.entity_count();
        if number >= MAX_ENTITIES {
            return None;
        }
        let reference = ENTITY_FRAMES + number / ENTITIES_PER_FRAME;
        if self.entity_at(number, 0).is_none() {
            let frame = self.claim_frame(Owner::Entities)?;
            self.store(reference, frame as u64);
            crate::fault::point();
        }
        self.store(header::ENTITIES, number as u64 + 1);
        Some(number)
    }

    /// Frees frames of entities that the directory does not know: their claimer died before it could say so.
    pub(crate) fn collect_entity_frames(&self) {
        let known: Vec<u64> = (0..MAX_ENTITY_FRAMES).map(|n| self.load(ENTITY_FRAMES + n)).collect();
        for frame in self.usable_frames() {
            let value = self.frame_word(frame);
            if Owner::decode(value) == Some(Owner::Entities) && !known.contains(&(frame as u64)) {
                self.store(crate::layout::FRAME_TABLE + frame, value & crate::frames::RESERVED);
            }
        }
    }

    /// Gives up an entity.
    pub(crate) fn drop_entity(&self, number: usize, generation: u32) {
        if let Some(at) = self.entity_at(number, 0)
            && self.load(at + STATE) == word(generation, IN_USE)
        {
            self.add(header::DIRECTORY_VERSION, 1);
            self.store(at + STATE, word(generation, 0));
            crate::fault::point();
        }
    }

    /// Like [`Locked::drop_entity`], and remembers the place.
    pub(crate) fn forget(&self, known: &mut Index, number: usize, generation: u32) {
        self.refresh(known);
        if let Some(hash) = self.entity_at(number, HASH).map(|at| self.load(at)) {
            known.by_hash.remove(&hash);
            known.free.push(number);
            self.drop_entity(number, generation);
            known.version = Some(self.load(header::DIRECTORY_VERSION));
        }
    }

    /// Counts a change of our own that `known` will have. Comes before the change: should this process end in the
    /// middle of it, the others look again.
    fn changes(&self, known: &mut Index) {
        known.version = Some(self.add(header::DIRECTORY_VERSION, 1).wrapping_add(1));
    }

    /// Reads the directory again if another process, or a fold, changed it.
    fn refresh(&self, known: &mut Index) {
        let version = self.load(header::DIRECTORY_VERSION);
        if known.version == Some(version) {
            return;
        }
        known.by_hash.clear();
        known.free.clear();
        for number in (0..self.entity_count()).rev() {
            let hash = self.entity_at(number, HASH).map(|at| self.load(at));
            match (self.entity(number), hash) {
                (Some(_), Some(hash)) => _ = known.by_hash.insert(hash, number),
                (None, Some(_)) => known.free.push(number),
                (_, None) => {}
            }
        }
        known.version = Some(version);
    }
}
