//! Source NAT: which public endpoint an inside endpoint appears as.
//!
//! A worker's [`Nat`] is born with the worker and touched by nobody else; the [`Pools`] below it are shared, and only a grant or
//! release of a whole block meets other workers. It goes over to changed pools between two bursts. A first packet [`Nat::bind`]s:
//! the mapping of its inside endpoint if there is one, else a free port of the subscriber's blocks, else a further block. When
//! the last conntrack of a mapping ends, its port rests and is then free; a block without ports is released after a while. A
//! standby does the same from records ([`Nat::learn`]): after a take-over no new flow gets a port that a live flow has, and
//! `bind` goes on where the peer stopped.
//!
//! ```text
//! subscriber (inside VRF + address, pool)
//!   └─ blocks (grant, public address, port run)        owner table in Pools: public port → inside VRF, slot
//!        └─ mappings (protocol, inside port, public port, conntracks)
//! ```

mod ahead;
mod arena;
mod block;
mod change;
mod find;
mod grant;
mod learn;
pub mod log;
mod lot;
mod mapping;
mod pool;
mod random;
mod room;
mod subscriber;
#[cfg(test)]
mod tests;
mod transit;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;

use thiserror::Error;

pub(crate) use self::ahead::Ahead;
use self::arena::{Arena, List};
use self::block::Grantee;
pub use self::block::{Block, BlockChange};
use self::find::{Short, Want};
pub use self::grant::{grant_base, granting_node};
use self::log::BlockEvent;
use self::mapping::Mapping;
pub use self::mapping::Protocol;
pub use self::pool::{PoolBusy, PoolRef, PoolSize, Pools};
use self::random::Random;
pub use self::room::NatRoom;
use self::subscriber::{Inside, Subscriber};
pub(crate) use self::transit::{BlockParcel, MappingParcel, Search};
pub use self::view::{BlockRow, MappingRow, PoolUsage, UserRow};
use crate::config::Filtering;
use crate::conntrack::Moving;
use crate::delta::{NatPart, SlotRef, Term};
use crate::flow::{Addr, FlowKey, VrfId};
use crate::io::PortId;
use crate::rss::Home;
use crate::share::Share;
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

/// What a node that gives out ports is entitled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// Term under which blocks are granted.
    pub term: Term,
    /// Which ports are its own.
    pub share: Share,
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
    /// The record translates nothing, or a protocol or address family that is not translated, or names the grant
    /// of another subscriber.
    #[error("not a source translation that makes sense here")]
    Unsupported,
    /// A newer grant holds the ports: the record is from the past.
    #[error("a newer grant holds the ports")]
    Older {
        /// The grant that stays.
        holder: u64,
        /// The block, when this very worker has it.
        block: Option<u32>,
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

/// Sizes of one worker's tables, allocated at start or by the agent.
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
    random: Random,
    hash_seed: u64,
    subscribers: Arena<Subscriber>,
    subscriber_index: Moving,
    blocks: Arena<Block>,
    block_index: Moving,
    mappings: Arena<Mapping>,
    inside_index: Moving,
    outside_index: Moving,
    carried: room::Carried,
    /// Per pool: mappings whose port rests, oldest first.
    resting: Vec<List>,
    /// Per pool: blocks without ports, oldest first.
    idle: Vec<List>,
    changed: List,
    events: VecDeque<BlockEvent>,
    events_max: usize,
    events_lost: u64,
    /// Per pool.
    usage: Vec<PoolUsage>,
    /// Pool that the next `tick` starts with, so that no pool starves another.
    tick_from: usize,
    /// By port: which public ports bring the replies that come in by it home. Empty where no card tells.
    homes: Box<[Option<Home>]>,
}

impl Nat {
    /// Empty tables over the shared pools. `seed` feeds the choice of addresses, blocks and ports, and the hashes.
    #[must_use]
    pub fn new(pools: Arc<Pools>, limits: NatLimits, seed: u64) -> Self {
        Self::with_reserve(pools, limits, limits, seed)
    }

    /// As [`Self::new`], with address space for `reserve`.
    #[must_use]
    pub fn with_reserve(pools: Arc<Pools>, limits: NatLimits, reserve: NatLimits, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = pools.count();
        Self {
            pools,
            hash_seed: random.next(),
            random,
            subscribers: Arena::new(limits.subscribers, reserve.subscribers),
            subscriber_index: Moving::new(limits.subscribers as usize),
            blocks: Arena::new(limits.blocks, reserve.blocks),
            block_index: Moving::new(limits.blocks as usize),
            mappings: Arena::new(limits.mappings, reserve.mappings),
            inside_index: Moving::new(limits.mappings as usize),
            outside_index: Moving::new(limits.mappings as usize),
            carried: room::Carried::default(),
            resting: vec![List::default(); count],
            idle: vec![List::default(); count],
            changed: List::default(),
            events: VecDeque::with_capacity(limits.events as usize),
            events_max: limits.events as usize,
            events_lost: 0,
            usage: vec![PoolUsage::default(); count],
            tick_from: 0,
            homes: Box::default(),
        }
    }

    /// From now on the ports of mappings bring replies home, where there is a choice.
    pub(crate) fn set_homes(&mut self, homes: Box<[Option<Home>]>) {
        self.homes = homes;
    }

    /// The shared pools.
    #[must_use]
    pub fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// Public endpoint for the first packet of a flow from inside. `key` is the packet's own (original) key, `slot`
    /// the subscriber's, `reign` that of the inside VRF, `way` the port that it leaves by and replies come in by. The mapping is
    /// retained for the caller's conntrack. When refused, nothing changes and no mapping of anybody is evicted (RFC 6888 REQ-11).
    ///
    /// # Errors
    /// `UnsupportedProtocol` for anything but TCP, UDP and ICMP queries over IPv4; `PoolExhausted` when a new
    /// subscriber finds no free block; `PortsExhausted` when one with blocks has reached its quota (RFC 6888 REQ-4)
    /// or its paired address has no free block (in doubt, and where the pool says `refuse`: none in this node's half)
    /// or was taken out of the pool a moment ago;
    /// `SubscribersFull`, `BlocksFull`, `MappingsFull` by table.
    pub fn bind(
        &mut self,
        now: Instant,
        reign: Reign,
        key: &FlowKey,
        slot: u16,
        pool: PoolRef,
        way: Option<PortId>,
    ) -> Result<Bound, Drop> {
        let class = Protocol::of(key.proto)
            .filter(|_| key.src.is_v4())
            .ok_or(Drop::UnsupportedProtocol)?;
        let pool = self.pools.index(pool).ok_or(Drop::PoolExhausted)?;
        let who = Inside {
            vrf: key.vrf,
            address: key.src,
            pool,
        };
        let known = self.subscriber(&who);
        if known.is_some_and(|subscriber| self.pools.is_retired(self.subscribers[subscriber].paired.on())) {
            return Err(self.count(pool, Short::Address));
        }
        if let Some(mapping) = known.and_then(|subscriber| self.inside(subscriber, key.src_port, class)) {
            self.use_again(mapping);
            return Ok(self.bound(mapping));
        }
        if !self.mapping_room() {
            return Err(Drop::MappingsFull);
        }
        let want = Want {
            by: known.map_or(Grantee::New(who), Grantee::Known),
            slot,
            class,
            odd: key.src_port % 2 == 1,
            way,
            reply: key.reversed(),
        };
        let (block, offset) = self.find_port(now, reign, &want)?;
        let mapping = self
            .open(now, block, offset, key.src_port, class)
            .ok_or(Drop::MappingsFull)?;
        Ok(self.bound(mapping))
    }

    /// A conntrack made from the mapping ended. The last one starts the port's rest.
    pub fn release(&mut self, now: Instant, mapping: u32) {
        self.use_less(now, mapping, true);
    }

    /// The conntrack that the mapping was bound, learned or retained for never came to be: as [`Nat::release`], but
    /// a port that nothing was ever sent from is free at once.
    pub fn cancel(&mut self, now: Instant, mapping: u32) {
        self.use_less(now, mapping, false);
    }

    /// The mapping that an outside packet to a pool address may use, if the pool lets anybody use its mappings
    /// (endpoint-independent filtering, RFC 4787 REQ-8); with endpoint-dependent filtering, none.
    #[must_use]
    pub fn inbound(&self, key: &FlowKey) -> Option<Inbound> {
        let class = Protocol::of(key.proto)?;
        let place = self.pools.place(key.vrf, &key.dst, key.dst_port)?;
        let settings = &self.pools.at(place.pool()).settings;
        if settings.filtering != Filtering::EndpointIndependent {
            return None;
        }
        let offset = key.dst_port - self.pools.lot(place).port_first(place);
        let mapping = self.outside(self.block_at(place)?, offset, class)?;
        let m = &self.mappings[mapping];
        let block = &self.blocks[m.block];
        (m.refs > 0).then_some(Inbound {
            vrf: block.inside_vrf,
            inside: block.subscriber,
            port: m.inside_port,
            mapping,
            part: NatPart {
                grant: block.grant,
                mapping: true,
            },
        })
    }

    /// One more conntrack uses the mapping: each needs its own [`Nat::release`].
    pub fn retain(&mut self, mapping: u32) {
        self.use_again(mapping);
    }

    /// Bounded upkeep, at most `budget` steps: ports whose rest is over become free, and blocks that have been empty for long
    /// enough are released where this node is `active` for the subscriber's slot. (VRFs that share a pool share an HA group, so
    /// one standby block at the head of a pool's idle blocks speaks for all.) Answers how many it took.
    pub fn tick(&mut self, now: Instant, budget: u32, active: impl Fn(SlotRef) -> bool) -> u32 {
        let mut left = budget;
        let pools = self.resting.len();
        for step in 0..pools {
            let pool = (self.tick_from + step) % pools;
            if left > 0 && self.rested(now, pool).is_some() {
                self.expect_rested(pool, left as usize);
            }
            while left > 0
                && let Some(id) = self.rested(now, pool)
            {
                self.end_rest(now, id);
                left -= 1;
            }
            while left > 0
                && let Some(id) = self.idled(now, pool)
                && active(self.blocks[id].at())
            {
                self.release_block(now, id);
                left -= 1;
            }
        }
        self.tick_from = (self.tick_from + 1) % pools.max(1);
        budget - left
    }

    /// The next log event.
    pub fn pop_event(&mut self) -> Option<BlockEvent> {
        self.events.pop_front()
    }

    /// Whether anybody may send to the mapping: then it is worth something without the conntrack that made it.
    #[must_use]
    pub fn is_open_to_all(&self, mapping: u32) -> bool {
        let block = &self.blocks[self.mappings[mapping].block];
        self.pools.at(block.place.pool()).settings.filtering == Filtering::EndpointIndependent
    }

    fn bound(&self, mapping: u32) -> Bound {
        let m = &self.mappings[mapping];
        let block = &self.blocks[m.block];
        Bound {
            external: block.address,
            port: block.port_first + m.offset,
            mapping,
            part: NatPart {
                grant: block.grant,
                mapping: true,
            },
        }
    }
}

/// Adds an entry to an index that was made for as many keys as there are entries.
fn enter(index: &mut Moving, hash: u64, id: u32) {
    let entered = index.insert(hash, id);
    debug_assert!(
        entered.is_ok(),
        "an index has a place for every entry of its arena"
    );
}
