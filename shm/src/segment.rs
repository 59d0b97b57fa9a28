//! A segment as a whole.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::core::{Core, now_ms};
use crate::error::SegmentError;
use crate::layout::{DEFAULT_SIZE, header};
use crate::member::Membership;
use crate::memory::Memory;
use crate::object::{self, Found};
use crate::processes::Joining;
use crate::read::ReadOptions;
use crate::snapshot::{Entity, Process, Snapshot};

/// Times that something may come in between while a segment is opened.
const OPEN_TRIES: usize = 16;
/// Base ids that are tried to find a free one.
const DYNAMIC_IDS: u32 = 4096;

/// Which segment, and how large it is when it has to be made.
#[derive(Clone, Copy, Debug)]
pub struct SegmentOptions {
    /// Tells the instances of a machine apart.
    pub base_id: u32,
    /// Bytes that it may grow to; one that exists keeps its size.
    pub size: u64,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self { base_id: 0, size: DEFAULT_SIZE }
    }
}

/// Memory in which processes count, and which outlives them. Cloning gives another handle.
#[derive(Clone)]
pub struct Segment {
    pub(crate) core: Arc<Core>,
}

impl Segment {
    /// A segment that only this process has: it works the same and ends with it. Takes memory as it is needed.
    #[must_use]
    pub fn private(size: u64) -> Self {
        let words = usize::try_from(object::round(size) / 8).unwrap_or(usize::MAX);
        Self::of_words(words)
    }

    pub(crate) fn of_words(words: usize) -> Self {
        let core = Core::new(Memory::private(words));
        core.initialise(0, now_ms());
        core.publish();
        Self { core: Arc::new(core) }
    }

    /// Attaches to the segment of this base id, or makes it. What cannot be used is set aside; the sentences that come
    /// with the segment say so, for the log.
    ///
    /// # Errors
    /// [`SegmentError::Foreign`] if it belongs to another user; [`SegmentError::Io`] if there is no shared memory to be
    /// had; [`SegmentError::Busy`] if others keep making and removing it.
    pub fn open(options: &SegmentOptions) -> Result<(Self, Vec<String>), SegmentError> {
        let mut events = Vec::new();
        for _ in 0..OPEN_TRIES {
            match object::find(options.base_id, false)? {
                Found::Segment(core) => {
                    object::reserve_again(&core)?;
                    return Ok((Self { core: Arc::new(core) }, events));
                }
                Found::Nothing => {
                    if let Some(core) = object::create(options.base_id, options.size)? {
                        return Ok((Self { core: Arc::new(core) }, events));
                    }
                }
                Found::Bad(file, why) => {
                    events.extend(object::set_aside(options.base_id, file.as_ref(), &why)?);
                }
            }
        }
        Err(SegmentError::Busy)
    }

    /// Makes a segment under a base id that nobody uses: the lowest from 1 on that has no segment, or else one whose
    /// processes are all dead; that one's counters are lost. Base ids that are not `free` in some other way are left out.
    ///
    /// # Errors
    /// [`SegmentError::Full`] if there is none, otherwise as [`Segment::open`].
    pub fn create_dynamic(size: u64, free: impl Fn(u32) -> bool) -> Result<(Self, u32), SegmentError> {
        for base_id in 1..=DYNAMIC_IDS {
            if object::path(base_id).symlink_metadata().is_err()
                && free(base_id)
                && let Some(core) = object::create(base_id, size)?
            {
                return Ok((Self { core: Arc::new(core) }, base_id));
            }
        }
        for base_id in 1..=DYNAMIC_IDS {
            let Ok(Found::Segment(core)) = object::find(base_id, false) else { continue };
            let Ok(lock) = core.lock() else { continue };
            if lock.slots().iter().any(|slot| slot.process.alive)
                || !free(base_id)
                || object::unlink(base_id).is_err()
            {
                continue;
            }
            if let Some(core) = object::create(base_id, size)? {
                return Ok((Self { core: Arc::new(core) }, base_id));
            }
        }
        Err(SegmentError::Full { what: "another instance: all base ids are taken" })
    }

    /// Attaches to read: makes nothing and writes nothing. Root may read what belongs to others.
    ///
    /// # Errors
    /// [`SegmentError::NotFound`] if there is no such segment, [`SegmentError::Unusable`] if it cannot be trusted,
    /// [`SegmentError::Foreign`] if it is somebody else's.
    pub fn attach_existing(base_id: u32) -> Result<Self, SegmentError> {
        match object::find(base_id, true)? {
            Found::Segment(core) => Ok(Self { core: Arc::new(core) }),
            Found::Nothing => Err(SegmentError::NotFound { base_id }),
            Found::Bad(_, why) => Err(SegmentError::Unusable { why }),
        }
    }

    /// Attaches to the segment of this base id if there is one that can be used, and leaves everything as it is.
    ///
    /// # Errors
    /// [`SegmentError::Foreign`] and [`SegmentError::Io`], as [`Segment::open`].
    pub fn peek(base_id: u32) -> Result<Option<Self>, SegmentError> {
        Ok(match object::find(base_id, false)? {
            Found::Segment(core) => Some(Self { core: Arc::new(core) }),
            Found::Nothing | Found::Bad(..) => None,
        })
    }

    /// Makes a segment that goes on where another one ends, in which this process counts: `generations` processes before
    /// it, the first of them started at `first_started_ms` (0: not known, so it is as if that was now). It has the name of the base id only once
    /// [`Apart::establish`] gives it that; until then whoever looks finds the other one.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn create_apart(
        options: &SegmentOptions,
        generations: u64,
        first_started_ms: u64,
    ) -> Result<(Self, Apart), SegmentError> {
        let (core, path) =
            object::create_apart(options.base_id, options.size, generations, first_started_ms)?;
        let apart = Apart { path: Some(path), base_id: options.base_id };
        Ok((Self { core: Arc::new(core) }, apart))
    }

    /// A random number that no other segment has; 0 for one that only this process has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.core.load(header::SEGMENT_ID)
    }

    /// Removes the name of a segment. Who has it attached keeps it.
    ///
    /// # Errors
    /// Those of `shm_unlink(3)`.
    pub fn unlink(base_id: u32) -> io::Result<()> {
        object::unlink(base_id)
    }

    /// Enters this process into the table. Folds the dead first.
    ///
    /// # Errors
    /// [`SegmentError::Busy`], and [`SegmentError::Full`] if the table is full of living processes.
    pub fn join(&self, joining: &Joining<'_>) -> Result<Membership, SegmentError> {
        let lock = self.core.lock()?;
        // Should there be no room to fold, the dead stay where they are and are summed from there.
        let folded = lock.fold();
        let (slot, incarnation) = match (lock.enter(joining), folded) {
            (Err(_), Err(error)) => return Err(error),
            (entered, _) => entered?,
        };
        drop(lock);
        Ok(Membership::new(self.clone(), slot, incarnation))
    }

    /// Folds the counters of processes that are gone, and gives up what nobody has any more. Returns how many
    /// processes it folded. Anybody may call it, at any time.
    ///
    /// # Errors
    /// [`SegmentError::Busy`]; [`SegmentError::Full`] if there is no room for the folded counters: they are still
    /// summed from where they are.
    pub fn fold(&self) -> Result<usize, SegmentError> {
        self.core.lock()?.fold()
    }

    /// Starts all counters and histograms from zero again. Gauges stay.
    ///
    /// # Errors
    /// Those of [`Segment::fold`].
    pub fn reset_counters(&self) -> Result<(), SegmentError> {
        self.core.lock()?.reset()
    }

    /// Reads everything. Takes no lock that a process needs to count, and writes nothing.
    #[must_use]
    pub fn snapshot(&self, options: &ReadOptions) -> Snapshot {
        self.core.snapshot(options)
    }

    /// What processes have counted in this segment itself, without the totals that they were told of another one
    /// ([`Membership::totals`]), as long as these processes have not been folded.
    #[must_use]
    pub fn counted_here(&self) -> Vec<Entity> {
        self.core.counted_here()
    }

    /// Says that this process counts here as long as it lives, also to those who cannot see it: in another pid namespace it
    /// looks dead by the table of processes.
    pub fn show_presence(&self) {
        if let Some(file) = self.core.memory.file() {
            crate::lock::show_presence(file);
        }
    }

    /// Whether a process has said that it counts here and still lives, be it seen or not. Not for those who have said so
    /// themselves by this handle: they would take it back.
    #[must_use]
    pub fn is_anybody_present(&self) -> bool {
        self.core.memory.file().is_some_and(crate::lock::is_anybody_present)
    }

    /// All processes that have a place in the table, the dead among them that were not folded yet, oldest first.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        self.core.slots().into_iter().map(|slot| slot.process).collect()
    }

    /// The processes that live, oldest first.
    #[must_use]
    pub fn live_processes(&self) -> Vec<Process> {
        self.core.slots().into_iter().map(|slot| slot.process).filter(|process| process.alive).collect()
    }
}

/// A segment that has not got its name yet. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Apart {
    path: Option<PathBuf>,
    base_id: u32,
}

impl Apart {
    /// The segment takes the place of whatever has its name. Who has that one attached keeps it.
    ///
    /// # Errors
    /// Those of `rename(2)`; the segment is without a name then, and works all the same.
    pub fn establish(mut self) -> io::Result<()> {
        let Some(path) = self.path.take() else { return Ok(()) };
        std::fs::rename(&path, object::path(self.base_id)).inspect_err(|_| self.path = Some(path))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("bytes", &(self.core.words().len() * 8)).finish_non_exhaustive()
    }
}
