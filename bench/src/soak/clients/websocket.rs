//! WebSocket connections, with a library on both ends.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::super::pattern;
use super::super::tally::Kind;
use super::{Client, End, PATIENCE, describe};
use crate::load::{Failure, Wrong};

/// A message has up to so many bytes.
const MESSAGE: usize = 4096;

/// Messages that are under way together.
const TOGETHER: usize = 3;

impl Client {
    pub(super) async fn websocket(&mut self, stream: TcpStream) -> Result<End, Wrong> {
        let turn = self.random.next_u64();
        let id = self.stream(turn);
        let shaken = wait("the handshake", client_async("ws://bench.example.com/websocket", stream)).await?;
        let (mut socket, _) = shaken.map_err(|error| wrong("the handshake", &error))?;
        self.shared.count(Kind::Websocket).answered += 1;
        let (mut position, mut ready) = (0, false);
        while !self.shared.is_ending() {
            let pause = self.about(self.shared.clients.websocket_every);
            sleep(pause).await;
            let lengths: Vec<usize> =
                (0..=self.random.below(TOGETHER)).map(|_| 1 + self.random.below(MESSAGE)).collect();
            let begin = position;
            for length in &lengths {
                let mut message = vec![0; *length];
                pattern::fill(id, position, &mut message);
                position += *length as u64;
                let sent = wait("sending a message", socket.send(Message::binary(message))).await?;
                sent.map_err(|error| wrong("sending a message", &error))?;
                let mut counts = self.shared.count(Kind::Websocket);
                counts.begun += 1;
                counts.sent += *length as u64;
            }
            position = begin;
            for length in lengths {
                let begun = std::time::Instant::now();
                let Message::Binary(bytes) = next(&mut socket).await? else {
                    return Err((Failure::Content, "another kind of message".into()));
                };
                if bytes.len() != length {
                    let text = format!("a message of {} bytes instead of {length}", bytes.len());
                    return Err((Failure::Length, text));
                }
                if let Some(at) = pattern::differs(id, position, &bytes) {
                    return Err((Failure::Content, format!("byte {at} of a WebSocket connection")));
                }
                position += length as u64;
                let mut counts = self.shared.count(Kind::Websocket);
                counts.done += 1;
                counts.received += length as u64;
                counts.worst_wait_ms = counts.worst_wait_ms.max(begun.elapsed().as_secs_f64() * 1e3);
            }
            self.ready(&mut ready);
        }
        let closed = wait("closing", socket.close(None)).await?;
        closed.map_err(|error| wrong("closing", &error))?;
        match wait("the end", socket.next()).await? {
            None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) => Ok(End::Over),
            Some(Ok(_)) => Err((Failure::Extra, "a message that nobody sent".into())),
            Some(Err(error)) => Err(wrong("the end", &error)),
        }
    }
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Result<Message, Wrong> {
    match wait("waiting for a message", socket.next()).await? {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(wrong("waiting for a message", &error)),
        None => Err((Failure::Closed, "waiting for a message".into())),
    }
}

async fn wait<T>(what: &str, work: impl Future<Output = T>) -> Result<T, Wrong> {
    let late = |_| (Failure::TimedOut, format!("{what}: nothing for {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, work).await.map_err(late)
}

fn wrong(what: &str, error: &Error) -> Wrong {
    match error {
        Error::Io(error) => describe(what, error),
        Error::ConnectionClosed | Error::AlreadyClosed => (Failure::Closed, what.to_owned()),
        Error::Http(response) => (Failure::Status, format!("{what}: {}", response.status())),
        other => (Failure::Other, format!("{what}: {other}")),
    }
}
