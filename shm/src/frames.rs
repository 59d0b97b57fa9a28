//! The frame table: who owns which 64 KiB of the segment.
//!
//! A frame is claimed by one compare-and-swap of its word, by any process and without a lock. Its word names the owner
//! from the first moment on, so that a claim whose owner died half-way can be undone. A frame that has had memory keeps
//! it when it is freed: readers that are late must never touch a page that is gone.

use crate::core::Core;
use crate::layout::{FRAME_HEADER, FRAME_TABLE, FRAME_WORDS, SLOTS, fixed_frames, lower, upper, word};
use crate::sync::{Ordering, fence};

/// Who owns a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody.
    Free,
    /// The segment's own tables.
    Fixed,
    /// A schema.
    Schema,
    /// The directory's entities.
    Entities,
    /// One of the two folded sets.
    Set(u8),
    /// A worker of a process.
    Process { slot: u8, worker: u16, incarnation: u32 },
}

/// The bit of a frame's word that says that it is being prepared.
pub(crate) const CLAIMING: u64 = 1 << 4;
/// The bit that says that memory is reserved for it.
pub(crate) const RESERVED: u64 = 1 << 5;
/// The word of a frame of the segment's own tables.
pub(crate) const FIXED: u64 = 1 | RESERVED;

const KIND: u64 = 0xf;

impl Owner {
    pub(crate) fn encode(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Fixed => 1,
            Self::Schema => 2,
            Self::Entities => 3,
            Self::Set(0) => 4,
            Self::Set(_) => 5,
            Self::Process { slot, worker, incarnation } => {
                word(incarnation, u32::from(worker) << 16 | u32::from(slot) << 8 | 6)
            }
        }
    }

    /// The owner that a frame's word names; `None` if it names none.
    pub(crate) fn decode(value: u64) -> Option<Self> {
        let bytes = value.to_le_bytes();
        Some(match value & KIND {
            0 => Self::Free,
            1 => Self::Fixed,
            2 => Self::Schema,
            3 => Self::Entities,
            4 => Self::Set(0),
            5 => Self::Set(1),
            6 if usize::from(bytes[1]) < SLOTS => Self::Process {
                slot: bytes[1],
                worker: u16::from_le_bytes([bytes[2], bytes[3]]),
                incarnation: upper(value),
            },
            _ => return None,
        })
    }
}

/// The folded set that a root word names.
pub(crate) fn active_set(root: u64) -> Owner {
    Owner::Set((lower(root) & 1).to_le_bytes()[0])
}

impl Core {
    /// The word of a frame.
    pub(crate) fn frame_word(&self, frame: usize) -> u64 {
        if frame < self.frames { self.load(FRAME_TABLE + frame) } else { 0 }
    }

    /// The owner of a frame that is ready; `None` while it is prepared, and for what makes no sense.
    pub(crate) fn frame_owner(&self, frame: usize) -> Option<Owner> {
        let value = self.frame_word(frame);
        if value & CLAIMING != 0 { None } else { Owner::decode(value) }
    }

    /// Frames that can be handed out.
    pub(crate) fn usable_frames(&self) -> std::ops::Range<usize> {
        fixed_frames(self.frames)..self.frames
    }

    /// Takes a free frame and zeroes it. `None` when there is none, or no memory for it.
    pub(crate) fn claim_frame(&self, owner: Owner) -> Option<usize> {
        let usable = self.usable_frames();
        let hint = self.next_frame.load(Ordering::Relaxed).clamp(usable.start, usable.end);
        let mut only_reserved = false;
        for frame in (hint..usable.end).chain(usable.start..hint) {
            let place = self.words().get(FRAME_TABLE + frame)?;
            let before = place.load(Ordering::Relaxed);
            if before & (KIND | CLAIMING) != 0 || (only_reserved && before & RESERVED == 0) {
                continue;
            }
            let claim = owner.encode() | CLAIMING | before & RESERVED;
            if place.compare_exchange(before, claim, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            // A reader that sees anything of what is written to the frame from here on also sees why the frame was
            // free: the switch of the root before it.
            fence(Ordering::Release);
            crate::fault::point();
            if before & RESERVED == 0 {
                if self.memory.reserve(frame * FRAME_WORDS, FRAME_WORDS).is_err() {
                    place.store(0, Ordering::Release);
                    // Frames that have memory already may still be free.
                    only_reserved = true;
                    continue;
                }
            } else {
                for cell in self.range(frame * FRAME_WORDS, FRAME_WORDS) {
                    cell.store(0, Ordering::Relaxed);
                }
            }
            if !matches!(owner, Owner::Schema | Owner::Entities) {
                self.store(frame * FRAME_WORDS, FRAME_HEADER as u64);
            }
            place.store(owner.encode() | RESERVED, Ordering::Release);
            crate::fault::point();
            self.next_frame.store(frame + 1, Ordering::Relaxed);
            return Some(frame);
        }
        None
    }

    /// Frees the frames whose owner is among those asked for, those half claimed included.
    pub(crate) fn free_frames(&self, whose: impl Fn(Owner) -> bool) {
        for frame in self.usable_frames() {
            let value = self.frame_word(frame);
            let Some(owner) = Owner::decode(value) else { continue };
            if owner != Owner::Free && whose(owner) {
                self.store(FRAME_TABLE + frame, value & RESERVED);
                crate::fault::point();
            }
        }
        self.next_frame.store(0, Ordering::Relaxed);
    }
}
