//! Advances the protocol state of each packet's conntrack and its lifetime. A change of the replicated class is
//! listed at once; a lifetime only when a third of it has passed since the peer last heard.

use super::{Batch, Context};
use crate::config::Timeouts;
use crate::conntrack::{Conntrack, State};
use crate::delta::Class;
use crate::flow::Direction;
use crate::io::Packet;
use crate::slot::NIL;
use crate::stage::meta::{Kind, Meta};
use crate::verdict::Drop;

/// Part of the timeout after which the peer is told that the conntrack is alive.
const REFRESH_SHARE: u32 = 3;

pub(crate) fn track<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    for i in batch.open() {
        let (meta, work) = (&batch.meta[i], &mut batch.work[i]);
        if work.entry == NIL {
            continue;
        }
        let id = work.entry;
        let conntrack = &mut cx.tables.conntracks[id];
        // An error says nothing about the life of the flow it quotes (RFC 5508 section 4).
        if meta.kind == Kind::Flow {
            if !work.first {
                let vrf = cx.snapshot.vrf(conntrack.vrf());
                let advanced = advance(
                    conntrack,
                    work.direction,
                    meta,
                    &vrf.timeouts,
                    vrf.tcp_window_check,
                );
                match advanced {
                    Ok(Advance {
                        class,
                        lifetime_s: Some(lifetime_s),
                    }) => {
                        let now_s = cx.now.secs();
                        let expires_s = now_s + lifetime_s;
                        // A later deadline is found at the next visit; an earlier one must move the visit, or a
                        // closed connection would keep its port for an established one's lifetime.
                        if expires_s < conntrack.expires_s {
                            cx.tables.wheel.sooner(id, expires_s);
                        }
                        conntrack.expires_s = expires_s;
                        let told = now_s.saturating_sub(conntrack.refreshed_s) < lifetime_s / REFRESH_SHARE;
                        if class != conntrack.class || !told {
                            let refresh = class == conntrack.class;
                            if !refresh {
                                conntrack.enter_class(class);
                            }
                            conntrack.refreshed_s = now_s;
                            cx.tables.touch(id, refresh);
                        }
                    }
                    Ok(Advance {
                        class,
                        lifetime_s: None,
                    }) => {
                        if class != conntrack.class {
                            conntrack.enter_class(class);
                            cx.tables.touch(id, false);
                        }
                    }
                    Err(reason) => {
                        work.drop(reason);
                        continue;
                    }
                }
            }
            let conntrack = &mut cx.tables.conntracks[id];
            conntrack.packets[work.direction.index()] += 1;
            conntrack.bytes[work.direction.index()] += u64::from(meta.ip_len);
        }
        work.to = cx.tables.conntracks[id].translation(work.direction);
    }
}

struct Advance {
    class: Class,
    /// New lifetime; none when the packet proves nothing.
    lifetime_s: Option<u32>,
}

fn advance(
    conntrack: &mut Conntrack,
    direction: Direction,
    meta: &Meta,
    timeouts: &Timeouts,
    check_window: bool,
) -> Result<Advance, Drop> {
    if let State::Tcp(track) = &mut conntrack.state {
        let outcome = track.observe(direction, &meta.tcp, check_window)?;
        let lifetime_s = outcome.refresh.then(|| outcome.timeout.timeout_s(timeouts));
        return Ok(Advance {
            class: outcome.class,
            lifetime_s,
        });
    }
    match &mut conntrack.state {
        State::Udp(track) => track.observe(direction),
        State::Icmp(track) => track.observe(direction),
        State::Other(track) => track.observe(direction),
        State::Tcp(_) => false,
    };
    Ok(Advance {
        class: conntrack.state.class(),
        lifetime_s: Some(conntrack.state.timeout_s(timeouts)),
    })
}
