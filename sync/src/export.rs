//! The sender's side of slot resync: which slots of a VRF go to one peer over one lane, and how far each is.
//!
//! Created with the lane, reused over all its connections. A slot's life: idle → wanted → queried (the peer was asked
//! what it holds) → wanted → asked (the worker was told) → walking (its begin has passed) → ended → verified; a
//! failure, an operator or its own worker sends it back to wanted, and then it is sent whole, unasked. What has to be done next stands in a queue of slots, so that a turn costs what changed and
//! not what exists.

use core::time::Duration;
use std::collections::VecDeque;

use dataplane::delta::{SlotEnd, SlotOffer, SlotRef, Term, Version};
use dataplane::flow::VrfId;
use dataplane::time::Instant;

use crate::config::Timing;
use crate::flow_record::Stream;
use crate::port::Heard;
use crate::report::ClientVrfReport;

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
    began: Instant,
    pub(crate) report: ClientVrfReport,
}

/// How far a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Wanted,
    Queried,
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
    /// Version of the last live record sent on the present connection.
    last: Version,
    /// The worker must be told to stop streaming to this incarnation; 0 for none.
    stop: u32,
    /// Earliest time to ask, or when the question or the end was sent.
    at: Instant,
    /// It has to be sent whole: what the peer holds is known to be wrong.
    whole: bool,
    /// Its digest was different at the peer, and it has not been verified since.
    diverged: bool,
    /// What the peer has said it holds, on this connection.
    offer: Option<SlotOffer>,
    /// Digest on its way to the peer.
    said: Option<SlotEnd>,
    /// What the peer had to be sent.
    sent: Sent,
}

/// How much of a slot a generation carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    /// Records newer than what the peer held.
    Newer(u32),
}

/// What a slot and its copy were when they were last compared at the same point of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    Equal,
    Differs,
    /// The answer was to an older question.
    Outdated,
}

const IDLE: Slot = Slot {
    phase: Phase::Idle,
    open: false,
    queued: false,
    failures: 0,
    generation: 0,
    last: Version {
        term: Term::NONE,
        counter: 0,
    },
    stop: 0,
    at: Instant::from_ns(0),
    whole: false,
    diverged: false,
    offer: None,
    said: None,
    sent: Sent::Whole,
};

/// What a queued slot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Tell the worker to stop streaming to this incarnation.
    Stop(u32),
    /// Ask the peer what it holds.
    Query,
    /// Tell the worker to send it, with what the peer holds.
    Send(Option<SlotOffer>),
    /// Not yet.
    Later,
    /// Nothing any more.
    Nothing,
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
            slots: vec![IDLE; usize::from(slots)],
            first_stream,
            streaming: false,
            verified: 0,
            under_way: 0,
            queried: 0,
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

    /// The slot's stream, when its begin has passed on the present connection.
    pub(crate) fn stream(&self, slot: u16) -> Option<Stream> {
        let state = self.slots.get(usize::from(slot)).filter(|s| s.open)?;
        Some(Stream {
            number: self.first_stream.wrapping_add(slot),
            at: SlotRef { vrf: self.vrf, slot },
            last: state.last,
        })
    }

    /// Live records of the slot have come to this version.
    pub(crate) fn streamed(&mut self, slot: u16, last: Version) {
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
            slot.last = last;
        }
    }

    /// Whether the peer has verified the slot, and every change since is in its stream.
    pub(crate) fn is_verified(&self, slot: u16) -> bool {
        self.slots
            .get(usize::from(slot))
            .is_some_and(|s| s.phase == Phase::Verified && s.stop == 0)
    }

    /// Whether the peer has verified this generation of the slot.
    pub(crate) fn has_verified(&self, slot: u16, generation: u32) -> bool {
        self.at_generation(slot, generation, Phase::Verified)
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
            let number = self.mine[n];
            let slot = &mut self.slots[usize::from(number)];
            (slot.whole, slot.offer, slot.said) = (false, None, None);
            self.want(number, now, todo);
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
            if self.verified == self.report.slots_total {
                self.note_resync(reason, now);
            }
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
        match self.slots.get(usize::from(slot)) {
            Some(s) if s.stop != 0 => Task::Stop(s.stop),
            Some(s) if s.phase == Phase::Wanted && s.at > now => Task::Later,
            Some(s) if s.phase == Phase::Wanted && s.whole => Task::Send(None),
            Some(s) if s.phase == Phase::Wanted && s.offer.is_none() => Task::Query,
            Some(s) if s.phase == Phase::Wanted => Task::Send(s.offer),
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
        let slot = self.slots.get_mut(usize::from(number))?;
        if slot.phase != Phase::Verified || slot.stop != 0 {
            return None;
        }
        let end = SlotEnd {
            generation: slot.generation,
            ..*end
        };
        slot.said = Some(end);
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
        self.failed(number, offer.generation, true, now, timing, todo);
        Compared::Differs
    }

    /// What the peer has last said of its slots when their digests were compared.
    pub(crate) fn heard(&self) -> impl Iterator<Item = Heard> + '_ {
        self.mine.iter().filter_map(|&number| {
            let slot = &self.slots[usize::from(number)];
            let offer = slot.offer.filter(|_| slot.phase == Phase::Verified)?;
            Some(Heard {
                slot: number,
                version: offer.version,
                digest: offer.digest,
            })
        })
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
        let slot = &mut self.slots[usize::from(number)];
        (slot.open, slot.last) = (true, version);
        slot.sent = since.map_or(Sent::Whole, |_| Sent::Newer(0));
        self.stream(number)
    }

    /// A record of the slot's walk went out.
    pub(crate) fn walked(&mut self, slot: u16) {
        if let Some(Sent::Newer(records)) = self.slots.get_mut(usize::from(slot)).map(|s| &mut s.sent) {
            *records += 1;
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
        self.report.resync_slots += u32::from(self.is_resyncing());
        self.set(slot, Phase::Verified);
        let slot = &mut self.slots[usize::from(slot)];
        (slot.failures, slot.whole, slot.offer) = (0, false, None);
        *match slot.sent {
            Sent::Whole => &mut self.report.slots_whole,
            Sent::Newer(0) => &mut self.report.slots_equal,
            Sent::Newer(_) => &mut self.report.slots_caught_up,
        } += 1;
        self.report.refused += u64::from(refused);
        let complete = self.verified == self.report.slots_total;
        if complete {
            self.report.resyncs += 1;
            self.report.resync_ms = millis(now.since(self.began));
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
        let slot = &mut self.slots[usize::from(slot)];
        (slot.failures, slot.offer) = (failures + 1, None);
        slot.whole |= whole;
    }

    /// Slots whose end was sent long ago and never answered are sent again. Costs a look at every slot: once a
    /// second is enough.
    pub(crate) fn remind(&mut self, now: Instant, timing: &Timing, todo: &mut VecDeque<SlotRef>) {
        for n in 0..self.mine.len() {
            let slot = self.slots[usize::from(self.mine[n])];
            let waiting = matches!(slot.phase, Phase::Queried | Phase::Ended);
            if waiting && now.since(slot.at) >= timing.slot_answer {
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
            .filter(|s| s.phase == Phase::Wanted && s.whole)
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
        self.queried -= usize::from(slot.phase == Phase::Queried);
        self.queried += usize::from(next == Phase::Queried);
        slot.phase = next;
        self.verified += u32::from(next == Phase::Verified);
        self.under_way += under_way(next);
    }

    fn note_resync(&mut self, reason: &str, now: Instant) {
        self.began = now;
        self.report.resync_reason = Some(reason.to_owned());
        (self.report.resync_records, self.report.resync_bytes) = (0, 0);
        self.report.resync_slots = 0;
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
        (
            Export::new(VrfId(0), 4, 100, |slot| slot % 2 == 1),
            VecDeque::new(),
        )
    }

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    fn begin(export: &mut Export, slot: u16, generation: u32, since: Option<Version>) -> bool {
        export
            .begun(slot, generation, Version::default(), since)
            .is_some()
    }

    /// Takes slot 1 through a whole generation.
    fn send(export: &mut Export, slot: u16, generation: u32) {
        export.asked(slot, generation);
        assert!(begin(export, slot, generation, None));
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
        assert_eq!(export.report.resync_slots, 2);
        assert!(export.again(3, "dirty", at(6), &mut todo));
        assert_eq!(export.report.resync_slots, 0, "of the next one");
        send(&mut export, 3, 9);
        assert!(export.confirmed(3, 9, 0, at(7)));
        assert_eq!(export.report.resync_slots, 1);
    }

    /// sync/PROTOCOL.md R-34.
    #[test]
    fn answers_of_another_generation_change_nothing() {
        let (mut export, mut todo) = export();
        export.start("connected", at(0), &mut todo);
        export.asked(1, 7);
        assert!(!begin(&mut export, 1, 6, None));
        assert!(begin(&mut export, 1, 7, None));
        assert!(!export.ended(1, 6, at(0)));
        assert!(!export.confirmed(1, 7, 0, at(0)), "verified before its end");
        assert!(export.ended(1, 7, at(0)));
        export.failed(1, 6, true, at(0), &Timing::default(), &mut todo);
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
            export.failed(1, generation, true, at(0), &timing, &mut todo);
            assert_eq!(export.task(1, at(pause - 1)), Task::Later);
            assert_eq!(export.task(1, at(pause)), Task::Send(None));
            assert!(export.stream(1).is_some_and(|s| s.number == 101));
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
        assert_eq!(export.task(1, at(0)), Task::Query);
    }

    fn offer(generation: u32, same: bool) -> SlotOffer {
        SlotOffer {
            generation,
            count: 0,
            digest: 0,
            version: Version::default(),
            absent: 0,
            same,
            exact: false,
        }
    }

    /// sync/PROTOCOL.md R-36.
    #[test]
    fn a_peer_is_asked_first_and_a_slot_that_failed_is_sent_whole_unasked() {
        let (mut export, mut todo) = export();
        export.start("connected", at(0), &mut todo);
        assert_eq!(export.task(1, at(0)), Task::Query);
        export.asked_peer(1, 5, at(0));
        assert_eq!((export.queried, export.task(1, at(0))), (1, Task::Nothing));
        assert!(
            !export.offered(1, offer(4, false), at(0), &mut todo),
            "an older question"
        );
        assert!(export.offered(1, offer(5, false), at(0), &mut todo));
        assert_eq!(export.task(1, at(0)), Task::Send(Some(offer(5, false))));
        export.asked(1, 6);
        assert!(begin(&mut export, 1, 6, Some(Version::default())));
        assert!(export.ended(1, 6, at(0)));
        export.failed(1, 6, true, at(0), &Timing::default(), &mut todo);
        assert_eq!(export.task(1, at(99)), Task::Send(None));
        assert_eq!(export.queried, 0);
    }

    #[test]
    fn slots_are_counted_by_how_much_of_them_was_sent() {
        let (mut export, mut todo) = export();
        export.start("connected", at(0), &mut todo);
        for (slot, since, walked) in [
            (1, Some(Version::default()), 0),
            (1, Some(Version::default()), 2),
            (3, None, 9),
        ] {
            export.asked(slot, 7);
            assert!(begin(&mut export, slot, 7, since));
            (0..walked).for_each(|_| export.walked(slot));
            assert!(export.ended(slot, 7, at(0)));
            export.confirmed(slot, 7, 0, at(0));
        }
        let r = &export.report;
        assert_eq!((r.slots_equal, r.slots_caught_up, r.slots_whole), (1, 1, 1));
    }

    #[test]
    fn a_digest_goes_out_for_verified_slots_only_and_a_difference_sends_the_slot_again() {
        let (mut export, mut todo) = export();
        let timing = Timing::default();
        let end = SlotEnd {
            generation: 0,
            count: 0,
            digest: 0,
            version: Version::default(),
        };
        export.start("connected", at(0), &mut todo);
        assert_eq!(export.digest(1, &end), None);
        send(&mut export, 1, 7);
        assert_eq!(export.digest(1, &end), None);
        export.confirmed(1, 7, 0, at(0));
        assert_eq!(export.digest(1, &end).map(|e| e.generation), Some(7));
        let mut hear = |offer| export.compared(1, offer, at(0), &timing, &mut todo);
        assert_eq!(hear(offer(6, false)), Compared::Outdated);
        assert_eq!(hear(offer(7, true)), Compared::Equal);
        assert_eq!(hear(offer(7, false)), Compared::Differs);
        assert_eq!((export.verified(), export.report.digest_mismatch), (0, 1));
        assert_eq!(export.task(1, at(99)), Task::Send(None));
    }
}
