//! A proxy process.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{Client, Config, DEADLINE, Origin, Stats, TempDir, lock};

/// A base id that no other test uses; its segment goes with it.
pub(crate) struct BaseId(pub(crate) u32);

impl BaseId {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Process ids have 22 bits at most.
        Self(std::process::id() << 10 | NEXT.fetch_add(1, Ordering::Relaxed) & 0x3ff)
    }
}

impl Drop for BaseId {
    fn drop(&mut self) {
        let _ = ouro_shm::Segment::unlink(self.0);
    }
}

/// How to start a proxy.
pub(crate) struct Builder {
    config: String,
    concurrency: usize,
    open_files: Option<u32>,
    dir: TempDir,
    base_id: Arc<BaseId>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Builder {
    pub(crate) fn new(config: impl Into<String>) -> Self {
        Self {
            config: config.into(),
            concurrency: 1,
            open_files: None,
            dir: TempDir::new(),
            base_id: Arc::new(BaseId::new()),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The instance that it belongs to; one of its own unless told otherwise.
    pub(crate) fn base_id(mut self, base_id: &Arc<BaseId>) -> Self {
        self.base_id = Arc::clone(base_id);
        self
    }

    /// Number of workers; 1 unless told otherwise.
    pub(crate) fn concurrency(mut self, workers: usize) -> Self {
        self.concurrency = workers;
        self
    }

    /// Limits the number of descriptors.
    pub(crate) fn open_files(mut self, count: u32) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Further arguments.
    pub(crate) fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// A variable of the environment.
    #[allow(dead_code)] // not every test program that shares this needs one
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The directory that `{dir}` in the configuration stands for.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the embedded configuration and waits until it is ready.
    #[track_caller]
    pub(crate) fn quick_start() -> Proxy {
        let base_id = Arc::new(BaseId::new());
        Proxy::spawn(command(None, &base_id), TempDir::new(), "(quick start)".to_owned(), base_id).ready()
    }

    /// Starts the proxy and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        let file = self.dir.path().join("ouro.toml");
        let text = self.config.replace("{dir}", self.dir.path().to_str().unwrap());
        std::fs::write(&file, &text).unwrap();
        let concurrency = self.concurrency.to_string();
        let args = ["-c", file.to_str().unwrap(), "--concurrency", &concurrency];
        let mut command = command(self.open_files, &self.base_id);
        command.args(args).args(&self.arguments).envs(self.environment);
        Proxy::spawn(command, self.dir, text, self.base_id).ready()
    }
}

/// The `ouro` program, in a shell that lowers a limit first if there is one.
fn command(open_files: Option<u32>, base_id: &BaseId) -> Command {
    let program = env!("CARGO_BIN_EXE_ouro");
    let mut command = match open_files {
        None => Command::new(program),
        Some(count) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit -n {count}; exec \"$0\" \"$@\"")).arg(program);
            shell
        }
    };
    command.args(["--base-id", &base_id.0.to_string()]).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A running proxy. Dropping it kills the process and fails the test if the proxy had panicked or gone unasked.
pub(crate) struct Proxy {
    child: Mutex<Child>,
    pid: Pid,
    log: Arc<Log>,
    dir: TempDir,
    config: String,
    base_id: Arc<BaseId>,
    may_exit: Mutex<bool>,
    was_killed: Mutex<bool>,
}

#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    stdout: Vec<u8>,
    /// Standard error has ended, hence the process is gone.
    ended: bool,
    stdout_ended: bool,
}

impl Proxy {
    /// Starts a proxy with one worker and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(config: impl Into<String>) -> Self {
        Builder::new(config).start()
    }

    /// A proxy in front of these endpoints with everything left to the defaults.
    #[track_caller]
    pub(crate) fn to(endpoints: impl IntoIterator<Item = impl ToString>) -> Self {
        Self::start(Config::to(endpoints).http())
    }

    /// A proxy in front of one origin, with further keys for its listener.
    #[track_caller]
    pub(crate) fn with_listener(origin: &Origin, keys: &str) -> Self {
        Self::start(Config::to([origin.addr()]).listener(keys).http())
    }

    #[track_caller]
    fn spawn(mut command: Command, dir: TempDir, config: String, base_id: Arc<BaseId>) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let stdout = child.stdout.take().unwrap();
        let reader = Arc::clone(&log);
        std::thread::spawn(move || reader.read_stderr(stderr));
        let reader = Arc::clone(&log);
        std::thread::spawn(move || reader.read_stdout(stdout));
        let pid = Pid::from_raw(child.id().cast_signed());
        Self {
            child: Mutex::new(child),
            pid,
            log,
            dir,
            config,
            base_id,
            may_exit: Mutex::new(false),
            was_killed: Mutex::new(false),
        }
    }

    #[track_caller]
    fn ready(self) -> Self {
        self.wait_log("\"ready\"", |line| words(line).any(|word| word == "ready"));
        self
    }

    /// Address of a TCP listener.
    #[track_caller]
    pub(crate) fn addr(&self, listener: &str) -> SocketAddr {
        let lines = self.log_lines();
        let addresses: HashMap<_, _> = lines.iter().filter_map(|line| listening(line)).collect();
        let address = addresses.get(listener).unwrap_or_else(|| {
            panic!("no line tells the address of listener {listener:?}:\n{}", lines.join("\n"));
        });
        address.parse().unwrap_or_else(|_| panic!("{address:?} is not an address"))
    }

    /// Address of the admin interface.
    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        let lines = self.log_lines();
        let line =
            lines.iter().find(|line| line.contains("admin interface")).expect("the line that tells it");
        let address = line.split("address=").nth(1).unwrap().trim();
        address.parse().unwrap_or_else(|_| panic!("{address:?} is not an address"))
    }

    /// A connection to the listener `web`.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr("web"))
    }

    /// The directory that `{dir}` in the configuration stands for.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in the directory of the proxy.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Lines logged so far, without colours.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        lock(&self.log.state).lines.clone()
    }

    /// What the process has written to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&lock(&self.log.state).stdout).into_owned()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub(crate) fn wait_log(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let found = |state: &LogState| state.lines.iter().any(|line| wanted(line));
        let state = lock(&self.log.state);
        let wait =
            self.log.changed.wait_timeout_while(state, DEADLINE, |state| !found(state) && !state.ended);
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        if !found(&state) {
            let why = if state.ended { "the process is gone" } else { "it does not come" };
            panic!("no line with {what} in the log: {why}:\n{}\n{}", state.lines.join("\n"), self.config);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
            *lock(&self.may_exit) = true;
        }
        kill(self.pid, signal).unwrap_or_else(|error| panic!("cannot send {signal}: {error}"));
    }

    /// Kills the process and waits until it is gone.
    pub(crate) fn kill(&self) {
        *lock(&self.may_exit) = true;
        let _ = killpg(self.pid, Signal::SIGKILL);
        let _ = self.wait_exit();
        *lock(&self.was_killed) = true;
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        *lock(&self.may_exit) = true;
        let state = lock(&self.log.state);
        let ended = |state: &LogState| state.ended && state.stdout_ended;
        let wait = self.log.changed.wait_timeout_while(state, DEADLINE, |state| !ended(state));
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(ended(&state), "the proxy has not ended within {DEADLINE:?}:\n{}", state.lines.join("\n"));
        // The pipes are closed, so there is next to nothing left to wait for.
        lock(&self.child).wait().unwrap()
    }

    /// Waits until the process has ended of its own accord with this code.
    #[track_caller]
    pub(crate) fn expect_exit(&self, code: i32) {
        let status = self.wait_exit();
        let log = self.log_lines().join("\n");
        assert!(status.code() == Some(code), "exit code {code} expected, not {status}:\n{log}");
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// The instance that it belongs to.
    pub(crate) fn base_id(&self) -> &Arc<BaseId> {
        &self.base_id
    }

    /// Everything that the instance has counted, read from outside.
    #[track_caller]
    pub(crate) fn stats(&self) -> Stats {
        Stats::of(&self.base_id)
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// CPU time used so far, user and kernel, in clock ticks of 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let behind_name = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<&str> = behind_name.split(' ').collect();
        // Fields 14 and 15 of proc(5); the state, first here, is field 3.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Open descriptors.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let may_exit = *lock(&self.may_exit);
        let exited = lock(&self.child).try_wait().ok().flatten();
        // A number that has been waited for may be somebody else's by now.
        if exited.is_none() {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        // The pipes close with the process, which ends the readers.
        let status = self.wait_exit();
        let lines = self.log_lines();
        let text = lines.join("\n");
        if std::thread::panicking() {
            eprintln!(
                "--- log of the proxy (exit: {status})\n{text}\n--- configuration\n{}\n---",
                self.config
            );
            return;
        }
        assert!(!lines.iter().any(|line| line.contains("panicked at")), "the proxy panicked:\n{text}");
        if let Some(status) = exited {
            assert!(may_exit, "the proxy went away by itself: {status}\n{text}");
            let killed = *lock(&self.was_killed);
            assert!(
                killed || status.signal().is_none(),
                "the proxy was killed by a signal: {status}\n{text}"
            );
        }
    }
}

/// What a process that runs to its end has to say.
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Exit {
    /// Runs `ouro` with these arguments until it ends.
    #[track_caller]
    pub(crate) fn of(args: &[&str]) -> Self {
        let base_id = Arc::new(BaseId::new());
        let mut command = command(None, &base_id);
        command.args(args);
        let proxy = Proxy::spawn(command, TempDir::new(), format!("(arguments: {args:?})"), base_id);
        let status = proxy.wait_exit();
        Self { status, stdout: proxy.stdout(), stderr: proxy.log_lines().join("\n") }
    }
}

impl Log {
    fn read_stderr(&self, mut stderr: BufReader<impl Read>) {
        let mut line = Vec::new();
        while matches!(stderr.read_until(b'\n', &mut line), Ok(1..)) {
            let text = without_colours(String::from_utf8_lossy(&line).trim_end());
            lock(&self.state).lines.push(text);
            self.changed.notify_all();
            line.clear();
        }
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    fn read_stdout(&self, mut stdout: impl Read) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            lock(&self.state).stdout.extend_from_slice(&buffer[..count]);
            self.changed.notify_all();
        }
        lock(&self.state).stdout_ended = true;
        self.changed.notify_all();
    }
}

/// Name and address of a listener from a line that tells them.
fn listening(line: &str) -> Option<(String, String)> {
    let value_of = |key: &str| {
        let rest = line.split(&format!("{key}=")).nth(1)?;
        let value = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => rest.split(' ').next()?,
        };
        Some(value.to_owned())
    };
    Some((value_of("listener")?, value_of("address")?))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

/// Takes escape sequences (`ESC [ ... m`) out.
fn without_colours(line: &str) -> String {
    let mut pieces = line.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.split_once('m').map_or(piece, |(_, rest)| rest))
}

#[test]
fn addresses_are_found_in_lines_of_either_style() {
    let coloured = "\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m listening \u{1b}[3mlistener\
                    \u{1b}[0m\u{1b}[2m=\u{1b}[0m\"web\" \u{1b}[3maddress\u{1b}[0m\u{1b}[2m=\u{1b}[0m127.0.0.1:43211";
    let found = listening(&without_colours(coloured));
    assert_eq!(found, Some(("web".to_owned(), "127.0.0.1:43211".to_owned())));
    let found = listening("INFO listening listener=web address=\"[::1]:80\" workers=1");
    assert_eq!(found, Some(("web".to_owned(), "[::1]:80".to_owned())));
    assert_eq!(listening("INFO ready"), None);
}
