//! `[[listeners]]`.

use std::path::PathBuf;

use super::super::model::{
    AccessLog, Address, ForwardedFor, ForwardedProto, Forwarding, HttpLimits, HttpListener, HttpTimeouts,
    Listener, LogFormat, LogTarget, Protocol, RequestId, TcpListener,
};
use super::super::reader::Section;
use super::super::values::{self, quoted};
use super::{Names, headers, route, shadow};

/// Keys that only a listener with `protocol = "http"` has, with what to write instead, if anything.
const HTTP_ONLY: [&str; 8] = [
    "limits",
    "timeouts",
    "forwarding",
    "upgrades",
    "accept_http_10",
    "request_headers",
    "response_headers",
    "routes",
];

pub(super) fn listener(
    section: &Section<'_>,
    names: &mut Names,
    warnings: &mut Vec<String>,
) -> Option<Listener> {
    let name = names.add_listener(section);
    let address = names.address(section);
    let unix_mode = section.read("unix_mode", unix_mode);
    if section.has("unix_mode") && matches!(address, Some(Address::Ip(_))) {
        section.fail("unix_mode", "has no effect: the address is not a Unix socket");
    }
    let backlog = section.integer("backlog");
    let max_connections = section.count("max_connections");
    let access_log = section.optional_table("access_log").and_then(|section| access_log(&section));
    let protocol = match section.choice("protocol") {
        Some("tcp") => tcp(section, names).map(Protocol::Tcp),
        Some(_) => Some(Protocol::Http(http(section, names, warnings))),
        None => None,
    };
    Some(Listener {
        name: name?,
        address: address?,
        unix_mode: unix_mode?,
        backlog: i32::try_from(backlog).ok()?,
        max_connections,
        access_log,
        protocol: protocol?,
    })
}

fn unix_mode(text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(format!("expected permission bits in octal such as \"0660\", found {}", quoted(text))),
    }
}

fn access_log(section: &Section<'_>) -> Option<AccessLog> {
    let target = section.read("path", |text| match text {
        "stdout" => Ok(LogTarget::Stdout),
        "" => Err("expected \"stdout\" or the path of a file, found \"\"".to_owned()),
        path if path.contains('\0') => Err("a path has no NUL".to_owned()),
        path => Ok(LogTarget::File(PathBuf::from(path))),
    });
    let format = if section.choice("format") == Some("json") { LogFormat::Json } else { LogFormat::Text };
    Some(AccessLog { target: target?, format })
}

fn tcp(section: &Section<'_>, names: &Names) -> Option<TcpListener> {
    for key in HTTP_ONLY.into_iter().filter(|key| section.has(key)) {
        let hint = match key {
            "routes" => "; a `tcp` listener has a `cluster`",
            "timeouts" => "; a `tcp` listener has an `idle_timeout`",
            _ => "",
        };
        section.fail(key, format!("belongs to listeners with `protocol = \"http\"`{hint}"));
    }
    if !section.has("cluster") {
        section.fail_table("missing `cluster`: a listener with `protocol = \"tcp\"` relays to one");
    }
    let idle_timeout_ms = section.duration("idle_timeout");
    Some(TcpListener { cluster: names.cluster(section, "cluster")?, idle_timeout_ms })
}

fn http(section: &Section<'_>, names: &Names, warnings: &mut Vec<String>) -> HttpListener {
    if section.has("cluster") {
        section.fail(
            "cluster",
            "belongs to listeners with `protocol = \"tcp\"`; an `http` listener has `routes`",
        );
    }
    if section.has("idle_timeout") {
        section.fail(
            "idle_timeout",
            "belongs to listeners with `protocol = \"tcp\"`; an `http` listener has `timeouts.idle`",
        );
    }
    let route_sections = section.tables("routes");
    if route_sections.is_empty() && (!section.has("routes") || section.is_array("routes")) {
        section.fail("routes", "expected at least one route: a listener without any could only answer 404");
    }
    let routes = route_sections.iter().filter_map(|section| route::route(section, names)).collect::<Vec<_>>();
    if routes.len() == route_sections.len() {
        shadow::warn(section.path(), &routes, warnings);
    }
    HttpListener {
        limits: limits(&section.table("limits")),
        timeouts: timeouts(&section.table("timeouts")),
        forwarding: forwarding(&section.table("forwarding")),
        upgrades: upgrades(section),
        accept_http_10: section.boolean("accept_http_10").unwrap_or_default(),
        routes,
        request_headers: headers::edits(section, "request_headers"),
        response_headers: headers::edits(section, "response_headers"),
    }
}

fn limits(section: &Section<'_>) -> HttpLimits {
    HttpLimits {
        head_size: section.memory_size("head_size"),
        headers: section.count("headers"),
        body_size: section.size("body_size"),
        requests_per_connection: section.integer("requests_per_connection"),
    }
}

fn timeouts(section: &Section<'_>) -> HttpTimeouts {
    HttpTimeouts {
        request_head_ms: section.duration("request_head"),
        idle_ms: section.duration("idle"),
        stream_idle_ms: section.duration("stream_idle"),
        request_ms: section.duration("request"),
        tunnel_idle_ms: section.duration("tunnel_idle"),
    }
}

fn forwarding(section: &Section<'_>) -> Forwarding {
    let x_forwarded_for = match section.choice("x_forwarded_for") {
        Some("replace") => ForwardedFor::Replace,
        Some("off") => ForwardedFor::Off,
        _ => ForwardedFor::Append,
    };
    let x_forwarded_proto = match section.choice("x_forwarded_proto") {
        Some("keep") => ForwardedProto::Keep,
        Some("off") => ForwardedProto::Off,
        _ => ForwardedProto::Replace,
    };
    let x_request_id = match section.choice("x_request_id") {
        Some("replace") => RequestId::Replace,
        Some("off") => RequestId::Off,
        _ => RequestId::Keep,
    };
    let via = section.read("via", |text| match text {
        "off" => Ok(None),
        // A pseudonym is a token; "host:port" is the other form that RFC 9110 section 7.6.3 allows.
        _ if values::is_token(text) || values::authority(text).is_ok() => Ok(Some(text.to_owned())),
        _ => Err(format!("expected a pseudonym such as \"ouro\" or \"off\", found {}", quoted(text))),
    });
    Forwarding { x_forwarded_for, x_forwarded_proto, x_request_id, via: via.flatten() }
}

fn upgrades(section: &Section<'_>) -> Vec<String> {
    let mut upgrades: Vec<String> = Vec::new();
    for text in section.texts("upgrades") {
        let protocol = text.text.to_ascii_lowercase();
        if protocol.split('/').count() > 2 || !protocol.split('/').all(values::is_token) {
            let found = quoted(text.text);
            section.fail_text(
                "upgrades",
                text,
                format!("expected a protocol such as \"websocket\", found {found}"),
            );
        } else if matches!(protocol.as_str(), "h2c" | "http") {
            section.fail_text(
                "upgrades",
                text,
                "a tunnel of HTTP would pass requests that no route has seen",
            );
        } else if !upgrades.contains(&protocol) {
            upgrades.push(protocol);
        }
    }
    upgrades
}
