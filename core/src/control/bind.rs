//! Sockets bound to an address, as listeners and the admin interface need them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

/// A TCP socket bound to `address`. `shared`: further sockets may be bound to it (`SO_REUSEPORT`).
///
/// # Errors
/// When the address is taken or not ours.
pub fn tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
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
}

/// A Unix stream socket bound to `path` with these permission bits. The file of one that nobody listens on any more is
/// replaced.
///
/// # Errors
/// When somebody listens there, or the file cannot be made.
pub fn unix(path: &Path, mode: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    // Before it is bound, so that nobody else gets in first.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(socket)
}
