//! A worker whose tables are maps.

use std::collections::{BTreeMap, VecDeque};

use dataplane::applied::AppliedCounters;
use dataplane::delta::{
    Class, Delta, Handle, LaneTag, Name, PutRecord, Scales, SlotEnd, SlotOffer, SlotRef, Term, ToEvent,
    ToWorker, Version,
};
use dataplane::flow::{Addr, FlowKey};
use dataplane::redirect::{PacketReceiver, PacketSender};
use dataplane::shard::mix64;
use rtrb::{Consumer, Producer};

use super::VRF;

/// A worker that keeps its slots in ordered maps and follows the rules of the real one to the letter.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(super) out: Vec<Producer<ToEvent>>,
    pub(super) inbox: Vec<Consumer<ToWorker>>,
    /// By event thread: packets that it redirects, and those that it gets.
    pub(crate) redirects: Vec<(PacketSender, PacketReceiver)>,
    pub(crate) absorbing: bool,
    pub(crate) seen: Vec<ToWorker>,
    pub(crate) slots: BTreeMap<u16, Slot>,
    /// What had no room in a ring yet, in order, by event thread.
    pub(super) pending: Vec<VecDeque<ToEvent>>,
    /// Ends that this worker will refuse to verify.
    pub(crate) failing: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) entries: BTreeMap<u32, (Version, u32)>,
    pub(super) counter: u64,
    pub(super) streams: Vec<LaneTag>,
    source: Option<(LaneTag, u32)>,
    since: bool,
}

impl Slot {
    /// Where its log ends.
    fn version(&self) -> Version {
        Version {
            term: Term(1),
            counter: self.counter,
        }
    }

    /// What it holds, under a generation.
    fn end(&self, generation: u32) -> SlotEnd {
        let (count, digest) = digest(&self.entries, None);
        SlotEnd {
            generation,
            count,
            digest,
            version: self.version(),
        }
    }

    fn offer(&self, generation: u32) -> SlotOffer {
        let SlotEnd {
            count,
            digest,
            version,
            ..
        } = self.end(generation);
        SlotOffer {
            generation,
            count,
            digest,
            version,
            absent: 0,
            same: false,
            exact: false,
        }
    }

    /// All of it as `generation`, or only that nothing is missing when the peer holds the same.
    fn walk(&self, at: SlotRef, lane: LaneTag, generation: u32, offer: Option<SlotOffer>) -> Vec<ToEvent> {
        let end = self.end(generation);
        let same = offer.filter(|o| (o.count, o.digest) == (end.count, end.digest));
        let since = same.map(|o| o.version);
        let begin = ToEvent::SlotBegin {
            at,
            lane,
            generation,
            version: end.version,
            since,
        };
        let sent = self.entries.iter().filter(|_| since.is_none());
        let records = sent.map(|(n, (version, _))| ToEvent::Record {
            at,
            only: Some(lane),
            delta: put(*n, *version),
        });
        let end = ToEvent::SlotEnd { at, lane, end };
        [begin].into_iter().chain(records).chain([end]).collect()
    }

    fn take(&mut self, lane: LaneTag, delta: Delta) {
        let Some((source, generation)) = self.source else {
            return;
        };
        assert_eq!(source, lane, "fenced by the event thread");
        let n = |key: &FlowKey| u32::from_be_bytes(key.src.v4_octets());
        match delta {
            Delta::Put(put) => {
                self.entries.insert(n(&put.original), (put.version, generation));
            }
            Delta::Del(del) => {
                let gone = match del.name {
                    Name::Handle(handle) => handle.0,
                    Name::Key(key) => n(&key),
                };
                self.entries.remove(&gone);
            }
            Delta::State(_) | Delta::Refresh(_) | Delta::Block(_) => {}
        }
    }

    /// Whether it is what the peer holds; what the generation hasn't touched goes then.
    fn verify(&mut self, end: &SlotEnd) -> bool {
        let (generation, since) = (end.generation, self.since);
        let touched = (!since).then_some(generation);
        let good = digest(&self.entries, touched) == (end.count, end.digest);
        if good {
            self.entries.retain(|_, (_, stamp)| since || *stamp == generation);
            self.counter = self.counter.max(end.version.counter);
        }
        good
    }
}

impl Worker {
    /// Without rings yet, for so many event threads.
    pub(super) fn new(events: usize) -> Self {
        Self {
            out: Vec::new(),
            inbox: Vec::new(),
            redirects: Vec::new(),
            absorbing: true,
            seen: Vec::new(),
            slots: BTreeMap::new(),
            pending: vec![VecDeque::new(); events],
            failing: 0,
        }
    }

    pub(super) fn turn(&mut self, event: usize, applied: &AppliedCounters, number: usize) {
        while let Some(item) = self.pending[event].pop_front() {
            if self.out[event].push(item).is_err() {
                self.pending[event].push_front(item);
                return;
            }
        }
        if self.absorbing {
            for _ in 0..64 {
                let Ok(item) = self.inbox[event].pop() else { break };
                self.seen.push(item);
                self.absorb(event, item);
                applied.add(number, event, 1);
            }
        }
    }

    fn absorb(&mut self, event: usize, item: ToWorker) {
        let slots = &mut self.slots;
        let out = &mut self.pending[event];
        match item {
            ToWorker::SendSlot {
                at,
                lane,
                generation,
                offer,
            } => {
                let slot = slot(slots, at);
                slot.streams.retain(|tag| tag.peer != lane.peer);
                slot.streams.push(lane);
                out.extend(slot.walk(at, lane, generation, offer));
            }
            ToWorker::StopSlot { at, lane } => slot(slots, at).streams.retain(|tag| *tag != lane),
            ToWorker::DigestSlot { at } => {
                let end = slot(slots, at).end(0);
                out.push_back(ToEvent::SlotDigest { at, end });
            }
            ToWorker::SlotBegin {
                at,
                lane,
                generation,
                since,
                ..
            } => {
                let slot = slot(slots, at);
                (slot.source, slot.since) = (Some((lane, generation)), since.is_some());
            }
            ToWorker::SlotQuery { at, lane, generation } => {
                let offer = slot(slots, at).offer(generation);
                out.push_back(ToEvent::SlotOffer { at, lane, offer });
            }
            ToWorker::SlotDigest { at, lane, end } => {
                let mut offer = slot(slots, at).offer(end.generation);
                offer.same = (offer.count, offer.digest) == (end.count, end.digest);
                out.push_back(ToEvent::SlotOffer { at, lane, offer });
            }
            ToWorker::Record { at, lane, delta } => slot(slots, at).take(lane, delta),
            ToWorker::SlotEnd { at, lane, end } => {
                let generation = end.generation;
                out.push_back(if self.failing == 0 && slot(slots, at).verify(&end) {
                    ToEvent::SlotVerified {
                        at,
                        lane,
                        generation,
                        refused: 0,
                    }
                } else {
                    self.failing = self.failing.saturating_sub(1);
                    ToEvent::SlotFailed { at, lane, generation }
                });
            }
            // Real workers compare entry by entry: tests/it/compare.rs.
            ToWorker::MarkSlot { .. } | ToWorker::SlotMark { .. } | ToWorker::ListSlot { .. } => {}
            // Of a former reign that these have none of: tests/it/doubt.rs.
            ToWorker::SlotTail { .. } => {}
            // Real workers hold packets: tests/it/commit.rs.
            ToWorker::Commit { .. } | ToWorker::Committed { .. } => {}
            // Nothing is refused here: tests/it/missing.rs.
            ToWorker::GiveEntry { .. } => {}
        }
    }
}

fn slot(slots: &mut BTreeMap<u16, Slot>, at: SlotRef) -> &mut Slot {
    slots.entry(at.slot).or_default()
}

fn key(n: u32) -> FlowKey {
    let octets = n.to_be_bytes();
    FlowKey {
        src: Addr::v4(octets),
        dst: Addr::v4([9; 4]),
        src_port: 1,
        dst_port: 2,
        vrf: VRF,
        proto: 17,
    }
}

/// Entry `n` as it is told.
pub(super) fn put(n: u32, version: Version) -> Delta {
    let original = key(n);
    let reply = original.reversed();
    Delta::Put(PutRecord {
        original,
        reply,
        nat: None,
        class: Class::Opening,
        scales: Scales::NONE,
        lifetime_s: 9,
        version,
        handle: Handle::of(n),
    })
}

fn digest(entries: &BTreeMap<u32, (Version, u32)>, generation: Option<u32>) -> (u32, u64) {
    let chosen = entries
        .iter()
        .filter(|(_, (_, stamp))| generation.is_none_or(|g| *stamp == g));
    chosen.fold((0, 0u64), |(count, sum), (n, (version, _))| {
        (
            count + 1,
            sum.wrapping_add(mix64(u64::from(*n) ^ mix64(version.counter ^ version.term.0))),
        )
    })
}
