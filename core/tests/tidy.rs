//! House rules that the compiler does not know: layers, `unsafe`, lengths of files, leftovers, orphans.
//!
//! Works on the text of the sources, comments and literals taken out; it need not understand Rust any better than that.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Top-level modules of `core/src` from top to bottom; see DESIGN section 3 and `docs/architecture.md`. A module may
/// import those of later rows, and itself; modules in one row do not know each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server"],
    &["control"],
    &["worker"],
    &["proxy"],
    &["upstream"],
    &["route"],
    &["h1", "h2", "tls", "config", "ring", "stats"],
    &["base"],
];

/// Where `unsafe` may be, each block with its proof.
const UNSAFE_PLACES: &[&str] = &["core/src/ring/", "core/src/ring.rs", "shm/src/"];

/// Longest file, lines.
const MAX_LINES: usize = 700;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// What must not stay in the code.
const LEFTOVERS: &[&str] = &["dbg!", "todo!", "unimplemented!"];

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for file in sources("core/src") {
        let Some(own) = top_module(&file.path) else { continue };
        let own_rank = rank(&own).unwrap_or_else(|| {
            panic!("{}: module {own:?} has no place in LAYERS", file.path);
        });
        for (line, other) in imports(&file) {
            let fine = other == own || rank(&other).is_none_or(|rank| rank > own_rank);
            if !fine {
                wrong.push(format!("{}:{line}: {own} must not import {other}", file.path));
            }
        }
    }
    assert_none("arrows that do not point down the layers", &wrong);
}

#[test]
fn packages_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for (package, forbidden) in [
        ("shm/src", &["ouro", "ouro_restart", "ouro_bench"][..]),
        ("restart/src", &["ouro", "ouro_shm", "ouro_bench"]),
        ("core/src", &["ouro_bench"]),
    ] {
        for file in sources(package) {
            for (line, text) in file.code.lines().enumerate() {
                for name in forbidden {
                    if words(text)
                        .any(|(start, word)| word == *name && text[start + word.len()..].starts_with("::"))
                    {
                        wrong.push(format!("{}:{}: {name}", file.path, line + 1));
                    }
                }
            }
        }
    }
    assert_none("imports of packages that are none of their business", &wrong);
}

#[test]
fn unsafe_is_contained() {
    let mut wrong = Vec::new();
    for file in all_sources() {
        if UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place)) {
            continue;
        }
        for (line, text) in file.code.lines().enumerate() {
            if words(text).any(|(_, word)| word == "unsafe" || word == "unsafe_code") {
                wrong.push(format!("{}:{}: {}", file.path, line + 1, text.trim()));
            }
        }
    }
    assert_none(&format!("unsafe outside of {UNSAFE_PLACES:?}"), &wrong);
}

#[test]
fn files_are_not_long() {
    let mut wrong = Vec::new();
    for file in all_sources() {
        let lines = file.text.lines().count();
        let allowed = LONG_FILES.iter().any(|(path, _)| *path == file.path);
        if lines > MAX_LINES && !allowed {
            wrong.push(format!("{}: {lines} lines and no reason in LONG_FILES", file.path));
        }
        if lines <= MAX_LINES && allowed {
            wrong.push(format!("{}: {lines} lines, needs no entry in LONG_FILES any more", file.path));
        }
    }
    for (path, reason) in LONG_FILES {
        if !root().join(path).exists() || reason.is_empty() {
            wrong.push(format!("{path}: the entry in LONG_FILES needs a file and a reason"));
        }
    }
    assert_none(&format!("files of more than {MAX_LINES} lines"), &wrong);
}

#[test]
fn nothing_is_left_over() {
    let mut wrong = Vec::new();
    for file in all_sources() {
        for (line, text) in file.code.lines().enumerate() {
            if LEFTOVERS.iter().any(|leftover| text.contains(leftover)) {
                wrong.push(format!("{}:{}: {}", file.path, line + 1, text.trim()));
            }
        }
    }
    assert_none("leftovers", &wrong);
}

#[test]
fn every_file_belongs_to_a_module() {
    let mut reached = BTreeSet::new();
    for package in ["core", "shm", "restart", "bench"] {
        for start in ["src/lib.rs", "src/main.rs"] {
            let start = format!("{package}/{start}");
            if root().join(&start).exists() {
                follow(&start, &mut reached);
            }
        }
    }
    let in_src = |path: &&String| path.contains("/src/");
    let all: BTreeSet<_> = all_sources().into_iter().map(|file| file.path).collect();
    let orphans: Vec<_> = all
        .iter()
        .filter(in_src)
        .filter(|path| !path.contains("/bin/") && !reached.contains(*path))
        .collect();
    assert_none("files that no `mod` declares", &orphans);
}

#[track_caller]
fn assert_none(what: &str, found: &[impl std::fmt::Display]) {
    let list: Vec<_> = found.iter().map(|item| format!("  {item}")).collect();
    assert!(found.is_empty(), "{what}:\n{}", list.join("\n"));
}

/// A source file.
struct Source {
    /// Relative to the top of the repository.
    path: String,
    text: String,
    /// The text with comments and literals blanked out, line breaks kept.
    code: String,
}

/// The top of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Rust files of all packages, tests and the like included.
fn all_sources() -> Vec<Source> {
    ["core", "shm", "restart", "bench"].iter().flat_map(|package| sources(package)).collect()
}

/// All Rust files below a folder, in order.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(root().join(&path)).unwrap();
                let code = strip(&text);
                found.push(Source { path: path.to_str().unwrap().to_owned(), text, code });
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {folder}: is the root wrong?");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Row of a module in [`LAYERS`].
fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Top-level module that a file of `core/src` belongs to; none for `lib.rs`, which only lists them.
fn top_module(path: &str) -> Option<String> {
    let inside = path.strip_prefix("core/src/")?;
    let first = inside.split('/').next()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (module != "lib").then(|| module.to_owned())
}

/// Depth of the module of a file: 1 for top-level modules.
fn depth(path: &str) -> usize {
    let inside = path.strip_prefix("core/src/").unwrap_or(path);
    let parts = inside.split('/').count();
    if inside.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// Top-level modules that a file names, with the line: by `crate::`, by `ouro::`, or by enough `super::`.
fn imports(file: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let code = &file.code;
    let mut supers = 0;
    let mut end_of_last = 0;
    for (start, word) in words(code) {
        let behind = code[start + word.len()..].trim_start();
        let leads_on = behind.starts_with("::");
        let continues = code[end_of_last..start].trim() == "::";
        end_of_last = start + word.len();
        if word == "super" && leads_on {
            supers = if continues { supers + 1 } else { 1 };
        } else if word != "crate" && word != "ouro" {
            continue;
        }
        let is_root = match word {
            "super" => supers >= depth(&file.path),
            _ => leads_on && !continues,
        };
        if is_root {
            let line = code[..start].lines().count().max(1);
            let rest = behind.trim_start_matches("::").trim_start();
            found.extend(first_names(rest).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// The first names of `a::b` or of each item of `{a::b, c}`.
fn first_names(text: &str) -> Vec<String> {
    let Some(list) = text.strip_prefix('{') else {
        return words(text)
            .next()
            .filter(|(start, _)| *start == 0)
            .map(|(_, word)| word.to_owned())
            .into_iter()
            .collect();
    };
    let mut names = Vec::new();
    let mut nesting = 0;
    let mut expect_name = true;
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => nesting += 1,
            '}' if nesting == 0 => break,
            '}' => nesting -= 1,
            ',' if nesting == 0 => expect_name = true,
            _ if expect_name && nesting == 0 && !letter.is_whitespace() => {
                names.extend(words(&list[at..]).next().map(|(_, word)| word.to_owned()));
                expect_name = false;
            }
            _ => {}
        }
    }
    names
}

/// Identifiers and keywords with their offsets.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut rest_start = 0;
    std::iter::from_fn(move || {
        let rest = &text[rest_start..];
        let start = rest_start + rest.find(is_part)?;
        let length = text[start..].find(|letter| !is_part(letter)).unwrap_or(text.len() - start);
        rest_start = start + length;
        Some((start, &text[start..start + length]))
    })
}

/// Follows the `mod` declarations of a file.
fn follow(path: &str, reached: &mut BTreeSet<String>) {
    if !reached.insert(path.to_owned()) {
        return;
    }
    let Ok(text) = std::fs::read_to_string(root().join(path)) else { return };
    let code = strip(&text);
    let (folder, file) = path.rsplit_once('/').unwrap();
    let below = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    };
    let mut words = words(&code).peekable();
    while let Some((_, word)) = words.next() {
        let Some((start, name)) = words.peek().copied() else { break };
        if word == "mod" && code[start + name.len()..].trim_start().starts_with(';') {
            for candidate in [format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")] {
                if root().join(&candidate).exists() {
                    follow(&candidate, reached);
                }
            }
        }
    }
}

/// Blanks out comments and literals.
fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = literal_or_comment(&text[at..], code.chars().next_back());
        if length == 0 {
            let letter = text[at..].chars().next().unwrap();
            code.push(letter);
            at += letter.len_utf8();
        } else {
            code.extend(text[at..at + length].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    code
}

/// Length of the comment or literal that the text begins with; 0 if it begins with neither.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if text.starts_with('"') {
        return quoted(text, 1, '"');
    }
    if !in_word && (text.starts_with("r\"") || text.starts_with("r#") || text.starts_with("br")) {
        let behind = text.trim_start_matches('b').trim_start_matches('r');
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        if behind[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = text.len() - behind.len() + hashes + 1;
            return text[start..].find(&close).map_or(text.len(), |end| start + end + close.len());
        }
    }
    if let Some(rest) = text.strip_prefix('\'') {
        // A lifetime has no closing quote.
        let mut letters = rest.chars();
        return match letters.next() {
            Some('\\') => quoted(text, 1, '\''),
            Some(letter) if letters.next() == Some('\'') => 2 + letter.len_utf8(),
            _ => 0,
        };
    }
    0
}

fn block_comment(text: &str) -> usize {
    let mut nesting = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            nesting += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            nesting -= 1;
            at += 2;
            if nesting == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length up to and with the closing quote, escapes skipped.
fn quoted(text: &str, start: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(start) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[test]
fn comments_and_literals_are_blanked_out() {
    for (text, code) in [
        ("a // unsafe\nb", "a          \nb"),
        ("a /* x /* y */ z */ b", "a                   b"),
        ("f(\"un\\\"safe\") + 1", "f(           ) + 1"),
        ("r#\"a\"b\"# c", "          c"),
        ("br\"a\\\" c", "       c"),
        ("'\"' + '\\'' + 'a", "    +      + 'a"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("'é' x", "    x"),
    ] {
        let stripped = strip(text);
        assert_eq!(stripped.replace(' ', ""), code.replace(' ', ""), "{text}");
        assert_eq!(stripped.lines().count(), text.lines().count());
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let names = |path: &str, code: &str| {
        let source = Source { path: path.to_owned(), text: String::new(), code: code.to_owned() };
        imports(&source)
            .into_iter()
            .map(|(line, name)| format!("{line}:{name}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names("core/src/h1/a.rs", "use crate::base::x;"), "1:base");
    assert_eq!(names("core/src/h1/a.rs", "\nuse crate::{base::{x, y}, config};"), "2:base 2:config");
    assert_eq!(names("core/src/h1/a.rs", "use crate::{\n    ring,\n};"), "1:ring");
    assert_eq!(names("core/src/h1/a.rs", "fn f(x: crate::route::Y) {}"), "1:route");
    assert_eq!(names("core/src/h1/a.rs", "pub(crate) fn f() {}"), "");
    assert_eq!(names("core/src/h1/a.rs", "use super::b;"), "");
    assert_eq!(names("core/src/h1/a.rs", "use super::super::config;"), "1:config");
    assert_eq!(names("core/src/h1/mod.rs", "use super::config;"), "1:config");
    assert_eq!(names("core/src/main.rs", "use ouro::server;"), "1:server");
}
