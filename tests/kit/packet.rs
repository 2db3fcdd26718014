//! Frames as hosts send and expect them, on top of [`dataplane::wire::build`]: from a subscriber to its next hop, from
//! the router to the node, and what a frame that came out says.

use dataplane::flow::{Addr, FlowKey, VrfId, proto};
use dataplane::io::PortId;
use dataplane::stage::meta::{Kind, Meta};
use dataplane::stage::parse::parse;
use dataplane::verdict::{Drop, Verdict};
use dataplane::wire::build::{Link, Segment};
use dataplane::wire::tcp;

use crate::config::{LAN, ROUTER_MAC, node_mac};

/// A flow's tuple in the first VRF.
#[must_use]
pub const fn key(protocol: u8, src: Addr, src_port: u16, dst: Addr, dst_port: u16) -> FlowKey {
    FlowKey {
        src,
        dst,
        src_port,
        dst_port,
        vrf: VrfId(0),
        proto: protocol,
    }
}

/// UDP tuple.
#[must_use]
pub const fn udp(src: Addr, src_port: u16, dst: Addr, dst_port: u16) -> FlowKey {
    key(proto::UDP, src, src_port, dst, dst_port)
}

/// TCP tuple.
#[must_use]
pub const fn tcp(src: Addr, src_port: u16, dst: Addr, dst_port: u16) -> FlowKey {
    key(proto::TCP, src, src_port, dst, dst_port)
}

/// Tuple of an echo request; give it [`FlowKey::reversed`] for the reply.
#[must_use]
pub const fn echo(src: Addr, id: u16, dst: Addr) -> FlowKey {
    let protocol = if is_v4(&src) { proto::ICMP } else { proto::ICMP6 };
    key(protocol, src, id, dst, 0)
}

const fn is_v4(address: &Addr) -> bool {
    let b = address.octets();
    b[10] == 0xff && b[11] == 0xff && b[0] == 0
}

/// Link header of a frame that a host sends to node `node` by `port`: the last byte of a subscriber's address is its
/// number.
#[must_use]
pub fn to_node(node: u8, port: PortId, source: &Addr) -> Link {
    let host = source.octets()[15];
    Link {
        dst_mac: node_mac(node, port),
        src_mac: if port == LAN {
            crate::config::subscriber_mac(host)
        } else {
            ROUTER_MAC
        },
        ..Link::default()
    }
}

/// Link header of a frame that node `node` sends by `port` towards `destination`, one hop later.
#[must_use]
pub fn from_node(node: u8, port: PortId, destination: &Addr) -> Link {
    let arriving = to_node(node, port, destination);
    Link {
        dst_mac: arriving.src_mac,
        src_mac: arriving.dst_mac,
        ttl: Link::default().ttl - 1,
        ..Link::default()
    }
}

/// A segment with plausible numbers.
#[must_use]
pub const fn segment<'a>(flags: u8, seq: u32, ack: u32, data: &'a [u8]) -> Segment<'a> {
    Segment {
        flags,
        seq,
        ack,
        window: 60_000,
        options: &[],
        data,
    }
}

/// The first segment of a connection.
#[must_use]
pub const fn syn(seq: u32) -> Segment<'static> {
    segment(tcp::SYN, seq, 0, &[])
}

/// Any simple packet of the flow: UDP with some data, a SYN, or an echo message.
#[must_use]
pub fn simple(link: &Link, key: &FlowKey) -> Vec<u8> {
    match key.proto {
        proto::TCP => link.tcp(key, &syn(1_000)),
        proto::UDP => link.udp(key, b"hello"),
        proto::ICMP | proto::ICMP6 => link.echo(key, 1, b"ping"),
        _ => link.ip(key, b"other"),
    }
}

/// What a frame says, checksums checked; the reason why not.
///
/// # Errors
/// As the parse stage refuses it.
pub fn read(frame: &[u8]) -> Result<Meta, Drop> {
    let mut meta = Meta::default();
    match parse(frame, &mut meta) {
        Verdict::Drop(reason) => Err(reason),
        _ => Ok(meta),
    }
}

/// Tuple of a frame that must be a packet of a flow.
#[must_use]
pub fn flow(frame: &[u8]) -> Option<FlowKey> {
    read(frame)
        .ok()
        .filter(|meta| meta.kind == Kind::Flow)
        .map(|meta| meta.key)
}
