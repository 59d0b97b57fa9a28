//! `[[clusters]]`.

use std::collections::HashSet;

use super::super::model::{Address, Cluster, Endpoint, EndpointTarget, LoadBalancing};
use super::super::reader::{Entry, Section};
use super::super::values;

pub(super) fn cluster(section: &Section<'_>) -> Option<Cluster> {
    let endpoints = endpoints(section);
    let load_balancing = match section.choice("load_balancing") {
        Some("least_request") => LoadBalancing::LeastRequest,
        Some("random") => LoadBalancing::Random,
        _ => LoadBalancing::RoundRobin,
    };
    let cluster = Cluster {
        name: String::new(),
        endpoints,
        load_balancing,
        connect_timeout_ms: section.duration("connect_timeout"),
        connect_attempts: section.integer("connect_attempts"),
        response_timeout_ms: section.duration("response_timeout"),
        idle_timeout_ms: section.duration("idle_timeout"),
        max_idle_connections: section.count("max_idle_connections"),
        requests_per_connection: section.integer("requests_per_connection"),
        unsafe_reuse_within_ms: section.duration("unsafe_reuse_within"),
        resolve_period_ms: section.duration("resolve_period"),
        response_head_size: section.memory_size("response_head_size"),
        response_headers: section.count("response_headers"),
    };
    // The name was checked, and errors about it reported, when names were collected.
    let name = section.given_text("name")?.to_owned();
    Some(Cluster { name, ..cluster })
}

fn endpoints(section: &Section<'_>) -> Vec<Endpoint> {
    let entries = section.entries("endpoints");
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(entries.len());
    let mut seen = HashSet::new();
    let empty = entries.is_empty();
    for entry in entries {
        let (target, weight) = match &entry {
            Entry::Text(text) => match values::endpoint(text.text) {
                Ok(target) => (Some(target), 1),
                Err(message) => {
                    section.fail_text("endpoints", *text, message);
                    (None, 1)
                }
            },
            Entry::Table(table) => (table.read("address", values::endpoint), table.integer("weight")),
        };
        let Some(target) = target else { continue };
        let same = seen.replace(written(&target));
        if same.is_some() {
            let message = "this endpoint is listed twice; give it a `weight` for a larger share";
            match &entry {
                Entry::Text(text) => section.fail_text("endpoints", *text, message),
                Entry::Table(table) => table.fail("address", message),
            }
        }
        endpoints.push(Endpoint { target, weight });
    }
    if empty && section.is_array("endpoints") {
        section.fail("endpoints", "expected at least one endpoint");
    }
    endpoints
}

/// One text for each target, to find those listed twice.
fn written(target: &EndpointTarget) -> String {
    match target {
        EndpointTarget::Address(Address::Ip(address)) => address.to_string(),
        EndpointTarget::Address(Address::Unix(path)) => format!("unix:{}", path.display()),
        EndpointTarget::Name { host, port } => format!("{host}:{port}"),
    }
}
