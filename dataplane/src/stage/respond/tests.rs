//! Answers byte by byte where they are short, else read by `etherparse` and by parse itself.

use proptest::prelude::*;

use super::*;
use crate::flow::{FlowKey, VrfId};
use crate::stage::oracle::{Buffer, any_key, any_link, frame, read};
use crate::stage::parse::parse;
use crate::stage::rewrite::rewrite_flow;
use crate::verdict::Verdict;
use crate::wire::build::{Link, Segment};

const OURS: Mac = [2, 0, 0, 0, 0, 0xaa];
const ROUTER: [u8; 4] = [192, 0, 2, 254];

fn parsed(frame: &[u8]) -> Meta {
    let mut meta = Meta::default();
    assert_eq!(parse(frame, &mut meta), Verdict::Forward, "{frame:02x?}");
    meta
}

fn key4(proto: u8) -> FlowKey {
    let (src, dst) = (Addr::v4([100, 64, 0, 2]), Addr::v4([192, 0, 2, 80]));
    FlowKey {
        src,
        dst,
        src_port: 1000,
        dst_port: 443,
        vrf: VrfId(0),
        proto,
    }
}

fn six(s: &str) -> Addr {
    s.parse::<std::net::Ipv6Addr>().unwrap().into()
}

fn empty() -> Buffer {
    Buffer::new(128, &[], 2048)
}

/// Source of the errors that answer packets of this family.
fn source(meta: &Meta) -> Addr {
    if meta.is_v6 {
        six("2001:db8::fe")
    } else {
        Addr::v4(ROUTER)
    }
}

#[test]
fn an_arp_request_becomes_its_reply_rfc_826() {
    let tag = [0x81, 0, 0, 7];
    #[rustfmt::skip]
    let request = [
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2][..], &tag, &[8, 6],
        &[0, 1, 8, 0, 6, 4, 0, 1], &[2, 0, 0, 0, 0, 2], &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 254], &[0; 14],
    ].concat();
    #[rustfmt::skip]
    let reply = [
        &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0xaa][..], &tag, &[8, 6],
        &[0, 1, 8, 0, 6, 4, 0, 2], &OURS, &[10, 0, 0, 254], &[2, 0, 0, 0, 0, 2], &[10, 0, 0, 1], &[0; 14],
    ].concat();
    let mut bytes = request.clone();
    assert!(arp_reply(&mut bytes, &parsed(&request), OURS));
    assert_eq!(bytes, reply);
    assert!(
        !arp_reply(&mut bytes, &parsed(&reply), OURS),
        "a reply is not answered"
    );
    assert_eq!(bytes, reply);
}

#[test]
fn gratuitous_arp_has_two_forms_rfc_5227_and_5944() {
    for (form, operation, target_mac) in [(ArpForm::Request, 1, [0; 6]), (ArpForm::Reply, 2, OURS)] {
        let mut packet = empty();
        assert!(gratuitous_arp(
            &mut packet,
            [10, 0, 0, 254],
            OURS,
            &VlanTags::NONE,
            form
        ));
        let body = [
            &[0, 1, 8, 0, 6, 4, 0, operation][..],
            &OURS,
            &[10, 0, 0, 254],
            &target_mac,
            &[10, 0, 0, 254],
        ];
        let link = Link {
            dst_mac: [0xff; 6],
            src_mac: OURS,
            ..Link::default()
        };
        assert_eq!(packet.data(), link.ethernet(0x0806, &body.concat()));
    }
}

/// A neighbour advertisement as it should be.
fn advertisement(link: &Link, src: Addr, dst: Addr, flags: u8) -> Vec<u8> {
    let key = FlowKey {
        src,
        dst,
        proto: proto::ICMP6,
        ..key4(0)
    };
    let body = [&src.octets()[..], &[2, 1], &OURS].concat();
    Link {
        ttl: 255,
        src_mac: OURS,
        ..link.clone()
    }
    .icmp(&key, 136, 0, [flags, 0, 0, 0], &body)
}

#[test]
fn a_solicitation_becomes_an_advertisement_rfc_4861_7_2_4() {
    let (target, asker) = (six("2001:db8::fe"), six("2001:db8::2"));
    let vlans = VlanTags::from_ids(&[100, 200]).unwrap();
    let link = Link {
        ttl: 255,
        vlans,
        dst_mac: [0x33, 0x33, 0xff, 0, 0, 0xfe],
        ..Link::default()
    };
    let key = FlowKey {
        src: asker,
        dst: six("ff02::1:ff00:fe"),
        proto: proto::ICMP6,
        ..key4(0)
    };
    for options in [&[][..], &[1, 1, 2, 0, 0, 0, 0, 2]] {
        let bytes = link.icmp(&key, 135, 0, [0; 4], &[&target.octets()[..], options].concat());
        let mut packet = Buffer::new(0, &bytes, 2048);
        assert!(neighbor_advertisement(&mut packet, &parsed(&bytes), OURS));
        let back = Link {
            dst_mac: link.src_mac,
            ..link.clone()
        };
        assert_eq!(packet.data(), advertisement(&back, target, asker, 0xe0));
    }
    // A host checking whether the address is free has none to answer to.
    let bytes = link.icmp(
        &FlowKey {
            src: Addr::v6([0; 16]),
            ..key
        },
        135,
        0,
        [0; 4],
        &target.octets(),
    );
    let mut packet = Buffer::new(0, &bytes, 2048);
    assert!(neighbor_advertisement(&mut packet, &parsed(&bytes), OURS));
    let all = Link {
        dst_mac: [0x33, 0x33, 0, 0, 0, 1],
        ..link
    };
    assert_eq!(packet.data(), advertisement(&all, target, six("ff02::1"), 0xa0));
    let answer = parsed(packet.data());
    assert!(
        !neighbor_advertisement(&mut packet, &answer, OURS),
        "no answer to an answer"
    );
}

#[test]
fn an_unsolicited_advertisement_overrides_rfc_4861_7_2_6() {
    let mut packet = empty();
    assert!(unsolicited_advertisement(
        &mut packet,
        six("2001:db8::fe").octets(),
        OURS,
        &VlanTags::NONE
    ));
    let link = Link {
        dst_mac: [0x33, 0x33, 0, 0, 0, 1],
        ..Link::default()
    };
    assert_eq!(
        packet.data(),
        advertisement(&link, six("2001:db8::fe"), six("ff02::1"), 0xa0)
    );
    let mut small = Buffer::new(0, &[], 60);
    assert!(!unsolicited_advertisement(
        &mut small,
        [0; 16],
        OURS,
        &VlanTags::NONE
    ));
}

#[test]
fn an_echo_request_becomes_its_reply() {
    let four = FlowKey {
        dst_port: 0,
        ..key4(proto::ICMP)
    };
    let six = FlowKey {
        src: six("2001:db8::2"),
        dst: six("2001:db8::fe"),
        proto: proto::ICMP6,
        ..four
    };
    for key in [four, six] {
        for data in [&b""[..], b"odd"] {
            let link = Link {
                ttl: 3,
                ..Link::default()
            };
            let mut bytes = link.echo(&key, 9, data);
            let meta = parsed(&bytes);
            assert!(echo_reply(&mut bytes, &meta));
            let link = Link {
                dst_mac: link.src_mac,
                src_mac: link.dst_mac,
                ..Link::default()
            };
            assert_eq!(bytes, link.echo(&key.reversed(), 9, data));
            assert!(
                !echo_reply(&mut bytes.clone(), &parsed(&bytes)),
                "a reply is not answered"
            );
        }
    }
}

/// Error, type and code for IPv4, for IPv6.
type Case = (IcmpError, (u8, u8), (u8, u8));

const ERRORS: [Case; 6] = [
    (IcmpError::TimeExceeded, (11, 0), (3, 0)),
    (IcmpError::TooBig { mtu: 1400 }, (3, 4), (2, 0)),
    (IcmpError::AdminProhibited, (3, 13), (1, 1)),
    (IcmpError::NoRoute, (3, 0), (1, 0)),
    (IcmpError::HostUnreachable, (3, 1), (1, 3)),
    (IcmpError::PortUnreachable, (3, 3), (1, 4)),
];

#[test]
fn errors_quote_the_whole_of_a_short_packet() {
    let four = key4(proto::UDP);
    let six = FlowKey {
        src: six("2001:db8::2"),
        dst: six("2001:db8:1::1"),
        ..four
    };
    let link = Link {
        vlans: VlanTags::from_ids(&[9]).unwrap(),
        ..Link::default()
    };
    for key in [four, six] {
        for (error, type4, type6) in ERRORS {
            let mut bytes = link.udp(&key, b"data");
            bytes.extend([0xdd; 4]); // Ethernet padding is not part of the packet.
            let meta = parsed(&bytes);
            let mut packet = empty();
            assert!(icmp_error(&mut packet, &bytes, &meta, source(&meta), error));
            let ((kind, code), proto, tos) = if meta.is_v6 {
                (type6, proto::ICMP6, 0)
            } else {
                (type4, proto::ICMP, 0xc0)
            };
            let outer = FlowKey {
                src: source(&meta),
                dst: key.src,
                proto,
                ..key
            };
            let back = Link {
                dst_mac: link.src_mac,
                src_mac: link.dst_mac,
                tos,
                ..link.clone()
            };
            let word = if matches!(error, IcmpError::TooBig { .. }) {
                [0, 0, 5, 0x78]
            } else {
                [0; 4]
            };
            assert_eq!(
                packet.data(),
                back.icmp(&outer, kind, code, word, &bytes[18..bytes.len() - 4])
            );
        }
    }
}

#[test]
fn errors_are_at_most_576_or_1280_bytes_rfc_1812_4_3_2_3_rfc_4443_2_4() {
    let four = key4(proto::UDP);
    let six = FlowKey {
        src: six("2001:db8::2"),
        dst: six("2001:db8:1::1"),
        ..four
    };
    for (key, max) in [(four, 576), (six, 1280)] {
        let bytes = Link::default().udp(&key, &[7; 1400]);
        let meta = parsed(&bytes);
        let mut packet = empty();
        assert!(icmp_error(
            &mut packet,
            &bytes,
            &meta,
            source(&meta),
            IcmpError::TimeExceeded
        ));
        assert_eq!(packet.data().len(), 14 + max);
        assert_eq!(parsed(packet.data()).key, key.reversed());
    }
}

#[test]
fn a_rewritten_offender_is_quoted_as_it_came() {
    for key in [
        key4(proto::UDP),
        key4(proto::TCP),
        FlowKey {
            dst_port: 0,
            ..key4(proto::ICMP)
        },
    ] {
        for data in [&[7; 4][..], &[7; 1000]] {
            let bytes = frame(&Link::default(), &key, data);
            let meta = parsed(&bytes);
            let mut expected = empty();
            assert!(icmp_error(
                &mut expected,
                &bytes,
                &meta,
                source(&meta),
                IcmpError::AdminProhibited
            ));
            let mut rewritten = bytes.clone();
            let to = FlowKey {
                src: Addr::v4([198, 51, 100, 1]),
                src_port: 2000,
                ..key
            };
            rewrite_flow(&mut rewritten, &meta, &to);
            let mut packet = empty();
            assert!(icmp_error(
                &mut packet,
                &rewritten,
                &meta,
                source(&meta),
                IcmpError::AdminProhibited
            ));
            assert_eq!(packet.data(), expected.data());
        }
    }
}

#[test]
fn no_error_about_an_error_or_from_another_family_rfc_1122_3_2_2() {
    let udp = key4(proto::UDP);
    let quote = Link::default().ip_packet(&udp, &crate::wire::build::udp(&udp, b""));
    let outer = FlowKey {
        src: Addr::v4(ROUTER),
        dst: udp.src,
        ..key4(proto::ICMP)
    };
    let error = Link::default().icmp(&outer, 11, 0, [0; 4], &quote);
    let mut packet = empty();
    assert!(!icmp_error(
        &mut packet,
        &error,
        &parsed(&error),
        Addr::v4(ROUTER),
        IcmpError::TimeExceeded
    ));
    let bytes = Link::default().udp(&udp, b"");
    assert!(!icmp_error(
        &mut packet,
        &bytes,
        &parsed(&bytes),
        six("2001:db8::fe"),
        IcmpError::TimeExceeded
    ));
    assert!(packet.data().is_empty());
}

#[test]
fn resets_follow_rfc_9293_3_10_7_1() {
    let key = key4(proto::TCP);
    let (seq, ack) = (0xffff_ffff, 5000);
    let reset = |flags, seq, ack| {
        let link = Link {
            dst_mac: Link::default().src_mac,
            src_mac: Link::default().dst_mac,
            ..Link::default()
        };
        link.tcp(
            &key.reversed(),
            &Segment {
                flags,
                seq,
                ack,
                ..Segment::default()
            },
        )
    };
    let cases = [
        (tcp::SYN, &b""[..], Some(reset(tcp::RST | tcp::ACK, 0, 0))), // seq + 1 wraps
        (tcp::SYN, b"1234", Some(reset(tcp::RST | tcp::ACK, 0, 4))),
        (tcp::ACK, b"1234", Some(reset(tcp::RST, ack, 0))),
        (tcp::SYN | tcp::ACK, b"", Some(reset(tcp::RST, ack, 0))),
        (tcp::RST, b"", None),
        (tcp::RST | tcp::ACK, b"", None),
    ];
    for (flags, data, expected) in cases {
        let bytes = Link::default().tcp(
            &key,
            &Segment {
                flags,
                seq,
                ack,
                data,
                ..Segment::default()
            },
        );
        let mut packet = empty();
        assert_eq!(tcp_reset(&mut packet, &parsed(&bytes)), expected.is_some());
        assert_eq!(packet.data(), expected.unwrap_or_default());
    }
    let udp = Link::default().udp(&key4(proto::UDP), b"");
    assert!(!tcp_reset(&mut empty(), &parsed(&udp)));
}

proptest! {
    /// Whatever flow a packet is of, an error about it is whole, belongs to that flow, and comes back to its sender.
    #[test]
    fn errors_about_any_flow_find_back(
        key in any_key(),
        link in any_link(),
        data in prop::collection::vec(any::<u8>(), 0..1400),
        which in 0..ERRORS.len(),
    ) {
        let bytes = frame(&link, &key, &data);
        let meta = parsed(&bytes);
        let mut packet = empty();
        prop_assume!(key.src != source(&meta));
        prop_assert!(icmp_error(&mut packet, &bytes, &meta, source(&meta), ERRORS[which].0));
        let answer = parsed(packet.data());
        prop_assert_eq!((answer.kind, answer.key), (Kind::IcmpError, key.reversed()));
        prop_assert_eq!((answer.dst_mac(), answer.src_mac(), answer.vlans), (link.src_mac, link.dst_mac, link.vlans));
        prop_assert_eq!(read(packet.data()).map(|s| s.key.dst), Some(key.src));
    }

    #[test]
    fn resets_of_any_flow_find_back(key in any_key(), link in any_link(), data in prop::collection::vec(any::<u8>(), 0..50)) {
        let key = FlowKey { src_port: 5, dst_port: 6, proto: proto::TCP, ..key };
        let meta = parsed(&frame(&link, &key, &data));
        let mut packet = empty();
        prop_assert!(tcp_reset(&mut packet, &meta));
        prop_assert_eq!(parsed(packet.data()).key, key.reversed());
        prop_assert_eq!(read(packet.data()).map(|s| s.key), Some(key.reversed()));
    }
}
