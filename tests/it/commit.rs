//! Output commit: the first packets of a flow wait until the peer has it, in order and within bounds; and nothing that
//! the peer doesn't know ever leaves where the policy says closed.

use core::time::Duration;

use dataplane::config::{Care, CommitIntent, OutputCommit, SyncPolicy};
use dataplane::flow::{Direction, FlowKey};
use dataplane::verdict::Drop;
use dataplane::wire::build::Link;
use state_sync::role::Desire;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, LAN_IF, MAIN, Setup, WAN, WAN_IF, accept, server, subscriber};
use testkit::packet::{self, simple, to_node};

fn setup(policy: OutputCommit) -> Setup {
    Setup {
        output_commit: CommitIntent {
            policy,
            timeout_ms: 20,
        },
        workers: 1,
        events: 1,
        ..Setup::default()
    }
}

fn pair(policy: OutputCommit) -> Cluster {
    Cluster::pair(setup(policy), 7)
}

fn flow(port: u16) -> FlowKey {
    packet::udp(subscriber(1), port, server(1), 53)
}

/// Puts a frame into the active node's receive queue; the time to live tells packets of one flow apart.
fn offer(cluster: &mut Cluster, key: &FlowKey, ttl: u8) {
    let link = Link {
        ttl,
        ..to_node(1, LAN, &key.src)
    };
    let frame = simple(&link, key);
    assert!(cluster.node(0).inject(0, LAN, &frame));
}

/// What has left towards the servers since the last look: tuple and time to live, as it was on arrival.
fn left(cluster: &mut Cluster) -> Vec<(FlowKey, u8)> {
    cluster
        .sent
        .split_off(0)
        .iter()
        .filter(|sent| sent.port == WAN)
        .filter_map(|sent| Some((packet::flow(&sent.frame)?, sent.frame[22] + 1)))
        .collect()
}

fn knows(cluster: &mut Cluster, node: usize, key: &FlowKey) -> bool {
    cluster.node(node).tables().any(|tables| {
        let hash = tables.conntracks.hash(key);
        tables.conntracks.find(hash, key).is_some()
    })
}

fn dropped(cluster: &mut Cluster, reason: Drop) -> u64 {
    cluster.node(0).counters().dropped(reason)
}

#[test]
fn the_first_packet_leaves_only_when_the_peer_has_its_flow() {
    for policy in [OutputCommit::Open, OutputCommit::Closed] {
        let mut cluster = pair(policy);
        offer(&mut cluster, &flow(5_000), 60);
        let mut turns = 0;
        while left(&mut cluster).is_empty() {
            assert!(!knows(&mut cluster, 1, &flow(5_000)) || turns > 0);
            cluster.turn(Duration::from_micros(20));
            turns += 1;
            assert!(turns < 900, "{policy:?}");
        }
        assert!(knows(&mut cluster, 1, &flow(5_000)), "{policy:?}");
        let counters = cluster.node(0).counters();
        assert_eq!((counters.commit_held, counters.commit_released_ack), (1, 1));
        // Whatever comes later doesn't wait.
        assert!(cluster.out(0, &flow(5_000)).is_some());
        cluster.settle();
    }
}

#[test]
fn packets_of_a_waiting_flow_keep_their_order() {
    let mut cluster = pair(OutputCommit::Closed);
    let mut seen = Vec::new();
    for ttl in 20..60 {
        offer(&mut cluster, &flow(5_000), ttl);
        cluster.turn(Duration::from_micros(40));
        seen.extend(left(&mut cluster));
    }
    cluster.run(Duration::from_millis(5));
    seen.extend(left(&mut cluster));
    let ttls: Vec<u8> = seen.iter().map(|(_, ttl)| *ttl).collect();
    assert_eq!(ttls, (20..60).collect::<Vec<_>>());
    let held = cluster.node(0).counters().commit_held;
    assert!((2..40).contains(&held), "{held} waited");
    cluster.settle();
}

#[test]
fn a_peer_that_does_not_answer_delays_an_open_flow_by_the_timeout_and_no_more() {
    let mut cluster = pair(OutputCommit::Open);
    cluster.node(1).stop_absorb(true);
    offer(&mut cluster, &flow(5_000), 60);
    cluster.run(Duration::from_millis(15));
    assert!(left(&mut cluster).is_empty());
    cluster.run(Duration::from_millis(10));
    assert_eq!(left(&mut cluster).len(), 1);
    assert_eq!(cluster.node(0).counters().commit_released_timer, 1);
    cluster.node(1).stop_absorb(false);
    cluster.settle();
}

#[test]
fn a_peer_that_does_not_answer_ends_a_closed_flow_and_its_port_is_free_at_once() {
    let mut cluster = pair(OutputCommit::Closed);
    cluster.node(1).stop_absorb(true);
    offer(&mut cluster, &flow(5_000), 60);
    offer(&mut cluster, &flow(5_000), 59);
    cluster.run(Duration::from_millis(30));
    assert!(left(&mut cluster).is_empty());
    assert_eq!(dropped(&mut cluster, Drop::CommitTimeout), 2);
    assert!(!knows(&mut cluster, 0, &flow(5_000)));
    let pools = cluster.node(0).tables().next().unwrap();
    let pool = pools.nat.pools().refs().next().unwrap();
    let usage = pools.nat.usage(pool).unwrap();
    assert_eq!((usage.ports[1], usage.resting), (0, 0));
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert!(!knows(&mut cluster, 1, &flow(5_000)));
}

#[test]
fn without_a_peer_the_outcome_comes_at_once() {
    let mut cluster = pair(OutputCommit::Open);
    cluster.kill(1, Death::Process);
    cluster.run(Duration::from_secs(2));
    assert!(cluster.out(0, &flow(5_000)).is_some());
    let mut cluster = pair(OutputCommit::Closed);
    cluster.kill(1, Death::Process);
    cluster.run(Duration::from_secs(2));
    assert!(cluster.out(0, &flow(5_000)).is_none());
    assert!(!knows(&mut cluster, 0, &flow(5_000)));
    assert_eq!(dropped(&mut cluster, Drop::CommitUnknown), 1);
    let tables = cluster.node(0).tables().next().unwrap();
    assert_eq!(
        tables
            .nat
            .pools()
            .refs()
            .map(|p| tables.nat.usage(p).unwrap().blocks)
            .sum::<u32>(),
        0
    );
}

#[test]
fn a_lane_that_goes_down_settles_what_waits_on_it_before_the_time_is_over() {
    for policy in [OutputCommit::Open, OutputCommit::Closed] {
        let mut setup = setup(policy);
        setup.output_commit.timeout_ms = 1_000;
        let mut cluster = Cluster::pair(setup, 7);
        cluster.node(1).stop_absorb(true);
        offer(&mut cluster, &flow(5_000), 60);
        cluster.run(Duration::from_millis(5));
        assert!(left(&mut cluster).is_empty());
        cluster.fabric.reset_all();
        cluster.run(Duration::from_millis(20));
        assert_eq!(
            left(&mut cluster).len(),
            usize::from(policy == OutputCommit::Open)
        );
        assert_eq!(cluster.node(0).counters().commit_released_unknown, 1);
        cluster.node(1).stop_absorb(false);
        cluster.settle();
    }
}

#[test]
fn a_flow_that_the_peer_refuses_is_settled_at_once() {
    for policy in [OutputCommit::Open, OutputCommit::Closed] {
        let small = Setup {
            conntracks: 4,
            ..setup(policy)
        };
        let mut cluster = Cluster::of([setup(policy), small], 7);
        cluster.settle();
        for port in 5_000..5_008 {
            offer(&mut cluster, &flow(port), 60);
        }
        cluster.run(Duration::from_millis(10));
        let expected = if policy == OutputCommit::Open { 8 } else { 4 };
        assert_eq!(left(&mut cluster).len(), expected, "{policy:?}");
        let counters = cluster.node(0).counters();
        assert_eq!(
            (counters.commit_released_ack, counters.commit_released_unknown),
            (4, 4)
        );
    }
}

#[test]
fn the_store_is_bounded_and_being_full_is_the_policys_outcome() {
    for policy in [OutputCommit::Open, OutputCommit::Closed] {
        let mut cluster = Cluster::pair(
            Setup {
                held_packets: 16,
                ..setup(policy)
            },
            7,
        );
        cluster.node(1).stop_absorb(true);
        for port in 5_000..5_040 {
            offer(&mut cluster, &flow(port), 60);
            offer(&mut cluster, &flow(port), 59);
        }
        cluster.turn(Duration::from_micros(10));
        cluster.turn(Duration::from_micros(10));
        cluster.turn(Duration::from_micros(10));
        let waiting = cluster.node(0).packets.alive();
        assert!((1..=16 + 64).contains(&waiting), "{waiting} wait");
        cluster.run(Duration::from_millis(30));
        let through = left(&mut cluster);
        if policy == OutputCommit::Open {
            assert_eq!(through.len(), 80);
            for pair in 5_000..5_040 {
                let ttls: Vec<u8> = through
                    .iter()
                    .filter(|(key, _)| key.dst_port == 53)
                    .filter(|(key, _)| inside_port(&mut cluster, key) == Some(pair))
                    .map(|(_, ttl)| *ttl)
                    .collect();
                assert_eq!(ttls, [60, 59], "flow {pair}");
            }
        } else {
            assert!(through.is_empty());
            let all = dropped(&mut cluster, Drop::CommitFull) + dropped(&mut cluster, Drop::CommitTimeout);
            assert_eq!(all, 80);
            assert!(dropped(&mut cluster, Drop::CommitFull) > 0);
        }
        assert_eq!(cluster.node(0).packets.alive(), 0);
        cluster.node(1).stop_absorb(false);
        cluster.settle();
    }
}

fn inside_port(cluster: &mut Cluster, outside: &FlowKey) -> Option<u16> {
    let reply = outside.reversed();
    cluster.node(0).tables().find_map(|tables| {
        let (id, _) = tables.conntracks.find(tables.conntracks.hash(&reply), &reply)?;
        Some(tables.conntracks[id].key(Direction::Original).src_port)
    })
}

#[test]
fn a_rule_counts_before_the_vrf_and_a_flow_that_is_never_synced_does_not_wait() {
    let mut care = accept(5, Some(LAN_IF), Some(WAN_IF));
    care.protocol = Some(6);
    care.care.output_commit = Some(OutputCommit::Off);
    let mut never = accept(6, Some(LAN_IF), Some(WAN_IF));
    never.protocol = Some(1);
    never.care.sync = Some(SyncPolicy::Never);
    let mut cluster = Cluster::pair(
        Setup {
            rules: vec![care, never, accept(10, Some(LAN_IF), Some(WAN_IF))],
            nat_care: Care {
                sync: None,
                output_commit: Some(OutputCommit::Closed),
            },
            ..setup(OutputCommit::Open)
        },
        7,
    );
    assert!(
        cluster
            .out(0, &packet::tcp(subscriber(1), 5_000, server(1), 80))
            .is_some()
    );
    assert!(
        cluster
            .out(0, &packet::echo(subscriber(1), 5_000, server(1)))
            .is_some()
    );
    assert!(cluster.out(0, &flow(5_000)).is_none());
    cluster.run(Duration::from_millis(5));
    assert_eq!(left(&mut cluster).len(), 1);
    cluster.settle();
}

#[test]
fn a_node_that_loses_its_role_forwards_nothing_of_what_waits() {
    let mut setup = setup(OutputCommit::Open);
    setup.output_commit.timeout_ms = 500;
    let mut cluster = Cluster::pair(setup, 7);
    cluster.node(0).stop_events(true);
    offer(&mut cluster, &flow(5_000), 60);
    cluster.run(Duration::from_millis(5));
    cluster.order(0, Desire::Backup);
    cluster.node(0).stop_events(false);
    cluster.run(Duration::from_secs(1));
    assert!(left(&mut cluster).is_empty());
    assert_eq!(cluster.node(0).packets.alive(), 0);
}

#[test]
fn the_heir_of_a_node_that_dies_with_waiting_packets_goes_on_with_the_flow() {
    let mut cluster = pair(OutputCommit::Closed);
    offer(&mut cluster, &flow(5_000), 60);
    while !knows(&mut cluster, 1, &flow(5_000)) {
        cluster.turn(Duration::from_micros(20));
    }
    assert!(left(&mut cluster).is_empty(), "known, and not acknowledged yet");
    cluster.kill(0, Death::Power);
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_secs(4));
    assert!(cluster.node(1).is_active(MAIN));
    assert!(cluster.out(1, &flow(5_000)).is_some());
}

#[test]
fn packets_that_wait_come_back_when_the_process_stops() {
    let mut cluster = pair(OutputCommit::Closed);
    cluster.node(1).stop_absorb(true);
    for port in 5_000..5_010 {
        offer(&mut cluster, &flow(port), 60);
    }
    cluster.turn(Duration::from_micros(10));
    assert_eq!(cluster.node(0).packets.alive(), 10);
    let now = cluster.now;
    let node = cluster.nodes[0].take().unwrap();
    assert_eq!(node.shutdown(now).alive(), 0);
}

#[test]
fn a_conntrack_that_is_removed_takes_its_waiting_packets_along() {
    let mut cluster = pair(OutputCommit::Closed);
    cluster.node(1).stop_absorb(true);
    offer(&mut cluster, &flow(5_000), 60);
    cluster.turn(Duration::from_micros(10));
    let now = cluster.now;
    let now = cluster.node(0).time(now);
    let tables = cluster.node(0).tables_mut(0);
    let id = tables.conntracks.next_live(0).unwrap();
    tables.remove(now, id);
    cluster.run(Duration::from_millis(5));
    assert_eq!(dropped(&mut cluster, Drop::CommitEnded), 1);
    assert_eq!(cluster.node(0).packets.alive(), 0);
    cluster.node(1).stop_absorb(false);
    cluster.settle();
}
