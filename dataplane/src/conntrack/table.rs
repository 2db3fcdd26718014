//! The conntracks of one worker: an arena of fixed size and an index over both tuples of each.
//!
//! Made once, at start, with all of its memory. An id is a place in the arena and stays valid until `free`; the
//! place's generation tells a later tenant from an earlier one. An entry is *live* while the index knows it, and
//! *dead* between `unindex` and `free`. Lookups go in two passes over a burst: `prefetch` for every hash, then
//! `prefetch_entry`, then `find`.

use core::ops;

use super::entry::Conntrack;
use super::index::{Index, hash_key};
use crate::flow::{Direction, FlowKey};
use crate::prefetch::prefetch;
use crate::slot::NIL;

/// Why a conntrack was not inserted. The table is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// No place in the arena.
    #[error("conntrack table full")]
    Full,
    /// The live conntrack with this id has the original tuple (as its original or reply).
    #[error("original tuple belongs to conntrack {0}")]
    OriginalTaken(u32),
    /// The live conntrack with this id has the reply tuple (as its original or reply).
    #[error("reply tuple belongs to conntrack {0}")]
    ReplyTaken(u32),
}

/// One place of the arena.
#[derive(Debug)]
struct Place {
    entry: Option<Conntrack>,
    /// Grows with each tenant.
    generation: u32,
    /// Whether the index knows the entry.
    live: bool,
    /// Next vacant place, or [`NIL`].
    vacant_next: u32,
}

/// All conntracks of one worker.
#[derive(Debug)]
pub struct Table {
    index: Index,
    places: Box<[Place]>,
    seed: u64,
    vacant: u32,
    len: usize,
    live: usize,
}

impl Table {
    /// A table for `capacity` conntracks, live and dead together, whose hashes depend on the secret `seed`.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(NIL).min(NIL - 1);
        let places = (1..=capacity)
            .map(|next| Place {
                entry: None,
                generation: 0,
                live: false,
                vacant_next: if next == capacity { NIL } else { next },
            })
            .collect();
        Self {
            index: Index::new(2 * capacity as usize),
            places,
            seed,
            vacant: if capacity == 0 { NIL } else { 0 },
            len: 0,
            live: 0,
        }
    }

    /// Hash of a key under this table's secret.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        hash_key(key, self.seed)
    }

    /// First pass: asks for the index line of `hash`.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second pass: asks for the entry that `hash` probably stands for.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        if let Some(id) = self.index.candidate(hash) {
            prefetch(&self.places[id as usize]);
        }
    }

    /// The live conntrack that has `key` as one of its tuples, and which of them it is.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: u64, key: &FlowKey) -> Option<(u32, Direction)> {
        let mut dir = Direction::Original;
        let id = self.index.find(hash, |id| match self.direction(id, key) {
            Some(found) => {
                dir = found;
                true
            }
            None => false,
        })?;
        Some((id, dir))
    }

    /// Takes a conntrack in and makes it live.
    ///
    /// # Errors
    /// A tuple belongs to another live conntrack, or the arena is full. Nothing changes then.
    pub fn insert(&mut self, conntrack: Conntrack) -> Result<u32, InsertError> {
        let [original, reply] = conntrack.keys;
        let [original_hash, reply_hash] = self.hashes(&conntrack.keys);
        if let Some((id, _)) = self.find(original_hash, &original) {
            return Err(InsertError::OriginalTaken(id));
        }
        if let Some((id, _)) = self.find(reply_hash, &reply) {
            return Err(InsertError::ReplyTaken(id));
        }
        let id = self.vacant;
        if id == NIL {
            return Err(InsertError::Full);
        }
        // Both fit: the index has two keys for every place of the arena, and only live places use them.
        self.index
            .insert(original_hash, id)
            .map_err(|_| InsertError::Full)?;
        if original != reply {
            self.index.insert(reply_hash, id).map_err(|_| InsertError::Full)?;
        }
        let place = &mut self.places[id as usize];
        self.vacant = place.vacant_next;
        place.entry = Some(conntrack);
        place.generation = place.generation.wrapping_add(1);
        place.live = true;
        self.len += 1;
        self.live += 1;
        Ok(id)
    }

    /// Takes a live conntrack out of lookup; its tuples can be used again at once. False when it isn't live.
    pub fn unindex(&mut self, id: u32) -> bool {
        let Some(keys) = self
            .places
            .get(id as usize)
            .filter(|place| place.live)
            .and_then(keys_of)
        else {
            return false;
        };
        let [original_hash, reply_hash] = self.hashes(&keys);
        self.index.remove(original_hash, id);
        if keys[0] != keys[1] {
            self.index.remove(reply_hash, id);
        }
        self.places[id as usize].live = false;
        self.live -= 1;
        true
    }

    /// Gives the place back, after taking the conntrack out of lookup if it was still there.
    pub fn free(&mut self, id: u32) -> Option<Conntrack> {
        self.unindex(id);
        let place = self.places.get_mut(id as usize)?;
        let entry = place.entry.take()?;
        place.vacant_next = self.vacant;
        self.vacant = id;
        self.len -= 1;
        Some(entry)
    }

    /// The conntrack in a place, live or dead.
    #[inline]
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Conntrack> {
        self.places.get(id as usize)?.entry.as_ref()
    }

    /// The conntrack in a place, live or dead. Its `keys` must stay as they are while it is live.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Conntrack> {
        self.places.get_mut(id as usize)?.entry.as_mut()
    }

    /// Whether the place holds a conntrack that lookup finds.
    #[inline]
    #[must_use]
    pub fn is_live(&self, id: u32) -> bool {
        self.places.get(id as usize).is_some_and(|place| place.live)
    }

    /// How many tenants the place has had, the present one included.
    #[must_use]
    pub fn generation(&self, id: u32) -> Option<u32> {
        self.places.get(id as usize).map(|place| place.generation)
    }

    /// The first live id from `cursor` on. Go on with the id after it: a walk in slices sees every entry that
    /// is live throughout.
    #[must_use]
    pub fn next_live(&self, cursor: u32) -> Option<u32> {
        let rest = self.places.get(cursor as usize..)?;
        let ahead = rest.iter().position(|place| place.live)?;
        cursor.checked_add(u32::try_from(ahead).ok()?)
    }

    /// Every live id, ascending.
    pub fn iter_live(&self) -> impl Iterator<Item = (u32, &Conntrack)> + '_ {
        (0..)
            .zip(self.places.iter())
            .filter(|(_, place)| place.live)
            .filter_map(|(id, place)| Some((id, place.entry.as_ref()?)))
    }

    /// Conntracks in the arena, dead ones included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the arena is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Conntracks that lookup finds.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }

    /// Places in the arena.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.places.len()
    }

    /// Memory of arena and index, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.places.len() * size_of::<Place>() + self.index.memory_bytes()
    }

    fn hashes(&self, keys: &[FlowKey; 2]) -> [u64; 2] {
        [self.hash(&keys[0]), self.hash(&keys[1])]
    }

    /// Which tuple of entry `id` the key is.
    #[inline]
    fn direction(&self, id: u32, key: &FlowKey) -> Option<Direction> {
        let entry = self.places[id as usize].entry.as_ref()?;
        if entry.keys[0] == *key {
            Some(Direction::Original)
        } else if entry.keys[1] == *key {
            Some(Direction::Reply)
        } else {
            None
        }
    }
}

/// For ids that are known to be occupied.
impl ops::Index<u32> for Table {
    type Output = Conntrack;

    fn index(&self, id: u32) -> &Conntrack {
        match self.get(id) {
            Some(entry) => entry,
            None => unreachable!("conntrack {id} is vacant"),
        }
    }
}

impl ops::IndexMut<u32> for Table {
    fn index_mut(&mut self, id: u32) -> &mut Conntrack {
        match self.get_mut(id) {
            Some(entry) => entry,
            None => unreachable!("conntrack {id} is vacant"),
        }
    }
}

fn keys_of(place: &Place) -> Option<[FlowKey; 2]> {
    place.entry.as_ref().map(|entry| entry.keys)
}
