//! Accepts connections and speaks HTTP/1 on them, everything bounded: the process must not suffer from its own door.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::socket::{AdminListener, Stream};
use super::{AdminState, paths};

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// From accept, or from the end of the last exchange, to the end of a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take no byte of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Request line and header section, bytes. A browser's cookies for `localhost` can be many.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Header fields of a request.
const MAX_FIELDS: usize = 100;

/// How long an exchange in progress may go on when serving ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Between attempts to accept when there are no descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the admin interface until `stop` completes; then nothing more is accepted, and what is in progress has two
/// seconds to finish. Dropping it ends everything at once.
///
/// # Errors
/// When the socket cannot be used in this runtime.
pub async fn serve(
    listener: AdminListener,
    state: Arc<AdminState>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = listener.into_tokio()?;
    let router = paths::router(state);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (ending, end) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            (place, stream) = accepted => match stream {
                Ok(stream) => {
                    let connection = speak(stream, router.clone(), end.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let _ = ending.send(true);
    let _ = tokio::time::timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// One connection, from the first request to the end.
async fn speak(stream: Stream, router: Router, mut end: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(Impatient::new(stream)), TowerToHyperService::new(router));
    let ended = async {
        let _ = end.wait_for(|end| *end).await;
    };
    tokio::pin!(connection);
    // Whatever goes wrong is the client's affair and ends this connection only.
    tokio::select! {
        _ = &mut connection => {}
        () = ended => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// A stream that fails when the peer takes nothing for [`WRITE_TIMEOUT`]: otherwise whoever asks for a long page and
/// does not read it would hold a place for ever.
struct Impatient {
    stream: Stream,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Impatient {
    fn new(stream: Stream) -> Self {
        Self { stream, deadline: Box::pin(tokio::time::sleep(WRITE_TIMEOUT)), waiting: false }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + WRITE_TIMEOUT);
        }
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch(cx, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch(cx, polled)
    }
}
