//! What stands in front of every path: a web page that the operator looks at must neither read this interface nor
//! make it do anything.
//!
//! A page can send requests to any address, loopback included, through the browser that shows it. The browser says so
//! (`Origin`, `Sec-Fetch-Site`), unless the page's own name has been made to resolve to that address (DNS rebinding);
//! then `Host` carries that name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::paths::{App, Refusal};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Lets a request through or refuses it, and adds what every response carries.
pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match check(&request, &app.admin.names) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

fn check(request: &Request, names: &[String]) -> Result<(), Refusal> {
    let headers = request.headers();
    let host = host(request)?;
    if let Some(host) = host {
        check_name(host, names)?;
    }
    // A target with an authority counts instead of `Host`, so it is held to the same.
    if let Some(authority) = request.uri().authority() {
        check_name(authority.as_str(), names)?;
    }
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return Ok(());
    }
    check_origin(headers, host)
}

/// The one `Host` of a request; an HTTP/1.0 client, which no browser is, may leave it out.
fn host(request: &Request) -> Result<Option<&str>, Refusal> {
    let bad = |reason| Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => match host.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => bad("The Host of the request is not text."),
        },
        (None, _) if request.version() == Version::HTTP_10 => Ok(None),
        (None, _) => bad("The request has no Host."),
        (Some(_), Some(_)) => bad("The request has more than one Host."),
    }
}

fn check_name(authority: &str, names: &[String]) -> Result<(), Refusal> {
    if is_own_name(authority, names) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "The Host of the request is not a name of this interface. Call it by its IP address or as localhost: any other \
         name may be one that a web page has made to point here.",
    ))
}

fn is_own_name(authority: &str, names: &[String]) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| host.eq_ignore_ascii_case(name))
}

/// Whether what changes state comes from nowhere but this interface's own page, or from no page at all.
fn check_origin(headers: &HeaderMap, host: Option<&str>) -> Result<(), Refusal> {
    let forbid = |reason| Err(Refusal::new(StatusCode::FORBIDDEN, reason));
    for site in headers.get_all(SEC_FETCH_SITE) {
        if site != "same-origin" && site != "none" {
            return forbid("The request comes from a web page of another site (Sec-Fetch-Site).");
        }
    }
    for origin in headers.get_all(ORIGIN) {
        let own = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.strip_prefix("http://"))
            .zip(host)
            .is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
        if !own {
            return forbid(
                "The request comes from a web page of another origin (Origin is not http://Host).",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn checked(method: &str, uri: &str, fields: &[(&str, &str)]) -> u16 {
        let mut request = axum::http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        match check(&request.body(Body::empty()).unwrap(), &["proxy.internal".to_owned()]) {
            Ok(()) => 200,
            Err(refusal) => refusal.0.as_u16(),
        }
    }

    #[test]
    fn only_own_names_are_answered() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9901",
            "[::1]:9901",
            "[::1]",
            "localhost",
            "LocalHost:80",
            "10.0.0.1",
            "Proxy.Internal:1",
        ] {
            assert_eq!(checked("GET", "/", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9901",
            "evil.example:127",
            "x@127.0.0.1",
            "localhost@evil.example",
            "",
            "a b",
            "127.0.0.1/x",
            "0x7f000001",
            "2130706433",
            "[::1",
        ] {
            assert_eq!(checked("GET", "/", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(checked("GET", "http://evil.example/", &[("host", "localhost")]), 403);
        assert_eq!(checked("GET", "http://localhost/", &[("host", "localhost")]), 200);
        assert_eq!(checked("GET", "/", &[]), 400);
        assert_eq!(checked("GET", "/", &[("host", "localhost"), ("host", "localhost")]), 400);
    }

    #[test]
    fn other_pages_change_nothing() {
        let host = ("host", "127.0.0.1:9901");
        for (fields, status) in [
            (&[host][..], 200),
            (&[host, ("origin", "http://127.0.0.1:9901")], 200),
            (&[host, ("origin", "http://127.0.0.1:9901"), ("sec-fetch-site", "same-origin")], 200),
            (&[host, ("sec-fetch-site", "none")], 200),
            (&[host, ("sec-fetch-site", "cross-site")], 403),
            (&[host, ("sec-fetch-site", "same-site")], 403),
            (&[host, ("origin", "null")], 403),
            (&[host, ("origin", "http://127.0.0.1")], 403),
            (&[host, ("origin", "https://127.0.0.1:9901")], 403),
            (&[host, ("origin", "http://evil.example")], 403),
            (&[host, ("origin", "http://localhost:9901")], 403),
            (&[host, ("origin", "http://127.0.0.1:9901"), ("origin", "http://evil.example")], 403),
        ] {
            assert_eq!(checked("POST", "/quitquitquit", fields), status, "{fields:?}");
            assert_eq!(checked("DELETE", "/quitquitquit", fields), status, "{fields:?}");
        }
        assert_eq!(
            checked("GET", "/", &[host, ("sec-fetch-site", "cross-site")]),
            200,
            "a link may lead here"
        );
    }
}
