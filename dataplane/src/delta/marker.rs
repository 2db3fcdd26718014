//! What is said of a slot as a whole at one point of its stream: where a resync ends, what a receiver holds, and where two
//! nodes compare.
//!
//! Made by the slot's owner at that point, so that a marker and the records before it make one picture; means nothing beyond
//! the connection, and the generation or round, that it was made for.

use serde::{Deserialize, Serialize};

use super::{Delta, Handle, Version};

/// End of a slot's resync: what was emitted between begin and end plus what was live already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotEnd {
    /// Generation of the resync.
    pub generation: u32,
    /// Entries (conntracks and blocks) of the slot that the peer must hold now.
    pub count: u32,
    /// Sum of their digests.
    pub digest: u64,
    /// Version of the slot at this point of the lane.
    pub version: Version,
}

/// What a node holds of a slot, at one point of the slot's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOffer {
    /// Generation of the question that it answers.
    pub generation: u32,
    /// Entries that the sender has and this node holds, or lacks for a known cause.
    pub count: u32,
    /// Sum of their digests.
    pub digest: u64,
    /// Version up to which the slot is complete.
    pub version: Version,
    /// How many of the entries are lacking.
    pub absent: u32,
    /// Answer to a digest: whether it was the same here.
    pub same: bool,
    /// What is held is the slot as it was at that version, or an unfinished generation on top of it; not so with changes
    /// of this node's own that nobody was told.
    pub exact: bool,
}

/// A point of a slot's stream at which it is compared entry by entry, and what has been emitted up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Names the comparison in every answer.
    pub round: u32,
    /// Version of the slot: entries that are newer have changed since.
    pub version: Version,
    /// Entries that the receiver must hold.
    pub count: u32,
    /// Sum of their digests.
    pub digest: u64,
}

/// What a receiver has found at a [`Mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// Of the mark.
    pub round: u32,
    /// Entries held.
    pub count: u32,
    /// Sum of their digests.
    pub digest: u64,
    /// Entries lacking for a known cause.
    pub absent: u32,
    /// Everything is held, and count and digest are those of the mark.
    pub same: bool,
}

/// A piece of a receiver's list of a slot's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// An entry, whole: a [`Delta::Put`] or a [`Delta::Block`].
    Entry(Delta),
    /// As many as were asked for; there are more.
    More,
    /// That was the last one.
    Complete,
    /// The mark is forgotten: the slot has been sent again, or marked again.
    Gone,
}

/// An entry that a receiver had to refuse: a block when the handle is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What its sender calls it.
    pub handle: Handle,
    /// Counter of the version that was refused.
    pub counter: u64,
}
