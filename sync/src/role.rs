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
//! ([`Handover`]), and waits as long, if it gets an answer at all. A *switchover* is an order to the active node: it drains,
//! and then invites one peer, which takes over if it can; nothing is given up before.
//! Whichever of the two stands by *redirects* meanwhile: it sends what comes to it to the active one.
//!
//! Besides the role the machine says whether this node is *in doubt*: whether a peer may be giving out ports, or may
//! have to go on with a table from which some are missing (sync/PROTOCOL.md R-71).

mod drain;
mod foresight;
mod peer;
mod switchover;
mod table;
mod wish;

use core::time::Duration;

use dataplane::delta::Term;
use dataplane::mutant::{self, Mutant};
use dataplane::role::Role;
use dataplane::time::Instant;
use thiserror::Error;

use self::drain::Drains;
use self::foresight::Foresight;
pub use self::peer::{PeerView, outranks};
use self::switchover::Switchovers;
pub use self::switchover::{SwitchoverEnd, SwitchoverError, SwitchoverPhase};
pub use self::table::{Cause, Desire};
use self::table::{Situation, decide};
use self::wish::Wishes;
use crate::board::PeerVrf;
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
    /// Until when this node, standing by, redirects what comes to it; until when it expects redirected packets, having taken
    /// over.
    pub redirects_until: Instant,
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
    switchovers: Switchovers,
    foresight: Foresight,
    foresees: bool,
    /// Has taken over because it was invited, and nobody has asked since.
    invited: bool,
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
            switchovers: Switchovers::default(),
            foresight: Foresight::default(),
            foresees: false,
            invited: false,
        }
    }

    /// An election decides who is active, and has moved the traffic when it says so: a node that is ordered takes over
    /// without asking.
    #[must_use]
    pub const fn elected(mut self) -> Self {
        self.wishes.asks = false;
        self
    }

    /// Workers look for the neighbours that flows of others need, and whoever steps this machine says what they have found: a
    /// node that was told flows is not ready before.
    #[must_use]
    pub fn foreseeing(mut self) -> Self {
        self.foresight = Foresight::needed();
        self.foresees = true;
        self
    }

    /// Number of the question that workers shall answer; 0 for none.
    #[must_use]
    pub const fn look(&self) -> u32 {
        self.foresight.number()
    }

    /// How many next hops they miss, as their answer to the question [`Self::look`] says.
    pub const fn foresee(&mut self, missing: Option<u32>) {
        self.foresight.found(missing);
    }

    /// An order at run time. It ends a switchover.
    pub fn order(&mut self, desire: Desire) {
        self.cancel_switchover();
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

    /// Whether a peer, by its place, could be handed the role now, as `peers` are.
    ///
    /// # Errors
    /// What is in the way.
    pub fn check_switchover(&self, peer: usize, peers: &[PeerView]) -> Result<(), SwitchoverError> {
        let view = peers.get(peer).ok_or(SwitchoverError::NoPeer)?;
        if self.role != Role::Master {
            return Err(SwitchoverError::NotActive);
        }
        if self.switchovers.phase().is_some() {
            return Err(SwitchoverError::UnderWay);
        }
        view.refusal(self.is_elected()).map_or(Ok(()), Err)
    }

    /// Begins to hand the role to a peer, by its place.
    ///
    /// # Errors
    /// When [`Self::check_switchover`] has one.
    pub fn switch_over(
        &mut self,
        now: Instant,
        peer: usize,
        peers: &[PeerView],
    ) -> Result<(), SwitchoverError> {
        self.check_switchover(peer, peers)?;
        self.switchovers.begin(now, peer);
        Ok(())
    }

    /// Whatever else had to be confirmed is: the peer may take over, if it has confirmed, too.
    pub fn hand_over(&mut self, now: Instant) {
        self.switchovers.hand_over(now);
    }

    /// The role stays here, unless the peer has it already.
    pub const fn cancel_switchover(&mut self) {
        self.switchovers.cancel();
    }

    /// How far the switchover under way is, if any is.
    #[must_use]
    pub fn switchover(&self) -> Option<SwitchoverPhase> {
        self.switchovers.phase()
    }

    /// How the last switchover ended and how long it took, once.
    pub const fn take_switchover_end(&mut self) -> Option<(SwitchoverEnd, Duration)> {
        self.switchovers.take_end()
    }

    /// Whether this node has taken over by a peer's invitation, once.
    pub const fn take_invited(&mut self) -> bool {
        core::mem::replace(&mut self.invited, false)
    }

    /// Whether an election decides about the role.
    #[must_use]
    pub const fn is_elected(&self) -> bool {
        !self.wishes.asks
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
                redirects_until: Instant::default(),
            };
        }
        self.listen(now, peers);
        self.follow(now, peers);
        if self.role == Role::Fault && mutant::on(Mutant::EmptyOverwrites) {
            self.adopt(peers);
        }
        let mut situation = self.situation(now, peers);
        let (mut next, mut cause) = decide(self.role, self.desire, situation);
        if self.role == Role::Fault && next == Role::Backup {
            self.role = Role::Backup;
            self.adopt(peers);
            situation = self.situation(now, peers);
            (next, cause) = decide(Role::Backup, self.desire, situation);
        }
        // A higher term that nobody claims any more is in slots that a peer, or this node, took over half from a node
        // that died: under a lower one they could not be written again.
        let outlived = self.role == Role::Master && self.seen > self.term;
        let new = next != self.role;
        let mut given = false;
        if next == Role::Master && (self.role != Role::Master || outlived) {
            self.term = self.seen.max(self.term).next_of(self.node, self.boot_id);
            // An invitation is an order that has come another way.
            let invited = situation == Situation::Invited;
            self.invited |= invited;
            given = invited || self.desire == Desire::Ordered;
            if given {
                self.desire = Desire::Preferred;
            }
        }
        self.role = next;
        let invited = given || self.is_invited(peers);
        self.switchovers.play(now, (self.role, new), invited);
        if !self.leaves(peers) {
            self.drains.end(now, self.role, cause, peers);
        }
        if self.role == Role::Backup {
            self.adopt(peers);
        } else {
            self.wishes.end();
        }
        self.seen = self.seen.max(self.term);
        if self.foresees {
            let complete = self.role == Role::Backup && !peers.iter().any(|p| p.importing(self.term));
            let all_heard = peers.iter().all(|p| p.vrf.is_some());
            self.foresight
                .follow(now, all_heard, complete, self.role == Role::Master);
        }
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
            redirects_until: self.redirects_until(peers),
        }
    }

    /// Only as long as the peer is there.
    fn redirects_until(&self, peers: &[PeerView]) -> Instant {
        let there = match self.role {
            Role::Master => peers.iter().any(|peer| peer.vrf.is_some()),
            Role::Backup => peers.iter().any(PeerView::is_master),
            _ => false,
        };
        let until = self.switchovers.redirects_until().filter(|_| there);
        until.unwrap_or_default()
    }

    /// Whether an active peer hands the role to this node, which has everything. One of a lower term has said so before it
    /// was outranked.
    fn is_invited(&self, peers: &[PeerView]) -> bool {
        let invites = |v: PeerVrf| v.handover == Handover::Invites(self.node) && v.term >= self.term;
        let invited = |p: &PeerView| p.is_master() && p.vrf.is_some_and(invites) && !p.importing(self.term);
        self.role == Role::Backup && peers.iter().any(invited)
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
        let drained = self.drains.is_told().then(|| self.drains.number());
        self.switchovers.follow(now, drained, peers);
        let ordered = (self.role, self.desire) == (Role::Backup, Desire::Ordered);
        self.wishes.follow(now, ordered, peers);
    }

    fn leaves(&self, peers: &[PeerView]) -> bool {
        self.role == Role::Master
            && (self.desire == Desire::Backup
                || self.switchovers.phase().is_some()
                || peers.iter().any(|p| p.asked().is_some()))
    }

    fn handover(&self, peers: &[PeerView]) -> Handover {
        if let Some(peer) = self.switchovers.invited().and_then(|place| peers.get(place)) {
            return Handover::Invites(peer.node);
        }
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
        } else if !self.is_elected() && self.is_invited(peers) {
            Situation::Invited
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
            None if self.switchovers.phase().is_some() => Some(Cause::HandingOver),
            None if lanes => Some(Cause::LanesDown),
            None | Some(Cause::PeerActive) => self.foresight.missing().map(Cause::Neighbors).or(decided),
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
