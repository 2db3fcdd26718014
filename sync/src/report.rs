//! What an event thread has counted, as plain values for ctl and metrics. Filled on request, between two turns.
//! The five counters of the classic view are here under their names (transmit, transmit-error, build-error of a
//! client; receive, receive-error of the local node); the rest says what they hide.

use serde::{Deserialize, Serialize};

use crate::resync::{Generations, Resync};

/// One event thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PumpReport {
    /// Which one.
    pub event: u16,
    /// Our lanes, one per peer and, on event thread 0, one control lane per peer more.
    pub clients: Vec<ClientReport>,
    /// What peers send us.
    pub local_nodes: Vec<LocalReport>,
    /// Refused, closed and discarded, by cause; causes never seen are left out.
    pub causes: Vec<(String, u64)>,
    /// Records by type and direction, over all connections there ever were.
    pub operations: Vec<Operation>,
    /// Records taken from the workers' rings.
    pub records_taken: u64,
    /// Records of them that no lane took: their slot isn't open, or their connection is over.
    pub records_untaken: u64,
    /// Further copies of records that went to more than one peer.
    pub records_copied: u64,
    /// Packets redirected to this node and by it.
    #[serde(default)]
    pub redirects: RedirectReport,
    /// Events the reader was too slow for.
    pub events_lost: u64,
}

/// Packets that came to the node that isn't active, as an event thread has counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectReport {
    /// Taken from the workers' rings, for the active node.
    pub taken: u64,
    /// Of them, sent to it.
    pub sent: u64,
    /// Of them, given back to this node's workers, because it has become active itself.
    pub turned_back: u64,
    /// Of them, dropped: no peer is active and connected, or the active one doesn't take packets.
    pub unsent: u64,
    /// Come from peers.
    pub received: u64,
    /// Of them and of those turned back, handed to workers.
    pub handed_on: u64,
    /// Of them and of those turned back, dropped because a worker's ring was full.
    pub full: u64,
}

/// How often something was done, and with how many bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Direction and type of record, such as `send PUT`.
    pub name: String,
    /// Times.
    pub calls: u64,
    /// Bytes on the wire, before TLS, without frame headers.
    pub bytes: u64,
}

/// A lane of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Peer, by index.
    pub peer: u8,
    /// Lane number; 255 is the control lane.
    pub lane: u8,
    /// `connecting`, `handshake`, `established` or `down`.
    pub status: String,
    /// Number of the connection.
    pub incarnation: u32,
    /// Link of the connection or of the last one: 1 is the peer's first, 0 before there was any.
    pub link: u8,
    /// Connections that were made over another link than the one before.
    pub link_changes: u64,
    /// Connections lost since start.
    pub reconnects: u64,
    /// Why the last connection ended.
    pub last_down: Option<String>,
    /// Frames handed to the connection.
    pub frames_sent: u64,
    /// Frames the peer has applied.
    pub frames_acked: u64,
    /// Records handed to the connection.
    pub records_sent: u64,
    /// Records the peer has applied.
    pub records_acked: u64,
    /// Records in flight when their connection was lost.
    pub records_abandoned: u64,
    /// Records not yet applied.
    pub lag_records: u64,
    /// Age of the oldest frame not yet applied.
    pub lag_ms: u64,
    /// Records that the peer will take now.
    pub credit: u64,
    /// Bytes taken by the network.
    pub bytes_sent: u64,
    /// Bytes waiting for the network.
    pub bytes_queued: u64,
    /// Per VRF shared with the peer.
    pub vrfs: Vec<ClientVrfReport>,
}

/// One VRF on one lane of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientVrfReport {
    /// VRF, by index.
    pub vrf: u16,
    /// Whether this node streams the VRF to the peer.
    pub streaming: bool,
    /// Records sent.
    pub transmit: u64,
    /// Records whose connection died before they were applied, and records for slots not open.
    pub transmit_error: u64,
    /// Records that could not be encoded.
    pub build_error: u64,
    /// Slots of this lane.
    pub slots_total: u32,
    /// Slots whose last generation the peer has verified.
    pub slots_verified: u32,
    /// Slots that were streamed and need sending again.
    pub slots_dirty: u32,
    /// Newest generation.
    pub generation: u32,
    /// The last resync of these slots.
    pub resync: Resync,
    /// Generations that the peer has ended.
    #[serde(default)]
    pub generations: Generations,
    /// Digests sent of verified slots.
    #[serde(default)]
    pub digests: u64,
    /// Digests that were different at the peer.
    #[serde(default)]
    pub digest_mismatch: u64,
    /// Records the peer refused for a cause in its last generations.
    pub refused: u64,
}

/// What one peer sends us through this event thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalReport {
    /// Peer, by index.
    pub peer: u8,
    /// Lanes of the peer that are connected here.
    pub lanes: Vec<u8>,
    /// Frames received.
    pub frames: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Turns in which a worker's ring was full and reading waited.
    pub waits: u64,
    /// Per VRF shared with the peer.
    pub vrfs: Vec<LocalVrfReport>,
}

/// One VRF as received from one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalVrfReport {
    /// VRF, by index.
    pub vrf: u16,
    /// Records handed to workers.
    pub receive: u64,
    /// Records not handed on: malformed, of a slot not open, of a wrong direction.
    pub receive_error: u64,
    /// Slots verified on the connections that are up.
    pub slots_verified: u32,
    /// Slots that the peer has asked about or begun on them, and that are not verified.
    pub slots_awaited: u32,
    /// The last resync of what comes by them.
    pub resync: Resync,
    /// Generations that have ended here.
    #[serde(default)]
    pub generations: Generations,
    /// Digests that differed from what was applied here, or that lacking entries made worth another try.
    #[serde(default)]
    pub digest_mismatch: u64,
    /// Records refused by workers for a cause, in verified slots.
    pub refused: u64,
}
