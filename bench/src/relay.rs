//! A bare byte relay on the ring runtime of the proxy: no HTTP, no limits, no time-outs. What it costs is the floor that
//! a proxy on this runtime can come near to.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use ouro::base::clock::NEVER;
use ouro::ring::{Link, Ring, Socket as RingSocket, probe};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Size of a receive buffer, bytes, and memory for all of them: the proxy's defaults.
const BUFFER_BYTES: usize = 64 * 1024;
const BUFFER_MEMORY: usize = 128 * 1024 * 1024;

/// Bytes queued on a socket above which its source waits.
const HIGH_WATER: usize = 256 * 1024;
const LOW_WATER: u32 = 128 * 1024;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Relays between whoever connects to a port and another port, until it is killed.
///
/// # Errors
/// When there is no ring or the port cannot be had.
pub(crate) fn serve(listen: u16, to: u16) -> Result<(), String> {
    let capabilities = probe().map_err(|error| error.to_string())?;
    let text = |error: std::io::Error| error.to_string();
    let ring = Ring::new(BUFFER_BYTES, BUFFER_MEMORY, &capabilities).map_err(text)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(text)?;
    socket.set_reuse_address(true).map_err(text)?;
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
    let down = ring.adopt(no_delay(fd.into()));
    let up = ring.connect(no_delay(socket), &origin);
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

fn no_delay(socket: Socket) -> OwnedFd {
    // Only slower without it.
    let _ = socket.set_tcp_nodelay(true);
    socket.into()
}
