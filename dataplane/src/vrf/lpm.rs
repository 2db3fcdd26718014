//! Longest-prefix match: a trie that looks at six bits per node and keeps children and results as dense runs,
//! found by counting bits (the idea of "Poptrie", Asai and Ohara, SIGCOMM 2015).
//!
//! Never changed: a snapshot keeps its own. Large tables begin with a directly indexed level of 16 bits: an IPv4 lookup
//! then reads at most one cell, three nodes and one result; small tables begin with a node and stay in the first-level
//! cache. Both families use one code, keys are aligned to the left.
//!
//! [`Prefixes`] is the list that tries are made from. A few changes of a large one make a new trie of the old one's
//! arrays, in which only the cells of the direct level that are concerned lead somewhere else, to nodes at the end; what
//! they led to before stays behind as waste, until there is so much of it that everything is laid out anew.

use std::sync::Arc;

/// Result of "no route".
const NONE: u32 = 0;
/// Bits per node.
const STRIDE: u32 = 6;
/// Bits of the direct level of a large table.
const DIRECT_BITS: u32 = 16;
/// From this many prefixes on the 256 KiB of the direct level are worth it.
const DIRECT_FROM: usize = 4_096;
/// Marks a cell of the direct level that holds a result, not a node.
const RESULT: u32 = 1 << 31;

/// Cells of the direct level that may be laid out one by one; beyond, all of them are.
const CELLS_MAX: usize = 2_048;

/// Maps the longest matching prefix of an address to a number below 2^31 - 1. A copy shares everything.
#[derive(Debug, Clone)]
pub struct Lpm {
    direct: Arc<[u32]>,
    nodes: Arc<[Node]>,
    results: Arc<[u32]>,
}

/// The arrays of an [`Lpm`] while they are made.
#[derive(Debug, Default)]
struct Draft {
    direct: Vec<u32>,
    nodes: Vec<Node>,
    results: Vec<u32>,
}

/// A changing list of prefixes, and the trie of how it is now.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// In the order of [`Prefix::place`], each place once.
    sorted: Vec<Prefix>,
    /// Changes that `sorted` doesn't have yet, in the order in which they came; [`NONE`] takes away.
    pending: Vec<Prefix>,
    lpm: Lpm,
    /// Nodes when everything was laid out last.
    nodes_laid_out: usize,
}

/// 64 ways on: each is a child node (its bit set in `children`) or a result. A set bit in `runs` starts a run of
/// equal results; ways that are children don't interrupt one.
#[derive(Debug, Default, Clone, Copy)]
struct Node {
    children: u64,
    runs: u64,
    first_child: u32,
    first_result: u32,
}

/// A prefix with its number plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    bits: u128,
    len: u32,
    result: u32,
}

impl Prefix {
    fn new(bits: u128, len: u8, result: u32) -> Self {
        let len = u32::from(len).min(128);
        let kept = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        Self {
            bits: bits & kept,
            len,
            result,
        }
    }

    /// What sorts by containment: a prefix comes before everything inside it, so later always means longer.
    const fn place(&self) -> (u128, u32) {
        (self.bits, self.len)
    }

    /// Cells of the direct level that it lies in.
    const fn cells(&self) -> core::ops::Range<usize> {
        let first = chunk(self.bits, DIRECT_BITS);
        first..first + (1 << DIRECT_BITS.saturating_sub(self.len))
    }
}

impl Prefixes {
    /// Gives a prefix (bits aligned to the left, and length) a number, or takes it away. Bits beyond the length are
    /// ignored. Nothing is different before [`Self::settle`].
    pub fn set(&mut self, bits: u128, len: u8, number: Option<u32>) {
        let result = number.map_or(NONE, |number| (number + 1) & !RESULT);
        self.pending.push(Prefix::new(bits, len, result));
    }

    /// The number that a prefix itself has, as of the last [`Self::settle`].
    #[must_use]
    pub fn get(&self, bits: u128, len: u8) -> Option<u32> {
        let place = Prefix::new(bits, len, NONE).place();
        let at = self.sorted.binary_search_by_key(&place, Prefix::place).ok()?;
        number(self.sorted[at].result)
    }

    /// Prefixes, as of the last [`Self::settle`].
    #[must_use]
    pub const fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none, as of the last [`Self::settle`].
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The trie of the last [`Self::settle`].
    #[must_use]
    pub fn lpm(&self) -> Lpm {
        self.lpm.clone()
    }

    /// Takes in what was set, and makes the trie of it. Of several changes of one prefix the last one counts. Each
    /// number that a prefix had, or was to have, and has no more is told.
    pub fn settle(&mut self, mut released: impl FnMut(u32)) {
        if self.pending.is_empty() {
            return;
        }
        let mut changes = core::mem::take(&mut self.pending);
        changes.sort_by_key(Prefix::place);
        changes.dedup_by(|later, earlier| {
            let same = later.place() == earlier.place();
            if same {
                number(earlier.result).into_iter().for_each(&mut released);
                *earlier = *later;
            }
            same
        });
        let direct_before = !self.lpm.direct.is_empty();
        self.merge(&changes, &mut released);
        let cells = changes.iter().map(|change| change.cells().len()).sum::<usize>();
        let wasted = self.lpm.nodes.len() > 2 * self.nodes_laid_out + CELLS_MAX;
        if direct_before && self.sorted.len() >= DIRECT_FROM && cells <= CELLS_MAX && !wasted {
            self.lpm = self.patched(&changes);
        } else {
            self.lpm = Lpm::of(&self.sorted);
            self.nodes_laid_out = self.lpm.nodes.len();
        }
    }

    /// Takes sorted changes into the list.
    fn merge(&mut self, changes: &[Prefix], released: &mut impl FnMut(u32)) {
        let mut taken = false;
        let mut new = Vec::new();
        for change in changes {
            match self.sorted.binary_search_by_key(&change.place(), Prefix::place) {
                Ok(at) => {
                    let before = core::mem::replace(&mut self.sorted[at].result, change.result);
                    number(before).into_iter().for_each(&mut *released);
                    taken |= change.result == NONE;
                }
                Err(_) if change.result != NONE => new.push(*change),
                Err(_) => {}
            }
        }
        if taken {
            self.sorted.retain(|prefix| prefix.result != NONE);
        }
        if !new.is_empty() {
            // Two sorted runs: the standard library's sort merges them.
            self.sorted.extend(new);
            self.sorted.sort_by_key(Prefix::place);
        }
    }

    /// The trie, with the cells laid out anew that changes lie in.
    fn patched(&self, changes: &[Prefix]) -> Lpm {
        let mut draft = Draft {
            direct: self.lpm.direct.to_vec(),
            nodes: self.lpm.nodes.to_vec(),
            results: self.lpm.results.to_vec(),
        };
        let mut last = None;
        for cell in changes.iter().flat_map(Prefix::cells) {
            // In order, except that a short prefix's cells come before those of what is inside it.
            if last == Some(cell) {
                continue;
            }
            last = Some(cell);
            let bits = (cell as u128) << (128 - DIRECT_BITS);
            let first = self.sorted.partition_point(|p| p.place() <= (bits, DIRECT_BITS));
            let inside = &self.sorted[first..];
            let inside = &inside[..inside.partition_point(|p| chunk(p.bits, DIRECT_BITS) <= cell)];
            let inherited = self.covering(bits);
            draft.direct[cell] = draft.cell(inside, inherited);
        }
        draft.done()
    }

    /// Result of the longest prefix that covers a whole cell.
    fn covering(&self, bits: u128) -> u32 {
        (0..=DIRECT_BITS)
            .rev()
            .find_map(|len| {
                let kept = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let place = (bits & kept, len);
                let at = self.sorted.binary_search_by_key(&place, Prefix::place).ok()?;
                Some(self.sorted[at].result)
            })
            .unwrap_or(NONE)
    }
}

impl Default for Lpm {
    fn default() -> Self {
        Self::of(&[])
    }
}

impl Lpm {
    /// Builds from (bits aligned to the left, prefix length, number). Bits beyond the length are ignored; of
    /// equal prefixes the last one counts.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = (u128, u8, u32)>) -> Self {
        let mut list = Prefixes::default();
        for (bits, len, number) in prefixes {
            list.set(bits, len, Some(number));
        }
        list.settle(|_| ());
        list.lpm
    }

    fn of(sorted: &[Prefix]) -> Self {
        let mut draft = Draft::default();
        if sorted.len() >= DIRECT_FROM {
            draft.build_direct(sorted);
        } else {
            draft.nodes.push(Node::default());
            draft.build_node(0, sorted, 0, NONE);
        }
        draft.done()
    }

    /// Number of the longest prefix that covers `key`, aligned to the left.
    #[must_use]
    #[inline]
    pub fn get(&self, key: u128) -> Option<u32> {
        self.find(key)
    }

    /// As [`Self::get`], for a table of IPv4 prefixes: half as many words to shift.
    #[must_use]
    #[inline]
    pub fn get_v4(&self, address: u32) -> Option<u32> {
        self.find(u64::from(address) << 32)
    }

    #[inline]
    fn find<K: Key>(&self, mut rest: K) -> Option<u32> {
        let mut at = 0;
        if !self.direct.is_empty() {
            let cell = self.direct[rest.take(DIRECT_BITS)];
            if cell & RESULT != 0 {
                return number(cell & !RESULT);
            }
            at = cell as usize;
        }
        loop {
            let node = &self.nodes[at];
            let way = rest.take(STRIDE);
            if node.children >> way & 1 == 0 {
                let run = (node.runs & up_to(way)).count_ones();
                return number(self.results[(node.first_result + run - 1) as usize]);
            }
            at = (node.first_child + (node.children & up_to(way)).count_ones() - 1) as usize;
        }
    }

    /// Heap bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.direct) + size_of_val(&*self.nodes) + size_of_val(&*self.results)
    }
}

impl Draft {
    fn done(self) -> Lpm {
        Lpm {
            direct: self.direct.into(),
            nodes: self.nodes.into(),
            results: self.results.into(),
        }
    }

    fn build_direct(&mut self, sorted: &[Prefix]) {
        let (results, below) = spread(sorted, 0, DIRECT_BITS, NONE);
        self.direct = results.iter().map(|&r| r | RESULT).collect();
        for (way, inside) in below {
            self.direct[way] = self.cell(inside, results[way]);
        }
    }

    /// What a cell of the direct level holds whose longer prefixes are `inside`.
    fn cell(&mut self, inside: &[Prefix], inherited: u32) -> u32 {
        if inside.is_empty() {
            return inherited | RESULT;
        }
        let at = self.nodes.len();
        self.nodes.push(Node::default());
        self.build_node(at, inside, DIRECT_BITS, inherited);
        index(at)
    }

    /// Fills node `at`, whose prefixes all start with the same `depth` bits and are longer than that.
    fn build_node(&mut self, at: usize, inside: &[Prefix], depth: u32, inherited: u32) {
        let (results, below) = spread(inside, depth, STRIDE, inherited);
        let first_child = self.nodes.len();
        let children = below.iter().fold(0_u64, |bits, (way, _)| bits | 1 << way);
        let mut node = Node {
            children,
            runs: 0,
            first_child: index(first_child),
            first_result: index(self.results.len()),
        };
        let mut previous = None;
        for (way, &result) in results.iter().enumerate() {
            if children >> way & 1 == 0 && previous != Some(result) {
                node.runs |= 1 << way;
                self.results.push(result);
                previous = Some(result);
            }
        }
        self.nodes[at] = node;
        self.nodes.resize(first_child + below.len(), Node::default());
        for (n, (way, deeper)) in below.into_iter().enumerate() {
            self.build_node(first_child + n, deeper, depth + STRIDE, results[way]);
        }
    }
}

/// Cuts the prefixes below one node: the result of each of its `2^bits` ways as far as this level decides it, and
/// the ways that longer prefixes go through, with those prefixes.
fn spread(inside: &[Prefix], depth: u32, bits: u32, inherited: u32) -> (Vec<u32>, Vec<(usize, &[Prefix])>) {
    let mut results = vec![inherited; 1 << bits];
    let mut below = Vec::new();
    let mut rest = inside;
    while let Some(first) = rest.first() {
        let way = chunk(first.bits << depth, bits);
        if first.len <= depth + bits {
            let ways = 1_usize << (depth + bits - first.len);
            results[way..way + ways].fill(first.result);
            rest = &rest[1..];
            continue;
        }
        let end = rest.partition_point(|p| chunk(p.bits << depth, bits) <= way);
        let (deeper, after) = rest.split_at(end);
        below.push((way, deeper));
        rest = after;
    }
    (results, below)
}

/// An address on its way down, aligned to the left.
trait Key {
    /// Takes the top `bits` bits off; at most 16 are asked for.
    fn take(&mut self, bits: u32) -> usize;
}

impl Key for u128 {
    #[inline]
    fn take(&mut self, bits: u32) -> usize {
        let top = chunk(*self, bits);
        *self <<= bits;
        top
    }
}

impl Key for u64 {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 bits are left")]
    fn take(&mut self, bits: u32) -> usize {
        let top = (*self >> (64 - bits)) as usize;
        *self <<= bits;
        top
    }
}

/// The top `bits` bits; at most 16 are asked for.
const fn chunk(rest: u128, bits: u32) -> usize {
    (rest >> (128 - bits)) as usize
}

/// Bits 0 to `way`.
const fn up_to(way: usize) -> u64 {
    u64::MAX >> (63 - way)
}

/// Positions fit: a table has far fewer than 2^31 nodes.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

const fn number(result: u32) -> Option<u32> {
    result.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The obvious way: try them all, longest wins, the later of equal ones.
    fn oracle(prefixes: &[(u128, u8, u32)], key: u128) -> Option<u32> {
        let covers = |p: &&(u128, u8, u32)| p.1 == 0 || (key ^ p.0) >> (128 - u32::from(p.1)) == 0;
        prefixes.iter().filter(covers).max_by_key(|p| p.1).map(|p| p.2)
    }

    fn v4(a: u8, b: u8, c: u8, d: u8) -> u128 {
        u128::from(u32::from_be_bytes([a, b, c, d])) << 96
    }

    /// Unrelated prefixes that make a table large enough for the direct level, all in 224.0.0.0/4.
    fn padding() -> impl Iterator<Item = (u128, u8, u32)> {
        (0..5_000_u32).map(|n| (u128::from(0xe000_0000 | n << 8) << 96, 24, 7))
    }

    #[test]
    fn the_longest_prefix_wins_at_every_length() {
        let nested: Vec<_> = (0..=128)
            .map(|len| (v4(10, 1, 2, 3), len, u32::from(len)))
            .collect();
        for table in [
            Lpm::new(nested.clone()),
            Lpm::new(nested.iter().copied().chain(padding())),
        ] {
            assert_eq!(table.get(v4(10, 1, 2, 3)), Some(128));
            for flipped in 0..128_u32 {
                let key = v4(10, 1, 2, 3) ^ (1 << (127 - flipped));
                let expected = if key >> 124 == 0xe { continue } else { flipped };
                assert_eq!(table.get(key), Some(expected), "bit {flipped} differs");
            }
        }
    }

    #[test]
    fn no_route_is_no_number() {
        assert_eq!(Lpm::new([]).get(v4(10, 0, 0, 1)), None);
        let table = Lpm::new([(v4(10, 0, 0, 0), 8, 0)]);
        assert_eq!(table.get(v4(10, 0, 0, 1)), Some(0));
        assert_eq!(table.get(v4(11, 0, 0, 1)), None);
    }

    #[test]
    fn the_last_of_equal_prefixes_counts_and_host_bits_do_not() {
        let table = Lpm::new([(v4(10, 0, 0, 0), 8, 1), (v4(10, 9, 9, 9), 8, 2)]);
        assert_eq!(table.get(v4(10, 200, 0, 0)), Some(2));
    }

    /// A full table of one million routes; the bound is on memory, which the shape of the trie decides.
    #[test]
    fn a_million_routes_fit_in_32_bytes_each() {
        let route = |n: u32| {
            let len = 8 + (crate::shard::mix64(u64::from(n)) % 17) as u8;
            let bits = u128::from(crate::shard::mix64(u64::from(n) + 1)) << 64;
            (bits, len, n % 64)
        };
        let routes: Vec<_> = (0..1_000_000).map(route).collect();
        let table = Lpm::new(routes.iter().copied());
        assert!(table.bytes() <= 32_000_000, "{} bytes", table.bytes());
        for n in (0..1_000_000).step_by(100_003) {
            let key = u128::from(crate::shard::mix64(n)) << 64;
            assert_eq!(table.get(key), oracle(&routes, key));
        }
    }

    /// Prefixes crowded into few subtrees, so that they nest and meet at every level.
    fn crowded() -> impl Strategy<Value = Vec<(u128, u8, u32)>> {
        let bits = (any::<u8>(), 0_u32..122).prop_map(|(pattern, at)| u128::from(pattern) << at);
        prop::collection::vec((bits, 0_u8..=128, 0_u32..100), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn agrees_with_trying_them_all(
            prefixes in crowded(),
            keys in prop::collection::vec((any::<u8>(), 0_u32..122, 0_u32..128), 1..60),
        ) {
            let small = Lpm::new(prefixes.iter().copied());
            for (pattern, at, flip) in keys {
                // Near a prefix, so that most lookups go deep.
                let near = prefixes.get(usize::from(pattern)).map_or(u128::from(pattern) << at, |p| p.0);
                for key in [near, near ^ (1 << flip), u128::from(pattern) << at] {
                    prop_assert_eq!(small.get(key), oracle(&prefixes, key), "{:032x}", key);
                }
            }
        }
    }

    /// Single changes of a table that is large enough for a direct level, of every length and inside one another.
    #[test]
    fn a_changed_table_agrees_with_one_that_was_built_of_what_is_there() {
        let mut there: Vec<(u128, u8, u32)> = padding().collect();
        let mut list = Prefixes::default();
        for &(bits, len, number) in &there {
            list.set(bits, len, Some(number));
        }
        list.settle(|_| ());
        let draw = |n: u64| crate::shard::mix64(n);
        for turn in 0..400_u64 {
            // Crowded into 10.1.0.0/16 and around it, and now and then anywhere.
            let bits = if draw(turn) % 8 == 0 {
                draw(turn + 1_000) >> 32
            } else {
                0x0a01_0000 | draw(turn + 1_000) & 0x00_ffff
            };
            let len = 12 + (draw(turn + 2_000) % 21) as u8;
            let bits = u128::from(bits) << 96 & u128::MAX << (128 - u32::from(len));
            let number = (draw(turn + 3_000) % 3 != 0).then_some((draw(turn + 4_000) % 50) as u32);
            list.set(bits, len, number);
            list.settle(|_| ());
            there.retain(|p| (p.0, p.1) != (bits, len));
            there.extend(number.map(|number| (bits, len, number)));
            assert_eq!(list.get(bits, len), number);
            let changed = list.lpm();
            for n in 0..40 {
                let near = if n % 2 == 0 {
                    bits
                } else {
                    u128::from(0x0a01_0000_u32) << 96
                };
                let key = near ^ u128::from(draw(turn * 64 + n) & 0xffff) << 96;
                assert_eq!(changed.get(key), oracle(&there, key), "turn {turn}, {key:032x}");
            }
        }
        assert_eq!(list.len(), there.len());
    }

    #[test]
    fn a_default_route_of_a_large_table_goes_and_comes_and_a_table_grows_and_shrinks() {
        let mut list = Prefixes::default();
        let default = |list: &mut Prefixes, number| {
            list.set(0, 0, number);
            list.settle(|_| ());
            (list.lpm().get(v4(9, 9, 9, 9)), list.lpm().get(v4(224, 0, 0, 1)))
        };
        assert_eq!(default(&mut list, Some(1)), (Some(1), Some(1)));
        for (bits, len, number) in padding() {
            list.set(bits, len, Some(number));
        }
        assert_eq!(default(&mut list, None), (None, Some(7)));
        assert_eq!(default(&mut list, Some(2)), (Some(2), Some(7)));
        for (bits, len, _) in padding() {
            list.set(bits, len, None);
        }
        list.settle(|_| ());
        assert_eq!((list.len(), list.lpm().get(v4(224, 0, 0, 1))), (1, Some(2)));
    }

    /// What lies unused in the arrays is bounded, however often one cell changes.
    #[test]
    fn waste_is_cleared_away() {
        let mut list = Prefixes::default();
        for (bits, len, number) in padding() {
            list.set(bits, len, Some(number));
        }
        list.settle(|_| ());
        let bytes = list.lpm().bytes();
        for turn in 0..20_000_u32 {
            list.set(v4(10, 0, 0, 0), 24, Some(turn % 2));
            list.settle(|_| ());
            assert!(list.lpm().bytes() < 4 * bytes + (CELLS_MAX * 64));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn a_large_table_agrees_with_trying_them_all(
            prefixes in prop::collection::vec((any::<u32>(), 0_u8..=32, 0_u32..100), 40),
            keys in prop::collection::vec(any::<u32>(), 40),
        ) {
            let all: Vec<_> =
                prefixes.iter().map(|&(b, len, n)| (u128::from(b) << 96, len, n)).chain(padding()).collect();
            let large = Lpm::new(all.iter().copied());
            prop_assert!(!large.direct.is_empty());
            for key in keys.into_iter().chain(prefixes.iter().map(|p| p.0)) {
                let key = u128::from(key) << 96;
                prop_assert_eq!(large.get(key), oracle(&all, key), "{:032x}", key);
            }
        }
    }
}
