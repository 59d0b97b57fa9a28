use std::fmt::Write;

use super::*;
use crate::base::http::FieldKind;
use crate::config::model::{Protocol, RouteAction};

/// Routes as a file would have them; each responds with its number as status, from 200.
fn routes(conditions: &[&str]) -> Vec<Route> {
    let mut file = "[[clusters]]\nname = \"a\"\nendpoints = [\"a:1\"]\n\
                    [[listeners]]\nname = \"w\"\naddress = \"127.0.0.1:1\"\n"
        .to_owned();
    for (number, condition) in conditions.iter().enumerate() {
        let action = if condition.contains("redirect") || condition.contains("cluster") {
            String::new()
        } else {
            format!("respond = {{ status = {} }}", 200 + number)
        };
        writeln!(file, "[[listeners.routes]]\n{condition}\n{action}").unwrap();
    }
    let model = crate::config::parse(&file, "routes.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let listener = model.listeners.into_iter().next().and_then(std::sync::Arc::into_inner).unwrap();
    let Protocol::Http(http) = listener.protocol else { panic!() };
    http.routes
}

/// Index of the route that a request takes.
fn pick(routes: &[Route], host: &str, path: &str) -> Option<usize> {
    pick_with(routes, host, path, "GET", "")
}

fn pick_with(routes: &[Route], host: &str, path: &str, method: &str, head: &str) -> Option<usize> {
    let mut fields = Vec::new();
    let mut start = 0;
    for line in head.split_inclusive('\n') {
        let text = line.trim_end_matches("\r\n");
        let (name, value) = text.split_once(": ").unwrap();
        let value_start = u32::try_from(start + name.len() + 2).unwrap();
        fields.push(Field {
            start: u32::try_from(start).unwrap(),
            name_len: u16::try_from(name.len()).unwrap(),
            kind: FieldKind::of(name.as_bytes()),
            named_by_connection: false,
            value_start,
            value_end: value_start + u32::try_from(value.len()).unwrap(),
        });
        start += line.len();
    }
    let query = RouteQuery {
        host: host.as_bytes(),
        path: path.as_bytes(),
        method: method.as_bytes(),
        fields: &fields,
        head: head.as_bytes(),
    };
    let route = RouteTable::new(routes).pick(routes, &query)?;
    routes.iter().position(|other| std::ptr::eq(other, route))
}

#[test]
fn the_first_match_in_the_order_of_the_file_wins() {
    let routes = routes(&[
        "hosts = [\"*.example.com\"]\npath_prefix = \"/early\"",
        "path = \"/any-host\"",
        "hosts = [\"a.example.com\", \"b.example.com\"]",
        "hosts = [\"*.a.example.com\", \"*.example.com\"]",
        "hosts = [\"a.example.com\"]\npath = \"/never\"",
        "",
    ]);
    for (host, path, expected) in [
        ("a.example.com", "/early/bird", 0),
        ("a.example.com", "/any-host", 1),
        ("a.example.com", "/", 2),
        ("a.example.com", "/never", 2),
        ("A.EXAMPLE.com.:8080", "/", 2),
        ("c.example.com", "/", 3),
        ("x.y.a.example.com", "/", 3),
        ("example.com", "/", 5),
        (".example.com", "/", 5),
        ("notexample.com", "/", 5),
        ("", "/", 5),
        ("other", "/any-host?x", 1),
    ] {
        assert_eq!(pick(&routes, host, path), Some(expected), "{host} {path}");
    }
    let long = format!("{}.example.com", "a.".repeat(10_000));
    assert_eq!(pick(&routes, &long, "/"), Some(5));
}

#[test]
fn a_first_route_without_conditions_leaves_nothing_to_the_others() {
    let all = routes(&["", "path = \"/x\"", "hosts = [\"a\"]"]);
    for (host, path) in [("a", "/x"), ("b", "/"), ("", "*"), ("a", "/y?z")] {
        assert_eq!(pick(&all, host, path), Some(0));
    }
    for condition in [
        "hosts = [\"a\"]",
        "path = \"/x\"",
        "methods = [\"PUT\"]",
        "headers = [{ name = \"x\", present = true }]",
    ] {
        assert_eq!(pick(&routes(&[condition, ""]), "b", "/"), Some(1), "{condition}");
    }
    assert_eq!(pick(&[], "a", "/"), None);
}

#[test]
fn addresses_are_hosts_too() {
    let routes = routes(&["hosts = [\"[::1]\", \"127.0.0.1\"]"]);
    assert_eq!(pick(&routes, "[::1]:80", "/"), Some(0));
    assert_eq!(pick(&routes, "127.0.0.1:80", "/"), Some(0));
    assert_eq!(pick(&routes, "[::2]", "/"), None);
}

#[test]
fn paths_are_compared_as_they_are_and_without_the_query() {
    let routes = routes(&["path = \"/exact\"", "path_prefix = \"/api/\"", "path = \"/\""]);
    for (path, expected) in [
        ("/exact", Some(0)),
        ("/exact?q", Some(0)),
        ("/exact/", None),
        ("/Exact", None),
        ("/api/", Some(1)),
        ("/api/x?/y", Some(1)),
        ("/api", None),
        ("/apis", None),
        ("/x/../api/", None),
        ("/api/../x", Some(1)),
        ("/%61pi/", None),
        ("", Some(2)),
        ("?q", Some(2)),
        ("*", None),
    ] {
        assert_eq!(pick(&routes, "h", path), expected, "{path}");
    }
}

#[test]
fn methods_and_headers_are_conditions() {
    let routes = routes(&[
        "methods = [\"POST\", \"PUT\"]",
        "headers = [{ name = \"X-A\", value = \"one\" }, { name = \"x-b\", present = true, invert = true }]",
        "headers = [{ name = \"x-a\", prefix = \"tw\" }]",
        "headers = [{ name = \"x-a\", regex = \"^[0-9]+$\" }]",
    ]);
    let get = |head| pick_with(&routes, "h", "/", "GET", head);
    assert_eq!(pick_with(&routes, "h", "/", "PUT", ""), Some(0));
    assert_eq!(pick_with(&routes, "h", "/", "put", ""), None);
    assert_eq!(get("x-a: one\r\n"), Some(1));
    assert_eq!(get("x-a: zero\r\nX-a: one\r\n"), Some(1));
    assert_eq!(get("x-a: one\r\nx-b: \r\n"), None);
    assert_eq!(get("x-a: one\r\nx-a: two\r\nx-b: y\r\n"), Some(2));
    assert_eq!(get("x-a: 123\r\n"), Some(3));
    assert_eq!(get("x-a: 12 3\r\n"), None);
    assert_eq!(get("x-aa: one\r\n"), None);
}

#[test]
fn a_lookup_among_very_many_hosts_does_not_scan() {
    const HOSTS: u32 = 100_000;
    let any = routes(&["hosts = [\"x\"]", "path = \"/health\""]);
    let mut all: Vec<Route> = Vec::new();
    let route = |host: String| {
        let mut route = routes_template();
        route.hosts = vec![crate::config::model::HostPattern::Exact(host)];
        route
    };
    for n in 0..HOSTS {
        all.push(route(format!("shop-{n}.example.com")));
    }
    all.extend(any);
    let hosts = HostIndex::new(&all);
    for n in (0..HOSTS).step_by(997) {
        let mut seen = Vec::new();
        hosts.candidates(format!("Shop-{n}.example.com:443").as_bytes(), |list| seen.extend_from_slice(list));
        assert_eq!(seen, [n, HOSTS + 1], "its own route and the one for any host");
    }
    let mut seen = Vec::new();
    hosts.candidates(b"unknown.example", |list| seen.extend_from_slice(list));
    assert_eq!(seen, [HOSTS + 1]);
}

fn routes_template() -> Route {
    Route {
        hosts: Vec::new(),
        path: PathMatch::Any,
        methods: Vec::new(),
        headers: Vec::new(),
        action: RouteAction::Respond(crate::config::model::Respond {
            status: 200,
            body: Vec::new(),
            content_type: String::new(),
        }),
        request_headers: crate::config::model::HeaderEdits::default(),
        response_headers: crate::config::model::HeaderEdits::default(),
    }
}

#[test]
fn clusters_are_picked_by_weight() {
    let forward = |clusters: Vec<(ClusterIndex, u32)>| Forward {
        total_weight: clusters.iter().map(|(_, weight)| weight).sum(),
        clusters,
        prefix_rewrite: None,
        host_rewrite: None,
        timeout_ms: None,
    };
    let mut random = Random::new(1);
    assert_eq!(pick_cluster(&forward(vec![(3, 1)]), &mut random), 3);
    let weighted = forward(vec![(0, 1), (1, 9)]);
    let ones: usize = (0..10_000).map(|_| pick_cluster(&weighted, &mut random)).sum();
    assert!((8_800..9_200).contains(&ones), "{ones}");
}

fn rewritten(condition: &str, path: &str) -> String {
    let routes = routes(&[condition]);
    let RouteAction::Forward(forward) = &routes[0].action else { panic!() };
    let mut out = Vec::new();
    rewrite_path(&routes[0], forward, path.as_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn paths_are_rewritten() {
    for (condition, path, expected) in [
        ("", "/a?b", "/a?b"),
        ("", "", "/"),
        ("", "?q", "/?q"),
        ("", "*", "*"),
        ("path_prefix = \"/api/\"\nprefix_rewrite = \"/\"", "/api/x?y=/api/", "/x?y=/api/"),
        ("path_prefix = \"/api\"\nprefix_rewrite = \"/\"", "/api/x", "/x"),
        ("path_prefix = \"/api\"\nprefix_rewrite = \"/\"", "/api", "/"),
        ("path_prefix = \"/api\"\nprefix_rewrite = \"/v2\"", "/api/x", "/v2/x"),
        ("path_prefix = \"/api\"\nprefix_rewrite = \"/v2\"", "/apis", "/v2s"),
        ("path_prefix = \"/\"\nprefix_rewrite = \"/v2/\"", "/x", "/v2/x"),
        ("path = \"/a\"\nprefix_rewrite = \"/b\"", "/a?q", "/b?q"),
    ] {
        assert_eq!(rewritten(&format!("cluster = \"a\"\n{condition}"), path), expected, "{condition} {path}");
    }
}

fn location(redirect: &str, authority: &str, path: &str) -> String {
    let routes = routes(&[&format!("path_prefix = \"/\"\nredirect = {{ {redirect} }}")]);
    let RouteAction::Redirect(redirect) = &routes[0].action else { panic!() };
    let mut out = Vec::new();
    redirect_location(&routes[0], redirect, "http", authority.as_bytes(), path.as_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn redirects_take_what_they_leave_out_from_the_request() {
    for (redirect, authority, path, expected) in [
        ("scheme = \"https\"", "a.b", "/x?y", "https://a.b/x?y"),
        ("scheme = \"https\"", "a.b:80", "/x", "https://a.b/x"),
        ("scheme = \"https\"", "a.b:8080", "/x", "https://a.b:8080/x"),
        ("scheme = \"http\"", "a.b:80", "/x", "http://a.b:80/x"),
        ("host = \"c.d:81\"", "a.b", "/x?y", "http://c.d:81/x?y"),
        ("path = \"/new\"", "a.b", "/x?y", "http://a.b/new?y"),
        ("path = \"/new?z\"", "a.b", "/x?y", "http://a.b/new?z"),
        ("path = \"/new\", strip_query = true", "a.b", "/x?y", "http://a.b/new"),
        ("prefix_rewrite = \"/v2/\"", "a.b", "/x?y", "http://a.b/v2/x?y"),
        ("strip_query = true", "a.b", "?y", "http://a.b/"),
        ("scheme = \"https\"", "a.b", "*", "https://a.b/"),
        ("scheme = \"https\"", "a.b", "//evil.example/", "https://a.b//evil.example/"),
        ("strip_query = true", "", "//evil.example/", "/.//evil.example/"),
        ("host = \"c.d\"", "", "/x", "http://c.d/x"),
    ] {
        assert_eq!(location(redirect, authority, path), expected, "{redirect} {authority} {path}");
    }
}
