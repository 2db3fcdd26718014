//! What a record of the peer does to the worker's tables: to a conntrack, to its name, to a port block.
//!
//! Called by `absorb`, which knows that the record comes from the slot's present source and has asked for its memory.

use crate::config::Timeouts;
use crate::conntrack::{Conntrack, NatBinding, State, Tuples};
use crate::delta::{
    BlockRecord, Class, DelRecord, Delta, Handle, Name, PutRecord, RefreshRecord, Scales, SlotRef,
    StateRecord, Version,
};
use crate::flow::{Direction, FlowKey};
use crate::mutant::{self, Mutant};
use crate::nat::LearnError;
use crate::protection::Kept;
use crate::resync::{Incoming, Missing};
use crate::slot::{Kind, block_digest, block_key_digest, conntrack_digest, key_digest};
use crate::stage::evict::{evict, evicting, insert_evicting, refusal};
use crate::stage::slots::stored_digest;
use crate::stage::tail::note_collision;
use crate::tables::Tables;
use crate::time::Instant;

/// Why a record changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
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

/// What a record did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// What it says holds now.
    Changed,
    /// What it says held already.
    Confirmed,
}

/// The slot that a record is of, as its present source has opened it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) at: SlotRef,
    /// What the entries that are named now are stamped with.
    pub(crate) generation: u32,
    /// The slot is being sent by the holder of a higher term, whose word counts over what looks newer here.
    pub(crate) authoritative: bool,
}

impl Target {
    pub(crate) const fn of(at: SlotRef, source: &Incoming) -> Self {
        Self {
            at,
            generation: source.generation,
            authoritative: source.authoritative,
        }
    }

    /// Whether a record of `theirs` may replace what is held at `ours`.
    fn newer(&self, ours: Version, theirs: Version) -> bool {
        theirs > ours || self.authoritative
    }
}

/// Applies one record; `hashes` are those of the tuples that it tells.
pub(crate) fn apply(
    tables: &mut Tables,
    target: Target,
    delta: &Delta,
    hashes: [u64; 2],
    now: Instant,
) -> Result<Applied, Refused> {
    match delta {
        Delta::Put(put) => apply_put(tables, target, put, hashes, now),
        Delta::State(state) => apply_state(tables, target, state, now),
        Delta::Refresh(refresh) => apply_refresh(tables, target.at, refresh, now),
        Delta::Del(del) => apply_del(tables, target, del, hashes[0], now),
        Delta::Block(block) => apply_block(tables, target, block, now),
    }
}

fn apply_put(
    tables: &mut Tables,
    target: Target,
    put: &PutRecord,
    hashes: [u64; 2],
    now: Instant,
) -> Result<Applied, Refused> {
    let digest = conntrack_digest(put);
    let outcome = put_conntrack(tables, target, put, (hashes, digest), now);
    let missing = matches!(
        outcome,
        Err(Refused::Full | Refused::Conflict | Refused::NoPool | Refused::Elsewhere | Refused::Outgranted)
    );
    let Some(slot) = tables.slots.get_mut(target.at) else {
        return outcome;
    };
    if missing {
        let missing = Missing {
            key: key_digest(&put.original),
            handle: put.handle,
            digest,
            version: put.version,
            for_room: outcome == Err(Refused::Full),
            outdated: false,
        };
        slot.absent.insert(missing, now.secs());
    } else if outcome.is_ok() && slot.absent.sum.count > 0 {
        let came = slot.absent.take(key_digest(&put.original));
        tables.counters.absent_mended += u64::from(came);
    }
    outcome
}

fn put_conntrack(
    tables: &mut Tables,
    target: Target,
    put: &PutRecord,
    (hashes, digest): ([u64; 2], u64),
    now: Instant,
) -> Result<Applied, Refused> {
    let at = target.at;
    if let Some((id, direction)) = tables.conntracks.find(hashes[0], &put.original) {
        let held = &tables.conntracks[id];
        let ours = held.sync.version;
        // What is stored counts, not what was accounted: an entry damaged since is written anew.
        let stored = stored_digest(tables, Kind::Conntrack, id) == digest;
        let accounted = held.sync.digest == digest && ours == put.version;
        if direction == Direction::Original && accounted && stored {
            confirm(tables, target, id, put, now);
            tables.bind(at, put.handle, id);
            return Ok(Applied::Confirmed);
        }
        if ours == put.version || target.newer(ours, put.version) {
            if direction == Direction::Original
                && held.key(Direction::Reply) == put.reply
                && same_nat(held, put)
            {
                update(tables, target, id, put, digest, now);
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
    let id = create(tables, target, put, hashes, now)?;
    account(tables, target, id, put.version, digest);
    tables.bind(at, put.handle, id);
    Ok(Applied::Changed)
}

fn same_nat(held: &Conntrack, put: &PutRecord) -> bool {
    held.nat().map(|n| n.part) == put.nat
}

fn confirm(tables: &mut Tables, target: Target, id: u32, put: &PutRecord, now: Instant) {
    let conntrack = &mut tables.conntracks[id];
    if !mutant::on(Mutant::EqualUnconfirmed) {
        conntrack.sync.stamp = target.generation;
    }
    conntrack.expires_s = now.secs() + put.lifetime_s;
}

fn update(tables: &mut Tables, target: Target, id: u32, put: &PutRecord, digest: u64, now: Instant) {
    let conntrack = &mut tables.conntracks[id];
    inherit(conntrack, put.class, put.scales);
    conntrack.expires_s = now.secs() + put.lifetime_s;
    account(tables, target, id, put.version, digest);
}

fn account(tables: &mut Tables, target: Target, id: u32, version: Version, digest: u64) {
    // Whatever this node once kept back, another one is telling it now.
    tables.set_kept(id, Kept::No);
    let sync = &mut tables.conntracks[id].sync;
    sync.stamp = target.generation;
    if let Some(slot) = tables.slots.get_mut(target.at) {
        slot.account(sync, version, digest);
    }
}

/// Makes the conntrack with everything it stands on: subscriber, block, mapping, port.
fn create(
    tables: &mut Tables,
    target: Target,
    put: &PutRecord,
    hashes: [u64; 2],
    now: Instant,
) -> Result<u32, Refused> {
    let at = target.at;
    // What no node of this version makes is refused like a translation that this one has no pool for.
    let mut conntrack = inherited(put, at.slot, now).ok_or(Refused::NoPool)?;
    let learned = match put.nat {
        None => None,
        Some(part) => {
            let learned = evicting(tables, now, |nat| nat.learn(now, put, at.slot))?;
            if let Some(slot) = tables.slots.get_mut(at) {
                slot.link(Kind::Block, &mut tables.nat, learned.block);
            }
            conntrack.tuples.bind(NatBinding {
                part,
                mapping: learned.mapping,
                rule: 0,
            });
            Some(learned)
        }
    };
    let inserted = insert_evicting(tables, conntrack, put.version, hashes, now);
    if inserted.is_err()
        && let Some(learned) = learned
        && !mutant::on(Mutant::PartialRefusal)
    {
        tables.unlearn(now, at, learned);
    }
    inserted
}

/// A conntrack as its record tells it, but for its NAT binding: TCP tracking starts lenient. None when its tuples make no
/// sense here.
pub(crate) fn inherited(put: &PutRecord, slot: u16, now: Instant) -> Option<Conntrack> {
    let tuples = Tuples::new(&[put.original, put.reply])?;
    let state = State::inherited(put.original.proto, put.class, put.scales);
    let mut conntrack = Conntrack::new(tuples, slot, state, &Timeouts::default(), now);
    conntrack.class = put.class;
    conntrack.scales = put.scales;
    conntrack.expires_s = now.secs().saturating_add(put.lifetime_s);
    Some(conntrack)
}

fn inherit(conntrack: &mut Conntrack, class: Class, scales: Scales) {
    if (conntrack.class, conntrack.scales) != (class, scales) {
        conntrack.inherit(class, scales);
    }
}

fn apply_state(
    tables: &mut Tables,
    target: Target,
    state: &StateRecord,
    now: Instant,
) -> Result<Applied, Refused> {
    let Some(id) = tables.find_named(target.at, state.handle) else {
        let slot = tables.slots.get_mut(target.at).ok_or(Refused::Unknown)?;
        let absent = slot.absent.change(state.handle, state.version);
        return Err(if absent {
            Refused::Unknown
        } else {
            Refused::Nameless
        });
    };
    let ours = tables.conntracks[id].sync.version;
    if !target.newer(ours, state.version) {
        return Err(Refused::Stale);
    }
    let conntrack = &mut tables.conntracks[id];
    inherit(conntrack, state.class, state.scales);
    conntrack.expires_s = now.secs() + state.lifetime_s;
    let mut put = conntrack.to_put(now);
    put.version = state.version;
    account(tables, target, id, state.version, conntrack_digest(&put));
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

fn apply_del(
    tables: &mut Tables,
    target: Target,
    del: &DelRecord,
    hash: u64,
    now: Instant,
) -> Result<Applied, Refused> {
    let at = target.at;
    let found = match &del.name {
        Name::Handle(handle) => tables.find_named(at, *handle),
        Name::Key(original) => find_original(tables, hash, original),
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
    if !target.newer(ours, del.version) {
        return Err(Refused::Stale);
    }
    tables.discard(now, id);
    Ok(Applied::Changed)
}

fn apply_block(
    tables: &mut Tables,
    target: Target,
    record: &BlockRecord,
    now: Instant,
) -> Result<Applied, Refused> {
    let at = target.at;
    if !record.held {
        return release_block(tables, at, record);
    }
    let digest = block_digest(record);
    let id = match evicting(tables, now, |nat| nat.learn_block(now, record, at.vrf, at.slot)) {
        Ok(id) => id,
        Err(refused) => {
            if refused == Refused::NoPool {
                tables.no_pool = Some((at.vrf, record.address));
            }
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
    let Some(slot) = tables.slots.get_mut(at) else {
        return Err(Refused::Unknown);
    };
    slot.absent.take(block_key_digest(record.grant));
    slot.link(Kind::Block, &mut tables.nat, id);
    let sync = &mut tables.nat.block_mut(id).sync;
    sync.stamp = target.generation;
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
            // It may have been known by its flows alone, its own record refused.
            if let Some(slot) = tables.slots.get_mut(at) {
                slot.absent.take(block_key_digest(record.grant));
            }
            Ok(Applied::Changed)
        }
        Err(error) => {
            if let LearnError::InUse { block } = error {
                disown(tables, at, block);
            }
            if let Some(slot) = tables.slots.get_mut(at) {
                slot.absent.remove(block_key_digest(record.grant), record.version);
            }
            Err(refusal(error))
        }
    }
}

/// Conntracks that the sender has ended without a word, for which the slot is being sent whole, still stand on a block
/// that it has released. They are swept at the generation's end, and the block with them.
fn disown(tables: &mut Tables, at: SlotRef, block: u32) {
    let slot = tables.slots.get(at);
    let whole = |source: &Incoming| source.open && source.since.is_none();
    if slot.and_then(|s| s.source.as_ref()).is_some_and(whole) {
        tables.nat.block_mut(block).sync.stamp = 0;
    }
}

fn find_original(tables: &Tables, hash: u64, original: &FlowKey) -> Option<u32> {
    match tables.conntracks.find(hash, original) {
        Some((id, Direction::Original)) => Some(id),
        _ => None,
    }
}
