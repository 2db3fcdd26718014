//! Who is active for a VRF: a pure machine per VRF, stepped by the thread that may write
//! [`dataplane::role::Roles`], and by nobody else.
//!
//! Born in [`Role::Fault`] with no term. Leaves it when every configured peer has been imported from, was found
//! without a term too, or has been silent for the boot wait. From then on a declared table decides between
//! backup and master. Taking the active role raises the term; a live peer with a higher term demotes.
//!
//! Whoever is told to stand by *drains* first: workers tell what policy and overload kept back for the time being
//! (`dataplane/src/drain.rs`), and the role is given up when every live peer has acknowledged it. At once where no
//! peer lives, after [`DRAIN_MAX`](crate::handover::DRAIN_MAX) at the latest, and not at all where a higher term has
//! demoted: then nobody listens any more. Whoever is ordered to take over from a live peer asks it to drain first
//! ([`Handover`]), and waits as long, if it gets an answer at all.
//!
//! Besides the role the machine says whether this node is *in doubt*: whether a peer may be giving out ports, or may
//! have to go on with a table from which some are missing (sync/PROTOCOL.md R-71).

mod drain;
mod peer;
mod table;
mod wish;

use core::time::Duration;

use dataplane::delta::Term;
use dataplane::mutant::{self, Mutant};
use dataplane::role::Role;
use dataplane::time::Instant;
use thiserror::Error;

use self::drain::Drains;
pub use self::peer::{PeerView, outranks};
pub use self::table::{Cause, Desire};
use self::table::{Situation, decide};
use self::wish::Wishes;
use crate::handover::{DrainEnd, Handover};

/// What a step decided. The caller stores role and term into [`dataplane::role::Roles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Role.
    pub role: Role,
    /// Term.
    pub term: Term,
    /// Whether a take-over would lose nothing that is known of. Of interest for backups only.
    pub ready: bool,
    /// What is in the way, if anything.
    pub cause: Option<Cause>,
    /// Whether only this node's own half of the ports is safe to give out.
    pub in_doubt: bool,
    /// Number of the drain under way; 0 for none.
    pub drain: u32,
    /// What the peers are to be told.
    pub handover: Handover,
}

/// Why a peer can't be declared dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DeclareError {
    /// The VRF has no such peer.
    #[error("no such peer")]
    NoPeer,
    /// It is connected.
    #[error("the peer is alive: it is connected")]
    Alive,
}

/// One VRF's role.
#[derive(Debug, Clone)]
pub struct RoleMachine {
    node: u8,
    boot_id: u64,
    boot_wait: Duration,
    desire: Desire,
    role: Role,
    term: Term,
    seen: Term,
    heard: Vec<Heard>,
    drains: Drains,
    wishes: Wishes,
}

/// When a peer last said something about the VRF.
#[derive(Debug, Clone, Copy)]
struct Heard {
    ever: bool,
    last: Instant,
    /// As of the last step.
    connected: bool,
    /// An operator vouches for its death.
    declared_dead: bool,
}

impl RoleMachine {
    /// A VRF of node `node` that has just booted as `boot_id`. Without an HA group (`grouped` is false) it is
    /// [`Role::Alone`] for ever.
    #[must_use]
    pub fn new(
        (node, boot_id): (u8, u64),
        grouped: bool,
        desire: Desire,
        peers: usize,
        boot_wait: Duration,
        now: Instant,
    ) -> Self {
        let role = if grouped { Role::Fault } else { Role::Alone };
        let heard = vec![
            Heard {
                ever: false,
                last: now,
                connected: false,
                declared_dead: false,
            };
            peers
        ];
        Self {
            node,
            boot_id,
            boot_wait,
            desire,
            role,
            term: Term::NONE,
            seen: Term::NONE,
            heard,
            drains: Drains::default(),
            wishes: Wishes::new(),
        }
    }

    /// An election decides who is active, and has moved the traffic when it says so: a node that is ordered takes over
    /// without asking.
    #[must_use]
    pub const fn elected(mut self) -> Self {
        self.wishes.asks = false;
        self
    }

    /// An order at run time.
    pub fn order(&mut self, desire: Desire) {
        let done = desire == Desire::Ordered && self.role == Role::Master;
        self.desire = if done { Desire::Preferred } else { desire };
    }

    /// The peer, by its place at creation, gives out nothing any more: an operator says so. True until it is heard again.
    ///
    /// # Errors
    /// When it is connected, as the last step has seen it, or unknown.
    pub fn declare_dead(&mut self, peer: usize) -> Result<(), DeclareError> {
        let heard = self.heard.get_mut(peer).ok_or(DeclareError::NoPeer)?;
        if heard.connected {
            return Err(DeclareError::Alive);
        }
        heard.declared_dead = true;
        Ok(())
    }

    /// What is wanted at present.
    #[must_use]
    pub const fn desire(&self) -> Desire {
        self.desire
    }

    /// Present role and term.
    #[must_use]
    pub const fn current(&self) -> (Role, Term) {
        (self.role, self.term)
    }

    /// Looks at the peers, in the order given at creation, and decides.
    pub fn step(&mut self, now: Instant, peers: &[PeerView]) -> Decision {
        if self.role == Role::Alone {
            return Decision {
                role: Role::Alone,
                term: self.term,
                ready: true,
                cause: None,
                in_doubt: false,
                drain: 0,
                handover: Handover::None,
            };
        }
        self.listen(now, peers);
        self.follow(now, peers);
        if self.role == Role::Fault && mutant::on(Mutant::EmptyOverwrites) {
            self.adopt(peers);
        }
        let (mut next, mut cause) = decide(self.role, self.desire, self.situation(now, peers));
        if self.role == Role::Fault && next == Role::Backup {
            self.role = Role::Backup;
            self.adopt(peers);
            (next, cause) = decide(Role::Backup, self.desire, self.situation(now, peers));
        }
        // A higher term that nobody claims any more is in slots that a peer, or this node, took over half from a node
        // that died: under a lower one they could not be written again.
        let outlived = self.role == Role::Master && self.seen > self.term;
        if next == Role::Master && (self.role != Role::Master || outlived) {
            self.term = self.seen.max(self.term).next_of(self.node, self.boot_id);
            self.desire = if self.desire == Desire::Ordered {
                Desire::Preferred
            } else {
                self.desire
            };
        }
        self.role = next;
        if !self.leaves(peers) {
            self.drains.end(now, self.role, cause, peers);
        }
        if self.role == Role::Backup {
            self.adopt(peers);
        } else {
            self.wishes.end();
        }
        self.seen = self.seen.max(self.term);
        let cause = self.cause(cause, peers);
        let ready = self.role == Role::Master || (self.role == Role::Backup && is_ready(cause));
        Decision {
            role: self.role,
            term: self.term,
            ready,
            cause,
            in_doubt: self.in_doubt(peers),
            drain: self.drains.number(),
            handover: self.handover(peers),
        }
    }

    /// Whether a node is there that the VRF's entries belong to: this one, if it is active, or a live peer that is active
    /// or whose term outranks this node's.
    #[must_use]
    pub fn sees_owner(&self, peers: &[PeerView]) -> bool {
        let owns = |peer: &PeerView| {
            let vrf = peer.vrf;
            vrf.is_some_and(|v| v.role.is_active() || outranks(v.term, peer.node, self.term))
        };
        self.role.is_active() || peers.iter().any(owns)
    }

    fn listen(&mut self, now: Instant, peers: &[PeerView]) {
        for (heard, peer) in self.heard.iter_mut().zip(peers) {
            heard.connected = peer.vrf.is_some();
            if let Some(vrf) = peer.vrf {
                (heard.ever, heard.last) = (true, now);
                heard.declared_dead = false;
                self.seen = self.seen.max(vrf.term);
            }
        }
        self.seen = peers.iter().map(|p| p.heard).fold(self.seen, Term::max);
    }

    /// A master that is told to stand by, or asked by a peer that is to be active, drains from now on; whoever is ordered
    /// to be active while a peer is asks it to tell what it kept back.
    fn follow(&mut self, now: Instant, peers: &[PeerView]) {
        if self.leaves(peers) {
            self.drains.begin(now, self.desire == Desire::Backup);
        }
        self.drains.follow(peers);
        let ordered = (self.role, self.desire) == (Role::Backup, Desire::Ordered);
        self.wishes.follow(now, ordered, peers);
    }

    fn leaves(&self, peers: &[PeerView]) -> bool {
        self.role == Role::Master
            && (self.desire == Desire::Backup || peers.iter().any(|p| p.asked().is_some()))
    }

    fn handover(&self, peers: &[PeerView]) -> Handover {
        match (self.wishes.number(), peers.iter().find_map(PeerView::asked)) {
            (Some(wish), _) => Handover::Asked(wish),
            (None, Some(number)) if self.drains.is_told() => Handover::Told(number),
            (None, Some(number)) if self.drains.number() != 0 => Handover::Telling(number),
            _ => Handover::None,
        }
    }

    /// How the last drain ended and how long it took, once.
    pub const fn take_drain_end(&mut self) -> Option<(DrainEnd, Duration)> {
        self.drains.take_end()
    }

    fn in_doubt(&self, peers: &[PeerView]) -> bool {
        let mut known = self.heard.iter().zip(peers);
        known.any(|(heard, peer)| !heard.declared_dead && !peer.is_settled(self.term))
    }

    fn situation(&self, now: Instant, peers: &[PeerView]) -> Situation {
        let quiet = |ever: bool| {
            self.heard
                .iter()
                .zip(peers)
                .any(|(h, p)| p.vrf.is_none() && h.ever == ever && now.since(h.last) < self.boot_wait)
        };
        if peers.iter().any(|p| p.importing(self.term)) {
            Situation::Importing
        } else if self.leaves(peers) && self.drains.is_untold(now, peers) {
            Situation::Untold
        } else if quiet(false) {
            Situation::Waiting
        } else if quiet(true) {
            Situation::Lost
        } else if peers.iter().any(PeerView::is_master) {
            if self.wishes.is_waiting(now, peers) {
                Situation::Telling
            } else {
                Situation::Active
            }
        } else {
            Situation::Free
        }
    }

    /// A node out of fault takes over the highest term of a live peer. In fault it must not: with the term of
    /// its own former reign an empty node would become the sender of the state it lacks. Out of fault it is the same as
    /// long as it lacks state of that reign: it gives up what term it has, and imports.
    fn adopt(&mut self, peers: &[PeerView]) {
        for (peer, vrf) in peers.iter().filter_map(|p| Some((p, p.vrf?))) {
            let former = vrf.term > self.term && vrf.term.node() == self.node;
            self.term = if former && peer.verified < peer.slots && !mutant::on(Mutant::EmptyOverwrites) {
                Term::NONE
            } else {
                self.term.max(vrf.term)
            };
        }
    }

    /// A difference in configuration explains an import that never ends, and a missing lane one that is slow.
    fn cause(&self, decided: Option<Cause>, peers: &[PeerView]) -> Option<Cause> {
        let differs = peers.iter().any(|p| p.vrf.is_some_and(|v| !v.equal));
        let lanes = peers
            .iter()
            .any(|p| p.clients_up < p.clients_total || p.locals_up < p.locals_total || p.locals_total == 0);
        match decided {
            None | Some(Cause::ImportUnfinished | Cause::PeerActive) if differs => Some(Cause::ConfigDiffers),
            None if lanes => Some(Cause::LanesDown),
            other => other,
        }
    }
}

/// Preferring to be master is not a defect of a standby; everything else is.
const fn is_ready(cause: Option<Cause>) -> bool {
    matches!(cause, None | Some(Cause::PeerActive | Cause::PeerTelling))
}

#[cfg(test)]
#[path = "role_tests.rs"]
mod tests;
