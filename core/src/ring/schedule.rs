//! The tasks, and which of them runs next: the run queue and the deadlines.
//!
//! A task has one deadline at a time. Most deadlines are moved further away long before they are reached (each request
//! does that several times), so moving one away only writes it down; the heap entry made for the nearer deadline fires
//! in vain and is renewed then. Only moving a deadline nearer costs a heap operation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::Pin;

use crate::base::clock::{Millis, NEVER};
use crate::base::slots::{SlotId, Slots};

/// What a task runs.
pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Handle of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(pub(super) SlotId);

impl TaskId {
    /// No task: whoever is woken so is not.
    pub const NONE: Self = Self(SlotId { index: u32::MAX, generation: 0 });
}

struct Entry {
    /// Taken out while it is being polled.
    task: Option<Task>,
    queued: bool,
    deadline: Millis,
    /// When the nearest heap entry of this task fires; [`NEVER`] when it has none.
    armed: Millis,
}

/// All tasks of a worker, their run queue and their deadlines.
#[derive(Default)]
pub(super) struct Schedule {
    entries: Slots<Entry>,
    queue: VecDeque<TaskId>,
    timers: BinaryHeap<Reverse<(Millis, u32, u32)>>,
}

impl Schedule {
    /// Adds a task, which is to run.
    pub(super) fn add(&mut self, task: Task) -> TaskId {
        let entry = Entry { task: Some(task), queued: false, deadline: NEVER, armed: NEVER };
        let id = TaskId(self.entries.insert(entry));
        self.wake(id);
        id
    }

    /// Forgets a task, which has come to its end.
    pub(super) fn remove(&mut self, task: TaskId) {
        self.entries.remove(task.0);
    }

    /// Whether the task has not come to its end.
    pub(super) fn is_alive(&self, task: TaskId) -> bool {
        self.entries.get(task.0).is_some()
    }

    /// Takes all tasks out. To be dropped when nothing of the ring is borrowed, because tasks have sockets.
    pub(super) fn take_all(&mut self) -> Vec<Task> {
        let ids: Vec<SlotId> = self.entries.ids().collect();
        ids.into_iter().filter_map(|id| self.entries.get_mut(id)?.task.take()).collect()
    }

    #[inline]
    fn entry(&mut self, task: TaskId) -> Option<&mut Entry> {
        self.entries.get_mut(task.0)
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

    /// Puts all tasks into the run queue.
    pub(super) fn wake_all(&mut self) {
        for id in self.entries.ids().collect::<Vec<_>>() {
            self.wake(TaskId(id));
        }
    }

    /// The next task to run. It is to be [put back](Self::put_back) or [removed](Self::remove).
    #[inline]
    pub(super) fn next(&mut self) -> Option<(TaskId, Task)> {
        while let Some(id) = self.queue.pop_front() {
            if let Some(entry) = self.entries.get_mut(id.0) {
                entry.queued = false;
                if let Some(task) = entry.task.take() {
                    return Some((id, task));
                }
            }
        }
        None
    }

    /// Puts back what [`next`](Self::next) has taken, with a new deadline if it has set one.
    #[inline]
    pub(super) fn put_back(&mut self, id: TaskId, task: Task, deadline: Option<Millis>) {
        // Only who has taken it out says that it has come to its end, so its place is there, and empty.
        let Some(entry) = self.entries.get_mut(id.0) else { return };
        let nothing = entry.task.replace(task);
        debug_assert!(nothing.is_none(), "a task is in one place");
        // None of the code for dropping a task, which could not be done here.
        std::mem::forget(nothing);
        if let Some(deadline) = deadline {
            entry.deadline = deadline;
            if deadline < entry.armed {
                entry.armed = deadline;
                self.arm(id, deadline);
            }
        }
    }

    /// Tasks that wait to run.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    #[cold]
    fn arm(&mut self, id: TaskId, deadline: Millis) {
        self.timers.push(Reverse((deadline, id.0.index, id.0.generation)));
    }

    /// When [`Self::fire`] has something to do; [`NEVER`] if nothing waits for the clock.
    pub(super) fn next_timer(&self) -> Millis {
        self.timers.peek().map_or(NEVER, |Reverse((at, ..))| *at)
    }

    /// Wakes every task whose deadline has come.
    #[inline]
    pub(super) fn fire(&mut self, now: Millis) {
        if self.next_timer() <= now {
            self.fire_some(now);
        }
    }

    fn fire_some(&mut self, now: Millis) {
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

    fn schedule(tasks: usize) -> (Schedule, Vec<TaskId>) {
        let mut schedule = Schedule::default();
        let ids: Vec<TaskId> = (0..tasks).map(|_| schedule.add(Box::pin(async {}))).collect();
        for id in &ids {
            assert_eq!(run(&mut schedule, None), Some(*id));
        }
        (schedule, ids)
    }

    /// Runs the next task, which sets this deadline.
    fn run(schedule: &mut Schedule, deadline: Option<Millis>) -> Option<TaskId> {
        let (id, task) = schedule.next()?;
        schedule.put_back(id, task, deadline);
        Some(id)
    }

    fn set_deadline(schedule: &mut Schedule, id: TaskId, deadline: Millis) {
        schedule.wake(id);
        assert_eq!(run(schedule, Some(deadline)), Some(id));
    }

    #[test]
    fn a_task_is_queued_once_however_often_it_is_woken() {
        let (mut s, ids) = schedule(2);
        s.wake(ids[1]);
        s.wake(ids[1]);
        s.wake(ids[0]);
        assert_eq!([(); 3].map(|()| run(&mut s, None)), [Some(ids[1]), Some(ids[0]), None]);
    }

    #[test]
    fn a_task_that_is_gone_is_not_run() {
        let (mut s, ids) = schedule(1);
        s.wake(ids[0]);
        s.remove(ids[0]);
        assert_eq!(run(&mut s, None), None);
        let next = s.add(Box::pin(async {}));
        assert_eq!(next.0.index, ids[0].0.index);
        s.wake(ids[0]);
        assert_eq!(run(&mut s, None), Some(next));
        assert_eq!(run(&mut s, None), None);
    }

    #[test]
    fn a_task_that_is_woken_while_it_runs_runs_again() {
        let (mut s, ids) = schedule(1);
        s.wake(ids[0]);
        let (id, task) = s.next().unwrap();
        s.wake(ids[0]);
        s.put_back(id, task, None);
        assert_eq!(run(&mut s, None), Some(ids[0]));
        assert_eq!(run(&mut s, None), None);
    }

    #[test]
    fn deadlines_fire_in_time_and_only_once() {
        let (mut s, ids) = schedule(1);
        set_deadline(&mut s, ids[0], 100);
        set_deadline(&mut s, ids[0], 500);
        assert_eq!(s.timers.len(), 1, "moving a deadline away costs no heap entry");
        s.fire(100);
        assert_eq!(run(&mut s, None), None, "the deadline was moved away");
        assert_eq!(s.next_timer(), 500);
        set_deadline(&mut s, ids[0], 300);
        s.fire(299);
        assert_eq!(run(&mut s, None), None);
        s.fire(300);
        assert_eq!(run(&mut s, None), Some(ids[0]));
        s.fire(10_000);
        assert_eq!(run(&mut s, None), None);
        assert_eq!(s.next_timer(), NEVER);
    }

    #[test]
    fn a_deadline_taken_back_does_not_fire() {
        let (mut s, ids) = schedule(1);
        set_deadline(&mut s, ids[0], 100);
        set_deadline(&mut s, ids[0], NEVER);
        s.fire(1_000);
        assert_eq!(run(&mut s, None), None);
        set_deadline(&mut s, ids[0], 1_200);
        s.fire(1_200);
        assert_eq!(run(&mut s, None), Some(ids[0]));
    }
}
