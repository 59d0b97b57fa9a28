//! Sockets that are registered with the ring.
//!
//! The kernel looks up the file of each operation by its descriptor and counts a reference, up and down again. For a socket that
//! is sent on often it is told the file once instead (`IORING_OP_FILES_UPDATE`), and each send names its place in the
//! ring's table: 1.5 % of the CPU of a small message. Registering costs more than it saves for a few sends, so it waits
//! for some. A registered file is open whatever becomes of its descriptor: its place is cleared before that is closed.

use std::os::fd::RawFd;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};

use super::super::socket::Kind;
use super::Driver;
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::base::slots::SlotId;

/// What a place is told to hold when it is cleared.
const NOTHING: RawFd = -1;

/// The places of a ring's table of files.
pub(super) struct Files {
    /// What each place that was ever used is to hold. The kernel reads it when an update is submitted, so it does not move: it is
    /// as large as the table from the beginning.
    fds: Box<[RawFd]>,
    used: u16,
    free: Vec<u16>,
}

impl Files {
    /// For a table of so many places, which may be none.
    pub(super) fn new(places: u16) -> Self {
        Self { fds: vec![NOTHING; places.into()].into_boxed_slice(), used: 0, free: Vec::new() }
    }

    /// A free place, if there is one.
    fn take(&mut self) -> Option<u16> {
        self.free.pop().or_else(|| {
            let next = self.used;
            self.used += u16::from(usize::from(next) < self.fds.len());
            (next < self.used).then_some(next)
        })
    }

    /// Has the kernel put this file into a place, or nothing.
    ///
    /// An update that is not submitted yet may come to read what a later one is for. That does no harm: both are submitted in
    /// this order, and behind the last of them the place holds what the last was for.
    fn update(&mut self, place: u16, fd: RawFd) -> Option<Entry> {
        let at = self.fds.get_mut(usize::from(place))?;
        *at = fd;
        Some(opcode::FilesUpdate::new(&raw const *at, 1).offset(place.into()).build())
    }
}

impl Driver {
    /// Registers the file of a socket on which much is sent, if there is a place for it.
    #[cold]
    pub(super) fn register_file(&mut self, id: SlotId) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        slot.sends = 0;
        if slot.file.is_some() {
            return;
        }
        let Some(place) = self.files.take() else { return };
        slot.file = Some(place);
        if let Some(entry) = self.files.update(place, slot.fd) {
            self.in_flight += 1;
            self.push(&entry.user_data(Kind::File.user_data(id)));
        }
    }

    /// The kernel has registered a file, or has not.
    pub(super) fn on_file(&mut self, id: SlotId, result: i32) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        // One that is being closed has given its place up.
        let Some(place) = slot.file else { return };
        slot.is_registered = result == 1;
        if !slot.is_registered {
            slot.file = None;
            self.files.free.push(place);
        }
    }

    /// How many places of the table have been in use at a time.
    #[cfg(test)]
    pub(in crate::ring) fn files_used(&self) -> u16 {
        self.files.used
    }

    /// Clears the place of a socket whose descriptor is about to be closed.
    pub(super) fn forget_file(&mut self, id: SlotId) {
        let Some(slot) = self.sockets.get_mut(id) else { return };
        slot.is_registered = false;
        let Some(place) = slot.file.take() else { return };
        if let Some(entry) = self.files.update(place, NOTHING)
            && !is_on(Mutation::FileLeftRegistered)
        {
            self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(Kind::Silent.user_data(id)));
        }
        self.files.free.push(place);
    }
}

const _: () = assert!(limits::REGISTERED_FILES <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut files = Files::new(2);
        assert_eq!([files.take(), files.take(), files.take()], [Some(0), Some(1), None]);
        files.free.push(0);
        assert_eq!([files.take(), files.take()], [Some(0), None]);
        assert_eq!(Files::new(0).take(), None);
    }
}
