//! A slot that changes hands while packets flow: all that one worker knows of it becomes another's.
//!
//! ```text
//!   mover (main thread)              former worker                     new worker
//!   may it leave? is there room? ──► counts                            keeps room back; lets packets and records of the slot wait
//!   says where records go; every event thread has seen it
//!   be ready ──────────────────────► is
//!   says where packets go            every worker has seen it: takes in what was sent to it before
//!                                    freezes it: what is listed is told
//!                                    a marker behind its last record ──► (event thread) ──┐
//!                                    the slot, blocks, mappings, conntracks ──► enters them │
//!                                                                      packets flow again  │
//!                                                                      its records do ◄────┘
//! ```
//!
//! Nothing is ever in two workers: an entry is taken out before it is put into the ring, a few per turn. Its port stays taken and
//! its block held by the same slot, so no word about it is wrong meanwhile. What is told of a slot goes by one lane, whichever
//! worker tells it, and the new one tells nothing before the event thread has taken the former one's last record: a slot stays
//! one FIFO, no version is left out, and its peers notice nothing. Handles are places in a worker's memory, so every conntrack is
//! told whole once more when it is told next. What arrives for the slot waits until everything is there, in order: packets in a
//! store of their own, and in the queues behind it when that is full; records in their rings.
//!
//! Whatever could be in the way is asked about before: then nothing has happened. From then on the move comes to its end. While
//! packets wait it waits for nothing but this node's workers: not for an event thread, and so for no peer.

mod arrival;
mod departure;
mod mover;

use thiserror::Error;

pub(crate) use self::arrival::Arrival;
use self::departure::Departure;
pub use self::mover::{Moved, Mover, Unmoved, Ways};
use crate::conntrack::Conntrack;
use crate::delta::{Handle, SlotRef};
use crate::nat::{BlockParcel, MappingParcel};
use crate::owners::Owners;
use crate::resync::Incoming;
use crate::slot::{Kind, NIL, Slot};
use crate::stage::slots::first;
use crate::tables::{Tables, VrfRole};
use crate::time::Instant;

/// Parcels that are sent, or taken in, in one turn: a burst waits no longer than for these.
const SLICE: usize = 32;

/// Blocks looked at in one turn to find out how much of a slot there is.
const WEIGHED: usize = 64;

/// Parcels that a ring between two workers holds.
const RING: usize = 512;

/// Changes that may wait in front of a slot that is to leave.
const WAITING_MAX: usize = 256;

/// How much of a slot there is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Conntracks.
    pub conntracks: u32,
    /// Subscribers, each counted once per block.
    pub subscribers: u32,
    /// Port blocks.
    pub blocks: u32,
    /// Mappings, in use or resting.
    pub mappings: u32,
}

impl Load {
    const NONE: Self = Self {
        conntracks: 0,
        subscribers: 0,
        blocks: 0,
        mappings: 0,
    };

    /// What to have room for: some more may come until the slot leaves.
    const fn with_margin(self) -> Self {
        const fn more(entries: u32) -> u32 {
            entries + entries / 8 + 64
        }
        Self {
            conntracks: more(self.conntracks),
            subscribers: more(self.subscribers),
            blocks: more(self.blocks),
            mappings: more(self.mappings),
        }
    }
}

/// Why a slot can't change hands now. Nothing has happened then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Hindrance {
    /// The worker doesn't have it.
    #[error("the worker doesn't have the slot")]
    NotHere,
    /// A walk of it is under way.
    #[error("the slot is being sent to a peer")]
    Sent,
    /// The node is about to give the VRF up.
    #[error("the node is giving the role up")]
    Draining,
    /// Addresses were taken out of a pool, and what stands on them is being looked for.
    #[error("flows on addresses that went are being ended")]
    Retiring,
    /// The lane is slower than changes.
    #[error("too many changes wait for the slot's lane")]
    Lane,
    /// The new worker has no room.
    #[error("the worker has no room for it")]
    NoRoom,
    /// The worker has another one on its way.
    #[error("another slot is on its way")]
    Busy,
}

/// What travels.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// The slot itself, in front of everything else.
    Slot(Luggage),
    /// A port block.
    Block(BlockParcel),
    /// A mapping of a block that went before.
    Mapping(MappingParcel),
    /// A conntrack, and what the slot's present sender calls it.
    Conntrack(Conntrack, Handle),
    /// There is no more.
    End(Unfinished),
}

/// What a worker was doing to all of its entries, and hadn't done to these.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Unfinished {
    /// They were being judged again.
    reviewing: bool,
    /// By rules that have changed.
    rechecking: bool,
    /// Those on addresses that went were being ended.
    retiring: bool,
}

impl Unfinished {
    fn of(tables: &Tables, at: SlotRef) -> Self {
        Self {
            reviewing: tables.protect.is_reviewing(),
            rechecking: tables.protect.rechecks[at.vrf.index()].is_owed(),
            retiring: tables.retirement.is_under_way(),
        }
    }

    const fn add(&mut self, other: Self) {
        self.reviewing |= other.reviewing;
        self.rechecking |= other.rechecking;
        self.retiring |= other.retiring;
    }
}

/// The way over a slot's blocks, to find out how much of it there is.
#[derive(Debug)]
pub(crate) struct Weighing {
    at: SlotRef,
    /// The next block; none before the first one.
    next: Option<u32>,
    load: Load,
}

impl Weighing {
    /// Of a slot.
    const fn new(at: SlotRef) -> Self {
        Self {
            at,
            next: None,
            load: Load::NONE,
        }
    }
}

/// A slot, and what its worker has noted about it elsewhere.
#[derive(Debug)]
pub(crate) struct Luggage {
    slot: Box<Slot>,
    /// Number of the change of owners.
    number: u64,
    /// It has to be sent again.
    lost: bool,
    /// It has changes that were never told.
    muted: bool,
    /// Whoever sent it has to hear that records were missed.
    missed: Option<Incoming>,
    /// The role under which its former worker had it.
    role: VrfRole,
}

/// A worker's part in a move, if it has any.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    /// A slot that is to be left alone: it is being taken out, or entered, or its records wait.
    frozen: Option<SlotRef>,
    /// Conntracks that room is kept for.
    pub(crate) kept_back: usize,
    /// Packets of the arriving slot wait.
    pub(crate) holding: bool,
    pub(crate) departure: Option<Departure>,
    pub(crate) arrival: Option<Arrival>,
}

impl Transit {
    /// Whether the worker has no part in any move.
    #[inline]
    pub(crate) const fn is_idle(&self) -> bool {
        self.departure.is_none() && self.arrival.is_none()
    }

    /// Whether any slot is to be left alone: what goes through all entries waits as long.
    #[inline]
    pub(crate) const fn is_freezing(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether a slot is to be left alone.
    #[inline]
    pub(crate) fn is_frozen(&self, at: SlotRef) -> bool {
        self.frozen == Some(at)
    }

    /// The slot that is on its way.
    pub(crate) fn slot(&self) -> Option<SlotRef> {
        self.arrival.as_ref().map(|arrival| arrival.at)
    }

    /// Whether packets that have waited go on.
    pub(crate) fn lets_packets_go(&self) -> bool {
        self.holding && self.awaited().is_none()
    }

    /// The slot whose records have to wait.
    #[inline]
    pub(crate) fn awaited(&self) -> Option<SlotRef> {
        let arrival = self.arrival.as_ref()?;
        (!arrival.is_here()).then_some(arrival.at)
    }

    /// Packets were taken from another worker.
    #[inline]
    pub(crate) fn handed_over(&mut self, from: usize, packets: usize) {
        if !self.is_idle() {
            self.count_handed_over(from, packets);
        }
    }

    #[cold]
    fn count_handed_over(&mut self, from: usize, packets: usize) {
        if let Some(departure) = &mut self.departure {
            departure.handed_over(from, packets);
        }
        if let Some(arrival) = &mut self.arrival {
            arrival.handed_over(from, packets);
        }
    }

    /// Whether packets from another worker come to the slot by way of its former one.
    pub(crate) fn is_former(&self, worker: usize) -> bool {
        let from = self.arrival.as_ref().map(|arrival| usize::from(arrival.from));
        from == Some(worker)
    }

    /// Items of an event thread were processed.
    #[inline]
    pub(crate) fn absorbed(&mut self, event: usize, items: usize) {
        if let Some(departure) = &mut self.departure {
            departure.absorbed(event, items);
        }
    }

    /// Changes of a lane were taken off its list.
    #[inline]
    pub(crate) fn told(&mut self, lane: usize, changes: usize) {
        if let Some(departure) = &mut self.departure {
            departure.told(lane, changes);
        }
    }

    /// Whether what is listed for a lane has to wait: another worker may still have something to tell there.
    #[inline]
    pub(crate) fn holds_lane(&self, lane: usize) -> bool {
        self.arrival
            .as_ref()
            .is_some_and(|arrival| arrival.holds_lane(lane))
    }
}

impl Tables {
    /// A slice of the way over a slot that may have to leave. In the end: how much of it there is, or what is in the way.
    fn weigh(&self, weighing: &mut Weighing) -> Option<Result<Load, Hindrance>> {
        let at = weighing.at;
        if let Err(hindrance) = self.may_leave(at) {
            return Some(Err(hindrance));
        }
        let Some(mut block) = weighing.next else {
            weighing.next = Some(first(self, at, Kind::Block));
            weighing.load.conntracks = self.slots.get(at).map_or(0, |slot| slot.conntracks);
            return None;
        };
        for _ in 0..WEIGHED {
            if block == NIL {
                return Some(Ok(weighing.load));
            }
            let held = self.nat.block(block);
            if !held.held() || (held.inside_vrf, held.slot) != (at.vrf, at.slot) {
                // It was released meanwhile.
                *weighing = Weighing::new(at);
                return None;
            }
            weighing.load.blocks += 1;
            weighing.load.subscribers += 1;
            weighing.load.mappings += self.nat.mappings_of(block);
            block = held.sync.next;
        }
        weighing.next = Some(block);
        None
    }

    fn may_leave(&self, at: SlotRef) -> Result<(), Hindrance> {
        if !self.transit.is_idle() {
            return Err(Hindrance::Busy);
        }
        let slot = self.slots.get(at).ok_or(Hindrance::NotHere)?;
        if !slot.walks.is_empty() {
            return Err(Hindrance::Sent);
        }
        if self.waiting_for(self.lane_of(at.slot)) > WAITING_MAX {
            return Err(Hindrance::Lane);
        }
        self.nothing_is_changing(at)
    }

    /// Whether a slot is on its way from or to this worker: its entries must not be ended from outside as long.
    #[must_use]
    pub const fn is_changing_hands(&self) -> bool {
        self.transit.is_freezing()
    }

    /// A slot that is expected elsewhere has to go.
    fn let_go(&mut self, departure: Departure) {
        self.transit.departure = Some(departure);
    }

    /// What is left of a slot that has gone.
    const fn departed(&mut self) -> Option<Departure> {
        self.transit.departure.take()
    }

    /// What is left of a slot's way here.
    const fn arrived(&mut self) -> Option<Arrival> {
        self.transit.arrival.take()
    }

    /// What goes through all entries would miss one that changes hands.
    fn nothing_is_changing(&self, at: SlotRef) -> Result<(), Hindrance> {
        if self.protect.drains.is_open(at.vrf) {
            return Err(Hindrance::Draining);
        }
        if self.retirement.is_under_way() {
            return Err(Hindrance::Retiring);
        }
        Ok(())
    }

    /// A slice of the worker's part in a move, `parcels` having been there when its turn began. Answers how much there was
    /// to do.
    #[cold]
    pub(crate) fn change_hands(
        &mut self,
        owners: &Owners,
        parcels: usize,
        full: bool,
        now: Instant,
    ) -> usize {
        departure::depart(self, owners) + arrival::arrive(self, owners, parcels, full, now)
    }
}
