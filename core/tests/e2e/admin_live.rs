//! The admin interface of a running process.

use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::support::proxy::Builder;
use crate::support::*;

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

#[track_caller]
fn start(origin: &Origin) -> Proxy {
    Proxy::start(Config::to([origin.addr()]).extra(ADMIN).http())
}

/// One request to the admin interface of `proxy`; status and body.
#[track_caller]
fn ask(proxy: &Proxy, method: &str, path: &str) -> (u16, String) {
    let mut client = Client::connect(proxy.admin());
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let response = client.response();
    (response.status(), response.text())
}

#[test]
fn what_is_counted_is_shown() {
    let origin = Origin::echoing_targets();
    let proxy = start(&origin);
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/").status(), 200);
    }
    let (status, text) = ask(&proxy, "GET", "/stats");
    assert_eq!(status, 200);
    for line in [
        "http.web.downstream_rq_total: 5",
        "http.web.downstream_rq_2xx: 5",
        "cluster.origin.upstream_rq_total: 5",
        "listener.web.downstream_cx_active: 1",
        "server.live: 1",
        "server.concurrency: 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
    }
    let (_, prometheus) = ask(&proxy, "GET", "/stats/prometheus");
    assert!(prometheus.contains("ouro_cluster_upstream_rq_total{cluster=\"origin\"} 5\n"), "{prometheus}");
    let (_, clusters) = ask(&proxy, "GET", "/clusters");
    assert!(clusters.contains(&format!("origin::{}::rq_total::5", origin.addr())), "{clusters}");
    let (_, listeners) = ask(&proxy, "GET", "/listeners");
    assert!(listeners.contains(&proxy.addr("web").to_string()), "{listeners}");
    assert_eq!(ask(&proxy, "GET", "/ready"), (200, "LIVE\n".into()));
}

#[test]
fn counters_are_set_to_zero_on_request_and_go_on_from_there() {
    let origin = Origin::echoing_targets();
    let proxy = start(&origin);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.get("/");
    }
    assert_eq!(ask(&proxy, "GET", "/reset_counters").0, 405, "what changes state takes POST");
    assert_eq!(proxy.stats().get("http.web.downstream_rq_total"), 3);
    assert_eq!(ask(&proxy, "POST", "/reset_counters").0, 200);
    assert_eq!(proxy.stats().get("http.web.downstream_rq_total"), 0);
    assert_eq!(proxy.stats().get("listener.web.downstream_cx_active"), 1, "gauges stay");
    client.get("/");
    assert_eq!(proxy.stats().get("http.web.downstream_rq_total"), 1);
}

#[test]
fn drained_listeners_take_nothing_more_and_connections_go_on() {
    let origin = Origin::echoing_targets();
    let proxy = start(&origin);
    let mut client = proxy.connect();
    client.get("/");
    assert_eq!(ask(&proxy, "POST", "/drain_listeners?graceful").0, 200);
    assert_eq!(ask(&proxy, "GET", "/ready").0, 503);
    eventually("the listener is closed", || std::net::TcpStream::connect(proxy.addr("web")).is_err());
    let last = client.get("/last");
    assert_eq!((last.status(), last.says_close()), (200, true));
    client.expect_eof();
    assert!(proxy.is_running(), "draining listeners ends no process");
    assert_eq!(ask(&proxy, "POST", "/quitquitquit").0, 200);
    proxy.expect_exit(0);
}

#[test]
fn listeners_drained_at_once_leave_open_connections_alone() {
    let origin = Origin::echoing_targets();
    let proxy = start(&origin);
    let mut client = proxy.connect();
    client.get("/");
    assert_eq!(ask(&proxy, "POST", "/drain_listeners").0, 200);
    for _ in 0..3 {
        assert!(!client.get("/").says_close());
    }
}

#[test]
fn the_log_level_changes_while_running() {
    let origin = Origin::echoing_targets();
    let proxy = start(&origin);
    let refused = |proxy: &Proxy| {
        let mut client = proxy.connect();
        client.send("nonsense\r\n\r\n");
        assert_eq!(client.response().status(), 400);
    };
    refused(&proxy);
    assert_eq!(ask(&proxy, "POST", "/logging?level=debug").0, 200);
    refused(&proxy);
    proxy.wait_log("a refused request", |line| line.contains("request refused"));
    assert_eq!(proxy.log_lines().iter().filter(|line| line.contains("request refused")).count(), 1);
    assert_eq!(ask(&proxy, "POST", "/logging?level=loud").0, 400);
}

#[test]
fn health_checks_fail_on_request() {
    let origin = Origin::echoing_targets();
    let proxy = start(&origin);
    assert_eq!(ask(&proxy, "POST", "/healthcheck/fail").0, 200);
    assert_eq!(ask(&proxy, "GET", "/ready").0, 503);
    assert_eq!(proxy.connect().get("/").status(), 200, "traffic goes on");
    assert_eq!(ask(&proxy, "POST", "/healthcheck/ok").0, 200);
    assert_eq!(ask(&proxy, "GET", "/ready").0, 200);
}

#[test]
fn a_unix_socket_can_be_the_admin_address() {
    use std::os::unix::fs::PermissionsExt;
    let origin = Origin::silent();
    let config = Config::to([origin.addr()]).extra("[admin]\naddress = \"unix:{dir}/admin.sock\"\n").http();
    let proxy = Proxy::start(config);
    let path = proxy.path("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = Client::connect_unix(&path);
    client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    proxy.signal(Signal::SIGTERM);
    proxy.expect_exit(0);
    assert!(!path.exists(), "the socket goes with the process");
}

#[test]
fn the_addresses_are_written_where_they_were_asked_for() {
    let origin = Origin::silent();
    let builder = Builder::new(Config::to([origin.addr()]).extra(ADMIN).http());
    let (admin, base) = (builder.dir().join("admin"), builder.dir().join("base"));
    let proxy = builder
        .arguments([
            "--admin-address-path",
            admin.to_str().unwrap(),
            "--base-id-path",
            base.to_str().unwrap(),
        ])
        .start();
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(admin).trim(), proxy.admin().to_string());
    assert_eq!(read(base).trim(), Arc::clone(proxy.base_id()).0.to_string());
}

#[test]
fn a_taken_admin_address_is_said_and_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new();
    let path = dir.path().join("o.toml");
    let text = format!(
        "[admin]\naddress = \"{}\"\n[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         protocol = \"tcp\"\ncluster = \"c\"\n[[clusters]]\nname = \"c\"\nendpoints = [\"127.0.0.1:1\"]\n",
        taken.local_addr().unwrap()
    );
    std::fs::write(&path, text).unwrap();
    let exit = Exit::of(&["-c", path.to_str().unwrap()]);
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.stderr.contains("admin interface: cannot listen on"), "{}", exit.stderr);
}
