//! The request target in its four forms. RFC 9112 section 3.2.

use super::{authority, bytes, error::RequestError};
use crate::base::http::{Method, Scheme, Span};

/// A request target taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Path and query, `*`, or empty.
    pub(super) path: Span,
    /// Scheme and authority of an absolute target.
    pub(super) absolute: Option<(Scheme, Span)>,
}

/// Takes a target apart; `httparse` has seen to it that it is not empty and free of white space and controls.
///
/// Of the characters that RFC 3986 does not allow in a URI, `"<>\^`{|}` are passed on as nginx and Envoy do,
/// because browsers send some of them and none of them separates anything. A fragment and bytes above ASCII are
/// refused: servers disagree about both.
pub(super) fn parse(head: &[u8], target: &[u8], method: Method) -> Result<Target, RequestError> {
    if method == Method::Connect {
        // The authority form. A reverse proxy is nobody's tunnel.
        return Err(RequestError::Connect);
    }
    if !target.is_ascii() {
        return Err(RequestError::BadTarget);
    }
    if memchr::memchr(b'#', target).is_some() {
        return Err(RequestError::FragmentInTarget);
    }
    match target {
        [b'/', ..] => Ok(Target { path: bytes::span(head, target), absolute: None }),
        b"*" if method == Method::Options => Ok(Target { path: bytes::span(head, target), absolute: None }),
        b"*" => Err(RequestError::AsteriskTarget),
        _ => absolute(head, target),
    }
}

fn absolute(head: &[u8], target: &[u8]) -> Result<Target, RequestError> {
    let (scheme, rest) = if let Some(rest) = strip_prefix(target, b"http://") {
        (Scheme::Http, rest)
    } else if let Some(rest) = strip_prefix(target, b"https://") {
        (Scheme::Https, rest)
    } else {
        return Err(RequestError::BadTargetForm);
    };
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !authority::is_valid(authority) {
        return Err(RequestError::BadTargetAuthority);
    }
    // A query without a path has no origin form of its own bytes: the `/` that belongs before it was never sent.
    if path.starts_with(b"?") {
        return Err(RequestError::BadTargetForm);
    }
    Ok(Target { path: bytes::span(head, path), absolute: Some((scheme, bytes::span(head, authority))) })
}

/// Schemes are case-insensitive. RFC 3986 section 3.1.
fn strip_prefix<'b>(text: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
