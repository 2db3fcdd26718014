//! Finds each packet's conntrack: one pass asks for the index lines, one for the entries, one compares. On a node that
//! is not active, what is found only decides under which reason the packet is dropped.

use arrayvec::ArrayVec;

use super::{Batch, Context, Work};
use crate::conntrack::{Conntrack, Reign, Table};
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
            work.hash = hash_of(conntracks, meta);
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
    let mut displaced = false;
    batch.each(|meta, work| {
        if flows(meta) {
            work.entry = conntracks.prefetch_entry(work.hash, meta.key.proto, counted);
            displaced |= work.entry == NIL;
        }
    });
    if displaced {
        batch.each(|meta, work| {
            if flows(meta) && work.entry == NIL {
                work.entry = conntracks.prefetch_displaced(work.hash, meta.key.proto, counted);
            }
        });
    }
    let now_s = cx.now.secs();
    let mut rule = Rule::NONE;
    let mut unmatched = Unmatched::default();
    // Finished connections that packets of this burst belong to.
    let mut closing = ArrayVec::<u32, BURST>::new();
    batch.each(|meta, work| {
        if !flows(meta) {
            return;
        }
        if rule.vrf != work.at.vrf {
            rule = Rule::of(work.at.vrf, cx);
        }
        let conntracks = &cx.tables.conntracks;
        let candidate = candidate_of(conntracks, meta, work);
        let Some((entry, direction, conntrack)) = candidate.or_else(|| elsewhere(conntracks, meta, work))
        else {
            (work.entry, work.direction) = (NIL, Direction::Original);
            unmatched.note(rule.active, meta, work, cx);
            return;
        };
        (work.entry, work.direction) = (entry, direction);
        let turns = turns(meta);
        let (class, over) = (conntrack.class, conntrack.expires_s <= now_s);
        if class == Class::Opening || turns {
            conntrack.expect_change();
        }
        if !rule.active {
            work.drop(Drop::StandbyMatched);
        } else if (over || turns) && makes_room(meta, work, &closing, cx) {
            work.entry = NIL;
            unmatched.note(true, meta, work, cx);
        } else if class == Class::Closing {
            closing.push(work.entry);
        }
    });
    if unmatched.any { Found::NotAll } else { Found::All }
}

/// The family is looked at here, once, and not wherever an address is used.
#[inline(always)]
fn hash_of(conntracks: &Table, meta: &Meta) -> u64 {
    if meta.is_v6 {
        conntracks.hash(&meta.key)
    } else {
        conntracks.hash(&meta.key.as_v4())
    }
}

/// A packet's conntrack where it is the bucket's first candidate. The family: as for [`hash_of`].
#[inline(always)]
fn candidate_of<'a>(
    conntracks: &'a Table,
    meta: &Meta,
    work: &Work,
) -> Option<(u32, Direction, &'a Conntrack)> {
    if meta.is_v6 {
        conntracks.candidate_at(work.entry, &meta.key)
    } else {
        conntracks.candidate_at(work.entry, &meta.key.as_v4())
    }
}

/// A packet's conntrack where the bucket's first candidate isn't it.
#[inline(never)]
fn elsewhere<'a>(conntracks: &'a Table, meta: &Meta, work: &Work) -> Option<(u32, Direction, &'a Conntrack)> {
    let (entry, direction) = conntracks.find(work.hash, &meta.key)?;
    Some((entry, direction, &conntracks[entry]))
}

/// Packets of a burst that have no conntrack.
#[derive(Default)]
struct Unmatched {
    any: bool,
    /// How many may become a conntrack.
    expected: usize,
}

impl Unmatched {
    /// Addresses of the node itself stay the kernel's on a standby too, where nothing else is made of it; admit tells them apart.
    #[inline(never)]
    fn note(&mut self, active: bool, meta: &Meta, work: &Work, cx: &mut Context<'_>) {
        self.any = true;
        // From outside to a pool hardly anything is let in, and in a flood hardly anybody.
        let key = &meta.key;
        let hopeless = work.cause == Cause::Pool || cx.pools.is_pool_address(key.vrf, &key.dst);
        if active && !hopeless && cx.tables.admission.may_admit() {
            cx.tables.expect_new(work.at, self.expected);
            self.expected += 1;
        }
    }
}

/// Whether the conntrack that was found is over, or a SYN opens another one in its place.
#[inline(never)]
fn makes_room(meta: &Meta, work: &mut Work, closing: &[u32], cx: &mut Context<'_>) -> bool {
    let over = cx.tables.conntracks[work.entry].expires_s <= cx.now.secs();
    if over && end_if_over(cx.tables, cx.now, work.entry) {
        return true;
    }
    if !is_syn(meta) || !reopens(cx, meta, work) {
        return false;
    }
    if closing.contains(&work.entry) {
        // Packets in front of it still need what it would end: it comes again in a second.
        work.drop(Drop::TcpState);
        return false;
    }
    // A SYN on the tuple of a finished connection opens a new one, which policy has to see (RFC 9293 section 3.6.1).
    cx.tables.remove(cx.now, work.entry);
    true
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

/// Whether it may begin or end a connection.
#[inline]
fn turns(meta: &Meta) -> bool {
    meta.key.proto == proto::TCP && meta.tcp.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
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
