//! Which entries have changed and were not told yet: a FIFO per lane, from a change to the record that tells it.
//!
//! An entry is listed by its first change, stays where it is through further ones, and leaves the list when its record is
//! made. A list that grows drives its lane up the overload ladder, and there the pairs in it go: entries that were made
//! and have ended before anybody was told.

use super::Tables;
use crate::conntrack::Table;
use crate::delta::SlotRef;
use crate::nat::Nat;
use crate::overload::{AGE_S, Step};
use crate::protection::Kept;
use crate::role::Role;
use crate::slot::{Entries, Kind, NIL, SyncState};

/// Marks a block on a dirty list; conntracks are plain arena indexes.
const BLOCK_TAG: u32 = 1 << 31;

/// Waiting changes looked at for pairs in one turn.
const CANCEL_BUDGET: usize = 64;

/// A changed entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) kind: Kind,
    pub(crate) id: u32,
}

/// FIFO of changed entries of one lane's slots: a bit and a link per entry, so that a burst of changes to one
/// entry is one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirtyList {
    head: u32,
    tail: u32,
    length: usize,
    /// Entry behind which pairs are looked for next; none at the head.
    looked: u32,
    step: Step,
}

impl DirtyList {
    pub(super) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
        length: 0,
        looked: NIL,
        step: Step::Calm,
    };
}

impl Tables {
    /// A conntrack's replicated state (`refresh`: only its lifetime) changed.
    pub fn touch(&mut self, id: u32, refresh: bool) {
        self.changed(
            Changed {
                kind: Kind::Conntrack,
                id,
            },
            refresh,
        );
    }

    pub(crate) fn changed(&mut self, changed: Changed, refresh: bool) {
        let at = self.slot_of(changed);
        if self.roles[at.vrf.index()].role == Role::Alone {
            return;
        }
        self.counters.deltas_produced += 1;
        let lane = self.lane_of(at.slot);
        let sync = self.sync_mut(changed);
        if sync.kept != Kept::No && !sync.emitted() && !sync.dirty {
            self.counters.deltas_suppressed += 1;
            return;
        }
        if sync.dirty {
            sync.refresh_only &= refresh;
            self.counters.deltas_coalesced += 1;
            self.lane_counts[lane].coalesced += 1;
            return;
        }
        sync.dirty = true;
        sync.refresh_only = refresh;
        sync.dirty_next = NIL;
        self.listed += 1;
        self.slots.expect(at);
        let word = changed.tagged();
        self.dirty[lane].length += 1;
        let tail = core::mem::replace(&mut self.dirty[lane].tail, word);
        if tail == NIL {
            self.dirty[lane].head = word;
        } else {
            self.sync_mut(Changed::untagged(tail)).dirty_next = word;
        }
    }

    /// An entry that no peer was told of and that isn't listed either gets listed.
    pub(crate) fn relist(&mut self, changed: Changed) {
        let sync = self.sync_mut(changed);
        if !sync.emitted() && !sync.dirty && sync.kept == Kept::No {
            self.changed(changed, false);
        }
    }

    /// Changed entries on a lane's list.
    pub(crate) fn waiting_for(&self, lane: usize) -> usize {
        self.dirty[lane].length
    }

    /// The oldest changed entry of a lane, still listed.
    #[inline]
    pub(crate) fn first_changed(&self, lane: usize) -> Option<Changed> {
        let head = self.dirty[lane].head;
        (head != NIL).then(|| Changed::untagged(head))
    }

    /// Takes the oldest changed entry of a lane off its list.
    #[inline]
    pub(crate) fn unlist(&mut self, lane: usize) -> Option<Changed> {
        let changed = self.first_changed(lane)?;
        self.listed -= 1;
        let sync = self.sync_mut(changed);
        sync.dirty = false;
        let next = core::mem::replace(&mut sync.dirty_next, NIL);
        let list = &mut self.dirty[lane];
        if list.looked == list.head {
            list.looked = NIL;
        }
        list.head = next;
        list.length -= 1;
        if next == NIL {
            list.tail = NIL;
        }
        Some(changed)
    }

    /// Goes up or down the overload ladder with what still waits for a lane after this turn, its ring having `ring` places.
    pub(crate) fn climb(&mut self, lane: usize, ring: usize) {
        let DirtyList { step, length, .. } = self.dirty[lane];
        if step == Step::Calm && length == 0 {
            return;
        }
        let step = step.after_turn(length, ring, &mut self.counters);
        self.dirty[lane].step = step;
        let ages = self.dirty.iter().any(|list| list.step == Step::Age);
        self.protect.overload_age_s = if ages { AGE_S } else { 0 };
        if step >= Step::Cancel {
            self.cancel_pairs(lane);
        }
    }

    /// How far the worker has climbed for a lane.
    #[must_use]
    pub fn overload(&self, lane: usize) -> Step {
        self.dirty.get(lane).map_or(Step::Calm, |list| list.step)
    }

    /// Takes the changes of a slot off the first `entries` of a lane's list, because the slot leaves. Entries that are here stay
    /// marked as changed; of those that have ended, nobody will be told: true if there were any.
    pub(crate) fn take_out(&mut self, lane: usize, at: SlotRef, entries: usize) -> bool {
        let (mut before, mut word) = (NIL, self.dirty[lane].head);
        let mut ended = false;
        self.dirty[lane].looked = NIL;
        for _ in 0..entries {
            if word == NIL {
                break;
            }
            let changed = Changed::untagged(word);
            let next = self.sync_mut(changed).dirty_next;
            if self.slot_of(changed) != at {
                (before, word) = (word, next);
                continue;
            }
            if before == NIL {
                self.dirty[lane].head = next;
            } else {
                self.sync_mut(Changed::untagged(before)).dirty_next = next;
            }
            if next == NIL {
                self.dirty[lane].tail = before;
            }
            self.dirty[lane].length -= 1;
            self.listed -= 1;
            let sync = self.sync_mut(changed);
            sync.dirty_next = NIL;
            let dead = sync.dead;
            sync.dirty = !dead;
            ended |= dead && sync.emitted();
            match changed.kind {
                _ if !dead => self.counters.deltas_unsent += 1,
                Kind::Conntrack => {
                    self.dead -= 1;
                    self.counters.deltas_cancelled += 1;
                    self.forget(at, changed.id);
                }
                Kind::Block => {
                    self.counters.deltas_cancelled += 1;
                    self.drop_block(at, changed.id);
                }
            }
            word = next;
        }
        ended
    }

    /// Looks at some of a lane's waiting changes, further each time, and takes those out whose entry was made and has ended
    /// since: their places in the arena are wanted. The others keep their order, parents before and behind their children.
    fn cancel_pairs(&mut self, lane: usize) {
        let DirtyList { head, looked, .. } = self.dirty[lane];
        let mut before = if looked == NIL { head } else { looked };
        for _ in 0..CANCEL_BUDGET {
            if before == NIL {
                break;
            }
            let word = self.sync_mut(Changed::untagged(before)).dirty_next;
            let changed = Changed::untagged(word);
            if word == NIL || !self.is_pair(changed) {
                before = word;
                continue;
            }
            let sync = self.sync_mut(changed);
            sync.dirty = false;
            let after = core::mem::replace(&mut sync.dirty_next, NIL);
            self.sync_mut(Changed::untagged(before)).dirty_next = after;
            let list = &mut self.dirty[lane];
            list.length -= 1;
            if after == NIL {
                list.tail = before;
            }
            self.listed -= 1;
            self.dead -= 1;
            self.counters.deltas_cancelled += 1;
            let at = self.slot_of(changed);
            self.forget(at, changed.id);
        }
        self.dirty[lane].looked = before;
    }

    /// Whether a listed change is of a conntrack that was made and has ended before anybody was told.
    fn is_pair(&self, changed: Changed) -> bool {
        changed.kind == Kind::Conntrack && {
            let sync = &self.conntracks[changed.id].sync;
            sync.dead && !sync.emitted()
        }
    }

    /// Entries on dirty lists: changed, and not emitted yet.
    #[must_use]
    pub const fn listed(&self) -> u64 {
        self.listed
    }

    /// As [`Self::listed`], by walking the lists: for tests and diagnosis.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let mut waiting = 0;
        for list in &self.dirty {
            let mut word = list.head;
            while word != NIL {
                waiting += 1;
                let changed = Changed::untagged(word);
                word = match changed.kind {
                    Kind::Block => self.nat.sync(changed.id).dirty_next,
                    Kind::Conntrack => self.conntracks.sync(changed.id).dirty_next,
                };
            }
        }
        waiting
    }

    #[inline]
    pub(crate) fn sync_mut(&mut self, changed: Changed) -> &mut SyncState {
        match changed.kind {
            Kind::Block => self.nat.sync_mut(changed.id),
            Kind::Conntrack => self.conntracks.sync_mut(changed.id),
        }
    }

    #[inline]
    pub(crate) fn slot_of(&self, changed: Changed) -> SlotRef {
        match changed.kind {
            Kind::Block => {
                let block = self.nat.block(changed.id);
                SlotRef {
                    vrf: block.inside_vrf,
                    slot: block.slot,
                }
            }
            Kind::Conntrack => self.conntracks[changed.id].at(),
        }
    }
}

impl Changed {
    const fn tagged(self) -> u32 {
        match self.kind {
            Kind::Block => self.id | BLOCK_TAG,
            Kind::Conntrack => self.id,
        }
    }

    const fn untagged(word: u32) -> Self {
        if word & BLOCK_TAG == 0 {
            Self {
                kind: Kind::Conntrack,
                id: word,
            }
        } else {
            Self {
                kind: Kind::Block,
                id: word & !BLOCK_TAG,
            }
        }
    }
}

impl Entries for Table {
    fn sync(&self, id: u32) -> &SyncState {
        &self[id].sync
    }
    fn sync_mut(&mut self, id: u32) -> &mut SyncState {
        &mut self[id].sync
    }
}

impl Entries for Nat {
    fn sync(&self, id: u32) -> &SyncState {
        &self.block(id).sync
    }
    fn sync_mut(&mut self, id: u32) -> &mut SyncState {
        &mut self.block_mut(id).sync
    }
}
