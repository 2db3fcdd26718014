//! What gives way to a record: on a standby the newest grant wins (I7), and the holder of a higher term overrules what
//! nobody was told. Whatever goes is counted, and missing to its own slot's sender until its removal comes.

use crate::conntrack::{Conntrack, InsertError};
use crate::delta::{Handle, SlotRef, Version};
use crate::flow::Direction;
use crate::nat::{LearnError, Nat};
use crate::slot::{Kind, NIL, block_key_digest, key_digest};
use crate::stage::apply::Refused;
use crate::stage::slots::{first, lacks};
use crate::stage::tail::note_collision;
use crate::tables::Tables;
use crate::time::Instant;

/// Learns from a record; what an older grant or a mapping from the past still holds gives way (I7: on a standby the
/// newest grant wins), and the record is tried again.
pub(crate) fn evicting<T>(
    tables: &mut Tables,
    now: Instant,
    mut learn: impl FnMut(&mut Nat) -> Result<T, LearnError>,
) -> Result<T, Refused> {
    let mut outcome = learn(&mut tables.nat);
    // The inside endpoint and the public one may each be held by another mapping: at most two have to go.
    for _ in 0..2 {
        let gave_way = match outcome {
            // What is on its way to another worker can't give way here.
            Err(
                LearnError::Conflict {
                    block: Some(block), ..
                }
                | LearnError::Older {
                    block: Some(block), ..
                },
            ) if tables.transit.is_frozen(tables.nat.block(block).at()) => false,
            Err(LearnError::PortTaken { mapping })
                if tables
                    .transit
                    .is_frozen(tables.nat.block(tables.nat.block_of(mapping)).at()) =>
            {
                false
            }
            Err(LearnError::Conflict {
                block: Some(block), ..
            }) => {
                evict_in(tables, block, None, now);
                evict_block(tables, block, now)
            }
            Err(LearnError::Older {
                block: Some(block), ..
            }) if is_tail(tables, block) => {
                evict_in(tables, block, None, now);
                evict_block(tables, block, now)
            }
            Err(LearnError::PortTaken { mapping }) => {
                evict_in(tables, tables.nat.block_of(mapping), Some(mapping), now);
                true
            }
            _ => false,
        };
        if !gave_way {
            break;
        }
        outcome = learn(&mut tables.nat);
    }
    outcome.map_err(refusal)
}

/// Whether a block is, as far as is known, a grant that only this node made when it was active: the holder of a higher
/// term has not named it. Its grant is newer than what that node says, and wrong all the same.
fn is_tail(tables: &Tables, block: u32) -> bool {
    let held = tables.nat.block(block);
    let at = SlotRef {
        vrf: held.inside_vrf,
        slot: held.slot,
    };
    tables.slots.get(at).is_some_and(|slot| match &slot.source {
        Some(source) => source.authoritative && source.generation != held.sync.stamp,
        None => slot.own_hand,
    })
}

/// Discards the conntracks of a block, or of one mapping in it. They are all in the block's slot.
fn evict_in(tables: &mut Tables, block: u32, mapping: Option<u32>, now: Instant) {
    let held = tables.nat.block(block);
    let at = SlotRef {
        vrf: held.inside_vrf,
        slot: held.slot,
    };
    let mut id = first(tables, at, Kind::Conntrack);
    while id != NIL {
        let conntrack = &tables.conntracks[id];
        let next = conntrack.sync.next;
        let stands_on = conntrack.nat().is_some_and(|nat| match mapping {
            Some(mapping) => nat.mapping == mapping,
            None => tables.nat.block_of(nat.mapping) == block,
        });
        if stands_on {
            evict(tables, id, now);
        }
        id = next;
    }
}

/// An older holder of a tuple gives way to a newer grant. Its own slot's sender still counts it, until the removal
/// arrives that is on its way in another lane.
pub(crate) fn evict(tables: &mut Tables, id: u32, now: Instant) {
    tables.counters.absorb_evicted += 1;
    let held = &tables.conntracks[id];
    let (key, sync, at) = (held.key(Direction::Original), held.sync, held.at());
    let handle = tables.names.handle(id);
    note_collision(tables, at, id);
    lacks(tables, at, key_digest(&key), handle, &sync, now);
    tables.discard(now, id);
}

/// As [`evict`], for a block. False while conntracks still live in it.
fn evict_block(tables: &mut Tables, id: u32, now: Instant) -> bool {
    tables.counters.absorb_evicted += 1;
    let block = tables.nat.block(id);
    let (grant, sync) = (block.grant, block.sync);
    let at = SlotRef {
        vrf: block.inside_vrf,
        slot: block.slot,
    };
    let gone = tables.discard_block(now, id);
    if gone {
        lacks(tables, at, block_key_digest(grant), Handle::NONE, &sync, now);
    }
    gone
}

/// Inserts the conntrack of a record; an older holder of one of its tuples gives way.
pub(crate) fn insert_evicting(
    tables: &mut Tables,
    conntrack: Conntrack,
    version: Version,
    hashes: [u64; 2],
    now: Instant,
) -> Result<u32, Refused> {
    match tables.insert_hashed(&conntrack, hashes) {
        Ok(id) => Ok(id),
        Err(InsertError::Full) => Err(Refused::Full),
        Err(InsertError::OriginalTaken(holder) | InsertError::ReplyTaken(holder)) => {
            if !gives_way(tables, holder, conntrack.slot, version) {
                return Err(Refused::Conflict);
            }
            evict(tables, holder, now);
            tables.insert_hashed(&conntrack, hashes).map_err(|e| match e {
                InsertError::Full => Refused::Full,
                _ => Refused::Conflict,
            })
        }
    }
}

/// Whether the holder of a tuple has to go for a record of `version` in `slot`.
fn gives_way(tables: &Tables, holder: u32, slot: u16, version: Version) -> bool {
    let held = &tables.conntracks[holder];
    let at = held.at();
    if tables.transit.is_frozen(at) {
        return false;
    }
    let source = tables.slots.get(at).and_then(|slot| slot.source.as_ref());
    // One that the holder of a higher term has not named so far is from a tail nobody was told of.
    let overruled = source.is_some_and(|s| s.authoritative && s.generation != held.sync.stamp);
    // Versions are unique in a slot: an equal one is this very entry, damaged.
    let damaged = held.slot == slot && held.sync.version == version;
    held.sync.version < version || overruled || damaged
}

pub(crate) const fn refusal(error: LearnError) -> Refused {
    match error {
        LearnError::NoPool | LearnError::Unsupported => Refused::NoPool,
        LearnError::Older { block: Some(_), .. } => Refused::Outgranted,
        LearnError::Older { block: None, .. } | LearnError::Conflict { block: None, .. } => {
            Refused::Elsewhere
        }
        LearnError::Conflict { .. } | LearnError::PortTaken { .. } | LearnError::InUse { .. } => {
            Refused::Conflict
        }
        LearnError::Unknown => Refused::Unknown,
        LearnError::Full => Refused::Full,
    }
}
