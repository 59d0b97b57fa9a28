//! Restarts that do not wait for each other.

use crate::instance::{Instance, Process, READY};
use crate::load::Load;
use crate::site::{Site, let_go};
use crate::support::eventually;

/// Waits until each of them serves, has served or has ended, and one is left.
fn settle(instance: &Instance, processes: &[Process]) -> usize {
    for process in processes {
        eventually("it serves or ends", || process.log().contains(READY) || !process.is_running());
        if !process.log().contains(READY) {
            // What it says is one of the reasons there are.
            process.expect_exit(1, "ERROR");
            let log = process.log();
            assert!(
                ["is next, not", "more are waiting", "nobody answers"].iter().any(|why| log.contains(why)),
                "{log}"
            );
        }
    }
    eventually("one is left", || instance.live().len() == 1);
    processes.iter().position(|process| instance.live() == [process.pid()]).unwrap()
}

#[test]
fn many_at_once_take_turns() {
    for epochs in [["1", "2", "3", "4"], ["auto"; 4], ["1", "1", "1", "1"], ["4", "3", "2", "1"]] {
        let site = Site::new();
        let Site { instance, web, .. } = &site;
        let first = instance.start("0");
        let load = Load::new().keep_alive(1, *web).short(1, *web);
        load.flow(10);
        let mut processes: Vec<_> = epochs.iter().map(|epoch| instance.spawn(epoch, "")).collect();
        processes.insert(0, first);
        let last = settle(instance, &processes);
        assert!(last > 0, "none of {epochs:?} has taken over");
        load.flow(20);
        load.end_well();
        processes[last].stop();
        assert!(instance.sockets().is_empty());
    }
}

#[test]
fn old_generations_drain_side_by_side() {
    let site = Site::new();
    let Site { instance, web, .. } = &site;
    let mut generations = Vec::new();
    for epoch in 0..6_u32 {
        let process = instance.start(&epoch.to_string());
        generations.push((process, Some(site.idle())));
    }
    let load = Load::new().short(1, *web);
    assert_eq!(instance.live().len(), 6);
    // In no particular order.
    for n in [3, 0, 4, 1, 2] {
        let (process, idle) = &mut generations[n];
        assert!(process.is_running());
        let_go(idle.take().unwrap(), process);
        load.flow(5);
    }
    load.end_well();
    instance.expect_only(generations[5].0.pid());
}

#[test]
fn an_instance_starts_anew_beside_an_old_process_that_drains() {
    for epoch in ["0", "auto"] {
        let site = Site::new();
        let Site { instance, .. } = &site;
        let oldest = instance.start("0");
        let mut idle = site.idle();
        let middle = instance.start("1");
        let newest = instance.start("2");
        middle.expect_exit(0, "has been replaced");
        oldest.wait_log("itself replaced, has ended");
        newest.kill();
        let anew = instance.start(epoch);
        site.ask(1);
        assert_eq!(idle.get("/last").text(), "/last");
        drop(idle);
        oldest.expect_exit(0, "has been replaced");
        anew.stop();
    }
}
