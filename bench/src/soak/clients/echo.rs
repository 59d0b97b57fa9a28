//! Bytes over the TCP listener.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ouro::base::random::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, sleep_until};

use super::super::pattern;
use super::super::tally::{Kind, RoundTrip, Shared};
use super::{Client, End, patiently};
use crate::load::{Failure, Wrong};

/// A piece has up to so many bytes.
const PIECE: usize = 1024;

impl Client {
    /// Both directions at the same time, neither waiting for the other.
    pub(super) async fn echo(&mut self, stream: TcpStream) -> Result<End, Wrong> {
        let turn = self.random.next_u64();
        let id = self.stream(turn);
        let every = self.shared.clients.echo_every;
        let (read, write) = stream.into_split();
        let sent = AtomicU64::new(0);
        let random = Random::new(self.random.next_u64());
        let writer = write_stream(&self.shared, id, &sent, every, random, write);
        let mut ready = false;
        let reader = self.read_stream(id, &sent, read, &mut ready);
        tokio::try_join!(writer, reader)?;
        Ok(End::Over)
    }

    async fn read_stream(
        &self,
        id: u64,
        sent: &AtomicU64,
        mut read: OwnedReadHalf,
        ready: &mut bool,
    ) -> Result<(), Wrong> {
        let (mut buffer, mut position) = (vec![0; PIECE], 0);
        loop {
            let what = format!("echo, at byte {position} of {}", sent.load(Ordering::Relaxed));
            let count = patiently(&what, read.read(&mut buffer)).await?;
            if count == 0 {
                let whole = sent.load(Ordering::Relaxed) == position;
                let over = whole && self.shared.is_ending();
                return if over { Ok(()) } else { Err((Failure::Closed, what)) };
            }
            if let Some(at) = pattern::differs(id, position, &buffer[..count]) {
                return Err((Failure::Content, format!("byte {at} of an echo")));
            }
            position += count as u64;
            {
                let mut counts = self.shared.count(Kind::Echo);
                counts.received += count as u64;
                counts.done += 1;
            }
            self.ready(ready);
        }
    }

    /// A byte there and back, again and again, timed.
    pub(super) async fn pair(&mut self, mut stream: TcpStream) -> Result<End, Wrong> {
        let turn = self.random.next_u64();
        let id = self.stream(turn);
        let every = self.shared.clients.pair_every;
        let (mut position, mut ready) = (0, false);
        let mut next = tokio::time::Instant::now() + self.about(every) / 2;
        loop {
            let (mut there, mut back) = ([0], [0]);
            pattern::fill(id, position, &mut there);
            let begun = Instant::now();
            patiently("sending a byte", stream.write_all(&there)).await?;
            self.shared.count(Kind::Pair).sent += 1;
            patiently("waiting for a byte", stream.read_exact(&mut back)).await?;
            let took = begun.elapsed();
            if back != there {
                return Err((Failure::Content, format!("byte {position} of a pair")));
            }
            position += 1;
            {
                let mut counts = self.shared.count(Kind::Pair);
                counts.received += 1;
                counts.done += 1;
                counts.worst_wait_ms = counts.worst_wait_ms.max(took.as_secs_f64() * 1e3);
            }
            self.shared.keep(RoundTrip { sent: begun, took });
            self.ready(&mut ready);
            if self.shared.is_ending() {
                break;
            }
            sleep_until(next).await;
            // The phase stays, whatever was missed.
            while next <= tokio::time::Instant::now() {
                next += every.max(Duration::from_millis(1));
            }
        }
        patiently("ending", stream.shutdown()).await?;
        match patiently("waiting for the end", stream.read(&mut [0])).await? {
            0 => Ok(End::Over),
            _ => Err((Failure::Extra, "a byte that nobody sent".into())),
        }
    }
}

async fn write_stream(
    shared: &Shared,
    id: u64,
    sent: &AtomicU64,
    every: Duration,
    mut random: Random,
    mut write: OwnedWriteHalf,
) -> Result<(), Wrong> {
    let micros = usize::try_from(every.as_micros()).unwrap_or(usize::MAX / 4).saturating_mul(2).max(1);
    let mut buffer = vec![0; PIECE];
    let mut position = 0;
    while !shared.is_ending() {
        sleep(Duration::from_micros(random.below(micros) as u64)).await;
        let count = 1 + random.below(PIECE);
        pattern::fill(id, position, &mut buffer[..count]);
        position += count as u64;
        // Before they are written: they may be back before this task goes on.
        sent.store(position, Ordering::Relaxed);
        patiently("sending an echo", write.write_all(&buffer[..count])).await?;
        let mut counts = shared.count(Kind::Echo);
        counts.sent += count as u64;
        counts.begun += 1;
    }
    patiently("ending an echo", write.shutdown()).await
}
