//! The peer's records, applied by the worker that owns their slot. A refusal changes nothing and is counted with
//! its cause; whatever came of it, the record counts as processed, and only then is it acknowledged.

use rtrb::Consumer;

use crate::config::Timeouts;
use crate::conntrack::{Conntrack, InsertError, NatBinding, State};
use crate::delta::{
    BlockRecord, Class, DelRecord, Delta, Handle, LaneTag, Name, PutRecord, RefreshRecord, Scales, SlotRef,
    StateRecord, ToEvent, ToWorker, Version,
};
use crate::flow::Direction;
use crate::mutant::{self, Mutant};
use crate::nat::{LearnError, Nat};
use crate::protection::Kept;
use crate::resync::Missing;
use crate::slot::{Kind, NIL, Slot, block_digest, block_key_digest, conntrack_digest, key_digest};
use crate::stage::compare::marked;
use crate::stage::missing::give;
use crate::stage::slots::{begin, compare, finish, first, lacks, query, send_slot, stop_slot, stored_digest};
use crate::stage::tail::{adopt, note_collision};
use crate::tables::Tables;
use crate::time::Instant;

/// Items whose memory is asked for before they are applied: as many lines as a core can wait for at once.
const LOOK_AHEAD: usize = 16;

/// Why a record changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Stale,
    /// Of a grant that a newer one has replaced here: its end is on its way in a slower lane, and until then the sender
    /// of its slot counts it.
    Outgranted,
    Fenced,
    Full,
    Conflict,
    NoPool,
    Unknown,
    /// The sender has changed an entry under a handle that means nothing here, and none is known to be absent.
    Nameless,
    /// A grant of the same ports that another worker of this node holds: gone as soon as that worker has heard of its
    /// release, or has swept it.
    Elsewhere,
}

/// Applies up to `budget` items of event thread `event`; returns how many were processed. Answers wait in the tables
/// until that thread's ring has room, so that two nodes with full rings never wait for one another.
pub(crate) fn absorb(
    tables: &mut Tables,
    inbox: &mut Consumer<ToWorker>,
    event: usize,
    budget: usize,
    now: Instant,
) -> usize {
    let mut processed = 0;
    let mut ahead = 0;
    // Answers that found no room hold further questions back: a peer can't make this list grow.
    while processed < budget && tables.answers[event].len() < tables.answers_max {
        if ahead == 0 {
            ahead = look_ahead(tables, inbox, budget - processed);
        }
        // What the event thread adds after that look is for the next turn: counted down from 0, it would never end.
        if ahead == 0 {
            break;
        }
        let Ok(item) = inbox.pop() else { break };
        ahead -= 1;
        processed += 1;
        if let Some(answer) = process(tables, item, event, now) {
            tables.answers[event].push_back(answer);
        }
    }
    processed
}

/// Asks for the memory of the next items: a record finds its lines in random order, and their waits overlap. Gives the
/// number of items, which is 0 only when none waits or none may be applied.
fn look_ahead(tables: &Tables, inbox: &mut Consumer<ToWorker>, most: usize) -> usize {
    let count = inbox.slots().min(most).min(LOOK_AHEAD);
    let Ok(chunk) = inbox.read_chunk(count) else {
        return 0;
    };
    let (first, second) = chunk.as_slices();
    let deltas = || {
        first.iter().chain(second).filter_map(|item| match item {
            ToWorker::Record { at, delta, .. } => Some((*at, delta)),
            _ => None,
        })
    };
    for (at, delta) in deltas() {
        match delta {
            Delta::Put(put) => {
                tables.conntracks.expect(&put.original);
                tables.conntracks.expect(&put.reply);
                tables.nat.expect(put);
                tables.names.expect(at, put.handle);
            }
            Delta::State(StateRecord { handle, .. })
            | Delta::Refresh(RefreshRecord { handle, .. })
            | Delta::Del(DelRecord {
                name: Name::Handle(handle),
                ..
            }) => tables.names.expect(at, *handle),
            Delta::Del(DelRecord {
                name: Name::Key(original),
                ..
            }) => tables.conntracks.expect(original),
            Delta::Block(_) => {}
        }
    }
    count
}

fn process(tables: &mut Tables, item: ToWorker, event: usize, now: Instant) -> Option<ToEvent> {
    match item {
        ToWorker::SendSlot {
            at,
            lane,
            generation,
            offer,
        } => send_slot(tables, at, lane, generation, offer),
        ToWorker::StopSlot { at, lane } => stop_slot(tables, at, lane),
        ToWorker::MarkSlot { at, lane, round } => tables.comparing.ask_mark(at, lane, round),
        ToWorker::DigestSlot { at } => tables.ask_digest(at),
        ToWorker::SlotTail { at, put } => adopt(tables, at, &put, now),
        ToWorker::Committed {
            at,
            lane,
            counter,
            applied,
        } => tables.committed(at, lane.peer, counter, applied),
        ToWorker::Commit { at, lane, counter } => return Some(commit(tables, at, lane, counter)),
        ToWorker::GiveEntry { at, lane, wanted } => return give(tables, at, lane, wanted, now),
        ToWorker::SlotBegin {
            at,
            lane,
            generation,
            version,
            since,
        } => begin(tables, at, (lane, event, generation), version, since),
        ToWorker::Record { at, lane, delta } => return record(tables, at, lane, &delta, now),
        ToWorker::SlotQuery { at, lane, generation } => return query(tables, at, lane, generation),
        ToWorker::SlotDigest { at, lane, end } => return compare(tables, at, lane, &end, now),
        ToWorker::SlotMark { at, lane, mark } => return marked(tables, at, lane, &mark),
        ToWorker::ListSlot {
            at,
            lane,
            round,
            entries,
        } => tables.comparing.ask_list(at, lane, round, entries, event),
        ToWorker::SlotEnd { at, lane, end } => return finish(tables, at, lane, &end, now),
    }
    None
}

fn record(tables: &mut Tables, at: SlotRef, lane: LaneTag, delta: &Delta, now: Instant) -> Option<ToEvent> {
    tables.counters.absorb_received += 1;
    let current = tables
        .slots
        .get(at)
        .and_then(|s| s.source.as_ref())
        .is_some_and(|s| s.lane == lane || mutant::on(Mutant::OldIncarnation));
    // A node that has taken over since the record was sent must not let the old active write its table.
    let outcome = if !current || tables.is_active(at.vrf) {
        Err(Refused::Fenced)
    } else {
        match delta {
            Delta::Put(put) => apply_put(tables, at, put, now),
            Delta::State(state) => apply_state(tables, at, state, now),
            Delta::Refresh(refresh) => apply_refresh(tables, at, refresh, now),
            Delta::Del(del) => apply_del(tables, at, del, now),
            Delta::Block(block) => apply_block(tables, at, block, now),
        }
    };
    if current {
        advance(tables, at, delta);
        refused(tables, at, delta, outcome);
    }
    count(tables, outcome);
    if outcome == Err(Refused::Nameless) {
        again(tables, at)
    } else {
        None
    }
}

/// What has become of the record in front of the question (sync/PROTOCOL.md R-42).
fn commit(tables: &Tables, at: SlotRef, lane: LaneTag, counter: u64) -> ToEvent {
    let here = |slot: &&Slot| {
        let current = slot.source.as_ref().is_some_and(|s| s.lane == lane);
        current && slot.version.counter >= counter && slot.refused != counter
    };
    let applied = !tables.is_active(at.vrf) && tables.slots.get(at).filter(here).is_some();
    ToEvent::Committed {
        at,
        lane,
        counter,
        applied,
    }
}

/// Remembers what was refused last, for whoever asks about it next.
fn refused(tables: &mut Tables, at: SlotRef, delta: &Delta, outcome: Result<Applied, Refused>) {
    if outcome.is_err()
        && let Some(version) = delta.version()
        && let Some(slot) = tables.slots.get_mut(at)
    {
        slot.refused = version.counter;
    }
}

/// The slot has to come again: at the end of the generation that is open, or as soon as the sender hears of it.
pub(crate) fn again(tables: &mut Tables, at: SlotRef) -> Option<ToEvent> {
    let slot = tables.slots.get_mut(at)?;
    let asked = core::mem::replace(&mut slot.absent.unsure, true);
    let source = slot.source.as_ref()?;
    if source.open || asked {
        return None;
    }
    let (lane, generation) = (source.lane, source.generation);
    Some(ToEvent::SlotFailed { at, lane, generation })
}

/// The slot's version follows what the sender has emitted, applied or refused.
fn advance(tables: &mut Tables, at: SlotRef, delta: &Delta) {
    let Some(version) = delta.version() else { return };
    if let Some(slot) = tables.slots.get_mut(at) {
        slot.version = slot.version.max(version);
    }
}

fn count(tables: &mut Tables, outcome: Result<Applied, Refused>) {
    let c = &mut tables.counters;
    *match outcome {
        Ok(Applied::Changed) => &mut c.absorb_applied,
        Ok(Applied::Confirmed) => &mut c.absorb_confirmed,
        Err(Refused::Stale | Refused::Outgranted) => &mut c.absorb_stale,
        Err(Refused::Fenced) => &mut c.absorb_fenced,
        Err(Refused::Full) => &mut c.absorb_full,
        Err(Refused::Conflict | Refused::Elsewhere) => &mut c.absorb_conflict,
        Err(Refused::NoPool) => &mut c.absorb_no_pool,
        Err(Refused::Unknown | Refused::Nameless) => &mut c.absorb_unknown,
    } += 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Changed,
    Confirmed,
}

/// Whether a record of `theirs` may replace what is held at `ours`.
fn newer(tables: &Tables, at: SlotRef, ours: Version, theirs: Version) -> bool {
    theirs > ours || overrules(tables, at)
}

/// Whether the slot is being sent by the holder of a higher term, whose word counts over what looks newer here.
fn overrules(tables: &Tables, at: SlotRef) -> bool {
    tables
        .slots
        .get(at)
        .and_then(|s| s.source.as_ref())
        .is_some_and(|s| s.authoritative)
}

fn generation(tables: &Tables, at: SlotRef) -> u32 {
    tables
        .slots
        .get(at)
        .and_then(|s| s.source.as_ref())
        .map_or(0, |s| s.generation)
}

fn apply_put(tables: &mut Tables, at: SlotRef, put: &PutRecord, now: Instant) -> Result<Applied, Refused> {
    let digest = conntrack_digest(put);
    let outcome = put_conntrack(tables, at, put, digest, now);
    let Some(slot) = tables.slots.get_mut(at) else {
        return outcome;
    };
    match outcome {
        Err(
            Refused::Full | Refused::Conflict | Refused::NoPool | Refused::Elsewhere | Refused::Outgranted,
        ) => {
            let missing = Missing {
                key: key_digest(&put.original),
                handle: put.handle,
                digest,
                version: put.version,
                for_room: outcome == Err(Refused::Full),
                outdated: false,
            };
            slot.absent.insert(missing, now.secs());
        }
        Ok(_) if slot.absent.sum.count > 0 => {
            let came = slot.absent.take(key_digest(&put.original));
            tables.counters.absent_mended += u64::from(came);
        }
        _ => {}
    }
    outcome
}

fn put_conntrack(
    tables: &mut Tables,
    at: SlotRef,
    put: &PutRecord,
    digest: u64,
    now: Instant,
) -> Result<Applied, Refused> {
    let hash = tables.conntracks.hash(&put.original);
    if let Some((id, direction)) = tables.conntracks.find(hash, &put.original) {
        let held = &tables.conntracks[id];
        let ours = held.sync.version;
        // What is stored counts, not what was accounted: an entry damaged since is written anew.
        let stored = stored_digest(tables, Kind::Conntrack, id) == digest;
        let accounted = held.sync.digest == digest && ours == put.version;
        if direction == Direction::Original && accounted && stored {
            confirm(tables, at, id, put, now);
            tables.bind(at, put.handle, id);
            return Ok(Applied::Confirmed);
        }
        if ours == put.version || newer(tables, at, ours, put.version) {
            if direction == Direction::Original && held.keys[1] == put.reply && same_nat(held, put) {
                update(tables, at, id, put, digest, now);
                tables.bind(at, put.handle, id);
                return Ok(Applied::Changed);
            }
            if direction != Direction::Original || held.slot != at.slot {
                evict(tables, id, now);
            } else {
                note_collision(tables, at, id);
                tables.discard(now, id);
            }
        } else if direction == Direction::Original {
            return Err(Refused::Stale);
        } else {
            // Another flow's answers have this tuple: the sender counts an entry that can't be here.
            return Err(Refused::Conflict);
        }
    }
    let id = create(tables, at, put, now)?;
    account(tables, at, id, put.version, digest);
    tables.bind(at, put.handle, id);
    Ok(Applied::Changed)
}

fn same_nat(held: &Conntrack, put: &PutRecord) -> bool {
    held.nat.map(|n| n.part) == put.nat
}

fn confirm(tables: &mut Tables, at: SlotRef, id: u32, put: &PutRecord, now: Instant) {
    let stamp = generation(tables, at);
    let conntrack = &mut tables.conntracks[id];
    if !mutant::on(Mutant::EqualUnconfirmed) {
        conntrack.sync.stamp = stamp;
    }
    conntrack.expires_s = now.secs() + put.lifetime_s;
}

fn update(tables: &mut Tables, at: SlotRef, id: u32, put: &PutRecord, digest: u64, now: Instant) {
    let conntrack = &mut tables.conntracks[id];
    inherit(conntrack, put.class, put.scales);
    conntrack.expires_s = now.secs() + put.lifetime_s;
    account(tables, at, id, put.version, digest);
}

fn account(tables: &mut Tables, at: SlotRef, id: u32, version: Version, digest: u64) {
    let stamp = generation(tables, at);
    // Whatever this node once kept back, another one is telling it now.
    tables.set_kept(id, Kept::No);
    let sync = &mut tables.conntracks[id].sync;
    sync.stamp = stamp;
    if let Some(slot) = tables.slots.get_mut(at) {
        slot.account(sync, version, digest);
    }
}

/// Makes the conntrack with everything it stands on: subscriber, block, mapping, port.
fn create(tables: &mut Tables, at: SlotRef, put: &PutRecord, now: Instant) -> Result<u32, Refused> {
    let learned = match put.nat {
        None => None,
        Some(_) => {
            let learned = evicting(tables, now, |nat| nat.learn(now, put, at.slot))?;
            if let Some(slot) = tables.slots.get_mut(at) {
                slot.link(Kind::Block, &mut tables.nat, learned.block);
            }
            Some(learned)
        }
    };
    let nat = put.nat.zip(learned).map(|(part, learned)| NatBinding {
        part,
        mapping: learned.mapping,
    });
    match insert_evicting(tables, inherited(put, at.slot, nat, now), put.version, now) {
        Ok(id) => Ok(id),
        Err(refused) => {
            if let Some(learned) = learned
                && !mutant::on(Mutant::PartialRefusal)
            {
                tables.unlearn(now, at, learned);
            }
            Err(refused)
        }
    }
}

/// Learns from a record; what an older grant or a mapping from the past still holds gives way (I7: on a standby the
/// newest grant wins), and the record is tried again.
fn evicting<T>(
    tables: &mut Tables,
    now: Instant,
    mut learn: impl FnMut(&mut Nat) -> Result<T, LearnError>,
) -> Result<T, Refused> {
    let mut outcome = learn(&mut tables.nat);
    // The inside endpoint and the public one may each be held by another mapping: at most two have to go.
    for _ in 0..2 {
        let gave_way = match outcome {
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
        let stands_on = conntrack.nat.is_some_and(|nat| match mapping {
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
fn evict(tables: &mut Tables, id: u32, now: Instant) {
    tables.counters.absorb_evicted += 1;
    let held = &tables.conntracks[id];
    let (key, sync) = (held.keys[0], held.sync);
    let at = SlotRef {
        vrf: key.vrf,
        slot: held.slot,
    };
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

/// A conntrack as its record tells it: TCP tracking starts lenient.
pub(crate) fn inherited(put: &PutRecord, slot: u16, nat: Option<NatBinding>, now: Instant) -> Conntrack {
    let state = State::inherited(put.original.proto, put.class, put.scales);
    let mut conntrack = Conntrack::new([put.original, put.reply], slot, state, &Timeouts::default(), now);
    conntrack.class = put.class;
    conntrack.scales = put.scales;
    conntrack.nat = nat;
    conntrack.expires_s = now.secs().saturating_add(put.lifetime_s);
    conntrack
}

fn inherit(conntrack: &mut Conntrack, class: Class, scales: Scales) {
    if (conntrack.class, conntrack.scales) != (class, scales) {
        conntrack.state = State::inherited(conntrack.keys[0].proto, class, scales);
        (conntrack.class, conntrack.scales) = (class, scales);
    }
}

/// Inserts; an older holder of one of the tuples gives way (I7: on a standby the newest wins).
fn insert_evicting(
    tables: &mut Tables,
    conntrack: Conntrack,
    version: Version,
    now: Instant,
) -> Result<u32, Refused> {
    let slot = conntrack.slot;
    match tables.insert(conntrack.clone()) {
        Ok(id) => Ok(id),
        Err(InsertError::Full) => Err(Refused::Full),
        Err(InsertError::OriginalTaken(holder) | InsertError::ReplyTaken(holder)) => {
            let held = &tables.conntracks[holder];
            let at = SlotRef {
                vrf: held.keys[0].vrf,
                slot: held.slot,
            };
            // One that the holder of a higher term has not named so far is from a tail nobody was told of.
            let overruled = overrules(tables, at) && held.sync.stamp != generation(tables, at);
            // Versions are unique in a slot: an equal one is this very entry, damaged.
            let damaged = held.slot == slot && held.sync.version == version;
            if held.sync.version >= version && !overruled && !damaged {
                return Err(Refused::Conflict);
            }
            evict(tables, holder, now);
            tables.insert(conntrack).map_err(|e| match e {
                InsertError::Full => Refused::Full,
                _ => Refused::Conflict,
            })
        }
    }
}

const fn refusal(error: LearnError) -> Refused {
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

fn apply_state(
    tables: &mut Tables,
    at: SlotRef,
    state: &StateRecord,
    now: Instant,
) -> Result<Applied, Refused> {
    let Some(id) = tables.find_named(at, state.handle) else {
        let slot = tables.slots.get_mut(at).ok_or(Refused::Unknown)?;
        let absent = slot.absent.change(state.handle, state.version);
        return Err(if absent {
            Refused::Unknown
        } else {
            Refused::Nameless
        });
    };
    let ours = tables.conntracks[id].sync.version;
    if !newer(tables, at, ours, state.version) {
        return Err(Refused::Stale);
    }
    let conntrack = &mut tables.conntracks[id];
    inherit(conntrack, state.class, state.scales);
    conntrack.expires_s = now.secs() + state.lifetime_s;
    let mut put = conntrack.to_put(now);
    put.version = state.version;
    account(tables, at, id, state.version, conntrack_digest(&put));
    Ok(Applied::Changed)
}

fn apply_refresh(
    tables: &mut Tables,
    at: SlotRef,
    refresh: &RefreshRecord,
    now: Instant,
) -> Result<Applied, Refused> {
    let id = tables.find_named(at, refresh.handle).ok_or(Refused::Unknown)?;
    tables.conntracks[id].expires_s = now.secs() + refresh.lifetime_s;
    Ok(Applied::Changed)
}

fn apply_del(tables: &mut Tables, at: SlotRef, del: &DelRecord, now: Instant) -> Result<Applied, Refused> {
    let found = match &del.name {
        Name::Handle(handle) => tables.find_named(at, *handle),
        Name::Key(original) => find_original(tables, original),
    };
    let Some(id) = found else {
        let absent = tables.slots.get_mut(at).map(|slot| &mut slot.absent);
        match (absent, &del.name) {
            (Some(absent), Name::Handle(handle)) => absent.remove_named(*handle),
            (Some(absent), Name::Key(original)) => absent.remove(key_digest(original), del.version),
            (None, _) => {}
        }
        return Err(Refused::Unknown);
    };
    let ours = tables.conntracks[id].sync.version;
    if !newer(tables, at, ours, del.version) {
        return Err(Refused::Stale);
    }
    tables.discard(now, id);
    Ok(Applied::Changed)
}

fn apply_block(
    tables: &mut Tables,
    at: SlotRef,
    record: &BlockRecord,
    now: Instant,
) -> Result<Applied, Refused> {
    if !record.held {
        return release_block(tables, at, record);
    }
    let digest = block_digest(record);
    let id = match evicting(tables, now, |nat| nat.learn_block(now, record, at.vrf, at.slot)) {
        Ok(id) => id,
        Err(refused) => {
            if let Some(slot) = tables.slots.get_mut(at) {
                let missing = Missing {
                    key: block_key_digest(record.grant),
                    handle: Handle::NONE,
                    digest,
                    version: record.version,
                    for_room: refused == Refused::Full,
                    outdated: false,
                };
                slot.absent.insert(missing, now.secs());
            }
            return Err(refused);
        }
    };
    let stamp = generation(tables, at);
    let Some(slot) = tables.slots.get_mut(at) else {
        return Err(Refused::Unknown);
    };
    slot.absent.take(block_key_digest(record.grant));
    slot.link(Kind::Block, &mut tables.nat, id);
    let sync = &mut tables.nat.block_mut(id).sync;
    sync.stamp = stamp;
    if sync.version == record.version && sync.digest == digest {
        return Ok(Applied::Confirmed);
    }
    slot.account(sync, record.version, digest);
    Ok(Applied::Changed)
}

fn release_block(tables: &mut Tables, at: SlotRef, record: &BlockRecord) -> Result<Applied, Refused> {
    match tables.nat.forget_block(record, at.vrf) {
        Ok(id) => {
            tables.drop_block(at, id);
            Ok(Applied::Changed)
        }
        Err(error) => {
            if let Some(slot) = tables.slots.get_mut(at) {
                slot.absent.remove(block_key_digest(record.grant), record.version);
            }
            Err(refusal(error))
        }
    }
}

fn find_original(tables: &Tables, original: &crate::flow::FlowKey) -> Option<u32> {
    let hash = tables.conntracks.hash(original);
    match tables.conntracks.find(hash, original) {
        Some((id, Direction::Original)) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
