//! More room for a worker's tables, or less, while packets flow.
//!
//! ```text
//!   worker   room wanted ─┐                       ┌─ adopts it, carries a few keys per turn ─► spent ─► freed by the agent
//!   agent                 └─ empty indexes: Room ─┤
//!                                                 └─ pages for a slice of the arenas ─► limits go up ─► the next slice
//! ```
//!
//! Arenas are vectors with address space for more than they have ([`crate::span`]), so ids and addresses stay; the agent has the
//! pages put there before. Indexes are exchanged ([`crate::conntrack::Moving`]). The worker neither allocates nor frees nor
//! waits for a page: it takes the room in one step, and everything that follows is done in slices.
//!
//! Room is *wanted* when three quarters are taken, so that what comes until the agent has it finds a place. Pages that the machine
//! has at hand are there in no time; those that a hypervisor has to find first come some fifty times as slowly. So nothing waits for
//! the last of them: the indexes, a quarter of all, come first, and the limits go up with each slice of the arenas
//! ([`Sizes::towards`]). First packets are refused only when they come faster than pages for as many conntracks. Records of the
//! peer that would find no place, while there may be more, wait in their ring, in order.
//!
//! Less room is had in the same way: the limit comes down at once and ends nobody, indexes are exchanged when everything fits
//! into smaller ones, and the pages behind the limit are given back when the last tenant there has gone.

use crate::conntrack::Index;
use crate::nat::{NatLimits, NatRoom};
use crate::span::{Span, Vacated};
use crate::tables::Tables;

/// Room is wanted when so many of [`PARTS`] are taken.
const WANTED_AT: usize = 3;
const PARTS: usize = 4;

/// Slices that the arenas' pages for more room come in, and conntracks of a slice at least: what the agent takes from one to the
/// next is no more than a few milliseconds.
const SLICES: usize = 16;
const SLICE_LEAST: usize = 1 << 14;

/// Entries carried over per turn, at least.
pub(crate) const CARRIED: usize = 16;

/// Entries carried over for each that was made since the last turn, in parts of so many. It is as many as it takes to be through
/// before the new room is three quarters taken, or each further room would come later, and no more than [`PACE_MOST`] times as
/// many, however late it has come.
const PACE_PARTS: usize = 4;
const PACE_MOST: usize = 3;

/// How much the arenas of one worker may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Conntracks.
    pub conntracks: usize,
    /// NAT arenas. The queue of log events keeps its size.
    pub nat: NatLimits,
}

/// What a worker is given in order to come to hold so much: the arenas follow ([`Tables::raise`]).
#[derive(Debug)]
pub struct Room {
    pub(crate) sizes: Sizes,
    pub(crate) conntracks: Index,
    pub(crate) nat: NatRoom,
}

impl Room {
    /// Empty indexes for `sizes`, all of their memory allocated and touched: not the worker's to make.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            conntracks: Index::new(2 * sizes.conntracks),
            nat: NatRoom::new(sizes.nat),
        }
    }
}

/// What a worker no longer needs, and the agent frees.
#[derive(Debug)]
pub struct Spent {
    /// Indexes, for what they hold.
    #[expect(dead_code, reason = "held to be dropped")]
    indexes: Vec<Index>,
}

impl Spent {
    pub(crate) const fn new(indexes: Vec<Index>) -> Self {
        Self { indexes }
    }
}

/// How far room may go, and what was said of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    /// Conntracks that there may be room for.
    most: usize,
    /// Room was asked for and is on its way.
    pub(crate) asked: bool,
}

impl Asking {
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, asked: false }
    }
}

/// What the agent does next to bring a worker to the sizes that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Limits come down to these ([`Tables::set_limits`]).
    Lower(Sizes),
    /// A room for these sizes is made and given ([`Tables::adopt`]).
    Give(Sizes),
    /// There is a room for more: pages are put there, and limits go up to these ([`Tables::raise`]).
    Raise(Sizes),
    /// The worker has to come further first: carry keys over, lose entries, or get a slot that is on its way.
    Wait,
    /// Everything is as wanted.
    Done,
}

/// How a worker stands with its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What its arenas may hold.
    pub sizes: Sizes,
    /// What they can be made to hold without a restart.
    pub reserve: Sizes,
    /// What they hold.
    pub held: Sizes,
    /// Conntracks that the index has places for.
    pub indexed: usize,
    /// There is memory behind the limit that isn't given back yet.
    pub trailing: bool,
    /// Entries are being carried over.
    pub moving: bool,
    /// A slot is on its way here, which was promised some of the room there is.
    pub expecting: bool,
    /// More room was asked for.
    pub asked: bool,
}

impl Standing {
    /// What comes next on the way to `wanted`, which has address space.
    #[must_use]
    pub fn next(&self, wanted: &Sizes) -> Step {
        if self.expecting {
            return Step::Wait;
        }
        if !self.sizes.within(wanted) {
            return Step::Lower(self.sizes.least(wanted));
        }
        if self.indexed != wanted.conntracks {
            return if self.moving || !self.held.within(wanted) {
                Step::Wait
            } else {
                Step::Give(*wanted)
            };
        }
        if self.sizes == *wanted {
            return Step::Done;
        }
        Step::Raise(self.sizes.towards(wanted))
    }
}

impl Sizes {
    /// Whether none of it is more than in `other`.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.parts().into_iter().zip(other.parts()).all(|(a, b)| a <= b)
    }

    /// The lesser of each.
    #[must_use]
    pub fn least(&self, other: &Self) -> Self {
        Self {
            conntracks: self.conntracks.min(other.conntracks),
            nat: NatLimits {
                subscribers: self.nat.subscribers.min(other.nat.subscribers),
                blocks: self.nat.blocks.min(other.nat.blocks),
                mappings: self.nat.mappings.min(other.nat.mappings),
                events: self.nat.events,
            },
        }
    }

    /// A slice more, on the way to `wanted`, which is no less in any part: the same share of all of them.
    #[must_use]
    pub fn towards(&self, wanted: &Self) -> Self {
        let left = wanted.conntracks - self.conntracks;
        let slice = (wanted.conntracks / SLICES).max(SLICE_LEAST);
        if left <= slice {
            return *wanted;
        }
        let part = |has: u32, wanted: u32| {
            let more = u64::from(wanted - has) * slice as u64 / left as u64;
            has + u32::try_from(more).unwrap_or(0)
        };
        let (has, all) = (&self.nat, &wanted.nat);
        Self {
            conntracks: self.conntracks + slice,
            nat: NatLimits {
                subscribers: part(has.subscribers, all.subscribers),
                blocks: part(has.blocks, all.blocks),
                mappings: part(has.mappings, all.mappings),
                events: all.events,
            },
        }
    }

    const fn parts(&self) -> [usize; 4] {
        [
            self.conntracks,
            self.nat.subscribers as usize,
            self.nat.blocks as usize,
            self.nat.mappings as usize,
        ]
    }
}

impl Tables {
    /// How much room there is, and how much of it is taken.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (nat, nat_reserve, nat_held) = self.nat.sizes();
        let conntracks = &self.conntracks;
        Standing {
            sizes: Sizes {
                conntracks: conntracks.capacity(),
                nat,
            },
            reserve: Sizes {
                conntracks: conntracks.reserve(),
                nat: nat_reserve,
            },
            held: Sizes {
                conntracks: conntracks.len(),
                nat: nat_held,
            },
            indexed: conntracks.indexed(),
            trailing: conntracks.laid_out() > conntracks.capacity(),
            moving: self.is_moving(),
            expecting: self.transit.awaited().is_some(),
            asked: self.asking.asked,
        }
    }

    /// Memory whose pages have to be there before a room for `sizes` is adopted.
    #[must_use]
    pub fn room_span(&self, sizes: &Sizes) -> Span {
        self.names.chains_span(sizes.conntracks)
    }

    /// Memory whose pages have to be there before the tables may hold `sizes`, for which they have a room.
    #[must_use]
    pub fn spans(&self, sizes: &Sizes) -> Vec<Span> {
        let mut spans = self.conntracks.spans(sizes.conntracks);
        spans.push(self.wheel.span(self.conntracks.capacity(), sizes.conntracks));
        spans.push(self.names.links_span(sizes.conntracks));
        spans.extend(self.nat.spans(&sizes.nat));
        spans.retain(|span| span.bytes > 0);
        spans
    }

    /// Conntracks that there may be room for from now on: beyond what there is, it is asked for when it is needed.
    pub const fn set_most(&mut self, conntracks: usize) {
        self.asking.most = conntracks;
    }

    /// Whether room should be asked for.
    pub(crate) fn wants_room(&self) -> bool {
        let has = self.conntracks.capacity();
        !self.asking.asked
            && has < self.asking.most
            && self.conntracks.len() * PARTS >= has * WANTED_AT
            && !self.is_moving()
    }

    /// Whether there is a room for more than the arenas may hold yet.
    const fn is_rising(&self) -> bool {
        self.conntracks.capacity() < self.conntracks.indexed()
    }

    /// Room was asked for: it is on its way until it comes, or [`Self::refuse_room`] says that it doesn't.
    pub(crate) const fn room_asked(&mut self) {
        self.asking.asked = true;
    }

    /// How many of `records` may be taken in now: no more than there are places, as long as there may be more of these.
    #[inline]
    pub(crate) fn records_with_room(&self, records: usize) -> usize {
        let has = self.conntracks.capacity();
        if has >= self.asking.most {
            return records;
        }
        records.min(has.saturating_sub(self.conntracks.len()))
    }

    /// There is no more room to be had.
    pub fn refuse_room(&mut self) {
        self.asking = Asking::new(self.conntracks.capacity());
    }

    /// Takes no more than `sizes` in from now on. Nothing that is there ends.
    pub fn set_limits(&mut self, sizes: &Sizes) {
        self.conntracks.set_limit(sizes.conntracks);
        self.nat.set_limits(&sizes.nat);
        self.begin_to_rearrange();
    }

    /// Takes as much as `sizes` in from now on, whose pages are there. False when the room it has is for less, or it may hold more
    /// already; nothing has changed then.
    pub fn raise(&mut self, sizes: &Sizes) -> bool {
        let Standing { sizes: now, .. } = self.standing();
        if !now.within(sizes) || !sizes.within(&self.made_for()) {
            return false;
        }
        self.set_limits(sizes);
        self.answer();
        true
    }

    /// What the present room was made for.
    fn made_for(&self) -> Sizes {
        Sizes {
            conntracks: self.conntracks.indexed(),
            nat: self.nat.indexed(),
        }
    }

    /// What was asked for is there, if it is.
    const fn answer(&mut self) {
        self.asking.asked &= self.is_rising();
    }

    /// Goes over to the room it is given, in one step. What it may hold is no more than before, and no more than the room is for.
    ///
    /// # Errors
    /// The room, when what is there doesn't fit into it, there is no address space for it, the former room isn't cleared up yet,
    /// or a slot is on its way here, which was promised some of that. Nothing has changed then.
    pub fn adopt(&mut self, room: Room) -> Result<(), Box<Room>> {
        let standing = self.standing();
        let fits = standing.held.within(&room.sizes) && room.sizes.within(&standing.reserve);
        if standing.moving || standing.expecting || !fits {
            return Err(Box::new(room));
        }
        let Room {
            sizes,
            conntracks,
            nat,
        } = room;
        let limits = standing.sizes.least(&sizes);
        self.conntracks.adopt(limits.conntracks, conntracks);
        self.nat.adopt_room(&limits.nat, nat);
        self.names.set_chains(sizes.conntracks);
        self.answer();
        self.begin_to_rearrange();
        Ok(())
    }

    /// From now on each turn does a slice. Its pace counts what is made from then on: what was there before is the work itself,
    /// and no single turn's.
    fn begin_to_rearrange(&mut self) {
        let held = self.conntracks.len();
        let left = (self.conntracks.indexed() * WANTED_AT / PARTS).saturating_sub(held);
        self.carry_pace = (self.conntracks.to_carry() * PACE_PARTS)
            .div_ceil(left.max(1))
            .min(PACE_MOST * PACE_PARTS);
        self.rearranging = true;
        // The first slice is a short one: what it and the packets touch then is new to every near cache.
        self.held_before = usize::MAX;
    }

    /// Goes on with what other room has to be followed by. Answers how much there was to do.
    #[inline]
    pub(crate) fn rearrange(&mut self) -> usize {
        if self.rearranging {
            self.rearrange_slice()
        } else {
            0
        }
    }

    #[cold]
    fn rearrange_slice(&mut self) -> usize {
        let held = self.conntracks.len();
        let made = held.saturating_sub(self.held_before);
        let budget = CARRIED.max((made * self.carry_pace).div_ceil(PACE_PARTS));
        self.held_before = held;
        let conntracks = &self.conntracks;
        // Chains, of which there may be more, are through at about the same time.
        let of_chains = budget * self.names.to_rearrange() / conntracks.to_carry().max(1);
        let of_chains = of_chains.clamp(CARRIED, 2 * budget);
        let chains = self.names.rearrange(of_chains, |id| conntracks[id].at());
        let done = self.conntracks.rearrange(budget) + self.nat.rearrange(budget) + chains;
        self.rearranging = done > 0;
        done
    }

    /// Whether there is a former room that isn't taken away yet.
    fn is_moving(&self) -> bool {
        self.conntracks.is_moving() || self.nat.is_moving()
    }

    /// The former room, when nothing is left in it.
    #[must_use]
    pub fn take_spent(&mut self) -> Option<Spent> {
        if self.rearranging || !self.is_moving() {
            return None;
        }
        let mut indexes = Vec::from_iter(self.conntracks.take_spent());
        indexes.extend(self.nat.take_spent());
        Some(Spent::new(indexes))
    }

    /// Lets go of the places behind the limits, when nobody is there any more: memory that is in no use until more room is
    /// adopted.
    pub fn vacate(&mut self) -> Vacated {
        if self.rearranging || self.is_moving() {
            return Vacated::default();
        }
        let mut spans = self.conntracks.vacate();
        if !spans.is_empty() {
            let limit = self.conntracks.capacity();
            spans.push(self.wheel.vacate(limit));
            spans.extend(self.names.vacate(limit));
        }
        spans.extend(self.nat.vacate());
        spans.retain(|span| span.bytes > 0);
        Vacated::new(spans)
    }
}

#[cfg(test)]
mod tests {
    use core::iter::successors;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::InsertError;
    use crate::delta::Handle;
    use crate::slot::{Kind, NIL};
    use crate::tables::small::{self, at, conntrack, key, sizes};
    use crate::time::Instant;

    const NOW: Instant = Instant::from_secs(1_000);

    fn tables(start: usize, most: usize) -> Tables {
        let mut tables = small::tables(start, Some(sizes(most)));
        tables.set_most(most);
        tables
    }

    fn make(tables: &mut Tables, n: u16) -> Result<u32, InsertError> {
        tables.insert(&conntrack(n, NOW))
    }

    fn give(tables: &mut Tables, conntracks: usize) {
        tables.adopt(Room::new(sizes(conntracks))).unwrap();
        assert!(tables.raise(&sizes(conntracks)));
    }

    fn find(tables: &Tables, n: u16) -> Option<u32> {
        let found = [key(n), key(n).reversed()].map(|key| {
            let hash = tables.conntracks.hash(&key);
            tables.conntracks.find(hash, &key).map(|(id, _)| id)
        });
        assert_eq!(found[0], found[1]);
        found[0]
    }

    /// A turn of a worker, as far as room is concerned.
    fn turn(tables: &mut Tables) -> Option<Spent> {
        tables.rearrange();
        tables.take_spent()
    }

    #[test]
    fn room_is_wanted_at_three_quarters_once_and_up_to_the_most() {
        let mut tables = tables(8, 12);
        for n in 0..5 {
            make(&mut tables, n).unwrap();
            assert!(!tables.wants_room());
        }
        make(&mut tables, 5).unwrap();
        assert!(tables.wants_room());
        tables.room_asked();
        assert!(!tables.wants_room());
        assert_eq!([1, 2, 3].map(|n| tables.records_with_room(n)), [1, 2, 2]);
        tables.adopt(Room::new(sizes(12))).unwrap();
        assert!(!tables.raise(&sizes(13)), "the room is for less");
        assert!(tables.raise(&sizes(10)) && !tables.raise(&sizes(9)));
        assert_eq!([4, 5].map(|n| tables.records_with_room(n)), [4, 4]);
        assert!(
            tables.standing().asked && !tables.wants_room(),
            "some is on its way"
        );
        assert!(tables.raise(&sizes(12)));
        assert_eq!(tables.records_with_room(99), 99, "full is full then");
        while turn(&mut tables).is_none() {}
        for n in 6..12 {
            make(&mut tables, n).unwrap();
        }
        assert!(!tables.wants_room(), "there is no more");
        assert_eq!(make(&mut tables, 12), Err(InsertError::Full));
        assert!((0..12).all(|n| find(&tables, n).is_some()));
    }

    /// The first turn after room has come is like any other: what was made since the last time is none of its work.
    #[test]
    fn no_turn_carries_more_than_its_slice_and_all_is_over_before_more_room_is_wanted() {
        let mut tables = tables(1_000, 4_000);
        let mut made = 0..;
        let mut make = |tables: &mut Tables, flows| {
            for n in made.by_ref().take(flows) {
                make(tables, n).unwrap();
            }
        };
        make(&mut tables, 800);
        for more in [2_000, 4_000] {
            give(&mut tables, more);
            assert!(tables.rearrange() <= 3 * CARRIED, "keys and chains");
            while turn(&mut tables).is_none() {
                let flows = CARRIED;
                make(&mut tables, flows);
                let before = tables.conntracks.to_carry();
                tables.rearrange();
                assert!(before - tables.conntracks.to_carry() <= PACE_MOST * flows);
            }
            assert!(tables.conntracks.len() * PARTS <= more * WANTED_AT, "{more}");
            let rest = more * 4 / 5 - tables.conntracks.len();
            make(&mut tables, rest);
        }
    }

    /// So slowly that a room as a whole would be there when the last quarter has been taken one and a half times.
    #[test]
    fn first_packets_find_places_though_pages_come_slowly() {
        let (start, wanted) = (2 * SLICE_LEAST, sizes(4 * SLICE_LEAST));
        let mut tables = tables(start, wanted.conntracks);
        let bytes = |tables: &Tables, step| match step {
            Step::Give(sizes) => Room::new(sizes).conntracks.memory_bytes() + tables.room_span(&sizes).bytes,
            Step::Raise(sizes) => tables.spans(&sizes).iter().map(|span| span.bytes).sum(),
            _ => 0,
        };
        let whole = bytes(&tables, Step::Give(wanted)) + bytes(&tables, Step::Raise(wanted));
        let pace = whole / (start / PARTS * 3 / 2);
        let mut made = None;
        for n in 0..=u16::MAX {
            assert!(make(&mut tables, n).is_ok(), "{n}: {:?}", tables.standing());
            turn(&mut tables);
            if tables.wants_room() {
                tables.room_asked();
            }
            if !tables.standing().asked {
                continue;
            }
            made = match made.take() {
                None => Some((tables.standing().next(&wanted), 0)),
                Some((step, has)) if has + pace < bytes(&tables, step) => Some((step, has + pace)),
                Some((Step::Give(sizes), _)) => tables.adopt(Room::new(sizes)).map(|()| None).unwrap(),
                Some((Step::Raise(sizes), _)) => tables.raise(&sizes).then_some(None).unwrap(),
                Some((step, _)) => unreachable!("{step:?}"),
            };
        }
        assert_eq!(tables.standing().next(&wanted), Step::Done);
    }

    #[test]
    fn a_slice_is_the_same_share_of_everything() {
        let all = |conntracks: usize, mappings: u32| Sizes {
            nat: NatLimits {
                mappings,
                ..sizes(0).nat
            },
            ..sizes(conntracks)
        };
        let (mut has, wanted) = (all(SLICES * SLICE_LEAST, 100), all(2 * SLICES * SLICE_LEAST, 180));
        let mut mappings = vec![];
        while has != wanted {
            has = has.towards(&wanted);
            mappings.push(has.nat.mappings);
        }
        assert_eq!(mappings, [110, 120, 130, 140, 150, 160, 170, 180]);
    }

    /// Its index stays larger than its limit as long as it holds more: that is no room on its way.
    #[test]
    fn a_table_that_holds_more_than_its_limit_asks_for_room_again_when_it_may() {
        let mut tables = tables(8, 64);
        for n in 0..6 {
            make(&mut tables, n).unwrap();
        }
        tables.set_limits(&sizes(4));
        tables.set_most(4);
        assert!(!tables.wants_room(), "it may not have more");
        tables.set_most(64);
        assert!(tables.wants_room());
    }

    #[test]
    fn who_is_refused_room_asks_no_more_and_waits_no_more() {
        let mut tables = tables(4, 8);
        for n in 0..3 {
            make(&mut tables, n).unwrap();
        }
        assert!(tables.wants_room());
        tables.room_asked();
        tables.refuse_room();
        assert!(!tables.wants_room());
        assert_eq!(tables.records_with_room(99), 99);
    }

    #[test]
    fn what_does_not_fit_or_comes_too_early_is_handed_back_and_changes_nothing() {
        let mut tables = tables(4, 16);
        for n in 0..4 {
            make(&mut tables, n).unwrap();
        }
        let before = tables.standing();
        for refused in [3, 17] {
            assert!(tables.adopt(Room::new(sizes(refused))).is_err(), "{refused}");
            assert_eq!(tables.standing(), before);
        }
        tables.adopt(Room::new(sizes(8))).unwrap();
        assert!(
            tables.adopt(Room::new(sizes(16))).is_err(),
            "the first is under way"
        );
    }

    #[test]
    fn pages_behind_a_lower_limit_are_let_go_when_the_last_tenant_has_gone() {
        let mut tables = tables(4, 4_096);
        give(&mut tables, 4_096);
        while turn(&mut tables).is_none() {}
        for n in 0..4_096 {
            make(&mut tables, n).unwrap();
        }
        tables.set_limits(&sizes(4));
        for n in 0..4_095 {
            assert!(tables.vacate().spans().is_empty());
            let id = find(&tables, n).unwrap();
            tables.discard(NOW, id);
        }
        while tables.rearrange() > 0 {}
        assert!(
            tables.vacate().spans().is_empty(),
            "one is left, in the last place"
        );
        tables.adopt(Room::new(sizes(4))).unwrap();
        while turn(&mut tables).is_none() {}
        let id = find(&tables, 4_095).unwrap();
        tables.discard(NOW, id);
        while tables.rearrange() > 0 {}
        let bytes: usize = tables.vacate().spans().iter().map(|span| span.bytes).sum();
        assert!(bytes >= 4_092 * (192 + 16 + 8 + 4), "{bytes}");
        for n in 0..4 {
            make(&mut tables, n).unwrap();
        }
        assert_eq!(make(&mut tables, 4), Err(InsertError::Full));
    }

    proptest! {
        /// Against a set of flows, while room comes and goes at any moment: everything is found by both tuples and by its name,
        /// has its timer and stands in its slot's list, and nothing else is.
        #[test]
        fn tables_are_those_of_a_set_whatever_room_there_is(
            steps in prop::collection::vec((0_u8..9, 0_u16..60), 1..300),
        ) {
            let mut tables = tables(8, 50);
            let mut flows: HashSet<u16> = HashSet::new();
            for (act, n) in steps {
                match act {
                    0..3 => if !flows.contains(&n) {
                        let room = flows.len() < tables.conntracks.capacity();
                        let made = make(&mut tables, n);
                        prop_assert!(room || made.is_err());
                        prop_assert!(made.is_ok() || !room || tables.rearranging);
                        if let Ok(id) = made {
                            flows.insert(n);
                            tables.conntracks[id].sync.stamp = 1;
                            tables.bind(at(n), Handle(u32::from(n)), id);
                        }
                    },
                    3 => if let Some(id) = find(&tables, n) {
                        flows.remove(&n);
                        tables.discard(NOW, id);
                    },
                    4 => {
                        let room = Room::new(sizes(usize::from(n)));
                        let fits = usize::from(n) <= 50 && flows.len() <= usize::from(n);
                        let moving = tables.is_moving();
                        prop_assert_eq!(tables.adopt(room).is_ok(), fits && !moving);
                    }
                    5 => {
                        let less = usize::from(n).min(tables.conntracks.capacity());
                        tables.set_limits(&sizes(less));
                    }
                    6 => { tables.vacate(); }
                    7 => {
                        let Standing { sizes: has, indexed, .. } = tables.standing();
                        let more = sizes(usize::from(n));
                        prop_assert_eq!(tables.raise(&more), has.within(&more) && more.conntracks <= indexed);
                    }
                    _ => { turn(&mut tables); }
                }
                prop_assert_eq!((tables.conntracks.len(), tables.wheel.len()), (flows.len(), flows.len()));
                let firsts = (0..4).map(|slot| tables.slots.get(at(slot)).unwrap().first(Kind::Conntrack));
                let next = |id: &u32| Some(tables.conntracks[*id].sync.next).filter(|&id| id != NIL);
                let listed = firsts.filter(|&id| id != NIL).flat_map(|id| successors(Some(id), next));
                prop_assert_eq!(listed.count(), flows.len());
                for n in 0..60 {
                    let found = find(&tables, n);
                    prop_assert_eq!(found.is_some(), flows.contains(&n));
                    let named = tables.names.find(at(n), Handle(u32::from(n)), |id| tables.conntracks[id].at() == at(n));
                    prop_assert_eq!(named, found);
                }
            }
        }
    }
}
