//! The words of a role that passes from one live node to another: what nodes say to each other about it, how long they
//! wait for it, and how it ends. [`crate::role`] decides.
//!
//! ```text
//!   standby, ordered to be active     Asked(n) ──►
//!                                     ◄── Telling(n)
//!                                              active: drains (dataplane/src/drain.rs)
//!                                     ◄── Told(n)
//!   takes over, under a higher term ──►
//!                                              stands by
//! ```
//!
//! A switchover begins at the other end, and there is nothing left to ask for when the standby hears of it:
//!
//! ```text
//!                                              active, ordered to hand over: drains
//!   standby                           ◄── Invites(its node id)
//!   takes over, under a higher term ──►
//!                                              stands by
//! ```

use core::time::Duration;

/// How long a node that is told to stand by stays active for its peers' sake.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);

/// How long a node that asks waits for any answer at all: one that is dead, and not missed yet, gives none.
pub const ANSWER_MAX: Duration = Duration::from_millis(100);

/// How long a node that hands its role over waits for the peer to take it: an election with default timers takes up to a
/// second.
pub const TAKE_OVER_MAX: Duration = Duration::from_secs(3);

/// How long a node that has handed its role over redirects what still comes to it. Neighbours that have missed the
/// new node's first announcement are told again after half of it.
pub const REDIRECT_MAX: Duration = Duration::from_secs(1);

/// How long a node that was handed the role expects redirected packets before the first one has come: the former active node may
/// be slow to notice.
pub const EXPECT_MAX: Duration = Duration::from_millis(50);

/// What a node says to its peers about who is to be active (sync/PROTOCOL.md R-45, R-46). The number tells one wish from
/// the next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handover {
    /// Nothing.
    #[default]
    None,
    /// It is to be active, and asks the node that is to tell what it kept back.
    Asked(u8),
    /// It has told everything to whoever asked so.
    Told(u8),
    /// It was asked, and is telling.
    Telling(u8),
    /// The node of this id has everything, and is to take over.
    Invites(u8),
}

impl Handover {
    /// In eleven bits.
    #[must_use]
    pub const fn packed(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Asked(number) => 1 | (number as u32) << 3,
            Self::Told(number) => 2 | (number as u32) << 3,
            Self::Telling(number) => 3 | (number as u32) << 3,
            Self::Invites(node) => 4 | (node as u32) << 3,
        }
    }

    /// From [`Self::packed`].
    #[must_use]
    pub const fn unpacked(word: u32) -> Self {
        let [number, ..] = (word >> 3).to_le_bytes();
        match word & 7 {
            1 => Self::Asked(number),
            2 => Self::Told(number),
            3 => Self::Telling(number),
            4 => Self::Invites(number),
            _ => Self::None,
        }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainEnd {
    /// Every live peer has everything.
    Complete,
    /// No peer is there.
    Alone,
    /// A live peer lacked something after [`DRAIN_MAX`].
    Late,
    /// A peer with a higher term took over in the middle.
    Outranked,
    /// The order was taken back.
    Cancelled,
}

impl DrainEnd {
    /// One line for operators.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Complete => "the peers have everything that was kept back",
            Self::Alone => "no peer is there to be told what was kept back",
            Self::Late => "a peer has not acknowledged in time what was kept back",
            Self::Outranked => "a peer took over before it had been told everything",
            Self::Cancelled => "the order to stand by was taken back",
        }
    }
}
