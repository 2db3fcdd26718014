//! The one word per VRF that says whether this node is active: written by the role machine, read by each
//! worker once per burst. A take-over is the store to it, whatever the size of the tables.

use crate::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::delta::Term;
use crate::flow::VrfId;
use crate::share::Share;
use crate::time::Instant;

/// What this node is for a VRF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Role {
    /// Booted, and not yet told by its peers (or their silence) what it may do.
    Fault = 0,
    /// Standby: applies what the active sends, forwards nothing.
    Backup = 1,
    /// Active: forwards, owns ageing and allocation.
    Master = 2,
    /// No HA group: always active, nothing is replicated.
    Alone = 3,
}

impl Role {
    /// Whether user traffic is forwarded.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Master | Self::Alone)
    }
}

/// Roles and terms of all VRFs.
#[derive(Debug)]
pub struct Roles {
    words: Vec<AtomicU64>,
    shares: Vec<AtomicU8>,
    /// Last term under which this node was active: a reign may be over before a worker has looked.
    reigned: Vec<AtomicU64>,
    owned: Vec<AtomicBool>,
    /// Number of the drain under way; 0 for none.
    drains: Vec<AtomicU32>,
    /// In nanoseconds; see [`Roles::redirects_until`].
    redirects: Vec<AtomicU64>,
}

impl Roles {
    /// All VRFs in [`Role::Fault`] with no term.
    #[must_use]
    pub fn new(vrfs: usize) -> Self {
        Self {
            words: (0..vrfs).map(|_| AtomicU64::new(0)).collect(),
            shares: (0..vrfs).map(|_| AtomicU8::new(0)).collect(),
            reigned: (0..vrfs).map(|_| AtomicU64::new(0)).collect(),
            owned: (0..vrfs).map(|_| AtomicBool::new(true)).collect(),
            drains: (0..vrfs).map(|_| AtomicU32::new(0)).collect(),
            redirects: (0..vrfs).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Role and term of a VRF as of now.
    #[must_use]
    pub fn get(&self, vrf: VrfId) -> (Role, Term) {
        let Some(word) = self.words.get(vrf.index()) else {
            return (Role::Fault, Term::NONE);
        };
        let word = word.load(Ordering::Acquire);
        let role = match word & 3 {
            0 => Role::Fault,
            1 => Role::Backup,
            2 => Role::Master,
            _ => Role::Alone,
        };
        (role, Term(word >> 2))
    }

    /// Last term under which this node was active for the VRF, as new at least as what [`Self::get`] said before.
    #[must_use]
    pub fn reigned(&self, vrf: VrfId) -> Term {
        let reigned = self.reigned.get(vrf.index());
        reigned.map_or(Term::NONE, |term| Term(term.load(Ordering::Relaxed)))
    }

    /// The role flip.
    pub fn set(&self, vrf: VrfId, role: Role, term: Term) {
        if let Some(reigned) = self.reigned.get(vrf.index())
            && role == Role::Master
        {
            // Published by the store of the word.
            reigned.store(term.0, Ordering::Relaxed);
        }
        if let Some(word) = self.words.get(vrf.index()) {
            word.store((term.0 << 2) | role as u64, Ordering::Release);
        }
    }

    /// What this node may give out of the VRF's ports. Read after the role, it is no older than that.
    #[must_use]
    pub fn share(&self, vrf: VrfId) -> Share {
        self.shares
            .get(vrf.index())
            .map_or(Share::Whole, |word| Share::from_u8(word.load(Ordering::Acquire)))
    }

    /// To be stored before a role that depends on it.
    pub fn set_share(&self, vrf: VrfId, share: Share) {
        if let Some(word) = self.shares.get(vrf.index()) {
            word.store(share.to_u8(), Ordering::Release);
        }
    }

    /// Whether an owner of the VRF's entries is seen; where nobody says otherwise there is one.
    #[must_use]
    pub fn is_owned(&self, vrf: VrfId) -> bool {
        let owned = self.owned.get(vrf.index());
        owned.is_none_or(|owned| owned.load(Ordering::Relaxed))
    }

    /// Says whether an owner is seen. Nothing else is published by it, and a word that comes late is no harm.
    pub fn set_owned(&self, vrf: VrfId, owned: bool) {
        if let Some(cell) = self.owned.get(vrf.index()) {
            cell.store(owned, Ordering::Relaxed);
        }
    }

    /// Number of the drain under way, 0 for none: this node is about to give the VRF up. Read before the role, a drain
    /// that is over is seen with the role it was for.
    #[must_use]
    pub fn drain(&self, vrf: VrfId) -> u32 {
        let drain = self.drains.get(vrf.index());
        drain.map_or(0, |number| number.load(Ordering::Acquire))
    }

    /// To be stored behind the role, or what is told in between would wait for its age again.
    pub fn set_drain(&self, vrf: VrfId, number: u32) {
        if let Some(cell) = self.drains.get(vrf.index()) {
            cell.store(number, Ordering::Release);
        }
    }

    /// Until when this node, standing by, redirects what comes to it because a switchover moves the traffic; having been handed
    /// the role, it expects redirected packets until then. A moment and no
    /// flag: it ends whether or not anybody says so. Read after the role, it is no older than that.
    #[must_use]
    pub fn redirects_until(&self, vrf: VrfId) -> Instant {
        let until = self.redirects.get(vrf.index());
        until.map_or(Instant::default(), |ns| {
            Instant::from_ns(ns.load(Ordering::Acquire))
        })
    }

    /// To be stored before the role, or packets that come in between would be dropped.
    pub fn set_redirects_until(&self, vrf: VrfId, until: Instant) {
        if let Some(cell) = self.redirects.get(vrf.index()) {
            cell.store(until.ns(), Ordering::Release);
        }
    }

    /// Number of VRFs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no VRF.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

/// Every interleaving of the thread that decides and of a worker that looks.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::Arc;
    use loom::thread;

    use super::{Role, Roles};
    use crate::delta::Term;
    use crate::flow::VrfId;
    use crate::share::{Half, Share};

    const VRF: VrfId = VrfId(0);

    #[test]
    fn whoever_sees_the_role_sees_share_and_reign() {
        loom::model(|| {
            let roles = Arc::new(Roles::new(1));
            let decides = Arc::clone(&roles);
            let decider = thread::spawn(move || {
                decides.set_share(VRF, Share::HalfOnly(Half::High));
                decides.set(VRF, Role::Master, Term(0x201));
                decides.set(VRF, Role::Backup, Term(0x301));
            });
            let (role, term) = roles.get(VRF);
            match role {
                Role::Fault => assert_eq!(term, Term::NONE),
                Role::Master => assert_eq!(term, Term(0x201)),
                _ => assert_eq!((role, term), (Role::Backup, Term(0x301))),
            }
            if role != Role::Fault {
                assert_eq!(roles.share(VRF), Share::HalfOnly(Half::High));
                assert_eq!(roles.reigned(VRF), Term(0x201), "also when the reign is over");
            }
            decider.join().unwrap();
        });
    }

    #[test]
    fn a_drain_that_is_over_is_seen_with_the_role_it_was_for() {
        loom::model(|| {
            let roles = Arc::new(Roles::new(1));
            roles.set(VRF, Role::Master, Term(0x201));
            roles.set_drain(VRF, 1);
            let decides = Arc::clone(&roles);
            let decider = thread::spawn(move || {
                decides.set(VRF, Role::Backup, Term(0x201));
                decides.set_drain(VRF, 0);
            });
            let drain = roles.drain(VRF);
            let (role, _) = roles.get(VRF);
            assert!(drain == 1 || role == Role::Backup);
            decider.join().unwrap();
        });
    }
}
