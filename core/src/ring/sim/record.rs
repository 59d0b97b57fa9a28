//! What became of single connections: so that a scenario excuses what a fault has caused, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::net::EndId;
use super::world::{Happening, World};
use crate::base::clock::Micros;

/// See the module.
#[derive(Default)]
pub(super) struct Record {
    /// When a connection was accepted.
    accepted: BTreeMap<u32, Micros>,
    /// Which connections to origins a session has used that serves this connection of a client.
    ups: BTreeMap<u32, BTreeSet<u32>>,
    /// Connections to origins that were refused or never answered.
    unconnected: BTreeMap<u32, SocketAddr>,
    /// Sockets that the session of a client's connection could not have.
    no_socket: BTreeMap<u32, u32>,
    /// The same, as long as it is not known whose they are.
    no_socket_now: u32,
    /// Connections that were cut off for want of buffers.
    cut_off: BTreeSet<u32>,
    /// Sessions that are on the way to another process, since then.
    moving: BTreeMap<u32, Micros>,
    /// Spans of time in which a connection was on that way.
    moved: BTreeMap<u32, Vec<(Micros, Micros)>>,
    /// Connections that could not be handed over, once at least.
    stayed: BTreeSet<u32>,
    /// Spans in which some process got no CPU.
    stalls: Vec<(Micros, Micros)>,
    /// Spans that the clock has left out.
    jumps: Vec<(Micros, Micros)>,
}

/// The part of a span that lies within another one.
fn overlap((from, to): (Micros, Micros), (begin, end): (Micros, Micros)) -> Micros {
    to.min(end).saturating_sub(from.max(begin))
}

impl World {
    pub(super) fn note_accepted(&mut self, conn: u32) {
        let now = self.now;
        self.record.accepted.insert(conn, now);
    }

    pub(super) fn note_unconnected(&mut self, conn: u32, to: SocketAddr) {
        self.record.unconnected.insert(conn, to);
    }

    pub(super) fn note_no_socket(&mut self) {
        self.record.no_socket_now += 1;
    }

    pub(super) fn note_stall(&mut self, until: Micros) {
        let now = self.now;
        self.record.stalls.push((now, until));
    }

    /// The session of the first descriptor was driven, and uses the second one. What was missing is what it has missed.
    pub fn note_driven(&mut self, down: i32, up: Option<i32>) {
        let Some(down) = self.end_of(down) else { return };
        if let Some(up) = up.and_then(|up| self.end_of(up)) {
            self.record.ups.entry(down.conn).or_default().insert(up.conn);
        }
        let missed = std::mem::take(&mut self.record.no_socket_now);
        if missed > 0 {
            *self.record.no_socket.entry(down.conn).or_default() += missed;
        }
    }

    /// The session of this descriptor is about to go to another process.
    pub fn note_departure(&mut self, down: i32) {
        let Some(down) = self.end_of(down) else { return };
        let now = self.now;
        self.record.moving.entry(down.conn).or_insert(now);
    }

    /// It is driven again, there or here.
    pub fn note_arrival(&mut self, down: i32) {
        let Some(down) = self.end_of(down) else { return };
        if let Some(since) = self.record.moving.remove(&down.conn) {
            let now = self.now;
            self.record.moved.entry(down.conn).or_default().push((since, now));
        }
    }

    /// The session of this descriptor has not gone.
    pub fn note_stay(&mut self, down: i32) {
        if let Some(down) = self.end_of(down) {
            self.record.stayed.insert(down.conn);
        }
    }

    /// This descriptor was cut off for want of buffers.
    pub fn note_cut_off(&mut self, fd: i32) {
        if let Some(end) = self.end_of(fd) {
            self.note(|| format!("{end:?} is cut off"));
            self.record.cut_off.insert(end.conn);
        }
    }

    /// The clock leaves out so much time, as that of a machine does that was suspended.
    pub fn jump(&mut self, by: Micros) -> Happening {
        self.count("fault: jump of the clock");
        self.note(|| format!("the clock jumps by {} ms", by / 1000));
        let from = self.now;
        self.now += by;
        let now = self.now;
        self.record.jumps.push((from, now));
        Happening::Nothing
    }

    /// When the code under test has accepted this connection.
    #[must_use]
    pub fn accepted_at(&self, end: EndId) -> Option<Micros> {
        self.record.accepted.get(&end.conn).copied()
    }

    /// How many connects on behalf of this client's connection have failed.
    #[must_use]
    pub fn failed_connects(&self, end: EndId) -> usize {
        let ups = self.record.ups.get(&end.conn);
        ups.map_or(0, |ups| ups.iter().filter(|up| self.record.unconnected.contains_key(up)).count())
    }

    /// How many sockets could not be had on behalf of this client's connection.
    #[must_use]
    pub fn missed_sockets(&self, end: EndId) -> u32 {
        self.record.no_socket.get(&end.conn).copied().unwrap_or(0)
    }

    /// Numbers of the connections to origins that have served this client's connection.
    #[must_use]
    pub fn served_by(&self, end: EndId) -> Vec<u32> {
        self.record.ups.get(&end.conn).map(|ups| ups.iter().copied().collect()).unwrap_or_default()
    }

    /// The other way round.
    #[must_use]
    pub fn serves(&self, end: EndId) -> Vec<u32> {
        let serves = self.record.ups.iter().filter(|(_, ups)| ups.contains(&end.conn));
        serves.map(|(down, _)| *down).collect()
    }

    /// Whether this connection, or one that it was served by or has served, was cut off for want of buffers.
    #[must_use]
    pub fn is_cut_off(&self, end: EndId) -> bool {
        let mut others = self.served_by(end).into_iter().chain(self.serves(end));
        self.record.cut_off.contains(&end.conn) || others.any(|conn| self.record.cut_off.contains(&conn))
    }

    /// Time in this span in which a process stood still, or the session of this connection was on its way.
    #[must_use]
    pub fn lost_us(&self, end: EndId, from: Micros, to: Micros) -> Micros {
        let stalls: Micros = self.record.stalls.iter().map(|stall| overlap(*stall, (from, to))).sum();
        let moved = self.record.moved.get(&end.conn).map_or(&[][..], |moved| moved);
        stalls + moved.iter().map(|moved| overlap(*moved, (from, to))).sum::<Micros>()
    }

    /// How long the times were, from their beginning, in which a process stood still, or that the clock left out, in some part
    /// of this span. What a process does at the end of such a time it does by the clock that it had read before.
    #[must_use]
    pub fn stood_still_us(&self, from: Micros, to: Micros) -> Micros {
        let times = self.record.stalls.iter().chain(&self.record.jumps);
        let stalls = times.filter(|(begin, end)| *begin <= to && *end >= from);
        stalls.map(|(begin, end)| end - begin).sum()
    }

    /// How often the session of this connection was on its way.
    #[must_use]
    pub fn moves(&self, end: EndId) -> u64 {
        self.record.moved.get(&end.conn).map_or(0, |moved| moved.len() as u64)
    }

    /// Whether this connection may have been told to end because its process does: it could not be handed over, or was not to
    /// be, or a restart has failed.
    #[must_use]
    pub fn may_have_drained(&self, end: EndId) -> bool {
        let whys = ["drain", "fault: crash of a process", "fault: a process hangs in a restart"];
        self.record.stayed.contains(&end.conn) || whys.iter().any(|why| self.counts().contains_key(why))
    }

    /// When the last jump of the clock ended that began in this span.
    #[must_use]
    pub fn jumped(&self, from: Micros, to: Micros) -> Option<Micros> {
        let jumps = self.record.jumps.iter().filter(|(begin, end)| *end >= from && *begin <= to);
        jumps.map(|(_, end)| *end).max()
    }
}
