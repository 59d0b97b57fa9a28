//! The process from its first look at the others of its instance to its end.
//!
//! One loop on the control thread reacts to everything: frames of other processes, signals, the admin interface, workers,
//! the end of a successor. What a restart means for the process comes as [`Todo`]s.

use std::time::Duration;

use ouro_restart::message::{DrainListeners, RestartRequest};
use ouro_restart::parent::PeerId;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::counting::{self, Before};
use super::link::{Link, Todo};
use super::listen::Passed;
use super::notify;
use super::peers::Operator;
use super::running::{Prepared, Running};
use super::successor::{self, CommandLine, Launch, Successor};
use super::workers::Event;
use super::{DONE, DrainStrategy, FAILED, Surroundings, after, fail};
use crate::control::access_log::Job;
use crate::control::admin::Command;
use crate::control::logging::LogFile;
use crate::worker::Message;

/// How often a process that drains looks how many connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// How often a process looks into its queues itself while another one may get the kernel's word of connections.
const QUEUE_LOOK: Duration = Duration::from_millis(20);

/// How often a process to which no other one speaks looks whether the instance has been stopped.
const AROUND_LOOK: Duration = Duration::from_millis(100);

/// How much longer it waits when somebody has answered who is not to be seen in the segment.
const ANSWERED_LOOK: Duration = Duration::from_secs(5);

/// How often it tells the process after it.
const DRAIN_REPORT: Duration = Duration::from_secs(1);

/// What is left when a process has to end gets so long for its last bytes.
const LAST_WORDS_MS: u64 = 1_000;

/// The signals that mean something.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    restart: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            restart: signal(SignalKind::hangup())?,
        })
    }
}

/// What has woken the loop.
enum Wake {
    Link,
    Worker(Option<Event>),
    Command(Command),
    Stop,
    Restart,
    Reopen,
    Deadline,
    Look,
    SuccessorFailed(String),
    Queues,
}

/// See the module.
pub(super) struct Process<'a> {
    surroundings: &'a Surroundings<'a>,
    log_file: &'a LogFile,
    command_line: CommandLine,
    signals: Signals,
    /// `None` where there are no hot restarts.
    link: Option<Link>,
    running: Option<Running>,
    successor: Option<Successor>,
    epoch: u32,
    /// Workers that run, and workers that have not yet said that they have stopped accepting.
    alive: usize,
    pausing: usize,
    /// What workers have not yet said: that the listeners that are given up are closed, and that their pools have moved.
    releasing: usize,
    /// Connections are ended; when the other process was last told how many are left.
    draining: Option<Instant>,
    /// Over which time clients are told to come back elsewhere, once all has moved that can.
    farewell_ms: Option<u64>,
    /// No other process speaks to this one, which drains: when it last looked whether there is one.
    is_orphaned: bool,
    looked_around: Instant,
    /// Connections at the commit.
    at_commit: u64,
    /// When this process ends although connections are left, once it has been replaced.
    shutdown_at: Option<Instant>,
    /// This process has failed and ends; workers that have stopped accepting.
    failing: bool,
    failed_workers: usize,
    /// The process has been told to stop.
    stopping: bool,
    /// When to look into the queues of listening sockets.
    queue_look: Option<Instant>,
    /// When what is in flight is cut off.
    deadline: Option<Instant>,
    code: u8,
}

impl<'a> Process<'a> {
    pub(super) fn new(
        surroundings: &'a Surroundings<'a>,
        log_file: &'a LogFile,
        command_line: CommandLine,
        signals: Signals,
        link: Option<Link>,
    ) -> Self {
        Self {
            surroundings,
            log_file,
            command_line,
            signals,
            link,
            running: None,
            successor: None,
            epoch: 0,
            alive: 0,
            pausing: 0,
            releasing: 0,
            draining: None,
            farewell_ms: None,
            is_orphaned: false,
            looked_around: Instant::now(),
            at_commit: 0,
            shutdown_at: None,
            failing: false,
            failed_workers: 0,
            stopping: false,
            queue_look: None,
            deadline: None,
            code: DONE,
        }
    }

    /// Runs to the end; the exit code.
    pub(super) async fn run(mut self) -> u8 {
        if self.link.is_none() {
            match self.prepare(0, Before::Nobody, Vec::new()).await {
                Ok(_) => self.take_over(0),
                Err(error) => return fail(&error),
            }
        }
        loop {
            while let Some(todo) = self.next_todo() {
                if let Some(code) = self.act(todo).await {
                    return code;
                }
            }
            if self.running.is_some() && self.alive == 0 {
                break;
            }
            self.mind_the_queues();
            let wake = self.wake().await;
            if let Some(code) = self.react(wake).await {
                return code;
            }
        }
        if let Some(successor) = self.successor.take() {
            successor.report(self.epoch, Err("the process that was to be replaced has ended"));
        }
        if let Some(running) = self.running.take() {
            running.end().await;
        }
        self.code
    }

    fn next_todo(&mut self) -> Option<Todo> {
        let link = self.link.as_mut()?;
        link.turn();
        link.next()
    }

    /// While another process may be told of connections instead of this one, they are found by looking.
    fn mind_the_queues(&mut self) {
        let serves = self.running.is_some() && self.shutdown_at.is_none() && !self.stopping && !self.failing;
        let Some(link) = &mut self.link else { return };
        if !(serves && self.pausing == 0 && link.may_be_unheard()) {
            self.queue_look = None;
        } else if self.queue_look.is_none() {
            self.queue_look = Some(Instant::now() + QUEUE_LOOK);
        }
    }

    async fn wake(&mut self) -> Wake {
        let Self { link, running, signals, successor, draining, deadline, queue_look, .. } = self;
        let linked = async {
            match link {
                Some(link) => link.ready().await,
                None => std::future::pending().await,
            }
        };
        let internal = async {
            match running {
                Some(running) => tokio::select! {
                    event = running.events.recv() => Wake::Worker(event),
                    Some(command) = running.desk.commands.recv() => Wake::Command(command),
                },
                None => std::future::pending().await,
            }
        };
        let failed = async {
            match successor {
                Some(successor) => successor.failed().await,
                None => std::future::pending().await,
            }
        };
        let look = draining.map(|_| Instant::now() + DRAIN_LOOK);
        tokio::select! {
            () = linked => Wake::Link,
            wake = internal => wake,
            _ = signals.terminate.recv() => Wake::Stop,
            _ = signals.interrupt.recv() => Wake::Stop,
            _ = signals.restart.recv() => Wake::Restart,
            _ = signals.reopen.recv() => Wake::Reopen,
            why = failed => Wake::SuccessorFailed(why),
            () = at(*deadline) => Wake::Deadline,
            () = at(look) => Wake::Look,
            () = at(*queue_look) => Wake::Queues,
        }
    }

    /// Reacts; the exit code where that is all.
    async fn react(&mut self, wake: Wake) -> Option<u8> {
        match wake {
            Wake::Link => {}
            Wake::Worker(event) => return self.on_worker(event),
            Wake::Command(command) => {
                if self.obey(command) {
                    return self.stop();
                }
            }
            Wake::Stop => return self.stop(),
            Wake::Restart => self.start_successor(None, None),
            Wake::Reopen => {
                if let Err(error) = self.log_file.reopen() {
                    tracing::error!(%error, "the log file was not reopened");
                }
                let _ = self.surroundings.jobs.send(Job::Reopen).await;
            }
            Wake::Deadline => {
                tracing::warn!("what is still in flight is cut off");
                self.tell(|| Message::Stop);
                self.deadline = None;
            }
            Wake::Look => {
                if self.instance_has_ended() {
                    tracing::info!("the process that serves was stopped, and this one ends with it");
                    return self.stop();
                }
                self.look();
            }
            Wake::SuccessorFailed(why) => {
                // What it has said itself came before its end, and is a better reason.
                while let Some(todo) = self.next_todo() {
                    if let Some(code) = self.act(todo).await {
                        return Some(code);
                    }
                }
                if self.successor.is_some() {
                    self.on_successor_failed(&why);
                }
            }
            Wake::Queues => {
                self.tell(|| Message::Look);
                self.queue_look = None;
            }
        }
        None
    }

    fn on_worker(&mut self, event: Option<Event>) -> Option<u8> {
        match event {
            Some(Event::Ended(result)) => {
                self.alive = self.alive.saturating_sub(1);
                if let Err(error) = result {
                    self.code = fail(&error);
                    self.tell(|| Message::Stop);
                }
            }
            Some(Event::Paused) if self.failing => {
                self.failed_workers += 1;
                if self.failed_workers >= self.alive {
                    self.draining = Some(Instant::now());
                    self.look();
                }
            }
            Some(Event::Paused) if self.pausing > 0 => {
                self.pausing -= 1;
                if self.pausing == 0 {
                    let left = self.connections();
                    if let Some(link) = &mut self.link {
                        link.accept_stopped(left);
                    }
                }
            }
            Some(Event::Released) => {
                self.releasing = self.releasing.saturating_sub(1);
                self.look();
            }
            Some(Event::Ready | Event::Paused) => {}
            None => return Some(fail("all workers are gone")),
        }
        None
    }

    /// Does what a restart asks for; the exit code where that is the end.
    async fn act(&mut self, todo: Todo) -> Option<u8> {
        match todo {
            Todo::Prepare { epoch, before } => {
                let inherited = self.link.as_mut().map(Link::take_inherited).unwrap_or_default();
                match self.prepare(epoch, before, inherited).await {
                    Ok(released) => {
                        let workers = u32::try_from(self.alive).unwrap_or(u32::MAX);
                        if let Some(link) = &mut self.link {
                            link.accepting(workers, released);
                        }
                    }
                    Err(why) => {
                        if let Some(link) = &mut self.link {
                            link.failed(why);
                        }
                    }
                }
            }
            Todo::TakeOver { epoch } => {
                self.take_over(epoch);
                // Of what came last, the kernel may have told a parent that was killed.
                self.tell(|| Message::Look);
            }
            Todo::StopAccepting { pid } => {
                tracing::info!("another process serves from here on");
                self.pausing = self.alive;
                if let Some(running) = &mut self.running {
                    running.stand_back();
                }
                if let Some(successor) = self.successor.take() {
                    let other =
                        format!("process {pid}, which was not started for this, has taken over first");
                    let outcome = if successor.is(pid) { Ok(()) } else { Err(&*other) };
                    successor.report(self.epoch.saturating_add(1), outcome);
                }
            }
            Todo::ResumeAccepting => {
                tracing::warn!("this process serves again");
                (self.draining, self.pausing, self.releasing) = (None, 0, 0);
                self.shutdown_at = None;
                self.farewell_ms = None;
                if let Some(running) = &mut self.running {
                    running.resume(self.surroundings);
                }
                if !self.stopping {
                    notify::ready("serves again: the successor has failed");
                }
            }
            Todo::CloseListeners => {
                self.is_orphaned = true;
                if let Some(running) = &mut self.running {
                    running.close_listeners();
                }
            }
            Todo::BeginDrain { drain, live } => self.begin_drain(drain, live),
            Todo::TakeParcels { worker, channel } => {
                if let Some(running) = &self.running {
                    running.workers.tell_one(worker as usize, Message::TakeParcels(channel));
                }
            }
            Todo::AttemptFailed { pid, why } => {
                if self.draining.is_none() && self.pausing == 0 {
                    self.tell(|| Message::Look);
                }
                // Whoever waits for a report waits for that of his own.
                if self.successor.as_ref().is_none_or(|successor| successor.is(pid)) {
                    self.on_successor_failed(&why);
                } else {
                    tracing::error!(pid, "another process has failed to take over: {why}");
                }
            }
            Todo::Exit { why, cut } => {
                tracing::info!(why, connections = cut, "this process has been replaced and ends");
                self.draining = None;
                // One that is stopped before its time lets requests finish like any other, and passes it on.
                if let (1.., Some(link)) = (cut, &mut self.link)
                    && self.shutdown_at.is_some_and(|at| Instant::now() < at)
                    && !self.stopping
                {
                    link.stopping_elder();
                }
                let rest = self
                    .shutdown_at
                    .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
                let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
                let timeout_ms = self.surroundings.model.server.shutdown_timeout_ms;
                self.end_soon(rest_ms.min(timeout_ms).max(LAST_WORDS_MS));
            }
            Todo::Fail { why } => {
                self.code = fail(&why);
                let Some(running) = &mut self.running else { return Some(FAILED) };
                // What this process has accepted it serves; the queues are another's, who may not even know of what
                // the kernel has told this one about.
                running.stand_back();
                running.workers.tell(|| Message::Farewell(Some(0)));
                self.failing = true;
                self.deadline = Some(after(self.surroundings.model.server.shutdown_timeout_ms));
            }
            Todo::TakeTotals(blobs) => {
                if let Some(running) = &self.running {
                    running.counting.take_totals(&blobs);
                }
            }
            Todo::Restart(request, operator) => self.start_successor(Some(request), Some(operator)),
        }
        None
    }

    async fn prepare(
        &mut self,
        epoch: u32,
        before: Before,
        inherited: Vec<Passed>,
    ) -> Result<Vec<String>, String> {
        let mut opened = counting::open(self.surroundings.place, before).await?;
        opened.after_a_death |= self.link.as_mut().is_some_and(Link::may_be_unheard);
        let Prepared { running, offered, released } =
            Running::prepare(self.surroundings, opened, epoch, inherited).await?;
        self.alive = running.workers.len();
        self.running = Some(running);
        if let Some(link) = &mut self.link {
            link.offer(offered);
            if let Some(running) = &self.running {
                link.set_segment(running.counting.segment().clone());
            }
        }
        Ok(released)
    }

    fn take_over(&mut self, epoch: u32) {
        self.epoch = epoch;
        if let Some(running) = &mut self.running {
            running.serve(self.surroundings);
            running.counting.count_start();
        }
        let base_id = self.surroundings.base_id;
        tracing::info!(pid = std::process::id(), base_id, epoch, "ready");
        notify::ready(&format!("restart epoch {epoch} serves"));
    }

    /// Starts a successor of this process, unless one is on its way.
    fn start_successor(&mut self, request: Option<RestartRequest>, operator: Option<Operator>) {
        let refusal = if self.link.is_none() {
            Some("hot restarts are switched off (--disable-hot-restart)")
        } else if std::process::id() == 1 {
            Some("this is process 1 of its container, which would end with it: run it under hot-restarter.py")
        } else if std::env::var_os("RESTART_EPOCH").is_some() {
            // The script would see its child end, and not know of the successor.
            Some(
                "this process was started by a restart script (RESTART_EPOCH is set): send SIGHUP to that one",
            )
        } else if self.stopping || self.draining.is_some() || self.running.is_none() {
            Some("this process is not the one that serves")
        } else if self.successor.is_some() {
            Some("a successor is on its way already")
        } else {
            None
        };
        if let Some(why) = refusal {
            tracing::warn!(why, "no restart");
            return successor::refuse(operator, why);
        }
        notify::reloading();
        let arguments = request.filter(|request| request.replaces_arguments).map(|request| request.arguments);
        let Surroundings { options, base_id, .. } = self.surroundings;
        let socket_path = options.restart.socket_path.as_deref();
        let started = Launch::new(&self.command_line, arguments, *base_id, socket_path);
        match started.and_then(Successor::start) {
            Ok(mut successor) => {
                successor.tell(operator);
                self.successor = Some(successor);
            }
            Err(why) => {
                tracing::error!("no restart: {why}");
                successor::refuse(operator, &why);
                notify::ready("serves on: a restart was refused");
            }
        }
    }

    /// Connections move to the next process, or end in their own time.
    fn begin_drain(&mut self, drain: DrainListeners, live: Option<PeerId>) {
        let (Some(running), Some(link)) = (&self.running, &mut self.link) else { return };
        self.at_commit = running.workers.connections() as u64;
        if !drain.released.is_empty() {
            link.withdraw(&drain.released);
            self.releasing = self.alive;
        }
        running.release(drain.released);
        let mut moving = live.is_some();
        for worker in 0..running.workers.len() {
            let number = u32::try_from(worker).unwrap_or(u32::MAX);
            match live.and_then(|peer| link.open_channel(peer, number)) {
                Some(channel) => {
                    running.workers.tell_one(worker, Message::HandOver(Box::new(channel)));
                    self.releasing += 1;
                }
                None => moving = false,
            }
        }
        if moving {
            self.farewell_ms = Some(drain.drain_ms);
        } else {
            running.workers.tell(|| Message::Farewell(Some(drain.drain_ms)));
        }
        self.draining = Some(Instant::now());
        self.shutdown_at = Some(after(drain.parent_shutdown_ms));
        self.look();
    }

    fn on_successor_failed(&mut self, why: &str) {
        tracing::error!("the successor has failed; this process serves on: {why}");
        if let Some(successor) = self.successor.take() {
            successor.report(self.epoch.saturating_add(1), Err(why));
        }
        if !self.stopping {
            notify::ready("serves on: the successor has failed");
        }
    }

    /// Whether the process that serves has been stopped, if it could not say so to this one.
    fn instance_has_ended(&mut self) -> bool {
        if !self.is_orphaned || self.stopping || self.looked_around.elapsed() < AROUND_LOOK {
            return false;
        }
        self.looked_around = Instant::now();
        let seems_so = self.running.as_ref().is_some_and(|running| running.counting.instance_has_ended());
        // Who serves may count elsewhere.
        let is_answered = seems_so && self.link.as_ref().is_some_and(Link::is_answered);
        if is_answered {
            self.looked_around += ANSWERED_LOOK;
        }
        seems_so && !is_answered
    }

    /// Looks how many connections are left.
    fn look(&mut self) {
        let left = self.connections();
        let (Some(link), Some(reported)) = (&mut self.link, &mut self.draining) else { return };
        if left == 0 && self.releasing == 0 && (self.failing || !link.must_stay()) {
            self.draining = None;
            if self.failing {
                return self.end_soon(LAST_WORDS_MS);
            }
            link.drained(self.at_commit);
        } else if reported.elapsed() >= DRAIN_REPORT {
            *reported = Instant::now();
            link.connections_left(left);
            // What has not moved in this time stays, and only then may its clients be told to close.
            if let Some(over_ms) = self.farewell_ms.take() {
                // Whoever reads the line may rely on it.
                self.tell(|| Message::Farewell(Some(over_ms)));
                tracing::info!(connections = left, "connections stay: they end in their own time");
            }
        }
    }

    /// Carries out what the admin interface asks for. Says whether the process is to stop.
    fn obey(&mut self, command: Command) -> bool {
        let Some(running) = &self.running else { return false };
        match command {
            Command::DrainListeners { graceful, done } => {
                if let Some(link) = &mut self.link {
                    // A socket that a copy of keeps open would take connections that nobody serves.
                    link.offer(Vec::new());
                }
                running.workers.tell(|| Message::StopAccepting);
                if graceful {
                    running.workers.tell(|| Message::Farewell(Some(0)));
                }
                running.set_draining();
                let _ = done.send(Ok(()));
            }
            // The interface has changed what it answers; nothing else depends on it.
            Command::HealthcheckFail | Command::HealthcheckOk => {}
            Command::SetLogLevel { level, done } => {
                let _ = done.send(self.log_file.set_level(level));
            }
            Command::ResetCounters { done } => {
                let segment = running.counting.segment().clone();
                tokio::task::spawn_blocking(move || {
                    let _ = done.send(segment.reset_counters().map_err(|error| error.to_string()));
                });
            }
            Command::Quit => return true,
        }
        false
    }

    /// Stops: what is in flight first, at once the second time. The exit code where nothing runs yet.
    fn stop(&mut self) -> Option<u8> {
        if self.stopping {
            tracing::info!("stopping at once");
            self.tell(|| Message::Stop);
            return None;
        }
        self.stopping = true;
        notify::stopping();
        if let Some(successor) = self.successor.take() {
            // It would find nobody any more, and start cold.
            successor.stop();
            successor
                .report(self.epoch.saturating_add(1), Err("the process that was to be replaced is stopped"));
        }
        if let Some(link) = &mut self.link {
            link.stopping();
        }
        if self.running.is_none() {
            tracing::info!("stopped before anything was begun");
            return Some(DONE);
        }
        let timeout_ms = self.surroundings.model.server.shutdown_timeout_ms;
        tracing::info!(timeout_ms, "finishing what is in flight");
        self.end_soon(timeout_ms);
        None
    }

    /// Ends connections decently, and cuts off what is left after this time.
    fn end_soon(&mut self, timeout_ms: u64) {
        if let Some(link) = &mut self.link {
            // Queues are emptied by the workers, and the sockets closed by whoever has them last.
            link.offer(Vec::new());
        }
        if let Some(running) = &self.running {
            running.set_draining();
        }
        self.tell(|| Message::Drain);
        self.deadline = Some(after(timeout_ms));
    }

    fn connections(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.workers.connections() as u64)
    }

    fn tell(&self, message: impl Fn() -> Message) {
        if let Some(running) = &self.running {
            running.workers.tell(message);
        }
    }
}

/// How long a process drains according to its options.
pub(super) const fn drain_ms(strategy: DrainStrategy, drain_time_s: u64) -> u64 {
    match strategy {
        DrainStrategy::Gradual => drain_time_s.saturating_mul(1000),
        DrainStrategy::Immediate => 0,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
