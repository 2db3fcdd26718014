//! Audit: running digests prove the stream, not the table. What is stored is compared with them in the background, a few
//! entries at a time, on both nodes.
//!
//! An entry's digest must be the one that it was accounted with, unless a change of it is listed; lookup must find both
//! of its tuples; and a slot's entries must add up to what the slot says. Whatever isn't so is counted, the running
//! digest is set to what is stored, and the slot is sent again: by the node whose word counts, which may stand by already,
//! or at the request of the other one. A slot that changes while it is added up is begun anew, so that load raises no alarm.

use crate::delta::{SlotRef, Term, Version};
use crate::resync::Sum;
use crate::role::Role;
use crate::slot::{Kind, NIL, Slot};
use crate::stage::absorb::again;
use crate::stage::digest::Place;
use crate::stage::slots::{first, listed, set_digest, stored_digest, sync_of};
use crate::tables::{Changed, Tables, VrfRole};
use crate::time::Instant;

/// Time between two slices.
const PACE_NS: u64 = 1_000_000;

/// Entries, and slots without any, looked at in one slice: a million entries are through in a minute.
const SLICE: usize = 16;

/// Times that a slot is begun anew before it has to wait for the next round.
const RESTARTS_MAX: u8 = 8;

/// Version of an entry that any word about it replaces.
const OLDEST: Version = Version {
    term: Term::NONE,
    counter: 1,
};

/// How far the audit is.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    not_before: Instant,
    place: Place,
    run: Option<Run>,
    restarts: u8,
}

/// The slot that is being added up.
#[derive(Debug, Clone, Copy)]
struct Run {
    at: SlotRef,
    kind: Kind,
    cursor: u32,
    sum: Sum,
    mark: Mark,
}

/// What of a slot changes with every change that a sum depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    said: Sum,
    counter: u64,
    unlinked: u32,
}

/// One slice. Not counted as work: a thread that has nothing else to do may rest.
pub(crate) fn audit(tables: &mut Tables, now: Instant) {
    if now < tables.audit.not_before || tables.faults.no_audit {
        return;
    }
    tables.audit.not_before = Instant::from_ns(now.ns() + PACE_NS);
    for _ in 0..SLICE {
        let run = tables.audit.run.take();
        tables.audit.run = match run {
            Some(run) => step(tables, run, now),
            None => {
                let at = tables.audit.place.next(&tables.slots, tables.roles.len());
                tables.audit.restarts = 0;
                at.and_then(|at| begin(tables, at))
            }
        };
    }
}

fn begin(tables: &Tables, at: SlotRef) -> Option<Run> {
    let mark = mark(tables, at)?;
    Some(Run {
        at,
        kind: Kind::Block,
        cursor: first(tables, at, Kind::Block),
        sum: Sum::default(),
        mark,
    })
}

/// The slot's mark; none while it can't be added up. A generation that is open changes it all the time; the entries of a node
/// whose word no longer counts are corrected when its slots are asked for.
fn mark(tables: &Tables, at: SlotRef) -> Option<Mark> {
    let slot = tables.slots.get(at).filter(|_| !tables.transit.is_frozen(at))?;
    let still = match tables.roles[at.vrf.index()] {
        VrfRole {
            role: Role::Alone, ..
        } => false,
        role if role.has_word() => true,
        _ => !slot.own_hand && slot.source.as_ref().is_none_or(|s| !s.open),
    };
    still.then(|| Mark {
        said: listed(tables, at),
        counter: slot.version.counter,
        unlinked: slot.unlinked,
    })
}

/// One entry, or the end of a list. Gives the run as it goes on, if it does.
fn step(tables: &mut Tables, run: Run, now: Instant) -> Option<Run> {
    if mark(tables, run.at) != Some(run.mark) {
        tables.audit.restarts += 1;
        tables.counters.audit_restarts += 1;
        return (tables.audit.restarts <= RESTARTS_MAX)
            .then(|| begin(tables, run.at))
            .flatten();
    }
    let (kind, id) = (run.kind, run.cursor);
    if id == NIL {
        return match kind {
            Kind::Block => Some(Run {
                kind: Kind::Conntrack,
                cursor: first(tables, run.at, Kind::Conntrack),
                ..run
            }),
            Kind::Conntrack => {
                conclude(tables, &run);
                None
            }
        };
    }
    let sync = *sync_of(tables, kind, id);
    let mut next = Run {
        cursor: sync.next,
        ..run
    };
    if sync.emitted() {
        next.sum.add(sync.digest);
    }
    tables.counters.audit_entries += 1;
    examine(tables, run.at, kind, id, now);
    Some(next)
}

/// Compares an entry with the digest it was accounted with, and with what lookup finds.
fn examine(tables: &mut Tables, at: SlotRef, kind: Kind, id: u32, now: Instant) {
    let sync = sync_of(tables, kind, id);
    let settled = sync.emitted() && (!sync.dirty || sync.refresh_only);
    let damaged = settled && stored_digest(tables, kind, id) != sync.digest;
    let found = kind == Kind::Block || tables.conntracks.finds(id);
    if damaged {
        tables.counters.audit_entries_wrong += 1;
        give_way(tables, at, kind, id);
        if !found {
            // Its tuples are not those it was made with: nobody's packets meet it any more.
            end(tables, at, id, now);
        }
        repair(tables, at);
    } else if !found {
        tables.counters.audit_index_lost += 1;
        if !tables.conntracks.reindex(id) {
            end(tables, at, id, now);
            repair(tables, at);
        }
    }
}

/// Its version may be what is damaged, and newer than all its owner will ever say: it gets the oldest one there is, so that
/// a receiver takes what it is sent, and at the sender a new one.
fn give_way(tables: &mut Tables, at: SlotRef, kind: Kind, id: u32) {
    tables.sync_mut(Changed { kind, id }).version = OLDEST;
    let digest = stored_digest(tables, kind, id);
    set_digest(tables, at, kind, id, digest);
    if has_word(tables, at) {
        tables.changed(Changed { kind, id }, false);
    }
}

fn end(tables: &mut Tables, at: SlotRef, id: u32, now: Instant) {
    if has_word(tables, at) {
        tables.remove(now, id);
    } else {
        tables.discard(now, id);
    }
}

/// The slot was gone through without a change.
fn conclude(tables: &mut Tables, run: &Run) {
    if run.sum == run.mark.said {
        tables.counters.audit_slots += 1;
        return;
    }
    tables.counters.audit_slots_wrong += 1;
    if let Some(slot) = tables.slots.get_mut(run.at) {
        correct(slot, run.sum);
    }
    repair(tables, run.at);
}

/// Makes the running count and digest those of the entries that were found.
const fn correct(slot: &mut Slot, listed: Sum) {
    slot.count = listed.count + slot.loose.count;
    slot.digest = listed.digest.wrapping_add(slot.loose.digest);
}

/// Whether this node sends the slot: as long as nobody has taken over, a node that was told to stand by does.
fn has_word(tables: &Tables, at: SlotRef) -> bool {
    tables.roles[at.vrf.index()].has_word()
}

/// The slot is sent again, or asked for.
fn repair(tables: &mut Tables, at: SlotRef) {
    if has_word(tables, at) {
        tables.lose(at);
        return;
    }
    // Without a sender, or with an answer too many, the next digest finds the difference that is visible now.
    let source = tables.slots.get(at).and_then(|s| s.source.as_ref());
    let event = source.map_or(usize::MAX, |s| s.event);
    if tables
        .answers
        .get(event)
        .is_some_and(|a| a.len() < tables.answers_max)
        && let Some(answer) = again(tables, at)
    {
        tables.answers[event].push_back(answer);
    }
}
