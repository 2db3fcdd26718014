//! The lists of a slot's entries, one per kind, linked through the entries.
//!
//! An entry joins at the head when it is made and leaves when it ends. What goes through a list over many turns, a walk
//! or a listing, stands on its next entry and is moved on when that one leaves. It doesn't meet what joins meanwhile.

use crate::delta::{LaneTag, Version};
use crate::resync::Course;
use crate::slot::{Entries, Kind, NIL, Slot};

/// A slice-wise look at all entries of a slot that haven't changed since a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    /// Lane the mark came by; none on the node that has set it.
    pub lane: Option<LaneTag>,
    /// Of the mark.
    pub round: u32,
    /// Of the mark.
    pub version: Version,
    /// Kind being listed.
    pub kind: Kind,
    /// Next entry; what joins the list later is newer than the mark and stands before it.
    pub cursor: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Head(u32);

impl Default for Head {
    fn default() -> Self {
        Self(NIL)
    }
}

impl Slot {
    /// First entry of a kind.
    #[must_use]
    pub const fn first(&self, kind: Kind) -> u32 {
        self.heads[kind as usize].0
    }

    /// Puts an entry at the head of its kind's list, unless it is in it. Walks in progress don't meet it: its change is sent
    /// live.
    pub fn link(&mut self, kind: Kind, entries: &mut impl Entries, id: u32) {
        if entries.sync(id).linked() {
            return;
        }
        let head = &mut self.heads[kind as usize].0;
        let next = *head;
        if next != NIL {
            entries.sync_mut(next).prev = id;
        }
        let sync = entries.sync_mut(id);
        sync.next = next;
        sync.prev = NIL;
        *head = id;
        self.conntracks += u32::from(kind == Kind::Conntrack);
        if sync.emitted() {
            self.loose.remove(sync.digest);
        }
    }

    /// As [`Self::link`], for an entry that was in this list in another worker: it is accounted.
    pub(crate) fn relink(&mut self, kind: Kind, entries: &mut impl Entries, id: u32) {
        let digest = entries.sync(id).digest;
        if entries.sync(id).emitted() {
            self.loose.add(digest);
        }
        self.link(kind, entries, id);
    }

    /// Its entries are in another worker's memory.
    pub(crate) fn empty_lists(&mut self) {
        self.heads = Default::default();
        self.unlinked = self.unlinked.wrapping_add(self.conntracks);
        (self.conntracks, self.kept) = (0, 0);
    }

    /// Takes an entry off its list; a walk standing on it steps on.
    pub fn unlink(&mut self, kind: Kind, entries: &mut impl Entries, id: u32) {
        if !entries.sync(id).linked() {
            return;
        }
        self.unlinked = self.unlinked.wrapping_add(1);
        self.conntracks -= u32::from(kind == Kind::Conntrack);
        let (next, prev) = {
            let sync = entries.sync_mut(id);
            if sync.emitted() {
                self.loose.add(sync.digest);
            }
            sync.unlink()
        };
        if prev == NIL {
            self.heads[kind as usize].0 = next;
        } else {
            entries.sync_mut(prev).next = next;
        }
        if next != NIL {
            entries.sync_mut(next).prev = prev;
        }
        for walk in &mut self.walks {
            if let Course::Entries { kind: k, cursor } = &mut walk.course
                && *k == kind
                && *cursor == id
            {
                *cursor = next;
            }
        }
        if let Some(listing) = &mut self.listing
            && listing.kind == kind
            && listing.cursor == id
        {
            listing.cursor = next;
        }
    }

    /// Starts a list of all entries as of a mark.
    pub fn list(&mut self, lane: Option<LaneTag>, round: u32, version: Version) {
        self.listing = Some(Listing {
            lane,
            round,
            version,
            kind: Kind::Block,
            cursor: self.first(Kind::Block),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resync::Walk;
    use crate::slot::SyncState;

    struct Arena(Vec<SyncState>);

    impl Entries for Arena {
        fn sync(&self, id: u32) -> &SyncState {
            &self.0[id as usize]
        }
        fn sync_mut(&mut self, id: u32) -> &mut SyncState {
            &mut self.0[id as usize]
        }
    }

    fn lane() -> LaneTag {
        LaneTag {
            peer: 0,
            lane: 0,
            incarnation: 1,
        }
    }

    fn listed(slot: &Slot, arena: &Arena) -> Vec<u32> {
        let mut ids = vec![];
        let mut at = slot.first(Kind::Conntrack);
        while at != NIL {
            ids.push(at);
            at = arena.sync(at).next;
        }
        ids
    }

    #[test]
    fn removing_the_entry_under_a_walk_moves_the_walk_on() {
        let mut arena = Arena(vec![SyncState::default(); 4]);
        let mut slot = Slot::default();
        for id in 0..4 {
            slot.link(Kind::Conntrack, &mut arena, id);
        }
        assert_eq!(listed(&slot, &arena), [3, 2, 1, 0]);
        slot.walks.push(Walk {
            lane: lane(),
            generation: 1,
            offer: None,
            course: Course::Entries {
                kind: Kind::Conntrack,
                cursor: 2,
            },
        });
        slot.unlink(Kind::Conntrack, &mut arena, 2);
        let course = Course::Entries {
            kind: Kind::Conntrack,
            cursor: 1,
        };
        assert_eq!(slot.walks[0].course, course);
        slot.unlink(Kind::Conntrack, &mut arena, 3);
        slot.unlink(Kind::Conntrack, &mut arena, 0);
        assert_eq!(listed(&slot, &arena), [1]);
    }
}
