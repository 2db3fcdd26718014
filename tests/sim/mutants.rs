//! Shows that the simulator finds what it is for: each classic mistake is made again, and seeds are played until one of
//! them fails. `scripts/sim --mutants` lists how many that takes.

use dataplane::mutant::{self, Mutant};

use crate::campaign::{Asked, each, keep_panics, violation};
use crate::schedule::Schedule;

/// A mistake, and the first seed that noticed it with what it saw.
type Found = (Mutant, Option<(u64, String)>);

/// Makes each of the mistakes and plays at most so many seeds as are asked for.
pub(crate) fn hunt(mutants: &[Mutant], asked: &Asked) -> Vec<Found> {
    keep_panics();
    let found = each(mutants, asked, |&mutant| {
        mutant::set(Some(mutant));
        let found = asked
            .seeds()
            .find_map(|seed| Some((seed, violation(&Schedule::of(seed))?)));
        mutant::set(None);
        // A seed that fails by itself has noticed nothing.
        let found = found.filter(|(seed, _)| violation(&Schedule::of(*seed)).is_none());
        match &found {
            Some((seed, what)) => println!(
                "mutant {mutant:?} caught by seed {seed}: {}",
                what.replace('\n', " ")
            ),
            None => println!("mutant {mutant:?} survives"),
        }
        (mutant, found)
    });
    let _ = std::panic::take_hook();
    found
}
