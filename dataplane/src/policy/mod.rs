//! Firewall and NAT rules: what happens to the first packet of a flow.
//!
//! Compiled from checked intent by the agent ([`Policies`]), published with the immutable snapshot of a VRF, read by every
//! worker, replaced whole when the configuration changes. Only packets that match no conntrack are judged, and
//! when rules change, the flows there are, if the VRF wants so (`crate::recheck`). Rules have an order and the first match
//! decides; `classifier` finds it without trying them.

mod classifier;
mod compiled;
mod limit;
mod rule;

pub use self::classifier::{BYTES_MAX, CONDITIONS_MAX, RULES_MAX, TooLarge};
pub use self::compiled::{Policies, PolicyError, VrfPolicies};
pub use self::limit::{Spacing, Taken};
pub use self::rule::{Limit, NatChoice, NatPolicy, Policy, Syncs};
use crate::config::{Action, Care, InterfaceId};
use crate::flow::FlowKey;

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The flow as its first packet arrived, before translation. Only TCP and UDP have ports: a rule that names
    /// ports matches nothing else.
    pub key: &'a FlowKey,
    /// Where it came in.
    pub inbound: InterfaceId,
    /// Where it would leave, if there is a route.
    pub outbound: Option<InterfaceId>,
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Accept, drop or reject.
    pub action: Action,
    /// Index of the matching rule in [`crate::config::FirewallIntent::rules`]; none for the default action.
    pub rule: Option<u32>,
    /// The rule's number, 0 for the default action.
    pub rule_id: u32,
    /// Whether the rule asks for a log line.
    pub log: bool,
    /// What the rule says about the protection of the flow.
    pub care: Care,
    /// Whether the rule limits new flows ([`Policy::limit`]).
    pub limited: bool,
    /// Place of the hit counter, which each worker keeps for itself.
    pub counter: u32,
}

#[cfg(test)]
mod tests;
