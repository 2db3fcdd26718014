//! The standby's side of allocation: what the peer's `bind` and `release` did, taken from its records.
//!
//! A record is first judged against what is here without touching it, then applied whole: a refusal changes
//! nothing. The newer grant of a block is right, whichever lane is slower: a record of an older one is refused,
//! and an older holder in the way is named, so that the caller evicts it (its conntracks, then
//! [`Nat::evict_block`]) and tries again. Quotas are the owner's business and aren't checked here.

use super::block::{Block, Grantee};
use super::mapping::Protocol;
use super::pool::Place;
use super::subscriber::Inside;
use super::{LearnError, Learned, Nat};
use crate::delta::{BlockRecord, PutRecord};
use crate::flow::{Addr, FlowKey, VrfId};
use crate::mutant::{self, Mutant};
use crate::prefetch::prefetch_all;
use crate::time::Instant;

/// What a record says about a block.
#[derive(Debug, Clone, Copy)]
struct Claim {
    place: Place,
    grant: u64,
    who: Inside,
}

/// What must be done so that a claim holds here.
#[derive(Debug, Clone, Copy)]
enum Holding {
    /// Nothing: the same grant is here.
    Here(u32),
    /// The place is free.
    Free,
}

/// The two endpoints that a translation ties together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) inside: Endpoint,
    pub(super) outside: Endpoint,
}

/// What [`Nat::learn`] will look for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    place: Place,
    inside_port: u16,
    /// Public port, as an offset into the block.
    offset: u16,
    class: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) vrf: VrfId,
    pub(super) address: Addr,
    pub(super) port: u16,
}

impl Nat {
    /// What the peer did for the conntrack of `put`: subscriber, block (granted by the mere mention, if its own
    /// record is still to come), mapping and exact port are here afterwards, and the mapping is retained once more.
    /// `slot` is the record's.
    ///
    /// # Errors
    /// See [`LearnError`]; nothing has changed then.
    pub fn learn(&mut self, now: Instant, put: &PutRecord, slot: u16) -> Result<Learned, LearnError> {
        let part = put
            .nat
            .filter(|part| part.mapping && part.grant != 0)
            .ok_or(LearnError::Unsupported)?;
        let class = Protocol::of(put.original.proto).ok_or(LearnError::Unsupported)?;
        let Translation { inside, outside } = translation(put).ok_or(LearnError::Unsupported)?;
        let place = self
            .pools
            .known_place(outside.vrf, &outside.address, outside.port)
            .ok_or(LearnError::NoPool)?;
        let who = Inside {
            vrf: inside.vrf,
            address: inside.address,
            pool: place.pool(),
        };
        let offset = outside.port - self.pools.lot(place).port_first(place);
        let claim = Claim {
            place,
            grant: part.grant,
            who,
        };

        let holding = self.judge(&claim)?;
        let (subscriber, by_outside) = match holding {
            Holding::Here(block) => (Some(self.blocks[block].owner), self.outside(block, offset, class)),
            Holding::Free => (self.subscriber(&who), None),
        };
        let by_inside = subscriber.and_then(|id| self.inside(id, inside.port, class));
        if let (Some(a), Some(b)) = (by_inside, by_outside)
            && a == b
        {
            let block = self.mappings[a].block;
            self.use_again(a);
            return Ok(Learned {
                mapping: a,
                block,
                block_new: false,
            });
        }
        // What rests makes way: the peer has ended its rest already. What is in use does not.
        let in_the_way = [by_inside, by_outside];
        for mapping in in_the_way.into_iter().flatten() {
            if self.mappings[mapping].refs > 0 && !mutant::on(Mutant::PortsOred) {
                return Err(LearnError::PortTaken { mapping });
            }
        }
        if !self.mapping_room() {
            return Err(LearnError::Full);
        }

        let block = self.hold(now, &claim, holding, slot)?;
        for mapping in in_the_way.into_iter().flatten() {
            self.end_rest(now, mapping);
        }
        let mapping = self
            .open(now, block, offset, inside.port, class)
            .ok_or(LearnError::Full)?;
        Ok(Learned {
            mapping,
            block,
            block_new: matches!(holding, Holding::Free),
        })
    }

    /// First of three passes before [`Self::learn`]: what the record of a conntrack means, and asks for the index line of its
    /// block. None when nothing of it is translated.
    pub(crate) fn expect(&self, put: &PutRecord) -> Option<Expected> {
        put.nat?;
        let class = Protocol::of(put.original.proto)?;
        let Translation { inside, outside } = translation(put)?;
        let place = self
            .pools
            .known_place(outside.vrf, &outside.address, outside.port)?;
        self.expect_block_at(place);
        Some(Expected {
            place,
            inside_port: inside.port,
            offset: outside.port - self.pools.lot(place).port_first(place),
            class,
        })
    }

    /// Second pass: asks for the block.
    pub(crate) fn expect_block(&self, expected: &Expected) {
        if let Some(id) = self.block_candidate(expected.place) {
            prefetch_all(&self.blocks[id]);
        }
    }

    /// Third pass: asks for both index lines of the mapping, which the block leads to.
    pub(crate) fn expect_mapping(&self, expected: &Expected) {
        if let Some(block) = self.block_at(expected.place) {
            self.expect_inside(self.blocks[block].owner, expected.inside_port, expected.class);
            self.expect_outside(block, expected.offset, expected.class);
        }
    }

    /// A block granted by the peer; `vrf` is the subscriber's. Returns the block's id, also when it is here already.
    ///
    /// # Errors
    /// See [`LearnError`]; nothing has changed then.
    pub fn learn_block(
        &mut self,
        now: Instant,
        rec: &BlockRecord,
        vrf: VrfId,
        slot: u16,
    ) -> Result<u32, LearnError> {
        if !rec.subscriber.is_v4() || rec.grant == 0 {
            return Err(LearnError::Unsupported);
        }
        let place = self.place_of(rec, vrf)?;
        let who = Inside {
            vrf,
            address: rec.subscriber,
            pool: place.pool(),
        };
        let claim = Claim {
            place,
            grant: rec.grant,
            who,
        };
        let holding = self.judge(&claim)?;
        self.hold(now, &claim, holding, slot)
    }

    /// A block released by the peer. Its resting ports are freed with it; it is dead afterwards: unlink it from its
    /// slot and call [`Nat::free_block`] with the returned id.
    ///
    /// # Errors
    /// `Unknown` when that very grant isn't here (a release from the past, or one seen already), `InUse` when
    /// conntracks still use the block, `NoPool` when it can't be one of ours. Nothing has changed then.
    pub fn forget_block(&mut self, rec: &BlockRecord, vrf: VrfId) -> Result<u32, LearnError> {
        let place = self.place_of(rec, vrf)?;
        let id = self
            .block_at(place)
            .filter(|&id| self.blocks[id].grant == rec.grant || mutant::on(Mutant::SlowRelease));
        let id = id.ok_or(LearnError::Unknown)?;
        self.clear_block(id)?;
        self.end_block(id);
        Ok(id)
    }

    /// Ends a block that was only mentioned, by a record which was refused in the end: it is as if nobody had spoken of
    /// it, and nothing is logged. False while conntracks use it. It is dead afterwards, as with [`Nat::forget_block`].
    pub(crate) fn unmention(&mut self, id: u32) -> bool {
        let clear = self.clear_block(id).is_ok();
        if clear {
            self.end_block(id);
        }
        clear
    }

    /// The held block at a public endpoint, if this worker has it.
    #[must_use]
    pub fn find_block(&self, vrf: VrfId, address: &Addr, port: u16) -> Option<u32> {
        self.block_at(self.pools.known_place(vrf, address, port)?)
    }

    fn place_of(&self, rec: &BlockRecord, vrf: VrfId) -> Result<Place, LearnError> {
        let place = self
            .pools
            .known_place(vrf, &rec.address, rec.port_first)
            .ok_or(LearnError::NoPool)?;
        if self.pools.lot(place).port_first(place) == rec.port_first {
            Ok(place)
        } else {
            Err(LearnError::NoPool)
        }
    }

    /// Whether the claim can hold here. Changes nothing.
    fn judge(&self, claim: &Claim) -> Result<Holding, LearnError> {
        let block = self.block_at(claim.place);
        // The usual case: one more conntrack of a block that is known.
        if let Some(id) = block
            && self.blocks[id].grant == claim.grant
        {
            let Block {
                inside_vrf,
                subscriber,
                ..
            } = self.blocks[id];
            return if inside_vrf == claim.who.vrf && subscriber == claim.who.address {
                Ok(Holding::Here(id))
            } else {
                Err(LearnError::Unsupported)
            };
        }
        // What is here ends as its owner says; nothing more comes to it.
        if self.pools.is_retired(claim.place.on()) {
            return Err(LearnError::NoPool);
        }
        let lot = self.pools.lot(claim.place);
        let Some((vrf, slot)) = lot.owner(claim.place) else {
            let known = self.subscriber(&claim.who).is_some();
            let room = self.blocks.has_room() && (known || self.subscribers.has_room());
            return if room {
                Ok(Holding::Free)
            } else {
                Err(LearnError::Full)
            };
        };
        let holder = block.map_or_else(|| lot.grant(claim.place), |id| self.blocks[id].grant);
        Err(if holder > claim.grant {
            LearnError::Older { holder, block }
        } else {
            LearnError::Conflict {
                holder,
                vrf,
                slot,
                block,
            }
        })
    }

    fn hold(&mut self, now: Instant, claim: &Claim, holding: Holding, slot: u16) -> Result<u32, LearnError> {
        if let Holding::Here(block) = holding {
            return Ok(block);
        }
        let (place, lot) = (claim.place, self.pools.lot(claim.place));
        if !lot.claim(place.address, place.chunk) {
            // Another worker was faster since the look: whose it is can be read in a moment.
            let (vrf, slot) = lot.owner(place).unwrap_or((claim.who.vrf, slot));
            return Err(LearnError::Conflict {
                holder: lot.grant(place),
                vrf,
                slot,
                block: None,
            });
        }
        let to = self
            .subscriber(&claim.who)
            .map_or(Grantee::New(claim.who), Grantee::Known);
        self.adopt(now, place, to, claim.grant, slot).ok_or_else(|| {
            self.pools.lot(place).unclaim(place.address, place.chunk);
            LearnError::Full
        })
    }
}

/// Which endpoint of the record's conntrack is translated. From inside, the reply goes to the public endpoint
/// instead of the originator; from outside, the original goes to the public endpoint instead of the answerer.
pub(super) fn translation(put: &PutRecord) -> Option<Translation> {
    let (originator, answerer) = (source(&put.original), source(&put.reply));
    let (reply_to, original_to) = (target(&put.reply), target(&put.original));
    let same = |a: &Endpoint, b: &Endpoint| a.address == b.address && a.port == b.port;
    let translation = if same(&originator, &reply_to) {
        Translation {
            inside: answerer,
            outside: original_to,
        }
    } else {
        Translation {
            inside: originator,
            outside: reply_to,
        }
    };
    let Translation { inside, outside } = translation;
    let real = !same(&inside, &outside) && put.original.proto == put.reply.proto;
    (real && inside.address.is_v4() && outside.address.is_v4()).then_some(translation)
}

/// Where a direction's packets come from; its VRF is where they arrive.
const fn source(key: &FlowKey) -> Endpoint {
    Endpoint {
        vrf: key.vrf,
        address: key.src,
        port: key.src_port,
    }
}

/// Where a direction's packets go, in the VRF where they arrive.
const fn target(key: &FlowKey) -> Endpoint {
    Endpoint {
        vrf: key.vrf,
        address: key.dst,
        port: key.dst_port,
    }
}
