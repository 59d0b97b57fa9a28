//! Tests of the exposition as a whole, with the judgement of `promtool` where it is installed.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use ouro_shm::HistogramValue;

use super::super::{fixtures, server};
use super::*;

fn rendered(snapshot: &Snapshot) -> String {
    render(snapshot, &Options::default())
}

/// Checks what every output must have, and asks `promtool`.
#[track_caller]
fn assert_sound(text: &str) {
    let (mut announced, mut current) = (HashSet::new(), String::new());
    let mut samples = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap().to_owned();
            assert!(announced.insert(current.clone()), "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next(), Some(current.as_str()), "TYPE follows HELP");
        } else {
            assert!(line.starts_with(&current), "{line} is not of the family {current}");
            let (sample, _) = line.rsplit_once(' ').unwrap();
            assert!(samples.insert(sample.to_owned()), "twice: {sample}");
        }
    }
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("promtool is not installed: its opinion was not asked");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_small_instance() {
    let mut snapshot = fixtures::small();
    server::add(&mut snapshot);
    let text = rendered(&snapshot);
    assert_sound(&text);
    for expected in [
        "# HELP ouro_cluster_upstream_rq_total Help of upstream_rq_total.\n\
         # TYPE ouro_cluster_upstream_rq_total counter\n\
         ouro_cluster_upstream_rq_total{cluster=\"api\"} 1200\n",
        "ouro_cluster_upstream_rq_xx_total{cluster=\"api\",response_code_class=\"2\"} 1190\n",
        "ouro_cluster_upstream_rq_code_total{cluster=\"api\",response_code=\"503\"} 10\n",
        "ouro_cluster_endpoint_rq_active{cluster=\"api\",endpoint=\"127.0.0.1:9000\"} 3\n",
        "ouro_cluster_membership{cluster=\"api\"} 1\n",
        "ouro_server_uptime_seconds 60\n",
        "# TYPE ouro_http_downstream_rq_time_seconds histogram\n\
         ouro_http_downstream_rq_time_seconds_bucket{listener=\"web\",le=\"0.0005\"} 1\n\
         ouro_http_downstream_rq_time_seconds_bucket{listener=\"web\",le=\"0.001\"} 2\n\
         ouro_http_downstream_rq_time_seconds_bucket{listener=\"web\",le=\"0.0025\"} 3\n",
        "ouro_http_downstream_rq_time_seconds_bucket{listener=\"web\",le=\"+Inf\"} 3\n\
         ouro_http_downstream_rq_time_seconds_sum{listener=\"web\"} 0.002610\n\
         ouro_http_downstream_rq_time_seconds_count{listener=\"web\"} 3\n",
    ] {
        assert!(text.contains(expected), "{expected}not in\n{text}");
    }
}

#[test]
fn names_and_labels_from_outside_cannot_break_the_format() {
    let metrics = vec![
        fixtures::counter("odd.name"),
        fixtures::counter("odd-name"),
        fixtures::gauge("odd_name_total"),
        fixtures::gauge("odd_name"),
        fixtures::gauge("x_count"),
        fixtures::counter("\n# HELP"),
        fixtures::time("odd_name"),
    ];
    let mut scope = (*fixtures::scope("odd scope", "odd.{}", &["label"], metrics)).clone();
    scope.metrics[0].help = String::new();
    scope.metrics[1].help = "two\nlines \\ \"quoted\"".to_owned();
    let values = || {
        let numbers = [Value::Counter(1), Value::Counter(u64::MAX), Value::Gauge(3), Value::Gauge(4)];
        numbers
            .into_iter()
            .chain([Value::Gauge(5), Value::Counter(6), fixtures::distribution(&[1])])
            .collect()
    };
    let scope = Arc::new(scope);
    let entities = vec![
        fixtures::entity(&scope, &["a\"b\\c\nd"], values()),
        fixtures::entity(&scope, &["ü{}"], values()),
        fixtures::entity(&scope, &["short of values"], vec![Value::Gauge(1)]),
    ];
    let text = rendered(&Snapshot { entities, ..Snapshot::default() });
    assert_sound(&text);
    assert!(text.contains("ouro_odd_scope_odd_name_total{label=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    assert!(text.contains(&format!("{{label=\"ü{{}}\"}} {}\n", u64::MAX)));
}

#[test]
fn versions_of_a_scope_share_their_families() {
    let old = fixtures::scope("cluster", "cluster.{}", &["cluster"], vec![fixtures::counter("n_total")]);
    let new = fixtures::scope(
        "cluster",
        "cluster.{}",
        &["cluster"],
        vec![fixtures::gauge("g"), fixtures::counter("n_total")],
    );
    let entities = vec![
        fixtures::entity(&old, &["a"], vec![Value::Counter(1)]),
        fixtures::entity(&new, &["b"], vec![Value::Gauge(2), Value::Counter(3)]),
    ];
    let text = rendered(&Snapshot { entities, ..Snapshot::default() });
    assert_sound(&text);
    assert!(text.contains("ouro_cluster_n_total{cluster=\"a\"} 1\nouro_cluster_n_total{cluster=\"b\"} 3\n"));
}

#[test]
fn families_without_samples_are_not_announced() {
    let filter = Some(regex::Regex::new("^cluster\\.api\\.upstream_rq_total$").unwrap());
    let text = render(&fixtures::small(), &Options { filter, used_only: false });
    assert_eq!(text.lines().count(), 3);
    let text = render(&fixtures::small(), &Options { filter: None, used_only: true });
    assert!(!text.contains("connect_fail") && !text.contains("connect_seconds"));
}

#[test]
fn bounds_are_met_within_the_error_of_a_bucket() {
    let values: Vec<u64> = (0..64).map(|n| 3_u64.pow(n % 20) * u64::from(n + 1)).collect();
    let Value::Histogram(histogram) = fixtures::distribution(&values) else { unreachable!() };
    let mut text = String::new();
    Bounds::new(Unit::Microseconds).push(&mut text, &mut String::new(), "h", "", &histogram);
    let counted: HashMap<_, _> = text.lines().map(|line| line.rsplit_once(' ').unwrap()).collect();
    for (bound, seconds) in [(500_u64, "0.0005"), (100_000, "0.1"), (60_000_000, "60")] {
        let number: usize = counted[format!("h_bucket{{le=\"{seconds}\"}}").as_str()].parse().unwrap();
        let at_most = |bound: u64| values.iter().filter(|value| **value <= bound).count();
        assert!((at_most(bound - bound / 31)..=at_most(bound + bound / 31)).contains(&number), "{bound}");
    }
    assert_eq!(counted["h_bucket{le=\"+Inf\"}"], "64");
    assert_eq!(counted["h_count"], "64");
}

#[test]
fn a_histogram_without_room_for_buckets_is_still_one() {
    let histogram = HistogramValue { count: 9, sum: 1_500_000, buckets: Vec::new() };
    let mut text = String::new();
    Bounds::new(Unit::Microseconds).push(&mut text, &mut String::new(), "h", "a=\"b\"", &histogram);
    assert!(text.ends_with("h_bucket{a=\"b\",le=\"+Inf\"} 9\nh_sum{a=\"b\"} 1.500000\nh_count{a=\"b\"} 9\n"));
}

#[test]
fn seconds_are_exact() {
    for (number, text) in [(0, "0"), (1, "0.000001"), (1_000_000, "1"), (u64::MAX, "18446744073709.551615")] {
        let mut out = String::new();
        push_scaled(&mut out, number, Unit::Microseconds);
        assert_eq!(out, text);
    }
}

/// `cargo test --release -p ouro --lib -- --ignored --nocapture ten_thousand_clusters`
#[test]
#[ignore = "a measurement, of use in the release profile only"]
fn ten_thousand_clusters() {
    let snapshot = fixtures::large(10_000);
    for _ in 0..3 {
        let start = Instant::now();
        let text = rendered(&snapshot);
        let elapsed = start.elapsed();
        eprintln!("{} lines, {} bytes in {elapsed:?}", text.lines().count(), text.len());
    }
    let start = Instant::now();
    let text = super::super::text::render(&snapshot, &Options::default());
    eprintln!("as plain text: {} bytes in {:?}", text.len(), start.elapsed());
    let start = Instant::now();
    let text = super::super::json::live(&snapshot, &Options::default());
    eprintln!("as live JSON: {} bytes in {:?}", text.len(), start.elapsed());
}
