//! Which flows the peer is told of, by rule, and what is shown of those it isn't.

use core::time::Duration;

use dataplane::config::{Action, Care, Filtering, RuleIntent, SyncPolicy};
use dataplane::flow::FlowKey;
use dataplane::protection::{Kept, Protection};
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN_IF, MAIN, Setup, WAN_IF, accept, server, subscriber};
use testkit::packet;

/// UDP by a rule of its own, everything else by the one that says nothing.
pub(crate) fn udp_rule(sync: SyncPolicy) -> Vec<RuleIntent> {
    let mut rule = accept(5, Some(LAN_IF), Some(WAN_IF));
    rule.protocol = Some(17);
    rule.care.sync = Some(sync);
    vec![rule, accept(10, Some(LAN_IF), Some(WAN_IF))]
}

pub(crate) fn pair(sync: SyncPolicy) -> Cluster {
    Cluster::pair(
        Setup {
            rules: udp_rule(sync),
            ..Setup::default()
        },
        7,
    )
}

pub(crate) fn flow(port: u16) -> FlowKey {
    packet::udp(subscriber(1), port, server(1), 53)
}

pub(crate) fn tcp(port: u16) -> FlowKey {
    packet::tcp(subscriber(1), port, server(1), 80)
}

pub(crate) fn protection(cluster: &mut Cluster, node: usize) -> Protection {
    let mut sum = Protection::default();
    for tables in cluster.node(node).tables() {
        sum.add(&tables.protection(MAIN));
    }
    sum
}

pub(crate) fn knows(cluster: &mut Cluster, node: usize, key: &FlowKey) -> bool {
    cluster.node(node).tables().any(|tables| {
        let hash = tables.conntracks.hash(key);
        tables.conntracks.find(hash, key).is_some()
    })
}

fn set_policy(cluster: &mut Cluster, sync: Option<SyncPolicy>) {
    for node in 0..2 {
        cluster.node(node).publish(|intent, _| {
            intent.vrfs[0].firewall.rules[0].care.sync = sync;
        });
    }
}

#[test]
fn a_flow_whose_rule_says_never_is_unknown_to_the_peer_and_its_block_is_known() {
    let mut cluster = pair(SyncPolicy::Never);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    assert!(!knows(&mut cluster, 1, &flow(5_000)));
    assert!(knows(&mut cluster, 1, &tcp(5_001)));
    assert_eq!(view(cluster.node(1)).blocks.len(), 1);
    let shown = protection(&mut cluster, 0);
    assert_eq!((shown.conntracks, shown.no_sync, shown.protected()), (2, 1, 1));
    // A change of class and hours of refreshes say nothing either.
    let before = cluster.node(0).counters().deltas_emitted;
    let outside = cluster.out(0, &flow(5_000)).unwrap();
    cluster.back(0, &outside).unwrap();
    cluster.idle(Duration::from_secs(120));
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    assert!(!knows(&mut cluster, 1, &flow(5_000)));
    assert!(cluster.node(0).counters().deltas_suppressed >= 2);
    assert_eq!(cluster.node(0).counters().deltas_emitted, before);
}

#[test]
fn a_block_without_any_flow_that_is_told_travels() {
    let mut cluster = pair(SyncPolicy::Never);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    let (active, standby) = (view(cluster.node(0)), view(cluster.node(1)));
    assert_eq!(active.blocks.len(), 1);
    assert_eq!(active.blocks, standby.blocks);
}

#[test]
fn a_flow_is_told_when_it_is_as_old_as_its_rule_wants() {
    let mut cluster = pair(SyncPolicy::After(3));
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.run(Duration::from_millis(1_500));
    assert!(!knows(&mut cluster, 1, &flow(5_000)));
    let shown = protection(&mut cluster, 0);
    assert_eq!((shown.conntracks, shown.delay, shown.protected()), (1, 1, 0));
    cluster.run(Duration::from_secs(3));
    cluster.settle();
    assert!(knows(&mut cluster, 1, &flow(5_000)));
    let shown = protection(&mut cluster, 0);
    assert_eq!((shown.delay, shown.protected()), (0, 1));
    assert_eq!(cluster.node(0).counters().conntracks_told_late, 1);
}

#[test]
fn a_flow_that_ends_before_its_time_is_never_told() {
    let mut setup = Setup {
        rules: udp_rule(SyncPolicy::After(30)),
        ..Setup::default()
    };
    setup.timeouts.udp_opening_s = 5;
    let mut cluster = Cluster::pair(setup, 7);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    let before = cluster.node(0).counters().deltas_emitted;
    cluster.idle(Duration::from_secs(10));
    assert!(!knows(&mut cluster, 0, &flow(5_000)));
    assert_eq!(cluster.node(0).counters().deltas_emitted, before);
    cluster.settle();
    assert_eq!(protection(&mut cluster, 0), Protection::default());
}

#[test]
fn a_shortened_lifetime_does_not_put_the_telling_off() {
    let mut rules = udp_rule(SyncPolicy::After(20));
    rules[0].protocol = Some(6);
    let mut cluster = Cluster::pair(
        Setup {
            rules,
            ..Setup::default()
        },
        7,
    );
    let outside = cluster.out(0, &tcp(5_000)).unwrap();
    cluster.back(0, &outside);
    cluster.out(0, &tcp(5_000));
    cluster.idle(Duration::from_secs(30));
    cluster.settle();
    assert!(knows(&mut cluster, 1, &tcp(5_000)));
}

#[test]
fn a_new_policy_tells_and_withdraws_the_flows_there_are() {
    let mut cluster = pair(SyncPolicy::Never);
    for port in 5_000..5_040 {
        cluster.out(0, &flow(port)).unwrap();
    }
    cluster.settle();
    assert_eq!(protection(&mut cluster, 0).no_sync, 40);
    set_policy(&mut cluster, None);
    cluster.run(Duration::from_millis(100));
    cluster.settle();
    assert_eq!(protection(&mut cluster, 0).protected(), 40);
    assert!(knows(&mut cluster, 1, &flow(5_039)));
    set_policy(&mut cluster, Some(SyncPolicy::Never));
    cluster.run(Duration::from_millis(100));
    cluster.settle();
    assert_eq!(cluster.node(0).counters().conntracks_withdrawn, 40);
    assert!(!knows(&mut cluster, 1, &flow(5_039)));
    set_policy(&mut cluster, Some(SyncPolicy::After(1)));
    cluster.idle(Duration::from_secs(3));
    cluster.settle();
    assert!(knows(&mut cluster, 1, &flow(5_039)));
}

#[test]
fn a_firewall_rule_counts_before_a_nat_rule() {
    let mut setup = Setup {
        nat_care: Care {
            sync: Some(SyncPolicy::Never),
            output_commit: None,
        },
        ..Setup::default()
    };
    setup.rules = udp_rule(SyncPolicy::Always);
    let mut cluster = Cluster::pair(setup, 7);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    assert!(knows(&mut cluster, 1, &flow(5_000)));
    assert!(!knows(&mut cluster, 1, &tcp(5_001)));
}

#[test]
fn the_mappings_of_a_pool_that_anybody_may_send_to_travel_with_their_flows() {
    let mut cluster = Cluster::pair(
        Setup {
            rules: udp_rule(SyncPolicy::Never),
            filtering: Filtering::EndpointIndependent,
            ..Setup::default()
        },
        7,
    );
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    assert!(knows(&mut cluster, 1, &flow(5_000)));
}

#[test]
fn without_a_peer_every_flow_is_exposed_until_it_is_back() {
    let mut cluster = pair(SyncPolicy::Never);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.run(Duration::from_secs(2));
    let shown = protection(&mut cluster, 0);
    assert_eq!((shown.no_peer, shown.no_sync, shown.protected()), (1, 1, 0));
    cluster.start(1);
    cluster.settle();
    let shown = protection(&mut cluster, 0);
    assert_eq!((shown.no_peer, shown.no_sync, shown.protected()), (0, 1, 1));
}

#[test]
fn a_standby_forgets_what_it_kept_back_when_it_was_active() {
    let mut cluster = pair(SyncPolicy::Never);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_secs(2));
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    assert!(!knows(&mut cluster, 0, &flow(5_000)));
    assert!(knows(&mut cluster, 0, &tcp(5_001)));
    assert_eq!(protection(&mut cluster, 0).no_sync, 0);
}

#[test]
fn a_rule_that_drops_needs_no_policy() {
    let mut rules = udp_rule(SyncPolicy::After(1));
    rules[0].action = Action::Drop;
    let mut cluster = Cluster::pair(
        Setup {
            rules,
            ..Setup::default()
        },
        7,
    );
    assert_eq!(cluster.out(0, &flow(5_000)), None);
    assert_eq!(protection(&mut cluster, 0), Protection::default());
    let kept = |t: &dataplane::tables::Tables| {
        t.conntracks
            .iter_live()
            .filter(|(_, c)| c.sync.kept != Kept::No)
            .count()
    };
    assert_eq!(cluster.node(0).tables().map(kept).sum::<usize>(), 0);
}
