//! The receiving side: parcels become sessions.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use ouro_restart::message::{
    ConnectionParcel, Message, ParcelReply, REFUSED_DESCRIPTORS, REFUSED_KIND, REFUSED_PLACE, REFUSED_SIZE,
    RefusedParcel,
};
use ouro_restart::transport::Received;
use ouro_restart::{Connection, Frame};
use prost::Message as _;

use super::{HTTP1, IDLE, TCP};
use crate::base::clock::NEVER;
use crate::base::limits;
use crate::proxy::http1::Http1;
use crate::proxy::tcp::Tcp;
use crate::proxy::{Gate, IdleParcel, Session, SessionParcel};
use crate::ring::Socket;
use crate::stats::HandoverScope;
use crate::worker::accept::Service;
use crate::worker::{Arrival, Shared};

/// What a connection of a listener needs, whoever has accepted it.
pub(in crate::worker) struct Door {
    pub(in crate::worker) listener: String,
    pub(in crate::worker) service: Service,
    pub(in crate::worker) gate: Rc<Gate>,
}

/// Why a parcel is not taken: what it is counted as, and the reason in words.
struct Refusal(u32, String);

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self(0, reason)
    }
}

/// A parcel of which not everything has come.
#[derive(Default)]
struct Incomplete {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    refusal: Option<Refusal>,
}

/// Parcels of which not everything has come, by their numbers.
#[derive(Default)]
struct Parcels(HashMap<u64, Incomplete>);

impl Parcels {
    /// Adds a piece; the parcel, when it was the last.
    fn add(&mut self, piece: ConnectionParcel, fds: Vec<OwnedFd>, fds_lost: bool) -> Option<Incomplete> {
        let known = self.0.entry(piece.id).or_default();
        known.fds.extend(fds);
        if fds_lost {
            let reason = "there is no descriptor left for it".to_owned();
            known.refusal.get_or_insert(Refusal(REFUSED_DESCRIPTORS, reason));
        }
        if known.bytes.len() + piece.bytes.len() > limits::PARCEL_BYTES {
            let reason = format!("it is larger than {} bytes", limits::PARCEL_BYTES);
            known.refusal.get_or_insert(Refusal(REFUSED_SIZE, reason));
        }
        if known.refusal.is_none() {
            known.bytes.extend_from_slice(&piece.bytes);
        } else {
            // It is answered once, when all of it has come; until then nothing of it is kept.
            *known = Incomplete { refusal: known.refusal.take(), ..Incomplete::default() };
        }
        if piece.more { None } else { self.0.remove(&piece.id) }
    }
}

/// Takes parcels until the other process hangs up.
pub(in crate::worker) async fn take_parcels(
    shared: Rc<Shared>,
    mut connection: Connection,
    _arrival: Arrival,
) {
    let ring = shared.context.ring.clone();
    let _watch = ring.watch(connection.as_fd().as_raw_fd(), ring.current_task());
    let mut parcels = Parcels::default();
    loop {
        let mut reply = ParcelReply::default();
        let mut taken: Vec<Settle> = Vec::new();
        let mut ended = None;
        while reply.accepted.len() + reply.refused.len() < limits::UNANSWERED_PARCELS {
            match connection.receive_lossy() {
                Ok(Some((
                    Received { frame: Frame { message: Message::ConnectionParcel(mut piece), .. }, fds },
                    fds_lost,
                ))) => {
                    let (id, kind) = (piece.id, std::mem::take(&mut piece.kind));
                    let Some(whole) = parcels.add(piece, fds, fds_lost) else {
                        if parcels.0.len() > limits::UNANSWERED_PARCELS {
                            ended = Some("it begins more parcels than it may".to_owned());
                            break;
                        }
                        continue;
                    };
                    match restore(&shared, &kind, whole) {
                        Ok(settle) => {
                            taken.push(settle);
                            reply.accepted.push(id);
                        }
                        Err(Refusal(code, reason)) => {
                            if kind != IDLE {
                                shared.handovers.inc(HandoverScope::CX_REFUSED);
                            }
                            reply.refused.push(RefusedParcel { id, reason, code });
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    ended = Some(error.to_string());
                    break;
                }
            }
        }
        let is_full = reply.accepted.len() + reply.refused.len() >= limits::UNANSWERED_PARCELS;
        if !reply.accepted.is_empty() || !reply.refused.is_empty() {
            // The answer goes first: once a session is driven here, the other process must not go on with it.
            let mut sent = connection.send(&Frame::new(0, reply), &[]);
            while sent.is_ok() && connection.has_output() {
                ring.wait(ring.now() + limits::PARCEL_RETRY_MS).await;
                sent = connection.flush().map(|_| ());
            }
            // Not even if that process has ended by now: it may have gone on with them before.
            if let Err(error) = sent {
                tracing::warn!(%error, "the process before has not waited for an answer to connections that it had sent");
                taken.into_iter().for_each(|settle| settle(false));
                return;
            }
        }
        taken.into_iter().for_each(|settle| settle(true));
        if let Some(why) = ended {
            tracing::debug!(why, "the process before sends no more connections");
            return;
        }
        ring.wait(if is_full { ring.now() } else { NEVER }).await;
    }
}

/// Makes a session of a parcel.
fn restore(shared: &Rc<Shared>, kind: &str, whole: Incomplete) -> Result<Settle, Refusal> {
    if let Some(refusal) = whole.refusal {
        return Err(refusal);
    }
    if kind == IDLE {
        let parcel = IdleParcel::decode(&*whole.bytes).map_err(|error| error.to_string())?;
        let settle = parcel.restore(&shared.context, whole.fds.into_iter().next())?;
        let shared = Rc::clone(shared);
        return Ok(Box::new(move |is_ours| {
            if is_ours {
                shared.handovers.inc(HandoverScope::IDLE_TAKEN);
            }
            settle(is_ours);
        }));
    }
    if ![TCP, HTTP1].contains(&kind) {
        return Err(Refusal(REFUSED_KIND, format!("{kind:?} is no kind that is known")));
    }
    let parcel = SessionParcel::decode(&*whole.bytes).map_err(|error| error.to_string())?;
    let doors = shared.doors.borrow();
    let Some(door) = doors.iter().find(|door| door.listener == parcel.listener) else {
        return Err(Refusal(REFUSED_PLACE, format!("there is no listener {} any more", parcel.listener)));
    };
    let context = Rc::clone(&shared.context);
    let shared = Rc::clone(shared);
    match (&door.service, kind) {
        (Service::Tcp(service), TCP) => {
            let session = Tcp::restore(context, Rc::clone(service), &door.gate, parcel, whole.fds)?;
            Ok(settle(session, shared))
        }
        (Service::Http(service), HTTP1) => {
            let session = Http1::restore(context, Rc::clone(service), &door.gate, parcel, whole.fds)?;
            Ok(settle(session, shared))
        }
        _ => {
            let reason = format!("listener {} does not speak {kind} any more", door.listener);
            Err(Refusal(REFUSED_PLACE, reason))
        }
    }
}

/// What becomes of a session that was taken: true drives it here, false leaves it to the process that has sent it.
type Settle = Box<dyn FnOnce(bool)>;

fn settle(mut session: impl Session + 'static, shared: Rc<Shared>) -> Settle {
    Box::new(move |is_ours| {
        if is_ours {
            shared.handovers.inc(HandoverScope::CX_TAKEN);
            let (down, up) = session.sockets();
            std::iter::once(down).chain(up).for_each(Socket::thaw);
            shared.spawn(session);
        } else {
            session.set_moved();
            drop(session);
            shared.connection_ended();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: u64, bytes: usize, more: bool) -> ConnectionParcel {
        ConnectionParcel { id, kind: TCP.into(), worker: 0, bytes: vec![1; bytes], more }
    }

    #[test]
    fn a_parcel_comes_in_pieces_and_among_others() {
        let mut parcels = Parcels::default();
        assert!(parcels.add(piece(1, 10, true), Vec::new(), false).is_none());
        assert_eq!(parcels.add(piece(2, 5, false), Vec::new(), false).unwrap().bytes.len(), 5);
        let whole = parcels.add(piece(1, 10, false), Vec::new(), false).unwrap();
        assert!(whole.refusal.is_none() && whole.bytes.len() == 20);
        assert!(parcels.0.is_empty());
    }

    #[test]
    fn a_parcel_that_is_too_large_is_refused_once_and_not_kept() {
        let mut parcels = Parcels::default();
        let count = limits::PARCEL_BYTES / 40_000 + 20;
        for _ in 0..count {
            assert!(parcels.add(piece(1, 40_000, true), Vec::new(), false).is_none());
        }
        assert!(parcels.0[&1].bytes.is_empty());
        let whole = parcels.add(piece(1, 40_000, false), Vec::new(), false).unwrap();
        assert_eq!(whole.refusal.map(|Refusal(code, _)| code), Some(REFUSED_SIZE));
        assert!(parcels.0.is_empty());
    }

    #[test]
    fn a_parcel_whose_descriptors_got_lost_is_refused_when_all_of_it_has_come() {
        let mut parcels = Parcels::default();
        assert!(parcels.add(piece(1, 10, true), Vec::new(), true).is_none());
        let whole = parcels.add(piece(1, 10, false), Vec::new(), false).unwrap();
        assert_eq!(whole.refusal.map(|Refusal(code, _)| code), Some(REFUSED_DESCRIPTORS));
    }
}
