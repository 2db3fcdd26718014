//! A role that is about to be given up: the peers are told first what was kept back for the time being.
//!
//! Begins when an active node is told to stand by, or a peer that is to be active asks for it. The node stays active until
//! every live peer has acknowledged what it was told, or time is over.

use core::time::Duration;

use dataplane::role::Role;
use dataplane::time::Instant;

use super::{Cause, PeerView};
use crate::handover::{DRAIN_MAX, DrainEnd};

/// Drains of one VRF, one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Drains {
    under_way: Option<Drain>,
    /// Number of the last one; 0 before the first.
    last: u32,
    ended: Option<(DrainEnd, Duration)>,
}

/// A drain under way.
#[derive(Debug, Clone, Copy)]
struct Drain {
    number: u32,
    since: Instant,
    /// This node was told to stand by; else it was only asked by a peer.
    ordered: bool,
    /// Every live peer has had everything once.
    told: bool,
}

impl Drains {
    /// The role is to be given up, because this node was `ordered` to or because a peer asks for it: a drain begins, unless
    /// one is under way. A peer's doesn't do for an order: what was opened since the peer has acknowledged it would be told
    /// by nobody when the order is carried out at once.
    pub(super) fn begin(&mut self, now: Instant, ordered: bool) {
        if self.under_way.is_some_and(|drain| drain.ordered || !ordered) {
            return;
        }
        self.last = self.last.wrapping_add(1).max(1);
        self.under_way = Some(Drain {
            number: self.last,
            since: now,
            ordered,
            told: false,
        });
    }

    /// Looks at what the peers have acknowledged.
    pub(super) fn follow(&mut self, peers: &[PeerView]) {
        if let Some(drain) = &mut self.under_way {
            drain.told |= peers.iter().all(|p| !p.lacks(drain.number));
        }
    }

    /// Number of the drain under way; 0 for none.
    pub(super) fn number(&self) -> u32 {
        self.under_way.map_or(0, |drain| drain.number)
    }

    /// Whether every live peer has had everything once.
    pub(super) fn is_told(&self) -> bool {
        self.under_way.is_some_and(|drain| drain.told)
    }

    /// Whether a live peer lacks something that it can still be told.
    pub(super) fn is_untold(&self, now: Instant, peers: &[PeerView]) -> bool {
        self.under_way.is_some_and(|drain| {
            now.since(drain.since) < DRAIN_MAX && peers.iter().any(|p| p.lacks(drain.number))
        })
    }

    /// The drain under way, if any, is over: the node is `role` now, by `cause`.
    pub(super) fn end(&mut self, now: Instant, role: Role, cause: Option<Cause>, peers: &[PeerView]) {
        let Some(drain) = self.under_way.take() else {
            return;
        };
        let end = if role == Role::Master {
            DrainEnd::Cancelled
        } else if drain.told && peers.iter().any(|p| p.vrf.is_some()) {
            DrainEnd::Complete
        } else if cause == Some(Cause::Outranked) {
            DrainEnd::Outranked
        } else if peers.iter().all(|p| p.vrf.is_none()) {
            DrainEnd::Alone
        } else {
            DrainEnd::Late
        };
        self.ended = Some((end, now.since(drain.since)));
    }

    /// How the last drain ended and how long it took, once.
    pub(super) const fn take_end(&mut self) -> Option<(DrainEnd, Duration)> {
        self.ended.take()
    }
}
