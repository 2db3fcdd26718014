//! A slot of a VRF as its owner worker keeps it: term, counter, digests, the list of its entries, resync.

use crate::delta::Version;

/// No entry: end of an intrusive list.
pub const NIL: u32 = u32::MAX;

/// What every replicated entry (conntrack, port block) carries for replication. Owned by [`crate::slot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncState {
    /// Version at the last emission or application; zero when nobody was told yet.
    pub version: Version,
    /// Share in the slot's digest as of that version.
    pub digest: u64,
    /// Generation of the resync that last touched it on a receiver.
    pub stamp: u32,
    /// Next entry of the same kind in the slot's list.
    pub next: u32,
    /// Previous entry of the same kind in the slot's list.
    pub prev: u32,
    /// Next on the worker's dirty list.
    pub dirty_next: u32,
    /// On the dirty list.
    pub dirty: bool,
    /// Removed from lookup; waits only for its DEL to be emitted.
    pub dead: bool,
}

impl Default for SyncState {
    fn default() -> Self {
        Self {
            version: Version::default(),
            digest: 0,
            stamp: 0,
            next: NIL,
            prev: NIL,
            dirty_next: NIL,
            dirty: false,
            dead: false,
        }
    }
}
