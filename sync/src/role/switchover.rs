//! A role that an operator hands to one peer, make before break: this node stays active until the peer is.
//!
//! ```text
//!   Draining      the peers are told what was kept back (dataplane/src/drain.rs)
//!   Confirmed     the peer has acknowledged that it has applied everything, and could take over
//!   HandingOver   it is invited to (R-46), or the election is moved its way; it decides
//!   over          its higher term has come; or, at any step before, this node goes on as if nothing had been
//! ```
//!
//! Packets move a little earlier or later than the role: an election announces its winner before anybody is told, and
//! neighbours learn of an announcement when they do. So the end that stands by *redirects*: from the invitation to the take-over,
//! and for [`REDIRECT_MAX`] after it has handed over, it sends what comes to it to the active one (R-48).
//!
//! From Confirmed to HandingOver it goes by [`super::RoleMachine::hand_over`] alone: a group's VRFs go together, so each
//! waits for the last.

use core::time::Duration;

use dataplane::role::Role;
use dataplane::time::Instant;
use thiserror::Error;

use super::PeerView;
use crate::handover::{DRAIN_MAX, EXPECT_MAX, REDIRECT_MAX, TAKE_OVER_MAX};

/// How far a switchover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchoverPhase {
    /// The peers are being told what was kept back.
    Draining,
    /// The peer has everything.
    Confirmed,
    /// The peer is to take over.
    HandingOver,
}

/// How a switchover ended. All but the first leave the role where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchoverEnd {
    /// The peer has taken over.
    Done,
    /// The peer is gone.
    PeerGone,
    /// It has not acknowledged in time that it has everything.
    NotConfirmed,
    /// It has everything, and has not taken over in time.
    NotTaken,
    /// Another order, or another VRF of the group, has ended it.
    Cancelled,
}

impl SwitchoverEnd {
    /// One line for operators.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Done => "the peer has taken over",
            Self::PeerGone => "the peer is gone",
            Self::NotConfirmed => "the peer has not acknowledged in time that it has everything",
            Self::NotTaken => "the peer has everything, but has not taken over in time",
            Self::Cancelled => "it was cancelled",
        }
    }
}

/// Why a switchover can't begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SwitchoverError {
    /// There is nothing to hand over.
    #[error("this node isn't active")]
    NotActive,
    /// One is under way.
    #[error("a switchover is already under way")]
    UnderWay,
    /// The VRF has no such peer.
    #[error("no such peer")]
    NoPeer,
    /// It isn't connected.
    #[error("the peer isn't connected")]
    PeerGone,
    /// It is of a release without switchover.
    #[error("the peer's release doesn't know switchover: set the state of the group there instead")]
    PeerOld,
    /// Both are active.
    #[error("the peer is active, too")]
    PeerActive,
    /// Sections that must be equal aren't.
    #[error("the peer isn't ready: its configuration differs in a section that must be equal")]
    ConfigDiffers,
    /// It lacks slots.
    #[error("the peer isn't ready: it has verified {verified} of {slots} slots")]
    SlotsMissing {
        /// Those it has.
        verified: u32,
        /// All.
        slots: u32,
    },
    /// It says so itself.
    #[error("the peer isn't ready, and names the cause itself in \"show ha-group\"")]
    PeerUnready,
}

/// Switchovers of one VRF, one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Switchovers {
    under_way: Option<Switchover>,
    ended: Option<(SwitchoverEnd, Duration)>,
    /// Until when this node redirects, if it stands by; if it is active, until when it expects redirected packets.
    redirects_until: Option<Instant>,
    /// It is invited, and has not taken over.
    invited: bool,
}

#[derive(Debug, Clone, Copy)]
struct Switchover {
    /// By its place among the VRF's peers.
    peer: usize,
    phase: SwitchoverPhase,
    begun: Instant,
    /// When the phase that its time counts from began.
    since: Instant,
    cancelled: bool,
}

impl Switchovers {
    pub(super) const fn begin(&mut self, now: Instant, peer: usize) {
        self.ended = None;
        self.under_way = Some(Switchover {
            peer,
            phase: SwitchoverPhase::Draining,
            begun: now,
            since: now,
            cancelled: false,
        });
    }

    /// The next look ends it.
    pub(super) const fn cancel(&mut self) {
        if let Some(switchover) = &mut self.under_way {
            switchover.cancelled = true;
        }
    }

    /// How far the one under way is.
    pub(super) fn phase(&self) -> Option<SwitchoverPhase> {
        self.under_way.map(|switchover| switchover.phase)
    }

    /// The peer that is to take over at once, by its place.
    pub(super) fn invited(&self) -> Option<usize> {
        let switchover = self
            .under_way
            .filter(|s| s.phase == SwitchoverPhase::HandingOver)?;
        Some(switchover.peer)
    }

    /// Whatever had to wait for the peer's confirmation has it.
    pub(super) fn hand_over(&mut self, now: Instant) {
        if let Some(switchover) = &mut self.under_way
            && switchover.phase == SwitchoverPhase::Confirmed
        {
            (switchover.phase, switchover.since) = (SwitchoverPhase::HandingOver, now);
        }
    }

    /// Looks at the peer; `drain` is the number of the drain when every peer has been told everything.
    pub(super) fn follow(&mut self, now: Instant, drain: Option<u32>, peers: &[PeerView]) {
        let Some(switchover) = &mut self.under_way else {
            return;
        };
        let waited = now.since(switchover.since);
        let peer = peers.get(switchover.peer).copied().unwrap_or_default();
        let able = drain.is_some_and(|number| !peer.lacks(number)) && peer.vrf.is_some_and(|vrf| vrf.ready);
        let end = match switchover.phase {
            _ if switchover.cancelled => Some(SwitchoverEnd::Cancelled),
            _ if peer.vrf.is_none() => Some(SwitchoverEnd::PeerGone),
            SwitchoverPhase::HandingOver => (waited >= TAKE_OVER_MAX).then_some(SwitchoverEnd::NotTaken),
            _ if waited >= DRAIN_MAX => Some(SwitchoverEnd::NotConfirmed),
            _ => {
                // What was confirmed while another VRF of the group waits may have to be confirmed again.
                switchover.phase = if able {
                    SwitchoverPhase::Confirmed
                } else {
                    SwitchoverPhase::Draining
                };
                None
            }
        };
        if let Some(end) = end {
            self.end(now, end);
        }
    }

    /// This node has the role that was decided, which may be `new`, and may be `invited` to another one, or was and has it now.
    pub(super) fn play(&mut self, now: Instant, (role, new): (Role, bool), invited: bool) {
        let handed_over = self.phase() == Some(SwitchoverPhase::HandingOver);
        if role == Role::Master {
            if new {
                let given = invited || self.invited;
                self.redirects_until = given.then(|| now + EXPECT_MAX);
            }
        } else if handed_over {
            self.redirects_until = Some(now + REDIRECT_MAX);
        } else if new || invited != self.invited {
            self.redirects_until = invited.then(|| now + TAKE_OVER_MAX);
        }
        self.invited = invited && role != Role::Master;
        if role != Role::Master {
            self.end(now, SwitchoverEnd::Done);
        }
    }

    /// Until when what comes to a node that stands by is redirected, or redirected packets are expected.
    pub(super) const fn redirects_until(&self) -> Option<Instant> {
        self.redirects_until
    }

    /// The one under way, if any, is over.
    pub(super) fn end(&mut self, now: Instant, end: SwitchoverEnd) {
        if let Some(switchover) = self.under_way.take() {
            self.ended = Some((end, now.since(switchover.begun)));
        }
    }

    /// How the last one ended and how long it took, once.
    pub(super) const fn take_end(&mut self) -> Option<(SwitchoverEnd, Duration)> {
        self.ended.take()
    }
}

impl PeerView {
    /// What keeps the peer from taking over on an operator's word, if anything. `elected`: an election decides about the
    /// role, and nobody has to be invited.
    pub(super) fn refusal(&self, elected: bool) -> Option<SwitchoverError> {
        let Some(vrf) = self.vrf else {
            return Some(SwitchoverError::PeerGone);
        };
        if vrf.role.is_active() {
            Some(SwitchoverError::PeerActive)
        } else if !elected && !vrf.takes_invitations {
            Some(SwitchoverError::PeerOld)
        } else if !vrf.equal {
            Some(SwitchoverError::ConfigDiffers)
        } else if self.exported < self.slots {
            Some(SwitchoverError::SlotsMissing {
                verified: self.exported,
                slots: self.slots,
            })
        } else {
            (!vrf.ready).then_some(SwitchoverError::PeerUnready)
        }
    }
}

#[cfg(test)]
#[path = "switchover_tests.rs"]
mod tests;
