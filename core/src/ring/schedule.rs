//! Which task runs next: the run queue and the deadlines.
//!
//! A task has one deadline at a time. Most deadlines are moved further away long before they are reached (each request
//! does that several times), so moving one away only writes it down; the heap entry made for the nearer deadline fires
//! in vain and is renewed then. Only moving a deadline nearer costs a heap operation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::base::clock::{Millis, NEVER};
use crate::base::slots::SlotId;

/// Handle of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(pub(super) SlotId);

impl TaskId {
    /// No task: whoever is woken so is not.
    pub const NONE: Self = Self(SlotId { index: u32::MAX, generation: 0 });
}

#[derive(Clone, Copy)]
struct Entry {
    generation: u32,
    queued: bool,
    alive: bool,
    deadline: Millis,
    /// When the nearest heap entry of this task fires; [`NEVER`] when it has none.
    armed: Millis,
}

/// Run queue and deadlines of all tasks of a worker.
#[derive(Default)]
pub(super) struct Schedule {
    entries: Vec<Entry>,
    queue: VecDeque<TaskId>,
    timers: BinaryHeap<Reverse<(Millis, u32, u32)>>,
}

impl Schedule {
    /// Makes `task` known and runnable.
    pub(super) fn add(&mut self, task: TaskId) {
        let TaskId(SlotId { index, generation }) = task;
        let index = index as usize;
        let fresh = Entry { generation, queued: false, alive: true, deadline: NEVER, armed: NEVER };
        if index == self.entries.len() {
            self.entries.push(fresh);
        } else {
            self.entries[index] = fresh;
        }
        self.wake(task);
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        if let Some(entry) = self.entry(task) {
            entry.alive = false;
        }
    }

    fn entry(&mut self, task: TaskId) -> Option<&mut Entry> {
        self.entries.get_mut(task.0.index as usize).filter(|e| e.alive && e.generation == task.0.generation)
    }

    /// Puts `task` into the run queue unless it is there or gone.
    #[inline]
    pub(super) fn wake(&mut self, task: TaskId) {
        if let Some(entry) = self.entry(task)
            && !entry.queued
        {
            entry.queued = true;
            self.queue.push_back(task);
        }
    }

    /// The next task to run.
    #[inline]
    pub(super) fn next(&mut self) -> Option<TaskId> {
        while let Some(task) = self.queue.pop_front() {
            if let Some(entry) = self.entry(task) {
                entry.queued = false;
                return Some(task);
            }
        }
        None
    }

    /// Tasks that wait to run.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Sets the time at which `task` is woken if nothing else wakes it.
    #[inline]
    pub(super) fn set_deadline(&mut self, task: TaskId, deadline: Millis) {
        let Some(entry) = self.entry(task) else { return };
        entry.deadline = deadline;
        if deadline < entry.armed {
            entry.armed = deadline;
            self.timers.push(Reverse((deadline, task.0.index, task.0.generation)));
        }
    }

    /// When [`Self::fire`] has something to do; [`NEVER`] if nothing waits for the clock.
    pub(super) fn next_timer(&self) -> Millis {
        self.timers.peek().map_or(NEVER, |Reverse((at, ..))| *at)
    }

    /// Wakes every task whose deadline has come.
    pub(super) fn fire(&mut self, now: Millis) {
        while let Some(&Reverse((at, index, generation))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            let task = TaskId(SlotId { index, generation });
            let Some(entry) = self.entry(task) else { continue };
            if entry.armed != at {
                continue; // a nearer entry took its place, and has fired or will
            }
            if entry.deadline <= now {
                entry.armed = NEVER;
                entry.deadline = NEVER;
                self.wake(task);
            } else {
                entry.armed = entry.deadline;
                if entry.deadline != NEVER {
                    let renewed = entry.deadline;
                    self.timers.push(Reverse((renewed, index, generation)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: u32) -> TaskId {
        TaskId(SlotId { index, generation: 0 })
    }

    fn schedule(tasks: u32) -> Schedule {
        let mut schedule = Schedule::default();
        for index in 0..tasks {
            schedule.add(task(index));
            assert_eq!(schedule.next(), Some(task(index)));
        }
        schedule
    }

    #[test]
    fn a_task_is_queued_once_however_often_it_is_woken() {
        let mut s = schedule(2);
        s.wake(task(1));
        s.wake(task(1));
        s.wake(task(0));
        assert_eq!((s.next(), s.next(), s.next()), (Some(task(1)), Some(task(0)), None));
    }

    #[test]
    fn a_task_that_is_gone_is_not_run() {
        let mut s = schedule(1);
        s.wake(task(0));
        s.remove(task(0));
        assert_eq!(s.next(), None);
        s.add(TaskId(SlotId { index: 0, generation: 1 }));
        s.wake(task(0));
        assert_eq!(s.next(), Some(TaskId(SlotId { index: 0, generation: 1 })));
        assert_eq!(s.next(), None);
    }

    #[test]
    fn deadlines_fire_in_time_and_only_once() {
        let mut s = schedule(1);
        s.set_deadline(task(0), 100);
        s.set_deadline(task(0), 500);
        assert_eq!(s.timers.len(), 1, "moving a deadline away costs no heap entry");
        s.fire(100);
        assert_eq!(s.next(), None, "the deadline was moved away");
        assert_eq!(s.next_timer(), 500);
        s.set_deadline(task(0), 300);
        s.fire(299);
        assert_eq!(s.next(), None);
        s.fire(300);
        assert_eq!(s.next(), Some(task(0)));
        s.fire(10_000);
        assert_eq!(s.next(), None);
        assert_eq!(s.next_timer(), NEVER);
    }

    #[test]
    fn a_deadline_taken_back_does_not_fire() {
        let mut s = schedule(1);
        s.set_deadline(task(0), 100);
        s.set_deadline(task(0), NEVER);
        s.fire(1_000);
        assert_eq!(s.next(), None);
        s.set_deadline(task(0), 1_200);
        s.fire(1_200);
        assert_eq!(s.next(), Some(task(0)));
    }
}
