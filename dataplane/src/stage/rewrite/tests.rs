//! After a rewrite, `etherparse` must see the new tuple with every checksum right as if computed from scratch, and
//! nothing else may have changed.

use crate::conntrack::Tuples;
use proptest::prelude::*;

use super::*;
use crate::flow::VrfId;
use crate::stage::oracle::{Buffer, any_key, any_link, frame, read};
use crate::stage::parse::parse;
use crate::verdict::Verdict;
use crate::wire::build::{self, Link, Segment};

fn key(a: [u8; 4], a_port: u16, b: [u8; 4], b_port: u16, proto: u8) -> FlowKey {
    FlowKey {
        src: Addr::v4(a),
        dst: Addr::v4(b),
        src_port: a_port,
        dst_port: b_port,
        vrf: VrfId(0),
        proto,
    }
}

fn parsed(frame: &[u8]) -> Meta {
    let mut meta = Meta::default();
    assert_eq!(parse(frame, &mut meta), Verdict::Forward, "{frame:02x?}");
    meta
}

const INSIDE: [u8; 4] = [100, 64, 0, 2];
const PUBLIC: [u8; 4] = [198, 51, 100, 1];
const SERVER: [u8; 4] = [192, 0, 2, 80];
const ROUTER: [u8; 4] = [203, 0, 113, 9];

#[test]
fn a_packet_that_keeps_its_tuple_changes_in_ttl_and_ip_checksum_only() {
    let tuple = key(INSIDE, 1000, SERVER, 443, proto::TCP);
    let before = Link::default().tcp(
        &tuple,
        &Segment {
            flags: 2,
            ..Segment::default()
        },
    );
    let mut after = before.clone();
    rewrite_flow(&mut after, &parsed(&before), &tuple);
    let expected = Link {
        ttl: 63,
        ..Link::default()
    }
    .tcp(
        &tuple,
        &Segment {
            flags: 2,
            ..Segment::default()
        },
    );
    assert_eq!(after, expected);
}

#[test]
fn udp_without_checksum_stays_without_rfc_768() {
    let tuple = key(INSIDE, 1000, SERVER, 53, proto::UDP);
    let mut bytes = Link::default().udp(&tuple, b"query");
    bytes[40..42].fill(0);
    let meta = parsed(&bytes);
    rewrite_flow(&mut bytes, &meta, &key(PUBLIC, 2000, SERVER, 53, proto::UDP));
    assert_eq!(bytes[40..42], [0, 0]);
    assert_eq!(bytes[34..36], 2000u16.to_be_bytes());
}

#[test]
fn a_udp_checksum_that_becomes_0_is_sent_as_ffff_rfc_768() {
    let (from, to) = (
        key(INSIDE, 1000, SERVER, 53, proto::UDP),
        key(PUBLIC, 2000, SERVER, 53, proto::UDP),
    );
    // The data that makes the translated datagram sum to 0xffff is its checksum with zero data in that place.
    let sum = build::udp(&to, &[0, 0]);
    let data = [sum[6], sum[7]];
    let mut bytes = Link::default().udp(&from, &data);
    let meta = parsed(&bytes);
    rewrite_flow(&mut bytes, &meta, &to);
    assert_eq!(bytes[40..42], [0xff, 0xff]);
    assert_eq!(
        bytes,
        Link {
            ttl: 63,
            ..Link::default()
        }
        .udp(&to, &data)
    );
}

#[test]
fn bytes_after_the_ip_packet_are_not_touched() {
    let from = key(INSIDE, 1000, SERVER, 53, proto::UDP);
    let mut bytes = Link::default().udp(&from, b"");
    bytes.extend([0xde, 0xad, 0xbe, 0xef]);
    let meta = parsed(&bytes);
    rewrite_flow(&mut bytes, &meta, &key(PUBLIC, 2000, SERVER, 53, proto::UDP));
    assert_eq!(bytes[42..], [0xde, 0xad, 0xbe, 0xef]);
}

#[test]
fn a_frame_that_does_not_fit_its_meta_is_left_alone() {
    let from = key(INSIDE, 1000, SERVER, 53, proto::UDP);
    let bytes = Link::default().udp(&from, b"data");
    let meta = parsed(&bytes);
    let mut short = bytes[..bytes.len() - 1].to_vec();
    rewrite_flow(&mut short, &meta, &from.reversed());
    assert_eq!(short, bytes[..bytes.len() - 1]);
}

/// Quote of a packet with `tuple`, `l4_len` bytes of its transport kept.
fn quote(tuple: &FlowKey, ttl: u8, l4_len: usize) -> Vec<u8> {
    let l4 = match tuple.proto {
        proto::UDP => build::udp(tuple, b"0123456789"),
        proto::TCP => build::tcp(
            tuple,
            &Segment {
                flags: 2,
                ..Segment::default()
            },
        ),
        _ => build::echo(tuple, 7, b"0123456789ab"),
    };
    let packet = Link {
        ttl,
        ..Link::default()
    }
    .ip_packet(tuple, &l4);
    packet[..packet.len() - l4.len() + l4_len].to_vec()
}

fn flows() -> [FlowKey; 4] {
    [
        key(INSIDE, 1000, SERVER, 53, proto::UDP),
        key(INSIDE, 1000, SERVER, 443, proto::TCP),
        key(INSIDE, 77, SERVER, 0, proto::ICMP),
        key(INSIDE, 0, SERVER, 78, proto::ICMP),
    ]
}

fn translated(inside: &FlowKey) -> FlowKey {
    let port = |p: u16| if p == 0 { 0 } else { p + 30_000 };
    let dst_port = if inside.proto == proto::ICMP {
        port(inside.dst_port)
    } else {
        inside.dst_port
    };
    FlowKey {
        src: Addr::v4(PUBLIC),
        src_port: port(inside.src_port),
        dst_port,
        ..*inside
    }
}

#[test]
fn an_error_from_outside_reaches_the_inside_as_if_untranslated_rfc_5508_req_4() {
    for inside in flows() {
        let outside = translated(&inside);
        for l4_len in [8, 12, 16, 18] {
            let outer = |dst| key(ROUTER, 0, dst, 0, proto::ICMP);
            let link = Link {
                ttl: 60,
                ..Link::default()
            };
            let mut bytes = link.icmp(
                &outer(PUBLIC),
                3,
                4,
                [0, 0, 5, 0x78],
                &quote(&outside, 50, l4_len),
            );
            let meta = parsed(&bytes);
            assert_eq!(meta.key, outside.reversed());
            rewrite_icmp_error(&mut bytes, &meta, &inside.reversed(), Direction::Reply);
            let link = Link {
                ttl: 59,
                ..Link::default()
            };
            let expected = link.icmp(&outer(INSIDE), 3, 4, [0, 0, 5, 0x78], &quote(&inside, 50, l4_len));
            assert_eq!(bytes, expected, "{inside:?}, {l4_len} bytes of transport quoted");
        }
    }
}

#[test]
fn an_error_from_inside_hides_its_sender_rfc_5508_req_5() {
    // The server's packet to the client met a router inside.
    for inside in flows() {
        let outside = translated(&inside);
        let inner_router = [100, 64, 9, 9];
        let outer = |src| key(src, 0, SERVER, 0, proto::ICMP);
        let link = Link {
            ttl: 60,
            ..Link::default()
        };
        let mut bytes = link.icmp(
            &outer(inner_router),
            11,
            0,
            [0; 4],
            &quote(&inside.reversed(), 1, 18),
        );
        let meta = parsed(&bytes);
        assert_eq!(meta.key, inside);
        rewrite_icmp_error(&mut bytes, &meta, &outside, Direction::Original);
        let link = Link {
            ttl: 59,
            ..Link::default()
        };
        assert_eq!(
            bytes,
            link.icmp(&outer(PUBLIC), 11, 0, [0; 4], &quote(&outside.reversed(), 1, 18))
        );
    }
}

#[test]
fn a_quoted_udp_checksum_of_0_stays_0() {
    let (inside, outside) = (flows()[0], translated(&flows()[0]));
    let mut quoted = quote(&outside, 9, 12);
    quoted[26..28].fill(0);
    let mut bytes = Link::default().icmp(&key(ROUTER, 0, PUBLIC, 0, proto::ICMP), 3, 3, [0; 4], &quoted);
    let meta = parsed(&bytes);
    rewrite_icmp_error(&mut bytes, &meta, &inside.reversed(), Direction::Reply);
    assert_eq!(bytes[42 + 26..42 + 28], [0, 0]);
}

#[test]
fn an_icmpv6_error_keeps_its_addresses_and_loses_a_hop() {
    let six = |s: &str| Addr::from(s.parse::<std::net::Ipv6Addr>().unwrap());
    let flow = FlowKey {
        src: six("2001:db8::2"),
        dst: six("2001:db8:1::1"),
        ..flows()[0]
    };
    let outer = FlowKey {
        src: six("2001:db8:f::9"),
        dst: flow.src,
        proto: proto::ICMP6,
        ..flow
    };
    let error = |ttl| {
        Link {
            ttl,
            ..Link::default()
        }
        .icmp(&outer, 2, 0, [0, 0, 5, 0], &quote(&flow, 3, 18))
    };
    let mut bytes = error(64);
    let meta = parsed(&bytes);
    rewrite_icmp_error(&mut bytes, &meta, &flow.reversed(), Direction::Reply);
    assert_eq!(bytes, error(63));
}

#[test]
fn tags_are_added_removed_and_replaced() {
    let tuple = flows()[0];
    for from in [&[][..], &[5], &[5, 6]] {
        for to in [&[][..], &[7], &[7, 8]] {
            let [from, to] = [from, to].map(|ids| VlanTags::from_ids(ids).unwrap());
            let bytes = Link {
                vlans: from,
                ..Link::default()
            }
            .udp(&tuple, b"data");
            let meta = parsed(&bytes);
            let mut packet = Buffer::new(8, &bytes, 2048);
            assert!(set_l2(&mut packet, &meta, [6; 6], [8; 6], &to));
            let link = Link {
                dst_mac: [6; 6],
                src_mac: [8; 6],
                vlans: to,
                ..Link::default()
            };
            assert_eq!(packet.data(), link.udp(&tuple, b"data"));
        }
    }
}

#[test]
fn no_headroom_for_tags_is_said_and_changes_nothing() {
    let bytes = Link::default().udp(&flows()[0], b"data");
    let mut packet = Buffer::new(3, &bytes, 2048);
    assert!(!set_l2(
        &mut packet,
        &parsed(&bytes),
        [6; 6],
        [8; 6],
        &VlanTags::from_ids(&[9]).unwrap()
    ));
    assert_eq!(packet.data(), bytes);
}

proptest! {
    #[test]
    fn the_shape_of_most_packets_is_rewritten_as_any_other(
        link in any_link(),
        key in any_key(),
        to in any_key(),
        data in prop::collection::vec(any::<u8>(), 0..60),
        without_checksum in any::<bool>(),
        cut in 0_usize..80,
    ) {
        let to = FlowKey { proto: key.proto, ..to };
        prop_assume!(key.src.is_v4() && to.src.is_v4());
        let mut before = frame(&link, &key, &data);
        let meta = parsed(&before);
        if without_checksum && key.proto == proto::UDP {
            before[meta.l4_offset() + 6..][..2].fill(0);
        }
        // A frame that doesn't fit its meta is left alone.
        before.truncate(before.len().saturating_sub(cut.saturating_sub(40)));
        let (mut any, mut fast) = (before.clone(), before.clone());
        let changed = rewrite_flow(&mut any, &meta, &to);
        let tuples = Tuples::new(&[key, to.reversed()]).unwrap();
        let (addresses, ports) = tuples.leaves_v4(Direction::Original).unwrap();
        if rewrite_plain(&mut fast, &meta, addresses, ports) {
            prop_assert_eq!((true, fast), (changed, any));
        } else {
            prop_assert_eq!(&fast, &before);
            let ours = matches!(key.proto, proto::TCP | proto::UDP) && !meta.has_options && changed;
            prop_assert!(!ours || (to.src, to.dst) == (key.src, key.dst));
        }
    }

    #[test]
    fn checksums_are_those_of_a_frame_built_anew(
        from in any_key(),
        addresses: [[u8; 15]; 2],
        ports in (1..=u16::MAX, 1..=u16::MAX),
        link in any_link(),
        data in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        // The same family, protocol and kind of query; everything else may change.
        let address = |b: &[u8; 15]| match from.src.is_v4() {
            true => Addr::v4([11, b[0], b[1], b[2]]),
            false => {
                let mut octets = [0x20; 16];
                octets[1..].copy_from_slice(b);
                Addr::v6(octets)
            }
        };
        let port = |old, new| if old == 0 { 0 } else { new };
        let to = FlowKey {
            src: address(&addresses[0]),
            dst: address(&addresses[1]),
            src_port: port(from.src_port, ports.0),
            dst_port: port(from.dst_port, ports.1),
            ..from
        };
        let before = frame(&link, &from, &data);
        let meta = parsed(&before);
        let mut bytes = before.clone();
        rewrite_flow(&mut bytes, &meta, &to);
        prop_assert_eq!(&bytes, &frame(&Link { ttl: link.ttl - 1, ..link }, &to, &data));
        let seen = read(&bytes).unwrap();
        prop_assert_eq!((seen.key, seen.ttl), (to, meta.ttl - 1));
        restore_flow(&mut bytes, &meta);
        prop_assert_eq!(bytes, before);
    }

    #[test]
    fn arbitrary_quotes_are_translated_without_panic_and_with_a_right_checksum(
        rest in prop::collection::vec(any::<u8>(), 8..100),
        version_ihl in 0x45u8..0x48,
        protocol in prop::sample::select(vec![1u8, 6, 17, 50]),
    ) {
        let mut quoted = quote(&flows()[0], 3, 0);
        quoted[0] = version_ihl;
        quoted[9] = protocol;
        quoted.extend(rest);
        let mut bytes = Link::default().icmp(&key(ROUTER, 0, INSIDE, 0, proto::ICMP), 3, 3, [0; 4], &quoted);
        let mut meta = Meta::default();
        if parse(&bytes, &mut meta) == Verdict::Forward {
            let to = FlowKey { dst: Addr::v4(PUBLIC), dst_port: 9, ..meta.key };
            rewrite_icmp_error(&mut bytes, &meta, &to, Direction::Original);
            prop_assert!(read(&bytes).is_some());
            prop_assert_eq!(bytes.len(), 42 + quoted.len());
            prop_assert_eq!(parsed(&bytes).key.dst, to.dst);
        }
    }
}
