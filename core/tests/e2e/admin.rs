//! The admin interface: every path, what it refuses, and what it bounds.

use std::time::Duration;

use ouro::config::model::Address;
use ouro::control::admin::Stage;
use serde_json::Value;

use super::admin_fake::{Fake, traffic};
use super::support::{Client, DEADLINE, Message, cases, eventually};

fn ask(fake: &Fake, request_line: &str, fields: &str) -> Message {
    let mut client = Client::connect(fake.addr());
    client.send(format!("{request_line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n"));
    client.response_to(request_line.split(' ').next().unwrap())
}

fn get(fake: &Fake, target: &str) -> Message {
    ask(fake, &format!("GET {target}"), "")
}

fn post(fake: &Fake, target: &str) -> Message {
    ask(fake, &format!("POST {target}"), "Content-Length: 0\r\n")
}

#[track_caller]
fn json(message: &Message) -> Value {
    assert_eq!(message.expect_value("content-type"), "application/json");
    serde_json::from_slice(&message.body).unwrap_or_else(|error| panic!("{error}: {}", message.text()))
}

#[test]
fn every_response_says_how_it_may_be_used() {
    let fake = Fake::start(traffic);
    for target in ["/", "/ready", "/stats", "/nothing"] {
        let response = get(&fake, target);
        assert_eq!(response.expect_value("cache-control"), "no-store");
        assert_eq!(response.expect_value("x-content-type-options"), "nosniff");
        assert_eq!(response.expect_value("cross-origin-resource-policy"), "same-origin");
        assert!(response.expect_value("content-security-policy").starts_with("default-src 'none'"));
    }
}

#[test]
fn ready_tells_load_balancers_what_to_do() {
    let fake = Fake::start(traffic);
    let ready = |status, text: &str| {
        let response = get(&fake, "/ready");
        assert_eq!((response.status(), response.text().as_str()), (status, text));
        assert_eq!(ask(&fake, "HEAD /ready", "").status(), status);
    };
    ready(200, "LIVE\n");
    assert_eq!(post(&fake, "/healthcheck/fail").text(), "OK\n");
    ready(503, "DRAINING\nhealthcheck/fail is in effect\n");
    assert_eq!(json(&get(&fake, "/server_info"))["state"], "DRAINING");
    assert_eq!(post(&fake, "/healthcheck/ok").text(), "OK\n");
    ready(200, "LIVE\n");
    fake.status().set_stage(Stage::Draining);
    ready(503, "DRAINING\n");
    fake.status().set_stage(Stage::Initialising);
    ready(503, "INITIALIZING\n");
    // What is no browser may speak HTTP/1.0 and need not name a host.
    let mut client = Client::connect(fake.addr());
    client.send("GET /ready HTTP/1.0\r\n\r\n");
    assert_eq!(client.response_head("GET").status(), 503);
}

#[test]
fn server_info_has_envoys_names() {
    let fake = Fake::start(traffic);
    let info = json(&get(&fake, "/server_info"));
    for (name, value) in [
        ("version", "0.1.0".into()),
        ("state", "LIVE".into()),
        ("hot_restart_version", "1.1".into()),
        ("pid", 4711.into()),
        ("epoch", 3.into()),
        ("engine", "io_uring".into()),
        ("kernel", "6.1.0".into()),
        ("command_line_options", serde_json::json!({ "base_id": 7 })),
        ("capabilities", serde_json::json!({ "recv_limit": false })),
    ] {
        assert_eq!(info[name], value, "{name}");
    }
    let seconds =
        |name: &str| info[name].as_str().unwrap().strip_suffix('s').unwrap().parse::<u64>().unwrap();
    assert!(seconds("uptime_all_epochs") > seconds("uptime_current_epoch"), "{info}");
    assert_eq!(get(&fake, "/hot_restart_version").text(), "1.1\n");
}

#[test]
fn statistics_come_in_three_formats() {
    let fake = Fake::start(|_| traffic(10));
    let text = get(&fake, "/stats").text();
    assert!(text.contains("http.web.downstream_rq_total: 2000\n"), "{text}");
    assert!(text.contains("server.live: 1\n"), "{text}");
    let filtered = get(&fake, "/stats?filter=%5Ecluster%5C.demo%5C.upstream_(rq%7Ccx)_[at]").text();
    assert_eq!(
        filtered,
        "cluster.demo.upstream_cx_active: 12\ncluster.demo.upstream_rq_total: 1970\n\
                          cluster.demo.upstream_rq_time: "
            .to_owned()
            + filtered.rsplit("rq_time: ").next().unwrap()
    );
    let stats = json(&get(&fake, "/stats?format=json&filter=downstream_rq_5xx"));
    assert_eq!(stats["stats"][0], serde_json::json!({ "name": "http.web.downstream_rq_5xx", "value": 1030 }));
    let exposed = get(&fake, "/stats/prometheus");
    assert_eq!(exposed.expect_value("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        exposed.text().contains("ouro_http_downstream_rq_total{listener=\"web\"} 2000"),
        "{}",
        exposed.text()
    );
    assert_eq!(get(&fake, "/stats?format=prometheus").text(), exposed.text());
    let live = json(&get(&fake, "/stats/live"));
    assert_eq!((&live["server"]["state"], &live["live"]["generations"]), (&"LIVE".into(), &4.into()));
    for (target, said) in [
        ("/stats?filter=(", "filter=( is not a regular expression"),
        ("/stats?filter=a%7B1000%7D%7B1000%7D", "is not a regular expression"),
        ("/stats?format=xml", "There is no format \"xml\"; there are text, json and prometheus."),
    ] {
        let refused = get(&fake, target);
        assert_eq!(refused.status(), 400, "{target}");
        assert!(refused.text().contains(said), "{target}: {}", refused.text());
    }
}

#[test]
fn clusters_and_listeners_are_listed_as_envoy_does() {
    let fake = Fake::start(|_| traffic(10));
    let text = get(&fake, "/clusters").text();
    for line in [
        "demo::127.0.0.1:9000::rq_total::1640",
        "demo::127.0.0.1:9000::rq_active::2",
        "demo::127.0.0.1:9000::health_flags::healthy",
        "demo::127.0.0.1:9000::weight::2",
        "demo::unix:/run/app.sock::weight::1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
    let clusters = json(&get(&fake, "/clusters?format=json"));
    let hosts = &clusters["cluster_statuses"][0]["host_statuses"];
    let address = serde_json::json!({ "socket_address": { "address": "127.0.0.1", "port_value": 9000 } });
    assert_eq!(hosts[0]["address"], address);
    assert_eq!(
        hosts[0]["stats"][1],
        serde_json::json!({ "name": "rq_active", "type": "GAUGE", "value": "2" })
    );
    assert_eq!(hosts[1]["address"], serde_json::json!({ "pipe": { "path": "/run/app.sock" } }));
    assert_eq!(get(&fake, "/listeners").text(), "web::127.0.0.1:8080\n");
    let listeners = json(&get(&fake, "/listeners?format=json"));
    assert_eq!(listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"], 8080);
    assert_eq!(get(&fake, "/listeners?format=yaml").status(), 400);
    assert_eq!(json(&get(&fake, "/config_dump"))["clusters"][0]["name"], "demo");
}

#[test]
fn commands_reach_who_carries_them_out() {
    let fake = Fake::start(traffic);
    for (target, status, answer, told) in [
        ("/drain_listeners", 200, "OK\n", "drain graceful=false"),
        ("/drain_listeners?graceful", 200, "OK\n", "drain graceful=true"),
        ("/healthcheck/fail", 200, "OK\n", "fail"),
        ("/healthcheck/ok", 200, "OK\n", "ok"),
        ("/logging?level=debug", 200, "active loggers:\n", "level Some(Level(Debug))"),
        ("/logging?level=off", 200, "active loggers:\n", "level None"),
        ("/reset_counters", 500, "Not today.\n", "reset"),
        ("/quitquitquit", 200, "OK\n", "quit"),
    ] {
        let response = post(&fake, target);
        assert_eq!(response.status(), status, "{target}");
        assert!(response.text().starts_with(answer), "{target}: {}", response.text());
        eventually(target, || fake.told().last().is_some_and(|last| last == told));
    }
    assert_eq!(post(&fake, "/logging?level=loud").status(), 400);
    assert_eq!(post(&fake, "/logging").status(), 400);
    assert!(get(&fake, "/logging").text().starts_with("active loggers:\n  ouro: "));
}

#[test]
fn what_changes_state_takes_post_only() {
    let fake = Fake::start(traffic);
    for target in
        ["/drain_listeners", "/healthcheck/fail", "/healthcheck/ok", "/reset_counters", "/quitquitquit"]
    {
        let refused = get(&fake, target);
        assert_eq!((refused.status(), refused.expect_value("allow")), (405, "POST"), "{target}");
        let hint = format!(
            "{target} changes state and takes POST, not GET: curl -X POST 'http://127.0.0.1{target}'\n"
        );
        assert_eq!(refused.text(), hint);
    }
    let refused = post(&fake, "/stats");
    assert_eq!((refused.status(), refused.expect_value("allow")), (405, "GET,HEAD"));
    assert_eq!(ask(&fake, "DELETE /logging", "").expect_value("allow"), "GET,HEAD,POST");
    let unknown = get(&fake, "/stat");
    assert_eq!(unknown.status(), 404);
    assert!(unknown.text().starts_with("There is no /stat. There are:\n"), "{}", unknown.text());
    assert!(unknown.text().trim_end().ends_with(get(&fake, "/help").text().trim_end()));
    assert_eq!(fake.told(), Vec::<String>::new());
}

#[test]
fn web_pages_in_the_operators_browser_are_refused() {
    let fake = Fake::start(traffic);
    let own = format!("Origin: http://{}\r\n", fake.addr());
    cases(
        [
            ("another origin", ("Origin: http://evil.example\r\n", "127.0.0.1", 403)),
            ("a file or sandboxed frame", ("Origin: null\r\n", "127.0.0.1", 403)),
            ("another site", ("Sec-Fetch-Site: cross-site\r\n", "127.0.0.1", 403)),
            ("a name that was made to point here", ("", "evil.example", 403)),
            ("that name and its page", ("Origin: http://evil.example\r\n", "evil.example", 403)),
            ("no page", ("", "127.0.0.1", 200)),
            ("a name of ours", ("", "Proxy.Internal:80", 200)),
            ("our own page", (own.as_str(), &fake.addr().to_string(), 200)),
        ]
        .map(|(name, case): (_, (&str, &str, _))| (name, case)),
        |(fields, host, status)| {
            let mut client = Client::connect(fake.addr());
            client.send(format!(
                "POST /healthcheck/ok HTTP/1.1\r\nHost: {host}\r\n{fields}Content-Length: 0\r\n\r\n"
            ));
            assert_eq!(client.response().status(), status);
        },
    );
    eventually("three commands", || fake.told().len() == 3);
    let mut client = Client::connect(fake.addr());
    client.send("GET /stats HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    let refused = client.response();
    assert_eq!(refused.status(), 403);
    assert!(refused.text().contains("Call it by its IP address or as localhost"), "{}", refused.text());
}

#[test]
fn bodies_and_heads_are_bounded() {
    let fake = Fake::start(traffic);
    assert_eq!(ask(&fake, "POST /healthcheck/ok", "Content-Length: 65537\r\n").status(), 413);
    let body = "x".repeat(65_536);
    let fields = format!("Content-Length: 65536\r\n\r\n{body}");
    let mut client = Client::connect(fake.addr());
    client.send(format!("POST /healthcheck/ok HTTP/1.1\r\nHost: localhost\r\n{fields}"));
    assert_eq!(client.response().status(), 200);
    let mut client = Client::connect(fake.addr());
    client.send("POST /healthcheck/ok HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let _ = client.try_send(format!("20000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x20000)));
    assert_eq!(client.response().status(), 413);
    // Not a byte more than is read before the refusal: the rest would reset the connection under the response.
    let mut head = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Long: ".to_vec();
    head.resize(32 * 1024, b'x');
    let mut client = Client::connect(fake.addr());
    client.send(head);
    assert_eq!(client.response().status(), 431);
    eventually("one command", || fake.told() == ["ok"]);
}

#[test]
fn more_clients_than_places_wait_their_turn() {
    let fake = Fake::start(traffic);
    let mut holding: Vec<_> = (0..64).map(|_| Client::connect(fake.addr())).collect();
    for client in &mut holding {
        client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.response().status(), 200);
    }
    let mut late = Client::connect(fake.addr());
    late.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    late.expect_quiet();
    holding.pop();
    assert_eq!(late.response().status(), 200);
}

#[test]
fn whoever_says_nothing_loses_the_place() {
    let fake = Fake::start(traffic);
    let mut silent = Client::connect(fake.addr());
    let mut idle = Client::connect(fake.addr());
    idle.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(idle.response().status(), 200);
    let began = std::time::Instant::now();
    for client in [&mut silent, &mut idle] {
        // Longer than the harness waits for anything.
        eventually_gone(client);
    }
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
}

fn eventually_gone(client: &mut Client) {
    for _ in 0..2 {
        if !matches!(client.poll(DEADLINE), Err(super::support::Failure::TimedOut)) {
            return;
        }
    }
    panic!("the connection is still open");
}

#[test]
fn a_unix_socket_serves_as_well() {
    let path = std::env::temp_dir().join(format!("ouro-admin-e2e-{}.sock", std::process::id()));
    let fake = Fake::start_at(&Address::Unix(path.clone()), traffic);
    let mut client = Client::connect_unix(&path);
    client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.response().text(), "LIVE\n");
    drop(fake);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn stopping_closes_idle_connections_and_frees_the_address() {
    let mut fake = Fake::start(traffic);
    let mut client = Client::connect(fake.addr());
    client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.response().status(), 200);
    let address = fake.addr();
    fake.stop();
    client.expect_gone();
    drop(Fake::start_at(&Address::Ip(address), traffic));
}
