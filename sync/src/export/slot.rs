//! One slot on its way to one peer, and what has to be done for it next.
//!
//! Idle → wanted → queried (the peer was asked what it holds) → wanted → asked (the worker was told) → walking (its begin
//! has passed) → ended → verified; a failure, an operator or its own worker sends it back to wanted, and then it is sent
//! whole, unasked. When nothing flows to the peer any more it is idle again, and its worker has to hear so.

use dataplane::delta::{SlotEnd, SlotOffer, Term, Version};
use dataplane::time::Instant;

use crate::config::Timing;
use crate::port::Heard;
use crate::resync::Sent;

/// How far a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Wanted,
    Queried,
    Asked,
    Walking,
    Ended,
    Verified,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    /// A begin has passed on the present connection: live records are sent.
    pub(super) open: bool,
    /// Standing in the queue.
    pub(super) queued: bool,
    pub(super) failures: u8,
    pub(super) generation: u32,
    /// Version of the last live record sent on the present connection.
    pub(super) last: Version,
    /// The worker must be told to stop streaming to this incarnation; 0 for none.
    pub(super) stop: u32,
    /// Earliest time to ask, or when the question or the end was sent.
    pub(super) at: Instant,
    /// It has to be sent whole: what the peer holds is known to be wrong.
    pub(super) whole: bool,
    /// Its digest was different at the peer, and it has not been verified since.
    pub(super) diverged: bool,
    /// What the peer has said it holds, on this connection.
    pub(super) offer: Option<SlotOffer>,
    /// What the peer had to be sent.
    pub(super) sent: Sent,
}

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

impl Phase {
    /// Whether its worker has been told, and the peer hasn't answered.
    pub(super) const fn is_under_way(self) -> bool {
        matches!(self, Self::Asked | Self::Walking | Self::Ended)
    }

    /// Whether nobody knows of it but this node.
    const fn is_untold(self) -> bool {
        matches!(self, Self::Idle | Self::Wanted)
    }
}

impl Slot {
    /// Before anything was sent.
    pub(super) const IDLE: Self = Self {
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
        sent: Sent::Whole,
    };

    /// What is to be done for it at the head of the queue.
    pub(super) fn task(&self, now: Instant) -> Task {
        match self.phase {
            _ if self.stop != 0 => Task::Stop(self.stop),
            Phase::Wanted if self.at > now => Task::Later,
            Phase::Wanted if self.whole => Task::Send(None),
            Phase::Wanted if self.offer.is_none() => Task::Query,
            Phase::Wanted => Task::Send(self.offer),
            _ => Task::Nothing,
        }
    }

    /// Whether the peer has verified it, and every change since is in its stream.
    pub(super) fn is_verified(&self) -> bool {
        self.phase == Phase::Verified && self.stop == 0
    }

    /// Whether this generation of it is that far.
    pub(super) fn is_at(&self, generation: u32, phase: Phase) -> bool {
        self.generation == generation && self.phase == phase && self.stop == 0
    }

    /// Whether this generation of it may fail.
    pub(super) const fn can_fail(&self, generation: u32) -> bool {
        self.generation == generation && !self.phase.is_untold()
    }

    /// Whether it was streamed, and has to be sent again.
    pub(super) fn is_dirty(&self) -> bool {
        self.phase == Phase::Wanted && self.whole
    }

    /// Whether the peer should have answered by now.
    pub(super) fn is_unanswered(&self, now: Instant, timing: &Timing) -> bool {
        matches!(self.phase, Phase::Queried | Phase::Ended) && now.since(self.at) >= timing.slot_answer
    }

    /// Nothing flows any more. Whether its worker may be streaming it to `incarnation`, and has to hear so.
    pub(super) const fn stop(&mut self, incarnation: u32) -> bool {
        let told = self.open || !self.phase.is_untold();
        if told && self.stop == 0 {
            self.stop = incarnation;
        }
        (self.phase, self.open, self.failures) = (Phase::Idle, false, 0);
        told
    }

    /// Its worker was told to stop. Whether it stays in the queue.
    pub(super) fn stopped(&mut self) -> bool {
        self.stop = 0;
        self.queued = self.phase == Phase::Wanted;
        self.queued
    }

    /// Its begin has come from the worker, with the version that live records go on from.
    pub(super) fn begin(&mut self, version: Version, since: Option<Version>) {
        (self.open, self.last) = (true, version);
        self.sent = Sent::begun(since.is_none());
    }

    /// A digest of it as the peer is to get it; none when nothing can be compared.
    pub(super) fn digest(&self, end: &SlotEnd) -> Option<SlotEnd> {
        self.is_verified().then_some(SlotEnd {
            generation: self.generation,
            ..*end
        })
    }

    /// What the peer has last said of it, by its number, when digests were compared.
    pub(super) fn heard(&self, number: u16) -> Option<Heard> {
        let offer = self.offer.filter(|_| self.phase == Phase::Verified)?;
        Some(Heard {
            slot: number,
            version: offer.version,
            digest: offer.digest,
        })
    }
}
