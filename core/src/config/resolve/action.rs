//! Actions of `[[listeners.routes]]`.

use super::super::model::{ClusterIndex, Forward, PathMatch, Redirect, Respond, RouteAction};
use super::super::reader::Section;
use super::super::values;
use super::Names;
use super::route::{Query, path};

/// Keys that say what is done; a route has exactly one of them.
const ACTIONS: [&str; 4] = ["cluster", "clusters", "redirect", "respond"];

/// Keys that mean something only if the request is forwarded.
const FORWARD_ONLY: [&str; 4] = ["prefix_rewrite", "host_rewrite", "timeout", "request_headers"];

pub(super) fn action(section: &Section<'_>, path: &PathMatch, names: &Names) -> Option<RouteAction> {
    let given: Vec<&str> = ACTIONS.into_iter().filter(|key| section.has(key)).collect();
    match given[..] {
        [] => {
            section.fail_table("expected one of the actions `cluster`, `clusters`, `redirect` and `respond`");
            return None;
        }
        [_] => {}
        [first, second, ..] => {
            section.fail(second, format!("`{first}` is given too; a route has exactly one action"));
            return None;
        }
    }
    let key = *given.first()?;
    if matches!(key, "redirect" | "respond") {
        for other in FORWARD_ONLY.into_iter().filter(|other| section.has(other)) {
            section.fail(other, format!("has no effect beside `{key}`: the request is not forwarded"));
        }
    }
    match key {
        "redirect" => redirect(&section.optional_table(key)?, path).map(RouteAction::Redirect),
        "respond" => respond(&section.optional_table(key)?).map(RouteAction::Respond),
        _ => forward(section, path, names).map(RouteAction::Forward),
    }
}

fn forward(section: &Section<'_>, path: &PathMatch, names: &Names) -> Option<Forward> {
    let clusters: Vec<(ClusterIndex, u32)> = if section.has("clusters") {
        weighted(section, names)
    } else {
        names.cluster(section, "cluster").map(|cluster| (cluster, 1)).into_iter().collect()
    };
    let total_weight = clusters.iter().map(|(_, weight)| weight).try_fold(0u32, |sum, n| sum.checked_add(*n));
    if total_weight.is_none() {
        section.fail("clusters", "the sum of the weights is too large");
    }
    let timeout_ms = section.has("timeout").then(|| section.duration("timeout"));
    let prefix_rewrite = prefix_rewrite(section, section.has("prefix_rewrite"), path);
    let host_rewrite = section.read("host_rewrite", values::authority);
    Some(Forward { clusters, total_weight: total_weight?, prefix_rewrite, host_rewrite, timeout_ms })
}

fn weighted(section: &Section<'_>, names: &Names) -> Vec<(ClusterIndex, u32)> {
    let tables = section.tables("clusters");
    if tables.is_empty() && section.is_array("clusters") {
        section.fail("clusters", "expected at least one cluster");
    }
    let mut clusters: Vec<(ClusterIndex, u32)> = Vec::with_capacity(tables.len());
    for table in tables {
        let weight = table.integer("weight");
        let Some(cluster) = names.cluster(&table, "name") else { continue };
        if clusters.iter().any(|(other, _)| *other == cluster) {
            table.fail("name", "this cluster is listed twice");
        }
        clusters.push((cluster, weight));
    }
    clusters
}

fn redirect(section: &Section<'_>, path_match: &PathMatch) -> Option<Redirect> {
    let status = section.integer("status");
    if !matches!(status, 0 | 301 | 302 | 303 | 307 | 308) {
        section.fail("status", format!("expected 301, 302, 303, 307 or 308, found {status}"));
    }
    let strip_query = section.boolean("strip_query").unwrap_or_default();
    if !strip_query && !["scheme", "host", "path", "prefix_rewrite"].iter().any(|key| section.has(key)) {
        section.fail_table(
            "changes nothing, so the client would come back for ever; expected one of `scheme`, `host`, `path`, \
             `prefix_rewrite` and `strip_query`",
        );
    }
    if section.has("path") && section.has("prefix_rewrite") {
        section.fail("prefix_rewrite", "`path` is given too; a redirect has one of them");
    }
    Some(Redirect {
        status: u16::try_from(status).ok()?,
        scheme: section.choice("scheme").map(str::to_owned),
        host: section.read("host", values::authority),
        path: section.text("path").and_then(|text| path(section, "path", text, Query::Allowed)),
        prefix_rewrite: prefix_rewrite(section, section.has("prefix_rewrite"), path_match),
        strip_query,
    })
}

fn prefix_rewrite(section: &Section<'_>, given: bool, path_match: &PathMatch) -> Option<String> {
    if given && *path_match == PathMatch::Any {
        section
            .fail("prefix_rewrite", "needs `path_prefix` or `path` in the route: that is what it replaces");
    }
    section.text("prefix_rewrite").and_then(|text| path(section, "prefix_rewrite", text, Query::Refused))
}

fn respond(section: &Section<'_>) -> Option<Respond> {
    let status = section.integer("status");
    let body = section.text("body").map(|text| text.text.as_bytes().to_vec());
    if matches!(status, 204 | 205 | 304) && body.as_ref().is_some_and(|body| !body.is_empty()) {
        section.fail("body", format!("a {status} response has no body"));
    }
    let content_type = section.read("content_type", |text| {
        values::header_value(text)?;
        if text.is_empty() {
            Err("expected a media type such as \"text/plain\"".to_owned())
        } else {
            Ok(text.to_owned())
        }
    });
    Some(Respond { status: u16::try_from(status).ok()?, body: body?, content_type: content_type? })
}
