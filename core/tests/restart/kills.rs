//! Real processes that are killed or stopped at every step; the test stands between the two and holds them there.

use std::time::Duration;

use crate::fake::Between;
use crate::instance::READY;
use crate::site::{Loaded, Site};
use crate::support::Client;

/// What a child says: Hello, ListenSockets, State, ChildReady, DrainListeners, State.
const MESSAGES: usize = 6;
/// How many of them it has said when its workers accept: from then on it has connections of its own.
const ACCEPTS: usize = 4;
/// The commit.
const COMMIT: usize = 5;

/// Longer than any step before the commit may take.
const GIVEN_UP: Duration = Duration::from_secs(75);

fn scene() -> Loaded {
    Loaded::on(Site::with("--drain-strategy immediate --concurrency 2"))
}

/// Nothing was refused and nothing hung; what had been accepted by a process that was killed is lost with it.
#[track_caller]
fn expect_only_lost_connections(scene: &mut Loaded) {
    let failures = scene.load.end();
    let wrong = |failure: &&String| failure.contains("connect:") || failure.contains("in time");
    let wrong: Vec<_> = failures.iter().filter(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_child_may_be_killed_at_every_step() {
    for messages in 0..=MESSAGES {
        let mut scene = scene();
        let (mut between, child) = Between::start(&scene.site.instance);
        between.hand_on(messages, true);
        child.kill();
        drop(between);
        if messages >= COMMIT {
            scene.parent.wait_log("this process serves again");
        }
        scene.load.flow(30);
        if messages < ACCEPTS - 1 {
            assert!(scene.load.end().is_empty(), "{messages}: {:?}", scene.load.failures());
        }
        expect_only_lost_connections(&mut scene);
        scene.site.expect_served();
        let next = scene.site.instance.start("auto");
        scene.parent.expect_exit(0, "has been replaced");
        scene.site.expect_served();
        next.stop();
    }
}

#[test]
fn a_parent_may_be_killed_at_every_step() {
    for messages in 0..=MESSAGES {
        let mut scene = scene();
        let (mut between, child) = Between::start(&scene.site.instance);
        between.hand_on(messages, true);
        scene.parent.kill();
        drop(between);
        child.wait_log(READY);
        scene.load.flow(30);
        if messages >= 2 {
            // The child has the sockets.
            expect_only_lost_connections(&mut scene);
        } else {
            scene.load.end();
        }
        scene.site.expect_served();
        // One that has started cold is where it was told to look.
        let cold = format!("--socket-path {}", scene.site.instance.path("between").display());
        let next = scene.site.instance.spawn("auto", if messages >= 2 { "" } else { &cold });
        next.wait_log(READY);
        child.expect_exit(0, "stopped");
        scene.site.expect_served();
        next.stop();
    }
}

#[test]
fn a_child_may_hang_for_a_while_at_every_step_before_the_commit() {
    let mut scene = scene();
    for messages in 0..COMMIT {
        let (mut between, child) = Between::start(&scene.site.instance);
        between.hand_on(messages, true);
        child.freeze();
        scene.load.flow(100);
        child.thaw();
        let ends = between.hand_on_to_the_end();
        child.wait_log(READY);
        scene.load.flow(20);
        scene.parent.expect_exit(0, "has been replaced");
        ends.join().unwrap();
        // Its restart socket is that of the instance.
        scene.parent = child;
    }
    let Loaded { load, parent, .. } = scene;
    load.end_well();
    parent.stop();
}

#[test]
fn a_child_that_hangs_at_any_step_is_given_up() {
    // Up to ten seconds each, hence at the same time; how long it takes after the state has a test of its own.
    std::thread::scope(|scope| {
        for messages in [0, 1, 2, ACCEPTS] {
            scope.spawn(move || is_given_up_after(messages));
        }
    });
}

#[test]
#[ignore = "takes more than a minute: so long a child may prepare"]
fn a_child_that_hangs_after_the_state_at_any_step_is_given_up() {
    is_given_up_after(3);
}

/// A child hangs when it has said so many messages, until its parent has given it up.
fn is_given_up_after(messages: usize) {
    let mut scene = scene();
    let (mut between, child) = Between::start(&scene.site.instance);
    between.hand_on(messages, true);
    // Its workers accept from then on: what it has accepted waits until it wakes up.
    let accepts = messages >= ACCEPTS - 1;
    if accepts {
        scene.load.end();
    }
    child.freeze();
    let why = if messages == 0 { "no Hello came" } else { "it takes too long" };
    scene.parent.wait_log_for(why, GIVEN_UP);
    if !accepts {
        scene.load.flow(20);
    }
    child.thaw();
    let ends = between.hand_on_to_the_end();
    // Without a word said, it asks the next one, and that is nobody.
    if messages > 0 {
        child.expect_exit(1, why);
    } else {
        child.expect_exit(1, "ERROR");
    }
    ends.join().unwrap();
    scene.site.expect_served();
    let next = scene.site.instance.start("1");
    scene.parent.expect_exit(0, "has been replaced");
    scene.site.expect_served();
    let failures = scene.load.end();
    assert!(failures.is_empty(), "{messages}: {failures:?}");
    next.stop();
}

#[test]
fn a_child_that_hangs_after_the_commit_is_given_up_and_ends_when_it_wakes_up() {
    let scene = scene();
    let idle = Client::connect(scene.site.web);
    let child = scene.site.instance.start("1");
    child.freeze();
    scene.parent.wait_log("it does not answer any more; this process serves again");
    scene.site.expect_served();
    child.thaw();
    child.expect_exit(1, "it does not answer any more");
    drop(idle);
    scene.load.flow(20);
    let next = scene.site.instance.start("1");
    let Loaded { load, parent, .. } = scene;
    parent.expect_exit(0, "has been replaced");
    load.end_well();
    next.stop();
}

#[test]
fn a_parent_that_hangs_before_it_acknowledges_does_not_stop_service() {
    let mut scene = scene();
    let (mut between, child) = Between::start(&scene.site.instance);
    between.hand_on(ACCEPTS, true);
    scene.load.end();
    scene.parent.freeze();
    let ends = between.hand_on_to_the_end();
    child.wait_log("this one serves without");
    child.wait_log(READY);
    scene.site.expect_served();
    scene.parent.thaw();
    scene.parent.expect_exit(0, "has been replaced");
    ends.join().unwrap();
    child.wait_log("has stopped accepting after all");
    let next = scene.site.instance.start("auto");
    child.expect_exit(0, "has been replaced");
    scene.site.expect_served();
    next.stop();
}
