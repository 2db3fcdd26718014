//! Blocks and mappings that change hands with their slot ([`crate::transit`]): taken out of one worker's books as they are, and
//! entered into another's.
//!
//! What the pool says about them stays as it is throughout: the block is held by the same slot, and its ports are taken. So
//! packets from outside find their way, and nobody gets such a port meanwhile.

use super::block::{Block, Grantee};
use super::learn::translation;
use super::mapping::{Mapping, Protocol};
use super::pool::Place;
use super::subscriber::Inside;
use super::{Nat, enter};
use crate::delta::PutRecord;
use crate::flow::{Addr, VrfId};
use crate::slot::SyncState;

/// Ports of a block looked at in one search for a mapping.
const LOOKS: u32 = 256;

/// A block on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockParcel {
    place: Place,
    grant: u64,
    inside_vrf: VrfId,
    subscriber: Addr,
    slot: u16,
    idle_since_s: u32,
    sync: SyncState,
}

impl BlockParcel {
    /// Peers have still to be told of a change of it.
    pub(crate) const fn is_listed(&self) -> bool {
        self.sync.dirty
    }
}

/// A mapping on its way, with the conntracks that it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MappingParcel {
    place: Place,
    inside_port: u16,
    offset: u16,
    class: Protocol,
    refs: u32,
    served: bool,
    rests_since_s: u32,
}

/// What a search for a block's next mapping has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// This one.
    Found(u32),
    /// None so far; go on from this port.
    On(u32),
    /// There are no more.
    Over,
}

impl Nat {
    /// Mappings of a block, in use or resting.
    pub(crate) fn mappings_of(&self, block: u32) -> u32 {
        let block = &self.blocks[block];
        block.taken.iter().copied().map(u32::from).sum()
    }

    /// The next mapping of a block, from port number `from` of all protocols on.
    pub(crate) fn next_mapping(&self, block: u32, from: u32) -> Search {
        let Block { place, taken, .. } = self.blocks[block];
        let lot = self.pools.lot(place);
        let size = u32::from(lot.block_size());
        let mut at = from;
        while at < from + LOOKS {
            let Some(&class) = Protocol::ALL.get((at / size) as usize) else {
                return Search::Over;
            };
            if taken[class as usize] == 0 {
                at = (at / size + 1) * size;
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "a remainder by 16 bits")]
            let offset = (at % size) as u16;
            if let Some(id) = self.outside(block, offset, class) {
                return Search::Found(id);
            }
            at += 1;
        }
        Search::On(at)
    }

    /// Takes a mapping out; its port stays taken.
    pub(crate) fn pack_mapping(&mut self, id: u32) -> MappingParcel {
        let Mapping {
            block,
            refs,
            inside_port,
            offset,
            class,
            served,
            rests_since_s,
            ..
        } = self.mappings[id];
        let place = self.blocks[block].place;
        let pool = place.pool();
        self.resting[pool].remove(&mut self.mappings, id, |m| &mut m.rest);
        let [inside, outside] = self.mapping_hashes(id);
        self.inside_index.remove(inside, id);
        self.outside_index.remove(outside, id);
        self.mappings.give(id);
        let b = &mut self.blocks[block];
        b.taken[class as usize] -= 1;
        if refs > 0 {
            b.used -= 1;
            self.usage[pool].ports[class as usize] -= 1;
        } else {
            b.resting -= 1;
            self.usage[pool].resting -= 1;
        }
        MappingParcel {
            place,
            inside_port,
            offset,
            class,
            refs,
            served,
            rests_since_s,
        }
    }

    /// What to send of a block; its mappings follow, and then it is taken out.
    pub(crate) fn parcel_of(&self, id: u32) -> BlockParcel {
        let b = &self.blocks[id];
        BlockParcel {
            place: b.place,
            grant: b.grant,
            inside_vrf: b.inside_vrf,
            subscriber: b.subscriber,
            slot: b.slot,
            idle_since_s: b.idle_since_s,
            sync: b.sync,
        }
    }

    /// Takes out a block whose mappings are gone; it stays held.
    pub(crate) fn take_out(&mut self, id: u32) {
        debug_assert_eq!(self.mappings_of(id), 0, "mappings go first");
        self.leave_books(id);
        self.blocks.give(id);
    }

    /// Enters a block. None when there is no room.
    pub(crate) fn unpack_block(&mut self, parcel: &BlockParcel) -> Option<u32> {
        let who = Inside {
            vrf: parcel.inside_vrf,
            address: parcel.subscriber,
            pool: parcel.place.pool(),
        };
        let to = self.subscriber(&who).map_or(Grantee::New(who), Grantee::Known);
        let id = self.enter_block(parcel.place, to, parcel.grant, parcel.slot, parcel.idle_since_s)?;
        self.blocks[id].sync = parcel.sync.resettled();
        Some(id)
    }

    /// Enters a mapping of a block that is here. None when there is no room, or no such block.
    pub(crate) fn unpack_mapping(&mut self, parcel: &MappingParcel) -> Option<u32> {
        let block = self.block_at(parcel.place)?;
        let id = self.mappings.take()?;
        let (class, offset) = (parcel.class, parcel.offset);
        self.mappings[id] = Mapping {
            block,
            refs: parcel.refs,
            inside_port: parcel.inside_port,
            offset,
            class,
            served: parcel.served,
            rests_since_s: parcel.rests_since_s,
            ..Mapping::default()
        };
        let [inside, outside] = self.mapping_hashes(id);
        enter(&mut self.inside_index, inside, id);
        enter(&mut self.outside_index, outside, id);
        self.busy(block);
        let pool = parcel.place.pool();
        let b = &mut self.blocks[block];
        b.taken[class as usize] += 1;
        if parcel.refs > 0 {
            b.used += 1;
            self.usage[pool].ports[class as usize] += 1;
        } else {
            b.resting += 1;
            self.usage[pool].resting += 1;
            self.resting[pool].push(&mut self.mappings, id, |m| &mut m.rest);
        }
        Some(id)
    }

    /// The mapping that the conntrack of a record stands on, if it is here.
    pub(crate) fn mapping_of(&self, put: &PutRecord) -> Option<u32> {
        let class = Protocol::of(put.original.proto)?;
        let outside = translation(put)?.outside;
        let place = self
            .pools
            .known_place(outside.vrf, &outside.address, outside.port)?;
        let offset = outside.port - self.pools.lot(place).port_first(place);
        self.outside(self.block_at(place)?, offset, class)
    }

    /// The slot's share in a worker's books has room here, beside what is reserved already.
    pub(crate) fn has_room_for(&self, subscribers: u32, blocks: u32, mappings: u32) -> bool {
        self.subscribers.has_room_for(subscribers)
            && self.blocks.has_room_for(blocks)
            && self.mappings.has_room_for(mappings)
    }

    /// Keeps so many places back for a slot that is on its way here; 0 for none any more.
    pub(crate) fn keep_places(&mut self, subscribers: u32, blocks: u32, mappings: u32) {
        self.subscribers.keep_back(subscribers);
        self.blocks.keep_back(blocks);
        self.mappings.keep_back(mappings);
    }
}
