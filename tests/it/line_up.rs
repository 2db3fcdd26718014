//! What comes straight to a node that has taken over doesn't overtake what comes redirected (sync/PROTOCOL.md R-59).

use core::time::Duration;

use dataplane::config::StandbyPolicy;
use dataplane::flow::FlowKey;
use state_sync::handover::DRAIN_MAX;
use state_sync::role::Desire;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, MAIN, Setup, server, subscriber};
use testkit::expect::counters;
use testkit::packet::{self, to_node};
use testkit::random::Random;

const MS: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_micros(100);

fn key() -> FlowKey {
    packet::udp(subscriber(1), 5_000, server(1), 53)
}

/// Node 1 has taken over from node 0, and a packet of the flow has come redirected.
fn taken_over(setup: Setup) -> Cluster {
    let mut cluster = Cluster::pair(setup, 5);
    inject(&mut cluster, 0, 0..1);
    cluster.run(5 * MS);
    cluster.settle();
    cluster.order(1, Desire::Ordered);
    let end = cluster.now + 2 * DRAIN_MAX;
    while cluster.node(0).is_active(MAIN) || !cluster.node(1).is_active(MAIN) {
        cluster.turn(STEP);
        assert!(cluster.now < end, "node 1 is not active");
    }
    cluster.after_step();
    cluster.sent.clear();
    inject(&mut cluster, 0, 0..1);
    cluster.run(5 * MS);
    assert_eq!(left(&mut cluster), [0]);
    assert_eq!(cluster.node(1).counters().redirects_taken, 1);
    cluster
}

fn redirecting() -> Setup {
    Setup {
        standby: StandbyPolicy::Redirect,
        ..Setup::default()
    }
}

/// Puts numbered packets of the flow into a receive queue of a node.
fn inject(cluster: &mut Cluster, node: usize, numbers: core::ops::Range<u16>) {
    inject_by(cluster, node, 0, numbers);
}

fn inject_by(cluster: &mut Cluster, node: usize, worker: usize, numbers: core::ops::Range<u16>) {
    let link = to_node([1, 2][node], LAN, &key().src);
    for number in numbers {
        let frame = link.udp(&key(), &number.to_be_bytes());
        assert!(
            cluster.node(node).inject(worker, LAN, &frame),
            "no buffer for a frame"
        );
    }
}

/// Numbers of the flow's packets that have left node 1 since, in order; none has left the other one.
fn left(cluster: &mut Cluster) -> Vec<u16> {
    let others = cluster.sent.iter().filter(|sent| sent.node != 1);
    assert_eq!(
        others.filter(|sent| packet::flow(&sent.frame).is_some()).count(),
        0
    );
    left_by_any(cluster)
}

/// Numbers of the flow's packets that have left either node since, in order.
fn left_by_any(cluster: &mut Cluster) -> Vec<u16> {
    let of_flow = |frame: &[u8]| packet::flow(frame).is_some_and(|flow| flow.dst == server(1));
    let sent = cluster.sent.drain(..).filter(|sent| of_flow(&sent.frame));
    sent.map(|sent| u16::from_be_bytes([sent.frame[sent.frame.len() - 2], sent.frame[sent.frame.len() - 1]]))
        .collect()
}

fn counted(cluster: &mut Cluster, name: &str) -> u64 {
    counters(cluster.node(1))[name]
}

/// whatever holds them up on their way: the event thread, the worker, or the other worker, which has received them.
#[test]
fn r59_straight_packets_wait_for_those_that_the_other_node_has_still_got() {
    for (receiver, thread) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)] {
        let mut cluster = taken_over(redirecting());
        cluster.node(0).stopped[thread] = true;
        if thread == 2 {
            cluster.node(0).stop_events(true);
        }
        inject_by(&mut cluster, 0, receiver, 1..41);
        cluster.run(MS);
        inject(&mut cluster, 1, 41..81);
        cluster.run(2 * MS);
        inject(&mut cluster, 1, 81..90);
        cluster.run(2 * MS);
        cluster.node(0).stopped.fill(false);
        cluster.run(5 * MS);
        let numbers = left(&mut cluster);
        assert_eq!(
            numbers,
            (1..90).collect::<Vec<_>>(),
            "received by worker {receiver} of node 0, whose thread {thread} stood still"
        );
        assert!(counted(&mut cluster, "lined_up") <= 49);
        assert_eq!(counted(&mut cluster, "lined_up_late"), 0);
        cluster.settle();
    }
}

/// a worker may have handed it to its owner when that one had let the fence through already.
#[test]
fn r59_a_packet_between_two_workers_of_the_other_node_is_waited_for() {
    for receiver in 0..2 {
        let mut cluster = taken_over(redirecting());
        cluster.node(0).stopped[receiver] = true;
        inject_by(&mut cluster, 0, receiver, 1..11);
        inject(&mut cluster, 0, 0..1);
        cluster.run(MS);
        inject(&mut cluster, 1, 11..21);
        cluster.run(2 * MS);
        cluster.node(0).stopped[..2].rotate_left(1);
        cluster.run(2 * MS);
        cluster.node(0).stopped.fill(false);
        cluster.run(5 * MS);
        let numbers: Vec<_> = left(&mut cluster).into_iter().filter(|n| *n > 0).collect();
        assert_eq!(
            numbers,
            (1..21).collect::<Vec<_>>(),
            "received by worker {receiver}"
        );
        assert_eq!(counted(&mut cluster, "lined_up_late"), 0);
    }
}

/// Whenever in a switchover the links turn from one node to the other, also before it is active: what came to it then was
/// redirected to the former active node, may have been sent back from there, and goes on before what comes later.
#[test]
fn a_flow_keeps_its_order_whenever_the_links_turn() {
    for (turn_at, hangs) in (0..60).step_by(5).zip([0, 3, 4].into_iter().cycle()) {
        let mut cluster = Cluster::pair(redirecting(), 5);
        inject(&mut cluster, 0, 0..1);
        // What comes to a node of an old reign and what is redirected to it are in order while the traffic turns away from it.
        cluster.run(6_000 * MS);
        cluster.settle();
        cluster.after_step();
        cluster.sent.clear();
        let now = cluster.now;
        cluster.node(0).switch_over(now).unwrap();
        for number in 1..200_u16 {
            inject(&mut cluster, usize::from(number > turn_at), number..number + 1);
            // The former active node has its moments.
            let stands = u16::from(number % 5 < hangs);
            cluster.node(0).stopped[..2].fill(stands > 0);
            cluster.turn(STEP);
        }
        cluster.node(0).stopped.fill(false);
        cluster.run(30 * MS);
        assert!(cluster.node(1).is_active(MAIN));
        assert_eq!(
            left_by_any(&mut cluster),
            (1..200).collect::<Vec<_>>(),
            "the links turn after {turn_at} packets"
        );
    }
}

/// The role goes to and fro under traffic that comes by either node, while threads of both have their moments: each packet leaves
/// once.
#[test]
fn nothing_is_lost_when_the_role_goes_to_and_fro() {
    for seed in 1..5 {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::pair(redirecting(), seed);
        inject(&mut cluster, 0, 0..1);
        cluster.run(50 * MS);
        cluster.settle();
        cluster.after_step();
        cluster.sent.clear();
        let (mut by, mut handed_over) = (0, 0);
        for number in 1..4_000 {
            if random.below(100) == 0 {
                by = 1 - by;
            }
            inject(&mut cluster, by, number..number + 1);
            for node in 0..2 {
                for stands in &mut cluster.node(node).stopped {
                    if random.below(20) == 0 {
                        *stands = !*stands && random.below(3) == 0;
                    }
                }
            }
            if random.below(200) == 0 {
                let (now, active) = (cluster.now, usize::from(cluster.node(1).is_active(MAIN)));
                // It may be refused: the last one has hardly ended.
                handed_over += u32::from(cluster.node(active).switch_over(now).is_ok());
            }
            cluster.turn(STEP);
        }
        for node in 0..2 {
            cluster.node(node).stopped.fill(false);
        }
        cluster.run(100 * MS);
        let mut numbers = left_by_any(&mut cluster);
        numbers.sort_unstable();
        let missing: Vec<_> = (1..4_000).filter(|n| numbers.binary_search(n).is_err()).collect();
        let drops = [0, 1].map(|node| {
            cluster
                .node(node)
                .counters()
                .drops()
                .filter(|d| d.1 > 0)
                .collect::<Vec<_>>()
        });
        assert_eq!(missing, [], "seed {seed}: {drops:?}");
        assert_eq!(numbers.len(), 3_999, "none is there twice");
        assert!(handed_over > 5, "{handed_over}");
        cluster.settle();
    }
}

/// Nobody waits for longer than 50 ms, and nothing is lost.
#[test]
fn a_node_that_has_died_meanwhile_delays_what_comes_straight_only_a_little() {
    let mut cluster = taken_over(redirecting());
    cluster.kill(0, Death::Power);
    inject(&mut cluster, 1, 1..41);
    cluster.run(45 * MS);
    assert_eq!(left(&mut cluster), []);
    cluster.run(10 * MS);
    assert_eq!(left(&mut cluster), (1..41).collect::<Vec<_>>());
    inject(&mut cluster, 1, 41..42);
    cluster.run(MS);
    assert_eq!(left(&mut cluster), [41], "nothing is redirected any more");
}

/// Where routing goes on bringing packets to both nodes, they don't wait for one another for good.
#[test]
fn later_in_a_reign_nobody_lines_up() {
    let mut cluster = taken_over(redirecting());
    cluster.run(6_000 * MS);
    inject(&mut cluster, 0, 1..2);
    cluster.run(MS);
    let before = counted(&mut cluster, "lined_up");
    cluster.node(0).stop_events(true);
    inject(&mut cluster, 0, 2..3);
    inject(&mut cluster, 1, 3..4);
    cluster.run(MS);
    assert_eq!(left(&mut cluster), [1, 3]);
    assert_eq!(counted(&mut cluster, "lined_up"), before);
}

/// There is room for 1,024: what comes beyond it goes on by itself.
#[test]
fn what_finds_no_room_goes_on_and_is_counted() {
    let mut cluster = taken_over(redirecting());
    cluster.node(0).stop_events(true);
    inject(&mut cluster, 0, 1..2);
    for from in (2..1_102).step_by(20) {
        inject(&mut cluster, 1, from..from + 20);
        cluster.turn(STEP);
    }
    assert_eq!(counted(&mut cluster, "lined_up"), 1_024);
    assert_eq!(counted(&mut cluster, "lined_up_full"), 76);
    cluster.after_step();
    assert_eq!(left(&mut cluster).len(), 76);
    cluster.node(0).stop_events(false);
    cluster.run(30 * MS);
    assert_eq!(left(&mut cluster).len(), 1_025, "nothing is lost");
}
