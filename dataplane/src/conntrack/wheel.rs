//! When to look at which entry: a lazy timer wheel of one-second ticks.
//!
//! Made once, at start, with a link for every id there may be then; more come with more room. A packet that prolongs an entry's
//! life doesn't touch the wheel: the worker writes the new deadline into the entry, and when the old one comes the visitor
//! answers [`Visit::Keep`] with the new one. Only an *earlier* deadline must be scheduled. Deadlines beyond the wheel's reach are
//! parked at its far end and moved on when the hand gets there. Work is bounded by a budget per call; what isn't done is done
//! first by the next call.

use crate::prefetch::prefetch;
use crate::slot::NIL;
use crate::span::{Span, reserved};

/// Ticks of one turn of the wheel; a power of two.
const TICKS: u32 = 1024;

/// What to do with an entry whose deadline has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// It lives: come back at this second. A second that isn't in the future means the next one.
    Keep(u32),
    /// It is gone, or wants no timer.
    Gone,
}

/// Place of an id in the list of its tick.
#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
    /// Second in whose list it is; [`UNARMED`] when in none.
    parked_s: u32,
    /// Second at which to visit.
    deadline_s: u32,
}

const UNARMED: u32 = u32::MAX;

impl Link {
    const FREE: Self = Self {
        next: NIL,
        prev: NIL,
        parked_s: UNARMED,
        deadline_s: UNARMED,
    };
}

/// Deadlines of ids.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    links: Vec<Link>,
    /// Second the hand stands on; every list of an earlier second is empty.
    hand_s: u32,
    armed: usize,
}

impl Wheel {
    /// A wheel for the ids `0..ids` that starts at `now_s`.
    #[must_use]
    pub fn new(ids: usize, now_s: u32) -> Self {
        Self::with_reserve(ids, ids, now_s)
    }

    /// As [`Self::new`], with address space for `reserve` ids.
    #[must_use]
    pub fn with_reserve(ids: usize, reserve: usize, now_s: u32) -> Self {
        let mut links = reserved(ids, reserve);
        links.resize(ids, Link::FREE);
        Self {
            heads: vec![NIL; TICKS as usize].into_boxed_slice(),
            links,
            hand_s: now_s,
            armed: 0,
        }
    }

    /// There are so many ids from now on, if there were less; no more than address space was reserved for.
    #[inline]
    pub(crate) fn reach(&mut self, ids: usize) {
        if ids > self.links.len() {
            self.links.resize(ids, Link::FREE);
        }
    }

    /// Memory of the links from `from` to `to`.
    pub(crate) fn span(&self, from: usize, to: usize) -> Span {
        Span::of(&self.links, from, to)
    }

    /// There are no ids from `ids` on, and none of them is scheduled: their memory is in no use then.
    pub(crate) fn vacate(&mut self, ids: usize) -> Span {
        let end = self.links.len();
        self.links.truncate(ids);
        Span::of(&self.links, ids, end)
    }

    /// Visits `id` at `deadline_s`, or by the next [`Self::advance`] if that has passed, instead of any earlier
    /// arrangement.
    pub fn schedule(&mut self, id: u32, deadline_s: u32) {
        self.cancel(id);
        self.link(id, deadline_s);
    }

    /// Asks for the memory of an id that is scheduled soon.
    #[inline]
    pub(crate) fn expect(&self, id: u32) {
        if let Some(link) = self.links.get(id as usize) {
            prefetch(link);
        }
    }

    /// As [`Self::schedule`], unless a visit is arranged that comes no later: it finds the new deadline.
    pub fn sooner(&mut self, id: u32, deadline_s: u32) {
        let link = &self.links[id as usize];
        if link.parked_s == UNARMED || deadline_s < link.deadline_s {
            self.schedule(id, deadline_s);
        }
    }

    /// Forgets `id`. False when it wasn't scheduled.
    pub fn cancel(&mut self, id: u32) -> bool {
        let link = self.links[id as usize];
        if link.parked_s == UNARMED {
            return false;
        }
        match link.prev {
            NIL => self.heads[tick(link.parked_s)] = link.next,
            prev => self.links[prev as usize].next = link.next,
        }
        if link.next != NIL {
            self.links[link.next as usize].prev = link.prev;
        }
        self.links[id as usize] = Link::FREE;
        self.armed -= 1;
        true
    }

    /// What [`Self::advance`] looks at first, as far as it is in the list that the hand stands on.
    pub(crate) fn next_due(&self, now_s: u32) -> impl Iterator<Item = u32> + '_ {
        let first = if self.hand_s <= now_s {
            self.heads[tick(self.hand_s)]
        } else {
            NIL
        };
        let linked = |id: u32| (id != NIL).then_some(id);
        core::iter::successors(linked(first), move |&id| linked(self.links[id as usize].next))
    }

    /// Visits entries whose deadline is `now_s` or earlier, touching at most `budget` links. Answers how many links
    /// it touched: fewer than `budget` means that nothing due is left.
    pub fn advance(&mut self, now_s: u32, budget: usize, mut visit: impl FnMut(u32) -> Visit) -> usize {
        let mut touched = 0;
        while self.hand_s <= now_s {
            let id = self.heads[tick(self.hand_s)];
            if id == NIL {
                if self.hand_s == now_s {
                    break;
                }
                self.hand_s = if self.armed == 0 { now_s } else { self.hand_s + 1 };
                continue;
            }
            if touched == budget {
                break;
            }
            touched += 1;
            let deadline_s = self.links[id as usize].deadline_s;
            self.cancel(id);
            if deadline_s > self.hand_s {
                self.link(id, deadline_s);
            } else if let Visit::Keep(later_s) = visit(id) {
                self.link(id, later_s.max(now_s.saturating_add(1)));
            }
        }
        touched
    }

    /// How many seconds ago was due what is visited next.
    pub(crate) const fn late_s(&self, now_s: u32) -> u32 {
        now_s.saturating_sub(self.hand_s)
    }

    /// Scheduled ids.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.armed
    }

    /// Whether no id is scheduled.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// When `id` will be visited, if it is scheduled.
    #[must_use]
    pub fn deadline_s(&self, id: u32) -> Option<u32> {
        let link = self.links.get(id as usize)?;
        (link.parked_s != UNARMED).then_some(link.deadline_s)
    }

    /// Memory of lists and links, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.heads.len() * size_of::<u32>() + self.links.len() * size_of::<Link>()
    }

    fn link(&mut self, id: u32, deadline_s: u32) {
        // The very last second of the clock says "unarmed"; without this, its entry would be parked for ever.
        let deadline_s = deadline_s.min(UNARMED - 1);
        let parked_s = deadline_s.clamp(self.hand_s, self.hand_s.saturating_add(TICKS - 1));
        let head = core::mem::replace(&mut self.heads[tick(parked_s)], id);
        if head != NIL {
            self.links[head as usize].prev = id;
        }
        self.links[id as usize] = Link {
            next: head,
            prev: NIL,
            parked_s,
            deadline_s,
        };
        self.armed += 1;
    }
}

const fn tick(second: u32) -> usize {
    (second % TICKS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn due(wheel: &mut Wheel, now_s: u32) -> Vec<u32> {
        let mut visited = Vec::new();
        wheel.advance(now_s, usize::MAX, |id| {
            visited.push(id);
            Visit::Gone
        });
        visited
    }

    #[test]
    fn a_deadline_is_kept_to_the_second_at_any_distance() {
        for distance in [0, 1, 2, 1022, 1023, 1024, 1025, 7440, 100_000] {
            let mut wheel = Wheel::new(1, 50);
            wheel.schedule(0, 50 + distance);
            if distance > 0 {
                assert!(due(&mut wheel, 50 + distance - 1).is_empty(), "{distance}");
            }
            assert_eq!(due(&mut wheel, 50 + distance), [0], "{distance}");
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_once_even_within_the_same_second() {
        let mut wheel = Wheel::new(2, 0);
        assert!(due(&mut wheel, 100).is_empty());
        wheel.schedule(0, 30);
        wheel.schedule(1, 100);
        let mut visited = due(&mut wheel, 100);
        visited.sort_unstable();
        assert_eq!(visited, [0, 1]);
    }

    #[test]
    fn what_is_due_next_is_what_is_visited_first() {
        let mut wheel = Wheel::new(5, 10);
        for (id, deadline_s) in [(0, 10), (1, 10), (2, 11), (3, 10), (4, 12)] {
            wheel.schedule(id, deadline_s);
        }
        assert_eq!(wheel.next_due(9).count(), 0);
        let next: Vec<u32> = wheel.next_due(11).collect();
        assert_eq!(next, due(&mut wheel, 10));
        assert_eq!(
            (next.len(), wheel.next_due(11).count()),
            (3, 0),
            "the hand stands on an empty list"
        );
    }

    #[test]
    fn keep_without_a_future_means_the_next_second_and_never_loops() {
        let mut wheel = Wheel::new(1, 0);
        wheel.schedule(0, 10);
        let mut visits = 0;
        for _ in 0..3 {
            wheel.advance(10, usize::MAX, |_| {
                visits += 1;
                Visit::Keep(5)
            });
        }
        assert_eq!((visits, wheel.deadline_s(0)), (1, Some(11)));
    }

    #[test]
    fn scheduling_again_replaces_and_cancelling_removes() {
        let mut wheel = Wheel::new(3, 0);
        for id in 0..3 {
            wheel.schedule(id, 5000);
        }
        wheel.schedule(1, 3);
        assert!(wheel.cancel(2) && !wheel.cancel(2));
        assert_eq!(due(&mut wheel, 3), [1]);
        assert_eq!((due(&mut wheel, 4999), due(&mut wheel, 5000)), (vec![], vec![0]));
    }

    #[test]
    fn the_last_second_of_the_clock_is_survived() {
        let mut wheel = Wheel::new(2, u32::MAX - 5);
        wheel.schedule(0, u32::MAX);
        wheel.schedule(1, u32::MAX - 2);
        assert_eq!(due(&mut wheel, u32::MAX - 2), [1]);
        assert_eq!(due(&mut wheel, u32::MAX - 1), [0]);
    }

    #[test]
    fn the_budget_bounds_a_call_and_the_next_one_goes_on() {
        let mut wheel = Wheel::new(100, 0);
        for id in 0..100 {
            wheel.schedule(id, 10 + id % 3);
        }
        let mut visited = BTreeSet::new();
        let mut calls = 0;
        loop {
            let touched = wheel.advance(20, 7, |id| {
                assert!(visited.insert(id));
                Visit::Gone
            });
            assert!(touched <= 7);
            calls += 1;
            if touched < 7 {
                break;
            }
        }
        assert_eq!((visited.len(), calls, wheel.len()), (100, 15, 0));
    }

    proptest! {
        /// Visits happen in order of seconds and exactly when due, whatever the jumps, budgets and cancellations.
        #[test]
        fn it_does_what_a_sorted_map_does(
            start in 0_u32..5000,
            steps in prop::collection::vec((0_u8..4, 0_u32..16, 0_u32..4000, 1_usize..6), 1..300),
        ) {
            let mut wheel = Wheel::new(16, start);
            let mut oracle: BTreeMap<u32, u32> = BTreeMap::new();
            let mut now_s = start;
            for (act, id, number, budget) in steps {
                match act {
                    0 => {
                        wheel.schedule(id, now_s + number);
                        oracle.insert(id, now_s + number);
                    }
                    1 => prop_assert_eq!(wheel.cancel(id), oracle.remove(&id).is_some()),
                    _ => {
                        now_s += if act == 2 { number % 7 } else { number };
                        let mut wrong = None;
                        let visit = |id: u32| {
                            match oracle.remove(&id) {
                                Some(deadline) if deadline <= now_s => {}
                                other => wrong = Some((id, other)),
                            }
                            if id.is_multiple_of(3) {
                                oracle.insert(id, now_s + 1 + number);
                                Visit::Keep(now_s + 1 + number)
                            } else {
                                Visit::Gone
                            }
                        };
                        let touched = wheel.advance(now_s, budget, visit);
                        prop_assert!(touched <= budget);
                        prop_assert_eq!(wrong, None);
                        if touched < budget {
                            prop_assert!(oracle.values().all(|&deadline| deadline > now_s), "{:?}", oracle);
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), oracle.len());
                for id in 0..16 {
                    prop_assert_eq!(wheel.deadline_s(id), oracle.get(&id).copied());
                }
            }
        }
    }
}
