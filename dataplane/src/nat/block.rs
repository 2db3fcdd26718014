//! A port block.

use super::pool::PoolRef;
use crate::flow::{Addr, VrfId};
use crate::slot::SyncState;

/// A run of ports of one public address, granted to one subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Identity of the grant.
    pub grant: u64,
    /// VRF of the subscriber.
    pub inside_vrf: VrfId,
    /// Inside address that owns the block.
    pub subscriber: Addr,
    /// Pool.
    pub pool: PoolRef,
    /// Public address.
    pub address: Addr,
    /// First port.
    pub port_first: u16,
    /// Slot of the subscriber.
    pub slot: u16,
    /// Ports mapped, over all protocols.
    pub used: u32,
    /// Replication state: the slot code's.
    pub sync: SyncState,
}

/// A grant or release to be told to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockChange {
    /// The block.
    pub id: u32,
    /// Granted (and still held), or released: then [`super::Nat::free_block`] it when that is emitted.
    pub held: bool,
}
