//! Published vectors, and what is reckoned fast against what is reckoned port by port.

use proptest::prelude::*;

use super::*;
use crate::flow::{Addr, VrfId};

/// The key of Microsoft's "Verifying the RSS Hash Calculation".
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

fn flow(src: (&str, u16), dst: (&str, u16), proto: u8) -> FlowKey {
    let address = |text: &str| Addr::from(text.parse::<core::net::IpAddr>().unwrap());
    FlowKey {
        src: address(src.0),
        dst: address(dst.0),
        src_port: src.1,
        dst_port: dst.1,
        vrf: VrfId(0),
        proto,
    }
}

type End = (&'static str, u16);
/// Source, destination, hash with ports, hash without.
type Vector = (End, End, u32, u32);

const V4: [Vector; 5] = [
    (
        ("66.9.149.187", 2_794),
        ("161.142.100.80", 1_766),
        0x51cc_c178,
        0x323e_8fc2,
    ),
    (
        ("199.92.111.2", 14_230),
        ("65.69.140.83", 4_739),
        0xc626_b0ea,
        0xd718_262a,
    ),
    (
        ("24.19.198.95", 12_898),
        ("12.22.207.184", 38_024),
        0x5c2b_394a,
        0xd2d0_a5de,
    ),
    (
        ("38.27.205.30", 48_228),
        ("209.142.163.6", 2_217),
        0xafc7_327f,
        0x8298_9176,
    ),
    (
        ("153.39.163.191", 44_251),
        ("202.188.127.2", 1_303),
        0x10e8_28a2,
        0x5d18_09c5,
    ),
];

const V6: [Vector; 3] = [
    (
        ("3ffe:2501:200:1fff::7", 2_794),
        ("3ffe:2501:200:3::1", 1_766),
        0x4020_7d3d,
        0x2cc1_8cd5,
    ),
    (
        ("3ffe:501:8::260:97ff:fe40:efab", 14_230),
        ("ff02::1", 4_739),
        0xdde5_1bbf,
        0x0f0c_461c,
    ),
    (
        ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44_251),
        ("fe80::200:f8ff:fe21:67cf", 38_024),
        0x02d1_feef,
        0x4b61_e985,
    ),
];

#[test]
fn microsofts_vectors() {
    for (src, dst, with_ports, without) in V4 {
        let key = flow(src, dst, proto::TCP);
        let input = Rss::Flow.fields(true, true).input(&key);
        assert_eq!(toeplitz(&KEY, &input), with_ports, "{key:?}");
        let input = Rss::Flow.fields(false, true).input(&key);
        assert_eq!(toeplitz(&KEY, &input), without, "{key:?}");
    }
    for (src, dst, with_ports, without) in V6 {
        let key = flow(src, dst, proto::TCP);
        let mut input = [key.src.octets(), key.dst.octets()].concat();
        assert_eq!(toeplitz(&KEY, &input), without, "{key:?}");
        input.extend([key.src_port.to_be_bytes(), key.dst_port.to_be_bytes()].concat());
        assert_eq!(toeplitz(&KEY, &input), with_ports, "{key:?}");
    }
}

#[test]
fn each_choice_hashes_its_fields_in_their_order() {
    let key = flow(("1.2.3.4", 0x0506), ("7.8.9.10", 0x0b0c), proto::UDP);
    let input = |rss: Rss, udp| rss.fields(true, udp).input(&key).to_vec();
    assert_eq!(input(Rss::Flow, true), [1, 2, 3, 4, 7, 8, 9, 10, 5, 6, 11, 12]);
    assert_eq!(input(Rss::Flow, false), [1, 2, 3, 4, 7, 8, 9, 10]);
    assert_eq!(input(Rss::Source, true), [1, 2, 3, 4]);
    assert_eq!(input(Rss::Destination, true), [7, 8, 9, 10, 11, 12]);
    assert_eq!(input(Rss::Off, true), []);
    // ICMP has no ports that a card knows of.
    let echo = FlowKey {
        proto: proto::ICMP,
        ..key
    };
    assert_eq!(
        Rss::Destination.fields(true, true).input(&echo).to_vec(),
        [7, 8, 9, 10]
    );
}

#[test]
fn what_hashes_cant_be_reckoned_from_is_refused() {
    let flow = Rss::Flow.fields(true, true);
    let spread = |key: &[u8], fields, queues: &[u16]| Spread::new(key, fields, queues).map(drop);
    assert_eq!(spread(&KEY[..16], flow, &[0, 1]), Ok(()));
    assert_eq!(
        spread(&KEY[..15], flow, &[0, 1]),
        Err(SpreadError::Key { bytes: 15 })
    );
    assert_eq!(spread(&KEY, flow, &[]), Err(SpreadError::Table { entries: 0 }));
    assert_eq!(
        spread(&KEY, flow, &[0; 96]),
        Err(SpreadError::Table { entries: 96 })
    );
    let none = Rss::Off.fields(true, true);
    assert_eq!(spread(&KEY, none, &[0, 1]), Err(SpreadError::NoFields));
}

#[test]
fn where_the_port_makes_no_difference_there_is_no_home() {
    let home = |fields, queues: &[u16]| {
        let spread = Spread::new(&KEY, fields, queues).unwrap();
        Home::new(&spread, |queue| queue == 1).is_some()
    };
    assert!(home(Rss::Flow.fields(true, true), &[0, 1]));
    assert!(home(Rss::Destination.fields(false, true), &[0, 1, 2, 1]));
    assert!(!home(Rss::Flow.fields(false, false), &[0, 1]), "addresses alone");
    assert!(!home(Rss::Source.fields(true, true), &[0, 1]));
    assert!(!home(Rss::Flow.fields(true, true), &[1, 1]), "all are its own");
    assert!(!home(Rss::Flow.fields(true, true), &[0, 2]), "none is its own");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever key, table, packet and place in a bitmap: the 64 ports that are said to come home are those whose packets
    /// the card puts into a queue of the worker.
    #[test]
    fn ports_come_home_as_the_card_spreads_them(
        key in prop::collection::vec(any::<u8>(), 40..=52),
        queues in (0..10_u32).prop_flat_map(|bits| prop::collection::vec(0..4_u16, 1 << bits)),
        rss in prop::sample::select(vec![Rss::Flow, Rss::Destination]),
        (tcp, udp, own) in (any::<bool>(), any::<bool>(), 0..4_u16),
        (remote, external, port) in (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>()),
        first in 0..=u16::MAX - 63,
        is_tcp in any::<bool>(),
    ) {
        let spread = Spread::new(&key, rss.fields(tcp, udp), &queues).unwrap();
        let reply = FlowKey {
            src: Addr::v4(remote),
            dst: Addr::v4(external),
            src_port: port,
            dst_port: 0,
            vrf: VrfId(0),
            proto: if is_tcp { proto::TCP } else { proto::UDP },
        };
        let base = Home::new(&spread, |queue| queue == own).and_then(|home| Some((home.base(&reply)?, home)));
        let told = if is_tcp { tcp } else { udp };
        let some = queues.contains(&own) && queues.iter().any(|&queue| queue != own);
        prop_assert_eq!(base.is_some(), told && some);
        let Some((base, home)) = base else { return Ok(()) };
        let ports = home.ports(base, first);
        for bit in 0..64 {
            let dst_port = first + bit;
            let queue = spread.queue_of(&FlowKey { dst_port, ..reply });
            prop_assert_eq!(ports >> bit & 1 == 1, queue == own, "port {}", dst_port);
            prop_assert_eq!(home.is_home(base, dst_port), queue == own);
        }
    }
}
