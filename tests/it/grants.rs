//! A port block that moves from one slot to another, whose lanes are not equally fast: the newer grant is right, in
//! whichever order the records come (DESIGN.md section 6; dataplane's `nat/learn.rs`).

use core::time::Duration;
use std::collections::BTreeMap;

use dataplane::config::PortRange;
use dataplane::flow::FlowKey;
use dataplane::shard::{first_worker_of, lane_of, slot_of_address};
use state_sync::config::Timing;
use state_sync::role::Desire;
use testkit::checker::{blocks, view};
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

use crate::replication::remove;
use crate::resync::exported;

const MS: Duration = Duration::from_millis(1);

/// Flows of a subscriber: what a block has of children.
const FLOWS: u16 = 5;

type Flows = Vec<(FlowKey, FlowKey)>;

/// Two subscribers that share the only block of a pool in turns, each on a lane of its own; all lanes are fast.
struct Turns {
    cluster: Cluster,
    hosts: [u8; 2],
    slots: [u16; 2],
    port: u16,
}

impl Turns {
    fn new(seed: u64) -> Self {
        Self::with([1, 1], 1, seed)
    }

    /// The nodes have so many workers; where two, the subscribers are one worker's each. The pool has so many blocks.
    fn with([workers, of_standby]: [u16; 2], blocks: u16, seed: u64) -> Self {
        let setup = Setup {
            workers,
            pool_addresses: 1,
            pool_ports: PortRange {
                first: 1_024,
                last: 1_024 + 64 * blocks - 1,
            },
            block_size: 64,
            port_rest_s: 0,
            block_idle_s: 0,
            timing: Timing {
                // A slow lane is not a dead one.
                dead: Duration::from_secs(60),
                ..Timing::default()
            },
            ..Setup::default()
        };
        let slot = |host: &u8| slot_of_address(&subscriber(*host), setup.slots);
        // Each by a lane of its own, and at a standby of two workers each at a worker of its own.
        let on = |lane| {
            move |host: &u8| {
                let worker = first_worker_of(slot(host), of_standby, 2);
                lane_of(slot(host), 2) == lane && worker == lane % of_standby
            }
        };
        let hosts = [0, 1].map(|lane| (1..=200).find(on(lane)).unwrap());
        let standby = Setup {
            workers: of_standby,
            ..setup.clone()
        };
        let mut cluster = Cluster::of([setup.clone(), standby], seed);
        cluster.settle();
        assert_eq!(cluster.active(), Some(0));
        Self {
            cluster,
            slots: hosts.map(|host| slot(&host)),
            hosts,
            port: 10_000,
        }
    }

    /// The lane of one subscriber stands still (true) or goes on. Changes wait at the sender.
    fn slow(&mut self, who: usize, slow: bool) {
        let node = self.cluster.node(0);
        let thread = node.workers() + who;
        node.stopped[thread] = slow;
    }

    /// A subscriber is granted the block.
    fn open(&mut self, who: usize) -> Flows {
        let host = self.hosts[who];
        (0..FLOWS)
            .map(|_| {
                self.port += 1;
                let key = packet::udp(subscriber(host), self.port, server(1), 53);
                let outside = self.cluster.out(0, &key).expect("the block is free");
                assert_eq!(self.cluster.back(0, &outside), Some(key.reversed()));
                (key, outside)
            })
            .collect()
    }

    /// Its flows end, and the block is released.
    fn close(&mut self, flows: &Flows) {
        remove(&mut self.cluster, 0, flows);
        self.cluster.run(2_500 * MS);
        assert_eq!(blocks(self.cluster.node(0)).len(), 0, "the block is released");
    }

    /// The standby has taken over behind a cut link, and the other node, which stayed active, hears of it.
    fn overrule(&mut self) {
        self.cluster.order(1, Desire::Ordered);
        self.cluster.run(3_000 * MS);
        assert!(self.cluster.node(1).is_active(MAIN));
        self.cluster.fabric.cut(false);
        self.cluster.settle();
        assert_eq!(self.cluster.active(), Some(1));
    }

    /// Slots of the holders of a node's blocks, by first port.
    fn holders(&mut self, node: usize) -> BTreeMap<u16, u16> {
        let blocks = blocks(self.cluster.node(node));
        blocks.iter().map(|b| (b.port_first, b.slot)).collect()
    }

    fn evicted(&mut self) -> u64 {
        self.cluster.node(1).counters().absorb_evicted
    }

    /// The standby holds these flows and no others, and the block is their subscriber's.
    fn assert_standby_has(&mut self, who: usize, flows: &Flows) {
        let view = view(self.cluster.node(1));
        let held: Vec<_> = view.conntracks.values().map(|row| row.original).collect();
        assert_eq!(held.len(), flows.len(), "{held:#?}");
        assert!(flows.iter().all(|(key, _)| held.contains(key)));
        let holders: Vec<_> = blocks(self.cluster.node(1)).iter().map(|b| b.slot).collect();
        assert_eq!(holders, [self.slots[who]]);
    }

    /// The end: both nodes are equal, nothing was sent again for it, and a failover keeps the flows.
    fn assert_settles(&mut self, who: usize, flows: &Flows) {
        self.cluster.settle();
        self.assert_standby_has(who, flows);
        assert!(view(self.cluster.node(1)).lacking.is_empty());
        let sent = exported(&mut self.cluster, 0);
        assert_eq!(
            (sent.digest_mismatch, sent.generations.failed),
            (0, 0),
            "{sent:?}"
        );
        assert_eq!(sent.generations.whole + sent.generations.equal, 16, "{sent:?}");
        self.cluster.kill(0, Death::Process);
        self.cluster.order(1, Desire::Ordered);
        self.cluster.run(1_200 * MS);
        for (key, outside) in flows {
            assert_eq!(self.cluster.back(1, outside), Some(key.reversed()));
            assert_eq!(self.cluster.out(1, key), Some(*outside));
        }
    }
}

#[test]
fn a_newer_grant_on_the_faster_lane_evicts_the_older_holder_and_its_flows() {
    let mut turns = Turns::new(81);
    let old = turns.open(0);
    turns.cluster.settle();
    turns.assert_standby_has(0, &old);
    turns.slow(0, true);
    turns.close(&old);
    turns.assert_standby_has(0, &old);
    let new = turns.open(1);
    turns.cluster.run(100 * MS);
    turns.assert_standby_has(1, &new);
    assert_eq!(turns.evicted(), u64::from(FLOWS) + 1, "its flows and the block");
    // The removals and the release come late: they mean nothing any more.
    turns.slow(0, false);
    turns.cluster.run(100 * MS);
    turns.assert_standby_has(1, &new);
    assert_eq!(turns.evicted(), u64::from(FLOWS) + 1);
    turns.assert_settles(1, &new);
}

#[test]
fn a_newer_grant_on_the_slower_lane_finds_the_block_free() {
    let mut turns = Turns::new(82);
    let old = turns.open(0);
    turns.cluster.settle();
    turns.slow(1, true);
    turns.close(&old);
    let new = turns.open(1);
    turns.cluster.run(100 * MS);
    assert_eq!(view(turns.cluster.node(1)).conntracks.len(), 0);
    assert_eq!(blocks(turns.cluster.node(1)).len(), 0);
    turns.slow(1, false);
    turns.cluster.run(100 * MS);
    turns.assert_standby_has(1, &new);
    assert_eq!(turns.evicted(), 0);
    turns.assert_settles(1, &new);
}

/// The slow lane has a grant and its end, and the block was granted again meanwhile.
#[test]
fn an_older_grant_that_comes_late_changes_nothing_and_is_no_difference() {
    let mut turns = Turns::new(83);
    let first = turns.open(0);
    turns.cluster.settle();
    turns.close(&first);
    turns.slow(1, true);
    let between = turns.open(1);
    // Digests of the slot are in the stream between the grant and its end.
    turns.cluster.run(1_000 * MS);
    turns.close(&between);
    let last = turns.open(0);
    turns.cluster.run(100 * MS);
    turns.assert_standby_has(0, &last);
    turns.slow(1, false);
    turns.cluster.run(100 * MS);
    turns.assert_standby_has(0, &last);
    assert_eq!(turns.evicted(), 0);
    assert!(turns.cluster.node(1).counters().absorb_stale > u64::from(FLOWS));
    turns.assert_settles(0, &last);
}

/// A worker doesn't evict what another one holds: the newer grant waits for the older one's end, and comes by itself then.
#[test]
fn a_newer_grant_of_another_worker_comes_as_soon_as_the_older_one_has_ended() {
    let mut turns = Turns::with([1, 2], 1, 84);
    let old = turns.open(0);
    turns.cluster.settle();
    turns.slow(0, true);
    turns.close(&old);
    let new = turns.open(1);
    turns.cluster.run(100 * MS);
    turns.assert_standby_has(0, &old);
    assert!(turns.cluster.node(1).counters().absorb_conflict > u64::from(FLOWS));
    turns.slow(0, false);
    turns.cluster.run(3_000 * MS);
    turns.assert_standby_has(1, &new);
    assert_eq!(turns.cluster.node(1).counters().absent_mended, u64::from(FLOWS));
    turns.assert_settles(1, &new);
}

/// A demoted node's last grant is newer than that of the holder of a higher term, and gives way: only this node knew of it.
#[test]
fn a_newer_grant_that_only_a_demoted_node_made_gives_way() {
    let mut turns = Turns::new(85);
    let told = turns.open(0);
    turns.cluster.settle();
    turns.cluster.fabric.cut(true);
    turns.close(&told);
    turns.open(1);
    assert_eq!(turns.holders(0), [(1_024, turns.slots[1])].into());
    turns.overrule();
    assert_eq!(turns.holders(0), [(1_024, turns.slots[0])].into());
    let held = view(turns.cluster.node(0)).conntracks;
    assert_eq!(held.len(), told.len());
    let counted = turns.cluster.node(0).counters();
    assert_eq!(
        counted.absorb_evicted,
        u64::from(FLOWS) + 1,
        "flows and block of the other"
    );
    turns.assert_standby_has(0, &told);
}

/// Behind the cut two subscribers of different workers have changed their blocks. What either worker is told of, the other one
/// still holds, until its own slot is swept: neither waits for the other.
#[test]
fn two_slots_of_a_demoted_node_that_hold_one_anothers_ports_are_both_verified() {
    let mut turns = Turns::with([2, 1], 2, 86);
    let told = [turns.open(0), turns.open(1)];
    turns.cluster.settle();
    let before = turns.holders(0);
    assert_eq!(before.len(), 2);
    turns.cluster.fabric.cut(true);
    turns.close(&told.concat());
    turns.open(1);
    turns.open(0);
    let after = turns.holders(0);
    assert!(
        after.iter().all(|(port, slot)| before[port] != *slot),
        "{after:?}"
    );
    turns.overrule();
    // What was refused is asked for a second later.
    turns.cluster.run(3_000 * MS);
    turns.cluster.settle();
    assert_eq!(turns.holders(0), before);
    assert_eq!(turns.holders(1), before);
    assert!(view(turns.cluster.node(0)).lacking.is_empty());
}
