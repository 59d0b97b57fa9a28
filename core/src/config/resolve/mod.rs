//! From checked tables to the model: names become indices, contradictions are refused.
//!
//! After an error a stand-in keeps the work going, so that one run finds all errors; whoever calls [`model`] looks
//! at the report before he uses the result.

mod action;
mod cluster;
mod headers;
mod listener;
mod route;
mod shadow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use toml::de::DeTable;

use super::errors::Report;
use super::model::{Address, Admin, ClusterIndex, Model, Server};
use super::reader::Section;
use super::values::{self, size_text};
use super::wording::did_you_mean;
use crate::base::limits;

/// The model, unless the report has errors.
pub(super) fn model(document: &DeTable<'_>, report: &Report) -> Option<Model> {
    let root = Section::root(document, report);
    let mut names = Names::default();
    let cluster_sections = root.tables("clusters");
    for (index, section) in cluster_sections.iter().enumerate() {
        names.add_cluster(section, index);
    }
    let server = server(&root.table("server"));
    let admin = root.optional_table("admin").and_then(|section| {
        let address = names.address(&section)?;
        let names = section.texts("names").iter().map(|text| text.text.to_ascii_lowercase()).collect();
        Some(Admin { address, names })
    });
    let mut warnings = Vec::new();
    let listeners: Vec<_> = root
        .tables("listeners")
        .iter()
        .filter_map(|section| listener::listener(section, &mut names, &mut warnings))
        .map(Arc::new)
        .collect();
    if root.has("listeners") && listeners.is_empty() && report.is_empty() {
        root.fail("listeners", "expected at least one listener");
    }
    let clusters = cluster_sections.iter().filter_map(cluster::cluster).map(Arc::new).collect();
    report.is_empty().then_some(Model { server, admin, listeners, clusters, warnings })
}

fn server(section: &Section<'_>) -> Server {
    let server = Server {
        max_connections: section.count("max_connections"),
        buffer_memory: section.memory_size("buffer_memory"),
        buffer_size: section.memory_size("buffer_size"),
        moderation_us: match section.integer("moderation_us") {
            u32::MAX => 0,
            wait => wait,
        },
        stats_memory: section.memory_size("stats_memory") as u64,
        shutdown_timeout_ms: section.duration("shutdown_timeout"),
    };
    if server.buffer_size == 0 || server.buffer_memory == 0 {
        return server; // reported already
    }
    let buffers = server.buffer_memory / server.buffer_size;
    let text = |buffers: usize| size_text((buffers * server.buffer_size) as u64);
    if !server.buffer_size.is_power_of_two() {
        section.fail("buffer_size", "expected a power of two, such as \"64KiB\"");
    } else if buffers < limits::INITIAL_RECEIVE_BUFFERS {
        let least = text(limits::INITIAL_RECEIVE_BUFFERS);
        section.fail("buffer_memory", format!("expected at least \"{least}\" for buffers of this size"));
    } else if buffers > limits::MAX_RECEIVE_BUFFERS {
        let most = text(limits::MAX_RECEIVE_BUFFERS);
        section.fail(
            "buffer_memory",
            format!("buffers of this size can use \"{most}\" at most; larger ones more"),
        );
    }
    server
}

/// What must be unique, and what names refer to.
#[derive(Default)]
struct Names {
    clusters: HashMap<String, ClusterIndex>,
    listeners: HashMap<String, String>,
    /// Addresses with the path of the table that binds them. There are few, and an address is no hash key.
    addresses: Vec<(Address, String)>,
}

impl Names {
    fn add_cluster(&mut self, section: &Section<'_>, index: ClusterIndex) {
        let Some(name) = name(section) else { return };
        if let Some(first) = self.clusters.get(&name) {
            section.fail("name", format!("the name {name:?} is taken by clusters[{first}]"));
        } else {
            self.clusters.insert(name, index);
        }
    }

    fn add_listener(&mut self, section: &Section<'_>) -> Option<String> {
        let name = name(section)?;
        if let Some(first) = self.listeners.insert(name.clone(), section.path().to_owned()) {
            section.fail("name", format!("the name {name:?} is taken by {first}"));
        }
        Some(name)
    }

    /// An address to bind that nothing else binds.
    fn address(&mut self, section: &Section<'_>) -> Option<Address> {
        let address = section.read("address", values::listen_address)?;
        // Port 0 is another port each time.
        let chosen_by_kernel = matches!(address, Address::Ip(ip) if ip.port() == 0);
        if let Some((_, first)) = self.addresses.iter().find(|(other, _)| *other == address)
            && !chosen_by_kernel
        {
            section.fail("address", format!("{first} has this address already"));
        }
        self.addresses.push((address.clone(), section.path().to_owned()));
        Some(address)
    }

    /// The cluster that a key names.
    fn cluster(&self, section: &Section<'_>, key: &str) -> Option<ClusterIndex> {
        let name = section.text(key)?;
        let found = self.clusters.get(name.text).copied();
        if found.is_none() {
            let hint = did_you_mean(name.text, self.clusters.keys().map(String::as_str));
            section.fail_text(key, name, format!("there is no cluster {}{hint}", values::quoted(name.text)));
        }
        found
    }
}

/// The `name` of a listener or a cluster.
fn name(section: &Section<'_>) -> Option<String> {
    section.read("name", |text| {
        if values::is_name(text) {
            return Ok(text.to_owned());
        }
        let found = values::quoted(text);
        Err(format!("expected a name of 1 to 64 letters, digits, \"_\", \".\" or \"-\", found {found}"))
    })
}
