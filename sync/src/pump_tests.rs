//! Pumps against one another over an in-memory network, with scripted workers.

use core::time::Duration;

use dataplane::delta::{LaneTag, SlotEnd, SlotRef, Term, ToEvent, ToWorker, Version};
use dataplane::role::Role;

use crate::role::outranks;
use crate::testbed::{Cluster, Node, SLOTS, Shape, VRF, config};

const MASTER: (Role, Term) = (Role::Master, Term(0x101));

/// Node 1 is master with `entries` entries, node 2 a standby without a term.
fn pair(one: Shape, two: Shape, entries: u32) -> Cluster {
    let mut cluster = Cluster::new(&[one, two]);
    cluster.nodes[0].set(MASTER.0, MASTER.1);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    (0..entries).for_each(|n| cluster.nodes[0].put(n));
    cluster
}

fn equal(cluster: &Cluster) -> bool {
    cluster.nodes[0].table() == cluster.nodes[1].table()
}

fn synced(cluster: &Cluster) -> bool {
    cluster.nodes[1].verified() == u32::from(SLOTS) && equal(cluster)
}

fn acked(node: &Node) -> bool {
    node.pumps
        .iter()
        .flat_map(|p| p.report().clients)
        .all(|c| c.lag_records == 0)
}

/// sync/PROTOCOL.md R-1.
#[test]
fn everything_is_sent_when_connected_whatever_the_numbers_of_threads() {
    for (w1, e1, w2, e2) in [
        (1, 1, 1, 1),
        (2, 2, 2, 2),
        (3, 2, 1, 1),
        (1, 1, 2, 3),
        (2, 3, 3, 2),
    ] {
        let mut cluster = pair(Shape::new(1, w1, e1), Shape::new(2, w2, e2), 300);
        let exported = |c: &Cluster| c.nodes[0].board.view(0, VRF, SLOTS).exported;
        cluster.until("synced", 20_000, |c| synced(c) && exported(c) == u32::from(SLOTS));
        assert_eq!(cluster.nodes[1].table().len(), 300);
        let view = cluster.nodes[0].board.view(0, VRF, SLOTS);
        assert_eq!(
            (view.clients_up, view.clients_total),
            (u32::from(e1) + 1, u32::from(e1) + 1)
        );
        assert_eq!(
            (view.locals_up, view.locals_total),
            (u32::from(e2) + 1, u32::from(e2) + 1)
        );
    }
}

/// sync/PROTOCOL.md R-33.
#[test]
fn a_standby_that_held_something_else_is_swept_to_equality() {
    let mut cluster = pair(Shape::new(1, 2, 2), Shape::new(2, 2, 1), 50);
    (1_000..1_100).for_each(|n| cluster.nodes[1].put(n));
    cluster.until("synced", 20_000, synced);
}

/// sync/PROTOCOL.md R-32.
#[test]
fn changes_during_and_after_the_walk_arrive() {
    let mut cluster = pair(Shape::new(1, 2, 2), Shape::new(2, 3, 1), 400);
    for n in 0..600u32 {
        cluster.nodes[0].put(n * 7 % 500);
        cluster.nodes[0].del(n * 11 % 500);
        cluster.step();
    }
    cluster.until("synced", 20_000, synced);
    cluster.nodes[0].put(9_999);
    cluster.until("live", 1_000, equal);
}

#[test]
fn r15_nothing_is_acknowledged_before_it_is_applied() {
    let mut cluster = pair(Shape::new(1, 2, 1), Shape::new(2, 2, 1), 20);
    cluster.until("synced", 20_000, |c| synced(c) && acked(&c.nodes[0]));
    let frames = |c: &Cluster| c.nodes[0].pumps[0].report().clients[0].frames_acked;
    cluster.nodes[1].workers[1].absorbing = false;
    let before = frames(&cluster);
    // Slot 1 is the standing worker's, slot 2 the other's: neither moves the watermark past the first.
    cluster.nodes[0].put(1);
    cluster.run(20);
    (0..10).for_each(|_| cluster.nodes[0].put(2));
    cluster.run(2_000);
    let client = cluster.nodes[0].pumps[0].report().clients[0].clone();
    assert_eq!(client.frames_acked, before);
    assert!(client.lag_records >= 11, "{client:?}");
    assert!(client.lag_ms >= 90, "{client:?}");
    cluster.nodes[1].workers[1].absorbing = true;
    cluster.until("acknowledged", 1_000, |c| acked(&c.nodes[0]) && equal(c));
    assert!(frames(&cluster) > before);
}

#[test]
fn a_full_ring_holds_the_lane_up_and_loses_nothing() {
    let two = Shape {
        ring: 2,
        ..Shape::new(2, 2, 1)
    };
    let mut cluster = pair(
        Shape {
            ring: 3,
            ..Shape::new(1, 1, 2)
        },
        two,
        500,
    );
    cluster.until("synced", 50_000, synced);
    let waits: u64 = cluster.nodes[1].pumps[0].report().local_nodes[0].waits;
    assert!(waits > 0);
}

#[test]
fn a_cut_at_any_byte_heals_into_equality() {
    let mut whole = pair(Shape::new(1, 2, 2), Shape::new(2, 2, 1), 30);
    whole.until("synced", 20_000, synced);
    let bytes = whole.fabric.borrow().carried;
    for fuse in (1..bytes).step_by(37) {
        let mut cluster = pair(Shape::new(1, 2, 2), Shape::new(2, 2, 1), 30);
        cluster.fabric.borrow_mut().fuse = Some(fuse);
        for n in 0..40 {
            cluster.nodes[0].put(n * 3);
            cluster.nodes[0].del(n * 5);
            cluster.step();
        }
        cluster.until("burnt", 40_000, |c| c.fabric.borrow().fuse.is_none());
        cluster.tick = Duration::from_millis(1);
        cluster.until(&format!("equal after a cut at byte {fuse}"), 10_000, synced);
    }
}

#[test]
fn r30_the_higher_term_sends_in_every_combination() {
    // Terms of node 1, of node 2, and of a node 3 that is gone.
    let terms = [0, 0x101, 0x102, 0x103, 0x201, 0x202].map(Term);
    for (ours, theirs) in terms.iter().flat_map(|a| terms.iter().map(move |b| (*a, *b))) {
        let mut cluster = Cluster::new(&[Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
        cluster.nodes[0].set(Role::Backup, ours);
        cluster.nodes[1].set(Role::Backup, theirs);
        cluster.nodes[0].put(1);
        cluster.nodes[1].put(2);
        cluster.run(2_000);
        let streaming = |n: usize| cluster.nodes[n].pumps[0].report().clients[0].vrfs[0].streaming;
        let expected = (
            ours != Term::NONE && outranks(ours, 1, theirs),
            theirs != Term::NONE && outranks(theirs, 2, ours),
        );
        assert_eq!((streaming(0), streaming(1)), expected, "{ours:?} {theirs:?}");
        assert!(!(expected.0 && expected.1));
        assert_eq!(equal(&cluster), expected.0 || expected.1, "{ours:?} {theirs:?}");
    }
}

#[test]
fn r31_an_active_node_takes_nothing_in_and_asks_again_once_demoted() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 10);
    cluster.nodes[0].set(Role::Master, Term(0x201));
    cluster.nodes[1].set(Role::Master, Term(0x102));
    cluster.nodes[1].put(77);
    cluster.run(3_000);
    assert_eq!(cluster.nodes[1].table().len(), 1);
    assert!(cluster.nodes[1].cause("slot-not-accepted") > 0);
    cluster.nodes[1].set(Role::Backup, Term(0x201));
    cluster.tick = Duration::from_millis(1);
    cluster.until("synced", 20_000, synced);
}

/// sync/PROTOCOL.md R-31. A worker was active between two looks of the event thread, so that no direction has turned.
#[test]
fn a_slot_whose_records_were_missed_is_sent_again() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 10);
    cluster.until("synced", 20_000, synced);
    let begun = |c: &Cluster| {
        let seen = c.nodes[1].workers.iter().flat_map(|w| &w.seen);
        let begins = seen.filter_map(|item| match item {
            ToWorker::SlotBegin {
                at, lane, generation, ..
            } => Some((*at, *lane, *generation)),
            _ => None,
        });
        begins.collect::<Vec<_>>()
    };
    let before = begun(&cluster);
    let (at, lane, generation) = before[0];
    let missed = ToEvent::SlotMissed { at, lane, generation };
    cluster.nodes[1].inject(missed);
    cluster.until("begun again", 20_000, |c| begun(c).len() == before.len() + 1);
    assert_eq!(begun(&cluster).last().map(|(again, ..)| *again), Some(at));
    cluster.until("synced", 20_000, synced);
    cluster.nodes[1].inject(missed);
    cluster.run(1_000);
    assert_eq!(begun(&cluster).len(), before.len() + 1, "that generation is over");
}

/// sync/PROTOCOL.md R-14.
#[test]
fn a_change_of_direction_sends_everything_the_other_way() {
    let mut cluster = pair(Shape::new(1, 2, 1), Shape::new(2, 1, 2), 40);
    cluster.until("synced", 20_000, synced);
    cluster.nodes[1].set(Role::Master, Term(0x202));
    cluster.nodes[1].put(500);
    cluster.nodes[0].set(Role::Backup, Term(0x101));
    let turned = |c: &Cluster| c.nodes[0].verified() == u32::from(SLOTS) && equal(c);
    cluster.until("turned", 20_000, turned);
    assert!(cluster.nodes[0].table().contains_key(&500));
    assert_eq!(cluster.nodes[1].verified(), 0);
    let stopped = cluster.nodes[0].workers.iter().flat_map(|w| &w.seen);
    assert_eq!(
        stopped.filter(|i| matches!(i, ToWorker::StopSlot { .. })).count(),
        usize::from(SLOTS)
    );
}

/// sync/PROTOCOL.md R-33.
#[test]
fn slots_that_fail_or_get_dirty_are_sent_again() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 60);
    cluster.nodes[1].workers[0].failing = 5;
    cluster.tick = Duration::from_millis(1);
    cluster.until("synced", 20_000, synced);
    assert_eq!(
        cluster.nodes[0].pumps[0].report().clients[0].vrfs[0]
            .generations
            .failed,
        5
    );
    cluster.nodes[0].lose(3);
    let vrf = |c: &Cluster| c.nodes[0].pumps[0].report().clients[0].vrfs[0].clone();
    cluster.until("synced again", 5_000, |c| {
        synced(c) && vrf(c).resync.completed == 2
    });
    assert_eq!(vrf(&cluster).resync.reason.as_deref(), Some("dirty"));
}

#[test]
fn r9_items_of_another_incarnation_are_counted_and_change_nothing() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 5);
    cluster.until("synced", 20_000, synced);
    let received = |c: &Cluster| c.nodes[1].workers[0].seen.len();
    let before = received(&cluster);
    let client = cluster.nodes[0].pumps[0].report().clients[0].clone();
    let lane = LaneTag {
        peer: 0,
        lane: 0,
        incarnation: client.incarnation - 1,
    };
    let at = SlotRef { vrf: VRF, slot: 1 };
    let generation = client.vrfs[0].generation;
    let version = Version::default();
    let end = SlotEnd {
        generation,
        count: 0,
        digest: 0,
        version,
    };
    for node in &mut cluster.nodes {
        node.inject(ToEvent::SlotBegin {
            at,
            lane,
            generation,
            version,
            since: None,
        });
        node.inject(ToEvent::SlotEnd { at, lane, end });
        node.inject(ToEvent::SlotVerified {
            at,
            lane,
            generation,
            refused: 0,
        });
        node.inject(ToEvent::SlotFailed { at, lane, generation });
    }
    cluster.run(1_000);
    assert_eq!(received(&cluster), before);
    assert_eq!(cluster.nodes[0].cause("item-stale"), 4);
    assert_eq!(cluster.nodes[1].cause("item-stale"), 4);
    assert!(synced(&cluster));
}

#[test]
fn a_node_with_two_peers_serves_both() {
    let mut cluster = Cluster::new(&[Shape::new(1, 2, 2), Shape::new(2, 1, 1), Shape::new(3, 2, 1)]);
    cluster.nodes[0].set(MASTER.0, MASTER.1);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    cluster.nodes[2].set(Role::Backup, Term::NONE);
    (0..100).for_each(|n| cluster.nodes[0].put(n));
    let all = |c: &Cluster| c.nodes.iter().all(|n| n.table() == c.nodes[0].table());
    cluster.until("all equal", 20_000, all);
    cluster.nodes[0].put(1_000);
    cluster.nodes[0].del(3);
    cluster.run(2);
    cluster.until("live", 2_000, all);
}

/// sync/PROTOCOL.md R-13.
#[test]
fn different_slot_counts_are_reported_and_nothing_flows() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 5);
    let mut other = config(Shape::new(2, 1, 1), &[1]);
    other.vrfs[0].slots = SLOTS * 2;
    cluster.nodes[1] = Node::new(&cluster.fabric, Shape::new(2, 1, 1), other);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    cluster.run(3_000);
    assert!(cluster.nodes[1].workers[0].seen.is_empty());
    let known = cluster.nodes[1].board.view(0, VRF, SLOTS).vrf.unwrap();
    assert_eq!(
        (known.role, known.term, known.equal),
        (Role::Master, MASTER.1, false)
    );
}

/// sync/PROTOCOL.md R-16.
#[test]
fn a_silent_network_is_noticed_and_heartbeats_prevent_it() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 5);
    cluster.until("synced", 20_000, synced);
    cluster.tick = Duration::from_millis(10);
    cluster.run(500);
    let downs = |c: &Cluster| c.nodes[0].cause("silent") + c.nodes[1].cause("silent");
    assert_eq!(downs(&cluster), 0);
    cluster.fabric.borrow_mut().window = 0;
    cluster.run(150);
    assert!(downs(&cluster) >= 4);
    cluster.fabric.borrow_mut().window = 1 << 20;
    cluster.until("synced again", 2_000, synced);
}

/// sync/PROTOCOL.md R-16.
#[test]
fn silence_is_noticed_in_the_time_that_is_configured_and_idle_lanes_live() {
    let mut cluster = Cluster::with(&[Shape::new(1, 1, 1), Shape::new(2, 1, 1)], |config| {
        config.timing = config.timing.noticing_after(Duration::from_millis(100));
    });
    cluster.nodes[0].set(MASTER.0, MASTER.1);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    cluster.until("synced", 20_000, synced);
    cluster.tick = Duration::from_millis(1);
    let downs = |c: &Cluster| c.nodes[0].cause("silent") + c.nodes[1].cause("silent");
    cluster.run(2_000);
    assert_eq!(downs(&cluster), 0, "a heartbeat every 20 ms is enough");
    cluster.fabric.borrow_mut().silent[0] = true;
    cluster.run(80);
    assert_eq!(downs(&cluster), 0);
    cluster.run(50);
    assert!(downs(&cluster) >= 4);
}

/// sync/PROTOCOL.md R-47.
#[test]
fn a_link_that_falls_silent_is_left_for_the_other_one_and_nothing_is_sent_anew() {
    let mut cluster = Cluster::of_two_links(&[Shape::new(1, 2, 2), Shape::new(2, 2, 2)]);
    cluster.nodes[0].set(MASTER.0, MASTER.1);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    (0..40).for_each(|n| cluster.nodes[0].put(n));
    cluster.until("synced", 20_000, synced);
    cluster.tick = Duration::from_millis(1);
    let links = |c: &Cluster| -> Vec<(u8, u64)> {
        let lanes = c
            .nodes
            .iter()
            .flat_map(|n| n.pumps.iter().flat_map(|p| p.report().clients));
        lanes.map(|lane| (lane.link, lane.link_changes)).collect()
    };
    let all_on = |c: &Cluster, link| {
        let up = c.nodes.iter().all(|node| {
            let view = node.board.view(0, VRF, SLOTS);
            (view.clients_up, view.locals_up) == (view.clients_total, view.locals_total)
        });
        up && links(c).iter().all(|lane| lane.0 == link)
    };
    assert!(all_on(&cluster, 1) && links(&cluster).iter().all(|lane| lane.1 == 0));
    for (silent, other, changes) in [(0, 2, 1), (1, 1, 2)] {
        cluster.fabric.borrow_mut().silent[silent] = true;
        // What is said meanwhile is told over the other link.
        (0..10).for_each(|n| cluster.nodes[0].put(1_000 * u32::from(other) + n));
        cluster.until("on the other link", 8_000, |c| all_on(c, other) && synced(c));
        assert!(links(&cluster).iter().all(|lane| lane.1 == changes));
        cluster.fabric.borrow_mut().silent[silent] = false;
        cluster.run(3_000);
        assert!(all_on(&cluster, other), "a link that works is stayed on");
    }
    assert_eq!(cluster.nodes[1].table().len(), 60);
}

/// sync/PROTOCOL.md R-47.
#[test]
fn a_node_that_boots_finds_its_peer_over_the_second_link_alone() {
    let mut cluster = Cluster::of_two_links(&[Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
    cluster.fabric.borrow_mut().silent[0] = true;
    cluster.nodes[0].set(MASTER.0, MASTER.1);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    cluster.nodes[0].put(1);
    cluster.tick = Duration::from_millis(1);
    cluster.until("synced", 10_000, synced);
}

/// sync/PROTOCOL.md R-17.
#[test]
fn a_peer_that_does_not_read_costs_bounded_memory_and_is_dropped() {
    let mut cluster = pair(Shape::new(1, 1, 1), Shape::new(2, 1, 1), 5);
    cluster.until("synced", 20_000, synced);
    // Its event thread stands; its kernel takes what fits into the window.
    let mut asleep = cluster.nodes.pop().unwrap();
    cluster.fabric.borrow_mut().window = 4_096;
    cluster.tick = Duration::from_millis(1);
    let mut highest = 0;
    for n in 0..900u32 {
        (0..100).for_each(|k| cluster.nodes[0].put(n * 100 + k));
        cluster.step();
        highest = highest.max(cluster.nodes[0].pumps[0].report().clients[0].bytes_queued);
    }
    // What its credit allows, and heartbeats.
    assert!((1_024..16 * 1024).contains(&highest), "{highest}");
    cluster.run(200);
    assert_eq!(cluster.nodes[0].pumps[0].report().clients[0].status, "handshake");
    cluster.fabric.borrow_mut().window = 1 << 20;
    asleep.step(cluster.now);
    cluster.nodes.push(asleep);
    cluster.until("synced again", 60_000, synced);
}

#[test]
fn r40_a_peer_whose_workers_stand_gets_its_credit_and_is_still_heard() {
    let ring = |shape| Shape { ring: 256, ..shape };
    let mut cluster = pair(ring(Shape::new(1, 2, 1)), ring(Shape::new(2, 2, 1)), 5);
    cluster.until("synced", 20_000, |c| synced(c) && acked(&c.nodes[0]));
    let stand = |c: &mut Cluster, on: bool| c.nodes[1].workers.iter_mut().for_each(|w| w.absorbing = on);
    stand(&mut cluster, false);
    for n in 0..2_000 {
        cluster.nodes[0].put(n);
        cluster.step();
    }
    cluster.run(100);
    let client = cluster.nodes[0].pumps[0].report().clients[0].clone();
    assert_eq!(client.lag_records, 256, "{client:?}");
    assert!(client.bytes_queued == 0, "{client:?}");
    // Its lane is read to the end: news of a role is not stuck behind records.
    cluster.nodes[0].set(Role::Backup, MASTER.1);
    cluster.until("heard", 100, |c| {
        c.nodes[1]
            .board
            .view(0, VRF, SLOTS)
            .vrf
            .is_some_and(|v| v.role == Role::Backup)
    });
    assert_eq!(cluster.nodes[1].pumps[0].report().local_nodes[0].waits, 0);
    stand(&mut cluster, true);
    cluster.until("equal", 20_000, |c| equal(c) && acked(&c.nodes[0]));
    assert_eq!(cluster.nodes[0].cause("stream-gap"), 0);
}

/// a live record waits for what is under way in front of it.
#[test]
fn r40_records_of_a_walk_wait_before_the_credit_is_used_up() {
    let ring = |shape| Shape { ring: 8_192, ..shape };
    let mut cluster = pair(ring(Shape::new(1, 1, 1)), ring(Shape::new(2, 1, 1)), 6_000);
    let walked = |c: &Cluster| {
        let seen = c.nodes[1].workers[0].seen.iter();
        seen.filter(|item| matches!(item, ToWorker::Record { .. }))
            .count()
    };
    cluster.until("walking", 20_000, |c| walked(c) > 0);
    cluster.nodes[1].workers[0].absorbing = false;
    cluster.run(200);
    let client = cluster.nodes[0].pumps[0].report().clients[0].clone();
    assert!((1_024..1_100).contains(&client.lag_records), "{client:?}");
    assert!(client.credit > 4_096, "{client:?}");
    // Those that wait are not lost.
    cluster.nodes[1].workers[0].absorbing = true;
    cluster.until("equal", 20_000, |c| equal(c) && acked(&c.nodes[0]));
}

#[test]
fn r35_a_lane_sends_so_many_slots_at_once_and_no_more() {
    let shapes = [Shape::new(1, 1, 1), Shape::new(2, 1, 1)];
    let mut cluster = Cluster::new(&[]);
    for (shape, peer) in shapes.into_iter().zip([2, 1]) {
        let mut config = config(shape, &[peer]);
        config.vrfs[0].slots = 100;
        let node = Node::new(&cluster.fabric, shape, config);
        cluster.nodes.push(node);
    }
    cluster.nodes[0].set(MASTER.0, MASTER.1);
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    // Every slot was asked about, and none can be begun.
    cluster.nodes[0].workers[0].absorbing = false;
    cluster.run(2_000);
    cluster.nodes[0].workers[0].absorbing = true;
    cluster.step();
    let sent = |c: &Cluster| {
        let seen = &c.nodes[0].workers[0].seen;
        seen.iter()
            .filter(|i| matches!(i, ToWorker::SendSlot { .. }))
            .count()
    };
    assert_eq!(sent(&cluster), 32);
    cluster.until("all verified", 20_000, |c| c.nodes[1].verified() == 100);
    assert_eq!(sent(&cluster), 100);
}

#[path = "hostile_tests.rs"]
mod hostile;
#[path = "takeover_tests.rs"]
mod takeover;
