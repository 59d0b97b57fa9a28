//! What most tests are about: an instance with one HTTP listener on a known port in front of an origin.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::instance::{ASKED_TO_END, Instance, Process};
use crate::load::{Echo, Load};
use crate::support::{Client, Config, eventually, free_address};

/// See the module.
pub(crate) struct Site {
    pub(crate) instance: Instance,
    pub(crate) web: SocketAddr,
    pub(crate) origin: Echo,
}

impl Site {
    /// Of one worker, whose processes end their drain at once.
    pub(crate) fn new() -> Self {
        let (origin, web) = (Echo::http(), free_address());
        let site = Self { instance: Instance::new(""), web, origin };
        site.configure("");
        site
    }

    /// Other options than that.
    pub(crate) fn with(options: &str) -> Self {
        let site = Self::new();
        Self { instance: site.instance.options(options), ..site }
    }

    /// The configuration, to be changed.
    pub(crate) fn config(&self) -> Config {
        Config::to([self.origin.addr()]).listener(&format!("address = \"{}\"", self.web))
    }

    /// Processes that start from now on have these tables, too.
    pub(crate) fn configure(&self, extra: &str) {
        self.instance.configure(&self.config().extra(extra).http());
    }

    /// A client that has asked once, and keeps the process that it has reached.
    #[track_caller]
    pub(crate) fn idle(&self) -> Client {
        let mut idle = Client::connect(self.web);
        assert_eq!(idle.get("/first").text(), "/first");
        idle
    }

    /// Starts a child that has everything of its parent, and waits for a port until that is dropped.
    #[track_caller]
    pub(crate) fn held_child(&self, parent: &Process) -> (Process, TcpListener) {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        self.configure(&listener("extra", held.local_addr().unwrap()));
        let child = self.instance.spawn("auto", "");
        // It opens its counters for good when it has all that it needs from its parent.
        let counters = PathBuf::from(format!("/dev/shm/ouro_{}", self.instance.base_id().0));
        eventually("the child has the sockets and goes on", || {
            let (theirs, its) = (parent.open_files(), child.open_files());
            let is_shared =
                |file: &&PathBuf| file.to_string_lossy().starts_with("socket:") && theirs.contains(file);
            its.iter().any(|file| is_shared(&file)) && its.contains(&counters)
        });
        (child, held)
    }

    /// So many requests, each on a connection of its own, are answered.
    #[track_caller]
    pub(crate) fn ask(&self, times: u64) {
        for _ in 0..times {
            assert_eq!(Client::connect(self.web).get("/x").text(), "/x");
        }
    }

    /// The instance serves.
    #[track_caller]
    pub(crate) fn expect_served(&self) {
        self.ask(10);
    }

    /// The same, and nobody waits for longer than a look into the queues takes.
    #[track_caller]
    pub(crate) fn expect_served_soon(&self) {
        let begun = Instant::now();
        self.expect_served();
        // 20 ms each, and as much again and again for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}

/// Asks once more on the connection that keeps a process which has been replaced, and is the last that it served.
#[track_caller]
pub(crate) fn let_go(mut idle: Client, process: &Process) {
    process.wait_log(ASKED_TO_END);
    assert_eq!(idle.get("/last").text(), "/last");
    idle.expect_eof();
    drop(idle);
    process.expect_exit(0, "has been replaced");
}

/// Tables of a TCP listener.
pub(crate) fn listener(name: &str, address: impl std::fmt::Display) -> String {
    format!(
        "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\ncluster = \"origin\"\n"
    )
}

/// A process that serves under load, and has to survive what a test does to it.
pub(crate) struct Loaded {
    pub(crate) site: Site,
    // Dropped before the processes, whose end is nobody's failure then.
    pub(crate) load: Load,
    pub(crate) parent: Process,
}

impl Loaded {
    pub(crate) fn new() -> Self {
        Self::on(Site::new())
    }

    pub(crate) fn on(site: Site) -> Self {
        let parent = site.instance.start("0");
        let load = Load::new().keep_alive(2, site.web).short(1, site.web);
        load.flow(10);
        Self { site, load, parent }
    }

    /// The parent serves as if nothing had been, and the next restart succeeds; no request has failed.
    #[track_caller]
    pub(crate) fn end_well(self) {
        let Self { site, parent, load } = self;
        load.flow(50);
        assert_eq!(site.instance.live(), [parent.pid()]);
        let next = site.instance.start("1");
        load.flow(50);
        parent.expect_exit(0, "has been replaced");
        load.end_well();
        site.instance.expect_only(next.pid());
        next.stop();
        assert!(site.instance.sockets().is_empty());
    }
}
