//! A conntrack: what the table stores for one tracked connection.
//!
//! Made by the admit stage from a first packet, or by absorb from a PUT of the peer; read and changed by track and
//! rewrite for each packet; its `sync` part belongs to [`crate::slot`], its NAT part is an index into the NAT
//! module's books, which must be told when the conntrack goes.

use super::{icmp, tcp, udp};
use crate::config::Timeouts;
use crate::delta::{Class, NatPart, PutRecord};
use crate::flow::{Direction, FlowKey, proto};
use crate::slot::SyncState;
use crate::time::Instant;

/// One tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    /// Original and reply tuple, each as its packets arrive; index with [`Direction::index`].
    pub keys: [FlowKey; 2],
    /// Protocol state.
    pub state: State,
    /// Replicated class: that of `state` at the last packet, kept to see it change.
    pub class: Class,
    /// Slot of the inside VRF that owns it.
    pub slot: u16,
    /// Coarse deadline on the scale of [`Instant::secs`].
    pub expires_s: u32,
    /// When the peer was last told a lifetime, on the same scale.
    pub refreshed_s: u32,
    /// Source NAT, if any.
    pub nat: Option<NatBinding>,
    /// Replication.
    pub sync: SyncState,
    /// Firewall rule that let it in.
    pub rule: u32,
    /// When it was created or learnt, on the scale of [`Instant::secs`].
    pub created_s: u32,
    /// Packets per direction.
    pub packets: [u64; 2],
    /// Bytes of IP packets per direction.
    pub bytes: [u64; 2],
}

/// A conntrack's share in the NAT module's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatBinding {
    /// What the peer is told.
    pub part: NatPart,
    /// The NAT module's own index; nobody else reads a meaning into it.
    pub mapping: u32,
}

/// Protocol state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// TCP.
    Tcp(tcp::Track),
    /// UDP.
    Udp(udp::Track),
    /// ICMP or `ICMPv6` query.
    Icmp(icmp::Track),
    /// Any other protocol: which ways packets have gone, as for UDP.
    Other(udp::Track),
}

impl Conntrack {
    /// A conntrack of `now` with nothing counted, no NAT, no rule and nobody told. `expires_s` is set from the
    /// state's lifetime.
    #[must_use]
    pub fn new(keys: [FlowKey; 2], slot: u16, state: State, timeouts: &Timeouts, now: Instant) -> Self {
        Self {
            keys,
            state,
            class: state.class(),
            slot,
            expires_s: now.secs().saturating_add(state.timeout_s(timeouts)),
            refreshed_s: now.secs(),
            nat: None,
            sync: SyncState::default(),
            rule: 0,
            created_s: now.secs(),
            packets: [0; 2],
            bytes: [0; 2],
        }
    }

    /// Tuple with which a packet of `dir` leaves; its VRF is the one it leaves into.
    #[inline]
    #[must_use]
    pub const fn translation(&self, dir: Direction) -> FlowKey {
        self.keys[dir.reversed().index()].reversed()
    }

    /// Whether packets leave with another address or port than they came with. (A change of VRF alone isn't one.)
    #[must_use]
    pub fn is_translated(&self) -> bool {
        let out = self.translation(Direction::Original);
        self.keys[0]
            != FlowKey {
                vrf: self.keys[0].vrf,
                ..out
            }
    }

    /// Remaining lifetime in seconds.
    #[must_use]
    pub const fn lifetime_s(&self, now: Instant) -> u32 {
        self.expires_s.saturating_sub(now.secs())
    }

    /// The record that tells the peer everything, under the version in `sync`.
    #[must_use]
    pub fn to_put(&self, now: Instant) -> PutRecord {
        PutRecord {
            original: self.keys[0],
            reply: self.keys[1],
            nat: self.nat.map(|nat| nat.part),
            class: self.class,
            lifetime_s: self.lifetime_s(now),
            version: self.sync.version,
        }
    }
}

impl State {
    /// State of an entry learnt from the peer, of which only protocol and class are known.
    #[must_use]
    pub const fn inherited(protocol: u8, class: Class) -> Self {
        match protocol {
            proto::TCP => Self::Tcp(tcp::Track::inherited(class)),
            proto::UDP => Self::Udp(udp::Track::inherited(class)),
            proto::ICMP | proto::ICMP6 => Self::Icmp(icmp::Track::inherited(class)),
            _ => Self::Other(udp::Track::inherited(class)),
        }
    }

    /// Replicated class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Tcp(track) => track.class(),
            Self::Udp(track) | Self::Other(track) => track.class(),
            Self::Icmp(track) => track.class(),
        }
    }

    /// Idle lifetime in seconds.
    #[must_use]
    pub const fn timeout_s(&self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Tcp(track) => track.timeout().timeout_s(timeouts),
            Self::Udp(track) => track.timeout_s(timeouts),
            Self::Icmp(track) => track.timeout_s(timeouts),
            Self::Other(_) => timeouts.other_s,
        }
    }
}
