//! The sync port against strangers, babblers and liars: each is refused with its cause, and no worker hears of
//! anything.

use core::time::Duration;

use dataplane::delta::{Handle, SlotRef, Term, ToWorker, Version};
use dataplane::redirect::Redirect;
use dataplane::role::Role;
use dataplane::time::Instant;

use crate::config::{CONTROL_LANE, SyncConfig};
use crate::flow_record::{Stream, put_delta};
use crate::frame::Outbox;
use crate::hello::{Answer, Hello, REDIRECTS, encode_answer, encode_hello};
use crate::port::PumpEvent;
use crate::record::{self, VrfOpen, VrfState};
use crate::redirect::put_redirect;
use crate::testbed::{Cluster, Plug, SLOTS, Shape, Socket, VRF, address, config};
use crate::wire::{Breach, Io, Net, Wire};

#[path = "flood_tests.rs"]
mod floods;

/// Node 2 alone, as a standby; node 1 is played by the test.
fn target() -> Cluster {
    let mut cluster = Cluster::new(&[Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
    cluster.nodes.remove(0);
    cluster.nodes[0].set(Role::Backup, Term::NONE);
    cluster.fabric.borrow_mut().chunk = 1 << 20;
    cluster
}

fn dial(cluster: &Cluster, from: u8) -> Plug {
    Socket::new(&cluster.fabric, from)
        .connect(address(from), address(2))
        .unwrap()
}

fn hello(incarnation: u32) -> Hello {
    let SyncConfig {
        node_name, boot_id, ..
    } = config(Shape::new(1, 1, 1), &[2]);
    Hello {
        versions: (1, 1),
        features: 0,
        node_id: 1,
        lane: 0,
        lanes: 1,
        incarnation,
        boot_id,
        node_name,
    }
}

/// A slot of the VRF that the session calls 9; its stream has the slot's number.
fn stream(slot: u16) -> Stream {
    Stream {
        number: slot,
        at: SlotRef {
            vrf: dataplane::flow::VrfId(9),
            slot,
        },
        last: Version::default(),
    }
}

fn stream_at(slot: u16) -> SlotRef {
    stream(slot).at
}

/// Frames that open the VRF as master, begin slot 3 and put nothing in.
fn session(outbox: &mut Outbox) {
    let open = VrfOpen {
        handle: 9,
        slots: SLOTS,
        role: Role::Master,
        ready: true,
        term: Term(0x101),
        capacity: 1,
        name: "main".to_owned(),
        sections: Vec::new(),
    };
    outbox.put(Instant::default(), |out| record::put_vrf_open(out, &open));
    outbox.put(Instant::default(), |out| {
        crate::slot_record::put_slot_begin(out, &stream(3), 7, None)
    });
    outbox.close();
}

/// A connection whose handshake was accepted, with an outbox that counts on.
fn accepted(cluster: &mut Cluster, incarnation: u32) -> (Plug, Outbox) {
    let mut plug = dial(cluster, 1);
    let mut outbox = Outbox::new(&encode_hello(&hello(incarnation)));
    session(&mut outbox);
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    (plug, outbox)
}

fn send(plug: &mut Plug, bytes: &[u8]) {
    assert_eq!(plug.send(bytes), Io::Done(bytes.len()));
}

fn is_closed(plug: &mut Plug) -> bool {
    let mut buffer = [0; 4_096];
    loop {
        match plug.recv(&mut buffer) {
            Io::Done(_) => {}
            Io::Wait => return false,
            Io::Closed | Io::Failed => return true,
        }
    }
}

fn seen(cluster: &Cluster) -> &[ToWorker] {
    &cluster.nodes[0].workers[0].seen
}

/// a packet goes to an active peer that has announced to take packets, and to no other.
#[test]
fn r48_a_peer_of_an_older_release_is_sent_no_packet() {
    for (features, expected) in [(0, (0, 1)), (REDIRECTS, (1, 0))] {
        let mut cluster = target();
        cluster.run(1);
        let mut plug = Socket::new(&cluster.fabric, 1).accept().unwrap().wire;
        let answer = Answer {
            status: 0,
            version: 1,
            features,
            node_id: 1,
            boot_id: 7,
            node_name: "one".to_owned(),
        };
        let mut outbox = Outbox::new(&encode_answer(&answer));
        session(&mut outbox);
        outbox.flush(&mut plug).unwrap();
        cluster.run(5);
        let redirect = Redirect {
            at: SlotRef { vrf: VRF, slot: 3 },
            interface: 1,
            source: [2; 6],
            times: 1,
        };
        let (ring, _) = &mut cluster.nodes[0].workers[0].redirects[0];
        assert!(ring.push(&redirect, (&[0x45; 20][..]).into()));
        cluster.run(5);
        let report = cluster.nodes[0].pumps[0].report().redirects;
        assert_eq!((report.sent, report.unsent), expected, "features {features}");
    }
}

/// malformed and misplaced packets are counted, close no slot and end no connection.
#[test]
fn r49_packets_that_are_none_change_nothing() {
    let mut cluster = target();
    let (mut plug, mut outbox) = accepted(&mut cluster, 1);
    let sound = |slot: u16| {
        let redirect = Redirect {
            at: stream_at(slot),
            interface: 1,
            source: [2; 6],
            times: 1,
        };
        let mut bytes = Vec::new();
        put_redirect(&mut bytes, &redirect, (&[0x45; 20][..]).into());
        bytes
    };
    let mut short = sound(3)[..40].to_vec();
    short[1] -= 1;
    for record in [&short, &sound(SLOTS), &sound(3)] {
        outbox.put(Instant::default(), |out| out.extend_from_slice(record));
    }
    outbox.close();
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    assert_eq!(cluster.nodes[0].cause("record-malformed"), 2);
    assert_eq!(cluster.nodes[0].pumps[0].report().redirects.handed_on, 1);
    let begun = seen(&cluster).len();
    let control = Hello {
        lane: CONTROL_LANE,
        ..hello(2)
    };
    let mut second = dial(&cluster, 1);
    let mut outbox = Outbox::new(&encode_hello(&control));
    session(&mut outbox);
    outbox.put(Instant::default(), |out| out.extend_from_slice(&sound(3)));
    outbox.close();
    outbox.flush(&mut second).unwrap();
    cluster.run(5);
    assert_eq!(cluster.nodes[0].pumps[0].report().redirects.received, 1);
    assert_eq!(seen(&cluster).len(), begun, "no worker is told anything");
    assert!(!is_closed(&mut plug) && !is_closed(&mut second));
}

/// sync/PROTOCOL.md.
#[test]
fn bad_greetings_are_refused_each_with_its_cause() {
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello(1);
        change(&mut hello);
        encode_hello(&hello)
    };
    let mut damaged = encode_hello(&hello(1));
    damaged[12] ^= 1;
    let table = [
        (b"GET / HTTP/1.1\r\n".to_vec(), "wrong-magic"),
        (b"TWPS\xff\xff\0\0\0\0".to_vec(), "hello-malformed"),
        (damaged, "hello-malformed"),
        (with(|h| h.versions = (2, 9)), "version-rejected"),
        (with(|h| h.versions = (0, 0)), "version-rejected"),
        (with(|h| h.node_id = 2), "node-id-rejected"),
        (with(|h| h.node_id = 0), "node-id-rejected"),
        (with(|h| h.lanes = 0), "lane-rejected"),
        (with(|h| h.lane = 1), "lane-rejected"),
        (with(|h| h.incarnation = 0), "hello-malformed"),
    ];
    for (bytes, cause) in table {
        let mut cluster = target();
        let mut plug = dial(&cluster, 1);
        send(&mut plug, &bytes);
        cluster.run(5);
        assert!(is_closed(&mut plug), "{cause}");
        assert_eq!(cluster.nodes[0].cause(cause), 1, "{cause}");
        assert_eq!(
            cluster.nodes[0].pumps[0].report().local_nodes[0].lanes,
            [0u8; 0],
            "{cause}"
        );
        assert!(seen(&cluster).is_empty(), "{cause}");
    }
}

/// It has given way before anybody here has looked: what it said last isn't all that counts.
#[test]
fn a_peer_that_was_active_when_it_came_is_remembered() {
    let mut cluster = target();
    let mut plug = dial(&cluster, 1);
    let mut outbox = Outbox::new(&encode_hello(&hello(1)));
    session(&mut outbox);
    let gives_way = VrfState {
        handle: 9,
        role: Role::Backup,
        ready: false,
        term: Term(0x101),
    };
    outbox.put(Instant::default(), |out| record::put_vrf_state(out, &gives_way));
    outbox.close();
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    let board = &cluster.nodes[0].board;
    assert_eq!(board.view(0, VRF, SLOTS).vrf.map(|v| v.role), Some(Role::Backup));
    assert!(board.take_rival(VRF));
    cluster.run(5);
    assert!(!cluster.nodes[0].board.take_rival(VRF), "it has come once");
}

#[test]
fn a_peer_of_the_same_name_is_told_of_and_served() {
    for (name, alike) in [("node2", 1), ("node1", 0)] {
        let mut cluster = target();
        let mut plug = dial(&cluster, 1);
        let named = Hello {
            lane: CONTROL_LANE,
            node_name: name.to_owned(),
            ..hello(1)
        };
        send(&mut plug, &encode_hello(&named));
        cluster.run(5);
        let told = |event: &PumpEvent| *event == PumpEvent::NamedAlike { peer: 0 };
        assert_eq!(
            cluster.nodes[0].events.try_iter().filter(told).count(),
            alike,
            "{name}"
        );
        assert!(!is_closed(&mut plug));
    }
}

/// What protected streams report, and how it is counted.
const BREACHES: [(Breach, &str); 6] = [
    (Breach::KeyUnknown, "tls-key-unknown"),
    (Breach::KeyRefused, "tls-key-refused"),
    (Breach::KeyRemoved, "tls-key-removed"),
    (Breach::Handshake, "tls-handshake"),
    (Breach::Tampered, "tls-tampered"),
    (Breach::Truncated, "tls-truncated"),
];

#[test]
fn r55_a_broken_stream_is_refused_at_the_door_with_its_cause() {
    for (breach, cause) in BREACHES {
        let mut cluster = target();
        let mut plug = dial(&cluster, 1);
        send(&mut plug, &encode_hello(&hello(1)));
        cluster.fabric.borrow_mut().breach = Some(breach);
        cluster.run(5);
        // Our own lanes to that peer are broken, too; the door refuses one.
        let refused = |event: &PumpEvent| *event == PumpEvent::Refused { reason: cause };
        assert_eq!(
            cluster.nodes[0].events.try_iter().filter(refused).count(),
            1,
            "{cause}"
        );
        assert!(cluster.nodes[0].cause(cause) >= 1, "{cause}");
        assert!(seen(&cluster).is_empty(), "{cause}");
    }
}

#[test]
fn r55_a_stream_broken_later_ends_with_its_cause_and_touches_nothing() {
    for (breach, cause) in BREACHES {
        let mut cluster = target();
        let (mut plug, mut outbox) = accepted(&mut cluster, 1);
        let before = seen(&cluster).len();
        session(&mut outbox);
        outbox.flush(&mut plug).unwrap();
        cluster.fabric.borrow_mut().breach = Some(breach);
        cluster.run(5);
        assert!(cluster.nodes[0].cause(cause) >= 1, "{cause}");
        assert_eq!(seen(&cluster).len(), before, "{cause}");
        let lanes = &cluster.nodes[0].pumps[0].report().local_nodes[0].lanes;
        assert!(lanes.is_empty(), "{cause}");
    }
}

#[test]
fn bad_frames_end_the_connection_and_touch_nothing() {
    let frame = |write: fn(&mut Vec<u8>)| {
        let mut outbox = Outbox::new(&[]);
        outbox.put(Instant::default(), write);
        outbox.close();
        let mut cluster = Cluster::new(&[]);
        cluster.fabric.borrow_mut().chunk = 1 << 20;
        let mut plug = dial(&cluster, 1);
        outbox.flush(&mut plug).unwrap();
        let mut bytes = vec![0; 256];
        let mut end = Socket::new(&cluster.fabric, 2).accept().unwrap().wire;
        let Io::Done(n) = end.recv(&mut bytes) else {
            unreachable!("sent above")
        };
        bytes.truncate(n);
        cluster.nodes.clear();
        bytes
    };
    // Its sequence number is 1, like that of the frame the session has sent already.
    let replayed = frame(record::put_heartbeat);
    let mut damaged = replayed.clone();
    damaged[9] ^= 4;
    let mut oversized = replayed.clone();
    oversized[4..8].copy_from_slice(&65_537u32.to_be_bytes());
    for (bytes, cause) in [
        (replayed, "frame-sequence"),
        (damaged, "frame-check"),
        (oversized, "frame-oversized"),
    ] {
        let mut cluster = target();
        let (mut plug, _) = accepted(&mut cluster, 1);
        let before = seen(&cluster).len();
        assert_eq!(before, 1, "the session's begin");
        send(&mut plug, &bytes);
        cluster.run(5);
        assert!(is_closed(&mut plug), "{cause}");
        assert_eq!(cluster.nodes[0].cause(cause), 1);
        assert_eq!(seen(&cluster).len(), before, "{cause}");
    }
}

#[test]
fn half_a_frame_changes_nothing_and_silence_ends_it() {
    let mut cluster = target();
    let (mut plug, _) = accepted(&mut cluster, 1);
    send(&mut plug, &[1, 2, 3, 4, 0, 0, 0, 9, 0, 0]);
    cluster.tick = Duration::from_millis(100);
    cluster.run(15);
    assert!(is_closed(&mut plug));
    assert_eq!((cluster.nodes[0].cause("silent"), seen(&cluster).len()), (1, 1));
}

/// sync/PROTOCOL.md.
#[test]
fn r21_records_of_later_versions_and_wrong_ones_are_skipped_and_counted() {
    let mut cluster = target();
    let (mut plug, mut outbox) = accepted(&mut cluster, 1);
    let now = Instant::default();
    let records: [(&[u8], &str); 3] = [
        (&[0x7f, 2, 1, 2], "record-unknown-type"),
        (&[0x12, 5, 0, 77, 0, 1, 0], "record-unknown-vrf"),
        (&[0x12, 5, 0, 9, 0, 200, 0], "record-malformed"),
    ];
    for (bytes, _) in records {
        outbox.put(now, |out| out.extend_from_slice(bytes));
    }
    outbox.put(now, |out| record::put_ack(out, 5));
    let delta = dataplane::delta::Delta::Refresh(dataplane::delta::RefreshRecord {
        handle: Handle(5),
        lifetime_s: 1,
    });
    // Slot 4 was never begun, slot 3 was.
    outbox.put(now, |out| {
        put_delta(out, &mut stream(4), &delta, false);
    });
    outbox.put(now, |out| {
        put_delta(out, &mut stream(3), &delta, false);
    });
    outbox.close();
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    for (_, cause) in records {
        assert_eq!(cluster.nodes[0].cause(cause), 1, "{cause}");
    }
    assert_eq!(cluster.nodes[0].cause("record-misplaced"), 1);
    assert_eq!(cluster.nodes[0].cause("record-not-open"), 1);
    assert!(!is_closed(&mut plug));
    let [
        ToWorker::SlotBegin { at: begun, .. },
        ToWorker::Record { at: put, .. },
    ] = seen(&cluster)
    else {
        unreachable!("{:?}", seen(&cluster))
    };
    assert_eq!((begun.slot, put.slot, begun.vrf), (3, 3, VRF));
}

/// the slot that a malformed record belonged to is asked for again, and taken in again from its next begin on;
/// no other slot and no other record notices.
#[test]
fn r24_a_bad_record_in_a_thousand_costs_its_slot_a_resync_and_the_lane_nothing() {
    const RECORDS: u16 = 6_000;
    let mut cluster = target();
    let (mut plug, mut outbox) = accepted(&mut cluster, 1);
    let now = Instant::default();
    let removal = |stream: &mut Stream, n: u16| {
        let key = dataplane::flow::FlowKey {
            src_port: n,
            vrf: dataplane::flow::VrfId(9),
            ..Default::default()
        };
        let delta = dataplane::delta::Delta::Del(dataplane::delta::DelRecord {
            name: dataplane::delta::Name::Key(key),
            version: stream.next(),
        });
        let mut bytes = Vec::new();
        put_delta(&mut bytes, stream, &delta, false);
        bytes
    };
    outbox.put(now, |out| {
        crate::slot_record::put_slot_begin(out, &stream(4), 7, None);
    });
    let (mut good, mut ailing, mut generation) = (stream(4), stream(3), 7);
    for n in 0..RECORDS {
        if n % 1_000 == 500 {
            let mut cut = removal(&mut ailing, n);
            cut.truncate(cut.len() - 2);
            cut[1] -= 2;
            // The one behind it is for a slot that is not open any more.
            cut.extend(removal(&mut ailing, n));
            generation += 1;
            ailing = stream(3);
            outbox.put(now, |out| out.extend(cut));
            outbox.put(now, |out| {
                crate::slot_record::put_slot_begin(out, &ailing, generation, None);
            });
        }
        let to = if n % 2 == 0 { &mut good } else { &mut ailing };
        let bytes = removal(to, n);
        outbox.put(now, |out| out.extend(bytes));
        // A little at a time: the socket and the worker's ring are small.
        if n % 50 == 49 {
            outbox.close();
            outbox.flush(&mut plug).unwrap();
            cluster.run(3);
        }
    }
    cluster.run(20);
    assert!(!is_closed(&mut plug));
    let bad = u64::from(RECORDS / 1_000);
    assert_eq!(cluster.nodes[0].cause("record-malformed"), bad);
    assert_eq!(cluster.nodes[0].cause("record-not-open"), bad);
    let ports = |slot: u16| -> Vec<u16> {
        let records = seen(&cluster).iter().filter_map(|item| match item {
            ToWorker::Record {
                at,
                delta: dataplane::delta::Delta::Del(del),
                ..
            } if at.slot == slot => Some(del.name),
            _ => None,
        });
        let keys = records.filter_map(|name| match name {
            dataplane::delta::Name::Key(key) => Some(key.src_port),
            dataplane::delta::Name::Handle(_) => None,
        });
        keys.collect()
    };
    assert!(ports(4).into_iter().eq((0..RECORDS).step_by(2)));
    assert!(ports(3).into_iter().eq((1..RECORDS).step_by(2)));
    let begun = seen(&cluster).iter().filter_map(|item| match item {
        ToWorker::SlotBegin { at, generation, .. } if at.slot == 3 => Some(*generation),
        _ => None,
    });
    assert!(begun.eq(7..=generation));
    let report = cluster.nodes[0].pumps[0].report();
    let asked = report.operations.iter().find(|o| o.name == "send SLOT-FAILED");
    assert_eq!(asked.map(|o| o.calls), Some(bad), "{:?}", report.operations);
}

#[test]
fn r29_expectations_are_skipped_and_the_records_around_them_are_applied() {
    let mut cluster = target();
    let (mut plug, mut outbox) = accepted(&mut cluster, 1);
    let now = Instant::default();
    let mut stream = stream(3);
    let mut refresh = |handle| {
        let delta = dataplane::delta::Delta::Refresh(dataplane::delta::RefreshRecord {
            handle: Handle(handle),
            lifetime_s: 1,
        });
        let mut bytes = Vec::new();
        put_delta(&mut bytes, &mut stream, &delta, false);
        bytes
    };
    let expect = |kind| [vec![kind, 40], vec![kind; 40]].concat();
    for bytes in [refresh(1), expect(0x2a), expect(0x2b), refresh(2)] {
        outbox.put(now, |out| out.extend(bytes));
    }
    outbox.close();
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    assert_eq!(cluster.nodes[0].cause("record-unknown-type"), 2);
    assert!(!is_closed(&mut plug));
    let handles: Vec<_> = seen(&cluster)
        .iter()
        .filter_map(|item| match item {
            ToWorker::Record {
                delta: dataplane::delta::Delta::Refresh(refresh),
                ..
            } => Some(refresh.handle),
            _ => None,
        })
        .collect();
    assert_eq!(handles, [Handle(1), Handle(2)]);
}

#[test]
fn r4_a_peer_of_version_2_is_spoken_to_in_version_1() {
    // It offers both versions and features nobody has heard of, in a HELLO with more fields.
    let newer = Hello {
        versions: (1, 2),
        features: u32::MAX,
        ..hello(1)
    };
    let mut greeting = encode_hello(&newer);
    greeting.extend([1, 2, 3, 4]);
    let (header, body) = greeting.split_at_mut(10);
    header[4..6].copy_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    header[6..].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
    let mut cluster = target();
    let mut plug = dial(&cluster, 1);
    let mut outbox = Outbox::new(&greeting);
    session(&mut outbox);
    // Bodies with more fields, and types of later versions, short and long, between records that are understood.
    let longer = |record: &[u8]| {
        let mut bytes = record.to_vec();
        bytes.extend([9; 5]);
        bytes[1] += 5;
        bytes
    };
    let mut stream = stream(3);
    let mut put = |n| {
        let key = dataplane::flow::FlowKey {
            src_port: n,
            vrf: dataplane::flow::VrfId(9),
            ..Default::default()
        };
        let record = dataplane::delta::DelRecord {
            name: dataplane::delta::Name::Key(key),
            version: stream.next(),
        };
        let mut bytes = Vec::new();
        put_delta(
            &mut bytes,
            &mut stream,
            &dataplane::delta::Delta::Del(record),
            false,
        );
        bytes
    };
    let mut query = Vec::new();
    crate::slot_record::put_slot_query(&mut query, stream_at(4), 8);
    let records = [
        put(1),
        [[0xbf; 8].as_slice(), &[0xfe; 6]].concat(),
        longer(&put(2)),
        [vec![0x7f, 0x88, 0x01], vec![7; 136]].concat(),
        longer(&query),
        put(3),
    ];
    for bytes in records {
        outbox.put(Instant::default(), |out| out.extend(bytes));
    }
    outbox.close();
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    let mut answer = vec![0; 64];
    assert!(matches!(plug.recv(&mut answer), Io::Done(_)));
    assert_eq!(
        answer[10..16],
        [0, 1, 0, 0, 0, 3],
        "accepted, version 1, the features that both know"
    );
    assert_eq!(cluster.nodes[0].cause("record-unknown-type"), 3);
    assert!(!is_closed(&mut plug));
    let counters: Vec<_> = seen(&cluster)
        .iter()
        .filter_map(|item| match item {
            ToWorker::Record { delta, .. } => delta.version().map(|v| v.counter),
            _ => None,
        })
        .collect();
    assert_eq!(counters, [1, 2, 3], "what is skipped has no version");
    assert!(
        seen(&cluster)
            .iter()
            .any(|i| matches!(i, ToWorker::SlotQuery { generation: 8, .. }))
    );
}

/// only who receives slots offers what it had opened; a sender's word is a record of its stream.
#[test]
fn r73_a_tail_from_the_wrong_side_reaches_no_table() {
    let mut cluster = target();
    let (mut plug, mut outbox) = accepted(&mut cluster, 1);
    let at = SlotRef {
        vrf: dataplane::flow::VrfId(9),
        slot: 3,
    };
    let key = dataplane::flow::FlowKey {
        vrf: at.vrf,
        ..Default::default()
    };
    let put = dataplane::delta::PutRecord {
        original: key,
        reply: key,
        nat: None,
        class: dataplane::delta::Class::Opening,
        scales: dataplane::delta::Scales::NONE,
        lifetime_s: 9,
        version: dataplane::delta::Version::default(),
        handle: Handle::NONE,
    };
    let before = seen(&cluster).len();
    outbox.put(Instant::default(), |out| {
        crate::compare_record::put_tail(out, at, &put)
    });
    outbox.close();
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    assert_eq!(cluster.nodes[0].cause("record-misplaced"), 1);
    assert_eq!(seen(&cluster).len(), before);
    assert!(!is_closed(&mut plug));
}

#[test]
fn r9_late_bytes_of_a_replaced_connection_change_nothing() {
    let mut cluster = target();
    let (mut old, mut old_out) = accepted(&mut cluster, 1);
    let (mut new, _) = accepted(&mut cluster, 2);
    let before = seen(&cluster).len();
    session(&mut old_out);
    let _ = old_out.flush(&mut old);
    cluster.run(5);
    assert_eq!(seen(&cluster).len(), before);
    assert_eq!(cluster.nodes[0].cause("replaced"), 1);
    assert!(is_closed(&mut old) && !is_closed(&mut new));
}

/// sync/PROTOCOL.md R-12.
#[test]
fn the_control_lane_carries_no_slots() {
    let mut cluster = target();
    let mut plug = dial(&cluster, 1);
    let mut outbox = Outbox::new(&encode_hello(&Hello {
        lane: CONTROL_LANE,
        ..hello(1)
    }));
    session(&mut outbox);
    outbox.flush(&mut plug).unwrap();
    cluster.run(5);
    assert_eq!(
        (cluster.nodes[0].cause("slot-not-accepted"), seen(&cluster).len()),
        (1, 0)
    );
}
