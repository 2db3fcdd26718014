//! Deltas of this turn: changed entries become records.
//!
//! The owner encodes the *current* state of each listed entry, gives it the slot's next version, updates the
//! slot's digest, and pushes the record into the ring of the slot's event thread. A full ring delays: entries stay
//! listed in order and the worker goes on. Every version that is given stands in the worker's journal.

use rtrb::Producer;

use crate::delta::{
    BlockRecord, DelRecord, Delta, Handle, Name, PutRecord, RefreshRecord, SlotRef, StateRecord, ToEvent,
};
use crate::history::Change;
use crate::mutant::{self, Mutant};
use crate::overload::Step;
use crate::protection::Kept;
use crate::slot::{Kind, Slot, SyncState, block_digest, conntrack_digest};
use crate::stage::compare::comparisons;
use crate::stage::digest::digests;
use crate::stage::tail::offer_tails;
use crate::stage::walk::walk;
use crate::tables::{Changed, Tables};
use crate::time::Instant;

/// Entries taken off one dirty list in one turn.
const EMIT_BUDGET: usize = 256;

/// One turn's share of emission. `rings` is indexed by event thread. Returns the number of records pushed.
pub(crate) fn emit(
    tables: &mut Tables,
    rings: &mut [Producer<ToEvent>],
    walk_budget: usize,
    now: Instant,
) -> usize {
    let mut pushed = 0;
    tables.list_blocks();
    for (lane, ring) in rings.iter_mut().enumerate() {
        pushed += answer_ends(tables, lane, ring);
        offer_tails(tables, lane, ring);
        pushed += tell_lost(tables, lane, ring);
        pushed += drain(tables, lane, ring, now);
        pushed += mark_drained(tables, lane, ring);
    }
    digests(tables, rings, now);
    pushed += comparisons(tables, rings, now);
    pushed + walk(tables, rings, walk_budget, now)
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

/// Tells the event thread which VRFs it has everything of that this node is about to give up.
fn mark_drained(tables: &mut Tables, lane: usize, ring: &mut Producer<ToEvent>) -> usize {
    let mut told = 0;
    while !ring.is_full()
        && let Some(mark) = tables.next_mark(lane)
    {
        told += usize::from(ring.push(mark).is_ok());
    }
    told
}

fn drain(tables: &mut Tables, lane: usize, ring: &mut Producer<ToEvent>, now: Instant) -> usize {
    let mut pushed = 0;
    for _ in 0..EMIT_BUDGET {
        let Some(first) = tables.first_changed(lane) else {
            break;
        };
        let waits = tables.waits(first);
        // Whatever it becomes is at most one record, and a question behind it when a packet waits for it; room is
        // checked first because encoding takes a version.
        if ring.slots() < 1 + usize::from(waits) {
            tables.counters.ring_full += 1;
            break;
        }
        let Some(changed) = tables.unlist(lane) else { break };
        let at = tables.slot_of(changed);
        let Some(delta) = encode(tables, at, changed, now) else {
            if waits {
                tables.uncommitted(changed.id);
            }
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
            if waits && let Some(counter) = tables.ask_commit(at, changed.id) {
                pushed += usize::from(ring.push(ToEvent::Commit { at, counter }).is_ok());
            }
        } else {
            tables.counters.deltas_unsent += 1;
            if waits {
                tables.uncommitted(changed.id);
            }
        }
    }
    tables.climb(lane, ring.buffer().capacity());
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
    let kept = conntrack.sync.kept != Kept::No;
    if kept && !dead && !known {
        tables.counters.deltas_suppressed += 1;
        return None;
    }
    if refresh && !dead && !kept && tables.overload(tables.lane_of(at.slot)) >= Step::Stretch {
        tables.counters.deltas_suppressed += 1;
        tables.counters.refreshes_stretched += 1;
        return None;
    }
    let slot = tables.slots.get_mut(at)?;
    let (handle, named) = (Handle::of(id), slot.is_named(&conntrack.sync));
    if dead && !slot.walks.is_empty() && mutant::on(Mutant::RemovalForgotten) {
        tables.forget(at, id);
        tables.counters.deltas_cancelled += 1;
        return None;
    }
    if dead || kept {
        let original = conntrack.keys[0];
        let record = DelRecord {
            name: if named {
                Name::Handle(handle)
            } else {
                Name::Key(original)
            },
            version: slot.next_version(role.term),
        };
        if dead {
            tables.forget(at, id);
        } else {
            // Policy has changed: the peer forgets it, and this node no longer counts on the peer.
            let sync = &mut tables.conntracks[id].sync;
            slot.unaccount(sync);
            sync.named = 0;
            tables.counters.conntracks_withdrawn += 1;
        }
        // A stream of later understands no name of this one.
        let lasting = DelRecord {
            name: Name::Key(original),
            ..record
        };
        tables.note(at, Change::Removed(lasting));
        return Some(Delta::Del(record));
    }
    let mut put = conntrack.to_put(now);
    let sync = &mut tables.conntracks[id].sync;
    if refresh && mutant::on(Mutant::RefreshBumpsVersion) {
        slot.next_version(role.term);
    }
    if !refresh {
        put.version = slot.next_version(role.term);
        slot.account(sync, put.version, conntrack_digest(&put));
    }
    let (lifetime_s, version) = (put.lifetime_s, put.version);
    if !named {
        name(slot, sync, &mut put, handle);
    }
    if !refresh {
        let kind = Kind::Conntrack;
        tables.note(at, Change::Written { kind, id, version });
    }
    // It is sent whole, also when only its lifetime has to be told: a stream may not know its handle.
    Some(if !named {
        Delta::Put(put)
    } else if refresh {
        Delta::Refresh(RefreshRecord { handle, lifetime_s })
    } else {
        Delta::State(StateRecord {
            handle,
            class: put.class,
            scales: put.scales,
            lifetime_s,
            version,
        })
    })
}

/// The record, which goes to all streams, tells the entry's handle.
pub(crate) const fn name(slot: &Slot, sync: &mut SyncState, put: &mut PutRecord, handle: Handle) {
    put.handle = handle;
    if !handle.is_none() && !slot.streams.is_empty() {
        sync.named = slot.naming;
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
    let change = if dead {
        tables.drop_block(at, id);
        Change::Released(record)
    } else {
        slot.account(
            &mut tables.nat.block_mut(id).sync,
            record.version,
            block_digest(&record),
        );
        let (kind, version) = (Kind::Block, record.version);
        Change::Written { kind, id, version }
    };
    tables.note(at, change);
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
