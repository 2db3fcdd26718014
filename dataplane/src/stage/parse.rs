//! From bytes to checked offsets and a tuple: the first stage of a frame, a pure function of its bytes. What it lets
//! through, later stages read without looking again; what it refuses has a reason. It does not know interfaces: which
//! one a frame belongs to (and with it the VRF) is looked up afterwards from port and [`Meta::vlans`].
//!
//! ```text
//! frame → Ethernet, tags → ARP ──────────────────────────→ kind Arp
//!                        → IPv4 (most of it: parse/plain.rs), IPv6 + extension headers → group or link-local address: punt
//!                                                         → transport (parse/transport.rs): Flow, IcmpError,
//!                                                           NeighborDiscovery
//!                                                         → pieces of packets (parse/fragment.rs): Flow, Fragment
//!                        → link protocols: punt
//! ```

mod fragment;
mod plain;
mod transport;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_fragment;
#[cfg(test)]
mod tests_icmp;

pub use super::meta::{Fragment, IcmpMessage, Kind, Meta, Piece, TcpSegment};
pub(crate) use transport::udp_is_right;

use crate::flow::{Addr, FlowKey, VrfId, proto};
use crate::verdict::{Drop, Verdict};
use crate::wire::arp::{self, Arp};
use crate::wire::ethernet::{self, Ethernet, ethertype};
use crate::wire::ext::{self, Fault};
use crate::wire::ipv4::{self, DONT_FRAGMENT, FRAGMENT_OFFSET, Ipv4, MORE_FRAGMENTS, option};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::vlan::{TAG_LEN, Tag, VlanTags, is_tpid};

/// Checks `frame` (from its Ethernet header on, without FCS), less what [`Meta::verified`] says was checked, and fills `meta`;
/// every field that its documentation calls valid for the resulting kind is written, others may hold what an earlier frame left.
///
/// Forward: [`Meta::kind`] says what it is. Punt: the kernel's business, kind Other. Drop: `meta` means nothing.
#[inline]
pub fn parse(frame: &[u8], meta: &mut Meta) -> Verdict {
    plain::frame(frame, meta).unwrap_or_else(|| any_frame(frame, meta))
}

/// A frame of any shape. Not inlined: few are of another than [`plain`].
#[inline(never)]
fn any_frame(frame: &[u8], meta: &mut Meta) -> Verdict {
    match dissect(frame, meta) {
        Ok(kind) => {
            meta.kind = kind;
            if kind == Kind::Other {
                Verdict::Punt
            } else {
                Verdict::Forward
            }
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

#[inline]
fn dissect(frame: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Ethernet::at(frame).ok_or(Drop::Truncated)?;
    meta.stations = header.stations();
    if ethernet::is_group(&meta.src_mac()) {
        return Err(Drop::BadMac);
    }
    let mut ethertype = header.ethertype();
    let mut l2_len = Ethernet::<&[u8; 14]>::LEN;
    meta.vlans = VlanTags::NONE;
    if is_tpid(ethertype) {
        (ethertype, l2_len) = tags(frame, ethertype, &mut meta.vlans)?;
    }
    meta.l2_len = u16::try_from(l2_len).map_err(|_| Drop::Oversized)?;
    meta.is_request = false;
    meta.piece = Piece::Whole;
    let payload = frame.get(l2_len..).ok_or(Drop::Truncated)?;
    let kind = match ethertype {
        ethertype::IPV4 => ipv4(payload, meta)?,
        ethertype::IPV6 => ipv6(payload, meta)?,
        ethertype::ARP => return arp(payload, meta),
        _ => return link_protocol(ethertype, payload, meta),
    };
    // A router must not forward what came by link-layer broadcast or multicast (RFC 1812, section 5.3.4).
    if matches!(kind, Kind::Flow | Kind::IcmpError | Kind::Fragment) && ethernet::is_group(&meta.dst_mac()) {
        return Err(Drop::BadMac);
    }
    Ok(kind)
}

/// Reads the tags that start with `ethertype`; returns the type after them and its offset's end.
#[cold]
fn tags(frame: &[u8], mut ethertype: u16, into: &mut VlanTags) -> Result<(u16, usize), Drop> {
    let mut l2_len = Ethernet::<&[u8; 14]>::LEN;
    let mut priority_tags = 0;
    while is_tpid(ethertype) {
        let tag = frame
            .get(l2_len..)
            .and_then(|b| b.first_chunk::<TAG_LEN>())
            .ok_or(Drop::Truncated)?;
        let read = Tag {
            tpid: ethertype,
            tci: u16::from_be_bytes([tag[0], tag[1]]),
        };
        match read.id() {
            // A priority tag says nothing about the VLAN (IEEE 802.1Q, section 6.9.1); one is enough.
            0 if priority_tags == 0 => priority_tags += 1,
            1..=4094 if into.push(read) => {}
            _ => return Err(Drop::UnknownVlan),
        }
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        l2_len += TAG_LEN;
    }
    Ok((ethertype, l2_len))
}

fn link_protocol(ethertype: u16, payload: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    meta.key = FlowKey::default();
    (meta.is_v6, meta.l3_len) = (false, 0);
    meta.ip_len = u16::try_from(payload.len()).map_err(|_| Drop::Oversized)?;
    match ethertype {
        ethertype::SLOW | ethertype::EAPOL | ethertype::LLDP | 0..ethertype::FIRST => Ok(Kind::Other),
        _ => Err(Drop::UnknownEthertype),
    }
}

fn arp(payload: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let packet = Arp::at(payload).ok_or(Drop::Truncated)?;
    let sender_mac = packet.sender_mac();
    if packet.kind() != arp::ETHERNET_IPV4
        || ethernet::is_group(&sender_mac)
        || ipv4::is_group(&packet.sender())
    {
        return Err(Drop::BadNeighborMessage);
    }
    meta.key = FlowKey {
        src: Addr::v4(packet.sender()),
        dst: Addr::v4(packet.target()),
        ..FlowKey::default()
    };
    (meta.is_v6, meta.l3_len, meta.ip_len) = (false, 0, 28);
    match packet.operation() {
        arp::REQUEST => meta.is_request = true,
        arp::REPLY => {}
        _ => return Ok(Kind::Other),
    }
    Ok(Kind::Arp)
}

#[inline]
fn ipv4(payload: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    plain::ipv4(payload, meta).unwrap_or_else(|| any_ipv4(payload, meta))
}

/// An IPv4 packet of any shape. Not inlined: few are of another than [`plain`].
#[inline(never)]
fn any_ipv4(payload: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Ipv4::at(payload).ok_or(Drop::Truncated)?;
    let header_len = header.header_len();
    let total_len = header.total_len();
    if header.version_ihl() >> 4 != 4 || header_len < 20 || usize::from(total_len) < header_len {
        return Err(Drop::BadIpHeader);
    }
    let packet = payload.get(..usize::from(total_len)).ok_or(Drop::Truncated)?;
    let (whole_header, l4) = packet.split_at_checked(header_len).ok_or(Drop::BadIpHeader)?;
    let options = whole_header.get(20..).unwrap_or_default();
    if !meta.verified.header && !header.sum().bytes(options).is_right() {
        return Err(Drop::BadIpChecksum);
    }
    ipv4_options(options)?;
    describe(&header, header_len, meta);
    if let Some(outcome) = ipv4_addresses(&header.src(), &header.dst()) {
        return outcome;
    }
    if header.is_fragment() {
        let field = header.fragment();
        let place = Fragment {
            id: u32::from(header.id()),
            offset: (field & FRAGMENT_OFFSET) << 3,
            len: low_word(l4.len()),
            more: field & MORE_FRAGMENTS != 0,
        };
        return fragment::piece(place, l4, meta);
    }
    let pseudo = &header.addresses();
    match header.proto() {
        proto::TCP => transport::tcp(l4, pseudo, meta),
        proto::UDP => transport::udp(l4, meta),
        proto::ICMP => transport::icmp4(l4, meta),
        proto::ICMP6 => Err(Drop::BadL4Header),
        _ => Ok(Kind::Flow),
    }
}

/// What the header of an IPv4 packet says.
#[inline(always)]
fn describe(header: &Ipv4<&[u8; 20]>, header_len: usize, meta: &mut Meta) {
    let (src, dst) = (header.src(), header.dst());
    meta.key = key(Addr::v4(src), Addr::v4(dst), header.proto());
    meta.is_v6 = false;
    meta.to_itself = src == dst;
    meta.may_split = header.fragment() & DONT_FRAGMENT == 0;
    meta.has_options = header_len > 20;
    meta.ttl = header.ttl();
    meta.dscp = header.tos() >> 2;
    meta.l3_len = low_word(header_len);
    meta.ip_len = header.total_len();
}

/// None when both addresses are those of a packet that may be forwarded.
#[inline]
fn ipv4_addresses(src: &[u8; 4], dst: &[u8; 4]) -> Option<Result<Kind, Drop>> {
    if are_ordinary(src, dst) {
        return None;
    }
    // A host without an address asks by broadcast (DHCP, RFC 2131 section 4.1): for the kernel, if for anyone.
    let group = ipv4::is_group(dst);
    if ipv4::is_bad_source(src) && !(group && ipv4::is_unspecified(src)) {
        return Some(Err(Drop::BadAddress));
    }
    if group {
        return Some(Ok(Kind::Other));
    }
    // The same networks are no valid destinations (RFC 1812, section 5.3.7).
    if ipv4::is_bad_source(dst) || (src == dst && ipv4::is_link_local(src)) {
        return Some(Err(Drop::BadAddress));
    }
    if ipv4::is_link_local(src) || ipv4::is_link_local(dst) {
        return Some(Ok(Kind::Other));
    }
    None
}

/// Neither is in network 0, loopback, link-local, multicast nor beyond.
#[inline]
const fn are_ordinary(a: &[u8; 4], b: &[u8; 4]) -> bool {
    ORDINARY[a[0] as usize] & ORDINARY[b[0] as usize]
}

/// By first byte of an address.
const ORDINARY: [bool; 256] = {
    let mut ordinary = [false; 256];
    let mut first = 0;
    while first < 256 {
        ordinary[first] = matches!(first, 1..=126 | 128..=168 | 170..=223);
        first += 1;
    }
    ordinary
};

#[cold]
fn ipv4_options(mut options: &[u8]) -> Result<(), Drop> {
    loop {
        match *options {
            [] | [option::END, ..] => return Ok(()),
            [option::NOP, ref rest @ ..] => options = rest,
            [option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE, ..] => return Err(Drop::SourceRoute),
            [_, len, ..] if len >= 2 => options = options.get(usize::from(len)..).ok_or(Drop::BadIpHeader)?,
            _ => return Err(Drop::BadIpHeader),
        }
    }
}

#[inline]
fn ipv6(payload: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Ipv6::at(payload).ok_or(Drop::Truncated)?;
    let first_word = header.first_word();
    if first_word >> 28 != 6 {
        return Err(Drop::BadIpHeader);
    }
    // A jumbogram (RFC 2675) has length 0 here and ends as truncated: its links are not ours.
    let packet = payload
        .get(..40 + usize::from(header.payload_len()))
        .ok_or(Drop::Truncated)?;
    let after = packet.get(40..).unwrap_or_default();
    let (mut protocol, mut offset, mut fragment) = (header.next_header(), 0, None);
    if !matches!(protocol, proto::TCP | proto::UDP | proto::ICMP6) {
        let upper = ext::walk(after, protocol).map_err(extension_fault)?;
        (protocol, offset, fragment) = (upper.proto, upper.offset, upper.fragment);
    }
    let (src, dst) = (header.src(), header.dst());
    meta.key = key(Addr::v6(src), Addr::v6(dst), protocol);
    meta.is_v6 = true;
    meta.to_itself = false;
    meta.may_split = false;
    meta.has_options = offset > 0;
    meta.ttl = header.hop_limit();
    meta.dscp = low_byte(first_word >> 22 & 0x3f);
    meta.l3_len = low_word(40 + offset);
    meta.ip_len = u16::try_from(packet.len()).map_err(|_| Drop::Oversized)?;
    let l4 = after.get(offset..).unwrap_or_default();
    let pseudo = &header.addresses();
    let scope = ipv6_addresses(&src, &dst)?;
    if let Some(header) = fragment.filter(|header| !header.is_atomic()) {
        if scope == Scope::Link {
            return Ok(Kind::Other);
        }
        let place = Fragment {
            id: header.id,
            offset: header.offset,
            len: low_word(after.len().saturating_sub(header.end)),
            more: header.more,
        };
        return fragment::piece(place, l4, meta);
    }
    match protocol {
        // Before the scope: neighbour discovery is link-local and multicast by nature. Never in fragments (RFC 6980).
        proto::ICMP6 if transport::is_neighbor_discovery(l4) && fragment.is_none() => {
            transport::neighbor_discovery(l4, pseudo, meta)
        }
        _ if scope == Scope::Link => Ok(Kind::Other),
        proto::TCP => transport::tcp(l4, pseudo, meta),
        proto::UDP => transport::udp(l4, meta),
        proto::ICMP6 => transport::icmp6(l4, pseudo, meta),
        proto::ICMP => Err(Drop::BadL4Header),
        _ => Ok(Kind::Flow),
    }
}

#[derive(PartialEq, Eq)]
enum Scope {
    /// Stays on its link, or is multicast.
    Link,
    /// May be forwarded.
    Global,
}

#[inline]
fn ipv6_addresses(src: &[u8; 16], dst: &[u8; 16]) -> Result<Scope, Drop> {
    let bad = |a| ipv6::is_loopback(a) || ipv6::is_v4_mapped(a);
    let multicast = ipv6::is_multicast(dst);
    if ipv6::is_multicast(src) || bad(src) || bad(dst) || ipv6::is_unspecified(dst) || src == dst {
        return Err(Drop::BadAddress);
    }
    // Only a host that is still checking its address has none (RFC 4291, section 2.5.2).
    if ipv6::is_unspecified(src) && !multicast {
        return Err(Drop::BadAddress);
    }
    let link = multicast || ipv6::is_link_local(src) || ipv6::is_link_local(dst);
    Ok(if link { Scope::Link } else { Scope::Global })
}

const fn extension_fault(fault: Fault) -> Drop {
    match fault {
        Fault::Truncated => Drop::Truncated,
        Fault::OutOfPlace | Fault::SourceRouted => Drop::BadExtensionHeader,
        Fault::Tiny => Drop::FragmentTiny,
    }
}

#[inline]
const fn key(src: Addr, dst: Addr, proto: u8) -> FlowKey {
    FlowKey {
        src,
        dst,
        src_port: 0,
        dst_port: 0,
        vrf: VrfId(0),
        proto,
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

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "masked to 6 bits")]
const fn low_byte(n: u32) -> u8 {
    n as u8
}
