//! Fragments find the packet they belong to ([`crate::fragment`]). Runs only for bursts that hold fragments, on the worker
//! where all pieces of a packet meet; what leaves it as a flow, marked, is handed to the flow's owner like any packet.
//!
//! A packet's first piece alone meets policy and opens its conntrack; a later one follows that conntrack or is dropped.

use super::handoff::Cause;
use super::steer::{hand_to, owner_slot};
use super::{Batch, Context};
use crate::delta::SlotRef;
use crate::flow::FlowKey;
use crate::fragment::{Fate, Fragments, Mark, Ticket};
use crate::io::Packet;
use crate::stage::meta::{Meta, Piece};
use crate::verdict::{Drop, Verdict};

/// What a burst keeps for each piece in it. Means nothing for whole packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PieceWork {
    pub(crate) ticket: Ticket,
    /// Known for a piece that goes on, and for one to be held whose first piece came later in the burst.
    pub(crate) mark: Option<Mark>,
}

impl PieceWork {
    pub(crate) const START: Self = Self {
        ticket: Ticket::NONE,
        mark: None,
    };
}

/// Pieces that met their packet before, here or at another worker, are part of their flow again.
#[cold]
pub(crate) fn remark<P: Packet>(batch: &mut Batch<P>) {
    for i in 0..batch.packets.len() {
        if batch.work[i].passed
            && batch.work[i].is_open()
            && let Some(mark) = batch.pieces[i].mark
        {
            mark.apply(&mut batch.meta[i]);
        }
    }
}

#[cold]
pub(crate) fn reassemble<P: Packet>(
    batch: &mut Batch<P>,
    fragments: &mut Fragments<P>,
    cx: &mut Context<'_>,
) {
    for i in 0..batch.packets.len() {
        let (meta, work) = (&mut batch.meta[i], &mut batch.work[i]);
        if !work.is_open() || meta.piece == Piece::Whole || work.passed {
            continue;
        }
        if cx.snapshot.is_local(meta.key.vrf, &meta.key.dst).is_some() {
            work.verdict = Verdict::Punt;
            continue;
        }
        let follows = cx.tables.is_active(meta.key.vrf);
        let fate = match meta.piece {
            // Nothing is followed or kept for a node that forwards nothing. A first piece goes on, to be counted.
            Piece::First if !follows => Fate::Pass(Mark::of(meta), Ticket::NONE),
            _ if !follows => Fate::Drop(Drop::StandbyUnmatched),
            piece => {
                let key = packet_key(meta);
                let hash = cx.tables.conntracks.hash(&key);
                let first = (piece == Piece::First).then(|| Mark::of(meta));
                fragments.accept(&key, hash, &meta.fragment, first, cx.now, &mut cx.tables.counters)
            }
        };
        match fate {
            Fate::Drop(reason) => work.drop(reason),
            Fate::Hold(ticket) => {
                work.verdict = Verdict::Hold;
                batch.pieces[i] = PieceWork { ticket, mark: None };
            }
            Fate::Pass(mark, ticket) => {
                batch.pieces[i] = PieceWork {
                    ticket,
                    mark: Some(mark),
                };
                mark.apply(meta);
                work.passed = true;
                work.at = owner_slot(meta, cx).0;
                work.cause = Cause::Fragment;
                hand_to(cx.owners.worker_of(work.at), work, cx);
                if meta.piece == Piece::First {
                    tell(batch, i, ticket, mark);
                }
            }
        }
    }
}

/// Earlier pieces of this burst that were about to wait needn't.
fn tell<P>(batch: &mut Batch<P>, first: usize, ticket: Ticket, mark: Mark) {
    for i in 0..first {
        if batch.work[i].verdict == Verdict::Hold && batch.pieces[i].ticket == ticket {
            batch.pieces[i].mark = Some(mark);
        }
    }
}

/// Names a fragmented packet: the identification stands in for the ports. The protocol belongs to it in IPv4 (RFC 791
/// section 3.2), and doesn't in IPv6 (RFC 8200 section 4.5).
fn packet_key(meta: &Meta) -> FlowKey {
    let [a, b, c, d] = meta.fragment.id.to_be_bytes();
    FlowKey {
        src_port: u16::from_be_bytes([a, b]),
        dst_port: u16::from_be_bytes([c, d]),
        proto: if meta.is_v6 { 0 } else { meta.key.proto },
        ..meta.key
    }
}

/// Worker where the pieces of a packet meet. Mostly the owner of the flow follows from the addresses alone; from outside to
/// a pool only the first piece could tell, so any worker does as long as all pieces get the same.
#[cold]
pub(crate) fn meeting_worker(meta: &Meta, at: SlotRef, cx: &Context<'_>) -> u16 {
    let key = &meta.key;
    let to_pool = cx.pools.is_pool_address(key.vrf, &key.dst);
    if to_pool && !cx.snapshot.vrf(key.vrf).inside.contains(&key.src) {
        crate::shard::worker_of_packet(&key.src, &key.dst, meta.fragment.id, cx.workers)
    } else {
        cx.owners.worker_of(at)
    }
}
