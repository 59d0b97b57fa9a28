//! The scope `server`: what can be read off the table of processes.
//!
//! No process counts these values: whoever reads the segment computes them, so the admin interface and a reader outside
//! say the same, and a process that was killed cannot leave a wrong one behind.

use std::sync::Arc;

use ouro_shm::{Entity, Kind, MetricInfo, Process, ProcessState, ScopeInfo, Snapshot, Unit, Value};

/// Name of the scope, and its prefix in plain text.
const SERVER: &str = "server";
/// Scope whose connections are those of the process.
const LISTENER: &str = "listener";
/// Gauge of [`LISTENER`].
const CX_ACTIVE: &str = "downstream_cx_active";

/// The scopes whose shares a snapshot must have for `server.parent_connections` to be right.
pub const SHARES: &[&str] = &[LISTENER];

/// Adds the entity `server`, or completes it if a process has counted in this scope itself.
///
/// Names and meanings are Envoy's. What is computed here goes before what a process has counted under the same name.
/// `state` is left out while nobody is alive: every value of it would say that somebody is.
pub fn add(snapshot: &mut Snapshot) {
    let computed = compute(snapshot);
    let found =
        snapshot.entities.iter().position(|entity| entity.scope.name == SERVER && entity.labels.is_empty());
    let (mut metrics, mut values) = (Vec::new(), Vec::new());
    if let Some(own) = found.map(|position| snapshot.entities.remove(position)) {
        for (metric, value) in own.scope.metrics.iter().zip(own.values) {
            if computed.iter().all(|(other, _)| other.name != metric.name) {
                metrics.push(metric.clone());
                values.push(value);
            }
        }
    }
    for (metric, value) in computed {
        metrics.push(metric);
        values.push(value);
    }
    let name = SERVER.to_owned();
    let scope = Arc::new(ScopeInfo { text: name.clone(), name, labels: Vec::new(), metrics });
    let place = snapshot.entities.partition_point(|entity| entity.scope.name.as_str() < SERVER);
    snapshot.entities.insert(place, Entity { scope, labels: Vec::new(), values });
}

/// The process that `server.*` speaks of: the newest of those that serve, or the newest that lives.
#[must_use]
pub fn current(snapshot: &Snapshot) -> Option<&Process> {
    let mut newest_first = snapshot.processes.iter().rev().filter(|process| process.alive);
    let serves = |process: &&Process| process.state == ProcessState::Serving;
    newest_first.clone().find(serves).or_else(|| newest_first.next())
}

fn compute(snapshot: &Snapshot) -> Vec<(MetricInfo, Value)> {
    let current = current(snapshot);
    let live = current.is_some_and(|process| process.state == ProcessState::Serving);
    let uptime_ms = current.map_or(0, |process| snapshot.read_at_ms.saturating_sub(process.started_ms));
    let processes = snapshot.processes.iter().filter(|process| process.alive).count();
    let mut computed = vec![
        gauge("live", Unit::Count, "1 if a process serves and does not drain, else 0.", u64::from(live)),
        gauge("uptime", Unit::Seconds, "Age of the newest serving process in seconds.", uptime_ms / 1000),
        gauge(
            "concurrency",
            Unit::Count,
            "Worker threads of the newest serving process.",
            current.map_or(0, |process| u64::from(process.workers)),
        ),
        gauge(
            "hot_restart_epoch",
            Unit::Count,
            "Restart epoch of the newest serving process.",
            current.map_or(0, |process| u64::from(process.epoch)),
        ),
        gauge(
            "hot_restart_generation",
            Unit::Count,
            "Processes that the instance has had so far.",
            snapshot.generations,
        ),
        gauge(
            "parent_connections",
            Unit::Count,
            "Downstream connections of older processes.",
            parent_connections(snapshot, current),
        ),
        gauge(
            "total_connections",
            Unit::Count,
            "Downstream connections of all processes.",
            connections(&snapshot.entities),
        ),
        counter(
            "stats_overflow",
            "Entities and histograms that found no room in the segment.",
            snapshot.overflows,
        ),
        gauge("shared_memory_bytes", Unit::Bytes, "Memory that the segment holds.", snapshot.memory.0),
        gauge("processes", Unit::Count, "Processes of the instance that are alive.", processes as u64),
    ];
    if let Some(process) = current {
        let help = "What the process does: 0 serve, 1 drain, 3 start.";
        computed.push(gauge("state", Unit::Count, help, envoy_state(process.state)));
    }
    computed
}

/// The state as Envoy numbers it.
const fn envoy_state(state: ProcessState) -> u64 {
    match state {
        ProcessState::Serving => 0,
        ProcessState::Draining | ProcessState::Gone => 1,
        ProcessState::Starting => 3,
    }
}

fn parent_connections(snapshot: &Snapshot, current: Option<&Process>) -> u64 {
    let position = |pid| snapshot.processes.iter().rposition(|process| process.pid == pid);
    let Some(current) = current.and_then(|process| position(process.pid)) else { return 0 };
    let older = |pid| position(pid).is_some_and(|position| position < current);
    snapshot.shares.iter().filter(|share| older(share.pid)).map(|share| connections(&share.entities)).sum()
}

fn connections(entities: &[Entity]) -> u64 {
    let listeners = entities.iter().filter(|entity| entity.scope.name == LISTENER);
    listeners.map(|entity| entity.number(CX_ACTIVE)).fold(0, u64::saturating_add)
}

fn gauge(name: &str, unit: Unit, help: &str, value: u64) -> (MetricInfo, Value) {
    let info = MetricInfo { name: name.to_owned(), kind: Kind::Gauge, unit, help: help.to_owned() };
    (info, Value::Gauge(value))
}

fn counter(name: &str, help: &str, value: u64) -> (MetricInfo, Value) {
    let (name, help) = (name.to_owned(), help.to_owned());
    (MetricInfo { name, kind: Kind::Counter, unit: Unit::Count, help }, Value::Counter(value))
}

#[cfg(test)]
mod tests {
    use ouro_shm::Share;

    use super::super::fixtures;
    use super::*;

    fn server(snapshot: &Snapshot) -> &Entity {
        snapshot.entity(SERVER, &[]).unwrap()
    }

    fn share(pid: u32, connections: u64) -> Share {
        let scope = fixtures::scope(LISTENER, "listener.{}", &["listener"], vec![fixtures::gauge(CX_ACTIVE)]);
        let entities = vec![fixtures::entity(&scope, &["web"], vec![Value::Gauge(connections)])];
        Share { pid, worker: 0, entities }
    }

    #[test]
    fn one_serving_process() {
        let mut snapshot = fixtures::small();
        add(&mut snapshot);
        let server = server(&snapshot);
        assert_eq!((server.number("live"), server.value("state")), (1, Some(&Value::Gauge(0))));
        assert_eq!((server.number("uptime"), server.number("concurrency")), (60, 2));
        assert_eq!((server.number("hot_restart_epoch"), server.number("hot_restart_generation")), (1, 2));
        assert_eq!((server.number("total_connections"), server.number("parent_connections")), (5, 0));
        assert_eq!(server.number("shared_memory_bytes"), 65_536);
        assert!(snapshot.entities.is_sorted_by_key(|entity| entity.scope.name.clone()));
    }

    #[test]
    fn the_newest_serving_process_speaks_while_another_starts() {
        let mut snapshot = fixtures::small();
        snapshot.processes = vec![
            fixtures::process(9, 0, ProcessState::Draining, true),
            fixtures::process(8, 1, ProcessState::Serving, true),
            fixtures::process(7, 2, ProcessState::Starting, true),
            fixtures::process(6, 3, ProcessState::Serving, false),
        ];
        snapshot.shares = vec![share(9, 3), share(9, 4), share(8, 5), share(7, 6), share(6, 1)];
        add(&mut snapshot);
        let server = server(&snapshot);
        assert_eq!((server.number("hot_restart_epoch"), server.number("processes")), (1, 3));
        assert_eq!(server.number("parent_connections"), 7);
    }

    #[test]
    fn with_only_draining_or_starting_processes_nobody_is_live() {
        for (state, number) in [(ProcessState::Draining, 1), (ProcessState::Starting, 3)] {
            let mut snapshot = fixtures::small();
            snapshot.processes = vec![fixtures::process(9, 0, state, true)];
            add(&mut snapshot);
            assert_eq!(server(&snapshot).number("live"), 0);
            assert_eq!(server(&snapshot).number("state"), number);
        }
    }

    #[test]
    fn the_dead_have_no_state() {
        let mut snapshot = fixtures::small();
        snapshot.processes = vec![fixtures::process(9, 0, ProcessState::Serving, false)];
        add(&mut snapshot);
        let server = server(&snapshot);
        assert_eq!((server.number("live"), server.number("uptime"), server.number("processes")), (0, 0, 0));
        assert_eq!(server.value("state"), None);
    }

    #[test]
    fn what_a_process_has_counted_stays() {
        let mut snapshot = fixtures::small();
        let metrics = vec![fixtures::counter("configuration_warnings"), fixtures::gauge("live")];
        let own = fixtures::scope(SERVER, SERVER, &[], metrics);
        snapshot.entities.push(fixtures::entity(&own, &[], vec![Value::Counter(3), Value::Gauge(77)]));
        add(&mut snapshot);
        assert_eq!(server(&snapshot).number("configuration_warnings"), 3);
        assert_eq!(server(&snapshot).number("live"), 1);
        assert_eq!(snapshot.entities.iter().filter(|entity| entity.scope.name == SERVER).count(), 1);
        let count = server(&snapshot).values.len();
        add(&mut snapshot);
        assert_eq!(server(&snapshot).values.len(), count, "adding twice changes nothing");
    }
}
