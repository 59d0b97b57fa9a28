//! A TCP session: bytes from one socket to the other, half-closes and resets included.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ouro_shm::Block;

use super::context::{Context, Gate, Permit, TcpService};
use super::parcel::{
    self, ConnectingParcel, RelayParcel, Restored, SessionParcel, SocketParcel, UpstreamParcel,
};
use super::relay::{Direction, Outcome, cut_off_unsent, relay};
use super::{Record, Session, Step};
use crate::base::clock::{Millis, deadline};
use crate::base::mutation::{Mutation, is_on};
use crate::ring::{Link, Ring, Socket, Traffic};
use crate::stats::{ClusterScope, TcpScope};
use crate::upstream::{Cluster, Connection, Endpoint, Lease};

/// A relayed connection.
pub struct Tcp {
    context: Rc<Context>,
    service: Rc<TcpService>,
    down: Socket,
    up: Option<Connection>,
    lease: Option<Lease>,
    tried: Vec<Rc<Endpoint>>,
    connecting_since: Millis,
    started: Millis,
    /// Asked for only where it is logged.
    client: Option<SocketAddr>,
    connected: bool,
    /// For how long an attempt to connect was made that was given up to move: it goes on at the endpoint of `lease`, with
    /// the time that is left.
    resumes: Option<Millis>,
    /// It goes on in another process.
    moved: bool,
    upward: Direction,
    downward: Direction,
    permit: Permit,
}

impl Tcp {
    /// A session on an accepted connection.
    #[must_use]
    pub fn new(context: Rc<Context>, service: Rc<TcpService>, down: Socket, permit: Permit) -> Self {
        let now = context.ring.now();
        service.stats.inc(TcpScope::CX_TOTAL);
        service.stats.raise(TcpScope::CX_ACTIVE, 1);
        let client = if service.listener.access_log.is_some() { down.peer() } else { None };
        Self {
            context,
            service,
            down,
            up: None,
            lease: None,
            tried: Vec::new(),
            connecting_since: now,
            started: now,
            client,
            connected: false,
            resumes: None,
            moved: false,
            upward: Direction::default(),
            downward: Direction::default(),
            permit,
        }
    }

    /// Goes on with a session that comes from another process.
    ///
    /// # Errors
    /// Why it cannot be done; the connection is still the other process's then.
    pub fn restore(
        context: Rc<Context>,
        service: Rc<TcpService>,
        gate: &Rc<Gate>,
        parcel: SessionParcel,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, String> {
        let relay = parcel.relay.unwrap_or_default();
        let Restored { down, up, lease } = parcel::restore(&context, &parcel, fds)?;
        let now = context.ring.now();
        service.stats.raise(TcpScope::CX_ACTIVE, 1);
        let attempt =
            parcel.connecting.filter(|_| up.is_none()).and_then(|attempt| attempt.restore(&context));
        let (lease, tried, resumes) = match attempt {
            Some((lease, tried, waited)) => (Some(lease), tried, Some(waited)),
            None => (lease, Vec::new(), None),
        };
        Ok(Self {
            down,
            connected: up.is_some(),
            resumes,
            up,
            lease,
            tried,
            connecting_since: now,
            started: now.saturating_sub(parcel.age_ms),
            client: parcel.client.parse().ok(),
            moved: false,
            upward: relay.upward(),
            downward: relay.downward(),
            permit: gate.admit_moved(parcel.open_us),
            context,
            service,
        })
    }

    fn cluster(&self) -> Rc<Cluster> {
        Rc::clone(self.context.upstreams.cluster(self.service.tcp().cluster))
    }

    /// Connects, to another endpoint where one fails. `Ok` once connected.
    fn connect(&mut self) -> Result<(), Step> {
        let cluster = self.cluster();
        let now = self.context.ring.now();
        loop {
            if let Some(up) = &self.up {
                let expires = deadline(self.connecting_since, cluster.config.connect_timeout_ms);
                match up.status().link {
                    Link::Connected => {
                        up.count_established();
                        self.connected = true;
                        return Ok(());
                    }
                    Link::Connecting if now < expires => {
                        let client_gone = self.down.status().recv_error != 0;
                        if client_gone {
                            // Or cut off by ourselves, which must not look like an empty answer.
                            self.down.reset_at_close();
                            self.log("client gone");
                            return Err(Step::Done);
                        }
                        return Err(Step::Wait(expires));
                    }
                    failed => {
                        up.count_failure(failed == Link::Connecting);
                        self.up = None;
                    }
                }
            }
            let waited = self.resumes.take();
            if waited.is_none() && self.tried.len() >= cluster.config.connect_attempts as usize {
                cluster.stats.inc(ClusterScope::CX_CONNECT_ATTEMPTS_EXCEEDED);
                return Err(self.give_up("no endpoint accepted the connection"));
            }
            self.connecting_since = now.saturating_sub(waited.unwrap_or(0));
            let resumed = waited.and_then(|_| self.lease.take());
            let lease = resumed.or_else(|| cluster.pick(&self.tried, &mut self.context.random.borrow_mut()));
            let Some(lease) = lease else {
                cluster.stats.inc(ClusterScope::CX_NONE_HEALTHY);
                return Err(self.give_up("no endpoint left to try"));
            };
            self.tried.push(Rc::clone(lease.endpoint()));
            let Ok(up) = lease.endpoint().connect(&self.context.ring, false) else {
                return Err(self.give_up("no socket could be had"));
            };
            up.attach(self.context.ring.current_task());
            self.lease = Some(lease);
            self.up = Some(up);
        }
    }

    /// The client learns of a failed connect by a reset: a clean close would look like an empty answer.
    fn give_up(&mut self, reason: &str) -> Step {
        tracing::debug!(listener = self.service.listener.name, reason, "connection given up");
        self.service.stats.inc(TcpScope::CX_NO_ENDPOINT);
        if !is_on(Mutation::FailureTakenForEnd) {
            self.down.reset_at_close();
        }
        self.log(reason);
        Step::Done
    }

    /// Logs how the connection has ended.
    fn log(&self, outcome: &str) {
        if let Some(log) = &self.service.listener.access_log {
            let record = Record::tcp(
                &self.service.listener.name,
                self.client,
                self.lease.as_ref().map(|lease| &lease.endpoint().address),
                self.context.ring.now() - self.started,
                outcome,
            );
            let record =
                Record { request_bytes: self.upward.bytes, response_bytes: self.downward.bytes, ..record };
            self.context.log.borrow_mut().push(log, &record);
        }
    }
}

impl Session for Tcp {
    fn advance(&mut self) -> Step {
        if !self.connected
            && let Err(step) = self.connect()
        {
            return step;
        }
        let (down, Some(up)) = (&self.down, &self.up) else { return Step::Done };
        // They are two sockets of this ring, so there is an answer.
        let Some(relayed) = relay(down, up, &mut self.upward, &mut self.downward) else { return Step::Done };
        count_traffic(&self.service.stats, relayed.down);
        up.count_traffic();
        match relayed.outcome {
            Outcome::Finished => {
                self.log("finished");
                Step::Done
            }
            Outcome::Reset => {
                self.log("reset");
                self.service.stats.inc(TcpScope::CX_RESET);
                down.reset_at_close();
                up.reset_at_close();
                Step::Done
            }
            Outcome::Open => {
                let expires = deadline(relayed.activity, self.service.tcp().idle_timeout_ms);
                if expires <= relayed.now {
                    self.service.stats.inc(TcpScope::IDLE_TIMEOUT);
                    self.log("idle timeout");
                    cut_off_unsent(down);
                    cut_off_unsent(up);
                    return Step::Done;
                }
                Step::Wait(expires)
            }
        }
    }

    fn ring(&self) -> &Ring {
        &self.context.ring
    }

    fn sockets(&self) -> (&Socket, Option<&Socket>) {
        (&self.down, self.up.as_deref())
    }

    fn prepare_to_move(&mut self) -> bool {
        if !self.connected && self.up.take().is_some() {
            // Whoever goes on connects anew, to the same endpoint, which is not to blame for what passes on the way.
            self.tried.pop();
            self.resumes = Some(self.context.ring.now().saturating_sub(self.connecting_since));
        }
        true
    }

    fn pack(&self) -> SessionParcel {
        let cluster = self.cluster();
        let up = self
            .up
            .as_ref()
            .zip(self.lease.as_ref())
            .map(|(up, lease)| UpstreamParcel::of(up, &cluster.config.name, &lease.endpoint().address));
        SessionParcel {
            listener: self.service.listener.name.clone(),
            open_us: self.permit.age(),
            down: Some(SocketParcel::of(&self.down)),
            up,
            relay: Some(RelayParcel::of(self.upward, self.downward)),
            http: None,
            client: self.client.map(|client| client.to_string()).unwrap_or_default(),
            age_ms: self.context.ring.now() - self.started,
            connecting: (self.lease.as_ref().zip(self.resumes))
                .map(|(lease, waited)| ConnectingParcel::of(lease, &self.tried, waited)),
        }
    }

    fn set_moved(&mut self) {
        self.moved = true;
        self.permit.set_moved();
        if let Some(up) = &self.up {
            up.set_moved();
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let stats = &self.service.stats;
        count_traffic(stats, self.down.take_traffic());
        if self.moved {
            stats.lower(TcpScope::CX_ACTIVE, 1);
            return;
        }
        // What was queued and is thrown away now has not been sent after all.
        stats.add(TcpScope::CX_TX_BYTES, (self.down.status().unsent as u64).wrapping_neg());
        stats.lower(TcpScope::CX_ACTIVE, 1);
        stats.inc(TcpScope::CX_DESTROY);
        stats.record(TcpScope::CX_LENGTH, self.permit.age());
    }
}

/// Counts the bytes that have come and gone since the last time.
#[inline]
fn count_traffic(stats: &Block<TcpScope>, traffic: Traffic) {
    stats.add(TcpScope::CX_RX_BYTES, traffic.received);
    stats.add(TcpScope::CX_TX_BYTES, traffic.sent);
}
