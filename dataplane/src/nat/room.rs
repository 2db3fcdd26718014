//! More room for a worker's NAT entries, or less: its part of [`crate::room`].

use arrayvec::ArrayVec;

use super::arena::NIL;
use super::block::Block;
use super::mapping::Mapping;
use super::subscriber::Subscriber;
use super::{Nat, NatLimits};
use crate::conntrack::{Index, Moving};
use crate::span::Span;

/// Mappings that are carried over together.
const TOGETHER: usize = 16;

/// Empty indexes for other limits.
#[derive(Debug)]
pub struct NatRoom {
    subscribers: Index,
    blocks: Index,
    inside: Index,
    outside: Index,
}

impl NatRoom {
    /// For `limits`, all of their memory allocated and touched.
    #[must_use]
    pub(crate) fn new(limits: NatLimits) -> Self {
        Self {
            subscribers: Index::new(limits.subscribers as usize),
            blocks: Index::new(limits.blocks as usize),
            inside: Index::new(limits.mappings as usize),
            outside: Index::new(limits.mappings as usize),
        }
    }
}

/// Places whose keys are still to be carried over to the present indexes: from the first to before the second, per arena.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Carried {
    subscribers: (u32, u32),
    blocks: (u32, u32),
    mappings: (u32, u32),
}

impl Subscriber {
    const fn is_vacant(&self) -> bool {
        self.held == 0
    }
}

impl Block {
    const fn is_vacant(&self) -> bool {
        !self.held() && !self.sync.dead
    }
}

impl Mapping {
    const fn is_vacant(&self) -> bool {
        self.block == NIL
    }
}

impl Nat {
    /// What the arenas may hold, what there is address space for, and what they hold.
    pub(crate) fn sizes(&self) -> (NatLimits, NatLimits, NatLimits) {
        let (subscribers, blocks, mappings) = (
            self.subscribers.sizes(),
            self.blocks.sizes(),
            self.mappings.sizes(),
        );
        let of = |which: usize| NatLimits {
            subscribers: subscribers[which],
            blocks: blocks[which],
            mappings: mappings[which],
            events: u32::try_from(self.events_max).unwrap_or(u32::MAX),
        };
        (of(0), of(1), of(2))
    }

    /// Takes no more in from now on.
    pub(crate) fn set_limits(&mut self, limits: &NatLimits) {
        self.subscribers.set_limit(limits.subscribers);
        self.blocks.set_limit(limits.blocks);
        self.mappings.set_limit(limits.mappings);
    }

    /// Goes over to other limits and empty indexes for no less. What is there must fit into them.
    pub(crate) fn adopt_room(&mut self, limits: &NatLimits, room: NatRoom) {
        let adopted = self.subscriber_index.adopt(room.subscribers).is_ok()
            && self.block_index.adopt(room.blocks).is_ok()
            && self.inside_index.adopt(room.inside).is_ok()
            && self.outside_index.adopt(room.outside).is_ok();
        debug_assert!(adopted, "asked before");
        self.set_limits(limits);
        self.carried = Carried {
            subscribers: (0, self.subscribers.reach()),
            blocks: (0, self.blocks.reach()),
            mappings: (0, self.mappings.reach()),
        };
    }

    /// What the present indexes were made for.
    pub(crate) fn indexed(&self) -> NatLimits {
        let of = |index: &Moving| u32::try_from(index.capacity()).unwrap_or(u32::MAX);
        NatLimits {
            subscribers: of(&self.subscriber_index),
            blocks: of(&self.block_index),
            mappings: of(&self.inside_index),
            events: u32::try_from(self.events_max).unwrap_or(u32::MAX),
        }
    }

    /// Whether there are indexes that are being left.
    pub(crate) const fn is_moving(&self) -> bool {
        self.subscriber_index.is_moving()
    }

    /// Goes on with what other limits have to be followed by. Answers how many places it looked at. All arenas are through at
    /// about the same time: a shorter one has as much less of the budget.
    pub(crate) fn rearrange(&mut self, budget: usize) -> usize {
        let listed = self.subscribers.rearrange(budget, Subscriber::is_vacant)
            + self.blocks.rearrange(budget, Block::is_vacant)
            + self.mappings.rearrange(budget, Mapping::is_vacant);
        let Carried {
            mut subscribers,
            mut blocks,
            mut mappings,
        } = self.carried;
        let share = |(_, end): (u32, u32)| {
            let most = subscribers.1.max(blocks.1).max(mappings.1).max(1);
            (budget * end as usize).div_ceil(most as usize)
        };
        let (of_subscribers, of_blocks) = (share(subscribers), share(blocks));
        let subscribers_done = slice(&mut subscribers, of_subscribers, |id| self.carry_subscriber(id));
        let blocks_done = slice(&mut blocks, of_blocks, |id| self.carry_block(id));
        let mut mappings_done = 0;
        while mappings_done < budget {
            match self.carry_mappings(&mut mappings, budget - mappings_done) {
                0 => break,
                done => mappings_done += done,
            }
        }
        self.carried = Carried {
            subscribers,
            blocks,
            mappings,
        };
        listed + subscribers_done + blocks_done + mappings_done
    }

    fn carry_subscriber(&mut self, id: u32) {
        let Subscriber { who, held, .. } = self.subscribers[id];
        if held > 0 {
            self.subscriber_index.carry(self.subscriber_hash(&who), id);
        }
    }

    fn carry_block(&mut self, id: u32) {
        let block = &self.blocks[id];
        if block.held() {
            self.block_index.carry(self.place_hash(block.place), id);
        }
    }

    /// Carries a few mappings over, all lines of which are asked for before the first of them is touched. Answers how many.
    fn carry_mappings(&mut self, carried: &mut (u32, u32), most: usize) -> usize {
        let mut hashes: ArrayVec<(u32, [u64; 2]), TOGETHER> = ArrayVec::new();
        let done = slice(carried, most.min(TOGETHER), |id| {
            if !self.mappings[id].is_vacant() {
                let both = self.mapping_hashes(id);
                for (index, hash) in [&self.inside_index, &self.outside_index].into_iter().zip(both) {
                    index.prefetch(hash);
                    index.prefetch_former(hash);
                }
                hashes.push((id, both));
            }
        });
        for (id, [inside, outside]) in hashes {
            self.inside_index.carry(inside, id);
            self.outside_index.carry(outside, id);
        }
        done
    }

    /// The former indexes.
    pub(crate) fn take_spent(&mut self) -> impl Iterator<Item = Index> {
        [
            self.subscriber_index.take_spent(),
            self.block_index.take_spent(),
            self.inside_index.take_spent(),
            self.outside_index.take_spent(),
        ]
        .into_iter()
        .flatten()
    }

    /// Memory whose pages have to be there for `limits`.
    pub(crate) fn spans(&self, limits: &NatLimits) -> impl Iterator<Item = Span> {
        [
            self.subscribers.spans(limits.subscribers),
            self.blocks.spans(limits.blocks),
            self.mappings.spans(limits.mappings),
        ]
        .into_iter()
        .flatten()
    }

    /// Lets go of what lies behind the limits and is vacant: that memory is in no use then.
    pub(crate) fn vacate(&mut self) -> impl Iterator<Item = Span> {
        [
            self.subscribers.vacate(),
            self.blocks.vacate(),
            self.mappings.vacate(),
        ]
        .into_iter()
        .flatten()
        .flatten()
    }
}

/// The next `budget` places of those that are left. Answers how many there were.
fn slice((from, end): &mut (u32, u32), budget: usize, visit: impl FnMut(u32)) -> usize {
    let to = from
        .saturating_add(u32::try_from(budget).unwrap_or(u32::MAX))
        .min(*end);
    let done = to - *from;
    (*from..to).for_each(visit);
    *from = to;
    done as usize
}
