//! Every order of steps that a small slot can go through, with all misfortunes a few of which break most protocols:
//! the invariants hold in each state, and each mistake that is made on purpose is refuted.

#[cfg(test)]
mod slot;

#[cfg(test)]
mod tests {
    use stateright::{Checker, HasDiscoveries, Model, Property};

    use crate::slot::{Action, Mistake, Spare, State};

    const SLOT_GROWS: &str = "I1: a slot's version only grows";
    const ENTRY_GROWS: &str = "I2: an entry only moves to newer versions, or by authority";
    const SWEEP_PROVEN: &str = "I6: swept only after a verified end";
    const EQUAL: &str = "I8: equal when nothing is left to do, nothing lost or resurrected";
    const STANDBY_KEPT: &str = "a node that restarted empty doesn't overwrite its standby";
    const ENDS: &str = "everything that may happen can happen, and come to an end";

    struct Slot {
        spare: Spare,
        mistakes: &'static [Mistake],
    }

    impl Model for Slot {
        type State = State;
        type Action = Action;

        fn init_states(&self) -> Vec<State> {
            vec![State::new(self.spare)]
        }

        fn actions(&self, state: &State, actions: &mut Vec<Action>) {
            state.misfortunes(actions);
            state.steps(self.mistakes, actions);
        }

        fn next_state(&self, state: &State, action: Action) -> Option<State> {
            let mut next = state.clone();
            next.act(action, self.mistakes);
            Some(next)
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::always(SLOT_GROWS, |_: &Self, s: &State| !s.seen.slot_went_back),
                Property::always(ENTRY_GROWS, |_: &Self, s: &State| !s.seen.entry_went_back),
                Property::always(SWEEP_PROVEN, |_: &Self, s: &State| !s.seen.swept_unproven),
                Property::always(EQUAL, |m: &Self, s: &State| !m.is_quiet(s) || s.is_whole()),
                Property::always(STANDBY_KEPT, |_: &Self, s: &State| !s.seen.standby_overwritten),
                Property::sometimes(ENDS, |m: &Self, s: &State| {
                    m.is_quiet(s) && s.spare == spare(0, 0, 0, 0, 0)
                }),
            ]
        }
    }

    impl Slot {
        fn is_quiet(&self, state: &State) -> bool {
            let mut steps = Vec::new();
            state.steps(self.mistakes, &mut steps);
            steps.is_empty()
        }
    }

    /// As a set of misfortunes: changes, cuts, crashes, take-overs, losses.
    const fn spare(changes: u8, cuts: u8, crashes: u8, takeovers: u8, losses: u8) -> Spare {
        Spare {
            changes,
            cuts,
            crashes,
            takeovers,
            losses,
        }
    }

    fn holds(spare: Spare) {
        let checker = Slot { spare, mistakes: &[] }
            .checker()
            .threads(2)
            .spawn_bfs()
            .join();
        println!("{spare:?}: {} states", checker.unique_state_count());
        checker.assert_properties();
    }

    /// The checker finds a way to break the property.
    fn refuted(property: &'static str, spare: Spare, mistakes: &'static [Mistake]) {
        let only = HasDiscoveries::AllOf([property].into());
        let checker = Slot { spare, mistakes }
            .checker()
            .finish_when(only)
            .spawn_bfs()
            .join();
        assert!(
            checker.discovery(property).is_some(),
            "{mistakes:?} keeps {property}"
        );
    }

    #[test]
    fn invariants_hold_with_lost_records() {
        holds(spare(2, 1, 0, 0, 1));
    }

    #[test]
    fn invariants_hold_when_the_slot_moves_lanes() {
        holds(spare(2, 1, 0, 0, 0));
    }

    #[test]
    fn invariants_hold_in_a_split_brain() {
        holds(spare(1, 1, 0, 1, 0));
    }

    #[test]
    fn invariants_hold_after_a_crash() {
        holds(spare(1, 0, 1, 1, 0));
    }

    #[test]
    fn a_slot_version_that_follows_walked_records_is_refuted() {
        refuted(SLOT_GROWS, spare(2, 0, 0, 0, 0), &[Mistake::WalkMovesSlot]);
    }

    #[test]
    fn a_term_taken_twice_is_refuted() {
        refuted(SLOT_GROWS, spare(1, 0, 1, 0, 0), &[Mistake::TermTwice]);
    }

    #[test]
    fn records_applied_whatever_their_version_are_refuted() {
        let mistakes = &[Mistake::AnyVersion, Mistake::OldConnection];
        refuted(ENTRY_GROWS, spare(2, 1, 0, 0, 0), mistakes);
    }

    #[test]
    fn a_sweep_before_the_end_is_verified_is_refuted() {
        refuted(SWEEP_PROVEN, spare(1, 1, 0, 0, 1), &[Mistake::SweptUnverified]);
    }

    #[test]
    fn a_lane_that_outlives_its_connection_is_refuted() {
        refuted(EQUAL, spare(2, 1, 0, 0, 0), &[Mistake::OldConnection]);
    }

    #[test]
    fn a_verified_end_that_sweeps_nothing_is_refuted() {
        refuted(EQUAL, spare(1, 1, 0, 0, 0), &[Mistake::NothingSwept]);
    }

    #[test]
    fn a_higher_term_without_authority_is_refuted() {
        refuted(EQUAL, spare(1, 1, 0, 1, 0), &[Mistake::NoAuthority]);
    }

    #[test]
    fn a_stream_whose_digest_is_not_compared_is_refuted() {
        refuted(EQUAL, spare(1, 0, 0, 0, 1), &[Mistake::NoDigest]);
    }

    #[test]
    fn an_empty_node_that_takes_over_before_it_imports_is_refuted() {
        refuted(STANDBY_KEPT, spare(0, 0, 1, 0, 0), &[Mistake::Overwrites]);
    }

    ///
    #[test]
    fn a_restarted_node_that_takes_its_former_term_before_it_imports_is_refuted() {
        refuted(STANDBY_KEPT, spare(0, 0, 1, 0, 0), &[Mistake::FormerTerm]);
    }
}
