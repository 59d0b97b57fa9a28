//! The process table, and who of it still lives.

use std::fs;

use crate::core::{Core, Locked};
use crate::error::SegmentError;
use crate::layout::{PROCESS_WORDS, PROCESSES, SLOTS, header, lower, upper, word};
use crate::snapshot::{Process, ProcessState};

/// Words of a slot.
const STATE: usize = 0;
const PID: usize = 1;
const START_TICKS: usize = 2;
const STARTED_MS: usize = 3;
const EPOCH_WORKERS: usize = 4;
const VERSION: usize = 5;
const VERSION_BYTES: usize = (PROCESS_WORDS - VERSION) * 8;

impl ProcessState {
    const fn code(self) -> u32 {
        match self {
            Self::Starting => 1,
            Self::Serving => 2,
            Self::Draining => 3,
            Self::Gone => 4,
        }
    }

    /// 0 is a free slot.
    const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Starting,
            2 => Self::Serving,
            3 => Self::Draining,
            4 => Self::Gone,
            _ => return None,
        })
    }
}

/// What a process says of itself when it joins.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// Its restart epoch.
    pub epoch: u32,
    /// Its worker threads.
    pub workers: u32,
    /// Version of its program; 24 bytes of it are kept.
    pub version: &'a str,
}

/// A slot that is in use.
pub(crate) struct Slot {
    pub(crate) number: usize,
    pub(crate) incarnation: u32,
    pub(crate) process: Process,
}

/// Where a word of a slot is.
const fn at(slot: usize, field: usize) -> usize {
    PROCESSES + slot * PROCESS_WORDS + field
}

impl Core {
    /// All slots in use, oldest process first, with who lives.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let mut found: Vec<_> = (0..SLOTS).filter_map(|number| self.slot(number)).collect();
        found.sort_by_key(|slot| slot.incarnation);
        found
    }

    fn slot(&self, number: usize) -> Option<Slot> {
        let state_word = self.load(at(number, STATE));
        let state = ProcessState::from_code(lower(state_word))?;
        let version: Vec<u8> = (VERSION..PROCESS_WORDS)
            .flat_map(|field| self.load(at(number, field)).to_le_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        let epoch_workers = self.load(at(number, EPOCH_WORKERS));
        let pid = lower(self.load(at(number, PID)));
        let alive = state != ProcessState::Gone && lives(pid, self.load(at(number, START_TICKS)));
        Some(Slot {
            number,
            incarnation: upper(state_word),
            process: Process {
                pid,
                epoch: upper(epoch_workers),
                started_ms: self.load(at(number, STARTED_MS)),
                state,
                workers: lower(epoch_workers),
                alive,
                version: String::from_utf8_lossy(&version).into_owned(),
            },
        })
    }

    pub(crate) fn set_state(&self, slot: usize, incarnation: u32, state: ProcessState) {
        // A process that was taken for dead while it lived must not touch its successor's slot.
        if upper(self.load(at(slot, STATE))) == incarnation {
            self.store(at(slot, STATE), word(incarnation, state.code()));
        }
    }

    pub(crate) fn set_workers(&self, slot: usize, workers: u32) {
        let epoch = upper(self.load(at(slot, EPOCH_WORKERS)));
        self.store(at(slot, EPOCH_WORKERS), word(epoch, workers));
    }

    pub(crate) fn set_epoch(&self, slot: usize, epoch: u32) {
        let workers = lower(self.load(at(slot, EPOCH_WORKERS)));
        self.store(at(slot, EPOCH_WORKERS), word(epoch, workers));
    }

    /// Whether every slot is free or has a state that there is.
    pub(crate) fn has_sane_processes(&self) -> bool {
        (0..SLOTS).all(|number| {
            let state = lower(self.load(at(number, STATE)));
            state == 0 || ProcessState::from_code(state).is_some()
        })
    }
}

impl Locked<'_> {
    /// Takes a free slot for this process; returns it and the incarnation.
    pub(crate) fn enter(&self, joining: &Joining<'_>) -> Result<(usize, u32), SegmentError> {
        let pid = std::process::id();
        let start = start_ticks(pid).unwrap_or(0);
        let slot = (0..SLOTS)
            .find(|number| lower(self.load(at(*number, STATE))) == 0)
            .ok_or(SegmentError::Full { what: "another process" })?;
        let incarnation = lower(self.add(header::GENERATIONS, 1).wrapping_add(1));
        self.store(at(slot, PID), u64::from(pid));
        self.store(at(slot, START_TICKS), start);
        self.store(at(slot, STARTED_MS), crate::core::now_ms());
        self.store(at(slot, EPOCH_WORKERS), word(joining.epoch, joining.workers));
        let mut bytes = joining.version.bytes().take(VERSION_BYTES).chain(std::iter::repeat(0));
        for field in VERSION..PROCESS_WORDS {
            let mut value = [0; 8];
            value.fill_with(|| bytes.next().unwrap_or_default());
            self.store(at(slot, field), u64::from_le_bytes(value));
        }
        crate::fault::point();
        self.store(at(slot, STATE), word(incarnation, ProcessState::Starting.code()));
        Ok((slot, incarnation))
    }

    /// Frees the slot of a process that is folded.
    pub(crate) fn leave(&self, slot: usize) {
        self.store(at(slot, STATE), 0);
    }
}

/// Whether a process with this id runs.
pub(crate) fn runs(pid: u32) -> bool {
    start_ticks(pid).is_some()
}

/// Whether the process with this id that started then still runs. One that has ended but was not waited for does not.
fn lives(pid: u32, start: u64) -> bool {
    match start_ticks(pid) {
        Some(ticks) => ticks == start || start == 0,
        // Without /proc nobody can be told to be dead.
        None => start_ticks(std::process::id()).is_none(),
    }
}

/// When a process started, clock ticks since boot: field 22 of `/proc/PID/stat`. `None` if it has ended.
#[cfg(not(all(test, loom)))]
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, parentheses included.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(all(test, loom))]
fn start_ticks(_: u32) -> Option<u64> {
    let _ = fs::read_to_string::<&str>;
    Some(1)
}
