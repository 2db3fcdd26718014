//! What a connection needs besides its tuples survives the node that gave it: the rest of freed ports, blocks and
//! quotas, mappings with their conntracks, what is left of a lifetime; over IPv4 and IPv6.

use core::time::Duration;
use std::collections::{BTreeMap, HashSet};

use dataplane::flow::{Direction, FlowKey, proto};
use dataplane::nat::UserRow;
use dataplane::wire::build::Segment;
use dataplane::wire::tcp::{ACK, SYN};
use state_sync::role::Desire;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, Setup, WAN, server, server6, subscriber, subscriber6};
use testkit::packet::{self, segment, syn, to_node};

use crate::replication::remove;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Two blocks of 64 ports, both for one subscriber.
fn scarce() -> Setup {
    Setup {
        pool_addresses: 1,
        pool_ports: dataplane::config::PortRange {
            first: 1_024,
            last: 1_024 + 127,
        },
        block_size: 64,
        blocks_max: 2,
        ..Setup::default()
    }
}

/// Ends the first node; the second one takes over.
fn fail_over(cluster: &mut Cluster) {
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(1_200 * MS);
    assert_eq!(cluster.active(), Some(1));
}

/// UDP flows of one subscriber from so many inside ports; their public ports.
fn open(cluster: &mut Cluster, node: usize, ports: core::ops::Range<u16>) -> Vec<(FlowKey, u16)> {
    ports
        .map(|port| packet::udp(subscriber(1), port, server(1), 53))
        .filter_map(|key| cluster.out(node, &key).map(|out| (key, out.src_port)))
        .collect()
}

fn public_ports(flows: &[(FlowKey, u16)]) -> HashSet<u16> {
    flows.iter().map(|(_, port)| *port).collect()
}

#[test]
fn a_port_freed_before_a_failover_rests_after_it() {
    let mut cluster = Cluster::pair(scarce(), 1);
    let flows = open(&mut cluster, 0, 10_000..10_100);
    cluster.settle();
    let (ended, _) = flows.split_at(30);
    remove(&mut cluster, 0, ended);
    cluster.settle();
    cluster.idle(50 * S);
    fail_over(&mut cluster);
    // 128 ports, 70 in use, 30 at rest.
    let fresh = open(&mut cluster, 1, 20_000..20_100);
    assert_eq!(fresh.len(), 28);
    assert!(public_ports(&fresh).is_disjoint(&public_ports(ended)));
    cluster.idle(60 * S);
    assert_eq!(open(&mut cluster, 1, 30_000..30_100).len(), 0, "110 s of 120");
    cluster.idle(15 * S);
    let rested = open(&mut cluster, 1, 30_000..30_100);
    assert_eq!(public_ports(&rested), public_ports(ended));
}

/// RFC 4787 REQ-1: the inside endpoint gets its own port back.
#[test]
fn a_resting_mapping_is_taken_up_again_by_its_own_endpoint_after_a_failover() {
    let mut cluster = Cluster::pair(scarce(), 2);
    let flows = open(&mut cluster, 0, 10_000..10_020);
    cluster.settle();
    remove(&mut cluster, 0, &flows);
    cluster.settle();
    fail_over(&mut cluster);
    for (key, port) in flows {
        let elsewhere = FlowKey {
            dst: server(2),
            ..key
        };
        assert_eq!(cluster.out(1, &elsewhere).map(|out| out.src_port), Some(port));
    }
}

#[test]
fn a_sweep_starts_the_rest_of_what_it_ends() {
    let mut cluster = Cluster::pair(scarce(), 3);
    let flows = open(&mut cluster, 0, 10_000..10_100);
    cluster.settle();
    // Ended while nobody listens: the standby hears of it by what is no longer in the slot.
    cluster.fabric.cut(true);
    remove(&mut cluster, 0, &flows[..30]);
    cluster.run(2_000 * MS);
    cluster.fabric.cut(false);
    cluster.settle();
    fail_over(&mut cluster);
    let fresh = open(&mut cluster, 1, 20_000..20_100);
    assert_eq!(fresh.len(), 28);
    assert!(public_ports(&fresh).is_disjoint(&public_ports(&flows[..30])));
}

fn users(cluster: &mut Cluster, node: usize) -> Vec<UserRow> {
    let mut rows = Vec::new();
    for tables in cluster.node(node).tables() {
        tables.nat.users(0, u32::MAX, &mut rows);
    }
    for row in &mut rows {
        row.resting = 0;
    }
    rows.sort_unstable();
    rows
}

#[test]
fn quotas_count_on_after_a_complete_resync_and_a_failover() {
    let roomy = Setup {
        pool_ports: dataplane::config::PortRange {
            first: 1_024,
            last: 1_024 + 64 * 8 - 1,
        },
        ..scarce()
    };
    let mut cluster = Cluster::pair(roomy, 4);
    open(&mut cluster, 0, 10_000..10_070);
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    cluster.settle();
    let before = users(&mut cluster, 0);
    assert_eq!((before.len(), before[0].blocks, before[0].used), (1, 2, 70));
    assert_eq!(users(&mut cluster, 1), before);
    fail_over(&mut cluster);
    assert_eq!(users(&mut cluster, 1), before);
    // Two blocks are all a subscriber may have: 128 ports, whoever granted them.
    assert_eq!(open(&mut cluster, 1, 20_000..20_200).len(), 58);
    assert_eq!(users(&mut cluster, 1)[0].blocks, 2);
}

#[test]
fn a_mapping_has_as_many_users_on_both_nodes_and_ends_with_the_last_one() {
    let mut cluster = Cluster::pair(scarce(), 5);
    let key = packet::udp(subscriber(1), 10_000, server(1), 53);
    let port = cluster.out(0, &key).unwrap().src_port;
    for host in 2..7 {
        let out = cluster.out(
            0,
            &FlowKey {
                dst: server(host),
                ..key
            },
        );
        assert_eq!(out.map(|out| out.src_port), Some(port));
    }
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    cluster.settle();
    fail_over(&mut cluster);
    let used = |cluster: &mut Cluster| users(cluster, 1).first().map_or(0, |row| row.used);
    for host in 1..7 {
        assert_eq!(used(&mut cluster), 1, "server {host} still needs it");
        remove(
            &mut cluster,
            1,
            &[(
                FlowKey {
                    dst: server(host),
                    ..key
                },
                port,
            )],
        );
    }
    assert_eq!(used(&mut cluster), 0);
}

/// Seconds that each conntrack has left, by its original tuple.
fn lifetimes(cluster: &mut Cluster, node: usize) -> BTreeMap<String, u32> {
    let now = cluster.now;
    let node = cluster.node(node);
    let now = node.time(now);
    node.tables()
        .flat_map(|tables| tables.conntracks.iter_live())
        .map(|(_, conntrack)| {
            (
                format!("{:?}", conntrack.key(Direction::Original)),
                conntrack.lifetime_s(now),
            )
        })
        .collect()
}

#[test]
fn a_complete_resync_brings_what_is_left_of_each_lifetime() {
    let mut cluster = Cluster::pair(Setup::default(), 6);
    for (n, wait) in (0..4).zip([40, 30, 20, 0]) {
        for (source, target) in [(subscriber(1), server(1)), (subscriber6(1), server6(1))] {
            let key = packet::udp(source, 10_000 + n, target, 53);
            let out = cluster.out(0, &key).unwrap();
            assert!(cluster.back(0, &out).is_some());
        }
        cluster.idle(wait * S);
    }
    cluster.kill(1, Death::Process);
    cluster.start(1);
    cluster.settle();
    let (active, standby) = (lifetimes(&mut cluster, 0), lifetimes(&mut cluster, 1));
    assert_eq!(active.len(), 8);
    assert_eq!(
        active.keys().collect::<Vec<_>>(),
        standby.keys().collect::<Vec<_>>()
    );
    for (key, left) in &active {
        // Less a second for the way, and what the wire rounds up to: an eighth.
        let theirs = standby[key];
        assert!(
            theirs + 2 >= *left && theirs <= left + left / 8 + 2,
            "{key}: {left} and {theirs}"
        );
    }
    let spread = active.values().max().unwrap() - active.values().min().unwrap();
    assert!(spread >= 80, "{active:?}");
}

/// The firewall's conntracks have no NAT, and IPv6 addresses in their records.
#[test]
fn ipv6_connections_of_every_protocol_survive() {
    let mut cluster = Cluster::pair(Setup::default(), 7);
    let keys = [
        packet::udp(subscriber6(1), 10_000, server6(1), 53),
        FlowKey {
            dst_port: 0,
            proto: proto::ICMP6,
            ..packet::udp(subscriber6(2), 77, server6(2), 0)
        },
        FlowKey {
            proto: 47,
            ..packet::udp(subscriber6(3), 0, server6(3), 0)
        },
    ];
    for key in &keys {
        assert_eq!(cluster.out(0, key).as_ref(), Some(key), "{key:?}");
        assert_eq!(cluster.back(0, key), Some(key.reversed()));
    }
    let tcp = packet::tcp(subscriber6(4), 40_000, server6(4), 443);
    let from_client = |cluster: &mut Cluster, node: usize, segment: &Segment<'_>| {
        let frame = to_node([1, 2][node], LAN, &tcp.src).tcp(&tcp, segment);
        cluster.through(node, LAN, &frame).iter().any(|s| s.port == WAN)
    };
    let from_server = |cluster: &mut Cluster, node: usize, segment: &Segment<'_>| {
        let frame = to_node([1, 2][node], WAN, &tcp.dst).tcp(&tcp.reversed(), segment);
        cluster.through(node, WAN, &frame).iter().any(|s| s.port == LAN)
    };
    assert!(from_client(&mut cluster, 0, &syn(100)));
    assert!(from_server(&mut cluster, 0, &segment(SYN | ACK, 9_000, 101, &[])));
    assert!(from_client(&mut cluster, 0, &segment(ACK, 101, 9_001, &[])));
    cluster.settle();
    // Over a complete resync, too.
    cluster.kill(1, Death::Process);
    cluster.start(1);
    cluster.settle();
    fail_over(&mut cluster);
    for key in &keys {
        assert_eq!(cluster.back(1, key), Some(key.reversed()), "{key:?}");
        assert_eq!(cluster.out(1, key).as_ref(), Some(key));
    }
    assert!(from_server(&mut cluster, 1, &segment(ACK, 9_001, 101, b"data")));
    assert!(from_client(&mut cluster, 1, &segment(ACK, 101, 9_005, b"more")));
    assert!(from_server(&mut cluster, 1, &segment(ACK, 9_005, 105, b"data")));
    assert!(from_client(&mut cluster, 1, &segment(ACK, 105, 9_009, &[])));
    let wild = segment(ACK, 9_009_u32.wrapping_add(1 << 30), 105, b"wild");
    assert!(!from_server(&mut cluster, 1, &wild), "strict again");
}
