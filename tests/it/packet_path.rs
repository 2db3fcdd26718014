//! Packets through a whole worker, byte by byte.

use core::time::Duration;

use dataplane::flow::{FlowKey, proto};
use dataplane::role::Role;
use dataplane::stage::meta::Kind;
use dataplane::wire::build::Link;
use dataplane::wire::tcp::{ACK, SYN};
use state_sync::role::Desire;
use testkit::cluster::Cluster;
use testkit::config::{LAN, MAIN, Setup, WAN, server, server6, subscriber, subscriber6};
use testkit::expect::{counters, only_moved};
use testkit::oracle::Oracle;
use testkit::packet::{self, from_node, segment, simple, to_node};

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
fn udp_tcp_and_echo_leave_translated_and_come_back_byte_exact() {
    let mut cluster = alone(Setup::default());
    for key in [
        packet::udp(subscriber(1), 5_000, server(1), 53),
        packet::tcp(subscriber(2), 5_001, server(1), 80),
        packet::echo(subscriber(3), 77, server(1)),
    ] {
        let sent = cluster.through(0, LAN, &simple(&to_node(1, LAN, &key.src), &key));
        let outside = packet::flow(&sent[0].frame).unwrap();
        assert_eq!(sent[0].frame, simple(&from_node(1, WAN, &key.dst), &outside));
        assert_ne!(outside.src, key.src);
        let (answer, inside) = (outside.reversed(), key.reversed());
        let build = |link: &Link, key: FlowKey| {
            if key.proto == proto::TCP {
                link.tcp(&key, &segment(SYN | ACK, 9, 1_001, &[]))
            } else {
                simple(link, &key)
            }
        };
        let sent = cluster.through(0, WAN, &build(&to_node(1, WAN, &answer.src), answer));
        assert_eq!(sent[0].frame, build(&from_node(1, LAN, &key.src), inside));
    }
}

#[test]
fn ipv6_is_tracked_and_not_translated() {
    let mut cluster = alone(Setup::default());
    let key = packet::udp(subscriber6(1), 5_000, server6(1), 53);
    assert_eq!(cluster.out(0, &key), Some(key));
    assert_eq!(cluster.back(0, &key), Some(key.reversed()));
}

#[test]
fn nothing_gets_in_that_nobody_asked_for_and_only_its_counter_moves() {
    let mut cluster = alone(Setup::default());
    for (key, reason) in [
        (
            packet::udp(server(1), 53, testkit::config::public(0), 4_000),
            "drop:no-mapping",
        ),
        (
            packet::udp(server(1), 53, subscriber(1), 4_000),
            "drop:default-drop",
        ),
    ] {
        let before = counters(cluster.node(0));
        let sent = cluster.through(0, WAN, &simple(&to_node(1, WAN, &key.src), &key));
        assert!(sent.is_empty());
        only_moved(
            &before,
            &counters(cluster.node(0)),
            &[("rx_packets", 1), (reason, 1)],
        );
    }
}

#[test]
fn damaged_packets_are_dropped_with_their_cause_and_change_nothing() {
    let mut cluster = alone(Setup::default());
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let good = simple(&to_node(1, LAN, &key.src), &key);
    let broken = |at: usize| {
        let mut frame = good.clone();
        frame[at] ^= 0xff;
        frame
    };
    for (frame, reason) in [
        (good[..30].to_vec(), "drop:truncated"),
        (broken(24), "drop:bad-ip-checksum"),
        (broken(good.len() - 1), "drop:bad-l4-checksum"),
        (broken(0), "drop:bad-mac"),
        (broken(5), "drop:other-host"),
    ] {
        let before = counters(cluster.node(0));
        assert!(cluster.through(0, LAN, &frame).is_empty(), "{reason}");
        only_moved(
            &before,
            &counters(cluster.node(0)),
            &[("rx_packets", 1), (reason, 1)],
        );
    }
}

#[test]
fn a_standby_forwards_nothing_and_tells_what_it_knows_from_what_it_does_not() {
    let mut cluster = Cluster::pair(Setup::default(), 2);
    let known = packet::udp(subscriber(1), 5_000, server(1), 53);
    assert!(cluster.out(0, &known).is_some());
    cluster.settle();
    let unknown = packet::udp(subscriber(1), 6_000, server(1), 53);
    for (key, reason) in [
        (known, "drop:standby-matched"),
        (unknown, "drop:standby-unmatched"),
    ] {
        let before = counters(cluster.node(1));
        assert_eq!(cluster.out(1, &key), None);
        only_moved(
            &before,
            &counters(cluster.node(1)),
            &[("rx_packets", 1), (reason, 1)],
        );
    }
}

#[test]
fn a_take_over_announces_the_next_hops_before_the_pool() {
    let mut cluster = Cluster::pair(Setup::default(), 3);
    cluster.sent.clear();
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Master);
    let announced: Vec<_> = cluster
        .sent
        .iter()
        .filter(|s| s.node == 1)
        .filter_map(|s| packet::read(&s.frame).ok())
        .filter(|meta| meta.kind == Kind::Arp)
        .map(|meta| meta.key.dst.ip())
        .collect();
    let place = |ip: std::net::IpAddr| announced.iter().position(|a| *a == ip).unwrap();
    let pool = place(testkit::config::public(0).ip());
    assert!(place(testkit::config::WAN_VIP.into()) < pool || place(testkit::config::LAN_VIP.into()) < pool);
}

#[test]
fn hundreds_of_flows_are_as_the_slow_model_says() {
    let mut cluster = alone(Setup {
        workers: 3,
        ..Setup::default()
    });
    let mut oracle = Oracle::new(cluster.setups[0].clone());
    for n in 0..300_u16 {
        let host = subscriber(u8::try_from(n % 30 + 1).unwrap());
        let to = server(u8::try_from(n % 7 + 1).unwrap());
        let key = match n % 3 {
            0 => packet::tcp(host, 1_000 + n / 2, to, 80),
            1 => packet::echo(host, n, to),
            _ => packet::udp(host, 1_000 + n / 2, to, 53),
        };
        let sent = cluster.out(0, &key);
        oracle.from_inside(&key, sent).unwrap();
    }
    let flows: Vec<_> = oracle.flows().filter(|(k, _)| k.proto != proto::TCP).collect();
    assert!(flows.len() >= 200);
    for (_, outside) in flows {
        let sent = cluster.back(0, &outside);
        oracle.from_outside(&outside.reversed(), sent).unwrap();
    }
}
