#![no_main]
//! A request head is judged the same however it arrives, and an accepted one means the same when written anew.

mod head;

use libfuzzer_sys::fuzz_target;
use ouro::{
    base::{
        http::{BodyLength, FieldKind, Fields, Method, RequestHead, Scheme, Version},
        limits,
    },
    h1::{HeadLimits, Parsed, RequestError, parse_request},
};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 512, headers: 12 };

fuzz_target!(|data: &[u8]| {
    let mut fields = Fields::new();
    let whole = parse_request(data, LIMITS, &mut fields);

    // However it is split: what is accepted whole is never refused early, and the other way round.
    let mut early_fields = Fields::new();
    for end in 0..data.len() {
        match (parse_request(&data[..end], LIMITS, &mut early_fields), &whole) {
            (Ok(Parsed::Partial), _) => assert!(end < LIMITS.head_bytes),
            (Ok(Parsed::Complete { len: early, .. }), Ok(Parsed::Complete { len, .. })) => {
                assert!(early == *len && end >= early);
                assert_eq!(head::meaning(data, &early_fields), head::meaning(data, &fields));
            }
            (Err(_), Err(_)) => break,
            (early, whole) => panic!("{end} of {} bytes: {early:?}, whole: {whole:?}", data.len()),
        }
    }

    match whole {
        Err(error) => check_error(error),
        Ok(Parsed::Partial) => assert!(data.len() < LIMITS.head_bytes),
        Ok(Parsed::Complete { head, len }) => {
            assert!(len <= LIMITS.head_bytes && fields.len() <= LIMITS.headers);
            head::check(&data[..len], limits::LEADING_EMPTY_LINES, &fields);
            check_accepted(&data[..len], &head, &fields);
            check_written(&data[..len], &head, &fields);
        }
    }
});

fn check_error(error: RequestError) {
    assert!(matches!(error.status(), 400 | 414 | 417 | 431 | 501 | 505));
    assert!(error.reason().ends_with('.'));
}

fn check_accepted(text: &[u8], head: &RequestHead, fields: &Fields) {
    assert!(head.method != Method::Connect && head.body != BodyLength::UntilClose);
    let hosts = fields.iter().filter(|field| field.kind == FieldKind::Host).count();
    assert!(hosts == 1 || (hosts == 0 && head.version == Version::Http10));
    assert!(hosts == 0 || !head.authority.is_empty());
    assert!(!head.authority.of(text).iter().any(|byte| matches!(byte, b'@' | b'/' | b',' | b' ' | b'\t')));
    match head.path.of(text) {
        b"" => assert!(head.target_scheme.is_some()),
        b"*" => assert!(head.method == Method::Options && head.target_scheme.is_none()),
        path => assert!(path[0] == b'/' && path.iter().all(u8::is_ascii_graphic) && !path.contains(&b'#')),
    }
    let has = |kind| fields.iter().any(|field| field.kind == kind);
    assert_eq!(head.body == BodyLength::Chunked, has(FieldKind::TransferEncoding));
    assert_eq!(matches!(head.body, BodyLength::Known(_)), has(FieldKind::ContentLength));
    if head.upgrade.is_some() {
        assert!(matches!(head.body, BodyLength::None | BodyLength::Known(0)) && has(FieldKind::Connection));
    }
    for field in fields.iter().filter(|field| field.named_by_connection) {
        assert!(!matches!(
            field.kind,
            FieldKind::Host | FieldKind::ContentLength | FieldKind::TransferEncoding
        ));
    }
}

fn check_written(text: &[u8], head: &RequestHead, fields: &Fields) {
    let mut written = Vec::new();
    written.extend_from_slice(head.method_text.of(text));
    written.push(b' ');
    if let Some(scheme) = head.target_scheme {
        written.extend_from_slice(if scheme == Scheme::Http { b"http://" } else { b"https://" });
        written.extend_from_slice(head.authority.of(text));
    }
    written.extend_from_slice(head.path.of(text));
    written.extend_from_slice(if head.version == Version::Http10 {
        b" HTTP/1.0\r\n"
    } else {
        b" HTTP/1.1\r\n"
    });
    head::write_fields(&mut written, text, fields);

    let mut again_fields = Fields::new();
    // A space behind every colon makes a head longer.
    let limits = HeadLimits { head_bytes: 2 * LIMITS.head_bytes, ..LIMITS };
    let Ok(Parsed::Complete { head: again, len }) = parse_request(&written, limits, &mut again_fields) else {
        panic!("refused when written anew: {}", written.escape_ascii());
    };
    assert_eq!(len, written.len());
    assert_eq!(again.method_text.of(&written), head.method_text.of(text));
    assert_eq!(again.path.of(&written), head.path.of(text));
    assert_eq!(again.authority.of(&written), head.authority.of(text));
    assert_eq!(
        (
            again.method,
            again.version,
            again.target_scheme,
            again.body,
            again.keep_alive,
            again.expect_continue
        ),
        (head.method, head.version, head.target_scheme, head.body, head.keep_alive, head.expect_continue),
    );
    assert_eq!(again.upgrade.map(|span| span.of(&written)), head.upgrade.map(|span| span.of(text)));
    assert_eq!(head::meaning(&written, &again_fields), head::meaning(text, fields));
}
