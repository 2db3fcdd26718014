//! A resync costs what differs, and what differs is found (sync/PROTOCOL.md section 6).

use core::time::Duration;

use state_sync::report::ClientVrfReport;
use testkit::cluster::Cluster;
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

use crate::replication::open_flows;

/// What node `node` has counted for the VRF, over its lanes.
pub(crate) fn exported(cluster: &mut Cluster, node: usize) -> ClientVrfReport {
    let mut sum = ClientVrfReport::default();
    for report in cluster.node(node).reports() {
        for vrf in report.clients.iter().flat_map(|c| &c.vrfs) {
            sum.generations.add(&vrf.generations);
            sum.digests += vrf.digests;
            sum.digest_mismatch += vrf.digest_mismatch;
        }
    }
    sum
}

pub(crate) fn cut(cluster: &mut Cluster, time: Duration) {
    cluster.fabric.cut(true);
    cluster.run(time);
}

pub(crate) fn heal(cluster: &mut Cluster) {
    cluster.fabric.cut(false);
    cluster.settle();
}

/// The first live conntrack of a node: its worker and its place.
fn some_entry(cluster: &mut Cluster, node: usize) -> (usize, u32) {
    let tables = cluster.node(node).tables().enumerate();
    let mut live = tables.flat_map(|(worker, t)| t.conntracks.iter_live().map(move |(id, _)| (worker, id)));
    live.next().unwrap()
}

/// sync/PROTOCOL.md R-37.
#[test]
fn equal_slots_need_nothing_when_the_link_comes_back() {
    let mut cluster = Cluster::pair(Setup::default(), 11);
    open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    let slots = u64::from(Setup::default().slots);
    let before = exported(&mut cluster, 0);
    let walked = cluster.node(0).counters().walk_records;
    cut(&mut cluster, Duration::from_secs(2));
    heal(&mut cluster);
    let after = exported(&mut cluster, 0);
    assert_eq!(after.generations.equal, before.generations.equal + slots);
    assert_eq!(after.generations.whole, before.generations.whole);
    assert_eq!(cluster.node(0).counters().walk_records, walked);
    // The slots are open: what happens now is streamed.
    open_flows(&mut cluster, 0, 50, 20_000);
    cluster.settle();
    assert_eq!(
        exported(&mut cluster, 0).generations.failed,
        before.generations.failed
    );
}

#[test]
fn only_slots_that_changed_during_the_cut_are_sent() {
    let mut cluster = Cluster::pair(Setup::default(), 12);
    open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    let before = exported(&mut cluster, 0);
    cut(&mut cluster, Duration::from_secs(2));
    let key = packet::udp(subscriber(7), 30_000, server(1), 53);
    assert!(cluster.out(0, &key).is_some());
    heal(&mut cluster);
    let after = exported(&mut cluster, 0);
    let sent = |r: &ClientVrfReport| r.generations.whole + r.generations.caught_up;
    assert_eq!(sent(&after) - sent(&before), 1);
    let slots = u64::from(Setup::default().slots);
    assert_eq!(after.generations.equal - before.generations.equal, slots - 1);
}

/// sync/PROTOCOL.md R-38.
#[test]
fn digests_are_compared_under_load_without_a_false_alarm() {
    let mut cluster = Cluster::pair(Setup::default(), 13);
    for round in 0..60 {
        open_flows(&mut cluster, 0, 40, 10_000 + round * 40);
        cluster.run(Duration::from_millis(50));
    }
    cluster.settle();
    let sent = exported(&mut cluster, 0);
    let counters = cluster.node(1).counters();
    assert!(sent.digests > 100, "{sent:?}");
    assert!(counters.digests_equal > 100, "{counters:?}");
    assert_eq!((sent.digest_mismatch, counters.digest_mismatch), (0, 0));
}

#[test]
fn an_entry_lost_on_the_standby_is_found_by_the_next_digest_and_comes_back() {
    let mut cluster = Cluster::pair(Setup::default(), 14);
    open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    cluster.watch.damaged = true;
    let (worker, id) = some_entry(&mut cluster, 1);
    let now = cluster.now;
    cluster.node(1).tables_mut(worker).discard(now, id);
    assert!(!cluster.compare().is_empty());
    cluster.run(Duration::from_secs(2));
    cluster.settle();
    assert_eq!(exported(&mut cluster, 0).digest_mismatch, 1);
    assert_eq!(cluster.node(1).counters().digest_mismatch, 1);
}

#[test]
fn what_a_full_standby_refused_is_no_difference() {
    let small = Setup {
        conntracks: 64,
        ..Setup::default()
    };
    let mut cluster = Cluster::of([Setup::default(), small], 15);
    cluster.settle();
    assert_eq!(cluster.active(), Some(0));
    for n in 0..150_u8 {
        let key = packet::udp(subscriber(n % 40 + 1), 10_000 + u16::from(n), server(1), 53);
        assert!(cluster.out(0, &key).is_some());
    }
    cluster.run(Duration::from_secs(3));
    let refused = cluster.node(1).counters().absorb_full;
    assert!(refused > 0);
    let counters = cluster.node(1).counters();
    assert!(counters.digests_equal > 50, "{counters:?}");
    assert_eq!(counters.digest_mismatch, 0);
}

#[test]
fn a_demoted_node_offers_what_its_table_holds_and_not_what_it_once_said() {
    use state_sync::role::Desire;
    let mut cluster = Cluster::pair(Setup::default(), 16);
    open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    // The second node takes over while nothing gets through; the first goes on in ignorance for a while.
    cluster.fabric.cut(true);
    let key = packet::udp(subscriber(3), 31_000, server(1), 53);
    assert!(cluster.out(0, &key).is_some());
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_secs(5));
    let other = packet::udp(subscriber(9), 32_000, server(1), 53);
    assert!(cluster.out(1, &other).is_some());
    cluster.order(0, Desire::Backup);
    heal(&mut cluster);
    let sent = exported(&mut cluster, 1);
    assert!(
        sent.generations.equal > 0 && sent.generations.whole > 0,
        "{sent:?}"
    );
    assert_eq!(sent.digest_mismatch, 0);
}

#[test]
fn an_operator_of_the_standby_gets_the_slots_it_asks_for() {
    use crossbeam_channel::bounded;
    use state_sync::port::{PumpCommand, Resyncing};
    let mut cluster = Cluster::pair(Setup::default(), 17);
    open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    let before = exported(&mut cluster, 0);
    let events = cluster.node(1).reports().len();
    let (to, from) = bounded(events);
    for event in 0..events {
        let command = PumpCommand::Resync {
            vrf: Some(MAIN),
            slot: None,
            to: Some(to.clone()),
        };
        assert!(cluster.node(1).command(event, command));
    }
    cluster.run(Duration::from_millis(20));
    let begun: Vec<Resyncing> = from.try_iter().collect();
    let slots = u32::from(Setup::default().slots);
    assert_eq!(begun.iter().map(|b| b.asked).sum::<u32>(), slots);
    assert_eq!(begun.iter().map(|b| b.sent).sum::<u32>(), 0);
    cluster.settle();
    let after = exported(&mut cluster, 0);
    assert_eq!(
        after.generations.whole - before.generations.whole,
        u64::from(slots)
    );
    // It was no failure, and nobody waits longer for the next real one.
    assert_eq!(after.generations.failed, before.generations.failed);
}

#[test]
fn a_sender_can_tell_what_its_peer_held_at_each_slots_last_digest() {
    use crossbeam_channel::bounded;
    use state_sync::port::{Heard, PumpCommand};
    let mut cluster = Cluster::pair(Setup::default(), 18);
    open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    // Longer than a round of digests over all slots.
    cluster.run(Duration::from_secs(2));
    let events = cluster.node(0).reports().len();
    let (to, from) = bounded(events);
    for event in 0..events {
        let to = to.clone();
        assert!(
            cluster
                .node(0)
                .command(event, PumpCommand::Heard { vrf: MAIN, to })
        );
    }
    cluster.run(Duration::from_millis(5));
    let mut heard: Vec<Heard> = from.try_iter().flatten().collect();
    heard.sort_by_key(|h| h.slot);
    let held = testkit::checker::view(cluster.node(0)).slots;
    let held: Vec<_> = held
        .values()
        .map(|(version, digest, _)| (version.counter, *digest))
        .collect();
    let heard: Vec<_> = heard.iter().map(|h| (h.version.counter, h.digest)).collect();
    assert_eq!(heard, held);
}
