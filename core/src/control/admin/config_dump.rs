//! `/config_dump`: the configuration that runs, under the keys of the configuration file, defaults filled in.
//!
//! Every structure is taken apart by name without `..`, so that a new field does not compile before it has a place here.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::clusters::load_balancing;
use super::info::address_text;
use super::paths::{AppState, Refusal, json};
use crate::base::clock::{Millis, NEVER};
use crate::config::model::{
    AccessLog, Address, Admin, Cluster, Endpoint, EndpointTarget, Forward, ForwardedFor, ForwardedProto,
    Forwarding, HeaderEdits, HeaderMatch, HostPattern, HttpLimits, HttpListener, HttpTimeouts, Listener,
    LogFormat, LogTarget, Model, PathMatch, Protocol, Redirect, RequestId, Respond, Route, RouteAction,
    Server, TcpListener, ValueMatch,
};

/// What stands where a secret would.
const MASKED: &str = "[masked]";

/// Parts of the names of header fields whose values are nobody's business.
const SECRET_NAMES: &[&str] = &[
    "auth",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "api-key",
    "apikey",
    "api_key",
    "credential",
    "session",
];

pub(super) async fn config_dump(State(app): AppState) -> Result<Response, Refusal> {
    let admin = std::sync::Arc::clone(&app.admin);
    // Thousands of routes take a while to write.
    let dumped = tokio::task::spawn_blocking(move || json(&model(&admin.model))).await;
    dumped
        .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the configuration could not be shown"))
}

/// A whole configuration.
fn model(of: &Model) -> Value {
    let Model { server: of_server, admin, listeners, clusters, warnings } = of;
    json!({
        "server": server(of_server),
        "admin": admin.as_ref().map(|Admin { address, names }| {
            json!({ "address": address_text(address), "names": names })
        }),
        "listeners": listeners.iter().map(|of| listener(of, clusters)).collect::<Vec<_>>(),
        "clusters": clusters.iter().map(|of| cluster(of)).collect::<Vec<_>>(),
        "warnings": warnings,
    })
}

fn server(of: &Server) -> Value {
    let Server {
        max_connections,
        buffer_memory,
        buffer_size,
        moderation_us,
        stats_memory,
        shutdown_timeout_ms,
    } = of;
    json!({
        "max_connections": count(*max_connections),
        "buffer_memory": size(*buffer_memory as u64),
        "buffer_size": size(*buffer_size as u64),
        "moderation_us": if *moderation_us == 0 { json!("off") } else { json!(moderation_us) },
        "stats_memory": size(*stats_memory),
        "shutdown_timeout": duration(*shutdown_timeout_ms),
    })
}

type Clusters = [std::sync::Arc<Cluster>];

fn listener(of: &Listener, clusters: &Clusters) -> Value {
    let Listener { name, address, unix_mode, backlog, max_connections, access_log, protocol } = of;
    let mut object = json!({
        "name": name,
        "address": address_text(address),
        "backlog": backlog,
        "max_connections": count(*max_connections),
        "access_log": access_log.as_ref().map(log),
    });
    if matches!(address, Address::Unix(_)) {
        object["unix_mode"] = json!(format!("{unix_mode:04o}"));
    }
    let more = match protocol {
        Protocol::Http(of) => http(of, clusters),
        Protocol::Tcp(TcpListener { cluster, idle_timeout_ms }) => json!({
            "protocol": "tcp",
            "cluster": cluster_name(clusters, *cluster),
            "idle_timeout": duration(*idle_timeout_ms),
        }),
    };
    merge(&mut object, more);
    object
}

fn http(of: &HttpListener, clusters: &Clusters) -> Value {
    let HttpListener {
        limits,
        timeouts,
        forwarding,
        upgrades,
        accept_http_10,
        routes,
        request_headers,
        response_headers,
    } = of;
    let HttpLimits { head_size, headers, body_size, requests_per_connection } = limits;
    let HttpTimeouts { request_head_ms, idle_ms, stream_idle_ms, request_ms, tunnel_idle_ms } = timeouts;
    let Forwarding { x_forwarded_for, x_forwarded_proto, x_request_id, via } = forwarding;
    json!({
        "protocol": "http",
        "limits": {
            "head_size": size(*head_size as u64),
            "headers": headers,
            "body_size": if *body_size == u64::MAX { json!("off") } else { size(*body_size) },
            "requests_per_connection": requests(*requests_per_connection),
        },
        "timeouts": {
            "request_head": duration(*request_head_ms),
            "idle": duration(*idle_ms),
            "stream_idle": duration(*stream_idle_ms),
            "request": duration(*request_ms),
            "tunnel_idle": duration(*tunnel_idle_ms),
        },
        "forwarding": {
            "x_forwarded_for": match x_forwarded_for {
                ForwardedFor::Append => "append",
                ForwardedFor::Replace => "replace",
                ForwardedFor::Off => "off",
            },
            "x_forwarded_proto": match x_forwarded_proto {
                ForwardedProto::Replace => "replace",
                ForwardedProto::Keep => "keep",
                ForwardedProto::Off => "off",
            },
            "x_request_id": match x_request_id {
                RequestId::Replace => "replace",
                RequestId::Keep => "keep",
                RequestId::Off => "off",
            },
            "via": via.as_deref().unwrap_or("off"),
        },
        "upgrades": upgrades,
        "accept_http_10": accept_http_10,
        "request_headers": edits(request_headers),
        "response_headers": edits(response_headers),
        "routes": routes.iter().map(|of| route(of, clusters)).collect::<Vec<_>>(),
    })
}

fn log(of: &AccessLog) -> Value {
    let AccessLog { target, format } = of;
    json!({
        "path": match target {
            LogTarget::Stdout => "stdout".to_owned(),
            LogTarget::File(path) => path.display().to_string(),
        },
        "format": match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
    })
}

fn route(of: &Route, clusters: &Clusters) -> Value {
    let Route { hosts, path, methods, headers, action, request_headers, response_headers } = of;
    let mut object = json!({});
    if !hosts.is_empty() {
        let written = hosts.iter().map(|host| match host {
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        });
        object["hosts"] = written.collect();
    }
    match path {
        PathMatch::Any => {}
        PathMatch::Exact(path) => object["path"] = json!(path),
        PathMatch::Prefix(prefix) => object["path_prefix"] = json!(prefix),
    }
    if !methods.is_empty() {
        object["methods"] = json!(methods);
    }
    if !headers.is_empty() {
        object["headers"] = headers.iter().map(condition).collect();
    }
    merge(&mut object, act(action, clusters));
    for (key, changes) in [("request_headers", request_headers), ("response_headers", response_headers)] {
        if !changes.is_empty() {
            object[key] = edits(changes);
        }
    }
    object
}

fn act(of: &RouteAction, clusters: &Clusters) -> Value {
    match of {
        RouteAction::Forward(Forward {
            clusters: shares,
            total_weight: _, // follows from the weights
            prefix_rewrite,
            host_rewrite,
            timeout_ms,
        }) => {
            let shares = shares
                .iter()
                .map(|(index, weight)| json!({ "name": cluster_name(clusters, *index), "weight": weight }));
            let mut object = json!({ "clusters": shares.collect::<Vec<_>>() });
            set(&mut object, "prefix_rewrite", prefix_rewrite.as_ref().map(|path| json!(path)));
            set(&mut object, "host_rewrite", host_rewrite.as_ref().map(|host| json!(host)));
            set(&mut object, "timeout", timeout_ms.map(duration));
            object
        }
        RouteAction::Redirect(Redirect { status, scheme, host, path, prefix_rewrite, strip_query }) => {
            let mut object = json!({ "status": status, "strip_query": strip_query });
            for (key, value) in
                [("scheme", scheme), ("host", host), ("path", path), ("prefix_rewrite", prefix_rewrite)]
            {
                set(&mut object, key, value.as_ref().map(|text| json!(text)));
            }
            json!({ "redirect": object })
        }
        RouteAction::Respond(Respond { status, body, content_type }) => json!({
            "respond": {
                "status": status,
                "body": String::from_utf8_lossy(body),
                "content_type": content_type,
            }
        }),
    }
}

fn condition(of: &HeaderMatch) -> Value {
    let HeaderMatch { name, value, invert } = of;
    let (key, value) = match value {
        ValueMatch::Present => ("present", json!(true)),
        ValueMatch::Exact(text) => ("value", json!(masked(name, text))),
        ValueMatch::Prefix(text) => ("prefix", json!(masked(name, text))),
        ValueMatch::Regex(regex) => ("regex", json!(masked(name, regex.as_str()))),
    };
    json!({ "name": name, key: value, "invert": invert })
}

fn edits(of: &HeaderEdits) -> Value {
    let HeaderEdits { set, add, remove } = of;
    let pairs = |pairs: &[(String, String)]| -> Map<String, Value> {
        pairs.iter().map(|(name, value)| (name.clone(), json!(masked(name, value)))).collect()
    };
    json!({ "set": pairs(set), "add": pairs(add), "remove": remove })
}

fn cluster(of: &Cluster) -> Value {
    let Cluster {
        name,
        endpoints,
        load_balancing: balancing,
        connect_timeout_ms,
        connect_attempts,
        response_timeout_ms,
        idle_timeout_ms,
        max_idle_connections,
        requests_per_connection,
        unsafe_reuse_within_ms,
        resolve_period_ms,
        response_head_size,
        response_headers,
    } = of;
    let endpoint = |Endpoint { target, weight }: &Endpoint| {
        let address = match target {
            EndpointTarget::Address(address) => address_text(address),
            EndpointTarget::Name { host, port } => format!("{host}:{port}"),
        };
        json!({ "address": address, "weight": weight })
    };
    json!({
        "name": name,
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "load_balancing": load_balancing(*balancing),
        "connect_timeout": duration(*connect_timeout_ms),
        "connect_attempts": connect_attempts,
        "response_timeout": duration(*response_timeout_ms),
        "idle_timeout": duration(*idle_timeout_ms),
        "max_idle_connections": max_idle_connections,
        "requests_per_connection": requests(*requests_per_connection),
        "unsafe_reuse_within": duration(*unsafe_reuse_within_ms),
        "resolve_period": duration(*resolve_period_ms),
        "response_head_size": size(*response_head_size as u64),
        "response_headers": response_headers,
    })
}

/// The one place that decides what of a configuration is not shown.
fn masked<'v>(name: &str, value: &'v str) -> &'v str {
    let name = name.to_ascii_lowercase();
    if SECRET_NAMES.iter().any(|part| name.contains(part)) { MASKED } else { value }
}

fn cluster_name(clusters: &Clusters, index: usize) -> Option<&str> {
    clusters.get(index).map(|cluster| cluster.name.as_str())
}

/// As users write it, in the largest unit that needs no fraction.
fn duration(ms: Millis) -> Value {
    match ms {
        NEVER => json!("off"),
        ms if ms > 0 && ms % 3_600_000 == 0 => json!(format!("{}h", ms / 3_600_000)),
        ms if ms > 0 && ms % 60_000 == 0 => json!(format!("{}m", ms / 60_000)),
        ms if ms % 1000 == 0 => json!(format!("{}s", ms / 1000)),
        ms => json!(format!("{ms}ms")),
    }
}

/// As users write it, in the largest unit that needs no fraction.
fn size(bytes: u64) -> Value {
    let unit = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fits = unit.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    json!(fits.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit)))
}

fn count(n: usize) -> Value {
    if n == usize::MAX { json!("off") } else { json!(n) }
}

fn requests(n: u32) -> Value {
    if n == u32::MAX { json!("off") } else { json!(n) }
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[key] = value;
    }
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_runs_is_shown_with_its_defaults() {
        let dumped = model(&config::quick_start("127.0.0.1:9000".parse().unwrap()));
        assert_eq!(dumped["server"]["buffer_memory"], "128MiB");
        assert_eq!(dumped["server"]["moderation_us"], 50);
        assert_eq!(dumped["listeners"][0]["timeouts"]["request"], "off");
        assert_eq!(dumped["listeners"][0]["timeouts"]["tunnel_idle"], "1h");
        assert_eq!(dumped["clusters"][0]["requests_per_connection"], "off");
    }

    /// What JSON says as TOML; members that are null are left out, as users leave them out.
    fn toml(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members = members.iter().filter(|(_, value)| !value.is_null());
                let written = members.map(|(key, value)| format!("{key:?} = {}", toml(value)));
                format!("{{ {} }}", written.collect::<Vec<_>>().join(", "))
            }
            Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
            other => other.to_string(),
        }
    }

    #[test]
    fn what_is_shown_is_a_configuration_that_means_the_same() {
        let text = r#"
            server = { max_connections = 7, shutdown_timeout = "90s" }
            admin = { address = "unix:/run/admin.sock" }
            [[listeners]]
            name = "web"
            address = "unix:/run/web.sock"
            unix_mode = "0660"
            access_log = { path = "/tmp/a.log", format = "json" }
            limits = { body_size = "100MiB", requests_per_connection = 9 }
            timeouts = { request = "1m30s", idle = "off" }
            forwarding = { via = "off", x_forwarded_for = "replace", x_forwarded_proto = "keep", x_request_id = "off" }
            upgrades = []
            accept_http_10 = false
            request_headers = { set = { authorization = "secret" }, add = { x-b = "\"\\" }, remove = ["x-c"] }
            routes = [
                { hosts = ["a.example", "*.b.example"], path = "/x", methods = ["GET"], cluster = "api", timeout = "off" },
                { path_prefix = "/api/", prefix_rewrite = "/", host_rewrite = "h:1", timeout = "1500ms",
                  clusters = [{ name = "api", weight = 3 }, { name = "db" }] },
                { headers = [{ name = "x-a", value = "v" }, { name = "x-b", prefix = "p", invert = true },
                             { name = "x-c", regex = "^[0-9]+$" }, { name = "x-d", present = true }],
                  redirect = { scheme = "https", host = "c.example", path = "/y", status = 308 } },
                { path_prefix = "/old", redirect = { prefix_rewrite = "/new", strip_query = true } },
                { respond = { status = 404, body = "none\n", content_type = "text/x" } },
            ]
            [[listeners]]
            name = "db"
            address = "[::1]:5432"
            protocol = "tcp"
            cluster = "db"
            idle_timeout = "8h"
            [[clusters]]
            name = "api"
            endpoints = ["127.0.0.1:1", { address = "name.example:80", weight = 2 }, "unix:/run/a.sock"]
            load_balancing = "least_request"
            [[clusters]]
            name = "db"
            endpoints = ["127.0.0.1:2"]
            load_balancing = "random"
            resolve_period = "off"
            requests_per_connection = 5
        "#;
        let parse =
            |text: &str| config::parse(text, "test").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let mut dumped = model(&parse(text));
        dumped.as_object_mut().unwrap().remove("warnings");
        let again =
            dumped.as_object().unwrap().iter().map(|(key, value)| format!("{key} = {}\n", toml(value)));
        let mut again = model(&parse(&again.collect::<String>()));
        again.as_object_mut().unwrap().remove("warnings");
        assert_eq!(again, dumped);
    }

    #[test]
    fn secrets_are_masked_and_the_rest_is_not() {
        let text = "[[listeners]]\nname='l'\naddress='127.0.0.1:0'\n\
                    request_headers={set={authorization='Basic c2VjcmV0', x-team='blue', x-api-key='k'}}\n\
                    [[listeners.routes]]\nheaders=[{name='cookie', prefix='id=secret'}, {name='x-a', value='b'}]\n\
                    response_headers={add={set-cookie='id=secret'}, remove=['cookie']}\nrespond={body='hello'}\n";
        let dumped = model(&config::parse(text, "test").unwrap()).to_string();
        assert!(!dumped.contains("secret") && !dumped.contains("c2VjcmV0"), "{dumped}");
        for shown in [r#""x-team":"blue""#, r#""value":"b""#, r#""remove":["cookie"]"#, r#""body":"hello""#] {
            assert!(dumped.contains(shown), "{shown}: {dumped}");
        }
        assert_eq!(dumped.matches(MASKED).count(), 4, "{dumped}");
    }

    #[test]
    fn values_are_written_as_users_write_them() {
        for (ms, text) in
            [(0, "0s"), (250, "250ms"), (5000, "5s"), (90_000, "90s"), (300_000, "5m"), (NEVER, "off")]
        {
            assert_eq!(duration(ms), text);
        }
        for (bytes, text) in [(512, "512B"), (65_536, "64KiB"), (1 << 30, "1GiB"), (10_000_000, "10000000B")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
