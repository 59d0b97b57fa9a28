//! `Connection`: what the sender says about this connection. RFC 9110 section 7.6.1.

use super::{bytes, error::HeadError};
use crate::base::http::{Field, FieldKind, Version};

/// Options in all `Connection` fields of one head. Each one is looked for among all fields, so it bounds the work
/// that a head can make.
const MAX_OPTIONS: usize = 32;

/// The connection options that the proxy itself understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Options {
    /// Whether the connection persists. RFC 9112 section 9.3.
    pub(super) const fn persists(self, version: Version) -> bool {
        match version {
            _ if self.close => false,
            Version::Http11 => true,
            Version::Http10 => self.keep_alive,
        }
    }
}

/// Reads every `Connection` field and marks the fields that they name.
pub(super) fn options(head: &[u8], fields: &mut [Field]) -> Result<Options, HeadError> {
    let mut options = Options::default();
    let mut seen = 0;
    for index in 0..fields.len() {
        let Some(field) = fields.get(index).filter(|field| field.kind == FieldKind::Connection) else {
            continue;
        };
        for option in bytes::list(field.value(head)) {
            // Empty elements mean nothing (RFC 9110 section 5.6.1) but are counted, too.
            seen += 1;
            if seen > MAX_OPTIONS {
                return Err(HeadError::TooManyConnectionOptions);
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else if !option.is_empty() {
                mark(head, fields, option)?;
            }
        }
    }
    Ok(options)
}

/// Marks the fields called `option`.
fn mark(head: &[u8], fields: &mut [Field], option: &[u8]) -> Result<(), HeadError> {
    if !bytes::is_token(option) {
        return Err(HeadError::BadConnection);
    }
    match FieldKind::of(option) {
        FieldKind::Host | FieldKind::ContentLength | FieldKind::TransferEncoding => {
            return Err(HeadError::ConnectionNamesEssential);
        }
        _ => {}
    }
    for field in fields.iter_mut().filter(|field| usize::from(field.name_len) == option.len()) {
        if field.name(head).eq_ignore_ascii_case(option) {
            field.named_by_connection = true;
        }
    }
    Ok(())
}
