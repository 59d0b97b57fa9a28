//! Routes by host, so that a table with very many hosts is not searched from end to end.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::config::model::{HostPattern, Route};

/// Longest host that can match a pattern; the configuration accepts no longer names. It also bounds the work that a
/// host of thousands of labels could cause.
const MAX_HOST_BYTES: usize = 253;

type Lists = HashMap<Box<[u8]>, Vec<u32>, BuildHasherDefault<FxHasher>>;

/// For each host pattern the routes that ask for it, as indices in ascending order.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: Lists,
    /// Keys begin with a dot.
    suffixes: Lists,
    longest_suffix: usize,
    any: Vec<u32>,
}

impl HostIndex {
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut index = Self::default();
        // There are fewer than 2^32 routes: a file of the greatest length has no room for more.
        for (number, route) in (0u32..).zip(routes) {
            if route.hosts.is_empty() {
                index.any.push(number);
            }
            for host in &route.hosts {
                let list = match host {
                    HostPattern::Exact(host) => index.exact.entry(host.as_bytes().into()).or_default(),
                    HostPattern::Suffix(suffix) => {
                        index.longest_suffix = index.longest_suffix.max(suffix.len());
                        index.suffixes.entry(suffix.as_bytes().into()).or_default()
                    }
                };
                if list.last() != Some(&number) {
                    list.push(number);
                }
            }
        }
        index
    }

    /// Shows every list that holds for the host of an authority, the most specific first.
    pub(super) fn candidates(&self, authority: &[u8], mut show: impl FnMut(&[u32])) {
        let host = host_of(authority);
        let mut buffer = [0; MAX_HOST_BYTES];
        if let Some(lower) = buffer.get_mut(..host.len()) {
            lower.copy_from_slice(host);
            lower.make_ascii_lowercase();
            let lower: &[u8] = lower;
            if let Some(list) = self.exact.get(lower) {
                show(list);
            }
            if self.longest_suffix > 0 {
                // From 1: a pattern wants at least one label in front.
                for dot in memchr::memchr_iter(b'.', lower).filter(|dot| *dot > 0) {
                    let suffix = &lower[dot..];
                    if suffix.len() <= self.longest_suffix
                        && let Some(list) = self.suffixes.get(suffix)
                    {
                        show(list);
                    }
                }
            }
        }
        show(&self.any);
    }
}

/// The host of an authority: without the port and without the dot that ends a fully qualified name.
fn host_of(authority: &[u8]) -> &[u8] {
    if authority.first() == Some(&b'[') {
        let end = memchr::memchr(b']', authority).map_or(authority.len(), |at| at + 1);
        return &authority[..end];
    }
    let end = memchr::memrchr(b':', authority).unwrap_or(authority.len());
    let host = &authority[..end];
    host.strip_suffix(b".").unwrap_or(host)
}

/// The hash of Firefox and rustc: a rotation, an exclusive or and a multiplication for eight bytes. It does not
/// resist keys that were chosen to collide, and need not: the keys are from the configuration, and a lookup from
/// outside adds none.
#[derive(Debug, Default)]
struct FxHasher {
    state: u64,
}

impl FxHasher {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;

    #[inline]
    fn mix(&mut self, word: u64) {
        self.state = (self.state.rotate_left(5) ^ word).wrapping_mul(Self::FACTOR);
    }
}

impl Hasher for FxHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_usize(&mut self, length: usize) {
        self.mix(length as u64);
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // folding the two halves is the point
    fn finish(&self) -> u64 {
        // A product is well mixed in its upper bits only, and the map takes its buckets from the lower ones: fold
        // one more product to have both ends well mixed.
        let wide = u128::from(self.state) * u128::from(Self::FACTOR);
        (wide >> 64) as u64 ^ wide as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    use super::*;

    #[test]
    fn ports_and_final_dots_do_not_count() {
        for (authority, host) in [
            ("example.com", "example.com"),
            ("example.com:80", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:80", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::1", "[::1"),
            (":80", ""),
            ("", ""),
            (".", ""),
        ] {
            assert_eq!(host_of(authority.as_bytes()), host.as_bytes(), "{authority}");
        }
    }

    #[test]
    fn similar_hosts_spread_over_the_buckets() {
        let hasher = BuildHasherDefault::<FxHasher>::default();
        let hash = |n: u32| hasher.hash_one(format!("shop-{n}.example.com").as_bytes());
        let hashes: Vec<u64> = (0..100_000).map(hash).collect();
        // 100 000 random numbers below 2^17 have about 70 000 distinct values; the tags in the top 7 bits all occur.
        let buckets: HashSet<u64> = hashes.iter().map(|hash| hash & 0x1_ffff).collect();
        let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(buckets.len() > 60_000, "{}", buckets.len());
        assert_eq!(tags.len(), 128);
        let mut state = FxHasher::default();
        b"example.com"[..].hash(&mut state);
        assert_eq!(state.finish(), hasher.hash_one(&b"example.com"[..]));
    }
}
