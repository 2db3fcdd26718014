//! One VRF on one lane, slot by slot: generations, pauses, what is sent whole and what isn't.

use super::*;

fn export() -> (Export, VecDeque<SlotRef>) {
    // Slots 1 and 3 of 4 belong to the lane.
    (
        Export::new(VrfId(0), 4, 100, |slot| slot % 2 == 1),
        VecDeque::new(),
    )
}

fn at(ms: u64) -> Instant {
    Instant::from_ns(ms * 1_000_000)
}

fn begin(export: &mut Export, slot: u16, generation: u32, since: Option<Version>) -> bool {
    export
        .begun(slot, generation, Version::default(), since)
        .is_some()
}

/// Takes slot 1 through a whole generation.
fn send(export: &mut Export, slot: u16, generation: u32) {
    export.asked(slot, generation);
    assert!(begin(export, slot, generation, None));
    assert!(export.ended(slot, generation, at(0)));
}

#[test]
fn a_resync_is_complete_when_all_slots_of_the_lane_are_verified() {
    let (mut export, mut todo) = export();
    export.start("connected", at(0), &mut todo);
    assert_eq!(todo.iter().map(|at| at.slot).collect::<Vec<_>>(), [1, 3]);
    send(&mut export, 1, 7);
    send(&mut export, 3, 8);
    assert_eq!(export.under_way, 2);
    assert!(!export.confirmed(1, 7, 0, at(1)));
    assert!(export.confirmed(3, 8, 2, at(5)));
    assert_eq!(
        (export.verified(), export.under_way, export.report.refused),
        (2, 0, 2)
    );
    assert_eq!(
        (export.report.resync.took_ms, export.report.resync.running),
        (5, false)
    );
    assert_eq!(export.report.resync.slots, 2);
    assert!(export.again(3, "dirty", at(6), &mut todo));
    assert_eq!(export.report.resync.slots, 0, "of the next one");
    send(&mut export, 3, 9);
    assert!(export.confirmed(3, 9, 0, at(7)));
    assert_eq!(export.report.resync.slots, 1);
}

/// sync/PROTOCOL.md R-34.
#[test]
fn answers_of_another_generation_change_nothing() {
    let (mut export, mut todo) = export();
    export.start("connected", at(0), &mut todo);
    export.asked(1, 7);
    assert!(!begin(&mut export, 1, 6, None));
    assert!(begin(&mut export, 1, 7, None));
    assert!(!export.ended(1, 6, at(0)));
    assert!(!export.confirmed(1, 7, 0, at(0)), "verified before its end");
    assert!(export.ended(1, 7, at(0)));
    export.failed(1, 6, true, at(0), &Timing::default(), &mut todo);
    assert_eq!(export.report.generations.failed, 0);
}

#[test]
fn a_failed_slot_waits_longer_each_time_and_stays_open_for_live_records() {
    let (mut export, mut todo) = export();
    let timing = Timing::default();
    export.start("connected", at(0), &mut todo);
    for (generation, pause) in [(7, 10), (8, 20), (9, 40)] {
        todo.clear();
        export.dismissed(1);
        send(&mut export, 1, generation);
        export.failed(1, generation, true, at(0), &timing, &mut todo);
        assert_eq!(export.task(1, at(pause - 1)), Task::Later);
        assert_eq!(export.task(1, at(pause)), Task::Send(None));
        assert!(export.stream(1).is_some_and(|s| s.number == 101));
    }
}

#[test]
fn stopping_tells_the_worker_only_of_slots_it_knows_about_and_once() {
    let (mut export, mut todo) = export();
    export.start("connected", at(0), &mut todo);
    todo.clear();
    export.dismissed(1);
    export.dismissed(3);
    export.asked(1, 7);
    export.stop(99, at(0), &mut todo);
    assert_eq!(todo.iter().map(|at| at.slot).collect::<Vec<_>>(), [1]);
    assert_eq!(export.task(1, at(0)), Task::Stop(99));
    // A new connection begins before the worker had room for the stop: stop first, then send.
    export.start("connected", at(0), &mut todo);
    assert_eq!(export.task(1, at(0)), Task::Stop(99));
    assert!(export.stopped(1));
    assert_eq!(export.task(1, at(0)), Task::Query);
}

fn offer(generation: u32, same: bool) -> SlotOffer {
    SlotOffer {
        generation,
        count: 0,
        digest: 0,
        version: Version::default(),
        absent: 0,
        same,
        exact: false,
    }
}

/// sync/PROTOCOL.md R-36.
#[test]
fn a_peer_is_asked_first_and_a_slot_that_failed_is_sent_whole_unasked() {
    let (mut export, mut todo) = export();
    export.start("connected", at(0), &mut todo);
    assert_eq!(export.task(1, at(0)), Task::Query);
    export.asked_peer(1, 5, at(0));
    assert_eq!((export.queried, export.task(1, at(0))), (1, Task::Nothing));
    assert!(
        !export.offered(1, offer(4, false), at(0), &mut todo),
        "an older question"
    );
    assert!(export.offered(1, offer(5, false), at(0), &mut todo));
    assert_eq!(export.task(1, at(0)), Task::Send(Some(offer(5, false))));
    export.asked(1, 6);
    assert!(begin(&mut export, 1, 6, Some(Version::default())));
    assert!(export.ended(1, 6, at(0)));
    export.failed(1, 6, true, at(0), &Timing::default(), &mut todo);
    assert_eq!(export.task(1, at(99)), Task::Send(None));
    assert_eq!(export.queried, 0);
}

#[test]
fn slots_are_counted_by_how_much_of_them_was_sent() {
    let (mut export, mut todo) = export();
    export.start("connected", at(0), &mut todo);
    for (slot, since, walked) in [
        (1, Some(Version::default()), 0),
        (1, Some(Version::default()), 2),
        (3, None, 9),
    ] {
        export.asked(slot, 7);
        assert!(begin(&mut export, slot, 7, since));
        (0..walked).for_each(|_| export.walked(slot));
        assert!(export.ended(slot, 7, at(0)));
        export.confirmed(slot, 7, 0, at(0));
    }
    let r = &export.report;
    assert_eq!(
        (r.generations.equal, r.generations.caught_up, r.generations.whole),
        (1, 1, 1)
    );
}

#[test]
fn a_digest_goes_out_for_verified_slots_only_and_a_difference_sends_the_slot_again() {
    let (mut export, mut todo) = export();
    let timing = Timing::default();
    let end = SlotEnd {
        generation: 0,
        count: 0,
        digest: 0,
        version: Version::default(),
    };
    export.start("connected", at(0), &mut todo);
    assert_eq!(export.digest(1, &end), None);
    send(&mut export, 1, 7);
    assert_eq!(export.digest(1, &end), None);
    export.confirmed(1, 7, 0, at(0));
    assert_eq!(export.digest(1, &end).map(|e| e.generation), Some(7));
    let mut hear = |offer| export.compared(1, offer, at(0), &timing, &mut todo);
    assert_eq!(hear(offer(6, false)), Compared::Outdated);
    assert_eq!(hear(offer(7, true)), Compared::Equal);
    assert_eq!(hear(offer(7, false)), Compared::Differs);
    assert_eq!((export.verified(), export.report.digest_mismatch), (0, 1));
    assert_eq!(export.task(1, at(99)), Task::Send(None));
}
