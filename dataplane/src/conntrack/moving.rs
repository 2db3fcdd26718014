//! An index that can be exchanged for a larger or smaller one, while it is in use.
//!
//! Nothing is rehashed at once. The new index comes empty, made by somebody else; from then on insertions go there, and
//! whoever owns the entries carries those that were there before over, a few per turn. Each key is in exactly one of the two. A
//! search looks into the new one first; the former is looked at for what isn't there, and goes when nothing is left in it.

use super::index::{Full, Index};

/// An index, and the one before it until everything has been carried over.
#[derive(Debug)]
pub struct Moving {
    now: Index,
    former: Option<Index>,
}

impl Moving {
    /// As [`Index::new`].
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            now: Index::new(capacity),
            former: None,
        }
    }

    /// As [`Index::find`].
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.now.find(hash, &mut is_it);
        match &self.former {
            Some(former) if found.is_none() => former.find(hash, is_it),
            _ => found,
        }
    }

    /// As [`Index::candidate`].
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let candidate = self.now.candidate(hash);
        match &self.former {
            Some(former) if candidate.is_none() => former.candidate(hash),
            _ => candidate,
        }
    }

    /// As [`Index::prefetch_displaced`], of the present index.
    #[inline]
    pub fn prefetch_displaced(&self, hash: u64) {
        self.now.prefetch_displaced(hash);
    }

    /// As [`Index::displaced_candidate`], of the present index.
    #[inline]
    #[must_use]
    pub fn displaced_candidate(&self, hash: u64) -> Option<u32> {
        self.now.displaced_candidate(hash)
    }

    /// As [`Index::insert`].
    ///
    /// # Errors
    /// [`Full`] when the present index holds its capacity; nothing changes then.
    #[inline]
    pub fn insert(&mut self, hash: u64, id: u32) -> Result<(), Full> {
        self.now.insert(hash, id)
    }

    /// As [`Index::remove`].
    #[inline]
    pub fn remove(&mut self, hash: u64, id: u32) -> bool {
        self.now.remove(hash, id) || self.former.as_mut().is_some_and(|former| former.remove(hash, id))
    }

    /// Asks for the home bucket of `hash`.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.now.prefetch(hash);
    }

    /// Asks for the bucket that was home to `hash` before, if any.
    #[inline]
    pub fn prefetch_former(&self, hash: u64) {
        if let Some(former) = &self.former {
            former.prefetch(hash);
        }
    }

    /// Keys in both.
    #[must_use]
    pub fn len(&self) -> usize {
        self.now.len() + self.former.as_ref().map_or(0, Index::len)
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys that the present index was made for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.now.capacity()
    }

    /// Whether entries are still to be carried over, or the former index to be taken away.
    #[inline]
    #[must_use]
    pub const fn is_moving(&self) -> bool {
        self.former.is_some()
    }

    /// Goes over to an empty index that has room for every key.
    ///
    /// # Errors
    /// The index, when the former one hasn't been taken away yet or the new one is too small; nothing changes then.
    pub fn adopt(&mut self, index: Index) -> Result<(), Index> {
        if self.is_moving() || index.capacity() < self.len() || !index.is_empty() {
            return Err(index);
        }
        self.former = Some(core::mem::replace(&mut self.now, index));
        Ok(())
    }

    /// Carries a key over. One that is over already stays as it is.
    #[inline]
    pub fn carry(&mut self, hash: u64, id: u32) {
        if let Some(former) = &mut self.former
            && former.remove(hash, id)
        {
            let carried = self.now.insert(hash, id);
            debug_assert!(carried.is_ok(), "it was adopted for all of them");
        }
    }

    /// The former index, when everything was carried over.
    pub const fn take_spent(&mut self) -> Option<Index> {
        self.former.take()
    }

    /// Memory of the buckets, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.now.memory_bytes() + self.former.as_ref().map_or(0, Index::memory_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_index_too_small_or_too_early_comes_back() {
        let mut index = Moving::new(4);
        for id in 0..4 {
            index.insert(u64::from(id) << 45, id).unwrap();
        }
        assert!(index.adopt(Index::new(3)).is_err());
        assert!(index.adopt(Index::new(8)).is_ok());
        assert!(index.adopt(Index::new(8)).is_err(), "the first is under way");
        assert_eq!((index.len(), index.is_moving()), (4, true));
    }

    proptest! {
        /// Against a map of lists, with few homes and few tags, while the index grows and shrinks: whatever was carried over
        /// and whatever not yet, every key is found, and no other one.
        #[test]
        fn it_does_what_a_hash_map_does_while_it_grows_and_shrinks(
            steps in prop::collection::vec((0_u8..7, 0_u64..6, 0_u64..4, 0_u32..12), 1..400),
        ) {
            let mut index = Moving::new(40);
            let mut capacity = 40;
            let mut carried = usize::MAX;
            let mut keys: Vec<(u64, u32)> = Vec::new();
            let mut oracle: HashMap<(u64, u32), u32> = HashMap::new();
            for (act, home, tag, id) in steps {
                let hash = (tag << 48) | (home << 45);
                let id = id + 12 * (u32::try_from(home + 6 * tag).unwrap());
                let held: u32 = oracle.values().sum();
                match act {
                    0 | 1 => if (held as usize) < capacity {
                        index.insert(hash, id).unwrap();
                        *oracle.entry((hash, id)).or_default() += 1;
                    },
                    2 => {
                        let times = oracle.entry((hash, id)).or_default();
                        prop_assert_eq!(index.remove(hash, id), *times > 0);
                        *times = times.saturating_sub(1);
                    }
                    3 => {
                        let wanted = (id as usize).max(held as usize);
                        if index.adopt(Index::new(wanted)).is_ok() {
                            (capacity, carried) = (wanted, 0);
                            keys = oracle.iter().flat_map(|(&key, &times)| vec![key; times as usize]).collect();
                        }
                    }
                    4 | 5 => {
                        for &(hash, id) in keys.iter().skip(carried).take(5) {
                            index.carry(hash, id);
                        }
                        carried = carried.saturating_add(5);
                        if index.is_moving() && carried >= keys.len() {
                            let spent = index.take_spent();
                            prop_assert!(spent.is_some_and(|spent| spent.is_empty()));
                        }
                    }
                    _ => {
                        let there = oracle.get(&(hash, id)).is_some_and(|&times| times > 0);
                        prop_assert_eq!(index.find(hash, |other| other == id), there.then_some(id));
                    }
                }
                prop_assert_eq!(index.len(), oracle.values().sum::<u32>() as usize);
            }
        }
    }
}
