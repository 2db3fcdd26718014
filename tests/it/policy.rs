//! Rules, VRFs, tags and hairpins through a whole worker.

use dataplane::config::{Action, Filtering};
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

#[test]
fn subscribers_reach_one_another_by_their_public_endpoints_rfc4787_section_6() {
    let rules = vec![accept(10, Some(LAN_IF), None)];
    let setup = Setup {
        rules,
        workers: 3,
        filtering: Filtering::EndpointIndependent,
        ..Setup::default()
    };
    let mut cluster = alone(setup);
    let called = cluster
        .out(0, &packet::udp(subscriber(1), 5_000, server(1), 53))
        .unwrap();
    let call = packet::udp(subscriber(2), 6_000, called.src, called.src_port);
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
        testkit::config::public(0).octets()[..15] == arrived.src.octets()[..15],
        "REQ-9: external source, not {arrived:?}, {what:?}"
    );
    let answer = arrived.reversed();
    let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &answer.src), &answer));
    assert_eq!(packet::flow(&sent[0].frame), Some(call.reversed()));
}
