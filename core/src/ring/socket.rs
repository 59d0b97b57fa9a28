//! One connected (or connecting, or closing) stream socket: what it owns and which operations it has in flight.
//!
//! A socket has at most one recv, one send and one connect in flight. It owns their buffers: received chunks wait in
//! `input` until somebody takes them, chunks to send wait in `output` until the completion that sent them.

use std::os::fd::RawFd;

use io_uring::squeue::Entry;
use io_uring::{opcode, squeue, types};

use super::kernel::BUFFER_GROUP;
use super::queue::{Links, Queue};
use super::schedule::TaskId;
use super::{Status, Traffic, sys};
use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::base::slots::SlotId;

/// What an operation is, in the top byte of its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Recv = 1,
    Send = 2,
    Connect = 3,
    Accept = 4,
    Watch = 5,
    /// Nobody waits for it: it completes silently unless it fails.
    Silent = 6,
    /// The file of a socket is registered.
    File = 7,
}

impl Kind {
    /// kind (8 bits) | generation (24) | slot (32)
    #[inline]
    pub(super) fn user_data(self, id: SlotId) -> u64 {
        u64::from(self as u8) << 56 | u64::from(id.generation) << 32 | u64::from(id.index)
    }

    #[inline]
    pub(super) fn parse(user_data: u64) -> Option<(Self, SlotId)> {
        let kind = match user_data >> 56 {
            1 => Self::Recv,
            2 => Self::Send,
            3 => Self::Connect,
            4 => Self::Accept,
            5 => Self::Watch,
            6 => Self::Silent,
            7 => Self::File,
            _ => return None,
        };
        #[allow(clippy::cast_possible_truncation)] // cutting the parts out is the point
        let id = SlotId { index: user_data as u32, generation: (user_data >> 32) as u32 & 0x00ff_ffff };
        Some((kind, id))
    }
}

/// What there is to a connected socket beside its descriptor, as one process hands it to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// Received and not used.
    pub input: Vec<u8>,
    /// To be sent.
    pub output: Vec<u8>,
    /// FIN has come.
    pub eof: bool,
    /// FIN is to be sent behind `output`.
    pub shutdown: bool,
    /// How long ago a byte last came or went, milliseconds.
    pub idle_ms: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recv {
    /// No recv is in flight.
    Idle,
    /// A multishot recv is in flight.
    Armed,
    /// It has been asked to stop; its last completion is still to come.
    Cancelling,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The connect operation is in flight.
    Connecting,
    /// Bytes can flow.
    Connected,
    /// Connecting failed with this errno.
    Failed(i32),
}

#[allow(clippy::struct_excessive_bools)] // independent facts, one byte each
pub(super) struct Slot {
    pub(super) fd: RawFd,
    /// Who is woken; nobody while the socket rests in a pool.
    pub(super) task: TaskId,
    pub(super) link: Link,
    pub(super) recv: Recv,
    pub(super) sending: bool,
    /// Sends since somebody looked whether there are many, 255 at most.
    pub(super) sends: u8,
    /// Its place in the ring's table of files, if it has asked for one.
    pub(super) file: Option<u16>,
    /// Its file is there, and it need not be named by its descriptor.
    pub(super) is_registered: bool,
    /// The send in flight uses this entry of the driver's vectors.
    pub(super) vectors: Option<u32>,
    /// The peer has sent FIN.
    pub(super) eof: bool,
    /// A FIN of ours goes out behind the last byte of `output`.
    pub(super) shutdown: bool,
    /// It has gone out, in this process.
    pub(super) has_ended: bool,
    pub(super) closing: bool,
    /// Nothing is put in flight: the socket is about to be handed to another process.
    pub(super) frozen: bool,
    /// It comes from another process: what waits in `input` may lie outside the receive buffers.
    pub(super) restored: bool,
    /// Close with RST instead of FIN.
    pub(super) reset: bool,
    /// In the driver's list of sockets to look at before the next enter.
    pub(super) dirty: bool,
    /// In the driver's list of sockets that found no buffer.
    pub(super) parked: bool,
    /// Recv was stopped because of the quota; half of what it held must be gone before it is armed again.
    pub(super) throttled: bool,
    /// The task wants to know when `output` has drained to this many bytes.
    pub(super) wake_below: Option<u32>,
    pub(super) recv_error: i32,
    pub(super) send_error: i32,
    /// Receive buffers charged to this socket.
    pub(super) held: u32,
    pub(super) input: Queue,
    pub(super) output: Queue,
    /// When a byte last came or went.
    pub(super) activity: Millis,
    /// Bytes received, and bytes queued to be sent, that nobody has accounted for yet.
    pub(super) received: u32,
    pub(super) queued: u32,
    /// The window of the driver's [`Moderation`](super::moderation::Moderation) in which something last came.
    pub(super) seen_in: u8,
}

impl Slot {
    pub(super) fn new(fd: RawFd, link: Link, now: Millis) -> Self {
        Self {
            fd,
            task: TaskId::NONE,
            link,
            recv: Recv::Idle,
            sending: false,
            sends: 0,
            file: None,
            is_registered: false,
            vectors: None,
            eof: false,
            shutdown: false,
            has_ended: false,
            closing: false,
            frozen: false,
            restored: false,
            reset: false,
            dirty: false,
            parked: false,
            throttled: false,
            wake_below: None,
            recv_error: 0,
            send_error: 0,
            held: 0,
            input: Queue::default(),
            output: Queue::default(),
            activity: now,
            received: 0,
            queued: 0,
            seen_in: 0,
        }
    }

    #[inline]
    pub(super) fn status(&self) -> Status {
        Status {
            link: self.link,
            unread: self.input.bytes(),
            eof: self.eof,
            recv_error: self.recv_error,
            send_error: self.send_error,
            unsent: self.output.bytes(),
            activity: self.activity,
        }
    }

    #[inline]
    pub(super) fn take_traffic(&mut self) -> Traffic {
        Traffic {
            received: u64::from(std::mem::take(&mut self.received)),
            sent: u64::from(std::mem::take(&mut self.queued)),
        }
    }

    /// Receive buffers of this size that the socket holds, or would if it had received itself what waits in it.
    #[inline]
    pub(super) fn holds(&self, buffer_size: usize) -> u32 {
        if !self.restored {
            return self.held;
        }
        #[allow(clippy::cast_possible_truncation)] // a queue is far below 4 GiB
        self.held.max(self.input.bytes().div_ceil(buffer_size) as u32)
    }

    /// Whether a recv should be put in flight now, given how many buffers the socket holds and may hold.
    #[inline]
    pub(super) fn wants_recv(&self, holds: u32, quota: u32) -> bool {
        self.recv == Recv::Idle
            && self.link == Link::Connected
            && !(self.eof || self.closing || self.parked || self.frozen)
            && self.recv_error == 0
            && holds < quota
            && !(self.throttled && holds > quota / 2)
    }

    #[inline]
    pub(super) fn wants_send(&self) -> bool {
        self.link == Link::Connected
            && !self.sending
            && !(self.closing || self.frozen)
            && self.send_error == 0
            && !self.output.is_empty()
    }

    /// Flags of a send that covers all of `output`. If a FIN is to follow, the kernel keeps what does not fill a segment
    /// until then ([`Self::half_close`]): the last bytes and the FIN leave together.
    #[inline]
    pub(super) const fn send_flags(&self) -> i32 {
        if self.shutdown { libc::MSG_NOSIGNAL | libc::MSG_MORE } else { libc::MSG_NOSIGNAL }
    }

    /// Sends the FIN that was asked for, if nothing is left to be sent before it.
    #[inline]
    pub(super) fn half_close(&mut self) {
        if self.shutdown {
            self.half_close_when_sent();
        }
    }

    #[cold]
    fn half_close_when_sent(&mut self) {
        if !self.sending
            && self.output.is_empty()
            // What could not be sent must not look like all there was: such a connection ends with a reset, and a peer that
            // has seen an end does not see that any more.
            && self.send_error == 0
            && !self.reset
            && self.link == Link::Connected
        {
            (self.shutdown, self.has_ended) = (false, true);
            // Through the ring this would go to a kernel thread; done directly it is one cheap call for a connection. An
            // error means that the peer is gone, which the recv tells.
            sys::shutdown_write(self.fd);
        }
    }

    /// What a send names the socket by, and the flag that says what that is.
    #[inline]
    pub(super) fn target(&self) -> (types::Fd, squeue::Flags) {
        match self.file {
            Some(place) if self.is_registered => (types::Fd(place.into()), squeue::Flags::FIXED_FILE),
            _ => (types::Fd(self.fd), squeue::Flags::empty()),
        }
    }

    /// Nothing is in flight, so the descriptor can be closed.
    pub(super) fn is_joined(&self) -> bool {
        self.recv == Recv::Idle && !self.sending && self.link != Link::Connecting
    }

    /// A multishot recv; it ends by itself after `limit` bytes where the kernel can do that.
    pub(super) fn recv_entry(&self, id: SlotId, limit: Option<u32>) -> Entry {
        let mut entry = opcode::RecvMulti::new(types::Fd(self.fd), BUFFER_GROUP)
            .build()
            .user_data(Kind::Recv.user_data(id));
        if let Some(limit) = limit {
            set_optlen(&mut entry, limit);
        }
        entry
    }

    /// Whether `output` has drained to what the task waits for.
    #[inline]
    pub(super) fn has_drained(&self) -> bool {
        let is_below = |mark: u32| self.output.bytes() <= mark as usize;
        self.wake_below.is_some_and(is_below) && !is_on(Mutation::RoomUnnoticed)
    }

    pub(super) fn close_entry(&self, id: SlotId) -> Entry {
        opcode::Close::new(types::Fd(self.fd))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Kind::Silent.user_data(id))
    }
}

/// Sets the `optlen` of an entry: for a multishot recv, the bytes after which it ends (Linux 6.17). The crate has no
/// setter for it.
fn set_optlen(entry: &mut Entry, optlen: u32) {
    /// Where `struct io_uring_sqe` has it (linux/io_uring.h).
    const OFFSET: usize = 44;
    const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() >= 4);
    // SAFETY: an entry is the 64 bytes of a `struct io_uring_sqe`, plain integers throughout; the four bytes at this
    // offset lie inside it and are aligned.
    unsafe { (&raw mut *entry).cast::<u8>().add(OFFSET).cast::<u32>().write(optlen) };
}

/// Asks the operation of this `kind` on socket `id` to stop; its own completion tells the result.
pub(super) fn cancel_entry(kind: Kind, id: SlotId) -> Entry {
    opcode::AsyncCancel::new(kind.user_data(id))
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Kind::Silent.user_data(id))
}

/// What a vectored send points to; boxed, because the kernel may read it until the completion.
pub(super) struct SendVectors {
    header: libc::msghdr,
    vectors: [libc::iovec; limits::SEND_VECTORS],
}

impl SendVectors {
    pub(super) fn new() -> Box<Self> {
        const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all fields of msghdr are integers and pointers, for which zero is a valid value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, vectors: [NOTHING; limits::SEND_VECTORS] })
    }

    /// An entry that sends the first chunks of `output`.
    pub(super) fn entry(&mut self, slot: &Slot, id: SlotId, links: &Links) -> Entry {
        let mut count = 0;
        for (vector, chunk) in self.vectors.iter_mut().zip(links.iter(slot.output)) {
            *vector = libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
            count += 1;
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = count;
        let vectors = self.vectors.get(..count).unwrap_or_default();
        let is_all = vectors.iter().map(|vector| vector.iov_len).sum::<usize>() == slot.output.bytes();
        let flags = if is_all { slot.send_flags() } else { libc::MSG_NOSIGNAL };
        let (fd, named_by) = slot.target();
        opcode::SendMsg::new(fd, &raw const self.header)
            .flags(flags.cast_unsigned())
            .build()
            .flags(named_by)
            .user_data(Kind::Send.user_data(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_goes_there_and_back() {
        let id = SlotId { index: 0xfedc_ba98, generation: 0x00ab_cdef };
        for kind in
            [Kind::Recv, Kind::Send, Kind::Connect, Kind::Accept, Kind::Watch, Kind::Silent, Kind::File]
        {
            assert_eq!(Kind::parse(kind.user_data(id)), Some((kind, id)));
        }
        assert_eq!(Kind::parse(0), None);
    }

    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<Slot>() <= 112, "{}", size_of::<Slot>());
    }
}
