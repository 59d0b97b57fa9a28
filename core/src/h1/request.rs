//! Request heads. RFC 9112 section 3.

use super::{
    HeadLimits, Parsed, authority,
    bytes::is_token_byte,
    diagnose,
    error::{HeadError, RequestError},
    fields::Facts,
    scan::{self, Stop},
    target,
};
use crate::base::{
    http::{BodyLength, Fields, Method, RequestHead, Span, Version},
    limits,
};

/// Longest method. The longest registered one has 16 bytes.
pub(super) const MAX_METHOD_BYTES: usize = 32;

/// Looks for a request head at the beginning of `buf`, which may hold less than the head or more.
///
/// `fields` is cleared, and holds the fields of the head when it is complete. HTTP/1.2 and above is refused like any
/// unknown version: nobody speaks it, so whoever says it is up to something.
pub fn parse_request(
    buf: &[u8],
    limits: HeadLimits,
    fields: &mut Fields,
) -> Result<Parsed<RequestHead>, RequestError> {
    fields.clear();
    let window = limits.window(buf);
    let skipped = leading_empty_lines(window)?;
    let start = window.get(skipped..).unwrap_or_default();

    let found = scan::request_line(window, skipped).and_then(|line| {
        let len = scan::field_section(window, line.end, limits.fields(), fields)?;
        Ok((line, len))
    });
    let (line, len) = match found {
        Ok(found) => found,
        Err(Stop::Partial) => return incomplete(start, limits.reached(buf)),
        Err(stop) => return Err(diagnose::request(start, stop)),
    };
    let head = window.get(..len).unwrap_or(window);
    let method_text = line.method.of(head);
    if method_text.len() > MAX_METHOD_BYTES {
        return Err(RequestError::MethodTooLong);
    }
    let method = Method::from_bytes(method_text);
    let target = target::parse(head, line.target.of(head), method)?;
    let version = line.version;
    let facts = Facts::of(head, version, fields)?;
    let host = host(head, version, &facts)?;
    let body = body(method, &facts)?;
    let has_body = !matches!(body, BodyLength::None | BodyLength::Known(0));
    // HTTP/1.0 has no expectations. RFC 9110 section 10.1.1.
    if version == Version::Http11 && facts.unknown_expectation {
        return Err(RequestError::UnknownExpectation);
    }
    Ok(Parsed::Complete {
        head: RequestHead {
            method,
            method_text: line.method,
            version,
            path: target.path,
            authority: target.absolute.map_or(host, |(_, authority)| authority),
            target_scheme: target.absolute.map(|(scheme, _)| scheme),
            body,
            keep_alive: facts.options.persists(version),
            expect_continue: version == Version::Http11 && facts.expect_continue && has_body,
            // With a body in the way it would be unclear whose bytes come next. RFC 9110 section 7.8.
            upgrade: facts.upgrade.filter(|_| !has_body),
        },
        len,
    })
}

/// Length of the empty lines before the request line. RFC 9112 section 2.2 asks servers to skip at least one.
fn leading_empty_lines(window: &[u8]) -> Result<usize, RequestError> {
    let mut rest = window;
    let mut lines = 0;
    while let [b'\r' | b'\n', ..] = rest {
        rest = match rest {
            [b'\r', b'\n', rest @ ..] => rest,
            // The LF may be on its way.
            [b'\r'] => &[],
            [b'\r', ..] => return Err(HeadError::BareCr.into()),
            _ => return Err(HeadError::BareLf.into()),
        };
        lines += 1;
        if lines > limits::LEADING_EMPTY_LINES {
            return Err(RequestError::TooManyEmptyLines);
        }
    }
    Ok(window.len() - rest.len())
}

/// What to say of a head that has not ended: go on reading, unless no further byte can make it right.
fn incomplete(start: &[u8], limit_reached: bool) -> Result<Parsed<RequestHead>, RequestError> {
    if start.get(..=MAX_METHOD_BYTES).is_some_and(|method| method.iter().all(|byte| is_token_byte(*byte))) {
        return Err(RequestError::MethodTooLong);
    }
    if !limit_reached {
        return Ok(Parsed::Partial);
    }
    // It is the target that is too long if the request line alone fills the room of the whole head.
    match memchr::memchr(b'\n', start) {
        Some(_) => Err(HeadError::TooLarge.into()),
        None => Err(RequestError::TargetTooLong),
    }
}

/// Checks `Host`, also where an absolute target overrides it: the next server may look at the field instead.
/// RFC 9112 section 3.2.
fn host(head: &[u8], version: Version, facts: &Facts) -> Result<Span, RequestError> {
    match facts.host {
        _ if facts.repeated_host => Err(RequestError::RepeatedHost),
        Some(host) if authority::is_valid(host.of(head)) => Ok(host),
        Some(_) => Err(RequestError::BadHost),
        None if version == Version::Http10 => Ok(Span::default()),
        None => Err(RequestError::MissingHost),
    }
}

/// RFC 9112 section 6.3, the rules for requests.
fn body(method: Method, facts: &Facts) -> Result<BodyLength, RequestError> {
    let body = match facts.content_length {
        _ if facts.chunked => BodyLength::Chunked,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::None,
    };
    match body {
        BodyLength::None | BodyLength::Known(0) => Ok(body),
        _ if method == Method::Trace => Err(RequestError::TraceWithBody),
        _ => Ok(body),
    }
}

#[cfg(test)]
mod tests;
