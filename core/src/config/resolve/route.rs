//! Conditions of `[[listeners.routes]]`.

use super::super::model::{HostPattern, PathMatch, Route};
use super::super::reader::{Section, Text};
use super::super::values::{self, quoted};
use super::{Names, action, headers};
use crate::base::http::Method;

/// Longest path in a configuration, bytes; far above what a request may carry would be of no use.
const MAX_PATH_BYTES: usize = 8 * 1024;

pub(super) fn route(section: &Section<'_>, names: &Names) -> Option<Route> {
    let path = path_match(section);
    let action = action::action(section, &path, names);
    let route = Route {
        hosts: list(section, "hosts", host_pattern),
        path,
        methods: list(section, "methods", method),
        headers: section.tables("headers").iter().filter_map(headers::condition).collect(),
        action: action?,
        request_headers: headers::edits(section, "request_headers"),
        response_headers: headers::edits(section, "response_headers"),
    };
    Some(route)
}

/// A list that restricts a route; an empty one would match nothing or everything, so it is refused.
fn list<T: PartialEq>(section: &Section<'_>, key: &str, read: fn(&str) -> Result<T, String>) -> Vec<T> {
    let texts = section.texts(key);
    if texts.is_empty() && section.is_array(key) {
        section.fail(key, format!("an empty list matches nothing; leave `{key}` out to match any"));
    }
    let mut items = Vec::with_capacity(texts.len());
    for text in texts {
        match read(text.text) {
            Ok(item) => items.push(item),
            Err(message) => section.fail_text(key, text, message),
        }
    }
    items
}

fn host_pattern(text: &str) -> Result<HostPattern, String> {
    let expected = |why: &str| {
        format!("expected a host such as \"example.com\" or \"*.example.com\", found {}; {why}", quoted(text))
    };
    if text == "*" {
        return Err(expected("leave `hosts` out for any host"));
    }
    if let Some(rest) = text.strip_prefix("*.") {
        let host = values::host_name(rest).map_err(|why| expected(&why))?;
        return Ok(HostPattern::Suffix(format!(".{host}")));
    }
    if text.contains('*') {
        return Err(expected("a \"*\" stands for whole labels at the front only"));
    }
    values::bracketed_or_name(text).map(HostPattern::Exact).map_err(|why| expected(&why))
}

fn method(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    if !values::is_token(text) {
        return Err(format!("expected a method such as \"GET\", found {}", quoted(text)));
    }
    if upper != text && Method::from_bytes(upper.as_bytes()) != Method::Other {
        return Err(format!("expected {upper:?}, found {text:?}; methods are case-sensitive"));
    }
    Ok(text.to_owned())
}

fn path_match(section: &Section<'_>) -> PathMatch {
    if section.has("path") && section.has("path_prefix") {
        section.fail("path_prefix", "`path` is given too; a route has one of them");
    }
    let exact = section.text("path").and_then(|text| path(section, "path", text, Query::Refused));
    let prefix =
        section.text("path_prefix").and_then(|text| path(section, "path_prefix", text, Query::Refused));
    match (exact, prefix) {
        (Some(exact), _) => PathMatch::Exact(exact),
        (_, Some(prefix)) => PathMatch::Prefix(prefix),
        _ => PathMatch::Any,
    }
}

/// Whether a path may be followed by a query.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// A path as it stands in a request line.
pub(super) fn path(section: &Section<'_>, key: &str, text: Text<'_>, query: Query) -> Option<String> {
    let path = text.text;
    let wrong = if !path.starts_with('/') {
        format!("expected a path that begins with \"/\", found {}", quoted(path))
    } else if path.len() > MAX_PATH_BYTES {
        format!("a path has {MAX_PATH_BYTES} bytes at most, this has {}", path.len())
    } else if let Some(odd) = path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        format!("expected a path as in a request line, where {odd:?} is percent-encoded")
    } else if query == Query::Refused && path.contains('?') {
        "expected a path without a query, which does not count here".to_owned()
    } else {
        return Some(path.to_owned());
    };
    section.fail_text(key, text, wrong);
    None
}
