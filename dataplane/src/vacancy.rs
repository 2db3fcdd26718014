//! Which places of an arena are vacant, while the arena may be given more room or have some taken away.
//!
//! Ids count from 0. Places that were given back are taken first, the latest of them before the others, and then those that
//! never had a tenant, the lowest first: [`Vacancies::reach`] says how far that has come. The *limit* is how many may be taken at
//! once, and no place from there on is given out when the limit has come down: such places are *unlisted* when they are given
//! back, so that the end of the arena empties by itself.
//!
//! ```text
//!   0 ───────────── listed_to ──────── reach ───────── limit      more room: what is unlisted is listed again, a few per turn
//!   0 ── listed_to = limit ─────────── reach                      less room: vacant places from the limit on stay unlisted
//! ```
//!
//! Nothing here looks at the arena: whoever owns it says whether a place is vacant.

use crate::slot::NIL;
use crate::span::{Span, reserved};

/// The vacant places of one arena.
#[derive(Debug)]
pub(crate) struct Vacancies {
    /// Given back and listed; the last is taken next. Not a list through the places: what will be taken can be asked for.
    freed: Vec<u32>,
    /// Places below this one have had a tenant, those behind have not.
    reach: u32,
    /// Places that may be taken at once.
    limit: u32,
    /// Vacant places below this one, and below `reach`, are listed; those behind aren't.
    listed_to: u32,
    /// Vacant places below `reach` that aren't listed.
    unlisted: u32,
    /// How far `freed` was searched for places that have to be unlisted; none when it needn't be.
    purged_to: Option<usize>,
}

impl Vacancies {
    /// All of `limit` places, with address space for `reserve`.
    pub(crate) fn new(limit: u32, reserve: u32) -> Self {
        let mut freed = reserved(limit as usize, reserve as usize);
        // Its pages are there before the first packet.
        freed.resize(limit as usize, NIL);
        freed.clear();
        Self {
            freed,
            reach: 0,
            limit,
            listed_to: 0,
            unlisted: 0,
            purged_to: None,
        }
    }

    /// The next place; none when the limit is reached, or what is left below it isn't listed yet.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u32> {
        let id = self.next()?;
        if self.freed.pop().is_none() {
            self.begin_place();
        }
        Some(id)
    }

    /// What [`Self::take`] would take.
    #[inline]
    pub(crate) fn next(&self) -> Option<u32> {
        if self.held() >= self.limit {
            return None;
        }
        let fresh = || (self.reach < self.limit).then_some(self.reach);
        self.freed.last().copied().or_else(fresh)
    }

    #[inline]
    fn begin_place(&mut self) {
        if self.listed_to == self.reach {
            self.listed_to += 1;
        }
        self.reach += 1;
    }

    /// A place is vacant again.
    #[inline]
    pub(crate) fn give(&mut self, id: u32) {
        if id < self.listed_to {
            self.freed.push(id);
        } else {
            self.unlisted += 1;
        }
    }

    /// The place that is taken when `later` others have been, as far as that is known; [`NIL`] when there are no more.
    #[inline]
    pub(crate) fn later(&self, later: usize) -> u32 {
        match self.freed.len().checked_sub(later + 1) {
            Some(at) => self.freed[at],
            None => {
                let ahead = u32::try_from(later - self.freed.len()).unwrap_or(u32::MAX);
                let id = self.reach.saturating_add(ahead);
                if id < self.limit { id } else { NIL }
            }
        }
    }

    /// Places that are taken.
    #[inline]
    pub(crate) fn held(&self) -> u32 {
        self.reach - self.unlisted - u32::try_from(self.freed.len()).unwrap_or(u32::MAX)
    }

    /// Places that may be taken at once.
    #[inline]
    pub(crate) const fn limit(&self) -> u32 {
        self.limit
    }

    /// No place from here on has, or has had, a tenant.
    #[inline]
    pub(crate) const fn reach(&self) -> u32 {
        self.reach
    }

    /// Places there is address space for.
    pub(crate) fn reserve(&self) -> u32 {
        u32::try_from(self.freed.capacity()).unwrap_or(u32::MAX)
    }

    /// Whether everything is as the limit wants it: nothing to list, nothing to unlist.
    pub(crate) fn is_arranged(&self) -> bool {
        self.purged_to.is_none() && self.listed_to == self.reach.min(self.limit)
    }

    /// Another limit, no higher than the reserve. What is taken stays.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit.min(self.reserve());
        if self.limit < self.listed_to {
            self.listed_to = self.limit;
            self.purged_to = Some(0);
        }
    }

    /// Goes on with what another limit has to be followed by: `budget` places at most. Answers how many it looked at.
    pub(crate) fn rearrange(&mut self, budget: usize, is_vacant: impl Fn(u32) -> bool) -> usize {
        if self.is_arranged() {
            return 0;
        }
        let mut done = 0;
        while done < budget && self.step(&is_vacant) {
            done += 1;
        }
        done
    }

    fn step(&mut self, is_vacant: impl Fn(u32) -> bool) -> bool {
        if let Some(at) = self.purged_to {
            match self.freed.get(at) {
                // Another one stands here then.
                Some(&id) if id >= self.listed_to => {
                    self.freed.swap_remove(at);
                    self.unlisted += 1;
                }
                Some(_) => self.purged_to = Some(at + 1),
                None => self.purged_to = None,
            }
            return true;
        }
        if self.listed_to >= self.reach.min(self.limit) {
            return false;
        }
        if is_vacant(self.listed_to) {
            self.freed.push(self.listed_to);
            self.unlisted -= 1;
        }
        self.listed_to += 1;
        true
    }

    /// Forgets the places from the limit on, if all of them are vacant: they have never had a tenant then. True if so.
    pub(crate) fn forget_end(&mut self) -> bool {
        if !self.is_arranged() {
            return false;
        }
        if self.reach > self.limit && self.unlisted == self.reach - self.limit {
            (self.reach, self.unlisted) = (self.limit, 0);
        }
        self.reach <= self.limit
    }

    /// Memory of the list for the places from `from` to `to`.
    pub(crate) fn span(&self, from: u32, to: u32) -> Span {
        Span::of(&self.freed, from as usize, to as usize)
    }

    /// Bytes held.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.limit as usize * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_given_back_is_taken_before_what_never_had_a_tenant() {
        let mut vacant = Vacancies::new(3, 3);
        assert_eq!([vacant.later(0), vacant.later(2), vacant.later(3)], [0, 2, NIL]);
        assert_eq!([vacant.take(), vacant.take()], [Some(0), Some(1)]);
        vacant.give(0);
        assert_eq!([vacant.later(0), vacant.later(1), vacant.later(2)], [0, 2, NIL]);
        assert_eq!(
            [vacant.take(), vacant.take(), vacant.take()],
            [Some(0), Some(2), None]
        );
        assert_eq!((vacant.held(), vacant.reach()), (3, 3));
    }

    #[test]
    fn with_a_lower_limit_the_end_empties_and_is_forgotten() {
        let mut vacant = Vacancies::new(8, 8);
        while vacant.take().is_some() {}
        vacant.give(6);
        vacant.give(1);
        vacant.set_limit(4);
        while vacant.rearrange(1, |_| unreachable!("nothing is listed")) > 0 {}
        assert_eq!(
            (vacant.held(), vacant.take(), vacant.forget_end()),
            (6, None, false)
        );
        for id in [7, 5, 4] {
            vacant.give(id);
            assert_eq!(vacant.forget_end(), id == 4);
        }
        assert_eq!((vacant.reach(), vacant.take(), vacant.take()), (4, Some(1), None));
    }

    proptest! {
        /// Against a set of the places that are taken: none is given out twice or beyond the limit, none is lost.
        #[test]
        fn places_are_those_of_a_set(
            steps in prop::collection::vec((0_u8..6, 0_u32..24), 1..300),
        ) {
            const RESERVE: u32 = 24;
            let mut vacant = Vacancies::new(8, RESERVE);
            let mut taken = BTreeSet::new();
            let mut purging = false;
            for (act, n) in steps {
                match act {
                    0 | 1 => {
                        let id = vacant.take();
                        let room = taken.len() < vacant.limit() as usize;
                        prop_assert!(id.is_some() == room || (room && !vacant.is_arranged()));
                        if let Some(id) = id {
                            prop_assert!(taken.insert(id));
                            prop_assert!(id < RESERVE && (id < vacant.limit() || purging));
                        }
                    }
                    2 => if let Some(&id) = taken.range(n..).next() {
                        taken.remove(&id);
                        vacant.give(id);
                    },
                    3 => {
                        purging |= n < vacant.limit();
                        vacant.set_limit(n);
                    }
                    4 => {
                        vacant.rearrange(n as usize % 5, |id| !taken.contains(&id));
                        purging &= !vacant.is_arranged();
                    }
                    _ => {
                        let gone = vacant.forget_end();
                        let end = taken.range(vacant.limit()..).next();
                        prop_assert!(!gone || end.is_none());
                        prop_assert!(gone || end.is_some() || !vacant.is_arranged());
                    }
                }
                prop_assert_eq!(vacant.held() as usize, taken.len());
                prop_assert!(taken.range(vacant.reach()..).next().is_none());
            }
        }
    }
}
