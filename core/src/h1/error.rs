//! Why a head is refused: one variant per rule, each with the sentence that the sender gets to read.

/// A rule that requests and responses share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The head does not end within the configured limit.
    TooLarge,
    /// More fields than the configured limit.
    TooManyFields,
    /// A line ends with LF alone. RFC 9112 section 2.2 would let us accept it; other parsers do not.
    BareLf,
    /// CR without LF. RFC 9112 section 2.2.
    BareCr,
    /// A field line begins with white space. RFC 9112 section 5.2.
    FoldedField,
    /// A field line has no colon.
    MissingColon,
    /// A field line begins with the colon.
    EmptyFieldName,
    /// White space between name and colon. RFC 9112 section 5.1.
    SpaceBeforeColon,
    /// A field name is not a token.
    BadFieldName,
    /// A field name of 64 KiB or more.
    FieldNameTooLong,
    /// A control character in a field value. RFC 9110 section 5.5.
    BadFieldValue,
    /// `Content-Length` is not one decimal number of 64 bits.
    BadContentLength,
    /// `Content-Length` twice, equal or not. RFC 9110 section 8.6.
    RepeatedContentLength,
    /// Both `Content-Length` and `Transfer-Encoding`. RFC 9112 section 6.3.
    LengthWithTransferEncoding,
    /// `Transfer-Encoding` in more than one field.
    RepeatedTransferEncoding,
    /// `Transfer-Encoding` is not a list of codings.
    BadTransferEncoding,
    /// `chunked` is not last, or is there twice. RFC 9112 section 6.1.
    ChunkedNotLast,
    /// A coding other than `chunked`.
    UnknownTransferCoding,
    /// `Transfer-Encoding` in a message of HTTP/1.0. RFC 9112 section 6.1.
    TransferEncodingInHttp10,
    /// `Connection` is not a list of tokens.
    BadConnection,
    /// More connection options than anyone needs.
    TooManyConnectionOptions,
    /// `Connection` names a field without which the message means something else. RFC 9110 section 7.6.1.
    ConnectionNamesEssential,
}

impl HeadError {
    /// One sentence that says what is wrong and what is expected.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => {
                "The message head is larger than this proxy accepts; send fewer or shorter header fields."
            }
            Self::TooManyFields => "The message head has more header fields than this proxy accepts.",
            Self::BareLf => "A line of the message head ends with LF alone; lines must end with CR LF.",
            Self::BareCr => "The message head has a CR that no LF follows; lines must end with CR LF.",
            Self::FoldedField => {
                "A header line begins with white space; folded header lines are obsolete, send each field on one line."
            }
            Self::MissingColon => "A header line has no colon; it must be a name, a colon and a value.",
            Self::EmptyFieldName => "A header line has no name before its colon.",
            Self::SpaceBeforeColon => {
                "A header name is followed by white space; the colon must follow directly."
            }
            Self::BadFieldName => {
                "A header name has a character other than letters, digits and !#$%&'*+-.^_`|~, which is all it may have."
            }
            Self::FieldNameTooLong => "A header name is longer than 65535 bytes.",
            Self::BadFieldValue => "A header value has a control character; only the tab is allowed.",
            Self::BadContentLength => {
                "Content-Length must be one decimal number below 2^64 with nothing around it."
            }
            Self::RepeatedContentLength => "Content-Length is given more than once; it must be given once.",
            Self::LengthWithTransferEncoding => {
                "Content-Length and Transfer-Encoding are both given; only one may tell where the body ends."
            }
            Self::RepeatedTransferEncoding => {
                "Transfer-Encoding is given more than once; it must be given once."
            }
            Self::BadTransferEncoding => {
                "Transfer-Encoding is not a list of codings; the only accepted value is \"chunked\"."
            }
            Self::ChunkedNotLast => "The chunked coding must be applied once and last in Transfer-Encoding.",
            Self::UnknownTransferCoding => {
                "Transfer-Encoding names a coding other than \"chunked\", the only one supported."
            }
            Self::TransferEncodingInHttp10 => {
                "Transfer-Encoding is given in an HTTP/1.0 message; it needs HTTP/1.1."
            }
            Self::BadConnection => "Connection must be a comma-separated list of option names.",
            Self::TooManyConnectionOptions => "Connection has more than 32 options.",
            Self::ConnectionNamesEssential => {
                "Connection names Host, Content-Length or Transfer-Encoding, none of which may be dropped on the way."
            }
        }
    }
}

/// Why a request is refused. The connection cannot be used after any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// A rule that holds for every head.
    Head(HeadError),
    /// The request line does not end within the limit for the whole head.
    TargetTooLong,
    /// A TLS handshake on a plain-text port.
    TlsHandshake,
    /// More empty lines before the request line than RFC 9112 section 2.2 asks us to skip.
    TooManyEmptyLines,
    /// The request line is not method, target and version with single spaces between.
    BadRequestLine,
    /// The method is not a token.
    BadMethod,
    /// A method of more than 32 bytes.
    MethodTooLong,
    /// The request line has no version: HTTP/0.9.
    MissingVersion,
    /// A version other than 1.0 and 1.1.
    UnsupportedVersion,
    /// A control or non-ASCII character in the target.
    BadTarget,
    /// A fragment in the target.
    FragmentInTarget,
    /// A target that is neither a path nor an absolute URI.
    BadTargetForm,
    /// `*` with a method other than OPTIONS.
    AsteriskTarget,
    /// An absolute target whose authority is empty, malformed or has user information.
    BadTargetAuthority,
    /// CONNECT.
    Connect,
    /// HTTP/1.1 without `Host`. RFC 9112 section 3.2.
    MissingHost,
    /// More than one `Host`.
    RepeatedHost,
    /// `Host` is not a host name or address with an optional port.
    BadHost,
    /// `Expect` is not `100-continue`. RFC 9110 section 10.1.1.
    UnknownExpectation,
    /// TRACE with a body. RFC 9110 section 9.3.8.
    TraceWithBody,
}

impl RequestError {
    /// Status code of the reply.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Head(HeadError::TooLarge | HeadError::TooManyFields) => 431,
            Self::TargetTooLong => 414,
            Self::UnknownExpectation => 417,
            Self::Head(HeadError::UnknownTransferCoding) | Self::Connect => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// One sentence that says what is wrong and what is expected.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Head(error) => error.reason(),
            Self::TargetTooLong => {
                "The request line is longer than this proxy accepts; send a shorter target."
            }
            Self::TlsHandshake => {
                "This is a TLS handshake, but the port speaks plain HTTP; use http:// here."
            }
            Self::TooManyEmptyLines => "There are too many empty lines before the request line.",
            Self::BadRequestLine => {
                "The request line must be a method, a target and HTTP/1.0 or HTTP/1.1, with one space between them."
            }
            Self::BadMethod => "The method must be a token: letters, digits and !#$%&'*+-.^_`|~.",
            Self::MethodTooLong => "The method is longer than 32 bytes.",
            Self::MissingVersion => {
                "The request line has no version; HTTP/0.9 is not supported, use HTTP/1.1."
            }
            Self::UnsupportedVersion => {
                "This version of HTTP is not supported here; use HTTP/1.1 or HTTP/1.0."
            }
            Self::BadTarget => {
                "The request target may have visible ASCII characters only; percent-encode any other."
            }
            Self::FragmentInTarget => {
                "The request target has a fragment (#), which must not be sent to a server."
            }
            Self::BadTargetForm => {
                "The request target must begin with / or be an absolute http:// or https:// URI with a path."
            }
            Self::AsteriskTarget => "The request target * is for OPTIONS only.",
            Self::BadTargetAuthority => {
                "The host in the request target must be a name or an address with an optional port, without user information."
            }
            Self::Connect => "CONNECT is not supported; this is a reverse proxy.",
            Self::MissingHost => "An HTTP/1.1 request must have a Host field.",
            Self::RepeatedHost => "Host is given more than once; it must be given once.",
            Self::BadHost => "Host must be a name or an address with an optional port, and not empty.",
            Self::UnknownExpectation => "The only expectation supported is 100-continue.",
            Self::TraceWithBody => "A TRACE request must not have a body.",
        }
    }
}

impl From<HeadError> for RequestError {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

/// Why a response is refused. The client gets 502, the connection to the upstream is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// A rule that holds for every head.
    Head(HeadError),
    /// The first line is not a status line.
    BadStatusLine,
    /// A version other than 1.0 and 1.1.
    UnsupportedVersion,
    /// The status code is not within 100 to 599.
    BadStatus,
    /// `Transfer-Encoding` on a 1xx or 204. RFC 9112 section 6.1.
    BodyNotAllowed,
}

impl ResponseError {
    /// One sentence that says what is wrong and what is expected.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Head(error) => error.reason(),
            Self::BadStatusLine => {
                "The status line must be HTTP/1.0 or HTTP/1.1, a status code and a reason, with one space between them."
            }
            Self::UnsupportedVersion => "The response has a version of HTTP other than 1.0 and 1.1.",
            Self::BadStatus => "The status code of the response is not a number from 100 to 599.",
            Self::BodyNotAllowed => "A response with status 1xx or 204 must not announce a body.",
        }
    }
}

impl From<HeadError> for ResponseError {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}
