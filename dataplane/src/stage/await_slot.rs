//! Packets whose slot is on its way to this worker ([`crate::transit`]): they wait, and go on when everything is here, before
//! what comes after them.
//!
//! Those that come by way of the slot's former worker were sent before the table of owners changed: they go first, so that
//! packets of a flow stay in order. When half of the store is taken the worker receives nothing more, and when it is full takes
//! nothing from other workers: then packets wait in queues, as behind any worker that has too much to do.

use super::hold::Waiting;
use super::{Batch, Context, Work};
use crate::io::BURST;
use crate::stage::meta::Kind;
use crate::store::{Queue, Store};
use crate::verdict::Verdict;

/// Packets that may wait. One slot at a time changes hands in a process, so this is all of them.
pub const AWAITING: usize = 4_096;

/// Where a packet stands in the move of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It came to this worker.
    Later,
    /// It came by way of the slot's former worker.
    Earlier,
    /// It has waited.
    Over,
}

/// One worker's waiting packets.
#[derive(Debug)]
pub(crate) struct Awaiting<P> {
    store: Store<Waiting<P>>,
    earlier: Queue,
    later: Queue,
}

/// Marks packets whose slot is on its way here.
#[cold]
pub(crate) fn await_slot<P>(batch: &mut Batch<P>, cx: &Context<'_>) {
    let Some(awaited) = cx.tables.transit.slot() else {
        return;
    };
    batch.each(|meta, work| {
        let of_flow = matches!(meta.kind, Kind::Flow | Kind::IcmpError | Kind::Fragment);
        if of_flow && work.at == awaited && work.turn != Turn::Over {
            work.verdict = Verdict::Await;
        }
    });
}

impl<P> Awaiting<P> {
    pub(crate) fn new() -> Self {
        Self {
            store: Store::new(u32::try_from(AWAITING).unwrap_or(u32::MAX)),
            earlier: Queue::EMPTY,
            later: Queue::EMPTY,
        }
    }

    /// A packet waits. Given back when there is no place left.
    pub(crate) fn keep(&mut self, waiting: Waiting<P>, work: &Work) -> Result<(), P> {
        let queue = match work.turn {
            Turn::Earlier => &mut self.earlier,
            Turn::Later | Turn::Over => &mut self.later,
        };
        self.store.push(queue, waiting).map_err(|waiting| waiting.packet)
    }

    /// The packet that goes on next.
    pub(crate) fn next(&mut self) -> Option<Waiting<P>> {
        let earlier = self.store.pop(&mut self.earlier);
        earlier.or_else(|| self.store.pop(&mut self.later))
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.store.len() == 0
    }

    /// Whether no more should be received.
    pub(crate) fn is_crowded(&self) -> bool {
        self.store.len() >= self.store.capacity() / 2
    }

    /// Whether a burst wouldn't fit any more.
    pub(crate) fn is_full(&self) -> bool {
        self.store.len() as usize + BURST > self.store.capacity() as usize
    }
}
