//! The ring runtime of one worker: sockets, tasks and timers on one io_uring instance.
//!
//! # Sockets own, futures wait
//!
//! Every kernel operation belongs to a slot of the [`driver`], never to a future: the slot owns the descriptor, the
//! buffers that the kernel reads and writes, and the knowledge of what is in flight. A task looks at slot state, asks
//! for things by changing it, and waits to be woken ([`Ring::wait`]); dropping a future therefore drops no memory that
//! the kernel uses, and needs no cancellation. A dropped [`Socket`] closes: the slot lives on until everything in
//! flight on it has been stopped and joined, then its descriptor is closed and its generation moves on, so a late
//! completion finds nothing to harm.
//!
//! Nothing is allocated per operation, and nothing here is shared with another thread but the [`mailbox`].
//!
//! The public items of this module are the whole façade. A second implementation on virtual time can stand in for it;
//! it knows nothing of HTTP, configuration or workers.
#![allow(unsafe_code)] // one of the two places where it is; each block says why it is sound

mod buffers;
mod driver;
#[cfg_attr(feature = "sim", allow(dead_code))] // the simulator needs the probe's part of it only
mod kernel;
pub mod mailbox;
mod moderation;
mod pair;
mod queue;
mod readiness;
mod schedule;
mod setup;
#[cfg(feature = "sim")]
pub mod sim;
mod socket;
mod supply;
#[cfg(not(feature = "sim"))]
mod sys;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockAddr;

pub use self::buffers::{Chunk, WriteBuf};
pub use self::driver::RingStats;
use self::driver::{Driver, Listener, touch, touch_restored};
#[cfg(not(feature = "sim"))]
use self::kernel::Kernel;
pub use self::pair::{Between, Half};
pub use self::readiness::readiness;
use self::schedule::Task;
pub use self::schedule::TaskId;
pub use self::setup::{Capabilities, Unsupported, probe};
#[cfg(feature = "sim")]
use self::sim::{Kernel, sys};
use self::socket::Slot;
pub use self::socket::{Link, SocketState};
use crate::base::clock::{Micros, Millis};
use crate::base::limits;
use crate::base::slots::SlotId;

/// How long the end of a worker waits for the kernel to let go of its buffers.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// A stream socket to connect with.
///
/// # Errors
/// When there are too many open files, or there is no memory.
pub fn stream_socket(domain: socket2::Domain) -> io::Result<socket2::Socket> {
    sys::socket(domain)
}

/// A worker's ring; cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct Ring {
    shared: Rc<Shared>,
}

struct Shared {
    driver: RefCell<Driver>,
    current: Cell<TaskId>,
    /// What the task that is running waits for at most, if it has said so.
    deadline: Cell<Option<Millis>>,
    pool: buffers::Pool,
}

impl Ring {
    /// Sets up a ring with receive buffers of `buffer_size` bytes that take `buffer_memory` bytes at most. Where messages are
    /// dense it waits up to `moderation_us` microseconds to have several of them at a time; 0: never.
    ///
    /// # Errors
    /// What the kernel says when it refuses; see [`probe`] for an explanation.
    pub fn new(
        buffer_size: usize,
        buffer_memory: usize,
        moderation_us: u32,
        capabilities: &Capabilities,
    ) -> io::Result<Self> {
        let count =
            (buffer_memory / buffer_size).clamp(limits::INITIAL_RECEIVE_BUFFERS, limits::MAX_RECEIVE_BUFFERS);
        let pool = buffers::Pool::new(count, buffer_size)?;
        let driver =
            Driver::new(pool.clone(), capabilities.recv_limit, capabilities.registered_files, moderation_us)?;
        Ok(Self {
            shared: Rc::new(Shared {
                driver: RefCell::new(driver),
                current: Cell::new(TaskId::NONE),
                deadline: Cell::new(None),
                pool,
            }),
        })
    }

    /// Runs tasks until `root` is done, then stops everything else and joins what is in flight.
    ///
    /// # Errors
    /// When the ring itself fails; nothing a peer does leads there.
    pub fn run(&self, root: impl Future<Output = ()> + 'static) -> io::Result<()> {
        let mut run = self.begin(root);
        while run.turn() {}
        run.into_result()
    }

    /// The same turn by turn, for whoever drives several rings in one thread.
    pub fn begin(&self, root: impl Future<Output = ()> + 'static) -> Run {
        Run { root: self.spawn(root), ring: self.clone(), finishing: None, result: Ok(()) }
    }

    #[cold]
    fn end(&self, id: TaskId, task: Task) {
        self.shared.current.set(TaskId::NONE);
        // Dropping it may close sockets, which needs the driver.
        drop(task);
        self.shared.driver.borrow_mut().schedule.remove(id);
    }

    /// Starts a task.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.shared.driver.borrow_mut().schedule.add(Box::pin(future))
    }

    /// The task that is running.
    #[must_use]
    pub fn current_task(&self) -> TaskId {
        self.shared.current.get()
    }

    /// Wakes a task of this worker.
    pub fn wake(&self, task: TaskId) {
        self.shared.driver.borrow_mut().schedule.wake(task);
    }

    /// Wakes every task of this worker, because something has changed that concerns all.
    pub fn wake_all(&self) {
        self.shared.driver.borrow_mut().schedule.wake_all();
    }

    /// Waits until something happens to one of the task's sockets, listeners or mailboxes, somebody wakes it, or
    /// `deadline` comes. May also return without a reason: callers look at their sockets' state and at the clock.
    ///
    /// To be awaited at once.
    #[inline]
    pub fn wait(&self, deadline: Millis) -> Wait {
        self.shared.deadline.set(Some(deadline));
        Wait { waiting: false }
    }

    /// The time of this turn of the loop.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.shared.driver.borrow().now
    }

    /// The time of the current turn in microseconds, for measuring.
    #[must_use]
    pub fn now_us(&self) -> Micros {
        self.shared.driver.borrow().now_us
    }

    /// Has `task` woken when `fd`, which must stay open until the guard is dropped, has something to read.
    #[must_use]
    pub fn watch(&self, fd: RawFd, task: TaskId) -> Watching {
        Watching { id: self.shared.driver.borrow_mut().watch(fd, task), ring: self.clone() }
    }

    /// An empty buffer to write a head into.
    #[must_use]
    pub fn write_buf(&self) -> WriteBuf {
        self.shared.pool.write_buf()
    }

    /// Takes over a connected stream socket. It belongs to no task yet.
    #[must_use]
    pub fn adopt(&self, fd: OwnedFd) -> Socket {
        Socket { id: self.shared.driver.borrow_mut().adopt(fd), ring: self.clone() }
    }

    /// Takes over a connected stream socket from another process.
    #[must_use]
    pub fn restore(&self, fd: OwnedFd, state: &SocketState) -> Socket {
        let socket = self.adopt(fd);
        self.shared.driver.borrow_mut().restore(socket.id, state);
        socket
    }

    /// Connects `fd` to `address`; [`Status::link`] tells how it went.
    #[must_use]
    pub fn connect(&self, fd: OwnedFd, address: &SockAddr) -> Socket {
        Socket {
            id: self.shared.driver.borrow_mut().connect(fd, Box::new(address.clone())),
            ring: self.clone(),
        }
    }

    /// Accepts on a listening socket, on behalf of `task`.
    #[must_use]
    pub fn listen(&self, fd: OwnedFd, task: TaskId) -> Acceptor {
        let mut driver = self.shared.driver.borrow_mut();
        let id = driver.listeners.insert(Listener {
            fd,
            task,
            armed: false,
            paused: false,
            closing: false,
            accepted: std::collections::VecDeque::new(),
            error: None,
        });
        driver.touch_listener(id);
        drop(driver);
        Acceptor { id, ring: self.clone() }
    }

    /// Makes the running task the one that hears of sockets that belong to no task.
    pub fn adopt_orphans(&self) {
        self.shared.driver.borrow_mut().orphan_task = self.current_task();
    }

    /// The next socket without a task to which something happened.
    #[must_use]
    pub fn next_orphan(&self) -> Option<SocketId> {
        self.shared.driver.borrow_mut().orphans.pop_front().map(SocketId)
    }

    /// What the ring has seen so far.
    #[must_use]
    pub fn stats(&self) -> RingStats {
        self.shared.driver.borrow().stats()
    }
}

/// See [`Ring::begin`].
pub struct Run {
    ring: Ring,
    root: TaskId,
    /// Everything has been stopped; how long its end is waited for.
    finishing: Option<Instant>,
    result: io::Result<()>,
}

impl Run {
    /// Runs tasks, then enters the kernel once. False: it is over.
    pub fn turn(&mut self) -> bool {
        let shared = &self.ring.shared;
        if let Some(end) = self.finishing {
            let finished = shared.driver.borrow_mut().finish_turn(end);
            if finished.is_err() {
                tracing::warn!(
                    "the kernel did not finish all operations in time; their buffers are left to it"
                );
            }
            return finished.unwrap_or(false);
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut driver = shared.driver.borrow_mut();
        for _ in 0..limits::TASKS_PER_TURN {
            let Some((id, mut task)) = driver.schedule.next() else { break };
            drop(driver);
            shared.current.set(id);
            shared.deadline.set(None);
            if task.as_mut().poll(&mut context).is_ready() {
                self.ring.end(id, task);
                driver = shared.driver.borrow_mut();
            } else {
                driver = shared.driver.borrow_mut();
                driver.schedule.put_back(id, task, shared.deadline.get());
            }
        }
        shared.current.set(TaskId::NONE);
        if driver.schedule.is_alive(self.root) {
            self.result = driver.turn();
            if self.result.is_ok() {
                return true;
            }
        }
        // Dropping a session may close sockets, which needs the driver: take the tasks out before.
        let tasks = driver.schedule.take_all();
        drop(driver);
        drop(tasks);
        shared.driver.borrow_mut().stop();
        self.finishing = Some(sys::now() + DRAIN_PATIENCE);
        true
    }

    /// Whether there is something to do without anything happening before.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.ring.shared.driver.borrow().schedule.len() > 0
    }

    /// The process is killed: nothing of its code runs any more, and the kernel closes what it had.
    #[cfg(feature = "sim")]
    pub fn kill(self) {
        let mut driver = self.ring.shared.driver.borrow_mut();
        driver.kill();
        let tasks = driver.schedule.take_all();
        drop(driver);
        drop(tasks);
    }

    /// Its connections are cut off from here on: what their peers see is nobody's fault.
    #[cfg(feature = "sim")]
    pub fn give_up(&self) {
        self.ring.shared.driver.borrow().give_up();
    }

    /// How it went.
    ///
    /// # Errors
    /// When the ring itself has failed.
    pub fn into_result(self) -> io::Result<()> {
        self.result
    }
}

/// See [`Ring::wait`].
pub struct Wait {
    waiting: bool,
}

impl Future for Wait {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.waiting, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Names a socket without owning it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(SlotId);

/// What a socket looks like at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Connecting, connected or failed.
    pub link: Link,
    /// Bytes received and not yet taken.
    pub unread: usize,
    /// The peer has sent FIN (behind the unread bytes).
    pub eof: bool,
    /// errno of a failed receive (behind the unread bytes), or 0.
    pub recv_error: i32,
    /// errno of a failed send, or 0. What was queued is gone then.
    pub send_error: i32,
    /// Bytes queued or in flight towards the peer.
    pub unsent: usize,
    /// When a byte last came or went.
    pub activity: Millis,
}

impl Status {
    /// The receiving direction has failed and everything before that was taken.
    #[must_use]
    pub const fn is_reset(&self) -> bool {
        self.recv_error != 0 && self.unread == 0
    }

    /// The peer has ended its direction and everything before that was taken. Where something before the end was lost,
    /// because the socket was cut off for want of buffers, the end is none.
    #[must_use]
    pub const fn is_eof(&self) -> bool {
        self.eof && self.unread == 0 && self.recv_error == 0
    }
}

/// See [`Ring::watch`].
pub struct Watching {
    ring: Ring,
    id: SlotId,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ring.shared.driver.borrow_mut().remove_watch(self.id);
    }
}

/// Bytes that a socket has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes queued to be sent; whoever closes the socket subtracts what is still [unsent](Status::unsent) then.
    pub sent: u64,
}

/// A stream socket; dropping it closes it, unsent bytes are lost then.
pub struct Socket {
    ring: Ring,
    id: SlotId,
}

impl Socket {
    /// The handle of this socket.
    #[must_use]
    pub const fn id(&self) -> SocketId {
        SocketId(self.id)
    }

    /// Events of this socket wake `task` from now on; [`TaskId::NONE`] makes it an orphan.
    pub fn attach(&self, task: TaskId) {
        if let Some(slot) = self.ring.shared.driver.borrow_mut().sockets.get_mut(self.id) {
            slot.task = task;
            slot.wake_below = None;
        }
    }

    /// The state of this socket.
    #[must_use]
    pub fn status(&self) -> Status {
        let driver = self.ring.shared.driver.borrow();
        let Some(slot) = driver.sockets.get(self.id) else {
            // Not reached: the slot lives as long as this handle. A socket that is gone looks like one that failed.
            return Status {
                link: Link::Failed(libc::EBADF),
                unread: 0,
                eof: false,
                recv_error: libc::EBADF,
                send_error: libc::EBADF,
                unsent: 0,
                activity: 0,
            };
        };
        slot.status()
    }

    /// Takes the next received chunk.
    #[must_use]
    pub fn receive(&self) -> Option<Chunk> {
        let mut driver = self.ring.shared.driver.borrow_mut();
        let Driver { sockets, links, dirty, .. } = &mut *driver;
        let slot = sockets.get_mut(self.id)?;
        let chunk = links.pop_front(&mut slot.input)?;
        if slot.restored {
            touch_restored(slot, self.id, dirty);
        }
        Some(chunk)
    }

    /// Puts back what was taken and not used.
    pub fn unread(&self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        let mut driver = self.ring.shared.driver.borrow_mut();
        let Driver { sockets, links, .. } = &mut *driver;
        if let Some(slot) = sockets.get_mut(self.id) {
            links.push_front(&mut slot.input, chunk);
        }
    }

    /// Queues a chunk to send. Queueing on a failed socket drops it; [`Status::send_error`] tells.
    pub fn send(&self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        let mut driver = self.ring.shared.driver.borrow_mut();
        let Driver { sockets, links, dirty, .. } = &mut *driver;
        if let Some(slot) = sockets.get_mut(self.id)
            && slot.send_error == 0
        {
            #[allow(clippy::cast_possible_truncation)] // a buffer at most
            {
                slot.queued = slot.queued.saturating_add(chunk.len() as u32);
            }
            links.push_back(&mut slot.output, chunk);
            touch(slot, self.id, dirty);
        }
    }

    /// Wakes the task when no more than `bytes` are unsent; `None` takes that back.
    pub fn wake_when_unsent_below(&self, bytes: Option<u32>) {
        if let Some(slot) = self.ring.shared.driver.borrow_mut().sockets.get_mut(self.id) {
            slot.wake_below = bytes;
        }
    }

    /// Sends FIN behind what is queued; receiving goes on.
    pub fn shutdown_write(&self) {
        let mut driver = self.ring.shared.driver.borrow_mut();
        if let Some(slot) = driver.sockets.get_mut(self.id).filter(|slot| !slot.has_ended) {
            slot.shutdown = true;
            driver.touch(self.id);
        }
    }

    /// Closes with RST: the peer learns that something was cut off.
    pub fn reset(self) {
        self.reset_at_close();
    }

    /// Has the connection closed with RST when this is dropped.
    pub fn reset_at_close(&self) {
        if let Some(slot) = self.ring.shared.driver.borrow_mut().sockets.get_mut(self.id) {
            slot.reset = true;
        }
    }

    /// The bytes that have come and gone since this was last asked.
    #[must_use]
    pub fn take_traffic(&self) -> Traffic {
        let mut driver = self.ring.shared.driver.borrow_mut();
        driver.sockets.get_mut(self.id).map_or_else(Traffic::default, Slot::take_traffic)
    }

    /// Stops what is in flight, because the connection is to be handed to another process. The task is woken when
    /// something has come to its end; [`is_still`](Self::is_still) tells when everything has.
    pub fn freeze(&self) {
        self.ring.shared.driver.borrow_mut().freeze(self.id);
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.ring.shared.driver.borrow_mut().thaw(self.id);
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.ring.shared.driver.borrow().sockets.get(self.id).is_none_or(|slot| slot.is_joined())
    }

    /// What there is to this socket beside its descriptor, all of it only when it [is still](Self::is_still).
    #[must_use]
    pub fn state(&self) -> SocketState {
        let driver = self.ring.shared.driver.borrow();
        let Some(slot) = driver.sockets.get(self.id) else { return SocketState::default() };
        let bytes = |queue| {
            let mut bytes = Vec::new();
            for chunk in driver.links.iter(queue) {
                bytes.extend_from_slice(chunk.as_slice());
            }
            bytes
        };
        SocketState {
            input: bytes(slot.input),
            output: bytes(slot.output),
            eof: slot.eof,
            shutdown: slot.shutdown,
            idle_ms: driver.now.saturating_sub(slot.activity),
        }
    }

    /// The descriptor, to be sent to another process.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn copy_fd(&self) -> io::Result<OwnedFd> {
        // SAFETY: the descriptor is open: the slot that owns it lives as long as this handle.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.raw_fd()) };
        sys::copy(fd)
    }

    /// The descriptor, for options and addresses. It stays the socket's.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.ring.shared.driver.borrow().sockets.get(self.id).map_or(-1, |slot| slot.fd)
    }

    /// Address of the peer, if it has one.
    #[must_use]
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        sys::peer_of(self.raw_fd())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.ring.shared.driver.borrow_mut().close(self.id);
    }
}

/// A listening socket that is being accepted on; dropping it closes it.
pub struct Acceptor {
    ring: Ring,
    id: SlotId,
}

impl Acceptor {
    /// The next accepted connection, or why accepting stopped (then it is paused). The task is woken when there is more.
    #[must_use]
    pub fn take(&self) -> Option<Result<OwnedFd, i32>> {
        let mut driver = self.ring.shared.driver.borrow_mut();
        let listener = driver.listeners.get_mut(self.id)?;
        if let Some(fd) = listener.accepted.pop_front() {
            return Some(Ok(fd));
        }
        listener.error.take().map(Err)
    }

    /// The address that it is bound to, as configurations have it; empty if it cannot be told.
    #[must_use]
    pub fn local_address(&self) -> String {
        let driver = self.ring.shared.driver.borrow();
        let Some(listener) = driver.listeners.get(self.id) else { return String::new() };
        sys::local_address(listener.fd.as_fd())
    }

    /// Stops accepting; what is accepted already can still be taken.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Accepts again.
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let mut driver = self.ring.shared.driver.borrow_mut();
        if let Some(listener) = driver.listeners.get_mut(self.id)
            && listener.paused != paused
        {
            listener.paused = paused;
            driver.touch_listener(self.id);
        }
    }

    /// Whether no accept is in flight, as it is some time after [`pause`](Self::pause).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ring.shared.driver.borrow().listeners.get(self.id).is_none_or(|listener| !listener.armed)
    }

    /// Accepts what the kernel's queue holds at this moment, without the ring; for the end of a listener, whose queue
    /// would be reset when it closes. Call it when [`is_idle`](Self::is_idle).
    #[must_use]
    pub fn drain_queue(&self) -> Vec<OwnedFd> {
        let driver = self.ring.shared.driver.borrow();
        let Some(listener) = driver.listeners.get(self.id) else { return Vec::new() };
        sys::accept_all(listener.fd.as_fd())
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.ring.shared.driver.borrow_mut().close_listener(self.id);
    }
}
