//! What decides: what is wanted of this node, how its peers are, and for both together the next role.
//!
//! The table is the whole of it; [`super`] says which row applies, and sees to what a change of roles brings with it.

use std::borrow::Cow;

use dataplane::role::Role;
use serde::{Deserialize, Serialize};

/// What configuration or an operator wants of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desire {
    /// Stand by.
    Backup,
    /// Be active when nobody else is: the configured `state = "master"`, and what is left of an order once it
    /// has been carried out. Were an order kept for ever, two ordered nodes would demote one another in turn.
    Preferred,
    /// Take over from whoever is active: `set … state master` at run time.
    Ordered,
}

/// The peers of a VRF in one word: the first that applies, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Situation {
    /// A live peer holds state that this node lacks.
    Importing,
    /// A live peer is master, and has invited this node to take over.
    Invited,
    /// A peer has not been heard since boot, and the boot wait is not over.
    Waiting,
    /// A peer was heard and is gone, less than the boot wait ago.
    Lost,
    /// This node is about to give the role up, and a live peer lacks something that it can still be told.
    Untold,
    /// A live peer is master, and was asked, not long ago, to tell what it kept back.
    Telling,
    /// A live peer is master.
    Active,
    /// Nobody is in the way.
    Free,
}

/// The one thing that keeps a node from being what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Booted, and a configured peer has not been heard yet.
    WaitingForPeer,
    /// A peer's slots are being imported.
    ImportUnfinished,
    /// Ordered to be master, but a live peer's slots are still being imported.
    MasterPending,
    /// Prefers to be master, but a peer is.
    PeerActive,
    /// A peer with a higher term took over.
    Outranked,
    /// About to give the role up: the peers are being told what was kept back.
    Draining,
    /// Ordered to be master, and the peer that is tells what it kept back.
    PeerTelling,
    /// A switchover is under way: the peer has everything, and is to take over.
    HandingOver,
    /// A must-equal section of the configuration, or the slot count, differs from the peer's.
    ConfigDiffers,
    /// Not every lane is up.
    LanesDown,
    /// Told flows whose packets need so many next hops that aren't known yet; none while workers still look.
    Neighbors(Option<u32>),
}

impl Cause {
    /// One line for operators.
    #[must_use]
    pub fn text(self) -> Cow<'static, str> {
        let fixed = match self {
            Self::WaitingForPeer => "booted; waiting for a peer to answer",
            Self::ImportUnfinished => "importing from a peer",
            Self::MasterPending => "master ordered; import from a live peer unfinished",
            Self::PeerActive => "prefers master; a peer is active",
            Self::Outranked => "demoted by a peer with a higher term",
            Self::Draining => {
                "draining: about to hand the role over; peers are being told what was kept back"
            }
            Self::PeerTelling => "master ordered; the active peer is telling what it kept back",
            Self::HandingOver => "switchover: the peer has everything and is to take over",
            Self::ConfigDiffers => "configuration differs from the peer's in a section that must be equal",
            Self::LanesDown => "not every sync lane is up",
            Self::Neighbors(None) => "neighbors: flows are being looked at",
            Self::Neighbors(Some(missing)) => return format!("neighbors: {missing} unresolved").into(),
        };
        fixed.into()
    }
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    role: Role,
    desire: Option<Desire>,
    situation: Option<Situation>,
    next: Role,
    cause: Option<Cause>,
}

const fn row(
    role: Role,
    desire: Option<Desire>,
    situation: Option<Situation>,
    next: Role,
    cause: Option<Cause>,
) -> Row {
    Row {
        role,
        desire,
        situation,
        next,
        cause,
    }
}

/// The machine: the first row that matches decides; a missing desire or situation matches every one. A row that
/// leaves fault is followed by one for backup in the same step.
const TABLE: &[Row] = &{
    use Desire::{Backup as WantBackup, Ordered, Preferred};
    use Role::{Backup, Fault, Master};
    use Situation::{Active, Importing, Invited, Lost, Telling, Untold, Waiting};
    [
        row(
            Fault,
            Some(Ordered),
            Some(Importing),
            Fault,
            Some(Cause::MasterPending),
        ),
        row(Fault, None, Some(Importing), Fault, Some(Cause::ImportUnfinished)),
        row(Fault, None, Some(Waiting), Fault, Some(Cause::WaitingForPeer)),
        // A peer that died in the middle of the import overrides at once, if an operator says so.
        row(Fault, Some(Ordered), Some(Lost), Backup, None),
        row(Fault, None, Some(Lost), Fault, Some(Cause::WaitingForPeer)),
        row(Fault, None, None, Backup, None),
        row(
            Backup,
            Some(Ordered),
            Some(Importing),
            Backup,
            Some(Cause::MasterPending),
        ),
        row(
            Backup,
            None,
            Some(Importing),
            Backup,
            Some(Cause::ImportUnfinished),
        ),
        row(Backup, None, Some(Invited), Master, None),
        row(Backup, Some(WantBackup), None, Backup, None),
        row(
            Backup,
            Some(Preferred),
            Some(Active),
            Backup,
            Some(Cause::PeerActive),
        ),
        row(Backup, None, Some(Telling), Backup, Some(Cause::PeerTelling)),
        row(Backup, None, None, Master, None),
        row(Master, None, Some(Importing), Backup, Some(Cause::Outranked)),
        row(Master, None, Some(Untold), Master, Some(Cause::Draining)),
        row(Master, Some(WantBackup), None, Backup, None),
        row(Master, None, None, Master, None),
    ]
};

/// The next role, and what is in the way.
pub(super) fn decide(role: Role, desire: Desire, situation: Situation) -> (Role, Option<Cause>) {
    TABLE
        .iter()
        .find(|r| {
            r.role == role
                && r.desire.is_none_or(|d| d == desire)
                && r.situation.is_none_or(|s| s == situation)
        })
        .map_or((role, None), |r| (r.next, r.cause))
}
