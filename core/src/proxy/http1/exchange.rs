//! One request and its response: the connection upstream, both bodies, and what is known so far.

use std::rc::Rc;

use ouro_shm::Block;

use super::body::{Body, BodyFault, Framing};
use super::response;
use crate::base::clock::{Micros, Millis, NEVER, deadline};
use crate::base::http::{BodyLength, Method, Version};
use crate::base::mutation::{Mutation, is_on};
use crate::config::model::{HeaderEdits, HttpListener};
use crate::proxy::access_log::address_text;
use crate::proxy::headers::NO_EDITS;
use crate::proxy::parcel::{ConnectingParcel, RelayParcel, UpstreamParcel};
use crate::proxy::relay::Direction;
use crate::proxy::{Context, Record};
use crate::ring::{Chunk, Link, Socket, WriteBuf};
use crate::stats::{ClusterScope, HttpScope, count_response};
use crate::upstream::{Cluster, Connection, Endpoint, Lease, RequestOutcome};

/// What a session lends its exchange for one call.
pub(super) struct Env<'a> {
    pub(super) context: &'a Context,
    pub(super) http: &'a HttpListener,
    pub(super) stats: &'a Block<HttpScope>,
    pub(super) down: &'a Socket,
    pub(super) now: Millis,
}

/// How far an exchange has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// It goes on when something happens, or at this time.
    Wait(Millis),
    /// Request and response are over (or the rest of the request is not wanted: then `keep_alive` is false).
    Finished { keep_alive: bool },
    /// Both sides have agreed on another protocol.
    Tunnel,
    /// The client is to be told this.
    Fail(u16, &'static str),
    /// Nothing more can be said to the client. `truncated`: the response was cut off in the middle.
    Abort { truncated: bool },
}

/// How an exchange has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended<'a> {
    /// Request and response are complete.
    Complete,
    /// We have answered ourselves, for this reason.
    Answered(&'a str),
    /// The response was broken off.
    CutOff,
    /// The client has gone.
    ClientGone,
    /// Nothing moved in the tunnel for too long.
    TunnelIdle,
    /// One side has reset the tunnel.
    TunnelReset,
}

impl Ended<'_> {
    /// What the access log says; nothing where all went well.
    pub(super) const fn text(&self) -> &str {
        match self {
            Self::Complete => "",
            Self::Answered(reason) => reason,
            Self::CutOff => "cut off",
            Self::ClientGone => "client gone",
            Self::TunnelIdle => "idle timeout",
            Self::TunnelReset => "reset",
        }
    }
}

/// Where the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseState {
    /// Its head has not come yet.
    Head,
    /// Its head is on its way to the client.
    Body,
    /// It is over.
    Done,
}

/// The upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upstream {
    /// Not chosen yet.
    None,
    /// Being connected since then.
    Connecting(Millis),
    /// The request is on its way.
    Connected,
}

/// See the module.
pub struct Exchange {
    /// Where it goes; `None` when the proxy answered itself and only the rest of the request is awaited.
    pub(super) cluster: Option<Rc<Cluster>>,
    pub(super) lease: Option<Lease>,
    pub(super) tried: Vec<Rc<Endpoint>>,
    pub(super) up: Option<Connection>,
    pub(super) upstream: Upstream,
    /// For how long an attempt to connect was made that was given up to move: it goes on at the endpoint of `lease`.
    pub(super) resumes: Option<Millis>,
    /// Requests that the upstream connection served before.
    pub(super) up_requests: u32,
    /// A fresh connection is wanted: a pooled one turned out to be closed.
    pub(super) fresh: bool,
    /// Head of a request without body, kept to repeat it until the response begins.
    pub(super) head: Option<Chunk>,
    /// Head of a request with a body; it goes together with the first piece.
    pub(super) lead: Option<WriteBuf>,
    pub(super) method: Method,
    pub(super) version: Version,
    /// Position of the route in the listener's list.
    pub(super) route: u32,
    /// The client is willing to go on, and so are we.
    pub(super) keep_alive: bool,
    /// The client has asked for the end of the connection, and sends nothing more.
    pub(super) asks_close: bool,
    /// The client waits for 100 before it sends the body.
    pub(super) expect_continue: bool,
    /// The protocol that the request asks to upgrade to, where that is allowed.
    pub(super) upgrade: Option<Box<[u8]>>,
    pub(super) request: Body,
    pub(super) response: Body,
    pub(super) response_state: ResponseState,
    /// A part of the response head.
    pub(super) partial: Vec<u8>,
    pub(super) informational: u32,
    /// The upstream connection can serve another request after this one.
    pub(super) up_keep_alive: bool,
    /// The client learns the end of the body from the end of the connection.
    pub(super) until_close: bool,
    /// Status of the response, or of ours; 0 before it is known.
    pub(super) status: u16,
    /// The request was sent, and what became of it is not counted yet.
    pub(super) is_sent: bool,
    pub(super) started: Millis,
    pub(super) started_us: Micros,
    pub(super) sent_us: Micros,
    /// When the request was completely passed on.
    pub(super) sent_at: Millis,
    pub(super) request_deadline: Millis,
    pub(super) upward: Direction,
    pub(super) downward: Direction,
    pub(super) record: Option<Box<Record>>,
    /// Changes to the head of the response, where the route was another process's.
    pub(super) carried_edits: Option<Box<HeaderEdits>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            cluster: None,
            lease: None,
            tried: Vec::new(),
            up: None,
            upstream: Upstream::None,
            resumes: None,
            up_requests: 0,
            fresh: false,
            head: None,
            lead: None,
            method: Method::Get,
            version: Version::Http11,
            route: 0,
            keep_alive: false,
            asks_close: false,
            expect_continue: false,
            upgrade: None,
            request: Body::none(),
            response: Body::none(),
            response_state: ResponseState::Head,
            partial: Vec::new(),
            informational: 0,
            up_keep_alive: false,
            until_close: false,
            status: 0,
            is_sent: false,
            started: 0,
            started_us: 0,
            sent_us: 0,
            sent_at: 0,
            request_deadline: NEVER,
            upward: Direction::default(),
            downward: Direction::default(),
            record: None,
            carried_edits: None,
        }
    }
}

impl Exchange {
    /// Does all that can be done now.
    pub(super) fn advance(&mut self, env: &Env<'_>) -> Progress {
        let down = env.down.status();
        if down.recv_error != 0 || down.send_error != 0 {
            return Progress::Abort { truncated: false };
        }
        loop {
            if self.cluster.is_some() && self.upstream != Upstream::Connected {
                match self.connect(env) {
                    Ok(()) => {}
                    Err(progress) => return progress,
                }
            }
            if let Err(fault) = self.pump_request(env) {
                return self.request_fault(env, fault);
            }
            match self.pump_response(env) {
                Some(progress) => return progress,
                // A pooled connection was closed under the request: once more, on a fresh one.
                None if self.cluster.is_some() && self.upstream != Upstream::Connected => {}
                None => break,
            }
        }
        if self.response_state == ResponseState::Done {
            return self.finish(env);
        }
        self.wait(env)
    }

    /// Gives up connecting, so that the exchange can go on elsewhere: there the attempt is made anew, with the time that
    /// is left: the endpoint is not to blame for what passes on the way. Says whether it can.
    pub(super) fn prepare_to_move(&mut self, now: Millis) -> bool {
        if let Upstream::Connecting(since) = self.upstream {
            self.up = None;
            self.tried.pop();
            self.resumes = Some(now.saturating_sub(since));
            self.end_waiting();
        }
        // What was sent must not be sent again.
        self.upstream == Upstream::None || self.up.is_some()
    }

    /// Goes on with the connection of an exchange that comes from another process.
    pub(super) fn adopt(&mut self, up: Connection, lease: Lease, relay: RelayParcel) {
        if self.is_sent {
            lease.endpoint().adopt_request();
            up.set_busy(true);
        }
        self.up = Some(up);
        self.lease = Some(lease);
        self.upstream = Upstream::Connected;
        self.upward = relay.upward();
        self.downward = relay.downward();
    }

    /// Goes on with an attempt to connect of another process.
    pub(super) fn adopt_attempt(&mut self, lease: Lease, tried: Vec<Rc<Endpoint>>, waited: Millis) {
        self.lease = Some(lease);
        self.tried = tried;
        self.resumes = Some(waited);
    }

    /// The attempt to connect as another process can go on with it.
    pub(super) fn pack_attempt(&self) -> Option<ConnectingParcel> {
        Some(ConnectingParcel::of(self.lease.as_ref()?, &self.tried, self.resumes?))
    }

    /// The exchange goes on in another process.
    pub(super) fn set_moved(&mut self) {
        if let (true, Some(lease)) = (self.is_sent, &self.lease) {
            lease.endpoint().release_request();
            self.is_sent = false;
        }
        if let Some(up) = &self.up {
            up.set_moved();
        }
    }

    /// Changes that the route makes to the head of the response.
    pub(super) fn response_edits<'e>(&'e self, http: &'e HttpListener) -> &'e HeaderEdits {
        match &self.carried_edits {
            Some(edits) => edits,
            None => http.routes.get(self.route as usize).map_or(NO_EDITS, |route| &route.response_headers),
        }
    }

    /// The connection upstream as another process can go on with it.
    pub(super) fn pack_upstream(&self) -> Option<UpstreamParcel> {
        let (up, lease) = (self.up.as_ref()?, self.lease.as_ref()?);
        Some(UpstreamParcel::of(up, lease.cluster(), &lease.endpoint().address))
    }

    /// Whether the response has begun, so that no other can be sent.
    pub(super) fn has_answered(&self) -> bool {
        self.response_state != ResponseState::Head
    }

    fn connect(&mut self, env: &Env<'_>) -> Result<(), Progress> {
        let Some(cluster) = self.cluster.clone() else { return Ok(()) };
        let mut failure = (503, "No endpoint of the upstream is available.");
        loop {
            if let Upstream::Connecting(since) = self.upstream {
                let expires = deadline(since, cluster.config.connect_timeout_ms).min(self.request_deadline);
                match self.up.as_ref().map(|up| up.status().link) {
                    Some(Link::Connected) => {
                        if let Some(up) = &self.up {
                            up.count_established();
                        }
                        cluster.stats.lower(ClusterScope::RQ_PENDING_ACTIVE, 1);
                        self.start_sending(env);
                        return Ok(());
                    }
                    Some(Link::Connecting) if env.now < expires => return Err(Progress::Wait(expires)),
                    Some(Link::Connecting) => failure = (504, "Connecting to the upstream took too long."),
                    _ => failure = (502, "The upstream could not be connected to."),
                }
                if let Some(up) = self.up.take() {
                    up.count_failure(up.status().link == Link::Connecting);
                }
                self.end_waiting();
                cluster.stats.inc(ClusterScope::RQ_PENDING_FAILURE_EJECT);
                if self.request_deadline <= env.now {
                    env.stats.inc(HttpScope::RQ_TIMEOUT);
                    return Err(Progress::Fail(504, "The request took too long."));
                }
            }
            let resumed = self.resumes.take();
            if resumed.is_none() && self.tried.len() >= cluster.config.connect_attempts as usize {
                cluster.stats.inc(ClusterScope::CX_CONNECT_ATTEMPTS_EXCEEDED);
                return Err(Progress::Fail(failure.0, failure.1));
            }
            // A request that failed on a pooled connection is repeated at the same endpoint.
            let same = resumed.is_some() || (self.fresh && self.tried.is_empty());
            let again = if same { self.lease.take() } else { None };
            let lease = again.or_else(|| cluster.pick(&self.tried, &mut env.context.random.borrow_mut()));
            let Some(lease) = lease else {
                cluster.stats.inc(ClusterScope::CX_NONE_HEALTHY);
                return Err(Progress::Fail(failure.0, failure.1));
            };
            if !self.fresh && resumed.is_none() {
                let repeatable = self.head.is_some() && self.method.is_idempotent();
                if let Some(pooled) = cluster.checkout(lease.endpoint(), env.now, repeatable) {
                    self.up_requests = pooled.requests;
                    pooled.connection.attach(env.context.ring.current_task());
                    self.up = Some(pooled.connection);
                    self.lease = Some(lease);
                    self.start_sending(env);
                    // Nothing can have come yet: a pooled connection has nothing unread.
                    return if self.request.done { Err(self.wait(env)) } else { Ok(()) };
                }
            }
            self.tried.push(Rc::clone(lease.endpoint()));
            let Ok(up) = lease.endpoint().connect(&env.context.ring, true) else {
                return Err(Progress::Fail(503, "The proxy has no socket left to connect with."));
            };
            up.attach(env.context.ring.current_task());
            self.up = Some(up);
            self.up_requests = 0;
            self.lease = Some(lease);
            self.upstream = Upstream::Connecting(env.now.saturating_sub(resumed.unwrap_or(0)));
            if resumed.is_none() {
                cluster.stats.inc(ClusterScope::RQ_PENDING_TOTAL);
            }
            cluster.stats.raise(ClusterScope::RQ_PENDING_ACTIVE, 1);
        }
    }

    fn start_sending(&mut self, env: &Env<'_>) {
        self.upstream = Upstream::Connected;
        if let (Some(up), Some(lease)) = (&self.up, &self.lease) {
            lease.endpoint().begin_request();
            up.set_busy(true);
            self.is_sent = true;
            self.sent_us = env.context.ring.now_us();
            if let Some(head) = &self.head {
                up.send(head.clone());
                self.sent_at = env.now;
            }
        }
    }

    /// The request no longer waits for a connection.
    fn end_waiting(&mut self) {
        if let (Upstream::Connecting(_), Some(cluster)) = (self.upstream, &self.cluster) {
            cluster.stats.lower(ClusterScope::RQ_PENDING_ACTIVE, 1);
        }
        self.upstream = Upstream::None;
    }

    /// Counts what became of the request upstream, if it was sent; the first outcome is the one that counts.
    pub(super) fn end_request(&mut self, outcome: RequestOutcome) {
        if let (true, Some(lease)) = (self.is_sent, &self.lease) {
            lease.endpoint().end_request(outcome);
            self.is_sent = false;
        }
    }

    /// Counts a whole response.
    pub(super) fn end_response(&mut self, env: &Env<'_>) {
        self.end_request(RequestOutcome::Response(self.status));
        if let Some(up) = &self.up {
            up.set_busy(false);
        }
        if let Some(cluster) = &self.cluster {
            cluster.stats.record(ClusterScope::RQ_TIME, env.context.ring.now_us() - self.sent_us);
            cluster.stats.inc(ClusterScope::RQ_COMPLETED);
            count_response(&cluster.stats, self.status);
            if self.fresh {
                cluster.stats.inc(ClusterScope::RQ_RETRY_SUCCESS);
            }
        }
    }

    /// Counts what an exchange that is over, for whatever reason, has not yet counted.
    pub(super) fn settle(&mut self) {
        if let (Upstream::Connecting(_), Some(cluster)) = (self.upstream, &self.cluster) {
            cluster.stats.inc(ClusterScope::RQ_CANCELLED);
        }
        self.end_waiting();
        self.end_request(RequestOutcome::BrokenOff);
    }

    fn pump_request(&mut self, env: &Env<'_>) -> Result<(), BodyFault> {
        if self.request.done {
            return Ok(());
        }
        let lead = self.lead.take();
        self.request.pump(&env.context.ring, env.down, self.up.as_deref(), lead, None)?;
        if self.request.done {
            self.sent_at = env.now;
        }
        Ok(())
    }

    fn request_fault(&self, env: &Env<'_>, fault: BodyFault) -> Progress {
        let (status, reason) = match fault {
            BodyFault::Bad(error) => {
                env.stats.inc(HttpScope::CX_PROTOCOL_ERROR);
                env.stats.inc(HttpScope::ERROR_BODY);
                (400, error.reason())
            }
            BodyFault::TooLarge if self.cluster.is_none() => return Progress::Finished { keep_alive: false },
            BodyFault::TooLarge => {
                env.stats.inc(HttpScope::RQ_TOO_LARGE);
                (413, "The request body is larger than this proxy accepts.")
            }
            BodyFault::Gone => return Progress::Abort { truncated: false },
        };
        if self.has_answered() { Progress::Abort { truncated: true } } else { Progress::Fail(status, reason) }
    }

    /// `None`: nothing more to do for now, or (when the connection was given up) to be repeated.
    fn pump_response(&mut self, env: &Env<'_>) -> Option<Progress> {
        if self.response_state == ResponseState::Head
            && let Some(progress) = response::read_head(self, env)
        {
            return Some(progress);
        }
        if self.response_state == ResponseState::Body {
            let up = self.up.as_ref()?;
            if let Err(fault) = self.response.pump(&env.context.ring, up, Some(env.down), None, None) {
                tracing::debug!(?fault, "the upstream broke off its response");
                self.end_request(RequestOutcome::BrokenByOrigin);
                return Some(Progress::Abort { truncated: true });
            }
            if self.response.done {
                self.response_state = ResponseState::Done;
            }
        }
        None
    }

    /// The upstream connection ended before the response began. Says whether the request can be repeated; then the
    /// exchange is set back to connect afresh.
    pub(super) fn set_back(&mut self) -> bool {
        let pooled = self.up_requests > 0;
        let repeatable = pooled
            && !self.fresh
            && self.head.is_some()
            && (self.method.is_idempotent() || is_on(Mutation::RequestRepeated))
            && self.partial.is_empty()
            && self.informational == 0;
        self.end_request(RequestOutcome::BrokenByOrigin);
        if repeatable {
            if let Some(cluster) = &self.cluster {
                cluster.stats.inc(ClusterScope::RQ_RETRY);
            }
            self.fresh = true;
            self.up = None;
            self.upstream = Upstream::None;
        }
        repeatable
    }

    /// The response is over.
    fn finish(&mut self, env: &Env<'_>) -> Progress {
        if !self.request.done {
            if self.cluster.is_none() {
                return self.wait(env);
            }
            self.end_response(env);
            env.stats.inc(HttpScope::RQ_RESPONSE_BEFORE_COMPLETE);
            // The origin did not want the rest of the request; neither do we.
            self.up = None;
            return Progress::Finished { keep_alive: false };
        }
        if self.cluster.is_some() {
            self.end_response(env);
        }
        if let (Some(up), Some(lease), Some(cluster)) = (self.up.take(), &self.lease, &self.cluster) {
            if self.up_keep_alive {
                cluster.checkin(lease.endpoint(), up, self.up_requests + 1, env.now);
            } else {
                cluster.stats.inc(ClusterScope::CX_CLOSE_NOTIFY);
            }
        }
        Progress::Finished { keep_alive: self.keep_alive && !self.until_close }
    }

    fn wait(&mut self, env: &Env<'_>) -> Progress {
        let awaiting_head = self.request.done && self.response_state == ResponseState::Head;
        let expires = match (&self.cluster, awaiting_head) {
            (Some(cluster), true) => deadline(self.sent_at, cluster.config.response_timeout_ms),
            _ => {
                let down = env.down.status().activity;
                let activity = self.up.as_ref().map_or(down, |up| up.status().activity.max(down));
                deadline(activity, env.http.timeouts.stream_idle_ms)
            }
        };
        let expires = self.request_deadline.min(expires);
        if expires > env.now {
            return Progress::Wait(expires.min(self.response.holds_until()));
        }
        self.expire(env, awaiting_head)
    }

    /// It has taken too long.
    #[cold]
    fn expire(&mut self, env: &Env<'_>, awaiting_head: bool) -> Progress {
        let late = self.request_deadline <= env.now;
        env.stats.inc(if late { HttpScope::RQ_TIMEOUT } else { HttpScope::RQ_IDLE_TIMEOUT });
        if self.has_answered() {
            return Progress::Abort { truncated: true };
        }
        if late {
            self.end_request(RequestOutcome::TimedOut);
            return Progress::Fail(504, "The request took too long.");
        }
        if awaiting_head || self.up.as_ref().is_some_and(|up| up.status().unsent > 0) {
            self.end_request(RequestOutcome::TimedOut);
            return Progress::Fail(504, "The upstream took too long to answer.");
        }
        Progress::Fail(408, "The request body did not arrive in time.")
    }

    /// How a body of this length is framed for whoever gets it from us.
    pub(super) fn framing_for(length: BodyLength) -> Framing {
        match length {
            BodyLength::Chunked => Framing::Chunked,
            _ => Framing::Identity,
        }
    }

    /// Completes the record for the access log.
    pub(super) fn complete_record(&mut self, now: Millis, outcome: &str) -> Option<Box<Record>> {
        let mut record = self.record.take()?;
        record.request_bytes = self.request.bytes + self.upward.bytes;
        record.response_bytes += self.response.bytes + self.downward.bytes;
        record.duration_ms = now.saturating_sub(self.started);
        record.upstream =
            self.lease.as_ref().map(|lease| address_text(&lease.endpoint().address)).unwrap_or_default();
        record.outcome = outcome.into();
        Some(record)
    }

    /// Makes it as good as new, keeping what its vectors have allocated.
    pub(super) fn clear(&mut self) {
        self.settle();
        // Field by field: to make a new one and to drop this costs several times as much. A field that is missing here
        // does not compile.
        let Self {
            cluster,
            lease,
            tried,
            up,
            upstream,
            resumes,
            up_requests,
            fresh,
            head,
            lead,
            method,
            version,
            route,
            keep_alive,
            asks_close,
            expect_continue,
            upgrade,
            request,
            response,
            response_state,
            partial,
            informational,
            up_keep_alive,
            until_close,
            status,
            is_sent,
            started,
            started_us,
            sent_us,
            sent_at,
            request_deadline,
            upward,
            downward,
            record,
            carried_edits,
        } = self;
        (*cluster, *lease, *up, *upstream, *resumes) = (None, None, None, Upstream::None, None);
        (*head, *lead, *upgrade, *record, *carried_edits) = (None, None, None, None, None);
        (*request, *response, *response_state) = (Body::none(), Body::none(), ResponseState::Head);
        (*method, *version, *route) = (Method::Get, Version::Http11, 0);
        (*up_requests, *informational, *status) = (0, 0, 0);
        (*fresh, *keep_alive, *asks_close, *expect_continue) = (false, false, false, false);
        (*up_keep_alive, *until_close, *is_sent) = (false, false, false);
        (*started, *started_us, *sent_us, *sent_at, *request_deadline) = (0, 0, 0, 0, NEVER);
        (*upward, *downward) = (Direction::default(), Direction::default());
        tried.clear();
        partial.clear();
    }

    /// One to begin with, where there is none to use again.
    #[cold]
    pub(super) fn boxed() -> Box<Self> {
        Box::default()
    }
}
