//! Frames of our own. So far only the interface.
use super::meta::Meta;
use crate::flow::Addr;
use crate::io::Packet;
use crate::time::Instant;
use crate::wire::{ethernet::Mac, vlan::VlanTags};

/// What an ICMP error of our own says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// TTL or hop limit used up in transit.
    TimeExceeded,
    /// Larger than the outgoing MTU: "fragmentation needed" or "packet too big".
    TooBig {
        /// The MTU.
        mtu: u16,
    },
    /// A rule or a limit forbids it.
    AdminProhibited,
    /// No route.
    NoRoute,
    /// Next hop does not answer.
    HostUnreachable,
    /// Nobody there.
    PortUnreachable,
}

/// How an address is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpForm {
    /// As a request for the address itself.
    Request,
    /// As a reply nobody asked for.
    Reply,
}

/// Turns an ARP request, in place, into the answer that its target is at `mac`; false when it is no request.
pub fn arp_reply(_frame: &mut [u8], _meta: &Meta, _mac: Mac) -> bool {
    false
}

/// Writes a gratuitous ARP for `address` into `packet`; false when the buffer is too small.
pub fn gratuitous_arp<P: Packet>(
    _packet: &mut P,
    _address: [u8; 4],
    _mac: Mac,
    _vlans: &VlanTags,
    _form: ArpForm,
) -> bool {
    false
}

/// Turns a neighbour solicitation, in place, into the answer that its target is at `mac`; false when it is none.
pub fn neighbor_advertisement<P: Packet>(_packet: &mut P, _meta: &Meta, _mac: Mac) -> bool {
    false
}

/// Writes an unsolicited neighbour advertisement for `address`.
pub fn unsolicited_advertisement<P: Packet>(
    _packet: &mut P,
    _address: [u8; 16],
    _mac: Mac,
    _vlans: &VlanTags,
) -> bool {
    false
}

/// Turns an echo request, in place, into its reply; false when it is none.
pub fn echo_reply(_frame: &mut [u8], _meta: &Meta) -> bool {
    false
}

/// Writes an ICMP error about `offender`, from `source`, into `packet`, addressed back to where it came from.
/// False when no error may be sent about it, or the buffer is too small.
pub fn icmp_error<P: Packet>(
    _packet: &mut P,
    _offender: &[u8],
    _meta: &Meta,
    _source: Addr,
    _error: IcmpError,
) -> bool {
    false
}

/// Writes the reset that refuses the TCP segment `offender`; false when it is none or itself a reset.
pub fn tcp_reset<P: Packet>(_packet: &mut P, _offender: &[u8], _meta: &Meta) -> bool {
    false
}

/// Limits answers: `rate_per_s` on average, `burst` at once.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    rate_per_s: u32,
    burst: u32,
    tokens: u32,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate_per_s: u32, burst: u32) -> Self {
        Self {
            rate_per_s,
            burst,
            tokens: burst,
            at: Instant::from_ns(0),
        }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let earned = now.since(self.at).as_nanos() * u128::from(self.rate_per_s) / 1_000_000_000;
        if earned > 0 {
            self.tokens = self
                .tokens
                .saturating_add(u32::try_from(earned).unwrap_or(u32::MAX))
                .min(self.burst);
            self.at = now;
        }
        self.tokens
            .checked_sub(1)
            .map(|left| self.tokens = left)
            .is_some()
    }
}
