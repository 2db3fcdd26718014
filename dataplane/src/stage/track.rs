//! Advances the protocol state of each packet's conntrack and its lifetime. A change of the replicated class is
//! listed at once; a lifetime only when a third of it has passed since the peer last heard. Packets are counted per flow where the
//! flow's VRF wants it.

use super::{Batch, Context};
use crate::conntrack::{Conntrack, Reign, Wheel, icmp, udp};
use crate::delta::Class;
use crate::flow::{Direction, VrfId, proto};
use crate::io::Packet;
use crate::slot::NIL;
use crate::stage::meta::{Kind, Meta};
use crate::time::Instant;
use crate::verdict::Drop;
use crate::vrf::Vrf;

/// Part of the timeout after which the peer is told that the conntrack is alive.
const REFRESH_SHARE: u32 = 3;

#[inline(never)]
pub(crate) fn track<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    let mut known: Option<Known<'_>> = None;
    batch.each(|meta, work| {
        if work.entry == NIL {
            return;
        }
        let conntrack = &mut cx.tables.conntracks[work.entry];
        (work.out, work.dst) = conntrack.destination(work.direction);
        // An error says nothing about the life of the flow it quotes (RFC 5508 section 4).
        if meta.kind != Kind::Flow {
            return;
        }
        let ids = (work.at.vrf, conntrack.vrf());
        let known = match known {
            Some(last) if last.ids == ids => last,
            _ => *known.insert(Known {
                ids,
                reign: Reign::of(cx.tables.roles[ids.0.index()].term),
                vrf: cx.snapshot.vrf(ids.1),
            }),
        };
        let mut change = None;
        if !work.first {
            conntrack.observe_reign(known.reign);
            match advance(conntrack, work.direction, meta, known.vrf) {
                Ok(advance) => change = live_on(conntrack, advance, work.entry, cx.now, &mut cx.tables.wheel),
                Err(reason) => return work.drop(reason),
            }
        }
        if known.vrf.flow_counters {
            conntrack.count(work.direction, meta.ip_len);
        }
        if let Some(Change { refresh, opened }) = change {
            cx.tables.touch(work.entry, refresh);
            if opened && work.direction == Direction::Reply {
                cx.tables.admission.answered();
            }
        }
    });
}

/// Of the VRFs of the packet before, which most packets of a burst share: the one whose role counts, and the one that the
/// flow began in.
#[derive(Clone, Copy)]
struct Known<'a> {
    ids: (VrfId, VrfId),
    reign: Reign,
    vrf: &'a Vrf,
}

/// What the peer is to be told.
struct Change {
    /// Only that the conntrack is alive.
    refresh: bool,
    /// It isn't just opening any more.
    opened: bool,
}

struct Advance {
    class: Class,
    /// New lifetime; none when the packet proves nothing.
    lifetime_s: Option<u32>,
}

#[inline]
fn advance(conntrack: &mut Conntrack, direction: Direction, meta: &Meta, vrf: &Vrf) -> Result<Advance, Drop> {
    let timeouts = &vrf.timeouts;
    if let Some(track) = conntrack.tcp_mut() {
        let outcome = track.observe(direction, &meta.tcp, vrf.tcp_window_check)?;
        return Ok(Advance {
            class: outcome.class,
            lifetime_s: outcome.refresh.then(|| outcome.timeout.timeout_s(timeouts)),
        });
    }
    let (class, lifetime_s) = match conntrack.proto() {
        proto::ICMP | proto::ICMP6 => {
            let mut track = icmp::Track::inherited(conntrack.class);
            track.observe(direction);
            (track.class(), track.timeout_s(timeouts))
        }
        protocol => {
            let mut track = udp::Track::inherited(conntrack.class);
            track.observe(direction);
            let lifetime_s = if protocol == proto::UDP {
                track.timeout_s(timeouts)
            } else {
                timeouts.other_s
            };
            (track.class(), lifetime_s)
        }
    };
    Ok(Advance {
        class,
        lifetime_s: Some(lifetime_s),
    })
}

/// Writes down what has changed. The peer is told a new class at once, and a lifetime when it was long ago.
#[inline]
fn live_on(
    conntrack: &mut Conntrack,
    advance: Advance,
    id: u32,
    now: Instant,
    wheel: &mut Wheel,
) -> Option<Change> {
    let mut told = true;
    if let Some(lifetime_s) = advance.lifetime_s {
        let expires_s = now.secs() + lifetime_s;
        // A later deadline is found at the next visit; an earlier one must move the visit, or a
        // closed connection would keep its port for an established one's lifetime.
        if expires_s < conntrack.expires_s {
            wheel.sooner(id, expires_s);
        }
        conntrack.expires_s = expires_s;
        told = now.secs().saturating_sub(conntrack.refreshed_s) < lifetime_s / REFRESH_SHARE;
    }
    let refresh = advance.class == conntrack.class;
    if refresh && told {
        return None;
    }
    let opened = !refresh && conntrack.class == Class::Opening;
    if !refresh {
        conntrack.enter_class(advance.class);
    }
    if advance.lifetime_s.is_some() {
        conntrack.refreshed_s = now.secs();
    }
    Some(Change { refresh, opened })
}
