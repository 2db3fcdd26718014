//! Ethernet II header (IEEE 802.3-2022 clause 3): 14 bytes, first in each frame, rewritten last before transmission.

/// A MAC address in transmission order.
pub type Mac = [u8; 6];

/// ff:ff:ff:ff:ff:ff.
pub const BROADCAST: Mac = [0xff; 6];

/// Values of the type field (IEEE registration authority).
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// Customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
    /// Slow protocols: LACP, marker, OAM (IEEE 802.3 annex 57A).
    pub const SLOW: u16 = 0x8809;
    /// Port access control (IEEE 802.1X).
    pub const EAPOL: u16 = 0x888e;
    /// Service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// LLDP (IEEE 802.1AB).
    pub const LLDP: u16 = 0x88cc;
    /// Smaller values are lengths of an 802.2 frame (STP, CDP, IS-IS), not types.
    pub const FIRST: u16 = 0x0600;
}

super::view! {
    /// Ethernet II header.
    Ethernet[14] {
        /// Destination address.
        dst / set_dst: mac @ 0,
        /// Source address.
        src / set_src: mac @ 6,
        /// Both addresses, in this order.
        stations / set_stations: mac_pair @ 0,
        /// Type, or TPID of the first VLAN tag.
        ethertype / set_ethertype: u16 @ 12,
    }
}

/// Whether the address names a group: multicast or broadcast (the first bit on the wire).
#[inline]
#[must_use]
pub const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Group address of an IPv6 multicast destination (RFC 2464, section 7).
#[must_use]
pub const fn ipv6_multicast(address: &[u8; 16]) -> Mac {
    [0x33, 0x33, address[12], address[13], address[14], address[15]]
}
