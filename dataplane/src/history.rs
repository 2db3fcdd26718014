//! What a node remembers of its own writing: the journal of a worker's latest versioned changes, and per slot how far
//! back it reaches. A peer that holds a slot as it was at one of these points is sent what came after it.
//!
//! The journal is one ring per worker, allocated at start. Every version that is assigned writes one record, after the
//! one that it overwrites has raised its slot's floor: below the floor a slot can only be sent whole. Records of a slot
//! are chained, newest first, so that a catch-up costs what has changed.
//!
//! A point of a slot's history is a term and a counter. A run of writing begins with the point that was taken over,
//! and names the counter at which each later term began: a demoted node's unsent tail has counters that look
//! like ours under a term that ended before them, and is no point of this history.

use arrayvec::ArrayVec;

use crate::delta::{BlockRecord, DelRecord, SlotRef, Term, Version};
use crate::prefetch::prefetch_all;
use crate::slot::{Kind, NIL};

/// Earlier terms of one run that are remembered; a point under an older one can't be caught up.
const TERMS_MAX: usize = 3;

/// Records between asking for memory and touching it.
const AHEAD: u64 = 4;

/// How a slot came to its present version, as far as the journal knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct History {
    /// The last points under earlier terms of this run.
    ends: ArrayVec<Version, TERMS_MAX>,
    /// How far another node had written the slot when this one began to: what it wrote beyond that, nobody here knows.
    taken: Version,
    /// The oldest point from which on every change is known; none while another node writes the slot.
    floor: Option<Version>,
    /// Sequence of the first record of this run in the journal; 0 for none.
    first: u64,
    /// Sequence of the slot's newest record in the journal; 0 for none.
    newest: u64,
}

impl History {
    /// Whether a run of own writing is under way.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.floor.is_some()
    }

    /// This node begins to write what it holds as of `point`, of which it took over what there was up to `taken`.
    pub fn begin(&mut self, point: Version, taken: Version) {
        *self = Self {
            taken,
            floor: Some(point),
            ..Self::default()
        };
    }

    /// Another node writes the slot from here on.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// The slot, which is at `now`, changes hands: the journal of what was written stays behind.
    pub fn move_on(&mut self, now: Version) {
        if self.floor.is_some() {
            self.floor = Some(now);
        }
        self.ends.clear();
        (self.first, self.newest) = (0, 0);
    }

    /// The term rises; `last` is the last point under the old one.
    pub fn turn(&mut self, last: Version) {
        if self.floor.is_none_or(|floor| last.counter < floor.counter) {
            return;
        }
        if self.ends.is_full() {
            let oldest = self.ends.remove(0);
            self.raise(oldest);
        }
        self.ends.push(last);
    }

    /// The journal's record `sequence` is overwritten: what happened up to `point` is no longer known.
    pub fn forget(&mut self, sequence: u64, point: Version) {
        // Records of an earlier run may have greater counters.
        if self.first != 0 && sequence >= self.first {
            self.raise(point);
        }
    }

    /// Something has changed of which there is no record: no point up to `now` leads on from here.
    pub fn lose(&mut self, now: Version) {
        // Not a point itself: what comes next may be of a later term.
        self.raise(Version {
            term: Term::NONE,
            counter: now.counter + 1,
        });
    }

    fn raise(&mut self, point: Version) {
        if self.floor.is_some_and(|floor| floor.counter < point.counter) {
            self.floor = Some(point);
            self.ends.retain(|end| end.counter > point.counter);
        }
    }

    /// Whether `point` is one this slot went through on its way to `now`, and everything since is known.
    #[must_use]
    pub fn reaches(&self, point: Version, now: Version) -> bool {
        let Some(floor) = self.floor else { return false };
        if point == floor {
            return true;
        }
        let mut began = floor.counter;
        for end in self.ends.iter().chain([&now]) {
            if end.term == point.term {
                return (began..=end.counter).contains(&point.counter);
            }
            began = end.counter;
        }
        false
    }

    /// Whether this node has heard of what another one wrote at `point`, before it took over.
    #[must_use]
    pub fn has_heard(&self, point: Version) -> bool {
        point.term <= self.taken.term && point.counter <= self.taken.counter
    }

    /// Sequence of the slot's newest record.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }
}

/// One versioned change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// An entry was written. It is the one that is meant as long as it has this version.
    Written {
        /// Its kind.
        kind: Kind,
        /// Its place.
        id: u32,
        /// Version it was given.
        version: Version,
    },
    /// A conntrack was removed.
    Removed(DelRecord),
    /// A block was released.
    Released(BlockRecord),
}

impl Change {
    /// Its version.
    #[must_use]
    pub const fn version(&self) -> Version {
        match self {
            Self::Written { version, .. } => *version,
            Self::Removed(del) => del.version,
            Self::Released(block) => block.version,
        }
    }
}

/// Order of a catch-up: children go before their parents and come after them, and what is gone makes room first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Removed conntracks.
    Removed,
    /// Released blocks.
    Released,
    /// Blocks.
    Blocks,
    /// Conntracks.
    Conntracks,
}

impl Pass {
    /// The pass that a change is sent in.
    #[must_use]
    pub const fn of(change: &Change) -> Self {
        match change {
            Change::Removed(_) => Self::Removed,
            Change::Released(_) => Self::Released,
            Change::Written {
                kind: Kind::Block, ..
            } => Self::Blocks,
            Change::Written {
                kind: Kind::Conntrack,
                ..
            } => Self::Conntracks,
        }
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Removed => Some(Self::Released),
            Self::Released => Some(Self::Blocks),
            Self::Blocks => Some(Self::Conntracks),
            Self::Conntracks => None,
        }
    }
}

/// A change in the journal.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Its slot.
    pub at: SlotRef,
    /// Sequence of the slot's record before it; 0 for none.
    pub before: u64,
    /// The change.
    pub change: Change,
}

/// A worker's latest changes.
#[derive(Debug)]
pub struct Journal {
    /// As many places as a power of two: one is found without a division.
    ring: Box<[Record]>,
    /// Records ever written: the sequence of the newest.
    written: u64,
}

impl Journal {
    /// An empty one with room for at least `room` records, all of its memory touched.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let vacant = Record {
            at: SlotRef::default(),
            before: 0,
            change: Change::Written {
                kind: Kind::Conntrack,
                id: NIL,
                version: Version::default(),
            },
        };
        Self {
            ring: vec![vacant; room.max(1).next_power_of_two()].into_boxed_slice(),
            written: 0,
        }
    }

    /// Sequence and record that the next push overwrites.
    #[must_use]
    pub fn oldest(&self) -> Option<(u64, &Record)> {
        let sequence = (self.written + 1).checked_sub(self.ring.len() as u64)?;
        self.get(sequence).map(|record| (sequence, record))
    }

    /// Writes a change of a slot. The record it overwrites must have been forgotten by its slot.
    #[inline]
    pub fn push(&mut self, history: &mut History, at: SlotRef, change: Change) {
        self.written += 1;
        if history.first == 0 {
            history.first = self.written;
        }
        let before = core::mem::replace(&mut history.newest, self.written);
        self.ring[self.place(self.written)] = Record { at, before, change };
    }

    /// A record, unless it has been overwritten.
    #[must_use]
    pub fn get(&self, sequence: u64) -> Option<&Record> {
        let kept =
            sequence > 0 && sequence <= self.written && self.written - sequence < self.ring.len() as u64;
        kept.then(|| &self.ring[self.place(sequence)])
    }

    /// Asks for the place of a record that is written soon, and gives the slot of the one that is overwritten soon after
    /// the next.
    #[inline]
    pub(crate) fn expect(&self) -> SlotRef {
        prefetch_all(&self.ring[self.place(self.written + 2 * AHEAD)]);
        self.ring[self.place(self.written + AHEAD)].at
    }

    /// Bytes held.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        size_of_val(&*self.ring)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a remainder by a length fits a length"
    )]
    const fn place(&self, sequence: u64) -> usize {
        sequence as usize & (self.ring.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn version(term: u64, counter: u64) -> Version {
        Version {
            term: Term(term),
            counter,
        }
    }

    /// Took over at 257:95, wrote to 100 under 514, and is at 120 under 769.
    fn history() -> (History, Version) {
        let mut history = History::default();
        history.begin(version(257, 95), version(257, 95));
        history.turn(version(514, 100));
        (history, version(769, 120))
    }

    #[test]
    fn what_the_demoted_node_wrote_beyond_the_take_over_was_never_heard() {
        let (mut history, _) = history();
        for (term, counter, heard) in [
            (257, 1, true),
            (257, 95, true),
            (257, 96, false),
            (514, 90, false),
            (3, 90, true),
        ] {
            assert_eq!(
                history.has_heard(version(term, counter)),
                heard,
                "{term}:{counter}"
            );
        }
        history.turn(version(769, 300));
        assert!(
            !history.has_heard(version(257, 96)),
            "own writing changes nothing of that"
        );
        history.end();
        assert!(!history.has_heard(version(257, 95)));
    }

    #[test]
    fn only_points_that_the_slot_went_through_are_reached() {
        let (history, now) = history();
        for (term, counter, reached) in [
            (257, 94, false),
            (257, 95, true),
            // The unsent tail of the node that was demoted.
            (257, 96, false),
            (257, 100, false),
            (514, 94, false),
            (514, 95, true),
            (514, 100, true),
            (514, 101, false),
            (769, 99, false),
            (769, 100, true),
            (769, 120, true),
            (769, 121, false),
            (1026, 110, false),
            (0, 0, false),
        ] {
            assert_eq!(
                history.reaches(version(term, counter), now),
                reached,
                "{term}:{counter}"
            );
        }
    }

    #[test]
    fn a_change_without_a_record_ends_what_is_reached() {
        let (mut history, now) = history();
        assert!(history.reaches(now, now));
        history.lose(now);
        assert!(!history.reaches(now, now));
        let next = Version {
            counter: now.counter + 1,
            ..now
        };
        assert!(history.reaches(next, next));
        history.turn(now);
        let later = version(1026, now.counter);
        assert!(!history.reaches(later, later), "a new term makes no difference");
    }

    #[test]
    fn what_was_forgotten_is_not_reached_and_neither_are_the_terms_before_it() {
        let (mut history, now) = history();
        history.first = 5;
        history.forget(4, version(257, 200));
        assert!(history.reaches(version(257, 95), now), "that was before this run");
        history.forget(5, version(514, 98));
        assert!(!history.reaches(version(514, 97), now) && !history.reaches(version(257, 95), now));
        assert!(history.reaches(version(514, 98), now));
        history.forget(6, version(769, 110));
        assert!(!history.reaches(version(514, 100), now));
        assert!(history.reaches(version(769, 110), now));
        // An older one changes nothing.
        history.forget(7, version(514, 99));
        assert!(history.reaches(version(769, 110), now));
    }

    #[test]
    fn more_terms_than_are_remembered_cost_the_oldest() {
        let mut history = History::default();
        history.begin(version(1, 0), version(1, 0));
        for n in 1..=4 {
            history.turn(version(n, n * 10));
        }
        let now = version(5, 50);
        assert!(!history.reaches(version(1, 5), now), "its term is forgotten");
        assert!(history.reaches(version(1, 10), now), "the new floor");
        assert!(history.reaches(version(2, 11), now));
        assert!(history.reaches(version(5, 41), now));
    }

    #[test]
    fn a_slot_that_another_node_writes_has_no_point_of_its_own() {
        let (mut history, now) = history();
        history.end();
        assert!(!history.is_own() && !history.reaches(now, now));
    }

    #[test]
    fn the_journal_keeps_the_latest_records_and_chains_those_of_a_slot() {
        let mut journal = Journal::new(3);
        let mut c = History::default();
        let (mut a, mut b) = (History::default(), History::default());
        let at = |slot| SlotRef {
            slot,
            ..SlotRef::default()
        };
        let change = |counter| Change::Written {
            kind: Kind::Conntrack,
            id: 1,
            version: version(1, counter),
        };
        journal.push(&mut a, at(0), change(1));
        journal.push(&mut b, at(1), change(1));
        journal.push(&mut a, at(0), change(2));
        assert!(journal.oldest().is_none(), "there is room for one more");
        journal.push(&mut c, at(2), change(1));
        let oldest = journal
            .oldest()
            .map(|(n, r)| (n, r.at.slot, r.change.version().counter));
        assert_eq!(oldest, Some((1, 0, 1)));
        assert_eq!(journal.get(a.newest()).map(|r| r.before), Some(1));
        assert!(journal.get(1).is_some());
        journal.push(&mut b, at(1), change(2));
        assert!(journal.get(1).is_none() && journal.get(0).is_none() && journal.get(6).is_none());
        assert_eq!(journal.get(b.newest()).map(|r| r.before), Some(2));
    }
}
