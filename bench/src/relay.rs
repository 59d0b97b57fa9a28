//! A bare byte relay on the ring runtime of the proxy: no HTTP, no limits, no time-outs. What it costs is the floor that
//! a proxy on this runtime can come near to, so its sockets have the options that the proxy gives to its own.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use ouro::base::clock::NEVER;
use ouro::base::limits;
use ouro::ring::{Link, Ring, Socket as RingSocket, probe};
use ouro::upstream::use_local_congestion_control;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Size of a receive buffer, bytes, and memory for all of them: the proxy's defaults.
const BUFFER_BYTES: usize = 64 * 1024;
const BUFFER_MEMORY: usize = 128 * 1024 * 1024;

/// How long the ring waits to have several messages at a time: the proxy's default too.
const MODERATION_US: u32 = 50;

/// Bytes queued on a socket above which its source waits: the proxy's too.
const HIGH_WATER: usize = limits::SEND_HIGH_WATER_BYTES;
#[allow(clippy::cast_possible_truncation)] // a small constant
const LOW_WATER: u32 = (HIGH_WATER / 2) as u32;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Relays between whoever connects to a port and another port, until it is killed.
///
/// # Errors
/// When there is no ring or the port cannot be had.
pub(crate) fn serve(listen: u16, to: u16) -> Result<(), String> {
    let capabilities = probe().map_err(|error| error.to_string())?;
    let text = |error: std::io::Error| error.to_string();
    let ring = Ring::new(BUFFER_BYTES, BUFFER_MEMORY, MODERATION_US, &capabilities).map_err(text)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(text)?;
    socket.set_reuse_address(true).map_err(text)?;
    socket.set_tcp_nodelay(true).map_err(text)?;
    // What is accepted inherits both.
    use_local_congestion_control(&SockRef::from(&socket));
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], listen)).into()).map_err(text)?;
    socket.listen(BACKLOG).map_err(text)?;
    let origin = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], to)));
    ring.run(accept(ring.clone(), socket.into(), origin)).map_err(text)
}

async fn accept(ring: Ring, listener: OwnedFd, origin: SockAddr) {
    let acceptor = ring.listen(listener, ring.current_task());
    loop {
        while let Some(accepted) = acceptor.take() {
            if let Ok(fd) = accepted {
                ring.spawn(relay(ring.clone(), fd, origin.clone()));
            } else {
                acceptor.resume();
            }
        }
        ring.wait(NEVER).await;
    }
}

async fn relay(ring: Ring, fd: OwnedFd, origin: SockAddr) {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)) else { return };
    // Only slower without it.
    let _ = socket.set_tcp_nodelay(true);
    use_local_congestion_control(&SockRef::from(&socket));
    let down = ring.adopt(fd);
    let up = ring.connect(socket.into(), &origin);
    down.attach(ring.current_task());
    up.attach(ring.current_task());
    let (mut upward, mut downward) = (false, false);
    loop {
        upward = pump(&down, &up, upward);
        downward = pump(&up, &down, downward);
        let (d, u) = (down.status(), up.status());
        let failed = d.is_reset() || u.is_reset() || d.send_error != 0 || u.send_error != 0;
        if failed || matches!(u.link, Link::Failed(_)) {
            return;
        }
        if upward && downward && d.unsent == 0 && u.unsent == 0 {
            return;
        }
        ring.wait(NEVER).await;
    }
}

/// Moves what has come; returns whether the end was passed on.
fn pump(from: &RingSocket, to: &RingSocket, ended: bool) -> bool {
    let mut unsent = to.status().unsent;
    loop {
        if unsent >= HIGH_WATER {
            to.wake_when_unsent_below(Some(LOW_WATER));
            return ended;
        }
        let Some(chunk) = from.receive() else { break };
        unsent += chunk.len();
        to.send(chunk);
    }
    if !ended && from.status().is_eof() {
        to.shutdown_write();
        to.wake_when_unsent_below(Some(0));
        return true;
    }
    ended
}
