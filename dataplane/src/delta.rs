//! What travels to the peer: one record per change of one entry, and the markers around a slot's resync.
//!
//! Born when a worker takes an entry off its dirty list at the end of a turn; carried by a ring to an event
//! thread, framed, sent, decoded by the peer's event thread, steered to the worker that owns the slot there,
//! applied, and acknowledged only then. Everything here is portable once an event thread has exchanged the
//! local VRF index for the VRF's name: no index, pointer or clock time of one node means anything to another.

use serde::{Deserialize, Serialize};

use crate::flow::{Addr, FlowKey, VrfId};
use crate::shard::mix64;

/// Reign of one active node over one VRF: from the high bits down a count of reigns, [`BOOT_BITS`](Self::BOOT_BITS) that
/// differ from boot to boot, and the node's id. 0 means none yet. A node that boots and finds nobody can't know which
/// terms it had before; without the boot in it, one word would stand for two histories.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// No reign seen yet: a process that has just booted.
    pub const NONE: Self = Self(0);

    /// Bits of a term that tell boots of one node apart.
    pub const BOOT_BITS: u32 = 21;

    /// A term of `node`, booted as `boot_id`, above this one.
    #[must_use]
    pub const fn next_of(self, node: u8, boot_id: u64) -> Self {
        let boot = mix64(boot_id) >> (64 - Self::BOOT_BITS);
        Self((self.reign() + 1) << (Self::BOOT_BITS + 8) | boot << 8 | node as u64)
    }

    /// How many reigns there were, this one included, as far as its node knew.
    #[must_use]
    pub const fn reign(self) -> u64 {
        self.0 >> (Self::BOOT_BITS + 8)
    }

    /// What tells boots of its node apart.
    #[must_use]
    pub const fn boot(self) -> u64 {
        self.0 >> 8 & ((1 << Self::BOOT_BITS) - 1)
    }

    /// Node id of the owner.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low byte is the node id")]
    pub const fn node(self) -> u8 {
        self.0 as u8
    }
}

/// When an entry last changed in its slot: gap-free counter under the term that wrote it. Zero: never emitted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Term of the writer.
    pub term: Term,
    /// Counter of the slot at emission.
    pub counter: u64,
}

/// A slot of a VRF.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRef {
    /// VRF, by local index.
    pub vrf: VrfId,
    /// Slot number, below the VRF's slot count.
    pub slot: u16,
}

/// Replicated class of a conntrack's protocol state. A change of class is sent at once; changes inside a
/// class aren't sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Class {
    /// Handshake not finished, or traffic one way only.
    Opening = 0,
    /// Both ends have spoken.
    Established = 1,
    /// A FIN or RST was seen.
    Closing = 2,
}

impl Class {
    /// From its wire value.
    #[must_use]
    pub const fn from_u8(v: u8) -> Option<Self> {
        match v {
            0 => Some(Self::Opening),
            1 => Some(Self::Established),
            2 => Some(Self::Closing),
            _ => None,
        }
    }
}

/// Window scale of each end of a TCP connection (RFC 7323 section 2.2), a nibble each, the originator's high. A shift
/// is what windows are multiplied with after the handshake; [`Scales::UNSEEN`] when the end's SYN was not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scales(pub u8);

impl Scales {
    /// Shift of an end of which no SYN was seen.
    pub const UNSEEN: u8 = 15;
    /// Neither end's SYN was seen; also what other protocols have.
    pub const NONE: Self = Self(0xff);

    /// From the originator's and the other end's shift, each at most [`Scales::UNSEEN`].
    #[must_use]
    pub const fn new(original: u8, reply: u8) -> Self {
        Self(original << 4 | (reply & 15))
    }

    /// Shifts of the originator and of the other end.
    #[must_use]
    pub const fn shifts(self) -> [u8; 2] {
        [self.0 >> 4, self.0 & 15]
    }
}

impl Default for Scales {
    fn default() -> Self {
        Self::NONE
    }
}

/// The NAT part of a conntrack: which port block its external port comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NatPart {
    /// Identity of the grant of the port block; survives failover and is the one in the log.
    pub grant: u64,
    /// Whether the external port belongs to an endpoint-independent mapping of the inside endpoint.
    pub mapping: bool,
}

/// What a sender calls a conntrack on its slot's stream: the entry's index in the sender's arena, bound by a PUT. Means
/// nothing without the slot, and nothing beyond the generation that it was bound in (see [`crate::names`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handle(pub u32);

impl Handle {
    /// No name: also what entries have whose index doesn't fit into three bytes.
    pub const NONE: Self = Self(0xff_ffff);

    /// The handle of an arena's entry.
    #[must_use]
    pub const fn of(id: u32) -> Self {
        if id < Self::NONE.0 { Self(id) } else { Self::NONE }
    }

    /// Whether this is no name.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 >= Self::NONE.0
    }
}

/// Full state of a conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutRecord {
    /// Original direction as its packets arrive.
    pub original: FlowKey,
    /// Reply direction as its packets arrive.
    pub reply: FlowKey,
    /// Source NAT, if any.
    pub nat: Option<NatPart>,
    /// Replicated class.
    pub class: Class,
    /// Window scales as of the last change of class.
    pub scales: Scales,
    /// Remaining lifetime in seconds, from the moment of encoding.
    pub lifetime_s: u32,
    /// Version of the entry.
    pub version: Version,
    /// What it is called from now on.
    pub handle: Handle,
}

/// Change of class of a known conntrack. Window scales are settled by the handshake, so they travel with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// Which conntrack.
    pub handle: Handle,
    /// New class.
    pub class: Class,
    /// Window scales as of this change.
    pub scales: Scales,
    /// Remaining lifetime in seconds.
    pub lifetime_s: u32,
    /// New version of the entry.
    pub version: Version,
}

/// The conntrack is alive; no version, so that shedding refreshes never looks like divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshRecord {
    /// Which conntrack.
    pub handle: Handle,
    /// Remaining lifetime in seconds.
    pub lifetime_s: u32,
}

/// How a removal names its conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Name {
    /// As its sender calls it.
    Handle(Handle),
    /// By its original direction: the sender has not named it on this stream.
    Key(FlowKey),
}

/// The conntrack is gone, and with it its share of the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRecord {
    /// Which conntrack.
    pub name: Name,
    /// Version of the removal.
    pub version: Version,
}

/// A port block granted to (or, when `held` is false, released by) a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// Identity of the grant.
    pub grant: u64,
    /// Inside address that owns the block.
    pub subscriber: Addr,
    /// Public address.
    pub address: Addr,
    /// First port of the block.
    pub port_first: u16,
    /// Granted or released.
    pub held: bool,
    /// Version of the change.
    pub version: Version,
}

/// One change of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delta {
    /// Created, or resent whole.
    Put(PutRecord),
    /// Class changed.
    State(StateRecord),
    /// Still alive.
    Refresh(RefreshRecord),
    /// Removed.
    Del(DelRecord),
    /// Port block granted or released.
    Block(BlockRecord),
}

impl Delta {
    /// Version of the change; none of a refresh.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        match self {
            Self::Put(r) => Some(r.version),
            Self::State(r) => Some(r.version),
            Self::Refresh(_) => None,
            Self::Del(r) => Some(r.version),
            Self::Block(r) => Some(r.version),
        }
    }
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
    /// The slot lost changes it could not queue; it needs a resync on every lane it streams to.
    SlotDirty {
        /// Slot.
        at: SlotRef,
    },
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
