//! How a worker sees the roles of its VRFs, and what it could not tell while another node's word counted.
//!
//! Read once per turn, so that a whole burst is handled under one role. A change that can't be told because somebody else
//! is active mutes its slot; the slot is sent anew when this node's word counts again.

use super::Tables;
use crate::config::StandbyPolicy;
use crate::delta::{SlotRef, Term};
use crate::flow::VrfId;
use crate::role::{Role, Roles};
use crate::share::Share;
use crate::time::Instant;

/// How this worker sees a VRF's role: refreshed once per turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VrfRole {
    /// Role now.
    pub role: Role,
    /// Term now.
    pub term: Term,
    /// When this worker first saw this role and term.
    pub since_s: u32,
    /// Term under which this node was last active.
    pub reigned: Term,
    /// What it may give out.
    pub share: Share,
    /// When an owner of the entries was last seen; far away as long as none was.
    pub owned_s: u32,
    /// The longest timeout of the VRF.
    pub timeout_max_s: u32,
    /// Until when it redirects, standing by, what comes to it because a switchover moves the traffic, or expects what is
    /// redirected to it.
    pub redirects_until: Instant,
}

impl VrfRole {
    /// Nothing is known of the VRF yet.
    pub(crate) const UNSEEN: Self = Self {
        role: Role::Fault,
        term: Term::NONE,
        since_s: 0,
        reigned: Term::NONE,
        share: Share::Whole,
        // There is nothing to age before one was seen.
        owned_s: u32::MAX,
        // Until the configuration says what it is.
        timeout_max_s: u32::MAX,
        redirects_until: Instant::from_ns(0),
    };

    /// Whether this node's word still counts: it is active, or was until it was told to stand by and nobody has
    /// taken over since.
    #[must_use]
    pub fn has_word(&self) -> bool {
        self.role == Role::Master || (self.reigned != Term::NONE && self.reigned == self.term)
    }

    /// Whether nobody has aged the entries for so long that none of them can be in use: no owner has been seen for the
    /// longest timeout.
    #[must_use]
    pub const fn is_orphaned(&self, now_s: u32) -> bool {
        !self.role.is_active() && now_s.saturating_sub(self.owned_s) > self.timeout_max_s
    }
}

impl Tables {
    /// Takes over the roles as they are now.
    pub fn observe_roles(&mut self, roles: &Roles, now: Instant) {
        (self.stands_by, self.expects) = (false, false);
        for index in 0..u16::try_from(self.roles.len()).unwrap_or(u16::MAX) {
            // A drain that is over is seen no earlier than the role it was for.
            let drain = roles.drain(VrfId(index));
            let (role, term) = roles.get(VrfId(index));
            self.stands_by |= !role.is_active();
            let seen = &mut self.roles[usize::from(index)];
            seen.share = roles.share(VrfId(index));
            seen.redirects_until = roles.redirects_until(VrfId(index));
            if role.is_active() || roles.is_owned(VrfId(index)) {
                seen.owned_s = now.secs();
            }
            self.expects |= role.is_active() && now < seen.redirects_until;
            if (seen.role, seen.term) != (role, term) {
                let reigned = roles.reigned(VrfId(index));
                let reigns_anew = reigned != seen.reigned;
                // A reign may be over before this worker has looked.
                let demoted = (seen.role.is_active() || reigns_anew) && !role.is_active();
                *seen = VrfRole {
                    role,
                    term,
                    since_s: now.secs(),
                    reigned,
                    ..*seen
                };
                if demoted {
                    self.demoted(VrfId(index));
                    self.given_up(VrfId(index));
                }
                self.protect.review_vrf(VrfId(index));
                self.retirement.resume();
                if role == Role::Master || reigns_anew {
                    self.resend_muted(VrfId(index));
                }
            }
            self.observe_drain(VrfId(index), drain);
        }
    }

    /// A reign may be so short that no sender hears of it, and then every one of them believes that its slots are here. One
    /// whose generation is still open learns it at the end.
    fn demoted(&mut self, vrf: VrfId) {
        let (slots, missed) = (&mut self.slots, &mut self.missed);
        let known = missed.len();
        slots.demoted(vrf, |at, source| {
            if source.open {
                return;
            }
            match missed[..known].iter_mut().find(|(known, _)| *known == at) {
                Some(known) => known.1 = source,
                None => missed.push((at, source)),
            }
        });
    }

    /// Whether this node forwards for the VRF.
    #[must_use]
    pub fn is_active(&self, vrf: VrfId) -> bool {
        self.roles[vrf.index()].role.is_active()
    }

    /// Whether packets of the VRF that come to this node are the active node's: it stands by, and a switchover is moving the
    /// traffic to it or away from it, or the VRF's policy wants so.
    #[must_use]
    pub fn redirects(&self, vrf: VrfId, policy: StandbyPolicy, now: Instant) -> bool {
        let seen = &self.roles[vrf.index()];
        match policy {
            StandbyPolicy::Redirect => !seen.role.is_active(),
            StandbyPolicy::Drop => seen.role == Role::Backup && now < seen.redirects_until,
        }
    }

    /// What could not be told while another node's word counted has to be sent now: the slots go out anew.
    fn resend_muted(&mut self, vrf: VrfId) {
        let mut index = 0;
        while let Some(&at) = self.muted.get(index) {
            if at.vrf == vrf {
                self.muted.swap_remove(index);
                self.lose(at);
            } else {
                index += 1;
            }
        }
    }

    /// A change of a slot is not told, because another node's word counts. Its peers hold something else now.
    pub(crate) fn mute(&mut self, at: SlotRef) {
        if !self.muted.contains(&at) {
            self.muted.push(at);
        }
    }

    /// Whether the slot has changes that are not told.
    pub(crate) fn is_muted(&self, at: SlotRef) -> bool {
        self.muted.contains(&at)
    }

    /// The slot is as the node whose word counts says.
    pub(crate) fn unmute(&mut self, at: SlotRef) {
        self.muted.retain(|m| *m != at);
    }
}
