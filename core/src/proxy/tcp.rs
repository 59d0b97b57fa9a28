//! A TCP session: bytes from one socket to the other, half-closes and resets included.

use std::net::SocketAddr;
use std::rc::Rc;

use super::context::{Context, Permit, TcpService};
use super::relay::{Direction, Outcome, pump_both};
use super::{Record, Session, Step};
use crate::base::clock::{Millis, deadline};
use crate::ring::{Link, Ring, Socket};
use crate::upstream::{Cluster, Endpoint, Lease};

/// A relayed connection.
pub struct Tcp {
    context: Rc<Context>,
    service: Rc<TcpService>,
    // In an `Option` because resetting takes the socket.
    down: Option<Socket>,
    up: Option<Socket>,
    lease: Option<Lease>,
    tried: Vec<Rc<Endpoint>>,
    connecting_since: Millis,
    started: Millis,
    /// Asked for only where it is logged.
    client: Option<SocketAddr>,
    connected: bool,
    upward: Direction,
    downward: Direction,
    _permit: Permit,
}

impl Tcp {
    /// A session on an accepted connection.
    #[must_use]
    pub fn new(context: Rc<Context>, service: Rc<TcpService>, down: Socket, permit: Permit) -> Self {
        let now = context.ring.now();
        let client = if service.listener.access_log.is_some() { down.peer() } else { None };
        Self {
            context,
            service,
            down: Some(down),
            up: None,
            lease: None,
            tried: Vec::new(),
            connecting_since: now,
            started: now,
            client,
            connected: false,
            upward: Direction::default(),
            downward: Direction::default(),
            _permit: permit,
        }
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
                        self.connected = true;
                        return Ok(());
                    }
                    Link::Connecting if now < expires => {
                        let client_gone = self.down.as_ref().is_none_or(|down| down.status().recv_error != 0);
                        if client_gone {
                            self.log("client gone");
                            return Err(Step::Done);
                        }
                        return Err(Step::Wait(expires));
                    }
                    Link::Connecting | Link::Failed(_) => self.up = None,
                }
            }
            if self.tried.len() >= cluster.config.connect_attempts as usize {
                return Err(self.give_up("no endpoint accepted the connection"));
            }
            let Some(lease) = cluster.pick(&self.tried, &mut self.context.random.borrow_mut()) else {
                return Err(self.give_up("no endpoint left to try"));
            };
            self.tried.push(Rc::clone(lease.endpoint()));
            let Ok(up) = lease.endpoint().connect(&self.context.ring) else {
                return Err(self.give_up("no socket could be had"));
            };
            up.attach(self.context.ring.current_task());
            self.connecting_since = now;
            self.lease = Some(lease);
            self.up = Some(up);
        }
    }

    /// The client learns of a failed connect by a reset: a clean close would look like an empty answer.
    fn give_up(&mut self, reason: &str) -> Step {
        tracing::debug!(listener = self.service.listener.name, reason, "connection given up");
        if let Some(down) = self.down.take() {
            down.reset();
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
        let (Some(down), Some(up)) = (&self.down, &self.up) else { return Step::Done };
        match pump_both(down, up, &mut self.upward, &mut self.downward) {
            Outcome::Finished => {
                self.log("finished");
                Step::Done
            }
            Outcome::Reset => {
                self.log("reset");
                self.down.take().into_iter().chain(self.up.take()).for_each(Socket::reset);
                Step::Done
            }
            Outcome::Open => {
                let idle_since = down.status().activity.max(up.status().activity);
                let expires = deadline(idle_since, self.service.tcp().idle_timeout_ms);
                if expires <= self.context.ring.now() {
                    self.log("idle timeout");
                    return Step::Done;
                }
                Step::Wait(expires)
            }
        }
    }

    fn ring(&self) -> &Ring {
        &self.context.ring
    }

    fn attach(&self) {
        let task = self.context.ring.current_task();
        for socket in self.down.iter().chain(&self.up) {
            socket.attach(task);
        }
    }
}
