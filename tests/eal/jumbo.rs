//! Frames of up to 9,000 bytes and two tags, each in one buffer, and what becomes of longer ones.

use dataplane::io::{Burst, Io, Packet, RxQueue};
use twinpath::dpdk::{PortConfig, PortError, PortSet, room_for};

use crate::Tally;
use crate::bench::{Bench, Check, config, same, start_wide};
use crate::frames;
use crate::parts::{Folder, ip};

const MTU: u16 = 9_000;
/// MTU, Ethernet header and two tags.
const LONGEST: usize = 9_000 + 14 + 8;
const RING: &str = "net_ring0";

pub(crate) fn part(root: bool) -> Tally {
    let mut tally = Tally::default();
    let folder = Folder::new();
    let input = folder.file("jumbo.pcap");
    let lengths = [60, 1_514, 9_014, LONGEST];
    let mut written: Vec<_> = lengths.map(frames::long).to_vec();
    // One byte more than the MTU allows, and more than a buffer holds.
    written.extend([LONGEST + 1, 12_000].map(frames::long));
    frames::write_pcap(&input, &written);
    let pcap = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        folder.file("out.pcap").display()
    );
    let mut names = vec![RING.to_owned(), pcap];
    if root {
        ip("link add va type veth peer name vb");
        for iface in ["va", "vb"] {
            ip(&format!("link set {iface} mtu {MTU} up"));
        }
        let ring = "blocksz=36864,framesz=9216,framecnt=256,qpairs=1";
        names.push(format!("net_af_packet0,iface=va,{ring}"));
        names.push(format!("net_af_packet1,iface=vb,{ring}"));
        names.push("net_tap0,iface=tap0".to_owned());
    }
    let wide = |name: &String| PortConfig {
        mtu: MTU,
        ..config(name, 1)
    };
    let mut configs: Vec<PortConfig> = names.iter().map(wide).collect();
    let devices: Vec<&str> = names.iter().map(String::as_str).collect();
    let (eal, pool) = start_wide(&devices, room_for(&configs));
    if root {
        let tap = configs.pop().unwrap();
        tally.check("net_tap has no jumbo frames", || {
            let error = PortSet::open(&eal, &pool, &[tap], 1).map(|_| ()).unwrap_err();
            assert!(
                matches!(
                    error,
                    PortError::Mtu {
                        mtu: MTU,
                        most: 1_500..=1_504,
                        ..
                    }
                ),
                "{error}"
            );
            1
        });
    }
    let mut bench = Bench::open_configs(&eal, &pool, configs);
    let b = &mut bench;
    let long: Vec<_> = (0..200)
        .map(|n| frames::long(lengths[n % 4].saturating_sub(n / 4).max(60)))
        .collect();

    tally.check("net_ring, jumbo", || {
        let port = b.port(RING);
        same(&b.carry(port, port, &long), &long)
    });
    tally.check("net_pcap, jumbo", || {
        let port = b.port("net_pcap0");
        let mut arrived = Vec::new();
        let counted = b.eventually(|b| {
            b.receive(port, &mut arrived, 0);
            let counters = b.io.counters(port).unwrap();
            counters.rx_too_long == 1 && counters.rx_segmented == 1
        });
        assert!(counted, "{:?}", b.io.counters(port));
        same(&arrived, &written[..lengths.len()])
    });
    tally.check("segments that fit are joined", || segments_that_fit(b));
    tally.check("segments that don't fit are dropped", || segments_too_many(b));
    if root {
        tally.check("net_af_packet, jumbo", || {
            let (one, other) = (b.port("net_af_packet0"), b.port("net_af_packet1"));
            // The kernel's links have room for one tag besides the MTU.
            let fit: Vec<_> = long
                .iter()
                .filter(|frame| frame.len() <= LONGEST - 4)
                .cloned()
                .collect();
            same(&b.carry(one, other, &fit), &fit) + same(&b.carry(other, one, &fit), &fit)
        });
    }
    let Bench { set, io, .. } = bench;
    drop(io);
    tally.check("stop", || u64::from(eal.stop(vec![set], pool).unwrap().mbufs));
    tally
}

/// Sends one frame made of these segments into the ring and returns what comes out of it.
fn in_segments(bench: &mut Bench, segments: &[&[u8]]) -> Vec<Vec<u8>> {
    let port = bench.port(RING);
    let mut packet = bench.packet(segments[0]);
    for segment in &segments[1..] {
        let segment = bench.packet(segment);
        packet.chain(segment).unwrap();
    }
    let mut burst = Burst::new();
    burst.push(packet);
    assert_eq!(bench.io.tx(port, &mut burst), 1);
    bench.io.rx(RxQueue { port, queue: 0 }, &mut burst);
    let frames = burst.iter().map(|packet| packet.data().to_vec()).collect();
    bench.io.free(&mut burst);
    frames
}

fn segments_that_fit(bench: &mut Bench) -> Check {
    let in_use = bench.io.counters(bench.port(RING)).unwrap();
    let frame = frames::long(LONGEST);
    let mut compared = 0;
    for cuts in [[1, 2], [14, 1_514], [4_000, 9_000]] {
        let (first, rest) = frame.split_at(cuts[0]);
        let (second, third) = rest.split_at(cuts[1] - cuts[0]);
        compared += same(
            &in_segments(bench, &[first, second, third]),
            std::slice::from_ref(&frame),
        );
    }
    let counters = bench.io.counters(bench.port(RING)).unwrap();
    assert_eq!(counters.rx_joined - in_use.rx_joined, 3);
    assert_eq!(counters.rx_segmented, in_use.rx_segmented);
    compared
}

fn segments_too_many(bench: &mut Bench) -> Check {
    let before = bench.io.counters(bench.port(RING)).unwrap();
    let part = vec![0x55; 4_000];
    assert_eq!(same(&in_segments(bench, &[&part, &part, &part]), &[]), 0);
    // It fits into a buffer, and is longer than the port's MTU.
    let (first, last) = (vec![0x55; 9_000], vec![0x55; LONGEST - 9_000 + 1]);
    assert_eq!(same(&in_segments(bench, &[&first, &last]), &[]), 0);
    let counters = bench.io.counters(bench.port(RING)).unwrap();
    assert_eq!(counters.rx_segmented - before.rx_segmented, 1);
    assert_eq!(counters.rx_too_long - before.rx_too_long, 1);
    assert_eq!(counters.rx_joined, before.rx_joined);
    2
}
