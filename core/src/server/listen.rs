//! Listening sockets: bound before any worker starts, one per worker and listener.
//!
//! TCP listeners get a socket per worker (`SO_REUSEPORT`), so that the kernel spreads connections and no worker takes
//! another's lock. A Unix socket has one queue, of which each worker gets a descriptor.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::model::{Address, Listener};
use crate::upstream;

/// The sockets of one listener.
pub(super) struct Bound {
    /// One for each worker.
    pub(super) sockets: Vec<OwnedFd>,
    /// The address with the port that it got.
    pub(super) address: Address,
}

/// A listener that could not be bound.
#[derive(Debug)]
pub(super) struct BindError {
    listener: String,
    address: Address,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {}: cannot listen on {}: {}", self.listener, Shown(&self.address), self.error)?;
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

/// An address as users write it.
pub(super) struct Shown<'a>(pub(super) &'a Address);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Binds a listener for `workers` workers.
///
/// # Errors
/// When the address is taken or not ours.
pub(super) fn bind(listener: &Listener, workers: usize) -> Result<Bound, BindError> {
    let result = match &listener.address {
        Address::Ip(address) => bind_tcp(*address, listener.backlog, workers),
        Address::Unix(path) => bind_unix(path, listener, workers),
    };
    result.map_err(|error| BindError {
        listener: listener.name.clone(),
        address: listener.address.clone(),
        error,
    })
}

fn bind_tcp(address: SocketAddr, backlog: i32, workers: usize) -> io::Result<Bound> {
    let open = |address: SocketAddr, shared: bool| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        Ok(socket)
    };
    // A shared port can be bound again by any process of the same user, who would then get half of our connections
    // without a word. Asking for it alone first tells.
    if address.port() != 0 {
        drop(open(address, false)?);
    }
    let first = open(address, true)?;
    let address = first.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open(address, true)?);
    }
    for socket in &sockets {
        // Accepted sockets inherit their options, which saves the calls per connection.
        socket.set_tcp_nodelay(true)?;
        if address.ip().is_loopback() {
            upstream::use_local_congestion_control(socket);
        }
        socket.listen(backlog)?;
    }
    Ok(Bound { sockets: sockets.into_iter().map(OwnedFd::from).collect(), address: Address::Ip(address) })
}

fn bind_unix(path: &Path, listener: &Listener, workers: usize) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    // Before it is bound, so that nobody else gets in first.
    fchmod(&socket, Mode::from_bits_truncate(listener.unix_mode))?;
    if let Err(error) = socket.bind(&address) {
        // A socket that nobody listens on was left behind by a process that died.
        let stale = error.kind() == io::ErrorKind::AddrInUse
            && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !stale {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.unix_mode))?;
    socket.listen(listener.backlog)?;
    let socket = OwnedFd::from(socket);
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(socket.try_clone()?);
    }
    sockets.push(socket);
    Ok(Bound { sockets, address: listener.address.clone() })
}

/// Removes the files of Unix listeners when dropped.
#[derive(Default)]
pub(super) struct UnixPaths(Vec<PathBuf>);

impl UnixPaths {
    /// Remembers the path of a Unix listener.
    pub(super) fn add(&mut self, address: &Address) {
        if let Address::Unix(path) = address {
            self.0.push(path.clone());
        }
    }
}

impl Drop for UnixPaths {
    fn drop(&mut self) {
        for path in &self.0 {
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
        let bound = bind(&listener("127.0.0.1:0"), 2).ok().unwrap();
        assert_eq!(bound.sockets.len(), 2);
        let again = bind(&listener(&Shown(&bound.address).to_string()), 1).err().unwrap().to_string();
        assert!(again.contains("another process has it"), "{again}");
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("ouro-listen-{}.sock", std::process::id()));
        let address = format!("unix:{}", path.display());
        let bound = bind(&listener(&address), 2).ok().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(bind(&listener(&address), 1).is_err(), "somebody listens there");
        drop(bound);
        let bound = bind(&listener(&address), 1).ok().unwrap();
        let mut paths = UnixPaths::default();
        paths.add(&bound.address);
        drop(paths);
        assert!(!path.exists());
    }
}
