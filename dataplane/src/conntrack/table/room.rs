//! More room for conntracks, or less: the table's part of [`crate::room`].

use super::{Side, Table};
use crate::conntrack::Index;
use crate::flow::Direction;
use crate::slot::NIL;
use crate::span::Span;

/// Keys whose lines are asked for before the first of them is touched.
const TOGETHER: u32 = 16;

impl Table {
    /// Conntracks that there is address space for.
    pub(crate) fn reserve(&self) -> usize {
        self.places.capacity().min(self.vacant.reserve() as usize)
    }

    /// Conntracks that the index has places for.
    pub(crate) const fn indexed(&self) -> usize {
        self.index.capacity() / 2
    }

    /// Takes no more than `limit` conntracks in from now on.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.vacant.set_limit(u32::try_from(limit).unwrap_or(NIL));
    }

    /// Goes over to another limit and an empty index for no less. What is there must fit into it.
    pub(crate) fn adopt(&mut self, limit: usize, index: Index) {
        let adopted = self.index.adopt(index);
        debug_assert!(adopted.is_ok(), "asked before");
        self.set_limit(limit);
        self.carried = (0, self.reach());
    }

    /// Goes on with what other room has to be followed by, some `budget` places. Answers how many it looked at.
    pub(crate) fn rearrange(&mut self, budget: usize) -> usize {
        let places = &self.places;
        let is_vacant = |id: u32| places.get(id as usize).is_none_or(|place| place.get().is_none());
        let mut done = self.vacant.rearrange(budget, is_vacant);
        for _ in 0..budget.div_ceil(TOGETHER as usize) {
            done += self.carry();
        }
        done
    }

    /// Carries the keys of a few places over to the present index. Their entries were asked for by the call before.
    fn carry(&mut self) -> usize {
        let (from, end) = self.carried;
        let count = (end - from).min(TOGETHER);
        let mut hashes = [[0; 2]; TOGETHER as usize];
        for (id, hashes) in (from..from + count).zip(&mut hashes) {
            if let Some(keys) = self.live_keys(id) {
                *hashes = self.hashes(&keys);
                for &mut hash in hashes {
                    self.index.prefetch(hash);
                    self.index.prefetch_former(hash);
                }
            }
        }
        for (id, hashes) in (from..from + count).zip(hashes) {
            if let Some(keys) = self.live_keys(id) {
                self.index.carry(hashes[0], Side::new(id, Direction::Original).0);
                if keys[0] != keys[1] {
                    self.index.carry(hashes[1], Side::new(id, Direction::Reply).0);
                }
            }
            self.expect_entry(id + count);
        }
        self.carried.0 += count;
        count as usize
    }

    /// Places whose keys are still to be carried over.
    pub(crate) const fn to_carry(&self) -> usize {
        (self.carried.1 - self.carried.0) as usize
    }

    /// The former index, when everything was carried over.
    pub(crate) fn take_spent(&mut self) -> Option<Index> {
        (self.carried.0 == self.carried.1)
            .then(|| self.index.take_spent())
            .flatten()
    }

    /// Memory whose pages have to be there for `conntracks`.
    pub(crate) fn spans(&self, conntracks: usize) -> Vec<Span> {
        let (from, to) = (self.vacant.limit(), u32::try_from(conntracks).unwrap_or(NIL));
        vec![
            Span::of(&self.places, from as usize, to as usize),
            self.vacant.span(from, to),
        ]
    }

    /// Lets go of the places behind the limit, if all of them are vacant: their memory is in no use then.
    pub(crate) fn vacate(&mut self) -> Vec<Span> {
        let limit = self.vacant.limit();
        if self.places.len() <= limit as usize || !self.vacant.forget_end() {
            return Vec::new();
        }
        let end = u32::try_from(self.places.len()).unwrap_or(NIL);
        self.places.truncate(limit as usize);
        vec![
            Span::of(&self.places, limit as usize, end as usize),
            self.vacant.span(limit, end),
        ]
    }
}
