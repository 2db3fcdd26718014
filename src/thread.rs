//! The loop that drives a `turn(now)` until it is told to stop, and the threads it runs on: workers are EAL
//! lcores (`dpdk::Eal::launch`), event threads are ordinary ones pinned here. The only place that sleeps.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use dataplane::time::Instant;

use crate::clock::Clock;

/// What a loop does when a turn found nothing to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Spin: the core belongs to this thread.
    Poll,
    /// Spin a little, give way, then sleep in growing steps until there is work again. For shared cores.
    #[default]
    Adaptive,
    /// As adaptive, with sleeps up to a millisecond. For the agent, whom no packet waits for.
    Calm,
}

impl Idle {
    /// Longest sleep; none for a loop that never rests. An adaptive one lets go of its core for a time that is
    /// short against a ring of packets filling up.
    const fn sleep_max(self) -> Option<Duration> {
        match self {
            Self::Poll => None,
            Self::Adaptive => Some(Duration::from_micros(160)),
            Self::Calm => Some(Duration::from_micros(1_280)),
        }
    }
}

/// Runs `turn` until `stop` is set. `turn` returns how much work it did; 0 lets an adaptive loop rest.
/// It is called at least once, and once more after `stop` was seen only if it was already running.
pub fn run(idle: Idle, stop: &AtomicBool, clock: &Clock, mut turn: impl FnMut(Instant) -> usize) {
    let Some(sleep_max) = idle.sleep_max() else {
        while !step(&mut turn, stop, clock).1 {}
        return;
    };
    sharpen_sleeps();
    let mut rest = Rest {
        empty_turns: 0,
        sleep_max,
    };
    loop {
        let (work, ended) = step(&mut turn, stop, clock);
        if ended {
            return;
        }
        pause(rest.after(work));
    }
}

/// One turn: its work, and whether it was the last.
fn step(turn: &mut impl FnMut(Instant) -> usize, stop: &AtomicBool, clock: &Clock) -> (usize, bool) {
    (turn(clock.now()), stop.load(Ordering::Relaxed))
}

/// Lets this thread's sleeps end when they should, instead of up to 50 us later, which the kernel may add to
/// save wake-ups. A kernel that refuses costs latency, nothing else.
fn sharpen_sleeps() {
    // PID/task/TID; the file exists under the thread's own number only.
    let Ok(own) = fs::read_link("/proc/thread-self") else {
        return;
    };
    let Some(thread) = own.file_name() else { return };
    let _ = fs::write(Path::new("/proc").join(thread).join("timerslack_ns"), "1");
}

/// Starts a thread pinned to `core`. Its name shows up in `ps` (15 bytes of it).
///
/// # Errors
/// When the thread can't be created. A core that can't be had is logged, and the thread runs unpinned.
pub fn spawn<T, F>(name: &str, core: usize, job: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let label = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            tracing::warn!(thread = label, core, "could not be pinned");
        }
        job()
    })
}

/// Empty turns spent spinning before an adaptive loop gives way at all.
const SPINS: u32 = 64;
/// Empty turns after those that only offer the core to others.
const YIELDS: u32 = 64;
/// First sleep; each further one is twice as long.
const SLEEP_MIN: Duration = Duration::from_micros(10);

/// How an adaptive loop rests: forgotten as soon as there is work.
#[derive(Debug)]
struct Rest {
    empty_turns: u32,
    sleep_max: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Pause {
    None,
    Spin,
    Yield,
    Sleep(Duration),
}

impl Rest {
    fn after(&mut self, work: usize) -> Pause {
        if work != 0 {
            self.empty_turns = 0;
            return Pause::None;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        match self.empty_turns {
            0..=SPINS => Pause::Spin,
            turn if turn <= SPINS + YIELDS => Pause::Yield,
            turn => {
                let doublings = (turn - SPINS - YIELDS - 1).min(16);
                Pause::Sleep(self.sleep_max.min(SLEEP_MIN.saturating_mul(1 << doublings)))
            }
        }
    }
}

fn pause(pause: Pause) {
    match pause {
        Pause::None => {}
        Pause::Spin => std::hint::spin_loop(),
        Pause::Yield => std::thread::yield_now(),
        Pause::Sleep(time) => {
            #[expect(clippy::disallowed_methods, reason = "this is where threads rest")]
            std::thread::sleep(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAPTIVE: Duration = Duration::from_micros(160);

    #[test]
    fn an_idle_loop_spins_then_yields_then_sleeps_in_doubling_steps_up_to_a_maximum() {
        for (idle, steps) in [
            (Idle::Adaptive, [10, 20, 40, 80, 160, 160, 160, 160, 160]),
            (Idle::Calm, [10, 20, 40, 80, 160, 320, 640, 1_280, 1_280]),
        ] {
            let mut rest = Rest {
                empty_turns: 0,
                sleep_max: idle.sleep_max().unwrap(),
            };
            for _ in 0..SPINS {
                assert_eq!(rest.after(0), Pause::Spin);
            }
            for _ in 0..YIELDS {
                assert_eq!(rest.after(0), Pause::Yield);
            }
            for micros in steps {
                assert_eq!(rest.after(0), Pause::Sleep(Duration::from_micros(micros)));
            }
            rest.empty_turns = u32::MAX;
            assert_eq!(rest.after(0), Pause::Sleep(rest.sleep_max));
        }
        assert_eq!(Idle::Poll.sleep_max(), None);
    }

    #[test]
    fn work_ends_the_rest_at_once() {
        let mut rest = Rest {
            empty_turns: 1_000,
            sleep_max: ADAPTIVE,
        };
        assert_eq!(rest.after(1), Pause::None);
        assert_eq!(rest.after(0), Pause::Spin);
    }

    #[test]
    fn an_adaptive_loop_sleeps_exactly() {
        let slack = spawn("slack", 0, || {
            sharpen_sleeps();
            let own = fs::read_link("/proc/thread-self").unwrap();
            let file = Path::new("/proc")
                .join(own.file_name().unwrap())
                .join("timerslack_ns");
            fs::read_to_string(file).unwrap()
        });
        assert_eq!(slack.unwrap().join().unwrap().trim(), "1");
    }

    #[test]
    fn a_loop_ends_after_the_turn_that_saw_stop_with_time_growing() {
        for idle in [Idle::Poll, Idle::Adaptive, Idle::Calm] {
            let (stop, clock) = (AtomicBool::new(false), Clock::start());
            let mut seen = vec![];
            run(idle, &stop, &clock, |now| {
                seen.push(now);
                stop.store(seen.len() == 200, Ordering::Relaxed);
                0
            });
            assert_eq!(seen.len(), 200);
            assert!(seen.is_sorted());
        }
    }

    #[test]
    fn a_spawned_thread_runs_on_its_core_and_returns_its_result() {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let cores = spawn("event0", core, core_affinity::get_core_ids)
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(cores.unwrap(), [core_affinity::CoreId { id: core }]);
    }
}
