//! A slab whose handles carry a generation, so that a handle to something gone is told apart from a handle to
//! what took its place.

/// Handle of an entry in [`Slots`]: index and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// Position in the slab.
    pub index: u32,
    /// Counts the reuses of the position; 24 bits.
    pub generation: u32,
}

/// Generations are kept to 24 bits: that is what fits beside kind and slot in an operation's `user_data`.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Slab with generations and a free list.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts a value into a free position.
    ///
    /// # Panics
    /// With more than 2^32 entries.
    pub fn insert(&mut self, value: T) -> SlotId {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            debug_assert!(entry.value.is_none());
            entry.value = Some(value);
            return SlotId { index, generation: entry.generation };
        }
        #[allow(clippy::expect_used)] // our own bug: descriptors run out long before
        let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 slots");
        self.entries.push(Entry { generation: 0, value: Some(value) });
        SlotId { index, generation: 0 }
    }

    /// Takes the value out; the handle is stale from then on.
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(id.index);
        Some(value)
    }

    /// The value behind a handle, unless it is stale.
    #[inline]
    #[must_use]
    pub fn get(&self, id: SlotId) -> Option<&T> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation == id.generation { entry.value.as_ref() } else { None }
    }

    /// The value behind a handle, unless it is stale.
    #[inline]
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation == id.generation { entry.value.as_mut() } else { None }
    }

    /// The values behind two handles, unless one is stale or both are the same.
    #[inline]
    pub fn pair_mut(&mut self, a: SlotId, b: SlotId) -> Option<(&mut T, &mut T)> {
        let [first, second] = self.entries.get_disjoint_mut([a.index as usize, b.index as usize]).ok()?;
        if first.generation != a.generation || second.generation != b.generation {
            return None;
        }
        first.value.as_mut().zip(second.value.as_mut())
    }

    /// Number of values held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether no value is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Handles of all values held.
    pub fn ids(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.value.is_some()).map(|(index, entry)| {
            #[allow(clippy::cast_possible_truncation)] // insert() keeps the count below 2^32
            SlotId { index: index as u32, generation: entry.generation }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_to_something_gone_finds_nothing() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn two_values_can_be_had_at_once() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert(1), slots.insert(2));
        assert_eq!(slots.pair_mut(b, a), Some((&mut 2, &mut 1)));
        assert_eq!(slots.pair_mut(a, a), None, "one value");
        slots.remove(b);
        assert_eq!(slots.pair_mut(a, b), None, "a stale handle");
    }
}
