//! The comparison of two nodes' tables, entry by entry, while traffic goes on: whoever asks drives it by [`Comparison::turn`].
//!
//! Born with a list of slots, on the node that sends them; ends with what is on one node only and what is different.
//! Each slot goes through at most two passes:
//!
//! ```text
//! mark ──► same there ─────────────────────────────────────► equal
//!   └────► their list, our list ──► no difference ──────────► equal
//!                                └► differences ──► again ──► those found both times
//! ```
//!
//! What changes while the lists are made can look like a difference once, and never twice in the same way
//! (`dataplane::stage::compare`). A slot that is sent anew in between starts again; one that can't be compared in time is
//! named with the cause.

mod difference;

use core::time::Duration;
use std::collections::{HashSet, VecDeque};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use dataplane::delta::{Delta, Listed, Mark, SlotRef};
use dataplane::flow::VrfId;
use dataplane::inbox::{Ask, Visited, Visitor};
use dataplane::owners::Owners;
use dataplane::shard::lane_of;
use dataplane::stage::compare::{own, start_own};
use dataplane::time::Instant;

pub use self::difference::{Difference, Unlike};
use self::difference::{Finding, compare, finding};
use crate::inlet::LIST_MAX;
use crate::port::{CompareAnswer, CompareAsk, CompareFound, CompareStep, PumpCommand};

/// Slots under way at once.
const RUNS_MAX: usize = 32;
/// Slots of them that are listed at once.
const LISTS_MAX: usize = 4;
/// Entries of one slot that are looked at.
const ENTRIES_MAX: usize = 1 << 20;
/// Own entries looked at in one turn of a worker.
const SLICE: usize = 128;
/// Answers that may wait: those of all lists, and a mark's two for each slot.
const ANSWERS_MAX: usize = LISTS_MAX * (LIST_MAX as usize + 2) + 4 * RUNS_MAX;
/// Pause before a slot that couldn't be compared is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for one answer.
const STEP_WAIT: Duration = Duration::from_secs(2);
/// Longest time for one slot.
const SLOT_WAIT: Duration = Duration::from_secs(20);
/// Differences kept for the report; all are counted.
pub const DIFFERENCES_MAX: usize = 1_000;

/// What is to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// VRF.
    pub vrf: VrfId,
    /// Peer, by index.
    pub peer: u8,
    /// Slots.
    pub slots: Vec<u16>,
    /// Entry by entry also where count and digest are the same.
    pub whole: bool,
    /// Slots that differ are sent whole, and compared once more.
    pub fix: bool,
}

/// How to reach the threads of the node.
#[derive(Debug, Clone, Copy)]
pub struct Ways<'a> {
    /// Event threads.
    pub pumps: &'a [Sender<PumpCommand>],
    /// Workers.
    pub workers: &'a [Sender<Ask>],
    /// Which of them has which slot.
    pub owners: &'a Owners,
}

/// What a comparison has found so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Slots compared.
    pub slots: u32,
    /// Slots without a difference.
    pub slots_equal: u32,
    /// Entries that are the same on both nodes.
    pub entries_equal: u64,
    /// Entries that only this node has.
    pub only_here: u64,
    /// Entries that only the peer has.
    pub only_there: u64,
    /// Entries that both have, differently.
    pub different: u64,
    /// How many of those only here the peer lacks for a cause that it has counted.
    pub lacking: u64,
    /// Slots with differences.
    pub differing: Vec<u16>,
    /// The first of the differences.
    pub differences: Vec<Difference>,
    /// Slots that could not be compared, and why.
    pub undecided: Vec<(u16, &'static str)>,
}

impl Compared {
    /// Whether everything was compared and is the same.
    #[must_use]
    pub const fn equal(&self) -> bool {
        self.differing.is_empty() && self.undecided.is_empty()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Comparison {
    wanted: Wanted,
    todo: VecDeque<u16>,
    to_fix: VecDeque<u16>,
    runs: Vec<Run>,
    to: Sender<CompareAnswer>,
    from: Receiver<CompareAnswer>,
    round: u32,
    before: Option<Compared>,
    found: Compared,
    /// Equal entries of slots that differ.
    beside: u64,
    finished: bool,
}

/// A slot under way.
#[derive(Debug)]
struct Run {
    slot: u16,
    round: u32,
    stage: Stage,
    /// When the stage began.
    since: Instant,
    began: Instant,
    cause: &'static str,
    mark: Option<Mark>,
    same: bool,
    absent: u32,
    theirs: Vec<Delta>,
    /// What the first pass found.
    first: Option<HashSet<Finding>>,
}

#[derive(Debug)]
enum Stage {
    /// To be marked, not before `since`.
    Wait,
    Marking,
    /// To be listed when its turn comes, or further.
    ToList,
    Listing,
    /// This node's own list is to be asked for.
    ToOwn,
    Own(Receiver<Option<Vec<Delta>>>),
}

impl Comparison {
    /// A comparison about to begin. `seed` makes its rounds differ from those of others.
    #[must_use]
    pub fn new(wanted: Wanted, seed: u32) -> Self {
        let (to, from) = bounded(ANSWERS_MAX);
        Self {
            todo: wanted.slots.iter().copied().collect(),
            wanted,
            to_fix: VecDeque::new(),
            runs: Vec::new(),
            to,
            from,
            round: seed,
            before: None,
            found: Compared::default(),
            beside: 0,
            finished: false,
        }
    }

    /// What was asked for.
    #[must_use]
    pub const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What has been found; after repairs, what is left.
    #[must_use]
    pub const fn found(&self) -> &Compared {
        &self.found
    }

    /// What had been found before repairs.
    #[must_use]
    pub const fn before(&self) -> Option<&Compared> {
        self.before.as_ref()
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Goes as far as it can now; gives how much there was to do.
    pub fn turn(&mut self, now: Instant, ways: Ways<'_>) -> usize {
        if self.finished {
            return 0;
        }
        let mut work = 0;
        while let Ok(answer) = self.from.try_recv() {
            work += 1;
            self.hear(&answer, now);
        }
        work += self.repair(ways);
        while self.runs.len() < RUNS_MAX && self.to_fix.is_empty() {
            let Some(slot) = self.todo.pop_front() else { break };
            self.runs.push(Run::new(slot, now));
            work += 1;
        }
        for mut run in core::mem::take(&mut self.runs) {
            let done = self.step(&mut run, now, ways);
            work += usize::from(done);
            if !done {
                self.runs.push(run);
            }
        }
        if self.runs.is_empty() && self.todo.is_empty() {
            self.end();
        }
        work
    }

    /// All slots are through: it is over, or what differs is repaired first.
    fn end(&mut self) {
        if !self.wanted.fix || self.before.is_some() || self.found.differing.is_empty() {
            self.finished = true;
            return;
        }
        let found = core::mem::take(&mut self.found);
        self.to_fix.extend(&found.differing);
        self.todo.extend(&found.differing);
        // What was equal stays in the account; the others are compared once more.
        self.found.slots = found.slots_equal;
        self.found.slots_equal = found.slots_equal;
        self.found.undecided.clone_from(&found.undecided);
        self.found.entries_equal = found.entries_equal - self.beside;
        self.before = Some(found);
    }

    fn repair(&mut self, ways: Ways<'_>) -> usize {
        let mut sent = 0;
        while let Some(&slot) = self.to_fix.front() {
            let command = PumpCommand::Resync {
                vrf: Some(self.wanted.vrf),
                slot: Some(slot),
                to: None,
            };
            if !tell(ways, slot, command) {
                break;
            }
            self.to_fix.pop_front();
            sent += 1;
        }
        sent
    }

    fn hear(&mut self, answer: &CompareAnswer, now: Instant) {
        let current = |run: &&mut Run| run.slot == answer.at.slot && run.round == answer.round;
        if answer.at.vrf != self.wanted.vrf {
            return;
        }
        let Some(run) = self.runs.iter_mut().find(current) else {
            return;
        };
        match (answer.found, &run.stage) {
            (CompareFound::Unavailable(cause), _) => run.again(cause, now),
            (CompareFound::Set(mark), Stage::Marking) => run.mark = Some(mark),
            (CompareFound::Marked(marked), Stage::Marking) => {
                (run.same, run.absent) = (marked.same, marked.absent);
                run.enter(Stage::ToList, now);
            }
            (CompareFound::Listed(Listed::Entry(entry)), Stage::Listing) => {
                if run.theirs.len() < ENTRIES_MAX {
                    run.theirs.push(entry);
                }
                run.since = now;
            }
            (CompareFound::Listed(Listed::More), Stage::Listing) => run.enter(Stage::ToList, now),
            (CompareFound::Listed(Listed::Complete), Stage::Listing) => {
                run.enter(Stage::ToOwn, now);
            }
            (CompareFound::Listed(Listed::Gone), Stage::Listing) => {
                run.again("the slot is being sent again", now);
            }
            _ => {}
        }
    }

    /// One step of a slot; true when the slot is done.
    fn step(&mut self, run: &mut Run, now: Instant, ways: Ways<'_>) -> bool {
        if now.since(run.began) >= SLOT_WAIT || run.theirs.len() >= ENTRIES_MAX {
            let cause = if run.theirs.len() >= ENTRIES_MAX {
                "it has too many entries"
            } else {
                run.cause
            };
            return self.undecided(run.slot, cause);
        }
        match &run.stage {
            Stage::Wait if now >= run.since => self.ask(run, CompareStep::Mark, Stage::Marking, now, ways),
            Stage::Wait => {}
            Stage::ToList if run.same && !self.wanted.whole => return self.same(run),
            Stage::ToList => {
                let others = self.runs.iter().filter(|r| r.lists()).count();
                if !run.theirs.is_empty() || others < LISTS_MAX {
                    self.ask(run, CompareStep::List(LIST_MAX), Stage::Listing, now, ways);
                } else {
                    run.since = now;
                }
            }
            Stage::Marking | Stage::Listing if now.since(run.since) >= STEP_WAIT => {
                run.again("the peer gives no answer", now);
            }
            Stage::Marking | Stage::Listing => {}
            Stage::Own(from) => match from.try_recv() {
                Ok(Some(ours)) => return self.judge(run, &ours, now),
                Ok(None) => run.again("the slot has changed its direction", now),
                Err(TryRecvError::Empty) if now.since(run.since) < STEP_WAIT => {}
                Err(_) => run.again("a worker gives no answer", now),
            },
            Stage::ToOwn => self.list_own(run, now, ways),
        }
        false
    }

    fn ask(&mut self, run: &mut Run, step: CompareStep, next: Stage, now: Instant, ways: Ways<'_>) {
        if step == CompareStep::Mark {
            self.round = self.round.wrapping_add(1);
            run.round = self.round;
        }
        let ask = CompareAsk {
            peer: self.wanted.peer,
            at: self.at(run.slot),
            round: run.round,
            step,
            to: self.to.clone(),
        };
        if tell(ways, run.slot, PumpCommand::Compare(ask)) {
            run.enter(next, now);
        }
    }

    /// Asks the slot's worker for its own entries as of the mark.
    fn list_own(&self, run: &mut Run, now: Instant, ways: Ways<'_>) {
        let Some(mark) = run.mark else { return };
        let worker = usize::from(ways.owners.worker_of(self.at(run.slot)));
        let (to, from) = bounded(1);
        let (at, mut begun, mut ours) = (self.at(run.slot), false, Vec::new());
        let visitor = Visitor::new(move |tables, now| {
            if !core::mem::replace(&mut begun, true) {
                start_own(tables, at, mark.round, mark.version);
            }
            let answer = match own(tables, at, mark.round, SLICE, now, &mut ours) {
                Some(false) => return Visited::More,
                Some(true) => Some(core::mem::take(&mut ours)),
                None => None,
            };
            // Whoever asked may have given up.
            let _ = to.try_send(answer);
            Visited::Done
        });
        // A full inbox drops the question: it is asked again.
        let asked = ways.workers.get(worker).map(|w| w.try_send(Ask::Visit(visitor)));
        if matches!(asked, Some(Ok(()))) {
            run.enter(Stage::Own(from), now);
        }
    }

    /// Count and digest are the same.
    fn same(&mut self, run: &Run) -> bool {
        self.found.slots += 1;
        self.found.slots_equal += 1;
        self.found.entries_equal += run.mark.map_or(0, |mark| u64::from(mark.count));
        true
    }

    /// Both lists are there.
    fn judge(&mut self, run: &mut Run, ours: &[Delta], now: Instant) -> bool {
        let (mut differences, matched) = compare(run.slot, ours, &run.theirs);
        if let Some(first) = &run.first {
            differences.retain(|d| first.contains(&finding(d)));
        } else if !differences.is_empty() || !run.same && run.absent == 0 {
            let first = differences.iter().map(finding).collect();
            run.again(run.cause, now);
            run.since = now;
            run.first = Some(first);
            return false;
        }
        self.found.entries_equal += matched;
        if differences.is_empty() && !run.same && run.absent == 0 {
            return self.undecided(run.slot, "count or digest differs, and no entry does");
        }
        self.found.slots += 1;
        if differences.is_empty() {
            self.found.slots_equal += 1;
            return true;
        }
        self.beside += matched;
        self.found.lacking += u64::from(run.absent);
        self.found.differing.push(run.slot);
        for difference in differences {
            *match difference.unlike {
                Unlike::OnlyHere => &mut self.found.only_here,
                Unlike::OnlyThere => &mut self.found.only_there,
                Unlike::Different => &mut self.found.different,
            } += 1;
            if self.found.differences.len() < DIFFERENCES_MAX {
                self.found.differences.push(difference);
            }
        }
        true
    }

    fn undecided(&mut self, slot: u16, cause: &'static str) -> bool {
        self.found.slots += 1;
        self.found.undecided.push((slot, cause));
        true
    }

    const fn at(&self, slot: u16) -> SlotRef {
        SlotRef {
            vrf: self.wanted.vrf,
            slot,
        }
    }
}

impl Run {
    const fn new(slot: u16, now: Instant) -> Self {
        Self {
            slot,
            round: 0,
            stage: Stage::Wait,
            since: now,
            began: now,
            cause: "the event thread is busy",
            mark: None,
            same: false,
            absent: 0,
            theirs: Vec::new(),
            first: None,
        }
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        (self.stage, self.since) = (stage, now);
    }

    /// From the beginning, after a pause.
    fn again(&mut self, cause: &'static str, now: Instant) {
        self.enter(Stage::Wait, now + PAUSE);
        (self.cause, self.mark, self.first) = (cause, None, None);
        self.theirs.clear();
    }

    /// Whether it holds one of the places for lists.
    fn lists(&self) -> bool {
        matches!(self.stage, Stage::Listing | Stage::ToOwn | Stage::Own(_))
            || (matches!(self.stage, Stage::ToList) && !self.theirs.is_empty())
    }
}

/// Sends a command to the event thread of a slot's lane; false when it has no room.
fn tell(ways: Ways<'_>, slot: u16, command: PumpCommand) -> bool {
    let lanes = u16::try_from(ways.pumps.len()).unwrap_or(u16::MAX).max(1);
    let event = usize::from(lane_of(slot, lanes));
    ways.pumps
        .get(event)
        .is_some_and(|pump| pump.try_send(command).is_ok())
}
