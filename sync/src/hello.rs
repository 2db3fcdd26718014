//! The first bytes of a connection: who connects, with which lane, speaking which versions.
//!
//! Written by the client as soon as the connection is made, read whole before anything else is looked at, and
//! answered with acceptance or a cause. Nothing else of a connection is read before its HELLO is accepted.

/// What a client says of itself (sync/PROTOCOL.md R-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest protocol version it speaks.
    pub versions: (u8, u8),
    /// Optional features it knows.
    pub features: u32,
    /// Its node id.
    pub node_id: u8,
    /// Number of this lane, below `lanes`, or [`crate::config::CONTROL_LANE`].
    pub lane: u8,
    /// Its lanes in all, without the control lane.
    pub lanes: u8,
    /// Number of this connection, never 0.
    pub incarnation: u32,
    /// Random number of its process.
    pub boot_id: u64,
    /// Its name.
    pub node_name: String,
}
