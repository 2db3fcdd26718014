//! Frames for the kernel reach it by the tap of their port, and its own leave by the port: whole, unmodified, whatever the
//! node's role, and within the limit of their class.

use core::slice;
use core::time::Duration;

use dataplane::config::VirtualMac;
use dataplane::exception::{Class, ExceptionLimits, Punted};
use dataplane::flow::Addr;
use dataplane::io::PortId;
use dataplane::role::Role;
use dataplane::wire::build::Link;
use testkit::cluster::Cluster;
use testkit::config::{LAN, LAN_IF, LAN_TAP, LAN_VIP, MAIN, ROUTER, Setup, WAN, WAN_TAP, subscriber};
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

fn ospf() -> Vec<u8> {
    let key = packet::key(89, Addr::v4([100, 64, 0, 3]), 0, Addr::v4([224, 0, 0, 5]), 0);
    let link = Link {
        dst_mac: [1, 0, 0x5e, 0, 0, 5],
        ttl: 1,
        ..packet::to_node(1, LAN, &subscriber(9))
    };
    link.ip(&key, &[2; 44])
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

/// Two ports of one worker with limits of their own, and what moves when they change while packets flow.
#[test]
fn a_port_has_the_limits_it_is_configured_for() {
    let mut exception_limits = ExceptionLimits::default();
    exception_limits.set(Class::Local, 20);
    exception_limits.set(Class::Routing, 0);
    let mut cluster = node(Setup {
        workers: 1,
        exception_limits,
        ..Setup::default()
    });
    cluster
        .node(0)
        .publish(|intent, _| intent.exceptions[1] = Some(ExceptionLimits::default()));
    let (lan, wan) = ((0, LAN, LAN_TAP), (0, WAN, WAN_TAP));
    let pinged = |port, from, to| {
        let key = packet::echo(from, 7, to);
        packet::simple(&packet::to_node(1, port, &key.src), &key)
    };
    let on_lan = pinged(LAN, subscriber(1), OWN);
    let on_wan = pinged(WAN, ROUTER.into(), Addr::v4([192, 0, 2, 2]));
    let passes = |cluster: &mut Cluster, way, frame: &[u8], expected: usize, refused: &str| {
        const TRIES: usize = 15;
        let before = counters(cluster.node(0));
        let through = (0..TRIES)
            .map(|_| to_kernel(cluster, way, frame).len())
            .sum::<usize>();
        assert_eq!(through, expected);
        let (passed, beyond) = (expected as u64, (TRIES - expected) as u64);
        let moved = [
            ("rx_packets", TRIES as u64),
            ("punted", TRIES as u64),
            ("tx_packets", passed),
            (&refused.replace("punt_refused", "punted"), passed),
            (refused, beyond),
            ("drop:punt-limit", beyond),
        ];
        let moved: Vec<_> = moved.into_iter().filter(|(_, by)| *by > 0).collect();
        only_moved(&before, &counters(cluster.node(0)), &moved);
    };
    let local = "punt_refused_local";
    passes(&mut cluster, lan, &on_lan, 10, local);
    passes(&mut cluster, wan, &on_wan, 15, local);
    passes(&mut cluster, lan, &ospf(), 0, "punt_refused_routing");
    passes(&mut cluster, wan, &ospf(), 15, "punt_refused_routing");
    passes(&mut cluster, lan, &advert(), 15, "punt_refused_ha");
    let now = |cluster: &mut Cluster, class, packets_per_s| {
        cluster.node(0).publish(|intent, _| {
            let mut limits = intent.exceptions[0].expect("it has a tap");
            limits.set(class, packets_per_s);
            intent.exceptions[0] = Some(limits);
        });
    };
    now(&mut cluster, Class::Local, 0);
    passes(&mut cluster, lan, &on_lan, 0, local);
    now(&mut cluster, Class::Local, 100);
    passes(&mut cluster, lan, &on_lan, 15, local);
    passes(&mut cluster, lan, &ospf(), 0, "punt_refused_routing");
    let mut counted = |port, class| {
        let mut sum = Punted::default();
        cluster.node(0).tables().all(|tables| {
            sum = tables.punts.of(port, class);
            true
        });
        (sum.passed, sum.refused)
    };
    assert_eq!(counted(LAN, Class::Local), (25, 20));
    assert_eq!(counted(WAN, Class::Local), (15, 0));
    assert_eq!(counted(LAN, Class::Routing), (0, 30));
    assert_eq!(counted(WAN, Class::Routing), (15, 0));
    assert_eq!(counted(LAN, Class::Ha), (15, 0));
}

/// Frames to and from a virtual router's MAC address, which keepalived's kernels have on both nodes.
#[test]
fn a_virtual_mac_address_is_the_nodes_and_that_of_its_peer() {
    const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
    let (interface, mac) = (LAN_IF, VIRTUAL);
    let mut cluster = node(Setup {
        workers: 1,
        ..Setup::default()
    });
    let to_virtual = |link: Link| Link {
        dst_mac: VIRTUAL,
        ..link
    };
    let from_virtual = |link: Link| Link {
        src_mac: VIRTUAL,
        ..link
    };
    let echo = packet::echo(subscriber(1), 7, OWN);
    let out = packet::udp(subscriber(1), 4_000, ROUTER.into(), 53);
    let link = packet::to_node(1, LAN, &echo.src);
    let asked = packet::simple(&to_virtual(link.clone()), &echo);
    let sent_out = packet::simple(&to_virtual(link.clone()), &out);
    let of_peer = packet::simple(&from_virtual(link), &echo);
    let before = counters(cluster.node(0));
    assert_eq!(to_kernel(&mut cluster, (0, LAN, LAN_TAP), &asked).len(), 0);
    only_moved(
        &before,
        &counters(cluster.node(0)),
        &[("rx_packets", 1), ("drop:other-host", 1)],
    );
    cluster.node(0).publish(|intent, _| {
        intent.ha_groups[0].virtual_macs = vec![VirtualMac { interface, mac }];
    });
    for frame in [asked, of_peer.clone()] {
        assert_eq!(
            to_kernel(&mut cluster, (0, LAN, LAN_TAP), &frame),
            slice::from_ref(&frame)
        );
    }
    assert_eq!(
        cluster.through_worker(0, 0, LAN, &sent_out).len(),
        1,
        "a user's next hop"
    );
    // Without a tap the kernels have had it, and what comes from there may be what this one has sent.
    cluster
        .node(0)
        .publish(|intent, _| intent.exceptions = vec![None, None]);
    let before = counters(cluster.node(0));
    assert_eq!(cluster.through_worker(0, 0, LAN, &of_peer).len(), 0);
    only_moved(
        &before,
        &counters(cluster.node(0)),
        &[("rx_packets", 1), ("drop:bad-mac", 1)],
    );
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
