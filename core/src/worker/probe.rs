//! What the simulator sees of sessions: where they wait, and that their tasks can be dropped there.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use super::Shared;
use crate::proxy::Session;
use crate::ring::sim;

thread_local! {
    /// The session that has just been driven waits, and its task is to be dropped there.
    static DROPS: Cell<bool> = const { Cell::new(false) };
}

/// A session has done what can be done now.
pub(super) fn driven(session: &impl Session) {
    let (down, up) = session.sockets();
    let (down, up) = (down.raw_fd(), up.map(crate::ring::Socket::raw_fd));
    sim::with(|world| world.note_driven(down, up));
}

/// A session is about to go to another process.
pub(super) fn departs(session: &impl Session) {
    let down = session.sockets().0.raw_fd();
    sim::with(|world| world.note_departure(down));
}

/// A session is driven, be it after it has come from another process or because it has stayed.
pub(super) fn arrives(session: &impl Session) {
    let down = session.sockets().0.raw_fd();
    sim::with(|world| world.note_arrival(down));
}

/// A session has not gone.
pub(super) fn stays(session: &impl Session) {
    let down = session.sockets().0.raw_fd();
    sim::with(|world| world.note_stay(down));
}

/// A session is about to wait.
pub(super) fn waits(session: &impl Session) {
    let state = describe(session);
    DROPS.set(sim::with(|world| world.count_await(state)));
}

/// A session goes on in another process.
pub(super) fn moves(session: &impl Session) {
    let state = describe(session);
    sim::with(|world| world.count_move(state));
}

/// Drives a session to its end, or drops the future that does so where it waits. Says whether it is the end.
pub(super) async fn drive(session: &mut impl Session, shared: &Shared) -> bool {
    let mut driving = Box::pin(super::drive(session, shared));
    poll_fn(|context| match driving.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending if DROPS.take() => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn describe(session: &impl Session) -> String {
    let parcel = session.pack();
    let has_up = parcel.up.is_some();
    let is_connected = session.sockets().1.is_none_or(|up| up.status().link == crate::ring::Link::Connected);
    let backlog = |side: Option<&crate::ring::Socket>| side.is_some_and(|socket| socket.status().unsent > 0);
    let (down, up) = session.sockets();
    let queued = match (backlog(Some(down)), backlog(up)) {
        (false, false) => "",
        (true, false) => ", bytes queued down",
        (false, true) => ", bytes queued up",
        (true, true) => ", bytes queued both ways",
    };
    let relay = parcel.relay.unwrap_or_default();
    let ends = match (relay.upward_ended, relay.downward_ended) {
        (false, false) => "",
        (true, false) => ", client has ended",
        (false, true) => ", origin has ended",
        (true, true) => ", both have ended",
    };
    let Some(http) = parcel.http else {
        let phase = if has_up && is_connected { "relay" } else { "connecting" };
        return format!("tcp: {phase}{ends}{queued}");
    };
    match http.phase {
        0 if !http.partial.is_empty() => format!("http: part of a head{queued}"),
        0 if http.requests == 0 => format!("http: first head{queued}"),
        0 => format!("http: next head{queued}"),
        1 => {
            let exchange = http.exchange.unwrap_or_default();
            if exchange.cluster.is_empty() {
                return format!("http: body that nobody wants{queued}");
            }
            if !(has_up && is_connected) {
                return "http: connecting".into();
            }
            let request = exchange.request.as_ref().is_some_and(|body| body.done);
            let response = match exchange.response_state {
                0 if exchange.partial.is_empty() => "response head",
                0 => "rest of the response head",
                1 => "response body",
                _ => "the end",
            };
            format!("http: {response}{}{queued}", if request { "" } else { " and request body" })
        }
        2 => format!("http: tunnel{ends}{queued}"),
        _ => {
            let closing = http.closing.unwrap_or_default();
            let how = ["closing", "lingering", "resetting"].get(closing.how as usize).unwrap_or(&"closing");
            format!("http: {how}{}{queued}", if closing.lingering_ms.is_some() { " after FIN" } else { "" })
        }
    }
}
