//! The way out: route, link, size, time to live, neighbour. Decided before anything is rewritten, so that an ICMP
//! error about the packet can quote it as its sender knows it.

use super::{Batch, Context, Exit, Work};
use crate::fragment::split::can_split;
use crate::io::Packet;
use crate::slot::NIL;
use crate::stage::meta::Meta;
use crate::verdict::Drop;

#[inline(never)]
pub(crate) fn forward<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    batch.each(|meta, work| {
        if work.entry == NIL {
            return;
        }
        match way_out(meta, work, cx) {
            Ok(exit) => work.exit = exit,
            Err(reason) => work.drop(reason),
        }
    });
}

#[inline]
fn way_out(meta: &Meta, work: &Work, cx: &mut Context<'_>) -> Result<Exit, Drop> {
    if meta.ttl <= 1 {
        return Err(Drop::TtlExceeded);
    }
    // RFC 4787 REQ-9: to another subscriber's outside address, through the NAT twice.
    if cx.pools.is_pool_address(work.to.vrf, &work.to.dst) {
        return Ok(Exit::Hairpin);
    }
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the hash do")]
    let flow_hash = work.hash as u32;
    let way = cx
        .snapshot
        .route(work.to.vrf, &work.to.dst, flow_hash)
        .ok_or(Drop::NoRoute)?;
    let interface = cx.snapshot.interface(way.interface);
    if !interface.up {
        return Err(Drop::LinkDown);
    }
    let too_big = meta.ip_len > interface.mtu;
    if too_big && !can_split(meta, interface.mtu) {
        return Err(Drop::TooBig);
    }
    let Some(mac) = cx.snapshot.next_mac(way, &work.to.dst) else {
        let hop = way.next_hop(&work.to.dst);
        cx.notices.unresolved(way.interface, hop, cx.now);
        return Err(Drop::NeighborUnresolved);
    };
    let interface = way.interface;
    Ok(if too_big {
        Exit::Split { interface, mac }
    } else {
        Exit::Neighbor { interface, mac }
    })
}
