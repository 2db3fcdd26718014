//! Literal frames, one or a few for each rule.

use super::*;
use crate::io::Verified;
use crate::stage::oracle::frame;
use crate::wire::build::{self, Link, Segment};
use crate::wire::checksum::Sum;
use crate::wire::tcp as flags;

pub(super) fn v4(a: [u8; 4], a_port: u16, b: [u8; 4], b_port: u16, proto: u8) -> FlowKey {
    FlowKey {
        src: Addr::v4(a),
        dst: Addr::v4(b),
        src_port: a_port,
        dst_port: b_port,
        vrf: VrfId(0),
        proto,
    }
}

pub(super) fn v6(a: &str, b: &str, proto: u8) -> FlowKey {
    let address = |s: &str| Addr::from(s.parse::<std::net::Ipv6Addr>().unwrap());
    FlowKey {
        src: address(a),
        dst: address(b),
        src_port: 1000,
        dst_port: 53,
        vrf: VrfId(0),
        proto,
    }
}

pub(super) fn udp4() -> FlowKey {
    v4([100, 64, 0, 2], 1000, [192, 0, 2, 1], 53, proto::UDP)
}

pub(super) fn udp6() -> FlowKey {
    v6("2001:db8::2", "2001:db8:1::1", proto::UDP)
}

pub(super) fn parsed(frame: &[u8]) -> Meta {
    let mut meta = Meta::default();
    assert_eq!(parse(frame, &mut meta), Verdict::Forward, "{frame:02x?}");
    meta
}

pub(super) fn verdict(frame: &[u8]) -> Verdict {
    parse(frame, &mut Meta::default())
}

pub(super) fn refused(frame: &[u8], reason: Drop) {
    assert_eq!(verdict(frame), Verdict::Drop(reason), "{frame:02x?}");
}

/// A frame with a byte changed and the IPv4 header checksum made right again.
pub(super) fn patched(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame[24..26].fill(0);
    let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
    let checksum = Sum::ZERO.bytes(&frame[14..end]).finish();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[test]
fn a_literal_dns_query_with_two_tags() {
    #[rustfmt::skip]
    let frame = [
        0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, // Ethernet
        0x88, 0xa8, 0x20, 100, 0x81, 0x00, 0x00, 200, 0x08, 0x00, // tags 100 (priority 1) and 200
        0x45, 0xb8, 0x00, 0x20, 0x12, 0x34, 0x40, 0x00, 0x3f, 0x11, 0x67, 0x0b, // 32 bytes, DSCP 46, TTL 63, UDP
        10, 0, 0, 1, 8, 8, 8, 8,
        0x04, 0x00, 0x00, 0x35, 0x00, 0x0c, 0x00, 0x00, // 1024 > 53, 12 bytes, no checksum
        1, 2, 3, 4,
        0xde, 0xad, // Ethernet padding
    ];
    let mut fixed = frame;
    let checksum = Sum::ZERO.bytes(&frame[22..32]).bytes(&frame[34..42]).finish();
    fixed[32..34].copy_from_slice(&checksum.to_be_bytes());
    let meta = parsed(&fixed);
    assert_eq!(meta.key, v4([10, 0, 0, 1], 1024, [8, 8, 8, 8], 53, proto::UDP));
    assert_eq!(
        (meta.kind, meta.ttl, meta.dscp, meta.is_v6),
        (Kind::Flow, 63, 46, false)
    );
    assert_eq!((meta.l2_len, meta.l3_len, meta.ip_len), (22, 20, 32));
    assert_eq!((meta.l4_offset(), meta.ip_end()), (42, 54));
    assert_eq!(meta.vlans.ids(), 100 << 16 | 200);
    assert_eq!(
        (meta.dst_mac(), meta.src_mac()),
        ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
    );
}

#[test]
fn every_prefix_of_a_frame_is_truncated() {
    let syn = Segment {
        flags: flags::SYN,
        ..Segment::default()
    };
    let tagged = Link {
        vlans: VlanTags::from_ids(&[5, 6]).unwrap(),
        ..Link::default()
    };
    let tcp4 = FlowKey {
        proto: proto::TCP,
        ..udp4()
    };
    for whole in [
        tagged.udp(&udp4(), b"data"),
        tagged.udp(&udp6(), b"data"),
        tagged.tcp(&tcp4, &syn),
    ] {
        for len in 0..whole.len() {
            refused(&whole[..len], Drop::Truncated);
        }
        parsed(&whole);
    }
}

#[test]
fn contradicting_ip_headers_are_refused() {
    let good = Link::default().udp(&udp4(), b"data");
    refused(&patched(good.clone(), 14, 0x55), Drop::BadIpHeader);
    refused(&patched(good.clone(), 14, 0x44), Drop::BadIpHeader);
    refused(&patched(good.clone(), 17, 19), Drop::BadIpHeader);
    refused(&patched(good.clone(), 14, 0x4f), Drop::BadIpHeader);
    refused(&patched(good, 16, 1), Drop::Truncated);
    let mut six = Link::default().udp(&udp6(), b"data");
    six[14] = 0x40;
    refused(&six, Drop::BadIpHeader);
}

#[test]
fn every_flipped_byte_of_header_and_data_is_noticed() {
    let (tcp4, echo4) = (
        FlowKey {
            proto: proto::TCP,
            ..udp4()
        },
        FlowKey {
            dst_port: 0,
            proto: 1,
            ..udp4()
        },
    );
    let (tcp6, echo6) = (
        FlowKey {
            proto: proto::TCP,
            ..udp6()
        },
        FlowKey {
            dst_port: 0,
            proto: 58,
            ..udp6()
        },
    );
    for key in [udp4(), tcp4, echo4, udp6(), tcp6, echo6] {
        let good = frame(&Link::default(), &key, b"payload");
        parsed(&good);
        // An IPv6 header has no checksum: its first 8 bytes may change, its addresses may not.
        for at in if key.src.is_v4() { 14 } else { 22 }..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mut meta = Meta::default();
            let refused = matches!(parse(&bad, &mut meta), Verdict::Drop(_));
            let told = meta.key.proto == proto::UDP && !udp_is_right(&bad, &meta);
            assert!(refused || told, "{key:?} byte {at}");
        }
    }
}

/// A message of ICMP no port verifies.
#[test]
fn what_its_port_has_verified_is_not_reckoned_again_and_everything_else_is() {
    let tcp = |key: FlowKey| FlowKey {
        proto: proto::TCP,
        ..key
    };
    let echo = v4([100, 64, 0, 2], 77, [192, 0, 2, 1], 0, proto::ICMP);
    let with_options = Link {
        options: vec![1, 1, 1, 1],
        ..Link::default()
    };
    for (link, key) in [
        (Link::default(), udp4()),
        (Link::default(), tcp(udp4())),
        (with_options, tcp(udp4())),
        (Link::default(), udp6()),
        (Link::default(), tcp(udp6())),
        (Link::default(), echo),
    ] {
        let good = frame(&link, &key, b"payload");
        let (mut data, mut ttl) = (good.clone(), good.clone());
        *data.last_mut().unwrap() ^= 1;
        ttl[22] ^= 1;
        for (header, transport) in [(false, false), (true, false), (false, true), (true, true)] {
            let passes = |frame: &[u8]| {
                let mut meta = Meta {
                    verified: Verified { header, transport },
                    ..Meta::default()
                };
                let whole_udp = |meta: &Meta| meta.key.proto == proto::UDP;
                parse(frame, &mut meta) == Verdict::Forward
                    && (!whole_udp(&meta) || udp_is_right(frame, &meta))
            };
            assert!(passes(&good), "{key:?}");
            assert_eq!(passes(&data), transport && key.proto != proto::ICMP, "{key:?}");
            assert!(!key.src.is_v4() || passes(&ttl) == header, "{key:?}");
        }
    }
}

#[test]
fn udp_without_checksum_is_for_ipv4_only_rfc_8200_8_1() {
    let mut four = Link::default().udp(&udp4(), b"data");
    four[40..42].fill(0);
    parsed(&four);
    let mut six = Link::default().udp(&udp6(), b"data");
    six[60..62].fill(0);
    refused(&six, Drop::BadL4Checksum);
}

#[test]
fn source_routes_are_refused_and_other_options_passed() {
    let with = |options: &[u8]| {
        Link {
            options: options.to_vec(),
            ..Link::default()
        }
        .udp(&udp4(), b"")
    };
    refused(&with(&[131, 7, 4, 1, 2, 3, 4]), Drop::SourceRoute);
    refused(&with(&[1, 137, 7, 4, 1, 2, 3, 4]), Drop::SourceRoute);
    refused(&with(&[7, 0, 0, 0]), Drop::BadIpHeader);
    refused(&with(&[7, 40, 4, 0]), Drop::BadIpHeader);
    let meta = parsed(&with(&[7, 7, 4, 0, 0, 0, 0])); // record route
    assert_eq!((meta.l3_len, meta.has_options), (28, true));
    parsed(&with(&[0, 131, 7, 4]));
}

#[test]
fn addresses_that_may_not_be_forwarded_rfc_1812_5_3_7() {
    let from = |src| {
        Link::default().udp(
            &FlowKey {
                src: Addr::v4(src),
                ..udp4()
            },
            b"",
        )
    };
    for src in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 5],
        [240, 0, 0, 1],
        [255; 4],
    ] {
        refused(&from(src), Drop::BadAddress);
    }
    for dst in [[0, 0, 0, 0], [127, 0, 0, 1], [240, 0, 0, 1]] {
        refused(
            &Link::default().udp(
                &FlowKey {
                    dst: Addr::v4(dst),
                    ..udp4()
                },
                b"",
            ),
            Drop::BadAddress,
        );
    }
    let good = "2001:db8::1";
    for (src, dst) in [
        ("ff02::1", good),
        ("::1", good),
        ("::", good),
        ("::ffff:1.2.3.4", good),
        (good, "::"),
    ] {
        let key = FlowKey {
            proto: proto::UDP,
            ..v6(src, dst, proto::UDP)
        };
        let packet = if key.src.is_v4() { udp6() } else { key };
        let mut bytes = Link::default().udp(&packet, b"");
        bytes[22..38].copy_from_slice(&key.src.octets());
        refused(&bytes, Drop::BadAddress);
    }
    refused(
        &Link::default().udp(&v6(good, good, proto::UDP), b""),
        Drop::BadAddress,
    );
}

#[test]
fn multicast_broadcast_and_link_local_are_the_kernels() {
    let to = |dst| {
        Link::default().udp(
            &FlowKey {
                dst: Addr::v4(dst),
                ..udp4()
            },
            b"",
        )
    };
    assert_eq!(verdict(&to([224, 0, 0, 18])), Verdict::Punt);
    assert_eq!(verdict(&to([255; 4])), Verdict::Punt);
    assert_eq!(verdict(&to([169, 254, 1, 1])), Verdict::Punt);
    let dhcp = v4([0; 4], 68, [255; 4], 67, proto::UDP);
    assert_eq!(verdict(&Link::default().udp(&dhcp, b"")), Verdict::Punt);
    let ospf = v6("fe80::1", "ff02::5", 89);
    assert_eq!(verdict(&Link::default().ip(&ospf, &[3, 1])), Verdict::Punt);
    assert_eq!(
        verdict(&Link::default().udp(&v6("fe80::1", "2001:db8::1", 17), b"")),
        Verdict::Punt
    );
    for ethertype in [0x88cc, 0x8809, 0x0026] {
        assert_eq!(
            verdict(&Link::default().ethernet(ethertype, &[0; 46])),
            Verdict::Punt
        );
    }
    refused(
        &Link::default().ethernet(0x9999, &[0; 46]),
        Drop::UnknownEthertype,
    );
}

#[test]
fn group_addresses_of_the_link_rfc_1812_5_3_4() {
    refused(
        &Link {
            src_mac: [1, 0, 0, 0, 0, 1],
            ..Link::default()
        }
        .udp(&udp4(), b""),
        Drop::BadMac,
    );
    refused(
        &Link {
            dst_mac: [0xff; 6],
            ..Link::default()
        }
        .udp(&udp4(), b""),
        Drop::BadMac,
    );
}

#[test]
fn tags_more_than_two_or_reserved_are_refused() {
    let inner = Link::default().udp(&udp4(), b"");
    let with = |tags: &[u8]| [&inner[..12], tags, &inner[12..]].concat();
    refused(
        &with(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3]),
        Drop::UnknownVlan,
    );
    refused(&with(&[0x81, 0, 0x0f, 0xff]), Drop::UnknownVlan);
    let meta = parsed(&with(&[0x81, 0, 0xe0, 0])); // a priority tag
    assert_eq!((meta.vlans, meta.l2_len), (VlanTags::NONE, 18));
    refused(&with(&[0x81, 0, 0, 0, 0x81, 0, 0, 0]), Drop::UnknownVlan);
}

#[test]
fn extension_headers_are_skipped_within_bounds() {
    let padding = |kind| (kind, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let with = |extensions| {
        Link {
            extensions,
            ..Link::default()
        }
        .udp(&udp6(), b"x")
    };
    let meta = parsed(&with(vec![
        padding(0),
        padding(60),
        (51, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]));
    assert_eq!(
        (meta.key, meta.l3_len, meta.has_options),
        (udp6(), 40 + 8 + 8 + 12, true)
    );
    refused(&with(vec![padding(60), padding(0)]), Drop::BadExtensionHeader);
    refused(&with(vec![padding(60); 9]), Drop::BadExtensionHeader);
    refused(
        &with(vec![(43, vec![0, 0, 0, 1, 0, 0, 0, 0])]),
        Drop::BadExtensionHeader,
    );
}

#[test]
fn tcp_fields_and_flags() {
    let key = FlowKey {
        proto: proto::TCP,
        ..udp4()
    };
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 9];
    let segment = Segment {
        flags: flags::SYN,
        seq: 0x0102_0304,
        ack: 0,
        window: 0xffff,
        options: &options,
        data: b"fast open",
    };
    let meta = parsed(&Link::default().tcp(&key, &segment));
    let expected = TcpSegment {
        seq: 0x0102_0304,
        ack: 0,
        payload_len: 9,
        window: 0xffff,
        flags: flags::SYN,
        window_scale: Some(9),
    };
    assert_eq!(meta.tcp, expected);
    let later = Segment {
        flags: flags::ACK,
        ..segment
    };
    assert_eq!(
        parsed(&Link::default().tcp(&key, &later)).tcp.window_scale,
        None,
        "only SYN negotiates, RFC 7323 2.2"
    );
    for bad in [
        0,
        flags::SYN | flags::FIN,
        flags::SYN | flags::RST,
        flags::FIN,
        0x3f,
        flags::FIN | 0x28,
    ] {
        refused(
            &Link::default().tcp(
                &key,
                &Segment {
                    flags: bad,
                    ..Segment::default()
                },
            ),
            Drop::BadTcpFlags,
        );
    }
    let port_0 = FlowKey { src_port: 0, ..key };
    refused(
        &Link::default().tcp(
            &port_0,
            &Segment {
                flags: 2,
                ..Segment::default()
            },
        ),
        Drop::BadL4Header,
    );
}

#[test]
fn tcp_data_offset_and_udp_length_must_fit() {
    let key = FlowKey {
        proto: proto::TCP,
        ..udp4()
    };
    for offset in [0x40, 0xf0] {
        let mut l4 = build::tcp(
            &key,
            &Segment {
                flags: 2,
                ..Segment::default()
            },
        );
        l4[12] = offset;
        refused(&Link::default().ip(&key, &l4), Drop::BadL4Header);
    }
    for len in [7, 13] {
        let mut l4 = build::udp(&udp4(), b"data");
        l4[5] = len;
        refused(&Link::default().ip(&udp4(), &l4), Drop::BadL4Header);
    }
}

#[test]
fn arp_names_who_asks_and_what_for() {
    let mut body = vec![
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 254,
    ];
    body.extend([0; 18]);
    let meta = parsed(
        &Link {
            dst_mac: [0xff; 6],
            ..Link::default()
        }
        .ethernet(0x0806, &body),
    );
    assert_eq!((meta.kind, meta.is_request), (Kind::Arp, true));
    assert_eq!(
        (meta.key.src, meta.key.dst),
        (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 254]))
    );
    body[4] = 8;
    refused(&Link::default().ethernet(0x0806, &body), Drop::BadNeighborMessage);
}

#[test]
fn solicitations_are_checked_rfc_4861_7_1_1() {
    let key = v6("2001:db8::2", "ff02::1:ff00:1", proto::ICMP6);
    let target = v6("2001:db8::1", "::", 0).src;
    let ns = |link: &Link, key: &FlowKey, options: &[u8]| {
        link.icmp(key, 135, 0, [0; 4], &[&target.octets()[..], options].concat())
    };
    let link = Link {
        ttl: 255,
        dst_mac: [0x33, 0x33, 0xff, 0, 0, 1],
        ..Link::default()
    };
    let meta = parsed(&ns(&link, &key, &[1, 1, 2, 0, 0, 0, 0, 2]));
    assert_eq!(
        (meta.kind, meta.is_request, meta.key.src, meta.key.dst),
        (Kind::NeighborDiscovery, true, key.src, target)
    );
    let probe = FlowKey {
        src: Addr::v6([0; 16]),
        ..key
    };
    assert_eq!(parsed(&ns(&link, &probe, &[])).kind, Kind::NeighborDiscovery);
    let all_nodes = FlowKey {
        dst: v6("ff02::1", "::", 0).src,
        ..probe
    };
    refused(&ns(&link, &all_nodes, &[]), Drop::BadNeighborMessage);
    refused(
        &ns(
            &Link {
                ttl: 64,
                ..link.clone()
            },
            &key,
            &[],
        ),
        Drop::BadNeighborMessage,
    );
    refused(
        &ns(&link, &key, &[1, 0, 2, 0, 0, 0, 0, 2]),
        Drop::BadNeighborMessage,
    );
    refused(
        &ns(&link, &key, &[1, 2, 2, 0, 0, 0, 0, 2]),
        Drop::BadNeighborMessage,
    );
    let advertisement = link.icmp(&key, 136, 0, [0x60, 0, 0, 0], &target.octets());
    assert!(!parsed(&advertisement).is_request);
    let router = link.icmp(&key, 133, 0, [0; 4], &[]);
    assert_eq!(verdict(&router), Verdict::Punt);
}
