//! Drives all clients of a load from one thread.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::conn::{Conn, State, Step, failure_of};
use super::tally::{Failure, Tally};
use super::{Plan, Work};
use crate::machine;

/// How long an exchange, or a connection attempt, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often that is looked at, and whether somebody wants this process to end.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Before a failed client tries again, so that it does not spin.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Bytes received at once.
const SCRATCH_BYTES: usize = 128 * 1024;

/// Events taken at once.
const EVENTS: usize = 256;

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    plans: Vec<Plan>,
    tallies: Vec<Tally>,
    conns: Vec<Conn>,
    /// For each plan the clients that have not begun.
    unstarted: Vec<std::ops::Range<usize>>,
    epoll: Epoll,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    scratch: Vec<u8>,
    next_check: Instant,
    /// No further exchange begins.
    ending: bool,
}

impl Load {
    /// Prepares clients; they begin with the first [`Load::run`].
    ///
    /// # Errors
    /// When the kernel gives no epoll instance.
    pub(crate) fn new(plans: Vec<Plan>) -> Result<Self, String> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        let now = Instant::now();
        let mut load = Self {
            tallies: vec![Tally::default(); plans.len()],
            conns: Vec::new(),
            unstarted: Vec::new(),
            epoll,
            due: BinaryHeap::new(),
            scratch: vec![0; SCRATCH_BYTES],
            next_check: now,
            ending: false,
            plans,
        };
        for (index, plan) in load.plans.iter().enumerate() {
            let first = load.conns.len();
            let numbers = first..first + plan.connections;
            load.conns.extend(numbers.clone().map(|number| Conn::new(index, number as u64, now)));
            load.unstarted.push(numbers);
        }
        for index in 0..load.plans.len() {
            for _ in 0..load.plans[index].first_at_once.min(load.plans[index].connections) {
                load.start_next(index, now);
            }
        }
        Ok(load)
    }

    /// Runs for so long.
    ///
    /// # Errors
    /// When this process was asked to end, or epoll fails.
    pub(crate) fn run(&mut self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        self.run_until(|_, now| now >= end, end)
    }

    /// Runs until every client has had an exchange, or the time is over.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(crate) fn run_until_served(&mut self, time: Duration) -> Result<(), String> {
        self.run_until_served_or_stuck(time, time)
    }

    /// The same, but gives up when for so long no further client has had its first exchange.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(crate) fn run_until_served_or_stuck(
        &mut self,
        time: Duration,
        stuck: Duration,
    ) -> Result<(), String> {
        let begin = Instant::now();
        let end = begin + time;
        let progress = Cell::new((0, begin));
        let done = |load: &Self, now: Instant| {
            let served = load.conns.iter().filter(|conn| conn.served).count();
            if served > progress.get().0 {
                progress.set((served, now));
            }
            let waited = now.saturating_duration_since(progress.get().1);
            now >= end || served == load.conns.len() || waited >= stuck
        };
        self.run_until(done, end)
    }

    /// Finishes the exchanges in progress and begins no others until [`Load::resume`]; connections stay open.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(crate) fn pause(&mut self) -> Result<(), String> {
        self.ending = true;
        let end = Instant::now() + PATIENCE;
        self.run_until(|load, now| now >= end || !load.conns.iter().any(is_busy), end)
    }

    /// Goes on after [`Load::pause`], with the next [`Load::run`].
    pub(crate) fn resume(&mut self) {
        self.ending = false;
        let now = Instant::now();
        for index in 0..self.conns.len() {
            let conn = &mut self.conns[index];
            // Those who have never begun wait for their turn still.
            let begun = !self.unstarted[conn.plan].contains(&index);
            if begun && matches!(conn.state, State::Off | State::Idle) && conn.due.is_none() {
                conn.wanted = now;
                self.schedule(index, now);
            }
        }
    }

    /// Finishes the exchanges in progress, then closes all connections.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        self.pause()?;
        for conn in &mut self.conns {
            if is_busy(conn) {
                self.tallies[conn.plan].fail(Failure::TimedOut, "at the end of the load");
            }
            conn.close();
        }
        Ok(())
    }

    /// Begins to count anew; failures stay counted.
    pub(crate) fn clear(&mut self) {
        self.tallies.iter_mut().for_each(Tally::clear);
    }

    /// What each plan has come to, in their order.
    pub(crate) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// The plans, in their order.
    pub(crate) fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.conns.iter().filter(|conn| conn.is_open()).count()
    }

    fn run_until(&mut self, done: impl Fn(&Self, Instant) -> bool, end: Instant) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); EVENTS];
        // The condition may look at every client: not after each event.
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next_look || now >= end {
                if done(self, now) {
                    return Ok(());
                }
                next_look = now + Duration::from_millis(1);
            }
            if now >= self.next_check {
                machine::check_interrupt()?;
                self.check_patience(now);
                self.next_check = now + CHECK_EVERY;
            }
            self.run_due(now);
            let next = self.due.peek().map_or(end, |Reverse((due, _))| (*due).min(end));
            let pause = next.min(self.next_check).min(now + Duration::from_millis(10));
            let pause = pause.saturating_duration_since(now);
            // Rounded up, because it would spin for the last millisecond otherwise.
            let pause = u16::try_from(pause.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(pause)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(format!("epoll: {error}")),
            };
            for event in &events[..count] {
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                self.on_event(index, event.events());
            }
        }
    }

    fn on_event(&mut self, index: usize, flags: EpollFlags) {
        if self.conns[index].state == State::Connecting {
            match self.conns[index].connected() {
                Ok(false) => return,
                Ok(true) => self.on_connected(index),
                Err(wrong) => self.apply(index, Step::Failed(wrong)),
            }
            return;
        }
        // A client whose throttle has yet to release it takes nothing.
        if self.conns[index].state == State::Busy && self.conns[index].due.is_some() {
            return;
        }
        let ended = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        self.advance(index, ended);
    }

    fn advance(&mut self, index: usize, ended: bool) {
        let Self { conns, plans, scratch, .. } = self;
        let conn = &mut conns[index];
        let plan = &plans[conn.plan];
        let sent = conn.send(plan);
        let step = match conn.receive(plan, scratch, ended) {
            Step::Wait => sent,
            step => step,
        };
        self.apply(index, step);
    }

    fn apply(&mut self, index: usize, step: Step) {
        let conn = &mut self.conns[index];
        let plan = &self.plans[conn.plan];
        let tally = &mut self.tallies[conn.plan];
        match step {
            Step::Wait => {}
            Step::Throttled => {
                let every = plan.throttle.map_or(Duration::ZERO, |throttle| throttle.every);
                self.schedule(index, Instant::now() + every);
            }
            Step::Done { keep, told } => {
                let now = Instant::now();
                tally.done += 1;
                let taken = now.saturating_duration_since(conn.started);
                tally.latencies.record(u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX));
                tally.worst_wait = tally.worst_wait.max(now.saturating_duration_since(conn.wanted));
                tally.told_to_close += u64::from(told);
                if !keep {
                    conn.close();
                }
                conn.wanted = now + plan.pause;
                let first = !std::mem::replace(&mut conn.served, true);
                let (plan_index, pause) = (conn.plan, plan.pause);
                if first {
                    self.start_next(plan_index, now);
                }
                if pause.is_zero() { self.go_on(index, now) } else { self.schedule(index, now + pause) }
            }
            Step::ClosedIdle => {
                tally.closed_idle += 1;
                conn.close();
                if conn.due.is_none() {
                    self.schedule(index, Instant::now());
                }
            }
            Step::Failed((failure, detail)) => {
                let long_lived = !matches!(plan.work, Work::Http { .. });
                tally.broken += u64::from(long_lived && conn.served && failure != Failure::Refused);
                tally.fail(failure, &detail);
                conn.close();
                self.schedule(index, Instant::now() + AFTER_FAILURE);
            }
        }
    }

    /// The next exchange, on the connection that there is or a new one.
    fn go_on(&mut self, index: usize, now: Instant) {
        if self.ending {
            return;
        }
        let conn = &mut self.conns[index];
        let plan = &self.plans[conn.plan];
        if conn.is_open() {
            conn.begin(plan, now);
            // What it waits for cannot be there yet, so there is nothing to receive.
            let step = conn.send(plan);
            self.apply(index, step);
            return;
        }
        conn.started = now;
        let added = conn.connect(plan.address).map_err(|error| failure_of(&error)).and_then(|fd| {
            let flags =
                EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            let event = EpollEvent::new(flags, index as u64);
            self.epoll.add(fd, event).map_err(|error| (Failure::Other, format!("epoll: {error}")))
        });
        match added.and_then(|()| self.conns[index].connected()) {
            Ok(true) => self.on_connected(index),
            Ok(false) => {}
            Err(wrong) => self.apply(index, Step::Failed(wrong)),
        }
    }

    fn on_connected(&mut self, index: usize) {
        self.tallies[self.conns[index].plan].connects += 1;
        self.go_on(index, Instant::now());
    }

    fn start_next(&mut self, plan: usize, now: Instant) {
        if let Some(index) = self.unstarted[plan].next() {
            self.conns[index].wanted = now;
            self.schedule(index, now);
        }
    }

    fn schedule(&mut self, index: usize, at: Instant) {
        self.conns[index].due = Some(at);
        self.due.push(Reverse((at, index)));
    }

    fn run_due(&mut self, now: Instant) {
        while let Some(Reverse((at, index))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            // An entry that does not agree with the client is an old one.
            if self.conns[index].due != Some(at) {
                continue;
            }
            self.conns[index].due = None;
            match self.conns[index].state {
                State::Off | State::Idle => self.go_on(index, now),
                State::Busy | State::Ending => self.advance(index, true),
                State::Connecting => {}
            }
        }
    }

    fn check_patience(&mut self, now: Instant) {
        for index in 0..self.conns.len() {
            let conn = &self.conns[index];
            let waiting = matches!(conn.state, State::Connecting | State::Busy | State::Ending);
            if waiting && now.saturating_duration_since(conn.started) > PATIENCE {
                let text = format!("{:?} for {} s", conn.state, PATIENCE.as_secs());
                self.apply(index, Step::Failed((Failure::TimedOut, text)));
            }
        }
    }
}

const fn is_busy(conn: &Conn) -> bool {
    matches!(conn.state, State::Busy | State::Ending | State::Connecting)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_never_answers_is_not_waited_for_to_the_end() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = Plan::new("silent", silent.local_addr().unwrap(), 2, Work::get(100));
        let mut load = Load::new(vec![plan]).unwrap();
        let begin = Instant::now();
        load.run_until_served_or_stuck(Duration::from_secs(60), Duration::from_millis(50)).unwrap();
        let elapsed = begin.elapsed();
        assert!(elapsed >= Duration::from_millis(50) && elapsed < Duration::from_secs(30), "{elapsed:?}");
        assert_eq!((load.tallies()[0].done, load.open()), (0, 2));
    }

    #[test]
    fn a_pause_keeps_connections_and_ends_at_the_will_of_the_caller() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers = std::thread::spawn(move || {
            use std::io::{BufRead as _, BufReader, Write as _};
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut heads = 0;
            for line in lines {
                if line.unwrap().is_empty() {
                    heads += 1;
                    let body = crate::content::body(100);
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").unwrap();
                    stream.write_all(&body).unwrap();
                }
            }
            heads
        });
        let mut load = Load::new(vec![Plan::new("paused", address, 1, Work::get(100))]).unwrap();
        load.run_until_served(Duration::from_secs(10)).unwrap();
        load.pause().unwrap();
        let done = load.tallies()[0].done;
        load.run(Duration::from_millis(30)).unwrap();
        assert_eq!(load.tallies()[0].done, done, "nothing happens during a pause");
        load.resume();
        load.run_until(|load, _| load.tallies()[0].done > done, Instant::now() + PATIENCE).unwrap();
        load.finish().unwrap();
        let tally = load.tallies()[0].clone();
        assert!(tally.done > done);
        assert_eq!((tally.connects, tally.errors()), (1, 0), "{:?}", tally.examples());
        assert_eq!(answers.join().unwrap(), tally.done);
    }
}
