//! Who is active for a VRF: a pure machine per VRF, stepped by the thread that may write
//! [`dataplane::role::Roles`], and by nobody else.
//!
//! Born in [`Role::Fault`] with no term. Leaves it when every configured peer has been imported from, was found
//! without a term too, or has been silent for the boot wait. From then on a declared table decides between
//! backup and master. Taking the active role raises the term; a live peer with a higher term demotes.
//!
//! Whoever is told to stand by *drains* first: workers tell what policy and overload kept back for the time being
//! (`dataplane/src/drain.rs`), and the role is given up when every live peer has acknowledged it. At once where no peer
//! lives, after [`DRAIN_MAX`] at the latest, and not at all where a higher term has demoted: then nobody listens any more.
//! Whoever is ordered to take over from a live peer asks it to drain first ([`Handover`]), and waits as long,
//! if it gets an answer at all.
//!
//! Besides the role the machine says whether this node is *in doubt*: whether a peer may be giving out ports, or may
//! have to go on with a table from which some are missing (sync/PROTOCOL.md R-71).

use core::time::Duration;

use dataplane::delta::Term;
use dataplane::mutant::{self, Mutant};
use dataplane::role::Role;
use dataplane::time::Instant;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::board::PeerVrf;
use crate::handover::{ANSWER_MAX, DRAIN_MAX, DrainEnd, Handover};

/// What configuration or an operator wants of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desire {
    /// Stand by.
    Backup,
    /// Be active when nobody else is: the configured `state = "master"`, and what is left of an order once it
    /// has been carried out. Were an order kept for ever, two ordered nodes would demote one another in turn.
    Preferred,
    /// Take over from whoever is active: `set … state master` at run time.
    Ordered,
}

/// What a peer looks like from here, joined over all connections by [`crate::board::Board::view`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Its VRF; none while no live connection has said anything about it.
    pub vrf: Option<PeerVrf>,
    /// The highest term that any peer ever had for the VRF, or offered entries of.
    pub heard: Term,
    /// Its node id; 0 while unknown.
    pub node: u8,
    /// Slot count S of the VRF.
    pub slots: u32,
    /// Slots imported from it on the connections that are up.
    pub verified: u32,
    /// Slots it has verified of ours.
    pub exported: u32,
    /// The last drain of which it has acknowledged everything; 0 for none.
    pub drained: u32,
    /// Our lanes that are up, control lane included.
    pub clients_up: u32,
    /// Our lanes.
    pub clients_total: u32,
    /// Its lanes that are up here.
    pub locals_up: u32,
    /// Its lanes, as it said itself; 0 while unknown.
    pub locals_total: u32,
}

impl PeerView {
    /// Whether peer and this node, at `own`, have the same table, and only this node can be giving out ports.
    #[must_use]
    pub fn is_settled(&self, own: Term) -> bool {
        self.vrf.is_some_and(|v| {
            let done = if outranks(v.term, self.node, own) {
                self.verified
            } else {
                self.exported
            };
            !v.role.is_active() && done == self.slots
        })
    }

    fn is_master(&self) -> bool {
        self.vrf.is_some_and(|v| v.role == Role::Master)
    }

    /// Number of its wish to be active, if it has one.
    fn asked(&self) -> Option<u8> {
        match self.vrf?.handover {
            Handover::Asked(number) => Some(number),
            _ => None,
        }
    }

    /// Whether the peer lives and lacks something of what a drain tells, or a slot.
    #[must_use]
    pub const fn lacks(&self, drain: u32) -> bool {
        self.vrf.is_some() && (self.drained != drain || self.exported < self.slots)
    }

    /// Whether the peer holds state of the VRF that this node, at `own`, lacks. An equal term belongs to its
    /// owner: the other node imports.
    #[must_use]
    pub fn importing(&self, own: Term) -> bool {
        self.vrf.is_some_and(|v| outranks(v.term, self.node, own)) && self.verified < self.slots
    }
}

/// Direction of replication (sync/PROTOCOL.md R-30): whether state flows from the holder of `theirs`, which is
/// node `node`, to the holder of `own`.
#[must_use]
pub fn outranks(theirs: Term, node: u8, own: Term) -> bool {
    theirs > own || (theirs == own && theirs != Term::NONE && theirs.node() == node)
}

/// The one thing that keeps a node from being what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Booted, and a configured peer has not been heard yet.
    WaitingForPeer,
    /// A peer's slots are being imported.
    ImportUnfinished,
    /// Ordered to be master, but a live peer's slots are still being imported.
    MasterPending,
    /// Prefers to be master, but a peer is.
    PeerActive,
    /// A peer with a higher term took over.
    Outranked,
    /// About to give the role up: the peers are being told what was kept back.
    Draining,
    /// Ordered to be master, and the peer that is tells what it kept back.
    PeerTelling,
    /// A must-equal section of the configuration, or the slot count, differs from the peer's.
    ConfigDiffers,
    /// Not every lane is up.
    LanesDown,
}

impl Cause {
    /// One line for operators.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::WaitingForPeer => "booted; waiting for a peer to answer",
            Self::ImportUnfinished => "importing from a peer",
            Self::MasterPending => "master ordered; import from a live peer unfinished",
            Self::PeerActive => "prefers master; a peer is active",
            Self::Outranked => "demoted by a peer with a higher term",
            Self::Draining => "draining: about to stand by; peers are being told what was kept back",
            Self::PeerTelling => "master ordered; the active peer is telling what it kept back",
            Self::ConfigDiffers => "configuration differs from the peer's in a section that must be equal",
            Self::LanesDown => "not every sync lane is up",
        }
    }
}

/// The peers of a VRF in one word: the first that applies, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Situation {
    /// A live peer holds state that this node lacks.
    Importing,
    /// A peer has not been heard since boot, and the boot wait is not over.
    Waiting,
    /// A peer was heard and is gone, less than the boot wait ago.
    Lost,
    /// This node is about to give the role up, and a live peer lacks something that it can still be told.
    Untold,
    /// A live peer is master, and was asked, not long ago, to tell what it kept back.
    Telling,
    /// A live peer is master.
    Active,
    /// Nobody is in the way.
    Free,
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    role: Role,
    desire: Option<Desire>,
    situation: Option<Situation>,
    next: Role,
    cause: Option<Cause>,
}

const fn row(
    role: Role,
    desire: Option<Desire>,
    situation: Option<Situation>,
    next: Role,
    cause: Option<Cause>,
) -> Row {
    Row {
        role,
        desire,
        situation,
        next,
        cause,
    }
}

/// The machine: the first row that matches decides; a missing desire or situation matches every one. A row that
/// leaves fault is followed by one for backup in the same step.
const TABLE: &[Row] = &{
    use Desire::{Backup as WantBackup, Ordered, Preferred};
    use Role::{Backup, Fault, Master};
    use Situation::{Active, Importing, Lost, Telling, Untold, Waiting};
    [
        row(
            Fault,
            Some(Ordered),
            Some(Importing),
            Fault,
            Some(Cause::MasterPending),
        ),
        row(Fault, None, Some(Importing), Fault, Some(Cause::ImportUnfinished)),
        row(Fault, None, Some(Waiting), Fault, Some(Cause::WaitingForPeer)),
        // A peer that died in the middle of the import overrides at once, if an operator says so.
        row(Fault, Some(Ordered), Some(Lost), Backup, None),
        row(Fault, None, Some(Lost), Fault, Some(Cause::WaitingForPeer)),
        row(Fault, None, None, Backup, None),
        row(
            Backup,
            Some(Ordered),
            Some(Importing),
            Backup,
            Some(Cause::MasterPending),
        ),
        row(
            Backup,
            None,
            Some(Importing),
            Backup,
            Some(Cause::ImportUnfinished),
        ),
        row(Backup, Some(WantBackup), None, Backup, None),
        row(
            Backup,
            Some(Preferred),
            Some(Active),
            Backup,
            Some(Cause::PeerActive),
        ),
        row(Backup, None, Some(Telling), Backup, Some(Cause::PeerTelling)),
        row(Backup, None, None, Master, None),
        row(Master, None, Some(Importing), Backup, Some(Cause::Outranked)),
        row(Master, None, Some(Untold), Master, Some(Cause::Draining)),
        row(Master, Some(WantBackup), None, Backup, None),
        row(Master, None, None, Master, None),
    ]
};

fn decide(role: Role, desire: Desire, situation: Situation) -> (Role, Option<Cause>) {
    TABLE
        .iter()
        .find(|r| {
            r.role == role
                && r.desire.is_none_or(|d| d == desire)
                && r.situation.is_none_or(|s| s == situation)
        })
        .map_or((role, None), |r| (r.next, r.cause))
}

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
    /// The drain under way.
    draining: Option<Drain>,
    /// Drains so far.
    drains: u32,
    drain_ended: Option<(DrainEnd, Duration)>,
    /// Whether an order comes before the traffic does: then there is time to ask.
    asks: bool,
    asking: Option<Asking>,
    asked: u8,
}

/// An active peer was asked to tell what it kept back.
#[derive(Debug, Clone, Copy)]
struct Asking {
    number: u8,
    since: Instant,
}

/// A drain under way.
#[derive(Debug, Clone, Copy)]
struct Drain {
    number: u32,
    since: Instant,
    /// Every live peer has had everything once.
    told: bool,
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
            draining: None,
            drains: 0,
            drain_ended: None,
            asks: true,
            asking: None,
            asked: 0,
        }
    }

    /// An election decides who is active, and has moved the traffic when it says so: a node that is ordered takes over
    /// without asking.
    #[must_use]
    pub const fn elected(mut self) -> Self {
        self.asks = false;
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
        self.begin_drain(now, peers);
        self.ask(now, peers);
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
        self.end_drain(now, cause, peers);
        self.asking = self.asking.filter(|_| self.role == Role::Backup);
        if self.role == Role::Backup {
            self.adopt(peers);
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
            drain: self.draining.map_or(0, |drain| drain.number),
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

    /// A master that is told to stand by, or asked by a peer that is to be active, drains from now on.
    fn begin_drain(&mut self, now: Instant, peers: &[PeerView]) {
        if self.leaves(peers) && self.draining.is_none() {
            self.drains = self.drains.wrapping_add(1).max(1);
            self.draining = Some(Drain {
                number: self.drains,
                since: now,
                told: false,
            });
        }
        if let Some(drain) = &mut self.draining {
            drain.told |= peers.iter().all(|p| !p.lacks(drain.number));
        }
    }

    fn leaves(&self, peers: &[PeerView]) -> bool {
        self.role == Role::Master
            && (self.desire == Desire::Backup || peers.iter().any(|p| p.asked().is_some()))
    }

    /// Whoever is ordered to be active while a peer is asks it to tell what it kept back.
    fn ask(&mut self, now: Instant, peers: &[PeerView]) {
        let waits = self.asks && (self.role, self.desire) == (Role::Backup, Desire::Ordered);
        if !waits || !peers.iter().any(PeerView::is_master) {
            self.asking = None;
        } else if self.asking.is_none() {
            self.asked = self.asked.wrapping_add(1);
            self.asking = Some(Asking {
                number: self.asked,
                since: now,
            });
        }
    }

    fn is_waiting_for(&self, now: Instant, peers: &[PeerView]) -> bool {
        self.asking.is_some_and(|asking| {
            let patience = |said: Handover| match said {
                Handover::Told(number) if number == asking.number => Duration::ZERO,
                Handover::Telling(number) if number == asking.number => DRAIN_MAX,
                _ => ANSWER_MAX,
            };
            let waited = now.since(asking.since);
            let tells = |v: PeerVrf| v.role == Role::Master && waited < patience(v.handover);
            peers.iter().any(|p| p.vrf.is_some_and(tells))
        })
    }

    fn handover(&self, peers: &[PeerView]) -> Handover {
        let told = self.draining.is_some_and(|drain| drain.told);
        match (self.asking, peers.iter().find_map(PeerView::asked)) {
            (Some(asking), _) => Handover::Asked(asking.number),
            (None, Some(number)) if told => Handover::Told(number),
            (None, Some(number)) if self.draining.is_some() => Handover::Telling(number),
            _ => Handover::None,
        }
    }

    fn is_untold(&self, now: Instant, peers: &[PeerView]) -> bool {
        self.draining.filter(|_| self.leaves(peers)).is_some_and(|drain| {
            now.since(drain.since) < DRAIN_MAX && peers.iter().any(|p| p.lacks(drain.number))
        })
    }

    fn end_drain(&mut self, now: Instant, cause: Option<Cause>, peers: &[PeerView]) {
        if self.leaves(peers) {
            return;
        }
        let Some(drain) = self.draining.take() else {
            return;
        };
        let end = if self.role == Role::Master {
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
        self.drain_ended = Some((end, now.since(drain.since)));
    }

    /// How the last drain ended and how long it took, once.
    pub const fn take_drain_end(&mut self) -> Option<(DrainEnd, Duration)> {
        self.drain_ended.take()
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
        } else if self.is_untold(now, peers) {
            Situation::Untold
        } else if quiet(false) {
            Situation::Waiting
        } else if quiet(true) {
            Situation::Lost
        } else if peers.iter().any(PeerView::is_master) {
            if self.is_waiting_for(now, peers) {
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
            self.term = if former && peer.verified < peer.slots {
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
