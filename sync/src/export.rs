//! The sender's side of slot resync: which slots of a VRF go to one peer over one lane, and how far each is.
//!
//! Created with the lane, reused over all its connections. A slot's life: idle → wanted → asked (the worker was
//! told) → walking (its begin has passed) → ended → verified; a failure, an operator or its own worker sends it
//! back to wanted. What has to be done next stands in a queue of slots, so that a turn costs what changed and
//! not what exists.

use core::time::Duration;
use std::collections::VecDeque;

use dataplane::delta::SlotRef;
use dataplane::flow::VrfId;
use dataplane::time::Instant;

use crate::config::Timing;
use crate::report::ClientVrfReport;

/// Slots of one lane that may be on their way at once: bounds what is unverified, not how fast it goes.
pub(crate) const WINDOW: usize = 32;

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
    streaming: bool,
    verified: u32,
    /// Slots asked, walking or ended.
    pub(crate) under_way: usize,
    began: Instant,
    pub(crate) report: ClientVrfReport,
}

/// How far a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Wanted,
    Asked,
    Walking,
    Ended,
    Verified,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    /// A begin has passed on the present connection: live records are sent.
    open: bool,
    /// Standing in the queue.
    queued: bool,
    failures: u8,
    generation: u32,
    /// The worker must be told to stop streaming to this incarnation; 0 for none.
    stop: u32,
    /// Earliest time to ask, or when the end was sent.
    at: Instant,
}

const IDLE: Slot = Slot {
    phase: Phase::Idle,
    open: false,
    queued: false,
    failures: 0,
    generation: 0,
    stop: 0,
    at: Instant::from_ns(0),
};

/// What a queued slot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Tell the worker to stop streaming to this incarnation.
    Stop(u32),
    /// Tell the worker to send it.
    Send,
    /// Not yet.
    Later,
    /// Nothing any more.
    Nothing,
}

impl Export {
    pub(crate) fn new(vrf: VrfId, slots: u16, mine: impl Fn(u16) -> bool) -> Self {
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
            slots: vec![IDLE; usize::from(slots)],
            streaming: false,
            verified: 0,
            under_way: 0,
            began: Instant::default(),
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

    /// Whether live records of the slot go to the peer.
    pub(crate) fn is_open(&self, slot: u16) -> bool {
        self.slots.get(usize::from(slot)).is_some_and(|s| s.open)
    }

    /// Whether a complete resync is under way.
    pub(crate) fn is_resyncing(&self) -> bool {
        self.streaming && self.verified < self.report.slots_total
    }

    /// Everything is to be sent.
    pub(crate) fn start(&mut self, reason: &str, now: Instant, todo: &mut VecDeque<SlotRef>) {
        self.streaming = true;
        self.note_resync(reason, now);
        for n in 0..self.mine.len() {
            self.want(self.mine[n], now, todo);
        }
    }

    /// Nothing is to be sent any more; the worker hears so for every slot it may be streaming to `incarnation`.
    pub(crate) fn stop(&mut self, incarnation: u32, todo: &mut VecDeque<SlotRef>) {
        for n in 0..self.mine.len() {
            let number = self.mine[n];
            let slot = &mut self.slots[usize::from(number)];
            let told = slot.open || !matches!(slot.phase, Phase::Idle | Phase::Wanted);
            if told && slot.stop == 0 {
                slot.stop = incarnation;
            }
            (slot.phase, slot.open, slot.failures) = (Phase::Idle, false, 0);
            if told {
                self.enqueue(number, todo);
            }
        }
        (self.streaming, self.verified, self.under_way) = (false, 0, 0);
    }

    /// A slot is to be sent again.
    pub(crate) fn again(&mut self, slot: u16, reason: &str, now: Instant, todo: &mut VecDeque<SlotRef>) {
        if self.streaming && self.is_mine(slot) {
            if self.verified == self.report.slots_total {
                self.note_resync(reason, now);
            }
            self.want(slot, now, todo);
        }
    }

    /// What is to be done for the slot at the head of the queue.
    pub(crate) fn task(&self, slot: u16, now: Instant) -> Task {
        match self.slots.get(usize::from(slot)) {
            Some(s) if s.stop != 0 => Task::Stop(s.stop),
            Some(s) if s.phase == Phase::Wanted && s.at <= now => Task::Send,
            Some(s) if s.phase == Phase::Wanted => Task::Later,
            _ => Task::Nothing,
        }
    }

    /// The worker was told to stop. True when the slot needs more.
    pub(crate) fn stopped(&mut self, slot: u16) -> bool {
        let slot = &mut self.slots[usize::from(slot)];
        slot.stop = 0;
        slot.queued = slot.phase == Phase::Wanted;
        slot.queued
    }

    /// The slot left the queue without a task.
    pub(crate) fn dismissed(&mut self, slot: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
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

    /// The slot's begin has come from the worker. False when it isn't the one asked for.
    pub(crate) fn begun(&mut self, slot: u16, generation: u32) -> bool {
        let found = self.at_generation(slot, generation, Phase::Asked);
        if found {
            self.set(slot, Phase::Walking);
            self.slots[usize::from(slot)].open = true;
        }
        found
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
        self.set(slot, Phase::Verified);
        self.slots[usize::from(slot)].failures = 0;
        self.report.refused += u64::from(refused);
        let complete = self.verified == self.report.slots_total;
        if complete {
            self.report.resyncs += 1;
            self.report.resync_ms = millis(now.since(self.began));
        }
        complete
    }

    /// The peer couldn't verify the slot: again, after a pause that grows.
    pub(crate) fn failed(
        &mut self,
        slot: u16,
        generation: u32,
        now: Instant,
        timing: &Timing,
        todo: &mut VecDeque<SlotRef>,
    ) {
        let current = self
            .slots
            .get(usize::from(slot))
            .is_some_and(|s| s.generation == generation && !matches!(s.phase, Phase::Idle | Phase::Wanted));
        if !current {
            return;
        }
        self.report.slots_failed += 1;
        let failures = self.slots[usize::from(slot)].failures.min(RETRY_DOUBLINGS);
        self.want(slot, now + timing.slot_retry * (1 << failures), todo);
        self.slots[usize::from(slot)].failures = failures + 1;
    }

    /// Slots whose end was sent long ago and never answered are sent again. Costs a look at every slot: once a
    /// second is enough.
    pub(crate) fn remind(&mut self, now: Instant, timing: &Timing, todo: &mut VecDeque<SlotRef>) {
        for n in 0..self.mine.len() {
            let slot = self.slots[usize::from(self.mine[n])];
            if slot.phase == Phase::Ended && now.since(slot.at) >= timing.slot_answer {
                self.again(self.mine[n], "unanswered", now, todo);
            }
        }
    }

    /// Time the resync has taken so far, or took.
    pub(crate) fn resync_ms(&self, now: Instant) -> u64 {
        if self.is_resyncing() {
            millis(now.since(self.began))
        } else {
            self.report.resync_ms
        }
    }

    /// Slots that were streamed and need sending again.
    pub(crate) fn dirty(&self) -> u32 {
        let dirty = self
            .slots
            .iter()
            .filter(|s| s.phase == Phase::Wanted && s.generation != 0)
            .count();
        u32::try_from(dirty).unwrap_or(u32::MAX)
    }

    fn is_mine(&self, slot: u16) -> bool {
        self.mine.binary_search(&slot).is_ok()
    }

    fn at_generation(&self, slot: u16, generation: u32, phase: Phase) -> bool {
        self.slots
            .get(usize::from(slot))
            .is_some_and(|s| s.generation == generation && s.phase == phase && s.stop == 0)
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
        let under_way = |p| usize::from(matches!(p, Phase::Asked | Phase::Walking | Phase::Ended));
        let slot = &mut self.slots[usize::from(slot)];
        self.verified -= u32::from(slot.phase == Phase::Verified);
        self.under_way -= under_way(slot.phase);
        slot.phase = next;
        self.verified += u32::from(next == Phase::Verified);
        self.under_way += under_way(next);
    }

    fn note_resync(&mut self, reason: &str, now: Instant) {
        self.began = now;
        self.report.resync_reason = Some(reason.to_owned());
        (self.report.resync_records, self.report.resync_bytes) = (0, 0);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> (Export, VecDeque<SlotRef>) {
        // Slots 1 and 3 of 4 belong to the lane.
        (Export::new(VrfId(0), 4, |slot| slot % 2 == 1), VecDeque::new())
    }

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    /// Takes slot 1 through a whole generation.
    fn send(export: &mut Export, slot: u16, generation: u32) {
        export.asked(slot, generation);
        assert!(export.begun(slot, generation));
        assert!(export.ended(slot, generation, at(0)));
    }

    #[test]
    fn a_resync_is_complete_when_all_slots_of_the_lane_are_verified() {
        let (mut export, mut todo) = export();
        export.start("connected", at(0), &mut todo);
        assert_eq!(todo.iter().map(|at| at.slot).collect::<Vec<_>>(), [1, 3]);
        send(&mut export, 1, 7);
        send(&mut export, 3, 8);
        assert_eq!(export.under_way, 2);
        assert!(!export.confirmed(1, 7, 0, at(1)));
        assert!(export.confirmed(3, 8, 2, at(5)));
        assert_eq!(
            (export.verified(), export.under_way, export.report.refused),
            (2, 0, 2)
        );
        assert_eq!((export.report.resync_ms, export.is_resyncing()), (5, false));
    }

    #[test]
    fn answers_of_another_generation_change_nothing() {
        let (mut export, mut todo) = export();
        export.start("connected", at(0), &mut todo);
        export.asked(1, 7);
        assert!(!export.begun(1, 6));
        assert!(export.begun(1, 7));
        assert!(!export.ended(1, 6, at(0)));
        assert!(!export.confirmed(1, 7, 0, at(0)), "verified before its end");
        assert!(export.ended(1, 7, at(0)));
        export.failed(1, 6, at(0), &Timing::default(), &mut todo);
        assert_eq!(export.report.slots_failed, 0);
    }

    #[test]
    fn a_failed_slot_waits_longer_each_time_and_stays_open_for_live_records() {
        let (mut export, mut todo) = export();
        let timing = Timing::default();
        export.start("connected", at(0), &mut todo);
        for (generation, pause) in [(7, 10), (8, 20), (9, 40)] {
            todo.clear();
            export.dismissed(1);
            send(&mut export, 1, generation);
            export.failed(1, generation, at(0), &timing, &mut todo);
            assert_eq!(export.task(1, at(pause - 1)), Task::Later);
            assert_eq!(export.task(1, at(pause)), Task::Send);
            assert!(export.is_open(1));
        }
    }

    #[test]
    fn stopping_tells_the_worker_only_of_slots_it_knows_about_and_once() {
        let (mut export, mut todo) = export();
        export.start("connected", at(0), &mut todo);
        todo.clear();
        export.dismissed(1);
        export.dismissed(3);
        export.asked(1, 7);
        export.stop(99, &mut todo);
        assert_eq!(todo.iter().map(|at| at.slot).collect::<Vec<_>>(), [1]);
        assert_eq!(export.task(1, at(0)), Task::Stop(99));
        // A new connection begins before the worker had room for the stop: stop first, then send.
        export.start("connected", at(0), &mut todo);
        assert_eq!(export.task(1, at(0)), Task::Stop(99));
        assert!(export.stopped(1));
        assert_eq!(export.task(1, at(0)), Task::Send);
    }
}
