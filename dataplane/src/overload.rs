//! What a worker leaves out when its changes come faster than a lane takes them: a ladder of named steps, climbed as the
//! list of waiting changes grows and descended as it shrinks, each at half of what it was climbed at.
//!
//! ```text
//!   step       from so many waiting changes on    what happens
//!   calm                                          every change goes out at the end of its turn
//!   coalesce   1, the ring being full             changes of one entry fold into one
//!   cancel     half a ring                        entries made and ended while they waited are taken out of the middle
//!   stretch    a ring                             news that only prolongs a lifetime is left out until the next is due
//!   age        two rings                          new flows are told when they are two seconds old
//! ```
//!
//! Nothing that is left out is lost: what was kept back is told later, and has no share in a digest until then. Beyond the
//! ladder, when removals that wait fill an eighth of the arena, slots are sent again whole (`Tables::lose`); the peer has
//! not verified them then, so it isn't ready. The packet path never waits, and no packet is dropped for the peers' sake.
//! Statistics don't travel, so none can be left out.

use crate::counters::Counters;

/// Age at which new flows are told on the top step, in seconds.
pub const AGE_S: u32 = 2;

/// How far a lane's worker has climbed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Step {
    /// Nothing waits.
    #[default]
    Calm,
    /// Changes of one entry fold into one.
    Coalesce,
    /// Entries made and ended while they waited are taken out.
    Cancel,
    /// Refreshes are left out.
    Stretch,
    /// New flows wait for their age.
    Age,
}

impl Step {
    const ALL: [Self; 5] = [Self::Calm, Self::Coalesce, Self::Cancel, Self::Stretch, Self::Age];

    /// Waiting changes from which on the step is taken, for a ring of `ring` entries.
    const fn enters(self, ring: usize) -> usize {
        match self {
            Self::Calm => 0,
            Self::Coalesce => 1,
            Self::Cancel => at_least_one(ring / 2),
            Self::Stretch => at_least_one(ring),
            Self::Age => at_least_one(2 * ring),
        }
    }

    fn above(self) -> Option<Self> {
        Self::ALL.get(self as usize + 1).copied()
    }

    fn below(self) -> Self {
        Self::ALL[(self as usize).saturating_sub(1)]
    }

    /// The step after a turn that has left `waiting` changes behind, counted where it is climbed.
    #[must_use]
    pub fn after_turn(self, waiting: usize, ring: usize, counters: &mut Counters) -> Self {
        let mut step = self;
        while let Some(above) = step.above()
            && waiting >= above.enters(ring)
        {
            step = above;
            step.count(counters);
        }
        while step != Self::Calm && waiting < at_least_one(step.enters(ring) / 2) {
            step = step.below();
        }
        step
    }

    const fn count(self, counters: &mut Counters) {
        match self {
            Self::Calm => {}
            Self::Coalesce => counters.overload_coalesce += 1,
            Self::Cancel => counters.overload_cancel += 1,
            Self::Stretch => counters.overload_stretch += 1,
            Self::Age => counters.overload_age += 1,
        }
    }
}

const fn at_least_one(n: usize) -> usize {
    if n == 0 { 1 } else { n }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: usize = 64;

    #[test]
    fn each_step_is_taken_at_its_mark_and_left_at_half_of_it() {
        let mut counters = Counters::default();
        let mut step = Step::Calm;
        // Waiting changes after each turn, and the step they lead to.
        let turns = [
            (0, Step::Calm),
            (1, Step::Coalesce),
            (31, Step::Coalesce),
            (32, Step::Cancel),
            (63, Step::Cancel),
            (64, Step::Stretch),
            (127, Step::Stretch),
            (128, Step::Age),
            (64, Step::Age),
            (63, Step::Stretch),
            (32, Step::Stretch),
            (31, Step::Cancel),
            (16, Step::Cancel),
            (15, Step::Coalesce),
            (1, Step::Coalesce),
            (0, Step::Calm),
        ];
        for (waiting, expected) in turns {
            step = step.after_turn(waiting, RING, &mut counters);
            assert_eq!(step, expected, "{waiting} waiting");
        }
        let entered = [
            counters.overload_coalesce,
            counters.overload_cancel,
            counters.overload_stretch,
            counters.overload_age,
        ];
        assert_eq!(entered, [1; 4]);
    }

    #[test]
    fn a_flood_climbs_the_whole_ladder_in_one_turn_and_its_end_descends_it() {
        let mut counters = Counters::default();
        for ring in [1, 2, 64, 4_096] {
            let step = Step::Calm.after_turn(1 << 20, ring, &mut counters);
            assert_eq!(step, Step::Age);
            assert_eq!(step.after_turn(0, ring, &mut counters), Step::Calm);
        }
        assert_eq!((counters.overload_coalesce, counters.overload_age), (4, 4));
    }
}
