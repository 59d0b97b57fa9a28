//! What `ouro-bench micro` calls of the parts that are private. No promise to anybody else: it may change at any time.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use super::headers::{
    Client, NO_EDITS, Received, RequestRules, ResponseRules, write_request, write_response,
};
use crate::base::http::{BodyLength, Field, RequestHead, ResponseHead, Version};
use crate::base::random::Random;
use crate::config::model::Forwarding;

/// Known before a request comes, as that of a connection is.
static CLIENT: LazyLock<Client> = LazyLock::new(|| Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST)));

/// Writes the head of a request as an origin gets it, without edits of a route.
pub fn forward_request(
    out: &mut Vec<u8>,
    (head, bytes, fields): (&RequestHead, &[u8], &[Field]),
    path: &[u8],
    forwarding: &Forwarding,
    random: &mut Random,
) {
    let rules = RequestRules {
        forwarding,
        edits: [NO_EDITS; 2],
        client: Some(&CLIENT),
        path: (path != head.path.of(bytes)).then_some(path),
        host: b"www.example.com",
        upgrade: None,
    };
    write_request(out, head, Received { bytes, fields }, &rules, random);
}

/// Writes the head of a response as a client with HTTP/1.1 gets it, without edits of a route.
pub fn forward_response(
    out: &mut Vec<u8>,
    (head, bytes, fields): (&ResponseHead, &[u8], &[Field]),
    body: BodyLength,
    forwarding: &Forwarding,
) {
    let rules = ResponseRules {
        forwarding,
        edits: [NO_EDITS; 2],
        body,
        keep_alive: true,
        client_version: Version::Http11,
        upgrade: None,
    };
    write_response(out, head, Received { bytes, fields }, &rules);
}
