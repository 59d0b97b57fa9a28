//! The demo upstream of the quick start: shows the request as an origin gets it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MAX_HEAD_BYTES: usize = 64 * 1024;
const IDLE: Duration = Duration::from_secs(120);

/// Binds a free port of the loopback interface.
///
/// # Errors
/// When there is none.
pub fn bind() -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Answers every request with its own head. Must run inside a `LocalSet`.
pub async fn serve(listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(async move {
                    // Whatever goes wrong ends this connection; the proxy in front reports it.
                    let _ = tokio::time::timeout(IDLE, answer(stream)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut buf = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&buf, b"\r\n\r\n") {
                break end + 4;
            }
            if buf.len() > MAX_HEAD_BYTES || stream.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
        };
        let body = [b"Ouro works. This is your request as the origin got it:\n\n", &buf[..end]].concat();
        // A request body is not read: the connection ends after the answer then.
        let has_body = buf[..end].split(|b| *b == b'\n').any(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with(b"transfer-encoding:")
                || (line.starts_with(b"content-length:") && !line.trim_ascii().ends_with(b" 0"))
        });
        let head_only = buf.starts_with(b"HEAD ");
        let connection = if has_body { "connection: close\r\n" } else { "" };
        let mut response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n{connection}\r\n",
            body.len()
        )
        .into_bytes();
        if !head_only {
            response.extend_from_slice(&body);
        }
        stream.write_all(&response).await?;
        if has_body {
            stream.shutdown().await?;
            while stream.read_buf(&mut Vec::with_capacity(4096)).await? > 0 {}
            return Ok(());
        }
        buf.drain(..end);
    }
}
