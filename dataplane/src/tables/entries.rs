//! The life of a replicated entry: made, ended, forgotten.
//!
//! A conntrack removed on the active node leaves lookup at once and stays in the arena, dead, until its removal
//! record is emitted; removed on a standby (by a record or a sweep) it is gone at once. A block is born and released by
//! NAT, which leaves word of it; it goes the same way.

use super::{Changed, Tables};
use crate::commit::Reason;
use crate::conntrack::{Conntrack, InsertError};
use crate::delta::SlotRef;
use crate::nat::Learned;
use crate::protection::Kept;
use crate::role::Role;
use crate::slot::Kind;
use crate::time::Instant;

/// Share of the arena that may wait, dead, for its removal record: one in this many.
const DEAD_SHARE: usize = 8;

impl Tables {
    /// Inserts a conntrack that this node makes and lists it for replication.
    ///
    /// # Errors
    /// As [`crate::conntrack::Table::insert`]; nothing has changed then.
    pub fn create(&mut self, conntrack: &Conntrack) -> Result<u32, InsertError> {
        let id = self.insert(conntrack)?;
        self.created(id);
        Ok(id)
    }

    /// As [`Self::create`], with the hashes of both tuples, for a packet whose tuple was just sought in vain.
    ///
    /// # Errors
    /// As [`Self::create`], but for the original tuple.
    pub(crate) fn open(&mut self, conntrack: &Conntrack, hashes: [u64; 2]) -> Result<u32, InsertError> {
        self.has_room_for_one()?;
        let id = self.conntracks.insert_sought(conntrack, hashes)?;
        self.watch(id);
        self.link(id);
        self.created(id);
        Ok(id)
    }

    fn created(&mut self, id: u32) {
        self.counters.conntracks_created += 1;
        if !self.keep_back(id) {
            self.touch(id, false);
        }
    }

    /// Inserts a conntrack: table, timer and slot list.
    pub(crate) fn insert(&mut self, conntrack: &Conntrack) -> Result<u32, InsertError> {
        let hashes = self.conntracks.hashes(&conntrack.keys());
        self.insert_hashed(conntrack, hashes)
    }

    /// As [`Self::insert`], with the hashes of both tuples.
    pub(crate) fn insert_hashed(
        &mut self,
        conntrack: &Conntrack,
        hashes: [u64; 2],
    ) -> Result<u32, InsertError> {
        self.has_room_for_one()?;
        let id = self.enter(conntrack, hashes)?;
        self.link(id);
        Ok(id)
    }

    /// Inserts a conntrack that its slot's list is still to have: table and timer.
    pub(crate) fn enter(&mut self, conntrack: &Conntrack, hashes: [u64; 2]) -> Result<u32, InsertError> {
        let id = self.conntracks.insert_hashed(conntrack, hashes)?;
        self.watch(id);
        Ok(id)
    }

    /// Room that is kept for a slot on its way here is nobody else's.
    fn has_room_for_one(&self) -> Result<(), InsertError> {
        let kept_back = self.transit.kept_back;
        if kept_back > 0 && self.conntracks.len() + kept_back >= self.conntracks.capacity() {
            return Err(InsertError::Full);
        }
        Ok(())
    }

    /// A conntrack has entered the table: its timer runs.
    fn watch(&mut self, id: u32) {
        let places = self.conntracks.laid_out();
        self.wheel.reach(places);
        self.names.reach(places);
        self.wheel.schedule(id, self.conntracks[id].expires_s);
    }

    /// Puts a conntrack on its slot's list.
    fn link(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(self.conntracks[id].at()) {
            slot.link(Kind::Conntrack, &mut self.conntracks, id);
        }
    }

    /// Asks for the memory of a conntrack of the slot that is made soon, when `later` others have been.
    #[inline]
    pub(crate) fn expect_new(&self, at: SlotRef, later: usize) {
        self.slots.expect(at);
        let id = self.conntracks.vacancy(later);
        self.conntracks.expect_entry(id);
        self.wheel.expect(id);
    }

    /// Asks for what [`Self::remove`] touches besides the conntrack itself.
    pub(crate) fn expect_removal(&self, id: u32) {
        let conntrack = &self.conntracks[id];
        for key in &conntrack.keys() {
            self.conntracks.expect(key);
        }
        self.slots.expect(conntrack.at());
        for neighbour in [conntrack.sync.next, conntrack.sync.prev] {
            self.conntracks.expect_sync(neighbour);
        }
        if let Some(nat) = conntrack.nat() {
            self.nat.expect_release(nat.mapping);
        }
    }

    /// Second pass: what the NAT share of the conntrack leads to.
    pub(crate) fn expect_removal_of_nat(&self, id: u32) {
        if let Some(nat) = self.conntracks[id].nat() {
            self.nat.expect_release_block(nat.mapping);
        }
    }

    /// Ends a conntrack on the active node.
    pub fn remove(&mut self, now: Instant, id: u32) {
        let sync = &self.conntracks[id].sync;
        let untold = sync.kept != Kept::No && !sync.emitted() && !sync.dirty;
        let at = self.unhook(now, id);
        if untold || self.roles[at.vrf.index()].role == Role::Alone {
            self.conntracks.free(id);
            return;
        }
        let streamed = self.slots.get(at).is_some_and(|s| !s.streams.is_empty());
        let listed = self.conntracks[id].sync.dirty;
        if !listed && self.dead >= self.conntracks.capacity() / DEAD_SHARE {
            // The removal can't wait for room in the ring any longer: resend the slot instead, now or when somebody comes.
            if streamed {
                self.lose(at);
            } else if let Some(slot) = self.slots.get_mut(at) {
                slot.untold = true;
            }
            self.forget(at, id);
            return;
        }
        self.conntracks[id].sync.dead = true;
        self.dead += 1;
        self.changed(
            Changed {
                kind: Kind::Conntrack,
                id,
            },
            false,
        );
    }

    /// Ends a conntrack at once, telling nobody: what a standby does for its active.
    pub fn discard(&mut self, now: Instant, id: u32) {
        let at = self.unhook(now, id);
        if !self.conntracks[id].sync.dirty {
            self.forget(at, id);
            return;
        }
        // It stands on the dirty list of a node that was active before: its place is freed when it leaves it.
        let sync = &mut self.conntracks[id].sync;
        if let Some(slot) = self.slots.get_mut(at) {
            slot.unaccount(sync);
        }
        sync.dead = true;
        self.dead += 1;
    }

    /// Takes a conntrack out of lookup, timers, NAT and its slot's list.
    fn unhook(&mut self, now: Instant, id: u32) -> SlotRef {
        self.set_kept(id, Kept::No);
        self.conntracks.unindex(id);
        self.wheel.cancel(id);
        let conntrack = &self.conntracks[id];
        let at = conntrack.at();
        // Only what a peer has told has a name.
        if conntrack.sync.stamp != 0 {
            self.names.unbind(at, id);
        }
        let (nat, waits) = (conntrack.nat(), conntrack.waits);
        if waits {
            self.conntracks[id].waits = false;
            self.settle_entry(id, Reason::Removed);
        }
        match nat {
            // Nothing has left from the port: it needs no rest.
            Some(nat) if waits => self.nat.cancel(now, nat.mapping),
            Some(nat) => self.nat.release(now, nat.mapping),
            None => {}
        }
        if let Some(slot) = self.slots.get_mut(at) {
            slot.unlink(Kind::Conntrack, &mut self.conntracks, id);
        }
        at
    }

    /// Closes the account of a conntrack that is out of every list and frees its place.
    pub(crate) fn forget(&mut self, at: SlotRef, id: u32) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.unaccount(&mut self.conntracks[id].sync);
        }
        self.conntracks.free(id);
    }

    /// Lists blocks that were granted or released since the last call. Call it after anything that binds, so
    /// that a block's record precedes those of its conntracks.
    pub fn list_blocks(&mut self) {
        while let Some(change) = self.nat.pop_changed() {
            let block = self.nat.block(change.id);
            let at = SlotRef {
                vrf: block.inside_vrf,
                slot: block.slot,
            };
            if change.held {
                self.counters.blocks_granted += 1;
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.link(Kind::Block, &mut self.nat, change.id);
                }
            } else {
                self.counters.blocks_released += 1;
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.unlink(Kind::Block, &mut self.nat, change.id);
                }
                self.nat.block_mut(change.id).sync.dead = true;
                if self.roles[at.vrf.index()].role == Role::Alone {
                    self.nat.free_block(change.id);
                    continue;
                }
            }
            self.changed(
                Changed {
                    kind: Kind::Block,
                    id: change.id,
                },
                false,
            );
        }
    }

    /// Ends a port block on a standby. False while conntracks still live in it.
    pub fn discard_block(&mut self, now: Instant, id: u32) -> bool {
        let block = self.nat.block(id);
        let at = SlotRef {
            vrf: block.inside_vrf,
            slot: block.slot,
        };
        if self.nat.evict_block(now, id).is_err() {
            return false;
        }
        self.drop_block(at, id);
        true
    }

    /// A dead block's account is closed and its place freed.
    pub(crate) fn drop_block(&mut self, at: SlotRef, id: u32) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.unlink(Kind::Block, &mut self.nat, id);
            slot.unaccount(&mut self.nat.block_mut(id).sync);
        }
        // One that is listed is freed when it leaves the list.
        if !self.nat.block(id).sync.dirty {
            self.nat.free_block(id);
        }
    }

    /// Gives back what a conntrack was to stand on that could not be made: its port, which needs no rest, and its block, if
    /// only the refused record has mentioned it.
    pub(crate) fn unlearn(&mut self, now: Instant, at: SlotRef, learned: Learned) {
        self.nat.cancel(now, learned.mapping);
        if learned.block_new && self.nat.unmention(learned.block) {
            self.drop_block(at, learned.block);
        }
    }
}
