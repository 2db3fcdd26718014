//! UDP header (RFC 768).

super::view! {
    /// UDP header.
    Udp[8] {
        /// Source port; 0 when no answer is wanted.
        src_port / set_src_port: u16 @ 0,
        /// Destination port.
        dst_port / set_dst_port: u16 @ 2,
        /// Source and destination port, as on the wire.
        ports / set_ports: port_pair @ 0,
        /// Bytes of header and data.
        datagram_len / set_datagram_len: u16 @ 4,
        /// Checksum; 0 means none, which only IPv4 allows (RFC 8200, section 8.1).
        checksum / set_checksum: u16 @ 6,
    }
}
