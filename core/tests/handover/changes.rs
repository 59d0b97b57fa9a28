//! The next process is another one: fewer workers, another configuration.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chain::{Chain, End, OPTIONS, Origin};
use crate::support::stats::{expect, expect_nothing_active};
use crate::support::wire::{Socket, Wire};
use crate::support::{Config, free_address};

#[track_caller]
fn tcp_pair(client: End, origin: &Origin) -> (End, End) {
    let mut client = client;
    client.send("a");
    let mut far = origin.accept();
    far.expect("a");
    far.send("b");
    client.expect("b");
    (client, far)
}

#[track_caller]
fn work(client: &mut End, far: &mut End) {
    client.send("up");
    far.expect("up");
    far.send("down");
    client.expect("down");
}

#[test]
fn workers_may_become_fewer_and_more() {
    let origin = Origin::new();
    let options = OPTIONS.replace("--concurrency 1", "");
    let config = Config::to([origin.addr()]);
    let mut chain = Chain::start(&config, &format!("{options} --concurrency 2"), Config::tcp);
    let mut pairs: Vec<_> = (0..60).map(|_| tcp_pair(chain.client(), &origin)).collect();
    for workers in ["1", "2", "1", "2"] {
        chain.instance =
            chain.instance.options(&format!("{options} --handover live --concurrency {workers}"));
        chain.restart();
        for (client, far) in &mut pairs {
            work(client, far);
        }
    }
    drop(pairs);
    expect_nothing_active(chain.instance.base_id());
    expect(chain.instance.base_id(), &[("tcp.web.downstream_cx_destroy", 60)]);
}

#[test]
fn a_relay_goes_on_to_an_endpoint_that_is_no_more() {
    let (old, new) = (Origin::new(), Origin::new());
    let mut chain = Chain::tcp(Config::to([old.addr()]));
    let (mut client, mut far) = tcp_pair(chain.client(), &old);
    let address = format!("address = \"{}\"", chain.address);
    chain.instance.configure(&Config::to([new.addr()]).listener(&address).tcp());
    chain.restarts(2);
    work(&mut client, &mut far);
    let (mut next, mut next_far) = tcp_pair(chain.client(), &new);
    work(&mut next, &mut next_far);
    drop((client, far, next, next_far));
    expect_nothing_active(chain.instance.base_id());
    expect(chain.instance.base_id(), &[("cluster.origin.upstream_cx_active", 0)]);
}

#[test]
fn an_exchange_ends_as_it_began_and_the_next_follows_the_new_route() {
    let (old, new) = (Origin::new(), Origin::new());
    let text = |origin: &Origin, mark: &str| {
        Config::to([origin.addr()]).routes(&format!(
            "[[listeners.routes]]\ncluster = \"origin\"\nresponse_headers = {{ set = {{ x-mark = \"{mark}\" }} }}\n"
        ))
    };
    let mut chain = Chain::http(text(&old, "old"));
    let mut client = chain.client();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut far = old.accept();
    far.head();
    let address = format!("address = \"{}\"", chain.address);
    chain.instance.configure(&text(&new, "new").listener(&address).http());
    chain.restarts(2);
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let head = client.head();
    assert!(head.contains("x-mark: old\r\n"), "{head}");
    client.expect("ok");
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut far = new.accept();
    far.head();
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let head = client.head();
    assert!(head.contains("x-mark: new\r\n"), "{head}");
    client.expect("ok");
    drop(client);
    expect_nothing_active(chain.instance.base_id());
}

/// What the new process has no listener for stays, and ends in its own time. A cluster that it does not have is stood in for.
#[test]
fn what_the_new_process_does_not_know_stays() {
    for keeps_listener in [true, false] {
        let origin = Origin::new();
        let mut chain = Chain::tcp(Config::to([origin.addr()]));
        let (mut client, mut far) = tcp_pair(chain.client(), &origin);
        let address = if keeps_listener { chain.address } else { free_address() };
        let name = if keeps_listener { "web" } else { "other" };
        chain.instance.configure(&format!(
            "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\ncluster = \"else\"\n\
             [[clusters]]\nname = \"else\"\nendpoints = [\"{}\"]\n",
            origin.addr()
        ));
        let old = chain.restart_keeping_old("");
        if !keeps_listener {
            old.wait_log("stays here");
        }
        work(&mut client, &mut far);
        client.finish();
        far.expect_eof();
        far.finish();
        client.expect_eof();
        old.expect_exit(0, "stopped");
        expect_nothing_active(chain.instance.base_id());
    }
}

/// Whoever stays must be told to go, or the old process waits for him.
#[test]
fn a_client_of_a_listener_that_is_no_more_is_told_to_close() {
    let origin = Origin::new();
    let mut chain = Chain::start(
        &Config::to([origin.addr()]),
        "--concurrency 1 --drain-strategy immediate --parent-shutdown-time-s 60",
        Config::http,
    );
    let mut client = chain.client();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut far = origin.accept();
    far.head();
    let other = format!("address = \"{}\"", free_address());
    chain.instance.configure(
        &Config::to([origin.addr()]).listener(&other).http().replace("name = \"web\"", "name = \"other\""),
    );
    let old = chain.restart_keeping_old("");
    old.wait_log("they end in their own time");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let head = client.head().to_lowercase();
    client.expect("ok");
    assert!(head.contains("connection: close\r\n"), "{head}");
    client.expect_eof();
    drop(client);
    old.expect_exit(0, "stopped");
}

#[test]
fn nothing_moves_where_connections_drain() {
    let origin = Origin::new();
    let mut chain =
        Chain::start(&Config::to([origin.addr()]), &format!("{OPTIONS} --handover drain"), Config::tcp);
    let (mut client, mut far) = tcp_pair(chain.client(), &origin);
    let old = chain.restart_keeping_old("");
    old.wait_log("another process serves from here on");
    for _ in 0..50 {
        work(&mut client, &mut far);
    }
    assert!(old.is_running());
    drop((client, far));
    old.expect_exit(0, "stopped");
    expect_nothing_active(chain.instance.base_id());
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An exchange up to some point and from there to its end.
struct Phase {
    name: &'static str,
    request: &'static str,
    /// What the origin gets of the body, and answers, before the restarts; the client sees the head of that, and the rest.
    at_origin: &'static str,
    answer: &'static str,
    at_client: &'static str,
    /// The same afterwards, after the client has sent the rest of its request.
    rest: &'static str,
    rest_at_origin: &'static str,
    rest_of_answer: &'static str,
    rest_at_client: &'static str,
}

const NOTHING: Phase = Phase {
    name: "waiting for the response",
    request: "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    at_origin: "",
    answer: "",
    at_client: "",
    rest: "",
    rest_at_origin: "",
    rest_of_answer: OK,
    rest_at_client: "ok",
};

const PHASES: [Phase; 9] = [
    NOTHING,
    Phase {
        name: "upload of known length",
        request: "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
        at_origin: "hello",
        rest: "world",
        rest_at_origin: "world",
        ..NOTHING
    },
    Phase {
        name: "upload in chunks",
        request: "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        at_origin: "5\r\nhello\r\n",
        rest: "2\r\nyo\r\n0\r\nX-T: 1\r\n\r\n",
        rest_at_origin: "2\r\nyo\r\n0\r\nX-T: 1\r\n\r\n",
        ..NOTHING
    },
    Phase {
        name: "upload with trailers that is over",
        request: "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        at_origin: "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        ..NOTHING
    },
    Phase {
        name: "after an interim response",
        answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        ..NOTHING
    },
    Phase {
        name: "download of known length",
        answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        at_client: "hello",
        rest_of_answer: "world",
        rest_at_client: "world",
        ..NOTHING
    },
    Phase {
        name: "download in chunks",
        answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        at_client: "5\r\nhello\r\n",
        rest_of_answer: "0\r\n\r\n",
        rest_at_client: "0\r\n\r\n",
        ..NOTHING
    },
    Phase {
        name: "expectation",
        request: "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        answer: "HTTP/1.1 100 Continue\r\n\r\n",
        rest: "hello",
        rest_at_origin: "hello",
        ..NOTHING
    },
    Phase {
        name: "tunnel",
        request: "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi",
        at_origin: "",
        at_client: "hi",
        rest: "up",
        rest_at_origin: "up",
        rest_of_answer: "down",
        rest_at_client: "down",
    },
];

/// Answers every request with two bytes.
fn serve_ok() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut wire = Wire::new(Socket::new(stream));
                while let Ok(Some(_)) = wire.read_request_head() {
                    wire.send(OK.as_bytes()).unwrap();
                }
            });
        }
    });
    address
}

/// All phases at once, while others ask as fast as they can: to one worker and back, with the configuration before and
/// with one that has neither the route nor the cluster nor the endpoint any more.
#[test]
fn every_phase_moves_under_load_to_other_workers_and_another_configuration() {
    let (old, new, busy) = (Origin::new(), Origin::new(), serve_ok());
    let text = |origin: &Origin, name: &str, upgrades: &str| {
        Config::to([origin.addr()])
            .listener(upgrades)
            .routes(&format!(
                "[[listeners.routes]]\npath_prefix = \"/load\"\ncluster = \"busy\"\n\
                 [[listeners.routes]]\ncluster = \"{name}\"\n"
            ))
            .extra(&format!("[[clusters]]\nname = \"busy\"\nendpoints = [\"{busy}\"]\n"))
    };
    let options = |workers: u32| {
        format!("{} --handover live --concurrency {workers}", OPTIONS.replace("--concurrency 1", ""))
    };
    let before = text(&old, "origin", "upgrades = [\"websocket\"]");
    let mut chain = Chain::start(&before, &options(2), Config::http);
    let enough = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, enough) = (chain.client(), Arc::clone(&enough));
            std::thread::spawn(move || {
                let mut count = 0_u64;
                while !enough.load(Ordering::Relaxed) {
                    client.send("GET /load HTTP/1.1\r\nHost: a\r\n\r\n");
                    let head = client.head().to_lowercase();
                    assert!(head.starts_with("http/1.1 200 ") && !head.contains("close"), "{head}");
                    client.expect("ok");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut open = Vec::new();
    for phase in PHASES.iter().cycle().take(3 * PHASES.len()) {
        let mut client = chain.client();
        client.send(phase.request);
        let mut far = old.accept();
        far.head();
        far.expect(phase.at_origin);
        far.send(phase.answer);
        if !phase.answer.is_empty() {
            client.head();
        }
        client.expect(phase.at_client);
        open.push((phase, client, far));
    }
    let cut: Vec<_> = (0..3).map(|_| chain.client()).collect();
    cut.iter().for_each(|client| client.send_taken("GET /cut HTTP/1.1\r\nHo"));
    for workers in [1, 2] {
        chain.instance = chain.instance.options(&options(workers));
        chain.restart();
    }
    let address = format!("address = \"{}\"", chain.address);
    let after = text(&new, "another", "")
        .listener(&address)
        .http()
        .replace("name = \"origin\"", "name = \"another\"");
    chain.instance.configure(&after);
    for workers in [1, 2] {
        chain.instance = chain.instance.options(&options(workers));
        chain.restart();
    }
    for (phase, client, far) in &mut open {
        println!("{}", phase.name);
        client.send(phase.rest);
        far.expect(phase.rest_at_origin);
        far.send(phase.rest_of_answer);
        if phase.rest_of_answer.starts_with("HTTP/") {
            assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n"));
        }
        client.expect(phase.rest_at_client);
        if phase.name == "tunnel" {
            continue;
        }
        // What follows obeys the new configuration.
        client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut next = new.accept();
        assert!(next.head().starts_with("GET /next "));
        next.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n"));
        client.expect("ok");
    }
    for mut client in cut {
        client.send("st: a\r\n\r\n");
        let mut far = new.accept();
        assert!(far.head().starts_with("GET /cut "));
        far.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        client.head();
        client.expect("ok");
    }
    enough.store(true, Ordering::Relaxed);
    for thread in load {
        println!("{} requests", thread.join().unwrap());
    }
    drop(open);
    expect_nothing_active(chain.instance.base_id());
    expect(chain.instance.base_id(), &[("server.handover.cx_stayed", 0), ("server.handover.cx_refused", 0)]);
}

/// Relays in full flow, while their number of workers, their endpoint and their cluster change.
#[test]
fn relays_in_full_flow_move_to_other_workers_and_another_configuration() {
    let (old, new) = (Origin::new(), Origin::new());
    let options = |workers: u32| {
        format!("{} --handover live --concurrency {workers}", OPTIONS.replace("--concurrency 1", ""))
    };
    let mut chain = Chain::start(&Config::to([old.addr()]), &options(2), Config::tcp);
    let mut threads = Vec::new();
    let enough = Arc::new(AtomicBool::new(false));
    for number in 0..8_u32 {
        let (mut client, mut far) = tcp_pair(chain.client(), &old);
        let enough = Arc::clone(&enough);
        threads.push(std::thread::spawn(move || {
            let mut count = 0;
            while !enough.load(Ordering::Relaxed) {
                let up = format!("<{number}.{count}>").repeat(1 + count % 3000);
                client.send(&up);
                far.send(&up);
                far.expect(&up);
                client.expect(&up);
                count += 37;
            }
            count
        }));
    }
    let address = format!("address = \"{}\"", chain.address);
    let other = Config::to([new.addr()]).listener(&address).tcp().replace("\"origin\"", "\"another\"");
    for (restart, workers) in [1, 2, 1, 2, 2, 1].into_iter().enumerate() {
        if restart == 2 {
            chain.instance.configure(&other);
        }
        chain.instance = chain.instance.options(&options(workers));
        chain.restart();
    }
    enough.store(true, Ordering::Relaxed);
    for thread in threads {
        assert!(thread.join().unwrap() > 0);
    }
    let (mut client, mut far) = tcp_pair(chain.client(), &new);
    work(&mut client, &mut far);
    drop((client, far));
    expect_nothing_active(chain.instance.base_id());
    expect(chain.instance.base_id(), &[("server.handover.cx_stayed", 0)]);
}
