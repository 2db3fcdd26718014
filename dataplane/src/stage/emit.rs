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
/// What they become at most: a record and a question each.
const ITEMS_MAX: usize = 2 * EMIT_BUDGET;

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

/// From the head of a lane's list into its ring. The records of a turn become visible to the event thread at once: each
/// look at the other thread's place in the ring, and each step of one's own, costs as much as encoding a record.
fn drain(tables: &mut Tables, lane: usize, ring: &mut Producer<ToEvent>, now: Instant) -> usize {
    let mut pushed = 0;
    if tables.first_changed(lane).is_some()
        && let Ok(chunk) = ring.write_chunk_uninit(room(ring, ITEMS_MAX))
    {
        let mut outgoing = Outgoing {
            room: chunk.len(),
            budget: EMIT_BUDGET,
            question: None,
            tables,
            lane,
            now,
        };
        pushed = chunk.fill_from_iter(&mut outgoing);
        let stopped = outgoing.budget > 0 && tables.first_changed(lane).is_some();
        tables.counters.ring_full += u64::from(stopped);
    }
    tables.climb(lane, ring.buffer().capacity());
    pushed
}

/// Places of a ring that can be filled, up to `most`.
fn room(ring: &Producer<ToEvent>, most: usize) -> usize {
    let known = ring.cached_slots();
    if known < most { ring.slots() } else { known }.min(most)
}

/// What goes into a ring in one turn: the changes of its lane in their order, each as its record.
struct Outgoing<'a> {
    tables: &'a mut Tables,
    lane: usize,
    now: Instant,
    /// Places that are left in the ring.
    room: usize,
    /// Changes that are still looked at.
    budget: usize,
    /// To be put behind the record it is about.
    question: Option<ToEvent>,
}

impl Iterator for Outgoing<'_> {
    type Item = ToEvent;

    fn next(&mut self) -> Option<ToEvent> {
        let item = self.question.take().or_else(|| self.record());
        self.room -= usize::from(item.is_some());
        item
    }
}

impl Outgoing<'_> {
    /// The next change that has something to tell.
    fn record(&mut self) -> Option<ToEvent> {
        let tables = &mut *self.tables;
        while self.budget > 0 {
            let waits = tables.waits(tables.first_changed(self.lane)?);
            // Whatever it becomes is at most one record, and a question behind it when a packet waits for it; room is
            // checked first because encoding takes a version.
            if self.room < 1 + usize::from(waits) {
                return None;
            }
            self.budget -= 1;
            tables.slots.expect(tables.journal.expect());
            let changed = tables.unlist(self.lane)?;
            let at = tables.slot_of(changed);
            let delta = encode(tables, at, changed, self.now);
            let streamed = tables.slots.get(at).is_some_and(|slot| !slot.streams.is_empty());
            match delta {
                Some(delta) if streamed => {
                    tables.counters.deltas_emitted += 1;
                    if waits && let Some(counter) = tables.ask_commit(at, changed.id) {
                        self.question = Some(ToEvent::Commit { at, counter });
                    }
                    return Some(ToEvent::Record {
                        at,
                        only: None,
                        delta,
                    });
                }
                delta => {
                    tables.counters.deltas_unsent += u64::from(delta.is_some());
                    if waits {
                        tables.uncommitted(changed.id);
                    }
                }
            }
        }
        None
    }
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
    if dead && mutant::on(Mutant::RemovalForgotten) && !slot.walks.is_empty() {
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
