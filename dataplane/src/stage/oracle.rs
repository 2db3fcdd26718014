//! For tests: frames of every shape the path carries, and `etherparse` as a second reader of the same bytes, which
//! computes each checksum from scratch.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use crate::flow::{Addr, FlowKey, VrfId, proto};
use crate::io::Packet;
use crate::wire::build::{Link, Segment};
use crate::wire::vlan::VlanTags;

/// What the second reader saw.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) key: FlowKey,
    pub(super) ttl: u8,
    pub(super) vlans: Vec<u16>,
    pub(super) data: Vec<u8>,
}

/// Reads a frame with `etherparse`; none when it refuses the frame or any checksum is wrong.
pub(super) fn read(frame: &[u8]) -> Option<Seen> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let vlans = packet.vlan_ids().iter().map(|id| id.value()).collect();
    let (src, dst, ttl, payload) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            if header.calc_header_checksum() != header.header_checksum {
                return None;
            }
            (
                Addr::v4(header.source),
                Addr::v4(header.destination),
                header.time_to_live,
                ip.payload().clone(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (
                Addr::v6(header.source),
                Addr::v6(header.destination),
                header.hop_limit,
                ip.payload().clone(),
            )
        }
        NetSlice::Arp(_) => return None,
    };
    let proto = payload.ip_number.0;
    let (ports, data) = match packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let sum = match src.is_v4() {
                true => header.calc_checksum_ipv4_raw(src.v4_octets(), dst.v4_octets(), udp.payload()),
                false => header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), udp.payload()),
            };
            if sum.ok()? != header.checksum && !(src.is_v4() && header.checksum == 0) {
                return None;
            }
            ((header.source_port, header.destination_port), udp.payload())
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let sum = match src.is_v4() {
                true => tcp.calc_checksum_ipv4(src.v4_octets(), dst.v4_octets()),
                false => tcp.calc_checksum_ipv6(src.octets(), dst.octets()),
            };
            if sum.ok()? != tcp.checksum() {
                return None;
            }
            ((tcp.source_port(), tcp.destination_port()), tcp.payload())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            if icmp.icmp_type().calc_checksum(icmp.payload()) != icmp.checksum() {
                return None;
            }
            (echo_ports(icmp.slice(), 8), icmp.payload())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            if !icmp.is_checksum_valid(src.octets(), dst.octets()) {
                return None;
            }
            (echo_ports(icmp.slice(), 128), icmp.payload())
        }
        _ => ((0, 0), payload.payload),
    };
    let key = FlowKey {
        src,
        dst,
        src_port: ports.0,
        dst_port: ports.1,
        vrf: VrfId(0),
        proto,
    };
    Some(Seen {
        key,
        ttl,
        vlans,
        data: data.to_vec(),
    })
}

fn echo_ports(icmp: &[u8], request: u8) -> (u16, u16) {
    let id = u16::from_be_bytes([icmp[4], icmp[5]]);
    if icmp[0] == request { (id, 0) } else { (0, id) }
}

/// A tuple of addresses that may be forwarded, of one of the translated protocols.
pub(super) fn any_key() -> impl Strategy<Value = FlowKey> {
    let v4 = any::<[u8; 4]>().prop_map(|[a, b, c, d]| Addr::v4([1 + a % 126, b, c, d]));
    let v6 = any::<[u8; 14]>().prop_map(|b| {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&[0x20, 0x01]);
        address[2..].copy_from_slice(&b);
        Addr::v6(address)
    });
    let addresses = prop_oneof![(v4.clone(), v4), (v6.clone(), v6)];
    let different = addresses.prop_filter("source is destination", |(src, dst)| src != dst);
    (different, 1..=u16::MAX, 1..=u16::MAX, 0..4u8).prop_map(|((src, dst), a, b, kind)| {
        let icmp = if src.is_v4() { proto::ICMP } else { proto::ICMP6 };
        let (src_port, dst_port, proto) = match kind {
            0 => (a, b, proto::UDP),
            1 => (a, b, proto::TCP),
            2 => (a, 0, icmp),
            _ => (0, b, icmp),
        };
        FlowKey {
            src,
            dst,
            src_port,
            dst_port,
            vrf: VrfId(0),
            proto,
        }
    })
}

/// Tags, TTL, options or extension headers.
pub(super) fn any_link() -> impl Strategy<Value = Link> {
    let extension = prop_oneof![
        Just((60, vec![0, 0, 1, 4, 0, 0, 0, 0])),
        Just((43, vec![0, 0, 4, 0, 9, 9, 9, 9]))
    ];
    let extensions = (any::<bool>(), prop::collection::vec(extension, 0..3)).prop_map(|(hop, mut rest)| {
        if hop {
            rest.insert(0, (0, vec![0, 0, 5, 2, 0, 0, 1, 0]));
        }
        rest
    });
    (
        prop::collection::vec(1u16..4095, 0..3),
        1..=255u8,
        0..4usize,
        extensions,
        any::<u8>(),
        any::<u16>(),
    )
        .prop_map(|(vlans, ttl, nops, extensions, tos, id)| Link {
            vlans: VlanTags::from_ids(&vlans).unwrap(),
            ttl,
            options: vec![1; nops * 4],
            extensions,
            tos,
            id,
            ..Link::default()
        })
}

/// A frame of that tuple.
pub(super) fn frame(link: &Link, key: &FlowKey, data: &[u8]) -> Vec<u8> {
    match key.proto {
        proto::UDP => link.udp(key, data),
        proto::TCP => {
            let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
            link.tcp(
                key,
                &Segment {
                    flags: 0x12,
                    seq: 7,
                    ack: 9,
                    window: 512,
                    options: &options,
                    data,
                },
            )
        }
        _ => link.echo(key, 1, data),
    }
}

/// A packet with so much headroom and room.
#[derive(Debug, Clone)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    front: usize,
    room: usize,
}

impl Buffer {
    pub(super) fn new(front: usize, frame: &[u8], room: usize) -> Self {
        Self {
            bytes: [&vec![0xee; front][..], frame].concat(),
            front,
            room,
        }
    }
}

impl Packet for Buffer {
    fn data(&self) -> &[u8] {
        &self.bytes[self.front..]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.front..]
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.room;
        if fits {
            self.bytes.resize(self.front + len, 0xee);
        }
        fits
    }

    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.front;
        if fits {
            self.front -= count;
        }
        fits
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.data().len();
        if fits {
            self.front += count;
        }
        fits
    }
}
