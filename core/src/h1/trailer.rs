//! Which fields a trailer section may carry. RFC 9110 section 6.5.1.

use crate::base::http::FieldKind;

/// Fields that decide something before the body is read come too late in a trailer, and a recipient that merges
/// them into the head could be fooled. RFC 9110 section 6.5.1.
pub(super) fn is_forbidden(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        "age",
        "authentication-info",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "expires",
        "forwarded",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "warning",
        "www-authenticate",
    ];
    const PREFIXES: &[&str] = &["content-", "if-", "proxy-", "x-forwarded-", "x-real-"];
    // Made for trailers: it can be computed only while the content is sent. RFC 9530 section 2.
    if name.eq_ignore_ascii_case(b"content-digest") {
        return false;
    }
    FieldKind::of(name) != FieldKind::Other
        || NAMES.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
        || PREFIXES.iter().any(|prefix| {
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_come_too_late_are_left_out_of_trailers() {
        for name in [
            "Host",
            "transfer-encoding",
            "Content-Length",
            "Content-Type",
            "content-encoding",
            "Connection",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Authorization",
            "Proxy-Authorization",
            "Proxy-Anything",
            "Cookie",
            "SET-COOKIE",
            "If-Match",
            "If-Range",
            "Range",
            "Cache-Control",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Real-IP",
            "Forwarded",
            "Via",
            "Location",
        ] {
            assert!(is_forbidden(name.as_bytes()), "{name}");
        }
        for name in
            ["Content-Digest", "Digest", "Server-Timing", "grpc-status", "X-Checksum", "ETag", "Content"]
        {
            assert!(!is_forbidden(name.as_bytes()), "{name}");
        }
    }
}
