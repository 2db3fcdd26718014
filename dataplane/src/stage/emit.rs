//! Deltas of this turn: changed entries become records, asked-for slots are walked.
//!
//! The owner encodes the *current* state of each listed entry, gives it the slot's next version, updates the
//! slot's digest, and pushes the record into the ring of the slot's event thread. A full ring delays: entries stay
//! listed in order and the worker goes on. Because the walk runs here too, ring order is mutation order: a walk can
//! never carry a copy that a removal has already overtaken, so no tombstone is needed.

use rtrb::Producer;

use crate::delta::{
    BlockRecord, DelRecord, Delta, RefreshRecord, SlotEnd, SlotRef, StateRecord, ToEvent, Version,
};
use crate::role::Role;
use crate::slot::{Kind, NIL, Slot, block_digest, conntrack_digest};
use crate::stage::compare::comparisons;
use crate::stage::digest::digests;
use crate::tables::{Changed, Tables};
use crate::time::Instant;

/// Entries visited by walks in one turn.
const WALK_BUDGET: usize = 64;

/// Entries taken off one dirty list in one turn.
const EMIT_BUDGET: usize = 256;

/// One turn's share of emission. `rings` is indexed by event thread. Returns the number of records pushed.
pub(crate) fn emit(tables: &mut Tables, rings: &mut [Producer<ToEvent>], now: Instant) -> usize {
    let mut pushed = 0;
    tables.list_blocks();
    for (lane, ring) in rings.iter_mut().enumerate() {
        pushed += answer_ends(tables, lane, ring);
        pushed += tell_lost(tables, lane, ring);
        pushed += drain(tables, lane, ring, now);
    }
    digests(tables, rings, now);
    pushed += comparisons(tables, rings, now);
    pushed + walk(tables, rings, now)
}

/// Sends what became of the peers' slot ends.
fn answer_ends(tables: &mut Tables, event: usize, ring: &mut Producer<ToEvent>) -> usize {
    let mut sent = 0;
    while !ring.is_full()
        && let Some(answer) = tables.answers[event].pop_front()
    {
        sent += usize::from(ring.push(answer).is_ok());
    }
    sent
}

/// Tells the event thread which of its slots have to be sent again.
fn tell_lost(tables: &mut Tables, lane: usize, ring: &mut Producer<ToEvent>) -> usize {
    let mut told = 0;
    let mut index = 0;
    while let Some(&at) = tables.lost.get(index) {
        if tables.lane_of(at.slot) != lane {
            index += 1;
        } else if ring.push(ToEvent::SlotDirty { at }).is_ok() {
            tables.lost.swap_remove(index);
            told += 1;
        } else {
            break;
        }
    }
    told
}

fn drain(tables: &mut Tables, lane: usize, ring: &mut Producer<ToEvent>, now: Instant) -> usize {
    let mut pushed = 0;
    for _ in 0..EMIT_BUDGET {
        if tables.first_changed(lane).is_none() {
            break;
        }
        // Whatever it becomes is at most one record; room is checked first because encoding takes a version.
        if ring.is_full() {
            tables.counters.ring_full += 1;
            break;
        }
        let Some(changed) = tables.unlist(lane) else { break };
        let at = tables.slot_of(changed);
        let Some(delta) = encode(tables, at, changed, now) else {
            continue;
        };
        let streamed = tables.slots.get(at).is_some_and(|slot| !slot.streams.is_empty());
        if streamed
            && ring
                .push(ToEvent::Record {
                    at,
                    only: None,
                    delta,
                })
                .is_ok()
        {
            tables.counters.deltas_emitted += 1;
            pushed += 1;
        } else {
            tables.counters.deltas_unsent += 1;
        }
    }
    pushed
}

/// The record of a change, with the entry's new version; none when there is nothing to tell.
fn encode(tables: &mut Tables, at: SlotRef, changed: Changed, now: Instant) -> Option<Delta> {
    match changed.kind {
        Kind::Block => encode_block(tables, at, changed.id),
        Kind::Conntrack => encode_conntrack(tables, at, changed.id, now),
    }
}

fn encode_conntrack(tables: &mut Tables, at: SlotRef, id: u32, now: Instant) -> Option<Delta> {
    let role = tables.roles[at.vrf.index()];
    let conntrack = &tables.conntracks[id];
    let (dead, known) = (conntrack.sync.dead, conntrack.sync.emitted());
    if dead {
        tables.dead -= 1;
    }
    let refresh = conntrack.sync.refresh_only && known;
    // A demoted node's unsent tail: the new active decides; nothing here may look like its word.
    if !role.has_word() || (dead && !known) {
        if !refresh && (known || !dead) {
            tables.mute(at);
        }
        if dead {
            tables.forget(at, id);
        } else if !refresh && let Some(slot) = tables.slots.get_mut(at) {
            slot.unaccount(&mut tables.conntracks[id].sync);
        }
        let counter = if dead {
            &mut tables.counters.deltas_cancelled
        } else {
            &mut tables.counters.deltas_unsent
        };
        *counter += 1;
        return None;
    }
    let slot = tables.slots.get_mut(at)?;
    if dead {
        let record = DelRecord {
            original: conntrack.keys[0],
            version: slot.next_version(role.term),
        };
        tables.forget(at, id);
        return Some(Delta::Del(record));
    }
    let mut put = conntrack.to_put(now);
    if refresh {
        return Some(Delta::Refresh(RefreshRecord {
            original: put.original,
            lifetime_s: put.lifetime_s,
        }));
    }
    put.version = slot.next_version(role.term);
    slot.account(
        &mut tables.conntracks[id].sync,
        put.version,
        conntrack_digest(&put),
    );
    // A walk that has not come to this entry yet will skip it no longer: its receiver may not know it.
    if known && slot.walks.is_empty() {
        Some(Delta::State(StateRecord {
            original: put.original,
            class: put.class,
            scales: put.scales,
            lifetime_s: put.lifetime_s,
            version: put.version,
        }))
    } else {
        Some(Delta::Put(put))
    }
}

fn encode_block(tables: &mut Tables, at: SlotRef, id: u32) -> Option<Delta> {
    let role = tables.roles[at.vrf.index()];
    let (dead, known) = {
        let sync = &tables.nat.block(id).sync;
        (sync.dead, sync.emitted())
    };
    if !role.has_word() || (dead && !known) {
        if known || !dead {
            tables.mute(at);
        }
        if dead {
            tables.drop_block(at, id);
            tables.counters.deltas_cancelled += 1;
        } else {
            if let Some(slot) = tables.slots.get_mut(at) {
                slot.unaccount(&mut tables.nat.block_mut(id).sync);
            }
            tables.counters.deltas_unsent += 1;
        }
        return None;
    }
    let slot = tables.slots.get_mut(at)?;
    let mut record = block_record(tables.nat.block(id));
    record.version = slot.next_version(role.term);
    record.held = !dead;
    if dead {
        tables.drop_block(at, id);
    } else {
        slot.account(
            &mut tables.nat.block_mut(id).sync,
            record.version,
            block_digest(&record),
        );
    }
    Some(Delta::Block(record))
}

/// Record of a held block at its last version.
pub(crate) fn block_record(block: &crate::nat::Block) -> BlockRecord {
    BlockRecord {
        grant: block.grant,
        subscriber: block.subscriber,
        address: block.address,
        port_first: block.port_first,
        held: true,
        version: block.sync.version,
    }
}

/// Walks asked-for slots, the oldest request first, while rings have more than half their room left for live
/// changes.
fn walk(tables: &mut Tables, rings: &mut [Producer<ToEvent>], now: Instant) -> usize {
    let mut budget = WALK_BUDGET;
    let mut pushed = 0;
    let mut index = 0;
    while budget > 0 {
        let Some(&at) = tables.walking.get(index) else {
            break;
        };
        let lane = tables.lane_of(at.slot);
        let Some(ring) = rings.get_mut(lane) else { break };
        let (records, done) = walk_slot(tables, at, ring, &mut budget, now);
        pushed += records;
        if done {
            tables.walking.remove(index);
        } else {
            // This lane's ring is busy; another lane's may not be.
            index += 1;
        }
    }
    pushed
}

/// Continues the first walk of a slot; true when the slot has no walk left.
fn walk_slot(
    tables: &mut Tables,
    at: SlotRef,
    ring: &mut Producer<ToEvent>,
    budget: &mut usize,
    now: Instant,
) -> (usize, bool) {
    let mut pushed = 0;
    loop {
        let role = tables.roles[at.vrf.index()];
        let lane = tables.lane_of(at.slot);
        let nothing_pending = tables.first_changed(lane).is_none();
        let Some(slot) = tables.slots.get_mut(at) else {
            return (pushed, true);
        };
        let Some(walk) = slot.walks.first_mut() else {
            return (pushed, true);
        };
        if ring.slots() <= ring.buffer().capacity() / 2 || *budget == 0 {
            return (pushed, false);
        }
        *budget -= 1;
        if !walk.begun {
            let (lane, generation) = (walk.lane, walk.generation);
            // Also when told to stand by: as long as nobody has taken over, the term is this node's to send under.
            if role.has_word() {
                slot.version.term = slot.version.term.max(role.term);
            }
            let since = start(slot);
            slot.streams.retain(|l| l.peer != lane.peer);
            let _ = slot.streams.try_push(lane);
            let version = slot.version;
            let begin = ToEvent::SlotBegin {
                at,
                lane,
                generation,
                version,
                since,
            };
            pushed += usize::from(ring.push(begin).is_ok());
            continue;
        }
        if walk.cursor == NIL && walk.kind == Kind::Block {
            walk.kind = Kind::Conntrack;
            let cursor = slot.first(Kind::Conntrack);
            if let Some(walk) = slot.walks.first_mut() {
                walk.cursor = cursor;
            }
            continue;
        }
        if walk.cursor == NIL {
            // Count and digest are those of what has been emitted. An entry with a change still listed is in them,
            // and the walk has passed it by. Where nothing was walked, nothing was passed by.
            if !nothing_pending && !walk.equal() {
                return (pushed, false);
            }
            let (lane, generation) = (walk.lane, walk.generation);
            let end = SlotEnd {
                generation,
                count: slot.count,
                digest: slot.digest,
                version: slot.version,
            };
            slot.walks.remove(0);
            pushed += usize::from(ring.push(ToEvent::SlotEnd { at, lane, end }).is_ok());
            continue;
        }
        let (kind, id, only) = (walk.kind, walk.cursor, Some(walk.lane));
        if role.role == Role::Master {
            tables.relist(Changed { kind, id });
        }
        let (next, delta) = visit(tables, kind, id, now);
        if let Some(walk) = tables.slots.get_mut(at).and_then(|s| s.walks.first_mut()) {
            walk.cursor = next;
        }
        if let Some(delta) = delta {
            tables.counters.walk_records += 1;
            pushed += usize::from(ring.push(ToEvent::Record { at, only, delta }).is_ok());
        }
    }
}

/// Starts the first walk of a slot: decides what it has to send. Gives the version from which on it sends.
fn start(slot: &mut Slot) -> Option<Version> {
    let (count, digest) = (slot.count, slot.digest);
    let head = slot.first(Kind::Block);
    let walk = slot.walks.first_mut()?;
    walk.begun = true;
    let told = !core::mem::take(&mut slot.untold);
    let equal = walk
        .offer
        .filter(|o| told && (o.count, o.digest) == (count, digest));
    walk.since = equal.map(|offer| offer.version);
    (walk.kind, walk.cursor) = match walk.since {
        Some(_) => (Kind::Conntrack, NIL),
        None => (Kind::Block, head),
    };
    walk.since
}

/// What a walk sends of an entry, and where it goes next. An entry with a change still listed is skipped: the
/// change will be sent live, whole.
fn visit(tables: &Tables, kind: Kind, id: u32, now: Instant) -> (u32, Option<Delta>) {
    match kind {
        Kind::Block => {
            let block = tables.nat.block(id);
            let send = block.sync.emitted() && !block.sync.dirty;
            (block.sync.next, send.then(|| Delta::Block(block_record(block))))
        }
        Kind::Conntrack => {
            let conntrack = &tables.conntracks[id];
            let sync = &conntrack.sync;
            let send = sync.emitted() && (!sync.dirty || sync.refresh_only);
            (sync.next, send.then(|| Delta::Put(conntrack.to_put(now))))
        }
    }
}
