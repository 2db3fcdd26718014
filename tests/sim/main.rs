//! The cluster simulator: a seed is a whole schedule of traffic, failovers, cuts and stalls, played on production code
//! with a virtual clock. Invariants are asserted after every step and at quiescence (DESIGN.md section 10).
//!
//! `cargo test` plays a few fixed seeds; `scripts/sim` plays as many as it is asked for, and shortens one that fails.

#[cfg(test)]
mod campaign;
#[cfg(test)]
mod directed;
#[cfg(all(test, feature = "mutants"))]
mod mutants;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod shape;
#[cfg(test)]
mod versions;

#[cfg(test)]
mod tests {
    use crate::campaign::{Asked, campaign, show};
    use crate::schedule::Schedule;

    /// Seeds that are always played: few enough for every test run.
    const FIXED: u64 = 17;

    #[test]
    fn fixed_seeds_keep_every_invariant() {
        for seed in 1..=FIXED {
            Schedule::of(seed).play(false);
        }
    }

    /// Plays `TWINPATH_SIM_SEEDS` seeds from `TWINPATH_SIM_FIRST` on and names those that fail.
    #[test]
    #[ignore = "as many seeds as scripts/sim asks for"]
    fn seeds() {
        let failed = campaign(&Asked::from_environment());
        assert!(failed.is_empty(), "failing seeds: {failed:?}");
    }

    /// Makes each classic mistake and plays `TWINPATH_SIM_SEEDS` seeds at most until one fails.
    #[cfg(feature = "mutants")]
    #[test]
    #[ignore = "built apart, by scripts/sim --mutants"]
    fn mutants() {
        let found = crate::mutants::hunt(&dataplane::mutant::Mutant::ALL, &Asked::from_environment());
        let survivors: Vec<_> = found
            .iter()
            .filter(|(_, by)| by.is_none())
            .map(|(m, _)| m)
            .collect();
        assert!(survivors.is_empty(), "nobody noticed {survivors:?}");
    }

    /// Plays seed `TWINPATH_SIM_FIRST`, tells what happens in it, and finds out which of its events it needs to fail.
    #[test]
    #[ignore = "one seed, asked for by scripts/sim --seed"]
    fn seed() {
        show(Asked::from_environment().first);
    }
}
