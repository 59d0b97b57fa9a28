//! The processes of Ouro, one generation after the other, as a user or a wrapper would start them: `--restart-epoch N`.
//!
//! A new process says that it has taken over through the interface that service managers have (`NOTIFY_SOCKET`), at the
//! moment of the commit. The old one is waited for as its parent does.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

use super::HandoverMode;
use crate::machine;
use crate::process::{self, Program};

/// How long a process may take to serve, and an old one that hands over to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one may take to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// With live handover, an old process that lives longer is looked at.
const OLD_MAY_LIVE: Duration = Duration::from_secs(1);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// State of a socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Lines of the logs that are shown.
const MAX_LINES: usize = 12;

/// What the processes are started with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) base_id: u32,
    /// Configurations, taken in turns.
    pub(super) configs: Vec<PathBuf>,
    /// Numbers of workers, taken in turns.
    pub(super) workers: Vec<u16>,
    /// CPUs that it may use.
    pub(super) cpus: Vec<usize>,
    pub(super) handover: HandoverMode,
    /// Of drains, seconds.
    pub(super) drain_time_s: u64,
    pub(super) old_lives_s: u64,
    pub(super) log_level: String,
}

/// One restart.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Restart {
    pub(super) epoch: u32,
    pub(super) workers: u16,
    /// Which of the configurations.
    pub(super) configuration: usize,
    /// From the begin of the new program to the moment from which it serves, milliseconds.
    pub(super) exec_to_commit_ms: f64,
    /// From then to the end of the old process, milliseconds; none if it had not ended in the end.
    pub(super) commit_to_exit_ms: Option<f64>,
    /// Memory and descriptors of the new process when the old one was gone.
    pub(super) rss_bytes: u64,
    pub(super) descriptors: usize,
    /// When the new program was started and when it took over.
    #[serde(skip)]
    pub(super) begun: Instant,
    #[serde(skip)]
    pub(super) committed: Instant,
    #[serde(skip)]
    pub(super) ended: Option<Instant>,
}

#[derive(Debug)]
struct Generation {
    epoch: u32,
    child: Child,
    log: PathBuf,
    began: PathBuf,
    replaced: Option<usize>,
    ended: Option<(Instant, ExitStatus)>,
}

/// All generations; dropping ends them.
#[derive(Debug)]
pub(super) struct Generations {
    setup: Setup,
    notify: UnixDatagram,
    notify_name: String,
    list: Vec<Generation>,
    restarts: Vec<Restart>,
    most_alive: usize,
    problems: Vec<String>,
}

impl Generations {
    /// Starts the first one and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn start(setup: Setup) -> Result<Self, String> {
        let notify_name = format!("ouro-bench-{}", std::process::id());
        let socket =
            SocketAddr::from_abstract_name(&notify_name).and_then(|name| UnixDatagram::bind_addr(&name));
        let notify = socket.map_err(|error| format!("socket for notifications: {error}"))?;
        notify.set_read_timeout(Some(LOOK_EVERY)).map_err(|error| format!("socket: {error}"))?;
        let mut generations = Self {
            setup,
            notify,
            notify_name,
            list: Vec::new(),
            restarts: Vec::new(),
            most_alive: 0,
            problems: Vec::new(),
        };
        generations.launch()?;
        generations.wait_for_commit()?;
        Ok(generations)
    }

    /// Restarts: returns when the new process serves and, with live handover, the old one is gone.
    ///
    /// # Errors
    /// When the new one does not take over, or this process was asked to end.
    pub(super) fn restart(&mut self, overlap: bool) -> Result<(), String> {
        let old = self.list.len() - 1;
        let begun = Instant::now();
        self.launch()?;
        let committed = self.wait_for_commit()?;
        let new = self.list.len() - 1;
        let began = self.began_at(new).unwrap_or(begun);
        self.list[old].replaced = Some(self.restarts.len());
        let (workers, configuration) = self.turn(self.list[new].epoch);
        self.restarts.push(Restart {
            epoch: self.list[new].epoch,
            workers,
            configuration,
            exec_to_commit_ms: milliseconds(committed.saturating_duration_since(began)),
            commit_to_exit_ms: None,
            rss_bytes: 0,
            descriptors: 0,
            begun,
            committed,
            ended: None,
        });
        if self.setup.handover == HandoverMode::Live && !overlap {
            let end = Instant::now() + PATIENCE;
            let mut late = Some(committed + OLD_MAY_LIVE);
            while self.list[old].ended.is_none() {
                self.look()?;
                if late.take_if(|late| Instant::now() > *late).is_some() {
                    let text = describe(pid_of(&self.list[old].child));
                    self.problems.push(format!(
                        "restart to epoch {}: {} ms after the commit the old process still has {text}",
                        self.list[new].epoch,
                        OLD_MAY_LIVE.as_millis()
                    ));
                }
                if Instant::now() > end {
                    let text = format!("the old process lives {} s after the commit", PATIENCE.as_secs());
                    self.problems.push(format!("restart to epoch {}: {text}", self.list[new].epoch));
                    break;
                }
            }
        }
        let (rss_bytes, descriptors) = self.weigh();
        if let Some(restart) = self.restarts.last_mut() {
            (restart.rss_bytes, restart.descriptors) = (rss_bytes, descriptors);
        }
        Ok(())
    }

    /// Lets time pass, looking after the processes.
    ///
    /// # Errors
    /// When the newest process has ended, or this process was asked to end.
    pub(super) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look()?;
        }
        Ok(())
    }

    /// Memory and descriptors of the newest process.
    pub(super) fn weigh(&self) -> (u64, usize) {
        let Some(newest) = self.list.last() else { return (0, 0) };
        let pid = pid_of(&newest.child);
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        (process::rss(&[pid]), descriptors)
    }

    /// What has become of each restart.
    pub(super) fn restarts(&self) -> &[Restart] {
        &self.restarts
    }

    /// Most processes that were alive at once.
    pub(super) const fn most_alive(&self) -> usize {
        self.most_alive
    }

    /// Processes that are alive.
    pub(super) fn alive(&self) -> usize {
        self.list.iter().filter(|generation| generation.ended.is_none()).count()
    }

    /// Ends the newest one as an administrator does, and says what was wrong in all the time.
    ///
    /// # Errors
    /// When this process was asked to end.
    pub(super) fn finish(&mut self) -> Result<Vec<String>, String> {
        for round in 0.. {
            let living: Vec<i32> = self.living().map(|generation| pid_of(&generation.child)).collect();
            let Some(newest) = living.last().copied() else { break };
            if round > 0 {
                self.problems.push(format!("process {newest} did not end on SIGTERM"));
            }
            let signal = if round == 0 { Signal::SIGTERM } else { Signal::SIGKILL };
            let chosen = if round == 0 { vec![newest] } else { living };
            for pid in chosen {
                // It may be gone already, which is what is wanted.
                let _ = kill(Pid::from_raw(pid), signal);
            }
            let end = Instant::now() + END_PATIENCE;
            while self.alive() > 0 && Instant::now() < end {
                machine::check_interrupt()?;
                self.reap();
                std::thread::sleep(LOOK_EVERY);
            }
        }
        for generation in &self.list {
            if let Some((_, status)) = generation.ended.filter(|(_, status)| !status.success()) {
                self.problems.push(format!("the process with epoch {} ended, {status}", generation.epoch));
            }
        }
        if !self.sockets().is_empty() {
            self.problems
                .push(format!("left behind in the restart directory: {}", self.sockets().join(", ")));
        }
        Ok(std::mem::take(&mut self.problems))
    }

    /// Restart sockets in the directory of this run.
    pub(super) fn sockets(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.setup.folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(".sock")).collect()
    }

    /// What the processes wrote to their logs, warnings and errors; the number of lines and the first of them.
    pub(super) fn log_lines(&self) -> (usize, Vec<String>) {
        let texts = self.list.iter().map(|generation| {
            let text = std::fs::read_to_string(&generation.log).unwrap_or_default();
            text.lines().map(|line| format!("epoch {}: {line}", generation.epoch)).collect::<Vec<_>>()
        });
        let mut lines: Vec<String> = texts.flatten().collect();
        let number = lines.len();
        lines.truncate(MAX_LINES);
        (number, lines)
    }

    /// Copies the logs into a folder, one file for each epoch.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn keep_logs(&self, folder: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(folder).map_err(failed)?;
        for generation in &self.list {
            std::fs::copy(&generation.log, folder.join(format!("{}.log", generation.epoch)))
                .map_err(failed)?;
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), String> {
        let epoch = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let (workers, configuration) = self.turn(epoch);
        let Setup { program, folder, base_id, configs, cpus, drain_time_s, old_lives_s, log_level, .. } =
            &self.setup;
        let handover = match self.setup.handover {
            HandoverMode::Live => "live",
            HandoverMode::Drain => "drain",
        };
        let mut line =
            format!("--concurrency {workers} -l {log_level} --base-id {base_id} --restart-epoch {epoch}");
        // A string takes everything.
        let _ = write!(line, " --handover {handover} --parent-shutdown-time-s {old_lives_s}");
        let _ = write!(line, " --drain-time-s {drain_time_s} --drain-strategy immediate -c");
        let mut argv = vec![program.clone().into_os_string(), "--socket-path".into()];
        argv.push(folder.join("restart").into_os_string());
        argv.extend(line.split(' ').map(OsString::from));
        argv.push(configs[configuration].clone().into_os_string());
        let mut program = Program::new(argv, cpus);
        program.env.push(("NOTIFY_SOCKET", format!("@{}", self.notify_name)));
        let (log, began) = (folder.join(format!("{epoch}.log")), folder.join(format!("{epoch}.began")));
        let child = process::spawn(&program, folder, &log, Some(&began))?;
        self.list.push(Generation { epoch, child, log, began, replaced: None, ended: None });
        self.most_alive = self.most_alive.max(self.alive());
        Ok(())
    }

    /// Workers and configuration of a generation.
    fn turn(&self, epoch: u32) -> (u16, usize) {
        let turn = usize::try_from(epoch).unwrap_or_default();
        (self.setup.workers[turn % self.setup.workers.len()], turn % self.setup.configs.len())
    }

    fn wait_for_commit(&mut self) -> Result<Instant, String> {
        let newest = self.list.len() - 1;
        let pid = pid_of(&self.list[newest].child);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some((ready, at)) = self.look()? {
                if ready == pid {
                    return Ok(at);
                }
                return Err(format!("the successor {pid} has failed: {}", self.tail(newest)));
            }
        }
        Err(format!("process {pid} does not serve after {} s: {}", PATIENCE.as_secs(), self.tail(newest)))
    }

    /// Waits a moment for a message. Returns who says that it serves now, and when.
    fn look(&mut self) -> Result<Option<(i32, Instant)>, String> {
        machine::check_interrupt()?;
        let mut buffer = [0; 1024];
        let received = self.notify.recv(&mut buffer);
        let at = Instant::now();
        self.reap();
        let newest = self.list.len() - 1;
        if let Some((_, status)) = self.list[newest].ended {
            return Err(format!("the newest process ended, {status}: {}", self.tail(newest)));
        }
        let Ok(count) = received else { return Ok(None) };
        let text = String::from_utf8_lossy(&buffer[..count]);
        let pid = text.lines().find_map(|line| line.strip_prefix("MAINPID=")?.parse().ok());
        let ready = text.lines().any(|line| line == "READY=1");
        Ok(pid.filter(|_| ready).map(|pid| (pid, at)))
    }

    fn reap(&mut self) {
        let now = Instant::now();
        for generation in self.list.iter_mut().filter(|generation| generation.ended.is_none()) {
            if let Ok(Some(status)) = generation.child.try_wait() {
                generation.ended = Some((now, status));
                if let Some(restart) = generation.replaced.and_then(|index| self.restarts.get_mut(index)) {
                    let lived = now.saturating_duration_since(restart.committed);
                    restart.commit_to_exit_ms = Some(milliseconds(lived));
                    restart.ended = Some(now);
                }
            }
        }
        // One that ended before its replacement was noted.
        for generation in &self.list {
            if let (Some((at, _)), Some(index)) = (generation.ended, generation.replaced)
                && let Some(restart) = self.restarts.get_mut(index).filter(|restart| restart.ended.is_none())
            {
                let lived = at.saturating_duration_since(restart.committed);
                restart.commit_to_exit_ms = Some(milliseconds(lived));
                restart.ended = Some(at);
            }
        }
    }

    fn living(&self) -> impl Iterator<Item = &Generation> {
        self.list.iter().filter(|generation| generation.ended.is_none())
    }

    /// When the program of a generation began: its wrapper has written it down.
    fn began_at(&self, index: usize) -> Option<Instant> {
        let text = std::fs::read_to_string(&self.list[index].began).ok()?;
        let began = Duration::from_nanos(text.trim().parse().ok()?);
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
        Instant::now().checked_sub(now.checked_sub(began)?)
    }

    fn tail(&self, index: usize) -> String {
        let text = std::fs::read_to_string(&self.list[index].log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(MAX_LINES)..].join("\n")
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        for generation in self.list.iter_mut().rev().filter(|generation| generation.ended.is_none()) {
            // It may be gone already, which is what is wanted.
            let _ = generation.child.kill();
            let _ = generation.child.wait();
        }
        // What was counted is read by now.
        let _ = ouro_shm::Segment::unlink(self.setup.base_id);
    }
}

/// The connections that a process has open, with what lies in their queues (to send:received, hexadecimal).
fn describe(pid: i32) -> String {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    let inodes: Vec<String> = targets
        .filter_map(|target| {
            Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = |field: &str| {
        field.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok()).unwrap_or_default()
    };
    let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let (Some(own), Some(peer), Some(state), Some(queues), Some(inode)) =
            (fields.get(1), fields.get(2), fields.get(3), fields.get(4), fields.get(9))
            && inodes.iter().any(|known| known == inode)
        {
            if *state == LISTENING {
                listeners.push(port(own));
                continue;
            }
            sockets
                .push((port(own), format!("{} to {} state {state} queues {queues}", port(own), port(peer))));
        }
    }
    // Those of clients first: the others are there for them.
    sockets.sort_by_key(|(port, _)| !listeners.contains(port));
    let number = sockets.len();
    sockets.truncate(MAX_LINES);
    let texts: Vec<String> = sockets.into_iter().map(|(_, text)| text).collect();
    format!("{number} TCP connections: {}", texts.join(", "))
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A base id that no other run on this machine has now.
pub(super) fn base_id() -> u32 {
    std::process::id() % 30_000 + 1
}

/// Segments of a base id in shared memory.
pub(super) fn segments(base_id: u32) -> usize {
    let name = ouro_shm::segment_name(base_id);
    let name = name.trim_start_matches('/');
    let entries = std::fs::read_dir(Path::new("/dev/shm")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(name)).count()
}
