use super::*;
use crate::base::random::Random;

const MOST: usize = 32;

/// What is found in a head, as text, and its length.
type Found = Result<(Vec<Vec<u8>>, usize), Stop>;

fn request(head: &[u8]) -> Found {
    let mut fields = Vec::new();
    let line = request_line(head, 0)?;
    let end = field_section(head, line.end, MOST, &mut fields)?;
    let version = if line.version == Version::Http10 { b"0" } else { b"1" };
    let start = [line.method.of(head).to_vec(), line.target.of(head).to_vec(), version.to_vec()];
    Ok((start.into_iter().chain(texts(head, &fields)).collect(), end))
}

fn response(head: &[u8]) -> Found {
    let mut fields = Vec::new();
    let line = status_line(head)?;
    let end = field_section(head, line.end, MOST, &mut fields)?;
    let version = if line.version == Version::Http10 { b"0" } else { b"1" };
    let start = [line.status.to_string().into_bytes(), line.reason.of(head).to_vec(), version.to_vec()];
    Ok((start.into_iter().chain(texts(head, &fields)).collect(), end))
}

fn texts(head: &[u8], fields: &[Field]) -> Vec<Vec<u8>> {
    fields.iter().flat_map(|field| [field.name(head).to_vec(), field.value(head).to_vec()]).collect()
}

/// The same by another parser, which is more tolerant.
fn request_by_another(head: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut lines = [httparse::EMPTY_HEADER; MOST];
    let mut request = httparse::Request::new(&mut lines);
    let Ok(httparse::Status::Complete(len)) = request.parse(head) else { return None };
    let start = [request.method?.into(), request.path?.into(), request.version?.to_string().into_bytes()];
    Some((start.into_iter().chain(texts_by_another(request.headers)).collect(), len))
}

fn response_by_another(head: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut lines = [httparse::EMPTY_HEADER; MOST];
    let mut response = httparse::Response::new(&mut lines);
    let Ok(httparse::Status::Complete(len)) = response.parse(head) else { return None };
    let status = response.code?.to_string().into_bytes();
    let start = [status, response.reason?.into(), response.version?.to_string().into_bytes()];
    Some((start.into_iter().chain(texts_by_another(response.headers)).collect(), len))
}

fn texts_by_another(lines: &[httparse::Header<'_>]) -> Vec<Vec<u8>> {
    lines.iter().flat_map(|line| [line.name.as_bytes().to_vec(), line.value.to_vec()]).collect()
}

/// Changes a few places of a text.
fn change(text: &mut Vec<u8>, random: &mut Random) {
    const BYTES: &[u8] = b"\r\n\r\n\t  ::\0\x1f\x7f\x80\xff#,/-_aZ09.HTTP/1@[]\"(!~";
    for _ in 0..random.below(4) {
        let at = random.below(text.len());
        match random.below(6) {
            0 => text[at] = BYTES[random.below(BYTES.len())],
            1 => text.insert(at, BYTES[random.below(BYTES.len())]),
            2 if text.len() > 1 => drop(text.remove(at)),
            3 => {
                let part = text[at..(at + random.below(40)).min(text.len())].to_vec();
                let to = random.below(text.len());
                text.splice(to..to, part);
            }
            4 => text.truncate(at.max(1)),
            _ => text[at] = (random.next_u64() >> 56) as u8,
        }
    }
}

/// Whether there is something in this text that the other parser takes and this one does not: a line that ends with LF alone, empty
/// lines before the first one, a target that is not printable ASCII.
fn is_tolerated(head: &[u8]) -> bool {
    let is_bare =
        |(at, byte): (usize, &u8)| *byte == b'\n' && at.checked_sub(1).is_none_or(|at| head[at] != b'\r');
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    head.iter().enumerate().any(is_bare)
        || head.starts_with(b"\r\n")
        || !line.is_ascii()
        || line.contains(&0x7f)
}

#[test]
fn another_parser_finds_the_same() {
    let requests: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /a?b=c HTTP/1.0\r\nhost: example.com:80\r\nContent-Length: 5\r\nx_y.z!1: \t a \t\r\nE:\r\nF: \r\n\r\nhello",
        b"OPTIONS * HTTP/1.1\r\nA-very-long-name-of-a-field: and a very long value \xe2\x82\xac of it\r\nHost: [::1]\r\n\r\n",
    ];
    let responses: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 404\r\nDate: Sun, 22 Nov 2026 03:00:00 GMT\r\n\r\nbody",
        b"HTTP/1.1 599 \r\na: b\r\n\r\n",
    ];
    let mut random = Random::new(7);
    let mut accepted = [0, 0];
    for n in 0..60_000 {
        let is_request = n % 2 == 0;
        let texts = if is_request { requests } else { responses };
        let mut head = texts[random.below(texts.len())].to_vec();
        change(&mut head, &mut random);
        let (ours, theirs) = if is_request {
            (request(&head), request_by_another(&head))
        } else {
            (response(&head), response_by_another(&head))
        };
        match (ours, theirs) {
            (Ok((mut ours, len)), theirs) => {
                // The other parser does not show a reason with bytes above ASCII.
                if !is_request && !ours[1].is_ascii() {
                    ours[1].clear();
                }
                assert_eq!(Some((ours, len)), theirs, "{}", head.escape_ascii());
                accepted[usize::from(is_request)] += 1;
            }
            (Err(_), None) => {}
            (Err(stop), Some(_)) => assert!(is_tolerated(&head), "{stop:?} for {}", head.escape_ascii()),
        }
    }
    assert!(accepted.iter().all(|count| *count > 5_000), "{accepted:?}");
}

/// The last byte of this text is the one that is wrong.
fn assert_stop(pass: fn(&[u8]) -> Found, text: &[u8], stop: Stop) {
    assert_eq!(pass(text).err(), Some(stop), "{}", text.escape_ascii());
    assert_eq!(pass(&text[..text.len() - 1]).err(), Some(Stop::Partial), "{}", text.escape_ascii());
}

/// What is right as a whole is never wrong in part, and what is wrong is wrong as soon as the byte is there.
#[test]
fn a_pass_stops_where_the_text_ends_or_goes_wrong() {
    let head = b"PUT /x HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(request(&head[..end]).err(), Some(Stop::Partial), "{end} bytes");
    }
    for (text, stop) in [
        (&b" "[..], Stop::FirstLine),
        (b"GET\t", Stop::FirstLine),
        (b"GET  ", Stop::FirstLine),
        (b"GET /\r", Stop::FirstLine),
        (b"GET /\x80", Stop::FirstLine),
        (b"GET / HTTP/2", Stop::FirstLine),
        (b"GET / HTTP/1.2", Stop::FirstLine),
        (b"GET / HTTP/1.1\n", Stop::FirstLine),
        (b"GET / HTTP/1.1\rx", Stop::FirstLine),
        (b"GET / HTTP/1.1\r\n:", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\n ", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\n\n", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\n\rx", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\na ", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\na\r", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\na: b\n", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\na: b\rx", Stop::FieldLine),
        (b"GET / HTTP/1.1\r\na: \0", Stop::FieldLine),
    ] {
        assert_stop(request, text, stop);
    }
    for (text, stop) in [
        (&b"h"[..], Stop::FirstLine),
        (b"HTTP/1.1\r", Stop::FirstLine),
        (b"HTTP/1.1 2x", Stop::FirstLine),
        (b"HTTP/1.1 200\t", Stop::FirstLine),
        (b"HTTP/1.1 2000", Stop::FirstLine),
        (b"HTTP/1.1 200\n", Stop::FirstLine),
        (b"HTTP/1.1 200 O\n", Stop::FirstLine),
        (b"HTTP/1.1 200\rx", Stop::FirstLine),
        (b"HTTP/1.1 200 \0", Stop::FirstLine),
        (b"HTTP/1.1 200 OK\r\n\rx", Stop::FieldLine),
    ] {
        assert_stop(response, text, stop);
    }
}

#[test]
fn fields_are_counted() {
    let head = b"GET / HTTP/1.1\r\na: b\r\nc: d\r\n\r\n";
    let start = request_line(head, 0).unwrap().end;
    for (most, expected) in
        [(2, Ok(head.len())), (1, Err(Stop::TooManyFields)), (0, Err(Stop::TooManyFields))]
    {
        let mut fields = Vec::new();
        assert_eq!(field_section(head, start, most, &mut fields), expected);
        assert_eq!(fields.len(), most.min(2));
    }
}
