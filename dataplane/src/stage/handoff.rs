//! Packets on their way to the worker that owns their flow: taken out of their burst and gathered by destination, and put
//! into each ring at once when the burst ends, so that what two workers share is touched once per burst and not per packet.

use rtrb::Producer;

use super::{Batch, Context, Work};
use crate::counters::Counters;
use crate::fragment::Mark;
use crate::io::{BURST, Burst, PortId};
use crate::tables::Tables;
use crate::verdict::{Drop, Verdict};

/// Room that must be free in every handoff ring before more is received: bursts of two queues, one of fragments that
/// waited, and one that the peer has redirected, which all go to one worker.
pub(crate) const HANDOFF_ROOM: usize = 4 * BURST;

/// A packet on its way to the worker that owns its flow.
#[derive(Debug)]
pub struct Handoff<P> {
    pub(crate) packet: P,
    pub(crate) port: PortId,
    pub(crate) handoffs: u8,
    /// It came from the peer.
    pub(crate) redirects: u8,
    /// Of a fragment that has met its packet.
    pub(crate) mark: Option<Mark>,
}

impl<P> Handoff<P> {
    pub(crate) const fn of(packet: P, work: &Work, mark: Option<Mark>) -> Self {
        Self {
            packet,
            port: work.port,
            handoffs: work.handoffs + 1,
            redirects: work.redirects,
            mark,
        }
    }
}

/// Takes out of a burst what is another worker's, in order. Whose a packet is no processor foresees: asked here, it guesses wrong
/// once per packet; left in the burst, once more in every stage behind.
#[inline(never)]
pub(crate) fn hand_over<P>(batch: &mut Batch<P>, leaving: &mut Leaving<P>, cx: &mut Context<'_>) {
    let Batch {
        packets, meta, work, ..
    } = batch;
    let mut kept: Burst<P> = Burst::new();
    for (i, packet) in packets.drain(..).enumerate() {
        if let Verdict::HandOver(owner) = work[i].verdict {
            leaving.hand_over(owner, packet, &work[i], None, cx.tables);
            continue;
        }
        let place = kept.len();
        if place < i {
            (meta[place], work[place]) = (meta[i], work[i]);
        }
        kept.push(packet);
    }
    *packets = kept;
}

/// Why a packet is another worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The inside end, or both ends, are that worker's.
    Subscriber,
    /// Its destination is a public address, and the port block is held by a subscriber of that worker.
    Pool,
    /// A piece of a packet: the others meet there, or its flow is there.
    Fragment,
    /// Translated by its sender's worker, it goes on to its receiver's.
    Hairpin,
}

impl Cause {
    /// Every cause, in counter order.
    pub const ALL: [Self; 4] = [Self::Subscriber, Self::Pool, Self::Fragment, Self::Hairpin];

    /// The name used by ctl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber",
            Self::Pool => "pool",
            Self::Fragment => "fragment",
            Self::Hairpin => "hairpin",
        }
    }
}

/// How many packets were handed over, by cause and by the port they came in by.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct HandoffCounts {
    ports: Box<[[u64; Cause::ALL.len()]]>,
}

impl HandoffCounts {
    pub(crate) fn new(ports: usize) -> Self {
        Self {
            ports: vec![[0; Cause::ALL.len()]; ports].into(),
        }
    }

    #[inline]
    pub(crate) fn count(&mut self, port: PortId, cause: Cause) {
        if let Some(counts) = self.ports.get_mut(port.index()) {
            counts[cause as usize] += 1;
        }
    }

    /// Those that came in by a port, for one cause.
    #[must_use]
    pub fn of(&self, port: PortId, cause: Cause) -> u64 {
        self.ports
            .get(port.index())
            .map_or(0, |counts| counts[cause as usize])
    }
}

/// What one burst hands over, by worker.
#[derive(Debug)]
pub(crate) struct Leaving<P> {
    to: Vec<Burst<Handoff<P>>>,
}

impl<P> Leaving<P> {
    pub(crate) fn new(workers: u16) -> Self {
        Self {
            to: (0..workers).map(|_| Burst::new()).collect(),
        }
    }

    /// Adds one that is another worker's, and counts why.
    #[inline]
    pub(crate) fn hand_over(
        &mut self,
        owner: u16,
        packet: P,
        work: &Work,
        mark: Option<Mark>,
        tables: &mut Tables,
    ) {
        tables.counters.handoff_out += 1;
        tables.handoffs.count(work.port, work.cause);
        self.push(owner, Handoff::of(packet, work, mark), &mut tables.counters);
    }

    /// Adds one of at most [`BURST`] packets.
    #[inline]
    pub(crate) fn push(&mut self, owner: u16, handoff: Handoff<P>, counters: &mut Counters) {
        let taken = self
            .to
            .get_mut(usize::from(owner))
            .is_some_and(|burst| burst.try_push(handoff).is_ok());
        if !taken {
            counters.drop(Drop::HandoffLoop);
        }
    }

    /// Puts them into their rings, in order. These were seen to have room for a burst before anything was received, so a
    /// full one means that this very turn hairpinned more packets than that.
    pub(crate) fn flush(&mut self, rings: &mut [Producer<Handoff<P>>], counters: &mut Counters) {
        for (burst, ring) in self.to.iter_mut().zip(rings) {
            if burst.is_empty() {
                continue;
            }
            let fitting = burst.len().min(ring.slots());
            if let Ok(chunk) = ring.write_chunk_uninit(fitting) {
                chunk.fill_from_iter(burst.drain(..fitting));
            }
            for handoff in burst.drain(..) {
                counters.drop(Drop::HandoffLoop);
                drop(handoff);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtrb::RingBuffer;

    fn handoff(number: u32) -> Handoff<u32> {
        Handoff {
            packet: number,
            port: PortId(0),
            handoffs: 1,
            redirects: 0,
            mark: None,
        }
    }

    #[test]
    fn a_burst_arrives_in_order_at_each_worker_and_what_has_no_room_is_counted() {
        let (one, mut at_one) = RingBuffer::new(8);
        let (two, mut at_two) = RingBuffer::new(3);
        let mut rings = [one, two];
        let (mut leaving, mut counters) = (Leaving::new(2), Counters::default());
        for number in 0..10 {
            leaving.push(u16::from(number % 2 == 1), handoff(number), &mut counters);
        }
        assert!(at_one.pop().is_err(), "nothing is there before the burst ends");
        leaving.flush(&mut rings, &mut counters);
        let arrived = |ring: &mut rtrb::Consumer<Handoff<u32>>| {
            std::iter::from_fn(|| ring.pop().ok().map(|handoff| handoff.packet)).collect::<Vec<_>>()
        };
        assert_eq!(arrived(&mut at_one), [0, 2, 4, 6, 8]);
        assert_eq!(arrived(&mut at_two), [1, 3, 5]);
        assert_eq!(counters.dropped(Drop::HandoffLoop), 2);
        // Nothing of it is left for the next burst.
        leaving.flush(&mut rings, &mut counters);
        assert!(arrived(&mut at_two).is_empty());
    }

    #[test]
    fn causes_are_counted_by_port() {
        let mut counts = HandoffCounts::new(2);
        counts.count(PortId(1), Cause::Hairpin);
        counts.count(PortId(9), Cause::Pool);
        let of = |port| Cause::ALL.map(|cause| counts.of(PortId(port), cause));
        assert_eq!((of(0), of(1), of(9)), ([0; 4], [0, 0, 0, 1], [0; 4]));
    }
}
