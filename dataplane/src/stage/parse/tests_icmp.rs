//! Literal frames for ICMP: queries, errors and their quotes, protocols without ports.

use super::tests::{parsed, refused, udp4, udp6, v4, v6};
use super::*;
use crate::stage::oracle::frame;
use crate::wire::build::{self, Link};

#[test]
fn queries_have_their_identifier_on_the_requesters_side() {
    let request = v4([10, 0, 0, 1], 77, [8, 8, 8, 8], 0, proto::ICMP);
    let meta = parsed(&Link::default().echo(&request, 1, b"abc"));
    assert_eq!((meta.key, meta.is_request), (request, true));
    let meta = parsed(&Link::default().echo(&request.reversed(), 1, b"abc"));
    assert_eq!((meta.key, meta.is_request), (request.reversed(), false));
    let timestamp = Link::default().icmp(&request, 13, 0, [0, 77, 0, 1], &[0; 12]);
    assert_eq!(parsed(&timestamp).key, request);
    refused(
        &Link::default().icmp(&request, 17, 0, [0, 77, 0, 1], &[0; 4]),
        Drop::IcmpNotQuery,
    );
    refused(
        &Link::default().icmp(&request, 5, 1, [10, 0, 0, 9], &[0; 28]),
        Drop::IcmpNotQuery,
    );
}

#[test]
fn protocols_without_ports_are_flows_too() {
    let esp = FlowKey {
        src_port: 0,
        dst_port: 0,
        proto: 50,
        ..udp4()
    };
    assert_eq!(parsed(&Link::default().ip(&esp, &[1, 2, 3])).key, esp);
    refused(
        &Link::default().ip(
            &FlowKey {
                proto: proto::ICMP6,
                ..esp
            },
            &[128, 0, 0, 0, 0, 0, 0, 0],
        ),
        Drop::BadL4Header,
    );
}

/// An error from a router about `inner`, of which `quote_len` bytes are quoted.
fn error_about(inner: &FlowKey, quote_len: usize) -> Vec<u8> {
    let packet = Link::default().ip_packet(inner, &frame(&Link::default(), inner, b"0123456789")[34..]);
    let outer = FlowKey {
        src: Addr::v4([203, 0, 113, 9]),
        dst: inner.src,
        proto: proto::ICMP,
        ..*inner
    };
    Link::default().icmp(&outer, 11, 0, [0; 4], &packet[..quote_len])
}

#[test]
fn an_error_has_the_tuple_of_its_quote_reversed() {
    let udp = udp4();
    let tcp = FlowKey {
        proto: proto::TCP,
        ..udp
    };
    let request = FlowKey {
        dst_port: 0,
        proto: proto::ICMP,
        ..udp
    };
    let reply = FlowKey {
        src_port: 0,
        dst_port: 9,
        proto: proto::ICMP,
        ..udp
    };
    for inner in [udp, tcp, request, reply] {
        for quote_len in [28, 30, 38] {
            let meta = parsed(&error_about(&inner, quote_len));
            assert_eq!(
                (meta.kind, meta.key),
                (Kind::IcmpError, inner.reversed()),
                "quote of {quote_len} bytes"
            );
            assert_eq!((meta.icmp.kind, meta.icmp.embedded_l3_len), (11, 20));
        }
        for quote_len in [0, 19, 20, 27] {
            refused(&error_about(&inner, quote_len), Drop::BadIcmpQuote);
        }
    }
    let esp = FlowKey {
        src_port: 0,
        dst_port: 0,
        proto: 50,
        ..udp
    };
    let quote = Link::default().ip_packet(&esp, &[]);
    let outer = FlowKey {
        src: Addr::v4([203, 0, 113, 9]),
        dst: esp.src,
        proto: proto::ICMP,
        ..esp
    };
    assert_eq!(
        parsed(&Link::default().icmp(&outer, 3, 2, [0; 4], &quote)).key,
        esp.reversed()
    );
}

#[test]
fn errors_about_errors_fragments_or_strangers_are_refused() {
    let inner = udp4();
    let outer = FlowKey {
        src: Addr::v4([203, 0, 113, 9]),
        dst: inner.src,
        proto: proto::ICMP,
        ..inner
    };
    let about = |quote: &[u8]| Link::default().icmp(&outer, 3, 1, [0; 4], quote);
    let icmp = FlowKey {
        proto: proto::ICMP,
        ..inner
    };
    let error = build::icmp(&icmp, 3, 3, [0; 4], &[0; 28]);
    refused(
        &about(&Link::default().ip_packet(&icmp, &error)),
        Drop::BadIcmpQuote,
    );
    let later = Link {
        fragment: 5,
        ..Link::default()
    };
    refused(
        &about(&later.ip_packet(&inner, &build::udp(&inner, b""))),
        Drop::BadIcmpQuote,
    );
    let first = Link {
        fragment: 0x2000,
        ..Link::default()
    };
    parsed(&about(&first.ip_packet(&inner, &build::udp(&inner, b""))));
    let stranger = FlowKey {
        src: Addr::v4([100, 64, 0, 3]),
        ..inner
    };
    refused(
        &about(&Link::default().ip_packet(&stranger, &build::udp(&stranger, b""))),
        Drop::BadIcmpQuote,
    );
}

#[test]
fn icmpv6_errors_look_behind_extension_headers() {
    let inner = udp6();
    let link = Link {
        extensions: vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
        ..Link::default()
    };
    let quote = link.ip_packet(&inner, &build::udp(&inner, b"data"));
    let outer = FlowKey {
        src: v6("2001:db8:9::9", "::", 0).src,
        dst: inner.src,
        proto: proto::ICMP6,
        ..inner
    };
    for kind in 1..=4 {
        let meta = parsed(&Link::default().icmp(&outer, kind, 0, [0, 0, 5, 0], &quote));
        assert_eq!(
            (meta.kind, meta.key, meta.icmp.embedded_l3_len),
            (Kind::IcmpError, inner.reversed(), 48)
        );
    }
}
