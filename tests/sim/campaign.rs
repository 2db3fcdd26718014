//! Many seeds on all cores, and one that fails cut down to the events it needs.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::schedule::Schedule;

/// Plays that shortening a schedule may take.
const PLAYS_MAX: usize = 300;

/// What the environment asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// First seed.
    pub(crate) first: u64,
    seeds: u64,
    threads: usize,
}

impl Asked {
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            first: number("TWINPATH_SIM_FIRST").unwrap_or(1),
            seeds: number("TWINPATH_SIM_SEEDS").unwrap_or(100),
            threads: number("TWINPATH_SIM_THREADS").map_or(cores, |n| usize::try_from(n).unwrap()),
        }
    }

    pub(crate) fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        self.first..self.first + self.seeds
    }
}

thread_local! {
    /// What the last panic of this thread said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are kept, not printed: shortening a schedule makes hundreds.
pub(crate) fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        SAID.with(|said| *said.borrow_mut() = info.to_string())
    }));
}

/// Plays a schedule; what it violated, if it did.
pub(crate) fn violation(schedule: &Schedule) -> Option<String> {
    let played = panic::catch_unwind(AssertUnwindSafe(|| schedule.play(false)));
    played.is_err().then(|| SAID.take())
}

/// Does something with each of many on all cores; results in the order of their ends.
pub(crate) fn each<T: Sync, R: Send>(all: &[T], asked: &Asked, of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = of(one);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// Plays the seeds and says how each ended; returns those that failed.
pub(crate) fn campaign(asked: &Asked) -> Vec<u64> {
    keep_panics();
    let seeds: Vec<u64> = asked.seeds().collect();
    let failed = each(&seeds, asked, |&seed| {
        let violation = violation(&Schedule::of(seed));
        match &violation {
            Some(what) => println!("sim: seed {seed} failed: {}", what.replace('\n', " ")),
            None => println!("sim: seed {seed} holds"),
        }
        violation.map(|_| seed)
    });
    let _ = panic::take_hook();
    failed.into_iter().flatten().collect()
}

/// Plays one seed and tells what happens; when it fails, plays the shortest schedule that still does.
pub(crate) fn show(seed: u64) {
    let whole = Schedule::of(seed);
    keep_panics();
    let fails = violation(&whole).is_some();
    let shown = if fails { shortened(whole) } else { whole };
    let _ = panic::take_hook();
    if !fails {
        println!("sim: seed {seed} holds");
    } else {
        println!("sim: seed {seed} failed");
    }
    shown.play(true);
}

/// Leaves out events, many at a time first, as long as the rest still fails.
fn shortened(mut schedule: Schedule) -> Schedule {
    let mut plays = 0;
    let mut size = schedule.events().len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < schedule.events().len() && plays < PLAYS_MAX {
            let events = schedule.events();
            let less = schedule.without(&events[from..events.len().min(from + size)]);
            plays += 1;
            if violation(&less).is_some() {
                schedule = less;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    schedule
}
