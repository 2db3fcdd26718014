//! What an entry carries for replication, whatever its kind.
//!
//! Born and ended with its entry. Emission and application write its version and digest; the slot's list and the dirty
//! list keep their links in it, so that neither needs memory of its own.

use crate::delta::Version;
use crate::protection::Kept;
use crate::slot::NIL;

/// What every replicated entry (conntrack, port block) carries for replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncState {
    /// Version at the last emission or application; zero when nobody was told yet.
    pub version: Version,
    /// Share in the slot's digest as of that version.
    pub digest: u64,
    /// Generation of the resync that last touched it on a receiver.
    pub stamp: u32,
    /// [`Slot::naming`](super::Slot::naming) under which all streams were told its handle; 0 when they weren't.
    pub named: u32,
    /// Next entry of the same kind in the slot's list.
    pub next: u32,
    /// Previous entry of the same kind in the slot's list; see [`Self::linked`].
    pub prev: u32,
    /// Next on the worker's dirty list.
    pub dirty_next: u32,
    /// On the dirty list.
    pub dirty: bool,
    /// Removed from lookup; waits only for its removal record to be emitted.
    pub dead: bool,
    /// Only its lifetime has to be told: a refresh will do.
    pub refresh_only: bool,
    /// Why no peer is told of it, if so: it has no version then, and no share in the digest.
    pub kept: Kept,
}

/// As `prev`: in no slot's list.
const UNLINKED: u32 = NIL - 1;

impl Default for SyncState {
    fn default() -> Self {
        Self {
            version: Version::default(),
            digest: 0,
            stamp: 0,
            named: 0,
            next: NIL,
            prev: UNLINKED,
            dirty_next: NIL,
            dirty: false,
            dead: false,
            refresh_only: false,
            kept: Kept::No,
        }
    }
}

impl SyncState {
    /// Whether any peer may know this entry.
    #[must_use]
    pub const fn emitted(&self) -> bool {
        self.version.counter != 0
    }

    /// As it is entered by another worker: in no list, and under a handle that nobody was told.
    pub(crate) const fn resettled(self) -> Self {
        Self {
            next: NIL,
            prev: UNLINKED,
            dirty_next: NIL,
            dirty: false,
            dead: false,
            named: 0,
            ..self
        }
    }

    /// In its slot's list.
    #[must_use]
    pub const fn linked(&self) -> bool {
        self.prev != UNLINKED
    }

    /// Is in no list any more; answers its neighbours.
    pub(super) const fn unlink(&mut self) -> (u32, u32) {
        let links = (self.next, self.prev);
        (self.next, self.prev) = (NIL, UNLINKED);
        links
    }
}

/// The two kinds of replicated entries; each has its own arena and its own list per slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Port blocks: walked first, since conntracks live in them.
    Block,
    /// Conntracks.
    Conntrack,
}

/// Gives list code access to the [`SyncState`] of one kind's arena.
pub trait Entries {
    /// The state of entry `id`.
    fn sync(&self, id: u32) -> &SyncState;
    /// The state of entry `id`, to change.
    fn sync_mut(&mut self, id: u32) -> &mut SyncState;
}
