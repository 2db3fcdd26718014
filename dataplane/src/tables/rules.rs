//! The rules as a worker has seen them last, and how often each has decided.
//!
//! Taken over when the snapshot changes; hits live as long as their rule's id stays in it.

use super::Tables;
use crate::flow::VrfId;
use crate::vrf::Snapshot;

impl Tables {
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

    /// Rule ids with their hits, in order; the default, which has no id, comes last.
    #[must_use]
    pub fn rule_hits(&self, vrf: VrfId) -> &[(Option<u32>, u64)] {
        self.rule_hits.get(vrf.index()).map_or(&[], Vec::as_slice)
    }
}
