//! The end of a burst: what is rewritten is collected per port, packets for other workers go into their rings, all of a
//! burst at once, fragments that have to wait into the store; what was dropped is counted and freed together. Packets that
//! few are like are rewritten here, each in its way.

use rtrb::Producer;

use super::{Batch, Context, Exit, Work};
use crate::counters::Counters;
use crate::delta::SlotRef;
use crate::exception::Exceptions;
use crate::flow::{FlowKey, VrfId};
use crate::fragment::split::split;
use crate::fragment::{Fragments, Held, Mark};
use crate::io::{Burst, Io, Packet, PortId};
use crate::stage::await_slot::Awaiting;
use crate::stage::handoff::{Cause, Handoff, Leaving};
use crate::stage::hold::{Holds, Waiting};
use crate::stage::line_up::Line;
use crate::stage::meta::{Kind, Meta, Piece};
use crate::stage::reassemble::PieceWork;
use crate::stage::respond::TokenBucket;
use crate::stage::rewrite::{rewrite_flow, rewrite_icmp_error, rewrite_piece, set_id, set_l2};
use crate::verdict::{Drop, Verdict};
use crate::vrf::Interface;
use crate::wire::ethernet::Mac;

/// ICMP errors and resets of our own: average per second and worker, and burst.
const ERRORS_PER_S: u32 = 1_000;
const ERRORS_BURST: u32 = 100;

/// Where packets wait that don't leave yet.
#[derive(Debug)]
pub(crate) struct Stores<P> {
    /// For the first fragment of their packet.
    pub(crate) fragments: Fragments<P>,
    /// For redirected packets in front of them.
    pub(crate) line: Line<P>,
    /// For their slot.
    pub(crate) awaiting: Awaiting<P>,
    /// For the peers to know their flow.
    pub(crate) holds: Holds<P>,
}

/// Frames collected per port until the end of the turn.
#[derive(Debug)]
pub(crate) struct Outgoing<P> {
    ports: Vec<Burst<P>>,
    dropped: Burst<P>,
    leaving: Leaving<P>,
    pub(crate) limiter: TokenBucket,
}

impl<P: Packet> Outgoing<P> {
    pub(crate) fn new(ports: usize, workers: u16) -> Self {
        Self {
            ports: (0..ports).map(|_| Burst::new()).collect(),
            dropped: Burst::new(),
            leaving: Leaving::new(workers),
            limiter: TokenBucket::new(ERRORS_PER_S, ERRORS_BURST),
        }
    }

    /// Adds a complete frame; a full burst leaves at once.
    #[inline]
    pub(crate) fn push<I: Io<Packet = P>>(
        &mut self,
        port: PortId,
        packet: P,
        io: &mut I,
        counters: &mut Counters,
    ) {
        let Some(burst) = self.ports.get_mut(port.index()) else {
            counters.drop(Drop::TxRejected);
            return;
        };
        burst.push(packet);
        if burst.is_full() {
            send(port, burst, io, counters);
        }
    }

    /// What this burst hands over.
    pub(crate) const fn leaving(&mut self) -> &mut Leaving<P> {
        &mut self.leaving
    }

    /// Sends everything that waits.
    pub(crate) fn flush<I: Io<Packet = P>>(&mut self, io: &mut I, counters: &mut Counters) {
        for (port, burst) in (0..).map(PortId).zip(&mut self.ports) {
            if !burst.is_empty() {
                send(port, burst, io, counters);
            }
        }
    }

    /// Gives back what was discarded.
    pub(crate) fn free<I: Io<Packet = P>>(&mut self, io: &mut I) {
        if !self.dropped.is_empty() {
            io.free(&mut self.dropped);
        }
    }

    /// Lets a packet go; with the next [`Self::free`] at the latest it is back in its pool.
    pub(crate) fn discard<I: Io<Packet = P>>(&mut self, packet: P, io: &mut I) {
        self.dropped.push(packet);
        if self.dropped.is_full() {
            io.free(&mut self.dropped);
        }
    }
}

fn send<I: Io>(port: PortId, burst: &mut Burst<I::Packet>, io: &mut I, counters: &mut Counters) {
    let (packets, bytes) = (
        burst.len(),
        burst.iter().map(|p| p.data().len() as u64).sum::<u64>(),
    );
    let accepted = io.tx(port, burst);
    counters.tx_packets += accepted as u64;
    if accepted == packets {
        counters.tx_bytes += bytes;
    } else {
        // Which bytes went is the port's to say; estimate by share.
        counters.tx_bytes += bytes * accepted as u64 / packets as u64;
        for _ in accepted..packets {
            counters.drop(Drop::TxRejected);
        }
    }
}

/// Ends the batch. `handoffs` is indexed by worker.
#[inline(never)]
pub(crate) fn transmit<I: Io>(
    batch: &mut Batch<I::Packet>,
    out: &mut Outgoing<I::Packet>,
    handoffs: &mut [Producer<Handoff<I::Packet>>],
    stores: &mut Stores<I::Packet>,
    exceptions: &mut Exceptions,
    io: &mut I,
    cx: &mut Context<'_>,
) {
    let Batch {
        packets,
        meta,
        work,
        pieces,
    } = batch;
    let places = meta.iter().zip(&*work).zip(&*pieces);
    for (packet, ((meta, work), piece)) in packets.drain(..).zip(places) {
        if work.is_open()
            && let Exit::Port(port) = work.exit
        {
            out.push(port, packet, io, &mut cx.tables.counters);
        } else {
            end(packet, (meta, work, piece), out, stores, exceptions, io, cx);
        }
    }
    out.leaving.flush(handoffs, &mut cx.tables.counters);
    out.free(io);
}

/// The end of a packet that isn't complete, whatever becomes of it.
#[inline(never)]
fn end<I: Io>(
    mut packet: I::Packet,
    (meta, work, piece): (&Meta, &Work, &PieceWork),
    out: &mut Outgoing<I::Packet>,
    stores: &mut Stores<I::Packet>,
    exceptions: &mut Exceptions,
    io: &mut I,
    cx: &mut Context<'_>,
) {
    let counters = &mut cx.tables.counters;
    match work.verdict {
        Verdict::HandOver(owner) => {
            out.leaving
                .hand_over(owner, packet, work, mark_of(work, piece), cx.tables);
            return;
        }
        Verdict::Drop(reason) => {
            counters.drop(reason);
            if work.passed && meta.piece == Piece::First {
                stores.fragments.refuse(piece.ticket);
            }
            out.discard(packet, io);
            return;
        }
        Verdict::Punt => {
            let limits = cx.snapshot.exception_limits(work.port);
            let counts = (&mut *counters, &mut cx.tables.punts);
            match exceptions.way(work.port, (packet.data(), meta), limits, cx.now, counts) {
                Ok(tap) => out.push(tap, packet, io, counters),
                Err(reason) => {
                    counters.drop(reason);
                    out.discard(packet, io);
                }
            }
            return;
        }
        Verdict::Hold => {
            let PieceWork { ticket, mark } = *piece;
            let held = Held {
                packet,
                port: work.port,
                handoffs: work.handoffs,
                ticket,
                mark: Mark::default(),
            };
            if let Err((packet, reason)) = stores.fragments.keep(held, mark) {
                counters.drop(reason);
                out.discard(packet, io);
            }
            return;
        }
        Verdict::LineUp => {
            let waiting = Waiting::of(packet, work, mark_of(work, piece));
            if let Err(packet) = stores.line.keep(work.at.vrf, waiting, counters) {
                counters.drop(Drop::RedirectFull);
                out.discard(packet, io);
            }
            return;
        }
        Verdict::Await => {
            let waiting = Waiting::of(packet, work, mark_of(work, piece));
            match stores.awaiting.keep(waiting, work) {
                Ok(()) => counters.slot_awaited += 1,
                Err(packet) => {
                    counters.drop(Drop::SlotMoving);
                    out.discard(packet, io);
                }
            }
            return;
        }
        Verdict::Wait => {
            let mark = mark_of(work, piece);
            if let Err((packet, reason)) = stores.holds.keep(packet, work, mark, cx.tables) {
                cx.tables.counters.drop(reason);
                out.discard(packet, io);
            }
            return;
        }
        Verdict::Forward => {}
    }
    let conntrack = cx.tables.conntracks.get(work.entry);
    let to = conntrack.map_or(meta.key, |conntrack| conntrack.translation(work.direction));
    let translated = if meta.kind == Kind::Flow && meta.piece == Piece::Whole {
        rewrite_flow(packet.data_mut(), meta, &to)
    } else {
        rewrite_rare(&mut packet, meta, (work, &to), piece, counters)
    };
    counters.translated += u64::from(translated);
    match work.exit {
        Exit::Neighbor { interface, mac } => {
            leave(
                packet,
                meta,
                mac,
                cx.snapshot.interface(interface),
                out,
                io,
                counters,
            );
        }
        Exit::Split { interface, mac } => {
            let interface = cx.snapshot.interface(interface);
            if meta.piece == Piece::Whole {
                identify(&mut packet, meta, &to, Some(stores.fragments.next_id()));
            }
            in_pieces(packet, meta, mac, interface, out, io, counters);
        }
        Exit::Hairpin => {
            let owner = hairpin_owner(to.vrf, &to, cx);
            let mark = mark_of(work, piece).map(|mark| mark.with_ports_of(&to));
            cx.tables.handoffs.count(work.port, Cause::Hairpin);
            let handoff = Handoff::of(packet, work, mark);
            out.leaving.push(owner, handoff, &mut cx.tables.counters);
        }
        // What has a port is complete, and gone.
        Exit::None | Exit::Port(_) => {
            counters.drop(Drop::NoRoute);
            out.discard(packet, io);
        }
    }
}

/// To a neighbour, rewritten.
fn leave<I: Io>(
    mut packet: I::Packet,
    meta: &Meta,
    mac: Mac,
    link: &Interface,
    out: &mut Outgoing<I::Packet>,
    io: &mut I,
    counters: &mut Counters,
) {
    if set_l2(&mut packet, meta, mac, link.mac, &link.tags) {
        out.push(link.port, packet, io, counters);
    } else {
        counters.drop(Drop::NoHeadroom);
        out.discard(packet, io);
    }
}

/// Sends a packet that is too large for its link.
#[cold]
fn in_pieces<I: Io>(
    mut packet: I::Packet,
    meta: &Meta,
    mac: Mac,
    link: &Interface,
    out: &mut Outgoing<I::Packet>,
    io: &mut I,
    counters: &mut Counters,
) {
    let mut pieces: Burst<I::Packet> = Burst::new();
    if !set_l2(&mut packet, meta, mac, link.mac, &link.tags) {
        counters.drop(Drop::NoHeadroom);
        out.discard(packet, io);
    } else if split(&mut packet, link.tags.l2_len(), link.mtu, io, &mut pieces) {
        counters.fragments_made += 1 + pieces.len() as u64;
        out.push(link.port, packet, io, counters);
        for piece in pieces {
            out.push(link.port, piece, io, counters);
        }
    } else {
        counters.drop(Drop::FragmentOverflow);
        out.discard(packet, io);
    }
}

/// An ICMP error, or a piece of a fragmented packet. Whether its flow's tuple is another than before.
#[cold]
fn rewrite_rare<P: Packet>(
    packet: &mut P,
    meta: &Meta,
    (work, to): (&Work, &FlowKey),
    piece: &PieceWork,
    counters: &mut Counters,
) -> bool {
    let translated = *to
        != FlowKey {
            vrf: to.vrf,
            ..meta.key
        };
    if meta.kind == Kind::IcmpError {
        counters.icmp_errors_translated += u64::from(translated);
        rewrite_icmp_error(packet.data_mut(), meta, to, work.direction);
    } else {
        rewrite_piece(packet.data_mut(), meta, to);
        identify(packet, meta, to, piece.mark.map(|mark| mark.id));
    }
    translated
}

fn hairpin_owner(vrf: VrfId, to: &FlowKey, cx: &Context<'_>) -> u16 {
    cx.pools
        .owner(vrf, &to.dst, to.dst_port)
        .map_or(cx.worker, |(vrf, slot)| {
            cx.owners.worker_of(SlotRef { vrf, slot })
        })
}

/// The mark of a fragment that has met its packet.
#[inline]
fn mark_of(work: &Work, piece: &PieceWork) -> Option<Mark> {
    if work.passed { piece.mark } else { None }
}

/// A translated IPv4 packet that leaves in pieces gets an identification of this node's.
#[cold]
fn identify<P: Packet>(packet: &mut P, meta: &Meta, to: &FlowKey, id: Option<u16>) {
    if let Some(id) = id
        && !meta.is_v6
        && to.src != meta.key.src
    {
        set_id(packet.data_mut(), meta, id);
    }
}
