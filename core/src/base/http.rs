//! HTTP heads in the neutral form that every codec reads and writes.
//!
//! A head does not own its bytes: it points into the buffer it was decoded from by offset, so the same
//! scratch table serves one head after the other without allocation or lifetimes.

use std::ops::Range;

/// Protocol version of an HTTP/1 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: connections close by default, no chunked coding.
    Http10,
    /// HTTP/1.1 (RFC 9112).
    Http11,
}

/// Request method. RFC 9110 section 9; method names are case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// CONNECT
    Connect,
    /// OPTIONS
    Options,
    /// TRACE
    Trace,
    /// PATCH (RFC 5789)
    Patch,
    /// Any other token; its text is in the head's buffer.
    Other,
}

impl Method {
    /// Reads a method token; what is not known is [`Method::Other`].
    #[must_use]
    pub fn from_bytes(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Whether a request may be repeated when its outcome is unknown. RFC 9110 section 9.2.2.
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

/// What a header field means to the proxy itself; everything else passes through as [`FieldKind::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FieldKind {
    /// A field that the proxy has no rule for.
    Other,
    /// `Host`
    Host,
    /// `Connection`
    Connection,
    /// `Keep-Alive`
    KeepAlive,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `TE`
    Te,
    /// `Trailer`
    Trailer,
    /// `Upgrade`
    Upgrade,
    /// `HTTP2-Settings`
    Http2Settings,
    /// `Expect`
    Expect,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Request-Id`
    XRequestId,
    /// `Via`
    Via,
    /// `Proxy-Authenticate`
    ProxyAuthenticate,
    /// `Proxy-Authorization`
    ProxyAuthorization,
}

impl FieldKind {
    /// Classifies a field name, ignoring case.
    #[inline]
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        // By length and first letter, which leave one name to compare with, or mostly none.
        let Some(first) = name.first() else { return Self::Other };
        match (name.len(), first | 0x20) {
            (2, b't') => Self::if_is(name, b"te", Self::Te),
            (3, b'v') => Self::if_is(name, b"via", Self::Via),
            (4, b'h') => Self::if_is(name, b"host", Self::Host),
            (6, b'e') => Self::if_is(name, b"expect", Self::Expect),
            (7, b't') => Self::if_is(name, b"trailer", Self::Trailer),
            (7, b'u') => Self::if_is(name, b"upgrade", Self::Upgrade),
            (10, b'c') => Self::if_is(name, b"connection", Self::Connection),
            (10, b'k') => Self::if_is(name, b"keep-alive", Self::KeepAlive),
            (12, b'x') => Self::if_is(name, b"x-request-id", Self::XRequestId),
            (14, b'c') => Self::if_is(name, b"content-length", Self::ContentLength),
            (14, b'h') => Self::if_is(name, b"http2-settings", Self::Http2Settings),
            (15, b'x') => Self::if_is(name, b"x-forwarded-for", Self::XForwardedFor),
            (16, b'p') => Self::if_is(name, b"proxy-connection", Self::ProxyConnection),
            (17, b't') => Self::if_is(name, b"transfer-encoding", Self::TransferEncoding),
            (17, b'x') => Self::if_is(name, b"x-forwarded-proto", Self::XForwardedProto),
            (18, b'p') => Self::if_is(name, b"proxy-authenticate", Self::ProxyAuthenticate),
            (19, b'p') => Self::if_is(name, b"proxy-authorization", Self::ProxyAuthorization),
            _ => Self::Other,
        }
    }

    /// This kind if `name` is the one that is known for it, in lower case.
    #[inline]
    fn if_is<const LEN: usize>(name: &[u8], known: &[u8; LEN], kind: Self) -> Self {
        if is_text(name, known) { kind } else { Self::Other }
    }

    /// Fields that describe one connection only and are never forwarded. RFC 9110 section 7.6.1; message
    /// framing is included because each side of a proxy frames its messages itself.
    #[must_use]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Te
                | Self::Upgrade
                | Self::Http2Settings
        )
    }
}

/// Whether `text` is `expected`, which is in lower case, whatever the case of its letters.
///
/// Without a branch for each byte, and of a length that is known when it is compiled: it becomes a few comparisons of
/// whole words. Every field of every head comes here.
#[inline]
#[must_use]
pub fn is_text<const LEN: usize>(text: &[u8], expected: &[u8; LEN]) -> bool {
    let Ok(text) = <&[u8; LEN]>::try_from(text) else { return false };
    let mut difference = 0;
    for (byte, expected) in text.iter().zip(expected) {
        // Letters of the two cases differ in this bit, and in nothing else.
        let case = if expected.is_ascii_lowercase() { 0x20 } else { 0 };
        difference |= (byte | case) ^ expected;
    }
    difference == 0
}

/// One header field as offsets into the buffer that holds the head.
///
/// `line.end` is the offset of the CR that ends the field line, so a run of untouched fields can be copied
/// in one piece, separators included.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset of the first byte of the name, which is the first byte of the line.
    pub start: u32,
    /// Length of the name in bytes.
    pub name_len: u16,
    /// What the field means to the proxy.
    pub kind: FieldKind,
    /// Named by a `Connection` field, hence meant for this connection only.
    pub named_by_connection: bool,
    /// Offset of the first byte of the value, white space around it left out.
    pub value_start: u32,
    /// Offset behind the last byte of the value, white space around it left out.
    pub value_end: u32,
}

impl Field {
    /// Name as received.
    #[inline]
    #[must_use]
    pub fn name<'b>(&self, head: &'b [u8]) -> &'b [u8] {
        &head[self.start as usize..self.start as usize + self.name_len as usize]
    }

    /// Value without the white space around it.
    #[inline]
    #[must_use]
    pub fn value<'b>(&self, head: &'b [u8]) -> &'b [u8] {
        &head[self.value_start as usize..self.value_end as usize]
    }
}

/// Where something lies in the head's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes of the span.
    #[inline]
    #[must_use]
    pub fn of<'b>(&self, head: &'b [u8]) -> &'b [u8] {
        &head[self.range()]
    }

    /// The span as a range of `usize`.
    #[inline]
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Whether the span is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// How the length of a message body is told. RFC 9112 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// Exactly so many bytes (may be 0).
    Known(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// Scheme of the request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// A request head that has passed every check; see [`Field`] for how it refers to its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead {
    /// The method; its text is `method_text`.
    pub method: Method,
    /// The method as received.
    pub method_text: Span,
    /// Protocol version.
    pub version: Version,
    /// Path and query in origin form (`/a?b`), or `*` for a server-wide OPTIONS. For an absolute-form target it
    /// lies inside the target; it is empty where an absolute target has no path (then `/` is meant).
    pub path: Span,
    /// Authority that the request is for: from an absolute-form target if there is one (RFC 9112 section 3.2.2),
    /// else from `Host`. Empty only for HTTP/1.0 without `Host`.
    pub authority: Span,
    /// Scheme of an absolute-form target.
    pub target_scheme: Option<Scheme>,
    /// How the body is framed.
    pub body: BodyLength,
    /// The sender is willing to go on using the connection.
    pub keep_alive: bool,
    /// The sender waits for a 100 before it sends the body.
    pub expect_continue: bool,
    /// Value of `Upgrade` where `Connection: upgrade` goes with it.
    pub upgrade: Option<Span>,
}

/// A response head that has passed every check.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead {
    /// Status code, 100 to 599.
    pub status: u16,
    /// Reason phrase as received, possibly empty.
    pub reason: Span,
    /// Protocol version.
    pub version: Version,
    /// How the body is framed, for the request method that was given to the parser.
    pub body: BodyLength,
    /// The sender is willing to go on using the connection.
    pub keep_alive: bool,
    /// Value of `Upgrade` where `Connection: upgrade` goes with it.
    pub upgrade: Option<Span>,
    /// `Content-Length` as received where the message has no body of that length itself (a response to HEAD, a 304).
    pub declared_length: Option<u64>,
}

/// Scratch table of header fields, reused from head to head.
pub type Fields = Vec<Field>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified_whatever_their_case() {
        for (name, kind) in [
            ("Host", FieldKind::Host),
            ("HOST", FieldKind::Host),
            ("hosT", FieldKind::Host),
            ("Hosts", FieldKind::Other),
            ("TE", FieldKind::Te),
            ("Trailer", FieldKind::Trailer),
            ("Upgrade", FieldKind::Upgrade),
            ("connection", FieldKind::Connection),
            ("Keep-Alive", FieldKind::KeepAlive),
            ("content-length", FieldKind::ContentLength),
            ("HTTP2-Settings", FieldKind::Http2Settings),
            ("transfer-encoding", FieldKind::TransferEncoding),
            ("x-forwarded-proto", FieldKind::XForwardedProto),
            ("x-request-id", FieldKind::XRequestId),
            ("accept-encoding", FieldKind::Other),
            ("", FieldKind::Other),
        ] {
            assert_eq!(FieldKind::of(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn one_other_byte_makes_another_name() {
        for name in [
            "te",
            "via",
            "host",
            "expect",
            "trailer",
            "upgrade",
            "connection",
            "keep-alive",
            "x-request-id",
            "content-length",
            "http2-settings",
            "x-forwarded-for",
            "proxy-connection",
            "transfer-encoding",
            "x-forwarded-proto",
            "proxy-authenticate",
            "proxy-authorization",
        ] {
            let kind = FieldKind::of(name.as_bytes());
            assert_ne!(kind, FieldKind::Other, "{name}");
            for place in 0..name.len() {
                for byte in 0..=255 {
                    let mut changed = name.as_bytes().to_vec();
                    changed[place] = byte;
                    let same = byte.eq_ignore_ascii_case(&name.as_bytes()[place]);
                    assert_eq!(FieldKind::of(&changed) == kind, same, "{}", changed.escape_ascii());
                }
            }
        }
    }
}
