//! Which class each kind of frame is of, and that classes don't take from one another.

use super::*;
use crate::flow::{Addr, FlowKey, VrfId, proto};
use crate::stage::parse::parse;
use crate::wire::build::{Link, Segment, icmp};
use crate::wire::tcp;

const PORT: PortId = PortId(0);
const TAP: PortId = PortId(2);

fn key(src: &str, src_port: u16, dst: &str, dst_port: u16, proto: u8) -> FlowKey {
    let address = |text: &str| -> Addr {
        match text.parse().unwrap() {
            std::net::IpAddr::V4(a) => a.into(),
            std::net::IpAddr::V6(a) => a.into(),
        }
    };
    FlowKey {
        src: address(src),
        dst: address(dst),
        src_port,
        dst_port,
        vrf: VrfId(0),
        proto,
    }
}

fn link(ttl: u8) -> Link {
    Link {
        ttl,
        ..Link::default()
    }
}

fn class(frame: &[u8]) -> Class {
    let mut meta = Meta::default();
    let verdict = parse(frame, &mut meta);
    assert!(
        !matches!(verdict, crate::verdict::Verdict::Drop(_)),
        "{verdict:?} of {frame:02x?}"
    );
    Class::of(frame, &meta)
}

fn udp(ttl: u8, src: &str, dst: &str, port: u16) -> Vec<u8> {
    link(ttl).udp(&key(src, 50_000, dst, port, proto::UDP), b"")
}

fn segment(from: u16, to: u16) -> Vec<u8> {
    let key = key("192.0.2.21", from, "192.0.2.2", to, proto::TCP);
    let syn = Segment {
        flags: tcp::SYN,
        ..Segment::default()
    };
    link(1).tcp(&key, &syn)
}

fn vrrp(ttl: u8) -> Vec<u8> {
    link(ttl).ip(&key("192.0.2.3", 0, "224.0.0.18", 0, 112), &[0x31; 16])
}

#[test]
fn protocols_of_the_link() {
    let llc = |access_points: [u8; 2]| [&access_points[..], &[3; 36]].concat();
    for ethertype in [0x88cc, 0x8809, 0x888e] {
        assert_eq!(class(&link(0).ethernet(ethertype, &[0; 46])), Class::Link);
    }
    assert_eq!(
        class(&link(0).ethernet(38, &llc([0x42, 0x42]))),
        Class::Link,
        "STP"
    );
    assert_eq!(
        class(&link(0).ethernet(38, &llc([0xfe, 0xfe]))),
        Class::Routing,
        "IS-IS"
    );
    assert_eq!(class(&link(0).ethernet(0, &[])), Class::Link);
}

#[test]
fn neighbors() {
    let arp = |operation: u8| {
        let mut payload = vec![0, 1, 8, 0, 6, 4, 0, operation];
        payload.extend([2, 0, 0, 0, 0, 2, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
        link(0).ethernet(0x0806, &payload)
    };
    for operation in [1, 2, 9] {
        assert_eq!(
            class(&arp(operation)),
            Class::Neighbor,
            "ARP operation {operation}"
        );
    }
    let from_link = key("fe80::9", 0, "ff02::1", 0, proto::ICMP6);
    for kind in [133, 134, 137] {
        let frame = link(255).ip(&from_link, &icmp(&from_link, kind, 0, [0; 4], &[0; 16]));
        assert_eq!(class(&frame), Class::Neighbor, "ICMPv6 type {kind}");
    }
}

#[test]
fn roles_are_decided_on_the_link_rfc_5082() {
    assert_eq!(class(&vrrp(255)), Class::Ha);
    let six = key("fe80::9", 0, "ff02::12", 0, 112);
    assert_eq!(class(&link(255).ip(&six, &[0x31; 16])), Class::Ha);
    assert_eq!(class(&vrrp(254)), Class::Local, "somebody has passed it on");
    for port in [3784, 3785] {
        assert_eq!(class(&udp(255, "192.0.2.3", "192.0.2.2", port)), Class::Ha);
        assert_eq!(class(&udp(255, "fe80::9", "fe80::2", port)), Class::Ha);
        assert_eq!(class(&udp(60, "192.0.2.3", "192.0.2.2", port)), Class::Local);
    }
    assert_eq!(class(&udp(60, "198.51.100.9", "192.0.2.2", 4784)), Class::Ha);
}

#[test]
fn routing_whoever_opens_the_session() {
    assert_eq!(class(&segment(179, 50_000)), Class::Routing);
    assert_eq!(class(&segment(50_000, 179)), Class::Routing);
    let hello = key("192.0.2.21", 0, "224.0.0.5", 0, 89);
    assert_eq!(class(&link(1).ip(&hello, &[2; 44])), Class::Routing);
    assert_eq!(class(&segment(50_000, 22)), Class::Local);
    assert_eq!(class(&udp(64, "192.0.2.9", "192.0.2.2", 179)), Class::Local);
    assert_eq!(class(&udp(255, "192.0.2.9", "224.0.0.251", 5353)), Class::Local);
}

/// Asks for the way of `count` frames at `now`; how many got one.
fn passed(
    exceptions: &mut Exceptions,
    frame: &[u8],
    count: usize,
    now: Instant,
    counters: &mut Counters,
) -> usize {
    passed_of(
        exceptions,
        ExceptionLimits::default(),
        frame,
        count,
        now,
        counters,
    )
}

/// The same, with other limits than the default.
fn passed_of(
    exceptions: &mut Exceptions,
    limits: ExceptionLimits,
    frame: &[u8],
    count: usize,
    now: Instant,
    counters: &mut Counters,
) -> usize {
    let mut meta = Meta::default();
    parse(frame, &mut meta);
    let mut way = || {
        exceptions.way(
            PORT,
            (frame, &meta),
            limits,
            now,
            (counters, &mut PuntCounts::new(1)),
        )
    };
    (0..count)
        .filter(|_| match way() {
            Ok(tap) => tap == TAP,
            Err(reason) => {
                assert_eq!(reason, Drop::PuntLimit);
                false
            }
        })
        .count()
}

fn tapped() -> Exceptions {
    Exceptions::new(&[Tap {
        port: PORT,
        tap: TAP,
        queues: 0,
    }])
}

#[test]
fn a_changed_limit_counts_at_once_and_for_its_class_alone() {
    let mut exceptions = tapped();
    let counters = &mut Counters::default();
    let now = Instant::from_secs(5);
    let (echo, advert) = (udp(64, "192.0.2.9", "192.0.2.2", 9), vrrp(255));
    let mut limits = ExceptionLimits::default();
    let mut through =
        |limits, frame: &[u8], now| passed_of(&mut exceptions, limits, frame, 3_000, now, counters);
    assert_eq!(through(limits, &echo, now), 500);
    assert_eq!(through(limits, &advert, now), 200);
    limits.set(Class::Local, 100);
    assert_eq!(limits.burst(Class::Local), 25);
    assert_eq!(through(limits, &echo, now), 25, "a full bucket of the new size");
    assert_eq!(
        through(limits, &advert, now),
        0,
        "that of another class stays empty"
    );
    let later = now + Duration::from_secs(1);
    assert_eq!(through(limits, &echo, later), 25);
    limits.set(Class::Local, 0);
    assert_eq!(through(limits, &echo, later + Duration::from_secs(60)), 0);
    limits.set(Class::Local, 4);
    assert_eq!(through(limits, &echo, later), 10, "however low the rate is");
}

#[test]
fn a_flood_takes_nothing_from_another_class() {
    let mut exceptions = tapped();
    let counters = &mut Counters::default();
    let flood = udp(64, "192.0.2.9", "192.0.2.2", 9);
    let mut through = 0;
    for ms in 0..1_000 {
        let now = Instant::from_ns(5_000_000_000 + ms * 1_000_000);
        through += passed(&mut exceptions, &flood, 50, now, counters);
        if ms % 10 == 0 {
            assert_eq!(passed(&mut exceptions, &vrrp(255), 20, now, counters), 20);
        }
    }
    assert!(
        (2_400..=2_600).contains(&through),
        "burst and a second's: {through}"
    );
    assert_eq!(counters.punted, 50_000 + 2_000);
    assert_eq!(counters.punted_ha, 2_000);
    assert_eq!(counters.punt_refused_ha, 0);
    assert_eq!(counters.punted_local, through as u64);
    assert_eq!(counters.punt_refused_local, 50_000 - through as u64);
}

#[test]
fn a_port_without_a_tap_has_a_kernel_that_knows() {
    let counters = &mut Counters::default();
    let frame = vrrp(255);
    let mut meta = Meta::default();
    parse(&frame, &mut meta);
    for taps in [
        &[][..],
        &[Tap {
            port: PortId(1),
            tap: TAP,
            queues: 1,
        }],
    ] {
        let (limits, now, punts) = (
            ExceptionLimits::default(),
            Instant::default(),
            &mut PuntCounts::new(1),
        );
        let way = Exceptions::new(taps).way(PORT, (&frame, &meta), limits, now, (counters, punts));
        assert_eq!(way, Err(Drop::Punted));
    }
    assert_eq!((counters.punted, counters.punted_ha), (2, 0));
}
