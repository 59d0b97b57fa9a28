//! The words of a segment, shared or of this process alone.

use std::fs::File;
use std::io;
use std::ptr::NonNull;

use shared_memory::Shmem;

use crate::sync::AtomicU64;

/// Memory that everything else sees as a slice of atomic words.
pub(crate) struct Memory {
    words: NonNull<[AtomicU64]>,
    store: Store,
}

enum Store {
    /// The mapping, and a descriptor of the same object.
    Shared { file: File, _map: Shmem },
    /// What [`Memory::words`] points to, as `Box::into_raw` gave it.
    Private,
}

// SAFETY: the words are atomic and the memory is unmapped or freed only when the last owner drops it. The mapping is
// otherwise only a pointer and a length that nobody changes, and the file is `Send` and `Sync` by itself.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory of this process; nothing is resident until it is touched.
    pub(crate) fn private(words: usize) -> Self {
        #[cfg(not(all(test, loom)))]
        // SAFETY: all bits zero is a valid `AtomicU64`, which has the representation of a `u64`.
        let memory = unsafe { Box::<[AtomicU64]>::new_zeroed_slice(words).assume_init() };
        #[cfg(all(test, loom))]
        let memory: Box<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { words: NonNull::from(Box::leak(memory)), store: Store::Private }
    }

    /// A mapping and a descriptor of the same object. `None` if the mapping is not made of whole words.
    pub(crate) fn shared(map: Shmem, file: File) -> Option<Self> {
        let start = NonNull::new(map.as_ptr().cast::<AtomicU64>())?;
        if !start.is_aligned() || !map.len().is_multiple_of(size_of::<u64>()) {
            return None;
        }
        let words = NonNull::slice_from_raw_parts(start, map.len() / size_of::<u64>());
        Some(Self { words, store: Store::Shared { file, _map: map } })
    }

    /// All words.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` came from a leaked box or is the whole of a mapping, aligned, which `store` keeps until `self`
        // is dropped. Other threads and processes may change the memory at any time, which atomics allow; whatever they
        // write is a valid `AtomicU64`.
        unsafe { self.words.as_ref() }
    }

    /// The descriptor of a shared segment.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.store {
            Store::Shared { file, .. } => Some(file),
            Store::Private => None,
        }
    }

    /// Makes sure that these words have memory behind them: afterwards, writing to them cannot raise SIGBUS.
    pub(crate) fn reserve(&self, first: usize, words: usize) -> io::Result<()> {
        let Some(file) = self.file() else { return Ok(()) };
        reserve(file, first as u64 * 8, words as u64 * 8)
    }
}

/// Reserves bytes of an object.
fn reserve(file: &File, start: u64, bytes: u64) -> io::Result<()> {
    let range = |n: u64| i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (start, bytes) = (range(start)?, range(bytes)?);
    loop {
        match nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), start, bytes) {
            Err(nix::Error::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if matches!(self.store, Store::Private) {
            // SAFETY: the pointer is that of a box that `private` leaked, and this is its only owner.
            drop(unsafe { Box::from_raw(self.words.as_ptr()) });
        }
    }
}
