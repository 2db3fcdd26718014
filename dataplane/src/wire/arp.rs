//! ARP for IPv4 over Ethernet (RFC 826): questions are answered and announcements sent by `stage::respond`.

/// Request operation.
pub const REQUEST: u16 = 1;
/// Reply operation.
pub const REPLY: u16 = 2;

/// The first six bytes of each Ethernet/IPv4 ARP packet: hardware type 1, protocol 0x0800, lengths 6 and 4.
pub const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

super::view! {
    /// ARP packet for Ethernet and IPv4.
    Arp[28] {
        /// Hardware type, protocol type and the two address lengths; must be [`ETHERNET_IPV4`].
        kind / set_kind: mac @ 0,
        /// Operation.
        operation / set_operation: u16 @ 6,
        /// Sender's MAC address.
        sender_mac / set_sender_mac: mac @ 8,
        /// Sender's IPv4 address.
        sender / set_sender: ip4 @ 14,
        /// Target's MAC address; unspecified in a request.
        target_mac / set_target_mac: mac @ 18,
        /// Target's IPv4 address.
        target / set_target: ip4 @ 24,
    }
}
