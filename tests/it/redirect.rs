//! Packets that come to the node which isn't active go to the one that is, over the sync link, and on from there as if they had
//! come to it (sync/PROTOCOL.md ): with `standby = "redirect"` always, else as long as a switchover moves the traffic.

use core::time::Duration;

use dataplane::config::StandbyPolicy;
use dataplane::delta::Class;
use dataplane::flow::FlowKey;
use dataplane::io::PortId;
use dataplane::role::Role;
use dataplane::stage::meta::Kind;
use dataplane::verdict::Drop;
use dataplane::wire::build::Link;
use dataplane::wire::tcp::{ACK, FIN, SYN};
use state_sync::handover::DRAIN_MAX;
use state_sync::report::PumpReport;
use state_sync::role::Desire;
use testkit::cluster::{Cluster, Death, Sent};
use testkit::config::{LAN, MAIN, Setup, WAN, server, subscriber};
use testkit::expect::{counters, moved};
use testkit::fragment;
use testkit::packet::{self, segment, to_node};

const MS: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_micros(100);

/// Node 0 is active, and node 1 redirects.
fn pair(change: impl FnOnce(&mut Setup)) -> Cluster {
    let mut setup = Setup {
        standby: StandbyPolicy::Redirect,
        ..Setup::default()
    };
    change(&mut setup);
    Cluster::pair(setup, 5)
}

/// The link header of a frame to a node, by index.
fn link(node: usize, port: PortId, key: &FlowKey) -> Link {
    to_node([1, 2][node], port, &key.src)
}

/// Puts frames into one receive queue of a node and lets both nodes run: the users' frames that have left since, in order.
pub(crate) fn enter(cluster: &mut Cluster, node: usize, port: PortId, frames: &[Vec<u8>]) -> Vec<Sent> {
    cluster.after_step();
    cluster.sent.clear();
    for frame in frames {
        assert!(cluster.node(node).inject(0, port, frame), "no buffer for a frame");
    }
    cluster.run(5 * MS);
    let is_users = |sent: &Sent| {
        let kind = packet::read(&sent.frame).map(|meta| meta.kind);
        matches!(kind, Ok(Kind::Flow | Kind::IcmpError | Kind::Fragment))
    };
    cluster.sent.drain(..).filter(is_users).collect()
}

/// As [`enter`], of one packet of a flow: the node that it left by, and its tuple then.
pub(crate) fn enter_one(
    cluster: &mut Cluster,
    node: usize,
    port: PortId,
    key: &FlowKey,
) -> Option<(usize, FlowKey)> {
    let frame = packet::simple(&link(node, port, key), key);
    let sent = enter(cluster, node, port, &[frame]);
    assert!(sent.len() <= 1, "{sent:?}");
    let left = sent.first()?;
    assert_ne!(left.port, port);
    Some((left.node, packet::flow(&left.frame)?))
}

fn udp(port: u16) -> FlowKey {
    packet::udp(subscriber(1), port, server(1), 53)
}

/// Drops and arrivals that are about redirects.
fn counted(cluster: &mut Cluster, node: usize) -> Vec<(String, u64)> {
    let all = counters(cluster.node(node));
    let about = |(name, n): &(String, u64)| *n > 0 && (name.contains("redirect") || name.contains("standby"));
    let named = all.into_iter().map(|(name, n)| (name.to_string(), n));
    named.filter(about).collect()
}

/// Routing brings a flow's packets to either node, in either direction; the state is in one place.
#[test]
fn a_flow_that_enters_by_the_standby_is_opened_and_answered() {
    let mut cluster = pair(|_| {});
    let (node, outside) = enter_one(&mut cluster, 1, LAN, &udp(5_000)).unwrap();
    assert_eq!(node, 0, "the first packet of a flow leaves by the active node");
    let answer = enter_one(&mut cluster, 1, WAN, &outside.reversed());
    assert_eq!(answer, Some((0, udp(5_000).reversed())));
    assert_eq!(enter_one(&mut cluster, 0, LAN, &udp(5_000)), Some((0, outside)));
    assert_eq!(counted(&mut cluster, 1), [("drop:redirected".to_owned(), 2)]);
    assert_eq!(counted(&mut cluster, 0), [("redirects_taken".to_owned(), 2)]);
    cluster.settle();
}

/// Everything that a packet can be goes whole: a fragment, an ICMP error, an echo to a virtual address, tags that the other
/// node's interface doesn't have.
#[test]
fn whatever_comes_is_treated_as_if_it_had_come_to_the_active_node() {
    let tagged = Setup {
        standby: StandbyPolicy::Redirect,
        lan_vlans: vec![7],
        ..Setup::default()
    };
    let untagged = Setup {
        lan_vlans: vec![],
        ..tagged.clone()
    };
    let mut cluster = Cluster::of([untagged, tagged], 9);
    cluster.settle();
    let key = udp(5_000);
    let mut frame = packet::simple(&link(1, LAN, &key), &key);
    frame.splice(12..12, [0x81, 0, 0, 7]);
    let sent = enter(&mut cluster, 1, LAN, &[frame]);
    assert_eq!(sent.len(), 1, "{:?}", counted(&mut cluster, 1));
    let outside = packet::flow(&sent[0].frame).unwrap();
    let expected = packet::from_node(1, WAN, &outside.dst).udp(&outside, b"hello");
    assert_eq!(
        sent[0].frame, expected,
        "byte by byte as if it had come untagged to node 0"
    );

    let reply = outside.reversed();
    let whole = link(1, WAN, &reply).udp(&reply, &[7; 600]);
    let pieces = fragment::cut(&whole, 77, &[20, 20]);
    let sent = enter(&mut cluster, 1, WAN, &pieces);
    assert_eq!(sent.len(), pieces.len(), "{:?}", counted(&mut cluster, 0));
    assert!(sent.iter().all(|s| (s.node, s.port) == (0, LAN)));
}

/// The active node sees each end of a connection, so it ends there too.
#[test]
fn a_connection_is_opened_and_closed_through_the_standby() {
    let mut cluster = pair(|_| {});
    let inside = packet::tcp(subscriber(1), 40_000, server(1), 80);
    let (_, outside) = enter_one(&mut cluster, 1, LAN, &inside).unwrap();
    let reply = outside.reversed();
    let mut class = |node: usize, port: PortId, key: &FlowKey, flags: u8, seq: u32, ack: u32| {
        let frame = link(node, port, key).tcp(key, &segment(flags, seq, ack, &[]));
        assert_eq!(enter(&mut cluster, node, port, &[frame]).len(), 1);
        let classes: Vec<_> = cluster
            .node(0)
            .tables()
            .flat_map(|t| t.conntracks.iter_live())
            .map(|(_, c)| c.class)
            .collect();
        assert_eq!(classes.len(), 1);
        classes[0]
    };
    assert_eq!(class(1, WAN, &reply, SYN | ACK, 900, 1_001), Class::Opening);
    assert_eq!(class(1, LAN, &inside, ACK, 1_001, 901), Class::Established);
    assert_eq!(class(1, LAN, &inside, FIN | ACK, 1_001, 901), Class::Closing);
    assert_eq!(class(1, WAN, &reply, FIN | ACK, 901, 1_002), Class::Closing);
    cluster.settle();
}

/// Packets of a flow leave in the order in which they came, also of bursts that the rings hold back for a while.
#[test]
fn packets_of_a_flow_keep_their_order() {
    let mut cluster = pair(|_| {});
    enter_one(&mut cluster, 1, LAN, &udp(5_000)).unwrap();
    let frames: Vec<_> = (0..200_u16)
        .map(|n| link(1, LAN, &udp(5_000)).udp(&udp(5_000), &n.to_be_bytes()))
        .collect();
    let sent = enter(&mut cluster, 1, LAN, &frames);
    let numbers: Vec<_> = sent
        .iter()
        .map(|s| u16::from_be_bytes([s.frame[s.frame.len() - 2], s.frame[s.frame.len() - 1]]))
        .collect();
    assert_eq!(
        numbers,
        (0..200).collect::<Vec<_>>(),
        "{:?}",
        counted(&mut cluster, 1)
    );
}

/// Beyond its rate a worker drops; and what a ring has no room for, which costs the flow nothing else.
#[test]
fn what_is_too_much_is_dropped_and_counted_by_its_reason() {
    let burst = |cluster: &mut Cluster| {
        let key = udp(5_000);
        let frames = vec![link(1, LAN, &key).udp(&key, &[1; 1_000]); 100];
        enter(cluster, 1, LAN, &frames).len() as u64
    };
    // A burst of 64, and what a few milliseconds bring.
    let mut slow = pair(|setup| setup.redirect_packets_per_s = 1_000);
    let left = burst(&mut slow);
    assert!((64..75).contains(&left), "{left}");
    let limited = slow.node(1).counters().dropped(Drop::RedirectLimit);
    assert_eq!(limited, 100 - left);
    let mut small = pair(|setup| setup.redirect_bytes = 10_000);
    let left = burst(&mut small);
    let full = |cluster: &mut Cluster| {
        let standby = cluster.node(1).counters().dropped(Drop::RedirectFull);
        let active: u64 = cluster.node(0).reports().iter().map(|r| r.redirects.full).sum();
        standby + active
    };
    assert!(left >= 9 && full(&mut small) > 0);
    assert_eq!(left + full(&mut small), 100);
    assert!(enter_one(&mut small, 1, LAN, &udp(5_000)).is_some());
    small.settle();
}

/// A packet has come from node 1 to workers of node 0 that stand still while that node gives its role up.
fn met_by_a_handover() -> Cluster {
    let mut cluster = pair(|_| {});
    enter_one(&mut cluster, 0, LAN, &udp(5_000)).unwrap();
    cluster.settle();
    cluster.node(0).stopped[..2].fill(true);
    assert_eq!(enter_one(&mut cluster, 1, LAN, &udp(5_000)), None);
    let handed_on = |r: &PumpReport| r.redirects.handed_on;
    assert_eq!(cluster.node(0).reports().iter().map(handed_on).sum::<u64>(), 1);
    cluster
}

/// As roles are for a moment when two nodes don't agree.
fn stand_by(cluster: &mut Cluster, node: usize) {
    let term = cluster.node(node).role(MAIN).1;
    cluster.node(node).shared.roles.set(MAIN, Role::Backup, term);
}

/// An operator orders it, and the other node hears of that.
fn take_over(cluster: &mut Cluster, node: usize) {
    cluster.order(node, Desire::Ordered);
    let end = cluster.now + 2 * DRAIN_MAX;
    while cluster.node(1 - node).is_active(MAIN) || !cluster.node(node).is_active(MAIN) {
        cluster.turn(STEP);
        assert!(cluster.now < end, "node {node} is not active");
    }
}

#[test]
fn what_meets_a_node_that_hands_over_comes_back_to_the_one_that_has_taken_over() {
    let mut cluster = met_by_a_handover();
    take_over(&mut cluster, 1);
    cluster.run(5 * MS);
    cluster.sent.clear();
    cluster.node(0).stopped[..2].fill(false);
    cluster.run(5 * MS);
    let left: Vec<_> = cluster
        .sent
        .iter()
        .filter(|s| packet::flow(&s.frame).is_some())
        .collect();
    assert_eq!(left.iter().map(|s| s.node).collect::<Vec<_>>(), [1]);
    assert_eq!(
        counted(&mut cluster, 0),
        [
            ("drop:redirected".to_owned(), 1),
            ("redirects_taken".to_owned(), 1)
        ]
    );
}

#[test]
fn where_nobody_is_active_nothing_goes_to_and_fro() {
    let mut cluster = met_by_a_handover();
    stand_by(&mut cluster, 0);
    cluster.run(5 * MS);
    cluster.node(0).stopped[..2].fill(false);
    cluster.run(5 * MS);
    let unsent = |r: &PumpReport| r.redirects.unsent;
    assert_eq!(cluster.node(0).reports().iter().map(unsent).sum::<u64>(), 1);
    let received = |r: &PumpReport| r.redirects.received;
    assert_eq!(cluster.node(1).reports().iter().map(received).sum::<u64>(), 0);
}

#[test]
fn what_came_back_once_is_not_sent_again() {
    let mut cluster = met_by_a_handover();
    take_over(&mut cluster, 1);
    cluster.run(5 * MS);
    cluster.node(0).stopped[..2].fill(false);
    cluster.node(1).stopped[..2].fill(true);
    cluster.run(5 * MS);
    stand_by(&mut cluster, 1);
    cluster.sent.clear();
    cluster.node(1).stopped[..2].fill(false);
    cluster.turn(STEP);
    assert_eq!(
        cluster
            .sent
            .iter()
            .filter(|s| packet::flow(&s.frame).is_some())
            .count(),
        0
    );
    assert!(counted(&mut cluster, 1).contains(&("drop:redirect-returned".to_owned(), 1)));
}

/// A standby that takes over meanwhile handles itself what it hasn't sent yet.
#[test]
fn what_waits_at_a_node_that_takes_over_is_its_own() {
    let mut cluster = pair(|_| {});
    enter_one(&mut cluster, 0, LAN, &udp(5_000)).unwrap();
    cluster.settle();
    cluster.node(1).stop_events(true);
    assert_eq!(enter_one(&mut cluster, 1, LAN, &udp(5_000)), None);
    cluster.kill(0, Death::Power);
    let term = cluster.node(1).role(MAIN).1;
    cluster
        .node(1)
        .shared
        .roles
        .set(MAIN, Role::Master, term.next_of(2, 9));
    cluster.node(1).stop_events(false);
    cluster.sent.clear();
    let now = cluster.now;
    for _ in 0..4 {
        for thread in 0..4 {
            cluster.node(1).step_thread(thread, now);
        }
    }
    cluster.after_step();
    let left: Vec<_> = cluster
        .sent
        .iter()
        .filter_map(|s| packet::flow(&s.frame))
        .collect();
    assert_eq!(left.len(), 1);
    assert_eq!(cluster.node(1).counters().redirects_taken, 1);
}

/// Interfaces are what their names say: a peer that has none of this name can't do anything with the packet.
#[test]
fn an_interface_that_the_active_node_has_not_got_is_counted() {
    let mut cluster = pair(|_| {});
    cluster
        .node(1)
        .publish(|intent, _| intent.interfaces[0].name = "elsewhere".to_owned());
    assert_eq!(enter_one(&mut cluster, 1, LAN, &udp(5_000)), None);
    assert_eq!(
        counted(&mut cluster, 0),
        [("drop:redirect-interface".to_owned(), 1)]
    );
    assert!(enter_one(&mut cluster, 1, WAN, &udp(5_000).reversed()).is_none());
    assert_eq!(
        moved(&Default::default(), &counters(cluster.node(0))).get("redirects_taken"),
        Some(&1),
        "to nobody's pool address, but it has come"
    );
}
