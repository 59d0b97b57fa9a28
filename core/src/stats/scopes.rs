//! What is counted, scope by scope: names and meanings are Envoy's wherever Envoy has the thing.
//!
//! `docs/counters.md` is made from these tables.

use ouro_shm::scope;

scope! {
    /// A listener, whatever it speaks.
    pub ListenerScope "listener" "listener.{}" ["listener"] {
        Counter CX_TOTAL "downstream_cx_total" Count "Connections accepted.";
        Gauge CX_ACTIVE "downstream_cx_active" Count "Connections open.";
        Counter CX_DESTROY "downstream_cx_destroy" Count "Connections that have ended.";
        Histogram CX_LENGTH "downstream_cx_length_ms" Microseconds "How long connections were open.";
        Counter CX_OVERFLOW "downstream_cx_overflow" Count "Times that accepting paused because of the listener's connection limit.";
        Counter GLOBAL_CX_OVERFLOW "downstream_global_cx_overflow" Count "Times that accepting paused because of the connection limit of the process.";
        Counter ACCEPT_FAILED "downstream_accept_failed" Count "Times that accepting paused because the kernel refused, such as for want of descriptors.";
    }
}

scope! {
    /// A listener that speaks HTTP.
    pub HttpScope "http" "http.{}" ["listener"] {
        Counter CX_TOTAL "downstream_cx_total" Count "Connections accepted.";
        Counter CX_HTTP1_TOTAL "downstream_cx_http1_total" Count "Connections that spoke HTTP/1.";
        Gauge CX_ACTIVE "downstream_cx_active" Count "Connections open.";
        Gauge CX_HTTP1_ACTIVE "downstream_cx_http1_active" Count "Connections open that speak HTTP/1.";
        Counter CX_DESTROY "downstream_cx_destroy" Count "Connections that have ended.";
        Counter CX_DESTROY_LOCAL "downstream_cx_destroy_local" Count "Connections that the proxy has ended.";
        Counter CX_DESTROY_REMOTE "downstream_cx_destroy_remote" Count "Connections that the client has ended.";
        Counter CX_DESTROY_ACTIVE_RQ "downstream_cx_destroy_active_rq" Count "Connections that ended within a request.";
        Counter CX_DESTROY_LOCAL_ACTIVE_RQ "downstream_cx_destroy_local_active_rq" Count "Connections that the proxy has ended within a request.";
        Counter CX_DESTROY_REMOTE_ACTIVE_RQ "downstream_cx_destroy_remote_active_rq" Count "Connections that the client has ended within a request.";
        Counter CX_PROTOCOL_ERROR "downstream_cx_protocol_error" Count "Connections closed because the client broke the protocol.";
        Histogram CX_LENGTH "downstream_cx_length_ms" Microseconds "How long connections were open.";
        Counter CX_RX_BYTES "downstream_cx_rx_bytes_total" Bytes "Bytes received from clients.";
        Counter CX_TX_BYTES "downstream_cx_tx_bytes_total" Bytes "Bytes sent to clients.";
        Counter CX_DRAIN_CLOSE "downstream_cx_drain_close" Count "Connections closed because the process drains.";
        Counter CX_IDLE_TIMEOUT "downstream_cx_idle_timeout" Count "Connections closed by the idle time-out, tunnels included.";
        Counter CX_MAX_REQUESTS "downstream_cx_max_requests_reached" Count "Connections closed because they had served their number of requests.";
        Counter CX_UPGRADES_TOTAL "downstream_cx_upgrades_total" Count "Connections that became a tunnel, such as for WebSocket.";
        Gauge CX_UPGRADES_ACTIVE "downstream_cx_upgrades_active" Count "Tunnels open.";
        Counter RQ_TOTAL "downstream_rq_total" Count "Requests, those that were refused as malformed included.";
        Counter RQ_HTTP1_TOTAL "downstream_rq_http1_total" Count "Requests of HTTP/1.";
        Gauge RQ_ACTIVE "downstream_rq_active" Count "Requests in progress.";
        Counter RQ_COMPLETED "downstream_rq_completed" Count "Requests that got a whole response.";
        Counter RQ_RX_RESET "downstream_rq_rx_reset" Count "Requests that the client abandoned.";
        Counter RQ_TX_RESET "downstream_rq_tx_reset" Count "Requests whose response the proxy had to break off.";
        Counter RQ_RESPONSE_BEFORE_COMPLETE "downstream_rq_response_before_rq_complete" Count "Responses that were complete before the request was.";
        Counter RQ_TOO_LARGE "downstream_rq_too_large" Count "Requests refused because of the size of their body.";
        Counter RQ_TIMEOUT "downstream_rq_timeout" Count "Requests that took longer than the request time-out.";
        Counter RQ_HEADER_TIMEOUT "downstream_rq_header_timeout" Count "Requests whose head did not arrive in time.";
        Counter RQ_IDLE_TIMEOUT "downstream_rq_idle_timeout" Count "Requests ended because nothing moved for too long.";
        Counter RQ_DIRECT_RESPONSE "rq_direct_response" Count "Requests that a route answered itself.";
        Counter RQ_REDIRECT "rq_redirect" Count "Requests that a route redirected.";
        Counter NO_ROUTE "no_route" Count "Requests that no route matched.";
        Counter RQ_ROUTED "rq_total" Count "Requests that a route sent to a cluster.";
        Counter RQ_1XX "downstream_rq_1xx" Count "Responses with a 1xx status.";
        Counter RQ_2XX "downstream_rq_2xx" Count "Responses with a 2xx status.";
        Counter RQ_3XX "downstream_rq_3xx" Count "Responses with a 3xx status.";
        Counter RQ_4XX "downstream_rq_4xx" Count "Responses with a 4xx status.";
        Counter RQ_5XX "downstream_rq_5xx" Count "Responses with a 5xx status.";
        Histogram RQ_TIME "downstream_rq_time" Microseconds "Time from the head of a request to the end of its response.";
        Counter ERROR_HEAD_SIZE "protocol_error.head_too_large" Count "Requests refused: the head is too large or has too many fields.";
        Counter ERROR_LINE "protocol_error.request_line" Count "Requests refused: method, version or shape of the request line.";
        Counter ERROR_TARGET "protocol_error.target" Count "Requests refused: the request target.";
        Counter ERROR_HOST "protocol_error.host" Count "Requests refused: Host is missing, repeated or malformed.";
        Counter ERROR_FIELD "protocol_error.field" Count "Requests refused: a header field is malformed.";
        Counter ERROR_FRAMING "protocol_error.framing" Count "Requests refused: Content-Length and Transfer-Encoding do not say clearly where the body ends.";
        Counter ERROR_BODY "protocol_error.body" Count "Requests refused: the chunked body is malformed.";
        Counter ERROR_TLS "protocol_error.tls_on_plain_port" Count "Requests refused: a TLS handshake on a port without TLS.";
        Counter ERROR_UNSUPPORTED "protocol_error.unsupported" Count "Requests refused: CONNECT, an unknown expectation or coding.";
    }
}

scope! {
    /// A listener that relays bytes.
    pub TcpScope "tcp" "tcp.{}" ["listener"] {
        Counter CX_TOTAL "downstream_cx_total" Count "Connections accepted.";
        Gauge CX_ACTIVE "downstream_cx_active" Count "Connections open.";
        Counter CX_DESTROY "downstream_cx_destroy" Count "Connections that have ended.";
        Counter CX_RX_BYTES "downstream_cx_rx_bytes_total" Bytes "Bytes received from clients.";
        Counter CX_TX_BYTES "downstream_cx_tx_bytes_total" Bytes "Bytes sent to clients.";
        Counter CX_NO_ENDPOINT "downstream_cx_no_route" Count "Connections reset because no endpoint could be connected to.";
        Counter CX_RESET "downstream_cx_reset" Count "Connections that one side has reset.";
        Counter IDLE_TIMEOUT "idle_timeout" Count "Connections closed by the idle time-out.";
        Histogram CX_LENGTH "downstream_cx_length_ms" Microseconds "How long connections were open.";
    }
}

scope! {
    /// A cluster: the sum of its endpoints.
    pub ClusterScope "cluster" "cluster.{}" ["cluster"] {
        Counter CX_TOTAL "upstream_cx_total" Count "Connections begun.";
        Gauge CX_ACTIVE "upstream_cx_active" Count "Connections open or being opened, idle ones included.";
        Counter CX_HTTP1_TOTAL "upstream_cx_http1_total" Count "Connections begun for HTTP/1.";
        Counter CX_CONNECT_FAIL "upstream_cx_connect_fail" Count "Connections that could not be established, time-outs included.";
        Counter CX_CONNECT_TIMEOUT "upstream_cx_connect_timeout" Count "Connections that were not established in time.";
        Counter CX_CONNECT_ATTEMPTS_EXCEEDED "upstream_cx_connect_attempts_exceeded" Count "Requests and connections given up after the last attempt to connect.";
        Counter CX_NONE_HEALTHY "upstream_cx_none_healthy" Count "Requests and connections for which there was no endpoint at all.";
        Counter CX_IDLE_TIMEOUT "upstream_cx_idle_timeout" Count "Pooled connections closed because they were not used for too long.";
        Counter CX_POOL_OVERFLOW "upstream_cx_pool_overflow" Count "Connections closed because the pool was full.";
        Counter CX_MAX_REQUESTS "upstream_cx_max_requests" Count "Connections closed because they had served their number of requests.";
        Counter CX_CLOSE_NOTIFY "upstream_cx_close_notify" Count "Connections closed because the origin asked for it in its response.";
        Counter CX_PROTOCOL_ERROR "upstream_cx_protocol_error" Count "Responses that break the protocol.";
        Counter CX_DESTROY "upstream_cx_destroy" Count "Connections that have ended.";
        Counter CX_DESTROY_LOCAL "upstream_cx_destroy_local" Count "Connections that the proxy has ended.";
        Counter CX_DESTROY_REMOTE "upstream_cx_destroy_remote" Count "Connections that the origin has ended.";
        Counter CX_DESTROY_WITH_ACTIVE_RQ "upstream_cx_destroy_with_active_rq" Count "Connections that ended within a request.";
        Counter CX_DESTROY_LOCAL_WITH_ACTIVE_RQ "upstream_cx_destroy_local_with_active_rq" Count "Connections that the proxy has ended within a request.";
        Counter CX_DESTROY_REMOTE_WITH_ACTIVE_RQ "upstream_cx_destroy_remote_with_active_rq" Count "Connections that the origin has ended within a request.";
        Counter CX_RX_BYTES "upstream_cx_rx_bytes_total" Bytes "Bytes received from origins.";
        Counter CX_TX_BYTES "upstream_cx_tx_bytes_total" Bytes "Bytes sent to origins.";
        Histogram CX_CONNECT_TIME "upstream_cx_connect_ms" Microseconds "How long it took to connect.";
        Histogram CX_LENGTH "upstream_cx_length_ms" Microseconds "How long connections were open.";
        Counter RQ_TOTAL "upstream_rq_total" Count "Requests sent, repeated ones each time.";
        Gauge RQ_ACTIVE "upstream_rq_active" Count "Requests in progress.";
        Counter RQ_POOL_HIT "upstream_rq_pool_hit" Count "Requests sent on a pooled connection.";
        Counter RQ_PENDING_TOTAL "upstream_rq_pending_total" Count "Requests that had to wait for a new connection.";
        Gauge RQ_PENDING_ACTIVE "upstream_rq_pending_active" Count "Requests that wait for a new connection.";
        Counter RQ_PENDING_FAILURE_EJECT "upstream_rq_pending_failure_eject" Count "Requests that failed because no connection could be had.";
        Counter RQ_CANCELLED "upstream_rq_cancelled" Count "Requests that the client abandoned before a connection was there.";
        Counter RQ_TIMEOUT "upstream_rq_timeout" Count "Requests that the origin did not answer in time.";
        Counter RQ_RX_RESET "upstream_rq_rx_reset" Count "Requests whose connection the origin closed or broke before the end of the response.";
        Counter RQ_TX_RESET "upstream_rq_tx_reset" Count "Requests that the proxy broke off.";
        Counter RQ_RETRY "upstream_rq_retry" Count "Requests repeated because the pooled connection was already closed.";
        Counter RQ_RETRY_SUCCESS "upstream_rq_retry_success" Count "Repeated requests that got a response.";
        Counter RQ_COMPLETED "upstream_rq_completed" Count "Responses, the proxy's own for want of one included.";
        Counter RQ_1XX "upstream_rq_1xx" Count "Responses with a 1xx status.";
        Counter RQ_2XX "upstream_rq_2xx" Count "Responses with a 2xx status.";
        Counter RQ_3XX "upstream_rq_3xx" Count "Responses with a 3xx status.";
        Counter RQ_4XX "upstream_rq_4xx" Count "Responses with a 4xx status.";
        Counter RQ_5XX "upstream_rq_5xx" Count "Responses with a 5xx status.";
        Counter RQ_100 "upstream_rq_100" Count "Responses with status 100.";
        Counter RQ_101 "upstream_rq_101" Count "Responses with status 101.";
        Counter RQ_103 "upstream_rq_103" Count "Responses with status 103.";
        Counter RQ_200 "upstream_rq_200" Count "Responses with status 200.";
        Counter RQ_201 "upstream_rq_201" Count "Responses with status 201.";
        Counter RQ_202 "upstream_rq_202" Count "Responses with status 202.";
        Counter RQ_203 "upstream_rq_203" Count "Responses with status 203.";
        Counter RQ_204 "upstream_rq_204" Count "Responses with status 204.";
        Counter RQ_205 "upstream_rq_205" Count "Responses with status 205.";
        Counter RQ_206 "upstream_rq_206" Count "Responses with status 206.";
        Counter RQ_207 "upstream_rq_207" Count "Responses with status 207.";
        Counter RQ_300 "upstream_rq_300" Count "Responses with status 300.";
        Counter RQ_301 "upstream_rq_301" Count "Responses with status 301.";
        Counter RQ_302 "upstream_rq_302" Count "Responses with status 302.";
        Counter RQ_303 "upstream_rq_303" Count "Responses with status 303.";
        Counter RQ_304 "upstream_rq_304" Count "Responses with status 304.";
        Counter RQ_307 "upstream_rq_307" Count "Responses with status 307.";
        Counter RQ_308 "upstream_rq_308" Count "Responses with status 308.";
        Counter RQ_400 "upstream_rq_400" Count "Responses with status 400.";
        Counter RQ_401 "upstream_rq_401" Count "Responses with status 401.";
        Counter RQ_402 "upstream_rq_402" Count "Responses with status 402.";
        Counter RQ_403 "upstream_rq_403" Count "Responses with status 403.";
        Counter RQ_404 "upstream_rq_404" Count "Responses with status 404.";
        Counter RQ_405 "upstream_rq_405" Count "Responses with status 405.";
        Counter RQ_406 "upstream_rq_406" Count "Responses with status 406.";
        Counter RQ_407 "upstream_rq_407" Count "Responses with status 407.";
        Counter RQ_408 "upstream_rq_408" Count "Responses with status 408.";
        Counter RQ_409 "upstream_rq_409" Count "Responses with status 409.";
        Counter RQ_410 "upstream_rq_410" Count "Responses with status 410.";
        Counter RQ_411 "upstream_rq_411" Count "Responses with status 411.";
        Counter RQ_412 "upstream_rq_412" Count "Responses with status 412.";
        Counter RQ_413 "upstream_rq_413" Count "Responses with status 413.";
        Counter RQ_414 "upstream_rq_414" Count "Responses with status 414.";
        Counter RQ_415 "upstream_rq_415" Count "Responses with status 415.";
        Counter RQ_416 "upstream_rq_416" Count "Responses with status 416.";
        Counter RQ_417 "upstream_rq_417" Count "Responses with status 417.";
        Counter RQ_418 "upstream_rq_418" Count "Responses with status 418.";
        Counter RQ_421 "upstream_rq_421" Count "Responses with status 421.";
        Counter RQ_422 "upstream_rq_422" Count "Responses with status 422.";
        Counter RQ_423 "upstream_rq_423" Count "Responses with status 423.";
        Counter RQ_424 "upstream_rq_424" Count "Responses with status 424.";
        Counter RQ_425 "upstream_rq_425" Count "Responses with status 425.";
        Counter RQ_426 "upstream_rq_426" Count "Responses with status 426.";
        Counter RQ_428 "upstream_rq_428" Count "Responses with status 428.";
        Counter RQ_429 "upstream_rq_429" Count "Responses with status 429.";
        Counter RQ_431 "upstream_rq_431" Count "Responses with status 431.";
        Counter RQ_451 "upstream_rq_451" Count "Responses with status 451.";
        Counter RQ_499 "upstream_rq_499" Count "Responses with status 499.";
        Counter RQ_500 "upstream_rq_500" Count "Responses with status 500.";
        Counter RQ_501 "upstream_rq_501" Count "Responses with status 501.";
        Counter RQ_502 "upstream_rq_502" Count "Responses with status 502.";
        Counter RQ_503 "upstream_rq_503" Count "Responses with status 503.";
        Counter RQ_504 "upstream_rq_504" Count "Responses with status 504.";
        Counter RQ_505 "upstream_rq_505" Count "Responses with status 505.";
        Counter RQ_507 "upstream_rq_507" Count "Responses with status 507.";
        Counter RQ_511 "upstream_rq_511" Count "Responses with status 511.";
        Histogram RQ_TIME "upstream_rq_time" Microseconds "Time from sending a request to the end of its response.";
        Gauge MEMBERSHIP_TOTAL "membership_total" Count "Endpoints.";
        Gauge MEMBERSHIP_HEALTHY "membership_healthy" Count "Endpoints that requests may go to.";
        Counter MEMBERSHIP_CHANGE "membership_change" Count "Times that the endpoints have changed.";
        Counter UPDATE_ATTEMPT "update_attempt" Count "Lookups of the endpoints' names.";
        Counter UPDATE_SUCCESS "update_success" Count "Lookups that succeeded.";
        Counter UPDATE_FAILURE "update_failure" Count "Lookups that failed for at least one name.";
    }
}

scope! {
    /// An endpoint of a cluster.
    pub EndpointScope "cluster_endpoint" "cluster.{}.endpoint.{}" ["cluster", "endpoint"] {
        Counter CX_TOTAL "cx_total" Count "Connections begun.";
        Gauge CX_ACTIVE "cx_active" Count "Connections open or being opened, idle ones included.";
        Counter CX_CONNECT_FAIL "cx_connect_fail" Count "Connections that could not be established, time-outs included.";
        Counter RQ_TOTAL "rq_total" Count "Requests sent.";
        Gauge RQ_ACTIVE "rq_active" Count "Requests in progress.";
        Counter RQ_SUCCESS "rq_success" Count "Responses with a status below 500.";
        Counter RQ_ERROR "rq_error" Count "Responses with a status of 500 or more, and requests without a response.";
        Counter RQ_TIMEOUT "rq_timeout" Count "Requests that were not answered in time.";
    }
}

scope! {
    /// A worker thread and its ring.
    pub WorkerScope "worker" "worker_{}" ["worker"] {
        Gauge CX_ACTIVE "downstream_cx_active" Count "Downstream connections open.";
        Counter ENTERS "ring_enters" Count "Calls into the kernel.";
        Counter MODERATED "ring_moderated_enters" Count "Calls into the kernel that waited for several messages (`server.moderation_us`).";
        Counter COMPLETIONS "ring_completions" Count "Completions taken from the ring.";
        Counter SUBMISSIONS "ring_submissions" Count "Operations submitted to the ring.";
        Counter ENOBUFS "ring_enobufs" Count "Receives that found no buffer and waited for one.";
        Counter CQ_OVERFLOW "ring_cq_overflow" Count "Completions that did not fit into the completion queue at once.";
        Counter STALLED_CUT_OFF "ring_stalled_cut_off" Count "Connections cut off because they held receive buffers for too long while others had none.";
        Gauge BUFFERS "ring_buffers" Count "Receive buffers.";
        Gauge BUFFERS_IN_USE "ring_buffers_in_use" Count "Receive buffers that hold bytes on their way.";
        Counter ACCESS_LOG_LOST "access_log_lines_dropped" Count "Access-log lines lost because the writer was too slow.";
        Gauge SOCKETS "ring_sockets" Count "Sockets of the ring, upstream and closing ones included.";
    }
}

scope! {
    /// The process; what can be read off the table of processes is added by the reader.
    pub ServerScope "server" "server" [] {
        Counter CONFIG_WARNINGS "configuration_warnings" Count "Warnings that the configuration has given.";
        Histogram INITIALIZATION_TIME "initialization_time_ms" Microseconds "Time from the start of a process until it served.";
    }
}

scope! {
    /// Connections on their way from one process to the next.
    pub HandoverScope "handover" "server.handover" [] {
        Counter CX_MOVED "cx_moved" Count "Connections that the next process has taken.";
        Counter CX_TAKEN "cx_taken" Count "Connections taken from the process before.";
        Counter CX_REFUSED "cx_refused" Count "Connections of the process before that were not taken.";
        Counter CX_STAYED "cx_stayed" Count "Connections that stayed with their process, for whatever reason; counted for each restart.";
        Counter CX_STAYED_KIND "cx_stayed_unknown_kind" Count "Connections that stayed because the next process does not know what they are.";
        Counter CX_STAYED_PLACE "cx_stayed_no_listener" Count "Connections that stayed because the next process has no listener for them.";
        Counter CX_STAYED_DESCRIPTORS "cx_stayed_no_descriptor" Count "Connections that stayed because one of the processes has no descriptor left.";
        Counter CX_STAYED_SIZE "cx_stayed_too_large" Count "Connections that stayed because too many bytes were on their way in them.";
        Counter CX_STAYED_REFUSED "cx_stayed_refused" Count "Connections that stayed because the next process did not take them for another reason.";
        Counter CX_STAYED_UNANSWERED "cx_stayed_not_answered" Count "Connections that stayed because the next process ended or hung up before it had answered for them.";
        Counter CX_STAYED_BROKEN "cx_stayed_broken" Count "Connections that stayed because they are about to end: one of their sockets has failed.";
        Counter IDLE_MOVED "upstream_idle_moved" Count "Pooled connections to origins that the next process has taken.";
        Counter IDLE_TAKEN "upstream_idle_taken" Count "Pooled connections to origins taken from the process before.";
        Counter IDLE_CLOSED "upstream_idle_closed" Count "Pooled connections to origins that the next process could not take; they were closed.";
    }
}

/// Status codes that have a counter of their own in [`ClusterScope`].
pub const CODES: &[u16] = &[
    100, 101, 103, 200, 201, 202, 203, 204, 205, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402,
    403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425,
    426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 511,
];
