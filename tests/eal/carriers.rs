//! Each kind of device carries frames byte for byte.

use std::path::Path;
use std::process::Command;

use dataplane::io::{BURST, Burst, Io, Packet, RxQueue};
use twinpath::dpdk::Checksums;

use crate::bench::{Bench, Check, same};
use crate::frames;

const FRAMES: usize = 500;

pub(crate) fn null_swallows_and_invents(bench: &mut Bench) -> Check {
    let port = bench.port("net_null0");
    let mut burst = Burst::new();
    bench.io.rx(RxQueue { port, queue: 0 }, &mut burst);
    assert_eq!(burst.len(), BURST);
    assert!(burst.iter().all(|packet| packet.data() == [0; 64]));
    assert_eq!(bench.io.tx(port, &mut burst), BURST);
    assert!(burst.is_empty());
    BURST as u64
}

/// Out of one device and into another (or the same, for a loop), there and back.
pub(crate) fn pair(bench: &mut Bench, one: &str, other: &str) -> Check {
    let (one, other) = (bench.port(one), bench.port(other));
    let up = bench.eventually(|bench| {
        [one, other]
            .iter()
            .all(|port| bench.set.link(*port).is_some_and(|link| link.up))
    });
    assert!(up, "the link never came up");
    let frames = frames::make(FRAMES);
    let there = bench.carry(one, other, &frames);
    let back = bench.carry(other, one, &frames);
    same(&there, &frames) + same(&back, &frames)
}

/// As [`pair`], and the sender never sees its own frames.
pub(crate) fn af_packet(bench: &mut Bench, one: &str, other: &str) -> Check {
    let compared = pair(bench, one, other);
    let mut own = Vec::new();
    for name in [one, other] {
        let port = bench.port(name);
        bench.receive(port, &mut own, 0);
    }
    assert_eq!(same(&own, &[]), 0);
    compared
}

pub(crate) fn pcap_reads_a_file(bench: &mut Bench) -> Check {
    let port = bench.port("net_pcap0");
    let frames = frames::make(FRAMES);
    let mut arrived = Vec::new();
    bench.receive(port, &mut arrived, FRAMES);
    let compared = same(&arrived, &frames);
    // The two oversized frames at the file's end: one fits an mbuf but not the MTU, one needs two mbufs.
    let counted = bench.eventually(|bench| {
        bench.receive(port, &mut arrived, 0);
        let counters = bench.io.counters(port).unwrap();
        counters.rx_too_long == 1 && counters.rx_segmented == 1
    });
    assert!(counted, "{:?}", bench.io.counters(port));
    assert_eq!(arrived.len(), FRAMES);
    compared + 2
}

/// What `pcap_reads_a_file` finds in its file.
pub(crate) fn pcap_input() -> Vec<Vec<u8>> {
    let mut frames = frames::make(FRAMES);
    for len in [1_600, 3_000] {
        let mut long = frames[1].clone();
        long.resize(len, 0x55);
        frames.push(long);
    }
    frames
}

pub(crate) fn pcap_writes_a_file(bench: &mut Bench, path: &Path) -> Check {
    let port = bench.port("net_pcap0");
    let frames = frames::make(FRAMES);
    for chunk in frames.chunks(BURST) {
        let mut burst: Burst<_> = chunk.iter().map(|frame| bench.packet(frame)).collect();
        assert_eq!(bench.io.tx(port, &mut burst), chunk.len());
    }
    same(&frames::read_pcap(path), &frames)
}

/// The agent's view of a port: MAC address as the kernel tells it, MTU, link, counters by name.
pub(crate) fn description(bench: &Bench, name: &str, iface: &str) -> Check {
    let port = bench.port(name);
    let shown = Command::new("ip")
        .args(["-br", "link", "show", "dev", iface])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let mac = bench
        .set
        .mac(port)
        .unwrap()
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    assert_eq!(shown.split_whitespace().nth(2), Some(mac.as_str()), "{shown}");
    assert_eq!(bench.set.mtu(port), Some(crate::bench::MTU));
    assert!(bench.set.link(port).unwrap().up);
    counters(bench, name) + 3
}

/// The kernel interface that mirrors a port has its MAC address and MTU, and is up.
pub(crate) fn tap(bench: &Bench, name: &str, tap: &str) -> Check {
    let mac = bench.set.mac(bench.port(name));
    assert_eq!(bench.set.mac(bench.port(tap)), mac);
    // What the kernel sends there is the kernel's word.
    assert_eq!(bench.set.checksums(bench.port(tap)), Checksums::NONE);
    let shown = Command::new("ip")
        .args(["link", "show", "dev", tap])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let mac = mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
    for word in [
        format!("link/ether {mac}"),
        format!("mtu {}", crate::bench::MTU),
        "UP,LOWER_UP".to_owned(),
    ] {
        assert!(shown.contains(&word), "{word} in {shown}");
    }
    assert!(!shown.contains("PROMISC"), "{shown}");
    6
}

/// The driver's counters agree with ours.
pub(crate) fn counters(bench: &Bench, name: &str) -> Check {
    let port = bench.port(name);
    let (driver, ours) = (bench.set.stats(port).unwrap(), bench.io.counters(port).unwrap());
    assert!(ours.tx_packets >= FRAMES as u64, "{ours:?}");
    assert_eq!(driver.tx_packets, ours.tx_packets);
    assert_eq!(
        driver.rx_packets,
        ours.rx_packets + ours.rx_segmented + ours.rx_too_long
    );
    let named = bench.set.xstats(port);
    let value = |name| named.iter().find(|(known, _)| known == name).map(|found| found.1);
    assert_eq!(value("tx_good_packets"), Some(driver.tx_packets));
    assert_eq!(value("rx_good_packets"), Some(driver.rx_packets));
    4
}
