//! What the code uses: a configuration in which nothing can be wrong any more.
//!
//! Names are resolved to indices, sizes to bytes, durations to milliseconds ([`NEVER`] for "off"), defaults are
//! filled in. Whoever holds a [`Model`] re-checks nothing.
//!
//! [`NEVER`]: crate::base::clock::NEVER

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use regex::bytes::Regex;

use crate::base::clock::Millis;

/// A whole configuration.
#[derive(Debug)]
pub struct Model {
    /// Process-wide settings.
    pub server: Server,
    /// Where the admin interface listens; `None` for no admin interface.
    pub admin: Option<Admin>,
    /// Listeners in the order of the file.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters in the order of the file; [`ClusterIndex`] points here.
    pub clusters: Vec<Arc<Cluster>>,
    /// What is allowed but hardly meant, such as a route that no request can reach; for the log.
    pub warnings: Vec<String>,
}

/// Position of a cluster in [`Model::clusters`].
pub type ClusterIndex = usize;

/// `[server]`: settings of the process.
#[derive(Debug, Clone)]
pub struct Server {
    /// Downstream connections of all listeners and workers together; `usize::MAX` for no limit.
    pub max_connections: usize,
    /// Memory for receive buffers, bytes per worker.
    pub buffer_memory: usize,
    /// Size of one receive buffer in bytes.
    pub buffer_size: usize,
    /// How long a worker waits to have several events at a time, microseconds; 0: never.
    pub moderation_us: u32,
    /// Size of the shared segment of counters, bytes; memory is taken as it is needed.
    pub stats_memory: u64,
    /// How long SIGTERM waits for what is in flight.
    pub shutdown_timeout_ms: Millis,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address to bind.
    pub address: Address,
    /// Names, lower case, by which clients may call it beside IP addresses and `localhost`.
    pub names: Vec<String>,
}

/// Where to listen or to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Ip(SocketAddr),
    /// Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    /// As users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[[listeners]]`.
#[derive(Debug)]
pub struct Listener {
    /// Unique name.
    pub name: String,
    /// Address to bind; port 0 lets the kernel choose.
    pub address: Address,
    /// Permission bits of a Unix socket.
    pub unix_mode: u32,
    /// Length of the accept queue.
    pub backlog: i32,
    /// Connections of this listener, all workers together; `usize::MAX` for no limit.
    pub max_connections: usize,
    /// Where to log each request (HTTP) or connection (TCP).
    pub access_log: Option<AccessLog>,
    /// What is spoken.
    pub protocol: Protocol,
}

/// Protocol of a listener.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // there are few, and each lies behind an `Arc` already
pub enum Protocol {
    /// HTTP/1.1 and 1.0.
    Http(HttpListener),
    /// Bytes.
    Tcp(TcpListener),
}

/// A listener that relays bytes.
#[derive(Debug)]
pub struct TcpListener {
    /// Where connections go.
    pub cluster: ClusterIndex,
    /// No byte in either direction for so long closes the connection.
    pub idle_timeout_ms: Millis,
}

/// A listener that speaks HTTP.
#[derive(Debug)]
pub struct HttpListener {
    /// Bounds on what a client may send.
    pub limits: HttpLimits,
    /// Bounds on what a client or an exchange may take.
    pub timeouts: HttpTimeouts,
    /// Headers that tell the origin, and the client, about the proxy.
    pub forwarding: Forwarding,
    /// Protocols (lower case) that an `Upgrade` may turn the connection into.
    pub upgrades: Vec<String>,
    /// Whether HTTP/1.0 clients are served; they get 426 otherwise.
    pub accept_http_10: bool,
    /// First match wins.
    pub routes: Vec<Route>,
    /// Applied to every request of the listener before the route's.
    pub request_headers: HeaderEdits,
    /// Applied to every response of the listener after the route's.
    pub response_headers: HeaderEdits,
}

/// `[listeners.limits]`.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Request line and header section, bytes.
    pub head_size: usize,
    /// Header fields in a head.
    pub headers: usize,
    /// Request body, bytes; `u64::MAX` for no limit.
    pub body_size: u64,
    /// Requests on one connection; `u32::MAX` for no limit.
    pub requests_per_connection: u32,
}

/// `[listeners.timeouts]`.
#[derive(Debug, Clone)]
pub struct HttpTimeouts {
    /// From the first byte of a request head (or from accept) to its last.
    pub request_head_ms: Millis,
    /// Between requests on a keep-alive connection.
    pub idle_ms: Millis,
    /// No byte of a body, in either direction, for so long ends an exchange (408 where a response can still be sent).
    /// Applies to a client that does not read, too.
    pub stream_idle_ms: Millis,
    /// From the head of a request to the end of its response.
    pub request_ms: Millis,
    /// No byte in either direction of an upgraded connection for so long closes it.
    pub tunnel_idle_ms: Millis,
}

/// `[listeners.forwarding]`.
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// `x-forwarded-for`.
    pub x_forwarded_for: ForwardedFor,
    /// `x-forwarded-proto`.
    pub x_forwarded_proto: ForwardedProto,
    /// `x-request-id`.
    pub x_request_id: RequestId,
    /// Pseudonym in `via` (RFC 9110 section 7.6.3) on requests and responses; `None` leaves `via` alone.
    pub via: Option<String>,
}

/// What happens to `x-forwarded-for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedFor {
    /// The client's address is appended to what the request carries.
    Append,
    /// What the request carries is replaced by the client's address.
    Replace,
    /// Passed through as it is.
    Off,
}

/// What happens to `x-forwarded-proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedProto {
    /// Set to the scheme that the client used, whatever the request carries.
    Replace,
    /// Set unless the request carries one.
    Keep,
    /// Passed through as it is.
    Off,
}

/// What happens to `x-request-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestId {
    /// A new one, whatever the request carries.
    Replace,
    /// A new one unless the request carries one.
    Keep,
    /// Passed through as it is.
    Off,
}

/// `[listeners.access_log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub target: LogTarget,
    /// How a line looks.
    pub format: LogFormat,
}

/// Where access-log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to, reopened on SIGUSR1.
    File(PathBuf),
}

/// How an access-log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[[listeners.routes]]`.
#[derive(Debug)]
pub struct Route {
    /// Hosts; empty for any.
    pub hosts: Vec<HostPattern>,
    /// Path.
    pub path: PathMatch,
    /// Methods; empty for any.
    pub methods: Vec<String>,
    /// All of these must match.
    pub headers: Vec<HeaderMatch>,
    /// What is done with a request that matches.
    pub action: RouteAction,
    /// Applied to the request after the listener's.
    pub request_headers: HeaderEdits,
    /// Applied to the response before the listener's.
    pub response_headers: HeaderEdits,
}

/// Host to match, lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `example.com`
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any number of labels in front, at least one.
    Suffix(String),
}

/// Path to match. The query does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Any path.
    Any,
    /// Exactly this path.
    Exact(String),
    /// Any path that begins so.
    Prefix(String),
}

/// A condition on a header field.
#[derive(Debug)]
pub struct HeaderMatch {
    /// Field name, lower case.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
    /// The condition is turned round.
    pub invert: bool,
}

/// What a header value must be. A field that occurs several times matches if one of its values does.
#[derive(Debug)]
pub enum ValueMatch {
    /// The field is there.
    Present,
    /// Exactly this value.
    Exact(String),
    /// Begins so.
    Prefix(String),
    /// A regular expression finds something in it.
    Regex(Regex),
}

/// What is done with a request.
#[derive(Debug)]
pub enum RouteAction {
    /// Forwarded to a cluster.
    Forward(Forward),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered directly.
    Respond(Respond),
}

/// Forwarding to one of several clusters.
#[derive(Debug)]
pub struct Forward {
    /// Clusters with their weights (at least one, weights above 0).
    pub clusters: Vec<(ClusterIndex, u32)>,
    /// Sum of the weights.
    pub total_weight: u32,
    /// Replaces the matched prefix (or the exact path).
    pub prefix_rewrite: Option<String>,
    /// Replaces `Host`.
    pub host_rewrite: Option<String>,
    /// Overrides the listener's request time-out.
    pub timeout_ms: Option<Millis>,
}

/// A redirect; parts left out are taken from the request.
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host, possibly with a port.
    pub host: Option<String>,
    /// Path (and query) that replaces the request's.
    pub path: Option<String>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// The query is dropped.
    pub strip_query: bool,
}

/// A fixed response.
#[derive(Debug)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    /// `content-type`.
    pub content_type: String,
}

/// Changes to header fields: first `remove`, then `set`, then `add`. Names are lower case and valid, values are valid.
#[derive(Debug, Default, Clone)]
pub struct HeaderEdits {
    /// Replaced, or added where missing.
    pub set: Vec<(String, String)>,
    /// Added beside what is there.
    pub add: Vec<(String, String)>,
    /// Taken out.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// `[[clusters]]`.
#[derive(Debug)]
pub struct Cluster {
    /// Unique name.
    pub name: String,
    /// Endpoints as written; names are resolved at run time.
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Time to establish a connection.
    pub connect_timeout_ms: Millis,
    /// Endpoints tried for one request or connection before giving up, at least 1.
    pub connect_attempts: u32,
    /// From the end of the request to the first byte of the response (HTTP).
    pub response_timeout_ms: Millis,
    /// How long an idle pooled connection is kept.
    pub idle_timeout_ms: Millis,
    /// Idle pooled connections kept per worker and endpoint.
    pub max_idle_connections: usize,
    /// Requests on one upstream connection; `u32::MAX` for no limit.
    pub requests_per_connection: u32,
    /// A request that must not be repeated goes to a pooled connection only if that was used within this time.
    pub unsafe_reuse_within_ms: Millis,
    /// How often names are resolved again.
    pub resolve_period_ms: Millis,
    /// Bounds on a response head.
    pub response_head_size: usize,
    /// Header fields in a response head.
    pub response_headers: usize,
}

/// An endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub target: EndpointTarget,
    /// Share of the traffic relative to the others, at least 1.
    pub weight: u32,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointTarget {
    /// An address.
    Address(Address),
    /// A name to resolve; each of its addresses becomes an endpoint of the given weight.
    Name {
        /// Host name.
        host: String,
        /// Port.
        port: u16,
    },
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadBalancing {
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two random ones.
    LeastRequest,
    /// At random, by weight.
    Random,
}
