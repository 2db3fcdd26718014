//! Pools shared by all workers.

use crate::config::Intent;
use crate::flow::{Addr, VrfId};

/// A pool, by the VRF that it is configured in and its place there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolRef {
    /// VRF of the public addresses.
    pub vrf: VrfId,
    /// Index in [`crate::config::VrfIntent::pools`].
    pub pool: u16,
}

/// All pools of a node.
#[derive(Debug)]
pub struct Pools {}

impl Pools {
    /// Every block free.
    #[must_use]
    pub fn new(intent: &Intent, seed: u64) -> Self {
        let _ = (intent, seed);
        Self {}
    }

    /// The pool that `addr` belongs to.
    #[must_use]
    pub fn pool_of(&self, vrf: VrfId, addr: &Addr) -> Option<PoolRef> {
        let _ = (vrf, addr);
        None
    }

    /// Whether `addr` belongs to a pool.
    #[must_use]
    pub fn is_pool_address(&self, vrf: VrfId, addr: &Addr) -> bool {
        self.pool_of(vrf, addr).is_some()
    }

    /// Inside VRF and slot of the subscriber that holds the block of a public port or ICMP identifier.
    #[must_use]
    pub fn owner(&self, vrf: VrfId, addr: &Addr, port: u16) -> Option<(VrfId, u16)> {
        let _ = (vrf, addr, port);
        None
    }
}
