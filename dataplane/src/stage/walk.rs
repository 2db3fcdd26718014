//! Walks: asked-for slots are sent, whole or from the point on that their receiver holds.
//!
//! A walk is born when an event thread asks for a slot. It runs on the owner, a few entries per turn, and pushes into the
//! ring that live changes go through: ring order is mutation order, so it can never carry a copy that a removal has
//! already overtaken. Its begin decides what is sent: nothing when the receiver holds the same, the journal's changes
//! when it holds a point of this slot's history, everything otherwise. It ends with what must be there now, and waits
//! with that until no change is listed that it passed by.

#[cfg(test)]
mod tests;

use rtrb::Producer;

use crate::delta::{Delta, Handle, SlotEnd, SlotRef, ToEvent, Version};
use crate::history::{Change, Journal, Pass};
use crate::mutant::told;
use crate::resync::Course;
use crate::resync::Sum;
use crate::slot::{Kind, NIL, Slot};
use crate::stage::emit::{block_record, name};
use crate::stage::ring::{fill, room};
use crate::tables::{Changed, Tables};
use crate::time::Instant;

/// Slots of a lane walked by turns: while the next entry of one is on its way from memory, the others' are visited. Few, so
/// that ends and their answers come in a steady flow.
const WALKS_AT_ONCE: usize = 8;

/// Records that may wait in a ring when a walk puts one behind them: live changes get in behind them. Half of a small ring
/// at most.
const AHEAD: usize = 512;

/// Walks asked-for slots, each lane's oldest requests first, while little enough waits in its ring; visits at most
/// `budget` entries and changes, an equal share for each lane that has any. Returns the number of records pushed.
pub(crate) fn walk(
    tables: &mut Tables,
    rings: &mut [Producer<ToEvent>],
    mut budget: usize,
    now: Instant,
) -> usize {
    let mut pushed = 0;
    loop {
        let mut lanes = tables.walking.iter().filter(|slots| !slots.is_empty()).count();
        let mut hungry = false;
        for (lane, ring) in rings.iter_mut().enumerate() {
            if tables.walking[lane].is_empty() {
                continue;
            }
            let share = budget.div_ceil(lanes);
            lanes -= 1;
            let mut walking = Walking {
                tables,
                lane,
                now,
                budget: share,
                index: 0,
                going: 0,
                most: 0,
            };
            walking.most = walking.at_once();
            pushed += fill(ring, room_ahead(ring), &mut walking);
            budget -= share - walking.budget;
            hungry |= walking.budget == 0;
        }
        // What one lane has left of its share, those that could do more get in another round.
        if budget == 0 || !hungry {
            return pushed;
        }
    }
}

/// Places of a ring that walks may fill.
fn room_ahead(ring: &Producer<ToEvent>) -> usize {
    let all = ring.buffer().capacity();
    let ahead = AHEAD.min(all / 2);
    room(ring, all - ahead, ahead)
}

/// What the walks of a lane put into its ring in one turn.
struct Walking<'a> {
    tables: &'a mut Tables,
    lane: usize,
    now: Instant,
    /// Steps that are left.
    budget: usize,
    /// Place of the slot whose turn it is.
    index: usize,
    /// Slots that have gone on since it was the first one's turn.
    going: usize,
    /// Slots that go on before it is the first one's turn again.
    most: usize,
}

impl Iterator for Walking<'_> {
    type Item = ToEvent;

    fn next(&mut self) -> Option<ToEvent> {
        while self.budget > 0 {
            let at = self.turn()?;
            self.budget -= 1;
            match step(self.tables, at, self.now) {
                Step::Push(item) => {
                    self.went();
                    return Some(item);
                }
                Step::Quiet => self.went(),
                Step::Wait => self.index += 1,
                Step::Done => {
                    self.tables.walking[self.lane].remove(self.index);
                }
            }
        }
        None
    }
}

impl Walking<'_> {
    /// The slot whose turn it is; none when all of them wait, or none is left.
    fn turn(&mut self) -> Option<SlotRef> {
        let slots = self.tables.walking[self.lane].len();
        if self.going == self.most || self.index == slots {
            let all_wait = self.going == 0;
            (self.index, self.going, self.most) = (0, 0, self.at_once());
            if all_wait {
                return None;
            }
        }
        self.tables.walking[self.lane].get(self.index).copied()
    }

    const fn went(&mut self) {
        self.index += 1;
        self.going += 1;
    }

    /// Slots that go on by turns from here on. One that was cut short before goes alone when it is the first: eight beginnings
    /// would all be cut short again where one slot would come to its end.
    fn at_once(&self) -> usize {
        let first = self.tables.walking[self.lane].first();
        let cut_short = |at: &SlotRef| self.tables.slots.get(*at).is_some_and(|slot| slot.cut_short);
        if first.is_some_and(cut_short) {
            1
        } else {
            WALKS_AT_ONCE
        }
    }
}

/// What came of one step of a walk.
enum Step {
    /// It has something to say.
    Push(ToEvent),
    /// It has not.
    Quiet,
    /// Changes that it passed by have to go first.
    Wait,
    /// The slot has no walk left.
    Done,
}

/// One step of the first walk of a slot.
fn step(tables: &mut Tables, at: SlotRef, now: Instant) -> Step {
    if tables.transit.is_frozen(at) {
        return Step::Wait;
    }
    let first = tables.slots.get(at).and_then(|slot| slot.walks.first());
    let Some(walk) = first.copied() else {
        return Step::Done;
    };
    let (next, delta) = match walk.course {
        Course::Asked => return begin(tables, at),
        Course::Equal => return end(tables, at),
        // Count and digest are those of what has been emitted. An entry with a change still listed is in them, and
        // the walk has passed it by.
        Course::Visited if tables.first_changed(tables.lane_of(at.slot)).is_some() => return Step::Wait,
        Course::Visited => return end(tables, at),
        Course::Entries { kind, cursor: NIL } => (after(tables, at, kind), None),
        Course::Entries { kind, cursor } => {
            if tables.roles[at.vrf.index()].has_word() {
                tables.relist(Changed { kind, id: cursor });
            }
            let (cursor, delta) = visit(tables, at, kind, cursor, now);
            if kind == Kind::Conntrack {
                tables.conntracks.expect_entry(cursor);
            }
            (Course::Entries { kind, cursor }, delta)
        }
        Course::Changes {
            after,
            newest,
            pass,
            sequence,
        } => {
            let (sequence, delta) = revisit(tables, at, (sequence, after, pass), now);
            let going = |pass, sequence| Course::Changes {
                after,
                newest,
                pass,
                sequence,
            };
            let next = match sequence {
                Some(sequence) => going(pass, sequence),
                None => pass.next().map_or(Course::Visited, |pass| going(pass, newest)),
            };
            (next, delta)
        }
    };
    if let Some(walk) = tables.slots.get_mut(at).and_then(|s| s.walks.first_mut()) {
        walk.course = next;
    }
    let Some(delta) = delta else { return Step::Quiet };
    tables.counters.walk_records += 1;
    Step::Push(ToEvent::Record {
        at,
        only: Some(walk.lane),
        delta,
    })
}

/// The course after the last entry of a kind.
fn after(tables: &Tables, at: SlotRef, kind: Kind) -> Course {
    match (kind, tables.slots.get(at)) {
        (Kind::Block, Some(slot)) => Course::Entries {
            kind: Kind::Conntrack,
            cursor: slot.first(Kind::Conntrack),
        },
        _ => Course::Visited,
    }
}

/// Opens the slot to the first walk's lane: live changes go there from here on.
fn begin(tables: &mut Tables, at: SlotRef) -> Step {
    let role = tables.roles[at.vrf.index()];
    if role.has_word() {
        list_mentioned(tables, at);
    }
    let Some(slot) = tables.slots.get_mut(at) else {
        return Step::Done;
    };
    // What it lacked of another node's telling is nobody's, also if that node has it still and hears this one from here on.
    let lacked = !slot.history.is_own() && slot.absent.sum.count > 0;
    if lacked {
        slot.absent.clear();
        // Blocks may be here that only flows have mentioned. Nobody is told of them, so they are to be found as strangers.
        slot.own_hand = true;
    }
    // Also when told to stand by: as long as nobody has taken over, the term is this node's to send under.
    if role.has_word() {
        slot.write_under(role.term);
    } else if slot.version == Version::default() {
        // The owner of the reign has died before it told this slot. Below the reign it would be fenced by what that one has
        // written since its restart. A version that stands for records is never raised: the owner may live, and know less.
        slot.version.term = role.term;
    }
    let version = slot.version;
    // From here on the stream has it all. Whoever doesn't hear this begin still holds a point before it.
    let untold = core::mem::take(&mut slot.untold) || lacked;
    if untold {
        slot.history.lose(version);
    }
    let whole = untold || tables.faults.no_catch_up;
    let (course, since) = start(slot, &tables.journal, untold, whole);
    let Some(walk) = slot.walks.first_mut() else {
        return Step::Done;
    };
    walk.course = course;
    let (lane, generation) = (walk.lane, walk.generation);
    slot.streams.retain(|l| l.peer != lane.peer);
    let _ = slot.streams.try_push(lane);
    slot.naming = generation;
    if untold {
        tables.mute(at);
    }
    Step::Push(ToEvent::SlotBegin {
        at,
        lane,
        generation,
        version,
        since,
    })
}

/// A block that this node knows only because a conntrack stood in it, while its own record was refused, has no version: no
/// digest shows that the peer lacks it, so that an equal slot would leave it there alone for ever.
fn list_mentioned(tables: &mut Tables, at: SlotRef) {
    let kind = Kind::Block;
    let mut id = tables.slots.get(at).map_or(NIL, |slot| slot.first(kind));
    while id != NIL {
        tables.relist(Changed { kind, id });
        id = tables.nat.block(id).sync.next;
    }
}

/// What the first walk of a slot has to send, and from which version on. What was never told has no share in a digest: a
/// slot with such entries may look equal and isn't.
fn start(slot: &Slot, journal: &Journal, untold: bool, whole: bool) -> (Course, Option<Version>) {
    let offer = slot.walks.first().and_then(|walk| walk.offer);
    if let Some(offer) = offer {
        let point = offer.version;
        if !untold && (offer.count, offer.digest) == (slot.count, slot.digest) {
            return (Course::Equal, Some(point));
        }
        // What it lacks of the writing of whoever came before this node, this one may lack too: it may have taken the slot
        // over from that very receiver, as far as that had it.
        let common = offer.absent == 0 || !slot.history.has_heard(point);
        // An empty receiver gets the entries that are left, not what became of all others.
        if !whole && offer.exact && common && point.counter > 0 && slot.history.reaches(point, slot.version) {
            let newest = slot.history.newest();
            let course = Course::Changes {
                after: point.counter,
                newest,
                pass: Pass::Removed,
                sequence: newest,
            };
            // Nothing was written since, and yet it differs: only the entries can tell in what.
            if journal.get(newest).is_some() && slot.version.counter > point.counter {
                return (course, Some(point));
            }
        }
    }
    let course = Course::Entries {
        kind: Kind::Block,
        cursor: slot.first(Kind::Block),
    };
    (course, None)
}

/// Ends the first walk of a slot: what a receiver must hold now.
fn end(tables: &mut Tables, at: SlotRef) -> Step {
    let Some(slot) = tables.slots.get_mut(at) else {
        return Step::Done;
    };
    let walk = slot.walks.remove(0);
    slot.cut_short = false;
    let version = slot.version;
    let Sum { count, digest } = told(tables, at);
    let end = SlotEnd {
        generation: walk.generation,
        count,
        digest,
        version,
    };
    Step::Push(ToEvent::SlotEnd {
        at,
        lane: walk.lane,
        end,
    })
}

/// What a walk sends of an entry, and where it goes next. An entry with a change still listed is skipped: the
/// change will be sent live, whole.
pub(crate) fn visit(
    tables: &mut Tables,
    at: SlotRef,
    kind: Kind,
    id: u32,
    now: Instant,
) -> (u32, Option<Delta>) {
    match kind {
        Kind::Block => {
            let block = tables.nat.block(id);
            let send = block.sync.emitted() && !block.sync.dirty;
            (block.sync.next, send.then(|| Delta::Block(block_record(block))))
        }
        Kind::Conntrack => {
            let conntrack = &mut tables.conntracks[id];
            let next = conntrack.sync.next;
            if !conntrack.sync.emitted() || (conntrack.sync.dirty && !conntrack.sync.refresh_only) {
                return (next, None);
            }
            let mut put = conntrack.to_put(now);
            put.handle = Handle::of(id);
            // Other streams aren't told by a walk.
            if let Some(slot) = tables.slots.get(at).filter(|slot| slot.streams.len() == 1) {
                name(slot, &mut conntrack.sync, &mut put, Handle::of(id));
            }
            (next, Some(Delta::Put(put)))
        }
    }
}

/// What a catch-up sends of a change, and the slot's change before it; none when that is not newer than what the
/// receiver holds. A change that the journal has lost in the meantime ends the pass: the end won't add up then.
fn revisit(
    tables: &mut Tables,
    at: SlotRef,
    (sequence, after, pass): (u64, u64, Pass),
    now: Instant,
) -> (Option<u64>, Option<Delta>) {
    let record = tables.journal.get(sequence).copied();
    let Some(record) = record.filter(|r| r.change.version().counter > after) else {
        return (None, None);
    };
    let delta = (Pass::of(&record.change) == pass).then(|| match record.change {
        Change::Removed(del) => Some(Delta::Del(del)),
        Change::Released(block) => Some(Delta::Block(block)),
        Change::Written { kind, id, version } => written(tables, at, (kind, id), version, now),
    });
    (Some(record.before), delta.flatten())
}

/// An entry of the slot, if it is still the one that was written as `version`.
fn written(
    tables: &mut Tables,
    at: SlotRef,
    (kind, id): (Kind, u32),
    version: Version,
    now: Instant,
) -> Option<Delta> {
    // Its place may be vacant, or another's.
    let sync = match kind {
        Kind::Block => tables.nat.block(id).sync,
        Kind::Conntrack => tables.conntracks.get(id)?.sync,
    };
    let same = sync.version == version && sync.linked() && tables.slot_of(Changed { kind, id }) == at;
    same.then(|| visit(tables, at, kind, id, now).1)?
}
