//! Handles: how the present sender of a slot calls its entries, so that a change of one needs 8 bytes and no tuple.
//!
//! A handle is the entry's index in the sender's arena. It is bound by a PUT, means the entry that the slot's stream
//! has last bound it to, and is known together with its slot only: so an arena index that is free again may be used in
//! another slot, on another lane, before this one has heard of the removal. All bindings of a slot end with the
//! generation they were made in; nothing has to be visited for that, since every entry is stamped with the generation
//! that touched it last.
//!
//! The index is a hash table of chains, sized and allocated with the conntracks' arena: twelve bytes per place. With more room
//! for conntracks the number of chains grows by one at a time, each new one taking what is its from the one it splits; with less,
//! the last chain joins the one it was split from (linear hashing). So chains stay short, and no step touches more than two.

use crate::delta::{Handle, SlotRef};
use crate::prefetch::prefetch;
use crate::shard::fold;
use crate::slot::NIL;
use crate::span::{Span, reserved};

/// Bits of a link's word that hold the handle; those above hold a part of the hash of slot and handle.
const HANDLE_BITS: u32 = 24;

/// Odd constants with about as many ones as zeros. Nobody but the slot's sender chooses names, so they need not be secret.
const KEYS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// The index of one worker.
#[derive(Debug)]
pub struct Names {
    /// First entry of each chain.
    heads: Vec<u32>,
    /// The least power of two that is no less than the number of chains, minus one.
    mask: usize,
    /// Chains there are to be.
    chains: usize,
    /// By conntrack.
    links: Vec<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    /// Handle and tag, or [`NIL`] when the entry has no handle.
    word: u32,
    next: u32,
}

impl Link {
    const NONE: Self = Self { word: NIL, next: NIL };
}

fn chains_for(conntracks: usize) -> usize {
    conntracks.next_power_of_two().max(1)
}

/// Where a name is to be found, and what its link says.
#[derive(Debug, Clone, Copy)]
struct Place {
    chain: usize,
    word: u32,
}

impl Names {
    /// For `capacity` conntracks.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_reserve(capacity, capacity)
    }

    /// As [`Self::new`], with address space for `reserve` conntracks.
    #[must_use]
    pub fn with_reserve(capacity: usize, reserve: usize) -> Self {
        let chains = chains_for(capacity);
        let mut heads = reserved(chains, chains_for(reserve));
        heads.resize(chains, NIL);
        let mut links = reserved(capacity, reserve);
        links.resize(capacity, Link::NONE);
        Self {
            heads,
            mask: chains - 1,
            chains,
            links,
        }
    }

    /// There are so many conntracks from now on, if there were less; no more than address space was reserved for.
    #[inline]
    pub(crate) fn reach(&mut self, conntracks: usize) {
        if conntracks > self.links.len() {
            self.links.resize(conntracks, Link::NONE);
        }
    }

    /// There are to be chains for so many conntracks, as far as there is address space.
    pub(crate) fn set_chains(&mut self, conntracks: usize) {
        self.chains = chains_for(conntracks).min(self.heads.capacity());
    }

    /// Goes on towards the number of chains there are to be; `at` tells the slot of a conntrack that has a name. Answers how many
    /// it has looked at.
    pub(crate) fn rearrange(&mut self, budget: usize, at: impl Fn(u32) -> SlotRef) -> usize {
        let steps = self.to_rearrange().min(budget);
        for _ in 0..steps {
            if self.heads.len() < self.chains {
                self.split(&at);
            } else {
                self.join();
            }
        }
        steps
    }

    /// Chains that are still to be split off or joined.
    pub(crate) const fn to_rearrange(&self) -> usize {
        self.heads.len().abs_diff(self.chains)
    }

    /// One chain more: it takes what is its from the one that had it until now.
    fn split(&mut self, at: impl Fn(u32) -> SlotRef) {
        let new = self.heads.len();
        if new > self.mask {
            self.mask = 2 * self.mask + 1;
        }
        self.heads.push(NIL);
        let mut rest = core::mem::replace(&mut self.heads[new & self.mask >> 1], NIL);
        while rest != NIL {
            let id = rest;
            let Link { word, next } = self.links[id as usize];
            rest = next;
            if let Some(Place { chain, .. }) = self.place(at(id), Handle(word & Handle::NONE.0)) {
                self.links[id as usize].next = core::mem::replace(&mut self.heads[chain], id);
            }
        }
    }

    /// One chain less: it goes in front of the one it was split from.
    fn join(&mut self) {
        let Some(first) = self.heads.pop() else { return };
        let into = self.heads.len() & self.mask >> 1;
        if self.heads.len() == (self.mask >> 1) + 1 {
            self.mask >>= 1;
        }
        if first == NIL {
            return;
        }
        let mut last = first;
        while self.links[last as usize].next != NIL {
            last = self.links[last as usize].next;
        }
        self.links[last as usize].next = core::mem::replace(&mut self.heads[into], first);
    }

    /// Memory whose pages have to be there for the chains of `conntracks`.
    pub(crate) fn chains_span(&self, conntracks: usize) -> Span {
        Span::of(&self.heads, self.heads.len(), chains_for(conntracks))
    }

    /// Memory whose pages have to be there for the links of `conntracks`.
    pub(crate) fn links_span(&self, conntracks: usize) -> Span {
        Span::of(&self.links, self.links.len(), conntracks)
    }

    /// There are no conntracks from `conntracks` on: the memory for their names is in no use then.
    pub(crate) fn vacate(&mut self, conntracks: usize) -> [Span; 2] {
        let end = self.links.len();
        self.links.truncate(conntracks);
        [
            Span::of(&self.links, conntracks, end),
            Span::of(&self.heads, self.heads.len(), usize::MAX),
        ]
    }

    /// What a slot's sender calls by `handle`. `is` tells whether a candidate belongs to the slot.
    #[must_use]
    pub fn find(&self, at: SlotRef, handle: Handle, is: impl Fn(u32) -> bool) -> Option<u32> {
        let Place { chain, word } = self.place(at, handle)?;
        let mut id = self.heads[chain];
        while id != NIL {
            let link = self.links[id as usize];
            if link.word == word && is(id) {
                return Some(id);
            }
            id = link.next;
        }
        None
    }

    /// First pass before a name is looked up, or given: asks for the head of its chain.
    #[inline]
    pub(crate) fn expect(&self, at: SlotRef, handle: Handle) {
        if let Some(Place { chain, .. }) = self.place(at, handle) {
            prefetch(&self.heads[chain]);
        }
    }

    /// Second pass: asks for the first link of the chain, and says whose it is; [`NIL`] for none. Mostly it is the one meant.
    #[inline]
    pub(crate) fn expect_link(&self, at: SlotRef, handle: Handle) -> u32 {
        let first = self
            .place(at, handle)
            .map_or(NIL, |place| self.heads[place.chain]);
        if let Some(link) = self.links.get(first as usize) {
            prefetch(link);
        }
        first
    }

    /// The handle of a conntrack; [`Handle::NONE`] when it has none.
    #[must_use]
    pub fn handle(&self, id: u32) -> Handle {
        let word = self.links[id as usize].word;
        if word == NIL {
            Handle::NONE
        } else {
            Handle(word & Handle::NONE.0)
        }
    }

    /// `id`, a conntrack of the slot, is called by `handle` from now on: it by no other, and no other one by it. `is` as in
    /// [`Self::find`].
    pub fn bind(&mut self, at: SlotRef, handle: Handle, id: u32, is: impl Fn(u32) -> bool) {
        let former = self.find(at, handle, is);
        if former == Some(id) {
            return;
        }
        if let Some(former) = former {
            self.unbind(at, former);
        }
        self.unbind(at, id);
        let Some(Place { chain, word }) = self.place(at, handle) else {
            return;
        };
        self.links[id as usize] = Link {
            word,
            next: self.heads[chain],
        };
        self.heads[chain] = id;
    }

    /// A conntrack of the slot has no handle any more.
    pub fn unbind(&mut self, at: SlotRef, id: u32) {
        let Link { word, next } = self.links[id as usize];
        if word == NIL {
            return;
        }
        self.links[id as usize] = Link::NONE;
        let Some(Place { chain, .. }) = self.place(at, Handle(word & Handle::NONE.0)) else {
            return;
        };
        let mut before = self.heads[chain];
        if before == id {
            self.heads[chain] = next;
            return;
        }
        while before != NIL {
            let link = &mut self.links[before as usize];
            if link.next == id {
                link.next = next;
                return;
            }
            before = link.next;
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.heads.len() * size_of::<u32>() + self.links.len() * size_of::<Link>()
    }

    #[inline]
    fn chain(&self, hash: usize) -> usize {
        let wide = hash & self.mask;
        if wide < self.heads.len() {
            wide
        } else {
            wide & self.mask >> 1
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn place(&self, at: SlotRef, handle: Handle) -> Option<Place> {
        if handle.is_none() {
            return None;
        }
        let name = u64::from(at.vrf.0) << 40 | u64::from(at.slot) << HANDLE_BITS | u64::from(handle.0);
        let hash = fold(name ^ KEYS[0], KEYS[1]);
        // The tag is never all ones: a bound link must differ from an empty one.
        let tag = ((hash >> 56) as u32).min(0xfe);
        Some(Place {
            chain: self.chain(hash as usize),
            word: tag << HANDLE_BITS | handle.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::VrfId;

    fn at(slot: u16) -> SlotRef {
        SlotRef { vrf: VrfId(0), slot }
    }

    #[test]
    fn one_handle_names_an_entry_in_each_slot() {
        let mut names = Names::new(4);
        let slots = [1, 2];
        names.bind(at(1), Handle(7), 0, |id| slots[id as usize] == 1);
        names.bind(at(2), Handle(7), 1, |id| slots[id as usize] == 2);
        let find =
            |names: &Names, slot: u16| names.find(at(slot), Handle(7), |id| slots[id as usize] == slot);
        assert_eq!((find(&names, 1), find(&names, 2)), (Some(0), Some(1)));
        names.unbind(at(1), 0);
        assert_eq!((find(&names, 1), find(&names, 2)), (None, Some(1)));
    }

    #[test]
    fn a_handle_bound_again_names_the_newer_entry() {
        let mut names = Names::new(4);
        names.bind(at(1), Handle(7), 0, |_| true);
        names.bind(at(1), Handle(7), 2, |_| true);
        assert_eq!(names.find(at(1), Handle(7), |_| true), Some(2));
        names.unbind(at(1), 2);
        assert_eq!(names.find(at(1), Handle(7), |_| true), None);
        names.bind(at(1), Handle(7), 2, |_| true);
        assert_eq!(names.find(at(1), Handle::NONE, |_| true), None);
        assert_eq!((names.handle(2), names.handle(3)), (Handle(7), Handle::NONE));
    }

    proptest! {
        /// Against a map: an entry is found by its handle until it is unbound or another one gets the handle.
        #[test]
        fn bindings_are_those_of_a_map(
            steps in proptest::collection::vec((0u16..3, 0u32..6, 0u32..8, any::<bool>(), 0usize..100), 1..200),
        ) {
            let mut names = Names::with_reserve(4, 70);
            let mut map: HashMap<(u16, u32), u32> = HashMap::new();
            let mut slot_of: [Option<u16>; 8] = [None; 8];
            for (slot, handle, id, bind, room) in steps {
                names.reach(id as usize + 1);
                if room < 70 {
                    names.set_chains(room);
                }
                names.rearrange(3, |id| at(slot_of[id as usize].unwrap()));
                if let Some(old) = slot_of[id as usize].take() {
                    map.retain(|_, held| *held != id);
                    names.unbind(at(old), id);
                }
                if bind {
                    map.insert((slot, handle), id);
                    names.bind(at(slot), Handle(handle), id, |id| slot_of[id as usize] == Some(slot));
                    slot_of[id as usize] = Some(slot);
                }
                for slot in 0..3 {
                    for handle in 0..6 {
                        let found = names.find(at(slot), Handle(handle), |id| slot_of[id as usize] == Some(slot));
                        prop_assert_eq!(found, map.get(&(slot, handle)).copied());
                    }
                }
            }
        }
    }
}
