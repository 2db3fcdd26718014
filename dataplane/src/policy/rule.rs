//! Compiled rules: the firewall's and those that choose a NAT pool.

use super::matcher::{Lists, Span, ports};
use super::{Decision, Query};
use crate::config::{Action, Care, FirewallIntent, InterfaceId, NatRuleIntent, RuleIntent};
use crate::flow::{FlowKey, VrfId};
use crate::nat::PoolRef;

/// A VRF's firewall.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    lists: Lists,
    default: Action,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    inbound: Option<InterfaceId>,
    outbound: Option<InterfaceId>,
    protocol: Option<u8>,
    log: bool,
    action: Action,
    source: Span,
    destination: Span,
    source_ports: Span,
    destination_ports: Span,
    id: u32,
    care: Care,
}

impl Policy {
    /// From checked intent.
    #[must_use]
    pub fn compile(intent: &FirewallIntent) -> Self {
        let mut lists = Lists::default();
        let rules = intent
            .rules
            .iter()
            .map(|rule| Rule::compile(rule, &mut lists))
            .collect();
        Self {
            rules,
            lists,
            default: intent.default,
        }
    }

    /// First match in order, else the default.
    #[must_use]
    pub fn evaluate(&self, query: &Query<'_>) -> Decision {
        let ports = ports(query.key);
        for (index, rule) in (0..).zip(&self.rules) {
            if rule.matches(query, ports, &self.lists) {
                let Rule {
                    action,
                    id,
                    log,
                    care,
                    ..
                } = *rule;
                return Decision {
                    action,
                    rule: Some(index),
                    rule_id: id,
                    log,
                    care,
                };
            }
        }
        Decision {
            action: self.default,
            rule: None,
            rule_id: 0,
            log: false,
            care: Care::default(),
        }
    }

    /// Number of rules, the default apart.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.rules.len()
    }
}

impl Rule {
    fn compile(intent: &RuleIntent, lists: &mut Lists) -> Self {
        Self {
            inbound: intent.inbound,
            outbound: intent.outbound,
            protocol: intent.protocol,
            log: intent.log,
            action: intent.action,
            source: lists.add_prefixes(&intent.source),
            destination: lists.add_prefixes(&intent.destination),
            source_ports: lists.add_ports(&intent.source_ports),
            destination_ports: lists.add_ports(&intent.destination_ports),
            id: intent.id,
            care: intent.care,
        }
    }

    /// The cheap conditions first.
    fn matches(&self, query: &Query<'_>, ports: Option<(u16, u16)>, lists: &Lists) -> bool {
        let key = query.key;
        self.protocol.is_none_or(|protocol| protocol == key.proto)
            && self.inbound.is_none_or(|inbound| inbound == query.inbound)
            && leaves_by(self.outbound, query.outbound)
            && lists.ports_match(self.destination_ports, ports.map(|(_, destination)| destination))
            && lists.ports_match(self.source_ports, ports.map(|(source, _)| source))
            && lists.prefixes_match(self.source, &key.src)
            && lists.prefixes_match(self.destination, &key.dst)
    }
}

/// A rule that names an outgoing interface matches no packet without a way out.
fn leaves_by(wanted: Option<InterfaceId>, outbound: Option<InterfaceId>) -> bool {
    wanted.is_none() || wanted == outbound
}

/// A VRF's source NAT rules.
#[derive(Debug, Clone)]
pub struct NatPolicy {
    vrf: VrfId,
    rules: Vec<NatRule>,
    lists: Lists,
}

#[derive(Debug, Clone, Copy)]
struct NatRule {
    outbound: Option<InterfaceId>,
    source: Span,
    pool: u16,
    id: u32,
    care: Care,
}

/// What a NAT rule decides for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatChoice {
    /// Where its public endpoint comes from.
    pub pool: PoolRef,
    /// The rule's number.
    pub rule_id: u32,
    /// What the rule says about the protection of the flow.
    pub care: Care,
}

impl NatPolicy {
    /// From checked intent of the VRF `vrf`.
    #[must_use]
    pub fn compile(vrf: VrfId, rules: &[NatRuleIntent]) -> Self {
        let mut lists = Lists::default();
        let compile = |rule: &NatRuleIntent| NatRule {
            outbound: rule.outbound,
            source: lists.add_prefixes(&rule.source),
            pool: rule.pool,
            id: rule.id,
            care: rule.care,
        };
        Self {
            vrf,
            rules: rules.iter().map(compile).collect(),
            lists,
        }
    }

    /// Number of each rule and what it says about protection.
    pub fn cares(&self) -> impl Iterator<Item = (u32, Care)> + '_ {
        self.rules.iter().map(|rule| (rule.id, rule.care))
    }

    /// What the first matching rule decides for a flow from inside. None when no rule matches or the flow is not IPv4.
    #[must_use]
    pub fn choose(&self, key: &FlowKey, outbound: InterfaceId) -> Option<NatChoice> {
        if !key.src.is_v4() {
            return None;
        }
        let matches = |rule: &&NatRule| {
            leaves_by(rule.outbound, Some(outbound)) && self.lists.prefixes_match(rule.source, &key.src)
        };
        self.rules.iter().find(matches).map(|rule| NatChoice {
            pool: PoolRef {
                vrf: self.vrf,
                pool: rule.pool,
            },
            rule_id: rule.id,
            care: rule.care,
        })
    }
}
