//! ICMP and `ICMPv6` queries as seen from the middle: a request, and replies to it under the same identifier.
//!
//! Errors have no state here: they belong to the conntrack of the packet they quote, and neither refresh nor end it
//! (RFC 5508 REQ-7). One lifetime serves both states (RFC 5508 REQ-2), because a query session is never longer than
//! its last request.

use crate::config::Timeouts;
use crate::delta::Class;
use crate::flow::Direction;

/// Whether a query was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// Requests only.
    Asked,
    /// A reply was seen.
    Answered,
}

impl Track {
    /// State after the first request.
    #[must_use]
    pub const fn open() -> Self {
        Self::Asked
    }

    /// State of an entry learnt from the peer.
    #[must_use]
    pub const fn inherited(class: Class) -> Self {
        match class {
            Class::Opening => Self::Asked,
            Class::Established | Class::Closing => Self::Answered,
        }
    }

    /// Takes note of a request (original direction) or reply; answers whether the class has changed.
    pub const fn observe(&mut self, dir: Direction) -> bool {
        match (*self, dir) {
            (Self::Asked, Direction::Reply) => {
                *self = Self::Answered;
                true
            }
            _ => false,
        }
    }

    /// Replicated class.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Asked => Class::Opening,
            Self::Answered => Class::Established,
        }
    }

    /// Idle lifetime, in seconds.
    #[must_use]
    pub const fn timeout_s(self, timeouts: &Timeouts) -> u32 {
        timeouts.icmp_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_packet_back_changes_the_state() {
        use Direction::{Original, Reply};
        use Track::{Answered, Asked};
        let table = [
            (Asked, Original, Asked, false),
            (Asked, Reply, Answered, true),
            (Answered, Original, Answered, false),
            (Answered, Reply, Answered, false),
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
    fn default_lifetimes_are_no_shorter_than_rfc_5508_req_2_asks() {
        let timeouts = Timeouts::default();
        assert!(Track::Asked.timeout_s(&timeouts) >= 60);
        assert!(Track::Answered.timeout_s(&timeouts) >= 60);
    }
}
