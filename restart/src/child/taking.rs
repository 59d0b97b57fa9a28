//! What the parent hands over, piece by piece: listening sockets, state, totals.

use super::Child;
use super::events::Action;
use super::phase::{Part, Phase, Serving};
use crate::identity::Level;
use crate::limits::LISTEN_SOCKETS_MAX;
use crate::message::{Chunk, ListenSocket, ListenSockets, State, Totals};
use crate::parts::{Assembler, Blob};

impl Child {
    pub(super) fn take(&mut self, now: u64, part: Part, cursor: u64) {
        let until = now.saturating_add(self.deadlines.step_ms);
        self.phase = Phase::Taking { part, cursor, until };
        match part {
            Part::ListenSockets => self.request(ListenSockets { cursor }),
            Part::State => self.request(State { cursor }),
            Part::Totals => self.request(Totals { cursor }),
        }
    }

    pub(super) fn on_listen_sockets(
        &mut self,
        now: u64,
        sockets: Vec<ListenSocket>,
        fds: usize,
        more: bool,
        next: u64,
    ) {
        let Phase::Taking { part: Part::ListenSockets, cursor, .. } = self.phase else { return };
        let count = sockets.len();
        self.sockets += count;
        if count != fds {
            self.fail(format!("{count} listening sockets were announced, but {fds} descriptors came"));
        } else if self.sockets > LISTEN_SOCKETS_MAX {
            self.fail(format!("the running process has more than {LISTEN_SOCKETS_MAX} listening sockets"));
        } else if more && (next <= cursor || count == 0) {
            self.fail("the list of listening sockets does not go on".to_owned());
        } else {
            if count > 0 {
                self.out.push(Action::AdoptListenSockets(sockets));
            }
            let (part, cursor) = if more { (Part::ListenSockets, next) } else { (Part::State, 0) };
            self.take(now, part, cursor);
        }
    }

    pub(super) fn on_chunks(&mut self, now: u64, chunks: Vec<Chunk>, more: bool, next: u64, totals: bool) {
        let cursor = match self.phase {
            Phase::Taking { part: Part::State, cursor, .. } | Phase::LastState { cursor, .. } if !totals => {
                cursor
            }
            Phase::Taking { part: Part::Totals, cursor, .. } if totals => cursor,
            Phase::Serving(Serving { last_totals: Some(cursor), .. }) if totals => cursor,
            _ => return,
        };
        let added = if more && next <= cursor {
            Err("the pieces do not go on".to_owned())
        } else {
            self.blobs.add(chunks)
        };
        let whole = match added {
            Ok(()) if more => None,
            Ok(()) => Some(std::mem::take(&mut self.blobs).finish()),
            Err(error) => Some(Err(error)),
        };
        match whole {
            None => self.ask_on(now, next),
            Some(Ok(blobs)) => self.on_blobs(now, blobs),
            Some(Err(error)) => self.on_bad_blobs(now, &error),
        }
    }

    fn ask_on(&mut self, now: u64, next: u64) {
        let step_until = now.saturating_add(self.deadlines.step_ms);
        match &mut self.phase {
            Phase::Taking { part, .. } => {
                let part = *part;
                self.take(now, part, next);
            }
            Phase::LastState { cursor, .. } => {
                *cursor = next;
                self.request(State { cursor: next });
            }
            Phase::Serving(serving) => {
                serving.last_totals = Some(next);
                serving.until = step_until;
                self.request(Totals { cursor: next });
            }
            _ => {}
        }
    }

    fn on_blobs(&mut self, now: u64, blobs: Vec<Blob>) {
        match self.phase {
            Phase::Taking { part: Part::State, .. } => {
                self.out.push(Action::AdoptState { blobs, last: false });
                if self.wants_totals() {
                    self.take(now, Part::Totals, 0);
                } else {
                    self.prepare(now);
                }
            }
            Phase::Taking { .. } => {
                self.out.push(Action::AdoptTotals { blobs, last: false });
                self.prepare(now);
            }
            Phase::LastState { .. } => {
                self.out.push(Action::AdoptState { blobs, last: true });
                self.take_over(now, false);
            }
            Phase::Serving(_) => {
                self.out.push(Action::AdoptTotals { blobs, last: true });
                self.dismiss(now);
            }
            _ => {}
        }
    }

    fn on_bad_blobs(&mut self, now: u64, error: &str) {
        self.blobs = Assembler::default();
        match self.phase {
            Phase::Taking { .. } => {
                self.fail(format!("what the running process hands over is broken: {error}"))
            }
            // Too late to fail for this.
            Phase::LastState { .. } => {
                self.log(Level::Warn, format!("the last state of the old process is broken: {error}"));
                self.take_over(now, false);
            }
            _ => {
                self.log(Level::Warn, format!("the last totals of the old process are broken: {error}"));
                self.dismiss(now);
            }
        }
    }
}
