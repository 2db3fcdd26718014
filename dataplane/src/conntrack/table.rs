//! The conntracks of one worker: an arena and an index over both tuples of each.
//!
//! Made once, at start, with memory for what it may hold then; it can be given more room, or less ([`crate::room`]), and nothing
//! in it ever moves. An id is a place in the arena and stays valid until `free`. An entry is *live* while the index knows it, and
//! *dead* between `unindex` and `free`. Lookups go in passes over a burst: `prefetch` for every hash, then `prefetch_entry`,
//! `prefetch_displaced` for those that it found nothing for, then `find_at`.

mod room;

use core::ops;

use super::entry::{Conntrack, Standing};
use super::index::Secret;
use super::moving::Moving;
use crate::flow::{Direction, FlowKey};
use crate::prefetch::{prefetch, prefetch_all, prefetch_lines};
use crate::slot::NIL;
use crate::span::reserved;
use crate::vacancy::Vacancies;

/// New places are laid out so far ahead of their tenants that they are in a near cache by then.
const AHEAD: usize = 16;

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

/// One place of the arena: whole cache lines, and no more than the entry has. Not an `Option`, which would be told from a
/// field of the compiler's choice, in a line that a packet doesn't need otherwise.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Place(Conntrack);

const _: () = assert!(size_of::<Place>() == size_of::<Conntrack>());

impl Place {
    #[inline]
    fn get(&self) -> Option<&Conntrack> {
        (self.0.standing != Standing::Vacant).then_some(&self.0)
    }

    #[inline]
    fn live(&self) -> Option<&Conntrack> {
        (self.0.standing == Standing::Live).then_some(&self.0)
    }
}

/// What the index knows of a key: a place, and which tuple of its conntrack the key is. So a search compares one tuple.
#[derive(Clone, Copy)]
struct Side(u32);

impl Side {
    /// Set for the reply; ids are below.
    const REPLY: u32 = 1 << 31;

    #[inline]
    const fn new(id: u32, direction: Direction) -> Self {
        match direction {
            Direction::Original => Self(id),
            Direction::Reply => Self(id | Self::REPLY),
        }
    }

    #[inline]
    const fn id(self) -> u32 {
        self.0 & !Self::REPLY
    }

    /// [`Direction::index`] of the tuple. Where it only says which one is looked at, a branch would be guessed wrong half the time.
    #[inline]
    const fn place(self) -> usize {
        (self.0 >> 31) as usize
    }

    #[inline]
    const fn direction(self) -> Direction {
        if self.0 & Self::REPLY == 0 {
            Direction::Original
        } else {
            Direction::Reply
        }
    }
}

/// All conntracks of one worker.
#[derive(Debug)]
pub struct Table {
    index: Moving,
    /// Laid out as far as anybody has come, and from the start to the first limit.
    places: Vec<Place>,
    secret: Secret,
    vacant: Vacancies,
    live: usize,
    /// Places whose keys are still to be carried over to the present index: from the first to before the second.
    carried: (u32, u32),
    blank: Conntrack,
}

impl Table {
    /// A table for `capacity` conntracks, live and dead together, whose hashes depend on the secret `seed`.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self::with_reserve(capacity, capacity, seed)
    }

    /// As [`Self::new`], with address space for `reserve` conntracks.
    #[must_use]
    pub fn with_reserve(capacity: usize, reserve: usize, seed: u64) -> Self {
        let [capacity, reserve] =
            [capacity, reserve].map(|places| u32::try_from(places).unwrap_or(NIL).min(Side::REPLY - 1));
        let blank = Conntrack::vacant();
        let mut places = reserved(capacity as usize, reserve as usize);
        places.resize(capacity as usize, Place(blank));
        Self {
            index: Moving::new(2 * capacity as usize),
            vacant: Vacancies::new(capacity, reserve),
            places,
            secret: Secret::new(seed),
            live: 0,
            carried: (0, 0),
            blank,
        }
    }

    /// Hash of a key under this table's secret.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.secret.hash(key)
    }

    /// First pass: asks for the index line of `hash`.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// As [`Self::prefetch`], for the index that is being left.
    #[inline]
    pub(crate) fn prefetch_former(&self, hash: u64) {
        self.index.prefetch_former(hash);
    }

    /// Whether there is an index that is being left.
    #[inline]
    #[must_use]
    pub const fn is_moving(&self) -> bool {
        self.index.is_moving()
    }

    /// As [`Self::prefetch`], for a key that is not looked up in a burst of packets. Answers its hash.
    #[inline]
    pub(crate) fn expect(&self, key: &FlowKey) -> u64 {
        let hash = self.hash(key);
        self.index.prefetch(hash);
        self.index.prefetch_former(hash);
        hash
    }

    /// Asks for all of an entry, if there is such a place.
    #[inline]
    pub(crate) fn expect_entry(&self, id: u32) {
        if let Some(place) = self.places.get(id as usize) {
            prefetch_all(place);
        }
    }

    /// Asks for what tells an entry's neighbours in its slot's list, if there is such a place.
    #[inline]
    pub(crate) fn expect_sync(&self, id: u32) {
        if let Some(place) = self.places.get(id as usize) {
            prefetch(&place.0.sync);
        }
    }

    /// The place that is taken when `later` others have been; [`NIL`] when there are no more.
    #[inline]
    #[must_use]
    pub(crate) fn vacancy(&self, later: usize) -> u32 {
        self.vacant.later(later)
    }

    /// Second pass: asks for what a packet of `proto`, which is counted or not, needs of the entry that `hash` probably stands for.
    /// The answer is for the last pass; [`NIL`] for none, which [`Self::prefetch_displaced`] is to be asked about then.
    #[inline]
    #[must_use]
    pub fn prefetch_entry(&self, hash: u64, proto: u8, counted: bool) -> u32 {
        let Some(candidate) = self.index.candidate(hash) else {
            self.index.prefetch_displaced(hash);
            return NIL;
        };
        self.prefetch_lines(candidate, proto, counted);
        candidate
    }

    /// As [`Self::prefetch_entry`], a pass later, of a key that may not be where it belongs.
    #[inline]
    #[must_use]
    pub fn prefetch_displaced(&self, hash: u64, proto: u8, counted: bool) -> u32 {
        let candidate = self.index.displaced_candidate(hash).unwrap_or(NIL);
        self.prefetch_lines(candidate, proto, counted);
        candidate
    }

    #[inline]
    fn prefetch_lines(&self, candidate: u32, proto: u8, counted: bool) {
        if let Some(place) = self.places.get(Side(candidate).id() as usize) {
            prefetch_lines(place, Conntrack::lines_of_packet(proto, counted));
        }
    }

    /// As [`Self::prefetch_entry`], for a record of a peer, which needs all of it.
    #[inline]
    pub(crate) fn expect_candidate(&self, hash: u64) {
        self.expect_entry(Side(self.index.candidate(hash).unwrap_or(NIL)).id());
    }

    /// Third pass: as [`Self::find`], looking at the `candidate` of the second one first.
    #[inline]
    #[must_use]
    pub fn find_at(&self, candidate: u32, hash: u64, key: &FlowKey) -> Option<(u32, Direction, &Conntrack)> {
        if let Some(found) = self.candidate_at(candidate, key) {
            return Some(found);
        }
        let (id, direction) = self.find(hash, key)?;
        Some((id, direction, &self[id]))
    }

    /// The `candidate` of the second pass, if it is what is sought.
    #[inline(always)]
    #[must_use]
    pub(crate) fn candidate_at(&self, candidate: u32, key: &FlowKey) -> Option<(u32, Direction, &Conntrack)> {
        let side = Side(candidate);
        // It may have been removed since.
        let entry = self.live_at(side.id())?;
        entry
            .tuples
            .is_at(side.place(), key)
            .then_some((side.id(), side.direction(), entry))
    }

    /// The live conntrack that has `key` as one of its tuples, and which of them it is.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: u64, key: &FlowKey) -> Option<(u32, Direction)> {
        let is_it = |side| {
            let entry = self.get(Side(side).id());
            entry.is_some_and(|entry| entry.tuples.is_at(Side(side).place(), key))
        };
        let side = Side(self.index.find(hash, is_it)?);
        Some((side.id(), side.direction()))
    }

    /// Takes a conntrack in and makes it live.
    ///
    /// # Errors
    /// A tuple belongs to another live conntrack, or the arena is full. Nothing changes then.
    pub fn insert(&mut self, conntrack: Conntrack) -> Result<u32, InsertError> {
        let hashes = self.hashes(&conntrack.keys());
        self.insert_hashed(&conntrack, hashes)
    }

    /// As [`Self::insert`], with the hashes of both tuples.
    ///
    /// # Errors
    /// As [`Self::insert`].
    #[inline]
    pub(crate) fn insert_hashed(
        &mut self,
        conntrack: &Conntrack,
        hashes: [u64; 2],
    ) -> Result<u32, InsertError> {
        match self.find(hashes[0], &conntrack.key(Direction::Original)) {
            Some((id, _)) => Err(InsertError::OriginalTaken(id)),
            None => self.insert_sought(conntrack, hashes),
        }
    }

    /// As [`Self::insert_hashed`], for whoever has just sought the original tuple in vain.
    ///
    /// # Errors
    /// As [`Self::insert`], but for the original tuple.
    #[inline]
    pub(crate) fn insert_sought(
        &mut self,
        conntrack: &Conntrack,
        [original_hash, reply_hash]: [u64; 2],
    ) -> Result<u32, InsertError> {
        let [original, reply] = conntrack.keys();
        debug_assert!(self.find(original_hash, &original).is_none(), "sought in vain");
        if let Some((id, _)) = self.find(reply_hash, &reply) {
            return Err(InsertError::ReplyTaken(id));
        }
        let id = self.vacant.next().ok_or(InsertError::Full)?;
        // Both fit: the index has two keys for every place of the arena, and only live places use them.
        self.index
            .insert(original_hash, Side::new(id, Direction::Original).0)
            .map_err(|_| InsertError::Full)?;
        if original != reply {
            self.index
                .insert(reply_hash, Side::new(id, Direction::Reply).0)
                .map_err(|_| InsertError::Full)?;
        }
        self.vacant.take();
        if id as usize + AHEAD >= self.places.len() {
            self.lay_out(id);
        }
        let place = &mut self.places[id as usize].0;
        *place = *conntrack;
        place.standing = Standing::Live;
        self.live += 1;
        Ok(id)
    }

    /// Lays places out, up to some behind this one.
    fn lay_out(&mut self, id: u32) {
        let end = (id as usize + AHEAD)
            .min(self.vacant.limit() as usize)
            .max(id as usize + 1);
        if self.places.len() < end {
            self.places.resize(end, Place(self.blank));
        }
    }

    fn live_keys(&self, id: u32) -> Option<[FlowKey; 2]> {
        self.live_at(id).map(Conntrack::keys)
    }

    /// Takes a live conntrack out of lookup; its tuples can be used again at once. False when it isn't live.
    pub fn unindex(&mut self, id: u32) -> bool {
        let Some(keys) = self.live_keys(id) else {
            return false;
        };
        let [original_hash, reply_hash] = self.hashes(&keys);
        self.index
            .remove(original_hash, Side::new(id, Direction::Original).0);
        if keys[0] != keys[1] {
            self.index.remove(reply_hash, Side::new(id, Direction::Reply).0);
        }
        self[id].standing = Standing::Dead;
        self.live -= 1;
        true
    }

    /// Whether lookup finds a conntrack by both of its tuples. One that isn't live isn't meant to be found.
    #[must_use]
    pub fn finds(&self, id: u32) -> bool {
        self.live_keys(id).is_none_or(|keys| {
            let found = keys.map(|key| self.find(self.hash(&key), &key));
            let reply = if keys[0] == keys[1] {
                Direction::Original
            } else {
                Direction::Reply
            };
            found == [Some((id, Direction::Original)), Some((id, reply))]
        })
    }

    /// Makes lookup find a live conntrack again by both of its tuples. False when one of them is another's, or the index
    /// has no room.
    pub fn reindex(&mut self, id: u32) -> bool {
        let Some(keys) = self.live_keys(id) else {
            return false;
        };
        let distinct = if keys[0] == keys[1] { &keys[..1] } else { &keys[..] };
        let sides = [Direction::Original, Direction::Reply].map(|direction| Side::new(id, direction));
        distinct.iter().zip(sides).all(|(key, side)| {
            let hash = self.hash(key);
            match self.find(hash, key) {
                Some((other, _)) => other == id,
                None => self.index.insert(hash, side.0).is_ok(),
            }
        })
    }

    /// Makes lookup lose a conntrack's original tuple: damage, for tests of what finds it.
    pub fn lose_key(&mut self, id: u32) {
        let hash = self.hash(&self[id].key(Direction::Original));
        self.index.remove(hash, Side::new(id, Direction::Original).0);
    }

    /// Gives the place back, after taking the conntrack out of lookup if it was still there.
    pub fn free(&mut self, id: u32) -> Option<Conntrack> {
        self.unindex(id);
        let entry = self.get_mut(id)?;
        let conntrack = *entry;
        entry.standing = Standing::Vacant;
        self.vacant.give(id);
        Some(conntrack)
    }

    /// The conntrack in a place, live or dead.
    #[inline]
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Conntrack> {
        self.places.get(id as usize)?.get()
    }

    /// The conntrack in a place, live or dead. Its tuples must stay as they are while it is live.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Conntrack> {
        let place = self.places.get_mut(id as usize)?;
        (place.0.standing != Standing::Vacant).then_some(&mut place.0)
    }

    #[inline]
    fn live_at(&self, id: u32) -> Option<&Conntrack> {
        self.places.get(id as usize)?.live()
    }

    /// Whether the place holds a conntrack that lookup finds.
    #[inline]
    #[must_use]
    pub fn is_live(&self, id: u32) -> bool {
        self.live_at(id).is_some()
    }

    /// Where a walk over all entries may end: no place from here on was ever used.
    #[must_use]
    pub const fn reach(&self) -> u32 {
        self.vacant.reach()
    }

    /// The first live id from `cursor` on. Go on with the id after it: a walk in slices sees every entry that
    /// is live throughout.
    #[must_use]
    pub fn next_live(&self, cursor: u32) -> Option<u32> {
        let rest = self.places.get(cursor as usize..self.reach() as usize)?;
        let ahead = rest.iter().position(|place| place.live().is_some())?;
        cursor.checked_add(u32::try_from(ahead).ok()?)
    }

    /// Every live id, ascending.
    pub fn iter_live(&self) -> impl Iterator<Item = (u32, &Conntrack)> + '_ {
        (0..)
            .zip(self.places.iter())
            .filter_map(|(id, place)| Some((id, place.live()?)))
            // Places behind the last one may be most of the arena.
            .take(self.live)
    }

    /// Conntracks in the arena, dead ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vacant.held() as usize
    }

    /// Whether the arena is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Conntracks that lookup finds.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }

    /// Conntracks that may be in the arena. There may be more in it when this has come down since they were made.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.vacant.limit() as usize
    }

    /// Places that have been laid out: ids are below this.
    #[inline]
    pub(crate) const fn laid_out(&self) -> usize {
        self.places.len()
    }

    /// Memory of arena and index, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.places.len().max(self.capacity()) * size_of::<Place>()
            + self.vacant.memory_bytes()
            + self.index.memory_bytes()
    }

    /// Hashes of an entry's tuples.
    pub(crate) fn hashes(&self, keys: &[FlowKey; 2]) -> [u64; 2] {
        [self.hash(&keys[0]), self.hash(&keys[1])]
    }
}

/// For ids that are known to be occupied.
impl ops::Index<u32> for Table {
    type Output = Conntrack;

    #[inline]
    fn index(&self, id: u32) -> &Conntrack {
        match self.get(id) {
            Some(entry) => entry,
            None => unreachable!("conntrack {id} is vacant"),
        }
    }
}

impl ops::IndexMut<u32> for Table {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Conntrack {
        match self.get_mut(id) {
            Some(entry) => entry,
            None => unreachable!("conntrack {id} is vacant"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::index::Index;
    use super::*;
    use crate::config::Timeouts;
    use crate::conntrack::{State, Tuples};
    use crate::delta::{Class, Scales};
    use crate::flow::{Addr, VrfId, proto};
    use crate::time::Instant;

    fn key(src: u8, dst: u8, proto: u8) -> FlowKey {
        FlowKey {
            src: Addr::v4([10, 0, 0, src]),
            dst: Addr::v4([192, 0, 2, dst]),
            src_port: 1,
            dst_port: 2,
            vrf: VrfId(0),
            proto,
        }
    }

    fn conntrack(original: FlowKey, reply: FlowKey) -> Conntrack {
        let state = State::inherited(original.proto, Class::Opening, Scales::NONE);
        Conntrack::new(
            Tuples::new(&[original, reply]).unwrap(),
            0,
            state,
            &Timeouts::default(),
            Instant::default(),
        )
    }

    fn find(table: &Table, key: &FlowKey) -> Option<(u32, Direction)> {
        let hash = table.hash(key);
        let found = table.find(hash, key);
        let candidate = table.prefetch_entry(hash, key.proto, true);
        let told = table.find_at(candidate, hash, key);
        let expected = found.map(|(id, direction)| (id, direction, &table[id]));
        assert_eq!(told, expected);
        found
    }

    #[test]
    fn a_candidate_that_was_removed_since_is_not_found_again() {
        let mut table = Table::new(2, 1);
        let original = key(1, 1, proto::UDP);
        let id = table.insert(conntrack(original, original.reversed())).unwrap();
        let hash = table.hash(&original);
        let candidate = table.prefetch_entry(hash, original.proto, true);
        assert_eq!(candidate, id);
        table.unindex(id);
        assert_eq!(table.find_at(candidate, hash, &original), None);
        let next = table.insert(conntrack(original, original.reversed())).unwrap();
        let found = table.find_at(candidate, hash, &original);
        assert_eq!(
            found.map(|(id, direction, _)| (id, direction)),
            Some((next, Direction::Original))
        );
    }

    #[test]
    fn both_tuples_find_the_conntrack_and_tell_the_direction() {
        let mut table = Table::new(4, 1);
        for protocol in [proto::UDP, proto::ICMP] {
            let original = key(1, 1, protocol);
            let id = table.insert(conntrack(original, original.reversed())).unwrap();
            assert_eq!(find(&table, &original), Some((id, Direction::Original)));
            assert_eq!(find(&table, &original.reversed()), Some((id, Direction::Reply)));
        }
    }

    #[test]
    fn a_conntrack_whose_two_tuples_are_the_same_lives_and_dies_like_any_other() {
        let mut table = Table::new(1, 1);
        let same = FlowKey {
            dst: Addr::v4([10, 0, 0, 1]),
            dst_port: 1,
            ..key(1, 1, proto::UDP)
        };
        assert_eq!(same, same.reversed());
        let id = table.insert(conntrack(same, same)).unwrap();
        assert_eq!(find(&table, &same), Some((id, Direction::Original)));
        assert!(table.free(id).is_some());
        assert_eq!((find(&table, &same), table.index.len()), (None, 0));
    }

    #[test]
    fn overlapping_addresses_in_two_vrfs_do_not_meet() {
        let mut table = Table::new(4, 1);
        let one = key(1, 1, proto::UDP);
        let two = FlowKey { vrf: VrfId(1), ..one };
        let first = table.insert(conntrack(one, one.reversed())).unwrap();
        let second = table.insert(conntrack(two, two.reversed())).unwrap();
        assert_eq!(find(&table, &one), Some((first, Direction::Original)));
        assert_eq!(find(&table, &two), Some((second, Direction::Original)));
    }

    #[test]
    fn a_dead_conntrack_leaves_its_tuples_to_the_next_and_keeps_its_place() {
        let mut table = Table::new(2, 1);
        let original = key(1, 1, proto::UDP);
        let dead = table.insert(conntrack(original, original.reversed())).unwrap();
        assert!(table.unindex(dead) && !table.unindex(dead));
        let live = table.insert(conntrack(original, original.reversed())).unwrap();
        assert_eq!(find(&table, &original), Some((live, Direction::Original)));
        assert_eq!((table.len(), table.live(), table.is_live(dead)), (2, 1, false));
        assert!(table.get(dead).is_some());
        let other = key(2, 2, proto::UDP);
        assert_eq!(
            table.insert(conntrack(other, other.reversed())),
            Err(InsertError::Full)
        );
        assert!(table.free(dead).is_some() && table.free(dead).is_none());
        assert_eq!(table.insert(conntrack(other, other.reversed())), Ok(dead));
    }

    #[test]
    fn a_walk_in_slices_sees_what_is_live_throughout() {
        let mut table = Table::new(8, 1);
        for n in 0..8 {
            let original = key(n, n, proto::UDP);
            table.insert(conntrack(original, original.reversed())).unwrap();
        }
        table.unindex(0);
        table.free(3);
        let (mut cursor, mut seen) = (0, Vec::new());
        while let Some(id) = table.next_live(cursor) {
            seen.push(id);
            cursor = id + 1;
            table.free(5);
        }
        assert_eq!(seen, [1, 2, 4, 6, 7]);
        assert_eq!(table.iter_live().map(|(id, _)| id).collect::<Vec<_>>(), seen);
        assert_eq!(table.next_live(u32::MAX), None);
    }

    #[test]
    fn an_id_that_never_was_is_nothing() {
        let mut table = Table::new(0, 1);
        assert!(table.get(0).is_none() && table.get_mut(NIL).is_none());
        assert!(!table.unindex(7) && table.free(7).is_none());
        let original = key(1, 1, proto::UDP);
        assert_eq!(
            table.insert(conntrack(original, original)),
            Err(InsertError::Full)
        );
    }

    proptest! {
        #[test]
        fn it_does_what_a_hash_map_of_tuples_does(
            capacity in 1_usize..24,
            steps in prop::collection::vec((0_u8..8, 0_u8..5, 0_u8..5, 0_u8..5, 0_u8..5, 0_u32..26), 1..300),
        ) {
            // Room comes and goes; what was given is rearranged step by step, or not at all for a while.
            let mut table = Table::with_reserve(capacity, 24, 99);
            let mut capacity = capacity;
            let mut tuples: HashMap<FlowKey, (u32, Direction)> = HashMap::new();
            let mut held: HashMap<u32, [FlowKey; 2]> = HashMap::new();
            for (act, a, b, c, d, id) in steps {
                let (original, reply) = (key(a, b, proto::UDP), key(c, d, proto::UDP));
                match act {
                    0 | 1 => {
                        let expected = match (tuples.get(&original), tuples.get(&reply)) {
                            (Some(&(id, _)), _) => Err(InsertError::OriginalTaken(id)),
                            (_, Some(&(id, _))) => Err(InsertError::ReplyTaken(id)),
                            _ if held.len() >= capacity => Err(InsertError::Full),
                            _ => Ok(()),
                        };
                        let got = table.insert(conntrack(original, reply));
                        if expected.is_err() || table.vacant.is_arranged() {
                            prop_assert_eq!(got.map(|_| ()), expected);
                        }
                        if let Ok(id) = got {
                            prop_assert!(held.insert(id, [original, reply]).is_none());
                            tuples.insert(reply, (id, Direction::Reply));
                            tuples.insert(original, (id, Direction::Original));
                        }
                    }
                    2 => {
                        let live = tuples.values().any(|&(other, _)| other == id);
                        prop_assert_eq!(table.unindex(id), live);
                        tuples.retain(|_, &mut (other, _)| other != id);
                    }
                    3 => {
                        prop_assert_eq!(table.free(id).map(|old| old.keys()), held.remove(&id));
                        tuples.retain(|_, &mut (other, _)| other != id);
                    }
                    4 => prop_assert_eq!(find(&table, &original), tuples.get(&original).copied()),
                    5 => {
                        table.rearrange(1);
                        let spent = table.take_spent();
                        prop_assert!(spent.is_none_or(|spent| spent.is_empty()));
                    }
                    6 => {
                        let wanted = (id as usize).min(24);
                        if !table.is_moving() && held.len() <= wanted {
                            table.adopt(wanted, Index::new(2 * wanted));
                            capacity = wanted;
                        }
                    }
                    _ => {
                        capacity = capacity.min(id as usize);
                        table.set_limit(capacity);
                        for span in table.vacate() {
                            prop_assert!(span.bytes == 0 || held.keys().all(|&id| (id as usize) < capacity));
                        }
                    }
                }
                let live = held.keys().filter(|&&id| tuples.values().any(|&(other, _)| other == id)).count();
                prop_assert_eq!((table.len(), table.live()), (held.len(), live));
                for (key, &found) in &tuples {
                    prop_assert_eq!(find(&table, key), Some(found));
                }
            }
        }
    }
}
