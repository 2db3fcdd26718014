//! Pieces of packets: what each must hold, and what is read from it.

use proptest::prelude::*;

use super::tests::{parsed, refused, udp4, udp6, v4, verdict};
use super::*;
use crate::stage::meta::TcpSegment;
use crate::wire::build::{self, Link, Segment};
use crate::wire::tcp as flags;

/// IPv4 flags and offset.
fn four(fragment: u16) -> Link {
    Link {
        id: 0x1234,
        fragment,
        ..Link::default()
    }
}

/// A fragment header; `field` holds offset and flag.
fn six(field: u16) -> Link {
    let [a, b] = field.to_be_bytes();
    Link {
        extensions: vec![(44, vec![0, 0, a, b, 0xde, 0xad, 0xbe, 0xef])],
        ..Link::default()
    }
}

const fn place(id: u32, offset: u16, len: u16, more: bool) -> Fragment {
    Fragment {
        id,
        offset,
        len,
        more,
    }
}

#[test]
fn a_first_piece_is_a_flow_whose_checksum_nobody_can_verify() {
    let l4 = build::udp(&udp4(), &[7; 100]);
    let meta = parsed(&four(0x2000).ip(&udp4(), &l4[..64]));
    assert_eq!(
        (meta.kind, meta.piece, meta.key),
        (Kind::Flow, Piece::First, udp4())
    );
    assert_eq!(meta.fragment, place(0x1234, 0, 64, true));
    let l4 = build::udp(&udp6(), &[7; 100]);
    let meta = parsed(&six(1).ip(&udp6(), &l4[..64]));
    assert_eq!(
        (meta.kind, meta.piece, meta.key, meta.l3_len),
        (Kind::Flow, Piece::First, udp6(), 48)
    );
    assert_eq!(meta.fragment, place(0xdead_beef, 0, 64, true));
}

#[test]
fn a_later_piece_has_no_ports_whatever_its_bytes_say() {
    let bytes = [0xff; 40];
    let key = |of: FlowKey, proto| FlowKey {
        src_port: 0,
        dst_port: 0,
        proto,
        ..of
    };
    let meta = parsed(&four(0x2002).ip(&udp4(), &bytes));
    assert_eq!(
        (meta.kind, meta.piece, meta.key),
        (Kind::Fragment, Piece::Later, key(udp4(), proto::UDP))
    );
    assert_eq!(meta.fragment, place(0x1234, 16, 40, true));
    let meta = parsed(&six(0x10).ip(&udp6(), &bytes));
    assert_eq!(
        (meta.kind, meta.piece, meta.l3_len),
        (Kind::Fragment, Piece::Later, 48)
    );
    assert_eq!(meta.fragment, place(0xdead_beef, 16, 40, false));
}

#[test]
fn a_piece_after_another_kind_of_packet_leaves_no_trace() {
    let mut meta = Meta::default();
    assert_eq!(
        parse(&four(0x2002).ip(&udp4(), &[0; 40]), &mut meta),
        Verdict::Forward
    );
    assert_eq!(
        parse(&Link::default().udp(&udp4(), b""), &mut meta),
        Verdict::Forward
    );
    assert_eq!((meta.kind, meta.piece), (Kind::Flow, Piece::Whole));
}

#[test]
fn a_first_piece_without_the_whole_transport_header_is_tiny_rfc_1858() {
    let tcp = FlowKey {
        proto: proto::TCP,
        ..udp4()
    };
    let segment = Segment {
        flags: flags::ACK,
        options: &[1; 12],
        data: &[0; 100],
        ..Segment::default()
    };
    let l4 = build::tcp(&tcp, &segment);
    for len in [8, 16, 24] {
        refused(&four(0x2000).ip(&tcp, &l4[..len]), Drop::FragmentTiny);
    }
    parsed(&four(0x2000).ip(&tcp, &l4[..32]));
    // RFC 3128: what overwrites the flags of a first piece starts within its header.
    refused(&four(0x0001).ip(&tcp, &l4[..40]), Drop::FragmentTiny);
    refused(&four(0x2002).ip(&tcp, &l4[..40]), Drop::FragmentTiny);
    parsed(&four(0x2003).ip(&tcp, &l4[..40]));
}

#[test]
fn a_first_piece_without_the_whole_chain_of_headers_is_tiny_rfc_7112() {
    let mut link = six(1);
    link.extensions.push((60, vec![0, 3, 1, 4, 0, 0, 0, 0]));
    refused(&link.ip(&udp6(), &[0; 16]), Drop::FragmentTiny);
    let mut link = six(1);
    link.extensions.push((60, vec![0, 0, 1, 4, 0, 0, 0, 0]));
    let meta = parsed(&link.ip(&udp6(), &build::udp(&udp6(), &[0; 40])[..24]));
    assert_eq!((meta.key, meta.l3_len), (udp6(), 56));
    assert_eq!(
        meta.fragment,
        place(0xdead_beef, 0, 32, true),
        "headers behind the fragment header are part of what is cut"
    );
}

#[test]
fn lengths_that_no_sender_makes_are_bad() {
    refused(&four(0x2002).ip(&udp4(), &[0; 41]), Drop::FragmentBad);
    refused(&four(0x2002).ip(&udp4(), &[]), Drop::FragmentBad);
    refused(&six(0x11).ip(&udp6(), &[0; 41]), Drop::FragmentBad);
    refused(&six(0x10).ip(&udp6(), &[]), Drop::FragmentBad);
    // The last byte would be beyond 65,535.
    refused(&four(0x1fff).ip(&udp4(), &[0; 8]), Drop::FragmentBad);
    parsed(&four(0x1fff).ip(&udp4(), &[0; 7]));
    refused(&six(0xfff8).ip(&udp6(), &[0; 8]), Drop::FragmentBad);
}

#[test]
fn an_atomic_fragment_is_a_whole_packet_rfc_6946() {
    let meta = parsed(&six(0).udp(&udp6(), b""));
    assert_eq!((meta.key, meta.l3_len, meta.piece), (udp6(), 48, Piece::Whole));
    let mut broken = six(0).udp(&udp6(), b"data");
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(!udp_is_right(&broken, &parsed(&broken)));
}

#[test]
fn tcp_fields_of_a_first_piece_count_what_is_here() {
    let tcp = FlowKey {
        proto: proto::TCP,
        ..udp4()
    };
    let segment = Segment {
        flags: flags::ACK | flags::FIN,
        seq: 7,
        ack: 9,
        window: 512,
        options: &[1; 4],
        data: &[0; 100],
    };
    let l4 = build::tcp(&tcp, &segment);
    let meta = parsed(&four(0x2000).ip(&tcp, &l4[..64]));
    assert_eq!(
        meta.tcp,
        TcpSegment {
            seq: 7,
            ack: 9,
            payload_len: 40,
            window: 512,
            flags: flags::ACK | flags::FIN,
            window_scale: None
        }
    );
}

#[test]
fn pieces_of_echos_have_an_identifier_and_pieces_of_errors_are_refused() {
    let echo = v4([100, 64, 0, 2], 77, [192, 0, 2, 1], 0, proto::ICMP);
    let l4 = build::echo(&echo, 1, &[0; 100]);
    let meta = parsed(&four(0x2000).ip(&echo, &l4[..64]));
    assert_eq!((meta.key, meta.is_request), (echo, true));
    let quote = Link::default().ip_packet(&udp4().reversed(), &build::udp(&udp4().reversed(), &[0; 100]));
    let l4 = build::icmp(&echo, 3, 1, [0; 4], &quote);
    refused(&four(0x2000).ip(&echo, &l4[..64]), Drop::Fragment);
}

#[test]
fn pieces_of_neighbor_discovery_are_never_answered_rfc_6980() {
    let key = FlowKey {
        proto: proto::ICMP6,
        ..udp6()
    };
    let l4 = build::icmp(&key, 135, 0, [0; 4], &[0; 40]);
    refused(&six(1).ip(&key, &l4[..24]), Drop::IcmpNotQuery);
}

#[test]
fn pieces_for_a_link_or_a_group_are_the_kernels() {
    let group = v4([100, 64, 0, 2], 1, [224, 0, 0, 5], 1, 89);
    assert_eq!(verdict(&four(0x2002).ip(&group, &[0; 40])), Verdict::Punt);
    let link = super::tests::v6("fe80::1", "2001:db8::1", proto::UDP);
    assert_eq!(verdict(&six(0x11).ip(&link, &[0; 40])), Verdict::Punt);
}

proptest! {
    /// Every piece that is let through lies within its frame and within 64 KiB.
    #[test]
    fn arbitrary_pieces_are_refused_or_have_a_place(
        field: u16,
        is_v6: bool,
        proto in prop::sample::select(vec![1u8, 6, 17, 47, 58, 60]),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let (link, key) = if is_v6 { (six(field), udp6()) } else { (four(field), udp4()) };
        let frame = link.ip(&FlowKey { proto, ..key }, &bytes);
        let mut meta = Meta::default();
        if parse(&frame, &mut meta) == Verdict::Forward && meta.piece != Piece::Whole {
            let place = meta.fragment;
            prop_assert!(place.len > 0 && usize::from(place.len) <= frame.len());
            prop_assert!(u32::from(place.offset) + u32::from(place.len) <= 65_535);
            prop_assert_eq!(meta.piece == Piece::First, place.offset == 0);
            prop_assert!(meta.l4_offset() <= meta.ip_end() && meta.ip_end() <= frame.len());
            prop_assert_eq!(meta.kind, if place.offset == 0 { Kind::Flow } else { Kind::Fragment });
        }
    }
}
