//! Finds each packet's conntrack: one pass asks for the index lines, one for the entries, one compares. On a node that
//! is not active, what is found only decides under which reason the packet is dropped.

use arrayvec::ArrayVec;

use super::{Batch, Context, Work};
use crate::conntrack::Reign;
use crate::delta::Class;
use crate::flow::{Direction, VrfId, proto};
use crate::io::{BURST, Packet};
use crate::slot::NIL;
use crate::stage::expire::end_if_over;
use crate::stage::handoff::Cause;
use crate::stage::meta::{Kind, Meta};
use crate::verdict::Drop;
use crate::wire::tcp;

/// Whether there are first packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Every packet of the burst has its conntrack, or needs none.
    All,
    /// Some have none.
    NotAll,
}

#[inline(never)]
pub(crate) fn lookup<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) -> Found {
    let flows = |meta: &Meta| matches!(meta.kind, Kind::Flow | Kind::IcmpError);
    let conntracks = &cx.tables.conntracks;
    batch.each(|meta, work| {
        if flows(meta) {
            work.hash = conntracks.hash(&meta.key);
            conntracks.prefetch(work.hash);
        }
    });
    if conntracks.is_moving() {
        batch.each(|meta, work| {
            if flows(meta) {
                conntracks.prefetch_former(work.hash);
            }
        });
    }
    let counted = cx.snapshot.counts_flows();
    batch.each(|meta, work| {
        if flows(meta) {
            work.entry = conntracks.prefetch_entry(work.hash, meta.key.proto, counted);
        }
    });
    let now_s = cx.now.secs();
    let mut rule = Rule::NONE;
    let mut result = Found::All;
    let mut unmatched = 0;
    // Finished connections that packets of this burst belong to.
    let mut closing = ArrayVec::<u32, BURST>::new();
    batch.each(|meta, work| {
        if !flows(meta) {
            return;
        }
        let found = cx.tables.conntracks.find_at(work.entry, work.hash, &meta.key);
        let (expires_s, class) = if let Some((entry, direction, conntrack)) = found {
            (work.entry, work.direction) = (entry, direction);
            if conntrack.class == Class::Opening || ends(meta) {
                conntrack.expect_change();
            }
            (conntrack.expires_s, conntrack.class)
        } else {
            (work.entry, work.direction) = (NIL, Direction::Original);
            (u32::MAX, Class::Opening)
        };
        if rule.vrf != work.at.vrf {
            rule = Rule::of(work.at.vrf, cx);
        }
        if !rule.active {
            // Addresses of the node itself stay the kernel's on a standby too; admit tells them apart.
            if work.entry == NIL {
                result = Found::NotAll;
            } else {
                work.drop(Drop::StandbyMatched);
            }
            return;
        }
        if work.entry != NIL {
            if expires_s <= now_s && end_if_over(cx.tables, cx.now, work.entry) {
                work.entry = NIL;
            } else if is_syn(meta) && reopens(cx, meta, work) {
                // Packets in front of it still need what it would end: it comes again in a second.
                if closing.contains(&work.entry) {
                    return work.drop(Drop::TcpState);
                }
                // A SYN on the tuple of a finished connection opens a new one, which policy has to see (RFC 9293 section 3.6.1).
                cx.tables.remove(cx.now, work.entry);
                work.entry = NIL;
            } else if class == Class::Closing {
                closing.push(work.entry);
            }
        }
        if work.entry == NIL {
            // From outside to a pool hardly anything is let in.
            if work.cause != Cause::Pool {
                cx.tables.expect_new(work.at, unmatched);
                unmatched += 1;
            }
            result = Found::NotAll;
        }
    });
    result
}

/// What a packet has to know of a VRF's role: looked up when the VRF is another than that of the packet before.
struct Rule {
    vrf: VrfId,
    active: bool,
}

impl Rule {
    /// Of no VRF that there is.
    const NONE: Self = Self {
        vrf: VrfId(u16::MAX),
        active: false,
    };

    #[inline]
    fn of(vrf: VrfId, cx: &Context<'_>) -> Self {
        Self {
            vrf,
            active: cx.tables.is_active(vrf),
        }
    }
}

/// Whether it may end its connection.
#[inline]
fn ends(meta: &Meta) -> bool {
    meta.key.proto == proto::TCP && meta.tcp.flags & (tcp::FIN | tcp::RST) != 0
}

#[inline]
fn is_syn(meta: &Meta) -> bool {
    meta.key.proto == proto::TCP
        && meta.kind == Kind::Flow
        && meta.tcp.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}

#[cold]
fn reopens(cx: &mut Context<'_>, meta: &Meta, work: &Work) -> bool {
    let term = cx.tables.roles[work.at.vrf.index()].term;
    let conntrack = &mut cx.tables.conntracks[work.entry];
    conntrack.observe_reign(Reign::of(term));
    let Some(track) = conntrack.tcp() else {
        return false;
    };
    let check = cx.snapshot.vrf(conntrack.vrf()).tcp_window_check;
    conntrack.class == Class::Closing
        && track
            .clone()
            .observe(work.direction, &meta.tcp, check)
            .is_ok_and(|o| o.reopened)
}
