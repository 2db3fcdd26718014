//! TCP as seen from the middle: which phase a connection is in, and which segments belong to it.
//!
//! A [`Track`] is born from a SYN ([`Track::open`]) or from a record of the peer ([`Track::inherited`]) and sees every
//! segment of both directions. The two ends' sequence numbers are kept in `window.rs`; here is what their flags
//! mean (RFC 9293 section 3.3.2, RFC 5961, RFC 7857 section 2, RFC 6146 section 3.5.2):
//!
//! ```text
//!             SYN-ACK                 ACK
//!  SynSent ─────────────> SynReceived ───────> Synchronized ─ one FIN ─> half closed ─ other FIN ─> closing
//!     │ SYN the other way    ▲    │                │  ▲                                  both acked: time-wait
//!     └─> SimultaneousOpen ──┘    └── exact RST ───┴──│──> Reset
//!                                                     └── the end that "reset" goes on sending
//! ```
//!
//! Three rules keep a blind attacker from ending a connection. A RST counts only at the sequence number that its
//! receiver expects; elsewhere in the window it passes and changes nothing, because the receiver will ask back.
//! A SYN on a live connection passes in the original direction and changes nothing: it draws a challenge ACK, and the
//! RST that answers it ends the connection if it really was dead. And an inherited connection believes neither RST nor
//! FIN of an end that isn't proven.
//!
//! Not kept: SACK, timestamps (no PAWS), the time at which data was sent.

use super::window::{End, ResetSeq, has_ack};
use crate::config::Timeouts;
use crate::delta::{Class, Scales};
use crate::flow::Direction;
pub use crate::stage::parse::TcpSegment;
use crate::verdict::Drop;
use crate::wire::tcp::{ACK, FIN, RST, SYN};

/// What a middlebox knows of one TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Track {
    phase: Phase,
    /// Learnt from the peer, or tracked for a while without window check: some of it went unseen.
    inherited: bool,
    /// The peer said that it was closing; which end had sent what is not known.
    inherited_closing: bool,
    /// The originator and the other end.
    ends: [End; 2],
}

/// Where the connection is. How far it has closed is in its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// SYN seen.
    SynSent,
    /// SYN and SYN-ACK seen.
    SynReceived,
    /// A SYN each way (RFC 9293 section 3.5, figure 8).
    SimultaneousOpen,
    /// Both ends have acknowledged each other.
    Synchronized,
    /// This end sent a RST that its receiver has to believe. `live`: it was synchronized before.
    Reset { by: Direction, live: bool },
}

/// What an accepted segment means for its conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Replicated class after the segment.
    pub class: Class,
    /// Which lifetime applies after the segment.
    pub timeout: Timeout,
    /// Whether the lifetime starts anew. Segments that prove nothing (a SYN on a live connection, a RST beside the
    /// expected sequence number) pass without it.
    pub refresh: bool,
    /// The segment opens a new connection on the tuple of a finished one. The track is unchanged and the segment
    /// isn't accepted yet: policy has to see it as a first packet, and only when it lets it in does the old
    /// conntrack make room.
    pub reopened: bool,
}

/// Which of the configured lifetimes applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Handshake not finished.
    Opening,
    /// Established.
    Established,
    /// FIN seen in one or both directions.
    Closing,
    /// RST seen.
    Reset,
}

impl Timeout {
    /// In seconds.
    #[must_use]
    pub const fn timeout_s(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Opening => timeouts.tcp_opening_s,
            Self::Established => timeouts.tcp_established_s,
            Self::Closing => timeouts.tcp_closing_s,
            Self::Reset => timeouts.tcp_reset_s,
        }
    }
}

/// What an accepted segment does to the lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It belongs to the connection: the lifetime starts anew.
    Refresh,
    /// It may pass but proves nothing.
    Pass,
    /// It opens the next connection.
    Reopen,
}

impl Track {
    /// Where there is no TCP connection.
    pub(super) const UNUSED: Self = Self::inherited(Class::Opening, Scales::NONE);

    /// State after the first segment of a connection.
    ///
    /// # Errors
    /// Only a SYN without ACK opens a connection.
    pub fn open(segment: &TcpSegment) -> Result<Self, Drop> {
        if segment.flags & (SYN | ACK | FIN | RST) != SYN {
            return Err(Drop::TcpNotSyn);
        }
        Ok(Self {
            ends: [End::of_syn(segment), End::UNSEEN],
            phase: Phase::SynSent,
            inherited: false,
            inherited_closing: false,
        })
    }

    /// State of an entry learnt from the peer: nothing is known but its class and what the ends' windows mean.
    #[must_use]
    pub const fn inherited(class: Class, scales: Scales) -> Self {
        let [original, reply] = scales.shifts();
        Self {
            ends: [End::inherited(original), End::inherited(reply)],
            phase: match class {
                Class::Opening => Phase::SynReceived,
                Class::Established | Class::Closing => Phase::Synchronized,
            },
            inherited: true,
            inherited_closing: matches!(class, Class::Closing),
        }
    }

    /// Takes note of a segment. Without `check_window`, sequence numbers refuse nothing and any RST counts.
    ///
    /// # Errors
    /// The reason why it must not pass. Nothing has changed then.
    pub fn observe(
        &mut self,
        dir: Direction,
        segment: &TcpSegment,
        check_window: bool,
    ) -> Result<Outcome, Drop> {
        if self.goes_on(dir, segment) {
            return Ok(Outcome {
                class: Class::Established,
                timeout: Timeout::Established,
                refresh: true,
                reopened: false,
            });
        }
        let effect = self.judge(dir, segment, check_window)?;
        Ok(Outcome {
            class: self.class(),
            timeout: self.timeout(),
            refresh: effect == Effect::Refresh,
            reopened: effect == Effect::Reopen,
        })
    }

    /// What most segments are: data, or an ACK, in the middle of a connection of which everything is known. False, and nothing
    /// has changed, for any other.
    #[inline]
    const fn goes_on(&mut self, dir: Direction, segment: &TcpSegment) -> bool {
        if !matches!(self.phase, Phase::Synchronized)
            || segment.flags & (SYN | ACK | FIN | RST) != ACK
            || self.inherited_closing
        {
            return false;
        }
        let [original, reply] = &mut self.ends;
        match dir {
            Direction::Original => original.goes_on(reply, segment),
            Direction::Reply => reply.goes_on(original, segment),
        }
    }

    /// A segment of any kind.
    fn judge(&mut self, dir: Direction, segment: &TcpSegment, check_window: bool) -> Result<Effect, Drop> {
        if segment.flags & RST != 0 {
            self.reset(dir, segment, check_window)
        } else if segment.flags & SYN != 0 {
            self.synchronize(dir, segment, check_window)
        } else {
            self.proceed(dir, segment, check_window)
        }
    }

    /// Whether the sequence numbers of the sender in `dir` are still unproven, so that its segments pass unchecked.
    #[must_use]
    pub const fn is_lenient(&self, dir: Direction) -> bool {
        self.inherited && !self.ends[dir.index()].is_proven()
    }

    /// Replicated class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self.timeout() {
            Timeout::Opening => Class::Opening,
            Timeout::Established => Class::Established,
            Timeout::Closing | Timeout::Reset => Class::Closing,
        }
    }

    /// Which lifetime applies.
    #[must_use]
    pub const fn timeout(&self) -> Timeout {
        let [original, reply] = &self.ends;
        match self.phase {
            Phase::SynSent | Phase::SynReceived | Phase::SimultaneousOpen => Timeout::Opening,
            Phase::Reset { .. } => Timeout::Reset,
            Phase::Synchronized => {
                if self.inherited_closing || original.has_closed() || reply.has_closed() {
                    Timeout::Closing
                } else {
                    Timeout::Established
                }
            }
        }
    }

    /// What the ends' windows mean, for whoever inherits the connection.
    #[must_use]
    pub const fn scales(&self) -> Scales {
        let [original, reply] = &self.ends;
        Scales::new(original.scale(), reply.scale())
    }

    /// Name of the state, for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        let [original, reply] = &self.ends;
        match self.phase {
            Phase::SynSent => "syn-sent",
            Phase::SynReceived => "syn-received",
            Phase::SimultaneousOpen => "simultaneous-open",
            Phase::Reset { .. } => "reset",
            Phase::Synchronized => match (original.has_closed(), reply.has_closed()) {
                (true, true) if original.has_closed_acknowledged() && reply.has_closed_acknowledged() => {
                    "time-wait"
                }
                (true, true) => "closing",
                (false, false) if self.inherited_closing => "closing",
                (false, false) => "established",
                _ => "half-closed",
            },
        }
    }

    /// A segment without SYN and RST.
    fn proceed(&mut self, dir: Direction, segment: &TcpSegment, check_window: bool) -> Result<Effect, Drop> {
        // RFC 9293 section 3.10.7.4: after the handshake's first SYN there is no segment without ACK.
        if !has_ack(segment) {
            return Err(Drop::TcpState);
        }
        let [_, reply] = &self.ends;
        let handshake_open = match self.phase {
            Phase::SynSent => true,
            Phase::SimultaneousOpen => !reply.is_proven(),
            _ => false,
        };
        if handshake_open {
            // A host that still has the last connection on this tuple answers a SYN with a challenge ACK (RFC 5961
            // section 4.2); the originator needs it to send the RST that clears the way.
            return match dir {
                Direction::Reply if segment.payload_len == 0 && segment.flags & FIN == 0 => Ok(Effect::Pass),
                _ => Err(Drop::TcpState),
            };
        }
        self.check(dir, segment, check_window)?;
        self.apply(dir, segment);
        match self.phase {
            Phase::SynReceived | Phase::SimultaneousOpen => {
                self.finish_handshake();
                Ok(Effect::Refresh)
            }
            // Whoever goes on after its RST hasn't sent it (RFC 6146 section 3.5.2.2, state TRANS).
            Phase::Reset { by, live: true } if by == dir => {
                self.phase = Phase::Synchronized;
                Ok(Effect::Refresh)
            }
            Phase::Reset { .. } => Ok(Effect::Pass),
            _ => Ok(Effect::Refresh),
        }
    }

    /// A SYN or SYN-ACK.
    fn synchronize(
        &mut self,
        dir: Direction,
        segment: &TcpSegment,
        check_window: bool,
    ) -> Result<Effect, Drop> {
        if segment.flags & FIN != 0 {
            return Err(Drop::TcpState);
        }
        match (self.phase, dir, has_ack(segment)) {
            (Phase::SynSent, Direction::Original, false) => self.syn_again(segment),
            (Phase::SynSent, Direction::Original, true) => Err(Drop::TcpState),
            (Phase::SynSent, Direction::Reply, false) => Ok(self.syn_from_reply(segment)),
            (Phase::SynSent | Phase::SimultaneousOpen, Direction::Reply, true) => {
                self.syn_ack(segment, check_window)
            }
            (Phase::SimultaneousOpen, _, false) => self.syn_in_simultaneous_open(dir, segment),
            (Phase::SimultaneousOpen | Phase::SynReceived, _, true) => {
                self.syn_ack_again(dir, segment, check_window)
            }
            (Phase::Synchronized | Phase::Reset { .. }, _, false) if self.is_over(dir) => Ok(Effect::Reopen),
            (Phase::SynReceived | Phase::Synchronized | Phase::Reset { .. }, _, false) => {
                self.syn_on_live(dir, segment, check_window)
            }
            (Phase::Synchronized | Phase::Reset { .. }, _, true) => {
                self.check(dir, segment, check_window)?;
                Ok(Effect::Pass)
            }
        }
    }

    /// The originator's SYN once more, or its next attempt with another sequence number.
    fn syn_again(&mut self, segment: &TcpSegment) -> Result<Effect, Drop> {
        if !self.ends[0].is_own_syn(segment) {
            *self = Self::open(segment)?;
        }
        Ok(Effect::Refresh)
    }

    /// Both have opened at once (RFC 5382 REQ-2). Anybody could have sent this SYN: it counts once it is acknowledged,
    /// and a proper SYN-ACK still overrules it.
    fn syn_from_reply(&mut self, segment: &TcpSegment) -> Effect {
        self.ends[1] = End::of_unproven_syn(segment);
        self.phase = Phase::SimultaneousOpen;
        Effect::Refresh
    }

    fn syn_in_simultaneous_open(&mut self, dir: Direction, segment: &TcpSegment) -> Result<Effect, Drop> {
        if self.ends[dir.index()].is_own_syn(segment) {
            Ok(Effect::Refresh)
        } else {
            Err(Drop::TcpState)
        }
    }

    /// The answer to the SYN. It has to acknowledge it (RFC 9293 section 3.10.7.3).
    fn syn_ack(&mut self, segment: &TcpSegment, check_window: bool) -> Result<Effect, Drop> {
        let [original, reply] = &mut self.ends;
        let again = original.is_heard() && reply.is_own_syn(segment);
        if !original.would_advance(segment.ack) && !again {
            if check_window {
                return Err(Drop::TcpWindow);
            }
            original.doubt();
            self.inherited = true;
        }
        if !(reply.is_proven() && reply.is_own_syn(segment)) {
            *reply = End::of_syn(segment);
        }
        reply.allow(segment.seq.wrapping_add(1), original.window_max());
        original.acknowledged(segment.ack, u32::from(segment.window));
        self.settle_scale();
        self.phase = Phase::SynReceived;
        self.finish_handshake();
        Ok(Effect::Refresh)
    }

    /// A SYN-ACK after the first: only what it acknowledges is news.
    fn syn_ack_again(
        &mut self,
        dir: Direction,
        segment: &TcpSegment,
        check_window: bool,
    ) -> Result<Effect, Drop> {
        self.check(dir, segment, check_window)?;
        self.apply(dir, segment);
        self.finish_handshake();
        Ok(Effect::Refresh)
    }

    /// A SYN on a connection that isn't over (RFC 5961 section 4).
    fn syn_on_live(
        &mut self,
        dir: Direction,
        segment: &TcpSegment,
        check_window: bool,
    ) -> Result<Effect, Drop> {
        if self.is_lenient(dir) && self.phase == Phase::SynReceived {
            // An inherited handshake: most likely the SYN itself, sent again.
            self.ends[dir.index()].sent(segment);
            return Ok(Effect::Refresh);
        }
        if dir == Direction::Reply {
            self.check(dir, segment, check_window)?;
        }
        Ok(Effect::Pass)
    }

    fn reset(&mut self, dir: Direction, segment: &TcpSegment, check_window: bool) -> Result<Effect, Drop> {
        let original = &self.ends[0];
        let answers_syn = has_ack(segment) && original.would_advance(segment.ack);
        let place = match (self.phase, dir) {
            _ if !check_window => ResetSeq::Exact,
            // Refused: the RST must acknowledge the SYN (RFC 9293 section 3.10.7.3).
            (Phase::SynSent | Phase::SimultaneousOpen, Direction::Reply) if answers_syn => ResetSeq::Exact,
            (Phase::SynSent, Direction::Reply) => ResetSeq::Outside,
            // Answers a challenge ACK of the last connection on this tuple, with that one's numbers.
            (Phase::SynSent, Direction::Original) if original.judge_reset(segment.seq) != ResetSeq::Exact => {
                ResetSeq::Inside
            }
            _ => self.ends[dir.index()].judge_reset(segment.seq),
        };
        match place {
            ResetSeq::Exact if matches!(self.phase, Phase::Reset { .. }) => Ok(Effect::Pass),
            ResetSeq::Exact => {
                self.phase = Phase::Reset {
                    by: dir,
                    live: self.phase == Phase::Synchronized,
                };
                Ok(Effect::Refresh)
            }
            ResetSeq::Inside | ResetSeq::Unknown => Ok(Effect::Pass),
            ResetSeq::Outside => Err(Drop::TcpWindow),
        }
    }

    /// Bounds I to IV of `window.rs`. Without the check, an end whose numbers don't fit is doubted instead, so that
    /// switching the check on later finds no false bounds.
    fn check(&mut self, dir: Direction, segment: &TcpSegment, check_window: bool) -> Result<(), Drop> {
        let sender = &self.ends[dir.index()];
        let receiver = &self.ends[dir.reversed().index()];
        let sends = sender.may_send(receiver, segment);
        let acknowledges = !has_ack(segment) || sender.may_acknowledge(receiver, segment.ack, self.inherited);
        if sends && acknowledges {
            return Ok(());
        }
        if check_window {
            return Err(Drop::TcpWindow);
        }
        self.inherited = true;
        self.inherited_closing |= self.class() == Class::Closing;
        self.ends.iter_mut().for_each(End::doubt);
        Ok(())
    }

    fn apply(&mut self, dir: Direction, segment: &TcpSegment) {
        let [original, reply] = &mut self.ends;
        let (sender, receiver) = match dir {
            Direction::Original => (original, reply),
            Direction::Reply => (reply, original),
        };
        sender.sent(segment);
        if has_ack(segment) {
            receiver.acknowledged(segment.ack, sender.window_of(segment));
        }
    }

    fn finish_handshake(&mut self) {
        if self.ends.iter().all(|end| end.is_proven() && end.is_heard()) {
            self.settle_scale();
            self.phase = Phase::Synchronized;
        }
    }

    /// Scaling is on only when both SYNs ask for it (RFC 7323 section 2.2). Unseen SYNs are taken to have asked.
    fn settle_scale(&mut self) {
        if !self.inherited && self.ends.iter().any(|end| !end.offers_scale()) {
            self.ends.iter_mut().for_each(End::unscale);
        }
    }

    /// Whether a SYN of `dir` on the tuple may open the next connection: reset, or closed by both ends. When only the
    /// peer's word says that it is closing, one half may still be in use: then only the originator is believed.
    fn is_over(&self, dir: Direction) -> bool {
        let [original, reply] = &self.ends;
        match self.phase {
            Phase::Reset { .. } => true,
            Phase::Synchronized => {
                (original.has_closed() && reply.has_closed())
                    || (self.inherited_closing && dir == Direction::Original)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
