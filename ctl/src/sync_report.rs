//! Replication as an operator sees it, per VRF: the tree of `show ha-fp-conntrack peer`, and the exact answer
//! to "is the standby equal to the active?" per slot. Filled by the data process from its event threads and
//! workers; same rules for serialization as [`crate::report`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::report::RoleState;

/// `show ha-fp-conntrack state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    /// VRF.
    pub vrf: String,
    /// Whether its conntracks are mirrored.
    pub enabled: bool,
    /// Group that drives its role.
    pub listen_ha_group: Option<String>,
    /// Role of this node.
    pub role: RoleState,
    /// Term of that role.
    pub term: u64,
    /// Why the role is what it is.
    pub cause: String,
    /// The peer isn't heard or lacks something: only this node's own half of the ports is given out.
    pub in_doubt: bool,
    /// Configured peers.
    pub peers: Vec<PeerAddress>,
}

/// A configured peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// Name.
    pub name: String,
    /// Own address of the lanes.
    pub source: IpAddr,
    /// The peer's address.
    pub address: IpAddr,
}

/// `show ha-fp-conntrack peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// VRF.
    pub vrf: String,
    /// Role of this node.
    pub role: RoleState,
    /// Term of that role.
    pub term: u64,
    /// One per peer.
    pub peers: Vec<PeerReport>,
}

/// A peer with the lanes to it and what comes from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Name.
    pub name: String,
    /// Own address of the lanes.
    pub source: IpAddr,
    /// The peer's address.
    pub address: IpAddr,
    /// One per event thread of this node.
    pub clients: Vec<ClientReport>,
    /// This node as receiver.
    pub local_node: LocalNodeReport,
    /// How far the peer is behind.
    pub lag: LagReport,
    /// Slots of the VRF towards this peer.
    pub slots: SlotsReport,
    /// The resync that runs, or the last one.
    pub resync: ResyncReport,
    /// Names of configuration sections whose fingerprint differs from the peer's.
    pub fingerprint_differs: Vec<String>,
}

/// Whether a lane is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionStatus {
    /// No connection; waiting to try again.
    Down,
    /// TCP connection in progress.
    Connecting,
    /// Greeting under way.
    Handshake,
    /// Records flow.
    Established,
    /// The other side refused, and why is in the log.
    Refused,
}

impl ConnectionStatus {
    /// The word in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Connecting => "connecting",
            Self::Handshake => "handshake",
            Self::Established => "established",
            Self::Refused => "refused",
        }
    }
}

/// Protection of a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneSecurity {
    /// Plain TCP.
    #[default]
    None,
    /// TLS 1.3; both ends have to prove their keys.
    Tls,
}

impl LaneSecurity {
    /// The word in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tls => "tls",
        }
    }
}

/// One lane of the VRF: a connection of an event thread to the peer's local node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// `event0`, `event1`, …
    pub name: String,
    /// Records of this VRF sent.
    pub transmit: u64,
    /// Records that couldn't be sent and leave their slot dirty.
    pub transmit_error: u64,
    /// Records that couldn't be built.
    pub build_error: u64,
    /// State of the connection.
    pub connection_status: ConnectionStatus,
    /// Protection of the connection.
    pub security: LaneSecurity,
}

/// This node's receiving end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNodeReport {
    /// Address it listens on.
    pub address: IpAddr,
    /// Records of this VRF received.
    pub receive: u64,
    /// Records refused or not understood.
    pub receive_error: u64,
}

/// What the peer has not yet acknowledged as applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagReport {
    /// Records sent and not acknowledged.
    pub records: u64,
    /// Age of the oldest of them, in microseconds.
    pub oldest_us: u64,
}

/// Slots of a VRF by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsReport {
    /// Slots there are.
    pub total: u32,
    /// Verified equal and streaming.
    pub in_sync: u32,
    /// Known to differ: waiting for a resync.
    pub dirty: u32,
    /// Being walked now.
    pub walking: u32,
}

/// Progress of a resync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncReport {
    /// Whether one runs.
    pub running: bool,
    /// Why it was started.
    pub reason: String,
    /// Slots verified.
    pub slots_done: u32,
    /// Slots it has to do.
    pub slots_total: u32,
    /// Records walked.
    pub records: u64,
    /// Entries swept at verified ends.
    pub swept: u64,
    /// How long it has taken so far, or took, in milliseconds.
    pub elapsed_ms: u64,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// Slot number.
    pub slot: u16,
    /// Worker that owns it.
    pub worker: u16,
    /// Event thread of its lane.
    pub event: u16,
    /// Term.
    pub term: u64,
    /// Counter: last version emitted (active) or applied (standby).
    pub counter: u64,
    /// Replicated entries.
    pub entries: u32,
    /// Digest of what was emitted (active) or applied (standby).
    pub digest: u64,
    /// Digest the peer last reported for the same counter.
    pub peer_digest: Option<u64>,
    /// Whether it is waiting for a resync.
    pub dirty: bool,
}
