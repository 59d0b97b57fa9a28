//! Access-log lines: formatted by the worker only where a listener asks for them, written elsewhere.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::model::{AccessLog, Address, LogFormat, LogTarget};

/// Takes a piece of log for a target; gives it back when it cannot.
pub type Deliver = Box<dyn FnMut(&LogTarget, Vec<u8>) -> Result<(), Vec<u8>> + Send>;

/// Where a worker puts its lines: one buffer per target, handed over when it is worth it or time is up.
pub struct LogBuffer {
    pending: Vec<(LogTarget, Vec<u8>)>,
    deliver: Deliver,
    /// Lines that nobody took, because the writer was too slow.
    pub dropped: u64,
}

/// Lines are handed over in pieces of about this size.
const PIECE_BYTES: usize = 16 * 1024;

impl LogBuffer {
    /// A buffer that hands its pieces to `deliver`, which gives back what it cannot take.
    #[must_use]
    pub fn new(deliver: Deliver) -> Self {
        Self { pending: Vec::new(), deliver, dropped: 0 }
    }

    /// Appends a line.
    pub fn push(&mut self, log: &AccessLog, record: &Record) {
        let position =
            self.pending.iter().position(|(target, _)| *target == log.target).unwrap_or_else(|| {
                self.pending.push((log.target.clone(), Vec::new()));
                self.pending.len() - 1
            });
        let (_, buffer) = &mut self.pending[position];
        if buffer.len() >= limits::ACCESS_LOG_QUEUE_BYTES {
            self.dropped += 1;
            return;
        }
        record.write(log.format, buffer);
        if buffer.len() >= PIECE_BYTES {
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&mut self) {
        for (target, buffer) in &mut self.pending {
            if !buffer.is_empty()
                && let Err(back) = (self.deliver)(target, std::mem::take(buffer))
            {
                *buffer = back;
            }
        }
    }
}

/// What is told of a request or a connection. Text from outside is escaped when it is written.
#[derive(Debug, Default)]
pub struct Record {
    /// Name of the listener.
    pub listener: String,
    /// Address of the client.
    pub client: String,
    /// Request line parts and some fields; empty for TCP.
    pub method: String,
    /// Host that the request was for.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` and the like.
    pub protocol: &'static str,
    /// `User-Agent`
    pub user_agent: String,
    /// `Referer`
    pub referer: String,
    /// Status sent to the client; 0 when there was none.
    pub status: u16,
    /// Bytes of request body received.
    pub request_bytes: u64,
    /// Bytes of response body sent.
    pub response_bytes: u64,
    /// From the request's head (or accept) to the end.
    pub duration_ms: Millis,
    /// Where it was forwarded to; empty if nowhere.
    pub upstream: String,
    /// How it ended where that is not clear from the status.
    pub outcome: String,
}

impl Record {
    /// The record of a relayed TCP connection.
    pub(super) fn tcp(
        listener: &str,
        client: Option<SocketAddr>,
        upstream: Option<&Address>,
        duration_ms: Millis,
        outcome: &str,
    ) -> Self {
        Self {
            listener: listener.into(),
            client: client.map(|c| c.ip().to_string()).unwrap_or_default(),
            protocol: "tcp",
            duration_ms,
            upstream: upstream.map(address_text).unwrap_or_default(),
            outcome: outcome.into(),
            ..Self::default()
        }
    }

    /// Writes one line.
    fn write(&self, format: LogFormat, out: &mut Vec<u8>) {
        let mut line = String::with_capacity(256);
        let time = timestamp();
        let _ = match format {
            LogFormat::Text => writeln!(
                line,
                "{time} {} {} \"{} {} {}\" {} {} {} {}ms {} \"{}\" \"{}\" {} {}",
                Escaped(&self.listener),
                or_dash(&self.client),
                Escaped(or_dash(&self.method)),
                Escaped(or_dash(&self.path)),
                self.protocol,
                self.status,
                self.request_bytes,
                self.response_bytes,
                self.duration_ms,
                Escaped(or_dash(&self.host)),
                Escaped(or_dash(&self.referer)),
                Escaped(or_dash(&self.user_agent)),
                or_dash(&self.upstream),
                Escaped(or_dash(&self.outcome)),
            ),
            LogFormat::Json => writeln!(
                line,
                "{{\"time\":\"{time}\",\"listener\":\"{}\",\"client\":\"{}\",\"method\":\"{}\",\"host\":\"{}\",\"path\":\"{}\",\
                 \"protocol\":\"{}\",\"status\":{},\"request_bytes\":{},\"response_bytes\":{},\"duration_ms\":{},\
                 \"upstream\":\"{}\",\"referer\":\"{}\",\"user_agent\":\"{}\",\"outcome\":\"{}\"}}",
                Escaped(&self.listener),
                Escaped(&self.client),
                Escaped(&self.method),
                Escaped(&self.host),
                Escaped(&self.path),
                self.protocol,
                self.status,
                self.request_bytes,
                self.response_bytes,
                self.duration_ms,
                Escaped(&self.upstream),
                Escaped(&self.referer),
                Escaped(&self.user_agent),
                Escaped(&self.outcome),
            ),
        };
        out.extend_from_slice(line.as_bytes());
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Text between quotes, valid in JSON and harmless in a terminal.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => write!(f, "\\u{:04x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The time as RFC 3339 has it, to the millisecond.
fn timestamp() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}

/// An address as users write it.
pub(super) fn address_text(address: &Address) -> String {
    match address {
        Address::Ip(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat) -> String {
        let record = Record {
            listener: "web".into(),
            client: "10.0.0.1".into(),
            method: "GET".into(),
            path: "/\"\u{1b}[2J".into(),
            protocol: "HTTP/1.1",
            status: 200,
            user_agent: "a\\b".into(),
            ..Record::default()
        };
        let mut out = Vec::new();
        record.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_clients_send_cannot_break_out_of_its_quotes() {
        let text = line(LogFormat::Text);
        assert!(text.contains(r#""GET /\"\u001b[2J HTTP/1.1" 200"#), "{text}");
        assert!(line(LogFormat::Json).contains(r#""path":"/\"\u001b[2J""#));
        assert!(line(LogFormat::Json).contains(r#""user_agent":"a\\b""#));
        assert_eq!(line(LogFormat::Json).matches('\n').count(), 1);
    }
}
