//! Processes that are killed: while they count, and while they fold.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::children::{go, spawn, wait_for};
use super::{Other, Random, Shared, Thing, numbers, read, serve};
use crate::frames::Owner;
use crate::{ReadOptions, Segment, Value};

/// Counter and histogram count of all things of a worker's process.
fn of_process(segment: &Segment, pid: u32) -> (u64, u64) {
    let snapshot = segment.snapshot(&ReadOptions { shares_of: vec!["thing".into()] });
    let share = snapshot.shares.iter().find(|share| share.pid == pid).unwrap();
    let mut totals = (0, 0);
    for entity in &share.entities {
        totals.0 += entity.number("done");
        if let Some(Value::Histogram(time)) = entity.value("time") {
            totals.1 += time.buckets.iter().map(|(_, n)| n).sum::<u64>();
        }
    }
    totals
}

/// The same of all that a reader gets, and what is open.
fn of_all(segment: &Segment) -> (u64, u64, u64) {
    let mut totals = (0, 0, 0);
    for entity in read(segment).entities {
        totals.0 += entity.number("done");
        totals.2 += entity.number("open");
        if let Some(Value::Histogram(time)) = entity.value("time") {
            totals.1 += time.buckets.iter().map(|(_, n)| n).sum::<u64>();
        }
    }
    totals
}

/// Ends the other threads of a test, also when it fails.
struct SetInTheEnd<'a>(&'a AtomicBool);

impl Drop for SetInTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn whoever_is_killed_while_counting_is_counted_once() {
    let shared = Shared::new();
    let segment = shared.open();
    let mut random = Random(0x0b5e_55ed);
    let end = AtomicBool::new(false);
    let mut truth = (0, 0);
    // Somebody has the things all the time, or they would go with those who counted them.
    let keeper = segment.join(&super::JOINING).unwrap();
    for name in ["a", "0", "1"] {
        let _ = keeper.register::<Thing>(&[name]);
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let segment = shared.open();
                let mut last = 0;
                while !end.load(Ordering::Relaxed) {
                    let _ = segment.fold();
                    let total = of_all(&segment).0;
                    assert!(total >= last, "{last} and then {total}");
                    last = total;
                }
            });
        }
        let _end = SetInTheEnd(&end);
        for _ in 0..6 {
            let mut children: Vec<_> = (0..2).map(|n| spawn("count", &shared, n)).collect();
            for child in &mut children {
                wait_for(child, "counting");
            }
            let enough = of_all(&segment).0 + random.below(100_000);
            while of_all(&segment).0 < enough {}
            for mut child in children {
                // What it has counted is known once it stands still; then it dies wherever it stands.
                let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
                kill(pid, Signal::SIGSTOP).unwrap();
                waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
                let counted = of_process(&segment, child.id());
                truth = (truth.0 + counted.0, truth.1 + counted.1);
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert_eq!(of_all(&segment), (truth.0, truth.1, 0));
        }
    });
    segment.fold().unwrap();
    assert_eq!(of_all(&segment), (truth.0, truth.1, 0));
    assert!(truth.0 > 0 && read(&segment).processes.len() == 1);
}

/// Frames in use by owner: schemas, entities, folded sets, processes.
fn frames(segment: &Segment) -> [usize; 4] {
    let mut counts = [0; 4];
    for frame in segment.core.usable_frames() {
        match segment.core.frame_owner(frame) {
            Some(Owner::Schema) => counts[0] += 1,
            Some(Owner::Entities) => counts[1] += 1,
            Some(Owner::Set(_)) => counts[2] += 1,
            Some(Owner::Process { .. }) => counts[3] += 1,
            Some(_) => {}
            None => panic!("frame {frame} is still being claimed"),
        }
    }
    counts
}

/// Two processes that are dead, with a known count.
fn dead_processes(segment: &Segment) {
    for _ in 0..2 {
        let member = serve(segment);
        let stripe = member.stripe(0);
        for name in ["a", "b", "only theirs"] {
            let block = stripe.block(member.register::<Thing>(&[name]));
            block.add(Thing::DONE, 5);
            block.raise(Thing::OPEN, 5);
            block.record(Thing::TIME, 1);
        }
        let _ = member.register::<Other>(&["only theirs"]);
    }
}

#[test]
fn whoever_dies_while_folding_leaves_it_to_the_next() {
    let shared = Shared::new();
    let segment = shared.open();
    let live = serve(&segment);
    let block = live.stripe(0).block(live.register::<Thing>(&["a"]));
    let _ = live.register::<Thing>(&["b"]);
    block.raise(Thing::OPEN, 1);
    block.inc(Thing::DONE);
    let mut died = 0;
    for n in 0.. {
        dead_processes(&segment);
        let status = spawn("fold", &shared, n).wait().unwrap();
        // The second of the two has folded the first when it joined.
        let rounds = u64::try_from(n).unwrap() + 1;
        let check = || {
            let snapshot = read(&segment);
            assert_eq!(numbers(&snapshot, "a"), Some((rounds * 10 + 1, 1, rounds * 2)), "died at {n}");
            assert_eq!(numbers(&snapshot, "b"), Some((rounds * 10, 0, rounds * 2)), "died at {n}");
            assert_eq!(numbers(&snapshot, "only theirs"), None);
        };
        check();
        segment.fold().unwrap();
        check();
        assert_eq!(frames(&segment), [1, 1, 1, 1], "died at {n}");
        assert_eq!(read(&segment).processes.len(), 1);
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(6), "{status}");
        died += 1;
    }
    assert!(died > 30, "{died} points are too few to be all");
}

#[test]
fn whoever_dies_while_resetting_has_reset_or_not() {
    let shared = Shared::new();
    let segment = shared.open();
    let live = serve(&segment);
    let block = live.stripe(0).block(live.register::<Thing>(&["a"]));
    let mut total = 0;
    for n in 0.. {
        dead_processes(&segment);
        block.record(Thing::TIME, 3);
        block.inc(Thing::DONE);
        total += 11;
        let status = spawn("reset", &shared, n).wait().unwrap();
        let (done, _, times) = numbers(&read(&segment), "a").unwrap();
        assert!(done == 0 && times == 0 || done == total, "{done} of {total}, died at {n}");
        total = done;
        segment.fold().unwrap();
        assert_eq!(numbers(&read(&segment), "a"), Some((done, 0, times)));
        if status.success() {
            assert_eq!((done, n > 30), (0, true));
            break;
        }
    }
}

#[test]
fn whoever_dies_while_joining_leaves_nothing_half_done() {
    let shared = Shared::new();
    let segment = shared.open();
    for n in 0.. {
        let before = read(&segment).entity("thing", &["new"]).map_or(0, |thing| thing.number("done"));
        let status = spawn("join", &shared, n).wait().unwrap();
        segment.fold().unwrap();
        let member = serve(&segment);
        let block = member.stripe(0).block(member.register::<Thing>(&["new"]));
        block.inc(Thing::DONE);
        let after = read(&segment);
        let done = after.entity("thing", &["new"]).unwrap().number("done");
        assert!(done == before + 1 || done == before + 2, "{before}, then {done}, died at {n}");
        assert_eq!(
            after.entities.iter().filter(|e| e.labels == ["new"] && e.scope.name == "thing").count(),
            1
        );
        segment.fold().unwrap();
        assert_eq!(frames(&segment)[0], 1, "died at {n}");
        assert_eq!(frames(&segment)[1], 1, "died at {n}");
        assert_eq!(read(&segment).overflows, 0);
        if status.success() {
            assert!(n > 10);
            break;
        }
    }
}

#[test]
fn many_that_come_at_once_meet_in_one_segment() {
    for _ in 0..3 {
        let shared = Shared::new();
        let mut children: Vec<_> = (0..4).map(|_| spawn("create", &shared, 0)).collect();
        for child in &mut children {
            wait_for(child, "ready");
        }
        children.iter_mut().for_each(go);
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(numbers(&read(&shared.open()), "a"), Some((4, 0, 0)));
    }
    for _ in 0..50 {
        let shared = Shared::new();
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    let member = serve(&shared.open());
                    member.stripe(0).block(member.register::<Thing>(&["a"])).inc(Thing::DONE);
                    barrier.wait();
                });
            }
        });
        assert_eq!(numbers(&read(&shared.open()), "a"), Some((4, 0, 0)));
    }
}
