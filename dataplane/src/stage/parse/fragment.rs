//! The pieces of fragmented packets. A first piece must hold the whole transport header (RFC 1858, RFC 7112), which is
//! read as that of a whole packet; its checksum covers bytes that aren't here, so nobody can verify it. A later piece
//! has no ports: it is a [`Kind::Fragment`] until the reassemble stage has found its packet.

use super::transport::query;
use super::{Fragment, IcmpMessage, Kind, Meta, Piece, TcpSegment};
use crate::flow::proto;
use crate::verdict::Drop;
use crate::wire::icmp4::{self, Icmp};
use crate::wire::icmp6;
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;

/// Reads a piece whose bytes after all headers are `l4`.
#[cold]
pub(super) fn piece(place: Fragment, l4: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let end = usize::from(place.offset) + usize::from(place.len);
    let aligned = !place.more || place.len.is_multiple_of(8);
    // RFC 791 section 3.2, RFC 8200 section 4.5; a packet beyond 65,535 bytes is the "ping of death".
    if place.len == 0 || !aligned || end > usize::from(u16::MAX) {
        return Err(Drop::FragmentBad);
    }
    meta.fragment = place;
    if place.offset == 0 {
        meta.piece = Piece::First;
        return first(l4, meta);
    }
    // Would overwrite or complete a header that a filter has judged (RFC 1858 section 3.2.2, RFC 3128). The chain
    // of IPv6 leaves the protocol open here; there the first piece's extent decides.
    if !meta.is_v6 && usize::from(place.offset) < header_min(meta.key.proto) {
        return Err(Drop::FragmentTiny);
    }
    meta.piece = Piece::Later;
    Ok(Kind::Fragment)
}

/// Bytes of the fixed transport header.
const fn header_min(protocol: u8) -> usize {
    match protocol {
        proto::TCP => 20,
        proto::UDP | proto::ICMP | proto::ICMP6 => 8,
        _ => 0,
    }
}

fn first(l4: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    match (meta.key.proto, meta.is_v6) {
        (proto::TCP, _) => first_tcp(l4, meta),
        (proto::UDP, _) => first_udp(l4, meta),
        (proto::ICMP, false) => first_icmp(l4, meta, icmp4::query, icmp4::is_error),
        (proto::ICMP6, true) => first_icmp(l4, meta, icmp6::query, icmp6::is_error),
        (proto::ICMP | proto::ICMP6, _) => Err(Drop::BadL4Header),
        _ => Ok(Kind::Flow),
    }
}

fn first_tcp(l4: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Tcp::at(l4).ok_or(Drop::FragmentTiny)?;
    let header_len = header.header_len();
    if header_len < 20 {
        return Err(Drop::BadL4Header);
    }
    let options = l4.get(20..header_len).ok_or(Drop::FragmentTiny)?;
    (meta.key.src_port, meta.key.dst_port) = (header.src_port(), header.dst_port());
    if meta.key.src_port == 0 || meta.key.dst_port == 0 {
        return Err(Drop::BadL4Header);
    }
    let flags = header.flags();
    if !tcp::flags_valid(flags) {
        return Err(Drop::BadTcpFlags);
    }
    let payload_len = l4.len() - header_len;
    meta.tcp = TcpSegment {
        seq: header.seq(),
        ack: header.ack(),
        payload_len: u32::from(u16::try_from(payload_len).map_err(|_| Drop::FragmentBad)?),
        window: header.window(),
        flags,
        window_scale: if flags & tcp::SYN != 0 {
            tcp::window_scale(options)
        } else {
            None
        },
    };
    Ok(Kind::Flow)
}

fn first_udp(l4: &[u8], meta: &mut Meta) -> Result<Kind, Drop> {
    let header = Udp::at(l4).ok_or(Drop::FragmentTiny)?;
    (meta.key.src_port, meta.key.dst_port) = (header.src_port(), header.dst_port());
    if header.datagram_len() < 8 || meta.key.dst_port == 0 {
        return Err(Drop::BadL4Header);
    }
    // RFC 8200, section 8.1: only IPv4 may go without.
    if meta.is_v6 && header.checksum() == 0 {
        return Err(Drop::BadL4Checksum);
    }
    Ok(Kind::Flow)
}

fn first_icmp(
    l4: &[u8],
    meta: &mut Meta,
    is_query: impl Fn(u8) -> Option<bool>,
    is_error: impl Fn(u8) -> bool,
) -> Result<Kind, Drop> {
    let header = Icmp::at(l4).ok_or(Drop::FragmentTiny)?;
    meta.icmp = IcmpMessage {
        kind: header.kind(),
        code: header.code(),
        embedded_l3_len: 0,
    };
    match is_query(header.kind()) {
        Some(is_request) => Ok(query(is_request, header.id(), meta)),
        // Its checksum would have to be computed anew over bytes that aren't here. No error needs to be that long.
        None if is_error(header.kind()) => Err(Drop::Fragment),
        None => Err(Drop::IcmpNotQuery),
    }
}
