//! Fragments are followed, not put together, and come out as if the packet had never been cut (RFC 4787 REQ-13 and
//! REQ-14, RFC 5722, RFC 6864). The oracle is a receiver that joins what came out and compares it with what the node
//! makes of the whole packet.

use core::time::Duration;

use dataplane::flow::FlowKey;
use dataplane::io::PortId;
use dataplane::role::Role;
use dataplane::verdict::Drop;
use dataplane::wire::build::Link;
use dataplane::wire::{icmp4, tcp};
use proptest::prelude::*;
use testkit::cluster::Cluster;
use testkit::config::{
    LAN, LAN_IF, LAN_VIP, MAIN, Setup, WAN, WAN_IF, accept, server, server6, subscriber, subscriber6,
};
use testkit::expect::{counters, only_moved};
use testkit::fragment::{cut, id4, join, piece};
use testkit::packet::{self, segment};
use testkit::random::Random;

/// A node alone, with as many workers as queues.
fn node(setup: Setup) -> Cluster {
    Cluster::new(
        Setup {
            grouped: false,
            ..setup
        },
        1,
    )
}

fn three_workers() -> Cluster {
    node(Setup {
        workers: 3,
        ..Setup::default()
    })
}

fn other(port: PortId) -> PortId {
    if port == LAN { WAN } else { LAN }
}

/// Puts frames into queues that `random` picks, several at a time, and returns what left by the other port.
fn through(cluster: &mut Cluster, port: PortId, frames: &[Vec<u8>], random: &mut Random) -> Vec<Vec<u8>> {
    left_by(cluster, port, other(port), frames, random)
}

fn left_by(
    cluster: &mut Cluster,
    port: PortId,
    by: PortId,
    frames: &[Vec<u8>],
    random: &mut Random,
) -> Vec<Vec<u8>> {
    cluster.after_step();
    let waiting = cluster.sent.len();
    let now = cluster.now;
    let node = cluster.node(0);
    let turn = |node: &mut testkit::node::Node| {
        (0..node.workers())
            .map(|thread| node.step_thread(thread, now))
            .sum::<usize>()
    };
    for frame in frames {
        assert!(node.inject(random.index(3) % node.workers(), port, frame));
        if random.one_in(3) {
            turn(node);
        }
    }
    while turn(node) > 0 {}
    cluster.after_step();
    let sent = cluster.sent.split_off(waiting);
    sent.into_iter()
        .filter(|s| s.port == by)
        .map(|s| s.frame)
        .collect()
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.index(i + 1));
    }
}

/// What the node makes of a whole packet; identification and "don't fragment" as [`join`] leaves them.
fn whole(cluster: &mut Cluster, port: PortId, frame: &[u8]) -> Vec<u8> {
    let sent = through(cluster, port, &[frame.to_vec()], &mut Random::new(0));
    assert_eq!(sent.len(), 1, "{:02x?}", &frame[..frame.len().min(64)]);
    packet::read(&sent[0]).unwrap();
    join(&sent).unwrap()
}

/// What a receiver makes of pieces of which one came twice. A copy that came after the packet was complete belongs to
/// no packet any more: it passes, if it is a first piece, and stays without company.
fn receivers(sent: &[Vec<u8>]) -> Vec<Result<Vec<u8>, String>> {
    let mut different = sent.to_vec();
    different.sort();
    different.dedup();
    let mut ids: Vec<u16> = different.iter().map(|frame| id4(frame)).collect();
    ids.sort_unstable();
    ids.dedup();
    let with = |id| {
        different
            .iter()
            .filter(|frame| id4(frame) == id)
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut joined: Vec<_> = ids.into_iter().map(|id| join(&with(id))).collect();
    joined.push(join(&different));
    joined
}

/// The flows that pieces are tried on: where a packet comes in, and the packet.
fn flows(cluster: &mut Cluster, data: &[u8]) -> Vec<(PortId, Vec<u8>)> {
    let mut flows = vec![];
    let lan = |key: &FlowKey| packet::to_node(1, LAN, &key.src);
    let wan = |key: &FlowKey| packet::to_node(1, WAN, &key.src);
    for key in [
        packet::udp(subscriber(1), 5_000, server(1), 53),
        packet::udp(subscriber6(1), 5_000, server6(1), 53),
    ] {
        let outside = cluster.out(0, &key).unwrap().reversed();
        assert_eq!(cluster.back(0, &outside.reversed()), Some(key.reversed()));
        flows.push((LAN, lan(&key).udp(&key, data)));
        flows.push((WAN, wan(&outside).udp(&outside, data)));
    }
    for key in [
        packet::echo(subscriber(2), 77, server(2)),
        packet::echo(subscriber6(2), 77, server6(2)),
    ] {
        let outside = cluster.out(0, &key).unwrap().reversed();
        flows.push((LAN, lan(&key).echo(&key, 2, data)));
        flows.push((WAN, wan(&outside).echo(&outside, 2, data)));
    }
    let key = packet::tcp(subscriber(3), 5_000, server(3), 80);
    let outside = cluster.out(0, &key).unwrap().reversed();
    let answer = wan(&outside).tcp(&outside, &segment(tcp::SYN | tcp::ACK, 5_000, 1_001, &[]));
    whole(cluster, WAN, &answer);
    let ack = lan(&key).tcp(&key, &segment(tcp::ACK, 1_001, 5_001, &[]));
    whole(cluster, LAN, &ack);
    flows.push((LAN, lan(&key).tcp(&key, &segment(tcp::ACK, 1_001, 5_001, data))));
    let end = u32::try_from(1_001 + data.len()).unwrap();
    let data = segment(tcp::ACK | tcp::FIN, 5_001, end, data);
    flows.push((WAN, wan(&outside).tcp(&outside, &data)));
    flows
}

fn any_cut() -> impl Strategy<Value = Vec<usize>> {
    // The first piece holds the transport header.
    (3usize..40, prop::collection::vec(1usize..40, 1..8)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every protocol, direction and family; any cut, any order, any queue, with duplicates among them.
    #[test]
    fn pieces_come_out_as_the_pieces_of_the_translated_packet(
        len in 200usize..1_400,
        units in any_cut(),
        again in any::<bool>(),
        seed: u64,
    ) {
        let mut random = Random::new(seed);
        let mut cluster = three_workers();
        let data: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for (port, frame) in flows(&mut cluster, &data) {
            let mut pieces = cut(&frame, 0x1_2345, &units);
            if again {
                let copy = pieces[random.index(pieces.len())].clone();
                pieces.push(copy);
            }
            shuffle(&mut pieces, &mut random);
            let sent = through(&mut cluster, port, &pieces, &mut random);
            let expected = Ok(whole(&mut cluster, port, &frame));
            if again {
                prop_assert!(receivers(&sent).contains(&expected), "{} pieces by {:?}", pieces.len(), port);
            } else {
                prop_assert_eq!(join(&sent), expected, "{} pieces by {:?}", pieces.len(), port);
            }
            prop_assert!(sent.len() <= pieces.len());
        }
        cluster.now = cluster.now + Duration::from_secs(5);
        cluster.turn(Duration::ZERO);
        prop_assert_eq!(cluster.node(0).packets.alive(), 0);
        let counters = cluster.node(0).counters();
        prop_assert_eq!(counters.dropped(Drop::TcpWindow) + counters.dropped(Drop::TcpState), 0);
        prop_assert_eq!(counters.dropped(Drop::FragmentOverlap), 0);
    }

    /// Packets of many hosts with the same identification, all on their way at once.
    #[test]
    fn packets_of_equal_identification_are_told_apart(units in any_cut(), seed: u64) {
        let mut random = Random::new(seed);
        let mut cluster = three_workers();
        let keys: Vec<FlowKey> = (1..=8).map(|n| packet::udp(subscriber(n), 5_000, server(1), 53)).collect();
        let frames: Vec<Vec<u8>> = keys.iter().map(|key| {
            packet::to_node(1, LAN, &key.src).udp(key, &[key.src.octets()[15]; 1_000])
        }).collect();
        let mut pieces: Vec<Vec<u8>> = frames.iter().flat_map(|frame| cut(frame, 7, &units)).collect();
        shuffle(&mut pieces, &mut random);
        let sent = through(&mut cluster, LAN, &pieces, &mut random);
        prop_assert_eq!(sent.len(), pieces.len());
        let mut ids: Vec<u16> = sent.iter().map(|frame| id4(frame)).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), frames.len(), "RFC 6864: one public address, one identification per packet");
        let mut expected: Vec<Vec<u8>> = frames.iter().map(|frame| whole(&mut cluster, LAN, frame)).collect();
        let mut joined: Vec<Vec<u8>> = ids.iter().map(|id| {
            let of: Vec<Vec<u8>> = sent.iter().filter(|frame| id4(frame) == *id).cloned().collect();
            join(&of).unwrap()
        }).collect();
        expected.sort();
        joined.sort();
        prop_assert_eq!(joined, expected);
        prop_assert_eq!(cluster.node(0).counters().conntracks_created, 8);
        prop_assert_eq!(cluster.node(0).packets.alive(), 0);
    }
}

#[test]
fn a_window_counts_what_all_pieces_carried() {
    let mut cluster = three_workers();
    let key = packet::tcp(subscriber(3), 5_000, server(3), 80);
    let outside = cluster.out(0, &key).unwrap().reversed();
    let lan = packet::to_node(1, LAN, &key.src);
    let wan = packet::to_node(1, WAN, &outside.src);
    whole(
        &mut cluster,
        WAN,
        &wan.tcp(&outside, &segment(tcp::SYN | tcp::ACK, 5_000, 1_001, &[])),
    );
    let frame = lan.tcp(&key, &segment(tcp::ACK | tcp::FIN, 1_001, 5_001, &[1; 1_200]));
    let pieces = cut(&frame, 7, &[50, 50]);
    assert_eq!(through(&mut cluster, LAN, &pieces, &mut Random::new(1)).len(), 3);
    // Data and FIN; one more was never sent.
    whole(
        &mut cluster,
        WAN,
        &wan.tcp(&outside, &segment(tcp::ACK, 5_001, 2_202, &[])),
    );
    let beyond = wan.tcp(&outside, &segment(tcp::ACK, 5_001, 2_203, &[]));
    assert_eq!(
        through(&mut cluster, WAN, &[beyond], &mut Random::new(1)),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(cluster.node(0).counters().dropped(Drop::TcpWindow), 1);
}

#[test]
fn only_the_first_piece_meets_policy_and_the_others_follow_it() {
    let mut cluster = node(Setup {
        rules: vec![],
        ..Setup::default()
    });
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let frame = packet::to_node(1, LAN, &key.src).udp(&key, &[1; 1_000]);
    let mut pieces = cut(&frame, 7, &[40, 40]);
    let mut random = Random::new(1);
    for order in 0..2 {
        let before = counters(cluster.node(0));
        for piece in &pieces {
            assert_eq!(
                through(&mut cluster, LAN, std::slice::from_ref(piece), &mut random),
                Vec::<Vec<u8>>::new()
            );
        }
        let after = counters(cluster.node(0));
        let mut expected = vec![
            ("rx_packets", 3),
            ("fragments_seen", 3),
            ("drop:default-drop", 1),
            ("drop:fragment-refused", 2),
        ];
        if order == 1 {
            expected.extend([("fragments_held", 2), ("fragments_complete", 1)]);
        }
        only_moved(&before, &after, &expected);
        cluster.now = cluster.now + Duration::from_secs(3);
        through(&mut cluster, LAN, &[], &mut random);
        pieces.reverse();
    }
    assert_eq!(cluster.node(0).packets.alive(), 0);
}

#[test]
fn a_flood_of_orphans_is_bounded_counted_and_hurts_no_other_packet() {
    let mut cluster = three_workers();
    let mut random = Random::new(1);
    let key = packet::udp(subscriber(9), 5_000, server(1), 53);
    let outside = cluster.out(0, &key).unwrap().reversed();
    let good = packet::to_node(1, WAN, &outside.src).udp(&outside, &[1; 1_200]);
    let expected = whole(&mut cluster, WAN, &good);
    let orphan = packet::to_node(1, WAN, &outside.src).udp(&outside, &[2; 1_000]);
    let mut orphans = 0;
    for round in 0..40 {
        let mut frames: Vec<Vec<u8>> = (0..200)
            .map(|n| piece(&orphan, 1_000 + round * 200 + n, 80, &[3; 80], true))
            .collect();
        orphans += frames.len() as u64;
        let pieces = cut(&good, round, &[60, 60]);
        frames.splice(100..100, pieces);
        let sent = through(&mut cluster, WAN, &frames, &mut random);
        assert_eq!(join(&sent).as_ref(), Ok(&expected));
        assert!(cluster.node(0).packets.alive() <= 3 * 512);
    }
    cluster.now = cluster.now + Duration::from_secs(2);
    for _ in 0..200 {
        cluster.turn(Duration::ZERO);
    }
    let counters = cluster.node(0).counters();
    assert_eq!(cluster.node(0).packets.alive(), 0);
    let (timeout, overflow) = (
        counters.dropped(Drop::FragmentTimeout),
        counters.dropped(Drop::FragmentOverflow),
    );
    assert_eq!(timeout + overflow, orphans);
    assert!(
        timeout > 1_000 && overflow > 5_000,
        "{timeout} in time, {overflow} by number"
    );
}

#[test]
fn an_overlap_keeps_the_packet_from_ever_being_complete_rfc_5722() {
    let mut cluster = three_workers();
    let mut random = Random::new(2);
    for key in [
        packet::udp(subscriber(1), 5_000, server(1), 53),
        packet::udp(subscriber6(1), 5_000, server6(1), 53),
    ] {
        cluster.out(0, &key).unwrap();
        let frame = packet::to_node(1, LAN, &key.src).udp(&key, &[1; 1_000]);
        let header = frame.len() - 1_008;
        let evil = piece(&frame, 7, 8, &frame[header + 16..header + 32], true);
        for at in 0..3 {
            let mut pieces = cut(&frame, 7, &[40, 40]);
            pieces.insert(at, evil.clone());
            let sent = through(&mut cluster, LAN, &pieces, &mut random);
            assert!(join(&sent).is_err(), "overlap at place {at}");
            cluster.now = cluster.now + Duration::from_secs(5);
            through(&mut cluster, LAN, &[], &mut random);
        }
    }
    assert!(cluster.node(0).counters().dropped(Drop::FragmentOverlap) >= 6);
    assert_eq!(cluster.node(0).packets.alive(), 0);
}

#[test]
fn a_standby_drops_pieces_and_keeps_none() {
    let mut cluster = Cluster::pair(Setup::default(), 1);
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    cluster.out(0, &key).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Backup);
    let frame = packet::to_node(2, LAN, &key.src).udp(&key, &[1; 1_000]);
    let before = counters(cluster.node(1));
    for piece in cut(&frame, 7, &[40, 40]).iter().rev() {
        assert_eq!(cluster.through(1, LAN, piece), vec![]);
    }
    let after = counters(cluster.node(1));
    let expected = [
        ("rx_packets", 3),
        ("drop:standby-unmatched", 2),
        ("drop:standby-matched", 1),
    ];
    only_moved(&before, &after, &expected);
    assert_eq!(cluster.node(1).packets.alive(), 0);
}

#[test]
fn pieces_for_the_node_itself_are_the_kernels() {
    let mut cluster = node(Setup::default());
    let key = packet::echo(subscriber(1), 7, LAN_VIP.into());
    let frame = packet::to_node(1, LAN, &key.src).echo(&key, 1, &[1; 1_000]);
    let before = counters(cluster.node(0));
    through(&mut cluster, LAN, &cut(&frame, 7, &[40, 40]), &mut Random::new(1));
    let after = counters(cluster.node(0));
    only_moved(
        &before,
        &after,
        &[("rx_packets", 3), ("punted", 3), ("drop:punted", 3)],
    );
}

#[test]
fn what_waits_when_the_node_stops_is_freed() {
    let mut cluster = node(Setup::default());
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let frame = packet::to_node(1, LAN, &key.src).udp(&key, &[1; 1_000]);
    let pieces = cut(&frame, 7, &[40, 40]);
    through(&mut cluster, LAN, &pieces[1..], &mut Random::new(1));
    assert_eq!(cluster.node(0).packets.alive(), 2);
    let now = cluster.now;
    let pool = cluster.nodes[0].take().unwrap().shutdown(now);
    assert_eq!(pool.alive(), 0);
}

/// An MTU step on the way out.
fn narrow(wan_mtu: u16) -> Cluster {
    node(Setup {
        wan_mtu,
        workers: 3,
        ..Setup::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// RFC 4787 REQ-13 b: without "don't fragment" a packet is cut to fit, and so is a piece of one.
    #[test]
    fn what_is_larger_than_the_link_leaves_in_order_and_in_pieces(
        mtu in 68u16..1_000, len in 1_000usize..1_400, units in any_cut(), in_pieces: bool, seed: u64,
    ) {
        let key = packet::udp(subscriber(1), 5_000, server(1), 53);
        let data: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let frame = packet::to_node(1, LAN, &key.src).udp(&key, &data);
        let mut wide = narrow(1_500);
        let expected = whole(&mut wide, LAN, &frame);
        let mut cluster = narrow(mtu);
        let pieces = if in_pieces {
            cut(&frame, 7, &units)
        } else {
            let link = Link { fragment: 0, id: 7, ..packet::to_node(1, LAN, &key.src) };
            vec![link.udp(&key, &data)]
        };
        let sent = through(&mut cluster, LAN, &pieces, &mut Random::new(seed));
        prop_assert!(sent.iter().all(|frame| frame.len() <= 14 + usize::from(mtu)));
        prop_assert_eq!(join(&sent), Ok(expected));
        let offset = |frame: &Vec<u8>| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff;
        prop_assert!(in_pieces || sent.is_sorted_by_key(offset));
        prop_assert_eq!(cluster.node(0).packets.alive(), 0);
    }
}

/// From a link of 9,000 bytes to one of 1,500: cut into seven, or its sender is told 1,500 (RFC 1191 section 4).
#[test]
fn a_jumbo_packet_meets_an_ordinary_link() {
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let data: Vec<u8> = (0..8_972_usize).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let link = packet::to_node(1, LAN, &key.src);
    let may_not_be_cut = link.udp(&key, &data);
    assert_eq!(may_not_be_cut.len(), 14 + 9_000);
    let expected = whole(&mut narrow(9_000), LAN, &may_not_be_cut);
    assert_eq!(expected.len(), 14 + 9_000);

    let mut cluster = narrow(1_500);
    let may_be_cut = Link {
        fragment: 0,
        id: 7,
        ..link
    };
    let sent = through(
        &mut cluster,
        LAN,
        &[may_be_cut.udp(&key, &data)],
        &mut Random::new(1),
    );
    assert_eq!(sent.len(), 7);
    assert!(sent.iter().all(|frame| frame.len() <= 14 + 1_500));
    assert_eq!(join(&sent), Ok(expected));

    let sent = cluster.through(0, LAN, &may_not_be_cut);
    assert_eq!(sent.len(), 1);
    let meta = packet::read(&sent[0].frame).unwrap();
    assert_eq!(
        (sent[0].port, meta.icmp.kind, meta.icmp.code),
        (LAN, icmp4::UNREACHABLE, 4)
    );
    assert_eq!(sent[0].frame[14 + 20 + 4..][..4], [0, 0, 0x05, 0xdc]);
    assert_eq!(cluster.node(0).counters().dropped(Drop::TooBig), 1);
    assert_eq!(cluster.node(0).packets.alive(), 0);
}

#[test]
fn what_may_not_be_cut_is_answered_rfc_4787_req_13() {
    let mut cluster = narrow(576);
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    let frame = packet::to_node(1, LAN, &key.src).udp(&key, &[1; 1_000]);
    let sent = cluster.through(0, LAN, &frame);
    assert_eq!(sent.len(), 1);
    let meta = packet::read(&sent[0].frame).unwrap();
    assert_eq!(
        (sent[0].port, meta.icmp.kind, meta.icmp.code),
        (LAN, icmp4::UNREACHABLE, 4)
    );
    assert_eq!(cluster.node(0).counters().dropped(Drop::TooBig), 1);
}

#[test]
fn options_stay_with_the_pieces_they_are_for_rfc_791_3_1() {
    let mut cluster = narrow(576);
    let key = packet::udp(subscriber(1), 5_000, server(1), 53);
    // Record route (not copied), router alert (copied), end.
    let options = vec![7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
    let link = Link {
        fragment: 0,
        options: options.clone(),
        ..packet::to_node(1, LAN, &key.src)
    };
    let sent = cluster.through(0, LAN, &link.udp(&key, &[1; 1_000]));
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].frame[34..46], options);
    assert_eq!(sent[1].frame[34..46], [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0]);
    for sent in sent {
        packet::read(&sent.frame).unwrap();
    }
}

#[test]
fn rules_that_let_the_outside_in_see_fragments_of_open_mappings() {
    let mut cluster = node(Setup {
        workers: 3,
        filtering: dataplane::config::Filtering::EndpointIndependent,
        rules: vec![
            accept(10, Some(LAN_IF), Some(WAN_IF)),
            accept(20, Some(WAN_IF), Some(LAN_IF)),
        ],
        ..Setup::default()
    });
    let inside = packet::udp(subscriber(1), 5_000, server(1), 53);
    let outside = cluster.out(0, &inside).unwrap();
    for host in 2..10 {
        let key = packet::udp(server(host), 9_000, outside.src, outside.src_port);
        let frame = packet::to_node(1, WAN, &key.src).udp(&key, &[host; 1_000]);
        let mut pieces = cut(&frame, 7, &[40, 40]);
        pieces.reverse();
        let sent = through(&mut cluster, WAN, &pieces, &mut Random::new(u64::from(host)));
        let joined = join(&sent).unwrap();
        let expected = packet::udp(server(host), 9_000, subscriber(1), 5_000);
        assert_eq!(packet::flow(&joined), Some(expected));
    }
}

#[test]
fn pieces_hairpin_with_both_ends_translated_rfc_4787_req_9() {
    let mut cluster = node(Setup {
        workers: 3,
        filtering: dataplane::config::Filtering::EndpointIndependent,
        rules: vec![accept(10, None, None)],
        ..Setup::default()
    });
    let inside = packet::udp(subscriber(1), 5_000, server(1), 53);
    let outside = cluster.out(0, &inside).unwrap();
    let mut random = Random::new(1);
    let mut shared = 0;
    for host in 2..40 {
        let key = packet::udp(subscriber(host), 9_000, outside.src, outside.src_port);
        let frame = packet::to_node(1, LAN, &key.src).udp(&key, &[host; 1_000]);
        let mut pieces = cut(&frame, 7, &[40, 40]);
        shuffle(&mut pieces, &mut random);
        let sent = left_by(&mut cluster, LAN, LAN, &pieces, &mut random);
        let whole = left_by(&mut cluster, LAN, LAN, &[frame], &mut random);
        assert_eq!(join(&sent), join(&whole), "subscriber {host}");
        let key = packet::flow(&join(&sent).unwrap()).unwrap();
        assert_eq!((key.dst, key.dst_port), (subscriber(1), 5_000));
        assert!(key.src != subscriber(host));
        shared += usize::from(key.src == outside.src);
    }
    assert!(
        shared > 1,
        "{shared} callers had the public address of the called one"
    );
    assert_eq!(cluster.node(0).packets.alive(), 0);
}
