//! Keys of listeners, routes excepted.

use super::{
    Default, HEAD_SIZE, HEADER_COUNT, HEADER_EDITS, Kind, LISTEN_ADDRESS, MAX_INTEGER, MAX_SIZE, NAME,
    OPTIONAL_COUNT, ROUTE, Section, key,
};

/// `[[listeners]]`
pub static LISTENER: Section = Section {
    title: "[[listeners]]",
    help: "An address to listen on and what is spoken there.",
    keys: &[
        key("name", NAME, Default::Required, "Unique name; appears in counters and logs."),
        key(
            "address",
            LISTEN_ADDRESS,
            Default::Required,
            "Address to bind, unique. With port 0 the kernel chooses a port.",
        ),
        key(
            "protocol",
            Kind::Choice(&["http", "tcp"]),
            Default::Value("http"),
            "`http` routes requests (HTTP/1.1 and 1.0), `tcp` relays bytes.",
        ),
        key("cluster", NAME, Default::Absent("required with `tcp`"), "Where connections go; `tcp` only."),
        key(
            "idle_timeout",
            Kind::Duration { off: true },
            Default::Value("1h"),
            "No byte in either direction for so long closes the connection; `tcp` only.",
        ),
        key(
            "unix_mode",
            Kind::Text { name: "string", expected: "permission bits in octal such as \"0660\"" },
            Default::Value("0600"),
            "Permission bits of a Unix socket; `unix:` addresses only.",
        ),
        key(
            "backlog",
            Kind::Integer { off: false, min: 1, max: 65_535 },
            Default::Value("4096"),
            "Length of the accept queue; the kernel cuts it to `net.core.somaxconn`.",
        ),
        key(
            "max_connections",
            Kind::Integer { off: true, min: 1, max: MAX_INTEGER },
            Default::Value("off"),
            "Connections of this listener, all workers together.",
        ),
        key(
            "access_log",
            Kind::Table(&ACCESS_LOG),
            Default::Absent("no access log"),
            "Logs each request (`http`) or connection (`tcp`).",
        ),
        key(
            "limits",
            Kind::Table(&LIMITS),
            Default::Absent("every key at its default"),
            "Bounds on what a client may send; `http` only.",
        ),
        key(
            "timeouts",
            Kind::Table(&TIMEOUTS),
            Default::Absent("every key at its default"),
            "Bounds on what a client or an exchange may take; `http` only.",
        ),
        key(
            "forwarding",
            Kind::Table(&FORWARDING),
            Default::Absent("every key at its default"),
            "Headers that tell the origin, and the client, about the proxy; `http` only.",
        ),
        key(
            "upgrades",
            Kind::Texts { name: "protocols", expected: "a protocol name such as \"websocket\"" },
            Default::Value("websocket"),
            "Protocols that an `Upgrade` may turn a connection into; `[]` for none. Others are not forwarded as \
             upgrades. `http` only.",
        ),
        key(
            "accept_http_10",
            Kind::Boolean,
            Default::Value("true"),
            "Whether HTTP/1.0 clients are served; they get 426 otherwise. `http` only.",
        ),
        key(
            "request_headers",
            Kind::Table(&HEADER_EDITS),
            Default::Absent("no change"),
            "Changes to every request, made before the route's; `http` only.",
        ),
        key(
            "response_headers",
            Kind::Table(&HEADER_EDITS),
            Default::Absent("no change"),
            "Changes to every response, made after the route's; `http` only.",
        ),
        key(
            "routes",
            Kind::Tables(&ROUTE),
            Default::Absent("required with `http`"),
            "What is done with requests; the first that matches wins. `http` only.",
        ),
    ],
};

/// `[listeners.access_log]`
pub static ACCESS_LOG: Section = Section {
    title: "[listeners.access_log]",
    help: "One line for each request (`http`) or connection (`tcp`).",
    keys: &[
        key(
            "path",
            Kind::Text { name: "path", expected: "\"stdout\" or the path of a file" },
            Default::Required,
            "`stdout` or a file, which is appended to and reopened on SIGUSR1.",
        ),
        key("format", Kind::Choice(&["text", "json"]), Default::Value("text"), "How a line looks."),
    ],
};

/// `[listeners.limits]`
pub static LIMITS: Section = Section {
    title: "[listeners.limits]",
    help: "Bounds on what a client may send. A request over one of them is answered with 431, 413 or 400 and goes \
           nowhere.",
    keys: &[
        key("head_size", HEAD_SIZE, Default::Value("32KiB"), "Request line and header section."),
        key("headers", HEADER_COUNT, Default::Value("100"), "Header fields of a request."),
        key(
            "body_size",
            Kind::Size { off: true, min: 1, max: MAX_SIZE },
            Default::Value("off"),
            "Request body. Bodies stream through and are never collected, so a limit protects the origin, not the \
             proxy.",
        ),
        key(
            "requests_per_connection",
            OPTIONAL_COUNT,
            Default::Value("off"),
            "Requests on one connection; the last response carries `connection: close`.",
        ),
    ],
};

/// `[listeners.timeouts]`
pub static TIMEOUTS: Section = Section {
    title: "[listeners.timeouts]",
    help: "Bounds on what a client or an exchange may take.",
    keys: &[
        key(
            "request_head",
            Kind::Duration { off: false },
            Default::Value("10s"),
            "From the first byte of a request head, or from accept, to its last. Cannot be off: it is what keeps \
             clients that send a byte now and then from holding connections for nothing.",
        ),
        key(
            "idle",
            Kind::Duration { off: true },
            Default::Value("60s"),
            "Between two requests on a connection.",
        ),
        key(
            "stream_idle",
            Kind::Duration { off: true },
            Default::Value("5m"),
            "No byte of a body in either direction for so long ends the exchange, also if it is the client that \
             does not read. Server-sent events need a heartbeat below it.",
        ),
        key(
            "request",
            Kind::Duration { off: true },
            Default::Value("off"),
            "From the head of a request to the end of its response. Off because it would cut long downloads; \
             routes can set a `timeout` of their own.",
        ),
        key(
            "tunnel_idle",
            Kind::Duration { off: true },
            Default::Value("1h"),
            "No byte in either direction of an upgraded connection (WebSocket) for so long closes it.",
        ),
    ],
};

/// `[listeners.forwarding]`
pub static FORWARDING: Section = Section {
    title: "[listeners.forwarding]",
    help: "Headers that tell the origin, and the client, about the proxy. `off` passes a header through as it is.",
    keys: &[
        key(
            "x_forwarded_for",
            Kind::Choice(&["append", "replace", "off"]),
            Default::Value("append"),
            "`append` adds the client's address to what the request carries, `replace` (for a proxy that faces the \
             internet) trusts nothing that the request carries.",
        ),
        key(
            "x_forwarded_proto",
            Kind::Choice(&["replace", "keep", "off"]),
            Default::Value("replace"),
            "The scheme that the client used. `keep` leaves what the request carries: behind another proxy that \
             ends TLS.",
        ),
        key(
            "x_request_id",
            Kind::Choice(&["replace", "keep", "off"]),
            Default::Value("keep"),
            "A random id for the request. `keep` leaves the one that the request carries, if any.",
        ),
        key(
            "via",
            Kind::Text { name: "pseudonym or `off`", expected: "a pseudonym such as \"ouro\" or \"off\"" },
            Default::Value("ouro"),
            "Name of this proxy in `via` on requests and responses (RFC 9110 section 7.6.3).",
        ),
    ],
};
