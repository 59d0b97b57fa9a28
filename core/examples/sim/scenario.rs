//! What a run is about: a scenario and its peers, and what all of them need.

use std::net::SocketAddr;

use ouro::base::random::Random;
use ouro::ring::sim::{self, EndId, Faults};

/// A simulated client or origin.
pub trait Peer {
    /// Does what can be done now.
    fn turn(&mut self);
    /// Nothing more is to come from it.
    fn is_done(&self) -> bool;
    /// For the report of a failure.
    fn describe(&self) -> String;
}

/// The connection of a client, which is made when it is time for that; `None` before.
pub fn connected(me: u32, end: &mut Option<EndId>, starts_at: u64, to: SocketAddr) -> Option<EndId> {
    if end.is_none() {
        *end = sim::with(|world| {
            if starts_at > world.now() {
                world.wake(me, starts_at - world.now());
                return None;
            }
            let from = SocketAddr::from(([192, 0, 2, 1], 1000 + me as u16));
            let end = world.peer_connect(me, from, to);
            if end.is_none() {
                world.violation(format!("client {me} was refused"));
            }
            end
        });
    }
    *end
}

/// A line of the trace, made only where there is one.
pub fn note(text: impl FnOnce() -> String) {
    sim::with(|world| world.note(text));
}

/// Something must not be so.
pub fn violation(text: String) {
    sim::with(|world| world.violation(text));
}

/// What a run is about.
pub trait Scenario {
    /// The configuration of the proxy.
    fn config(&self) -> String;
    /// The clients, whose numbers begin at `first`.
    fn clients(&mut self, first: u32, random: &mut Random) -> Vec<Box<dyn Peer>>;
    /// The proxy has connected to an origin.
    fn accepted(&mut self, number: u32, to: SocketAddr, end: EndId) -> Box<dyn Peer>;
    /// States of sessions that a restart may be aimed at.
    fn aims(&self) -> &'static [&'static str];
    /// Looks whether everything is as it should be once all peers are done.
    fn check(&mut self) -> Vec<String>;
    /// What goes wrong in this scenario otherwise than usual.
    fn adjust(&self, _: &mut Faults) {}
}
