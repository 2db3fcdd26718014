//! What an operator's longer jobs have come to: the comparison of two nodes' tables, a resync that was asked for, and slots that
//! went to other workers. Same rules for serialization as [`crate::report`].

use serde::{Deserialize, Serialize};

use crate::report::{FlowState, Tuple};

/// What is to be compared.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareWanted {
    /// VRF; none means every VRF that this node sends.
    pub vrf: Option<String>,
    /// Only this slot.
    pub slot: Option<u16>,
    /// Entry by entry also where count and digest are the same.
    pub all: bool,
    /// Slots that differ are sent again and compared once more.
    pub fix: bool,
}

/// `compare`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareReport {
    /// Whether it is over.
    pub finished: bool,
    /// Time it has taken, in milliseconds.
    pub elapsed_ms: u64,
    /// One per VRF and peer.
    pub parts: Vec<ComparedVrf>,
}

/// What a comparison says in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every slot was compared and is the same.
    Equal,
    /// Entries differ.
    Different,
    /// No difference was found, but not every slot could be compared.
    Unknown,
}

impl Verdict {
    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Unknown => "unknown",
        }
    }
}

impl CompareReport {
    /// The worst verdict of all parts; none of an unfinished one.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let any = |verdict| self.parts.iter().any(|part| part.verdict() == verdict);
        if any(Verdict::Different) {
            Verdict::Different
        } else if !self.finished || self.parts.is_empty() || any(Verdict::Unknown) {
            Verdict::Unknown
        } else {
            Verdict::Equal
        }
    }
}

/// A VRF compared with one peer.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedVrf {
    /// VRF.
    pub vrf: String,
    /// Peer.
    pub peer: String,
    /// Slots that are to be compared.
    pub slots_total: u32,
    /// Slots compared, or given up.
    pub slots_done: u32,
    /// Slots without a difference.
    pub slots_equal: u32,
    /// Entries that are the same on both nodes.
    pub entries_equal: u64,
    /// Entries that only this node has.
    pub only_here: u64,
    /// Entries that only the peer has.
    pub only_there: u64,
    /// Entries that both have, differently.
    pub different: u64,
    /// How many of those only here the peer lacks for a cause that it has counted, such as a full table.
    pub lacking: u64,
    /// The first thousand of the differences.
    pub differences: Vec<DifferenceRow>,
    /// Slots that could not be compared.
    pub undecided: Vec<UndecidedSlot>,
    /// What was found before slots were sent again; none when nothing was.
    pub repaired: Option<Repaired>,
}

impl ComparedVrf {
    /// What it says in one word.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        if self.only_here + self.only_there + self.different > 0 {
            Verdict::Different
        } else if self.undecided.is_empty() && self.slots_done == self.slots_total {
            Verdict::Equal
        } else {
            Verdict::Unknown
        }
    }
}

/// What a repair had to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Slots sent again.
    pub slots: u32,
    /// Entries that only this node had.
    pub only_here: u64,
    /// Entries that only the peer had.
    pub only_there: u64,
    /// Entries that both had, differently.
    pub different: u64,
}

/// A slot that could not be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndecidedSlot {
    /// Slot.
    pub slot: u16,
    /// Why.
    pub cause: String,
}

/// An entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// Its slot.
    pub slot: u16,
    /// What it is, and what names it.
    pub entry: EntryName,
    /// As this node has told it; none when only the peer has it.
    pub here: Option<EntryState>,
    /// As the peer holds it; none when only this node has it.
    pub there: Option<EntryState>,
}

/// What names an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryName {
    /// A conntrack, by its original direction.
    Conntrack {
        /// IANA protocol number.
        protocol: u8,
        /// Original direction.
        original: Tuple,
    },
    /// A port block, by its grant.
    Block {
        /// Grant.
        grant: u64,
        /// Subscriber, public address and first port.
        text: String,
    },
}

/// What a node says of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryState {
    /// Term of its last change.
    pub term: u64,
    /// Counter of its last change in its slot.
    pub counter: u64,
    /// State, of a conntrack.
    pub state: Option<FlowState>,
    /// Reply direction, of a conntrack.
    pub reply: Option<Tuple>,
    /// Grant of its port block, of a translated conntrack.
    pub grant: Option<u64>,
}

/// What is to go where.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceWanted {
    /// This slot, to this worker; none has them chosen by load.
    pub only: Option<SlotMove>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// A slot and the worker that it is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMove {
    /// VRF.
    pub vrf: String,
    /// Slot.
    pub slot: u16,
    /// Worker.
    pub to: u16,
}

/// `worker rebalance` and `worker move-slot`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceReport {
    /// Whether it is over.
    pub finished: bool,
    /// Nothing is moved.
    pub dry_run: bool,
    /// Time it has taken, in milliseconds.
    pub elapsed_ms: u64,
    /// What load was measured by.
    pub by: LoadMeasure,
    /// One per worker.
    pub workers: Vec<WorkerLoad>,
    /// In their order.
    pub moves: Vec<MoveRow>,
    /// Why nothing is moved, or no more.
    pub cause: Option<String>,
}

impl RebalanceReport {
    /// Slots that have arrived.
    #[must_use]
    pub fn moved(&self) -> usize {
        self.moves
            .iter()
            .filter(|m| m.outcome == MoveOutcome::Moved)
            .count()
    }

    /// Slots that have stayed where they were.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.moves
            .iter()
            .filter(|m| m.outcome == MoveOutcome::Failed)
            .count()
    }
}

/// What a slot's load is measured by.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMeasure {
    /// Nothing yet.
    #[default]
    None,
    /// Packets of live conntracks within a second.
    Packets,
    /// Conntracks, where there are hardly any packets or a VRF doesn't count them.
    Conntracks,
}

impl LoadMeasure {
    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Packets => "packets",
            Self::Conntracks => "conntracks",
        }
    }
}

/// A worker's share of all load.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLoad {
    /// Number.
    pub worker: u16,
    /// Slots that it had.
    pub slots: u32,
    /// Its load.
    pub load: u64,
    /// Its load when everything that is listed has moved.
    pub load_then: u64,
}

/// What has come of a move.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveOutcome {
    /// It is still to come.
    #[default]
    Planned,
    /// The slot has arrived.
    Moved,
    /// The slot has stayed where it was.
    Failed,
}

impl MoveOutcome {
    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Moved => "moved",
            Self::Failed => "failed",
        }
    }
}

/// A slot that is to go, or has gone.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRow {
    /// VRF.
    pub vrf: String,
    /// Slot.
    pub slot: u16,
    /// Worker that it has.
    pub from: u16,
    /// Worker that it is to have.
    pub to: u16,
    /// Its load.
    pub load: u64,
    /// What has come of it.
    pub outcome: MoveOutcome,
    /// Why it has stayed.
    pub cause: Option<String>,
    /// Conntracks that went with it.
    pub conntracks: u32,
    /// Time from the first question to its arrival, in microseconds.
    pub took_us: u64,
}

/// `resync`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncOutcome {
    /// Whether it is over.
    pub finished: bool,
    /// Time it has taken, in milliseconds.
    pub elapsed_ms: u64,
    /// Slots that this node sends again.
    pub slots_sent: u32,
    /// Slots that a peer was asked for.
    pub slots_asked: u32,
    /// Slots that are not verified yet.
    pub slots_open: u32,
    /// Records sent of these slots.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// Why it ended before all slots were verified.
    pub cause: Option<String>,
}
