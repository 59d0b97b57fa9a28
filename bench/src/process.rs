//! The processes that are measured and those that help: started pinned, found with all their children, ended for sure.
//!
//! A process is started through this same program (`ouro-bench exec`), which sets what must hold before the program
//! begins: its CPUs, its limit of open files, a session of its own, and the signal that ends it should this process be
//! killed. All descendants come back to this process as the reaper, so that a daemon is found as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getppid, setsid};

use crate::machine;

/// How long a process may take to end when asked to, and again when it is killed.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// Pause between two looks at something that another process has to bring about.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Lines of a process's output that an error shows.
const TAIL_LINES: usize = 6;

/// A started program; dropping it ends it and every process that came of it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// Processes that came of it and have been seen; a daemon leaves the tree, but stays in here.
    seen: BTreeSet<i32>,
}

/// What a program is started with.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Program and arguments.
    pub(crate) argv: Vec<OsString>,
    /// Environment beside what is inherited.
    pub(crate) env: Vec<(&'static str, String)>,
    /// CPUs that it may use.
    pub(crate) cpus: Vec<usize>,
}

impl Program {
    /// A program without further environment.
    pub(crate) fn new<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>, cpus: &[usize]) -> Self {
        Self {
            argv: argv.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            env: Vec::new(),
            cpus: cpus.to_vec(),
        }
    }
}

impl Process {
    /// Starts a program in `folder`; its output goes to `output.log` there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(program: &Program, folder: &Path) -> Result<Self, String> {
        let log = folder.join("output.log");
        let child = spawn(program, folder, &log, None)?;
        Ok(Self { seen: BTreeSet::from([pid_of(&child)]), child, log })
    }

    /// The process itself, without its children.
    pub(crate) fn pid(&self) -> i32 {
        pid_of(&self.child)
    }

    /// Every living process that came of it.
    pub(crate) fn pids(&mut self) -> Vec<i32> {
        let table = process_table();
        let own = pid_of(&self.child);
        let known = self.seen.clone();
        // Its session, its descendants, and the sessions and descendants of what was once seen.
        let mut found: BTreeSet<i32> = table
            .iter()
            .filter(|(pid, entry)| {
                entry.session == own || known.contains(pid) || known.contains(&entry.session)
            })
            .map(|(pid, _)| *pid)
            .collect();
        loop {
            let more: Vec<i32> = table
                .iter()
                .filter(|(pid, entry)| found.contains(&entry.parent) && !found.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        self.seen.extend(&found);
        found.into_iter().filter(|pid| table.get(pid).is_some_and(|entry| !entry.dead)).collect()
    }

    /// Counts a process that left the tree, such as a daemon, as one of this.
    pub(crate) fn include(&mut self, pid: i32) {
        self.seen.insert(pid);
    }

    /// Why it has ended, if it has and nothing that came of it lives.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) if self.pids().is_empty() => {
                Some(format!("ended, {status}: {}", self.output_tail()))
            }
            _ => None,
        }
    }

    /// The last lines of what it printed.
    pub(crate) fn output_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Asks all of it to end, then makes it.
    pub(crate) fn stop(&mut self) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for pid in self.pids() {
                // A process may be gone already, which is what was wanted.
                let _ = kill(Pid::from_raw(pid), signal);
            }
            let end = Instant::now() + END_PATIENCE;
            while Instant::now() < end {
                let _ = self.child.try_wait();
                self.reap();
                if self.pids().is_empty() {
                    // It is dead, so this does not wait; it only takes the zombie away.
                    let _ = self.child.wait();
                    self.reap();
                    return;
                }
                std::thread::sleep(POLL);
            }
        }
    }

    /// Waits for descendants that became ours, so that they do not stay as zombies.
    pub(crate) fn reap(&self) {
        for pid in self.seen.iter().filter(|pid| **pid != pid_of(&self.child)) {
            let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a program in `folder`, with its output appended to `log`. Whoever gets it has to end it. The moment at which the
/// program itself begins goes to the file `began`, nanoseconds of the monotonic clock.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn spawn(
    program: &Program,
    folder: &Path,
    log: &Path,
    began: Option<&Path>,
) -> Result<Child, String> {
    let output = File::options().create(true).append(true).open(log);
    let output = output.map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let cpus: Vec<String> = program.cpus.iter().map(ToString::to_string).collect();
    let mut command = Command::new(own);
    command.arg("exec").arg("--cpus").arg(cpus.join(","));
    command.arg("--parent").arg(std::process::id().to_string());
    if let Some(began) = began {
        command.arg("--began").arg(began);
    }
    command.arg("--").args(&program.argv);
    command.envs(program.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(folder).stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().map_err(|error| format!("cannot start: {error}"))
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}

/// What the kernel tells of a process.
struct Entry {
    parent: i32,
    session: i32,
    /// A zombie, or about to be one.
    dead: bool,
}

fn process_table() -> BTreeMap<i32, Entry> {
    let mut table = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return table };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name stands in parentheses and may hold anything, parentheses too.
        let Some((_, rest)) = text.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i32>().ok());
        let (Some(parent), Some(session)) = (number(1), number(3)) else { continue };
        let dead = matches!(fields.first(), Some(&"Z" | &"X"));
        table.insert(pid, Entry { parent, session, dead });
    }
    table
}

/// CPU of all threads of some processes so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// Nanoseconds on a CPU, and of being ready and waiting for one, by thread.
    threads: BTreeMap<i32, [u64; 2]>,
    /// Ticks in user mode and in the kernel, by process: coarser, but they tell the two apart.
    ticks: BTreeMap<i32, [u64; 2]>,
}

/// CPU that was used in a while.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// Nanoseconds on a CPU.
    pub(crate) cpu_ns: u64,
    /// Nanoseconds of being ready and waiting for one.
    pub(crate) waited_ns: u64,
    /// Ticks in user mode.
    pub(crate) user_ticks: u64,
    /// Ticks in the kernel.
    pub(crate) kernel_ticks: u64,
}

impl Used {
    /// And in another while.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.cpu_ns += other.cpu_ns;
        self.waited_ns += other.waited_ns;
        self.user_ticks += other.user_ticks;
        self.kernel_ticks += other.kernel_ticks;
    }
}

impl Usage {
    /// Of the threads that there are now, since they began.
    pub(crate) fn of(pids: &[i32]) -> Self {
        let mut usage = Self::default();
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            // The 12th and 13th field behind the name: time in user mode and in the kernel.
            usage.ticks.insert(*pid, two_numbers(fields.split_whitespace().skip(11)));
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                let id = thread.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
                let text = std::fs::read_to_string(thread.path().join("schedstat"));
                if let (Some(id), Ok(text)) = (id, text) {
                    usage.threads.insert(id, two_numbers(text.split_whitespace()));
                }
            }
        }
        usage
    }

    /// What was used since `before`. What came since counts from zero; what ended cannot be asked any more.
    pub(crate) fn since(&self, before: &Self) -> Used {
        let [cpu_ns, waited_ns] = growth(&before.threads, &self.threads);
        let [user_ticks, kernel_ticks] = growth(&before.ticks, &self.ticks);
        Used { cpu_ns, waited_ns, user_ticks, kernel_ticks }
    }
}

fn two_numbers<'t>(fields: impl Iterator<Item = &'t str>) -> [u64; 2] {
    let mut numbers = [0; 2];
    for (number, field) in numbers.iter_mut().zip(fields) {
        *number = field.parse().unwrap_or_default();
    }
    numbers
}

fn growth(before: &BTreeMap<i32, [u64; 2]>, after: &BTreeMap<i32, [u64; 2]>) -> [u64; 2] {
    let mut sum = [0; 2];
    for (id, end) in after {
        let start = before.get(id).copied().unwrap_or_default();
        for ((sum, start), end) in sum.iter_mut().zip(start).zip(end) {
            *sum += end.saturating_sub(start);
        }
    }
    sum
}

/// Resident memory of some processes, bytes. Pages that they share are counted for each.
pub(crate) fn rss(pids: &[i32]) -> u64 {
    let one = |pid: &i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().filter_map(one).sum::<u64>() * 1024
}

/// Becomes another program, under the conditions that every measured process runs under. Returns only if that fails.
pub(crate) fn exec(cpus: &[usize], parent: u32, began: Option<&Path>, argv: &[OsString]) -> String {
    let Some((program, args)) = argv.split_first() else { return "no program given".into() };
    let prepared = (|| {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        setsid()?;
        machine::pin(cpus)?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    })();
    if let Err(error) = prepared {
        return format!("cannot prepare the process: {error}");
    }
    if getppid().as_raw().unsigned_abs() != parent {
        return "the process that wanted this is gone".into();
    }
    if let Some(path) = began {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        if let Err(error) = std::fs::write(path, now.as_nanos().to_string()) {
            return format!("{}: {error}", path.display());
        }
    }
    let error = Command::new(program).args(args).exec();
    format!("{}: {error}", program.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_come_and_go() {
        let before = BTreeMap::from([(1, [100, 5]), (2, [50, 5]), (3, [900, 5])]);
        let after = BTreeMap::from([(1, [160, 6]), (3, [900, 5]), (4, [7, 0])]);
        assert_eq!(growth(&before, &after), [67, 1]);
    }

    #[test]
    fn the_own_process_is_in_the_table_and_uses_memory_and_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let table = process_table();
        assert_eq!(table[&own].parent, getppid().as_raw());
        assert!(rss(&[own]) > 100_000);
        let before = Usage::of(&[own]);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(Usage::of(&[own]).since(&before).cpu_ns > 100_000);
    }
}
