//! The states in which sessions wait, as `worker/probe.rs` names them: all that there can be.

/// All of them.
pub fn all<'a>() -> impl Iterator<Item = &'a str> {
    let waiting = [TCP_AIMS, HTTP_AIMS, COMMON].into_iter().flatten().copied();
    waiting.chain(TRANSIENT.iter().map(|(state, _)| *state))
}

/// Why no session waits in a state, so that its task cannot be dropped there. It may be moved in it: what was in flight when
/// it was to go has come to its end meanwhile.
pub fn never_waits(state: &str) -> Option<&'static str> {
    TRANSIENT.iter().find(|(known, _)| *known == state).map(|(_, why)| *why)
}

/// States in which sessions do not wait.
const TRANSIENT: &[(&str, &str)] = &[
    ("http: closing", "it is over when nothing is queued"),
    ("http: lingering", "FIN follows at once when nothing is queued"),
    ("http: resetting", "it is over when nothing is queued"),
    ("http: tunnel, both have ended", "it is over when nothing is queued"),
    ("tcp: relay, both have ended", "it is over when nothing is queued"),
];

/// States that sessions are in so often that no handover has to be aimed at them.
const COMMON: &[&str] = &[
    "tcp: connecting",
    "http: first head",
    "http: next head",
    "http: next head, bytes queued down",
    "http: part of a head",
    "http: connecting",
    "http: response head",
    "http: response head, bytes queued down",
    "http: response head, bytes queued up",
    "http: response head, bytes queued both ways",
    "http: response head and request body",
    "http: response head and request body, bytes queued up",
    "http: response body",
    "http: response body, bytes queued down",
    "http: closing, bytes queued down",
    "http: lingering, bytes queued down",
    "http: lingering after FIN",
];

/// The other states of relayed connections, the rarest first.
pub const TCP_AIMS: &[&str] = &[
    "tcp: relay, both have ended, bytes queued both ways",
    "tcp: relay, origin has ended, bytes queued down",
    "tcp: relay, origin has ended",
    "tcp: relay, both have ended, bytes queued up",
    "tcp: relay, origin has ended, bytes queued both ways",
    "tcp: relay, both have ended, bytes queued down",
    "tcp: relay, client has ended, bytes queued both ways",
    "tcp: relay, client has ended, bytes queued up",
    "tcp: relay",
    "tcp: relay, client has ended",
    "tcp: relay, bytes queued down",
    "tcp: relay, bytes queued both ways",
    "tcp: relay, bytes queued up",
    "tcp: relay, origin has ended, bytes queued up",
    "tcp: relay, client has ended, bytes queued down",
];

/// The other states of HTTP connections, the rarest first.
pub const HTTP_AIMS: &[&str] = &[
    "http: resetting, bytes queued down",
    "http: tunnel, both have ended, bytes queued both ways",
    "http: response body and request body",
    "http: tunnel, client has ended, bytes queued up",
    "http: response body, bytes queued up",
    "http: tunnel, client has ended, bytes queued both ways",
    "http: rest of the response head and request body, bytes queued down",
    "http: tunnel, client has ended",
    "http: tunnel, both have ended, bytes queued down",
    "http: tunnel, origin has ended, bytes queued both ways",
    "http: rest of the response head, bytes queued both ways",
    "http: rest of the response head and request body, bytes queued both ways",
    "http: tunnel, both have ended, bytes queued up",
    "http: response body and request body, bytes queued up",
    "http: body that nobody wants, bytes queued down",
    "http: tunnel, origin has ended, bytes queued down",
    "http: rest of the response head and request body",
    "http: closing after FIN",
    "http: response head and request body, bytes queued down",
    "http: tunnel, origin has ended",
    "http: rest of the response head, bytes queued up",
    "http: response head and request body, bytes queued both ways",
    "http: response body, bytes queued both ways",
    "http: tunnel, bytes queued up",
    "http: response body and request body, bytes queued down",
    "http: part of a head, bytes queued down",
    "http: tunnel",
    "http: rest of the response head, bytes queued down",
    "http: tunnel, bytes queued both ways",
    "http: response body and request body, bytes queued both ways",
    "http: body that nobody wants",
    "http: rest of the response head and request body, bytes queued up",
    "http: tunnel, client has ended, bytes queued down",
    "http: tunnel, bytes queued down",
    "http: tunnel, origin has ended, bytes queued up",
    "http: rest of the response head",
];
