//! A slot of a VRF as its owner worker keeps it: version, digest, the list of its entries, and the resync
//! going out of it or coming into it.
//!
//! Born with the worker, one per (VRF, slot) the worker owns; lives as long as the process. Only the owner
//! touches it. On the sending side the worker walks a slot when a lane asks for it and streams
//! every later change; on the receiving side a begin opens a generation, records are stamped with it, and
//! only an end whose count and digest add up lets what was not stamped be swept (DESIGN.md, "Resync").

mod digest;
mod entry;
mod list;
mod owned;

use core::mem::offset_of;

use arrayvec::ArrayVec;

pub use self::digest::{block_digest, block_key_digest, conntrack_digest, key_digest};
pub(crate) use self::digest::{ports_word, tuples_digest};
pub use self::entry::{Entries, Kind, SyncState};
use self::list::Head;
pub use self::list::Listing;
pub use self::owned::Slots;
use crate::delta::{LaneTag, Term, Version};
use crate::history::History;
use crate::resync::{Absent, Incoming, Sum, Walk};

/// No entry: end of an intrusive list.
pub const NIL: u32 = u32::MAX;

/// Lanes that may stream one slot at the same time: one per peer.
pub const PEERS_MAX: usize = 4;

/// One slot. What a change of an entry touches stands in the first three lines, and a burst asks for them ahead: its
/// changes are of as many slots as it has packets.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// Version of the last change emitted or applied (I1: only grows).
    pub version: Version,
    /// Sum of the digests of all entries a peer holding this version holds.
    pub digest: u64,
    /// Number of those entries.
    pub count: u32,
    /// Generation of the latest begin, on whatever lane: entries named before it may be unknown to a stream by name.
    pub naming: u32,
    /// What of it belongs to entries that have left their list and only wait for their removal record.
    pub loose: Sum,
    heads: [Head; 2],
    /// Conntracks in its list.
    pub conntracks: u32,
    /// Those of them that no peer is told of.
    pub kept: u32,
    /// What of its own writing can be told again.
    pub history: History,
    /// Lanes this slot is streamed to.
    pub streams: ArrayVec<LaneTag, PEERS_MAX>,
    /// Entries that have left its lists, ever: a look that takes many turns notices by it.
    pub unlinked: u32,
    /// Walks asked for; the first is running.
    pub walks: ArrayVec<Walk, PEERS_MAX>,
    /// The list of its entries that a comparison is making.
    pub listing: Option<Listing>,
    /// What the sender holds and this node, for a known cause, doesn't.
    pub absent: Absent,
    /// Version up to which an unfinished resync found this slot complete; none when no resync is unfinished.
    pub base: Option<Version>,
    /// It has changes that were never given a version, or lacks what its version stands for: only a walk of the whole slot
    /// finds that.
    pub untold: bool,
    /// Its connection has ended in the middle of a walk of the whole slot: the next one begins anew.
    pub cut_short: bool,
    /// This node has written the slot itself since it was last verified: it may hold what nobody was told.
    pub own_hand: bool,
    /// Counter of the last record that was refused here.
    pub refused: u64,
    /// Lane whose records are accepted, and the generation it opened.
    pub source: Option<Incoming>,
    /// Makes a slot an odd number of lines long. With an even one, the first lines of all slots would share a few sets
    /// of the caches and drive each other out.
    _odd: [u64; LINE / 8],
}

/// Bytes of a cache line.
const LINE: usize = 64;

const _: () = assert!(offset_of!(Slot, streams) + size_of::<u32>() <= 3 * LINE);
const _: () = assert!(size_of::<Slot>() / LINE % 2 == 1);

impl Slot {
    /// Takes the next version under `term` for a change that is being emitted.
    pub fn next_version(&mut self, term: Term) -> Version {
        self.write_under(term);
        self.version.counter += 1;
        self.version
    }

    /// This node writes the slot under `term` from here on.
    pub fn write_under(&mut self, term: Term) {
        let before = self.version;
        self.version.term = before.term.max(term);
        if !self.history.is_own() {
            // What was not taken over whole is no point that a peer could hold.
            let whole = self.base.is_none() && self.absent.sum.count == 0;
            let point = if whole { before } else { self.version };
            self.history.begin(point, self.base.unwrap_or(before));
        } else if self.version.term > before.term {
            self.history.turn(before);
        }
    }

    /// Accounts an entry as a peer at `version` of this slot holds it.
    pub fn account(&mut self, sync: &mut SyncState, version: Version, digest: u64) {
        self.unaccount(sync);
        sync.version = version;
        sync.digest = digest;
        self.digest = self.digest.wrapping_add(digest);
        self.count += 1;
        if !sync.linked() {
            self.loose.add(digest);
        }
    }

    /// Takes an entry that is gone out of the account.
    pub fn unaccount(&mut self, sync: &mut SyncState) {
        if sync.emitted() {
            self.digest = self.digest.wrapping_sub(sync.digest);
            self.count -= 1;
            if !sync.linked() {
                self.loose.remove(sync.digest);
            }
            sync.version = Version::default();
        }
    }

    /// This node was active and no longer is: see [`Slots::demoted`]. Gives where the stream came from that it had closed.
    pub(crate) fn demoted(&mut self) -> Option<Incoming> {
        self.own_hand = true;
        // What it lacked as a standby it lacks still, but counts no longer. Where nothing was written since, its version is
        // that of the node that had written it, and says more than is here.
        self.untold |= self.absent.sum.count > 0 && !self.history.is_own();
        self.absent.clear();
        self.source.take()
    }

    /// What a receiver holds of the sender's entries, together with what it lacks for a known cause: what the sender
    /// must say it has emitted.
    #[must_use]
    pub const fn held(&self) -> Sum {
        Sum {
            count: self.count - self.loose.count + self.absent.sum.count,
            digest: self
                .digest
                .wrapping_sub(self.loose.digest)
                .wrapping_add(self.absent.sum.digest),
        }
    }

    /// An entry that is accounted got lost on its way.
    pub(crate) const fn write_off(&mut self, sync: &SyncState) {
        if sync.emitted() {
            self.digest = self.digest.wrapping_sub(sync.digest);
            self.count -= 1;
        }
    }

    /// Whether every stream knows the entry by its handle.
    #[must_use]
    pub const fn is_named(&self, sync: &SyncState) -> bool {
        self.naming != 0 && sync.named == self.naming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_continue_under_a_new_term_and_never_fall_back() {
        let mut slot = Slot::default();
        let first = slot.next_version(Term(257));
        let second = slot.next_version(Term(514));
        let third = slot.next_version(Term(257));
        assert!(first < second && second < third, "{first:?} {second:?} {third:?}");
        assert_eq!(third.term, Term(514));
        assert_eq!(third.counter, 3);
    }
}
