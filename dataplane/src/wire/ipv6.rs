//! IPv6 header (RFC 8200, section 3).

super::view! {
    /// The fixed 40 bytes of an IPv6 header.
    Ipv6[40] {
        /// Version (4 bits), traffic class (8), flow label (20).
        first_word / set_first_word: u32 @ 0,
        /// Bytes after this header.
        payload_len / set_payload_len: u16 @ 4,
        /// Type of the next header.
        next_header / set_next_header: u8 @ 6,
        /// Hop limit.
        hop_limit / set_hop_limit: u8 @ 7,
        /// Source address.
        src / set_src: ip6 @ 8,
        /// Destination address.
        dst / set_dst: ip6 @ 24,
        /// Both addresses, as in the pseudo header.
        addresses / set_addresses: ip6_pair @ 8,
    }
}

/// ::, the source of a host that has no address yet.
#[inline]
#[must_use]
pub fn is_unspecified(a: &[u8; 16]) -> bool {
    *a == [0; 16]
}

/// ::1.
#[inline]
#[must_use]
pub fn is_loopback(a: &[u8; 16]) -> bool {
    u128::from_be_bytes(*a) == 1
}

/// ff00::/8.
#[inline]
#[must_use]
pub const fn is_multicast(a: &[u8; 16]) -> bool {
    a[0] == 0xff
}

/// fe80::/10: valid on one link only (RFC 4291, section 2.5.6).
#[inline]
#[must_use]
pub const fn is_link_local(a: &[u8; 16]) -> bool {
    a[0] == 0xfe && a[1] & 0xc0 == 0x80
}

/// ::ffff:0:0/96, which never appears on a wire (RFC 4038, section 4.2) and would look like IPv4 in a flow key.
#[inline]
#[must_use]
pub fn is_v4_mapped(a: &[u8; 16]) -> bool {
    a.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
}

/// Solicited-node multicast address of `a` (RFC 4291, section 2.7.1).
#[must_use]
pub const fn solicited_node(a: &[u8; 16]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]]
}

/// ff02::1.
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
