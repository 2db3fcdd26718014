//! Bytes of the protocol, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::job_report::{ComparedVrf, DifferenceRow, EntryName, EntryState, Repaired, UndecidedSlot};
use crate::report::{FlowState, Owner, Tuple};

#[test]
fn a_request_is_this_text() {
    let command = Command::SetHaGroup {
        name: "group1".into(),
        state: GroupState::Master,
    };
    let text = r#"{"version":1,"command":{"set-ha-group":{"name":"group1","state":"master"}}}"#;
    assert_eq!(encode_request(&command).unwrap(), text.as_bytes());
    assert_eq!(decode_request(text.as_bytes()).unwrap(), command);
    let text = r#"{"version":1,"command":"ha-groups"}"#;
    assert_eq!(decode_request(text.as_bytes()).unwrap(), Command::HaGroups);
}

#[test]
fn a_response_is_this_text() {
    let text = r#"{"version":1,"result":{"ok":{"count":3}}}"#;
    assert_eq!(encode_response(&Ok(Reply::Count(3))).unwrap(), text.as_bytes());
    assert_eq!(decode_response(text.as_bytes()).unwrap(), Ok(Reply::Count(3)));
    let refusal = Refusal::not_found("VRF", "blue");
    let text =
        r#"{"version":1,"result":{"error":{"kind":"not-found","message":"there is no VRF named \"blue\""}}}"#;
    assert_eq!(encode_response(&Err(refusal.clone())).unwrap(), text.as_bytes());
    assert_eq!(decode_response(text.as_bytes()).unwrap(), Err(refusal));
}

#[test]
fn another_version_is_named_even_when_the_rest_is_unknown() {
    let fault = decode_request(br#"{"version":9,"order":"?"}"#).unwrap_err();
    assert!(matches!(fault, ProtocolError::Version { theirs: 9 }), "{fault}");
}

#[test]
fn a_frame_is_a_length_and_its_bytes() {
    let mut wire = Vec::new();
    write_frame(&mut wire, b"{}").unwrap();
    assert_eq!(wire, [0, 0, 0, 2, b'{', b'}']);
    let mut from = wire.as_slice();
    assert_eq!(read_frame(&mut from).unwrap().unwrap(), b"{}");
    assert!(read_frame(&mut from).unwrap().is_none());
}

#[test]
fn half_a_frame_and_too_large_a_frame_are_errors() {
    assert!(matches!(
        read_frame(&mut [0, 0].as_slice()),
        Err(ProtocolError::Io(_))
    ));
    assert!(matches!(
        read_frame(&mut [0, 0, 0, 9, 1].as_slice()),
        Err(ProtocolError::Io(_))
    ));
    assert!(matches!(
        read_frame(&mut [0xff, 0, 0, 0].as_slice()),
        Err(ProtocolError::TooLarge(0xff00_0000))
    ));
}

/// One with a difference of each kind.
fn comparison() -> CompareReport {
    let tuple = Tuple {
        src: "100.64.0.1".parse().unwrap(),
        src_port: 4_000,
        dst: "2001:db8::1".parse().unwrap(),
        dst_port: 53,
    };
    let state = EntryState {
        term: 257,
        counter: 7,
        state: Some(FlowState::Opening),
        reply: Some(tuple),
        grant: Some(9),
    };
    let conntrack = EntryName::Conntrack {
        protocol: 17,
        original: tuple,
    };
    let block = EntryName::Block {
        grant: 9,
        text: "100.64.0.1 198.51.100.1 from 1024".into(),
    };
    let row = |entry: &EntryName, here: Option<&EntryState>, there: Option<&EntryState>| DifferenceRow {
        slot: 3,
        entry: entry.clone(),
        here: here.cloned(),
        there: there.cloned(),
    };
    CompareReport {
        finished: true,
        elapsed_ms: 12,
        parts: vec![ComparedVrf {
            vrf: "main".into(),
            differences: vec![
                row(&conntrack, Some(&state), None),
                row(&conntrack, Some(&state), Some(&state)),
                row(&block, None, Some(&state)),
            ],
            undecided: vec![UndecidedSlot {
                slot: 4,
                cause: "the lane is down".into(),
            }],
            repaired: Some(Repaired::default()),
            ..ComparedVrf::default()
        }],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _judged = read_frame(&mut bytes.as_slice());
        prop_assert!(decode_request(&bytes).is_err());
        prop_assert!(decode_response(&bytes).is_err());
    }

    #[test]
    fn a_damaged_response_about_a_job_is_refused_or_is_another_response(at in 0_usize..2_000, with in any::<u8>()) {
        let mut json = encode_response(&Ok(Reply::Compare(comparison()))).unwrap();
        let at = at % json.len();
        json[at] = with;
        if let Ok(read) = decode_response(&json) {
            let again = encode_response(&read).unwrap();
            prop_assert_eq!(decode_response(&again).unwrap(), read);
        }
    }

    #[test]
    fn a_damaged_request_is_refused_or_is_another_request(at in 0_usize..200, with in any::<u8>()) {
        let command = Command::Conntracks {
            vrf: "main".into(),
            filter: ConntrackFilter {
                src: Some("10.0.0.0/8".parse().unwrap()),
                state: Some(FlowState::Opening),
                owner: Some(Owner::Peer),
                ..ConntrackFilter::default()
            },
            page: Page { limit: 5, cursor: Some(77) },
        };
        let mut json = encode_request(&command).unwrap();
        let at = at % json.len();
        json[at] = with;
        if let Ok(read) = decode_request(&json) {
            let again = encode_request(&read).unwrap();
            prop_assert_eq!(decode_request(&again).unwrap(), read);
        }
    }
}
