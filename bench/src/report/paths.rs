//! Keeps the paths of a machine out of what is published about it.

use std::io::{self, Write};

use serde_json::ser::{Formatter, PrettyFormatter};

/// The text with only the last part of each absolute path: `/home/me/bin/envoy version: 1` is `envoy version: 1`.
///
/// A path begins at a slash behind white space or a character that opens something, has a second slash, and ends where a path in
/// a sentence does. Addresses (`https://…`) and targets of one part (`/100`) are none.
pub(crate) fn without_paths(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let mut length = letter.len_utf8();
        let begins = letter == '/' && (before.is_whitespace() || "\"'`([{<=,:".contains(before));
        if begins && !rest.starts_with("//") {
            length = rest.find(ends_path).unwrap_or(rest.len());
            let path = rest[..length].trim_end_matches(['.', ':']);
            length = path.len();
            let folders = path.trim_end_matches('/');
            clean.push_str(match folders.rsplit_once('/') {
                Some((folder, last)) if !folder.is_empty() => last,
                _ => path,
            });
        } else {
            clean.push(letter);
        }
        before = rest[..length].chars().next_back().unwrap_or(' ');
        rest = &rest[length..];
    }
    clean
}

fn ends_path(letter: char) -> bool {
    letter.is_whitespace() || "\"'`)]}>,;|".contains(letter)
}

/// JSON for people, with no path of this machine in any text.
pub(super) struct Clean<'f>(pub(super) PrettyFormatter<'f>);

impl Formatter for Clean<'_> {
    // What stands between two characters that JSON escapes; a path has none of these.
    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        self.0.write_string_fragment(to, &without_paths(fragment))
    }

    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_part_of_a_path_stays() {
        for (text, clean) in [
            ("/home/me/.local/bin/envoy  version: 9e55/1.40.0/Clean", "envoy  version: 9e55/1.40.0/Clean"),
            ("HAProxy version 2.6 - https://haproxy.org/", "HAProxy version 2.6 - https://haproxy.org/"),
            ("--out=/tmp/results --ouro /opt/a/ouro", "--out=results --ouro ouro"),
            ("--out bench/results", "--out bench/results"),
            ("open \"/tmp/x/nginx.pid\" failed (/tmp/y/).", "open \"nginx.pid\" failed (y)."),
            ("cannot open /tmp/a/b: no such file", "cannot open b: no such file"),
            ("see /a/b/c.", "see c."),
            ("GET /100 and CPU us/request", "GET /100 and CPU us/request"),
            ("caf\u{e9} /tmp/\u{e9}/x \u{2026}", "caf\u{e9} x \u{2026}"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(without_paths(text), clean);
        }
    }

    #[test]
    fn json_has_none_either_and_stays_json() {
        let value = serde_json::json!({ "a": ["x\n/tmp/run/y.log\t/usr/bin/z", 1.5], "b": {}, "c": [] });
        let mut bytes = Vec::new();
        let mut serializer =
            serde_json::Serializer::with_formatter(&mut bytes, Clean(PrettyFormatter::new()));
        serde::Serialize::serialize(&value, &mut serializer).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read, serde_json::json!({ "a": ["x\ny.log\tz", 1.5], "b": {}, "c": [] }));
    }
}
