//! What is told of an entry: one record per change.
//!
//! Born when a worker takes an entry off its dirty list, or a walk visits it; ends when the peer's worker has applied or
//! refused it. A PUT or a BLOCK is whole in itself. The others are about an entry that the reader holds, named by the
//! handle that a PUT has bound, or by its tuple.

use serde::{Deserialize, Serialize};

use super::Version;
use crate::flow::{Addr, FlowKey};

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
