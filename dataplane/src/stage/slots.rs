//! Slots as wholes: asked for and stopped on the sender's side; begun, compared, verified and swept on the receiver's.
//!
//! Called by `absorb` for what is not a record of an entry. Whatever adds up here does so at one exact point of the
//! slot's stream, because everything about a slot comes through one FIFO.

use crate::delta::{Handle, LaneTag, SlotEnd, SlotOffer, SlotRef, Term, ToEvent, Version};
use crate::mutant::{self, Mutant};
use crate::resync::{Course, Ended, Incoming, Missing, Sum, Walk, ended};
use crate::role::Role;
use crate::slot::{Kind, NIL, Slot, SyncState, block_digest};
use crate::stage::emit::block_record;
use crate::stage::tail::save_tail;
use crate::tables::Tables;
use crate::time::Instant;

/// Seconds after which a slot is asked for again that lacks more entries than are remembered: the cause may have gone.
const ABSENT_RETRY_S: u32 = 60;

/// The slot is to be walked, once its turn comes.
pub(crate) fn send_slot(
    tables: &mut Tables,
    at: SlotRef,
    lane: LaneTag,
    generation: u32,
    offer: Option<SlotOffer>,
) {
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    slot.walks.retain(|w| w.lane.peer != lane.peer);
    let walk = Walk {
        lane,
        generation,
        offer,
        course: Course::Asked,
    };
    if slot.walks.try_push(walk).is_err() {
        return;
    }
    let ring = tables.lane_of(at.slot);
    let walking = &mut tables.walking[ring];
    if !walking.contains(&at) {
        walking.push(at);
    }
}

/// The lane is gone.
pub(crate) fn stop_slot(tables: &mut Tables, at: SlotRef, lane: LaneTag) {
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    slot.streams.retain(|l| *l != lane);
    tables.lane_gone(at, lane.peer);
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    let whole = |w: &Walk| w.lane == lane && matches!(w.course, Course::Entries { .. });
    slot.cut_short |= slot.walks.iter().any(whole);
    slot.walks.retain(|w| w.lane != lane);
}

/// What is held of the slot, to be compared with what its sender has emitted.
pub(crate) fn query(tables: &mut Tables, at: SlotRef, lane: LaneTag, generation: u32) -> Option<ToEvent> {
    let (held, strangers) = held(tables, at);
    let muted = tables.is_muted(at);
    let slot = tables.slots.get(at)?;
    let offer = SlotOffer {
        generation,
        // Entries that nobody was told make sure that the slot doesn't look equal: they have to be swept.
        count: held.count + strangers,
        digest: held.digest,
        version: slot.base.unwrap_or(slot.version),
        absent: slot.absent.sum.count,
        same: false,
        exact: !muted && !slot.untold && !slot.absent.is_unsure(),
    };
    Some(ToEvent::SlotOffer { at, lane, offer })
}

/// A generation begins.
pub(crate) fn begin(
    tables: &mut Tables,
    at: SlotRef,
    (lane, event, generation): (LaneTag, usize, u32),
    version: Version,
    since: Option<Version>,
) -> Option<ToEvent> {
    if reigns(tables, at, version.term) {
        tables.counters.slots_fenced += 1;
        return None;
    }
    let slot = tables.slots.get(at)?;
    if version.term < slot.version.term {
        let offer = too_low(slot, generation);
        tables.counters.slots_fenced += 1;
        return Some(ToEvent::SlotOffer { at, lane, offer });
    }
    // The digests that records are compared with must be those of what is stored.
    held(tables, at);
    let slot = tables.slots.get_mut(at)?;
    // A generation that did not come to its end leaves the slot where it was, though its records have moved the
    // slot's version into the new term already.
    let unfinished = |s: &Incoming| s.authoritative && s.term == version.term;
    let authoritative = version.term > slot.version.term || slot.source.as_ref().is_some_and(unfinished);
    let authoritative = authoritative && !mutant::on(Mutant::TailKept);
    match since {
        // It was offered at another point of this slot's history: the end will not add up.
        Some(since) if slot.base.unwrap_or(slot.version) != since => slot.absent.unsure = true,
        Some(since) => slot.base = Some(since),
        None => {
            slot.absent.clear();
            slot.base = Some(Version::default());
        }
    }
    // A list that was being made would show the slot half sent.
    slot.listing = None;
    slot.history.end();
    slot.source = Some(Incoming {
        lane,
        event,
        generation,
        open: true,
        since,
        authoritative,
        term: version.term,
    });
    None
}

/// What a sender hears whose term is below the slot's (sync/PROTOCOL.md R-31). Records of a generation that never ended may
/// have brought that term here, and then nothing else tells it: the slot is offered as it was before, and who sent them is gone.
const fn too_low(slot: &Slot, generation: u32) -> SlotOffer {
    let held = slot.held();
    SlotOffer {
        generation,
        count: held.count,
        digest: held.digest,
        version: slot.version,
        absent: slot.absent.sum.count,
        same: false,
        exact: false,
    }
}

/// Whether this node is itself active under a term that `theirs` doesn't exceed.
fn reigns(tables: &Tables, at: SlotRef, theirs: Term) -> bool {
    let seen = tables.roles[at.vrf.index()];
    matches!(seen.role, Role::Master | Role::Alone) && theirs <= seen.term
}

/// The sender says what it has emitted up to here.
pub(crate) fn compare(
    tables: &mut Tables,
    at: SlotRef,
    lane: LaneTag,
    end: &SlotEnd,
    now: Instant,
) -> Option<ToEvent> {
    let slot = tables.slots.get(at)?;
    let current = |s: &&Incoming| !s.open && s.lane == lane && s.generation == end.generation;
    slot.source
        .as_ref()
        .filter(current)
        .filter(|_| !tables.is_active(at.vrf))?;
    let (held, absent) = (slot.held(), &slot.absent);
    // Not the term: it may have risen for another peer's sake, and those of the entries are in the digest.
    let counted = slot.version.counter == end.version.counter;
    let equal = counted && (held.count, held.digest) == (end.count, end.digest);
    // Those that are remembered are asked for one by one; when all of them came, the others may come too.
    let age_s = now.secs().saturating_sub(absent.since_s);
    let retry = (absent.forgotten() && (absent.known().is_empty() || age_s >= ABSENT_RETRY_S))
        || (absent.unsure && age_s >= ABSENT_RETRY_S);
    let offer = SlotOffer {
        generation: end.generation,
        count: held.count,
        digest: held.digest,
        version: slot.version,
        absent: absent.sum.count,
        same: (equal || absent.is_unsure()) && !retry,
        exact: false,
    };
    let counters = &mut tables.counters;
    *if absent.is_unsure() || (equal && retry) {
        &mut counters.digests_unsure
    } else if equal {
        &mut counters.digests_equal
    } else {
        &mut counters.digest_mismatch
    } += 1;
    Some(ToEvent::SlotOffer { at, lane, offer })
}

/// A generation ends: if it adds up, what it did not stamp is swept.
pub(crate) fn finish(
    tables: &mut Tables,
    at: SlotRef,
    lane: LaneTag,
    end: &SlotEnd,
    now: Instant,
) -> Option<ToEvent> {
    let generation = end.generation;
    let slot = tables.slots.get(at)?;
    let expected = |s: &&Incoming| s.open && s.lane == lane && s.generation == generation;
    let source = slot
        .source
        .as_ref()
        .filter(expected)
        .filter(|_| !tables.is_active(at.vrf));
    let Some(source) = source else {
        tables.counters.slots_fenced += 1;
        return Some(ToEvent::SlotFailed { at, lane, generation });
    };
    let whole = source.since.is_none();
    if whole && mutant::on(Mutant::SweepBeforeVerify) {
        sweep(tables, at, lane, generation, now);
    }
    let (here, others) = if whole {
        let (sum, others) = stamped(tables, at, generation);
        (Some(sum), others)
    } else {
        ((held(tables, at).1 == 0).then(|| listed(tables, at)), false)
    };
    let slot = tables.slots.get_mut(at)?;
    let outcome = here.map_or(Ended::Failed, |here| ended(end, here, &slot.absent));
    let differs = here.is_some() && outcome == Ended::Failed && !slot.absent.is_unsure();
    tables.counters.slots_differing += u64::from(differs);
    if let Some(source) = &mut slot.source {
        source.open = false;
        source.authoritative &= outcome == Ended::Failed;
    }
    let Ended::Verified(refused) = outcome else {
        return Some(ToEvent::SlotFailed { at, lane, generation });
    };
    slot.version = slot.version.max(end.version);
    (slot.base, slot.own_hand, slot.untold) = (None, false, false);
    tables.counters.slots_verified += 1;
    if others && !mutant::on(Mutant::NoSweep) {
        sweep(tables, at, lane, generation, now);
    }
    tables.unmute(at);
    Some(ToEvent::SlotVerified {
        at,
        lane,
        generation,
        refused,
    })
}

/// Notes that an entry which the sender still counts had to go from here.
pub(crate) fn lacks(
    tables: &mut Tables,
    at: SlotRef,
    key: u64,
    handle: Handle,
    sync: &SyncState,
    now: Instant,
) {
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    // One that an open generation of the whole slot has not named is none of the sender's, as far as is known.
    let unnamed = slot
        .source
        .as_ref()
        .is_some_and(|s| s.open && s.since.is_none() && s.generation != sync.stamp);
    if sync.emitted() && !unnamed {
        let missing = Missing {
            key,
            handle,
            digest: sync.digest,
            version: sync.version,
            for_room: false,
            outdated: false,
        };
        slot.absent.insert(missing, now.secs());
    }
}

/// Account of the slot's listed entries.
pub(crate) fn listed(tables: &Tables, at: SlotRef) -> Sum {
    tables.slots.get(at).map_or_else(Sum::default, |slot| Sum {
        count: slot.count - slot.loose.count,
        digest: slot.digest.wrapping_sub(slot.loose.digest),
    })
}

/// What is held, and how many entries are held that nobody was told. A slot that this node wrote itself is looked
/// through first: changes that were never emitted are in its entries, and not yet in its digest.
fn held(tables: &mut Tables, at: SlotRef) -> (Sum, u32) {
    let own_hand = tables.slots.get(at).is_some_and(|slot| slot.own_hand);
    let (strangers, corrected) = if own_hand { recompute(tables, at) } else { (0, 0) };
    let slot = tables.slots.get(at);
    let sum = slot.map_or_else(Sum::default, |s| s.held());
    if strangers > 0 || corrected > 0 || slot.is_some_and(|s| s.loose.count > 0) {
        tables.mute(at);
    }
    (sum, strangers)
}

/// Makes the digests of a slot's entries those of what is stored. Returns how many have never been emitted, and how
/// many had another digest.
fn recompute(tables: &mut Tables, at: SlotRef) -> (u32, u32) {
    let (mut strangers, mut corrected) = (0, 0);
    for kind in [Kind::Block, Kind::Conntrack] {
        let mut id = first(tables, at, kind);
        while id != NIL {
            let sync = *sync_of(tables, kind, id);
            if sync.emitted() {
                let digest = stored_digest(tables, kind, id);
                if digest != sync.digest {
                    set_digest(tables, at, kind, id, digest);
                    corrected += 1;
                }
            } else {
                strangers += 1;
            }
            id = sync.next;
        }
    }
    (strangers, corrected)
}

/// Digest of an entry as it is stored, at its last version.
pub(crate) fn stored_digest(tables: &Tables, kind: Kind, id: u32) -> u64 {
    match kind {
        Kind::Block => block_digest(&block_record(tables.nat.block(id))),
        Kind::Conntrack => {
            let conntrack = &tables.conntracks[id];
            conntrack.digest(conntrack.sync.version)
        }
    }
}

/// Corrects the digest of an entry, and its share in the slot's.
pub(crate) fn set_digest(tables: &mut Tables, at: SlotRef, kind: Kind, id: u32, digest: u64) {
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    let sync = match kind {
        Kind::Block => &mut tables.nat.block_mut(id).sync,
        Kind::Conntrack => &mut tables.conntracks[id].sync,
    };
    let version = sync.version;
    slot.account(sync, version, digest);
}

/// Number and digest of the slot's entries that the generation has touched, and whether there are others.
fn stamped(tables: &Tables, at: SlotRef, generation: u32) -> (Sum, bool) {
    let (mut sum, mut others) = (Sum::default(), false);
    for kind in [Kind::Block, Kind::Conntrack] {
        let mut id = first(tables, at, kind);
        while id != NIL {
            let sync = sync_of(tables, kind, id);
            if sync.stamp == generation && sync.emitted() {
                sum.add(sync.digest);
            } else {
                others = true;
            }
            id = sync.next;
        }
    }
    (sum, others)
}

fn sweep(tables: &mut Tables, at: SlotRef, lane: LaneTag, generation: u32, now: Instant) {
    // Children before parents: a block with conntracks in it can't be given back.
    for kind in [Kind::Conntrack, Kind::Block] {
        let mut id = first(tables, at, kind);
        while id != NIL {
            let sync = *sync_of(tables, kind, id);
            if sync.stamp != generation || !sync.emitted() {
                let gone = match kind {
                    Kind::Conntrack => {
                        save_tail(tables, at, lane, id, now);
                        tables.discard(now, id);
                        true
                    }
                    // In use by conntracks that are to stay.
                    Kind::Block => tables.discard_block(now, id),
                };
                tables.counters.swept += u64::from(gone);
            }
            id = sync.next;
        }
    }
}

pub(crate) fn first(tables: &Tables, at: SlotRef, kind: Kind) -> u32 {
    tables.slots.get(at).map_or(NIL, |s| s.first(kind))
}

pub(crate) fn sync_of(tables: &Tables, kind: Kind, id: u32) -> &SyncState {
    match kind {
        Kind::Block => &tables.nat.block(id).sync,
        Kind::Conntrack => &tables.conntracks[id].sync,
    }
}
