//! Model of the concurrent part, checked by loom: all interleavings, up to a bound on preemptions, of two or three
//! threads on a segment of seven small frames. See `docs/statistics.md` for the command.

use loom::sync::Arc;
use loom::thread;

use crate::frames::Owner;
use crate::layout::{FRAME_WORDS, SLOTS};
use crate::processes::Joining;
use crate::{Membership, ProcessState, ReadOptions, Segment};

crate::scope! {
    /// Something that is counted.
    pub(crate) Thing "t" "t.{}" ["n"] {
        Counter DONE "d" Count "D.";
        Gauge OPEN "o" Count "O.";
    }
}

const FRAMES: usize = 7;

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
    println!("{runs} interleavings");
    assert!(runs > 10, "nothing was interleaved");
}

fn segment() -> Segment {
    Segment::of_words(FRAMES * FRAME_WORDS)
}

fn join(segment: &Segment) -> Membership {
    segment.join(&Joining { epoch: 0, workers: 1, version: "" }).unwrap()
}

/// Counter and gauge, as a reader gets them.
fn read(segment: &Segment) -> (u64, u64) {
    let snapshot = segment.snapshot(&ReadOptions::default());
    let thing = snapshot.entity("t", &["a"]).unwrap();
    (thing.number("d"), thing.number("o"))
}

#[test]
fn a_frame_has_one_claimer() {
    check(2, || {
        let segment = Arc::new(segment());
        let usable = segment.core.usable_frames().len();
        // All but one are taken.
        for _ in 1..usable {
            segment.core.claim_frame(Owner::Entities).unwrap();
        }
        let threads: Vec<_> = (0..2)
            .map(|worker| {
                let segment = Arc::clone(&segment);
                thread::spawn(move || {
                    segment.core.claim_frame(Owner::Process { slot: 0, worker, incarnation: 1 }).map(
                        |frame| {
                            let owner = segment.core.frame_owner(frame);
                            assert_eq!(owner, Some(Owner::Process { slot: 0, worker, incarnation: 1 }));
                            frame
                        },
                    )
                })
            })
            .collect();
        let claimed: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(claimed.len(), 1);
    });
}

#[test]
fn a_reader_sees_a_fold_before_or_after() {
    check(2, || {
        let segment = Arc::new(segment());
        let dead = join(&segment);
        let block = dead.stripe(0).block(dead.register::<Thing>(&["a"]));
        block.add(Thing::DONE, 5);
        block.raise(Thing::OPEN, 1);
        drop((block, dead));
        let folder = {
            let segment = Arc::clone(&segment);
            thread::spawn(move || assert_eq!(segment.fold().unwrap(), 1))
        };
        assert_eq!(read(&segment), (5, 0));
        folder.join().unwrap();
        assert_eq!(read(&segment), (5, 0));
    });
}

#[test]
fn a_fold_and_its_next_process_do_not_disturb_a_reader() {
    check(1, || {
        let segment = Arc::new(segment());
        let dead = join(&segment);
        dead.stripe(0).block(dead.register::<Thing>(&["a"])).add(Thing::DONE, 5);
        drop(dead);
        let live = join_without_fold(&segment);
        let stripe = live.stripe(0);
        let thing = live.register::<Thing>(&["a"]);
        live.set_state(ProcessState::Serving);
        let writer = thread::spawn(move || {
            // Counts in a frame that may be the dead one's.
            live.segment().fold().unwrap();
            let block = stripe.block(thing);
            block.add(Thing::DONE, 1);
            crate::fault::point();
            block.add(Thing::DONE, 1);
            drop((block, stripe));
            live
        });
        let done = read(&segment).0;
        assert!((5..=7).contains(&done), "{done}");
        let live = writer.join().unwrap();
        assert_eq!(read(&segment), (7, 0));
        drop(live);
    });
}

/// Joins and leaves the folding to others.
fn join_without_fold(segment: &Segment) -> Membership {
    let lock = segment.core.lock().unwrap();
    let (slot, incarnation) = lock.enter(&Joining { epoch: 0, workers: 1, version: "" }).unwrap();
    assert!(slot < SLOTS);
    drop(lock);
    Membership::new(segment.clone(), slot, incarnation)
}
