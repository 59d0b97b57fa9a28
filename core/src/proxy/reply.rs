//! Responses that the proxy gives itself.

use super::context::Context;
use super::headers::{NO_EDITS, add_fields};
use crate::base::http::Version;
use crate::config::model::HeaderEdits;
use crate::h1;

/// A response with a short body.
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
    pub(super) content_type: &'a str,
    /// `Location` of a redirect.
    pub(super) location: Option<&'a [u8]>,
    /// Header edits of the route.
    pub(super) edits: Option<&'a HeaderEdits>,
    pub(super) keep_alive: bool,
    /// The request was HEAD: the body is announced but not sent.
    pub(super) head_only: bool,
    pub(super) version: Version,
}

/// Writes the response, with the fields that the route and then the listener add.
pub(super) fn write(out: &mut Vec<u8>, context: &Context, reply: &Reply<'_>, listener: &HeaderEdits) {
    h1::write_status_line(out, Version::Http11, reply.status, h1::reason_phrase(reply.status).as_bytes());
    out.extend_from_slice(b"date: ");
    context.write_date(out);
    out.extend_from_slice(b"\r\n");
    let bodiless = matches!(reply.status, 204 | 304);
    if !bodiless {
        out.extend_from_slice(b"content-type: ");
        out.extend_from_slice(reply.content_type.as_bytes());
        out.extend_from_slice(b"\r\ncontent-length: ");
        h1::write_u64(out, reply.body.len() as u64);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(location) = reply.location {
        out.extend_from_slice(b"location: ");
        out.extend_from_slice(location);
        out.extend_from_slice(b"\r\n");
    }
    if reply.status == 426 {
        out.extend_from_slice(b"upgrade: HTTP/1.1\r\n");
    }
    match (reply.keep_alive, reply.version, reply.status == 426) {
        (false, _, false) => out.extend_from_slice(b"connection: close\r\n"),
        (false, _, true) => out.extend_from_slice(b"connection: close, upgrade\r\n"),
        // RFC 9110 section 7.8: `Upgrade` goes with the connection option of that name.
        (true, _, true) => out.extend_from_slice(b"connection: keep-alive, upgrade\r\n"),
        (true, Version::Http10, false) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (true, Version::Http11, false) => {}
    }
    add_fields(out, &[reply.edits.unwrap_or(NO_EDITS), listener]);
    out.extend_from_slice(b"\r\n");
    if !(bodiless || reply.head_only) {
        out.extend_from_slice(reply.body);
    }
}

/// The body of an error: status, phrase and what went wrong, on one line.
pub(super) fn error_body(status: u16, reason: &str) -> Vec<u8> {
    format!("{status} {}: {reason}\n", h1::reason_phrase(status)).into_bytes()
}
