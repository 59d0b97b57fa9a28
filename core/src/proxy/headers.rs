//! Heads as they are forwarded: what is kept, what is left out, what is added.
//!
//! Untouched fields that follow each other are copied in one piece. Hop-by-hop fields, those named by `Connection`
//! included, end here (RFC 9110 section 7.6.1); each side's framing is written anew.

use std::io::Write as _;
use std::net::IpAddr;

use crate::base::http::{BodyLength, Field, FieldKind, RequestHead, ResponseHead, Span, Version};
use crate::base::random::Random;
use crate::config::model::{ForwardedFor, ForwardedProto, Forwarding, HeaderEdits, RequestId};
use crate::h1;

/// Edits that change nothing.
pub(super) const NO_EDITS: &HeaderEdits =
    &HeaderEdits { set: Vec::new(), add: Vec::new(), remove: Vec::new() };

/// A received head: its bytes up to and with the empty line, and its fields.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) fields: &'a [Field],
}

const FORWARDED_FOR: &[u8] = b"x-forwarded-for: ";

/// With the longest address that there is, of 39 characters.
const CLIENT_LINE_BYTES: usize = FORWARDED_FOR.len() + 39 + 2;

/// A client as origins are told of it: the line is the same for all requests of a connection.
pub(super) struct Client {
    pub(super) address: IpAddr,
    line: [u8; CLIENT_LINE_BYTES],
    line_bytes: u8,
}

impl Client {
    pub(super) fn new(address: IpAddr) -> Self {
        let mut line = [0; CLIENT_LINE_BYTES];
        let mut rest = &mut line[..];
        let _ = rest.write_all(FORWARDED_FOR); // the line has room for every address
        let _ = write!(rest, "{}\r\n", address.to_canonical());
        #[allow(clippy::cast_possible_truncation)] // 58 at most
        let line_bytes = (CLIENT_LINE_BYTES - rest.len()) as u8;
        Self { address, line, line_bytes }
    }

    /// The whole line.
    fn line(&self) -> &[u8] {
        &self.line[..usize::from(self.line_bytes)]
    }

    /// The address and the end of the line.
    fn value(&self) -> &[u8] {
        &self.line()[FORWARDED_FOR.len()..]
    }
}

/// What a forwarded request needs beside the request itself.
pub(super) struct RequestRules<'a> {
    pub(super) forwarding: &'a Forwarding,
    pub(super) edits: [&'a HeaderEdits; 2],
    pub(super) client: Option<&'a Client>,
    /// Path and query, where they are not sent as they were received.
    pub(super) path: Option<&'a [u8]>,
    pub(super) host: &'a [u8],
    /// Protocol to upgrade to, where that is allowed.
    pub(super) upgrade: Option<&'a [u8]>,
}

/// Writes a request for an HTTP/1.1 origin.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    received: Received<'_>,
    rules: &RequestRules<'_>,
    random: &mut Random,
) {
    match rules.path {
        // Method and path as they were received, in one piece.
        None if head.path.start == head.method_text.end + 1 => {
            let both = Span { start: head.method_text.start, end: head.path.end };
            out.extend_from_slice(both.of(received.bytes));
        }
        path => {
            out.extend_from_slice(head.method_text.of(received.bytes));
            out.push(b' ');
            out.extend_from_slice(path.unwrap_or_else(|| head.path.of(received.bytes)));
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(rules.host);
    out.extend_from_slice(b"\r\n");
    let forwarding = rules.forwarding;
    let mut forwarded_for = false;
    let mut has_proto = false;
    let mut has_id = false;
    let edits = effective(&rules.edits);
    copy_fields(out, received, edits, None, |field| match field.kind {
        FieldKind::Host => false,
        FieldKind::XForwardedFor => {
            forwarded_for |= forwarding.x_forwarded_for == ForwardedFor::Append;
            // A client without an address (on a Unix socket) adds nothing to what it says of others.
            match forwarding.x_forwarded_for {
                ForwardedFor::Append => rules.client.is_none(),
                ForwardedFor::Replace => false,
                ForwardedFor::Off => true,
            }
        }
        FieldKind::XForwardedProto => {
            has_proto = true;
            forwarding.x_forwarded_proto != ForwardedProto::Replace
        }
        FieldKind::XRequestId => {
            has_id = true;
            forwarding.x_request_id != RequestId::Replace
        }
        FieldKind::Expect => head.expect_continue,
        kind => !kind.is_hop_by_hop(),
    });
    // What the configuration says of a field goes before what the proxy would write by itself.
    let ours = |name: &[u8]| !edits.is_some_and(|edits| is_edited(name, edits));
    if let Some(client) = rules.client
        && forwarding.x_forwarded_for != ForwardedFor::Off
        && ours(b"x-forwarded-for")
    {
        if forwarded_for {
            append_client(out, received, client);
        } else {
            out.extend_from_slice(client.line());
        }
    }
    let wanted = match forwarding.x_forwarded_proto {
        ForwardedProto::Replace => true,
        ForwardedProto::Keep => !has_proto,
        ForwardedProto::Off => false,
    };
    if wanted && ours(b"x-forwarded-proto") {
        out.extend_from_slice(b"x-forwarded-proto: http\r\n");
    }
    let wanted = match forwarding.x_request_id {
        RequestId::Replace => true,
        RequestId::Keep => !has_id,
        RequestId::Off => false,
    };
    if wanted && ours(b"x-request-id") {
        write_request_id(out, random);
    }
    if ours(b"via") {
        write_via(out, forwarding, head.version);
    }
    write_body_length(out, head.body);
    if let Some(protocol) = rules.upgrade {
        write_upgrade(out, protocol);
    }
    if let Some(edits) = edits {
        add_fields(out, edits);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the client behind those that the request names already.
#[cold]
fn append_client(out: &mut Vec<u8>, received: Received<'_>, client: &Client) {
    out.extend_from_slice(FORWARDED_FOR);
    let values = received.fields.iter().filter(|f| f.kind == FieldKind::XForwardedFor);
    for value in values.map(|f| f.value(received.bytes)).filter(|v| !v.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(client.value());
}

/// What a forwarded response needs beside the response itself.
pub(super) struct ResponseRules<'a> {
    pub(super) forwarding: &'a Forwarding,
    pub(super) edits: [&'a HeaderEdits; 2],
    /// How the body is framed towards the client.
    pub(super) body: BodyLength,
    pub(super) keep_alive: bool,
    pub(super) client_version: Version,
    /// Protocol that the connection changes to (101).
    pub(super) upgrade: Option<&'a [u8]>,
}

/// Writes a response for a client, informational ones included.
pub(super) fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    received: Received<'_>,
    rules: &ResponseRules<'_>,
) {
    let edits = effective(&rules.edits);
    let copied_from = if has_our_status_line(head, received.bytes) {
        Some(0)
    } else {
        h1::write_status_line(out, Version::Http11, head.status, head.reason.of(received.bytes));
        None
    };
    copy_fields(out, received, edits, copied_from, |field| !field.kind.is_hop_by_hop());
    if !edits.is_some_and(|edits| is_edited(b"via", edits)) {
        write_via(out, rules.forwarding, head.version);
    }
    if let Some(length) = head.declared_length {
        write_content_length(out, length);
    } else {
        write_body_length(out, rules.body);
    }
    if let Some(protocol) = rules.upgrade {
        write_upgrade(out, protocol);
    } else if head.status >= 200 {
        match (rules.keep_alive, rules.client_version) {
            (false, _) => out.extend_from_slice(b"connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
    }
    if let Some(edits) = edits {
        add_fields(out, edits);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the status line is, to the byte, what we would write; then it is copied together with the fields behind it.
fn has_our_status_line(head: &ResponseHead, received: &[u8]) -> bool {
    let (start, end) = (head.reason.start as usize, head.reason.end as usize);
    head.version == Version::Http11
        && start == b"HTTP/1.1 200 ".len()
        && received.starts_with(b"HTTP/1.1 ")
        && received.get(end..end + 2) == Some(b"\r\n")
}

/// Copies the field lines that `keep` wants and no edit takes out, run by run. The first run begins at `run` if that is
/// given: what is before the fields goes with them.
fn copy_fields(
    out: &mut Vec<u8>,
    received: Received<'_>,
    edits: Option<&[&HeaderEdits; 2]>,
    mut run: Option<usize>,
    mut keep: impl FnMut(&Field) -> bool,
) {
    for field in received.fields {
        let mut wanted = !field.named_by_connection && keep(field);
        if wanted && let Some(edits) = edits {
            wanted = !is_edited(field.name(received.bytes), edits);
        }
        match (wanted, run) {
            (true, None) => run = Some(field.start as usize),
            (false, Some(start)) => {
                out.extend_from_slice(&received.bytes[start..field.start as usize]);
                run = None;
            }
            _ => {}
        }
    }
    if let Some(start) = run {
        // Up to the empty line that ends the head.
        out.extend_from_slice(&received.bytes[start..received.bytes.len() - 2]);
    }
}

/// The edits, if they change anything.
#[inline]
fn effective<'e>(edits: &'e [&'e HeaderEdits; 2]) -> Option<&'e [&'e HeaderEdits; 2]> {
    (!edits.iter().all(|e| e.is_empty())).then_some(edits)
}

fn is_edited(name: &[u8], edits: &[&HeaderEdits; 2]) -> bool {
    edits.iter().any(|e| {
        e.remove.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(name))
            || e.set.iter().any(|(n, _)| n.as_bytes().eq_ignore_ascii_case(name))
    })
}

/// Adds what the edits set and add. The later edit wins where both set the same field.
pub(super) fn add_fields(out: &mut Vec<u8>, edits: &[&HeaderEdits; 2]) {
    let [first, second] = edits;
    let overridden =
        |name: &str| second.set.iter().any(|(n, _)| n == name) || second.remove.iter().any(|n| n == name);
    for (name, value) in first.set.iter().chain(&first.add).filter(|(name, _)| !overridden(name)) {
        write_field(out, name, value);
    }
    for (name, value) in second.set.iter().chain(&second.add) {
        write_field(out, name, value);
    }
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn write_via(out: &mut Vec<u8>, forwarding: &Forwarding, version: Version) {
    if let Some(pseudonym) = &forwarding.via {
        out.extend_from_slice(match version {
            Version::Http10 => b"via: 1.0 ",
            Version::Http11 => b"via: 1.1 ",
        });
        out.extend_from_slice(pseudonym.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[inline]
fn write_body_length(out: &mut Vec<u8>, body: BodyLength) {
    match body {
        BodyLength::None | BodyLength::UntilClose => {}
        BodyLength::Known(length) => write_content_length(out, length),
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

fn write_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    h1::write_u64(out, length);
    out.extend_from_slice(b"\r\n");
}

#[cold]
fn write_upgrade(out: &mut Vec<u8>, protocol: &[u8]) {
    out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
    out.extend_from_slice(protocol);
    out.extend_from_slice(b"\r\n");
}

/// A random UUID, version 4 (RFC 9562 section 5.4). It identifies a request in logs and is no secret.
#[inline(never)]
fn write_request_id(out: &mut Vec<u8>, random: &mut Random) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let (high, low) = (random.next_u64(), random.next_u64());
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let mut text = *b"x-request-id: ........-....-....-....-............\r\n";
    let mut bits = u128::from(high) << 64 | u128::from(low);
    for place in text[14..50].iter_mut().filter(|c| **c == b'.') {
        bits = bits.rotate_left(4);
        *place = HEX[(bits & 0xf) as usize];
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::http::{Fields, Method};
    use crate::h1::{HeadLimits, Parsed};

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 8192, headers: 100 };

    fn forwarding() -> Forwarding {
        Forwarding {
            x_forwarded_for: ForwardedFor::Append,
            x_forwarded_proto: ForwardedProto::Replace,
            x_request_id: RequestId::Off,
            via: Some("ouro".into()),
        }
    }

    fn forward(text: &str, forwarding: &Forwarding, edits: [&HeaderEdits; 2]) -> String {
        forward_from(Some("10.1.2.3".parse().unwrap()), text, forwarding, edits)
    }

    fn forward_from(
        client: Option<IpAddr>,
        text: &str,
        forwarding: &Forwarding,
        edits: [&HeaderEdits; 2],
    ) -> String {
        let mut fields = Fields::new();
        let Ok(Parsed::Complete { head, len }) = h1::parse_request(text.as_bytes(), LIMITS, &mut fields)
        else {
            panic!("not a request: {text}")
        };
        let received = Received { bytes: &text.as_bytes()[..len], fields: &fields };
        let client = client.map(Client::new);
        let rules = RequestRules {
            forwarding,
            edits,
            client: client.as_ref(),
            path: None,
            host: head.authority.of(text.as_bytes()),
            upgrade: None,
        };
        let mut out = Vec::new();
        write_request(&mut out, &head, received, &rules, &mut Random::new(1));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_loses_what_was_meant_for_us_and_gains_what_tells_of_us() {
        let none = HeaderEdits::default();
        let text = "GET /a?b HTTP/1.1\r\nAccept: */*\r\nHost: Example.com\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\n\
             Cookie: a=b\r\nTE: trailers\r\n\r\n";
        assert_eq!(
            forward(text, &forwarding(), [&none, &none]),
            "GET /a?b HTTP/1.1\r\nhost: Example.com\r\nAccept: */*\r\nCookie: a=b\r\n\
             x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.1.2.3\r\nx-forwarded-proto: http\r\nvia: 1.1 ouro\r\n\r\n"
        );
    }

    #[test]
    fn a_client_without_an_address_adds_none_and_loses_none() {
        let none = HeaderEdits::default();
        let text = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
        let quiet = Forwarding { x_forwarded_proto: ForwardedProto::Off, via: None, ..forwarding() };
        assert_eq!(
            forward_from(None, text, &quiet, [&none, &none]),
            "GET / HTTP/1.1\r\nhost: h\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
        );
        let replace = Forwarding { x_forwarded_for: ForwardedFor::Replace, ..quiet };
        assert_eq!(forward_from(None, text, &replace, [&none, &none]), "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    }

    #[test]
    fn everything_can_be_switched_off() {
        let none = HeaderEdits::default();
        let off = Forwarding {
            x_forwarded_for: ForwardedFor::Off,
            x_forwarded_proto: ForwardedProto::Off,
            x_request_id: RequestId::Off,
            via: None,
        };
        let text = "POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(
            forward(text, &off, [&none, &none]),
            "POST / HTTP/1.1\r\nhost: a\r\nX-Forwarded-For: 1.1.1.1\r\ncontent-length: 3\r\n\r\n"
        );
    }

    #[test]
    fn edits_remove_set_and_add_and_the_route_wins() {
        let edits = |set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]| HeaderEdits {
            set: set.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            add: add.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            remove: remove.iter().map(|n| (*n).into()).collect(),
        };
        let listener = edits(&[("x-a", "listener"), ("x-b", "listener")], &[], &["cookie"]);
        let route = edits(&[("x-a", "route")], &[("x-c", "1"), ("x-c", "2")], &[]);
        let off = Forwarding {
            x_forwarded_for: ForwardedFor::Off,
            x_forwarded_proto: ForwardedProto::Off,
            via: None,
            ..forwarding()
        };
        let text = "GET / HTTP/1.1\r\nHost: h\r\nX-A: client\r\nCookie: c\r\nX-C: 0\r\n\r\n";
        assert_eq!(
            forward(text, &off, [&listener, &route]),
            "GET / HTTP/1.1\r\nhost: h\r\nX-C: 0\r\nx-b: listener\r\nx-a: route\r\nx-c: 1\r\nx-c: 2\r\n\r\n"
        );
    }

    #[test]
    fn what_the_configuration_says_of_a_field_is_all_that_is_sent_of_it() {
        let edits = HeaderEdits {
            set: vec![("via".into(), "1.1 edge".into()), ("x-request-id".into(), "mine".into())],
            add: Vec::new(),
            remove: vec!["x-forwarded-for".into(), "x-forwarded-proto".into()],
        };
        let none = HeaderEdits::default();
        let all = Forwarding { x_request_id: RequestId::Replace, ..forwarding() };
        let text = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nVia: 1.0 x\r\n\r\n";
        assert_eq!(
            forward(text, &all, [&edits, &none]),
            "GET / HTTP/1.1\r\nhost: h\r\nvia: 1.1 edge\r\nx-request-id: mine\r\n\r\n"
        );
    }

    #[test]
    fn a_response_is_framed_for_the_client() {
        let text = b"HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nDate: d\r\n\r\n";
        let mut fields = Fields::new();
        let Ok(Parsed::Complete { head, len }) = h1::parse_response(text, Method::Get, LIMITS, &mut fields)
        else {
            panic!("not a response")
        };
        let none = HeaderEdits::default();
        let rules = ResponseRules {
            forwarding: &Forwarding { via: None, ..forwarding() },
            edits: [&none, &none],
            body: BodyLength::Chunked,
            keep_alive: true,
            client_version: Version::Http11,
            upgrade: None,
        };
        let mut out = Vec::new();
        write_response(&mut out, &head, Received { bytes: &text[..len], fields: &fields }, &rules);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 Fine\r\nServer: x\r\nDate: d\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn the_status_line_is_ours_whatever_the_origin_wrote() {
        for (text, written) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
            ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("HTTP/1.1 204 \r\nA: b\r\n\r\n", "HTTP/1.1 204 \r\nA: b\r\n\r\n"),
            ("HTTP/1.1 204\r\nA: b\r\n\r\n", "HTTP/1.1 204 \r\nA: b\r\n\r\n"),
            ("HTTP/1.1 204\r\n\r\n", "HTTP/1.1 204 \r\n\r\n"),
            ("HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n", "HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nConnection: x\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
        ] {
            let mut fields = Fields::new();
            let parsed = h1::parse_response(text.as_bytes(), Method::Get, LIMITS, &mut fields);
            let Ok(Parsed::Complete { head, len }) = parsed else { panic!("not a response: {text}") };
            let none = HeaderEdits::default();
            let rules = ResponseRules {
                forwarding: &Forwarding { via: None, ..forwarding() },
                edits: [&none, &none],
                body: BodyLength::None,
                keep_alive: true,
                client_version: Version::Http11,
                upgrade: None,
            };
            let mut out = Vec::new();
            let received = Received { bytes: &text.as_bytes()[..len], fields: &fields };
            write_response(&mut out, &head, received, &rules);
            assert_eq!(String::from_utf8(out).unwrap(), written);
        }
    }

    #[test]
    fn clients_are_named_by_their_address() {
        for (address, line) in [
            ("10.1.2.3", "x-forwarded-for: 10.1.2.3\r\n"),
            ("255.255.255.255", "x-forwarded-for: 255.255.255.255\r\n"),
            ("::ffff:10.1.2.3", "x-forwarded-for: 10.1.2.3\r\n"),
            ("::1", "x-forwarded-for: ::1\r\n"),
            (
                "1111:2222:3333:4444:5555:6666:7777:8888",
                "x-forwarded-for: 1111:2222:3333:4444:5555:6666:7777:8888\r\n",
            ),
        ] {
            let client = Client::new(address.parse().unwrap());
            assert_eq!(String::from_utf8_lossy(client.line()), line);
        }
    }

    #[test]
    fn a_request_id_is_a_uuid() {
        let mut out = Vec::new();
        write_request_id(&mut out, &mut Random::new(5));
        let text = String::from_utf8(out).unwrap();
        let id = text.strip_prefix("x-request-id: ").unwrap().trim_end();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]), "{id}");
        assert!(id.chars().all(|c| c.is_ascii_hexdigit() || c == '-'), "{id}");
    }
}
