//! A switchover as operators see it: where it goes, how far it is, how it ended.

use serde::{Deserialize, Serialize};

/// The switchover of an HA group that is under way here, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverReport {
    /// Group.
    pub group: String,
    /// Peer that is to take over.
    pub peer: String,
    /// How far it is.
    pub phase: SwitchoverPhase,
    /// How it ended, in a few words; empty while it is under way.
    pub end: String,
    /// From the order to the end, or to the phase that it is in.
    pub took_ms: u64,
}

/// How far a switchover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchoverPhase {
    /// The peer is being told what was kept back.
    Draining,
    /// The peer has everything, and is to take over.
    HandingOver,
    /// The peer has taken over.
    Done,
    /// The role has stayed here.
    RolledBack,
}

impl SwitchoverPhase {
    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::HandingOver => "handing-over",
            Self::Done => "done",
            Self::RolledBack => "rolled-back",
        }
    }

    /// Whether nothing more will come.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack)
    }
}
