//! What is damaged in a table is found without any traffic that meets it, and repaired (DESIGN.md section 8, point 6).
//! Running digests can't see it: they prove the stream. sync/PROTOCOL.md R-41.

use core::time::Duration;

use dataplane::conntrack::{Conntrack, Tuples};
use dataplane::counters::Counters;
use dataplane::delta::{Class, SlotRef};
use dataplane::flow::FlowKey;
use state_sync::role::Desire;
use testkit::checker::blocks;
use testkit::cluster::Cluster;
use testkit::config::Setup;

use crate::replication::open_flows;
use crate::resync::exported;

/// A settled pair with some flows, and where the first of them is on a node: its worker and its place.
fn pair(seed: u64) -> (Cluster, Vec<(FlowKey, FlowKey)>) {
    let mut cluster = Cluster::pair(Setup::default(), seed);
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    (cluster, flows)
}

fn place(cluster: &mut Cluster, node: usize, key: &FlowKey) -> (usize, u32) {
    let tables = cluster.node(node).tables().enumerate();
    let mut found = tables.filter_map(|(worker, t)| {
        let (id, _) = t.conntracks.find(t.conntracks.hash(key), key)?;
        Some((worker, id))
    });
    found.next().unwrap()
}

/// Entries, slots and index entries found wrong.
fn wrong(c: &Counters) -> (u64, u64, u64) {
    (c.audit_entries_wrong, c.audit_slots_wrong, c.audit_index_lost)
}

/// Time for the audit to come round, and then for the repair.
fn come_round(cluster: &mut Cluster) {
    cluster.run(Duration::from_secs(1));
    cluster.settle();
}

/// sync/PROTOCOL.md R-41.
#[test]
fn a_bit_flipped_in_a_standbys_entry_is_found_and_its_slot_asked_for() {
    let (mut cluster, flows) = pair(41);
    let sent = exported(&mut cluster, 0).generations.whole;
    let (worker, id) = place(&mut cluster, 1, &flows[3].0);
    cluster.node(1).tables_mut(worker).conntracks[id].class = Class::Closing;
    assert!(!cluster.compare().is_empty());
    come_round(&mut cluster);
    assert_eq!(wrong(&cluster.node(1).counters()), (1, 0, 0));
    assert_eq!(exported(&mut cluster, 0).generations.whole, sent + 1);
}

#[test]
fn a_standbys_entry_under_a_damaged_tuple_gives_way_to_the_right_one() {
    let (mut cluster, flows) = pair(42);
    let (worker, id) = place(&mut cluster, 1, &flows[3].0);
    damage_original(&mut cluster.node(1).tables_mut(worker).conntracks[id], |key| {
        key.dst_port ^= 0x400
    });
    come_round(&mut cluster);
    assert_eq!(wrong(&cluster.node(1).counters()), (1, 0, 0));
}

/// A name, and what is damaged.
type Damage = (&'static str, fn(&mut Conntrack));

/// Whatever is replicated of an entry and is damaged, on either node: one cycle finds it, and its slot alone is sent.
#[test]
fn each_replicated_field_is_looked_at() {
    let damages: [Damage; 7] = [
        ("class", |c| c.class = Class::Opening),
        ("scales", |c| c.scales.0 ^= 0x10),
        ("grant", damage_grant),
        ("counter", |c| c.sync.version.counter ^= 1),
        ("counter far ahead", |c| c.sync.version.counter ^= 1 << 40),
        ("term", |c| c.sync.version.term.0 ^= 1 << 40),
        ("older term", |c| c.sync.version.term.0 = 1),
    ];
    for node in [1, 0] {
        let (mut cluster, flows) = pair(48);
        for (n, (what, damage)) in (1..).zip(damages) {
            // What no record of a UDP flow has room for is all the active node could say.
            if node == 0 && ["scales", "grant"].contains(&what) {
                continue;
            }
            let sent = exported(&mut cluster, 0).generations.whole;
            let found = cluster.node(node).counters().audit_entries_wrong;
            let (worker, id) = place(&mut cluster, node, &flows[10 * n].0);
            damage(&mut cluster.node(node).tables_mut(worker).conntracks[id]);
            assert!(!cluster.compare().is_empty(), "{what}");
            come_round(&mut cluster);
            let after = cluster.node(node).counters();
            assert_eq!(
                after.audit_entries_wrong,
                found + 1,
                "{what}: {:?}",
                wrong(&after)
            );
            assert_eq!(
                exported(&mut cluster, 0).generations.whole,
                sent + 1,
                "{what} of node {node}"
            );
        }
    }
}

fn damage_grant(conntrack: &mut Conntrack) {
    let mut nat = conntrack.nat().unwrap();
    nat.part.grant ^= 1 << 20;
    conntrack.tuples.bind(nat);
}

fn damage_original(conntrack: &mut Conntrack, damage: fn(&mut FlowKey)) {
    let (nat, mut keys) = (conntrack.nat(), conntrack.keys());
    damage(&mut keys[0]);
    conntrack.tuples = Tuples::new(&keys).unwrap();
    nat.into_iter().for_each(|nat| conntrack.tuples.bind(nat));
}

#[test]
fn a_damaged_entry_of_the_active_node_reaches_the_standby_or_ends() {
    let (mut cluster, flows) = pair(43);
    let (worker, id) = place(&mut cluster, 0, &flows[3].0);
    cluster.node(0).tables_mut(worker).conntracks[id].class = Class::Closing;
    let (worker, id) = place(&mut cluster, 0, &flows[8].0);
    // No packet can find it: what it was can't be known.
    damage_original(&mut cluster.node(0).tables_mut(worker).conntracks[id], |key| {
        key.src_port ^= 0x400
    });
    come_round(&mut cluster);
    assert_eq!(wrong(&cluster.node(0).counters()), (2, 0, 0));
    let live: usize = cluster.node(1).tables().map(|t| t.conntracks.live()).sum();
    assert_eq!(live, flows.len() - 1);
}

#[test]
fn a_block_that_was_damaged_on_the_standby_is_sent_again() {
    let (mut cluster, _) = pair(44);
    let block = blocks(cluster.node(1))[0];
    let at = SlotRef {
        vrf: block.vrf,
        slot: block.slot,
    };
    let worker = cluster.node(1).worker_of(at);
    let tables = cluster.node(1).tables_mut(worker);
    let id = tables
        .nat
        .find_block(block.pool.vrf, &block.address, block.port_first)
        .unwrap();
    tables.nat.block_mut(id).sync.version.counter ^= 1 << 20;
    come_round(&mut cluster);
    assert_eq!(wrong(&cluster.node(1).counters()), (1, 0, 0));
}

#[test]
fn lookup_finds_again_what_it_had_lost_and_nothing_is_sent_for_it() {
    for node in [0, 1] {
        let (mut cluster, flows) = pair(45);
        let sent = exported(&mut cluster, 0).generations.whole;
        let (worker, id) = place(&mut cluster, node, &flows[3].0);
        cluster.node(node).tables_mut(worker).conntracks.lose_key(id);
        come_round(&mut cluster);
        assert_eq!(wrong(&cluster.node(node).counters()), (0, 0, 1));
        assert_eq!(exported(&mut cluster, 0).generations.whole, sent);
        assert_eq!(place(&mut cluster, node, &flows[3].0), (worker, id));
    }
}

#[test]
fn a_sum_that_the_entries_do_not_add_up_to_is_put_right_on_either_node() {
    for node in [0, 1] {
        let (mut cluster, flows) = pair(46);
        let (worker, id) = place(&mut cluster, node, &flows[3].0);
        let tables = cluster.node(node).tables_mut(worker);
        let at = dataplane::delta::SlotRef {
            vrf: testkit::config::MAIN,
            slot: tables.conntracks[id].slot,
        };
        let slot = tables.slots.get_mut(at).unwrap();
        slot.digest ^= 1 << 40;
        slot.count += 1;
        come_round(&mut cluster);
        assert_eq!(wrong(&cluster.node(node).counters()), (0, 1, 0));
    }
}

/// A node that was told to stand by, and that nobody has succeeded, still says what its peer has to hold.
/// sync/PROTOCOL.md.
#[test]
fn a_sender_that_stands_by_is_put_right_too() {
    let (mut cluster, flows) = pair(49);
    cluster.order(0, Desire::Backup);
    cluster.settle();
    assert_eq!(cluster.active(), None, "nobody was told to take over");
    cluster.watch.damaged = true;
    let (worker, id) = place(&mut cluster, 0, &flows[3].0);
    let tables = cluster.node(0).tables_mut(worker);
    let at = dataplane::delta::SlotRef {
        vrf: testkit::config::MAIN,
        slot: tables.conntracks[id].slot,
    };
    tables.slots.get_mut(at).unwrap().digest ^= 1 << 40;
    let (worker, id) = place(&mut cluster, 0, &flows[13].0);
    cluster.node(0).tables_mut(worker).conntracks[id].class = Class::Closing;
    // What it was can't be known: it ends on both nodes.
    let (worker, id) = place(&mut cluster, 0, &flows[23].0);
    let conntrack = &mut cluster.node(0).tables_mut(worker).conntracks[id];
    damage_original(conntrack, |key| key.src_port ^= 0x400);
    come_round(&mut cluster);
    assert_eq!(wrong(&cluster.node(0).counters()), (2, 1, 0));
    let live: usize = cluster.node(1).tables().map(|t| t.conntracks.live()).sum();
    assert_eq!(live, flows.len() - 1);
}

#[test]
fn load_raises_no_alarm_while_slots_are_added_up() {
    let setup = Setup {
        slots: 4,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 47);
    for round in 0..40 {
        open_flows(&mut cluster, 0, 40, 10_000 + round * 40);
        cluster.run(Duration::from_millis(7));
    }
    cluster.settle();
    for node in [0, 1] {
        let counters = cluster.node(node).counters();
        assert_eq!(wrong(&counters), (0, 0, 0));
        assert!(
            counters.audit_slots > 10 && counters.audit_restarts > 0,
            "{counters:?}"
        );
    }
}
