//! Hash to id: the compact half of every table on the packet path.
//!
//! An index knows hashes and 32-bit ids, not keys: its user says whether an id is the one that is sought. It is
//! allocated once, at start, for a fixed number of keys, and never moves anything afterwards. A bucket is one cache
//! line of eight places; a key that finds its home bucket full goes to the next one, and every bucket it passed
//! counts it in `overflow`. A search stops at the first bucket that nobody has passed, and a removal takes its count
//! back along the same path: so there are no tombstones, and the index doesn't get slower with age. (The idea
//! of counting passers-by is that of the F14 tables.)

use crate::flow::{Addr, FlowKey};
use crate::lanes::equal;
use crate::prefetch::prefetch;
use crate::shard::fold;

/// Places in a bucket.
const PLACES: usize = 8;

/// Buckets are laid out for this load when every key is in: seven places of eight.
const KEYS_PER_BUCKET: usize = 7;

/// Buckets behind a full one that are looked at ahead.
const NEIGHBOURS: usize = 2;

/// Tag of an empty place.
const EMPTY: u16 = 0;

/// The index holds as many keys as it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("index full")]
pub struct Full;

/// One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// A tag per place, four in a word.
    tags: [u64; PLACES / 4],
    ids: [u32; PLACES],
    /// Keys that passed this bucket because it was full.
    overflow: u32,
}

impl Bucket {
    const VACANT: Self = Self {
        tags: [0; PLACES / 4],
        ids: [0; PLACES],
        overflow: 0,
    };

    /// Places with this tag.
    #[inline]
    fn matches(&self, tag: u16) -> Places {
        Places(equal(self.tags, tag))
    }

    #[inline]
    const fn set_tag(&mut self, place: usize, tag: u16) {
        let shift = place % 4 * 16;
        let word = &mut self.tags[place / 4];
        *word = *word & !(0xffff << shift) | (tag as u64) << shift;
    }
}

/// Set of places of a bucket: bit 2 n for place n.
#[derive(Clone, Copy)]
struct Places(u32);

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() as usize / 2;
        self.0 &= self.0 - 1;
        Some(place)
    }
}

/// Fixed-capacity map from 64-bit hashes to 32-bit ids.
#[derive(Debug)]
pub struct Index {
    buckets: Box<[Bucket]>,
    capacity: usize,
    len: usize,
}

impl Index {
    /// An index for `capacity` keys, all of its memory allocated and touched.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let buckets = capacity.div_ceil(KEYS_PER_BUCKET).max(1);
        Self {
            buckets: vec![Bucket::VACANT; buckets].into_boxed_slice(),
            capacity,
            len: 0,
        }
    }

    /// The id under `hash` for which `is_it` says yes.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.locate(hash, is_it)
            .map(|(bucket, place)| self.buckets[bucket].ids[place])
    }

    /// The first id of the home bucket that `hash` could stand for: worth a prefetch before [`Self::find`].
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let bucket = &self.buckets[self.home(hash)];
        bucket.matches(tag(hash)).next().map(|place| bucket.ids[place])
    }

    /// Asks for the buckets behind the home bucket, if `hash` could stand for something there.
    #[inline]
    pub fn prefetch_displaced(&self, hash: u64) {
        let mut at = self.home(hash);
        if self.buckets[at].overflow > 0 {
            for _ in 0..NEIGHBOURS {
                at = self.after(at);
                prefetch(&self.buckets[at]);
            }
        }
    }

    /// As [`Self::candidate`], of the buckets behind the home bucket: where most of those keys are that are not at home, a ninth of
    /// all in a full index.
    #[inline]
    #[must_use]
    pub fn displaced_candidate(&self, hash: u64) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..NEIGHBOURS {
            if self.buckets[at].overflow == 0 {
                return None;
            }
            at = self.after(at);
            let bucket = &self.buckets[at];
            if let Some(place) = bucket.matches(tag(hash)).next() {
                return Some(bucket.ids[place]);
            }
        }
        None
    }

    /// Adds `id` under `hash`. The same pair may be added more than once and then counts so often.
    ///
    /// # Errors
    /// [`Full`] when the index holds its capacity; nothing changes then.
    pub fn insert(&mut self, hash: u64, id: u32) -> Result<(), Full> {
        if self.len == self.capacity {
            return Err(Full);
        }
        let mut at = self.home(hash);
        loop {
            let vacant = self.buckets[at].matches(EMPTY).next();
            let bucket = &mut self.buckets[at];
            if let Some(place) = vacant {
                bucket.set_tag(place, tag(hash));
                bucket.ids[place] = id;
                self.len += 1;
                return Ok(());
            }
            bucket.overflow += 1;
            at = self.after(at);
        }
    }

    /// Takes `id` under `hash` out. False when it wasn't there. An id that is here under several hashes must be
    /// removed under each of them, in any order; never under a hash it was not inserted with, because the index keeps
    /// too little of a hash to be sure to notice.
    pub fn remove(&mut self, hash: u64, id: u32) -> bool {
        let Some((last, place)) = self.locate(hash, |other| other == id) else {
            return false;
        };
        self.buckets[last].set_tag(place, EMPTY);
        self.len -= 1;
        let mut at = self.home(hash);
        while at != last {
            self.buckets[at].overflow -= 1;
            at = self.after(at);
        }
        true
    }

    /// Asks for the home bucket of `hash`.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// Keys in the index.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no key is in the index.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys it was made for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Memory of the buckets, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    #[inline]
    fn locate(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<(usize, usize)> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            if let Some(place) = bucket.matches(tag).find(|&place| is_it(bucket.ids[place])) {
                return Some((at, place));
            }
            if bucket.overflow == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Low half of the hash, spread over any number of buckets without a division; the tag has the top bits.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a product of 32-bit fraction and count, shifted back"
    )]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash << 16) * self.buckets.len() as u128) >> 64) as usize
    }

    #[inline]
    const fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() {
            0
        } else {
            bucket + 1
        }
    }
}

/// Top 16 bits, never [`EMPTY`].
#[inline]
const fn tag(hash: u64) -> u16 {
    let tag = (hash >> 48) as u16;
    if tag == EMPTY { 1 } else { tag }
}

/// The secret of this boot that keys are hashed under: whoever doesn't know the seed can't choose flows that meet in one bucket.
/// With it, what [`hash_words`] makes of the seed alone when there is one pair of words: every packet would do it again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    seed: u64,
    first: [u64; 2],
    last: [u64; 2],
}

impl Secret {
    /// The secret of a seed.
    #[must_use]
    pub(super) const fn new(seed: u64) -> Self {
        let hash = seed ^ KEYS[0];
        Self {
            seed,
            first: [hash, seed.rotate_left(11) ^ KEYS[1]],
            last: [hash.rotate_left(23) ^ KEYS[2], seed ^ KEYS[3]],
        }
    }

    /// Hash of a flow's key.
    #[inline]
    #[must_use]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        // Both ports lie together in the key, and are taken in one step.
        let ports = u32::from(key.dst_port) << 16 | u32::from(key.src_port);
        let rest = u64::from(ports) | u64::from(key.vrf.0) << 32 | u64::from(key.proto) << 48;
        if Addr::are_v4(&key.src, &key.dst) {
            let [src, dst] = [key.src, key.dst].map(|a| u64::from(a.v4_number()));
            return self.hash_pair([src << 32 | dst, rest]);
        }
        hash_v6(key, rest, self.seed)
    }

    /// As [`hash_words`].
    #[inline]
    const fn hash_pair(&self, pair: [u64; 2]) -> u64 {
        let hash = fold(self.first[0] ^ pair[0], self.first[1] ^ pair[1]);
        fold(hash ^ self.last[0], self.last[1])
    }
}

/// Hash of a flow's key under the secret of a seed.
#[must_use]
pub fn hash_key(key: &FlowKey, seed: u64) -> u64 {
    Secret::new(seed).hash(key)
}

#[inline(never)]
fn hash_v6(key: &FlowKey, rest: u64, seed: u64) -> u64 {
    let (src_high, src_low) = key.src.halves();
    let (dst_high, dst_low) = key.dst.halves();
    hash_words([src_high, src_low, dst_high, dst_low, rest, 0], seed)
}

/// Hash of an even number of words under a secret: each pair is keyed, multiplied to 128 bits and folded.
#[inline]
#[must_use]
pub fn hash_words<const N: usize>(words: [u64; N], seed: u64) -> u64 {
    const { assert!(N.is_multiple_of(2), "words are taken in pairs") };
    let mut hash = seed ^ KEYS[0];
    let mut key = seed;
    for pair in words.chunks_exact(2) {
        key = key.rotate_left(11) ^ KEYS[1];
        hash = fold(hash ^ pair[0], key ^ pair[1]) ^ hash.rotate_left(23);
    }
    fold(hash ^ KEYS[2], seed ^ KEYS[3])
}

/// Odd constants with about as many ones as zeros: the fractions of the square roots of 2, 3, 5 and 7.
const KEYS: [u64; 4] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
];

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::flow::{VrfId, proto};

    fn key(n: u32) -> FlowKey {
        FlowKey {
            src: Addr::v4(n.to_be_bytes()),
            dst: Addr::v4([192, 0, 2, 1]),
            src_port: 4000,
            dst_port: 80,
            vrf: VrfId(0),
            proto: proto::TCP,
        }
    }

    #[test]
    fn a_bucket_is_one_cache_line() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
    }

    #[test]
    fn every_place_is_found_by_its_tag_and_no_other() {
        let tags = [0x8000, 0x7fff, 1, 0xffff, 0x8001, 0, 2, 0x0100];
        let mut bucket = Bucket::VACANT;
        for (place, tag) in tags.into_iter().enumerate() {
            bucket.set_tag(place, !tag);
            bucket.set_tag(place, tag);
        }
        for (place, tag) in tags.into_iter().enumerate() {
            assert_eq!(bucket.matches(tag).collect::<Vec<_>>(), [place], "{tag:x}");
        }
        assert_eq!(bucket.matches(3).next(), None);
        assert_eq!(
            Bucket::VACANT.matches(EMPTY).map(|place| 1 << place).sum::<u32>(),
            0xff
        );
    }

    #[test]
    fn an_index_for_nothing_refuses_and_finds_nothing() {
        let mut index = Index::new(0);
        assert_eq!(index.insert(1, 1), Err(Full));
        assert_eq!(index.find(1, |_| true), None);
        assert!(!index.remove(1, 1));
    }

    #[test]
    fn filled_to_capacity_every_key_is_found_and_the_next_is_refused() {
        let mut index = Index::new(10_000);
        for n in 0..10_000 {
            index.insert(hash_key(&key(n), 7), n).unwrap();
        }
        assert_eq!(index.insert(hash_key(&key(10_000), 7), 10_000), Err(Full));
        for n in 0..10_000 {
            assert_eq!(index.find(hash_key(&key(n), 7), |id| id == n), Some(n));
        }
        assert_eq!(index.find(hash_key(&key(10_000), 7), |id| id == 10_000), None);
        let load = 10_000.0 / (index.buckets.len() * PLACES) as f64;
        assert!(load >= 0.85, "{load}");
    }

    #[test]
    fn a_key_that_is_not_at_home_is_mostly_near() {
        let mut index = Index::new(7_000);
        let hashes: Vec<u64> = (0..7_000).map(|n| hash_key(&key(n), 5)).collect();
        for (id, &hash) in (0..).zip(&hashes) {
            index.insert(hash, id).unwrap();
        }
        let away = |id: u32, hash| index.candidate(hash) != Some(id);
        let displaced: Vec<(u32, u64)> = (0..).zip(hashes).filter(|&(id, hash)| away(id, hash)).collect();
        let found = displaced
            .iter()
            .filter(|&&(id, hash)| index.displaced_candidate(hash) == Some(id))
            .count();
        assert!(
            (500..1_200).contains(&displaced.len()),
            "{} are not at home",
            displaced.len()
        );
        assert!(
            found * 10 > displaced.len() * 6,
            "{found} of {} are near",
            displaced.len()
        );
        // Nobody has passed: nothing is asked for.
        assert_eq!(Index::new(7).displaced_candidate(1), None);
    }

    #[test]
    fn emptied_again_nothing_remains_that_could_slow_a_search() {
        let mut index = Index::new(1000);
        for round in 0..50_u32 {
            let ids = round * 1000..round * 1000 + 1000;
            for n in ids.clone() {
                index.insert(hash_key(&key(n), 9), n).unwrap();
            }
            for n in ids {
                assert!(index.remove(hash_key(&key(n), 9), n));
            }
        }
        assert!(index.is_empty());
        assert!(
            index
                .buckets
                .iter()
                .all(|bucket| bucket.overflow == 0 && bucket.tags == [0; 2])
        );
    }

    #[test]
    fn every_field_of_a_key_and_the_seed_change_the_hash() {
        let base = key(1);
        let variants = [
            base,
            base.reversed(),
            FlowKey {
                src: Addr::v4([9, 9, 9, 9]),
                ..base
            },
            FlowKey {
                src: Addr::v6([1; 16]),
                ..base
            },
            FlowKey {
                dst: Addr::v4([9, 9, 9, 9]),
                ..base
            },
            FlowKey { src_port: 1, ..base },
            FlowKey { dst_port: 1, ..base },
            FlowKey {
                vrf: VrfId(1),
                ..base
            },
            FlowKey {
                proto: proto::UDP,
                ..base
            },
        ];
        let hashes: HashSet<u64> = variants
            .iter()
            .flat_map(|key| [hash_key(key, 1), hash_key(key, 2)])
            .collect();
        assert_eq!(hashes.len(), 2 * variants.len());
    }

    #[test]
    fn neighbouring_keys_spread_evenly_over_buckets_and_tags() {
        let index = Index::new(256 * KEYS_PER_BUCKET);
        let mut homes = vec![0_u32; 256];
        let mut tags = HashSet::new();
        for n in 0..25_600 {
            let hash = hash_key(&key(0x6440_0000 + n), 0x1234_5678_9abc_def0);
            homes[index.home(hash)] += 1;
            tags.insert(tag(hash));
        }
        // 100 expected per bucket with a deviation of 10: six deviations either way.
        assert!(homes.iter().all(|&count| (40..160).contains(&count)), "{homes:?}");
        assert!(tags.len() > 20_000, "{} of 25,600 draws from 65,535", tags.len());
    }

    proptest! {
        #[test]
        fn a_pair_is_hashed_as_any_words_are(pair: [u64; 2], seed: u64) {
            prop_assert_eq!(Secret::new(seed).hash_pair(pair), hash_words(pair, seed));
        }

        /// The worst case of one id under two hashes: the same tag, on one probe path.
        #[test]
        fn ids_under_two_hashes_of_one_tag_leave_no_trace(
            homes in prop::collection::vec((0_u64..8, 0_u64..8), 1..40),
            order in any::<u64>(),
        ) {
            let mut index = Index::new(80);
            let hash = |home: u64| (1 << 48) | (home << 45);
            for (id, &(a, b)) in (0..).zip(&homes) {
                index.insert(hash(a), id).unwrap();
                index.insert(hash(b), id).unwrap();
            }
            for (id, &(a, b)) in (0..).zip(&homes) {
                let (first, second) = if order >> id & 1 == 0 { (a, b) } else { (b, a) };
                prop_assert!(index.remove(hash(first), id));
                prop_assert_eq!(index.find(hash(second), |other| other == id), Some(id));
                prop_assert!(index.remove(hash(second), id));
                prop_assert!(!index.remove(hash(first), id));
            }
            prop_assert!(index.is_empty());
            prop_assert!(index.buckets.iter().all(|bucket| bucket.overflow == 0));
        }

        /// Few homes and few tags, so that buckets overflow all the time.
        #[test]
        fn it_does_what_a_hash_map_of_lists_does(
            capacity in 1_usize..80,
            steps in prop::collection::vec((0_u8..3, 0_u64..6, 0_u64..4, 0_u32..12), 1..400),
        ) {
            let mut index = Index::new(capacity);
            let mut oracle: HashMap<(u64, u32), u32> = HashMap::new();
            for (act, home, tag, id) in steps {
                let hash = (tag << 48) | (home << 45);
                let id = id + 12 * (u32::try_from(home + 6 * tag).unwrap());
                let held: u32 = oracle.values().sum();
                match act {
                    0 => {
                        let room = (held as usize) < capacity;
                        prop_assert_eq!(index.insert(hash, id).is_ok(), room);
                        if room {
                            *oracle.entry((hash, id)).or_default() += 1;
                        }
                    }
                    1 => {
                        let times = oracle.entry((hash, id)).or_default();
                        prop_assert_eq!(index.remove(hash, id), *times > 0);
                        *times = times.saturating_sub(1);
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
