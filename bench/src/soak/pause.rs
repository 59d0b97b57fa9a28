//! How long round trips took while connections moved, and at other times.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::generations::Generations;
use super::tally::{RoundTrip, Shared};

/// From the end of the quiet window to the begin of the restart.
const BEFORE: Duration = Duration::from_millis(200);

/// The quiet window is at least so long, so that there is something in it.
const MIN_QUIET: Duration = Duration::from_millis(500);

/// Round trips of all restarts in one phase.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Window {
    /// Which phase.
    pub(super) name: &'static str,
    /// How many were under way in it.
    pub(super) round_trips: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) worst_ms: f64,
}

/// The phases of all restarts; empty if nothing was timed.
pub(super) fn windows(generations: &Generations, shared: &Shared) -> Vec<Window> {
    let trips = shared.round_trips();
    let restarts = generations.restarts();
    if trips.is_empty() || restarts.is_empty() {
        return Vec::new();
    }
    let (mut quiet, mut start, mut move_) = (Vec::new(), Vec::new(), Vec::new());
    for restart in restarts {
        let ended = restart.ended.unwrap_or(restart.committed);
        let length = ended.saturating_duration_since(restart.begun).max(MIN_QUIET);
        if let Some(until) = restart.begun.checked_sub(BEFORE)
            && let Some(from) = until.checked_sub(length)
        {
            quiet.push((from, until));
        }
        start.push((restart.begun, restart.committed));
        move_.push((restart.committed, ended));
    }
    vec![
        window("no restart", &trips, &quiet),
        window("exec to commit", &trips, &start),
        window("commit to end of the old one", &trips, &move_),
    ]
}

fn window(name: &'static str, trips: &[RoundTrip], spans: &[(Instant, Instant)]) -> Window {
    let within = |trip: &&RoundTrip| {
        spans.iter().any(|(from, until)| trip.sent <= *until && trip.sent + trip.took >= *from)
    };
    let mut times: Vec<Duration> = trips.iter().filter(within).map(|trip| trip.took).collect();
    times.sort_unstable();
    let at = |share: usize| {
        let place = (times.len() * share).div_ceil(100).saturating_sub(1);
        times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    Window { name, round_trips: times.len(), p50_ms: at(50), p99_ms: at(99), worst_ms: at(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_in_a_window_belongs_to_it() {
        let begin = Instant::now() + Duration::from_secs(1);
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let trip = |sent, took| RoundTrip { sent: at(sent), took: Duration::from_millis(took) };
        let trips = [trip(0, 9), trip(5, 6), trip(15, 1), trip(19, 50), trip(21, 90)];
        let window = window("x", &trips, &[(at(10), at(20))]);
        assert_eq!(window.round_trips, 3);
        assert_eq!((window.p50_ms, window.p99_ms, window.worst_ms), (6.0, 50.0, 50.0));
    }
}
