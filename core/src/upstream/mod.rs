//! Clusters as one worker sees them: endpoints, their load, and the pool of idle connections to each.
//!
//! Everything here belongs to one worker; nothing is shared, so nothing is locked.

mod balance;
mod connection;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use socket2::{Domain, SockAddr};

use ouro_shm::{Block, EntityId, Stripe};

use self::balance::{Candidate, RoundRobin};
use self::connection::EndpointStats;
pub use self::connection::{Connection, RequestOutcome};
use crate::base::clock::{Micros, Millis, deadline};
use crate::base::random::Random;
use crate::config;
use crate::config::model::{self, Address, ClusterIndex};
use crate::ring::{self, Link, Ring, Socket, TaskId};
use crate::stats::{ClusterScope, EndpointScope};

/// Addresses of the endpoints of a cluster, names resolved, with their weights.
pub type Resolved = Vec<(Address, u32)>;

/// An endpoint as a worker is told of it.
#[derive(Clone, Debug)]
pub struct KnownEndpoint {
    /// Where it is.
    pub address: Address,
    /// Share of the traffic, at least 1.
    pub weight: u32,
    /// What its counters are filed under.
    pub entity: EntityId<EndpointScope>,
}

/// The endpoints of a cluster as a worker is told of them.
pub type Endpoints = Vec<KnownEndpoint>;

/// All clusters of a worker.
pub struct Upstreams {
    clusters: Vec<Rc<Cluster>>,
    stripe: Rc<Stripe>,
}

impl Upstreams {
    /// The clusters of a configuration with the endpoints known so far.
    ///
    /// One worker of a process `counts_members`, that is, says how many endpoints there are.
    ///
    /// # Panics
    /// If `endpoints` or `entities` has not one entry per cluster.
    #[must_use]
    pub fn new(
        clusters: &[Arc<model::Cluster>],
        endpoints: &[Endpoints],
        entities: &[EntityId<ClusterScope>],
        stripe: &Rc<Stripe>,
        counts_members: bool,
    ) -> Self {
        assert_eq!((clusters.len(), clusters.len()), (endpoints.len(), entities.len()));
        let clusters = clusters.iter().zip(endpoints).zip(entities).map(|((config, endpoints), entity)| {
            let cluster = Cluster {
                config: Arc::clone(config),
                stats: stripe.block(*entity),
                stripe: Rc::clone(stripe),
                counts_members,
                endpoints: RefCell::default(),
                round_robin: RefCell::default(),
            };
            cluster.set_endpoints(endpoints);
            Rc::new(cluster)
        });
        Self { clusters: clusters.collect(), stripe: Rc::clone(stripe) }
    }

    /// The cluster of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Rc<Cluster>> {
        self.clusters.iter().find(|cluster| cluster.config.name == name).cloned()
    }

    /// The cluster of this name, or one that stands in for it: a connection from the process before finishes what it has
    /// begun, whatever has become of its cluster. `None` if that is no name.
    #[must_use]
    pub fn find_or_stand_in(&self, name: &str) -> Option<Rc<Cluster>> {
        self.find(name).or_else(|| {
            Some(Rc::new(Cluster {
                config: config::cluster_of_defaults(name)?,
                stats: Block::detached(),
                stripe: Rc::clone(&self.stripe),
                counts_members: false,
                endpoints: RefCell::default(),
                round_robin: RefCell::default(),
            }))
        })
    }

    /// The cluster at a position of the configuration.
    #[must_use]
    pub fn cluster(&self, index: ClusterIndex) -> &Rc<Cluster> {
        &self.clusters[index]
    }

    /// Takes all idle connections out of the pools, to hand them to another process.
    #[must_use]
    pub fn take_idle(&self) -> Vec<IdleConnection> {
        let mut taken = Vec::new();
        for cluster in &self.clusters {
            for endpoint in cluster.endpoints.borrow().iter() {
                for Idle { connection, since, requests } in endpoint.idle.take() {
                    let (cluster, endpoint) = (cluster.config.name.clone(), endpoint.address.clone());
                    taken.push(IdleConnection { cluster, endpoint, connection, since, requests });
                }
            }
        }
        taken
    }

    /// Closes idle connections that have expired or to which something happened: an idle connection that says
    /// anything, be it only FIN, is of no use.
    pub fn sweep(&self, now: Millis) {
        for cluster in &self.clusters {
            for endpoint in cluster.endpoints.borrow().iter() {
                let expired = |idle: &Idle| deadline(idle.since, cluster.config.idle_timeout_ms) <= now;
                endpoint.idle.borrow_mut().retain(|idle| {
                    if expired(idle) {
                        cluster.stats.inc(ClusterScope::CX_IDLE_TIMEOUT);
                    }
                    !expired(idle) && is_clean(&idle.connection)
                });
            }
        }
    }
}

/// A cluster: its endpoints, and whose turn it is.
pub struct Cluster {
    /// Its configuration.
    pub config: Arc<model::Cluster>,
    /// Its counters.
    pub stats: Block<ClusterScope>,
    stripe: Rc<Stripe>,
    counts_members: bool,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    round_robin: RefCell<RoundRobin>,
}

/// An endpoint: one address.
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    sockaddr: SockAddr,
    weight: Cell<u32>,
    active: Cell<u32>,
    cluster: Arc<model::Cluster>,
    stats: Rc<EndpointStats>,
    idle: RefCell<VecDeque<Idle>>,
    /// The cluster has it. One that is only leased may be gone from there, or never have been.
    is_known: Cell<bool>,
    /// Connections that this process has made itself, less those that it has not taken from the one before for that.
    fresh: Cell<u32>,
}

struct Idle {
    connection: Connection,
    since: Millis,
    requests: u32,
}

/// A connection on its way from the pool of one process to that of the next.
pub struct IdleConnection {
    /// Name of its cluster.
    pub cluster: String,
    /// Its endpoint.
    pub endpoint: Address,
    /// The connection.
    pub connection: Connection,
    /// When it was last used.
    pub since: Millis,
    /// Requests that it has served.
    pub requests: u32,
}

/// A connection that came from the pool.
pub struct Pooled {
    /// The connection; nothing unread, nothing unsent.
    pub connection: Connection,
    /// Requests that it has served.
    pub requests: u32,
}

impl Cluster {
    /// The endpoints have been found to be others.
    pub fn change_endpoints(&self, known: &Endpoints) {
        if self.counts_members {
            self.stats.inc(ClusterScope::MEMBERSHIP_CHANGE);
        }
        self.set_endpoints(known);
    }

    /// Replaces the endpoints; those that stay keep their connections.
    fn set_endpoints(&self, known: &Endpoints) {
        let mut endpoints = self.endpoints.borrow_mut();
        let mut old = std::mem::take(&mut *endpoints);
        for KnownEndpoint { address, weight, entity } in known {
            if let Some(n) = old.iter().position(|endpoint| endpoint.address == *address) {
                let endpoint = old.swap_remove(n);
                endpoint.weight.set(*weight);
                endpoints.push(endpoint);
            } else if let Ok(sockaddr) = sockaddr(address) {
                let own = self.stripe.block(*entity);
                endpoints.push(Rc::new(Endpoint {
                    address: address.clone(),
                    sockaddr,
                    weight: Cell::new(*weight),
                    active: Cell::new(0),
                    cluster: Arc::clone(&self.config),
                    stats: EndpointStats::new(self.stats.clone(), own, Rc::clone(&self.stripe)),
                    idle: RefCell::default(),
                    is_known: Cell::new(true),
                    fresh: Cell::default(),
                }));
            }
        }
        for removed in old {
            removed.is_known.set(false);
            removed.stats.is_removed.set(true);
        }
        if self.counts_members {
            let members = endpoints.len() as u64;
            self.stats.set(ClusterScope::MEMBERSHIP_TOTAL, members);
            self.stats.set(ClusterScope::MEMBERSHIP_HEALTHY, members);
        }
        *self.round_robin.borrow_mut() = RoundRobin::default();
    }

    /// Chooses an endpoint that is not among `tried`.
    pub fn pick(&self, tried: &[Rc<Endpoint>], random: &mut Random) -> Option<Lease> {
        let endpoints = self.endpoints.borrow();
        let candidate = |n: usize| Candidate {
            weight: endpoints[n].weight.get(),
            active: endpoints[n].active.get(),
            tried: tried.iter().any(|t| Rc::ptr_eq(t, &endpoints[n])),
        };
        let mut round_robin = self.round_robin.borrow_mut();
        let n =
            balance::pick(self.config.load_balancing, endpoints.len(), candidate, &mut round_robin, random)?;
        Some(Lease::new(Rc::clone(&endpoints[n])))
    }

    /// Takes an idle connection to `endpoint`, the one used last. With `repeatable` false only one that was in use a
    /// moment ago, because a request that must not be repeated must not meet an origin that is just hanging up.
    #[must_use]
    pub fn checkout(&self, endpoint: &Endpoint, now: Millis, repeatable: bool) -> Option<Pooled> {
        let mut idle = endpoint.idle.borrow_mut();
        while let Some(newest) = idle.back() {
            if !repeatable && deadline(newest.since, self.config.unsafe_reuse_within_ms) <= now {
                return None;
            }
            let expired = deadline(newest.since, self.config.idle_timeout_ms) <= now;
            let taken = idle.pop_back()?;
            if expired {
                self.stats.inc(ClusterScope::CX_IDLE_TIMEOUT);
            } else if is_clean(&taken.connection) {
                self.stats.inc(ClusterScope::RQ_POOL_HIT);
                return Some(Pooled { connection: taken.connection, requests: taken.requests });
            }
        }
        None
    }

    /// The use of the endpoint with this address by a connection that comes from another process. An endpoint that the
    /// cluster does not have any more goes on for as long as the connection does.
    pub fn lease(&self, address: &Address) -> io::Result<Lease> {
        let known =
            self.endpoints.borrow().iter().find(|endpoint| endpoint.address == *address).map(Rc::clone);
        let endpoint = match known {
            Some(endpoint) => endpoint,
            None => Rc::new(Endpoint {
                address: address.clone(),
                sockaddr: sockaddr(address)?,
                weight: Cell::new(1),
                active: Cell::new(0),
                cluster: Arc::clone(&self.config),
                stats: EndpointStats::new(self.stats.clone(), Block::detached(), Rc::clone(&self.stripe)),
                idle: RefCell::default(),
                is_known: Cell::new(false),
                fresh: Cell::default(),
            }),
        };
        Ok(Lease::new(endpoint))
    }

    /// Puts a connection into the pool that was idle in the process before. Closes it where the endpoint is unknown, the pool
    /// is full, or this process has made one itself because this one came late: a pool does not grow by being moved.
    pub fn adopt_idle(&self, lease: &Lease, connection: Connection, requests: u32, since: Millis) {
        let endpoint = lease.endpoint();
        if let Some(fresh) = endpoint.fresh.get().checked_sub(1) {
            endpoint.fresh.set(fresh);
            return;
        }
        let mut idle = endpoint.idle.borrow_mut();
        if endpoint.is_known.get() && idle.len() < self.config.max_idle_connections {
            connection.attach(TaskId::NONE);
            // Those that were used before this process began are the older ones.
            idle.push_front(Idle { connection, since, requests });
        }
    }

    /// Puts a connection into the pool, or closes it when it is used up or the pool is full.
    pub fn checkin(&self, endpoint: &Endpoint, connection: Connection, requests: u32, now: Millis) {
        connection.count_traffic();
        if requests >= self.config.requests_per_connection {
            self.stats.inc(ClusterScope::CX_MAX_REQUESTS);
            return;
        }
        if self.config.max_idle_connections == 0 || !endpoint.is_known.get() || !is_clean(&connection) {
            return;
        }
        connection.attach(TaskId::NONE);
        let mut idle = endpoint.idle.borrow_mut();
        if idle.len() >= self.config.max_idle_connections {
            self.stats.inc(ClusterScope::CX_POOL_OVERFLOW);
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: now, requests });
    }
}

impl Endpoint {
    /// Starts a connection, for HTTP or for bytes.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn connect(&self, ring: &Ring, http: bool) -> io::Result<Connection> {
        let (domain, tcp) = match &self.address {
            Address::Ip(SocketAddr::V4(_)) => (Domain::IPV4, true),
            Address::Ip(SocketAddr::V6(_)) => (Domain::IPV6, true),
            Address::Unix(_) => (Domain::UNIX, false),
        };
        let socket = ring::stream_socket(domain)?;
        if tcp {
            socket.set_tcp_nodelay(true)?;
        }
        if matches!(&self.address, Address::Ip(address) if address.ip().is_loopback()) {
            use_local_congestion_control(&socket2::SockRef::from(&socket));
        }
        let socket = ring.connect(OwnedFd::from(socket), &self.sockaddr);
        self.fresh.set(self.fresh.get().saturating_add(u32::from(http)));
        Ok(Connection::new(socket, ring, Rc::clone(&self.stats), http))
    }

    /// Goes on with a connection that comes from another process, where it has been open for so long.
    #[must_use]
    pub fn restore(&self, ring: &Ring, socket: Socket, open_us: Micros) -> Connection {
        Connection::restored(socket, ring, Rc::clone(&self.stats), open_us)
    }

    /// Counts a request that is sent to it. [`end_request`](Self::end_request) must follow.
    pub fn begin_request(&self) {
        self.stats.begin_request();
    }

    /// A request that another process has sent goes on here.
    pub fn adopt_request(&self) {
        self.stats.adopt_request();
    }

    /// A request that was sent goes on in another process.
    pub fn release_request(&self) {
        self.stats.release_request();
    }

    /// Counts the end of a request that was sent to it.
    pub fn end_request(&self, outcome: RequestOutcome) {
        self.stats.end_request(outcome);
    }
}

/// The use of an endpoint by one exchange or connection; counts as load until dropped.
pub struct Lease(Rc<Endpoint>);

impl Lease {
    fn new(endpoint: Rc<Endpoint>) -> Self {
        endpoint.active.set(endpoint.active.get() + 1);
        Self(endpoint)
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.0
    }

    /// Name of the cluster that the endpoint belongs to.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.0.cluster.name
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// Within one machine there is no congestion to control: the simplest algorithm, which every kernel has, costs least
/// (against BBR about 3 % of the CPU of a small request). Failing to set it does no harm.
pub fn use_local_congestion_control(socket: &socket2::SockRef<'_>) {
    let _ = socket.set_tcp_congestion(b"reno");
}

fn sockaddr(address: &Address) -> io::Result<SockAddr> {
    match address {
        Address::Ip(address) => Ok(SockAddr::from(*address)),
        Address::Unix(path) => SockAddr::unix(path),
    }
}

fn is_clean(socket: &Socket) -> bool {
    let status = socket.status();
    status.link == Link::Connected
        && status.unread == 0
        && status.unsent == 0
        && !status.eof
        && status.recv_error == 0
        && status.send_error == 0
}
