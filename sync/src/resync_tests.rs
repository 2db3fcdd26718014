//! What each end of a pair's lanes says about the last resync.

use core::time::Duration;

use dataplane::delta::{SlotEnd, SlotRef, Term, ToEvent, Version};
use dataplane::role::Role;

use crate::report::{ClientVrfReport, LocalVrfReport};
use crate::resync::Resync;
use crate::testbed::{Cluster, SLOTS, Shape, VRF};

const AT: SlotRef = SlotRef { vrf: VRF, slot: 3 };

/// Node 1 is master with 60 entries, node 2 a standby without a term; one event thread each.
fn pair() -> Cluster {
    let mut cluster = Cluster::new(&[Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
    cluster.nodes[0].set(Role::Master, Term(0x101));
    cluster.nodes[1].set(Role::Backup, Term::NONE);
    (0..60).for_each(|n| cluster.nodes[0].put(n));
    cluster.tick = Duration::from_millis(1);
    cluster
}

fn sent(cluster: &Cluster) -> ClientVrfReport {
    cluster.nodes[0].pumps[0].report().clients[0].vrfs[0].clone()
}

fn received(cluster: &Cluster) -> LocalVrfReport {
    cluster.nodes[1].pumps[0].report().local_nodes[0].vrfs[0].clone()
}

/// Runs until so many resyncs are complete at both ends, which then agree about what was in the last one.
fn complete(cluster: &mut Cluster, resyncs: u64) -> (Resync, Resync) {
    let both = |c: &Cluster| {
        let there = c.nodes[1].pumps[0].report().local_nodes[0].vrfs.first().cloned();
        sent(c).resync.completed == resyncs && there.is_some_and(|r| r.resync.completed == resyncs)
    };
    cluster.until("complete at both ends", 5_000, both);
    let (ours, theirs) = (sent(cluster).resync, received(cluster).resync);
    let numbers = |r: &Resync| (r.slots, r.records, r.bytes, r.refused, r.interrupted, r.running);
    assert_eq!(numbers(&ours), numbers(&theirs));
    assert_eq!(received(cluster).slots_awaited, 0);
    (ours, theirs)
}

fn reasons((ours, theirs): &(Resync, Resync)) -> (&str, &str) {
    (
        ours.reason.as_deref().unwrap_or(""),
        theirs.reason.as_deref().unwrap_or(""),
    )
}

fn how(ours: &ClientVrfReport, theirs: &LocalVrfReport) -> [(u64, u64); 3] {
    [
        (ours.generations.equal, theirs.generations.equal),
        (ours.generations.caught_up, theirs.generations.caught_up),
        (ours.generations.whole, theirs.generations.whole),
    ]
}

#[test]
fn both_ends_count_the_same_slots_records_and_bytes_and_know_how_much_of_each_was_needed() {
    let mut cluster = pair();
    let first = complete(&mut cluster, 1);
    assert_eq!(reasons(&first), ("connected", "connected"));
    assert_eq!((first.1.slots, first.1.records), (u32::from(SLOTS), 60));
    assert!(first.1.bytes > 60 * 20 && first.1.took_ms > 0);
    // Slots that hold nothing are equal from the start.
    let ways = how(&sent(&cluster), &received(&cluster));
    assert!(ways.iter().all(|(ours, theirs)| ours == theirs), "{ways:?}");
    assert_eq!(ways[0].1 + ways[2].1, u64::from(SLOTS));

    cluster.fabric.borrow_mut().cut();
    let again = complete(&mut cluster, 2);
    assert_eq!(
        (again.1.slots, again.1.records, again.1.bytes),
        (u32::from(SLOTS), 0, 0)
    );
    let now = how(&sent(&cluster), &received(&cluster));
    assert_eq!(now[0].1, ways[0].1 + u64::from(SLOTS), "all were equal");
    assert_eq!((now[0].0, now[2]), (now[0].1, ways[2]));
}

#[test]
fn a_slot_that_is_sent_again_is_a_resync_of_its_own_with_its_reason_at_either_end() {
    let mut cluster = pair();
    complete(&mut cluster, 1);
    cluster.nodes[0].lose(3);
    let dirty = complete(&mut cluster, 2);
    assert_eq!(reasons(&dirty), ("dirty", "begun by the peer"));
    assert_eq!(dirty.1.slots, 1);

    let end = SlotEnd {
        generation: 0,
        count: 9_999,
        digest: 1,
        version: Version::default(),
    };
    cluster.run(60_000);
    cluster.nodes[0].inject(ToEvent::SlotDigest { at: AT, end });
    let diverged = complete(&mut cluster, 3);
    assert_eq!(reasons(&diverged), ("diverged", "diverged"));
    assert_eq!(diverged.1.slots, 1);
    let took = (diverged.0.took_ms, diverged.1.took_ms);
    assert!(
        took.0 < 1_000 && took.1 < 1_000,
        "not since the one before: {took:?}"
    );
}

#[test]
fn a_connection_that_is_lost_interrupts_it_and_leaves_nothing_awaited() {
    let mut cluster = pair();
    cluster.nodes[1].workers[0].absorbing = false;
    let running = |c: &Cluster| {
        let local = &c.nodes[1].pumps[0].report().local_nodes[0];
        local.vrfs.first().is_some_and(|v| v.resync.running)
    };
    cluster.until("begun", 5_000, running);
    cluster.fabric.borrow_mut().cut();
    cluster.until("lost", 5_000, |c| !running(c));
    let (ours, theirs) = (sent(&cluster).resync, received(&cluster));
    assert!(ours.interrupted && theirs.resync.interrupted);
    assert_eq!((theirs.slots_awaited, theirs.resync.completed), (0, 0));
    cluster.nodes[1].workers[0].absorbing = true;
    let (_, theirs) = complete(&mut cluster, 1);
    assert_eq!((theirs.interrupted, theirs.slots), (false, u32::from(SLOTS)));
}

/// sync/PROTOCOL.md R-31.
#[test]
fn a_direction_that_turns_interrupts_it() {
    let mut cluster = pair();
    complete(&mut cluster, 1);
    cluster.nodes[1].workers[0].failing = usize::MAX;
    cluster.nodes[0].lose(3);
    cluster.until("wanted", 5_000, |c| received(c).resync.running);
    cluster.nodes[1].set(Role::Master, Term(0x202));
    cluster.until("turned", 5_000, |c| !received(c).resync.running);
    assert!(received(&cluster).resync.interrupted);
    assert_eq!(received(&cluster).slots_awaited, 0);
}
