//! Which ports this node may give out although its peer may be giving out ports as well.
//!
//! Two nodes that don't hear each other may both be active. So that they never give the same port to two flows, each has
//! one half of every port block and one half of the free blocks as its own. The role machine decides: while the peer
//! knows everything that is given out, the other half is used too, but last, so that what a dying node could no longer
//! tell is not in the heir's half. In doubt (the peer unseen, or a resync unfinished) the own half is all there is;
//! beyond it ports are *borrowed*, where the pool allows that.

use serde::{Deserialize, Serialize};

/// One of two halves of a thing, by its numbering: the lower ports of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Half {
    /// The lower numbers.
    Low = 0,
    /// The higher numbers.
    High = 1,
}

impl Half {
    /// The peer's, seen from the owner of this one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }
}

/// What of the ports is this node's to give out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Everything: no other node gives out ports of the same pools.
    #[default]
    Whole,
    /// Everything, the own half first: the peer knows what is given out.
    HalfFirst(Half),
    /// The own half: in doubt about what the peer gives out.
    HalfOnly(Half),
}

/// A half, or none for both at once.
pub(crate) type Part = Option<Half>;

const BOTH: Part = None;
const LOW: Part = Some(Half::Low);
const HIGH: Part = Some(Half::High);

impl Share {
    /// This node's half; none when it owns everything.
    #[must_use]
    pub const fn half(self) -> Part {
        match self {
            Self::Whole => None,
            Self::HalfFirst(half) | Self::HalfOnly(half) => Some(half),
        }
    }

    /// Whether another node may be giving out ports that this one doesn't know of.
    #[must_use]
    pub const fn is_in_doubt(self) -> bool {
        matches!(self, Self::HalfOnly(_))
    }

    /// Where ports and blocks are looked for: parts in order, in rounds. What the second round finds is borrowed.
    pub(crate) const fn rounds(self) -> &'static [&'static [Part]] {
        match self {
            Self::Whole => &[&[BOTH]],
            Self::HalfFirst(Half::Low) => &[&[LOW, HIGH]],
            Self::HalfFirst(Half::High) => &[&[HIGH, LOW]],
            Self::HalfOnly(Half::Low) => &[&[LOW], &[HIGH]],
            Self::HalfOnly(Half::High) => &[&[HIGH], &[LOW]],
        }
    }

    pub(crate) const fn to_u8(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::HalfFirst(half) => 2 | half as u8,
            Self::HalfOnly(half) => 4 | half as u8,
        }
    }

    pub(crate) const fn from_u8(word: u8) -> Self {
        let half = if word & 1 == 0 { Half::Low } else { Half::High };
        match word & 6 {
            0 => Self::Whole,
            2 => Self::HalfFirst(half),
            _ => Self::HalfOnly(half),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_survives_its_word_and_looks_into_its_own_half_first() {
        let halves = [Half::Low, Half::High];
        let shares = halves
            .into_iter()
            .flat_map(|h| [Share::HalfFirst(h), Share::HalfOnly(h)]);
        for share in shares.chain([Share::Whole]) {
            assert_eq!(Share::from_u8(share.to_u8()), share);
            assert_eq!(share.rounds()[0][0], share.half());
            assert_eq!(
                share.rounds().len(),
                1 + usize::from(share.is_in_doubt()),
                "{share:?}"
            );
        }
    }
}
