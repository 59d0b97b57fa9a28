//! Routes, rewrites, clusters and endpoints.

use std::time::Duration;

use crate::support::origin::ok;
use crate::support::*;

/// An origin that answers with its name and the target.
fn named(name: &'static str) -> Origin {
    Origin::start(move |conn| {
        while let Ok(Some(request)) = conn.try_request() {
            if conn.try_send(ok(&format!("{name} {}", request.target()))).is_err() {
                return;
            }
        }
    })
}

fn cluster(name: &str, endpoints: &[&Origin], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|origin| origin.addr().to_string()).collect();
    format!("[[clusters]]\nname = \"{name}\"\nendpoints = {endpoints:?}\n{more}\n")
}

/// A proxy without origins, where every route responds by itself.
#[track_caller]
fn responding(routes: &str) -> Proxy {
    Proxy::start(Config::default().routes(routes).http())
}

#[track_caller]
fn ask(proxy: &Proxy, head: &str) -> Message {
    let mut client = proxy.connect();
    client.send(format!("{head}\r\n\r\n"));
    client.response()
}

/// Asks with each head and compares the bodies.
#[track_caller]
fn answers(proxy: &Proxy, table: &[(&str, &str)]) {
    cases(table.iter().map(|case| (case.0, case)), |(head, body)| {
        assert_eq!(ask(proxy, head).text(), *body);
    });
}

#[test]
fn hosts() {
    let proxy = responding(
        "[[listeners.routes]]
         hosts = [\"example.com\"]
         respond = { status = 200, body = \"exact\" }
         [[listeners.routes]]
         hosts = [\"*.example.com\", \"other.example\"]
         respond = { status = 200, body = \"wildcard\" }
         [[listeners.routes]]
         hosts = [\"[::1]\"]
         respond = { status = 200, body = \"address\" }
         [[listeners.routes]]
         respond = { status = 200, body = \"any\" }",
    );
    answers(
        &proxy,
        &[
            ("GET / HTTP/1.1\r\nHost: example.com", "exact"),
            ("GET / HTTP/1.1\r\nHost: EXAMPLE.Com", "exact"),
            ("GET / HTTP/1.1\r\nHost: example.com:8080", "exact"),
            ("GET http://example.com/ HTTP/1.1\r\nHost: www.example.com", "exact"),
            ("GET / HTTP/1.1\r\nHost: www.example.com", "wildcard"),
            ("GET / HTTP/1.1\r\nHost: a.b.Example.com:80", "wildcard"),
            ("GET / HTTP/1.1\r\nHost: other.example", "wildcard"),
            ("GET / HTTP/1.1\r\nHost: [::1]:80", "address"),
            ("GET / HTTP/1.1\r\nHost: xexample.com", "any"),
            ("GET / HTTP/1.1\r\nHost: .example.com", "any"),
            ("GET / HTTP/1.1\r\nHost: example.com.evil.example", "any"),
            ("GET / HTTP/1.1\r\nHost: www.other.example", "any"),
            ("GET / HTTP/1.0", "any"),
        ],
    );
}

#[test]
fn paths() {
    let proxy = responding(
        "[[listeners.routes]]
         path = \"/exact\"
         respond = { status = 200, body = \"exact\" }
         [[listeners.routes]]
         path_prefix = \"/api/\"
         respond = { status = 200, body = \"api\" }
         [[listeners.routes]]
         path_prefix = \"/a\"
         respond = { status = 200, body = \"a\" }
         [[listeners.routes]]
         path_prefix = \"/api/never\"
         respond = { status = 200, body = \"the first that matches wins\" }
         [[listeners.routes]]
         path_prefix = \"/\"
         respond = { status = 200, body = \"rest\" }",
    );
    answers(
        &proxy,
        &[
            ("GET /exact HTTP/1.1\r\nHost: a", "exact"),
            ("GET /exact?a=b HTTP/1.1\r\nHost: a", "exact"),
            ("GET http://a/exact HTTP/1.1\r\nHost: a", "exact"),
            ("GET /exact/ HTTP/1.1\r\nHost: a", "rest"),
            ("GET /Exact HTTP/1.1\r\nHost: a", "rest"),
            ("GET /api/x HTTP/1.1\r\nHost: a", "api"),
            ("GET /api/ HTTP/1.1\r\nHost: a", "api"),
            ("GET /api/never HTTP/1.1\r\nHost: a", "api"),
            ("GET /api HTTP/1.1\r\nHost: a", "a"),
            ("GET /b?/api/ HTTP/1.1\r\nHost: a", "rest"),
            ("GET / HTTP/1.1\r\nHost: a", "rest"),
            ("GET http://a HTTP/1.1\r\nHost: a", "rest"),
        ],
    );
}

#[test]
fn methods() {
    let proxy = responding(
        "[[listeners.routes]]
         methods = [\"POST\", \"PURGE\"]
         respond = { status = 200, body = \"change\" }
         [[listeners.routes]]
         respond = { status = 200, body = \"rest\" }",
    );
    answers(
        &proxy,
        &[
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0", "change"),
            ("PURGE / HTTP/1.1\r\nHost: a", "change"),
            ("GET / HTTP/1.1\r\nHost: a", "rest"),
            ("post / HTTP/1.1\r\nHost: a", "rest"),
            ("POSTS / HTTP/1.1\r\nHost: a", "rest"),
        ],
    );
}

#[test]
fn headers() {
    let proxy = responding(
        "[[listeners.routes]]
         headers = [{ name = \"X-Value\", value = \"yes\" }]
         respond = { status = 200, body = \"value\" }
         [[listeners.routes]]
         headers = [{ name = \"X-Prefix\", prefix = \"Bearer \" }]
         respond = { status = 200, body = \"prefix\" }
         [[listeners.routes]]
         headers = [{ name = \"X-Regex\", regex = \"^v[0-9]+$\" }]
         respond = { status = 200, body = \"regex\" }
         [[listeners.routes]]
         headers = [{ name = \"X-There\", present = true }, { name = \"X-Not\", present = true, invert = true }]
         respond = { status = 200, body = \"there\" }
         [[listeners.routes]]
         headers = [{ name = \"X-Other\", value = \"no\", invert = true }]
         respond = { status = 200, body = \"other\" }
         [[listeners.routes]]
         respond = { status = 200, body = \"rest\" }",
    );
    answers(
        &proxy,
        &[
            ("GET / HTTP/1.1\r\nHost: a\r\nx-VALUE: yes", "value"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Value: no\r\nX-Value: yes", "value"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Value: YES\r\nX-Other: no", "rest"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Value: yes!\r\nX-Other: no", "rest"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Prefix: Bearer x", "prefix"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Prefix: Basic x\r\nX-Other: no", "rest"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Regex: v12", "regex"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Regex: v\r\nX-Other: no", "rest"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-There: x\r\nX-Other: no", "there"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-There:\r\nX-Other: no", "there"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-There: x\r\nX-Not: x\r\nX-Other: no", "rest"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Other: yes", "other"),
            ("GET / HTTP/1.1\r\nHost: a", "other"),
        ],
    );
}

#[test]
fn conditions_are_combined() {
    let proxy = responding(
        "[[listeners.routes]]
         hosts = [\"a.example\"]
         path_prefix = \"/x\"
         methods = [\"GET\"]
         headers = [{ name = \"x\", present = true }]
         respond = { status = 200, body = \"all\" }
         [[listeners.routes]]
         respond = { status = 200, body = \"rest\" }",
    );
    answers(
        &proxy,
        &[
            ("GET /x HTTP/1.1\r\nHost: a.example\r\nX: y", "all"),
            ("GET /x HTTP/1.1\r\nHost: b.example\r\nX: y", "rest"),
            ("GET /y HTTP/1.1\r\nHost: a.example\r\nX: y", "rest"),
            ("PUT /x HTTP/1.1\r\nHost: a.example\r\nX: y", "rest"),
            ("GET /x HTTP/1.1\r\nHost: a.example", "rest"),
        ],
    );
}

#[test]
fn what_nothing_matches_is_not_found() {
    let origin = Origin::echoing_targets();
    let routes = "[[listeners.routes]]\nhosts = [\"a.example\"]\ncluster = \"origin\"";
    let proxy = Proxy::start(Config::to([origin.addr()]).routes(routes).http());
    let mut client = proxy.connect();
    let response = client.get("/");
    assert_eq!(response.status(), 404);
    assert!(response.text().trim().len() > 3);
    origin.assert_untouched();
    client.send("GET /ok HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response().text(), "/ok", "the connection goes on");
}

#[test]
fn fixed_responses() {
    let proxy = responding(
        "[[listeners.routes]]
         path = \"/teapot\"
         respond = { status = 418, body = \"short\", content_type = \"text/x-tea\" }
         response_headers = { set = { x-kind = \"pot\" } }
         [[listeners.routes]]
         path = \"/none\"
         respond = { status = 204 }
         [[listeners.routes]]
         path = \"/empty\"
         respond = { status = 200 }",
    );
    let mut client = proxy.connect();
    let response = client.get("/teapot");
    assert_eq!((response.status(), response.text().as_str()), (418, "short"));
    assert_eq!((response.value("content-type"), response.value("x-kind")), (Some("text/x-tea"), Some("pot")));
    assert_eq!(client.get("/none").status(), 204);
    let response = client.get("/empty");
    assert_eq!((response.status(), response.framing), (200, Framing::Length(0)));
    client.send("HEAD /teapot HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response_to("HEAD");
    assert_eq!((response.status(), response.value("content-length")), (418, Some("5")));
    client.send("POST /teapot HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "short");
}

#[test]
fn redirects() {
    let proxy = responding(
        "[[listeners.routes]]
         path_prefix = \"/secure\"
         redirect = { status = 308, scheme = \"https\" }
         [[listeners.routes]]
         path_prefix = \"/host\"
         redirect = { status = 301, host = \"new.example:8080\" }
         [[listeners.routes]]
         path = \"/path\"
         redirect = { status = 302, path = \"/elsewhere\" }
         [[listeners.routes]]
         path = \"/query\"
         redirect = { status = 303, path = \"/elsewhere?x=y\" }
         [[listeners.routes]]
         path_prefix = \"/prefix/\"
         redirect = { status = 307, prefix_rewrite = \"/other/\" }
         [[listeners.routes]]
         path_prefix = \"/strip\"
         redirect = { scheme = \"https\", host = \"new.example\", strip_query = true }",
    );
    let table = [
        ("GET /secure/a?b=c HTTP/1.1\r\nHost: old.example", 308, "https://old.example/secure/a?b=c"),
        ("GET /secure HTTP/1.1\r\nHost: old.example:80", 308, "https://old.example/secure"),
        ("GET /host/a?b HTTP/1.1\r\nHost: old.example", 301, "http://new.example:8080/host/a?b"),
        ("GET /path HTTP/1.1\r\nHost: old.example", 302, "http://old.example/elsewhere"),
        ("GET /path?a HTTP/1.1\r\nHost: old.example:81", 302, "http://old.example:81/elsewhere?a"),
        ("GET /query?a HTTP/1.1\r\nHost: old.example", 303, "http://old.example/elsewhere?x=y"),
        ("GET /prefix/a/b?c HTTP/1.1\r\nHost: old.example", 307, "http://old.example/other/a/b?c"),
        ("GET /strip/a?b HTTP/1.1\r\nHost: old.example", 301, "https://new.example/strip/a"),
    ];
    cases(table.map(|case| (case.0, case)), |(head, status, location)| {
        let response = ask(&proxy, head);
        assert_eq!((response.status(), response.value("location")), (status, Some(location)));
    });
}

/// What a client puts into a request must not become a header of the response.
#[test]
fn redirects_cannot_be_used_to_inject() {
    let proxy = responding(
        "[[listeners.routes]]
         redirect = { status = 302, scheme = \"https\" }",
    );
    let response = ask(&proxy, "GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: old.example");
    assert_eq!(response.value("location"), Some("https://old.example/%0d%0aSet-Cookie:%20a=b"));
    response.assert_absent("set-cookie");
}

#[test]
fn rewrites() {
    let origin = Origin::start(|conn| {
        while let Ok(Some(request)) = conn.try_request() {
            let text = format!("{} {}", request.value("host").unwrap_or("-"), request.target());
            conn.send(ok(&text));
        }
    });
    let routes = "
        [[listeners.routes]]
        path_prefix = \"/api/\"
        cluster = \"origin\"
        prefix_rewrite = \"/v2/\"
        [[listeners.routes]]
        path_prefix = \"/gone/\"
        cluster = \"origin\"
        prefix_rewrite = \"/\"
        [[listeners.routes]]
        path = \"/exact\"
        cluster = \"origin\"
        prefix_rewrite = \"/other\"
        [[listeners.routes]]
        path_prefix = \"/host\"
        cluster = \"origin\"
        host_rewrite = \"inner.example:81\"
        [[listeners.routes]]
        cluster = \"origin\"";
    let proxy = Proxy::start(Config::to([origin.addr()]).routes(routes).http());
    answers(
        &proxy,
        &[
            ("GET /api/x?y=/api/ HTTP/1.1\r\nHost: a", "a /v2/x?y=/api/"),
            ("GET /api/ HTTP/1.1\r\nHost: a", "a /v2/"),
            ("GET /gone/x HTTP/1.1\r\nHost: a", "a /x"),
            ("GET /gone/ HTTP/1.1\r\nHost: a", "a /"),
            ("GET /exact?q HTTP/1.1\r\nHost: a", "a /other?q"),
            ("GET /host/x HTTP/1.1\r\nHost: a", "inner.example:81 /host/x"),
            ("GET http://b/host HTTP/1.1\r\nHost: a", "inner.example:81 /host"),
            ("GET /as/it//is?%41 HTTP/1.1\r\nHost: A.Example:80", "A.Example:80 /as/it//is?%41"),
        ],
    );
}

#[test]
fn weighted_clusters_share_the_traffic() {
    let (much, little) = (named("much"), named("little"));
    let routes = "
        [[listeners.routes]]
        clusters = [{ name = \"much\", weight = 3 }, { name = \"little\", weight = 1 }]";
    let extra = cluster("much", &[&much], "") + &cluster("little", &[&little], "");
    let proxy = Proxy::start(Config::default().routes(routes).extra(&extra).http());
    let mut client = proxy.connect();
    let share = (0..800).filter(|_| client.get("/").text().starts_with("much")).count();
    // Six standard deviations to either side.
    assert!((527..=673).contains(&share), "{share} of 800 where 600 are expected");
}

#[test]
fn endpoints_take_turns() {
    let origins = [named("0"), named("1"), named("2")];
    let proxy = Proxy::to(origins.iter().map(Origin::addr));
    let mut client = proxy.connect();
    let names: Vec<_> = (0..30).map(|_| client.get("/").text()).collect();
    for origin in &origins {
        assert_eq!(origin.requests().len(), 10, "{names:?}");
    }
}

#[test]
fn endpoints_share_by_weight() {
    for (method, tolerance) in [("round_robin", 1), ("random", 75)] {
        let (much, little) = (named("much"), named("little"));
        let extra = format!(
            "[[clusters]]\nname = \"both\"\nload_balancing = \"{method}\"\n\
             endpoints = [{{ address = \"{}\", weight = 3 }}, \"{}\"]",
            much.addr(),
            little.addr()
        );
        let routes = "[[listeners.routes]]\ncluster = \"both\"";
        let proxy = Proxy::start(Config::default().routes(routes).extra(&extra).http());
        let mut client = proxy.connect();
        for _ in 0..800 {
            client.get("/");
        }
        let share = much.requests().len();
        assert!(share.abs_diff(600) <= tolerance, "{method}: {share} of 800 where 600 are expected");
    }
}

/// Of two endpoints, the one that is stuck gets little of what comes later.
#[test]
fn least_request_avoids_the_busy() {
    let hold = Gate::default();
    let busy = {
        let hold = hold.clone();
        Origin::start(move |conn| {
            while let Ok(Some(_)) = conn.try_request() {
                hold.wait();
                if conn.try_send(ok("busy")).is_err() {
                    return;
                }
            }
        })
    };
    let free = named("free");
    let config = Config::to([busy.addr(), free.addr()]).cluster("load_balancing = \"least_request\"");
    let proxy = Proxy::start(config.http());
    // Both candidates being the same endpoint, a stuck one may be chosen now and then.
    let mut waiting = Vec::new();
    let mut served = 0;
    while served < 100 {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        match client.poll(Duration::from_millis(100)) {
            Ok(_) => served += 1,
            Err(Failure::TimedOut) => waiting.push(client),
            Err(failure) => panic!("{failure}"),
        }
        assert!(waiting.len() < 10, "{served} served, {} stuck", waiting.len());
    }
    hold.open();
    for mut client in waiting {
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn a_failure_to_connect_moves_on_to_the_next_endpoint() {
    let refusing = RefusingPort::new();
    let origin = named("up");
    let config = Config::to([refusing.addr(), origin.addr()]).cluster("connect_attempts = 2");
    let proxy = Proxy::start(config.http());
    for round in 0..10 {
        let mut client = proxy.connect();
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        let response = client.response();
        assert_eq!(response.text(), "up /x", "round {round}: {response:?}");
    }
    assert!(origin.requests().iter().all(|request| request.text() == "hello"), "{:?}", origin.requests());
}

#[test]
fn all_endpoints_down_is_an_error_of_the_gateway() {
    let refusing = [RefusingPort::new(), RefusingPort::new()];
    let proxy = Proxy::to(refusing.iter().map(RefusingPort::addr));
    let mut client = proxy.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert!(matches!(response.status(), 502 | 503), "{response:?}");
        assert!(response.text().trim().len() > 3);
        if response.says_close() {
            client = proxy.connect();
        }
    }
}

#[test]
fn an_endpoint_that_comes_back_is_used_again() {
    let address = free_address();
    let proxy = Proxy::to([address]);
    assert!(matches!(proxy.connect().get("/").status(), 502 | 503));
    let origin = Origin::start_at(address, |conn| {
        conn.request();
        conn.send(ok("back"));
    });
    assert_eq!(proxy.connect().get("/").text(), "back");
    drop(origin);
}

#[test]
fn unix_sockets_on_both_sides() {
    let dir = TempDir::new();
    let path = dir.path().join("origin.sock");
    let origin = Origin::start_unix(&path, |conn| {
        while let Ok(Some(request)) = conn.try_request() {
            conn.send(ok(request.target()));
        }
    });
    let config =
        Config::to([format!("unix:{}", path.display())]).listener("address = \"unix:{dir}/web.sock\"");
    let proxy = Proxy::start(config.http());
    let mut client = Client::connect_unix(&proxy.path("web.sock"));
    assert_eq!(client.get("/through/files").text(), "/through/files");
    assert_eq!(client.get("/again").text(), "/again");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn names_are_resolved() {
    let origin = Origin::echoing_targets();
    let config = Config::to([format!("localhost:{}", origin.addr().port())]).cluster("connect_attempts = 3");
    let proxy = Proxy::start(config.http());
    for _ in 0..4 {
        assert_eq!(proxy.connect().get("/by/name").text(), "/by/name");
    }
}

#[test]
fn names_that_do_not_resolve_are_an_error_of_the_gateway() {
    let proxy = Proxy::to(["nothing.invalid:80"]);
    let response = proxy.connect().get("/");
    assert!(matches!(response.status(), 502 | 503), "{response:?}");
    assert!(response.text().trim().len() > 3);
}

#[test]
fn several_workers_serve_all_clients() {
    let origin = Origin::echoing_targets();
    let proxy = proxy::Builder::new(Config::to([origin.addr()]).http()).concurrency(4).start();
    let mut clients: Vec<_> = (0..64).map(|_| proxy.connect()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            let target = format!("/{number}/{round}");
            assert_eq!(client.get(&target).text(), target);
        }
    }
}
