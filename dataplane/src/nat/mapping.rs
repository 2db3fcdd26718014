//! Mappings: an inside endpoint and the public endpoint that stands for it (RFC 4787 REQ-1, RFC 5382 REQ-1,
//! RFC 5508 REQ-1: whatever the destination).
//!
//! Born when a first packet binds or a record is learned; shared by all conntracks of the inside endpoint; when
//! the last of them ends, the mapping *rests*: it keeps its port from everybody but its own inside endpoint for
//! `port_rest_s` (RFC 6888 REQ-8), and is then freed by `tick`. When the table has no free place, the mapping
//! that has rested longest is freed early, and counted.

use arrayvec::ArrayVec;

use super::arena::{Links, NIL};
use super::block::Block;
use super::{LearnError, Nat, enter};
use crate::conntrack::hash_words;
use crate::flow::proto;
use crate::prefetch::prefetch_all;
use crate::time::Instant;

/// Mappings whose rests end together.
const TOGETHER: usize = 16;

/// What has ports or identifiers to hand out; each has its own number space.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP ports.
    #[default]
    Tcp = 0,
    /// UDP ports.
    Udp = 1,
    /// ICMP query identifiers.
    Icmp = 2,
}

impl Protocol {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// From the IANA number; none for what cannot be translated.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            proto::TCP => Some(Self::Tcp),
            proto::UDP => Some(Self::Udp),
            proto::ICMP => Some(Self::Icmp),
            _ => None,
        }
    }

    /// Name used by metrics and ctl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// One mapping. The addresses are those of its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapping {
    /// Block of the public port; `NIL` only in a free place.
    pub(super) block: u32,
    /// Conntracks that use it; 0 while it rests.
    pub(super) refs: u32,
    pub(super) inside_port: u16,
    /// Public port, as an offset into the block.
    pub(super) offset: u16,
    pub(super) class: Protocol,
    /// A conntrack of it has ended: packets may have left from the port.
    pub(super) served: bool,
    /// When its rest began, in seconds.
    pub(super) rests_since_s: u32,
    pub(super) rest: Links,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            block: NIL,
            refs: 0,
            inside_port: 0,
            offset: 0,
            class: Protocol::Tcp,
            served: false,
            rests_since_s: 0,
            rest: Links::default(),
        }
    }
}

impl Nat {
    /// The mapping of an inside endpoint, in use or resting.
    pub(super) fn inside(&self, subscriber: u32, port: u16, class: Protocol) -> Option<u32> {
        self.inside_index
            .find(self.endpoint_hash(subscriber, port, class), |id| {
                let m = &self.mappings[id];
                m.inside_port == port && m.class == class && self.blocks[m.block].owner == subscriber
            })
    }

    /// The mapping of a public endpoint, in use or resting.
    pub(super) fn outside(&self, block: u32, offset: u16, class: Protocol) -> Option<u32> {
        self.outside_index
            .find(self.endpoint_hash(block, offset, class), |id| {
                let m = &self.mappings[id];
                m.block == block && m.offset == offset && m.class == class
            })
    }

    /// Asks for the memory of [`Self::inside`].
    pub(super) fn expect_inside(&self, subscriber: u32, port: u16, class: Protocol) {
        self.inside_index
            .prefetch(self.endpoint_hash(subscriber, port, class));
    }

    /// Asks for the memory of [`Self::outside`].
    pub(super) fn expect_outside(&self, block: u32, offset: u16, class: Protocol) {
        self.outside_index
            .prefetch(self.endpoint_hash(block, offset, class));
    }

    /// Asks for a mapping that a conntrack gives back soon.
    pub(crate) fn expect_release(&self, id: u32) {
        prefetch_all(&self.mappings[id]);
    }

    /// As [`Self::expect_release`], a pass later: asks for the block of its port.
    pub(crate) fn expect_release_block(&self, id: u32) {
        let block = self.mappings[id].block;
        if block != NIL {
            prefetch_all(&self.blocks[block]);
        }
    }

    /// Whether [`Nat::open`] will find a place.
    pub(super) fn mapping_room(&self) -> bool {
        self.mappings.has_room() || self.longest_resting().is_some()
    }

    /// Maps an inside port to a free port of a block. The mapping is in use by one conntrack.
    pub(super) fn open(
        &mut self,
        now: Instant,
        block: u32,
        offset: u16,
        inside_port: u16,
        class: Protocol,
    ) -> Option<u32> {
        let id = match self.mappings.take() {
            Some(id) => id,
            None => {
                let resting = self.longest_resting()?;
                self.usage[self.blocks[self.mappings[resting].block].place.pool()].rests_cut_short += 1;
                self.end_rest(now, resting);
                self.mappings.take()?
            }
        };
        let Block { owner, place, .. } = self.blocks[block];
        let (inside, outside) = (
            self.endpoint_hash(owner, inside_port, class),
            self.endpoint_hash(block, offset, class),
        );
        self.outside_index.prefetch(outside);
        self.mappings[id] = Mapping {
            block,
            refs: 1,
            inside_port,
            offset,
            class,
            ..Mapping::default()
        };
        self.pools.lot(place).set_port(place, class, offset, true);
        self.busy(block);
        let b = &mut self.blocks[block];
        b.taken[class as usize] += 1;
        b.used += 1;
        self.usage[place.pool()].ports[class as usize] += 1;
        enter(&mut self.inside_index, inside, id);
        enter(&mut self.outside_index, outside, id);
        Some(id)
    }

    /// One more conntrack; ends a rest.
    pub(super) fn use_again(&mut self, id: u32) {
        let m = &mut self.mappings[id];
        m.refs += 1;
        if m.refs > 1 {
            return;
        }
        let (block, class) = (m.block, m.class);
        let b = &mut self.blocks[block];
        b.used += 1;
        b.resting -= 1;
        let pool = b.place.pool();
        self.usage[pool].ports[class as usize] += 1;
        self.usage[pool].resting -= 1;
        self.resting[pool].remove(&mut self.mappings, id, |m| &mut m.rest);
    }

    /// One conntrack less; the last one starts the rest. A mapping that never served one needs no rest.
    pub(super) fn use_less(&mut self, now: Instant, id: u32, served: bool) {
        let m = &mut self.mappings[id];
        debug_assert!(m.block != NIL && m.refs > 0, "released more often than retained");
        if m.block == NIL || m.refs == 0 {
            return;
        }
        m.refs -= 1;
        m.served |= served;
        if m.refs > 0 {
            return;
        }
        m.rests_since_s = now.secs();
        let Mapping {
            block, class, served, ..
        } = *m;
        let b = &mut self.blocks[block];
        b.used -= 1;
        b.resting += 1;
        let pool = b.place.pool();
        self.usage[pool].ports[class as usize] -= 1;
        self.usage[pool].resting += 1;
        self.resting[pool].push(&mut self.mappings, id, |m| &mut m.rest);
        if !served || self.pools.at(pool).settings.port_rest_s == 0 {
            self.end_rest(now, id);
        }
    }

    /// Frees a resting mapping and its port; its block may become idle.
    pub(super) fn end_rest(&mut self, now: Instant, id: u32) {
        let block = self.mappings[id].block;
        self.unmap(id);
        let b = &self.blocks[block];
        if b.used == 0 && b.resting == 0 {
            self.idle(now.secs(), block);
        }
    }

    /// The first mapping of a pool whose rest is over.
    pub(super) fn rested(&self, now: Instant, pool: usize) -> Option<u32> {
        let id = self.resting[pool].first()?;
        let rested_s = now.secs().saturating_sub(self.mappings[id].rests_since_s);
        // Strictly more whole seconds: at least the configured time, whatever the fractions.
        (rested_s > self.pools.at(pool).settings.port_rest_s).then_some(id)
    }

    /// Asks for what it touches to end the rests of the next `most` mappings, or as many as fit into the nearest cache: nobody
    /// has used them for long.
    pub(super) fn expect_rested(&self, pool: usize, most: usize) {
        let next = |&id: &u32| self.mappings[id].rest.next();
        let ids = core::iter::successors(self.resting[pool].first(), next);
        let ids: ArrayVec<u32, TOGETHER> = ids.take(most.min(TOGETHER)).collect();
        for &id in &ids {
            prefetch_all(&self.blocks[self.mappings[id].block]);
        }
        for &id in &ids {
            let [inside, outside] = self.mapping_hashes(id);
            self.inside_index.prefetch(inside);
            self.outside_index.prefetch(outside);
        }
    }

    /// Frees the resting mappings of a block; refuses, without a change, when one is in use.
    pub(super) fn clear_block(&mut self, block: u32) -> Result<(), LearnError> {
        let Block {
            used, place, taken, ..
        } = self.blocks[block];
        if used > 0 {
            return Err(LearnError::InUse { block });
        }
        for class in Protocol::ALL
            .into_iter()
            .filter(|&class| taken[class as usize] > 0)
        {
            for offset in 0..self.pools.lot(place).block_size() {
                if let Some(id) = self.outside(block, offset, class) {
                    self.unmap(id);
                }
            }
        }
        Ok(())
    }

    fn unmap(&mut self, id: u32) {
        let Mapping {
            block, offset, class, ..
        } = self.mappings[id];
        let place = self.blocks[block].place;
        self.resting[place.pool()].remove(&mut self.mappings, id, |m| &mut m.rest);
        let [inside, outside] = self.mapping_hashes(id);
        self.inside_index.remove(inside, id);
        self.outside_index.remove(outside, id);
        self.mappings.give(id);
        self.pools.lot(place).set_port(place, class, offset, false);
        let b = &mut self.blocks[block];
        b.resting -= 1;
        b.taken[class as usize] -= 1;
        self.usage[place.pool()].resting -= 1;
    }

    /// The mapping to free when there is no place left: the oldest of the pool with the longest overdue rest.
    fn longest_resting(&self) -> Option<u32> {
        self.resting
            .iter()
            .filter_map(|list| list.first())
            .min_by_key(|&id| self.mappings[id].rests_since_s)
    }

    /// Of its inside and of its outside endpoint.
    pub(super) fn mapping_hashes(&self, id: u32) -> [u64; 2] {
        let m = &self.mappings[id];
        [
            self.endpoint_hash(self.blocks[m.block].owner, m.inside_port, m.class),
            self.endpoint_hash(m.block, m.offset, m.class),
        ]
    }

    fn endpoint_hash(&self, of: u32, port: u16, class: Protocol) -> u64 {
        hash_words([of.into(), u64::from(port) << 8 | class as u64], self.hash_seed)
    }
}
