//! A slot compared entry by entry, at one point of its stream, while traffic goes on.
//!
//! ```text
//! owner                                            receiver
//!   mark: version, count, digest ─── in the stream ──► same? ──► marked
//!   (asked for)                  ──────────────────► list of its entries, a slice per turn
//!   list of its own entries, a slice per turn
//! ```
//!
//! A list takes many turns, so entries that are newer than the mark are left out of both: they have changed since. An
//! entry that changes or goes between the two looks can still stand in one list only. Such a change is newer than the
//! mark, and a mark waits until no removal or change of its lane is listed; so it can't look the same way at a second
//! mark. Whoever compares (`state_sync::compare`) believes only what it finds twice.

use std::collections::VecDeque;

use rtrb::Producer;

use crate::delta::{Delta, LaneTag, Listed, Mark, Marked, SlotRef, ToEvent, Version};
use crate::slot::{Kind, NIL};
use crate::stage::emit::block_record;
use crate::stage::ring::is_light;
use crate::stage::slots::{first, sync_of};
use crate::tables::Tables;
use crate::time::Instant;

/// Entries looked at in one turn for all lists together.
const SLICE: usize = 32;

/// Marks looked after in one turn.
const MARKS_MAX: usize = 16;

/// What comparisons ask of one worker. Beyond its room questions are dropped, and asked again.
#[derive(Debug)]
pub(crate) struct Comparing {
    marks: VecDeque<(SlotRef, LaneTag, u32)>,
    lists: VecDeque<Wanted>,
    most: usize,
}

/// A part of a list that a peer wants.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    at: SlotRef,
    lane: LaneTag,
    round: u32,
    /// Entries still to give.
    left: u16,
    /// Event thread that asked.
    event: usize,
}

impl Comparing {
    pub(crate) fn new(slots_total: usize) -> Self {
        Self {
            marks: VecDeque::with_capacity(slots_total),
            lists: VecDeque::with_capacity(slots_total),
            most: slots_total,
        }
    }

    /// A mark is to be put into a slot's stream.
    pub(crate) fn ask_mark(&mut self, at: SlotRef, lane: LaneTag, round: u32) {
        if self.marks.len() < self.most {
            self.marks.push_back((at, lane, round));
        }
    }

    /// The slot goes to another worker: whoever asked about it notices the silence.
    pub(crate) fn forget(&mut self, at: SlotRef) {
        self.marks.retain(|(marked, ..)| *marked != at);
        self.lists.retain(|wanted| wanted.at != at);
    }

    /// A peer wants to know what was held at its mark.
    pub(crate) fn ask_list(&mut self, at: SlotRef, lane: LaneTag, round: u32, entries: u16, event: usize) {
        if self.lists.len() < self.most {
            self.lists.push_back(Wanted {
                at,
                lane,
                round,
                left: entries.max(1),
                event,
            });
        }
    }
}

/// One turn's share: marks that can be set, and a slice of the lists that peers want.
pub(crate) fn comparisons(tables: &mut Tables, rings: &mut [Producer<ToEvent>], now: Instant) -> usize {
    if tables.comparing.marks.is_empty() && tables.comparing.lists.is_empty() {
        return 0;
    }
    set_marks(tables, rings) + list_for_peers(tables, rings, now)
}

fn set_marks(tables: &mut Tables, rings: &mut [Producer<ToEvent>]) -> usize {
    let mut set = 0;
    for _ in 0..tables.comparing.marks.len().min(MARKS_MAX) {
        let Some((at, lane, round)) = tables.comparing.marks.pop_front() else {
            break;
        };
        let event = tables.lane_of(at.slot);
        let nothing_pending = tables.first_changed(event).is_none() && !tables.transit.is_frozen(at);
        let (Some(slot), Some(ring)) = (tables.slots.get(at), rings.get_mut(event)) else {
            continue;
        };
        // Nobody answers for a slot that is no longer streamed; whoever asked notices the silence.
        if !slot.streams.contains(&lane) || !slot.walks.is_empty() {
            continue;
        }
        let mark = Mark {
            round,
            version: slot.version,
            count: slot.count,
            digest: slot.digest,
        };
        if nothing_pending && is_light(ring, 2) && ring.push(ToEvent::SlotMark { at, lane, mark }).is_ok() {
            tables.counters.marks_emitted += 1;
            set += 1;
        } else {
            tables.comparing.marks.push_back((at, lane, round));
        }
    }
    set
}

/// The peer's mark has come: compares, and remembers it in case the entries are asked for.
pub(crate) fn marked(tables: &mut Tables, at: SlotRef, lane: LaneTag, mark: &Mark) -> Option<ToEvent> {
    let active = tables.is_active(at.vrf);
    let slot = tables.slots.get_mut(at)?;
    slot.source
        .as_ref()
        .filter(|s| !s.open && s.lane == lane && !active)?;
    let held = slot.held();
    let complete = slot.absent.sum.count == 0 && !slot.absent.unsure;
    let same = complete
        && slot.version.counter == mark.version.counter
        && (held.count, held.digest) == (mark.count, mark.digest);
    let marked = Marked {
        round: mark.round,
        count: held.count - slot.absent.sum.count,
        digest: held.digest,
        absent: slot.absent.sum.count,
        same,
    };
    slot.list(Some(lane), mark.round, mark.version);
    *if same {
        &mut tables.counters.marks_equal
    } else {
        &mut tables.counters.marks_different
    } += 1;
    Some(ToEvent::SlotMarked { at, lane, marked })
}

fn list_for_peers(tables: &mut Tables, rings: &mut [Producer<ToEvent>], now: Instant) -> usize {
    let mut pushed = 0;
    let mut budget = SLICE;
    while budget > 0
        && let Some(wanted) = tables.comparing.lists.front_mut()
    {
        let Wanted {
            at,
            lane,
            round,
            left,
            event,
        } = *wanted;
        let Some(ring) = rings.get_mut(event) else {
            tables.comparing.lists.pop_front();
            continue;
        };
        if !is_light(ring, 2) {
            break;
        }
        budget -= 1;
        let current = |l: &crate::slot::Listing| l.lane == Some(lane) && l.round == round;
        let known = tables
            .slots
            .get(at)
            .is_some_and(|s| s.listing.as_ref().is_some_and(current));
        let listed = if !known {
            Listed::Gone
        } else if left == 0 {
            Listed::More
        } else {
            match step(tables, at, now) {
                Step::Entry(delta) => Listed::Entry(delta),
                Step::Newer => continue,
                Step::End => Listed::Complete,
            }
        };
        match (&listed, tables.comparing.lists.front_mut()) {
            (Listed::Entry(_), Some(wanted)) => {
                wanted.left -= 1;
                tables.counters.entries_listed += 1;
            }
            _ => {
                tables.comparing.lists.pop_front();
            }
        }
        let item = ToEvent::SlotListed {
            at,
            lane,
            round,
            listed,
        };
        pushed += usize::from(ring.push(item).is_ok());
    }
    pushed
}

/// What one look at a list gave.
enum Step {
    Entry(Delta),
    /// An entry that has changed since the mark.
    Newer,
    End,
}

/// The next entry of the slot's list.
fn step(tables: &mut Tables, at: SlotRef, now: Instant) -> Step {
    let heads = [Kind::Block, Kind::Conntrack].map(|kind| first(tables, at, kind));
    let Some(mut listing) = tables.slots.get(at).and_then(|s| s.listing) else {
        return Step::End;
    };
    if listing.cursor == NIL && listing.kind == Kind::Block {
        (listing.kind, listing.cursor) = (Kind::Conntrack, heads[1]);
    }
    if listing.cursor == NIL {
        return Step::End;
    }
    let (kind, id) = (listing.kind, listing.cursor);
    let sync = sync_of(tables, kind, id);
    let newer = sync.version > listing.version;
    listing.cursor = sync.next;
    if let Some(slot) = tables.slots.get_mut(at) {
        slot.listing = Some(listing);
    }
    if newer {
        return Step::Newer;
    }
    Step::Entry(match kind {
        Kind::Block => Delta::Block(block_record(tables.nat.block(id))),
        Kind::Conntrack => Delta::Put(tables.conntracks[id].to_put(now)),
    })
}

/// Starts the owner's own list of a slot, as of a mark.
pub fn start_own(tables: &mut Tables, at: SlotRef, round: u32, version: Version) {
    if let Some(slot) = tables.slots.get_mut(at) {
        slot.list(None, round, version);
    }
}

/// Adds at most `most` further entries of the owner's own list to `to`: those that peers were told, as they were told.
/// True when the list is complete; none when it was interrupted.
pub fn own(
    tables: &mut Tables,
    at: SlotRef,
    round: u32,
    most: usize,
    now: Instant,
    to: &mut Vec<Delta>,
) -> Option<bool> {
    for _ in 0..most {
        let slot = tables.slots.get(at)?;
        let listing = slot.listing.filter(|l| l.lane.is_none() && l.round == round)?;
        let (kind, id) = match (listing.kind, listing.cursor) {
            (Kind::Block, NIL) => (Kind::Conntrack, slot.first(Kind::Conntrack)),
            here => here,
        };
        let told = id != NIL && {
            let sync = sync_of(tables, kind, id);
            sync.emitted() && (!sync.dirty || sync.refresh_only)
        };
        match step(tables, at, now) {
            Step::Entry(delta) if told => to.push(delta),
            Step::Entry(_) | Step::Newer => {}
            Step::End => {
                if let Some(slot) = tables.slots.get_mut(at) {
                    slot.listing = None;
                }
                return Some(true);
            }
        }
    }
    Some(false)
}
