//! Compiled rules: the firewall's and those that choose a NAT pool.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::classifier::{Classifier, Conditions};
use super::limit::{Spacing, Taken};
use super::{Decision, Query, TooLarge};
use crate::config::{
    Care, FirewallIntent, FlowLimit, InterfaceId, NatRuleIntent, OnChange, RuleIntent, SyncPolicy,
};
use crate::flow::{FlowKey, VrfId};
use crate::nat::PoolRef;

/// Place of the hit counter of the default action.
const DEFAULT_COUNTER: u32 = 0;

/// What a rule lets in.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Of all sources, counted by all workers together.
    pub all: Option<(Spacing, Arc<Taken>)>,
    /// Of each source.
    pub source: Option<Spacing>,
}

/// A VRF's firewall.
#[derive(Debug)]
pub struct Policy {
    intent: FirewallIntent,
    classifier: Classifier,
    /// Of each rule, and of the default behind them.
    decisions: Vec<Decision>,
    /// By rule, of those that have one.
    limits: Vec<(u32, Limit)>,
    counters: usize,
    syncs: Syncs,
}

impl Policy {
    /// From checked intent. A rule that was there `before` keeps the place of its hit counter and what its limit has let in.
    ///
    /// # Errors
    /// When the rules go beyond the limits of the classifier.
    pub fn compile(intent: &FirewallIntent, before: Option<&Self>) -> Result<Self, TooLarge> {
        let conditions: Vec<_> = intent.rules.iter().map(Conditions::from).collect();
        let counters = counters(&intent.rules, before);
        let highest = counters.iter().copied().max().unwrap_or(DEFAULT_COUNTER);
        let of_rules = (0..).zip(&intent.rules).zip(counters);
        let of_rules = of_rules.map(|((index, rule), counter)| Decision {
            action: rule.action,
            rule: Some(index),
            rule_id: rule.id,
            log: rule.log,
            care: rule.care,
            limited: rule.limit != FlowLimit::default(),
            counter,
        });
        let default = Decision {
            action: intent.default,
            rule: None,
            rule_id: 0,
            log: false,
            care: Care::default(),
            limited: false,
            counter: DEFAULT_COUNTER,
        };
        Ok(Self {
            classifier: Classifier::compile(&conditions)?,
            decisions: of_rules.chain([default]).collect(),
            limits: limits(&intent.rules, before),
            counters: highest as usize + 1,
            syncs: Syncs::of(intent.rules.iter().map(|rule| (rule.id, rule.care))),
            intent: intent.clone(),
        })
    }

    /// First match in order, else the default.
    #[must_use]
    pub fn evaluate(&self, query: &Query<'_>) -> Decision {
        let rule = self.classifier.first(query);
        self.decisions[rule.map_or(self.rules(), |rule| rule as usize)]
    }

    /// What the rule of a decision lets in, if that has a limit.
    #[must_use]
    pub fn limit(&self, decision: &Decision) -> Option<&Limit> {
        if !decision.limited {
            return None;
        }
        let at = self
            .limits
            .binary_search_by_key(&decision.rule_id, |limit| limit.0);
        at.ok().map(|at| &self.limits[at].1)
    }

    /// Number of rules, the default apart.
    #[must_use]
    pub const fn rules(&self) -> usize {
        self.intent.rules.len()
    }

    /// What each rule decides, in order, and the default behind them.
    #[must_use]
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Places of hit counters that there have to be.
    #[must_use]
    pub const fn counters(&self) -> usize {
        self.counters
    }

    /// What a change does to the flows that there are.
    #[must_use]
    pub const fn on_change(&self) -> OnChange {
        self.intent.on_change
    }

    /// What it was compiled from.
    #[must_use]
    pub const fn intent(&self) -> &FirewallIntent {
        &self.intent
    }

    /// When peers are told of flows, of rules that say so.
    #[must_use]
    pub const fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    /// Heap bytes of the compiled form.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.classifier.bytes()
            + size_of_val(&*self.decisions)
            + size_of_val(&*self.limits)
            + size_of_val(&*self.syncs.0)
    }
}

/// Places of the rules' hit counters. New rules take the lowest that are free: so there are never more places than the
/// most rules there have been.
fn counters(rules: &[RuleIntent], before: Option<&Policy>) -> Vec<u32> {
    let known = before.map_or(&[][..], |policy| &policy.decisions[..policy.rules()]);
    let known: HashMap<u32, u32> = known.iter().map(|d| (d.rule_id, d.counter)).collect();
    let kept: HashSet<u32> = rules
        .iter()
        .filter_map(|rule| known.get(&rule.id).copied())
        .collect();
    let mut free = (DEFAULT_COUNTER + 1..).filter(|counter| !kept.contains(counter));
    rules
        .iter()
        .filter_map(|rule| known.get(&rule.id).copied().or_else(|| free.next()))
        .collect()
}

/// Limits by rule number. What a rule has let in stays when rules change.
fn limits(rules: &[RuleIntent], before: Option<&Policy>) -> Vec<(u32, Limit)> {
    let known = before.map_or(&[][..], |policy| &policy.limits);
    let shared = |id| {
        let at = known.binary_search_by_key(&id, |limit| limit.0).ok()?;
        known[at].1.all.as_ref().map(|(_, shared)| Arc::clone(shared))
    };
    let limited = rules.iter().filter(|rule| rule.limit != FlowLimit::default());
    let mut limits: Vec<_> = limited
        .map(|rule| {
            let all = rule.limit.per_s.map(Spacing::new);
            let limit = Limit {
                all: all.map(|spacing| (spacing, shared(rule.id).unwrap_or_default())),
                source: rule.limit.per_source_per_s.map(Spacing::new),
            };
            (rule.id, limit)
        })
        .collect();
    limits.sort_unstable_by_key(|limit| limit.0);
    limits
}

impl<'a> From<&'a RuleIntent> for Conditions<'a> {
    fn from(rule: &'a RuleIntent) -> Self {
        Self {
            inbound: rule.inbound,
            outbound: rule.outbound,
            protocol: rule.protocol,
            source: &rule.source,
            destination: &rule.destination,
            source_ports: &rule.source_ports,
            destination_ports: &rule.destination_ports,
        }
    }
}

/// When peers are told of flows, by rule number, of those rules that say so.
#[derive(Debug, PartialEq, Eq)]
pub struct Syncs(Vec<(u32, SyncPolicy)>);

impl Syncs {
    fn of(rules: impl Iterator<Item = (u32, Care)>) -> Self {
        let mut syncs: Vec<_> = rules.filter_map(|(id, care)| Some((id, care.sync?))).collect();
        syncs.sort_unstable_by_key(|sync| sync.0);
        Self(syncs)
    }

    /// What the rule says, if there is one and it says something.
    #[must_use]
    pub fn get(&self, rule_id: u32) -> Option<SyncPolicy> {
        let at = self.0.binary_search_by_key(&rule_id, |sync| sync.0).ok()?;
        Some(self.0[at].1)
    }
}

/// A VRF's source NAT rules.
#[derive(Debug)]
pub struct NatPolicy {
    rules: Vec<NatRuleIntent>,
    classifier: Classifier,
    choices: Vec<NatChoice>,
    syncs: Syncs,
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
    ///
    /// # Errors
    /// When the rules go beyond the limits of the classifier.
    pub fn compile(vrf: VrfId, rules: &[NatRuleIntent]) -> Result<Self, TooLarge> {
        let conditions: Vec<_> = rules
            .iter()
            .map(|rule| Conditions {
                outbound: rule.outbound,
                source: &rule.source,
                ..Conditions::default()
            })
            .collect();
        let choice = |rule: &NatRuleIntent| NatChoice {
            pool: PoolRef { vrf, pool: rule.pool },
            rule_id: rule.id,
            care: rule.care,
        };
        Ok(Self {
            classifier: Classifier::compile(&conditions)?,
            choices: rules.iter().map(choice).collect(),
            syncs: Syncs::of(rules.iter().map(|rule| (rule.id, rule.care))),
            rules: rules.to_vec(),
        })
    }

    /// What it was compiled from.
    #[must_use]
    pub fn rules(&self) -> &[NatRuleIntent] {
        &self.rules
    }

    /// When peers are told of flows, of rules that say so.
    #[must_use]
    pub const fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    /// What the first matching rule decides for a flow from inside. None when no rule matches or
    /// the flow is not IPv4.
    #[must_use]
    pub fn choose(&self, key: &FlowKey, outbound: InterfaceId) -> Option<NatChoice> {
        if !key.src.is_v4() {
            return None;
        }
        let rule = self.classifier.first(&Query {
            key,
            // NAT rules don't ask where a flow came in.
            inbound: InterfaceId::default(),
            outbound: Some(outbound),
        })?;
        Some(self.choices[rule as usize])
    }

    /// Heap bytes of the compiled form.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.classifier.bytes() + size_of_val(&*self.choices) + size_of_val(&*self.syncs.0)
    }
}
