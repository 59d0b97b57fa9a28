#![no_main]
//! A chunked body is decoded the same however it is split, agrees with a reader that sees all of it at once, and
//! decodes to the same when encoded anew.

use libfuzzer_sys::fuzz_target;
use ouro::{
    base::http::BodyLength,
    h1::{BodyDecoder, BodyError, Decoded, write_chunk_header},
};

fuzz_target!(|data: &[u8]| {
    let whole = decode(data, std::iter::repeat(usize::MAX));
    assert_eq!(decode(data, std::iter::repeat(1)), whole);
    // Pieces whose sizes come from the data itself, so that any split can be found.
    assert_eq!(
        decode(data, data.iter().map(|byte| usize::from(*byte % 16)).chain(std::iter::repeat(3))),
        whole
    );
    assert_eq!(decode(data, [data.len() / 2, data.len() / 3, usize::MAX].into_iter()), whole);

    let bounded = matches!(
        whole,
        Err(BodyError::ChunkLineTooLong | BodyError::TooManyChunkExtensions | BodyError::TrailerTooLarge)
    );
    match reference(data) {
        Some((content, used)) if !bounded => {
            let whole = whole.as_ref().expect("refused, but well-formed");
            assert!(whole.done);
            assert_eq!((&whole.content, whole.used), (&content, used));
        }
        Some(_) => {}
        None => assert!(!whole.as_ref().is_ok_and(|body| body.done), "accepted, but malformed"),
    }

    if let Ok(body) = &whole
        && body.done
    {
        let mut written = Vec::new();
        for piece in body.content.chunks(17) {
            write_chunk_header(&mut written, piece.len());
            written.extend_from_slice(piece);
            written.extend_from_slice(b"\r\n");
        }
        write_chunk_header(&mut written, 0);
        written.extend_from_slice(body.trailers.as_deref().unwrap_or_default());
        written.extend_from_slice(b"\r\n");
        let again = decode(&written, std::iter::repeat(5)).expect("refused when encoded anew");
        assert!(again.done && again.used == written.len());
        assert_eq!((&again.content, &again.trailers), (&body.content, &body.trailers));
    }
});

#[derive(Debug, Default, PartialEq)]
struct Body {
    content: Vec<u8>,
    /// Bytes that belong to the body.
    used: usize,
    done: bool,
    trailers: Option<Vec<u8>>,
}

/// Feeds the decoder pieces of the given sizes.
fn decode(data: &[u8], mut sizes: impl Iterator<Item = usize>) -> Result<Body, BodyError> {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    let mut body = Body::default();
    let mut received = 0;
    while !body.done {
        if body.used == received && received == data.len() {
            break;
        }
        received = received.saturating_add(sizes.next().unwrap_or(usize::MAX)).min(data.len());
        loop {
            let input = &data[body.used..received];
            match decoder.decode(input)? {
                Decoded::Data { skip, len } => {
                    assert!(len > 0);
                    body.content.extend_from_slice(&input[skip..skip + len]);
                    body.used += skip + len;
                }
                Decoded::NeedMore { skip } => {
                    assert!(skip == input.len() && !decoder.is_done());
                    body.used += skip;
                    break;
                }
                Decoded::End { skip } => {
                    body.used += skip;
                    body.done = true;
                    break;
                }
            }
        }
        assert_eq!(decoder.is_done(), body.done);
    }
    assert_eq!(decoder.on_eof().is_ok(), body.done);
    body.trailers = decoder.take_trailers();
    Ok(body)
}

/// Reads a body that is all there, the plain way. `None` where it is malformed or not complete.
fn reference(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut rest = data;
    let mut content = Vec::new();
    loop {
        let line = line(&mut rest)?;
        let size = match line.iter().position(|byte| *byte == b';') {
            Some(end) => &line[..end],
            None => line,
        };
        if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let line = line(&mut rest)?;
        if line.is_empty() {
            return Some((content, data.len() - rest.len()));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
        if colon == 0 || !line[..colon].iter().all(token) {
            return None;
        }
    }
}

/// A line ended with CR LF and free of control characters.
fn line<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()).then_some(line)
}
