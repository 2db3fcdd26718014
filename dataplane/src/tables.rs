//! What one worker owns: conntracks, timers, NAT state, slots, and the lists of entries whose change nobody has
//! been told yet. Every creation and removal of a replicated entry goes through here, so that the four never
//! disagree.
//!
//! A conntrack removed on the active node leaves lookup at once and stays in the arena, dead, until its removal
//! record is emitted; removed on a standby (by a record or a sweep) it is gone at once.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commit::{Commits, Reason};
use crate::conntrack::{Conntrack, InsertError, Table, Wheel};
use crate::counters::Counters;
use crate::delta::{Handle, SlotRef, Term, ToEvent};
use crate::flow::VrfId;
use crate::history::{Change, Journal};
use crate::names::Names;
use crate::nat::{Learned, Nat, NatLimits, Pools};
use crate::overload::{AGE_S, Step};
use crate::protection::{Kept, Protect};
use crate::role::{Role, Roles};
use crate::shard::lane_of;
use crate::share::Share;
use crate::slot::{Entries, Kind, NIL, Slots, SyncState};
use crate::stage::audit::Audit;
use crate::stage::compare::Comparing;
use crate::stage::digest::Rounds;
use crate::stage::missing::Search;
use crate::time::Instant;
use crate::vrf::Snapshot;

/// Marks a block on a dirty list; conntracks are plain arena indexes.
const BLOCK_TAG: u32 = 1 << 31;

/// Entries of a former reign that may wait per event thread.
pub(crate) const TAILS_MAX: usize = 2_048;

/// Share of the arena that may wait, dead, for its removal record: one in this many.
const DEAD_SHARE: usize = 8;

/// Versioned changes that are remembered, as a share of the arena: one in this many.
const JOURNAL_SHARE: usize = 8;
/// And at least this many.
const JOURNAL_MIN: usize = 1_024;

/// Waiting changes looked at for pairs in one turn.
const CANCEL_BUDGET: usize = 64;

/// Sizes of one worker's tables.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Conntracks.
    pub conntracks: usize,
    /// NAT arenas.
    pub nat: NatLimits,
    /// Packets that may wait until the peers know their flow.
    pub held_packets: usize,
}

/// Parts of the worker that tests switch off, to see that their proofs notice. All off in production: nothing sets
/// them there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// A verified end sweeps nothing.
    pub no_sweep: bool,
    /// No slot is caught up: what differs is sent whole.
    pub no_catch_up: bool,
    /// What is stored is not looked at.
    pub no_audit: bool,
}

/// How this worker sees a VRF's role: refreshed once per turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VrfRole {
    /// Role now.
    pub role: Role,
    /// Term now.
    pub term: Term,
    /// When this worker first saw this role and term.
    pub since_s: u32,
    /// Term under which this node was last active.
    pub reigned: Term,
    /// What it may give out.
    pub share: Share,
    /// When an owner of the entries was last seen; far away as long as none was.
    pub owned_s: u32,
    /// The longest timeout of the VRF.
    pub timeout_max_s: u32,
}

impl VrfRole {
    /// Whether this node's word still counts: it is active, or was until it was told to stand by and nobody has
    /// taken over since.
    #[must_use]
    pub fn has_word(&self) -> bool {
        self.role == Role::Master || (self.reigned != Term::NONE && self.reigned == self.term)
    }

    /// Whether nobody has aged the entries for so long that none of them can be in use: no owner has been seen for the
    /// longest timeout.
    #[must_use]
    pub const fn is_orphaned(&self, now_s: u32) -> bool {
        !self.role.is_active() && now_s.saturating_sub(self.owned_s) > self.timeout_max_s
    }
}

/// One worker's state.
#[derive(Debug)]
pub struct Tables {
    /// Conntracks.
    pub conntracks: Table,
    /// Their lifetimes.
    pub wheel: Wheel,
    /// What the slots' present senders call them.
    pub names: Names,
    /// Subscribers, blocks, mappings.
    pub nat: Nat,
    /// Slots this worker owns.
    pub slots: Slots,
    /// Counters.
    pub counters: Counters,
    /// Roles as of this turn.
    pub roles: Vec<VrfRole>,
    /// What a test has broken.
    pub faults: Faults,
    /// Flows whose packets wait for the peers.
    pub(crate) commits: Commits,
    /// Who is told of what.
    pub(crate) protect: Protect,
    /// First packets decided per VRF and rule, in the rules' order.
    rule_hits: Vec<Vec<(Option<u32>, u64)>>,
    pub(crate) dirty: Vec<DirtyList>,
    /// Versioned changes, to be told again.
    pub(crate) journal: Journal,
    pub(crate) walking: Vec<SlotRef>,
    pub(crate) lost: Vec<SlotRef>,
    /// Answers to ends of slots and to questions, per event thread.
    pub(crate) answers: Vec<VecDeque<ToEvent>>,
    /// Entries of a former reign on their way to the node that has taken over, per event thread.
    pub(crate) tails: Vec<VecDeque<ToEvent>>,
    /// Slots with changes that were never told: sent anew when this node is active again.
    muted: Vec<SlotRef>,
    /// Most answers that may wait per event thread.
    pub(crate) answers_max: usize,
    /// Slots whose digest somebody wants to hear now.
    pub(crate) digests_asked: VecDeque<SlotRef>,
    pub(crate) rounds: Rounds,
    pub(crate) audit: Audit,
    pub(crate) search: Search,
    pub(crate) comparing: Comparing,
    pub(crate) dead: usize,
    listed: u64,
    /// Lane of each slot number: the same for every VRF.
    lanes: Box<[u16]>,
}

/// FIFO of changed entries of one lane's slots: a bit and a link per entry, so that a burst of changes to one
/// entry is one record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirtyList {
    head: u32,
    tail: u32,
    length: usize,
    /// Entry behind which pairs are looked for next; none at the head.
    looked: u32,
    pub(crate) step: Step,
}

const EMPTY: DirtyList = DirtyList {
    head: NIL,
    tail: NIL,
    length: 0,
    looked: NIL,
    step: Step::Calm,
};

/// A changed entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) kind: Kind,
    pub(crate) id: u32,
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

impl Tables {
    /// Empty tables of worker `worker` of `workers`, feeding `lanes` lanes.
    #[must_use]
    pub fn new(
        (worker, workers): (u16, u16),
        lanes: usize,
        slots_per_vrf: &[u16],
        limits: Limits,
        pools: Arc<Pools>,
        seed: u64,
    ) -> Self {
        // At most 255 lanes by configuration.
        let lanes_count = u16::try_from(lanes.max(1)).unwrap_or(u16::MAX);
        let slots_most = slots_per_vrf.iter().copied().max().unwrap_or_default();
        let slots_total = slots_per_vrf.iter().map(|&s| usize::from(s)).sum();
        Self {
            conntracks: Table::new(limits.conntracks, seed),
            wheel: Wheel::new(limits.conntracks, 0),
            names: Names::new(limits.conntracks),
            nat: Nat::new(pools, limits.nat, seed.rotate_left(21)),
            slots: Slots::new(worker, workers, slots_per_vrf),
            counters: Counters::default(),
            roles: vec![
                VrfRole {
                    role: Role::Fault,
                    term: Term::NONE,
                    since_s: 0,
                    reigned: Term::NONE,
                    share: Share::Whole,
                    // There is nothing to age before one was seen.
                    owned_s: u32::MAX,
                    // Until the configuration says what it is.
                    timeout_max_s: u32::MAX,
                };
                slots_per_vrf.len()
            ],
            faults: Faults::default(),
            commits: Commits::new(limits.held_packets, slots_per_vrf.len()),
            protect: Protect::new(slots_per_vrf.len(), lanes.max(1)),
            rule_hits: vec![Vec::new(); slots_per_vrf.len()],
            journal: Journal::new((limits.conntracks / JOURNAL_SHARE).max(JOURNAL_MIN)),
            dirty: vec![EMPTY; lanes.max(1)],
            walking: Vec::with_capacity(slots_total),
            lost: Vec::with_capacity(slots_total),
            tails: (0..lanes.max(1))
                .map(|_| VecDeque::with_capacity(TAILS_MAX))
                .collect(),
            answers: (0..lanes.max(1))
                .map(|_| VecDeque::with_capacity(2 * slots_total))
                .collect(),
            muted: Vec::with_capacity(slots_total),
            answers_max: (2 * slots_total).max(1),
            digests_asked: VecDeque::with_capacity(slots_total),
            rounds: Rounds::default(),
            audit: Audit::default(),
            search: Search::default(),
            comparing: Comparing::new(slots_total),
            dead: 0,
            listed: 0,
            lanes: (0..slots_most)
                .map(|slot| lane_of(slot, workers, lanes_count))
                .collect(),
        }
    }

    /// Takes over the roles as they are now.
    pub fn observe_roles(&mut self, roles: &Roles, now: Instant) {
        for index in 0..u16::try_from(self.roles.len()).unwrap_or(u16::MAX) {
            // A drain that is over is seen no earlier than the role it was for.
            let drain = roles.drain(VrfId(index));
            let (role, term) = roles.get(VrfId(index));
            let seen = &mut self.roles[usize::from(index)];
            seen.share = roles.share(VrfId(index));
            if role.is_active() || roles.is_owned(VrfId(index)) {
                seen.owned_s = now.secs();
            }
            if (seen.role, seen.term) != (role, term) {
                let reigned = roles.reigned(VrfId(index));
                let reigns_anew = reigned != seen.reigned;
                let demoted = seen.role.is_active() && !role.is_active();
                *seen = VrfRole {
                    role,
                    term,
                    since_s: now.secs(),
                    reigned,
                    ..*seen
                };
                if demoted {
                    self.slots.demoted(VrfId(index));
                    self.given_up(VrfId(index));
                }
                self.protect.review_vrf(VrfId(index));
                if role == Role::Master || reigns_anew {
                    self.resend_muted(VrfId(index));
                }
            }
            self.observe_drain(VrfId(index), drain);
        }
    }

    /// What could not be told while another node's word counted has to be sent now: the slots go out anew.
    fn resend_muted(&mut self, vrf: VrfId) {
        let mut index = 0;
        while let Some(&at) = self.muted.get(index) {
            if at.vrf == vrf {
                self.muted.swap_remove(index);
                self.lose(at);
            } else {
                index += 1;
            }
        }
    }

    /// A change of a slot is not told, because another node's word counts. Its peers hold something else now.
    pub(crate) fn mute(&mut self, at: SlotRef) {
        if !self.muted.contains(&at) {
            self.muted.push(at);
        }
    }

    /// Whether the slot has changes that are not told.
    pub(crate) fn is_muted(&self, at: SlotRef) -> bool {
        self.muted.contains(&at)
    }

    /// The slot is as the node whose word counts says.
    pub(crate) fn unmute(&mut self, at: SlotRef) {
        self.muted.retain(|m| *m != at);
    }

    /// An entry that no peer was told of and that isn't listed either gets listed.
    pub(crate) fn relist(&mut self, changed: Changed) {
        let sync = self.sync_mut(changed);
        if !sync.emitted() && !sync.dirty && sync.kept == Kept::No {
            self.changed(changed, false);
        }
    }

    /// Takes over a new set of rules; a rule that stays keeps its hits.
    pub fn observe_rules(&mut self, snapshot: &Snapshot) {
        self.protect.observe(snapshot);
        for (seen, vrf) in self.roles.iter_mut().zip(snapshot.vrfs()) {
            seen.timeout_max_s = vrf.timeouts.longest_s();
        }
        for (hits, vrf) in self.rule_hits.iter_mut().zip(snapshot.vrfs()) {
            *hits = vrf
                .firewall
                .rules
                .iter()
                .map(|rule| Some(rule.id))
                .chain([None])
                .map(|id| {
                    let kept = hits.iter().find(|(known, _)| *known == id);
                    (id, kept.map_or(0, |(_, count)| *count))
                })
                .collect();
        }
    }

    /// A rule, by its place, or else the default decided about a first packet.
    pub(crate) fn hit(&mut self, vrf: VrfId, rule: Option<u32>) {
        let hits = &mut self.rule_hits[vrf.index()];
        let hit = match rule {
            Some(place) => hits.get_mut(place as usize),
            None => hits.last_mut(),
        };
        if let Some((_, count)) = hit {
            *count += 1;
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

    /// Rule ids with their hits, in order; the default, which has no id, comes last.
    #[must_use]
    pub fn rule_hits(&self, vrf: VrfId) -> &[(Option<u32>, u64)] {
        self.rule_hits.get(vrf.index()).map_or(&[], Vec::as_slice)
    }

    /// Whether this node forwards for the VRF.
    #[must_use]
    pub fn is_active(&self, vrf: VrfId) -> bool {
        self.roles[vrf.index()].role.is_active()
    }

    /// Lane (and event thread) of a slot.
    #[must_use]
    pub fn lane_of(&self, slot: u16) -> usize {
        self.lanes.get(usize::from(slot)).copied().map_or(0, usize::from)
    }

    /// Inserts a conntrack made by a packet and lists it for replication.
    ///
    /// # Errors
    /// As [`Table::insert`]; nothing has changed then.
    pub fn create(&mut self, conntrack: Conntrack) -> Result<u32, InsertError> {
        let id = self.insert(conntrack)?;
        self.counters.conntracks_created += 1;
        if !self.keep_back(id) {
            self.touch(id, false);
        }
        Ok(id)
    }

    /// Inserts a conntrack: table, timer and slot list.
    pub(crate) fn insert(&mut self, conntrack: Conntrack) -> Result<u32, InsertError> {
        let hashes = self.conntracks.hashes(&conntrack.keys);
        self.insert_hashed(conntrack, hashes)
    }

    /// As [`Self::insert`], with the hashes of both tuples.
    pub(crate) fn insert_hashed(
        &mut self,
        conntrack: Conntrack,
        hashes: [u64; 2],
    ) -> Result<u32, InsertError> {
        let at = SlotRef {
            vrf: conntrack.keys[0].vrf,
            slot: conntrack.slot,
        };
        let expires_s = conntrack.expires_s;
        let id = self.conntracks.insert_hashed(conntrack, hashes)?;
        self.wheel.schedule(id, expires_s);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.link(Kind::Conntrack, &mut self.conntracks, id);
        }
        Ok(id)
    }

    /// Asks for the memory of a conntrack of the slot that is made soon, when `later` others have been.
    #[inline]
    pub(crate) fn expect_new(&self, at: SlotRef, later: usize) {
        self.slots.expect(at);
        let id = self.conntracks.vacancy(later);
        self.conntracks.expect_entry(id);
        self.wheel.expect(id);
    }

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
            // The removal can't wait for room in the ring any longer: resend the slot instead.
            if streamed {
                self.lose(at);
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

    /// Gives back what a conntrack was to stand on that could not be made: its port, which needs no rest, and its block, if
    /// only the refused record has mentioned it.
    pub(crate) fn unlearn(&mut self, now: Instant, at: SlotRef, learned: Learned) {
        self.nat.cancel(now, learned.mapping);
        if learned.block_new && self.nat.unmention(learned.block) {
            self.drop_block(at, learned.block);
        }
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

    /// Closes the account of a conntrack that is out of every list and frees its place.
    pub(crate) fn forget(&mut self, at: SlotRef, id: u32) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.unaccount(&mut self.conntracks[id].sync);
        }
        self.conntracks.free(id);
    }

    /// The slot lost a change: it has to be sent again.
    pub(crate) fn lose(&mut self, at: SlotRef) {
        self.slot_lost(at);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.untold = true;
        }
        if !self.lost.contains(&at) {
            self.lost.push(at);
            self.counters.slots_dirtied += 1;
        }
    }

    /// A version was assigned: what it stands for is remembered.
    pub(crate) fn note(&mut self, at: SlotRef, change: Change) {
        self.forget_oldest();
        if let Some(slot) = self.slots.get_mut(at) {
            self.journal.push(&mut slot.history, at, change);
        }
    }

    /// What the journal overwrites next is forgotten by its slot.
    pub(crate) fn forget_oldest(&mut self) {
        if let Some((sequence, oldest)) = self.journal.oldest()
            && let Some(slot) = self.slots.get_mut(oldest.at)
        {
            slot.history.forget(sequence, oldest.change.version());
        }
    }

    /// Somebody wants to hear the slot's digest. Asked too often, it is said once.
    pub(crate) fn ask_digest(&mut self, at: SlotRef) {
        if self.digests_asked.len() < self.digests_asked.capacity() {
            self.digests_asked.push_back(at);
        }
    }

    /// What the present sender of a slot calls by `handle`: bound in the generation that is being, or was last, taken in.
    pub(crate) fn find_named(&self, at: SlotRef, handle: Handle) -> Option<u32> {
        let generation = self.slots.get(at)?.source.as_ref()?.generation;
        self.names.find(at, handle, |id| {
            let conntrack = &self.conntracks[id];
            let here = conntrack.slot == at.slot && conntrack.keys[0].vrf == at.vrf;
            here && conntrack.sync.stamp == generation
        })
    }

    /// The sender of a slot calls a conntrack by `handle` from now on.
    pub(crate) fn bind(&mut self, at: SlotRef, handle: Handle, id: u32) {
        let conntracks = &self.conntracks;
        self.names.bind(at, handle, id, |id| {
            let conntrack = &conntracks[id];
            conntrack.slot == at.slot && conntrack.keys[0].vrf == at.vrf
        });
    }

    /// The oldest changed entry of a lane, still listed.
    pub(crate) fn first_changed(&self, lane: usize) -> Option<Changed> {
        let head = self.dirty[lane].head;
        (head != NIL).then(|| Changed::untagged(head))
    }

    /// Takes the oldest changed entry of a lane off its list.
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

    pub(crate) fn sync_mut(&mut self, changed: Changed) -> &mut SyncState {
        match changed.kind {
            Kind::Block => self.nat.sync_mut(changed.id),
            Kind::Conntrack => self.conntracks.sync_mut(changed.id),
        }
    }

    pub(crate) fn slot_of(&self, changed: Changed) -> SlotRef {
        match changed.kind {
            Kind::Block => {
                let block = self.nat.block(changed.id);
                SlotRef {
                    vrf: block.inside_vrf,
                    slot: block.slot,
                }
            }
            Kind::Conntrack => {
                let conntrack = &self.conntracks[changed.id];
                SlotRef {
                    vrf: conntrack.keys[0].vrf,
                    slot: conntrack.slot,
                }
            }
        }
    }

    /// Takes a conntrack out of lookup, timers, NAT and its slot's list.
    fn unhook(&mut self, now: Instant, id: u32) -> SlotRef {
        self.set_kept(id, Kept::No);
        self.conntracks.unindex(id);
        self.wheel.cancel(id);
        let conntrack = &self.conntracks[id];
        let at = SlotRef {
            vrf: conntrack.keys[0].vrf,
            slot: conntrack.slot,
        };
        // Only what a peer has told has a name.
        if conntrack.sync.stamp != 0 {
            self.names.unbind(at, id);
        }
        let (nat, waits) = (conntrack.nat, conntrack.sync.waits);
        if waits {
            self.conntracks[id].sync.waits = false;
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
}
