//! `show sync`: replication of a whole node at a glance, and what it has done: lanes, operations with their rates, the
//! equations that all counters satisfy, and which flows a failover would lose. Same rules for serialization as
//! [`crate::report`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::report::{Count, RoleState};
use crate::sync_report::{ConnectionStatus, LaneSecurity};

/// `show sync`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncOverview {
    /// Mirrored VRFs.
    pub vrfs: Vec<SyncVrf>,
    /// This node's lanes.
    pub lanes: Vec<LaneRow>,
    /// What comes in over the peers' lanes, a row per event thread.
    pub incoming: Vec<IncomingRow>,
    /// Records that workers refused, and what event threads refused or closed, by cause; only what has happened.
    pub refused: Vec<Count>,
}

/// A mirrored VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncVrf {
    /// VRF.
    pub vrf: String,
    /// Role of this node.
    pub role: RoleState,
    /// Term of that role.
    pub term: u64,
    /// Whether this node could take over now.
    pub ready: bool,
    /// The one thing that keeps it from being what it should be; empty when there is none.
    pub cause: String,
    /// Peers.
    pub peers: Vec<SyncPeer>,
}

/// Which way the state of a VRF flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the peer.
    Sends,
    /// From the peer.
    Receives,
    /// Neither way.
    Nothing,
}

impl Direction {
    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sends => "sends",
            Self::Receives => "receives",
            Self::Nothing => "nothing",
        }
    }
}

/// A VRF at a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPeer {
    /// Name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Role it has announced; none while it is not connected.
    pub role: Option<RoleState>,
    /// Term it has announced.
    pub term: u64,
    /// Whether it has announced that it could take over.
    pub ready: bool,
    /// Which way state flows, seen from this node.
    pub direction: Direction,
    /// Why it flows neither way; empty otherwise.
    pub direction_cause: String,
    /// Sections of the configuration that both nodes compare.
    pub sections: Vec<SectionRow>,
    /// Slots of the VRF.
    pub slots_total: u32,
    /// Slots that the receiver has verified since its lanes are up.
    pub slots_verified: u32,
    /// Slots that are to be sent again.
    pub slots_dirty: u32,
    /// The last resync that this node has sent.
    pub resync: SyncResync,
    /// The last one that it has received: its own count, not the peer's.
    pub resync_received: SyncResync,
    /// Digests of verified slots that were compared in the stream.
    pub digests: u64,
    /// Of those, how many differed.
    pub digests_different: u64,
}

/// A section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionRow {
    /// Name.
    pub name: String,
    /// Whether it is the same on both nodes; none while the peer hasn't said.
    pub equal: Option<bool>,
}

/// The last resync as one end of its lanes has counted it, and what became of the slots of all there were.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncResync {
    /// How it stands; none when there was none.
    pub state: Option<ResyncState>,
    /// Why it was begun; empty when there was none.
    pub reason: String,
    /// Slots of it that the receiver has verified so far.
    pub slots: u64,
    /// Records of them that the receiver refused.
    pub refused: u64,
    /// Records sent meanwhile.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// Time it takes or took, in milliseconds.
    pub elapsed_ms: u64,
    /// Resyncs completed since start, over all lanes.
    pub completed: u64,
    /// Slots ever verified without sending anything: the receiver held the same.
    pub slots_equal: u64,
    /// Slots ever verified by sending what was newer.
    pub slots_caught_up: u64,
    /// Slots ever verified by sending them whole.
    pub slots_whole: u64,
    /// Slots that the receiver could not verify.
    pub slots_failed: u64,
}

/// How a resync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncState {
    /// Slots of it are not verified yet.
    Running,
    /// All were verified.
    Complete,
    /// A connection was lost, or the direction turned, before all were.
    Interrupted,
}

impl ResyncState {
    /// The word in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A lane in one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    /// Event thread.
    pub event: u16,
    /// Peer.
    pub peer: String,
    /// Whether it is the control lane, which carries heartbeats alone.
    pub control: bool,
    /// State of the connection.
    pub status: ConnectionStatus,
    /// Protection of the connection.
    pub security: LaneSecurity,
    /// Number of the connection.
    pub incarnation: u32,
    /// Link of the connection or of the last one: 1 or 2; 0 before there was any.
    pub link: u8,
    /// Connections that were made over another link than the one before.
    pub link_changes: u64,
    /// Connections lost since start.
    pub reconnects: u64,
    /// Why the last one ended; empty when none did.
    pub last_down: String,
    /// Records sent.
    pub sent: u64,
    /// Records that the peer has applied.
    pub applied: u64,
    /// Records in flight when their connection was lost.
    pub abandoned: u64,
    /// Entries that the peer had to refuse for a cause, in all slots that it has verified since start. Its own view names
    /// the causes.
    pub refused: u64,
    /// Changes folded into one that was waiting for the event thread, before it had a record: what its lanes have in
    /// common, whatever the peer; 0 for a control lane.
    pub coalesced: u64,
    /// Records sent and not applied yet.
    pub lag_records: u64,
    /// Age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
    /// Records that the peer will take now.
    pub credit: u64,
    /// Bytes that the network has taken.
    pub bytes: u64,
    /// Bytes that wait for the network.
    pub unsent_bytes: u64,
}

/// Records that came by one event thread and were refused by workers, by cause, since start.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingRow {
    /// Event thread.
    pub event: u16,
    /// Lanes of peers that are connected to it now, without control lanes.
    pub lanes: Vec<IncomingLane>,
    /// By cause: `stale` (version not newer), `fenced` (from a term, lane or generation that is over), `full` (table full),
    /// `conflict` (tuple or port belongs to somebody else), `no-pool` (no such pool or block here), `unknown` (names an entry
    /// that is not here).
    pub refused: Vec<Count>,
}

/// A peer's lane, as its receiver names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingLane {
    /// Peer.
    pub peer: String,
    /// Number of the lane at the peer.
    pub lane: u8,
}

/// An operation in one row of `show sync operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    /// What was done: by whom or in which direction, then the operation.
    pub name: String,
    /// Times since start.
    pub calls: u64,
    /// Bytes since start; 0 where nothing is measured in bytes.
    pub bytes: u64,
    /// Times per second over the last second; none until it has passed.
    pub per_s_1: Option<u64>,
    /// Times per second over the last ten seconds.
    pub per_s_10: Option<u64>,
    /// Times per second over the last minute.
    pub per_s_60: Option<u64>,
}

impl OperationRow {
    /// Bytes per call.
    #[must_use]
    pub const fn average(&self) -> u64 {
        match self.bytes.checked_div(self.calls) {
            Some(average) => average,
            None => 0,
        }
    }

    /// First word of the name: rows with the same one are parts of one whole.
    #[must_use]
    pub fn group(&self) -> &str {
        self.name.split(' ').next().unwrap_or("")
    }
}

/// An equation of `show sync conservation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConservationRow {
    /// What was counted.
    pub whole: Count,
    /// What became of it.
    pub parts: Vec<Count>,
    /// What is under way between threads; negative would be a fault.
    pub under_way: i64,
    /// Whether nothing is missing and nothing too much.
    pub holds: bool,
}

/// A VRF in `show protection`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionRow {
    /// VRF.
    pub vrf: String,
    /// Role of this node; only the active node has flows to protect.
    pub role: RoleState,
    /// Tracked connections.
    pub flows: u64,
    /// Those that a peer was told of, over a lane that is up.
    pub protected: u64,
    /// The others, by reason: `delay` (younger than their rule's `sync = "after …"`), `no-sync` (`sync = "never"`),
    /// `no-peer` (nobody is connected for their slot, or it is still being sent), `overload` (held back).
    pub unprotected: Vec<Count>,
}
