//! What parse learnt about a frame, so that no later stage reads headers again. A worker keeps one [`Meta`] per place
//! of a burst and reuses it; parse fills it, the lookup completes the key's VRF, rewrite and respond read it.

use crate::flow::FlowKey;
use crate::io::Verified;
use crate::wire::ethernet::Mac;
use crate::wire::vlan::VlanTags;

/// Which way a parsed packet goes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Unicast IP packet with a tuple: TCP, UDP, ICMP queries, and protocols without ports.
    Flow,
    /// ICMP or `ICMPv6` error about a packet of some flow.
    IcmpError,
    /// Later piece of a fragmented packet: its ports are in the first one. A flow as soon as they are known.
    Fragment,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv6 neighbour solicitation or advertisement.
    NeighborDiscovery,
    /// The kernel's business: link protocols, multicast, link-local traffic.
    #[default]
    Other,
}

/// A TCP segment's fields that tracking needs. Valid only when the key's protocol is TCP and the kind is Flow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; meaningless without the ACK flag.
    pub ack: u32,
    /// Bytes of data, without SYN and FIN.
    pub payload_len: u32,
    /// Window as sent, before scaling.
    pub window: u16,
    /// Control bits ([`crate::wire::tcp`]).
    pub flags: u8,
    /// Shift count of the window scale option, looked for in SYN segments only.
    pub window_scale: Option<u8>,
}

/// The first bytes of an ICMP or `ICMPv6` message. Valid only for ICMP flows, ICMP errors and neighbour discovery.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct IcmpMessage {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// For an error: bytes from the start of the embedded packet to its transport header.
    pub embedded_l3_len: u16,
}

/// Which part of its packet a frame carries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Piece {
    /// All of it (an IPv6 fragment that is its own only one included, RFC 6946).
    #[default]
    Whole,
    /// The first piece, with all of its headers.
    First,
    /// A later piece, without a transport header.
    Later,
}

/// Where a piece belongs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits of IPv4, 32 of IPv6.
    pub id: u32,
    /// Offset of its bytes in the fragmentable part, a multiple of 8.
    pub offset: u16,
    /// Its bytes.
    pub len: u16,
    /// Not the last piece.
    pub more: bool,
}

/// What parse learnt about a frame.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The tuple as the packet arrives; `vrf` is 0 until the interface is known.
    ///
    /// - Flow: ports, or the identifier of an ICMP query as source port (request) or destination port (reply); 0 for
    ///   protocols without ports.
    /// - `IcmpError`: the tuple of a packet of the embedded packet's flow that travels in the error's direction, which
    ///   is the embedded tuple reversed. Its source is not always the error's source.
    /// - Fragment: addresses, and the protocol of IPv4; ports are 0.
    /// - Arp and `NeighborDiscovery`: `src` is the asking address, `dst` the address asked for (the target).
    /// - Other: addresses and protocol when the packet is IP.
    pub key: FlowKey,
    /// What it is.
    pub kind: Kind,
    /// What its port has found right: known before parse, which relies on it.
    pub verified: Verified,
    /// Whole packet or which piece.
    pub piece: Piece,
    /// Where the piece belongs. Valid unless it is the whole packet.
    pub fragment: Fragment,
    /// ARP request, neighbour solicitation, or request of an ICMP query.
    pub is_request: bool,
    /// IPv6 (else IPv4 or ARP).
    pub is_v6: bool,
    /// IPv4 options or IPv6 extension headers are present.
    pub has_options: bool,
    /// IPv4 source and destination address are equal: an attack, unless the packet hairpins between two endpoints of
    /// one public address.
    pub to_itself: bool,
    /// IPv4 without "don't fragment".
    pub may_split: bool,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// DSCP (6 bits).
    pub dscp: u8,
    /// Bytes of the Ethernet header with its tags: offset of the IP header.
    pub l2_len: u16,
    /// Bytes of the IP header with options or extension headers.
    pub l3_len: u16,
    /// Bytes of the whole IP packet; the frame may be longer (padding).
    pub ip_len: u16,
    /// TCP fields.
    pub tcp: TcpSegment,
    /// ICMP fields.
    pub icmp: IcmpMessage,
    /// VLAN tags, without priority tags.
    pub vlans: VlanTags,
    /// Destination and source MAC address, in a row: packets of a burst mostly have the same two.
    pub stations: [u8; 12],
}

impl Meta {
    /// Destination MAC address.
    #[inline]
    #[must_use]
    pub const fn dst_mac(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.stations;
        [a, b, c, d, e, f]
    }

    /// Source MAC address.
    #[inline]
    #[must_use]
    pub const fn src_mac(&self) -> Mac {
        let [.., a, b, c, d, e, f] = self.stations;
        [a, b, c, d, e, f]
    }

    /// Offset of the transport header in the frame.
    #[inline]
    #[must_use]
    pub fn l4_offset(&self) -> usize {
        usize::from(self.l2_len) + usize::from(self.l3_len)
    }

    /// Offset of the first byte after the IP packet.
    #[inline]
    #[must_use]
    pub fn ip_end(&self) -> usize {
        usize::from(self.l2_len) + usize::from(self.ip_len)
    }
}
