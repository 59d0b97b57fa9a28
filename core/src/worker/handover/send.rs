//! The sending side: which sessions go when, and what becomes of each.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use ouro_restart::limits::CHUNK_BYTES_MAX;
use ouro_restart::message::{ConnectionParcel, Message};
use ouro_restart::transport::TransportError;
use ouro_restart::{Connection, Frame};
use ouro_shm::Block;
use prost::Message as _;

use super::{IDLE, Stay};
use crate::base::clock::{Millis, NEVER};
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::proxy::IdleParcel;
use crate::ring::{Link, Ring, Socket, TaskId};
use crate::stats::HandoverScope;
use crate::worker::{Report, Shared};

/// Connections that stay, of each worker and attempt, that are told in the log one by one; all are counted.
const LOGGED_STAYS: usize = 64;

/// The sending side of one worker.
pub(in crate::worker) struct Mover {
    open: Cell<bool>,
    /// The other process has failed, whether it knows that or not: nothing more goes there.
    given_up: Cell<bool>,
    task: Cell<TaskId>,
    queue: RefCell<VecDeque<Outgoing>>,
    /// Who waits for which answer, and the answers that have come.
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next: Cell<u64>,
    /// Sessions that are on their way.
    moving: Cell<usize>,
    /// When the last of them began to go, and how many began in the same millisecond.
    begun: Cell<(Millis, usize)>,
    /// Tasks whose sessions wait for their turn, served as ever meanwhile.
    turns: RefCell<VecDeque<(TaskId, Rc<Cell<bool>>)>>,
    /// Connections that stay, as far as they are known; those of them that have not ended.
    stayed: Cell<usize>,
    staying: Cell<usize>,
    /// No idle connection to an origin is left.
    idle_moved: Cell<bool>,
    stats: Block<HandoverScope>,
}

struct Waiting {
    task: TaskId,
    answer: Option<Result<(), Stay>>,
}

struct Outgoing {
    id: u64,
    kind: &'static str,
    bytes: Vec<u8>,
    /// How much of `bytes` has gone.
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Mover {
    pub(in crate::worker) fn new(stats: Block<HandoverScope>) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(true),
            given_up: Cell::new(false),
            task: Cell::new(TaskId::NONE),
            queue: RefCell::default(),
            waiting: RefCell::default(),
            next: Cell::new(1),
            moving: Cell::new(0),
            begun: Cell::default(),
            turns: RefCell::default(),
            stayed: Cell::new(0),
            staying: Cell::new(0),
            idle_moved: Cell::new(false),
            stats,
        })
    }

    /// Whether the other process still takes connections.
    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether sessions are on their way, or wait for their turn.
    fn is_moving(&self) -> bool {
        self.moving.get() > 0 || !self.turns.borrow().is_empty()
    }

    /// Whether the session of this task may go now. If not, its task is woken when it may be its turn: a connection must not
    /// stand still for as long as all others take.
    pub(super) fn enter(&self, task: TaskId, queued: &Rc<Cell<bool>>, ring: &Ring) -> bool {
        if self.places(ring) > 0 {
            self.moving.set(self.moving.get() + 1);
            self.begun.set((ring.now(), self.begun_now(ring) + 1));
            return true;
        }
        if !queued.replace(true) {
            self.turns.borrow_mut().push_back((task, Rc::clone(queued)));
            // Where all who were on their way have stayed at once, nobody else would look again.
            ring.wake(self.task.get());
        }
        false
    }

    /// How many sessions may go now.
    fn places(&self, ring: &Ring) -> usize {
        let unanswered = limits::UNANSWERED_PARCELS.saturating_sub(self.moving.get());
        unanswered.min(limits::MOVES_PER_MS.saturating_sub(self.begun_now(ring)))
    }

    /// How many have gone in this millisecond.
    fn begun_now(&self, ring: &Ring) -> usize {
        let (at, begun) = self.begun.get();
        if at == ring.now() { begun } else { 0 }
    }

    /// A session has gone, or stays.
    pub(super) fn leave(&self, ring: &Ring) {
        self.moving.set(self.moving.get() - 1);
        self.wake_next(ring);
        self.look(ring);
    }

    /// Looks whether anything is left to move.
    pub(in crate::worker) fn look(&self, ring: &Ring) {
        if self.idle_moved.get() {
            ring.wake(self.task.get());
        }
    }

    /// Whether all of so many connections that are open stay, and nothing else has to go.
    fn has_moved_all(&self, open: usize) -> bool {
        self.idle_moved.get() && !self.is_moving() && self.staying.get() == open
    }

    /// The session of this client stays.
    pub(super) fn stays(&self, client: &Socket, why: &Stay) {
        self.stats.inc(HandoverScope::CX_STAYED);
        self.stats.inc(why.counter());
        let stayed = self.stayed.replace(self.stayed.get() + 1);
        // What ends anyway, and what all have in common, needs no line of its own.
        if matches!(why, Stay::Broken | Stay::Unanswered) || stayed > LOGGED_STAYS {
            return;
        }
        if stayed == LOGGED_STAYS {
            tracing::warn!("further connections stay here; they are counted in server.handover.cx_stayed");
            return;
        }
        let client = client.peer().map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(client, "a connection stays here: {why}");
    }

    /// Wakes as many tasks as there are places. Some may have ended since; the sender looks again.
    fn wake_next(&self, ring: &Ring) {
        let free = self.places(ring);
        let mut turns = self.turns.borrow_mut();
        for _ in 0..free {
            let Some((task, queued)) = turns.pop_front() else { break };
            queued.set(false);
            ring.wake(task);
        }
    }

    /// Takes back what the other process has not answered for.
    pub(in crate::worker) fn give_up(&self, ring: &Ring) {
        self.given_up.set(true);
        ring.wake(self.task.get());
    }

    /// Queues a parcel and waits for the answer.
    pub(super) async fn give(
        &self,
        kind: &'static str,
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
        ring: &Ring,
    ) -> Result<(), Stay> {
        let id = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(id, Waiting { task: ring.current_task(), answer: None });
        self.queue.borrow_mut().push_back(Outgoing { id, kind, bytes, sent: 0, fds });
        ring.wake(self.task.get());
        loop {
            if !self.open.get() {
                self.close(ring);
            }
            let answer = self.waiting.borrow_mut().get_mut(&id).and_then(|waiting| waiting.answer.take());
            if let Some(answer) = answer {
                self.waiting.borrow_mut().remove(&id);
                return answer;
            }
            ring.wait(NEVER).await;
        }
    }

    fn answer(&self, id: u64, answer: Result<(), Stay>, ring: &Ring) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(&id) {
            waiting.answer = Some(answer);
            ring.wake(waiting.task);
        }
    }

    /// The other process is gone: what it has not answered for stays here.
    fn close(&self, ring: &Ring) {
        self.open.set(false);
        if is_on(Mutation::QueuedSessionLost) {
            let queue = self.queue.borrow();
            self.waiting.borrow_mut().retain(|id, _| queue.iter().all(|outgoing| outgoing.id != *id));
        }
        self.queue.borrow_mut().clear();
        for waiting in self.waiting.borrow_mut().values_mut() {
            waiting.answer.get_or_insert(Err(Stay::Unanswered));
            ring.wake(waiting.task);
        }
        // Those whose turn has not come, as far as they have not ended meanwhile.
        let turns = std::mem::take(&mut *self.turns.borrow_mut());
        let stay = turns.iter().filter(|(_, queued)| Rc::strong_count(queued) > 1).count();
        // They may queue again, for another process.
        turns.iter().for_each(|(_, queued)| queued.set(false));
        self.stayed.set(self.stayed.get() + stay);
        self.stats.add(HandoverScope::CX_STAYED, stay as u64);
        self.stats.add(HandoverScope::CX_STAYED_UNANSWERED, stay as u64);
    }
}

/// Sends parcels until the other process hangs up.
pub(in crate::worker) async fn send_parcels(
    shared: Rc<Shared>,
    mover: Rc<Mover>,
    mut connection: Connection,
) {
    let ring = shared.context.ring.clone();
    mover.task.set(ring.current_task());
    let _watch = ring.watch(connection.as_fd().as_raw_fd(), ring.current_task());
    ring.wake_all();
    ring.spawn(move_idle(Rc::clone(&shared), Rc::clone(&mover)));
    let mut unanswered = 0_usize;
    // A parcel of which not everything has gone.
    let mut begun: Option<Outgoing> = None;
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
        // Piece by piece: a connection does not keep more than a frame or so for a process that does not read.
        while !connection.has_output() {
            if begun.is_none() && unanswered < limits::UNANSWERED_PARCELS {
                begun = mover.queue.borrow_mut().pop_front();
                unanswered += usize::from(begun.is_some());
            }
            let Some(mut outgoing) = begun.take() else { break };
            match send_piece(&mut connection, &mut outgoing) {
                Ok(true) => {}
                Ok(false) => begun = Some(outgoing),
                Err(_) => {
                    // Nothing of it has gone, or the connection is of no use, which the next look at it tells.
                    unanswered -= 1;
                    mover.answer(outgoing.id, Err(Stay::Unanswered), &ring);
                    break;
                }
            }
        }
        if !mover.open.get() {
            return;
        }
        mover.wake_next(&ring);
        let has_moved_all = mover.has_moved_all(shared.open.get());
        if has_moved_all && !shared.connections.are_arriving() {
            // The other process waits for what comes, and may be replaced itself.
            tracing::debug!("nothing is left to hand over");
            return mover.close(&ring);
        }
        let is_busy = connection.has_output() || !mover.turns.borrow().is_empty();
        let until = match (is_busy, has_moved_all) {
            (true, _) => ring.now() + limits::PARCEL_RETRY_MS,
            (false, true) => ring.now() + limits::ARRIVALS_LOOK_MS,
            (false, false) => NEVER,
        };
        ring.wait(until).await;
    }
}

/// Hands over the idle connections of the pools, so that the next process begins warm. They go last: sessions that are
/// still served here would have to connect anew for want of them, and take those connections along.
async fn move_idle(shared: Rc<Shared>, mover: Rc<Mover>) {
    let ring = shared.context.ring.clone();
    // Sessions that were woken together with this one join the queue first.
    ring.wait(ring.now() + limits::PARCEL_RETRY_MS).await;
    while mover.is_open() && mover.is_moving() {
        ring.wait(ring.now() + limits::PARCEL_RETRY_MS).await;
    }
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
        if mover.give(IDLE, parcel, vec![fd], &ring).await.is_ok() {
            shared.handovers.inc(HandoverScope::IDLE_MOVED);
            one.connection.set_moved();
        } else {
            shared.handovers.inc(HandoverScope::IDLE_CLOSED);
        }
    }
    (shared.report)(Report::PoolsMoved);
    mover.idle_moved.set(true);
    mover.look(&ring);
}

/// A session that stays where it is, for as long as it does.
pub(super) struct Staying(Rc<Mover>);

impl Staying {
    pub(super) fn new(mover: Rc<Mover>) -> Self {
        mover.staying.set(mover.staying.get() + 1);
        Self(mover)
    }

    /// Whether it is this one that has left the session here.
    pub(super) fn is_by(&self, mover: &Rc<Mover>) -> bool {
        Rc::ptr_eq(&self.0, mover)
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        self.0.staying.set(self.0.staying.get() - 1);
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
                mover.answer(id, Ok(()), ring);
            }
            for refused in reply.refused {
                mover.answer(refused.id, Err(Stay::Refused(refused.code, refused.reason)), ring);
            }
        }
    }
    flushed.map(|_| answers).map_err(|error| error.to_string())
}

/// Sends the next piece of a parcel, the descriptors with the first. Says whether it was the last.
fn send_piece(connection: &mut Connection, outgoing: &mut Outgoing) -> Result<bool, TransportError> {
    let rest = outgoing.bytes.get(outgoing.sent..).unwrap_or_default();
    let piece = rest.get(..CHUNK_BYTES_MAX).unwrap_or(rest);
    let more = piece.len() < rest.len();
    let parcel = ConnectionParcel {
        id: outgoing.id,
        kind: outgoing.kind.into(),
        worker: 0,
        bytes: piece.to_vec(),
        more,
    };
    outgoing.sent += piece.len();
    let fds: Vec<BorrowedFd<'_>> = outgoing.fds.iter().map(AsFd::as_fd).collect();
    connection.send(&Frame::new(0, parcel), &fds)?;
    outgoing.fds.clear();
    Ok(!more)
}
