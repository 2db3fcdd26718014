//! Entries that a receiver had to refuse, asked for one by one when the cause may be gone.
//!
//! What a slot lacks is remembered with its version and handle (`resync.rs`). A slice of the receiver's turn looks for slots that
//! lack something: what was refused for want of room waits until there is room, everything else for a pause that doubles until
//! something comes, or until other pools are configured. The owner answers with the entry if it is still the one that was
//! refused; what has changed since was sent live, and what has gone was removed live. So a refusal costs one entry, not its slot.

use crate::delta::{LaneTag, SlotRef, ToEvent, Wanted};
use crate::flow::VrfId;
use crate::resync::Missing;
use crate::slot::{Kind, NIL, Slots};
use crate::stage::digest::Place;
use crate::stage::slots::{first, sync_of};
use crate::stage::walk::visit;
use crate::tables::{Changed, Tables};
use crate::time::Instant;

/// Time between two slices.
const PACE_NS: u64 = 1_000_000;

/// Slots looked at in one slice.
const LOOKS: usize = 16;

/// How far the search for slots that lack something is.
#[derive(Debug, Default)]
pub(crate) struct Search {
    not_before: Instant,
    place: Place,
    /// Looks that are left of a round in which nobody is spared by a pause.
    hasty: usize,
}

impl Search {
    /// Why things were refused may be gone: everything is asked for at once.
    pub(crate) fn hasten(&mut self, slots: &Slots, vrfs: usize) {
        let vrfs = (0..).map(VrfId).take(vrfs);
        // The end of a VRF is a look, too.
        self.hasty = vrfs.map(|vrf| slots.of_vrf(vrf).count() + 1).sum();
    }
}

/// One slice of the search. Not counted as work: a thread that has nothing else to do may rest.
pub(crate) fn ask_for_missing(tables: &mut Tables, now: Instant) {
    if now < tables.search.not_before {
        return;
    }
    tables.search.not_before = Instant::from_ns(now.ns() + PACE_NS);
    for _ in 0..LOOKS {
        let at = tables.search.place.next(&tables.slots, tables.roles.len());
        let hasty = tables.search.hasty > 0;
        tables.search.hasty -= usize::from(hasty);
        if let Some(at) = at {
            if hasty && let Some(slot) = tables.slots.get_mut(at) {
                slot.absent.hasten();
            }
            ask(tables, at, now);
        }
    }
}

/// Asks for what may be taken now of what the slot lacks, when its pause is over.
fn ask(tables: &mut Tables, at: SlotRef, now: Instant) {
    let mut room = tables
        .conntracks
        .capacity()
        .saturating_sub(tables.conntracks.len());
    let active = tables.is_active(at.vrf);
    if tables.transit.is_frozen(at) {
        return;
    }
    let Some(slot) = tables.slots.get_mut(at) else {
        return;
    };
    let source = slot.source.as_ref().filter(|source| !source.open && !active);
    let Some((lane, event, generation)) = source.map(|s| (s.lane, s.event, s.generation)) else {
        return;
    };
    // A sum that can't be trusted brings the whole slot.
    if slot.absent.unsure || !slot.absent.is_due(now.secs()) {
        return;
    }
    let answers = &mut tables.answers[event];
    let mut asked = 0;
    for missing in slot.absent.known() {
        if answers.len() >= tables.answers_max {
            break;
        }
        if missing.for_room && !missing.outdated {
            if room == 0 {
                continue;
            }
            room -= 1;
        }
        answers.push_back(ToEvent::SlotAsk {
            at,
            lane,
            generation,
            wanted: wanted(missing),
        });
        asked += 1;
    }
    if asked > 0 {
        slot.absent.asked(now.secs());
        tables.counters.absent_asked += asked;
    }
}

const fn wanted(missing: &Missing) -> Wanted {
    Wanted {
        handle: missing.handle,
        counter: missing.version.counter,
    }
}

/// The owner's answer: the entry as it was refused, or nothing.
pub(crate) fn give(
    tables: &mut Tables,
    at: SlotRef,
    lane: LaneTag,
    wanted: Wanted,
    now: Instant,
) -> Option<ToEvent> {
    if tables.transit.is_frozen(at) {
        return None;
    }
    let slot = tables.slots.get(at).filter(|s| s.streams.contains(&lane))?;
    // An entry that changes while the slot is walked is sent whole by the walk or live.
    if !slot.walks.is_empty() {
        return None;
    }
    let (kind, id) = if wanted.handle.is_none() {
        (Kind::Block, block_at(tables, at, wanted.counter)?)
    } else {
        (Kind::Conntrack, wanted.handle.0)
    };
    let sync = match kind {
        Kind::Block => sync_of(tables, kind, id),
        Kind::Conntrack => &tables.conntracks.get(id)?.sync,
    };
    let same = sync.linked() && sync.version.counter == wanted.counter;
    let here = same && tables.slot_of(Changed { kind, id }) == at;
    let delta = here.then(|| visit(tables, at, kind, id, now).1)??;
    tables.counters.walk_records += 1;
    let only = Some(lane);
    Some(ToEvent::Record { at, only, delta })
}

/// The slot's block that was given this version.
fn block_at(tables: &Tables, at: SlotRef, counter: u64) -> Option<u32> {
    let mut id = first(tables, at, Kind::Block);
    while id != NIL {
        let sync = sync_of(tables, Kind::Block, id);
        if sync.version.counter == counter {
            return Some(id);
        }
        id = sync.next;
    }
    None
}
