//! Changes to header fields and conditions on them.

use regex::bytes::RegexBuilder;

use super::super::model::{HeaderEdits, HeaderMatch, ValueMatch};
use super::super::reader::{Section, Text};
use super::super::values::{self, quoted};
use crate::base::http::FieldKind;

/// Memory of one compiled expression, bytes. An expression that needs more is a mistake or an attack.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// `request_headers` or `response_headers` of a listener or a route.
pub(super) fn edits(section: &Section<'_>, key: &str) -> HeaderEdits {
    let Some(table) = section.optional_table(key) else { return HeaderEdits::default() };
    let pairs = |key: &str| {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in table.map(key) {
            let read = changeable(name).and_then(|name| {
                values::header_value(value.text).map_err(|why| format!("{}: {why}", quoted(&name)))?;
                Ok((name, value.text.to_owned()))
            });
            match read {
                Ok((name, _)) if pairs.iter().any(|(other, _)| *other == name) => {
                    table.fail_text(key, value, format!("{name:?} is there twice; case makes no difference"));
                }
                Ok(pair) => pairs.push(pair),
                Err(message) => table.fail_text(key, value, message),
            }
        }
        pairs
    };
    let mut remove = Vec::new();
    for name in table.texts("remove") {
        match changeable(name.text) {
            Ok(name) => remove.push(name),
            Err(message) => table.fail_text("remove", name, message),
        }
    }
    HeaderEdits { set: pairs("set"), add: pairs("add"), remove }
}

/// A header name in lower case that may be changed.
fn changeable(text: &str) -> Result<String, String> {
    let name = field_name(text)?;
    match FieldKind::of(name.as_bytes()) {
        FieldKind::Host => Err("\"host\" is changed by `host_rewrite` of a route".to_owned()),
        kind if kind.is_hop_by_hop() || matches!(kind, FieldKind::Trailer | FieldKind::Expect) => {
            Err(format!(
                "{name:?} frames a message or belongs to one connection, which is the proxy's own business"
            ))
        }
        _ => Ok(name),
    }
}

fn field_name(text: &str) -> Result<String, String> {
    if values::is_token(text) && text.len() <= usize::from(u16::MAX) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("expected a header name, found {}", quoted(text)))
}

/// `[[listeners.routes.headers]]`.
pub(super) fn condition(section: &Section<'_>) -> Option<HeaderMatch> {
    let name = section.read("name", field_name);
    let given: Vec<&str> =
        ["value", "prefix", "regex", "present"].into_iter().filter(|key| section.has(key)).collect();
    match given[..] {
        [] => section.fail_table("expected one of `value`, `prefix`, `regex` and `present`"),
        [_] => {}
        [first, second, ..] => {
            section.fail(second, format!("`{first}` is given too; a condition has one of them"));
        }
    }
    let text = |key: &str| {
        section.read(key, |text| {
            // What a value begins with may end with white space, unlike a whole value: `Bearer `.
            values::header_value(if key == "prefix" { text.trim_end_matches(' ') } else { text })?;
            Ok(text.to_owned())
        })
    };
    let value = match *given.first()? {
        "value" => text("value").map(ValueMatch::Exact),
        "prefix" => text("prefix").map(ValueMatch::Prefix),
        "regex" => section.text("regex").and_then(|text| regex(section, text)),
        _ => {
            if section.boolean("present") == Some(false) {
                section.fail(
                    "present",
                    "write `present = true` and `invert = true` for a field that is not there",
                );
            }
            Some(ValueMatch::Present)
        }
    };
    let invert = section.boolean("invert").unwrap_or_default();
    Some(HeaderMatch { name: name?, value: value?, invert })
}

fn regex(section: &Section<'_>, text: Text<'_>) -> Option<ValueMatch> {
    let built = RegexBuilder::new(text.text).unicode(false).size_limit(MAX_REGEX_BYTES).build();
    match built {
        Ok(regex) => Some(ValueMatch::Regex(regex)),
        Err(error) => {
            // The full text of a syntax error draws a picture over several lines; its last line says what is wrong.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            section.fail("regex", format!("not a regular expression: {}", why.trim_start_matches("error: ")));
            None
        }
    }
}
