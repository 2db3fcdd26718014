//! What all parts of one event thread share: the rings, this node's roles as of this turn, counters, chance.
//! Owned by the pump, lent to a lane, an inlet or the door for the time of a call.

use std::sync::Arc;

use crossbeam_channel::Sender;
use dataplane::applied::AppliedCounters;
use dataplane::delta::{SlotRef, Term, ToWorker};
use dataplane::flow::VrfId;
use dataplane::owners::Owners;
use dataplane::role::{Role, Roles};
use dataplane::shard::mix64;
use dataplane::time::Instant;
use rtrb::Producer;

use crate::board::Board;
use crate::cause::{Cause, Causes};
use crate::config::SyncConfig;
use crate::fingerprint::Section;
use crate::peering::Own;
use crate::port::{CompareAnswer, CompareFound, PumpEvent};
use crate::redirect::Arriving;
use crate::tally::Tallies;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<SyncConfig>,
    pub(crate) event: u16,
    /// Configuration fingerprint, by VRF.
    pub(crate) sections: Arc<[Vec<Section>]>,
    /// Of this turn.
    pub(crate) now: Instant,
    /// By VRF, of this turn.
    pub(crate) own: Vec<Own>,
    pub(crate) rings: Rings,
    pub(crate) arriving: Arriving,
    pub(crate) causes: Causes,
    pub(crate) events: Sender<PumpEvent>,
    pub(crate) events_lost: u64,
    /// Records of connections that are over.
    pub(crate) past: Tallies,
    /// Where answers to a comparison go.
    comparing: Option<Sender<CompareAnswer>>,
    /// Something that the board shows has changed.
    pub(crate) changed: bool,
    /// By VRF: the highest term of entries that a peer has offered.
    pub(crate) heard: Vec<Term>,
    generation: u32,
    chance: u64,
}

/// Rings to the workers, with what was ever put into each.
#[derive(Debug)]
pub(crate) struct Rings {
    rings: Vec<Producer<ToWorker>>,
    pushed: Vec<u64>,
    owners: Arc<Owners>,
    applied: Arc<AppliedCounters>,
    event: usize,
}

impl Rings {
    pub(crate) fn new(
        rings: Vec<Producer<ToWorker>>,
        owners: Arc<Owners>,
        applied: Arc<AppliedCounters>,
        event: u16,
    ) -> Self {
        let pushed = vec![0; rings.len()];
        Self {
            rings,
            pushed,
            owners,
            applied,
            event: usize::from(event),
        }
    }

    /// Which worker has which slot.
    pub(crate) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Hands an item to the worker of a slot; false when its ring is full.
    pub(crate) fn push(&mut self, at: SlotRef, item: ToWorker) -> bool {
        self.push_to(self.owners.receiver_of(at), item)
    }

    /// Hands an answer about a record of a slot to the worker where packets wait for it; false when its ring is full.
    pub(crate) fn push_to_asker(&mut self, at: SlotRef, item: ToWorker) -> bool {
        self.push_to(self.owners.asker_of(at), item)
    }

    fn push_to(&mut self, worker: u16, item: ToWorker) -> bool {
        let worker = usize::from(worker);
        let done = self.rings[worker].push(item).is_ok();
        self.pushed[worker] += u64::from(done);
        done
    }

    /// Items that fit into the smallest ring.
    pub(crate) fn capacity(&self) -> usize {
        let capacities = self.rings.iter().map(|ring| ring.buffer().capacity());
        capacities.min().unwrap_or(0)
    }

    /// Items ever put into each worker's ring.
    pub(crate) fn pushed(&self) -> &[u64] {
        &self.pushed
    }

    /// Whether every worker has processed as many items of this event thread.
    pub(crate) fn applied(&self, pushed: &[u64]) -> bool {
        pushed
            .iter()
            .enumerate()
            .all(|(worker, n)| self.applied.get(worker, self.event) >= *n)
    }
}

impl Shared {
    pub(crate) fn new(
        config: Arc<SyncConfig>,
        event: u16,
        (rings, arriving): (Rings, Arriving),
        events: Sender<PumpEvent>,
        seed: u64,
    ) -> Self {
        let mut shared = Self {
            event,
            sections: config.vrfs.iter().map(|vrf| vrf.sections.clone()).collect(),
            now: Instant::default(),
            own: Vec::new(),
            rings,
            arriving,
            causes: Causes::default(),
            events,
            events_lost: 0,
            past: Tallies::default(),
            comparing: None,
            heard: vec![Term::NONE; config.vrfs.len()],
            changed: true,
            generation: 0,
            chance: mix64(seed ^ config.boot_id.rotate_left(u32::from(event))),
            config,
        };
        // A receiver compares generations for equality: a restarted sender must not reuse those it used.
        shared.generation = shared.random();
        shared
    }

    /// Starts a turn.
    pub(crate) fn refresh(&mut self, now: Instant, roles: &Roles, board: &Board) {
        self.now = now;
        self.own.clear();
        for vrf in 0..u16::try_from(self.config.vrfs.len()).unwrap_or(u16::MAX) {
            let (role, term) = roles.get(VrfId(vrf));
            self.own.push(Own {
                role,
                term,
                ready: board.ready(usize::from(vrf)),
                handover: board.handover(usize::from(vrf)),
            });
        }
    }

    /// Whether the node may take in state of a VRF at all.
    pub(crate) fn is_standing_by(&self, vrf: usize) -> bool {
        self.own
            .get(vrf)
            .is_some_and(|own| matches!(own.role, Role::Fault | Role::Backup))
    }

    pub(crate) fn tell(&mut self, event: PumpEvent) {
        self.events_lost += u64::from(self.events.try_send(event).is_err());
    }

    /// A peer has offered entries of a term.
    pub(crate) fn hear(&mut self, vrf: VrfId, term: Term) {
        if let Some(heard) = self.heard.get_mut(vrf.index())
            && term > *heard
        {
            *heard = term;
            self.changed = true;
        }
    }

    /// Answers go here from now on.
    pub(crate) fn compare_for(&mut self, to: Sender<CompareAnswer>) {
        self.comparing = Some(to);
    }

    /// A comparison has come a step further. Whoever asked may have gone, or be slow: it notices what is missing.
    pub(crate) fn compared(&self, at: SlotRef, round: u32, found: CompareFound) {
        if let Some(to) = &self.comparing {
            let _ = to.try_send(CompareAnswer { at, round, found });
        }
    }

    pub(crate) fn count(&mut self, cause: Cause) {
        self.causes.count(cause);
    }

    /// The next generation of a slot, never 0.
    pub(crate) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.generation
    }

    /// A number nobody can expect twice, never 0.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is as random as the high one"
    )]
    pub(crate) fn random(&mut self) -> u32 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix64(self.chance) as u32).max(1)
    }
}
