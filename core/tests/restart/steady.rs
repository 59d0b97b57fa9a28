//! Restart after restart under load: no failure, and every counter equals what clients and origin have counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::instance::{Instance, Process};
use crate::load::{Echo, Load};
use crate::support::stats::{Stats, expect, expect_nothing_active};
use crate::support::{Config, free_address};
use crate::wrk::Wrk;

/// An HTTP listener `web` and a listener `extra` of another protocol or the same, on known ports and with clusters of
/// their own.
fn two_listeners(http: &Echo, extra: &Echo, protocol: &str) -> (String, SocketAddr, SocketAddr) {
    let (web, at) = (free_address(), free_address());
    let route = if protocol == "http" { "[[listeners.routes]]\n" } else { "" };
    let text = Config::to([http.addr()])
        .listener(&format!("address = \"{web}\""))
        .extra(&format!(
            "[[listeners]]\nname = \"extra\"\naddress = \"{at}\"\nprotocol = \"{protocol}\"\n\
             {route}cluster = \"extra\"\n[[clusters]]\nname = \"extra\"\nendpoints = [\"{}\"]\n",
            extra.addr()
        ))
        .http();
    (text, web, at)
}

/// Lets `count` processes follow each other, each `pause` after the one before; the last.
fn follow(instance: &Instance, mut newest: Process, from: u32, count: u32, pause: Duration) -> Process {
    let mut older = Vec::new();
    for epoch in from..from + count {
        // What the load does in the meantime is what this is about.
        std::thread::park_timeout(pause);
        let next = instance.start(&epoch.to_string());
        older.push(std::mem::replace(&mut newest, next));
        older.retain(Process::is_running);
    }
    for process in older {
        process.expect_exit(0, "stopped");
    }
    newest
}

/// The options of [`many_restarts`] beside the handover.
const OPTIONS: &str =
    "--concurrency 2 --drain-strategy immediate --drain-time-s 1 --parent-shutdown-time-s 60 --handover";

/// How many of the restarts that the issue asks for are done: all of them, or the percentage that is in
/// `OURO_TEST_PERCENT`, at least `least`.
fn so_many(restarts: u32, least: u32) -> u32 {
    let percent = std::env::var("OURO_TEST_PERCENT").map_or(100, |text| text.parse::<u32>().unwrap());
    (restarts * percent / 100).max(least)
}

/// How many processes follow each other under how much load.
struct Plan {
    handover: &'static str,
    /// Clients that send request after request on connections that are kept alive.
    clients: usize,
    /// Connections of one request, a second; as many as a few clients can where it is `None`.
    short_per_s: Option<u32>,
    /// Restarts 100 ms apart.
    fast: u32,
    /// Restarts `pause` apart, after that.
    slow: u32,
    pause: Duration,
    /// With `wrk` as well.
    wrk: bool,
}

/// The plan of the issue.
fn in_full(handover: &'static str) -> Plan {
    Plan {
        handover,
        clients: 100,
        short_per_s: Some(2_000),
        fast: so_many(200, 4),
        slow: so_many(20, 2),
        pause: Duration::from_secs(2),
        wrk: true,
    }
}

fn many_restarts(plan: &Plan) {
    let (http, other) = (Echo::http(), Echo::http());
    let (config, web, for_wrk) = two_listeners(&http, &other, "http");
    let instance = Instance::new(&config).options(&format!("{OPTIONS} {}", plan.handover));
    let first = instance.start("0");
    let load = Load::new().keep_alive(plan.clients, web).bodies(2, web);
    let load = match plan.short_per_s {
        Some(rate) => load.rate_of(rate, web),
        None => load.short(plan.clients.div_ceil(3), web),
    };
    let wrk = if plan.wrk { Wrk::start(for_wrk) } else { None };
    load.flow(20);
    let begun = Instant::now();
    let newest = follow(&instance, first, 1, 3, Duration::from_millis(100));
    let early = newest.size();
    let newest = follow(&instance, newest, 4, plan.fast - 3, Duration::from_millis(100));
    let newest = follow(&instance, newest, plan.fast + 1, plan.slow, plan.pause);
    let late = newest.size();
    let (took, rate) = (begun.elapsed(), load.rate());
    let wrk = wrk.map(Wrk::end);
    let seen = load.end_well();

    instance.expect_only(newest.pid());
    assert_eq!(instance.sockets(), [instance.socket().file_name().unwrap().to_str().unwrap()]);
    let (_, segments) = shared_memory(&instance);
    assert_eq!(segments, 1, "segments in /dev/shm");
    let (requests, connections) = (seen.requests(), seen.connections());
    expect_nothing_active(instance.base_id());
    assert_eq!(http.requests(), requests);
    expect(
        instance.base_id(),
        &[
            ("listener.web.downstream_cx_total", connections),
            ("listener.web.downstream_cx_destroy", connections),
            ("http.web.downstream_cx_total", connections),
            ("http.web.downstream_rq_total", requests),
            ("http.web.downstream_rq_completed", requests),
            ("http.web.downstream_rq_2xx", requests),
            ("cluster.origin.upstream_rq_total", requests),
            ("cluster.origin.upstream_rq_completed", requests),
            ("cluster.origin.upstream_rq_200", requests),
            ("cluster.origin.upstream_cx_total", http.connections()),
        ],
    );
    let wrk = wrk.map(|report| {
        assert!(report.failures.is_empty(), "wrk: {report:?}");
        // It gives up what is in flight at its end.
        let counted = Stats::of(instance.base_id()).get("cluster.extra.upstream_rq_200");
        assert!(counted >= report.requests && other.requests() >= counted, "{counted} of {report:?}");
        format!("{}, the slowest {}", report.requests, report.slowest)
    });
    println!(
        "--- {} restarts with connections that {}, in {took:.1?}\n\
         clients in a tight loop    {}\n\
         short connections a second {rate}{}\n\
         requests, connections      {requests}, {connections}\n\
         requests of wrk            {}\n\
         refused, reset, failed, truncated: 0; every counter as clients and origin have counted\n\
         processes, sockets, segments at the end: 1, 1, {segments}\n\
         descriptors, KiB           {early:?} after 3 restarts, {late:?} at the end\n---",
        plan.fast + plan.slow,
        if plan.handover == "live" { "move" } else { "drain" },
        plan.clients,
        plan.short_per_s.map_or(String::new(), |asked| format!(" of {asked}")),
        wrk.as_deref().unwrap_or("none"),
    );
    assert!(late.0 <= early.0 + 2 * plan.clients + 100, "descriptors: {} after {}", late.0, early.0);
    assert!(late.1 <= early.1 * 3 / 2 + 8192, "memory: {} KiB after {} KiB", late.1, early.1);
    assert!(newest.is_running());
    newest.stop();
    assert!(instance.sockets().is_empty(), "{:?}", instance.sockets());
}

#[test]
fn nothing_is_lost_and_everything_is_counted_over_many_restarts() {
    many_restarts(&Plan {
        clients: 6,
        short_per_s: None,
        fast: 30,
        slow: 3,
        pause: Duration::from_secs(1),
        wrk: false,
        ..in_full("drain")
    });
}

#[test]
#[ignore = "takes minutes: the numbers of the issue"]
fn two_hundred_restarts_under_a_hundred_clients() {
    many_restarts(&in_full("drain"));
}

#[test]
#[ignore = "takes minutes: the numbers of the issue"]
fn two_hundred_restarts_while_a_hundred_clients_move() {
    many_restarts(&in_full("live"));
}

/// Bytes of memory that the segment of an instance takes, and how many files of it are in /dev/shm.
fn shared_memory(instance: &Instance) -> (u64, usize) {
    let name = format!("ouro_{}", instance.base_id().0);
    let files: Vec<_> = std::fs::read_dir("/dev/shm")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .collect();
    let blocks =
        |entry: &std::fs::DirEntry| std::os::unix::fs::MetadataExt::blocks(&entry.metadata().unwrap());
    (files.iter().map(blocks).sum::<u64>() * 512, files.len())
}

#[test]
#[ignore = "takes minutes: the numbers of the issue"]
fn five_hundred_restarts_take_no_memory_and_no_descriptors() {
    let (http, tcp) = (Echo::http(), Echo::tcp());
    let (config, web, _) = two_listeners(&http, &tcp, "tcp");
    // Pools move, and a restart under load adds to them until they are full.
    let config = config.replace("[[clusters]]\n", "[[clusters]]\nmax_idle_connections = 4\n");
    for handover in ["drain", "live"] {
        let instance = Instance::new(&config).options(&format!("{OPTIONS} {handover}"));
        let load = Load::new();
        let restarts = so_many(500, 20);
        let mut newest = instance.start("0");
        let load = load.keep_alive(4, web).short(2, web);
        let mut epoch = 1;
        let mut sizes = Vec::new();
        // The first ones fill what is filled once.
        for count in [restarts / 5, restarts / 5, restarts * 3 / 5] {
            newest = follow(&instance, newest, epoch, count, Duration::from_millis(20));
            epoch += count;
            instance.expect_only(newest.pid());
            load.flow(20);
            sizes.push((newest.size(), shared_memory(&instance)));
        }
        load.end_well();
        println!(
            "--- {restarts} restarts 20 ms apart, --handover {handover}\n{:>9} {:>11} {:>8} {:>14} {:>8}",
            "restarts", "descriptors", "KiB", "shared bytes", "segments"
        );
        for (part, ((fds, kib), (shm, files))) in [1, 2, 5].iter().zip(&sizes) {
            println!("{:>9} {fds:>11} {kib:>8} {shm:>14} {files:>8}", restarts / 5 * part);
        }
        println!("---");
        let ((fds, kib), (shm, files)) = sizes[1];
        let ((last_fds, last_kib), (last_shm, last_files)) = sizes[2];
        assert!(last_fds <= fds + 15, "{sizes:?}");
        assert!(last_kib <= kib * 5 / 4 + 2048, "{sizes:?}");
        assert!(last_shm <= shm + 512 * 1024 && last_files == 1 && files == 1, "{sizes:?}");
        newest.stop();
    }
}

#[test]
fn relays_stay_where_they_are_while_processes_follow_each_other() {
    let (http, tcp) = (Echo::http(), Echo::tcp());
    let (config, web, raw) = two_listeners(&http, &tcp, "tcp");
    let instance = Instance::new(&config).options("--concurrency 1 --drain-strategy immediate");
    let mut processes = vec![instance.start("0")];
    let load = Load::new().tcp(2, raw).keep_alive(2, web);
    load.flow(20);
    for epoch in 1..=4 {
        processes.push(instance.start(&epoch.to_string()));
        load.flow(20);
    }
    // The relays of the first process keep it, and only it.
    for process in &processes[1..4] {
        process.expect_exit(0, "stopped");
    }
    assert!(processes[0].is_running());
    load.end_well();
    processes[0].expect_exit(0, "stopped");
    instance.expect_only(processes[4].pid());
    processes[4].signal(Signal::SIGTERM);
    processes[4].expect_exit(0, "stopped");
}

/// While both accept, what a process connects to itself may be accepted by the other one: it is served all the same.
#[test]
fn a_proxy_in_front_of_itself_loses_nothing() {
    let origin = Echo::http();
    let (web, inner) = (free_address(), free_address());
    let config = Config::to([inner])
        .listener(&format!("address = \"{web}\""))
        .extra(&format!(
            "[[listeners]]\nname = \"inner\"\naddress = \"{inner}\"\nprotocol = \"http\"\n\
             [[listeners.routes]]\ncluster = \"real\"\n\
             [[clusters]]\nname = \"real\"\nendpoints = [\"{}\"]\n",
            origin.addr()
        ))
        .http();
    // What a process that drains has connected to itself lasts until its time is up.
    for handover in ["drain", "live"] {
        let options = OPTIONS.replace("shutdown-time-s 60", "shutdown-time-s 3");
        let instance = Instance::new(&config).options(&format!("{options} {handover}"));
        let first = instance.start("0");
        let load = Load::new().keep_alive(3, web).short(3, web);
        load.flow(20);
        let last = follow(&instance, first, 1, 8, Duration::from_millis(100));
        load.flow(20);
        load.end_well();
        instance.expect_only(last.pid());
        last.stop();
    }
}

#[test]
fn taking_over_is_quick() {
    let times = times_to_commit(5);
    assert!(times.iter().all(|time| *time < Duration::from_secs(2)), "{times:?}");
}

#[test]
#[ignore = "a measurement, for a release build on a quiet machine"]
fn taking_over_ten_listeners_takes_fifty_milliseconds() {
    let times = times_to_commit(20);
    assert!(times.iter().all(|time| *time <= Duration::from_millis(50)), "{times:?}");
}

/// From the start of the child to the commit with ten listeners, so many times; shortest first.
fn times_to_commit(count: usize) -> Vec<Duration> {
    let http = Echo::http();
    let mut config = Config::to([http.addr()]);
    let addresses: Vec<SocketAddr> = (0..10).map(|_| free_address()).collect();
    config = config.listener(&format!("address = \"{}\"", addresses[0]));
    for (n, address) in addresses.iter().enumerate().skip(1) {
        config = config.extra(&format!(
            "[[listeners]]\nname = \"l{n}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\ncluster = \"origin\"\n"
        ));
    }
    let instance = Instance::new(&config.http()).options("--concurrency 2");
    let mut processes = vec![instance.start("0")];
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        let next = instance.spawn("auto", "");
        processes.last().unwrap().wait_log("serves from here on");
        times.push(begun.elapsed());
        next.wait_log("ready");
        processes.push(next);
    }
    times.sort_unstable();
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    println!(
        "--- from the start of the child to the commit, 10 listeners, {count} restarts\n\
         shortest {:.1} ms, median {:.1} ms, longest {:.1} ms\n---",
        ms(&times[0]),
        ms(&times[count / 2]),
        ms(&times[count - 1])
    );
    times
}
