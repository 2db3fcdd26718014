//! A slot of the same history is caught up: its cost follows what has changed, not what there is (sync/PROTOCOL.md
//!

use core::time::Duration;

use dataplane::delta::SlotRef;
use dataplane::flow::FlowKey;
use dataplane::shard::slot_of_address;
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::Cluster;
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

use crate::replication::{open_flows, remove};
use crate::resync::{cut, exported, heal};

/// The first slot.
const AT: SlotRef = SlotRef { vrf: MAIN, slot: 0 };

/// Records that walks have sent, catch-ups included.
fn walked(cluster: &mut Cluster, node: usize) -> u64 {
    cluster.node(node).counters().walk_records
}

/// sync/PROTOCOL.md R-39.
#[test]
fn a_cut_costs_what_changed_during_it() {
    let mut cluster = Cluster::pair(Setup::default(), 31);
    let flows = open_flows(&mut cluster, 0, 1_600, 10_000);
    cluster.settle();
    let (before, sent) = (exported(&mut cluster, 0), walked(&mut cluster, 0));
    cut(&mut cluster, Duration::from_secs(1));
    // One in a hundred goes and as many come; two of those that go come back as they were.
    remove(&mut cluster, 0, &flows[100..116]);
    cluster.run(Duration::from_millis(20));
    for (inside, _) in &flows[100..102] {
        assert!(cluster.out(0, inside).is_some());
    }
    open_flows(&mut cluster, 0, 16, 30_000);
    cut(&mut cluster, Duration::from_secs(1));
    heal(&mut cluster);
    let (after, sent) = (exported(&mut cluster, 0), walked(&mut cluster, 0) - sent);
    assert_eq!(
        (after.generations.whole, after.generations.failed),
        (before.generations.whole, before.generations.failed)
    );
    assert!(
        after.generations.caught_up > before.generations.caught_up,
        "{after:?}"
    );
    // 16 gone, 18 come, and the blocks that those needed.
    assert!((34..=60).contains(&sent), "{sent} records");
    assert_eq!(cluster.node(1).counters().swept, 0);
}

#[test]
fn a_cut_in_which_more_changed_than_is_remembered_sends_slots_whole() {
    let setup = Setup {
        slots: 4,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 32);
    open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    let before = exported(&mut cluster, 0);
    cut(&mut cluster, Duration::from_secs(1));
    // Two workers remember 1,024 changes each; every flow is three.
    for round in 0..4 {
        let flows = open_flows(&mut cluster, 0, 400, 20_000 + round * 400);
        cluster.run(Duration::from_millis(50));
        remove(&mut cluster, 0, &flows);
        cluster.run(Duration::from_millis(50));
    }
    open_flows(&mut cluster, 0, 40, 30_000);
    heal(&mut cluster);
    let after = exported(&mut cluster, 0);
    assert_eq!(after.generations.whole, before.generations.whole + 4, "{after:?}");
    assert_eq!(after.generations.failed, before.generations.failed);
}

#[test]
fn flap_after_flap_is_caught_up_from_where_the_last_one_got() {
    let mut cluster = Cluster::pair(Setup::default(), 33);
    let flows = open_flows(&mut cluster, 0, 800, 10_000);
    cluster.settle();
    let (before, sent) = (exported(&mut cluster, 0), walked(&mut cluster, 0));
    for flap in 0_u16..20 {
        cut(&mut cluster, Duration::from_millis(1_200));
        let first = usize::from(flap) * 10;
        remove(&mut cluster, 0, &flows[first..first + 10]);
        open_flows(&mut cluster, 0, 10, 20_000 + flap * 10);
        cluster.fabric.cut(false);
        // Long enough to connect and to begin, not always to end.
        cluster.run(Duration::from_micros(100_000 + 700 * u64::from(flap)));
    }
    heal(&mut cluster);
    let (after, sent) = (exported(&mut cluster, 0), walked(&mut cluster, 0) - sent);
    assert_eq!(after.generations.whole, before.generations.whole, "{after:?}");
    // Each change may be told again by each of the next flaps, but not the table by all of them.
    assert!(sent < 20 * 10 * 3 * 2, "{sent} records");
}

#[test]
fn after_a_planned_switchover_the_former_active_is_caught_up() {
    let mut cluster = Cluster::pair(Setup::default(), 34);
    let flows = open_flows(&mut cluster, 0, 400, 10_000);
    cluster.settle();
    cluster.order(1, Desire::Ordered);
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    let before = exported(&mut cluster, 1);
    cluster.order(0, Desire::Backup);
    cut(&mut cluster, Duration::from_secs(2));
    remove(&mut cluster, 1, &flows[..8]);
    open_flows(&mut cluster, 1, 8, 30_000);
    heal(&mut cluster);
    let after = exported(&mut cluster, 1);
    assert_eq!(after.generations.whole, before.generations.whole, "{after:?}");
    assert!(
        after.generations.caught_up > before.generations.caught_up,
        "{after:?}"
    );
}

#[test]
fn an_unsent_tail_is_no_shared_history() {
    let setup = Setup {
        slots: 1,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 35);
    open_flows(&mut cluster, 0, 40, 10_000);
    cluster.settle();
    // The first node goes on for longer than the second after its take-over: its counters are ahead, under the old
    // term, of changes that nobody else has seen.
    cluster.fabric.cut(true);
    open_flows(&mut cluster, 0, 60, 20_000);
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_secs(5));
    assert!(
        cluster
            .out(1, &packet::udp(subscriber(9), 32_000, server(1), 53))
            .is_some()
    );
    let tail = view(cluster.node(0)).slots[&(0, 0)].0;
    cluster.order(0, Desire::Backup);
    cluster.run(Duration::from_secs(1));
    let ahead = view(cluster.node(1)).slots[&(0, 0)].0;
    assert!(
        tail.counter > ahead.counter && tail.term < ahead.term,
        "{tail:?} {ahead:?}"
    );
    let before = exported(&mut cluster, 1);
    heal(&mut cluster);
    let after = exported(&mut cluster, 1);
    assert_eq!(
        (
            after.generations.whole - before.generations.whole,
            after.generations.caught_up,
            after.generations.failed
        ),
        (1, 0, before.generations.failed),
        "{after:?}"
    );
    // The tail has become the second node's.
    assert_eq!(view(cluster.node(0)).conntracks.len(), 101);
}

/// Removals beyond those that may wait for their record leave none, and no point before them leads on from here.
#[test]
fn removals_without_a_record_are_told_by_the_whole_slot_when_somebody_comes() {
    let setup = Setup {
        slots: 1,
        workers: 1,
        conntracks: 512,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 36);
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    let before = exported(&mut cluster, 0);
    cut(&mut cluster, Duration::from_secs(2));
    remove(&mut cluster, 0, &flows[..190]);
    cut(&mut cluster, Duration::from_secs(1));
    heal(&mut cluster);
    let after = exported(&mut cluster, 0);
    assert_eq!(
        (after.generations.whole, after.generations.failed),
        (before.generations.whole + 1, before.generations.failed)
    );
    assert_eq!(view(cluster.node(1)).conntracks.len(), 10);
}

/// The same, and the connection ends behind the begin of that walk: its receiver still holds the point before.
#[test]
fn removals_without_a_record_are_told_whole_again_when_the_first_attempt_was_not_heard() {
    let setup = Setup {
        slots: 1,
        workers: 1,
        conntracks: 512,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 37);
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    cut(&mut cluster, Duration::from_secs(2));
    remove(&mut cluster, 0, &flows[..64]);
    remove(&mut cluster, 0, &flows[64..190]);
    let begun = |cluster: &mut Cluster| !cluster.node(0).tables_mut(0).slots.get(AT).unwrap().untold;
    assert!(!begun(&mut cluster));
    cluster.fabric.cut(false);
    while !begun(&mut cluster) {
        cluster.turn(Duration::from_micros(50));
    }
    let before = exported(&mut cluster, 0);
    cut(&mut cluster, Duration::from_secs(2));
    heal(&mut cluster);
    let after = exported(&mut cluster, 0);
    assert_eq!(
        (after.generations.caught_up, after.generations.failed),
        (before.generations.caught_up, before.generations.failed),
        "{after:?}"
    );
    assert_eq!(view(cluster.node(1)).conntracks.len(), 10);
}

/// sync/PROTOCOL.md R-36. The slot's version is one that the other node went through, and not what is here any more.
#[test]
fn a_former_active_node_with_removals_without_a_record_is_sent_their_slot_whole() {
    let setup = Setup {
        slots: 2,
        workers: 1,
        conntracks: 256,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 38);
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    cut(&mut cluster, Duration::from_secs(2));
    // As many removals of one slot as may wait leave no room for those of the other one.
    let of_slot = |slot| {
        let of = |inside: &FlowKey| slot_of_address(&inside.src, 2) == slot;
        let flows = flows.iter().filter(move |(inside, _)| of(inside));
        flows.copied().take(40).collect::<Vec<_>>()
    };
    remove(&mut cluster, 0, &of_slot(1));
    remove(&mut cluster, 0, &of_slot(0));
    assert!(cluster.node(0).tables_mut(0).slots.get(AT).unwrap().untold);
    cluster.order(1, Desire::Ordered);
    cut(&mut cluster, Duration::from_secs(3));
    open_flows(&mut cluster, 1, 40, 30_000);
    cluster.order(0, Desire::Backup);
    let before = exported(&mut cluster, 1);
    heal(&mut cluster);
    let after = exported(&mut cluster, 1);
    assert_eq!(
        (after.generations.caught_up, after.generations.failed),
        (before.generations.caught_up, before.generations.failed),
        "{after:?}"
    );
    assert_eq!(view(cluster.node(0)).conntracks.len(), 240);
}
