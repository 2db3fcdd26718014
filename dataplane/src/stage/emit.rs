//! Deltas of this turn: changed entries become records.
//!
//! The owner encodes the *current* state of each listed entry, gives it the slot's next version, updates the
//! slot's digest, and writes the record into its place in the ring of the slot's event thread. A full ring delays: entries
//! stay listed in order and the worker goes on. Every version that is given stands in the worker's journal.

use rtrb::Producer;

use crate::conntrack::Conntrack;
use crate::delta::{
    BlockRecord, DelRecord, Delta, Handle, Name, PutRecord, RefreshRecord, SlotRef, StateRecord, Term,
    ToEvent,
};
use crate::flow::Direction;
use crate::history::Change;
use crate::mutant::{self, Mutant};
use crate::overload::Step;
use crate::protection::Kept;
use crate::slot::{Kind, Slot, SyncState, block_digest};
use crate::stage::compare::comparisons;
use crate::stage::digest::digests;
use crate::stage::ring::{room, write};
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
        pushed += tell_missed(tables, lane, ring);
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

/// Tells an event thread which slots that came by it this node has missed changes of.
fn tell_missed(tables: &mut Tables, event: usize, ring: &mut Producer<ToEvent>) -> usize {
    let mut told = 0;
    let mut index = 0;
    while let Some((at, source)) = tables.missed.get(index) {
        if source.event != event {
            index += 1;
            continue;
        }
        let missed = ToEvent::SlotMissed {
            at: *at,
            lane: source.lane,
            generation: source.generation,
        };
        if ring.push(missed).is_err() {
            break;
        }
        tables.missed.swap_remove(index);
        told += 1;
    }
    told
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

/// From the head of a lane's list into its ring.
fn drain(tables: &mut Tables, lane: usize, ring: &mut Producer<ToEvent>, now: Instant) -> usize {
    let mut pushed = 0;
    let changes = tables.waiting_for(lane).min(EMIT_BUDGET);
    if changes > 0 && !tables.transit.holds_lane(lane) {
        // A record, and a question behind it where packets wait for it.
        let each = if tables.commits.is_empty() { 1 } else { 2 };
        let room = room(ring, 0, each * changes);
        let mut outgoing = Outgoing {
            room,
            budget: EMIT_BUDGET,
            question: None,
            tables,
            lane,
            now,
        };
        pushed = write(ring, room, |place| outgoing.write(place));
        let told = EMIT_BUDGET - outgoing.budget;
        let stopped = outgoing.budget > 0 && tables.first_changed(lane).is_some();
        tables.counters.ring_full += u64::from(stopped);
        tables.transit.told(lane, told);
    }
    tables.climb(lane, ring.buffer().capacity());
    pushed
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
    /// Counter to be asked for behind the record it is about.
    question: Option<(SlotRef, u64)>,
}

impl Outgoing<'_> {
    /// Writes the next item into its place. False when there is none, or not enough room for it.
    #[inline]
    fn write(&mut self, place: &mut ToEvent) -> bool {
        let written = match self.question.take() {
            Some((at, counter)) => {
                *place = ToEvent::Commit { at, counter };
                true
            }
            None => self.write_record(place),
        };
        self.room -= usize::from(written);
        written
    }

    /// The next change that has something to tell.
    #[inline]
    fn write_record(&mut self, place: &mut ToEvent) -> bool {
        let tables = &mut *self.tables;
        while self.budget > 0
            && let Some(changed) = tables.first_changed(self.lane)
        {
            let waits = tables.waits(changed);
            // Whatever it becomes is at most one record, and a question behind it when a packet waits for it; room is
            // checked first because encoding takes a version.
            if self.room < 1 + usize::from(waits) {
                return false;
            }
            self.budget -= 1;
            tables.slots.expect(tables.journal.expect());
            tables.unlist(self.lane);
            let at = tables.slot_of(changed);
            let told = encode(tables, at, changed, self.now, place);
            let streamed = tables.slots.get(at).is_some_and(|slot| !slot.streams.is_empty());
            if told && streamed {
                tables.counters.deltas_emitted += 1;
                if waits {
                    let counter = tables.ask_commit(at, changed.id);
                    self.question = counter.map(|counter| (at, counter));
                }
                return true;
            }
            tables.counters.deltas_unsent += u64::from(told);
            if waits {
                tables.uncommitted(changed.id);
            }
        }
        false
    }
}

/// Writes the record of a change into its place, with the entry's new version. False when there is nothing to tell.
#[inline]
fn encode(tables: &mut Tables, at: SlotRef, changed: Changed, now: Instant, place: &mut ToEvent) -> bool {
    match changed.kind {
        Kind::Block => encode_block(tables, at, changed.id, place),
        Kind::Conntrack => encode_conntrack(tables, at, changed.id, now, place),
    }
}

/// A live record, which goes to all streams of its slot.
#[inline]
const fn live(at: SlotRef, delta: Delta) -> ToEvent {
    let only = None;
    ToEvent::Record { at, only, delta }
}

#[inline]
fn encode_conntrack(tables: &mut Tables, at: SlotRef, id: u32, now: Instant, place: &mut ToEvent) -> bool {
    let role = &tables.roles[at.vrf.index()];
    let (has_word, term) = (role.has_word(), role.term);
    let sync = &tables.conntracks[id].sync;
    let (dead, known, kept) = (sync.dead, sync.emitted(), sync.kept != Kept::No);
    let refresh = sync.refresh_only && known;
    tables.dead -= usize::from(dead);
    if !has_word || (dead && !known) {
        untold(tables, at, id);
        return false;
    }
    if dead {
        return removed(tables, at, id, term, place);
    }
    if kept {
        if known {
            return withdrawn(tables, at, id, term, place);
        }
        tables.counters.deltas_suppressed += 1;
        return false;
    }
    if refresh && tables.overload(tables.lane_of(at.slot)) >= Step::Stretch {
        tables.counters.deltas_suppressed += 1;
        tables.counters.refreshes_stretched += 1;
        return false;
    }
    if !refresh {
        tables.forget_oldest();
    }
    let Some(slot) = tables.slots.get_mut(at) else {
        return false;
    };
    let conntrack = &mut tables.conntracks[id];
    if !refresh {
        let version = slot.next_version(term);
        let digest = conntrack.digest(version);
        slot.account(&mut conntrack.sync, version, digest);
        let kind = Kind::Conntrack;
        tables
            .journal
            .push(&mut slot.history, at, Change::Written { kind, id, version });
    } else if mutant::on(Mutant::RefreshBumpsVersion) {
        slot.next_version(term);
    }
    news(slot, conntrack, at, Handle::of(id), refresh, now, place);
    true
}

/// The record of a conntrack that is here. It is sent whole, also when only its lifetime has to be told, unless every
/// stream knows its handle.
#[inline]
fn news(
    slot: &Slot,
    conntrack: &mut Conntrack,
    at: SlotRef,
    handle: Handle,
    refresh: bool,
    now: Instant,
    place: &mut ToEvent,
) {
    if !slot.is_named(&conntrack.sync) {
        let mut put = conntrack.to_put(now);
        name(slot, &mut conntrack.sync, &mut put, handle);
        *place = live(at, Delta::Put(put));
        return;
    }
    let lifetime_s = conntrack.lifetime_s(now);
    if refresh {
        *place = live(at, Delta::Refresh(RefreshRecord { handle, lifetime_s }));
        return;
    }
    let state = StateRecord {
        handle,
        class: conntrack.class,
        scales: conntrack.scales,
        lifetime_s,
        version: conntrack.sync.version,
    };
    *place = live(at, Delta::State(state));
}

/// A change that is not told: of an entry made and ended since the last turn, or a demoted node's unsent tail. There
/// the new active decides; nothing here may look like its word.
#[inline(never)]
fn untold(tables: &mut Tables, at: SlotRef, id: u32) {
    let sync = &tables.conntracks[id].sync;
    let (dead, known) = (sync.dead, sync.emitted());
    let refresh = sync.refresh_only && known;
    if !refresh && (known || !dead) {
        tables.mute(at);
    }
    if dead {
        tables.forget(at, id);
        tables.counters.deltas_cancelled += 1;
        return;
    }
    if !refresh && let Some(slot) = tables.slots.get_mut(at) {
        slot.unaccount(&mut tables.conntracks[id].sync);
    }
    tables.counters.deltas_unsent += 1;
}

/// The removal of an entry that peers know; its place is freed.
#[inline(never)]
fn removed(tables: &mut Tables, at: SlotRef, id: u32, term: Term, place: &mut ToEvent) -> bool {
    tables.forget_oldest();
    let Some(slot) = tables.slots.get_mut(at) else {
        return false;
    };
    if mutant::on(Mutant::RemovalForgotten) && !slot.walks.is_empty() {
        tables.forget(at, id);
        tables.counters.deltas_cancelled += 1;
        return false;
    }
    let conntrack = &mut tables.conntracks[id];
    let lasting = removal(slot, conntrack, at, Handle::of(id), term, place);
    slot.unaccount(&mut conntrack.sync);
    tables
        .journal
        .push(&mut slot.history, at, Change::Removed(lasting));
    tables.conntracks.free(id);
    true
}

/// Policy has changed: the peer forgets an entry, and this node no longer counts on the peer.
#[cold]
fn withdrawn(tables: &mut Tables, at: SlotRef, id: u32, term: Term, place: &mut ToEvent) -> bool {
    tables.forget_oldest();
    let Some(slot) = tables.slots.get_mut(at) else {
        return false;
    };
    let conntrack = &mut tables.conntracks[id];
    let lasting = removal(slot, conntrack, at, Handle::of(id), term, place);
    slot.unaccount(&mut conntrack.sync);
    conntrack.sync.named = 0;
    tables
        .journal
        .push(&mut slot.history, at, Change::Removed(lasting));
    tables.counters.conntracks_withdrawn += 1;
    true
}

/// Writes the record that tells the present streams of a removal, and gives the one for streams of later, which understand
/// no name of these.
#[inline]
fn removal(
    slot: &mut Slot,
    conntrack: &Conntrack,
    at: SlotRef,
    handle: Handle,
    term: Term,
    place: &mut ToEvent,
) -> DelRecord {
    let version = slot.next_version(term);
    let lasting = DelRecord {
        name: Name::Key(conntrack.key(Direction::Original)),
        version,
    };
    if slot.is_named(&conntrack.sync) {
        let name = Name::Handle(handle);
        *place = live(at, Delta::Del(DelRecord { name, version }));
    } else {
        *place = live(at, Delta::Del(lasting));
    }
    lasting
}

/// The record, which goes to all streams, tells the entry's handle.
pub(crate) const fn name(slot: &Slot, sync: &mut SyncState, put: &mut PutRecord, handle: Handle) {
    put.handle = handle;
    if !handle.is_none() && !slot.streams.is_empty() {
        sync.named = slot.naming;
    }
}

/// Blocks change a hundred times less often than conntracks.
#[cold]
fn encode_block(tables: &mut Tables, at: SlotRef, id: u32, place: &mut ToEvent) -> bool {
    let role = &tables.roles[at.vrf.index()];
    let (has_word, term) = (role.has_word(), role.term);
    let (dead, known) = {
        let sync = &tables.nat.block(id).sync;
        (sync.dead, sync.emitted())
    };
    if !has_word || (dead && !known) {
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
        return false;
    }
    let Some(slot) = tables.slots.get_mut(at) else {
        return false;
    };
    let mut record = block_record(tables.nat.block(id));
    record.version = slot.next_version(term);
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
    *place = live(at, Delta::Block(record));
    true
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
