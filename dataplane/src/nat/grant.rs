//! The identity of a grant: which node gave a block to a subscriber, in which reign, and in which order.

use crate::delta::Term;

/// Bits of a grant's identity that count within a term.
const COUNTER_BITS: u32 = 38;
/// Grants between the first ones of two boots whose terms are neighbours.
const BOOT_SHIFT: u32 = 16;
/// Reigns told apart by a grant's identity.
const REIGN_MAX: u64 = (1 << 18) - 1;

/// Identity of a grant: bits 63..46 the term's reign, 45..38 its node, 37..0 a counter of the granting process, which
/// starts in the lower half, by the term's boot: two boots that took the same reign, because nobody told the second of
/// the first, hardly ever give one name to two grants. So it is unique over nodes and boots, never 0, and a later grant
/// of the same ports compares greater, whoever made it. None when the term's are used up.
pub(super) const fn grant_id(term: Term, counter: u64) -> Option<u64> {
    let before = term.boot() << BOOT_SHIFT;
    if before.saturating_add(counter) >> COUNTER_BITS != 0 {
        return None;
    }
    Some(grant_base(term) + counter)
}

/// What grants of a term count from: one that a process has made is above it by how many it had made then.
#[must_use]
pub const fn grant_base(term: Term) -> u64 {
    let reign = term.reign();
    let reign = if reign < REIGN_MAX { reign } else { REIGN_MAX };
    (reign << 8 | term.node() as u64) << COUNTER_BITS | term.boot() << BOOT_SHIFT
}

/// Node that made a grant, from its identity.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low byte above the counter is the node"
)]
pub const fn granting_node(grant: u64) -> u8 {
    (grant >> COUNTER_BITS) as u8
}
