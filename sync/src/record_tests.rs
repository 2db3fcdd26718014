//! Literal bytes of each record, round trips of arbitrary ones, and arbitrary bytes into the decoder.

use dataplane::flow::{Addr, proto};
use proptest::prelude::*;

use super::*;

const AT: SlotRef = SlotRef {
    vrf: VrfId(1),
    slot: 0x0203,
};
const TERM: Term = Term(0x101);

/// Handles 1 and 2 are VRFs of the same number with 1,024 slots and [`TERM`].
fn resolve(handle: u16) -> Option<Bound> {
    (handle == 1 || handle == 2).then_some(Bound {
        vrf: VrfId(handle),
        slots: 1_024,
        term: TERM,
    })
}

fn key4() -> FlowKey {
    FlowKey {
        src: Addr::v4([100, 64, 0, 1]),
        dst: Addr::v4([192, 0, 2, 1]),
        src_port: 0x1234,
        dst_port: 80,
        vrf: VrfId(1),
        proto: proto::TCP,
    }
}

fn encoded(delta: &Delta) -> Vec<u8> {
    let mut out = Vec::new();
    put_delta(&mut out, AT, delta, TERM);
    out
}

/// Decodes one record that must fill `bytes`.
fn decoded(bytes: &[u8]) -> Result<Message, RecordError> {
    assert_eq!(
        usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
        bytes.len() - HEADER
    );
    decode(bytes[2], &bytes[HEADER..], resolve)
}

#[test]
fn a_translated_ipv4_put_of_tcp_has_these_36_bytes() {
    let mut reply = key4().reversed();
    (reply.dst, reply.dst_port, reply.vrf) = (Addr::v4([198, 51, 100, 7]), 0xc001, VrfId(2));
    let put = PutRecord {
        original: key4(),
        reply,
        nat: Some(NatPart {
            grant: 300,
            mapping: true,
        }),
        class: Class::Established,
        scales: Scales::new(7, 2),
        lifetime_s: 7_440,
        version: Version {
            term: TERM,
            counter: 5,
        },
    };
    let bytes = [
        0,
        33,
        0x20, // length, PUT of IPv4
        0,
        1,
        2,
        3, // VRF handle, slot
        0b0011_1010,
        6,
        1,    // reply VRF, reply destination, NAT, mapping; TCP; established
        0x72, // window scales
        0x90,
        0x3a,
        5, // 7,440 s, counter
        100,
        64,
        0,
        1,
        192,
        0,
        2,
        1,
        0x12,
        0x34,
        0,
        80, // original
        0,
        2, // reply's VRF
        198,
        51,
        100,
        7,
        0xc0,
        1, // reply's destination
        0xac,
        2, // grant 300
    ];
    assert_eq!(encoded(&Delta::Put(put)), bytes);
    assert_eq!(
        decoded(&bytes),
        Ok(Message::Delta {
            at: AT,
            delta: Delta::Put(put)
        })
    );
}

#[test]
fn a_removal_under_an_older_term_spells_the_term_out() {
    let del = DelRecord {
        original: key4(),
        version: Version {
            term: Term(7),
            counter: 9,
        },
    };
    let bytes = [
        0, 27, 0x26, 0, 1, 2, 3, 0x40, 6, 100, 64, 0, 1, 192, 0, 2, 1, 0x12, 0x34, 0, 80, 9, 0, 0, 0, 0, 0,
        0, 0, 7,
    ];
    assert_eq!(encoded(&Delta::Del(del)), bytes);
    assert_eq!(
        decoded(&bytes),
        Ok(Message::Delta {
            at: AT,
            delta: Delta::Del(del)
        })
    );
}

#[test]
fn an_ack_has_these_bytes() {
    let mut out = Vec::new();
    put_ack(&mut out, 258);
    assert_eq!(out, [0, 8, 0x08, 0, 0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn r22_bytes_behind_the_last_field_are_ignored() {
    let refresh = Delta::Refresh(RefreshRecord {
        original: key4(),
        lifetime_s: 60,
    });
    let mut bytes = encoded(&refresh);
    bytes.extend([1, 2, 3]);
    assert_eq!(
        decode(bytes[2], &bytes[HEADER..], resolve),
        Ok(Message::Delta {
            at: AT,
            delta: refresh
        })
    );
}

#[test]
fn r21_unknown_types_and_handles_are_told_apart_from_malformed_records() {
    assert_eq!(decode(0x7f, &[], resolve), Err(RecordError::UnknownType));
    assert_eq!(
        decode(kind::PUT, &[0, 9, 0, 1], resolve),
        Err(RecordError::UnknownVrf)
    );
    assert_eq!(
        decode(kind::PUT, &[0, 1, 4, 0, 0], resolve),
        Err(RecordError::Malformed(None))
    );
    assert_eq!(
        decode(kind::PUT, &[0, 1, 2, 3, 0], resolve),
        Err(RecordError::Malformed(Some(AT)))
    );
}

#[test]
fn every_truncation_of_a_record_is_malformed() {
    let bytes = encoded(&Delta::State(StateRecord {
        original: key4(),
        class: Class::Closing,
        scales: Scales::new(7, Scales::UNSEEN),
        lifetime_s: 240,
        version: Version {
            term: TERM,
            counter: 1,
        },
    }));
    for len in 0..bytes.len() - HEADER {
        let body = &bytes[HEADER..HEADER + len];
        assert!(
            matches!(decode(bytes[2], body, resolve), Err(RecordError::Malformed(_))),
            "{len} bytes"
        );
    }
}

#[test]
fn opening_a_vrf_carries_all_of_it() {
    let open = VrfOpen {
        handle: 3,
        slots: 1_024,
        role: Role::Master,
        ready: true,
        term: TERM,
        capacity: 262_144,
        name: "main".to_owned(),
        sections: vec![Section {
            name: "nat".to_owned(),
            strength: Strength::MustEqual,
            hash: 77,
        }],
    };
    let mut out = Vec::new();
    put_vrf_open(&mut out, &open);
    assert_eq!(decoded(&out), Ok(Message::VrfOpen(open)));
}

fn address() -> impl Strategy<Value = Addr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(Addr::v4),
        any::<[u8; 16]>().prop_map(Addr::v6)
    ]
}

fn key() -> impl Strategy<Value = FlowKey> {
    (address(), address(), any::<(u16, u16, u8)>(), 1u16..3).prop_map(
        |(src, dst, (src_port, dst_port, proto), vrf)| FlowKey {
            src,
            dst,
            src_port,
            dst_port,
            vrf: VrfId(vrf),
            proto,
        },
    )
}

fn version() -> impl Strategy<Value = Version> {
    (prop_oneof![Just(TERM), any::<u64>().prop_map(Term)], any::<u64>())
        .prop_map(|(term, counter)| Version { term, counter })
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Opening),
        Just(Class::Established),
        Just(Class::Closing)
    ]
}

/// Window scales as a connection of the protocol can have them.
fn scales(scales: u8, protocol: u8) -> Scales {
    if protocol == proto::TCP {
        Scales(scales)
    } else {
        Scales::NONE
    }
}

fn any_delta() -> impl Strategy<Value = Delta> {
    let reply = prop_oneof![Just(None), key().prop_map(Some)];
    let nat = proptest::option::of(
        (any::<u64>(), any::<bool>()).prop_map(|(grant, mapping)| NatPart { grant, mapping }),
    );
    let put = (key(), reply, nat, (class(), any::<u8>()), any::<u32>(), version()).prop_map(
        |(o, r, nat, (class, s), l, v)| {
            let reply = r.unwrap_or_else(|| o.reversed());
            Delta::Put(PutRecord {
                original: o,
                reply,
                nat,
                class,
                scales: scales(s, o.proto),
                lifetime_s: l,
                version: v,
            })
        },
    );
    let state = (key(), class(), any::<u8>(), any::<u32>(), version()).prop_map(
        |(original, class, s, lifetime_s, version)| {
            Delta::State(StateRecord {
                original,
                class,
                scales: scales(s, original.proto),
                lifetime_s,
                version,
            })
        },
    );
    let refresh = (key(), any::<u32>())
        .prop_map(|(original, lifetime_s)| Delta::Refresh(RefreshRecord { original, lifetime_s }));
    let del = (key(), version()).prop_map(|(original, version)| Delta::Del(DelRecord { original, version }));
    let block = (
        any::<u64>(),
        address(),
        address(),
        any::<(u16, bool)>(),
        version(),
    )
        .prop_map(|(grant, subscriber, address, (port_first, held), version)| {
            Delta::Block(BlockRecord {
                grant,
                subscriber,
                address,
                port_first,
                held,
                version,
            })
        });
    prop_oneof![put, state, refresh, del, block]
}

proptest! {
    #[test]
    fn every_change_comes_back_as_it_was(delta in any_delta()) {
        prop_assert_eq!(decoded(&encoded(&delta)), Ok(Message::Delta { at: AT, delta }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind: u8, body in proptest::collection::vec(any::<u8>(), 0..128)) {
        let _ = decode(kind, &body, resolve);
    }

    #[test]
    fn flipped_bits_and_cuts_never_panic(delta in any_delta(), bit in 0usize..1024, cut in 0usize..128) {
        let mut bytes = encoded(&delta);
        let at = bit / 8 % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        let end = cut.clamp(HEADER, bytes.len());
        let _ = decode(bytes[2], &bytes[HEADER..end], resolve);
    }
}

#[test]
fn records_about_slots_have_these_bytes() {
    use crate::slot_record::{put_slot_begin, put_slot_digest, put_slot_end, put_slot_offer, put_slot_query};
    let version = Version {
        term: TERM,
        counter: 9,
    };
    let end = SlotEnd {
        generation: 7,
        count: 3,
        digest: 5,
        version,
    };
    let offer = SlotOffer {
        generation: 7,
        count: 3,
        digest: 5,
        version,
        absent: 2,
        same: true,
        exact: true,
    };
    type Write = Box<dyn Fn(&mut Vec<u8>)>;
    const HEAD: &[u8] = &[0, 1, 2, 3, 0, 0, 0, 7];
    const VERSION: &[u8] = &[0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 9];
    const SUM: &[u8] = &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5];
    let cases: Vec<(Write, u8, Vec<&[u8]>, Message)> = vec![
        (
            Box::new(move |out| put_slot_query(out, AT, 7)),
            0x12,
            vec![HEAD],
            Message::SlotQuery {
                at: AT,
                generation: 7,
            },
        ),
        (
            Box::new(move |out| put_slot_begin(out, AT, 7, version, None)),
            0x10,
            vec![HEAD, VERSION, &[0]],
            Message::SlotBegin {
                at: AT,
                generation: 7,
                version,
                since: None,
            },
        ),
        (
            Box::new(move |out| put_slot_begin(out, AT, 7, version, Some(version))),
            0x10,
            vec![HEAD, VERSION, &[1], VERSION],
            Message::SlotBegin {
                at: AT,
                generation: 7,
                version,
                since: Some(version),
            },
        ),
        (
            Box::new(move |out| put_slot_end(out, AT, &end)),
            0x11,
            vec![HEAD, SUM, VERSION],
            Message::SlotEnd { at: AT, end },
        ),
        (
            Box::new(move |out| put_slot_digest(out, AT, &end)),
            0x13,
            vec![HEAD, SUM, VERSION],
            Message::SlotDigest { at: AT, end },
        ),
        (
            Box::new(move |out| put_slot_offer(out, AT, &offer)),
            0x0b,
            vec![HEAD, SUM, VERSION, &[0, 0, 0, 2, 3]],
            Message::SlotOffer { at: AT, offer },
        ),
    ];
    for (write, kind, parts, message) in cases {
        let mut bytes = Vec::new();
        write(&mut bytes);
        let body = parts.concat();
        assert_eq!((usize::from(bytes[1]), bytes[2]), (body.len(), kind));
        assert_eq!(bytes[HEADER..], body);
        assert_eq!(decoded(&bytes), Ok(message));
    }
    // A flag of a SLOT-BEGIN that has no meaning.
    let mut bytes = Vec::new();
    put_slot_begin(&mut bytes, AT, 7, version, None);
    *bytes.last_mut().unwrap() = 2;
    assert_eq!(decoded(&bytes), Err(RecordError::Malformed(Some(AT))));
}
