//! Frames for the kernel reach it by the tap of their port, and its own leave by the port: whole, unmodified, whatever the
//! node's role, and within the limit of their class.

use core::slice;
use core::time::Duration;

use dataplane::flow::Addr;
use dataplane::io::PortId;
use dataplane::role::Role;
use dataplane::wire::build::Link;
use testkit::cluster::Cluster;
use testkit::config::{LAN, LAN_TAP, LAN_VIP, MAIN, ROUTER, Setup, WAN, WAN_TAP, subscriber};
use testkit::expect::{counters, only_moved};
use testkit::packet;

/// Node 0's own address on the LAN, as the kernel would have told it.
const OWN: Addr = Addr::v4([100, 64, 0, 2]);

fn node(setup: Setup) -> Cluster {
    let setup = Setup {
        taps: true,
        grouped: false,
        ..setup
    };
    Cluster::new(setup, 1)
}

fn advert() -> Vec<u8> {
    let key = packet::key(112, Addr::v4([100, 64, 0, 3]), 0, Addr::v4([224, 0, 0, 18]), 0);
    let link = Link {
        dst_mac: [1, 0, 0x5e, 0, 0, 18],
        ttl: 255,
        ..packet::to_node(1, LAN, &subscriber(9))
    };
    link.ip(&key, &[0x31; 12])
}

/// What the kernel gets of a frame that comes in by one worker's queue.
fn to_kernel(
    cluster: &mut Cluster,
    (worker, port, tap): (usize, PortId, PortId),
    frame: &[u8],
) -> Vec<Vec<u8>> {
    assert_eq!(
        cluster.through_worker(0, worker, port, frame).len(),
        0,
        "nothing leaves"
    );
    cluster.node(0).take_sent(tap)
}

#[test]
fn frames_for_the_kernel_come_out_of_the_tap_of_their_port_untouched() {
    let mut cluster = node(Setup {
        workers: 3,
        ..Setup::default()
    });
    for host in 1..=6 {
        // Their owner is any worker, and each has a way of its own.
        let key = packet::echo(subscriber(host), 7, OWN);
        let frame = packet::simple(&packet::to_node(1, LAN, &key.src), &key);
        for worker in 0..3 {
            assert_eq!(
                to_kernel(&mut cluster, (worker, LAN, LAN_TAP), &frame),
                slice::from_ref(&frame)
            );
        }
    }
    assert_eq!(to_kernel(&mut cluster, (1, LAN, LAN_TAP), &advert()), [advert()]);
    let lldp = Link::default().ethernet(0x88cc, &[2; 60]);
    assert_eq!(
        to_kernel(&mut cluster, (0, WAN, WAN_TAP), &lldp),
        slice::from_ref(&lldp)
    );
    let counted = cluster.node(0).counters();
    assert_eq!(
        (
            counted.punted,
            counted.punted_local,
            counted.punted_ha,
            counted.punted_link
        ),
        (20, 18, 1, 1)
    );
    assert_eq!(cluster.node(0).packets.alive(), 0);
}

#[test]
fn tags_stay_where_they_were() {
    let mut cluster = node(Setup {
        lan_vlans: vec![100, 200],
        workers: 1,
        ..Setup::default()
    });
    let frame = [
        &advert()[..12],
        &[0x81, 0, 0, 100, 0x81, 0, 0, 200],
        &advert()[12..],
    ]
    .concat();
    assert_eq!(
        to_kernel(&mut cluster, (0, LAN, LAN_TAP), &frame),
        slice::from_ref(&frame)
    );
}

#[test]
fn what_the_kernel_sends_leaves_by_the_port_on_a_standby_too() {
    let mut cluster = Cluster::pair(
        Setup {
            taps: true,
            ..Setup::default()
        },
        1,
    );
    assert_eq!(cluster.node(1).role(MAIN).0, Role::Backup);
    for (index, tap, port) in [(0, LAN_TAP, LAN), (1, LAN_TAP, LAN), (1, WAN_TAP, WAN)] {
        cluster.run(Duration::from_millis(1));
        let before = counters(cluster.node(index));
        cluster.after_step();
        for queue in 0..2 {
            assert!(cluster.node(index).send_on_tap(tap, queue, &advert()));
        }
        let waiting = cluster.sent.len();
        cluster.run(Duration::from_millis(1));
        let sent = cluster.sent.split_off(waiting);
        let left: Vec<_> = sent
            .iter()
            .filter(|s| s.frame == advert())
            .map(|s| s.port)
            .collect();
        assert_eq!(left, [port, port]);
        let after = counters(cluster.node(index));
        let bytes = 2 * advert().len() as u64;
        let moved = |name: &str| after[name] - before[name];
        assert_eq!((moved("kernel_packets"), moved("kernel_bytes")), (2, bytes));
    }
}

#[test]
fn a_flood_for_the_node_is_refused_and_counted_and_adverts_pass() {
    let mut cluster = node(Setup {
        workers: 1,
        ..Setup::default()
    });
    let key = packet::echo(subscriber(1), 7, OWN);
    let flood = packet::simple(&packet::to_node(1, LAN, &key.src), &key);
    for _ in 0..3_000 {
        to_kernel(&mut cluster, (0, LAN, LAN_TAP), &flood);
    }
    assert_eq!(to_kernel(&mut cluster, (0, LAN, LAN_TAP), &flood).len(), 0);
    assert_eq!(to_kernel(&mut cluster, (0, LAN, LAN_TAP), &advert()).len(), 1);
    let counted = cluster.node(0).counters();
    assert_eq!(counted.punted_local + counted.punt_refused_local, 3_001);
    assert!(counted.punt_refused_local > 0);
    assert_eq!(counted.punt_refused_ha, 0);
}

#[test]
fn who_is_asked_for_an_address_that_moves_answers_alone() {
    let mut cluster = node(Setup {
        workers: 1,
        ..Setup::default()
    });
    let before = counters(cluster.node(0));
    let key = packet::echo(subscriber(1), 7, LAN_VIP.into());
    let frame = packet::simple(&packet::to_node(1, LAN, &key.src), &key);
    let answered = cluster.through_worker(0, 0, LAN, &frame);
    assert_eq!(answered.len(), 1);
    assert_eq!(
        cluster.node(0).take_sent(LAN_TAP).len(),
        0,
        "the kernel isn't asked too"
    );
    only_moved(
        &before,
        &counters(cluster.node(0)),
        &[("rx_packets", 1), ("tx_packets", 1), ("echos_answered", 1)],
    );
    let key = packet::echo(ROUTER.into(), 7, Addr::v4([192, 0, 2, 2]));
    let frame = packet::simple(&packet::to_node(1, WAN, &key.src), &key);
    assert_eq!(
        to_kernel(&mut cluster, (0, WAN, WAN_TAP), &frame),
        slice::from_ref(&frame)
    );
}

#[test]
fn a_tap_that_takes_nothing_costs_its_frame() {
    let mut cluster = node(Setup {
        workers: 1,
        ..Setup::default()
    });
    cluster.node(0).io(0).tx_room = Some(0);
    assert_eq!(to_kernel(&mut cluster, (0, LAN, LAN_TAP), &advert()).len(), 0);
    let counted = counters(cluster.node(0));
    assert_eq!((counted["punted_ha"], counted["drop:tx-rejected"]), (1, 1));
    assert_eq!(cluster.node(0).packets.alive(), 0);
}
