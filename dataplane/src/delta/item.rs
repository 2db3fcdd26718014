//! What goes through the rings between workers and event threads: records and markers with their slot and their lane.
//!
//! Put in by one thread, taken out once by the other, in order. A ring is all that the two share of a slot.

use super::{Delta, Listed, Mark, Marked, PutRecord, SlotEnd, SlotOffer, Version, Wanted};
use crate::flow::VrfId;

/// From a worker to the event thread of the slot's lane. One FIFO per worker and event thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ToEvent {
    /// The walk of a slot starts: everything after this on the slot belongs to `generation`.
    SlotBegin {
        /// Slot.
        at: SlotRef,
        /// Lane it goes to.
        lane: LaneTag,
        /// Generation of the resync.
        generation: u32,
        /// Version of the slot.
        version: Version,
        /// Only what is newer than this follows; none when the whole slot does.
        since: Option<Version>,
    },
    /// A record. Live ones (`only` is none) go to every lane whose begin for the slot has passed;
    /// those of a walk go to one lane.
    Record {
        /// Slot.
        at: SlotRef,
        /// The lane of a walk.
        only: Option<LaneTag>,
        /// The change.
        delta: Delta,
    },
    /// The walk is complete.
    SlotEnd {
        /// Slot.
        at: SlotRef,
        /// Lane it goes to.
        lane: LaneTag,
        /// What must be there.
        end: SlotEnd,
    },
    /// Answer of a receiving worker: the slot's generation is complete, unstamped entries were swept.
    SlotVerified {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Generation.
        generation: u32,
        /// Entries refused for a cause.
        refused: u32,
    },
    /// Answer of a receiving worker: the generation did not add up; nothing was swept; send it again.
    SlotFailed {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Generation.
        generation: u32,
    },
    /// A receiving worker stands by again: as long as its node was active it let the slot's records pass.
    SlotMissed {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Generation.
        generation: u32,
    },
    /// Answer of a receiving worker: what it holds of the slot at the point of the stream where it was asked.
    SlotOffer {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// What it holds.
        offer: SlotOffer,
    },
    /// Answer of a receiving worker: an entry of its own former reign which the sender's generation didn't name. It goes
    /// here; it comes back if the sender can take it over.
    SlotTail {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// The entry.
        put: PutRecord,
    },
    /// A receiving worker may have room now for an entry that it refused.
    SlotAsk {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Generation of the slot.
        generation: u32,
        /// The entry.
        wanted: Wanted,
    },
    /// What has been emitted of the slot up to here, for every lane that streams it. The generation is the lane's to
    /// fill in.
    SlotDigest {
        /// Slot.
        at: SlotRef,
        /// What must be there.
        end: SlotEnd,
    },
    /// What has been emitted of the slot up to here, to be compared entry by entry.
    SlotMark {
        /// Slot.
        at: SlotRef,
        /// Lane it goes to.
        lane: LaneTag,
        /// The point.
        mark: Mark,
    },
    /// Answer of a receiving worker to a mark.
    SlotMarked {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// What it found.
        marked: Marked,
    },
    /// Answer of a receiving worker: a piece of what it held at a mark.
    SlotListed {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Of the mark.
        round: u32,
        /// The piece.
        listed: Listed,
    },
    /// A packet waits for the record of this counter, which has just been emitted: the peers are asked for it.
    Commit {
        /// Slot.
        at: SlotRef,
        /// Counter of the record's version.
        counter: u64,
    },
    /// Answer of a receiving worker: what has become of a record.
    Committed {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Counter of the record's version.
        counter: u64,
        /// Whether it was applied.
        applied: bool,
    },
    /// What was kept back of a VRF that this node is about to give up stands in front of this, for the event thread's lanes.
    Drained {
        /// VRF.
        vrf: VrfId,
        /// Of the drain.
        number: u32,
    },
    /// The slot goes to another worker, and this one has told everything of it: the change of owners of this number may go on.
    SlotLeft {
        /// Slot.
        at: SlotRef,
        /// Of the change.
        number: u64,
    },
    /// The slot lost changes it could not queue; it needs a resync on every lane it streams to.
    SlotDirty {
        /// Slot.
        at: SlotRef,
    },
}

/// What a place of a ring holds until it is written.
impl Default for ToEvent {
    fn default() -> Self {
        Self::SlotDirty {
            at: SlotRef::default(),
        }
    }
}

/// From an event thread to a worker. One FIFO per event thread and worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ToWorker {
    /// Sender side: walk the slot and stream it to this lane from now on.
    SendSlot {
        /// Slot.
        at: SlotRef,
        /// Lane to stream to.
        lane: LaneTag,
        /// Generation to use.
        generation: u32,
        /// What the receiver holds; none sends the whole slot.
        offer: Option<SlotOffer>,
    },
    /// Sender side: the peer may have room now for an entry that it refused.
    GiveEntry {
        /// Slot.
        at: SlotRef,
        /// Lane to send it to.
        lane: LaneTag,
        /// The entry.
        wanted: Wanted,
    },
    /// Sender side: emit the slot's digest now.
    DigestSlot {
        /// Slot.
        at: SlotRef,
    },
    /// Sender side: put a mark into the slot's stream to this lane.
    MarkSlot {
        /// Slot.
        at: SlotRef,
        /// Lane to put it into.
        lane: LaneTag,
        /// Names the comparison.
        round: u32,
    },
    /// Sender side: the lane is gone (or its VRF changed direction); stop streaming the slot to it.
    StopSlot {
        /// Slot.
        at: SlotRef,
        /// Lane that is gone.
        lane: LaneTag,
    },
    /// Sender side: an entry of the receiver's former reign, to be taken over if it collides with nothing.
    SlotTail {
        /// Slot.
        at: SlotRef,
        /// The entry.
        put: PutRecord,
    },
    /// Sender side: a peer has answered what has become of a record.
    Committed {
        /// Slot.
        at: SlotRef,
        /// Lane it was asked on.
        lane: LaneTag,
        /// Counter of the record's version.
        counter: u64,
        /// Whether it was applied.
        applied: bool,
    },
    /// Receiver side: what has become of the record of this counter?
    Commit {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Counter of the record's version.
        counter: u64,
    },
    /// Receiver side: a generation begins.
    SlotBegin {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Generation of the resync.
        generation: u32,
        /// Sender's version of the slot.
        version: Version,
        /// Only what is newer than this follows; none when the whole slot does.
        since: Option<Version>,
    },
    /// Receiver side: what is held of the slot?
    SlotQuery {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Of the question.
        generation: u32,
    },
    /// Receiver side: what the sender has emitted up to here.
    SlotDigest {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// What must be there.
        end: SlotEnd,
    },
    /// Receiver side: a record.
    Record {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// The change.
        delta: Delta,
    },
    /// Receiver side: a generation ends.
    SlotEnd {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// What must be there.
        end: SlotEnd,
    },
    /// Receiver side: a mark.
    SlotMark {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// The point.
        mark: Mark,
    },
    /// Receiver side: list what was held at a mark.
    ListSlot {
        /// Slot.
        at: SlotRef,
        /// Lane it came from.
        lane: LaneTag,
        /// Of the mark.
        round: u32,
        /// Most entries before [`Listed::More`].
        entries: u16,
    },
}

impl ToWorker {
    /// The slot it is about.
    #[must_use]
    pub const fn at(&self) -> SlotRef {
        match *self {
            Self::SendSlot { at, .. }
            | Self::GiveEntry { at, .. }
            | Self::DigestSlot { at }
            | Self::MarkSlot { at, .. }
            | Self::StopSlot { at, .. }
            | Self::SlotTail { at, .. }
            | Self::Committed { at, .. }
            | Self::Commit { at, .. }
            | Self::SlotBegin { at, .. }
            | Self::SlotQuery { at, .. }
            | Self::SlotDigest { at, .. }
            | Self::Record { at, .. }
            | Self::SlotEnd { at, .. }
            | Self::SlotMark { at, .. }
            | Self::ListSlot { at, .. } => at,
        }
    }
}

/// A slot of a VRF.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRef {
    /// VRF, by local index.
    pub vrf: VrfId,
    /// Slot number, below the VRF's slot count.
    pub slot: u16,
}

/// One lane's connection: peer, lane number at the sender, and the incarnation that fences old bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneTag {
    /// Peer, by local index.
    pub peer: u8,
    /// Lane number at its sender.
    pub lane: u8,
    /// Random or growing number of this connection; bytes of an older one change nothing.
    pub incarnation: u32,
}
