//! Finds routes that no request can reach.

use std::collections::{BTreeSet, HashSet};

use super::super::model::{PathMatch, Route};

/// Warns of routes behind one that takes every request they could match.
///
/// Only routes for any host are considered as takers: that finds the usual mistake, a catch-all that is not last,
/// in time that grows with the number of routes and not with its square.
pub(super) fn warn(listener: &str, routes: &[Route], warnings: &mut Vec<String>) {
    let mut takers = Takers::default();
    for (index, route) in routes.iter().enumerate() {
        if takers.take(&route.path) {
            warnings.push(format!(
                "{listener}.routes[{index}] is never reached: a route before it takes its requests"
            ));
        } else if route.hosts.is_empty() && route.methods.is_empty() && route.headers.is_empty() {
            takers.add(&route.path);
        }
    }
}

#[derive(Default)]
struct Takers<'r> {
    everything: bool,
    exact: HashSet<&'r str>,
    prefixes: HashSet<&'r str>,
    prefix_lengths: BTreeSet<usize>,
}

impl<'r> Takers<'r> {
    fn add(&mut self, path: &'r PathMatch) {
        match path {
            PathMatch::Any => self.everything = true,
            PathMatch::Exact(path) => {
                self.exact.insert(path);
            }
            PathMatch::Prefix(path) => {
                self.prefixes.insert(path);
                self.prefix_lengths.insert(path.len());
            }
        }
    }

    fn take(&self, path: &PathMatch) -> bool {
        let below_prefix = |path: &str| {
            self.prefix_lengths
                .range(..=path.len())
                .any(|length| path.get(..*length).is_some_and(|start| self.prefixes.contains(start)))
        };
        self.everything
            || match path {
                PathMatch::Any => false,
                PathMatch::Exact(path) => self.exact.contains(path.as_str()) || below_prefix(path),
                PathMatch::Prefix(path) => below_prefix(path),
            }
    }
}
