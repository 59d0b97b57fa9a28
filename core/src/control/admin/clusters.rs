//! `/clusters`: every endpoint with its health and its counters, as Envoy prints them.

use std::collections::HashMap;
use std::fmt::Write;

use axum::extract::{Query, State};
use axum::response::Response;
use ouro_shm::{Entity, Kind, Snapshot, Value as Counted};
use serde_json::{Value, json};

use super::AdminState;
use super::commands::Parameters;
use super::info::{address_json, wants_json};
use super::paths::{AppState, Refusal, json, page, text};
use crate::config::model::{Address, LoadBalancing};

/// The scope of what is counted per endpoint; its labels are cluster and endpoint.
const SCOPE: &str = "cluster_endpoint";

pub(super) async fn clusters(State(app): AppState, Query(query): Parameters) -> Result<Response, Refusal> {
    if wants_json(&query)? {
        return Ok(json(&page(&app, in_json).await?));
    }
    Ok(text(page(&app, in_text).await?))
}

/// Counters by cluster and endpoint, so that ten thousand clusters need no ten thousand searches.
type Found<'s> = HashMap<(&'s str, &'s str), &'s Entity>;

fn find(snapshot: &Snapshot) -> Found<'_> {
    let of_endpoints = snapshot.entities.iter().filter(|entity| entity.scope.name == SCOPE);
    of_endpoints
        .filter_map(|entity| match &entity.labels[..] {
            [cluster, endpoint] => Some(((cluster.as_str(), endpoint.as_str()), entity)),
            _ => None,
        })
        .collect()
}

/// Counters and gauges of an entity, by name.
fn numbers(entity: &Entity) -> impl Iterator<Item = (&str, Kind, u64)> {
    entity.scope.metrics.iter().zip(&entity.values).filter_map(|(metric, value)| match value {
        Counted::Counter(n) | Counted::Gauge(n) => Some((metric.name.as_str(), metric.kind, *n)),
        Counted::Histogram(_) => None,
    })
}

fn in_text(admin: &AdminState, snapshot: &Snapshot) -> String {
    let found = find(snapshot);
    let mut lines = String::new();
    for (index, cluster) in admin.model.clusters.iter().enumerate() {
        let name = &cluster.name;
        let _ = writeln!(lines, "{name}::observability_name::{name}");
        let _ = writeln!(lines, "{name}::load_balancing::{}", load_balancing(cluster.load_balancing));
        let _ = writeln!(lines, "{name}::added_via_api::false");
        for (address, weight) in (admin.endpoints)(index) {
            if let Some(entity) = found.get(&(name.as_str(), address.as_str())) {
                for (metric, _, value) in numbers(entity) {
                    let _ = writeln!(lines, "{name}::{address}::{metric}::{value}");
                }
            }
            let _ = writeln!(lines, "{name}::{address}::health_flags::healthy");
            let _ = writeln!(lines, "{name}::{address}::weight::{weight}");
        }
    }
    lines
}

fn in_json(admin: &AdminState, snapshot: &Snapshot) -> Value {
    let found = find(snapshot);
    let cluster_status = |(index, cluster): (usize, &std::sync::Arc<crate::config::model::Cluster>)| {
        let host_status = |(address, weight): (String, u32)| {
            let stats: Vec<Value> = found
                .get(&(cluster.name.as_str(), address.as_str()))
                .into_iter()
                .flat_map(|entity| numbers(entity))
                .map(|(metric, kind, value)| {
                    let kind = if kind == Kind::Gauge { "GAUGE" } else { "COUNTER" };
                    // Text, because that is how 64 bits travel in Envoy's JSON.
                    json!({ "name": metric, "type": kind, "value": value.to_string() })
                })
                .collect();
            json!({
                "address": endpoint_json(&address),
                "stats": stats,
                "health_status": { "eds_health_status": "HEALTHY" },
                "weight": weight,
            })
        };
        json!({
            "name": cluster.name,
            "added_via_api": false,
            "load_balancing": load_balancing(cluster.load_balancing),
            "host_statuses": (admin.endpoints)(index).into_iter().map(host_status).collect::<Vec<_>>(),
        })
    };
    let statuses: Vec<Value> = admin.model.clusters.iter().enumerate().map(cluster_status).collect();
    json!({ "cluster_statuses": statuses })
}

fn endpoint_json(address: &str) -> Value {
    let parsed = address
        .parse()
        .map(Address::Ip)
        .unwrap_or_else(|_| Address::Unix(address.strip_prefix("unix:").unwrap_or(address).into()));
    address_json(&parsed)
}

/// The name that configurations have for it.
pub(super) const fn load_balancing(kind: LoadBalancing) -> &'static str {
    match kind {
        LoadBalancing::RoundRobin => "round_robin",
        LoadBalancing::LeastRequest => "least_request",
        LoadBalancing::Random => "random",
    }
}
