//! How each peer is restarted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine;
use crate::peers::{self, Found, Setting, Shape, Subject, Values, nginx_argv};
use crate::process::{POLL, Process, Program};

/// How long a daemon may take to write its process id.
const DAEMON_PATIENCE: Duration = Duration::from_secs(5);

/// A way to restart a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Ouro's hot restart: connections move.
    Ouro,
    /// Ouro's hot restart with `--handover drain`.
    OuroDrain,
    /// nginx: SIGHUP, new workers from the same program.
    NginxHup,
    /// nginx: SIGUSR2 and SIGQUIT, a new program.
    NginxUsr2,
    /// HAProxy: `-sf` with `-x`.
    Haproxy,
    /// Envoy: `--restart-epoch`.
    Envoy,
    /// Sozu: `sozu upgrade`.
    Sozu,
}

impl Way {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 7] = [
        Self::Ouro,
        Self::OuroDrain,
        Self::NginxHup,
        Self::NginxUsr2,
        Self::Haproxy,
        Self::Envoy,
        Self::Sozu,
    ];

    /// Name on the command line and in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ouro => "ouro",
            Self::OuroDrain => "ouro-drain",
            Self::NginxHup => "nginx-hup",
            Self::NginxUsr2 => "nginx-usr2",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Sozu => "sozu",
        }
    }

    /// Whose program it is.
    pub(crate) const fn subject(self) -> Subject {
        match self {
            Self::Ouro | Self::OuroDrain => Subject::Ouro,
            Self::NginxHup | Self::NginxUsr2 => Subject::Nginx,
            Self::Haproxy => Subject::Haproxy,
            Self::Envoy => Subject::Envoy,
            Self::Sozu => Subject::Sozu,
        }
    }
}

/// Ports of a proxy and of the origins behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// Its HTTP listener.
    pub(crate) http: u16,
    /// Its TCP listener.
    pub(crate) tcp: u16,
    /// The HTTP origin.
    pub(crate) origin: u16,
    /// The TCP echo.
    pub(crate) echo: u16,
}

/// A proxy that can be restarted, with all its processes.
#[derive(Debug)]
pub(crate) struct Driver {
    way: Way,
    found: Found,
    folder: PathBuf,
    file: PathBuf,
    cpu: usize,
    old_lives: Duration,
    base_id: u32,
    epoch: u32,
    processes: Vec<Process>,
    /// A restart of nginx with a new program, half done: the old master and since when.
    half: Option<i32>,
    /// When processes that belong to the past were first replaced.
    replaced: BTreeMap<i32, Instant>,
    /// How long those lived on that are gone, seconds.
    lived: Vec<f64>,
}

impl Driver {
    /// Starts the proxy.
    ///
    /// # Errors
    /// When it cannot be restarted in this way or does not start.
    pub(crate) fn start(
        way: Way,
        found: &Found,
        folder: &Path,
        ports: Ports,
        cpu: usize,
        old_lives: Duration,
    ) -> Result<Self, String> {
        let setting =
            Setting { shape: Shape::Http, origin_port: ports.origin, workers: 1, cpus: &[cpu], folder };
        let values = Values::new(&setting, ports.http)
            .with("TCP_PORT", ports.tcp)
            .with("ECHO_PORT", ports.echo)
            .with("OLD_LIVES_S", old_lives.as_secs())
            .with("DAEMON", if way == Way::NginxUsr2 { "on" } else { "off" });
        let suffix = match way {
            Way::Ouro | Way::OuroDrain | Way::Sozu => "toml",
            Way::NginxHup | Way::NginxUsr2 => "conf",
            Way::Haproxy => "cfg",
            Way::Envoy => "yaml",
        };
        let file = values.write(&format!("{}-restart.{suffix}", way.subject()), folder)?;
        let mut driver = Self {
            way,
            found: found.clone(),
            folder: folder.to_owned(),
            file,
            cpu,
            old_lives,
            // Instances are told apart by it, on this machine and in shared memory.
            base_id: std::process::id() % 30_000 + 1,
            epoch: 0,
            processes: Vec::new(),
            half: None,
            replaced: BTreeMap::new(),
            lived: Vec::new(),
        };
        driver.launch(&[])?;
        if way == Way::NginxUsr2 {
            driver.adopt_daemon()?;
        }
        for (port, work) in [
            (ports.http, crate::load::Work::get(crate::content::SMALL)),
            (ports.tcp, crate::load::Work::Echo { bytes: crate::content::SMALL }),
        ] {
            peers::wait_for_answer(&mut driver.processes[0], peers::local(port), &work)?;
        }
        Ok(driver)
    }

    /// Begins a restart; [`Driver::tick`] follows it up. Returns whether it could begin.
    ///
    /// # Errors
    /// When a program cannot be started.
    pub(crate) fn restart(&mut self) -> Result<bool, String> {
        let before = self.pids();
        let current = self.processes.last().map_or(0, Process::pid);
        let mut permanent = None;
        match self.way {
            Way::NginxHup => {
                permanent = Some(current);
                signal(current, Signal::SIGHUP)?;
            }
            Way::NginxUsr2 => {
                let master = self.daemon().ok_or("nginx has no process id")?;
                // It ignores the signal while the master before it still lives, as nginx documents.
                if self.half.is_some() || self.folder.join("nginx.pid.oldbin").exists() {
                    return Ok(false);
                }
                signal(master, Signal::SIGUSR2)?;
                self.half = Some(master);
            }
            Way::Haproxy => {
                let socket = self.folder.join("haproxy.sock").to_string_lossy().into_owned();
                self.launch(&["-x".into(), socket, "-sf".into(), current.to_string()])?;
            }
            Way::Ouro | Way::OuroDrain | Way::Envoy => {
                self.epoch += 1;
                self.launch(&[])?;
            }
            Way::Sozu => {
                // It waits for the end of the upgrade, which may never come: nothing here waits for it.
                let arguments = ["-c".into(), self.file.clone().into_os_string(), "upgrade".into()];
                let program = [self.found.program.clone().into_os_string()].into_iter().chain(arguments);
                self.push(Program::new(program, &[self.cpu]))?;
            }
        }
        let now = Instant::now();
        for pid in before.into_iter().filter(|pid| Some(*pid) != permanent) {
            self.replaced.entry(pid).or_insert(now);
        }
        Ok(true)
    }

    /// Looks after what has begun, and notes who is gone.
    ///
    /// # Errors
    /// When a signal cannot be sent.
    pub(crate) fn tick(&mut self) -> Result<(), String> {
        if let Some(old) = self.half
            && let Some(new) = self.daemon().filter(|new| *new != old)
            && has_child(new)
        {
            self.half = None;
            signal(old, Signal::SIGQUIT)?;
        }
        let living = self.pids();
        let now = Instant::now();
        let lived = &mut self.lived;
        self.replaced.retain(|pid, since| {
            let lives = living.contains(pid);
            if !lives {
                lived.push(now.saturating_duration_since(*since).as_secs_f64());
            }
            lives
        });
        Ok(())
    }

    /// Every living process.
    pub(crate) fn pids(&mut self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.processes.iter_mut().flat_map(Process::pids).collect();
        self.processes.iter().for_each(Process::reap);
        self.processes.iter_mut().for_each(|process| drop(process.ended()));
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// How long replaced processes lived on, seconds.
    pub(crate) fn lived(&self) -> &[f64] {
        &self.lived
    }

    /// What it printed last.
    pub(crate) fn output_tail(&self) -> String {
        self.processes.last().map_or_else(String::new, Process::output_tail)
    }

    fn launch(&mut self, more: &[String]) -> Result<(), String> {
        let program: OsString = self.found.program.clone().into();
        let file = self.file.clone().into_os_string();
        let (epoch, base_id) = (self.epoch, self.base_id);
        let (drain, shutdown) = (self.old_lives.as_secs() / 2, self.old_lives.as_secs());
        let line = match self.way {
            Way::NginxHup | Way::NginxUsr2 => {
                let argv = nginx_argv(&self.found.program, &self.folder, &self.file);
                return self.push(Program::new(argv, &[self.cpu]));
            }
            Way::Haproxy => "-db -f".into(),
            Way::Sozu => "start -c".into(),
            Way::Envoy => format!(
                "--concurrency 1 -l error --base-id {base_id} --restart-epoch {epoch} --drain-time-s {drain} \
                 --parent-shutdown-time-s {shutdown} -c"
            ),
            Way::Ouro | Way::OuroDrain => {
                let handover = if self.way == Way::Ouro { "live" } else { "drain" };
                let epoch = if epoch == 0 { "0" } else { "auto" };
                format!(
                    "--concurrency 1 -l warn --base-id {base_id} --restart-epoch {epoch} --drain-time-s {drain} \
                     --handover {handover} --parent-shutdown-time-s {shutdown} -c"
                )
            }
        };
        let mut argv = vec![program];
        argv.extend(line.split_whitespace().map(OsString::from));
        argv.push(file);
        argv.extend(more.iter().map(OsString::from));
        self.push(Program::new(argv, &[self.cpu]))
    }

    fn push(&mut self, program: Program) -> Result<(), String> {
        self.processes.push(Process::start(&program, &self.folder)?);
        Ok(())
    }

    /// The process id in nginx's file.
    fn daemon(&self) -> Option<i32> {
        std::fs::read_to_string(self.folder.join("nginx.pid")).ok()?.trim().parse().ok()
    }

    fn adopt_daemon(&mut self) -> Result<(), String> {
        let end = Instant::now() + DAEMON_PATIENCE;
        while Instant::now() < end {
            machine::check_interrupt()?;
            if let Some(pid) = self.daemon() {
                self.processes[0].include(pid);
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(format!("does not become a daemon: {}", self.output_tail()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The newest first: an old one that ends does not matter to it, but the other way round it may.
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
        if matches!(self.way, Way::Ouro | Way::OuroDrain) {
            // What was counted outlives the processes, so that it can be read; nobody will.
            let _ = ouro_shm::Segment::unlink(self.base_id);
        }
        if self.way == Way::Envoy {
            // It leaves its shared memory behind.
            let name = format!("/dev/shm/envoy_shared_memory_{}", self.base_id * 10);
            let _ = std::fs::remove_file(name);
        }
    }
}

fn signal(pid: i32, signal: Signal) -> Result<(), String> {
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("{signal} to process {pid}: {error}"))
}

fn has_child(pid: i32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.is_ok_and(|children| !children.trim().is_empty())
}
