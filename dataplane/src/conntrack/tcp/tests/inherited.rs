//! Connections learnt from the peer: how leniency ends, and what a blind attacker can't do meanwhile.

use super::*;

#[test]
fn leniency_ends_during_a_bulk_transfer() {
    let mut track = Track::inherited(Class::Established, Scales::NONE);
    assert!(track.is_lenient(ORIGINAL) && track.is_lenient(REPLY));
    // A download: the server sends, the client only acknowledges; first what came by the other node.
    play(&mut track, "> A 50 ack 7000 win 500 => established");
    play(&mut track, "< A 10000 ack 50 len 1448 => established");
    assert!(
        !track.is_lenient(ORIGINAL),
        "the server has acknowledged the client's number"
    );
    assert!(track.is_lenient(REPLY));
    play(
        &mut track,
        "> A 50 ack 8448 win 500 => established
         < A 11448 ack 50 len 1448 => established
         > A 50 ack 10000 win 500 => established",
    );
    assert!(track.is_lenient(REPLY), "this may be an ACK from before the run");
    play(&mut track, "> A 50 ack 11448 win 500 => established");
    assert!(!track.is_lenient(REPLY));
    play(
        &mut track,
        "< A 3000000000 ack 50 len 100 => !tcp-window
         > A 2000000000 ack 12896 => !tcp-window
         < R 1000 => !tcp-window
         < A 12896 ack 50 len 1448 => established",
    );
}

#[test]
fn a_spoofed_segment_during_leniency_poisons_nothing() {
    for spoofed in [
        "< A 3000000000 ack 50 win 65535 len 1448",
        "< A 3000000000 ack 4000000 win 0",
        "< R 10000 ack 50",
        "< RA 3000000000 ack 50",
        "< FA 3000000000 ack 50",
        "< SA 3000000000 ack 50 ws 0",
    ] {
        let bulk = [
            "> A 50 ack 9000 win 500",
            "< A 10000 ack 50 len 1448",
            "< A 11448 ack 50 len 1448",
            "> A 50 ack 12896 win 500",
            "< A 12896 ack 50 len 1448",
            "< A 14344 ack 50 len 60000",
            "> A 50 ack 74344 win 500",
            "< A 74344 ack 50 len 1448",
            "> A 50 ack 75792 win 500",
        ];
        for place in 0..bulk.len() {
            let mut track = Track::inherited(Class::Established, Scales::NONE);
            for (at, line) in bulk.iter().enumerate() {
                if at == place {
                    verdict(&mut track, spoofed, true);
                    assert_eq!(track.class(), Class::Established, "{spoofed} at {place}");
                }
                let got = verdict(&mut track, line, true);
                assert_eq!(
                    got, "established",
                    "{line} after {spoofed} at {place}: {track:#?}"
                );
            }
            play(
                &mut track,
                "< A 75792 ack 50 len 1448 => established\n> A 50 ack 77240 => established",
            );
            assert!(!track.is_lenient(REPLY), "{spoofed} at {place}");
            play(&mut track, "< A 3000000000 ack 50 len 1448 => !tcp-window");
        }
    }
}

#[test]
fn acks_of_what_the_other_node_delivered_pass_and_move_nothing() {
    // The client has 10000..20000 already; their ACKs were lost, so the server sends 10000 again.
    let mut track = Track::inherited(Class::Established, Scales::NONE);
    play(
        &mut track,
        "> A 50 ack 10500 win 500 => established
         < A 10000 ack 50 len 1000 => established
         > A 50 ack 10500 win 500 => established",
    );
    assert!(!track.is_lenient(REPLY), "a late ACK has proven the run");
    play(
        &mut track,
        "> A 50 ack 20000 win 500 => established
         < A 20000 ack 50 len 1000 => established
         > A 50 ack 21000 win 500 => established",
    );
}

#[test]
fn an_inherited_handshake_can_be_finished_from_any_point() {
    for script in [
        // The SYN is sent again.
        "> S 100 ws 7 => syn-received
         < SA 300 ack 101 ws 7 => syn-received
         > A 101 ack 301 => established",
        // The SYN-ACK is sent again.
        "< SA 300 ack 101 ws 7 => syn-received
         > A 101 ack 301 => syn-received
         > A 101 ack 301 len 10 => syn-received
         < A 301 ack 111 => established",
        // Only the last ACK was missing.
        "> A 101 ack 301 len 10 => syn-received
         < A 301 ack 111 len 100 => syn-received
         > A 111 ack 401 => established",
    ] {
        play(&mut Track::inherited(Class::Opening, Scales::NONE), script);
    }
}

#[test]
fn an_inherited_closing_connection_finishes_and_may_be_reopened() {
    let mut track = Track::inherited(Class::Closing, Scales::NONE);
    assert_eq!((track.class(), track.name()), (Class::Closing, "closing"));
    play(
        &mut track,
        "< A 1000 ack 50 len 100 => closing
         > A 50 ack 1100 => closing
         < FA 1100 ack 50 => half-closed
         > FA 50 ack 1101 => closing
         < A 1101 ack 51 => time-wait
         > S 9000 => reopen",
    );
    play(
        &mut Track::inherited(Class::Closing, Scales::NONE),
        "< S 9000 => pass closing\n > S 9000 => reopen",
    );
}

#[test]
fn a_rst_of_an_unproven_end_passes_without_effect() {
    let mut track = Track::inherited(Class::Established, Scales::NONE);
    play(
        &mut track,
        "< R 1 => pass established\n > RA 2 ack 3 => pass established",
    );
    assert!(track.is_lenient(ORIGINAL) && track.is_lenient(REPLY));
}

#[test]
fn windows_mean_what_the_record_says_and_the_most_when_it_says_nothing() {
    // The client's window is 10 segments without scaling, and 1280 with a shift of 7.
    let window = |shift: u8| 14_480_u32 << shift;
    for (told, shift) in [(0, 0), (7, 7), (Scales::UNSEEN, 14)] {
        let mut track = Track::inherited(Class::Established, Scales::new(told, told));
        play(
            &mut track,
            "> A 50 ack 10000 win 14480 => established
             < A 10000 ack 50 len 1448 => established
             > A 50 ack 11448 win 14480 => established",
        );
        assert!(!track.is_lenient(REPLY), "{told}");
        let end = 11_448 + window(shift);
        play(
            &mut track,
            &format!(
                "< A {} ack 50 len 1 => established
                 < A {} ack 50 len 1 => !tcp-window",
                end - 1,
                end + 1
            ),
        );
    }
}

#[test]
fn a_spoofed_syn_makes_no_window_of_an_inherited_handshake_smaller_than_the_record_says() {
    let mut track = Track::inherited(Class::Opening, Scales::new(7, Scales::UNSEEN));
    play(
        &mut track,
        "> S 3000000000 => syn-received
         > S 100 ws 7 => syn-received
         < SA 300 ack 101 ws 7 => syn-received
         > A 101 ack 301 win 1000 => established
         < A 301 ack 101 len 60000 => established
         < A 60301 ack 101 len 60000 => established",
    );
    assert_eq!(track.scales(), Scales::new(7, 7));
    // The attacker comes last: the next real segment displaces it, and the record's word counts again.
    let mut track = Track::inherited(Class::Opening, Scales::new(7, 7));
    play(
        &mut track,
        "> S 3000000000 => syn-received
         > A 101 ack 301 win 1000 len 10 => syn-received
         < A 301 ack 111 len 10 => syn-received
         > A 111 ack 311 win 1000 => established
         < A 311 ack 111 len 60000 => established
         < A 60311 ack 111 len 60000 => established",
    );
}

/// Nothing moves at the failover: the server has filled the client's closed window, or both have been silent for an
/// hour. Whatever comes first, from either side, has to pass, and a spoofed segment before it must not end that.
#[test]
fn a_stalled_transfer_and_an_idle_connection_go_on_from_either_side() {
    let stalled = [
        // Probe of the closed window, the answer, the update that opens it, the data (RFC 9293 section 3.8.6.1).
        "< A 60000 ack 50 len 1
         > A 50 ack 60000 win 0
         < A 60000 ack 50 len 1
         > A 50 ack 60000 win 1000
         < A 60000 ack 50 len 1448
         > A 50 ack 61448 win 1000
         < A 61448 ack 50 len 1448",
        // The update comes by itself.
        "> A 50 ack 60000 win 1000
         < A 60000 ack 50 len 1448
         > A 50 ack 61448 win 1000
         < A 61448 ack 50 len 1448",
    ];
    let idle = [
        // Keep-alives repeat the last number that was acknowledged (RFC 9293 section 3.8.4).
        "> A 49 ack 60000
         < A 60000 ack 50
         > A 50 ack 60000 len 100
         < A 60000 ack 150 len 500
         > A 150 ack 60500",
        "< A 59999 ack 50
         > A 50 ack 60000
         < A 60000 ack 50 len 1448
         > A 50 ack 61448",
        "> A 50 ack 60000 len 100
         < A 60000 ack 150
         < A 60000 ack 150 len 500
         > A 150 ack 60500",
    ];
    let spoofed = [
        None,
        Some("< A 3000000000 ack 50 win 65535 len 1448"),
        Some("> A 3000000000 ack 4000000 win 0"),
        Some("> R 3000000000"),
        Some("< FA 3000000000 ack 50"),
    ];
    for script in stalled.into_iter().chain(idle) {
        let lines: Vec<_> = script.lines().map(str::trim).collect();
        for scales in [Scales::NONE, Scales::new(7, 7)] {
            for (spoofed, place) in spoofed
                .into_iter()
                .flat_map(|s| (0..lines.len()).map(move |at| (s, at)))
            {
                let mut track = Track::inherited(Class::Established, scales);
                for (at, line) in lines.iter().enumerate() {
                    if at == place
                        && let Some(spoofed) = spoofed
                    {
                        verdict(&mut track, spoofed, true);
                        assert_eq!(track.class(), Class::Established, "{spoofed} at {place}");
                    }
                    let got = verdict(&mut track, line, true);
                    assert_eq!(
                        got, "established",
                        "{line} after {spoofed:?} at {place}: {track:#?}"
                    );
                }
            }
        }
    }
}
