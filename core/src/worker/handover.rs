//! Connections on their way from the worker of one process to a worker of the next.
//!
//! The sending side freezes the sockets of a session, waits until nothing is in flight on them, and sends the session as
//! bytes together with the descriptors. It keeps all of it until the answer has come: if the other process dies or says
//! no, the session goes on here as if nothing had been. The receiving side answers before it drives a session, so that at
//! no time two processes do.
//!
//! `send.rs` has the sending side, `take.rs` the receiving one.

mod send;
mod take;

use std::fmt;
use std::os::fd::OwnedFd;

use ouro_restart::message::{REFUSED_DESCRIPTORS, REFUSED_KIND, REFUSED_PLACE, REFUSED_SIZE};
use ouro_shm::CounterId;
use prost::Message as _;

use super::Shared;
use crate::base::clock::NEVER;
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::proxy::{Session, Step};
use crate::ring::{Link, Ring, Socket};
use crate::stats::HandoverScope;

use self::send::Staying;
pub(super) use self::send::{Mover, send_parcels};
pub(super) use self::take::{Door, take_parcels};

/// Kinds of parcels; a process refuses those that it does not know.
const TCP: &str = "tcp/1";
const HTTP1: &str = "http1/1";
const IDLE: &str = "idle/1";

/// Why a connection has not gone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stay {
    /// The other process does not take it: the code of the reason, and the reason in words.
    Refused(u32, String),
    /// No descriptor is left here to send it with.
    NoDescriptor,
    /// It is so many bytes.
    TooLarge(usize),
    /// The other process ended, or hung up, before it answered.
    Unanswered,
    /// One of its sockets has failed: it is about to end.
    Broken,
}

impl Stay {
    fn counter(&self) -> CounterId<HandoverScope> {
        match self {
            Self::Refused(REFUSED_KIND, _) => HandoverScope::CX_STAYED_KIND,
            Self::Refused(REFUSED_PLACE, _) => HandoverScope::CX_STAYED_PLACE,
            Self::Refused(REFUSED_DESCRIPTORS, _) | Self::NoDescriptor => {
                HandoverScope::CX_STAYED_DESCRIPTORS
            }
            Self::Refused(REFUSED_SIZE, _) | Self::TooLarge(_) => HandoverScope::CX_STAYED_SIZE,
            Self::Refused(..) => HandoverScope::CX_STAYED_REFUSED,
            Self::Unanswered => HandoverScope::CX_STAYED_UNANSWERED,
            Self::Broken => HandoverScope::CX_STAYED_BROKEN,
        }
    }
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(_, reason) => write!(f, "the new process does not take it: {reason}"),
            Self::NoDescriptor => write!(f, "there is no descriptor left to send it with"),
            Self::TooLarge(bytes) => {
                write!(f, "{bytes} bytes are on their way in it, more than {}", limits::PARCEL_BYTES)
            }
            Self::Unanswered => write!(f, "the new process has not answered"),
            Self::Broken => write!(f, "one of its sockets has failed"),
        }
    }
}

/// Drives a session to its end, or until another process has taken it. Where it waits the session is complete.
pub(super) async fn drive(session: &mut impl Session, shared: &Shared) {
    let ring = session.ring().clone();
    session.attach();
    #[cfg(feature = "sim")]
    super::probe::arrives(session);
    // The attempt that has left the session here.
    let mut staying: Option<Staying> = None;
    // Set while the session waits for its turn to go; made when it first has to.
    let mut queued = None;
    loop {
        #[cfg(feature = "sim")]
        super::probe::driven(session);
        let step = session.advance();
        #[cfg(feature = "sim")]
        super::probe::driven(session);
        let Step::Wait(deadline) = step else { return };
        if let Some(mover) = shared.mover()
            && mover.is_open()
            && staying.as_ref().is_none_or(|staying| !staying.is_by(&mover))
            && mover.enter(ring.current_task(), queued.get_or_insert_default(), &ring)
        {
            #[cfg(feature = "sim")]
            super::probe::departs(session);
            // In a box of its own: what is needed for this once would lie in each task for all its life.
            let moved = Box::pin(move_away(session, &mover, &ring)).await;
            mover.leave(&ring);
            match moved {
                Ok(()) => {
                    #[cfg(feature = "sim")]
                    super::probe::moves(session);
                    shared.handovers.inc(HandoverScope::CX_MOVED);
                    session.set_moved();
                    return;
                }
                Err(stay) => mover.stays(session.sockets().0, &stay),
            }
            #[cfg(feature = "sim")]
            {
                super::probe::arrives(session);
                super::probe::stays(session);
            }
            staying = Some(Staying::new(mover));
            // Something may have happened meanwhile.
            continue;
        }
        #[cfg(feature = "sim")]
        super::probe::waits(session);
        ring.wait(deadline).await;
    }
}

/// Tries to hand a session over.
async fn move_away(session: &mut impl Session, mover: &Mover, ring: &Ring) -> Result<(), Stay> {
    if !session.prepare_to_move() {
        return Err(Stay::Broken);
    }
    let (down, up) = session.sockets();
    let sockets = || std::iter::once(down).chain(up);
    sockets().for_each(Socket::freeze);
    while !sockets().all(Socket::is_still) {
        ring.wait(NEVER).await;
    }
    let moved = give(session, mover, ring).await;
    if moved.is_err() && !is_on(Mutation::ThawForgotten) {
        sockets().for_each(Socket::thaw);
    }
    if moved.is_ok() && is_on(Mutation::KeptAfterHandover) {
        sockets().for_each(Socket::thaw);
        return Err(Stay::Unanswered);
    }
    moved
}

/// Gives a session away whose sockets are still.
async fn give(session: &impl Session, mover: &Mover, ring: &Ring) -> Result<(), Stay> {
    let (down, up) = session.sockets();
    let sockets = || std::iter::once(down).chain(up);
    let is_intact = |socket: &Socket| {
        let status = socket.status();
        status.link == Link::Connected && status.recv_error == 0 && status.send_error == 0
    };
    if !sockets().all(is_intact) {
        return Err(Stay::Broken);
    }
    let parcel = session.pack();
    let kind = if parcel.http.is_some() { HTTP1 } else { TCP };
    let bytes = parcel.encode_to_vec();
    if bytes.len() > limits::PARCEL_BYTES {
        return Err(Stay::TooLarge(bytes.len()));
    }
    let fds: Result<Vec<OwnedFd>, _> = sockets().map(Socket::copy_fd).collect();
    if fds.is_err() && is_on(Mutation::DescriptorLeftOpen) {
        std::mem::forget(down.copy_fd());
    }
    mover.give(kind, bytes, fds.map_err(|_| Stay::NoDescriptor)?, ring).await
}
