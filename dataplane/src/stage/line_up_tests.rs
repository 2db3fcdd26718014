//! The line by itself: who stands in it, and who goes on when. What comes of it between two nodes is in `tests/it/line_up.rs`.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::io::PortId;
use crate::role::Role;
use crate::stage::Work;

const VRF: VrfId = VrfId(1);
const MS: Duration = Duration::from_millis(1);
const BEGIN: Instant = Instant::from_secs(100);

/// Of a node that has taken over at `BEGIN`.
fn active() -> VrfRole {
    VrfRole {
        role: Role::Master,
        since_s: BEGIN.secs(),
        redirects_until: BEGIN,
        ..VrfRole::UNSEEN
    }
}

fn watching() -> Line<u32> {
    let mut line = Line::new(2);
    line.watch(VRF, &active(), BEGIN);
    line
}

fn keep(line: &mut Line<u32>, number: u32, counters: &mut Counters) -> Result<(), u32> {
    let waiting = Waiting::of(number, &Work::arrived(PortId(0), 0), None);
    line.keep(VRF, waiting, counters)
}

fn gone_on(line: &mut Line<u32>) -> Vec<u32> {
    core::iter::from_fn(|| line.pop().map(|waiting| waiting.packet)).collect()
}

#[test]
fn packets_line_up_only_in_a_reign_s_first_seconds_and_as_long_as_redirected_ones_come() {
    let line = watching();
    assert!(line.is_open(BEGIN) && line.is_for(VRF, BEGIN));
    assert!(!line.is_for(VrfId(0), BEGIN), "another VRF's don't");
    assert!(!line.is_open(BEGIN + WATCH));
    let watches = |seen: VrfRole, now: Instant| {
        let mut line: Line<u32> = Line::new(2);
        line.watch(VRF, &seen, now);
        line.is_open(now)
    };
    assert!(watches(active(), BEGIN + Duration::from_secs(5)));
    assert!(!watches(active(), BEGIN + Duration::from_secs(6)));
    let standby = VrfRole {
        role: Role::Backup,
        ..active()
    };
    assert!(!watches(standby, BEGIN));
    let alone = VrfRole {
        redirects_until: Instant::default(),
        ..active()
    };
    assert!(!watches(alone, BEGIN), "it was not handed over");
    assert!(
        !Line::<u32>::new(1).is_open(Instant::default()),
        "nothing has come at all"
    );
}

/// a fence says nothing about packets that came after it was sent.
#[test]
fn r59_a_fence_lets_those_go_on_who_stood_there_when_it_was_sent() {
    let (mut line, mut counters) = (watching(), Counters::default());
    assert!(!line.asks());
    for number in 0..3 {
        keep(&mut line, number, &mut counters).unwrap();
    }
    assert!(line.asks());
    assert_eq!(line.ask(BEGIN), Some(VRF));
    assert!(!line.asks(), "one at a time");
    keep(&mut line, 3, &mut counters).unwrap();
    line.review(false, BEGIN + MS, &mut counters);
    assert_eq!(gone_on(&mut line), []);
    line.review(true, BEGIN + MS, &mut counters);
    assert_eq!(gone_on(&mut line), [0, 1, 2]);
    assert!(line.asks() && line.is_for(VRF, BEGIN + WATCH), "one still waits");
    line.ask(BEGIN + MS);
    line.review(true, BEGIN + 2 * MS, &mut counters);
    assert_eq!(gone_on(&mut line), [3]);
    assert!(line.is_empty() && !line.asks());
    assert_eq!((counters.lined_up, counters.lined_up_late), (4, 0));
}

#[test]
fn a_peer_that_says_nothing_delays_nobody_for_longer_than_patience_lasts() {
    let (mut line, mut counters) = (watching(), Counters::default());
    keep(&mut line, 0, &mut counters).unwrap();
    line.ask(BEGIN + MS);
    keep(&mut line, 1, &mut counters).unwrap();
    // Redirected packets go on coming.
    line.watch(VRF, &active(), BEGIN + 45 * MS);
    line.review(false, BEGIN + 50 * MS, &mut counters);
    assert_eq!(gone_on(&mut line), []);
    line.review(false, BEGIN + MS + PATIENCE, &mut counters);
    assert_eq!(gone_on(&mut line), [0, 1]);
    assert_eq!(counters.lined_up_late, 2);
    assert!(
        !line.is_open(BEGIN + MS + PATIENCE),
        "nor does anybody wait after it"
    );
    line.watch(VRF, &active(), BEGIN + 60 * MS);
    assert!(line.is_for(VRF, BEGIN + 60 * MS), "but for something that comes");
}

/// However long the way is: what is on it has not come either.
#[test]
fn when_nothing_redirected_comes_any_more_the_fence_that_is_away_is_still_waited_for_and_the_last_one() {
    let (mut line, mut counters) = (watching(), Counters::default());
    keep(&mut line, 0, &mut counters).unwrap();
    line.ask(BEGIN + 10 * MS);
    keep(&mut line, 1, &mut counters).unwrap();
    line.review(false, BEGIN + WATCH, &mut counters);
    assert_eq!(gone_on(&mut line), []);
    line.review(true, BEGIN + 2 * WATCH, &mut counters);
    assert_eq!(gone_on(&mut line), [0, 1]);
    assert_eq!(counters.lined_up_late, 0);
    assert!(!line.is_open(BEGIN + 2 * WATCH));
}

/// A switchover's word counts once: who has given up doesn't begin anew because of it.
#[test]
fn after_a_switchover_packets_line_up_before_the_first_redirected_one_has_come() {
    let mut line: Line<u32> = Line::new(2);
    let handed = VrfRole {
        redirects_until: BEGIN + 60 * MS,
        ..active()
    };
    let seen = [VrfRole::UNSEEN, handed];
    line.expect(&seen, BEGIN);
    assert!(line.is_for(VRF, BEGIN + 59 * MS) && !line.is_for(VrfId(0), BEGIN));
    assert!(!line.is_open(BEGIN + 60 * MS));
    let mut counters = Counters::default();
    keep(&mut line, 0, &mut counters).unwrap();
    line.ask(BEGIN);
    line.review(false, BEGIN + PATIENCE, &mut counters);
    assert_eq!(gone_on(&mut line), [0]);
    line.expect(&seen, BEGIN + PATIENCE);
    assert!(!line.is_open(BEGIN + PATIENCE));
}

#[test]
fn a_full_line_gives_the_packet_back() {
    let (mut line, mut counters) = (watching(), Counters::default());
    for number in 0..LINED_UP {
        keep(&mut line, number, &mut counters).unwrap();
    }
    assert_eq!(keep(&mut line, LINED_UP, &mut counters), Err(LINED_UP));
    assert_eq!(line.take().map(|waiting| waiting.packet), Some(0));
    assert_eq!(keep(&mut line, LINED_UP, &mut counters), Ok(()));
    assert_eq!(counters.lined_up, u64::from(LINED_UP) + 1);
}

#[derive(Debug, Clone)]
enum Step {
    Redirected,
    Straight,
    /// The fence comes back, if one is away.
    Back,
    Wait(u8),
}

proptest! {
    /// Against a list with the number of the fence that covers each packet: nobody goes on out of order, nobody before a fence
    /// sent after it stood there is back, or time has run out, and nobody stays.
    #[test]
    fn everybody_goes_on_in_order_and_not_too_early(
        steps in proptest::collection::vec(
            prop_oneof![
                1 => Just(Step::Redirected),
                3 => Just(Step::Straight),
                1 => Just(Step::Back),
                1 => (1_u8..9).prop_map(Step::Wait),
            ],
            0..200,
        ),
    ) {
        let (mut line, mut counters) = (Line::new(2), Counters::default());
        let (mut now, mut redirected, mut straight) = (BEGIN, None, 0);
        // Packets that wait; how many the fence that is away covers, and when it was sent.
        let (mut waiting, mut away): (VecDeque<u32>, Option<(usize, Instant)>) = (VecDeque::new(), None);
        for step in steps.into_iter().chain([Step::Wait(50), Step::Wait(50)]) {
            let mut back = false;
            match step {
                Step::Redirected => {
                    line.watch(VRF, &active(), now);
                    redirected = Some(now);
                }
                Step::Straight if line.is_for(VRF, now) => {
                    keep(&mut line, straight, &mut counters).unwrap();
                    waiting.push_back(straight);
                    straight += 1;
                }
                // It goes on at once: nobody may be in front of it.
                Step::Straight => prop_assert!(waiting.is_empty()),
                Step::Back => back = away.is_some(),
                Step::Wait(ms) => now = now + u32::from(ms) * MS,
            }
            if line.is_empty() {
                continue;
            }
            line.review(back, now, &mut counters);
            let quiet = redirected.is_none_or(|at| now >= at + WATCH);
            let late = away.is_some_and(|(_, sent)| now >= sent + PATIENCE);
            let expected = match away {
                Some(_) if back && quiet => waiting.len(),
                Some((covered, _)) if back => covered,
                _ if late => waiting.len(),
                _ => 0,
            };
            if late && !back {
                redirected = None;
            }
            if expected > 0 {
                away = None;
            }
            let numbers: Vec<u32> = waiting.drain(..expected).collect();
            prop_assert_eq!(gone_on(&mut line), numbers);
            if line.asks() {
                line.ask(now);
                away = Some((waiting.len(), now));
            }
        }
        prop_assert!(line.is_empty() && waiting.is_empty());
    }
}
