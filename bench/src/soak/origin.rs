//! The origin of a soak: TCP echo, HTTP with bodies that are checked, and WebSocket echo with a library.
//!
//! | request | answer |
//! |---|---|
//! | `GET /bytes/STREAM/LENGTH` | so many bytes of the stream |
//! | `GET /download/STREAM/LENGTH/SPEED` | the same, at a speed (0: as fast as it is read), odd streams in chunks |
//! | `GET /sum/STREAM` | the checksum of the last download of that stream |
//! | `POST /upload/STREAM/SPEED` | reads at a speed, compares, answers length and checksum |

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_async;

use super::pattern;
use super::tally::{Shared, lock};
use super::wire::{Body, Framing, Head, Pace, Wire};

/// Bytes that an echo takes at once: small, because there are thousands.
const ECHO_BYTES: usize = 4096;

/// Bytes of a body that are sent or taken at once.
const PIECE: usize = 32 * 1024;

/// Where it listens.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) echo: TcpListener,
    pub(super) http: TcpListener,
    pub(super) websocket: TcpListener,
}

/// Serves until it is dropped.
///
/// # Errors
/// When a listener is not usable.
pub(super) async fn serve(shared: Arc<Shared>, listeners: Listeners) -> io::Result<()> {
    let echo = tokio::net::TcpListener::from_std(listeners.echo)?;
    let http = tokio::net::TcpListener::from_std(listeners.http)?;
    let websocket = tokio::net::TcpListener::from_std(listeners.websocket)?;
    loop {
        tokio::select! {
            accepted = echo.accept() => {
                tokio::spawn(serve_echo(ready(accepted)?));
            }
            accepted = http.accept() => {
                tokio::spawn(serve_http(Arc::clone(&shared), Wire::new(ready(accepted)?)));
            }
            accepted = websocket.accept() => {
                tokio::spawn(serve_websocket(Arc::clone(&shared), ready(accepted)?));
            }
        }
    }
}

fn ready(accepted: io::Result<(TcpStream, std::net::SocketAddr)>) -> io::Result<TcpStream> {
    let (stream, _) = accepted?;
    // Only slower without it.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn serve_echo(mut stream: TcpStream) {
    let mut buffer = vec![0; ECHO_BYTES];
    // The client notices whatever goes wrong here.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

async fn serve_websocket(shared: Arc<Shared>, stream: TcpStream) {
    shared.origin.requests.fetch_add(1, Ordering::Relaxed);
    let mut socket = match accept_async(stream).await {
        Ok(socket) => socket,
        Err(error) => return shared.origin.complain(format!("WebSocket handshake: {error}")),
    };
    while let Some(message) = socket.next().await {
        match message {
            Ok(message) if message.is_binary() => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // A client that goes away without a word is the client's to report.
            Err(_) => return,
        }
    }
}

async fn serve_http(shared: Arc<Shared>, mut wire: Wire) {
    loop {
        match wire.head(true).await {
            Ok(Some(head)) => {
                shared.origin.requests.fetch_add(1, Ordering::Relaxed);
                match answer(&shared, &mut wire, &head).await {
                    Ok(()) if head.close => return,
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        return shared.origin.complain(format!("{} {}: {error}", head.what, head.path));
                    }
                    // The other side is gone, which is the client's to report.
                    Err(_) => return,
                }
            }
            Ok(None) => return,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return shared.origin.complain(error.to_string());
            }
            Err(_) => return,
        }
    }
}

async fn answer(shared: &Shared, wire: &mut Wire, head: &Head) -> io::Result<()> {
    let mut parts = head.path.split('/').skip(1);
    let what = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    match (head.what.as_str(), what, number(), number(), number()) {
        ("GET", "bytes", Some(stream), Some(length), _) => {
            let body = pattern::bytes(stream, usize::try_from(length).unwrap_or_default().min(1 << 20));
            respond(wire, 200, &body).await
        }
        ("GET", "download", Some(stream), Some(length), Some(speed)) => {
            let speed = if shared.is_ending() { 0 } else { speed };
            download(shared, wire, stream, length, speed).await
        }
        ("GET", "sum", Some(stream), ..) => {
            let sum = lock(&shared.origin.sums).remove(&stream).unwrap_or_default();
            respond(wire, 200, format!("{sum:08x}\n").as_bytes()).await
        }
        ("POST", "upload", Some(stream), Some(speed), _) => {
            let answer = upload(shared, wire, head.framing, stream, speed).await?;
            respond(wire, 200, answer.as_bytes()).await
        }
        _ => {
            shared.origin.complain(format!("a request that nobody sends: {} {}", head.what, head.path));
            respond(wire, 404, b"").await
        }
    }
}

async fn respond(wire: &mut Wire, status: u16, body: &[u8]) -> io::Result<()> {
    let mut bytes = format!("HTTP/1.1 {status} Soak\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    wire.write(&bytes).await
}

async fn download(shared: &Shared, wire: &mut Wire, stream: u64, length: u64, speed: u64) -> io::Result<()> {
    let framing = if stream % 2 == 1 { Framing::Chunked } else { Framing::Length(length) };
    let field = match framing {
        Framing::Length(length) => format!("Content-Length: {length}"),
        Framing::Chunked => "Transfer-Encoding: chunked".into(),
    };
    wire.write(format!("HTTP/1.1 200 Soak\r\n{field}\r\n\r\n").as_bytes()).await?;
    let (mut position, mut pace, mut sum) = (0, Pace::new(speed), crc32fast::Hasher::new());
    let mut buffer = vec![0; PIECE];
    while position < length {
        let count = usize::try_from(length - position).unwrap_or(usize::MAX).min(PIECE);
        let piece = &mut buffer[..count];
        pattern::fill(stream, position, piece);
        sum.update(piece);
        if !shared.is_ending() {
            pace.wait(count).await;
        }
        // Whoever reads the last byte may ask for the sum at once.
        position += count as u64;
        if position == length {
            lock(&shared.origin.sums).insert(stream, sum.clone().finalize());
        }
        wire.write_piece(framing, piece).await?;
    }
    wire.write_end(framing).await
}

async fn upload(
    shared: &Shared,
    wire: &mut Wire,
    framing: Framing,
    stream: u64,
    speed: u64,
) -> io::Result<String> {
    let (mut position, mut pace, mut sum) = (0, Pace::new(speed), crc32fast::Hasher::new());
    let mut body = Body::new(framing);
    while let Some(piece) = wire.body(&mut body, PIECE).await? {
        if let Some(at) = pattern::differs(stream, position, piece) {
            let text = format!("wrong byte at {at}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        sum.update(piece);
        let count = piece.len();
        position += count as u64;
        if !shared.is_ending() {
            pace.wait(count).await;
        }
    }
    Ok(format!("{position} {:08x}\n", sum.finalize()))
}
