//! Who owns a packet: shard address, slot, worker, lane.
//!
//! The shard function is total and depends only on the configured inside prefixes, which both nodes must share:
//! a subscriber's conntracks, blocks and mappings get one slot, so one worker and one lane, without atomics.
//! `slot = H(shard address) mod S` is the same on both nodes; slot to lane is local, and so is slot to worker,
//! which [`crate::owners`] says.

use crate::flow::Addr;

/// Finalizer of the splitmix64 generator: every input bit changes every output bit with probability one half.
#[inline]
#[must_use]
pub const fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Both halves of the 128-bit product, together.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(crate) const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

const HIGH_KEY: u64 = 0x7477_696e_7061_7468;
/// The high half of every IPv4 address, mixed.
const V4_HIGH: u64 = mix64(HIGH_KEY);

/// Hash of an address that both nodes share (sync/PROTOCOL.md, section "Slots").
#[inline]
#[must_use]
pub fn address_hash(address: &Addr) -> u64 {
    let (high, low) = address.halves();
    let high = if high == 0 {
        V4_HIGH
    } else {
        mix64(high ^ HIGH_KEY)
    };
    mix64(high.wrapping_add(low))
}

/// Slot of a flow whose subscriber is known.
#[inline]
#[must_use]
pub fn slot_of_address(address: &Addr, slots: u16) -> u16 {
    reduce(address_hash(address), slots)
}

/// Slot of a flow between two addresses of which both or neither are inside: symmetric in both. Inlined, so that no address has
/// to be put into memory for it.
#[inline(always)]
#[must_use]
pub fn slot_of_pair(a: &Addr, b: &Addr, slots: u16) -> u16 {
    reduce(mix64(address_hash(a).wrapping_add(address_hash(b))), slots)
}

/// Slot of a flow, given which of its ends are inside.
#[inline(always)]
#[must_use]
pub fn slot_of(src: &Addr, src_inside: bool, dst: &Addr, dst_inside: bool, slots: u16) -> u16 {
    match (src_inside, dst_inside) {
        (true, false) => slot_of_address(src, slots),
        (false, true) => slot_of_address(dst, slots),
        _ => slot_of_pair(src, dst, slots),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder below 65,536")]
const fn reduce(hash: u64, slots: u16) -> u16 {
    // The same remainder, without a division where the number is one of those that are usually chosen.
    if slots.is_power_of_two() {
        return (hash & (slots as u64 - 1)) as u16;
    }
    (hash % slots as u64) as u16
}

/// Worker that a slot has at first, among `workers` that feed `lanes` lanes: so that each of them feeds every lane.
#[must_use]
pub const fn first_worker_of(slot: u16, workers: u16, lanes: u16) -> u16 {
    (slot / lanes) % workers
}

/// Worker where the fragments of a packet meet when no address says whose flow it is.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a remainder below 65,536")]
pub fn worker_of_packet(src: &Addr, dst: &Addr, id: u32, workers: u16) -> u16 {
    let ends = address_hash(src).rotate_left(1) ^ address_hash(dst);
    (mix64(ends ^ id as u64) % workers as u64) as u16
}

/// Lane (and event thread) of a slot, whichever worker has it: what is told of a slot goes one way as long as the process
/// lives.
#[must_use]
pub const fn lane_of(slot: u16, lanes: u16) -> u16 {
    slot % lanes
}
