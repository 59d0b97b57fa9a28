//! Choosing an endpoint. Pure: counters and randomness come in, a position goes out.

use crate::base::random::Random;
use crate::config::model::LoadBalancing;

/// What a choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Share of the traffic, at least 1.
    pub(super) weight: u32,
    /// Exchanges or connections in progress.
    pub(super) active: u32,
    /// Tried already for this request.
    pub(super) tried: bool,
}

/// State of the round robin of one cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundRobin {
    next: usize,
    /// Smooth weighted round robin, as nginx does it: who has been passed over gains its weight, who is chosen pays all.
    credit: Vec<i64>,
}

/// Chooses one of `count` endpoints, described by `candidate`, that was not tried yet.
pub(super) fn pick(
    policy: LoadBalancing,
    count: usize,
    candidate: impl Fn(usize) -> Candidate,
    round_robin: &mut RoundRobin,
    random: &mut Random,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    if count == 1 {
        return if candidate(0).tried { None } else { Some(0) };
    }
    match policy {
        LoadBalancing::RoundRobin => round_robin.pick(count, candidate),
        LoadBalancing::Random => pick_random(count, &candidate, random),
        LoadBalancing::LeastRequest => {
            let first = pick_random(count, &candidate, random)?;
            let other = |n| Candidate { tried: candidate(n).tried || n == first, ..candidate(n) };
            let Some(second) = pick_random(count, &other, random) else { return Some(first) };
            let load = |n: usize| {
                let c = candidate(n);
                // Exchanges per unit of weight, with the one to come.
                (u64::from(c.active) + 1) * 1_000_000 / u64::from(c.weight.max(1))
            };
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

impl RoundRobin {
    fn pick(&mut self, count: usize, candidate: impl Fn(usize) -> Candidate) -> Option<usize> {
        let weight = candidate(0).weight;
        if (1..count).all(|n| candidate(n).weight == weight) {
            for step in 0..count {
                let n = (self.next + step) % count;
                if !candidate(n).tried {
                    self.next = (n + 1) % count;
                    return Some(n);
                }
            }
            return None;
        }
        self.credit.resize(count, 0);
        let mut best: Option<usize> = None;
        let mut total = 0;
        for n in 0..count {
            let c = candidate(n);
            if c.tried {
                continue;
            }
            self.credit[n] += i64::from(c.weight);
            total += i64::from(c.weight);
            if best.is_none_or(|b| self.credit[n] > self.credit[b]) {
                best = Some(n);
            }
        }
        let best = best?;
        self.credit[best] -= total;
        Some(best)
    }
}

fn pick_random(count: usize, candidate: &impl Fn(usize) -> Candidate, random: &mut Random) -> Option<usize> {
    let open = |n: &usize| !candidate(*n).tried;
    let total: u64 = (0..count).filter(open).map(|n| u64::from(candidate(n).weight)).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = random.below(usize::try_from(total).unwrap_or(usize::MAX)) as u64;
    for n in (0..count).filter(open) {
        let weight = u64::from(candidate(n).weight);
        if ticket < weight {
            return Some(n);
        }
        ticket -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: LoadBalancing, weights: &[u32], active: &[u32], rounds: usize) -> Vec<usize> {
        let mut round_robin = RoundRobin::default();
        let mut random = Random::new(1);
        let mut hits = vec![0; weights.len()];
        for _ in 0..rounds {
            let candidate = |n: usize| Candidate { weight: weights[n], active: active[n], tried: false };
            hits[pick(policy, weights.len(), candidate, &mut round_robin, &mut random).unwrap()] += 1;
        }
        hits
    }

    #[test]
    fn round_robin_is_exact() {
        assert_eq!(run(LoadBalancing::RoundRobin, &[1, 1, 1], &[0; 3], 300), [100, 100, 100]);
        assert_eq!(run(LoadBalancing::RoundRobin, &[5, 1, 2], &[0; 3], 800), [500, 100, 200]);
    }

    #[test]
    fn random_follows_the_weights() {
        let hits = run(LoadBalancing::Random, &[3, 1], &[0; 2], 10_000);
        assert!((7_200..7_800).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn least_request_avoids_the_busy_one() {
        let hits = run(LoadBalancing::LeastRequest, &[1, 1, 1], &[0, 50, 0], 3_000);
        assert_eq!(hits[1], 0, "the busiest of three is never the less loaded of two");
    }

    #[test]
    fn nobody_is_chosen_where_nobody_is() {
        for policy in [LoadBalancing::RoundRobin, LoadBalancing::Random, LoadBalancing::LeastRequest] {
            let nobody = |_| Candidate { weight: 1, active: 0, tried: false };
            assert_eq!(pick(policy, 0, nobody, &mut RoundRobin::default(), &mut Random::new(3)), None);
        }
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        for policy in [LoadBalancing::RoundRobin, LoadBalancing::Random, LoadBalancing::LeastRequest] {
            for weights in [[1, 1, 1], [1, 2, 3]] {
                let (mut round_robin, mut random) = (RoundRobin::default(), Random::new(3));
                let mut tried = [false; 3];
                for _ in 0..3 {
                    let candidate = |n: usize| Candidate { weight: weights[n], active: 0, tried: tried[n] };
                    let n = pick(policy, 3, candidate, &mut round_robin, &mut random).unwrap();
                    assert!(!std::mem::replace(&mut tried[n], true));
                }
                let candidate = |n: usize| Candidate { weight: weights[n], active: 0, tried: tried[n] };
                assert_eq!(pick(policy, 3, candidate, &mut round_robin, &mut random), None);
            }
        }
    }
}
