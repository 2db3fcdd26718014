//! Role machines on top of pumps: boot, take-over, return of an empty node, split brain.

use core::time::Duration;

use dataplane::role::Role;

use crate::role::{Cause, Desire};
use crate::testbed::{Cluster, Node, SLOTS, Shape, VRF, config};

const WAIT: Duration = Duration::from_millis(300);

fn pair(one: Desire, two: Desire) -> Cluster {
    let mut cluster = Cluster::new(&[Shape::new(1, 2, 2), Shape::new(2, 1, 1)]);
    cluster.tick = Duration::from_millis(1);
    let now = cluster.now;
    let machines = [one, two];
    cluster.nodes = cluster
        .nodes
        .drain(..)
        .zip(machines)
        .map(|(node, desire)| node.with_machine(desire, WAIT, now))
        .collect();
    cluster
}

fn role(cluster: &Cluster, node: usize) -> Role {
    cluster.nodes[node].roles.get(VRF).0
}

fn roles(cluster: &Cluster) -> (Role, Role) {
    (role(cluster, 0), role(cluster, 1))
}

fn settled(cluster: &Cluster, roles_wanted: (Role, Role), standby: usize) -> bool {
    roles(cluster) == roles_wanted
        && cluster.nodes[standby].verified() == u32::from(SLOTS)
        && cluster.nodes[standby].decision.is_some_and(|d| d.ready)
        && cluster.nodes[0].table() == cluster.nodes[1].table()
}

/// The node's process dies and is started again, empty.
fn reboot(cluster: &mut Cluster, node: usize, desire: Desire) {
    let id = cluster.nodes[node].config.node_id;
    let shape = Shape {
        boot: 2,
        ..Shape::new(id, 2, 2)
    };
    let fresh = Node::new(&cluster.fabric, shape, config(shape, &[3 - id]));
    cluster.nodes[node] = fresh.with_machine(desire, WAIT, cluster.now);
}

#[test]
fn the_preferred_master_becomes_active_and_the_other_ready() {
    let mut cluster = pair(Desire::Preferred, Desire::Backup);
    cluster.until("settled", 2_000, |c| settled(c, (Role::Master, Role::Backup), 1));
    assert_eq!(
        cluster.nodes[1].roles.get(VRF),
        cluster.nodes[1].machine.as_ref().unwrap().current()
    );
    assert_eq!(
        cluster.nodes[0].roles.get(VRF).1,
        cluster.nodes[1].roles.get(VRF).1
    );
}

#[test]
fn an_empty_node_that_returns_imports_and_does_not_sweep() {
    let mut cluster = pair(Desire::Preferred, Desire::Backup);
    cluster.until("settled", 2_000, |c| settled(c, (Role::Master, Role::Backup), 1));
    (0..200).for_each(|n| cluster.nodes[0].put(n));
    cluster.run(20);
    // Back before anybody took over: its standby, with its own old term, is the only one that knows anything.
    reboot(&mut cluster, 0, Desire::Preferred);
    cluster.until("settled", 5_000, |c| settled(c, (Role::Master, Role::Backup), 1));
    assert_eq!(cluster.nodes[0].table().len(), 200);
    assert_eq!(cluster.nodes[1].table().len(), 200);
}

#[test]
fn after_a_take_over_the_old_master_returns_as_backup() {
    let mut cluster = pair(Desire::Preferred, Desire::Backup);
    cluster.until("settled", 2_000, |c| settled(c, (Role::Master, Role::Backup), 1));
    (0..200).for_each(|n| cluster.nodes[0].put(n));
    cluster.run(20);
    let shape = Shape {
        boot: 2,
        ..Shape::new(1, 2, 2)
    };
    drop(cluster.nodes.remove(0));
    cluster.nodes[0].machine.as_mut().unwrap().order(Desire::Ordered);
    cluster.until("taken over", 10, |c| role(c, 0) == Role::Master);
    (200..230).for_each(|n| cluster.nodes[0].put(n));
    let fresh = Node::new(&cluster.fabric, shape, config(shape, &[2]));
    cluster
        .nodes
        .insert(0, fresh.with_machine(Desire::Preferred, WAIT, cluster.now));
    cluster.until("settled", 5_000, |c| settled(c, (Role::Backup, Role::Master), 0));
    assert_eq!(cluster.nodes[0].table().len(), 230);
    assert_eq!(cluster.nodes[0].decision.unwrap().cause, Some(Cause::PeerActive));
}

#[test]
fn a_node_whose_peer_never_answers_stops_waiting() {
    let mut cluster = pair(Desire::Preferred, Desire::Backup);
    cluster.nodes.truncate(1);
    cluster.run(200);
    assert_eq!(role(&cluster, 0), Role::Fault);
    assert_eq!(
        cluster.nodes[0].decision.unwrap().cause,
        Some(Cause::WaitingForPeer)
    );
    cluster.run(200);
    assert_eq!(role(&cluster, 0), Role::Master);
}

#[test]
fn an_ordered_switch_moves_the_role_and_nothing_is_lost() {
    let mut cluster = pair(Desire::Preferred, Desire::Backup);
    cluster.until("settled", 2_000, |c| settled(c, (Role::Master, Role::Backup), 1));
    (0..100).for_each(|n| cluster.nodes[0].put(n));
    cluster.run(20);
    for (node, standby, wanted) in [
        (1, 0, (Role::Backup, Role::Master)),
        (0, 1, (Role::Master, Role::Backup)),
        (1, 0, (Role::Backup, Role::Master)),
    ] {
        cluster.nodes[node]
            .machine
            .as_mut()
            .unwrap()
            .order(Desire::Ordered);
        cluster.until("switched", 2_000, |c| settled(c, wanted, standby));
        cluster.run(500);
        assert_eq!(roles(&cluster), wanted, "and stays");
        assert_eq!(cluster.nodes[0].table().len(), 100);
    }
}

#[test]
fn a_split_brain_heals_to_the_higher_term() {
    let mut cluster = pair(Desire::Preferred, Desire::Backup);
    cluster.until("settled", 2_000, |c| settled(c, (Role::Master, Role::Backup), 1));
    (0..50).for_each(|n| cluster.nodes[0].put(n));
    cluster.run(20);
    cluster.fabric.borrow_mut().down = true;
    cluster.fabric.borrow_mut().cut();
    cluster.nodes[1].machine.as_mut().unwrap().order(Desire::Ordered);
    cluster.run(100);
    assert_eq!(roles(&cluster), (Role::Master, Role::Master));
    cluster.nodes[0].put(1_000);
    cluster.nodes[1].put(2_000);
    cluster.fabric.borrow_mut().down = false;
    cluster.until("healed", 10_000, |c| settled(c, (Role::Backup, Role::Master), 0));
    assert!(cluster.nodes[0].table().contains_key(&2_000));
    assert!(!cluster.nodes[0].table().contains_key(&1_000));
}
