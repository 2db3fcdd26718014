//! Comparisons, `show sync` and events, as text.

use std::net::IpAddr;

use super::*;
use crate::job_report::{
    CompareReport, ComparedVrf, DifferenceRow, EntryName, EntryState, UndecidedSlot, Verdict,
};
use crate::journal::JournalRow;
use crate::report::{FlowState, RoleState};
use crate::sync_report::{ConnectionStatus, LaneSecurity};
use crate::sync_view::{
    ConservationRow, Direction, IncomingLane, IncomingRow, LaneRow, OperationRow, ProtectionRow, ResyncState,
    SectionRow, SyncOverview, SyncPeer, SyncResync, SyncVrf,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_comparison_counts_in_a_tree_and_names_what_differs_in_a_table() {
    let tuple = |text: &str, port| Tuple {
        src: ip("100.64.0.1"),
        src_port: port,
        dst: ip(text),
        dst_port: 53,
    };
    let state = |counter, class| EntryState {
        term: 257,
        counter,
        state: Some(class),
        reply: None,
        grant: None,
    };
    let row = |port, here: Option<EntryState>, there: Option<EntryState>| DifferenceRow {
        slot: 7,
        entry: EntryName::Conntrack {
            protocol: 17,
            original: tuple("192.0.2.1", port),
        },
        here,
        there,
    };
    let part = ComparedVrf {
        vrf: "main".into(),
        peer: "peer1".into(),
        slots_total: 16,
        slots_done: 16,
        slots_equal: 14,
        entries_equal: 400,
        only_here: 1,
        only_there: 0,
        different: 1,
        lacking: 0,
        differences: vec![
            row(4_000, Some(state(3, FlowState::Opening)), None),
            row(
                4_001,
                Some(state(5, FlowState::Established)),
                Some(state(5, FlowState::Closing)),
            ),
        ],
        undecided: vec![UndecidedSlot {
            slot: 9,
            cause: "the lane is down".into(),
        }],
        repaired: None,
    };
    let report = CompareReport {
        finished: true,
        elapsed_ms: 12,
        parts: vec![part],
    };
    let wanted = "\
compare
    result different
    elapsed-ms 12
    vrf main peer peer1
        result different
        slots 16 of 16, 14 equal
        entries-equal 400
        only-here 1
        only-there 0
        different 1
        lacking-for-a-cause 0
        slot 9 unknown: the lane is down
        ..
    ..
SLOT  WHERE      ENTRY                               HERE               THERE
7     only here  udp 100.64.0.1:4000 > 192.0.2.1:53  257.3 opening      -
7     different  udp 100.64.0.1:4001 > 192.0.2.1:53  257.5 established  257.5 closing
";
    assert_eq!(text(&Reply::Compare(report)), wanted);
}

#[test]
fn a_comparison_is_equal_only_when_every_slot_was_compared() {
    let part = |done, only_here| ComparedVrf {
        slots_total: 4,
        slots_done: done,
        slots_equal: done,
        only_here,
        ..ComparedVrf::default()
    };
    let verdict = |finished, parts| {
        CompareReport {
            finished,
            elapsed_ms: 0,
            parts,
        }
        .verdict()
    };
    assert_eq!(verdict(true, vec![part(4, 0), part(4, 0)]), Verdict::Equal);
    assert_eq!(verdict(true, vec![part(4, 0), part(3, 0)]), Verdict::Unknown);
    assert_eq!(verdict(false, vec![part(4, 0)]), Verdict::Unknown);
    assert_eq!(verdict(true, vec![part(3, 1), part(4, 0)]), Verdict::Different);
    assert_eq!(verdict(true, vec![]), Verdict::Unknown);
}

#[test]
fn operations_are_the_table_with_calls_bytes_average_ratio_and_rates() {
    let row = |name: &str, calls, bytes, per_s_1| OperationRow {
        name: name.into(),
        calls,
        bytes,
        per_s_1,
        per_s_10: None,
        per_s_60: None,
    };
    let rows = vec![
        row("worker emit", 4, 0, Some(2)),
        row("send PUT", 3, 96, Some(1)),
        row("send DEL", 1, 22, None),
    ];
    let wanted = "\
OPERATION    CALLS  BYTES  AVERAGE  RATIO    /S 1S  /S 10S  /S 60S
worker emit  4      0      0        100.0 %  2      -       -
send PUT     3      96     32       75.0 %   1      -       -
send DEL     1      22     22       25.0 %   -      -       -
";
    assert_eq!(text(&Reply::Operations(rows)), wanted);
}

#[test]
fn an_equation_shows_its_parts_and_what_is_under_way() {
    let row = ConservationRow {
        whole: Count::new("emitted-and-walked", 12),
        parts: vec![Count::new("taken", 10)],
        under_way: 2,
        holds: true,
    };
    let wanted = "\
WHOLE                  PARTS       UNDER-WAY  HOLDS
emitted-and-walked 12  = taken 10  2          yes
";
    assert_eq!(text(&Reply::Conservation(vec![row])), wanted);
}

#[test]
fn protection_names_only_reasons_that_apply() {
    let row = ProtectionRow {
        vrf: "main".into(),
        role: RoleState::Master,
        flows: 10,
        protected: 7,
        unprotected: vec![Count::new("no-peer", 3), Count::new("delay", 0)],
    };
    let wanted = "\
VRF   ROLE    FLOWS  PROTECTED  UNPROTECTED  BY REASON
main  master  10     7          3            no-peer 3
";
    assert_eq!(text(&Reply::Protection(vec![row])), wanted);
}

#[test]
fn an_event_is_a_line_with_its_number_and_time() {
    let row = |time_ms, vrf: Option<&str>| JournalRow {
        sequence: 7,
        time_ms,
        kind: "role".into(),
        vrf: vrf.map(str::to_owned),
        peer: None,
        text: "master under term 257".into(),
    };
    for (time_ms, vrf, wanted) in [
        (0, None, "7 1970-01-01T00:00:00.000Z role master under term 257"),
        // The leap day of a year that is one although it ends a century.
        (
            951_826_154_321,
            Some("main"),
            "7 2000-02-29T12:09:14.321Z role vrf main: master under term 257",
        ),
        (
            1_795_219_199_999,
            None,
            "7 2026-11-20T23:59:59.999Z role master under term 257",
        ),
    ] {
        assert_eq!(event_line(&row(time_ms, vrf)), wanted);
    }
}

fn incoming_lane((peer, lane): (&str, u8)) -> IncomingLane {
    IncomingLane {
        peer: peer.to_owned(),
        lane,
    }
}

#[test]
fn the_overview_has_a_tree_of_vrfs_a_table_of_lanes_and_one_of_refusals() {
    let peer = SyncPeer {
        name: "peer1".into(),
        address: ip("10.150.0.2"),
        role: None,
        term: 0,
        ready: false,
        direction: Direction::Nothing,
        direction_cause: "the peer is not connected".into(),
        sections: vec![SectionRow {
            name: "inside".into(),
            equal: None,
        }],
        slots_total: 256,
        slots_verified: 0,
        slots_dirty: 0,
        resync: SyncResync::default(),
        resync_received: SyncResync {
            state: Some(ResyncState::Interrupted),
            reason: "connected".into(),
            slots: 12,
            refused: 1,
            records: 40,
            bytes: 1280,
            elapsed_ms: 3,
            completed: 2,
            slots_equal: 5,
            slots_caught_up: 6,
            slots_whole: 7,
            slots_failed: 8,
        },
        digests: 0,
        digests_different: 0,
    };
    let overview = SyncOverview {
        vrfs: vec![SyncVrf {
            vrf: "main".into(),
            role: RoleState::Master,
            term: 257,
            ready: false,
            cause: "peer unseen".into(),
            peers: vec![peer],
        }],
        lanes: vec![LaneRow {
            event: 0,
            peer: "peer1".into(),
            control: false,
            status: ConnectionStatus::Down,
            security: LaneSecurity::None,
            incarnation: 5,
            link: 2,
            link_changes: 1,
            reconnects: 1,
            last_down: "silent".into(),
            sent: 10,
            applied: 8,
            abandoned: 2,
            refused: 3,
            coalesced: 6,
            lag_records: 0,
            lag_ms: 0,
            credit: 90,
            bytes: 400,
            unsent_bytes: 0,
        }],
        incoming: vec![
            IncomingRow {
                event: 0,
                lanes: [("peer1", 0), ("peer2", 2)].map(incoming_lane).to_vec(),
                refused: [("stale", 1), ("fenced", 0), ("no-pool", 5)]
                    .map(|(n, v)| Count::new(n, v))
                    .into(),
            },
            IncomingRow {
                event: 1,
                ..IncomingRow::default()
            },
        ],
        refused: vec![Count::new("silent", 1)],
    };
    let wanted = "\
show-sync
    vrf main
        role master
        term 257
        ready no
        cause peer unseen
        peer peer1 10.150.0.2
            role unknown: not connected
            direction nothing: the peer is not connected
            configuration inside unknown
            slots 0 of 256 verified, 0 dirty
            digests 0 compared, 0 different
            resync-received
                state interrupted
                reason connected
                slots 12
                refused 1
                records 40
                bytes 1280
                elapsed-ms 3
                completed 2
                slots-equal 5
                slots-caught-up 6
                slots-whole 7
                slots-failed 8
                ..
            ..
        ..
    refused
        silent 1
        ..
    ..
LANE    PEER   STATUS  SECURITY  SENT  APPLIED  LAG  LAG-MS  CREDIT  ABANDONED  REFUSED  COALESCED  BYTES  UNSENT  LINK  LINK-CHANGES  RECONNECTS  LAST-DOWN
event0  peer1  down    none      10    8        0    0       90      2          3        6          400    0       2     1             1           silent
INCOMING  FROM                       REFUSED
event0    peer1/event0,peer2/event2  stale 1, no-pool 5
event1    -                          -
";
    assert_eq!(text(&Reply::Sync(overview)), wanted);
}
