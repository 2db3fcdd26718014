//! The exception path: frames that are the kernel's business go to the *tap* of their port, a kernel interface that mirrors
//! it, and what the kernel sends on a tap leaves by the port; both whole and unmodified. For ports of which the kernel sees
//! nothing itself: a tap is a further [`PortId`] behind those of the configuration, and a port without one leaves its
//! frames to a kernel that has them already.
//!
//! Frames are told apart by *class*, and each class of each port has a rate of its own in each worker, so that whoever
//! floods one neither costs the worker more than that, nor keeps a class that matters more from the kernel.

mod class;
mod limits;
#[cfg(test)]
mod tests;

use core::time::Duration;

pub use class::Class;
pub use limits::{ExceptionLimits, PACKETS_PER_S_MAX, PuntCounts, Punted};

use crate::counters::Counters;
use crate::io::{Burst, Io, Packet, PortId, RxQueue};
use crate::stage::meta::Meta;
use crate::stage::respond::TokenBucket;
use crate::stage::transmit::Outgoing;
use crate::time::Instant;
use crate::verdict::Drop;

/// How often a tap is looked at that had no more than a burst: a frame of the kernel waits no longer than that, and asking
/// costs next to nothing of a turn.
const READ_EVERY: Duration = Duration::from_micros(100);

/// The kernel interface that mirrors a port, as one worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tap {
    /// The port.
    pub port: PortId,
    /// Where frames for the kernel are sent.
    pub tap: PortId,
    /// Receive queues of the tap that this worker reads: all of them, or none.
    pub queues: u16,
}

/// A worker's ways to the kernel.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    /// By port.
    ways: Vec<Option<Way>>,
    /// What this worker reads, and where it leaves.
    reads: Vec<(RxQueue, PortId)>,
    read_at: Instant,
}

#[derive(Debug)]
struct Way {
    tap: PortId,
    /// What the buckets were made for.
    limits: ExceptionLimits,
    buckets: [TokenBucket; Class::ALL.len()],
}

impl Way {
    fn new(tap: PortId, limits: ExceptionLimits) -> Self {
        Self {
            tap,
            limits,
            buckets: Class::ALL.map(|class| limits.bucket(class)),
        }
    }

    /// Limits that were changed; the others' buckets are as full as they were.
    fn follow(&mut self, limits: ExceptionLimits) {
        for class in Class::ALL {
            if self.limits.of(class) != limits.of(class) {
                self.buckets[class as usize] = limits.bucket(class);
            }
        }
        self.limits = limits;
    }
}

impl Exceptions {
    pub(crate) fn new(taps: &[Tap]) -> Self {
        let ports = taps.iter().map(|tap| tap.port.index() + 1).max().unwrap_or(0);
        let way = |port| {
            let tap = taps.iter().find(|tap| tap.port.index() == port)?;
            Some(Way::new(tap.tap, ExceptionLimits::default()))
        };
        let queues = |tap: &Tap| {
            let (from, port) = (tap.tap, tap.port);
            (0..tap.queues).map(move |queue| (RxQueue { port: from, queue }, port))
        };
        Self {
            ways: (0..ports).map(way).collect(),
            reads: taps.iter().flat_map(queues).collect(),
            read_at: Instant::default(),
        }
    }

    /// Where a frame for the kernel goes, or why it is dropped. `limits` are those of the port at present.
    #[cold]
    pub(crate) fn way(
        &mut self,
        port: PortId,
        (frame, meta): (&[u8], &Meta),
        limits: ExceptionLimits,
        now: Instant,
        (counters, punts): (&mut Counters, &mut PuntCounts),
    ) -> Result<PortId, Drop> {
        counters.punted += 1;
        let Some(Some(way)) = self.ways.get_mut(port.index()) else {
            return Err(Drop::Punted);
        };
        if way.limits != limits {
            way.follow(limits);
        }
        let class = Class::of(frame, meta);
        let passes = way.buckets[class as usize].take(now);
        punts.count(port, class, passes);
        if passes {
            *class.passed(counters) += 1;
            Ok(way.tap)
        } else {
            *class.refused(counters) += 1;
            Err(Drop::PuntLimit)
        }
    }

    /// Frames of the kernel, one burst from each queue of each tap; returns their number.
    #[inline]
    pub(crate) fn read<I: Io>(
        &mut self,
        now: Instant,
        burst: &mut Burst<I::Packet>,
        out: &mut Outgoing<I::Packet>,
        io: &mut I,
        counters: &mut Counters,
    ) -> usize {
        if self.reads.is_empty() || now < self.read_at {
            return 0;
        }
        self.read_now(now, burst, out, io, counters)
    }

    #[cold]
    fn read_now<I: Io>(
        &mut self,
        now: Instant,
        burst: &mut Burst<I::Packet>,
        out: &mut Outgoing<I::Packet>,
        io: &mut I,
        counters: &mut Counters,
    ) -> usize {
        let (mut frames, mut more) = (0, false);
        for (queue, port) in &self.reads {
            io.rx(*queue, burst);
            more |= burst.is_full();
            frames += burst.len();
            for packet in burst.drain(..) {
                counters.kernel_bytes += packet.data().len() as u64;
                out.push(*port, packet, io, counters);
            }
        }
        counters.kernel_packets += frames as u64;
        self.read_at = if more { now } else { now + READ_EVERY };
        frames
    }
}
