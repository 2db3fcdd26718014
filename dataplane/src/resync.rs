//! A slot's resync, seen from both ends: the walk that sends it, the generation that takes it in, and what is missing
//! at the receiver although everything is in order.
//!
//! A [`Walk`] is born when an event thread asks for a slot and dies with the slot's end. An [`Incoming`] is born with a
//! begin and lives on after the end, because live records belong to it too. [`Absent`] is kept between generations:
//! digests could not be compared otherwise.

use arrayvec::ArrayVec;

use crate::delta::{Handle, LaneTag, SlotEnd, SlotOffer, Term, Version};
use crate::history::Pass;
use crate::slot::Kind;

/// Absent entries remembered one by one, so that their removal is understood.
const ABSENT_KEPT: usize = 32;

/// Seconds before what is absent is asked for: first, and at most.
const PAUSE_MIN_S: u32 = 1;
const PAUSE_MAX_S: u32 = 64;

/// A number of entries and the sum of their digests: order-free, so that it can be kept up with every change.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Entries.
    pub count: u32,
    /// Wrapping sum of their digests.
    pub digest: u64,
}

impl Sum {
    /// Takes an entry in.
    pub const fn add(&mut self, digest: u64) {
        self.count += 1;
        self.digest = self.digest.wrapping_add(digest);
    }

    /// Takes an entry out.
    pub const fn remove(&mut self, digest: u64) {
        self.count -= 1;
        self.digest = self.digest.wrapping_sub(digest);
    }
}

/// A resync going out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// To whom.
    pub lane: LaneTag,
    /// Generation.
    pub generation: u32,
    /// What the receiver said it holds; none when the whole slot was asked for.
    pub offer: Option<SlotOffer>,
    /// How far it is.
    pub course: Course,
}

/// How far a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Its begin is still to be emitted.
    Asked,
    /// The whole slot: the next entry to visit.
    Entries {
        /// Kind being walked.
        kind: Kind,
        /// Next entry.
        cursor: u32,
    },
    /// What is newer than the receiver's version, in the order of the passes: the next record of the journal to visit.
    Changes {
        /// Counter of the receiver's version.
        after: u64,
        /// Newest record of the slot when the walk began.
        newest: u64,
        /// What is being sent.
        pass: Pass,
        /// Sequence of the next record.
        sequence: u64,
    },
    /// Everything was visited; entries with a change still listed were passed by.
    Visited,
    /// The receiver held the same: nothing was visited.
    Equal,
}

/// A resync coming in, and the stream of live records after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// From whom.
    pub lane: LaneTag,
    /// Event thread that its answers go through.
    pub event: usize,
    /// Generation.
    pub generation: u32,
    /// Between begin and end.
    pub open: bool,
    /// Only what is newer than this comes; nothing is swept. None when the whole slot comes.
    pub since: Option<Version>,
    /// The sender's term is higher than this slot's was: its word counts even where ours looks newer (an
    /// unsent tail of a demoted node).
    pub authoritative: bool,
    /// Term of the begin.
    pub term: Term,
}

/// Entries that the sender holds and this node doesn't, for a cause that was counted: refused, or evicted by a newer
/// grant whose own removal is still on its way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Absent {
    /// How many, and their digests.
    pub sum: Sum,
    /// More than can be remembered were absent, and one of those may have changed: the sum can't be trusted.
    pub unsure: bool,
    /// When the first of them became absent, in seconds of this node.
    pub since_s: u32,
    /// Not asked for before this second.
    ask_at_s: u32,
    /// Seconds until they are asked for again.
    pause_s: u32,
    /// Beside the slot, not in it: these would be most of a slot's memory, and few slots have any.
    known: Box<ArrayVec<Missing, ABSENT_KEPT>>,
}

/// An absent entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Digest of its key.
    pub key: u64,
    /// What its sender calls it.
    pub handle: Handle,
    /// Its share in the slot's digest.
    pub digest: u64,
    /// Its version.
    pub version: Version,
    /// It was refused for want of room.
    pub for_room: bool,
    /// It has changed since: digest is that of an older version.
    pub outdated: bool,
}

impl Absent {
    /// Bytes that are held beside the slot.
    pub(crate) const BYTES_BESIDE: usize = size_of::<ArrayVec<Missing, ABSENT_KEPT>>();

    /// Nothing is absent any more, or what is will be told anew.
    pub fn clear(&mut self) {
        let Self {
            sum,
            unsure,
            since_s,
            ask_at_s,
            pause_s,
            known,
        } = self;
        *sum = Sum::default();
        *unsure = false;
        (*since_s, *ask_at_s, *pause_s) = (0, 0, 0);
        known.clear();
    }

    /// An entry is not here and should be.
    pub fn insert(&mut self, missing: Missing, now_s: u32) {
        // A resent record replaces its older self.
        self.drop_known(missing.key);
        if self.sum.count == 0 {
            self.since_s = now_s;
            self.ask_at_s = now_s + PAUSE_MIN_S;
            self.pause_s = PAUSE_MIN_S;
        }
        self.sum.add(missing.digest);
        // One that no longer fits is merely not remembered: see `remove`.
        let _ = self.known.try_push(missing);
    }

    /// The sender has removed an entry that isn't here: either it was absent, or the sender removed it before the
    /// generation began. A removal older than what is absent is of an entry before it.
    pub fn remove(&mut self, key: u64, version: Version) {
        if self.known.iter().any(|m| m.key == key && m.version > version) {
            return;
        }
        if !self.drop_known(key) && self.forgotten() {
            self.unsure = true;
        }
    }

    /// As [`Self::remove`], of what the sender calls by `handle`: it has named nothing older by it.
    pub fn remove_named(&mut self, handle: Handle) {
        match self.known.iter().find(|m| m.handle == handle).map(|m| m.key) {
            Some(key) => _ = self.drop_known(key),
            None => self.unsure |= self.forgotten(),
        }
    }

    /// The sender has changed an entry that isn't here, in a way that only its holder could follow: it has to be told
    /// whole, if only to be refused again. False when none of the absent ones can be meant.
    pub fn change(&mut self, handle: Handle, version: Version) -> bool {
        let Some(missing) = self.known.iter_mut().find(|m| m.handle == handle) else {
            self.unsure |= self.forgotten();
            return self.unsure;
        };
        (missing.version, missing.outdated) = (version, true);
        self.ask_at_s = 0;
        true
    }

    /// An entry came after all.
    pub fn take(&mut self, key: u64) -> bool {
        let came = self.drop_known(key);
        if came {
            self.pause_s = PAUSE_MIN_S;
        }
        came
    }

    fn drop_known(&mut self, key: u64) -> bool {
        let Some(at) = self.known.iter().position(|m| m.key == key) else {
            return false;
        };
        let missing = self.known.swap_remove(at);
        self.sum.remove(missing.digest);
        true
    }

    /// Whether the sum can't be trusted at present.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.unsure || self.known.iter().any(|m| m.outdated)
    }

    /// Those that are remembered one by one.
    #[must_use]
    pub fn known(&self) -> &[Missing] {
        &self.known
    }

    /// Whether it is time to ask for them.
    #[must_use]
    pub fn is_due(&self, now_s: u32) -> bool {
        !self.known.is_empty() && now_s >= self.ask_at_s
    }

    /// They may be let in now: they are asked for as if they had just been refused, at once.
    pub fn hasten(&mut self) {
        (self.ask_at_s, self.pause_s) = (0, PAUSE_MIN_S);
    }

    /// They have been asked for: the next time after a pause that doubles while nothing comes.
    pub fn asked(&mut self, now_s: u32) {
        self.ask_at_s = now_s + self.pause_s;
        self.pause_s = (self.pause_s * 2).min(PAUSE_MAX_S);
    }

    /// Whether entries are absent that are not remembered one by one.
    #[must_use]
    pub fn forgotten(&self) -> bool {
        self.sum.count as usize > self.known.len()
    }
}

/// What came of a slot's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The generation adds up. Holds the number of absent entries.
    Verified(u32),
    /// It doesn't; nothing may be swept.
    Failed,
}

/// Whether what is here, or was touched, and what is absent make up what the sender says it emitted.
#[must_use]
pub fn ended(end: &SlotEnd, here: Sum, absent: &Absent) -> Ended {
    let adds_up = !absent.is_unsure()
        && here.count + absent.sum.count == end.count
        && here.digest.wrapping_add(absent.sum.digest) == end.digest;
    if adds_up {
        Ended::Verified(absent.sum.count)
    } else {
        Ended::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(count: u32, digest: u64) -> SlotEnd {
        SlotEnd {
            generation: 7,
            count,
            digest,
            version: Version::default(),
        }
    }

    const fn version(counter: u64) -> Version {
        Version {
            term: Term(1),
            counter,
        }
    }

    #[test]
    fn a_removal_sent_again_does_not_touch_what_became_absent_after_it() {
        let mut absent = Absent::default();
        absent.insert(missing(1, 100, version(5)), 0);
        absent.remove(1, version(4));
        assert_eq!((absent.sum.count, absent.unsure), (1, false));
        absent.remove(1, version(6));
        assert_eq!((absent.sum.count, absent.unsure), (0, false));
    }

    /// What is missing by a key is also called so.
    fn missing(key: u64, digest: u64, version: Version) -> Missing {
        Missing {
            key,
            handle: Handle(u32::try_from(key).unwrap()),
            digest,
            version,
            for_room: false,
            outdated: false,
        }
    }

    #[test]
    fn absent_entries_are_asked_for_after_pauses_that_grow_until_one_comes() {
        let mut absent = Absent::default();
        assert!(!absent.is_due(9));
        absent.insert(missing(1, 100, version(1)), 5);
        absent.insert(missing(2, 200, version(2)), 5);
        let mut at = 5;
        for pause in [1, 1, 2, 4, 8] {
            assert!(!absent.is_due(at + pause - 1) && absent.is_due(at + pause));
            at += pause;
            absent.asked(at);
        }
        absent.take(1);
        at += 16;
        assert!(absent.is_due(at));
        absent.asked(at);
        assert!(absent.is_due(at + 1));
        absent.take(2);
        assert!(!absent.is_due(at + 1));
    }

    #[test]
    fn nothing_of_a_former_generation_is_left_when_a_slot_is_begun_anew() {
        let mut absent = Absent::default();
        for key in 0..=ABSENT_KEPT as u64 {
            absent.insert(missing(key, 100, version(1)), 5);
        }
        absent.remove(u64::MAX, version(9));
        absent.asked(7);
        assert!(absent.is_unsure() && absent.forgotten());
        let beside = absent.known().as_ptr();
        absent.clear();
        assert_eq!(absent, Absent::default());
        assert_eq!(absent.known().as_ptr(), beside, "the memory of the start");
    }

    #[test]
    fn refused_records_count_as_seen_until_they_are_removed() {
        let mut absent = Absent::default();
        absent.insert(missing(1, 100, version(1)), 5);
        absent.insert(missing(2, 200, version(2)), 6);
        let here = Sum { count: 1, digest: 50 };
        assert_eq!(ended(&end(3, 350), here, &absent), Ended::Verified(2));
        absent.remove(1, version(9));
        assert_eq!(ended(&end(3, 350), here, &absent), Ended::Failed);
        assert_eq!(ended(&end(2, 250), here, &absent), Ended::Verified(1));
        assert_eq!(absent.since_s, 5);
    }

    #[test]
    fn a_resent_refusal_counts_once_with_its_newest_digest() {
        let mut absent = Absent::default();
        absent.insert(missing(1, 100, version(1)), 5);
        absent.insert(missing(1, 101, version(2)), 6);
        assert_eq!(ended(&end(1, 101), Sum::default(), &absent), Ended::Verified(1));
        assert!(absent.take(1) && !absent.take(1));
        assert_eq!(absent.sum, Sum::default());
    }

    #[test]
    fn a_removal_that_might_be_of_a_forgotten_refusal_fails_the_generation() {
        let mut absent = Absent::default();
        for key in 0..=ABSENT_KEPT as u64 {
            absent.insert(missing(key, 1, version(1)), 0);
        }
        let count = u32::try_from(ABSENT_KEPT).unwrap() + 1;
        let all = end(count, u64::from(count));
        assert_eq!(ended(&all, Sum::default(), &absent), Ended::Verified(count));
        absent.remove(u64::MAX, version(9));
        assert_eq!(ended(&all, Sum::default(), &absent), Ended::Failed);
    }

    #[test]
    fn a_change_of_an_absent_entry_makes_the_sum_unsure_and_one_of_an_unknown_entry_does_not() {
        let mut absent = Absent::default();
        assert!(!absent.change(Handle(1), version(2)) && !absent.is_unsure());
        absent.insert(missing(1, 100, version(1)), 0);
        assert!(!absent.change(Handle(2), version(2)) && !absent.is_unsure());
        assert!(absent.change(Handle(1), version(3)) && absent.is_unsure());
        // Told whole and refused again, its share is known again.
        assert!(absent.is_due(0));
        absent.insert(missing(1, 101, version(3)), 0);
        assert!(!absent.is_unsure());
    }

    #[test]
    fn an_absent_entry_is_removed_by_the_name_its_sender_gave_it() {
        let mut absent = Absent::default();
        absent.insert(missing(1, 100, version(1)), 0);
        absent.remove_named(Handle(2));
        assert_eq!((absent.sum.count, absent.unsure), (1, false));
        absent.remove_named(Handle(1));
        assert_eq!((absent.sum, absent.unsure), (Sum::default(), false));
    }
}
