//! Connections learnt from the peer: how leniency ends, and what a blind attacker can't do meanwhile.

use super::*;

#[test]
fn leniency_ends_during_a_bulk_transfer() {
    let mut track = Track::inherited(Class::Established);
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
            let mut track = Track::inherited(Class::Established);
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
    let mut track = Track::inherited(Class::Established);
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
        play(&mut Track::inherited(Class::Opening), script);
    }
}

#[test]
fn an_inherited_closing_connection_finishes_and_may_be_reopened() {
    let mut track = Track::inherited(Class::Closing);
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
        &mut Track::inherited(Class::Closing),
        "< S 9000 => pass closing\n > S 9000 => reopen",
    );
}

#[test]
fn a_rst_of_an_unproven_end_passes_without_effect() {
    let mut track = Track::inherited(Class::Established);
    play(
        &mut track,
        "< R 1 => pass established\n > RA 2 ack 3 => pass established",
    );
    assert!(track.is_lenient(ORIGINAL) && track.is_lenient(REPLY));
}
