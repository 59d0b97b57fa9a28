//! Other processes: this test program once more, told to do one thing.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use super::{Shared, Thing, serve};
use crate::{Segment, fault};

const TASK: &str = "OURO_SHM_CHILD";

/// Starts a process that does something with a segment.
pub(crate) fn spawn(task: &str, shared: &Shared, n: i64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "checks::children::child", "--ignored", "--nocapture"])
        .env(TASK, format!("{task} {} {n}", shared.0))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until a process says that it has come so far.
pub(crate) fn wait_for(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(word)), "no {word:?}");
}

/// Lets a process that waits for it go on.
pub(crate) fn go(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"!").unwrap();
}

fn say(word: &str) {
    println!("{word}");
    std::io::stdout().flush().unwrap();
}

fn wait_for_go() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// What the other process runs. It must not end itself in good order, or its segment would be removed: `Shared` is
/// forgotten.
#[test]
#[ignore = "run by other tests in a process of its own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let shared = std::mem::ManuallyDrop::new(Shared(words[1].parse().unwrap()));
    let n: i64 = words[2].parse().unwrap();
    match words[0] {
        "count" => count(&shared.open(), words[2]),
        "fold" => at_fault(n, || shared.open().fold().map(|_| ()).unwrap()),
        "reset" => at_fault(n, || shared.open().reset_counters().unwrap()),
        "join" => {
            let segment = shared.open();
            fault::arm(n);
            let member = serve(&segment);
            for name in ["a", "b", "new"] {
                member.stripe(0).block(member.register::<Thing>(&[name])).inc(Thing::DONE);
                member.stripe(0).block(member.register::<super::Other>(&[name])).inc(super::Other::DONE);
            }
            assert!(fault::left() >= 0);
        }
        "create" => {
            say("ready");
            wait_for_go();
            let member = serve(&shared.open());
            member.stripe(0).block(member.register::<Thing>(&["a"])).inc(Thing::DONE);
        }
        other => panic!("{other}"),
    }
}

/// Does something and dies at the n-th point of it, if it has as many.
fn at_fault(n: i64, work: impl FnOnce()) {
    fault::arm(n);
    work();
    assert!(fault::left() >= 0);
}

/// Counts until it is killed.
fn count(segment: &Segment, name: &str) {
    let member = serve(segment);
    let stripe = member.stripe(0);
    let shared = stripe.block(member.register::<Thing>(&["a"]));
    let own = stripe.block(member.register::<Thing>(&[name]));
    shared.raise(Thing::OPEN, 1);
    say("counting");
    for n in 0.. {
        shared.inc(Thing::DONE);
        own.add(Thing::DONE, 1);
        own.record(Thing::TIME, n % 1000);
        own.set(Thing::OPEN, n);
    }
}
