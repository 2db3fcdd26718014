//! A standby forwards nothing, and knows the neighbours of what it may have to forward all the same.

use core::time::Duration;
use std::collections::BTreeSet;

use dataplane::notice::Notice;
use state_sync::role::Cause;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN_IF, MAIN, Setup, WAN_IF};

use crate::protection::flow;

/// The first packets after a take-over find their neighbours, though the standby has sent nobody anything.
#[test]
fn a_standby_asks_for_the_neighbors_of_the_flows_it_was_told_of() {
    let mut cluster = Cluster::pair(Setup::default(), 3);
    let key = flow(5_000);
    cluster.out(0, &key).unwrap();
    cluster.settle();
    let asked = |cluster: &mut Cluster, node: usize| -> BTreeSet<_> {
        let notices = cluster.node(node).notices.try_iter();
        let unresolved = notices.filter_map(|notice| match notice {
            Notice::Unresolved { interface, address } => Some((interface, address)),
            _ => None,
        });
        unresolved.collect()
    };
    for node in 0..2 {
        asked(&mut cluster, node);
        cluster
            .node(node)
            .publish(|_, forwarding| forwarding.neighbors.clear());
    }
    cluster.run(Duration::from_secs(2));
    assert_eq!(asked(&mut cluster, 0), BTreeSet::new(), "packets ask for it");
    let wanted = asked(&mut cluster, 1);
    assert!(wanted.contains(&(LAN_IF, key.src)), "{wanted:?}");
    assert!(
        wanted.iter().any(|(interface, _)| *interface == WAN_IF),
        "{wanted:?}"
    );
}

/// A node that comes back has all entries, and nothing of the neighbours: it is not ready, says why, and is as soon as they are
/// known.
#[test]
fn a_node_that_comes_back_is_not_ready_before_its_neighbors_are_known() {
    let mut cluster = Cluster::pair(Setup::default(), 4);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    let known = {
        let mut known = Vec::new();
        cluster
            .node(1)
            .publish(|_, forwarding| known = core::mem::take(&mut forwarding.neighbors));
        known
    };
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.node(1).cause(MAIN), Some(Cause::Neighbors(Some(2))));
    assert!(!cluster.node(1).is_ready());
    cluster
        .node(1)
        .publish(|_, forwarding| forwarding.neighbors = known);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.node(1).cause(MAIN), None);
    assert!(cluster.node(1).is_ready());
}

/// As above, and they never answer.
#[test]
fn neighbors_that_never_answer_are_given_up() {
    let mut cluster = Cluster::pair(Setup::default(), 5);
    cluster.out(0, &flow(5_000)).unwrap();
    cluster.settle();
    cluster.kill(1, Death::Process);
    cluster.start(1);
    cluster
        .node(1)
        .publish(|_, forwarding| forwarding.neighbors.clear());
    cluster.run(Duration::from_secs(2));
    assert!(!cluster.node(1).is_ready());
    cluster.run(Duration::from_secs(3));
    assert!(cluster.node(1).is_ready());
}
