//! The transport half of parse: ports or identifier, checksum, TCP fields, and the packet an ICMP error quotes.
//! `l4` always ends where the IP packet ends; `pseudo` is both addresses in
//! a row.

use super::{IcmpMessage, Kind, Meta, TcpSegment};
use crate::flow::{Addr, FlowKey, proto};
use crate::verdict::Drop;
use crate::wire::checksum::Sum;
use crate::wire::ext;
use crate::wire::icmp4::{self, Icmp};
use crate::wire::icmp6::{self, Neighbor};
use crate::wire::ipv4::{FRAGMENT_OFFSET, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;

/// What every router must be able to quote after the IP header (RFC 792).
const QUOTE_L4_MIN: usize = 8;

#[inline(always)]
pub(super) fn tcp<const N: usize>(l4: &[u8], pseudo: &[u8; N], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Tcp::at(l4).ok_or(Drop::Truncated)?;
    let header_len = header.header_len();
    let options = l4.get(20..header_len).ok_or(Drop::BadL4Header)?;
    (meta.key.src_port, meta.key.dst_port) = (header.src_port(), header.dst_port());
    if meta.key.src_port == 0 || meta.key.dst_port == 0 {
        return Err(Drop::BadL4Header);
    }
    if !tcp::flags_valid(header.flags()) {
        return Err(Drop::BadTcpFlags);
    }
    if !meta.verified.transport {
        verify(Sum::ZERO.pseudo(pseudo, low_word(l4.len()), proto::TCP).bytes(l4))?;
    }
    let is_syn = header.flags() & tcp::SYN != 0;
    meta.tcp = TcpSegment {
        seq: header.seq(),
        ack: header.ack(),
        payload_len: u32::from(low_word(l4.len() - header_len)),
        window: header.window(),
        flags: header.flags(),
        window_scale: if is_syn { tcp::window_scale(options) } else { None },
    };
    Ok(Kind::Flow)
}

/// All but the checksum, which [`udp_is_right`] verifies where something depends on it.
#[inline(always)]
pub(super) fn udp(l4: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Udp::at(l4).ok_or(Drop::Truncated)?;
    (meta.key.src_port, meta.key.dst_port) = (header.src_port(), header.dst_port());
    let len = header.datagram_len();
    // Bytes may follow the datagram inside the IP packet (RFC 9868, section 7); a source port may be 0 (RFC 768).
    if len < 8 || meta.key.dst_port == 0 {
        return Err(Drop::BadL4Header);
    }
    if usize::from(len) > l4.len() {
        return Err(Drop::BadL4Header);
    }
    // RFC 8200, section 8.1: only IPv4 may go without.
    if meta.is_v6 && header.checksum() == 0 {
        return Err(Drop::BadL4Checksum);
    }
    Ok(Kind::Flow)
}

/// Whether a whole UDP packet that parse has let through has the checksum it says, or says none. A datagram changes nothing
/// here but by being the first of its flow, so that only this one is asked: the others keep their damage, if they have any,
/// for their receiver to find, because rewriting adjusts checksums by what it changes. Others would have to be read to their end.
pub(crate) fn udp_is_right(frame: &[u8], meta: &Meta) -> bool {
    let sum = || {
        let packet = frame.get(usize::from(meta.l2_len)..)?;
        let l4 = packet.get(usize::from(meta.l3_len)..)?;
        let header = Udp::at(l4)?;
        let len = header.datagram_len();
        if header.checksum() == 0 {
            return None;
        }
        let pseudo = if meta.is_v6 {
            Sum::ZERO.pseudo(&Ipv6::at(packet)?.addresses(), len, proto::UDP)
        } else {
            Sum::ZERO.pseudo(&Ipv4::at(packet)?.addresses(), len, proto::UDP)
        };
        Some(pseudo.bytes(l4.get(..usize::from(len))?))
    };
    meta.verified.transport || sum().is_none_or(Sum::is_right)
}

#[inline]
pub(super) fn icmp4(l4: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Icmp::at(l4).ok_or(Drop::Truncated)?;
    verify(Sum::ZERO.bytes(l4))?;
    meta.icmp = IcmpMessage {
        kind: header.kind(),
        code: header.code(),
        embedded_l3_len: 0,
    };
    if let Some(is_request) = icmp4::query(header.kind()) {
        return Ok(query(is_request, header.id(), meta));
    }
    if icmp4::is_error(header.kind()) {
        return error(l4.get(8..).unwrap_or_default(), meta, embedded4);
    }
    Err(Drop::IcmpNotQuery)
}

#[inline]
pub(super) fn icmp6(l4: &[u8], pseudo: &[u8; 32], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Icmp::at(l4).ok_or(Drop::Truncated)?;
    verify(
        Sum::ZERO
            .pseudo(pseudo, low_word(l4.len()), proto::ICMP6)
            .bytes(l4),
    )?;
    meta.icmp = IcmpMessage {
        kind: header.kind(),
        code: header.code(),
        embedded_l3_len: 0,
    };
    if let Some(is_request) = icmp6::query(header.kind()) {
        return Ok(query(is_request, header.id(), meta));
    }
    if icmp6::is_error(header.kind()) {
        return error(l4.get(8..).unwrap_or_default(), meta, embedded6);
    }
    Err(Drop::IcmpNotQuery)
}

/// The identifier stands in for the requester's port (see [`FlowKey`]).
#[inline]
pub(super) fn query(is_request: bool, id: u16, meta: &mut Meta) -> Kind {
    meta.is_request = is_request;
    (meta.key.src_port, meta.key.dst_port) = if is_request { (id, 0) } else { (0, id) };
    Kind::Flow
}

type Embedded = fn(&[u8]) -> Option<(FlowKey, usize)>;

/// An error's key is the embedded tuple reversed: that is how a packet of the same flow and direction looks.
#[cold]
fn error(quote: &[u8], meta: &mut Meta, embedded: Embedded) -> Result<Kind, Drop> {
    let (inner, l3_len) = embedded(quote).ok_or(Drop::BadIcmpQuote)?;
    // The error goes to whoever sent the quoted packet; anything else is forged or none of our business.
    if inner.src != meta.key.dst {
        return Err(Drop::BadIcmpQuote);
    }
    meta.icmp.embedded_l3_len = low_word(l3_len);
    meta.key = inner.reversed();
    Ok(Kind::IcmpError)
}

/// Tuple of a quoted IPv4 packet and the length of its header. Its end may be missing, and its checksum, TTL and
/// length are what a router on the way left of them, so they are not checked.
fn embedded4(quote: &[u8]) -> Option<(FlowKey, usize)> {
    let header = Ipv4::at(quote)?;
    let l3_len = header.header_len();
    if header.version_ihl() >> 4 != 4 || l3_len < 20 || header.fragment() & FRAGMENT_OFFSET != 0 {
        return None;
    }
    let key = FlowKey {
        src: Addr::v4(header.src()),
        dst: Addr::v4(header.dst()),
        proto: header.proto(),
        ..FlowKey::default()
    };
    Some((embedded_ports(key, quote.get(l3_len..)?)?, l3_len))
}

fn embedded6(quote: &[u8]) -> Option<(FlowKey, usize)> {
    let header = Ipv6::at(quote)?;
    if header.first_word() >> 28 != 6 {
        return None;
    }
    let after = quote.get(40..)?;
    let upper = ext::walk(after, header.next_header()).ok()?;
    // A later piece says nothing about its flow.
    if upper.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return None;
    }
    if ipv6::is_v4_mapped(&header.dst()) {
        return None;
    }
    let key = FlowKey {
        src: Addr::v6(header.src()),
        dst: Addr::v6(header.dst()),
        proto: upper.proto,
        ..FlowKey::default()
    };
    Some((
        embedded_ports(key, after.get(upper.offset..)?)?,
        40 + upper.offset,
    ))
}

fn embedded_ports(mut key: FlowKey, l4: &[u8]) -> Option<FlowKey> {
    let is_v4 = key.src.is_v4();
    match key.proto {
        proto::TCP | proto::UDP => {
            let head = l4.first_chunk::<QUOTE_L4_MIN>()?;
            key.src_port = u16::from_be_bytes([head[0], head[1]]);
            key.dst_port = u16::from_be_bytes([head[2], head[3]]);
        }
        proto::ICMP | proto::ICMP6 if is_v4 == (key.proto == proto::ICMP) => {
            let header = Icmp::at(l4)?;
            // An error about an error is refused with everything else that is no query (RFC 1122, section 3.2.2).
            let query = if is_v4 {
                icmp4::query(header.kind())
            } else {
                icmp6::query(header.kind())
            };
            if query? {
                key.src_port = header.id();
            } else {
                key.dst_port = header.id();
            }
        }
        proto::ICMP | proto::ICMP6 => return None,
        _ => {}
    }
    Some(key)
}

/// Whether these `ICMPv6` bytes are for neighbour discovery or group management, which never leave their link.
#[inline]
pub(super) fn is_neighbor_discovery(l4: &[u8]) -> bool {
    l4.first()
        .is_some_and(|kind| matches!(*kind, icmp6::MLD_QUERY..=icmp6::REDIRECT | icmp6::MLD2_REPORT))
}

/// Solicitations and advertisements are checked and answered here (RFC 4861, sections 7.1.1 and 7.1.2); router and
/// group messages are the kernel's.
#[cold]
pub(super) fn neighbor_discovery(l4: &[u8], pseudo: &[u8; 32], meta: &mut Meta) -> Result<Kind, Drop> {
    verify(
        Sum::ZERO
            .pseudo(pseudo, low_word(l4.len()), proto::ICMP6)
            .bytes(l4),
    )?;
    let header = Neighbor::at(l4);
    let is_request = match l4.first() {
        Some(&icmp6::NEIGHBOR_SOLICITATION) => true,
        Some(&icmp6::NEIGHBOR_ADVERTISEMENT) => false,
        _ => return Ok(Kind::Other),
    };
    let header = header.ok_or(Drop::Truncated)?;
    let target = header.target();
    let options = l4.get(24..).unwrap_or_default();
    if meta.ttl != 255 || header.code() != 0 || ipv6::is_multicast(&target) || !options_valid(options) {
        return Err(Drop::BadNeighborMessage);
    }
    let from_nobody = meta.key.src.number() == 0;
    if from_nobody && (!is_request || meta.key.dst.octets() != ipv6::solicited_node(&target)) {
        return Err(Drop::BadNeighborMessage);
    }
    meta.icmp = IcmpMessage {
        kind: header.kind(),
        code: 0,
        embedded_l3_len: 0,
    };
    meta.is_request = is_request;
    meta.key.dst = Addr::v6(target);
    Ok(Kind::NeighborDiscovery)
}

/// Options have a length in units of 8 bytes, never 0 (RFC 4861, section 4.6).
fn options_valid(mut options: &[u8]) -> bool {
    while let [_, len, ..] = *options {
        match options.get(usize::from(len) * 8..) {
            Some(rest) if len > 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

#[inline]
fn verify(sum: Sum) -> Result<(), Drop> {
    if sum.is_right() {
        Ok(())
    } else {
        Err(Drop::BadL4Checksum)
    }
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "parts of an IP packet, which has at most 65,535 bytes"
)]
const fn low_word(n: usize) -> u16 {
    n as u16
}
