//! Listening sockets: bound before any worker starts, one per worker and listener.
//!
//! TCP listeners get a socket per worker (`SO_REUSEPORT`), so that the kernel spreads connections and no worker takes
//! another's lock. A Unix socket has one queue, of which each worker gets a descriptor.
//!
//! Sockets that come from the process before are used again: closing one would reset what waits in its queue. Where
//! there are more than workers, a worker accepts from several; where there are fewer, new ones join the group.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ouro_restart::message::ListenSocket;
use socket2::SockRef;

use crate::config::model::{Address, Listener};
use crate::control;
use crate::upstream;

/// The sockets of one listener.
pub(super) struct Bound {
    /// At least one for each worker.
    pub(super) sockets: Vec<Vec<OwnedFd>>,
    /// The address with the port that it got.
    pub(super) address: Address,
    /// All of them once more, to be handed to the next process.
    pub(super) copies: Vec<Passed>,
    /// They come from the process before.
    pub(super) is_inherited: bool,
}

/// A listening socket on its way from one process to the next.
pub(super) struct Passed {
    /// What it is.
    pub(super) described: ListenSocket,
    /// The socket.
    pub(super) fd: OwnedFd,
}

/// Purpose of the sockets of listeners.
const LISTENER: &str = "listener";

/// Type of a socket whose connections are byte streams.
pub(super) const STREAM: &str = "stream";

/// A listener that could not be bound.
#[derive(Debug)]
pub(super) struct BindError {
    listener: String,
    address: Address,
    error: io::Error,
}

impl BindError {
    /// Another socket has the address.
    pub(super) fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {}: cannot listen on {}: {}", self.listener, self.address, self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => f.write_str(" (another process has it)"),
            io::ErrorKind::PermissionDenied => {
                f.write_str(" (ports below 1024 need the capability CAP_NET_BIND_SERVICE)")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

/// Binds a listener for `workers` workers, or takes its sockets out of those that are inherited.
///
/// # Errors
/// When the address is taken or not ours.
pub(super) fn bind(
    listener: &Listener,
    workers: usize,
    inherited: &mut Vec<Passed>,
) -> Result<Bound, BindError> {
    let mut own: Vec<_> = inherited.extract_if(.., |passed| is_for(&passed.described, listener)).collect();
    own.sort_by_key(|passed| passed.described.worker);
    let fds: Vec<_> = own.into_iter().map(|passed| passed.fd).collect();
    let result = match &listener.address {
        Address::Ip(_) if !fds.is_empty() => inherit_tcp(fds, listener.backlog, workers),
        Address::Unix(path) if !fds.is_empty() => inherit_unix(fds, path, listener, workers),
        Address::Ip(address) => bind_tcp(*address, listener.backlog, workers),
        Address::Unix(path) => bind_unix(path, listener, workers),
    };
    let result =
        result.and_then(|(fds, address, is_inherited)| spread(fds, address, is_inherited, workers, listener));
    result.map_err(|error| BindError {
        listener: listener.name.clone(),
        address: listener.address.clone(),
        error,
    })
}

/// Whether a socket of the process before belongs to this listener: it is bound to the listener's address, or the kernel
/// has chosen the port of a listener of this name and address.
fn is_for(described: &ListenSocket, listener: &Listener) -> bool {
    let (protocol, chosen) = match &listener.address {
        Address::Ip(address) => ("tcp", address.port() == 0),
        Address::Unix(_) => ("unix", false),
    };
    let address = listener.address.to_string();
    described.purpose == LISTENER
        && described.protocol == protocol
        && described.socket_type == STREAM
        && if chosen {
            described.address == address && described.name == listener.name
        } else {
            described.bound_address == address
        }
}

/// Descriptors, the address that they are bound to, and whether they are inherited.
type Sockets = (Vec<OwnedFd>, Address, bool);

/// Deals sockets out to workers; those that are left over go round.
fn spread(
    fds: Vec<OwnedFd>,
    address: Address,
    is_inherited: bool,
    workers: usize,
    listener: &Listener,
) -> io::Result<Bound> {
    let is_tcp = matches!(address, Address::Ip(_));
    let mut copies = Vec::new();
    // The descriptors of a Unix socket are all of one queue.
    for (worker, fd) in fds.iter().enumerate().take(if is_tcp { usize::MAX } else { 1 }) {
        let described = ListenSocket {
            purpose: LISTENER.into(),
            protocol: if is_tcp { "tcp" } else { "unix" }.into(),
            socket_type: STREAM.into(),
            address: listener.address.to_string(),
            bound_address: address.to_string(),
            worker: u32::try_from(worker).unwrap_or(u32::MAX),
            name: listener.name.clone(),
        };
        copies.push(Passed { described, fd: fd.try_clone()? });
    }
    let mut sockets: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
    for (n, fd) in fds.into_iter().enumerate() {
        sockets[n % workers].push(fd);
    }
    Ok(Bound { sockets, address, copies, is_inherited })
}

fn listen_tcp(socket: &SockRef<'_>, address: SocketAddr, backlog: i32) -> io::Result<()> {
    // Accepted sockets inherit their options, which saves the calls per connection.
    socket.set_tcp_nodelay(true)?;
    if address.ip().is_loopback() {
        upstream::use_local_congestion_control(socket);
    }
    socket.listen(backlog)
}

fn local_ip(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

fn inherit_tcp(mut fds: Vec<OwnedFd>, backlog: i32, workers: usize) -> io::Result<Sockets> {
    let address =
        fds.first().map_or_else(|| Err(io::Error::other("no socket")), |fd| local_ip(&SockRef::from(fd)))?;
    while fds.len() < workers {
        fds.push(control::bind::tcp(address, true)?.into());
    }
    for fd in &fds {
        // Listening again changes the backlog and nothing else.
        listen_tcp(&SockRef::from(fd), address, backlog)?;
    }
    Ok((fds, Address::Ip(address), true))
}

fn inherit_unix(
    mut fds: Vec<OwnedFd>,
    path: &Path,
    listener: &Listener,
    workers: usize,
) -> io::Result<Sockets> {
    fds.truncate(1);
    if let Some(fd) = fds.first() {
        SockRef::from(fd).listen(listener.backlog)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.unix_mode))?;
    copies_for(fds, workers).map(|fds| (fds, listener.address.clone(), true))
}

fn copies_for(mut fds: Vec<OwnedFd>, workers: usize) -> io::Result<Vec<OwnedFd>> {
    while let (Some(first), true) = (fds.first(), fds.len() < workers) {
        let copy = first.try_clone()?;
        fds.push(copy);
    }
    Ok(fds)
}

fn bind_tcp(address: SocketAddr, backlog: i32, workers: usize) -> io::Result<Sockets> {
    // A shared port can be bound again by any process of the same user, who would then get half of our connections
    // without a word. Asking for it alone first tells.
    if address.port() != 0 {
        drop(control::bind::tcp(address, false)?);
    }
    let first = control::bind::tcp(address, true)?;
    let address = local_ip(&SockRef::from(&first))?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(control::bind::tcp(address, true)?);
    }
    for socket in &sockets {
        listen_tcp(&SockRef::from(socket), address, backlog)?;
    }
    Ok((sockets.into_iter().map(OwnedFd::from).collect(), Address::Ip(address), false))
}

fn bind_unix(path: &Path, listener: &Listener, workers: usize) -> io::Result<Sockets> {
    let socket = control::bind::unix(path, listener.unix_mode)?;
    socket.listen(listener.backlog)?;
    let fds = copies_for(vec![OwnedFd::from(socket)], workers)?;
    Ok((fds, listener.address.clone(), false))
}

/// Removes the files of Unix listeners when dropped, unless they are another process's by then.
#[derive(Default)]
pub(super) struct UnixPaths {
    /// Bound by this process.
    own: Vec<PathBuf>,
    /// Inherited: ours only once we serve.
    inherited: Vec<PathBuf>,
    /// Another process serves.
    is_superseded: bool,
    /// This process serves, or has served.
    has_served: bool,
}

impl UnixPaths {
    /// Remembers the path of a Unix listener.
    pub(super) fn add(&mut self, address: &Address, is_inherited: bool) {
        if let Address::Unix(path) = address {
            if is_inherited { &mut self.inherited } else { &mut self.own }.push(path.clone());
        }
    }

    /// This process serves now, or another one does.
    pub(super) fn set_serving(&mut self, serving: bool) {
        self.has_served |= serving;
        self.is_superseded = !serving;
    }
}

impl Drop for UnixPaths {
    fn drop(&mut self) {
        if self.has_served && self.is_superseded {
            return;
        }
        let inherited = self.inherited.iter().filter(|_| self.has_served);
        for path in self.own.iter().chain(inherited) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn listener(address: &str) -> std::sync::Arc<Listener> {
        let text = format!(
            "[[listeners]]\nname='l'\naddress='{address}'\nprotocol='tcp'\ncluster='c'\n\
             [[clusters]]\nname='c'\nendpoints=['127.0.0.1:1']\n"
        );
        std::sync::Arc::clone(&config::parse(&text, "test").unwrap().listeners[0])
    }

    #[test]
    fn a_port_that_is_taken_is_refused_even_if_it_could_be_shared() {
        let bound = bind(&listener("127.0.0.1:0"), 2, &mut Vec::new()).ok().unwrap();
        assert_eq!(bound.sockets.len(), 2);
        let again =
            bind(&listener(&bound.address.to_string()), 1, &mut Vec::new()).err().unwrap().to_string();
        assert!(again.contains("another process has it"), "{again}");
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("ouro-listen-{}.sock", std::process::id()));
        let address = format!("unix:{}", path.display());
        let bound = bind(&listener(&address), 2, &mut Vec::new()).ok().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(bind(&listener(&address), 1, &mut Vec::new()).is_err(), "somebody listens there");
        drop(bound);
        let bound = bind(&listener(&address), 1, &mut Vec::new()).ok().unwrap();
        let mut paths = UnixPaths::default();
        paths.add(&bound.address, false);
        drop(paths);
        assert!(!path.exists());
    }
}
