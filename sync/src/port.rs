//! Where an event thread meets the rest of the process: rings to and from workers, the shared boards, the
//! channels to and from the agent, and those between event threads. Made once at start, one set per thread.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use dataplane::applied::AppliedCounters;
use dataplane::delta::{Listed, Mark, Marked, SlotRef, ToEvent, ToWorker, Version};
use dataplane::flow::VrfId;
use dataplane::owners::Owners;
use dataplane::redirect::{PacketReceiver, PacketSender};
use dataplane::role::Roles;
use rtrb::{Consumer, Producer};

use crate::board::Board;
use crate::fingerprint::{Difference, Section};
use crate::report::PumpReport;

/// What an event thread is connected to, apart from the network.
#[derive(Debug)]
pub struct PumpPorts<W> {
    /// One ring from each worker, in worker order.
    pub from_workers: Vec<Consumer<ToEvent>>,
    /// One ring to each worker, in worker order.
    pub to_workers: Vec<Producer<ToWorker>>,
    /// Packets that the workers redirect, in worker order.
    pub redirects_from_workers: Vec<PacketReceiver>,
    /// Packets that peers have redirected to the workers, in worker order.
    pub redirects_to_workers: Vec<PacketSender>,
    /// How far the workers have come with `to_workers`.
    pub applied: Arc<AppliedCounters>,
    /// Which worker has which slot.
    pub owners: Arc<Owners>,
    /// This node's roles and terms.
    pub roles: Arc<Roles>,
    /// Where knowledge of the peers is published.
    pub board: Arc<Board>,
    /// What happened, for the log. When full, events are counted and dropped; nothing depends on them.
    pub events: Sender<PumpEvent>,
    /// What the agent wants.
    pub commands: Receiver<PumpCommand>,
    /// Connections whose HELLO event thread 0 has read and that belong to this thread.
    pub arrivals: Receiver<Arrival<W>>,
    /// To every event thread's `arrivals`, in event order.
    pub hand_over: Vec<Sender<Arrival<W>>>,
}

/// What the agent asks of an event thread; handled within a turn or two.
#[derive(Debug, Clone)]
pub enum PumpCommand {
    /// Send counters. The answer is dropped when the channel is full.
    Report(Sender<PumpReport>),
    /// Send slots again, whole, to everybody they are streamed to; ask for those that are received.
    Resync {
        /// Only this VRF.
        vrf: Option<VrfId>,
        /// Only this slot.
        slot: Option<u16>,
        /// Who wants to know what comes of it.
        to: Option<Sender<Resyncing>>,
    },
    /// Compare a slot, entry by entry.
    Compare(CompareAsk),
    /// The node's configuration has changed: these are its sections, by VRF. Peers are told.
    Sections(Arc<[Vec<Section>]>),
    /// Send what peers have last said of the slots of a VRF that go to them.
    Heard {
        /// VRF.
        vrf: VrfId,
        /// Where the answer goes. It is dropped when the channel is full.
        to: Sender<Vec<Heard>>,
    },
}

/// What a wish for a resync has set off on one event thread.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Resyncing {
    /// Event thread.
    pub event: u16,
    /// Slots that this node will send again.
    pub sent: u32,
    /// Slots that a peer was asked for.
    pub asked: u32,
}

/// What a peer held of a slot when a digest in the slot's stream was last compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Slot.
    pub slot: u16,
    /// Its version at this point of its stream.
    pub version: Version,
    /// Sum of the digests.
    pub digest: u64,
}

/// A step of the comparison of a slot with one peer (see [`crate::compare`]).
#[derive(Debug, Clone)]
pub struct CompareAsk {
    /// Peer, by index.
    pub peer: u8,
    /// Slot, on this thread's lane.
    pub at: SlotRef,
    /// Names the comparison.
    pub round: u32,
    /// What to do.
    pub step: CompareStep,
    /// Where the peer's answers go, until another step names another place. When full, they are dropped.
    pub to: Sender<CompareAnswer>,
}

/// What to ask of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareStep {
    /// Compare count and digest at a mark in the slot's stream.
    Mark,
    /// List at most so many further entries as of the mark.
    List(u16),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareAnswer {
    /// Slot.
    pub at: SlotRef,
    /// Of the comparison.
    pub round: u32,
    /// What the peer says.
    pub found: CompareFound,
}

/// See [`CompareAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareFound {
    /// The mark has gone out.
    Set(Mark),
    /// The peer has compared.
    Marked(Marked),
    /// A piece of its list.
    Listed(Listed),
    /// It can't be asked now, and why.
    Unavailable(&'static str),
}

/// Which end of a lane something happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Our lane to the peer.
    Client,
    /// The peer's lane to our local node.
    LocalNode,
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PumpEvent {
    /// A lane is up: handshake done.
    LaneUp {
        /// Peer, by index.
        peer: u8,
        /// Lane number at its sender.
        lane: u8,
        /// Which end is ours.
        end: End,
    },
    /// A lane that was up is gone.
    LaneDown {
        /// Peer, by index.
        peer: u8,
        /// Lane number at its sender.
        lane: u8,
        /// Which end is ours.
        end: End,
        /// Why.
        reason: &'static str,
    },
    /// A peer has told about a VRF on a connection of event thread 0, or this node's configuration has changed since.
    VrfOpened {
        /// Peer, by index.
        peer: u8,
        /// VRF.
        vrf: VrfId,
        /// Sections that differ from ours.
        differences: Vec<Difference>,
    },
    /// A peer has verified all slots of a VRF on one lane of ours.
    Exported {
        /// Peer, by index.
        peer: u8,
        /// VRF.
        vrf: VrfId,
        /// Lane.
        lane: u8,
        /// Slots.
        slots: u32,
        /// Records sent.
        records: u64,
        /// Time it took, in milliseconds.
        took_ms: u64,
    },
    /// All slots of a VRF that a lane carries are to be brought to the peer.
    Resyncing {
        /// Peer, by index.
        peer: u8,
        /// VRF.
        vrf: VrfId,
        /// Lane.
        lane: u8,
        /// Slots.
        slots: u32,
    },
    /// A digest was different at the peer, or the slot with such a digest has been verified again.
    Diverged {
        /// Peer, by index.
        peer: u8,
        /// Slot.
        at: SlotRef,
        /// Verified again.
        repaired: bool,
    },
    /// A peer calls itself by this node's name: whoever reads logs of both can't tell them apart.
    NamedAlike {
        /// Peer.
        peer: u8,
    },
    /// A connection was refused or closed during its handshake.
    Refused {
        /// Why.
        reason: &'static str,
    },
}

/// A connection made by a peer whose HELLO was accepted, on its way to the event thread of its lane.
#[derive(Debug)]
pub struct Arrival<W> {
    pub(crate) wire: W,
    pub(crate) peer: u8,
    pub(crate) hello: crate::hello::Hello,
}
