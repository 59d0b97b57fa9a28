//! The driver: turns completions into slot state and wake-ups, and slot state into submissions.
//!
//! One turn is: reap completions, run the tasks they woke, then [`Driver::flush`] what the tasks left behind (buffers
//! to give back, chunks to send, sockets to close) and enter the kernel once.

mod closing;
mod files;
mod flushing;
mod moving;
mod pressure;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};
use socket2::SockAddr;

use super::buffers::{Chunk, Pool};
use super::kernel::Completion;
use super::moderation::Moderation;
use super::queue::Links;
use super::schedule::{Schedule, TaskId};
use super::socket::{Kind, Link, Recv, SendVectors, Slot, cancel_entry};
use super::supply::Supply;
use super::{Kernel, sys};
use crate::base::clock::{Micros, Millis, NEVER};
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::base::slots::{SlotId, Slots};

/// A listening socket with a multishot accept.
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) task: TaskId,
    pub(super) armed: bool,
    pub(super) paused: bool,
    pub(super) closing: bool,
    pub(super) accepted: VecDeque<OwnedFd>,
    pub(super) error: Option<i32>,
}

/// A descriptor whose readability wakes a task.
pub(super) struct Watch {
    pub(super) fd: RawFd,
    pub(super) task: TaskId,
}

/// What the ring itself has seen; shown to the operator.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingStats {
    /// Times a recv found no buffer.
    pub no_buffers: u64,
    /// Completions that found the completion queue full (none is lost).
    pub completion_overflows: u64,
    /// Sockets cut off because they kept buffers that others waited for.
    pub cut_off: u64,
    /// Enters of the kernel.
    pub enters: u64,
    /// Of these, enters that waited for several events.
    pub moderated: u64,
    /// Operations submitted.
    pub submissions: u64,
    /// Completions taken.
    pub completions: u64,
    /// Sockets, closing ones included.
    pub sockets: usize,
    /// Receive buffers in use so far: at the kernel's hand, held, or waiting to be needed again.
    pub buffers: usize,
    /// Receive buffers held.
    pub buffers_in_use: usize,
}

/// What the clock shows when a ring begins: a point so late that moments before it, such as when a connection was last
/// used in the process before, can be told.
const EPOCH_US: Micros = 1 << 52;

/// Who is charged for buffers that nobody is charged for.
const NOBODY: SlotId = SlotId { index: u32::MAX, generation: 0 };

pub(super) struct Driver {
    kernel: Kernel,
    pub(super) pool: Pool,
    pub(super) sockets: Slots<Slot>,
    pub(super) listeners: Slots<Listener>,
    pub(super) watches: Slots<Watch>,
    pub(super) links: Links,
    pub(super) schedule: Schedule,
    /// Sockets without a task to which something happened.
    pub(super) orphans: VecDeque<SlotId>,
    pub(super) orphan_task: TaskId,
    pub(super) now: Millis,
    pub(super) now_us: Micros,
    pub(super) stats: RingStats,
    pub(super) dirty: Vec<SlotId>,
    dirty_listeners: Vec<SlotId>,
    parked: VecDeque<SlotId>,
    #[allow(clippy::vec_box)] // the kernel knows their addresses
    vectors: Vec<Box<SendVectors>>,
    free_vectors: Vec<u32>,
    /// Socket addresses that the kernel has not copied yet.
    #[allow(clippy::vec_box)] // the kernel knows their addresses
    addresses: Vec<Box<SockAddr>>,
    /// Buffers that have been published at least once; the memory of the others is not even resident.
    circulating: usize,
    in_use: usize,
    /// Buffers that are back, the last on top: it is the one that a cache may still have.
    idle: Vec<u16>,
    supply: Supply,
    moderation: Moderation,
    files: files::Files,
    /// Operations that will complete.
    in_flight: usize,
    start: Instant,
    fatal: Option<io::Error>,
    /// The kernel ends a multishot recv after a number of bytes.
    recv_limit: bool,
    /// When stalled sockets are looked for next.
    stalled_check: Millis,
}

impl Driver {
    pub(super) fn new(
        pool: Pool,
        recv_limit: bool,
        registered_files: bool,
        moderation_us: u32,
    ) -> io::Result<Self> {
        let kernel = Kernel::new(limits::SUBMISSION_ENTRIES, limits::COMPLETION_ENTRIES, &pool)?;
        let places = if registered_files { kernel.register_files(limits::REGISTERED_FILES) } else { 0 };
        let mut driver = Self {
            kernel,
            pool,
            sockets: Slots::default(),
            listeners: Slots::default(),
            watches: Slots::default(),
            links: Links::default(),
            schedule: Schedule::default(),
            orphans: VecDeque::new(),
            orphan_task: TaskId::NONE,
            now: EPOCH_US / 1000,
            now_us: EPOCH_US,
            stats: RingStats::default(),
            dirty: Vec::new(),
            dirty_listeners: Vec::new(),
            parked: VecDeque::new(),
            vectors: Vec::new(),
            free_vectors: Vec::new(),
            addresses: Vec::new(),
            circulating: 0,
            in_use: 0,
            idle: Vec::new(),
            supply: Supply::new(),
            moderation: Moderation::new(moderation_us, EPOCH_US),
            files: files::Files::new(places),
            in_flight: 0,
            start: sys::now(),
            fatal: None,
            recv_limit,
            stalled_check: 0,
        };
        driver.offer_buffers();
        Ok(driver)
    }

    // ---- what tasks ask for ----

    /// Takes over a connected socket.
    pub(super) fn adopt(&mut self, fd: OwnedFd) -> SlotId {
        let id = self.sockets.insert(Slot::new(fd.into_raw_fd(), Link::Connected, self.now));
        self.touch(id);
        id
    }

    /// Connects a fresh socket.
    pub(super) fn connect(&mut self, fd: OwnedFd, address: Box<SockAddr>) -> SlotId {
        let fd = fd.into_raw_fd();
        let id = self.sockets.insert(Slot::new(fd, Link::Connecting, self.now));
        let entry = opcode::Connect::new(types::Fd(fd), address.as_ptr().cast(), address.len())
            .build()
            .user_data(Kind::Connect.user_data(id));
        // The kernel copies the address when the entry is submitted, which is over when the next enter returns.
        self.addresses.push(address);
        self.push(&entry);
        self.in_flight += 1;
        id
    }

    /// Has the socket looked at before the next enter.
    #[inline]
    pub(super) fn touch(&mut self, id: SlotId) {
        if let Some(slot) = self.sockets.get_mut(id) {
            touch(slot, id, &mut self.dirty);
        }
    }

    pub(super) fn touch_listener(&mut self, id: SlotId) {
        self.dirty_listeners.push(id);
    }

    /// Asks the recv in flight to stop; its last completion is still to come.
    pub(super) fn stop_recv(&mut self, id: SlotId) {
        if let Some(slot) = self.sockets.get_mut(id)
            && slot.recv == Recv::Armed
        {
            slot.recv = Recv::Cancelling;
            self.push(&cancel_entry(Kind::Recv, id));
        }
    }

    /// Watches `fd`, which must stay open until the watch is removed.
    pub(super) fn watch(&mut self, fd: RawFd, task: TaskId) -> SlotId {
        let id = self.watches.insert(Watch { fd, task });
        self.arm_watch(id);
        id
    }

    fn arm_watch(&mut self, id: SlotId) {
        let Some(watch) = self.watches.get(id) else { return };
        let entry = opcode::PollAdd::new(types::Fd(watch.fd), libc::POLLIN.cast_unsigned().into())
            .multi(true)
            .build()
            .user_data(Kind::Watch.user_data(id));
        self.push(&entry);
        self.in_flight += 1;
    }

    // ---- one turn ----

    /// Reads the clock, once per turn.
    pub(super) fn read_clock(&mut self) {
        #[allow(clippy::cast_possible_truncation)] // 2^64 ms are enough
        {
            self.now_us = EPOCH_US + sys::now().saturating_duration_since(self.start).as_micros() as Micros;
            self.now = self.now_us / 1000;
        }
    }

    /// Submits, and waits for something to happen unless there is work to do.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        self.supply.end_turn();
        let submitted = self.stats.submissions;
        self.flush();
        let submitted = self.stats.submissions - submitted;
        if let Some(error) = self.fatal.take() {
            return Err(error);
        }
        let timeout = if self.schedule.len() > 0 {
            Some(Duration::ZERO)
        } else {
            match self.schedule.next_timer() {
                NEVER => None,
                // The turn has taken some time since `now`, which only makes this a little late, never early.
                at => Some(Duration::from_millis(at.saturating_sub(self.now))),
            }
        };
        let timeout = if self.parked.is_empty() {
            timeout
        } else {
            let check = Duration::from_millis(limits::STALLED_CHECK_MS);
            Some(timeout.map_or(check, |timeout| timeout.min(check)))
        };
        let before = self.now;
        self.enter(timeout, submitted)?;
        self.moderation.begin_turn();
        self.stats.enters += 1;
        self.addresses.clear();
        self.read_clock();
        self.reap();
        self.moderation.end_turn(self.now_us, self.sockets.len());
        self.schedule.fire(self.now);
        if !self.parked.is_empty() && self.now >= self.stalled_check {
            // While this process got no CPU nobody could get anything from it: that is nobody's fault.
            if self.now - before >= limits::STALLED_MS {
                self.stalled_check = self.now + limits::STALLED_MS;
            } else {
                self.stalled_check = self.now + limits::STALLED_CHECK_MS;
                self.cut_off_stalled();
            }
        }
        Ok(())
    }

    /// Enters the kernel, and waits for one completion or, where messages are dense, for several.
    #[inline]
    fn enter(&mut self, timeout: Option<Duration>, submitted: u64) -> io::Result<()> {
        let wait = self.moderation.wait_us();
        if wait == 0 || timeout == Some(Duration::ZERO) || !self.parked.is_empty() {
            return self.kernel.enter(timeout);
        }
        // Bounded by time, too: not every operation completes, and what has completed waits meanwhile.
        let wait = match Duration::from_micros(wait) {
            _ if is_on(Mutation::EventsWaitedForEver) => Duration::from_secs(3600),
            wait => timeout.map_or(wait, |timeout| timeout.min(wait)),
        };
        self.stats.moderated += 1;
        // Most of what was submitted are sends, which complete at once: it is what comes behind them that counts.
        let events = u32::try_from(limits::MODERATION_EVENTS + submitted).unwrap_or(u32::MAX);
        self.kernel.enter_for(events, wait)
    }

    pub(super) fn close_listener(&mut self, id: SlotId) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        listener.closing = true;
        if listener.armed {
            self.push(&cancel_entry(Kind::Accept, id));
        } else {
            self.listeners.remove(id);
        }
    }

    pub(super) fn remove_watch(&mut self, id: SlotId) {
        self.push(&cancel_entry(Kind::Watch, id));
        self.watches.remove(id);
    }

    pub(super) fn stats(&self) -> RingStats {
        RingStats {
            completion_overflows: self.kernel.overflows,
            buffers: self.circulating,
            buffers_in_use: self.in_use,
            sockets: self.sockets.len(),
            ..self.stats
        }
    }

    // ---- from completions to slot state ----

    /// Acts on the completions that are there.
    fn reap(&mut self) {
        let ready = self.kernel.ready();
        self.stats.completions += ready as u64;
        for _ in 0..ready {
            let Some(completion) = self.kernel.take() else { break };
            self.complete(completion);
        }
    }

    #[inline]
    fn complete(&mut self, completion: Completion) {
        let Some((kind, id)) = Kind::parse(completion.user_data) else { return };
        if kind == Kind::Silent {
            return;
        }
        if !completion.more() {
            self.in_flight -= 1;
        }
        // These two are nearly all that there are.
        if kind == Kind::Recv {
            self.on_recv(id, completion);
        } else if kind == Kind::Send {
            self.on_send(id, completion.result);
        } else {
            self.on_other(kind, id, completion);
        }
    }

    #[inline(never)]
    fn on_other(&mut self, kind: Kind, id: SlotId, completion: Completion) {
        match kind {
            Kind::Connect => self.on_connect(id, completion.result),
            Kind::Accept => self.on_accept(id, completion),
            Kind::Watch => self.on_watch(id, completion),
            Kind::File => self.on_file(id, completion.result),
            Kind::Recv | Kind::Send | Kind::Silent => {}
        }
    }

    #[inline]
    fn on_recv(&mut self, id: SlotId, completion: Completion) {
        let buffer = completion.buffer();
        self.in_use += usize::from(buffer.is_some());
        let quota = self.quota();
        let Some(slot) = self.sockets.get_mut(id) else {
            self.drop_buffer(buffer);
            return;
        };
        if !completion.more() {
            slot.recv = Recv::Idle;
        }
        // Nothing may follow an error: the stream has a gap there.
        let is_lost = is_on(Mutation::LostLateCompletion) && slot.recv == Recv::Cancelling;
        if slot.closing || slot.recv_error != 0 || is_lost {
            self.on_recv_in_vain(id, buffer);
            return;
        }
        let (len @ 1.., Some(buffer)) = (completion.result, buffer) else {
            self.on_recv_end(id, completion.result, buffer);
            return;
        };
        #[allow(clippy::cast_sign_loss)] // the pattern says that it is positive
        let len = len as usize;
        slot.activity = self.now;
        #[allow(clippy::cast_possible_truncation)] // a buffer at most
        {
            slot.received = slot.received.saturating_add(len as u32);
        }
        self.supply.received(len);
        self.moderation.received(len, &mut slot.seen_in);
        let chunk = self.pool.receive(buffer, len, id);
        if slot.input.is_empty() {
            slot.held += 1;
            self.links.push_back(&mut slot.input, chunk);
        } else {
            push_behind(&mut self.links, slot, chunk);
        }
        let task = slot.task;
        if slot.recv == Recv::Idle {
            touch(slot, id, &mut self.dirty);
        } else if slot.recv == Recv::Armed && slot.holds(self.pool.buffer_size()) >= quota {
            slot.throttled = true;
            self.stop_recv(id);
        }
        self.wake(id, task);
    }

    /// A recv has completed on a socket that wants nothing any more.
    #[cold]
    fn on_recv_in_vain(&mut self, id: SlotId, buffer: Option<u16>) {
        self.drop_buffer(buffer);
        self.touch(id);
        // One that was cut off while it was being stopped: whoever is to hand it over waits for this.
        let waits = |slot: &&mut Slot| slot.frozen && !slot.closing && slot.recv == Recv::Idle;
        if let Some(task) = self.sockets.get_mut(id).filter(waits).map(|slot| slot.task) {
            self.wake(id, task);
        }
    }

    /// A recv has brought no bytes.
    #[cold]
    fn on_recv_end(&mut self, id: SlotId, result: i32, buffer: Option<u16>) {
        self.drop_buffer(buffer);
        let at_hand = self.at_hand();
        let Some(slot) = self.sockets.get_mut(id) else { return };
        let mut wake = true;
        match -result {
            // The kernel tells of a reset once. Where the send was told, the recv sees an end, which it is not.
            0 if slot.send_error == libc::ECONNRESET && !is_on(Mutation::ResetTakenForEnd) => {
                slot.recv_error = libc::ECONNRESET;
            }
            0 => {
                slot.eof = true;
                self.moderation.received(0, &mut slot.seen_in);
            }
            libc::ENOBUFS => {
                self.stats.no_buffers += 1;
                self.supply.ran_out();
                wake = false;
                // This may be seen so late (behind an overflow of the queue) that buffers have come back since. Then it is
                // tried again: who waits is looked at only when one comes back.
                if at_hand == 0 {
                    slot.parked = true;
                    self.parked.push_back(id);
                }
            }
            // Asked to stop because of the quota; flush arms it again when the quota allows.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => wake = false,
            errno => slot.recv_error = errno,
        }
        let task = slot.task;
        if slot.recv == Recv::Idle {
            wake |= slot.frozen;
            touch(slot, id, &mut self.dirty);
        }
        if wake {
            self.wake(id, task);
        }
    }

    /// Gives back a buffer for which nobody is charged, if there is one.
    fn drop_buffer(&self, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.pool.give_back(buffer, NOBODY);
        }
    }

    #[inline]
    fn on_send(&mut self, id: SlotId, result: i32) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        slot.sending = false;
        if let Some(index) = slot.vectors {
            slot.vectors = None;
            self.free_vectors.push(index);
        }
        if slot.closing {
            touch(slot, id, &mut self.dirty);
            return;
        }
        let Ok(sent @ 1..) = usize::try_from(result) else {
            self.on_send_error(id, -result);
            return;
        };
        slot.activity = self.now;
        let all = if is_on(Mutation::ShortSendTakenForWhole) { slot.output.bytes() } else { sent };
        self.links.consume(&mut slot.output, all);
        let wake = slot.frozen || slot.has_drained();
        if slot.output.is_empty() {
            // At once: the last bytes wait for the FIN, to leave with it.
            slot.half_close();
        } else {
            touch(slot, id, &mut self.dirty);
        }
        if wake {
            let task = slot.task;
            self.wake(id, task);
        }
    }

    /// A send has taken nothing.
    #[cold]
    fn on_send_error(&mut self, id: SlotId, errno: i32) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        let task = slot.task;
        match errno {
            // Stopped because the socket is to be handed over (EINTR: by a kernel thread): nothing of it has gone out.
            libc::EINTR | libc::EAGAIN | libc::ECANCELED if slot.frozen => self.wake(id, task),
            libc::EINTR | libc::EAGAIN | libc::ECANCELED => touch(slot, id, &mut self.dirty),
            _ => {
                slot.send_error = if errno > 0 { errno } else { libc::EPIPE };
                self.links.clear(&mut slot.output);
                self.wake(id, task);
            }
        }
    }

    fn on_connect(&mut self, id: SlotId, result: i32) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        slot.link = if result < 0 { Link::Failed(-result) } else { Link::Connected };
        let task = slot.task;
        self.touch(id);
        self.wake(id, task);
    }

    fn on_accept(&mut self, id: SlotId, completion: Completion) {
        let accepted = owned(completion.result);
        let Some(listener) = self.listeners.get_mut(id) else { return };
        if !completion.more() {
            listener.armed = false;
        }
        match accepted {
            Some(fd) => {
                listener.accepted.push_back(fd);
                self.moderation.received(0, &mut 0);
            }
            None if matches!(-completion.result, libc::ECANCELED | libc::ECONNABORTED | libc::EINTR) => {}
            None => {
                listener.error = Some(-completion.result);
                listener.paused = true;
            }
        }
        let task = listener.task;
        if listener.closing && !listener.armed {
            self.listeners.remove(id);
        } else if !listener.armed {
            self.dirty_listeners.push(id);
        }
        self.schedule.wake(task);
    }

    fn on_watch(&mut self, id: SlotId, completion: Completion) {
        let Some(watch) = self.watches.get(id) else { return };
        let task = watch.task;
        if !completion.more() {
            self.arm_watch(id);
        }
        self.schedule.wake(task);
    }

    #[inline]
    fn wake(&mut self, id: SlotId, task: TaskId) {
        if task == TaskId::NONE {
            self.wake_orphan(id);
        } else {
            self.schedule.wake(task);
        }
    }

    #[cold]
    fn wake_orphan(&mut self, id: SlotId) {
        self.orphans.push_back(id);
        self.schedule.wake(self.orphan_task);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The simulated kernel has let go of everything.
        if self.in_flight > 0 && !cfg!(feature = "sim") {
            // The kernel may still read and write what its operations point to (after a failed drain, or when a panic
            // skipped it): better lost memory than corrupted memory.
            std::mem::forget(std::mem::take(&mut self.vectors));
            std::mem::forget(std::mem::take(&mut self.links));
            std::mem::forget(std::mem::take(&mut self.addresses));
            std::mem::forget(self.pool.clone());
        }
    }
}

/// Has the socket of `slot` looked at before the next enter.
#[inline]
pub(super) fn touch(slot: &mut Slot, id: SlotId, dirty: &mut Vec<SlotId>) {
    if !slot.dirty {
        slot.dirty = true;
        dirty.push(id);
    }
}

/// Something was taken from a socket that has come from another process: that returns no buffer, which would have the
/// socket looked at.
#[cold]
pub(super) fn touch_restored(slot: &mut Slot, id: SlotId, dirty: &mut Vec<SlotId>) {
    if slot.recv == Recv::Idle {
        touch(slot, id, dirty);
    }
}

/// Something is unread yet: a small piece is appended to the last one where that has room, so that it needs no buffer of its
/// own.
#[inline(never)]
fn push_behind(links: &mut Links, slot: &mut Slot, chunk: Chunk) {
    if chunk.len() <= limits::COALESCE_BYTES && links.append(&mut slot.input, chunk.as_slice()) {
        // Its buffer goes back at once, and nobody was charged for it.
        chunk.charge(NOBODY);
    } else {
        slot.held += 1;
        links.push_back(&mut slot.input, chunk);
    }
}

/// The descriptor that an accept brought, if it did.
fn owned(result: i32) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    if result < 0 {
        return None;
    }
    // SAFETY: a successful accept brings a fresh descriptor that nobody else knows.
    Some(unsafe { OwnedFd::from_raw_fd(result) })
}
