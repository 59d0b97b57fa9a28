//! What the built-in origin answers to HTTP requests.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use memchr::memmem;

use super::{Output, WRONG_EVERY, Wrong};
use crate::content;

/// Longest request head, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Fields of every answer, beside its length.
const FIELDS: &str = "Server: bench\r\nContent-Type: text/plain\r\n";

/// The bodies that there are.
pub(super) struct Pages {
    bodies: HashMap<usize, Arc<[u8]>>,
    wrong: Option<Wrong>,
    answers: Cell<u64>,
}

impl Pages {
    pub(super) fn new(wrong: Option<Wrong>) -> Self {
        let lengths = [content::SMALL, content::MEDIUM, content::LARGE];
        Self {
            bodies: lengths.into_iter().map(|length| (length, content::body(length))).collect(),
            wrong,
            answers: Cell::new(0),
        }
    }

    /// How the next answer is to be wrong.
    fn wrong_now(&self) -> Option<Wrong> {
        self.answers.set(self.answers.get() + 1);
        self.wrong.filter(|_| self.answers.get().is_multiple_of(WRONG_EVERY))
    }

    fn answer(&self, body: &Arc<[u8]>, out: &mut Output) {
        let mut body = Arc::clone(body);
        let mut status = "200 OK";
        let mut length = body.len();
        match self.wrong_now() {
            None => {}
            Some(Wrong::Status) => status = "500 Internal Server Error",
            Some(Wrong::Length) => {
                body = body[1..].into();
                length = body.len();
            }
            Some(Wrong::Content) => {
                let mut other = body.to_vec();
                let middle = other.len() / 2;
                other[middle] ^= 1;
                body = other.into();
            }
            Some(Wrong::Closed) => {
                body = body[..length / 2].into();
                out.close = true;
            }
        }
        let head = format!("HTTP/1.1 {status}\r\n{FIELDS}Content-Length: {length}\r\n\r\n");
        out.push(head.as_bytes());
        out.push_body(body);
    }
}

/// What an HTTP connection is doing.
#[derive(Default)]
pub(super) struct Http {
    unread: Vec<u8>,
    state: State,
    /// The answer is the last one.
    close: bool,
}

#[derive(Default)]
enum State {
    /// Waiting for a head.
    #[default]
    Head,
    /// Receiving an upload: its length, and how much of it was as expected.
    Upload(usize, usize),
    /// Echoing messages.
    WebSocket,
}

impl Http {
    /// Takes what was received.
    pub(super) fn take(&mut self, bytes: &[u8], pages: &Pages, out: &mut Output) {
        // The bytes of an upload are only looked at.
        if let State::Upload(..) = self.state
            && self.unread.is_empty()
        {
            let used = self.upload(bytes, pages, out);
            self.unread.extend_from_slice(&bytes[used..]);
            return;
        }
        self.unread.extend_from_slice(bytes);
    }

    /// Looks for something to answer in what was received before; false when more has to come.
    pub(super) fn go_on(&mut self, pages: &Pages, out: &mut Output) -> bool {
        if self.unread.is_empty() {
            return false;
        }
        let unread = std::mem::take(&mut self.unread);
        let used = match self.state {
            State::Head => self.request(&unread, pages, out),
            State::Upload(..) => self.upload(&unread, pages, out),
            State::WebSocket => web_socket(&unread, out),
        };
        self.unread = unread;
        self.unread.drain(..used);
        used > 0
    }

    fn request(&mut self, bytes: &[u8], pages: &Pages, out: &mut Output) -> usize {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
            if bytes.len() > MAX_HEAD {
                refuse(out, "400 Bad Request");
            }
            return 0;
        };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut length, mut upgrade, mut key) = (None, false, "");
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse::<usize>().ok(),
                "connection" => self.close |= value.eq_ignore_ascii_case("close"),
                "upgrade" => upgrade = value.eq_ignore_ascii_case("websocket"),
                "sec-websocket-key" => key = value,
                _ => {}
            }
        }
        let page =
            path.trim_start_matches('/').parse::<usize>().ok().and_then(|length| pages.bodies.get(&length));
        match (method, length, page) {
            ("GET", None | Some(0), None) if path == content::HEAD_PATH => {
                out.push(
                    format!("HTTP/1.1 200 OK\r\n{FIELDS}Content-Length: {}\r\n\r\n", end + 4).as_bytes(),
                );
                out.push(&bytes[..end + 4]);
                out.close |= self.close;
            }
            ("GET", None | Some(0), Some(body)) => {
                pages.answer(body, out);
                out.close |= self.close;
            }
            ("GET", _, None) if upgrade && key == content::WEBSOCKET_KEY => {
                self.state = State::WebSocket;
                out.push(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
                );
                out.push(format!("Sec-WebSocket-Accept: {}\r\n\r\n", content::WEBSOCKET_ACCEPT).as_bytes());
            }
            ("POST", Some(length), None) if pages.bodies.contains_key(&length) => {
                self.state = State::Upload(length, 0);
            }
            _ => refuse(out, "404 Not Found"),
        }
        end + 4
    }

    /// Compares what has come of an upload, and answers at its end.
    fn upload(&mut self, bytes: &[u8], pages: &Pages, out: &mut Output) -> usize {
        let State::Upload(length, seen) = self.state else { return 0 };
        let Some(expected) = pages.bodies.get(&length) else { return 0 };
        let count = bytes.len().min(length - seen);
        if bytes[..count] != expected[seen..seen + count] {
            refuse(out, "400 Bad Request");
            return bytes.len();
        }
        if seen + count < length {
            self.state = State::Upload(length, seen + count);
            return count;
        }
        self.state = State::Head;
        pages.answer(&format!("received {length}\n").into_bytes().into(), out);
        out.close |= self.close;
        count
    }
}

/// Answers with an error and closes.
fn refuse(out: &mut Output, status: &str) {
    out.push(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
    out.close = true;
}

/// Echoes one whole masked frame; returns its length, or 0 while it is incomplete. RFC 6455 section 5.2.
fn web_socket(bytes: &[u8], out: &mut Output) -> usize {
    let Some([first, second]) = bytes.first_chunk::<2>() else { return 0 };
    let (length, start) = match second & 0x7f {
        126 => {
            let Some([_, _, high, low]) = bytes.first_chunk::<4>() else { return 0 };
            (usize::from(u16::from_be_bytes([*high, *low])), 4)
        }
        127 => {
            out.close = true;
            return bytes.len();
        }
        length => (usize::from(length), 2),
    };
    if *first != 0x82 || second & 0x80 == 0 {
        // Only masked, unfragmented binary messages are spoken here; anything else was damaged on its way.
        out.close = true;
        return bytes.len();
    }
    let Some(frame) = bytes.get(start..start + 4 + length) else { return 0 };
    let (mask, payload) = frame.split_at(4);
    let payload: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    out.push(&crate::load::frame(&payload, None));
    start + 4 + length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(http: &mut Http, pages: &Pages, bytes: &[u8]) -> Vec<u8> {
        let mut out = Output::default();
        for piece in bytes.chunks(777) {
            http.take(piece, pages, &mut out);
            while http.go_on(pages, &mut out) {}
        }
        let body = out.body.take().map(|(body, _)| body.to_vec()).unwrap_or_default();
        [out.bytes, body].concat()
    }

    #[test]
    fn uploads_are_compared() {
        let pages = Pages::new(None);
        let body = content::body(content::MEDIUM);
        let head = format!("POST /upload HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        let good = answer(&mut Http::default(), &pages, &[&head[..], &body].concat());
        assert!(good.ends_with(b"received 65536\n"), "{}", good.escape_ascii());
        let mut bad = body.to_vec();
        bad[40_000] ^= 1;
        let refused = answer(&mut Http::default(), &pages, &[&head[..], &bad].concat());
        assert!(refused.starts_with(b"HTTP/1.1 400"), "{}", refused.escape_ascii());
    }

    #[test]
    fn a_request_head_is_reported_as_it_came() {
        let head = b"GET /head HTTP/1.1\r\nHost: x\r\nX-Forwarded-For:  a\r\nx-forwarded-for: b\r\n\r\n";
        let answer = answer(&mut Http::default(), &Pages::new(None), head);
        assert!(answer.ends_with(&[b"\r\n\r\n", &head[..]].concat()), "{}", answer.escape_ascii());
    }

    #[test]
    fn messages_come_back_unmasked() {
        let pages = Pages::new(None);
        let mut http = Http { state: State::WebSocket, ..Http::default() };
        for length in [1, 125, 126, 3000] {
            let payload = content::body(length);
            let masked = crate::load::frame(&payload, Some([1, 2, 3, 4]));
            assert_eq!(answer(&mut http, &pages, &masked), crate::load::frame(&payload, None));
        }
    }

    #[test]
    fn answers_are_wrong_when_they_are_to_be() {
        let pages = Pages::new(Some(Wrong::Content));
        let mut http = Http::default();
        let answers: Vec<_> =
            (0..14).map(|_| answer(&mut http, &pages, b"GET /100 HTTP/1.1\r\n\r\n")).collect();
        assert_eq!(answers.iter().filter(|one| **one != answers[0]).count(), 2);
    }
}
