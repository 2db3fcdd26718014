//! The sender's side of slot resync: which slots of a VRF go to one peer over one lane, and how far each is.
//!
//! Created with the lane, reused over all its connections. Each slot has a life of its own ([`Slot`]); here is what they
//! have in common: how many are how far, and when all of them are there. What has to be done next stands in a queue of
//! slots, so that a turn costs what changed and not what exists.

mod slot;

use std::collections::VecDeque;

use dataplane::delta::{SlotEnd, SlotOffer, SlotRef, Version};
use dataplane::flow::VrfId;
use dataplane::time::Instant;

pub(crate) use self::slot::Task;
use self::slot::{Phase, Slot};
use crate::config::Timing;
use crate::flow_record::Stream;
use crate::port::Heard;
use crate::report::ClientVrfReport;
use crate::resync::Resync;

/// Slots of one lane that may be on their way at once: bounds what is unverified, not how fast it goes.
pub(crate) const WINDOW: usize = 32;

/// Slots of one lane whose holder may be asked about at once.
pub(crate) const QUERIES: usize = 256;

/// Doublings of the pause before a failed slot is sent again.
const RETRY_DOUBLINGS: u8 = 10;

/// One VRF on one lane.
#[derive(Debug)]
pub(crate) struct Export {
    vrf: VrfId,
    /// Slots of this lane, ascending.
    mine: Vec<u16>,
    /// By slot number, the others' included.
    slots: Vec<Slot>,
    /// Number of the first slot's stream; the others' follow in the order of all slots.
    first_stream: u16,
    streaming: bool,
    verified: u32,
    /// Slots asked, walking or ended.
    pub(crate) under_way: usize,
    /// Slots about which the peer was asked.
    pub(crate) queried: usize,
    pub(crate) report: ClientVrfReport,
}

/// What a slot and its copy were when they were last compared at the same point of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    Equal,
    Differs,
    /// The answer was to an older question.
    Outdated,
}

impl Export {
    /// Of a VRF with `slots` slots, of which those that are `mine` go to this lane. Stream numbers start at `first_stream`;
    /// the configuration has as many as slots in all.
    pub(crate) fn new(vrf: VrfId, slots: u16, first_stream: u16, mine: impl Fn(u16) -> bool) -> Self {
        let mine: Vec<u16> = (0..slots).filter(|s| mine(*s)).collect();
        let total = u32::try_from(mine.len()).unwrap_or(u32::MAX);
        let report = ClientVrfReport {
            vrf: vrf.0,
            slots_total: total,
            ..ClientVrfReport::default()
        };
        Self {
            vrf,
            mine,
            slots: vec![Slot::IDLE; usize::from(slots)],
            first_stream,
            streaming: false,
            verified: 0,
            under_way: 0,
            queried: 0,
            report,
        }
    }

    /// Whether state flows to the peer.
    pub(crate) const fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Slots the peer has verified.
    pub(crate) const fn verified(&self) -> u32 {
        self.verified
    }

    /// The slot's stream, when its begin has passed on the present connection.
    pub(crate) fn stream(&self, slot: u16) -> Option<Stream> {
        let state = self.slot(slot).filter(|s| s.open)?;
        Some(Stream {
            number: self.first_stream.wrapping_add(slot),
            at: SlotRef { vrf: self.vrf, slot },
            last: state.last,
        })
    }

    /// Live records of the slot have come to this version.
    pub(crate) fn streamed(&mut self, slot: u16, last: Version) {
        if let Some(slot) = self.slot_mut(slot) {
            slot.last = last;
        }
    }

    /// Whether the peer has verified the slot, and every change since is in its stream.
    pub(crate) fn is_verified(&self, slot: u16) -> bool {
        self.slot(slot).is_some_and(Slot::is_verified)
    }

    /// Whether the peer has verified this generation of the slot.
    pub(crate) fn has_verified(&self, slot: u16, generation: u32) -> bool {
        self.at_generation(slot, generation, Phase::Verified)
    }

    /// The last resync as of now.
    pub(crate) fn resync(&self, now: Instant) -> Resync {
        self.report.resync.as_of(now)
    }

    /// Everything is to be sent.
    pub(crate) fn start(&mut self, reason: &str, now: Instant, todo: &mut VecDeque<SlotRef>) {
        self.streaming = true;
        self.report.resync.join(reason, now);
        for n in 0..self.mine.len() {
            let number = self.mine[n];
            let slot = &mut self.slots[usize::from(number)];
            (slot.whole, slot.offer) = (false, None);
            self.want(number, now, todo);
        }
    }

    /// Nothing is to be sent any more; the worker hears so for every slot it may be streaming to `incarnation`.
    pub(crate) fn stop(&mut self, incarnation: u32, now: Instant, todo: &mut VecDeque<SlotRef>) {
        self.report.resync.interrupt();
        self.report.resync.end(now);
        for n in 0..self.mine.len() {
            let number = self.mine[n];
            let slot = &mut self.slots[usize::from(number)];
            if slot.stop(incarnation) {
                self.enqueue(number, todo);
            }
        }
        (self.streaming, self.verified, self.under_way, self.queried) = (false, 0, 0, 0);
    }

    /// A slot is to be sent again, whole. False when it isn't sent at all.
    pub(crate) fn again(
        &mut self,
        slot: u16,
        reason: &str,
        now: Instant,
        todo: &mut VecDeque<SlotRef>,
    ) -> bool {
        let sent = self.streaming && self.is_mine(slot);
        if sent {
            self.report.resync.join(reason, now);
            self.slots[usize::from(slot)].whole = true;
            self.want(slot, now, todo);
        }
        sent
    }

    /// The peer's operator wants the slot again, whole.
    pub(crate) fn requested(
        &mut self,
        slot: u16,
        generation: u32,
        now: Instant,
        todo: &mut VecDeque<SlotRef>,
    ) {
        // Otherwise it is being sent already.
        if self.at_generation(slot, generation, Phase::Verified) {
            self.again(slot, "requested by the peer", now, todo);
        }
    }

    /// What is to be done for the slot at the head of the queue.
    pub(crate) fn task(&self, slot: u16, now: Instant) -> Task {
        self.slot(slot).map_or(Task::Nothing, |slot| slot.task(now))
    }

    /// The worker was told to stop. True when the slot needs more.
    pub(crate) fn stopped(&mut self, slot: u16) -> bool {
        self.slots[usize::from(slot)].stopped()
    }

    /// The slot left the queue without a task.
    pub(crate) fn dismissed(&mut self, slot: u16) {
        if let Some(slot) = self.slot_mut(slot) {
            slot.queued = false;
        }
    }

    /// The worker was told to send the slot as `generation`.
    pub(crate) fn asked(&mut self, slot: u16, generation: u32) {
        self.set(slot, Phase::Asked);
        let slot = &mut self.slots[usize::from(slot)];
        (slot.generation, slot.queued) = (generation, false);
        self.report.generation = generation;
    }

    /// The peer was asked what it holds of the slot.
    pub(crate) fn asked_peer(&mut self, slot: u16, generation: u32, now: Instant) {
        self.set(slot, Phase::Queried);
        let slot = &mut self.slots[usize::from(slot)];
        (slot.generation, slot.queued, slot.at) = (generation, false, now);
    }

    /// The peer has said what it holds.
    pub(crate) fn offered(
        &mut self,
        slot: u16,
        offer: SlotOffer,
        now: Instant,
        todo: &mut VecDeque<SlotRef>,
    ) -> bool {
        let found = self.at_generation(slot, offer.generation, Phase::Queried);
        if found {
            self.slots[usize::from(slot)].offer = Some(offer);
            self.want(slot, now, todo);
        }
        found
    }

    /// A digest of the slot comes from the worker: it may go out when the peer has verified the slot. Gives it with its
    /// generation.
    pub(crate) fn digest(&mut self, number: u16, end: &SlotEnd) -> Option<SlotEnd> {
        let end = self.slot(number)?.digest(end)?;
        self.report.digests += 1;
        Some(end)
    }

    /// The peer has compared a digest. When it differs, the slot is sent again, whole.
    pub(crate) fn compared(
        &mut self,
        number: u16,
        offer: SlotOffer,
        now: Instant,
        timing: &Timing,
        todo: &mut VecDeque<SlotRef>,
    ) -> Compared {
        if !self.at_generation(number, offer.generation, Phase::Verified) {
            return Compared::Outdated;
        }
        self.slots[usize::from(number)].offer = Some(offer);
        if offer.same {
            return Compared::Equal;
        }
        self.report.digest_mismatch += 1;
        self.slots[usize::from(number)].diverged = true;
        self.report.resync.join("diverged", now);
        self.failed(number, offer.generation, true, now, timing, todo);
        Compared::Differs
    }

    /// What the peer has last said of its slots when their digests were compared.
    pub(crate) fn heard(&self) -> impl Iterator<Item = Heard> + '_ {
        let mine = self.mine.iter();
        mine.filter_map(|&number| self.slots[usize::from(number)].heard(number))
    }

    /// The slot's begin has come from the worker. Gives its stream; none when it isn't the one asked for.
    pub(crate) fn begun(
        &mut self,
        number: u16,
        generation: u32,
        version: Version,
        since: Option<Version>,
    ) -> Option<Stream> {
        if !self.at_generation(number, generation, Phase::Asked) {
            return None;
        }
        self.set(number, Phase::Walking);
        self.slots[usize::from(number)].begin(version, since);
        self.stream(number)
    }

    /// A record of the slot's walk went out.
    pub(crate) fn walked(&mut self, slot: u16) {
        if let Some(slot) = self.slot_mut(slot) {
            slot.sent.walked();
        }
    }

    /// The slot's end has come from the worker. False when it isn't the generation under way.
    pub(crate) fn ended(&mut self, slot: u16, generation: u32, now: Instant) -> bool {
        let found = self.at_generation(slot, generation, Phase::Walking);
        if found {
            self.set(slot, Phase::Ended);
            self.slots[usize::from(slot)].at = now;
        }
        found
    }

    /// The peer has verified the slot. True when that completes a resync of all of them.
    pub(crate) fn confirmed(&mut self, slot: u16, generation: u32, refused: u32, now: Instant) -> bool {
        if !self.at_generation(slot, generation, Phase::Ended) {
            return false;
        }
        self.report.resync.verified(refused);
        self.set(slot, Phase::Verified);
        let slot = &mut self.slots[usize::from(slot)];
        (slot.failures, slot.whole, slot.offer) = (0, false, None);
        self.report.generations.verified(slot.sent);
        self.report.refused += u64::from(refused);
        let complete = self.verified == self.report.slots_total;
        if complete {
            self.report.resync.end(now);
        }
        complete
    }

    /// Whether a slot that had diverged has been verified; says so once.
    pub(crate) fn repaired(&mut self, slot: u16) -> bool {
        let slot = &mut self.slots[usize::from(slot)];
        slot.phase == Phase::Verified && core::mem::take(&mut slot.diverged)
    }

    /// The peer couldn't verify the slot, or didn't accept it: again, after a pause that grows. `whole` when what the
    /// peer holds can't be built upon.
    pub(crate) fn failed(
        &mut self,
        slot: u16,
        generation: u32,
        whole: bool,
        now: Instant,
        timing: &Timing,
        todo: &mut VecDeque<SlotRef>,
    ) {
        if !self.slot(slot).is_some_and(|s| s.can_fail(generation)) {
            return;
        }
        self.report.generations.failed += 1;
        self.report.resync.join("failed at the peer", now);
        let failures = self.slots[usize::from(slot)].failures.min(RETRY_DOUBLINGS);
        self.want(slot, now + timing.slot_retry * (1 << failures), todo);
        let slot = &mut self.slots[usize::from(slot)];
        (slot.failures, slot.offer) = (failures + 1, None);
        slot.whole |= whole;
    }

    /// Slots whose end was sent long ago and never answered are sent again. Costs a look at every slot: once a
    /// second is enough.
    pub(crate) fn remind(&mut self, now: Instant, timing: &Timing, todo: &mut VecDeque<SlotRef>) {
        for n in 0..self.mine.len() {
            let number = self.mine[n];
            if self.slots[usize::from(number)].is_unanswered(now, timing) {
                self.again(number, "unanswered", now, todo);
            }
        }
    }

    /// Slots that were streamed and need sending again.
    pub(crate) fn dirty(&self) -> u32 {
        let dirty = self.slots.iter().filter(|s| s.is_dirty()).count();
        u32::try_from(dirty).unwrap_or(u32::MAX)
    }

    fn is_mine(&self, slot: u16) -> bool {
        self.mine.binary_search(&slot).is_ok()
    }

    fn at_generation(&self, slot: u16, generation: u32, phase: Phase) -> bool {
        self.slot(slot).is_some_and(|s| s.is_at(generation, phase))
    }

    fn slot(&self, number: u16) -> Option<&Slot> {
        self.slots.get(usize::from(number))
    }

    fn slot_mut(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number))
    }

    fn want(&mut self, slot: u16, at: Instant, todo: &mut VecDeque<SlotRef>) {
        self.set(slot, Phase::Wanted);
        self.slots[usize::from(slot)].at = at;
        self.enqueue(slot, todo);
    }

    fn enqueue(&mut self, number: u16, todo: &mut VecDeque<SlotRef>) {
        let slot = &mut self.slots[usize::from(number)];
        if !slot.queued {
            slot.queued = true;
            todo.push_back(SlotRef {
                vrf: self.vrf,
                slot: number,
            });
        }
    }

    /// The one place where a phase changes while streaming, so that the two counts stay right.
    fn set(&mut self, slot: u16, next: Phase) {
        let under_way = |phase: Phase| usize::from(phase.is_under_way());
        let slot = &mut self.slots[usize::from(slot)];
        self.verified -= u32::from(slot.phase == Phase::Verified);
        self.under_way -= under_way(slot.phase);
        self.queried -= usize::from(slot.phase == Phase::Queried);
        self.queried += usize::from(next == Phase::Queried);
        slot.phase = next;
        self.verified += u32::from(next == Phase::Verified);
        self.under_way += under_way(next);
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
