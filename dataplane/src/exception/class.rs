//! Which class a frame for the kernel is of. What protects a link or a role has a class of its own, and where a protocol forbids
//! routers to pass its packets on, only those that no router has passed are of it.

use crate::counters::Counters;
use crate::flow::proto;
use crate::stage::meta::{Kind, Meta, Piece};
use crate::wire::ethernet::ethertype;

/// TTL of a packet that no router has passed on (RFC 5082).
const NEVER_ROUTED: u8 = 255;
/// LLC service access point of IS-IS, both ways (ISO 10589).
const ISIS: [u8; 2] = [0xfe, 0xfe];

const VRRP: u8 = 112;
const OSPF: u8 = 89;
const BGP_PORT: u16 = 179;
/// BFD on one hop, its echo, and across several hops (RFC 5881 section 4, RFC 5883 section 5).
const BFD_PORTS: [u16; 2] = [3784, 3785];
const BFD_MULTIHOP_PORT: u16 = 4784;

/// What a frame for the kernel is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// LACP, LLDP, 802.1X, spanning trees: keep the link itself.
    Link,
    /// ARP and neighbour discovery.
    Neighbor,
    /// VRRP and BFD: decide about roles within milliseconds.
    Ha,
    /// BGP, OSPF, IS-IS.
    Routing,
    /// All else for addresses of the kernel's: ICMP, SSH, multicast.
    Local,
}

impl Class {
    /// All, by number.
    pub const ALL: [Self; 5] = [Self::Link, Self::Neighbor, Self::Ha, Self::Routing, Self::Local];

    /// The name used by configuration and ctl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Neighbor => "neighbor",
            Self::Ha => "ha",
            Self::Routing => "routing",
            Self::Local => "local",
        }
    }

    /// Of a frame that parse has let through.
    pub(super) fn of(frame: &[u8], meta: &Meta) -> Self {
        match meta.kind {
            Kind::Arp | Kind::NeighborDiscovery => Self::Neighbor,
            Kind::Flow | Kind::IcmpError | Kind::Fragment => of_packet(frame, meta),
            Kind::Other => match ethertype_of(frame, meta) {
                ethertype::IPV4 | ethertype::IPV6 => of_packet(frame, meta),
                ethertype::ARP => Self::Neighbor,
                0..ethertype::FIRST if frame.get(usize::from(meta.l2_len)..).is_some_and(is_isis) => {
                    Self::Routing
                }
                _ => Self::Link,
            },
        }
    }

    /// Counter of the frames that pass.
    pub(super) const fn passed(self, counters: &mut Counters) -> &mut u64 {
        match self {
            Self::Link => &mut counters.punted_link,
            Self::Neighbor => &mut counters.punted_neighbor,
            Self::Ha => &mut counters.punted_ha,
            Self::Routing => &mut counters.punted_routing,
            Self::Local => &mut counters.punted_local,
        }
    }

    /// Counter of those beyond the limit.
    pub(super) const fn refused(self, counters: &mut Counters) -> &mut u64 {
        match self {
            Self::Link => &mut counters.punt_refused_link,
            Self::Neighbor => &mut counters.punt_refused_neighbor,
            Self::Ha => &mut counters.punt_refused_ha,
            Self::Routing => &mut counters.punt_refused_routing,
            Self::Local => &mut counters.punt_refused_local,
        }
    }
}

fn of_packet(frame: &[u8], meta: &Meta) -> Class {
    match meta.key.proto {
        // RFC 5798 section 5.1.1.3, RFC 9568 section 5.1.1.3.
        VRRP if meta.ttl == NEVER_ROUTED => Class::Ha,
        OSPF => Class::Routing,
        proto::TCP if ports(frame, meta).is_some_and(|ports| ports.contains(&BGP_PORT)) => Class::Routing,
        proto::UDP if ports(frame, meta).is_some_and(|[_, to]| is_bfd(to, meta.ttl)) => Class::Ha,
        // Router solicitation to redirect (RFC 4861): those that parse has left to the kernel.
        proto::ICMP6 if matches!(frame.get(meta.l4_offset()), Some(133..=137)) => Class::Neighbor,
        _ => Class::Local,
    }
}

fn is_bfd(port: u16, ttl: u8) -> bool {
    // RFC 5881 section 5.
    BFD_PORTS.contains(&port) && ttl == NEVER_ROUTED || port == BFD_MULTIHOP_PORT
}

fn is_isis(payload: &[u8]) -> bool {
    payload.starts_with(&ISIS)
}

/// The type or length in front of the payload.
fn ethertype_of(frame: &[u8], meta: &Meta) -> u16 {
    let header = frame.get(..usize::from(meta.l2_len));
    header
        .and_then(|header| header.last_chunk())
        .map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// Source and destination port; a later piece of a fragmented packet has none.
fn ports(frame: &[u8], meta: &Meta) -> Option<[u16; 2]> {
    if meta.piece == Piece::Later {
        return None;
    }
    let [a, b, c, d] = *frame.get(meta.l4_offset()..)?.first_chunk()?;
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}
