//! Whose word counts when terms have outlived their node: what is held somewhere reaches everybody, also when nobody is
//! active. sync/PROTOCOL.md.

use core::time::Duration;

use dataplane::role::Role;
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup};

use crate::replication::{conntracks, open_flows, remove};

const MS: Duration = Duration::from_millis(1);

/// A pair that stands by on both sides, after the first node's reign, with so many flows.
fn both_backup(seed: u64, flows: u16) -> Cluster {
    let mut cluster = Cluster::pair(Setup::default(), seed);
    open_flows(&mut cluster, 0, flows, 10_000);
    cluster.settle();
    cluster.desires = [Desire::Backup; 2];
    cluster.order(0, Desire::Backup);
    cluster.settle();
    assert_eq!(cluster.active(), None);
    cluster
}

/// The owner of the highest term is back, empty, and doesn't meet its peer before it has stopped waiting for it.
#[test]
fn a_rebooted_owner_imports_from_a_backup_that_kept_its_term() {
    let mut cluster = both_backup(71, 100);
    let before = cluster.node(1).role(MAIN).1;
    cluster.kill(0, Death::Process);
    cluster.fabric.cut(true);
    cluster.start(0);
    cluster.run(5_000 * MS);
    assert_eq!(
        cluster.node(0).role(MAIN).0,
        Role::Backup,
        "it has stopped waiting"
    );
    cluster.fabric.cut(false);
    cluster.settle();
    assert_eq!(conntracks(&mut cluster, 0), 100);
    assert_eq!(conntracks(&mut cluster, 1), 100, "and the peer keeps them");
    for node in 0..2 {
        assert_eq!(cluster.node(node).role(MAIN), (Role::Backup, before));
    }
}

/// whoever has imported everything takes over the term, and says so; the next reign is above it.
#[test]
fn a_term_that_has_risen_by_import_is_announced() {
    let mut cluster = both_backup(72, 50);
    cluster.kill(0, Death::Process);
    cluster.start(0);
    cluster.settle();
    let (_, term) = cluster.node(0).role(MAIN);
    let slots = cluster.node(1).setup.slots;
    let said = cluster.node(1).board.view(0, MAIN, slots).vrf.unwrap();
    assert_eq!((said.role, said.term), (Role::Backup, term));
    assert_eq!(term, cluster.node(1).role(MAIN).1);
    cluster.order(0, Desire::Ordered);
    cluster.settle();
    assert!(cluster.node(0).role(MAIN).1.reign() > term.reign());
}

/// A node takes over and stands by again while its workers don't run. What they send then is of the new term: the peer has
/// changed the same slots under the old one, behind a cut, with higher counters.
#[test]
fn a_reign_that_no_worker_has_seen_overrules_what_a_lower_term_wrote() {
    let mut cluster = Cluster::pair(Setup::default(), 73);
    let told = open_flows(&mut cluster, 0, 40, 10_000);
    cluster.settle();
    cluster.fabric.cut(true);
    open_flows(&mut cluster, 0, 40, 20_000);
    remove(&mut cluster, 0, &told);
    cluster.run(1_500 * MS);
    let now = cluster.now;
    let node = cluster.node(1);
    let before = node.role(MAIN).1;
    for desire in [Desire::Ordered, Desire::Backup] {
        node.order(desire);
        node.step_roles(now);
    }
    let (role, term) = node.role(MAIN);
    assert!(role == Role::Backup && term > before, "{role:?} {term:?}");
    cluster.order(0, Desire::Backup);
    cluster.fabric.cut(false);
    cluster.settle();
    for node in 0..2 {
        assert_eq!(cluster.node(node).role(MAIN), (Role::Backup, term));
        let held = view(cluster.node(node)).conntracks;
        assert_eq!(
            held.len(),
            told.len(),
            "node {node} holds what the higher term knew"
        );
    }
}

/// A node of a third reign dies while its peer, which is in fault and announces no term, has some of a slot; it comes back
/// empty, and begins to count anew. sync/PROTOCOL.md R-31.
#[test]
fn a_term_that_only_half_a_slot_is_of_is_heard_of() {
    let setup = Setup {
        slots: 1,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 74);
    for node in [1, 0] {
        cluster.order(node, Desire::Ordered);
        cluster.settle();
    }
    open_flows(&mut cluster, 0, 1_000, 10_000);
    cluster.settle();
    let (role, former) = cluster.node(0).role(MAIN);
    assert_eq!((role, former.reign()), (Role::Master, 3));
    cluster.kill(1, Death::Process);
    cluster.start(1);
    while conntracks(&mut cluster, 1) < 100 {
        cluster.turn(MS / 20);
    }
    assert_eq!(
        cluster.node(1).counters().slots_verified,
        0,
        "half of it has come"
    );
    cluster.kill(0, Death::Process);
    cluster.start(0);
    cluster.settle();
    let (role, term) = cluster.node(0).role(MAIN);
    assert!(role == Role::Master && term > former, "{role:?} {term:?}");
    assert!(cluster.node(1).counters().slots_fenced > 0);
}
