//! Connections on their way from the worker of one process to a worker of the next.
//!
//! The sending side freezes the sockets of a session, waits until nothing is in flight on them, and sends the session as
//! bytes together with the descriptors. It keeps all of it until the answer has come: if the other process dies or says
//! no, the session goes on here as if nothing had been. The receiving side answers before it drives a session, so that at
//! no time two processes do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use ouro_restart::limits::CHUNK_BYTES_MAX;
use ouro_restart::message::{ConnectionParcel, Message, ParcelReply, RefusedParcel};
use ouro_restart::transport::Received;
use ouro_restart::{Connection, Frame};
use prost::Message as _;

use super::Shared;
use super::accept::Service;
use crate::base::clock::NEVER;
use crate::base::limits;
use crate::proxy::http1::Http1;
use crate::proxy::tcp::Tcp;
use crate::proxy::{Gate, IdleParcel, Session, SessionParcel, Step};
use crate::ring::{Link, Ring, Socket, TaskId};

/// Kinds of parcels; a process refuses those that it does not know.
const TCP: &str = "tcp/1";
const HTTP1: &str = "http1/1";
const IDLE: &str = "idle/1";

/// Drives a session to its end, or until another process has taken it. Where it waits the session is complete.
pub(super) async fn drive(session: &mut impl Session, shared: &Shared) {
    let ring = session.ring().clone();
    session.attach();
    // The attempt that has left the session here.
    let mut refused_by = None;
    // Set while the session waits for its turn to go; made when it first has to.
    let mut queued = None;
    while let Step::Wait(deadline) = session.advance() {
        let mover = shared.mover.borrow().clone();
        if let Some(mover) = mover
            && mover.open.get()
            && refused_by != Some(mover.number)
            && mover.enter(ring.current_task(), queued.get_or_insert_default())
        {
            let moved = session.prepare_to_move() && move_away(session, &mover, &ring).await;
            mover.leave(&ring);
            if moved {
                session.set_moved();
                return;
            }
            refused_by = Some(mover.number);
            // Something may have happened meanwhile.
            continue;
        }
        ring.wait(deadline).await;
    }
}

/// Tries to hand a session over. Says whether another process has it.
async fn move_away(session: &impl Session, mover: &Mover, ring: &Ring) -> bool {
    let (down, up) = session.sockets();
    let sockets = || std::iter::once(down).chain(up);
    sockets().for_each(Socket::freeze);
    while !sockets().all(Socket::is_still) {
        ring.wait(NEVER).await;
    }
    let intact = |socket: &Socket| {
        let status = socket.status();
        status.link == Link::Connected && status.recv_error == 0 && status.send_error == 0
    };
    let fds: Result<Vec<OwnedFd>, _> = sockets().map(Socket::copy_fd).collect();
    if let (true, Ok(fds)) = (sockets().all(intact), fds) {
        let parcel = session.pack();
        let kind = if parcel.http.is_some() { HTTP1 } else { TCP };
        if mover.give(kind, parcel.encode_to_vec(), fds, ring).await {
            return true;
        }
    }
    sockets().for_each(Socket::thaw);
    false
}

/// Hands over the idle connections of the pools, so that the next process begins warm.
async fn move_idle(shared: Rc<Shared>, mover: Rc<Mover>) {
    let ring = shared.context.ring.clone();
    let idle = shared.context.upstreams.take_idle();
    for one in &idle {
        one.connection.attach(ring.current_task());
        one.connection.freeze();
    }
    for one in idle {
        while !one.connection.is_still() {
            ring.wait(NEVER).await;
        }
        let status = one.connection.status();
        // One to which anything has happened is of no use to anybody.
        if status.unread > 0 || status.eof || status.recv_error != 0 || status.link != Link::Connected {
            continue;
        }
        let Ok(fd) = one.connection.copy_fd() else { continue };
        let parcel = IdleParcel::of(&one, ring.now()).encode_to_vec();
        if mover.give(IDLE, parcel, vec![fd], &ring).await {
            one.connection.set_moved();
        }
    }
}

/// The sending side of one worker.
pub(super) struct Mover {
    /// Tells one attempt from the next.
    number: u64,
    open: Cell<bool>,
    /// The other process has failed, whether it knows that or not: nothing more goes there.
    given_up: Cell<bool>,
    task: Cell<TaskId>,
    queue: RefCell<VecDeque<Outgoing>>,
    /// Who waits for which answer, and the answers that have come.
    waiting: RefCell<BTreeMap<u64, (TaskId, Option<bool>)>>,
    next: Cell<u64>,
    /// Sessions that are on their way.
    moving: Cell<usize>,
    /// Tasks whose sessions wait for their turn, served as ever meanwhile.
    turns: RefCell<VecDeque<(TaskId, Rc<Cell<bool>>)>>,
}

struct Outgoing {
    id: u64,
    kind: &'static str,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Mover {
    pub(super) fn new(number: u64) -> Rc<Self> {
        Rc::new(Self {
            number,
            open: Cell::new(true),
            given_up: Cell::new(false),
            task: Cell::new(TaskId::NONE),
            queue: RefCell::default(),
            waiting: RefCell::default(),
            next: Cell::new(1),
            moving: Cell::new(0),
            turns: RefCell::default(),
        })
    }

    /// Whether the session of this task may go now. If not, its task is woken when it may be its turn: a connection must not
    /// stand still for as long as all others take.
    fn enter(&self, task: TaskId, queued: &Rc<Cell<bool>>) -> bool {
        if self.moving.get() < limits::UNANSWERED_PARCELS {
            self.moving.set(self.moving.get() + 1);
            return true;
        }
        if !queued.replace(true) {
            self.turns.borrow_mut().push_back((task, Rc::clone(queued)));
        }
        false
    }

    /// A session has gone, or stays.
    fn leave(&self, ring: &Ring) {
        self.moving.set(self.moving.get() - 1);
        self.wake_next(ring);
    }

    /// Wakes as many tasks as there are places. Some may have ended since; the sender looks again.
    fn wake_next(&self, ring: &Ring) {
        let free = limits::UNANSWERED_PARCELS.saturating_sub(self.moving.get());
        let mut turns = self.turns.borrow_mut();
        for _ in 0..free {
            let Some((task, queued)) = turns.pop_front() else { break };
            queued.set(false);
            ring.wake(task);
        }
    }

    /// Takes back what the other process has not answered for.
    pub(super) fn give_up(&self, ring: &Ring) {
        self.given_up.set(true);
        ring.wake(self.task.get());
    }

    /// Queues a parcel and waits for the answer.
    async fn give(&self, kind: &'static str, bytes: Vec<u8>, fds: Vec<OwnedFd>, ring: &Ring) -> bool {
        let id = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(id, (ring.current_task(), None));
        self.queue.borrow_mut().push_back(Outgoing { id, kind, bytes, fds });
        ring.wake(self.task.get());
        loop {
            if !self.open.get() {
                self.close(ring);
            }
            let answer = self.waiting.borrow().get(&id).and_then(|(_, answer)| *answer);
            if let Some(taken) = answer {
                self.waiting.borrow_mut().remove(&id);
                return taken;
            }
            ring.wait(NEVER).await;
        }
    }

    fn answer(&self, id: u64, taken: bool, ring: &Ring) {
        if let Some((task, answer)) = self.waiting.borrow_mut().get_mut(&id) {
            *answer = Some(taken);
            ring.wake(*task);
        }
    }

    /// The other process is gone: what it has not answered for stays here.
    fn close(&self, ring: &Ring) {
        self.open.set(false);
        self.queue.borrow_mut().clear();
        for (task, answer) in self.waiting.borrow_mut().values_mut() {
            answer.get_or_insert(false);
            ring.wake(*task);
        }
    }
}

/// Sends parcels until the other process hangs up.
pub(super) async fn send_parcels(shared: Rc<Shared>, mover: Rc<Mover>, mut connection: Connection) {
    let ring = shared.context.ring.clone();
    mover.task.set(ring.current_task());
    let _watch = ring.watch(connection.as_fd().as_raw_fd(), ring.current_task());
    ring.wake_all();
    ring.spawn(move_idle(Rc::clone(&shared), Rc::clone(&mover)));
    let mut unanswered = 0_usize;
    loop {
        if mover.given_up.get() {
            // An answer comes before this or not at all.
            connection.shut_down();
        }
        match take_answers(&mut connection, &mover, &ring) {
            Ok(answers) => unanswered = unanswered.saturating_sub(answers),
            Err(why) => {
                tracing::info!(why, "no more connections are handed over");
                mover.close(&ring);
                return;
            }
        }
        while unanswered < limits::UNANSWERED_PARCELS && !connection.has_output() {
            let Some(outgoing) = mover.queue.borrow_mut().pop_front() else { break };
            if send(&mut connection, &outgoing).is_err() {
                mover.answer(outgoing.id, false, &ring);
                break;
            }
            unanswered += 1;
        }
        if !mover.open.get() {
            return;
        }
        mover.wake_next(&ring);
        let is_busy = connection.has_output() || !mover.turns.borrow().is_empty();
        let until = if is_busy { ring.now() + limits::PARCEL_RETRY_MS } else { NEVER };
        ring.wait(until).await;
    }
}

fn take_answers(connection: &mut Connection, mover: &Mover, ring: &Ring) -> Result<usize, String> {
    let mut answers = 0;
    // If the other process is gone its last answers count nevertheless: what it has taken must not be driven here.
    let flushed = connection.flush();
    while let Some(received) = connection.receive().map_err(|error| error.to_string())? {
        if let Message::ParcelReply(reply) = received.frame.message {
            answers += reply.accepted.len() + reply.refused.len();
            for id in reply.accepted {
                mover.answer(id, true, ring);
            }
            for RefusedParcel { id, reason } in reply.refused {
                tracing::warn!(reason, "the new process does not take a connection: it stays here");
                mover.answer(id, false, ring);
            }
        }
    }
    flushed.map(|_| answers).map_err(|error| error.to_string())
}

fn send(
    connection: &mut Connection,
    outgoing: &Outgoing,
) -> Result<(), ouro_restart::transport::TransportError> {
    let Outgoing { id, kind, bytes, fds } = outgoing;
    let mut pieces = bytes.chunks(CHUNK_BYTES_MAX).peekable();
    let mut fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    while let Some(piece) = pieces.next() {
        let parcel = ConnectionParcel {
            id: *id,
            kind: (*kind).into(),
            worker: 0,
            bytes: piece.to_vec(),
            more: pieces.peek().is_some(),
        };
        connection.send(&Frame::new(0, parcel), &std::mem::take(&mut fds))?;
    }
    Ok(())
}

/// What a connection of a listener needs, whoever has accepted it.
pub(super) struct Door {
    pub(super) listener: String,
    pub(super) service: Service,
    pub(super) gate: Rc<Gate>,
}

/// Parcels of which not everything has come.
#[derive(Default)]
struct Incomplete {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Takes parcels until the other process hangs up.
pub(super) async fn take_parcels(shared: Rc<Shared>, mut connection: Connection) {
    let ring = shared.context.ring.clone();
    let _watch = ring.watch(connection.as_fd().as_raw_fd(), ring.current_task());
    let mut incomplete = HashMap::<u64, Incomplete>::new();
    loop {
        let mut reply = ParcelReply::default();
        let mut taken: Vec<Settle> = Vec::new();
        let mut ended = None;
        while taken.len() < limits::UNANSWERED_PARCELS {
            match connection.receive() {
                Ok(Some(Received {
                    frame: Frame { message: Message::ConnectionParcel(parcel), .. },
                    fds,
                })) => {
                    let (id, more, kind) = (parcel.id, parcel.more, parcel.kind);
                    let known = incomplete.entry(id).or_default();
                    known.bytes.extend_from_slice(&parcel.bytes);
                    known.fds.extend(fds);
                    if more && known.bytes.len() <= limits::PARCEL_BYTES {
                        continue;
                    }
                    let whole = incomplete.remove(&id).unwrap_or_default();
                    match restore(&shared, &kind, whole) {
                        Ok(settle) => {
                            taken.push(settle);
                            reply.accepted.push(id);
                        }
                        Err(reason) => reply.refused.push(RefusedParcel { id, reason }),
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
        let is_full = taken.len() >= limits::UNANSWERED_PARCELS;
        if !reply.accepted.is_empty() || !reply.refused.is_empty() {
            // The answer goes first: once a session is driven here, the other process must not go on with it.
            let mut sent = connection.send(&Frame::new(0, reply), &[]);
            while sent.is_ok() && connection.has_output() {
                ring.wait(ring.now() + limits::PARCEL_RETRY_MS).await;
                sent = connection.flush().map(|_| ());
            }
            if let Err(error) = sent
                && connection.peer_has_ended() == Some(false)
            {
                tracing::warn!(%error, "the process before goes on with connections that it had sent");
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
fn restore(shared: &Rc<Shared>, kind: &str, whole: Incomplete) -> Result<Settle, String> {
    if kind == IDLE {
        let parcel = IdleParcel::decode(&*whole.bytes).map_err(|error| error.to_string())?;
        return Ok(Box::new(parcel.restore(&shared.context, whole.fds.into_iter().next())?));
    }
    let parcel = SessionParcel::decode(&*whole.bytes).map_err(|error| error.to_string())?;
    let doors = shared.doors.borrow();
    let door = doors.iter().find(|door| door.listener == parcel.listener);
    let door = door.ok_or_else(|| format!("there is no listener {} any more", parcel.listener))?;
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
        _ => Err(format!("listener {} does not speak {kind} any more", door.listener)),
    }
}

/// What becomes of a session that was taken: true drives it here, false leaves it to the process that has sent it.
type Settle = Box<dyn FnOnce(bool)>;

fn settle(mut session: impl Session + 'static, shared: Rc<Shared>) -> Settle {
    Box::new(move |is_ours| {
        if is_ours {
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
