//! First packets go through the worker together, a burst of them at a time: what comes of it is what would come of them one by one.

use dataplane::config::{Filtering, PortRange};
use dataplane::flow::{FlowKey, proto};
use dataplane::io::{BURST, PortId};
use dataplane::verdict::Drop;
use dataplane::wire::build::Link;
use dataplane::wire::tcp::{ACK, RST, SYN};
use testkit::cluster::Cluster;
use testkit::config::{LAN, Setup, WAN, accept, public, server, server6, subscriber, subscriber6};
use testkit::expect::counters;
use testkit::packet::{self, segment, to_node};
use testkit::random::Random;

const SEEDS: u64 = 100;
const BURSTS: usize = 40;

/// A small world, in which everything happens soon: flows that are opened twice, tables and pools that are full.
fn setup(random: &mut Random) -> Setup {
    let ports = PortRange {
        first: 1_024,
        last: 1_024 + 4 * 64 - 1,
    };
    Setup {
        grouped: false,
        workers: 1,
        conntracks: [40, 4_096][random.index(2)],
        mappings: [60, 4_096][random.index(2)],
        blocks: [4, 512][random.index(2)],
        pool_addresses: 1,
        pool_ports: ports,
        block_size: 64,
        blocks_max: 2,
        rules: vec![accept(10, None, None)],
        filtering: [Filtering::EndpointDependent, Filtering::EndpointIndependent][random.index(2)],
        ..Setup::default()
    }
}

/// A tuple as somebody inside sends it.
fn inside(random: &mut Random) -> FlowKey {
    let host = u8::try_from(random.between(1, 5)).unwrap();
    let port = u16::try_from(random.between(5_000, 5_020)).unwrap();
    let at = u8::try_from(random.between(1, 2)).unwrap();
    match random.below(6) {
        // Between two inside, so that there may be an answer in the same burst.
        5 => packet::udp(subscriber6(at), 5_000, subscriber6(3 - at), 5_000),
        0 => packet::tcp(subscriber(host), port, server(at), 80),
        1 => packet::echo(subscriber(host), port, server(at)),
        2 => packet::udp(subscriber6(host), port, server6(at), 53),
        3 => packet::tcp(subscriber6(host), port, server6(at), 80),
        _ => packet::udp(subscriber(host), port, server(at), 53),
    }
}

/// A tuple as somebody outside sends it: an answer to what has left, or a guess.
fn outside(random: &mut Random, left: &[FlowKey]) -> FlowKey {
    if !left.is_empty() && !random.one_in(4) {
        let mut key = left[random.index(left.len())].reversed();
        if key.proto == proto::UDP && random.one_in(4) {
            key.src = if key.src.is_v4() { server(9) } else { server6(9) };
        }
        return key;
    }
    match random.below(2) {
        0 => packet::udp(
            server(1),
            53,
            public(1),
            u16::try_from(random.between(1_000, 1_300)).unwrap(),
        ),
        _ => inside(random).reversed(),
    }
}

/// One or more frames of a tuple: mostly one that may open the flow, else something else of it or about it.
fn frames(random: &mut Random, link: &Link, key: &FlowKey) -> Vec<Vec<u8>> {
    let plain = packet::simple(link, key);
    match random.below(12) {
        0 => vec![plain.clone(), plain],
        2 if matches!(key.proto, proto::UDP | proto::TCP) => vec![error_about(link, key)],
        3 if key.proto == proto::TCP => {
            let flags = [ACK, SYN | ACK][random.index(2)];
            vec![plain, link.tcp(key, &segment(flags, 1_001, 1_001, &[]))]
        }
        4 => {
            let mut damaged = plain;
            *damaged.last_mut().unwrap() ^= 0x55;
            vec![damaged]
        }
        5 => vec![packet::simple(
            &Link {
                ttl: 1,
                ..link.clone()
            },
            key,
        )],
        _ => vec![plain],
    }
}

/// An ICMP error of the tuple's source about a packet that came to it.
fn error_about(link: &Link, key: &FlowKey) -> Vec<u8> {
    let cause = key.reversed();
    let frame = packet::simple(&Link::default(), &cause);
    let about = FlowKey {
        proto: if key.src.is_v4() {
            proto::ICMP
        } else {
            proto::ICMP6
        },
        ..*key
    };
    let kind = if key.src.is_v4() { 3 } else { 1 };
    link.icmp(&about, kind, 3, [0; 4], &frame[14..])
}

/// What is sent by each port, in no order: a burst's errors go before its packets.
fn sorted(mut sent: [Vec<Vec<u8>>; 2]) -> [Vec<Vec<u8>>; 2] {
    sent.iter_mut().for_each(|frames| frames.sort_unstable());
    sent
}

/// What frames bring about that come in turns of so many.
fn sent(cluster: &mut Cluster, port: PortId, frames: &[Vec<u8>], together: usize) -> [Vec<Vec<u8>>; 2] {
    let now = cluster.now;
    let node = cluster.node(0);
    let mut sent = [vec![], vec![]];
    for part in frames.chunks(together) {
        for frame in part {
            assert!(node.inject(0, port, frame));
        }
        node.step_thread(0, now);
        for (port, sent) in [LAN, WAN].into_iter().zip(&mut sent) {
            sent.extend(node.take_sent(port));
        }
    }
    sent
}

#[test]
fn a_burst_of_first_packets_is_what_its_packets_are_one_by_one() {
    let mut dropped = std::collections::BTreeMap::new();
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let setup = setup(&mut random);
        let [mut together, mut one_by_one] = [(); 2].map(|()| Cluster::new(setup.clone(), seed));
        let mut left: Vec<FlowKey> = Vec::new();
        for _ in 0..BURSTS {
            let port = [LAN, LAN, WAN][random.index(3)];
            let most = random.between(1, BURST as u64);
            let mut burst = Vec::new();
            while burst.len() < usize::try_from(most).unwrap() {
                let key = if port == LAN {
                    inside(&mut random)
                } else {
                    outside(&mut random, &left)
                };
                burst.extend(frames(&mut random, &to_node(1, port, &key.src), &key));
            }
            burst.truncate(BURST);
            let ours = sent(&mut together, port, &burst, BURST);
            let theirs = sent(&mut one_by_one, port, &burst, 1);
            left.extend(ours[1].iter().filter_map(|frame| packet::flow(frame)));
            assert_eq!(sorted(ours), sorted(theirs), "seed {seed}");
            let [ours, theirs] = [&mut together, &mut one_by_one].map(|cluster| counters(cluster.node(0)));
            let differ = ours.iter().filter(|(name, count)| theirs[*name] != **count);
            assert_eq!(differ.collect::<Vec<_>>(), [], "seed {seed}");
        }
        for (name, count) in counters(together.node(0)) {
            *dropped.entry(name).or_insert(0) += count;
        }
    }
    // It has seen what it is about.
    for name in [
        "conntracks_created",
        "drop:table-full",
        "drop:mappings-full",
        "drop:pool-exhausted",
        "drop:no-mapping",
        "drop:bad-l4-checksum",
        "drop:ttl-exceeded",
        "drop:icmp-error-unmatched",
        "drop:tcp-not-syn",
    ] {
        assert!(
            dropped.get(name).is_some_and(|&count| count > 0),
            "no {name}: {dropped:?}"
        );
    }
}

/// A connection that has ended, and the frames of its client.
fn ended(cluster: &mut Cluster) -> impl Fn(u8, u32) -> Vec<u8> + use<> {
    let key = packet::tcp(subscriber(1), 5_000, server(1), 80);
    let client = to_node(1, LAN, &key.src);
    let frame = move |flags, seq| client.tcp(&key, &segment(flags, seq, 1_001, &[]));
    let [_, left] = sent(cluster, LAN, &[frame(SYN, 1_000)], 1);
    let answer = packet::flow(&left[0]).unwrap().reversed();
    let server = to_node(1, WAN, &answer.src);
    let accepts = server.tcp(&answer, &segment(SYN | ACK, 1_000, 1_001, &[]));
    sent(cluster, WAN, &[accepts], 1);
    for (flags, seq) in [(ACK, 1_001), (RST, 1_001)] {
        let [_, left] = sent(cluster, LAN, &[frame(flags, seq)], 1);
        assert_eq!(left.len(), 1);
    }
    frame
}

/// In one burst with a segment of the connection that it follows, a SYN ended the conntrack that the segment had been found to
/// belong to, and the worker with it.
#[test]
fn a_syn_right_behind_the_last_segment_of_a_connection_comes_again() {
    for grouped in [false, true] {
        let setup = Setup {
            grouped,
            workers: 1,
            ..Setup::default()
        };
        let mut cluster = if grouped {
            Cluster::pair(setup, 3)
        } else {
            Cluster::new(setup, 3)
        };
        let frame = ended(&mut cluster);
        let again = frame(SYN, 9_000_000);
        let made = |cluster: &mut Cluster| cluster.node(0).counters().conntracks_created;
        let before = made(&mut cluster);
        let [_, left] = sent(&mut cluster, LAN, &[frame(RST, 1_001), again.clone()], 2);
        assert_eq!(left.len(), 1, "the segment, which is still the old connection's");
        assert_eq!(cluster.node(0).counters().dropped(Drop::TcpState), 1);
        assert_eq!(made(&mut cluster), before);
        let [_, left] = sent(&mut cluster, LAN, &[again.clone(), again], 2);
        assert_eq!(left.len(), 2, "the SYN, and once more");
        assert_eq!(made(&mut cluster), before + 1);
    }
}
