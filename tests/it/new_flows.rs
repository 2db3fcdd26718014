//! How many new flows a rule lets in, of all sources and of one.

use core::num::NonZeroU32;
use core::time::Duration;

use dataplane::flow::FlowKey;
use dataplane::verdict::Drop;
use testkit::cluster::Cluster;
use testkit::config::{LAN_IF, MAIN, Setup, WAN_IF, accept, server, subscriber};
use testkit::packet;

/// UDP by rule 5 with these limits, everything else by rule 10 without.
fn pair(per_s: u32, per_source_per_s: u32) -> Cluster {
    let mut udp = accept(5, Some(LAN_IF), Some(WAN_IF));
    udp.protocol = Some(17);
    udp.limit.per_s = NonZeroU32::new(per_s);
    udp.limit.per_source_per_s = NonZeroU32::new(per_source_per_s);
    let rules = vec![udp, accept(10, Some(LAN_IF), Some(WAN_IF))];
    Cluster::pair(
        Setup {
            rules,
            ..Setup::default()
        },
        7,
    )
}

fn udp(host: u8, port: u16) -> FlowKey {
    packet::udp(subscriber(host), port, server(1), 53)
}

/// New flows of a host that come through.
fn opened(cluster: &mut Cluster, host: u8, ports: core::ops::Range<u16>) -> usize {
    ports
        .filter(|&port| cluster.out(0, &udp(host, port)).is_some())
        .count()
}

fn dropped(cluster: &mut Cluster, reason: Drop) -> u64 {
    cluster.node(0).counters().dropped(reason)
}

/// What rule 5 has decided, and what of it a limit has taken back.
fn counted(cluster: &mut Cluster) -> (u64, u64) {
    let tables = cluster.node(0).tables();
    let counts = tables.map(|tables| tables.rule_hits(MAIN)[0]);
    counts.fold((0, 0), |sum, count| (sum.0 + count.hits, sum.1 + count.limited))
}

#[test]
fn a_rule_lets_in_no_more_than_its_limit_and_flows_that_are_there_go_on() {
    let mut cluster = pair(20, 0);
    let opened_by: Vec<usize> = (1..=4)
        .map(|host| opened(&mut cluster, host, 5_000..5_010))
        .collect();
    assert_eq!(opened_by.iter().sum::<usize>(), 20, "{opened_by:?}");
    assert_eq!(dropped(&mut cluster, Drop::RuleLimit), 20);
    assert_eq!(counted(&mut cluster), (40, 20));
    assert_eq!(opened(&mut cluster, 1, 5_000..5_010), 10, "no new flow");
    let tcp = packet::tcp(subscriber(1), 6_000, server(1), 80);
    assert!(cluster.out(0, &tcp).is_some(), "another rule");
    cluster.run(Duration::from_secs(1));
    assert_eq!(opened(&mut cluster, 2, 7_000..7_030), 20, "after a second");
}

#[test]
fn a_source_takes_nothing_from_the_others() {
    let mut cluster = pair(0, 5);
    assert_eq!(opened(&mut cluster, 1, 5_000..5_050), 5);
    for host in 2..10 {
        assert_eq!(opened(&mut cluster, host, 5_000..5_005), 5, "host {host}");
    }
    assert_eq!(dropped(&mut cluster, Drop::SourceLimit), 45);
    assert_eq!(counted(&mut cluster), (90, 45));
}

#[test]
fn what_a_source_is_refused_counts_for_no_rule() {
    let mut cluster = pair(10, 5);
    assert_eq!(opened(&mut cluster, 1, 5_000..5_050), 5);
    assert_eq!(opened(&mut cluster, 2, 5_000..5_050), 5);
    assert_eq!(opened(&mut cluster, 3, 5_000..5_001), 0);
    assert_eq!(dropped(&mut cluster, Drop::SourceLimit), 90);
    assert_eq!(dropped(&mut cluster, Drop::RuleLimit), 1);
}

#[test]
fn another_configuration_gives_nobody_the_limit_anew() {
    let mut cluster = pair(10, 0);
    assert_eq!(opened(&mut cluster, 1, 5_000..5_010), 10);
    cluster.node(0).publish(|intent, _| {
        intent.vrfs[0].firewall.rules[1].log = true;
    });
    assert_eq!(opened(&mut cluster, 1, 6_000..6_010), 0);
    cluster.node(0).publish(|intent, _| {
        intent.vrfs[0].firewall.rules[0].limit.per_s = None;
    });
    assert_eq!(opened(&mut cluster, 1, 7_000..7_010), 10);
}
