//! The copy is equal, whatever happened on the way (DESIGN.md section 8).

use core::time::Duration;

use dataplane::flow::FlowKey;
use dataplane::role::Role;
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

/// Opens UDP flows of several subscribers, one port each from `first_port` on, and answers each.
pub(crate) fn open_flows(
    cluster: &mut Cluster,
    node: usize,
    count: u16,
    first_port: u16,
) -> Vec<(FlowKey, FlowKey)> {
    (0..count)
        .map(|n| {
            let host = u8::try_from(n % 40 + 1).unwrap();
            let key = packet::udp(subscriber(host), first_port + n, server(host), 53);
            let outside = cluster
                .out(node, &key)
                .unwrap_or_else(|| panic!("{key:?} did not get out"));
            assert_eq!(cluster.back(node, &outside), Some(key.reversed()));
            if n % 16 == 0 {
                cluster.turn(Duration::from_micros(100));
            }
            (key, outside)
        })
        .collect()
}

#[test]
fn a_pair_forms_and_the_preferred_node_becomes_master() {
    let mut cluster = Cluster::pair(Setup::default(), 1);
    assert_eq!(cluster.node(0).role(MAIN).0, Role::Master);
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Backup);
}

#[test]
fn flows_opened_on_the_active_node_are_on_the_standby_entry_by_entry() {
    let mut cluster = Cluster::pair(Setup::default(), 2);
    cluster.watch.every_entry = true;
    open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    assert_eq!(view(cluster.node(1)).conntracks.len(), 200);
}

#[test]
fn flows_survive_the_death_of_the_active_node() {
    let mut cluster = Cluster::pair(Setup::default(), 3);
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_millis(50));
    assert_eq!(cluster.active(), Some(1));
    for (inside, outside) in flows {
        assert_eq!(cluster.out(1, &inside), Some(outside));
        assert_eq!(cluster.back(1, &outside), Some(inside.reversed()));
    }
}
