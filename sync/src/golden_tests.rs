//! The protocol as bytes that never change: `tests/data/sync-v1`. What is written there was sent by version 1; whoever
//! speaks it writes the same bytes and reads the same meaning out of them (sync/PROTOCOL.md R-4).

mod connection;

use std::collections::BTreeMap;

use dataplane::delta::{
    BlockRecord, Class, DelRecord, Delta, Handle, Listed, Mark, Marked, Name, NatPart, PutRecord,
    RefreshRecord, Scales, SlotEnd, SlotOffer, SlotRef, StateRecord, Term, Version, Wanted,
};
use dataplane::flow::{Addr, FlowKey, VrfId, proto};
use dataplane::nat::grant_base;
use dataplane::redirect::{Fence, Redirect};
use dataplane::role::Role;

use crate::compare_record::{Said, put_said, put_tail};
use crate::fence::put_fence;
use crate::fingerprint::{Section, Strength};
use crate::flow_record::{Stream, put_delta};
use crate::handover::Handover;
use crate::record::{self, Bound, Message, SlotFailure, VrfOpen, VrfState, decode, measure};
use crate::redirect::put_redirect;
use crate::slot_record;

const RECORDS: &str = include_str!("../../tests/data/sync-v1/records.hex");

const AT: SlotRef = SlotRef {
    vrf: VrfId(1),
    slot: 7,
};
/// Third reign, boot 5, node 1.
const TERM: Term = Term(3 << 29 | 5 << 8 | 1);
const STREAM: Stream = Stream {
    number: 7,
    at: AT,
    last: version(40),
};

const fn version(counter: u64) -> Version {
    Version { term: TERM, counter }
}

fn resolve(handle: u16) -> Option<Bound> {
    (handle < 3).then_some(Bound {
        vrf: VrfId(handle),
        slots: 1_024,
    })
}

/// Bytes by title: a title is a line that starts with `=`, a comment one with `#`.
fn sections(text: &str) -> BTreeMap<&str, Vec<u8>> {
    let mut sections = BTreeMap::new();
    let mut title = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(next) = line.strip_prefix("= ") {
            title = next;
            continue;
        }
        let bytes = line
            .split_whitespace()
            .map(|b| u8::from_str_radix(b, 16).unwrap());
        sections.entry(title).or_insert_with(Vec::new).extend(bytes);
    }
    sections
}

/// Bytes as they are written into a file.
fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(24).map(|line| {
        let line: Vec<_> = line.iter().map(|b| format!("{b:02x}")).collect();
        line.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn key(proto: u8) -> FlowKey {
    FlowKey {
        src: Addr::v4([100, 64, 0, 1]),
        dst: Addr::v4([192, 0, 2, 1]),
        src_port: 40_000,
        dst_port: 443,
        vrf: VrfId(1),
        proto,
    }
}

fn key6() -> FlowKey {
    let address = |n| Addr::v6([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
    FlowKey {
        src: address(1),
        dst: address(2),
        ..key(proto::UDP)
    }
}

fn put_tcp() -> PutRecord {
    let mut reply = key(proto::TCP).reversed();
    (reply.dst, reply.dst_port) = (Addr::v4([198, 51, 100, 7]), 1_025);
    PutRecord {
        original: key(proto::TCP),
        reply,
        nat: Some(NatPart {
            grant: grant_base(TERM) + 70_000,
            mapping: true,
        }),
        class: Class::Opening,
        scales: Scales::new(7, Scales::UNSEEN),
        lifetime_s: 245,
        version: version(41),
        handle: Handle(0x01_0203),
    }
}

fn put_udp6(counter: u64) -> PutRecord {
    PutRecord {
        original: key6(),
        reply: key6().reversed(),
        nat: None,
        class: Class::Established,
        scales: Scales::NONE,
        lifetime_s: 32,
        version: version(counter),
        handle: Handle(9),
    }
}

fn block(held: bool) -> BlockRecord {
    BlockRecord {
        grant: grant_base(TERM) + 70_000,
        subscriber: key(proto::TCP).src,
        address: Addr::v4([198, 51, 100, 7]),
        port_first: 1_024,
        held,
        version: version(41),
    }
}

fn state(class: Class) -> Delta {
    Delta::State(StateRecord {
        handle: Handle(0x01_0203),
        class,
        scales: Scales::new(7, 9),
        lifetime_s: 7_545,
        version: version(41),
    })
}

fn removal(name: Name) -> Delta {
    Delta::Del(DelRecord {
        name,
        version: version(41),
    })
}

fn vrf_open() -> VrfOpen {
    VrfOpen {
        handle: 1,
        slots: 1_024,
        role: Role::Master,
        ready: true,
        term: TERM,
        capacity: 1_000_000,
        name: "main".to_owned(),
        sections: vec![Section {
            name: "nat".to_owned(),
            strength: Strength::MustEqual,
            hash: 0x0123_4567_89ab_cdef,
        }],
    }
}

fn end() -> SlotEnd {
    SlotEnd {
        generation: 6,
        count: 2,
        digest: 0x1122_3344_5566_7788,
        version: version(42),
    }
}

fn offer() -> SlotOffer {
    SlotOffer {
        generation: 6,
        count: 2,
        digest: 0x1122_3344_5566_7788,
        version: version(42),
        absent: 1,
        same: true,
        exact: true,
    }
}

/// Each record with its title, its bytes as written now, and its meaning.
fn records() -> Vec<(&'static str, Vec<u8>, Message)> {
    let mut all = Vec::new();
    let mut add = |title, write: &dyn Fn(&mut Vec<u8>), message| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        all.push((title, bytes, message));
    };
    let (generation, at) = (6, AT);
    let state_of = VrfState {
        handle: 1,
        role: Role::Backup,
        ready: false,
        term: TERM,
    };
    add(
        "VRF-OPEN",
        &|o| record::put_vrf_open(o, &vrf_open()),
        Message::VrfOpen(vrf_open()),
    );
    add(
        "VRF-STATE",
        &|o| record::put_vrf_state(o, &state_of),
        Message::VrfState(state_of),
    );
    add("HEARTBEAT", &record::put_heartbeat, Message::Heartbeat);
    add("BYE", &record::put_bye, Message::Bye);
    for (title, handover) in [
        ("VRF-HANDOVER", Handover::Asked(5)),
        ("VRF-HANDOVER told", Handover::Told(5)),
        ("VRF-HANDOVER telling", Handover::Telling(5)),
        ("VRF-HANDOVER invites", Handover::Invites(2)),
        ("VRF-HANDOVER nothing", Handover::None),
    ] {
        let handle = 1;
        add(
            title,
            &|o| record::put_vrf_handover(o, handle, handover),
            Message::VrfHandover { handle, handover },
        );
    }
    add(
        "ACK",
        &|o| record::put_ack(o, 258),
        Message::Ack { sequence: 258 },
    );
    add(
        "CREDIT",
        &|o| record::put_credit(o, 4_096),
        Message::Credit { records: 4_096 },
    );
    add(
        "SLOT-VERIFIED",
        &|o| slot_record::put_slot_verified(o, at, generation, 3),
        Message::SlotVerified {
            at,
            generation,
            refused: 3,
        },
    );
    add(
        "SLOT-FAILED",
        &|o| slot_record::put_slot_failed(o, at, generation, SlotFailure::Malformed),
        Message::SlotFailed {
            at,
            generation,
            why: 2,
        },
    );
    let offered = Message::SlotOffer { at, offer: offer() };
    add(
        "SLOT-OFFER",
        &|o| slot_record::put_slot_offer(o, at, &offer()),
        offered,
    );
    let wanted = Wanted {
        handle: Handle(0x01_0203),
        counter: 41,
    };
    add(
        "SLOT-ASK",
        &|o| slot_record::put_slot_ask(o, at, generation, wanted),
        Message::SlotAsk {
            at,
            generation,
            wanted,
        },
    );
    let counter = 41;
    add(
        "SLOT-COMMIT",
        &|o| slot_record::put_slot_commit(o, at, counter),
        Message::SlotCommit { at, counter },
    );
    add(
        "SLOT-COMMITTED",
        &|o| slot_record::put_slot_committed(o, at, counter, true),
        Message::SlotCommitted {
            at,
            counter,
            applied: true,
        },
    );
    let begin = |since| Message::SlotBegin {
        at,
        stream: 7,
        generation,
        version: version(40),
        since,
    };
    let put_begin = |o: &mut Vec<u8>, since| slot_record::put_slot_begin(o, &STREAM, generation, since);
    add("SLOT-BEGIN", &|o| put_begin(o, None), begin(None));
    let since = Some(version(30));
    add("SLOT-BEGIN since", &|o| put_begin(o, since), begin(since));
    add(
        "SLOT-END",
        &|o| slot_record::put_slot_end(o, at, &end()),
        Message::SlotEnd { at, end: end() },
    );
    add(
        "SLOT-QUERY",
        &|o| slot_record::put_slot_query(o, at, generation),
        Message::SlotQuery { at, generation },
    );
    let digest = Message::SlotDigest { at, end: end() };
    add(
        "SLOT-DIGEST",
        &|o| slot_record::put_slot_digest(o, at, &end()),
        digest,
    );
    let renewed = Message::SlotVersion {
        at,
        version: version(99),
    };
    add(
        "SLOT-VERSION",
        &|o| slot_record::put_slot_version(o, 7, version(99)),
        renewed,
    );
    let compared = |said| Message::Comparison { at, round: 5, said };
    for (title, said) in [
        (
            "SLOT-MARK",
            Said::Mark(Mark {
                round: 5,
                version: version(42),
                count: 2,
                digest: 0x1122_3344_5566_7788,
            }),
        ),
        (
            "SLOT-MARKED",
            Said::Marked(Marked {
                round: 5,
                count: 2,
                digest: 0x1122_3344_5566_7788,
                absent: 1,
                same: false,
            }),
        ),
        ("SLOT-LIST", Said::List(1_024)),
        (
            "SLOT-ENTRY of a conntrack",
            Said::Listed(Listed::Entry(Delta::Put(PutRecord {
                handle: Handle::NONE,
                ..put_tcp()
            }))),
        ),
        (
            "SLOT-ENTRY of a block",
            Said::Listed(Listed::Entry(Delta::Block(block(true)))),
        ),
        ("SLOT-LISTED", Said::Listed(Listed::Complete)),
    ] {
        add(title, &|o| put_said(o, at, 5, &said), compared(said));
    }
    let put = PutRecord {
        handle: Handle::NONE,
        ..put_tcp()
    };
    add("SLOT-TAIL", &|o| put_tail(o, at, &put), Message::Tail { at, put });
    let redirect = Redirect {
        at,
        interface: 0x1112_1314_1516_1718,
        source: [2, 0, 0, 0, 0, 1],
        times: 1,
    };
    let packet = [&[0x45, 0, 0, 20], &[0; 8][..], &[100, 64, 0, 1], &[192, 0, 2, 1]].concat();
    add(
        "REDIRECT",
        &|o| put_redirect(o, &redirect, packet[..].into()),
        Message::Redirect { redirect, length: 20 },
    );
    let fence = Fence {
        at,
        number: 0x2122_2324_2526_2728,
        back: true,
    };
    add("FENCE", &|o| put_fence(o, &fence), Message::Fence(fence));
    for (title, delta, live) in deltas() {
        let walk = !live && delta.version().is_some();
        let write = |o: &mut Vec<u8>| _ = put_delta(o, &mut STREAM.clone(), &delta, walk);
        add(title, &write, Message::Delta { at, live, delta });
    }
    all
}

/// Records of flows, and whether each is live.
fn deltas() -> [(&'static str, Delta, bool); 12] {
    let handle = Handle(0x01_0203);
    let refresh = RefreshRecord {
        handle,
        lifetime_s: 32,
    };
    [
        (
            "PUT of a translated TCP connection with its mapping",
            Delta::Put(put_tcp()),
            true,
        ),
        ("PUT of a walk, UDP over IPv6", Delta::Put(put_udp6(12)), false),
        ("DEL over IPv4", removal(Name::Key(key(proto::ICMP))), true),
        ("DEL over IPv6", removal(Name::Key(key6())), true),
        ("BLOCK granted", Delta::Block(block(true)), true),
        ("BLOCK released", Delta::Block(block(false)), true),
        ("STATE opening", state(Class::Opening), true),
        ("STATE established", state(Class::Established), true),
        ("STATE closing", state(Class::Closing), true),
        ("REFRESH", Delta::Refresh(refresh), false),
        ("REMOVE", removal(Name::Handle(handle)), true),
        (
            "PUT of a protocol without a code, in another VRF",
            Delta::Put(PutRecord {
                original: FlowKey {
                    vrf: VrfId(2),
                    ..key(47)
                },
                reply: key(47).reversed(),
                nat: None,
                scales: Scales::NONE,
                ..put_tcp()
            }),
            true,
        ),
    ]
}

#[test]
fn r4_every_record_has_the_bytes_of_version_1_and_their_meaning() {
    let written = sections(RECORDS);
    let records = records();
    for (title, bytes, message) in &records {
        assert_eq!(written.get(title), Some(bytes), "= {title}\n{}", hex(bytes));
        let (start, end) = measure(bytes).unwrap();
        assert_eq!(end, bytes.len(), "{title}");
        let read = decode(bytes[0], &bytes[start..], resolve, |n| (n == 7).then_some(STREAM));
        assert_eq!(read.as_ref(), Ok(message), "{title}");
    }
    assert_eq!(written.len(), records.len());
    for name in (0..=u8::MAX)
        .map(record::kind::name)
        .filter(|name| *name != "UNKNOWN")
    {
        let is = |bytes: &[u8]| record::kind::name(bytes[0]) == name;
        assert!(
            records.iter().any(|(_, bytes, _)| is(bytes)),
            "{name} isn't written down"
        );
    }
}
