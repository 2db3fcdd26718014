//! Snapshots of a small made-up network: one inside and one outside interface, a VLAN in a second VRF.

use core::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::config::{
    Care, CommitIntent, Filtering, FirewallIntent, FirstPacketsPercent, Forwarding, HaGroupIntent, InDoubt,
    Intent, InterfaceId, InterfaceIntent, Link, NatRuleIntent, Neighbor, NextHop, PoolIntent, PortRange,
    Route, StandbyPolicy, Timeouts, VirtualAddress, VirtualMac, VrfIntent,
};
use crate::flow::{Addr, VrfId};
use crate::io::PortId;
use crate::nat::Pools;
use crate::policy::Policies;

const LAN: InterfaceId = InterfaceId(0);
const WAN: InterfaceId = InterfaceId(1);
const ISP: InterfaceId = InterfaceId(2);
const MAIN: VrfId = VrfId(0);
const SECOND: VrfId = VrfId(1);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> Addr {
    ip(text).into()
}

fn interface(name: &str, port: u16, vlans: &[u16], vrf: VrfId, addresses: &[&str]) -> InterfaceIntent {
    let addresses = addresses.iter().map(|a| net(a)).collect();
    InterfaceIntent {
        name: name.into(),
        port: PortId(port),
        vlans: vlans.into(),
        vrf,
        mtu: 1500,
        addresses,
    }
}

fn vrf(name: &str) -> VrfIntent {
    VrfIntent {
        name: name.into(),
        slots: 1024,
        inside: vec![net("100.64.0.0/10")],
        ha_group: Some("group1".into()),
        firewall: FirewallIntent::default(),
        pools: vec![PoolIntent {
            name: "public".into(),
            addresses: vec![Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)],
            ports: PortRange {
                first: 1024,
                last: 65535,
            },
            block_size: 512,
            blocks_per_subscriber_max: 4,
            port_rest_s: 120,
            block_idle_s: 60,
            filtering: Filtering::EndpointDependent,
            in_doubt: InDoubt::Borrow,
        }],
        nat_rules: vec![NatRuleIntent {
            id: 1,
            outbound: Some(WAN),
            source: vec![],
            pool: 0,
            care: Care::default(),
        }],
        timeouts: Timeouts::default(),
        standby: StandbyPolicy::Drop,
        tcp_window_check: true,
        flow_counters: true,
        output_commit: CommitIntent::default(),
    }
}

fn intent() -> Intent {
    let mut second = vrf("isp");
    (second.ha_group, second.pools, second.nat_rules) = (None, vec![], vec![]);
    Intent {
        interfaces: vec![
            interface("lan", 0, &[], MAIN, &["100.64.0.2/16", "fe80::2/64"]),
            interface(
                "wan",
                1,
                &[],
                MAIN,
                &["192.0.2.2/24", "fe80::3/64", "2001:db8::2/64"],
            ),
            interface("isp", 1, &[100], SECOND, &[]),
        ],
        vrfs: vec![vrf("main"), second],
        ha_groups: vec![HaGroupIntent {
            name: "group1".into(),
            virtual_macs: vec![],
            virtual_addresses: vec![
                VirtualAddress {
                    interface: LAN,
                    address: ip("100.64.0.1"),
                },
                VirtualAddress {
                    interface: WAN,
                    address: ip("192.0.2.1"),
                },
            ],
        }],
        exceptions: vec![],
        first_packets: FirstPacketsPercent::default(),
    }
}

fn via(interface: InterfaceId, gateway: &str) -> NextHop {
    NextHop {
        interface,
        gateway: Some(ip(gateway)),
    }
}

fn route(vrf: VrfId, prefix: &str, via: &[NextHop]) -> Route {
    Route {
        vrf,
        prefix: net(prefix),
        via: via.into(),
    }
}

fn forwarding() -> Forwarding {
    let on_link = |interface| NextHop {
        interface,
        gateway: None,
    };
    Forwarding {
        links: vec![],
        addresses: vec![],
        routes: vec![
            route(MAIN, "0.0.0.0/0", &[via(WAN, "192.0.2.254")]),
            route(MAIN, "192.0.2.0/24", &[on_link(WAN)]),
            route(MAIN, "100.64.0.0/16", &[on_link(LAN)]),
            route(MAIN, "::/0", &[via(WAN, "fe80::1")]),
            route(
                MAIN,
                "203.0.113.0/24",
                &[
                    via(WAN, "192.0.2.10"),
                    via(WAN, "192.0.2.11"),
                    via(WAN, "192.0.2.12"),
                ],
            ),
            route(SECOND, "192.0.2.0/24", &[on_link(ISP)]),
        ],
        neighbors: vec![Neighbor {
            interface: WAN,
            address: ip("192.0.2.254"),
            mac: [2, 0, 0, 0, 0, 1],
        }],
    }
}

fn snapshot_of(intent: &Intent, forwarding: &Forwarding) -> Snapshot {
    let ports = [
        PortInfo {
            mac: [2, 0, 0, 0, 1, 0],
            mtu: 1400,
        },
        PortInfo {
            mac: [2, 0, 0, 0, 1, 1],
            mtu: 9000,
        },
    ];
    let policies = Policies::compile(intent, &Policies::default()).unwrap();
    let pools = Arc::new(Pools::new(intent));
    Snapshot::build(intent, &policies, &pools, forwarding, &ports)
}

fn snapshot() -> Snapshot {
    snapshot_of(&intent(), &forwarding())
}

#[test]
fn frames_belong_to_the_interface_of_their_tags() {
    let mut intent = intent();
    intent
        .interfaces
        .push(interface("qinq", 1, &[100, 200], SECOND, &[]));
    let snapshot = snapshot_of(&intent, &forwarding());
    let of = |port, ids| snapshot.interface_of(PortId(port), ids).map(|i| i.0);
    assert_eq!(
        of(0, 0),
        Some(0),
        "no tag, or a priority tag (IEEE 802.1Q clause 6.9)"
    );
    assert_eq!(of(0, 100), None);
    assert_eq!(of(1, 100), Some(2));
    assert_eq!(of(1, 100 << 16 | 200), Some(3));
    assert_eq!(of(1, 200 << 16 | 100), None, "outer first");
    assert_eq!(of(9, 0), None);
}

#[test]
fn the_longest_route_of_the_vrf_leads_to_its_gateway_or_the_link() {
    let snapshot = snapshot();
    let hop = |vrf, dst: &str| {
        snapshot
            .route(vrf, &addr(dst), 0)
            .map(|way| (way.interface, way.next_hop(&addr(dst)).to_string()))
    };
    assert_eq!(hop(MAIN, "8.8.8.8"), Some((WAN, "192.0.2.254".into())));
    assert_eq!(hop(MAIN, "192.0.2.9"), Some((WAN, "192.0.2.9".into())));
    assert_eq!(hop(MAIN, "100.64.3.3"), Some((LAN, "100.64.3.3".into())));
    assert_eq!(hop(MAIN, "2001:db8:1::1"), Some((WAN, "fe80::1".into())));
    assert_eq!(
        hop(SECOND, "192.0.2.9"),
        Some((ISP, "192.0.2.9".into())),
        "the same prefix in another VRF"
    );
    assert_eq!(hop(SECOND, "8.8.8.8"), None);
}

/// RFC 4291 section 2.5.6 and RFC 1812 section 5.3.7; a default route must not carry them.
#[test]
fn link_local_multicast_loopback_and_broadcast_are_not_routed() {
    let snapshot = snapshot();
    for dst in [
        "fe80::9",
        "febf::1",
        "ff02::1",
        "::1",
        "224.0.0.1",
        "239.1.1.1",
        "127.0.0.1",
        "255.255.255.255",
    ] {
        assert_eq!(snapshot.route(MAIN, &addr(dst), 0), None, "{dst}");
    }
    assert!(snapshot.route(MAIN, &addr("fec0::1"), 0).is_some());
}

#[test]
fn a_flow_keeps_its_way_and_flows_use_all_ways() {
    let snapshot = snapshot();
    let dst = addr("203.0.113.5");
    let way = |hash| snapshot.route(MAIN, &dst, hash).unwrap().next_hop(&dst);
    let mut uses = std::collections::HashMap::new();
    for n in 0..3_000_u32 {
        let hash = n.wrapping_mul(0x9e37_79b9);
        assert_eq!(way(hash), way(hash));
        *uses.entry(way(hash)).or_insert(0) += 1;
    }
    assert_eq!(uses.len(), 3);
    assert!(uses.values().all(|&n| n > 900), "{uses:?}");
    assert_eq!(
        way(u32::MAX),
        addr("192.0.2.12"),
        "the highest hash is still inside"
    );
}

#[test]
fn ways_over_a_link_that_is_down_count_only_without_another() {
    let mut forwarding = forwarding();
    forwarding.routes.push(route(
        MAIN,
        "10.0.0.0/8",
        &[via(LAN, "100.64.0.9"), via(WAN, "192.0.2.9")],
    ));
    forwarding.links.push(Link {
        interface: LAN,
        up: false,
        mac: Some([6; 6]),
    });
    let snapshot = snapshot_of(&intent(), &forwarding);
    for hash in [0, u32::MAX] {
        assert_eq!(
            snapshot.route(MAIN, &addr("10.1.1.1"), hash).unwrap().interface,
            WAN
        );
    }
    assert_eq!(
        snapshot.route(MAIN, &addr("100.64.1.1"), 0).unwrap().interface,
        LAN,
        "it has no other"
    );
    assert!(!snapshot.interface(LAN).up && snapshot.interface(WAN).up);
    assert_eq!(snapshot.interface(LAN).mac, [6; 6], "the kernel knows better");
    assert_eq!(snapshot.interface(WAN).mac, [2, 0, 0, 0, 1, 1], "the port's");
}

#[test]
fn interfaces_have_the_smaller_mtu_and_sources_for_errors() {
    let snapshot = snapshot();
    let (lan, wan, isp) = (
        snapshot.interface(LAN),
        snapshot.interface(WAN),
        snapshot.interface(ISP),
    );
    assert_eq!((lan.mtu, wan.mtu), (1400, 1500));
    assert_eq!(
        (lan.primary_v4, wan.primary_v4),
        (Some(addr("100.64.0.2")), Some(addr("192.0.2.2")))
    );
    assert_eq!(lan.primary_v6, Some(addr("fe80::2")), "nothing better");
    assert_eq!(
        wan.primary_v6,
        Some(addr("2001:db8::2")),
        "global before link-local"
    );
    assert_eq!((isp.primary_v4, isp.primary_v6), (None, None));
}

#[test]
fn virtual_and_pool_addresses_are_answered_where_they_belong() {
    let snapshot = snapshot();
    assert!(snapshot.answers_for(LAN, &addr("100.64.0.1")));
    assert!(!snapshot.answers_for(WAN, &addr("100.64.0.1")));
    assert!(
        !snapshot.answers_for(LAN, &addr("100.64.0.2")),
        "the kernel's own"
    );
    assert!(snapshot.answers_for(WAN, &addr("198.51.100.2")));
    assert!(!snapshot.answers_for(WAN, &addr("198.51.100.3")));
    assert!(
        !snapshot.answers_for(LAN, &addr("198.51.100.2")),
        "not its rule's interface"
    );
    assert!(!snapshot.answers_for(ISP, &addr("198.51.100.2")), "another VRF");
}

#[test]
fn a_rule_without_interface_answers_on_all_that_are_not_inside() {
    let mut intent = intent();
    intent.vrfs[0].nat_rules[0].outbound = None;
    intent
        .interfaces
        .push(interface("wan2", 0, &[7], MAIN, &["203.0.113.1/24"]));
    let of = |intent: &Intent| {
        let snapshot = snapshot_of(intent, &forwarding());
        [LAN, WAN, ISP, InterfaceId(3)].map(|i| snapshot.answers_for(i, &addr("198.51.100.2")))
    };
    assert_eq!(of(&intent), [false, true, false, true]);
    // Without address, a route on its link still says that it is inside.
    intent.interfaces[0].addresses.clear();
    intent.ha_groups.clear();
    assert_eq!(of(&intent), [false, true, false, true]);
    intent.vrfs[0].nat_rules.clear();
    assert_eq!(of(&intent), [false; 4], "a pool that no rule uses");
}

#[test]
fn next_hops_are_announced_before_pool_addresses_and_each_once() {
    let mut intent = intent();
    intent.vrfs[0].nat_rules.push(NatRuleIntent {
        id: 2,
        outbound: Some(WAN),
        source: vec![],
        pool: 0,
        care: Care::default(),
    });
    let snapshot = snapshot_of(&intent, &forwarding());
    let announced: Vec<_> = snapshot
        .announcements(MAIN)
        .map(|(i, a)| (i, a.to_string()))
        .collect();
    let expected = [
        (LAN, "100.64.0.1"),
        (WAN, "192.0.2.1"),
        (WAN, "198.51.100.1"),
        (WAN, "198.51.100.2"),
    ];
    assert_eq!(announced, expected.map(|(i, a)| (i, a.to_owned())));
    assert_eq!(snapshot.announcements(SECOND).count(), 0);
}

#[test]
fn local_addresses_are_the_kernels_or_virtual() {
    let mut forwarding = forwarding();
    forwarding.addresses.push((WAN, net("192.0.2.77/24")));
    // keepalived puts the virtual address on the kernel's interface, too.
    forwarding.addresses.push((WAN, net("192.0.2.1/32")));
    let snapshot = snapshot_of(&intent(), &forwarding);
    assert_eq!(snapshot.is_local(MAIN, &addr("192.0.2.2")), Some(Local::Own));
    assert_eq!(snapshot.is_local(MAIN, &addr("192.0.2.77")), Some(Local::Own));
    assert_eq!(snapshot.is_local(MAIN, &addr("192.0.2.1")), Some(Local::Virtual));
    assert_eq!(
        snapshot.is_local(MAIN, &addr("198.51.100.1")),
        None,
        "pool addresses are not local"
    );
    assert_eq!(snapshot.is_local(SECOND, &addr("192.0.2.2")), None);
}

#[test]
fn what_names_an_interface_nobody_has_is_left_out() {
    let mut forwarding = forwarding();
    let nowhere = InterfaceId(99);
    forwarding
        .routes
        .push(route(MAIN, "10.0.0.0/8", &[via(nowhere, "10.0.0.1")]));
    forwarding
        .routes
        .push(route(VrfId(9), "10.0.0.0/8", &[via(WAN, "192.0.2.9")]));
    forwarding.neighbors.push(Neighbor {
        interface: nowhere,
        address: ip("10.0.0.1"),
        mac: [9; 6],
    });
    forwarding.addresses.push((nowhere, net("10.0.0.2/8")));
    let snapshot = snapshot_of(&intent(), &forwarding);
    let dst = addr("10.1.1.1");
    let way = snapshot.route(MAIN, &dst, 0).unwrap();
    assert_eq!(way.next_hop(&dst), addr("192.0.2.254"), "the default route");
    assert_eq!(snapshot.next_mac(way, &dst), Some([2, 0, 0, 0, 0, 1]));
    let on_link = addr("192.0.2.254");
    let way = snapshot.route(MAIN, &on_link, 0).unwrap();
    assert_eq!(way.next_hop(&on_link), on_link);
    assert_eq!(snapshot.next_mac(way, &on_link), Some([2, 0, 0, 0, 0, 1]));
    let unknown = addr("192.0.2.253");
    assert_eq!(snapshot.next_mac(way, &unknown), None);
    assert_eq!(snapshot.vrf(MAIN).ha_group, Some(0));
    assert_eq!(snapshot.vrf(SECOND).ha_group, None);
}

#[test]
fn an_interface_is_every_station_it_is_given_and_no_other_interface_is() {
    let mut intent = intent();
    let mac = [0, 0, 0x5e, 0, 1, 51];
    intent.ha_groups[0].virtual_macs = vec![VirtualMac { interface: LAN, mac }];
    let snapshot = snapshot_of(&intent, &forwarding());
    let (lan, wan) = (snapshot.interface(LAN), snapshot.interface(WAN));
    assert!(lan.is_station(&mac) && lan.is_station(&lan.mac));
    assert!(!wan.is_station(&mac) && !lan.is_station(&[0, 0, 0x5e, 0, 1, 52]));
}
