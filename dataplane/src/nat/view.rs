//! What operators see of a worker's NAT: counters per pool, and subscribers and blocks in slices that a request can
//! resume, so that a long listing never holds up the packet path.

use core::ops::AddAssign;

use super::mapping::Protocol;
use super::pool::PoolRef;
use super::{Block, Nat};
use crate::flow::{Addr, VrfId};

/// One worker's share of a pool, and what it has counted since it started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Subscribers that hold blocks.
    pub subscribers: u32,
    /// Blocks held.
    pub blocks: u32,
    /// Ports in use per [`Protocol`].
    pub ports: [u32; Protocol::COUNT],
    /// Ports that rest, over all protocols.
    pub resting: u32,
    /// Blocks granted here.
    pub granted: u64,
    /// Blocks released here: by idling, or with their address.
    pub released: u64,
    /// First packets refused: no free block in the pool.
    pub pool_exhausted: u64,
    /// First packets refused: no free block on the subscriber's public address.
    pub address_exhausted: u64,
    /// First packets refused: the subscriber's quota of blocks is full.
    pub quota_reached: u64,
    /// Mappings that took a port or block of the peer's half in doubt.
    pub ports_borrowed: u64,
    /// First packets refused: this node's half is used up, in doubt, and the pool lets nobody borrow.
    pub refused_in_doubt: u64,
    /// Mappings whose port brings replies home, into a receive queue of the worker that owns them.
    pub ports_homed: u64,
    /// Mappings for which no such port was free.
    pub ports_unhomed: u64,
    /// Rests ended early because the mapping table was full.
    pub rests_cut_short: u64,
}

impl AddAssign for PoolUsage {
    fn add_assign(&mut self, other: Self) {
        self.subscribers += other.subscribers;
        self.blocks += other.blocks;
        for (mine, theirs) in self.ports.iter_mut().zip(other.ports) {
            *mine += theirs;
        }
        self.resting += other.resting;
        self.granted += other.granted;
        self.released += other.released;
        self.pool_exhausted += other.pool_exhausted;
        self.address_exhausted += other.address_exhausted;
        self.quota_reached += other.quota_reached;
        self.ports_borrowed += other.ports_borrowed;
        self.refused_in_doubt += other.refused_in_doubt;
        self.ports_homed += other.ports_homed;
        self.ports_unhomed += other.ports_unhomed;
        self.rests_cut_short += other.rests_cut_short;
    }
}

/// A subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserRow {
    /// VRF of the inside address.
    pub vrf: VrfId,
    /// Inside address.
    pub subscriber: Addr,
    /// Pool.
    pub pool: PoolRef,
    /// Paired public address.
    pub address: Addr,
    /// Blocks held.
    pub blocks: u32,
    /// Ports in use, over all protocols.
    pub used: u32,
    /// Ports that rest, over all protocols.
    pub resting: u32,
}

/// A held block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRow {
    /// VRF of the inside address.
    pub vrf: VrfId,
    /// Inside address.
    pub subscriber: Addr,
    /// Pool.
    pub pool: PoolRef,
    /// Public address.
    pub address: Addr,
    /// First port.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Identity of the grant.
    pub grant: u64,
    /// Slot of the subscriber.
    pub slot: u16,
    /// Ports in use, over all protocols.
    pub used: u32,
    /// Ports that rest, over all protocols.
    pub resting: u32,
}

/// A mapping, in use or resting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingRow {
    /// Conntracks that use it; 0 while it rests.
    pub conntracks: u32,
    /// A conntrack of it has ended.
    pub served: bool,
}

impl Nat {
    /// A mapping, for tests and diagnosis.
    #[must_use]
    pub fn mapping(&self, id: u32) -> MappingRow {
        let mapping = &self.mappings[id];
        MappingRow {
            conntracks: mapping.refs,
            served: mapping.served,
        }
    }

    /// This worker's share of a pool.
    #[must_use]
    pub fn usage(&self, pool: PoolRef) -> Option<PoolUsage> {
        self.usage.get(self.pools.index(pool)?).copied()
    }

    /// Log events that found the queue full.
    #[must_use]
    pub const fn events_lost(&self) -> u64 {
        self.events_lost
    }

    /// The block of a mapping.
    #[must_use]
    pub fn block_of(&self, mapping: u32) -> u32 {
        self.mappings[mapping].block
    }

    /// Appends the subscribers found in at most `count` places from place `from` on. Returns where to go on, none
    /// at the end. Start with 0.
    pub fn users(&self, from: u32, count: u32, rows: &mut Vec<UserRow>) -> Option<u32> {
        slice(self.subscribers.places().len(), from, count, |id| {
            let s = &self.subscribers[id];
            if s.held == 0 {
                return;
            }
            let sum = |of: fn(&Block) -> u32| self.blocks_of(id).map(|b| of(&self.blocks[b])).sum();
            let paired = s.paired;
            rows.push(UserRow {
                vrf: s.who.vrf,
                subscriber: s.who.address,
                pool: self.pools.at(s.who.pool).shown(),
                address: self.pools.lot(paired).address(paired),
                blocks: s.held,
                used: sum(|b| b.used),
                resting: sum(|b| b.resting),
            });
        })
    }

    /// Appends the held blocks found in at most `count` places from place `from` on. Returns where to go on, none
    /// at the end. Start with 0.
    pub fn blocks(&self, from: u32, count: u32, rows: &mut Vec<BlockRow>) -> Option<u32> {
        slice(self.blocks.places().len(), from, count, |id| {
            let b = &self.blocks[id];
            if !b.held() {
                return;
            }
            rows.push(BlockRow {
                vrf: b.inside_vrf,
                subscriber: b.subscriber,
                pool: self.pools.at(b.place.pool()).shown(),
                address: b.address,
                port_first: b.port_first,
                port_last: b.port_first + (self.pools.lot(b.place).block_size() - 1),
                grant: b.grant,
                slot: b.slot,
                used: b.used,
                resting: b.resting,
            });
        })
    }
}

/// Visits `count` of `len` places from `from` on; returns the next one, if any.
fn slice(len: usize, from: u32, count: u32, visit: impl FnMut(u32)) -> Option<u32> {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let to = from.saturating_add(count).min(len);
    (from..to).for_each(visit);
    (to < len).then_some(to)
}
