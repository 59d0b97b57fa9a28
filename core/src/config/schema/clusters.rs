//! Keys of clusters.

use super::routes::WEIGHT;
use super::{Default, HEAD_SIZE, HEADER_COUNT, Kind, NAME, OPTIONAL_COUNT, Section, key};

const ENDPOINT: &str = "an address such as \"127.0.0.1:9000\", \"[::1]:9000\", \"name.example:80\" or \
                        \"unix:/run/app.sock\"";

/// `[[clusters]]`
pub static CLUSTER: Section = Section {
    title: "[[clusters]]",
    help: "Endpoints that serve the same, and how they are used.",
    keys: &[
        key("name", NAME, Default::Required, "Unique name; appears in routes, counters and logs."),
        key(
            "endpoints",
            Kind::TextsOrTables { name: "endpoints", expected: ENDPOINT, section: &ENDPOINT_TABLE },
            Default::Required,
            "Addresses, names to resolve or Unix sockets; at least one.",
        ),
        key(
            "load_balancing",
            Kind::Choice(&["round_robin", "least_request", "random"]),
            Default::Value("round_robin"),
            "`round_robin` takes turns by weight, `least_request` the less loaded of two random endpoints, `random` \
             any by weight.",
        ),
        key(
            "connect_timeout",
            Kind::Duration { off: false },
            Default::Value("5s"),
            "Time to establish a connection to one endpoint.",
        ),
        key(
            "connect_attempts",
            Kind::Integer { off: false, min: 1, max: 32 },
            Default::Value("3"),
            "Endpoints tried for one request or connection before giving up.",
        ),
        key(
            "response_timeout",
            Kind::Duration { off: true },
            Default::Value("60s"),
            "From the end of the request to the first byte of the response (HTTP).",
        ),
        key(
            "idle_timeout",
            Kind::Duration { off: true },
            Default::Value("60s"),
            "How long an idle connection is kept. Best below the origin's own, which otherwise closes a connection \
             just as a request is sent on it.",
        ),
        key(
            "max_idle_connections",
            Kind::Integer { off: false, min: 0, max: 1_000_000 },
            Default::Value("1024"),
            "Idle connections kept per worker and endpoint; 0 connects anew for each request.",
        ),
        key(
            "requests_per_connection",
            OPTIONAL_COUNT,
            Default::Value("off"),
            "Requests on one connection to an endpoint.",
        ),
        key(
            "unsafe_reuse_within",
            Kind::Duration { off: true },
            Default::Value("1s"),
            "A request that must not be repeated (POST and the like) takes an idle connection only if that was in \
             use so recently, and a new one otherwise: an idle connection may be closing unseen. `off` takes any.",
        ),
        key(
            "resolve_period",
            Kind::Duration { off: true },
            Default::Value("30s"),
            "How often names are resolved again; `off` resolves them once.",
        ),
        key("response_head_size", HEAD_SIZE, Default::Value("64KiB"), "Status line and header section."),
        key("response_headers", HEADER_COUNT, Default::Value("200"), "Header fields of a response."),
    ],
};

/// `[[clusters.endpoints]]`
pub static ENDPOINT_TABLE: Section = Section {
    title: "[[clusters.endpoints]]",
    help: "An endpoint with a weight, where the plain string does not say enough.",
    keys: &[
        key(
            "address",
            Kind::Text { name: "address", expected: ENDPOINT },
            Default::Required,
            "Address, name to resolve or Unix socket. Each address of a name gets the whole weight.",
        ),
        key("weight", WEIGHT, Default::Value("1"), "Share of the traffic relative to the others."),
    ],
};
