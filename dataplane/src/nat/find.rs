//! Where the port of a new mapping comes from: a free one of the subscriber's blocks, else of a further block.
//!
//! Which ports and blocks may be looked at, and in which order, follows from the node's [`Share`](crate::share::Share).
//! Among those a port of the inside port's parity goes first, and among these one that brings replies home, into a receive
//! queue of this worker ([`crate::rss`]). The search is a scan of bitmaps from a random place on; nothing changes unless
//! a port is found.

use super::block::Grantee;
use super::lot::Wish;
use super::mapping::Protocol;
use super::pool::Place;
use super::random::Random;
use super::{Block, Nat, Reign};
use crate::config::InDoubt;
use crate::delta::Term;
use crate::flow::FlowKey;
use crate::io::PortId;
use crate::rss::Home;
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
    /// Port of this node that replies come in by, if any one.
    pub(super) way: Option<PortId>,
    /// A reply, but for where it goes to.
    pub(super) reply: FlowKey,
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
        if let Ok((block, offset)) = found {
            self.count_home(pool, want, block, offset);
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

    /// A free port of the subscriber's blocks on its paired address: of the inside port's parity, from any of them, where
    /// replies come home; else where they don't; else of any parity.
    fn port_of(&mut self, subscriber: u32, want: &Want, part: Part) -> Option<(u32, u16)> {
        let random = self.random.next();
        let paired = self.subscribers[subscriber].paired;
        let home = self.home(want, paired);
        let wishes = [(Some(want.odd), home), (Some(want.odd), None), (None, None)];
        // Without a home the first two are the same.
        let wishes = &wishes[usize::from(home.is_none())..];
        wishes.iter().find_map(|&(odd, home)| {
            let mut of_paired = self
                .blocks_of(subscriber)
                .filter(|&id| self.blocks[id].place.on() == paired.on());
            of_paired.find_map(|id| {
                let offset = self.free_port(id, want.class, random, Wish { odd, part, home })?;
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
        let anywhere = Wish {
            odd: Some(want.odd),
            part: share.half(),
            home: None,
        };
        let home = self.home(want, self.blocks[block].place);
        let offset = home
            .and_then(|home| {
                let wish = Wish {
                    home: Some(home),
                    ..anywhere
                };
                self.free_port(block, want.class, random, wish)
            })
            .or_else(|| self.free_port(block, want.class, random, anywhere))
            .ok_or(Short::Address)?;
        Ok((block, offset))
    }

    /// Whose home replies to a public address should come to, and what they hash to but for their port.
    fn home(&self, want: &Want, to: Place) -> Option<(&Home, u32)> {
        let home = self.homes.get(want.way?.index())?.as_ref()?;
        let reply = FlowKey {
            dst: self.pools.lot(to).address(to),
            ..want.reply
        };
        Some((home, home.base(&reply)?))
    }

    fn count_home(&mut self, pool: usize, want: &Want, block: u32, offset: u16) {
        let place = self.blocks[block].place;
        let port = self.pools.lot(place).port_first(place) + offset;
        let comes_home = self
            .home(want, place)
            .map(|(home, base)| home.is_home(base, port));
        let usage = &mut self.usage[pool];
        usage.ports_homed += u64::from(comes_home == Some(true));
        usage.ports_unhomed += u64::from(comes_home == Some(false));
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

    /// A free port of a block from a random place on, as an offset.
    fn free_port(&self, block: u32, class: Protocol, random: u64, wish: Wish<'_>) -> Option<u16> {
        let Block { place, taken, .. } = self.blocks[block];
        let lot = self.pools.lot(place);
        if taken[class as usize] >= lot.block_size() {
            return None;
        }
        let (from, to) = lot.offsets(wish.part);
        let start = from + Random::new(random).below_u16(to - from);
        lot.free_port(place, class, start, wish)
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
