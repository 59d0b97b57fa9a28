//! How errors show what the file says: nothing from it reaches a terminal unescaped or at full length.

use toml::de::DeValue;

use super::values;

/// `, did you mean ...?` if one of the words is close to what was written.
pub(super) fn did_you_mean<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> String {
    let near = words.map(|word| (distance(written, word), word)).min();
    match near {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => format!(", did you mean `{word}`?"),
        _ => String::new(),
    }
}

/// A key as a path shows it: quoted if it would not stand bare in TOML.
pub(super) fn shown_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare && key.len() <= 64 { key.to_owned() } else { values::quoted(key) }
}

/// A number as an error shows it. The parser leaves it to us whether the text of a number is one.
pub(super) fn shown_number(text: &str) -> String {
    let plain = text.len() <= 24 && text.bytes().all(|b| b.is_ascii_graphic());
    if plain { text.to_owned() } else { values::quoted(text) }
}

/// A value of the wrong type as an error shows it.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("string {}", values::quoted(text)),
        DeValue::Integer(number) => format!("integer {}", shown_number(&number.to_string())),
        DeValue::Float(number) => format!("float {}", shown_number(&number.to_string())),
        DeValue::Boolean(value) => format!("boolean {value}"),
        other => format!("{} {}", if other.is_array() { "an" } else { "a" }, other.type_str()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_pointed_out() {
        let hint = |written: &str| did_you_mean(written, ["address", "name", "max_connections"].into_iter());
        assert_eq!(hint("adress"), ", did you mean `address`?");
        assert_eq!(hint("Name"), ", did you mean `name`?");
        assert_eq!(hint("max-conections"), ", did you mean `max_connections`?");
        assert_eq!(hint("colour"), "");
        assert_eq!(hint(""), "");
        assert_eq!(hint(&"x".repeat(100_000)), "");
    }

    #[test]
    fn keys_and_numbers_are_escaped_and_cut() {
        assert_eq!(shown_key("max_connections"), "max_connections");
        assert_eq!(shown_key("a b"), "\"a b\"");
        assert_eq!(shown_key(""), "\"\"");
        assert_eq!(shown_number("0x10"), "0x10");
        assert_eq!(shown_number("1\u{1b}"), "\"1\\u{1b}\"");
    }
}
