//! Literal rules, then random ones against a reference that reads the intent as it is written.

use core::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::config::{
    Care, CommitIntent, FirewallIntent, FlowLimit, Intent, NatRuleIntent, OnChange, PortRange, RuleIntent,
    StandbyPolicy, Timeouts, VrfIntent,
};
use crate::flow::{Addr, VrfId, proto};
use crate::nat::PoolRef;

const LAN: InterfaceId = InterfaceId(0);
const WAN: InterfaceId = InterfaceId(1);

fn nets(text: &[&str]) -> Vec<IpNet> {
    text.iter().map(|net| net.parse().unwrap()).collect()
}

fn key(src: &str, dst: &str, proto: u8, src_port: u16, dst_port: u16) -> FlowKey {
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
    FlowKey {
        src: addr(src),
        dst: addr(dst),
        src_port,
        dst_port,
        vrf: VrfId(0),
        proto,
    }
}

fn web() -> FlowKey {
    key("100.64.0.7", "203.0.113.9", proto::TCP, 40_000, 443)
}

fn compile(rules: Vec<RuleIntent>, default: Action) -> Policy {
    Policy::compile(
        &FirewallIntent {
            rules,
            default,
            on_change: OnChange::Keep,
        },
        None,
    )
    .unwrap()
}

/// The number of the deciding rule, 0 for the default.
fn decides(rules: Vec<RuleIntent>, key: &FlowKey) -> u32 {
    let policy = compile(rules, Action::Drop);
    policy
        .evaluate(&Query {
            key,
            inbound: LAN,
            outbound: Some(WAN),
        })
        .rule_id
}

#[test]
fn the_first_matching_rule_decides() {
    let rules = vec![
        RuleIntent {
            protocol: Some(proto::UDP),
            ..RuleIntent::any(10, Action::Accept)
        },
        RuleIntent {
            log: true,
            ..RuleIntent::any(20, Action::Reject)
        },
        RuleIntent::any(30, Action::Accept),
    ];
    let policy = compile(rules, Action::Drop);
    assert_eq!(
        policy.evaluate(&Query {
            key: &web(),
            inbound: LAN,
            outbound: Some(WAN)
        }),
        Decision {
            action: Action::Reject,
            rule: Some(1),
            rule_id: 20,
            log: true,
            limited: false,
            care: Care::default(),
            counter: 2
        }
    );
    assert_eq!(policy.rules(), 3);
}

#[test]
fn without_a_match_the_default_decides() {
    for default in [Action::Accept, Action::Drop, Action::Reject] {
        let rules = vec![RuleIntent {
            protocol: Some(proto::UDP),
            ..RuleIntent::any(10, Action::Accept)
        }];
        let policy = compile(rules, default);
        assert_eq!(
            policy.evaluate(&Query {
                key: &web(),
                inbound: LAN,
                outbound: None
            }),
            Decision {
                action: default,
                rule: None,
                rule_id: 0,
                log: false,
                limited: false,
                care: Care::default(),
                counter: 0
            }
        );
    }
}

#[test]
fn every_condition_alone_can_keep_a_rule_from_matching() {
    let rule = || RuleIntent::any(1, Action::Accept);
    let range = |first, last| vec![PortRange { first, last }];
    let cases = [
        (rule(), true),
        (
            RuleIntent {
                inbound: Some(LAN),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                inbound: Some(WAN),
                ..rule()
            },
            false,
        ),
        (
            RuleIntent {
                outbound: Some(WAN),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                outbound: Some(LAN),
                ..rule()
            },
            false,
        ),
        (
            RuleIntent {
                protocol: Some(proto::TCP),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                protocol: Some(proto::UDP),
                ..rule()
            },
            false,
        ),
        (
            RuleIntent {
                source: nets(&["100.64.0.0/10"]),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                source: nets(&["100.64.0.6/32", "100.64.0.7/32"]),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                source: nets(&["100.64.0.6/32"]),
                ..rule()
            },
            false,
        ),
        (
            RuleIntent {
                destination: nets(&["203.0.113.0/24"]),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                destination: nets(&["100.64.0.0/10"]),
                ..rule()
            },
            false,
        ),
        (
            RuleIntent {
                source_ports: range(40_000, 40_000),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                source_ports: range(443, 443),
                ..rule()
            },
            false,
        ),
        (
            RuleIntent {
                destination_ports: range(443, 443),
                ..rule()
            },
            true,
        ),
        (
            RuleIntent {
                destination_ports: range(0, 442),
                ..rule()
            },
            false,
        ),
    ];
    for (rule, matches) in cases {
        assert_eq!(
            decides(vec![rule.clone()], &web()),
            u32::from(matches),
            "{rule:?}"
        );
    }
}

#[test]
fn a_rule_for_an_outgoing_interface_needs_a_way_out() {
    let rules = vec![RuleIntent {
        outbound: Some(WAN),
        ..RuleIntent::any(1, Action::Accept)
    }];
    let policy = compile(rules, Action::Drop);
    assert_eq!(
        policy
            .evaluate(&Query {
                key: &web(),
                inbound: LAN,
                outbound: None
            })
            .action,
        Action::Drop
    );
}

#[test]
fn a_prefix_matches_its_own_family_only() {
    let v6 = key("2001:db8::7", "2001:db8::9", proto::TCP, 1, 2);
    let from = |net| {
        vec![RuleIntent {
            source: nets(&[net]),
            ..RuleIntent::any(1, Action::Accept)
        }]
    };
    assert_eq!(
        [
            decides(from("0.0.0.0/0"), &web()),
            decides(from("0.0.0.0/0"), &v6)
        ],
        [1, 0]
    );
    assert_eq!(
        [decides(from("::/0"), &web()), decides(from("::/0"), &v6)],
        [0, 1]
    );
    assert_eq!(
        [
            decides(from("2001:db8::/32"), &v6),
            decides(from("2001:db9::/32"), &v6)
        ],
        [1, 0]
    );
}

#[test]
fn only_tcp_and_udp_have_ports() {
    let all = vec![PortRange {
        first: 0,
        last: u16::MAX,
    }];
    let rules = vec![RuleIntent {
        source_ports: all,
        ..RuleIntent::any(1, Action::Accept)
    }];
    for (proto, rule) in [
        (proto::TCP, 1),
        (proto::UDP, 1),
        (proto::ICMP, 0),
        (proto::ICMP6, 0),
        (47, 0),
    ] {
        assert_eq!(
            decides(rules.clone(), &FlowKey { proto, ..web() }),
            rule,
            "protocol {proto}"
        );
    }
}

#[test]
fn the_first_matching_nat_rule_names_the_pool() {
    let rule = |id, outbound, source: &[&str], pool| NatRuleIntent {
        id,
        outbound,
        source: nets(source),
        pool,
        care: Care::default(),
    };
    let rules = [
        rule(1, Some(LAN), &[], 7),
        rule(2, Some(WAN), &["100.64.1.0/24", "100.64.2.0/24"], 1),
        rule(3, None, &["100.64.0.0/10"], 2),
    ];
    let policy = NatPolicy::compile(VrfId(3), &rules).unwrap();
    let pool = |src| {
        policy
            .choose(&key(src, "203.0.113.9", proto::TCP, 1, 2), WAN)
            .map(|c| (c.pool.vrf, c.pool.pool, c.rule_id))
    };
    assert_eq!(pool("100.64.2.9"), Some((VrfId(3), 1, 2)));
    assert_eq!(pool("100.64.3.9"), Some((VrfId(3), 2, 3)));
    assert_eq!(pool("10.0.0.1"), None);
    let everything = NatPolicy::compile(VrfId(0), &[rule(1, None, &[], 0)]).unwrap();
    assert_eq!(
        everything.choose(&key("2001:db8::1", "::2", proto::TCP, 1, 2), WAN),
        None,
        "IPv4 only"
    );
    assert_eq!(
        everything.choose(&web(), WAN).map(|c| c.pool),
        Some(PoolRef {
            vrf: VrfId(0),
            pool: 0
        })
    );
}

/// The reference: every condition in the words of the configuration.
fn slowly(intent: &FirewallIntent, query: &Query<'_>) -> Decision {
    let within =
        |nets: &[IpNet], addr: &Addr| nets.is_empty() || nets.iter().any(|net| net.contains(&addr.ip()));
    let has_ports = query.key.proto == 6 || query.key.proto == 17;
    let between = |ranges: &[PortRange], port: u16| {
        ranges.is_empty()
            || has_ports
                && ranges
                    .iter()
                    .any(|range| (range.first..=range.last).contains(&port))
    };
    let found = intent.rules.iter().position(|rule| {
        (rule.inbound.is_none() || rule.inbound == Some(query.inbound))
            && (rule.outbound.is_none() || rule.outbound == query.outbound)
            && (rule.protocol.is_none() || rule.protocol == Some(query.key.proto))
            && within(&rule.source, &query.key.src)
            && within(&rule.destination, &query.key.dst)
            && between(&rule.source_ports, query.key.src_port)
            && between(&rule.destination_ports, query.key.dst_port)
    });
    match found {
        Some(at) => Decision {
            action: intent.rules[at].action,
            rule: u32::try_from(at).ok(),
            rule_id: intent.rules[at].id,
            log: intent.rules[at].log,
            limited: intent.rules[at].limit != FlowLimit::default(),
            care: intent.rules[at].care,
            counter: u32::try_from(at + 1).unwrap(),
        },
        None => Decision {
            action: intent.default,
            rule: None,
            rule_id: 0,
            log: false,
            limited: false,
            care: Care::default(),
            counter: 0,
        },
    }
}

/// Few distinct bits, so that rules do match; some addresses are the other family's in disguise.
fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = (0u8..2, 0u8..4).prop_map(|(b, d)| IpAddr::from([10, b << 7, 0, d << 6]));
    let v6 = (0u16..2, 0u16..4).prop_map(|(b, d)| IpAddr::from([0x2001, b << 15, 0, 0, 0, 0, 0, d << 14]));
    let low = (0u16..2, 0u16..4).prop_map(|(b, d)| IpAddr::from([0, 0, 0, 0, 0, 0, 0xa00 | b << 7, d << 6]));
    prop_oneof![3 => v4, 2 => v6, 1 => low]
}

/// Mostly nested: few networks, every length.
fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let prefix = (addresses(), 0u8..=128).prop_map(|(addr, len)| {
        let len = if addr.is_ipv4() { len % 33 } else { len };
        IpNet::new(addr, len).unwrap()
    });
    prop::collection::vec(prefix, 0..3)
}

/// At both ends of the ports, overlapping, touching, and of every length.
fn port_ranges() -> impl Strategy<Value = Vec<PortRange>> {
    let port = || prop_oneof![4 => 0u16..8, 1 => u16::MAX - 3..=u16::MAX];
    let range = (port(), port()).prop_map(|(a, b)| PortRange {
        first: a.min(b),
        last: a.max(b),
    });
    prop::collection::vec(range, 0..4)
}

fn interface() -> impl Strategy<Value = Option<InterfaceId>> {
    prop::option::of((0u16..3).prop_map(InterfaceId))
}

fn protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![proto::ICMP, proto::ICMP6, proto::TCP, proto::UDP, 47])
}

prop_compose! {
    /// Half of a rule's conditions are open, or hardly one would match.
    fn rules()(
        id: u32,
        (inbound, outbound) in (interface(), interface()),
        protocol in prop::option::weighted(0.7, protocol()),
        (source, destination) in (prefixes(), prefixes()),
        (source_ports, destination_ports) in (port_ranges(), port_ranges()),
        open in 0u8..128,
        action in prop::sample::select(vec![Action::Accept, Action::Drop, Action::Reject]),
        log: bool,
    ) -> RuleIntent {
        let names = |bit: u8| open >> bit & 1 == 0;
        RuleIntent {
            id,
            inbound: inbound.filter(|_| names(0)),
            outbound: outbound.filter(|_| names(1)),
            protocol: protocol.filter(|_| names(2)),
            source: if names(3) { source } else { Vec::new() },
            destination: if names(4) { destination } else { Vec::new() },
            source_ports: if names(5) { source_ports } else { Vec::new() },
            destination_ports: if names(6) { destination_ports } else { Vec::new() },
            action,
            log,
            limit: FlowLimit::default(),
            care: Care::default(),
        }
    }
}

prop_compose! {
    fn keys()(
        (src, dst) in (addresses(), addresses()),
        (src_port, dst_port) in (prop_oneof![0u16..9, u16::MAX - 4..=u16::MAX], prop_oneof![0u16..9, u16::MAX - 4..=u16::MAX]),
        proto in protocol(),
    ) -> FlowKey {
        FlowKey { src: src.into(), dst: dst.into(), src_port, dst_port, vrf: VrfId(0), proto }
    }
}

/// The reference for NAT rules.
fn slowly_chosen(rules: &[NatRuleIntent], key: &FlowKey, outbound: InterfaceId) -> Option<u32> {
    let names = |rule: &&NatRuleIntent| {
        rule.outbound.is_none_or(|wanted| wanted == outbound)
            && (rule.source.is_empty() || rule.source.iter().any(|net| net.contains(&key.src.ip())))
    };
    rules
        .iter()
        .filter(|_| key.src.is_v4())
        .find(names)
        .map(|rule| rule.id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_compiled_policy_decides_as_the_intent_reads(
        rules in prop_oneof![prop::collection::vec(rules(), 0..12), prop::collection::vec(rules(), 60..200)],
        queries in prop::collection::vec((keys(), 0u16..3, interface()), 1..24),
    ) {
        // A number that is used twice would share a counter.
        let rules: Vec<_> = (1..).zip(rules).map(|(id, rule)| RuleIntent { id, ..rule }).collect();
        let intent = FirewallIntent { rules, default: Action::Drop, on_change: OnChange::Keep };
        let policy = Policy::compile(&intent, None).unwrap();
        for (key, inbound, outbound) in queries {
            let query = Query { key: &key, inbound: InterfaceId(inbound), outbound };
            prop_assert_eq!(policy.evaluate(&query), slowly(&intent, &query), "{:?}", query);
        }
    }

    #[test]
    fn the_compiled_nat_rules_choose_as_the_intent_reads(
        rules in prop::collection::vec((interface(), prefixes()), 0..80),
        queries in prop::collection::vec((keys(), 0u16..3), 1..24),
    ) {
        let rules: Vec<_> = (1..)
            .zip(rules)
            .map(|(id, (outbound, source))| NatRuleIntent { id, outbound, source, pool: 0, care: Care::default() })
            .collect();
        let policy = NatPolicy::compile(VrfId(0), &rules).unwrap();
        for (key, outbound) in queries {
            let outbound = InterfaceId(outbound);
            let chosen = policy.choose(&key, outbound).map(|choice| choice.rule_id);
            prop_assert_eq!(chosen, slowly_chosen(&rules, &key, outbound), "{:?} {:?}", key, outbound);
        }
    }
}

#[test]
fn a_rule_keeps_the_place_of_its_hit_counter_and_a_new_one_takes_the_lowest_free() {
    let firewall = |ids: &[u32]| FirewallIntent {
        rules: ids
            .iter()
            .map(|&id| RuleIntent::any(id, Action::Accept))
            .collect(),
        default: Action::Drop,
        on_change: OnChange::Keep,
    };
    let places = |policy: &Policy| {
        let all = policy.decisions().iter().map(|d| (d.rule_id, d.counter));
        (all.collect::<Vec<_>>(), policy.counters())
    };
    let first = Policy::compile(&firewall(&[10, 20, 30]), None).unwrap();
    assert_eq!(places(&first), (vec![(10, 1), (20, 2), (30, 3), (0, 0)], 4));
    let second = Policy::compile(&firewall(&[30, 25, 10, 40]), Some(&first)).unwrap();
    assert_eq!(
        places(&second),
        (vec![(30, 3), (25, 2), (10, 1), (40, 4), (0, 0)], 5)
    );
    let third = Policy::compile(&firewall(&[40]), Some(&second)).unwrap();
    assert_eq!(places(&third), (vec![(40, 4), (0, 0)], 5));
}

#[test]
fn what_a_change_leaves_as_it_was_is_not_compiled_again() {
    let mut intent = Intent {
        vrfs: vec![
            vrf("a", vec![RuleIntent::any(1, Action::Accept)]),
            vrf("b", vec![]),
        ],
        ..Intent::default()
    };
    let before = Policies::compile(&intent, &Policies::default()).unwrap();
    intent.vrfs[1].firewall.default = Action::Accept;
    let after = Policies::compile(&intent, &before).unwrap();
    let same = |at| {
        let (before, after) = (before.vrf(VrfId(at)), after.vrf(VrfId(at)));
        (
            Arc::ptr_eq(&before.firewall, &after.firewall),
            Arc::ptr_eq(&before.nat, &after.nat),
        )
    };
    assert_eq!([same(0), same(1)], [(true, true), (false, true)]);
    assert_eq!(after.vrf(VrfId(1)).firewall.intent().default, Action::Accept);
}

#[test]
fn rules_that_do_not_fit_are_refused_by_vrf_and_kind() {
    let rules = (0..=u32::try_from(RULES_MAX).unwrap()).map(|id| RuleIntent::any(id, Action::Accept));
    let intent = Intent {
        vrfs: vec![vrf("a", vec![]), vrf("b", rules.collect())],
        ..Intent::default()
    };
    let refused = Policies::compile(&intent, &Policies::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "firewall rules of VRF b: 65537 rules are more than 65536"
    );
}

fn vrf(name: &str, rules: Vec<RuleIntent>) -> VrfIntent {
    VrfIntent {
        name: name.to_owned(),
        slots: 4,
        inside: vec![],
        ha_group: None,
        firewall: FirewallIntent {
            rules,
            default: Action::Drop,
            on_change: OnChange::Keep,
        },
        pools: vec![],
        nat_rules: vec![],
        timeouts: Timeouts::default(),
        standby: StandbyPolicy::Drop,
        tcp_window_check: true,
        flow_counters: true,
        output_commit: CommitIntent::default(),
    }
}
