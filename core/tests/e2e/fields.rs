//! Header fields on their way through: what is removed, added, edited, and what is left alone.

use crate::support::origin::ok;
use crate::support::*;

#[test]
fn hop_by_hop_fields_of_requests_are_removed() {
    let origin = Origin::echoing_targets();
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Named, keep-alive ,x-other\r\nX-NAMED: 1\r\nKeep-Alive: 5\r\n\
         Connection: X-Third\r\nX-Other: 2\r\nX-Third: 3\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Stays: yes\r\nX-Named-Not: stays\r\n\r\n",
    );
    assert_eq!(client.response().status(), 200);
    let request = origin.only_request();
    for name in
        ["x-named", "keep-alive", "x-other", "x-third", "proxy-connection", "te", "upgrade", "http2-settings"]
    {
        request.assert_absent(name);
    }
    assert_eq!((request.value("x-stays"), request.value("x-named-not")), (Some("yes"), Some("stays")));
    assert!(!request.has_connection_option("x-named"), "{request:?}");
}

#[test]
fn hop_by_hop_fields_of_responses_are_removed() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nConnection: X-Named, keep-alive\r\nx-named: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Stays: yes\r\nContent-Length: 2\r\n\r\nhi",
    );
    let proxy = Proxy::to([origin.addr()]);
    let response = proxy.connect().get("/");
    assert_eq!(response.text(), "hi");
    for name in ["x-named", "keep-alive", "proxy-connection", "upgrade"] {
        response.assert_absent(name);
    }
    assert_eq!(response.value("x-stays"), Some("yes"));
}

/// A client must not be able to take fields away that the proxy, or the origin behind it, relies on.
#[test]
fn connection_cannot_name_what_the_proxy_needs() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            conn.send(ok(&request.text()));
        }
    });
    let forwarding = "forwarding = { x_forwarded_for = \"replace\", x_forwarded_proto = \"replace\", x_request_id = \"keep\" }";
    let proxy = Proxy::with_listener(&origin, forwarding);
    let mut client = proxy.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\
         Connection: host, content-length, x-forwarded-for, x-forwarded-proto, x-request-id\r\n\r\nhello",
    );
    let response = client.response();
    if response.status() == 400 {
        origin.assert_untouched();
        return;
    }
    assert_eq!(response.text(), "hello");
    let request = origin.only_request();
    assert_eq!(request.value("host"), Some("a.example"));
    assert_eq!(request.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.value("x-forwarded-proto"), Some("http"));
    assert!(!request.expect_value("x-request-id").is_empty());
}

#[test]
fn fields_keep_their_order_and_number() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-One: 1\r\nSet-Cookie: b=2\r\nVary: x\r\nset-cookie: c=3\r\n\
         Content-Length: 2\r\n\r\nhi",
    );
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nX-B: 2\r\nX-A: 3\r\nCookie: x=y; z\r\nX-C:\r\n\r\n");
    let response = client.response();
    assert_eq!(response.values("set-cookie"), ["a=1", "b=2", "c=3"]);
    let request = origin.only_request();
    let of_test =
        |(name, _): &&(String, String)| name.to_ascii_lowercase().starts_with("x-") && name.len() == 3;
    let seen: Vec<_> = request.fields.iter().filter(of_test).map(|(_, value)| value.as_str()).collect();
    assert_eq!(seen, ["1", "2", "3", ""]);
    assert_eq!(request.value("cookie"), Some("x=y; z"));
}

#[test]
fn high_bytes_in_values_pass_unchanged() {
    let origin =
        Origin::replying(b"HTTP/1.1 200 OK\r\nX-B: \xc3\xa9\xff\r\nContent-Length: 0\r\n\r\n".to_vec());
    let proxy = Proxy::to([origin.addr()]);
    let mut client = proxy.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: \xc3\xa9\xff\r\n\r\n");
    assert_eq!(client.response().value("x-b"), Some("\u{c3}\u{a9}\u{ff}"));
    assert_eq!(origin.only_request().value("x-a"), Some("\u{c3}\u{a9}\u{ff}"));
}

/// Sends one request with these fields through a listener with these forwarding switches; returns what the origin saw
/// and what the client got.
#[track_caller]
fn forwarded(switches: &str, fields: &str) -> (Message, Message) {
    let origin = Origin::replying("HTTP/1.1 200 OK\r\nVia: 1.1 before\r\nContent-Length: 0\r\n\r\n");
    let proxy = Proxy::with_listener(&origin, &format!("forwarding = {{ {switches} }}"));
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let response = client.response();
    (origin.only_request(), response)
}

/// All values of a field as the one list that they are.
fn list(message: &Message, name: &str) -> String {
    message.values(name).join(", ")
}

#[test]
fn x_forwarded_for_is_appended_replaced_or_left_alone() {
    let table = [
        ("append", "", "127.0.0.1"),
        ("append", "X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4, 127.0.0.1"),
        ("append", "x-forwarded-for: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n", "1.2.3.4, 5.6.7.8, 127.0.0.1"),
        ("replace", "", "127.0.0.1"),
        ("replace", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n", "127.0.0.1"),
        ("off", "", ""),
        ("off", "X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4"),
    ];
    cases(table.map(|case| (format!("{case:?}"), case)), |(switch, fields, expected)| {
        let (request, _) = forwarded(&format!("x_forwarded_for = \"{switch}\""), fields);
        assert_eq!(list(&request, "x-forwarded-for"), expected);
    });
}

#[test]
fn x_forwarded_proto_is_replaced_kept_or_left_alone() {
    let table = [
        ("replace", "", "http"),
        ("replace", "X-Forwarded-Proto: https\r\n", "http"),
        ("keep", "", "http"),
        ("keep", "X-Forwarded-Proto: https\r\n", "https"),
        ("off", "", ""),
        ("off", "X-Forwarded-Proto: https\r\n", "https"),
    ];
    cases(table.map(|case| (format!("{case:?}"), case)), |(switch, fields, expected)| {
        let (request, _) = forwarded(&format!("x_forwarded_proto = \"{switch}\""), fields);
        assert_eq!(list(&request, "x-forwarded-proto"), expected);
    });
}

#[test]
fn x_request_id_is_kept_replaced_or_left_alone() {
    let id = |switch: &str, fields: &str| {
        let (request, _) = forwarded(&format!("x_request_id = \"{switch}\""), fields);
        request.value("x-request-id").map(str::to_owned)
    };
    assert_eq!(id("keep", "X-Request-Id: mine\r\n").as_deref(), Some("mine"));
    assert!(id("keep", "").is_some_and(|id| id.len() >= 16));
    assert!(id("replace", "X-Request-Id: mine\r\n").is_some_and(|id| id.len() >= 16 && id != "mine"));
    assert_eq!(id("off", "X-Request-Id: mine\r\n").as_deref(), Some("mine"));
    assert_eq!(id("off", ""), None);
}

#[test]
fn request_ids_differ() {
    let origin = Origin::replying(ok("x"));
    let proxy = Proxy::with_listener(&origin, "forwarding = { x_request_id = \"replace\" }");
    let mut client = proxy.connect();
    for _ in 0..100 {
        client.get("/");
    }
    let mut ids: Vec<_> =
        origin.requests().iter().map(|request| request.expect_value("x-request-id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[test]
fn via_is_appended_or_left_alone() {
    let (request, response) = forwarded("via = \"ouro\"", "");
    assert_eq!(list(&request, "via"), "1.1 ouro");
    assert_eq!(list(&response, "via"), "1.1 before, 1.1 ouro");
    let (request, _) = forwarded("via = \"ouro\"", "Via: 1.0 fred, 1.1 p.example\r\n");
    assert_eq!(list(&request, "via"), "1.0 fred, 1.1 p.example, 1.1 ouro");
    let (request, response) = forwarded("via = \"off\"", "Via: 1.0 fred\r\n");
    assert_eq!((list(&request, "via").as_str(), list(&response, "via").as_str()), ("1.0 fred", "1.1 before"));
}

#[test]
fn request_fields_are_edited() {
    let origin = Origin::echoing_targets();
    let config = Config::to([origin.addr()])
        .listener("request_headers = { set = { x-a = \"listener\" }, add = { x-b = \"listener\" }, remove = [\"x-c\"] }")
        .routes(
            "[[listeners.routes]]
             cluster = \"origin\"
             request_headers = { set = { x-d = \"route\" }, add = { x-b = \"route\" }, remove = [\"x-e\"] }",
        );
    let proxy = Proxy::start(config.http());
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\nX-B: client\r\nX-C: client\r\nX-E: client\r\n\
         X-F: client\r\n\r\n",
    );
    assert_eq!(client.response().status(), 200);
    let request = origin.only_request();
    assert_eq!(request.values("x-a"), ["listener"]);
    assert_eq!(request.values("x-b"), ["client", "listener", "route"]);
    request.assert_absent("x-c");
    assert_eq!(request.values("x-d"), ["route"]);
    request.assert_absent("x-e");
    assert_eq!(request.values("x-f"), ["client"]);
}

#[test]
fn response_fields_are_edited() {
    let origin = Origin::replying(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nX-A: origin\r\nX-B: origin\r\nContent-Length: 2\r\n\r\nhi",
    );
    let config = Config::to([origin.addr()])
        .listener("response_headers = { set = { x-a = \"listener\" }, add = { x-b = \"listener\" } }")
        .routes(
            "[[listeners.routes]]
             cluster = \"origin\"
             response_headers = { set = { x-a = \"route\" }, add = { x-b = \"route\" }, remove = [\"server\"] }",
        );
    let proxy = Proxy::start(config.http());
    let response = proxy.connect().get("/");
    assert_eq!(response.values("x-a"), ["listener"], "the listener's edits come last");
    assert_eq!(response.values("x-b"), ["origin", "route", "listener"]);
    response.assert_absent("server");
    assert_eq!(response.text(), "hi");
}
