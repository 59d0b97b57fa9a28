//! Reading the segment of an instance from outside.

use ouro_shm::{ReadOptions, Segment, SegmentError, Snapshot};

/// Reads an instance's segment whenever asked.
pub(super) struct Reader {
    base_id: u32,
    options: ReadOptions,
}

impl Reader {
    /// A reader of the instance with this base id, who also wants the shares of each worker in these scopes.
    pub(super) fn new(base_id: u32, shares_of: &[&str]) -> Self {
        let shares_of = shares_of.iter().map(|scope| (*scope).into()).collect();
        Self { base_id, options: ReadOptions { shares_of } }
    }

    /// Everything that the segment says now.
    ///
    /// Attaches each time: between two readings the instance may have ended and started again with a new segment.
    ///
    /// # Errors
    /// A message for the user: there is no such segment, or it is not one to be trusted.
    pub(super) fn read(&self) -> Result<Snapshot, String> {
        match Segment::attach_existing(self.base_id) {
            Ok(segment) => Ok(segment.snapshot(&self.options)),
            Err(SegmentError::NotFound { .. }) => Err(format!(
                "there is no instance with base id {}: no shared memory {}",
                self.base_id,
                ouro_shm::segment_name(self.base_id)
            )),
            // These messages say that it is about shared memory, and which.
            Err(error) => Err(error.to_string()),
        }
    }

    /// The base id of the instance.
    pub(super) const fn base_id(&self) -> u32 {
        self.base_id
    }

    /// What to say when all processes are gone.
    pub(super) fn nobody(&self) -> String {
        format!("no process of the instance with base id {} is alive", self.base_id)
    }
}
