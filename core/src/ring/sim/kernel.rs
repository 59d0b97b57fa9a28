//! The same interface as `ring/kernel.rs`, on the world.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::squeue::Entry;

use super::super::buffers::Pool;
use super::super::kernel::Completion;
use super::{try_with, with};

/// A ring with its provided buffers.
pub(in crate::ring) struct Kernel {
    ring: u32,
    /// Never rises: the world keeps what does not fit.
    pub(in crate::ring) overflows: u64,
    queue: Vec<Entry>,
    entries: usize,
    offered: Vec<(u16, usize, usize)>,
    /// Completions that are about to be taken.
    ready: VecDeque<Completion>,
}

impl Kernel {
    /// Outside of a simulation this fails: a program with the simulator in it serves nothing.
    pub(in crate::ring) fn new(_: u32, _: u32, _: &Pool) -> io::Result<Self> {
        let (ring, entries) = try_with(|world| (world.new_ring(), world.faults.submissions.max(1)))
            .ok_or_else(|| io::Error::other("this program was built for the simulator"))?;
        Ok(Self {
            ring,
            overflows: 0,
            queue: Vec::new(),
            entries,
            offered: Vec::new(),
            ready: VecDeque::new(),
        })
    }

    pub(in crate::ring) fn register_files(&self, count: usize) -> u16 {
        with(|world| world.register_files(self.ring, count));
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    #[allow(clippy::unnecessary_wraps)] // the interface is the real one's
    pub(in crate::ring) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.queue.len() >= self.entries {
            with(|world| world.count("full submission queue"));
            self.submit();
        }
        self.queue.push(entry.clone());
        Ok(())
    }

    fn submit(&mut self) {
        let ring = self.ring;
        let queue = std::mem::take(&mut self.queue);
        with(|world| {
            for entry in &queue {
                world.submit(ring, entry);
            }
        });
        self.queue = queue;
        self.queue.clear();
    }

    /// The process is killed.
    pub(in crate::ring) fn kill(&mut self) {
        with(|world| world.kill(self.ring));
        self.submit();
    }

    /// Submits and returns: the world knows until when the ring waits.
    #[allow(clippy::unnecessary_wraps)] // the interface is the real one's
    pub(in crate::ring) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.submit();
        with(|world| world.wait(self.ring, 1, timeout));
        Ok(())
    }

    /// The same until there are so many completions.
    #[allow(clippy::unnecessary_wraps)] // the interface is the real one's
    pub(in crate::ring) fn enter_for(&mut self, completions: u32, timeout: Duration) -> io::Result<()> {
        self.submit();
        with(|world| {
            world.count("wait for several events");
            world.wait(self.ring, completions as usize, Some(timeout));
        });
        Ok(())
    }

    /// Some of the completions that there are, or all.
    pub(in crate::ring) fn ready(&mut self) -> usize {
        with(|world| world.reap(self.ring, &mut self.ready));
        self.ready.len()
    }

    pub(in crate::ring) fn take(&mut self) -> Option<Completion> {
        self.ready.pop_front()
    }

    pub(in crate::ring) fn offer(&mut self, id: u16, pool: &Pool) {
        self.offered.push((id, pool.address(id) as usize, pool.buffer_size()));
    }

    pub(in crate::ring) fn publish(&mut self) {
        with(|world| world.publish(self.ring, &mut self.offered));
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        try_with(|world| world.end_ring(self.ring));
    }
}
