//! One established connection, as either end sees it: frames out, frames in, and the times by which its health
//! is judged. Owned by a lane or an inlet; dropping it closes it.

use core::time::Duration;
use std::collections::VecDeque;

use dataplane::time::Instant;

use crate::cause::Cause;
use crate::config::Timing;
use crate::frame::{FrameError, Inbox, Outbox};
use crate::pace::Pace;
use crate::record::put_heartbeat;
use crate::shared::Shared;
use crate::tally::Tallies;
use crate::window::Window;
use crate::wire::{Io, Wire};

/// Frames whose sending times are remembered; beyond it neighbours share an entry.
const FLIGHTS_MAX: usize = 4_096;

/// Words read in a burst: those of every slot there may be, and more than a receiver's buffer holds.
const WORDS_BURST: u32 = 1 << 16;
/// Time in which one more is read. A frame costs some tens of nanoseconds here and a system call at its sender.
const WORD: Duration = Duration::from_micros(2);

/// A connection with its buffers.
#[derive(Debug)]
pub(crate) struct Conn<W> {
    pub(crate) wire: W,
    pub(crate) out: Outbox,
    pub(crate) inbox: Inbox,
    /// How many words may be read now.
    words: Pace,
    paused: bool,
    /// Most records that may be sent and not acknowledged, and how many have been acknowledged.
    credit: u32,
    items_acked: u64,
    window: Window,
    /// Frames sent and not yet acknowledged, oldest first. Kept by clients only.
    flights: Option<VecDeque<Flight>>,
    heard: Instant,
    moved: Instant,
    framed: Instant,
    /// The stream has taken bytes that it couldn't pass on yet.
    held: bool,
    /// A packet waits for what is in the open frame.
    urgent: bool,
}

/// A frame on its way.
#[derive(Debug, Clone, Copy)]
struct Flight {
    sequence: u64,
    records: u64,
    items: u64,
    closed: Instant,
}

/// What an acknowledgement achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Highest frame known to be applied whose records are counted.
    pub(crate) sequence: u64,
    /// Records put in up to that frame.
    pub(crate) records: u64,
}

impl<W: Wire> Conn<W> {
    /// `preface` is sent first, unframed; `client` connections remember their frames for acknowledgement.
    pub(crate) fn new(wire: W, preface: &[u8], client: bool, now: Instant) -> Self {
        let flights = client.then(|| VecDeque::with_capacity(FLIGHTS_MAX));
        let (out, inbox) = (Outbox::new(preface), Inbox::new());
        Self {
            wire,
            out,
            inbox,
            words: Pace::new(WORDS_BURST, WORD, now),
            paused: false,
            credit: 0,
            items_acked: 0,
            window: Window::new(),
            flights,
            heard: now,
            moved: now,
            framed: now,
            held: false,
            urgent: false,
        }
    }

    /// The frame that everything put in so far is acknowledged with, which goes out with the end of this turn; none when
    /// nothing is on its way.
    pub(crate) fn last_frame(&mut self) -> Option<u64> {
        let open = self.out.opened().is_some();
        let flies = self.flights.as_ref().is_some_and(|flights| !flights.is_empty());
        self.urgent |= open;
        (open || flies).then(|| self.out.sequence() + u64::from(open))
    }

    /// Adds what has gone over it.
    pub(crate) fn tally(&self, to: &mut Tallies) {
        to.sent.add(&self.out.tally);
        to.received.add(&self.inbox.tally);
    }

    /// Puts a record in; gives its bytes on the wire.
    pub(crate) fn put(&mut self, now: Instant, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let bytes = self.out.put(now, write);
        if self.out.is_large() {
            self.close(now);
        }
        bytes
    }

    /// The open frame goes out with the end of this turn, whatever else is still to come.
    pub(crate) const fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Puts a record in that isn't counted.
    pub(crate) fn put_aside(&mut self, now: Instant, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.put_aside(now, write);
        if self.out.is_large() {
            self.close(now);
        }
    }

    fn close(&mut self, now: Instant) {
        let Some(sequence) = self.out.close() else { return };
        (self.framed, self.urgent) = (now, false);
        let Some(flights) = &mut self.flights else { return };
        let flight = Flight {
            sequence,
            records: self.out.records(),
            items: self.out.items(),
            closed: now,
        };
        let full = flights.len() >= FLIGHTS_MAX;
        match flights.back_mut() {
            // The older sending time stays: lag is then overstated, never understated.
            Some(last) if full => {
                *last = Flight {
                    closed: last.closed,
                    ..flight
                }
            }
            _ => flights.push_back(flight),
        }
    }

    /// The peer takes so many records before it has acknowledged the first of them.
    pub(crate) const fn grant(&mut self, credit: u32) {
        self.credit = credit;
    }

    /// Records that may be sent now.
    pub(crate) fn credit(&self) -> u64 {
        u64::from(self.credit).saturating_sub(self.under_way())
    }

    /// Whether a record of a walk would keep live ones behind it waiting.
    pub(crate) fn holds_walks(&self) -> bool {
        self.under_way() >= self.window.records()
    }

    /// Records that were put in and not yet acknowledged.
    fn under_way(&self) -> u64 {
        self.out.items() - self.items_acked
    }

    /// Notes that frames up to `sequence` were applied.
    pub(crate) fn acknowledge(&mut self, sequence: u64, now: Instant) -> Result<Option<Acked>, Cause> {
        if sequence > self.out.sequence() {
            return Err(Cause::AckBeyondSent);
        }
        let mut acked = None;
        if let Some(flights) = &mut self.flights {
            while flights.front().is_some_and(|f| f.sequence <= sequence) {
                acked = flights.pop_front();
            }
        }
        if let Some(flight) = acked {
            let records = flight.items - self.items_acked;
            self.items_acked = flight.items;
            self.window
                .acknowledged(now.since(flight.closed), records, u64::from(self.credit));
        }
        Ok(acked.map(|f| Acked {
            sequence: f.sequence,
            records: f.records,
        }))
    }

    /// Age of the oldest frame not acknowledged.
    pub(crate) fn lag_ms(&self, now: Instant) -> u64 {
        let oldest = self.flights.as_ref().and_then(VecDeque::front);
        oldest.map_or(0, |f| {
            u64::try_from(now.since(f.closed).as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// Whether reading pauses, because the peer says more words than it may.
    pub(crate) fn pauses(&mut self, s: &mut Shared) -> bool {
        let paused = !self.words.allows(s.now);
        if paused && !self.paused {
            s.count(Cause::ReadingPaused);
        }
        self.paused = paused;
        paused
    }

    /// A frame has ended, or a record was of no use: both are cheap to send and have to be looked at all the same.
    pub(crate) const fn word(&mut self) {
        self.words.spend(1);
    }

    /// Reads once; gives the number of bytes if any came.
    pub(crate) fn fill(&mut self, now: Instant) -> Result<Option<usize>, Cause> {
        match self.inbox.fill(&mut self.wire) {
            Io::Done(bytes) => {
                self.heard = now;
                Ok(Some(bytes))
            }
            Io::Wait => Ok(None),
            Io::Closed => Err(Cause::Closed),
            Io::Failed => Err(self.lost()),
        }
    }

    fn lost(&self) -> Cause {
        self.wire.breach().map_or(Cause::ConnectionFailed, Cause::from)
    }

    /// End of a turn: closes the frame when nothing more is coming (`idle`) or it has waited long enough, keeps
    /// the peer's patience with heartbeats, sends, and judges the connection's health.
    pub(crate) fn finish(
        &mut self,
        now: Instant,
        timing: &Timing,
        shared: bool,
        idle: bool,
    ) -> Result<(), Cause> {
        if self.out.opened().is_none() && now.since(self.framed) >= timing.heartbeat {
            self.put(now, put_heartbeat);
            self.close(now);
        }
        if self
            .out
            .opened()
            .is_some_and(|since| idle || self.urgent || now.since(since) >= timing.flush)
        {
            self.close(now);
        }
        self.flush(now)?;
        let stall = if shared { timing.stall_shared } else { timing.stall };
        let waits = self.out.queued() > 0 || self.held;
        if self.out.is_overflowing() || (waits && now.since(self.moved) >= stall) {
            return Err(Cause::Stalled);
        }
        if now.since(self.heard) >= timing.dead {
            Err(Cause::Silent)
        } else {
            Ok(())
        }
    }

    /// Sends what is closed.
    pub(crate) fn flush(&mut self, now: Instant) -> Result<(), Cause> {
        let gone = |io, conn: &Self| {
            if io == Io::Closed {
                Cause::Closed
            } else {
                conn.lost()
            }
        };
        let sent = self.out.flush(&mut self.wire).map_err(|io| gone(io, self))?;
        let passed = match self.wire.flush() {
            Io::Done(n) => Some(n),
            Io::Wait => None,
            io => return Err(gone(io, self)),
        };
        self.held = passed.is_none();
        let idle = self.out.queued() == 0 && !self.held;
        if sent > 0 || idle || passed.is_some_and(|n| n > 0) {
            self.moved = now;
        }
        Ok(())
    }

    /// The handshake is over: health is judged from here on.
    pub(crate) fn wake(&mut self, now: Instant) {
        (self.heard, self.moved, self.framed) = (now, now, now);
    }
}

impl From<FrameError> for Cause {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Oversized => Self::FrameOversized,
            FrameError::Check => Self::FrameCheck,
            FrameError::Sequence => Self::FrameSequence,
            FrameError::Records => Self::FrameRecords,
        }
    }
}
