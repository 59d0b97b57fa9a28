//! What simulated peers can do with their ends.

use std::net::SocketAddr;

use super::net::{End, EndId, Found, Holder};
use super::world::{Event, World};
use crate::base::clock::Micros;

/// What a peer finds when it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes.
    Data(Vec<u8>),
    /// The other side has ended its direction.
    Eof,
    /// The connection is reset.
    Reset,
    /// Nothing yet.
    Nothing,
}

/// Nothing more can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl World {
    /// Connects a peer to a listener of the code under test. `None`: refused.
    pub fn peer_connect(&mut self, peer: u32, from: SocketAddr, to: SocketAddr) -> Option<EndId> {
        let is_open = |listener: &super::world::Listener| listener.address == to && listener.fd.is_some();
        let listener = self.listeners.iter().position(is_open)? as u32;
        let conn = self.new_conn(End::new(Holder::Peer(peer), from), End::new(Holder::Nobody, to));
        self.conns[conn as usize].established = true;
        self.coming += 1;
        let at: Micros = self.now + self.latency();
        self.at(at, Event::Incoming(listener, conn));
        Some(EndId { conn, side: 0 })
    }

    /// Says whose an end is.
    pub fn peer_take(&mut self, end: EndId, peer: u32) {
        self.end(end).holder = Holder::Peer(peer);
        self.wake(peer, 0);
    }

    /// Reads up to `max` bytes.
    pub fn peer_read(&mut self, end: EndId, max: usize) -> Read {
        match self.find(end) {
            Found::Data => Read::Data(self.read(end, max)),
            // A write may have been told already.
            Found::Eof if self.end(end).broken && !self.out(end.other()).fin => Read::Reset,
            Found::Eof => Read::Eof,
            Found::Error(_) => Read::Reset,
            Found::Nothing => Read::Nothing,
        }
    }

    /// How long the other side went on reading after its FIN, before it sent RST.
    #[must_use]
    pub fn lingered_us(&mut self, end: EndId) -> Option<Micros> {
        let pipe = self.out(end.other());
        Some(pipe.rst_sent?.saturating_sub(pipe.fin_sent?))
    }

    /// Whether RST has come, read or not.
    #[must_use]
    pub fn peer_is_reset(&mut self, end: EndId) -> bool {
        self.end(end).broken
    }

    /// Writes as much as there is room for, and says how much that was.
    ///
    /// # Errors
    /// When the connection is broken or was shut down.
    pub fn peer_write(&mut self, end: EndId, bytes: &[u8]) -> Result<usize, Broken> {
        self.write(end, bytes).map_err(|_| Broken)
    }

    /// Sends FIN.
    pub fn peer_shutdown(&mut self, end: EndId) {
        self.shut_down(end);
    }

    /// Hangs up.
    pub fn peer_close(&mut self, end: EndId) {
        self.close(end);
    }

    /// Hangs up with RST.
    pub fn peer_reset(&mut self, end: EndId) {
        self.end(end).reset_at_close = true;
        self.close(end);
    }
}
