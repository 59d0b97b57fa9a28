//! The process: command line, signals, logs.

use std::net::TcpStream;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::origin::ok;
use crate::support::*;

const GOOD: &str = "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                    [[listeners.routes]]\nrespond = { status = 200, body = \"hi\" }\n";

/// Runs `ouro --mode validate` on this text; returns its end and the name of the file.
#[track_caller]
fn validate(text: &str) -> (Exit, String) {
    let dir = TempDir::new();
    let file = dir.path().join("test.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (Exit::of(&["-c", &file, "--mode", "validate"]), file)
}

#[test]
fn a_good_configuration_is_valid() {
    let (exit, _) = validate(GOOD);
    assert_eq!(exit.status.code(), Some(0), "{}{}", exit.stdout, exit.stderr);
}

#[test]
fn a_bad_configuration_is_told_with_all_its_errors() {
    let text = "[[listeners]]\nname = \"web\"\naddress = \"nonsense\"\nunknown = 1\n\
                [[listeners.routes]]\n  cluster = \"nowhere\"\n\
                [[clusters]]\nname = \"a\"\nendpoints = [\"127.0.0.1:1\"]\nconnect_timeout = 5\n";
    let (exit, file) = validate(text);
    assert_eq!(exit.status.code(), Some(2), "{}{}", exit.stdout, exit.stderr);
    let told = exit.stdout + &exit.stderr;
    for (position, words) in [
        ("3:11", ["listeners[0].address", "nonsense"]),
        ("4:1", ["listeners[0]", "unknown"]),
        ("6:13", ["listeners[0].routes[0].cluster", "nowhere"]),
        ("10:19", ["clusters[0].connect_timeout", "duration"]),
    ] {
        let start = format!("{file}:{position}:");
        let line = told.lines().find(|line| line.contains(&start));
        let line = line.unwrap_or_else(|| panic!("no error at {start}:\n{told}"));
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} expected in {line:?}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_position() {
    let (exit, file) = validate("[[listeners]]\nname = \"web\nother = 1\n");
    assert_eq!(exit.status.code(), Some(2), "{}{}", exit.stdout, exit.stderr);
    let told = exit.stdout + &exit.stderr;
    assert!(told.contains(&format!("{file}:2:")), "{told}");
}

#[test]
fn a_bad_configuration_is_not_served() {
    let dir = TempDir::new();
    let file = dir.path().join("test.toml");
    std::fs::write(&file, "[[listeners]]\nname = 1\n").unwrap();
    let exit = Exit::of(&["-c", file.to_str().unwrap()]);
    assert_eq!(exit.status.code(), Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("test.toml:2:"), "{}", exit.stderr);
}

#[test]
fn a_missing_file_is_told() {
    let exit = Exit::of(&["-c", "/nonexistent/ouro.toml"]);
    assert_eq!(exit.status.code(), Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("/nonexistent/ouro.toml"), "{}", exit.stderr);
}

#[test]
fn wrong_usage_is_told() {
    for args in [&["--no-such-flag"][..], &["--concurrency", "x"], &["--mode", "other"]] {
        let exit = Exit::of(args);
        assert_eq!(exit.status.code(), Some(2), "{args:?}: {}", exit.stderr);
        assert!(!exit.stderr.is_empty());
    }
}

#[test]
fn help_and_version_are_told() {
    let exit = Exit::of(&["--help"]);
    assert_eq!(exit.status.code(), Some(0));
    assert!(exit.stdout.contains("--config-path"), "{}", exit.stdout);
    let exit = Exit::of(&["--version"]);
    assert_eq!(exit.status.code(), Some(0));
    assert!(exit.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", exit.stdout);
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = TempDir::new();
    let file = dir.path().join("test.toml");
    std::fs::write(&file, GOOD.replace("127.0.0.1:0", &address.to_string())).unwrap();
    let exit = Exit::of(&["-c", file.to_str().unwrap()]);
    assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains(&address.to_string()), "{}", exit.stderr);
}

#[test]
fn every_listener_tells_its_address() {
    let more = "[[listeners]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\n\
                [[listeners.routes]]\nrespond = { status = 200, body = \"second\" }\n\
                [[listeners]]\nname = \"six\"\naddress = \"[::1]:0\"\n\
                [[listeners.routes]]\nrespond = { status = 200, body = \"six\" }\n";
    let proxy = Proxy::start([GOOD, more].concat());
    for (listener, body) in [("web", "hi"), ("second", "second"), ("six", "six")] {
        assert_eq!(Client::connect(proxy.addr(listener)).get("/").text(), body);
    }
}

#[test]
fn an_idle_process_stops_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let proxy = Proxy::start(GOOD);
        let start = Instant::now();
        proxy.signal(signal);
        proxy.expect_exit(0);
        assert!(start.elapsed().as_secs() < 3, "it took {:?}", start.elapsed());
    }
}

/// An origin that answers `/held` when the gate opens.
fn holding_origin(hold: &Gate) -> Origin {
    let hold = hold.clone();
    Origin::start(move |conn| {
        while let Ok(Some(request)) = conn.try_request() {
            if request.target() == "/held" && !hold.opens_within(DEADLINE) {
                return;
            }
            if conn.try_send(ok(request.target())).is_err() {
                return;
            }
        }
    })
}

/// Starts a request that is held, and an idle connection, then asks the process to stop and waits until it has begun.
#[track_caller]
fn begin_to_stop(proxy: &Proxy, origin: &Origin) -> Client {
    let mut idle = proxy.connect();
    assert_eq!(idle.get("/idle").text(), "/idle");
    let busy = proxy.connect();
    busy.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_requests(2);
    proxy.signal(Signal::SIGTERM);
    // Whoever waits for nothing is let go.
    idle.expect_eof();
    busy
}

#[test]
fn sigterm_lets_requests_in_flight_finish() {
    let hold = Gate::default();
    let origin = holding_origin(&hold);
    let address;
    {
        let proxy = Proxy::to([origin.addr()]);
        address = proxy.addr("web");
        let mut busy = begin_to_stop(&proxy, &origin);
        assert!(proxy.is_running());
        hold.open();
        let response = busy.response();
        assert_eq!(response.text(), "/held");
        assert!(response.says_close(), "the client is told that this was the last one: {response:?}");
        busy.expect_eof();
        proxy.expect_exit(0);
    }
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

/// Whoever has connected a moment before has its request on the way, and could not tell whether it was served.
#[test]
fn sigterm_lets_a_fresh_connection_ask() {
    let origin = Origin::start(|conn| {
        while let Some(request) = conn.next_request() {
            conn.send(ok(request.target()));
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut idle = proxy.connect();
    assert_eq!(idle.get("/idle").text(), "/idle");
    let mut fresh = proxy.connect();
    proxy.signal(Signal::SIGTERM);
    idle.expect_eof();
    drop(idle);
    let response = fresh.get("/late");
    assert_eq!(response.text(), "/late");
    assert!(response.says_close(), "{response:?}");
    fresh.expect_eof();
    drop(fresh);
    proxy.expect_exit(0);
}

/// A connection that asks for nothing does not keep the process.
#[test]
fn sigterm_does_not_wait_long_for_a_first_request() {
    let proxy = Proxy::to(["127.0.0.1:9"]);
    let mut silent = proxy.connect();
    proxy.signal(Signal::SIGTERM);
    silent.expect_eof();
    drop(silent);
    proxy.expect_exit(0);
}

/// Whoever connects while the process stops is refused, or closed, but never left waiting.
#[test]
fn sigterm_ends_listening() {
    let hold = Gate::default();
    let origin = holding_origin(&hold);
    let proxy = Proxy::to([origin.addr()]);
    let mut busy = begin_to_stop(&proxy, &origin);
    eventually("connections are refused", || TcpStream::connect(proxy.addr("web")).is_err());
    hold.open();
    assert_eq!(busy.response().text(), "/held");
    proxy.expect_exit(0);
}

#[test]
fn sigterm_lets_bodies_in_flight_finish() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let origin = Origin::start(|conn| {
        while let Ok(Some(request)) = conn.try_request() {
            if request.target() == "/idle" {
                conn.send(ok("/idle"));
            } else {
                conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
                conn.send(pattern::bytes(LENGTH));
            }
        }
    });
    let proxy = Proxy::to([origin.addr()]);
    let mut idle = proxy.connect();
    assert_eq!(idle.get("/idle").text(), "/idle");
    let mut busy = Client::connect_slow_reader(proxy.addr("web"));
    busy.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = busy.response_head("GET");
    proxy.signal(Signal::SIGTERM);
    idle.expect_eof();
    busy.read_body(&mut response).unwrap();
    assert!(response.body == pattern::bytes(LENGTH), "the body came changed");
    busy.expect_eof();
    proxy.expect_exit(0);
}

#[test]
fn a_second_sigterm_stops_at_once() {
    let hold = Gate::default();
    let origin = holding_origin(&hold);
    let config = Config::to([origin.addr()]).server("shutdown_timeout = \"60s\"");
    let proxy = Proxy::start(config.http());
    let mut busy = begin_to_stop(&proxy, &origin);
    proxy.signal(Signal::SIGTERM);
    let status = proxy.wait_exit();
    assert!(status.code().is_some(), "{status}");
    busy.expect_gone();
    hold.open();
}

#[test]
fn the_time_to_stop_is_limited() {
    let hold = Gate::default();
    let origin = holding_origin(&hold);
    let config = Config::to([origin.addr()]).server("shutdown_timeout = \"300ms\"");
    let proxy = Proxy::start(config.http());
    let mut busy = begin_to_stop(&proxy, &origin);
    let status = proxy.wait_exit();
    assert!(status.code().is_some(), "{status}");
    busy.expect_gone();
    hold.open();
}

#[test]
fn sigterm_lets_tcp_connections_finish() {
    let origin = Origin::start(|conn| {
        // Later ones only find out whether somebody listens.
        if conn.index() == 0 {
            conn.expect("question");
            conn.send("answer");
            conn.expect_eof();
        }
    });
    let proxy = Proxy::start(Config::to([origin.addr()]).tcp());
    let mut client = proxy.connect();
    // So that the connection is known to be accepted.
    client.send("question");
    client.expect("answer");
    proxy.signal(Signal::SIGTERM);
    eventually("connections are refused", || TcpStream::connect(proxy.addr("web")).is_err());
    client.finish_sending();
    client.expect_eof();
    proxy.expect_exit(0);
}

#[test]
fn unix_sockets_are_removed_at_the_end() {
    let config = GOOD.replace("127.0.0.1:0", "unix:{dir}/web.sock");
    let proxy = Proxy::start(config);
    let path = proxy.path("web.sock");
    assert_eq!(Client::connect_unix(&path).get("/").text(), "hi");
    proxy.signal(Signal::SIGTERM);
    proxy.expect_exit(0);
    assert!(!path.exists(), "the socket is left behind");
}

/// A socket file that a killed process left behind is no reason not to start.
#[test]
fn unix_sockets_of_dead_processes_are_taken_over() {
    let builder = proxy::Builder::new(GOOD.replace("127.0.0.1:0", "unix:{dir}/web.sock"));
    let path = builder.dir().join("web.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let proxy = builder.start();
    assert_eq!(Client::connect_unix(&path).get("/").text(), "hi");
    drop(proxy);
}

#[test]
fn the_quick_start_serves() {
    // Its port is fixed, so that it can be tried only where that is free.
    if std::net::TcpListener::bind("127.0.0.1:8080").is_err() {
        eprintln!("skipped: 127.0.0.1:8080 is in use");
        return;
    }
    let proxy = proxy::Builder::quick_start();
    let response = Client::connect("127.0.0.1:8080".parse().unwrap()).get("/");
    assert_eq!(response.status(), 200);
    assert!(!response.body.is_empty());
    proxy.signal(Signal::SIGTERM);
    proxy.expect_exit(0);
}

/// A proxy with an access log in front of an origin that answers 203.
#[track_caller]
fn logging_proxy(origin: &Origin, format: &str, path: &str) -> Proxy {
    let log = format!("access_log = {{ path = \"{path}\", format = \"{format}\" }}");
    Proxy::start(Config::to([origin.addr()]).listener(&log).http())
}

fn origin_of_203() -> Origin {
    Origin::replying("HTTP/1.1 203 Fine\r\nContent-Length: 4\r\n\r\nbody")
}

fn lines_of(proxy: &Proxy, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(proxy.path(name)).unwrap_or_default();
    // A line counts once its end is written.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

#[track_caller]
fn wait_lines(proxy: &Proxy, name: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {name}"), || lines_of(proxy, name).len() >= count);
    let lines = lines_of(proxy, name);
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[test]
fn access_logs_as_text() {
    let origin = origin_of_203();
    let proxy = logging_proxy(&origin, "text", "{dir}/access.log");
    let mut client = proxy.connect();
    client.send("POST /some/path?q=\"x\" HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test/1\r\n");
    client.send("Content-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().status(), 203);
    let lines = wait_lines(&proxy, "access.log", 1);
    for part in ["POST", "/some/path?q=\\\"x\\\"", "HTTP/1.1", " 203 ", "a.example", "test/1", "127.0.0.1"] {
        assert!(lines[0].contains(part), "{part:?} expected in {:?}", lines[0]);
    }
    assert!(lines[0].contains(&origin.addr().to_string()), "{:?}", lines[0]);
}

#[test]
fn access_logs_as_json() {
    let origin = origin_of_203();
    let proxy = logging_proxy(&origin, "json", "{dir}/access.log");
    let mut client = proxy.connect();
    client.send(
        "POST /some/path HTTP/1.1\r\nHost: a.example\r\nUser-Agent: \"te\\st\"\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(client.response().status(), 203);
    let lines = wait_lines(&proxy, "access.log", 1);
    assert!(lines[0].starts_with('{') && lines[0].ends_with('}'), "{:?}", lines[0]);
    for part in [
        "\"method\":\"POST\"",
        "\"path\":\"/some/path\"",
        "\"host\":\"a.example\"",
        "\"status\":203",
        "\"request_bytes\":5",
        "\"response_bytes\":4",
        "\"client\":\"127.0.0.1",
        "\"user_agent\":\"\\\"te\\\\st\\\"\"",
        &format!("\"upstream\":\"{}\"", origin.addr()),
    ] {
        assert!(lines[0].replace("\": ", "\":").contains(part), "{part} expected in {:?}", lines[0]);
    }
}

#[test]
fn access_logs_to_standard_output() {
    let origin = origin_of_203();
    let proxy = logging_proxy(&origin, "text", "stdout");
    assert_eq!(proxy.connect().get("/to/stdout").status(), 203);
    eventually("a line on standard output", || proxy.stdout().contains("/to/stdout"));
}

#[test]
fn access_logs_have_a_line_for_each_request() {
    let origin = Origin::replying(ok("x"));
    let proxy = logging_proxy(&origin, "json", "{dir}/access.log");
    let mut client = proxy.connect();
    for number in 0..200 {
        client.get(&format!("/{number}"));
    }
    let lines = wait_lines(&proxy, "access.log", 200);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("\"/{number}\"")), "{line}");
    }
}

#[test]
fn access_logs_tell_of_refused_requests() {
    let origin = Origin::echoing_targets();
    let proxy = logging_proxy(&origin, "json", "{dir}/access.log");
    let mut client = proxy.connect();
    client.send("GET /bad HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    let lines = wait_lines(&proxy, "access.log", 1);
    assert!(lines[0].contains("\"status\":400"), "{lines:?}");
}

#[test]
fn access_logs_are_complete_at_the_end() {
    let origin = Origin::replying(ok("x"));
    let proxy = logging_proxy(&origin, "text", "{dir}/access.log");
    let mut client = proxy.connect();
    for _ in 0..50 {
        client.get("/");
    }
    proxy.signal(Signal::SIGTERM);
    proxy.expect_exit(0);
    assert_eq!(lines_of(&proxy, "access.log").len(), 50);
}

#[test]
fn access_logs_of_tcp() {
    let origin = Origin::start(|conn| {
        conn.expect("hello");
        conn.send("hi");
    });
    let log = "access_log = { path = \"{dir}/access.log\", format = \"json\" }";
    let proxy = Proxy::start(Config::to([origin.addr()]).listener(log).tcp());
    let mut client = proxy.connect();
    client.send("hello");
    client.expect("hi");
    drop(client);
    let lines = wait_lines(&proxy, "access.log", 1);
    assert!(lines[0].contains(&origin.addr().to_string()), "{lines:?}");
}

#[test]
fn access_logs_are_reopened() {
    let origin = Origin::replying(ok("x"));
    let proxy = logging_proxy(&origin, "text", "{dir}/access.log");
    let mut client = proxy.connect();
    client.get("/before");
    wait_lines(&proxy, "access.log", 1);
    std::fs::rename(proxy.path("access.log"), proxy.path("access.log.1")).unwrap();
    client.get("/between");
    wait_lines(&proxy, "access.log.1", 2);
    proxy.signal(Signal::SIGUSR1);
    // Until the signal is noticed, lines still go to the old file.
    let mut requests = 0;
    eventually("lines go to a new file", || {
        client.get("/after");
        requests += 1;
        !lines_of(&proxy, "access.log").is_empty()
    });
    eventually("no line is lost", || {
        lines_of(&proxy, "access.log.1").len() + lines_of(&proxy, "access.log").len() == requests + 2
    });
    assert!(lines_of(&proxy, "access.log").iter().all(|line| line.contains("/after")));
}

#[test]
fn signals_that_mean_nothing_here_do_no_harm() {
    let proxy = Proxy::start(GOOD);
    proxy.signal(Signal::SIGPIPE);
    proxy.signal(Signal::SIGUSR1);
    assert_eq!(proxy.connect().get("/").text(), "hi");
}
