//! What replication leaves unsaid (DESIGN.md section 7): changes that a later one of the same entry overtakes, entries that
//! have come and gone, and refreshes that nobody needs yet.

use core::time::Duration;

use dataplane::config::Timeouts;
use dataplane::conntrack::{Conntrack, State, Tuples};
use dataplane::delta::{Class, Scales};
use dataplane::flow::{Direction, FlowKey};
use dataplane::wire::build::Segment;
use dataplane::wire::tcp::{ACK, FIN, RST, SYN};
use testkit::checker::{tuple, view};
use testkit::cluster::Cluster;
use testkit::config::{LAN, MAIN, Setup, WAN, server, subscriber};
use testkit::packet::{self, segment, syn, to_node};

use crate::ageing::short_lived;
use crate::replication::open_flows;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// How often a node has sent records of a type, both address families together.
pub(crate) fn sent(cluster: &mut Cluster, node: usize, what: &str) -> u64 {
    let reports = cluster.node(node).reports();
    let operations = reports.iter().flat_map(|r| &r.operations);
    let wanted = operations.filter(|o| o.name == format!("send {what}"));
    wanted.map(|o| o.calls).sum()
}

/// The places of a node's conntracks: worker and number.
fn places(cluster: &mut Cluster, node: usize) -> Vec<(usize, u32)> {
    let tables = cluster.node(node).tables().enumerate();
    tables
        .flat_map(|(worker, t)| t.conntracks.iter_live().map(move |(id, _)| (worker, id)))
        .collect()
}

/// Rule 7.
#[test]
fn many_changes_of_few_entries_are_one_record_each_per_drain() {
    let mut cluster = Cluster::pair(Setup::default(), 161);
    open_flows(&mut cluster, 0, 100, 10_000);
    cluster.settle();
    let places = places(&mut cluster, 0);
    for round in 1..=20 {
        let before = cluster.node(0).counters();
        for n in 0..5_000 {
            let (worker, id) = places[n * 7 % places.len()];
            cluster.node(0).tables_mut(worker).touch(id, false);
        }
        cluster.turn(MS);
        let after = cluster.node(0).counters();
        let emitted = after.deltas_emitted - before.deltas_emitted;
        assert_eq!(emitted, places.len() as u64, "round {round}");
        assert_eq!(after.deltas_coalesced - before.deltas_coalesced, 5_000 - emitted);
    }
    cluster.settle();
}

/// Rule 7.
#[test]
fn a_flow_that_ends_within_its_turn_is_never_spoken_of() {
    let mut cluster = Cluster::pair(Setup::default(), 162);
    open_flows(&mut cluster, 0, 40, 10_000);
    cluster.settle();
    let before = (
        cluster.node(0).counters(),
        sent(&mut cluster, 0, "PUT"),
        sent(&mut cluster, 0, "DEL"),
    );
    let own = |cluster: &mut Cluster| -> Vec<u16> {
        let tables = cluster.node(0).tables_mut(0);
        tables.slots.of_vrf(MAIN).map(|(slot, _)| slot).collect()
    };
    let slots = own(&mut cluster);
    for round in 0..20 {
        let now = cluster.now;
        let node = cluster.node(0);
        let now = node.time(now);
        for port in 0..500 {
            let key = packet::udp(subscriber(200), 1_000 + port, server(1), 53);
            let state = State::inherited(key.proto, Class::Opening, Scales::NONE);
            let keys = [key, key.reversed()];
            let short = Conntrack::new(
                Tuples::new(&keys).unwrap(),
                slots[round % slots.len()],
                state,
                &Timeouts::default(),
                now,
            );
            let id = node.tables_mut(0).create(&short).unwrap();
            node.tables_mut(0).touch(id, false);
            node.tables_mut(0).remove(now, id);
        }
        cluster.turn(MS);
    }
    cluster.settle();
    let after = cluster.node(0).counters();
    assert_eq!(after.deltas_cancelled - before.0.deltas_cancelled, 20 * 500);
    assert_eq!(after.deltas_emitted, before.0.deltas_emitted);
    assert_eq!(
        (sent(&mut cluster, 0, "PUT"), sent(&mut cluster, 0, "DEL")),
        (before.1, before.2)
    );
}

/// Rule 13: whatever the traffic, a flow is refreshed at most once in a third of its lifetime, and the standby never
/// comes near its end.
#[test]
fn busy_flows_are_refreshed_once_in_a_third_of_their_lifetime() {
    const THIRD_S: u32 = 10;
    const THIRDS: u32 = 9;
    let mut cluster = Cluster::pair(short_lived(), 163);
    let flows = open_flows(&mut cluster, 0, 60, 10_000);
    cluster.settle();
    let before = sent(&mut cluster, 0, "REFRESH");
    for _ in 0..2 * THIRD_S * THIRDS {
        cluster.idle(S / 2);
        for (inside, outside) in &flows {
            assert!(cluster.out(0, inside).is_some());
            assert!(cluster.back(0, outside).is_some());
        }
    }
    cluster.settle();
    let refreshes = sent(&mut cluster, 0, "REFRESH") - before;
    let most = flows.len() as u64 * u64::from(THIRDS);
    assert!(refreshes <= most, "{refreshes} refreshes, {most} at most");
    assert!(refreshes >= most / 2, "{refreshes} refreshes keep nobody alive");
    let now = cluster.now;
    let node = cluster.node(1);
    let now = node.time(now);
    for (_, conntrack) in node.tables().flat_map(|t| t.conntracks.iter_live()) {
        let left_s = conntrack.lifetime_s(now);
        assert!(
            left_s >= THIRD_S,
            "{:?} has {left_s} s left",
            conntrack.key(Direction::Original)
        );
    }
}

/// Rule 13: a change of class waits for nothing.
#[test]
fn syn_fin_and_rst_are_told_at_once() {
    for last in [FIN, RST] {
        let mut cluster = Cluster::pair(Setup::default(), 164);
        let key = packet::tcp(subscriber(1), 40_000, server(1), 443);
        let open = to_node(1, LAN, &key.src).tcp(&key, &syn(100));
        let outside = cluster
            .through(0, LAN, &open)
            .iter()
            .find_map(|s| packet::flow(&s.frame))
            .unwrap();
        assert_eq!(class_on_standby(&mut cluster, &key), Some(Class::Opening));
        let answer = outside.reversed();
        let from_server = |cluster: &mut Cluster, segment: &Segment<'_>| {
            let frame = to_node(1, WAN, &answer.src).tcp(&answer, segment);
            assert_eq!(cluster.through(0, WAN, &frame).len(), 1);
        };
        let from_client = |cluster: &mut Cluster, segment: &Segment<'_>| {
            let frame = to_node(1, LAN, &key.src).tcp(&key, segment);
            assert_eq!(cluster.through(0, LAN, &frame).len(), 1);
        };
        from_server(&mut cluster, &segment(SYN | ACK, 9_000, 101, &[]));
        from_client(&mut cluster, &segment(ACK, 101, 9_001, &[]));
        assert_eq!(class_on_standby(&mut cluster, &key), Some(Class::Established));
        from_server(&mut cluster, &segment(last | ACK, 9_001, 101, &[]));
        assert_eq!(class_on_standby(&mut cluster, &key), Some(Class::Closing));
    }
}

/// The class of a flow on the standby, as soon as a flush and the way over the network can have brought it.
fn class_on_standby(cluster: &mut Cluster, key: &FlowKey) -> Option<Class> {
    for _ in 0..6 {
        cluster.turn(MS / 10);
    }
    let rows = view(cluster.node(1)).conntracks;
    rows.get(&tuple(key)).map(|row| row.class)
}
