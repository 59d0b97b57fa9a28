//! Whether a proxy tells the origin who the client is, as all of them have to: without that, the work would not be the same.
//!
//! The origin answers with the request head as it came. It must name the client, behind what a request that comes through
//! another proxy already says, and that it used http. What else was added is told to the reader.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use memchr::memmem;

use crate::content;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The client that another proxy is said to have had; an address for documentation (RFC 5737).
const ANOTHER: &str = "192.0.2.7";

/// What every request has at the origin, and what the origin says itself.
const REQUEST_FIELDS: [&str; 3] = ["host", FOR, PROTO];
const RESPONSE_FIELDS: [&str; 3] = ["server", "content-type", "content-length"];

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";

/// Names, in lower case, with values.
type Fields = Vec<(String, String)>;

/// Asks through the proxy at `address` for what it sends to the origin. Returns what it adds beside what it must.
///
/// # Errors
/// What it does not say to the origin, or why it does not answer.
pub(super) fn check(address: SocketAddr, host: &str) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("no answer to what is forwarded: {error}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut ask = |more: &str| {
        let request = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n", content::HEAD_PATH);
        stream.write_all(request.as_bytes()).map_err(failed)?;
        read_answer(&mut stream)
    };
    let (response, request) = ask("")?;
    let (_, another) = ask(&format!("X-Forwarded-For: {ANOTHER}\r\n"))?;
    judge(&request, &[])?;
    judge(&another, &[ANOTHER])?;
    let mut added = Vec::new();
    for (what, fields, known) in
        [("requests", &request, &REQUEST_FIELDS), ("responses", &response, &RESPONSE_FIELDS)]
    {
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.retain(|name| !known.contains(name));
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            added.push(format!("{} to {what}", names.join(", ")));
        }
    }
    Ok(added)
}

/// Whether the origin was told who the client is, behind the proxies before, and how it came.
fn judge(request: &Fields, before: &[&str]) -> Result<(), String> {
    let values = |wanted: &str| -> Vec<&str> {
        // Several lines of a name are one list. RFC 9110 section 5.3.
        let lines = request.iter().filter(|(name, _)| name == wanted);
        lines.flat_map(|(_, value)| value.split(',').map(str::trim)).collect()
    };
    let wrong = |name: &str, values: &[&str], instead: &str| {
        let got = values.join(", ");
        Err(format!(
            "does not do the work of the others: the origin got {name} \"{got}\" instead of {instead}"
        ))
    };
    let addresses = values(FOR);
    let named = addresses.split_last().is_some_and(|(last, rest)| rest == before && is_local(last));
    if !named {
        let instead = [before, &["the client's address"]].concat().join(", ");
        return wrong(FOR, &addresses, &instead);
    }
    match values(PROTO)[..] {
        ["http"] => Ok(()),
        ref other => wrong(PROTO, other, "http"),
    }
}

/// Whether it is an address of this machine: of a client on the loopback interface, Envoy names another one than 127.0.0.1.
fn is_local(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok_and(|address| UdpSocket::bind((address, 0)).is_ok())
}

/// The fields of an answer, and those of the request that is its body.
fn read_answer(stream: &mut TcpStream) -> Result<(Fields, Fields), String> {
    let mut bytes = Vec::new();
    let mut scratch = [0; 4096];
    loop {
        if let Some(both) = parse(&bytes)? {
            return Ok(both);
        }
        let count = stream.read(&mut scratch).map_err(|error| format!("no answer: {error}"))?;
        if count == 0 || bytes.len() > MAX_ANSWER {
            return Err(format!("no whole answer: {}", shown(&bytes)));
        }
        bytes.extend_from_slice(&scratch[..count]);
    }
}

/// None while more has to come.
fn parse(bytes: &[u8]) -> Result<Option<(Fields, Fields)>, String> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let response = fields(&bytes[..end]);
    let length = response.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
    let Some(Ok(length)) = length.filter(|_| bytes.starts_with(b"HTTP/1.1 200 ")) else {
        return Err(format!("not the answer that was asked for: {}", shown(bytes)));
    };
    let body: &[u8] = &bytes[end + 4..];
    let length: usize = length;
    Ok((body.len() >= length).then(|| (response, fields(body))))
}

fn fields(head: &[u8]) -> Fields {
    let text = String::from_utf8_lossy(head);
    let fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Checks a proxy that sends `first` and then `second` to the origin and adds `added` to responses.
    fn check_one(
        first: &'static str,
        second: &'static str,
        added: &'static str,
    ) -> Result<Vec<String>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for fields in [first, second] {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                    request.push(byte[0]);
                }
                let body = format!("GET /head HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
                let head = format!(
                    "HTTP/1.1 200 OK\r\nServer: bench\r\n{added}Content-Length: {}\r\n\r\n",
                    body.len()
                );
                // In two pieces, as it may come.
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(body.as_bytes()).unwrap();
            }
        });
        let checked = check(address, "x");
        drop(proxy.join());
        checked
    }

    const GOOD: [&str; 2] = [
        "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n",
        "x-forwarded-for: 192.0.2.7\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n",
    ];

    #[test]
    fn who_says_both_passes_and_what_else_is_added_is_told() {
        assert_eq!(check_one(GOOD[0], GOOD[1], ""), Ok(vec![]));
        let first =
            "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nVia: 1.1 x\r\nForwarded: for=x\r\n";
        let added = check_one(first, GOOD[1], "Date: now\r\n").unwrap();
        assert_eq!(added, ["forwarded, via to requests", "date to responses"]);
    }

    #[test]
    fn who_does_not_say_both_is_an_error() {
        for (first, second, what) in [
            ("", GOOD[1], "x-forwarded-for \"\""),
            ("X-Forwarded-For: 127.0.0.1\r\n", GOOD[1], "x-forwarded-proto \"\""),
            (GOOD[0], GOOD[0], "\"127.0.0.1\" instead of 192.0.2.7, the client's address"),
            ("X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n", GOOD[1], "\"192.0.2.7\""),
            ("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n", GOOD[1], "\"https\""),
        ] {
            let error = check_one(first, second, "").unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
