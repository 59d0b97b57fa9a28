//! Where everything is in a segment, in words of eight bytes; `docs/statistics.md` has the same as a table.

/// First word of a segment, published last.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"OURO\x01shm");

/// Size of a segment unless told otherwise, bytes of address space. Memory is taken as it is needed.
pub const DEFAULT_SIZE: u64 = 1 << 30;
/// Smallest and largest size, bytes.
pub(crate) const MIN_SIZE: u64 = 16 * FRAME_BYTES;
pub(crate) const MAX_SIZE: u64 = FRAME_BYTES << 20;

#[cfg(not(all(test, loom)))]
mod geometry {
    /// Words of a frame, the unit in which memory is handed out: 64 KiB.
    pub(crate) const FRAME_WORDS: usize = 8192;
    /// Words of the header.
    pub(crate) const HEADER_WORDS: usize = 512;
    /// Processes at a time; a word of the directory has a bit for each.
    pub(crate) const SLOTS: usize = 64;
    /// Tables of metrics at a time.
    pub(crate) const MAX_SCHEMAS: usize = 128;
    /// Frames of entities at a time.
    pub(crate) const MAX_ENTITY_FRAMES: usize = 256;
}
#[cfg(all(test, loom))]
mod geometry {
    pub(crate) const FRAME_WORDS: usize = 64;
    pub(crate) const HEADER_WORDS: usize = 16;
    pub(crate) const SLOTS: usize = 2;
    pub(crate) const MAX_SCHEMAS: usize = 1;
    pub(crate) const MAX_ENTITY_FRAMES: usize = 1;
}
pub(crate) use geometry::*;

pub(crate) const FRAME_BYTES: u64 = FRAME_WORDS as u64 * 8;

/// Words of the header.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const LAYOUT_VERSION: usize = 1;
    pub(crate) const HOT_RESTART_VERSION: usize = 2;
    /// Bytes.
    pub(crate) const SIZE: usize = 3;
    /// Random; tells this segment from any other.
    pub(crate) const SEGMENT_ID: usize = 4;
    pub(crate) const FIRST_STARTED_MS: usize = 5;
    /// Over the words before it.
    pub(crate) const CHECKSUM: usize = 6;
    /// Processes so far; the last one's number is its incarnation.
    pub(crate) const GENERATIONS: usize = 8;
    pub(crate) const OVERFLOWS: usize = 9;
    /// Number of switches, and in the lowest bit which folded set counts.
    pub(crate) const ROOT: usize = 10;
    /// Changes with every change of the directory's entities.
    pub(crate) const DIRECTORY_VERSION: usize = 11;
    /// Entities, free ones below the last one included.
    pub(crate) const ENTITIES: usize = 12;
    /// Schemas so far; makes their references unique.
    pub(crate) const SCHEMAS_SO_FAR: usize = 13;
}

/// Words that the header's checksum covers, itself not included.
pub(crate) const CONSTANT_WORDS: usize = header::CHECKSUM;

/// The process table.
pub(crate) const PROCESSES: usize = HEADER_WORDS;
/// Words of a process's slot: a cache line.
pub(crate) const PROCESS_WORDS: usize = 8;
/// References to schemas.
pub(crate) const SCHEMAS: usize = PROCESSES + SLOTS * PROCESS_WORDS;
/// Frames of entities.
pub(crate) const ENTITY_FRAMES: usize = SCHEMAS + MAX_SCHEMAS;
/// For both folded sets: the last incarnation in each slot that the set includes.
pub(crate) const INCLUDED: usize = ENTITY_FRAMES + MAX_ENTITY_FRAMES;
/// A word for each frame.
pub(crate) const FRAME_TABLE: usize = (INCLUDED + 2 * SLOTS).next_multiple_of(FRAME_WORDS / 4);

/// Words of a frame before its first record; the first of them is the number of words in use.
pub(crate) const FRAME_HEADER: usize = 8;
/// Words of a record before its cells: what it is, and the number of cells.
pub(crate) const RECORD_HEADER: usize = 2;

/// Words of an entity: state, owners, schema, hash, and the labels.
pub(crate) const ENTITY_WORDS: usize = 32;
pub(crate) const ENTITY_HEADER: usize = 4;
pub(crate) const LABEL_BYTES: usize = (ENTITY_WORDS - ENTITY_HEADER) * 8;
pub(crate) const ENTITIES_PER_FRAME: usize = FRAME_WORDS / ENTITY_WORDS;
pub(crate) const MAX_ENTITIES: usize = MAX_ENTITY_FRAMES * ENTITIES_PER_FRAME;

const _: () = assert!(usize::BITS == 64, "offsets are words");
const _: () = assert!(SLOTS <= 64 && MAX_ENTITIES < 1 << 30);

/// Frames before the first that can be handed out.
pub(crate) const fn fixed_frames(frames: usize) -> usize {
    (FRAME_TABLE + frames).div_ceil(FRAME_WORDS)
}

/// The words of a set's `included` list.
pub(crate) const fn included(set: u64, slot: usize) -> usize {
    INCLUDED + (set & 1) as usize * SLOTS + slot
}

/// FNV-1a; guards against accidents, not against intent.
pub(crate) fn checksum(words: impl IntoIterator<Item = u64>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        for byte in word.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The upper half of a word.
pub(crate) const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The lower half of a word.
#[allow(clippy::cast_possible_truncation)] // that is what it is for
pub(crate) const fn lower(word: u64) -> u32 {
    word as u32
}

/// A word from its halves.
pub(crate) const fn word(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

/// A word as an index; both have 64 bits.
#[allow(clippy::cast_possible_truncation)] // see the assertion above
pub(crate) const fn index(word: u64) -> usize {
    word as usize
}

/// What a record holds, by its first word; 0 is nothing.
pub(crate) const RECORD_ENTITY: u64 = 1 << 63;
pub(crate) const RECORD_PAGE: u64 = 1 << 62;

/// Names an entity in a record: its number and its generation.
pub(crate) fn entity_reference(number: usize, generation: u32) -> u64 {
    RECORD_ENTITY | (number as u64) << 32 | u64::from(generation)
}

/// Number and generation of an entity; `None` if the word is not a reference to one.
pub(crate) fn entity_of(reference: u64) -> Option<(usize, u32)> {
    let number = index((reference & !RECORD_ENTITY) >> 32);
    (reference & RECORD_ENTITY != 0 && number < MAX_ENTITIES).then(|| (number, lower(reference)))
}
