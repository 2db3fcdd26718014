//! Connections as captures: one segment per line, the verdict behind the arrow.
//!
//! `> SA 300 ack 101 win 1000 ws 7 len 5 => established` reads: direction (`>` original, `<` reply), flags, sequence
//! number, and the name of the state after it. `=> pass STATE` is a segment that passes without refreshing the
//! lifetime, `=> reopen` opens the next connection, `=> !REASON` is dropped.

use proptest::prelude::*;

use super::*;

mod inherited;

const ORIGINAL: Direction = Direction::Original;
const REPLY: Direction = Direction::Reply;

/// Client 100 and server 300, each with a window of 1000.
const HANDSHAKE: &str = "
    < SA 300 ack 101 win 1000 => syn-received
    > A 101 ack 301 win 1000 => established";

fn segment(text: &str) -> (Direction, TcpSegment) {
    let mut words = text.split_whitespace();
    let dir = if words.next() == Some(">") {
        ORIGINAL
    } else {
        REPLY
    };
    let flags = words.next().unwrap().chars().fold(0, |flags, c| {
        flags
            | match c {
                'S' => SYN,
                'A' => ACK,
                'F' => FIN,
                'R' => RST,
                '-' => 0,
                other => panic!("flag {other}"),
            }
    });
    let seq = words.next().unwrap().parse().unwrap();
    let mut segment = TcpSegment {
        seq,
        ack: 0,
        payload_len: 0,
        window: 1000,
        flags,
        window_scale: None,
    };
    while let Some(word) = words.next() {
        let number: u32 = words.next().unwrap().parse().unwrap();
        match word {
            "ack" => segment.ack = number,
            "win" => segment.window = u16::try_from(number).unwrap(),
            "ws" => segment.window_scale = Some(u8::try_from(number).unwrap()),
            "len" => segment.payload_len = number,
            other => panic!("field {other}"),
        }
    }
    (dir, segment)
}

/// What the track says to a segment, in the words of the scripts.
fn verdict(track: &mut Track, text: &str, check_window: bool) -> String {
    let (dir, segment) = segment(text);
    let old = *track;
    match track.observe(dir, &segment, check_window) {
        Ok(outcome) => {
            assert_eq!((outcome.class, outcome.timeout), (track.class(), track.timeout()));
            if outcome.reopened {
                assert_eq!(*track, old, "the old track stays until policy has decided");
                "reopen".into()
            } else if outcome.refresh {
                track.name().into()
            } else {
                format!("pass {}", track.name())
            }
        }
        Err(reason) => {
            assert_eq!(*track, old, "a refused segment changes nothing");
            format!("!{}", reason.name())
        }
    }
}

#[track_caller]
fn play_with(track: &mut Track, script: &str, check_window: bool) {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (text, expected) = line.split_once("=>").unwrap();
        let got = verdict(track, text, check_window);
        assert_eq!(got, expected.trim(), "at `{line}`, now {track:#?}");
    }
}

#[track_caller]
fn play(track: &mut Track, script: &str) {
    play_with(track, script, true);
}

fn syn(text: &str) -> Track {
    Track::open(&segment(text).1).unwrap()
}

fn established() -> Track {
    let mut track = syn("> S 100 win 1000");
    play(&mut track, HANDSHAKE);
    track
}

#[test]
fn only_a_syn_without_ack_opens_a_connection() {
    for flags in 0..64_u8 {
        let first = TcpSegment {
            flags,
            ..TcpSegment::default()
        };
        let opens = flags & (SYN | ACK | FIN | RST) == SYN;
        assert_eq!(Track::open(&first).is_ok(), opens, "flags {flags:#x}");
    }
}

#[test]
fn handshake_transfer_and_close() {
    let mut track = syn("> S 100 win 1000");
    assert_eq!(track.class(), Class::Opening);
    play(&mut track, HANDSHAKE);
    play(
        &mut track,
        "> A 101 ack 301 len 500 => established
         < A 301 ack 601 len 900 => established
         > A 601 ack 1201 => established
         > FA 601 ack 1201 => half-closed
         < A 1201 ack 602 => half-closed
         < FA 1201 ack 602 => closing
         > A 602 ack 1202 => time-wait",
    );
    assert_eq!(
        (track.class(), track.timeout()),
        (Class::Closing, Timeout::Closing)
    );
}

#[test]
fn both_ends_close_at_once() {
    play(
        &mut established(),
        "> FA 101 ack 301 => half-closed
         < FA 301 ack 101 => closing
         > A 102 ack 302 => closing
         < A 302 ack 102 => time-wait",
    );
}

#[test]
fn the_open_half_goes_on_sending_after_the_other_fin() {
    play(
        &mut established(),
        "> FA 101 ack 301 => half-closed
         < A 301 ack 102 len 1000 => half-closed
         > A 102 ack 1301 => half-closed
         < A 1301 ack 102 len 1000 => half-closed
         > A 102 ack 2301 => half-closed
         < FA 2301 ack 102 => closing
         > A 102 ack 2302 => time-wait",
    );
}

#[test]
fn a_fin_sent_again_changes_nothing_and_data_behind_it_takes_it_back() {
    play(
        &mut established(),
        "> FA 101 ack 301 => half-closed
         > FA 101 ack 301 => half-closed
         > A 102 ack 301 len 10 => established",
    );
}

#[test]
fn retransmissions_in_every_part_of_the_handshake_pass() {
    let mut track = syn("> S 100");
    play(
        &mut track,
        "> S 100 => syn-sent
         < SA 300 ack 101 => syn-received
         > S 100 => pass syn-received
         < SA 300 ack 101 => syn-received
         > A 101 ack 301 => established
         < SA 300 ack 101 => pass established
         > A 101 ack 301 => established",
    );
}

#[test]
fn a_new_attempt_with_another_sequence_number_replaces_the_syn() {
    play(
        &mut syn("> S 100"),
        "> S 5000 => syn-sent
         < SA 300 ack 101 => !tcp-window
         < SA 300 ack 5001 => syn-received",
    );
}

#[test]
fn nothing_but_a_syn_ack_answers_a_syn() {
    // RFC 9293 section 3.10.7.3
    play(
        &mut syn("> S 100"),
        "> A 101 ack 1 => !tcp-state
         > FA 101 ack 1 => !tcp-state
         > SA 100 ack 1 => !tcp-state
         < FA 1 ack 101 => !tcp-state
         < A 1 ack 101 len 4 => !tcp-state
         < SA 300 ack 100 => !tcp-window
         < SA 300 ack 102 => !tcp-window
         < SA 300 ack 101 => syn-received",
    );
}

#[test]
fn segments_without_ack_are_refused_after_the_syn() {
    // RFC 9293 section 3.10.7.4
    play(
        &mut established(),
        "> - 101 len 5 => !tcp-state\n < F 301 => !tcp-state",
    );
}

#[test]
fn simultaneous_open_establishes() {
    // RFC 9293 section 3.5, figure 8; RFC 5382 REQ-2
    let mut crossing = syn("> S 100");
    play(
        &mut crossing,
        "< S 300 => simultaneous-open
         > SA 100 ack 301 => simultaneous-open
         < SA 300 ack 101 => established
         > A 101 ack 301 len 10 => established",
    );
    let mut answered_by_ack = syn("> S 100");
    play(
        &mut answered_by_ack,
        "< S 300 => simultaneous-open
         > S 100 => simultaneous-open
         < S 300 => simultaneous-open
         > SA 100 ack 301 => simultaneous-open
         < A 301 ack 101 => established",
    );
}

#[test]
fn a_spoofed_syn_does_not_keep_the_real_answer_out() {
    play(
        &mut syn("> S 100 ws 7"),
        "< S 77777 => simultaneous-open
         < SA 300 ack 101 ws 7 => syn-received
         > A 101 ack 301 win 1000 => established
         < A 301 ack 101 len 60000 => established",
    );
}

#[test]
fn fast_open_data_on_both_syns_passes() {
    // RFC 7413
    play(
        &mut syn("> S 100 len 40"),
        "< SA 300 ack 141 len 200 => syn-received
         < A 501 ack 141 len 500 => syn-received
         > A 141 ack 1001 => established",
    );
}

#[test]
fn segments_outside_the_window_are_refused() {
    play(
        &mut established(),
        "> A 1102 ack 301 len 1 => !tcp-window
         > A 4000000000 ack 301 len 1 => !tcp-window
         < A 1302 ack 101 len 1 => !tcp-window
         > A 101 ack 302 => !tcp-window
         > A 101 ack 4000000000 => !tcp-window
         > A 101 ack 301 len 1000 => established
         < A 301 ack 1101 len 1000 => established
         > FA 3000 ack 1301 => !tcp-window
         > A 1101 ack 1301 len 1000 => established",
    );
}

#[test]
fn keepalives_and_probes_of_a_closed_window_pass() {
    // RFC 9293 sections 3.8.4 and 3.8.6.1
    play(
        &mut established(),
        "> A 100 ack 301 => established
         > A 100 ack 301 len 1 => established
         < A 300 ack 101 => established
         > A 101 ack 301 len 1000 => established
         < A 301 ack 1101 win 0 => established
         > A 1101 ack 301 len 1 => established
         < A 301 ack 1101 win 0 => established
         > A 1101 ack 301 len 2 => !tcp-window
         < A 301 ack 1102 win 1000 => established",
    );
}

#[test]
fn old_data_and_old_acks_pass_as_far_as_one_window_back() {
    play(
        &mut established(),
        "> A 101 ack 301 len 1000 => established
         < A 301 ack 1101 => established
         > A 1101 ack 301 len 1000 => established
         < A 301 ack 2101 => established
         > A 1000 ack 301 len 99 => !tcp-window
         > A 1000 ack 301 len 100 => established
         < A 301 ack 101 => established",
    );
}

#[test]
fn windows_are_scaled_only_when_both_ask_for_it() {
    // RFC 7323 section 2.2
    let scaled = "< SA 300 ack 101 win 1000 ws 4 => syn-received
         > A 101 ack 301 win 1000 => established
         < A 301 ack 101 win 1000 => established";
    let mut both = syn("> S 100 win 1000 ws 7");
    play(&mut both, scaled);
    play(
        &mut both,
        "> A 101 ack 301 len 16001 => established
         > A 16102 ack 301 len 1 => !tcp-window
         < A 301 ack 101 len 60000 => established
         < A 60301 ack 101 len 60000 => established
         < A 120301 ack 101 len 8001 => established
         < A 128302 ack 101 len 1 => !tcp-window",
    );
    for (first, second) in [("> S 100 ws 7", ""), ("> S 100", "ws 7"), ("> S 100", "")] {
        let mut track = syn(first);
        play(
            &mut track,
            &format!("< SA 300 ack 101 win 1000 {second} => syn-received"),
        );
        play(
            &mut track,
            "> A 101 ack 301 => established
             < A 301 ack 101 => established
             > A 101 ack 301 len 1002 => !tcp-window
             < A 301 ack 101 len 1002 => !tcp-window",
        );
    }
}

#[test]
fn an_heir_is_told_the_scales_that_the_handshake_has_settled() {
    let table = [
        ("> S 100 ws 7", "ws 4", Scales::new(7, 4)),
        ("> S 100 ws 200", "ws 0", Scales::new(14, 0)),
        ("> S 100 ws 7", "", Scales::new(0, 0)),
        ("> S 100", "ws 7", Scales::new(0, 0)),
    ];
    for (first, second, told) in table {
        let mut track = syn(first);
        assert_eq!(
            track.scales().shifts()[1],
            Scales::UNSEEN,
            "{first}: no answer yet"
        );
        play(
            &mut track,
            &format!("< SA 300 ack 101 {second} => syn-received\n> A 101 ack 301 => established"),
        );
        assert_eq!(track.scales(), told, "{first}, {second}");
    }
}

#[test]
fn the_window_of_a_syn_is_never_scaled() {
    // RFC 7323 section 2.2
    play(
        &mut syn("> S 100 win 1000 ws 7"),
        "< SA 300 ack 101 win 1000 ws 7 => syn-received
         > A 101 ack 301 len 1002 => !tcp-window
         > A 101 ack 301 len 1000 => established",
    );
}

#[test]
fn sequence_numbers_wrap_around_in_the_middle_of_a_transfer() {
    let mut track = syn("> S 4294967290");
    play(
        &mut track,
        "< SA 4294967295 ack 4294967291 => syn-received
         > A 4294967291 ack 0 len 1000 => established
         < A 0 ack 995 len 10 => established
         > A 995 ack 10 len 10 => established
         > A 3000 ack 10 => !tcp-window
         > R 4294967000 => !tcp-window
         > FA 1005 ack 10 => half-closed
         < FA 10 ack 1006 => closing
         > A 1006 ack 11 => time-wait",
    );
}

#[test]
fn refused_connections_end_at_once_and_only_by_a_rst_that_acknowledges_the_syn() {
    // RFC 9293 section 3.10.7.3
    play(
        &mut syn("> S 100"),
        "< R 0 => !tcp-window
         < RA 0 ack 100 => !tcp-window
         < RA 0 ack 5000 => !tcp-window
         < RA 0 ack 101 => reset",
    );
}

#[test]
fn only_the_expected_sequence_number_resets() {
    // RFC 5961 section 3.2
    let mut track = established();
    play(
        &mut track,
        "> A 101 ack 301 len 500 => established
         < A 301 ack 201 => established
         > R 200 => !tcp-window
         > R 202 => pass established
         > R 1200 => pass established
         > R 1203 => !tcp-window
         < R 4000000000 => !tcp-window
         > R 201 => reset",
    );
    assert_eq!((track.class(), track.timeout()), (Class::Closing, Timeout::Reset));
    play(
        &mut established(),
        "> A 101 ack 301 len 500 => established\n > R 601 => reset",
    );
}

#[test]
fn whoever_goes_on_after_its_rst_has_not_sent_it() {
    // RFC 6146 section 3.5.2.2
    play(
        &mut established(),
        "< R 301 => reset
         > A 101 ack 301 len 10 => pass reset
         > A 5000 ack 301 len 10 => !tcp-window
         < R 301 => pass reset
         < A 301 ack 111 len 10 => established",
    );
    play(
        &mut syn("> S 100"),
        "< RA 0 ack 101 => reset
         < A 1 ack 101 => pass reset",
    );
}

#[test]
fn a_syn_on_a_live_connection_draws_a_challenge_ack_and_the_rst_that_follows_ends_it() {
    // RFC 5961 section 4.2: the client has rebooted and uses the port again.
    play(
        &mut established(),
        "< S 9000 => !tcp-window
         > S 9000 => pass established
         < A 301 ack 101 => established
         > R 101 => reset
         > S 9000 => reopen",
    );
}

#[test]
fn a_client_that_lost_its_conntrack_clears_the_servers_old_connection() {
    // The entry is new, the server still has the last connection and answers the SYN with a challenge ACK.
    play(
        &mut syn("> S 100"),
        "< A 7000 ack 5000 => pass syn-sent
         > R 5000 => pass syn-sent
         > S 100 => syn-sent
         < SA 300 ack 101 => syn-received",
    );
}

#[test]
fn a_syn_reopens_what_both_ends_have_closed() {
    for last in ["", "> A 102 ack 302 => time-wait"] {
        let mut track = established();
        play(&mut track, "> FA 101 ack 301 => half-closed");
        play(&mut track, "> S 9000 => pass half-closed");
        play(&mut track, "< FA 301 ack 102 => closing");
        play(&mut track, last);
        play(&mut track, "> S 9000 => reopen\n < S 9000 => reopen");
    }
}

#[test]
fn without_window_check_everything_in_state_passes_and_any_rst_counts() {
    let mut track = established();
    play_with(
        &mut track,
        "> A 1000000 ack 1 len 1000 => established
         < A 2000000 ack 999 => established
         < R 5 => reset",
        false,
    );
}

#[test]
fn switching_the_window_check_on_finds_no_false_bounds() {
    let mut track = established();
    play_with(&mut track, "> A 1000000 ack 301 len 1000 => established", false);
    play(
        &mut track,
        "< A 301 ack 1001000 => established
         > A 1001000 ack 301 len 10 => established",
    );
    assert!(!track.is_lenient(ORIGINAL) && !track.is_lenient(REPLY));
    play(&mut track, "> A 4000000000 ack 301 len 10 => !tcp-window");
}

/// States by name, with the script that leads there from the client's SYN.
const STATES: [(&str, &str); 9] = [
    ("syn-sent", ""),
    ("syn-received", "< SA 300 ack 101 => syn-received"),
    ("simultaneous-open", "< S 300 => simultaneous-open"),
    ("established", HANDSHAKE),
    ("half-closed >", "> FA 101 ack 301 => half-closed"),
    ("half-closed <", "< FA 301 ack 101 => half-closed"),
    (
        "closing",
        "> FA 101 ack 301 => half-closed\n < FA 301 ack 101 => closing",
    ),
    (
        "time-wait",
        "> FA 101 ack 301 => half-closed\n < FA 301 ack 102 => closing\n > A 102 ack 302 => time-wait",
    ),
    ("reset >", "> R 101 => reset"),
];

/// Every state, and in it every kind of segment with fitting numbers, in both directions.
const TABLE: &str = "\
state | S | SA | A | FA | R
syn-sent, > | syn-sent | !tcp-state | !tcp-state | !tcp-state | reset
syn-sent, < | simultaneous-open | syn-received | pass syn-sent | !tcp-state | !tcp-window
syn-received, > | pass syn-received | established | established | half-closed | reset
syn-received, < | pass syn-received | syn-received | syn-received | syn-received | reset
simultaneous-open, > | simultaneous-open | simultaneous-open | !tcp-state | !tcp-state | reset
simultaneous-open, < | simultaneous-open | syn-received | pass simultaneous-open | !tcp-state | pass simultaneous-open
established, > | pass established | pass established | established | half-closed | reset
established, < | pass established | pass established | established | half-closed | reset
half-closed >, > | pass half-closed | pass half-closed | half-closed | half-closed | reset
half-closed >, < | pass half-closed | pass half-closed | half-closed | closing | reset
half-closed <, > | pass half-closed | pass half-closed | half-closed | closing | reset
half-closed <, < | pass half-closed | pass half-closed | half-closed | half-closed | reset
closing, > | reopen | pass closing | closing | closing | reset
closing, < | reopen | pass closing | closing | closing | reset
time-wait, > | reopen | pass time-wait | time-wait | time-wait | reset
time-wait, < | reopen | pass time-wait | time-wait | time-wait | reset
reset >, > | reopen | pass reset | established | half-closed | pass reset
reset >, < | reopen | pass reset | pass reset | pass reset | pass reset
";

#[test]
fn every_state_answers_every_kind_of_segment() {
    let mut rows = String::from("state | S | SA | A | FA | R\n");
    for (state, script) in STATES {
        for arrow in [">", "<"] {
            rows += &format!("{state}, {arrow}");
            for kind in ["S", "SA", "A", "FA", "R"] {
                rows += &format!(" | {}", fitting_segment_in(script, arrow, kind));
            }
            rows.push('\n');
        }
    }
    assert_eq!(rows, TABLE, "\n{rows}");
}

fn fitting_segment_in(script: &str, arrow: &str, kind: &str) -> String {
    let mut track = syn("> S 100");
    if script.contains('F') || script.contains('R') {
        play(&mut track, HANDSHAKE);
    }
    play(&mut track, script);
    let [client, server] = &track.ends;
    let (own, other, isn) = if arrow == ">" {
        (client, server, 100)
    } else {
        (server, client, 300)
    };
    let seq = match kind {
        "S" | "SA" => isn,
        "FA" if own.has_closed() => isn + 1,
        _ => own.next_seq().unwrap_or(isn + 1),
    };
    let ack = other.next_seq().unwrap_or(1);
    verdict(&mut track, &format!("{arrow} {kind} {seq} ack {ack}"), true)
}

/// Whether the way that most segments take leads where the general one does, with the window check and without.
fn goes_on_as_any_other(track: Track, dir: Direction, segment: &TcpSegment) -> bool {
    [true, false].into_iter().all(|check_window| {
        let (mut short, mut long) = (track, track);
        if !short.goes_on(dir, segment) {
            return short == track;
        }
        let effect = long.judge(dir, segment, check_window);
        (short, Ok(Effect::Refresh)) == (long, effect) && long.timeout() == Timeout::Established
    })
}

#[test]
fn an_established_connection_takes_the_short_way_unless_something_is_left_open() {
    let mut track = established();
    let (dir, data) = segment("> A 101 ack 301 len 50");
    assert!(track.goes_on(dir, &data) && goes_on_as_any_other(track, dir, &data));
    for text in ["> FA 151 ack 301", "> R 151", "> A 900000 ack 301"] {
        let (dir, other) = segment(text);
        assert!(!track.goes_on(dir, &other), "{text}");
    }
    track.observe(dir, &segment("> FA 151 ack 301").1, true).unwrap();
    let (dir, ack) = segment("< A 301 ack 152");
    assert!(!track.goes_on(dir, &ack), "one end has closed");
}

proptest! {
    #[test]
    fn arbitrary_segments_never_panic_and_refusals_change_nothing(
        class in 0_u8..4,
        segments in prop::collection::vec(
            (any::<bool>(), any::<u32>(), any::<u32>(), any::<u16>(), any::<u8>(), 0_u32..65_536, any::<Option<u8>>(), any::<bool>()),
            1..60,
        ),
    ) {
        let mut track = match Class::from_u8(class) {
            Some(class) => Track::inherited(class, Scales::NONE),
            None => established(),
        };
        for (original, seq, ack, window, flags, payload_len, window_scale, near) in segments {
            let dir = if original { ORIGINAL } else { REPLY };
            let (seq, ack) = if near { (seq % 4096, ack % 4096) } else { (seq, ack) };
            let segment = TcpSegment { seq, ack, payload_len, window, flags, window_scale };
            let old = track;
            match track.observe(dir, &segment, true) {
                Ok(outcome) => prop_assert_eq!(outcome.class, track.class()),
                Err(_) => prop_assert_eq!(track, old),
            }
            prop_assert!(goes_on_as_any_other(old, dir, &segment));
        }
    }

    /// A whole transfer with loss and reordering between the box and the receivers: everything honest passes.
    #[test]
    fn an_honest_transfer_is_never_refused(
        start in any::<u32>(),
        // The record's window scales, when it is inherited: seen by nobody, or the real ones.
        inherited in prop_oneof![Just(None), Just(Some(Scales::NONE)), Just(Some(Scales::new(0, 0)))],
        steps in prop::collection::vec((1_u32..1449, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let server = start.wrapping_add(0x8000_0000);
        let base = TcpSegment { window: 30_000, flags: ACK, ..TcpSegment::default() };
        let mut track = if let Some(scales) = inherited {
            Track::inherited(Class::Established, scales)
        } else {
            let mut track = Track::open(&TcpSegment { seq: start.wrapping_sub(1), flags: SYN, ..base }).unwrap();
            let answer = TcpSegment { seq: server.wrapping_sub(1), ack: start, flags: SYN | ACK, ..base };
            track.observe(REPLY, &answer, true).unwrap();
            track
        };
        let (mut sent, mut received) = (server, server);
        for (len, lost, acknowledge) in steps {
            let room = received.wrapping_add(30_000).wrapping_sub(sent);
            let data = TcpSegment { seq: sent, ack: start, payload_len: len.min(room), ..base };
            prop_assert!(goes_on_as_any_other(track, REPLY, &data));
            prop_assert!(track.observe(REPLY, &data, true).is_ok(), "{:?} {:#?}", data, track);
            sent = sent.wrapping_add(data.payload_len);
            if lost {
                sent = received; // The sender starts again from what was not acknowledged.
            } else {
                received = sent;
            }
            if acknowledge {
                let ack = TcpSegment { seq: start, ack: received, ..base };
                prop_assert!(goes_on_as_any_other(track, ORIGINAL, &ack));
                prop_assert!(track.observe(ORIGINAL, &ack, true).is_ok(), "{:?} {:#?}", ack, track);
            }
        }
    }
}
