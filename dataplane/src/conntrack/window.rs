//! One end of a TCP connection: what it has sent, what it was allowed to send, and how sure we are of it.
//!
//! The bounds are those of van Rooij ("Real stateful TCP packet filtering in IP Filter", 2001), seen from a box that
//! every segment of both directions passes:
//!
//! ```text
//!   I   seq + len  <=  highest (ack + window) of the receiver, plus one for a probe of a closed window
//!   II  seq + len  >=  highest seq + len of the sender, minus the receiver's largest window
//!   III ack        <=  highest seq + len of the receiver
//!   IV  ack        >=  highest ack of the sender, minus its largest window (RFC 5961 section 5.2)
//! ```
//!
//! An end of an inherited connection starts *unseen*. Its segments make a *run*: adjoining sequence numbers that
//! somebody claims to have sent. A segment elsewhere starts the run afresh, so a spoofed one displaces it
//! but never widens it. Only an ACK of the other end that falls into the run *proves* it, and only then are the bounds
//! kept. A blind attacker would have to guess what the other end is about to acknowledge.

use super::tcp::TcpSegment;
use crate::delta::Scales;
use crate::wire::tcp::{ACK, FIN, SYN};

/// How far from an unproven run a segment may be and still belong to it: holes that loss and reordering make.
const RUN_GAP: u32 = 1 << 16;

/// An unproven run remembers at most this much, the largest window there is (RFC 7323 section 2.3).
const RUN_MAX: u32 = 1 << 30;

/// Lowest tolerance for old ACKs: an unscaled window and a segment.
const OLD_ACK_MIN: u32 = 66_000;

/// Largest shift (RFC 7323 section 2.3); also assumed when the SYN was seen by no node, so that nothing legal is refused.
const SCALE_MAX: u8 = 14;

/// How sure we are of an end's sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Unseen,
    Run,
    Proven,
}

/// What is known of one end as a sender. Both ends of a connection fit into what a conntrack has for its state, which they
/// would not with room lost to alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(2))]
pub(super) struct End {
    /// After the last sequence number sent; SYN and FIN count.
    end: u32,
    /// After the last one that the other end has acknowledged. Of a run: its first one.
    acked: u32,
    /// After the last one that the other end has made room for.
    limit: u32,
    /// Largest window this end has announced, in bytes.
    window_max: u32,
    shifts: Shifts,
    facts: Facts,
}

/// Shifts of an end's announcements, a nibble each; [`Scales::UNSEEN`] means the largest. High: the one that counts. Low: what
/// the record said, believed again when a run that a SYN began turns out not to be the end's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shifts(u8);

impl Shifts {
    const fn new(scale: u8, told: u8) -> Self {
        Self(scale << 4 | told)
    }

    const fn scale(self) -> u8 {
        self.0 >> 4
    }

    const fn told(self) -> u8 {
        self.0 & 15
    }
}

/// How sure we are of an end, and what was seen of it: a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts(u8);

impl Facts {
    const NONE: Self = Self(0);
    const RUN: u8 = 1;
    const PROVEN: u8 = 2;
    /// Its SYN was seen and asked for scaling.
    const OFFERS_SCALE: u8 = 4;
    /// Something it sent (its SYN, if we saw that) was acknowledged.
    const HEARD: u8 = 8;
    /// Its FIN was seen; `end` is after it.
    const FIN: u8 = 16;

    const fn has(self, fact: u8) -> bool {
        self.0 & fact != 0
    }

    const fn with(self, fact: u8, holds: bool) -> Self {
        Self(if holds { self.0 | fact } else { self.0 & !fact })
    }

    const fn trust(self) -> Trust {
        if self.has(Self::PROVEN) {
            Trust::Proven
        } else if self.has(Self::RUN) {
            Trust::Run
        } else {
            Trust::Unseen
        }
    }

    const fn trusted(self, trust: Trust) -> Self {
        self.with(Self::RUN, matches!(trust, Trust::Run))
            .with(Self::PROVEN, matches!(trust, Trust::Proven))
    }
}

/// `a` comes before `b` in sequence space (RFC 9293 section 3.4).
#[expect(clippy::cast_possible_wrap, reason = "the sign is the answer")]
pub(super) const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

const fn max(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// Sequence number after the segment; SYN and FIN take one each.
pub(super) const fn segment_end(segment: &TcpSegment) -> u32 {
    segment
        .seq
        .wrapping_add(segment.payload_len)
        .wrapping_add((segment.flags & SYN != 0) as u32)
        .wrapping_add((segment.flags & FIN != 0) as u32)
}

impl End {
    /// Nothing known.
    pub(super) const UNSEEN: Self = Self {
        end: 0,
        acked: 0,
        limit: 0,
        window_max: 0,
        shifts: Shifts::new(Scales::UNSEEN, Scales::UNSEEN),
        facts: Facts::NONE,
    };

    /// Nothing known but the shift of its announcements, if that.
    pub(super) const fn inherited(scale: u8) -> Self {
        Self {
            shifts: Shifts::new(scale, scale),
            ..Self::UNSEEN
        }
    }

    /// The sender of a SYN that nobody doubts: the first packet, or a SYN-ACK that acknowledges it.
    pub(super) const fn of_syn(segment: &TcpSegment) -> Self {
        let end = segment_end(segment);
        Self {
            end,
            acked: segment.seq,
            limit: end,
            window_max: segment.window as u32,
            shifts: Shifts::new(scale_of_syn(segment), Scales::UNSEEN),
            facts: Facts::NONE
                .trusted(Trust::Proven)
                .with(Facts::OFFERS_SCALE, segment.window_scale.is_some()),
        }
    }

    /// The sender of a SYN that nobody has acknowledged yet.
    pub(super) const fn of_unproven_syn(segment: &TcpSegment) -> Self {
        let proven = Self::of_syn(segment);
        Self {
            facts: proven.facts.trusted(Trust::Run),
            ..proven
        }
    }

    /// Whether an ACK of the other end has proven this end's sequence numbers.
    pub(super) const fn is_proven(&self) -> bool {
        self.facts.has(Facts::PROVEN)
    }

    /// Whether the other end has acknowledged anything.
    pub(super) const fn is_heard(&self) -> bool {
        self.facts.has(Facts::HEARD)
    }

    /// Whether a FIN was seen that can be believed.
    pub(super) const fn has_closed(&self) -> bool {
        self.facts.has(Facts::FIN) && self.is_proven()
    }

    /// Whether its FIN was acknowledged.
    pub(super) const fn has_closed_acknowledged(&self) -> bool {
        self.has_closed() && self.acked == self.end
    }

    /// Whether the segment is this end's SYN once more.
    pub(super) const fn is_own_syn(&self, segment: &TcpSegment) -> bool {
        segment_end(segment) == self.end && !matches!(self.facts.trust(), Trust::Unseen)
    }

    /// Whether `ack` acknowledges something new of what this end has sent.
    pub(super) const fn would_advance(&self, ack: u32) -> bool {
        before(self.acked, ack) && !before(self.end, ack)
    }

    /// The number this end would send next, if it was seen at all.
    #[cfg(test)]
    pub(super) fn next_seq(&self) -> Option<u32> {
        (self.facts.trust() != Trust::Unseen).then_some(self.end)
    }

    /// Makes room: the other end has announced `window` bytes from `from` on.
    pub(super) const fn allow(&mut self, from: u32, window: u32) {
        self.limit = max(self.limit, from.wrapping_add(window));
    }

    /// Largest window announced.
    pub(super) const fn window_max(&self) -> u32 {
        self.window_max
    }

    /// Shift of its announcements, [`Scales::UNSEEN`] when not known.
    pub(super) const fn scale(&self) -> u8 {
        self.shifts.scale()
    }

    /// Whether its SYN asked for scaling.
    pub(super) const fn offers_scale(&self) -> bool {
        self.facts.has(Facts::OFFERS_SCALE)
    }

    /// Scaling was not negotiated by both ends (RFC 7323 section 2.2): windows mean what they say.
    pub(super) const fn unscale(&mut self) {
        self.shifts = Shifts::new(0, self.shifts.told());
    }

    /// Forgets everything but that it was heard: the next segment starts a run.
    pub(super) const fn doubt(&mut self) {
        *self = Self {
            facts: Facts::NONE.with(Facts::HEARD, self.is_heard()),
            ..Self::UNSEEN
        };
    }

    /// Whether nothing of what an ordinary segment can change is left open: proven, heard, and without a FIN.
    const fn is_steady(&self) -> bool {
        let asked = Facts::PROVEN | Facts::HEARD | Facts::FIN;
        self.facts.0 & asked == Facts::PROVEN | Facts::HEARD
    }

    /// Takes note of a segment with an ACK, without SYN, FIN or RST, of this end of a connection of which nothing is left open.
    /// False, and nothing has changed, where there is more to be asked: after all bounds, it does what [`Self::sent`] and
    /// [`Self::acknowledged`] do.
    #[inline]
    pub(super) const fn goes_on(&mut self, receiver: &mut Self, segment: &TcpSegment) -> bool {
        let end = segment.seq.wrapping_add(segment.payload_len);
        let oldest = self.end.wrapping_sub(receiver.window_max).wrapping_sub(1);
        let tolerance = if self.window_max > OLD_ACK_MIN {
            self.window_max
        } else {
            OLD_ACK_MIN
        };
        let inside = !before(self.limit.wrapping_add(1), end)
            & !before(end, oldest)
            & !before(receiver.end, segment.ack)
            & !before(segment.ack, receiver.acked.wrapping_sub(tolerance));
        if !(self.is_steady() & receiver.is_steady() & inside) {
            return false;
        }
        let shift = if self.scale() > SCALE_MAX {
            SCALE_MAX
        } else {
            self.scale()
        };
        let window = (segment.window as u32) << shift;
        self.end = max(self.end, end);
        if window > self.window_max {
            self.window_max = window;
        }
        receiver.acked = max(receiver.acked, segment.ack);
        receiver.limit = max(receiver.limit, segment.ack.wrapping_add(window));
        true
    }

    /// Bounds I and II for a segment of this end towards `receiver`.
    pub(super) const fn may_send(&self, receiver: &Self, segment: &TcpSegment) -> bool {
        let end = segment_end(segment);
        let oldest = self.end.wrapping_sub(receiver.window_max).wrapping_sub(1);
        !self.is_proven() || (!before(self.limit.wrapping_add(1), end) && !before(end, oldest))
    }

    /// Bounds III and IV for an ACK of this end for what `receiver` has sent. `slack`: some of that may have gone
    /// another way, before the connection was inherited.
    pub(super) const fn may_acknowledge(&self, receiver: &Self, ack: u32, slack: bool) -> bool {
        let newest = receiver.end.wrapping_add(if slack { self.window_max } else { 0 });
        let tolerance = if self.window_max > OLD_ACK_MIN {
            self.window_max
        } else {
            OLD_ACK_MIN
        };
        let oldest = receiver.acked.wrapping_sub(tolerance);
        !receiver.is_proven() || (!before(newest, ack) && !before(ack, oldest))
    }

    /// Where a RST of this end stands (RFC 5961 section 3.2). The receiver's next expected number is not known
    /// exactly: it is what it has acknowledged, or all that was sent.
    pub(super) const fn judge_reset(&self, seq: u32) -> ResetSeq {
        if !self.is_proven() {
            ResetSeq::Unknown
        } else if seq == self.acked || seq == self.end {
            ResetSeq::Exact
        } else if before(seq, self.acked) || before(self.limit.wrapping_add(1), seq) {
            ResetSeq::Outside
        } else {
            ResetSeq::Inside
        }
    }

    /// Takes note of what this end has sent.
    pub(super) const fn sent(&mut self, segment: &TcpSegment) {
        let end = segment_end(segment);
        let fin = segment.flags & FIN != 0;
        let is_syn = segment.flags & SYN != 0;
        if !self.is_proven() && (is_syn || !self.adjoins(segment)) {
            let scale = if is_syn {
                self.scale_of_unproven_syn(segment)
            } else {
                self.shifts.told()
            };
            *self = Self {
                end,
                acked: segment.seq,
                limit: end,
                window_max: 0,
                shifts: Shifts::new(scale, self.shifts.told()),
                facts: Facts::NONE
                    .trusted(Trust::Run)
                    .with(Facts::OFFERS_SCALE, is_syn && segment.window_scale.is_some())
                    .with(Facts::HEARD, self.is_heard())
                    .with(Facts::FIN, fin),
            };
        } else if before(self.end, end) {
            // Data after a FIN: that FIN was not the end, or was never sent by this end.
            self.facts = self.facts.with(Facts::FIN, fin);
            self.end = end;
        } else if fin && end == self.end {
            self.facts = self.facts.with(Facts::FIN, true);
        }
        if !self.is_proven() {
            self.acked = if before(segment.seq, self.acked) {
                segment.seq
            } else {
                self.acked
            };
            self.acked = max(self.acked, self.end.wrapping_sub(RUN_MAX));
        }
        let window = self.window_of(segment);
        self.window_max = if window > self.window_max {
            window
        } else {
            self.window_max
        };
    }

    /// Takes note of an ACK for what this end has sent, which the bounds have let through. `window` is what the other
    /// end announces with it.
    pub(super) const fn acknowledged(&mut self, ack: u32, window: u32) {
        match self.facts.trust() {
            Trust::Unseen => {}
            Trust::Run => {
                // The first number alone proves nothing when more was sent: it may be an ACK from before the run.
                let proven = self.would_advance(ack) || (self.acked == self.end && ack == self.end);
                if proven {
                    self.facts = self.facts.trusted(Trust::Proven).with(Facts::HEARD, true);
                    self.acked = ack;
                    self.limit = max(self.end, ack.wrapping_add(window));
                }
            }
            Trust::Proven => {
                if self.would_advance(ack) {
                    self.acked = ack;
                    self.facts = self.facts.with(Facts::HEARD, true);
                }
                // An ACK of what went another way passes (slack), but moves nothing.
                if !before(self.end, ack) {
                    self.allow(ack, window);
                }
            }
        }
    }

    /// Window that this end announces with the segment, in bytes. A SYN's is never scaled (RFC 7323 section 2.2).
    pub(super) const fn window_of(&self, segment: &TcpSegment) -> u32 {
        if segment.flags & SYN != 0 {
            segment.window as u32
        } else {
            (segment.window as u32)
                << if self.scale() > SCALE_MAX {
                    SCALE_MAX
                } else {
                    self.scale()
                }
        }
    }

    /// A SYN that anybody may have sent doesn't make windows smaller than the record said.
    const fn scale_of_unproven_syn(&self, segment: &TcpSegment) -> u8 {
        let scale = scale_of_syn(segment);
        let told = self.shifts.told();
        if told <= SCALE_MAX && scale < told {
            told
        } else {
            scale
        }
    }

    const fn adjoins(&self, segment: &TcpSegment) -> bool {
        matches!(self.facts.trust(), Trust::Run)
            && !before(segment_end(segment), self.acked.wrapping_sub(RUN_GAP))
            && !before(self.end.wrapping_add(RUN_GAP), segment.seq)
    }
}

/// Where a RST's sequence number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetSeq {
    /// The sender isn't proven.
    Unknown,
    /// What the receiver expects: it will believe it.
    Exact,
    /// In the window: the receiver asks back (challenge ACK).
    Inside,
    /// Outside the window.
    Outside,
}

/// Shift count of a SYN; more than the largest counts as that (RFC 7323 section 2.3).
const fn scale_of_syn(segment: &TcpSegment) -> u8 {
    match segment.window_scale {
        None => 0,
        Some(scale) if scale > SCALE_MAX => SCALE_MAX,
        Some(scale) => scale,
    }
}

/// Whether the segment has an ACK.
pub(super) const fn has_ack(segment: &TcpSegment) -> bool {
    segment.flags & ACK != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(seq: u32, len: u32) -> TcpSegment {
        TcpSegment {
            seq,
            ack: 0,
            payload_len: len,
            window: 100,
            flags: ACK,
            window_scale: None,
        }
    }

    #[test]
    fn sequence_comparison_survives_the_wrap_around() {
        for base in [0_u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff] {
            assert!(before(base, base.wrapping_add(1)), "{base}");
            assert!(before(base, base.wrapping_add(0x7fff_ffff)), "{base}");
            assert!(!before(base, base), "{base}");
            assert!(!before(base.wrapping_add(1), base), "{base}");
        }
    }

    #[test]
    fn syn_and_fin_take_one_sequence_number_each() {
        let segment = |flags| TcpSegment {
            flags,
            ..data(u32::MAX, 3)
        };
        assert_eq!(segment_end(&segment(ACK)), 2);
        assert_eq!(segment_end(&segment(SYN)), 3);
        assert_eq!(segment_end(&segment(SYN | FIN)), 4);
    }

    #[test]
    fn a_run_grows_at_both_ends_and_bridges_small_holes() {
        let mut end = End::UNSEEN;
        end.sent(&data(1000, 100));
        end.sent(&data(1200, 100));
        end.sent(&data(900, 100));
        assert_eq!((end.acked, end.end, end.facts.trust()), (900, 1300, Trust::Run));
    }

    #[test]
    fn a_segment_far_away_displaces_a_run_and_does_not_widen_it() {
        let mut end = End::UNSEEN;
        end.sent(&data(1000, 100));
        end.sent(&data(0x4000_0000, 10));
        assert_eq!((end.acked, end.end), (0x4000_0000, 0x4000_000a));
        end.acknowledged(1100, 1000);
        assert!(
            !end.is_proven(),
            "an ACK of the displaced run proves nothing about the new one"
        );
    }

    #[test]
    fn only_an_ack_inside_the_run_proves_it() {
        for (ack, proves) in [
            (999, false),
            (1000, false),
            (1001, true),
            (1100, true),
            (1101, false),
        ] {
            let mut end = End::UNSEEN;
            end.sent(&data(1000, 100));
            end.acknowledged(ack, 500);
            assert_eq!(end.is_proven(), proves, "ack {ack}");
        }
    }

    #[test]
    fn a_silent_end_is_proven_by_the_ack_of_its_one_number() {
        for (ack, proves) in [(999, false), (1000, true), (1001, false)] {
            let mut end = End::UNSEEN;
            end.sent(&data(1000, 0));
            end.acknowledged(ack, 500);
            assert_eq!(end.is_proven(), proves, "ack {ack}");
        }
    }

    #[test]
    fn a_run_longer_than_the_largest_window_forgets_its_start() {
        let mut end = End::UNSEEN;
        for step in 0..40_000_u32 {
            end.sent(&data(step * 60_000, 60_000));
        }
        assert_eq!(end.end.wrapping_sub(end.acked), RUN_MAX);
    }

    #[test]
    fn a_shift_above_fourteen_counts_as_fourteen() {
        // RFC 7323 section 2.3
        let syn = TcpSegment {
            flags: SYN,
            window_scale: Some(200),
            ..data(1, 0)
        };
        let end = End::of_syn(&syn);
        assert_eq!(end.window_of(&syn), 100);
        assert_eq!(end.window_of(&data(2, 0)), 100 << 14);
    }
}
