//! How many first packets a worker takes while more comes in than it can take, so that a flood of them leaves the time to
//! established flows.
//!
//! A first packet costs as much as ten others, and a flood of SYNs costs its sender nothing. So while a receive queue has more to
//! give turn after turn, first packets have to be paid for, out of a *credit*:
//!
//! ```text
//!   a packet, of whatever kind            earns so much that first packets have `first_packets_percent` of the time
//!   a first packet                        costs its price; when there isn't as much, it is dropped (`first-packet-shed`)
//!   the first answer to a flow            gives the price back
//!   a turn without a full burst           fills the credit up: nobody is shed until the worker is overrun again
//! ```
//!
//! The refund is what tells a flood from a busy hour: connections that are answered cost nothing in the end, however many there
//! are, while what nobody answers shares a tenth of the time. The credit that there is at most is for flows whose answer
//! is still on its way.
//!
//! Packets that open nothing (for the node itself, or for a public port that nobody has) are neither charged nor shed.

use crate::config::FirstPacketsPercent;
use crate::io::BURST;

/// Turns in a row in which a queue, or another worker, had a full burst to give, from which on a worker is overrun: 2,048 packets of
/// one queue, more than one holds as a rule. What is shorter is a burst, which the queue is there for.
const OVERRUN_TURNS: u32 = 64;

/// What a first packet costs, in packets of established flows: 2,100 clocks to 200.
const PRICE: u32 = 10;

/// First packets that may go unanswered at once: those of a tenth of a second at 650,000 flows a second.
const UNANSWERED_MAX: u32 = 65_536;

/// Credit is counted in fractions of a packet.
const UNIT: u32 = 256;

/// The most there can be.
const CREDIT_MAX: u32 = UNANSWERED_MAX * PRICE * UNIT;

/// What first packets may cost, of one worker.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Something had a full burst to give in this turn, and probably more.
    behind: bool,
    /// Turns in a row in which something had.
    behind_turns: u32,
    credit: u32,
    /// What a packet earns; none where first packets may take all of the time.
    earned: Option<u32>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            behind: false,
            behind_turns: 0,
            credit: CREDIT_MAX,
            earned: None,
        }
    }
}

impl Admission {
    /// First packets may have so much of the time when the worker is overrun.
    #[inline]
    pub(crate) fn bound(&mut self, FirstPacketsPercent(percent): FirstPacketsPercent) {
        let percent = u32::from(percent);
        self.earned = (percent < 100).then(|| percent * UNIT / (100 - percent));
    }

    /// A burst of so many packets was taken in.
    #[inline]
    pub(crate) fn took(&mut self, packets: usize) {
        self.behind |= packets == BURST;
        if self.is_overrun()
            && let Some(earned) = self.earned
        {
            let packets = u32::try_from(packets).unwrap_or(u32::MAX);
            self.credit = CREDIT_MAX.min(self.credit.saturating_add(earned.saturating_mul(packets)));
        }
    }

    /// A turn has taken what it takes of each queue and ring.
    #[inline]
    pub(crate) const fn end_turn(&mut self) {
        if !core::mem::replace(&mut self.behind, false) {
            self.behind_turns = 0;
            self.credit = CREDIT_MAX;
        } else if self.behind_turns < OVERRUN_TURNS {
            self.behind_turns += 1;
        }
    }

    /// Whether a first packet that came now would be taken.
    #[inline]
    #[must_use]
    pub(crate) const fn may_admit(&self) -> bool {
        !self.is_overrun() || self.earned.is_none() || self.credit >= PRICE * UNIT
    }

    /// Whether a first packet is taken; it is charged then.
    #[inline]
    #[must_use]
    pub(crate) const fn admit(&mut self) -> bool {
        let taken = self.may_admit();
        if taken && self.is_overrun() {
            self.credit = self.credit.saturating_sub(PRICE * UNIT);
        }
        taken
    }

    /// A flow has had its first answer: it has cost nothing.
    #[inline]
    pub(crate) fn answered(&mut self) {
        self.credit = CREDIT_MAX.min(self.credit + PRICE * UNIT);
    }

    #[inline]
    const fn is_overrun(&self) -> bool {
        self.behind_turns >= OVERRUN_TURNS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is after so many turns with full bursts.
    fn behind(percent: u8, turns: u32) -> Admission {
        let mut admission = Admission::default();
        admission.bound(FirstPacketsPercent(percent));
        for _ in 0..turns {
            admission.took(BURST);
            admission.end_turn();
        }
        admission
    }

    /// A worker that is overrun, and whose credit is spent.
    fn spent(percent: u8) -> Admission {
        let mut admission = behind(percent, OVERRUN_TURNS);
        while admission.admit() {}
        admission
    }

    /// First packets that are taken in so many full bursts of nothing else.
    fn taken(admission: &mut Admission, bursts: usize) -> usize {
        let mut taken = 0;
        for _ in 0..bursts {
            admission.took(BURST);
            taken += (0..BURST).filter(|_| admission.admit()).count();
            admission.end_turn();
        }
        taken
    }

    #[test]
    fn nobody_is_shed_by_a_worker_that_keeps_up() {
        let mut admission = behind(1, OVERRUN_TURNS - 1);
        for _ in 0..10 {
            for _ in 0..UNANSWERED_MAX {
                assert!(admission.admit());
            }
            // A burst that isn't full: the queue is empty.
            admission.took(BURST - 1);
            admission.end_turn();
        }
    }

    #[test]
    fn a_flood_is_shed_when_its_credit_is_spent_and_until_the_worker_keeps_up() {
        let mut admission = behind(10, OVERRUN_TURNS);
        let free = (0..10 * UNANSWERED_MAX).take_while(|_| admission.admit()).count();
        assert_eq!(free, UNANSWERED_MAX as usize);
        // Another queue has less.
        admission.took(BURST);
        admission.took(1);
        admission.end_turn();
        while admission.admit() {}
        admission.took(BURST - 1);
        admission.end_turn();
        assert!(admission.admit());
    }

    #[test]
    fn what_nobody_answers_has_its_share_of_the_time() {
        for percent in [1, 10, 20, 50, 90] {
            let mut admission = spent(percent);
            let bursts = 10_000;
            let taken = taken(&mut admission, bursts);
            let others = (bursts * BURST) as f64;
            let cost = taken as f64 * f64::from(PRICE);
            let share = cost / (cost + others);
            let wanted = f64::from(percent) / 100.0;
            assert!((share - wanted).abs() < 0.01, "{percent} %: {share}");
        }
    }

    #[test]
    fn what_is_answered_is_never_shed() {
        let mut admission = spent(1);
        admission.answered();
        for _ in 0..1_000_000 {
            assert!(admission.admit());
            assert!(!admission.admit());
            admission.answered();
        }
    }

    #[test]
    fn credit_has_an_end() {
        let mut admission = spent(10);
        for _ in 0..2 * UNANSWERED_MAX {
            admission.answered();
        }
        assert_eq!(admission.credit, CREDIT_MAX);
        for _ in 0..100 {
            admission.took(usize::MAX);
        }
        assert_eq!(admission.credit, CREDIT_MAX);
    }

    #[test]
    fn all_of_the_time_is_no_bound() {
        let mut admission = spent(10);
        admission.bound(FirstPacketsPercent(100));
        assert!((0..10 * UNANSWERED_MAX).all(|_| admission.admit()));
    }
}
