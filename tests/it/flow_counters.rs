//! Packets and bytes per flow: what is counted, what is not, and that nothing else depends on it.

use core::time::Duration;

use dataplane::conntrack::{Conntrack, Counted};
use dataplane::flow::{Direction, FlowKey, proto};
use dataplane::wire::build::Segment;
use dataplane::wire::tcp::{ACK, FIN, RST, SYN};
use state_sync::role::Desire;
use testkit::checker::{tuple, view};
use testkit::cluster::{Cluster, Death, Sent};
use testkit::config::{LAN, Setup, WAN, server, server6, subscriber, subscriber6};
use testkit::expect::counters;
use testkit::packet::{self, segment, to_node};
use testkit::random::Random;

use crate::ageing::short_lived;

const S: Duration = Duration::from_secs(1);
/// Bytes of an IPv4 packet of [`packet::simple`] over UDP.
const DATAGRAM: u64 = 20 + 8 + 5;

fn counting(flow_counters: bool) -> Setup {
    Setup {
        flow_counters,
        ..short_lived()
    }
}

/// Has a node count, or not, from its next packet on.
fn count(cluster: &mut Cluster, node: usize, flow_counters: bool) {
    cluster
        .node(node)
        .publish(|intent, _| intent.vrfs[0].flow_counters = flow_counters);
}

fn conntracks(cluster: &mut Cluster, node: usize) -> Vec<Conntrack> {
    let tables = cluster.node(node).tables();
    let all = tables.flat_map(|tables| tables.conntracks.iter_live());
    all.map(|(_, conntrack)| *conntrack).collect()
}

fn counted(cluster: &mut Cluster, node: usize) -> Vec<Option<Counted>> {
    let all = conntracks(cluster, node);
    all.iter().map(Conntrack::counted).collect()
}

/// A conntrack but for what was counted.
fn uncounted(conntrack: &Conntrack) -> impl PartialEq + core::fmt::Debug + use<> {
    let Conntrack {
        tuples,
        slot,
        expires_s,
        refreshed_s,
        class,
        scales,
        waits,
        sync,
        rule,
        created_s,
        ..
    } = *conntrack;
    (
        (tuples, slot, expires_s, refreshed_s, class, scales),
        (
            waits,
            sync,
            rule,
            created_s,
            conntrack.inbound(),
            conntrack.state(),
        ),
    )
}

/// What a node has told its peer: name, number and bytes of each kind of record.
fn told(cluster: &mut Cluster, node: usize) -> Vec<(String, u64, u64)> {
    let reports = cluster.node(node).reports();
    let operations = reports.iter().flat_map(|report| &report.operations);
    operations.map(|o| (o.name.clone(), o.calls, o.bytes)).collect()
}

/// The same packets at the same times for a pair that counts and for one that doesn't.
struct Twins {
    counting: Cluster,
    other: Cluster,
    active: usize,
    random: Random,
    /// Inside tuples, and what they left as.
    flows: Vec<(FlowKey, FlowKey)>,
}

impl Twins {
    fn new(seed: u64) -> Self {
        Self {
            counting: Cluster::pair(counting(true), seed),
            other: Cluster::pair(counting(false), seed),
            active: 0,
            random: Random::new(seed),
            flows: Vec::new(),
        }
    }

    fn both<T: PartialEq + core::fmt::Debug>(&mut self, act: impl Fn(&mut Cluster) -> T) -> T {
        let one = act(&mut self.counting);
        assert_eq!(one, act(&mut self.other));
        one
    }

    fn frame(&mut self, enter: dataplane::io::PortId, frame: &[u8]) -> Vec<Sent> {
        let node = self.active;
        self.both(|cluster| cluster.through(node, enter, frame))
    }

    fn open(&mut self) {
        let host = u8::try_from(self.random.between(1, 40)).unwrap();
        let port = u16::try_from(self.random.between(2_000, 60_000)).unwrap();
        let (v4, v6) = (subscriber(host), subscriber6(host));
        let key = match self.random.below(6) {
            0 => packet::udp(v4, port, server(1), 53),
            1 => packet::udp(v6, port, server6(1), 53),
            2 => packet::tcp(v4, port, server(2), 443),
            3 => packet::echo(v4, port, server(3)),
            4 => packet::echo(v6, port, server6(3)),
            // GRE, which has no ports.
            _ => packet::key(47, v6, 0, server6(4), 0),
        };
        let link = to_node([1, 2][self.active], LAN, &key.src);
        let sent = self.frame(LAN, &packet::simple(&link, &key));
        let left = sent.iter().find(|sent| sent.port == WAN);
        if let Some(outside) = left.and_then(|sent| packet::flow(&sent.frame)) {
            self.flows.push((key, outside));
        }
    }

    /// A packet of a flow that there is, or was: in TCP a segment of any kind, of the right numbers or not.
    fn go_on(&mut self) {
        if self.flows.is_empty() {
            return;
        }
        let (inside, outside) = self.flows[self.random.index(self.flows.len())];
        let back = self.random.one_in(2);
        let (enter, key) = if back {
            (WAN, outside.reversed())
        } else {
            (LAN, inside)
        };
        let link = to_node([1, 2][self.active], enter, &key.src);
        let frame = if key.proto == proto::TCP {
            let flags = [SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST][self.random.index(7)];
            // Those of a handshake, and of what is sent behind it, are drawn more often.
            let (own, other) = if back { (70_000, 1_000) } else { (1_000, 70_000) };
            let seqs = [own, own + 1, own + 1, own + 2, 1 << 30];
            let acks = [other + 1, other + 1, other + 1, other + 2, 1 << 30];
            let (seq, ack) = (seqs[self.random.index(5)], acks[self.random.index(5)]);
            let segment: Segment<'_> = segment(flags, seq, ack, b"");
            link.tcp(&key, &segment)
        } else {
            packet::simple(&link, &key)
        };
        self.frame(enter, &frame);
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..3 => self.open(),
            3..11 => self.go_on(),
            _ => {
                let time = Duration::from_millis(self.random.between(1, 4_000));
                self.both(|cluster| cluster.idle(time));
            }
        }
    }

    fn fail_over(&mut self) {
        self.both(|cluster| {
            cluster.settle();
            cluster.kill(0, Death::Process);
            cluster.order(1, Desire::Ordered);
            cluster.run(Duration::from_millis(1_200));
            assert_eq!(cluster.active(), Some(1));
        });
        self.active = 1;
    }

    /// Whatever a node holds and has said is the same in both pairs, and only one has counted.
    fn compare(&mut self, node: usize) {
        self.both(Cluster::settle);
        self.both(|cluster| {
            let all = conntracks(cluster, node);
            all.iter().map(uncounted).collect::<Vec<_>>()
        });
        self.both(|cluster| view(cluster.node(node)));
        self.both(|cluster| counters(cluster.node(node)));
        self.both(|cluster| told(cluster, node));
        assert!(counted(&mut self.other, node).iter().all(Option::is_none));
    }
}

#[test]
fn whether_flows_are_counted_changes_nothing_else() {
    for seed in 0..12 {
        let mut twins = Twins::new(300 + seed);
        (0..150).for_each(|_| twins.step());
        twins.compare(0);
        twins.compare(1);
        // Who has a conntrack from its first packet on has counted that.
        let made_here = counted(&mut twins.counting, 0);
        assert!(made_here.len() > 3 && made_here.iter().all(Option::is_some));
        assert!(counted(&mut twins.counting, 1).iter().all(Option::is_none));
        twins.fail_over();
        (0..100).for_each(|_| twins.step());
        twins.compare(1);
        assert!(counted(&mut twins.counting, 1).iter().any(Option::is_some));
    }
}

#[test]
fn each_packet_that_is_let_through_counts_with_its_ip_bytes_in_its_direction() {
    let mut cluster = Cluster::pair(counting(true), 330);
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let outside = cluster.out(0, &key).unwrap();
    for _ in 0..3 {
        cluster.out(0, &key).unwrap();
    }
    for _ in 0..2 {
        cluster.back(0, &outside).unwrap();
    }
    let wanted = Counted {
        packets: [4, 2],
        bytes: [4 * DATAGRAM, 2 * DATAGRAM],
    };
    assert_eq!(counted(&mut cluster, 0), [Some(wanted)]);

    // What TCP tracking refuses isn't counted.
    let mut cluster = Cluster::pair(counting(true), 331);
    let key = packet::tcp(subscriber(1), 5_000, server(1), 443);
    let outside = cluster.out(0, &key).unwrap();
    let link = to_node(1, WAN, &server(1));
    let stray = link.tcp(&outside.reversed(), &segment(0, 9, 9, b""));
    assert!(
        cluster
            .through(0, WAN, &stray)
            .iter()
            .all(|sent| sent.port != LAN)
    );
    let [Some(seen)] = counted(&mut cluster, 0)[..] else {
        panic!("not counted");
    };
    assert_eq!(seen.packets, [1, 0]);
}

#[test]
fn a_change_counts_from_the_next_packet_on_and_keeps_what_was_counted() {
    let mut cluster = Cluster::pair(counting(true), 332);
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let outside = cluster.out(0, &key).unwrap();
    let seen = |cluster: &mut Cluster| -> Vec<_> {
        let all = counted(cluster, 0);
        all.iter().map(|one| one.map(|one| one.packets)).collect()
    };
    count(&mut cluster, 0, false);
    cluster.out(0, &key).unwrap();
    cluster.back(0, &outside).unwrap();
    assert_eq!(seen(&mut cluster), [Some([1, 0])], "it stands still");
    let late = packet::udp(subscriber(1), 5_001, server(1), 53);
    cluster.out(0, &late).unwrap();
    let mut both = seen(&mut cluster);
    both.sort_unstable();
    assert_eq!(both, [None, Some([1, 0])], "nor does a first packet count");
    count(&mut cluster, 0, true);
    cluster.back(0, &outside).unwrap();
    cluster.out(0, &late).unwrap();
    let mut both = seen(&mut cluster);
    both.sort_unstable();
    assert_eq!(both, [Some([1, 0]), Some([1, 1])], "it goes on");
}

#[test]
fn flows_live_as_long_as_their_packets_say_without_counters() {
    let mut cluster = Cluster::pair(counting(false), 333);
    let keys = [
        packet::udp(subscriber(1), 5_000, server(1), 53),
        packet::echo(subscriber(2), 77, server(1)),
    ];
    let outside = keys.map(|key| cluster.out(0, &key).unwrap());
    let born = |cluster: &mut Cluster| {
        let all = conntracks(cluster, 0);
        let mut all: Vec<_> = all
            .iter()
            .map(|c| (tuple(&c.key(Direction::Original)), c.created_s))
            .collect();
        all.sort_unstable();
        all
    };
    let before = born(&mut cluster);
    assert_eq!(before.len(), 2);
    for _ in 0..30 {
        cluster.idle(S * 5);
        for (key, outside) in keys.iter().zip(&outside) {
            assert_eq!(cluster.out(0, key), Some(*outside));
            assert_eq!(cluster.back(0, outside), Some(key.reversed()));
        }
    }
    assert_eq!(born(&mut cluster), before, "one has ended and was made again");
    assert_eq!(counted(&mut cluster, 0), [None, None]);
}
