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

/// An IPv4 or IPv6 address in 16 bytes; IPv4 is kept as `::ffff:a.b.c.d`, so that one key serves both.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Addr([u8; 16]);

impl Addr {
    /// From network-order IPv4 bytes.
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// From network-order IPv6 bytes.
    #[must_use]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self(b)
    }

    /// All 16 bytes.
    #[must_use]
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether this is an IPv4 address.
    #[inline]
    #[must_use]
    pub fn is_v4(&self) -> bool {
        let ([a, b, c, _], _) = self.0.as_chunks::<4>() else {
            return false;
        };
        *a == [0; 4] && *b == [0; 4] && *c == [0, 0, 0xff, 0xff]
    }

    /// The four IPv4 bytes (the last four of an IPv6 address).
    #[inline]
    #[must_use]
    pub const fn v4_octets(&self) -> [u8; 4] {
        match self.0.last_chunk() {
            Some(octets) => *octets,
            None => [0; 4],
        }
    }

    /// As the standard library's type.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        if self.is_v4() {
            Ipv4Addr::from(self.v4_octets()).into()
        } else {
            Ipv6Addr::from(self.0).into()
        }
    }

    /// From its two halves, as [`Self::halves`] gives them.
    #[inline]
    #[must_use]
    pub const fn of_halves([high, low]: [u64; 2]) -> Self {
        Self(((high as u128) << 64 | low as u128).to_be_bytes())
    }

    /// The two 64-bit halves, for hashing.
    #[inline]
    #[must_use]
    pub const fn halves(&self) -> (u64, u64) {
        let v = u128::from_be_bytes(self.0);
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let low = v as u64;
        ((v >> 64) as u64, low)
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
