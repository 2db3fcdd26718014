//! Floods of first packets on a worker that is overrun: what nobody answers is shed, everything else isn't.

use dataplane::config::FirstPacketsPercent;
use dataplane::flow::FlowKey;
use dataplane::io::{BURST, PortId};
use dataplane::verdict::Drop;
use testkit::cluster::Cluster;
use testkit::config::{LAN, LAN_VIP, Setup, WAN, server6, subscriber, subscriber6};
use testkit::packet::{self, to_node};

/// First packets that may go unanswered at once, and some for the turns until a worker counts as overrun.
const FREE: usize = 65_536 + 64 * BURST;

/// A node, and the packets that one of its workers finds in its next turn.
struct Flooded {
    cluster: Cluster,
    worker: usize,
    packets: Vec<(PortId, Vec<u8>)>,
    /// Of the last flow of the flood.
    number: usize,
}

impl Flooded {
    fn new(conntracks: usize) -> Self {
        Self::at(0, 1, conntracks)
    }

    /// At a worker of so many.
    fn at(worker: usize, workers: u16, conntracks: usize) -> Self {
        let setup = Setup {
            grouped: false,
            workers,
            conntracks,
            ..Setup::default()
        };
        Self {
            cluster: Cluster::new(setup, 1),
            worker,
            packets: Vec::new(),
            number: 0,
        }
    }

    fn comes_from_inside(&mut self, key: &FlowKey) {
        let frame = packet::simple(&to_node(1, LAN, &key.src), key);
        self.packets.push((LAN, frame));
    }

    fn comes_from_outside(&mut self, key: &FlowKey) {
        let frame = packet::simple(&to_node(1, WAN, &key.src), key);
        self.packets.push((WAN, frame));
    }

    /// One turn with what has come since the last one; answers how many packets left by the WAN.
    fn turn(&mut self) -> usize {
        let now = self.cluster.now;
        let node = self.cluster.node(0);
        for (port, frame) in self.packets.drain(..) {
            assert!(node.inject(self.worker, port, &frame));
        }
        // Whoever has them handed over comes behind.
        node.step_thread(self.worker, now);
        for worker in (0..node.workers()).filter(|&other| other != self.worker) {
            node.step_thread(worker, now);
        }
        node.take_sent(LAN);
        node.take_sent(WAN).len()
    }

    fn shed(&mut self) -> u64 {
        self.cluster.node(0).counters().dropped(Drop::FirstPacketShed)
    }

    /// So many full bursts of first packets that nobody answers, with one packet of `known` in each, which has to come through.
    fn flood(&mut self, bursts: usize, known: &FlowKey) {
        for _ in 0..bursts {
            for _ in 1..BURST {
                self.number += 1;
                self.comes_from_inside(&flow(self.number));
            }
            self.comes_from_inside(known);
            let (made, left) = (self.made(), self.turn());
            assert_eq!(
                left as u64,
                1 + self.made() - made,
                "an established flow's packet, and new ones"
            );
        }
    }

    fn made(&mut self) -> u64 {
        self.cluster.node(0).counters().conntracks_created
    }
}

/// A flow that is only passed on.
fn flow(n: usize) -> FlowKey {
    let port = |n: usize| u16::try_from(1_024 + n % 50_000).unwrap();
    packet::udp(subscriber6(1), port(n), server6(1), port(n / 50_000))
}

/// A flow that both ends have spoken in.
fn established(flooded: &mut Flooded) -> FlowKey {
    let known = packet::udp(subscriber6(2), 5_000, server6(2), 53);
    flooded.comes_from_inside(&known);
    assert_eq!(flooded.turn(), 1);
    flooded.comes_from_outside(&known.reversed());
    flooded.turn();
    known
}

#[test]
fn a_flood_that_nobody_answers_is_shed_until_the_worker_keeps_up_again() {
    let mut flooded = Flooded::new(1_024);
    let known = established(&mut flooded);
    flooded.flood(FREE / (BURST - 1) - 1, &known);
    assert_eq!(
        flooded.shed(),
        0,
        "what may go unanswered, whether there is room for it or not"
    );
    flooded.flood(200, &known);
    let (before, bursts) = (flooded.shed(), 1_000);
    flooded.flood(bursts, &known);
    let shed = flooded.shed();
    // A tenth of the time is a ninth of what the others take, and a first packet costs ten of them.
    let taken = 1.0 - (shed - before) as f64 / (bursts * (BURST - 1)) as f64;
    assert!((0.005..0.02).contains(&taken), "{taken} of them were taken");
    // What is for the node itself is nobody's flow.
    for n in 0..BURST {
        let echo = packet::echo(subscriber(1), u16::try_from(n).unwrap(), LAN_VIP.into());
        flooded.comes_from_inside(&echo);
    }
    flooded.turn();
    assert_eq!(flooded.shed(), shed);
    // A turn that empties the queue.
    flooded.turn();
    flooded.flood(10, &known);
    assert_eq!(flooded.shed(), shed);
}

#[test]
fn a_worker_is_overrun_by_what_others_hand_over_as_well() {
    for worker in 0..2 {
        let mut flooded = Flooded::at(worker, 2, 1_024);
        let known = established(&mut flooded);
        flooded.flood(FREE / (BURST - 1) + 200, &known);
        assert!(flooded.shed() > 0, "by way of worker {worker}");
    }
}

#[test]
fn flows_that_are_answered_are_not_shed() {
    let flows = 3 * FREE / 2 / BURST * BURST;
    let mut flooded = Flooded::new(flows + BURST);
    for burst in 0..=flows / BURST {
        for n in burst * BURST..(burst + 1) * BURST {
            flooded.comes_from_inside(&flow(n));
        }
        if let Some(before) = burst.checked_sub(1) {
            for n in before * BURST..burst * BURST {
                flooded.comes_from_outside(&flow(n).reversed());
            }
        }
        flooded.turn();
    }
    assert_eq!(flooded.shed(), 0);
    assert!(flooded.made() >= flows as u64);
}

#[test]
fn a_flood_may_be_let_in() {
    let mut flooded = Flooded::new(1_024);
    let all = FirstPacketsPercent(100);
    flooded
        .cluster
        .node(0)
        .publish(|intent, _| intent.first_packets = all);
    let known = established(&mut flooded);
    flooded.flood(2 * FREE / BURST, &known);
    assert_eq!(flooded.shed(), 0);
}
