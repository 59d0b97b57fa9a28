//! The io_uring instance itself: submission, completion, and the ring of provided buffers.
//!
//! The only code that hands addresses to the kernel. Callers keep what an entry points to alive and unmoved until its
//! completion (see `driver.rs`), which is what makes [`Kernel::push`] sound.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Timespec};
use io_uring::{IoUring, cqueue, squeue};

use super::buffers::Pool;

/// The one group of provided buffers that a ring has.
pub(super) const BUFFER_GROUP: u16 = 0;

/// A completion: `user_data`, result, flags.
#[derive(Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completion {
    /// The operation goes on: more completions will follow.
    #[inline]
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that this completion hands over.
    #[inline]
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

impl From<cqueue::Entry> for Completion {
    #[inline]
    fn from(entry: cqueue::Entry) -> Self {
        Self { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

/// Builds a ring the way every worker uses it: completions are run when the worker asks for them (no interrupts of
/// its code), and only the worker's thread submits.
pub(super) fn build_ring(submissions: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completions)
        .build(submissions)
}

/// A ring with its provided buffers.
pub(super) struct Kernel {
    ring: IoUring,
    // Behind `ring`, so that it is dropped after it.
    buffers: BufferRing,
    /// What enter names the ring by: its registered index, or its descriptor on kernels that do not register it.
    enter_fd: i32,
    enter_flags: u32,
    /// Completions that found the queue full so far; the kernel keeps them back, none is lost.
    pub(super) overflows: u64,
    /// Completions taken out early, to make room for submissions.
    stash: VecDeque<Completion>,
}

const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4;
const IORING_REGISTER_RING_FDS: u32 = 20;

/// `struct io_uring_getevents_arg` of linux/io_uring.h.
#[repr(C)]
struct GeteventsArg {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_usec: u32,
    timespec: u64,
}

/// `struct io_uring_rsrc_update` of linux/io_uring.h.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl Kernel {
    pub(super) fn new(submissions: u32, completions: u32, pool: &Pool) -> io::Result<Self> {
        let ring = build_ring(submissions, completions)?;
        let entries = pool.count().next_power_of_two();
        #[allow(clippy::cast_possible_truncation)] // Pool::new bounds the count to 32768
        let buffers = BufferRing::register(&ring, entries as u16)?;
        let (enter_fd, enter_flags) = register_ring_fd(ring.as_raw_fd())
            .map_or_else(|| (ring.as_raw_fd(), 0), |index| (index, IORING_ENTER_REGISTERED_RING));
        Ok(Self { ring, buffers, enter_fd, enter_flags, overflows: 0, stash: VecDeque::new() })
    }

    /// Makes a table of so many files, all of them unknown yet. Returns how many it has: none where the kernel refuses.
    pub(super) fn register_files(&self, count: usize) -> u16 {
        // Not more than the process may have open (EMFILE).
        let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .map_or(u64::MAX, |(limit, _)| limit);
        let count = u16::try_from(most.min(count as u64)).unwrap_or(u16::MAX);
        self.ring.submitter().register_files_sparse(count.into()).map_or(0, |()| count)
    }

    /// Queues an entry; a full queue is submitted first.
    ///
    /// Everything that `entry` points to must stay where it is until its last completion.
    #[inline]
    pub(super) fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // Made before, so that the entry is nowhere but in the queue: where it has an address of its own it is put together
        // there in small pieces and copied in large ones, for which the processor has to wait.
        if self.ring.submission().is_full() {
            self.make_room()?;
        }
        // SAFETY: the caller keeps what the entry points to alive until its completion; the driver does so by keeping
        // chunks, vectors and addresses in slots that are freed only after the operations on them are joined.
        if unsafe { self.ring.submission().push(entry) }.is_err() {
            return Err(no_room());
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn make_room(&mut self) -> io::Result<()> {
        while self.ring.submission().is_full() {
            self.enter(Some(Duration::ZERO))?;
            // A full completion queue can keep the kernel from taking submissions.
            self.stash.extend(self.ring.completion().map(Completion::from));
        }
        Ok(())
    }

    /// Submits what is queued and waits for a completion, at most for `timeout`; `None` waits for ever, zero only runs
    /// what is due.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.enter_with(1, timeout)
    }

    /// Submits what is queued and waits until there are so many completions, at most for `timeout`.
    pub(super) fn enter_for(&mut self, completions: u32, timeout: Duration) -> io::Result<()> {
        self.enter_with(completions, Some(timeout))
    }

    #[inline]
    fn enter_with(&mut self, completions: u32, timeout: Option<Duration>) -> io::Result<()> {
        let mut want = 0;
        let mut time = Timespec::new();
        let mut arg = GeteventsArg { sigmask: 0, sigmask_size: 0, min_wait_usec: 0, timespec: 0 };
        if timeout != Some(Duration::ZERO) && self.stash.is_empty() && self.ring.completion().is_empty() {
            want = completions;
            if let Some(timeout) = timeout {
                time = Timespec::from(timeout);
                arg.timespec = (&raw const time) as u64;
            }
        }
        let to_submit = self.ring.submission().len();
        // SAFETY: the descriptor is our ring's; `arg` and `time` are laid out as the kernel expects and outlive the call.
        // GETEVENTS always goes with it, because that is what runs deferred work.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit,
                want,
                IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | self.enter_flags,
                &raw const arg,
                size_of::<GeteventsArg>(),
            )
        };
        let _ = &time;
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The time is up, a signal came, or completions must be taken out first: all of it leads to a reap.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    /// How many completions there are at this moment, to be [taken](Self::take).
    pub(super) fn ready(&mut self) -> usize {
        let queue = self.ring.completion();
        self.overflows = u64::from(queue.overflow());
        self.stash.len() + queue.len()
    }

    /// The next completion.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Completion> {
        if !self.stash.is_empty() {
            return self.take_stashed();
        }
        self.ring.completion().next().map(Completion::from)
    }

    #[cold]
    fn take_stashed(&mut self) -> Option<Completion> {
        self.stash.pop_front()
    }

    /// Gives buffer `id` to the kernel; it may use it after [`Self::publish`].
    #[inline]
    pub(super) fn offer(&mut self, id: u16, pool: &Pool) {
        self.buffers.offer(id, pool);
    }

    /// Makes the buffers offered so far visible to the kernel.
    pub(super) fn publish(&mut self) {
        self.buffers.publish();
    }
}

#[cold]
fn no_room() -> io::Error {
    io::Error::other("the submission queue has no room")
}

/// Registers the ring's descriptor with itself, which saves a lookup at each enter (5.18).
fn register_ring_fd(fd: RawFd) -> Option<i32> {
    #[allow(clippy::cast_sign_loss)] // a descriptor is not negative
    let mut update = RsrcUpdate { offset: u32::MAX, reserved: 0, data: fd as u64 };
    // SAFETY: `fd` is a live ring, `update` is laid out as the kernel expects and outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, IORING_REGISTER_RING_FDS, &raw mut update, 1u32)
    };
    if done == 1 { i32::try_from(update.offset).ok() } else { None }
}

/// The ring through which buffers are provided to the kernel.
pub(super) struct BufferRing {
    base: NonNull<BufRingEntry>,
    entries: u16,
    tail: u16,
}

impl BufferRing {
    /// Registers a ring of `entries` (a power of two, at most 32768) with the kernel.
    pub(super) fn register(ring: &IoUring, entries: u16) -> io::Result<Self> {
        assert!(entries.is_power_of_two());
        let bytes = entries as usize * size_of::<BufRingEntry>();
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(base) = NonNull::new(base.cast::<BufRingEntry>()) else {
            return Err(io::Error::other("mmap returned address 0"));
        };
        let this = Self { base, entries, tail: 0 };
        // SAFETY: the mapping is page-aligned, as large as the entries need, zeroed, and is unmapped only by `drop`, when
        // the io_uring instance is gone: `Kernel` declares it behind the ring, and `probe` drops it with the ring drained.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(base.as_ptr() as u64, entries, BUFFER_GROUP, 0)?;
        }
        Ok(this)
    }

    #[inline]
    fn offer(&mut self, id: u16, pool: &Pool) {
        let index = self.tail & (self.entries - 1);
        // SAFETY: `index` is below `entries`, so the entry lies in the mapping, and the kernel does not read it before the
        // tail passes it.
        let entry = unsafe { &mut *self.base.as_ptr().add(index as usize) };
        entry.set_addr(pool.address(id) as u64);
        #[allow(clippy::cast_possible_truncation)] // the configuration bounds buffers to 256 KiB
        entry.set_len(pool.buffer_size() as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail lies in the reserved field of the first entry (io_uring_buf_ring(7)), inside the mapping,
        // aligned to 2 bytes; the kernel reads it atomically, so we write it so.
        let tail = unsafe { &*BufRingEntry::tail(self.base.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let bytes = self.entries as usize * size_of::<BufRingEntry>();
        // SAFETY: mapped in `register` with this length. The kernel pins the pages of a registered ring itself, so even a
        // ring that is still alive does not lose them.
        unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
    }
}
