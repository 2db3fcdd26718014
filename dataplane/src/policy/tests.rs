//! Literal rules, then random ones against a reference that reads the intent as it is written.

use core::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::config::{Care, FirewallIntent, NatRuleIntent, PortRange, RuleIntent};
use crate::flow::{Addr, VrfId, proto};
use crate::nat::PoolRef;

const LAN: InterfaceId = InterfaceId(0);
const WAN: InterfaceId = InterfaceId(1);

fn any_rule(id: u32, action: Action) -> RuleIntent {
    RuleIntent {
        id,
        inbound: None,
        outbound: None,
        source: Vec::new(),
        destination: Vec::new(),
        protocol: None,
        source_ports: Vec::new(),
        destination_ports: Vec::new(),
        action,
        log: false,
        care: Care::default(),
    }
}

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

/// The number of the deciding rule, 0 for the default.
fn decides(rules: Vec<RuleIntent>, key: &FlowKey) -> u32 {
    let policy = Policy::compile(&FirewallIntent {
        rules,
        default: Action::Drop,
    });
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
            ..any_rule(10, Action::Accept)
        },
        RuleIntent {
            log: true,
            ..any_rule(20, Action::Reject)
        },
        any_rule(30, Action::Accept),
    ];
    let policy = Policy::compile(&FirewallIntent {
        rules,
        default: Action::Drop,
    });
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
            care: Care::default()
        }
    );
    assert_eq!(policy.rules(), 3);
}

#[test]
fn without_a_match_the_default_decides() {
    for default in [Action::Accept, Action::Drop, Action::Reject] {
        let rules = vec![RuleIntent {
            protocol: Some(proto::UDP),
            ..any_rule(10, Action::Accept)
        }];
        let policy = Policy::compile(&FirewallIntent { rules, default });
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
                care: Care::default()
            }
        );
    }
}

#[test]
fn every_condition_alone_can_keep_a_rule_from_matching() {
    let rule = || any_rule(1, Action::Accept);
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
        ..any_rule(1, Action::Accept)
    }];
    let policy = Policy::compile(&FirewallIntent {
        rules,
        default: Action::Drop,
    });
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
            ..any_rule(1, Action::Accept)
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
        ..any_rule(1, Action::Accept)
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
    let policy = NatPolicy::compile(VrfId(3), &rules);
    let pool = |src| {
        policy
            .choose(&key(src, "203.0.113.9", proto::TCP, 1, 2), WAN)
            .map(|c| (c.pool.vrf, c.pool.pool, c.rule_id))
    };
    assert_eq!(pool("100.64.2.9"), Some((VrfId(3), 1, 2)));
    assert_eq!(pool("100.64.3.9"), Some((VrfId(3), 2, 3)));
    assert_eq!(pool("10.0.0.1"), None);
    let everything = NatPolicy::compile(VrfId(0), &[rule(1, None, &[], 0)]);
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
            care: intent.rules[at].care,
        },
        None => Decision {
            action: intent.default,
            rule: None,
            rule_id: 0,
            log: false,
            care: Care::default(),
        },
    }
}

/// Few distinct bits, so that rules do match.
fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = (0u8..2, 0u8..4).prop_map(|(b, d)| IpAddr::from([10, b << 7, 0, d << 6]));
    let v6 = (0u16..2, 0u16..4).prop_map(|(b, d)| IpAddr::from([0x2001, b << 15, 0, 0, 0, 0, 0, d << 14]));
    prop_oneof![v4, v6]
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let prefix = (addresses(), 0u8..=128).prop_map(|(addr, len)| {
        let len = if addr.is_ipv4() { len % 33 } else { len };
        IpNet::new(addr, len).unwrap()
    });
    prop::collection::vec(prefix, 0..3)
}

fn port_ranges() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (0u16..8, 0u16..8).prop_map(|(a, b)| PortRange {
        first: a.min(b),
        last: a.max(b),
    });
    prop::collection::vec(range, 0..3)
}

fn interface() -> impl Strategy<Value = Option<InterfaceId>> {
    prop::option::of((0u16..2).prop_map(InterfaceId))
}

fn protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![proto::ICMP, proto::TCP, proto::UDP])
}

prop_compose! {
    fn rules()(
        id: u32,
        (inbound, outbound, protocol) in (interface(), interface(), prop::option::of(protocol())),
        (source, destination) in (prefixes(), prefixes()),
        (source_ports, destination_ports) in (port_ranges(), port_ranges()),
        action in prop::sample::select(vec![Action::Accept, Action::Drop, Action::Reject]),
        log: bool,
    ) -> RuleIntent {
        RuleIntent {
            id, inbound, outbound, source, destination, protocol, source_ports, destination_ports, action, log,
            care: Care::default(),
        }
    }
}

prop_compose! {
    fn keys()(
        (src, dst) in (addresses(), addresses()),
        (src_port, dst_port) in (0u16..8, 0u16..8),
        proto in protocol(),
    ) -> FlowKey {
        FlowKey { src: src.into(), dst: dst.into(), src_port, dst_port, vrf: VrfId(0), proto }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_compiled_policy_decides_as_the_intent_reads(
        rules in prop::collection::vec(rules(), 0..12),
        queries in prop::collection::vec((keys(), 0u16..2, interface()), 1..24),
    ) {
        let intent = FirewallIntent { rules, default: Action::Drop };
        let policy = Policy::compile(&intent);
        for (key, inbound, outbound) in queries {
            let query = Query { key: &key, inbound: InterfaceId(inbound), outbound };
            prop_assert_eq!(policy.evaluate(&query), slowly(&intent, &query), "{:?}", query);
        }
    }
}
