//! Children that cannot become what they were started for: they say why and exit, and nothing else changes.

use nix::sys::signal::Signal;

use crate::instance::{Instance, Process, READY};
use crate::load::{Echo, Load};
use crate::support::{Config, free_address};

struct Scene {
    instance: Instance,
    // Dropped before the processes, whose end is nobody's failure then.
    load: Load,
    parent: Process,
    config: Config,
    _origin: Echo,
}

impl Scene {
    fn new(extra: &str) -> Self {
        Self::with_options(extra, "--concurrency 1 --drain-strategy immediate")
    }

    fn with_options(extra: &str, options: &str) -> Self {
        let origin = Echo::http();
        let web = free_address();
        let config = Config::to([origin.addr()]).listener(&format!("address = \"{web}\""));
        let instance = Instance::new(&config.clone().extra(extra).http()).options(options);
        let parent = instance.start("0");
        let load = Load::new().keep_alive(1, web).short(1, web);
        load.flow(10);
        Self { instance, parent, load, config, _origin: origin }
    }

    /// Another configuration than that of the process that serves.
    fn configure(&self, extra: &str) {
        self.instance.configure(&self.config.clone().extra(extra).http());
    }

    /// A child with this configuration fails with this code and text, started by hand and by SIGHUP.
    #[track_caller]
    fn expect_refused(&self, extra: &str, code: i32, text: &str) {
        self.configure(extra);
        self.instance.spawn("1", "").expect_exit(code, text);
        self.load.flow(10);
        let failures =
            |log: &str| log.matches("the successor has failed").count() + log.matches("no restart").count();
        let before = failures(&self.parent.log());
        self.parent.signal(Signal::SIGHUP);
        crate::support::eventually("the parent reports", || failures(&self.parent.log()) > before);
        // The successor writes to the same place.
        self.parent.wait_log(text);
        self.load.flow(10);
        assert_eq!(self.instance.live(), [self.parent.pid()]);
    }

    fn end_well(self, extra: &str) {
        self.configure(extra);
        let Self { instance, parent, load, .. } = self;
        load.flow(10);
        let next = instance.start("1");
        parent.expect_exit(0, "has been replaced");
        load.flow(10);
        load.end_well();
        instance.expect_only(next.pid());
        next.stop();
        assert!(instance.sockets().is_empty());
    }
}

fn listener(name: &str, address: impl std::fmt::Display) -> String {
    format!(
        "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\ncluster = \"origin\"\n"
    )
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let scene = Scene::new("");
    scene.expect_refused("nonsense = 1\n", 2, "nonsense");
    scene.parent.wait_log("nothing is changed");
    scene.expect_refused("[[listeners]\n", 2, "ouro.toml");
    scene.end_well("");
}

#[test]
fn a_missing_configuration_changes_nothing() {
    let scene = Scene::new("");
    let path = scene.instance.config_path();
    std::fs::rename(&path, scene.instance.path("away")).unwrap();
    scene.instance.spawn("1", "").expect_exit(2, "ouro.toml");
    scene.parent.signal(Signal::SIGHUP);
    scene.parent.wait_log("nothing is changed");
    std::fs::rename(scene.instance.path("away"), &path).unwrap();
    scene.end_well("");
}

#[test]
fn a_port_that_is_taken_changes_nothing() {
    let scene = Scene::new("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!("cannot listen on {address}");
    scene.expect_refused(&listener("new", address), 1, &text);
    // Free again, and all is well.
    drop(taken);
    scene.end_well(&listener("new", address));
}

#[test]
fn an_admin_address_that_is_taken_changes_nothing() {
    let free = free_address();
    let admin = |address: &dyn std::fmt::Display| format!("[admin]\naddress = \"{address}\"\n");
    let scene = Scene::new(&admin(&free));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("admin interface: cannot listen on {}", taken.local_addr().unwrap());
    scene.expect_refused(&admin(&taken.local_addr().unwrap()), 1, &text);
    let mut client = crate::support::Client::connect(free);
    client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    scene.end_well(&admin(&free));
}

#[test]
fn an_access_log_that_cannot_be_written_changes_nothing() {
    let scene = Scene::new("");
    let bad = scene.config.clone().listener("access_log.path = \"{dir}/missing/access.log\"").http();
    scene.instance.configure(&bad);
    scene.instance.spawn("1", "").expect_exit(1, "missing/access.log");
    scene.parent.signal(Signal::SIGHUP);
    scene.parent.wait_log("the successor has failed; this process serves on");
    scene.end_well("");
}

#[test]
fn a_child_without_room_for_descriptors_changes_nothing() {
    let held: Vec<_> = (0..60).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let listeners: String =
        held.iter().enumerate().map(|(n, at)| listener(&format!("l{n}"), at.local_addr().unwrap())).collect();
    drop(held);
    let scene = Scene::new(&listeners);
    let limited = ["sh", "-c", "ulimit -n 50; exec \"$@\"", "sh"];
    scene.instance.spawn_by(&limited, "1", "").expect_exit(1, "table of descriptors");
    scene.end_well(&listeners);
}

#[test]
fn a_child_that_has_nowhere_to_count_changes_nothing() {
    let scene = Scene::new("");
    for epoch in ["1", "auto"] {
        let Some(child) = scene.instance.spawn_with_own_shm("ro", epoch, "") else {
            println!("skipped: no mount namespaces for this user");
            return;
        };
        child.expect_exit(1, "the counters cannot be kept");
        scene.load.flow(10);
    }
    scene.end_well("");
}

#[test]
fn wrong_epochs_are_told_the_right_one() {
    let scene = Scene::new("");
    scene.instance.spawn("7", "").expect_exit(1, "so 1 is next, not 7");
    scene.instance.spawn("0", "").expect_exit(1, "another process with this base id is running");
    scene.end_well("");
}

#[test]
fn sighup_starts_successor_after_successor() {
    let scene = Scene::new("");
    let mut newest = scene.parent.pid();
    for epoch in 1..=3 {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(newest.cast_signed()), Signal::SIGHUP).unwrap();
        scene.parent.wait_log(&format!("epoch={epoch}"));
        scene.load.flow(20);
        crate::support::eventually("one process is left", || {
            let live = scene.instance.live();
            let done = live.len() == 1 && live[0] != newest;
            if done {
                newest = live[0];
            }
            done
        });
    }
    scene.parent.wait_log_times(READY, 4);
    scene.parent.expect_exit(0, "has been replaced");
    scene.load.end_well();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(newest.cast_signed()), Signal::SIGTERM).unwrap();
    crate::support::eventually("nobody is left", || scene.instance.sockets().is_empty());
}

#[test]
fn a_first_process_that_fails_leaves_nothing() {
    let scene = Scene::new("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let other = Instance::new(&scene.config.clone().extra(&listener("new", address)).http());
    other.spawn("0", "").expect_exit(1, "cannot listen on");
    assert!(other.sockets().is_empty(), "{:?}", other.sockets());
    scene.end_well("");
}

/// A user who is nobody, here or elsewhere.
const SOMEBODY: u32 = 65_533;

#[test]
fn another_user_is_told_and_named_whoever_is_who() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start a process as another user");
        return;
    }
    let scene = Scene::new("");
    // The file is not for him.
    let child = scene.instance.spawn_as(SOMEBODY, "1", "");
    child.expect_exit(1, "Permission denied");
    scene.end_well("");

    // The file is for all, and it is the parent who says no.
    let scene = Scene::with_options("", "--concurrency 1 --drain-strategy immediate --socket-mode 0666");
    for epoch in ["1", "auto"] {
        let child = scene.instance.spawn_as(SOMEBODY, epoch, "");
        child.expect_exit(1, &format!("it runs as user 0, not as user {SOMEBODY}"));
        scene.parent.wait_log(&format!("it runs as user {SOMEBODY}"));
        assert!(scene.parent.log().lines().count() < 20, "{}", scene.parent.log());
    }
    scene.end_well("");
}

#[test]
fn root_may_not_take_over_from_a_user_by_mistake() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start a process as another user");
        return;
    }
    let origin = Echo::http();
    let config = Config::to([origin.addr()]).listener(&format!("address = \"{}\"", free_address()));
    let instance = Instance::new(&config.http());
    let dir = instance.path("his");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let socket = format!("--socket-path {}/", dir.display());
    let parent = instance.spawn_as(SOMEBODY, "0", &socket);
    parent.wait_log(READY);
    for epoch in ["1", "auto"] {
        instance.spawn(epoch, &socket).expect_exit(1, &format!("it runs as user {SOMEBODY}"));
    }
    parent.wait_log_times("gives up: it runs as user 0", 2);
    let next = instance.spawn_as(SOMEBODY, "auto", &socket);
    next.wait_log(READY);
    parent.expect_exit(0, "has been replaced");
    next.stop();
}

#[test]
fn a_second_process_that_would_not_meet_the_first_is_refused() {
    let scene = Scene::new("");
    let elsewhere = format!("--socket-path {}", scene.instance.path("elsewhere").display());
    for epoch in ["0", "auto"] {
        let second = scene.instance.spawn(epoch, &elsewhere);
        second.expect_exit(1, &format!("process {} serves with base id", scene.parent.pid()));
        second.wait_log("is its --socket-path");
        scene.load.flow(10);
    }
    scene.end_well("");
}

#[test]
fn a_dynamic_base_id_is_one_at_whose_socket_nobody_answers() {
    let origin = Echo::http();
    let config = Config::to([origin.addr()]).listener("address = \"127.0.0.1:0\"");
    let instance = Instance::new(&config.http());
    let dir = instance.path("sockets");
    std::fs::create_dir(&dir).unwrap();
    let at = |base_id| {
        ouro_restart::Address::from_option(std::ffi::OsStr::new(&format!("{}/", dir.display())), base_id)
    };
    let held: Vec<_> = (1..100).map(|id| ouro_restart::Listener::bind(&at(id), 0o600).unwrap()).collect();
    let file = instance.path("id");
    let process = instance.spawn_dynamic(&format!(
        "--base-id-path {} --socket-path {}/",
        file.display(),
        dir.display()
    ));
    process.wait_log(READY);
    let id: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(id >= 100, "{id}");
    process.stop();
    assert!(ouro_shm::Segment::attach_existing(id).is_err());
    drop(held);
}
