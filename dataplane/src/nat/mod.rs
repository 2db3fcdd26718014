//! Source NAT: pools, port blocks, subscribers and endpoint-independent mappings.

mod block;
pub mod log;
mod pool;

use std::sync::Arc;

use thiserror::Error;

pub use self::block::{Block, BlockChange};
use self::log::BlockEvent;
pub use self::pool::{PoolRef, Pools};
use crate::delta::{BlockRecord, NatPart, PutRecord, Term};
use crate::flow::{Addr, FlowKey, VrfId};
use crate::time::Instant;
use crate::verdict::Drop;

/// What a first packet got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Public address.
    pub external: Addr,
    /// Public port or ICMP identifier.
    pub port: u16,
    /// The mapping, retained once: give it back with [`Nat::release`] when the conntrack ends.
    pub mapping: u32,
    /// What the conntrack and its record carry.
    pub part: NatPart,
}

/// Where a packet for a pool address goes. Not retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// VRF of the inside endpoint.
    pub vrf: VrfId,
    /// Inside address.
    pub inside: Addr,
    /// Inside port.
    pub port: u16,
    /// The mapping: [`Nat::retain`] it when a conntrack is made from it.
    pub mapping: u32,
    /// What the conntrack and its record carry.
    pub part: NatPart,
}

/// What a record brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The mapping, retained once.
    pub mapping: u32,
    /// Its block.
    pub block: u32,
    /// The block was not known before: its own record is still to come.
    pub block_new: bool,
}

/// Why a record was refused. A refusal changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LearnError {
    /// The public endpoint is in no pool of this node, or not at a block's boundary.
    #[error("no such pool or block here")]
    NoPool,
    /// The record translates nothing, or a protocol or address family that is not translated.
    #[error("not a source translation that this version knows")]
    Unsupported,
    /// A newer grant holds the ports: the record is from the past.
    #[error("a newer grant holds the ports")]
    Older {
        /// The grant that stays.
        holder: u64,
    },
    /// An older grant still holds the ports here. Its holder is to be evicted, then the record tried again.
    #[error("an older grant still holds the ports")]
    Conflict {
        /// The grant to evict.
        holder: u64,
        /// Inside VRF of the holder: names, with `slot`, the worker that has it.
        vrf: VrfId,
        /// Slot of the holder.
        slot: u16,
        /// The block, when this very worker has it.
        block: Option<u32>,
    },
    /// The same grant has given the port (or this inside endpoint another port) to conntracks that are still here.
    #[error("the port belongs to another mapping of the same block")]
    PortTaken {
        /// The mapping in the way.
        mapping: u32,
    },
    /// Names a grant that is not here (any more).
    #[error("no such grant here")]
    Unknown,
    /// The block still has mappings with conntracks.
    #[error("the block is in use")]
    InUse {
        /// The block.
        block: u32,
    },
    /// No room for another subscriber, block or mapping.
    #[error("table full")]
    Full,
}

/// Sizes of one worker's tables, allocated at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatLimits {
    /// Subscribers (inside address and pool).
    pub subscribers: u32,
    /// Blocks, including released ones whose removal has not been emitted yet.
    pub blocks: u32,
    /// Mappings, including those whose port rests.
    pub mappings: u32,
    /// Log events that wait to be fetched.
    pub events: u32,
}

/// One worker's subscribers, blocks and mappings.
#[derive(Debug)]
pub struct Nat {
    pools: Arc<Pools>,
    blocks: Vec<Block>,
}

impl Nat {
    /// Empty tables over the shared pools. `seed` feeds the choice of addresses, blocks and ports.
    #[must_use]
    pub fn new(pools: Arc<Pools>, limits: NatLimits, seed: u64) -> Self {
        let _ = (limits, seed);
        Self {
            pools,
            blocks: Vec::new(),
        }
    }

    /// The shared pools.
    #[must_use]
    pub fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// Public endpoint for the first packet of a flow from inside.
    pub fn bind(
        &mut self,
        now: Instant,
        term: Term,
        key: &FlowKey,
        slot: u16,
        pool: PoolRef,
    ) -> Result<Bound, Drop> {
        let _ = (now, term, key, slot, pool);
        Err(Drop::PoolExhausted)
    }

    /// A conntrack made from the mapping ended.
    pub fn release(&mut self, now: Instant, mapping: u32) {
        let _ = (now, mapping);
    }

    /// The mapping that an outside packet may use: pools with endpoint-independent filtering only.
    #[must_use]
    pub fn inbound(&self, key: &FlowKey) -> Option<Inbound> {
        let _ = key;
        None
    }

    /// One more conntrack uses the mapping.
    pub fn retain(&mut self, mapping: u32) {
        let _ = mapping;
    }

    /// What the peer's `bind` did, from its record.
    pub fn learn(&mut self, now: Instant, put: &PutRecord, slot: u16) -> Result<Learned, LearnError> {
        let _ = (now, put, slot);
        Err(LearnError::NoPool)
    }

    /// A block granted by the peer; `vrf` is the subscriber's. Returns the block's id.
    pub fn learn_block(
        &mut self,
        now: Instant,
        rec: &BlockRecord,
        vrf: VrfId,
        slot: u16,
    ) -> Result<u32, LearnError> {
        let _ = (now, rec, vrf, slot);
        Err(LearnError::NoPool)
    }

    /// A block released by the peer. It is dead afterwards: unlink it and call [`Nat::free_block`].
    pub fn forget_block(&mut self, now: Instant, rec: &BlockRecord, vrf: VrfId) -> Result<u32, LearnError> {
        let _ = (now, rec, vrf);
        Err(LearnError::Unknown)
    }

    /// As [`Nat::forget_block`], by id: for a sweep or an eviction.
    pub fn evict_block(&mut self, now: Instant, id: u32) -> Result<(), LearnError> {
        let _ = (now, id);
        Err(LearnError::Unknown)
    }

    /// Bounded upkeep.
    pub fn tick(&mut self, now: Instant, budget: u32, active: impl Fn(VrfId) -> bool) {
        let _ = (now, budget, active);
    }

    /// A block, held or dead.
    #[must_use]
    pub fn block(&self, id: u32) -> &Block {
        &self.blocks[id as usize]
    }

    /// A block, to change its replication state.
    pub fn block_mut(&mut self, id: u32) -> &mut Block {
        &mut self.blocks[id as usize]
    }

    /// The next block that `bind` or `tick` granted or released since it was last asked about.
    pub fn pop_changed(&mut self) -> Option<BlockChange> {
        None
    }

    /// The dead block's removal has been emitted: its place is free.
    pub fn free_block(&mut self, id: u32) {
        let _ = id;
    }

    /// The next log event.
    pub fn pop_event(&mut self) -> Option<BlockEvent> {
        None
    }
}
