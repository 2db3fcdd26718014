//! “These counters moved, and nothing else did”: the form of every test about something refused.

use std::collections::BTreeMap;

use dataplane::counters::Counters;

use crate::node::Node;

/// Counters that say only that packets came and went.
const TRAFFIC: [&str; 4] = ["rx_bytes", "tx_bytes", "handoff_in", "handoff_out"];

/// All counters of a node by name; drops have the prefix `drop:`.
#[must_use]
pub fn counters(node: &Node) -> BTreeMap<String, u64> {
    named(&node.counters())
}

/// Those of one reading, under the same names.
#[must_use]
pub fn named(counters: &Counters) -> BTreeMap<String, u64> {
    let plain = counters.named().filter(|(name, _)| !TRAFFIC.contains(name));
    let plain = plain.map(|(name, value)| (name.to_owned(), value));
    plain
        .chain(
            counters
                .drops()
                .map(|(reason, value)| (format!("drop:{}", reason.name()), value)),
        )
        .collect()
}

/// What moved between two readings, by how much.
#[must_use]
pub fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let by = |(name, value): (&String, &u64)| {
        let grown = value - before.get(name).copied().unwrap_or(0);
        (grown > 0).then(|| (name.clone(), grown))
    };
    after.iter().filter_map(by).collect()
}

/// Asserts that exactly `expected` moved between two readings.
///
/// # Panics
/// When something else did, or by another amount.
pub fn only_moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    assert_eq!(moved(before, after), expected);
}
