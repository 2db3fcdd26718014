//! Pools of public addresses, shared by all workers: which block of ports is whose, and which ports are taken.
//!
//! Born from the configuration when the process starts and never resized. A pool's port range is cut to whole
//! blocks; a *chunk* is one block's place on one address, granted or not. The bit in the map of free chunks is
//! what workers compete for (one atomic operation at grant and at release); who has taken it writes the chunk's
//! owner and grant, and from then on is the only writer of the chunk's port bits. Anyone may read the owner:
//! that is how a packet from outside finds its worker.
//!
//! ```text
//! address 0: [chunk 0][chunk 1] … [chunk n-1]      chunk: [TCP bits][UDP bits][ICMP identifier bits]
//! address 1: [chunk 0] …                                   1 = mapped or resting
//! ```

use crate::atomic::{AtomicU32, AtomicU64, Ordering};

use super::mapping::Protocol;
use super::random::Random;
use crate::config::{Intent, PoolIntent};
use crate::delta::Term;
use crate::flow::{Addr, VrfId};
use crate::share::{Half, Part};

/// A pool, by the VRF that it is configured in and its place there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolRef {
    /// VRF of the public addresses.
    pub vrf: VrfId,
    /// Index in [`crate::config::VrfIntent::pools`].
    pub pool: u16,
}

/// What a pool can hold and what is held of it, over all workers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// Public addresses.
    pub addresses: u32,
    /// Blocks, granted or not.
    pub blocks: u32,
    /// Blocks granted.
    pub blocks_held: u32,
    /// Ports per block and protocol.
    pub block_size: u16,
}

/// All pools of a node.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool>,
    /// Per VRF: index of its first pool, and its addresses in runs, ascending.
    vrfs: Vec<(usize, Vec<Run>)>,
    /// Grants made by this process.
    grants: AtomicU64,
}

/// Consecutive addresses of one pool.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    last: u32,
    pool: u16,
    /// Place of `first` in its pool.
    address: u32,
}

/// A place of a block: pool, address and chunk on that address, all by index.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pool: usize,
    pub(super) address: u32,
    pub(super) chunk: u32,
}

impl Pools {
    /// Every block free.
    #[must_use]
    pub fn new(intent: &Intent) -> Self {
        let mut pools = Vec::new();
        let mut vrfs = Vec::with_capacity(intent.vrfs.len());
        for (vrf, of_vrf) in (0..).map(VrfId).zip(&intent.vrfs) {
            let mut runs = Vec::new();
            let first = pools.len();
            for (pool, settings) in (0..).zip(&of_vrf.pools) {
                add_runs(&mut runs, pool, settings);
                pools.push(Pool::new(PoolRef { vrf, pool }, settings.clone()));
            }
            runs.sort_unstable_by_key(|run| run.first);
            vrfs.push((first, runs));
        }
        Self {
            pools,
            vrfs,
            grants: AtomicU64::new(0),
        }
    }

    /// The pool that `addr` belongs to; `vrf` is where its packets arrive.
    #[must_use]
    pub fn pool_of(&self, vrf: VrfId, addr: &Addr) -> Option<PoolRef> {
        self.run(vrf, addr)
            .map(|(run, _)| PoolRef { vrf, pool: run.pool })
    }

    /// Whether `addr` belongs to a pool.
    #[inline]
    #[must_use]
    pub fn is_pool_address(&self, vrf: VrfId, addr: &Addr) -> bool {
        self.run(vrf, addr).is_some()
    }

    /// Inside VRF and slot of the subscriber that holds the block of a public port or ICMP identifier.
    #[inline]
    #[must_use]
    pub fn owner(&self, vrf: VrfId, addr: &Addr, port: u16) -> Option<(VrfId, u16)> {
        let place = self.place(vrf, addr, port)?;
        self.pools[place.pool].owner(place)
    }

    /// Size and fill of a pool.
    #[must_use]
    pub fn size(&self, pool: PoolRef) -> Option<PoolSize> {
        let pool = &self.pools[self.index(pool)?];
        Some(PoolSize {
            addresses: pool.addresses(),
            blocks: pool.addresses() * pool.chunks,
            blocks_held: pool.held.load(Ordering::Relaxed),
            block_size: pool.settings.block_size,
        })
    }

    /// Every pool.
    pub fn refs(&self) -> impl Iterator<Item = PoolRef> + '_ {
        self.pools.iter().map(|pool| pool.name)
    }

    /// Number of pools.
    pub(super) fn count(&self) -> usize {
        self.pools.len()
    }

    /// A pool's place among all pools.
    pub(super) fn index(&self, pool: PoolRef) -> Option<usize> {
        let (first, _) = self.vrfs.get(pool.vrf.index())?;
        let index = first + usize::from(pool.pool);
        (self.pools.get(index)?.name == pool).then_some(index)
    }

    pub(super) fn at(&self, index: usize) -> &Pool {
        &self.pools[index]
    }

    /// The chunk of a public port.
    #[inline]
    pub(super) fn place(&self, vrf: VrfId, addr: &Addr, port: u16) -> Option<Place> {
        let (run, address) = self.run(vrf, addr)?;
        let pool = self.vrfs[vrf.index()].0 + usize::from(run.pool);
        let chunk = self.pools[pool].chunk_of(port)?;
        Some(Place { pool, address, chunk })
    }

    /// A new grant's identity under `term`; none when the term's are used up.
    pub(super) fn next_grant(&self, term: Term) -> Option<u64> {
        grant_id(term, self.grants.fetch_add(1, Ordering::Relaxed) + 1)
    }

    #[inline]
    fn run(&self, vrf: VrfId, addr: &Addr) -> Option<(Run, u32)> {
        if !addr.is_v4() {
            return None;
        }
        let addr = addr.v4_number();
        let (_, runs) = self.vrfs.get(vrf.index())?;
        // Most packets: beyond all pools, or in the only run of addresses there is.
        if addr < runs.first()?.first || addr > runs.last()?.last {
            return None;
        }
        let after = runs.partition_point(|run| run.first <= addr);
        let run = *runs.get(after.checked_sub(1)?)?;
        (addr <= run.last).then(|| (run, run.address + (addr - run.first)))
    }
}

/// Bits of a grant's identity that count within a term.
const GRANT_COUNTER_BITS: u32 = 38;
/// Grants between the first ones of two boots whose terms are neighbours.
const GRANT_BOOT_SHIFT: u32 = 16;
/// Reigns told apart by a grant's identity.
const GRANT_REIGN_MAX: u64 = (1 << 18) - 1;

/// Identity of a grant: bits 63..46 the term's reign, 45..38 its node, 37..0 a counter of the granting process, which
/// starts in the lower half, by the term's boot: two boots that took the same reign, because nobody told the second of
/// the first, hardly ever give one name to two grants. So it is unique over nodes and boots, never 0, and a later grant
/// of the same ports compares greater, whoever made it.
const fn grant_id(term: Term, counter: u64) -> Option<u64> {
    let before = term.boot() << GRANT_BOOT_SHIFT;
    if before.saturating_add(counter) >> GRANT_COUNTER_BITS != 0 {
        return None;
    }
    Some(grant_base(term) + counter)
}

/// What grants of a term count from: one that a process has made is above it by how many it had made then.
#[must_use]
pub const fn grant_base(term: Term) -> u64 {
    let reign = term.reign();
    let reign = if reign < GRANT_REIGN_MAX {
        reign
    } else {
        GRANT_REIGN_MAX
    };
    (reign << 8 | term.node() as u64) << GRANT_COUNTER_BITS | term.boot() << GRANT_BOOT_SHIFT
}

/// Node that made a grant, from its identity.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low byte above the counter is the node"
)]
pub const fn granting_node(grant: u64) -> u8 {
    (grant >> GRANT_COUNTER_BITS) as u8
}

fn add_runs(runs: &mut Vec<Run>, pool: u16, settings: &PoolIntent) {
    for (address, ip) in (0..).zip(&settings.addresses) {
        let ip = u32::from(*ip);
        match runs.last_mut() {
            Some(run) if run.pool == pool && run.last.checked_add(1) == Some(ip) => run.last = ip,
            _ => runs.push(Run {
                first: ip,
                last: ip,
                pool,
                address,
            }),
        }
    }
}

/// One pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: PoolRef,
    pub(super) settings: PoolIntent,
    /// Chunks per address.
    chunks: u32,
    /// Per half one bit per address: set if it may have a free chunk of that half. A hint that searches correct.
    addresses_free: [Vec<AtomicU64>; 2],
    /// One bit per chunk, whole words per address: set if free. The truth.
    free: Vec<AtomicU64>,
    /// Per chunk: `HELD | inside VRF | slot`, or 0.
    owners: Vec<AtomicU64>,
    /// Per chunk: identity of its grant, or 0.
    grants: Vec<AtomicU64>,
    /// Per chunk and protocol: `block_size` bits.
    ports: Vec<AtomicU64>,
    held: AtomicU32,
}

const HELD: u64 = 1 << 32;

impl Pool {
    fn new(name: PoolRef, settings: PoolIntent) -> Self {
        let ports = u32::from(settings.ports.last).saturating_sub(settings.ports.first.into()) + 1;
        let size = u32::from(settings.block_size);
        let chunks = if size == 0 || !size.is_multiple_of(64) {
            0
        } else {
            ports / size
        };
        let addresses = settings.addresses.len();
        let total = addresses * chunks as usize;
        let free = (0..addresses * words(chunks))
            .map(|at| full(chunks, at % words(chunks).max(1)))
            .collect();
        let any_free = if chunks == 0 {
            0
        } else {
            u32::try_from(addresses).unwrap_or(u32::MAX)
        };
        Self {
            addresses_free: [(); 2].map(|()| (0..words(any_free)).map(|at| full(any_free, at)).collect()),
            free,
            owners: zeroes(total),
            grants: zeroes(total),
            ports: zeroes(total * Protocol::COUNT * words(size)),
            held: AtomicU32::new(0),
            name,
            settings,
            chunks,
        }
    }

    pub(super) fn addresses(&self) -> u32 {
        u32::try_from(self.settings.addresses.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn address(&self, place: Place) -> Addr {
        self.settings.addresses[place.address as usize].into()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole blocks inside the 16-bit range"
    )]
    pub(super) const fn port_first(&self, place: Place) -> u16 {
        self.settings.ports.first + (place.chunk * self.settings.block_size as u32) as u16
    }

    /// The chunk of a port; none outside the whole blocks of the range.
    fn chunk_of(&self, port: u16) -> Option<u32> {
        let offset = port.checked_sub(self.settings.ports.first)?;
        let chunk = u32::from(offset.checked_div(self.settings.block_size)?);
        (chunk < self.chunks).then_some(chunk)
    }

    /// Takes a free chunk of a part of all, on a random address.
    pub(super) fn claim_any(&self, random: &mut Random, part: Part) -> Option<(u32, u32)> {
        let first = part.unwrap_or(if random.below(2) == 0 {
            Half::Low
        } else {
            Half::High
        });
        let claimed = self.claim_half(random, first);
        if claimed.is_none() && part.is_none() {
            self.claim_half(random, first.other())
        } else {
            claimed
        }
    }

    fn claim_half(&self, random: &mut Random, half: Half) -> Option<(u32, u32)> {
        let addresses = self.addresses();
        let hints = &self.addresses_free[half as usize];
        // Every pass either returns, clears a stale hint, or lost to another worker's claim.
        loop {
            let start = random.below(addresses);
            let address = next_set(hints, addresses, start, u64::MAX)?;
            if let Some(chunk) = self.claim_on(address, random, Some(half)) {
                return Some((address, chunk));
            }
        }
    }

    /// Takes a free chunk of a part of one address, searched from a random place.
    pub(super) fn claim_on(&self, address: u32, random: &mut Random, part: Part) -> Option<u32> {
        let mask = part.map_or(u64::MAX, |half| chunks_of(half, address));
        loop {
            let start = random.below(self.chunks);
            let Some(chunk) = next_set(self.free_of(address), self.chunks, start, mask) else {
                for half in [Half::Low, Half::High] {
                    if part.is_none_or(|part| part == half) {
                        self.clear_hint(address, half);
                    }
                }
                return None;
            };
            if self.claim(address, chunk) {
                return Some(chunk);
            }
        }
    }

    /// Takes one chunk; false when another has it.
    pub(super) fn claim(&self, address: u32, chunk: u32) -> bool {
        let bit = 1 << (chunk % 64);
        let before = self.free_of(address)[chunk as usize / 64].fetch_and(!bit, Ordering::AcqRel);
        before & bit != 0
    }

    /// Takes a claim back.
    pub(super) fn unclaim(&self, address: u32, chunk: u32) {
        self.free_of(address)[chunk as usize / 64].fetch_or(1 << (chunk % 64), Ordering::AcqRel);
        self.set_hint(address, half_of(address, chunk));
    }

    /// Publishes whose the claimed chunk is.
    pub(super) fn hold(&self, place: Place, grant: u64, vrf: VrfId, slot: u16) {
        let at = self.at(place);
        self.grants[at].store(grant, Ordering::Relaxed);
        self.owners[at].store(HELD | u64::from(vrf.0) << 16 | u64::from(slot), Ordering::Release);
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a held chunk back. Its port bits must be clear.
    pub(super) fn give_back(&self, place: Place) {
        let at = self.at(place);
        self.owners[at].store(0, Ordering::Relaxed);
        self.grants[at].store(0, Ordering::Relaxed);
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.unclaim(place.address, place.chunk);
    }

    #[expect(clippy::cast_possible_truncation, reason = "unpacks what hold() packed")]
    pub(super) fn owner(&self, place: Place) -> Option<(VrfId, u16)> {
        let word = self.owners[self.at(place)].load(Ordering::Acquire);
        (word & HELD != 0).then_some((VrfId((word >> 16) as u16), word as u16))
    }

    pub(super) fn grant(&self, place: Place) -> u64 {
        self.grants[self.at(place)].load(Ordering::Acquire)
    }

    /// The offsets of a part of a block: the first one, and the one behind the last.
    pub(super) const fn offsets(&self, part: Part) -> (u16, u16) {
        let size = self.settings.block_size;
        match part {
            None => (0, size),
            Some(Half::Low) => (0, size / 2),
            Some(Half::High) => (size / 2, size),
        }
    }

    /// A free port of a part of a chunk, as an offset into it: the first free one from `start` on, which is in the part,
    /// around its end. With `odd` given, only ports of that parity.
    pub(super) fn free_port(
        &self,
        place: Place,
        class: Protocol,
        start: u16,
        odd: Option<bool>,
        part: Part,
    ) -> Option<u16> {
        let first_is_odd = self.port_first(place) % 2 == 1;
        let wanted = match odd {
            None => u64::MAX,
            Some(odd) if odd == first_is_odd => 0x5555_5555_5555_5555,
            Some(_) => 0xaaaa_aaaa_aaaa_aaaa,
        };
        let bits = self.bits(place, class);
        let (from, to) = self.offsets(part);
        let (start_word, start_bit) = (usize::from(start / 64), u32::from(start % 64));
        let first_word = usize::from(from / 64);
        let words = usize::from(to.div_ceil(64)) - first_word;
        // One word more than there are: the start word's low bits come last.
        (0..=words).find_map(|step| {
            let at = first_word + (start_word - first_word + step) % words;
            let part = match step {
                0 => u64::MAX << start_bit,
                s if s == words => !(u64::MAX << start_bit),
                _ => u64::MAX,
            } & between(from, to, at);
            let free = !bits[at].load(Ordering::Relaxed) & wanted & part;
            let bit = free.trailing_zeros();
            (free != 0)
                .then(|| u16::try_from(at * 64 + bit as usize).ok())
                .flatten()
        })
    }

    /// Marks a port of a held chunk. Only the chunk's owner calls this, so load and store need not be one.
    pub(super) fn set_port(&self, place: Place, class: Protocol, offset: u16, taken: bool) {
        let word = &self.bits(place, class)[usize::from(offset / 64)];
        let bit = 1 << (offset % 64);
        let before = word.load(Ordering::Relaxed);
        word.store(
            if taken { before | bit } else { before & !bit },
            Ordering::Relaxed,
        );
    }

    pub(super) fn bits(&self, place: Place, class: Protocol) -> &[AtomicU64] {
        let words = words(self.settings.block_size.into());
        let from = (self.at(place) * Protocol::COUNT + class as usize) * words;
        &self.ports[from..from + words]
    }

    const fn at(&self, place: Place) -> usize {
        place.address as usize * self.chunks as usize + place.chunk as usize
    }

    fn free_of(&self, address: u32) -> &[AtomicU64] {
        let words = words(self.chunks);
        &self.free[address as usize * words..][..words]
    }

    fn clear_hint(&self, address: u32, half: Half) {
        let hints = &self.addresses_free[half as usize];
        hints[address as usize / 64].fetch_and(!(1 << (address % 64)), Ordering::AcqRel);
        // A release may have come between the search and here: its hint must not be lost.
        if next_set(self.free_of(address), self.chunks, 0, chunks_of(half, address)).is_some() {
            self.set_hint(address, half);
        }
    }

    fn set_hint(&self, address: u32, half: Half) {
        let hints = &self.addresses_free[half as usize];
        hints[address as usize / 64].fetch_or(1 << (address % 64), Ordering::AcqRel);
    }
}

/// Which half of the blocks a chunk belongs to. Alternately, and shifted from address to address, so that every address
/// has chunks of both halves and a pool of single chunks has addresses of both.
const fn half_of(address: u32, chunk: u32) -> Half {
    if (address ^ chunk) & 1 == 0 {
        Half::Low
    } else {
        Half::High
    }
}

/// The same as a mask of an address's chunks.
const fn chunks_of(half: Half, address: u32) -> u64 {
    if half as u32 == address & 1 {
        0x5555_5555_5555_5555
    } else {
        0xaaaa_aaaa_aaaa_aaaa
    }
}

/// Bits of word `at` whose numbers are in `from..to`.
fn between(from: u16, to: u16, at: usize) -> u64 {
    let (first, last) = (
        usize::from(from).max(at * 64) - at * 64,
        usize::from(to) - at * 64,
    );
    let below = if last >= 64 { u64::MAX } else { !(u64::MAX << last) };
    below & u64::MAX << first
}

/// The first set bit from `start` on, around the end of `count` bits; in each word only those of `mask` count.
#[expect(clippy::cast_possible_truncation, reason = "below count")]
fn next_set(bits: &[AtomicU64], count: u32, start: u32, mask: u64) -> Option<u32> {
    if count == 0 {
        return None;
    }
    let (start_word, start_bit) = (start as usize / 64, start % 64);
    (0..=bits.len()).find_map(|step| {
        let at = (start_word + step) % bits.len();
        let part = match step {
            0 => u64::MAX << start_bit,
            s if s == bits.len() => !(u64::MAX << start_bit),
            _ => u64::MAX,
        };
        let set = bits[at].load(Ordering::Acquire) & part & mask;
        (set != 0).then(|| at as u32 * 64 + set.trailing_zeros())
    })
}

/// Words for `bits` bits.
const fn words(bits: u32) -> usize {
    bits.div_ceil(64) as usize
}

/// Word `at` of `bits` set bits.
fn full(bits: u32, at: usize) -> AtomicU64 {
    let left = (bits as usize).saturating_sub(at * 64);
    AtomicU64::new(if left >= 64 { u64::MAX } else { !(u64::MAX << left) })
}

fn zeroes(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}
