//! An HTTP/1 session: requests on one client connection, one after the other.
//!
//! | phase | waits for | then |
//! |---|---|---|
//! | `Head` | a request head | `Exchange`, or a reply of our own |
//! | `Exchange` | origin and client, both ways at once | `Head`, `Tunnel` or `Closing` |
//! | `Tunnel` | bytes, both ways | the end |
//! | `Closing` | our last bytes to be taken, the client to hang up | the end |
//!
//! `mod.rs` has the phases, `request.rs` what is done with a request head, `exchange.rs` the connection upstream and
//! what ends an exchange, `response.rs` what is done with a response head, `body.rs` the bodies of both.

mod body;
mod exchange;
mod pack;
mod request;
mod response;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use ouro_shm::Block;

use self::exchange::{Ended, Env, Progress, ResponseState};
use super::context::{Context, Gate, HttpService, Permit};
use super::headers::Client;
use super::parcel::{self, HttpParcel, RelayParcel, Restored, SessionParcel, SocketParcel};
use super::relay::{Outcome, cut_off_unsent, pump_both};
use super::reply::{self, Reply};
use super::{Session, Step};
use crate::base::clock::{Millis, deadline};
use crate::base::http::{Method, Version};
use crate::base::limits;
use crate::base::mutation::{Mutation, is_on};
use crate::ring::{Ring, Socket};
use crate::stats::{ClusterScope, HTTP_CLASSES, HttpScope, count_class, count_response};

pub use self::exchange::Exchange;
pub use self::pack::{ClosingParcel, ExchangeParcel};

/// Exchanges kept for reuse per worker.
const SPARE_EXCHANGES: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Exchange,
    Tunnel,
    Closing,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// The client has asked for it and says nothing more.
    Plain,
    /// The client may still be sending: its bytes are thrown away for a while, so that it gets to read our last words.
    Linger,
    /// A cut-off that must not look like an end.
    Reset,
}

/// A client connection that speaks HTTP/1.
pub struct Http1 {
    context: Rc<Context>,
    service: Rc<HttpService>,
    down: Socket,
    exchange: Option<Box<Exchange>>,
    /// The part of a head that has come so far, where it did not come in one piece.
    partial: Vec<u8>,
    /// When the connection began to wait for the head (or for its rest), or to close.
    since: Millis,
    requests: u32,
    phase: Phase,
    close: Close,
    /// FIN was sent, and when lingering ends.
    lingering: Option<Millis>,
    discarded: u32,
    client: Option<Box<Client>>,
    /// The client has ended the connection.
    remote: bool,
    /// The connection has ended before a request on it had.
    ended_within_request: bool,
    /// It goes on in another process.
    moved: bool,
    permit: Permit,
}

impl Http1 {
    /// A session on an accepted connection.
    #[must_use]
    pub fn new(context: Rc<Context>, service: Rc<HttpService>, down: Socket, permit: Permit) -> Self {
        let stats = &service.stats;
        stats.inc(HttpScope::CX_TOTAL);
        stats.inc(HttpScope::CX_HTTP1_TOTAL);
        stats.raise(HttpScope::CX_ACTIVE, 1);
        stats.raise(HttpScope::CX_HTTP1_ACTIVE, 1);
        Self::uncounted(context, service, down, permit)
    }

    /// A session that nobody has counted yet.
    fn uncounted(context: Rc<Context>, service: Rc<HttpService>, down: Socket, permit: Permit) -> Self {
        let since = context.ring.now();
        Self {
            context,
            service,
            down,
            exchange: None,
            partial: Vec::new(),
            since,
            requests: 0,
            phase: Phase::Head,
            close: Close::Plain,
            lingering: None,
            discarded: 0,
            client: None,
            remote: false,
            ended_within_request: false,
            moved: false,
            permit,
        }
    }

    /// Goes on with a session that comes from another process.
    ///
    /// # Errors
    /// Why it cannot be done; the connection is still the other process's then.
    pub fn restore(
        context: Rc<Context>,
        service: Rc<HttpService>,
        gate: &Rc<Gate>,
        parcel: SessionParcel,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, String> {
        let http = parcel.http.clone().ok_or("it is not an HTTP connection")?;
        let exchange = http.exchange.map(|parcel| Exchange::unpack(&context, parcel, &service.listener.name));
        let exchange = exchange.transpose()?;
        if exchange.is_none() && matches!(http.phase, 1 | 2) {
            return Err("it has no exchange".into());
        }
        let Restored { down, up, lease } = parcel::restore(&context, &parcel, fds)?;
        let stats = &service.stats;
        stats.raise(HttpScope::CX_ACTIVE, 1);
        stats.raise(HttpScope::CX_HTTP1_ACTIVE, 1);
        let now = context.ring.now();
        let permit = gate.admit_moved(parcel.open_us);
        let mut session = Self::uncounted(Rc::clone(&context), Rc::clone(&service), down, permit);
        session.since = now.saturating_sub(http.waiting_ms);
        session.requests = http.requests;
        session.partial = http.partial;
        session.client = parcel.client.parse().ok().map(|address| Box::new(Client::new(address)));
        session.phase = match http.phase {
            0 => Phase::Head,
            1 => Phase::Exchange,
            2 => Phase::Tunnel,
            _ => Phase::Closing,
        };
        if let Some(closing) = http.closing {
            closing.apply(&mut session, now);
        }
        if let Some(mut exchange) = exchange {
            session.service.stats.raise(HttpScope::RQ_ACTIVE, 1);
            if session.phase == Phase::Tunnel {
                session.service.stats.raise(HttpScope::CX_UPGRADES_ACTIVE, 1);
            }
            if let (Some(up), Some(lease)) = (up, lease) {
                exchange.adopt(up, lease, parcel.relay.unwrap_or_default());
            } else if let Some((lease, tried, waited)) = parcel.connecting.and_then(|c| c.restore(&context)) {
                exchange.adopt_attempt(lease, tried, waited);
            }
            session.exchange = Some(Box::new(exchange));
        }
        Ok(session)
    }

    fn run_exchange(&mut self) -> Option<Step> {
        let Some(mut exchange) = self.exchange.take() else { return Some(Step::Done) };
        let down = &self.down;
        let now = self.context.ring.now();
        let env =
            Env { context: &self.context, http: self.service.http(), stats: &self.service.stats, down, now };
        match exchange.advance(&env) {
            Progress::Wait(deadline) => {
                if exchange.response_state == ResponseState::Body {
                    // A body may take its time; who watches wants to see it come.
                    count_traffic(&self.service.stats, down);
                    if let Some(up) = &exchange.up {
                        up.count_traffic();
                    }
                }
                self.exchange = Some(exchange);
                return Some(Step::Wait(deadline));
            }
            Progress::Tunnel => {
                self.service.stats.inc(HttpScope::CX_UPGRADES_TOTAL);
                self.service.stats.raise(HttpScope::CX_UPGRADES_ACTIVE, 1);
                self.exchange = Some(exchange);
                self.phase = Phase::Tunnel;
            }
            Progress::Finished { keep_alive } => {
                let unfinished = !exchange.request.done;
                let asked = exchange.asks_close || exchange.version == Version::Http10;
                self.end_exchange(exchange, Ended::Complete);
                if keep_alive {
                    self.phase = Phase::Head;
                    self.since = now;
                } else {
                    self.close_behind_response(asked && !unfinished);
                }
            }
            Progress::Fail(status, reason) => self.fail(exchange, status, reason),
            Progress::Abort { truncated } => return self.abort(exchange, truncated),
        }
        None
    }

    /// The response was the last one. With `is_last_word` the client has nothing more to say either.
    #[inline(never)]
    fn close_behind_response(&mut self, is_last_word: bool) {
        let limited = self.requests >= self.service.http().limits.requests_per_connection;
        if limited {
            self.service.stats.inc(HttpScope::CX_MAX_REQUESTS);
        }
        if self.context.is_leaving() {
            self.service.stats.inc(HttpScope::CX_DRAIN_CLOSE);
        }
        let plain = is_last_word && !limited && !self.context.is_leaving();
        self.start_closing(if plain { Close::Plain } else { Close::Linger });
    }

    /// Tells the client that its request has failed.
    #[cold]
    fn fail(&mut self, mut exchange: Box<Exchange>, status: u16, reason: &str) {
        let keep_alive = exchange.request.done && exchange.keep_alive && !self.context.says_farewell();
        let head_only = exchange.method == Method::Head;
        let version = exchange.version;
        exchange.settle();
        exchange.up = None;
        if let (500.., Some(cluster)) = (status, &exchange.cluster) {
            // Whoever looks at the cluster wants to see what its clients got for want of a response.
            cluster.stats.inc(ClusterScope::RQ_COMPLETED);
            count_response(&cluster.stats, status);
        }
        self.reply_error(status, reason, keep_alive, head_only, version, &mut exchange);
        self.end_exchange(exchange, Ended::Answered(reason));
        self.after_reply(keep_alive);
    }

    /// Breaks off: the response was truncated, or the client is gone.
    #[cold]
    fn abort(&mut self, exchange: Box<Exchange>, truncated: bool) -> Option<Step> {
        let reset = truncated && exchange.until_close;
        self.ended_within_request = true;
        self.end_exchange(exchange, if truncated { Ended::CutOff } else { Ended::ClientGone });
        if !truncated {
            if self.down.status().recv_error != 0 {
                // Where we have cut it off ourselves, that must not look like the end of a response.
                self.down.reset_at_close();
            }
            self.remote = true;
            return Some(Step::Done);
        }
        // What came of the response is still delivered.
        self.start_closing(if reset { Close::Reset } else { Close::Linger });
        None
    }

    #[inline(never)]
    fn run_tunnel(&mut self) -> Option<Step> {
        let Some(exchange) = &mut self.exchange else { return Some(Step::Done) };
        let down = &self.down;
        let Exchange { up: Some(up), upward, downward, .. } = &mut **exchange else {
            return Some(Step::Done);
        };
        let outcome = pump_both(down, up, upward, downward);
        count_traffic(&self.service.stats, down);
        up.count_traffic();
        let idle_since = down.status().activity.max(up.status().activity);
        let expires = deadline(idle_since, self.service.http().timeouts.tunnel_idle_ms);
        let ended = match outcome {
            Outcome::Open if expires > self.context.ring.now() => return Some(Step::Wait(expires)),
            Outcome::Open => {
                self.service.stats.inc(HttpScope::CX_IDLE_TIMEOUT);
                cut_off_unsent(down);
                cut_off_unsent(up);
                Ended::TunnelIdle
            }
            Outcome::Finished => Ended::Complete,
            Outcome::Reset => {
                down.reset_at_close();
                up.reset_at_close();
                Ended::TunnelReset
            }
        };
        self.remote = down.status().eof || down.status().recv_error != 0;
        self.service.stats.lower(HttpScope::CX_UPGRADES_ACTIVE, 1);
        if let Some(exchange) = self.exchange.take() {
            self.end_exchange(exchange, ended);
        }
        Some(Step::Done)
    }

    #[inline(never)]
    fn run_closing(&mut self) -> Option<Step> {
        let down = &self.down;
        let now = self.context.ring.now();
        let status = down.status();
        if status.send_error != 0 || status.recv_error != 0 {
            return Some(Step::Done);
        }
        if status.unsent > 0 {
            let idle_since = status.activity.max(self.since);
            let expires = deadline(idle_since, self.service.http().timeouts.stream_idle_ms);
            if expires <= now {
                cut_off_unsent(down);
                return Some(Step::Done);
            }
            down.wake_when_unsent_below(Some(0));
            if self.close != Close::Reset {
                // The end leaves together with the last bytes.
                down.shutdown_write();
            }
            return Some(Step::Wait(expires));
        }
        match self.close {
            // A client that says something all the same may say more, which must not take our last words along.
            Close::Plain if status.unread == 0 && self.lingering.is_none() => return Some(Step::Done),
            Close::Reset => {
                down.reset_at_close();
                return Some(Step::Done);
            }
            Close::Plain | Close::Linger => {}
        }
        let end = *self.lingering.get_or_insert_with(|| {
            down.shutdown_write();
            now + limits::LINGER_MS
        });
        while let Some(chunk) = down.receive() {
            #[allow(clippy::cast_possible_truncation)] // a chunk is a buffer at most
            {
                self.discarded = self.discarded.saturating_add(chunk.len() as u32);
            }
        }
        if down.status().eof || now >= end || self.discarded as usize > limits::LINGER_BYTES {
            return Some(Step::Done);
        }
        Some(Step::Wait(end))
    }

    #[inline(never)]
    fn start_closing(&mut self, close: Close) {
        self.phase = Phase::Closing;
        self.close = close;
        self.since = self.context.ring.now();
        self.partial = Vec::new();
    }

    /// What follows a reply of our own.
    fn after_reply(&mut self, keep_alive: bool) {
        if keep_alive {
            self.phase = Phase::Head;
            self.since = self.context.ring.now();
        } else {
            self.start_closing(Close::Linger);
        }
    }

    fn reply_error(
        &self,
        status: u16,
        reason: &str,
        keep_alive: bool,
        head_only: bool,
        version: Version,
        exchange: &mut Exchange,
    ) {
        let body = reply::error_body(status, reason);
        exchange.status = status;
        if let Some(record) = &mut exchange.record {
            record.status = status;
            record.response_bytes = if head_only { 0 } else { body.len() as u64 };
        }
        self.send_reply(&Reply {
            status,
            body: &body,
            content_type: "text/plain; charset=utf-8",
            location: None,
            edits: None,
            keep_alive,
            head_only,
            version,
        });
    }

    fn send_reply(&self, reply: &Reply<'_>) {
        let mut buf = self.context.ring.write_buf();
        reply::write(&mut buf.bytes, &self.context, reply, &self.service.http().response_headers);
        self.down.send(buf.freeze());
    }

    /// A request has begun.
    fn count_request(&self, exchange: &mut Exchange) {
        exchange.started_us = self.context.ring.now_us();
        let stats = &self.service.stats;
        stats.inc(HttpScope::RQ_TOTAL);
        stats.inc(HttpScope::RQ_HTTP1_TOTAL);
        stats.raise(HttpScope::RQ_ACTIVE, 1);
    }

    fn end_exchange(&self, mut exchange: Box<Exchange>, ended: Ended<'_>) {
        let stats = &self.service.stats;
        stats.lower(HttpScope::RQ_ACTIVE, 1);
        stats.record(HttpScope::RQ_TIME, self.context.ring.now_us() - exchange.started_us);
        count_class(stats, &HTTP_CLASSES, exchange.status);
        stats.inc(match ended {
            Ended::CutOff => HttpScope::RQ_TX_RESET,
            Ended::ClientGone => HttpScope::RQ_RX_RESET,
            _ => HttpScope::RQ_COMPLETED,
        });
        count_traffic(stats, &self.down);
        if let Some(log) = &self.service.listener.access_log
            && let Some(record) = exchange.complete_record(self.context.ring.now(), ended.text())
        {
            self.context.log.borrow_mut().push(log, &record);
        }
        exchange.clear();
        let mut spare = self.context.spare.borrow_mut();
        if spare.len() < SPARE_EXCHANGES {
            spare.push(exchange);
        }
    }
}

impl Session for Http1 {
    fn advance(&mut self) -> Step {
        loop {
            // Nothing where there is more to do at once.
            let step = match self.phase {
                Phase::Head => self.read_head(),
                Phase::Exchange => self.run_exchange(),
                Phase::Tunnel => self.run_tunnel(),
                Phase::Closing => self.run_closing(),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn ring(&self) -> &Ring {
        &self.context.ring
    }

    fn sockets(&self) -> (&Socket, Option<&Socket>) {
        (&self.down, self.exchange.as_ref().and_then(|exchange| exchange.up.as_deref()))
    }

    fn prepare_to_move(&mut self) -> bool {
        let now = self.context.ring.now();
        self.exchange.as_mut().is_none_or(|exchange| exchange.prepare_to_move(now))
    }

    fn pack(&self) -> SessionParcel {
        let now = self.context.ring.now();
        let exchange = self.exchange.as_ref();
        SessionParcel {
            listener: self.service.listener.name.clone(),
            open_us: self.permit.age(),
            down: Some(SocketParcel::of(&self.down)),
            up: exchange.and_then(|exchange| exchange.pack_upstream()),
            relay: exchange.map(|exchange| RelayParcel::of(exchange.upward, exchange.downward)),
            http: Some(HttpParcel {
                requests: self.requests,
                partial: if is_on(Mutation::PartialHeadForgotten) {
                    Vec::new()
                } else {
                    self.partial.clone()
                },
                waiting_ms: if is_on(Mutation::WaitBegunAnew) { 0 } else { now.saturating_sub(self.since) },
                phase: match self.phase {
                    Phase::Head => 0,
                    Phase::Exchange => 1,
                    Phase::Tunnel => 2,
                    Phase::Closing => 3,
                },
                exchange: exchange.map(|exchange| {
                    exchange.pack(&self.context, exchange.response_edits(self.service.http()))
                }),
                closing: (self.phase == Phase::Closing).then(|| ClosingParcel::of(self, now)),
            }),
            client: self.client_text(),
            age_ms: 0,
            connecting: exchange.and_then(|exchange| exchange.pack_attempt()),
        }
    }

    fn set_moved(&mut self) {
        self.moved = true;
        self.permit.set_moved();
        if let Some(exchange) = &mut self.exchange {
            exchange.set_moved();
        }
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        let stats = &self.service.stats;
        stats.lower(HttpScope::CX_ACTIVE, 1);
        stats.lower(HttpScope::CX_HTTP1_ACTIVE, 1);
        if self.moved {
            count_traffic(stats, &self.down);
            if self.exchange.is_some() && !is_on(Mutation::GaugeForgotten) {
                stats.lower(HttpScope::RQ_ACTIVE, 1);
                if self.phase == Phase::Tunnel {
                    stats.lower(HttpScope::CX_UPGRADES_ACTIVE, 1);
                }
            }
            return;
        }
        stats.inc(HttpScope::CX_DESTROY);
        let remote = self.remote;
        stats.inc(if remote { HttpScope::CX_DESTROY_REMOTE } else { HttpScope::CX_DESTROY_LOCAL });
        stats.record(HttpScope::CX_LENGTH, self.permit.age());
        if let Some(exchange) = &mut self.exchange {
            // Only a forced stop ends a session in the middle of an exchange.
            exchange.settle();
            stats.lower(HttpScope::RQ_ACTIVE, 1);
            if self.phase == Phase::Tunnel {
                stats.lower(HttpScope::CX_UPGRADES_ACTIVE, 1);
            } else {
                stats.inc(HttpScope::RQ_TX_RESET);
            }
        }
        if self.exchange.is_some() || self.ended_within_request {
            stats.inc(HttpScope::CX_DESTROY_ACTIVE_RQ);
            stats.inc(if remote {
                HttpScope::CX_DESTROY_REMOTE_ACTIVE_RQ
            } else {
                HttpScope::CX_DESTROY_LOCAL_ACTIVE_RQ
            });
        }
        count_traffic(stats, &self.down);
        // What was queued and is thrown away now has not been sent after all.
        stats.add(HttpScope::CX_TX_BYTES, (self.down.status().unsent as u64).wrapping_neg());
    }
}

/// Counts the bytes that have come and gone since the last time.
fn count_traffic(stats: &Block<HttpScope>, down: &Socket) {
    let traffic = down.take_traffic();
    stats.add(HttpScope::CX_RX_BYTES, traffic.received);
    stats.add(HttpScope::CX_TX_BYTES, traffic.sent);
}
