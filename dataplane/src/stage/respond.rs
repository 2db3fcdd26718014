//! Frames of our own: answers to ARP, neighbour discovery and echo, announcements of our addresses, ICMP errors and
//! resets about packets that are not forwarded. Each is written into a packet the caller hands over, in place where
//! the question's buffer serves, and leaves by the interface the question came from. Rates are the caller's business,
//! by [`TokenBucket`]; whether an address is ours, too.

mod limit;
#[cfg(test)]
mod tests;

pub use limit::TokenBucket;

use super::meta::{Kind, Meta};
use super::rewrite;
use crate::flow::{Addr, proto};
use crate::io::Packet;
use crate::wire::arp::{self, Arp};
use crate::wire::checksum::{Change, Sum};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};
use crate::wire::icmp4::{self, Icmp};
use crate::wire::icmp6::{self, Neighbor};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::tcp::{self, Tcp};
use crate::wire::vlan::VlanTags;

/// What an ICMP error of our own says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// TTL or hop limit used up in transit.
    TimeExceeded,
    /// Larger than the outgoing MTU in bytes: "fragmentation needed" or "packet too big".
    TooBig {
        /// The MTU.
        mtu: u16,
    },
    /// A rule or a limit forbids it (RFC 5508, REQ-8).
    AdminProhibited,
    /// No route to the destination.
    NoRoute,
    /// The next hop does not answer.
    HostUnreachable,
    /// Nobody listens there, or nobody is allowed to.
    PortUnreachable,
}

impl IcmpError {
    /// Type and code for IPv4 (RFC 792; RFC 1812, section 5.2.7.1) and IPv6 (RFC 4443, section 3).
    const fn codes(self) -> ((u8, u8), (u8, u8)) {
        use icmp4::unreachable as four;
        use icmp6::unreachable as six;
        match self {
            Self::TimeExceeded => ((icmp4::TIME_EXCEEDED, 0), (icmp6::TIME_EXCEEDED, 0)),
            Self::TooBig { .. } => (
                (icmp4::UNREACHABLE, four::FRAGMENTATION_NEEDED),
                (icmp6::PACKET_TOO_BIG, 0),
            ),
            Self::AdminProhibited => unreachable(four::ADMIN_PROHIBITED, six::ADMIN_PROHIBITED),
            Self::NoRoute => unreachable(four::NET, six::NO_ROUTE),
            Self::HostUnreachable => unreachable(four::HOST, six::ADDRESS),
            Self::PortUnreachable => unreachable(four::PORT, six::PORT),
        }
    }
}

const fn unreachable(four: u8, six: u8) -> ((u8, u8), (u8, u8)) {
    ((icmp4::UNREACHABLE, four), (icmp6::UNREACHABLE, six))
}

/// How an IPv4 address is announced. Some stacks learn from one form only, so a take-over sends both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpForm {
    /// As a request for the address itself (RFC 5227, section 2.3).
    Request,
    /// As a reply that nobody asked for (RFC 5944, section 4.6).
    Reply,
}

const ICMP_LEN: usize = 8;
const TCP_LEN: usize = 20;
/// Advertisement with one option.
const NA_LEN: usize = 32;
/// Hop limit of what we originate (RFC 1340 and successors); neighbour discovery uses 255 (RFC 4861, section 7.1).
const TTL: u8 = 64;
/// Longest ICMP error, IP header included (RFC 1812, section 4.3.2.3).
const ERROR4_MAX: usize = 576;
/// Longest `ICMPv6` error: the minimum MTU (RFC 4443, section 2.4 (c)).
const ERROR6_MAX: usize = 1280;
/// Precedence 6 of ICMP errors (RFC 1812, section 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// Turns an ARP request, in place, into the answer that its target is at `mac` (RFC 826); false, and unchanged, when
/// it is no request.
pub fn arp_reply(frame: &mut [u8], meta: &Meta, mac: Mac) -> bool {
    if meta.kind != Kind::Arp || !meta.is_request {
        return false;
    }
    let Some(mut packet) = frame.get_mut(usize::from(meta.l2_len)..).and_then(Arp::at_mut) else {
        return false;
    };
    let (asker_mac, asker, target) = (packet.sender_mac(), packet.sender(), packet.target());
    packet.set_operation(arp::REPLY);
    packet.set_sender_mac(mac);
    packet.set_sender(target);
    packet.set_target_mac(asker_mac);
    packet.set_target(asker);
    address(frame, asker_mac, mac)
}

/// Writes a gratuitous ARP that `ip` is at `mac` into `packet`, broadcast with tags `vlans`; false when the buffer is
/// too small.
pub fn gratuitous_arp<P: Packet>(
    packet: &mut P,
    ip: [u8; 4],
    mac: Mac,
    vlans: &VlanTags,
    form: ArpForm,
) -> bool {
    let l2 = (ethernet::BROADCAST, mac, vlans);
    let Some(mut body) = start(packet, l2, ethertype::ARP, Arp::<&[u8; 28]>::LEN).and_then(Arp::at_mut)
    else {
        return false;
    };
    body.set_kind(arp::ETHERNET_IPV4);
    body.set_operation(if form == ArpForm::Request {
        arp::REQUEST
    } else {
        arp::REPLY
    });
    body.set_sender_mac(mac);
    body.set_sender(ip);
    body.set_target_mac(if form == ArpForm::Request { [0; 6] } else { mac });
    body.set_target(ip);
    true
}

/// Turns a neighbour solicitation, in its buffer, into the answer that its target is at `mac` (RFC 4861, section
/// 7.2.4); false when it is none or the buffer is too small. Who asks from `::` is told with everybody else
/// (section 7.2.4; RFC 4862, section 5.4.4).
pub fn neighbor_advertisement<P: Packet>(packet: &mut P, meta: &Meta, mac: Mac) -> bool {
    if meta.kind != Kind::NeighborDiscovery || !meta.is_request {
        return false;
    }
    let (target, asker) = (meta.key.dst.octets(), meta.key.src.octets());
    if ipv6::is_unspecified(&asker) {
        return unsolicited_advertisement(packet, target, mac, &meta.vlans);
    }
    advertise(
        packet,
        (meta.src_mac(), mac, &meta.vlans),
        target,
        asker,
        icmp6::NA_SOLICITED,
    )
}

/// Writes an unsolicited neighbour advertisement that `ip` is at `mac` into `packet`, to all nodes, overriding what
/// they know (RFC 4861, section 7.2.6); false when the buffer is too small.
pub fn unsolicited_advertisement<P: Packet>(
    packet: &mut P,
    ip: [u8; 16],
    mac: Mac,
    vlans: &VlanTags,
) -> bool {
    let l2 = (ethernet::ipv6_multicast(&ipv6::ALL_NODES), mac, vlans);
    advertise(packet, l2, ip, ipv6::ALL_NODES, 0)
}

fn advertise<P: Packet>(packet: &mut P, l2: L2<'_>, target: [u8; 16], to: [u8; 16], flags: u32) -> bool {
    let (src, dst) = (Addr::v6(target), Addr::v6(to));
    let own_mac = l2.1;
    let Some((ip, l4)) = start_ip(packet, l2, (src, dst), proto::ICMP6, NA_LEN, (255, 0)) else {
        return false;
    };
    if let Some(mut body) = Neighbor::at_mut(l4) {
        body.set_kind(icmp6::NEIGHBOR_ADVERTISEMENT);
        body.set_flags(icmp6::NA_ROUTER | icmp6::NA_OVERRIDE | flags);
        body.set_target(target);
    }
    if let Some(option) = l4.last_chunk_mut::<8>() {
        option[0] = icmp6::OPTION_TARGET_LINK_LAYER;
        option[1] = 1;
        option[2..].copy_from_slice(&own_mac);
    }
    rewrite::icmp_checksum(ip, l4, true);
    true
}

/// Turns an echo request, in place, into its reply (RFC 792; RFC 4443, section 4.2); false, and unchanged, when it is
/// none.
pub fn echo_reply(frame: &mut [u8], meta: &Meta) -> bool {
    let reply = match (meta.key.proto, meta.icmp.kind) {
        (proto::ICMP, icmp4::ECHO) => icmp4::ECHO_REPLY,
        (proto::ICMP6, icmp6::ECHO_REQUEST) => icmp6::ECHO_REPLY,
        _ => return false,
    };
    if meta.kind != Kind::Flow || meta.ip_end() > frame.len() {
        return false;
    }
    // The identifier goes back as it came, so only the addresses are those of the reversed tuple.
    let Some(mut icmp) = frame.get_mut(meta.l4_offset()..).and_then(Icmp::at_mut) else {
        return false;
    };
    let word = |kind| u16::from_be_bytes([kind, meta.icmp.code]);
    let checksum = Change::NONE
        .word(word(meta.icmp.kind), word(reply))
        .apply(icmp.checksum());
    icmp.set_kind(reply);
    icmp.set_checksum(checksum);
    rewrite::retuple(
        frame,
        &Meta {
            is_request: false,
            ..*meta
        },
        &meta.key.reversed(),
        TTL,
    );
    address(frame, meta.src_mac(), meta.dst_mac())
}

/// Writes into `packet` an ICMP error about `offender`, from our address `source` back to the offender's sender.
/// `offender` may already have been rewritten (the error quotes it as it came), but not got another Ethernet header.
///
/// False when no error may be sent about it or the buffer is too small. Only kind Flow may be the cause of one: parse
/// keeps ICMP errors, multicast, broadcast and senders that are no single host out of that kind (RFC 1122, section 3.2.2;
/// RFC 4443, section 2.4 (e)). Later pieces of fragmented packets are the caller's to keep out.
pub fn icmp_error<P: Packet>(
    packet: &mut P,
    offender: &[u8],
    meta: &Meta,
    source: Addr,
    error: IcmpError,
) -> bool {
    if meta.kind != Kind::Flow || source.is_v4() == meta.is_v6 {
        return false;
    }
    let Some(cause) = offender.get(usize::from(meta.l2_len)..meta.ip_end()) else {
        return false;
    };
    let ((kind4, code4), (kind6, code6)) = error.codes();
    let (kind, code, proto, overhead, max, tos) = if meta.is_v6 {
        (kind6, code6, proto::ICMP6, 40 + ICMP_LEN, ERROR6_MAX, 0)
    } else {
        (kind4, code4, proto::ICMP, 20 + ICMP_LEN, ERROR4_MAX, ERROR_TOS)
    };
    let cause = cause.get(..max - overhead).unwrap_or(cause);
    let ends = (source, meta.key.src);
    let l4_len = ICMP_LEN + cause.len();
    let Some((ip, l4)) = start_ip(packet, back(meta), ends, proto, l4_len, (TTL, tos)) else {
        return false;
    };
    if let Some(mut header) = Icmp::at_mut(l4) {
        header.set_kind(kind);
        header.set_code(code);
        if let IcmpError::TooBig { mtu } = error {
            // RFC 1191, section 4, and RFC 4443, section 3.2: in both, the low half of the last word.
            header.set_seq(mtu);
        }
    }
    if let Some(quote) = l4.get_mut(ICMP_LEN..) {
        quote.copy_from_slice(cause);
        rewrite::restore_quote(quote, meta);
    }
    rewrite::icmp_checksum(ip, l4, meta.is_v6);
    true
}

/// Writes into `packet` the reset that refuses the TCP segment `meta` describes, as its destination would send it to
/// nobody's port (RFC 9293, section 3.10.7.1); false when it is no segment, or a reset itself, or the buffer is too
/// small.
pub fn tcp_reset<P: Packet>(packet: &mut P, meta: &Meta) -> bool {
    let segment = &meta.tcp;
    if meta.kind != Kind::Flow || meta.key.proto != proto::TCP || segment.flags & tcp::RST != 0 {
        return false;
    }
    let key = meta.key.reversed();
    let Some((ip, l4)) = start_ip(
        packet,
        back(meta),
        (key.src, key.dst),
        proto::TCP,
        TCP_LEN,
        (TTL, 0),
    ) else {
        return false;
    };
    let Some(mut header) = Tcp::at_mut(l4) else {
        return false;
    };
    header.set_src_port(key.src_port);
    header.set_dst_port(key.dst_port);
    header.set_data_offset(5 << 4);
    if segment.flags & tcp::ACK != 0 {
        header.set_seq(segment.ack);
        header.set_flags(tcp::RST);
    } else {
        let controls = u32::from(segment.flags & tcp::SYN != 0) + u32::from(segment.flags & tcp::FIN != 0);
        header.set_ack(
            segment
                .seq
                .wrapping_add(segment.payload_len)
                .wrapping_add(controls),
        );
        header.set_flags(tcp::RST | tcp::ACK);
    }
    let sum = if meta.is_v6 {
        Ipv6::at(ip).map(|h| Sum::ZERO.pseudo(&h.addresses(), 20, proto::TCP))
    } else {
        Ipv4::at(ip).map(|h| Sum::ZERO.pseudo(&h.addresses(), 20, proto::TCP))
    };
    let checksum = sum.unwrap_or_default().bytes(l4).finish();
    if let Some(mut header) = Tcp::at_mut(l4) {
        header.set_checksum(checksum);
    }
    true
}

/// Destination, source, tags.
type L2<'a> = (Mac, Mac, &'a VlanTags);

/// Back to the station and VLAN a frame came from.
const fn back(meta: &Meta) -> L2<'_> {
    (meta.src_mac(), meta.dst_mac(), &meta.vlans)
}

/// Gives a frame that stays in its VLAN new addresses.
fn address(frame: &mut [u8], dst: Mac, src: Mac) -> bool {
    let Some(mut header) = Ethernet::at_mut(frame) else {
        return false;
    };
    header.set_dst(dst);
    header.set_src(src);
    true
}

/// Makes `packet` a frame of zeros with an Ethernet header and `len` bytes after it, which are returned.
fn start<'a, P: Packet>(packet: &'a mut P, l2: L2<'_>, ethertype: u16, len: usize) -> Option<&'a mut [u8]> {
    let (dst, src, vlans) = l2;
    let l2_len = vlans.l2_len();
    if !packet.set_len(l2_len + len) {
        return None;
    }
    let frame = packet.data_mut();
    frame.fill(0);
    rewrite::write_l2(frame, &dst, &src, vlans);
    let (header, payload) = frame.split_at_mut_checked(l2_len)?;
    *header.last_chunk_mut()? = ethertype.to_be_bytes();
    Some(payload)
}

/// As [`start`], with an IP header between `ends` (source, destination); returns it and the `l4_len` bytes after it.
fn start_ip<'a, P: Packet>(
    packet: &'a mut P,
    l2: L2<'_>,
    ends: (Addr, Addr),
    proto: u8,
    l4_len: usize,
    (ttl, tos): (u8, u8),
) -> Option<(&'a mut [u8], &'a mut [u8])> {
    let (src, dst) = ends;
    if src.is_v4() {
        let payload = start(packet, l2, ethertype::IPV4, 20 + l4_len)?;
        let total_len = u16::try_from(payload.len()).ok()?;
        let (ip, l4) = payload.split_at_mut_checked(20)?;
        let mut header = Ipv4::at_mut(ip)?;
        header.set_version_ihl(0x45);
        header.set_tos(tos);
        header.set_total_len(total_len);
        // Atomic: its identification means nothing (RFC 6864, section 4.1).
        header.set_fragment(ipv4::DONT_FRAGMENT);
        header.set_ttl(ttl);
        header.set_proto(proto);
        header.set_src(src.v4_octets());
        header.set_dst(dst.v4_octets());
        let checksum = Sum::ZERO.bytes(ip).finish();
        Ipv4::at_mut(ip)?.set_checksum(checksum);
        Some((ip, l4))
    } else {
        let payload = start(packet, l2, ethertype::IPV6, 40 + l4_len)?;
        let (ip, l4) = payload.split_at_mut_checked(40)?;
        let mut header = Ipv6::at_mut(ip)?;
        header.set_first_word(6 << 28);
        header.set_payload_len(u16::try_from(l4.len()).ok()?);
        header.set_next_header(proto);
        header.set_hop_limit(ttl);
        header.set_src(src.octets());
        header.set_dst(dst.octets());
        Some((ip, l4))
    }
}
