//! The clients of a soak: each an own task, all on one thread, every byte compared.

mod echo;
mod http;
mod transfer;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ouro::base::random::Random;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::tally::{Kind, Shared};
use crate::load::{Failure, Wrong, failure_of};
use crate::peers::local;

/// How long a client waits for what must come. Longer than every pause that the proxy may make.
const PATIENCE: Duration = Duration::from_secs(15);

/// Before a client connects again.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

/// Clients that begin in a second: no listener's queue overflows.
const BEGIN_PER_S: u64 = 4000;

/// How a connection has ended without anything being wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The run is over.
    Over,
    /// The other side wanted it, in a way that HTTP allows.
    Closed,
}

/// One client.
struct Client {
    shared: Arc<Shared>,
    kind: Kind,
    /// Tells its content from all others'.
    number: u64,
    random: Random,
}

/// Runs all clients until each has finished.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut total = 0;
    for kind in Kind::ALL {
        for number in 0..shared.clients.number(kind) {
            let random = Random::new(shared.seed ^ ((kind as u64) << 48) ^ (number << 20));
            let mut client = Client { shared: Arc::clone(&shared), kind, number, random };
            let delay = Duration::from_micros(total * 1_000_000 / BEGIN_PER_S);
            total += 1;
            tasks.spawn(async move {
                sleep(delay).await;
                client.live().await;
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

impl Client {
    /// Connects, does its work, and connects again if that breaks.
    async fn live(&mut self) {
        let mut connected_before = false;
        while !self.shared.is_ending() {
            let result = match self.connect().await {
                Ok(stream) => {
                    let again = std::mem::replace(&mut connected_before, true);
                    self.shared.count(self.kind).reconnected += u64::from(again && self.kind.is_long_lived());
                    self.work(stream).await
                }
                Err(wrong) => Err(wrong),
            };
            if let Err(wrong) = result {
                {
                    let mut counts = self.shared.count(self.kind);
                    counts.fail(&wrong);
                    let long_lived = self.kind.is_long_lived();
                    counts.broken += u64::from(long_lived && wrong.0 != Failure::Refused);
                }
                sleep(AFTER_FAILURE).await;
            }
        }
    }

    async fn work(&mut self, stream: TcpStream) -> Result<End, Wrong> {
        match self.kind {
            Kind::Echo => self.echo(stream).await,
            Kind::Pair => self.pair(stream).await,
            Kind::Websocket => self.websocket(stream).await,
            Kind::Http => self.keep_alive(stream).await,
            Kind::Short => self.short(stream).await,
            Kind::Upload => self.uploads(stream).await,
            Kind::Download => self.downloads(stream).await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, Wrong> {
        let address = self.address();
        let stream = patiently("connecting", TcpStream::connect(address)).await?;
        // Only slower without it.
        let _ = stream.set_nodelay(true);
        self.shared.count(self.kind).connects += 1;
        Ok(stream)
    }

    fn address(&self) -> SocketAddr {
        local(if self.kind.is_tcp() { self.shared.tcp } else { self.shared.http })
    }

    /// A stream of content that no other client has, and no other exchange of this one.
    fn stream(&self, exchange: u64) -> u64 {
        ((self.kind as u64) << 56) | (self.number << 32) | (exchange & 0xffff_ffff)
    }

    /// A time around `every`, so that clients do not march in step.
    fn about(&mut self, every: Duration) -> Duration {
        let micros = usize::try_from(every.as_micros()).unwrap_or(usize::MAX / 4);
        Duration::from_micros(self.random.below(micros.saturating_mul(2).max(1)) as u64)
    }

    /// Counts the first success of a client.
    fn ready(&self, already: &mut bool) {
        if !std::mem::replace(already, true) {
            let mut counts = self.shared.count(self.kind);
            // A client that had to connect again is not a further one.
            counts.ready = (counts.ready + 1).min(self.shared.clients.number(self.kind));
        }
    }
}

/// Waits for something, but not for ever.
async fn patiently<T>(what: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, Wrong> {
    within(PATIENCE, what, work).await
}

/// Waits for something, but only so long.
async fn within<T>(
    patience: Duration,
    what: &str,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Wrong> {
    match timeout(patience, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(describe(what, &error)),
        Err(_) => Err((Failure::TimedOut, format!("{what}: nothing for {} s", patience.as_secs()))),
    }
}

fn describe(what: &str, error: &io::Error) -> Wrong {
    let (failure, detail) = match error.kind() {
        io::ErrorKind::UnexpectedEof => (Failure::Closed, String::new()),
        io::ErrorKind::InvalidData => (Failure::Content, error.to_string()),
        _ => failure_of(error),
    };
    (failure, if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") })
}
