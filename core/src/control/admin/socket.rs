//! The socket of the admin interface: bound here, or taken over from another process.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::model::Address;
use crate::control::bind;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Permission bits of a Unix socket: who may connect controls the process.
const UNIX_MODE: u32 = 0o600;

/// A listening socket of the admin interface.
#[derive(Debug)]
pub struct AdminListener {
    socket: OwnedFd,
    address: Address,
}

impl AdminListener {
    /// Binds and listens. The file of a Unix socket that nobody listens on any more is replaced; removing the file at the
    /// end is up to the caller, because in a hot restart another process goes on using it.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn bind(address: &Address) -> io::Result<Self> {
        let socket = match address {
            // Not shared: two processes must not get requests without knowing of each other.
            Address::Ip(address) => bind::tcp(*address, false)?,
            Address::Unix(path) => bind::unix(path, UNIX_MODE)?,
        };
        socket.listen(BACKLOG)?;
        Self::try_from(OwnedFd::from(socket))
    }

    /// The address with the port that it got.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Another descriptor of the same socket, to hand to another process.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, address: self.address.clone() })
    }

    /// Whether only processes of this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.address {
            Address::Ip(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    pub(super) fn into_tokio(self) -> io::Result<Listener> {
        let Self { socket, address } = self;
        SockRef::from(&socket).set_nonblocking(true)?;
        Ok(match address {
            Address::Ip(_) => Listener::Tcp(TcpListener::from_std(socket.into())?),
            Address::Unix(_) => Listener::Unix(UnixListener::from_std(socket.into())?),
        })
    }
}

impl From<AdminListener> for OwnedFd {
    fn from(listener: AdminListener) -> Self {
        listener.socket
    }
}

impl TryFrom<OwnedFd> for AdminListener {
    type Error = io::Error;

    /// Takes a socket over that listens already.
    fn try_from(socket: OwnedFd) -> io::Result<Self> {
        let view = SockRef::from(&socket);
        if !view.is_listener()? {
            return Err(io::Error::other("not a listening socket"));
        }
        let local = view.local_addr()?;
        let address = match (local.as_socket(), local.as_pathname()) {
            (Some(address), _) => Address::Ip(address),
            (None, Some(path)) => Address::Unix(path.to_owned()),
            (None, None) => return Err(io::Error::other("neither an IP nor a named Unix socket")),
        };
        Ok(Self { socket, address })
    }
}

/// A listening socket of either kind, inside the runtime.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// A connection of either kind.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Stream::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_survives_the_way_through_a_descriptor() {
        let bound = AdminListener::bind(&Address::Ip("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = bound.address().clone();
        assert!(bound.is_local());
        let again = AdminListener::try_from(OwnedFd::from(bound)).unwrap();
        assert_eq!(*again.address(), address);
        assert!(AdminListener::bind(&address).is_err(), "it is still listened on");
        let Address::Ip(ip) = address else { panic!("an IP address was bound") };
        assert!(AdminListener::try_from(OwnedFd::from(std::net::TcpStream::connect(ip).unwrap())).is_err());
    }

    #[test]
    fn a_unix_socket_is_private_and_one_left_behind_is_replaced() {
        let path = std::env::temp_dir().join(format!("ouro-admin-{}.sock", std::process::id()));
        let address = Address::Unix(path.clone());
        let bound = AdminListener::bind(&address).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*bound.address(), address);
        assert!(AdminListener::bind(&address).is_err());
        drop(bound);
        drop(AdminListener::bind(&address).unwrap());
        std::fs::remove_file(path).unwrap();
    }
}
