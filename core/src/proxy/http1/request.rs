//! The head of a request: read from the client, checked, routed; then an exchange begins or we answer ourselves.

use super::body::{Body, Framing};
use super::exchange::{Ended, Exchange, ResponseState};
use super::{Close, Http1, Phase};
use crate::base::clock::{Millis, NEVER, deadline};
use crate::base::http::{BodyLength, Fields, Method, RequestHead, Version};
use crate::base::limits;
use crate::config::model::{Forward, ForwardedFor, Redirect, Respond, Route, RouteAction};
use crate::h1::{self, HeadError, HeadLimits, Parsed, RequestError};
use crate::proxy::headers::{Client, Received, RequestRules, write_request};
use crate::proxy::relay::cut_off_unsent;
use crate::proxy::reply::Reply;
use crate::proxy::{Record, Step};
use crate::ring::{Chunk, Status};
use crate::route::{self, RouteQuery};
use crate::stats::HttpScope;

/// A request body that nobody wants is read up to this size, so that the connection can go on.
const DISCARD_BYTES: u64 = 64 * 1024;

impl Http1 {
    pub(super) fn read_head(&mut self) -> Option<Step> {
        loop {
            let down = &self.down;
            let status = down.status();
            if status.unsent >= limits::SEND_HIGH_WATER_BYTES
                && status.send_error == 0
                && status.recv_error == 0
            {
                return self.await_room(status.activity);
            }
            let received = if status.unread > 0 { down.receive() } else { None };
            let Some(chunk) = received else { return self.await_head(&status) };
            let context = std::rc::Rc::clone(&self.context);
            let mut fields = context.fields.borrow_mut();
            match self.parse(chunk, &mut fields) {
                Ok(true) => return None,
                Ok(false) => {}
                Err(error) => {
                    drop(fields);
                    self.refuse_head(error);
                    return None;
                }
            }
        }
    }

    /// The client does not take the replies that it has caused: no further request is read until it does.
    #[cold]
    fn await_room(&mut self, activity: Millis) -> Option<Step> {
        let idle_since = activity.max(self.since);
        let expires = deadline(idle_since, self.service.http().timeouts.stream_idle_ms);
        if expires <= self.context.ring.now() {
            cut_off_unsent(&self.down);
            return Some(Step::Done);
        }
        #[allow(clippy::cast_possible_truncation)] // a small constant
        self.down.wake_when_unsent_below(Some((limits::SEND_HIGH_WATER_BYTES / 2) as u32));
        Some(Step::Wait(expires))
    }

    /// Nothing to read: waits, or ends the connection.
    fn await_head(&mut self, status: &Status) -> Option<Step> {
        if status.recv_error != 0 || status.send_error != 0 {
            self.remote = true;
            return Some(Step::Done);
        }
        if status.eof {
            self.remote = true;
            // Whatever was begun is not going to be completed; replies on their way are delivered.
            self.start_closing(Close::Plain);
            return if status.unsent > 0 { None } else { Some(Step::Done) };
        }
        let begun = !self.partial.is_empty();
        let leaves_at = match (self.context.draining.get() && !begun, self.requests) {
            (false, _) => NEVER,
            // Its first request is on the way.
            (true, 0) => self.since + limits::FIRST_REQUEST_MS,
            (true, _) => 0,
        };
        let now = self.context.ring.now();
        if leaves_at <= now {
            self.service.stats.inc(HttpScope::CX_DRAIN_CLOSE);
            self.start_closing(Close::Linger);
            return None;
        }
        let timeouts = &self.service.http().timeouts;
        let idle = self.requests > 0 && !begun;
        let expires = deadline(self.since, if idle { timeouts.idle_ms } else { timeouts.request_head_ms })
            .min(leaves_at);
        if expires > now {
            return Some(Step::Wait(expires));
        }
        if begun {
            self.service.stats.inc(HttpScope::RQ_HEADER_TIMEOUT);
            self.refuse(408, "The request head did not arrive in time.");
        } else {
            self.service.stats.inc(HttpScope::CX_IDLE_TIMEOUT);
            self.start_closing(if idle { Close::Linger } else { Close::Plain });
        }
        None
    }

    #[cold]
    fn refuse_head(&mut self, error: RequestError) {
        tracing::debug!(listener = self.service.listener.name, ?error, "request refused");
        self.count_refusal(error);
        self.refuse(error.status(), error.reason());
    }

    /// Answers to something that is no request, and closes.
    #[cold]
    fn refuse(&mut self, status: u16, reason: &str) {
        let mut exchange = Exchange::default();
        self.count_request(&mut exchange);
        if self.service.listener.access_log.is_some() {
            self.learn_client();
            exchange.started = self.since;
            exchange.record = Some(Box::new(Record {
                listener: self.service.listener.name.clone(),
                client: self.client_text(),
                protocol: "-",
                ..Record::default()
            }));
        }
        self.reply_error(status, reason, false, false, Version::Http11, &mut exchange);
        self.end_exchange(Box::new(exchange), Ended::Answered(reason));
        self.start_closing(Close::Linger);
    }

    fn count_refusal(&self, error: RequestError) {
        use RequestError as E;
        let stats = &self.service.stats;
        stats.inc(HttpScope::CX_PROTOCOL_ERROR);
        stats.inc(match error {
            E::Head(HeadError::TooLarge | HeadError::TooManyFields) | E::TargetTooLong => {
                HttpScope::ERROR_HEAD_SIZE
            }
            E::Head(
                HeadError::BadContentLength
                | HeadError::RepeatedContentLength
                | HeadError::LengthWithTransferEncoding
                | HeadError::RepeatedTransferEncoding
                | HeadError::BadTransferEncoding
                | HeadError::ChunkedNotLast
                | HeadError::TransferEncodingInHttp10,
            )
            | E::TraceWithBody => HttpScope::ERROR_FRAMING,
            E::Head(HeadError::UnknownTransferCoding) | E::Connect | E::UnknownExpectation => {
                HttpScope::ERROR_UNSUPPORTED
            }
            E::Head(_) => HttpScope::ERROR_FIELD,
            E::TlsHandshake => HttpScope::ERROR_TLS,
            E::TooManyEmptyLines
            | E::BadRequestLine
            | E::BadMethod
            | E::MethodTooLong
            | E::MissingVersion
            | E::UnsupportedVersion => HttpScope::ERROR_LINE,
            E::BadTarget
            | E::FragmentInTarget
            | E::BadTargetForm
            | E::AsteriskTarget
            | E::BadTargetAuthority => HttpScope::ERROR_TARGET,
            E::MissingHost | E::RepeatedHost | E::BadHost => HttpScope::ERROR_HOST,
        });
    }

    /// Looks for a complete head in what has come. Says whether there was one, and if so has acted on it.
    fn parse(&mut self, mut chunk: Chunk, fields: &mut Fields) -> Result<bool, RequestError> {
        let limits = &self.service.http().limits;
        let bounds = HeadLimits { head_bytes: limits.head_size, headers: limits.headers };
        if !self.partial.is_empty() {
            return self.parse_rest(bounds, chunk, fields);
        }
        match h1::parse_request(chunk.as_slice(), bounds, fields)? {
            Parsed::Complete { head, len } => {
                self.begin(&head, Received { bytes: &chunk.as_slice()[..len], fields });
                chunk.advance(len);
                self.down.unread(chunk);
                Ok(true)
            }
            Parsed::Partial => {
                // The rest may take its time: what is here must not hold a whole receive buffer meanwhile.
                self.partial.extend_from_slice(chunk.as_slice());
                self.since = self.context.ring.now();
                Ok(false)
            }
        }
    }

    /// The same where a part of the head has come before.
    #[cold]
    fn parse_rest(
        &mut self,
        bounds: HeadLimits,
        mut chunk: Chunk,
        fields: &mut Fields,
    ) -> Result<bool, RequestError> {
        let known = self.partial.len();
        self.partial.extend_from_slice(chunk.as_slice());
        // A head that was incomplete is complete only with another LF (and an over-long one is refused without).
        if memchr::memchr(b'\n', chunk.as_slice()).is_none() && self.partial.len() < bounds.head_bytes {
            return Ok(false);
        }
        match h1::parse_request(&self.partial, bounds, fields)? {
            Parsed::Complete { head, len } => {
                let partial = std::mem::take(&mut self.partial);
                self.begin(&head, Received { bytes: &partial[..len], fields });
                chunk.advance(len - known);
                self.down.unread(chunk);
                Ok(true)
            }
            Parsed::Partial => Ok(false),
        }
    }

    /// Acts on a request head.
    fn begin(&mut self, head: &RequestHead, received: Received<'_>) {
        self.requests = self.requests.saturating_add(1);
        let service = std::rc::Rc::clone(&self.service);
        let http = service.http();
        let last = self.requests >= http.limits.requests_per_connection || self.context.ends_connections();
        let mut exchange = self.context.spare.borrow_mut().pop().unwrap_or_else(Exchange::boxed);
        exchange.method = head.method;
        exchange.version = head.version;
        exchange.keep_alive = head.keep_alive && !last;
        exchange.asks_close = !head.keep_alive;
        exchange.expect_continue = head.expect_continue;
        exchange.started = self.context.ring.now();
        self.count_request(&mut exchange);
        if http.forwarding.x_forwarded_for != ForwardedFor::Off || service.listener.access_log.is_some() {
            self.learn_client();
        }
        if service.listener.access_log.is_some() {
            exchange.record = Some(Box::new(self.record(head, received)));
        }
        let path = match head.path.of(received.bytes) {
            // RFC 9112 section 3.2.4: the last proxy turns an absolute target without a path into `*`.
            b"" if head.method == Method::Options => b"*",
            b"" => b"/",
            path => path,
        };
        if head.version == Version::Http10 && !http.accept_http_10 {
            return self.answer(exchange, head, 426, "This proxy does not serve HTTP/1.0; use HTTP/1.1.");
        }
        if let BodyLength::Known(length) = head.body
            && length > http.limits.body_size
        {
            service.stats.inc(HttpScope::RQ_TOO_LARGE);
            return self.answer(exchange, head, 413, "The request body is larger than this proxy accepts.");
        }
        let query = RouteQuery {
            host: head.authority.of(received.bytes),
            path,
            method: head.method_text.of(received.bytes),
            fields: received.fields,
            head: received.bytes,
        };
        let position = service.routes.position(&http.routes, &query);
        let Some((position, route)) = position.and_then(|n| Some((n, http.routes.get(n)?))) else {
            service.stats.inc(HttpScope::NO_ROUTE);
            return self.answer(exchange, head, 404, "No route of this proxy matches the request.");
        };
        #[allow(clippy::cast_possible_truncation)] // a configuration does not have 2^32 routes
        {
            exchange.route = position as u32;
        }
        match &route.action {
            RouteAction::Forward(forward) => self.forward(exchange, head, received, route, forward, path),
            RouteAction::Respond(respond) => self.respond(exchange, head, route, respond),
            RouteAction::Redirect(redirect) => {
                self.redirect(exchange, head, route, redirect, query.host, path);
            }
        }
    }

    #[inline(never)]
    fn respond(&mut self, exchange: Box<Exchange>, head: &RequestHead, route: &Route, respond: &Respond) {
        self.service.stats.inc(HttpScope::RQ_DIRECT_RESPONSE);
        self.answer_with(exchange, head, |reply| {
            reply.edits = Some(&route.response_headers);
            reply.status = respond.status;
            reply.body = &respond.body;
            reply.content_type = &respond.content_type;
        });
    }

    #[inline(never)]
    fn redirect(
        &mut self,
        exchange: Box<Exchange>,
        head: &RequestHead,
        route: &Route,
        redirect: &Redirect,
        host: &[u8],
        path: &[u8],
    ) {
        self.service.stats.inc(HttpScope::RQ_REDIRECT);
        let mut location = Vec::new();
        route::redirect_location(route, redirect, "http", host, path, &mut location);
        self.answer_with(exchange, head, |reply| {
            reply.edits = Some(&route.response_headers);
            reply.status = redirect.status;
            reply.location = Some(&location);
        });
    }

    fn forward(
        &mut self,
        mut exchange: Box<Exchange>,
        head: &RequestHead,
        received: Received<'_>,
        route: &Route,
        forward: &Forward,
        path: &[u8],
    ) {
        let http = self.service.http();
        self.service.stats.inc(HttpScope::RQ_ROUTED);
        let mut random = self.context.random.borrow_mut();
        let cluster =
            std::rc::Rc::clone(self.context.upstreams.cluster(route::pick_cluster(forward, &mut random)));
        let authority = head.authority.of(received.bytes);
        let host = match &forward.host_rewrite {
            Some(host) => host.as_bytes(),
            // HTTP/1.0 without Host: HTTP/1.1 demands one, and the cluster's name is what nginx would say, too.
            None if authority.is_empty() => cluster.config.name.as_bytes(),
            None => authority,
        };
        let rewritten;
        let path = if forward.prefix_rewrite.is_some() {
            let mut out = Vec::new();
            route::rewrite_path(route, forward, path, &mut out);
            rewritten = out;
            Some(&rewritten[..])
        } else {
            head.path.is_empty().then_some(path)
        };
        let upgrade = head.upgrade.map(|span| span.of(received.bytes)).filter(|protocol| {
            http.upgrades.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(protocol))
        });
        let rules = RequestRules {
            forwarding: &http.forwarding,
            edits: [&http.request_headers, &route.request_headers],
            client: self.client.as_deref(),
            path,
            host,
            upgrade,
        };
        let mut buf = self.context.ring.write_buf();
        write_request(&mut buf.bytes, head, received, &rules, &mut random);
        drop(random);
        exchange.upgrade = upgrade.map(Into::into);
        exchange.request = Body::new(head.body, Exchange::framing_for(head.body), http.limits.body_size);
        if exchange.request.done {
            exchange.head = Some(buf.freeze());
        } else {
            exchange.lead = Some(buf);
        }
        let timeout: Millis = forward.timeout_ms.unwrap_or(http.timeouts.request_ms);
        exchange.request_deadline = deadline(exchange.started, timeout);
        exchange.cluster = Some(cluster);
        self.exchange = Some(exchange);
        self.phase = Phase::Exchange;
    }

    /// Answers with an error of our own.
    #[cold]
    fn answer(&mut self, mut exchange: Box<Exchange>, head: &RequestHead, status: u16, reason: &str) {
        // Whoever sends too much is not read any further.
        exchange.keep_alive &= status != 413;
        let keep_alive = self.prepare_discard(&mut exchange, head);
        let head_only = head.method == Method::Head;
        self.reply_error(status, reason, keep_alive, head_only, head.version, &mut exchange);
        self.after_answer(exchange, keep_alive);
    }

    /// Answers as a route says.
    fn answer_with<'r>(
        &mut self,
        mut exchange: Box<Exchange>,
        head: &RequestHead,
        fill: impl FnOnce(&mut Reply<'r>),
    ) {
        let keep_alive = self.prepare_discard(&mut exchange, head);
        let mut reply = Reply {
            status: 200,
            body: b"",
            content_type: "text/plain; charset=utf-8",
            location: None,
            edits: None,
            keep_alive,
            head_only: head.method == Method::Head,
            version: head.version,
        };
        fill(&mut reply);
        exchange.status = reply.status;
        if let Some(record) = &mut exchange.record {
            record.status = reply.status;
            record.response_bytes = if reply.head_only { 0 } else { reply.body.len() as u64 };
        }
        self.send_reply(&reply);
        self.after_answer(exchange, keep_alive);
    }

    /// Decides what becomes of the body of a request that is answered without an origin. Says whether the connection
    /// can go on afterwards.
    fn prepare_discard(&self, exchange: &mut Exchange, head: &RequestHead) -> bool {
        let small = match head.body {
            BodyLength::Known(length) => length <= DISCARD_BYTES,
            _ => true,
        };
        exchange.request = Body::new(head.body, Framing::Discard, DISCARD_BYTES);
        exchange.request_deadline = NEVER;
        exchange.response_state = ResponseState::Done;
        exchange.keep_alive
            && !self.context.says_farewell()
            && (exchange.request.done || (small && !head.expect_continue))
    }

    fn after_answer(&mut self, mut exchange: Box<Exchange>, keep_alive: bool) {
        if keep_alive && !exchange.request.done {
            exchange.keep_alive = true;
            self.exchange = Some(exchange);
            self.phase = Phase::Exchange;
            return;
        }
        // The client has asked to close and has said all it had to say: nothing to linger for.
        let plain = exchange.asks_close && exchange.request.done;
        self.end_exchange(exchange, Ended::Complete);
        self.after_reply(keep_alive);
        if plain && !self.context.is_leaving() {
            self.start_closing(Close::Plain);
        }
    }

    /// Asks for the client's address, once per connection.
    fn learn_client(&mut self) {
        if self.client.is_none() {
            self.client = self.down.peer().map(|peer| Box::new(Client::new(peer.ip())));
        }
    }

    /// The client's address for people; empty if it has none or was not asked for it.
    pub(super) fn client_text(&self) -> String {
        self.client.as_ref().map(|client| client.address.to_string()).unwrap_or_default()
    }

    #[inline(never)]
    fn record(&self, head: &RequestHead, received: Received<'_>) -> Record {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let field = |name: &str| {
            let found =
                received.fields.iter().find(|f| f.name(received.bytes).eq_ignore_ascii_case(name.as_bytes()));
            found.map(|f| text(f.value(received.bytes))).unwrap_or_default()
        };
        Record {
            listener: self.service.listener.name.clone(),
            client: self.client_text(),
            method: text(head.method_text.of(received.bytes)),
            host: text(head.authority.of(received.bytes)),
            path: text(head.path.of(received.bytes)),
            protocol: match head.version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            user_agent: field("user-agent"),
            referer: field("referer"),
            ..Record::default()
        }
    }
}

const _: () = assert!(DISCARD_BYTES < limits::LINGER_BYTES as u64);
