//! The next process is another one: fewer workers, another configuration.

use crate::chain::{Chain, End, OPTIONS, Origin};
use crate::support::stats::{expect, expect_nothing_active};
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
