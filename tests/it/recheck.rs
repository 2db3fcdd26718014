//! What a change of the firewall's rules does to the flows that there are.

use core::time::Duration;

use dataplane::config::{Action, Filtering, OnChange, RuleIntent};
use dataplane::verdict::Drop;
use state_sync::role::Desire;
use testkit::cluster::Cluster;
use testkit::config::{LAN_IF, MAIN, Setup, WAN_IF, accept, server, subscriber};
use testkit::packet;

use crate::protection::{flow, knows, tcp};

/// UDP by rule 5, everything else by rule 10.
fn rules() -> Vec<RuleIntent> {
    let mut udp = accept(5, Some(LAN_IF), Some(WAN_IF));
    udp.protocol = Some(17);
    vec![udp, accept(10, Some(LAN_IF), Some(WAN_IF))]
}

fn pair(on_change: OnChange) -> Cluster {
    Cluster::pair(
        Setup {
            rules: rules(),
            on_change,
            ..Setup::default()
        },
        7,
    )
}

/// UDP is not let out any more.
fn forbid(cluster: &mut Cluster, node: usize) {
    cluster.node(node).publish(|intent, _| {
        intent.vrfs[0].firewall.rules[0].action = Action::Drop;
    });
}

fn settle(cluster: &mut Cluster) {
    cluster.run(Duration::from_millis(50));
    cluster.settle();
}

/// Judged again: kept, ended, without a route.
fn judged(cluster: &mut Cluster, node: usize) -> (u64, u64, u64) {
    let counters = cluster.node(node).counters();
    (
        counters.rechecked_kept,
        counters.rechecked_ended,
        counters.rechecked_unrouted,
    )
}

#[test]
fn flows_outlive_their_rule_where_the_vrf_keeps_them() {
    let mut cluster = pair(OnChange::Keep);
    cluster.out(0, &flow(5_000)).unwrap();
    forbid(&mut cluster, 0);
    settle(&mut cluster);
    assert!(cluster.out(0, &flow(5_000)).is_some());
    assert_eq!(cluster.out(0, &flow(5_001)), None);
    assert_eq!(judged(&mut cluster, 0), (0, 0, 0));
}

#[test]
fn what_new_rules_do_not_let_in_ends_on_both_nodes_and_the_rest_goes_on() {
    let mut cluster = pair(OnChange::Recheck);
    cluster.out(0, &flow(5_000)).unwrap();
    let outside = cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    assert!(knows(&mut cluster, 1, &flow(5_000)));
    forbid(&mut cluster, 0);
    forbid(&mut cluster, 1);
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (1, 1, 0));
    assert_eq!(judged(&mut cluster, 1), (0, 0, 0));
    for node in 0..2 {
        assert!(!knows(&mut cluster, node, &flow(5_000)), "node {node}");
        assert!(knows(&mut cluster, node, &tcp(5_001)), "node {node}");
    }
    assert!(cluster.back(0, &outside).is_some());
    assert_eq!(cluster.out(0, &flow(5_000)), None);
    assert_eq!(cluster.node(0).counters().dropped(Drop::RuleDrop), 1);
}

#[test]
fn a_flow_goes_on_under_the_rule_that_lets_it_in_now_and_rules_keep_their_hits() {
    let mut cluster = pair(OnChange::Recheck);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.node(0).publish(|intent, _| {
        let rules = &mut intent.vrfs[0].firewall.rules;
        rules.remove(0);
        rules.insert(0, accept(7, None, None));
        rules[0].protocol = Some(1);
    });
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (2, 0, 0));
    let rules: Vec<u32> = cluster
        .node(0)
        .tables()
        .flat_map(|t| t.conntracks.iter_live().map(|(_, c)| c.rule))
        .collect();
    assert_eq!(rules, [10, 10]);
    cluster.out(0, &flow(5_002)).unwrap();
    let mut hits = [(Some(7), 0), (Some(10), 0), (None, 0)];
    for tables in cluster.node(0).tables() {
        for (sum, count) in hits.iter_mut().zip(tables.rule_hits(MAIN)) {
            assert_eq!(sum.0, count.id);
            sum.1 += count.hits;
        }
    }
    assert_eq!(
        hits,
        [(Some(7), 0), (Some(10), 2), (None, 0)],
        "that of 7 is not that of 5"
    );
}

#[test]
fn a_node_that_stands_by_ends_nothing_and_does_when_it_is_active() {
    let mut cluster = pair(OnChange::Recheck);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.out(0, &tcp(5_001)).unwrap();
    cluster.settle();
    forbid(&mut cluster, 1);
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 1), (0, 0, 0));
    assert!(knows(&mut cluster, 1, &flow(5_000)));
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_secs(2));
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    // Where the flows came in isn't known here: the interface towards their source stands in.
    assert_eq!(judged(&mut cluster, 1), (1, 1, 0));
    assert!(!knows(&mut cluster, 0, &flow(5_000)));
    assert!(cluster.out(1, &tcp(5_001)).is_some());
}

#[test]
fn what_is_judged_once_is_not_judged_by_the_next_routes() {
    let mut cluster = pair(OnChange::Recheck);
    cluster.out(0, &tcp(5_001)).unwrap();
    forbid(&mut cluster, 0);
    settle(&mut cluster);
    cluster.node(0).publish(|_, forwarding| {
        forwarding.neighbors.pop();
    });
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (1, 0, 0));
}

#[test]
fn a_flow_that_has_no_route_waits_for_one() {
    let mut cluster = pair(OnChange::Recheck);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    cluster.node(0).publish(|intent, forwarding| {
        intent.vrfs[0].firewall.rules[0].action = Action::Drop;
        for route in &mut forwarding.routes {
            if route.via[0].interface == WAN_IF {
                route.via.clear();
            }
        }
    });
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (0, 0, 1));
    assert!(knows(&mut cluster, 0, &flow(5_000)));
    let routes = Setup::default().forwarding().routes;
    cluster
        .node(0)
        .publish(|_, forwarding| forwarding.routes = routes);
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (0, 1, 1));
    assert!(!knows(&mut cluster, 1, &flow(5_000)));
}

#[test]
fn a_flow_from_outside_is_judged_as_the_inside_knows_it() {
    let mut inward = accept(20, Some(WAN_IF), Some(LAN_IF));
    inward.destination = vec!["100.64.0.0/10".parse().unwrap()];
    let mut rules = rules();
    rules.push(inward);
    let mut cluster = Cluster::pair(
        Setup {
            rules,
            on_change: OnChange::Recheck,
            filtering: Filtering::EndpointIndependent,
            ..Setup::default()
        },
        7,
    );
    let outside = cluster.out(0, &flow(5_000)).unwrap();
    let from = packet::udp(server(2), 7_000, outside.src, outside.src_port);
    let guest = dataplane::flow::FlowKey {
        vrf: outside.vrf,
        ..from
    };
    assert!(cluster.back(0, &guest.reversed()).is_some());
    cluster.settle();
    let nobody = |subscriber: u16| format!("100.64.9.{subscriber}/32").parse().unwrap();
    // Still let in: what is judged is not the public address.
    cluster.node(0).publish(|intent, _| {
        intent.vrfs[0].firewall.rules[0].log = true;
    });
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (2, 0, 0));
    cluster.node(0).publish(|intent, _| {
        intent.vrfs[0].firewall.rules[2].destination = vec![nobody(9)];
    });
    settle(&mut cluster);
    assert_eq!(judged(&mut cluster, 0), (3, 1, 0));
    assert!(cluster.back(0, &outside).is_some());
    assert!(!knows(&mut cluster, 0, &guest));
}

#[test]
fn many_flows_are_judged_a_slice_per_turn() {
    let mut cluster = Cluster::pair(
        Setup {
            workers: 1,
            rules: rules(),
            on_change: OnChange::Recheck,
            ..Setup::default()
        },
        7,
    );
    for n in 0..400_u16 {
        let key = packet::tcp(subscriber(1), 5_000 + n, server(1), 80);
        cluster.out(0, &key).unwrap();
    }
    cluster.settle();
    forbid(&mut cluster, 0);
    let mut before = 0;
    let mut turns = 0;
    while before < 400 {
        // Thread 0 are the roles.
        cluster.turn_thread(0, 1);
        let (kept, ended, _) = judged(&mut cluster, 0);
        assert_eq!(ended, 0);
        assert!(kept - before <= 32, "{} in one turn", kept - before);
        (before, turns) = (kept, turns + 1);
        assert!(turns < 1_000, "{kept} judged");
    }
    cluster.settle();
}
