//! What becomes of a path: rewritten for the origin, or turned into the location of a redirect.

use super::split_query;
use crate::config::model::{Forward, PathMatch, Redirect, Route};

/// Appends the path and query that the origin gets, for a request that took this route.
pub fn rewrite_path(route: &Route, forward: &Forward, path_and_query: &[u8], out: &mut Vec<u8>) {
    let (path, query) = split_query(path_and_query);
    let path = if path.is_empty() { b"/" } else { path };
    match &forward.prefix_rewrite {
        Some(rewrite) => replace_prefix(&route.path, rewrite, path, out),
        None => out.extend_from_slice(path),
    }
    out.extend_from_slice(query);
}

/// Appends the `location` of a redirect, for a request that took this route: an absolute URI, or a path if neither
/// the request nor the redirect names a host.
///
/// `scheme` is `http` or `https`, `authority` as received.
pub fn redirect_location(
    route: &Route,
    redirect: &Redirect,
    scheme: &str,
    authority: &[u8],
    path_and_query: &[u8],
    out: &mut Vec<u8>,
) {
    let new_scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let authority = match &redirect.host {
        Some(host) => host.as_bytes(),
        None if new_scheme != scheme => without_default_port(authority, scheme),
        None => authority,
    };
    let absolute = !authority.is_empty();
    if absolute {
        out.extend_from_slice(new_scheme.as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(authority);
    }
    let path_start = out.len();
    let (path, query) = split_query(path_and_query);
    // `*` and the empty path are no paths of a resource.
    let path = if path.starts_with(b"/") { path } else { b"/" };
    match (&redirect.path, &redirect.prefix_rewrite) {
        (Some(fixed), _) => out.extend_from_slice(fixed.as_bytes()),
        (None, Some(rewrite)) => replace_prefix(&route.path, rewrite, path, out),
        (None, None) => out.extend_from_slice(path),
    }
    // A location that begins with two slashes would name a host: of the client's choice, with `GET //evil.example`.
    if !absolute && out[path_start..].starts_with(b"//") {
        out.splice(path_start..path_start, *b"/.");
    }
    let has_query = redirect.path.as_ref().is_some_and(|path| path.contains('?'));
    if !redirect.strip_query && !has_query {
        out.extend_from_slice(query);
    }
}

/// Appends the path with its matched part replaced. Where the replacement ends and the rest begins with a slash, one
/// of them goes: `/api` rewritten to `/` makes `/x` of `/api/x`.
fn replace_prefix(matched: &PathMatch, rewrite: &str, path: &[u8], out: &mut Vec<u8>) {
    let rest = match matched {
        PathMatch::Any => path,
        PathMatch::Exact(_) => b"",
        PathMatch::Prefix(prefix) => path.get(prefix.len()..).unwrap_or_default(),
    };
    out.extend_from_slice(rewrite.as_bytes());
    let rest = if rewrite.ends_with('/') { rest.strip_prefix(b"/").unwrap_or(rest) } else { rest };
    out.extend_from_slice(rest);
}

/// The authority without a port that means the default of `scheme`, and would not with another scheme.
fn without_default_port<'a>(authority: &'a [u8], scheme: &str) -> &'a [u8] {
    let port: &[u8] = if scheme == "https" { b":443" } else { b":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}
