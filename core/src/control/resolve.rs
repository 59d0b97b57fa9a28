//! Names of endpoints become addresses, at start and again every resolve period.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::model::{Address, Cluster, EndpointTarget};
use crate::upstream::Resolved;

/// A lookup that takes longer has failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a cluster has names at all.
#[must_use]
pub fn has_names(cluster: &Cluster) -> bool {
    cluster.endpoints.iter().any(|endpoint| matches!(endpoint.target, EndpointTarget::Name { .. }))
}

/// What each name, with its port, was resolved to last.
pub type Known = HashMap<(String, u16), Vec<SocketAddr>>;

/// Addresses of all endpoints of a cluster. A name that cannot be resolved keeps the addresses that it had, so that a
/// resolver that is down takes no service down. Says, too, whether a lookup has failed.
pub async fn resolve(cluster: &Cluster, known: &mut Known) -> (Resolved, bool) {
    let (mut resolved, mut failed) = (Resolved::new(), false);
    for endpoint in &cluster.endpoints {
        match &endpoint.target {
            EndpointTarget::Address(address) => add(&mut resolved, address.clone(), endpoint.weight),
            EndpointTarget::Name { host, port } => {
                let last = known.entry((host.clone(), *port)).or_default();
                match lookup(host, *port).await {
                    Ok(addresses) => *last = addresses,
                    Err(error) => {
                        failed = true;
                        tracing::warn!(
                            cluster = cluster.name,
                            host,
                            error,
                            known = last.len(),
                            "name not resolved"
                        );
                    }
                }
                for address in last {
                    add(&mut resolved, Address::Ip(*address), endpoint.weight);
                }
            }
        }
    }
    (resolved, failed)
}

fn add(resolved: &mut Resolved, address: Address, weight: u32) {
    if !resolved.iter().any(|(known, _)| *known == address) {
        resolved.push((address, weight));
    }
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| String::from("the resolver did not answer in time"))?
        .map_err(|error| error.to_string())?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() { Err(String::from("the name has no address")) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn cluster(endpoint: &str) -> std::sync::Arc<Cluster> {
        let text = format!(
            "[[listeners]]\nname='l'\naddress='127.0.0.1:0'\nprotocol='tcp'\ncluster='c'\n\
             [[clusters]]\nname='c'\nendpoints=['127.0.0.1:1', '{endpoint}']\n"
        );
        std::sync::Arc::clone(&config::parse(&text, "test").unwrap().clusters[0])
    }

    #[test]
    fn localhost_has_an_address_and_a_lost_name_keeps_its_last() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (local, _) = runtime.block_on(resolve(&cluster("localhost:7"), &mut Known::new()));
        assert!(local.contains(&(Address::Ip("127.0.0.1:7".parse().unwrap()), 1)), "{local:?}");
        let mut known = Known::new();
        known.insert(("no-such-host.invalid".into(), 7), vec!["127.0.0.9:7".parse().unwrap()]);
        known.insert(("other.invalid".into(), 7), vec!["127.0.0.8:7".parse().unwrap()]);
        let (lost, failed) = runtime.block_on(resolve(&cluster("no-such-host.invalid:7"), &mut known));
        assert!(failed);
        let address = |text: &str| (Address::Ip(text.parse().unwrap()), 1);
        assert_eq!(lost, [address("127.0.0.1:1"), address("127.0.0.9:7")], "what others had is theirs");
    }
}
