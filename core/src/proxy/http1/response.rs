//! The head of a response: read from the origin, checked, rewritten, sent on.

use super::body::Body;
use super::exchange::{Env, Exchange, Progress, ResponseState};
use crate::base::http::{BodyLength, ResponseHead, Version};
use crate::base::limits;
use crate::h1::{self, HeadLimits, Parsed};
use crate::proxy::headers::{NO_EDITS, Received, ResponseRules, write_response};
use crate::ring::Chunk;
use crate::stats::{ClusterScope, HttpScope, count_response};
use crate::upstream::RequestOutcome;

/// Reads as many heads as have come, informational ones first. `None` when there is nothing more to do with heads.
pub(super) fn read_head(exchange: &mut Exchange, env: &Env<'_>) -> Option<Progress> {
    while exchange.response_state == ResponseState::Head {
        // Without an upstream (the proxy answered itself) there is no head to come.
        let up = exchange.up.as_ref()?;
        let Some(chunk) = up.receive() else {
            let status = up.status();
            if status.recv_error == 0 && !status.eof {
                return None;
            }
            if exchange.set_back() {
                return None;
            }
            return Some(Progress::Fail(502, "The upstream closed the connection before it answered."));
        };
        match read_one(exchange, env, chunk) {
            Ok(Some(progress)) => return Some(progress),
            Ok(None) => {}
            Err(reason) => {
                tracing::debug!(reason, "the upstream's response was refused");
                if let Some(cluster) = &exchange.cluster {
                    cluster.stats.inc(ClusterScope::CX_PROTOCOL_ERROR);
                }
                exchange.end_request(RequestOutcome::BrokenByOrigin);
                return Some(Progress::Fail(502, "The upstream sent a response that breaks the protocol."));
            }
        }
    }
    None
}

fn read_one(
    exchange: &mut Exchange,
    env: &Env<'_>,
    mut chunk: Chunk,
) -> Result<Option<Progress>, &'static str> {
    let Some(cluster) = &exchange.cluster else { return Ok(None) };
    let bounds = HeadLimits {
        head_bytes: cluster.config.response_head_size,
        headers: cluster.config.response_headers,
    };
    if !exchange.partial.is_empty() {
        return read_rest(exchange, env, bounds, chunk);
    }
    let mut fields = env.context.fields.borrow_mut();
    match h1::parse_response(chunk.as_slice(), exchange.method, bounds, &mut fields) {
        Ok(Parsed::Complete { head, len }) => {
            let received = Received { bytes: &chunk.as_slice()[..len], fields: &fields };
            let taken = take_head(exchange, env, &head, received)?;
            chunk.advance(len);
            Ok(pass_on(exchange, env, taken, chunk))
        }
        Ok(Parsed::Partial) => {
            exchange.partial.extend_from_slice(chunk.as_slice());
            Ok(None)
        }
        Err(error) => Err(error.reason()),
    }
}

/// The same where a part of the head has come before.
#[cold]
fn read_rest(
    exchange: &mut Exchange,
    env: &Env<'_>,
    bounds: HeadLimits,
    mut chunk: Chunk,
) -> Result<Option<Progress>, &'static str> {
    let mut fields = env.context.fields.borrow_mut();
    let mut partial = std::mem::take(&mut exchange.partial);
    let known = partial.len();
    partial.extend_from_slice(chunk.as_slice());
    match h1::parse_response(&partial, exchange.method, bounds, &mut fields) {
        Ok(Parsed::Complete { head, len }) => {
            let received = Received { bytes: &partial[..len], fields: &fields };
            let taken = take_head(exchange, env, &head, received)?;
            chunk.advance(len - known);
            Ok(pass_on(exchange, env, taken, chunk))
        }
        Ok(Parsed::Partial) => {
            exchange.partial = partial;
            Ok(None)
        }
        Err(error) => Err(error.reason()),
    }
}

/// What became of a head.
enum Taken {
    /// It is the last one. What the client gets of it is held back, to go with what has come of the body.
    Final,
    /// It was informational.
    Informational,
    /// From here on both sides speak another protocol.
    Tunnel,
}

/// Goes on with what came behind a head.
fn pass_on(exchange: &mut Exchange, env: &Env<'_>, taken: Taken, rest: Chunk) -> Option<Progress> {
    let up = exchange.up.as_ref()?;
    match taken {
        Taken::Final => {
            // Without a body this sends just the head.
            if exchange.response.pump(&env.context.ring, up, Some(env.down), None, Some(rest)).is_err() {
                return Some(Progress::Abort { truncated: true });
            }
            if exchange.response.done {
                exchange.response_state = ResponseState::Done;
            }
            None
        }
        Taken::Informational => {
            up.unread(rest);
            None
        }
        Taken::Tunnel => {
            up.unread(rest);
            Some(Progress::Tunnel)
        }
    }
}

fn take_head(
    exchange: &mut Exchange,
    env: &Env<'_>,
    head: &ResponseHead,
    received: Received<'_>,
) -> Result<Taken, &'static str> {
    if head.status == 101 {
        return switch_protocol(exchange, env, head, received);
    }
    if head.status < 200 {
        return inform(exchange, env, head, received);
    }
    let body = match (head.body, exchange.version) {
        // Our own framing is better than the end of the connection: the client sees a cut-off, and can go on.
        (BodyLength::Chunked | BodyLength::UntilClose, Version::Http11) => BodyLength::Chunked,
        (BodyLength::Chunked | BodyLength::UntilClose, Version::Http10) => BodyLength::UntilClose,
        (known, _) => known,
    };
    exchange.until_close = body == BodyLength::UntilClose;
    // An origin that answers before it has the whole request either refuses it (then it will not read the rest, and the
    // client learns now that this connection ends with the response) or streams both ways at once.
    let streams =
        (200..300).contains(&head.status) && (exchange.request.bytes > 0 || !exchange.expect_continue);
    exchange.keep_alive &=
        (exchange.request.done || streams) && !exchange.until_close && !env.context.says_farewell();
    exchange.up_keep_alive = head.keep_alive;
    exchange.response = Body::new(head.body, Exchange::framing_for(body), u64::MAX).wait_for_body(env.now);
    exchange.response_state = ResponseState::Body;
    exchange.head = None;
    exchange.status = head.status;
    if let Some(record) = &mut exchange.record {
        record.status = head.status;
    }
    let rules = ResponseRules {
        forwarding: &env.http.forwarding,
        edits: [exchange.response_edits(env.http), &env.http.response_headers],
        body,
        keep_alive: exchange.keep_alive,
        client_version: exchange.version,
        upgrade: None,
    };
    let mut buf = env.context.ring.write_buf();
    write_response(&mut buf.bytes, head, received, &rules);
    exchange.response.held = Some(buf);
    Ok(Taken::Final)
}

/// 1xx other than 101: passed on to whoever understands it. RFC 9110 section 15.2.
fn inform(
    exchange: &mut Exchange,
    env: &Env<'_>,
    head: &ResponseHead,
    received: Received<'_>,
) -> Result<Taken, &'static str> {
    exchange.informational += 1;
    if exchange.informational > limits::INFORMATIONAL_RESPONSES {
        return Err("too many informational responses");
    }
    if let Some(cluster) = &exchange.cluster {
        count_response(&cluster.stats, head.status);
    }
    if exchange.version == Version::Http11 {
        env.stats.inc(HttpScope::RQ_1XX);
        send_head(exchange, env, head, received, None);
    }
    Ok(Taken::Informational)
}

fn switch_protocol(
    exchange: &mut Exchange,
    env: &Env<'_>,
    head: &ResponseHead,
    received: Received<'_>,
) -> Result<Taken, &'static str> {
    let (Some(asked), Some(protocol)) = (&exchange.upgrade, head.upgrade) else {
        return Err("101 without having been asked");
    };
    if !protocol.of(received.bytes).eq_ignore_ascii_case(asked) {
        return Err("101 to another protocol than was asked for");
    }
    exchange.response_state = ResponseState::Done;
    exchange.status = 101;
    exchange.end_response(env);
    if let Some(record) = &mut exchange.record {
        record.status = 101;
    }
    send_head(exchange, env, head, received, Some(protocol.of(received.bytes)));
    Ok(Taken::Tunnel)
}

fn send_head(
    exchange: &Exchange,
    env: &Env<'_>,
    head: &ResponseHead,
    received: Received<'_>,
    upgrade: Option<&[u8]>,
) {
    let rules = ResponseRules {
        forwarding: &env.http.forwarding,
        edits: [NO_EDITS, NO_EDITS],
        body: BodyLength::None,
        keep_alive: true,
        client_version: exchange.version,
        upgrade,
    };
    let mut buf = env.context.ring.write_buf();
    write_response(&mut buf.bytes, head, received, &rules);
    env.down.send(buf.freeze());
}
