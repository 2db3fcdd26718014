//! TCP as seen from the middle.

use crate::config::Timeouts;
use crate::delta::Class;
use crate::flow::Direction;
pub use crate::stage::parse::TcpSegment;
use crate::verdict::Drop;
use crate::wire::tcp::{ACK, FIN, RST, SYN};

/// What a middlebox knows of one TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Track {
    class: Class,
    lenient: [bool; 2],
}

/// What an accepted segment means for its conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Replicated class after the segment.
    pub class: Class,
    /// Which lifetime applies after the segment.
    pub timeout: Timeout,
    /// Whether the lifetime starts anew. Segments that prove nothing (a SYN on a live connection, a RST beside the
    /// expected sequence number) pass without it.
    pub refresh: bool,
    /// The segment opens a new connection on the tuple of a finished one. The track is unchanged and the segment
    /// isn't accepted yet: policy has to see it as a first packet, and only when it lets it in does the old
    /// conntrack make room.
    pub reopened: bool,
}

/// Which of the configured lifetimes applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Handshake not finished.
    Opening,
    /// Established.
    Established,
    /// FIN seen in one or both directions.
    Closing,
    /// RST seen.
    Reset,
}

impl Timeout {
    /// In seconds.
    #[must_use]
    pub const fn timeout_s(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Opening => timeouts.tcp_opening_s,
            Self::Established => timeouts.tcp_established_s,
            Self::Closing => timeouts.tcp_closing_s,
            Self::Reset => timeouts.tcp_reset_s,
        }
    }
}

impl Track {
    /// State after the first segment of a connection.
    ///
    /// # Errors
    /// Only a SYN without ACK opens a connection.
    pub fn open(segment: &TcpSegment) -> Result<Self, Drop> {
        if segment.flags & (SYN | ACK | FIN | RST) == SYN {
            Ok(Self {
                class: Class::Opening,
                lenient: [false; 2],
            })
        } else {
            Err(Drop::TcpNotSyn)
        }
    }

    /// State of an entry learnt from the peer: nothing is known but its class.
    #[must_use]
    pub const fn inherited(class: Class) -> Self {
        Self {
            class,
            lenient: [true; 2],
        }
    }

    /// Takes note of a segment.
    ///
    /// # Errors
    /// The reason why it must not pass. Nothing has changed then.
    pub fn observe(
        &mut self,
        dir: Direction,
        segment: &TcpSegment,
        check_window: bool,
    ) -> Result<Outcome, Drop> {
        let _ = check_window;
        self.class = match (self.class, segment.flags) {
            (_, flags) if flags & (FIN | RST) != 0 => Class::Closing,
            (Class::Opening, flags) if flags & ACK != 0 && dir == Direction::Original => Class::Established,
            (class, _) => class,
        };
        Ok(Outcome {
            class: self.class,
            timeout: self.timeout(),
            refresh: true,
            reopened: false,
        })
    }

    /// Whether the sequence numbers of the sender in `dir` are still unproven, so that its segments pass unchecked.
    #[must_use]
    pub const fn is_lenient(&self, dir: Direction) -> bool {
        self.lenient[dir.index()]
    }

    /// Replicated class.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// Which lifetime applies.
    #[must_use]
    pub const fn timeout(&self) -> Timeout {
        match self.class {
            Class::Opening => Timeout::Opening,
            Class::Established => Timeout::Established,
            Class::Closing => Timeout::Closing,
        }
    }
}
