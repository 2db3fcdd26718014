//! Slots that change hands between workers while packets and records flow: nothing is lost, doubled or out of order, and
//! the peer notices nothing.

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};

use dataplane::counters::Counters;
use dataplane::delta::SlotRef;
use dataplane::flow::{Direction, FlowKey};
use dataplane::shard::slot_of_address;
use dataplane::tables::Tables;
use dataplane::transit::{Hindrance, Unmoved};
use dataplane::verdict::Drop;
use state_sync::role::Desire;
use testkit::checker::{blocks, contradictions, tuple, view};
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, MAIN, Setup, WAN, server, subscriber};
use testkit::packet;
use testkit::random::Random;

use crate::replication::{conntracks, open_flows, remove};

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

fn setup() -> Setup {
    Setup {
        workers: 3,
        ..Setup::default()
    }
}

const fn at(slot: u16) -> SlotRef {
    SlotRef { vrf: MAIN, slot }
}

/// Has a slot of a node go to a worker, and waits until it is there, `meanwhile` doing what it likes.
fn relocate(cluster: &mut Cluster, node: usize, slot: u16, to: u16, mut meanwhile: impl FnMut(&mut Cluster)) {
    let now = cluster.now;
    if cluster.node(node).move_slot(at(slot), to, now) == Err(Unmoved::There) {
        return;
    }
    for _ in 0..10_000 {
        if cluster.node(node).is_at_rest() {
            return;
        }
        cluster.turn(10 * US);
        meanwhile(cluster);
    }
    panic!("slot {slot} of node {node} doesn't arrive");
}

/// Every entry is in the worker that the table of owners names, and nowhere else.
fn everything_is_where_it_belongs(cluster: &mut Cluster, node: usize) {
    let node = cluster.node(node);
    let owners = std::sync::Arc::clone(&node.shared.owners);
    let mut seen = HashMap::new();
    for (worker, tables) in (0_u16..).zip(node.tables()) {
        for (_, conntrack) in tables.conntracks.iter_live() {
            let key = tuple(&conntrack.key(Direction::Original));
            assert_eq!(owners.worker_of(conntrack.at()), worker, "{key:?}");
            assert_eq!(seen.insert(key, worker), None, "{key:?} is there twice");
        }
        for (slot, _) in tables.slots.of_vrf(MAIN) {
            assert_eq!(owners.worker_of(at(slot)), worker, "slot {slot}");
        }
        let mut rows = Vec::new();
        tables.nat.blocks(0, u32::MAX, &mut rows);
        for row in rows {
            assert_eq!(owners.worker_of(at(row.slot)), worker, "{row:?}");
        }
    }
    let slots: usize = node.tables().map(|t| t.slots.of_vrf(MAIN).count()).sum();
    assert_eq!(slots, usize::from(node.setup.slots));
    assert_eq!(contradictions(node), Vec::<String>::new());
}

/// What has become of the moves of a node: how many came to their end, and counters that must agree with that.
fn came_to_their_end(cluster: &mut Cluster, node: usize) -> u64 {
    let node = cluster.node(node);
    let moved = node.moves.iter().filter(|m| m.is_ok()).count() as u64;
    let c = node.counters();
    assert_eq!((c.slots_departed, c.slots_arrived), (moved, moved));
    assert_eq!(c.conntracks_departed, c.conntracks_arrived);
    assert_eq!((c.conntracks_unmoved, c.dropped(Drop::SlotMoving)), (0, 0));
    moved
}

/// Records that were sent beside those of changes, and records that nobody could do anything with.
fn disturbance(counters: &Counters) -> [u64; 4] {
    [
        counters.walk_records,
        counters.slots_dirtied,
        counters.absorb_fenced,
        counters.absorb_unknown,
    ]
}

fn disturbances(cluster: &mut Cluster) -> [[u64; 4]; 2] {
    [0, 1].map(|node| disturbance(&cluster.node(node).counters()))
}

/// Traffic of known flows, each direction by a queue of its own, with numbers to tell its order by.
struct Traffic {
    flows: Vec<(FlowKey, FlowKey)>,
    sent: Vec<[u32; 2]>,
    left: HashMap<FlowKey, u32>,
    random: Random,
}

impl Traffic {
    fn new(flows: Vec<(FlowKey, FlowKey)>, seed: u64) -> Self {
        Self {
            sent: vec![[0; 2]; flows.len()],
            left: HashMap::new(),
            flows,
            random: Random::new(seed),
        }
    }

    /// A packet of some flow comes in.
    fn step(&mut self, cluster: &mut Cluster) {
        let flow = self.random.index(self.flows.len());
        let (inside, outside) = self.flows[flow];
        let back = self.random.one_in(2);
        let (port, key) = if back {
            (WAN, outside.reversed())
        } else {
            (LAN, inside)
        };
        let node = cluster.node(0);
        let queue = usize::from(key.src_port ^ key.dst_port) % node.workers();
        let number = &mut self.sent[flow][usize::from(back)];
        *number += 1;
        let link = packet::to_node(1, port, &key.src);
        let frame = link.udp(&key, &number.to_be_bytes());
        assert!(node.inject(queue, port, &frame), "no buffer");
    }

    /// What has left since the last look left translated as ever, and in order.
    fn look(&mut self, cluster: &mut Cluster) {
        for sent in core::mem::take(&mut cluster.sent) {
            let Some(key) = packet::flow(&sent.frame) else {
                continue;
            };
            if sent.node != 0 || key.proto != 17 {
                continue;
            }
            let number = u32::from_be_bytes(sent.frame[sent.frame.len() - 4..].try_into().unwrap());
            let before = self.left.entry(key).or_default();
            assert_eq!(number, *before + 1, "{key:?} by {:?}", sent.port);
            *before = number;
        }
    }

    /// Everything has left.
    fn finish(mut self, cluster: &mut Cluster) -> u32 {
        cluster.run(20 * MS);
        self.look(cluster);
        let mut packets = 0;
        for ((inside, outside), [forth, back]) in self.flows.iter().zip(&self.sent) {
            let left = |key: &FlowKey| self.left.get(key).copied().unwrap_or_default();
            assert_eq!(left(outside), *forth, "{inside:?}");
            assert_eq!(left(&inside.reversed()), *back, "{outside:?}");
            packets += forth + back;
        }
        packets
    }
}

#[test]
fn a_slot_moves_with_everything_and_its_peer_notices_nothing() {
    let mut cluster = Cluster::pair(setup(), 701);
    let flows = open_flows(&mut cluster, 0, 300, 10_000);
    cluster.settle();
    let (before, there) = (view(cluster.node(0)), blocks(cluster.node(0)).len());
    let calm = disturbances(&mut cluster);
    for node in 0..2 {
        for slot in 0..16 {
            relocate(&mut cluster, node, slot, slot % 3, |_| {});
            everything_is_where_it_belongs(&mut cluster, node);
        }
        assert!(came_to_their_end(&mut cluster, node) > 8);
    }
    assert_eq!(view(cluster.node(0)).conntracks, before.conntracks);
    assert_eq!(blocks(cluster.node(0)).len(), there);
    cluster.settle();
    assert_eq!(disturbances(&mut cluster), calm);
    for (inside, outside) in &flows {
        assert_eq!(cluster.out(0, inside), Some(*outside));
        assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
    }
    // Changes are told by whoever has the slot now, and reach whoever has it there.
    remove(&mut cluster, 0, &flows[..100]);
    open_flows(&mut cluster, 0, 100, 20_000);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 1), 300);
    assert_eq!(disturbances(&mut cluster), calm);
    for node in 0..2 {
        everything_is_where_it_belongs(&mut cluster, node);
    }
}

#[test]
fn no_packet_is_lost_or_overtaken_while_slots_move() {
    for seed in 0..6 {
        let mut cluster = Cluster::pair(setup(), 710 + seed);
        cluster.watch.every_entry = true;
        let flows = open_flows(&mut cluster, 0, 120, 10_000);
        cluster.settle();
        cluster.sent.clear();
        let calm = disturbances(&mut cluster);
        let mut random = Random::new(seed);
        let mut traffic = Traffic::new(flows, seed);
        for _ in 0..4_000 {
            let now = cluster.now;
            for node in 0..2 {
                if cluster.node(node).is_at_rest() && random.one_in(8) {
                    let slot = u16::try_from(random.index(16)).unwrap();
                    let to = u16::try_from(random.index(3)).unwrap();
                    let _ = cluster.node(node).move_slot(at(slot), to, now);
                }
            }
            for _ in 0..random.index(6) {
                traffic.step(&mut cluster);
            }
            // Threads go on in any order, some of them more often than others.
            for _ in 0..random.index(8) {
                let node = random.index(2);
                let thread = random.index(cluster.node(node).threads() + 1);
                cluster.turn_thread(node, thread);
            }
            cluster.now = cluster.now + 5 * US;
            traffic.look(&mut cluster);
        }
        cluster.run(5 * MS);
        let packets = traffic.finish(&mut cluster);
        assert!(packets > 8_000, "{packets}");
        cluster.settle();
        assert_eq!(disturbances(&mut cluster), calm);
        for node in 0..2 {
            let moves = came_to_their_end(&mut cluster, node);
            assert!(moves > 20, "{moves} moves");
            everything_is_where_it_belongs(&mut cluster, node);
        }
        assert!(cluster.node(0).counters().slot_awaited > 0);
    }
}

#[test]
fn first_packets_and_ends_while_slots_move_leave_both_nodes_equal() {
    for seed in 0..4 {
        let mut cluster = Cluster::pair(
            Setup {
                port_rest_s: 1,
                block_idle_s: 1,
                ..setup()
            },
            720 + seed,
        );
        cluster.watch.every_entry = true;
        let mut random = Random::new(seed);
        let mut flows: BTreeMap<u16, FlowKey> = BTreeMap::new();
        let calm = disturbances(&mut cluster);
        for round in 0..3_000_u16 {
            let now = cluster.now;
            for node in 0..2 {
                if cluster.node(node).is_at_rest() && random.one_in(4) {
                    let slot = u16::try_from(random.index(16)).unwrap();
                    let to = u16::try_from(random.index(3)).unwrap();
                    let _ = cluster.node(node).move_slot(at(slot), to, now);
                }
            }
            if random.one_in(2) {
                let host = u8::try_from(random.index(40) + 1).unwrap();
                let key = packet::udp(subscriber(host), 10_000 + round, server(host), 53);
                let frame = packet::simple(&packet::to_node(1, LAN, &key.src), &key);
                let queue = random.index(3);
                assert!(cluster.node(0).inject(queue, LAN, &frame));
                flows.insert(round, key);
            }
            if random.one_in(3) && !flows.is_empty() {
                let oldest = *flows.keys().next().unwrap();
                let key = flows.remove(&oldest).unwrap();
                remove(&mut cluster, 0, &[(key, ())]);
            }
            for _ in 0..random.index(8) {
                let node = random.index(2);
                let thread = random.index(cluster.node(node).threads() + 1);
                cluster.turn_thread(node, thread);
            }
            cluster.now = cluster.now + 1_000 * US;
        }
        cluster.run(20 * MS);
        cluster.settle();
        assert_eq!(disturbances(&mut cluster)[0][..2], calm[0][..2]);
        for node in 0..2 {
            assert!(came_to_their_end(&mut cluster, node) > 20);
            everything_is_where_it_belongs(&mut cluster, node);
        }
        let counters = cluster.node(0).counters();
        assert_eq!(
            counters.dropped(Drop::PoolExhausted) + counters.dropped(Drop::NoMapping),
            0
        );
    }
}

/// A limit that is lowered while a slot is on its way is lowered when it is there: it was promised its room.
#[test]
fn room_that_was_promised_to_a_slot_is_not_taken_back() {
    let setup = Setup {
        conntracks: 256,
        conntracks_most: Some(256),
        ..setup()
    };
    let mut cluster = Cluster::pair(setup, 725);
    open_flows(&mut cluster, 0, 300, 10_000);
    cluster.settle();
    for node in 0..2 {
        let held = |cluster: &mut Cluster| {
            cluster
                .node(node)
                .tables()
                .map(|t| t.conntracks.len())
                .sum::<usize>()
        };
        assert_eq!(held(&mut cluster), 300);
        let slot = (0..16)
            .find(|slot| cluster.node(node).worker_of(at(*slot)) != 2)
            .unwrap();
        relocate(&mut cluster, node, slot, 2, |cluster| {
            let moves = cluster.node(node).tables().any(Tables::is_changing_hands);
            if moves {
                cluster.node(node).room = Some(16);
            }
        });
        cluster.run(MS);
        let most = |cluster: &mut Cluster| cluster.node(node).tables().map(|t| t.conntracks.capacity()).max();
        assert_eq!(most(&mut cluster), Some(16), "it is lowered in the end");
        assert_eq!(held(&mut cluster), 300);
        assert_eq!(came_to_their_end(&mut cluster, node), 1);
        assert!(cluster.node(node).counters().conntracks_arrived > 0);
    }
}

#[test]
fn flows_survive_a_failover_to_a_node_whose_slots_have_moved() {
    let mut cluster = Cluster::pair(setup(), 730);
    let flows = open_flows(&mut cluster, 0, 200, 10_000);
    for slot in 0..16 {
        relocate(&mut cluster, 1, slot, (slot + 1) % 3, |_| {});
    }
    cluster.settle();
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(100 * MS);
    assert_eq!(cluster.active(), Some(1));
    for (inside, outside) in &flows {
        assert_eq!(cluster.out(1, inside), Some(*outside));
        assert_eq!(cluster.back(1, outside), Some(inside.reversed()));
    }
    everything_is_where_it_belongs(&mut cluster, 1);
    // And back: an empty node imports slots from wherever they are.
    cluster.start(0);
    for slot in 0..16 {
        relocate(&mut cluster, 1, slot, slot % 3, |_| {});
    }
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 0), 200);
    everything_is_where_it_belongs(&mut cluster, 1);
}

#[test]
fn an_event_thread_that_stands_delays_no_packet() {
    let mut cluster = Cluster::pair(setup(), 740);
    let flows = open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    cluster.sent.clear();
    let workers = cluster.node(0).workers();
    let now = cluster.now;
    let mut traffic = Traffic::new(flows, 1);
    // Before it has seen anything, packets go on where they went.
    for standing in [0, 30] {
        assert!(cluster.node(0).move_slot(at(4), 0, now).is_ok());
        for turn in 0..200 {
            if turn == standing {
                cluster.node(0).stopped[workers] = true;
                cluster.node(0).stopped[workers + 1] = true;
            }
            traffic.step(&mut cluster);
            cluster.turn(US);
            traffic.look(&mut cluster);
        }
        let left: u32 = traffic.left.values().sum();
        let came: u32 = traffic.sent.iter().flatten().sum();
        assert!(came - left < 12, "{came} came and {left} have left");
        cluster.node(0).stopped.fill(false);
        cluster.run(5 * MS);
        assert!(cluster.node(0).is_at_rest());
        relocate(&mut cluster, 0, 4, 2, |_| {});
    }
    traffic.finish(&mut cluster);
    cluster.settle();
    everything_is_where_it_belongs(&mut cluster, 0);
}

#[test]
fn what_the_former_worker_has_told_is_taken_before_what_the_new_one_tells() {
    let mut cluster = Cluster::pair(setup(), 760);
    let owners = std::sync::Arc::clone(&cluster.node(0).shared.owners);
    let slot_of = |host: u8| slot_of_address(&subscriber(host), 16);
    // From the last worker to the first one, whose ring is looked at first.
    let host = (1..40)
        .find(|&host| owners.worker_of(at(slot_of(host))) == 2)
        .unwrap();
    let slot = slot_of(host);
    let calm = disturbances(&mut cluster);
    let mut port = 10_000;
    let mut open = |cluster: &mut Cluster| {
        port += 1;
        let key = packet::udp(subscriber(host), port, server(1), 53);
        let frame = packet::simple(&packet::to_node(1, LAN, &key.src), &key);
        assert!(cluster.node(0).inject(2, LAN, &frame));
    };
    let (agent, workers, events) = (0, 1..4, 4..6);
    let now = cluster.now;
    cluster.node(0).move_slot(at(slot), 0, now).unwrap();
    let mut steered = 0;
    for _ in 0..200 {
        open(&mut cluster);
        // Event threads stand from the moment on at which they steer records elsewhere.
        steered += usize::from(owners.receiver_of(at(slot)) == 0);
        let threads = workers.clone().chain(events.clone().take_while(|_| steered < 2));
        for thread in threads.chain([agent]) {
            cluster.turn_thread(0, thread);
        }
    }
    let counters = cluster.node(0).counters();
    assert_eq!((counters.slots_departed, counters.slots_arrived), (1, 0));
    assert!(counters.slot_awaited > 0);
    assert_eq!(owners.worker_of(at(slot)), 0);
    // First packets that have come since are answered for by the new worker already.
    let waiting: Vec<u64> = cluster.node(0).tables().map(|t| t.listed()).collect();
    assert!(waiting[0] > 10 && waiting[2] == 0, "{waiting:?}");
    cluster.run(5 * MS);
    cluster.settle();
    assert_eq!(came_to_their_end(&mut cluster, 0), 1);
    assert_eq!(disturbances(&mut cluster), calm);
    assert_eq!(conntracks(&mut cluster, 1), 200);
}

#[test]
fn what_is_in_the_way_leaves_everything_where_it_is() {
    let mut cluster = Cluster::pair(
        Setup {
            conntracks: 64,
            ..setup()
        },
        750,
    );
    let flows = open_flows(&mut cluster, 0, 90, 10_000);
    cluster.settle();
    let now = cluster.now;
    let owners = std::sync::Arc::clone(&cluster.node(0).shared.owners);
    let known = |cluster: &mut Cluster, slot, to| cluster.node(0).move_slot(at(slot), to, now);
    assert_eq!(known(&mut cluster, 0, 3), Err(Unmoved::NoWorker));
    assert_eq!(known(&mut cluster, 0, 0), Err(Unmoved::There));
    assert_eq!(known(&mut cluster, 0, 1), Ok(()));
    assert_eq!(known(&mut cluster, 1, 1), Err(Unmoved::Busy));
    cluster.run(5 * MS);
    let refused = Unmoved::New(Hindrance::NoRoom);
    assert_eq!(cluster.node(0).moves.pop(), Some(Err(refused)));
    assert_eq!((owners.worker_of(at(0)), owners.receiver_of(at(0))), (0, 0));
    everything_is_where_it_belongs(&mut cluster, 0);
    for (inside, outside) in &flows {
        assert_eq!(cluster.out(0, inside), Some(*outside));
    }
    cluster.settle();
    assert_eq!(came_to_their_end(&mut cluster, 0), 0);
}
