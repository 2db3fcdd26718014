//! Ports while the nodes don't hear each other: both may be active, and none may give out what the other one does
//! (DESIGN.md section 6, "in doubt"; I7).

use core::time::Duration;
use std::collections::HashSet;

use dataplane::config::InDoubt;
use dataplane::flow::{Addr, Direction, FlowKey};
use dataplane::nat::{PoolRef, PoolUsage};
use dataplane::share::{Half, Share};
use state_sync::role::{DeclareError, Desire};
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::packet;

const MS: Duration = Duration::from_millis(1);

/// One public address with four blocks of 64 ports, of which a subscriber may have two.
fn scarce(in_doubt: InDoubt) -> Setup {
    Setup {
        pool_addresses: 1,
        pool_ports: dataplane::config::PortRange {
            first: 1_024,
            last: 1_024 + 255,
        },
        block_size: 64,
        blocks_max: 2,
        in_doubt,
        ..Setup::default()
    }
}

fn share(cluster: &mut Cluster, node: usize) -> Share {
    cluster.node(node).shared.roles.share(MAIN)
}

fn usage(cluster: &mut Cluster, node: usize) -> PoolUsage {
    let mut sum = PoolUsage::default();
    let pool = PoolRef::default();
    cluster
        .node(node)
        .tables()
        .filter_map(|tables| tables.nat.usage(pool))
        .for_each(|usage| sum += usage);
    sum
}

/// New flows of the first 20 subscribers, one inside port each from `first_port` on; the tuples outside.
fn open(cluster: &mut Cluster, node: usize, count: u16, first_port: u16) -> Vec<(FlowKey, Option<FlowKey>)> {
    (0..count)
        .map(|n| {
            let host = u8::try_from(n % 20 + 1).unwrap();
            let key = packet::udp(subscriber(host), first_port + n, server(1), 53);
            (key, cluster.out(node, &key))
        })
        .collect()
}

/// As many flows as there are ports for, of one subscriber.
fn drain(cluster: &mut Cluster, node: usize, first_port: u16) -> usize {
    (0..200)
        .map(|n| packet::udp(subscriber(1), first_port + n, server(1), 53))
        .filter(|key| cluster.out(node, key).is_some())
        .count()
}

fn endpoints(flows: &[(FlowKey, Option<FlowKey>)]) -> HashSet<(Addr, u16)> {
    flows
        .iter()
        .filter_map(|(_, out)| out.map(|o| (o.src, o.src_port)))
        .collect()
}

/// Both nodes active, the link cut: the first one from the start, the second one ordered while the first has not even
/// noticed the cut.
fn split(seed: u64) -> (Cluster, HashSet<(Addr, u16)>) {
    let mut cluster = Cluster::pair(Setup::default(), seed);
    let mut known = endpoints(&open(&mut cluster, 0, 200, 10_000));
    cluster.settle();
    assert_eq!(share(&mut cluster, 0), Share::HalfFirst(Half::Low));
    cluster.fabric.cut(true);
    // Nobody will hear of these: the cut is noticed within a second.
    known.extend(endpoints(&open(&mut cluster, 0, 60, 20_000)));
    cluster.order(1, Desire::Ordered);
    cluster.run(1_500 * MS);
    assert_eq!(share(&mut cluster, 0), Share::HalfOnly(Half::Low));
    assert_eq!(share(&mut cluster, 1), Share::HalfOnly(Half::High));
    (cluster, known)
}

/// sync/PROTOCOL.md R-70.
#[test]
fn two_nodes_that_are_both_active_never_give_out_the_same_port() {
    for seed in 1..6 {
        let (mut cluster, known) = split(seed);
        let mut all = known.len();
        let mut outside = known;
        for round in 0..10 {
            for node in 0..2 {
                // The same inside endpoints on both nodes, then different ones.
                let first_port = 30_000 + round * 40 + [0, 20][node];
                let flows = endpoints(&open(&mut cluster, node, 40, first_port));
                // Inside ports that the node has mapped before keep their public port.
                let fresh: HashSet<_> = flows.difference(&outside).copied().collect();
                all += fresh.len();
                outside.extend(fresh);
            }
            cluster.run(10 * MS);
        }
        let live = |cluster: &mut Cluster, node: usize| -> HashSet<(Addr, u16, Addr, u16)> {
            let tables = cluster.node(node).tables();
            tables
                .flat_map(|tables| tables.conntracks.iter_live())
                .map(|(_, c)| {
                    (
                        c.key(Direction::Original).src,
                        c.key(Direction::Original).src_port,
                        c.key(Direction::Reply).dst,
                        c.key(Direction::Reply).dst_port,
                    )
                })
                .collect()
        };
        let (a, b) = (live(&mut cluster, 0), live(&mut cluster, 1));
        let known_to_both: HashSet<_> = a
            .intersection(&b)
            .map(|(.., address, port)| (*address, *port))
            .collect();
        let of = |node: &HashSet<(Addr, u16, Addr, u16)>| -> HashSet<(Addr, u16)> {
            node.iter().map(|(.., address, port)| (*address, *port)).collect()
        };
        let both: HashSet<_> = of(&a).intersection(&of(&b)).copied().collect();
        assert_eq!(both, known_to_both, "seed {seed}: a port given out twice");
        assert!(all > 400, "{all}");
        for node in 0..2 {
            assert_eq!(usage(&mut cluster, node).ports_borrowed, 0);
        }
        cluster.fabric.cut(false);
        cluster.settle();
        assert_eq!(cluster.active(), Some(1));
        assert_eq!(share(&mut cluster, 1), Share::HalfFirst(Half::High));
        cluster.order(0, Desire::Ordered);
        cluster.settle();
        assert_eq!(share(&mut cluster, 0), Share::HalfFirst(Half::Low));
    }
}

#[test]
fn a_node_alone_has_no_doubt_and_a_booting_one_has() {
    let mut alone = Cluster::new(
        Setup {
            grouped: false,
            ..Setup::default()
        },
        1,
    );
    alone.run(10 * MS);
    assert_eq!(share(&mut alone, 0), Share::Whole);
    let mut cluster = Cluster::new(Setup::default(), 2);
    cluster.kill(1, Death::Power);
    cluster.run(2_000 * MS);
    assert_eq!(cluster.active(), Some(0));
    assert_eq!(share(&mut cluster, 0), Share::HalfOnly(Half::Low));
}

/// sync/PROTOCOL.md R-72.
#[test]
fn what_lies_beyond_the_own_half_is_borrowed_or_refused() {
    for (in_doubt, expected) in [(InDoubt::Borrow, (128, 64)), (InDoubt::Refuse, (64, 0))] {
        let mut cluster = Cluster::pair(scarce(in_doubt), 3);
        cluster.kill(0, Death::Process);
        cluster.order(1, Desire::Ordered);
        cluster.run(1_200 * MS);
        assert_eq!(drain(&mut cluster, 1, 10_000), expected.0, "{in_doubt:?}");
        let usage = usage(&mut cluster, 1);
        assert_eq!(usage.ports_borrowed, expected.1, "{in_doubt:?}");
        assert_eq!(usage.refused_in_doubt > 0, in_doubt == InDoubt::Refuse);
    }
}

#[test]
fn a_peer_declared_dead_leaves_everything_to_this_node_until_it_is_heard_again() {
    let mut cluster = Cluster::pair(scarce(InDoubt::Refuse), 4);
    assert_eq!(cluster.node(0).declare_dead(), Err(DeclareError::Alive));
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(1_200 * MS);
    assert_eq!(drain(&mut cluster, 1, 10_000), 64);
    assert_eq!(cluster.node(1).declare_dead(), Ok(()));
    cluster.run(10 * MS);
    assert_eq!(share(&mut cluster, 1), Share::HalfFirst(Half::High));
    assert_eq!(drain(&mut cluster, 1, 20_000), 64);
    assert_eq!(usage(&mut cluster, 1).ports_borrowed, 0);
    // It comes back: until it has everything there is doubt again, and after its next death too.
    cluster.start(0);
    cluster.settle();
    assert_eq!(share(&mut cluster, 1), Share::HalfFirst(Half::High));
    cluster.kill(0, Death::Process);
    cluster.run(1_500 * MS);
    assert_eq!(share(&mut cluster, 1), Share::HalfOnly(Half::High));
}

/// sync/PROTOCOL.md R-71.
#[test]
fn doubt_lasts_until_the_peer_has_everything() {
    let mut cluster = Cluster::pair(
        Setup {
            slots: 64,
            ..Setup::default()
        },
        5,
    );
    open(&mut cluster, 0, 200, 10_000);
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.run(1_500 * MS);
    cluster.start(1);
    cluster.node(1).stop_absorb(true);
    cluster.run(1_500 * MS);
    assert!(cluster.node(0).board.view(0, MAIN, 64).vrf.is_some(), "connected");
    assert_eq!(share(&mut cluster, 0), Share::HalfOnly(Half::Low));
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(share(&mut cluster, 0), Share::HalfFirst(Half::Low));
}

/// Opens UDP flows on a node that get an answer; inside and outside tuples.
fn converse(cluster: &mut Cluster, node: usize, count: u16, first_port: u16) -> Vec<(FlowKey, FlowKey)> {
    let flows: Vec<_> = open(cluster, node, count, first_port)
        .into_iter()
        .map(|(key, out)| (key, out.unwrap()))
        .collect();
    for (key, out) in &flows {
        assert_eq!(cluster.back(node, out), Some(key.reversed()));
    }
    flows
}

fn sum(cluster: &mut Cluster, node: usize, name: &str) -> u64 {
    let counters = cluster.node(node).counters();
    counters
        .named()
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
        .unwrap()
}

/// How many of the flows both directions pass a node, unchanged. The answers come first: they open nothing.
fn alive(cluster: &mut Cluster, node: usize, flows: &[(FlowKey, FlowKey)]) -> usize {
    flows
        .iter()
        .filter(|(key, out)| {
            cluster.back(node, out) == Some(key.reversed()) && cluster.out(node, key) == Some(*out)
        })
        .count()
}

/// R-73; DESIGN.md section 8, point 9.
#[test]
fn the_flows_of_the_node_that_gives_way_go_on_at_the_other_one() {
    for seed in 10..14 {
        let (mut cluster, _) = split(seed);
        let of_loser = converse(&mut cluster, 0, 60, 40_000);
        let of_winner = converse(&mut cluster, 1, 60, 50_000);
        cluster.run(50 * MS);
        cluster.fabric.cut(false);
        cluster.settle();
        assert_eq!(cluster.active(), Some(1));
        assert_eq!(alive(&mut cluster, 1, &of_winner), 60, "seed {seed}");
        assert_eq!(alive(&mut cluster, 1, &of_loser), 60, "seed {seed}");
        assert_eq!(sum(&mut cluster, 0, "tails_lost"), 0);
        let (offered, adopted) = (
            sum(&mut cluster, 0, "tails_offered"),
            sum(&mut cluster, 1, "tails_adopted"),
        );
        assert!(
            adopted >= 60 && offered >= adopted,
            "seed {seed}: {offered} and {adopted}"
        );
        // They are the winner's now: equal on both nodes, and they survive it.
        cluster.settle();
        cluster.kill(1, Death::Process);
        cluster.order(0, Desire::Ordered);
        cluster.run(1_200 * MS);
        assert_eq!(alive(&mut cluster, 0, &of_winner), 60, "seed {seed}");
        assert_eq!(alive(&mut cluster, 0, &of_loser), 60, "seed {seed}");
    }
}

#[test]
fn what_both_have_opened_is_the_winners_and_counted() {
    let (mut cluster, _) = split(20);
    let of_loser = converse(&mut cluster, 0, 40, 40_000);
    // The same inside endpoints to the same servers: one tuple, two public ports.
    let of_winner = converse(&mut cluster, 1, 40, 40_000);
    assert!(
        of_loser
            .iter()
            .zip(&of_winner)
            .all(|(a, b)| a.0 == b.0 && a.1 != b.1)
    );
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(alive(&mut cluster, 1, &of_winner), 40);
    assert!(of_loser.iter().all(|(_, out)| cluster.back(1, out).is_none()));
    let colliding = [0, 1].map(|node| sum(&mut cluster, node, "tails_colliding"));
    assert_eq!(colliding, [40, 0], "each that gave way is counted once");
}

#[test]
fn what_the_winner_has_ended_meanwhile_does_not_come_back() {
    let mut cluster = Cluster::pair(Setup::default(), 21);
    let flows = converse(&mut cluster, 0, 40, 40_000);
    cluster.settle();
    cluster.fabric.cut(true);
    cluster.order(1, Desire::Ordered);
    cluster.run(1_500 * MS);
    // Told to the winner, which hears nothing of them any more; kept by the loser.
    for round in 0..8 {
        cluster.idle(Duration::from_secs(50));
        if round < 7 {
            assert_eq!(alive(&mut cluster, 0, &flows), 40);
        }
    }
    let held = |cluster: &mut Cluster, node: usize| -> usize {
        let tables = cluster.node(node).tables();
        tables.map(|tables| tables.conntracks.iter_live().count()).sum()
    };
    assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (40, 0));
    // Something of its own in every slot, or the slots would merely be caught up.
    let own = converse(&mut cluster, 0, 20, 50_000);
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(sum(&mut cluster, 0, "tails_offered"), 60);
    assert_eq!(sum(&mut cluster, 1, "tails_over"), 40);
    assert_eq!(sum(&mut cluster, 1, "tails_adopted"), 20);
    assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (20, 20));
    assert_eq!(alive(&mut cluster, 1, &own), 20);
}

/// The winner is active already when it hears of them, and takes none of it. What it hasn't taken it has not heard of.
#[test]
fn what_is_under_way_at_a_take_over_is_adopted_after_it() {
    let setup = Setup {
        elected: true,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 22);
    converse(&mut cluster, 0, 40, 40_000);
    cluster.settle();
    cluster.node(1).stop_absorb(true);
    let flows = converse(&mut cluster, 0, 40, 50_000);
    cluster.run(5 * MS);
    cluster.order(1, Desire::Ordered);
    cluster.run(MS);
    assert!(cluster.node(1).is_active(MAIN));
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
    assert!(sum(&mut cluster, 1, "absorb_fenced") >= 40, "they came too late");
    assert_eq!(sum(&mut cluster, 1, "tails_adopted"), 40);
    assert_eq!(alive(&mut cluster, 1, &flows), 40);
}
