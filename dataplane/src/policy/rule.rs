//! Compiled rules.

use super::{Decision, Query};
use crate::config::{FirewallIntent, InterfaceId, NatRuleIntent};
use crate::flow::{FlowKey, VrfId};
use crate::nat::PoolRef;

/// A VRF's firewall.
#[derive(Debug, Clone)]
pub struct Policy {
    default: crate::config::Action,
}

impl Policy {
    /// From checked intent.
    #[must_use]
    pub fn compile(intent: &FirewallIntent) -> Self {
        Self {
            default: intent.default,
        }
    }

    /// First match in order, else the default.
    #[must_use]
    pub fn evaluate(&self, query: &Query<'_>) -> Decision {
        let _ = query;
        Decision {
            action: self.default,
            rule: None,
            rule_id: 0,
            log: false,
        }
    }
}

/// A VRF's source NAT rules.
#[derive(Debug, Clone)]
pub struct NatPolicy {}

impl NatPolicy {
    /// From checked intent of the VRF `vrf`.
    #[must_use]
    pub fn compile(vrf: VrfId, rules: &[NatRuleIntent]) -> Self {
        let _ = (vrf, rules);
        Self {}
    }

    /// Pool for a flow from inside; none when no rule matches or the flow is not IPv4.
    #[must_use]
    pub fn pool_for(&self, key: &FlowKey, outbound: InterfaceId) -> Option<PoolRef> {
        let _ = (key, outbound);
        None
    }
}
