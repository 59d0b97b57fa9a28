//! A session as bytes: what one process hands to the next, beside the descriptors.
//!
//! The messages grow by fields only. A process that does not know a field ignores it; one that cannot do without a field
//! refuses the parcel, and the connection stays where it is.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::base::clock::Millis;
use crate::config::model::Address;
use crate::ring::{Socket, SocketState};
use crate::upstream::{Connection, Endpoint, IdleConnection, Lease};

use super::context::Context;
use super::http1::{ClosingParcel, ExchangeParcel};
use super::relay::Direction;

/// A whole session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionParcel {
    /// Name of the listener that has accepted the connection.
    #[prost(string, tag = "1")]
    pub listener: String,
    /// How long the connection has been open, microseconds.
    #[prost(uint64, tag = "2")]
    pub open_us: u64,
    /// The client's side; its descriptor is the first one.
    #[prost(message, optional, tag = "3")]
    pub down: Option<SocketParcel>,
    /// The origin's side, where there is one; its descriptor is the second one.
    #[prost(message, optional, tag = "4")]
    pub up: Option<UpstreamParcel>,
    /// Bytes both ways.
    #[prost(message, optional, tag = "5")]
    pub relay: Option<RelayParcel>,
    /// An HTTP/1 connection.
    #[prost(message, optional, tag = "6")]
    pub http: Option<HttpParcel>,
    /// Address of the client, where it is known.
    #[prost(string, tag = "7")]
    pub client: String,
    /// How long ago the session began, milliseconds.
    #[prost(uint64, tag = "8")]
    pub age_ms: u64,
    /// The connection upstream that is being made, where one is.
    #[prost(message, optional, tag = "9")]
    pub connecting: Option<ConnectingParcel>,
}

/// A connection that is being made. Nothing was sent on it yet, so the next process begins it anew, at the same endpoint
/// and with the time that is left.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectingParcel {
    /// Name of the cluster.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Address of the endpoint.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// For how long this attempt was made, milliseconds.
    #[prost(uint64, tag = "3")]
    pub waiting_ms: u64,
    /// Addresses of endpoints that were tried before.
    #[prost(string, repeated, tag = "4")]
    pub tried: Vec<String>,
}

/// An idle connection to an endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct IdleParcel {
    /// The connection; its descriptor is the only one.
    #[prost(message, optional, tag = "1")]
    pub up: Option<UpstreamParcel>,
    /// Requests that it has served.
    #[prost(uint32, tag = "2")]
    pub requests: u32,
    /// How long it has been idle, milliseconds.
    #[prost(uint64, tag = "3")]
    pub idle_ms: u64,
}

/// A socket.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SocketParcel {
    /// Received and not used.
    #[prost(bytes = "vec", tag = "1")]
    pub input: Vec<u8>,
    /// To be sent.
    #[prost(bytes = "vec", tag = "2")]
    pub output: Vec<u8>,
    /// FIN has come.
    #[prost(bool, tag = "3")]
    pub eof: bool,
    /// FIN is to be sent behind `output`.
    #[prost(bool, tag = "4")]
    pub shutdown: bool,
    /// How long ago a byte last came or went, milliseconds.
    #[prost(uint64, tag = "5")]
    pub idle_ms: u64,
}

/// A connection to an endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpstreamParcel {
    /// Name of the cluster.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Address of the endpoint.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// The socket.
    #[prost(message, optional, tag = "3")]
    pub socket: Option<SocketParcel>,
    /// How long the connection has been open, microseconds.
    #[prost(uint64, tag = "4")]
    pub open_us: u64,
}

/// A relay of bytes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RelayParcel {
    /// FIN of the client was passed on.
    #[prost(bool, tag = "1")]
    pub upward_ended: bool,
    /// Bytes from the client so far.
    #[prost(uint64, tag = "2")]
    pub upward_bytes: u64,
    /// FIN of the origin was passed on.
    #[prost(bool, tag = "3")]
    pub downward_ended: bool,
    /// Bytes to the client so far.
    #[prost(uint64, tag = "4")]
    pub downward_bytes: u64,
}

/// An HTTP/1 connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HttpParcel {
    /// Requests that it has served.
    #[prost(uint32, tag = "1")]
    pub requests: u32,
    /// The part of a request head that has come.
    #[prost(bytes = "vec", tag = "2")]
    pub partial: Vec<u8>,
    /// How long it has been waiting for the next request head, or for the rest of one, milliseconds.
    #[prost(uint64, tag = "3")]
    pub waiting_ms: u64,
    /// What it is doing: 0 awaiting a request, 1 an exchange, 2 a tunnel, 3 closing.
    #[prost(uint32, tag = "4")]
    pub phase: u32,
    /// The exchange or the tunnel.
    #[prost(message, optional, tag = "5")]
    pub exchange: Option<ExchangeParcel>,
    /// How it closes.
    #[prost(message, optional, tag = "6")]
    pub closing: Option<ClosingParcel>,
}

impl SocketParcel {
    /// A socket in which nothing is in flight.
    pub(super) fn of(socket: &Socket) -> Self {
        let SocketState { input, output, eof, shutdown, idle_ms } = socket.state();
        Self { input, output, eof, shutdown, idle_ms }
    }
}

impl From<SocketParcel> for SocketState {
    fn from(parcel: SocketParcel) -> Self {
        let SocketParcel { input, output, eof, shutdown, idle_ms } = parcel;
        Self { input, output, eof, shutdown, idle_ms }
    }
}

impl UpstreamParcel {
    /// A connection in which nothing is in flight.
    pub(super) fn of(connection: &Connection, cluster: &str, endpoint: &Address) -> Self {
        Self {
            cluster: cluster.into(),
            endpoint: endpoint.to_string(),
            socket: Some(SocketParcel::of(connection)),
            open_us: connection.age(),
        }
    }
}

impl ConnectingParcel {
    /// An attempt that was made for `waited`, after those at the endpoints `tried`.
    pub(super) fn of(lease: &Lease, tried: &[Rc<Endpoint>], waited: Millis) -> Self {
        Self {
            cluster: lease.cluster().into(),
            endpoint: lease.endpoint().address.to_string(),
            waiting_ms: waited,
            tried: tried.iter().map(|endpoint| endpoint.address.to_string()).collect(),
        }
    }

    /// The endpoint, those tried before, and how long the attempt was made. `None` if that makes no sense here: then the
    /// connection is made as if nothing had been tried.
    pub(super) fn restore(&self, context: &Context) -> Option<(Lease, Vec<Rc<Endpoint>>, Millis)> {
        let cluster = context.upstreams.find_or_stand_in(&self.cluster)?;
        let lease = |address: &String| cluster.lease(&parse_address(address)?).ok();
        let tried = self.tried.iter().filter_map(lease).map(|lease| Rc::clone(lease.endpoint())).collect();
        Some((lease(&self.endpoint)?, tried, self.waiting_ms))
    }
}

impl RelayParcel {
    pub(super) fn of(upward: Direction, downward: Direction) -> Self {
        Self {
            upward_ended: upward.ended,
            upward_bytes: upward.bytes,
            downward_ended: downward.ended,
            downward_bytes: downward.bytes,
        }
    }

    pub(super) fn upward(self) -> Direction {
        Direction { ended: self.upward_ended, bytes: self.upward_bytes }
    }

    pub(super) fn downward(self) -> Direction {
        Direction { ended: self.downward_ended, bytes: self.downward_bytes }
    }
}

impl IdleParcel {
    /// An idle connection in which nothing is in flight.
    #[must_use]
    pub fn of(idle: &IdleConnection, now: Millis) -> Self {
        Self {
            up: Some(UpstreamParcel::of(&idle.connection, &idle.cluster, &idle.endpoint)),
            requests: idle.requests,
            idle_ms: now.saturating_sub(idle.since),
        }
    }

    /// Makes a connection of it. What is returned puts it into the pool, or leaves it to the process that has sent it.
    ///
    /// # Errors
    /// Why it has no place here.
    pub fn restore(
        self,
        context: &Context,
        fd: Option<OwnedFd>,
    ) -> Result<impl FnOnce(bool) + 'static, String> {
        let up = self.up.ok_or("it has no connection")?;
        let cluster = context.upstreams.find(&up.cluster);
        let cluster = cluster.ok_or_else(|| format!("there is no cluster {} any more", up.cluster))?;
        let address = parse_address(&up.endpoint).ok_or("its endpoint has no address")?;
        let lease = cluster.lease(&address).map_err(|error| format!("endpoint {address}: {error}"))?;
        let state = up.socket.ok_or("it has no socket")?;
        let socket = context.ring.restore(fd.ok_or("its descriptor is missing")?, &state.into());
        let connection = lease.endpoint().restore(&context.ring, socket, up.open_us);
        let since = context.ring.now().saturating_sub(self.idle_ms);
        Ok(move |is_ours| {
            if is_ours {
                connection.thaw();
                cluster.adopt_idle(&lease, connection, self.requests, since);
            } else {
                connection.set_moved();
            }
        })
    }
}

/// What a parcel and its descriptors have become.
pub(super) struct Restored {
    pub(super) down: Socket,
    pub(super) up: Option<Connection>,
    pub(super) lease: Option<Lease>,
}

/// Makes sockets of a parcel and its descriptors. Nothing is touched before everything is known to be possible.
pub(super) fn restore(
    context: &Context,
    parcel: &SessionParcel,
    fds: Vec<OwnedFd>,
) -> Result<Restored, String> {
    let mut fds = fds.into_iter();
    let down = parcel.down.clone().ok_or("it has no client")?;
    let down_fd = fds.next().ok_or("the descriptor of the client is missing")?;
    let up = match &parcel.up {
        None => None,
        Some(up) => {
            let cluster = context.upstreams.find_or_stand_in(&up.cluster);
            let cluster = cluster.ok_or_else(|| format!("{:?} is no name of a cluster", up.cluster))?;
            let address = parse_address(&up.endpoint).ok_or("its endpoint has no address")?;
            let lease = cluster.lease(&address).map_err(|error| format!("endpoint {address}: {error}"))?;
            let state = up.socket.clone().ok_or("its origin has no socket")?;
            Some((lease, state, fds.next().ok_or("the descriptor of the origin is missing")?, up.open_us))
        }
    };
    let ring = &context.ring;
    let down = ring.restore(down_fd, &down.into());
    let (up, lease) = up.map_or((None, None), |(lease, state, fd, open_us)| {
        let socket = ring.restore(fd, &state.into());
        (Some(lease.endpoint().restore(ring, socket, open_us)), Some(lease))
    });
    Ok(Restored { down, up, lease })
}

/// An address as a configuration has it.
pub(super) fn parse_address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => text.parse().ok().map(Address::Ip),
    }
}
