//! Port blocks: runs of ports of one public address, granted to one subscriber.
//!
//! ```text
//! free ── bind: grant ───► held ── empty, port_block idle: release ──► dead ── removal emitted: free_block ──► free
//!      └─ learn: adopt ──►      └─ the peer's record, or evicted: forget ─►
//! ```
//!
//! A block is a replicated entry of its own: the worker's slot code links it into its slot through
//! [`Block::sync`]. On a standby blocks go only by a record or a sweep, never by idling. Grants and releases made
//! here queue up for [`Nat::pop_changed`] (what the peer must hear) and as log events.

use super::arena::{Links, NIL};
use super::find::Short;
use super::log::BlockEvent;
use super::mapping::Protocol;
use super::pool::Place;
use super::subscriber::Inside;
use super::{LearnError, Nat, enter};
use crate::conntrack::hash_words;
use crate::delta::{SlotRef, Term};
use crate::flow::{Addr, VrfId};
use crate::share::Part;
use crate::slot::SyncState;
use crate::time::Instant;
use crate::verdict::Drop;

/// A granted block.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Identity of the grant: unique over nodes and boots, greater than that of any earlier grant of these
    /// ports. It is the one in the log, and survives a failover.
    pub grant: u64,
    /// VRF of the subscriber.
    pub inside_vrf: VrfId,
    /// Inside address that owns the block.
    pub subscriber: Addr,
    /// Public address.
    pub address: Addr,
    /// First port.
    pub port_first: u16,
    /// Slot of the subscriber.
    pub slot: u16,
    /// Ports mapped and in use, over all protocols.
    pub used: u32,
    /// Ports whose rest isn't over, over all protocols.
    pub resting: u32,
    /// Replication state: the slot code's.
    pub sync: SyncState,
    /// Subscriber that owns it; `NIL` when dead or free.
    pub(super) owner: u32,
    pub(super) place: Place,
    /// Ports not free, per protocol.
    pub(super) taken: [u16; Protocol::COUNT],
    pub(super) siblings: Links,
    pub(super) idle_since_s: u32,
    idle: Links,
    changed: Links,
}

impl Default for Block {
    fn default() -> Self {
        Self {
            grant: 0,
            inside_vrf: VrfId::default(),
            subscriber: Addr::default(),
            address: Addr::default(),
            port_first: 0,
            slot: 0,
            used: 0,
            resting: 0,
            sync: SyncState::default(),
            owner: NIL,
            place: Place::default(),
            taken: [0; Protocol::COUNT],
            siblings: Links::default(),
            idle_since_s: 0,
            idle: Links::default(),
            changed: Links::default(),
        }
    }
}

impl Block {
    /// Its slot.
    #[must_use]
    pub const fn at(&self) -> SlotRef {
        SlotRef {
            vrf: self.inside_vrf,
            slot: self.slot,
        }
    }

    /// Whether the subscriber has it: neither released nor a free place.
    #[must_use]
    pub const fn held(&self) -> bool {
        self.owner != NIL
    }
}

/// A grant or release to be told to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockChange {
    /// The block.
    pub id: u32,
    /// Granted (and still held), or released: then [`Nat::free_block`] it when that is emitted.
    pub held: bool,
}

/// Where a subscriber's next block comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grantee {
    /// One that has blocks: its paired address.
    Known(u32),
    /// A new one: any address.
    New(Inside),
}

impl Nat {
    /// A block of random place in a part of the free ones for a subscriber. Changes nothing when refused.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        term: Term,
        to: Grantee,
        slot: u16,
        part: Part,
    ) -> Result<u32, Short> {
        let pool = match to {
            Grantee::Known(subscriber) => self.subscribers[subscriber].who.pool,
            Grantee::New(who) => who.pool,
        };
        if !self.blocks.has_room() {
            return Err(Short::Table(Drop::BlocksFull));
        }
        if matches!(to, Grantee::New(_)) && !self.subscribers.has_room() {
            return Err(Short::Table(Drop::SubscribersFull));
        }
        let place = self.claim_for(to, pool, part)?;
        let Some(grant) = self.pools.next_grant(term) else {
            return Err(self.unclaim(place));
        };
        let Some(id) = self.adopt(now, place, to, grant, slot) else {
            return Err(self.unclaim(place));
        };
        self.usage[pool].granted += 1;
        self.log(now, id, true);
        self.changed.push(&mut self.blocks, id, |b| &mut b.changed);
        Ok(id)
    }

    fn claim_for(&mut self, to: Grantee, pool: usize, part: Part) -> Result<Place, Short> {
        match to {
            Grantee::New(_) => {
                let place = self.pools.claim_any(pool, &mut self.random, part);
                place.ok_or(Short::Pool)
            }
            Grantee::Known(subscriber) => {
                let place = self.subscribers[subscriber].paired;
                let lot = self.pools.lot(place);
                let chunk = lot.claim_on(place.address, &mut self.random, part);
                chunk.map(|chunk| Place { chunk, ..place }).ok_or(Short::Address)
            }
        }
    }

    fn unclaim(&mut self, place: Place) -> Short {
        self.pools.lot(place).unclaim(place.address, place.chunk);
        Short::Table(Drop::PoolExhausted)
    }

    /// Makes a claimed place a block of the subscriber. None, without a change, when a table is full.
    pub(super) fn adopt(
        &mut self,
        now: Instant,
        place: Place,
        to: Grantee,
        grant: u64,
        slot: u16,
    ) -> Option<u32> {
        if !self.blocks.has_room() {
            return None;
        }
        let id = self.enter_block(place, to, grant, slot, now.secs())?;
        let vrf = self.blocks[id].inside_vrf;
        self.pools.lot(place).hold(place, grant, vrf, slot);
        Some(id)
    }

    /// Enters a block of a place that its slot holds, or is about to: empty since `idle_since_s`. None, without a change, when
    /// a table is full.
    pub(super) fn enter_block(
        &mut self,
        place: Place,
        to: Grantee,
        grant: u64,
        slot: u16,
        idle_since_s: u32,
    ) -> Option<u32> {
        if !self.blocks.has_place() {
            return None;
        }
        let owner = match to {
            Grantee::Known(subscriber) => subscriber,
            Grantee::New(who) => self.add_subscriber(who)?,
        };
        let id = self.blocks.take()?;
        let who = self.subscribers[owner].who;
        let lot = self.pools.lot(place);
        self.blocks[id] = Block {
            grant,
            inside_vrf: who.vrf,
            subscriber: who.address,
            address: lot.address(place),
            port_first: lot.port_first(place),
            slot,
            owner,
            place,
            ..Block::default()
        };
        let hash = self.place_hash(place);
        enter(&mut self.block_index, hash, id);
        self.usage[place.pool()].blocks += 1;
        self.subscribers[owner]
            .blocks
            .push(&mut self.blocks, id, |b| &mut b.siblings);
        self.subscribers[owner].held += 1;
        self.pair(owner);
        self.idle(idle_since_s, id);
        Some(id)
    }

    /// Ends a block without ports: its place is free for others; the entry is dead until [`Nat::free_block`].
    pub(super) fn end_block(&mut self, id: u32) {
        let place = self.blocks[id].place;
        self.leave_books(id);
        self.blocks[id].owner = NIL;
        self.blocks[id].sync.dead = true;
        self.pools.lot(place).give_back(place);
    }

    /// Takes a block out of everything that finds it.
    pub(super) fn leave_books(&mut self, id: u32) {
        let Block { owner, place, .. } = self.blocks[id];
        self.busy(id);
        self.block_index.remove(self.place_hash(place), id);
        self.subscribers[owner]
            .blocks
            .remove(&mut self.blocks, id, |b| &mut b.siblings);
        self.subscribers[owner].held -= 1;
        if self.subscribers[owner].held == 0 {
            self.remove_subscriber(owner);
        } else {
            self.pair(owner);
        }
        self.usage[place.pool()].blocks -= 1;
    }

    /// A block that was learned is this node's to tell and to log from now on: whoever granted it may have told nobody.
    pub(crate) fn take_over(&mut self, now: Instant, id: u32) {
        self.log(now, id, true);
        self.changed.push(&mut self.blocks, id, |b| &mut b.changed);
    }

    /// Releases an idle block of a node that is active.
    pub(super) fn release_block(&mut self, now: Instant, id: u32) {
        self.log(now, id, false);
        self.usage[self.blocks[id].place.pool()].released += 1;
        self.end_block(id);
        self.changed.push(&mut self.blocks, id, |b| &mut b.changed);
    }

    /// The block has had no ports since then: it is released when it stays so.
    pub(super) fn idle(&mut self, since_s: u32, id: u32) {
        self.blocks[id].idle_since_s = since_s;
        let pool = self.blocks[id].place.pool();
        self.idle[pool].push(&mut self.blocks, id, |b| &mut b.idle);
    }

    /// The block has ports again.
    pub(super) fn busy(&mut self, id: u32) {
        let pool = self.blocks[id].place.pool();
        self.idle[pool].remove(&mut self.blocks, id, |b| &mut b.idle);
    }

    /// The first block of a pool that has been idle for long enough.
    pub(super) fn idled(&self, now: Instant, pool: usize) -> Option<u32> {
        let id = self.idle[pool].first()?;
        let idle_s = now.secs().saturating_sub(self.blocks[id].idle_since_s);
        (idle_s > self.pools.at(pool).settings.block_idle_s).then_some(id)
    }

    /// The held block at a place, if this worker has it.
    pub(super) fn block_at(&self, place: Place) -> Option<u32> {
        self.block_index
            .find(self.place_hash(place), |id| self.blocks[id].place == place)
    }

    /// Asks for the memory of [`Self::block_at`].
    pub(super) fn expect_block_at(&self, place: Place) {
        self.block_index.prefetch(self.place_hash(place));
    }

    /// The block that [`Self::block_at`] will look at first.
    pub(super) fn block_candidate(&self, place: Place) -> Option<u32> {
        self.block_index.candidate(self.place_hash(place))
    }

    /// A block, held or dead.
    #[must_use]
    pub fn block(&self, id: u32) -> &Block {
        &self.blocks[id]
    }

    /// A block, to change its replication state.
    pub fn block_mut(&mut self, id: u32) -> &mut Block {
        &mut self.blocks[id]
    }

    /// The next block that `bind` or `tick` granted or released since it was last asked about. A block granted and
    /// released in between appears once, as released. What was learned or forgotten does not appear.
    pub fn pop_changed(&mut self) -> Option<BlockChange> {
        let id = self.changed.first()?;
        self.changed.remove(&mut self.blocks, id, |b| &mut b.changed);
        Some(BlockChange {
            id,
            held: self.blocks[id].held(),
        })
    }

    /// The dead block is unlinked everywhere and its removal has been emitted: its place is free.
    pub fn free_block(&mut self, id: u32) {
        debug_assert!(
            !self.blocks[id].held() && self.blocks[id].sync.dead,
            "only dead blocks are freed"
        );
        if self.blocks[id].held() || !self.blocks[id].sync.dead {
            return;
        }
        self.changed.remove(&mut self.blocks, id, |b| &mut b.changed);
        self.blocks.give(id);
    }

    /// Ends a block without a record of the peer: for a sweep or an eviction. It is dead afterwards, as with
    /// [`Nat::forget_block`]. Its end is logged here, since the node that granted it may never have told anybody;
    /// the same release twice in the logs of two nodes is harmless, a missing one isn't.
    ///
    /// # Errors
    /// `InUse` while conntracks use it, `Unknown` when it is not held. Nothing has changed then.
    pub fn evict_block(&mut self, now: Instant, id: u32) -> Result<(), LearnError> {
        if !self.blocks[id].held() {
            return Err(LearnError::Unknown);
        }
        self.clear_block(id)?;
        self.log(now, id, false);
        self.end_block(id);
        Ok(())
    }

    /// Pairs the subscriber with the public address of its newest grant.
    fn pair(&mut self, subscriber: u32) {
        let newest = self.blocks_of(subscriber).max_by_key(|&id| self.blocks[id].grant);
        if let Some(id) = newest {
            self.subscribers[subscriber].paired = self.blocks[id].place;
        }
    }

    fn log(&mut self, now: Instant, id: u32, held: bool) {
        if self.events.len() == self.events_max {
            self.events_lost += 1;
            return;
        }
        let b = &self.blocks[id];
        let size = self.pools.at(b.place.pool()).settings.block_size;
        self.events.push_back(BlockEvent {
            held,
            subscriber: b.subscriber,
            vrf: b.inside_vrf,
            address: b.address,
            port_first: b.port_first,
            port_last: b.port_first + (size - 1),
            grant: b.grant,
            at: now,
        });
    }

    pub(super) fn place_hash(&self, place: Place) -> u64 {
        hash_words(
            [
                place.lot.into(),
                u64::from(place.address) << 32 | u64::from(place.chunk),
            ],
            self.hash_seed,
        )
    }
}
