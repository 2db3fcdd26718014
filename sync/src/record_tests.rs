//! Literal bytes of records about connections, VRFs and slots.

use super::*;

const AT: SlotRef = SlotRef {
    vrf: VrfId(1),
    slot: 0x0203,
};
const TERM: Term = Term(0x101);

/// Handle 1 is the VRF of the same number with 1,024 slots.
fn resolve(handle: u16) -> Option<Bound> {
    (handle == 1).then_some(Bound {
        vrf: VrfId(handle),
        slots: 1_024,
    })
}

/// Decodes one record that must fill `bytes`.
fn decoded(bytes: &[u8]) -> Result<Message, RecordError> {
    let (start, end) = measure(bytes).unwrap();
    assert_eq!(end, bytes.len());
    decode(bytes[0], &bytes[start..], resolve, |_| None)
}

#[test]
fn an_ack_has_these_bytes() {
    let mut out = Vec::new();
    put_ack(&mut out, 258);
    assert_eq!(out, [0x08, 8, 0, 0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn r19_a_long_record_says_its_length_in_as_many_bytes_as_needed() {
    for (len, header) in [(0, 2), (127, 2), (128, 3), (20_000, 4)] {
        let mut out = vec![7];
        record(&mut out, 0x7f, |body| body.resize(body.len() + len, 9));
        assert_eq!(out.len(), 1 + header + len);
        assert_eq!(measure(&out[1..]), Some((header, header + len)));
        assert_eq!(out[1 + header..].iter().filter(|b| **b == 9).count(), len);
        out.pop();
        assert_eq!(measure(&out[1..]), None);
    }
    assert_eq!(measure(&[0x7f, 0xff, 0xff, 0xff]), None);
    assert_eq!(measure(&[]), None);
}

#[test]
fn r21_unknown_types_and_handles_are_told_apart_from_malformed_records() {
    assert_eq!(decoded(&[0x7f, 0]), Err(RecordError::UnknownType));
    assert_eq!(decoded(&[0x12, 4, 0, 9, 0, 1]), Err(RecordError::UnknownVrf));
    assert_eq!(decoded(&[0x12, 4, 0, 1, 4, 0]), Err(RecordError::Malformed(None)));
    assert_eq!(
        decoded(&[0x12, 4, 0, 1, 2, 3]),
        Err(RecordError::Malformed(Some(AT)))
    );
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

#[test]
fn records_about_slots_have_these_bytes() {
    use crate::slot_record::{
        put_slot_ask, put_slot_begin, put_slot_digest, put_slot_end, put_slot_offer, put_slot_query,
    };
    const STREAM: &[u8] = &[4, 5];
    let version = Version {
        term: TERM,
        counter: 9,
    };
    let stream = Stream {
        number: 0x0405,
        at: AT,
        last: version,
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
    let wanted = Wanted {
        handle: dataplane::delta::Handle(0x01_0203),
        counter: 9,
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
            Box::new(move |out| put_slot_begin(out, &stream, 7, None)),
            0x10,
            vec![HEAD, STREAM, VERSION, &[0]],
            Message::SlotBegin {
                at: AT,
                stream: 0x0405,
                generation: 7,
                version,
                since: None,
            },
        ),
        (
            Box::new(move |out| put_slot_begin(out, &stream, 7, Some(version))),
            0x10,
            vec![HEAD, STREAM, VERSION, &[1], VERSION],
            Message::SlotBegin {
                at: AT,
                stream: 0x0405,
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
        (
            Box::new(move |out| put_slot_ask(out, AT, 7, wanted)),
            0x0e,
            vec![HEAD, &[0, 0, 0, 0, 0, 0, 0, 9, 0x01, 0x02, 0x03]],
            Message::SlotAsk {
                at: AT,
                generation: 7,
                wanted,
            },
        ),
    ];
    for (write, kind, parts, message) in cases {
        let mut bytes = Vec::new();
        write(&mut bytes);
        let body = parts.concat();
        assert_eq!((bytes[0], usize::from(bytes[1])), (kind, body.len()));
        assert_eq!(bytes[2..], body);
        assert_eq!(decoded(&bytes), Ok(message));
    }
    // A flag of a SLOT-BEGIN that has no meaning.
    let mut bytes = Vec::new();
    put_slot_begin(&mut bytes, &stream, 7, None);
    *bytes.last_mut().unwrap() = 2;
    assert_eq!(decoded(&bytes), Err(RecordError::Malformed(Some(AT))));
}

#[test]
fn r42_a_question_about_a_record_and_its_answer() {
    use crate::slot_record::{put_slot_commit, put_slot_committed};
    const HEAD: &[u8] = &[0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 9];
    let encoded = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let bound = |handle| {
        (handle == 1).then_some(Bound {
            vrf: AT.vrf,
            slots: 0x0204,
        })
    };
    let decoded = |bytes: &[u8]| decode(bytes[0], &bytes[2..], bound, |_| None);
    let question = encoded(&|out| put_slot_commit(out, AT, 9));
    assert_eq!(question, [&[0x15, 12], HEAD].concat());
    assert_eq!(decoded(&question), Ok(Message::SlotCommit { at: AT, counter: 9 }));
    for applied in [false, true] {
        let answer = encoded(&|out| put_slot_committed(out, AT, 9, applied));
        assert_eq!(answer, [&[0x0d, 13], HEAD, &[u8::from(applied)]].concat());
        let expected = Message::SlotCommitted {
            at: AT,
            counter: 9,
            applied,
        };
        assert_eq!(decoded(&answer), Ok(expected));
    }
    let impossible = [&[0x0d, 13], HEAD, &[2]].concat();
    assert_eq!(decoded(&impossible), Err(RecordError::Malformed(Some(AT))));
}
