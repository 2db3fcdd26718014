//! Fixed storage for one worker's NAT entries: places with ids, and lists threaded through them.
//!
//! What it may hold is allocated (and its pages touched) when the worker starts, or by the agent when it is given more
//! room ([`crate::room`]); entries only take places and give them back. Only the owning worker touches an arena.

use core::ops::{Index, IndexMut};

use crate::prefetch::prefetch_all;
use crate::span::{Span, reserved};
use crate::vacancy::Vacancies;

/// No entry.
pub(super) const NIL: u32 = u32::MAX;

/// `capacity` places of `T`. Whether a place is taken is the caller's to know.
#[derive(Debug)]
pub(super) struct Arena<T> {
    places: Vec<T>,
    vacant: Vacancies,
    /// Places that are kept for somebody.
    kept_back: u32,
}

impl<T: Copy + Default> Arena<T> {
    /// With `capacity` places, and address space for `reserve`.
    pub(super) fn new(capacity: u32, reserve: u32) -> Self {
        let mut places = reserved(capacity as usize, reserve as usize);
        places.resize(capacity as usize, T::default());
        Self {
            places,
            vacant: Vacancies::new(capacity, reserve),
            kept_back: 0,
        }
    }

    /// A free place, reset to the default.
    pub(super) fn take(&mut self) -> Option<u32> {
        let id = self.vacant.take()?;
        match self.places.get_mut(id as usize) {
            Some(place) => *place = T::default(),
            None => self.places.push(T::default()),
        }
        Some(id)
    }

    /// Asks for the place that is taken when `later` others have been.
    pub(super) fn expect_new(&self, later: usize) {
        if let Some(place) = self.places.get(self.vacant.later(later) as usize) {
            prefetch_all(place);
        }
    }

    /// Gives a place back. Its content is reset, so that it cannot be mistaken for an entry.
    pub(super) fn give(&mut self, id: u32) {
        self.places[id as usize] = T::default();
        self.vacant.give(id);
    }

    /// Whether there is a place for whoever comes.
    pub(super) fn has_room(&self) -> bool {
        self.has_place() && self.has_room_for(1)
    }

    /// Whether there is a place, if only one that is kept for somebody.
    pub(super) fn has_place(&self) -> bool {
        self.vacant.next().is_some()
    }

    /// Whether so many places are free, and not kept for somebody.
    pub(super) fn has_room_for(&self, entries: u32) -> bool {
        let taken = self.vacant.held().saturating_add(self.kept_back);
        entries <= self.vacant.limit().saturating_sub(taken)
    }

    /// Keeps so many places for somebody.
    pub(super) const fn keep_back(&mut self, places: u32) {
        self.kept_back = places;
    }

    /// What it may hold, what there is address space for, and what it holds.
    pub(super) fn sizes(&self) -> [u32; 3] {
        let reserve = u32::try_from(self.places.capacity()).unwrap_or(NIL);
        [
            self.vacant.limit(),
            reserve.min(self.vacant.reserve()),
            self.vacant.held(),
        ]
    }

    /// Places below this one have had a tenant.
    pub(super) const fn reach(&self) -> u32 {
        self.vacant.reach()
    }

    /// Takes no more than `limit` entries in from now on.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.vacant.set_limit(limit);
    }

    /// Goes on with what another limit has to be followed by.
    pub(super) fn rearrange(&mut self, budget: usize, is_vacant: impl Fn(&T) -> bool) -> usize {
        let places = &self.places;
        self.vacant
            .rearrange(budget, |id| places.get(id as usize).is_none_or(&is_vacant))
    }

    /// Memory whose pages have to be there for `limit` entries.
    pub(super) fn spans(&self, limit: u32) -> [Span; 2] {
        let from = self.vacant.limit();
        [
            Span::of(&self.places, from as usize, limit as usize),
            self.vacant.span(from, limit),
        ]
    }

    /// Lets go of the places behind the limit, if all of them are vacant: their memory is in no use then.
    pub(super) fn vacate(&mut self) -> Option<[Span; 2]> {
        let limit = self.vacant.limit();
        if self.places.len() <= limit as usize || !self.vacant.forget_end() {
            return None;
        }
        let end = u32::try_from(self.places.len()).unwrap_or(NIL);
        self.places.truncate(limit as usize);
        Some([
            Span::of(&self.places, limit as usize, end as usize),
            self.vacant.span(limit, end),
        ])
    }

    /// All places in order of id, taken or not.
    pub(super) fn places(&self) -> &[T] {
        &self.places
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.places[id as usize]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.places[id as usize]
    }
}

/// An entry's neighbours on one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    next: u32,
    prev: u32,
    on: bool,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            next: NIL,
            prev: NIL,
            on: false,
        }
    }
}

impl Links {
    /// The entry after this one.
    pub(super) const fn next(self) -> Option<u32> {
        some(self.next)
    }
}

/// A list threaded through an arena, oldest entry first. `links` says which of an entry's links it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl List {
    /// The oldest entry.
    pub(super) const fn first(self) -> Option<u32> {
        some(self.head)
    }

    /// Adds an entry behind the newest. One that is on the list already stays where it is.
    pub(super) fn push<T>(&mut self, arena: &mut Arena<T>, id: u32, links: impl Fn(&mut T) -> &mut Links) {
        let mine = links(&mut arena[id]);
        if mine.on {
            return;
        }
        *mine = Links {
            next: NIL,
            prev: self.tail,
            on: true,
        };
        match some(self.tail) {
            Some(tail) => links(&mut arena[tail]).next = id,
            None => self.head = id,
        }
        self.tail = id;
    }

    /// Takes an entry off, wherever it stands. One that is not on the list is left alone.
    pub(super) fn remove<T>(&mut self, arena: &mut Arena<T>, id: u32, links: impl Fn(&mut T) -> &mut Links) {
        let Links { next, prev, on } = core::mem::take(links(&mut arena[id]));
        if !on {
            return;
        }
        match some(prev) {
            Some(prev) => links(&mut arena[prev]).next = next,
            None => self.head = next,
        }
        match some(next) {
            Some(next) => links(&mut arena[next]).prev = prev,
            None => self.tail = prev,
        }
    }
}

const fn some(id: u32) -> Option<u32> {
    if id == NIL { None } else { Some(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Clone, Copy)]
    struct Entry {
        links: Links,
    }

    fn order(list: List, arena: &Arena<Entry>) -> Vec<u32> {
        core::iter::successors(list.first(), |&id| arena[id].links.next()).collect()
    }

    #[test]
    fn a_place_is_given_once_until_it_comes_back() {
        let mut arena = Arena::<Entry>::new(2, 2);
        let (a, b) = (arena.take().unwrap(), arena.take().unwrap());
        assert_ne!(a, b);
        assert_eq!(arena.take(), None);
        assert!(!arena.has_room());
        arena.give(a);
        assert_eq!(arena.take(), Some(a));
    }

    #[test]
    fn entries_leave_a_list_from_either_end_and_the_middle() {
        let mut arena = Arena::<Entry>::new(4, 4);
        let mut list = List::default();
        for id in 0..4 {
            list.push(&mut arena, id, |e| &mut e.links);
        }
        list.push(&mut arena, 2, |e| &mut e.links);
        assert_eq!(order(list, &arena), [0, 1, 2, 3]);
        list.remove(&mut arena, 1, |e| &mut e.links);
        list.remove(&mut arena, 1, |e| &mut e.links);
        assert_eq!(order(list, &arena), [0, 2, 3]);
        list.remove(&mut arena, 0, |e| &mut e.links);
        list.remove(&mut arena, 3, |e| &mut e.links);
        assert_eq!(order(list, &arena), [2]);
        list.remove(&mut arena, 2, |e| &mut e.links);
        assert_eq!(list, List::default());
    }
}
