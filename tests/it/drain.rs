//! A planned demotion leaves nothing behind: when the role is given up, the peer has what policy and overload had kept
//! from it (dataplane's `drain.rs`). Nodes die at that very moment here, so that nothing told later helps.

use core::time::Duration;

use dataplane::config::SyncPolicy;
use dataplane::role::Role;
use state_sync::handover::{ANSWER_MAX, DRAIN_MAX, DrainEnd};
use state_sync::role::{Cause, Desire};
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup};

use crate::protection::{flow, knows, pair, protection, tcp, udp_rule};
use crate::replication::open_flows;

const MS: Duration = Duration::from_millis(1);

/// Runs until node 0 is no longer active; gives how long that took.
fn until_given_up(cluster: &mut Cluster, most: Duration) -> Duration {
    let begin = cluster.now;
    while cluster.node(0).is_active(MAIN) {
        cluster.turn(Duration::from_micros(200));
        assert!(cluster.now.since(begin) <= most, "still active");
    }
    cluster.now.since(begin)
}

/// Node 0 dies now, without a word, and node 1 takes over.
fn die_and_take_over(cluster: &mut Cluster) {
    cluster.kill(0, Death::Power);
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Master);
}

fn known(cluster: &mut Cluster, ports: impl Iterator<Item = u16>) -> usize {
    ports.filter(|&port| knows(cluster, 1, &flow(port))).count()
}

/// A pair whose UDP flows are told when they are a minute old, and 300 younger ones.
fn young_flows() -> Cluster {
    let mut cluster = pair(SyncPolicy::After(60));
    for port in 5_000..5_300 {
        cluster.out(0, &flow(port)).unwrap();
    }
    cluster.settle();
    assert_eq!(protection(&mut cluster, 0).delay, 300);
    assert_eq!(known(&mut cluster, 5_000..5_300), 0);
    cluster
}

#[test]
fn young_flows_are_at_the_peer_when_the_role_is_given_up() {
    let mut cluster = young_flows();
    cluster.order(0, Desire::Backup);
    cluster.turn(Duration::ZERO);
    assert_eq!(cluster.node(0).cause(MAIN), Some(Cause::Draining));
    // Those that are opened meanwhile don't wait either.
    cluster.turn(Duration::ZERO);
    cluster.out(0, &flow(6_000)).unwrap();
    let took = until_given_up(&mut cluster, DRAIN_MAX);
    assert!(took < DRAIN_MAX / 4, "{took:?}");
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Complete));
    assert_eq!(cluster.node(0).counters().conntracks_untold, 0);
    assert!(cluster.node(0).counters().conntracks_told_late >= 300);
    die_and_take_over(&mut cluster);
    assert_eq!(known(&mut cluster, 5_000..5_300), 300);
    assert!(knows(&mut cluster, 1, &flow(6_000)));
}

#[test]
fn a_crash_loses_young_flows() {
    let mut cluster = young_flows();
    die_and_take_over(&mut cluster);
    assert_eq!(known(&mut cluster, 5_000..5_300), 0, "the policy asked for that");
}

#[test]
fn a_crash_in_the_middle_of_a_drain_is_a_crash() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    cluster.order(0, Desire::Backup);
    cluster.run(100 * MS);
    assert!(cluster.node(0).is_active(MAIN));
    cluster.node(1).stop_absorb(false);
    die_and_take_over(&mut cluster);
    cluster.start(0);
    cluster.settle();
}

#[test]
fn what_is_never_told_is_not_told_on_the_way_out_either() {
    let mut cluster = pair(SyncPolicy::Never);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    cluster.order(0, Desire::Backup);
    until_given_up(&mut cluster, DRAIN_MAX);
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Complete));
    die_and_take_over(&mut cluster);
    assert!(!knows(&mut cluster, 1, &flow(5_000)));
    assert!(knows(&mut cluster, 1, &tcp(5_001)));
}

#[test]
fn what_overload_keeps_back_is_at_the_peer_too() {
    let mut cluster = Cluster::pair(
        Setup {
            ring_entries: 64,
            ..Setup::default()
        },
        73,
    );
    cluster.node(0).stop_events(true);
    let mut flows = open_flows(&mut cluster, 0, 1_200, 20_000);
    cluster.run(5 * MS);
    flows.extend(open_flows(&mut cluster, 0, 60, 30_000));
    assert!(protection(&mut cluster, 0).overload >= 30);
    cluster.order(0, Desire::Backup);
    cluster.run(5 * MS);
    assert!(cluster.node(0).is_active(MAIN), "nothing has left its rings");
    cluster.node(0).stop_events(false);
    until_given_up(&mut cluster, DRAIN_MAX);
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Complete));
    die_and_take_over(&mut cluster);
    for (inside, _) in flows {
        assert!(knows(&mut cluster, 1, &inside), "{inside:?}");
    }
}

/// It reads and answers, but its workers apply nothing: no acknowledgement ever comes.
#[test]
fn a_peer_that_never_acknowledges_is_waited_for_so_long_and_no_longer() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    cluster.order(0, Desire::Backup);
    let took = until_given_up(&mut cluster, DRAIN_MAX + 50 * MS);
    assert!(took >= DRAIN_MAX, "{took:?}");
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Late));
    // Its word still counts: what was on its way arrives when the peer comes to itself.
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(known(&mut cluster, 5_000..5_300), 300);
}

#[test]
fn a_peer_that_dies_in_the_middle_ends_the_waiting() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    cluster.order(0, Desire::Backup);
    cluster.run(100 * MS);
    assert!(cluster.node(0).is_active(MAIN));
    cluster.kill(1, Death::Process);
    let took = until_given_up(&mut cluster, DRAIN_MAX);
    assert!(took < DRAIN_MAX / 4, "{took:?}");
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Alone));
}

#[test]
fn where_no_peer_is_the_role_is_given_up_at_once_and_the_loss_is_counted() {
    let mut cluster = young_flows();
    cluster.kill(1, Death::Process);
    cluster.run(Duration::from_secs(2));
    cluster.order(0, Desire::Backup);
    let now = cluster.now;
    cluster.node(0).step_roles(now);
    assert!(!cluster.node(0).is_active(MAIN));
    cluster.turn(Duration::ZERO);
    assert_eq!(cluster.node(0).counters().conntracks_untold, 300);
}

/// `set ha-group … state master` on the standby, which is how roles are mostly handed over.
#[test]
fn a_peer_that_is_ordered_to_be_active_gets_young_flows_first() {
    let mut cluster = young_flows();
    cluster.order(1, Desire::Ordered);
    cluster.run(2 * MS);
    assert!(!cluster.node(1).is_active(MAIN), "it has asked");
    let begin = cluster.now;
    while !cluster.node(1).is_active(MAIN) {
        cluster.turn(Duration::from_micros(200));
        assert!(
            cluster.now.since(begin) < DRAIN_MAX / 4,
            "{:?}",
            cluster.node(1).cause(MAIN)
        );
    }
    cluster.kill(0, Death::Power);
    cluster.run(Duration::from_secs(2));
    assert_eq!(known(&mut cluster, 5_000..5_300), 300);
}

/// The cable is pulled, and nobody has noticed: whoever knows that the other node is dead doesn't wait for it.
#[test]
fn a_peer_that_is_dead_and_not_missed_yet_is_not_waited_for() {
    let mut cluster = young_flows();
    cluster.fabric.cut(true);
    cluster.order(1, Desire::Ordered);
    let begin = cluster.now;
    while !cluster.node(1).is_active(MAIN) {
        cluster.turn(Duration::from_micros(200));
        assert!(cluster.now.since(begin) < ANSWER_MAX + 5 * MS);
    }
}

/// It applies nothing, so it can't be told anything; its order is carried out all the same.
#[test]
fn a_peer_that_asks_and_is_not_answered_takes_over_in_time_and_the_loss_is_known() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    cluster.order(1, Desire::Ordered);
    let took = until_given_up(&mut cluster, DRAIN_MAX + 50 * MS);
    assert!(took >= DRAIN_MAX, "{took:?}");
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Outranked));
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
}

/// An election has moved the traffic when it is over: nothing is waited for, and what was kept back is lost and counted.
#[test]
fn a_higher_term_ends_a_reign_at_once_and_the_loss_is_counted() {
    let setup = Setup {
        elected: true,
        rules: udp_rule(SyncPolicy::After(60)),
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 7);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    cluster.order(1, Desire::Ordered);
    let took = until_given_up(&mut cluster, DRAIN_MAX);
    assert!(took < DRAIN_MAX / 4, "{took:?}");
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    assert_eq!(
        cluster.node(0).take_drain_end(MAIN),
        None,
        "there was no order to drain"
    );
    assert_eq!(cluster.node(0).counters().conntracks_untold, 1);
}

#[test]
fn an_order_that_is_taken_back_leaves_policy_as_it_was() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    cluster.order(0, Desire::Backup);
    cluster.run(100 * MS);
    cluster.order(0, Desire::Ordered);
    cluster.run(100 * MS);
    assert_eq!(cluster.node(0).take_drain_end(MAIN), Some(DrainEnd::Cancelled));
    assert!(cluster.node(0).is_active(MAIN));
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    cluster.out(0, &flow(6_000)).unwrap();
    cluster.settle();
    assert!(!knows(&mut cluster, 1, &flow(6_000)), "young flows wait again");
}
