//! One kernel message, reduced to what forwarding needs. Everything that can't concern a fast path interface
//! (local tables, multicast, proxies, bridges) ends here.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NLM_F_APPEND;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// Table of routes to own addresses; those are learnt as addresses.
const TABLE_LOCAL: u32 = 255;

/// `NUD_*` of linux/neighbour.h.
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_PERMANENT: u16 = 0x80;
/// The states in which the kernel itself would use the entry's MAC address.
const NUD_USABLE: u16 = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT;

/// A change of one thing in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An interface is there, or is different.
    Link(KernelLink),
    /// An interface is gone.
    NoLink(u32),
    /// An interface has this address.
    Address(u32, IpNet),
    /// It no longer has.
    NoAddress(u32, IpNet),
    /// A route is there, or is different.
    Route(RouteKey, KernelRoute),
    /// A route is gone; with the next hops it had.
    NoRoute(RouteKey, Vec<Hop>),
    /// A next-hop object, or a group of them, is there, is different or is gone. Routes that refer to it change with it, and
    /// may vanish with it, without a word.
    NextHopObject(u32),
    /// A neighbour has this MAC address.
    Neighbor(u32, IpAddr, KernelNeighbor),
    /// A neighbour isn't known, or no longer.
    NoNeighbor(u32, IpAddr),
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLink {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Administratively up and with carrier.
    pub up: bool,
    /// MAC address, when it has one of Ethernet's size.
    pub mac: Option<[u8; 6]>,
    /// For a VRF device: its table.
    pub vrf_table: Option<u32>,
    /// For a macvlan, which is another station on the link of an interface of its namespace: that one's index.
    pub station_of: Option<u32>,
}

/// What distinguishes routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// Metric: of routes to one prefix, the lowest counts.
    pub metric: u32,
    /// Type of service; routes for one are not used.
    pub tos: u8,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    /// Ways out that are alive.
    pub hops: Vec<Hop>,
    /// Added beside another route of the same key.
    pub appended: bool,
    /// The next-hop object it refers to.
    pub object: Option<u32>,
}

/// A way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// Interface index.
    pub link: u32,
    /// Gateway; none when the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// A neighbour whose MAC address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelNeighbor {
    /// MAC address.
    pub mac: [u8; 6],
    /// Nobody has confirmed it lately.
    pub stale: bool,
}

/// The change this message tells of, if any. `flags` are those of the netlink header.
#[must_use]
pub fn change_of(message: &RouteNetlinkMessage, flags: u16) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(m) => new_link(m),
        RouteNetlinkMessage::DelLink(m) => {
            // A bridge tells AF_BRIDGE listeners of a port that left it; the interface itself is still there.
            (m.header.interface_family == AddressFamily::Unspec).then_some(Change::NoLink(m.header.index))
        }
        RouteNetlinkMessage::NewAddress(m) => address(m).map(|(link, net, usable)| {
            if usable {
                Change::Address(link, net)
            } else {
                Change::NoAddress(link, net)
            }
        }),
        RouteNetlinkMessage::DelAddress(m) => address(m).map(|(link, net, _)| Change::NoAddress(link, net)),
        RouteNetlinkMessage::NewRoute(m) => {
            let (key, hops) = route(m)?;
            let object = m.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::NhId(id) => Some(*id),
                _ => None,
            });
            Some(Change::Route(
                key,
                KernelRoute {
                    hops,
                    appended: flags & NLM_F_APPEND != 0,
                    object,
                },
            ))
        }
        RouteNetlinkMessage::DelRoute(m) => route(m).map(|(key, hops)| Change::NoRoute(key, hops)),
        RouteNetlinkMessage::NewNeighbour(m) => neighbor(m),
        RouteNetlinkMessage::DelNeighbour(m) => {
            neighbor_address(m).map(|address| Change::NoNeighbor(m.header.ifindex, address))
        }
        _ => None,
    }
}

/// What the body of a message about a next-hop object tells: `struct nhmsg`, then attributes (linux/nexthop.h).
#[must_use]
pub fn next_hop_object(body: &[u8]) -> Option<Change> {
    const NHMSG_BYTES: usize = 8;
    const ATTRIBUTE_BYTES: usize = 4;
    const NHA_ID: u16 = 1;
    let mut rest = body.get(NHMSG_BYTES..)?;
    loop {
        let (&[l0, l1, t0, t1], value) = rest.split_first_chunk::<ATTRIBUTE_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if u16::from_ne_bytes([t0, t1]) == NHA_ID {
            return Some(Change::NextHopObject(u32::from_ne_bytes(*value.first_chunk()?)));
        }
        // Attributes start at multiples of four bytes.
        rest = rest.get(length.max(ATTRIBUTE_BYTES).next_multiple_of(4)..)?;
    }
}

fn new_link(message: &LinkMessage) -> Option<Change> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = KernelLink {
        index: message.header.index,
        name: String::new(),
        up: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
        mac: None,
        vrf_table: None,
        station_of: None,
    };
    let (mut below, mut elsewhere, mut is_station) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::OperState(State::Down | State::LowerLayerDown | State::NotPresent) => {
                link.up = false
            }
            LinkAttribute::LinkInfo(infos) => {
                link.vrf_table = infos.iter().find_map(vrf_table);
                is_station = infos.contains(&LinkInfo::Kind(InfoKind::MacVlan));
            }
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    link.station_of = below.filter(|_| is_station && !elsewhere);
    (!link.name.is_empty()).then_some(Change::Link(link))
}

fn vrf_table(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vrf(parts)) = info else {
        return None;
    };
    parts.iter().find_map(|part| match part {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

/// Interface, address, and whether it may be used yet.
fn address(message: &AddressMessage) -> Option<(u32, IpNet, bool)> {
    let (mut local, mut given) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface `Address` is the far end's.
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => given = Some(*a),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(given)?, message.header.prefix_len).ok()?;
    // RFC 4862 section 5.4: not to be used before duplicate address detection has ended.
    let flags = message.header.flags;
    let usable = !flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed)
        || flags.contains(AddressHeaderFlags::Optimistic);
    Some((message.header.index, net, usable))
}

fn route(message: &RouteMessage) -> Option<(RouteKey, Vec<Hop>)> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut table, mut destination, mut metric) = (u32::from(header.table), unspecified, 0);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::MultiPath(list) => hops.extend(list.iter().filter_map(multipath_hop)),
            _ => {}
        }
    }
    if hops.is_empty() && !header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown) {
        hops.extend(hop(&message.attributes, None));
    }
    if table == TABLE_LOCAL || destination.is_multicast() {
        return None;
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length)
        .ok()?
        .trunc();
    Some((
        RouteKey {
            table,
            prefix,
            metric,
            tos: header.tos,
        },
        hops,
    ))
}

fn multipath_hop(next: &RouteNextHop) -> Option<Hop> {
    if next
        .flags
        .intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown)
    {
        return None;
    }
    hop(&next.attributes, Some(next.interface_index))
}

fn hop(attributes: &[RouteAttribute], link: Option<u32>) -> Option<Hop> {
    let (mut link, mut gateway) = (link, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(a)) => gateway = Some((*a).into()),
            RouteAttribute::Via(RouteVia::Inet6(a)) => gateway = Some((*a).into()),
            _ => {}
        }
    }
    Some(Hop { link: link?, gateway })
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn neighbor(message: &NeighbourMessage) -> Option<Change> {
    let address = neighbor_address(message)?;
    let link = message.header.ifindex;
    let state = u16::from(message.header.state);
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    Some(match mac {
        Some(mac) if state & NUD_USABLE != 0 => Change::Neighbor(
            link,
            address,
            KernelNeighbor {
                mac,
                stale: state & NUD_STALE != 0,
            },
        ),
        // FAILED, INCOMPLETE, NONE; and NOARP, which is no neighbour one could ask for.
        _ => Change::NoNeighbor(link, address),
    })
}

fn neighbor_address(message: &NeighbourMessage) -> Option<IpAddr> {
    let family = message.header.family;
    if (family != AddressFamily::Inet && family != AddressFamily::Inet6)
        || message.header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })?;
    (!address.is_multicast()).then_some(address)
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok().filter(|mac| *mac != [0; 6])
}
