//! How a worker's NAT goes over to changed pools.
//!
//! What has been granted is untouched: numbers of pools and lots mean the same as before. On addresses that were taken out
//! of the configuration no block is granted, and no packet from outside finds its worker; the flows there are ended by
//! whoever owns the tables ([`crate::retirement`]), and each block with its last one.

use std::sync::Arc;

use super::arena::List;
use super::{Nat, PoolUsage, Pools};
use crate::time::Instant;

impl Nat {
    /// Takes over changed pools; false if they are those of before. What was counted of a pool that is gone is not
    /// counted for the one that has its number now.
    pub(crate) fn observe(&mut self, pools: &Arc<Pools>) -> bool {
        if Arc::ptr_eq(&self.pools, pools) {
            return false;
        }
        let before = core::mem::replace(&mut self.pools, Arc::clone(pools));
        for number in 0..self.usage.len() {
            if before.at(number).serial != pools.at(number).serial {
                self.usage[number] = PoolUsage::default();
            }
        }
        // Grows with the most pools there have been, and never otherwise.
        self.usage.resize(pools.count(), PoolUsage::default());
        self.idle.resize(pools.count(), List::default());
        self.resting.resize(pools.count(), List::default());
        true
    }

    /// Whether the address of a block is configured no more.
    pub(crate) fn is_retired(&self, block: u32) -> bool {
        self.pools.is_retired(self.blocks[block].place.on())
    }

    /// Releases a block whose address is gone, with the ports that rest in it. False while conntracks use it.
    pub(crate) fn end_retired(&mut self, now: Instant, block: u32) -> bool {
        let clear = self.clear_block(block).is_ok();
        if clear {
            self.release_block(now, block);
        }
        clear
    }

    /// Places of blocks, held or not: their ids are below this.
    pub(crate) fn block_places(&self) -> u32 {
        u32::try_from(self.blocks.places().len()).unwrap_or(u32::MAX)
    }
}
