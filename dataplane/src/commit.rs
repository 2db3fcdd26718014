//! Flows whose first packets wait until the peers know them (output commit).
//!
//! A flow is entered when its conntrack is made under a policy that wants so. When its record is emitted, a question
//! follows it in the slot's stream (sync/PROTOCOL.md R-42); each peer that streams the slot answers when it has applied
//! the record, or refused it. The flow is *settled* by the last good answer, by a bad one, by the end of its time, by want
//! of room, or when no stream is left to ask on; its packets are then let go or dropped ([`crate::stage::hold`]), and
//! the flow leaves.
//!
//! Everything is allocated at start. An entry of the table that waits has a bit that says so: packets of others never
//! come here.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::config::OutputCommit;
use crate::counters::Counters;
use crate::delta::{LaneTag, SlotRef};
use crate::protection::Kept;
use crate::slot::{Kind, NIL, PEERS_MAX};
use crate::store::Queue;
use crate::tables::{Changed, Tables};
use crate::time::Instant;
use crate::verdict::Drop;

/// Packets of one flow that wait at most.
pub(crate) const PACKETS_MAX: u16 = 32;

/// What becomes of a flow's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// They go on.
    Release,
    /// They are dropped, and the flow with them.
    End(Drop),
}

/// Why a flow is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Every peer has it.
    Applied,
    /// The peers did not say so in time.
    Timer,
    /// No room for its packets.
    Limit,
    /// A peer refused it, or none is there to take it.
    Unknown,
    /// Its conntrack was removed.
    Removed,
}

#[derive(Debug)]
struct Flow {
    /// Its conntrack; [`NIL`] once that is gone.
    entry: u32,
    at: SlotRef,
    policy: OutputCommit,
    until: Instant,
    /// Counter of its record's version; 0 before it is emitted.
    counter: u64,
    /// Peers that have not answered yet.
    awaited: ArrayVec<u8, PEERS_MAX>,
    applied: bool,
    outcome: Option<Outcome>,
    packets: Queue,
    waiting: u16,
    /// Next flow with the same hash.
    bucket_next: u32,
    /// Neighbours in the list of its VRF, oldest first.
    next: u32,
    prev: u32,
}

impl Flow {
    fn vacant() -> Self {
        Self {
            entry: NIL,
            at: SlotRef::default(),
            policy: OutputCommit::Off,
            until: Instant::default(),
            counter: 0,
            awaited: ArrayVec::new(),
            applied: false,
            outcome: None,
            packets: Queue::EMPTY,
            waiting: 0,
            bucket_next: NIL,
            next: NIL,
            prev: NIL,
        }
    }
}

/// Oldest first: all of a VRF wait equally long.
#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u32,
    tail: u32,
}

/// One worker's waiting flows.
#[derive(Debug)]
pub(crate) struct Commits {
    flows: Box<[Flow]>,
    vacant: Vec<u32>,
    buckets: Box<[u32]>,
    chains: Vec<Chain>,
    settled: VecDeque<u32>,
}

impl Commits {
    /// Room for `flows` flows of `vrfs` VRFs.
    pub(crate) fn new(flows: usize, vrfs: usize) -> Self {
        let flows = u32::try_from(flows).unwrap_or(NIL - 1).min(NIL - 1);
        Self {
            flows: (0..flows).map(|_| Flow::vacant()).collect(),
            vacant: (0..flows).rev().collect(),
            buckets: vec![NIL; (flows as usize).next_power_of_two()].into_boxed_slice(),
            chains: vec![Chain { head: NIL, tail: NIL }; vrfs],
            settled: VecDeque::with_capacity(flows as usize),
        }
    }

    /// Whether no flow waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.vacant.len() == self.flows.len()
    }

    /// Whether another flow finds a place.
    pub(crate) fn has_room(&self) -> bool {
        !self.vacant.is_empty()
    }

    /// Enters a flow that has just been made. False when there is no place.
    pub(crate) fn enter(&mut self, entry: u32, at: SlotRef, policy: OutputCommit, until: Instant) -> bool {
        let Some(id) = self.vacant.pop() else { return false };
        let bucket = self.bucket(entry);
        let head = core::mem::replace(&mut self.buckets[bucket], id);
        let chain = &mut self.chains[at.vrf.index()];
        let prev = core::mem::replace(&mut chain.tail, id);
        if prev == NIL {
            chain.head = id;
        } else {
            self.flows[prev as usize].next = id;
        }
        self.flows[id as usize] = Flow {
            entry,
            at,
            policy,
            until,
            bucket_next: head,
            prev,
            ..Flow::vacant()
        };
        true
    }

    /// The flow of a conntrack.
    pub(crate) fn find(&self, entry: u32) -> Option<u32> {
        let mut id = self.buckets[self.bucket(entry)];
        while id != NIL {
            let flow = &self.flows[id as usize];
            if flow.entry == entry {
                return Some(id);
            }
            id = flow.bucket_next;
        }
        None
    }

    /// Where a flow's packets wait, and how many.
    pub(crate) fn packets(&mut self, id: u32) -> (&mut Queue, &mut u16) {
        let flow = &mut self.flows[id as usize];
        (&mut flow.packets, &mut flow.waiting)
    }

    /// What its policy is.
    pub(crate) fn policy(&self, id: u32) -> OutputCommit {
        self.flows[id as usize].policy
    }

    /// The flow's record has been emitted, at this counter of its slot, to these streams.
    pub(crate) fn emitted(&mut self, entry: u32, counter: u64, streams: &[LaneTag]) -> bool {
        let Some(id) = self.find(entry) else { return false };
        let flow = &mut self.flows[id as usize];
        flow.counter = counter;
        flow.awaited = streams.iter().map(|lane| lane.peer).take(PEERS_MAX).collect();
        true
    }

    /// A peer has applied, or refused, the record of this counter.
    pub(crate) fn heard(&mut self, at: SlotRef, peer: u8, counter: u64, applied: bool) -> Option<Reason> {
        let id = self.position(at, |flow| {
            flow.at == at && flow.counter == counter && counter != 0
        })?;
        if !applied {
            return self.settle(id, Reason::Unknown);
        }
        let flow = &mut self.flows[id as usize];
        flow.awaited.retain(|p| *p != peer);
        flow.applied = true;
        if flow.awaited.is_empty() {
            self.settle(id, Reason::Applied)
        } else {
            None
        }
    }

    /// A peer is no longer streamed the slot: nobody waits for its word.
    pub(crate) fn lane_gone(&mut self, at: SlotRef, peer: u8, counters: &mut Counters) {
        while let Some(id) = self.position(at, |flow| {
            flow.at == at && flow.outcome.is_none() && flow.awaited.contains(&peer)
        }) {
            let flow = &mut self.flows[id as usize];
            flow.awaited.retain(|p| *p != peer);
            if flow.awaited.is_empty() {
                let reason = if flow.applied {
                    Reason::Applied
                } else {
                    Reason::Unknown
                };
                let reason = self.settle(id, reason);
                count(counters, reason);
            }
        }
    }

    /// The slot has lost a change, and nobody knows which.
    pub(crate) fn slot_lost(&mut self, at: SlotRef, counters: &mut Counters) {
        while let Some(id) = self.position(at, |flow| flow.at == at && flow.outcome.is_none()) {
            let reason = self.settle(id, Reason::Unknown);
            count(counters, reason);
        }
    }

    /// Settles what has waited long enough.
    pub(crate) fn expire(&mut self, now: Instant, counters: &mut Counters) {
        for vrf in 0..self.chains.len() {
            let mut id = self.chains[vrf].head;
            while id != NIL && self.flows[id as usize].until <= now {
                let next = self.flows[id as usize].next;
                let reason = self.settle(id, Reason::Timer);
                count(counters, reason);
                id = next;
            }
        }
    }

    /// Decides what becomes of a flow's packets; gives the reason when it wasn't decided yet.
    pub(crate) fn settle(&mut self, id: u32, reason: Reason) -> Option<Reason> {
        let flow = &mut self.flows[id as usize];
        let before = flow.outcome;
        let outcome = match (reason, flow.policy) {
            (Reason::Removed, _) => Outcome::End(Drop::CommitEnded),
            _ if before.is_some() => return None,
            (Reason::Applied, _) | (_, OutputCommit::Open | OutputCommit::Off) => Outcome::Release,
            (Reason::Timer, OutputCommit::Closed) => Outcome::End(Drop::CommitTimeout),
            (Reason::Limit, OutputCommit::Closed) => Outcome::End(Drop::CommitFull),
            (Reason::Unknown, OutputCommit::Closed) => Outcome::End(Drop::CommitUnknown),
        };
        flow.outcome = Some(outcome);
        if reason == Reason::Removed {
            let entry = flow.entry;
            self.unbucket(entry, id);
            self.flows[id as usize].entry = NIL;
        }
        if before.is_some() {
            return None;
        }
        self.settled.push_back(id);
        Some(reason)
    }

    /// The oldest settled flow: its id, its conntrack ([`NIL`] when that is gone), and what becomes of it.
    pub(crate) fn next_settled(&self) -> Option<(u32, u32, Outcome)> {
        let id = *self.settled.front()?;
        let flow = &self.flows[id as usize];
        Some((id, flow.entry, flow.outcome?))
    }

    /// The oldest settled flow leaves: none of its packets waits any more.
    pub(crate) fn leave(&mut self) {
        let Some(id) = self.settled.pop_front() else {
            return;
        };
        let Flow {
            entry,
            at,
            next,
            prev,
            ..
        } = self.flows[id as usize];
        if entry != NIL {
            self.unbucket(entry, id);
        }
        let chain = &mut self.chains[at.vrf.index()];
        if prev == NIL {
            chain.head = next;
        } else {
            self.flows[prev as usize].next = next;
        }
        let chain = &mut self.chains[at.vrf.index()];
        if next == NIL {
            chain.tail = prev;
        } else {
            self.flows[next as usize].prev = prev;
        }
        self.flows[id as usize].entry = NIL;
        self.vacant.push(id);
    }

    /// The process stops: every flow is settled, so that its packets can be freed.
    pub(crate) fn abandon(&mut self) {
        for vrf in 0..self.chains.len() {
            let mut id = self.chains[vrf].head;
            while id != NIL {
                let next = self.flows[id as usize].next;
                self.settle(id, Reason::Removed);
                id = next;
            }
        }
    }

    /// Whether packets of flows of the slot wait.
    pub(crate) fn waits_for(&self, at: SlotRef) -> bool {
        self.position(at, |flow| flow.at == at).is_some()
    }

    fn position(&self, at: SlotRef, wanted: impl Fn(&Flow) -> bool) -> Option<u32> {
        let mut id = self.chains[at.vrf.index()].head;
        while id != NIL {
            let flow = &self.flows[id as usize];
            if wanted(flow) {
                return Some(id);
            }
            id = flow.next;
        }
        None
    }

    fn bucket(&self, entry: u32) -> usize {
        entry.wrapping_mul(0x9e37_79b1) as usize & (self.buckets.len() - 1)
    }

    fn unbucket(&mut self, entry: u32, id: u32) {
        let bucket = self.bucket(entry);
        let next = self.flows[id as usize].bucket_next;
        let mut at = self.buckets[bucket];
        if at == id {
            self.buckets[bucket] = next;
            return;
        }
        while at != NIL {
            let flow = &mut self.flows[at as usize];
            if flow.bucket_next == id {
                flow.bucket_next = next;
                return;
            }
            at = flow.bucket_next;
        }
    }
}

fn count(counters: &mut Counters, reason: Option<Reason>) {
    *match reason {
        Some(Reason::Applied) => &mut counters.commit_released_ack,
        Some(Reason::Timer) => &mut counters.commit_released_timer,
        Some(Reason::Limit) => &mut counters.commit_released_limit,
        Some(Reason::Unknown) => &mut counters.commit_released_unknown,
        Some(Reason::Removed) | None => return,
    } += 1;
}

impl Tables {
    /// Packets that may wait.
    pub(crate) fn held_packets(&self) -> usize {
        self.commits.flows.len()
    }

    /// Why a flow of a slot can't wait for the peers, if so, and what that means where it must.
    pub(crate) fn unable_to_commit(&self, at: SlotRef) -> Option<(Reason, Drop)> {
        let streamed = self.slots.get(at).is_some_and(|slot| !slot.streams.is_empty());
        if !streamed {
            Some((Reason::Unknown, Drop::CommitUnknown))
        } else if !self.commits.has_room() {
            Some((Reason::Limit, Drop::CommitFull))
        } else {
            None
        }
    }

    /// The packets of a conntrack that has just been made wait for the peers, unless policy keeps it from them.
    pub(crate) fn await_peers(
        &mut self,
        id: u32,
        at: SlotRef,
        policy: OutputCommit,
        (now, until): (Instant, Instant),
    ) {
        // Overload doesn't keep back what packets wait for.
        if self.conntracks[id].sync.kept == Kept::Overload {
            self.tell(id, now);
        }
        if self.conntracks[id].sync.kept == Kept::No {
            self.conntracks[id].waits = self.commits.enter(id, at, policy, until);
        }
    }

    /// Whether packets wait for the record of a changed entry.
    pub(crate) fn waits(&self, changed: Changed) -> bool {
        changed.kind == Kind::Conntrack && self.conntracks[changed.id].waits
    }

    /// The record of a waiting conntrack has been emitted; gives the counter to ask the peers for.
    pub(crate) fn ask_commit(&mut self, at: SlotRef, id: u32) -> Option<u64> {
        let counter = self.conntracks[id].sync.version.counter;
        let streams = &self.slots.get(at)?.streams;
        self.commits.emitted(id, counter, streams).then_some(counter)
    }

    /// No peer will hear of a waiting conntrack.
    pub(crate) fn uncommitted(&mut self, id: u32) {
        self.settle_entry(id, Reason::Unknown);
    }

    pub(crate) fn settle_entry(&mut self, id: u32, reason: Reason) {
        if let Some(flow) = self.commits.find(id) {
            self.settle(flow, reason);
        }
    }

    pub(crate) fn settle(&mut self, flow: u32, reason: Reason) {
        let reason = self.commits.settle(flow, reason);
        self.count_commit(reason);
    }

    pub(crate) fn count_commit(&mut self, reason: Option<Reason>) {
        count(&mut self.counters, reason);
    }

    /// A peer has said what has become of a record.
    pub(crate) fn committed(&mut self, at: SlotRef, peer: u8, counter: u64, applied: bool) {
        let reason = self.commits.heard(at, peer, counter, applied);
        self.count_commit(reason);
    }

    /// A slot is no longer streamed to a peer.
    pub(crate) fn lane_gone(&mut self, at: SlotRef, peer: u8) {
        self.commits.lane_gone(at, peer, &mut self.counters);
    }

    /// A slot has lost a change: it may be the one that packets wait for.
    pub(crate) fn slot_lost(&mut self, at: SlotRef) {
        self.commits.slot_lost(at, &mut self.counters);
    }

    pub(crate) fn expire_commits(&mut self, now: Instant) {
        self.commits.expire(now, &mut self.counters);
    }

    /// The last packet of a flow has left the store.
    pub(crate) fn waited(&mut self, id: u32, outcome: Outcome, now: Instant) {
        if id == NIL {
            return;
        }
        let vrf = self.conntracks[id].vrf();
        if matches!(outcome, Outcome::End(_)) && self.is_active(vrf) {
            self.remove(now, id);
        } else {
            self.conntracks[id].waits = false;
        }
    }
}
