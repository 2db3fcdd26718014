//! What one worker owns: conntracks, timers, NAT state, slots, and the lists of entries whose change nobody has
//! been told yet. Every creation and removal of a replicated entry goes through here, so that the four never
//! disagree.
//!
//! Born with the worker, everything allocated, and touched by nobody else. An entry is made and ended in `entries`; what
//! changes of it is listed in `changes` until `stage::emit` tells it; `role` and `rules` are what the worker has seen of
//! the outside, once per turn.

mod changes;
mod entries;
mod role;
mod rules;
mod sources;

#[cfg(test)]
pub(crate) mod small;

use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use self::changes::Changed;
use self::changes::DirtyList;
pub use self::role::VrfRole;
use self::rules::Hits;
pub use self::rules::RuleCount;
use self::sources::Sources;
use crate::admission::Admission;
use crate::commit::Commits;
use crate::conntrack::{Table, Wheel};
use crate::counters::Counters;
use crate::delta::{Handle, SlotRef, ToEvent};
use crate::exception::PuntCounts;
use crate::flow::{Addr, VrfId};
use crate::history::{Change, Journal};
use crate::lane_counts::LaneCounts;
use crate::names::Names;
use crate::nat::{Nat, NatLimits, Pools};
use crate::protection::Protect;
use crate::resync::Incoming;
use crate::retirement::Retirement;
use crate::room::{Asking, Sizes};
use crate::shard::lane_of;
use crate::slot::Slots;
use crate::stage::audit::Audit;
use crate::stage::compare::Comparing;
use crate::stage::digest::Rounds;
use crate::stage::expire::Pace;
use crate::stage::foresee::Foresight;
use crate::stage::handoff::HandoffCounts;
use crate::stage::missing::Search;
use crate::transit::Transit;

/// Entries of a former reign that may wait per event thread.
pub(crate) const TAILS_MAX: usize = 2_048;

/// Versioned changes that are remembered, as a share of the arena: one in this many.
const JOURNAL_SHARE: usize = 8;
/// And at least this many.
const JOURNAL_MIN: usize = 1_024;

/// Sizes of one worker's tables.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Conntracks.
    pub conntracks: usize,
    /// NAT arenas.
    pub nat: NatLimits,
    /// What the arenas may be made to hold later: address space, and no more than that. None: no more than at the start.
    pub reserve: Option<Sizes>,
    /// Packets that may wait until the peers know their flow.
    pub held_packets: usize,
    /// Sources whose new flows are counted where a rule limits them.
    pub limited_sources: usize,
    /// Packets that this worker redirects to the active node.
    pub redirect_packets_per_s: u32,
}

/// Parts of the worker that tests switch off, to see that their proofs notice. All off in production: nothing sets
/// them there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// No slot is caught up: what differs is sent whole.
    pub no_catch_up: bool,
    /// What is stored is not looked at.
    pub no_audit: bool,
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
    /// Packets handed to other workers, by port and cause.
    pub handoffs: HandoffCounts,
    /// Frames for the kernel, by port and class.
    pub punts: PuntCounts,
    /// What is counted per event thread too.
    pub(crate) lane_counts: Box<[LaneCounts]>,
    /// Roles as of this turn.
    pub roles: Vec<VrfRole>,
    /// Whether this node isn't active for some VRF.
    pub(crate) stands_by: bool,
    /// Whether a switchover has just made this node active for some VRF.
    pub(crate) expects: bool,
    /// Packets that are redirected at most.
    pub(crate) redirect_packets_per_s: u32,
    /// What a test has broken.
    pub faults: Faults,
    /// Flows whose packets wait for the peers.
    pub(crate) commits: Commits,
    /// Who is told of what.
    pub(crate) protect: Protect,
    /// First packets decided per VRF and rule, where the rules say.
    rule_hits: Vec<Vec<Hits>>,
    /// What sources have used up of the limits of rules.
    sources: Sources,
    /// Changed entries, per lane.
    dirty: Vec<DirtyList>,
    /// Versioned changes, to be told again.
    pub(crate) journal: Journal,
    /// Slots that are asked for, per lane, in the order of the requests.
    pub(crate) walking: Vec<Vec<SlotRef>>,
    pub(crate) lost: Vec<SlotRef>,
    /// Slots whose records this node has let pass, being active, and where they came from: their senders have to hear it.
    pub(crate) missed: Vec<(SlotRef, Incoming)>,
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
    pub(crate) foresight: Foresight,
    pub(crate) comparing: Comparing,
    pub(crate) retirement: Retirement,
    /// A slot that changes hands.
    pub(crate) transit: Transit,
    /// A public address that the peer has spoken of and that is in no pool here, until somebody is told.
    pub(crate) no_pool: Option<(VrfId, Addr)>,
    pub(crate) dead: usize,
    pub(crate) pace: Pace,
    pub(crate) admission: Admission,
    pub(crate) asking: Asking,
    /// Other room has to be followed by something yet.
    pub(crate) rearranging: bool,
    /// Conntracks at the last slice of that.
    pub(crate) held_before: usize,
    /// How much a slice of it does for each conntrack that was made since.
    pub(crate) carry_pace: usize,
    listed: u64,
    /// Lane of each slot number: the same for every VRF.
    lanes: Box<[u16]>,
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
        let reserve = limits.reserve.unwrap_or(Sizes {
            conntracks: limits.conntracks,
            nat: limits.nat,
        });
        Self {
            conntracks: Table::with_reserve(limits.conntracks, reserve.conntracks, seed),
            wheel: Wheel::with_reserve(limits.conntracks, reserve.conntracks, 0),
            names: Names::with_reserve(limits.conntracks, reserve.conntracks),
            nat: Nat::with_reserve(pools, limits.nat, reserve.nat, seed.rotate_left(21)),
            slots: Slots::new(worker, (workers, lanes_count), slots_per_vrf),
            counters: Counters::default(),
            handoffs: HandoffCounts::default(),
            punts: PuntCounts::default(),
            lane_counts: vec![LaneCounts::default(); lanes.max(1)].into_boxed_slice(),
            roles: vec![VrfRole::UNSEEN; slots_per_vrf.len()],
            stands_by: true,
            expects: false,
            redirect_packets_per_s: limits.redirect_packets_per_s,
            faults: Faults::default(),
            commits: Commits::new(limits.held_packets, slots_per_vrf.len()),
            protect: Protect::new(slots_per_vrf.len(), lanes.max(1)),
            sources: Sources::new(limits.limited_sources, seed.rotate_left(42)),
            rule_hits: vec![Vec::new(); slots_per_vrf.len()],
            journal: Journal::new((limits.conntracks / JOURNAL_SHARE).max(JOURNAL_MIN)),
            dirty: vec![DirtyList::EMPTY; lanes.max(1)],
            walking: (0..lanes.max(1))
                .map(|_| Vec::with_capacity(slots_total))
                .collect(),
            lost: Vec::with_capacity(slots_total),
            missed: Vec::with_capacity(slots_total),
            tails: (0..lanes.max(1))
                .map(|_| VecDeque::with_capacity(TAILS_MAX))
                .collect(),
            answers: (0..lanes.max(1))
                // And a marker behind the last of a slot that leaves.
                .map(|_| VecDeque::with_capacity(2 * slots_total + 1))
                .collect(),
            muted: Vec::with_capacity(slots_total),
            answers_max: (2 * slots_total).max(1),
            digests_asked: VecDeque::with_capacity(slots_total),
            rounds: Rounds::default(),
            audit: Audit::default(),
            search: Search::default(),
            foresight: Foresight::new(slots_per_vrf.len()),
            comparing: Comparing::new(slots_total),
            retirement: Retirement::default(),
            transit: Transit::default(),
            no_pool: None,
            dead: 0,
            pace: Pace::default(),
            admission: Admission::default(),
            asking: Asking::new(limits.conntracks),
            rearranging: false,
            held_before: 0,
            carry_pace: 0,
            listed: 0,
            lanes: (0..slots_most).map(|slot| lane_of(slot, lanes_count)).collect(),
        }
    }

    /// Lane (and event thread) of a slot.
    #[must_use]
    pub fn lane_of(&self, slot: u16) -> usize {
        self.lanes.get(usize::from(slot)).copied().map_or(0, usize::from)
    }

    /// A slot of a VRF that this worker owns and that lane carries.
    pub(crate) fn slot_of_lane(&self, vrf: VrfId, lane: usize) -> Option<SlotRef> {
        let mut owned = self.slots.of_vrf(vrf).map(|(slot, _)| SlotRef { vrf, slot });
        owned.find(|at| self.lane_of(at.slot) == lane)
    }

    /// What is counted per event thread, in their order.
    #[must_use]
    pub const fn lane_counts(&self) -> &[LaneCounts] {
        &self.lane_counts
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
    #[inline]
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
            conntrack.at() == at && conntrack.sync.stamp == generation
        })
    }

    /// The sender of a slot calls a conntrack by `handle` from now on.
    pub(crate) fn bind(&mut self, at: SlotRef, handle: Handle, id: u32) {
        let conntracks = &self.conntracks;
        self.names.bind(at, handle, id, |id| conntracks[id].at() == at);
    }
}
