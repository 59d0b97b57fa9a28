//! Ouro's counters beside what clients and origin have counted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ouro_shm::{ReadOptions, Segment, Snapshot};
use serde::Serialize;

use super::tally::{Kind, Shared};
use crate::machine;

/// How long ends of connections may take until they are counted.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A number that must be the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Compared {
    /// Ouro's name for it; `*` stands for several, which are added.
    pub(super) name: &'static str,
    /// What Ouro says.
    pub(super) ouro: u64,
    /// What it must be.
    pub(super) counted: u64,
}

/// Compares, once all clients have closed their connections. Waits until the last ends are counted.
///
/// # Errors
/// When the segment cannot be read.
pub(super) fn compare(
    base_id: u32,
    shared: &Shared,
    one_configuration: bool,
) -> Result<Vec<Compared>, String> {
    let segment = Segment::attach_existing(base_id).map_err(|error| format!("counters: {error}"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        let compared = read(&segment.snapshot(&ReadOptions::default()), shared, one_configuration);
        if compared.iter().all(|one| one.ouro == one.counted) || Instant::now() > end {
            return Ok(compared);
        }
        machine::check_interrupt()?;
        std::thread::sleep(LOOK_EVERY);
    }
}

fn read(snapshot: &Snapshot, shared: &Shared, one_configuration: bool) -> Vec<Compared> {
    let of = |scope: &str, label: &str, metric: &str| {
        let entities = snapshot.entities.iter();
        let entities = entities.filter(|entity| entity.scope.name == scope);
        let chosen = entities.filter(|entity| label == "*" || entity.labels.iter().any(|own| own == label));
        chosen.map(|entity| entity.number(metric)).sum::<u64>()
    };
    let (tcp, http) = (Kind::is_tcp as fn(Kind) -> bool, |kind: Kind| !kind.is_tcp());
    // Each WebSocket connection is one request; what is counted as begun are its messages.
    let upgrades = shared.counts(Kind::Websocket);
    let plain = |kind: Kind| http(kind) && kind != Kind::Websocket;
    let requests = shared.sum(plain, |counts| counts.begun) + upgrades.connects;
    let answered = shared.sum(plain, |counts| counts.answered);
    let one = |name, ouro, counted| Compared { name, ouro, counted };
    let web = |metric| of("http", "web", metric);
    let relay = |metric| of("tcp", "tcp", metric);
    let mut compared = vec![
        one("http.web.downstream_cx_total", web("downstream_cx_total"), shared.sum(http, |c| c.connects)),
        one("http.web.downstream_rq_total", web("downstream_rq_total"), requests),
        one("http.web.downstream_rq_1xx", web("downstream_rq_1xx"), upgrades.answered),
        one("http.web.downstream_cx_upgrades_total", web("downstream_cx_upgrades_total"), upgrades.answered),
        one("http.web.rq_total", web("rq_total"), shared.origin.requests.load(Ordering::Relaxed)),
        one("tcp.tcp.downstream_cx_total", relay("downstream_cx_total"), shared.sum(tcp, |c| c.connects)),
        one("tcp.tcp.downstream_cx_rx_bytes_total", relay("downstream_cx_rx_bytes_total"), {
            shared.sum(tcp, |counts| counts.sent)
        }),
        one("tcp.tcp.downstream_cx_tx_bytes_total", relay("downstream_cx_tx_bytes_total"), {
            shared.sum(tcp, |counts| counts.received)
        }),
        one("http.web.downstream_rq_5xx", web("downstream_rq_5xx"), 0),
        one("http.web.downstream_cx_active", web("downstream_cx_active"), 0),
        one("http.web.downstream_rq_active", web("downstream_rq_active"), 0),
        one("http.web.downstream_cx_upgrades_active", web("downstream_cx_upgrades_active"), 0),
        one("tcp.tcp.downstream_cx_active", relay("downstream_cx_active"), 0),
        one("cluster.*.upstream_rq_active", of("cluster", "*", "upstream_rq_active"), 0),
    ];
    // What a cluster has counted goes with it when a configuration has it no more.
    if one_configuration {
        let sent = of("cluster", "*", "upstream_rq_total");
        compared.push(one(
            "cluster.*.upstream_rq_total",
            sent,
            shared.origin.requests.load(Ordering::Relaxed),
        ));
    }
    // A transfer that its client gave up was answered or not, as it happened.
    if shared.clients.finish {
        compared.push(one("http.web.downstream_rq_2xx", web("downstream_rq_2xx"), answered));
    }
    compared
}
