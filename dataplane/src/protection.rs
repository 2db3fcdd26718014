//! Which flows a failover would lose: those that policy keeps from the peers, and those that no peer is there for.
//!
//! A conntrack made here is kept back when its rule says so. One that waits for its age is told when the timer wheel comes by;
//! one whose rule changes is told, or withdrawn from the peers, by a review that runs a slice per turn. The same review ends what
//! new rules don't let in ([`crate::recheck`]). On the way into standby ([`crate::drain`]) the review tells whoever waits. A
//! conntrack that is kept back has no version and no share in its slot's digest: to the peers it doesn't exist. Its port block
//! travels.
//!
//! Conntracks of a mapping that anybody may send to are never kept back: the mapping travels in them.

use std::sync::Arc;

use crate::config::SyncPolicy;
use crate::conntrack::Conntrack;
use crate::drain::Drains;
use crate::flow::VrfId;
use crate::recheck::{RECHECK_COST, Recheck};
use crate::role::Role;
use crate::slot::Kind;
use crate::tables::{Changed, Tables};
use crate::time::Instant;
use crate::vrf::Snapshot;

/// Entries looked at by a review in one turn.
const REVIEW_BUDGET: usize = 128;
/// Places that it goes over to find them: where few are live, most are empty.
const REVIEW_PLACES: u32 = 1_024;

/// Why no peer is told of a conntrack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kept {
    /// Peers are told.
    #[default]
    No = 0,
    /// It is younger than its rule wants.
    Delay = 1,
    /// Its rule says never.
    NoSync = 2,
    /// The peers have more than enough to do: it is younger than the overload ladder wants.
    Overload = 3,
}

/// How many of a VRF's conntracks a failover would keep, and why it would lose the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protection {
    /// All of them.
    pub conntracks: u64,
    /// Not told yet: younger than their rules want.
    pub delay: u64,
    /// Never told: their rules say so.
    pub no_sync: u64,
    /// No peer is connected for their slot, or their slot is still being sent.
    pub no_peer: u64,
    /// Not told yet: held back by the overload ladder.
    pub overload: u64,
}

impl Protection {
    /// Those that a failover keeps.
    #[must_use]
    pub const fn protected(&self) -> u64 {
        self.conntracks - self.delay - self.no_sync - self.no_peer - self.overload
    }

    /// Adds another worker's.
    pub const fn add(&mut self, other: &Self) {
        self.conntracks += other.conntracks;
        self.delay += other.delay;
        self.no_sync += other.no_sync;
        self.no_peer += other.no_peer;
        self.overload += other.overload;
    }
}

/// What a worker knows of the rules' policies, and how far its review is.
#[derive(Debug)]
pub(crate) struct Protect {
    /// The rules as they are.
    snapshot: Option<Arc<Snapshot>>,
    /// What the rules have still to say about flows there are, by VRF.
    pub(crate) rechecks: Vec<Recheck>,
    /// Conntracks kept back, by VRF and reason.
    kept: Vec<[u64; 4]>,
    /// VRFs that this node is about to give up: nothing of them waits for its age any more.
    pub(crate) drains: Drains,
    /// Least age, in seconds, that the overload ladder wants of new flows; 0 as long as it wants nothing.
    pub(crate) overload_age_s: u32,
    review: Option<u32>,
}

impl Protect {
    pub(crate) fn new(vrfs: usize, lanes: usize) -> Self {
        Self {
            snapshot: None,
            rechecks: vec![Recheck::default(); vrfs],
            kept: vec![[0; 4]; vrfs],
            drains: Drains::new(vrfs, lanes),
            overload_age_s: 0,
            review: None,
        }
    }

    /// Takes over the rules of a snapshot; false if they are those of before. When one says something else about
    /// protection, what exists is reviewed.
    pub(crate) fn observe(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, snapshot))
        {
            return false;
        }
        let before = self.snapshot.replace(Arc::clone(snapshot));
        let before = before.iter().flat_map(|before| before.vrfs());
        let mut changed = false;
        for ((old, new), recheck) in before.zip(snapshot.vrfs()).zip(&mut self.rechecks) {
            let (firewall, nat) = (
                !Arc::ptr_eq(&old.policy, &new.policy),
                !Arc::ptr_eq(&old.nat, &new.nat),
            );
            changed |= firewall && old.policy.syncs() != new.policy.syncs();
            changed |= nat && old.nat.syncs() != new.nat.syncs();
            changed |= recheck.observe(firewall.then_some(new.policy.on_change()));
        }
        if changed {
            self.review_all();
        }
        true
    }

    /// What was taken over last.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// The role of a VRF has changed. Where nothing is kept back nothing has to be looked at.
    pub(crate) fn review_vrf(&mut self, vrf: VrfId) {
        if self.kept[vrf.index()].iter().any(|&count| count > 0) || self.rechecks[vrf.index()].is_owed() {
            self.review_all();
        }
    }

    /// Everything has to be looked at.
    pub(crate) fn review_all(&mut self) {
        self.review = Some(0);
        self.rechecks.iter_mut().for_each(Recheck::begin);
    }

    /// Whether something has still to be looked at.
    pub(crate) const fn is_reviewing(&self) -> bool {
        self.review.is_some()
    }

    /// Conntracks of a VRF that are kept back for a reason.
    pub(crate) fn kept(&self, vrf: VrfId, reason: Kept) -> u64 {
        self.kept[vrf.index()][reason as usize]
    }

    /// Second at which peers are to be told of a conntrack that waits for its age.
    pub(crate) fn due_s(&self, conntrack: &Conntrack) -> Option<u32> {
        let age_s = match conntrack.sync.kept {
            Kept::No | Kept::NoSync => return None,
            Kept::Overload => self.overload_age_s,
            Kept::Delay => match self.rules(conntrack) {
                SyncPolicy::Always => 0,
                SyncPolicy::After(age_s) => age_s,
                SyncPolicy::Never => return None,
            },
        };
        Some(conntrack.created_s.saturating_add(age_s))
    }

    fn rules(&self, conntrack: &Conntrack) -> SyncPolicy {
        let at = conntrack.vrf();
        let vrf = self.snapshot().and_then(|s| s.vrfs().get(at.index()));
        let said = vrf.and_then(|vrf| {
            let by_nat = || vrf.nat.syncs().get(conntrack.nat()?.rule);
            vrf.policy.syncs().get(conntrack.rule).or_else(by_nat)
        });
        match said.unwrap_or_default() {
            SyncPolicy::After(_) if self.drains.is_open(at) => SyncPolicy::Always,
            policy => policy,
        }
    }
}

impl Tables {
    /// How well the conntracks of a VRF are protected. Looks at each slot once: not for the packet path.
    #[must_use]
    pub fn protection(&self, vrf: VrfId) -> Protection {
        let Some(role) = self.roles.get(vrf.index()) else {
            return Protection::default();
        };
        let mut protection = Protection {
            delay: self.protect.kept(vrf, Kept::Delay),
            no_sync: self.protect.kept(vrf, Kept::NoSync),
            overload: self.protect.kept(vrf, Kept::Overload),
            ..Protection::default()
        };
        for (_, slot) in self.slots.of_vrf(vrf) {
            protection.conntracks += u64::from(slot.conntracks);
            if role.role.is_active() && (slot.streams.is_empty() || !slot.walks.is_empty()) {
                protection.no_peer += u64::from(slot.conntracks - slot.kept);
            }
        }
        protection
    }

    /// The one place where a conntrack is kept back or no longer is, so that the gauges stay exact.
    pub(crate) fn set_kept(&mut self, id: u32, kept: Kept) {
        let conntrack = &mut self.conntracks[id];
        let before = core::mem::replace(&mut conntrack.sync.kept, kept);
        if before == kept {
            return;
        }
        let at = conntrack.at();
        let gauges = &mut self.protect.kept[at.vrf.index()];
        if before != Kept::No {
            gauges[before as usize] -= 1;
        }
        if kept != Kept::No {
            gauges[kept as usize] += 1;
        }
        if let Some(slot) = self.slots.get_mut(at) {
            slot.kept -= u32::from(before != Kept::No);
            slot.kept += u32::from(kept != Kept::No);
        }
    }

    /// Keeps a conntrack that has just been made back, when its rule or the overload ladder wants so.
    pub(crate) fn keep_back(&mut self, id: u32) -> bool {
        let vrf = self.conntracks[id].vrf();
        let aged = self.protect.overload_age_s > 0 && !self.protect.drains.is_open(vrf);
        let kept = match self.policy(id) {
            SyncPolicy::Never => Kept::NoSync,
            SyncPolicy::After(_) => Kept::Delay,
            SyncPolicy::Always if aged => Kept::Overload,
            SyncPolicy::Always => return false,
        };
        if self.roles[vrf.index()].role == Role::Alone {
            return false;
        }
        self.set_kept(id, kept);
        self.arrange(id);
        true
    }

    /// The peers are told of a conntrack that was kept back.
    pub(crate) fn tell(&mut self, id: u32, now: Instant) {
        if self.conntracks[id].sync.kept == Kept::No {
            return;
        }
        self.set_kept(id, Kept::No);
        self.conntracks[id].refreshed_s = now.secs();
        self.counters.conntracks_told_late += 1;
        self.protect.drains.tell(self.conntracks[id].vrf());
        self.touch(id, false);
    }

    /// A slice of the review, when one is due: every conntrack is judged again, kept back, told or withdrawn as policy has
    /// it now.
    pub(crate) fn review(&mut self, now: Instant) -> usize {
        let Some(mut cursor) = self.protect.review.filter(|_| !self.transit.is_freezing()) else {
            return 0;
        };
        let end = cursor.saturating_add(REVIEW_PLACES);
        let mut looked = 0;
        while looked < REVIEW_BUDGET && cursor < end {
            if cursor >= self.conntracks.reach() {
                self.protect.review = None;
                self.rechecked();
                return looked + 1;
            }
            let id = cursor;
            cursor += 1;
            if !self.conntracks.is_live(id) {
                continue;
            }
            looked += 1;
            let judged = self.recheck(id, now);
            if judged.is_some() {
                looked += RECHECK_COST;
            }
            if judged != Some(false) {
                self.judge(id, now);
            }
        }
        self.protect.review = Some(cursor);
        looked + 1
    }

    fn judge(&mut self, id: u32, now: Instant) {
        let conntrack = &self.conntracks[id];
        let (kept, created_s) = (conntrack.sync.kept, conntrack.created_s);
        let vrf = conntrack.vrf();
        let role = self.roles[vrf.index()];
        if role.role != Role::Master {
            if role.has_word() && matches!(kept, Kept::Delay | Kept::Overload) {
                self.tell(id, now);
            }
            return;
        }
        match (self.policy(id), kept) {
            (SyncPolicy::Always, Kept::Delay | Kept::NoSync) => self.tell(id, now),
            (SyncPolicy::Always, Kept::Overload) if self.protect.drains.is_open(vrf) => self.tell(id, now),
            (SyncPolicy::Never, Kept::No | Kept::Delay | Kept::Overload) => self.withhold(id),
            (SyncPolicy::After(age_s), Kept::NoSync | Kept::Delay) => {
                if created_s.saturating_add(age_s) <= now.secs() {
                    self.tell(id, now);
                } else {
                    self.set_kept(id, Kept::Delay);
                    self.arrange(id);
                }
            }
            _ => {}
        }
    }

    /// A conntrack that peers know, or were to know, is kept from them from now on.
    fn withhold(&mut self, id: u32) {
        self.set_kept(id, Kept::NoSync);
        if self.conntracks[id].sync.emitted() {
            self.changed(
                Changed {
                    kind: Kind::Conntrack,
                    id,
                },
                false,
            );
        }
    }

    /// The timer wheel comes by when the conntrack is to be told.
    pub(crate) fn arrange(&mut self, id: u32) {
        if let Some(due_s) = self.protect.due_s(&self.conntracks[id]) {
            self.wheel.sooner(id, due_s);
        }
    }

    /// What the rules say about a conntrack.
    fn policy(&self, id: u32) -> SyncPolicy {
        let conntrack = &self.conntracks[id];
        let policy = self.protect.rules(conntrack);
        let needed = |mapping| self.nat.is_open_to_all(mapping);
        if policy != SyncPolicy::Always && conntrack.nat().is_some_and(|nat| needed(nat.mapping)) {
            return SyncPolicy::Always;
        }
        policy
    }
}
