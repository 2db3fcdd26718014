//! What an event thread is told at start: who the peers are, which VRFs they share, and the timings.
//! Built once from the configuration by the process that starts the threads; the same copy for every thread.

use core::iter;
use core::net::IpAddr;
use core::time::Duration;

use dataplane::flow::VrfId;
use dataplane::owners::Owners;
use dataplane::share::{Half, Share};

use crate::fingerprint::Section;

/// Lane number of the connection that carries only heartbeats and VRF state (sync/PROTOCOL.md R-12).
pub const CONTROL_LANE: u8 = 255;

/// Everything that doesn't change while the process lives, but the fingerprint.
#[derive(Debug, Clone)]
pub struct SyncConfig {
    /// This node's id, 1 to 255.
    pub node_id: u8,
    /// This node's name, at most 64 bytes.
    pub node_name: String,
    /// Random number of this process: tells a restarted node from a reconnecting one.
    pub boot_id: u64,
    /// Worker threads W of this node.
    pub workers: u16,
    /// Event threads E of this node, at most 64: also its number of lanes to each peer.
    pub events: u16,
    /// Remote nodes; peers of several VRFs with equal addresses are one entry. At most 255.
    pub peers: Vec<SyncPeer>,
    /// All VRFs of this node; the index is the [`VrfId`].
    pub vrfs: Vec<SyncVrf>,
    /// Timings.
    pub timing: Timing,
}

/// A remote node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncPeer {
    /// Name for logs: that of the first VRF which names it.
    pub name: String,
    /// Our address of the connections.
    pub source: IpAddr,
    /// Its address.
    pub address: IpAddr,
    /// Another way to it, for the connections that the first one doesn't carry.
    pub second: Option<SyncLink>,
}

/// Both addresses of connections to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncLink {
    /// Ours.
    pub source: IpAddr,
    /// The peer's.
    pub address: IpAddr,
}

impl SyncPeer {
    /// The ways to it, the first one first.
    pub fn links(&self) -> impl Iterator<Item = SyncLink> {
        let first = SyncLink {
            source: self.source,
            address: self.address,
        };
        iter::once(first).chain(self.second)
    }
}

/// A VRF as replication sees it.
#[derive(Debug, Clone, Default)]
pub struct SyncVrf {
    /// Name: its identity towards peers, at most 64 bytes.
    pub name: String,
    /// Slot count S.
    pub slots: u16,
    /// Peers it is replicated with, by index; empty for a VRF that is not replicated.
    pub peers: Vec<u8>,
    /// Configuration fingerprint at start.
    pub sections: Vec<Section>,
    /// Conntracks this node has room for.
    pub capacity: u64,
}

/// Most slots that replicated VRFs may have together: what two bytes can tell apart on a connection.
pub const STREAMS_MAX: u32 = 1 << 16;

impl SyncConfig {
    /// What this node may give out of a VRF's ports, when it is in doubt or not. Of two nodes the one with the lower
    /// address on the sync link owns the lower half (sync/PROTOCOL.md R-70).
    #[must_use]
    pub fn share(&self, vrf: &SyncVrf, in_doubt: bool) -> Share {
        let peers = || {
            vrf.peers
                .iter()
                .filter_map(|peer| self.peers.get(usize::from(*peer)))
        };
        let half = if peers().all(|peer| peer.source < peer.address) {
            Half::Low
        } else {
            Half::High
        };
        match (peers().next(), in_doubt) {
            (None, _) => Share::Whole,
            (_, false) => Share::HalfFirst(half),
            (_, true) => Share::HalfOnly(half),
        }
    }

    /// How slots are dealt out to workers at start.
    #[must_use]
    pub fn owners(&self) -> Owners {
        let slots: Vec<u16> = self.vrfs.iter().map(|vrf| vrf.slots).collect();
        Owners::new(self.workers, self.events, &slots)
    }

    /// What this node calls slot 0 of a VRF on every connection; the VRF's others follow.
    #[must_use]
    pub fn first_stream(&self, vrf: VrfId) -> u16 {
        let before = self.vrfs.iter().take(vrf.index());
        let slots: u32 = before
            .filter(|v| !v.peers.is_empty())
            .map(|v| u32::from(v.slots))
            .sum();
        u16::try_from(slots).unwrap_or(u16::MAX)
    }
}

impl SyncVrf {
    /// Whether it is replicated with `peer`.
    #[must_use]
    pub fn has_peer(&self, peer: u8) -> bool {
        self.peers.contains(&peer)
    }
}

/// Timings of connections.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Longest wait of a record for company in its frame.
    pub flush: Duration,
    /// A connection idle for this long sends a heartbeat.
    pub heartbeat: Duration,
    /// A connection on which nothing was heard for this long is closed.
    pub dead: Duration,
    /// A handshake not finished within this time is given up.
    pub hello: Duration,
    /// A connection that takes no byte for this long, with bytes waiting, is closed.
    pub stall: Duration,
    /// The same where several peers are served: a peer that doesn't read must not hold up the others.
    pub stall_shared: Duration,
    /// First pause before connecting again; doubles up to `reconnect_max`.
    pub reconnect_min: Duration,
    /// Longest pause before connecting again.
    pub reconnect_max: Duration,
    /// First pause before a failed slot is sent again; doubles up to 64 times that.
    pub slot_retry: Duration,
    /// A slot whose end was sent this long ago without an answer is sent again.
    pub slot_answer: Duration,
}

impl Timing {
    /// Heartbeats in the time after which silence means death.
    const BEATS: u32 = 5;

    /// Notices death after another time than by default, which its peer has to know.
    #[must_use]
    pub fn noticing_after(self, dead: Duration) -> Self {
        Self {
            heartbeat: dead / Self::BEATS,
            dead,
            ..self
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            flush: Duration::from_micros(200),
            heartbeat: Duration::from_millis(200),
            dead: Duration::from_millis(1_000),
            hello: Duration::from_millis(2_000),
            stall: Duration::from_secs(10),
            stall_shared: Duration::from_millis(500),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_millis(2_000),
            slot_retry: Duration::from_millis(10),
            slot_answer: Duration::from_secs(10),
        }
    }
}
