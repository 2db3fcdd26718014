//! A switchover is make before break (sync/PROTOCOL.md R-46): at every moment one node at least is active, the peer has
//! everything before it takes over, and whatever goes wrong at any step leaves the role where it was.

use core::time::Duration;

use dataplane::config::SyncPolicy;
use dataplane::delta::Class;
use dataplane::flow::{FlowKey, VrfId};
use dataplane::time::Instant;
use dataplane::verdict::Drop;
use dataplane::wire::tcp::{ACK, FIN, SYN};
use state_sync::handover::{DRAIN_MAX, REDIRECT_MAX, TAKE_OVER_MAX};
use state_sync::role::{Cause, Desire, SwitchoverEnd, SwitchoverError, SwitchoverPhase};
use testkit::cluster::{Cluster, Death, Sent};
use testkit::config::{LAN, MAIN, Setup, WAN, server, subscriber};
use testkit::expect::{counters, moved};
use testkit::packet::{self, segment, to_node};

use crate::protection::{flow, knows, pair, udp_rule};
use crate::redirect::{enter, enter_one};

const MS: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_micros(200);

/// A pair whose UDP flows are told when they are a minute old, and 300 younger ones.
fn young_flows() -> Cluster {
    let mut cluster = pair(SyncPolicy::After(60));
    for port in 5_000..5_300 {
        cluster.out(0, &flow(port)).unwrap();
    }
    cluster.settle();
    cluster
}

fn switch_over(cluster: &mut Cluster, from: usize) -> Result<(), SwitchoverError> {
    let now = cluster.now;
    cluster.node(from).switch_over(now)
}

/// Runs until the switchover from `from` is over; somebody is active all the time.
fn until_over(cluster: &mut Cluster, from: usize, most: Duration) -> SwitchoverEnd {
    let end = cluster.now + most;
    loop {
        cluster.turn(STEP);
        let active =
            |cluster: &Cluster, n: usize| cluster.nodes[n].as_ref().is_some_and(|n| n.is_active(MAIN));
        assert!(active(cluster, 0) || active(cluster, 1), "nobody is active");
        if let Some(end) = cluster.node(from).take_switchover_end(MAIN) {
            return end;
        }
        assert!(cluster.now < end, "still under way");
    }
}

/// Runs until the peer is to take over.
fn until_handing_over(cluster: &mut Cluster) {
    let end = cluster.now + DRAIN_MAX / 4;
    while cluster.node(0).switchover(MAIN) != Some(SwitchoverPhase::HandingOver) {
        cluster.turn(STEP);
        assert!(cluster.now < end);
    }
}

/// After a switchover that came to nothing: node 0 is active, nothing is under way, and policy holds as before.
fn assert_as_before(cluster: &mut Cluster) {
    assert!(cluster.node(0).is_active(MAIN));
    assert_eq!(cluster.node(0).switchover(MAIN), None);
    cluster.settle();
    assert_eq!(cluster.active(), Some(0));
    cluster.out(0, &flow(6_000)).unwrap();
    cluster.settle();
    assert!(!knows(cluster, 1, &flow(6_000)), "young flows wait again");
}

#[test]
fn the_role_goes_there_and_back_with_everything_and_is_never_nobodys() {
    let mut cluster = young_flows();
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        switch_over(&mut cluster, from).unwrap();
        assert_eq!(until_over(&mut cluster, from, DRAIN_MAX), SwitchoverEnd::Done);
        for port in 5_000..5_300 {
            assert!(knows(&mut cluster, to, &flow(port)), "{port}");
        }
        cluster.settle();
        assert_eq!(cluster.active(), Some(to));
        assert_eq!(cluster.node(from).counters().conntracks_untold, 0);
    }
}

/// the invitation is the peer's to take; until then the node that invites forwards.
#[test]
fn packets_go_through_the_old_node_until_the_new_one_is_active() {
    let mut cluster = young_flows();
    switch_over(&mut cluster, 0).unwrap();
    until_handing_over(&mut cluster);
    while !cluster.node(1).is_active(MAIN) {
        assert!(cluster.out(0, &flow(5_000)).is_some());
        cluster.turn(STEP);
    }
    assert!(enter_one(&mut cluster, 1, LAN, &flow(5_000)).is_some());
}

/// Neighbours learn of the new node a little later than it is active. What they send to the old one meanwhile goes on by the new
/// one, which alone changes anything: also the first packet of a flow, and the last ones of a connection.
#[test]
fn what_still_comes_to_the_old_node_goes_on_by_the_new_one_for_a_while() {
    let mut cluster = young_flows();
    let outside = cluster.out(0, &flow(5_000)).unwrap();
    let closing = packet::tcp(subscriber(2), 40_000, server(1), 80);
    let (_, answers) = enter_one(&mut cluster, 0, LAN, &closing).unwrap();
    let answers = answers.reversed();
    let server_sends =
        |flags, seq| to_node(1, WAN, &answers.src).tcp(&answers, &segment(flags, seq, 1_001, &[]));
    let client_sends = |flags| to_node(1, LAN, &closing.src).tcp(&closing, &segment(flags, 1_001, 901, &[]));
    assert_eq!(
        enter(&mut cluster, 0, WAN, &[server_sends(SYN | ACK, 900)]).len(),
        1
    );
    assert_eq!(enter(&mut cluster, 0, LAN, &[client_sends(ACK)]).len(), 1);
    switch_over(&mut cluster, 0).unwrap();
    assert_eq!(until_over(&mut cluster, 0, DRAIN_MAX), SwitchoverEnd::Done);
    let handed_over = cluster.now;
    let begin = counters(cluster.node(0));
    let packets = packets_seen(&mut cluster, 0, &flow(5_000));
    for node in [0, 1, 0] {
        assert_eq!(
            enter_one(&mut cluster, node, LAN, &flow(5_000)),
            Some((1, outside))
        );
        let inside = flow(5_000).reversed();
        let answer = enter_one(&mut cluster, node, WAN, &outside.reversed());
        assert_eq!(answer, Some((1, inside)), "node {node}");
    }
    assert_eq!(packets_seen(&mut cluster, 0, &flow(5_000)), packets);
    let (node, _) = enter_one(&mut cluster, 0, LAN, &flow(6_000)).unwrap();
    assert_eq!(node, 1, "a new flow is the new node's, and loses nothing");
    // An heir believes each end when the other one has corroborated it.
    for flags in [ACK, ACK, FIN | ACK] {
        assert_eq!(enter(&mut cluster, 0, LAN, &[client_sends(flags)]).len(), 1);
        assert_eq!(enter(&mut cluster, 0, WAN, &[server_sends(flags, 901)]).len(), 1);
    }
    let class = |cluster: &mut Cluster| {
        let found = cluster.node(1).tables().find_map(|tables| {
            let hash = tables.conntracks.hash(&closing);
            let (id, _) = tables.conntracks.find(hash, &closing)?;
            Some(tables.conntracks[id].class)
        });
        found.unwrap()
    };
    assert_eq!(class(&mut cluster), Class::Closing);
    cluster.settle();
    let counted = moved(&begin, &counters(cluster.node(0)));
    assert_eq!(counted.get("drop:redirected"), Some(&11));
    for other in ["drop:standby-matched", "conntracks_created", "deltas_produced"] {
        assert_eq!(counted.get(other), None, "{other}");
    }

    let left = (handed_over + REDIRECT_MAX).since(cluster.now);
    cluster.run(left + MS);
    assert_eq!(enter_one(&mut cluster, 0, LAN, &flow(5_000)), None);
    let counted = moved(&begin, &counters(cluster.node(0)));
    assert_eq!(counted.get("drop:redirected"), Some(&11));
    assert_eq!(counted.get("drop:standby-matched"), Some(&1));
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
}

/// Half of a flow's packets go to the old node and half of its flows are new, all the time that a switchover takes: each
/// packet leaves once, and of those that take the same way none overtakes another.
#[test]
fn a_switchover_under_traffic_loses_no_packet_and_opens_every_flow() {
    let mut cluster = young_flows();
    for (from, old_first) in [(0, true), (1, false)] {
        cluster.after_step();
        cluster.sent.clear();
        switch_over(&mut cluster, from).unwrap();
        let (mut sent, mut over) = (0_u16, None);
        while over.is_none_or(|at: Instant| cluster.now.since(at) < 20 * MS) {
            assert!(sent < 2_000, "still under way");
            // The traffic is where the role is, or still where it was.
            let active = if cluster.node(1 - from).is_active(MAIN) {
                1 - from
            } else {
                from
            };
            let node = if over.is_some() && sent % 2 == 0 {
                from
            } else {
                active
            };
            let key = if sent % 4 == 0 {
                flow(10_000 + sent)
            } else {
                flow(5_000 + sent % 300)
            };
            let key = FlowKey {
                dst_port: if old_first { 53 } else { 54 },
                ..key
            };
            let link = to_node([1, 2][node], LAN, &key.src);
            assert!(
                cluster
                    .node(node)
                    .inject(0, LAN, &link.udp(&key, &sent.to_be_bytes()))
            );
            sent += 1;
            cluster.turn(STEP);
            if cluster.node(from).take_switchover_end(MAIN).is_some() {
                over = Some(cluster.now);
            }
        }
        cluster.run(5 * MS);
        let users = |s: &&Sent| s.port == WAN && packet::flow(&s.frame).is_some();
        let number = |s: &Sent| u16::from_be_bytes([s.frame[s.frame.len() - 2], s.frame[s.frame.len() - 1]]);
        let mut numbers: Vec<_> = cluster.sent.iter().filter(users).map(number).collect();
        let begin = counters(cluster.node(from));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..sent).collect::<Vec<_>>(), "{begin:?}");
        assert!(begin["drop:redirected"] > 10);
        cluster.settle();
    }
}

/// A role that was taken, not handed over, is not this node's for a moment longer: nobody has confirmed to have everything.
#[test]
fn a_node_that_is_outranked_forwards_nothing_late() {
    let mut cluster = young_flows();
    cluster.order(1, Desire::Ordered);
    let end = cluster.now + DRAIN_MAX;
    while cluster.node(0).is_active(MAIN) {
        cluster.turn(STEP);
        assert!(cluster.now < end);
    }
    assert_eq!(enter_one(&mut cluster, 0, LAN, &flow(5_000)), None);
    assert_eq!(cluster.node(0).counters().dropped(Drop::Redirected), 0);
}

/// Packets that a node's conntrack of a flow has seen, there and back.
fn packets_seen(cluster: &mut Cluster, node: usize, key: &FlowKey) -> [u64; 2] {
    let found = cluster.node(node).tables().find_map(|tables| {
        let hash = tables.conntracks.hash(key);
        let (id, _) = tables.conntracks.find(hash, key)?;
        tables.conntracks[id].counted()
    });
    found.unwrap().packets
}

#[test]
fn a_peer_that_applies_nothing_is_waited_for_so_long_and_the_role_stays() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    switch_over(&mut cluster, 0).unwrap();
    cluster.turn(STEP);
    cluster.turn(STEP);
    assert_eq!(cluster.node(0).cause(MAIN), Some(Cause::Draining));
    let begin = cluster.now;
    assert_eq!(
        until_over(&mut cluster, 0, DRAIN_MAX + 50 * MS),
        SwitchoverEnd::NotConfirmed
    );
    assert!(cluster.now.since(begin) >= DRAIN_MAX - 50 * MS);
    cluster.node(1).stop_absorb(false);
    assert_as_before(&mut cluster);
}

#[test]
fn a_peer_that_dies_while_it_is_told_leaves_the_role_here() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    switch_over(&mut cluster, 0).unwrap();
    cluster.run(100 * MS);
    cluster.kill(1, Death::Process);
    assert_eq!(
        until_over(&mut cluster, 0, DRAIN_MAX / 4),
        SwitchoverEnd::PeerGone
    );
    assert!(cluster.node(0).is_active(MAIN));
    cluster.start(1);
    assert_as_before(&mut cluster);
}

/// The link goes down with the invitation on it: nobody else has heard it.
#[test]
fn a_peer_that_cannot_be_reached_when_it_is_invited_leaves_the_role_here() {
    let mut cluster = young_flows();
    switch_over(&mut cluster, 0).unwrap();
    until_handing_over(&mut cluster);
    cluster.fabric.cut(true);
    assert_eq!(
        until_over(&mut cluster, 0, TAKE_OVER_MAX + 50 * MS),
        SwitchoverEnd::PeerGone
    );
    assert!(!cluster.node(1).is_active(MAIN));
    cluster.fabric.cut(false);
    assert_as_before(&mut cluster);
}

#[test]
fn a_node_that_dies_when_it_has_invited_its_peer_is_replaced_by_it() {
    let mut cluster = young_flows();
    switch_over(&mut cluster, 0).unwrap();
    until_handing_over(&mut cluster);
    cluster.run(2 * MS);
    cluster.kill(0, Death::Power);
    cluster.run(2 * MS);
    assert!(cluster.node(1).is_active(MAIN));
    assert!(knows(&mut cluster, 1, &flow(5_299)));
}

#[test]
fn an_order_to_stay_ends_it() {
    let mut cluster = young_flows();
    cluster.node(1).stop_absorb(true);
    switch_over(&mut cluster, 0).unwrap();
    assert_eq!(switch_over(&mut cluster, 0), Err(SwitchoverError::UnderWay));
    cluster.run(100 * MS);
    cluster.order(0, Desire::Ordered);
    assert_eq!(until_over(&mut cluster, 0, MS), SwitchoverEnd::Cancelled);
    cluster.node(1).stop_absorb(false);
    assert_as_before(&mut cluster);
}

#[test]
fn it_does_not_begin_where_it_could_not_end() {
    let mut cluster = young_flows();
    assert_eq!(switch_over(&mut cluster, 1), Err(SwitchoverError::NotActive));
    cluster.kill(1, Death::Process);
    cluster.run(20 * MS);
    assert_eq!(switch_over(&mut cluster, 0), Err(SwitchoverError::PeerGone));
    cluster.start(1);
    cluster.node(1).stop_absorb(true);
    cluster.run(100 * MS);
    assert!(matches!(
        switch_over(&mut cluster, 0),
        Err(SwitchoverError::SlotsMissing { .. })
    ));
    cluster.node(1).stop_absorb(false);
    cluster.settle();
    assert_eq!(switch_over(&mut cluster, 0), Ok(()));
}

/// A group's VRFs: none is handed over before all are confirmed, and then all go.
#[test]
fn the_vrfs_of_a_group_go_together() {
    let setup = Setup {
        second_vrf: true,
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 11);
    let vrfs = [VrfId(0), VrfId(1)];
    switch_over(&mut cluster, 0).unwrap();
    let end = cluster.now + DRAIN_MAX;
    while !vrfs.iter().all(|&vrf| cluster.node(1).is_active(vrf)) {
        let phases = vrfs.map(|vrf| cluster.node(0).switchover(vrf));
        let handing = phases.contains(&Some(SwitchoverPhase::HandingOver));
        let draining = phases.contains(&Some(SwitchoverPhase::Draining));
        assert!(!(handing && draining), "{phases:?}");
        cluster.turn(STEP);
        assert!(cluster.now < end);
    }
    cluster.settle();
    assert_eq!(cluster.active(), Some(1));
}

/// The election moves when the peer has everything; what policy kept back is not lost with it.
#[test]
fn where_an_election_decides_the_peer_is_told_before_it_is_moved() {
    let setup = Setup {
        elected: true,
        rules: udp_rule(SyncPolicy::After(60)),
        ..Setup::default()
    };
    let mut cluster = Cluster::pair(setup, 7);
    for port in 5_000..5_100 {
        cluster.out(0, &flow(port)).unwrap();
    }
    cluster.settle();
    switch_over(&mut cluster, 0).unwrap();
    assert_eq!(cluster.out(1, &flow(5_000)), None, "not invited yet");
    until_handing_over(&mut cluster);
    cluster.run(100 * MS);
    assert!(cluster.node(0).is_active(MAIN) && !cluster.node(1).is_active(MAIN));
    // The election has announced the peer before it says so.
    for node in [1, 0] {
        let left = enter_one(&mut cluster, node, LAN, &flow(5_000)).map(|(by, _)| by);
        assert_eq!(left, Some(0), "through node {node}");
    }
    let first = enter_one(&mut cluster, 1, LAN, &flow(6_000)).map(|(by, _)| by);
    assert_eq!(first, Some(0), "a new flow, too");
    assert_eq!(cluster.node(1).counters().dropped(Drop::Redirected), 2);
    cluster.order(1, Desire::Ordered);
    assert_eq!(until_over(&mut cluster, 0, DRAIN_MAX), SwitchoverEnd::Done);
    assert_eq!(cluster.node(0).counters().conntracks_untold, 0);
    cluster.kill(0, Death::Power);
    assert!((5_000..5_100).all(|port| knows(&mut cluster, 1, &flow(port))));
}
