//! The processes of one instance.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use ouro_restart::Address;

use crate::support::{BaseId, TempDir, eventually, lock};

/// What a process writes when it serves.
pub(crate) const READY: &str = "ready pid=";

/// The line of a process that was replaced, when each response says that its connection ends.
pub(crate) const ASKED_TO_END: &str = "connections are asked to end";

/// How long a process may take: longer than the deadlines of single steps of a restart.
const PATIENCE: Duration = Duration::from_secs(15);

/// A directory with a configuration, a base id and a restart socket.
pub(crate) struct Instance {
    dir: TempDir,
    base_id: Arc<BaseId>,
    options: Vec<String>,
}

impl Instance {
    /// An instance of one worker with this configuration, in which `{dir}` is its directory. Its processes end their
    /// drain at once unless other options say something else.
    pub(crate) fn new(config: &str) -> Self {
        let instance = Self {
            dir: TempDir::new(),
            base_id: Arc::new(BaseId::new()),
            options: Self::words("--concurrency 1 --drain-strategy immediate"),
        };
        instance.configure(config);
        instance
    }

    /// Other options than those that [`Instance::new`] says.
    pub(crate) fn options(mut self, options: &str) -> Self {
        self.options = Self::words(options);
        self
    }

    /// Changes the configuration for processes that start from now on.
    pub(crate) fn configure(&self, config: &str) {
        let text = config.replace("{dir}", self.dir.path().to_str().unwrap());
        std::fs::write(self.config_path(), text).unwrap();
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.path("ouro.toml")
    }

    /// A file in the directory of the instance.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn base_id(&self) -> &BaseId {
        &self.base_id
    }

    /// The restart socket.
    pub(crate) fn address(&self) -> Address {
        Address::from_option(self.path("r").as_os_str(), self.base_id.0)
    }

    /// The file of the restart socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path(&format!("r-{}.sock", self.base_id.0))
    }

    /// Starts a process and waits until it serves.
    #[track_caller]
    pub(crate) fn start(&self, epoch: &str) -> Process {
        let process = self.spawn(epoch, "");
        process.wait_log(READY);
        process
    }

    /// Starts a process with further options.
    #[track_caller]
    pub(crate) fn spawn(&self, epoch: &str, options: &str) -> Process {
        Process::spawn(self.command(epoch, options))
    }

    /// The same as another user. Only root can do that.
    #[track_caller]
    pub(crate) fn spawn_as(&self, uid: u32, epoch: &str, options: &str) -> Process {
        let mut command = self.command(epoch, options);
        command.uid(uid).gid(uid);
        Process::spawn(command)
    }

    /// Starts a process that looks for a base id itself, with further options.
    #[track_caller]
    pub(crate) fn spawn_dynamic(&self, options: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ouro"));
        command.arg("-c").arg(self.config_path()).arg("--use-dynamic-base-id");
        command.args(&self.options).args(Self::words(options));
        Process::spawn(command)
    }

    /// Starts a process as the first one of a pid namespace of its own, as a container has it; `None` where that is not
    /// allowed. Its id is that of the program that waits for it outside.
    #[track_caller]
    pub(crate) fn spawn_apart(&self, epoch: &str, options: &str) -> Option<Process> {
        let apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        works(&apart).then(|| self.spawn_by(&apart, epoch, options))
    }

    /// Starts a process that sees another `/dev/shm` than everybody else, mounted with these options; `None` where that is
    /// not allowed.
    #[track_caller]
    pub(crate) fn spawn_with_own_shm(&self, mount: &str, epoch: &str, options: &str) -> Option<Process> {
        let script = format!("mount -t tmpfs -o {mount} none /dev/shm && exec \"$@\"");
        let apart = ["unshare", "--mount", "sh", "-c", &script, "sh"];
        works(&apart).then(|| self.spawn_by(&apart, epoch, options))
    }

    /// Starts a process through a program that runs what its last arguments say.
    #[track_caller]
    pub(crate) fn spawn_by(&self, program: &[&str], epoch: &str, options: &str) -> Process {
        let own = self.command(epoch, options);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(own.get_program()).args(own.get_args());
        Process::spawn(command)
    }

    fn command(&self, epoch: &str, options: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ouro"));
        command
            .arg("-c")
            .arg(self.config_path())
            .args(["--base-id", &self.base_id.0.to_string(), "--restart-epoch", epoch])
            .args(&self.options)
            .args(Self::words(options));
        // Connections that move have tests of their own.
        if !options.contains("--handover") && !self.options.iter().any(|option| option == "--handover") {
            command.args(["--handover", "drain"]);
        }
        if !options.contains("--socket-path") {
            command.arg("--socket-path").arg(self.path("r"));
        }
        command
    }

    /// Waits until the segment has exactly one live process, which is the one with this id.
    #[track_caller]
    pub(crate) fn expect_only(&self, pid: u32) {
        eventually("one process is left", || self.live() == [pid]);
    }

    /// Process ids of all live processes by the segment.
    pub(crate) fn live(&self) -> Vec<u32> {
        let segment = ouro_shm::Segment::attach_existing(self.base_id.0).unwrap();
        let mut pids: Vec<_> = segment.live_processes().iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Files in the directory beside the configuration and what the test has put there.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.contains(".sock"));
        names.sort_unstable();
        names
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(Into::into).collect()
    }
}

/// A process; its successors by SIGHUP write to the same log. Dropping it kills all of them.
pub(crate) struct Process {
    child: Mutex<Child>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Process {
    #[track_caller]
    fn spawn(mut command: Command) -> Self {
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                lock(&writer.lines).0.push(String::from_utf8_lossy(&line).into_owned());
                writer.changed.notify_all();
            }
            lock(&writer.lines).1 = true;
            writer.changed.notify_all();
        });
        Self { child: Mutex::new(child), log }
    }

    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Everything that the process and its successors have written so far.
    pub(crate) fn log(&self) -> String {
        lock(&self.log.lines).0.join("\n")
    }

    /// Waits for a line with this text.
    #[track_caller]
    pub(crate) fn wait_log(&self, text: &str) {
        self.wait_log_times(text, 1);
    }

    /// Waits so long for a line with this text.
    #[track_caller]
    pub(crate) fn wait_log_for(&self, text: &str, patience: Duration) {
        self.wait_lines(text, 1, patience);
    }

    /// Waits until so many lines have this text.
    #[track_caller]
    pub(crate) fn wait_log_times(&self, text: &str, times: usize) {
        self.wait_lines(text, times, PATIENCE);
    }

    #[track_caller]
    fn wait_lines(&self, text: &str, times: usize, patience: Duration) {
        let missing = |(lines, ended): &mut (Vec<String>, bool)| !*ended && !has(lines, text, times);
        let lines = lock(&self.log.lines);
        let (lines, _) = self
            .log
            .changed
            .wait_timeout_while(lines, patience, missing)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            has(&lines.0, text, times),
            "no {times} lines with {text:?} (the process {}):\n{}",
            if lines.1 { "has ended" } else { "lives" },
            lines.0.join("\n")
        );
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Stops the process, as a debugger would; returns when it has stopped.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        eventually("the process stops", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        });
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills the process and waits until it is gone.
    pub(crate) fn kill(&self) {
        let mut child = lock(&self.child);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        let mut status = None;
        let start = Instant::now();
        while status.is_none() && start.elapsed() < PATIENCE {
            status = lock(&self.child).try_wait().unwrap();
            if status.is_none() {
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
        status.unwrap_or_else(|| panic!("the process does not end:\n{}", self.log()))
    }

    /// Waits until the process has ended with this code and a line with this text.
    #[track_caller]
    pub(crate) fn expect_exit(&self, code: i32, text: &str) {
        let status = self.wait_exit();
        assert!(status.code() == Some(code), "exit code {code} expected, not {status}:\n{}", self.log());
        if !text.is_empty() {
            self.wait_log(text);
        }
    }

    /// What its descriptors stand for, as far as they stay open.
    pub(crate) fn open_files(&self) -> Vec<PathBuf> {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        fds.into_iter().flatten().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect()
    }

    /// Open descriptors, and resident memory in KiB.
    pub(crate) fn size(&self) -> (usize, u64) {
        size(self.pid())
    }

    /// Ends as an instance that is stopped does.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGTERM);
        self.expect_exit(0, "stopped");
    }
}

/// Whether a program may do what it is to do for another one.
fn works(program: &[&str]) -> bool {
    let status = Command::new(program[0]).args(&program[1..]).arg("true").stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Open descriptors, and resident memory in KiB, of a process.
pub(crate) fn size(pid: u32) -> (usize, u64) {
    let proc = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident_kib = line.trim().trim_end_matches(" kB").parse().unwrap();
    (std::fs::read_dir(proc.join("fd")).unwrap().count(), resident_kib)
}

fn has(lines: &[String], text: &str, times: usize) -> bool {
    lines.iter().filter(|line| line.contains(text)).count() >= times
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // Successors are in the group, and outlive the process; the group is ours as long as one of them is there.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        let _ = child.wait();
        drop(child);
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of process {}\n{log}\n---", self.pid());
            return;
        }
        assert!(!log.contains("panicked at"), "the process panicked:\n{log}");
    }
}
