//! Reads tables by the schema. An error is noted and a stand-in returned, so that reading goes on to the next error;
//! the stand-in is never seen because a report with errors yields no model.

use std::fmt::Write;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::Report;
use super::schema::{self, Default, Key, Kind};
use super::values;
use crate::base::clock::Millis;

type Value<'t> = Spanned<DeValue<'t>>;

/// A table of the file together with what may stand in it; an absent table has every key at its default.
pub(super) struct Section<'t> {
    schema: &'static schema::Section,
    table: Option<&'t DeTable<'t>>,
    report: &'t Report,
    path: String,
    at: usize,
}

/// A piece of text from the file, or from a default, with its place.
#[derive(Clone, Copy)]
pub(super) struct Text<'t> {
    /// The text.
    pub(super) text: &'t str,
    /// Position in its list.
    pub(super) index: Option<usize>,
    at: usize,
}

/// An entry of a list that holds strings or tables.
pub(super) enum Entry<'t> {
    /// A plain string.
    Text(Text<'t>),
    /// A table.
    Table(Section<'t>),
}

/// What a key holds.
enum Held<'t> {
    Given(&'t Value<'t>),
    Default(&'static str),
    Nothing,
}

impl<'t> Section<'t> {
    /// The table of the whole file.
    pub(super) fn root(table: &'t DeTable<'t>, report: &'t Report) -> Self {
        Self::new(&schema::ROOT, Some(table), report, String::new(), 0)
    }

    fn new(
        schema: &'static schema::Section,
        table: Option<&'t DeTable<'t>>,
        report: &'t Report,
        path: String,
        at: usize,
    ) -> Self {
        let section = Self { schema, table, report, path, at };
        section.refuse_unknown_keys();
        section
    }

    /// Whether the file gives this key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    /// Whether the file gives this key, and gives it a list.
    pub(super) fn is_array(&self, name: &str) -> bool {
        self.given(name).is_some_and(|value| value.get_ref().is_array())
    }

    /// The string that the file gives; notes no error.
    pub(super) fn given_text(&self, name: &str) -> Option<&'t str> {
        self.given(name).and_then(|value| value.get_ref().as_str())
    }

    /// Notes an error about a key, or about the table if the file does not give it.
    pub(super) fn fail(&self, name: &str, message: impl Into<String>) {
        let at = self.given(name).map_or(self.at, |value| value.span().start);
        self.report.push(at, self.path_of(name, None), message.into());
    }

    /// Notes an error about a piece of text that this key gave.
    pub(super) fn fail_text(&self, name: &str, text: Text<'_>, message: impl Into<String>) {
        self.report.push(text.at, self.path_of(name, text.index), message.into());
    }

    /// Notes an error about the table itself.
    pub(super) fn fail_table(&self, message: impl Into<String>) {
        self.report.push(self.at, self.path.clone(), message.into());
    }

    /// Path of this table, such as `listeners[0]`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        match self.held(name) {
            Held::Given(value) => match value.get_ref() {
                DeValue::Boolean(value) => Some(*value),
                _ => self.wrong_type(name, value),
            },
            Held::Default(text) => Some(text == "true"),
            Held::Nothing => None,
        }
    }

    /// A string, whatever it says. `None` if it is absent or not a string.
    pub(super) fn text(&self, name: &str) -> Option<Text<'t>> {
        match self.held(name) {
            Held::Given(value) => match value.get_ref() {
                DeValue::String(text) => Some(Text { text, index: None, at: value.span().start }),
                _ => self.wrong_type(name, value),
            },
            Held::Default(text) => Some(Text { text, index: None, at: self.at }),
            Held::Nothing => None,
        }
    }

    /// A string that `read` understands.
    pub(super) fn read<T>(&self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        read(text.text).map_err(|message| self.fail_text(name, text, message)).ok()
    }

    /// One of the choices of the key.
    pub(super) fn choice(&self, name: &str) -> Option<&'t str> {
        let key = self.key(name);
        let Kind::Choice(choices) = key.kind else { unreachable!("{name} is no choice") };
        let text = self.text(name)?;
        if choices.contains(&text.text) {
            return Some(text.text);
        }
        let hint = did_you_mean(text.text, choices.iter().copied());
        let message = format!("expected {}, found {}{hint}", key.kind.expected(), values::quoted(text.text));
        self.fail_text(name, text, message);
        None
    }

    /// A duration; 0 stands in for a wrong or absent one.
    pub(super) fn duration(&self, name: &str) -> Millis {
        let Kind::Duration { off } = self.key(name).kind else { unreachable!("{name} is no duration") };
        self.read(name, |text| values::duration(text, off)).unwrap_or_default()
    }

    /// A size in bytes, `u64::MAX` for "off".
    pub(super) fn size(&self, name: &str) -> u64 {
        let Kind::Size { off, min, max } = self.key(name).kind else { unreachable!("{name} is no size") };
        self.read(name, |text| values::size(text, off, min, max)).unwrap_or_default()
    }

    /// A size in bytes that addresses memory.
    pub(super) fn memory_size(&self, name: &str) -> usize {
        usize::try_from(self.size(name)).unwrap_or(usize::MAX)
    }

    /// An integer, `u32::MAX` for "off".
    pub(super) fn integer(&self, name: &str) -> u32 {
        let key = self.key(name);
        let Kind::Integer { off, min, max } = key.kind else { unreachable!("{name} is no integer") };
        let value = match self.held(name) {
            Held::Given(value) => value,
            Held::Default("off") => return u32::MAX,
            Held::Default(text) => return text.parse().unwrap_or_default(),
            Held::Nothing => return 0,
        };
        match value.get_ref() {
            DeValue::String(text) if off && text == "off" => u32::MAX,
            DeValue::Integer(integer) => {
                let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
                if let Some(number) = number.filter(|number| (min..=max).contains(number)) {
                    return number;
                }
                let hint = if off && number == Some(0) { "; write \"off\" for no limit" } else { "" };
                self.fail(name, format!("expected {}, found {integer}{hint}", key.kind.expected()));
                0
            }
            _ => self.wrong_type(name, value).unwrap_or_default(),
        }
    }

    /// An integer, `usize::MAX` for "off".
    pub(super) fn count(&self, name: &str) -> usize {
        match self.integer(name) {
            u32::MAX => usize::MAX,
            number => number as usize,
        }
    }

    /// A list of strings; absent ones are empty.
    pub(super) fn texts(&self, name: &str) -> Vec<Text<'t>> {
        let value = match self.held(name) {
            Held::Given(value) => value,
            Held::Default(text) => return vec![Text { text, index: None, at: self.at }],
            Held::Nothing => return Vec::new(),
        };
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(name, value).unwrap_or_default();
        };
        let mut texts = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            match item.get_ref() {
                DeValue::String(text) => {
                    texts.push(Text { text, index: Some(index), at: item.span().start });
                }
                _ => self.wrong_item(name, index, item),
            }
        }
        texts
    }

    /// A table of strings in the order of the file; absent ones are empty.
    pub(super) fn map(&self, name: &str) -> Vec<(&'t str, Text<'t>)> {
        let Held::Given(value) = self.held(name) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong_type(name, value).unwrap_or_default();
        };
        let mut entries = Vec::with_capacity(table.len());
        for (key, item) in table {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::String(text) => {
                    entries.push((key.get_ref().as_ref(), Text { text, index: None, at }));
                }
                other => {
                    let path = format!("{}.{}", self.path_of(name, None), shown_key(key.get_ref()));
                    self.report.push(at, path, format!("expected a string, found {}", found(other)));
                }
            }
        }
        entries.sort_by_key(|(_, text)| text.at);
        entries
    }

    /// A table, with every key at its default if it is absent.
    pub(super) fn table(&self, name: &str) -> Self {
        let Kind::Table(schema) = self.key(name).kind else { unreachable!("{name} is no table") };
        let Some(value) = self.given(name) else {
            return Self::new(schema, None, self.report, self.path_of(name, None), self.at);
        };
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type::<()>(name, value);
        }
        Self::new(schema, table, self.report, self.path_of(name, None), value.span().start)
    }

    /// A table, unless it is absent.
    pub(super) fn optional_table(&self, name: &str) -> Option<Self> {
        let value = self.given(name)?;
        if value.get_ref().is_table() { Some(self.table(name)) } else { self.wrong_type(name, value) }
    }

    /// A list of tables; absent ones are empty.
    pub(super) fn tables(&self, name: &str) -> Vec<Self> {
        let tables = self.entries(name).into_iter().filter_map(|entry| match entry {
            Entry::Table(section) => Some(section),
            Entry::Text(_) => None,
        });
        tables.collect()
    }

    /// A list of tables or, where the key allows it, strings; absent ones are empty.
    pub(super) fn entries(&self, name: &str) -> Vec<Entry<'t>> {
        let (schema, plain) = match self.key(name).kind {
            Kind::Tables(schema) => (schema, false),
            Kind::TextsOrTables { section, .. } => (section, true),
            _ => unreachable!("{name} is no list of tables"),
        };
        let Held::Given(value) = self.held(name) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(name, value).unwrap_or_default();
        };
        let mut entries = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::Table(table) => {
                    let path = self.path_of(name, Some(index));
                    entries.push(Entry::Table(Self::new(schema, Some(table), self.report, path, at)));
                }
                DeValue::String(text) if plain => {
                    entries.push(Entry::Text(Text { text, index: Some(index), at }))
                }
                _ => self.wrong_item(name, index, item),
            }
        }
        entries
    }

    /// Asking for a key that the schema does not have is a mistake of ours that the first test run shows.
    fn key(&self, name: &str) -> &'static Key {
        match self.schema.key(name) {
            Some(key) => key,
            None => unreachable!("{} has no key {name}", self.schema.title),
        }
    }

    fn given(&self, name: &str) -> Option<&'t Value<'t>> {
        self.table.and_then(|table| table.get(name))
    }

    fn held(&self, name: &str) -> Held<'t> {
        let key = self.key(name);
        match (self.given(name), &key.default) {
            (Some(value), _) => Held::Given(value),
            (None, Default::Value(text)) => Held::Default(text),
            (None, Default::Absent(_)) => Held::Nothing,
            (None, Default::Required) => {
                self.fail(name, format!("missing: expected {}", key.kind.expected()));
                Held::Nothing
            }
        }
    }

    fn path_of(&self, name: &str, index: Option<usize>) -> String {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        if let Some(index) = index {
            let _ = write!(path, "[{index}]"); // writing to a string cannot fail
        }
        path
    }

    fn wrong_type<T>(&self, name: &str, value: &Value<'_>) -> Option<T> {
        let expected = self.key(name).kind.expected();
        self.fail(name, format!("expected {expected}, found {}", found(value.get_ref())));
        None
    }

    fn wrong_item(&self, name: &str, index: usize, item: &Value<'_>) {
        let expected = match self.key(name).kind {
            Kind::Tables(_) => "a table",
            Kind::Texts { expected, .. } | Kind::TextsOrTables { expected, .. } => expected,
            _ => "a string",
        };
        let message = format!("expected {expected}, found {}", found(item.get_ref()));
        self.report.push(item.span().start, self.path_of(name, Some(index)), message);
    }

    fn refuse_unknown_keys(&self) {
        let Some(table) = self.table else { return };
        for key in table.keys() {
            let name: &str = key.get_ref();
            if self.schema.key(name).is_some() {
                continue;
            }
            let names = || self.schema.keys.iter().map(|key| key.name);
            let hint = did_you_mean(name, names());
            let allowed: Vec<&str> = names().collect();
            let message = format!("unknown key{hint} (allowed here: {})", allowed.join(", "));
            self.report.push(key.span().start, self.path_of(&shown_key(name), None), message);
        }
    }
}

/// `, did you mean ...?` if one of the words is close to what was written.
pub(super) fn did_you_mean<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> String {
    let near = words.map(|word| (distance(written, word), word)).min();
    match near {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => format!(", did you mean `{word}`?"),
        _ => String::new(),
    }
}

/// Edit distance (Levenshtein) of two short words; long ones are simply far apart.
fn distance(left: &str, right: &str) -> usize {
    const LONGEST: usize = 64;
    if left.len() > LONGEST || right.len() > LONGEST {
        return LONGEST;
    }
    let right: Vec<char> = right.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A key as a path shows it: quoted if it would not stand bare in TOML.
fn shown_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare && key.len() <= 64 { key.to_owned() } else { values::quoted(key) }
}

/// A value of the wrong type as an error shows it.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("string {}", values::quoted(text)),
        DeValue::Integer(number) if number.as_str().len() <= 24 => format!("integer {number}"),
        DeValue::Float(number) if number.as_str().len() <= 24 => format!("float {number}"),
        DeValue::Boolean(value) => format!("boolean {value}"),
        other => format!(
            "{} {}",
            if other.is_array() || other.is_integer() { "an" } else { "a" },
            other.type_str()
        ),
    }
}
