#![no_main]
//! A response head is judged the same however it arrives, and an accepted one means the same when written anew.

mod head;

use libfuzzer_sys::fuzz_target;
use ouro::{
    base::http::{BodyLength, FieldKind, Fields, Method, ResponseHead},
    h1::{HeadLimits, Parsed, parse_response, write_status_line},
};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 512, headers: 12 };

fuzz_target!(|data: &[u8]| {
    for method in [Method::Get, Method::Head] {
        let mut fields = Fields::new();
        let whole = parse_response(data, method, LIMITS, &mut fields);

        let mut early_fields = Fields::new();
        for end in 0..data.len() {
            match (parse_response(&data[..end], method, LIMITS, &mut early_fields), &whole) {
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
            Err(error) => assert!(error.reason().ends_with('.')),
            Ok(Parsed::Partial) => assert!(data.len() < LIMITS.head_bytes),
            Ok(Parsed::Complete { head, len }) => {
                assert!(len <= LIMITS.head_bytes && fields.len() <= LIMITS.headers);
                head::check(&data[..len], 0, &fields);
                check_accepted(method, &head, &fields);
                check_written(&data[..len], method, &head, &fields);
            }
        }
    }
});

fn check_accepted(method: Method, head: &ResponseHead, fields: &Fields) {
    assert!((100..=599).contains(&head.status));
    let bodiless = method == Method::Head || matches!(head.status, 100..=199 | 204 | 304);
    assert_eq!(bodiless, head.body == BodyLength::None);
    assert!(head.body != BodyLength::UntilClose || !head.keep_alive);
    let has = |kind| fields.iter().any(|field| field.kind == kind);
    if !bodiless {
        assert_eq!(head.body == BodyLength::Chunked, has(FieldKind::TransferEncoding));
        assert_eq!(matches!(head.body, BodyLength::Known(_)), has(FieldKind::ContentLength));
        assert_eq!(head.declared_length, None);
    }
}

fn check_written(text: &[u8], method: Method, head: &ResponseHead, fields: &Fields) {
    let mut written = Vec::new();
    write_status_line(&mut written, head.version, head.status, head.reason.of(text));
    head::write_fields(&mut written, text, fields);

    let mut again_fields = Fields::new();
    let limits = HeadLimits { head_bytes: 2 * LIMITS.head_bytes, ..LIMITS };
    let Ok(Parsed::Complete { head: again, len }) =
        parse_response(&written, method, limits, &mut again_fields)
    else {
        panic!("refused when written anew: {}", written.escape_ascii());
    };
    assert_eq!(len, written.len());
    assert_eq!(again.reason.of(&written), head.reason.of(text));
    assert_eq!(
        (again.status, again.version, again.body, again.keep_alive, again.declared_length),
        (head.status, head.version, head.body, head.keep_alive, head.declared_length),
    );
    assert_eq!(again.upgrade.map(|span| span.of(&written)), head.upgrade.map(|span| span.of(text)));
    assert_eq!(head::meaning(&written, &again_fields), head::meaning(text, fields));
}
