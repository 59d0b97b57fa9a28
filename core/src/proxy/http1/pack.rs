//! An exchange as bytes, at whatever point it is, and back.
//!
//! The fields of the messages are those of [`Exchange`], [`Body`] and the decoder of a body, where they are explained; times
//! are told as durations, because clocks differ between processes.
#![allow(missing_docs)] // see above

use super::body::{Body, Framing};
use super::exchange::{Exchange, ResponseState};
use super::{Close, Http1};
use crate::base::clock::{Millis, NEVER};
use crate::base::http::{Method, Version};
use crate::config::model::HeaderEdits;
use crate::h1::DecoderState;
use crate::proxy::{Context, Record};

/// An exchange, beside its sockets and its relay.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExchangeParcel {
    #[prost(string, tag = "1")]
    pub cluster: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub head: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub lead: Option<Vec<u8>>,
    #[prost(string, tag = "4")]
    pub method: String,
    #[prost(bool, tag = "5")]
    pub is_http_10: bool,
    #[prost(bool, tag = "6")]
    pub keep_alive: bool,
    #[prost(bool, tag = "7")]
    pub expect_continue: bool,
    #[prost(bytes = "vec", optional, tag = "8")]
    pub upgrade: Option<Vec<u8>>,
    #[prost(message, optional, tag = "9")]
    pub request: Option<BodyParcel>,
    #[prost(message, optional, tag = "10")]
    pub response: Option<BodyParcel>,
    #[prost(uint32, tag = "11")]
    pub response_state: u32,
    #[prost(bytes = "vec", tag = "12")]
    pub partial: Vec<u8>,
    #[prost(uint32, tag = "13")]
    pub informational: u32,
    #[prost(bool, tag = "14")]
    pub up_keep_alive: bool,
    #[prost(bool, tag = "15")]
    pub until_close: bool,
    #[prost(uint32, tag = "16")]
    pub status: u32,
    #[prost(bool, tag = "17")]
    pub is_sent: bool,
    #[prost(uint64, tag = "18")]
    pub age_us: u64,
    #[prost(uint64, tag = "19")]
    pub sent_us: u64,
    #[prost(uint64, tag = "20")]
    pub sent_ms: u64,
    /// Time that is left for the whole request; absent for no limit.
    #[prost(uint64, optional, tag = "21")]
    pub left_ms: Option<u64>,
    #[prost(uint32, tag = "22")]
    pub up_requests: u32,
    #[prost(bool, tag = "23")]
    pub fresh: bool,
    /// Changes that the route makes to the head of the response.
    #[prost(message, optional, tag = "24")]
    pub edits: Option<EditsParcel>,
    #[prost(message, optional, tag = "25")]
    pub record: Option<RecordParcel>,
    #[prost(bool, tag = "26")]
    pub asks_close: bool,
}

/// A body in transit.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BodyParcel {
    #[prost(uint32, tag = "1")]
    pub state: u32,
    #[prost(uint32, tag = "2")]
    pub digits: u32,
    #[prost(uint32, tag = "3")]
    pub line_bytes: u32,
    #[prost(uint32, tag = "4")]
    pub extension_bytes: u32,
    #[prost(uint32, tag = "5")]
    pub trailer_bytes: u32,
    #[prost(uint32, tag = "6")]
    pub trailer_line: u32,
    #[prost(uint64, tag = "7")]
    pub remaining: u64,
    #[prost(bytes = "vec", tag = "8")]
    pub trailer: Vec<u8>,
    #[prost(uint32, tag = "9")]
    pub framing: u32,
    #[prost(bool, tag = "10")]
    pub done: bool,
    #[prost(uint64, tag = "11")]
    pub bytes: u64,
    #[prost(uint64, tag = "12")]
    pub limit: u64,
    #[prost(bool, tag = "13")]
    pub gathers: bool,
    #[prost(bytes = "vec", optional, tag = "14")]
    pub held: Option<Vec<u8>>,
}

/// Changes to header fields.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EditsParcel {
    #[prost(message, repeated, tag = "1")]
    pub set: Vec<FieldParcel>,
    #[prost(message, repeated, tag = "2")]
    pub add: Vec<FieldParcel>,
    #[prost(string, repeated, tag = "3")]
    pub remove: Vec<String>,
}

/// A header field.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FieldParcel {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// What is known for the access log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RecordParcel {
    #[prost(string, tag = "1")]
    pub client: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(string, tag = "3")]
    pub host: String,
    #[prost(string, tag = "4")]
    pub path: String,
    #[prost(bool, tag = "5")]
    pub is_http_10: bool,
    #[prost(string, tag = "6")]
    pub user_agent: String,
    #[prost(string, tag = "7")]
    pub referer: String,
    #[prost(uint32, tag = "8")]
    pub status: u32,
    #[prost(uint64, tag = "9")]
    pub response_bytes: u64,
}

/// A connection that is being closed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ClosingParcel {
    /// 0 plainly, 1 lingering, 2 with a reset.
    #[prost(uint32, tag = "1")]
    pub how: u32,
    /// FIN was sent, and this is what is left of the time to linger.
    #[prost(uint64, optional, tag = "2")]
    pub lingering_ms: Option<u64>,
    #[prost(uint32, tag = "3")]
    pub discarded: u32,
}

impl ClosingParcel {
    pub(super) fn of(session: &Http1, now: Millis) -> Self {
        Self {
            how: match session.close {
                Close::Plain => 0,
                Close::Linger => 1,
                Close::Reset => 2,
            },
            lingering_ms: session.lingering.map(|end| end.saturating_sub(now)),
            discarded: session.discarded,
        }
    }

    pub(super) fn apply(self, session: &mut Http1, now: Millis) {
        session.close = match self.how {
            0 => Close::Plain,
            1 => Close::Linger,
            _ => Close::Reset,
        };
        session.lingering = self.lingering_ms.map(|left| now.saturating_add(left));
        session.discarded = self.discarded;
    }
}

const METHODS: &[(Method, &str)] = &[
    (Method::Get, "GET"),
    (Method::Head, "HEAD"),
    (Method::Post, "POST"),
    (Method::Put, "PUT"),
    (Method::Delete, "DELETE"),
    (Method::Connect, "CONNECT"),
    (Method::Options, "OPTIONS"),
    (Method::Trace, "TRACE"),
    (Method::Patch, "PATCH"),
];

impl Exchange {
    /// The exchange as another process can go on with it; its sockets and its relay go beside it.
    pub(super) fn pack(&self, context: &Context, edits: &HeaderEdits) -> ExchangeParcel {
        let (now, now_us) = (context.ring.now(), context.ring.now_us());
        let fields = |fields: &[(String, String)]| {
            let field =
                |(name, value): &(String, String)| FieldParcel { name: name.clone(), value: value.clone() };
            fields.iter().map(field).collect()
        };
        ExchangeParcel {
            cluster: self.cluster.as_ref().map(|cluster| cluster.config.name.clone()).unwrap_or_default(),
            head: self.head.as_ref().map(|head| head.as_slice().to_vec()),
            lead: self.lead.as_ref().map(|lead| lead.bytes.clone()),
            method: METHODS.iter().find(|(m, _)| *m == self.method).map_or("", |(_, name)| *name).into(),
            is_http_10: self.version == Version::Http10,
            keep_alive: self.keep_alive,
            asks_close: self.asks_close,
            expect_continue: self.expect_continue,
            upgrade: self.upgrade.as_deref().map(<[u8]>::to_vec),
            request: Some(self.request.pack()),
            response: Some(self.response.pack()),
            response_state: match self.response_state {
                ResponseState::Head => 0,
                ResponseState::Body => 1,
                ResponseState::Done => 2,
            },
            partial: self.partial.clone(),
            informational: self.informational,
            up_keep_alive: self.up_keep_alive,
            until_close: self.until_close,
            status: u32::from(self.status),
            is_sent: self.is_sent,
            age_us: now_us.saturating_sub(self.started_us),
            sent_us: now_us.saturating_sub(self.sent_us),
            sent_ms: now.saturating_sub(self.sent_at),
            left_ms: (self.request_deadline != NEVER).then(|| self.request_deadline.saturating_sub(now)),
            up_requests: self.up_requests,
            fresh: self.fresh,
            edits: Some(EditsParcel {
                set: fields(&edits.set),
                add: fields(&edits.add),
                remove: edits.remove.clone(),
            }),
            record: self.record.as_ref().map(|record| RecordParcel {
                client: record.client.clone(),
                method: record.method.clone(),
                host: record.host.clone(),
                path: record.path.clone(),
                is_http_10: record.protocol == "HTTP/1.0",
                user_agent: record.user_agent.clone(),
                referer: record.referer.clone(),
                status: u32::from(record.status),
                response_bytes: record.response_bytes,
            }),
        }
    }

    /// The exchange of a parcel. What does not fit together is refused, so that nothing is half taken.
    pub(super) fn unpack(context: &Context, parcel: ExchangeParcel, listener: &str) -> Result<Self, String> {
        let (now, now_us) = (context.ring.now(), context.ring.now_us());
        let cluster = match &*parcel.cluster {
            "" => None,
            name => {
                let found = context.upstreams.find_or_stand_in(name);
                Some(found.ok_or_else(|| format!("{name:?} is no name of a cluster"))?)
            }
        };
        let buffer = |bytes: Vec<u8>| {
            let mut buf = context.ring.write_buf();
            buf.bytes.extend_from_slice(&bytes);
            buf
        };
        let fields = |fields: Vec<FieldParcel>| fields.into_iter().map(|f| (f.name, f.value)).collect();
        Ok(Self {
            cluster,
            head: parcel.head.map(|bytes| buffer(bytes).freeze()),
            lead: parcel.lead.map(buffer),
            method: METHODS
                .iter()
                .find(|(_, name)| *name == parcel.method)
                .map_or(Method::Other, |(method, _)| *method),
            version: if parcel.is_http_10 { Version::Http10 } else { Version::Http11 },
            keep_alive: parcel.keep_alive,
            asks_close: parcel.asks_close,
            expect_continue: parcel.expect_continue,
            upgrade: parcel.upgrade.map(Into::into),
            request: Body::unpack(parcel.request.ok_or("the request body is missing")?, context)?,
            response: Body::unpack(parcel.response.ok_or("the response body is missing")?, context)?,
            response_state: match parcel.response_state {
                0 => ResponseState::Head,
                1 => ResponseState::Body,
                2 => ResponseState::Done,
                other => return Err(format!("state {other} of a response is not known")),
            },
            partial: parcel.partial,
            informational: parcel.informational,
            up_keep_alive: parcel.up_keep_alive,
            until_close: parcel.until_close,
            status: u16::try_from(parcel.status).map_err(|error| error.to_string())?,
            is_sent: parcel.is_sent,
            started: now.saturating_sub(parcel.age_us / 1000),
            started_us: now_us.saturating_sub(parcel.age_us),
            sent_us: now_us.saturating_sub(parcel.sent_us),
            sent_at: now.saturating_sub(parcel.sent_ms),
            request_deadline: parcel.left_ms.map_or(NEVER, |left| now.saturating_add(left)),
            up_requests: parcel.up_requests,
            fresh: parcel.fresh,
            carried_edits: parcel.edits.map(|edits| {
                Box::new(HeaderEdits { set: fields(edits.set), add: fields(edits.add), remove: edits.remove })
            }),
            record: parcel.record.map(|record| {
                Box::new(Record {
                    listener: listener.into(),
                    client: record.client,
                    method: record.method,
                    host: record.host,
                    path: record.path,
                    protocol: if record.is_http_10 { "HTTP/1.0" } else { "HTTP/1.1" },
                    user_agent: record.user_agent,
                    referer: record.referer,
                    status: u16::try_from(record.status).unwrap_or_default(),
                    response_bytes: record.response_bytes,
                    ..Record::default()
                })
            }),
            ..Self::default()
        })
    }
}

impl Body {
    fn pack(&self) -> BodyParcel {
        let DecoderState {
            state,
            digits,
            line_bytes,
            extension_bytes,
            trailer_bytes,
            trailer_line,
            remaining,
            trailer,
        } = self.decoder.state();
        BodyParcel {
            state: u32::from(state),
            digits: u32::from(digits),
            line_bytes: u32::from(line_bytes),
            extension_bytes: u32::from(extension_bytes),
            trailer_bytes: u32::from(trailer_bytes),
            trailer_line: u32::from(trailer_line),
            remaining,
            trailer,
            framing: match self.framing {
                Framing::Identity => 0,
                Framing::Chunked => 1,
                Framing::Discard => 2,
            },
            done: self.done,
            bytes: self.bytes,
            limit: self.limit,
            gathers: self.gathers,
            held: self.held.as_ref().map(|held| held.bytes.clone()),
        }
    }

    fn unpack(parcel: BodyParcel, context: &Context) -> Result<Self, String> {
        fn small<T: TryFrom<u32>>(value: u32) -> Result<T, String> {
            T::try_from(value).map_err(|_| format!("{value} is too large for the state of a body"))
        }
        let state = DecoderState {
            state: small(parcel.state)?,
            digits: small(parcel.digits)?,
            line_bytes: small(parcel.line_bytes)?,
            extension_bytes: small(parcel.extension_bytes)?,
            trailer_bytes: small(parcel.trailer_bytes)?,
            trailer_line: small(parcel.trailer_line)?,
            remaining: parcel.remaining,
            trailer: parcel.trailer,
        };
        let framing = match parcel.framing {
            0 => Framing::Identity,
            1 => Framing::Chunked,
            2 => Framing::Discard,
            other => return Err(format!("framing {other} is not known")),
        };
        let decoder = crate::h1::BodyDecoder::from_state(state).ok_or("the state of a body is not known")?;
        let held = parcel.held.map(|bytes| {
            let mut buf = context.ring.write_buf();
            buf.bytes.extend_from_slice(&bytes);
            buf
        });
        Ok(Self {
            decoder,
            framing,
            done: parcel.done,
            bytes: parcel.bytes,
            limit: parcel.limit,
            gathers: parcel.gathers,
            // It has waited long enough.
            gathers_until: 0,
            held,
        })
    }
}
