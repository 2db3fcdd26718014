//! Where the port of a new mapping comes from: a free one of the subscriber's blocks, else of a further block.
//!
//! Which ports and blocks may be looked at, and in which order, follows from the node's [`Share`](crate::share::Share).
//! The search is a scan of bitmaps from a random place on; nothing changes unless a port is found.

use super::block::Grantee;
use super::mapping::Protocol;
use super::random::Random;
use super::{Block, Nat, Reign};
use crate::config::InDoubt;
use crate::delta::Term;
use crate::share::Part;
use crate::time::Instant;
use crate::verdict::Drop;

/// The port that a first packet wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) by: Grantee,
    /// Slot of the subscriber.
    pub(super) slot: u16,
    pub(super) class: Protocol,
    /// Parity of the inside port, to be kept if possible (RFC 4787 REQ-4).
    pub(super) odd: bool,
}

/// Why there is no port. Counted only when it is the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// A new subscriber found no free block.
    Pool,
    /// No free block on the subscriber's paired address.
    Address,
    /// The subscriber holds as many blocks as it may.
    Quota,
    /// One of this worker's tables is full.
    Table(Drop),
}

impl Nat {
    /// Block and offset of a free port; a further block is granted for it if need be.
    ///
    /// # Errors
    /// As [`Nat::bind`]. Counted here.
    pub(super) fn find_port(&mut self, now: Instant, reign: Reign, want: &Want) -> Result<(u32, u16), Drop> {
        let pool = self.pool_of(want.by);
        let mut rounds = reign.share.rounds().iter();
        let own = rounds.next().copied().unwrap_or_default();
        let mut found = self.find_in(now, reign, want, own);
        if found.is_err()
            && let Some(others) = rounds.next()
        {
            if self.pools.at(pool).settings.in_doubt == InDoubt::Refuse {
                self.usage[pool].refused_in_doubt += 1;
            } else {
                found = self.find_in(now, reign, want, others);
                self.usage[pool].ports_borrowed += u64::from(found.is_ok());
            }
        }
        found.map_err(|short| self.count(pool, short))
    }

    /// One round: a port of the parts from the blocks there are, else from a further block out of them.
    fn find_in(
        &mut self,
        now: Instant,
        reign: Reign,
        want: &Want,
        parts: &[Part],
    ) -> Result<(u32, u16), Short> {
        if let Grantee::Known(subscriber) = want.by {
            if let Some(found) = parts
                .iter()
                .find_map(|part| self.port_of(subscriber, want, *part))
            {
                return Ok(found);
            }
            let pool = self.subscribers[subscriber].who.pool;
            let quota = self.pools.at(pool).settings.blocks_per_subscriber_max;
            if self.subscribers[subscriber].held >= quota.into() {
                return Err(Short::Quota);
            }
        }
        self.port_of_new_block(now, reign, want, parts)
    }

    /// A free port of the subscriber's blocks on its paired address: of the inside port's parity from any of them, else
    /// of any parity.
    fn port_of(&mut self, subscriber: u32, want: &Want, part: Part) -> Option<(u32, u16)> {
        let random = self.random.next();
        let paired = self.subscribers[subscriber].paired.on();
        [Some(want.odd), None].into_iter().find_map(|odd| {
            let mut of_paired = self
                .blocks_of(subscriber)
                .filter(|&id| self.blocks[id].place.on() == paired);
            of_paired.find_map(|id| {
                let offset = self.free_port(id, want.class, random, odd, part)?;
                Some((id, offset))
            })
        })
    }

    /// A port of this node's own half, whichever half of the blocks the block is from.
    fn port_of_new_block(
        &mut self,
        now: Instant,
        reign: Reign,
        want: &Want,
        parts: &[Part],
    ) -> Result<(u32, u16), Short> {
        let Reign { term, share } = reign;
        let random = self.random.next();
        let block = self.grant_of(now, term, want, parts)?;
        // A fresh block has 64 free ports or more, a quarter of them of the wanted half and parity.
        let offset = self
            .free_port(block, want.class, random, Some(want.odd), share.half())
            .ok_or(Short::Address)?;
        Ok((block, offset))
    }

    /// A block of the first part that has one.
    fn grant_of(&mut self, now: Instant, term: Term, want: &Want, parts: &[Part]) -> Result<u32, Short> {
        let mut outcome = Err(Short::Pool);
        for part in parts {
            outcome = self.grant(now, term, want.by, want.slot, *part);
            if !matches!(outcome, Err(Short::Pool | Short::Address)) {
                break;
            }
        }
        outcome
    }

    /// A free port of a part of a block from a random place on, as an offset.
    fn free_port(
        &self,
        block: u32,
        class: Protocol,
        random: u64,
        odd: Option<bool>,
        part: Part,
    ) -> Option<u16> {
        let Block { place, taken, .. } = self.blocks[block];
        let lot = self.pools.lot(place);
        if taken[class as usize] >= lot.block_size() {
            return None;
        }
        let (from, to) = lot.offsets(part);
        let start = from + Random::new(random).below_u16(to - from);
        lot.free_port(place, class, start, odd, part)
    }

    fn pool_of(&self, grantee: Grantee) -> usize {
        match grantee {
            Grantee::Known(subscriber) => self.subscribers[subscriber].who.pool,
            Grantee::New(who) => who.pool,
        }
    }

    pub(super) fn count(&mut self, pool: usize, short: Short) -> Drop {
        let usage = &mut self.usage[pool];
        let (counter, reason) = match short {
            Short::Pool => (&mut usage.pool_exhausted, Drop::PoolExhausted),
            Short::Address => (&mut usage.address_exhausted, Drop::PortsExhausted),
            Short::Quota => (&mut usage.quota_reached, Drop::PortsExhausted),
            Short::Table(reason) => return reason,
        };
        *counter += 1;
        reason
    }
}
