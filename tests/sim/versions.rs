//! Pairs of different versions: in some of the seeds one node speaks as a later version would, or each as another one, and a node
//! that boots may be of another version than before, as in an upgrade of one node at a time. Everything else holds as in other
//! seeds.

use testkit::cluster::Cluster;
use testkit::node::Node;
use testkit::random::Random;

/// One schedule in so many has them.
const MIXED: u64 = 4;

/// Records of types that the node doesn't know.
const UNKNOWN: &str = "record-unknown-type";

/// What is counted for bytes that are not as they should be.
const FAULTY: [&str; 9] = [
    "wrong-magic",
    "hello-malformed",
    "version-rejected",
    "frame-oversized",
    "frame-check",
    "frame-sequence",
    "frame-records",
    "record-malformed",
    "ack-beyond-sent",
];

/// Makes the pair one of different versions, where the schedule is such a one.
pub(crate) fn mix(cluster: &Cluster, seed: u64, mut random: Random) {
    if random.one_in(MIXED) {
        cluster.fabric.mix_versions(seed);
    }
}

/// Both nodes live and have heard one another: neither has found fault with a byte, and each has skipped and counted what it
/// doesn't know if the other one is of a later version, and none if its process has heard no such one.
///
/// # Panics
/// When a count says otherwise.
pub(crate) fn assert_understood(cluster: &Cluster) {
    for node in cluster.nodes.iter().flatten() {
        let faults = counted(node, &FAULTY);
        assert_eq!(faults, 0, "node {} was sent nothing faulty", node.id);
    }
    for (node, heard) in cluster.nodes.iter().enumerate() {
        let unknown = heard.as_ref().map_or(0, |node| counted(node, &[UNKNOWN]));
        let fabric = &cluster.fabric;
        assert!(
            unknown > 0 || !fabric.is_later(1 - node),
            "node {node} was told nothing that version 1 doesn't know"
        );
        assert!(
            unknown == 0 || fabric.was_beside_later(node),
            "node {node} doesn't know {unknown} records of version 1"
        );
    }
}

fn counted(node: &Node, names: &[&str]) -> u64 {
    let causes = node.reports().into_iter().flat_map(|report| report.causes);
    let named = causes.filter(|(name, _)| names.contains(&name.as_str()));
    named.map(|(_, times)| times).sum()
}
