//! How the old process lets go of its connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::instance::{ASKED_TO_END, Instance, Process, READY};
use crate::load::{Echo, Load};
use crate::support::{Client, Config, Origin, free_address};

fn instance(origin: SocketAddr, options: &str) -> (Instance, SocketAddr) {
    let web = free_address();
    let config = Config::to([origin]).listener(&format!("address = \"{web}\"")).http();
    (Instance::new(&config).options(options), web)
}

#[test]
fn without_connections_the_old_process_is_gone_at_once() {
    let origin = Echo::http();
    let (instance, _) = instance(origin.addr(), "--drain-time-s 600 --parent-shutdown-time-s 900");
    let parent = instance.start("0");
    let begun = Instant::now();
    let next = instance.start("1");
    parent.expect_exit(0, "has been replaced");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    next.stop();
}

#[test]
fn immediately_each_connection_is_closed_with_its_next_response_and_no_idle_one() {
    let origin = Echo::http();
    let (instance, web) = instance(origin.addr(), "--drain-strategy immediate");
    let parent = instance.start("0");
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(web)).collect();
    // One of them has never sent anything.
    for client in clients.iter_mut().skip(1) {
        assert!(!client.get("/first").says_close());
    }
    let next = instance.start("1");
    parent.wait_log(ASKED_TO_END);
    for client in &mut clients {
        client.expect_quiet();
        let response = client.get("/second");
        assert_eq!(response.text(), "/second");
        assert!(response.says_close());
        client.expect_eof();
    }
    parent.expect_exit(0, "has been replaced");
    next.stop();
}

#[test]
fn gradually_more_and_more_connections_are_closed() {
    let origin = Echo::http();
    let (instance, web) = instance(origin.addr(), "--drain-time-s 2 --parent-shutdown-time-s 60");
    let parent = instance.start("0");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(web)).collect();
    for client in &mut clients {
        assert!(!client.get("/first").says_close());
    }
    let next = instance.start("1");
    let begun = Instant::now();
    let mut closed = Vec::new();
    while !clients.is_empty() && begun.elapsed() < Duration::from_secs(10) {
        clients.retain_mut(|client| {
            let says_close = client.get("/again").says_close();
            if says_close {
                client.expect_eof();
                closed.push(begun.elapsed());
            }
            !says_close
        });
        // As many rounds of requests as a lively client would make.
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(clients.is_empty(), "{} connections go on", clients.len());
    let (first, last) = (closed[0], closed[closed.len() - 1]);
    assert!(last - first > Duration::from_millis(200), "all at the same time: {closed:?}");
    assert!(last < Duration::from_secs(4), "{closed:?}");
    parent.expect_exit(0, "has been replaced");
    next.stop();
}

#[test]
fn idle_connections_relays_and_tunnels_live_until_the_shutdown_time_and_no_longer() {
    let origin = Echo::http();
    let tunnels = Origin::start(|conn| {
        conn.request_head();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let Ok(bytes) = conn.read_some() {
            if conn.try_send(bytes).is_err() {
                break;
            }
        }
    });
    let relay = Echo::tcp();
    let (web, up, raw) = (free_address(), free_address(), free_address());
    let config = Config::to([origin.addr()])
        .listener(&format!("address = \"{web}\""))
        .extra(&format!(
            "[[listeners]]\nname = \"up\"\naddress = \"{up}\"\nprotocol = \"http\"\n\
             [[listeners.routes]]\ncluster = \"up\"\n\
             [[clusters]]\nname = \"up\"\nendpoints = [\"{}\"]\n\
             [[listeners]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\ncluster = \"raw\"\n\
             [[clusters]]\nname = \"raw\"\nendpoints = [\"{}\"]\n",
            tunnels.addr(),
            relay.addr()
        ))
        .http();
    let instance = Instance::new(&config).options("--drain-strategy immediate --parent-shutdown-time-s 3");
    let parent = instance.start("0");
    let mut idle = Client::connect(web);
    assert_eq!(idle.get("/").status(), 200);
    let mut tunnel = Client::connect(up);
    tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.response_head("GET").status(), 101);
    let mut relayed = Client::connect(raw);
    relayed.send("hello");
    relayed.expect("hello");

    let next = instance.start("1");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2_000) {
        for client in [&mut tunnel, &mut relayed] {
            client.send("still there?");
            client.expect("still there?");
        }
        idle.expect_quiet();
    }
    assert!(parent.is_running());
    parent.expect_exit(0, "has been replaced");
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(2_700) && took < Duration::from_secs(5), "{took:?}");
    for client in [&mut idle, &mut tunnel, &mut relayed] {
        client.expect_gone();
    }
    assert_eq!(Client::connect(web).get("/new").text(), "/new");
    next.stop();
}

#[test]
fn a_long_response_is_completed_by_the_old_process() {
    let gate = crate::support::Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        opened.wait();
        conn.send("5\r\nworld\r\n0\r\n\r\n");
    });
    let (instance, web) = instance(origin.addr(), "--drain-strategy immediate");
    let parent = instance.start("0");
    let mut client = Client::connect(web);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut head = client.response_head("GET");
    let next = instance.start("1");
    parent.wait_log(ASKED_TO_END);
    gate.open();
    client.read_body(&mut head).unwrap();
    assert_eq!(head.text(), "helloworld");
    // Nothing says that it is the last response: the client may send another request.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    if !head.says_close() {
        assert!(client.response().says_close());
    }
    drop(client);
    parent.expect_exit(0, "has been replaced");
    next.stop();
}

/// Three processes, each with a connection that keeps it.
fn three_generations(instance: &Instance, web: SocketAddr) -> Vec<(Process, Client)> {
    (0..3)
        .map(|epoch: u32| {
            let process = instance.start(&epoch.to_string());
            let mut idle = Client::connect(web);
            assert_eq!(idle.get("/").status(), 200);
            (process, idle)
        })
        .collect()
}

#[test]
fn stopping_the_newest_stops_the_instance() {
    let origin = Echo::http();
    let (instance, web) = instance(origin.addr(), "--drain-strategy immediate");
    let generations = three_generations(&instance, web);
    generations[2].0.signal(Signal::SIGTERM);
    for (process, mut idle) in generations {
        idle.expect_eof();
        drop(idle);
        process.expect_exit(0, "stopped");
    }
    assert!(instance.sockets().is_empty());
    assert!(instance.live().is_empty());
}

#[test]
fn stopping_an_old_process_stops_only_that() {
    let origin = Echo::http();
    let (instance, web) = instance(origin.addr(), "--drain-strategy immediate");
    let mut generations = three_generations(&instance, web);
    let load = Load::new().short(1, web);
    load.flow(5);
    let (middle, mut idle) = generations.remove(1);
    middle.signal(Signal::SIGTERM);
    idle.expect_eof();
    drop(idle);
    middle.expect_exit(0, "stopped");
    load.flow(5);
    for (process, idle) in &mut generations {
        assert!(process.is_running());
        assert_eq!(idle.get("/again").text(), "/again");
    }
    load.end_well();
}

#[test]
fn the_newest_serves_alone_when_an_old_process_is_killed_while_draining() {
    let origin = Echo::http();
    let (instance, web) = instance(origin.addr(), "--drain-strategy immediate");
    let parent = instance.start("0");
    let _idle = Client::connect(web);
    let next = instance.start("1");
    let load = Load::new().short(1, web).keep_alive(1, web);
    parent.kill();
    next.wait_log("the old process has ended");
    load.flow(50);
    let last = instance.start("2");
    load.flow(10);
    load.end_well();
    next.expect_exit(0, "has been replaced");
    assert!(!last.log().contains("serves again"));
    last.wait_log(READY);
    last.stop();
}
