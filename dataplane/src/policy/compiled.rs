//! The rules of all VRFs, compiled.

use std::sync::Arc;

use super::{NatPolicy, Policy, TooLarge};
use crate::config::Intent;
use crate::flow::VrfId;

/// Compiled by the agent when the configuration changes, outside of any worker, and a part of every snapshot from then
/// on: a change of routes or neighbours compiles nothing. Rules that stay are shared with those of before.
#[derive(Debug, Clone, Default)]
pub struct Policies(Vec<VrfPolicies>);

/// Those of one VRF.
#[derive(Debug, Clone)]
pub struct VrfPolicies {
    /// What may pass.
    pub firewall: Arc<Policy>,
    /// What is translated, and from which pool.
    pub nat: Arc<NatPolicy>,
}

/// Whose rules can't be compiled, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rules} of VRF {vrf}: {cause}")]
pub struct PolicyError {
    /// VRF.
    pub vrf: String,
    /// Which of its rules.
    pub rules: &'static str,
    /// Why.
    pub cause: TooLarge,
}

impl Policies {
    /// From checked intent, sharing what is still the same as `before`.
    ///
    /// # Errors
    /// When rules go beyond the limits of the classifier.
    pub fn compile(intent: &Intent, before: &Self) -> Result<Self, PolicyError> {
        let mut policies = Vec::with_capacity(intent.vrfs.len());
        for (id, vrf) in (0..).map(VrfId).zip(&intent.vrfs) {
            let refuse = |rules| {
                move |cause| PolicyError {
                    vrf: vrf.name.clone(),
                    rules,
                    cause,
                }
            };
            let before = before.0.get(id.index());
            let firewall = before.map(|b| &b.firewall);
            let nat = before.map(|b| &b.nat);
            policies.push(VrfPolicies {
                firewall: match firewall.filter(|f| *f.intent() == vrf.firewall) {
                    Some(same) => Arc::clone(same),
                    None => Policy::compile(&vrf.firewall, firewall.map(|f| &**f))
                        .map_err(refuse("firewall rules"))?
                        .into(),
                },
                nat: match nat.filter(|n| n.rules() == vrf.nat_rules) {
                    Some(same) => Arc::clone(same),
                    None => NatPolicy::compile(id, &vrf.nat_rules)
                        .map_err(refuse("cg-nat rules"))?
                        .into(),
                },
            });
        }
        Ok(Self(policies))
    }

    /// Those of a VRF of the intent.
    #[must_use]
    pub fn vrf(&self, vrf: VrfId) -> &VrfPolicies {
        &self.0[vrf.index()]
    }

    /// Number of rules and heap bytes of their compiled form.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let sizes = self.0.iter().map(|p| {
            let rules = p.firewall.rules() + p.nat.rules().len();
            (rules, p.firewall.bytes() + p.nat.bytes())
        });
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }
}
