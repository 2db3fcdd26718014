//! The comparison entry by entry finds every difference, names it, and finds none where there is none, while traffic
//! runs (sync/PROTOCOL.md section 8).

use core::time::Duration;

use dataplane::delta::{Class, Delta};
use dataplane::flow::{Direction, FlowKey};
use state_sync::compare::{Comparison, Unlike, Wanted};
use testkit::checker::blocks;
use testkit::cluster::Cluster;
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::network::Weather;
use testkit::packet;

use crate::replication::open_flows;

/// All slots.
fn wanted(whole: bool, fix: bool) -> Wanted {
    Wanted {
        vrf: MAIN,
        peer: 0,
        slots: (0..Setup::default().slots).collect(),
        whole,
        fix,
    }
}

fn compare(cluster: &mut Cluster, whole: bool, fix: bool) -> Comparison {
    cluster.compare_by(0, wanted(whole, fix), |_| ())
}

/// A pair with flows.
fn pair(seed: u64) -> Cluster {
    let mut cluster = Cluster::pair(Setup::default(), seed);
    open_flows(&mut cluster, 0, 300, 10_000);
    cluster.settle();
    // Or what is damaged here on purpose would be repaired before it is found.
    for node in [0, 1] {
        for worker in 0..cluster.node(node).workers() {
            cluster.node(node).tables_mut(worker).faults.no_audit = true;
        }
    }
    cluster
}

/// Live conntracks of a node: worker, place and original tuple.
fn live(cluster: &mut Cluster, node: usize) -> Vec<(usize, u32, FlowKey)> {
    let tables = cluster.node(node).tables().enumerate();
    tables
        .flat_map(|(worker, t)| {
            t.conntracks
                .iter_live()
                .map(move |(id, c)| (worker, id, c.key(Direction::Original)))
        })
        .collect()
}

fn held(cluster: &mut Cluster, node: usize) -> u64 {
    (live(cluster, node).len() + blocks(cluster.node(node)).len()) as u64
}

const fn original(delta: Option<Delta>) -> Option<FlowKey> {
    match delta {
        Some(Delta::Put(put)) => Some(put.original),
        _ => None,
    }
}

/// sync/PROTOCOL.md.
#[test]
fn equal_tables_are_equal_by_digest_and_entry_by_entry() {
    let mut cluster = pair(41);
    let entries = held(&mut cluster, 0);
    for whole in [false, true] {
        let done = compare(&mut cluster, whole, false);
        let found = done.found();
        assert!(found.equal(), "{found:?}");
        assert_eq!(found.entries_equal, entries);
        assert_eq!(found.slots_equal, u32::from(Setup::default().slots));
    }
    assert_eq!(cluster.node(1).counters().entries_listed, entries);
}

/// sync/PROTOCOL.md R-62.
#[test]
fn a_missing_a_surplus_and_a_changed_entry_are_each_named_and_nothing_else() {
    let mut cluster = pair(42);
    let now = cluster.now;
    let there = live(&mut cluster, 1);
    let (worker, id, missing) = there[0];
    cluster.node(1).tables_mut(worker).discard(now, id);
    let (worker, id, changed) = there[1];
    cluster.node(1).tables_mut(worker).conntracks[id].class = Class::Closing;
    let here = live(&mut cluster, 0);
    let (worker, id, surplus) = *here.iter().find(|(.., key)| *key == there[2].2).unwrap();
    cluster.node(0).tables_mut(worker).discard(now, id);
    let done = compare(&mut cluster, true, false);
    let found = done.found();
    assert_eq!((found.only_here, found.only_there, found.different), (1, 1, 1));
    assert!(found.undecided.is_empty(), "{found:?}");
    for difference in &found.differences {
        let (ours, theirs) = (original(difference.ours), original(difference.theirs));
        let expected = match difference.unlike {
            Unlike::OnlyHere => (Some(missing), None),
            Unlike::OnlyThere => (None, Some(surplus)),
            Unlike::Different => (Some(changed), Some(changed)),
        };
        assert_eq!((ours, theirs), expected);
    }
    // In what it differs is shown too.
    let changed = found.differences.iter().find(|d| d.unlike == Unlike::Different);
    let classes = changed.map(|d| (d.ours, d.theirs));
    assert!(
        matches!(classes, Some((Some(Delta::Put(a)), Some(Delta::Put(b)))) if a.class != b.class),
        "{classes:?}"
    );
}

#[test]
fn without_a_look_at_every_entry_slots_of_equal_digest_are_believed() {
    let mut cluster = pair(43);
    let (worker, id, _) = live(&mut cluster, 1)[0];
    cluster.node(1).tables_mut(worker).conntracks[id].class = Class::Closing;
    assert!(compare(&mut cluster, false, false).found().equal());
    assert_eq!(compare(&mut cluster, true, false).found().different, 1);
}

/// sync/PROTOCOL.md R-64.
#[test]
fn a_fix_sends_what_differs_again_and_nothing_else() {
    let mut cluster = pair(44);
    let now = cluster.now;
    let there = live(&mut cluster, 1);
    for (worker, id, _) in [there[0], there[5]] {
        cluster.node(1).tables_mut(worker).discard(now, id);
    }
    let (worker, id, _) = there[9];
    cluster.node(1).tables_mut(worker).conntracks[id].class = Class::Closing;
    let entries = held(&mut cluster, 0);
    let walked = cluster.node(0).counters().walk_records;
    let done = compare(&mut cluster, true, true);
    let before = done.before().unwrap();
    assert_eq!((before.only_here, before.different), (2, 1));
    assert!(done.found().equal(), "{:?}", done.found());
    assert_eq!(done.found().entries_equal, entries);
    let sent = cluster.node(0).counters().walk_records - walked;
    assert!(sent > 0 && sent < entries / 2, "{sent} of {entries} sent again");
    cluster.settle();
}

/// sync/PROTOCOL.md R-63.
#[test]
fn traffic_makes_no_false_difference_and_hides_no_true_one() {
    for seed in 45..51 {
        let mut cluster = pair(seed);
        let (worker, id, missing) = live(&mut cluster, 1)[7];
        if seed % 2 == 0 {
            cluster.watch.damaged = true;
            let now = cluster.now;
            cluster.node(1).tables_mut(worker).discard(now, id);
        }
        let mut port = 20_000;
        let mut opened: Vec<FlowKey> = Vec::new();
        let done = cluster.compare_by(0, wanted(true, false), |cluster| {
            // New flows, answers that establish them, and ends of older ones.
            for _ in 0..6 {
                port += 1;
                let key = packet::udp(
                    subscriber(u8::try_from(port % 50 + 1).unwrap()),
                    port,
                    server(1),
                    53,
                );
                if let Some(outside) = cluster.out(0, &key) {
                    opened.push(key);
                    cluster.back(0, &outside);
                }
            }
            if opened.len() > 40 {
                let victim = opened.remove(0);
                let now = cluster.now;
                let found = live(cluster, 0).into_iter().find(|(.., key)| *key == victim);
                if let Some((worker, id, _)) = found {
                    cluster.node(0).tables_mut(worker).remove(now, id);
                }
            }
        });
        let found = done.found();
        assert!(found.undecided.is_empty(), "seed {seed}: {found:?}");
        let names: Vec<_> = found.differences.iter().map(|d| original(d.ours)).collect();
        let expected = if seed % 2 == 0 {
            vec![Some(missing)]
        } else {
            vec![]
        };
        // Its own digest may have brought the lost entry back before the comparison came to its slot.
        if cluster.node(1).counters().digest_mismatch == 0 {
            assert_eq!(names, expected, "seed {seed}");
        } else {
            assert!(names.is_empty() || names == expected, "seed {seed}: {names:?}");
        }
        cluster.run(Duration::from_secs(2));
        cluster.settle();
    }
}

#[test]
fn what_cannot_be_compared_is_named_with_its_cause() {
    let mut cluster = pair(52);
    cluster.fabric.cut(true);
    cluster.run(Duration::from_secs(2));
    let few = Wanted {
        slots: vec![1, 2],
        ..wanted(false, false)
    };
    let done = cluster.compare_by(0, few, |_| ());
    let causes: Vec<_> = done.found().undecided.clone();
    assert_eq!(causes, [(1, "the lane is down"), (2, "the lane is down")]);
    assert!(!done.found().equal());
}

#[test]
fn a_lane_that_breaks_in_between_delays_the_comparison_and_spoils_nothing() {
    let mut cluster = pair(53);
    let mut turns = 0;
    let done = cluster.compare_by(0, wanted(true, false), |cluster| {
        turns += 1;
        if turns == 8 {
            cluster.fabric.reset_all();
        }
    });
    assert!(turns > 8, "it was over before the lanes broke");
    assert!(done.found().equal(), "{:?}", done.found());
    cluster.settle();
}

#[test]
fn the_node_that_receives_a_vrf_has_nothing_to_compare_it_with() {
    let mut cluster = pair(54);
    let few = Wanted {
        slots: vec![3],
        ..wanted(false, false)
    };
    let done = cluster.compare_by(1, few, |_| ());
    assert_eq!(done.found().undecided, [(3, "the slot is not verified")]);
}

#[test]
fn numbers_of_threads_slow_links_and_tiny_rings_make_no_difference() {
    for (seed, (here, there, ring)) in
        (60..).zip([((1, 1), (3, 2), 64), ((4, 3), (2, 1), 64), ((2, 2), (1, 3), 128)])
    {
        let shape = |(workers, events)| Setup {
            workers,
            events,
            ring_entries: ring,
            ..Setup::default()
        };
        let mut cluster = Cluster::of([shape(here), shape(there)], seed);
        cluster.fabric.set_weather(Weather {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(3),
            spread: Duration::ZERO,
            room: 20_000,
            partial: true,
            fragile: 0,
        });
        cluster.settle();
        open_flows(&mut cluster, 0, 200, 10_000);
        let (mut port, mut turns) = (30_000, 0);
        let done = cluster.compare_by(0, wanted(true, false), |cluster| {
            turns += 1;
            if turns % 20 != 0 {
                return;
            }
            port += 1;
            let key = packet::udp(
                subscriber(u8::try_from(port % 50 + 1).unwrap()),
                port,
                server(2),
                53,
            );
            cluster.out(0, &key);
        });
        assert!(done.found().equal(), "{here:?} {there:?}: {:?}", done.found());
        assert!(done.found().entries_equal > 200);
        cluster.settle();
    }
}
