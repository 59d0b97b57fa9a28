//! Records in the frames of one owner.

use crate::core::Core;
use crate::frames::Owner;
use crate::layout::{FRAME_HEADER, FRAME_WORDS, RECORD_HEADER};

/// Hands out records from frames that it claims. It alone writes to them.
pub(crate) struct Arena {
    owner: Owner,
    frame: Option<usize>,
}

impl Arena {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, frame: None }
    }

    /// Makes a record of zeroed cells and returns where its first cell is; `None` when there is no room.
    pub(crate) fn allocate(&mut self, core: &Core, reference: u64, cells: usize) -> Option<usize> {
        let words = RECORD_HEADER + cells;
        if words > FRAME_WORDS - FRAME_HEADER {
            return None;
        }
        let (frame, used) = match self.frame.map(|frame| (frame, used(core, frame))) {
            Some((frame, used)) if used + words <= FRAME_WORDS => (frame, used),
            _ => (core.claim_frame(self.owner)?, FRAME_HEADER),
        };
        self.frame = Some(frame);
        let record = frame * FRAME_WORDS + used;
        core.store(record + 1, cells as u64);
        core.store(record, reference);
        core.store(frame * FRAME_WORDS, (used + words) as u64);
        Some(record + RECORD_HEADER)
    }
}

/// Words of a frame that are in use; what is no sensible number is the whole frame.
pub(crate) fn used(core: &Core, frame: usize) -> usize {
    let used = core.load(frame * FRAME_WORDS);
    if used < FRAME_WORDS as u64 { crate::layout::index(used).max(FRAME_HEADER) } else { FRAME_WORDS }
}
