//! Packets of flows that the peers don't know yet wait here, in order, and nothing of the flow is tracked meanwhile: when
//! a flow is let go, its packets go through the stages from parse on, as if they had just come.
//!
//! A stage in front of track marks the packets that have to wait, `transmit` hands them to [`Holds`], and the next turn
//! begins with what has been settled. A worker without a waiting flow skips all of it.

use super::{Batch, Context, Work};
use crate::commit::{Outcome, PACKETS_MAX, Reason};
use crate::config::OutputCommit;
use crate::fragment::Mark;
use crate::io::{BURST, PortId};
use crate::redirect::REDIRECTS_MAX;
use crate::slot::NIL;
use crate::store::Store;
use crate::tables::Tables;
use crate::time::Instant;
use crate::verdict::{Drop, Verdict};

/// Places beyond the limit: what a burst brings for flows that are being let go because of it.
const RESERVE: usize = 2 * BURST;

/// A packet that waits.
#[derive(Debug)]
pub(crate) struct Waiting<P> {
    pub(crate) packet: P,
    pub(crate) port: PortId,
    pub(crate) handoffs: u8,
    /// How often it was redirected.
    pub(crate) redirects: u8,
    /// Of a fragment that has met its packet.
    pub(crate) mark: Option<Mark>,
}

impl<P> Waiting<P> {
    pub(crate) const fn of(packet: P, work: &Work, mark: Option<Mark>) -> Self {
        Self {
            packet,
            port: work.port,
            handoffs: work.handoffs,
            redirects: work.redirects,
            mark,
        }
    }
}

/// One worker's waiting packets.
#[derive(Debug)]
pub(crate) struct Holds<P> {
    store: Store<Waiting<P>>,
    limit: u32,
}

/// What is to be done for the oldest settled flow.
#[derive(Debug)]
pub(crate) enum Next<P> {
    /// Its next packet goes on.
    Packet(Waiting<P>),
    /// Its next packet is dropped.
    Drop(P, Drop),
    /// There is no settled flow.
    Nothing,
}

/// Marks packets whose flow waits.
#[cold]
pub(crate) fn hold<P>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    batch.each(|_, work| {
        if work.entry != NIL && !work.released && cx.tables.conntracks[work.entry].waits {
            work.verdict = Verdict::Wait;
        }
    });
}

impl<P> Holds<P> {
    /// Room for `packets` packets.
    pub(crate) fn new(packets: usize) -> Self {
        let limit = u32::try_from(packets).unwrap_or(u32::MAX / 2);
        let reserve = if packets == 0 { 0 } else { RESERVE };
        Self {
            store: Store::new(limit + u32::try_from(reserve).unwrap_or(0)),
            limit,
        }
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.store.len() >= self.limit
    }

    /// A packet of a waiting flow waits behind the others.
    ///
    /// # Errors
    /// The packet, and why it has to be dropped.
    pub(crate) fn keep(
        &mut self,
        packet: P,
        work: &Work,
        mark: Option<Mark>,
        tables: &mut Tables,
    ) -> Result<(), (P, Drop)> {
        let Some(id) = tables.commits.find(work.entry) else {
            return Err((packet, Drop::CommitEnded));
        };
        let full = self.is_full() || *tables.commits.packets(id).1 >= PACKETS_MAX;
        if full && tables.commits.policy(id) == OutputCommit::Closed {
            return Err((packet, Drop::CommitFull));
        }
        if full {
            tables.settle(id, Reason::Limit);
        }
        let waiting = Waiting {
            // It stays here, whatever the node becomes meanwhile.
            redirects: REDIRECTS_MAX,
            ..Waiting::of(packet, work, mark)
        };
        let (queue, count) = tables.commits.packets(id);
        self.store
            .push(queue, waiting)
            .map_err(|w| (w.packet, Drop::CommitFull))?;
        *count += 1;
        tables.counters.commit_held += 1;
        Ok(())
    }

    /// The next thing to do for settled flows. A flow whose last packet goes on waits no longer: what comes later comes
    /// behind it.
    pub(crate) fn next(&mut self, tables: &mut Tables, now: Instant) -> Next<P> {
        while let Some((id, entry, outcome)) = tables.commits.next_settled() {
            let (queue, count) = tables.commits.packets(id);
            let popped = self.store.pop(queue);
            *count -= u16::from(popped.is_some());
            let last = *count == 0;
            if last {
                tables.commits.leave();
                tables.waited(entry, outcome, now);
            }
            match (popped, outcome) {
                (Some(waiting), Outcome::Release) => return Next::Packet(waiting),
                (Some(waiting), Outcome::End(reason)) => return Next::Drop(waiting.packet, reason),
                (None, _) => {}
            }
        }
        Next::Nothing
    }
}
