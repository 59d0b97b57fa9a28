//! Keys of routes.

use super::{Default, Kind, NAME, Section, key};

const PATH: Kind = Kind::Text { name: "path", expected: "a path that begins with \"/\"" };

const STRING: Kind = Kind::Text { name: "string", expected: "a string" };

const AUTHORITY: Kind =
    Kind::Text { name: "host", expected: "a host such as \"example.com\" or \"example.com:8080\"" };

/// A share of the traffic.
pub(super) const WEIGHT: Kind = Kind::Integer { off: false, min: 1, max: 65_535 };

/// `[[listeners.routes]]`
pub static ROUTE: Section = Section {
    title: "[[listeners.routes]]",
    help: "Conditions, all of which a request must meet, and exactly one of the actions `cluster`, `clusters`, \
           `redirect` and `respond`. The first route that matches wins; a request that none matches gets 404.",
    keys: &[
        key(
            "hosts",
            Kind::Texts { name: "hosts", expected: "a host such as \"example.com\" or \"*.example.com\"" },
            Default::Absent("any host"),
            "Hosts without ports, compared without regard to case. `*.example.com` stands for any number of labels \
             in front, at least one. An IPv6 address stands in brackets.",
        ),
        key("path", PATH, Default::Absent("any path"), "Exactly this path. The query does not count."),
        key(
            "path_prefix",
            PATH,
            Default::Absent("any path"),
            "Paths that begin so, character by character: `/api` also matches `/apis`, `/api/` does not.",
        ),
        key(
            "methods",
            Kind::Texts { name: "methods", expected: "a method such as \"GET\"" },
            Default::Absent("any method"),
            "Methods, which are case-sensitive.",
        ),
        key(
            "headers",
            Kind::Tables(&HEADER_MATCH),
            Default::Absent("no condition"),
            "Conditions on header fields.",
        ),
        key("cluster", NAME, Default::Absent(""), "Forwards to this cluster."),
        key(
            "clusters",
            Kind::Tables(&WEIGHTED_CLUSTER),
            Default::Absent(""),
            "Forwards to one of several clusters, at random by weight.",
        ),
        key("redirect", Kind::Table(&REDIRECT), Default::Absent(""), "Answers with a redirect."),
        key("respond", Kind::Table(&RESPOND), Default::Absent(""), "Answers directly."),
        key(
            "prefix_rewrite",
            PATH,
            Default::Absent("the path as it is"),
            "Replaces the matched `path_prefix` or `path` before forwarding; needs one of them. Where it ends and \
             the rest begins with `/`, one of the two is dropped.",
        ),
        key(
            "host_rewrite",
            AUTHORITY,
            Default::Absent("the host as it is"),
            "Replaces `Host` before forwarding.",
        ),
        key(
            "timeout",
            Kind::Duration { off: true },
            Default::Absent("the listener's `timeouts.request`"),
            "From the head of a request to the end of its response.",
        ),
        key(
            "request_headers",
            Kind::Table(&HEADER_EDITS),
            Default::Absent("no change"),
            "Changes to the request, made after the listener's.",
        ),
        key(
            "response_headers",
            Kind::Table(&HEADER_EDITS),
            Default::Absent("no change"),
            "Changes to the response, made before the listener's.",
        ),
    ],
};

/// `[[listeners.routes.headers]]`
pub static HEADER_MATCH: Section = Section {
    title: "[[listeners.routes.headers]]",
    help: "A condition on a header field, by exactly one of `value`, `prefix`, `regex` and `present`. A field that \
           occurs several times meets it if one of its values does.",
    keys: &[
        key("name", HEADER_NAME, Default::Required, "Field name, compared without regard to case."),
        key("value", STRING, Default::Absent(""), "The value is exactly this."),
        key("prefix", STRING, Default::Absent(""), "The value begins so."),
        key(
            "regex",
            Kind::Text { name: "regular expression", expected: "a regular expression" },
            Default::Absent(""),
            "The expression finds something in the value; `^` and `$` tie it to the ends. It works on bytes: `.` \
             and `\\d` know ASCII only.",
        ),
        key("present", Kind::Boolean, Default::Absent(""), "`true`: the field is there."),
        key("invert", Kind::Boolean, Default::Value("false"), "Turns the condition round."),
    ],
};

/// `[[listeners.routes.clusters]]`
pub static WEIGHTED_CLUSTER: Section = Section {
    title: "[[listeners.routes.clusters]]",
    help: "One of the clusters that share the traffic of a route.",
    keys: &[
        key("name", NAME, Default::Required, "Name of the cluster."),
        key("weight", WEIGHT, Default::Value("1"), "Share of the requests relative to the others."),
    ],
};

/// `[listeners.routes.redirect]`
pub static REDIRECT: Section = Section {
    title: "[listeners.routes.redirect]",
    help: "A redirect. What is left out is taken from the request, so at least one of `scheme`, `host`, `path`, \
           `prefix_rewrite` and `strip_query` must be given.",
    keys: &[
        key(
            "status",
            Kind::Integer { off: false, min: 301, max: 308 },
            Default::Value("301"),
            "301, 302, 303, 307 or 308.",
        ),
        key(
            "scheme",
            Kind::Choice(&["http", "https"]),
            Default::Absent("the request's"),
            "Scheme. Where it changes, a port that belongs to the old one (80 or 443) is dropped.",
        ),
        key("host", AUTHORITY, Default::Absent("the request's"), "Host, with a port where one is needed."),
        key(
            "path",
            PATH,
            Default::Absent("the request's"),
            "Replaces the whole path; the request's query stays unless this has a query too.",
        ),
        key(
            "prefix_rewrite",
            PATH,
            Default::Absent("the request's path"),
            "Replaces the matched `path_prefix` or `path` of the route.",
        ),
        key("strip_query", Kind::Boolean, Default::Value("false"), "Drops the request's query."),
    ],
};

/// `[listeners.routes.respond]`
pub static RESPOND: Section = Section {
    title: "[listeners.routes.respond]",
    help: "A fixed response.",
    keys: &[
        key(
            "status",
            Kind::Integer { off: false, min: 200, max: 599 },
            Default::Value("200"),
            "Status code.",
        ),
        key("body", STRING, Default::Value(""), "Body; 204, 205 and 304 have none."),
        key(
            "content_type",
            Kind::Text { name: "string", expected: "a media type such as \"text/plain\"" },
            Default::Value("text/plain; charset=utf-8"),
            "`content-type` of the body.",
        ),
    ],
};

/// Changes to header fields.
pub static HEADER_EDITS: Section = Section {
    title: "request_headers, response_headers",
    help: "Changes to header fields, of a listener or a route: first `remove`, then `set`, then `add`. What frames \
           a message or belongs to one connection (`content-length`, `connection`, `upgrade` …) cannot be changed.",
    keys: &[
        key("set", Kind::Map, Default::Absent("nothing"), "Fields to replace, or to add where missing."),
        key("add", Kind::Map, Default::Absent("nothing"), "Fields to add beside what is there."),
        key(
            "remove",
            Kind::Texts { name: "header names", expected: "a header name" },
            Default::Absent("nothing"),
            "Fields to take out.",
        ),
    ],
};

const HEADER_NAME: Kind = Kind::Text { name: "header name", expected: "a header name" };
