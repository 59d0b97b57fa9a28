use super::super::model::{HostPattern, PathMatch, Protocol, RouteAction, ValueMatch};
use super::super::{parse, quick_start};
use super::*;
use crate::base::clock::NEVER;

fn errors(text: &str) -> String {
    match parse(text, "o.toml") {
        Ok(model) => panic!("accepted: {model:?}"),
        Err(errors) => errors.to_string(),
    }
}

/// A file around one route.
fn with_route(route: &str) -> String {
    format!(
        "[[clusters]]\nname = \"a\"\nendpoints = [\"127.0.0.1:9000\"]\n\
         [[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:8080\"\n\
         [[listeners.routes]]\n{route}\n"
    )
}

/// A file around some keys of an HTTP listener.
fn with_listener(keys: &str) -> String {
    format!(
        "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:8080\"\nroutes = [{{ respond = {{}} }}]\n{keys}\n"
    )
}

fn one_route(route: &str) -> super::super::model::Route {
    let model = parse(&with_route(route), "o.toml").unwrap();
    let Ok(listener) = Arc::try_unwrap(model.listeners.into_iter().next().unwrap()) else { panic!() };
    match listener.protocol {
        Protocol::Http(mut http) => http.routes.remove(0),
        Protocol::Tcp(_) => panic!(),
    }
}

#[test]
fn the_quick_start_is_a_configuration() {
    let model = quick_start("127.0.0.1:4711".parse().unwrap());
    assert_eq!(model.listeners[0].name, "web");
    assert_eq!(model.clusters[0].name, "demo");
    assert_eq!(
        model.admin,
        Some(Admin { address: Address::Ip("127.0.0.1:9901".parse().unwrap()), names: Vec::new() })
    );
    assert!(model.warnings.is_empty());
}

#[test]
fn moderation_is_bounded_and_can_be_switched_off() {
    let parsed = |value: &str| parse(&with_listener(&format!("[server]\nmoderation_us = {value}")), "o.toml");
    for (value, expected) in [("\"off\"", 0), ("1", 1), ("1000", 1000)] {
        assert_eq!(parsed(value).unwrap().server.moderation_us, expected);
    }
    for value in ["0", "1001", "-1", "\"50us\""] {
        let errors = parsed(value).unwrap_err().to_string();
        assert!(errors.contains("moderation_us"), "{value}: {errors}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let model = parse(&with_route("cluster = \"a\""), "o.toml").unwrap();
    assert_eq!(model.server.max_connections, usize::MAX);
    assert_eq!(model.server.buffer_memory, 128 << 20);
    assert_eq!(model.server.moderation_us, 50);
    assert_eq!(model.server.buffer_size, 64 << 10);
    assert_eq!(model.server.shutdown_timeout_ms, 30_000);
    assert_eq!(model.admin, None);
    let listener = &model.listeners[0];
    assert_eq!((listener.unix_mode, listener.backlog), (0o600, 4096));
    assert_eq!(listener.max_connections, usize::MAX);
    assert_eq!(listener.access_log, None);
    let Protocol::Http(http) = &listener.protocol else { panic!() };
    assert_eq!((http.limits.head_size, http.limits.headers), (32 << 10, 100));
    assert_eq!((http.limits.body_size, http.limits.requests_per_connection), (u64::MAX, u32::MAX));
    assert_eq!((http.timeouts.request_head_ms, http.timeouts.request_ms), (10_000, NEVER));
    assert_eq!(http.forwarding.via.as_deref(), Some("ouro"));
    assert_eq!(http.upgrades, ["websocket"]);
    assert!(http.accept_http_10);
    let cluster = &model.clusters[0];
    assert_eq!((cluster.connect_timeout_ms, cluster.connect_attempts), (5000, 3));
    assert_eq!((cluster.response_timeout_ms, cluster.unsafe_reuse_within_ms), (60_000, 1000));
    assert_eq!((cluster.response_head_size, cluster.response_headers), (64 << 10, 200));
    assert_eq!(cluster.endpoints[0].weight, 1);
}

#[test]
fn errors_carry_position_path_expectation_and_finding() {
    assert_eq!(
        errors(&with_route("cluster = \"a\"\npath_prefix = \"api\"")),
        "o.toml:9:15: listeners[0].routes[0].path_prefix: expected a path that begins with \"/\", found \"api\""
    );
    assert_eq!(
        errors(&with_route("cluster = \"a\"\ntimeout = 5")),
        "o.toml:9:11: listeners[0].routes[0].timeout: expected a duration such as \"5s\" or \"250ms\" or \
         \"off\", found integer 5"
    );
    let text = errors(&with_route("cluster = \"a\"\npath_prefx = \"/api\""));
    assert!(
        text.starts_with(
            "o.toml:9:1: listeners[0].routes[0].path_prefx: unknown key, did you mean `path_prefix`? \
             (allowed here: hosts, path, "
        ),
        "{text}"
    );
    assert_eq!(
        errors(&with_route("cluster = \"b\"")),
        "o.toml:8:11: listeners[0].routes[0].cluster: there is no cluster \"b\", did you mean `a`?"
    );
    assert_eq!(
        errors("[[clusters]]\nname = \"a\"\n"),
        "o.toml:1:1: listeners: missing: expected a list of tables\n\
         o.toml:1:1: clusters[0].endpoints: missing: expected a list of strings, each an address such as \
         \"127.0.0.1:9000\", \"[::1]:9000\", \"name.example:80\" or \"unix:/run/app.sock\""
    );
}

#[test]
fn one_run_shows_all_errors_in_the_order_of_the_file() {
    let text = errors(
        "[server]\nshutdown_timeout = 1\nnonsense = 1\n\
         [[listeners]]\nname = \"a b\"\naddress = \"x\"\nprotocol = \"udp\"\n\
         [[clusters]]\nname = \"c\"\nendpoints = [\"127.0.0.1:9000\", 7, \"127.0.0.1:9000\"]\nconnect_attempts = 0\n",
    );
    let starts: Vec<&str> = text.lines().map(|line| line.split(" expected").next().unwrap()).collect();
    let places: Vec<String> =
        starts.iter().map(|line| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "o.toml:2:20: server.shutdown_timeout:",
            "o.toml:3:1: server.nonsense:",
            "o.toml:5:8: listeners[0].name:",
            "o.toml:6:11: listeners[0].address:",
            "o.toml:7:12: listeners[0].protocol:",
            "o.toml:10:32: clusters[0].endpoints[1]:",
            "o.toml:10:35: clusters[0].endpoints[2]:",
            "o.toml:11:20: clusters[0].connect_attempts:",
        ],
        "{text}"
    );
}

#[test]
fn syntax_errors_have_positions() {
    let text = errors("[server]\nbuffer_size = \n[admin\naddress = \"127.0.0.1:1\"\n");
    assert!(text.starts_with("o.toml:2:"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("o.toml:3:")), "{text}");
    assert!(errors("a = 1\na = 2\n").contains("o.toml:2:1: duplicate key"));
}

#[test]
fn contradictions_are_refused() {
    for (file, expected) in [
        (with_route("path = \"/a\"\npath_prefix = \"/b\"\ncluster = \"a\""), "`path` is given too"),
        (
            with_route("cluster = \"a\"\nrespond = {}"),
            "`cluster` is given too; a route has exactly one action",
        ),
        (with_route("path = \"/a\""), "expected one of the actions"),
        (with_route("hosts = []\ncluster = \"a\""), "an empty list matches nothing"),
        (with_route("respond = {}\ntimeout = \"5s\""), "no effect beside `respond`"),
        (with_route("redirect = {}"), "changes nothing"),
        (with_route("redirect = { status = 304, host = \"b\" }"), "found 304"),
        (with_route("redirect = { prefix_rewrite = \"/\" }"), "needs `path_prefix` or `path`"),
        (with_route("redirect = { path = \"/\", prefix_rewrite = \"/\" }\npath = \"/x\""), "one of them"),
        (with_route("cluster = \"a\"\nprefix_rewrite = \"/\""), "needs `path_prefix` or `path`"),
        (with_route("respond = { status = 204, body = \"x\" }"), "a 204 response has no body"),
        (with_route("clusters = []"), "at least one cluster"),
        (with_route("clusters = [{ name = \"a\" }, { name = \"a\" }]"), "listed twice"),
        (with_route("clusters = [{ name = \"a\", weight = 0 }]"), "from 1 to 65535, found 0"),
        (with_route("cluster = \"a\"\nmethods = [\"get\"]"), "expected \"GET\""),
        (with_route("cluster = \"a\"\nhosts = [\"*\"]"), "leave `hosts` out"),
        (with_route("cluster = \"a\"\nhosts = [\"a.*.b\"]"), "at the front only"),
        (with_route("cluster = \"a\"\nhosts = [\"a:80\"]"), "a port is not possible"),
        (with_route("cluster = \"a\"\npath = \"/a?b\""), "without a query"),
        (with_route("cluster = \"a\"\npath = \"/a b\""), "percent-encoded"),
        (with_listener("cluster = \"a\""), "has `routes`"),
        (with_listener("idle_timeout = \"5s\""), "has `timeouts.idle`"),
        (with_listener("unix_mode = \"0660\""), "not a Unix socket"),
        (with_listener("upgrades = [\"h2c\"]"), "no route has seen"),
        (with_listener("timeouts = { request_head = \"off\" }"), "\"off\" is not possible here"),
        (with_listener("timeouts = { idle = \"0s\" }"), "write \"off\" for no time-out"),
        (with_listener("limits = { head_size = \"1MiB\" }"), "at most \"256KiB\""),
        (with_listener("max_connections = 0"), "; write \"off\" for no limit"),
        (with_listener("access_log = {}"), "access_log.path: missing"),
        (with_listener("[server]\nbuffer_size = \"5KiB\""), "power of two"),
        (with_listener("[server]\nbuffer_memory = \"1MiB\"\nbuffer_size = \"256KiB\""), "at least \"16MiB\""),
        (with_listener("[server]\nbuffer_memory = \"1GiB\"\nbuffer_size = \"4KiB\""), "\"128MiB\" at most"),
        (with_listener("[admin]\naddress = \"127.0.0.1:8080\""), "has this address already"),
        (
            with_listener("[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nroutes = []"),
            "taken by listeners[0]",
        ),
        (
            with_listener("[[listeners]]\nname = \"t\"\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\""),
            "missing `cluster`",
        ),
        ("listeners = []".to_owned(), "at least one listener"),
        (String::new(), "o.toml:1:1: listeners: missing"),
    ] {
        let text = errors(&file);
        assert!(text.contains(expected), "{file}\n{text}");
    }
}

#[test]
fn an_address_with_port_0_may_occur_twice() {
    let route = "routes = [{ respond = {} }]";
    let listener = |name| format!("[[listeners]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n{route}\n");
    assert!(parse(&(listener("a") + &listener("b")), "o.toml").is_ok());
}

#[test]
fn routes_are_read_whole() {
    let route = one_route(
        "hosts = [\"Example.com.\", \"*.Example.org\", \"[0:0::1]\"]\npath_prefix = \"/api/\"\nmethods = [\"GET\"]\n\
         cluster = \"a\"\nprefix_rewrite = \"/\"\nhost_rewrite = \"b:81\"\ntimeout = \"off\"\n\
         headers = [{ name = \"X-A\", regex = \"(?i)^b\\\\d$\" }, { name = \"x-b\", present = true, invert = true }]\n\
         request_headers = { set = { X-Z = \"1\", X-A = \"2\" }, remove = [\"X-Q\"] }",
    );
    let exact = |host: &str| HostPattern::Exact(host.to_owned());
    assert_eq!(
        route.hosts,
        [exact("example.com"), HostPattern::Suffix(".example.org".to_owned()), exact("[::1]")]
    );
    assert_eq!(route.path, PathMatch::Prefix("/api/".to_owned()));
    let RouteAction::Forward(forward) = &route.action else { panic!() };
    assert_eq!((&forward.clusters[..], forward.total_weight), (&[(0, 1)][..], 1));
    assert_eq!(forward.prefix_rewrite.as_deref(), Some("/"));
    assert_eq!(forward.host_rewrite.as_deref(), Some("b:81"));
    assert_eq!(forward.timeout_ms, Some(NEVER));
    let ValueMatch::Regex(regex) = &route.headers[0].value else { panic!() };
    assert!(regex.is_match(b"B7") && !regex.is_match(b"B77"));
    assert!(matches!(route.headers[1].value, ValueMatch::Present) && route.headers[1].invert);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(route.request_headers.set, [pair("x-z", "1"), pair("x-a", "2")]);
    assert_eq!(route.request_headers.remove, ["x-q"]);
}

#[test]
fn header_edits_keep_out_of_framing() {
    for name in [
        "Connection",
        "content-length",
        "Transfer-Encoding",
        "upgrade",
        "keep-alive",
        "te",
        "Trailer",
        "expect",
    ] {
        let text = errors(&with_listener(&format!("request_headers = {{ remove = [\"{name}\"] }}")));
        assert!(text.contains("the proxy's own business"), "{text}");
        let text = errors(&with_listener(&format!("response_headers = {{ add = {{ {name} = \"x\" }} }}")));
        assert!(text.contains("the proxy's own business"), "{text}");
    }
    for (edit, expected) in [
        ("set = { Host = \"a\" }", "`host_rewrite`"),
        ("set = { \"a b\" = \"a\" }", "expected a header name, found \"a b\""),
        ("set = { a = \"x\\r\\ny: z\" }", "no control characters"),
        ("set = { a = \" x\" }", "no white space at its ends"),
        ("set = { a = \"1\", A = \"2\" }", "there twice"),
        ("set = { a = 1 }", "request_headers.set.a: expected a string, found integer 1"),
        ("set = 1", "expected a table of strings, found integer 1"),
    ] {
        let text = errors(&with_listener(&format!("request_headers = {{ {edit} }}")));
        assert!(text.contains(expected), "{edit}: {text}");
    }
}

#[test]
fn header_conditions_are_one_of_four() {
    for (condition, expected) in [
        ("{ name = \"a\" }", "expected one of `value`"),
        ("{ name = \"a\", value = \"b\", prefix = \"c\" }", "`value` is given too"),
        ("{ value = \"b\" }", "headers[0].name: missing"),
        ("{ name = \"a\", present = false }", "`invert = true`"),
        ("{ name = \"a\", regex = \"(\" }", "not a regular expression: unclosed group"),
        (
            "{ name = \"a\", regex = \"((x{1000}){1000}){1000}\" }",
            "not a regular expression: Compiled regex exceeds",
        ),
        ("7", "headers[0]: expected a table, found integer 7"),
    ] {
        let text = errors(&with_route(&format!("cluster = \"a\"\nheaders = [{condition}]")));
        assert!(text.contains(expected), "{condition}: {text}");
    }
}

#[test]
fn every_choice_has_its_meaning() {
    use super::super::model::{ForwardedFor, ForwardedProto, LoadBalancing, LogFormat, RequestId};
    let forwarding = |key: &str, value: &str| {
        let model =
            parse(&with_listener(&format!("forwarding = {{ {key} = \"{value}\" }}")), "o.toml").unwrap();
        let Protocol::Http(http) = &model.listeners[0].protocol else { panic!() };
        http.forwarding.clone()
    };
    assert_eq!(forwarding("x_forwarded_for", "append").x_forwarded_for, ForwardedFor::Append);
    assert_eq!(forwarding("x_forwarded_for", "replace").x_forwarded_for, ForwardedFor::Replace);
    assert_eq!(forwarding("x_forwarded_for", "off").x_forwarded_for, ForwardedFor::Off);
    assert_eq!(forwarding("x_forwarded_proto", "replace").x_forwarded_proto, ForwardedProto::Replace);
    assert_eq!(forwarding("x_forwarded_proto", "keep").x_forwarded_proto, ForwardedProto::Keep);
    assert_eq!(forwarding("x_forwarded_proto", "off").x_forwarded_proto, ForwardedProto::Off);
    assert_eq!(forwarding("x_request_id", "replace").x_request_id, RequestId::Replace);
    assert_eq!(forwarding("x_request_id", "keep").x_request_id, RequestId::Keep);
    assert_eq!(forwarding("x_request_id", "off").x_request_id, RequestId::Off);
    assert_eq!(forwarding("via", "off").via, None);
    assert_eq!(forwarding("via", "edge-1").via.as_deref(), Some("edge-1"));
    for (text, meaning) in [
        ("round_robin", LoadBalancing::RoundRobin),
        ("least_request", LoadBalancing::LeastRequest),
        ("random", LoadBalancing::Random),
    ] {
        let cluster = "[[clusters]]\nname = \"a\"\nendpoints = [{ address = \"app:80\", weight = 7 }]\n";
        let file = with_listener(&format!("{cluster}load_balancing = \"{text}\""));
        let model = parse(&file, "o.toml").unwrap();
        assert_eq!(model.clusters[0].load_balancing, meaning);
        assert_eq!(model.clusters[0].endpoints[0].weight, 7);
    }
    for (text, meaning) in [("text", LogFormat::Text), ("json", LogFormat::Json)] {
        let file = with_listener(&format!("access_log = {{ path = \"stdout\", format = \"{text}\" }}"));
        assert_eq!(parse(&file, "o.toml").unwrap().listeners[0].access_log.as_ref().unwrap().format, meaning);
    }
}

#[test]
fn a_tcp_listener_relays_to_its_cluster() {
    let file = "[[listeners]]\nname = \"db\"\naddress = \"unix:/run/db.sock\"\nunix_mode = \"660\"\n\
                protocol = \"tcp\"\ncluster = \"db\"\nidle_timeout = \"off\"\n\
                [[clusters]]\nname = \"db\"\nendpoints = [\"127.0.0.1:5432\"]\n";
    let model = parse(file, "o.toml").unwrap();
    assert_eq!(model.listeners[0].unix_mode, 0o660);
    let Protocol::Tcp(tcp) = &model.listeners[0].protocol else { panic!() };
    assert_eq!((tcp.cluster, tcp.idle_timeout_ms), (0, NEVER));
    let text = errors(&file.replace("idle_timeout", "routes = []\ntimeouts = {}\nidle_timeout"));
    assert!(text.contains("a `tcp` listener has a `cluster`"), "{text}");
    assert!(text.contains("a `tcp` listener has an `idle_timeout`"), "{text}");
}

#[test]
fn unreachable_routes_are_warned_of() {
    let file = with_listener("").replace(
        "routes = [{ respond = {} }]",
        "routes = [{ path_prefix = \"/a\", respond = {} }, { path = \"/abc\", respond = {} }, \
         { methods = [\"GET\"], respond = {} }, { path = \"/b\", respond = {} }, { respond = {} }, \
         { hosts = [\"x\"], respond = {} }]",
    );
    let model = parse(&file, "o.toml").unwrap();
    let places: Vec<&str> = model.warnings.iter().map(|w| w.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["listeners[0].routes[1]", "listeners[0].routes[5]"]);
}

#[test]
fn no_input_makes_the_reader_panic() {
    let mut dotted = "a.".repeat(100_000);
    dotted.push_str("a = 1");
    let nested = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in [
        dotted.as_str(),
        nested.as_str(),
        "[[listeners]]\n[listeners.x]",
        "listeners = 1\nclusters = [1, [], {}]\nserver = []\nadmin = \"\"",
        "[listeners]\nroutes = 1",
        "[[listeners]]\nroutes = [[[]]]\n[[clusters]]\nendpoints = [{}, [], 1.5, 1979-05-27]",
        "\u{feff}",
        "\0",
        "a = \"\u{1b}\"",
        "[server]\nmax_connections = 50_000\u{19}\nbuffer_size = 1\u{1b}[1m",
    ] {
        // Nor may it garble the terminal that shows the errors.
        assert!(!errors(text).contains(|c: char| c.is_control() && c != '\n'));
    }
}
