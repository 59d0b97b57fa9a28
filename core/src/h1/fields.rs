//! What the fields of a head say that decides how its message is handled.

use super::{
    bytes::{is_space, is_token_byte, is_value_byte},
    connection,
    error::HeadError,
    framing,
};
use crate::base::http::{FieldKind, Fields, Span, Version};

/// What the fields of one head say, with every contradiction already refused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// `Host`, not yet validated.
    pub(super) host: Option<Span>,
    /// More than one `Host`.
    pub(super) repeated_host: bool,
    /// `Content-Length`; never together with `chunked`.
    pub(super) content_length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(super) chunked: bool,
    /// `Connection`.
    pub(super) options: connection::Options,
    /// The one `Upgrade` field, where it goes with the connection option, in HTTP/1.1 only.
    pub(super) upgrade: Option<Span>,
    /// `Expect: 100-continue`.
    pub(super) expect_continue: bool,
    /// An expectation other than that.
    pub(super) unknown_expectation: bool,
}

impl Facts {
    /// Reads the fields that matter, and marks those that `Connection` names.
    pub(super) fn of(head: &[u8], version: Version, fields: &mut Fields) -> Result<Self, HeadError> {
        let mut facts = Self::default();
        let mut upgrades = 0u32;
        let mut connections = false;
        let mut coding = None;
        for field in fields.iter().filter(|field| field.kind != FieldKind::Other) {
            let value = Span { start: field.value_start, end: field.value_end };
            match field.kind {
                FieldKind::Host => facts.repeated_host |= facts.host.replace(value).is_some(),
                FieldKind::Connection => connections = true,
                FieldKind::ContentLength => {
                    let length = framing::content_length(field.value(head))?;
                    if facts.content_length.replace(length).is_some() {
                        return Err(HeadError::RepeatedContentLength);
                    }
                }
                FieldKind::TransferEncoding => {
                    if coding.is_some() {
                        return Err(HeadError::RepeatedTransferEncoding);
                    }
                    if version == Version::Http10 {
                        return Err(HeadError::TransferEncodingInHttp10);
                    }
                    coding = Some(framing::transfer_encoding(field.value(head)));
                }
                FieldKind::Upgrade => {
                    facts.upgrade = Some(value);
                    upgrades += 1;
                }
                FieldKind::Expect if field.value(head).eq_ignore_ascii_case(b"100-continue") => {
                    facts.expect_continue = true;
                }
                FieldKind::Expect => facts.unknown_expectation = true,
                _ => {}
            }
        }
        // Two framings are the graver fault, whatever the coding is.
        if coding.is_some() && facts.content_length.is_some() {
            return Err(HeadError::LengthWithTransferEncoding);
        }
        if let Some(coding) = coding {
            coding?;
            facts.chunked = true;
        }
        if connections {
            facts.options = connection::options(head, fields)?;
        }
        // Several `Upgrade` fields are one list that a span cannot show; the offer may be ignored, so it is.
        if !facts.options.upgrade || upgrades != 1 || version == Version::Http10 {
            facts.upgrade = None;
        }
        facts.upgrade = facts.upgrade.filter(|protocol| !protocol.is_empty());
        Ok(facts)
    }
}

/// Checks one field line that came without its CR LF, and returns the length of its name.
/// RFC 9112 section 5.
pub(super) fn check_line(line: &[u8]) -> Result<usize, HeadError> {
    if line.first().is_some_and(|first| is_space(*first)) {
        return Err(HeadError::FoldedField);
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Err(if line.contains(&b'\r') { HeadError::BareCr } else { HeadError::MissingColon });
    };
    let (name, value) = line.split_at(colon);
    match name.last() {
        None => return Err(HeadError::EmptyFieldName),
        Some(last) if is_space(*last) => return Err(HeadError::SpaceBeforeColon),
        Some(_) => {}
    }
    if name.len() > usize::from(u16::MAX) {
        return Err(HeadError::FieldNameTooLong);
    }
    if let Some(bad) = name.iter().find(|byte| !is_token_byte(**byte)) {
        return Err(if *bad == b'\r' { HeadError::BareCr } else { HeadError::BadFieldName });
    }
    if let Some(bad) = value.iter().find(|byte| !is_value_byte(**byte)) {
        return Err(if *bad == b'\r' { HeadError::BareCr } else { HeadError::BadFieldValue });
    }
    Ok(colon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_lines_are_checked_like_those_of_a_head() {
        for (line, expected) in [
            (&b"A: b"[..], Ok(1)),
            (b"A:", Ok(1)),
            (b"a!#$%&'*+-.^_`|~9:\t \xff", Ok(17)),
            (b"A::", Ok(1)),
            (b"", Err(HeadError::MissingColon)),
            (b"A", Err(HeadError::MissingColon)),
            (b" A: b", Err(HeadError::FoldedField)),
            (b"\tA: b", Err(HeadError::FoldedField)),
            (b": b", Err(HeadError::EmptyFieldName)),
            (b"A : b", Err(HeadError::SpaceBeforeColon)),
            (b"A\t: b", Err(HeadError::SpaceBeforeColon)),
            (b"A b: c", Err(HeadError::BadFieldName)),
            (b"A\0: c", Err(HeadError::BadFieldName)),
            (b"A(: c", Err(HeadError::BadFieldName)),
            (b"\xff: c", Err(HeadError::BadFieldName)),
            (b"A: \0", Err(HeadError::BadFieldValue)),
            (b"A: \x7f", Err(HeadError::BadFieldValue)),
            (b"A: b\rc", Err(HeadError::BareCr)),
            (b"A: b\r", Err(HeadError::BareCr)),
            (b"A\r: b", Err(HeadError::BareCr)),
            (b"A\rB", Err(HeadError::BareCr)),
        ] {
            assert_eq!(check_line(line), expected, "{}", line.escape_ascii());
        }
        let long = [&[b'a'; 65_536][..], b":"].concat();
        assert_eq!(check_line(&long), Err(HeadError::FieldNameTooLong));
        assert_eq!(check_line(&long[1..]), Ok(65_535));
    }
}
