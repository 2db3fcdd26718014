//! What becomes of live flows when the firewall's rules change.
//!
//! Rules judge first packets; a packet of a known flow never asks them. So a flow outlives the rule that let it in, unless the
//! VRF wants `on_change = "recheck"`: then the review that a change starts ([`crate::protection`]) judges each conntrack
//! as its first packet was judged, a slice per turn, while traffic goes on. A flow that the rules let in goes on under
//! the rule that does; any other one ends, and its next packet is a first packet. Both are counted. Pools aren't chosen
//! again: a flow can't change its public endpoint.
//!
//! Only the active node judges; its peers hear of an end as of any other. A node that stands by owes it, and pays when it
//! becomes active: its peer's rules may have been others. A flow that no route leads on for the moment isn't judged by
//! rules about interfaces it doesn't have: it waits for the next snapshot. Where a flow came in that another node
//! made isn't known; the interface towards its source stands in.

use crate::config::{Action, OnChange};
use crate::conntrack::Conntrack;
use crate::flow::Direction;
use crate::policy::{Decision, Query};
use crate::tables::Tables;
use crate::time::Instant;
use crate::vrf::Snapshot;

/// What a judgement counts as in the budget of a turn, beside the look at the conntrack.
pub(crate) const RECHECK_COST: usize = 3;

/// What the rules of a VRF have still to say about the flows there are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recheck {
    owed: bool,
    /// Some of them had no route.
    unrouted: bool,
}

impl Recheck {
    /// There is a snapshot, and what its rules want if they are new. True if there is something to look at.
    pub(crate) fn observe(&mut self, changed: Option<OnChange>) -> bool {
        match changed {
            Some(OnChange::Recheck) => self.owed = true,
            Some(OnChange::Keep) => *self = Self::default(),
            None => return self.unrouted,
        }
        self.owed
    }

    /// Everything is looked at from the beginning.
    pub(crate) const fn begin(&mut self) {
        self.unrouted = false;
    }

    /// Flows have come from where they weren't judged yet.
    pub(crate) const fn owe(&mut self) {
        self.owed = true;
    }

    /// Whether flows have still to be judged.
    pub(crate) const fn is_owed(&self) -> bool {
        self.owed
    }
}

impl Tables {
    /// Judges a conntrack by the rules as they are, if that is owed. Says whether it lives, if it was.
    pub(crate) fn recheck(&mut self, id: u32, now: Instant) -> Option<bool> {
        let conntrack = &self.conntracks[id];
        let vrf = conntrack.vrf();
        if !self.protect.rechecks[vrf.index()].is_owed() || !self.is_active(vrf) {
            return None;
        }
        let hash = self.conntracks.hash(&conntrack.key(Direction::Original));
        let Some(decision) = decide(conntrack, self.protect.snapshot()?, hash) else {
            self.protect.rechecks[vrf.index()].unrouted = true;
            self.counters.rechecked_unrouted += 1;
            return Some(true);
        };
        if decision.action == Action::Accept {
            self.conntracks[id].rule = decision.rule_id;
            self.counters.rechecked_kept += 1;
            return Some(true);
        }
        self.remove(now, id);
        self.list_blocks();
        self.counters.rechecked_ended += 1;
        Some(false)
    }

    /// Every conntrack has been looked at.
    pub(crate) fn rechecked(&mut self) {
        for (recheck, role) in self.protect.rechecks.iter_mut().zip(&self.roles) {
            recheck.owed &= recheck.unrouted || !role.role.is_active();
        }
    }
}

/// What the rules would say about its first packet; nothing without a way out, or in.
fn decide(conntrack: &Conntrack, snapshot: &Snapshot, hash: u64) -> Option<Decision> {
    let key = conntrack.inside();
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the hash do")]
    let interface_to = |address| Some(snapshot.route(key.vrf, address, hash as u32)?.interface);
    Some(snapshot.vrf(key.vrf).policy.evaluate(&Query {
        key: &key,
        inbound: conntrack.inbound().or_else(|| interface_to(&key.src))?,
        outbound: Some(interface_to(&key.dst)?),
    }))
}
