//! Addresses that a pool was given at once: which block of ports on them is whose, and which ports are taken.
//!
//! The memory of a lot is allocated when its addresses are configured, by whoever reads the configuration, and lives as
//! long as anybody may hold a block of it: generations of the configuration share it. It is never resized; addresses that
//! join a pool later are a lot of their own, and those that a pool has lost are no longer *served*: no block of theirs is
//! granted, and what is there ends.
//!
//! The port range is cut to whole blocks; a *chunk* is one block's place on one address, granted or not. The bit in the
//! map of free chunks is what workers compete for (one atomic operation at grant and at release); who has taken it writes
//! the chunk's owner and grant, and from then on is the only writer of the chunk's port bits. Anyone may read the owner:
//! that is how a packet from outside finds its worker.
//!
//! ```text
//! address 0: [chunk 0][chunk 1] … [chunk n-1]      chunk: [TCP bits][UDP bits][ICMP identifier bits]
//! address 1: [chunk 0] …                                   1 = mapped or resting
//! ```

use core::net::Ipv4Addr;
use std::sync::Arc;

use super::mapping::Protocol;
use super::pool::Place;
use super::random::Random;
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::config::PoolIntent;
use crate::flow::{Addr, VrfId};
use crate::prefetch::prefetch;
use crate::rss::Home;
use crate::share::{Half, Part};

/// See the module. A clone is another view of the same memory.
#[derive(Debug, Clone)]
pub(super) struct Lot {
    /// Its pool, by number.
    pub(super) pool: u32,
    /// Ascending.
    addresses: Arc<[Ipv4Addr]>,
    /// One bit per address: set if it is configured.
    served: Box<[u64]>,
    port_first: u16,
    block_size: u16,
    /// Chunks per address.
    chunks: u32,
    /// Per half one bit per address: set if it may have a free chunk of that half. A hint that searches correct.
    addresses_free: [Arc<[AtomicU64]>; 2],
    /// One bit per chunk, whole words per address: set if free. The truth.
    free: Arc<[AtomicU64]>,
    /// Per chunk: `HELD | inside VRF | slot`, or 0.
    owners: Arc<[AtomicU64]>,
    /// Per chunk: identity of its grant, or 0.
    grants: Arc<[AtomicU64]>,
    /// Per chunk and protocol: `block_size` bits.
    ports: Arc<[AtomicU64]>,
    held: Arc<AtomicU32>,
}

const HELD: u64 = 1 << 32;

/// What a port should be like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wish<'a> {
    /// Its parity, if that matters.
    pub(super) odd: Option<bool>,
    /// The part of the block that it is in.
    pub(super) part: Part,
    /// Replies to it come home: whose home, and what they hash to but for the port.
    pub(super) home: Option<(&'a Home, u32)>,
}

impl Lot {
    /// Every block free, every address served.
    pub(super) fn new(pool: u32, settings: &PoolIntent, addresses: Vec<Ipv4Addr>) -> Self {
        let ports = u32::from(settings.ports.last).saturating_sub(settings.ports.first.into()) + 1;
        let size = u32::from(settings.block_size);
        let chunks = if size == 0 || !size.is_multiple_of(64) {
            0
        } else {
            ports / size
        };
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let total = addresses.len() * chunks as usize;
        let free = (0..addresses.len() * words(chunks))
            .map(|at| AtomicU64::new(full(chunks, at % words(chunks).max(1))))
            .collect();
        let any_free = if chunks == 0 { 0 } else { count };
        Self {
            pool,
            addresses: addresses.into(),
            served: (0..words(count)).map(|at| full(count, at)).collect(),
            port_first: settings.ports.first,
            block_size: settings.block_size,
            chunks,
            addresses_free: [(); 2].map(|()| {
                (0..words(any_free))
                    .map(|at| AtomicU64::new(full(any_free, at)))
                    .collect()
            }),
            free,
            owners: zeroes(total),
            grants: zeroes(total),
            ports: zeroes(total * Protocol::COUNT * words(size)),
            held: Arc::new(AtomicU32::new(0)),
        }
    }

    /// The addresses, served or not.
    pub(super) fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Place of an address in the lot.
    pub(super) fn find(&self, ip: Ipv4Addr) -> Option<u32> {
        let at = self.addresses.binary_search(&ip).ok()?;
        u32::try_from(at).ok()
    }

    /// Whether the address is configured.
    pub(super) fn serves(&self, address: u32) -> bool {
        self.served[address as usize / 64] >> (address % 64) & 1 == 1
    }

    /// The address is configured (again).
    pub(super) fn serve(&mut self, address: u32) {
        self.served[address as usize / 64] |= 1 << (address % 64);
    }

    /// None of its addresses is configured any more.
    pub(super) fn serve_none(&mut self) {
        self.served.fill(0);
    }

    /// Whether no address of it is configured.
    pub(super) fn serves_none(&self) -> bool {
        self.served.iter().all(|&word| word == 0)
    }

    /// Addresses that are configured.
    pub(super) fn served(&self) -> u32 {
        self.served.iter().map(|word| word.count_ones()).sum()
    }

    /// Ports per block and protocol.
    pub(super) const fn block_size(&self) -> u16 {
        self.block_size
    }

    /// Blocks per address.
    pub(super) const fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Blocks that are held.
    pub(super) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a block of the address is held.
    pub(super) fn holds(&self, address: u32) -> bool {
        let chunks = self.chunks as usize;
        let owners = &self.owners[address as usize * chunks..][..chunks];
        owners.iter().any(|owner| owner.load(Ordering::Acquire) != 0)
    }

    pub(super) fn address(&self, place: Place) -> Addr {
        self.addresses[place.address as usize].into()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole blocks inside the 16-bit range"
    )]
    pub(super) const fn port_first(&self, place: Place) -> u16 {
        self.port_first + (place.chunk * self.block_size as u32) as u16
    }

    /// The chunk of a port; none outside the whole blocks of the range.
    #[inline]
    pub(super) fn chunk_of(&self, port: u16) -> Option<u32> {
        let offset = port.checked_sub(self.port_first)?;
        let chunk = u32::from(offset.checked_div(self.block_size)?);
        (chunk < self.chunks).then_some(chunk)
    }

    /// Takes a free chunk of a half of all, on a served address: the first one that has any, from one of them on.
    pub(super) fn claim_from(&self, start: u32, random: &mut Random, half: Half) -> Option<(u32, u32)> {
        let addresses = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        let hints = &self.addresses_free[half as usize];
        // Every pass either returns, clears a stale hint, or lost to another worker's claim.
        loop {
            let address = next_set(hints, addresses, start, |at| self.served[at])?;
            if let Some(chunk) = self.claim_on(address, random, Some(half)) {
                return Some((address, chunk));
            }
        }
    }

    /// Takes a free chunk of a part of one address, searched from a random place.
    pub(super) fn claim_on(&self, address: u32, random: &mut Random, part: Part) -> Option<u32> {
        if !self.serves(address) {
            return None;
        }
        let mask = part.map_or(u64::MAX, |half| self.chunks_of(half, address));
        loop {
            let start = random.below(self.chunks);
            let Some(chunk) = next_set(self.free_of(address), self.chunks, start, |_| mask) else {
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
        self.set_hint(address, self.half_of(address, chunk));
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

    #[inline]
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
        let size = self.block_size;
        match part {
            None => (0, size),
            Some(Half::Low) => (0, size / 2),
            Some(Half::High) => (size / 2, size),
        }
    }

    /// Asks for the memory of [`Self::free_port`]: its first line, which has all of a block of 512 ports.
    #[inline]
    pub(super) fn expect_ports(&self, place: Place, class: Protocol) {
        if let Some(word) = self.bits(place, class).first() {
            prefetch(word);
        }
    }

    /// A free port of a chunk, as an offset into it: the first one that is as wished from `start` on, which is in the wished
    /// part, around its end.
    pub(super) fn free_port(&self, place: Place, class: Protocol, start: u16, wish: Wish<'_>) -> Option<u16> {
        let Wish { odd, part, home } = wish;
        let port_first = self.port_first(place);
        let wanted = match odd {
            None => u64::MAX,
            Some(odd) if odd == (port_first % 2 == 1) => 0x5555_5555_5555_5555,
            Some(_) => 0xaaaa_aaaa_aaaa_aaaa,
        };
        let at_home = |word: usize| {
            home.map_or(u64::MAX, |(home, base)| {
                #[expect(clippy::cast_possible_truncation, reason = "a block's words are below 1,024")]
                let offset = word as u16 * 64;
                home.ports(base, port_first + offset)
            })
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
            let free = if free == 0 { 0 } else { free & at_home(at) };
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
        let words = words(self.block_size.into());
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
        let mask = self.chunks_of(half, address);
        if next_set(self.free_of(address), self.chunks, 0, |_| mask).is_some() {
            self.set_hint(address, half);
        }
    }

    fn set_hint(&self, address: u32, half: Half) {
        let hints = &self.addresses_free[half as usize];
        hints[address as usize / 64].fetch_or(1 << (address % 64), Ordering::AcqRel);
    }

    /// Which half of the blocks a chunk belongs to: alternately, and shifted from address to address, so that every address
    /// has chunks of both halves, and a pool of single chunks has addresses of both. It follows from the address
    /// alone: nodes that were given the same addresses in another order agree.
    fn half_of(&self, address: u32, chunk: u32) -> Half {
        if (self.parity(address) ^ chunk) & 1 == 0 {
            Half::Low
        } else {
            Half::High
        }
    }

    /// The same as a mask of an address's chunks.
    fn chunks_of(&self, half: Half, address: u32) -> u64 {
        if half as u32 == self.parity(address) {
            0x5555_5555_5555_5555
        } else {
            0xaaaa_aaaa_aaaa_aaaa
        }
    }

    fn parity(&self, address: u32) -> u32 {
        u32::from(self.addresses[address as usize]) & 1
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

/// The first set bit from `start` on, around the end of `count` bits; in each word only those of its mask count.
#[expect(clippy::cast_possible_truncation, reason = "below count")]
fn next_set(bits: &[AtomicU64], count: u32, start: u32, mask: impl Fn(usize) -> u64) -> Option<u32> {
    if count == 0 || bits.is_empty() {
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
        let set = bits[at].load(Ordering::Acquire) & part & mask(at);
        (set != 0).then(|| at as u32 * 64 + set.trailing_zeros())
    })
}

/// Words for `bits` bits.
const fn words(bits: u32) -> usize {
    bits.div_ceil(64) as usize
}

/// Word `at` of `bits` set bits.
fn full(bits: u32, at: usize) -> u64 {
    let left = (bits as usize).saturating_sub(at * 64);
    if left >= 64 { u64::MAX } else { !(u64::MAX << left) }
}

fn zeroes(count: usize) -> Arc<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}
