//! What the packet path says itself: ARP and ND for pool and virtual addresses while active, echo replies, and the
//! ICMP errors and resets that a drop owes the sender.

use super::{Batch, Context, Exit, Work};
use crate::flow::proto;
use crate::io::{Io, Packet};
use crate::stage::meta::{Kind, Meta, Piece};
use crate::stage::respond::{
    IcmpError, arp_reply, echo_reply, icmp_error, neighbor_advertisement, tcp_reset,
};
use crate::stage::transmit::Outgoing;
use crate::verdict::{Drop, Verdict};

/// Answers for the batch. New frames go straight to `out`; those made in place leave with the batch.
pub(crate) fn answer<I: Io>(
    batch: &mut Batch<I::Packet>,
    out: &mut Outgoing<I::Packet>,
    io: &mut I,
    cx: &mut Context<'_>,
) {
    let places = batch.meta.iter().zip(&mut batch.work);
    for (packet, (meta, work)) in batch.packets.iter_mut().zip(places) {
        // Most packets: on their way.
        if matches!(work.exit, Exit::Neighbor { .. }) {
            continue;
        }
        match work.verdict {
            Verdict::Forward => match meta.kind {
                Kind::Arp | Kind::NeighborDiscovery => answer_neighbor(packet, meta, work, cx),
                Kind::Flow if matches!(work.exit, Exit::Port(_)) => {
                    if echo_reply(packet.data_mut(), meta) {
                        cx.tables.counters.echos_answered += 1;
                    } else {
                        work.drop(Drop::BadL4Header);
                    }
                }
                _ => {}
            },
            Verdict::Drop(reason) => {
                if let Some(error) = owed(reason, meta, work, cx) {
                    send_error(packet, meta, work, error, out, io, cx);
                }
            }
            Verdict::Punt
            | Verdict::Hold
            | Verdict::LineUp
            | Verdict::Await
            | Verdict::Wait
            | Verdict::HandOver(_) => {}
        }
    }
}

/// Asked for one of the addresses that move with the role: ours to answer, and only while active. The kernel
/// answers for its own.
fn answer_neighbor<P: Packet>(packet: &mut P, meta: &Meta, work: &mut Work, cx: &mut Context<'_>) {
    let vrf = cx.snapshot.interface(work.interface).vrf;
    let ours = meta.is_request && cx.snapshot.answers_for(work.interface, &meta.key.dst);
    if !ours {
        work.verdict = Verdict::Punt;
        return;
    }
    if !cx.tables.is_active(vrf) {
        work.drop(Drop::StandbyUnmatched);
        return;
    }
    let mac = cx.snapshot.interface(work.interface).mac;
    let answered = match meta.kind {
        Kind::Arp => arp_reply(packet.data_mut(), meta, mac),
        _ => neighbor_advertisement(packet, meta, mac),
    };
    if answered {
        cx.tables.counters.neighbors_answered += 1;
        work.exit = Exit::Port(work.port);
    } else {
        work.drop(Drop::Truncated);
    }
}

/// An answer that a dropped packet's sender is owed.
#[derive(Debug, Clone, Copy)]
enum Owed {
    Icmp(IcmpError),
    Reset,
}

fn owed(reason: Drop, meta: &Meta, work: &Work, cx: &Context<'_>) -> Option<Owed> {
    // Of a fragmented packet, only the first piece is answered (RFC 1122, section 3.2.2).
    if meta.piece == Piece::Later {
        return None;
    }
    match reason {
        Drop::TtlExceeded => Some(Owed::Icmp(IcmpError::TimeExceeded)),
        Drop::TooBig => {
            #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the hash do")]
            let way = cx.snapshot.route(work.out, &work.dst, work.hash as u32)?;
            Some(Owed::Icmp(IcmpError::TooBig {
                mtu: cx.snapshot.interface(way.interface).mtu,
            }))
        }
        Drop::NoRoute => Some(Owed::Icmp(IcmpError::NoRoute)),
        Drop::RuleReject if meta.key.proto == proto::TCP => Some(Owed::Reset),
        Drop::RuleReject => Some(Owed::Icmp(IcmpError::AdminProhibited)),
        _ => None,
    }
}

fn send_error<I: Io>(
    offender: &I::Packet,
    meta: &Meta,
    work: &Work,
    owed: Owed,
    out: &mut Outgoing<I::Packet>,
    io: &mut I,
    cx: &mut Context<'_>,
) {
    let interface = cx.snapshot.interface(work.interface);
    if !out.limiter.take(cx.now) {
        cx.tables.counters.icmp_errors_limited += 1;
        return;
    }
    let Some(mut packet) = io.alloc() else { return };
    let built = match owed {
        Owed::Reset => tcp_reset(&mut packet, meta),
        Owed::Icmp(error) => {
            let source = if meta.is_v6 {
                interface.primary_v6
            } else {
                interface.primary_v4
            };
            source.is_some_and(|source| icmp_error(&mut packet, offender.data(), meta, source, error))
        }
    };
    if !built {
        return;
    }
    match owed {
        Owed::Reset => cx.tables.counters.tcp_resets_sent += 1,
        Owed::Icmp(_) => cx.tables.counters.icmp_errors_sent += 1,
    }
    out.push(interface.port, packet, io, &mut cx.tables.counters);
}
