//! Everybody dies or hangs at every step.

use crate::world::{World, identity, options};

/// Steps of a restart in a fixed order, and then some.
const STEPS: usize = 60;

/// Runs so many steps of a restart, looking at each whether somebody accepts.
fn begin(steps: usize, seed: u64) -> (World, usize) {
    let mut world = World::new();
    world.seed = seed;
    let child = world.start(None);
    for _ in 0..steps {
        world.step();
        assert!(!world.serving().is_empty(), "after {:?}", world.said.last());
    }
    (world, child)
}

fn settle_watching(world: &mut World) {
    while world.step() {
        assert!(!world.serving().is_empty(), "after {:?}", world.said.last());
    }
}

/// The old process had been told to end when its child failed: nobody can bring that back.
fn was_told_to_end(world: &World) -> bool {
    world.said.contains(&"1> TerminateParent".to_owned())
}

/// The next restart works, and in the end there is one process.
fn restart_again(world: &mut World, context: &str) {
    let next = world.start(None);
    world.settle();
    assert_eq!(world.serving(), [next], "{context}: {:?}", world.processes[next].failed);
}

#[test]
fn a_child_that_is_killed_at_any_step_leaves_somebody_who_serves() {
    for seed in 0..10 {
        for steps in 0..STEPS {
            let (mut world, child) = begin(steps, seed);
            let parent_lives = world.processes[0].alive;
            world.kill(child);
            if parent_lives {
                // A commit that is still on its way may stop the parent for the moment until it sees the end.
                world.settle();
                if !was_told_to_end(&world) {
                    assert_eq!(world.serving(), [0], "seed {seed}, {steps} steps");
                }
            }
            restart_again(&mut world, &format!("seed {seed}, {steps} steps"));
            assert_eq!(world.alive().len(), 1);
        }
    }
}

#[test]
fn a_parent_that_is_killed_at_any_step_is_replaced_all_the_same() {
    for seed in 0..10 {
        for steps in 0..STEPS {
            let (mut world, child) = begin(steps, seed);
            world.kill(0);
            world.pass(5_000);
            assert_eq!(
                world.serving(),
                [child],
                "seed {seed}, {steps} steps: {:?}",
                world.processes[child].failed
            );
            restart_again(&mut world, &format!("seed {seed}, {steps} steps"));
            assert_eq!(world.alive().len(), 1);
        }
    }
}

#[test]
fn a_child_that_hangs_at_any_step_is_given_up_and_steps_back_when_it_wakes() {
    for seed in 0..10 {
        for steps in 0..STEPS {
            let (mut world, child) = begin(steps, seed);
            if !world.processes[0].alive {
                continue;
            }
            world.processes[child].frozen = true;
            world.pass(130_000);
            let context = format!("seed {seed}, {steps} steps");
            if !world.processes[0].alive {
                assert!(
                    world.said.contains(&"1> TerminateParent".to_owned()),
                    "{context}: it was told to end"
                );
                continue;
            }
            assert!(world.serving().contains(&0), "{context}");
            let next = world.start(None);
            world.pass(1_000);
            assert!(
                world.processes[next].alive && world.processes[next].accepts,
                "{context}: {:?}",
                world.processes[next].failed
            );
            world.processes[child].frozen = false;
            world.pass(5_000);
            assert_eq!(world.alive().len(), 1, "{context}");
            assert_eq!(world.serving().len(), 1, "{context}");
            restart_again(&mut world, &context);
        }
    }
}

#[test]
fn a_parent_that_hangs_at_any_step_does_not_hold_the_child_and_there_is_one_in_the_end() {
    for seed in 0..10 {
        for steps in 0..STEPS {
            let (mut world, child) = begin(steps, seed);
            if !world.processes[0].alive {
                continue;
            }
            world.processes[0].frozen = true;
            world.pass(100_000);
            let context = format!("seed {seed}, {steps} steps");
            let process = &world.processes[child];
            assert!(process.failed.is_some() || process.accepts, "{context}: it has decided");
            world.processes[0].frozen = false;
            world.pass(10_000);
            assert_eq!(world.serving().len(), 1, "{context}: {:?}", world.alive());
            restart_again(&mut world, &context);
            world.pass(10_000);
            assert_eq!(world.alive().len(), 1, "{context}");
        }
    }
}

#[test]
fn a_parent_that_sleeps_through_the_life_of_its_child_ends_all_the_same() {
    for seed in 0..6 {
        for steps in 0..STEPS {
            let (mut world, child) = begin(steps, seed);
            world.processes[0].frozen = true;
            world.pass(40_000);
            if world.serving() == [0, child] || world.serving() == [child] {
                let next = world.start(None);
                world.pass(40_000);
                assert_eq!(world.serving().last(), Some(&next), "seed {seed}, {steps} steps");
            }
            world.processes[0].frozen = false;
            // Far less than the shutdown time: nothing is left that it would wait for.
            world.pass(20_000);
            assert_eq!(world.alive().len(), 1, "seed {seed}, {steps} steps");
        }
    }
}

#[test]
fn a_parent_that_sleeps_while_its_child_is_killed_asks_whether_somebody_has_its_place() {
    let mut taken = 0;
    for steps in 0..STEPS {
        let mut world = World::new();
        world.drain_ends = false;
        let child = world.start(None);
        world.settle();
        world.processes[0].frozen = true;
        let next = world.start(None);
        for _ in 0..steps {
            world.step();
        }
        world.kill(child);
        world.pass(1_500);
        let has_place = world.serving() == [next];
        taken += usize::from(has_place);
        world.pass(500);
        world.processes[0].frozen = false;
        world.settle();
        assert!(!world.serving().contains(&0), "{steps} steps: it has not asked");
        world.pass(3_000);
        if has_place {
            assert_eq!((world.serving(), world.alive()), (vec![next], vec![0, next]), "{steps} steps");
        } else {
            assert_eq!(world.serving().len(), 1, "{steps} steps");
        }
    }
    assert!((1..STEPS).contains(&taken), "{taken}");
}

/// To ask takes time in which nobody accepts, so being late for less than others wait is no reason to.
#[test]
fn a_parent_that_is_a_little_late_when_its_child_is_killed_serves_again_at_once() {
    let mut world = World::new();
    world.drain_ends = false;
    let child = world.start(None);
    world.settle();
    world.pass(990);
    world.processes[0].frozen = true;
    world.kill(child);
    world.pass(400);
    world.processes[0].frozen = false;
    world.settle();
    assert_eq!(world.serving(), [0]);
}

#[test]
fn a_parent_that_sleeps_while_its_child_is_killed_serves_if_nobody_else_does() {
    for drain_ends in [true, false] {
        let mut world = World::new();
        world.drain_ends = false;
        let child = world.start(None);
        world.settle();
        world.processes[0].frozen = true;
        world.kill(child);
        world.pass(30_000);
        world.processes[0].frozen = false;
        world.settle();
        if drain_ends {
            world.down(0, ouro_restart::parent::Event::Drained { moved: 0 });
        }
        world.pass(1_900);
        assert_eq!((world.serving(), world.alive()), (vec![], vec![0]));
        world.pass(200);
        assert_eq!(world.serving(), [0]);
        restart_again(&mut world, "afterwards");
    }
}

#[test]
fn who_takes_over_learns_for_how_long_connections_may_go_unheard() {
    let mut world = World::new();
    let until = world.now + 9_000;
    world.processes[0].down.as_mut().unwrap().set_unheard_until(until);
    let child = world.start(None);
    world.settle();
    assert_eq!(world.serving(), [child]);
    assert_eq!(world.processes[child].up.unheard_until(), until);
}

#[test]
fn who_waits_behind_a_child_when_the_parent_dies_comes_next() {
    let mut world = World::new();
    world.workers_start = false;
    let first = world.start(Some(1));
    world.settle();
    let second = world.start(None);
    world.settle();
    world.kill(0);
    world.settle();
    world.workers_start = true;
    world.workers_accept(first);
    world.pass(5_000);
    assert_eq!(world.alive(), [second]);
    assert_eq!((world.processes[second].epoch, world.processes[second].cold), (Some(2), false));
}

#[test]
fn both_hang_for_a_while_and_nothing_is_lost() {
    for seed in 0..5 {
        for steps in 0..STEPS {
            let (mut world, child) = begin(steps, seed);
            // As in a virtual machine that is suspended: nobody runs, but the clock goes on.
            world.now += 50_000;
            let context = format!("seed {seed}, {steps} steps");
            settle_watching(&mut world);
            world.fire();
            settle_watching(&mut world);
            world.pass(60_000);
            assert_eq!(world.serving().len(), 1, "{context}: {:?} {child}", world.alive());
            restart_again(&mut world, &context);
        }
    }
}

#[test]
fn a_child_that_fails_by_itself_at_any_step_says_why() {
    for steps in 0..STEPS {
        let (mut world, child) = begin(steps, 0);
        if !world.processes[0].alive {
            continue;
        }
        let why = "cannot bind".to_owned();
        world.up(child, ouro_restart::child::Event::Failed { why: why.clone() });
        assert_eq!(world.processes[child].failed, Some(why));
        // A commit that is still on its way may stop the parent for the moment until it sees the end.
        world.settle();
        if !was_told_to_end(&world) {
            assert_eq!(world.serving(), [0], "{steps} steps");
        }
        restart_again(&mut world, &format!("{steps} steps"));
    }
}

#[test]
fn a_storm_of_restarts_kills_and_pauses_always_ends_with_one_that_serves() {
    for seed in 1..150 {
        let mut world = World::new();
        world.seed = seed * 0x9e37_79b9;
        world.drain_ends = seed % 3 != 0;
        let mut deaths = 0;
        for _ in 0..40 {
            match world.random(10) {
                0..4 => {
                    let mut kind = identity();
                    kind.layout_version = 1 + u32::from(world.random(4) == 0);
                    if world.alive().len() < 8 {
                        world.start_as(kind, options(None));
                    }
                }
                4 => {
                    // Whoever dies, one that accepts stays; one that hangs may have been given up already.
                    let alive = world.alive();
                    let victim = alive[world.random(alive.len())];
                    let stays = |number: &usize| *number != victim && !world.processes[*number].frozen;
                    if world.serving().iter().any(stays) {
                        world.kill(victim);
                        deaths += 1;
                    }
                }
                5 => {
                    let ms = world.random(20_000) as u64;
                    world.pass(ms);
                }
                6 => {
                    let alive = world.alive();
                    let sleeper = alive[world.random(alive.len())];
                    world.processes[sleeper].frozen = true;
                }
                7 => world.processes.iter_mut().for_each(|process| process.frozen = false),
                _ => {}
            }
            for _ in 0..world.random(40) {
                world.step();
            }
        }
        world.processes.iter_mut().for_each(|process| process.frozen = false);
        world.pass(1_000_000);
        let context = format!("seed {seed}, {deaths} deaths");
        assert_eq!(world.serving().len(), 1, "{context}");
        assert_eq!(world.alive().len(), 1, "{context}: {:?}", world.alive());
        restart_again(&mut world, &context);
    }
}
