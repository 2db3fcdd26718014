//! ICMP (RFC 792): queries are flows, errors belong to the flow they quote.

super::view! {
    /// The first 8 bytes, common to all ICMP and `ICMPv6` messages of interest.
    Icmp[8] {
        /// Type.
        kind / set_kind: u8 @ 0,
        /// Code.
        code / set_code: u8 @ 1,
        /// Checksum.
        checksum / set_checksum: u16 @ 2,
        /// Identifier of a query.
        id / set_id: u16 @ 4,
        /// Sequence number of a query; MTU in "fragmentation needed" (RFC 1191, section 4).
        seq / set_seq: u16 @ 6,
    }
}

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench, deprecated (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo.
pub const ECHO: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Timestamp.
pub const TIMESTAMP: u8 = 13;
/// Timestamp reply.
pub const TIMESTAMP_REPLY: u8 = 14;

/// Codes of [`UNREACHABLE`] that this node sends (RFC 792; RFC 1812, section 5.2.7.1).
pub mod unreachable {
    /// Network unreachable.
    pub const NET: u8 = 0;
    /// Host unreachable.
    pub const HOST: u8 = 1;
    /// Port unreachable.
    pub const PORT: u8 = 3;
    /// Fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Communication administratively prohibited.
    pub const ADMIN_PROHIBITED: u8 = 13;
}

/// Whether messages of this type quote a packet whose flow they belong to and are translated.
#[inline]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

/// For a query, whether it is the request (true) or the reply; none for other types. Information and address mask
/// messages are obsolete (RFC 6918, section 2) and not counted as queries.
#[inline]
#[must_use]
pub const fn query(kind: u8) -> Option<bool> {
    match kind {
        ECHO | TIMESTAMP => Some(true),
        ECHO_REPLY | TIMESTAMP_REPLY => Some(false),
        _ => None,
    }
}
