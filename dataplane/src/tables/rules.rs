//! The rules as a worker has seen them last, and how often each has decided, and refused.
//!
//! Taken over when the snapshot changes, at no cost that grows with it: each rule brings the place of its hit counter, which
//! it keeps as long as it is configured. A counter is labelled with its rule's number, so that one that has found a
//! place anew begins at zero without a visit.

use std::sync::Arc;

use super::Tables;
use crate::flow::{Addr, VrfId};
use crate::policy::{Decision, Limit};
use crate::time::Instant;
use crate::verdict::Drop;
use crate::vrf::Snapshot;

/// How often a rule has decided.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hits {
    /// The rule's number, 0 for the default.
    rule_id: u32,
    count: u64,
    limited: u64,
}

impl Hits {
    /// What is counted of this rule so far.
    fn of(self, rule_id: u32) -> Self {
        if self.rule_id == rule_id {
            return self;
        }
        Self {
            rule_id,
            ..Self::default()
        }
    }
}

/// What a worker has counted of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleCount {
    /// Number; none of the default.
    pub id: Option<u32>,
    /// First packets that it has decided about.
    pub hits: u64,
    /// Of those, what it would have let in but for its limits.
    pub limited: u64,
}

impl Tables {
    /// Takes over a snapshot that this worker has not seen yet.
    pub fn observe_rules(&mut self, snapshot: &Arc<Snapshot>) {
        if !self.protect.observe(snapshot) {
            return;
        }
        for (seen, vrf) in self.roles.iter_mut().zip(snapshot.vrfs()) {
            seen.timeout_max_s = vrf.timeouts.longest_s();
        }
        for (hits, vrf) in self.rule_hits.iter_mut().zip(snapshot.vrfs()) {
            // Grows with the most rules there have been, and never otherwise.
            let places = vrf.policy.counters();
            if hits.len() < places {
                hits.resize(places, Hits::default());
            }
        }
    }

    /// A rule, or the default, has decided about a first packet.
    #[inline]
    pub(crate) fn hit(&mut self, vrf: VrfId, decision: &Decision) {
        if let Some(hits) = self.rule_hits[vrf.index()].get_mut(decision.counter as usize) {
            *hits = hits.of(decision.rule_id);
            hits.count += 1;
        }
    }

    /// Whether the limits of the rule that has decided let a flow of this source in.
    ///
    /// # Errors
    /// Which of them doesn't; what it refuses is counted with the rule.
    pub(crate) fn within_limit(
        &mut self,
        (vrf, source): (VrfId, &Addr),
        decision: &Decision,
        limit: &Limit,
        now: Instant,
    ) -> Result<(), Drop> {
        // A source that is refused takes nothing from the others.
        let of_source = limit.source.is_none_or(|spacing| {
            let rule = (vrf, decision.rule_id);
            self.sources.take(rule, source, spacing, now)
        });
        let in_all = || {
            limit
                .all
                .as_ref()
                .is_none_or(|(spacing, shared)| shared.take(*spacing, now))
        };
        let refused = match of_source {
            false => Drop::SourceLimit,
            true if !in_all() => Drop::RuleLimit,
            true => return Ok(()),
        };
        if let Some(hits) = self.rule_hits[vrf.index()].get_mut(decision.counter as usize) {
            hits.limited += 1;
        }
        Err(refused)
    }

    /// Rules with what is counted of them, in order; the default, which has no id, comes last.
    #[must_use]
    pub fn rule_hits(&self, vrf: VrfId) -> Vec<RuleCount> {
        let snapshot = self.protect.snapshot();
        let (Some(vrf), Some(hits)) = (
            snapshot.and_then(|s| s.vrfs().get(vrf.index())),
            self.rule_hits.get(vrf.index()),
        ) else {
            return Vec::new();
        };
        let of = |decision: &Decision| {
            let hits = hits.get(decision.counter as usize).copied().unwrap_or_default();
            let hits = hits.of(decision.rule_id);
            RuleCount {
                id: decision.rule.map(|_| decision.rule_id),
                hits: hits.count,
                limited: hits.limited,
            }
        };
        vrf.policy.decisions().iter().map(of).collect()
    }
}
