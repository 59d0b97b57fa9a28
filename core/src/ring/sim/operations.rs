//! What rings have in flight, and how it completes.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::Entry;

use super::super::kernel::Completion;
use super::fds::{self, Token};
use super::net::{End, EndId, Found, Holder, OpId};
use super::world::{Event, Happening, Socket, World};
use crate::base::clock::Micros;

/// The descriptor is a place in the table of registered files.
const FIXED_FILE: u8 = 1;
/// Completions without success are posted for these entries, too.
const SKIP_SUCCESS: u8 = 1 << 6;
/// `IORING_CQE_F_BUFFER` and `IORING_CQE_F_MORE`.
const F_BUFFER: u32 = 1;
const F_MORE: u32 = 2;
/// How long the ring of a killed process may go on to be told of connections.
const HAUNTED_US: usize = 1_500_000;
/// Receives that one pass of a multishot recv brings at most.
const PASSES: usize = 4;

pub(super) struct RingState {
    pub(super) alive: bool,
    pub(super) completions: VecDeque<Completion>,
    /// Its wait is over then.
    pub(super) wake_at: Micros,
    /// Or when there are so many completions.
    pub(super) waits_for: usize,
    /// When it was entered last: what its driver takes for the time until it is entered again.
    entered_at: Micros,
    /// It gets no CPU before.
    pub(super) stalled_until: Micros,
    /// Published buffers: number, address, size.
    buffers: VecDeque<(u16, usize, usize)>,
    pub(super) operations: BTreeMap<u32, Flying>,
    /// What is in flight by its `user_data`.
    by_data: BTreeMap<u64, u32>,
    /// Registered files.
    files: Vec<Option<OwnedFd>>,
    /// Accepted descriptors of which the ring has not heard yet, and the `user_data` of their completions.
    fresh: Vec<(u64, i32)>,
}

pub(super) struct Flying {
    user_data: u64,
    pub(super) kind: Operation,
    /// An event will look at it.
    scheduled: bool,
    cancelling: bool,
    /// The file of a socket whose descriptor has been closed meanwhile.
    file: Option<OwnedFd>,
}

#[derive(Debug)]
pub(super) enum Operation {
    /// The bytes after which it ends.
    Recv(EndId, Option<usize>),
    /// Pieces: address and length.
    Send(EndId, Vec<(usize, usize)>),
    Connect(EndId),
    Accept(u32),
    /// The descriptor is kept open until the watch ends.
    Poll(OwnedFd),
}

/// The fields of a `struct io_uring_sqe` that are looked at.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    _ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    _op_flags: u32,
    user_data: u64,
    _buf: u16,
    _personality: u16,
    optlen: u32,
    _rest: [u64; 2],
}

impl Sqe {
    fn of(entry: &Entry) -> Self {
        const _: () = assert!(size_of::<Sqe>() == size_of::<Entry>());
        // SAFETY: an entry is the 64 bytes of a `struct io_uring_sqe`, plain integers throughout, which `Sqe` names at
        // their places.
        unsafe { std::ptr::from_ref(entry).cast::<Self>().read_unaligned() }
    }
}

impl World {
    pub(super) fn new_ring(&mut self) -> u32 {
        self.rings.push(RingState {
            alive: true,
            completions: VecDeque::new(),
            wake_at: 0,
            waits_for: 1,
            entered_at: self.now,
            stalled_until: 0,
            buffers: VecDeque::new(),
            operations: BTreeMap::new(),
            by_data: BTreeMap::new(),
            files: Vec::new(),
            fresh: Vec::new(),
        });
        self.rings.len() as u32 - 1
    }

    pub(super) fn end_ring(&mut self, ring: u32) {
        let state = &mut self.rings[ring as usize];
        (state.alive, state.wake_at) = (false, Micros::MAX);
        state.completions.clear();
        state.buffers.clear();
        state.files.clear();
        for op in state.operations.keys().copied().collect::<Vec<_>>() {
            self.remove((ring, op));
        }
    }

    /// The process of a ring is killed: what is in flight is gone, and what it has not heard of is closed.
    pub(super) fn kill(&mut self, ring: u32) {
        let fresh = std::mem::take(&mut self.rings[ring as usize].fresh);
        for listener in &mut self.listeners {
            if listener.accepts.iter().any(|(of, _)| *of == ring) && self.random.below(2) == 0 {
                // The kernel takes the ring apart a while after the end of the process was seen.
                listener.haunted_until = self.now + self.random.below(HAUNTED_US) as u64;
            }
        }
        self.end_ring(ring);
        for (_, fd) in fresh {
            fds::close(fd);
        }
    }

    /// The last descriptors of a killed process are closed: connections that nobody else has are cut off with it.
    pub(super) fn lose(&mut self, fd: i32) {
        if let Some(end) = self.end_of(fd) {
            self.cut.insert(end.conn);
        }
        fds::close(fd);
    }

    pub(super) fn publish(&mut self, ring: u32, offered: &mut Vec<(u16, usize, usize)>) {
        self.rings[ring as usize].buffers.extend(offered.drain(..));
    }

    /// The ring waits for so many completions, so long at most.
    pub(super) fn wait(&mut self, ring: u32, completions: usize, timeout: Option<Duration>) {
        let state = &mut self.rings[ring as usize];
        state.waits_for = completions;
        // Time passes between two turns here, where a real ring waits within one: the driver has counted from the last one.
        let from = std::mem::replace(&mut state.entered_at, self.now);
        state.wake_at = match timeout {
            None => Micros::MAX,
            Some(timeout) => from.saturating_add(timeout.as_micros() as Micros),
        };
    }

    pub(super) fn reap(&mut self, ring: u32, out: &mut VecDeque<Completion>) {
        let mut count = self.rings[ring as usize].completions.len();
        if count > 1 && self.chance(self.faults.few_completions) {
            self.count("fault: completions held back");
            count = 1 + self.random.below(count - 1);
        }
        let state = &mut self.rings[ring as usize];
        if count > 0 {
            // What follows from them has to be submitted.
            state.wake_at = 0;
        }
        for completion in state.completions.drain(..count) {
            state.fresh.retain(|fresh| *fresh != (completion.user_data, completion.result));
            out.push_back(completion);
        }
    }

    fn post(&mut self, (ring, _): OpId, user_data: u64, result: i32, flags: u32) {
        self.note(|| format!("ring {ring} completes {user_data:#x}: {result}, flags {flags:#x}"));
        self.rings[ring as usize].completions.push_back(Completion { user_data, result, flags });
    }

    fn remove(&mut self, (ring, op): OpId) -> Option<Flying> {
        let state = &mut self.rings[ring as usize];
        let flying = state.operations.remove(&op)?;
        state.by_data.remove(&flying.user_data);
        match flying.kind {
            Operation::Recv(end, _) => self.end(end).recv = None,
            Operation::Send(end, _) => self.end(end).send = None,
            Operation::Connect(end) => self.end(end).connect = None,
            Operation::Accept(listener) => {
                self.listeners[listener as usize].accepts.retain(|accept| *accept != (ring, op));
            }
            Operation::Poll(ref fd) => self.eyes.forget(fd),
        }
        Some(flying)
    }

    /// An operation is over.
    fn finish(&mut self, id: OpId, result: i32, flags: u32) {
        if let Some(mut flying) = self.remove(id) {
            self.post(id, flying.user_data, result, flags);
            if let Some(file) = flying.file.take() {
                drop(file);
                self.look();
            }
        }
    }

    /// Has an operation looked at, now or a little later.
    pub(super) fn schedule(&mut self, (ring, op): OpId, event: fn(u32, u32) -> Event) {
        let Some(flying) = self.rings[ring as usize].operations.get_mut(&op) else { return };
        if std::mem::replace(&mut flying.scheduled, true) {
            return;
        }
        let after =
            if self.chance(self.faults.late) { self.random.below(self.faults.late_us + 1) } else { 0 };
        self.at(self.now + after as Micros, event(ring, op));
    }

    fn start(&mut self, ring: u32, user_data: u64, kind: Operation) -> OpId {
        self.next_op += 1;
        let op = self.next_op;
        let state = &mut self.rings[ring as usize];
        if state.by_data.insert(user_data, op).is_some() {
            self.violation(format!("ring {ring} has two operations {user_data:#x} in flight"));
        }
        let flying = Flying { user_data, kind, scheduled: false, cancelling: false, file: None };
        self.rings[ring as usize].operations.insert(op, flying);
        (ring, op)
    }

    pub(super) fn submit(&mut self, ring: u32, entry: &Entry) {
        let sqe = Sqe::of(entry);
        if !self.rings[ring as usize].alive {
            // What a killed process had given up already.
            if sqe.opcode == opcode::Close::CODE {
                self.lose(sqe.fd);
            }
            return;
        }
        self.note(|| {
            format!("ring {ring} submits {} {:#x} on {} ({:#x})", sqe.opcode, sqe.user_data, sqe.fd, sqe.addr)
        });
        let silent = (ring, 0);
        match sqe.opcode {
            opcode::RecvMulti::CODE => {
                let limit = (sqe.optlen > 0).then_some(sqe.optlen as usize);
                let Some(end) = self.end_of(sqe.fd) else {
                    return self.post(silent, sqe.user_data, -libc::EBADF, 0);
                };
                let id = self.start(ring, sqe.user_data, Operation::Recv(end, limit));
                if let Some(other) = self.end(end).recv.replace(id) {
                    self.violation(format!("{end:?}: recv {id:?} while {other:?} is in flight"));
                }
                self.schedule(id, Event::Recv);
            }
            opcode::Send::CODE => self.start_send(ring, &sqe, vec![(sqe.addr as usize, sqe.len as usize)]),
            opcode::SendMsg::CODE => {
                // SAFETY: the driver keeps the header and its vectors where they are until the send has completed.
                let pieces = unsafe {
                    let header = &*(sqe.addr as *const libc::msghdr);
                    std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen)
                };
                let pieces = pieces.iter().map(|piece| (piece.iov_base as usize, piece.iov_len)).collect();
                self.start_send(ring, &sqe, pieces);
            }
            opcode::Connect::CODE => self.start_connect(ring, &sqe),
            opcode::AcceptMulti::CODE => {
                let Some(Socket::Listener(listener)) = self.socket_of(sqe.fd) else {
                    return self.post(silent, sqe.user_data, -libc::EBADF, 0);
                };
                let id = self.start(ring, sqe.user_data, Operation::Accept(listener));
                self.listeners[listener as usize].accepts.push(id);
                self.at(self.now, Event::AcceptBy(listener, id.0, id.1));
            }
            opcode::PollAdd::CODE => {
                let Ok(copy) = fds::copy(sqe.fd) else {
                    return self.post(silent, sqe.user_data, -libc::EBADF, 0);
                };
                self.next_op += 1;
                let token = Token::Watch(ring, self.next_op);
                self.next_op -= 1;
                if self.eyes.watch(&copy, token).is_err() {
                    return self.post(silent, sqe.user_data, -libc::EBADF, 0);
                }
                self.start(ring, sqe.user_data, Operation::Poll(copy));
            }
            opcode::AsyncCancel::CODE => {
                let found = self.rings[ring as usize].by_data.get(&sqe.addr).copied();
                match found {
                    None => {
                        self.count("cancel that found nothing");
                        self.post(silent, sqe.user_data, -libc::ENOENT, 0);
                    }
                    Some(op) => {
                        let after = if self.chance(self.faults.late_cancel) {
                            self.count("fault: late cancel");
                            self.random.below(self.faults.late_us + 1)
                        } else {
                            0
                        };
                        if let Some(flying) = self.rings[ring as usize].operations.get_mut(&op) {
                            flying.cancelling = true;
                        }
                        self.at(self.now + after as Micros, Event::Cancel(ring, op));
                        if sqe.flags & SKIP_SUCCESS == 0 {
                            self.post(silent, sqe.user_data, 0, 0);
                        }
                    }
                }
            }
            opcode::Close::CODE => {
                if let Some(end) = self.end_of(sqe.fd) {
                    self.close_later(ring, end, sqe.fd);
                }
                fds::close(sqe.fd);
                self.look();
            }
            opcode::FilesUpdate::CODE => self.update_file(ring, &sqe),
            other => self.violation(format!("operation {other} is not simulated")),
        }
    }

    /// A descriptor is closed: its owner must have nothing in flight on it but a recv that has been told to stop, which keeps
    /// the file until it has.
    fn close_later(&mut self, ring: u32, id: EndId, fd: i32) {
        let end = self.end(id);
        let own = [end.recv, end.send, end.connect].into_iter().flatten().filter(|(of, _)| *of == ring);
        for op in own.collect::<Vec<_>>() {
            let flying = self.rings[ring as usize].operations.get_mut(&op.1);
            match (flying, fds::copy(fd)) {
                (Some(Flying { kind: Operation::Recv(..), cancelling: true, file, .. }), Ok(copy)) => {
                    *file = Some(copy);
                    self.count("closed while its recv was stopping");
                }
                _ => self.violation(format!("{id:?} is closed with {op:?} in flight")),
            }
        }
    }

    pub(super) fn register_files(&mut self, ring: u32, count: usize) {
        self.rings[ring as usize].files.resize_with(count, || None);
    }

    /// Puts a file into a place of the table, or nothing.
    fn update_file(&mut self, ring: u32, sqe: &Sqe) {
        // SAFETY: the driver keeps what is to be in a place where it is for as long as it has the ring.
        let fd = unsafe { (sqe.addr as *const i32).read() };
        let file = (fd >= 0).then(|| fds::copy(fd));
        let is_right = !matches!(file, Some(Err(_)));
        let Some(place) = self.rings[ring as usize].files.get_mut(sqe.off as usize).filter(|_| is_right)
        else {
            return self.post((ring, 0), sqe.user_data, -libc::EBADF, 0);
        };
        let before = std::mem::replace(place, file.and_then(Result::ok));
        if before.is_some() {
            drop(before);
            self.look();
        }
        if sqe.flags & SKIP_SUCCESS == 0 {
            self.count("socket registered");
            self.post((ring, 0), sqe.user_data, 1, 0);
        }
    }

    fn start_send(&mut self, ring: u32, sqe: &Sqe, pieces: Vec<(usize, usize)>) {
        let fd = if sqe.flags & FIXED_FILE > 0 {
            let file = self.rings[ring as usize].files.get(sqe.fd as usize).and_then(Option::as_ref);
            file.map_or(-1, AsRawFd::as_raw_fd)
        } else {
            sqe.fd
        };
        let Some(end) = self.end_of(fd) else {
            return self.post((ring, 0), sqe.user_data, -libc::EBADF, 0);
        };
        let id = self.start(ring, sqe.user_data, Operation::Send(end, pieces));
        if let Some(other) = self.end(end).send.replace(id) {
            self.violation(format!("{end:?}: send {id:?} while {other:?} is in flight"));
        }
        self.schedule(id, Event::Send);
    }

    fn start_connect(&mut self, ring: u32, sqe: &Sqe) {
        // SAFETY: the driver keeps the address until the entry is submitted, which is now.
        let bytes = unsafe { std::slice::from_raw_parts(sqe.addr as *const u8, sqe.off as usize) };
        let Some(to) = parse_address(bytes) else {
            return self.post((ring, 0), sqe.user_data, -libc::EAFNOSUPPORT, 0);
        };
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 30_000 + (self.conns.len() % 30_000) as u16));
        let conn = self.new_conn(End::new(Holder::App, from), End::new(Holder::Nobody, to));
        let end = EndId { conn, side: 0 };
        if self.attach(end, Some(sqe.fd)).is_err() {
            return self.post((ring, 0), sqe.user_data, -libc::ENFILE, 0);
        }
        let id = self.start(ring, sqe.user_data, Operation::Connect(end));
        self.end(end).connect = Some(id);
        let after = 2 * self.latency();
        self.note(|| format!("{end:?} connects to {to}"));
        if self.chance(self.faults.refuse) {
            self.count("fault: connect refused");
            self.note_unconnected(conn, to);
            self.at(self.now + after, Event::Refused(conn));
        } else if self.faults.black_hole == Some(to.ip()) || self.chance(self.faults.silent) {
            self.count("fault: connect without answer");
            self.note_unconnected(conn, to);
        } else {
            self.at(self.now + after, Event::Connected(conn));
        }
    }

    /// Gives an end a descriptor, or makes the one that there is stand for it.
    fn attach(&mut self, id: EndId, fd: Option<i32>) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = fds::pair()?;
        self.eyes.await_end(&ours, Token::End(id.conn, id.side))?;
        let key = fds::key_of(theirs.as_raw_fd()).unwrap_or_default();
        if let Some(fd) = fd
            && !fds::replace(fd, &theirs)
        {
            return Err(std::io::Error::last_os_error());
        }
        self.inodes.insert(key, Socket::End(id));
        let end = self.end(id);
        (end.holder, end.fd) = (Holder::App, Some((ours, key)));
        Ok(theirs)
    }

    /// The descriptor of a connection that is accepted.
    pub(super) fn give_fd(&mut self, conn: u32) -> std::io::Result<OwnedFd> {
        self.note_accepted(conn);
        self.attach(EndId { conn, side: 1 }, None)
    }

    pub(super) fn on_connected(&mut self, conn: u32) -> Happening {
        let end = EndId { conn, side: 0 };
        let Some(id) = self.end(end).connect.filter(|_| !self.conns[conn as usize].ends[0].closed) else {
            return Happening::Nothing;
        };
        self.conns[conn as usize].established = true;
        self.finish(id, 0, 0);
        let to = self.end(end.other()).address;
        Happening::Connected(to, end.other())
    }

    pub(super) fn on_refused(&mut self, conn: u32) {
        if let Some(id) = self.end(EndId { conn, side: 0 }).connect {
            self.finish(id, -libc::ECONNREFUSED, 0);
        }
    }

    pub(super) fn on_incoming(&mut self, listener: u32, conn: u32) {
        self.coming -= 1;
        if self.listeners[listener as usize].fd.is_none() {
            self.violation("a connection was on its way when the last listening socket was closed".into());
            return self.send_reset(EndId { conn, side: 1 });
        }
        self.listeners[listener as usize].queue.push_back(conn);
        self.at(self.now, Event::Accept(listener));
    }

    pub(super) fn on_listener_closed(&mut self, listener: u32) {
        let state = &mut self.listeners[listener as usize];
        if let Some((_, key)) = state.fd.take() {
            self.inodes.remove(&key);
        }
        let waiting = std::mem::take(&mut self.listeners[listener as usize].queue);
        for conn in waiting {
            self.violation(format!("connection {conn} waited in the queue of a listener that was closed"));
            self.send_reset(EndId { conn, side: 1 });
        }
    }

    /// A connection has come: the kernel tells one of those who accept, and nobody else.
    pub(super) fn run_accept(&mut self, listener: u32) {
        let state = &self.listeners[listener as usize];
        if state.haunted_until > self.now && self.random.below(4) > 0 {
            self.count("wake-up that the ring of a dead process has eaten");
            return;
        }
        if state.accepts.is_empty() {
            return;
        }
        let chosen = self.random.below(state.accepts.len());
        let (ring, op) = self.listeners[listener as usize].accepts[chosen];
        if self.is_stalled(ring as usize) {
            // It accepts when it gets the CPU again, unless it has stopped by then.
            self.at(self.rings[ring as usize].stalled_until, Event::AcceptBy(listener, ring, op));
        } else {
            self.run_accept_by(listener, (ring, op));
        }
    }

    /// Who was told of a connection accepts what waits, with the others who accept.
    pub(super) fn run_accept_by(&mut self, listener: u32, told: OpId) {
        if !self.listeners[listener as usize].accepts.contains(&told) {
            return;
        }
        let mut id = told;
        loop {
            if self.listeners[listener as usize].queue.is_empty() {
                return;
            }
            if self.chance(self.faults.accept) {
                self.count("fault: accept without descriptor");
                return self.finish(id, -libc::EMFILE, 0);
            }
            let Some(conn) = self.listeners[listener as usize].queue.pop_front() else { return };
            let Ok(fd) = self.give_fd(conn) else { return };
            self.note(|| format!("ring {} accepts connection {conn}", id.0));
            let user_data = self.rings[id.0 as usize].operations[&id.1].user_data;
            let fd = fd.into_raw_fd();
            self.rings[id.0 as usize].fresh.push((user_data, fd));
            self.post(id, user_data, fd, F_MORE);
            // Each of those that wait has woken somebody.
            let accepts = &self.listeners[listener as usize].accepts;
            let other = accepts[self.random.below(accepts.len())];
            if !self.is_stalled(other.0 as usize) {
                id = other;
            }
        }
    }

    pub(super) fn on_readable(&mut self, id: OpId) {
        let found = self.rings[id.0 as usize].operations.get(&id.1).map(|flying| flying.user_data);
        if let Some(user_data) = found {
            self.post(id, user_data, i32::from(libc::POLLIN), F_MORE);
        }
    }

    pub(super) fn run_cancel(&mut self, id: OpId) {
        let Some(flying) = self.rings[id.0 as usize].operations.get(&id.1) else {
            self.count("cancel that lost the race");
            return;
        };
        let errno = match flying.kind {
            Operation::Send(..) if self.random.below(4) == 0 => libc::EINTR,
            _ => libc::ECANCELED,
        };
        self.finish(id, -errno, 0);
    }

    pub(super) fn run_recv(&mut self, id: OpId) {
        for _ in 0..PASSES {
            let Some(flying) = self.rings[id.0 as usize].operations.get_mut(&id.1) else { return };
            flying.scheduled = false;
            let (user_data, late) = (flying.user_data, flying.cancelling);
            let Operation::Recv(end, limit) = flying.kind else { return };
            match self.find(end) {
                Found::Nothing => return,
                Found::Error(errno) => return self.finish(id, -errno, 0),
                Found::Eof => {
                    let with_buffer = self.chance(self.faults.eof_with_buffer);
                    let buffer =
                        if with_buffer { self.rings[id.0 as usize].buffers.pop_front() } else { None };
                    let flags = buffer.map_or(0, |(number, ..)| F_BUFFER | u32::from(number) << 16);
                    return self.finish(id, 0, flags);
                }
                Found::Data => {}
            }
            let Some((number, address, size)) = self.rings[id.0 as usize].buffers.pop_front() else {
                self.count("no buffer for a recv");
                return self.finish(id, -libc::ENOBUFS, 0);
            };
            if late {
                self.count("data behind a cancel");
            }
            let mut max = size.min(limit.unwrap_or(usize::MAX));
            if max > 1 && self.chance(self.faults.short_recv) {
                self.count("fault: short recv");
                max = 1 + self.random.below(max - 1);
            }
            let bytes = self.read(end, max);
            // SAFETY: the buffer is published: the driver neither reads nor frees it before this completion, and it has
            // `size` bytes, of which no more are written.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
            self.note(|| format!("ring {} receives {} bytes from {end:?}", id.0, bytes.len()));
            let left = limit.map(|limit| limit - bytes.len());
            let flags = F_BUFFER | u32::from(number) << 16;
            let ends_early = self.chance(self.faults.end_multishot);
            if left == Some(0) || ends_early {
                self.count(if ends_early { "fault: multishot ended" } else { "recv limit reached" });
                return self.finish(id, bytes.len() as i32, flags);
            }
            if let Some(flying) = self.rings[id.0 as usize].operations.get_mut(&id.1) {
                flying.kind = Operation::Recv(end, left);
            }
            self.post(id, user_data, bytes.len() as i32, flags | F_MORE);
        }
        self.schedule(id, Event::Recv);
    }

    pub(super) fn run_send(&mut self, id: OpId) {
        let Some(flying) = self.rings[id.0 as usize].operations.get_mut(&id.1) else { return };
        flying.scheduled = false;
        let Operation::Send(end, pieces) = &flying.kind else { return };
        let (end, pieces) = (*end, pieces.clone());
        let total: usize = pieces.iter().map(|(_, len)| len).sum();
        let mut max = self.room(end);
        if max == 0 && !self.end(end).broken && !self.out(end).ended {
            return;
        }
        if total > 1 && self.chance(self.faults.short_send) {
            self.count("fault: short send");
            max = max.min(1 + self.random.below(total - 1));
        }
        let mut bytes = Vec::with_capacity(total.min(max));
        for (address, len) in pieces {
            let take = len.min(max - bytes.len());
            // SAFETY: the driver keeps what an entry points to until its completion.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(address as *const u8, take) });
        }
        let result = match self.write(end, &bytes) {
            Ok(sent) => sent as i32,
            Err(errno) => -errno,
        };
        self.note(|| format!("ring {} sends {result} of {total} bytes on {end:?}", id.0));
        self.finish(id, result, 0);
    }
}

/// A socket address as the kernel is given it.
fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    let ip = match family {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?)),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
