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

/// Takes a target apart, which is not empty and free of white space and controls: that ends the pass over a head.
///
/// Of the characters that RFC 3986 does not allow in a URI, `"<>\^`{|}` are passed on as nginx and Envoy do,
/// because browsers send some of them and none of them separates anything. A fragment and bytes above ASCII are
/// refused: servers disagree about both.
pub(super) fn parse(head: &[u8], target: &[u8], method: Method) -> Result<Target, RequestError> {
    if method == Method::Connect {
        // The authority form. A reverse proxy is nobody's tunnel.
        return Err(RequestError::Connect);
    }
    // One pass without a way out, which becomes a few instructions for sixteen bytes at a time.
    if target.iter().fold(false, |bad, byte| bad | (*byte == b'#') | !byte.is_ascii()) {
        return Err(if target.is_ascii() { RequestError::FragmentInTarget } else { RequestError::BadTarget });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str, method: Method) -> Result<(String, Option<(Scheme, String)>), RequestError> {
        let head = format!("{target} HTTP/1.1\r\n");
        let head = head.as_bytes();
        let target = parse(head, &head[..target.len()], method)?;
        let text = |span: Span| String::from_utf8(span.of(head).to_vec()).unwrap();
        Ok((text(target.path), target.absolute.map(|(scheme, authority)| (scheme, text(authority)))))
    }

    #[test]
    fn the_origin_form_is_passed_as_it_is() {
        for target in [
            "/",
            "//",
            "//example.com/x",
            "/a/../b/./c",
            "/a?b=c&d=%20%zz",
            "/?",
            "/a??b",
            "/:80@x",
            "/\"<>\\^`{|}",
            "/*",
            "/http://example.com/",
        ] {
            assert_eq!(read(target, Method::Get), Ok((target.into(), None)), "{target}");
        }
    }

    #[test]
    fn the_absolute_form_is_taken_apart() {
        for (target, scheme, authority, path) in [
            ("http://example.com/", Scheme::Http, "example.com", "/"),
            ("http://example.com", Scheme::Http, "example.com", ""),
            ("HTTP://Example.com:8080/a?b", Scheme::Http, "Example.com:8080", "/a?b"),
            ("https://[::1]:443/a/b", Scheme::Https, "[::1]:443", "/a/b"),
            ("hTTpS://a//b", Scheme::Https, "a", "//b"),
            ("http://a/http://b@c/", Scheme::Http, "a", "/http://b@c/"),
        ] {
            let expected = (path.to_owned(), Some((scheme, authority.to_owned())));
            assert_eq!(read(target, Method::Get), Ok(expected), "{target}");
        }
    }

    #[test]
    fn the_asterisk_is_for_options() {
        assert_eq!(read("*", Method::Options), Ok(("*".into(), None)));
        assert_eq!(read("*", Method::Get), Err(RequestError::AsteriskTarget));
        assert_eq!(read("*", Method::Other), Err(RequestError::AsteriskTarget));
        assert_eq!(read("**", Method::Options), Err(RequestError::BadTargetForm));
        assert_eq!(read("*/", Method::Options), Err(RequestError::BadTargetForm));
    }

    #[test]
    fn connect_is_refused_whatever_its_target() {
        for target in ["example.com:443", "/", "*", "http://example.com/"] {
            assert_eq!(read(target, Method::Connect), Err(RequestError::Connect), "{target}");
        }
    }

    #[test]
    fn other_targets_are_refused() {
        for (target, error) in [
            ("index.html", RequestError::BadTargetForm),
            ("example.com:443", RequestError::BadTargetForm),
            ("example.com/a", RequestError::BadTargetForm),
            ("?a=b", RequestError::BadTargetForm),
            ("\\", RequestError::BadTargetForm),
            ("ftp://example.com/", RequestError::BadTargetForm),
            ("ws://example.com/", RequestError::BadTargetForm),
            ("http:/example.com/", RequestError::BadTargetForm),
            ("http:example.com/", RequestError::BadTargetForm),
            ("http", RequestError::BadTargetForm),
            ("http://example.com?a", RequestError::BadTargetForm),
            ("http://", RequestError::BadTargetAuthority),
            ("http:///a", RequestError::BadTargetAuthority),
            ("http://?a", RequestError::BadTargetAuthority),
            ("http://:80/", RequestError::BadTargetAuthority),
            ("http://user@example.com/", RequestError::BadTargetAuthority),
            ("http://user:pw@example.com/", RequestError::BadTargetAuthority),
            ("http://example.com:x/", RequestError::BadTargetAuthority),
            ("http://example.com\\@evil.example/", RequestError::BadTargetAuthority),
            ("http://a,b/", RequestError::BadTargetAuthority),
            ("/a#b", RequestError::FragmentInTarget),
            ("/#", RequestError::FragmentInTarget),
            ("#", RequestError::FragmentInTarget),
            ("http://example.com#@evil.example/", RequestError::FragmentInTarget),
            ("/\u{e9}", RequestError::BadTarget),
            ("/a?\u{e9}", RequestError::BadTarget),
        ] {
            assert_eq!(read(target, Method::Get), Err(error), "{target}");
        }
    }
}
