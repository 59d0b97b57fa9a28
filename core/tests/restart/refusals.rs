//! Children that cannot become what they were started for: they say why and exit, and nothing else changes.

use nix::sys::signal::Signal;

use crate::instance::{Instance, READY};
use crate::load::Echo;
use crate::site::{Loaded, Site, listener};
use crate::support::{Config, eventually, free_address};

/// A process that serves under load; these tables are in its configuration, too.
fn scene(extra: &str) -> Loaded {
    let site = Site::new();
    site.configure(extra);
    Loaded::on(site)
}

/// A child with these tables fails with this code and text, started by hand and by SIGHUP.
#[track_caller]
fn expect_refused(scene: &Loaded, extra: &str, code: i32, text: &str) {
    let Loaded { site, load, parent } = scene;
    site.configure(extra);
    site.instance.spawn("1", "").expect_exit(code, text);
    load.flow(10);
    let failures =
        |log: &str| log.matches("the successor has failed").count() + log.matches("no restart").count();
    let before = failures(&parent.log());
    parent.signal(Signal::SIGHUP);
    eventually("the parent reports", || failures(&parent.log()) > before);
    // The successor writes to the same place.
    parent.wait_log(text);
    load.flow(10);
    assert_eq!(site.instance.live(), [parent.pid()]);
}

/// With these tables instead the next restart succeeds, and nobody has noticed anything.
#[track_caller]
fn end_well(scene: Loaded, extra: &str) {
    scene.site.configure(extra);
    scene.end_well();
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let scene = scene("");
    expect_refused(&scene, "nonsense = 1\n", 2, "nonsense");
    scene.parent.wait_log("nothing is changed");
    expect_refused(&scene, "[[listeners]\n", 2, "ouro.toml");
    end_well(scene, "");
}

#[test]
fn a_missing_configuration_changes_nothing() {
    let scene = scene("");
    let path = scene.site.instance.config_path();
    std::fs::rename(&path, scene.site.instance.path("away")).unwrap();
    scene.site.instance.spawn("1", "").expect_exit(2, "ouro.toml");
    scene.parent.signal(Signal::SIGHUP);
    scene.parent.wait_log("nothing is changed");
    std::fs::rename(scene.site.instance.path("away"), &path).unwrap();
    end_well(scene, "");
}

#[test]
fn a_port_that_is_taken_changes_nothing() {
    let scene = scene("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!("cannot listen on {address}");
    expect_refused(&scene, &listener("new", address), 1, &text);
    // Free again, and all is well.
    drop(taken);
    end_well(scene, &listener("new", address));
}

#[test]
fn an_admin_address_that_is_taken_changes_nothing() {
    let free = free_address();
    let admin = |address: &dyn std::fmt::Display| format!("[admin]\naddress = \"{address}\"\n");
    let scene = scene(&admin(&free));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("admin interface: cannot listen on {}", taken.local_addr().unwrap());
    expect_refused(&scene, &admin(&taken.local_addr().unwrap()), 1, &text);
    let mut client = crate::support::Client::connect(free);
    client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    end_well(scene, &admin(&free));
}

#[test]
fn an_access_log_that_cannot_be_written_changes_nothing() {
    let scene = scene("");
    let bad = scene.site.config().listener("access_log.path = \"{dir}/missing/access.log\"").http();
    scene.site.instance.configure(&bad);
    scene.site.instance.spawn("1", "").expect_exit(1, "missing/access.log");
    scene.parent.signal(Signal::SIGHUP);
    scene.parent.wait_log("the successor has failed; this process serves on");
    end_well(scene, "");
}

#[test]
fn a_child_without_room_for_descriptors_changes_nothing() {
    let site = Site::new();
    // Not ports: of so many that are free now, one may be taken before it is bound.
    let path = |n: u32| site.instance.path(&format!("l{n}.sock"));
    let listeners: String =
        (0..60).map(|n| listener(&format!("l{n}"), format!("unix:{}", path(n).display()))).collect();
    site.configure(&listeners);
    let scene = Loaded::on(site);
    let limited = ["sh", "-c", "ulimit -n 50; exec \"$@\"", "sh"];
    scene.site.instance.spawn_by(&limited, "1", "").expect_exit(1, "limit on open files");
    scene.parent.wait_log("limit on open files");
    end_well(scene, &listeners);
}

#[test]
fn a_child_that_has_nowhere_to_count_changes_nothing() {
    let scene = scene("");
    for epoch in ["1", "auto"] {
        let Some(child) = scene.site.instance.spawn_with_own_shm("ro", epoch, "") else {
            println!("skipped: no mount namespaces for this user");
            return;
        };
        child.expect_exit(1, "the counters cannot be kept");
        scene.load.flow(10);
    }
    end_well(scene, "");
}

#[test]
fn wrong_epochs_are_told_the_right_one() {
    let scene = scene("");
    scene.site.instance.spawn("7", "").expect_exit(1, "so 1 is next, not 7");
    scene.site.instance.spawn("0", "").expect_exit(1, "another process with this base id is running");
    end_well(scene, "");
}

#[test]
fn sighup_starts_successor_after_successor() {
    let scene = scene("");
    let mut newest = scene.parent.pid();
    for epoch in 1..=3 {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(newest.cast_signed()), Signal::SIGHUP).unwrap();
        scene.parent.wait_log(&format!("epoch={epoch}"));
        scene.load.flow(20);
        eventually("one process is left", || {
            let live = scene.site.instance.live();
            let done = live.len() == 1 && live[0] != newest;
            if done {
                newest = live[0];
            }
            done
        });
    }
    scene.parent.wait_log_times(READY, 4);
    scene.parent.expect_exit(0, "has been replaced");
    let Loaded { site, load, parent: _first } = scene;
    load.end_well();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(newest.cast_signed()), Signal::SIGTERM).unwrap();
    eventually("nobody is left", || site.instance.sockets().is_empty());
}

#[test]
fn a_first_process_that_fails_leaves_nothing() {
    let scene = scene("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let other = Instance::new(&scene.site.config().extra(&listener("new", address)).http());
    other.spawn("0", "").expect_exit(1, "cannot listen on");
    assert!(other.sockets().is_empty(), "{:?}", other.sockets());
    end_well(scene, "");
}

/// A user who is nobody, here or elsewhere.
const SOMEBODY: u32 = 65_533;

#[test]
fn another_user_is_told_and_named_whoever_is_who() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start a process as another user");
        return;
    }
    let scene = scene("");
    // The file is not for him.
    let child = scene.site.instance.spawn_as(SOMEBODY, "1", "");
    child.expect_exit(1, "Permission denied");
    end_well(scene, "");

    // The file is for all, and it is the parent who says no.
    let scene = Loaded::on(Site::with("--concurrency 1 --drain-strategy immediate --socket-mode 0666"));
    for epoch in ["1", "auto"] {
        let child = scene.site.instance.spawn_as(SOMEBODY, epoch, "");
        child.expect_exit(1, &format!("it runs as user 0, not as user {SOMEBODY}"));
        scene.parent.wait_log(&format!("it runs as user {SOMEBODY}"));
        assert!(scene.parent.log().lines().count() < 20, "{}", scene.parent.log());
    }
    end_well(scene, "");
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
    let scene = scene("");
    let elsewhere = format!("--socket-path {}", scene.site.instance.path("elsewhere").display());
    for epoch in ["0", "auto"] {
        let second = scene.site.instance.spawn(epoch, &elsewhere);
        second.expect_exit(1, &format!("process {} serves with base id", scene.parent.pid()));
        second.wait_log("is its --socket-path");
        scene.load.flow(10);
    }
    end_well(scene, "");
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
