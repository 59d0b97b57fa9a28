//! What a process that is replaced, or ends, does when: what it waits for, and until when.
//!
//! Numbers and times only: it knows neither workers nor other processes. Whoever drives it, the server or the simulator,
//! tells it what has happened and does what it answers. Times are milliseconds of the caller's clock.

use crate::base::clock::Millis;

/// How often it tells the process after it how many connections are left.
pub const DRAIN_REPORT_MS: Millis = 1_000;

/// What is left when a process has to end gets so long for its last bytes.
pub const LAST_WORDS_MS: Millis = 1_000;

/// How often a process looks into its queues itself while another one may get the kernel's word of connections.
pub const QUEUE_LOOK_MS: Millis = 20;

/// How long a process that was replaced waits for what still comes from the one before it, to hand it on. In that time all
/// comes that can; who hangs for longer does not keep those who came after it.
pub const ARRIVALS_MS: Millis = 10_000;

/// Who depends on a process that has no connections any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dependents {
    /// Counters would be lost if it ended.
    pub must_stay: bool,
    /// Connections of the process before it still come, or may.
    pub arriving: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Workers that run, and workers that have not yet said that they have stopped accepting.
    alive: usize,
    pausing: usize,
    /// What workers have not yet said: that the listeners that are given up are closed, and that their pools have moved.
    releasing: usize,
    /// Connections are ended; when the other process was last told how many are left.
    draining: Option<Millis>,
    /// Over which time clients are told to come back elsewhere, once all has moved that can.
    farewell_ms: Option<Millis>,
    /// Until when this process waits for connections of the one before it, once it has been replaced.
    arrivals_until: Millis,
    /// Connections at the commit.
    at_commit: u64,
    /// When this process ends although connections are left, once it has been replaced.
    shutdown_at: Option<Millis>,
    /// This process has failed and ends; workers that have stopped accepting.
    failing: bool,
    failed_workers: usize,
    /// The process has been told to stop.
    stopping: bool,
    /// When to look into the queues of listening sockets.
    queue_look: Option<Millis>,
}

/// What it means that one more worker has stopped accepting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// Others still accept, or it is of no interest.
    Nothing,
    /// It was the last one: the role of the parent is to be told.
    All,
    /// It was the last one of a process that has failed: [`Course::look`] is due.
    Failed,
}

/// What to do about the connections that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing yet.
    Nothing,
    /// None is left: the role of the parent is to be told that so many have moved.
    Drained(u64),
    /// None is left of a process that has failed, which ends.
    Failed,
    /// The other process is to be told how many there are. If a time is given, nothing more moves: clients are told, over
    /// this time, to come back elsewhere.
    Report(Option<Millis>),
}

/// How a process that was replaced ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What is in flight gets so long.
    pub timeout_ms: Millis,
    /// It ends before its time: the process before it is to end as well.
    pub stops_elder: bool,
}

impl Course {
    /// So many workers accept.
    pub const fn begin(&mut self, workers: usize) {
        self.alive = workers;
    }

    /// Workers that run.
    #[must_use]
    pub const fn alive(&self) -> usize {
        self.alive
    }

    /// Whether connections are being ended.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether this process is on its way out because it has failed.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.failing
    }

    /// Whether this process has been told to stop.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether connections that wait in queues are this process's.
    #[must_use]
    pub const fn serves(&self) -> bool {
        self.shutdown_at.is_none() && !self.stopping && !self.failing && self.pausing == 0
    }

    /// While another process may be told of connections instead of this one (`unheard`), they are found by looking.
    pub fn mind_the_queues(&mut self, now: Millis, unheard: bool) {
        if !self.serves() {
            self.queue_look = None;
        } else if unheard && self.queue_look.is_none() {
            self.queue_look = Some(now.saturating_add(QUEUE_LOOK_MS));
        }
        // A look that is set stays when the time for looking is over: this process may have got no CPU in all of it.
    }

    /// When to look into the queues: [`Course::looks_into_queues`] then.
    #[must_use]
    pub const fn queue_look(&self) -> Option<Millis> {
        self.queue_look
    }

    /// The queues are looked into now.
    pub const fn looks_into_queues(&mut self) {
        self.queue_look = None;
    }

    /// Whether this process has stopped accepting, or is about to, because another one serves.
    #[must_use]
    pub const fn has_stood_back(&self) -> bool {
        self.draining.is_some() || self.pausing > 0
    }

    /// A worker has ended.
    pub const fn worker_ended(&mut self) {
        self.alive = self.alive.saturating_sub(1);
    }

    /// All workers are told to stop accepting.
    pub const fn stop_accepting(&mut self) {
        self.pausing = self.alive;
    }

    /// A worker has stopped accepting.
    pub const fn paused(&mut self, now: Millis) -> Paused {
        if self.failing {
            self.failed_workers += 1;
            if self.failed_workers >= self.alive {
                self.draining = Some(now);
                return Paused::Failed;
            }
        } else if self.pausing > 0 {
            self.pausing -= 1;
            if self.pausing == 0 {
                return Paused::All;
            }
        }
        Paused::Nothing
    }

    /// A worker has closed the listeners that are given up, or its pools have moved: [`Course::look`] is due.
    pub const fn released(&mut self) {
        self.releasing = self.releasing.saturating_sub(1);
    }

    /// This process serves again.
    pub const fn resume(&mut self) {
        (self.draining, self.pausing, self.releasing) = (None, 0, 0);
        (self.shutdown_at, self.farewell_ms) = (None, None);
    }

    /// Connections, so many now, move over this many channels or end in their own time, for `shutdown_ms` at most.
    /// `releases`: workers close listeners that are given up. Clients are told to come back elsewhere over `drain_ms`: at
    /// once if that is returned, otherwise when all has moved that can.
    pub const fn begin_drain(
        &mut self,
        now: Millis,
        connections: u64,
        (drain_ms, shutdown_ms): (Millis, Millis),
        releases: bool,
        channels: usize,
    ) -> Option<Millis> {
        self.at_commit = connections;
        self.releasing = channels + if releases { self.alive } else { 0 };
        self.draining = Some(now);
        self.arrivals_until = now.saturating_add(ARRIVALS_MS);
        self.shutdown_at = Some(now.saturating_add(shutdown_ms));
        if channels == self.alive {
            self.farewell_ms = Some(drain_ms);
            None
        } else {
            Some(drain_ms)
        }
    }

    /// So many connections are left, and these depend on this process.
    pub const fn look(&mut self, now: Millis, left: u64, others: Dependents) -> Left {
        let Some(reported) = self.draining else { return Left::Nothing };
        let must_stay = others.must_stay || (others.arriving && now < self.arrivals_until);
        if left == 0 && self.releasing == 0 && (self.failing || !must_stay) {
            self.draining = None;
            return if self.failing { Left::Failed } else { Left::Drained(self.at_commit) };
        }
        if now.saturating_sub(reported) < DRAIN_REPORT_MS {
            return Left::Nothing;
        }
        self.draining = Some(now);
        // What has not moved in this time stays, and only then may its clients be told to close.
        Left::Report(self.farewell_ms.take())
    }

    /// The other process needs this one no more; so many connections would be cut. `timeout_ms` is what requests in flight
    /// get when a process is stopped.
    pub fn exit(&mut self, now: Millis, cut: u64, timeout_ms: Millis) -> Exit {
        self.draining = None;
        // One that is stopped before its time lets requests finish like any other, and passes it on.
        let stops_elder = cut > 0 && self.shutdown_at.is_some_and(|at| now < at) && !self.stopping;
        let rest_ms = self.shutdown_at.map_or(0, |at| at.saturating_sub(now));
        Exit { timeout_ms: rest_ms.min(timeout_ms).max(LAST_WORDS_MS), stops_elder }
    }

    /// This process has failed while its workers run: they stop accepting, and it ends.
    pub const fn fail(&mut self) {
        self.failing = true;
    }

    /// This process has been told to stop. False: not for the first time.
    pub const fn stop(&mut self) -> bool {
        !std::mem::replace(&mut self.stopping, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Dependents = Dependents { must_stay: false, arriving: false };
    const COUNTERS: Dependents = Dependents { must_stay: true, arriving: false };

    fn course() -> Course {
        let mut course = Course::default();
        course.begin(2);
        course
    }

    #[test]
    fn the_last_worker_that_pauses_counts() {
        let mut course = course();
        assert_eq!(course.paused(0), Paused::Nothing);
        course.stop_accepting();
        assert!(!course.serves());
        assert_eq!(
            [course.paused(0), course.paused(0), course.paused(0)].map(|p| p == Paused::All),
            [false, true, false]
        );
    }

    #[test]
    fn what_stays_is_told_to_leave_a_second_later() {
        let mut course = course();
        assert_eq!(course.begin_drain(100, 7, (500, 9_000), true, 2), None);
        assert_eq!(course.look(101, 7, NOBODY), Left::Nothing);
        assert_eq!(course.look(1_100, 3, NOBODY), Left::Report(Some(500)));
        assert_eq!(course.look(2_100, 3, NOBODY), Left::Report(None));
        (0..4).for_each(|_| course.released());
        assert_eq!(course.look(2_101, 0, COUNTERS), Left::Nothing);
        assert_eq!(course.look(2_101, 0, NOBODY), Left::Drained(7));
        assert_eq!(course.exit(2_200, 0, 5_000), Exit { timeout_ms: 5_000, stops_elder: false });
        assert_eq!(course.exit(9_000, 1, 5_000), Exit { timeout_ms: LAST_WORDS_MS, stops_elder: true });
    }

    #[test]
    fn what_still_comes_is_waited_for_but_not_for_ever() {
        let arriving = Dependents { arriving: true, ..NOBODY };
        for gone_at in [200, ARRIVALS_MS] {
            let mut course = course();
            course.begin_drain(100, 0, (500, 900_000), false, 2);
            (0..2).for_each(|_| course.released());
            assert_eq!(course.look(199, 0, arriving), Left::Nothing);
            assert_eq!(course.look(gone_at, 0, NOBODY), Left::Drained(0));
        }
        let mut course = course();
        course.begin_drain(100, 0, (500, 900_000), false, 0);
        assert_eq!(course.look(101 + ARRIVALS_MS, 0, arriving), Left::Drained(0));
    }

    #[test]
    fn who_serves_again_waits_for_nothing() {
        let mut course = course();
        course.stop_accepting();
        assert_eq!(course.begin_drain(0, 1, (500, 9_000), false, 1), Some(500));
        assert!(course.has_stood_back() && !course.serves());
        course.resume();
        assert!(course.serves() && !course.has_stood_back());
        assert_eq!(course.look(10_000, 0, NOBODY), Left::Nothing);
    }

    #[test]
    fn a_process_that_got_no_cpu_looks_into_its_queues_once_more() {
        let mut course = course();
        course.mind_the_queues(0, true);
        assert_eq!(course.queue_look(), Some(QUEUE_LOOK_MS));
        course.mind_the_queues(60_000, false);
        assert_eq!(course.queue_look(), Some(QUEUE_LOOK_MS));
        course.looks_into_queues();
        course.mind_the_queues(60_001, false);
        assert_eq!(course.queue_look(), None);
        course.mind_the_queues(60_001, true);
        course.stop_accepting();
        course.mind_the_queues(60_002, true);
        assert_eq!(course.queue_look(), None);
    }

    #[test]
    fn a_failed_process_waits_for_its_connections_only() {
        let mut course = course();
        course.fail();
        assert_eq!((course.paused(5), course.paused(6)), (Paused::Nothing, Paused::Failed));
        assert_eq!(course.look(7, 1, COUNTERS), Left::Nothing);
        assert_eq!(course.look(8, 0, COUNTERS), Left::Failed);
    }
}
