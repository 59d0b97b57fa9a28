//! What all parts of a segment stand on: bounded access to its words, and its lock.

use std::sync::atomic::AtomicUsize;

use crate::error::SegmentError;
use crate::layout::{self, FRAME_TABLE, FRAME_WORDS, header, index};
use crate::memory::Memory;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// A segment that this process has mapped or made for itself.
pub(crate) struct Core {
    pub(crate) memory: Memory,
    /// Frames that the segment consists of.
    pub(crate) frames: usize,
    /// Where to look for a free frame first; only a hint.
    pub(crate) next_frame: AtomicUsize,
    /// Held together with the lock of the object, which is one of the process.
    local_lock: Mutex<()>,
}

impl Core {
    /// A segment over this memory, whatever it holds.
    pub(crate) fn new(memory: Memory) -> Self {
        let frames = memory.words().len() / FRAME_WORDS;
        Self { memory, frames, next_frame: AtomicUsize::new(0), local_lock: Mutex::new(()) }
    }

    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// A word; 0 outside of the segment, which only a corrupt one points to.
    #[inline]
    pub(crate) fn load(&self, at: usize) -> u64 {
        self.words().get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Like [`Core::load`] without an order towards other words.
    #[inline]
    pub(crate) fn peek(&self, at: usize) -> u64 {
        self.words().get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Sets a word, after everything that was set before; nothing outside of the segment.
    #[inline]
    pub(crate) fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.words().get(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// Adds to a word that many write, and returns what it was.
    pub(crate) fn add(&self, at: usize, n: u64) -> u64 {
        self.words().get(at).map_or(0, |word| word.fetch_add(n, Ordering::AcqRel))
    }

    /// The words of `words` from `first` on, as many as there are.
    pub(crate) fn range(&self, first: usize, words: usize) -> &[AtomicU64] {
        let all = self.words();
        let start = first.min(all.len());
        let end = first.saturating_add(words).min(all.len());
        &all[start..end]
    }

    /// Writes the header of a new segment; only the magic is left out.
    pub(crate) fn initialise(&self, segment_id: u64, now_ms: u64) {
        let size = self.words().len() as u64 * 8;
        self.store(header::LAYOUT_VERSION, u64::from(crate::LAYOUT_VERSION));
        self.store(header::HOT_RESTART_VERSION, u64::from(crate::HOT_RESTART_VERSION));
        self.store(header::SIZE, size);
        self.store(header::SEGMENT_ID, segment_id);
        self.store(header::FIRST_STARTED_MS, now_ms);
        let constant = (0..layout::CONSTANT_WORDS)
            .map(|at| if at == header::MAGIC { layout::MAGIC } else { self.load(at) });
        let checksum = layout::checksum(constant);
        self.store(header::CHECKSUM, checksum);
        for frame in 0..layout::fixed_frames(self.frames) {
            self.store(FRAME_TABLE + frame, crate::frames::FIXED);
        }
    }

    /// Says that the header is complete.
    pub(crate) fn publish(&self) {
        self.store(header::MAGIC, layout::MAGIC);
    }

    /// Which folded set counts, and how often that changed.
    pub(crate) fn root(&self) -> u64 {
        self.load(header::ROOT)
    }

    /// Takes the lock of the segment, which dies with its holder.
    pub(crate) fn lock(&self) -> Result<Locked<'_>, SegmentError> {
        #[cfg(all(test, loom))]
        let local = self.local_lock.lock().map_err(|_| SegmentError::Busy)?;
        #[cfg(not(all(test, loom)))]
        let local = crate::lock::local(&self.local_lock)?;
        if let Some(file) = self.memory.file() {
            crate::lock::of_object(file)?;
        }
        Ok(Locked { core: self, _local: local })
    }

    /// Number of frames for whose contents a memory page exists.
    pub(crate) fn frames_held(&self) -> u64 {
        self.range(FRAME_TABLE, self.frames)
            .iter()
            .filter(|word| word.load(Ordering::Relaxed) & crate::frames::RESERVED != 0)
            .count() as u64
    }
}

#[cfg(not(all(test, loom)))]
type Guard<'a> = std::sync::MutexGuard<'a, ()>;
#[cfg(all(test, loom))]
type Guard<'a> = loom::sync::MutexGuard<'a, ()>;

/// The right to change what is not a process's own.
pub(crate) struct Locked<'a> {
    core: &'a Core,
    _local: Guard<'a>,
}

impl std::ops::Deref for Locked<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.core.memory.file() {
            crate::lock::release(file);
        }
    }
}

/// The time, Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The frame that a word is in.
pub(crate) const fn frame_of(at: u64) -> usize {
    index(at) / FRAME_WORDS
}
