//! A standby forwards nothing, and knows the neighbours of what it may have to forward all the same.

use core::time::Duration;
use std::collections::BTreeSet;

use dataplane::notice::Notice;
use testkit::cluster::Cluster;
use testkit::config::{LAN_IF, Setup, WAN_IF};

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
