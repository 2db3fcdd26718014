//! What a driver has verified nobody reckons again, and what is damaged is told from what is not all the same: each kind of
//! packet comes in by a tap, whose driver verifies, whole and with a byte changed.

use dataplane::io::{Burst, Io, Packet, RxQueue, Verified};
use dataplane::stage::parse::{Meta, parse};
use dataplane::verdict::{Drop, Verdict};
use twinpath::dpdk::Checksums;

use crate::bench::{Bench, Check};
use crate::frames;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where things stand behind the Ethernet header of an IPv4 packet without options.
const IP_TTL: usize = 14 + 8;
const UDP_CHECKSUM: usize = 14 + 20 + 6;

/// `verifies` is a tap's driver; what `other` sends comes in there.
pub(crate) fn verified_and_damaged(bench: &mut Bench, verifies: &str, other: &str) -> Check {
    let (tap, far) = (bench.port(verifies), bench.port(other));
    let names: Vec<_> = bench.set.checksums(tap).names().collect();
    assert_eq!(names, ["ipv4", "tcp", "udp"]);
    assert_eq!(bench.set.checksums(far), Checksums::NONE);
    let all = Verified {
        header: true,
        transport: true,
    };
    let header_only = Verified {
        transport: false,
        ..all
    };
    let transport_only = Verified { header: false, ..all };
    let bad = |reason| Verdict::Drop(reason);
    let (tcp, udp) = (ipv4(TCP), ipv4(UDP));
    let cases = [
        (tcp.clone(), Some(all), Verdict::Forward),
        (udp.clone(), Some(all), Verdict::Forward),
        (
            changed(&tcp, tcp.len() - 1),
            Some(header_only),
            bad(Drop::BadL4Checksum),
        ),
        // A datagram is looked at again where it would open a flow, and not before.
        (changed(&udp, udp.len() - 1), Some(header_only), Verdict::Forward),
        (
            changed(&tcp, IP_TTL),
            Some(transport_only),
            bad(Drop::BadIpChecksum),
        ),
        (
            changed(&udp, IP_TTL),
            Some(transport_only),
            bad(Drop::BadIpChecksum),
        ),
        (without_checksum(&udp), None, Verdict::Forward),
        (ipv6(TCP), Some(transport_only), Verdict::Forward),
        (
            changed(&ipv6(TCP), ipv6(TCP).len() - 1),
            Some(Verified::default()),
            bad(Drop::BadL4Checksum),
        ),
    ];
    for (frame, verified, verdict) in &cases {
        let (found, said) = through(bench, far, tap, frame);
        assert!(
            verified.is_none_or(|verified| verified == found),
            "{found:?}: {frame:02x?}"
        );
        assert_eq!(said, *verdict, "{found:?}: {frame:02x?}");
    }
    // A driver that verifies nothing says nothing: software has the word.
    let (found, said) = through(bench, tap, far, &changed(&tcp, IP_TTL));
    assert_eq!((found, said), (Verified::default(), bad(Drop::BadIpChecksum)));
    cases.len() as u64 + 3
}

/// What is said of a frame where it comes in.
fn through(
    bench: &mut Bench,
    from: dataplane::io::PortId,
    to: dataplane::io::PortId,
    frame: &[u8],
) -> (Verified, Verdict) {
    let mut burst: Burst<_> = core::iter::once(bench.packet(frame)).collect();
    assert_eq!(bench.io.tx(from, &mut burst), 1);
    let mut said = None;
    bench.eventually(|bench| {
        let mut burst = Burst::new();
        bench.io.rx(RxQueue { port: to, queue: 0 }, &mut burst);
        for packet in burst.iter().filter(|packet| packet.data() == frame) {
            let mut meta = Meta {
                verified: packet.verified(),
                ..Meta::default()
            };
            said = Some((meta.verified, parse(packet.data(), &mut meta)));
        }
        bench.io.free(&mut burst);
        said.is_some()
    });
    said.expect("it never came")
}

fn changed(frame: &[u8], at: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] ^= 0x10;
    frame
}

fn without_checksum(udp: &[u8]) -> Vec<u8> {
    let mut frame = udp.to_vec();
    frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
    frame
}

fn ipv4(proto: u8) -> Vec<u8> {
    let addresses = [100, 64, 0, 2, 192, 0, 2, 1];
    let l4 = transport(proto, &addresses);
    let mut header = vec![0x45, 0, 0, 20 + l4.len() as u8, 0, 1, 0x40, 0, 64, proto, 0, 0];
    header.extend(addresses);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    frames::ethernet(0x0800, &[header, l4].concat())
}

fn ipv6(proto: u8) -> Vec<u8> {
    let mut addresses = [0; 32];
    addresses[..4].copy_from_slice(&[0x2a, 0, 0, 1]);
    addresses[16..20].copy_from_slice(&[0x2a, 0, 0, 2]);
    let l4 = transport(proto, &addresses);
    let header = [&[0x60, 0, 0, 0, 0, l4.len() as u8, proto, 64], &addresses[..]].concat();
    frames::ethernet(0x86dd, &[header, l4].concat())
}

/// A segment or datagram with its checksum, and some data that makes it longer than the shortest frame.
fn transport(proto: u8, addresses: &[u8]) -> Vec<u8> {
    let ports = [0x30, 0x39, 0x00, 0x35];
    let rest: &[u8] = match proto {
        TCP => &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0],
        _ => &[0, 8 + DATA, 0, 0],
    };
    let mut l4 = [&ports, rest, &[0xa5; DATA as usize]].concat();
    let pseudo = [addresses, &[0, proto, 0, l4.len() as u8], &l4].concat();
    let at = if proto == TCP { 16 } else { 6 };
    let sum = checksum(&pseudo);
    l4[at..at + 2].copy_from_slice(&sum);
    l4
}

const DATA: u8 = 40;

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}
