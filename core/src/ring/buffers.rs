//! The buffers of one worker: receive buffers that the kernel fills, and head buffers that we fill.
//!
//! # Who may touch what, when
//!
//! Receive buffers are pieces of one anonymous mapping. Each is in exactly one place:
//!
//! * *published*: its entry is in the kernel's buffer ring. Only the kernel may write it; nobody reads it.
//! * *held*: a completion handed it to us. It has a count of the [`Chunk`]s that point into it; the kernel does not
//!   touch it, we only read it (and append behind the last chunk, see [`Chunk::append`]).
//! * *returned*: the last chunk is gone. Its number waits in `returned` until the driver looks, and then in the driver
//!   until the kernel should have more of them.
//! * *spare*: never published yet; its pages are not even resident.
//!
//! A chunk that is being sent sits in its socket's output queue until the completion of the send, so a buffer cannot
//! return while the kernel reads from it.
//!
//! Head buffers are vectors. A [`WriteBuf`] owns one and may grow it; freezing it into a chunk moves the vector into
//! a table where nothing changes it until its last chunk is gone.

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::base::limits;
use crate::base::slots::SlotId;

/// Set in [`Chunk::source`] for head buffers; the rest is the position in the table.
const HEAD: u32 = 1 << 31;

/// Space between buffers. Messages lie at the start of their buffers; with those at multiples of a page they would all
/// compete for the same few sets of the first-level cache.
const STAGGER_BYTES: usize = 256;

/// All buffers of a worker; cheap to clone.
#[derive(Clone)]
pub(super) struct Pool(Rc<Inner>);

struct Inner {
    memory: NonNull<u8>,
    buffer_size: usize,
    /// What is known of each receive buffer.
    table: Box<[Buffer]>,
    /// The buffer that was returned last; the others follow by [`Buffer::next`].
    returned: Cell<u32>,
    heads: RefCell<Heads>,
}

/// One receive buffer.
struct Buffer {
    /// The chunks that point into it.
    refs: Cell<u32>,
    /// Who is charged for it.
    owner: Cell<SlotId>,
    /// The one that was returned before it, if it is returned itself, or [`NONE`].
    next: Cell<u32>,
}

/// No buffer.
const NONE: u32 = u32::MAX;

#[derive(Default)]
struct Heads {
    table: Vec<HeadBuf>,
    free: Vec<u32>,
    spare: Vec<Vec<u8>>,
}

struct HeadBuf {
    bytes: Vec<u8>,
    refs: u32,
}

impl Inner {
    /// From the start of one buffer to the start of the next.
    #[inline]
    const fn stride(&self) -> usize {
        self.buffer_size + STAGGER_BYTES
    }

    /// Where the buffer `id` lies, and what is known of it.
    #[inline]
    fn buffer(&self, id: u16) -> (NonNull<u8>, &Buffer) {
        let buffer = &self.table[id as usize];
        // SAFETY: `id` is below the length of the table, and the mapping has as many strides, so the offset stays inside.
        (unsafe { self.memory.add(id as usize * self.stride()) }, buffer)
    }

    /// A chunk of the head buffer `index` is gone.
    #[inline(never)]
    fn drop_head(&self, index: u32) {
        let heads = &mut *self.heads.borrow_mut();
        let head = &mut heads.table[index as usize];
        head.refs -= 1;
        if head.refs == 0 {
            let bytes = std::mem::take(&mut head.bytes);
            heads.free.push(index);
            heads.recycle(bytes);
        }
    }

    /// Nothing points into the buffer `id` any more, or never has.
    #[inline]
    fn give_back(&self, id: u32, buffer: &Buffer) {
        buffer.next.set(self.returned.replace(id));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `Pool::new` with this address and length, and every chunk holds a reference
        // to `self`, so nothing points into it any more. The driver outlives the kernel's use: it keeps a reference
        // until the ring is drained, and leaks one if draining fails.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.table.len() * self.stride()) };
    }
}

impl Pool {
    /// Reserves (but does not touch) the memory of `count` buffers.
    pub(super) fn new(count: usize, buffer_size: usize) -> io::Result<Self> {
        assert!(count <= limits::MAX_RECEIVE_BUFFERS);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * (buffer_size + STAGGER_BYTES),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A message touches the first page of its buffer; a huge page would make all of a buffer resident.
        // SAFETY: the mapping was just made with this address and length; the advice changes no contents.
        unsafe { libc::madvise(memory, count * (buffer_size + STAGGER_BYTES), libc::MADV_NOHUGEPAGE) };
        let memory =
            NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        let nobody = SlotId { index: u32::MAX, generation: 0 };
        let buffer = |_| Buffer { refs: Cell::new(0), owner: Cell::new(nobody), next: Cell::new(NONE) };
        Ok(Self(Rc::new(Inner {
            memory,
            buffer_size,
            table: (0..count).map(buffer).collect(),
            returned: Cell::new(NONE),
            heads: RefCell::default(),
        })))
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.0.table.len()
    }

    #[inline]
    pub(super) fn buffer_size(&self) -> usize {
        self.0.buffer_size
    }

    /// Where buffer `id` lies, for the kernel's buffer ring.
    #[inline]
    pub(super) fn address(&self, id: u16) -> *mut u8 {
        self.0.buffer(id).0.as_ptr()
    }

    /// Takes a buffer that a completion handed over, as a chunk of its first `len` bytes. `owner` is charged for it.
    #[inline]
    pub(super) fn receive(&self, id: u16, len: usize, owner: SlotId) -> Chunk {
        assert!(len <= self.0.buffer_size);
        let (start, buffer) = self.0.buffer(id);
        debug_assert_eq!(buffer.refs.get(), 0, "the kernel handed out a buffer that is held");
        buffer.refs.set(1);
        buffer.owner.set(owner);
        #[allow(clippy::cast_possible_truncation)] // buffer_size is bounded far below 4 GiB
        let len = len as u32;
        Chunk { start, len, source: u32::from(id), pool: Rc::clone(&self.0) }
    }

    /// Hands back a buffer that carries nothing.
    pub(super) fn give_back(&self, id: u16, owner: SlotId) {
        let (_, buffer) = self.0.buffer(id);
        buffer.owner.set(owner);
        self.0.give_back(u32::from(id), buffer);
    }

    /// The buffer that was returned last, and who was charged for it.
    #[inline]
    pub(super) fn take_returned(&self) -> Option<(u16, SlotId)> {
        let id = self.0.returned.get();
        // Nothing is at the position NONE, which no table is long enough for.
        let buffer = self.0.table.get(id as usize)?;
        self.0.returned.set(buffer.next.get());
        #[allow(clippy::cast_possible_truncation)] // receive buffers are numbered in 16 bits
        Some((id as u16, buffer.owner.get()))
    }

    #[inline]
    pub(super) fn has_returned(&self) -> bool {
        self.0.returned.get() != NONE
    }

    /// An empty head buffer.
    pub(super) fn write_buf(&self) -> WriteBuf {
        let spare = self.0.heads.borrow_mut().spare.pop();
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(limits::HEAD_BUFFER_BYTES));
        WriteBuf { bytes, pool: Rc::clone(&self.0) }
    }

    /// A chunk of its own with these bytes; none for none.
    pub(super) fn copy(&self, bytes: &[u8]) -> Option<Chunk> {
        let copy = || WriteBuf { bytes: bytes.to_vec(), pool: Rc::clone(&self.0) }.freeze();
        (!bytes.is_empty()).then(copy)
    }
}

/// Bytes to read or to send: a piece of a receive buffer or of a frozen head buffer.
///
/// Cloning and splitting share the bytes; the buffer goes back when the last chunk is dropped.
pub struct Chunk {
    start: NonNull<u8>,
    len: u32,
    source: u32,
    pool: Rc<Inner>,
}

impl Chunk {
    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` and `len` describe initialised bytes of a buffer that this chunk keeps in the state "held" (or
        // of a frozen vector), where nobody writes them: `append` writes behind the end of every chunk only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }

    /// Number of bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len as usize);
        // SAFETY: `n` is at most `len`, so the new start is inside the buffer or one past its last byte.
        self.start = unsafe { self.start.add(n) };
        #[allow(clippy::cast_possible_truncation)] // n <= len
        let n = n as u32;
        self.len -= n;
    }

    /// Cuts off the first `n` bytes as a chunk of their own.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn split_to(&mut self, n: usize) -> Self {
        let mut first = self.clone();
        first.truncate(n);
        self.advance(n);
        first
    }

    /// Keeps the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        if n < self.len as usize {
            #[allow(clippy::cast_possible_truncation)] // n < len
            let n = n as u32;
            self.len = n;
        }
    }

    /// Charges the receive buffer of this chunk to a socket.
    pub(super) fn charge(&self, owner: SlotId) {
        self.pool.table[self.source as usize].owner.set(owner);
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Copies `bytes` behind this chunk into its own receive buffer, if nothing else points into that and there is
    /// room. Says whether it did.
    pub(super) fn append(&mut self, bytes: &[u8]) -> bool {
        if self.source & HEAD != 0 || self.pool.table[self.source as usize].refs.get() != 1 {
            return false;
        }
        let base = self.source as usize * self.pool.stride();
        let offset = self.start.as_ptr() as usize - self.pool.memory.as_ptr() as usize - base;
        let end = offset + self.len as usize;
        if end + bytes.len() > self.pool.buffer_size {
            return false;
        }
        // SAFETY: the bytes behind this chunk up to the end of its buffer belong to no other chunk (the count is 1), the
        // kernel has given the buffer up, and `bytes` lies in another buffer because this one has a single chunk.
        unsafe {
            self.start.as_ptr().add(self.len as usize).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        #[allow(clippy::cast_possible_truncation)] // bounded by buffer_size
        let added = bytes.len() as u32;
        self.len += added;
        true
    }
}

impl Clone for Chunk {
    #[inline]
    fn clone(&self) -> Self {
        if self.source & HEAD == 0 {
            let refs = &self.pool.table[self.source as usize].refs;
            refs.set(refs.get() + 1);
        } else {
            self.pool.heads.borrow_mut().table[(self.source & !HEAD) as usize].refs += 1;
        }
        Self { start: self.start, len: self.len, source: self.source, pool: Rc::clone(&self.pool) }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        if self.source & HEAD != 0 {
            self.pool.drop_head(self.source & !HEAD);
            return;
        }
        let buffer = &self.pool.table[self.source as usize];
        let refs = buffer.refs.get() - 1;
        buffer.refs.set(refs);
        if refs == 0 {
            self.pool.give_back(self.source, buffer);
        }
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

impl Heads {
    /// Keeps a vector for the next head, unless it has grown beyond what heads usually need.
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= 4 * limits::HEAD_BUFFER_BYTES && self.spare.len() < limits::SPARE_HEAD_BUFFERS
        {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

/// A buffer to write a head (or anything small) into, then [`freeze`](Self::freeze) and send.
pub struct WriteBuf {
    /// What has been written so far.
    pub bytes: Vec<u8>,
    pool: Rc<Inner>,
}

impl WriteBuf {
    /// Turns what was written into a chunk; no byte is copied.
    #[must_use]
    pub fn freeze(mut self) -> Chunk {
        let bytes = std::mem::take(&mut self.bytes);
        let mut heads = self.pool.heads.borrow_mut();
        #[allow(clippy::expect_used)] // our own bug: heads are bounded far below 4 GiB
        let len = u32::try_from(bytes.len()).expect("a head is smaller than 4 GiB");
        // A vector's address is never null, not even that of an empty one, and moving the vector into the table does
        // not move its bytes.
        let start = NonNull::from(bytes.as_slice()).cast();
        let head = HeadBuf { bytes, refs: 1 };
        let index = if let Some(index) = heads.free.pop() {
            heads.table[index as usize] = head;
            index
        } else {
            #[allow(clippy::cast_possible_truncation)] // memory ends long before 2^31 heads
            let index = heads.table.len() as u32;
            heads.table.push(head);
            index
        };
        drop(heads);
        Chunk { start, len, source: index | HEAD, pool: Rc::clone(&self.pool) }
    }
}

impl std::fmt::Debug for WriteBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriteBuf({} bytes)", self.bytes.len())
    }
}

impl Drop for WriteBuf {
    fn drop(&mut self) {
        if self.bytes.capacity() > 0 {
            self.pool.heads.borrow_mut().recycle(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(4, 4096).unwrap()
    }

    const OWNER: SlotId = SlotId { index: 3, generation: 9 };

    #[test]
    fn a_buffer_returns_with_its_last_chunk_and_names_its_owner() {
        let pool = pool();
        let mut all = pool.receive(2, 100, OWNER);
        let first = all.split_to(40);
        assert_eq!((first.len(), all.len()), (40, 60));
        drop(all);
        assert!(pool.take_returned().is_none());
        drop(first);
        assert_eq!(pool.take_returned(), Some((2, OWNER)));
        assert_eq!(pool.take_returned(), None);
    }

    #[test]
    fn small_pieces_join_a_chunk_that_has_the_buffer_to_itself() {
        let pool = pool();
        let mut chunk = pool.receive(0, 0, OWNER);
        assert!(chunk.append(b"hello "));
        chunk.advance(1);
        assert!(chunk.append(b"world"));
        assert_eq!(chunk.as_slice(), b"ello world");
        let other = chunk.clone();
        assert!(!chunk.append(b"!"), "somebody else reads this buffer");
        drop(other);
        assert!(!chunk.append(&[0; 4086]), "no room");
        assert!(chunk.append(&[0; 4085]));
    }

    #[test]
    fn head_buffers_are_recycled_after_the_last_chunk() {
        let pool = pool();
        let mut buf = pool.write_buf();
        buf.bytes.extend_from_slice(b"HTTP/1.1 200 OK");
        let address = buf.bytes.as_ptr();
        let chunk = buf.freeze();
        let copy = chunk.clone();
        assert_eq!(chunk.as_slice(), b"HTTP/1.1 200 OK");
        drop(chunk);
        assert_ne!(pool.write_buf().bytes.as_ptr(), address);
        assert_eq!(copy.as_slice(), b"HTTP/1.1 200 OK");
        drop(copy);
        let again = pool.write_buf();
        assert_eq!(again.bytes.as_ptr(), address);
        assert!(again.bytes.is_empty());
    }
}
