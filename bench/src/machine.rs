//! The machine that is measured on: its CPUs, limits and names, and how fast it is at the moment.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;

/// Rounds of the fixed work that shows how fast a CPU is; a few milliseconds.
const YARDSTICK_ROUNDS: u64 = 2_000_000;

/// How often that is done; the median counts.
const YARDSTICK_TIMES: usize = 5;

/// What Ouro uses within one machine.
const LOCAL_CONGESTION_CONTROL: &str = "reno";

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Which CPUs do what.
#[derive(Debug, Clone)]
pub(crate) struct Cores {
    /// For the proxy.
    pub(crate) proxy: usize,
    /// For the load and the origin.
    pub(crate) load: usize,
}

impl Cores {
    /// The first two CPUs that this process may use; with one only, both are the same.
    pub(crate) fn find() -> Self {
        let allowed = allowed_cpus();
        let proxy = allowed.first().copied().unwrap_or_default();
        Self { proxy, load: allowed.get(1).copied().unwrap_or(proxy) }
    }

    /// Whether proxy and load have to share a CPU.
    pub(crate) const fn shared(&self) -> bool {
        self.proxy == self.load
    }
}

/// What results are to be read with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
    memory_mib: u64,
    open_files: u64,
    /// What TCP connections use that do not choose.
    congestion_control: String,
}

impl Machine {
    /// Asks the kernel.
    pub(crate) fn describe() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        Self {
            kernel: format!("Linux {} {}", kernel.trim(), std::env::consts::ARCH),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cpus: allowed_cpus().len(),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or_default()
                / 1024,
            open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            congestion_control: congestion.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned()),
        }
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {} CPUs ({}), {} MiB, {} open files, TCP {}",
            self.kernel, self.cpus, self.cpu, self.memory_mib, self.open_files, self.congestion_control
        )
    }
}

impl Machine {
    /// What a reader of the numbers has to know about its TCP, if anything.
    pub(crate) fn about_tcp(&self) -> Option<String> {
        let name = &self.congestion_control;
        (name != LOCAL_CONGESTION_CONTROL).then(|| {
            format!(
                "Not alike: Ouro and the relay choose {LOCAL_CONGESTION_CONTROL} for connections on loopback, and everybody else has \
                 the system's {name}, which costs more for large bodies (docs/performance.md says how to give all the same)"
            )
        })
    }
}

/// Prepares this process: all the files it may open, orphans come to it, an interruption is noticed instead of obeyed.
pub(crate) fn prepare() -> Result<(), String> {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    prctl::set_child_subreaper(true).map_err(|error| format!("child subreaper: {error}"))?;
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).map_err(|error| format!("signals: {error}"))?;
    }
    Ok(())
}

/// An error once this process was asked to end, so that whoever works unwinds and cleans up.
pub(crate) fn check_interrupt() -> Result<(), String> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(INTERRUPTION.into()),
        _ => Ok(()),
    }
}

/// What [`check_interrupt`] says.
pub(crate) const INTERRUPTION: &str = "interrupted";

/// Restricts this process (and what it starts) to some CPUs.
pub(crate) fn pin(cpus: &[usize]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// A TCP port that is free now. Whoever takes it does so soon, and says so if somebody else was faster.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// Files that this process may open.
pub(crate) fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// CPU time of a fixed piece of work on one CPU, milliseconds: shows when the machine is slower than at other times.
pub(crate) fn yardstick_ms(cpu: usize, back_to: usize) -> f64 {
    let _ = pin(&[cpu]);
    let mut times: Vec<f64> = (0..YARDSTICK_TIMES).map(|_| yardstick_once()).collect();
    let _ = pin(&[back_to]);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Time that the host of a virtual machine took from its CPUs so far, seconds, all CPUs together.
#[allow(clippy::cast_precision_loss)] // ticks of centuries fit
pub(crate) fn stolen_s() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // The word "cpu", then user, nice, system, idle, iowait, irq, softirq, steal.
    let ticks =
        text.split_whitespace().nth(8).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    ticks as f64 / per_second as f64
}

fn yardstick_once() -> f64 {
    let before = thread_time_ms();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..YARDSTICK_ROUNDS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    std::hint::black_box(state);
    thread_time_ms() - before
}

#[allow(clippy::cast_precision_loss)] // milliseconds of one thread are few
fn thread_time_ms() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0.0, |time| time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6)
}

/// The first line that a program prints when asked for its version.
pub(crate) fn version_of(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.bytes().any(|byte| byte.is_ascii_digit()))?;
    // Some name the path that they were called by, or the one behind it: only the name of the program says something.
    Some(crate::report::without_paths(line.trim()))
}

/// The CPUs that this process may use.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("envoy");
        let text = "#!/bin/sh\necho; echo \"$0/../real/envoy  version: 1.40.0/Clean\"\n";
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let version = version_of(program.to_str().unwrap(), "--version");
        assert_eq!(version.as_deref(), Some("envoy  version: 1.40.0/Clean"));
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::describe();
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        assert!(machine.cpus > 0 && machine.memory_mib > 0 && machine.open_files > 0, "{machine:?}");
        assert!(machine.line().ends_with(&format!("TCP {}", machine.congestion_control)));
        let reno = Machine { congestion_control: "reno".into(), ..machine.clone() };
        let bbr = Machine { congestion_control: "bbr".into(), ..machine };
        assert_eq!(reno.about_tcp(), None);
        assert!(bbr.about_tcp().unwrap().contains("the system's bbr"));
        assert!(yardstick_once() > 0.0 && stolen_s() >= 0.0);
        assert!(free_port().unwrap() > 0);
    }
}
