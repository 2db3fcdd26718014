//! What the event threads know of the peers, for whoever decides about roles: shared, written in place, read
//! at leisure. State, not messages: a reader that was busy misses nothing.
//!
//! Created at start with one cell per event thread, peer and VRF. Each event thread writes only its own cells;
//! the role machines' thread reads all of them and joins them into one [`PeerView`] per VRF and peer.

use dataplane::delta::Term;
use dataplane::flow::VrfId;
use dataplane::role::Role;

use crate::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::handover::Handover;
use crate::role::PeerView;

/// One per process, shared by all event threads and the thread that runs the role machines.
#[derive(Debug)]
pub struct Board {
    events: usize,
    peers: usize,
    vrfs: usize,
    cells: Vec<Cell>,
    lanes: Vec<Lanes>,
    ready: Vec<AtomicBool>,
    /// By VRF: what this node says to its peers about who is active, packed.
    handovers: Vec<AtomicU32>,
    /// By VRF: the highest term that any peer ever had for it, or offered entries of.
    heard: Vec<AtomicU64>,
    /// By VRF: a peer that had not been heard was active when it was heard again.
    rivals: Vec<AtomicBool>,
}

/// What one event thread knows of one peer's VRF.
#[derive(Debug, Default)]
struct Cell {
    /// Bit 0 known, bit 1 ready, bit 2 must-equal sections equal, bits 3..5 role, 5..16 handover, bit 16 takes invitations, then
    /// the term, of 47 bits.
    word: AtomicU64,
    verified: AtomicU32,
    exported: AtomicU32,
    /// Last drain of which it has acknowledged everything.
    drained: AtomicU32,
}

/// What one event thread knows of one peer's connections.
#[derive(Debug, Default)]
struct Lanes {
    clients: AtomicU32,
    locals: AtomicU32,
    locals_total: AtomicU32,
    node: AtomicU32,
}

/// A peer's VRF as its last VRF-OPEN or VRF-STATE said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerVrf {
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whether it calls itself ready.
    pub ready: bool,
    /// Whether all must-equal sections and the slot count are equal to ours.
    pub equal: bool,
    /// What it says about a handover.
    pub handover: Handover,
    /// Whether it knows how to be invited.
    pub takes_invitations: bool,
}

/// How many slots of a VRF have come from a peer on an event thread's connections, and gone to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) verified: u32,
    pub(crate) exported: u32,
    /// The last drain that the peer has everything of.
    pub(crate) drained: u32,
}

impl Board {
    /// Nothing known yet.
    #[must_use]
    pub fn new(events: usize, peers: usize, vrfs: usize) -> Self {
        Self {
            events,
            peers,
            vrfs,
            cells: (0..events * peers * vrfs).map(|_| Cell::default()).collect(),
            lanes: (0..events * peers).map(|_| Lanes::default()).collect(),
            ready: (0..vrfs).map(|_| AtomicBool::new(false)).collect(),
            handovers: (0..vrfs).map(|_| AtomicU32::new(0)).collect(),
            heard: (0..vrfs).map(|_| AtomicU64::new(0)).collect(),
            rivals: (0..vrfs).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// A peer has a term, or holds entries of one: it is not forgotten when the peer is gone again before anybody has
    /// looked.
    pub(crate) fn hear(&self, vrf: VrfId, term: Term) {
        if let Some(heard) = self.heard.get(vrf.index()) {
            heard.fetch_max(term.0, Ordering::AcqRel);
        }
    }

    /// A peer was active when it opened the VRF on a connection of this event thread; to be said in front of
    /// [`Self::set_vrf`]. It counts if the peer was not known here before.
    pub(crate) fn meet(&self, event: usize, peer: u8, vrf: VrfId) {
        let comes = self.cell(event, peer, vrf).word.load(Ordering::Acquire) & 1 == 0;
        if let Some(rival) = self.rivals.get(vrf.index())
            && comes
        {
            rival.store(true, Ordering::Release);
        }
    }

    /// Whether a peer has come that was active, since this was last asked: it may have stood by before anybody looks.
    pub fn take_rival(&self, vrf: VrfId) -> bool {
        let rival = self.rivals.get(vrf.index());
        rival.is_some_and(|rival| rival.swap(false, Ordering::AcqRel))
    }

    /// Whether this node is ready to take over a VRF: written by the role machines' thread, told to the peers.
    pub fn set_ready(&self, vrf: VrfId, ready: bool) {
        if let Some(cell) = self.ready.get(vrf.index()) {
            cell.store(ready, Ordering::Release);
        }
    }

    pub(crate) fn ready(&self, vrf: usize) -> bool {
        self.ready
            .get(vrf)
            .is_some_and(|cell| cell.load(Ordering::Acquire))
    }

    /// What this node says to its peers of a VRF about who is active.
    pub fn set_handover(&self, vrf: VrfId, handover: Handover) {
        if let Some(cell) = self.handovers.get(vrf.index()) {
            cell.store(handover.packed(), Ordering::Release);
        }
    }

    pub(crate) fn handover(&self, vrf: usize) -> Handover {
        let cell = self.handovers.get(vrf);
        cell.map_or(Handover::None, |cell| {
            Handover::unpacked(cell.load(Ordering::Acquire))
        })
    }

    fn cell(&self, event: usize, peer: u8, vrf: VrfId) -> &Cell {
        &self.cells[(event * self.peers + usize::from(peer)) * self.vrfs + vrf.index()]
    }

    fn lane_cell(&self, event: usize, peer: u8) -> &Lanes {
        &self.lanes[event * self.peers + usize::from(peer)]
    }

    /// An event thread's present knowledge of a peer's VRF (none when no connection says anything), and the slots of it that
    /// were imported from the peer and exported to it. Whoever sees a term sees no older progress: a node that took the slots
    /// of an earlier reign for those of this one would overwrite its peer.
    pub(crate) fn set_vrf(
        &self,
        event: usize,
        peer: u8,
        vrf: VrfId,
        known: Option<PeerVrf>,
        progress: Progress,
    ) {
        let cell = self.cell(event, peer, vrf);
        cell.verified.store(progress.verified, Ordering::Release);
        cell.exported.store(progress.exported, Ordering::Release);
        // Behind them: whoever sees a drain done sees that slots were lost since.
        cell.drained.store(progress.drained, Ordering::Release);
        let word = known.map_or(0, |v| {
            1 | u64::from(v.ready) << 1
                | u64::from(v.equal) << 2
                | (v.role as u64) << 3
                | u64::from(v.handover.packed()) << 5
                | u64::from(v.takes_invitations) << 16
                | v.term.0 << 17
        });
        if let Some(known) = known {
            self.hear(vrf, known.term);
        }
        // Published last.
        cell.word.store(word, Ordering::Release);
    }

    /// Connections of an event thread with a peer: our lanes that are up, its lanes that are up, how many lanes
    /// it has in all, and its node id.
    pub(crate) fn set_lanes(&self, event: usize, peer: u8, clients: u32, locals: u32, total: u32, node: u8) {
        let lanes = self.lane_cell(event, peer);
        lanes.clients.store(clients, Ordering::Release);
        lanes.locals.store(locals, Ordering::Release);
        lanes.locals_total.store(total, Ordering::Release);
        lanes.node.store(u32::from(node), Ordering::Release);
    }

    fn vrf_word(&self, event: usize, peer: u8, vrf: VrfId) -> Option<PeerVrf> {
        let word = self.cell(event, peer, vrf).word.load(Ordering::Acquire);
        let role = match word >> 3 & 3 {
            0 => Role::Fault,
            1 => Role::Backup,
            2 => Role::Master,
            _ => Role::Alone,
        };
        (word & 1 != 0).then_some(PeerVrf {
            role,
            term: Term(word >> 17),
            ready: word & 2 != 0,
            equal: word & 4 != 0,
            handover: Handover::unpacked((word >> 5 & 0x7ff) as u32),
            takes_invitations: word & 1 << 16 != 0,
        })
    }

    /// All that is known of `peer` for `vrf`, joined over the event threads: the highest term wins, because an
    /// older word of the same node is only late.
    #[must_use]
    pub fn view(&self, peer: u8, vrf: VrfId, slots: u16) -> PeerView {
        let best = (0..self.events)
            .filter_map(|e| self.vrf_word(e, peer, vrf))
            .max_by_key(|v| v.term);
        let sum = |read: fn(&Cell) -> &AtomicU32| -> u32 {
            (0..self.events)
                .map(|e| read(self.cell(e, peer, vrf)).load(Ordering::Acquire))
                .sum()
        };
        let lanes = |read: fn(&Lanes) -> &AtomicU32| {
            (0..self.events).map(move |e| read(self.lane_cell(e, peer)).load(Ordering::Acquire))
        };
        // In front of the slots, see `set_vrf`.
        let drained = (0..self.events).map(|e| self.cell(e, peer, vrf).drained.load(Ordering::Acquire));
        let drained = drained.min().unwrap_or(0);
        PeerView {
            vrf: best,
            drained,
            node: u8::try_from(lanes(|l| &l.node).max().unwrap_or(0)).unwrap_or(0),
            heard: self
                .heard
                .get(vrf.index())
                .map_or(Term::NONE, |heard| Term(heard.load(Ordering::Acquire))),
            slots: u32::from(slots),
            verified: sum(|c| &c.verified),
            exported: sum(|c| &c.exported),
            clients_up: lanes(|l| &l.clients).sum(),
            // Event thread 0 has a control lane besides.
            clients_total: u32::try_from(self.events + 1).unwrap_or(u32::MAX),
            locals_up: lanes(|l| &l.locals).sum(),
            locals_total: lanes(|l| &l.locals_total).max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_joins_event_threads_and_prefers_the_highest_term() {
        let board = Board::new(2, 2, 2);
        let old = PeerVrf {
            role: Role::Master,
            term: Term(257),
            ready: false,
            equal: true,
            handover: Handover::Told(255),
            takes_invitations: false,
        };
        let new = PeerVrf {
            role: Role::Backup,
            term: Term((1 << 47) - 1),
            ready: true,
            equal: false,
            handover: Handover::Invites(255),
            takes_invitations: true,
        };
        let progress = |verified, exported, drained| Progress {
            verified,
            exported,
            drained,
        };
        board.meet(0, 1, VrfId(1));
        board.set_vrf(0, 1, VrfId(1), Some(old), progress(3, 1, 9));
        board.set_vrf(1, 1, VrfId(1), Some(new), progress(4, 0, 8));
        board.set_lanes(1, 1, 1, 2, 3, 7);
        let view = board.view(1, VrfId(1), 8);
        assert_eq!(view.vrf, Some(new));
        assert_eq!((view.verified, view.exported, view.slots), (7, 1, 8));
        assert_eq!(view.drained, 8, "what one event thread lacks nobody has");
        assert_eq!(
            (view.node, view.clients_up, view.locals_up, view.locals_total),
            (7, 1, 2, 3)
        );
        assert_eq!(board.view(0, VrfId(1), 8).vrf, None);
        assert!(board.take_rival(VrfId(1)), "it was active when it came");
        board.meet(0, 1, VrfId(1));
        assert!(!board.take_rival(VrfId(1)), "it has not come anew");
        board.set_vrf(1, 1, VrfId(1), None, Progress::default());
        board.set_vrf(0, 1, VrfId(1), None, Progress::default());
        let gone = board.view(1, VrfId(1), 8);
        assert_eq!((gone.vrf, gone.heard), (None, new.term), "a term is not unheard");
        assert_eq!(board.view(1, VrfId(0), 8).heard, Term::NONE);
        assert!(!board.take_rival(VrfId(0)));
        assert_eq!(board.view(1, VrfId(0), 8).vrf, None);
    }
}

/// Every interleaving of an event thread that learns of a peer and of the thread that decides.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const VRF: VrfId = VrfId(0);

    fn at(term: u64, role: Role) -> Option<PeerVrf> {
        Some(PeerVrf {
            role,
            term: Term(term),
            ready: true,
            equal: true,
            handover: Handover::None,
            takes_invitations: true,
        })
    }

    /// A peer whose slots had all come under one term comes back with a higher one and none of them yet.
    #[test]
    fn whoever_sees_a_term_sees_no_older_progress_and_has_heard_of_it() {
        loom::model(|| {
            let board = Arc::new(Board::new(1, 1, 1));
            let learns = Arc::clone(&board);
            let done = Progress {
                verified: 8,
                exported: 0,
                drained: 0,
            };
            board.set_vrf(0, 0, VRF, at(0x101, Role::Master), done);
            let event = thread::spawn(move || {
                learns.set_vrf(0, 0, VRF, at(0x201, Role::Master), Progress::default());
            });
            let view = board.view(0, VRF, 8);
            let term = view.vrf.map_or(Term::NONE, |v| v.term);
            assert!(view.heard >= term);
            assert!(term == Term(0x101) || view.verified == 0, "{view:?}");
            event.join().unwrap();
        });
    }

    /// Slots are lost, then a drain is done: not the other way round.
    #[test]
    fn whoever_sees_a_drain_done_sees_the_slots_that_were_lost_before() {
        loom::model(|| {
            let board = Arc::new(Board::new(1, 1, 1));
            let learns = Arc::clone(&board);
            let progress = |exported, drained| Progress {
                verified: 0,
                exported,
                drained,
            };
            board.set_vrf(0, 0, VRF, at(0x101, Role::Backup), progress(8, 0));
            let event = thread::spawn(move || {
                learns.set_vrf(0, 0, VRF, at(0x101, Role::Backup), progress(3, 5));
            });
            let view = board.view(0, VRF, 8);
            assert!(view.drained == 0 || view.exported == 3, "{view:?}");
            event.join().unwrap();
        });
    }

    /// What one event thread says never hides what another does; the higher of two terms heard at once stays.
    #[test]
    fn of_two_event_threads_the_higher_term_is_seen_and_heard() {
        loom::model(|| {
            let board = Arc::new(Board::new(2, 1, 1));
            let learns = Arc::clone(&board);
            let other = thread::spawn(move || {
                learns.set_vrf(1, 0, VRF, at(0x201, Role::Master), Progress::default());
            });
            board.set_vrf(0, 0, VRF, at(0x101, Role::Backup), Progress::default());
            board.set_vrf(0, 0, VRF, None, Progress::default());
            other.join().unwrap();
            let view = board.view(0, VRF, 8);
            assert_eq!((view.vrf, view.heard), (at(0x201, Role::Master), Term(0x201)));
        });
    }
}
