//! Literal bytes of each record of a flow, round trips of arbitrary ones, and arbitrary bytes into the decoder.

use dataplane::flow::Addr;
use proptest::prelude::*;

use super::*;
use crate::record::{decode, measure, short_len};

const AT: SlotRef = SlotRef {
    vrf: VrfId(1),
    slot: 0x0203,
};
const TERM: Term = Term(0x101);
const STREAM: Stream = Stream {
    number: 0x0405,
    at: AT,
    last: Version {
        term: TERM,
        counter: 4,
    },
};
const HANDLE: Handle = Handle(0x01_0203);

/// Handles 1 and 2 are VRFs of the same number with 1,024 slots.
fn resolve(handle: u16) -> Option<Bound> {
    (handle == 1 || handle == 2).then_some(Bound {
        vrf: VrfId(handle),
        slots: 1_024,
    })
}

fn stream(number: u16) -> Option<Stream> {
    (number == STREAM.number).then_some(STREAM)
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

/// As most connections are: translated, of an endpoint-independent mapping, granted in this reign.
fn put4() -> PutRecord {
    let mut reply = key4().reversed();
    (reply.dst, reply.dst_port) = (Addr::v4([198, 51, 100, 7]), 0xc001);
    PutRecord {
        original: key4(),
        reply,
        nat: Some(NatPart {
            grant: grant_base(TERM) + 0x12_3456,
            mapping: true,
        }),
        class: Class::Opening,
        scales: Scales::new(7, Scales::UNSEEN),
        lifetime_s: 245,
        version: STREAM.next(),
        handle: HANDLE,
    }
}

fn encoded(delta: &Delta, walk: bool) -> Vec<u8> {
    let mut out = Vec::new();
    put_delta(&mut out, &mut STREAM.clone(), delta, walk);
    out
}

/// Decodes one record that must fill `bytes`.
fn decoded(bytes: &[u8]) -> Result<Message, RecordError> {
    let (start, end) = measure(bytes).unwrap();
    assert_eq!(end, bytes.len());
    decode(bytes[0], &bytes[start..], resolve, stream)
}

fn has_bytes(delta: Delta, live: bool, bytes: &[u8]) {
    assert_eq!(encoded(&delta, !live), bytes);
    assert_eq!(decoded(bytes), Ok(Message::Delta { at: AT, live, delta }));
}

/// sync/PROTOCOL.md R-28.
#[test]
fn a_translated_tcp_connection_over_ipv4_has_these_32_bytes() {
    #[rustfmt::skip]
    let bytes = [
        0x20, 30, 4, 5, // PUT of IPv4, length, stream
        0b0011_1000, // reply destination, NAT, mapping
        1, 2, 3, 69, 4, 0x7f, // handle; 245 s; TCP, opening; window scales
        100, 64, 0, 1, 192, 0, 2, 1, 0x12, 0x34, 0, 80, // original
        198, 51, 100, 7, 0xc0, 1, // reply's destination
        0xd6, 0xe8, 0x48, // 0x123456th grant of the stream's term
    ];
    assert_eq!(bytes.len(), 32);
    has_bytes(Delta::Put(put4()), true, &bytes);
}

#[test]
fn r25_a_record_of_a_walk_spells_its_version_out_in_terms_of_the_streams() {
    let put = PutRecord {
        version: Version {
            term: Term(0x102),
            counter: 9,
        },
        nat: None,
        reply: key4().reversed(),
        ..put4()
    };
    #[rustfmt::skip]
    let bytes = [
        0x20, 23, 4, 5, 0b0100_0000, 1, 2, 3, 69, 4, 0x7f,
        9, 3, // counter, term exclusive or 0x101
        100, 64, 0, 1, 192, 0, 2, 1, 0x12, 0x34, 0, 80,
    ];
    has_bytes(Delta::Put(put), false, &bytes);
}

#[test]
fn r26_changes_of_a_named_connection_have_these_bytes() {
    let (handle, version) = (HANDLE, STREAM.next());
    let state = |class| {
        Delta::State(StateRecord {
            handle,
            class,
            scales: Scales::new(7, 2),
            lifetime_s: 7_545,
            version,
        })
    };
    let cases: [(_, &[u8]); 4] = [
        (state(Class::Opening), &[0x80, 4, 5, 1, 2, 3, 0x72, 126]),
        (state(Class::Established), &[0x81, 4, 5, 1, 2, 3, 0x72, 126]),
        (state(Class::Closing), &[0x82, 4, 5, 1, 2, 3, 0x72, 126]),
        (
            Delta::Del(DelRecord {
                name: Name::Handle(handle),
                version,
            }),
            &[0xc0, 4, 5, 1, 2, 3],
        ),
    ];
    for (delta, bytes) in cases {
        has_bytes(delta, true, bytes);
    }
    let refresh = Delta::Refresh(RefreshRecord {
        handle,
        lifetime_s: 30,
    });
    has_bytes(refresh, false, &[0x83, 4, 5, 1, 2, 3, 0, 30]);
}

#[test]
fn a_removal_by_tuples_and_a_block_have_these_bytes() {
    let del = DelRecord {
        name: Name::Key(FlowKey {
            vrf: VrfId(2),
            ..key4()
        }),
        version: STREAM.next(),
    };
    #[rustfmt::skip]
    let bytes = [
        0x26, 18, 4, 5, 1, 6, 100, 64, 0, 1, 192, 0, 2, 1, 0x12, 0x34, 0, 80, 0, 2,
    ];
    has_bytes(Delta::Del(del), true, &bytes);
    let block = BlockRecord {
        grant: grant_base(TERM) + 300,
        subscriber: key4().src,
        address: Addr::v4([198, 51, 100, 7]),
        port_first: 0xc000,
        held: true,
        version: STREAM.next(),
    };
    #[rustfmt::skip]
    let bytes = [
        0x28, 15, 4, 5, 1, 0xac, 2, 100, 64, 0, 1, 198, 51, 100, 7, 0xc0, 0,
    ];
    has_bytes(Delta::Block(block), true, &bytes);
}

#[test]
fn a_short_tcp_connection_with_its_mapping_is_54_bytes() {
    let mut stream = STREAM;
    let mut out = Vec::new();
    let state = |class, version| {
        Delta::State(StateRecord {
            handle: HANDLE,
            class,
            scales: Scales::new(7, 2),
            lifetime_s: 245,
            version,
        })
    };
    put_delta(&mut out, &mut stream, &Delta::Put(put4()), false);
    for class in [Class::Established, Class::Closing] {
        let version = stream.next();
        put_delta(&mut out, &mut stream, &state(class, version), false);
    }
    let del = Delta::Del(DelRecord {
        name: Name::Handle(HANDLE),
        version: stream.next(),
    });
    assert_eq!(put_delta(&mut out, &mut stream, &del, false), Continuity::Kept);
    assert_eq!((out.len(), stream.last.counter), (54, 8));
}

#[test]
fn r25_a_new_term_and_a_gap_are_told_in_front_of_the_record_and_told_apart() {
    let del = |version| {
        Delta::Del(DelRecord {
            name: Name::Handle(HANDLE),
            version,
        })
    };
    let (renewed, missing) = (
        Version {
            term: Term(0x201),
            counter: 5,
        },
        Version {
            term: TERM,
            counter: 7,
        },
    );
    for (version, expected) in [(renewed, Continuity::NewTerm), (missing, Continuity::Gap)] {
        let (mut stream, mut out) = (STREAM, Vec::new());
        assert_eq!(put_delta(&mut out, &mut stream, &del(version), false), expected);
        assert_eq!(stream.last, version);
        let (start, end) = measure(&out).unwrap();
        let before = Version {
            counter: version.counter - 1,
            ..version
        };
        assert_eq!(
            decode(out[0], &out[start..end], resolve, self::stream),
            Ok(Message::SlotVersion {
                at: AT,
                version: before
            })
        );
        let told = Stream {
            last: before,
            ..STREAM
        };
        let record = decode(out[end], &out[end + 1..], resolve, |_| Some(told));
        assert_eq!(
            record,
            Ok(Message::Delta {
                at: AT,
                live: true,
                delta: del(version)
            })
        );
    }
}

#[test]
fn r22_bytes_behind_the_last_field_are_ignored() {
    let mut bytes = encoded(&Delta::Put(put4()), false);
    bytes.extend([1, 2, 3]);
    bytes[1] += 3;
    let put = Delta::Put(put4());
    assert_eq!(
        decoded(&bytes),
        Ok(Message::Delta {
            at: AT,
            live: true,
            delta: put
        })
    );
}

#[test]
fn r23_every_truncation_of_a_record_is_malformed_and_names_its_slot_when_it_can() {
    let bytes = encoded(&Delta::Put(put4()), false);
    for len in 0..bytes.len() - 2 {
        let at = if len < 2 { None } else { Some(AT) };
        assert_eq!(
            decode(bytes[0], &bytes[2..2 + len], resolve, stream),
            Err(RecordError::Malformed(at)),
            "{len} bytes"
        );
    }
}

#[test]
fn r24_bits_without_a_meaning_are_malformed() {
    let cases: [&[u8]; 5] = [
        &[0x83, 4, 5, 1, 2, 3, 1, 30],
        &[0xc0, 4, 5, 255, 255, 255],
        &[0x80, 4, 5, 255, 255, 255, 0, 30],
        &[
            0x28, 15, 4, 5, 2, 0xac, 2, 100, 64, 0, 1, 198, 51, 100, 7, 0xc0, 0,
        ],
        &[
            0x26, 16, 4, 5, 2, 6, 100, 64, 0, 1, 192, 0, 2, 1, 0x12, 0x34, 0, 80,
        ],
    ];
    for bytes in cases {
        assert_eq!(decoded(bytes), Err(RecordError::Malformed(Some(AT))), "{bytes:?}");
    }
    assert_eq!(decoded(&[0x83, 9, 9, 1, 2, 3, 0, 30]), Err(RecordError::NotOpen));
    let mut bytes = encoded(&Delta::Put(put4()), false);
    bytes[9] = 0xfc;
    assert_eq!(decoded(&bytes), Err(RecordError::Malformed(Some(AT))));
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

/// The next one, one that a walk may send, or any.
fn version() -> impl Strategy<Value = Version> {
    let any = (any::<u64>(), any::<u64>()).prop_map(|(term, counter)| Version {
        term: Term(term),
        counter,
    });
    prop_oneof![Just(STREAM.next()), Just(STREAM.last), any]
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Opening),
        Just(Class::Established),
        Just(Class::Closing)
    ]
}

fn handle() -> impl Strategy<Value = Handle> {
    (0..Handle::NONE.0).prop_map(Handle)
}

/// Lifetimes that can be told exactly.
fn lifetime() -> impl Strategy<Value = u32> {
    any::<u8>().prop_map(crate::lifetime::from_byte)
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
    let name = prop_oneof![handle(), Just(Handle::NONE)];
    let put = (
        key(),
        reply,
        nat,
        (class(), any::<u8>()),
        lifetime(),
        version(),
        name,
    )
        .prop_map(
            |(original, reply, nat, (class, s), lifetime_s, version, handle)| {
                Delta::Put(PutRecord {
                    original,
                    reply: reply.unwrap_or_else(|| original.reversed()),
                    nat,
                    class,
                    scales: scales(s, original.proto),
                    lifetime_s,
                    version,
                    handle,
                })
            },
        );
    let state = (handle(), class(), any::<u8>(), lifetime()).prop_map(|(handle, class, s, lifetime_s)| {
        Delta::State(StateRecord {
            handle,
            class,
            scales: Scales(s),
            lifetime_s,
            version: STREAM.next(),
        })
    });
    let refresh = (handle(), lifetime())
        .prop_map(|(handle, lifetime_s)| Delta::Refresh(RefreshRecord { handle, lifetime_s }));
    let named = handle().prop_map(|handle| {
        Delta::Del(DelRecord {
            name: Name::Handle(handle),
            version: STREAM.next(),
        })
    });
    let del = (key(), version()).prop_map(|(original, version)| {
        Delta::Del(DelRecord {
            name: Name::Key(original),
            version,
        })
    });
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
    prop_oneof![put, state, refresh, named, del, block]
}

/// Whether a walk may send it: short records are live.
fn is_long(delta: &Delta) -> bool {
    !matches!(
        delta,
        Delta::State(_)
            | Delta::Refresh(_)
            | Delta::Del(DelRecord {
                name: Name::Handle(_),
                ..
            })
    )
}

proptest! {
    #[test]
    fn every_change_comes_back_as_it_was(delta in any_delta(), walk: bool) {
        let (mut stream, mut out) = (STREAM, Vec::new());
        let walk = walk && is_long(&delta);
        put_delta(&mut out, &mut stream, &delta, walk);
        let mut known = STREAM;
        let mut bytes = &out[..];
        while let Some((start, end)) = measure(bytes) {
            match decode(bytes[0], &bytes[start..end], resolve, |_| Some(known)) {
                Ok(Message::SlotVersion { version, .. }) => known.last = version,
                Ok(Message::Delta { at, live, delta: came }) => {
                    prop_assert_eq!((at, came), (AT, delta));
                    if live {
                        known.last = known.next();
                    }
                    prop_assert_eq!(known, stream);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            bytes = &bytes[end..];
        }
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind: u8, body in proptest::collection::vec(any::<u8>(), 0..128)) {
        let _ = decode(kind, &body, resolve, |_| Some(STREAM));
    }

    #[test]
    fn flipped_bits_and_cuts_never_panic(delta in any_delta(), bit in 0usize..1024, cut in 0usize..128) {
        let mut bytes = encoded(&delta, false);
        let at = bit / 8 % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        let end = cut.clamp(1, bytes.len());
        let _ = decode(bytes[0], &bytes[1..end], resolve, stream);
    }
}

#[test]
fn r19_the_range_of_types_tells_how_long_a_short_record_is() {
    for (kind, len) in [(0x85, 8), (0xbf, 8), (0xc1, 6), (0xff, 6)] {
        let mut bytes = vec![kind; len];
        assert_eq!(short_len(kind), Some(len));
        assert_eq!(measure(&bytes), Some((1, len)));
        assert_eq!(decoded(&bytes), Err(RecordError::UnknownType));
        bytes.pop();
        assert_eq!(measure(&bytes), None);
    }
    assert_eq!(short_len(0x7f), None);
}
