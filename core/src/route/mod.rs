//! Which route a request takes, and what becomes of its path.
//!
//! Works on bytes as they were received and allocates nothing. Paths are compared as they are: `/a/../b` and `/%61`
//! are not normalised, because an origin that normalises in another way would see another path than was routed.
//!
//! Knows nothing of connections or of how a request was received.

mod hosts;
mod rewrite;

use std::cell::LazyCell;

use crate::base::http::Field;
use crate::base::random::Random;
use crate::config::model::{ClusterIndex, Forward, HeaderMatch, PathMatch, Route, ValueMatch};

use self::hosts::HostIndex;
pub use self::rewrite::{redirect_location, rewrite_path};

/// Finds the route of a request. Belongs to the list of routes that it was built from and only works with that.
#[derive(Debug)]
pub struct RouteTable {
    /// The first route takes every request, as the only one of many a listener does.
    first_takes_all: bool,
    /// `None` if no route asks for a host; then there is nothing to look up.
    hosts: Option<HostIndex>,
}

/// What routing needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery<'q> {
    /// Authority as received, possibly with a port; empty if there is none.
    pub host: &'q [u8],
    /// Path and query as received; an empty path means `/`.
    pub path: &'q [u8],
    /// Method as received.
    pub method: &'q [u8],
    /// Header fields.
    pub fields: &'q [Field],
    /// The buffer that `fields` points into.
    pub head: &'q [u8],
}

impl RouteTable {
    /// Indexes routes by host.
    #[must_use]
    pub fn new(routes: &[Route]) -> Self {
        let any_host_only = routes.iter().all(|route| route.hosts.is_empty());
        let first_takes_all = routes.first().is_some_and(|route| {
            route.path == PathMatch::Any
                && route.hosts.is_empty()
                && route.methods.is_empty()
                && route.headers.is_empty()
        });
        Self { first_takes_all, hosts: (!any_host_only).then(|| HostIndex::new(routes)) }
    }

    /// The first route, in the order of the file, that matches.
    #[must_use]
    pub fn pick<'r>(&self, routes: &'r [Route], query: &RouteQuery<'_>) -> Option<&'r Route> {
        routes.get(self.position(routes, query)?)
    }

    /// The position of the first route, in the order of the file, that matches.
    #[must_use]
    pub fn position(&self, routes: &[Route], query: &RouteQuery<'_>) -> Option<usize> {
        if self.first_takes_all {
            return Some(0);
        }
        // Looked for by the first route that asks for it.
        let path = LazyCell::new(|| path_of(query.path));
        let Some(hosts) = &self.hosts else {
            return routes.iter().position(|route| matches(route, &path, query));
        };
        // Each list is in the order of the file, so the first match of all is the smallest of the lists' first
        // matches, and a list need not be read beyond the best that is known. Routes for one host go first in most
        // files, which leaves nothing to read in the other lists.
        let mut best: Option<u32> = None;
        hosts.candidates(query.host, |list| {
            for index in list.iter().copied().take_while(|index| best.is_none_or(|best| *index < best)) {
                if routes.get(index as usize).is_some_and(|route| matches(route, &path, query)) {
                    best = Some(index);
                    break;
                }
            }
        });
        best.map(|index| index as usize)
    }
}

/// One of the clusters of a route, at random by weight.
#[inline]
#[must_use]
pub fn pick_cluster(forward: &Forward, random: &mut Random) -> ClusterIndex {
    if let [(only, _)] = forward.clusters[..] {
        return only;
    }
    let mut ticket = random.below(forward.total_weight as usize);
    for (cluster, weight) in &forward.clusters {
        match ticket.checked_sub(*weight as usize) {
            Some(rest) => ticket = rest,
            None => return *cluster,
        }
    }
    unreachable!("the weights add up to the total, and there is at least one cluster")
}

/// The path without the query.
fn path_of(path_and_query: &[u8]) -> &[u8] {
    let (path, _) = split_query(path_and_query);
    if path.is_empty() { b"/" } else { path }
}

/// The path, and the query with its `?`, possibly empty.
fn split_query(path_and_query: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'?', path_and_query).unwrap_or(path_and_query.len());
    path_and_query.split_at(end)
}

/// Whether a request meets every condition of a route but that on the host.
fn matches<'q>(
    route: &Route,
    path: &LazyCell<&'q [u8], impl FnOnce() -> &'q [u8]>,
    query: &RouteQuery<'_>,
) -> bool {
    let path_matches = match &route.path {
        PathMatch::Any => true,
        PathMatch::Exact(exact) => **path == exact.as_bytes(),
        PathMatch::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
    };
    path_matches
        && (route.methods.is_empty() || route.methods.iter().any(|method| method.as_bytes() == query.method))
        && route.headers.iter().all(|condition| header_matches(condition, query))
}

fn header_matches(condition: &HeaderMatch, query: &RouteQuery<'_>) -> bool {
    let name = condition.name.as_bytes();
    let found = query.fields.iter().any(|field| {
        usize::from(field.name_len) == name.len()
            && field.name(query.head).eq_ignore_ascii_case(name)
            && value_matches(&condition.value, field.value(query.head))
    });
    found != condition.invert
}

fn value_matches(condition: &ValueMatch, value: &[u8]) -> bool {
    match condition {
        ValueMatch::Present => true,
        ValueMatch::Exact(exact) => value == exact.as_bytes(),
        ValueMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        ValueMatch::Regex(regex) => regex.is_match(value),
    }
}

#[cfg(test)]
mod tests;
