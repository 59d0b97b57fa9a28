//! Short runs at random: odd sizes, half-closes, tiny buffers, slow peers, a handover at some moment. What the peers see
//! is what they would see without it, byte for byte.

use std::time::Duration;

use crate::chain::{Chain, End, Origin};
use crate::support::Config;
use crate::support::pattern::{self, Checker};
use crate::support::stats::expect_nothing_active;

/// A small generator of numbers (xorshift).
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The generator of a run.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Sends `total` bytes in pieces of odd sizes and ends its side, or reads them all and the end.
fn sender(end: &End, mut dice: Dice, total: u64) -> std::thread::JoinHandle<()> {
    let socket = std::sync::Arc::clone(end.wire.socket());
    std::thread::spawn(move || {
        let mut sent = 0;
        while sent < total {
            let mut piece = pattern::piece(sent, total);
            piece.truncate(1 + dice.below(70_000) as usize);
            socket.send_all(&piece).unwrap();
            sent += piece.len() as u64;
            if dice.below(4) == 0 {
                std::thread::park_timeout(Duration::from_micros(dice.below(3000)));
            }
        }
        socket.shutdown(nix::sys::socket::Shutdown::Write);
    })
}

fn reader(mut end: End, mut dice: Dice, total: u64) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut checker = Checker::default();
        let slow = dice.below(2) == 0;
        while checker.count() < total {
            let count = (1 + dice.below(100_000)).min(total - checker.count());
            end.expect_pattern(&mut checker, count);
            if slow {
                std::thread::park_timeout(Duration::from_micros(dice.below(4000)));
            }
        }
        end.expect_eof();
    })
}

fn run(seed: u64, runs: u64) {
    let origin = Origin::new();
    let mut chain = Chain::tcp(Config::to([origin.addr()]));
    for run in 0..runs {
        let mut dice = Dice::new(seed.wrapping_add(run));
        println!("OURO_SEED={} (run {run} of {seed})", seed + run);
        let mut threads = Vec::new();
        for _ in 0..1 + dice.below(6) {
            let mut client = chain.client();
            client.send("a");
            let mut far = origin.accept();
            far.expect("a");
            far.send("b");
            client.expect("b");
            for end in [&client, &far] {
                if dice.below(2) == 0 {
                    end.shrink();
                }
            }
            let mut size = || {
                let limit = [1, 100, 70_000, 900_000][dice.below(4) as usize];
                dice.below(limit)
            };
            let (up, down) = (size(), size());
            let mut next = || Dice(dice.below(u64::MAX) | 1);
            threads.extend([sender(&client, next(), up), sender(&far, next(), down)]);
            threads.extend([reader(client, next(), down), reader(far, next(), up)]);
        }
        std::thread::park_timeout(Duration::from_micros(dice.below(20_000)));
        chain.restart();
        for thread in threads {
            thread.join().unwrap();
        }
    }
    expect_nothing_active(chain.instance.base_id());
}

#[test]
fn peers_see_what_they_would_see_without_a_handover() {
    let (seed, runs) = seed_and_runs(40);
    run(seed, runs);
}

/// `OURO_SEED` says where it begins, and `OURO_RUNS` how many runs there are: thousands take minutes.
pub(crate) fn seed_and_runs(runs: u64) -> (u64, u64) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (number("OURO_SEED").unwrap_or(1), number("OURO_RUNS").unwrap_or(runs))
}
