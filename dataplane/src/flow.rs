//! What names a flow: addresses, ports, protocol and VRF, in the form that tables, records and the wire share.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Index of a VRF in this node's configuration. Local: the wire carries the VRF's name.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VrfId(pub u16);

impl VrfId {
    /// The id as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An IPv4 or IPv6 address as two numbers; IPv4 is kept as `::ffff:a.b.c.d`, so that one key serves both. Numbers, because
/// a packet's addresses are copied, compared and hashed many times on its way, each time in two steps then. They sort as the
/// octets do.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "[u8; 16]", into = "[u8; 16]")]
pub struct Addr {
    high: u64,
    low: u64,
}

/// What IPv4 addresses have in front of their 32 bits in the low half (RFC 4291 section 2.5.5.2).
const V4_PREFIX: u64 = 0xffff << 32;

impl Addr {
    /// From network-order IPv4 bytes.
    #[inline]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self::of_v4_number(u32::from_be_bytes(b))
    }

    /// From an IPv4 address as a number.
    #[inline]
    #[must_use]
    pub const fn of_v4_number(number: u32) -> Self {
        Self {
            high: 0,
            low: V4_PREFIX | number as u64,
        }
    }

    /// From network-order IPv6 bytes.
    #[inline]
    #[must_use]
    pub const fn v6(b: [u8; 16]) -> Self {
        let v = u128::from_be_bytes(b);
        Self {
            high: (v >> 64) as u64,
            low: low_half(v),
        }
    }

    /// All 16 bytes.
    #[inline]
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        self.number().to_be_bytes()
    }

    /// All bits as one number.
    #[inline]
    #[must_use]
    pub const fn number(&self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// Whether this is an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.high == 0 && self.low >> 32 == V4_PREFIX >> 32
    }

    /// Whether both are IPv4 addresses.
    #[inline]
    #[must_use]
    pub const fn are_v4(a: &Self, b: &Self) -> bool {
        let prefixes = (a.low ^ V4_PREFIX) | (b.low ^ V4_PREFIX);
        a.high | b.high | prefixes >> 32 == 0
    }

    /// The four IPv4 bytes (the last four of an IPv6 address).
    #[inline]
    #[must_use]
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.v4_number().to_be_bytes()
    }

    /// The IPv4 address as a number (the last 32 bits of an IPv6 address).
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the last 32 bits are meant")]
    pub const fn v4_number(&self) -> u32 {
        self.low as u32
    }

    /// As the standard library's type.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        if self.is_v4() {
            Ipv4Addr::from(self.v4_octets()).into()
        } else {
            Ipv6Addr::from(self.octets()).into()
        }
    }

    /// The same address, of which is known that it is IPv4: the compiler knows it then, too, and asks no more.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn as_v4(&self) -> Self {
        Self::of_v4_number(self.v4_number())
    }

    /// From its two halves, as [`Self::halves`] gives them.
    #[inline]
    #[must_use]
    pub const fn of_halves([high, low]: [u64; 2]) -> Self {
        Self { high, low }
    }

    /// The two 64-bit halves, for hashing.
    #[inline]
    #[must_use]
    pub const fn halves(&self) -> (u64, u64) {
        (self.high, self.low)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low_half(v: u128) -> u64 {
    v as u64
}

impl From<[u8; 16]> for Addr {
    fn from(octets: [u8; 16]) -> Self {
        Self::v6(octets)
    }
}

impl From<Addr> for [u8; 16] {
    fn from(address: Addr) -> Self {
        address.octets()
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => Self::v4(a.octets()),
            IpAddr::V6(a) => Self::v6(a.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// IANA protocol numbers the packet path knows by name.
pub mod proto {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// `ICMPv6` (RFC 4443).
    pub const ICMP6: u8 = 58;
}

/// One direction of a flow. For ICMP queries the identifier stands in for the requester's port and the other
/// port is 0, so that a request and an unrelated request the other way never share a key.
#[derive(Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, or ICMP identifier of a request.
    pub src_port: u16,
    /// Destination port, or ICMP identifier of a reply.
    pub dst_port: u16,
    /// VRF in which this direction's packets arrive.
    pub vrf: VrfId,
    /// IANA protocol number.
    pub proto: u8,
}

impl FlowKey {
    /// As [`Addr::as_v4`], for both addresses.
    #[inline(always)]
    pub(crate) const fn as_v4(&self) -> Self {
        Self {
            src: self.src.as_v4(),
            dst: self.dst.as_v4(),
            ..*self
        }
    }

    /// The same flow seen from the other end.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            vrf: self.vrf,
            proto: self.proto,
        }
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vrf{} proto {} [{}]:{} > [{}]:{}",
            self.vrf.0, self.proto, self.src, self.src_port, self.dst, self.dst_port
        )
    }
}

/// Which way a packet goes through its conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// As the first packet went.
    Original,
    /// Back to the originator.
    Reply,
}

impl Direction {
    /// 0 for original, 1 for reply.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The other direction.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}
