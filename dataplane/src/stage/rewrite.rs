//! Translation in place: a packet that arrived with one tuple leaves with another, its TTL one lower, its Ethernet
//! header replaced. Runs after lookup and tracking have decided; cannot fail, for parse has checked every offset it
//! uses (a frame that doesn't fit its [`Meta`] is left alone). Checksums are adjusted by what changed, never computed
//! anew, so that a packet damaged on the way stays damaged for its receiver (RFC 1624, RFC 3022 section 4.2).

#[cfg(test)]
mod tests;

use super::meta::{Kind, Meta, Piece};
use super::{Batch, Context, Exit};
use crate::flow::{Addr, Direction, FlowKey, proto};
use crate::io::Packet;
use crate::wire::checksum::{Change, Sum};
use crate::wire::ethernet::Mac;
use crate::wire::icmp4::{self, Icmp};
use crate::wire::icmp6;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::tcp::Tcp;
use crate::wire::udp::Udp;
use crate::wire::vlan::{TAG_LEN, VlanTags};

/// Most packets: whole, of a flow, to a neighbour on a link with as many tags. The others are for transmit to rewrite.
#[inline(never)]
pub(crate) fn rewrite<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    let mut translated = 0;
    let places = batch.meta.iter().zip(&mut batch.work);
    for (packet, (meta, work)) in batch.packets.iter_mut().zip(places) {
        // Only what goes on has a neighbour.
        let whole = meta.kind == Kind::Flow && meta.piece == Piece::Whole;
        let (true, Exit::Neighbor { interface, mac }) = (whole, &work.exit) else {
            continue;
        };
        let link = cx.snapshot.interface(*interface);
        if link.tags.l2_len() != usize::from(meta.l2_len) {
            continue;
        }
        let conntrack = &cx.tables.conntracks[work.entry];
        let frame = packet.data_mut();
        translated += u64::from(match conntrack.tuples.leaves_v4(work.direction) {
            Some((addresses, ports)) if rewrite_plain(frame, meta, addresses, ports) => true,
            _ => rewrite_flow(frame, meta, &conntrack.translation(work.direction)),
        });
        write_l2(frame, mac, &link.mac, &link.tags);
        work.exit = Exit::Port(link.port);
    }
    cx.tables.counters.translated += translated;
}

/// Gives a packet of kind Flow the tuple `to` (its VRF is not looked at) and takes one from its TTL or hop limit.
/// Whether the tuple is another than before.
pub fn rewrite_flow(frame: &mut [u8], meta: &Meta, to: &FlowKey) -> bool {
    retuple(frame, meta, to, meta.ttl.saturating_sub(1))
}

/// As [`rewrite_flow`], for most packets that are translated: TCP or UDP over IPv4 without options, with other addresses.
/// `addresses` and `ports` are those that it leaves with, as on the wire. False, and nothing written, for any other packet.
#[inline(always)]
pub fn rewrite_plain(frame: &mut [u8], meta: &Meta, addresses: [u8; 8], ports: [u8; 4]) -> bool {
    plain(frame, meta, addresses, ports).is_some()
}

#[inline(always)]
fn plain(frame: &mut [u8], meta: &Meta, addresses: [u8; 8], ports: [u8; 4]) -> Option<()> {
    if meta.is_v6 | meta.has_options {
        return None;
    }
    let packet = frame.get_mut(usize::from(meta.l2_len)..meta.ip_end())?;
    let (ip, l4) = packet.split_first_chunk_mut::<20>()?;
    let mut header = Ipv4::at_mut(ip)?;
    let old = header.addresses();
    if old == addresses {
        return None;
    }
    if header.ttl() == 0 {
        return None;
    }
    let change = Change::NONE.v4_pair(old, addresses);
    match meta.key.proto {
        proto::UDP => {
            let mut udp = Udp::at_mut(l4)?;
            let change = change.v4(udp.ports(), ports);
            udp.set_ports(ports);
            udp.set_checksum(change.apply_udp(udp.checksum()));
        }
        proto::TCP => {
            let mut tcp = Tcp::at_mut(l4)?;
            let change = change.v4(tcp.ports(), ports);
            tcp.set_ports(ports);
            tcp.set_checksum(change.apply(tcp.checksum()));
        }
        _ => return None,
    }
    header.set_addresses(addresses);
    header.set_ttl(header.ttl().wrapping_sub(1));
    header.set_checksum(change.ttl().apply(header.checksum()));
    Some(())
}

/// Takes [`rewrite_flow`] back: the packet has the tuple and the TTL it arrived with. For an ICMP error or a reset
/// about a packet that turned out, after its rewrite, not to be forwarded.
pub fn restore_flow(frame: &mut [u8], meta: &Meta) {
    retuple(frame, meta, &meta.key, meta.ttl);
}

/// Tuple and TTL as given, from whatever the packet has now. Whether the tuple is another than before.
#[inline]
pub(super) fn retuple(frame: &mut [u8], meta: &Meta, to: &FlowKey, ttl: u8) -> bool {
    let Some((ip, l4)) = split(frame, meta) else {
        return false;
    };
    let addresses = if meta.is_v6 {
        ipv6(ip, to, ttl)
    } else {
        ipv4(ip, to, ttl)
    };
    transport(l4, to, meta.is_request, addresses) || addresses.is_some()
}

/// As [`rewrite_flow`] for a piece of a fragmented packet. Only the first one has a transport header, and the checksum
/// of the whole packet in it.
#[cold]
pub(super) fn rewrite_piece(frame: &mut [u8], meta: &Meta, to: &FlowKey) {
    if meta.piece == Piece::First {
        rewrite_flow(frame, meta, to);
        return;
    }
    let Some((ip, _)) = split(frame, meta) else {
        return;
    };
    let ttl = meta.ttl.saturating_sub(1);
    if meta.is_v6 {
        ipv6(ip, to, ttl);
    } else {
        ipv4(ip, to, ttl);
    }
}

/// Gives an IPv4 packet of kind Flow another identification.
#[cold]
pub(super) fn set_id(frame: &mut [u8], meta: &Meta, id: u16) {
    if let Some(mut header) = frame.get_mut(usize::from(meta.l2_len)..).and_then(Ipv4::at_mut) {
        let checksum = Change::NONE.word(header.id(), id).apply(header.checksum());
        header.set_id(id);
        header.set_checksum(checksum);
    }
}

/// As [`restore_flow`] for the start of an IP packet, cut off after its headers or anywhere in its data.
pub(super) fn restore_quote(quote: &mut [u8], meta: &Meta) {
    let Some((ip, l4)) = quote.split_at_mut_checked(usize::from(meta.l3_len)) else {
        return;
    };
    let (to, ttl) = (&meta.key, meta.ttl);
    let addresses = if meta.is_v6 {
        ipv6(ip, to, ttl)
    } else {
        ipv4(ip, to, ttl)
    };
    transport(l4, to, meta.is_request, addresses);
}

/// The IP header and what follows it up to the packet's end.
#[inline]
fn split<'a>(frame: &'a mut [u8], meta: &Meta) -> Option<(&'a mut [u8], &'a mut [u8])> {
    let packet = frame.get_mut(usize::from(meta.l2_len)..meta.ip_end())?;
    packet.split_at_mut_checked(usize::from(meta.l3_len))
}

/// What the addresses' change means for a pseudo header; none when they stay.
#[inline]
fn ipv4(ip: &mut [u8], to: &FlowKey, ttl: u8) -> Option<Change> {
    let mut header = Ipv4::at_mut(ip)?;
    let (old_src, old_dst, old_ttl) = (header.src(), header.dst(), header.ttl());
    let (src, dst) = (to.src.v4_octets(), to.dst.v4_octets());
    let proto = header.proto();
    let mut change = Change::NONE;
    let moved = old_src != src || old_dst != dst;
    if moved {
        change = change.v4(old_src, src).v4(old_dst, dst);
        header.set_src(src);
        header.set_dst(dst);
    }
    if moved || old_ttl != ttl {
        let word = |ttl| u16::from_be_bytes([ttl, proto]);
        header.set_ttl(ttl);
        let checksum = change.word(word(old_ttl), word(ttl)).apply(header.checksum());
        header.set_checksum(checksum);
    }
    moved.then_some(change)
}

#[inline]
fn ipv6(ip: &mut [u8], to: &FlowKey, hop_limit: u8) -> Option<Change> {
    let mut header = Ipv6::at_mut(ip)?;
    header.set_hop_limit(hop_limit);
    let (old_src, old_dst) = (header.src(), header.dst());
    let (src, dst) = (to.src.octets(), to.dst.octets());
    if old_src == src && old_dst == dst {
        return None;
    }
    header.set_src(src);
    header.set_dst(dst);
    Some(Change::NONE.v6(&old_src, &src).v6(&old_dst, &dst))
}

/// Sets ports or identifier and adjusts the transport checksum, as far as `l4` reaches (a quote may be cut off).
/// Nothing is written, and the answer is no, when nothing changes: an unchanged checksum keeps its spelling.
#[inline]
fn transport(l4: &mut [u8], to: &FlowKey, is_request: bool, addresses: Option<Change>) -> bool {
    match to.proto {
        proto::TCP => {
            let Some((change, l4)) = ports(l4, to, addresses) else {
                return false;
            };
            if let Some(mut header) = Tcp::at_mut(l4) {
                header.set_checksum(change.apply(header.checksum()));
            } else if let Some([a, b]) = l4.get_mut(16..18) {
                [*a, *b] = change.apply(u16::from_be_bytes([*a, *b])).to_be_bytes();
            }
            true
        }
        proto::UDP => {
            let Some((change, l4)) = ports(l4, to, addresses) else {
                return false;
            };
            if let Some(mut header) = Udp::at_mut(l4) {
                header.set_checksum(change.apply_udp(header.checksum()));
            }
            true
        }
        proto::ICMP => identifier(l4, to, is_request, None),
        proto::ICMP6 => identifier(l4, to, is_request, addresses),
        _ => false,
    }
}

/// Sets the ports; none when neither they nor the addresses change.
#[inline]
fn ports<'a>(l4: &'a mut [u8], to: &FlowKey, addresses: Option<Change>) -> Option<(Change, &'a mut [u8])> {
    let head = l4.first_chunk_mut::<4>()?;
    let old = [
        u16::from_be_bytes([head[0], head[1]]),
        u16::from_be_bytes([head[2], head[3]]),
    ];
    if old == [to.src_port, to.dst_port] && addresses.is_none() {
        return None;
    }
    let change = addresses
        .unwrap_or_default()
        .word(old[0], to.src_port)
        .word(old[1], to.dst_port);
    let ([a, b], [c, d]) = (to.src_port.to_be_bytes(), to.dst_port.to_be_bytes());
    *head = [a, b, c, d];
    Some((change, l4))
}

/// Sets a query's identifier. Only `ICMPv6` has a pseudo header.
#[inline]
fn identifier(l4: &mut [u8], to: &FlowKey, is_request: bool, addresses: Option<Change>) -> bool {
    let Some(mut header) = Icmp::at_mut(l4) else {
        return false;
    };
    let (old, id) = (header.id(), if is_request { to.src_port } else { to.dst_port });
    let changes = old != id || addresses.is_some();
    if changes {
        header.set_id(id);
        header.set_checksum(
            addresses
                .unwrap_or_default()
                .word(old, id)
                .apply(header.checksum()),
        );
    }
    changes
}

/// Translates an ICMP error that travels in `direction` of its flow, whose packets leave with tuple `to` in that
/// direction: the error goes to `to.dst`, and the packet it quotes looks as its sender once sent it, `to` reversed,
/// as far as the quote reaches. From inside to outside, the error's source becomes `to.src` too, lest it tell an
/// inside address (RFC 5508, REQ-5); from outside it stays (REQ-4). TTL or hop limit is one lower.
#[cold]
pub fn rewrite_icmp_error(frame: &mut [u8], meta: &Meta, to: &FlowKey, direction: Direction) {
    if meta.kind != Kind::IcmpError {
        return;
    }
    let Some((ip, l4)) = split(frame, meta) else {
        return;
    };
    if let Some(quote) = l4.get_mut(Icmp::<&[u8; 8]>::LEN..) {
        quoted(quote, meta, &to.reversed());
    }
    let ttl = meta.ttl.saturating_sub(1);
    if meta.is_v6 {
        let Some(header) = Ipv6::at(ip) else { return };
        let src = if direction == Direction::Original {
            to.src
        } else {
            Addr::v6(header.src())
        };
        ipv6(ip, &FlowKey { src, ..*to }, ttl);
    } else {
        let Some(header) = Ipv4::at(ip) else { return };
        let src = if direction == Direction::Original {
            to.src
        } else {
            Addr::v4(header.src())
        };
        ipv4(ip, &FlowKey { src, ..*to }, ttl);
    }
    icmp_checksum(ip, l4, meta.is_v6);
}

/// Gives the quoted packet the tuple `to`; its TTL stays.
fn quoted(quote: &mut [u8], meta: &Meta, to: &FlowKey) {
    let Some((ip, l4)) = quote.split_at_mut_checked(usize::from(meta.icmp.embedded_l3_len)) else {
        return;
    };
    let addresses = if meta.is_v6 {
        Ipv6::at(ip)
            .map(|h| h.hop_limit())
            .and_then(|ttl| ipv6(ip, to, ttl))
    } else {
        Ipv4::at(ip).map(|h| h.ttl()).and_then(|ttl| ipv4(ip, to, ttl))
    };
    let kind = l4.first().copied().unwrap_or_default();
    let is_request = if meta.is_v6 {
        icmp6::query(kind)
    } else {
        icmp4::query(kind)
    };
    transport(l4, to, is_request.unwrap_or_default(), addresses);
}

/// Computes the checksum of an ICMP or `ICMPv6` message anew: errors are rare, and parse has verified this one.
pub(super) fn icmp_checksum(ip: &[u8], l4: &mut [u8], is_v6: bool) {
    let len = u16::try_from(l4.len()).unwrap_or_default();
    let Some(mut header) = Icmp::at_mut(l4) else {
        return;
    };
    header.set_checksum(0);
    let sum = match Ipv6::at(ip) {
        Some(header) if is_v6 => Sum::ZERO.pseudo(&header.addresses(), len, proto::ICMP6),
        _ => Sum::ZERO,
    };
    let checksum = sum.bytes(l4).finish();
    if let Some(mut header) = Icmp::at_mut(l4) {
        header.set_checksum(checksum);
    }
}

/// Replaces the Ethernet header and its tags by one with `vlans`; the type of what follows stays. False (and
/// unchanged) when the buffer has no headroom for more tags. Offsets in `meta` are then those of the old frame.
#[inline]
pub fn set_l2<P: Packet>(packet: &mut P, meta: &Meta, dst: Mac, src: Mac, vlans: &VlanTags) -> bool {
    let (old_len, new_len) = (usize::from(meta.l2_len), vlans.l2_len());
    if new_len > old_len {
        if !packet.prepend(new_len - old_len) {
            return false;
        }
    } else if new_len < old_len && !packet.trim_front(old_len - new_len) {
        return false;
    }
    write_l2(packet.data_mut(), &dst, &src, vlans);
    true
}

/// Writes addresses and tags; the two bytes after them, the type, are left alone.
#[inline]
pub(super) fn write_l2(frame: &mut [u8], dst: &Mac, src: &Mac, vlans: &VlanTags) {
    let Some((addresses, rest)) = frame.split_first_chunk_mut::<12>() else {
        return;
    };
    let (to, from) = addresses.split_at_mut(6);
    to.copy_from_slice(dst);
    from.copy_from_slice(src);
    if vlans.count() > 0 {
        write_tags(rest, vlans);
    }
}

/// Not inlined: where there are no tags, nothing is made ready for them.
#[inline(never)]
fn write_tags(rest: &mut [u8], vlans: &VlanTags) {
    for (place, tag) in rest.as_chunks_mut::<TAG_LEN>().0.iter_mut().zip(vlans.as_slice()) {
        let ([a, b], [c, d]) = (tag.tpid.to_be_bytes(), tag.tci.to_be_bytes());
        *place = [a, b, c, d];
    }
}
