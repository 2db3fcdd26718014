//! Who has slots change hands, one at a time: asks both workers, changes the table of owners when nothing is in the way, and
//! waits until the slot has arrived. Runs on the main thread, which may allocate and wait.

use core::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rtrb::{Consumer, Producer, RingBuffer};
use thiserror::Error;

use super::{Arrival, Departure, Hindrance, Load, Parcel, RING, Weighing};
use crate::delta::SlotRef;
use crate::inbox::{Ask, Visited, Visitor};
use crate::owners::Owners;
use crate::time::Instant;

/// How to reach the threads of the node.
#[derive(Debug, Clone, Copy)]
pub struct Ways<'a> {
    /// Workers.
    pub workers: &'a [Sender<Ask>],
    /// Event threads.
    pub events: usize,
    /// Which worker has which slot.
    pub owners: &'a Owners,
}

/// A slot that has changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The slot.
    pub at: SlotRef,
    /// Its former worker.
    pub from: u16,
    /// Its new worker.
    pub to: u16,
    /// What it brought.
    pub load: Load,
    /// From the first question to the end.
    pub took: Duration,
}

/// Why a slot has stayed where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unmoved {
    /// There is a move under way.
    #[error("another slot is on its way")]
    Busy,
    /// There is no such worker.
    #[error("there is no such worker")]
    NoWorker,
    /// It is there already.
    #[error("the slot is there already")]
    There,
    /// Its worker can't let it go.
    #[error("{0}")]
    Former(Hindrance),
    /// The other worker can't take it.
    #[error("{0}")]
    New(Hindrance),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Mover {
    run: Option<Run>,
    /// The ring of the last move.
    ring: Option<(Producer<Parcel>, Consumer<Parcel>)>,
}

#[derive(Debug)]
struct Run {
    at: SlotRef,
    from: u16,
    to: u16,
    began: Instant,
    stage: Stage,
    /// Questions that have found no room so far.
    unsent: Vec<(u16, Ask)>,
}

type Answer<T> = Receiver<T>;

#[derive(Debug)]
enum Stage {
    /// The former worker is asked.
    Weighed(Answer<Result<Load, Hindrance>>),
    /// The new one is.
    Expected(
        Producer<Parcel>,
        Answer<Result<(), (Hindrance, Consumer<Parcel>)>>,
    ),
    /// Every event thread has to see that records go elsewhere, which is the change of this number.
    Steered(Producer<Parcel>, u64),
    /// The former worker is told to let it go when every worker sees that packets do, which is the change of this number.
    Called(Answer<()>, u64),
    /// Entries come.
    Coming(u64),
    /// The ring comes back.
    Over(
        Answer<Producer<Parcel>>,
        Answer<(Consumer<Parcel>, Load)>,
        Option<Producer<Parcel>>,
        Option<(Consumer<Parcel>, Load)>,
    ),
}

impl Mover {
    /// Whether no slot is on its way.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.run.is_none()
    }

    /// Has a slot go to a worker.
    ///
    /// # Errors
    /// What is known beforehand.
    pub fn begin(&mut self, at: SlotRef, to: u16, ways: Ways<'_>, now: Instant) -> Result<(), Unmoved> {
        if self.run.is_some() {
            return Err(Unmoved::Busy);
        }
        if usize::from(to) >= ways.workers.len() {
            return Err(Unmoved::NoWorker);
        }
        let from = ways.owners.worker_of(at);
        if from == to {
            return Err(Unmoved::There);
        }
        let (answer, weighed) = bounded(1);
        let mut weighing = Weighing::new(at);
        let visitor = Visitor::new(move |tables, _| match tables.weigh(&mut weighing) {
            Some(load) => {
                // Whoever asked waits for it.
                let _ = answer.try_send(load);
                Visited::Done
            }
            None => Visited::More,
        });
        let mut run = Run {
            at,
            from,
            to,
            began: now,
            stage: Stage::Weighed(weighed),
            unsent: Vec::new(),
        };
        run.ask(from, visitor, ways);
        self.run = Some(run);
        Ok(())
    }

    /// Goes on with the move, if there is one. Gives its outcome, once.
    pub fn turn(&mut self, ways: Ways<'_>, now: Instant) -> Option<Result<Moved, Unmoved>> {
        let mut run = self.run.take()?;
        run.send(ways);
        let outcome = self.step(&mut run, ways, now);
        if outcome.is_none() {
            self.run = Some(run);
        }
        outcome
    }

    fn step(&mut self, run: &mut Run, ways: Ways<'_>, now: Instant) -> Option<Result<Moved, Unmoved>> {
        match &mut run.stage {
            Stage::Weighed(answer) => match answer.try_recv().ok()? {
                Ok(load) => {
                    let (to, from) = self.ring.take().unwrap_or_else(|| RingBuffer::new(RING));
                    run.expect(to, from, load, ways);
                    None
                }
                Err(hindrance) => Some(Err(Unmoved::Former(hindrance))),
            },
            Stage::Expected(_, answer) => {
                let answer = answer.try_recv().ok()?;
                let Stage::Expected(to, _) = core::mem::replace(&mut run.stage, Stage::Coming(0)) else {
                    return None;
                };
                if let Err((hindrance, from)) = answer {
                    self.ring = Some((to, from));
                    return Some(Err(Unmoved::New(hindrance)));
                }
                let number = ways.owners.change_receiver(run.at, run.to);
                run.stage = Stage::Steered(to, number);
                None
            }
            Stage::Steered(_, number) => {
                if ways.owners.events_see(*number)
                    && let Stage::Steered(to, _) = core::mem::replace(&mut run.stage, Stage::Coming(0))
                {
                    run.call(to, ways);
                }
                None
            }
            Stage::Called(answer, number) => {
                answer.try_recv().ok()?;
                let changed = ways.owners.change(run.at, run.to);
                debug_assert_eq!(changed, *number, "nobody else changes anything");
                run.stage = Stage::Coming(changed);
                None
            }
            Stage::Coming(number) => {
                if ways.owners.has_arrived(*number) {
                    run.collect(ways);
                }
                None
            }
            Stage::Over(former, new, to, from) => {
                *to = to.take().or_else(|| former.try_recv().ok());
                *from = from.take().or_else(|| new.try_recv().ok());
                if to.is_none() || from.is_none() {
                    return None;
                }
                let (to, (from, load)) = (to.take()?, from.take()?);
                self.ring = Some((to, from));
                Some(Ok(Moved {
                    at: run.at,
                    from: run.from,
                    to: run.to,
                    load,
                    took: now.since(run.began),
                }))
            }
        }
    }
}

impl Run {
    fn ask(&mut self, worker: u16, visitor: Visitor, ways: Ways<'_>) {
        self.unsent.push((worker, Ask::Visit(visitor)));
        self.send(ways);
    }

    fn send(&mut self, ways: Ways<'_>) {
        let unsent = core::mem::take(&mut self.unsent);
        for (worker, ask) in unsent {
            if let Err(refused) = ways.workers[usize::from(worker)].try_send(ask) {
                self.unsent.push((worker, refused.into_inner()));
            }
        }
    }

    /// The new worker is to expect the slot.
    fn expect(&mut self, to: Producer<Parcel>, parcels: Consumer<Parcel>, load: Load, ways: Ways<'_>) {
        let (answer, expected) = bounded(1);
        let mut arrival = Some(Arrival::new(self.at, self.from, parcels, load));
        let visitor = Visitor::new(move |tables, _| {
            if let Some(arrival) = arrival.take() {
                let _ = answer.try_send(tables.expect_slot(arrival));
            }
            Visited::Done
        });
        self.stage = Stage::Expected(to, expected);
        self.ask(self.to, visitor, ways);
    }

    /// The former worker is to let it go with the next change. From that change on packets wait, and this thread, which has
    /// other things to do, must not be waited for.
    fn call(&mut self, to: Producer<Parcel>, ways: Ways<'_>) {
        let threads = (ways.workers.len(), ways.events);
        let number = ways.owners.latest() + 1;
        let (answer, called) = bounded(1);
        let mut departure = Some(Departure::new(self.at, number, to, threads));
        let visitor = Visitor::new(move |tables, _| {
            if let Some(departure) = departure.take() {
                tables.let_go(departure);
                let _ = answer.try_send(());
            }
            Visited::Done
        });
        self.stage = Stage::Called(called, number);
        self.ask(self.from, visitor, ways);
    }

    /// Both ends of the ring are wanted back.
    fn collect(&mut self, ways: Ways<'_>) {
        let (former_answer, former) = bounded(1);
        let (new_answer, new) = bounded(1);
        self.stage = Stage::Over(former, new, None, None);
        let at_former = Visitor::new(move |tables, _| {
            if let Some(departure) = tables.departed() {
                let _ = former_answer.try_send(departure.into_ring());
            }
            Visited::Done
        });
        let at_new = Visitor::new(move |tables, _| {
            if let Some(arrival) = tables.arrived() {
                let _ = new_answer.try_send(arrival.into_ring());
            }
            Visited::Done
        });
        self.ask(self.from, at_former, ways);
        self.ask(self.to, at_new, ways);
    }
}
