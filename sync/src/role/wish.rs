//! A role that is wanted from a live peer: the peer is asked first to tell what it kept back, and waited for.
//!
//! Not asked where an election decides: it has moved the traffic when it says so.

use core::time::Duration;

use dataplane::role::Role;
use dataplane::time::Instant;

use super::PeerView;
use crate::board::PeerVrf;
use crate::handover::{ANSWER_MAX, DRAIN_MAX, Handover};

/// What this node asks its peers for one VRF, one wish after the other.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    /// Whether an order comes before the traffic does: then there is time to ask.
    pub(super) asks: bool,
    under_way: Option<Wish>,
    /// Number of the last one.
    last: u8,
}

/// An active peer was asked to tell what it kept back.
#[derive(Debug, Clone, Copy)]
struct Wish {
    number: u8,
    since: Instant,
}

impl Wishes {
    /// None yet; asks when it has one.
    pub(super) const fn new() -> Self {
        Self {
            asks: true,
            under_way: None,
            last: 0,
        }
    }

    /// The node is `ordered` to be active: it asks as long as a peer is.
    pub(super) fn follow(&mut self, now: Instant, ordered: bool, peers: &[PeerView]) {
        if !self.asks || !ordered || !peers.iter().any(PeerView::is_master) {
            self.under_way = None;
        } else if self.under_way.is_none() {
            self.last = self.last.wrapping_add(1);
            self.under_way = Some(Wish {
                number: self.last,
                since: now,
            });
        }
    }

    /// Whether a peer was asked that is still telling, or may still answer.
    pub(super) fn is_waiting(&self, now: Instant, peers: &[PeerView]) -> bool {
        self.under_way.is_some_and(|wish| {
            let waited = now.since(wish.since);
            let tells = |v: PeerVrf| v.role == Role::Master && waited < wish.patience(v.handover);
            peers.iter().any(|p| p.vrf.is_some_and(tells))
        })
    }

    /// Number of the wish under way.
    pub(super) fn number(&self) -> Option<u8> {
        self.under_way.map(|wish| wish.number)
    }

    /// There is nothing to ask for any more.
    pub(super) const fn end(&mut self) {
        self.under_way = None;
    }
}

impl Wish {
    /// How long a peer that says so is waited for.
    fn patience(self, said: Handover) -> Duration {
        match said {
            Handover::Told(number) if number == self.number => Duration::ZERO,
            Handover::Telling(number) if number == self.number => DRAIN_MAX,
            _ => ANSWER_MAX,
        }
    }
}
