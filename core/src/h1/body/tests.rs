use super::*;
use crate::h1::HeadError;

/// Everything that a decoder says of some input, given in pieces.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    data: Vec<u8>,
    /// Bytes that belong to the body, framing included.
    used: usize,
    done: bool,
    trailers: Option<Vec<u8>>,
}

fn read<'b>(length: BodyLength, pieces: impl IntoIterator<Item = &'b [u8]>) -> Result<Read, BodyError> {
    let mut decoder = BodyDecoder::new(length);
    let mut read = Read::default();
    for mut piece in pieces {
        loop {
            // A stored decoder goes on as the one that it was made from.
            decoder = decoder.clone();
            match decoder.decode(piece)? {
                Decoded::Data { skip, len } => {
                    assert!(len > 0);
                    read.data.extend_from_slice(&piece[skip..skip + len]);
                    read.used += skip + len;
                    piece = &piece[skip + len..];
                }
                Decoded::NeedMore { skip } => {
                    assert_eq!(skip, piece.len());
                    assert!(!decoder.is_done());
                    read.used += skip;
                    break;
                }
                Decoded::End { skip } => {
                    assert!(decoder.is_done());
                    read.used += skip;
                    break;
                }
            }
        }
    }
    read.done = decoder.is_done();
    read.trailers = decoder.take_trailers();
    Ok(read)
}

fn whole(input: &[u8]) -> Result<Read, BodyError> {
    read(BodyLength::Chunked, [input])
}

#[test]
fn bodies_of_known_length_end_by_count() {
    for (length, input, data) in [
        (BodyLength::None, &b"abc"[..], &b""[..]),
        (BodyLength::Known(0), b"abc", b""),
        (BodyLength::Known(2), b"abc", b"ab"),
        (BodyLength::Known(3), b"abc", b"abc"),
    ] {
        let expected = Read { data: data.to_vec(), used: data.len(), done: true, trailers: None };
        assert_eq!(read(length, [input]), Ok(expected));
    }
    let mut decoder = BodyDecoder::new(BodyLength::Known(u64::MAX));
    assert_eq!(decoder.decode(b"abc"), Ok(Decoded::Data { skip: 0, len: 3 }));
    assert_eq!(decoder.remaining_known(), Some(u64::MAX - 3));
    assert_eq!(decoder.decode(b""), Ok(Decoded::NeedMore { skip: 0 }));
    assert_eq!(decoder.on_eof(), Err(BodyError::Truncated));
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let mut decoder = BodyDecoder::new(BodyLength::UntilClose);
    assert_eq!(decoder.decode(b"abc"), Ok(Decoded::Data { skip: 0, len: 3 }));
    assert_eq!(decoder.decode(b""), Ok(Decoded::NeedMore { skip: 0 }));
    assert_eq!(decoder.remaining_known(), None);
    assert_eq!(decoder.on_eof(), Ok(()));
    assert!(decoder.is_done());
    assert_eq!(decoder.remaining_known(), Some(0));
    assert_eq!(decoder.decode(b"abc"), Ok(Decoded::End { skip: 0 }));
}

#[test]
fn chunked_bodies_are_taken_apart() {
    for (input, data, trailers) in [
        (&b"0\r\n\r\n"[..], &b""[..], None),
        (b"0000000000000000\r\n\r\n", b"", None),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc", None),
        (b"1\r\na\r\n02\r\nbc\r\n0\r\n\r\n", b"abc", None),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", None),
        (b"0000000000000003\r\nabc\r\n0\r\n\r\n", b"abc", None),
        (b"3\r\n\r\n0\r\n0\r\n\r\n", b"\r\n0", None),
        (b"3;\r\nabc\r\n0;x\r\n\r\n", b"abc", None),
        (b"3;a=b;c=\"d ; e\"\t\xff\r\nabc\r\n0\r\n\r\n", b"abc", None),
        (b"0\r\nA: b\r\n\r\n", b"", Some(&b"A: b\r\n"[..])),
        (b"0\r\nA: b\r\nC:d\r\n\r\n", b"", Some(b"A: b\r\nC:d\r\n")),
        (b"0\r\nHost: x\r\nA: b\r\nContent-Length: 5\r\n\r\n", b"", Some(b"A: b\r\n")),
        (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"", None),
    ] {
        for follow in [&b""[..], b"GET / HTTP/1.1\r\n"] {
            let expected = Read {
                data: data.to_vec(),
                used: input.len(),
                done: true,
                trailers: trailers.map(<[u8]>::to_vec),
            };
            let text = [input, follow].concat();
            assert_eq!(whole(&text), Ok(expected), "{}", input.escape_ascii());
        }
    }
}

#[test]
fn framing_and_data_come_in_as_few_steps_as_possible() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    let input = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nX";
    assert_eq!(decoder.decode(input), Ok(Decoded::Data { skip: 3, len: 3 }));
    assert_eq!(decoder.decode(&input[6..]), Ok(Decoded::Data { skip: 5, len: 2 }));
    assert_eq!(decoder.decode(&input[13..]), Ok(Decoded::End { skip: 7 }));
    assert_eq!(decoder.decode(&input[20..]), Ok(Decoded::End { skip: 0 }));
}

#[test]
fn malformed_framing_is_refused() {
    for (input, error) in [
        (&b"\r\n"[..], BodyError::BadChunkSize),
        (b"\n", BodyError::BadChunkSize),
        (b";a\r\n", BodyError::BadChunkSize),
        (b" 3\r\nabc\r\n", BodyError::BadChunkSize),
        (b"3 \r\nabc\r\n", BodyError::BadChunkSize),
        (b"3 ;a\r\nabc\r\n", BodyError::BadChunkSize),
        (b"3\t\r\nabc\r\n", BodyError::BadChunkSize),
        (b"+3\r\nabc\r\n", BodyError::BadChunkSize),
        (b"-3\r\nabc\r\n", BodyError::BadChunkSize),
        (b"0x3\r\nabc\r\n", BodyError::BadChunkSize),
        (b"3h\r\nabc\r\n", BodyError::BadChunkSize),
        (b"3,\r\nabc\r\n", BodyError::BadChunkSize),
        (b"3\0\r\nabc\r\n", BodyError::BadChunkSize),
        (b"g\r\n", BodyError::BadChunkSize),
        (b"00000000000000003\r\nabc\r\n", BodyError::BadChunkSize),
        (b"10000000000000000\r\n", BodyError::BadChunkSize),
        (b"fffffffffffffffff\r\n", BodyError::BadChunkSize),
        (b"3\nabc\r\n", BodyError::BadLineEnd),
        (b"3\r\r\nabc\r\n", BodyError::BadLineEnd),
        (b"3\rabc\r\n", BodyError::BadLineEnd),
        (b"3;a\nabc\r\n", BodyError::BadLineEnd),
        (b"3;a\r\rabc", BodyError::BadLineEnd),
        (b"3;a\0\r\nabc\r\n", BodyError::BadChunkExtension),
        (b"3;a\x7f\r\nabc\r\n", BodyError::BadChunkExtension),
        (b"3\r\nabcd\r\n", BodyError::BadLineEnd),
        (b"3\r\nabc\n", BodyError::BadLineEnd),
        (b"3\r\nabc\rX", BodyError::BadLineEnd),
        (b"3\r\nabc0\r\n\r\n", BodyError::BadLineEnd),
        (b"3\r\nabc\r\n\r\n0\r\n\r\n", BodyError::BadChunkSize),
        (b"0\r\n\n", BodyError::BadLineEnd),
        (b"0\r\n\rX", BodyError::BadLineEnd),
        (b"0\r\nA: b\n\r\n", BodyError::BadLineEnd),
        (b"0\r\nA: b\r\n\n", BodyError::BadLineEnd),
        (b"0\r\nA: b\rc\r\n\r\n", BodyError::BadTrailer(HeadError::BareCr)),
        (b"0\r\nA: b\r\n c\r\n\r\n", BodyError::BadTrailer(HeadError::FoldedField)),
        (b"0\r\nA : b\r\n\r\n", BodyError::BadTrailer(HeadError::SpaceBeforeColon)),
        (b"0\r\n: b\r\n\r\n", BodyError::BadTrailer(HeadError::EmptyFieldName)),
        (b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyError::BadTrailer(HeadError::MissingColon)),
        (b"0\r\nA: \0\r\n\r\n", BodyError::BadTrailer(HeadError::BadFieldValue)),
        (b"0\r\nHost : b\r\n\r\n", BodyError::BadTrailer(HeadError::SpaceBeforeColon)),
    ] {
        assert_eq!(whole(input), Err(error), "{}", input.escape_ascii());
        assert_eq!(read(BodyLength::Chunked, input.chunks(1)), Err(error), "{}", input.escape_ascii());
    }
}

#[test]
fn the_largest_chunk_has_64_bits() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    assert_eq!(decoder.decode(b"FFFFffffFFFFffff\r\nabc"), Ok(Decoded::Data { skip: 18, len: 3 }));
    assert_eq!(decoder.remaining, u64::MAX - 3);
}

#[test]
fn a_chunked_body_cut_short_is_an_error() {
    let input = b"3;x\r\nabc\r\n0\r\nA: b\r\n\r\n";
    for end in 0..input.len() {
        let mut decoder = BodyDecoder::new(BodyLength::Chunked);
        let mut rest = &input[..end];
        while let Ok(Decoded::Data { skip, len }) = decoder.decode(rest) {
            rest = &rest[skip + len..];
        }
        assert_eq!(decoder.on_eof(), Err(BodyError::Truncated), "{end}");
        assert_eq!(decoder.take_trailers(), None, "not before the end");
    }
}

#[test]
fn extensions_are_bounded_per_line_and_per_body() {
    let line = |extension: usize| format!("1;{}\r\nx\r\n", "e".repeat(extension - 1)).into_bytes();
    let longest = limits::CHUNK_LINE_BYTES - 1;
    assert!(whole(&line(longest)).is_ok());
    assert_eq!(whole(&line(longest + 1)), Err(BodyError::ChunkLineTooLong));
    let lines = limits::CHUNK_EXTENSIONS_BYTES / longest;
    assert!(whole(&line(longest).repeat(lines)).is_ok());
    assert_eq!(whole(&line(longest).repeat(lines + 1)), Err(BodyError::TooManyChunkExtensions));
    assert!(whole(&b"1\r\nx\r\n".repeat(100_000)).is_ok(), "chunks without extensions are not bounded");
}

#[test]
fn trailers_are_bounded_even_where_they_are_dropped() {
    for name in ["A", "Host"] {
        let room = limits::TRAILER_BYTES - name.len() - 4;
        let text = |len: usize| format!("0\r\n{name}: {}\r\n\r\n", "v".repeat(len)).into_bytes();
        assert!(whole(&text(room)).is_ok());
        assert_eq!(whole(&text(room + 1)), Err(BodyError::TrailerTooLarge));
        assert_eq!(read(BodyLength::Chunked, text(room + 1).chunks(7)), Err(BodyError::TrailerTooLarge));
        assert_eq!(whole(&text(100_000)), Err(BodyError::TrailerTooLarge));
        let many = [b"0\r\n".as_slice(), &format!("{name}:\r\n").into_bytes().repeat(5000)].concat();
        assert_eq!(whole(&many), Err(BodyError::TrailerTooLarge));
    }
}

#[test]
fn memory_is_taken_for_trailers_only() {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    for byte in b"0;ext\r\n\r\n".chunks(1) {
        decoder.decode(byte).unwrap();
    }
    assert!(decoder.is_done());
    assert_eq!(decoder.trailer.capacity(), 0);
}

#[test]
fn the_input_may_be_split_anywhere() {
    let input =
        b"5;e=\"1\"\r\nhello\r\n1\r\n\r\r\n0b\r\n01234567890\r\n0\r\nA: b\r\nHost: c\r\nD:\te\r\n\r\nGET /";
    let expected = whole(input).unwrap();
    assert_eq!(expected.data, b"hello\r01234567890");
    assert_eq!(expected.trailers.as_deref(), Some(&b"A: b\r\nD:\te\r\n"[..]));
    for first in 0..=input.len() {
        for second in first..=input.len() {
            let pieces = [&input[..first], &input[first..second], &input[second..]];
            assert_eq!(read(BodyLength::Chunked, pieces).as_ref(), Ok(&expected), "{first} {second}");
        }
    }
    for size in 1..input.len() {
        assert_eq!(read(BodyLength::Chunked, input.chunks(size)).as_ref(), Ok(&expected), "{size}");
    }
}

#[test]
fn a_decoder_goes_on_elsewhere_after_each_byte() {
    let input = b"5;e=1\r\nhello\r\n0\r\nA: b\r\nD: e\r\n\r\n";
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    for (at, byte) in input.iter().enumerate() {
        decoder.decode(&[*byte]).unwrap();
        let restored = BodyDecoder::from_state(decoder.state());
        assert_eq!(restored.as_ref(), Some(&decoder), "after {at}");
        decoder = restored.unwrap();
    }
    assert_eq!(decoder.take_trailers().as_deref(), Some(&b"A: b\r\nD: e\r\n"[..]));
    // The trailers are gone, and there is nothing left to do.
    assert_eq!(BodyDecoder::from_state(decoder.state()), Some(decoder));
}
