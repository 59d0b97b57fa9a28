//! The ring on virtual time: io_uring, sockets and the network as one simulated world in one thread.
//!
//! The cut is below the driver: [`Kernel`] takes the same submission entries and gives the same completions as the real
//! one (`ring/kernel.rs`), and [`sys`] answers the few direct calls. Everything above is the code that serves.
//!
//! A [`World`] belongs to a thread. It has the clock, the connections between simulated peers and the code under test, what
//! rings have in flight, and the randomness that decides everything. Whoever runs a simulation (`core/examples/sim`)
//! takes turns: events that are due, a turn of a ring that has something to do, and when there is neither, the clock moves
//! to the next point at which there is.
//!
//! Descriptors are real: each socket of the code under test is one end of a Unix socket pair whose other end the world
//! keeps. So copies and descriptors that travel between processes work as ever, and the world sees by the hang-up when
//! the last one is closed.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small numbers of a simulation

mod fds;
mod kernel;
mod net;
mod operations;
mod peers;
mod record;
pub(super) mod sys;
mod world;

use std::cell::RefCell;
use std::os::fd::RawFd;

pub(super) use self::kernel::Kernel;
pub use self::net::EndId;
pub use self::peers::{Broken, Read};
pub use self::world::{Await, Faults, Happening, World};

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Makes `world` the one of this thread.
pub fn install(world: World) {
    WORLD.with(|place| *place.borrow_mut() = Some(world));
}

/// Takes the world of this thread away.
pub fn uninstall() -> Option<World> {
    WORLD.with(|place| place.borrow_mut().take())
}

/// Does something to the world of this thread.
///
/// # Panics
/// If there is none.
pub fn with<R>(act: impl FnOnce(&mut World) -> R) -> R {
    #[allow(clippy::expect_used)] // nothing can be simulated without
    WORLD.with(|place| act(place.borrow_mut().as_mut().expect("no world is installed in this thread")))
}

/// A killed process had this descriptor.
pub(super) fn lose(fd: RawFd) {
    with(|world| world.lose(fd));
}

/// Peers of these connections may see them end in any way.
pub(super) fn excuse(fds: impl Iterator<Item = RawFd>) {
    with(|world| {
        for fd in fds {
            if let Some(end) = world.end_of(fd) {
                world.cut.insert(end.conn);
            }
        }
    });
}

/// The same where there may be none.
pub(super) fn try_with<R>(act: impl FnOnce(&mut World) -> R) -> Option<R> {
    WORLD.with(|place| place.try_borrow_mut().ok()?.as_mut().map(act))
}
