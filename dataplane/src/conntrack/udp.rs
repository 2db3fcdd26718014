//! UDP, and every protocol without a state of its own, as seen from the middle.
//!
//! A flow is opening until a packet has come back, and established from then on for good. Every packet that was
//! let through refreshes the lifetime: outbound ones must (RFC 4787 REQ-6 a), inbound ones may (REQ-6 b, where
//! it is an option that needs care against abuse); here they do, because a conntrack's own outside endpoint is the
//! only one that can send them, and one-way media streams would stop otherwise.

use crate::config::Timeouts;
use crate::delta::Class;
use crate::flow::Direction;

/// Which ways packets have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// Only the originator has sent.
    Opening,
    /// Both ends have.
    Established,
}

impl Track {
    /// State after the first packet of a flow.
    #[must_use]
    pub const fn open() -> Self {
        Self::Opening
    }

    /// State of an entry learnt from the peer. A closing class doesn't exist here and is taken for established.
    #[must_use]
    pub const fn inherited(class: Class) -> Self {
        match class {
            Class::Opening => Self::Opening,
            Class::Established | Class::Closing => Self::Established,
        }
    }

    /// Takes note of a packet; answers whether the class has changed.
    pub const fn observe(&mut self, dir: Direction) -> bool {
        match (*self, dir) {
            (Self::Opening, Direction::Reply) => {
                *self = Self::Established;
                true
            }
            _ => false,
        }
    }

    /// Replicated class.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Opening => Class::Opening,
            Self::Established => Class::Established,
        }
    }

    /// Idle lifetime of a UDP flow (RFC 4787 REQ-5), in seconds.
    #[must_use]
    pub const fn timeout_s(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Opening => timeouts.udp_opening_s,
            Self::Established => timeouts.udp_established_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_packet_back_changes_the_state() {
        use Direction::{Original, Reply};
        use Track::{Established, Opening};
        let table = [
            (Opening, Original, Opening, false),
            (Opening, Reply, Established, true),
            (Established, Original, Established, false),
            (Established, Reply, Established, false),
        ];
        for (before, dir, after, changed) in table {
            let mut track = before;
            assert_eq!(
                (track.observe(dir), track),
                (changed, after),
                "{before:?} {dir:?}"
            );
        }
    }

    #[test]
    fn an_inherited_class_comes_back_as_itself_and_closing_as_established() {
        assert_eq!(Track::inherited(Class::Opening).class(), Class::Opening);
        assert_eq!(Track::inherited(Class::Established).class(), Class::Established);
        assert_eq!(Track::inherited(Class::Closing).class(), Class::Established);
    }

    #[test]
    fn default_lifetimes_are_no_shorter_than_rfc_4787_req_5_asks() {
        let timeouts = Timeouts::default();
        assert!(Track::Opening.timeout_s(&timeouts) >= 120);
        assert!(Track::Established.timeout_s(&timeouts) >= 300);
    }
}
