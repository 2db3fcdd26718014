//! Entries are called by handles (sync/PROTOCOL.md R-26): who has not heard the name is told the entry.

use core::time::Duration;

use dataplane::names::Names;
use state_sync::report::ClientVrfReport;
use testkit::cluster::Cluster;
use testkit::config::{Setup, server, subscriber};
use testkit::packet;

use crate::replication::{open_flows, remove};

const MS: Duration = Duration::from_millis(1);

/// Sum over the lanes of node 0.
fn sum(cluster: &mut Cluster, of: fn(&ClientVrfReport) -> u64) -> u64 {
    let reports = cluster.node(0).reports();
    let lanes = reports.iter().flat_map(|r| &r.clients);
    lanes.flat_map(|c| &c.vrfs).map(of).sum()
}

/// Unanswered flows, so that their class has yet to change.
fn open_unanswered(cluster: &mut Cluster, count: u16) -> Vec<dataplane::flow::FlowKey> {
    (0..count)
        .map(|n| {
            let host = u8::try_from(n % 40 + 1).unwrap();
            let key = packet::udp(subscriber(host), 20_000 + n, server(host), 53);
            cluster.out(0, &key).unwrap()
        })
        .collect()
}

#[test]
fn r26_entries_of_slots_found_equal_are_told_again_before_they_are_called_by_name() {
    let mut cluster = Cluster::pair(Setup::default(), 41);
    let flows = open_flows(&mut cluster, 0, 60, 10_000);
    let waiting = open_unanswered(&mut cluster, 60);
    cluster.settle();
    cluster.fabric.cut(true);
    cluster.run(3_000 * MS);
    cluster.fabric.cut(false);
    cluster.settle();
    assert!(sum(&mut cluster, |v| v.generations.equal) > 0);
    let before = cluster.node(1).counters();
    let whole = sum(&mut cluster, |v| v.generations.whole);
    for outside in &waiting {
        assert!(cluster.back(0, outside).is_some());
    }
    remove(&mut cluster, 0, &flows);
    cluster.settle();
    let after = cluster.node(1).counters();
    assert_eq!(after.absorb_unknown, before.absorb_unknown);
    assert!(after.absorb_applied >= before.absorb_applied + 120);
    assert_eq!(
        sum(&mut cluster, |v| v.generations.whole),
        whole,
        "nothing had to be repaired"
    );
}

#[test]
fn r26_a_name_that_means_nothing_to_the_receiver_has_the_slot_sent_again() {
    let mut cluster = Cluster::pair(Setup::default(), 42);
    let waiting = open_unanswered(&mut cluster, 60);
    cluster.settle();
    for worker in 0..cluster.node(1).workers() {
        let tables = cluster.node(1).tables_mut(worker);
        tables.names = Names::new(tables.conntracks.capacity());
    }
    let whole = sum(&mut cluster, |v| v.generations.whole);
    for outside in &waiting {
        assert!(cluster.back(0, outside).is_some());
    }
    cluster.settle();
    assert!(cluster.node(1).counters().absorb_unknown > 0);
    assert!(sum(&mut cluster, |v| v.generations.whole) > whole);
}
