//! The stages of a burst, in the order a packet meets them. Each runs over the whole batch, reads what earlier ones
//! left in [`Meta`] and [`Work`], and ends in a [`Verdict`] per packet. Stages never call one another.

pub mod meta;

pub mod parse;
pub(crate) mod steer;

pub(crate) mod reassemble;

pub(crate) mod line_up;

pub(crate) mod lookup;

pub(crate) mod admit;

pub(crate) mod redirect;

pub mod await_slot;
pub(crate) mod hold;
pub(crate) mod track;

pub(crate) mod forward;

pub(crate) mod answer;
pub mod respond;

pub mod rewrite;

pub mod handoff;
pub(crate) mod transmit;

pub(crate) mod audit;
pub(crate) mod digest;
pub(crate) mod emit;
pub(crate) mod expire;
mod ring;
pub(crate) mod walk;

pub(crate) mod absorb;
pub(crate) mod apply;
pub mod compare;
pub(crate) mod evict;
pub(crate) mod foresee;
pub(crate) mod missing;
pub(crate) mod slots;
pub(crate) mod tail;

#[cfg(test)]
mod oracle;

use crate::config::InterfaceId;
use crate::delta::SlotRef;
use crate::flow::{Addr, Direction, VrfId};
use crate::fragment::Ticket;
use crate::io::{BURST, Burst, PortId};
use crate::nat::Pools;
use crate::notice::Notices;
use crate::owners::Owners;
use crate::slot::NIL;
use crate::stage::await_slot::Turn;
use crate::stage::handoff::Cause;
use crate::stage::hold::Waiting;
use crate::stage::meta::Meta;
use crate::stage::reassemble::PieceWork;
use crate::tables::Tables;
use crate::time::Instant;
use crate::verdict::{Drop, Verdict};
use crate::vrf::Snapshot;
use crate::wire::ethernet::Mac;

/// A burst on its way: packets, and for each place what parse and the later stages know. Allocated once per worker.
#[derive(Debug)]
pub(crate) struct Batch<P> {
    pub(crate) packets: Burst<P>,
    pub(crate) meta: [Meta; BURST],
    pub(crate) work: [Work; BURST],
    pub(crate) pieces: [PieceWork; BURST],
}

/// What the stages after parse decide for one packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) verdict: Verdict,
    /// Port it came in by.
    pub(crate) port: PortId,
    /// Times it was handed to a worker.
    pub(crate) handoffs: u8,
    /// Why it is another worker's, where it is.
    pub(crate) cause: Cause,
    /// Interface it came in by.
    pub(crate) interface: InterfaceId,
    /// Slot of its flow, in the inside VRF.
    pub(crate) at: SlotRef,
    /// Hash of its key.
    pub(crate) hash: u64,
    /// Its conntrack, or [`NIL`]. Between the last two passes of lookup: which one it probably is.
    pub(crate) entry: u32,
    /// Which way it goes through the conntrack.
    pub(crate) direction: Direction,
    /// It made its conntrack: the first packet.
    pub(crate) first: bool,
    /// It has stood in the line behind redirected packets.
    pub(crate) lined_up: bool,
    /// It has waited until the peers knew its flow.
    pub(crate) released: bool,
    /// How often it was redirected, or may have been, because it has waited here.
    pub(crate) redirects: u8,
    /// Whether it waits while its slot is on its way here.
    pub(crate) turn: Turn,
    /// It is a fragment that has met its packet: its place in [`Batch::pieces`] is valid.
    pub(crate) passed: bool,
    /// VRF it leaves into.
    pub(crate) out: VrfId,
    /// Destination it leaves with.
    pub(crate) dst: Addr,
    /// What happens to the frame at the end.
    pub(crate) exit: Exit,
}

/// How a forwarded frame leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Not decided yet.
    None,
    /// Translated, to this neighbour.
    Neighbor { interface: InterfaceId, mac: Mac },
    /// As [`Self::Neighbor`], in pieces that the link can take.
    Split { interface: InterfaceId, mac: Mac },
    /// Translated, then back to the steer stage: its destination is one of our pools (RFC 4787 section 6).
    Hairpin,
    /// Complete, by this port: rewritten, or an answer of ours, which leaves as its question came.
    Port(PortId),
}

impl Work {
    const START: Self = Self {
        verdict: Verdict::Forward,
        port: PortId(0),
        handoffs: 0,
        cause: Cause::Subscriber,
        interface: InterfaceId(0),
        at: SlotRef {
            vrf: VrfId(0),
            slot: 0,
        },
        hash: 0,
        entry: NIL,
        direction: Direction::Original,
        first: false,
        lined_up: false,
        released: false,
        redirects: 0,
        turn: Turn::Later,
        passed: false,
        out: VrfId(0),
        dst: Addr::of_halves([0; 2]),
        exit: Exit::None,
    };

    /// A packet that has just arrived.
    pub(crate) const fn arrived(port: PortId, handoffs: u8) -> Self {
        Self {
            port,
            handoffs,
            ..Self::START
        }
    }

    /// Whether the next stage is to look at it.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.verdict, Verdict::Forward)
    }

    pub(crate) const fn drop(&mut self, reason: Drop) {
        self.verdict = Verdict::Drop(reason);
    }
}

impl<P> Batch<P> {
    pub(crate) fn new() -> Self {
        Self {
            packets: Burst::new(),
            meta: [Meta::default(); BURST],
            work: [Work::START; BURST],
            pieces: [PieceWork::START; BURST],
        }
    }

    /// Takes up a packet that has waited.
    pub(crate) fn resume(&mut self, waiting: Waiting<P>) -> &mut Work {
        let i = self.packets.len();
        let work = &mut self.work[i];
        *work = Work::arrived(waiting.port, waiting.handoffs);
        work.redirects = waiting.redirects;
        if waiting.mark.is_some() {
            work.passed = true;
            self.pieces[i] = PieceWork {
                ticket: Ticket::NONE,
                mark: waiting.mark,
            };
        }
        self.packets.push(waiting.packet);
        work
    }

    /// Takes every packet that is still going forward through `stage`.
    #[inline(always)]
    pub(crate) fn each(&mut self, mut stage: impl FnMut(&mut Meta, &mut Work)) {
        let count = self.packets.len();
        for (meta, work) in self.meta[..count].iter_mut().zip(&mut self.work[..count]) {
            if work.is_open() {
                stage(meta, work);
            }
        }
    }
}

/// What a stage works with besides the batch.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) pools: &'a Pools,
    pub(crate) owners: &'a Owners,
    pub(crate) tables: &'a mut Tables,
    pub(crate) notices: &'a mut Notices,
    pub(crate) worker: u16,
    pub(crate) workers: u16,
}
