//! The way out: route, link, size, time to live, neighbour. Decided before anything is rewritten, so that an ICMP
//! error about the packet can quote it as its sender knows it.

use super::{Batch, Context, Exit, Work};
use crate::flow::VrfId;
use crate::fragment::split::can_split;
use crate::io::Packet;
use crate::slot::NIL;
use crate::stage::meta::Meta;
use crate::verdict::Drop;

/// Whether every packet goes to a neighbour, so that nobody is owed an answer.
#[inline(never)]
#[must_use]
pub(crate) fn forward<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) -> bool {
    let mut known = Known::NOTHING;
    let mut to_neighbors = 0;
    batch.each(|meta, work| {
        if work.entry == NIL {
            return;
        }
        match leads_to(meta, work, cx) {
            Ok(Lead::Ways(set)) if known.is(work.out, set, meta.ip_len) => {
                work.exit = known.exit;
                to_neighbors += 1;
            }
            Ok(Lead::Ways(set)) => match way_out(meta, work, set, &mut known, cx) {
                Ok(exit) => {
                    work.exit = exit;
                    to_neighbors += usize::from(matches!(exit, Exit::Neighbor { .. }));
                }
                Err(reason) => work.drop(reason),
            },
            Ok(Lead::Pool) => work.exit = Exit::Hairpin,
            Err(reason) => work.drop(reason),
        }
    });
    to_neighbors == batch.packets.len()
}

/// What a packet's destination leads to.
enum Lead {
    /// A set of equal ways.
    Ways(u32),
    /// One of our pools (RFC 4787 REQ-9): to another subscriber's outside address, through the NAT twice.
    Pool,
}

#[inline(always)]
fn leads_to(meta: &Meta, work: &Work, cx: &Context<'_>) -> Result<Lead, Drop> {
    if meta.ttl <= 1 {
        return Err(Drop::TtlExceeded);
    }
    let vrf = cx.snapshot.vrf(work.out);
    // Translation doesn't change the family, and pools are of IPv4.
    let set = if meta.is_v6 {
        vrf.set_of_ways_v6(work.dst.number())
    } else {
        let dst = work.dst.as_v4();
        if cx.pools.is_pool_address(work.out, &dst) {
            return Ok(Lead::Pool);
        }
        vrf.set_of_ways_v4(dst.v4_number())
    };
    set.map(Lead::Ways).ok_or(Drop::NoRoute)
}

/// The way that a packet of this burst has taken, when all packets to that set of next hops take it: through the one gateway.
/// Many packets of a burst do.
struct Known {
    vrf: VrfId,
    set: u32,
    /// Of the link.
    mtu: u16,
    exit: Exit,
}

impl Known {
    /// No packet is so short.
    const NOTHING: Self = Self {
        vrf: VrfId(0),
        set: 0,
        mtu: 0,
        exit: Exit::None,
    };

    #[inline]
    fn is(&self, vrf: VrfId, set: u32, ip_len: u16) -> bool {
        set == self.set && vrf == self.vrf && ip_len <= self.mtu
    }
}

/// The way that the flow's packets take, of a set. Not inlined: where there is one gateway, few packets of a burst ask.
#[inline(never)]
fn way_out(
    meta: &Meta,
    work: &Work,
    set: u32,
    known: &mut Known,
    cx: &mut Context<'_>,
) -> Result<Exit, Drop> {
    let (vrf, dst) = (work.out, &work.dst);
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the hash do")]
    let flow_hash = work.hash as u32;
    let way = cx.snapshot.way(vrf, set, flow_hash);
    let interface = cx.snapshot.interface(way.interface);
    if !interface.up {
        return Err(Drop::LinkDown);
    }
    let mtu = interface.mtu;
    let too_big = meta.ip_len > mtu;
    if too_big && !can_split(meta, mtu) {
        return Err(Drop::TooBig);
    }
    let Some(mac) = cx.snapshot.next_mac(way, dst) else {
        let hop = way.next_hop(dst);
        cx.notices.unresolved(way.interface, hop, cx.now);
        return Err(Drop::NeighborUnresolved);
    };
    let interface = way.interface;
    if too_big {
        return Ok(Exit::Split { interface, mac });
    }
    let exit = Exit::Neighbor { interface, mac };
    if cx.snapshot.is_one_gateway(vrf, set) {
        *known = Known { vrf, set, mtu, exit };
    }
    Ok(exit)
}
