//! `ICMPv6` (RFC 4443) and the neighbour discovery messages (RFC 4861) the data path answers.

pub use super::icmp4::Icmp;

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Multicast listener query, the first of the group management messages (RFC 2710).
pub const MLD_QUERY: u8 = 130;
/// Router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Redirect.
pub const REDIRECT: u8 = 137;
/// Version 2 multicast listener report (RFC 3810).
pub const MLD2_REPORT: u8 = 143;

/// Codes of [`UNREACHABLE`] that this node sends (RFC 4443, section 3.1).
pub mod unreachable {
    /// No route to destination.
    pub const NO_ROUTE: u8 = 0;
    /// Communication administratively prohibited.
    pub const ADMIN_PROHIBITED: u8 = 1;
    /// Address unreachable.
    pub const ADDRESS: u8 = 3;
    /// Port unreachable.
    pub const PORT: u8 = 4;
}

super::view! {
    /// Neighbour solicitation or advertisement without options (RFC 4861, sections 4.3 and 4.4).
    Neighbor[24] {
        /// Type.
        kind / set_kind: u8 @ 0,
        /// Code, 0.
        code / set_code: u8 @ 1,
        /// Checksum.
        checksum / set_checksum: u16 @ 2,
        /// Flags of an advertisement, else reserved.
        flags / set_flags: u32 @ 4,
        /// The address asked for or advertised.
        target / set_target: ip6 @ 8,
    }
}

/// The sender is a router.
pub const NA_ROUTER: u32 = 0x8000_0000;
/// Sent in answer to a solicitation.
pub const NA_SOLICITED: u32 = 0x4000_0000;
/// Overrides cached link-layer addresses.
pub const NA_OVERRIDE: u32 = 0x2000_0000;

/// Option: link-layer address of the target (RFC 4861, section 4.6.1); length 1 (8 bytes).
pub const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// Whether messages of this type quote a packet whose flow they belong to and are passed on.
#[inline]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE..=PARAMETER_PROBLEM)
}

/// For an echo, whether it is the request (true) or the reply; none for other types.
#[inline]
#[must_use]
pub const fn query(kind: u8) -> Option<bool> {
    match kind {
        ECHO_REQUEST => Some(true),
        ECHO_REPLY => Some(false),
        _ => None,
    }
}
