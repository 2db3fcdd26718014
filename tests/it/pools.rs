//! Pools that change while both nodes run: one node is told first, and what the pools have in common goes on.

use core::net::Ipv4Addr;
use core::time::Duration;

use dataplane::config::{Forwarding, Intent, PoolIntent};
use dataplane::flow::FlowKey;
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, net4, public};

use crate::bulk::reconnects;
use crate::replication::{open_flows, remove};
use crate::resync::exported;

/// Tuples inside and outside.
type Flows = Vec<(FlowKey, FlowKey)>;

const S: Duration = Duration::from_secs(1);
const MORE: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 41), Ipv4Addr::new(198, 51, 100, 42)];

/// Subscribers 32 to 63 get a pool of their own, which is the first one configured.
fn add(intent: &mut Intent, _: &mut Forwarding) {
    let vrf = &mut intent.vrfs[0];
    let pool = PoolIntent {
        name: "more".to_owned(),
        addresses: MORE.to_vec(),
        ..vrf.pools[0].clone()
    };
    let mut rule = vrf.nat_rules[0].clone();
    rule.id = 7;
    rule.source = vec![net4(Ipv4Addr::new(100, 64, 1, 32), 27)];
    vrf.pools.insert(0, pool);
    vrf.nat_rules[0].pool = 1;
    vrf.nat_rules.insert(0, rule);
}

fn take_away(intent: &mut Intent, _: &mut Forwarding) {
    let vrf = &mut intent.vrfs[0];
    vrf.nat_rules.remove(0);
    vrf.nat_rules[0].pool = 0;
    vrf.pools.remove(0);
}

/// Those that stand on the pool that comes and goes, and the others.
fn parted(flows: Flows) -> (Flows, Flows) {
    let more = MORE.map(Into::into);
    flows
        .into_iter()
        .partition(|(_, outside)| more.contains(&outside.src))
}

fn assert_alive(cluster: &mut Cluster, node: usize, flows: &[(FlowKey, FlowKey)]) {
    for (inside, outside) in flows {
        assert_eq!(cluster.out(node, inside), Some(*outside));
        assert_eq!(cluster.back(node, outside), Some(inside.reversed()));
    }
}

fn lacking(cluster: &mut Cluster, node: usize) -> u32 {
    let lacking = view(cluster.node(node)).lacking;
    lacking.values().map(|(count, _)| count).sum()
}

/// Slots sent whole or caught up, digests that differed, connections lost: of a pair at which nothing is wrong.
fn disturbances(cluster: &mut Cluster) -> (u64, u64, u64, u64) {
    let sent = exported(cluster, 0);
    let lost = reconnects(cluster, 0);
    (
        sent.generations.whole,
        sent.generations.caught_up,
        sent.digest_mismatch,
        lost,
    )
}

fn equal(cluster: &mut Cluster) -> [bool; 2] {
    [0, 1].map(|node| {
        let view = cluster.node(node).board.view(0, MAIN, Setup::default().slots);
        view.vrf.is_some_and(|vrf| vrf.equal)
    })
}

/// The active node is told first: the flows of the new pool alone are refused, named and remembered, those of the other one
/// go on being mirrored; when the standby is told, too, what it lacks is asked for, entry by entry.
#[test]
fn a_pool_that_one_node_lacks_costs_its_own_flows_and_they_come_when_it_has_it() {
    let mut cluster = Cluster::pair(Setup::default(), 301);
    let old = open_flows(&mut cluster, 0, 80, 10_000);
    cluster.settle();
    let before = disturbances(&mut cluster);
    cluster.node(0).publish(add);
    cluster.run(S / 2);
    assert_eq!(equal(&mut cluster), [false; 2]);
    assert!(!cluster.node(1).is_ready());
    let (more, common) = parted(open_flows(&mut cluster, 0, 80, 20_000));
    assert!(
        more.len() >= 10 && common.len() >= 40,
        "{} and {}",
        more.len(),
        common.len()
    );
    cluster.run(S / 2);
    // Within a second: which address it is, and that it is counted.
    let told = cluster.node(1).notices.try_iter().any(|notice| {
        matches!(notice, dataplane::notice::Notice::NoPool { vrf: MAIN, address }
            if MORE.iter().any(|&ip| address == ip.into()))
    });
    assert!(told, "nobody was told which address lacks a pool");
    let refused = cluster.node(1).counters().absorb_no_pool;
    assert!(refused >= more.len() as u64);
    let there = view(cluster.node(1)).conntracks.len();
    assert_eq!(
        there,
        old.len() + common.len(),
        "the common pool's flows are mirrored"
    );
    assert!(
        lacking(&mut cluster, 1) as usize > more.len(),
        "flows and their blocks"
    );

    // Long enough for pauses to have grown.
    cluster.run(20 * S);
    cluster.node(1).publish(add);
    cluster.run(S / 2);
    assert_eq!(equal(&mut cluster), [true; 2]);
    assert_eq!(lacking(&mut cluster, 1), 0, "asked for at once");
    cluster.settle();
    assert!(cluster.node(1).is_ready());
    assert_eq!(
        disturbances(&mut cluster),
        before,
        "whole, caught up, differing, lost"
    );
    let mended = cluster.node(1).counters().absent_mended;
    assert!(mended >= more.len() as u64);

    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(2 * S);
    for flows in [&old, &more, &common] {
        assert_alive(&mut cluster, 1, flows);
    }
}

/// Whichever node is told first, only that pool's flows end, on both nodes, and everything else goes on.
#[test]
fn a_pool_that_is_taken_away_takes_its_flows_with_it_and_no_others() {
    for first in [0, 1] {
        let mut cluster = Cluster::pair(Setup::default(), 302 + first as u64);
        (0..2).for_each(|node| cluster.node(node).publish(add));
        cluster.settle();
        let (more, common) = parted(open_flows(&mut cluster, 0, 160, 10_000));
        cluster.settle();
        assert_eq!(view(cluster.node(1)).conntracks.len(), 160);
        let before = disturbances(&mut cluster);
        cluster.node(first).publish(take_away);
        cluster.run(S);
        if first == 1 {
            let there = view(cluster.node(1)).conntracks.len();
            assert_eq!(there, 160, "a standby goes by its active node's word");
            let late = open_flows(&mut cluster, 0, 80, 20_000);
            cluster.run(S);
            let (late_more, late_common) = parted(late);
            assert!(!late_more.is_empty() && !late_common.is_empty());
            assert!(view(cluster.node(1)).conntracks.len() >= 160 + late_common.len());
            remove(&mut cluster, 0, &late_more);
            remove(&mut cluster, 0, &late_common);
            cluster.run(S);
        }
        cluster.node(1 - first).publish(take_away);
        cluster.run(S);
        assert_eq!(cluster.node(0).counters().retired_ended, more.len() as u64);
        assert_eq!(cluster.node(1).counters().retired_ended, 0);
        cluster.settle();
        assert!(cluster.node(1).is_ready());
        for node in 0..2 {
            let seen = view(cluster.node(node));
            assert_eq!(seen.conntracks.len(), common.len(), "node {node}");
            let left = |b: &String| MORE.iter().any(|ip| ip.to_string() == *b);
            assert!(!seen.blocks.values().any(|b| left(&b.1)), "blocks of node {node}");
        }
        assert_eq!(
            disturbances(&mut cluster),
            before,
            "whole, caught up, differing, lost"
        );
        assert_alive(&mut cluster, 0, &common);
        // A subscriber whose pool has gone gets a port of the other one.
        let (inside, _) = more[0];
        let again = cluster.out(0, &inside).unwrap();
        assert!((0..4).any(|n| again.src == public(n)), "{again:?}");
        cluster.settle();
    }
}

/// Told first and then active: what it was mirrored of the pool that it has no more ends then.
#[test]
fn a_standby_without_the_pool_that_takes_over_ends_its_flows() {
    let mut cluster = Cluster::pair(Setup::default(), 304);
    (0..2).for_each(|node| cluster.node(node).publish(add));
    cluster.settle();
    let (more, common) = parted(open_flows(&mut cluster, 0, 160, 10_000));
    cluster.settle();
    cluster.node(1).publish(take_away);
    cluster.run(S);
    assert_eq!(cluster.node(1).counters().retired_ended, 0);
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(2 * S);
    assert_eq!(cluster.node(1).counters().retired_ended, more.len() as u64);
    assert_eq!(view(cluster.node(1)).conntracks.len(), common.len());
    assert_alive(&mut cluster, 1, &common);
}

/// Addresses of a pool: those that join are used, those that leave take their flows with them.
#[test]
fn a_pool_grows_and_shrinks_under_its_flows() {
    let few = Setup {
        pool_addresses: 1,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(few, 305);
    let first = open_flows(&mut cluster, 0, 80, 10_000);
    cluster.settle();
    let before = disturbances(&mut cluster);
    let addresses = |of: &'static [u8]| {
        move |intent: &mut Intent, _: &mut Forwarding| {
            let ips = of.iter().map(|&last| Ipv4Addr::new(198, 51, 100, last));
            intent.vrfs[0].pools[0].addresses = ips.collect();
        }
    };
    for node in [1, 0] {
        cluster.node(node).publish(addresses(&[1, 2, 9]));
    }
    cluster.settle();
    // Subscribers with blocks stay on their address; everybody else may have any.
    let ended: Vec<_> = first[..40].to_vec();
    assert_alive(&mut cluster, 0, &ended);
    for node in [0, 1] {
        cluster.node(node).publish(addresses(&[2, 9]));
    }
    cluster.run(S);
    cluster.settle();
    assert_eq!(cluster.node(0).counters().retired_ended, 80);
    assert_eq!(view(cluster.node(1)).conntracks.len(), 0);
    let second = open_flows(&mut cluster, 0, 80, 10_000);
    let on = |n: u8| {
        second
            .iter()
            .filter(|(_, outside)| outside.src == public(n))
            .count()
    };
    assert!(on(0) == 0 && on(1) > 0 && on(8) > 0 && on(1) + on(8) == 80);
    cluster.settle();
    assert_alive(&mut cluster, 0, &second);
    assert_eq!(
        disturbances(&mut cluster),
        before,
        "whole, caught up, differing, lost"
    );
}
