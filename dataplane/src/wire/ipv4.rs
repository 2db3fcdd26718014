//! IPv4 header (RFC 791, section 3.1).

use super::checksum::Sum;

super::view! {
    /// The fixed 20 bytes of an IPv4 header.
    Ipv4[20] {
        /// Version (4 bits) and header length in 32-bit words (4 bits).
        version_ihl / set_version_ihl: u8 @ 0,
        /// DSCP (6 bits, RFC 2474) and ECN (2 bits, RFC 3168).
        tos / set_tos: u8 @ 1,
        /// Bytes of the whole packet.
        total_len / set_total_len: u16 @ 2,
        /// Identification.
        id / set_id: u16 @ 4,
        /// Flags (3 bits) and fragment offset in 8-byte units (13 bits).
        fragment / set_fragment: u16 @ 6,
        /// Time to live.
        ttl / set_ttl: u8 @ 8,
        /// Protocol.
        proto / set_proto: u8 @ 9,
        /// Header checksum.
        checksum / set_checksum: u16 @ 10,
        /// Source address.
        src / set_src: ip4 @ 12,
        /// Destination address.
        dst / set_dst: ip4 @ 16,
        /// Both addresses, as in the pseudo header.
        addresses / set_addresses: ip4_pair @ 12,
    }
}

/// Don't Fragment, in [`Ipv4::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More Fragments, in [`Ipv4::fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset's bits in [`Ipv4::fragment`].
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

impl<B: core::ops::Deref<Target = [u8; 20]>> Ipv4<B> {
    /// Bytes of the header with its options, as announced (0 to 60).
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl() & 0x0f) * 4
    }

    /// Sum of the fixed part, for the header checksum.
    #[inline]
    #[must_use]
    pub fn sum(&self) -> Sum {
        Sum::ZERO.fixed(&self.0)
    }

    /// Whether this is a piece of a packet, first or later.
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }
}

/// Option kinds (RFC 791, section 3.1) that parse looks for.
pub mod option {
    /// End of the list.
    pub const END: u8 = 0;
    /// Padding.
    pub const NOP: u8 = 1;
    /// Loose source and record route.
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// Whether an address may not be the source of a forwarded packet: network 0, loopback, multicast, reserved,
/// limited broadcast (RFC 1812, section 5.3.7; RFC 6890, section 2.2.2).
#[inline]
#[must_use]
pub const fn is_bad_source(a: &[u8; 4]) -> bool {
    a[0] == 0 || a[0] == 127 || a[0] >= 224
}

/// 0.0.0.0, the source of a host that has no address yet.
#[inline]
#[must_use]
pub const fn is_unspecified(a: &[u8; 4]) -> bool {
    u32::from_be_bytes(*a) == 0
}

/// Multicast or limited broadcast: never forwarded here, perhaps of interest to the kernel.
#[inline]
#[must_use]
pub const fn is_group(a: &[u8; 4]) -> bool {
    a[0] & 0xf0 == 0xe0 || u32::from_be_bytes(*a) == u32::MAX
}

/// 169.254.0.0/16: valid on one link only (RFC 3927, section 2.7).
#[inline]
#[must_use]
pub const fn is_link_local(a: &[u8; 4]) -> bool {
    a[0] == 169 && a[1] == 254
}
