//! Everything is bounded, and full is an outcome with a counter: flows that live are not harmed by those that find no
//! room (DESIGN.md section 3, RFC 6888 REQ-11).

use core::time::Duration;

use dataplane::config::{PortRange, Timeouts};
use dataplane::verdict::Drop;
use testkit::cluster::Cluster;
use testkit::config::{Setup, server, subscriber};
use testkit::expect::{counters, only_moved};
use testkit::packet;

fn alone(setup: Setup) -> Cluster {
    Cluster::new(
        Setup {
            grouped: false,
            workers: 1,
            ..setup
        },
        1,
    )
}

#[test]
fn a_full_conntrack_table_refuses_new_flows_and_keeps_the_old() {
    let mut cluster = alone(Setup {
        conntracks: 16,
        ..Setup::default()
    });
    let flow = |n: u16| packet::udp(subscriber(1), 10_000 + n, server(1), 53);
    let opened: Vec<_> = (0..16)
        .map(|n| (flow(n), cluster.out(0, &flow(n)).unwrap()))
        .collect();
    let before = counters(cluster.node(0));
    for n in 16..18 {
        assert_eq!(cluster.out(0, &flow(n)), None);
    }
    // Nor is anything made for subscribers who have no block yet.
    for other in 2..4 {
        let flow = packet::udp(subscriber(other), 10_000, server(1), 53);
        assert_eq!(cluster.out(0, &flow), None);
    }
    let after = counters(cluster.node(0));
    assert_eq!(cluster.node(0).counters().dropped(Drop::TableFull), 4);
    // Nothing was granted, bound or counted for the refused ones but their drop; ports 3 to 6 are free again.
    let moved = testkit::expect::moved(&before, &after);
    assert!(
        !moved
            .keys()
            .any(|name| name.contains("conntracks_created") || name.contains("blocks_granted")),
        "{moved:?}"
    );
    for (inside, outside) in &opened {
        assert_eq!(cluster.out(0, inside), Some(*outside));
        assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
    }
}

#[test]
fn an_exhausted_pool_refuses_new_subscribers_and_keeps_the_old() {
    let two_blocks = PortRange {
        first: 1_024,
        last: 1_024 + 2 * 64 - 1,
    };
    let setup = Setup {
        pool_addresses: 1,
        pool_ports: two_blocks,
        block_size: 64,
        ..Setup::default()
    };
    let mut cluster = alone(setup);
    let flow = |host: u8| packet::udp(subscriber(host), 5_000, server(1), 53);
    let first = cluster.out(0, &flow(1)).unwrap();
    let second = cluster.out(0, &flow(2)).unwrap();
    assert_ne!(
        first.src_port / 64,
        second.src_port / 64,
        "two subscribers in one block"
    );
    let before = counters(cluster.node(0));
    assert_eq!(cluster.out(0, &flow(3)), None);
    let after = counters(cluster.node(0));
    assert_eq!(cluster.node(0).counters().dropped(Drop::PoolExhausted), 1);
    only_moved(&before, &after, &[("rx_packets", 1), ("drop:pool-exhausted", 1)]);
    assert_eq!(cluster.back(0, &first), Some(flow(1).reversed()));
    assert_eq!(cluster.back(0, &second), Some(flow(2).reversed()));
}

#[test]
fn a_subscriber_at_its_quota_of_blocks_gets_no_more_ports_and_loses_none() {
    let setup = Setup {
        block_size: 64,
        blocks_max: 1,
        ..Setup::default()
    };
    let mut cluster = alone(setup);
    let flow = |n: u16| packet::udp(subscriber(1), 10_000 + n, server(1), 53);
    let opened: Vec<_> = (0..64)
        .map(|n| (flow(n), cluster.out(0, &flow(n)).unwrap()))
        .collect();
    let mut ports: Vec<u16> = opened.iter().map(|(_, outside)| outside.src_port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 64, "every port of the block was given out once");
    assert_eq!(cluster.out(0, &flow(64)), None);
    assert_eq!(cluster.node(0).counters().dropped(Drop::PortsExhausted), 1);
    for (inside, outside) in &opened {
        assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
    }
}

/// Lifetime of an unanswered UDP flow in the tests below.
const OPENING_S: u32 = 30;

fn short_lived(setup: Setup) -> Cluster {
    alone(Setup {
        timeouts: Timeouts {
            udp_opening_s: OPENING_S,
            ..Timeouts::default()
        },
        ..setup
    })
}

/// A second in which all flows are over, and no turn has looked at any of them.
fn pass(cluster: &mut Cluster) {
    cluster.now = cluster.now + Duration::from_secs(u64::from(OPENING_S) + 1);
}

#[test]
fn a_table_full_of_what_is_over_is_not_full() {
    let mut cluster = short_lived(Setup {
        conntracks: 16,
        ..Setup::default()
    });
    let flow = |n: u16| packet::udp(subscriber(1), 10_000 + n, server(1), 53);
    for n in 0..16 {
        assert!(cluster.out(0, &flow(n)).is_some());
    }
    assert_eq!(cluster.out(0, &flow(16)), None);
    pass(&mut cluster);
    assert!(cluster.out(0, &flow(17)).is_some());
    assert_eq!(cluster.node(0).counters().dropped(Drop::TableFull), 1);
}

#[test]
fn a_port_that_only_what_is_over_holds_is_given_to_who_wants_it() {
    let mut cluster = short_lived(Setup {
        block_size: 64,
        blocks_max: 1,
        port_rest_s: 0,
        ..Setup::default()
    });
    let flow = |n: u16| packet::udp(subscriber(1), 10_000 + n, server(1), 53);
    for n in 0..64 {
        assert!(cluster.out(0, &flow(n)).is_some());
    }
    assert_eq!(cluster.out(0, &flow(64)), None);
    pass(&mut cluster);
    assert!(cluster.out(0, &flow(65)).is_some());
    assert_eq!(cluster.node(0).counters().dropped(Drop::PortsExhausted), 1);
}

/// The wheel has lost it for good here, which is as late as it may be.
#[test]
fn a_packet_behind_the_deadline_opens_a_new_flow_however_late_the_wheel_is() {
    let mut cluster = short_lived(Setup::default());
    let inside = packet::udp(subscriber(1), 10_000, server(1), 53);
    let outside = cluster.out(0, &inside).unwrap();
    let lose = |cluster: &mut Cluster| {
        let tables = cluster.node(0).tables_mut(0);
        let id = tables.conntracks.next_live(0).unwrap();
        assert!(tables.wheel.cancel(id));
    };
    lose(&mut cluster);
    pass(&mut cluster);
    assert_eq!(cluster.back(0, &outside), None, "an answer revives nothing");
    let counters = cluster.node(0).counters();
    assert_eq!((counters.conntracks_created, counters.conntracks_expired), (1, 1));
    assert_eq!(cluster.out(0, &inside), Some(outside), "its port rests");
    lose(&mut cluster);
    pass(&mut cluster);
    assert_eq!(cluster.out(0, &inside), Some(outside));
    let counters = cluster.node(0).counters();
    assert_eq!((counters.conntracks_created, counters.conntracks_expired), (3, 2));
}
