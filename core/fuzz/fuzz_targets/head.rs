//! What every accepted head must be, whichever parser accepted it. Written without the parser's own helpers.

use ouro::base::http::{Field, FieldKind};

/// Checks the lines of a head against the bare grammar, and the table against the lines.
pub fn check(head: &[u8], empty_lines_allowed: usize, fields: &[Field]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    let text = &head[..head.len() - 4];
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    let empty = lines.iter().take_while(|line| line.is_empty()).count();
    assert!(empty <= empty_lines_allowed);
    let lines = &lines[empty..];
    for line in lines {
        assert!(!line.is_empty());
        assert!(!line[0].is_ascii_whitespace());
        assert!(line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()));
    }
    assert_eq!(lines.len(), fields.len() + 1);
    for (line, field) in lines[1..].iter().zip(fields) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap();
        assert_eq!(field.name(head), &line[..colon]);
        assert_eq!(field.value(head), line[colon + 1..].trim_ascii());
        assert_eq!(field.kind, FieldKind::of(&line[..colon]));
    }
    let count = |kind| fields.iter().filter(|field| field.kind == kind).count();
    assert!(count(FieldKind::ContentLength) + count(FieldKind::TransferEncoding) <= 1);
}

/// The fields as we would write them.
pub fn write_fields(out: &mut Vec<u8>, head: &[u8], fields: &[Field]) {
    for field in fields {
        out.extend_from_slice(field.name(head));
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value(head));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Name, value, meaning.
pub type Meaning<'b> = (&'b [u8], &'b [u8], FieldKind, bool);

/// What the fields mean, wherever they lie.
pub fn meaning<'b>(head: &'b [u8], fields: &[Field]) -> Vec<Meaning<'b>> {
    fields
        .iter()
        .map(|field| (field.name(head), field.value(head), field.kind, field.named_by_connection))
        .collect()
}
