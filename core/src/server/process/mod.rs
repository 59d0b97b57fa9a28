//! The process from its first look at the others of its instance to its end.
//!
//! One loop on the control thread reacts to everything: frames of other processes, signals, the admin interface, workers,
//! the end of a successor. What a restart means for the process comes as [`Todo`]s.

mod ending;
mod restarting;

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::counting::Before;
use super::course::{Course, Paused};
use super::link::{Link, Todo};
use super::running::Running;
use super::state::Runtime;
use super::successor::{CommandLine, Successor};
use super::workers::Event;
use super::{DONE, DrainStrategy, Surroundings, fail};
use crate::base::clock::Millis;
use crate::control::access_log::Job;
use crate::control::admin::Command;
use crate::control::logging::LogFile;
use crate::worker::Message;

/// How often a process that drains looks how many connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// How often a process to which no other one speaks looks whether the instance has been stopped.
const AROUND_LOOK: Duration = Duration::from_millis(100);

/// How much longer it waits when somebody has answered who is not to be seen in the segment.
const ANSWERED_LOOK: Duration = Duration::from_secs(5);

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
    /// A successor that was started here when the process with this id took over, of which nobody has been told yet.
    replacement: Option<(Successor, u32)>,
    epoch: u32,
    /// What operators have changed.
    runtime: Runtime,
    /// The clock of `course` begins here.
    started: Instant,
    course: Course,
    /// No other process speaks to this one, which drains: when it last looked whether there is one.
    is_orphaned: bool,
    looked_around: Instant,
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
            replacement: None,
            epoch: 0,
            runtime: Runtime::new(surroundings.options.log_level),
            started: Instant::now(),
            course: Course::default(),
            is_orphaned: false,
            looked_around: Instant::now(),
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
            if self.running.is_some() && self.course.alive() == 0 {
                break;
            }
            self.mind_the_queues();
            let wake = self.wake().await;
            if let Some(code) = self.react(wake).await {
                return code;
            }
        }
        self.report_replacement(None);
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
        let now = self.now();
        if let (Some(_), Some(link)) = (&self.running, &mut self.link) {
            self.course.mind_the_queues(now, link.may_be_unheard());
        }
    }

    /// Milliseconds of the clock of `course`.
    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn wake(&mut self) -> Wake {
        let queue_look = self.course.queue_look().map(|at| self.started + Duration::from_millis(at));
        let Self { link, running, signals, successor, course, deadline, .. } = self;
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
        let look = course.is_draining().then(|| Instant::now() + DRAIN_LOOK);
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
            () = at(queue_look) => Wake::Queues,
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
                self.course.looks_into_queues();
            }
        }
        None
    }

    fn on_worker(&mut self, event: Option<Event>) -> Option<u8> {
        match event {
            Some(Event::Ended(result)) => {
                self.course.worker_ended();
                if let Err(error) = result {
                    self.code = fail(&error);
                    self.tell(|| Message::Stop);
                }
            }
            Some(Event::Paused) => match self.course.paused(self.now()) {
                Paused::Nothing => {}
                Paused::Failed => self.look(),
                Paused::All => {
                    let left = self.connections();
                    if let Some(link) = &mut self.link {
                        link.accept_stopped(left);
                    }
                }
            },
            Some(Event::Released) => {
                self.course.released();
                self.look();
            }
            Some(Event::Ready) => {}
            None => return Some(fail("all workers are gone")),
        }
        None
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
            Command::HealthcheckFail | Command::HealthcheckOk => {
                self.runtime.healthcheck_failed = matches!(command, Command::HealthcheckFail);
                self.runtime_has_changed();
            }
            Command::SetLogLevel { level, done } => {
                let _ = done.send(self.log_file.set_level(level));
                self.runtime.set_level(level);
                self.runtime_has_changed();
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

    /// Does what operators have asked this process for, or the one before; the next one is told.
    fn runtime_has_changed(&mut self) {
        if let Some(level) = self.runtime.level()
            && let Err(error) = self.log_file.set_level(level)
        {
            tracing::warn!("the log level stays: {error}");
        }
        if let Some(running) = &self.running {
            running.desk.status.set_healthcheck_failed(self.runtime.healthcheck_failed);
        }
        if let Some(link) = &mut self.link {
            link.set_state(self.runtime.blobs());
        }
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
