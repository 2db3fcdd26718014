//! Comparison of two nodes' configuration fingerprints: exchanged when a VRF is opened on a connection, compared by
//! name. The sections themselves are [`dataplane::fingerprint`]'s.

pub use dataplane::fingerprint::{Section, Strength};
use serde::{Deserialize, Serialize};

/// A section on which two nodes disagree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Difference {
    /// Its name.
    pub section: String,
    /// What that means: the stronger of the two nodes' opinions.
    pub strength: Strength,
}

/// Sections that differ, or that only one node has.
#[must_use]
pub fn differences(ours: &[Section], theirs: &[Section]) -> Vec<Difference> {
    let strongest = |name: &str| {
        let must = ours
            .iter()
            .chain(theirs)
            .any(|s| s.name == name && s.strength == Strength::MustEqual);
        if must { Strength::MustEqual } else { Strength::Warn }
    };
    let hash = |side: &[Section], name: &str| side.iter().find(|s| s.name == name).map(|s| s.hash);
    let only_theirs = theirs.iter().filter(|s| hash(ours, &s.name).is_none());
    ours.iter()
        .chain(only_theirs)
        .filter(|s| hash(ours, &s.name) != hash(theirs, &s.name))
        .map(|s| Difference {
            section: s.name.clone(),
            strength: strongest(&s.name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, strength: Strength, hash: u64) -> Section {
        Section {
            name: name.to_owned(),
            strength,
            hash,
        }
    }

    #[test]
    fn differences_are_named_and_the_stronger_opinion_wins() {
        let ours = [
            section("a", Strength::Warn, 1),
            section("b", Strength::MustEqual, 2),
        ];
        let theirs = [
            section("b", Strength::MustEqual, 2),
            section("a", Strength::MustEqual, 9),
        ];
        let must = |s: &str| Difference {
            section: s.to_owned(),
            strength: Strength::MustEqual,
        };
        assert_eq!(differences(&ours, &theirs), [must("a")]);
        assert_eq!(differences(&ours, &ours), []);
        assert_eq!(differences(&ours[..1], &theirs), [must("a"), must("b")]);
    }
}
