//! Listeners that come, go and change from one process to the next: nothing that waits in a queue is lost.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Instant;

use crate::instance::{Instance, Process};
use crate::load::{Echo, Load};
use crate::site::let_go;
use crate::support::{Client, eventually, free_address};

/// A listener of a configuration.
#[derive(Clone)]
struct Listener {
    name: String,
    address: String,
    is_http: bool,
    keys: String,
}

fn http(name: &str, address: impl ToString) -> Listener {
    Listener { name: name.into(), address: address.to_string(), is_http: true, keys: String::new() }
}

fn tcp(name: &str, address: impl ToString) -> Listener {
    Listener { is_http: false, ..http(name, address) }
}

fn config(origin: SocketAddr, listeners: &[Listener], extra: &str) -> String {
    let mut text = String::new();
    for Listener { name, address, is_http, keys } in listeners {
        let (protocol, tail) = match is_http {
            true => ("http", "[[listeners.routes]]\ncluster = \"origin\""),
            false => ("tcp", "cluster = \"origin\""),
        };
        writeln!(
            text,
            "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"{protocol}\"\n{keys}\n{tail}"
        )
        .unwrap();
    }
    write!(text, "[[clusters]]\nname = \"origin\"\nendpoints = [\"{origin}\"]\n{extra}").unwrap();
    text
}

const QUEUED: &str = "GET /queued HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Clients that have connected and sent a request, which nobody has accepted yet.
fn queued(addresses: &[SocketAddr], each: usize) -> Vec<Client> {
    let clients: Vec<_> = addresses.iter().flat_map(|at| (0..each).map(|_| Client::connect(*at))).collect();
    for client in &clients {
        client.send(QUEUED);
    }
    clients
}

fn expect_answers(clients: Vec<Client>) {
    for mut client in clients {
        assert_eq!(client.response().text(), "/queued");
    }
}

fn expect_refused(address: SocketAddr) {
    eventually("the port refuses", || {
        let error = std::net::TcpStream::connect(address).err();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}

/// Replaces a process while connections wait in the queues of these listeners: they wait because the process is stopped,
/// which goes on when the next one is on its way.
#[track_caller]
fn replace(instance: &Instance, parent: Process, options: &str, waiting: &[SocketAddr]) -> Process {
    parent.freeze();
    let clients = queued(waiting, 5);
    let next = instance.spawn("auto", options);
    next.wait_log("starting");
    parent.thaw();
    next.wait_log(crate::instance::READY);
    expect_answers(clients);
    parent.expect_exit(0, "has been replaced");
    next
}

#[test]
fn workers_may_become_more_and_fewer() {
    let origin = Echo::http();
    let at = [free_address(), free_address()];
    let instance = Instance::new(&config(origin.addr(), &[http("a", at[0]), tcp("b", at[1])], ""))
        .options("--drain-strategy immediate");
    let mut process = instance.spawn("0", "--concurrency 1");
    process.wait_log(crate::instance::READY);
    let load = Load::new().short(2, at[0]);
    load.flow(10);
    for workers in [3, 1, 2, 3, 1] {
        process = replace(&instance, process, &format!("--concurrency {workers}"), &at);
        load.flow(30);
    }
    load.end_well();
    process.stop();
    expect_refused(at[0]);
}

#[test]
fn a_listener_may_come_and_go() {
    let origin = Echo::http();
    let (stays, goes) = (free_address(), free_address());
    let both = config(origin.addr(), &[http("stays", stays), http("goes", goes)], "");
    let one = config(origin.addr(), &[http("stays", stays)], "");
    let instance = Instance::new(&one).options("--drain-strategy immediate --concurrency 2");
    let mut process = instance.start("0");
    let load = Load::new().short(1, stays).keep_alive(1, stays);
    for _ in 0..2 {
        instance.configure(&both);
        process = replace(&instance, process, "", &[stays]);
        assert_eq!(Client::connect(goes).get("/new").text(), "/new");
        instance.configure(&one);
        process = replace_without(&instance, process, goes);
        expect_refused(goes);
        load.flow(10);
    }
    load.end_well();
    process.stop();
}

/// As [`replace`], where the next process has no such listener any more.
#[track_caller]
fn replace_without(instance: &Instance, parent: Process, gone: SocketAddr) -> Process {
    parent.freeze();
    let clients = queued(&[gone], 5);
    let next = instance.spawn("auto", "");
    next.wait_log("starting");
    parent.thaw();
    next.wait_log(crate::instance::READY);
    expect_answers(clients);
    parent.expect_exit(0, "has been replaced");
    next
}

#[test]
fn a_listener_that_is_gone_refuses_while_the_old_process_drains() {
    let origin = Echo::http();
    let (stays, goes) = (free_address(), free_address());
    let instance = Instance::new(&config(origin.addr(), &[http("stays", stays), http("goes", goes)], ""));
    let parent = instance.start("0");
    let mut idle = Client::connect(stays);
    assert_eq!(idle.get("/").status(), 200);
    instance.configure(&config(origin.addr(), &[http("stays", stays)], ""));
    let next = instance.start("1");
    expect_refused(goes);
    assert!(parent.is_running());
    let_go(idle, &parent);
    next.stop();
}

#[test]
fn an_address_may_change() {
    let origin = Echo::http();
    let (old, new) = (free_address(), free_address());
    let instance = Instance::new(&config(origin.addr(), &[http("web", old)], ""));
    let parent = instance.start("0");
    instance.configure(&config(origin.addr(), &[http("web", new)], ""));
    let next = replace_without(&instance, parent, old);
    assert_eq!(Client::connect(new).get("/x").text(), "/x");
    expect_refused(old);
    next.stop();
}

#[test]
fn the_protocol_the_backlog_and_the_name_may_change() {
    let origin = Echo::http();
    let at = free_address();
    let instance = Instance::new(&config(origin.addr(), &[http("web", at)], ""));
    let mut process = instance.start("0");
    let with = |listener: Listener, keys: &str| Listener { keys: keys.into(), ..listener };
    for listener in [
        tcp("web", at),
        http("web", at),
        with(http("web", at), "backlog = 7"),
        http("other", at),
        with(tcp("third", at), "backlog = 4000"),
    ] {
        instance.configure(&config(origin.addr(), &[listener], ""));
        process = replace(&instance, process, "", &[at]);
    }
    process.stop();
}

#[test]
fn port_0_keeps_its_port() {
    let origin = Echo::http();
    let text = config(origin.addr(), &[http("web", "127.0.0.1:0")], "");
    let instance = Instance::new(&text);
    let mut process = instance.start("0");
    let log = process.log();
    let address = log.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let at: SocketAddr = address.parse().unwrap();
    for _ in 0..2 {
        process = replace(&instance, process, "", &[at]);
        process.wait_log(&format!("address={at}"));
    }
    process.stop();
}

#[test]
fn unix_listeners_and_a_unix_admin_interface_stay() {
    let origin = Echo::http();
    let admin = "[admin]\naddress = \"unix:{dir}/admin\"\n";
    let instance = Instance::new(&config(origin.addr(), &[http("web", "unix:{dir}/web")], admin))
        .options("--drain-strategy immediate");
    let (web, admin) = (instance.path("web"), instance.path("admin"));
    let mut process = instance.start("0");
    for workers in [2, 3, 1] {
        process.freeze();
        let clients: Vec<_> = (0..5).map(|_| Client::connect_unix(&web)).collect();
        let asks: Vec<_> = (0..2).map(|_| Client::connect_unix(&admin)).collect();
        for client in clients.iter().chain(&asks) {
            client.send(QUEUED);
        }
        let next = instance.spawn("auto", &format!("--concurrency {workers}"));
        next.wait_log("starting");
        process.thaw();
        next.wait_log(crate::instance::READY);
        expect_answers(clients);
        for mut client in asks {
            assert_eq!(client.response().status(), 404);
        }
        process.expect_exit(0, "has been replaced");
        process = next;
        assert_eq!(Client::connect_unix(&web).get("/x").text(), "/x");
        let mut client = Client::connect_unix(&admin);
        client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.response().status(), 200);
    }
    process.stop();
    assert!(!web.exists() && !admin.exists());
}

/// More descriptors than a message can carry, by far.
#[test]
fn a_thousand_listeners_move() {
    let (count, workers) = (1_000, 2);
    let origin = Echo::http();
    // Sockets that are bound at once, so that all ports differ; at an address where no other test looks for free ones.
    let held: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.77.0.1:0").unwrap()).collect();
    let ports: Vec<SocketAddr> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(held);
    let listeners: Vec<_> = ports.iter().enumerate().map(|(n, at)| http(&format!("l{n}"), at)).collect();
    let instance = Instance::new(&config(origin.addr(), &listeners, ""))
        .options(&format!("--drain-strategy immediate --concurrency {workers}"));
    let mut process = instance.start("0");
    let load = Load::new().short(1, ports[0]).short(1, ports[count - 1]);
    let ask_all = || {
        for at in &ports {
            assert_eq!(Client::connect(*at).get("/x").text(), "/x");
        }
    };
    ask_all();
    let mut times = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        let next = instance.spawn("auto", "");
        // During the restart, however far it is.
        ask_all();
        next.wait_log(crate::instance::READY);
        times.push(begun.elapsed());
        ask_all();
        process.expect_exit(0, "has been replaced");
        process = next;
    }
    let seen = load.end_well();
    println!(
        "--- {} restarts with {count} listeners, {} listening sockets\n\
         taken over within {times:.0?}, a request to each listener included\n\
         requests under load {}, failures 0\n---",
        times.len(),
        count * workers,
        seen.requests()
    );
    process.stop();
}
