//! Finds each packet's conntrack: one pass asks for the index lines, one for the entries, one compares. On a node that
//! is not active, what is found only decides under which reason the packet is dropped.

use super::{Batch, Context};
use crate::conntrack::State;
use crate::delta::Class;
use crate::flow::{Direction, proto};
use crate::io::Packet;
use crate::slot::NIL;
use crate::stage::meta::{Kind, Meta};
use crate::verdict::Drop;
use crate::wire::tcp;

pub(crate) fn lookup<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    let flows = |meta: &Meta| matches!(meta.kind, Kind::Flow | Kind::IcmpError);
    for i in batch.open() {
        let (meta, work) = (&batch.meta[i], &mut batch.work[i]);
        if flows(meta) {
            work.hash = cx.tables.conntracks.hash(&meta.key);
            cx.tables.conntracks.prefetch(work.hash);
        }
    }
    for i in batch.open() {
        if flows(&batch.meta[i]) {
            let work = &mut batch.work[i];
            work.entry = cx
                .tables
                .conntracks
                .prefetch_entry(work.hash, batch.meta[i].key.proto);
        }
    }
    let mut unmatched = 0;
    for i in batch.open() {
        let (meta, work) = (&batch.meta[i], &mut batch.work[i]);
        if !flows(meta) {
            continue;
        }
        let found = cx.tables.conntracks.find_at(work.entry, work.hash, &meta.key);
        (work.entry, work.direction) = found.unwrap_or((NIL, Direction::Original));
        if !cx.tables.is_active(work.at.vrf) {
            // Addresses of the node itself stay the kernel's on a standby too; admit tells them apart.
            if work.entry != NIL {
                work.drop(Drop::StandbyMatched);
            }
            continue;
        }
        if work.entry != NIL {
            let term = cx.tables.roles[work.at.vrf.index()].term;
            cx.tables.conntracks[work.entry].observe_reign(term);
            if reopens(cx, meta, work.entry, work.direction) {
                cx.tables.remove(cx.now, work.entry);
                work.entry = NIL;
            }
        }
        if work.entry == NIL {
            cx.tables.expect_new(work.at, unmatched);
            unmatched += 1;
        }
    }
}

/// A SYN on the tuple of a finished connection opens a new one, which policy has to see (RFC 9293 section 3.6.1).
fn reopens(cx: &Context<'_>, meta: &Meta, id: u32, direction: Direction) -> bool {
    let syn = meta.tcp.flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if meta.kind != Kind::Flow || meta.key.proto != proto::TCP || !syn {
        return false;
    }
    let conntrack = &cx.tables.conntracks[id];
    let State::Tcp(track) = &conntrack.state else {
        return false;
    };
    let check = cx.snapshot.vrf(conntrack.vrf()).tcp_window_check;
    conntrack.class == Class::Closing
        && track
            .clone()
            .observe(direction, &meta.tcp, check)
            .is_ok_and(|o| o.reopened)
}
