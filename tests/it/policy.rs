//! Rules, VRFs, tags and hairpins through a whole worker.

use dataplane::config::{Action, Filtering};
use dataplane::flow::{FlowKey, proto};
use dataplane::nat::PoolRef;
use dataplane::stage::meta::Kind;
use dataplane::wire::icmp4;
use dataplane::wire::vlan::VlanTags;
use testkit::cluster::Cluster;
use testkit::config::{LAN, LAN_IF, Setup, WAN, WAN_IF, accept, server, subscriber};
use testkit::expect::{counters, moved, only_moved};
use testkit::packet::{self, simple, to_node};

fn alone(setup: Setup) -> Cluster {
    Cluster::new(
        Setup {
            grouped: false,
            ..setup
        },
        1,
    )
}

#[test]
fn the_first_rule_that_matches_decides_and_a_reject_is_answered() {
    let mut reject = accept(5, Some(LAN_IF), Some(WAN_IF));
    reject.protocol = Some(6);
    reject.action = Action::Reject;
    let rules = vec![reject, accept(10, Some(LAN_IF), Some(WAN_IF))];
    let mut cluster = alone(Setup {
        rules,
        ..Setup::default()
    });
    let before = counters(cluster.node(0));
    let key = packet::tcp(subscriber(1), 5_000, server(1), 80);
    let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &key.src), &key));
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].port, packet::flow(&sent[0].frame)),
        (LAN, Some(key.reversed()))
    );
    let expected = [
        ("rx_packets", 1),
        ("tx_packets", 1),
        ("tcp_resets_sent", 1),
        ("drop:rule-reject", 1),
    ];
    only_moved(&before, &counters(cluster.node(0)), &expected);
    assert!(
        cluster
            .out(0, &packet::udp(subscriber(1), 5_000, server(1), 80))
            .is_some()
    );
}

#[test]
fn equal_addresses_in_two_vrfs_do_not_meet() {
    let mut cluster = alone(Setup {
        second_vrf: true,
        ..Setup::default()
    });
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let first = cluster.out(0, &key).unwrap();
    let mut link = to_node(1, LAN, &key.src);
    link.vlans = VlanTags::from_ids(&[200]).unwrap();
    let sent = cluster.through(0, LAN, &simple(&link, &key));
    let second = packet::flow(&sent[0].frame).unwrap();
    assert_eq!(
        packet::read(&sent[0].frame).unwrap().vlans.ids(),
        link.vlans.ids()
    );
    assert_ne!(first.src, second.src, "each VRF has its own pool");
    // The first VRF's answer in the second VRF belongs to nobody.
    let mut link = to_node(1, WAN, &key.dst);
    link.vlans = VlanTags::from_ids(&[200]).unwrap();
    assert!(
        cluster
            .through(0, WAN, &simple(&link, &first.reversed()))
            .is_empty()
    );
}

#[test]
fn two_tags_on_one_side_come_off_on_the_other() {
    let mut cluster = alone(Setup {
        lan_vlans: vec![100, 200],
        ..Setup::default()
    });
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let mut link = to_node(1, LAN, &key.src);
    link.vlans = VlanTags::from_ids(&[100, 200]).unwrap();
    let sent = cluster.through(0, LAN, &simple(&link, &key));
    let meta = packet::read(&sent[0].frame).unwrap();
    assert_eq!((sent[0].port, meta.vlans.ids()), (WAN, 0));
    let sent = cluster.through(0, WAN, &simple(&to_node(1, WAN, &key.dst), &meta.key.reversed()));
    let back = packet::read(&sent[0].frame).unwrap();
    assert_eq!((back.key, back.vlans.ids()), (key.reversed(), link.vlans.ids()));
}

/// Two subscribers who may call each other, and as many public addresses as asked for.
fn neighbors(pool_addresses: u8) -> (Cluster, FlowKey) {
    let mut cluster = alone(Setup {
        rules: vec![accept(10, Some(LAN_IF), None)],
        workers: 3,
        filtering: Filtering::EndpointIndependent,
        pool_addresses,
        ..Setup::default()
    });
    let called = cluster
        .out(0, &packet::udp(subscriber(1), 5_000, server(1), 53))
        .unwrap();
    (cluster, called)
}

/// With one public address, both ends have it: source and destination differ by their ports only.
#[test]
fn subscribers_reach_one_another_by_their_public_endpoints_rfc_4787_req_9() {
    for pool_addresses in [1, 2, 4] {
        let (mut cluster, called) = neighbors(pool_addresses);
        for host in 2..10 {
            let call = packet::udp(subscriber(host), 6_000, called.src, called.src_port);
            let before = counters(cluster.node(0));
            let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &call.src), &call));
            let what = moved(&before, &counters(cluster.node(0)));
            assert_eq!(sent.len(), 1, "{what:?}");
            let arrived = packet::flow(&sent[0].frame).unwrap();
            assert_eq!(
                (sent[0].port, arrived.dst, arrived.dst_port),
                (LAN, subscriber(1), 5_000)
            );
            assert!(
                (0..pool_addresses).any(|n| arrived.src == testkit::config::public(n)),
                "REQ-9: external source, not {arrived:?}, {what:?}"
            );
            let answer = arrived.reversed();
            let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &answer.src), &answer));
            assert_eq!(packet::flow(&sent[0].frame), Some(call.reversed()));
        }
    }
}

#[test]
fn an_icmp_error_comes_back_between_subscribers_who_share_an_address() {
    let (mut cluster, called) = neighbors(1);
    let call = packet::udp(subscriber(2), 6_000, called.src, called.src_port);
    let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &call.src), &call));
    let arrived = &sent[0].frame;
    let error_key = FlowKey {
        proto: proto::ICMP,
        ..packet::flow(arrived).unwrap().reversed()
    };
    let quote = &arrived[14..42];
    let error = to_node(1, LAN, &error_key.src).icmp(&error_key, icmp4::UNREACHABLE, 3, [0; 4], quote);
    let sent = cluster.through(0, LAN, &error);
    let meta = packet::read(&sent[0].frame).unwrap();
    assert_eq!((meta.kind, meta.key), (Kind::IcmpError, call.reversed()));
    assert_eq!(sent[0].frame[30..34], call.src.v4_octets(), "to the caller");
}

#[test]
fn packets_to_themselves_are_refused_on_every_wire() {
    let (mut cluster, called) = neighbors(1);
    let land = packet::udp(called.src, called.src_port, called.src, called.src_port);
    let other_port = FlowKey {
        src_port: 9_999,
        ..land
    };
    let inside = packet::udp(subscriber(1), 5_000, subscriber(1), 5_000);
    for (port, key) in [
        (WAN, land),
        (WAN, other_port),
        (LAN, land),
        (LAN, other_port),
        (LAN, inside),
    ] {
        let before = counters(cluster.node(0));
        let mut link = to_node(1, port, &subscriber(1));
        link.dst_mac = testkit::config::node_mac(1, port);
        assert!(cluster.through(0, port, &simple(&link, &key)).is_empty());
        let dropped = [("rx_packets", 1), ("drop:bad-address", 1)];
        only_moved(&before, &counters(cluster.node(0)), &dropped);
    }
}

/// It would leave as a packet from and to the same address and port.
#[test]
fn nobody_calls_its_own_public_endpoint() {
    let (mut cluster, called) = neighbors(1);
    let ports = |cluster: &mut Cluster| -> u32 {
        let tables = cluster.node(0).tables();
        tables
            .map(|tables| tables.nat.usage(PoolRef::default()).unwrap().ports[1])
            .sum()
    };
    let used = ports(&mut cluster);
    let call = packet::udp(subscriber(1), 5_000, called.src, called.src_port);
    let before = counters(cluster.node(0));
    assert!(
        cluster
            .through(0, LAN, &simple(&to_node(1, LAN, &call.src), &call))
            .is_empty()
    );
    let what = moved(&before, &counters(cluster.node(0)));
    assert_eq!(what.get("drop:bad-address"), Some(&1), "{what:?}");
    assert_eq!(ports(&mut cluster), used);
    // Another of its own endpoints is somebody like anybody else.
    let call = packet::udp(subscriber(1), 5_001, called.src, called.src_port);
    let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &call.src), &call));
    let arrived = packet::flow(&sent[0].frame).unwrap();
    assert_eq!((arrived.dst, arrived.dst_port), (subscriber(1), 5_000));
}
