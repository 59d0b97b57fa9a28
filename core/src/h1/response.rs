//! Response heads. RFC 9112 section 4.

use super::{
    HeadLimits, Parsed, bytes, diagnose,
    error::{HeadError, ResponseError},
    fields::{self, Facts, Slots},
};
use crate::base::{
    http::{BodyLength, Fields, Method, ResponseHead, Span, Version},
    limits,
};

/// Length of `HTTP/1.1 200`.
const CODE_END: usize = 12;

/// Looks for a response head at the beginning of `buf`, which may hold less than the head or more.
///
/// `request_method` is the method of the request that the response is for; it decides whether there is a body.
/// `fields` is cleared, and holds the fields of the head when it is complete. A status line without the space before
/// an empty reason is accepted: many servers leave it out, and nothing hangs on it.
pub fn parse_response(
    buf: &[u8],
    request_method: Method,
    limits: HeadLimits,
    fields: &mut Fields,
) -> Result<Parsed<ResponseHead>, ResponseError> {
    fields.clear();
    let window = limits.window(buf);
    // Empty lines are skipped before requests only.
    if window.first().is_some_and(|first| *first != b'H') {
        return Err(ResponseError::BadStatusLine);
    }
    let mut slots: Slots<'_> = [const { std::mem::MaybeUninit::uninit() }; limits::MAX_HEADERS];
    let slots = slots.get_mut(..limits.fields()).unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, window, slots);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if diagnose::has_bare_lf(window) => {
            return Err(HeadError::BareLf.into());
        }
        Ok(httparse::Status::Partial) if limits.reached(buf) => return Err(HeadError::TooLarge.into()),
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(diagnose::response(window, error)),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(ResponseError::BadStatusLine);
    };
    if !(100..=599).contains(&status) {
        return Err(ResponseError::BadStatus);
    }
    let head = window.get(..len).unwrap_or(window);
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let facts = fields::collect(head, version, response.headers, fields)?;
    let body = body(request_method, status, &facts)?;
    // A 204 that announces a body may be followed by one all the same; its bytes must not become a response.
    let stray_body = status == 204 && facts.content_length.is_some_and(|length| length > 0);
    Ok(Parsed::Complete {
        head: ResponseHead {
            status,
            reason: reason(head),
            version,
            body,
            keep_alive: facts.options.persists(version) && body != BodyLength::UntilClose && !stray_body,
            upgrade: facts.upgrade,
            declared_length: facts.content_length.filter(|_| request_method == Method::Head || status == 304),
        },
        len,
    })
}

/// RFC 9112 section 6.3, the rules for responses.
fn body(request_method: Method, status: u16, facts: &Facts) -> Result<BodyLength, ResponseError> {
    let bodiless = matches!(status, 100..=199 | 204);
    if bodiless && facts.chunked {
        return Err(ResponseError::BodyNotAllowed);
    }
    // Another response follows a 1xx on the same connection, so closing is no way out as it is for a 204.
    if status < 200 && facts.content_length.is_some_and(|length| length > 0) {
        return Err(ResponseError::BodyNotAllowed);
    }
    Ok(match facts.content_length {
        _ if bodiless || status == 304 || request_method == Method::Head => BodyLength::None,
        _ if facts.chunked => BodyLength::Chunked,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::UntilClose,
    })
}

/// The reason phrase. It is taken from the line itself because `httparse` leaves out one that is not ASCII.
fn reason(head: &[u8]) -> Span {
    let line_end = memchr::memchr(b'\r', head).unwrap_or(CODE_END);
    let start = (CODE_END + 1).min(line_end);
    Span { start: bytes::offset(start), end: bytes::offset(line_end) }
}
