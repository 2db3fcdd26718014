//! What the main thread asks of a worker: to look at or change its tables, a slice per turn, and to announce addresses
//! after a role flip. The worker takes at most one request at a time, between bursts.

use std::collections::VecDeque;

use crate::config::InterfaceId;
use crate::counters::Counters;
use crate::flow::{Addr, VrfId};
use crate::io::Io;
use crate::stage::respond::{ArpForm, gratuitous_arp, unsolicited_advertisement};
use crate::stage::transmit::Outgoing;
use crate::tables::Tables;
use crate::time::Instant;
use crate::vrf::Snapshot;

/// Announcements sent in one turn.
const PER_TURN: usize = 16;

/// Least time between two turns that announce, so that thousands of pool addresses don't flood a switch.
const PACE_NS: u64 = 1_000_000;

/// Whether a visitor has seen enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visited {
    /// Call again next turn.
    More,
    /// Finished: it has sent its answer.
    Done,
}

/// Looks at a worker's tables, one bounded slice per call; answers over a channel of its own. Not on the packet path,
/// so it may allocate and be dispatched dynamically.
pub struct Visitor(Box<Visit>);

type Visit = dyn FnMut(&mut Tables, Instant) -> Visited + Send;

impl Visitor {
    /// A visitor that calls `visit` once per turn until it is done.
    pub fn new(visit: impl FnMut(&mut Tables, Instant) -> Visited + Send + 'static) -> Self {
        Self(Box::new(visit))
    }

    pub(crate) fn visit(&mut self, tables: &mut Tables, now: Instant) -> Visited {
        (self.0)(tables, now)
    }
}

impl core::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Visitor")
    }
}

/// One request.
#[derive(Debug)]
pub enum Ask {
    /// Send gratuitous ARP and unsolicited NA for everything that moves with the VRF's role.
    Announce(VrfId),
    /// Look at the tables.
    Visit(Visitor),
}

/// Announcements that still have to go out.
#[derive(Debug, Default)]
pub(crate) struct Announcing {
    waiting: VecDeque<(InterfaceId, Addr)>,
    not_before: Instant,
}

impl Announcing {
    /// Next hops first: they carry all traffic (the snapshot keeps that order).
    pub(crate) fn start(&mut self, vrf: VrfId, snapshot: &Snapshot) {
        self.waiting.extend(snapshot.announcements(vrf));
    }

    pub(crate) fn turn<I: Io>(
        &mut self,
        now: Instant,
        snapshot: &Snapshot,
        out: &mut Outgoing<I::Packet>,
        io: &mut I,
        counters: &mut Counters,
    ) -> usize {
        if self.waiting.is_empty() || now < self.not_before {
            return 0;
        }
        self.not_before = Instant::from_ns(now.ns() + PACE_NS);
        let mut sent = 0;
        while sent < PER_TURN {
            let Some((interface, address)) = self.waiting.pop_front() else {
                break;
            };
            sent += announce(interface, &address, snapshot, out, io, counters);
        }
        sent
    }
}

fn announce<I: Io>(
    interface: InterfaceId,
    address: &Addr,
    snapshot: &Snapshot,
    out: &mut Outgoing<I::Packet>,
    io: &mut I,
    counters: &mut Counters,
) -> usize {
    let Some(interface) = snapshot.interfaces().get(interface.index()) else {
        return 0;
    };
    let (mac, tags) = (interface.mac, &interface.tags);
    let mut send = |write: &dyn Fn(&mut I::Packet) -> bool| {
        let Some(mut packet) = io.alloc() else { return 0 };
        if !write(&mut packet) {
            return 0;
        }
        counters.announcements_sent += 1;
        out.push(interface.port, packet, io, counters);
        1
    };
    if address.is_v4() {
        let v4 = address.v4_octets();
        // Some neighbours update on the request form only, some on the reply form only (RFC 5227 section 3).
        send(&|p| gratuitous_arp(p, v4, mac, tags, ArpForm::Request))
            + send(&|p| gratuitous_arp(p, v4, mac, tags, ArpForm::Reply))
    } else {
        send(&|p| unsolicited_advertisement(p, address.octets(), mac, tags))
    }
}
