//! Firewall and NAT rules: what happens to the first packet of a flow.

mod matcher;
mod rule;

pub use self::rule::{NatPolicy, Policy};
use crate::config::{Action, InterfaceId};
use crate::flow::FlowKey;

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The flow as its first packet arrived, before translation. ICMP and other protocols without ports never
    /// match a rule that names ports.
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
    /// Index of the matching rule in [`crate::config::FirewallIntent::rules`], which is also the index of its
    /// hit counter in the worker; none for the default action.
    pub rule: Option<u32>,
    /// The rule's number, 0 for the default action.
    pub rule_id: u32,
    /// Whether the rule asks for a log line.
    pub log: bool,
}
