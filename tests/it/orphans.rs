//! Entries that nobody ages: a standby without an owner keeps them for the longest timeout, and ends them then
//! (DESIGN.md section 7; dataplane's `stage/expire.rs`).

use core::time::Duration;

use dataplane::config::Timeouts;
use dataplane::flow::FlowKey;
use state_sync::role::Desire;
use testkit::checker::{blocks, view};
use testkit::cluster::{Cluster, Death};
use testkit::config::Setup;

use crate::replication::open_flows;
use crate::resync::exported;

const S: Duration = Duration::from_secs(1);
const FLOWS: u16 = 60;

/// A pair whose flows live for 30 s; no lifetime is longer than 120 s.
fn pair(seed: u64) -> (Cluster, Vec<(FlowKey, FlowKey)>) {
    let setup = Setup {
        timeouts: Timeouts {
            tcp_opening_s: 60,
            tcp_established_s: 120,
            tcp_closing_s: 60,
            tcp_reset_s: 60,
            udp_opening_s: 30,
            udp_established_s: 30,
            icmp_s: 30,
            other_s: 30,
        },
        port_rest_s: 10,
        block_idle_s: 10,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, seed);
    let flows = open_flows(&mut cluster, 0, FLOWS, 10_000);
    cluster.settle();
    (cluster, flows)
}

fn held(cluster: &mut Cluster, node: usize) -> usize {
    view(cluster.node(node)).conntracks.len()
}

fn orphaned(cluster: &mut Cluster, node: usize) -> u64 {
    cluster.node(node).counters().conntracks_orphaned
}

/// Time passes in which the first node's flows go on.
fn go_on(cluster: &mut Cluster, flows: &[(FlowKey, FlowKey)], seconds: u32) {
    for _ in 0..seconds / 20 {
        cluster.idle(20 * S);
        for (key, outside) in flows {
            assert_eq!(cluster.out(0, key), Some(*outside));
            assert_eq!(cluster.back(0, outside), Some(key.reversed()));
        }
    }
}

#[test]
fn a_standby_without_an_owner_keeps_everything_for_the_longest_timeout_and_no_longer() {
    let (mut cluster, _) = pair(91);
    cluster.kill(0, Death::Power);
    cluster.idle(110 * S);
    assert_eq!(held(&mut cluster, 1), usize::from(FLOWS));
    assert_eq!(orphaned(&mut cluster, 1), 0);
    cluster.idle(60 * S);
    assert_eq!(held(&mut cluster, 1), 0);
    assert_eq!(orphaned(&mut cluster, 1), u64::from(FLOWS));
    cluster.idle(40 * S);
    assert_eq!(blocks(cluster.node(1)).len(), 0);
    // The dead one is back: both are as empty as they say.
    cluster.start(0);
    cluster.settle();
}

#[test]
fn an_owner_that_is_seen_for_a_moment_starts_the_time_anew() {
    let (mut cluster, flows) = pair(92);
    for _ in 0..3 {
        cluster.fabric.cut(true);
        go_on(&mut cluster, &flows, 100);
        cluster.fabric.cut(false);
        cluster.run(5 * S);
    }
    cluster.settle();
    assert_eq!(orphaned(&mut cluster, 1), 0);
    assert_eq!(held(&mut cluster, 1), usize::from(FLOWS));
}

#[test]
fn orphans_that_were_ended_come_back_with_their_owner() {
    let (mut cluster, flows) = pair(93);
    cluster.fabric.cut(true);
    go_on(&mut cluster, &flows, 200);
    assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (60, 0));
    assert_eq!(orphaned(&mut cluster, 1), u64::from(FLOWS));
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(held(&mut cluster, 1), usize::from(FLOWS));
    assert_eq!(exported(&mut cluster, 0).digest_mismatch, 0);
    let ended = orphaned(&mut cluster, 1);
    go_on(&mut cluster, &flows, 200);
    assert_eq!(orphaned(&mut cluster, 1), ended, "the owner is there");
    cluster.settle();
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(1_200 * Duration::from_millis(1));
    for (key, outside) in &flows {
        assert_eq!(cluster.back(1, outside), Some(key.reversed()));
    }
}

/// Of two standbys the one whose term is the highest is asked by nobody and heard by the other one.
#[test]
fn two_standbys_end_their_orphans_together() {
    let (mut cluster, _) = pair(94);
    cluster.order(0, Desire::Backup);
    cluster.run(S);
    assert_eq!(cluster.active(), None);
    cluster.idle(110 * S);
    assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (60, 60));
    cluster.idle(60 * S);
    assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (0, 0));
    assert_eq!(orphaned(&mut cluster, 0), u64::from(FLOWS));
    assert_eq!(orphaned(&mut cluster, 1), 0, "it was told");
    cluster.idle(40 * S);
    assert!(cluster.compare().is_empty());
    let sent = exported(&mut cluster, 0);
    assert_eq!(
        (sent.digest_mismatch, sent.generations.failed),
        (0, 0),
        "{sent:?}"
    );
}
