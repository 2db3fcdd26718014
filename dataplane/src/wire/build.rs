//! Whole frames from a flow key, with right lengths and checksums: for tests, the simulator and benches, and nowhere
//! on the packet path (each frame is a fresh vector).

use super::checksum::Sum;
use super::ethernet::{Mac, ethertype};
use super::vlan::VlanTags;
use super::{icmp4, icmp6};
use crate::flow::{FlowKey, proto};

/// Everything below the transport header that a flow key doesn't say.
#[derive(Debug, Clone)]
pub struct Link {
    /// Destination MAC address.
    pub dst_mac: Mac,
    /// Source MAC address.
    pub src_mac: Mac,
    /// VLAN tags.
    pub vlans: VlanTags,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Traffic class or type of service.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv4 options, padded with zeros to a multiple of 4.
    pub options: Vec<u8>,
    /// IPv6 extension headers, without their chain: `(type, bytes)`, where byte 0 is overwritten with the next type.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            dst_mac: [2, 0, 0, 0, 0, 1],
            src_mac: [2, 0, 0, 0, 0, 2],
            vlans: VlanTags::NONE,
            ttl: 64,
            tos: 0,
            id: 0,
            fragment: super::ipv4::DONT_FRAGMENT,
            options: Vec::new(),
            extensions: Vec::new(),
        }
    }
}

/// A TCP segment without its ports.
#[derive(Debug, Default, Clone)]
pub struct Segment<'a> {
    /// Control bits.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Window.
    pub window: u16,
    /// Options, padded with zeros to a multiple of 4.
    pub options: &'a [u8],
    /// Data.
    pub data: &'a [u8],
}

impl Link {
    /// An Ethernet frame around `payload`.
    #[must_use]
    pub fn ethernet(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.dst_mac, self.src_mac].concat();
        for tag in self.vlans.as_slice() {
            frame.extend(tag.tpid.to_be_bytes());
            frame.extend(tag.tci.to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// An IP packet of the key's addresses and protocol in a frame.
    #[must_use]
    pub fn ip(&self, key: &FlowKey, l4: &[u8]) -> Vec<u8> {
        let ethertype = if key.src.is_v4() {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        };
        self.ethernet(ethertype, &self.ip_packet(key, l4))
    }

    /// As [`Self::ip`], without the Ethernet header.
    #[must_use]
    pub fn ip_packet(&self, key: &FlowKey, l4: &[u8]) -> Vec<u8> {
        if key.src.is_v4() {
            self.ipv4(key, l4)
        } else {
            self.ipv6(key, l4)
        }
    }

    fn ipv4(&self, key: &FlowKey, l4: &[u8]) -> Vec<u8> {
        let options = padded(&self.options);
        let header_len = 20 + options.len();
        let mut packet = vec![0x40 | low_byte(header_len / 4), self.tos];
        packet.extend(low_word(header_len + l4.len()).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, key.proto, 0, 0]);
        packet.extend(key.src.v4_octets());
        packet.extend(key.dst.v4_octets());
        packet.extend(options);
        let checksum = Sum::ZERO.bytes(&packet).finish();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(l4);
        packet
    }

    fn ipv6(&self, key: &FlowKey, l4: &[u8]) -> Vec<u8> {
        let mut chain = Vec::new();
        for (i, (_, bytes)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(i + 1).map_or(key.proto, |e| e.0);
            chain.push(next);
            chain.extend(&bytes[1..]);
        }
        let mut packet = (0x6000_0000 | u32::from(self.tos) << 20).to_be_bytes().to_vec();
        packet.extend(low_word(chain.len() + l4.len()).to_be_bytes());
        packet.extend([self.extensions.first().map_or(key.proto, |e| e.0), self.ttl]);
        packet.extend(key.src.octets());
        packet.extend(key.dst.octets());
        packet.extend(chain);
        packet.extend(l4);
        packet
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, key: &FlowKey, data: &[u8]) -> Vec<u8> {
        self.ip(key, &udp(key, data))
    }

    /// A TCP segment.
    #[must_use]
    pub fn tcp(&self, key: &FlowKey, segment: &Segment<'_>) -> Vec<u8> {
        self.ip(key, &tcp(key, segment))
    }

    /// An echo request when the key's destination port is 0, else a reply; the other port is the identifier.
    #[must_use]
    pub fn echo(&self, key: &FlowKey, seq: u16, data: &[u8]) -> Vec<u8> {
        self.ip(key, &echo(key, seq, data))
    }

    /// An ICMP or `ICMPv6` message: type, code, the 4 bytes after the checksum, and the rest.
    #[must_use]
    pub fn icmp(&self, key: &FlowKey, kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
        self.ip(key, &icmp(key, kind, code, word, rest))
    }
}

/// UDP header and data; the key gives ports and pseudo header.
#[must_use]
pub fn udp(key: &FlowKey, data: &[u8]) -> Vec<u8> {
    let mut l4 = ports(key);
    l4.extend(low_word(8 + data.len()).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(data);
    let checksum = pseudo(key, l4.len()).bytes(&l4).finish_udp();
    l4[6..8].copy_from_slice(&checksum.to_be_bytes());
    l4
}

/// TCP header, options and data; the key gives ports and pseudo header.
#[must_use]
pub fn tcp(key: &FlowKey, segment: &Segment<'_>) -> Vec<u8> {
    let options = padded(segment.options);
    let mut l4 = ports(key);
    l4.extend(segment.seq.to_be_bytes());
    l4.extend(segment.ack.to_be_bytes());
    l4.extend([low_byte((20 + options.len()) / 4) << 4, segment.flags]);
    l4.extend(segment.window.to_be_bytes());
    l4.extend([0; 4]);
    l4.extend(options);
    l4.extend(segment.data);
    let checksum = pseudo(key, l4.len()).bytes(&l4).finish();
    l4[16..18].copy_from_slice(&checksum.to_be_bytes());
    l4
}

/// Echo request (the key's destination port is 0) or reply of ICMP or `ICMPv6`.
#[must_use]
pub fn echo(key: &FlowKey, seq: u16, data: &[u8]) -> Vec<u8> {
    let request = key.dst_port == 0;
    let kind = match (key.proto == proto::ICMP6, request) {
        (false, true) => icmp4::ECHO,
        (false, false) => icmp4::ECHO_REPLY,
        (true, true) => icmp6::ECHO_REQUEST,
        (true, false) => icmp6::ECHO_REPLY,
    };
    let [a, b] = (if request { key.src_port } else { key.dst_port }).to_be_bytes();
    let [c, d] = seq.to_be_bytes();
    icmp(key, kind, 0, [a, b, c, d], data)
}

/// An ICMP or `ICMPv6` message: type, code, the 4 bytes after the checksum, and the rest.
#[must_use]
pub fn icmp(key: &FlowKey, kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend(word);
    l4.extend(rest);
    let sum = if key.proto == proto::ICMP6 {
        pseudo(key, l4.len())
    } else {
        Sum::ZERO
    };
    let checksum = sum.bytes(&l4).finish();
    l4[2..4].copy_from_slice(&checksum.to_be_bytes());
    l4
}

fn ports(key: &FlowKey) -> Vec<u8> {
    [key.src_port.to_be_bytes(), key.dst_port.to_be_bytes()].concat()
}

fn pseudo(key: &FlowKey, len: usize) -> Sum {
    let sum = Sum::ZERO.word(low_word(len)).word(u16::from(key.proto));
    if key.src.is_v4() {
        sum.fixed(&key.src.v4_octets()).fixed(&key.dst.v4_octets())
    } else {
        sum.fixed(&key.src.octets()).fixed(&key.dst.octets())
    }
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a packet too long for its field is the caller's wish"
)]
const fn low_word(n: usize) -> u16 {
    n as u16
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a header too long for its field is the caller's wish"
)]
const fn low_byte(n: usize) -> u8 {
    n as u8
}
