//! An instance whose processes follow one another.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::proxy::Builder;
use crate::support::{Client, Proxy};

/// A configuration whose only route answers with this text.
pub(crate) fn saying(text: &str) -> String {
    format!(
        "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [[listeners.routes]]\nrespond = {{ body = \"{text}\" }}\n"
    )
}

/// A process and its successors. All of them are gone when this is dropped.
pub(crate) struct Instance(Proxy);

impl Instance {
    pub(crate) fn start() -> Self {
        Self::start_with(Builder::new(saying("one")), &[])
    }

    /// With further arguments, and with a restart socket in the directory of the test.
    pub(crate) fn start_with(builder: Builder, arguments: &[&str]) -> Self {
        let socket = format!("{}/", builder.dir().display());
        let own = ["--socket-path", &socket, "--drain-strategy", "immediate"];
        Self(builder.arguments(own).arguments(arguments.iter().copied()).start())
    }

    /// Waits until the process with this epoch serves; its process id.
    #[track_caller]
    pub(crate) fn serving(&self, epoch: u32) -> u32 {
        let words = ["ready pid=".to_owned(), format!("epoch={epoch}")];
        let is_it = |line: &str| line.contains(&words[0]) && line.trim_end().ends_with(&words[1]);
        self.wait_log(&format!("ready, epoch {epoch}"), is_it);
        let lines = self.log_lines();
        let line = lines.iter().find(|line| is_it(line)).unwrap();
        line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    /// Waits for a line with this text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        self.wait_log(text, |line| line.contains(text));
    }

    /// What a new connection is answered.
    #[track_caller]
    pub(crate) fn answer(&self) -> String {
        Client::connect(self.addr("web")).get("/").text()
    }

    /// The file of the configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("ouro.toml")
    }

    /// `ouro restart` for this instance.
    pub(crate) fn restart(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ouro"));
        command.arg("restart").args(["--base-id", &self.base_id().0.to_string(), "--socket-path"]);
        command.arg(format!("{}/", self.dir().display())).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Deref for Instance {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.0
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The first process may be gone, but the group is there as long as it has not been waited for.
        self.0.kill();
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether there is a process with this number that is not merely waiting to be noticed.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Standard output and standard error of a command that has ended with this code.
#[track_caller]
pub(crate) fn ended(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    (stdout, stderr)
}
