//! Subscribers: who holds blocks.
//!
//! Born with the first block of an inside address from a pool, gone with the last. All blocks that `bind` grants
//! are on one public address (RFC 4787 REQ-2, paired pooling); which one is settled by the first block, or by the
//! newest when they were learned.

use super::arena::List;
use super::pool::Place;
use super::{Nat, enter};
use crate::conntrack::hash_words;
use crate::flow::{Addr, VrfId};

/// An inside address as a user of one pool.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Subscriber {
    pub(super) who: Inside,
    /// A place on the paired public address.
    pub(super) paired: Place,
    /// Blocks held, oldest first.
    pub(super) blocks: List,
    /// Number of blocks held; 0 only in a free place.
    pub(super) held: u32,
}

/// Names a subscriber.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) vrf: VrfId,
    pub(super) address: Addr,
    /// Pool, by its place among all pools.
    pub(super) pool: usize,
}

impl Nat {
    pub(super) fn subscriber(&self, who: &Inside) -> Option<u32> {
        self.subscriber_index
            .find(self.subscriber_hash(who), |id| self.subscribers[id].who == *who)
    }

    /// A subscriber without blocks yet; none when the table is full.
    pub(super) fn add_subscriber(&mut self, who: Inside) -> Option<u32> {
        let id = self.subscribers.take()?;
        self.subscribers[id].who = who;
        let hash = self.subscriber_hash(&who);
        enter(&mut self.subscriber_index, hash, id);
        self.usage[who.pool].subscribers += 1;
        Some(id)
    }

    pub(super) fn remove_subscriber(&mut self, id: u32) {
        let who = self.subscribers[id].who;
        self.subscriber_index.remove(self.subscriber_hash(&who), id);
        self.subscribers.give(id);
        self.usage[who.pool].subscribers -= 1;
    }

    /// Ids of the subscriber's blocks, oldest first.
    pub(super) fn blocks_of(&self, subscriber: u32) -> impl Iterator<Item = u32> + '_ {
        core::iter::successors(self.subscribers[subscriber].blocks.first(), |&id| {
            self.blocks[id].siblings.next()
        })
    }

    pub(super) fn subscriber_hash(&self, who: &Inside) -> u64 {
        let (high, low) = who.address.halves();
        hash_words([high, low, who.vrf.0.into(), who.pool as u64], self.hash_seed)
    }
}
