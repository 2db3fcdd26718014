//! Asks for the memory that [`Nat::bind`] will touch, for a burst of first packets at once, so that their waits overlap.
//!
//! Each pass reads what the one before has asked for, and what it finds is a guess: `bind` looks for itself, and a wrong guess
//! costs it a wait. A subscriber that is new has nothing to ask for.

use super::Nat;
use super::arena::NIL;
use super::mapping::Protocol;
use super::pool::PoolRef;
use super::subscriber::Inside;
use crate::flow::FlowKey;
use crate::prefetch::prefetch_all;

/// How far a bind that comes is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    class: Protocol,
    port: u16,
    /// Hash of the subscriber.
    hash: u64,
    /// Who it probably is; [`NIL`] for nobody.
    subscriber: u32,
    /// The block that is probably searched first.
    block: u32,
}

impl Nat {
    /// First pass: asks for where the index has the subscriber. None when nothing will be bound.
    #[inline]
    pub(crate) fn expect_bind(&self, key: &FlowKey, pool: PoolRef) -> Option<Ahead> {
        let class = Protocol::of(key.proto)?;
        let pool = self.pools.index(pool)?;
        let hash = self.subscriber_hash(&Inside {
            vrf: key.vrf,
            address: key.src,
            pool,
        });
        self.subscriber_index.prefetch(hash);
        Some(Ahead {
            class,
            port: key.src_port,
            hash,
            subscriber: NIL,
            block: NIL,
        })
    }

    /// Second pass: asks for the subscriber.
    #[inline]
    pub(crate) fn expect_subscriber(&self, ahead: &mut Ahead) {
        if let Some(id) = self.subscriber_index.candidate(ahead.hash) {
            ahead.subscriber = id;
            prefetch_all(&self.subscribers[id]);
        }
    }

    /// Third pass: asks for where the index has the mapping, for the subscriber's first block, and for the place of the mapping that is
    /// made when `later` others have been.
    #[inline]
    pub(crate) fn expect_own_mapping(&self, ahead: &mut Ahead, later: usize) {
        if ahead.subscriber == NIL {
            return;
        }
        self.expect_inside(ahead.subscriber, ahead.port, ahead.class);
        self.mappings.expect_new(later);
        if let Some(block) = self.subscribers[ahead.subscriber].blocks.first() {
            ahead.block = block;
            prefetch_all(&self.blocks[block]);
        }
    }

    /// Fourth pass: asks for the bits of the block's ports.
    #[inline]
    pub(crate) fn expect_ports(&self, ahead: &Ahead) {
        if ahead.block != NIL {
            let place = self.blocks[ahead.block].place;
            self.pools.lot(place).expect_ports(place, ahead.class);
        }
    }
}
