//! Who still wants what the directory has.

use std::collections::{HashMap, HashSet};

use crate::core::Core;
use crate::processes::Slot;
use crate::schema::Schema;
use crate::snapshot::ProcessState;
use crate::sums::{Directory, Sum, Sums};

/// Entities that no live process has.
#[derive(Default)]
pub(crate) struct Unowned {
    /// Those that are gone, in order.
    pub(crate) dropped: Vec<usize>,
    /// Those that a live process has under another schema: what they counted is to go there.
    pub(crate) moved: Vec<(usize, usize)>,
}

impl Unowned {
    /// All of them.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        self.dropped.iter().copied().chain(self.moved.iter().map(|(from, _)| *from))
    }
}

/// Finds the entities that no live process has, provided that one serves: until then they wait for it to want them.
pub(crate) fn unowned(core: &Core, directory: &Directory, slots: &[Slot]) -> Unowned {
    let alive = || slots.iter().filter(|slot| slot.process.alive);
    if !alive().any(|slot| slot.process.state == ProcessState::Serving) {
        return Unowned::default();
    }
    let living = alive().fold(0_u64, |bits, slot| bits | 1 << slot.number);
    let owned =
        |number: &usize| directory.entities[*number].is_some_and(|entity| entity.owners & living != 0);
    let all = || (0..directory.entities.len()).filter(|number| directory.entities[*number].is_some());
    let orphans: Vec<usize> = all().filter(|number| !owned(number)).collect();
    if orphans.is_empty() {
        return Unowned::default();
    }
    // Only a scope that is described in two ways can have the same thing twice.
    let name = |number: usize| schema(directory, number).map(|schema| schema.info.name.as_str());
    let orphaned: HashSet<&str> = orphans.iter().filter_map(|number| name(*number)).collect();
    let twice: HashSet<&str> = orphaned
        .into_iter()
        .filter(|scope| {
            directory.schemas.iter().flatten().filter(|schema| schema.info.name == *scope).count() > 1
        })
        .collect();
    let key = |number: usize| {
        let scope = name(number).filter(|scope| twice.contains(scope))?;
        let generation = directory.entities[number]?.generation;
        Some((scope, core.labels(number, generation)?))
    };
    let heirs: HashMap<_, usize> = if twice.is_empty() {
        HashMap::new()
    } else {
        all().filter(owned).filter_map(|n| Some((key(n)?, n))).collect()
    };
    let mut unowned = Unowned::default();
    for number in orphans {
        match key(number).and_then(|key| heirs.get(&key)) {
            Some(heir) => unowned.moved.push((number, *heir)),
            None => unowned.dropped.push(number),
        }
    }
    unowned
}

/// Forgets what was counted of the dropped, and gives what was counted of the moved to their heirs.
pub(crate) fn inherit(directory: &Directory, unowned: &Unowned, sums: &mut Sums) {
    for number in &unowned.dropped {
        sums.0[*number] = None;
    }
    for (from, to) in &unowned.moved {
        let (Some(old), Some(new)) = (schema(directory, *from), schema(directory, *to)) else { continue };
        let Some(sum) = sums.0[*from].take() else { continue };
        let heir =
            sums.0[*to].get_or_insert_with(|| Sum { cells: vec![0; new.cells.len()], pages: Vec::new() });
        convert(old, new, sum, heir);
    }
}

fn schema(directory: &Directory, number: usize) -> Option<&Schema> {
    directory.schemas.get(directory.entities.get(number)?.as_ref()?.schema)?.as_deref()
}

/// Adds a sum under one schema to one under another, metric by metric. What the new one does not have is forgotten.
fn convert(old: &Schema, new: &Schema, sum: Sum, into: &mut Sum) {
    let mut first_cells = HashMap::new();
    for (metric, cell) in new.metrics() {
        first_cells.insert((metric.name.as_str(), metric.kind), cell);
    }
    let mut pages = sum.pages;
    for (metric, from) in old.metrics() {
        let to = first_cells.get(&(metric.name.as_str(), metric.kind));
        for offset in 0..metric.kind.cells() {
            if let Some(to) = to {
                let cell = &mut into.cells[to + offset];
                *cell = cell.wrapping_add(sum.cells[from + offset]);
                for mut page in pages.extract_if(.., |page| page.cell == from + offset) {
                    page.cell = to + offset;
                    into.pages.push(page);
                }
            }
        }
    }
}
